"""Threads follow the cores that a process really has, also in a container."""

import math
from pathlib import Path

import pytest

from ae_models.cores import available_cores, quota


def group(folder: Path, **files: str) -> None:
    """A control group with these files, `cpu_max` for cpu.max."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("cpu_", "cpu.", 1)).write_text(f"{text}\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("cpu_max", "cores"), [("150000 100000", 1.5), ("max 100000", math.inf), ("nonsense", math.inf)]
)
def test_version_2(tmp_path: Path, cpu_max: str, cores: float) -> None:
    """The time that a group has in a period."""
    group(tmp_path / "a" / "b", cpu_max=cpu_max)
    (tmp_path / "own").write_text("0::/a/b\n", encoding="utf-8")
    assert quota(tmp_path, tmp_path / "own") == cores


def test_a_group_has_no_more_than_the_one_above(tmp_path: Path) -> None:
    """The least of all that lead to it counts."""
    group(tmp_path / "a", cpu_max="200000 100000")
    group(tmp_path / "a" / "b", cpu_max="max 100000")
    (tmp_path / "own").write_text("0::/a/b\n", encoding="utf-8")
    assert quota(tmp_path, tmp_path / "own") == 2


def test_a_container_sees_its_own_group_at_the_top(tmp_path: Path) -> None:
    """Its path may be that of the host, which is not there."""
    group(tmp_path, cpu_max="50000 100000")
    (tmp_path / "own").write_text("0::/host/docker/1234\n", encoding="utf-8")
    assert quota(tmp_path, tmp_path / "own") == 0.5


@pytest.mark.parametrize(("cfs_quota", "cores"), [("300000", 3), ("-1", math.inf)])
def test_version_1(tmp_path: Path, cfs_quota: str, cores: float) -> None:
    """The controller of time has a folder of its own, and others do not count."""
    group(tmp_path / "cpu,cpuacct" / "a", cpu_cfs_quota_us=cfs_quota, cpu_cfs_period_us="100000")
    (tmp_path / "own").write_text("5:memory:/a\n4:cpu,cpuacct:/a\n0::/\n", encoding="utf-8")
    assert quota(tmp_path, tmp_path / "own") == cores


def test_where_there_are_no_control_groups(tmp_path: Path) -> None:
    """Nothing limits, and there is at least one core."""
    assert quota(tmp_path, tmp_path / "absent") == math.inf
    assert available_cores() >= 1
