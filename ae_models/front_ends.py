"""Front ends: what a network sees of an image. Each is a module from images to features that autoencoders reconstruct.

Beside the size of these, `spec`, each says where in an image its positions lie, `places`: the middles of what they see,
down (h,) and across (w,), in pixels from the first one's centre.

Features suit detection better than pixels where light, position or a fine texture vary from image to image and defects
do not look like that; which suits best differs by what is watched, so `ae_models.selection` can choose.
"""

import math
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from ae_models.backbone import Backbone
from ae_models.errors import InputError
from ae_models.filters import Across, Down, Filter, Places, between, blur, every, kept, mean, middles, slope
from ae_models.images import FeatureSpec, ImageSpec

ORIENTATIONS = 8
RIDGE_DIRECTIONS = 4  # of lines, which have no sense
DARK = 0.1  # added to intensities before the logarithm: below it, darkness is noise
FAINT = 0.05  # length of a gradient below which its direction is noise
SHARPNESS = (1.0, 2.0)  # pixels: blur before the gradients, and of their maps
FINEST_SCALE = 0.7  # pixels: deviation of the finest blur
BLOB_RATIO = 1.6  # of the two blurs of a blob, for which their difference is nearly a Laplacian
STRENGTH_BLUR = 2.0  # pixels over which a strength is taken
LEAST_SLOPE = 0.001  # of log intensity a pixel: what is flatter is not stretched to the full
LEAST_DEVIATION = 0.005  # of an image or of its contrasts; what is flatter is not stretched to the full


class Pixels(nn.Module):
    """The pixels themselves, (N, C, H, W) -> (N, C, ceil(H / step), ceil(W / step)).

    Args:
        spec: size of the images.
        step: pixels a side that are averaged into one.
        standardised: whether each image is brought to mean 0 and deviation 1, so that its light does not matter.
    """

    def __init__(self, spec: ImageSpec, step: int = 1, standardised: bool = False) -> None:
        super().__init__()
        self.step, self.standardised = step, standardised
        self.places = middles(spec.height, step), middles(spec.width, step)
        self.spec = _at(self.places, spec.channels)

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, C, h, w) of images (N, C, H, W) in [0, 1]."""
        features = functional.avg_pool2d(images, self.step, ceil_mode=True) if self.step > 1 else images
        if not self.standardised:
            return features
        centre = features.mean((1, 2, 3), keepdim=True)
        deviation = features.std((1, 2, 3), correction=0, keepdim=True)
        return (features - centre) / (deviation + LEAST_DEVIATION)


class OrientedGradients(nn.Module):
    """Strength of the edges in eight directions, (N, C, H, W) -> (N, 8, h, w); a smooth HOG (Dalal and Triggs, 2005).

    Args:
        spec: size of the images; colours are averaged.
        step: pixels between two cells.
        normalised: "cell" makes the directions of each cell one vector of about unit length, so that neither light
            nor contrast matters; "image" divides all by the image's mean strength, so that contrast within it does.
    """

    def __init__(self, spec: ImageSpec, step: int = 4, normalised: str = "cell") -> None:
        super().__init__()
        if normalised not in ("cell", "image"):
            raise InputError(f"gradients are normalised by cell or image, not by {normalised!r}: choose one of them")
        self.step, self.normalised = step, normalised
        height, width = spec.height, spec.width
        self.places = kept(height, step), kept(width, step)
        self.spec = _at(self.places, ORIENTATIONS)
        down, across = blur(height, SHARPNESS[0]), blur(width, SHARPNESS[0])
        self.across, self.down = Filter(down, slope(width) @ across), Filter(slope(height) @ down, across)
        self.cells = Filter(
            every(height, step) @ blur(height, SHARPNESS[1]), every(width, step) @ blur(width, SHARPNESS[1])
        )
        angles = torch.arange(ORIENTATIONS) * (2 * math.pi / ORIENTATIONS)
        self.register_buffer("directions", torch.stack([angles.cos(), angles.sin()])[:, :, None, None], False)

    directions: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, 8, h, w) of images (N, C, H, W) in [0, 1]."""
        grey = images.mean(1, keepdim=True)
        across, down = self.across(grey), self.down(grey)
        strengths = (functional.relu(across * along + down * upright) for along, upright in self.directions.unbind(1))
        cells = torch.cat([self.cells(each) for each in strengths], dim=1)  # one by one stays in a CPU's cache
        if self.normalised == "cell":
            return torch.as_tensor(cells / (cells.norm(dim=1, keepdim=True) + FAINT))
        strength = cells.square().sum(1, keepdim=True).mean((2, 3), keepdim=True).sqrt()
        return cells / (strength + FAINT)


class LocalContrast(nn.Module):
    """How much each pixel's log intensity differs from that of its surroundings, (N, C, H, W) -> (N, 2 C, h, w).

    The surroundings are a square, and a column (which is blind to upright texture); each difference is divided by its
    deviation in the image. What comes out is a deviation already, for which the network `none` is made.

    Args:
        spec: size of the images.
        step: pixels a side that are averaged into one, afterwards.
    """

    def __init__(self, spec: ImageSpec, step: int = 1) -> None:
        super().__init__()
        short = min(spec.height, spec.width)
        square, column = _odd(short / 6), _odd(short / 9)
        self.square = Filter(mean(spec.height, square), mean(spec.width, square))
        self.column = Down(mean(spec.height, column))
        self.step = step
        self.places = middles(spec.height, step), middles(spec.width, step)
        self.spec = _at(self.places, 2 * spec.channels)

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, 2 C, h, w) of images (N, C, H, W) in [0, 1]."""
        logarithms = (images + DARK).log()
        parts = []
        for surroundings in (self.square, self.column):
            difference = logarithms - surroundings(logarithms)
            parts.append(difference / (difference.std((2, 3), correction=0, keepdim=True) + LEAST_DEVIATION))
        features = torch.cat(parts, dim=1)
        return functional.avg_pool2d(features, self.step, ceil_mode=True) if self.step > 1 else features


class Derivatives(nn.Module):
    """Slopes and blobs at several scales, signed and in strength, (N, C, H, W) -> (N, c, h, w).

    Of the log intensity, at each scale: the slopes across and down, and the difference of two blurs (a blob); as they
    are, for objects that always lie alike, and as local strength, for textures. Each is divided by its root mean
    square in the image, so that light and contrast matter little. Of colour images also two opponent colours.

    Args:
        spec: size of the images.
        step: pixels between two positions.
    """

    def __init__(self, spec: ImageSpec, step: int = 4) -> None:
        super().__init__()
        scales = _scales(spec)
        self.scales = nn.ModuleList(_Scale(spec, step, scale) for scale in scales)
        self.coloured = spec.channels == 3
        if self.coloured:
            self.colours = nn.ModuleList(_blur(spec, step, max(1.0, 2 * scale)) for scale in scales)
        self.places = kept(spec.height, step), kept(spec.width, step)
        self.spec = _at(self.places, (6 + 2 * self.coloured) * len(scales))

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, c, h, w) of images (N, C, H, W) in [0, 1]."""
        logarithms = (images.mean(1, keepdim=True) + DARK).log()
        features = torch.cat([scale(logarithms) for scale in self.scales], dim=1)
        features = features / (features.square().mean((2, 3), keepdim=True).sqrt() + LEAST_SLOPE)
        if not self.coloured:
            return features
        red, green, blue = (images[:, channel : channel + 1] for channel in range(3))
        opponents = torch.cat([red - green, blue - (red + green) / 2], dim=1)
        return torch.cat([features, *(colour(opponents) for colour in self.colours)], dim=1)


class _Scale(nn.Module):
    """Slopes across and down and a blob at one scale, each in strength and signed, (N, 1, H, W) -> (N, 6, h, w)."""

    def __init__(self, spec: ImageSpec, step: int, scale: float) -> None:
        super().__init__()
        height, width = spec.height, spec.width
        down, across = blur(height, scale), blur(width, scale)
        self.down, self.down_slope = Down(down), Down(scale * slope(height) @ down)
        self.across, self.across_slope = Across(across), Across(scale * slope(width) @ across)
        self.wider = Filter(blur(height, BLOB_RATIO * scale), blur(width, BLOB_RATIO * scale))
        self.strength = _blur(spec, step, STRENGTH_BLUR)
        self.signed = _blur(spec, step, max(0.5, STRENGTH_BLUR - scale) if scale < STRENGTH_BLUR else 0)

    def forward(self, logarithms: Tensor) -> Tensor:
        """Maps (N, 6, h, w) of logarithms of the intensity (N, 1, H, W)."""
        fine = self.down(logarithms)
        slope_across, slope_down = self.across_slope(fine), self.across(self.down_slope(logarithms))
        parts = torch.cat([slope_across, slope_down, self.across(fine) - self.wider(logarithms)], dim=1)
        both = torch.stack([self.strength(parts.abs()), self.signed(parts)], dim=2)  # (N, 3, 2, h, w)
        return both.flatten(1, 2)


class Ridges(nn.Module):
    """Strength of bright and of dark lines in four directions at several scales, (N, C, H, W) -> (N, c, h, w).

    Of the log intensity, at each scale: the second derivative of a Gaussian, steered to each direction from three of
    them (Freeman and Adelson, 1991) and scale-normalised (Lindeberg, 1998), its positive and its negative part apart,
    as local strength. All of a scale are divided by their root mean square in the image: so light and contrast matter
    little, and a texture that all goes one way is not stretched in the others.

    Args:
        spec: size of the images; colours are averaged.
        step: pixels between two positions.
    """

    def __init__(self, spec: ImageSpec, step: int = 4) -> None:
        super().__init__()
        self.scales = nn.ModuleList(_Curvatures(spec, scale) for scale in _scales(spec))
        self.strength = _blur(spec, step, STRENGTH_BLUR)
        angles = torch.arange(RIDGE_DIRECTIONS) * (math.pi / RIDGE_DIRECTIONS)
        steering = [angles.cos().square(), 2 * angles.cos() * angles.sin(), angles.sin().square()]
        self.register_buffer("steering", torch.stack(steering, dim=1), False)
        self.places = kept(spec.height, step), kept(spec.width, step)
        self.spec = _at(self.places, 2 * RIDGE_DIRECTIONS * len(self.scales))

    steering: Tensor  # (directions, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, c, h, w) of images (N, C, H, W) in [0, 1]."""
        logarithms = (images.mean(1, keepdim=True) + DARK).log()
        parts = []
        for curvatures in self.scales:
            three = curvatures(logarithms)
            blurred = [self.strength(each) for each in three]
            strengths = []
            for weights in self.steering.unbind(0):  # one by one stays in a CPU's cache
                dark = self.strength(functional.relu(_steered(three, weights)))
                strengths += [dark, dark - _steered(blurred, weights)]  # blurs are linear: these are the bright ones
            together = torch.cat(strengths, dim=1)
            usual = together.square().mean((1, 2, 3), keepdim=True).sqrt()
            parts.append(together / (usual + LEAST_SLOPE))
        return torch.cat(parts, dim=1)


class _Curvatures(nn.Module):
    """Second derivatives across, across and down, and down at one scale, each (N, 1, H, W) -> (N, 1, H, W)."""

    def __init__(self, spec: ImageSpec, scale: float) -> None:
        super().__init__()
        self.blur = Filter(blur(spec.height, scale), blur(spec.width, scale))
        self.down, self.across = Down(scale * slope(spec.height)), Across(scale * slope(spec.width))

    def forward(self, logarithms: Tensor) -> list[Tensor]:
        """The three of logarithms of the intensity (N, 1, H, W)."""
        fine = self.blur(logarithms)
        across = self.across(fine)
        return [self.across(across), self.down(across), self.down(self.down(fine))]


def _steered(three: list[Tensor], weights: Tensor) -> Tensor:
    """The second derivative in a direction, from its weights (3,) and the three (N, 1, H, W)."""
    return torch.as_tensor(three[0] * weights[0] + three[1] * weights[1] + three[2] * weights[2])


def _scales(spec: ImageSpec) -> list[float]:
    """The deviations of the blurs, in pixels: each twice the one before, the last one if the size bears it."""
    short = min(spec.height, spec.width)
    scales = [max(FINEST_SCALE, short / 128) * 2**level for level in range(3)]
    return [scale for level, scale in enumerate(scales) if level < 2 or scale <= short / 16]


def _blur(spec: ImageSpec, step: int, deviation: float) -> Filter:
    """A blur, none where the deviation is 0, of which every `step`th position is kept."""
    sides = (spec.height, spec.width)
    return Filter(*(every(side, step) @ blur(side, deviation) if deviation else every(side, step) for side in sides))


FRONT_ENDS: dict[str, Callable[..., nn.Module]] = {
    "pixels": Pixels,
    "gradients": OrientedGradients,
    "contrast": LocalContrast,
    "derivatives": Derivatives,
    "ridges": Ridges,
    "backbone": Backbone,
}


def build_front_end(name: str, spec: ImageSpec, parameters: Mapping[str, Any]) -> nn.Module:
    """The front end `name` for images of `spec`; its attribute `spec` is the FeatureSpec of what it gives.

    Raises:
        InputError: no such front end, or parameters that it does not take.
    """
    if name not in FRONT_ENDS:
        raise InputError(f"there is no front end {name!r}: choose one of {', '.join(FRONT_ENDS)}")
    step = dict(parameters).get("step", 1)
    if type(step) is not int or not 1 <= step <= min(spec.height, spec.width):
        raise InputError(
            f"front end {name!r} cannot take every {step!r}th pixel of {spec.height} x {spec.width} images: give a "
            f"step from 1 to {min(spec.height, spec.width)}"
        )
    try:
        return FRONT_ENDS[name](spec, **parameters)
    except TypeError as error:
        choices = ", ".join(list(signature(FRONT_ENDS[name]).parameters)[1:])
        raise InputError(
            f"front end {name!r} does not take {dict(parameters)} ({error}): it takes {choices}"
        ) from error


def to_pixels(front_end: nn.Module, spec: ImageSpec) -> nn.Module:
    """From maps (N, h, w) of what a front end gives to maps (N, H, W) of the image: linear between its positions."""
    places: tuple[Places, Places] = front_end.places  # type: ignore[assignment]  # torch types attributes as modules
    sides = [np.arange(side, dtype=np.float64) for side in (spec.height, spec.width)]
    if all(np.array_equal(own, pixels) for own, pixels in zip(places, sides, strict=True)):
        return nn.Identity()
    return Filter(*(between(own, pixels) for own, pixels in zip(places, sides, strict=True)))


def local_mean(maps: Tensor, height: int, width: int) -> Tensor:
    """Means over windows of odd height and width about every position of maps (N, C, H, W); borders are repeated."""
    maps = functional.pad(maps, (width // 2, width // 2, height // 2, height // 2), mode="replicate")
    return _sums(_sums(maps, -1, width), -2, height) / (height * width)  # H + W of them, not H * W


def _sums(maps: Tensor, side: int, window: int) -> Tensor:
    """Sums over windows along a side of maps; on a CPU ten times as fast as PyTorch's pooling."""
    first, *others = (maps.narrow(side, start, maps.shape[side] + 1 - window) for start in range(window))
    return sum(others, first)


def _at(places: tuple[Places, Places], channels: int) -> FeatureSpec:
    down, across = places
    return FeatureSpec(len(down), len(across), channels)


def _odd(size: float) -> int:
    return max(3, 2 * round((size - 1) / 2) + 1)
