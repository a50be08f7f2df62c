"""Where the runs of decided batches wait for an MLflow server that does not answer: a folder of the workspace."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from flows.batch_run import BatchNote

NOTE, DAMAGED = "note.json", ".damaged"


@dataclass(frozen=True)
class Kept:
    """A run that waits: what it says, and the folder of its files."""

    note: BatchNote
    files: Path


@dataclass(frozen=True)
class Damaged:
    """A run that cannot be delivered any more, and the folder in which its remains lie from now on."""

    batch: str
    folder: Path


@dataclass(frozen=True)
class Spool:
    """The waiting runs of all pipelines: `PIPELINE/KEY/note.json` with the files beside it, in `files`."""

    folder: Path

    @classmethod
    def of(cls, workspace: Path) -> "Spool":
        """That of a workspace."""
        return cls(workspace / "spool")

    def keep(self, note: BatchNote, files: Path) -> Path:
        """Keep a run, whole or not at all, in place of what is there under its key; the folder."""
        kept = self.folder / note.pipeline / note.key
        part = kept.with_suffix(".part")
        for left in (part, kept):
            shutil.rmtree(left, ignore_errors=True)
        shutil.copytree(files, part / "files")
        document = asdict(note) | {"hashes": _hashes(part / "files")}
        (part / NOTE).write_text(json.dumps(document), encoding="utf-8")
        part.rename(kept)
        return kept

    def waiting(self, pipeline: str) -> Iterator[Kept | Damaged]:
        """The runs of a pipeline that wait, the oldest first."""
        found = [path.parent for path in self.folder.glob(f"{pipeline}/*/{NOTE}") if not path.parent.suffix]
        for folder in sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name)):
            yield _read(folder)

    def drop(self, note: BatchNote) -> None:
        """Forget a run: it was delivered, or its batch was decided by another attempt."""
        shutil.rmtree(self.folder / note.pipeline / note.key, ignore_errors=True)

    @contextmanager
    def alone(self, pipeline: str) -> Iterator[bool]:
        """Whether no other process delivers the pipeline's runs; as long as the block lasts none begins to."""
        (self.folder / pipeline).mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / f"{pipeline}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()


def _read(folder: Path) -> Kept | Damaged:
    """What lies there; moved aside where it is not what was written."""
    try:
        document = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        if document.pop("hashes") != _hashes(folder / "files"):
            raise ValueError("other files than were written")
        for name in ("verdict", "files", "deciders"):
            document[name] = tuple(document[name])
        return Kept(BatchNote(**document), folder / "files")
    except (OSError, TypeError, ValueError, KeyError, AttributeError):
        aside = folder.with_suffix(DAMAGED)
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        return Damaged(folder.name, aside)


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
