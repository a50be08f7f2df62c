"""The picture of docs/guide/detection.md: one image with a defect, and what each front end and its score make of it.

    python -m benchmarks.recipe_picture --tiles FOLDER [--output docs/pictures/recipes.png]

Without --tiles the image is one of scikit-learn's digits.
"""

import argparse
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ae_models.images import ImageSpec
from ae_models.scoring import Score, ScoreDesign
from ae_models.selection import (
    Fitting,
    NominalParts,
    Recipe,
    errors_of,
    fit_recipe,
    linear_recipes,
    trained_recipes,
)
from benchmarks.detection_sets import DetectionSet, digits, magnetic_tiles

USUAL_SHARE = 0.25
COLUMNS = ("the front end sees", "squared error", "smoothed", "over what is usual there")


def recipe_picture(data: DetectionSet, place: int) -> Figure:
    """Rows of front ends: what each sees of a test image, its error map, smoothed, and over what is usual there."""
    image = data.test_images[place : place + 1]
    mask = data.test_masks[place] if data.test_masks is not None else None
    _, channels, height, width = data.train_images.shape
    spec = ImageSpec(height, width, channels)
    shown: dict[tuple[str, str], Recipe] = {}
    for recipe in linear_recipes(spec) + trained_recipes(spec):
        shown.setdefault((recipe.view, recipe.network), recipe)
    recipes = list(shown.values())
    figure = Figure(figsize=(9.2, 1.75 * len(recipes) + 0.3), layout="constrained")
    rows = figure.subplots(len(recipes), 1 + len(COLUMNS))
    for row, recipe in zip(rows, recipes, strict=True):
        seen, maps = _seen_and_maps(recipe, data.train_images, image)
        _show(row[0], image[0].mean(0), "gray")
        if mask is not None and mask.any():
            row[0].contour(mask, levels=[0.5], colors="red", linewidths=0.8)
        row[0].set_ylabel(recipe.name.partition(", ")[0].replace(" on ", "\non "), fontsize=8)
        _show(row[1], seen, "gray")
        for axes, map_ in zip(row[2:], maps, strict=True):
            _show(axes, map_, "inferno")
    for axes, title in zip(rows[0], ("the image", *COLUMNS), strict=True):
        axes.set_title(title, fontsize=9)
    return figure


def _seen_and_maps(
    recipe: Recipe, nominal: NDArray[np.float32], image: NDArray[np.float32]
) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
    """What is seen of the image, one channel (h, w) or the strength of all, and three error maps (h, w) of it."""
    first_usual = round(len(nominal) * (1 - USUAL_SHARE))
    fit, usual_images = nominal[:first_usual], nominal[first_usual:]
    detector = fit_recipe(recipe, NominalParts(fit, usual_images, usual_images), Fitting())
    with torch.inference_mode():
        features = detector.front_end(torch.from_numpy(image))[0]
    strengths = recipe.front_end in ("gradients", "ridges")
    seen = features.square().sum(0).sqrt() if strengths else features[0]
    usual, errors = (torch.cat([*errors_of(detector, (some,))]) for some in (usual_images, image))
    maps = []
    for design in (ScoreDesign(), ScoreDesign(3), ScoreDesign(3, True)):
        score = Score(design, *errors.shape[1:])
        score.fit(usual)
        maps.append(score.maps(errors)[0].numpy())
    return seen.numpy(), maps


def _show(axes: Axes, map_: NDArray[np.float32], colours: str) -> None:
    axes.imshow(map_, cmap=colours, interpolation="nearest")
    axes.set(xticks=[], yticks=[])


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=Path, help="the folder of the magnetic tiles, with manifest.csv")
    parser.add_argument("--defect", default="crack", help="the label of the tile")
    parser.add_argument("--number", type=int, default=0, help="which of the images with this label")
    parser.add_argument("--output", type=Path, default=Path("docs/pictures/recipes.png"))
    arguments = parser.parse_args()
    data = magnetic_tiles(arguments.tiles) if arguments.tiles else digits(0)
    order = np.random.default_rng(0).permutation(len(data.train_images))  # neighbours in a folder are alike
    data = replace(data, train_images=data.train_images[order])
    wanted = data.test_defects == arguments.defect if arguments.tiles else data.test_labels
    place = int(np.flatnonzero(wanted)[arguments.number])
    drawn = io.BytesIO()
    recipe_picture(data, place).savefig(drawn, dpi=70)
    with Image.open(drawn) as picture:
        picture.convert("RGB").quantize(64).save(arguments.output, optimize=True)


if __name__ == "__main__":
    main()
