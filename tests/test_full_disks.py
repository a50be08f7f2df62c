"""A disk that is full: one clear sentence, nothing corrupt, and the work goes on where it was once there is room."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from logging import getLogger
from pathlib import Path

import pytest

from flows import running
from flows.progress import LogProgress
from flows.workspace import open_workspace

SIZE = 64  # MiB of the disk
PROGRESS = LogProgress(getLogger("quiet"))

pytestmark = [
    pytest.mark.faults,
    pytest.mark.filterwarnings("ignore::UserWarning:mlflow", "ignore::DeprecationWarning"),
]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own, which only root can make."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small file system to fill")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}m", "tmpfs", str(folder)], check=False)
    if mounted.returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, left: int) -> Path:
    """A file that leaves so many bytes of the disk."""
    filling = disk / "filling"
    with filling.open("wb") as file:
        room = os.statvfs(disk)
        file.write(b"\0" * max(0, room.f_bavail * room.f_frsize - left))
    return filling


def test_a_full_disk_is_said_and_harms_nothing(
    disk: Path, project: Callable[..., Path], fault_count: Callable[[int], int]
) -> None:
    """From no room at all to a little too little, in every step: what fails says so in one sentence, and with room
    again the next run finishes what was due, each batch once."""
    config = project(disk)
    said = set[str]()
    rooms = (0, 20_000, 80_000, 200_000, 400_000, 700_000)
    for left in rooms[:: len(rooms) // max(2, fault_count(len(rooms)))]:
        filling = fill(disk, left)
        try:
            report = running.run(open_workspace(config, {}), "tiles", PROGRESS)
            said |= {report.failure, *(batch.reason for batch in report.batches)} - {""}
        except Exception as error:  # the stores do not open
            said.add(str(error))
        filling.unlink()
    assert said
    for sentence in said:
        print(sentence)
    assert not [sentence for sentence in said if "\n" in sentence]
    assert all("disk" in sentence or "space" in sentence for sentence in said)
    workspace = open_workspace(config, {})
    report = running.run(workspace, "tiles", PROGRESS)
    assert not report.failed, report.failure
    history = workspace.ledger.batches.history("tiles", 100)
    assert sorted(record.batch for record in history) == ["1-nominal", "2-damaged", "3-unreadable"]
    assert workspace.tracking.artifacts.damaged(workspace.tracking.registry.champion("tiles").calibration_run) == ()
