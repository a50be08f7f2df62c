"""Images by address, and the batches that they arrive in: what every source gives."""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

import numpy as np

from ae_models.images import ImageInput, UnreadableImage
from flows.local_files import PLAIN, FolderReader, LocalFile

BLOCK = 2**16  # bytes that are hashed at once
TOLD = 64  # images that were read between two times that progress hears of it
KEPT_BYTES = 2**26  # of files that were hashed and wait to be scored; of large ones the second reading costs little


@dataclass(frozen=True)
class Seen:
    """What a store said of an image when it was listed.

    Attributes:
        version: changes whenever the image does; cheap.
        checksum: of the content, where the store keeps one; empty where it does not.
        changed_at: when it was written, by the store's clock; None where the store does not say.
    """

    version: str
    checksum: str = ""
    changed_at: datetime | None = None


@dataclass(frozen=True)
class Item:
    """One image: its address, how to get it, and what a manifest says of it.

    Attributes:
        uri: the file's absolute path (bytes of it that are no UTF-8 as `\\xNN`), or its URL.
        content: gives the image when it is needed.
        group: images of one group stay on one side of every split; None where none is known.
        label: None where none is known.
        batch: the manifest's batch, or None.
        timestamp: the manifest's timestamp as text, or None.
        path: where a local file lies, as text of the file system's; None of anything else.
        seen: what the store said of anything else; None of a local file.
        waits: whether getting it is mostly waiting, so that many are fetched at once.
    """

    uri: str
    content: Callable[[], ImageInput] = field(repr=False, compare=False)
    group: str | None = None
    label: str | None = None
    batch: str | None = None
    timestamp: str | None = None
    path: str | None = field(default=None, compare=False)  # a Path costs more than to look at the file
    seen: Seen | None = field(default=None, compare=False)
    waits: bool = field(default=False, compare=False)

    def stat(self) -> str:
        """Its size and time of change, or what its store says instead; cheap."""
        if self.path is None:
            return self.seen.version if self.seen else "data set"
        try:
            stat = os.stat(self.path)
        except OSError as error:
            return f"absent: {error.strerror}"
        return f"{stat.st_size} {stat.st_mtime_ns}"

    def changed_at(self, stat: str) -> datetime | None:
        """When it was written last, as its file's `stat` or its store says; None where neither does."""
        if self.path is None:
            return self.seen.changed_at if self.seen else None
        try:
            _, changed = map(int, stat.split(" "))
            return datetime.fromtimestamp(changed / 1e9, UTC)
        except (OverflowError, ValueError):  # a file that is absent has no numbers
            return None

    def is_gone(self) -> bool:
        """Whether it is a local file that is not there any more."""
        return self.path is not None and not os.path.lexists(self.path)


@dataclass(frozen=True)
class Found:
    """What a source holds: its items in a stable order, and the files left out because they are no images by name."""

    items: tuple[Item, ...]
    left_out: tuple[str, ...] = ()


class Kept:
    """The contents of small files that were read for a batch's hash: the very bytes that it stands for are scored."""

    def __init__(self) -> None:
        self._contents: dict[int, bytes] = {}
        self._hash = ""

    @property
    def size(self) -> int:
        """Bytes that are held."""
        return sum(map(len, self._contents.values()))

    def take(self, manifest_hash: str, contents: dict[int, bytes]) -> None:
        """Hold the contents that gave this hash, in place of any others."""
        self._hash, self._contents = manifest_hash, contents

    def of(self, manifest_hash: str) -> Mapping[int, bytes]:
        """The contents by the place of their image, where they are those of this hash."""
        return self._contents if manifest_hash == self._hash else {}

    def forget(self) -> None:
        """Hold nothing any more."""
        self.take("", {})


@dataclass(frozen=True)
class Batch:
    """Images that arrived together and are judged together.

    Attributes:
        id: its name, unique within the pipeline's inbox.
        items: its images; one a row of the results.
        left_out: files beside them that are no images by name.
        folder: where it lies, where that is a local folder.
        kept: what is in memory of its images.
    """

    id: str
    items: tuple[Item, ...]
    left_out: tuple[str, ...] = ()
    folder: Path | None = None
    kept: Kept = field(default_factory=Kept, repr=False, compare=False)

    def stats(self) -> tuple[str, ...]:
        """The size and time of change of each image; cheap."""
        return tuple(item.stat() for item in self.items)

    def stat_hash(self, stats: Sequence[str] | None = None) -> str:
        """A hash of addresses, sizes and modification times, equal only where nothing was touched; asked if not given.

        `stats` are its own, where they were asked for a moment ago.
        """
        found = self.stats() if stats is None else stats
        return digest(f"{item.uri}\0{stat}" for item, stat in zip(self.items, found, strict=True))

    def manifest_hash(self, advance: Callable[[int], object] = lambda images: None, keep: int = 0) -> str:
        """A hash of the batch's name and its images' names and contents: the same wherever it lies.

        `advance` hears of how many images more were read. Of the small files among them as many bytes stay in `kept`
        as `keep` allows.
        """
        contents, left, reader = dict[int, bytes](), keep, FolderReader()

        def line(place: int, item: Item) -> str:
            nonlocal left
            if item.seen and item.seen.checksum:
                found = item.seen.checksum
            else:
                found, content = hash_and_content(item, reader.open)
                if content and len(content) <= left:
                    contents[place], left = content, left - len(content)
            if place % TOLD == TOLD - 1:
                advance(TOLD)
            return f"{name_of(item.uri)}\0{found}"

        with closing(reader):
            manifest_hash = digest(chain([self.id], map(line, range(len(self.items)), self.items)))
        advance(len(self.items) % TOLD)
        self.kept.take(manifest_hash, contents)
        return manifest_hash

    def taken_at(self) -> datetime | None:
        """When its newest image was taken, where a manifest says so of every image (as UTC where it names no zone)."""
        try:
            times = [datetime.fromisoformat(item.timestamp or "") for item in self.items]
        except ValueError:
            return None
        return max((time if time.tzinfo else time.replace(tzinfo=UTC) for time in times), default=None)

    def own_time(self, stats: Sequence[str] | None = None) -> datetime | None:
        """When it was taken, or where no manifest says so, when the newest of its files was written.

        `stats` are its own, where they were asked for a moment ago.
        """
        if taken_at := self.taken_at():
            return taken_at
        found = self.stats() if stats is None else stats
        return max(filter(None, map(Item.changed_at, self.items, found)), default=None)

    def is_gone(self) -> bool:
        """Whether its folder is not there any more."""
        return self.folder is not None and not self.folder.exists()


def file_item(path: Path | str) -> Item:
    """The image in a local file."""
    return Item(as_text(path), LocalFile(str(path)), path=str(path))


def as_text(path: Path | str) -> str:
    """The path as text that every store takes: bytes of a name that are no UTF-8 as `\\xNN`."""
    text = str(path)
    return text if text.isascii() else os.fsencode(text).decode("utf-8", "backslashreplace")


def name_of(uri: str) -> str:
    """The image's name, without the folder that it lies in."""
    return uri.rstrip("/").rpartition("/")[2]


def content_hash(item: Item) -> str:
    """SHA-256 of the image's bytes; of a missing or unreadable file, a fixed text."""
    return hash_and_content(item)[0]


def hash_and_content(item: Item, opened: Callable[[LocalFile], int] = LocalFile.open) -> tuple[str, bytes]:
    """What `content_hash` gives, and the bytes of a local file of at most BLOCK; none of anything else."""
    try:
        if isinstance(item.content, LocalFile):
            return _of_file(opened(item.content))
        content = item.content()
        if isinstance(content, Path):
            return _of_file(os.open(content, PLAIN))
        if isinstance(content, bytes):
            return hashlib.sha256(content).hexdigest(), b""
        return hashlib.sha256(np.asarray(content).tobytes()).hexdigest(), b""
    except UnreadableImage as error:
        return f"unreadable: {error}", b""
    except OSError as error:
        return f"unreadable: {error.strerror}", b""


def _of_file(file: int) -> tuple[str, bytes]:
    try:
        first = part = os.read(file, BLOCK)
        hashed, size = hashlib.sha256(first), len(first)
        while part and (part := os.read(file, BLOCK)):
            hashed.update(part)
            size += len(part)
    finally:
        os.close(file)
    return hashed.hexdigest(), first if size == len(first) else b""


def digest(lines: Iterable[str]) -> str:
    """SHA-256 (hex) of the lines."""
    hashed = hashlib.sha256()
    for line in lines:
        hashed.update(f"{line}\n".encode("utf-8", "surrogateescape"))
    return hashed.hexdigest()
