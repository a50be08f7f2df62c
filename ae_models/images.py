"""Images of any kind and size as arrays of one shape; what cannot be read is reported with its reason, never fatal."""

import ctypes
import io
import os
import re
import stat
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path
from time import perf_counter
from typing import Any, BinaryIO, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ae_models.cores import available_cores
from ae_models.errors import InputError
from ae_models.small_png import HEADER, SMALL, plain_pixels, plain_shape

ImageInput = Path | bytes | NDArray[Any] | Image.Image
Source = ImageInput | Callable[[], ImageInput]
T = TypeVar("T")

DECODING = 1  # raised by one whenever the same file would give other pixels: certificates of before no longer hold
MAX_PIXELS = (
    89_478_485  # a quarter of a gibibyte of 8-bit RGB: the limit from which Pillow warns of decompression bombs
)
LARGE_PIXELS = 2**24  # images from this size on are decoded one at a time: eight of the largest would take gigabytes
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM")  # JPEG covers MPO, the pictures of telephones
SIGNATURES = {  # how files of these formats begin, to say of a file without a usable header what it was meant to be
    **{b"\x89PNG": "PNG", b"\xff\xd8": "JPEG", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF"},
    **{b"RIFF": "WEBP", b"GIF8": "GIF"},
}
FULL_SCALE = {np.dtype("uint8"): 255, np.dtype("uint16"): 65535, np.dtype("float32"): 1}  # the value of white
LUMA = (0.299, 0.587, 0.114)  # Rec. 601
GREY_MODES = ("1", "L", "LA", "La", "F", "I")  # Pillow's, and those that begin with I;16
ORIENTATION_TAG = 0x0112
UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {  # by the EXIF orientation of (H, W, ...) pixels
    1: lambda pixels: pixels,
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: np.swapaxes(pixels, 0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.swapaxes(np.rot90(pixels, 2), 0, 1),
    8: np.rot90,
}
SIDEWAYS = (5, 6, 7, 8)  # the EXIF orientations that swap height and width
LONG_SIDE_RATIO = 4  # `infer_spec` keeps the long side within this many times the short side's limit
MAX_SMALL_FILE = 8 * SMALL  # bytes of a small PNG file; one with more is left to Pillow
FIRST_BYTES = 2**12  # that are read of a file before it is known whether it is one
QUICK = 2e-4  # seconds an image: nearly all of it is Python then, which no two threads run at once
PATIENCE = 0.02  # seconds that a thread waits for its turn: a batch of quick images takes less
CHUNK = 8  # images a task of the pool: small enough to stop soon, large enough that tasks cost nothing
DOCUMENT_SUFFIXES = (
    *(".txt", ".csv", ".json", ".xml", ".yaml", ".yml", ".md", ".parquet"),
    *(".log", ".db", ".ini", ".html", ".pdf", ".npy", ".sha256", ".md5"),
)
DOCUMENT_NAMES = ("thumbs.db", "desktop.ini")
_ATTEMPTS = 20
_WARNING_LOCK = threading.Lock()
_LARGE_LOCK = threading.Lock()


class UnreadableImage(ValueError):  # noqa: N818 (the name that a caller reads in `except`)
    """This one image cannot be read; the message is the rest of a sentence that begins with the image's name."""


@dataclass(frozen=True)
class Unreadable:
    """The reason why an image could not be read, as a value: the rest of a sentence that begins with its name."""

    reason: str


@dataclass(frozen=True)
class FeatureSpec:
    """Height, width and channels of what a network sees of one image."""

    height: int
    width: int
    channels: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.channels, self.height, self.width


@dataclass(frozen=True)
class ImageSpec(FeatureSpec):
    """The one size and number of channels (1 grey, 3 RGB) that a detector's images have."""

    def __post_init__(self) -> None:
        sizes = (self.height, self.width, self.channels)
        if any(type(size) is not int for size in sizes) or self.height < 1 or self.width < 1:
            raise InputError(f"An image size must be whole numbers from 1 on, not {sizes[:2]}: give height and width.")
        if self.channels not in (1, 3):
            raise InputError(f"Images have 1 channel (grey) or 3 (RGB), not {self.channels}: give one of the two.")

    def to_json(self) -> dict[str, int]:
        """The three numbers by name; `from_json` takes them back."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """The spec that `to_json` stored; a missing or an unknown key is an `InputError`."""
        names = {"height", "width", "channels"}
        if set(stored) != names:
            raise InputError(f"An image spec holds exactly {sorted(names)}, but this one holds {sorted(stored)}.")
        return cls(**stored)


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """Consecutive images of a stream: the readable ones as pixels, the others by reason."""

    indices: NDArray[np.int64]  # (n,), places in the stream of the readable ones, ascending
    pixels: NDArray[np.float32]  # (n, C, H, W) in [0, 1]
    unreadable: tuple[tuple[int, str], ...]  # (place in the stream, reason)


@dataclass(frozen=True, eq=False)
class _Picture:
    """Native-size pixels as they were stored: full scale is that of the dtype, alpha is not yet applied."""

    colour: NDArray[Any]  # (H, W, 1 or 3) uint8, uint16 or float32
    alpha: NDArray[Any] | None  # (H, W) of the same dtype; None where every pixel is opaque

    def plane(self, channel: int) -> NDArray[np.float32]:
        """(H, W) float32 in [0, 1]: one channel over black."""
        full_scale = FULL_SCALE[self.colour.dtype]
        plane: NDArray[np.float32] = np.divide(self.colour[..., channel], full_scale, dtype=np.float32)
        if self.alpha is not None:
            plane *= np.divide(self.alpha, full_scale, dtype=np.float32)
        return plane

    def luma(self) -> NDArray[np.float32]:
        """(H, W) float32 in [0, 1]: Rec. 601 luma of RGB, or the grey channel itself."""
        if self.colour.shape[2] == 1:
            return self.plane(0)
        luma = self.plane(0)
        luma *= LUMA[0]
        for channel in (1, 2):
            luma += LUMA[channel] * self.plane(channel)
        return luma

    def is_grey(self) -> bool:
        """Whether the channels are equal in every pixel."""
        first = self.colour[..., 0]
        return all(np.array_equal(first, self.colour[..., channel]) for channel in range(1, self.colour.shape[2]))


def decode(source: ImageInput) -> NDArray[Any]:
    """
    The image at its own size, (H, W) grey or (H, W, 3) RGB: uint8, or float32 in [0, 1] where 8 bits do not hold it.

    float32 is given for 16-bit, 32-bit and floating-point sources and for images that are partly transparent (those
    are laid over black). EXIF-rotated images are upright. Raises `UnreadableImage` for whatever cannot be decoded.
    """
    picture = _picture(source)
    if picture.colour.dtype == np.uint8 and picture.alpha is None:
        pixels = np.array(picture.colour, order="C")
    else:
        pixels = np.stack([picture.plane(channel) for channel in range(picture.colour.shape[2])], axis=-1)
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels


def read(source: ImageInput, spec: ImageSpec) -> NDArray[np.float32]:
    """
    The image as (C, H, W) float32 in [0, 1] of the spec's size; the aspect ratio is not kept.

    A file, its uint8 pixels and its pixels as floats give the same to 1e-6: grey is taken (Rec. 601) and the size
    changed (antialiased bilinear) in float32, one channel after the other, for every kind of source. Raises
    `UnreadableImage` for whatever cannot be decoded.
    """
    if isinstance(source, np.ndarray):
        return _fitted(_array_picture(source), spec)
    picture = _plain_picture(source)
    if picture is not None:
        return _fitted(picture, spec)
    return _with_pillow(source, lambda image: _fitted(_pillow_picture(image), spec))


def read_or_reason(source: Source, spec: ImageSpec) -> NDArray[np.float32] | Unreadable:
    """What `read` gives, (C, H, W) float32 in [0, 1], or why it gives nothing; a callable is called first."""
    try:
        return read(source() if callable(source) else source, spec)
    except UnreadableImage as error:
        return Unreadable(str(error))


def stream(
    sources: Iterable[Source], spec: ImageSpec, batch_size: int = 64, threads: int | None = None
) -> Iterator[ImageBatch]:
    """
    The images in the order given, in batches of `batch_size` sources, decoded while the caller works on the last batch.

    At most two batches are ahead of the caller, so memory stays flat however many sources there are; `sources` may be
    a generator. A source may be a callable that fetches the image (in a thread of the pool): what it raises other than
    `UnreadableImage` ends the stream, because an outage is no property of an image. `threads` defaults to the cores
    this process may use, at most 8 (Pillow decodes without the interpreter lock).
    """
    pool = ThreadPoolExecutor(threads or min(8, available_cores()), thread_name_prefix="decode")
    pending: deque[tuple[int, list[Future[list[_Pixels | Unreadable]]]]] = deque()
    remaining = iter(sources)
    try:
        for start in count(0, batch_size):
            batch = list(islice(remaining, batch_size))
            if batch:
                chunks = [batch[first : first + CHUNK] for first in range(0, len(batch), CHUNK)]
                pending.append((start, [pool.submit(_read_all, chunk, spec) for chunk in chunks]))
            if not pending:
                return
            if not batch or len(pending) == 2:
                first, tasks = pending.popleft()
                yield _assembled(first, [outcome for task in tasks for outcome in task.result()], spec)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def stream_through(
    sources: Iterable[Source],
    spec: ImageSpec,
    work: Callable[[ImageBatch], T],
    batch_size: int = 64,
    threads: int | None = None,
) -> Iterator[T]:
    """
    What `work` makes of the batches that `stream` gives, in their order; one thread decodes a batch and works on it.

    So the cores stay busy where `work` takes one thread and may be done by several at once, and no image waits for
    another thread: with small images that takes longer than to decode them. `threads` defaults to one more than the
    cores this process may use: while one waits for a disk or the interpreter there is work for the others. At most one
    batch more is begun than there are threads. Images that take next to no time are decoded by one thread at a time.
    """
    threads = threads or 1 + available_cores()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="score")
    pending: deque[Future[T]] = deque()
    remaining = iter(sources)
    turns = _Turns()

    def worked(start: int, batch: list[Source]) -> T:
        with turns.turn(len(batch)):
            images = _assembled(start, _read_all(batch, spec), spec)
        return work(images)

    try:
        for start in count(0, batch_size):
            if batch := list(islice(remaining, batch_size)):
                pending.append(pool.submit(worked, start, batch))
            if not pending:
                return
            if not batch or len(pending) > threads:
                yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def infer_spec(sources: Sequence[Source], limit: int = 64, shortest_side: int = 128) -> ImageSpec:
    """
    The size and channels that these images call for, from up to `limit` readable ones spaced evenly over the sources.

    Median height and width after the EXIF turn, scaled by one factor so that the short side is at most `shortest_side`
    and the long side at most four times that; never scaled up. One channel if every image looked at is grey (in its
    file, or RGB with three equal channels). Only headers are read where they say enough. Raises `InputError` if none
    can be read.
    """
    places = sorted(set(np.linspace(0, len(sources) - 1, min(limit, len(sources))).round().astype(int).tolist()))
    sizes: list[tuple[int, int]] = []
    grey, reason = True, "there are none"
    for place in places:
        try:
            source = sources[place]
            height, width, grey = _size_and_grey(source() if callable(source) else source, grey)
        except UnreadableImage as error:
            name = source if isinstance(source, Path) else f"number {place + 1}"
            reason = f"{name} {error}"
        else:
            sizes.append((height, width))
    if not sizes:
        raise InputError(f"None of the {len(places)} images looked at can be read ({reason}): give readable images.")
    height, width = np.median(sizes, axis=0)
    factor = min(1, shortest_side / min(height, width), LONG_SIDE_RATIO * shortest_side / max(height, width))
    return ImageSpec(max(1, round(height * factor)), max(1, round(width * factor)), 1 if grey else 3)


def looks_like_a_document(path: Path) -> bool:
    """Whether the name is that of a file that lies beside images without being one; every other name is an image's."""
    return is_a_document_name(path.name)


def is_a_document_name(name: str) -> bool:
    """The same of the name alone."""
    name = name.lower()
    return name.startswith(".") or name in DOCUMENT_NAMES or name.endswith(DOCUMENT_SUFFIXES)


_Pixels = NDArray[np.float32] | NDArray[np.uint8]  # (C, H, W) in [0, 1] or, of plain files, in [0, 255]


class _Turns:
    """Threads that decode take turns where an image takes so little that they would fight for the interpreter's lock.

    A small file is a few microseconds of Python between calls that give the lock away and want it back. What takes
    longer, a slow disk or a large image, is done by all threads at once; nobody waits long for a turn, so that a thread
    that is held up holds up no other.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._quick = True  # the last batch was

    @contextmanager
    def turn(self, images: int) -> Iterator[None]:
        """Within it so many images are decoded."""
        alone = self._quick and self._lock.acquire(timeout=PATIENCE)
        start = perf_counter()
        try:
            yield
        finally:
            self._quick = perf_counter() - start < QUICK * images
            if alone:
                self._lock.release()


def _read_all(sources: list[Source], spec: ImageSpec) -> list[_Pixels | Unreadable]:
    return [_pixels_or_reason(source, spec) for source in sources]


def _pixels_or_reason(source: Source, spec: ImageSpec) -> _Pixels | Unreadable:
    """What `read_or_reason` gives, but for plain files of the spec's own size, whose bytes are divided all at once."""
    try:
        got = source() if callable(source) else source
        pixels = _plain_pixels(got)
        if pixels is None:
            return read(got, spec)
    except UnreadableImage as error:
        return Unreadable(str(error))
    if spec.channels == 1 and pixels.shape == (spec.height, spec.width):
        return pixels[None]
    if pixels.shape == (spec.height, spec.width, spec.channels):
        return pixels.transpose(2, 0, 1)
    return _fitted(_plain(pixels), spec)


def _assembled(start: int, outcomes: Sequence[_Pixels | Unreadable], spec: ImageSpec) -> ImageBatch:
    readable = [(index, pixels) for index, pixels in enumerate(outcomes, start) if not isinstance(pixels, Unreadable)]
    return ImageBatch(
        indices=np.array([index for index, _ in readable], dtype=np.int64),
        pixels=_together([pixels for _, pixels in readable], spec),
        unreadable=tuple(
            (index, outcome.reason) for index, outcome in enumerate(outcomes, start) if isinstance(outcome, Unreadable)
        ),
    )


def _together(images: Sequence[_Pixels], spec: ImageSpec) -> NDArray[np.float32]:
    """(n, C, H, W) float32 in [0, 1]."""
    together = np.empty((len(images), *spec.shape), np.float32)
    if all(image.dtype == np.uint8 for image in images):
        return np.divide(np.array(images, np.uint8).reshape(together.shape), 255, out=together, dtype=np.float32)
    for place, image in enumerate(images):
        np.divide(image, FULL_SCALE[image.dtype], out=together[place], dtype=np.float32)
    return together


def _fitted(picture: _Picture, spec: ImageSpec) -> NDArray[np.float32]:
    if spec.channels == 1 or picture.colour.shape[2] == 1:
        luma = _resized(picture.luma(), spec)[None]
        return luma if spec.channels == 1 else np.repeat(luma, spec.channels, axis=0)
    return np.stack([_resized(picture.plane(channel), spec) for channel in range(3)])


def _resized(plane: NDArray[np.float32], spec: ImageSpec) -> NDArray[np.float32]:
    """(H, W) in [0, 1] at the spec's size: the one place where an image changes its size."""
    if plane.shape == (spec.height, spec.width):
        return plane
    image = Image.fromarray(plane).resize((spec.width, spec.height), Image.Resampling.BILINEAR)
    resized: NDArray[np.float32] = np.clip(np.asarray(image), 0, 1)  # rounding may leave the range by 1e-7
    return resized


def _picture(source: ImageInput) -> _Picture:
    if isinstance(source, np.ndarray):
        return _array_picture(source)
    return _plain_picture(source) or _with_pillow(source, _pillow_picture)


def _plain_picture(source: Path | bytes | Image.Image) -> _Picture | None:
    """The picture in a small and plain PNG file, as Pillow gives it; None for whatever is left to Pillow."""
    pixels = _plain_pixels(source)
    return None if pixels is None else _plain(pixels)


def _plain(pixels: NDArray[np.uint8]) -> _Picture:
    return _Picture(pixels if pixels.ndim == 3 else pixels[..., None], None)


def _plain_pixels(source: ImageInput) -> NDArray[np.uint8] | None:
    """The pixels (H, W) or (H, W, 3) in a small and plain PNG file; None of whatever is left to Pillow."""
    content = _small_file(source) if isinstance(source, Path) else source
    if not isinstance(content, bytes) or len(content) > MAX_SMALL_FILE:
        return None
    return plain_pixels(content)


def _small_file(path: Path) -> bytes | None:
    """The bytes of a file that may be a small and plain PNG; None of any other, and of what cannot be opened."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe would wait for ever
            return None
        file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            content = os.read(file, FIRST_BYTES)
            if len(content) < FIRST_BYTES or plain_shape(content[:HEADER]) is None:
                return content
            with open(file, "rb", closefd=False) as rest:
                return content + rest.read(MAX_SMALL_FILE)
        finally:
            os.close(file)
    except OSError:  # Pillow's way says why
        return None


def _array_picture(array: NDArray[Any]) -> _Picture:
    shape, pixels = array.shape, array
    if array.ndim == 2:
        pixels = array[..., None]
    elif array.ndim == 3 and shape[2] not in (1, 3, 4) and shape[0] in (1, 3):
        pixels = np.moveaxis(array, 0, 2)
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or pixels.size == 0:
        raise UnreadableImage(
            f"is an array of shape {shape}; give (H, W), (H, W, 1), (H, W, 3), (H, W, 4), (1, H, W) or (3, H, W)"
        )
    _refuse_giant(pixels.shape[1], pixels.shape[0])
    pixels = _at_full_scale(pixels)
    return _laid_out(pixels[..., :3], pixels[..., 3]) if pixels.shape[2] == 4 else _Picture(pixels, None)


def _at_full_scale(pixels: NDArray[Any]) -> NDArray[Any]:
    """The same values as uint8, uint16 or float32, the dtypes that have a full scale here."""
    kind, size = pixels.dtype.kind, pixels.dtype.itemsize
    if kind == "b":
        return pixels.astype(np.uint8) * np.uint8(255)
    if kind == "u" and size <= 2:
        return pixels.astype(np.uint8 if size == 1 else np.uint16, copy=False)
    if kind == "f":
        return _unit_floats(pixels)
    raise UnreadableImage(
        f"is an array of {pixels.dtype}; give uint8 (0 to 255), uint16 (0 to 65535), bool or float in [0, 1]"
    )


def _unit_floats(pixels: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # what overflows is infinite, and refused as such
        values: NDArray[np.float32] = pixels.astype(np.float32, copy=False)
    low, high = values.min(), values.max()  # NaN where there is one
    if not (np.isfinite(low) and np.isfinite(high)):
        wrong = int(values.size - np.isfinite(values).sum())
        raise UnreadableImage(f"holds NaN or infinite values ({wrong} of {values.size})")
    if low < 0 or high > 1:
        raise UnreadableImage(f"holds values from {low:g} to {high:g}; floating-point pixels must lie in [0, 1]")
    return values


def _laid_out(colour: NDArray[Any], alpha: NDArray[Any]) -> _Picture:
    opaque = bool((alpha == FULL_SCALE[alpha.dtype]).all())
    return _Picture(colour, None if opaque else alpha)


def _pillow_picture(image: Image.Image) -> _Picture:
    image.load()
    turn = UPRIGHT[_orientation(image)]
    pixels, alpha = _stored_pixels(image)
    pixels = turn(pixels if pixels.ndim == 3 else pixels[..., None])
    return _Picture(pixels, None) if alpha is None else _laid_out(pixels, turn(alpha))


def _stored_pixels(image: Image.Image) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Colour, (H, W) or (H, W, 3) at full scale, and alpha, (H, W) or None, of a loaded Pillow image of any mode."""
    if image.mode.startswith("I;16"):
        deep = np.asarray(image).astype(np.uint16)
        clear = image.info.get("transparency")
        return deep, None if clear is None else np.where(deep == clear, 0, 65535).astype(np.uint16)
    if image.mode == "I":
        return _sixteen_bits(np.asarray(image)), None
    if image.mode == "F":
        return _unit_floats(np.asarray(image)), None
    mode = "L" if image.mode in GREY_MODES else "RGB"
    if not image.has_transparency_data:
        return np.asarray(image if image.mode == mode else image.convert(mode)), None
    mode = {"L": "LA", "RGB": "RGBA"}[mode]
    both = np.asarray(image if image.mode == mode else image.convert(mode))
    return (both[..., 0] if mode == "LA" else both[..., :3]), both[..., -1]


def _sixteen_bits(values: NDArray[Any]) -> NDArray[np.uint16]:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise UnreadableImage(f"holds 32-bit values from {low} to {high}; only 0 to 65535 can be read")
    return values.astype(np.uint16)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8, and 1 where EXIF is absent or broken; Pillow has turned a loaded TIFF by itself."""
    try:
        orientation = int(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # broken metadata raise nearly anything, and the pixels are sound
        return 1
    return orientation if orientation in UPRIGHT else 1


def _size_and_grey(source: ImageInput, check: bool) -> tuple[int, int, bool]:
    """Height and width of the upright image and whether it is grey; False without a look at it if not to check."""
    if isinstance(source, np.ndarray):
        picture = _array_picture(source)
        return *picture.colour.shape[:2], check and picture.is_grey()
    return _with_pillow(source, partial(_pillow_size_and_grey, check=check))


def _pillow_size_and_grey(image: Image.Image, check: bool) -> tuple[int, int, bool]:
    if check and image.mode not in GREY_MODES and not image.mode.startswith("I;16"):
        picture = _pillow_picture(image)
        return *picture.colour.shape[:2], picture.is_grey()
    turned = image.format != "TIFF" and _orientation(image) in SIDEWAYS  # a TIFF's header has the upright size
    height, width = image.size if turned else image.size[::-1]
    return height, width, check


def _with_pillow(source: Path | bytes | Image.Image, action: Callable[[Image.Image], T]) -> T:
    """What the action makes of the opened image; whatever Pillow raises becomes `UnreadableImage`."""
    for _ in range(_ATTEMPTS):
        _ignore_warnings_of_pillow()
        try:
            with _opened(source) as image, _alone_if_large(image, source is not image):
                return action(image)
        except UnreadableImage:
            raise
        except Warning:  # another thread's `catch_warnings` had put its own filters in front of ours
            continue
        except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error and many more for damaged files
            raise UnreadableImage(_reason(error, source)) from error
    raise UnreadableImage("could not be read while another thread turned Pillow's warnings into errors")


def _ignore_warnings_of_pillow() -> None:
    """
    Puts a filter in front that ignores what Pillow's modules warn of: oddities of metadata that do not touch pixels.

    `warnings.catch_warnings` swaps the filters of the whole process and swaps them back, so that two threads that
    decode would restore each other's. One filter that only Pillow's own modules match, put in place before each
    image and left there, needs no way back and hides no other package's warnings. What another thread's
    `catch_warnings` can still do is to take it away during one image: a warning is then printed, or, where warnings are
    errors, the image is read again.
    """
    ours = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
    with _WARNING_LOCK:
        if tuple(warnings.filters[:1]) != (ours,):
            warnings.filterwarnings("ignore", module=r"PIL\.")


@contextmanager
def _opened(source: Path | bytes | Image.Image) -> Iterator[Image.Image]:
    """The image with its header read and found in order; a file is closed at the end, the caller's own image is not."""
    if isinstance(source, Image.Image):
        _refuse_header(source)
        yield source
        return
    with _file(source) as file, Image.open(file, formats=FORMATS) as image:
        _refuse_header(image)
        yield image


@contextmanager
def _alone_if_large(image: Image.Image, ours: bool) -> Iterator[None]:
    """Within it no other large image is decoded; one that is ours to close leaves no memory behind.

    The C library keeps what was freed for the thread that held it, a third of a gibibyte after the largest image.
    """
    width, height = image.size
    if width * height < LARGE_PIXELS:
        yield
        return
    with _LARGE_LOCK:
        try:
            yield
        finally:
            if ours:
                image.close()
            give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)  # where the C library is glibc
            if give_back is not None:
                give_back(0)


def _file(source: Path | bytes) -> BinaryIO:
    if isinstance(source, bytes):
        size = len(source)
    elif isinstance(source, Path):
        status = source.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UnreadableImage("is a folder, not an image file")
        if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for ever
            raise UnreadableImage("is no regular file")
        size = status.st_size
    else:
        raise UnreadableImage(f"is a {type(source).__name__}; give a Path, bytes, an array or a Pillow image")
    if size == 0:
        raise UnreadableImage("is empty (0 bytes)")
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def _refuse_header(image: Image.Image) -> None:
    _refuse_giant(*image.size)
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # the further images of an MPO are previews or the other eye's view
        raise UnreadableImage(f"holds {frames} frames; write each frame as an image file of its own")


def _refuse_giant(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnreadableImage(f"has {width} x {height} pixels, more than the {MAX_PIXELS:,} that are read")


def _reason(error: Exception, source: Path | bytes | Image.Image) -> str:
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    if isinstance(error, UnidentifiedImageError):
        for signature, name in SIGNATURES.items():
            if _beginning(source).startswith(signature):
                return f"begins like a {name} but is truncated, damaged or of a pixel type that cannot be read"
        return f"is no image, or in none of the formats that are read ({', '.join(FORMATS)})"
    if isinstance(error, Image.DecompressionBombError):
        return f"has more than the {MAX_PIXELS:,} pixels that are read"
    if isinstance(error, MemoryError):
        return "needs more memory to decode than there is"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be opened: {error.strerror}"
    text = " ".join(str(error).split())[:200]
    return f"is damaged: {text or type(error).__name__}"


def _beginning(source: Path | bytes | Image.Image) -> bytes:
    if isinstance(source, Path):
        with source.open("rb") as file:
            return file.read(16)
    return source[:16] if isinstance(source, bytes) else b""
