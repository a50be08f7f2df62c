"""The one MLflow run of a scored batch: its report, its rows, and what makes it be found.

It is written to a folder first and logged from there, so that it can wait for an MLflow server that does not answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from flows.config import PipelineConfig
from flows.ledger import Claim, utc_now
from flows.markdown import as_text
from flows.report import ScoredBatch, left_out, report_on, state
from flows.sources import Batch
from flows.streams import Stream
from flows.tracking import ChampionVersion, ReviewQueue, Tracking

REPORT, WORST, SCORES = "report.html", "worst.png", "scores.parquet"  # the run's artifacts; alerts carry the picture
REVIEW = "review"  # the folder of its artifacts with pictures of the images that people are asked about
NAMED = 10  # unreadable files in the description
LETTERS = 100  # of their names and reasons


@dataclass(frozen=True)
class Surroundings:
    """What in MLflow and before it a batch's run leads on to.

    Attributes:
        monitor: the run that shows the pipeline over time.
        previous: name and run of the batch that was decided before it; None for the first. A run that is not in MLflow
            yet is empty.
        queue: where its images are labelled; None where nothing is asked.
    """

    monitor: str
    previous: tuple[str, str] | None
    queue: ReviewQueue | None = None


@dataclass(frozen=True)
class BatchNote:
    """What a batch's run says beside its files, in values that JSON can hold.

    Attributes:
        verdict: the lines of its description on what was found, in Markdown.
        files: those on files that were left out or cannot be read.
        deciders: the version, and the runs of its calibration and its training.
        replaced: the run of the batch of this name that was decided before, with other images; None where none was.
        pictures: by address, the artifact that shows an image that people are asked about.
    """

    pipeline: str
    batch: str
    key: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float | None]
    state: str
    verdict: tuple[str, ...]
    files: tuple[str, ...]
    deciders: tuple[str, str, str]
    replaced: str | None = None
    pictures: Mapping[str, str] = field(default_factory=dict)


def write_batch(
    folder: Path,
    pipeline: PipelineConfig,
    batch: Batch,
    champion: ChampionVersion,
    scored: ScoredBatch,
    stream: Stream,
    claim: Claim,
    manifest_hash: str,
    replaced: str | None = None,
    queue: ReviewQueue | None = None,
    asked: Sequence[str] = (),
) -> BatchNote:
    """Write the files of a batch's run into `folder`; what its run says beside them. `stream` is with this batch.

    `asked` are the addresses of the images that the queue asks about.
    """
    labels, asked = (queue.url, asked) if queue else ("", ())
    report = report_on(batch, champion, scored, _more(scored, stream), utc_now(), labels, asked)
    (folder / REPORT).write_text(report.html, encoding="utf-8")
    if report.sheet is not None:
        report.sheet.save(folder / WORST)
    scored.table.to_parquet(folder / SCORES, index=False)
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
    if replaced is not None:
        tags["reconwatch.replaced"] = replaced
    said = tuple(f"- {sentence}" for sentence in verdict.sentences())
    skipped = ("", as_text(left_out(batch))) if batch.left_out else ()
    return BatchNote(
        pipeline=pipeline.name,
        batch=batch.id,
        key=claim.key,
        tags=tags,
        metrics=_metrics(champion, scored, stream),
        state=state(verdict),
        verdict=(*said, "", *_more(scored, stream)),
        files=(*skipped, *_unreadable(scored)),
        deciders=(champion.version, champion.calibration_run, champion.training_run),
        replaced=replaced,
        pictures=write_pictures(folder, asked, report.asked),
    )


def write_pictures(folder: Path, asked: Sequence[str], pictures: Mapping[str, Image.Image]) -> dict[str, str]:
    """Write the pictures of images that people are asked about, in that order, for a run; the artifact of each."""
    names = {uri: f"{REVIEW}/{place:04d}.jpg" for place, uri in enumerate(asked) if uri in pictures}
    if names:
        (folder / REVIEW).mkdir()
    for uri, name in names.items():
        pictures[uri].save(folder / name, quality=85)
    return names


def log_batch(
    note: BatchNote, folder: Path, around: Surroundings, tracking: Tracking, again: bool = False, kind: str = "batch"
) -> str:
    """Put what `write_batch` wrote into a run of that kind; its id. Where it was tried before, what is left of that is
    discarded."""
    if again:
        tracking.discard(note.pipeline, note.key, kind)
    run_id = tracking.start_run(note.pipeline, kind, f"{kind} {note.batch}", note.tags)
    tracking.log_folder(run_id, folder)
    tags = {"mlflow.note.content": _description(note, around, run_id, tracking)}
    tracking.finish(run_id, note.metrics, tags)
    return run_id


def label_link(queue: ReviewQueue) -> str:
    """What in a batch's description leads to the queue of its images, in Markdown."""
    return f"**[Label its images]({queue.url})**"


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


def _description(note: BatchNote, around: Surroundings, run_id: str, tracking: Tracking) -> str:
    """The run's page in Markdown: the verdict, and where to look further; MLflow folds all but the first lines."""

    def link(words: str, run: str, artifact: str = "") -> str:
        return f"[{words}]({tracking.addresses.run(note.pipeline, run, artifact)})"

    labels = f" · {label_link(around.queue)}" if around.queue else ""
    number, calibration, training = note.deciders
    version = f"[version {number}]({tracking.addresses.version(note.pipeline, number)})"
    lines = [
        f"**{note.state}. {link('Open the report', run_id, REPORT)}**{labels}",
        "",
        *note.verdict,
        "",
        f"Decided by {version} ({link('calibration', calibration)}, "
        f"{link('training', training)}). {_previous(note, around, tracking)} "
        f"{link('The pipeline over time', around.monitor)}.",
    ]
    if note.replaced is not None:
        before = link("that decision", note.replaced)
        lines += ["", f"A batch of this name was decided before, with other images: {before}."]
    return "\n".join([*lines, *note.files])


def _previous(note: BatchNote, around: Surroundings, tracking: Tracking) -> str:
    if around.previous is None:
        return "It is the first batch."
    batch, run_id = around.previous
    if not run_id:
        return f"The batch before: {as_text(batch)}."
    return f"The batch before: [{as_text(batch)}]({tracking.addresses.run(note.pipeline, run_id)})."


def _unreadable(scored: ScoredBatch) -> list[str]:
    files = scored.table[scored.table["status"] == "unreadable"]
    if not len(files):
        return []
    rows = zip(files["uri"][:NAMED], files["reason"][:NAMED], strict=True)
    lines = ["", "| unreadable file | reason |", "|---|---|"]
    lines += [f"| {as_text(Path(uri).name[:LETTERS])} | {as_text(reason[:LETTERS])} |" for uri, reason in rows]
    return lines + (["", f"and {len(files) - NAMED:,} more, in the report."] if len(files) > NAMED else [])
