"""Child processes that end with us, and their own children with them."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import IO

import psutil  # type: ignore[import-untyped, unused-ignore]  # it ships no types

SECONDS = 5.0  # until a process that was killed is gone
SOON = 0.05  # seconds between two looks at processes that are to end


@dataclass(frozen=True)
class Child:
    """A running child at the head of a process group of its own, with a name for people."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path | None = None

    def ended(self) -> int | None:
        """Its exit code; None while it runs."""
        return self.process.poll()


def start(name: str, command: Sequence[str], environment: Mapping[str, str], log: Path | None = None) -> Child:
    """Start a child; what it says goes to the end of `log`, or where our own words go.

    In a group of its own it hears of Ctrl-C by us alone.
    """
    output: IO[bytes] | None = None
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        output = log.open("ab")
    try:
        process = subprocess.Popen(
            command,
            env=dict(environment),
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    finally:
        if output is not None:
            output.close()
    return Child(name, process, log)


def stop(child: Child, seconds: float) -> None:
    """End a child: SIGTERM, and after `seconds` SIGKILL to it and all that came from it, whatever group that is in."""
    family = _family(child)
    _signal_group(child, signal.SIGTERM)
    deadline = monotonic() + seconds
    while child.ended() is None or any(map(_lives, family)):
        if monotonic() > deadline:
            for one in family:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
            _signal_group(child, signal.SIGKILL)
            break
        sleep(SOON)
    child.process.wait()
    psutil.wait_procs(family, timeout=SECONDS)


def _family(child: Child) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = psutil.Process(child.process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return found


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _signal_group(child: Child, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.process.pid, number)
