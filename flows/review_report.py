"""What is known from review: answers taken in, shares measured and shown in MLflow, and what still waits."""

from dataclasses import dataclass
from datetime import datetime

from ae_models.curves import Proportion
from flows.config import PipelineConfig
from flows.labels import opinions
from flows.markdown import as_text
from flows.progress import Progress
from flows.review_measures import Measures, Part, measure_parts, table_of
from flows.review_queue import let_reviewers_in, make_missing_queues, read_answers
from flows.reviewing import BatchReview, newest_reviews
from flows.sources import groups_of
from flows.tracking import TrackingUnavailable
from flows.workspace import Workspace

NEWEST = 5  # batches of which is said what waits
ROWS = 40  # of the table in the description of the run


@dataclass(frozen=True)
class Waiting:
    """A batch of which is said how many of its asked images nobody labelled yet."""

    batch: str
    decided_at: datetime
    asked: int
    waiting: int
    queue: str | None  # where they can be labelled in MLflow


@dataclass(frozen=True)
class ReviewReport:
    """What people's labels come to, and the newest batches with what waits of them."""

    pipeline: str
    new_labels: int
    labelled: int
    parts: tuple[Part, ...]
    newest: tuple[Waiting, ...]
    run_url: str

    @property
    def measures(self) -> Measures:
        """Those of all labelled images."""
        return self.parts[0].measures if self.parts else Measures(None, None, None, 0)

    def sentences(self) -> tuple[str, ...]:
        """What came out, for people."""
        if not self.labelled:
            return (f"No image of {self.pipeline} is labelled yet.",)
        new = f", {self.new_labels} of them new from MLflow" if self.new_labels else ""
        return (f"{self.labelled} images of {self.pipeline} are labelled{new}.", *self.measures.sentences())


def review(pipeline: PipelineConfig, workspace: Workspace, progress: Progress) -> ReviewReport:
    """Take in what people answered in MLflow, measure, and show it there on the pipeline's review run."""
    tracking, ledger = workspace.tracking, workspace.ledger
    let_reviewers_in(pipeline, workspace, progress)
    make_missing_queues(pipeline, workspace, progress)
    new = read_answers(pipeline, workspace, progress)
    labels = ledger.labels.of(pipeline.name)
    known = list(opinions(labels).values())
    records = {record.key: record for record in ledger.batches.decided(pipeline.name)}
    groups = groups_of(pipeline.data, [opinion.label.uri for opinion in known])
    parts = measure_parts(known, records, groups)
    run_id = tracking.lasting_run(pipeline.name, "review", f"review of {pipeline.name}")
    report = ReviewReport(
        pipeline.name,
        new,
        len(known),
        parts,
        tuple(_waiting(one, workspace) for one in newest_reviews(pipeline, workspace, NEWEST)),
        tracking.addresses.run(pipeline.name, run_id),
    )
    if known:
        tracking.log_table(run_id, table_of(parts), "review.csv")
        metrics = report.measures.metrics() | {"review_labelled": len(known)}
        tracking.log(run_id, metrics=metrics, tags={"mlflow.note.content": _description(report)}, step=len(labels))
        monitor = ledger.timeline.monitor_run(pipeline.name)
        if monitor is not None and tracking.is_there(monitor.run_id):
            tracking.log(monitor.run_id, metrics=metrics, step=ledger.batches.count(pipeline.name))
    return report


def _waiting(review: BatchReview, workspace: Workspace) -> Waiting:
    record = review.record
    queue = workspace.ledger.queues.of(record.key)
    try:
        url = workspace.tracking.review.url(record.pipeline, queue) if queue else None
    except TrackingUnavailable:
        url = None
    return Waiting(record.batch, record.finished_at, len(review.asked), len(review.waiting), url)


def _description(report: ReviewReport) -> str:
    rows = [
        f"| {part.kind} | {as_text(part.name)} | {share(part.measures.precision)} | {share(part.measures.misses)} | "
        f"{share(part.measures.false_alarms)} | {part.measures.unsure} |"
        for part in report.parts[:ROWS]
    ]
    more = [f"and {len(report.parts) - ROWS} more, in `review.csv`."] if len(report.parts) > ROWS else []
    return "\n".join(
        [
            *report.sentences(),
            "",
            "| by | | precision | misses | false alarms | unsure |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            *more,
        ]
    )


def share(proportion: Proportion | None) -> str:
    """`92.0% (23 of 25; 74.0% to 99.0%)`, or nothing."""
    if proportion is None:
        return ""
    interval = f"{proportion.low:.1%} to {proportion.high:.1%}"
    return f"{proportion.value:.1%} ({proportion.count} of {proportion.total}; {interval})"
