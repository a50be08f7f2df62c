"""Child processes that end with us, however we end, and their own children with them."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import IO

import psutil  # type: ignore[import-untyped, unused-ignore]  # it ships no types

SECONDS = 5.0  # until a process that was killed is gone
SOON = 0.05  # seconds between two looks at processes that are to end
DONE = b"."  # what a guard is told that has nothing to do


@dataclass(frozen=True)
class Child:
    """A running child at the head of a process group of its own, with a name for people.

    Attributes:
        first: the same process, told from a later one of its number.
        guard: ends the child where we are gone without having done so.
    """

    name: str
    process: "subprocess.Popen[bytes]"
    patience: float
    first: psutil.Process
    guard: "subprocess.Popen[bytes]"

    def ended(self) -> int | None:
        """Its exit code; None while it runs."""
        return self.process.poll()


def start(
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path | None = None,
    patience: float = SECONDS,
) -> Child:
    """Start a child that gets `patience` seconds to end; what it says goes to the end of `log`, or where our own words
    go.

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
    command = [sys.executable, "-m", "flows.children", str(process.pid), str(patience)]
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    return Child(name, process, patience, psutil.Process(process.pid), guard)


def stop(child: Child) -> None:
    """End a child: SIGTERM, and after its patience SIGKILL to it and all that came from it, whatever group that is
    in."""
    _end(child.first, child.patience)
    child.process.wait()
    if child.guard.poll() is None:
        child.guard.communicate(DONE)


def guard(process_id: int, patience: float) -> None:
    """Wait for a word on stdin, which says that there is nothing to do, or for its end: then whoever started both of
    us is gone, and that process is ended."""
    try:
        first = psutil.Process(process_id)
    except psutil.NoSuchProcess:
        return
    if not sys.stdin.buffer.read(len(DONE)):
        _end(first, patience)


def _end(first: psutil.Process, seconds: float) -> None:
    family = _family(first)
    _signal_group(first, signal.SIGTERM)
    deadline = monotonic() + seconds
    while any(map(_lives, family)):
        if monotonic() > deadline:
            for one in family:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
            _signal_group(first, signal.SIGKILL)
            break
        sleep(SOON)
    psutil.wait_procs(family[1:], timeout=SECONDS)  # the first is waited for by who started it


def _family(first: psutil.Process) -> list[psutil.Process]:
    try:
        return [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return [first]


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _signal_group(first: psutil.Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(first.pid, number)


if __name__ == "__main__":
    guard(int(sys.argv[1]), float(sys.argv[2]))
