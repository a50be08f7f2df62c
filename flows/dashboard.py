"""The MLflow dashboard on the stores of a configuration."""

import subprocess
import sys
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from ae_models.errors import InputError
from flows.config import Settings


def serve_dashboard(
    settings: Settings, port: int | None, environment: Mapping[str, str], say: Callable[[str], None]
) -> None:
    """Serve the embedded store on 127.0.0.1 until Ctrl-C.

    Raises:
        InputError: there is no embedded store yet, or MLFLOW_TRACKING_URI names a server that has a dashboard already.
    """
    uri = environment.get("MLFLOW_TRACKING_URI")
    if uri and uri.startswith("http"):
        raise InputError(f"MLFLOW_TRACKING_URI names a server, and its dashboard is there already: open {uri}")
    store = settings.workspace / "mlflow.db"
    if not uri and not store.exists():
        raise InputError(f"there is nothing to show in {settings.workspace} yet: run 'reconwatch run' first")
    port = port or urlsplit(settings.dashboard).port or 5000
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", uri or f"sqlite:///{store}", "--workers", "1"]
    command += ["--default-artifact-root", (settings.workspace / "artifacts").as_uri()]
    address = f"http://127.0.0.1:{port}/#/experiments?workflowType=machine_learning"
    say(f"In half a minute the dashboard is at {address} for this machine only. Ctrl-C stops it.")
    server = subprocess.Popen(command, env={**environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})
    try:
        code = server.wait()
    except KeyboardInterrupt:
        server.terminate()
        server.wait()
        return
    if code:
        raise RuntimeError(f"the MLflow server ended with code {code}: is port {port} free? (--port takes another)")
