"""Nominal images for training: which they are, as pixels, and the sides on which they lie."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from os.path import commonpath
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ae_models.errors import InputError
from ae_models.images import ImageSpec, infer_spec, stream
from ae_models.splits import first_copies, split_by_group
from flows.config import PipelineConfig
from flows.fetching import contents_of
from flows.pixels import Decoding, Outcome, file_of, fits, free_memory
from flows.pixels import found as found_pixels
from flows.progress import Progress
from flows.requirements import calibration_images_needed, require_engine, require_enough, require_size
from flows.sources import Found, Item, content_hash


@dataclass(frozen=True)
class ReadImages:
    """Images in memory: the items that could be read, their pixels (N, C, H, W) in [0, 1], and the others' reasons."""

    items: tuple[Item, ...]
    pixels: NDArray[np.float32]
    unreadable: tuple[tuple[str, str], ...]

    @cached_property
    def groups(self) -> list[str]:
        """The group of each image; one without a group that is a copy of another, pixel for pixel, is in that one's."""
        names, first = group_names(self.items), first_copies(self.pixels)
        return [
            name if item.group is not None else names[original]
            for item, name, original in zip(self.items, names, first, strict=True)
        ]


def read_nominal(pipeline: PipelineConfig, found: Found, progress: Progress, cache: Path | None = None) -> ReadImages:
    """The nominal images, at most `training.max_images` of them drawn by the seed; in memory, or mapped from `cache`.

    Raises:
        InputError: too few of them, or of them readable, for the split and the threshold that is asked for.
    """
    data, training = pipeline.data, pipeline.training
    if found.left_out:
        progress.say(f"Left out {len(found.left_out)} files that are no images by name, such as {found.left_out[0]}.")
    require_enough(pipeline, len(found.items))
    items = found.items
    if len(items) > training.max_images:
        drawn = np.random.default_rng(training.seed).permutation(len(items))[: training.max_images]
        items = tuple(items[index] for index in np.sort(drawn))
        progress.say(f"Using {len(items)} of {len(found.items)} nominal images (training.max_images).")
    inferred = infer_spec([item.content for item in items]) if data.size is None or data.channels is None else None
    height, width = data.size or (inferred.height, inferred.width) if inferred else data.size or (0, 0)
    spec = ImageSpec(height, width, data.channels or (inferred.channels if inferred else 1))
    require_size(pipeline, spec)
    require_engine(pipeline)
    images = read_images(items, spec, "Reading nominal images", progress, cache)
    if images.unreadable:
        uri, reason = images.unreadable[0]
        progress.warn(
            f"{len(images.unreadable)} nominal images cannot be read and are left out; the first: {uri}: {reason}"
        )
    require_enough(pipeline, len(images.items))
    if images.pixels.min() == images.pixels.max():
        raise InputError(f"all {len(images.items)} nominal images are one flat colour: check data.nominal")
    return images


def read_images(
    items: Sequence[Item], spec: ImageSpec, what: str, progress: Progress, cache: Path | None = None
) -> ReadImages:
    """The items' images at the size of `spec`: in memory, or where they do not fit and there is a `cache`, mapped."""
    if cache is None or fits(len(items), spec, free_memory()):
        pixels = np.empty((len(items), *spec.shape), np.float32)
        outcome = _decode(items, spec, pixels, what, progress)
        return _read(items, pixels[: len(outcome.kept)], outcome)
    path = file_of(items, spec, cache)
    known = found_pixels(path, spec)
    if known is None:
        progress.say(f"{len(items):,} images do not fit into memory: they are decoded into {cache}.")
        file = Decoding(path, len(items), spec)
        outcome = _decode(items, spec, file.pixels, what, progress)
        known = file.done(outcome), outcome
    return _read(items, *known)


def split(pipeline: PipelineConfig, images: ReadImages) -> dict[str, NDArray[np.int64]]:
    """Indices of the images of each side (train, validation, calibration); a group is on one side only."""
    training = pipeline.training
    shares = {
        "train": 1 - training.validation_share - training.calibration_share,
        "validation": training.validation_share,
        "calibration": training.calibration_share,
    }
    least = {"calibration": calibration_images_needed(pipeline)}
    return split_by_group(images.groups, shares, training.seed, least)


def with_confirmed(
    images: ReadImages, sides: dict[str, NDArray[np.int64]], confirmed: Sequence[Item], progress: Progress
) -> tuple[ReadImages, dict[str, NDArray[np.int64]]]:
    """The images with the confirmed ones on the side of training, but for those that another side has already."""
    apart = [images.items[place] for side in ("validation", "calibration") for place in sides[side]]
    groups = {item.group for item in apart if item.group is not None}
    hashes, uris = {content_hash(item) for item in apart}, {item.uri for item in images.items}
    usable = [item for item in confirmed if item.group not in groups and item.uri not in uris]
    usable = [item for item in usable if content_hash(item) not in hashes]
    more = read_images(usable, spec_of(images.pixels), "Reading confirmed images", progress)
    start = len(images.items)
    sides = sides | {"train": np.concatenate([sides["train"], np.arange(start, start + len(more.items))])}
    pixels = np.concatenate([images.pixels, more.pixels])
    return ReadImages(images.items + more.items, pixels, images.unreadable + more.unreadable), sides


def training_groups(images: ReadImages, sides: dict[str, NDArray[np.int64]]) -> list[str]:
    """The group of each image of the training side."""
    return [images.groups[place] for place in sides["train"]]


def group_names(items: Sequence[Item]) -> list[str]:
    """The group of each image, which is its own where none is named; the same wherever the images lie."""
    common = len(commonpath([item.uri for item in items]))
    return [item.group if item.group is not None else item.uri[common:] for item in items]


def spec_of(pixels: NDArray[np.float32]) -> ImageSpec:
    """The spec of images (N, C, H, W)."""
    _, channels, height, width = pixels.shape
    return ImageSpec(height, width, channels)


def _read(items: Sequence[Item], pixels: NDArray[np.float32], outcome: Outcome) -> ReadImages:
    unreadable = tuple((items[place].uri, reason) for place, reason in outcome.unreadable)
    return ReadImages(tuple(items[place] for place in outcome.kept), pixels, unreadable)


def _decode(
    items: Sequence[Item], spec: ImageSpec, pixels: NDArray[np.float32], what: str, progress: Progress
) -> Outcome:
    """Fill `pixels` (len(items), C, H, W) from its beginning with the images that can be read."""
    kept: list[int] = []
    unreadable: list[tuple[int, str]] = []
    with progress.track(what, len(items)) as advance, contents_of(items) as contents:
        for batch in stream(contents, spec):
            start = len(kept)
            pixels[start : start + len(batch.indices)] = batch.pixels
            kept += batch.indices.tolist()
            unreadable += batch.unreadable
            advance(len(batch.indices) + len(batch.unreadable))
    return Outcome(tuple(kept), tuple(unreadable))
