"""`reconwatch up`: Prefect server, MLflow server and `reconwatch serve` on this machine, begun and ended together."""

import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from ae_models.errors import InputError
from flows.children import Child, start, stop
from flows.config import Settings, load
from flows.dashboard import dashboard_command, dashboard_environment, dashboard_port
from flows.stopping import Stop, until_signal
from flows.workspace import open_workspace

LOOK_EVERY = 0.5  # seconds between two looks at the children
STARTUP = 300.0  # seconds that a server gets until it answers
SECONDS = 10.0  # that a server gets to end
STABLE = 60.0  # seconds after which an end is no longer one of starting
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Part:
    """One of the three: how it is started, where it answers, and how long it gets to end."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    health: str | None
    patience: float


@dataclass(frozen=True)
class Running:
    """A part at work, and since when."""

    part: Part
    child: Child
    since: float


def up(
    path: Path,
    environment: Mapping[str, str],
    prefect_port: int,
    grace: float,
    say: Callable[[str], None],
    complain: Callable[[str], None],
) -> None:
    """Run all three until Ctrl-C or SIGTERM, and say the two addresses once they answer.

    One that ends is started again; one that ends within a minute of its start ends them all.

    Raises:
        InputError: the file has faults, a port is taken, or a Prefect server is named already.
        RuntimeError: one of them does not stay up.
    """
    settings = load(path, environment)
    if environment.get("PREFECT_API_URL"):
        raise InputError(
            f"PREFECT_API_URL names a server already ({environment['PREFECT_API_URL']}): run 'reconwatch serve' on it, "
            "or unset it"
        )
    tracking = open_workspace(path, environment).tracking  # its tables are made by one process, before there are three
    servers = _servers(settings, environment, prefect_port, embedded=tracking.embedded)
    pages = environment.get("MLFLOW_TRACKING_URI") or ""
    mlflow = settings.dashboard if tracking.embedded else pages
    prefect = f"http://{LOOPBACK}:{prefect_port}"
    with until_signal() as stopped, _ended_together() as running:
        for part in servers:
            running.append(started(part))
        say(f"Starting Prefect and MLflow; their logs are in {settings.workspace / 'logs'}.")
        if not _all_answer(running, stopped):
            return
        running.append(started(_serve(settings, environment, prefect, grace)))
        say(f"Prefect: {prefect}\nMLflow:  {mlflow}\nFor this machine only. Ctrl-C stops all of it.")
        while not stopped:
            stopped.wait(LOOK_EVERY)
            for place, one in enumerate(running):
                if one.child.ended() is not None and not stopped:
                    running[place] = started_again(one, complain)
        say("Stopping.")


def _servers(
    settings: Settings, environment: Mapping[str, str], prefect_port: int, *, embedded: bool
) -> Iterator[Part]:
    logs = settings.workspace / "logs"
    port = dashboard_port(settings)
    _require_free(prefect_port, "Prefect", "--prefect-port takes another")
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", LOOPBACK, "--port", str(prefect_port)]
    url = f"http://{LOOPBACK}:{prefect_port}/api"
    variables = {**environment, **_home(settings, environment), "PREFECT_API_URL": url}
    prefect = Part("Prefect server", command, variables, logs / "prefect.log", f"{url}/health", SECONDS)
    if not embedded:
        return iter([prefect])
    _require_free(port, "MLflow", "write another into 'dashboard' of pipelines.yaml")
    mlflow = Part(
        "MLflow server",
        dashboard_command(settings, port, None),
        dashboard_environment(environment),
        logs / "mlflow.log",
        f"http://{LOOPBACK}:{port}/health",
        SECONDS,
    )
    return iter([prefect, mlflow])


def _serve(settings: Settings, environment: Mapping[str, str], prefect: str, grace: float) -> Part:
    command = [sys.executable, "-m", "flows.cli", "serve", "--config", str(settings.path), "--grace", str(grace)]
    variables = {**environment, **_home(settings, environment), "PREFECT_API_URL": f"{prefect}/api"}
    return Part("serve", command, variables, settings.workspace / "logs" / "serve.log", None, grace + 60)


def _home(settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """Prefect's database in the workspace, unless its own variables say where."""
    named = {"PREFECT_HOME", "PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL"}
    return {} if named & set(environment) else {"PREFECT_HOME": str(settings.workspace / "prefect")}


def _require_free(port: int, whose: str, instead: str) -> None:
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((LOOPBACK, port))
    except OSError as error:
        why = error.strerror or error
        raise InputError(f"port {port} of {LOOPBACK} is not free for {whose} ({why}): {instead}") from None


def started(part: Part) -> Running:
    """The part, at work from now on."""
    return Running(part, start(part.name, part.command, part.environment, part.log, part.patience), monotonic())


def _all_answer(running: Sequence[Running], stopped: Stop) -> bool:
    """Wait until all do; False where a signal came first."""
    for one in running:
        while not stopped and one.part.health and not _answers(one.part.health):
            if (code := one.child.ended()) is not None:
                raise RuntimeError(f"{one.part.name} ended with code {code} before it answered: {_last_words(one)}")
            if monotonic() - one.since > STARTUP:
                raise RuntimeError(f"{one.part.name} does not answer after {STARTUP:g} s: see {one.part.log}")
            stopped.wait(LOOK_EVERY)
    return not stopped


def _answers(url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback needs no proxy
    try:
        with direct.open(url, timeout=2):
            return True
    except (OSError, ValueError):
        return False


def started_again(one: Running, complain: Callable[[str], None]) -> Running:
    """The part that ended, started again; raises RuntimeError where it had only just been started."""
    code = one.child.ended()
    if monotonic() - one.since < STABLE:
        raise RuntimeError(f"{one.part.name} ended with code {code} soon after its start: {_last_words(one)}")
    complain(f"{one.part.name} ended with code {code} and is started again; its log is {one.part.log}")
    stop(one.child)  # what it left behind
    return started(one.part)


def _last_words(one: Running) -> str:
    lines = one.part.log.read_text(errors="replace").strip().splitlines()
    return f"{lines[-1].strip() if lines else 'it said nothing'} (all of it: {one.part.log})"


@contextmanager
def _ended_together() -> Iterator[list[Running]]:
    """Whatever is put into the list is ended, the last first, however the block ends."""
    running: list[Running] = []
    try:
        yield running
    finally:
        for one in reversed(running):
            stop(one.child)
