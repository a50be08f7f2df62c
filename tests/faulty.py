"""Steps of the product in processes of their own, which may be killed at any moment, and what must hold after them."""

import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flows.progress import Progress
    from flows.workspace import Workspace

PROCESSES = multiprocessing.get_context("forkserver")  # its children have the imports behind them
PROCESSES.set_forkserver_preload(["tests.warm", "flows.cli", "prefect.blocks.notifications"])


@dataclass(frozen=True)
class Project:
    """A configuration, and the variables that name its stores."""

    path: Path
    environment: Mapping[str, str] = field(default_factory=dict)


def work(project: Project, step: str, said: Connection, starting: "Starting | None" = None) -> None:
    """A step of the pipeline `tiles`, in a process of its own: what came out, or the sentence of what failed."""
    import logging
    import warnings

    warnings.simplefilter("ignore")
    os.environ |= project.environment
    time.tzset()
    os.chdir(project.path.parent)
    from flows.progress import LogProgress
    from flows.workspace import open_workspace

    progress = LogProgress(logging.getLogger("quiet"))
    try:
        workspace = open_workspace(project.path)
        if starting is not None:
            starting.wait()
        said.send("begun")
        outcome = _done(workspace, step, progress)
    except Exception as error:
        said.send(("failed", str(error) or type(error).__name__))
    else:
        said.send(("done", outcome))


def _done(workspace: "Workspace", step: str, progress: "Progress") -> object:
    from flows import running

    if step == "alert":
        return running.send_alerts(workspace, progress).delivered
    if step == "train":
        return running.train(workspace, "tiles", progress).run_id
    if step == "calibrate":
        return running.calibrate(workspace, "tiles", progress).run_id
    reports = running.score(workspace, "tiles", [], progress)
    failed = [report.reason for report in reports if report.outcome == "failed"]
    if failed:
        raise RuntimeError(failed[0])
    return [report.batch for report in reports if report.outcome == "scored"]


@dataclass
class Starting:
    """A line at which processes wait for each other."""

    barrier: object

    def wait(self) -> None:
        self.barrier.wait(120)  # type: ignore[attr-defined]  # multiprocessing's types have no name for it


@dataclass
class Running:
    """A step at work, and what it says."""

    process: BaseProcess
    said: Connection

    def begun(self) -> "Running":
        """The same, once its work begins."""
        assert self.said.poll(120), "it does not begin"
        first = self.said.recv()
        assert first == "begun", first
        return self

    def killed(self) -> bool:
        """Kills it with -9; whether that met it at work."""
        self.process.kill()
        self.process.join()
        try:
            self.said.recv()  # what came out of it
            return False
        except EOFError:
            return True
        finally:
            self.said.close()

    def finished(self) -> object:
        """What came out of it."""
        outcome = self.outcome()
        self.process.join(60)
        return outcome

    def outcome(self) -> object:
        """What comes out of it; its process may still have to end."""
        assert self.said.poll(240), "it does not end"
        outcome = self.said.recv()
        self.said.close()
        assert outcome[0] == "done", outcome[1]
        return outcome[1]


def done(project: Project, step: str) -> object:
    """What came out of a step, done from its beginning to its end."""
    return started(project, step).begun().finished()


def started(project: Project, step: str, starting: Starting | None = None) -> Running:
    """A step that was started."""
    ours, theirs = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=work, args=(project, step, theirs, starting))
    process.start()
    theirs.close()
    return Running(process, ours)


def finished(project: Project, step: str) -> float:
    """A step from its beginning to its end: the seconds that it took."""
    running = started(project, step).begun()
    start = time.monotonic()
    running.outcome()
    seconds = time.monotonic() - start
    running.process.join(60)
    return seconds


def at_once(project: Project, step: str, number: int) -> list[object]:
    """What came out of so many processes that did a step at the same time."""
    starting = Starting(PROCESSES.Barrier(number))
    running = [started(project, step, starting) for _ in range(number)]
    return [each.begun().finished() for each in running]


@contextmanager
def receiver() -> Iterator[tuple[str, list[str]]]:
    """A web server on loopback: its address, and the Idempotency-Key of every alert that it received."""
    keys: list[str] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            keys.append(self.headers["Idempotency-Key"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: pytest's output is no place for it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/alerts", keys
    finally:
        server.shutdown()
        server.server_close()


def require_whole(project: Project, names: Sequence[str]) -> None:
    """Holds where each of these batches, and no other, was decided once, with one run in MLflow and one point."""
    from mlflow import MlflowClient

    from flows.workspace import open_workspace

    workspace = open_workspace(project.path, project.environment)
    history = workspace.ledger.batches.history("tiles", 10_000)
    assert Counter(record.batch for record in history) == Counter(names)
    client = MlflowClient(workspace.tracking.uri)
    experiment = client.get_experiment_by_name("reconwatch/tiles")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`reconwatch.kind` = 'batch'", max_results=10_000)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert Counter(run.info.run_id for run in runs) == Counter(record.run_id for record in history)
    assert Counter(run.data.tags["reconwatch.batch"] for run in runs) == Counter(names)
    (monitor,) = client.search_runs([experiment.experiment_id], "tags.`reconwatch.kind` = 'monitor'")
    steps = [point.step for point in client.get_metric_history(monitor.info.run_id, "flag_rate")]
    assert sorted(steps) == list(range(1, len(names) + 1))
    assert workspace.ledger.outbox.pending() == ()
    workspace.ledger.close()


def batches(inbox: Path, number: int, make: Callable[[Path, int, int], list[Path]], first: int = 0) -> list[str]:
    """Names of so many new batches in the inbox, of which every second is damaged."""
    import numpy as np
    from PIL import Image

    names = []
    for seed in range(first, first + number):
        name = f"{'damaged' if seed % 2 else 'nominal'}-{seed:05d}"
        paths = make(inbox / name, 20, 1000 + seed)
        for path in paths[:10] if seed % 2 else ():
            Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16), dtype=np.uint8)).save(path)
        names.append(name)
    return names
