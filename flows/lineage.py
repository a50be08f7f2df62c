"""Where the thresholds of a pipeline come from: its versions in order, who made them of what, and why they decide."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from flows.markdown import as_text
from flows.tracking import RegisteredVersion, Tracking

AUDIT = "audit"  # the source of a recalibration


@dataclass(frozen=True)
class ThresholdRecord:
    """One version of a pipeline's model.

    Attributes:
        calibration: 1 for the first calibration of its detector, then 2, 3, ...
        source: what it was calibrated on.
        by: whose labels those were; empty where none were needed.
        role: champion, challenger, or empty.
        reason: why it was made champion, or why it no longer is.
    """

    version: str
    made_at: datetime
    training_run: str
    calibration: int
    threshold: str
    source: str
    by: str
    role: str
    reason: str


def lineage_of(pipeline: str, tracking: Tracking) -> tuple[ThresholdRecord, ...]:
    """The versions of a pipeline's model, the oldest first."""
    counts, records = dict[str, int](), []
    for version in tracking.registry.versions(pipeline):
        training = version.tags.get("reconwatch.training_run", "")
        counts[training] = counts.get(training, 0) + 1
        records.append(_record(version, training, counts[training]))
    return tuple(records)


def lineage_table(records: Sequence[ThresholdRecord]) -> str:
    """The versions as a table in Markdown."""
    rows = []
    for one in records:
        cells = (one.version, f"{one.made_at:%Y-%m-%d %H:%M}", str(one.calibration), one.threshold)
        rows.append(f"| {' | '.join([*cells, *map(as_text, (one.source, one.by, one.reason))])} |")
    head = "| version | made (UTC) | calibration | threshold | calibrated on | labels by | why |"
    return "\n".join([head, "|---|---|---|---|---|---|---|", *rows])


def _record(version: RegisteredVersion, training: str, calibration: int) -> ThresholdRecord:
    tags = version.tags
    return ThresholdRecord(
        version=version.version,
        made_at=version.made_at,
        training_run=training,
        calibration=calibration,
        threshold=tags.get("threshold", ""),
        source=tags.get("reconwatch.calibrated_on", "nominal images"),
        by=tags.get("reconwatch.labels_by", ""),
        role=" ".join(sorted(version.aliases)),
        reason=tags.get("reconwatch.reason", ""),
    )
