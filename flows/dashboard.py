"""The MLflow dashboard on the stores of a configuration."""

import sys
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from ae_models.errors import InputError
from flows.children import start, stop
from flows.config import Settings
from flows.stopping import until_signal

SECONDS = 10.0  # that the server gets to end
LOOK_EVERY = 0.5  # seconds


def serve_dashboard(
    settings: Settings, port: int | None, environment: Mapping[str, str], say: Callable[[str], None]
) -> None:
    """Serve the embedded store on 127.0.0.1 until Ctrl-C or SIGTERM; the server ends with us, and its own children too.

    Raises:
        InputError: there is no embedded store yet, or MLFLOW_TRACKING_URI names a server that has a dashboard already.
    """
    uri = environment.get("MLFLOW_TRACKING_URI")
    if uri and uri.startswith("http"):
        raise InputError(f"MLFLOW_TRACKING_URI names a server, and its dashboard is there already: open {uri}")
    if not uri and not (settings.workspace / "mlflow.db").exists():
        raise InputError(f"there is nothing to show in {settings.workspace} yet: run 'reconwatch run' first")
    port = port or dashboard_port(settings)
    address = f"http://127.0.0.1:{port}/#/experiments?workflowType=machine_learning"
    say(f"In half a minute the dashboard is at {address} for this machine only. Ctrl-C stops it.")
    with until_signal() as stopped:
        command = dashboard_command(settings, port, uri)
        server = start("the MLflow server", command, dashboard_environment(environment), patience=SECONDS)
        try:
            while not stopped and server.ended() is None:
                stopped.wait(LOOK_EVERY)
            code = server.ended()
        finally:
            stop(server)
    if code:
        raise RuntimeError(f"the MLflow server ended with code {code}: is port {port} free? (--port takes another)")


def dashboard_port(settings: Settings) -> int:
    """The port of the addresses that runs and alerts lead to."""
    return urlsplit(settings.dashboard).port or 5000


def dashboard_command(settings: Settings, port: int, uri: str | None) -> list[str]:
    """What starts the server, on loopback."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", uri or f"sqlite:///{settings.workspace / 'mlflow.db'}", "--workers", "1"]
    return [*command, "--default-artifact-root", (settings.workspace / "artifacts").as_uri()]


def dashboard_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What the server is told: no jobs, whose seven processes nobody needs."""
    return {**environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
