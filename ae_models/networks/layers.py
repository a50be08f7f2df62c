"""What several networks are made of: the way out of a decoder, padding, and a decoder that starts from a vector."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from ae_models.errors import InputError
from ae_models.images import FeatureSpec

OUTPUTS: dict[str, type[nn.Module]] = {"sigmoid": nn.Sigmoid, "identity": nn.Identity}
SMALLEST_MAP = 7  # the long side, at most, of the map that a vector is first spread over


def output_layer(output: str) -> nn.Module:
    """The last layer of a decoder: "sigmoid" for images in [0, 1], "identity" for features of any range.

    Raises:
        InputError: no such output.
    """
    if output not in OUTPUTS:
        raise InputError(f"there is no output {output!r}: choose one of {', '.join(OUTPUTS)}")
    return OUTPUTS[output]()


def require_count(name: str, value: object) -> None:
    """Raise InputError unless the value is a whole number from 1 on."""
    if type(value) is not int or value < 1:
        raise InputError(f"{name} is {value!r}: give a whole number from 1 on")


def require_widths(widths: Sequence[int]) -> None:
    """Raise InputError unless there are widths, and all of them are whole numbers from 1 on."""
    if not widths or any(type(width) is not int or width < 1 for width in widths):
        raise InputError(f"widths {list(widths)} cannot be used: give whole numbers from 1 on, and at least one")


def pooling_factor(spec: FeatureSpec, poolings: int) -> int:
    """How many pixels of a side come to one after so many 2x2 poolings.

    Raises:
        InputError: the image is smaller than that.
    """
    factor: int = 2**poolings
    if factor > min(spec.height, spec.width):
        raise InputError(
            f"{poolings} poolings need images of at least {factor} pixels a side, and these are "
            f"{spec.height} x {spec.width}: give fewer widths"
        )
    return factor


def padded(images: Tensor, factor: int) -> Tensor:
    """The images (N, C, H, W) with their last rows and columns repeated until both sides are multiples of `factor`."""
    bottom, right = -images.shape[-2] % factor, -images.shape[-1] % factor
    return functional.pad(images, (0, right, 0, bottom), mode="replicate") if bottom or right else images


class MapDecoder(nn.Module):
    """Images from vectors: a learned map of at most 7 x 7, then nearest upsampling and convolution up to the size.

    Args:
        spec: size of the images.
        code_size: numbers in a vector.
        output: "sigmoid" or "identity".
    """

    def __init__(self, spec: FeatureSpec, code_size: int, output: str) -> None:
        super().__init__()
        self.height, self.width = spec.height, spec.width
        doublings = math.ceil(math.log2(max(1, max(spec.height, spec.width) / SMALLEST_MAP)))
        factor = 2**doublings
        widths = [max(16, 64 >> depth) for depth in range(doublings + 1)]
        self.map_shape = (widths[0], -(-spec.height // factor), -(-spec.width // factor))
        self.to_map = nn.Sequential(nn.Linear(code_size, math.prod(self.map_shape)), nn.ReLU())
        stages: list[nn.Module] = []
        for wide, narrow in pairwise(widths):
            stages += [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(wide, narrow, 3, padding=1), nn.ReLU()]
        self.from_map = nn.Sequential(*stages, nn.Conv2d(widths[-1], spec.channels, 3, padding=1), output_layer(output))

    def forward(self, codes: Tensor) -> Tensor:
        """Images (N, C, H, W) of codes (N, code_size)."""
        maps = torch.as_tensor(self.to_map(codes)).reshape(-1, *self.map_shape)
        return torch.as_tensor(self.from_map(maps))[..., : self.height, : self.width]
