"""Pictures for people: input, reconstruction and error beside each other, sheets of them, curves and histograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ae_models.calibration import Threshold
    from ae_models.curves import DetectionCurves, OperatingPoint
    from ae_models.selection import Selection
    from ae_models.synthetic_defects import SyntheticDefects
    from ae_models.training import Epoch

TILE = 128
MARGIN = 8
TITLES = ("input", "reconstruction", "error map")
INK, PAPER, ALARM = (30, 30, 34), (255, 255, 255), (190, 30, 45)
HEAT = matplotlib.colormaps["inferno"](np.arange(256))[:, :3] * 255  # of errors, the brighter the larger
DIMMED = 0.6


def contact_sheet(
    images: NDArray[np.float32],
    reconstructions: NDArray[np.float32],
    error_maps: NDArray[np.float32],
    captions: Sequence[str],
    flagged: Sequence[bool],
    panels_across: int = 3,
) -> Image.Image:
    """One picture with, for each image, its input, reconstruction and error map, and a caption below.

    Args:
        images: (N, C, H, W) in [0, 1].
        reconstructions: (N, C, H, W) in [0, 1].
        error_maps: (N, H, W), drawn on one scale for all, black (none) to yellow (`brightest`, and NaN).
        captions: one an image, cut to the width of its panel.
        flagged: a flagged image has a red frame and caption, and the word FLAGGED.
        panels_across: panels in a row.
    """
    top = brightest(error_maps)
    panels = [
        _panel(
            [to_picture(image), to_picture(reconstruction), heat_map(error_map, top)],
            f"FLAGGED  {caption}" if flag else caption,
            flag,
        )
        for image, reconstruction, error_map, caption, flag in zip(
            images, reconstructions, error_maps, captions, flagged, strict=True
        )
    ]
    return _sheet(panels, min(panels_across, len(panels)))


def reconstruction_sheet(images: NDArray[np.float32], reconstructions: NDArray[np.float32]) -> Image.Image:
    """Images (N, C, H, W) in [0, 1] in the upper row, their reconstructions below them."""
    columns = [
        _stack([_tile(to_picture(image)), _tile(to_picture(reconstruction))])
        for image, reconstruction in zip(images, reconstructions, strict=True)
    ]
    return _sheet(columns, len(columns))


def image_rows(rows: Mapping[str, NDArray[np.float32]]) -> Image.Image:
    """Rows of images (N, C, H, W) in [0, 1], each below its title."""
    return _stack([part for title, images in rows.items() for part in (_title(title), _row(images))])


def defect_sheet(defects: SyntheticDefects, shown: int = 4) -> Image.Image:
    """Synthetic defects of each kind beside each other, `shown` at most, with their masks in white on black below."""
    panels = []
    for kind in dict.fromkeys(defects.kinds.tolist()):
        places = np.flatnonzero(defects.kinds == kind)[:shown]
        masks = defects.masks[places, None].astype(np.float32)
        panels.append(_titled(reconstruction_sheet(defects.images[places], masks), kind))
    return _sheet(panels, min(3, len(panels)))


def to_picture(image: NDArray[np.float32]) -> Image.Image:
    """The image (C, H, W) in [0, 1] as an 8-bit RGB picture of its own size; NaN is black."""
    pixels = _eight_bits(image)
    return Image.fromarray(np.repeat(pixels, 3, axis=2) if image.shape[0] == 1 else pixels)


def compact_picture(image: NDArray[np.float32]) -> Image.Image:
    """The same with one channel where the image (C, H, W) has one, for small files."""
    return Image.fromarray(_eight_bits(image)[..., 0]) if image.shape[0] == 1 else to_picture(image)


def _eight_bits(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(H, W, C) of an image (C, H, W) in [0, 1]; NaN is 0."""
    return np.rint(_within_unit(image) * 255).astype(np.uint8).transpose(1, 2, 0)


def _within_unit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The values, none below 0 or above 1; NaN is 0."""
    within: NDArray[np.float32] = np.fmin(np.fmax(values, 0), 1)
    return within


def _heat(error_map: NDArray[np.float32], top: float) -> NDArray[np.float32]:
    """An error map as a share of `top`, in [0, 1]; NaN is 1."""
    heat: NDArray[np.float32] = np.fmax(np.fmin(error_map / top, 1), 0)
    return heat


def heat_map(error_map: NDArray[np.float32], top: float) -> Image.Image:
    """The error map (H, W) as an RGB picture of its own size: `top` and above, and NaN, in the brightest colour."""
    heat = _heat(error_map, top)
    return Image.fromarray(HEAT.astype(np.uint8)[np.rint(heat * 255).astype(np.uint8)])


def heat_overlay(image: NDArray[np.float32], error_map: NDArray[np.float32], top: float) -> Image.Image:
    """The heat map over the image (C, H, W) in [0, 1], which is dimmed and grey so that the brightest is the error."""
    heat = _heat(error_map, top)
    below = _within_unit(image).mean(0) * (DIMMED * 255)
    share = np.minimum(1, 2 * heat)[..., None]  # weak errors shine through, strong ones cover
    pixels = below[..., None] * (1 - share) + HEAT[np.rint(heat * 255).astype(np.uint8)] * share
    return Image.fromarray(pixels.astype(np.uint8))


def brightest(error_maps: NDArray[np.float32]) -> float:
    """The error that is drawn brightest beside these maps (N, H, W): the 99.9th percentile of what is finite."""
    finite = error_maps[np.isfinite(error_maps)]
    return float(np.quantile(finite, 0.999) or finite.max()) if finite.any() else 1.0


def loss_figure(epochs: Sequence[Epoch], baseline_loss: float) -> Figure:
    """Training and validation loss by epoch, with the validation loss of principal components as a line."""
    figure, axes = _axes("epoch", "mean squared error")
    numbers = [epoch.number for epoch in epochs]
    axes.plot(numbers, [epoch.training_loss for epoch in epochs], label="training", marker=".")
    axes.plot(numbers, [epoch.validation_loss for epoch in epochs], label="validation", marker=".")
    axes.axhline(baseline_loss, linestyle="--", color="grey", label="principal components, validation")
    axes.set_yscale("log")
    axes.legend()
    return figure


def score_histogram(groups: dict[str, NDArray[np.float64]], threshold: float) -> Figure:
    """Histograms of the scores of each named group on one axis, with the threshold as a line.

    The axis is logarithmic for squared errors, and linear where a score is below 0, as those of fused detectors may be.
    """
    figure, axes = _axes("score", "share of images")
    groups = {name: scores[np.isfinite(scores)] for name, scores in groups.items()}
    edges, logarithmic = histogram_edges(groups, threshold)
    for name, scores in groups.items():
        if len(scores):
            weights = np.full(len(scores), 1 / len(scores))
            clipped = np.maximum(scores, edges[0])
            axes.hist(clipped, edges.tolist(), weights=weights, alpha=0.6, label=f"{name} ({len(scores)})")
    axes.axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.4g}")
    axes.set_xscale("log" if logarithmic else "linear")
    axes.legend()
    return figure


def histogram_edges(groups: Mapping[str, NDArray[np.float64]], threshold: float) -> tuple[NDArray[np.float64], bool]:
    """Edges (50,) of bins for finite scores and the threshold, and whether they are logarithmic: not below 0."""
    values = np.concatenate([*groups.values(), [threshold]])
    logarithmic = bool(values.min() >= 0)
    return _logarithmic_edges(values) if logarithmic else np.linspace(values.min(), values.max(), 50), logarithmic


def _logarithmic_edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    positive = values[values > 0]
    smallest, largest = (positive.min(), positive.max()) if len(positive) else (1e-6, 1.0)
    edges: NDArray[np.float64] = np.geomspace(smallest * 0.9, largest * 1.1, 50)
    return edges


def curves_figure(
    curves: dict[str, DetectionCurves], labels: dict[str, str], at: OperatingPoint | None = None
) -> Figure:
    """ROC, precision-recall and DET curves beside each other, one line for each named detector.

    The operating point of the first one is marked in them, and precision and recall by threshold stand beside them.
    """
    figure = _figure(13 if at is None else 17, 4.6)
    roc, precision_recall, det, *more = figure.subplots(1, 3 if at is None else 4)
    for name, curve in curves.items():
        roc.plot(curve.false_alarm_rate, curve.recall, label=labels[name])
        precision_recall.plot(curve.precision_recall, curve.precision, label=labels[name])
        det.plot(curve.det_false_alarm_rate, curve.det_miss_rate, label=labels[name])
    for axes, title, horizontal, vertical in (
        (roc, "ROC", "false-alarm rate", "recall"),
        (precision_recall, "precision and recall", "recall", "precision"),
        (det, "DET", "false-alarm rate", "miss rate"),
    ):
        axes.set(title=title, xlabel=horizontal, ylabel=vertical)
        axes.grid(alpha=0.3)
    det.set_xscale("symlog", linthresh=1e-3)  # logarithmic, and yet a perfect detector's rates of 0 have a place
    det.set_yscale("symlog", linthresh=1e-3)
    roc.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    if at is not None:
        places = (at.false_alarm_rate, at.recall), (at.recall, at.precision), (at.false_alarm_rate, 1 - at.recall)
        for axes, (across, up) in zip((roc, precision_recall, det), places, strict=True):
            axes.plot(across, up, "ko", markersize=7, label="the threshold")
        _draw_by_threshold(more[0], next(iter(curves.values())), at.threshold)
    figure.legend(*roc.get_legend_handles_labels(), loc="outside lower center", ncols=len(curves) + 1)
    return figure


def _draw_by_threshold(axes: Axes, curve: DetectionCurves, threshold: float) -> None:
    thresholds = curve.precision_recall_thresholds
    axes.step(thresholds, curve.precision[:-1], where="post", label="precision")
    axes.step(thresholds, curve.precision_recall[:-1], where="post", linestyle="--", label="recall")
    axes.axvline(threshold, color="black", linestyle=":", label=f"threshold {threshold:.4g}")
    axes.set(title="precision and recall by threshold", xlabel="threshold", ylim=(-0.03, 1.03))
    axes.grid(alpha=0.3)
    axes.legend()


def recipe_figure(selection: Selection, defects: str) -> Figure:
    """AUROC of every recipe by kind of defect as a heat map, the best recipe first; chosen ones are marked."""
    table = selection.table()
    kinds = list(selection.trials[0].aurocs)
    values = np.array([[float(row.get(kind, np.nan)) for kind in kinds] for row in table])
    figure = _figure(4.5 + 0.7 * len(kinds), 1.6 + 0.3 * len(table))
    axes = figure.subplots()
    picture = axes.imshow(values, cmap="viridis", vmin=0.5, vmax=1, aspect="auto")
    names = [f"{'* ' if row['chosen'] else ''}{row['recipe']}" for row in table]
    axes.set_yticks(range(len(table)), names, fontsize=8)
    axes.set_xticks(range(len(kinds)), kinds, rotation=45, ha="right", fontsize=8)
    for (row, column), value in np.ndenumerate(values):
        words = "taught" if np.isnan(value) else f"{value:.2f}"  # what a network learned from says nothing of it
        axes.text(column, row, words, ha="center", va="center", fontsize=7, color="w" if value < 0.8 else "k")
    axes.set_title(f"AUROC on {defects}; * in the detector", fontsize=10)
    figure.colorbar(picture, shrink=0.6)
    return figure


def threshold_caption(threshold: Threshold) -> str:
    """The threshold in one line, with the band in which its false-alarm rate lies."""
    low, high = threshold.false_alarm_band
    return f"threshold {threshold.value:.4g}: {low:.2%} to {high:.2%} of nominal images lie above it (90% band)"


def _figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    from matplotlib.figure import Figure  # the sheets of a scored batch can do without

    return Figure(figsize=(width, height), layout="constrained")


def _axes(across: str, up: str) -> tuple[Figure, Axes]:
    figure = _figure(8, 4.5)
    axes = figure.subplots()
    axes.set(xlabel=across, ylabel=up)
    axes.grid(alpha=0.3)
    return figure, axes


def _panel(pictures: Sequence[Image.Image], caption: str, flagged: bool) -> Image.Image:
    tiles = [_tile(picture) for picture in pictures]
    width, height = len(tiles) * (TILE + MARGIN) - MARGIN, max(tile.height for tile in tiles)
    panel = Image.new("RGB", (width + 2 * MARGIN, height + 52), PAPER)
    draw, colour = ImageDraw.Draw(panel), ALARM if flagged else INK
    left = MARGIN
    for tile, title in zip(tiles, TITLES, strict=True):
        draw.text((left, 2), title, fill=INK, font=_font(11))
        panel.paste(tile, (left, 20))
        left += TILE + MARGIN
    draw.text((MARGIN, height + 24), _cut(draw, caption, width), fill=colour, font=_font(12))
    if flagged:
        draw.rectangle((0, 0, panel.width - 1, panel.height - 1), outline=ALARM, width=2)
    return panel


def _title(text: str) -> Image.Image:
    font = _font(14)
    line = Image.new("RGB", (round(font.getlength(text)) + 2 * MARGIN, 24), PAPER)
    ImageDraw.Draw(line).text((MARGIN, 4), text, fill=INK, font=font)
    return line


def _row(images: NDArray[np.float32]) -> Image.Image:
    return _sheet([_tile(to_picture(image)) for image in images], len(images))


def _titled(picture: Image.Image, title: str) -> Image.Image:
    titled = Image.new("RGB", (picture.width, picture.height + 16), PAPER)
    ImageDraw.Draw(titled).text((MARGIN, 0), title, fill=INK, font=_font(12))
    titled.paste(picture, (0, 16))
    return titled


def _tile(picture: Image.Image) -> Image.Image:
    """The picture brought to `TILE` pixels on its long side; small ones keep their pixels visible."""
    factor = TILE / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BOX)


def _stack(pictures: Sequence[Image.Image]) -> Image.Image:
    stack = Image.new("RGB", (max(p.width for p in pictures), sum(p.height + 4 for p in pictures)), PAPER)
    top = 0
    for picture in pictures:
        stack.paste(picture, (0, top))
        top += picture.height + 4
    return stack


def _sheet(panels: Sequence[Image.Image], across: int) -> Image.Image:
    width, height = max(p.width for p in panels) + MARGIN, max(p.height for p in panels) + MARGIN
    rows = -(-len(panels) // across)
    sheet = Image.new("RGB", (across * width + MARGIN, rows * height + MARGIN), PAPER)
    for index, panel in enumerate(panels):
        sheet.paste(panel, (MARGIN + index % across * width, MARGIN + index // across * height))
    return sheet


@cache  # Pillow reads it anew each time
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _cut(draw: ImageDraw.ImageDraw, text: str, width: int) -> str:
    """The text cut in its middle to `width` pixels, control characters shown as question marks."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    shown, keep, font = text, min(len(text), width), _font(12)  # a letter is about six pixels wide
    while (len(shown) > width or draw.textlength(shown, font=font) > width) and keep > 4:
        keep -= 2
        shown = f"{text[: keep // 2]}...{text[-(keep // 2) :]}"
    return shown
