"""The SQLite files of the workspace: one that lost its content is refused, and not taken for a new one."""

from pathlib import Path

from ae_models.errors import InputError

MAGIC = b"SQLite format 3\0"


def require_kept(path: Path) -> None:
    """Holds where the store at `path` was never made, or lost nothing that its size and its first page would show.

    SQLite takes an empty file for a new database: every batch of the inbox would be scored and told of once more.

    Raises:
        InputError: it was made before and is gone, empty or cut.
    """
    note = _note(path)
    if not note.exists():
        return
    if _size(path) == 0 and _size(path.with_name(f"{path.name}-wal")) == 0:
        raise InputError(
            f"{path} is {'empty' if path.exists() else 'gone'}, and it was not before: restore it from a backup, or "
            f"remove {note} as well to begin with nothing (every batch of the inbox is then scored and told of again)"
        )
    if _size(path) and _is_cut(path):
        raise InputError(f"{path} was cut or damaged, as its size and first page show: restore it from a backup")


def note_made(path: Path) -> None:
    """Notes beside the store at `path` that it was made."""
    if not _note(path).exists():
        _note(path).write_text(f"{path.name} was made: without it something was lost.\n", encoding="utf-8")


def _is_cut(path: Path) -> bool:
    if path.with_name(f"{path.name}-journal").exists():  # SQLite itself puts right what a process that died left
        return False
    with path.open("rb") as file:
        start = file.read(100)
    page = int.from_bytes(start[16:18], "big")
    page = 65536 if page == 1 else page
    return not start.startswith(MAGIC) or page < 512 or path.stat().st_size % page != 0


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.made")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
