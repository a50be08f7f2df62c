"""A first pipelines.yaml for the images in a folder."""

import glob
import json
import re
from dataclasses import dataclass
from os.path import relpath
from pathlib import Path
from textwrap import indent

import yaml

from ae_models.errors import InputError
from flows.config import json_schema
from flows.config_types import NAME, PATTERNS
from flows.folders import images_in

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
    """Write the configuration for the images found in `folder`, or add it to the file that is there already.

    The schema that editors use is written beside a new file.

    Raises:
        InputError: no image is found, there is too little to learn from, or the file that is there cannot be added to.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}: name one with nominal images in it")
    name = name or _name(folder)
    if not re.match(NAME, name):
        raise InputError(f"{name!r} is not {PATTERNS[NAME]}: give another with --name")
    nominal = _first(folder, NOMINAL_FOLDERS) or folder
    inbox = _first(folder, INBOX_FOLDERS)
    known, inbox = inbox is not None, inbox or (folder if nominal != folder else path.parent) / "inbox"
    apart = not inbox.resolve().is_relative_to(nominal.resolve())  # else batches would be learnt from
    images = images_in(nominal).items
    count = len(images) if apart else sum(Path(item.uri).parent == nominal for item in images)
    if not count:
        advice = f"put nominal images into {folder / 'nominal'}"
        raise InputError(f"there is no image in {nominal}{'' if apart else f' beside {inbox}'}: {advice}")
    notes = [f"{count} nominal images in {nominal}."]
    data = {"nominal": _source(nominal, path, apart), "inbox": _source(inbox, path)}
    labelled = _first(folder, LABELLED_FOLDERS)
    if labelled is not None and _holds_labels(labelled):
        data["labelled"] = _source(labelled, path)
        notes.append(f"Labelled images in {labelled}: reported on, never trained on.")
    pipeline: dict[str, object] = {"data": data}
    if count < FEW:
        rate = _possible_rate(count, nominal)
        pipeline["threshold"] = {"false_alarm_rate": rate}
        notes.append(f"{count} images allow a false-alarm rate of {rate:g}; {FEW} would allow 0.01.")
    body = yaml.safe_dump({name: pipeline}, sort_keys=False, allow_unicode=True)
    text = _added(path, name, body) if path.exists() else f"# yaml-language-server: $schema={SCHEMA}\n{_below(body)}"
    if not known:
        inbox.mkdir(parents=True, exist_ok=True)
        notes.append(f"Made {inbox}: each folder put there is a batch to score.")
    if not path.exists():
        schema = path.parent / SCHEMA
        schema.parent.mkdir(parents=True, exist_ok=True)
        schema.write_text(json.dumps(json_schema(), indent=2), encoding="utf-8")
    path.write_text(text, encoding="utf-8")
    return Written(path, text, tuple(notes))


def _below(body: str) -> str:
    return "pipelines:\n" + indent(body, "  ")


def _added(path: Path, name: str, body: str) -> str:
    """The text of the file with one more pipeline at its end, every other line as it was."""
    advice = f"add this to it by hand, or write another file with --config FILE:\n{_below(body)}"
    try:
        text = path.read_text(encoding="utf-8")
        before = yaml.safe_load(text)
        wanted = {**before, "pipelines": {**before["pipelines"], **yaml.safe_load(body)}}
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        raise InputError(f"{path} is there already, and is no pipelines.yaml to add to: {advice}") from None
    if name in before["pipelines"]:
        raise InputError(f"{path} has a pipeline {name!r} already: give another name with --name")
    added = text.rstrip("\n") + "\n" + indent(body, "  ")
    try:
        fits = yaml.safe_load(added) == wanted
    except yaml.YAMLError:
        fits = False
    if not fits:
        raise InputError(f"{path} is there already, and its pipelines are not the last part of it: {advice}")
    return added


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


def _source(folder: Path, configuration: Path, whole: bool = True) -> object:
    """What stands in the file for a folder, or for the files in it alone; special letters stay what they are."""
    path = Path(relpath(folder, configuration.parent)).as_posix()
    if not whole:
        return f"{glob.escape(path)}/*"
    return {"path": path, "glob": False} if glob.has_magic(path) else path


def _name(folder: Path) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", folder.resolve().name).strip("-_")[:60] or "images"
