"""What is done to a training input while the loss stays against the clean image.

A corruption takes clean images (N, C, H, W) in [0, 1] and a generator, and gives corrupted ones of the same shape and
range; it writes into neither. Images and generator are on the CPU, so that a seed gives the same on every device.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ae_models.errors import InputError
from ae_models.synthetic_defects import SyntheticDefectCorruption

Corruption = Callable[[Tensor, torch.Generator], Tensor]

SHAPES = ("rectangles", "blobs")
BLOB_CELLS = 4  # cells of a blob mask's smooth noise along the short side: a few blobs an image


@dataclass(frozen=True)
class GaussianNoise:
    """Noise at every pixel, drawn anew (Vincent et al., Stacked Denoising Autoencoders, 2010).

    Attributes:
        deviation: standard deviation of the noise, where white is 1.
    """

    deviation: float = 0.2

    def __post_init__(self) -> None:
        _require_positive("deviation", self.deviation)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The images with noise, cut to [0, 1]."""
        return (images + self.deviation * torch.randn(images.shape, generator=generator)).clamp(0, 1)


@dataclass(frozen=True)
class CoarseNoise:
    """Noise of low resolution, interpolated up: smooth clouds, as large as defects are (Kascenas et al., Denoising
    Autoencoders for Unsupervised Anomaly Detection in Brain MRI, 2022).

    Attributes:
        deviation: standard deviation of the noise before it is interpolated, where white is 1.
        cell: pixels between two of its values.
    """

    deviation: float = 0.3
    cell: int = 8

    def __post_init__(self) -> None:
        _require_positive("deviation", self.deviation)
        if type(self.cell) is not int or self.cell < 1:
            raise InputError(f"cell is {self.cell!r}: give a whole number of pixels from 1 on")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The images with noise, cut to [0, 1]."""
        noise = smooth_noise(tuple(images.shape), self.cell, generator)
        return (images + self.deviation * noise).clamp(0, 1)


@dataclass(frozen=True)
class Masks:
    """Parts of the image are taken out and filled with its mean colour: inpainting (Pathak et al., Context Encoders,
    2016).

    Attributes:
        share: of the image that is taken out (rectangles may overlap, and then take out less).
        shape: "rectangles" or "blobs".
        count: rectangles in an image.
    """

    share: float = 0.2
    shape: str = "rectangles"
    count: int = 3

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise InputError(f"share is {self.share!r}: give a number between 0 and 1")
        if self.shape not in SHAPES:
            raise InputError(f"shape is {self.shape!r}: choose one of {', '.join(SHAPES)}")
        if type(self.count) is not int or self.count < 1:
            raise InputError(f"count is {self.count!r}: give a whole number from 1 on")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The images with parts missing."""
        masks = self._blobs(images, generator) if self.shape == "blobs" else self._rectangles(images, generator)
        return torch.where(masks, images.mean(dim=(2, 3), keepdim=True), images)

    def _rectangles(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """(N, 1, H, W) bool: rectangles of equal area, side ratios between 1/2 and 2, wholly inside."""
        number, _, height, width = images.shape
        masks = torch.zeros(number, 1, height, width, dtype=torch.bool)
        rows, columns = torch.arange(height).reshape(1, 1, -1, 1), torch.arange(width).reshape(1, 1, 1, -1)
        for _ in range(self.count):
            stretch, down, across = torch.rand(3, number, 1, 1, 1, generator=generator)
            ratio, side = 2 ** (stretch - 0.5), math.sqrt(self.share / self.count)
            tall = (side * height * ratio).round().clamp(1, height)
            wide = (side * width / ratio).round().clamp(1, width)
            top, left = (down * (height - tall + 1)).floor(), (across * (width - wide + 1)).floor()
            masks |= (rows >= top) & (rows < top + tall) & (columns >= left) & (columns < left + wide)
        return masks

    def _blobs(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """(N, 1, H, W) bool: where smooth noise is highest."""
        number, _, height, width = images.shape
        cell = max(1, min(height, width) // BLOB_CELLS)
        noise = smooth_noise((number, 1, height, width), cell, generator)
        return noise > noise.flatten(1).quantile(1 - self.share, dim=1).reshape(-1, 1, 1, 1)


CORRUPTIONS: dict[str, Callable[..., Corruption]] = {
    "gaussian": GaussianNoise,
    "coarse": CoarseNoise,
    "masks": Masks,
    "synthetic_defects": SyntheticDefectCorruption,
}


def build_corruption(name: str, parameters: Mapping[str, Any]) -> Corruption:
    """The corruption `name`.

    Raises:
        InputError: no such corruption, or parameters that it does not take or cannot work with.
    """
    if name not in CORRUPTIONS:
        raise InputError(f"there is no corruption {name!r}: choose one of {', '.join(CORRUPTIONS)}")
    try:
        return CORRUPTIONS[name](**parameters)
    except TypeError as error:
        choices = ", ".join(signature(CORRUPTIONS[name]).parameters)
        raise InputError(f"corruption {name!r} does not take {parameters} ({error}): it takes {choices}") from error


def smooth_noise(shape: tuple[int, ...], cell: int, generator: torch.Generator) -> Tensor:
    """Normal noise (N, C, H, W) that is drawn every `cell` pixels and interpolated between; its grid is at another
    place in each call."""
    number, channels, height, width = shape
    grid = torch.randn(number, channels, height // cell + 2, width // cell + 2, generator=generator)
    size = [cell * side for side in grid.shape[2:]]
    noise = functional.interpolate(grid, size=size, mode="bilinear", align_corners=False)
    top, left = (int(offset) for offset in torch.randint(0, cell, (2,), generator=generator))
    return noise[..., top : top + height, left : left + width]


def _require_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise InputError(f"{name} is {value!r}: give a number above 0")
