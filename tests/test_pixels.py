"""Images that are decoded once: in memory while they fit, and otherwise in a file that others find."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ae_models.images import ImageSpec
from flows import pixels, training_images
from flows.folders import images_in
from flows.items import Item
from flows.pixels import Decoding, file_of, fits, free_memory, of_places, some_of
from flows.progress import LogProgress
from flows.training_images import ReadImages, read_images

SPEC = ImageSpec(16, 16, 1)
PROGRESS = LogProgress(logging.getLogger("quiet"))


@pytest.fixture
def items(small_images: Callable[..., list[Path]], tmp_path: Path) -> tuple[Item, ...]:
    """Twenty images, one of them unreadable."""
    small_images(tmp_path / "images", 20, 0)[3].write_bytes(b"no image")
    return images_in(tmp_path / "images").items


@pytest.fixture
def cramped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may take no memory any more."""
    monkeypatch.setattr(training_images, "free_memory", lambda: 0)


def read(items: tuple[Item, ...], cache: Path | None) -> ReadImages:
    """The images, read for training."""
    return read_images(items, SPEC, "Reading", PROGRESS, cache)


def test_what_fits_is_in_memory(items: tuple[Item, ...], tmp_path: Path) -> None:
    """A small set is decoded into memory and nothing is written."""
    images = read(items, tmp_path / "cache")
    assert not isinstance(images.pixels, np.memmap)
    assert not (tmp_path / "cache").exists()


def test_what_does_not_fit_is_mapped(items: tuple[Item, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same images, pixels and reasons come from a file."""
    in_memory = read(items, None)
    monkeypatch.setattr(training_images, "free_memory", lambda: 0)
    mapped = read(items, tmp_path / "cache")
    assert isinstance(mapped.pixels, np.memmap)
    assert np.array_equal(mapped.pixels, in_memory.pixels)
    assert (mapped.items, mapped.unreadable) == (in_memory.items, in_memory.unreadable)
    assert len(mapped.items) == 19


@pytest.mark.usefixtures("cramped")
def test_the_next_training_decodes_nothing(
    items: tuple[Item, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is found by the images' contents, wherever they lie now."""
    first = read(items, tmp_path / "cache")
    monkeypatch.setattr(training_images, "_decode", None)  # must not be called
    moved = (tmp_path / "images").rename(tmp_path / "moved")
    again = read(images_in(moved).items, tmp_path / "cache")
    assert np.array_equal(again.pixels, first.pixels)
    assert [Path(uri).name for uri, _ in again.unreadable] == [Path(uri).name for uri, _ in first.unreadable]


@pytest.mark.usefixtures("cramped")
def test_changed_images_are_decoded_anew(items: tuple[Item, ...], tmp_path: Path) -> None:
    """Another content is another file."""
    read(items, tmp_path / "cache")
    Image.new("L", (16, 16), 200).save(items[0].uri)
    assert read(items, tmp_path / "cache").pixels[0].min() == pytest.approx(200 / 255)
    assert len(list((tmp_path / "cache").glob("*.pixels"))) == 2


@pytest.mark.usefixtures("cramped")
def test_a_process_that_died_on_the_way_leaves_nothing_that_counts(items: tuple[Item, ...], tmp_path: Path) -> None:
    """Half a file is never taken for a whole one."""
    Decoding(file_of(items, SPEC, tmp_path / "cache"), 20, SPEC)  # never done
    assert pixels.found(file_of(items, SPEC, tmp_path / "cache"), SPEC) is None
    assert len(read(items, tmp_path / "cache").items) == 19


@pytest.mark.usefixtures("cramped")
def test_two_processes_at_once_agree(items: tuple[Item, ...], tmp_path: Path) -> None:
    """Two that decode the same images at the same time each finish, and the file is good after either."""
    path = file_of(items, SPEC, tmp_path / "cache")
    other = Decoding(path, 20, SPEC)
    first = read(items, tmp_path / "cache")
    other.pixels[:19] = first.pixels
    outcome = pixels.found(path, SPEC)
    assert outcome is not None
    second = other.done(outcome[1])
    assert np.array_equal(first.pixels, second)
    assert np.array_equal(read(items, tmp_path / "cache").pixels, second)


@pytest.mark.usefixtures("cramped")
def test_the_cache_is_bounded(items: tuple[Item, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where too many bytes would be kept, the file that was used longest ago goes; who reads it goes on."""
    first = read(items[:10], tmp_path / "cache")
    before = first.pixels.copy()
    (old,) = (tmp_path / "cache").glob("*.pixels")
    os.utime(old, (0, 0))
    monkeypatch.setattr(pixels, "KEPT_BYTES", 25 * 16 * 16 * 4)
    read(items, tmp_path / "cache")
    assert not old.exists()
    assert np.array_equal(first.pixels, before)


@pytest.mark.usefixtures("cramped")
def test_parts_of_mapped_images_are_mapped(items: tuple[Item, ...], tmp_path: Path) -> None:
    """The images of one side of the split are neither in memory nor left behind as a file."""
    images, places = read(items, tmp_path / "cache"), np.array([5, 2, 18])
    part = of_places(images.pixels, places)
    assert isinstance(part, np.memmap)
    assert np.array_equal(part, np.asarray(images.pixels)[places])
    assert len(list((tmp_path / "cache").iterdir())) == 2  # the pixels and their seal
    assert len(some_of(images.pixels, 4 * 3 * 16 * 16 * 4)) == 3


def test_free_memory_is_that_of_the_container(tmp_path: Path) -> None:
    """A limit of the control group counts where it is lower than what the machine has."""
    group = tmp_path / "sys" / "fs" / "cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("3000\n")
    (group / "memory.current").write_text("1000\n")
    assert free_memory(tmp_path) == 2000
    (group / "memory.max").write_text("max\n")
    assert free_memory(tmp_path) > 2000
    assert fits(10, SPEC, 4 * 10 * 16 * 16 * 4)
    assert not fits(10, SPEC, 4 * 10 * 16 * 16 * 4 - 1)
