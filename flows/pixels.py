"""Pixels that are decoded once: in memory while they fit, and otherwise in a file that is mapped into memory.

The file is named by the images' contents, so that the next training of the same images, or another process that trains
with this one, finds it. It appears whole or not at all, and one that is removed stays readable for who has it open.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped, unused-ignore]  # it ships no types
from numpy.typing import NDArray

from ae_models.images import DECODING, ImageSpec
from flows.items import Item, content_hash

SHARE = 0.25  # of the free memory that decoded images may take; training takes a second copy of most of them
KEPT_BYTES = 50 * 2**30  # of files that are kept beside a new one
AT_ONCE = 512  # images copied at once


@dataclass(frozen=True)
class Outcome:
    """What reading images gave: the places of those that could be read, and the reasons of the others by place."""

    kept: tuple[int, ...]
    unreadable: tuple[tuple[int, str], ...]


def free_memory(root: Path = Path("/")) -> int:
    """Bytes that this process may still take: of the machine, or of the container that it runs in."""
    free = [int(psutil.virtual_memory().available)]
    for limit, used in (
        ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current"),
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", "sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # no such group, or no limit ("max")
            free.append(int((root / limit).read_text()) - int((root / used).read_text()))
    return max(0, min(free))


def fits(count: int, spec: ImageSpec, free: int) -> bool:
    """Whether so many images (float32) take no more than their share of the free bytes."""
    return count * int(np.prod(spec.shape)) * 4 <= SHARE * free


def file_of(items: Sequence[Item], spec: ImageSpec, folder: Path) -> Path:
    """The file for the pixels of these images: named by their contents and the way in which they are decoded."""
    digest = hashlib.sha256(f"{DECODING} {spec.shape}".encode())
    for item in items:
        digest.update(content_hash(item).encode())
    return folder / f"{digest.hexdigest()}.pixels"


class Decoding:
    """A file that is being filled; `done` puts it in its place."""

    def __init__(self, path: Path, count: int, spec: ImageSpec) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _make_room(path.parent, count * int(np.prod(spec.shape)) * 4)
        handle, name = tempfile.mkstemp(".part", dir=path.parent)
        os.close(handle)
        self._path, self._spec, self._part = path, spec, Path(name)
        self.pixels = np.memmap(self._part, np.float32, "w+", shape=(count, *spec.shape))

    def done(self, outcome: Outcome) -> NDArray[np.float32]:
        """The pixels (kept, C, H, W), mapped; what is written into them stays in this process."""
        self.pixels.flush()
        seal = self._part.with_suffix(".seal")
        seal.write_text(json.dumps([outcome.kept, outcome.unreadable]), encoding="utf-8")
        os.replace(self._part, self._path)
        os.replace(seal, self._path.with_suffix(".json"))  # last: a file without it does not count
        return _mapped(self._path, len(outcome.kept), self._spec)


def found(path: Path, spec: ImageSpec) -> tuple[NDArray[np.float32], Outcome] | None:
    """The pixels (kept, C, H, W) that were decoded before, and what could not be read; None where there are none."""
    try:
        kept, unreadable = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        outcome = Outcome(tuple(kept), tuple((place, reason) for place, reason in unreadable))
        pixels = _mapped(path, len(outcome.kept), spec)
    except (OSError, ValueError):
        return None
    path.touch()  # the ones that were used last stay longest
    return pixels, outcome


def of_places(pixels: NDArray[np.float32], places: NDArray[np.int64]) -> NDArray[np.float32]:
    """The images at these places, (len(places), C, H, W): in memory, or mapped where `pixels` are."""
    if not isinstance(pixels, np.memmap):
        return pixels[places]
    with tempfile.TemporaryFile(dir=Path(str(pixels.filename)).parent) as file:  # it goes with its last reader
        part = np.memmap(file, np.float32, "w+", shape=(len(places), *pixels.shape[1:]))
    for start in range(0, len(places), AT_ONCE):
        part[start : start + AT_ONCE] = pixels[places[start : start + AT_ONCE]]
    return part


def some_of(pixels: NDArray[np.float32], free: int) -> NDArray[np.float32]:
    """All images, or where they are mapped, as many of them as fit into memory, evenly spaced."""
    if not isinstance(pixels, np.memmap):
        return pixels
    at_most = max(2, int(SHARE * free) // int(pixels[0].nbytes))
    return pixels[np.unique(np.linspace(0, len(pixels) - 1, min(at_most, len(pixels))).astype(np.int64))]


def _mapped(path: Path, count: int, spec: ImageSpec) -> NDArray[np.float32]:
    if not count:
        return np.empty((0, *spec.shape), np.float32)
    return np.memmap(path, np.float32, "c", shape=(count, *spec.shape))


def _make_room(folder: Path, size: int) -> None:
    """Remove the files that were used longest ago until those that stay, and one of that size, are not too many."""
    files = sorted(folder.glob("*.pixels"), key=lambda path: path.stat().st_mtime)
    total = sum(path.stat().st_size for path in files)
    for path in files:
        if total + size <= KEPT_BYTES:
            return
        total -= path.stat().st_size
        path.with_suffix(".json").unlink(missing_ok=True)
        path.unlink(missing_ok=True)
