"""Small PNG files of the plainest kind, 8-bit grey and RGB: the pixels that Pillow gives, several times as fast.

Whatever is not surely read alike is left to Pillow, and so is every word on what cannot be read.
"""

import zlib

import numpy as np
import pyspng
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER = 33  # bytes of the signature and of the first chunk
SMALL = 2**16  # pixels; larger ones would keep other threads from Python while they are decoded
CHANNELS = {b"\x08\x00\x00\x00\x00": 1, b"\x08\x02\x00\x00\x00": 3}  # by depth, colour and methods; not interlaced
HARMLESS = {b"pHYs": 9, b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"tIME": 7}  # sizes of chunks that change no pixel


def may_be_plain(header: bytes) -> bool:
    """Whether a file that begins with these HEADER bytes may be of this kind; nothing but the header is judged."""
    width, height = int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")
    return header[:16] == SIGNATURE + b"\0\0\0\rIHDR" and header[24:29] in CHANNELS and 0 < width * height <= SMALL


def plain_pixels(content: bytes) -> NDArray[np.uint8] | None:
    """(H, W) grey or (H, W, 3) RGB uint8 of a whole file; None where it is not of this kind, or not sound."""
    if not may_be_plain(content[:HEADER]):
        return None
    width, height = int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
    channels = CHANNELS[content[24:29]]
    compressed = _compressed(content)
    if compressed is None or not _is_whole(compressed, height * (1 + width * channels)):
        return None
    try:
        pixels: NDArray[np.uint8] = pyspng.load(content)
    except Exception:  # damaged: Pillow says what is wrong
        return None
    return pixels if pixels.shape == ((height, width) if channels == 1 else (height, width, 3)) else None


def _compressed(content: bytes) -> bytes | None:
    """The compressed rows of a file that holds nothing but its header, harmless chunks, these and its end, each with
    its checksum; None of any other."""
    place, expected, parts = len(SIGNATURE), {b"IHDR"}, list[bytes]()
    while True:
        size, kind = int.from_bytes(content[place : place + 4], "big"), content[place + 4 : place + 8]
        end = place + 12 + size
        if kind not in expected or end > len(content) or HARMLESS.get(kind, size) != size:
            return None
        if zlib.crc32(content[place + 4 : end - 4]) != int.from_bytes(content[end - 4 : end], "big"):
            return None
        if kind == b"IEND":
            return b"".join(parts) if size == 0 and end == len(content) else None
        if kind == b"IDAT":
            parts.append(content[place + 8 : end - 4])
        expected = {b"IDAT", b"IEND"} if kind == b"IDAT" else {b"IDAT", *HARMLESS}
        place = end


def _is_whole(compressed: bytes, size: int) -> bool:
    """Whether it is one stream of so many bytes with its checksum, which pyspng does not compare and Pillow does."""
    inflate = zlib.decompressobj()
    try:
        rows = inflate.decompress(compressed, size + 1)
    except zlib.error:
        return False
    return len(rows) == size and inflate.eof and not inflate.unused_data
