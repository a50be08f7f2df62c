"""Copies of champions in the workspace: whole, few, and the one that decided last always among them."""

import os
from pathlib import Path

import pytest

from flows.kept_champions import (
    FOLDER,
    KEPT,
    LAST,
    Decided,
    decided_last,
    forget_champion,
    keep_champion,
    kept_champion,
    note_decided,
)


def files_of(folder: Path, content: str = "{}") -> Path:
    """A champion's files, which are old."""
    folder.mkdir(parents=True)
    (folder / "threshold.json").write_text(content, encoding="utf-8")
    os.utime(folder, (0, 0))
    return folder


def test_the_newest_copies_stay_and_the_one_that_decided_last(tmp_path: Path) -> None:
    """However often another version decided in between, and however old a version is that decides again."""
    note_decided(tmp_path, "tiles", Decided("1", "run-0", "training"))
    for number in range(KEPT + 3):
        keep_champion(tmp_path, "tiles", f"run-{number}", files_of(tmp_path / f"files-{number}"))
        copy = kept_champion(tmp_path, "tiles", f"run-{number}")
        assert copy is not None
        os.utime(copy, (1000 + number, 1000 + number))
    copies = {path.name for path in (tmp_path / FOLDER / "tiles").iterdir()}
    assert copies == {LAST, "run-0", *(f"run-{number}" for number in range(3, KEPT + 3))}


def test_a_copy_is_never_overwritten(tmp_path: Path) -> None:
    """The files of a run do not change; a damaged copy is forgotten first."""
    keep_champion(tmp_path, "tiles", "run", files_of(tmp_path / "first", "1"))
    keep_champion(tmp_path, "tiles", "run", files_of(tmp_path / "second", "2"))
    copy = kept_champion(tmp_path, "tiles", "run")
    assert copy is not None
    assert (copy / "threshold.json").read_text(encoding="utf-8") == "1"
    forget_champion(copy)
    assert kept_champion(tmp_path, "tiles", "run") is None


@pytest.mark.parametrize(
    "content", ["", "[]", '{"version": "1"}', '{"version": 1, "calibration_run": [], "training_run": ""}']
)
def test_a_note_that_cannot_be_read_is_none(tmp_path: Path, content: str) -> None:
    """Nobody is taken for the one that decided last."""
    note_decided(tmp_path, "tiles", Decided("1", "run", "training"))
    assert decided_last(tmp_path, "tiles") == Decided("1", "run", "training")
    (tmp_path / FOLDER / "tiles" / LAST).write_text(content, encoding="utf-8")
    assert decided_last(tmp_path, "tiles") is None
