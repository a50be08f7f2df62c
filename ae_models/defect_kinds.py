"""How each kind of synthetic defect is made: one nominal image in, the same image with one defect out."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates, uniform_filter

Image = NDArray[np.float32]  # (C, H, W) in [0, 1]
Plane = NDArray[np.float32]  # (H, W)
Point = tuple[float, float]  # row and column
Kind = Callable[[Image, Image, Generator, float, Image], Image]

ELONGATION = 3.0  # longest to shortest axis of a region, at most
STAMPS = 2.0  # places a pixel at which a scratch is drawn along its way
FLAT = 0.02  # deviation of the outermost pixels below which they are a background
OFF_BACKGROUND = 0.1  # grey values by which a pixel of the object differs from it at least
MOST_RESIZED = 0.35  # logarithm of a ratio of sizes
MOVED = (0.05, 0.3)  # of the short side
LEAST_TURNED = 1 / 18  # of half a turn
TRIES = 8  # places tried until one lies on the object


@dataclass(frozen=True)
class Region:
    """A part of an image: its window of rows and columns, and how much each pixel in it belongs, (h, w) in [0, 1]."""

    rows: slice
    columns: slice
    share: Plane

    def of(self, image: Image) -> Image:
        """The window (C, h, w) of an image."""
        return image[:, self.rows, self.columns]

    def blended(self, image: Image, inside: Image) -> Image:
        """The image (C, H, W) with `inside` (C, h, w) laid over its window by the region's share."""
        changed = image.copy()
        window = self.of(changed)
        window += self.share * (inside - window)
        return changed


def spots(image: Image, other: Image, rng: Generator, radius: float, amplitude: Image) -> Image:
    """One to four specks, pits or stains of one brightness, some showing the texture below and some hiding it."""
    hidden, count = rng.uniform(0, 1), min(4, int(rng.geometric(0.6)))
    for _ in range(count):
        region = blob(image, rng, radius * rng.uniform(0.6, 1) / math.sqrt(count))
        window = region.of(image)
        flat = window.mean(axis=(1, 2), keepdims=True)
        image = region.blended(image, window + amplitude + hidden * (flat - window))
    return image


def scratch(image: Image, other: Image, rng: Generator, radius: float, amplitude: Image) -> Image:
    """A thin curve that tapers at its ends: a scratch, crack, hair or thread."""
    length = max(3.0, 4 * radius)
    row, column = place(image, rng)
    steps = int(length * STAMPS)
    turns = rng.normal(0, 1.2 / math.sqrt(steps), steps) + rng.normal(0, 1.5) / steps
    heading = rng.uniform(0, 2 * math.pi) + np.cumsum(turns)
    rows = row + np.cumsum(np.sin(heading)) / STAMPS
    columns = column + np.cumsum(np.cos(heading)) / STAMPS
    rows, columns = rows - (rows.mean() - row), columns - (columns.mean() - column)
    half_width = max(0.5, 0.1 * radius * rng.uniform(0.5, 1.5))
    taper = np.minimum(1, 4 * np.minimum(np.linspace(0, 1, steps), np.linspace(1, 0, steps)) + 0.2)
    return image + amplitude * _stroke(image.shape[1:], rows, columns, half_width * taper)


def patch(image: Image, other: Image, rng: Generator, radius: float, amplitude: Image) -> Image:
    """A piece of another nominal image, from anywhere in it and maybe mirrored, laid over this one."""
    region = blob(image, rng, radius, boxed=0.5)
    height, width = region.share.shape
    top, left = (
        int(rng.integers(0, size - part + 1)) for size, part in zip(other.shape[1:], (height, width), strict=True)
    )
    piece = other[:, top : top + height, left : left + width]
    piece = piece[:, :: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
    window = region.of(image)
    return region.blended(image, window + rng.uniform(0.5, 1) * (piece - window))


def step(image: Image, other: Image, rng: Generator, radius: float, amplitude: Image) -> Image:
    """A band across the image, or all that lies beyond a line, brighter or darker: a step, a strip, a shadow's edge."""
    row, column = place(image, rng)
    angle = rng.integers(4) * math.pi / 2 if rng.random() < 0.5 else rng.uniform(0, 2 * math.pi)
    rows, columns = _grid(*image.shape[1:])
    beyond: Plane = (rows - row) * math.sin(angle) + (columns - column) * math.cos(angle)
    if rng.random() < 0.5:
        beyond = np.float32(radius) - np.abs(beyond)
    return image + amplitude * _edge(beyond, _softness(rng, radius))


def smudge(image: Image, other: Image, rng: Generator, radius: float, amplitude: Image) -> Image:
    """A cloudy region without a clear edge: dirt, a fingerprint, condensation, uneven coating."""
    region = blob(image, rng, 1.5 * radius, softness=1.0)
    shape = region.share.shape
    cloud = 0.6 + smooth_noise(shape, rng, cells=4) + smooth_noise(shape, rng, cells=9) / 2
    return region.blended(image, region.of(image) + amplitude * np.clip(cloud, 0, 1))


def stain(image: Image, other: Image, rng: Generator, radius: float, amplitude: Image) -> Image:
    """A region whose light or colour is multiplied and whose contrast changed, the texture still to be seen."""
    region = blob(image, rng, radius)
    window = region.of(image)
    flat = window.mean(axis=(1, 2), keepdims=True)
    return region.blended(image, (flat + rng.uniform(0.5, 1.5) * (window - flat)) * (1 + 2 * amplitude))


def brightness(image: Image, other: Image, rng: Generator, radius: float, amplitude: Image) -> Image:
    """The whole image under other light: more or less of it, or another contrast about its mean."""
    strongest = float(amplitude.ravel()[np.abs(amplitude).argmax()]) / 2
    if rng.random() < 0.5:
        return image + strongest
    middle = float(image.mean()) if rng.random() < 0.5 else 0
    return (image - middle) * (1 + 1.5 * strongest) + middle


def colour(image: Image, other: Image, rng: Generator, radius: float, amplitude: Image) -> Image:
    """The whole image under light of another colour, as bright as before; a grey image stays what it is."""
    cast = rng.normal(size=amplitude.shape).astype(np.float32)
    cast -= cast.mean()
    strength = float(np.abs(amplitude).max() / (np.abs(cast).max() + 1e-6))
    return image * (1 + strength * cast)


def blur(image: Image, other: Image, rng: Generator, radius: float, amplitude: Image) -> Image:
    """A region out of focus, or smeared along rows or columns."""
    region = blob(image, rng, 1.5 * radius)
    window = region.of(image)
    size = max(3, round(radius * rng.uniform(0.4, 1)))
    across = ((1, size, size), (1, size, 1), (1, 1, size))[rng.choice(3, p=(0.6, 0.2, 0.2))]
    return region.blended(image, uniform_filter(uniform_filter(window, across), across))


def rotation(image: Image, other: Image, rng: Generator, radius: float, amplitude: Image) -> Image:
    """A region turned in its place: a part put in the wrong way, a texture that runs the wrong way."""
    region = blob(image, rng, 1.5 * radius, boxed=0.3)
    height, width = region.share.shape
    angle = rng.choice((-1, 1)) * rng.uniform(math.pi / 9, math.pi)
    rows, columns = _grid(height, width, (height / 2 - 0.5, width / 2 - 0.5))
    turned = (math.cos(angle) * rows - math.sin(angle) * columns, math.sin(angle) * rows + math.cos(angle) * columns)
    return region.blended(image, _sampled(image, region, turned[0] - rows, turned[1] - columns))


def missing(image: Image, other: Image, rng: Generator, radius: float, amplitude: Image) -> Image:
    """A part that is not there: a hole or a broken-off piece through which the background, or one even tone, shows."""
    region = blob(image, rng, radius, boxed=0.3, softness=0.1, irregular=0.6)
    background = background_of(image)
    if background is None or rng.random() < 0.2:
        tone = image.reshape(len(image), -1)[:, rng.integers(image[0].size)] if rng.random() < 0.5 else rng.integers(2)
        background = np.broadcast_to(np.asarray(tone, dtype=np.float32), len(image))
    return region.blended(image, np.broadcast_to(background[:, None, None], region.of(image).shape))


def warp(image: Image, other: Image, rng: Generator, radius: float, amplitude: Image) -> Image:
    """A region pulled out of shape: a bend, a dent, a stretched or swollen part."""
    region = blob(image, rng, 2 * radius, softness=1.0)
    shape = region.share.shape
    reach = max(1.5, radius * rng.uniform(0.3, 1))
    down, across = (reach * smooth_noise(shape, rng, cells=2) * region.share for _ in range(2))
    return region.blended(image, _sampled(image, region, down, across))


def half(image: Image, other: Image, rng: Generator, radius: float, amplitude: Image) -> Image:
    """One side of a line through the image, taken from another nominal image: two parts that do not belong together."""
    row, column = (size * rng.uniform(0.3, 0.7) for size in image.shape[1:])
    angle = rng.integers(4) * math.pi / 2 if rng.random() < 0.5 else rng.uniform(0, 2 * math.pi)
    rows, columns = _grid(*image.shape[1:])
    beyond = (rows - row) * math.sin(angle) + (columns - column) * math.cos(angle)
    return image + _edge(beyond, 1.0) * (other - image)


def pose(image: Image, other: Image, rng: Generator, radius: float, amplitude: Image) -> Image:
    """The whole image turned, resized or moved: a part put in the wrong way, or one of another size."""
    height, width = image.shape[1:]
    turn, tall, wide, down, across = 0.0, 1.0, 1.0, 0.0, 0.0
    match rng.integers(3):
        case 0:
            turn = rng.choice((-1, 1)) * math.pi * LEAST_TURNED ** rng.uniform(0, 1)
        case 1:
            tall, wide = np.exp(rng.uniform(-MOST_RESIZED, MOST_RESIZED, 2))
        case _:
            angle, reach = rng.uniform(0, 2 * math.pi), min(height, width) * rng.uniform(*MOVED)
            down, across = reach * math.sin(angle), reach * math.cos(angle)
    middle = (height / 2 - 0.5, width / 2 - 0.5)
    rows, columns = _grid(height, width, middle)
    sources = (
        (math.cos(turn) * rows - math.sin(turn) * columns) * tall + down + middle[0],
        (math.sin(turn) * rows + math.cos(turn) * columns) * wide + across + middle[1],
    )
    tones = background_of(image)
    if tones is None:
        return np.stack([map_coordinates(channel, sources, order=1, mode="mirror") for channel in image])
    around = zip(image, tones.tolist(), strict=True)
    return np.stack([map_coordinates(channel, sources, order=1, cval=tone) for channel, tone in around])


KINDS: dict[str, Kind] = {
    "spots": spots,
    "scratch": scratch,
    "patch": patch,
    "step": step,
    "smudge": smudge,
    "stain": stain,
    "blur": blur,
    "rotation": rotation,
    "missing": missing,
    "warp": warp,
    "half": half,
    "brightness": brightness,
    "colour": colour,
    "pose": pose,
}
OF_TWO_IMAGES = ("patch", "half")
OF_THE_WHOLE_IMAGE = ("half", "brightness", "colour", "pose")


def blob(
    image: Image,
    rng: Generator,
    radius: float,
    boxed: float = 0.1,
    softness: float | None = None,
    irregular: float = 0.4,
) -> Region:
    """A region about a place of the image: an uneven ellipse, or with probability `boxed` a rectangle.

    Args:
        image: (C, H, W) in [0, 1].
        rng: draws place, form, direction and edge.
        radius: of the circle of about its area, in pixels.
        boxed: the probability of a rectangle.
        softness: width of the edge in radii; drawn where it is None.
        irregular: how far the outline of an ellipse strays, in radii.
    """
    stretch = math.sqrt(ELONGATION ** rng.uniform(0, 1))
    soft = max(1.0, softness * radius) if softness is not None else _softness(rng, radius)
    reach = radius * stretch * (1.2 + irregular) + soft / 2 + 1
    row, column = place(image, rng)
    rows = slice(max(0, math.floor(row - reach)), min(image.shape[1], math.ceil(row + reach) + 1))
    columns = slice(max(0, math.floor(column - reach)), min(image.shape[2], math.ceil(column + reach) + 1))
    down, across = _grid(
        rows.stop - rows.start, columns.stop - columns.start, (row - rows.start, column - columns.start)
    )
    angle = rng.uniform(0, math.pi)
    long = (math.cos(angle) * across + math.sin(angle) * down) / stretch
    short = (math.cos(angle) * down - math.sin(angle) * across) * stretch
    if rng.random() < boxed:
        inside: Plane = np.float32(0.9 * radius) - np.maximum(np.abs(long), np.abs(short))
    else:
        wobble = np.float32(irregular) * np.clip(smooth_noise(short.shape, rng, cells=4), -1, 1)
        inside = np.float32(radius) * (1 + wobble) - np.hypot(long, short)
    return Region(rows, columns, _edge(inside, soft))


def place(image: Image, rng: Generator) -> Point:
    """Where a defect is put, as row and column: on the object where the image has a flat background, else anywhere."""
    background = background_of(image)
    for _ in range(TRIES):
        row, column = rng.uniform(0, image.shape[1]), rng.uniform(0, image.shape[2])
        if background is None or np.abs(image[:, int(row), int(column)] - background).max() > OFF_BACKGROUND:
            break
    return row - 0.5, column - 0.5


def background_of(image: Image) -> NDArray[np.float32] | None:
    """The colour (C,) of the outermost pixels where at least half of them are alike; None where they are not."""
    rim = np.concatenate([image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]], axis=1)
    low, middle, high = np.quantile(rim, (0.25, 0.5, 0.75), axis=1)
    return middle.astype(np.float32) if (high - low).max() < FLAT else None


def smooth_noise(shape: tuple[int, ...], rng: Generator, cells: int) -> Plane:
    """Smooth noise of shape (H, W), mean 0 and a deviation of about 0.5: `cells` hills or valleys along a side."""
    heights = np.float32(0.75) * rng.standard_normal((cells + 1, cells + 1), dtype=np.float32)
    noise: Plane = _interpolation(shape[0], cells) @ heights @ _interpolation(shape[1], cells).T
    return noise


def _interpolation(size: int, cells: int) -> Plane:
    """(size, cells + 1): how much each grid point counts at each pixel; smoothstep, so that no crease shows."""
    position = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(cells / size)
    distance = np.abs(position[:, None] - np.arange(cells + 1, dtype=np.float32))
    nearness: Plane = np.maximum(0, 1 - distance)
    return nearness**2 * (3 - 2 * nearness)


def _grid(height: int, width: int, origin: Point = (0, 0)) -> tuple[Plane, Plane]:
    """Rows (H, 1) and columns (1, W) counted from the origin."""
    rows, columns = np.ogrid[:height, :width]
    return (rows - origin[0]).astype(np.float32), (columns - origin[1]).astype(np.float32)


def _softness(rng: Generator, radius: float) -> float:
    """The width of an edge in pixels: from one pixel to the radius, as often sharp as soft."""
    return float(max(1.0, radius) ** rng.uniform(0, 1))


def _edge(inside: Plane, softness: float) -> Plane:
    """From 0 outside to 1 inside, (H, W), over an edge `softness` pixels wide where `inside` passes 0."""
    edge: Plane = np.clip(inside / np.float32(softness) + np.float32(0.5), 0, 1)
    return edge


def _stroke(
    shape: tuple[int, ...], rows: NDArray[np.float64], columns: NDArray[np.float64], half_width: NDArray[np.float64]
) -> Plane:
    """A line (H, W) in [0, 1] through the points: a round stamp at each, the strongest of them at every pixel."""
    share = np.zeros(shape, dtype=np.float32)
    reach = math.ceil(half_width.max() + 0.5)
    offsets = np.arange(-reach, reach + 1)
    down, across = np.rint(rows)[:, None] + offsets, np.rint(columns)[:, None] + offsets
    distance = np.hypot((down - rows[:, None])[:, :, None], (across - columns[:, None])[:, None, :])
    strength = np.clip(half_width[:, None, None] - distance + 0.5, 0, 1).astype(np.float32)
    within = ((down >= 0) & (down < shape[0]))[:, :, None] & ((across >= 0) & (across < shape[1]))[:, None, :]
    flat = (down[:, :, None] * shape[1] + across[:, None, :]).astype(np.intp)
    np.maximum.at(share.ravel(), flat[within], strength[within])
    return share


def _sampled(image: Image, region: Region, down: Plane, across: Plane) -> Image:
    """The region's window (C, h, w) with each pixel taken from `down` and `across` pixels away; bilinear."""
    rows = np.arange(region.rows.start, region.rows.stop, dtype=np.float32)[:, None] + down
    columns = np.arange(region.columns.start, region.columns.stop, dtype=np.float32) + across
    return np.stack([map_coordinates(channel, (rows, columns), order=1, mode="nearest") for channel in image])
