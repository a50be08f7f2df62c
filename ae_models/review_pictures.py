"""The picture of one image that a person labels: as it is, as the network sees it, and where they differ."""

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
    tiles = {title: _scaled(picture) for title, picture in cells.items()}
    width, height = next(iter(tiles.values())).size
    sheet = Image.new("RGB", (2 * width + 3 * MARGIN, 2 * (height + LINE) + 3 * MARGIN), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for place, (title, tile) in enumerate(tiles.items()):
        left = MARGIN + place % 2 * (width + MARGIN)
        upper = MARGIN + place // 2 * (height + LINE + MARGIN)
        draw.text((left, upper), title, fill=INK, font=font)
        sheet.paste(tile, (left, upper + LINE))
    return sheet


def _scaled(picture: Image.Image) -> Image.Image:
    """The picture with `CELL` pixels on its long side; small ones keep their pixels visible."""
    factor = CELL / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BOX)
