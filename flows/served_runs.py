"""The flow runs that `reconwatch serve` starts, one process each: started, watched, cancelled, and ended with it.

Prefect's own limits on deployments are not used: their leases live in the server's memory, so that a server that is
started anew leaves a place taken for ever, and they end a run whose server is away for a while.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import SimpleQueue
from time import monotonic, sleep
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State
from prefect.client.schemas.responses import FlowRunResponse, SetStateStatus
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Crashed, Pending, Scheduled

from flows.deployments import FLOWS, Wanted, runs_at_work
from flows.turns import is_taken

SILENT = timedelta(minutes=2)  # how long a run without a process may be about to start
PATIENCE = 30.0  # seconds that a cancelled run gets before it is killed
SOON = 0.1  # seconds between two looks at a process that is to end


@dataclass
class ServedRuns:
    """The runs of one `reconwatch serve`: `processes` by flow run, at most `limit` at once."""

    client: SyncPrefectClient
    workspace: Path
    say: Callable[[str], None]
    limit: int
    deployments: Mapping[UUID, Wanted] = field(default_factory=dict)
    wishes: "SimpleQueue[str]" = field(default_factory=SimpleQueue)  # pipelines to score now, from any thread
    processes: dict[UUID, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    works: dict[UUID, tuple[str, str]] = field(default_factory=dict)  # pipeline and work of each process
    cancelled_at: dict[UUID, float] = field(default_factory=dict)

    def start_wished(self, now: datetime) -> None:
        """Make a run now for each pipeline whose name was put into `wishes`, by whoever saw a batch arrive.

        One that waits already does for several; while one is at work, it waits for its turn, as the batch may have come
        too late for that one.
        """
        wished = set[str]()
        while not self.wishes.empty():
            wished.add(self.wishes.get())
        try:
            for identifier, wanted in self.deployments.items():
                if wanted.work == "score" and wanted.pipeline in wished:
                    waiting = self.client.get_scheduled_flow_runs_for_deployments([identifier], scheduled_before=now)
                    if not waiting:
                        self.client.create_flow_run_from_deployment(identifier)
        except httpx.HTTPError:
            for name in wished:  # a server that is away for a while loses none
                self.wishes.put(name)
            raise

    def start_due(self, now: datetime) -> None:
        """Start what is due, one run at a time of each deployment.

        Of scheduled runs the newest is started, and those that would only repeat it are skipped; what people started
        themselves waits for its turn.
        """
        due = self.client.get_scheduled_flow_runs_for_deployments(list(self.deployments), scheduled_before=now)
        for identifier, wanted in self.deployments.items():
            runs = [run for run in due if run.deployment_id == identifier]
            runs.sort(key=lambda run: run.next_scheduled_start_time or now)
            if runs:
                self._start_one(wanted, runs)

    def _start_one(self, wanted: Wanted, runs: Sequence[FlowRunResponse]) -> None:
        scheduled = [run for run in runs if run.auto_scheduled]
        by_hand = [run for run in runs if not run.auto_scheduled]
        if self._is_at_work(wanted):
            for run in scheduled:
                self._skip(run, f"the run before is still at work on {wanted.pipeline}, and does what is due")
            return
        if len(self.processes) >= self.limit:
            return
        for run in scheduled[: None if by_hand else -1]:
            self._skip(run, "a later run does what is due")
        self._start(wanted, (by_hand or scheduled[-1:])[0])

    def _is_at_work(self, wanted: Wanted) -> bool:
        ours = (wanted.pipeline, FLOWS[wanted.work].name)
        return ours in self.works.values() or is_taken(self.workspace, *ours)

    def _start(self, wanted: Wanted, run: FlowRunResponse) -> None:
        if not self._set(run.id, Pending()):
            return  # somebody cancelled, took or deleted it meanwhile
        command = [sys.executable, "-m", "prefect.engine"]
        environment = {**os.environ, "PREFECT__FLOW_RUN_ID": str(run.id)}
        # A session of its own: Ctrl-C in a terminal reaches serve alone, which then decides.
        self.processes[run.id] = subprocess.Popen(command, env=environment, start_new_session=True)
        self.works[run.id] = (wanted.pipeline, FLOWS[wanted.work].name)

    def _skip(self, run: FlowRunResponse, why: str) -> None:
        self._set(run.id, Cancelled(name="Skipped", message=f"Skipped: {why}."), force=True)

    def _set(self, identifier: UUID, state: State, force: bool = False) -> bool:
        """Whether the run has that state now; a run that was deleted has none."""
        try:
            return self.client.set_flow_run_state(identifier, state, force).status == SetStateStatus.ACCEPT
        except ObjectNotFound:
            return False

    def reap(self) -> None:
        """Let go of the processes that ended, and say of their runs what they could not say themselves."""
        for identifier, process in list(self.processes.items()):
            if (code := process.poll()) is None:
                continue
            self._settle(identifier, Crashed(message=f"Its process ended with code {code} and said nothing."))
            del self.processes[identifier], self.works[identifier]
            self.cancelled_at.pop(identifier, None)

    def _settle(self, identifier: UUID, state: State) -> None:
        """Give a run that Prefect believes to be at work its last state."""
        try:
            known = self.client.read_flow_run(identifier).state
        except ObjectNotFound:
            return
        if known is not None and known.is_cancelling():
            state = Cancelled(message="Cancelled by hand.")
        if known is None or not known.is_final():
            self._set(identifier, state, force=True)

    def cancel_wished(self) -> None:
        """End the processes of runs that people cancelled: by SIGTERM, and by SIGKILL where that does not help."""
        if not self.processes:
            return
        ours = FlowRunFilter(id=FlowRunFilterId(any_=list(self.processes)))
        for run in self.client.read_flow_runs(flow_run_filter=ours):
            if run.state is None or not (run.state.is_cancelling() or run.state.is_cancelled()):
                continue
            since = self.cancelled_at.setdefault(run.id, monotonic())
            _signal(self.processes[run.id], signal.SIGKILL if monotonic() - since > PATIENCE else signal.SIGTERM)

    def clear_silent(self, now: datetime) -> None:
        """Call runs crashed that Prefect believes to be at work and that no living process has; they block nothing."""
        for run in runs_at_work(self.deployments, self.client):
            wanted = self.deployments.get(run.deployment_id) if run.deployment_id else None
            since = run.state.timestamp if run.state else None
            if wanted is None or run.id in self.processes or since is None or now - since < SILENT:
                continue
            if not is_taken(self.workspace, wanted.pipeline, FLOWS[wanted.work].name):
                self.say(f"The run {run.name} has no process any more: Prefect now says so.")
                self._settle(run.id, Crashed(message="Its process is gone, and said nothing."))

    def finish(self, seconds: float, hurried: Callable[[], bool]) -> None:
        """Wait for the runs at work; what is still there after that time is stopped, and handed back to be started
        again by the next serve."""
        deadline = monotonic() + seconds
        while self.processes and monotonic() < deadline and not hurried():
            with suppress(httpx.HTTPError):
                self.reap()
            sleep(SOON)
        for process in self.processes.values():
            _signal(process, signal.SIGTERM)
        deadline = monotonic() + PATIENCE
        for identifier, process in self.processes.items():
            _wait(process, deadline)
            self._hand_back(identifier)

    def _hand_back(self, identifier: UUID) -> None:
        again: State = Scheduled(scheduled_time=datetime.now(UTC), name="HandedBack")
        try:
            known = self.client.read_flow_run(identifier).state
            if known is not None and known.is_final() and not known.is_crashed():
                return  # it was done, and its process only slow to end
            self._set(identifier, again, force=True)
        except (httpx.HTTPError, ObjectNotFound):
            return  # the next serve finds a run without a process
        self.say("A run was still at work: it was stopped, and the next 'reconwatch serve' starts it again.")


def _signal(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    if process.poll() is None:
        os.killpg(process.pid, number)


def _wait(process: "subprocess.Popen[bytes]", deadline: float) -> None:
    try:
        process.wait(max(deadline - monotonic(), SOON))
    except subprocess.TimeoutExpired:
        _signal(process, signal.SIGKILL)
        process.wait()
