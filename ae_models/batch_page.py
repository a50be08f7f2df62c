"""The page of one batch: its verdict, its scores beside the calibration's, and the images that matter, one by one."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ae_models.images import ImageSpec
from ae_models.pages import EXACT, page, picture_address
from ae_models.panels import compact_picture, heat_overlay, histogram_edges

PAGE = Path(__file__).with_name("batch_page.html")
LONGEST = 256  # pixels of a picture's long side, at most
PLAIN = ("title", "state", "alarm", "shown", "n_unreadable", "left_out", "labels")  # go to the page as they are
LETTERS = 300  # of a path or a reason, at most


@dataclass(frozen=True)
class Pictures:
    """Data addresses of one image's input as the network sees it, its reconstruction, and the error over the input."""

    input: str
    reconstruction: str
    heat: str

    @property
    def size(self) -> int:
        """Bytes of them all."""
        return len(self.input) + len(self.reconstruction) + len(self.heat)


@dataclass(frozen=True)
class ShownImage:
    """One image on the page.

    Attributes:
        path: its address; the page shows its last part, and all of it where the image is enlarged.
        score: None where it is not a number.
        p_value: in (0, 1]; None where the score is not a number.
        marks: what is said of it, such as "flagged".
        pictures: None where it could not be read a second time.
    """

    path: str
    score: float | None
    p_value: float | None
    marks: tuple[str, ...]
    pictures: Pictures | None


@dataclass(frozen=True, eq=False)
class BatchPage:
    """What is said and shown of a batch; all words are shown as text, whatever they hold.

    Attributes:
        state: severity and diagnosis, in a few words.
        alarm: whether the batch alarms.
        sentences: the verdict.
        more: what else there is to know.
        facts: names and values.
        calibration_scores: (n,) float64.
        scores: (m,) float64 of the readable images.
        threshold: above which an image is flagged.
        images: in the order in which they are shown.
        shown: which images these are, and where the others are.
        unreadable: some or all of the files that cannot be read, each with its reason.
        n_unreadable: how many there are in all.
        left_out: what is said of files that are no images by name.
        labels: where the images are labelled; empty where they are not.
    """

    title: str
    state: str
    alarm: bool
    sentences: Sequence[str]
    more: Sequence[str]
    facts: Mapping[str, str]
    spec: ImageSpec
    calibration_scores: NDArray[np.float64]
    scores: NDArray[np.float64]
    threshold: float
    images: Sequence[ShownImage]
    shown: str
    unreadable: Sequence[tuple[str, str]]
    n_unreadable: int
    left_out: str = ""
    labels: str = ""

    def html(self) -> str:
        """The page as one HTML file that needs no network, no storage and no other page."""
        marks = [mark for image in self.images for mark in image.marks]
        kinds = {"all": len(self.images)} | {mark: marks.count(mark) for mark in dict.fromkeys(marks)}
        data = {
            **{name: getattr(self, name) for name in PLAIN},
            "sentences": list(self.sentences),
            "more": list(self.more),
            "facts": list(self.facts.items()),
            "ratio": f"{self.spec.width} / {self.spec.height}",
            "exact": max(self.spec.height, self.spec.width) <= EXACT,
            "histogram": self._histogram(),
            "kinds": list(kinds.items()),
            "images": [
                asdict(image) | {"path": _cut(image.path), "name": _cut(Path(image.path).name)} for image in self.images
            ],
            "unreadable": [[_cut(Path(uri).name), _cut(reason)] for uri, reason in self.unreadable],
        }
        return page(PAGE, data)

    def _histogram(self) -> dict[str, Any]:
        named = {"calibration": self.calibration_scores, "this batch": self.scores}
        groups = {name: scores[np.isfinite(scores)] for name, scores in named.items()}
        edges, logarithmic = histogram_edges(groups, self.threshold)
        return {
            "edges": [float(f"{edge:.5g}") for edge in edges],
            "logarithmic": logarithmic,
            "threshold": self.threshold,
            "groups": [_bars(name, scores, edges) for name, scores in groups.items()],
        }


def draw_pictures(
    images: NDArray[np.float32], reconstructions: NDArray[np.float32], error_maps: NDArray[np.float32], top: float
) -> list[Pictures]:
    """The pictures of images and reconstructions (N, C, H, W) in [0, 1] with error maps (N, H, W).

    An error of `top` and above is the brightest.
    """
    return [
        Pictures(
            picture_address(compact_picture(image), LONGEST),
            picture_address(compact_picture(reconstruction), LONGEST),
            picture_address(heat_overlay(image, error_map, top), LONGEST),
        )
        for image, reconstruction, error_map in zip(images, reconstructions, error_maps, strict=True)
    ]


def _cut(words: str) -> str:
    """The words as far as they are no longer than LETTERS, without their middle."""
    half = LETTERS // 2
    return words if len(words) <= LETTERS else f"{words[:half]} ... {words[-half:]}"


def _bars(name: str, scores: NDArray[np.float64], edges: NDArray[np.float64]) -> dict[str, Any]:
    counts = np.histogram(np.clip(scores, edges[0], edges[-1]), edges)[0]
    shares = counts / max(1, len(scores))
    return {
        "name": f"{name} ({len(scores):,} images)",
        "counts": counts.tolist(),
        "shares": [float(f"{share:.4g}") for share in shares],
    }
