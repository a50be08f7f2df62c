"""Scoring: new batches and the champion in; scores, a verdict, an MLflow run a batch and, where it is off, alerts."""

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic, perf_counter

import pandas as pd

from ae_models.batch_tests import NominalBatches
from ae_models.champion import Champion
from ae_models.errors import InputError
from ae_models.monitoring import BatchVerdict
from flows.alerts import Alert
from flows.batch_run import WORST, write_batch
from flows.config import PipelineConfig
from flows.delivery import Shown, show_or_keep
from flows.inbox import due_batches as due_batches
from flows.inbox import known_manifest as known_manifest
from flows.items import KEPT_BYTES, Batch, Item, name_of
from flows.ledger import AlreadyDone, Busy, Claim, IncidentBook
from flows.monitor import point_of
from flows.progress import Progress
from flows.report import ScoredBatch
from flows.review_queue import ask_about, open_queue
from flows.reviewing import asked_images
from flows.rows import rows_of
from flows.shards import Sharding, score_items
from flows.streams import StreamStep, counts_in_stream, stream_of
from flows.tracking import ChampionVersion
from flows.verdicts import NOMINAL_BATCHES, verdict_on
from flows.watchdog import after_batch
from flows.workspace import Workspace

RENEW_SECONDS = 30.0  # between two times that a claim is renewed
NAMED = 5  # images named in an alert
GONE = "was deleted before it was scored, and nothing is recorded of it"


@dataclass(frozen=True)
class BatchReport:
    """How one batch ended: scored now, known already, being scored by another process, gone, changed, or failed."""

    pipeline: str
    batch: str
    outcome: str  # "scored", "known", "busy", "failed", "gone", "changed"
    run_id: str | None = None
    run_url: str | None = None
    version: str | None = None
    verdict: BatchVerdict | None = None
    reason: str = ""
    table: pd.DataFrame | None = None
    stream: tuple[str, ...] = ()  # what it made known of the batches together, where that alarmed

    @property
    def alarm(self) -> bool:
        """Whether it was scored now and raised an alarm, by itself or with the batches before it."""
        return self.outcome == "scored" and self.verdict is not None and (self.verdict.alarm or bool(self.stream))


def score_batch(
    batch: Batch,
    champion: Champion,
    pipeline: PipelineConfig,
    progress: Progress,
    renew: Callable[[], None],
    nominal_batches: NominalBatches = (),
    *,
    manifest_hash: str,
    sharding: Sharding | None = None,
) -> ScoredBatch:
    """Score every image of a batch; memory does not grow with its size but for the rows of its table.

    `nominal_batches` are (flagged, scored) of earlier ones of this champion that raised no alarm, or a false one. The
    batch's hash draws the images of the audit. `sharding` says who scores a big one, if not this process alone; that
    changes no digit.

    Raises:
        InputError: the batch holds no image at all.
    """
    if not batch.items:
        raise InputError(f"batch {batch.id!r} holds no image: put images into it or remove it")
    start, renewed = perf_counter(), monotonic()

    def renew_in_time() -> None:
        nonlocal renewed
        if monotonic() - renewed > RENEW_SECONDS:
            renewed = monotonic()
            renew()

    with progress.track(f"Scoring {pipeline.name} {batch.id}", len(batch.items)) as advance:
        kept = batch.kept.of(manifest_hash)
        batch.kept.forget()  # once these are scored, or failed to be
        scored = score_items(batch.items, champion.detector, sharding, advance, renew_in_time, kept)
    table = pd.DataFrame(rows_of(batch, champion, scored, pipeline, manifest_hash))
    verdict = verdict_on(table, champion.threshold, champion.calibration_scores, pipeline.monitor, nominal_batches)
    return ScoredBatch(table, verdict, perf_counter() - start)


def score_and_record(
    pipeline: PipelineConfig,
    batch: Batch,
    champion: ChampionVersion,
    workspace: Workspace,
    progress: Progress,
    again: bool = False,
    sharding: Sharding | None = None,
) -> BatchReport:
    """Score a batch once: claim it, score it, show it in MLflow, and settle verdict and alerts in one transaction.

    With `again`, also one that another version has decided.
    """
    tracking, ledger = workspace.tracking, workspace.ledger
    if batch.is_gone():
        progress.warn(f"Batch {batch.id} of {pipeline.name} {GONE}.")
        return BatchReport(pipeline.name, batch.id, "gone", reason=GONE)
    stats = batch.stats()
    manifest_hash = known_manifest(pipeline, batch, ledger, progress, stats, KEPT_BYTES)
    claim = ledger.claim(pipeline.name, batch.id, manifest_hash, champion.version, champion.calibration_run, again)
    if isinstance(claim, AlreadyDone):
        url = tracking.addresses.run(pipeline.name, claim.run_id) if claim.run_id else None
        return BatchReport(pipeline.name, batch.id, "known", claim.run_id or None, url, claim.model_version)
    if isinstance(claim, Busy):
        return BatchReport(pipeline.name, batch.id, "busy", reason=f"{claim.owner} is scoring it")
    earlier = ledger.batches.last_named(pipeline.name, batch.id)
    replaced = (earlier.run_id or None) if earlier and earlier.manifest_hash != manifest_hash else None
    if replaced:
        progress.say(
            f"A batch {batch.id} of {pipeline.name} was decided before, with other images: this is a new one. Then: "
            f"{tracking.addresses.run(pipeline.name, replaced)}"
        )
    try:
        nominal = ledger.batches.nominal_counts(pipeline.name, champion.calibration_run, NOMINAL_BATCHES)
        scored = score_batch(
            batch,
            champion.champion,
            pipeline,
            progress,
            lambda: ledger.renew(claim),
            nominal,
            manifest_hash=manifest_hash,
            sharding=sharding,
        )
        if changed := _changed(batch.items, stats):
            ledger.release(claim)
            reason = f"changed while it was scored ({name_of(changed)}): nothing is recorded, and it stays due"
            progress.warn(f"Batch {batch.id} of {pipeline.name} {reason}.")
            return BatchReport(pipeline.name, batch.id, "changed", reason=reason)
        # As it is known now: another process may finish a batch first. What is decided is decided by the ledger.
        stream = stream_of(pipeline, champion, ledger)
        if counts_in_stream(scored.verdict):
            stream = stream.after(scored.verdict.flagged, scored.verdict.scored)
        asked = asked_images(scored.table, pipeline.review.flagged, manifest_hash)
        there = tracking.answers()  # asked first: to open the queue would wait for a minute
        queue = open_queue(pipeline, batch.id, claim.key, asked, tracking, progress) if there else None
        with tempfile.TemporaryDirectory() as name:
            files = Path(name)
            note = write_batch(
                files,
                pipeline,
                batch,
                champion,
                scored,
                stream,
                claim,
                manifest_hash,
                replaced,
                queue,
                [image.uri for image in asked],
            )
            shown = show_or_keep(note, files, queue, pipeline, workspace, progress, claim.attempt > 1, there)
        step = StreamStep(pipeline, champion, scored.verdict, _stream_alert(pipeline, claim, shown.url))
        alert = _alert(pipeline, batch, champion, scored, claim, shown)
        ledger.finish(
            claim,
            run_id=shown.run_id,
            verdict=asdict(scored.verdict),
            alarm=scored.verdict.alarm,
            n_scored=scored.verdict.scored,
            n_flagged=scored.verdict.flagged,
            n_unreadable=scored.verdict.unreadable,
            stream=step if counts_in_stream(scored.verdict) else None,
            settle=_settle(after_batch(pipeline, claim.key, scored.verdict, alert, batch.taken_at()), step),
            point=lambda: point_of(champion.champion, scored, step.stream or stream, batch.own_time(stats)),
        )
    except BaseException:
        ledger.release(claim)
        raise
    threshold = champion.champion.threshold.value
    ask_about(batch.id, claim.key, asked, note.pictures, shown.queue, threshold, tracking, ledger, progress)
    return BatchReport(
        pipeline.name,
        batch.id,
        "scored",
        shown.run_id or None,
        shown.url,
        champion.version,
        scored.verdict,
        table=scored.table,
        stream=step.crossed,
    )


def _changed(items: Sequence[Item], stats: Sequence[str]) -> str:
    """The address of an image that was written while it was scored; one that was deleted is merely unreadable."""
    pairs = zip(items, stats, strict=True)
    return next((item.uri for item, stat in pairs if item.stat() != stat and not item.is_gone()), "")


def past_batches(workspace: Workspace, name: str, limit: int = 20) -> tuple[BatchReport, ...]:
    """The last batches that the ledger holds, oldest first, as reports."""
    return tuple(
        BatchReport(
            name,
            record.batch,
            "known",
            record.run_id or None,
            workspace.tracking.addresses.run(name, record.run_id) if record.run_id else None,
            record.model_version,
            BatchVerdict(**record.verdict),
        )
        for record in reversed(workspace.ledger.batches.history(name, limit))
    )


def write_scores(table: pd.DataFrame, path: Path) -> None:
    """Write the rows as Parquet, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        table.to_parquet(file.name, index=False)
    os.replace(file.name, path)


def _stream_alert(pipeline: PipelineConfig, claim: Claim, url: str | None) -> Alert:
    """What is said where the batch takes the stream over a limit, but for how badly and in which words."""
    return Alert(pipeline.name, None, {}, "", (), url, f"{claim.key}/stream", kind="stream")


def _settle(batch: Callable[[IncidentBook], None], stream: StreamStep) -> Callable[[IncidentBook], None]:
    """What becomes of the pipeline's incidents: by the batch, and then by its stream."""

    def settle(book: IncidentBook) -> None:
        batch(book)
        stream.settle(book)

    return settle


def _alert(
    pipeline: PipelineConfig,
    batch: Batch,
    champion: ChampionVersion,
    scored: ScoredBatch,
    claim: Claim,
    shown: Shown,
) -> Alert:
    """What is said of the batch where it alarms."""
    table, worst = scored.table, scored.worst(NAMED).tolist()
    flagged = [table["uri"].iloc[place] for place in worst if table["flagged"].iloc[place]]
    unreadable = table.loc[table["status"] == "unreadable", "uri"].tolist()
    named = unreadable + flagged if scored.verdict.diagnosis == "unreadable" else flagged + unreadable
    return Alert(
        pipeline=pipeline.name,
        batch=batch.id,
        verdict={**asdict(scored.verdict), "version": champion.version},
        sentences=" ".join(scored.verdict.sentences()),
        worst=tuple(name_of(uri) for uri in named[:NAMED]),
        run_url=shown.url,
        dedupe_key=claim.key,
        run_id=shown.run_id or None,
        picture=WORST if worst and shown.run_id else None,
        review_url=shown.queue.url if shown.queue else None,
    )
