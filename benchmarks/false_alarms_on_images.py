"""The same promises on real images: many splits, the pipeline's own decoding, baseline, threshold and verdict.

Splits share images, so that the intervals of what they realise together are too narrow.
"""

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from scipy.stats import binom

from ae_models.baselines import fit_principal_components
from ae_models.batch_tests import overdispersion
from ae_models.calibration import conformal_threshold
from ae_models.curves import auroc, group_numbers, percent
from ae_models.detector import Detector
from ae_models.images import ImageSpec, Source, stream
from ae_models.monitoring import UNEQUAL, BatchVerdict, batch_verdict
from ae_models.panels import score_histogram
from ae_models.splits import groups_of, near_duplicates, perceptual_hashes, split_by_group
from benchmarks.false_alarms_table import Row, at_most, rate_of, told

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Images:
    """Nominal images and the group (tile, or set of near-duplicates) of each."""

    pixels: NDArray[np.float32]
    groups: tuple[str, ...]

    def at(self, places: NDArray[np.int64]) -> "Images":
        """Those at these places."""
        return Images(self.pixels[places], tuple(self.groups[place] for place in places))


@dataclass(frozen=True)
class Set:
    """A data set as the benchmark cuts it up."""

    name: str
    images: Images
    rate: float
    batch_size: int


def data_rows(folder: Path, splits: int, pictures: Path | None) -> Iterator[Row]:
    """The rows of each data set that the folder holds."""
    if (folder / "fashion-mnist").is_dir():
        yield from promises(Set("Fashion-MNIST, ankle boots", ankle_boots(folder / "fashion-mnist"), 0.01, 100), splits)
    if (folder / "magnetic-tiles" / "manifest.csv").is_file():
        train, test = (_tiles(folder / "magnetic-tiles", split) for split in ("train", "test"))
        yield from promises(Set("magnetic tiles", train, 0.05, 48), splits)
        yield from other_light(Set("magnetic tiles", train, 0.02, 48), test, splits, pictures)


def promises(of: Set, splits: int) -> Iterator[Row]:
    """Splits by group into fitting (40%), calibration (25%) and images at work, in random order and group by group."""
    counts, totals = Counter[str](), Counter[str]()
    for seed in track(range(splits), of.name):
        sides = split_by_group(of.images.groups, {"fit": 0.4, "calibration": 0.25, "work": 0.35}, seed)
        detector = _fitted(of.images.pixels[sides["fit"]], seed)
        nominal, work = detector.score(of.images.pixels[sides["calibration"]]), of.images.at(sides["work"])
        scores, random = detector.score(work.pixels), np.random.default_rng(seed)
        flags = conformal_threshold(nominal, of.rate).flags(scores)
        counts["images"] += int(flags.sum())
        totals["images"] += flags.size
        orders = {"random": random.permutation(flags.size), "grouped": _group_by_group(work.groups, random)}
        for name, order in orders.items():
            verdicts = _judged(scores[order], nominal, of)
            sizes = [(verdict.flagged, verdict.scored) for verdict in verdicts]
            counts[f"{name} all tests"] += sum(verdict.alarm for verdict in verdicts)
            counts[f"{name} flagged, exact"] += sum(verdict.flagged_p_value <= 0.005 for verdict in verdicts)
            counts[f"{name} flagged, naive"] += sum(bool(binom.sf(x - 1, m, of.rate) <= 0.005) for x, m in sizes)
            totals[name] += len(verdicts)
        for name, kept in (("theirs", flags), ("shuffled", flags[orders["random"]])):
            dispersion = overdispersion(_by_group(kept, work.groups))
            counts[name] += dispersion is not None and dispersion >= UNEQUAL
    images = rate_of(counts["images"], totals["images"])
    yield Row(of.name, f"images, {splits} splits by group", percent(of.rate), told(images), at_most(images, of.rate))
    for name, batches in (("random", "random batches"), ("grouped", "batches group by group")):
        for test, promise in (("all tests", 0.01), ("flagged, exact", 0.005), ("flagged, naive", 0.005)):
            found = rate_of(counts[f"{name} {test}"], totals[name])
            within = "naive" in test or at_most(found, promise)
            yield Row(of.name, f"{batches} of {of.batch_size}, {test}", percent(promise), told(found), within)
    differ = f"in {counts['theirs']} of {splits} splits; shuffled, in {counts['shuffled']}"
    yield Row(of.name, "groups differ by more than chance", "", differ, counts["shuffled"] <= 0.1 * splits)


def other_light(of: Set, others: Images, splits: int, pictures: Path | None) -> Iterator[Row]:
    """Other tiles in other light: when they are noticed, what they are called, and what a recalibration mends.

    Held out at random, images of the tiles that the network was fitted on calibrate: too low a threshold for others.
    """
    alone = Images(of.images.pixels, tuple(map(str, range(len(of.images.groups)))))
    for images, held_out in ((alone, "calibrated on a random hold-out"), (of.images, "calibrated on other tiles")):
        first, names, before, after, areas = [], Counter[str](), Counter[bool](), Counter[bool](), []
        for seed in track(range(splits), f"{of.name}, {held_out}"):
            sides = split_by_group(images.groups, {"fit": 0.6, "calibration": 0.4}, seed)
            detector = _fitted(images.pixels[sides["fit"]], seed)
            nominal, scores = detector.score(images.pixels[sides["calibration"]]), detector.score(others.pixels)
            verdicts = _judged(scores[_group_by_group(others.groups, np.random.default_rng(seed))], nominal, of)
            first.append(next((place for place, verdict in enumerate(verdicts, 1) if verdict.alarm), np.inf))
            names.update(verdict.diagnosis for verdict in verdicts)
            halves = split_by_group(others.groups, {"audit": 0.5, "work": 0.5}, seed)
            audit, work = scores[halves["audit"]], scores[halves["work"]]
            before.update(conformal_threshold(nominal, of.rate).flags(work).tolist())
            after.update(conformal_threshold(audit, of.rate).flags(work).tolist())
            truth = np.arange(nominal.size + scores.size) >= nominal.size
            areas.append(auroc(np.concatenate([nominal, scores]), truth).value)
        if pictures and images is alone:
            pictures.mkdir(parents=True, exist_ok=True)
            groups = {"calibration": nominal, "other tiles, other light": scores}
            score_histogram(groups, conformal_threshold(nominal, of.rate).value).savefig(pictures / "moved.png", dpi=90)
        name, total = f"{of.name} in other light, {held_out}", sum(names.values())
        yield Row(name, "scores against the calibration's", "AUROC 0.5", f"AUROC {np.mean(areas):.2f}", True)
        early = f"by the second in {np.mean(np.array(first) <= 2):.0%} of splits"
        yield Row(
            name,
            f"first alarm, batches of {of.batch_size}",
            "",
            f"{_number(float(np.median(first)))} (median), {early}",
            True,
        )
        shares = ", ".join(f"{name} {count / total:.0%}" for name, count in names.most_common())
        yield Row(name, "what ails them", "moved", shares, names["moved"] >= names["defects"])
        for what, counted in (("images", before), ("images, calibrated again on half of them", after)):
            rate = rate_of(counted[True], counted.total())
            yield Row(name, what, percent(of.rate), told(rate), counted is before or at_most(rate, of.rate))


def _judged(scores: Scores, nominal: Scores, of: Set) -> list[BatchVerdict]:
    """The verdicts of whole batches, in order."""
    threshold = conformal_threshold(nominal, of.rate)
    batches = [
        scores[start : start + of.batch_size] for start in range(0, scores.size - of.batch_size + 1, of.batch_size)
    ]
    return [
        batch_verdict(
            batch.size,
            int(threshold.flags(batch).sum()),
            0,
            threshold,
            0.01,
            0.01,
            scores=batch,
            calibration_scores=nominal,
        )
        for batch in batches
    ]


def _number(batch: float) -> str:
    return f"batch {batch:g}" if np.isfinite(batch) else "none"


def _by_group(flags: NDArray[np.bool_], groups: Sequence[str]) -> list[tuple[int, int]]:
    """(flagged, images) of each group."""
    numbers = group_numbers(groups, flags.size)
    return list(zip(np.bincount(numbers, flags).astype(int).tolist(), np.bincount(numbers).tolist(), strict=True))


def _group_by_group(groups: Sequence[str], random: np.random.Generator) -> NDArray[np.int64]:
    """The places of the images in an order in which those of a group follow each other."""
    drawn = {group: place for place, group in enumerate(random.permutation(sorted(set(groups))).tolist())}
    return np.argsort([drawn[group] for group in groups], kind="stable").astype(np.int64)


def _fitted(pixels: NDArray[np.float32], seed: int) -> Detector:
    channels, height, width = pixels.shape[1:]
    spec = ImageSpec(height, width, channels)
    return Detector(spec, "pca", {}, fit_principal_components(pixels, spec, 64, seed))


def _decoded(sources: Sequence[Source], spec: ImageSpec) -> NDArray[np.float32]:
    return np.concatenate([batch.pixels for batch in stream(sources, spec)])


def nominal_tiles(folder: Path, split: str) -> dict[Path, str]:
    """The tile on each nominal image of a split, "train" or "test"."""
    with (folder / "manifest.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["label"] == "nominal" and row["split"] == split]
    return {folder / row["path"]: row["tile"] for row in rows}


def _tiles(folder: Path, split: str) -> Images:
    tiles = nominal_tiles(folder, split)
    return Images(_decoded(list(tiles), ImageSpec(64, 64, 1)), tuple(tiles.values()))


def ankle_boots(folder: Path) -> Images:
    """Those of Fashion-MNIST, 28 x 28, in groups of near-duplicates."""
    from torchvision.datasets import FashionMNIST  # takes seconds to import, which simulations alone can do without

    found = [FashionMNIST(str(folder), train=train) for train in (True, False)]
    arrays = np.concatenate([data.data[data.targets == data.class_to_idx["Ankle boot"]].numpy() for data in found])
    pixels = _decoded(list(arrays), ImageSpec(28, 28, 1))
    groups = groups_of(near_duplicates(perceptual_hashes(pixels)), len(pixels))
    return Images(pixels, tuple(map(str, groups)))
