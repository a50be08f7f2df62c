-- For psql, by who may create databases: one for MLflow's runs, one for its users, one for Prefect, one for the ledger.
-- To run it again changes nothing.
SELECT format('CREATE DATABASE %I', name)
FROM unnest(ARRAY ['mlflow', 'mlflow_auth', 'prefect', 'reconwatch']) AS name
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = name)
\gexec
