"""What old batches leave behind goes: pages, pictures and questions, and scores where wished; decisions never."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from flows.config import PipelineConfig
from flows.ledger import BatchRecord, utc_now
from flows.progress import Progress
from flows.review_queue import read_answers
from flows.tracking import ArtifactMissing, Tracking
from flows.workspace import Workspace

SCORES = "scores.parquet"
PRUNED = "reconwatch.pruned"  # tag of a batch's run


@dataclass(frozen=True)
class OldBatch:
    """A batch with what of it would go: artifacts and their bytes, and its review queue."""

    record: BatchRecord
    artifacts: dict[str, int]
    queue: str | None


@dataclass(frozen=True)
class Pruning:
    """What would go, or went, of the batches decided before a time."""

    pipeline: str
    before: datetime
    scores_too: bool
    batches: tuple[OldBatch, ...]
    done: bool = False

    @property
    def bytes(self) -> int:
        """Of all artifacts together."""
        return sum(sum(batch.artifacts.values()) for batch in self.batches)

    def sentences(self) -> tuple[str, ...]:
        """What goes and what stays, for people."""
        when = f"{self.before:%Y-%m-%d %H:%M} UTC"
        if not self.batches:
            return (f"Nothing of batches of {self.pipeline} decided before {when} is left to go.",)
        queues = sum(batch.queue is not None for batch in self.batches)
        what = "pages, pictures and scores" if self.scores_too else "pages and pictures"
        stays = "verdicts, labels, metrics and runs" + ("" if self.scores_too else ", and the scores of every image")
        lost = ["Without scores such a batch cannot be replayed."] if self.scores_too else []
        size = f"{self.bytes / 1e6:,.1f} MB"
        return (
            f"{len(self.batches)} batches of {self.pipeline} decided before {when}: {what} ({size}) "
            f"and {queues} review queues {'are gone' if self.done else 'would go'}.",
            f"What stays: {stays}.",
            *lost,
        )


def plan_pruning(
    pipeline: PipelineConfig,
    workspace: Workspace,
    older_than: timedelta,
    scores_too: bool,
    progress: Progress,
    clock: Callable[[], datetime] = utc_now,
) -> Pruning:
    """What would go of the batches that were decided longer ago than that; nothing is changed."""
    before, found = clock() - older_than, []
    records = workspace.ledger.batches.decided(pipeline.name, until=before)
    with progress.track(f"Looking through old batches of {pipeline.name}", len(records)) as advance:
        for record in records:
            old = _old(record, workspace, scores_too)
            if old.artifacts or old.queue:
                found.append(old)
            advance()
    return Pruning(pipeline.name, before, scores_too, tuple(found))


def prune(plan: Pruning, pipeline: PipelineConfig, workspace: Workspace, progress: Progress) -> Pruning:
    """Let it go. Answers in the queues become labels first; whoever is interrupted starts again."""
    read_answers(pipeline, workspace, progress)
    tracking = workspace.tracking
    with progress.track(f"Pruning old batches of {pipeline.name}", len(plan.batches)) as advance:
        for batch in plan.batches:
            if batch.queue:
                tracking.review.delete(pipeline.name, batch.queue)
                workspace.ledger.queues.drop(batch.record.key)
            for name in batch.artifacts:
                tracking.delete_artifact(batch.record.run_id, name)
            if tracking.is_there(batch.record.run_id):
                tracking.log(batch.record.run_id, tags={PRUNED: f"{utc_now():%Y-%m-%d}"})
            advance()
    return Pruning(plan.pipeline, plan.before, plan.scores_too, plan.batches, done=True)


def _old(record: BatchRecord, workspace: Workspace, scores_too: bool) -> OldBatch:
    kept = set() if scores_too else {SCORES}
    sizes = _sizes(record.run_id, workspace.tracking)
    return OldBatch(
        record,
        {name: size for name, size in sizes.items() if name not in kept},
        workspace.ledger.queues.of(record.key),
    )


def _sizes(run_id: str, tracking: Tracking) -> dict[str, int]:
    if not tracking.is_there(run_id):  # people may delete it
        return {}
    try:
        return tracking.artifact_sizes(run_id)
    except (ArtifactMissing, OSError):
        return {}
