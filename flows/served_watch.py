"""The watch of `reconwatch serve`: whoever has `schedule.watch` gets a run as soon as a batch of it is complete."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from threading import Event, Thread
from time import monotonic

from flows.config import PipelineConfig, Settings
from flows.inbox import InboxState, inbox_state
from flows.ledger import Ledger, open_ledger
from flows.progress import Progress
from flows.watching import SETTLED, watch_inboxes

AGAIN_EVERY = 300.0  # seconds after which a batch that is still due is wished for again: its run failed
PATIENCE = 10.0  # seconds that a watch gets to end

Wish = Callable[[str], object]


@dataclass
class DueWatch:
    """Wishes for a run once for each batch that becomes due, and every five minutes while it stays due."""

    settings: Settings
    environment: Mapping[str, str]
    wish: Wish
    progress: Progress
    clock: Callable[[], float] = monotonic
    due: dict[str, frozenset[tuple[str, str]]] = field(default_factory=dict)  # batches and their state, by pipeline
    wished: dict[str, frozenset[tuple[str, str]]] = field(default_factory=dict)
    wished_at: dict[str, float] = field(default_factory=dict)

    @cached_property
    def _ledger(self) -> Ledger:
        return open_ledger(self.settings.workspace, self.environment)

    def look(self, pipeline: PipelineConfig) -> InboxState:
        """What is in the pipeline's inbox."""
        state = inbox_state(pipeline, self._ledger, self.progress, SETTLED)
        self.due[pipeline.name] = frozenset((batch.id, batch.stat_hash()) for batch in state.due)
        self.wished[pipeline.name] = self.wished.get(pipeline.name, frozenset()) & self.due[pipeline.name]
        return state

    def ready(self, pipeline: PipelineConfig) -> str:
        """Wish for a run where something is new among what is due; that never fails."""
        name, now = pipeline.name, self.clock()
        if self.due[name] - self.wished[name] or now - self.wished_at[name] >= AGAIN_EVERY:
            self.wish(name)
            self.wished[name], self.wished_at[name] = self.due[name], now
        return ""

    def close(self) -> None:
        """Let go of the ledger."""
        if "_ledger" in self.__dict__:
            self._ledger.close()


@dataclass
class Watcher:
    """A thread that watches the pipelines of the file that are to be watched, begun anew when these change."""

    environment: Mapping[str, str]
    wish: Wish
    progress: Progress
    pipelines: tuple[PipelineConfig, ...] = ()
    _stop: Event = field(default_factory=Event)
    _thread: Thread | None = None

    def follow(self, settings: Settings) -> None:
        """Watch what the file now says is watched; a watch of just that goes on."""
        pipelines = watched_pipelines(settings)
        if pipelines == self.pipelines:
            return
        self.stop()
        self.pipelines = pipelines
        if pipelines:
            self._stop = Event()
            self._thread = Thread(target=self._watch, args=(settings, pipelines, self._stop), daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Watch nothing any more; a look at a store that hangs is not waited for."""
        self.pipelines = ()
        self._stop.set()
        if self._thread is not None:
            self._thread.join(PATIENCE)
            self._thread = None

    def _watch(self, settings: Settings, pipelines: tuple[PipelineConfig, ...], stop: Event) -> None:
        watch = DueWatch(settings, self.environment, self.wish, self.progress)
        try:
            watch_inboxes(pipelines, watch.look, watch.ready, stop, self.progress)
        finally:
            watch.close()


def watched_pipelines(settings: Settings) -> tuple[PipelineConfig, ...]:
    """Those with `schedule.watch` and an inbox."""
    return tuple(
        pipeline for pipeline in settings.pipelines.values() if pipeline.schedule.watch and pipeline.data.inbox
    )
