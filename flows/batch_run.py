"""The one MLflow run of a scored batch: its report, its rows, and what makes it be found."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from flows.config import PipelineConfig
from flows.ledger import Claim, utc_now
from flows.markdown import as_text
from flows.report import ScoredBatch, left_out, report_on, state
from flows.sources import Batch
from flows.streams import Stream
from flows.tracking import ChampionVersion, ReviewQueue, Tracking

REPORT, WORST, SCORES = "report.html", "worst.png", "scores.parquet"  # the run's artifacts; alerts carry the picture
NAMED = 10  # unreadable files in the description
LETTERS = 100  # of their names and reasons


@dataclass(frozen=True)
class Surroundings:
    """What a batch's run says of it beside its own scores.

    Attributes:
        stream: the batches of its calibration together, with this one.
        monitor: the run that shows the pipeline over time.
        previous: name and run of the batch that was decided before it; None for the first.
        queue: where its images are labelled; None where nothing is asked.
        replaced: the run of the batch of this name that was decided before, with other images; None where none was.
    """

    stream: Stream
    monitor: str
    previous: tuple[str, str] | None
    queue: ReviewQueue | None = None
    replaced: str | None = None


def record_batch(
    pipeline: PipelineConfig,
    batch: Batch,
    champion: ChampionVersion,
    scored: ScoredBatch,
    around: Surroundings,
    claim: Claim,
    manifest_hash: str,
    tracking: Tracking,
) -> str:
    """The id of the run; what an attempt that died left behind is discarded."""
    if claim.attempt > 1:
        tracking.discard(pipeline.name, claim.key)
    verdict = scored.verdict
    tags = {
        "reconwatch.key": claim.key,
        "reconwatch.batch": batch.id,
        "reconwatch.manifest": manifest_hash,
        "reconwatch.version": champion.version,
        "reconwatch.alarm": str(verdict.alarm).lower(),
        "reconwatch.diagnosis": verdict.diagnosis,
        "reconwatch.severity": verdict.severity,
    }
    if around.replaced is not None:
        tags["reconwatch.replaced"] = around.replaced
    run_id = tracking.start_run(pipeline.name, "batch", f"batch {batch.id}", tags)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report = report_on(batch, champion, scored, _more(scored, around.stream), utc_now())
        (folder / REPORT).write_text(report.html, encoding="utf-8")
        if report.sheet is not None:
            report.sheet.save(folder / WORST)
        scored.table.to_parquet(folder / SCORES, index=False)
        tracking.log_folder(run_id, folder)
    description = _description(pipeline, batch, champion, scored, around, run_id, tracking)
    metrics = _metrics(champion, scored, around.stream)
    tracking.log(run_id, metrics=metrics, tags={"mlflow.note.content": description})
    tracking.finish(run_id)
    return run_id


def _metrics(champion: ChampionVersion, scored: ScoredBatch, stream: Stream) -> dict[str, float | None]:
    verdict, table = scored.verdict, scored.table
    metrics: dict[str, float | None] = {
        "images_scored": verdict.scored,
        "images_flagged": verdict.flagged,
        "images_unreadable": verdict.unreadable,
        "flag_rate": verdict.flagged / verdict.scored if verdict.scored else 0.0,
        "expected_flagged": verdict.expected_flagged,
        "flagged_p_value": verdict.flagged_p_value,
        "unreadable_p_value": verdict.unreadable_p_value,
        "moved_p_value": verdict.moved_p_value,
        "moved_distance": verdict.moved_distance,
        "median_shift": verdict.median_shift,
        "overdispersion": verdict.overdispersion,
        "images_to_review": int(table["review"].sum()),
        "stream_e_value": stream.evidence.e_value,
        "stream_change": stream.change.statistic if stream.change else None,
        "threshold": champion.champion.threshold.value,
        "images_per_second": len(table) / max(scored.seconds, 1e-9),
    }
    if verdict.scored:
        metrics |= {"median_score": float(table["score"].median()), "highest_score": float(table["score"].max())}
    return metrics


def _more(scored: ScoredBatch, stream: Stream) -> list[str]:
    review = int(scored.table["review"].sum())
    together = " ".join(stream.sentences())
    return [f"Images to review: {review:,}.", f"The batches without an alarm, together: {together}"]


def _description(
    pipeline: PipelineConfig,
    batch: Batch,
    champion: ChampionVersion,
    scored: ScoredBatch,
    around: Surroundings,
    run_id: str,
    tracking: Tracking,
) -> str:
    """The run's page in Markdown: the verdict, and where to look further; MLflow folds all but the first lines."""

    def link(words: str, run: str, artifact: str = "") -> str:
        return f"[{words}]({tracking.addresses.run(pipeline.name, run, artifact)})"

    version = f"[version {champion.version}]({tracking.addresses.version(pipeline.name, champion.version)})"
    lines = [
        f"**{state(scored.verdict)}. {link('Open the report', run_id, REPORT)}**",
        "",
        *(f"- {sentence}" for sentence in scored.verdict.sentences()),
        "",
        *_more(scored, around.stream),
        "",
        f"Decided by {version} ({link('calibration', champion.calibration_run)}, "
        f"{link('training', champion.training_run)}). {_previous(pipeline, around, tracking)} "
        f"{link('The pipeline over time', around.monitor)}.",
    ]
    if around.replaced is not None:
        before = link("that decision", around.replaced)
        lines += ["", f"A batch of this name was decided before, with other images: {before}."]
    if around.queue is not None:
        lines += ["", f"**[Label its images]({around.queue.url})**: the flagged ones, and some drawn at random."]
    if batch.left_out:
        lines += ["", as_text(left_out(batch))]
    return "\n".join([*lines, *_unreadable(scored)])


def _previous(pipeline: PipelineConfig, around: Surroundings, tracking: Tracking) -> str:
    if around.previous is None:
        return "It is the first batch."
    batch, run_id = around.previous
    return f"The batch before: [{as_text(batch)}]({tracking.addresses.run(pipeline.name, run_id)})."


def _unreadable(scored: ScoredBatch) -> list[str]:
    files = scored.table[scored.table["status"] == "unreadable"]
    if not len(files):
        return []
    rows = zip(files["uri"][:NAMED], files["reason"][:NAMED], strict=True)
    lines = ["", "| unreadable file | reason |", "|---|---|"]
    lines += [f"| {as_text(Path(uri).name[:LETTERS])} | {as_text(reason[:LETTERS])} |" for uri, reason in rows]
    return lines + (["", f"and {len(files) - NAMED:,} more, in the report."] if len(files) > NAMED else [])
