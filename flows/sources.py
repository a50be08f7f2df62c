"""Where images come from: folders, globs, manifests and torchvision data sets, as items and batches."""

import glob
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ae_models.errors import InputError
from ae_models.images import ImageInput, looks_like_a_document
from flows.config import DataConfig, LabelledFolders, ManifestSource, PathSource, Source, TorchvisionSource


@dataclass(frozen=True)
class Item:
    """One image: its address, how to get it, and what a manifest says of it.

    Attributes:
        uri: the file's absolute path (bytes of it that are no UTF-8 as `\\xNN`), or `torchvision://SET/PART/INDEX`.
        content: gives the image when it is needed.
        group: images of one group stay on one side of every split; None where none is known.
        label: None where none is known.
        batch: the manifest's batch, or None.
        timestamp: the manifest's timestamp as text, or None.
    """

    uri: str
    content: Callable[[], ImageInput] = field(repr=False, compare=False)
    group: str | None = None
    label: str | None = None
    batch: str | None = None
    timestamp: str | None = None


@dataclass(frozen=True)
class Found:
    """What a source holds: its items in a stable order, and the files left out because they are no images by name."""

    items: tuple[Item, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Batch:
    """Images that arrived together and are judged together.

    Attributes:
        id: its name, unique within the pipeline's inbox.
        items: its images; one a row of the results.
        left_out: files beside them that are no images by name.
    """

    id: str
    items: tuple[Item, ...]
    left_out: tuple[str, ...] = ()

    def stat_hash(self) -> str:
        """A hash of addresses, sizes and modification times: cheap, and equal only where nothing was touched."""
        return _digest(f"{item.uri}\0{_stat(item)}" for item in self.items)

    def manifest_hash(self) -> str:
        """A hash of the batch's name and its images' names and contents: the same wherever it lies."""
        contents = (f"{Path(item.uri).name}\0{content_hash(item)}" for item in self.items)
        return _digest(chain([self.id], contents))

    def taken_at(self) -> datetime | None:
        """When its newest image was taken, where a manifest says so of every image (as UTC where it names no zone)."""
        try:
            times = [datetime.fromisoformat(item.timestamp or "") for item in self.items]
        except ValueError:
            return None
        return max((time if time.tzinfo else time.replace(tzinfo=UTC) for time in times), default=None)


def nominal_items(data: DataConfig) -> Found:
    """The nominal images of a pipeline, with their groups.

    Where a manifest holds labels, only rows with a nominal label are kept.

    Raises:
        InputError: there are none, or the source cannot be read.
    """
    found = _find(data.nominal, data.group)
    labels = {label.casefold() for label in data.nominal_labels}
    if isinstance(data.nominal, ManifestSource) and any(item.label is not None for item in found.items):
        found = replace(found, items=tuple(i for i in found.items if (i.label or "").casefold() in labels))
        if not found.items:
            raise InputError(
                f"no row of {data.nominal.manifest} has a nominal label ({', '.join(data.nominal_labels)}): "
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
        nominal, anomalous = (_find(part, data.group) for part in (data.labelled.nominal, data.labelled.anomalous))
        items = [replace(item, label=item.label or data.nominal_labels[0]) for item in nominal.items]
        items += [replace(item, label=item.label or "anomalous") for item in anomalous.items]
        truth = np.arange(len(items)) >= len(nominal.items)
        found = Found(tuple(items), nominal.left_out + anomalous.left_out)
    else:
        found = _find(data.labelled, data.group)
        if isinstance(data.labelled, PathSource):
            found = replace(found, items=tuple(replace(i, label=Path(i.uri).parent.name) for i in found.items))
        missing = [item.uri for item in found.items if item.label is None]
        if missing:
            raise InputError(
                f"{len(missing)} labelled images have no label, the first is {missing[0]}: give the manifest a column "
                "'label', or the folder one subfolder a label"
            )
        truth = np.array([(item.label or "").casefold() not in nominal_labels for item in found.items], bool)
    if truth.all() or not truth.any():
        raise InputError(
            f"data.labelled holds {int((~truth).sum())} nominal and {int(truth.sum())} anomalous images, and both are "
            f"needed (nominal labels are {', '.join(data.nominal_labels)}: see data.nominal_labels)"
        )
    return found, truth


def inbox_batches(data: DataConfig) -> tuple[Batch, ...]:
    """The batches that lie in the inbox now, oldest name first.

    Raises:
        InputError: there is no inbox, or it cannot be read.
    """
    source = data.inbox
    if source is None:
        raise InputError("the pipeline has no data.inbox: add one, or name the images: reconwatch score NAME PATH")
    if isinstance(source, TorchvisionSource):
        items = _find(source).items
        starts = range(0, len(items), source.batch_size)
        return tuple(Batch(f"{s:06d}", items[s : s + source.batch_size]) for s in starts)
    if isinstance(source, ManifestSource):
        return _manifest_batches(source)
    if not source.glob:
        if not source.path.is_dir():
            raise InputError(f"the inbox {source.path} is no folder: make it, or correct data.inbox")
        folders = [path for path in sorted(source.path.iterdir()) if path.is_dir() and not path.name.startswith(".")]
        return tuple(_folder_batch(folder) for folder in folders)
    matches = [Path(match) for match in sorted(glob.glob(str(source.path), recursive=True))]
    if folders := [match for match in matches if match.is_dir()]:
        return tuple(_folder_batch(folder, as_text(folder)) for folder in folders)
    parents = sorted({match.parent for match in matches})
    files = {parent: [match for match in matches if match.parent == parent] for parent in parents}
    return tuple(_batch(as_text(parent), _images_among(files[parent], parent)) for parent in parents)


def loose_files(data: DataConfig) -> tuple[str, ...]:
    """Images that lie in the inbox itself and so belong to no batch."""
    if not isinstance(data.inbox, PathSource) or data.inbox.glob or not data.inbox.path.is_dir():
        return ()
    return tuple(as_text(p) for p in sorted(data.inbox.path.iterdir()) if p.is_file() and not looks_like_a_document(p))


def path_batches(paths: Sequence[Path]) -> tuple[Batch, ...]:
    """Batches of the paths given by hand: one a folder, named after it, and one of all the files together.

    Folders of one name are named by their whole path.

    Raises:
        InputError: a path is not there.
    """
    absent = [str(path) for path in paths if not path.exists()]
    if absent:
        raise InputError(f"there is no {', '.join(absent)}: give folders or image files that exist")
    whole = list(dict.fromkeys(Path(os.path.abspath(path)) for path in paths))  # not resolved: a link keeps its name
    folders, files = [path for path in whole if path.is_dir()], [path for path in whole if not path.is_dir()]
    names = [folder.name for folder in folders]
    batches = [_folder_batch(f, as_text(f) if names.count(f.name) > 1 else None) for f in folders]
    if files:
        items = tuple(map(_file_item, files))
        together = f"{len(items)} files of {as_text(Path(files[0].parent.name))}"
        batches.append(Batch(items[0].uri if len(items) == 1 else together, items))
    return tuple(batches)


def images_in(folder: Path) -> Found:
    """The images in a folder and its subfolders, by name; a link that leads nowhere counts as an unreadable one."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() or (path.is_symlink() and not path.exists()))
    return _images_among(paths, folder)


def groups_of(data: DataConfig, uris: Sequence[str]) -> dict[str, str]:
    """The group of each image that has one, by address: what `data.group` finds in it, or the inbox's manifest says."""
    if data.group is None:
        return {}
    if isinstance(data.inbox, ManifestSource) and data.group in _read_manifest(data.inbox):
        named = {item.uri: item.group for item in _manifest_items(data.inbox, data.group)}
        return {uri: str(named[uri]) for uri in uris if named.get(uri) is not None}
    pattern = re.compile(data.group)
    matches = {uri: pattern.search(uri) for uri in uris}
    return {uri: match.group(1 if pattern.groups else 0) for uri, match in matches.items() if match}


def as_text(path: Path) -> str:
    """The path as text that every store takes: bytes of a name that are no UTF-8 as `\\xNN`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def content_hash(item: Item) -> str:
    """SHA-256 of the image's bytes; of a missing or unreadable file, a fixed text."""
    content = item.content()
    try:
        if isinstance(content, Path):
            with content.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        return hashlib.sha256(np.asarray(content).tobytes()).hexdigest()
    except OSError as error:
        return f"unreadable: {error.strerror}"


def _find(source: Source, group: str | None = None) -> Found:
    found = _found(source, group)
    return replace(found, items=_regrouped(found.items, group))


def _found(source: Source, group: str | None) -> Found:
    if isinstance(source, TorchvisionSource):
        return Found(_torchvision_items(source))
    if isinstance(source, ManifestSource):
        return Found(tuple(_manifest_items(source, group)))
    if source.glob:
        paths = [Path(match) for match in sorted(glob.glob(str(source.path), recursive=True)) if Path(match).is_file()]
        if not paths:
            raise InputError(f"no file matches {source.path}: correct the pattern or put images there")
        found = _images_among(paths, source.path)
    elif source.path.is_dir():
        found = images_in(source.path)
    else:
        raise InputError(f"there is no folder {source.path}: correct the path or put images there")
    if not found.items:
        raise InputError(f"there is no image in {source.path}: put images there or correct the path")
    return found


def _images_among(paths: Iterable[Path], root: Path) -> Found:
    images, left_out = [], []
    for path in paths:
        hidden = any(part.startswith(".") for part in path.parts[len(root.parts) :])
        if hidden or looks_like_a_document(path):
            left_out.append(as_text(path))
        else:
            images.append(_file_item(path))
    return Found(tuple(images), tuple(left_out))


def _folder_batch(folder: Path, name: str | None = None) -> Batch:
    return _batch(name or as_text(Path(folder.name)), images_in(folder))


def _batch(name: str, found: Found) -> Batch:
    return Batch(name, found.items, found.left_out)


def _file_item(path: Path) -> Item:
    return Item(as_text(path), partial(Path, path))  # no lambda: it travels to other processes


def _read_manifest(source: ManifestSource) -> "pd.DataFrame":
    path = source.manifest
    try:
        if path.suffix.lower() == ".parquet":
            table = pd.read_parquet(path)
        else:  # every word is a value: a label 'NA' or 'none' too
            table = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""])
    except FileNotFoundError as error:
        raise InputError(f"there is no manifest {path}: correct the path") from error
    except Exception as error:  # pandas and pyarrow have no common class for a damaged file
        raise InputError(f"the manifest {path} cannot be read as {path.suffix[1:].lower()}: {error}") from error
    wished = {"path", *source.where}
    if absent := sorted(wished - set(table.columns)):
        raise InputError(
            f"the manifest {path} has no column {', '.join(absent)}: it has {', '.join(map(str, table.columns))}"
        )
    for column, value in source.where.items():
        allowed = {str(one) for one in value}
        table = table[table[column].astype(str).isin(allowed)]
    if table.empty:
        raise InputError(f"no row of the manifest {path} fits where: {dict(source.where)}")
    if table["path"].isna().any():
        raise InputError(f"the manifest {path} has {int(table['path'].isna().sum())} rows without a path")
    return table


def _manifest_items(source: ManifestSource, group: str | None = None) -> Iterator[Item]:
    table = _read_manifest(source)
    root = source.root or source.manifest.parent
    named = {"label": "label", "batch": source.batch, "timestamp": "timestamp"}
    columns = {field: table[name] for field, name in named.items() if name in table}
    if group in table:
        columns["group"] = table[group]
    for row, relative in enumerate(table["path"].astype(str)):
        known: dict[str, Any] = {
            name: None if pd.isna(column.iloc[row]) else str(column.iloc[row]) for name, column in columns.items()
        }
        yield replace(_file_item(root / relative), **known)


def _manifest_batches(source: ManifestSource) -> tuple[Batch, ...]:
    batches: dict[str, list[Item]] = {}
    for item in _manifest_items(source):
        if item.batch is None:
            raise InputError(
                f"the inbox manifest {source.manifest} needs a value in column {source.batch!r} for {item.uri}"
            )
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
            f"data.group: {group!r} is no column of a manifest and matches no path, such as {items[0].uri}"
        )
    groups = [match.group(1 if pattern.groups else 0) if match else None for match in matches]
    return tuple(replace(item, group=name) for item, name in zip(items, groups, strict=True))


def _torchvision_items(source: TorchvisionSource) -> tuple[Item, ...]:
    from torchvision import datasets  # four seconds, and few pipelines need it

    kind, arguments = getattr(datasets, source.torchvision), source.arguments()
    try:
        data = kind(download=False, **arguments)
    except Exception as error:  # absent: RuntimeError; damaged: whatever its reader stumbles over
        shown = {**arguments, "root": str(source.root)}.items()
        call = ", ".join(f"{name}={value!r}" for name, value in shown)
        raise InputError(
            f"torchvision's {source.torchvision} is not in {source.root}, or damaged: get it with "
            f"torchvision.datasets.{source.torchvision}({call}, download=True)"
        ) from error
    classes = [str(name) for name in getattr(data, "classes", [])]
    labels = [_class_name(int(label), classes) for label in _labels(data)]
    wanted = {str(name) for name in source.classes}
    unknown = wanted - set(labels) - {str(i) for i in range(len(classes))}
    if unknown:
        raise InputError(f"torchvision's {source.torchvision} has no class {', '.join(unknown)}: it has {classes}")
    part = source.split or {True: "train", False: "test", None: "all"}[source.train]
    address = f"torchvision://{source.torchvision}/{part}"
    items = [
        Item(f"{address}/{index:06d}", partial(_torchvision_image, data, index), label=label)
        for index, label in enumerate(labels)
        if not wanted or label in wanted or (label in classes and str(classes.index(label)) in wanted)
    ]
    return tuple(items[: source.limit])


def _class_name(label: int, classes: Sequence[str]) -> str:
    return classes[label] if label < len(classes) else str(label)


def _labels(data: Any) -> Sequence[Any]:
    for name in ("targets", "labels", "_labels"):
        if hasattr(data, name):
            return list(getattr(data, name))
    return [data[index][1] for index in range(len(data))]


def _torchvision_image(data: Any, index: int) -> ImageInput:
    image: ImageInput = data[index][0]
    return image


def _stat(item: Item) -> str:
    content = None if item.uri.startswith("torchvision://") else item.content()
    if not isinstance(content, Path):
        return "data set"
    try:
        stat = content.stat()
    except OSError as error:
        return f"absent: {error.strerror}"
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _digest(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape"))
        digest.update(b"\n")
    return digest.hexdigest()
