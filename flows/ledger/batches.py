"""The batches that are finished."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from flows.ledger.database import Database, in_parts, insert_once
from flows.ledger.tables import BATCHES, INCIDENT_BATCHES, INCIDENTS, IS_CLAIMED, JUDGEMENTS, POINTS, TALLIES


@dataclass(frozen=True)
class BatchRecord:
    """A finished batch; `verdict` is what `finish` was given, as JSON values.

    Attributes:
        run_id: that shows it in MLflow; empty as long as MLflow has not taken it.
        false_alarm: whether people say so of everything that it alarmed for.
    """

    key: str
    pipeline: str
    batch: str
    manifest_hash: str
    model_version: str
    calibration_version: str
    run_id: str
    finished_at: datetime
    attempts: int
    alarm: bool
    n_scored: int
    n_flagged: int
    n_unreadable: int
    verdict: dict[str, Any]
    false_alarm: bool = False


_FALSE = JUDGEMENTS.c.judgement == "false alarm"
_TRUE_ALARM = sa.exists().where(
    JUDGEMENTS.c.judgement == "true alarm", JUDGEMENTS.c.batch_key == BATCHES.c.key
)  # also of a batch that raised no alarm: it was missed
_FINDING_THAT_STANDS = sa.exists().where(
    INCIDENT_BATCHES.c.batch_key == BATCHES.c.key,
    INCIDENT_BATCHES.c.incident == INCIDENTS.c.number,
    ~sa.exists().where(
        _FALSE,
        JUDGEMENTS.c.batch_key == INCIDENT_BATCHES.c.batch_key,
        JUDGEMENTS.c.finding == INCIDENTS.c.kind,
    ),
)
FALSE_ALARM = sa.exists().where(_FALSE, JUDGEMENTS.c.batch_key == BATCHES.c.key) & ~_FINDING_THAT_STANDS
RECORDS = sa.select(BATCHES, FALSE_ALARM.label("false_alarm"))


@dataclass(frozen=True)
class Batches:
    """The finished batches of every pipeline."""

    _database: Database

    def is_done(self, pipeline: str, manifest_hash: str, model_version: str | None = None) -> bool:
        """Whether these images were judged before: under any model, or under this one."""
        done = (BATCHES.c.pipeline == pipeline) & (BATCHES.c.manifest_hash == manifest_hash)
        done &= BATCHES.c.status == "done"
        if model_version is not None:
            done &= BATCHES.c.model_version == model_version
        return bool(self._database.rows(sa.select(BATCHES.c.key).where(done).limit(1)))

    def done_of(self, pipelines: Sequence[str], manifest_hashes: Iterable[str]) -> frozenset[str]:
        """Which of these images were judged before, under any model, in one of these pipelines."""
        done = set[str]()
        for part in in_parts(manifest_hashes):
            ours = BATCHES.c.pipeline.in_(pipelines) & BATCHES.c.manifest_hash.in_(part) & (BATCHES.c.status == "done")
            done |= {row.manifest_hash for row in self._database.rows(sa.select(BATCHES.c.manifest_hash).where(ours))}
        return frozenset(done)

    def begun_in_vain(self, pipeline: str, attempts: int) -> frozenset[str]:
        """The manifest hashes of batches that were begun at least so often and never finished."""
        begun = (BATCHES.c.pipeline == pipeline) & IS_CLAIMED & (BATCHES.c.attempts >= attempts)
        return frozenset(
            row.manifest_hash for row in self._database.rows(sa.select(BATCHES.c.manifest_hash).where(begun))
        )

    def history(self, pipeline: str, limit: int = 20) -> tuple[BatchRecord, ...]:
        """The last `limit` finished batches of a pipeline, the newest first."""
        done = (BATCHES.c.pipeline == pipeline) & (BATCHES.c.status == "done")
        newest = (BATCHES.c.finished_at.desc(), BATCHES.c.key)
        return tuple(map(record_of, self._database.rows(RECORDS.where(done).order_by(*newest).limit(limit))))

    def finished(self, key: str) -> BatchRecord | None:
        """The finished batch of that key; None where there is none."""
        rows = self._database.rows(RECORDS.where((BATCHES.c.key == key) & (BATCHES.c.status == "done")))
        return record_of(rows[0]) if rows else None

    def last_named(self, pipeline: str, batch: str) -> BatchRecord | None:
        """The newest finished batch of that name; None where there is none."""
        named = (BATCHES.c.pipeline == pipeline) & (BATCHES.c.batch == batch) & (BATCHES.c.status == "done")
        newest = (BATCHES.c.finished_at.desc(), BATCHES.c.key)
        rows = self._database.rows(RECORDS.where(named).order_by(*newest).limit(1))
        return record_of(rows[0]) if rows else None

    def decided(
        self, pipeline: str, since: datetime | None = None, until: datetime | None = None
    ) -> tuple[BatchRecord, ...]:
        """The batches of a pipeline that were finished from `since` on and before `until`, the oldest first."""
        done = (BATCHES.c.pipeline == pipeline) & (BATCHES.c.status == "done")
        if since is not None:
            done &= BATCHES.c.finished_at >= since
        if until is not None:
            done &= BATCHES.c.finished_at < until
        query = RECORDS.where(done).order_by(BATCHES.c.finished_at, BATCHES.c.key)
        return tuple(map(record_of, self._database.rows(query)))

    def nominal_counts(self, pipeline: str, calibration_version: str, limit: int) -> tuple[tuple[int, int], ...]:
        """(flagged, scored) of the last batches that this calibration decided without an alarm, or with one that people
        say was false, in no order; without those of which they say that an alarm was due."""
        nominal = _nominal(pipeline, calibration_version) & (BATCHES.c.n_scored > 0)
        newest = (BATCHES.c.finished_at.desc(), BATCHES.c.key.desc())  # as the index has them, which holds all of it
        last = sa.select(BATCHES.c.n_flagged, BATCHES.c.n_scored).where(nominal).order_by(*newest).limit(limit)
        counts = tuple(last.subquery().c)
        rows = self._database.rows(sa.select(*counts, sa.func.count().label("batches")).group_by(*counts))
        return tuple(alike for row in rows for alike in ((row.n_flagged, row.n_scored),) * row.batches)

    def false_alarms(self, pipeline: str, calibration_version: str) -> tuple[int, int]:
        """How many batches of this calibration alarmed falsely, as people say, and how many count as nominal."""
        rows = self._database.rows(sa.select(TALLIES).where(_tally_of(pipeline, calibration_version)))
        return (rows[0].false_alarms, rows[0].nominal) if rows else (0, 0)

    def note_run(self, key: str, run_id: str) -> None:
        """Keeps which run shows a batch that was finished while MLflow did not answer."""
        waits = (BATCHES.c.key == key) & (BATCHES.c.status == "done") & (BATCHES.c.run_id == "")
        self._database.changed(BATCHES, waits, run_id=run_id)

    def count(self, pipeline: str) -> int:
        """How many batches of a pipeline are finished."""
        last = sa.select(sa.func.coalesce(sa.func.max(POINTS.c.number), 0)).where(POINTS.c.pipeline == pipeline)
        return int(self._database.rows(last)[0][0])


def _nominal(pipeline: str, calibration_version: str) -> sa.ColumnElement[bool]:
    ours = (BATCHES.c.pipeline == pipeline) & (BATCHES.c.calibration_version == calibration_version)
    done = ours & (BATCHES.c.status == "done")
    return done & (BATCHES.c.alarm.is_(False) | FALSE_ALARM) & ~_TRUE_ALARM


def count_nominal(connection: sa.Connection, key: str) -> None:
    """Counts the batch of that key as one more nominal batch of its calibration."""
    batch = connection.execute(sa.select(BATCHES).where(BATCHES.c.key == key)).one()
    ours = _tally_of(batch.pipeline, batch.calibration_version)
    one_more = sa.update(TALLIES).where(ours).values(nominal=TALLIES.c.nominal + 1)
    tally = {"pipeline": batch.pipeline, "calibration_version": batch.calibration_version}
    while connection.execute(one_more).rowcount == 0:
        insert_once(connection, TALLIES, **tally, nominal=0, false_alarms=0)


def count_again(connection: sa.Connection, pipeline: str, calibration_version: str) -> None:
    """Counts the nominal batches of a calibration anew, after people said something of them."""
    alarms = sa.select(BATCHES.c.alarm).where(_nominal(pipeline, calibration_version)).subquery()
    false_alarms = sa.func.coalesce(sa.func.sum(sa.case((alarms.c.alarm, 1), else_=0)), 0)
    counted = connection.execute(sa.select(sa.func.count().label("nominal"), false_alarms.label("false"))).one()
    insert_once(
        connection, TALLIES, pipeline=pipeline, calibration_version=calibration_version, nominal=0, false_alarms=0
    )
    now = {"nominal": counted.nominal, "false_alarms": counted.false}
    connection.execute(sa.update(TALLIES).where(_tally_of(pipeline, calibration_version)).values(now))


def _tally_of(pipeline: str, calibration_version: str) -> sa.ColumnElement[bool]:
    return (TALLIES.c.pipeline == pipeline) & (TALLIES.c.calibration_version == calibration_version)


def record_of(row: sa.Row[Any]) -> BatchRecord:
    """The batch of a row of RECORDS."""
    names = [name for name in BatchRecord.__dataclass_fields__ if name != "verdict"]
    return BatchRecord(**{name: row._mapping[name] for name in names}, verdict=json.loads(row.verdict))
