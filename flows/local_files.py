"""A local file as the content of an image: where it lies is looked at each time that it is read."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ae_models.images import UnreadableImage

PLAIN = os.O_RDONLY | getattr(os, "O_BINARY", 0)
NO_LINK = PLAIN | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # nor is a pipe waited for
FOLDER = getattr(os, "O_PATH", 0) | getattr(os, "O_DIRECTORY", 0)


@dataclass(frozen=True)
class LocalFile:
    """The image in a local file: called it gives the path, and what `inside` it lies in is looked at each time.

    Attributes:
        path: of the file.
        inside: the folder that it has to lie in, links followed, itself without links; empty where it may lie anywhere.
        shown: that folder as people named it.
    """

    path: str
    inside: str = ""
    shown: str = ""

    def __call__(self) -> Path:
        """Its path.

        Raises:
            UnreadableImage: it lies elsewhere; what was a file may be a link by now.
        """
        if self.inside and not lies_within(self.path, self.inside):
            refuse(self.shown)
        return Path(self.path)

    def open(self) -> int:
        """The file, open for reading: on Linux what was opened is looked at itself, in half of the time.

        Raises:
            UnreadableImage: as above.
            OSError: there is no such file, or it cannot be read.
        """
        if self.inside:
            try:
                file = os.open(self.path, NO_LINK)
            except OSError:  # such as of a link, which is looked at before it is followed
                return os.open(self(), PLAIN)
            if _is_within(file, self.inside):
                return file
            os.close(file)
        return os.open(self(), PLAIN)


class FolderReader:
    """Opens files, many of one folder after another: on Linux where their folder lies is looked at once.

    It is held open, so that what is opened in it by name, and is no link, lies where the folder does.
    """

    def __init__(self) -> None:
        self._held: tuple[str, str] | None = None
        self._folder: int | None = None

    def open(self, file: LocalFile) -> int:
        """What `LocalFile.open` gives."""
        folder, _, name = file.path.rpartition(os.sep)
        if file.inside and self._holds(folder, file.inside):
            try:
                return os.open(name, NO_LINK, dir_fd=self._folder)
            except OSError:  # such as of a link, which is looked at before it is followed
                return file.open()
        return file.open()

    def close(self) -> None:
        """Let go of the folder."""
        if self._folder is not None:
            os.close(self._folder)
        self._held = self._folder = None

    def _holds(self, folder: str, inside: str) -> bool:
        if self._held != (folder, inside):
            self.close()
            self._held, self._folder = (folder, inside), _folder_within(folder, inside)
        return self._folder is not None


def _folder_within(folder: str, inside: str) -> int | None:
    """The folder, open, where it lies inside, links followed; None where it does not, or the system does not say."""
    try:
        handle = os.open(folder, FOLDER)
    except OSError:
        return None
    if _is_within(handle, inside):
        return handle
    os.close(handle)
    return None


def lies_within(path: str, folder: str) -> bool:
    """Whether a file lies in a folder, links followed: on Linux at once, in a third of the time of realpath."""
    try:
        file = os.open(path, os.O_PATH)  # opens nothing: it needs no right to read, and waits for no pipe
    except (AttributeError, OSError, ValueError):  # another system, or no such file
        return within(os.path.realpath(path), folder)
    try:
        return _is_within(file, folder) or within(os.path.realpath(path), folder)
    finally:
        os.close(file)


def _is_within(file: int, folder: str) -> bool:
    """Whether what is open lies in a folder; False too where the system does not say."""
    try:
        return within(os.readlink(f"/proc/self/fd/{file}"), folder)
    except OSError:  # /proc is not there
        return False


def within(path: str, folder: str) -> bool:
    """Whether a path is that of a folder or of what lies in it; no link is followed."""
    return path.startswith(folder) and (
        len(path) == len(folder) or folder.endswith(os.sep) or path[len(folder)] == os.sep
    )


def refuse(shown: str) -> NoReturn:
    """Raises UnreadableImage: a link leads out of the folder that people named so."""
    raise UnreadableImage(f"is reached by a link out of {shown}; set data.allow_outside: true where that is meant")
