"""Small PNG files of the plainest kind give the pixels that Pillow gives, and all others are left to Pillow."""

import io
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from ae_models.images import ImageSpec, UnreadableImage, read
from ae_models.small_png import SMALL, plain_pixels

SIZES = ((1, 1), (28, 28), (7, 64), (255, 257))
Change = Callable[[bytes], bytes]
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def pixels_of(height: int, width: int, channels: int, seed: int = 0) -> NDArray[np.uint8]:
    """(height, width) or (height, width, 3) uint8: smooth, with noise in a part, so that rows take several filters."""
    random, (down, across) = np.random.default_rng(seed), np.mgrid[0:height, 0:width]
    waves = 120 + 60 * np.sin(across / 9)[..., None] * np.cos(down / 5)[..., None] + np.arange(channels) * 20
    noise = random.integers(0, 256, waves.shape)
    pixels: NDArray[np.uint8] = np.where((down > height / 2)[..., None], noise, waves).astype(np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


def png(pixels: NDArray[np.uint8], **options: object) -> bytes:
    """The file that Pillow writes."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **options)
    return file.getvalue()


def by_pillow(content: bytes) -> NDArray[np.uint8] | None:
    """Pillow's pixels; None where it refuses the file."""
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            return np.asarray(image)
    except Exception:
        return None


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file with its checksum."""
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def with_chunk(kind: bytes, data: bytes) -> Change:
    """Puts a chunk behind the header."""
    return lambda content: content[:33] + chunk(kind, data) + content[33:]


@pytest.mark.parametrize("options", [{}, {"compress_level": 0}, {"optimize": True}, {"dpi": (72, 72)}], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_same_pixels(size: tuple[int, int], channels: int, options: dict[str, object]) -> None:
    """Every bit, for grey and RGB of odd sizes, however they are compressed."""
    pixels = pixels_of(*size, channels)
    content = png(pixels, **options)
    found = plain_pixels(content)
    assert found is not None
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, pixels)
    np.testing.assert_array_equal(found, by_pillow(content))


@pytest.mark.parametrize("filter_type", range(5))
def test_every_filter_of_rows(filter_type: int) -> None:
    """Each of the five ways in which a PNG writes a row as what it differs by, whatever the bytes are then."""
    raw = np.random.default_rng(filter_type).integers(0, 256, (28, 1 + 3 * 28), np.uint8)
    raw[:, 0] = filter_type
    header = (28).to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"
    content = SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw.tobytes())) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(plain_pixels(content), by_pillow(content))


def test_pixels_in_several_chunks() -> None:
    """However the pixels are cut."""
    content = png(pixels_of(28, 28, 1))
    start, end = content.index(b"IDAT") + 4, content.index(b"IEND") - 8
    data = content[start:end]
    cut = content[: start - 8] + b"".join(chunk(b"IDAT", part) for part in (data[:50], b"", data[50:])) + content[-12:]
    np.testing.assert_array_equal(plain_pixels(cut), pixels_of(28, 28, 1))


def other_kinds() -> dict[str, bytes]:
    """PNG files that are not of the plainest kind, or large."""
    grey, colour = Image.fromarray(pixels_of(20, 30, 1)), Image.fromarray(pixels_of(20, 30, 3))
    turned, text = Image.Exif(), PngImagePlugin.PngInfo()
    turned[0x0112] = 6
    text.add_text("Raw profile type exif", "exif")

    def saved(image: Image.Image, **options: object) -> bytes:
        file = io.BytesIO()
        image.save(file, "PNG", **options)
        return file.getvalue()

    return {
        "palette": saved(colour.convert("P")),
        "one bit": saved(grey.convert("1")),
        "sixteen bits": saved(grey.convert("I;16")),
        "alpha": saved(colour.convert("RGBA")),
        "grey alpha": saved(grey.convert("LA")),
        "one clear colour": saved(colour, transparency=(0, 0, 0)),
        "turned": saved(grey, exif=turned),
        "text": saved(grey, pnginfo=text),
        "colour profile": saved(colour, icc_profile=b"profile"),
        "animated": saved(grey, save_all=True, append_images=[grey.transpose(Image.Transpose.ROTATE_180)]),
        "large": png(pixels_of(257, 257, 1)),
    }


@pytest.mark.parametrize("kind", other_kinds())
def test_what_is_left_to_pillow(kind: str) -> None:
    """Whatever has more to it than grey or RGB bytes, and whatever is large."""
    content = other_kinds()[kind]
    assert by_pillow(content) is not None
    assert plain_pixels(content) is None


CHANGES: dict[str, Change] = {
    "cut short": lambda content: content[:-30],
    "no end": lambda content: content[:-12],
    "more behind": lambda content: content + b"more",
    "damaged header": lambda content: content[:30] + b"\0" + content[31:],
    "damaged pixels": lambda content: content.replace(b"IDAT", b"IDAX"),
    "no width": lambda content: content[:16] + bytes(4) + content[20:],
    "a bomb": lambda content: content[:16] + b"\x7f\xff\xff\xff" * 2 + content[24:],
    "half a resolution": with_chunk(b"pHYs", bytes(3)),
    "an unknown chunk": with_chunk(b"abCd", b""),
    "two headers": lambda content: content[:33] + content[8:],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_is_not_sound_is_left_to_pillow(change: Change, tmp_path: Path) -> None:
    """So that its words on it stay the same."""
    content = change(png(pixels_of(28, 28, 1)))
    assert plain_pixels(content) is None
    (tmp_path / "image.png").write_bytes(content)
    try:
        read(tmp_path / "image.png", ImageSpec(28, 28, 1))
    except UnreadableImage:
        assert by_pillow(content) is None


def mutant(random: np.random.Generator, content: bytes) -> bytes:
    """The file with some bytes changed, and in half of the cases its chunks' checksums made right again."""
    changed = bytearray(content)
    for place in random.integers(8, len(content), random.integers(1, 4)):
        changed[place] = random.integers(256)
    if random.random() < 0.5:
        return bytes(changed)
    place = 8
    while place + 12 <= len(changed):
        end = place + 12 + int.from_bytes(changed[place : place + 4], "big")
        if end > len(changed):
            break
        changed[end - 4 : end] = zlib.crc32(changed[place + 4 : end - 4]).to_bytes(4, "big")
        place = end
    return bytes(changed)


@pytest.mark.parametrize("channels", [1, 3])
def test_damage_never_gives_other_pixels(channels: int, fault_count: Callable[[int], int]) -> None:
    """Where changed bytes are still read, Pillow reads them too, and to the same pixels."""
    random = np.random.default_rng(channels)
    sound = [png(pixels_of(*size, channels), compress_level=level) for size in SIZES[:3] for level in (0, 6)]
    taken = 0
    for number in range(fault_count(20_000)):
        content = mutant(random, sound[number % len(sound)])
        found = plain_pixels(content)
        if found is not None:
            taken += 1
            np.testing.assert_array_equal(found, by_pillow(content))
    assert taken > 0


def test_how_small_is_small() -> None:
    """As many pixels as 256 x 256."""
    assert SMALL == 256 * 256
    assert plain_pixels(png(pixels_of(256, 256, 3))) is not None
