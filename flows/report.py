"""The report of a batch: its page, and the sheet of its worst images that alerts carry."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from ae_models.batch_page import BatchPage, Pictures, ShownImage, draw_pictures
from ae_models.detector import AnyDetector
from ae_models.images import stream
from ae_models.monitoring import BatchVerdict
from ae_models.panels import brightest, contact_sheet
from ae_models.review_pictures import review_pictures
from flows.sources import Batch
from flows.tracking import ChampionVersion

MOST = 200  # images with pictures, the audited ones not counted
HIGHEST = 12  # images shown where fewer are flagged; as many as the contact sheet has
AUDITED = 40
WORST_BYTES, AUDIT_BYTES = 2_400_000, 600_000  # of pictures: with all its words a page stays below 5 MB
UNREADABLE = 200  # files named with their reasons
AT_ONCE = 32  # images in memory


@dataclass(frozen=True, eq=False)
class ScoredBatch:
    """What a batch scored: one row an image, and its verdict.

    Attributes:
        table: columns uri, score (float64; NaN where unreadable), p_value, flagged, status, reason, review.
        verdict: the batch's counts and tests.
        seconds: that scoring took.
    """

    table: pd.DataFrame
    verdict: BatchVerdict
    seconds: float

    def worst(self, count: int) -> NDArray[np.int64]:
        """Places in the table of the readable images that score highest, the worst first; `count` at most."""
        readable = np.flatnonzero(self.table["status"] == "scored")
        scores = np.nan_to_num(self.table["score"].to_numpy()[readable], nan=np.inf)
        return readable[np.argsort(-scores, kind="stable")[:count]]


@dataclass(frozen=True, eq=False)
class Report:
    """What people see of a batch.

    Attributes:
        html: the page.
        sheet: of the worst images; None where no image could be read.
        asked: by address, the picture of each image that people are asked about and that could be read again.
    """

    html: str
    sheet: Image.Image | None
    asked: Mapping[str, Image.Image]


def report_on(
    batch: Batch,
    champion: ChampionVersion,
    scored: ScoredBatch,
    more: Sequence[str],
    time: datetime,
    labels: str = "",
    asked: Sequence[str] = (),
) -> Report:
    """The report of a scored batch. What it shows is read a second time: memory does not grow with the batch.

    `labels` is where a browser shows the queue of its images, and `asked` are the addresses of those that are in it;
    both are empty where there is none.
    """
    drawing = _Drawing(champion.champion.detector, scored.table, _marks(scored), frozenset(asked))
    images = tuple(drawing.images(batch))
    verdict, table = scored.verdict, scored.table
    unreadable = table.loc[table["status"] == "unreadable", ["uri", "reason"]]
    page = BatchPage(
        title=f"Batch {batch.id}",
        state=state(verdict),
        alarm=verdict.alarm,
        sentences=verdict.sentences(),
        more=more,
        labels=labels,
        facts=_facts(champion, scored, time),
        spec=champion.champion.detector.spec,
        calibration_scores=champion.champion.calibration_scores,
        scores=table.loc[table["status"] == "scored", "score"].to_numpy(np.float64),
        threshold=champion.champion.threshold.value,
        images=images,
        shown=_shown(scored, images),
        unreadable=list(unreadable[:UNREADABLE].itertuples(index=False, name=None)),
        n_unreadable=len(unreadable),
        left_out=left_out(batch),
    )
    return Report(page.html(), drawing.sheet, drawing.asked())


def state(verdict: BatchVerdict) -> str:
    """The verdict in a word or two."""
    return f"{verdict.severity.upper()}: {verdict.diagnosis}" if verdict.alarm else "Nominal"


def left_out(batch: Batch) -> str:
    """What is said of the files beside the images; empty where there are none."""
    if not batch.left_out:
        return ""
    names = ", ".join(Path(name).name for name in batch.left_out[:3])
    return f"{len(batch.left_out):,} files are no images by name and were left out, such as {names}."


class _Drawing:
    """Draws images of a batch a few at a time: those with marks for its page, those that are asked about for its queue.

    Attributes:
        sheet: the contact sheet of the first ones, once they are drawn.
    """

    def __init__(
        self, detector: AnyDetector, table: pd.DataFrame, marks: dict[int, tuple[str, ...]], asked: frozenset[str]
    ) -> None:
        self.sheet: Image.Image | None = None
        self._detector, self._table, self._marks, self._asked = detector, table, marks, asked
        self._scores, self._p_values = (table[name].to_numpy(np.float64) for name in ("score", "p_value"))
        self._top: float | None = None
        self._left = {True: AUDIT_BYTES, False: WORST_BYTES}  # bytes, of audited images and of others
        self._found = dict[str, tuple[NDArray[np.float32], ...]]()  # of those that are asked about

    def images(self, batch: Batch) -> Iterator[ShownImage]:
        """The marked images as far as there is room for them."""
        uris = [item.uri for item in batch.items]
        places = list(dict.fromkeys([*self._marks, *(at for at, uri in enumerate(uris) if uri in self._asked)]))
        contents = (batch.items[place].content for place in places)
        for part in stream(contents, self._detector.spec, AT_ONCE):
            readable = [places[index] for index in part.indices]
            drawn = self._drawn(readable, [uris[place] for place in readable], part.pixels)
            for index in sorted([*part.indices, *(index for index, _ in part.unreadable)]):
                if (place := places[index]) not in self._marks:
                    continue
                image = self._image(place, uris[place], drawn.get(place))
                size, audited = image.pictures.size if image.pictures else 0, AUDIT in image.marks
                self._left[audited] -= size
                if self._left[audited] >= 0:
                    yield image

    def asked(self) -> dict[str, Image.Image]:
        """The pictures of those that are asked about, by address, once all were read."""
        if not self._found:
            return {}
        images, reconstructions, maps = (np.stack(each) for each in zip(*self._found.values(), strict=True))
        return dict(zip(self._found, review_pictures(images, reconstructions, maps), strict=True))

    def _drawn(self, places: list[int], uris: Sequence[str], pixels: NDArray[np.float32]) -> dict[int, Pictures]:
        maps, reconstructions = self._detector.error_maps(pixels), self._detector.reconstruct(pixels)
        for uri, *found in zip(uris, pixels, reconstructions, maps, strict=True):
            if uri in self._asked:
                self._found[uri] = tuple(found)
        if self._top is None and len(maps):
            self._top = brightest(maps)  # the worst come first: one scale for all
            kept = slice(0, HIGHEST)
            self.sheet = _sheet(self._table.iloc[places[kept]], pixels[kept], reconstructions[kept], maps[kept])
        shown = [index for index, place in enumerate(places) if place in self._marks]
        drawn = draw_pictures(pixels[shown], reconstructions[shown], maps[shown], self._top or 1.0)
        return dict(zip((places[index] for index in shown), drawn, strict=True))

    def _image(self, place: int, uri: str, pictures: Pictures | None) -> ShownImage:
        score, p_value = _finite(self._scores[place]), _finite(self._p_values[place])
        return ShownImage(uri, score, p_value, self._marks[place], pictures)


FLAGGED, UNFLAGGED, REVIEW, AUDIT = "flagged", "not flagged", "to review", "random audit"


def _marks(scored: ScoredBatch) -> dict[int, tuple[str, ...]]:
    """What is said of each image to be shown, by its place in the table, in the order in which they are shown."""
    table = scored.table
    telling = int((table["flagged"] | table["review"])[table["status"] == "scored"].sum())
    places = scored.worst(min(MOST, max(HIGHEST, telling))).tolist()
    audited = np.flatnonzero(table["audit"])[:AUDITED].tolist() if "audit" in table else []
    flagged, review = table["flagged"].to_numpy(), table["review"].to_numpy()
    marks = {}
    for place in dict.fromkeys([*places, *audited]):
        said = [FLAGGED if flagged[place] else UNFLAGGED]
        said += [REVIEW] if review[place] else []
        marks[place] = (*said, *([AUDIT] if place in audited else []))
    return marks


def _shown(scored: ScoredBatch, images: Sequence[ShownImage]) -> str:
    """Which images the page shows, and where the others are."""
    table = scored.table
    flagged = int((table["flagged"] & (table["status"] == "scored")).sum())
    shown = sum(FLAGGED in image.marks for image in images)
    if not len(images):
        return "No image could be read."
    if not flagged:
        words = "No image is flagged; these are the ones with the highest scores."
    elif shown == flagged:
        words = f"All flagged images ({flagged:,}) are here, by p-value."
    else:
        others = f"the other {flagged - shown:,} are rows of scores.parquet, beside this page"
        words = f"The worst {shown:,} of {flagged:,} flagged images are here, by p-value; {others}."
    if flagged and any(UNFLAGGED in image.marks and AUDIT not in image.marks for image in images):
        words += " After them come the highest scores of the others."
    audited = sum(AUDIT in image.marks for image in images)
    return f"{words} Of all that could be read, {audited:,} were drawn at random, for audit." if audited else words


def _facts(champion: ChampionVersion, scored: ScoredBatch, time: datetime) -> dict[str, str]:
    verdict = scored.verdict
    return {
        "images scored": f"{verdict.scored:,}",
        "flagged": f"{verdict.flagged:,}",
        "expected": f"{verdict.expected_flagged:,.3g}",
        "unreadable": f"{verdict.unreadable:,}",
        "threshold": f"{champion.champion.threshold.value:.4g}",
        "decided by version": champion.version,
        "scored": f"{time:%Y-%m-%d %H:%M} UTC",
    }


def _sheet(
    rows: pd.DataFrame,
    pixels: NDArray[np.float32],
    reconstructions: NDArray[np.float32],
    error_maps: NDArray[np.float32],
) -> Image.Image:
    captions = [
        f"{Path(uri).name}  score {score:.4g}  p {p_value:.3g}"
        for uri, score, p_value in zip(rows["uri"], rows["score"], rows["p_value"], strict=True)
    ]
    return contact_sheet(pixels, reconstructions, error_maps, captions, list(rows["flagged"]))


def _finite(number: float) -> float | None:
    return float(f"{number:.6g}") if np.isfinite(number) else None
