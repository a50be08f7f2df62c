"""The batches of one calibration, seen as one stream."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from flows.ledger.claims import Claim
from flows.ledger.database import Database, insert_once
from flows.ledger.outbox import OutboxEntry
from flows.ledger.tables import BATCHES, STREAMS


@dataclass(frozen=True)
class StreamRecord:
    """The batches that one calibration of a pipeline decided, seen as one stream.

    Attributes:
        calibration: the calibration's number: 1 for the first of the pipeline that decided a batch, then 2, 3, ...
        state: what `finish` was given to keep.
    """

    calibration: int
    state: str


FollowStream = Callable[[int, str | None], tuple[str, Sequence[OutboxEntry]]]
"""From the calibration's number and the state of its stream (None at the beginning) to the state with one more batch,
and the alerts that this raises."""


@dataclass(frozen=True)
class Streams:
    """The stream of each calibration."""

    _database: Database

    def of(self, pipeline: str, calibration_version: str) -> StreamRecord | None:
        """The stream of a calibration as the last finished batch left it; None before the first."""
        rows = self._database.rows(sa.select(STREAMS).where(_stream_of(pipeline, calibration_version)))
        return StreamRecord(rows[0].calibration, rows[0].state) if rows else None

    def calibrations(self, pipeline: str) -> int:
        """How many calibrations of a pipeline have decided a batch, as streams count them."""
        return int(self._database.rows(_calibrations(pipeline))[0][0])


def _stream_of(pipeline: str, calibration_version: str) -> sa.ColumnElement[bool]:
    return (STREAMS.c.pipeline == pipeline) & (STREAMS.c.calibration_version == calibration_version)


def _calibrations(pipeline: str) -> sa.Select[Any]:
    return sa.select(sa.func.count()).select_from(STREAMS).where(STREAMS.c.pipeline == pipeline)


def followed(connection: sa.Connection, claim: Claim, follow: FollowStream) -> Sequence[OutboxEntry]:
    """Takes the stream of the claim's calibration one batch further; other processes wait until the transaction ends.

    SQLite lets one transaction write at a time, and finishing the batch was a write; a server locks the row.
    """
    version = sa.select(BATCHES.c.calibration_version).where(BATCHES.c.key == claim.key)
    calibration_version = connection.execute(version).scalar_one()
    ours = _stream_of(claim.pipeline, calibration_version)
    row = {"pipeline": claim.pipeline, "calibration_version": calibration_version, "state": ""}
    while (held := connection.execute(sa.select(STREAMS).where(ours).with_for_update()).one_or_none()) is None:
        number = connection.execute(_calibrations(claim.pipeline)).scalar_one() + 1
        insert_once(connection, STREAMS, **row, calibration=number)
    state, alerts = follow(held.calibration, held.state or None)
    connection.execute(sa.update(STREAMS).where(ours).values(state=state))
    return alerts
