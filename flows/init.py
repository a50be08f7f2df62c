"""A first pipelines.yaml for the images in a folder."""

import json
import re
from dataclasses import dataclass
from os.path import relpath
from pathlib import Path

import yaml

from ae_models.errors import InputError
from ae_models.images import looks_like_a_document
from flows.config import json_schema

NOMINAL_FOLDERS = ("nominal", "train/good", "train/nominal", "good", "normal", "ok", "train")
INBOX_FOLDERS = ("inbox", "incoming", "new", "batches")
LABELLED_FOLDERS = ("labelled", "labeled", "test")
SCHEMA = ".reconwatch/pipelines.schema.json"
FEW = 200  # nominal images below which the default rate of 1% cannot be promised


@dataclass(frozen=True)
class Written:
    """The file that was written, its text, and what people should know of it."""

    path: Path
    text: str
    notes: tuple[str, ...]


def write_configuration(folder: Path, path: Path, name: str = "") -> Written:
    """Write the configuration for the images found in `folder`, and beside it the schema that editors use.

    Raises:
        InputError: no image is found, there is too little to learn from, or the file exists already.
    """
    if path.exists():
        raise InputError(f"{path} exists already: edit it, or write another with --config FILE")
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}: name one with nominal images in it")
    nominal = _first(folder, NOMINAL_FOLDERS) or folder
    count = sum(1 for file in nominal.rglob("*") if file.is_file() and not looks_like_a_document(file))
    if not count:
        raise InputError(f"there is no image in {nominal}: put nominal images into {folder / 'nominal'}")
    notes = [f"{count} nominal images in {nominal}."]
    inbox = _first(folder, INBOX_FOLDERS)
    if inbox is None:
        inbox = (folder if nominal != folder else path.parent) / "inbox"
        inbox.mkdir(parents=True, exist_ok=True)
        notes.append(f"Made {inbox}: each folder put there is a batch to score.")
    data = {"nominal": _relative(nominal, path), "inbox": _relative(inbox, path)}
    labelled = _first(folder, LABELLED_FOLDERS)
    if labelled is not None and _holds_labels(labelled):
        data["labelled"] = _relative(labelled, path)
        notes.append(f"Labelled images in {labelled}: reported on, never trained on.")
    pipeline: dict[str, object] = {"data": data}
    if count < FEW:
        rate = _possible_rate(count, nominal)
        pipeline["threshold"] = {"false_alarm_rate": rate}
        notes.append(f"{count} images allow a false-alarm rate of {rate:g}; {FEW} would allow 0.01.")
    body = yaml.safe_dump({"pipelines": {name or _name(folder): pipeline}}, sort_keys=False)
    text = f"# yaml-language-server: $schema={SCHEMA}\n{body}"
    schema = path.parent / SCHEMA
    schema.parent.mkdir(parents=True, exist_ok=True)
    schema.write_text(json.dumps(json_schema(), indent=2), encoding="utf-8")
    path.write_text(text, encoding="utf-8")
    return Written(path, text, tuple(notes))


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _holds_labels(folder: Path) -> bool:
    names = {part.name.casefold() for part in folder.iterdir() if part.is_dir()}
    nominal = names & {"nominal", "good", "normal", "ok"}
    return bool(nominal) and len(names) > 1


def _possible_rate(count: int, nominal: Path) -> float:
    for rate in (0.02, 0.05, 0.1):
        if count >= 2 * round(1 / rate - 1):
            return rate
    raise InputError(
        f"{count} images in {nominal} are too few to learn from and to calibrate on: give at least 18, better 200"
    )


def _relative(path: Path, configuration: Path) -> str:
    return Path(relpath(path, configuration.parent)).as_posix()


def _name(folder: Path) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", folder.resolve().name).strip("-_")[:60] or "images"
