"""Turns: one deployed run of a kind at a time for each pipeline. A turn ends with its process, however that ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

PATIENCE = 1.0  # seconds: whoever only looks whether a turn is taken holds it for a moment


class TurnTaken(RuntimeError):  # noqa: N818 (it says what happened)
    """Another run of the same kind is at work, and does what this one would have done."""


@contextmanager
def turn(workspace: Path, pipeline: str, work: str) -> Iterator[None]:
    """The turn of this process, for as long as the block lasts or the process lives.

    Raises:
        TurnTaken: another process has it.
    """
    lock = _lock(workspace, pipeline, work)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise TurnTaken(
            f"another run is at work on this ({work} of {pipeline}), and this one had nothing to do"
        ) from None
    try:
        yield
    finally:
        lock.release()


def is_taken(workspace: Path, pipeline: str, work: str) -> bool:
    """Whether a living process has that turn."""
    lock = _lock(workspace, pipeline, work)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def _lock(workspace: Path, pipeline: str, work: str) -> FileLock:
    folder = workspace / "turns"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{pipeline}.{work}.lock")
