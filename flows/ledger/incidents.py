"""Incidents, judged within one transaction in which a pipeline is nobody else's."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from flows.incidents import Incident, Judgement
from flows.ledger.batches import FALSE_ALARM, count_again
from flows.ledger.database import Database, insert_once
from flows.ledger.outbox import OutboxEntry, enter
from flows.ledger.tables import BATCHES, INCIDENT_BATCHES, INCIDENTS, IS_CLAIMED, JUDGEMENTS, WATCHES
from flows.ledger.values import json_text


@dataclass(frozen=True)
class Watch:
    """How the runs of a pipeline went.

    Attributes:
        since: when it was first heard of.
        last_run_at: when `reconwatch` last took it up.
        good_run_at: when a run of it last ended well.
        failed_runs: that failed in a row since then.
        failure: why the last of them did.
    """

    since: datetime
    last_run_at: datetime | None = None
    good_run_at: datetime | None = None
    failed_runs: int = 0
    failure: str | None = None


_DERIVED = {"number", "judgement"}  # of an incident's row: the database gives them
_WORST_WORD = (
    sa.select(sa.func.max(JUDGEMENTS.c.judgement))  # "true alarm" where that was said of any batch
    .join(INCIDENT_BATCHES, INCIDENT_BATCHES.c.batch_key == JUDGEMENTS.c.batch_key)
    .where(INCIDENT_BATCHES.c.incident == INCIDENTS.c.number, JUDGEMENTS.c.finding == INCIDENTS.c.kind)
)
_JUDGED_INCIDENTS = sa.select(INCIDENTS, _WORST_WORD.scalar_subquery().label("judgement"))


@dataclass(frozen=True)
class Standing:
    """Whether a pipeline's incidents may need anything, known without having them to oneself.

    Attributes:
        now: when this was so.
        last_batch_at: when a batch was last finished; None where none was.
        open: whether an incident is.
        given_up: whether a batch was begun as often as was asked about, and is not finished.
    """

    now: datetime
    watch: Watch
    last_batch_at: datetime | None
    open: bool
    given_up: bool


@dataclass(frozen=True)
class IncidentBook:
    """The incidents of one pipeline, and what they are judged by, within one transaction; get it from the ledger."""

    _connection: sa.Connection
    pipeline: str
    now: datetime
    watch: Watch
    _alive: Callable[[str, datetime], bool]

    def open(self) -> tuple[Incident, ...]:
        """The open incidents, the oldest first."""
        return self._incidents(INCIDENTS.c.closed_at.is_(None))

    def numbered(self, number: int) -> Incident:
        """The incident of that number, which is one of the pipeline's."""
        return self._incidents(INCIDENTS.c.number == number)[0]

    def closed_around(self, kind: str, place: datetime) -> tuple[Incident, ...]:
        """The closed incidents of a kind whose batches lie on both sides of that place in the stream."""
        around = (INCIDENTS.c.first_place <= place) & (INCIDENTS.c.last_place >= place)
        return self._incidents(INCIDENTS.c.closed_at.is_not(None) & (INCIDENTS.c.kind == kind) & around)

    def knows(self, key: str) -> bool:
        """Whether an incident with this key was ever opened."""
        return bool(self._incidents(INCIDENTS.c.key == key))

    def write(self, incident: Incident, batch_key: str = "") -> Incident:
        """The incident as it is kept, with its number; `batch_key` is of a batch that belongs to it from now on."""
        row = {name: getattr(incident, name) for name in Incident.__dataclass_fields__ if name not in _DERIVED}
        row |= {"alert": json_text(incident.alert), "told": json_text(incident.told)}
        if incident.number:
            self._connection.execute(sa.update(INCIDENTS).where(INCIDENTS.c.number == incident.number).values(row))
        else:
            inserted = self._connection.execute(sa.insert(INCIDENTS).values(row).returning(INCIDENTS.c.number))
            incident = replace(incident, number=inserted.scalar_one())
        if batch_key:
            link = {"incident": incident.number, "batch_key": batch_key}
            self._connection.execute(sa.insert(INCIDENT_BATCHES).values(link))
        return incident

    def judge(self, incident: Incident, judgement: Judgement, by: str, note: str) -> int:
        """Notes what people say of the alarms of an incident's batches, in place of what was said of them before.

        Returns how many of the batches count as nominal now: those of which no other finding stands.
        """
        batches = sa.select(INCIDENT_BATCHES.c.batch_key).where(INCIDENT_BATCHES.c.incident == incident.number)
        said_before = JUDGEMENTS.c.batch_key.in_(batches) & (JUDGEMENTS.c.finding == incident.kind)
        self._connection.execute(sa.delete(JUDGEMENTS).where(said_before))
        said = {"finding": incident.kind, "judgement": judgement, "judged_by": by, "note": note, "judged_at": self.now}
        keys = self._connection.execute(batches).scalars()
        self._connection.execute(sa.insert(JUDGEMENTS), [{"batch_key": key, **said} for key in keys])
        calibrations = sa.select(BATCHES.c.calibration_version).where(BATCHES.c.key.in_(batches)).distinct()
        for calibration in self._connection.execute(calibrations.order_by(BATCHES.c.calibration_version)).scalars():
            count_again(self._connection, self.pipeline, calibration)
        nominal = sa.select(sa.func.count()).select_from(BATCHES).where(BATCHES.c.key.in_(batches), FALSE_ALARM)
        return int(self._connection.execute(nominal).scalar_one())

    def send(self, incident: Incident, entries: Sequence[OutboxEntry]) -> None:
        """Enters messages on an incident into the outbox; each channel gets those of one incident in this order."""
        for entry in entries:
            enter(self._connection, self.pipeline, incident.key, entry, self.now)

    def place_of(self, batch_key: str) -> datetime:
        """Where a batch stands in the stream: when its images were first claimed, under any model."""
        images = sa.select(BATCHES.c.manifest_hash).where(BATCHES.c.key == batch_key).scalar_subquery()
        first = sa.select(sa.func.min(BATCHES.c.claimed_at)).where(
            (BATCHES.c.pipeline == self.pipeline) & (BATCHES.c.manifest_hash == images)
        )
        place: datetime = self._connection.execute(first).scalar_one()
        return place

    def last_batch_at(self) -> datetime | None:
        """When a batch was last finished, by a clock that was not ahead of this one; None where none was."""
        known = (BATCHES.c.pipeline == self.pipeline) & (BATCHES.c.finished_at <= self.now)
        last = sa.select(sa.func.max(BATCHES.c.finished_at)).where(known)
        return self._connection.execute(last).scalar()

    def given_up(self, attempts: int) -> tuple[str, ...]:
        """Names of batches begun at least so often and never finished, since a run of the pipeline last ended well."""
        begun = (BATCHES.c.pipeline == self.pipeline) & IS_CLAIMED
        begun &= BATCHES.c.attempts >= attempts
        if self.watch.good_run_at is not None:
            begun &= BATCHES.c.renewed_at > self.watch.good_run_at
        rows = self._connection.execute(sa.select(BATCHES).where(begun).order_by(BATCHES.c.renewed_at)).all()
        return tuple(row.batch for row in rows if not self._alive(row.owner, row.renewed_at))

    def note(self, watch: Watch) -> None:
        """Keeps how the pipeline's runs went."""
        values = {name: getattr(watch, name) for name in Watch.__dataclass_fields__}
        self._connection.execute(sa.update(WATCHES).where(WATCHES.c.pipeline == self.pipeline).values(values))

    def _incidents(self, where: sa.ColumnElement[bool]) -> tuple[Incident, ...]:
        ours = (INCIDENTS.c.pipeline == self.pipeline) & where
        rows = self._connection.execute(_JUDGED_INCIDENTS.where(ours).order_by(INCIDENTS.c.number)).all()
        return tuple(map(_incident, rows))


@dataclass(frozen=True)
class Incidents:
    """The incidents of every pipeline."""

    _database: Database

    @contextmanager
    def book(self, pipeline: str) -> Iterator[IncidentBook]:
        """The pipeline's incidents in one transaction: whatever is done in the block is written whole, or not at all.

        Other processes that want the same wait until it ends.
        """
        with self._database.transaction() as connection:
            yield begun_book(self._database, connection, pipeline, self._database.clock())

    def standings(self, attempts: int) -> dict[str, Standing]:
        """How each pipeline stands that was heard of, by name; `attempts` of a batch are one too many."""
        last = sa.select(sa.func.max(BATCHES.c.finished_at)).where(BATCHES.c.pipeline == WATCHES.c.pipeline)
        open_ones = sa.exists().where(INCIDENTS.c.pipeline == WATCHES.c.pipeline, INCIDENTS.c.closed_at.is_(None))
        begun = sa.exists().where(BATCHES.c.pipeline == WATCHES.c.pipeline, IS_CLAIMED)
        begun = begun.where(BATCHES.c.attempts >= attempts)
        found = (last.scalar_subquery().label("last"), open_ones.label("open"), begun.label("given_up"))
        rows, now = self._database.rows(sa.select(WATCHES, *found)), self._database.clock()
        return {row.pipeline: Standing(now, _watch(row), row.last, row.open, row.given_up) for row in rows}

    def newest(
        self, pipeline: str | None = None, closed: bool = False, limit: int | None = None
    ) -> tuple[Incident, ...]:
        """The open incidents of a pipeline, or of all; with `closed` those that are over too; the newest first."""
        query = _JUDGED_INCIDENTS.order_by(INCIDENTS.c.number.desc()).limit(limit)
        if pipeline is not None:
            query = query.where(INCIDENTS.c.pipeline == pipeline)
        return tuple(
            map(_incident, self._database.rows(query if closed else query.where(INCIDENTS.c.closed_at.is_(None))))
        )

    def numbered(self, number: int) -> Incident | None:
        """The incident of that number; None where there is none."""
        rows = self._database.rows(_JUDGED_INCIDENTS.where(INCIDENTS.c.number == number))
        return _incident(rows[0]) if rows else None


def begun_book(database: Database, connection: sa.Connection, pipeline: str, now: datetime) -> IncidentBook:
    """The pipeline's incidents, which are nobody else's from here to the end of the transaction."""
    turn = sa.update(WATCHES).where(WATCHES.c.pipeline == pipeline)
    turn = turn.values(turns=WATCHES.c.turns + 1)
    while (row := connection.execute(turn.returning(*WATCHES.c)).one_or_none()) is None:
        insert_once(connection, WATCHES, pipeline=pipeline, turns=0, since=now, failed_runs=0)
    return IncidentBook(connection, pipeline, now, _watch(row), database.alive)


def _watch(row: sa.Row[Any]) -> Watch:
    return Watch(row.since, row.last_run_at, row.good_run_at, row.failed_runs, row.failure)


def _incident(row: sa.Row[Any]) -> Incident:
    values = {name: row._mapping[name] for name in Incident.__dataclass_fields__}
    return Incident(**values | {"alert": json.loads(row.alert), "told": tuple(json.loads(row.told))})
