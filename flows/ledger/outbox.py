"""Alerts on their way."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from flows.ledger.database import Database, insert_once
from flows.ledger.tables import OUTBOX
from flows.ledger.values import json_text

LONGEST_WAIT = timedelta(days=1)  # more than any delay between two attempts: what waits longer was put off by a clock


@dataclass(frozen=True)
class OutboxEntry:
    """An alert to be sent through one channel; entered once for a dedupe key and channel, however often it is given."""

    channel: str
    dedupe_key: str
    payload: Mapping[str, Any]


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


_UNSENT: dict[str, Any] = {"sender": "", "sender_since": None}
_EARLIER = OUTBOX.alias()
_NEXT_OF_ITS_MATTER = ~sa.exists().where(
    _EARLIER.c.batch_key == OUTBOX.c.batch_key,
    _EARLIER.c.channel == OUTBOX.c.channel,
    _EARLIER.c.delivered_at.is_(None),
    _EARLIER.c.id < OUTBOX.c.id,
)


@dataclass(frozen=True)
class Outbox:
    """The alerts that were not delivered yet."""

    _database: Database

    def pending(
        self, now: datetime | None = None, after: int = 0, limit: int | None = None, tried: bool | None = None
    ) -> tuple[PendingAlert, ...]:
        """The alerts that are due at `now` (all undelivered ones where it is None) with an id above `after`, by id;
        only those that failed before, or only those that did not, where `tried` says so."""
        pending = OUTBOX.c.delivered_at.is_(None) & (OUTBOX.c.id > after)
        if tried is not None:
            pending &= (OUTBOX.c.attempts > 0) == tried
        if now is not None:
            clock_was_ahead = OUTBOX.c.next_attempt_at > now + LONGEST_WAIT
            pending &= (OUTBOX.c.next_attempt_at <= now) | clock_was_ahead
        return tuple(
            map(_pending, self._database.rows(sa.select(OUTBOX).where(pending).order_by(OUTBOX.c.id).limit(limit)))
        )

    def waiting_channels(self) -> tuple[WaitingChannel, ...]:
        """The channels for which alerts wait, by pipeline and name."""
        failed = sa.func.max(sa.case((OUTBOX.c.last_error.is_not(None), OUTBOX.c.id)))
        since = sa.func.min(OUTBOX.c.created_at)
        columns = (OUTBOX.c.pipeline, OUTBOX.c.channel, sa.func.count().label("waiting"), since.label("since"))
        waiting = sa.select(*columns, failed.label("failed")).where(OUTBOX.c.delivered_at.is_(None))
        waiting = waiting.group_by(OUTBOX.c.pipeline, OUTBOX.c.channel)
        each = waiting.subquery()
        query = sa.select(each, OUTBOX.c.last_error).outerjoin(OUTBOX, OUTBOX.c.id == each.c.failed)
        rows = self._database.rows(query.order_by(each.c.pipeline, each.c.channel))
        return tuple(WaitingChannel(row.pipeline, row.channel, row.waiting, row.since, row.last_error) for row in rows)

    def claim(self, alert: PendingAlert) -> PendingAlert | None:
        """The alert as ours to send; None where a living process sends it, or it changed since it was read, or one
        before it on the same matter has not reached that channel yet."""
        if alert.sender_since is not None and self._database.alive(alert.sender, alert.sender_since):
            return None
        owner, now = self._database.process().owner(), self._database.clock()
        unchanged = (OUTBOX.c.id == alert.id) & OUTBOX.c.delivered_at.is_(None)
        unchanged &= (OUTBOX.c.attempts == alert.attempts) & (OUTBOX.c.sender == alert.sender)
        if not self._database.changed(OUTBOX, unchanged & _NEXT_OF_ITS_MATTER, sender=owner, sender_since=now):
            return None
        return replace(alert, sender=owner, sender_since=now)

    def mark_delivered(self, alert: PendingAlert) -> None:
        """Writes that an alert arrived; it is never sent again."""
        self._database.changed(OUTBOX, OUTBOX.c.id == alert.id, delivered_at=self._database.clock(), **_UNSENT)

    def mark_failed(self, alert: PendingAlert, error: str, next_attempt_at: datetime) -> None:
        """Writes why an alert that we claimed was not delivered, and when to try again."""
        ours = (OUTBOX.c.id == alert.id) & (OUTBOX.c.sender == alert.sender)
        failed = {"attempts": alert.attempts + 1, "last_error": error, "next_attempt_at": next_attempt_at}
        self._database.changed(OUTBOX, ours, **failed, **_UNSENT)


def enter(connection: sa.Connection, pipeline: str, about: str, alert: OutboxEntry, now: datetime) -> None:
    """Enters an alert about a batch or an incident, once for its dedupe key and channel."""
    insert_once(
        connection,
        OUTBOX,
        dedupe_key=alert.dedupe_key,
        channel=alert.channel,
        pipeline=pipeline,
        batch_key=about,
        payload=json_text(alert.payload),
        created_at=now,
        next_attempt_at=now,
        attempts=0,
        **_UNSENT,
    )


def _pending(row: sa.Row[Any]) -> PendingAlert:
    names = [name for name in PendingAlert.__dataclass_fields__ if name != "payload"]
    return PendingAlert(**{name: row._mapping[name] for name in names}, payload=json.loads(row.payload))
