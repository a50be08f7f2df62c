#!/usr/bin/env bash
# Serves MLflow on the stores of a workspace until it is stopped. Settings: .env beside this file (see .env.example).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# Read, not sourced: a value is no command, and a variable of the shell wins, as in Docker Compose.
if [ -f "$here/.env" ]; then
    while IFS='=' read -r name value || [ -n "$name" ]; do
        [[ $name =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] || continue
        [ -n "${!name+set}" ] || export "$name=$value"
    done <"$here/.env"
fi

cd "$here/.." # so that a relative workspace means the same from everywhere
mkdir -p "${RECONWATCH_WORKSPACE:-.reconwatch}"
workspace=$(cd "${RECONWATCH_WORKSPACE:-.reconwatch}" && pwd)

mlflow="$here/../.venv/bin/mlflow"
[ -x "$mlflow" ] || mlflow=$(command -v mlflow) || {
    echo "MLflow is not installed: run 'make install' in $(pwd) first" >&2
    exit 1
}

export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false # background jobs of GenAI evaluation: seven processes that nothing here uses
export MLFLOW_DISABLE_TELEMETRY=true

exec "$mlflow" server \
    --backend-store-uri "${MLFLOW_BACKEND_STORE_URI:-sqlite:///$workspace/mlflow.db}" \
    --artifacts-destination "${MLFLOW_ARTIFACTS_DESTINATION:-$workspace/artifacts}" \
    --host "${MLFLOW_HOST:-127.0.0.1}" \
    --port "${MLFLOW_PORT:-5000}" \
    --allowed-hosts "${MLFLOW_SERVER_ALLOWED_HOSTS:-localhost:*,127.0.0.1:*}" \
    --workers 1
