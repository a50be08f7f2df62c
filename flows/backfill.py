"""Backfill: batches of the past decided by one version, in order, without telling anybody; it goes on where it was.

They stand in the ledger under a name of their own, so that nothing of them reaches the pipeline's stream, its
incidents, its time line or the alerts on their way.
"""

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from ae_models.errors import InputError
from flows.batch_run import Surroundings, log_batch, write_batch
from flows.config import PipelineConfig
from flows.inbox import backfilled, known_manifest
from flows.ledger import AlreadyDone, Busy, Ledger
from flows.monitor import monitor_run
from flows.progress import Progress
from flows.scoring import BatchReport, score_batch
from flows.sources import Batch, inbox_batches
from flows.streams import stream_of
from flows.tracking import ChampionVersion
from flows.verdicts import NOMINAL_BATCHES
from flows.words import reason_of
from flows.workspace import Workspace

KIND = "backfill"  # of the runs in MLflow


@dataclass(frozen=True)
class PastBatch:
    """A batch with its time, and whether the version has decided it already, then or in a backfill."""

    batch: Batch
    taken_at: datetime
    known: bool


@dataclass(frozen=True)
class BackfillPlan:
    """The batches between two times, the oldest first, and the names of those whose time nobody knows."""

    pipeline: PipelineConfig
    version: ChampionVersion
    since: datetime
    until: datetime
    batches: tuple[PastBatch, ...]
    undated: tuple[str, ...]

    @property
    def due(self) -> tuple[PastBatch, ...]:
        """Those that are left to do."""
        return tuple(past for past in self.batches if not past.known)

    def sentences(self) -> tuple[str, ...]:
        """What it is, for people."""
        images = sum(len(past.batch.items) for past in self.due)
        lines = [
            f"{len(self.batches)} batches of {self.pipeline.name} are from {self.since:%Y-%m-%d %H:%M} to before "
            f"{self.until:%Y-%m-%d %H:%M} UTC; version {self.version.version} has decided "
            f"{len(self.batches) - len(self.due)} of them, and {len(self.due)} with {images:,} images are left."
        ]
        if self.undated:
            lines.append(f"{len(self.undated)} batches have no time and are left out, such as {self.undated[0]}.")
        return tuple(lines)


def plan_backfill(
    pipeline: PipelineConfig, workspace: Workspace, since: datetime, until: datetime, version: str | None
) -> BackfillPlan:
    """The batches of the inbox that were taken from `since` on and before `until`, for a version or the champion.

    Raises:
        InputError: there is no such version, the times are the wrong way round, or the inbox cannot be read.
    """
    if since >= until:
        raise InputError(f"--since {since:%Y-%m-%d %H:%M} is not before --until {until:%Y-%m-%d %H:%M}: swap them")
    decider = _decider(pipeline, workspace, version)
    batches, undated = [], []
    for batch in inbox_batches(pipeline.data):
        taken_at = batch.own_time()
        if taken_at is None:
            undated.append(batch.id)
        elif batch.items and since <= taken_at < until:
            known = _is_known(pipeline, batch, decider, workspace.ledger)
            batches.append(PastBatch(batch, taken_at, known))
    batches.sort(key=lambda past: (past.taken_at, past.batch.id))
    return BackfillPlan(pipeline, decider, since, until, tuple(batches), tuple(undated))


def backfill(
    plan: BackfillPlan, workspace: Workspace, progress: Progress, done: Callable[[BatchReport], None] = lambda _: None
) -> tuple[BatchReport, ...]:
    """Decide what is left of the plan, the oldest first; one that fails stops none of the others."""
    reports = []
    with progress.track(f"Backfilling {plan.pipeline.name}", len(plan.due)) as advance:
        for past in plan.due:
            try:
                report = _decide(plan.pipeline, past.batch, plan.version, workspace, progress)
            except Exception as error:
                reason = reason_of(error)
                report = BatchReport(plan.pipeline.name, past.batch.id, "failed", reason=reason)
            reports.append(report)
            done(report)
            advance()
    return tuple(reports)


def _decider(pipeline: PipelineConfig, workspace: Workspace, version: str | None) -> ChampionVersion:
    registry = workspace.tracking.registry
    if version is None:
        return registry.champion(pipeline.name)
    versions = {each.version: each for each in registry.versions(pipeline.name)}
    if version not in versions:
        there_are = ", ".join(versions) or "none"
        raise InputError(f"pipeline '{pipeline.name}' has no version {version} (there are: {there_are})")
    return registry.loaded(pipeline.name, versions[version])


def _is_known(pipeline: PipelineConfig, batch: Batch, version: ChampionVersion, ledger: Ledger) -> bool:
    manifest_hash = known_manifest(pipeline, batch, ledger)
    names = (pipeline.name, backfilled(pipeline.name))
    return any(ledger.batches.is_done(name, manifest_hash, version.version) for name in names)


def _decide(
    pipeline: PipelineConfig, batch: Batch, version: ChampionVersion, workspace: Workspace, progress: Progress
) -> BatchReport:
    tracking, ledger = workspace.tracking, workspace.ledger
    manifest_hash = known_manifest(pipeline, batch, ledger)
    name = backfilled(pipeline.name)
    claim = ledger.claim(name, batch.id, manifest_hash, version.version, version.calibration_run, again=True)
    if isinstance(claim, AlreadyDone):
        return BatchReport(pipeline.name, batch.id, "known", claim.run_id, version=version.version)
    if isinstance(claim, Busy):
        return BatchReport(pipeline.name, batch.id, "busy", reason=f"{claim.owner} is scoring it")
    try:
        nominal = ledger.batches.nominal_counts(name, version.calibration_run, NOMINAL_BATCHES)
        scored = score_batch(
            batch,
            version.champion,
            pipeline,
            progress,
            lambda: ledger.renew(claim),
            nominal,
            manifest_hash=manifest_hash,
        )
        before = ledger.batches.history(name, 1)
        previous = (before[0].batch, before[0].run_id) if before else None
        around = Surroundings(monitor_run(pipeline.name, tracking, ledger), previous)
        stream = stream_of(pipeline, version, ledger)
        with tempfile.TemporaryDirectory() as folder:
            files = Path(folder)
            note = write_batch(files, pipeline, batch, version, scored, stream, claim, manifest_hash)
            run_id = log_batch(note, files, around, tracking, again=claim.attempt > 1, kind=KIND)
        ledger.finish(
            claim,
            run_id=run_id,
            verdict=asdict(scored.verdict),
            alarm=scored.verdict.alarm,
            n_scored=scored.verdict.scored,
            n_flagged=scored.verdict.flagged,
            n_unreadable=scored.verdict.unreadable,
        )
    except BaseException:
        ledger.release(claim)
        raise
    url = tracking.addresses.run(pipeline.name, run_id)
    return BatchReport(pipeline.name, batch.id, "scored", run_id, url, version.version, scored.verdict)
