"""What the sections of pipelines.yaml are made of: checked paths, numbers and names, shorthands, choices of a model."""

import difflib
import glob
import ipaddress
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    ValidationInfo,
)

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"
DEVICE = r"^(auto|cpu|mps|cuda(:[0-9]+)?)$"
HOST = r"^[A-Za-z0-9]([A-Za-z0-9.:-]{0,252}[A-Za-z0-9])?$"
MAIL_ADDRESS = r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?$"
FILE_NAME = r"^[^/\\]{1,255}$"
PATTERNS = {
    NAME: "a name: up to 63 letters, digits, '-' and '_', the first a letter or a digit",
    DEVICE: "a device: auto, cpu, mps, cuda, or one GPU such as cuda:0",
    HOST: "the name or address of a server, such as mail.example.com",
    FILE_NAME: "the name of a file, without a folder",
    MAIL_ADDRESS: "an e-mail address, such as night-shift@example.com",
}
ARCHIVES = ("zip", "tar", "libarchive", "rar", "7z", "zstd", "gzip", "blockcache", "filecache", "simplecache", "dir")
Scalar = str | int | float | bool


class Part(BaseModel):
    """What every section of the file has in common: it is frozen and refuses keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


def _not_boolean(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is not a number")  # pydantic would take true for 1
    return value


def integer_of_digits(value: object) -> object:
    """The integer that a text of digits stands for (as `${NAME}` gives it); anything else as it is."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def _not_empty(value: object) -> object:
    if value == "" or "\0" in str(value):
        raise ValueError("is not a path ('.' is the folder that the file is in)")
    return value


def _absolute(path: Path, info: ValidationInfo) -> Path:
    """The path from the file's folder on (`context["folder"]`); without a context it stays as it is."""
    path = Path(os.path.expanduser(path))
    if not info.context:
        return path
    folder = str(info.context["folder"])
    return Path(glob.escape(folder) if info.data.get("glob") else folder, path)  # only what was written is a wildcard


def is_url(text: str) -> bool:
    """Whether the text begins as an address does, such as s3://."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def _url(text: str) -> str:
    """The text, if it is an address of a folder or a file; the ValueError does not show it, as it may hold a secret."""
    parts = urlsplit(text)
    if not is_url(text) or "::" in text or re.search(r"\s", text):
        raise ValueError("must be an address such as s3://bucket/folder, without '::' or spaces")
    if parts.scheme.lower() in ARCHIVES:
        raise ValueError(f"{parts.scheme}:// opens an archive, and archives are not opened: unpack it beforehand")
    if parts.password is not None:
        raise ValueError("holds a password: leave it out, the store's library takes it from its environment variables")
    return text


def _place(value: object, info: ValidationInfo) -> Path | str:
    text = str(_not_empty(value))
    if text.lower().startswith("file://"):
        text = unquote(urlsplit(text).path)
    elif isinstance(value, str) and is_url(text):
        return _url(text)
    elif not isinstance(value, str | Path):
        raise ValueError("is not a path")
    return _absolute(Path(text), info)


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise ValueError(f"{text!r} is not a network, such as 10.1.0.0/16, or an address, such as 10.1.2.3") from None


def _one_or_more(value: object) -> tuple[Scalar, ...]:
    values = value if isinstance(value, list | tuple) else [value]
    usable = (isinstance(item, str | int) or (isinstance(item, float) and math.isfinite(item)) for item in values)
    if not values or not all(usable):
        raise ValueError("must be a text, a number, true or false, or a list of them")
    return tuple(values)


def _classes(value: object) -> tuple[str | int, ...]:
    if not isinstance(value, list | tuple) or not all(type(item) in (str, int) for item in value):
        raise ValueError("must be a list of class names or class numbers")
    return tuple(value)


def web_address(text: str) -> str:
    """The text, if it is an http(s) address; the ValueError does not show it, as it may be secret."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or re.search(r"\s", text):
        raise ValueError("must be a web address that starts with http:// or https://")
    return text


def keys_of(model: type[BaseModel]) -> tuple[str, ...]:
    """The keys that a file may write for the model."""
    return tuple(field.alias or name for name, field in model.model_fields.items())


def tag_of(model: type[BaseModel] | None) -> str | None:
    """What stands for the model in the location of an error: in <>, so that no key of a file is taken for it."""
    return f"<{model.__name__}>" if model else None


def chosen_by(key: str, models: Mapping[str, type[BaseModel]], default: str | None = None) -> Discriminator:
    """The choice of a model by the value of `key`, or of the one named `default` where the key is not there."""

    def tag(value: Any) -> str | None:
        if isinstance(value, Mapping):
            return tag_of(models.get(str(value.get(key, default))))
        return tag_of(type(value)) if type(value) in models.values() else None

    expected = " or ".join(f"'{name}'" for name in models)
    context: dict[str, int | str | float] = {"key": key, "expected": expected}
    return Discriminator(
        tag, custom_error_type="choice", custom_error_message="unknown choice", custom_error_context=context
    )


def chosen_by_keys(models: Mapping[str, type[BaseModel]], text: str = "a path") -> Discriminator:
    """The choice of a model by a key that only it has, or by the nearest to one, so that a misspelt key is named.

    `text` says what a text alone would be.
    """

    def tag(value: Any) -> str | None:
        if not isinstance(value, Mapping):
            return tag_of(type(value)) if type(value) in models.values() else None
        exact = [key for key in models if key in value]
        near = [near for key in value for near in difflib.get_close_matches(str(key), list(models), n=1)]
        return tag_of(models[(exact or near)[0]]) if exact or near else None

    words = f"must be {text}, or a mapping with one of these keys: {', '.join(models)}"
    return Discriminator(tag, custom_error_type="source", custom_error_message=words)


def shorthand(key: str, word: str | None = None) -> Callable[[object], object]:
    """A text alone stands for a mapping with that text at `key` (only the text `word`, where one is given)."""
    return lambda value: {key: value} if isinstance(value, str) and word in (None, value) else value


NOT_BOOLEAN = BeforeValidator(_not_boolean)
Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=NAME)]
FilePath = Annotated[Path, BeforeValidator(_not_empty), AfterValidator(_absolute)]
Url = Annotated[str, AfterValidator(_url)]
Place = Annotated[Path | str, PlainValidator(_place, json_schema_input_type=str)]  # a path as Path, a URL as text
Network = Annotated[str, AfterValidator(_network)]
Count = Annotated[int, Field(ge=1), NOT_BOOLEAN]
Positive = Annotated[float, Field(gt=0), NOT_BOOLEAN]
Share = Annotated[float, Field(gt=0, lt=1), NOT_BOOLEAN]
Rate = Annotated[float, Field(gt=0, le=0.5), NOT_BOOLEAN]
Where = Annotated[tuple[Scalar, ...], BeforeValidator(_one_or_more, json_schema_input_type=Scalar | list[Scalar])]
Classes = Annotated[tuple[str | int, ...], BeforeValidator(_classes, json_schema_input_type=list[str | int])]
