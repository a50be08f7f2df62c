# Sourced by start.sh and servers.sh: the settings of .env beside this file, the workspace, and where commands are.
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

# Where a command of the virtual environment is, or else the one on the path.
command_path() {
    local own="$here/../.venv/bin/$1"
    [ -x "$own" ] || own=$(command -v "$1") || {
        echo "$1 is not installed: run 'make install' in $(pwd) first" >&2
        return 1
    }
    echo "$own"
}

export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false # background jobs of GenAI evaluation: seven processes that nothing here uses
export MLFLOW_DISABLE_TELEMETRY=true
