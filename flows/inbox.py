"""What waits in a pipeline's inbox: the batches that are due, in their order, and those that are not complete yet."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from flows.completeness import SETTLING, still_arriving
from flows.config import PipelineConfig
from flows.fence import Fence
from flows.folders import loose_files
from flows.items import KEPT_BYTES, Batch
from flows.ledger import Ledger, utc_now
from flows.progress import Progress
from flows.sources import inbox_batches

LINKED_OUT = "is a link that leads out of the inbox (set data.allow_outside: true where that is meant)"

ATTEMPTS = 3  # after which a batch that was never finished is left for last


@dataclass(frozen=True)
class Waiting:
    """A batch that is in the inbox and not due, and why: the rest of a sentence that begins with its name."""

    batch: str
    reason: str

    @property
    def settles(self) -> bool:
        """Whether time alone makes it complete."""
        return self.reason.startswith(SETTLING)


@dataclass(frozen=True)
class InboxState:
    """The batches that are due, in the order in which they are scored, those that have to wait, and all names."""

    due: tuple[Batch, ...]
    waiting: tuple[Waiting, ...]
    there: frozenset[str] = frozenset()


def inbox_state(
    pipeline: PipelineConfig,
    ledger: Ledger,
    progress: Progress,
    settled: timedelta | None = None,
    now: Callable[[], datetime] = utc_now,
    keep: int = 0,
) -> InboxState:
    """What no version has decided yet; nothing that is not complete is read.

    `settled` is how long a folder without `settled` or `marker` has to be left alone. So many bytes of what is read are
    kept for who scores it.

    Raises:
        InputError: there is no inbox, or it cannot be read.
        SourceUnavailable: the store or database that it is in does not answer.
    """
    data, complete, waiting = pipeline.data, [], []
    batches = inbox_batches(data)
    source = data.inbox
    assert source is not None
    for batch in batches:
        if _is_linked_out(batch, pipeline):
            waiting.append(Waiting(batch.id, LINKED_OUT))
        elif reason := still_arriving(batch, source, now(), settled):
            waiting.append(Waiting(batch.id, reason))
        elif not batch.items:
            waiting.append(Waiting(batch.id, "is empty so far"))
        else:
            complete.append(batch)
    due = in_order(_undecided(pipeline, complete, ledger, progress, keep), data.order)
    return InboxState(due, tuple(waiting), frozenset(batch.id for batch in batches))


def due_batches(
    pipeline: PipelineConfig, ledger: Ledger, progress: Progress, settled: timedelta | None = None
) -> tuple[Batch, ...]:
    """The batches of the inbox that no version has decided yet, in their order; those that have to wait are said.

    `settled` is that of `inbox_state`, where they are watched: there those that wait are said once.
    """
    if stray := loose_files(pipeline.data):
        progress.warn(
            f"{len(stray)} files lie in the inbox itself and belong to no batch, such as {stray[0]}: put them into a "
            "subfolder of it"
        )
    state = inbox_state(pipeline, ledger, progress, settled, keep=KEPT_BYTES)
    for waiting in state.waiting if settled is None else ():
        progress.say(f"Batch {waiting.batch} of {pipeline.name} {waiting.reason}, and is left for later.")
    return _stubborn_last(pipeline, state.due, ledger, progress)


def _stubborn_last(
    pipeline: PipelineConfig, due: tuple[Batch, ...], ledger: Ledger, progress: Progress
) -> tuple[Batch, ...]:
    """The batches, with those at the end that every process so far died of: they keep no other one waiting."""
    stubborn = ledger.batches.begun_in_vain(pipeline.name, ATTEMPTS)
    if not stubborn:
        return due
    return tuple(sorted(due, key=lambda batch: known_manifest(pipeline, batch, ledger, progress) in stubborn))


def backfilled(pipeline: str) -> str:
    """The name under which the ledger keeps a pipeline's backfilled batches; no pipeline can have it."""
    return f"{pipeline}/backfill"


def _undecided(
    pipeline: PipelineConfig, batches: Sequence[Batch], ledger: Ledger, progress: Progress, keep: int
) -> list[Batch]:
    """Those that no version has decided yet; the ledger is asked of all at once, as inboxes are rarely emptied."""
    stats = {batch.id: batch.stat_hash() for batch in batches}
    hashes = ledger.manifests.known_of(pipeline.name, stats)
    for batch in batches:
        if batch.id not in hashes:
            hashes[batch.id] = _read_manifest(pipeline, batch, stats[batch.id], ledger, progress, keep)
            keep -= batch.kept.size
    done = ledger.batches.done_of((pipeline.name, backfilled(pipeline.name)), hashes.values())
    return [batch for batch in batches if hashes[batch.id] not in done]


def _is_linked_out(batch: Batch, pipeline: PipelineConfig) -> bool:
    """Whether the whole batch is a link out of the inbox: it is refused, not judged by unreadable files."""
    folder = batch.folder
    return folder is not None and folder.is_symlink() and Fence(folder.parent, pipeline.data).leads_out(folder)


def in_order(batches: list[Batch], order: str) -> tuple[Batch, ...]:
    """The batches in the order in which they are scored: the oldest first, or by name."""
    if order == "name" or len(batches) < 2:
        return tuple(batches)
    return tuple(sorted(batches, key=lambda batch: batch.own_time() or datetime.max.replace(tzinfo=UTC)))


def known_manifest(
    pipeline: PipelineConfig,
    batch: Batch,
    ledger: Ledger,
    progress: Progress | None = None,
    stats: Sequence[str] | None = None,
    keep: int = 0,
) -> str:
    """The batch's manifest hash; its files are read only where something was touched since they last were.

    `stats` are the batch's own, where they were asked for a moment ago; `keep` is that of `Batch.manifest_hash`.
    """
    stat_hash = batch.stat_hash(stats)
    known = ledger.manifests.known(pipeline.name, batch.id, stat_hash)
    return known or _read_manifest(pipeline, batch, stat_hash, ledger, progress, keep)


def _read_manifest(
    pipeline: PipelineConfig,
    batch: Batch,
    stat_hash: str,
    ledger: Ledger,
    progress: Progress | None,
    keep: int,
) -> str:
    what = f"Reading {pipeline.name} {batch.id}"
    with progress.track(what, len(batch.items)) if progress else nullcontext(lambda images: None) as advance:
        manifest_hash = batch.manifest_hash(advance, keep)
    ledger.manifests.remember(pipeline.name, batch.id, stat_hash, manifest_hash)
    return manifest_hash
