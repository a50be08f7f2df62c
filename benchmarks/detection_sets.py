"""The labelled data sets that detection is judged on, each loaded to one form: nominal training images, labelled test.

No set is downloaded: the folders are arguments.
"""

import argparse
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ae_models.errors import InputError
from ae_models.images import ImageSpec, infer_spec, looks_like_a_document, stream

TILE_SIZE = ImageSpec(128, 128, 1)
DIGITS_FOR_TEST = 0.3  # of the nominal ones
NOMINAL = "good"


@dataclass(frozen=True, eq=False)
class DetectionSet:
    """A data set on which detectors are compared: training sees nominal images only.

    Attributes:
        name: as it stands in tables.
        train_images: nominal images (N, C, H, W) float32 in [0, 1].
        train_groups: (N,) str; images of one group show the same thing.
        test_images: (M, C, H, W) float32 in [0, 1].
        test_groups: (M,) str, as above; no group is in both parts.
        test_labels: (M,) bool, true where anomalous.
        test_masks: (M, H, W) bool, true where the defect is; None where the set has none.
        test_defects: (M,) str, the name of the defect, "good" where nominal.
    """

    name: str
    train_images: NDArray[np.float32]
    train_groups: NDArray[np.str_]
    test_images: NDArray[np.float32]
    test_groups: NDArray[np.str_]
    test_labels: NDArray[np.bool_]
    test_masks: NDArray[np.bool_] | None
    test_defects: NDArray[np.str_]


def magnetic_tiles(folder: Path, spec: ImageSpec = TILE_SIZE) -> DetectionSet:
    """Surface defects of magnetic tiles (Huang et al., 2018), split by tile as `manifest.csv` says.

    Args:
        folder: with `manifest.csv` (path, label, tile, split) and `masks/LABEL/NAME.png`.
        spec: the size that images are brought to.

    Raises:
        InputError: the manifest or an image cannot be read.
    """
    try:
        rows = list(csv.DictReader((folder / "manifest.csv").read_text(encoding="utf-8").splitlines()))
    except OSError as error:
        raise InputError(f"{folder / 'manifest.csv'} cannot be read: give the folder of the magnetic tiles") from error
    train = [row for row in rows if row["split"] == "train"]
    test = [row for row in rows if row["split"] == "test"]
    masks = [
        None if row["label"] == "nominal" else folder / "masks" / row["label"] / f"{Path(row['path']).stem}.png"
        for row in test
    ]
    return DetectionSet(
        name="magnetic tiles",
        train_images=_read([folder / row["path"] for row in train], spec),
        train_groups=np.array([row["tile"] for row in train]),
        test_images=_read([folder / row["path"] for row in test], spec),
        test_groups=np.array([row["tile"] for row in test]),
        test_labels=np.array([row["label"] != "nominal" for row in test]),
        test_masks=_read_masks(masks, spec),
        test_defects=np.array([row["label"].replace("nominal", NOMINAL) for row in test]),
    )


def fashion_mnist(
    folder: Path, nominal: int, n_train: int | None = None, n_test: int | None = None, seed: int = 0
) -> DetectionSet:
    """Fashion-MNIST (Xiao et al., 2017) with one class as nominal; every other class is anomalous.

    Args:
        folder: torchvision's root, in which `FashionMNIST/raw` lies.
        nominal: the class, 0 to 9.
        n_train: training images drawn by the seed; all 6,000 by default.
        n_test: test images drawn by the seed, of all classes; all 10,000 by default.
        seed: of what is drawn.

    Raises:
        InputError: torchvision does not find the data set there.
    """
    from torchvision.datasets import FashionMNIST

    try:
        train, test = (FashionMNIST(folder, train=part) for part in (True, False))
    except RuntimeError as error:
        raise InputError(f"torchvision's FashionMNIST is not in {folder}: give the folder it was fetched to") from error
    rng = np.random.default_rng(seed)
    train_places = _drawn(np.flatnonzero(train.targets.numpy() == nominal), n_train, rng)
    test_places = _drawn(np.arange(len(test.targets)), n_test, rng)
    labels = test.targets.numpy()[test_places] != nominal
    names = np.array([*test.classes])[test.targets.numpy()[test_places]]
    return DetectionSet(
        name=f"Fashion-MNIST {test.classes[nominal]}",
        train_images=_unit(train.data.numpy()[train_places], 255),
        train_groups=train_places.astype(str),
        test_images=_unit(test.data.numpy()[test_places], 255),
        test_groups=np.array([f"test {place}" for place in test_places]),
        test_labels=labels,
        test_masks=None,
        test_defects=np.where(labels, names, NOMINAL),
    )


def digits(nominal: int, seed: int = 0) -> DetectionSet:
    """The digits that come with scikit-learn (8 x 8) with one as nominal, 30 % of which are kept for the test."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images, targets = _unit(data.images, 16), data.target
    places = np.random.default_rng(seed).permutation(np.flatnonzero(targets == nominal))
    kept, train = np.split(places, [round(DIGITS_FOR_TEST * len(places))])
    test = np.concatenate([kept, np.flatnonzero(targets != nominal)])
    labels = targets[test] != nominal
    return DetectionSet(
        name=f"digits {nominal}",
        train_images=images[train],
        train_groups=train.astype(str),
        test_images=images[test],
        test_groups=test.astype(str),
        test_labels=labels,
        test_masks=None,
        test_defects=np.where(labels, targets[test].astype(str), NOMINAL),
    )


def mvtec_folder(folder: Path, spec: ImageSpec | None = None) -> DetectionSet:
    """A folder in the layout of MVTec AD (Bergmann et al., 2019).

    Args:
        folder: with `train/good/*`, `test/good/*`, `test/DEFECT/*`, and maybe `ground_truth/DEFECT/NAME_mask.png`.
        spec: the size that images are brought to; by default what the training images call for.

    Raises:
        InputError: a part of the layout is absent, or an image cannot be read.
    """
    train = _images_in(folder / "train" / NOMINAL)
    kinds = sorted(path.name for path in (folder / "test").glob("*") if path.is_dir())
    if NOMINAL not in kinds or len(kinds) < 2:
        raise InputError(f"{folder / 'test'} needs a folder good and one a defect, and has {kinds}: see MVTec's layout")
    spec = spec or infer_spec(train)
    test = [(path, kind) for kind in kinds for path in _images_in(folder / "test" / kind)]
    truth = folder / "ground_truth"
    with_masks = truth.is_dir()
    masks = [_mask_of(truth / kind, path) if with_masks and kind != NOMINAL else None for path, kind in test]
    return DetectionSet(
        name=folder.resolve().name,
        train_images=_read(train, spec),
        train_groups=np.array([f"train/{path.name}" for path in train]),
        test_images=_read([path for path, _ in test], spec),
        test_groups=np.array([f"{kind}/{path.name}" for path, kind in test]),
        test_labels=np.array([kind != NOMINAL for _, kind in test]),
        test_masks=_read_masks(masks, spec) if with_masks else None,
        test_defects=np.array([kind for _, kind in test]),
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name data sets to a benchmark's command."""
    parser.add_argument("--tiles", type=Path, help="the folder of the magnetic tiles, with manifest.csv")
    parser.add_argument("--fashion", type=Path, help="torchvision's folder of Fashion-MNIST")
    parser.add_argument("--fashion-classes", type=int, nargs="+", default=list(range(10)), metavar="CLASS")
    parser.add_argument("--fashion-images", type=int, metavar="N", help="training and test images drawn by the seed")
    parser.add_argument("--digits", type=int, nargs="+", default=[], metavar="DIGIT", help="scikit-learn's digits")
    parser.add_argument("--folders", type=Path, nargs="+", default=[], help="folders in MVTec's layout")


def sets_of(arguments: argparse.Namespace, seed: int) -> Iterator[DetectionSet]:
    """The data sets that the arguments name, one after the other, so that only one is in memory."""
    if arguments.tiles is not None:
        yield magnetic_tiles(arguments.tiles)
    if arguments.fashion is not None:
        n = arguments.fashion_images
        yield from (fashion_mnist(arguments.fashion, number, n, n, seed) for number in arguments.fashion_classes)
    yield from (digits(number, seed) for number in arguments.digits)
    yield from (mvtec_folder(folder) for folder in arguments.folders)


def _read(paths: Sequence[Path], spec: ImageSpec) -> NDArray[np.float32]:
    """The images (N, C, H, W) in [0, 1]; one that cannot be read would change what is measured, so it is an error."""
    images = np.empty((len(paths), *spec.shape), dtype=np.float32)
    for batch in stream(paths, spec):
        for place, reason in batch.unreadable:
            raise InputError(f"{paths[place]} {reason}: a benchmark needs every image of its set")
        images[batch.indices] = batch.pixels
    return images


def _read_masks(paths: Sequence[Path | None], spec: ImageSpec) -> NDArray[np.bool_]:
    """The masks (N, H, W), empty for None; a defect that all but vanishes at this size keeps its strongest pixel."""
    grey = ImageSpec(spec.height, spec.width, 1)
    masks = np.zeros((len(paths), spec.height, spec.width), dtype=bool)
    places = [place for place, path in enumerate(paths) if path is not None]
    shares = _read([path for path in paths if path is not None], grey)[:, 0]
    most = shares.max(axis=(1, 2), initial=0, keepdims=True)
    masks[places] = (shares >= np.minimum(0.5, most)) & (most > 0)
    return masks


def _images_in(folder: Path) -> list[Path]:
    paths = [path for path in sorted(folder.glob("*")) if path.is_file() and not looks_like_a_document(path)]
    if not paths:
        raise InputError(f"there is no image in {folder}: give a folder in MVTec's layout")
    return paths


def _mask_of(folder: Path, image: Path) -> Path:
    named = [folder / f"{image.stem}_mask.png", folder / f"{image.stem}.png"]
    found = next((path for path in named if path.is_file()), None)
    if found is None:
        raise InputError(f"{image} has no mask {named[0]}: every defect needs one where there is a ground_truth")
    return found


def _drawn(places: NDArray[np.int64], n: int | None, rng: np.random.Generator) -> NDArray[np.int64]:
    return places if n is None else np.sort(rng.permutation(places)[:n])


def _unit(images: NDArray[np.number], white: int) -> NDArray[np.float32]:
    """Images (N, H, W) from 0 to `white` as (N, 1, H, W) float32 in [0, 1]."""
    unit: NDArray[np.float32] = (images[:, None] / np.float32(white)).astype(np.float32)
    return unit
