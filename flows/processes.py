"""Which process this is, and whether another one still lives."""

import os
import platform
import re
import resource
import sys
import uuid
from dataclasses import dataclass
from os import getpid
from pathlib import Path

import psutil  # type: ignore[import-untyped, unused-ignore]  # it ships no types

MACHINE = str(0xEFFFFFFC)  # Linux's number of the machine's own processes, PROC_PID_INIT_INO


@dataclass(frozen=True)
class Process:
    """A process: its host, its id there, and a start that tells it from a later one of the same id.

    A container is a host of its own: ids within it say nothing outside, though its name may be that of the machine.
    """

    host: str
    id: int
    start: str

    def owner(self) -> str:
        """A new owner's name, `host:id:start:uuid`; no two claims share one."""
        return f"{self.host}:{self.id}:{self.start}:{uuid.uuid4().hex}"


def this_process() -> Process:
    """The process that asks."""
    return Process(platform.node() + _container(), getpid(), _start_of(getpid()) or "")


def highest_memory() -> int:
    """The most memory that this process has held at once, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def owner_is_alive(owner: str, host: str) -> bool | None:
    """Whether the process of an owner's name runs; None where it is on another host than `host`, or no such name."""
    if owner.count(":") < 3:
        return None
    owner_host, process_id, start, _ = owner.rsplit(":", 3)
    return _start_of(int(process_id)) == start if owner_host == host else None


def _container() -> str:
    """What tells the processes of a container from those of the machine and of other containers; empty outside."""
    try:
        number = re.sub(r"\D", "", os.readlink("/proc/self/ns/pid"))
    except OSError:  # another system
        return ""
    return "" if number == MACHINE else f"/{number}"


def _start_of(process_id: int) -> str | None:
    """When that process started, told so that no change of the clock moves it; None where it does not run."""
    if Path("/proc/self/stat").exists():
        return _start_on_linux(process_id)
    try:
        process = psutil.Process(process_id)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return None


def _start_on_linux(process_id: int) -> str | None:
    try:
        after_name = Path(f"/proc/{process_id}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    state, ticks = after_name[0], after_name[19]
    return None if state in "ZX" else f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{ticks}"
