"""Copies of the files of champions that were loaded before, in the workspace, by their calibration run.

The files of a calibration run never change, so a copy is never out of date; which run decides is asked each time.
"""

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

FOLDER = "lean-champions"  # beside those of flows.champion_copy, which are for when a server is away
KEPT = 3  # of a pipeline: the champion, and those that it may be rolled back to


def keep_champion(workspace: Path, pipeline: str, calibration_run: str, files: Path) -> None:
    """Keep a copy of a champion's files, whole or not at all, where there is none yet; a full disk stops nobody."""
    place = workspace / FOLDER / pipeline / calibration_run
    if place.exists():
        return
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".") as scratch:
            os.rename(shutil.copytree(files, Path(scratch) / "files"), place)
        there_are = [folder for folder in place.parent.iterdir() if not folder.name.startswith(".")]
        for old in sorted(there_are, key=lambda folder: folder.stat().st_mtime)[:-KEPT]:
            shutil.rmtree(old)


def kept_champion(workspace: Path, pipeline: str, calibration_run: str) -> Path | None:
    """The folder of the copy; None where there is none."""
    place = workspace / FOLDER / pipeline / calibration_run
    return place if place.is_dir() else None


def forget_champion(files: Path) -> None:
    """Drop a copy that turned out to be damaged."""
    shutil.rmtree(files, ignore_errors=True)
