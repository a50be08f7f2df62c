"""What may be read of what others wrote: files within their folder, links followed, and addresses that are named."""

import os
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ae_models.errors import InputError
from flows.config import DataConfig
from flows.config_types import ARCHIVES, is_url
from flows.items import Item, Seen, as_text, file_item
from flows.local_files import LocalFile, refuse, within
from flows.remote import named_item, shown
from flows.web_images import WEB, lies_in, web_item
from flows.words import one_line

LONGEST_NAME, LONGEST_PATH = 255, 4095  # bytes
TOLD = 300  # characters of what a row says


class Fence:
    """The files and addresses that a source may name.

    Args:
        root: the folder or the URL that everything lies in; None where only what `data` allows may be named.
        data: says what may lie elsewhere.
    """

    def __init__(self, root: Path | str | None, data: DataConfig) -> None:
        self._root, self._data = root, data
        self._shown = str(root)
        self._real_root = os.path.realpath(root) if isinstance(root, Path) else ""
        self._inside: dict[str, bool] = {}  # whether folders lie inside, links followed: a batch has few

    def file(self, path: Path | str, link: bool | None = None) -> Item:
        """The image in a file that was found; one that a link leads out to cannot be read, and says why.

        `link` says whether the file itself is one, where that is known already.
        """
        name = str(path)
        if self._data.allow_outside:
            return file_item(name)
        if self.leads_out(name, link):
            return Item(as_text(name), partial(refuse, self._shown), seen=Seen("leads out of its folder"))
        return Item(as_text(name), LocalFile(name, self._real_root, self._shown), path=name)

    def leads_out(self, path: Path | str, link: bool | None = None) -> bool:
        """Whether a file or a folder lies outside, links followed."""
        if self._data.allow_outside:
            return False
        before, separator, _ = str(path).rpartition(os.sep)
        folder, is_link = before or separator, os.path.islink(path) if link is None else link
        if folder not in self._inside:
            self._inside[folder] = within(os.path.realpath(folder), self._real_root)
        return (is_link or not self._inside[folder]) and not within(os.path.realpath(path), self._real_root)

    def named(self, text: str, by: str) -> Item:
        """The image that a manifest or a table names, by a path or a URL.

        Raises:
            InputError: it lies where it may not; the sentence begins with `by`.
        """
        if is_url(text) and _is_chain(text):
            raise InputError(f"{by} names {one_line(shown(text), TOLD)}: archives are not opened; unpack it beforehand")
        if is_url(text) and not _is_address(text):
            raise InputError(f"{by} names {one_line(text, TOLD)}, which is no address: correct that row")
        if is_url(text) and not text.lower().startswith("file://"):
            return self._address(text, by)
        if text.lower().startswith("file://"):
            text = unquote(urlsplit(text).path)
        if isinstance(self._root, str):
            return self._below_url(self._root, text, by)
        path = Path(text) if self._root is None else self._root / text
        if not _is_path(path):
            raise InputError(f"{by} names {one_line(text, TOLD)!r}, which is no path: correct that row")
        whole = os.path.normpath(path)
        if not self._data.allow_outside and not (self._root and within(whole, os.path.normpath(self._root))):
            place = one_line(text, TOLD)
            raise InputError(
                f"{by} names {place}, which lies outside of {self._root or 'any root'}: correct that row, give "
                "the folder that all of them lie in as root, or set data.allow_outside: true"
            )
        return self.file(path)

    def _below_url(self, root: str, text: str, by: str) -> Item:
        parts = text.split("/")
        if text.startswith("/") or ".." in parts or "\\" in text:
            place = one_line(text, TOLD)
            raise InputError(f"{by} names {place}, which lies outside of {shown(root)}: correct that row")
        return self._address(f"{root.rstrip('/')}/{text}", by)

    def _address(self, url: str, by: str) -> Item:
        scheme = urlsplit(url).scheme.lower()
        allowed = (*self._data.allowed_urls, *([self._root] if isinstance(self._root, str) else []))
        if scheme in ARCHIVES or _is_chain(url):
            raise InputError(f"{by} names {one_line(shown(url), TOLD)}: archives are not opened; unpack it beforehand")
        if not lies_in(url, allowed):
            raise InputError(
                f"{by} names {one_line(shown(url), TOLD)}, which is in no folder that data.allowed_urls names"
            )
        if scheme in WEB:
            return web_item(url, allowed, self._data.allowed_networks)
        return named_item(url)


def _is_chain(text: str) -> bool:
    """Whether an address leads through another, as into an archive; an IPv6 host is none."""
    return "::" in text and "[" not in text


def _is_address(text: str) -> bool:
    try:
        return urlsplit(text).port != 0
    except ValueError:
        return False


def _is_path(path: Path) -> bool:
    """Whether there can be a file of that name; the system would raise where it is asked for another."""
    names = [len(part.encode("utf-8", "replace")) for part in path.parts]
    return "\0" not in str(path) and max(names, default=0) <= LONGEST_NAME and sum(names) + len(names) <= LONGEST_PATH
