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


def read_manifest(source: ManifestSource, data: DataConfig) -> "pd.DataFrame":
    """The rows that the source wants, with at least a column `path`.

    Raises:
        InputError: it is not there, is no table, or lacks a column or a path.
        SourceUnavailable: it lies in a store that does not give it.
    """
    name, suffix = _name(source), _suffix(source)
    try:
        file = source.manifest if isinstance(source.manifest, Path) else _fetched(source.manifest, data)
        if suffix == ".parquet":
            table = pd.read_parquet(file)
        else:  # every word is a value: a label 'NA' or 'none' too
            table = pd.read_csv(file, dtype=str, keep_default_na=False, na_values=[""])
    except FileNotFoundError as error:
        raise InputError(f"there is no manifest {name}: correct the path") from error
    except (InputError, RuntimeError):
        raise
    except Exception as error:  # pandas and pyarrow have no common class for a damaged file
        raise InputError(f"the manifest {name} cannot be read as {suffix[1:]}: {error}") from error
    wished = {"path", *source.where}
    if absent := sorted(wished - set(table.columns)):
        raise InputError(
            f"the manifest {name} has no column {', '.join(absent)}: it has {', '.join(map(str, table.columns))}"
        )
    for column, value in source.where.items():
        allowed = {str(one) for one in value}
        table = table[table[column].astype(str).isin(allowed)]
    if table.empty:
        raise InputError(f"no row of the manifest {name} fits where: {dict(source.where)}")
    if table["path"].isna().any():
        raise InputError(f"the manifest {name} has {int(table['path'].isna().sum())} rows without a path")
    return table


def manifest_items(source: ManifestSource, data: DataConfig, group: str | None = None) -> Iterator[Item]:
    """The images of the rows, with what is known of each; `group` may name a column.

    Raises:
        InputError: as `read_manifest`, or a row names what lies outside of the root.
    """
    table = read_manifest(source, data)
    fence, by = Fence(source.root or _folder(source), data), f"the manifest {_name(source)}"
    named = {"label": "label", "batch": source.batch, "timestamp": "timestamp"}
    columns = {field: table[name] for field, name in named.items() if name in table}
    if group in table:
        columns["group"] = table[group]
    for row, place in enumerate(table["path"].astype(str)):
        known: dict[str, Any] = {
            name: None if pd.isna(column.iloc[row]) else str(column.iloc[row]) for name, column in columns.items()
        }
        yield replace(fence.named(place, by), **known)


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
