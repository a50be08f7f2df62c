"""Copies of the files of champions in the workspace, by their calibration run, and which of them decided last.

The files of a calibration run never change, so a copy is never out of date. Which run decides is asked of the registry
each time; where its server does not answer, the one that decided last decides on.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

FOLDER, LAST = "champions", "last.json"
KEPT = 3  # of a pipeline, beside the one that decided last: those that it may be rolled back to


@dataclass(frozen=True)
class Decided:
    """Who decided last: the version, and the runs of its calibration and its training."""

    version: str
    calibration_run: str
    training_run: str


def keep_champion(workspace: Path, pipeline: str, calibration_run: str, files: Path) -> None:
    """Keep a copy of a champion's files, whole or not at all, where there is none yet.

    Raises:
        OSError: it cannot be written.
    """
    place = workspace / FOLDER / pipeline / calibration_run
    if place.exists():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".") as scratch:
        copy = shutil.copytree(files, Path(scratch) / "files")
        os.utime(copy)  # the newest copy, however old its files are
        try:
            os.rename(copy, place)
        except OSError:
            if not place.exists():  # such as by another process
                raise
    last = decided_last(workspace, pipeline)
    others = [copy for copy in _copies(place.parent) if last is None or copy.name != last.calibration_run]
    for old in sorted(others, key=lambda copy: copy.stat().st_mtime)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def kept_champion(workspace: Path, pipeline: str, calibration_run: str) -> Path | None:
    """The folder of the copy; None where there is none."""
    place = workspace / FOLDER / pipeline / calibration_run
    return place if place.is_dir() else None


def forget_champion(files: Path) -> None:
    """Drop a copy that turned out to be damaged."""
    shutil.rmtree(files, ignore_errors=True)


def decided_last(workspace: Path, pipeline: str) -> Decided | None:
    """Who decided last by what is noted here; None where nothing is, or nothing that can be read."""
    with suppress(OSError, ValueError, TypeError):
        decided = Decided(**json.loads((workspace / FOLDER / pipeline / LAST).read_text(encoding="utf-8")))
        return decided if all(isinstance(value, str) for value in asdict(decided).values()) else None
    return None


def note_decided(workspace: Path, pipeline: str, decided: Decided) -> None:
    """Note who decided last, in one write.

    Raises:
        OSError: it cannot be written.
    """
    last = workspace / FOLDER / pipeline / LAST
    last.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=last.parent, prefix=".") as scratch:
        (Path(scratch) / LAST).write_text(json.dumps(asdict(decided)), encoding="utf-8")
        os.replace(Path(scratch) / LAST, last)


def _copies(folder: Path) -> Iterator[Path]:
    return (each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
