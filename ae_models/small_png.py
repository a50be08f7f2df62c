"""Small PNG files of the plainest kind, 8-bit grey and RGB: the pixels that Pillow gives, several times as fast.

Whatever is not surely read alike is left to Pillow, and so is every word on what cannot be read.
"""

import struct
import zlib
from functools import lru_cache

import numpy as np
import pyspng
from numpy.typing import NDArray

BEGINNING = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
HEADER = 33  # bytes of the signature and of the first chunk
END = b"\0\0\0\0IEND\xaeB`\x82"  # the last chunk: it is always the same
SMALL = 2**16  # pixels; larger ones would keep other threads from Python while they are decoded
CHANNELS = {b"\x08\x00\x00\x00\x00": 1, b"\x08\x02\x00\x00\x00": 3}  # by depth, colour and methods; not interlaced
HARMLESS = {b"pHYs": 9, b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"tIME": 7}  # sizes of chunks that change no pixel
SIZE_AND_KIND, CHECKSUM = struct.Struct(">I4s"), struct.Struct(">I")


@lru_cache(maxsize=256)  # images of a batch mostly have the same
def plain_shape(header: bytes) -> tuple[int, int, int] | None:
    """Height, width and channels by a file's first HEADER bytes; None where it is not of this kind."""
    if len(header) < HEADER or not header.startswith(BEGINNING):
        return None
    width, height, channels = *struct.unpack_from(">II", header, 16), CHANNELS.get(header[24:29])
    if channels is None or not 0 < width * height <= SMALL or not _is_sound(header, 8, HEADER):
        return None
    return height, width, channels


def plain_pixels(content: bytes) -> NDArray[np.uint8] | None:
    """(H, W) grey or (H, W, 3) RGB uint8 of a whole file; None where it is not of this kind, or not sound."""
    shape = plain_shape(content[:HEADER])
    if shape is None:
        return None
    height, width, channels = shape
    compressed = _compressed(content)
    if compressed is None or not _is_whole(compressed, height * (1 + width * channels)):
        return None
    try:
        pixels: NDArray[np.uint8] = pyspng.load(content)
    except Exception:  # damaged: Pillow says what is wrong
        return None
    return pixels if pixels.shape == (shape if channels == 3 else shape[:2]) else None


def _compressed(content: bytes) -> bytes | None:
    """The compressed rows of a file that holds nothing but its header, harmless chunks, these and its end, each with
    its checksum; None of any other."""
    place, last, parts = HEADER, len(content) - len(END), list[bytes]()
    while place < last:
        size, kind = SIZE_AND_KIND.unpack_from(content, place)
        end = place + 12 + size
        if end > last or not _is_sound(content, place, end):
            return None
        if kind == b"IDAT":
            parts.append(content[place + 8 : end - 4])
        elif parts or HARMLESS.get(kind) != size:
            return None
        place = end
    return b"".join(parts) if parts and place == last and content.endswith(END) else None


def _is_sound(content: bytes, place: int, end: int) -> bool:
    """Whether the chunk between these places has its checksum."""
    (told,) = CHECKSUM.unpack_from(content, end - 4)
    return bool(zlib.crc32(content[place + 4 : end - 4]) == told)


def _is_whole(compressed: bytes, size: int) -> bool:
    """Whether it is one stream of so many bytes with its checksum, which pyspng does not compare and Pillow does."""
    inflate = zlib.decompressobj()
    try:
        rows = inflate.decompress(compressed, size + 1)
    except zlib.error:
        return False
    return len(rows) == size and inflate.eof and not inflate.unused_data
