"""A pipeline over time: its batches by number, and the run that shows them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from flows.ledger.batches import RECORDS, BatchRecord, record_of
from flows.ledger.claims import Claim
from flows.ledger.database import Database, insert_once
from flows.ledger.tables import BATCHES, MONITORS, POINTS
from flows.ledger.values import json_text


@dataclass(frozen=True)
class Point:
    """A finished batch on the time line of its pipeline.

    Attributes:
        number: 1 for the pipeline's first batch, then 2, 3, ..., in the order in which they were finished.
        values: what is told of it beside its verdict, by name, as `finish` was given them.
    """

    number: int
    batch: BatchRecord
    values: Mapping[str, float | None]


@dataclass(frozen=True)
class MonitorRun:
    """The run in MLflow that shows a pipeline over time, and the number of the last point that is known to be there."""

    run_id: str
    shown: int


@dataclass(frozen=True)
class Timeline:
    """The time line of each pipeline."""

    _database: Database

    def points(self, pipeline: str, after: int = 0) -> tuple[Point, ...]:
        """The points of a pipeline's time line with a number above `after`, by number."""
        query = RECORDS.add_columns(POINTS.c.number, POINTS.c.numbers).join(POINTS, POINTS.c.batch_key == BATCHES.c.key)
        query = query.where((POINTS.c.pipeline == pipeline) & (POINTS.c.number > after)).order_by(POINTS.c.number)
        return tuple(map(_point, self._database.rows(query)))

    def monitor_run(self, pipeline: str) -> MonitorRun | None:
        """The run that shows the pipeline over time; None where there is none yet."""
        rows = self._database.rows(sa.select(MONITORS).where(MONITORS.c.pipeline == pipeline))
        return MonitorRun(rows[0].run_id, rows[0].shown) if rows else None

    def take_monitor_run(self, pipeline: str, run_id: str, instead_of: str = "") -> MonitorRun:
        """Lets `run_id` show the pipeline, from its first point on, where no run does or `instead_of` did; the run that
        shows it from now on, which is another one where another process was first."""
        with self._database.transaction() as connection:
            insert_once(connection, MONITORS, pipeline=pipeline, run_id=instead_of, shown=0)
            ours = (MONITORS.c.pipeline == pipeline) & (MONITORS.c.run_id == instead_of)
            connection.execute(sa.update(MONITORS).where(ours).values(run_id=run_id, shown=0))
            row = connection.execute(sa.select(MONITORS).where(MONITORS.c.pipeline == pipeline)).one()
            return MonitorRun(row.run_id, row.shown)

    def mark_shown(self, pipeline: str, run_id: str, number: int) -> None:
        """Writes that the points up to this number are in that run."""
        behind = (MONITORS.c.pipeline == pipeline) & (MONITORS.c.run_id == run_id) & (MONITORS.c.shown < number)
        self._database.changed(MONITORS, behind, shown=number)


def add_point(connection: sa.Connection, claim: Claim, values: Mapping[str, float | None]) -> None:
    """Gives the batch the next number; where another process takes it at the same time, the one after."""
    last = sa.select(sa.func.coalesce(sa.func.max(POINTS.c.number), 0)).where(POINTS.c.pipeline == claim.pipeline)
    row = {"pipeline": claim.pipeline, "batch_key": claim.key, "numbers": json_text(values)}
    while not insert_once(connection, POINTS, **row, number=connection.execute(last).scalar_one() + 1):
        pass


def _point(row: sa.Row[Any]) -> Point:
    return Point(row.number, record_of(row), json.loads(row.numbers))
