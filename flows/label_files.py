"""Labels in a CSV file: what is asked, to be filled in with any spreadsheet, and what people filled in."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ae_models.errors import InputError
from flows.config import PipelineConfig
from flows.labels import Label, read_verdict
from flows.reviewing import BatchReview, BatchReviews
from flows.workspace import Workspace

COLUMNS = (
    "batch",
    "image",
    "score",
    "threshold",
    "p_value",
    "flagged",
    "audit",
    "label",
    "comment",
    "reviewer",
    "labelled_at",
    "batch_key",
)
NEEDED = ("batch", "image", "label")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would run instead of showing it
CLOCKS = timedelta(minutes=5)  # that two machines may differ by


@dataclass(frozen=True)
class ReadLabels:
    """The labels of a file, how many rows were left empty, and a sentence for each row that is wrong."""

    labels: tuple[Label, ...]
    empty: int
    faults: tuple[str, ...]


def write_labels(reviews: Sequence[BatchReview], path: Path) -> int:
    """Write one row an asked image, with what is said of it so far; how many rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [row for review in reviews for row in _rows(review)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return len(rows)


def read_labels(
    path: Path, pipeline: PipelineConfig, workspace: Workspace, reviewer: str, clock: Callable[[], datetime]
) -> ReadLabels:
    """The labels that people filled in; a row that is wrong is named by its line, and the rest goes on.

    Only images that the ledger's batches hold can be labelled: no path of the file is ever opened.

    Raises:
        InputError: the file is no CSV file with the columns batch, image and label.
    """
    reviews, labels, faults, empty = BatchReviews(pipeline, workspace), list[Label](), list[str](), 0
    now = clock()
    for line, row in _read(path):
        if not row.get("label", "").strip():
            empty += 1
            continue
        try:
            labels.append(_label(row, reviews, reviewer, now))
        except InputError as error:
            faults.append(f"line {line}: {error}")
    return ReadLabels(tuple(labels), empty, tuple(faults))


def _rows(review: BatchReview) -> list[dict[str, object]]:
    rows = []
    for image in review.asked:
        said = review.opinions.get(image.uri)
        rows.append(
            {
                "batch": _shown(review.record.batch),
                "image": _shown(image.uri),
                "score": image.score,
                "threshold": review.threshold,
                "p_value": image.p_value,
                "flagged": str(image.flagged).lower(),
                "audit": str(image.audit).lower(),
                "label": said.label.verdict if said else "",
                "comment": _shown(said.label.comment) if said else "",
                "reviewer": _shown(said.label.reviewer) if said else "",
                "labelled_at": said.label.labelled_at.isoformat() if said else "",
                "batch_key": review.record.key,
            }
        )
    return rows


def _read(path: Path) -> list[tuple[int, Mapping[str, str]]]:
    """The rows after the header with their line numbers; spreadsheets of some countries write semicolons."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.DictReader(file, delimiter=max(",;\t", key=first.count), restkey="", restval="")
            columns = reader.fieldnames or []
            if absent := [name for name in NEEDED if name not in columns]:
                raise InputError(
                    f"{path} has no column {', '.join(absent)}: start from what "
                    "'reconwatch review NAME --export FILE.csv' writes"
                )
            return [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a CSV file in UTF-8: {error}") from error


def _label(row: Mapping[str, str], reviews: BatchReviews, reviewer: str, now: datetime) -> Label:
    cells = {name: _meant(row.get(name, "")) for name in COLUMNS}
    verdict = read_verdict(cells["label"])
    at = _time(cells["labelled_at"]) if cells["labelled_at"] else now
    if at > now + CLOCKS:
        raise InputError(f"labelled_at {cells['labelled_at'][:40]!r} lies in the future")
    review = reviews.find(cells["batch_key"], cells["batch"])
    return review.label(cells["image"], verdict, cells["comment"], cells["reviewer"] or reviewer, at, "csv")


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"labelled_at {text[:40]!r} is no time: write 2024-05-17T14:30 (UTC), or nothing") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _shown(text: str) -> str:
    """The text as a cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text


def _meant(cell: str) -> str:
    return cell[1:] if cell[:1] == "'" and cell[1:].startswith(FORMULA) else cell
