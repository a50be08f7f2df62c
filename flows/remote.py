"""Folders and files behind URLs: whatever fsspec opens, listed and read, with one sentence where that fails."""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ae_models.errors import InputError
from ae_models.images import UnreadableImage
from flows.items import Item, Seen

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

EXTRAS = {  # the package that opens a scheme, and our extra that installs it
    **dict.fromkeys(("s3", "s3a"), ("s3fs", "s3")),
    **dict.fromkeys(("gs", "gcs"), ("gcsfs", "gs")),
    **dict.fromkeys(("az", "abfs", "abfss"), ("adlfs", "az")),
}
CONNECT_SECONDS, ANSWER_SECONDS, RETRIES = 10, 30, 2
CLIENT = {  # of botocore
    "connect_timeout": CONNECT_SECONDS,
    "read_timeout": ANSWER_SECONDS,
    "retries": {"max_attempts": RETRIES},
    "max_pool_connections": 32,
}
S3: dict[str, Any] = {  # of s3fs: an image in one request, without one for its size
    "config_kwargs": CLIENT,
    "max_concurrency": 1,
}
AZURE: dict[str, Any] = {  # of adlfs, for images; how long it waits for a list cannot be said
    "connection_timeout": CONNECT_SECONDS,
    "read_timeout": ANSWER_SECONDS,
    "max_concurrency": 1,
}
DENIED = {"NoCredentialsError", "DefaultCredentialsError", "RefreshError", "ClientAuthenticationError"}
SAVED_LOGIN = "~/.gcs_tokens"
LARGEST = 512 * 2**20  # bytes of a file that are fetched


class SourceUnavailable(RuntimeError):  # noqa: N818 (it says what happened)
    """A store did not give what it was asked for: its images are neither readable nor unreadable, and stay due."""


@dataclass(frozen=True)
class RemoteFile:
    """A file in a store: its address, its path below the folder that was listed, and what the store says of it."""

    url: str
    parts: tuple[str, ...]
    size: int
    seen: Seen


def shown(url: str) -> str:
    """The address without what may be secret in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def files_below(url: str, may_be_empty: bool = False) -> list[RemoteFile]:
    """Every file in the folder and its subfolders, by name; object stores know of no folder without a file.

    Raises:
        InputError: there is no such folder, or nothing that opens it is installed.
        SourceUnavailable: the store did not answer, or refused.
    """
    system, root = _opened(url)
    with _one_sentence(url):
        system.invalidate_cache()  # listings are kept otherwise, and what is new is never seen
        found = system.find(root, detail=True)
        if not found and not may_be_empty and not system.exists(root):
            raise FileNotFoundError
    files = []
    for path, information in sorted(found.items()):
        parts = tuple(path[len(root) :].strip("/").split("/"))
        files.append(RemoteFile(system.unstrip_protocol(path), parts, information.get("size") or 0, _seen(information)))
    return [file for file in files if file.parts != ("",)]  # an object that stands for the folder itself


def read_bytes(url: str) -> bytes:
    """The bytes of a file; raises as `files_below` does, and FileNotFoundError where it is not there."""
    system, path = _opened(url)
    with _one_sentence(url, absent=False):
        content: bytes = system.cat_file(path)
    return content


def remote_item(file: RemoteFile) -> Item:
    """The image in a file that was listed."""
    return Item(file.url, partial(_content, file.url, file.size), seen=file.seen, waits=True)


def named_item(url: str) -> Item:
    """The image at an address that nobody listed; what it holds is told by reading it alone."""
    return Item(url, partial(_content, url, None), waits=True)


def _content(url: str, size: int | None) -> bytes:
    if size is not None and size > LARGEST:
        raise UnreadableImage(f"has {size:,} bytes, more than the {LARGEST:,} that are fetched")
    try:
        content = read_bytes(url)
    except FileNotFoundError:
        raise UnreadableImage("does not exist") from None
    if size is not None and len(content) != size:
        raise SourceUnavailable(f"{shown(url)} changed while its batch was read: it stays due")
    return content


def _opened(url: str) -> "tuple[AbstractFileSystem, str]":
    """The file system that the address is in, and the path there."""
    from fsspec.core import url_to_fs  # a tenth of a second, and few pipelines need it

    scheme = urlsplit(url).scheme
    if scheme in ("http", "https"):
        raise InputError(f"{shown(url)}: web servers list no folders: give a manifest of the addresses instead")
    package, extra = EXTRAS.get(scheme, ("", ""))
    with _one_sentence(url):
        try:
            system, path = url_to_fs(url, **_options(extra, os.environ))
        except InputError:
            raise
        except ImportError as error:
            install = f"install it with: pip install 'reconwatch[{extra}]'" if extra else str(error)
            raise InputError(
                f"{shown(url)}: {scheme}:// needs the package {package or 'that opens it'}: {install}"
            ) from error
        except ValueError as error:
            if extra == "az":
                raise InputError(
                    f"{shown(url)}: no account is known ({_words(error)}): set AZURE_STORAGE_CONNECTION_STRING, or "
                    "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY"
                ) from error
            raise InputError(f"{shown(url)}: nothing here opens {scheme}://: {error}") from error
    if hasattr(system, "retries"):
        system.retries = 1  # s3fs would try five times what its client has tried already, one within the other
    return system, path


def _options(extra: str, environment: Mapping[str, str]) -> Mapping[str, Any]:
    """How the library of an extra is to ask its store; what it says on the way stays with it."""
    for library in {"gs": ("gcsfs",), "az": ("azure",)}.get(extra, ()):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    if extra == "gs":
        return _google(environment)
    return {"s3": S3, "az": AZURE}.get(extra, {})


def _google(environment: Mapping[str, str]) -> Mapping[str, Any]:
    if Path(SAVED_LOGIN).expanduser().exists():
        raise InputError(
            f"{SAVED_LOGIN} holds logins of a browser as a pickle, which can run code and which gcsfs would load: "
            "delete it, and set GOOGLE_APPLICATION_CREDENTIALS"
        )
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # asks another service what kind a bucket is
    from aiohttp import ClientTimeout

    token = "anon" if environment.get("STORAGE_EMULATOR_HOST") else None  # None: whatever there is, or none at all
    if environment.get("GOOGLE_APPLICATION_CREDENTIALS"):
        token = "google_default"  # so that what is wrong with them is said
    seconds = ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=ANSWER_SECONDS)
    return {"token": token, "requests_timeout": seconds}


@contextmanager
def _one_sentence(url: str, absent: bool = True) -> Iterator[None]:
    """Whatever the store raises as one sentence; a file that is not there only where its `absent` is wanted so."""
    try:
        yield
    except (InputError, SourceUnavailable):
        raise
    except FileNotFoundError as error:
        if not absent:
            raise
        raise InputError(f"there is no {shown(url)}: correct the address, or make the bucket or folder") from error
    except Exception as error:  # each store's library has classes of its own
        if _is_denied(error):
            raise SourceUnavailable(
                f"{shown(url)} may not be read, and its batches stay due: check the credentials in the environment "
                f"({_words(error)})"
            ) from error
        raise SourceUnavailable(f"{shown(url)} did not answer, and its batches stay due: {_words(error)}") from error


def _is_denied(error: Exception) -> bool:
    """Whether there are no credentials, or others are needed."""
    code = getattr(error, "status_code", getattr(error, "code", None))
    by_words = type(error).__name__ in DENIED or str(error).startswith("Forbidden: ")  # gcsfs has no class for it
    return isinstance(error, PermissionError) or by_words or code in (401, 403)


def _words(error: Exception) -> str:
    """What the store's library says, without what may be secret in an address: a password, or a signed query."""
    text = str(error).partition("\nContent: ")[0]  # Azure's whole answer
    text = re.sub(r"(://[^\s?]*)\?\S*", r"\1", re.sub(r"://[^\s/@]*@", "://", text))
    return " ".join(text.split())[:200] or type(error).__name__


def _seen(information: Mapping[str, Any]) -> Seen:
    """What the file systems that fsspec knows call size, time and checksum."""
    times = ("LastModified", "last_modified", "updated", "mtime", "modified", "created")
    changed_at = next((at for name in times if (at := _time(information.get(name))) is not None), None)
    checksum = str(information.get("ETag") or information.get("md5Hash") or "").strip('"')
    version = f"{information.get('size')} {changed_at} {checksum or information.get('etag', '')}"
    return Seen(version, checksum, changed_at)


def _time(value: object) -> datetime | None:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    return None
