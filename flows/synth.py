"""Synthetic defects of a pipeline's nominal images, written as a data set in MVTec's layout."""

import csv
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ae_models.errors import InputError
from ae_models.images import ImageSpec, infer_spec
from ae_models.panels import defect_sheet
from ae_models.synthetic_defects import KINDS, SyntheticDefects, draw_defects
from flows.config import PathSource, PipelineConfig
from flows.progress import Progress
from flows.sources import Item, nominal_items
from flows.training_images import read_images

SOURCES = 500  # nominal images that are read, at most: far more than the eye tells apart


def write_defects(
    pipeline: PipelineConfig,
    folder: Path,
    per_kind: int,
    kinds: Sequence[str] | None,
    seed: int,
    progress: Progress,
) -> tuple[str, ...]:
    """What was written into `folder`, for people; either the whole data set is there afterwards, or nothing.

    `test/KIND/000.png` and `ground_truth/KIND/000_mask.png` (white where the image changed visibly), the unchanged
    nominal images that they were made of in `test/good`, `manifest.csv` with the columns path, label, mask and source,
    and `overview.png`.

    Args:
        pipeline: its nominal images are used, 500 at most, drawn by the seed, at the pipeline's size.
        folder: absent or empty.
        per_kind: defects of each kind.
        kinds: names of `ae_models.synthetic_defects.KINDS`; None for all.
        seed: of all that is drawn.
        progress: told how far the reading is.

    Raises:
        InputError: the folder is not empty or lies among the nominal images, or no defects can be made.
    """
    folder = folder.resolve()
    _refuse_folder(folder, pipeline)
    items, images = _nominal_images(pipeline, seed, progress)
    wished = tuple(KINDS) if kinds is None else tuple(dict.fromkeys(kinds))
    defects = draw_defects(images, per_kind, seed, wished)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as parts:
        whole = Path(parts) / "whole"
        _write(defects, images, items, whole)
        whole.rename(folder)
    counts = Counter(defects.kinds.tolist())
    sentences = [f"Wrote {len(defects.kinds)} images with defects to {folder}; all kinds are seen in overview.png."]
    sentences += [f"{kind}: left out, as it cannot be seen in these images." for kind in wished if not counts[kind]]
    return tuple(sentences)


def _nominal_images(
    pipeline: PipelineConfig, seed: int, progress: Progress
) -> tuple[tuple[Item, ...], NDArray[np.float32]]:
    """At most `SOURCES` readable nominal images (N, C, H, W) in [0, 1] with their items."""
    items = nominal_items(pipeline.data).items
    places = np.sort(np.random.default_rng(seed).permutation(len(items))[:SOURCES])
    drawn = tuple(items[place] for place in places)
    inferred = infer_spec([item.content for item in drawn])
    size = pipeline.data.size or (inferred.height, inferred.width)
    spec = ImageSpec(*size, pipeline.data.channels or inferred.channels)
    images = read_images(drawn, spec, "Reading nominal images", progress)
    return images.items, images.pixels


def _write(defects: SyntheticDefects, images: NDArray[np.float32], items: Sequence[Item], folder: Path) -> None:
    rows: list[tuple[str, str, str, str]] = []
    number: Counter[str] = Counter()
    for place in np.unique(defects.sources):
        path = _numbered("test", "good", number)
        _save(images[place], folder / path)
        rows.append((path, "good", "", items[place].uri))
    for image, mask, kind, source in zip(
        defects.images, defects.masks, defects.kinds.tolist(), defects.sources, strict=True
    ):
        mask_path = f"ground_truth/{kind}/{number[kind]:03d}_mask.png"
        path = _numbered("test", kind, number)
        _save(image, folder / path)
        _save(mask[None].astype(np.float32), folder / mask_path)
        rows.append((path, kind, mask_path, items[source].uri))
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("path", "label", "mask", "source"), *rows])
    defect_sheet(defects).save(folder / "overview.png")


def _numbered(part: str, kind: str, number: Counter[str]) -> str:
    """The path of the kind's next image, counted on."""
    number[kind] += 1
    return f"{part}/{kind}/{number[kind] - 1:03d}.png"


def _save(image: NDArray[np.float32], path: Path) -> None:
    """The image (C, H, W) in [0, 1] as an 8-bit PNG, grey where it has one channel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.rint(image * 255).astype(np.uint8)
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(path)


def _refuse_folder(folder: Path, pipeline: PipelineConfig) -> None:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"{folder} is there already and not an empty folder: name another one with --output")
    nominal = pipeline.data.nominal
    if isinstance(nominal, PathSource) and not nominal.glob and folder.is_relative_to(nominal.path.resolve()):
        raise InputError(
            f"{folder} lies among the nominal images in {nominal.path}, where defects would be learnt as nominal: name "
            "another folder with --output"
        )
