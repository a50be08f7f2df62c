"""Where images come from, as items and batches: folders, globs, URLs, manifests, tables and torchvision data sets."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ae_models.errors import InputError
from flows.config import (
    DataConfig,
    LabelledFolders,
    ManifestSource,
    PathSource,
    Source,
    TableSource,
    TorchvisionSource,
    UrlSource,
)
from flows.fence import Fence
from flows.folders import files_of, folder_batch, folder_batches, is_left_out
from flows.items import Batch, Found, Item, Seen, as_text, content_hash, file_item, name_of
from flows.remote import RemoteFile, files_below, remote_item, shown
from flows.words import one_line

__all__ = [
    "Batch",
    "Found",
    "Item",
    "Seen",
    "as_text",
    "content_hash",
    "groups_of",
    "inbox_batches",
    "labelled_items",
    "nominal_items",
    "path_batches",
]


def nominal_items(data: DataConfig) -> Found:
    """The nominal images of a pipeline, with their groups.

    Where a manifest holds labels, only rows with a nominal label are kept.

    Raises:
        InputError: there are none, or the source cannot be read.
    """
    found = _find(data.nominal, data)
    labels, source = {label.casefold() for label in data.nominal_labels}, data.nominal
    if isinstance(source, ManifestSource | TableSource) and any(item.label is not None for item in found.items):
        found = replace(found, items=tuple(i for i in found.items if (i.label or "").casefold() in labels))
        if not found.items:
            name = source.manifest if isinstance(source, ManifestSource) else source.table
            raise InputError(
                f"no row of {name} has a nominal label ({', '.join(data.nominal_labels)}): "
                "name yours in data.nominal_labels"
            )
    return found


def labelled_items(data: DataConfig) -> tuple[Found, np.ndarray[Any, np.dtype[np.bool_]]] | None:
    """The labelled images of a pipeline and, for each, whether it is anomalous; None where the pipeline has none.

    Raises:
        InputError: the source cannot be read, an image has no label, or one of the two classes is absent.
    """
    if data.labelled is None:
        return None
    nominal_labels = {label.casefold() for label in data.nominal_labels}
    if isinstance(data.labelled, LabelledFolders):
        nominal, anomalous = (_find(part, data) for part in (data.labelled.nominal, data.labelled.anomalous))
        items = [replace(item, label=item.label or data.nominal_labels[0]) for item in nominal.items]
        items += [replace(item, label=item.label or "anomalous") for item in anomalous.items]
        truth = np.arange(len(items)) >= len(nominal.items)
        found = Found(tuple(items), nominal.left_out + anomalous.left_out)
    else:
        found = _find(data.labelled, data)
        if isinstance(data.labelled, PathSource | UrlSource):
            found = replace(found, items=tuple(replace(i, label=PurePosixPath(i.uri).parent.name) for i in found.items))
        missing = [item.uri for item in found.items if item.label is None]
        if missing:
            raise InputError(
                f"{len(missing)} labelled images have no label, the first is {one_line(missing[0])}: give the manifest "
                "a column 'label', or the folder one subfolder a label"
            )
        truth = np.array([(item.label or "").casefold() not in nominal_labels for item in found.items], bool)
    if truth.all() or not truth.any():
        raise InputError(
            f"data.labelled holds {int((~truth).sum())} nominal and {int(truth.sum())} anomalous images, and both are "
            f"needed (nominal labels are {', '.join(data.nominal_labels)}: see data.nominal_labels)"
        )
    return found, truth


def inbox_batches(data: DataConfig) -> tuple[Batch, ...]:
    """The batches that lie in the inbox now, by name, those that are not complete included.

    Raises:
        InputError: there is no inbox, or it cannot be read.
        SourceUnavailable: the store or database that it is in does not answer.
    """
    source = data.inbox
    if source is None:
        raise InputError("the pipeline has no data.inbox: add one, or name the images: reconwatch score NAME PATH")
    if isinstance(source, TorchvisionSource):
        items = _find(source, data).items
        starts = range(0, len(items), source.batch_size)
        return tuple(Batch(f"{s:06d}", items[s : s + source.batch_size]) for s in starts)
    if isinstance(source, UrlSource):
        return _url_batches(source)
    if isinstance(source, PathSource):
        return tuple(_without_marker(batch, source.marker) for batch in folder_batches(source, data))
    return _listed_batches(source, data)


def path_batches(paths: Sequence[Path], data: DataConfig | None = None) -> tuple[Batch, ...]:
    """Batches of the paths given by hand: one a folder, named after it, and one of all the files together.

    Folders of one name are named by their whole path. Links that lead out of a folder are refused where `data` is
    given and does not allow them.

    Raises:
        InputError: a path is not there.
    """
    absent = [str(path) for path in paths if not path.exists()]
    if absent:
        raise InputError(f"there is no {', '.join(absent)}: give folders or image files that exist")
    whole = list(dict.fromkeys(Path(os.path.abspath(path)) for path in paths))  # not resolved: a link keeps its name
    folders, files = [path for path in whole if path.is_dir()], [path for path in whole if not path.is_dir()]
    names = [folder.name for folder in folders]
    batches = [
        folder_batch(f, Fence(f, data) if data else None, as_text(f) if names.count(f.name) > 1 else None)
        for f in folders
    ]
    if files:
        items = tuple(map(file_item, files))
        together = f"{len(items)} files of {as_text(Path(files[0].parent.name))}"
        batches.append(Batch(items[0].uri if len(items) == 1 else together, items))
    return tuple(batches)


def groups_of(data: DataConfig, uris: Sequence[str]) -> dict[str, str]:
    """The group of each image that has one, by address: what `data.group` finds in it, or the inbox's manifest says."""
    if data.group is None:
        return {}
    if isinstance(data.inbox, ManifestSource | TableSource) and (
        named := {item.uri: item.group for item in _listed(data.inbox, data) if item.group is not None}
    ):
        return {uri: str(named[uri]) for uri in uris if named.get(uri) is not None}
    pattern = re.compile(data.group)
    matches = {uri: pattern.search(uri) for uri in uris}
    return {uri: match.group(1 if pattern.groups else 0) for uri, match in matches.items() if match}


def _find(source: Source, data: DataConfig) -> Found:
    found = _found(source, data)
    return replace(found, items=_regrouped(found.items, data.group))


def _found(source: Source, data: DataConfig) -> Found:
    if isinstance(source, TorchvisionSource):
        from flows.torchvision_items import torchvision_items

        return Found(torchvision_items(source))
    if isinstance(source, ManifestSource | TableSource):
        return Found(tuple(_listed(source, data)))
    if isinstance(source, UrlSource):
        found, place = _remote_images(files_below(source.url)), shown(source.url)
    else:
        found, place = files_of(source, data), str(source.path)
    if not found.items:
        raise InputError(f"there is no image in {place}: put images there or correct the path")
    return found


def _remote_images(files: Iterable[RemoteFile]) -> Found:
    images, left_out = [], []
    for file in files:
        if is_left_out(file.parts, file.parts[-1]):
            left_out.append(file.url)
        else:
            images.append(remote_item(file))
    return Found(tuple(images), tuple(left_out))


def _url_batches(source: UrlSource) -> tuple[Batch, ...]:
    """A batch for each folder that holds a file: object stores know of no other folders."""
    files: dict[str, list[RemoteFile]] = {}
    for file in files_below(source.url, may_be_empty=True):
        if len(file.parts) > 1 and not file.parts[0].startswith("."):
            files.setdefault(file.parts[0], []).append(replace(file, parts=file.parts[1:]))
    found = {name: _remote_images(its) for name, its in sorted(files.items())}
    return tuple(
        _without_marker(Batch(name, images.items, images.left_out), source.marker) for name, images in found.items()
    )


def _without_marker(batch: Batch, marker: str | None) -> Batch:
    """The batch without the file that says that it is complete, which may have the name of an image."""
    marks = [item for item in batch.items if name_of(item.uri) == marker] if marker else []
    if not marks:
        return batch
    items = tuple(item for item in batch.items if item not in marks)
    return replace(batch, items=items, left_out=(*batch.left_out, *(item.uri for item in marks)))


def _listed(source: ManifestSource | TableSource, data: DataConfig) -> Iterable[Item]:
    if isinstance(source, ManifestSource):
        from flows.manifests import manifest_items

        return manifest_items(source, data, data.group)
    from flows.tables import table_items

    return table_items(source, data)


def _listed_batches(source: ManifestSource | TableSource, data: DataConfig) -> tuple[Batch, ...]:
    batches: dict[str, list[Item]] = {}
    if isinstance(source, TableSource) and source.batch_column is None:
        raise InputError(f"the inbox table {source.table} needs batch_column: the column that names each image's batch")
    for item in _listed(source, data):
        if item.batch is None:
            name, column = (
                (f"manifest {source.manifest}", source.batch)
                if isinstance(source, ManifestSource)
                else (f"table {source.table}", source.batch_column)
            )
            raise InputError(f"the inbox {name} needs a value in column {column!r} for {one_line(item.uri)}")
        batches.setdefault(item.batch, []).append(item)
    return tuple(Batch(name, tuple(items)) for name, items in sorted(batches.items()))


def _regrouped(items: Sequence[Item], group: str | None) -> tuple[Item, ...]:
    """The items with the group that the regular expression `group` finds in their address, where they have none yet.

    Raises:
        InputError: it matches no address at all.
    """
    if group is None or any(item.group is not None for item in items):
        return tuple(items)
    pattern = re.compile(group)
    matches = [pattern.search(item.uri) for item in items]
    if not any(matches):
        raise InputError(
            f"data.group: {group!r} is no column of a manifest and matches no path, such as {one_line(items[0].uri)}"
        )
    groups = [match.group(1 if pattern.groups else 0) if match else None for match in matches]
    return tuple(replace(item, group=name) for item, name in zip(items, groups, strict=True))
