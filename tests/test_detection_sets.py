"""The benchmarks' data sets: nominal images to learn from, labelled ones to judge by, and masks that fit them."""

import argparse
import csv
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ae_models.errors import InputError
from ae_models.images import ImageSpec
from benchmarks.detection_sets import add_arguments, digits, fashion_mnist, magnetic_tiles, mvtec_folder, sets_of

Save = Callable[[str], Path]
SPEC = ImageSpec(10, 12, 1)


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Writes a grey image of 20 x 24 at a path below the test's folder; a mask is white in its upper left quarter."""

    def write(name: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((20, 24), 90, dtype=np.uint8)
        if "mask" in name or "ground_truth" in name:
            pixels[:] = 0
            pixels[:10, :12] = 255
        Image.fromarray(pixels).save(path)
        return path

    return write


@pytest.fixture
def tiles(save: Save, tmp_path: Path) -> Path:
    """Four training tiles and three test tiles, two of them with a crack."""
    rows = [("path", "label", "tile", "split")]
    rows += [(f"nominal/{n}.jpg", "nominal", str(n // 2), "train") for n in range(4)]
    rows += [("nominal/9.jpg", "nominal", "7", "test"), ("crack/1.jpg", "crack", "8", "test")]
    rows += [("crack/2.jpg", "crack", "8", "test")]
    for path, label, _, split in rows[1:]:
        save(path)
        if label == "crack" and split == "test":
            save(f"masks/crack/{Path(path).stem}.png")
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return tmp_path


@pytest.fixture
def mvtec(save: Save, tmp_path: Path) -> Path:
    """Three nominal images for training, one for the test, and two with a hole."""
    for name in ("train/good/0", "train/good/1", "train/good/2", "test/good/0", "test/hole/0", "test/hole/1"):
        save(f"{name}.png")
    for number in range(2):
        save(f"ground_truth/hole/{number}_mask.png")
    return tmp_path


def write_fashion(folder: Path, part: str, labels: NDArray[np.uint8]) -> None:
    """Images of torchvision's Fashion-MNIST, each filled with its label."""
    folder.mkdir(parents=True, exist_ok=True)
    images = np.broadcast_to(labels[:, None, None], (len(labels), 28, 28)).astype(np.uint8)
    header = struct.pack(">IIII", 2051, len(labels), 28, 28)
    (folder / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
    (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, len(labels)) + labels.tobytes())


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    """Fashion-MNIST with 30 images for training and 20 for the test, three and two of each class."""
    raw = tmp_path / "FashionMNIST" / "raw"
    write_fashion(raw, "train", np.tile(np.arange(10, dtype=np.uint8), 3))
    write_fashion(raw, "t10k", np.tile(np.arange(10, dtype=np.uint8), 2))
    return tmp_path


def test_tiles_are_split_as_the_manifest_says(tiles: Path) -> None:
    """Training sees nominal rows of `train`; the test has the rows of `test`, with tiles as groups."""
    data = magnetic_tiles(tiles, SPEC)
    assert data.train_images.shape == (4, 1, 10, 12)
    assert data.train_groups.tolist() == ["0", "0", "1", "1"]
    assert data.test_groups.tolist() == ["7", "8", "8"]
    assert data.test_labels.tolist() == [False, True, True]
    assert data.test_defects.tolist() == ["good", "crack", "crack"]


def test_masks_have_the_size_of_the_images(tiles: Path) -> None:
    """A mask is brought to the images' size; a nominal image has an empty one."""
    masks = magnetic_tiles(tiles, SPEC).test_masks
    assert masks is not None
    assert masks.shape == (3, 10, 12)
    assert masks.sum(axis=(1, 2)).tolist() == [0, 30, 30]
    assert masks[1, :5, :6].all()


def test_a_tiny_defect_keeps_a_pixel(mvtec: Path) -> None:
    """A defect of one pixel does not vanish when its mask is reduced."""
    pixels = np.zeros((20, 24), dtype=np.uint8)
    pixels[3, 3] = 255
    Image.fromarray(pixels).save(mvtec / "ground_truth" / "hole" / "0_mask.png")
    masks = mvtec_folder(mvtec, ImageSpec(5, 6, 1)).test_masks
    assert masks is not None
    assert masks[1].sum() == 1


def test_a_folder_without_manifest_is_no_set_of_tiles(tmp_path: Path) -> None:
    """The message names the file that is looked for."""
    with pytest.raises(InputError, match=r"manifest\.csv cannot be read: give the folder of the magnetic tiles"):
        magnetic_tiles(tmp_path)


def test_mvtecs_layout_is_read(mvtec: Path) -> None:
    """Folders below test/ are defects, but for good; the size is that of the images."""
    data = mvtec_folder(mvtec)
    assert data.name == mvtec.name
    assert data.train_images.shape == (3, 1, 20, 24)
    assert data.test_defects.tolist() == ["good", "hole", "hole"]
    assert data.test_labels.tolist() == [False, True, True]
    assert data.test_masks is not None
    assert data.test_masks.any(axis=(1, 2)).tolist() == [False, True, True]


def test_a_set_without_ground_truth_has_no_masks(save: Save, tmp_path: Path) -> None:
    """Where there are no masks, pixels are not judged."""
    for name in ("train/good/0.png", "test/good/0.png", "test/hole/0.png"):
        save(name)
    assert mvtec_folder(tmp_path).test_masks is None


def test_a_defect_without_its_mask_is_refused(mvtec: Path) -> None:
    """A mask that is absent would count as a nominal image."""
    (mvtec / "ground_truth" / "hole" / "1_mask.png").unlink()
    with pytest.raises(InputError, match=r"1\.png has no mask .*1_mask\.png: every defect needs one"):
        mvtec_folder(mvtec)


def test_an_image_that_cannot_be_read_is_refused(mvtec: Path) -> None:
    """Figures would be those of another set."""
    (mvtec / "train" / "good" / "1.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"1\.png is no image.*: a benchmark needs every image of its set"):
        mvtec_folder(mvtec, SPEC)


def test_a_test_without_defects_is_refused(save: Save, tmp_path: Path) -> None:
    """There is nothing to tell apart."""
    save("train/good/0.png")
    save("test/good/0.png")
    with pytest.raises(InputError, match=r"needs a folder good and one a defect, and has \['good'\]"):
        mvtec_folder(tmp_path)


def test_one_class_of_fashion_is_nominal(fashion: Path) -> None:
    """Training has that class alone; every other class of the test is anomalous, under its name."""
    data = fashion_mnist(fashion, nominal=5)
    assert data.name == "Fashion-MNIST Sandal"
    assert data.train_images.shape == (3, 1, 28, 28)
    assert np.unique(data.train_images * 255) == pytest.approx([5])
    assert len(data.test_labels) == 20
    assert data.test_labels.sum() == 18
    assert set(data.test_defects[~data.test_labels]) == {"good"}
    assert "Ankle boot" in data.test_defects


def test_a_part_of_fashion_is_drawn_by_the_seed(fashion: Path) -> None:
    """Equal seeds draw equal images; the number is kept."""
    first, again = (fashion_mnist(fashion, 5, n_train=2, n_test=7, seed=3) for _ in range(2))
    assert (len(first.train_images), len(first.test_images)) == (2, 7)
    assert first.test_groups.tolist() == again.test_groups.tolist()
    assert first.test_groups.tolist() != fashion_mnist(fashion, 5, n_test=7, seed=4).test_groups.tolist()


def test_absent_fashion_is_said(tmp_path: Path) -> None:
    """Nothing is downloaded."""
    with pytest.raises(InputError, match=r"FashionMNIST is not in .*: give the folder it was fetched to"):
        fashion_mnist(tmp_path, 5)


def test_one_digit_is_nominal() -> None:
    """A part of its images is kept for the test; no image is in both parts."""
    data = digits(3)
    assert data.train_images.shape[1:] == (1, 8, 8)
    assert not set(data.train_groups) & set(data.test_groups)
    assert len(data.train_images) + (~data.test_labels).sum() == 183
    assert set(data.test_defects[data.test_labels]) == {str(digit) for digit in range(10)} - {"3"}


def test_a_command_names_its_sets(fashion: Path) -> None:
    """Sets come in the order of the arguments, with as many images as asked for."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    line = ["--fashion", str(fashion), "--fashion-classes", "1", "2", "--fashion-images", "2", "--digits", "7"]
    sets = list(sets_of(parser.parse_args(line), seed=0))
    assert [data.name for data in sets] == ["Fashion-MNIST Trouser", "Fashion-MNIST Pullover", "digits 7"]
    assert len(sets[0].train_images) == 2
