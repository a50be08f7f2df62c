"""Image files damaged in any way: pixels or a reason each, in bounded time and memory, and the process lives on."""

import io
import random
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ae_models.images import MAX_PIXELS, ImageSpec, Unreadable, read_or_reason, stream
from flows.processes import highest_memory
from tests.fuzzing import spoiled, told

SPEC = ImageSpec(16, 16, 3)
FILES = 5000
MEMORY = 2 * 2**30  # bytes above what the process holds before; the largest image that is read takes one
RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (24, 32), dtype=np.uint8)
RGB = RANDOM.integers(0, 256, (24, 32, 3), dtype=np.uint8)


def written(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def seeds() -> dict[str, bytes]:
    """Sound files of every kind that is read, and of some that are refused."""
    grey, rgb = Image.fromarray(GREY), Image.fromarray(RGB)
    deep = Image.fromarray(GREY.astype(np.uint16) * 257)
    frames: dict[str, object] = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "PNG grey": written(grey, "PNG"),
        "PNG colour": written(rgb, "PNG"),
        "PNG alpha": written(rgb.convert("RGBA"), "PNG"),
        "PNG palette": written(rgb.quantize(16), "PNG", transparency=3),
        "PNG one bit": written(grey.convert("1"), "PNG"),
        "PNG 16 bits": written(deep, "PNG"),
        "PNG animated": written(rgb, "PNG", **frames),
        "JPEG grey": written(grey, "JPEG"),
        "JPEG colour": written(rgb, "JPEG", exif=exif),
        "JPEG progressive": written(rgb, "JPEG", progressive=True),
        "JPEG CMYK": written(rgb.convert("CMYK"), "JPEG"),
        "TIFF grey": written(grey, "TIFF"),
        "TIFF 16 bits": written(deep, "TIFF"),
        "TIFF floats": written(Image.fromarray(GREY.astype(np.float32) / 255), "TIFF"),
        "TIFF CMYK": written(rgb.convert("CMYK"), "TIFF"),
        "TIFF LZW": written(rgb, "TIFF", compression="tiff_lzw"),
        "TIFF deflate": written(rgb, "TIFF", compression="tiff_adobe_deflate"),
        "TIFF JPEG": written(rgb, "TIFF", compression="jpeg"),
        "TIFF fax": written(grey.convert("1"), "TIFF", compression="group4"),
        "TIFF pages": written(rgb, "TIFF", **frames),
        "WebP lossy": written(rgb, "WEBP"),
        "WebP lossless": written(rgb.convert("RGBA"), "WEBP", lossless=True),
        "WebP animated": written(rgb, "WEBP", **frames),
        "BMP colour": written(rgb, "BMP"),
        "BMP palette": written(rgb.quantize(16), "BMP"),
        "GIF": written(rgb.quantize(16), "GIF"),
        "GIF animated": written(rgb, "GIF", **frames),
        "PPM": written(rgb, "PPM"),
        "PPM grey": written(grey, "PPM"),
    }


def png(width: int, height: int, data: bytes, bits: int = 1, more: bytes = b"") -> bytes:
    """A grey PNG with any size in its header and any pixels in its body; every checksum is right."""
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def bombs() -> dict[str, bytes]:
    """Small files that say, or are, far more than they weigh."""
    side = int(MAX_PIXELS**0.5)
    rows = b"\0" * (side // 8 + 2)
    packed = zlib.compressobj(9)
    body = b"".join([*(packed.compress(rows) for _ in range(side)), packed.flush()])
    text = zlib.compress(b"a" * 100_000_000, 9)
    return {
        "PNG as large as is read": png(side, side, body),
        "PNG that lacks its pixels": png(side, side, zlib.compress(b"")),
        "PNG too large": png(side + 100, side, body),
        "PNG of 4 thousand million squared": png(2**32 - 1, 2**32 - 1, body),
        "PNG of one endless row": png(2**31 - 1, 1, body),
        "PNG with text of 100 MB": png(8, 8, zlib.compress(b"\0\0" * 8), more=chunk(b"zTXt", b"x\0\0" + text)),
        "PNG with a profile of 100 MB": png(8, 8, zlib.compress(b"\0\0" * 8), more=chunk(b"iCCP", b"x\0\0" + text)),
        "PPM of its header": b"P6 9000 9000 255\n",
        "PPM too large": b"P6 999999 999999 255\n",
        "PPM of a long number": b"P6 " + b"9" * 100_000 + b" 1 255\n",
        "BMP too large": b"BM"
        + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 24, 0, 0, 0, 0, 0, 0),
        "BMP upside down": b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 9000, -9000, 1, 24, 0, 0, 0, 0, 0, 0),
        "GIF of 65535 squared": b"GIF89a\xff\xff\xff\xff\x80\0\0"
        + b"\0" * 6
        + b",\0\0\0\0\xff\xff\xff\xff\0\x08\x01\0\0;",
        "TIFF too large": large_tiff(2**31 - 1),
        "TIFF that lacks its pixels": large_tiff(9000),
        "GIF of 20,000 frames": many_frames("GIF", 20_000),
        "TIFF of 2,000 pages": many_frames("TIFF", 2000),
        "WebP of 500 frames": many_frames("WEBP", 500),
        "WebP of 16383 squared": b"RIFF\x1e\0\0\0WEBPVP8L\x11\0\0\0\x2f\xff\xff\xff\x0f" + b"\0" * 12,
    }


def many_frames(kind: str, number: int) -> bytes:
    """A file of so many frames of one pixel."""
    frames = [Image.new("L", (1, 1), shade % 2 * 255) for shade in range(number)]
    return written(frames[0], kind, save_all=True, append_images=frames[1:])


def large_tiff(side: int) -> bytes:
    """A TIFF whose header says a side that its pixels do not have."""
    content = bytearray(written(Image.fromarray(GREY), "TIFF"))
    for entry in range(int.from_bytes(content[8:10], "little")):
        at = 10 + 12 * entry
        if int.from_bytes(content[at : at + 2], "little") in (256, 257):  # width, height
            content[at + 2 : at + 12] = struct.pack("<HII", 4, 1, side)
    return bytes(content)


def mutated(content: bytes, other: bytes, chance: random.Random) -> bytes:
    """The content with a few faults; half of the PNGs with right checksums again, since a wrong one would end most of
    them at once."""
    content = spoiled(content, other, chance)
    return rechecked(content) if chance.random() < 0.5 else content


def rechecked(content: bytes) -> bytes:
    """A PNG with the checksums that its chunks should have; anything else as it is."""
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return content
    at, parts = 8, [content[:8]]
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        if at + 12 + length > len(content):
            break
        parts.append(chunk(content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    return b"".join([*parts, content[at:]])


def fuzzed(number: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """So many damaged files by a name that makes each again: the bombs, the sound ones, and mutations of both."""
    sound, large = seeds(), bombs()
    yield from [*large.items(), *sound.items()][:number]
    contents = list((sound | {name: data for name, data in large.items() if len(data) < 10_000}).items())
    for place in range(number - len(sound) - len(large)):
        chance = random.Random(seed * 1_000_003 + place)
        name, content = chance.choice(contents)
        yield f"{name}, mutation {place}", mutated(content, chance.choice(contents)[1], chance)


@dataclass(frozen=True)
class Outcome:
    """What became of one file: its reason, or '' where it was read; processor seconds; the process's highest memory."""

    name: str
    reason: str
    seconds: float
    memory: int


def read_each(folder: Path, said: Connection) -> None:
    """In a process of its own: the name of each file before it is read, and its outcome after."""
    for path in sorted(folder.iterdir()):
        said.send(path.name)
        start = time.process_time()
        result = read_or_reason(path, SPEC)
        if isinstance(result, Unreadable):
            reason = result.reason
        else:
            reason = "" if result.shape == SPEC.shape and 0 <= result.min() <= result.max() <= 1 else "WRONG PIXELS"
        said.send(Outcome(path.name, reason, time.process_time() - start, highest_memory()))
    said.send(None)


def read_all(folder: Path, said: Connection) -> None:
    """In a process of its own: all files as scoring reads them, several at once."""
    before = highest_memory()
    read, unreadable = 0, 0
    for part in stream(sorted(folder.iterdir()), SPEC, threads=8):
        read, unreadable = read + len(part.indices), unreadable + len(part.unreadable)
    said.send((read, unreadable, highest_memory() - before))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, fault_count: Callable[[int], int]) -> tuple[Path, dict[str, str]]:
    """A folder of fuzzed files, and by file name what each is."""
    folder, names = tmp_path_factory.mktemp("fuzzed"), {}
    for place, (name, content) in enumerate(fuzzed(fault_count(FILES), seed=7)):
        path = folder / f"{place:05d}"
        path.write_bytes(content)
        names[path.name] = name
    return folder, names


@pytest.mark.faults
def test_every_fuzzed_image_is_pixels_or_a_reason(files: tuple[Path, dict[str, str]]) -> None:
    """No file ends the process, hangs, or gives pixels outside [0, 1]; each reason is one short line."""
    folder, names = files
    outcomes = [outcome for outcome in told(read_each, folder) if isinstance(outcome, Outcome)]
    assert len(outcomes) == len(names)
    wrong = [names[o.name] for o in outcomes if "WRONG" in o.reason or "\n" in o.reason or len(o.reason) > 300]
    assert wrong == []
    slowest = max(outcomes, key=lambda outcome: outcome.seconds)
    growth = outcomes[-1].memory - outcomes[0].memory
    read = sum(not outcome.reason for outcome in outcomes)
    print(f"{read} read, {len(outcomes) - read} unreadable; slowest {slowest.seconds:.2f} s ({names[slowest.name]})")
    print(f"highest memory {outcomes[-1].memory / 2**20:.0f} MiB, of it {growth / 2**20:.0f} above the first file's")
    reasons: dict[str, int] = {}
    for outcome in outcomes:
        reasons[outcome.reason[:60]] = reasons.get(outcome.reason[:60], 0) + 1
    print(*sorted(reasons.items(), key=lambda entry: -entry[1])[:40], sep="\n")


@pytest.mark.faults
def test_fuzzed_images_read_at_once_stay_within_bounded_memory(files: tuple[Path, dict[str, str]]) -> None:
    """Eight threads that meet bombs at once hold no more than a few of the largest images; every file is counted."""
    folder, names = files
    for place in range(8):  # of the largest that is read, one for each thread
        (folder / f"0000{place}-again").write_bytes(bombs()["PNG as large as is read"])
    (said,) = told(read_all, folder)
    assert isinstance(said, tuple)
    read, unreadable, growth = said
    for place in range(8):
        (folder / f"0000{place}-again").unlink()
    assert read + unreadable == len(names) + 8
    print(f"{read} read, {unreadable} unreadable; memory grew by {growth / 2**20:.0f} MiB")
    assert growth < MEMORY
