#!/usr/bin/env bash
# Serves MLflow on the stores of a workspace until it is stopped. Settings: .env beside this file (see .env.example).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
mlflow=$(command_path mlflow)

# The database as a variable and no option: options, passwords among them, are seen by all users of the machine.
export MLFLOW_BACKEND_STORE_URI="${MLFLOW_BACKEND_STORE_URI:-sqlite:///$workspace/mlflow.db}"

exec "$mlflow" server \
    --artifacts-destination "${MLFLOW_ARTIFACTS_DESTINATION:-$workspace/artifacts}" \
    --host "${MLFLOW_HOST:-127.0.0.1}" \
    --port "${MLFLOW_PORT:-5000}" \
    --allowed-hosts "${MLFLOW_SERVER_ALLOWED_HOSTS:-localhost:*,127.0.0.1:*}" \
    --workers 1
