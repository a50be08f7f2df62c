"""`reconwatch serve`: pipelines on their schedules, as Prefect deployments that follow pipelines.yaml."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

import httpx
from filelock import FileLock, Timeout
from prefect.client.orchestration import SyncPrefectClient, get_client

from ae_models.errors import InputError
from flows.config import Settings, load
from flows.deployments import Changes, Place, bring_about, wanted_deployments
from flows.prefect_server import find_server
from flows.progress import terminal_or_log
from flows.served_runs import ServedRuns
from flows.served_watch import Watcher, watched_pipelines
from flows.stopping import until_signal
from flows.words import reason_of

EVERY = 2.0  # seconds between two looks at the file and the server
SWEEP_EVERY = 60.0  # seconds between two looks for runs without a process
AGAIN_EVERY = 600.0  # seconds after which what is still wrong is said again

Say = Callable[[str], None]


@dataclass
class Complaint:
    """Something that is wrong for a while: said when it begins or changes, every ten minutes, and when it ends."""

    complain: Say
    say: Say
    sentence: str = ""
    said_at: float = 0.0

    def is_wrong(self, sentence: str) -> None:
        """Say it, unless it was just said."""
        if sentence != self.sentence or monotonic() - self.said_at > AGAIN_EVERY:
            self.complain(sentence)
            self.sentence, self.said_at = sentence, monotonic()

    def is_right(self, sentence: str) -> None:
        """Say that it is over, where it was wrong."""
        if self.sentence:
            self.say(sentence)
            self.sentence = ""


@dataclass
class Following:
    """The configuration file as it was last good, and what it looked like when it was last read."""

    path: Path
    environment: Mapping[str, str]
    complaint: Complaint
    seen: tuple[int, ...] = ()
    settings: Settings | None = None
    pending: bool = field(default=False)  # whether the server does not know of it yet

    def look(self) -> None:
        """Read the file where it changed; one with faults is said, and the last good one goes on."""
        seen = _signature(self.path)
        if seen == self.seen:
            if self.complaint.sentence:
                self.complaint.is_wrong(self.complaint.sentence)
            return
        try:
            self.settings = load(self.path, self.environment)
        except InputError as error:
            self.complaint.is_wrong(
                f"{error}\nThe schedules of the last good {self.path.name} go on; correct the file."
            )
        else:
            self.complaint.is_right(f"{self.path.name} is in order again.")
            self.pending = True
        self.seen = seen


def serve(
    path: Path,
    environment: Mapping[str, str],
    say: Say,
    complain: Say,
    *,
    grace: float = 60.0,
    limit: int | None = None,
) -> None:
    """Serve every pipeline of the file on its schedules until SIGTERM or Ctrl-C.

    Runs under way then have `grace` seconds to finish; what is left is handed back. A second signal does not wait.

    Raises:
        InputError: the file has faults, no Prefect server answers, or another serve has the workspace.
    """
    following = Following(path, environment, Complaint(complain, say), _signature(path), load(path, environment), True)
    settings = following.settings
    assert settings is not None
    server = find_server(environment)
    if server.url is None:
        raise InputError(
            f"'reconwatch serve' needs a Prefect server, and {server.reason}: start one (prefect server start) and "
            "export PREFECT_API_URL, or let 'reconwatch up' start both"
        )
    with _alone(settings.workspace), get_client(sync_client=True) as client, until_signal() as stopped:
        runs = ServedRuns(client, settings.workspace, say, limit or os.cpu_count() or 1)
        watcher = Watcher(environment, runs.wishes.put, terminal_or_log())
        away = Complaint(complain, say)
        swept = monotonic() - SWEEP_EVERY
        place = Place(str(settings.path), str(settings.path))
        while not stopped:
            following.look()
            try:
                if following.pending and following.settings:
                    _follow(following.settings, place, runs, client, say)
                    watcher.follow(following.settings)
                    following.pending = False
                if monotonic() - swept >= SWEEP_EVERY:
                    runs.clear_silent(datetime.now(UTC))
                    swept = monotonic()
                runs.cancel_wished()
                runs.reap()
                runs.start_wished(datetime.now(UTC))
                runs.start_due(datetime.now(UTC))
                away.is_right("The Prefect server answers again.")
            except httpx.HTTPError as error:
                why = reason_of(error)
                away.is_wrong(
                    f"The Prefect server does not answer ({why}); runs under way go on, and it is asked again."
                )
            except InputError as error:
                following.complaint.is_wrong(str(error))
                following.pending = False
            stopped.wait(EVERY)
        watcher.stop()
        if runs.processes:
            say(f"Waiting up to {grace:g} s for {len(runs.processes)} runs under way; a second signal does not wait.")
        runs.finish(grace, stopped.hurries)


def _follow(settings: Settings, place: Place, runs: ServedRuns, client: SyncPrefectClient, say: Say) -> None:
    changes: Changes = bring_about(wanted_deployments(settings), place, client)
    runs.deployments = changes.ids
    for sentence in changes.sentences():
        say(sentence)
    scheduled = sum(1 for wanted in changes.ids.values() if wanted.schedule)
    watched = len(watched_pipelines(settings))
    say(
        f"Serving {len(settings.pipelines)} pipelines of {settings.path}: {scheduled} schedules"
        f"{f', {watched} watched' if watched else ''}."
    )


def _signature(path: Path) -> tuple[int, ...]:
    """What changes with the file; empty where it is not there."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


@contextmanager
def _alone(workspace: Path) -> Iterator[None]:
    """One serve at a time in a workspace: two would start every run twice."""
    workspace.mkdir(parents=True, exist_ok=True)
    lock = FileLock(workspace / "serve.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"another 'reconwatch serve' is at work in {workspace}: it follows the file by itself, or stop it first"
        ) from None
    try:
        yield
    finally:
        lock.release()
