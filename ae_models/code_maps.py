"""The map of codes for people: a figure, and a page that shows the image under the pointer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ae_models.embeddings import CodeMap
from ae_models.pages import page, picture_address
from ae_models.panels import compact_picture

THUMBNAIL = 64  # pixels of a thumbnail's long side, at most
ALARM = "#be1e2d"
PAGE = Path(__file__).with_name("code_map.html")
COLOURS = [  # strong ones first
    matplotlib.colors.to_hex(matplotlib.colormaps["tab20"](number)) for number in (*range(0, 20, 2), *range(1, 20, 2))
]


@dataclass(frozen=True, eq=False)
class MappedImages:
    """What is known of each image on the map.

    Attributes:
        names: its file.
        kinds: its label, or its cluster's name where there are no labels; it has the colour.
        scores: (N,) float64, higher is more anomalous.
        flagged: (N,) bool, whether the threshold flags it; None where there is no threshold.
        pixels: (N, C, H, W) in [0, 1].
    """

    names: Sequence[str]
    kinds: Sequence[str]
    scores: NDArray[np.float64]
    flagged: NDArray[np.bool_] | None
    pixels: NDArray[np.float32]


def map_figure(code_map: CodeMap, images: MappedImages, title: str) -> Figure:
    """The map with a colour for each kind, the clusters' names, and a red ring around each flagged image."""
    figure = Figure(figsize=(9, 7), layout="constrained")
    axes = figure.subplots()
    kinds = np.asarray(images.kinds)
    for index, kind in enumerate(dict.fromkeys(images.kinds)):
        colour = COLOURS[index % len(COLOURS)]
        across, up = code_map.points[kinds == kind].T
        axes.scatter(across, up, s=9, color=colour, alpha=0.75, linewidths=0, label=_text(kind))
    if images.flagged is not None and images.flagged.any():
        across, up = code_map.points[images.flagged].T
        axes.scatter(across, up, s=40, facecolors="none", edgecolors=ALARM, linewidths=0.8, label="flagged")
    for name, (across, up) in zip(code_map.names, code_map.centres, strict=True):
        box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5}
        axes.text(across, up, _text(name), ha="center", va="center", fontsize=9, weight="bold", bbox=box)
    axes.set(title=_text(title), xticks=[], yticks=[])
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2, fontsize=8, frameon=False)
    return figure


def map_page(code_map: CodeMap, images: MappedImages, title: str) -> str:
    """The map as one HTML file that needs no network: pointing at an image shows it, its file and its score.

    Whatever names hold, they are shown as text: the page gets them as data, and no other script may run in it.
    """
    kinds = list(dict.fromkeys(images.kinds))
    low, high = code_map.points.min(axis=0), code_map.points.max(axis=0)
    scale = float((high - low).max()) or 1.0
    points, centres = ((places - (low + high) / 2) / scale + 0.5 for places in (code_map.points, code_map.centres))
    flags = images.flagged if images.flagged is not None else np.zeros(len(points), bool)
    data = {
        "title": title,
        "kinds": kinds,
        "colours": [COLOURS[index % len(COLOURS)] for index in range(len(kinds))],
        "clusters": [[name, *centre] for name, centre in zip(code_map.names, centres.round(4).tolist(), strict=True)],
        "images": [
            {
                "place": points[index].round(4).tolist(),
                "kind": kinds.index(images.kinds[index]),
                "score": float(f"{np.nan_to_num(images.scores[index]):.6g}"),
                "flagged": bool(flags[index]),
                "name": images.names[index],
                "thumbnail": _thumbnail(images.pixels[index]),
            }
            for index in range(len(points))
        ],
    }
    return page(PAGE, data)


def _thumbnail(pixels: NDArray[np.float32]) -> str:
    """The image (C, H, W) as a data address."""
    return picture_address(compact_picture(pixels), THUMBNAIL)


def _text(words: str) -> str:
    """The words as matplotlib shows them letter by letter: no formula between dollar signs, no hidden legend entry."""
    return words.replace("$", r"\$").removeprefix("_") or "?"
