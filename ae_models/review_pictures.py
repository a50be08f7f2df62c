"""The picture of one image that a person labels: as it is, as the network sees it, and where they differ."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ae_models.panels import brightest, heat_map, heat_overlay, to_picture

CELL, MARGIN, LINE = 192, 6, 16  # pixels
INK, PAPER = (30, 30, 34), (255, 255, 255)


def review_pictures(
    images: NDArray[np.float32], reconstructions: NDArray[np.float32], error_maps: NDArray[np.float32]
) -> list[Image.Image]:
    """A picture an image: input and heat map over it above reconstruction and error map, on one scale for all of them.

    Args:
        images: (N, C, H, W) in [0, 1].
        reconstructions: (N, C, H, W) in [0, 1].
        error_maps: (N, H, W), whose `brightest` is the end of the scale.
    """
    top = brightest(error_maps)
    return [_sheet(*parts, top) for parts in zip(images, reconstructions, error_maps, strict=True)]


def _sheet(
    image: NDArray[np.float32], reconstruction: NDArray[np.float32], error_map: NDArray[np.float32], top: float
) -> Image.Image:
    cells = {
        "input": to_picture(image),
        "where it differs": heat_overlay(image, error_map, top),
        "reconstruction": to_picture(reconstruction),
        "error": heat_map(error_map, top),
    }
    tiles = [_scaled(picture) for picture in cells.values()]
    size = tiles[0].size
    sheet = _empty_sheet(tuple(cells), size).copy()
    for place, tile in enumerate(tiles):
        left, upper = _corner(place, size)
        sheet.paste(tile, (left, upper + LINE))
    return sheet


@lru_cache(maxsize=1)  # the pictures of a batch have the same size and titles
def _empty_sheet(titles: tuple[str, ...], size: tuple[int, int]) -> Image.Image:
    """The titles above the places of four tiles of that size."""
    width, height = size
    sheet = Image.new("RGB", (2 * width + 3 * MARGIN, 2 * (height + LINE) + 3 * MARGIN), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for place, title in enumerate(titles):
        draw.text(_corner(place, size), title, fill=INK, font=font)
    return sheet


def _corner(place: int, size: tuple[int, int]) -> tuple[int, int]:
    return MARGIN + place % 2 * (size[0] + MARGIN), MARGIN + place // 2 * (size[1] + LINE + MARGIN)


def _scaled(picture: Image.Image) -> Image.Image:
    """The picture with `CELL` pixels on its long side; small ones keep their pixels visible."""
    factor = CELL / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BOX)
