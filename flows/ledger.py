"""The ledger: which batch is whose and which is done, incidents, and alerts on their way; nothing is done twice.

A batch is claimed by an INSERT on its key, and finished, with its incidents and alerts, in one transaction. A claim
ends with its process: whoever comes next takes over what a dead process left behind.
"""

import hashlib
import json
import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from os import getpid
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa
from filelock import FileLock, Timeout
from sqlalchemy import event
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.types import TypeDecorator

from ae_models.errors import InputError
from flows.incidents import Incident, Judgement
from flows.labels import Label
from flows.processes import Process, owner_is_alive, this_process

SCHEMA = 1
LEASE = timedelta(minutes=10)  # how long a claim from another host holds without being renewed
CREATION_TIMEOUT = 60.0  # seconds
BUSY_TIMEOUT = 30_000  # milliseconds


class LostClaim(RuntimeError):  # noqa: N818 (it says what happened)
    """The claim is no longer held: another process has taken the batch over, or it was released or finished."""


def utc_now() -> datetime:
    """The time now, aware, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Claim:
    """A batch that is ours to score.

    Attributes:
        owner: who holds it, and which of its claims this is.
        attempt: 1 for the first claim of this batch, more after a takeover or a release.
    """

    key: str
    pipeline: str
    batch: str
    owner: str
    attempt: int


@dataclass(frozen=True)
class AlreadyDone:
    """A batch that needs nothing: it was scored before, by this model and calibration, in the run `run_id`."""

    key: str
    run_id: str
    finished_at: datetime


@dataclass(frozen=True)
class Busy:
    """A batch that a living process is scoring."""

    key: str
    owner: str
    renewed_at: datetime


@dataclass(frozen=True)
class BatchRecord:
    """A finished batch; `verdict` is what `finish` was given, as JSON values.

    Attributes:
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


@dataclass(frozen=True)
class OutboxEntry:
    """An alert to be sent through one channel; entered once for a dedupe key and channel, however often it is given."""

    channel: str
    dedupe_key: str
    payload: Mapping[str, Any]


@dataclass(frozen=True)
class StreamRecord:
    """The batches that one calibration of a pipeline decided, seen as one stream.

    Attributes:
        calibration: the calibration's number: 1 for the first of the pipeline that decided a batch, then 2, 3, ...
        state: what `finish` was given to keep.
    """

    calibration: int
    state: str


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


FollowStream = Callable[[int, str | None], tuple[str, Sequence[OutboxEntry]]]
"""From the calibration's number and the state of its stream (None at the beginning) to the state with one more batch,
and the alerts that this raises."""


@dataclass(frozen=True)
class PendingAlert:
    """An alert that was not delivered yet; `attempts` counts the failed ones, `sender` is who sends it now or ''."""

    id: int
    dedupe_key: str
    pipeline: str
    batch_key: str
    channel: str
    payload: dict[str, Any]
    created_at: datetime
    attempts: int
    last_error: str | None
    next_attempt_at: datetime
    sender: str
    sender_since: datetime | None


@dataclass(frozen=True)
class WaitingChannel:
    """A channel for which alerts wait: how many, since when, and why the newest that failed did, or None."""

    pipeline: str
    channel: str
    count: int
    since: datetime
    last_error: str | None


def batch_key(pipeline: str, manifest_hash: str, model_version: str, calibration_version: str) -> str:
    """The SHA-256 (hex) under which a batch is claimed: these images, judged by this model with this calibration."""
    return hashlib.sha256(
        _json_text([pipeline, manifest_hash, model_version, calibration_version]).encode()
    ).hexdigest()


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: NaN and infinities are null, tuples lists, and undecodable names escaped."""
    if isinstance(value, str):
        return _storable(value)
    if isinstance(value, Mapping):
        return {_storable(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@dataclass(frozen=True)
class Ledger:
    """The ledger in one database; get it from `Ledger.open`. Every method is one transaction."""

    _url: sa.URL
    _engines: dict[int, sa.Engine]  # by process id: a forked process must not touch its parent's connections
    _clock: Callable[[], datetime]
    _process: Callable[[], Process]

    @classmethod
    def open(
        cls, url: str, clock: Callable[[], datetime] = utc_now, process: Callable[[], Process] = this_process
    ) -> Self:
        """The ledger at `url` (`sqlite:////absolute/path.db`, `postgresql+psycopg://...`), created where there is none.

        Raises InputError where the database cannot be used or was written by a newer reconwatch.
        """
        ledger = cls(_parsed(url), {}, clock, process)
        weakref.finalize(ledger, _close, ledger._engines)
        with _creation_lock(ledger._url):
            ledger._create()
        return ledger

    def close(self) -> None:
        """Closes the connections now and not when the ledger is let go of; a later call opens new ones."""
        _close(self._engines)

    # Batches

    def claim(
        self, pipeline: str, batch: str, manifest_hash: str, model_version: str, calibration_version: str
    ) -> Claim | AlreadyDone | Busy:
        """A Claim where the batch is ours now, AlreadyDone where it is finished, Busy where a living process has it."""
        key = batch_key(pipeline, manifest_hash, model_version, calibration_version)
        owner, now = self._process().owner(), self._clock()
        first = self._inserted(
            _BATCHES,
            key=key,
            pipeline=pipeline,
            batch=batch,
            manifest_hash=manifest_hash,
            model_version=model_version,
            calibration_version=calibration_version,
            status="claimed",
            owner=owner,
            claimed_at=now,
            renewed_at=now,
            attempts=1,
        )
        if first:
            return Claim(key, pipeline, batch, owner, attempt=1)
        while True:
            held = self._rows(sa.select(_BATCHES).where(_BATCHES.c.key == key))[0]
            if held.status == "done":
                return AlreadyDone(key, held.run_id, held.finished_at)
            if self._alive(held.owner, held.renewed_at):
                return Busy(key, held.owner, held.renewed_at)
            if self._taken_over(held, batch, owner, now):
                return Claim(key, pipeline, batch, owner, held.attempts + 1)

    def _taken_over(self, held: sa.Row[Any], batch: str, owner: str, now: datetime) -> bool:
        unchanged = (_BATCHES.c.owner == held.owner) & (_BATCHES.c.renewed_at == held.renewed_at)
        return self._changed(
            _BATCHES,
            (_BATCHES.c.key == held.key) & (_BATCHES.c.status == "claimed") & unchanged,
            owner=owner,
            batch=batch,
            attempts=held.attempts + 1,
            renewed_at=now,
        )

    def renew(self, claim: Claim) -> None:
        """Says that the claim's owner still works on it; another host waits 10 minutes from here. Raises LostClaim."""
        if not self._changed(_BATCHES, _held_by(claim), renewed_at=self._clock()):
            raise _lost(claim)

    def release(self, claim: Claim) -> None:
        """Gives a claim back, so that anyone may take the batch at once; nothing where it was lost or finished."""
        self._changed(_BATCHES, _held_by(claim), owner="")

    def finish(
        self,
        claim: Claim,
        *,
        run_id: str,
        verdict: Mapping[str, Any],
        alarm: bool,
        n_scored: int,
        n_flagged: int,
        n_unreadable: int,
        alerts: Sequence[OutboxEntry] = (),
        stream: FollowStream | None = None,
        settle: Callable[["IncidentBook"], None] | None = None,
        point: Callable[[], Mapping[str, float | None]] = dict,
    ) -> None:
        """Writes that the batch is done, its alerts, what `stream` makes of its calibration's stream, what `settle`
        does to the pipeline's incidents, and then the `point` of the time line, in one transaction; raises LostClaim
        (and writes nothing) where another process has taken the batch over meanwhile."""
        now = self._clock()
        done = sa.update(_BATCHES).where(_held_by(claim))
        done = done.values(status="done", run_id=run_id, finished_at=now, verdict=_json_text(verdict), alarm=alarm)
        done = done.values(n_scored=n_scored, n_flagged=n_flagged, n_unreadable=n_unreadable)
        with self._transaction() as connection:
            if connection.execute(done).rowcount == 0:
                raise _lost(claim)
            raised = () if stream is None else _followed(connection, claim, stream)
            for alert in (*alerts, *raised):
                _enter(connection, claim.pipeline, claim.key, alert, now)
            if settle is not None:
                settle(self._book(connection, claim.pipeline, now))
            _add_point(connection, claim, point())

    def is_done(self, pipeline: str, manifest_hash: str, model_version: str | None = None) -> bool:
        """Whether these images were judged before: under any model, or under this one."""
        done = (_BATCHES.c.pipeline == pipeline) & (_BATCHES.c.manifest_hash == manifest_hash)
        done &= _BATCHES.c.status == "done"
        if model_version is not None:
            done &= _BATCHES.c.model_version == model_version
        return bool(self._rows(sa.select(_BATCHES.c.key).where(done).limit(1)))

    def history(self, pipeline: str, limit: int = 20) -> tuple[BatchRecord, ...]:
        """The last `limit` finished batches of a pipeline, the newest first."""
        done = (_BATCHES.c.pipeline == pipeline) & (_BATCHES.c.status == "done")
        newest = (_BATCHES.c.finished_at.desc(), _BATCHES.c.key)
        return tuple(map(_record, self._rows(_RECORDS.where(done).order_by(*newest).limit(limit))))

    def batch(self, key: str) -> BatchRecord | None:
        """The finished batch of that key; None where there is none."""
        rows = self._rows(_RECORDS.where((_BATCHES.c.key == key) & (_BATCHES.c.status == "done")))
        return _record(rows[0]) if rows else None

    def decided(
        self, pipeline: str, since: datetime | None = None, until: datetime | None = None
    ) -> tuple[BatchRecord, ...]:
        """The batches of a pipeline that were finished from `since` on and before `until`, the oldest first."""
        done = (_BATCHES.c.pipeline == pipeline) & (_BATCHES.c.status == "done")
        if since is not None:
            done &= _BATCHES.c.finished_at >= since
        if until is not None:
            done &= _BATCHES.c.finished_at < until
        query = _RECORDS.where(done).order_by(_BATCHES.c.finished_at, _BATCHES.c.key)
        return tuple(map(_record, self._rows(query)))

    def nominal_counts(self, pipeline: str, calibration_version: str, limit: int) -> tuple[tuple[int, int], ...]:
        """(flagged, scored) of the last batches that this calibration decided without an alarm, or with one that people
        say was false, the newest first; without those of which they say that an alarm was due."""
        nominal = _nominal(pipeline, calibration_version) & (_BATCHES.c.n_scored > 0)
        query = sa.select(_BATCHES.c.n_flagged, _BATCHES.c.n_scored).where(nominal)
        rows = self._rows(query.order_by(_BATCHES.c.finished_at.desc(), _BATCHES.c.key).limit(limit))
        return tuple((row.n_flagged, row.n_scored) for row in rows)

    def false_alarms(self, pipeline: str, calibration_version: str) -> tuple[int, int]:
        """How many batches of this calibration alarmed falsely, as people say, and how many count as nominal."""
        query = sa.select(_BATCHES.c.alarm).where(_nominal(pipeline, calibration_version))
        alarms = [row.alarm for row in self._rows(query)]
        return sum(alarms), len(alarms)

    def stream(self, pipeline: str, calibration_version: str) -> StreamRecord | None:
        """The stream of a calibration as the last finished batch left it; None before the first."""
        rows = self._rows(sa.select(_STREAMS).where(_stream_of(pipeline, calibration_version)))
        return StreamRecord(rows[0].calibration, rows[0].state) if rows else None

    def calibrations(self, pipeline: str) -> int:
        """How many calibrations of a pipeline have decided a batch, as streams count them."""
        return int(self._rows(_calibrations(pipeline))[0][0])

    def count(self, pipeline: str) -> int:
        """How many batches of a pipeline are finished."""
        done = (_BATCHES.c.pipeline == pipeline) & (_BATCHES.c.status == "done")
        return int(self._rows(sa.select(sa.func.count()).select_from(_BATCHES).where(done))[0][0])

    # What people said of images

    def add_labels(self, labels: Sequence[Label]) -> int:
        """Enters labels and says how many were new; earlier ones stay. One that repeats what the person last said of
        the image, or last said by the same way, is not new: so a file may be read twice."""
        last: dict[tuple[str, ...], tuple[str, str]] = {}
        for pipeline in {label.pipeline for label in labels}:
            for known in self.labels(pipeline):
                last |= dict.fromkeys(_ways_of(known), (known.verdict, known.comment))
        new = 0
        with self._transaction() as connection:
            for label in sorted(labels, key=lambda label: label.labelled_at):
                said = (label.verdict, label.comment)
                if said not in (last.get(way) for way in _ways_of(label)):
                    _insert_once(connection, _LABELS, **vars(label))
                    last |= dict.fromkeys(_ways_of(label), said)
                    new += 1
        return new

    def labels(self, pipeline: str, batch_key: str | None = None) -> tuple[Label, ...]:
        """Every label on images of a pipeline, or of one of its batches, the oldest first."""
        query = sa.select(_LABELS).where(_LABELS.c.pipeline == pipeline)
        if batch_key is not None:
            query = query.where(_LABELS.c.batch_key == batch_key)
        rows = self._rows(query.order_by(_LABELS.c.labelled_at, _LABELS.c.id))
        return tuple(Label(**{name: row._mapping[name] for name in Label.__dataclass_fields__}) for row in rows)

    def note_queue(self, batch_key: str, queue: str) -> None:
        """Keeps in which queue the images of a finished batch are to be labelled; empty where there is nothing to."""
        with self._transaction() as connection:
            _insert_once(connection, _QUEUES, batch_key=batch_key, queue=queue, made_at=self._clock())

    def queue(self, batch_key: str) -> str | None:
        """In which queue a batch's images are labelled; None where there is none."""
        rows = self._rows(sa.select(_QUEUES.c.queue).where(_QUEUES.c.batch_key == batch_key))
        return rows[0].queue or None if rows else None

    def queues(self, pipeline: str) -> tuple[tuple[str, str], ...]:
        """The key and the queue of each batch that has one, the newest batch first."""
        query = sa.select(_QUEUES.c.batch_key, _QUEUES.c.queue).join(_BATCHES, _BATCHES.c.key == _QUEUES.c.batch_key)
        query = query.where((_BATCHES.c.pipeline == pipeline) & (_QUEUES.c.queue != ""))
        rows = self._rows(query.order_by(_BATCHES.c.finished_at.desc(), _BATCHES.c.key))
        return tuple((row.batch_key, row.queue) for row in rows)

    def drop_queue(self, batch_key: str) -> None:
        """Writes that a batch's images are labelled nowhere any more; it gets no other queue."""
        self._changed(_QUEUES, _QUEUES.c.batch_key == batch_key, queue="")

    def without_queue(self, pipeline: str, limit: int) -> tuple[BatchRecord, ...]:
        """Those of the last `limit` finished batches that `note_queue` was not told of, the oldest first."""
        newest = self.history(pipeline, limit)
        noted = sa.select(_QUEUES.c.batch_key).where(_QUEUES.c.batch_key.in_([record.key for record in newest]))
        known = {row.batch_key for row in self._rows(noted)}
        return tuple(record for record in reversed(newest) if record.key not in known)

    # The pipeline over time

    def points(self, pipeline: str, after: int = 0) -> tuple[Point, ...]:
        """The points of a pipeline's time line with a number above `after`, by number."""
        query = _RECORDS.add_columns(_POINTS.c.number, _POINTS.c.numbers).join(
            _POINTS, _POINTS.c.batch_key == _BATCHES.c.key
        )
        query = query.where((_POINTS.c.pipeline == pipeline) & (_POINTS.c.number > after)).order_by(_POINTS.c.number)
        return tuple(map(_point, self._rows(query)))

    def monitor_run(self, pipeline: str) -> MonitorRun | None:
        """The run that shows the pipeline over time; None where there is none yet."""
        rows = self._rows(sa.select(_MONITORS).where(_MONITORS.c.pipeline == pipeline))
        return MonitorRun(rows[0].run_id, rows[0].shown) if rows else None

    def take_monitor_run(self, pipeline: str, run_id: str, instead_of: str = "") -> MonitorRun:
        """Lets `run_id` show the pipeline, from its first point on, where no run does or `instead_of` did; the run that
        shows it from now on, which is another one where another process was first."""
        with self._transaction() as connection:
            _insert_once(connection, _MONITORS, pipeline=pipeline, run_id=instead_of, shown=0)
            ours = (_MONITORS.c.pipeline == pipeline) & (_MONITORS.c.run_id == instead_of)
            connection.execute(sa.update(_MONITORS).where(ours).values(run_id=run_id, shown=0))
            row = connection.execute(sa.select(_MONITORS).where(_MONITORS.c.pipeline == pipeline)).one()
            return MonitorRun(row.run_id, row.shown)

    def mark_shown(self, pipeline: str, run_id: str, number: int) -> None:
        """Writes that the points up to this number are in that run."""
        behind = (_MONITORS.c.pipeline == pipeline) & (_MONITORS.c.run_id == run_id) & (_MONITORS.c.shown < number)
        self._changed(_MONITORS, behind, shown=number)

    # Incidents

    @contextmanager
    def incident_book(self, pipeline: str) -> Iterator["IncidentBook"]:
        """The pipeline's incidents in one transaction: whatever is done in the block is written whole, or not at all.

        Other processes that want the same wait until it ends.
        """
        with self._transaction() as connection:
            yield self._book(connection, pipeline, self._clock())

    def incidents(
        self, pipeline: str | None = None, closed: bool = False, limit: int | None = None
    ) -> tuple[Incident, ...]:
        """The open incidents of a pipeline, or of all; with `closed` those that are over too; the newest first."""
        query = _JUDGED_INCIDENTS.order_by(_INCIDENTS.c.number.desc()).limit(limit)
        if pipeline is not None:
            query = query.where(_INCIDENTS.c.pipeline == pipeline)
        return tuple(map(_incident, self._rows(query if closed else query.where(_INCIDENTS.c.closed_at.is_(None)))))

    def incident(self, number: int) -> Incident | None:
        """The incident of that number; None where there is none."""
        rows = self._rows(_JUDGED_INCIDENTS.where(_INCIDENTS.c.number == number))
        return _incident(rows[0]) if rows else None

    def _book(self, connection: sa.Connection, pipeline: str, now: datetime) -> "IncidentBook":
        turn = sa.update(_WATCHES).where(_WATCHES.c.pipeline == pipeline)
        turn = turn.values(turns=_WATCHES.c.turns + 1)  # nobody else's from here on
        while (row := connection.execute(turn.returning(*_WATCHES.c)).one_or_none()) is None:
            _insert_once(connection, _WATCHES, pipeline=pipeline, turns=0, since=now, failed_runs=0)
        watch = Watch(row.since, row.last_run_at, row.good_run_at, row.failed_runs, row.failure)
        return IncidentBook(connection, pipeline, now, watch, self._alive)

    # Unchanged batches, known without reading a file

    def known_manifest(self, pipeline: str, batch: str, stat_hash: str) -> str | None:
        """The manifest hash that a batch had when its files' names, sizes and times were these; None where unknown."""
        rows = self._rows(sa.select(_FINGERPRINTS.c.manifest_hash).where(_seen(pipeline, batch, stat_hash)))
        return str(rows[0].manifest_hash) if rows else None

    def remember_manifest(self, pipeline: str, batch: str, stat_hash: str, manifest_hash: str) -> None:
        """Keeps what `known_manifest` tells; the batch's earlier states are forgotten."""
        earlier = (_FINGERPRINTS.c.pipeline == pipeline) & (_FINGERPRINTS.c.batch == batch)
        with self._transaction() as connection:
            connection.execute(sa.delete(_FINGERPRINTS).where(earlier))
            _insert_once(
                connection,
                _FINGERPRINTS,
                pipeline=pipeline,
                batch=batch,
                stat_hash=stat_hash,
                manifest_hash=manifest_hash,
            )

    # The outbox

    def pending_alerts(
        self, now: datetime | None = None, after: int = 0, limit: int | None = None, tried: bool | None = None
    ) -> tuple[PendingAlert, ...]:
        """The alerts that are due at `now` (all undelivered ones where it is None) with an id above `after`, by id;
        only those that failed before, or only those that did not, where `tried` says so."""
        pending = _OUTBOX.c.delivered_at.is_(None) & (_OUTBOX.c.id > after)
        if tried is not None:
            pending &= (_OUTBOX.c.attempts > 0) == tried
        if now is not None:
            pending &= _OUTBOX.c.next_attempt_at <= now
        return tuple(map(_pending, self._rows(sa.select(_OUTBOX).where(pending).order_by(_OUTBOX.c.id).limit(limit))))

    def waiting_channels(self) -> tuple[WaitingChannel, ...]:
        """The channels for which alerts wait, by pipeline and name."""
        failed = sa.func.max(sa.case((_OUTBOX.c.last_error.is_not(None), _OUTBOX.c.id)))
        since = sa.func.min(_OUTBOX.c.created_at)
        columns = (_OUTBOX.c.pipeline, _OUTBOX.c.channel, sa.func.count().label("waiting"), since.label("since"))
        waiting = sa.select(*columns, failed.label("failed")).where(_OUTBOX.c.delivered_at.is_(None))
        waiting = waiting.group_by(_OUTBOX.c.pipeline, _OUTBOX.c.channel)
        each = waiting.subquery()
        query = sa.select(each, _OUTBOX.c.last_error).outerjoin(_OUTBOX, _OUTBOX.c.id == each.c.failed)
        rows = self._rows(query.order_by(each.c.pipeline, each.c.channel))
        return tuple(WaitingChannel(row.pipeline, row.channel, row.waiting, row.since, row.last_error) for row in rows)

    def claim_alert(self, alert: PendingAlert) -> PendingAlert | None:
        """The alert as ours to send; None where a living process sends it, or it changed since it was read, or one
        before it on the same matter has not reached that channel yet."""
        if alert.sender_since is not None and self._alive(alert.sender, alert.sender_since):
            return None
        owner, now = self._process().owner(), self._clock()
        unchanged = (_OUTBOX.c.id == alert.id) & _OUTBOX.c.delivered_at.is_(None)
        unchanged &= (_OUTBOX.c.attempts == alert.attempts) & (_OUTBOX.c.sender == alert.sender)
        if not self._changed(_OUTBOX, unchanged & _NEXT_OF_ITS_MATTER, sender=owner, sender_since=now):
            return None
        return replace(alert, sender=owner, sender_since=now)

    def mark_delivered(self, alert: PendingAlert) -> None:
        """Writes that an alert arrived; it is never sent again."""
        self._changed(_OUTBOX, _OUTBOX.c.id == alert.id, delivered_at=self._clock(), **_UNSENT)

    def mark_failed(self, alert: PendingAlert, error: str, next_attempt_at: datetime) -> None:
        """Writes why an alert that we claimed was not delivered, and when to try again."""
        ours = (_OUTBOX.c.id == alert.id) & (_OUTBOX.c.sender == alert.sender)
        failed = {"attempts": alert.attempts + 1, "last_error": error, "next_attempt_at": next_attempt_at}
        self._changed(_OUTBOX, ours, **failed, **_UNSENT)

    # The database

    @property
    def _engine(self) -> sa.Engine:
        if getpid() not in self._engines:
            self._engines[getpid()] = _engine_of(self._url)
        return self._engines[getpid()]

    def _create(self) -> None:
        try:
            self._create_tables()
        except (IntegrityError, ProgrammingError):  # another process created them on the same server just before
            self._create_tables()

    def _create_tables(self) -> None:
        with self._transaction() as connection:
            _METADATA.create_all(connection)
            for index in (_OUTBOX_BY_MATTER, _INCIDENTS_OF_A_BATCH):  # ledgers from before have the tables without them
                index.create(connection, checkfirst=True)
            _number_earlier(connection)
            found = connection.execute(sa.select(_META.c.value).where(_META.c.key == "schema")).scalar()
            if found is None:
                connection.execute(sa.insert(_META).values(key="schema", value=str(SCHEMA)))
            elif not found.isdecimal() or int(found) > SCHEMA:
                raise InputError(
                    f"the ledger {_shown(self._url)} has schema version {found}, and this reconwatch knows "
                    f"version {SCHEMA}: install the reconwatch that wrote it, or a newer one"
                )

    def _alive(self, owner: str, since: datetime) -> bool:
        if not owner:
            return False
        alive = owner_is_alive(owner, self._process().host)
        return self._clock() - since < LEASE if alive is None else alive

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            if not isinstance(error, OperationalError) and type(error) is not DatabaseError:
                raise
            raise InputError(
                f"the ledger {_shown(self._url)} cannot be used ({' '.join(str(error.orig).split())}): "
                "check that it is a reconwatch ledger, that it can be reached and written, and that its disk has room"
            ) from error

    def _rows(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        with self._transaction() as connection:
            return connection.execute(query).all()

    def _changed(self, table: sa.Table, where: sa.ColumnElement[bool], **values: Any) -> bool:
        with self._transaction() as connection:
            return connection.execute(sa.update(table).where(where).values(values)).rowcount > 0

    def _inserted(self, table: sa.Table, **row: Any) -> bool:
        try:
            with self._transaction() as connection:
                connection.execute(sa.insert(table).values(row))
        except IntegrityError:
            return False
        return True


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
        return self._incidents(_INCIDENTS.c.closed_at.is_(None))

    def numbered(self, number: int) -> Incident:
        """The incident of that number, which is one of the pipeline's."""
        return self._incidents(_INCIDENTS.c.number == number)[0]

    def closed_around(self, kind: str, place: datetime) -> tuple[Incident, ...]:
        """The closed incidents of a kind whose batches lie on both sides of that place in the stream."""
        around = (_INCIDENTS.c.first_place <= place) & (_INCIDENTS.c.last_place >= place)
        return self._incidents(_INCIDENTS.c.closed_at.is_not(None) & (_INCIDENTS.c.kind == kind) & around)

    def knows(self, key: str) -> bool:
        """Whether an incident with this key was ever opened."""
        return bool(self._incidents(_INCIDENTS.c.key == key))

    def write(self, incident: Incident, batch_key: str = "") -> Incident:
        """The incident as it is kept, with its number; `batch_key` is of a batch that belongs to it from now on."""
        row = {name: getattr(incident, name) for name in Incident.__dataclass_fields__ if name not in _DERIVED}
        row |= {"alert": _json_text(incident.alert), "told": _json_text(incident.told)}
        if incident.number:
            self._connection.execute(sa.update(_INCIDENTS).where(_INCIDENTS.c.number == incident.number).values(row))
        else:
            inserted = self._connection.execute(sa.insert(_INCIDENTS).values(row).returning(_INCIDENTS.c.number))
            incident = replace(incident, number=inserted.scalar_one())
        if batch_key:
            link = {"incident": incident.number, "batch_key": batch_key}
            self._connection.execute(sa.insert(_INCIDENT_BATCHES).values(link))
        return incident

    def judge(self, incident: Incident, judgement: Judgement, by: str, note: str) -> int:
        """Notes what people say of the alarms of an incident's batches, in place of what was said of them before.

        Returns how many of the batches count as nominal now: those of which no other finding stands.
        """
        batches = sa.select(_INCIDENT_BATCHES.c.batch_key).where(_INCIDENT_BATCHES.c.incident == incident.number)
        said_before = _JUDGEMENTS.c.batch_key.in_(batches) & (_JUDGEMENTS.c.finding == incident.kind)
        self._connection.execute(sa.delete(_JUDGEMENTS).where(said_before))
        said = {"finding": incident.kind, "judgement": judgement, "judged_by": by, "note": note, "judged_at": self.now}
        keys = self._connection.execute(batches).scalars()
        self._connection.execute(sa.insert(_JUDGEMENTS), [{"batch_key": key, **said} for key in keys])
        nominal = sa.select(sa.func.count()).select_from(_BATCHES).where(_BATCHES.c.key.in_(batches), _FALSE_ALARM)
        return int(self._connection.execute(nominal).scalar_one())

    def send(self, incident: Incident, entries: Sequence[OutboxEntry]) -> None:
        """Enters messages on an incident into the outbox; each channel gets those of one incident in this order."""
        for entry in entries:
            _enter(self._connection, self.pipeline, incident.key, entry, self.now)

    def place_of(self, batch_key: str) -> datetime:
        """Where a batch stands in the stream: when its images were first claimed, under any model."""
        images = sa.select(_BATCHES.c.manifest_hash).where(_BATCHES.c.key == batch_key).scalar_subquery()
        first = sa.select(sa.func.min(_BATCHES.c.claimed_at)).where(
            (_BATCHES.c.pipeline == self.pipeline) & (_BATCHES.c.manifest_hash == images)
        )
        place: datetime = self._connection.execute(first).scalar_one()
        return place

    def last_batch_at(self) -> datetime | None:
        """When a batch was last finished; None where none was."""
        done = (_BATCHES.c.pipeline == self.pipeline) & (_BATCHES.c.status == "done")
        return self._connection.execute(sa.select(sa.func.max(_BATCHES.c.finished_at)).where(done)).scalar()

    def given_up(self, attempts: int) -> tuple[str, ...]:
        """Names of batches begun at least so often and never finished, since a run of the pipeline last ended well."""
        begun = (_BATCHES.c.pipeline == self.pipeline) & (_BATCHES.c.status == "claimed")
        begun &= _BATCHES.c.attempts >= attempts
        if self.watch.good_run_at is not None:
            begun &= _BATCHES.c.renewed_at > self.watch.good_run_at
        rows = self._connection.execute(sa.select(_BATCHES).where(begun).order_by(_BATCHES.c.renewed_at)).all()
        return tuple(row.batch for row in rows if not self._alive(row.owner, row.renewed_at))

    def note(self, watch: Watch) -> None:
        """Keeps how the pipeline's runs went."""
        values = {name: getattr(watch, name) for name in Watch.__dataclass_fields__}
        self._connection.execute(sa.update(_WATCHES).where(_WATCHES.c.pipeline == self.pipeline).values(values))

    def _incidents(self, where: sa.ColumnElement[bool]) -> tuple[Incident, ...]:
        ours = (_INCIDENTS.c.pipeline == self.pipeline) & where
        rows = self._connection.execute(_JUDGED_INCIDENTS.where(ours).order_by(_INCIDENTS.c.number)).all()
        return tuple(map(_incident, rows))


def open_ledger(workspace: Path, environment: Mapping[str, str]) -> Ledger:
    """The ledger in the workspace's folder, or the one that RECONWATCH_LEDGER_URL names."""
    workspace.mkdir(parents=True, exist_ok=True)
    return Ledger.open(environment.get("RECONWATCH_LEDGER_URL") or f"sqlite:///{workspace / 'ledger.db'}")


class _Time(TypeDecorator[datetime]):
    """Aware times, in UTC, so that SQLite (text without a zone) orders them as PostgreSQL does."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError(f"the ledger takes aware times only, not {value.isoformat()}")
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


class _Words(TypeDecorator[str]):
    """Text that any database takes; file names that are no UTF-8 stand escaped."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else _storable(value)


_METADATA = sa.MetaData()
_META = sa.Table(
    "meta",
    _METADATA,
    sa.Column("key", _Words, primary_key=True),
    sa.Column("value", _Words, nullable=False),
)
_BATCHES = sa.Table(
    "batches",
    _METADATA,
    sa.Column("key", _Words, primary_key=True),
    sa.Column("pipeline", _Words, nullable=False),
    sa.Column("batch", _Words, nullable=False),
    sa.Column("manifest_hash", _Words, nullable=False),
    sa.Column("model_version", _Words, nullable=False),
    sa.Column("calibration_version", _Words, nullable=False),
    sa.Column("status", _Words, nullable=False),  # claimed, done
    sa.Column("owner", _Words, nullable=False),
    sa.Column("claimed_at", _Time, nullable=False),
    sa.Column("renewed_at", _Time, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("finished_at", _Time),
    sa.Column("run_id", _Words),
    sa.Column("alarm", sa.Boolean),
    sa.Column("n_scored", sa.Integer),
    sa.Column("n_flagged", sa.Integer),
    sa.Column("n_unreadable", sa.Integer),
    sa.Column("verdict", _Words),
    sa.Index("batches_by_finish", "pipeline", "finished_at"),
    sa.Index("batches_by_manifest", "pipeline", "manifest_hash"),
)
_OUTBOX = sa.Table(
    "outbox",
    _METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("dedupe_key", _Words, nullable=False),
    sa.Column("pipeline", _Words, nullable=False),
    sa.Column("batch_key", _Words, nullable=False),
    sa.Column("channel", _Words, nullable=False),
    sa.Column("payload", _Words, nullable=False),
    sa.Column("created_at", _Time, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("last_error", _Words),
    sa.Column("next_attempt_at", _Time, nullable=False),
    sa.Column("sender", _Words, nullable=False),
    sa.Column("sender_since", _Time),
    sa.Column("delivered_at", _Time),
    sa.UniqueConstraint("dedupe_key", "channel"),
    sa.Index("outbox_due", "delivered_at", "next_attempt_at"),
)
_STREAMS = sa.Table(
    "streams",
    _METADATA,
    sa.Column("pipeline", _Words, primary_key=True),
    sa.Column("calibration_version", _Words, primary_key=True),
    sa.Column("calibration", sa.Integer, nullable=False),
    sa.Column("state", _Words, nullable=False),
    sa.UniqueConstraint("pipeline", "calibration"),
)
_EARLIER = _OUTBOX.alias()
_NEXT_OF_ITS_MATTER = ~sa.exists().where(
    _EARLIER.c.batch_key == _OUTBOX.c.batch_key,
    _EARLIER.c.channel == _OUTBOX.c.channel,
    _EARLIER.c.delivered_at.is_(None),
    _EARLIER.c.id < _OUTBOX.c.id,
)
_OUTBOX_BY_MATTER = sa.Index("outbox_by_matter", _OUTBOX.c.batch_key, _OUTBOX.c.channel)
_FINGERPRINTS = sa.Table(
    "fingerprints",
    _METADATA,
    sa.Column("pipeline", _Words, primary_key=True),
    sa.Column("batch", _Words, primary_key=True),
    sa.Column("stat_hash", _Words, primary_key=True),
    sa.Column("manifest_hash", _Words, nullable=False),
)
_POINTS = sa.Table(
    "points",
    _METADATA,
    sa.Column("pipeline", _Words, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("batch_key", _Words, sa.ForeignKey("batches.key"), nullable=False, unique=True),
    sa.Column("numbers", _Words, nullable=False),
)
_MONITORS = sa.Table(
    "monitors",
    _METADATA,
    sa.Column("pipeline", _Words, primary_key=True),
    sa.Column("run_id", _Words, nullable=False),
    sa.Column("shown", sa.Integer, nullable=False),
)
_WATCHES = sa.Table(
    "watches",
    _METADATA,
    sa.Column("pipeline", _Words, primary_key=True),
    sa.Column("turns", sa.Integer, nullable=False),  # whoever adds one has the pipeline's incidents to itself
    sa.Column("since", _Time, nullable=False),
    sa.Column("last_run_at", _Time),
    sa.Column("good_run_at", _Time),
    sa.Column("failed_runs", sa.Integer, nullable=False),
    sa.Column("failure", _Words),
)
_INCIDENTS = sa.Table(
    "incidents",
    _METADATA,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("key", _Words, nullable=False, unique=True),
    sa.Column("pipeline", _Words, nullable=False),
    sa.Column("kind", _Words, nullable=False),
    sa.Column("severity", _Words, nullable=False),
    sa.Column("alert", _Words, nullable=False),
    sa.Column("opened_at", _Time, nullable=False),
    sa.Column("first_place", _Time, nullable=False),
    sa.Column("last_place", _Time, nullable=False),
    sa.Column("last_alarm_at", _Time, nullable=False),
    sa.Column("batches", sa.Integer, nullable=False),
    sa.Column("clean", sa.Integer, nullable=False),
    sa.Column("told", _Words, nullable=False),
    sa.Column("escalated", sa.Boolean, nullable=False),
    sa.Column("spoken_at", _Time),
    sa.Column("reminders", sa.Integer, nullable=False),
    sa.Column("acknowledged_at", _Time),
    sa.Column("acknowledged_by", _Words),
    sa.Column("comment", _Words),
    sa.Column("closed_at", _Time),
    sa.Column("closed_by", _Words),
    sa.Index("incidents_by_pipeline", "pipeline", "kind", "closed_at", "last_place"),
)
_OPEN = _INCIDENTS.c.closed_at.is_(None)
sa.Index(  # two at once of a kind cannot be, whatever happens
    "incidents_open", _INCIDENTS.c.pipeline, _INCIDENTS.c.kind, unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN
)
_INCIDENT_BATCHES = sa.Table(
    "incident_batches",
    _METADATA,
    sa.Column("incident", sa.Integer, sa.ForeignKey("incidents.number"), primary_key=True),
    sa.Column("batch_key", _Words, sa.ForeignKey("batches.key"), primary_key=True),
)
_INCIDENTS_OF_A_BATCH = sa.Index("incident_batches_by_batch", _INCIDENT_BATCHES.c.batch_key)
_JUDGEMENTS = sa.Table(  # whoever judges batches, and however: one word on each finding of each, the last
    "judgements",
    _METADATA,
    sa.Column("batch_key", _Words, sa.ForeignKey("batches.key"), primary_key=True),
    sa.Column("finding", _Words, primary_key=True),  # the kind of its incident
    sa.Column("judgement", _Words, nullable=False),  # false alarm, true alarm
    sa.Column("judged_by", _Words, nullable=False),
    sa.Column("note", _Words, nullable=False),
    sa.Column("judged_at", _Time, nullable=False),
)
_FALSE = _JUDGEMENTS.c.judgement == "false alarm"
_TRUE_ALARM = sa.exists().where(
    _JUDGEMENTS.c.judgement == "true alarm", _JUDGEMENTS.c.batch_key == _BATCHES.c.key
)  # also of a batch that raised no alarm: it was missed
_FINDING_THAT_STANDS = sa.exists().where(
    _INCIDENT_BATCHES.c.batch_key == _BATCHES.c.key,
    _INCIDENT_BATCHES.c.incident == _INCIDENTS.c.number,
    ~sa.exists().where(
        _FALSE,
        _JUDGEMENTS.c.batch_key == _INCIDENT_BATCHES.c.batch_key,
        _JUDGEMENTS.c.finding == _INCIDENTS.c.kind,
    ),
)
_FALSE_ALARM = sa.exists().where(_FALSE, _JUDGEMENTS.c.batch_key == _BATCHES.c.key) & ~_FINDING_THAT_STANDS
_RECORDS = sa.select(_BATCHES, _FALSE_ALARM.label("false_alarm"))
_WORST_WORD = (
    sa.select(sa.func.max(_JUDGEMENTS.c.judgement))  # "true alarm" where that was said of any batch
    .join(_INCIDENT_BATCHES, _INCIDENT_BATCHES.c.batch_key == _JUDGEMENTS.c.batch_key)
    .where(_INCIDENT_BATCHES.c.incident == _INCIDENTS.c.number, _JUDGEMENTS.c.finding == _INCIDENTS.c.kind)
)
_JUDGED_INCIDENTS = sa.select(_INCIDENTS, _WORST_WORD.scalar_subquery().label("judgement"))

_LABELS = sa.Table(
    "labels",
    _METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("pipeline", _Words, nullable=False),
    sa.Column("batch_key", _Words, sa.ForeignKey("batches.key"), nullable=False),
    sa.Column("batch", _Words, nullable=False),
    sa.Column("uri", _Words, nullable=False),
    sa.Column("verdict", _Words, nullable=False),
    sa.Column("comment", _Words, nullable=False),
    sa.Column("reviewer", _Words, nullable=False),
    sa.Column("labelled_at", _Time, nullable=False),
    sa.Column("way", _Words, nullable=False),
    sa.Column("score", sa.Float),
    sa.Column("threshold", sa.Float, nullable=False),
    sa.Column("flagged", sa.Boolean, nullable=False),
    sa.Column("audit", sa.Boolean, nullable=False),
    sa.UniqueConstraint("batch_key", "uri", "reviewer", "way", "labelled_at"),
    sa.Index("labels_by_pipeline", "pipeline", "labelled_at"),
)
_QUEUES = sa.Table(
    "review_queues",
    _METADATA,
    sa.Column("batch_key", _Words, sa.ForeignKey("batches.key"), primary_key=True),
    sa.Column("queue", _Words, nullable=False),
    sa.Column("made_at", _Time, nullable=False),
)

_DERIVED = {"number", "judgement"}  # of an incident's row: the database gives them
_UNSENT: dict[str, Any] = {"sender": "", "sender_since": None}


def _held_by(claim: Claim) -> sa.ColumnElement[bool]:
    return (_BATCHES.c.key == claim.key) & (_BATCHES.c.owner == claim.owner) & (_BATCHES.c.status == "claimed")


def _nominal(pipeline: str, calibration_version: str) -> sa.ColumnElement[bool]:
    ours = (_BATCHES.c.pipeline == pipeline) & (_BATCHES.c.calibration_version == calibration_version)
    done = ours & (_BATCHES.c.status == "done")
    return done & (_BATCHES.c.alarm.is_(False) | _FALSE_ALARM) & ~_TRUE_ALARM


def _seen(pipeline: str, batch: str, stat_hash: str) -> sa.ColumnElement[bool]:
    columns = _FINGERPRINTS.c
    return (columns.pipeline == pipeline) & (columns.batch == batch) & (columns.stat_hash == stat_hash)


def _stream_of(pipeline: str, calibration_version: str) -> sa.ColumnElement[bool]:
    return (_STREAMS.c.pipeline == pipeline) & (_STREAMS.c.calibration_version == calibration_version)


def _calibrations(pipeline: str) -> sa.Select[Any]:
    return sa.select(sa.func.count()).select_from(_STREAMS).where(_STREAMS.c.pipeline == pipeline)


def _lost(claim: Claim) -> LostClaim:
    return LostClaim(
        f"batch '{claim.batch}' of pipeline '{claim.pipeline}' is no longer ours: another process took it over; "
        "nothing of this attempt was recorded"
    )


def _enter(connection: sa.Connection, pipeline: str, about: str, alert: OutboxEntry, now: datetime) -> None:
    _insert_once(
        connection,
        _OUTBOX,
        dedupe_key=alert.dedupe_key,
        channel=alert.channel,
        pipeline=pipeline,
        batch_key=about,
        payload=_json_text(alert.payload),
        created_at=now,
        next_attempt_at=now,
        attempts=0,
        **_UNSENT,
    )


def _followed(connection: sa.Connection, claim: Claim, follow: FollowStream) -> Sequence[OutboxEntry]:
    """Takes the stream of the claim's calibration one batch further; other processes wait until the transaction ends.

    SQLite lets one transaction write at a time, and finishing the batch was a write; a server locks the row.
    """
    version = sa.select(_BATCHES.c.calibration_version).where(_BATCHES.c.key == claim.key)
    calibration_version = connection.execute(version).scalar_one()
    ours = _stream_of(claim.pipeline, calibration_version)
    row = {"pipeline": claim.pipeline, "calibration_version": calibration_version, "state": ""}
    while (held := connection.execute(sa.select(_STREAMS).where(ours).with_for_update()).one_or_none()) is None:
        number = connection.execute(_calibrations(claim.pipeline)).scalar_one() + 1
        _insert_once(connection, _STREAMS, **row, calibration=number)
    state, alerts = follow(held.calibration, held.state or None)
    connection.execute(sa.update(_STREAMS).where(ours).values(state=state))
    return alerts


def _number_earlier(connection: sa.Connection) -> None:
    """Gives numbers to the batches of a ledger from before there were points."""
    if connection.execute(sa.select(_POINTS.c.number).limit(1)).first() is not None:
        return
    done = sa.select(_BATCHES.c.pipeline, _BATCHES.c.key).where(_BATCHES.c.status == "done")
    last = Counter[str]()
    for pipeline, key in connection.execute(done.order_by(_BATCHES.c.finished_at, _BATCHES.c.key)).all():
        last[pipeline] += 1
        row = {"pipeline": pipeline, "number": last[pipeline], "batch_key": key, "numbers": "{}"}
        connection.execute(sa.insert(_POINTS).values(row))


def _add_point(connection: sa.Connection, claim: Claim, values: Mapping[str, float | None]) -> None:
    """Gives the batch the next number; where another process takes it at the same time, the one after."""
    last = sa.select(sa.func.coalesce(sa.func.max(_POINTS.c.number), 0)).where(_POINTS.c.pipeline == claim.pipeline)
    row = {"pipeline": claim.pipeline, "batch_key": claim.key, "numbers": _json_text(values)}
    while not _insert_once(connection, _POINTS, **row, number=connection.execute(last).scalar_one() + 1):
        pass


def _insert_once(connection: sa.Connection, table: sa.Table, **row: Any) -> bool:
    """Whether the row was not there yet and is now; the rest of the transaction stands either way."""
    try:
        with connection.begin_nested():
            connection.execute(sa.insert(table).values(row))
    except IntegrityError:
        return False
    return True


def _ways_of(label: Label) -> tuple[tuple[str, ...], ...]:
    """The keys of what a person said of an image: by this way, and by any."""
    return (*label.image, label.reviewer, label.way), (*label.image, label.reviewer)


def _record(row: sa.Row[Any]) -> BatchRecord:
    names = [name for name in BatchRecord.__dataclass_fields__ if name != "verdict"]
    return BatchRecord(**{name: row._mapping[name] for name in names}, verdict=json.loads(row.verdict))


def _point(row: sa.Row[Any]) -> Point:
    return Point(row.number, _record(row), json.loads(row.numbers))


def _pending(row: sa.Row[Any]) -> PendingAlert:
    names = [name for name in PendingAlert.__dataclass_fields__ if name != "payload"]
    return PendingAlert(**{name: row._mapping[name] for name in names}, payload=json.loads(row.payload))


def _incident(row: sa.Row[Any]) -> Incident:
    values = {name: row._mapping[name] for name in Incident.__dataclass_fields__}
    return Incident(**values | {"alert": json.loads(row.alert), "told": tuple(json.loads(row.told))})


def _json_text(value: Any) -> str:
    return json.dumps(plain(value), sort_keys=True, allow_nan=False)


def _storable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _parsed(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
        parsed.get_dialect()
    except ArgumentError as error:
        unknown = "names a database that is not known" if isinstance(error, NoSuchModuleError) else "cannot be read"
        raise InputError(
            f"the ledger's URL {unknown}: write it as sqlite:////path/ledger.db "
            "or postgresql+psycopg://user:password@host/name"
        ) from None
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise InputError(f"the ledger {url} would be lost with its process: name a file, sqlite:////path/ledger.db")
    return parsed


def _engine_of(url: sa.URL) -> sa.Engine:
    try:
        engine = sa.create_engine(url, pool_pre_ping=True, hide_parameters=True)
    except ModuleNotFoundError as error:
        raise InputError(f"the ledger {_shown(url)} needs the Python package '{error.name}': install it") from error
    if url.get_backend_name() == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
    return engine


def _close(engines: Mapping[int, sa.Engine]) -> None:
    if getpid() in engines:
        engines[getpid()].dispose()


def _prepare_sqlite(connection: Any, _entry: object) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.close()


@contextmanager
def _creation_lock(url: sa.URL) -> Iterator[None]:
    """Creation by one process at a time, where the ledger is a file; a server sees to it by itself."""
    try:
        with _file_lock(url):
            yield
    except Timeout as error:
        raise InputError(
            f"the ledger {_shown(url)} is being created by another process since a minute: end it and try again"
        ) from error
    except OSError as error:
        raise InputError(
            f"the ledger {_shown(url)} cannot be created ({error}): make its folder writable, or name another"
        ) from error


def _file_lock(url: sa.URL) -> AbstractContextManager[Any]:
    if url.get_backend_name() != "sqlite":
        return nullcontext()
    path = Path(str(url.database))
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{path}.lock", timeout=CREATION_TIMEOUT)


def _shown(url: sa.URL) -> str:
    return url.render_as_string(hide_password=True)
