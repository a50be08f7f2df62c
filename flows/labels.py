"""What people said of images: one record, whatever way it came in."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

from ae_models.errors import InputError

Verdict = Literal["outlier", "nominal", "unsure"]
Way = Literal["mlflow", "terminal", "csv"]
Image = tuple[str, str]  # the key of its batch, and its address

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
SHOWN: Mapping[Verdict, str] = {
    "outlier": "true outlier",
    "nominal": "false alarm (nominal)",
    "unsure": "unsure",
}  # as people choose them
WORDS: Mapping[str, Verdict] = {
    **{verdict: verdict for verdict in VERDICTS},
    **{words: verdict for verdict, words in SHOWN.items()},
    "false alarm": "nominal",
    "o": "outlier",
    "n": "nominal",
    "u": "unsure",
}


@dataclass(frozen=True)
class Label:
    """What one person said of one image of a batch, and on what.

    Attributes:
        batch_key: the batch, and the version that decided it, as the ledger knows them.
        verdict: `nominal` of a flagged image means that it was a false alarm.
        comment: text of a person; never markup.
        score: None where it was none that counts (NaN).
        threshold: that the score was compared with.
        flagged: whether the image was flagged.
        audit: whether it was drawn at random for the audit.
        way: by which the label came in.
    """

    pipeline: str
    batch_key: str
    batch: str
    uri: str
    verdict: Verdict
    comment: str
    reviewer: str
    labelled_at: datetime
    way: Way
    score: float | None
    threshold: float
    flagged: bool
    audit: bool

    @property
    def image(self) -> Image:
        """Which image of which batch it is on."""
        return self.batch_key, self.uri


@dataclass(frozen=True)
class Opinion:
    """What people's latest labels on one image come to.

    Attributes:
        verdict: that all share who are sure; `unsure` where nobody is, or where they contradict each other.
        label: the newest of the labels that count.
    """

    verdict: Verdict
    label: Label


def read_verdict(text: str) -> Verdict:
    """The verdict that a person wrote; raises InputError that names the choices."""
    verdict = WORDS.get(" ".join(text.casefold().split()))
    if verdict is None:
        raise InputError(f"{text[:40]!r} is no label: write outlier, nominal (a false alarm, where flagged) or unsure")
    return verdict


def opinions(labels: Iterable[Label]) -> dict[Image, Opinion]:
    """What is known of each image: of each person the latest label counts, and those who are unsure do not vote."""
    latest: dict[tuple[Image, str], Label] = {}
    for label in sorted(labels, key=lambda label: label.labelled_at):
        latest[label.image, label.reviewer] = label
    by_image: dict[Image, list[Label]] = {}
    for label in latest.values():
        by_image.setdefault(label.image, []).append(label)
    return {image: _opinion(said) for image, said in by_image.items()}


def _opinion(labels: list[Label]) -> Opinion:
    sure = {label.verdict for label in labels if label.verdict != "unsure"}
    newest = max(labels, key=lambda label: label.labelled_at)
    return Opinion(sure.pop() if len(sure) == 1 else "unsure", newest)
