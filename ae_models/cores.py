"""How many cores this process may use, which may be far fewer than the machine has."""

import math
import os
from pathlib import Path

CGROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def available_cores() -> int:
    """The cores that this process may run on, no more than the time that its control groups leave it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, quota(CGROUPS, OWN))))


def quota(groups: Path, own: Path) -> float:
    """Cores' worth of time that control groups of Linux allow, infinite where nothing limits it.

    Args:
        groups: where the control groups are mounted, of version 1 or 2.
        own: the file that names those of this process.
    """
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return math.inf
    limits = [math.inf]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "" or "cpu" in controllers.split(","):
            top = groups / controllers
            folder = top / path.strip("/")  # in a container it may be the host's, and not be there
            limits += [_limit(each) for each in (folder, *folder.parents) if each == top or top in each.parents]
    return min(limits)


def _limit(folder: Path) -> float:
    """The cores' worth of time of one control group."""
    try:
        if (folder / "cpu.max").exists():
            allowed, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            allowed, period = (
                (folder / name).read_text(encoding="utf-8").strip()
                for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            )
        return math.inf if allowed in ("max", "-1") else int(allowed) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf
