"""Watching inboxes: what becomes complete is acted upon within seconds, and nothing that fails ends the watch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from threading import Event
from time import monotonic

from flows.config import PathSource, PipelineConfig
from flows.folders import folder_of
from flows.inbox import InboxState
from flows.progress import Progress, time_in_words
from flows.words import reason_of

SETTLED = timedelta(seconds=2)  # without change, of a folder whose source says nothing of when it is complete
TICK = 0.5  # seconds between two looks at the clock
SOON = 1.0  # seconds until a batch that only has to settle is looked at again
OFTEN = 10.0  # seconds between two looks at stores, manifests and tables, which tell nothing of themselves
SELDOM = 60.0  # seconds between two looks at a folder that tells of its changes, as network drives may forget to
DELAYS = (5.0, 15.0, 60.0, 300.0)  # seconds until the next attempt after failures in a row
SHARE = 5  # looking takes at most one in this many seconds, however large the inbox is

Look = Callable[[PipelineConfig], InboxState]
Ready = Callable[[PipelineConfig], str]


@dataclass
class _Watched:
    """A pipeline that is watched: when it is looked at next, and what is known of it."""

    pipeline: PipelineConfig
    folder: Path | None  # tells of its changes
    next_look: float = 0.0
    not_before: float = 0.0  # after a failure, whatever happens in the folder
    failures: int = 0
    pending: set[str] = field(default_factory=set)  # batches that were there and not decided
    said: dict[str, str] = field(default_factory=dict)  # why a batch waits, without the numbers that change


def watch_inboxes(
    pipelines: Sequence[PipelineConfig],
    look: Look,
    ready: Ready,
    stop: Event,
    progress: Progress,
    each_minute: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = monotonic,
) -> None:
    """Call `ready` whenever a batch of a pipeline is due, until `stop` is set.

    Folders tell of their changes; everything else is looked at every few seconds. After a failure the pipeline waits,
    longer from failure to failure, and the others go on.

    Args:
        pipelines: those with an inbox are watched.
        look: what is in a pipeline's inbox, such as `flows.inbox.inbox_state` with `SETTLED`.
        ready: acts upon what is due; gives why that failed, or an empty text.
        stop: ends the watch, once `ready` has come back.
        progress: hears of batches that wait, that are gone, and of failures.
        each_minute: what else is due from time to time.
        clock: seconds.
    """
    watched = [_Watched(pipeline, _folder_that_tells(pipeline)) for pipeline in pipelines if pipeline.data.inbox]
    last = clock()
    for changed in _changes([one.folder for one in watched if one.folder], stop, progress):
        for one in watched:
            if one.folder is not None and any(path.is_relative_to(one.folder) for path in changed):
                one.next_look = min(one.next_look, clock())
            if not stop.is_set() and clock() >= max(one.next_look, one.not_before):
                _turn(one, look, ready, progress, clock)
        if clock() - last >= SELDOM:
            last = clock()
            _carefully(each_minute, progress)


def _turn(one: _Watched, look: Look, ready: Ready, progress: Progress, clock: Callable[[], float]) -> None:
    start = clock()
    try:
        state = look(one.pipeline)
        _say_what_waits(one, state, progress)
        took = clock() - start
        failure = ready(one.pipeline) if state.due else ""
    except Exception as error:  # whatever it is, the next look may be better
        failure, took, state = reason_of(error), 0.0, None
    if failure:
        delay = DELAYS[min(one.failures, len(DELAYS) - 1)]
        one.failures += 1
        one.next_look = clock() + delay
        one.not_before = clock() + DELAYS[0]
        progress.warn(f"{one.pipeline.name} failed, and is tried again in {time_in_words(delay)}: {failure}")
        return
    one.failures = 0
    settling = state is not None and any(waiting.settles for waiting in state.waiting)
    pause = SOON if settling else SELDOM if one.folder else OFTEN
    one.next_look = clock() + max(pause, SHARE * took)


def _say_what_waits(one: _Watched, state: InboxState, progress: Progress) -> None:
    name = one.pipeline.name
    for batch in sorted(one.pending - state.there):
        progress.warn(f"Batch {batch} of {name} was deleted before it was scored, and nothing is recorded of it.")
    for waiting in state.waiting:
        kind = waiting.reason.partition(":")[0]
        if one.said.get(waiting.batch) != kind:
            progress.say(f"Batch {waiting.batch} of {name} {waiting.reason}; it is watched.")
        one.said[waiting.batch] = kind
    one.pending = {waiting.batch for waiting in state.waiting}
    one.said = {batch: kind for batch, kind in one.said.items() if batch in one.pending}


def _folder_that_tells(pipeline: PipelineConfig) -> Path | None:
    source = pipeline.data.inbox
    if not isinstance(source, PathSource):
        return None
    folder = folder_of(source)
    return folder.resolve() if folder.is_dir() else None


def _changes(folders: Sequence[Path], stop: Event, progress: Progress) -> Iterator[set[Path]]:
    """What changed in the folders, at least every `TICK` seconds, until `stop` is set."""
    from watchfiles import watch  # a tenth of a second, and only this command needs it

    try:
        if folders:
            for changed in watch(
                *folders,
                watch_filter=None,
                debounce=200,
                rust_timeout=int(TICK * 1000),
                yield_on_timeout=True,
                stop_event=stop,
                raise_interrupt=True,
                ignore_permission_denied=True,
            ):
                yield {Path(path) for _, path in changed}
    except OSError as error:
        progress.warn(f"The folders cannot tell of their changes, and are looked at every {OFTEN:.0f} s: {error}")
    while not stop.is_set():
        yield set()
        stop.wait(TICK)


def _carefully(action: Callable[[], object], progress: Progress) -> None:
    try:
        action()
    except Exception as error:  # the next minute may be better
        progress.warn(f"What is due each minute failed: {error}")
