"""The ledger as one thing: its batches are claimed and finished here, and its parts tell and keep the rest."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa

from flows.ledger.batches import Batches, count_nominal
from flows.ledger.claims import AlreadyDone, Busy, Claim, batch_key, held_by, lost
from flows.ledger.database import LET_GO, Database
from flows.ledger.incidents import IncidentBook, Incidents, begun_book
from flows.ledger.manifests import Manifests
from flows.ledger.outbox import Outbox, OutboxEntry, enter
from flows.ledger.reviews import Labels, Queues
from flows.ledger.schema import bring_up_to_date
from flows.ledger.streams import FollowStream, Streams, followed
from flows.ledger.tables import BATCHES
from flows.ledger.timeline import Timeline, add_point
from flows.ledger.values import json_text, utc_now
from flows.processes import Process, this_process
from flows.waiting import DELAYS, delays_in


@dataclass(frozen=True)
class Ledger:
    """The ledger in one database; get it from `Ledger.open`. Every method is one transaction."""

    _database: Database
    batches: Batches
    streams: Streams
    timeline: Timeline
    incidents: Incidents
    labels: Labels
    queues: Queues
    manifests: Manifests
    outbox: Outbox

    @classmethod
    def open(
        cls,
        url: str,
        clock: Callable[[], datetime] = utc_now,
        process: Callable[[], Process] = this_process,
        delays: Sequence[float] = DELAYS,
    ) -> Self:
        """The ledger at `url` (`sqlite:////absolute/path.db`, `postgresql+psycopg://...`), created where there is none,
        and brought up to date where an older reconwatch wrote it. A server that is away is waited for by the delays, at
        any time.

        Raises InputError where the database cannot be used or was written by a newer reconwatch.
        """
        database = Database.of(url, clock, process, delays)
        bring_up_to_date(database)
        return cls(
            database,
            batches=Batches(database),
            streams=Streams(database),
            timeline=Timeline(database),
            incidents=Incidents(database),
            labels=Labels(database),
            queues=Queues(database),
            manifests=Manifests(database),
            outbox=Outbox(database),
        )

    def close(self) -> None:
        """Closes the connections now and not when the ledger is let go of; a later call opens new ones."""
        self._database.close()

    def claim(
        self,
        pipeline: str,
        batch: str,
        manifest_hash: str,
        model_version: str,
        calibration_version: str,
        again: bool = False,
    ) -> Claim | AlreadyDone | Busy:
        """A Claim where the batch is ours now, AlreadyDone where it is finished, Busy where a living process has it.

        Images are decided once, whichever version comes first. With `again`, another version may decide them too.
        """
        versions = {"model_version": model_version, "calibration_version": calibration_version}
        while True:
            decided = self._decided(pipeline, manifest_hash)
            ours = [row for row in decided if all(row._mapping[name] == versions[name] for name in versions)]
            if ours or (decided and not again):
                first = (ours or decided)[0]
                return AlreadyDone(first.key, first.run_id, first.finished_at, first.model_version)
            key = batch_key(pipeline, manifest_hash, *(versions.values() if decided else ()))
            answer = self._claimed(key, pipeline=pipeline, batch=batch, manifest_hash=manifest_hash, **versions)
            if answer is not None:
                return answer

    def _decided(self, pipeline: str, manifest_hash: str) -> Sequence[sa.Row[Any]]:
        """The finished batches of these images, the first decision first."""
        done = (BATCHES.c.pipeline == pipeline) & (BATCHES.c.manifest_hash == manifest_hash)
        done &= BATCHES.c.status == "done"
        found = self._database.rows(
            sa.select(BATCHES).where(done)
        )  # few; asked to sort them, SQLite takes another index
        return sorted(found, key=lambda row: (row.finished_at, row.key))

    def _claimed(self, key: str, **ours: str) -> Claim | Busy | None:
        """The batch of that key as ours, or whose it is; None where that changed meanwhile."""
        owner, now = self._database.process().owner(), self._database.clock()
        claimed = {"status": "claimed", "owner": owner, "claimed_at": now, "renewed_at": now, "attempts": 1}
        if self._database.inserted(BATCHES, key=key, **ours, **claimed):
            return Claim(key, ours["pipeline"], ours["batch"], owner, attempt=1)
        held = self._database.rows(sa.select(BATCHES).where(BATCHES.c.key == key))[0]
        if held.status == "done":
            return None
        if self._database.alive(held.owner, held.renewed_at):
            return Busy(key, held.owner, held.renewed_at)
        unchanged = (BATCHES.c.owner == held.owner) & (BATCHES.c.renewed_at == held.renewed_at)
        unchanged &= (BATCHES.c.key == key) & (BATCHES.c.status == "claimed")
        attempts = held.attempts + 1
        if self._database.changed(BATCHES, unchanged, **ours, owner=owner, attempts=attempts, renewed_at=now):
            return Claim(key, ours["pipeline"], ours["batch"], owner, attempts)
        return None

    def renew(self, claim: Claim) -> None:
        """Says that the claim's owner still works on it; another host waits 10 minutes from here. Raises LostClaim."""
        if not self._database.changed(BATCHES, held_by(claim), renewed_at=self._database.clock()):
            raise lost(claim)

    def release(self, claim: Claim) -> None:
        """Gives a claim back, so that anyone may take the batch at once; nothing where it was lost or finished.

        Where that cannot be written, this process may take it, and others once this process has ended.
        """
        try:
            self._database.changed(BATCHES, held_by(claim), owner="")
        except BaseException:
            LET_GO.add(claim.owner)
            raise

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
        settle: Callable[[IncidentBook], None] | None = None,
        point: Callable[[], Mapping[str, float | None]] = dict,
    ) -> None:
        """Writes that the batch is done, its alerts, what `stream` makes of its calibration's stream, what `settle`
        does to the pipeline's incidents, and then the `point` of the time line, in one transaction; raises LostClaim
        (and writes nothing) where another process has taken the batch over meanwhile."""
        now = self._database.clock()
        done = sa.update(BATCHES).where(held_by(claim))
        done = done.values(status="done", run_id=run_id, finished_at=now, verdict=json_text(verdict), alarm=alarm)
        done = done.values(n_scored=n_scored, n_flagged=n_flagged, n_unreadable=n_unreadable)
        with self._database.transaction() as connection:
            if connection.execute(done).rowcount == 0:
                raise lost(claim)
            raised = () if stream is None else followed(connection, claim, stream)
            for alert in (*alerts, *raised):
                enter(connection, claim.pipeline, claim.key, alert, now)
            if settle is not None:
                settle(begun_book(self._database, connection, claim.pipeline, now))
            if not alarm:
                count_nominal(connection, claim.key)
            add_point(connection, claim, point())


def ledger_url(workspace: Path, environment: Mapping[str, str]) -> str:
    """The address of the ledger: that of RECONWATCH_LEDGER_URL, or else of a file in the workspace's folder."""
    return environment.get("RECONWATCH_LEDGER_URL") or f"sqlite:///{workspace / 'ledger.db'}"


def open_ledger(workspace: Path, environment: Mapping[str, str]) -> Ledger:
    """The ledger in the workspace's folder, or the one that RECONWATCH_LEDGER_URL names."""
    workspace.mkdir(parents=True, exist_ok=True)
    return Ledger.open(ledger_url(workspace, environment), delays=delays_in(environment))
