"""Images and batches in local folders: what lies in them, in a stable order, and what is left out."""

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from ae_models.errors import InputError
from ae_models.images import is_a_document_name, looks_like_a_document
from flows.config import DataConfig, PathSource
from flows.fence import Fence
from flows.items import Batch, Found, as_text, file_item

ESCAPED = re.compile(r"\[([*?[])\]")  # what glob.escape makes of the wildcards in a folder's own name


def loose_files(data: DataConfig) -> tuple[str, ...]:
    """Images that lie in the inbox itself and so belong to no batch."""
    if not isinstance(data.inbox, PathSource) or data.inbox.glob or not data.inbox.path.is_dir():
        return ()
    return tuple(as_text(p) for p in sorted(data.inbox.path.iterdir()) if p.is_file() and not looks_like_a_document(p))


def images_in(folder: Path, fence: Fence | None = None) -> Found:
    """The images in a folder and its subfolders, by name; a link that leads nowhere counts as an unreadable one."""
    by_parts = sorted(_files_below(folder), key=lambda file: file[0].replace(os.sep, "\0"))  # which no name holds
    return _images_among(by_parts, folder, fence)


def folder_of(source: PathSource) -> Path:
    """The folder that all images of the source lie in: its own, or of a glob the part without a wildcard."""
    plain = source.path
    while source.glob and glob.has_magic(ESCAPED.sub("", str(plain))) and plain != plain.parent:
        plain = plain.parent
    return Path(ESCAPED.sub(r"\1", str(plain))) if source.glob else plain


def files_of(source: PathSource, data: DataConfig) -> Found:
    """The images of a folder or a glob.

    Raises:
        InputError: there is no such folder, or no file matches.
    """
    fence = _fence_of(source, data)
    if source.glob:
        paths = [match for match in sorted(glob.glob(str(source.path), recursive=True)) if os.path.isfile(match)]
        if not paths:
            raise InputError(f"no file matches {source.path}: correct the pattern or put images there")
        return _images_among([(path, None) for path in paths], source.path, fence)
    if not source.path.is_dir():
        raise InputError(f"there is no folder {source.path}: correct the path or put images there")
    return images_in(source.path, fence)


def folder_batches(source: PathSource, data: DataConfig) -> tuple[Batch, ...]:
    """The batches of an inbox, by name: its folders or, of a glob, the folders that match or hold what matches.

    Raises:
        InputError: the inbox is no folder.
    """
    fence = _fence_of(source, data)
    if not source.glob:
        if not source.path.is_dir():
            raise InputError(f"the inbox {source.path} is no folder: make it, or correct data.inbox")
        folders = [path for path in sorted(source.path.iterdir()) if path.is_dir() and not path.name.startswith(".")]
        return tuple(folder_batch(folder, fence) for folder in folders)
    matches = [Path(match) for match in sorted(glob.glob(str(source.path), recursive=True))]
    if folders := [match for match in matches if match.is_dir()]:
        return tuple(folder_batch(folder, fence, as_text(folder)) for folder in folders)
    parents = sorted({match.parent for match in matches})
    files = {parent: [(str(match), None) for match in matches if match.parent == parent] for parent in parents}
    return tuple(_batch(as_text(parent), _images_among(files[parent], parent, fence), parent) for parent in parents)


def folder_batch(folder: Path, fence: Fence | None, name: str | None = None) -> Batch:
    """All images in a folder as one batch, named like it where no name is given."""
    return _batch(name or as_text(Path(folder.name)), images_in(folder, fence), folder)


def _images_among(files: Iterable[tuple[str, bool | None]], root: Path, fence: Fence | None = None) -> Found:
    """The images among files, of each of which is said whether it is a link; None where that is not known."""
    images, left_out, depth = [], [], max(1, len(root.parts))  # what lies in "." begins with it
    hidden: dict[str, bool] = {}  # whether folders are; a batch has few
    for path, link in files:
        folder, _, name = path.rpartition(os.sep)
        if folder not in hidden:
            hidden[folder] = _is_hidden(folder.split(os.sep)[depth:])
        if hidden[folder] or is_a_document_name(name):
            left_out.append(as_text(path))
        else:
            images.append(fence.file(path, link) if fence else file_item(path))
    return Found(tuple(images), tuple(left_out))


def is_left_out(parts: Sequence[str], name: str) -> bool:
    """Whether a file is no image by its name, or one of its folders below the source is hidden."""
    return _is_hidden(parts) or is_a_document_name(name)


def _is_hidden(parts: Sequence[str]) -> bool:
    return any(part.startswith(".") for part in parts)


def _files_below(folder: Path) -> Iterator[tuple[str, bool]]:
    """Files and links that lead nowhere, and whether each is a link; no folder is entered that is one."""
    folders = [str(folder)]
    while folders:
        with suppress(PermissionError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    yield entry.path, False
                elif entry.is_symlink() and _is_for_us(entry.path):
                    yield entry.path, True


def _is_for_us(link: str) -> bool:
    """Whether a link leads to a file or nowhere."""
    return os.path.isfile(link) or not os.path.exists(link)


def _fence_of(source: PathSource, data: DataConfig) -> Fence:
    return Fence(folder_of(source), data)


def _batch(name: str, found: Found, folder: Path) -> Batch:
    return Batch(name, found.items, found.left_out, folder)
