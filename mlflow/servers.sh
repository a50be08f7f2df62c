#!/usr/bin/env bash
# What compose.yaml starts, on a machine without Docker: MLflow with a login and Prefect, both on a PostgreSQL server that
# is there, pictures and models in an S3-compatible store that is there. Settings: .env beside this file (see .env.example).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
missing=()
for name in POSTGRES_HOST POSTGRES_PASSWORD MLFLOW_ARTIFACTS_DESTINATION MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY; do
    [ -n "${!name:-}" ] || missing+=("$name")
done
[ ${#missing[@]} = 0 ] || { echo "set ${missing[*]} in $here/.env (see .env.example)" >&2; exit 1; }
if ! [[ $POSTGRES_PASSWORD =~ ^[A-Za-z0-9_-]+$ ]]; then
    echo "POSTGRES_PASSWORD becomes part of addresses: take letters and digits only, such as from 'openssl rand -hex 16'" >&2
    exit 1
fi

mlflow=$(command_path mlflow)
prefect=$(command_path prefect)
psql=$(command -v psql) || { echo "psql is not installed: install PostgreSQL's client (Debian: postgresql-client)" >&2; exit 1; }

user="${POSTGRES_USER:-reconwatch}"
database="$user:$POSTGRES_PASSWORD@$POSTGRES_HOST:${POSTGRES_PORT:-5432}"

# One database each: MLflow's runs, MLflow's users, Prefect, and the ledger. What is there stays as it is.
PGPASSWORD=$POSTGRES_PASSWORD "$psql" --quiet --no-psqlrc --set ON_ERROR_STOP=1 --host "$POSTGRES_HOST" \
    --port "${POSTGRES_PORT:-5432}" --username "$user" --dbname postgres --file "$here/databases.sql"

# The address of the users' database has no variable of its own; only this file, which only its owner may read. Without the
# cache each request would hash its password, which takes MLflow longer than most requests.
settings="$workspace/mlflow-auth.ini"
(
    umask 077
    rm -f "$settings"
    cat >"$settings" <<INI
[mlflow]
default_permission = EDIT
database_uri = postgresql+psycopg://$database/mlflow_auth
admin_username = ${MLFLOW_AUTH_ADMIN_USERNAME:-admin}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
INI
)

# Secrets go as variables and not as options: options are seen by all users of the machine.
export MLFLOW_AUTH_CONFIG_PATH="$settings"
export MLFLOW_BACKEND_STORE_URI="postgresql+psycopg://$database/mlflow"
export PREFECT_API_DATABASE_CONNECTION_URL="postgresql+asyncpg://$database/prefect"
export PREFECT_SERVER_ANALYTICS_ENABLED=false DO_NOT_TRACK=1

"$mlflow" server \
    --app-name basic-auth \
    --artifacts-destination "$MLFLOW_ARTIFACTS_DESTINATION" \
    --host "${MLFLOW_HOST:-127.0.0.1}" \
    --port "${MLFLOW_PORT:-5000}" \
    --allowed-hosts "${MLFLOW_SERVER_ALLOWED_HOSTS:-localhost:*,127.0.0.1:*}" \
    --workers "${MLFLOW_WORKERS:-2}" &
servers=($!)
"$prefect" server start --host "${PREFECT_HOST:-127.0.0.1}" --port "${PREFECT_PORT:-4200}" &
servers+=($!)

stop() {
    trap - TERM INT
    kill "${servers[@]}" 2>/dev/null || true
    wait "${servers[@]}" 2>/dev/null || true
}
trap 'stop; exit 0' TERM INT
echo "MLflow: http://${MLFLOW_HOST:-127.0.0.1}:${MLFLOW_PORT:-5000}   Prefect: http://${PREFECT_HOST:-127.0.0.1}:${PREFECT_PORT:-4200}"

wait -n || true # one of them ended: the other alone is of no use
echo "one of the servers ended; its reason stands above" >&2
stop
exit 1
