"""Whether a batch is complete, or somebody still writes it."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from flows.config import ManifestSource, PathSource, Source, TableSource, UrlSource
from flows.config_incidents import in_words
from flows.items import Batch, name_of

UNFINISHED = (".part", ".partial", ".filepart", ".crdownload", ".tmp")  # what programs call files that they still write
SETTLING = "is still being written: it changed"  # how the reason begins where time alone makes it complete


def still_arriving(batch: Batch, source: Source, now: datetime, settled: timedelta | None = None) -> str:
    """Why the batch is not complete yet, as the rest of a sentence that begins with its name; empty where it is.

    `settled` stands in where the source says nothing of how its batches become complete.
    """
    names = [name_of(uri) for uri in (*(item.uri for item in batch.items), *batch.left_out)]
    marker = getattr(source, "marker", None)
    own = getattr(source, "settled", None)
    if unfinished := [name for name in (batch.id, *names) if name.lower().endswith(UNFINISHED)]:
        return f"is still being written: {unfinished[0]} is not finished"
    if marker is not None and not _has_marker(batch, marker, names):
        return f"is still being written: its file {marker} is not there"
    if marker is None and own is None and isinstance(source, PathSource | UrlSource):
        own = settled
    if own is None:
        return ""
    newest = max(_changes(batch, source), default=None)
    if newest is None or now - newest >= own:
        return ""
    if newest > now:
        ahead = (newest - now).total_seconds()
        return f"changed {ahead:.0f} s ahead of this machine's clock (set the clocks of the two alike)"
    return (
        f"{SETTLING} {(now - newest).total_seconds():.0f} s ago, and is complete once nothing "
        f"changed for {in_words(own)}"
    )


def newest_change(batch: Batch, source: Source) -> datetime | None:
    """When something of the batch changed last; None where nothing says so."""
    return max(_changes(batch, source), default=None)


def _has_marker(batch: Batch, marker: str, names: list[str]) -> bool:
    return marker in names if batch.folder is None else os.path.lexists(batch.folder / marker)


def _changes(batch: Batch, source: Source) -> Iterator[datetime]:
    """Times of change: of files the system's own (ctime), which copying and renaming do not set back."""
    if isinstance(source, TableSource) and (written := batch.taken_at()):
        yield written
    paths = [item.path for item in batch.items if item.path is not None]
    if isinstance(source, ManifestSource) and isinstance(source.manifest, Path):
        paths.append(str(source.manifest))
    if batch.folder is not None and not (isinstance(source, PathSource) and source.glob):
        for folder, _, names in os.walk(batch.folder):
            paths += [folder, *(os.path.join(folder, name) for name in names)]
    for path in paths:
        try:
            yield datetime.fromtimestamp(os.lstat(path).st_ctime, UTC)
        except OSError:  # gone meanwhile
            continue
    for item in batch.items:
        if item.seen is not None and item.seen.changed_at is not None:
            yield item.seen.changed_at
