"""`reconwatch run --watch`: what is due now, and then whatever becomes due, until it is stopped."""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event
from types import FrameType
from typing import TYPE_CHECKING

from flows.terminal import say

if TYPE_CHECKING:
    from flows.config import PipelineConfig
    from flows.progress import Progress
    from flows.running import RunReport
    from flows.workspace import Workspace


def watch(path: Path, names: Sequence[str], progress: "Progress", show: "Callable[[RunReport], None]") -> None:
    """Do whatever is due for the pipelines, again and again, until SIGTERM or Ctrl-C; `show` is given each report.

    A batch that is being scored is finished first; a second signal leaves it at once, and it stays due.
    """
    from flows import running
    from flows.inbox import inbox_state
    from flows.watching import SETTLED, watch_inboxes
    from flows.workspace import open_workspace

    workspace = open_workspace(path)
    pipelines = [workspace.settings.pipeline(name) for name in names]
    with _until_stopped() as stop:
        ready = partial(_run, workspace, progress, stop, show)
        for pipeline in pipelines:  # what has to be trained and calibrated does not wait for the first batch
            if failure := "" if stop.is_set() else ready(pipeline):
                progress.warn(f"{pipeline.name} failed: {failure}")
        say(f"Watching {', '.join(names)}: stop with Ctrl-C or SIGTERM.")
        watch_inboxes(
            pipelines,
            lambda pipeline: inbox_state(pipeline, workspace.ledger, progress, SETTLED),
            ready,
            stop,
            progress,
            lambda: running.tell(workspace, progress),
        )
    say("Stopped.")


def _run(
    workspace: "Workspace",
    progress: "Progress",
    stop: Event,
    show: "Callable[[RunReport], None]",
    pipeline: "PipelineConfig",
) -> str:
    """Run what is due for a pipeline; why that failed, or an empty text."""
    from flows import running
    from flows.watching import SETTLED

    report = running.run(workspace, pipeline.name, progress, settled=SETTLED, stopped=stop.is_set)
    show(report)
    return report.failure or running.failures(report.batches)


@contextmanager
def _until_stopped() -> Iterator[Event]:
    """An event that SIGTERM and Ctrl-C set; the second signal interrupts."""
    stop = Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        say("Stopping after what is under way; once more stops at once.")

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
