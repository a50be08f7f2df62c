"""Unchanged batches, known without reading a file."""

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from flows.ledger.database import Database, in_parts, insert_once
from flows.ledger.tables import FINGERPRINTS


@dataclass(frozen=True)
class Manifests:
    """The manifest hash of each batch, by the state of its files."""

    _database: Database

    def known(self, pipeline: str, batch: str, stat_hash: str) -> str | None:
        """The manifest hash that a batch had when its files' names, sizes and times were these; None where unknown."""
        rows = self._database.rows(sa.select(FINGERPRINTS.c.manifest_hash).where(_seen(pipeline, batch, stat_hash)))
        return str(rows[0].manifest_hash) if rows else None

    def known_of(self, pipeline: str, stat_hashes: Mapping[str, str]) -> dict[str, str]:
        """What `known` tells of many batches, by batch: from the state of the files of each; without those unknown."""
        columns, found = FINGERPRINTS.c, dict[str, str]()
        for part in in_parts(stat_hashes):
            ours = (columns.pipeline == pipeline) & columns.batch.in_(part)
            asked = sa.select(columns.batch, columns.stat_hash, columns.manifest_hash).where(ours)
            rows = self._database.rows(asked)
            found |= {row.batch: row.manifest_hash for row in rows if stat_hashes.get(row.batch) == row.stat_hash}
        return found

    def remember(self, pipeline: str, batch: str, stat_hash: str, manifest_hash: str) -> None:
        """Keeps what `known` tells; the batch's earlier states are forgotten."""
        earlier = (FINGERPRINTS.c.pipeline == pipeline) & (FINGERPRINTS.c.batch == batch)
        with self._database.transaction() as connection:
            connection.execute(sa.delete(FINGERPRINTS).where(earlier))
            insert_once(
                connection,
                FINGERPRINTS,
                pipeline=pipeline,
                batch=batch,
                stat_hash=stat_hash,
                manifest_hash=manifest_hash,
            )


def _seen(pipeline: str, batch: str, stat_hash: str) -> sa.ColumnElement[bool]:
    columns = FINGERPRINTS.c
    return (columns.pipeline == pipeline) & (columns.batch == batch) & (columns.stat_hash == stat_hash)
