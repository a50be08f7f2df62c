"""What labels say of a pipeline: how many flags are right, how many outliers are missed, each with its interval."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from ae_models.curves import Proportion
from flows.labels import Opinion
from flows.ledger import BatchRecord

KINDS = ("all", "week", "version", "group", "batch")


@dataclass(frozen=True)
class Measures:
    """Shares among labelled images; each is None where no image tells.

    Attributes:
        precision: of the flagged images, those that are outliers.
        misses: of the images of the audit that were not flagged, those that are outliers.
        false_alarms: of the nominal images of the audit, those that were flagged.
        unsure: images on which nobody is sure, or on which people contradict each other; they count nowhere else.
    """

    precision: Proportion | None
    misses: Proportion | None
    false_alarms: Proportion | None
    unsure: int

    def sentences(self) -> tuple[str, ...]:
        """The shares, for people."""
        lines = []
        if self.precision is not None:
            lines.append(f"Precision: {self.precision} of the flagged images that are labelled are true outliers.")
        if self.misses is not None:
            lines.append(f"Misses: {self.misses} of the images of the audit that were not flagged are outliers.")
        if self.false_alarms is not None:
            lines.append(f"False alarms: {self.false_alarms} of the nominal images of the audit were flagged.")
        if self.unsure:
            are = "image is" if self.unsure == 1 else "images are"
            lines.append(f"{self.unsure} {are} left out: nobody is sure, or people contradict each other.")
        return tuple(lines)

    def metrics(self) -> dict[str, float | None]:
        """The same as numbers by name; what no image tells is None."""
        metrics = dict[str, float | None]()
        for name, share in (
            ("precision", self.precision),
            ("miss_rate", self.misses),
            ("false_alarm_rate", self.false_alarms),
        ):
            metrics[f"review_{name}"] = None if share is None else share.value
            metrics[f"review_{name}_low"] = None if share is None else share.low
            metrics[f"review_{name}_high"] = None if share is None else share.high
        return metrics | {"review_unsure": self.unsure}


@dataclass(frozen=True)
class Part:
    """The measures of the images that have `name` in common: a week, a version, a group or a batch."""

    kind: str
    name: str
    measures: Measures


def measure(opinions: Iterable[Opinion]) -> Measures:
    """The shares among images of which people said something."""
    known = list(opinions)
    sure = [opinion for opinion in known if opinion.verdict != "unsure"]
    flagged = [opinion for opinion in sure if opinion.label.flagged]
    audit = [opinion for opinion in sure if opinion.label.audit]
    passed = [opinion for opinion in audit if not opinion.label.flagged]
    nominal = [opinion for opinion in audit if opinion.verdict == "nominal"]
    return Measures(
        _share(flagged, lambda opinion: opinion.verdict == "outlier"),
        _share(passed, lambda opinion: opinion.verdict == "outlier"),
        _share(nominal, lambda opinion: opinion.label.flagged),
        len(known) - len(sure),
    )


def measure_parts(
    opinions: Sequence[Opinion], records: Mapping[str, BatchRecord], groups: Mapping[str, str]
) -> tuple[Part, ...]:
    """The measures of all images, then by week, version, group and batch.

    Args:
        opinions: one an image.
        records: the batches by key.
        groups: the group of each image that has one, by address.
    """
    parts: dict[tuple[str, str], list[Opinion]] = defaultdict(list)
    for opinion in opinions:
        record, label = records.get(opinion.label.batch_key), opinion.label
        parts["all", ""].append(opinion)
        parts["batch", label.batch].append(opinion)
        if record is not None:
            year, week, _ = record.finished_at.isocalendar()
            parts["week", f"{year}-W{week:02d}"].append(opinion)
            parts["version", record.model_version].append(opinion)
        if label.uri in groups:
            parts["group", groups[label.uri]].append(opinion)
    order = sorted(parts, key=lambda part: (KINDS.index(part[0]), part[1]))
    return tuple(Part(kind, name, measure(parts[kind, name])) for kind, name in order)


def table_of(parts: Iterable[Part]) -> pd.DataFrame:
    """One row a part."""
    rows = []
    for part in parts:
        row: dict[str, object] = {"by": part.kind, "name": part.name}
        for name in ("precision", "misses", "false_alarms"):
            share: Proportion | None = getattr(part.measures, name)
            row[f"{name}_count"], row[f"{name}_of"] = (share.count, share.total) if share else (None, 0)
            row[name] = share.value if share else None
            row[f"{name}_low"], row[f"{name}_high"] = (share.low, share.high) if share else (None, None)
        rows.append(row | {"unsure": part.measures.unsure})
    return pd.DataFrame(rows)


def _share(opinions: Sequence[Opinion], counts: Callable[[Opinion], bool]) -> Proportion | None:
    return Proportion(sum(map(counts, opinions)), len(opinions)) if opinions else None
