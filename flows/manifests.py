"""Images listed in a .csv or .parquet file."""

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pandas as pd

from ae_models.errors import InputError
from ae_models.images import UnreadableImage
from flows.config import DataConfig, ManifestSource
from flows.fence import Fence
from flows.items import Item
from flows.remote import read_bytes, shown
from flows.web_images import WEB, fetch
from flows.words import one_line

MOST_ROWS, MOST_COLUMNS = 10_000_000, 1000
LONGEST = 300  # characters of what others say


def read_manifest(source: ManifestSource, data: DataConfig) -> "pd.DataFrame":
    """The rows that the source wants, with at least a column `path`.

    Raises:
        InputError: it is not there, is no table, is too large, or lacks a column or a path.
        SourceUnavailable: it lies in a store that does not give it.
    """
    name, suffix = _name(source), _suffix(source)
    try:
        file = source.manifest if isinstance(source.manifest, Path) else _fetched(source.manifest, data)
        table = _read_parquet(file, name) if suffix == ".parquet" else _read_csv(file, name)
    except FileNotFoundError as error:
        raise InputError(f"there is no manifest {name}: correct the path") from error
    except (InputError, RuntimeError):
        raise
    except Exception as error:  # pandas and pyarrow have no common class for a damaged file
        reason = one_line(str(error), LONGEST)
        raise InputError(f"the manifest {name} cannot be read as {suffix[1:]}: {reason}") from error
    wished = {"path", *source.where}
    if absent := sorted(wished - set(table.columns)):
        there_are = one_line(", ".join(map(str, table.columns)), LONGEST)
        raise InputError(f"the manifest {name} has no column {', '.join(absent)}: it has {there_are}")
    for column, value in source.where.items():
        allowed = {str(one) for one in value}
        table = table[table[column].astype(str).isin(allowed)]
    if table.empty:
        raise InputError(f"no row of the manifest {name} fits where: {dict(source.where)}")
    if table["path"].isna().any():
        raise InputError(f"the manifest {name} has {int(table['path'].isna().sum())} rows without a path")
    return table


def _read_parquet(file: Path | io.BytesIO, name: str) -> "pd.DataFrame":
    """The table; a few bytes may stand for any number of rows, so that these are asked for first."""
    from pyarrow import parquet

    with parquet.ParquetFile(file) as opened:
        _require_size(opened.metadata.num_rows, opened.metadata.num_columns, name)
        content = opened.read()
    content.validate(full=True)  # texts that are no UTF-8 would be told of only where each is looked at
    table: pd.DataFrame = content.to_pandas()
    return table


def _read_csv(file: Path | io.BytesIO, name: str) -> "pd.DataFrame":
    """The table; every word is a value: a label 'NA' or 'none' too."""
    content = file.read_bytes() if isinstance(file, Path) else file.getvalue()
    _require_size(content.count(b"\n"), content.partition(b"\n")[0].count(b",") + 1, name)
    return pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False, na_values=[""])


def _require_size(rows: int, columns: int, name: str) -> None:
    if rows > MOST_ROWS or columns > MOST_COLUMNS:
        raise InputError(
            f"the manifest {name} has {rows:,} rows and {columns:,} columns, and may have {MOST_ROWS:,} and "
            f"{MOST_COLUMNS:,}: split it"
        )


def manifest_items(source: ManifestSource, data: DataConfig, group: str | None = None) -> Iterator[Item]:
    """The images of the rows, with what is known of each; `group` may name a column.

    Raises:
        InputError: as `read_manifest`, or a row names what lies outside of the root.
    """
    table = read_manifest(source, data)
    fence, by = Fence(source.root or _folder(source), data), f"the manifest {_name(source)}"
    named = {"label": "label", "batch": source.batch, "timestamp": "timestamp"}
    columns = {field: _words(table[name]) for field, name in named.items() if name in table}
    if group in table:
        columns["group"] = _words(table[group])
    for row, place in enumerate(_words(table["path"])):
        known: dict[str, Any] = {name: words[row] for name, words in columns.items()}
        yield replace(fence.named(str(place), by), **known)


def _words(column: "pd.Series[Any]") -> list[str | None]:
    """The values as text, None where there is none: a list, as asking a table for one value at a time is slow."""
    return [None if absent else str(value) for value, absent in zip(column, column.isna(), strict=True)]


def _fetched(url: str, data: DataConfig) -> io.BytesIO:
    if urlsplit(url).scheme.lower() not in WEB:
        return io.BytesIO(read_bytes(url))
    try:
        return io.BytesIO(fetch(url, (url, *data.allowed_urls), data.allowed_networks))
    except UnreadableImage as error:
        raise InputError(f"the manifest {shown(url)} {error}") from error


def _name(source: ManifestSource) -> str:
    return str(source.manifest) if isinstance(source.manifest, Path) else shown(source.manifest)


def _suffix(source: ManifestSource) -> str:
    place = source.manifest if isinstance(source.manifest, Path) else PurePosixPath(urlsplit(source.manifest).path)
    return place.suffix.lower()


def _folder(source: ManifestSource) -> Path | str:
    return source.manifest.parent if isinstance(source.manifest, Path) else source.manifest.rpartition("/")[0]
