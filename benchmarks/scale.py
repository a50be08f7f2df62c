"""What a fleet costs: the ledger's work for one batch with a long history over a short one.

    python -m benchmarks.scale [--batches 100000] [--rounds 200] [--ledger URL] [--output scale.json]

Ledgers are filled with finished batches as scoring leaves them: points, streams, incidents, delivered alerts and queues
belong to them. Then one batch more is taken through everything that `reconwatch score` asks of the ledger, on each
ledger in turn, so that a machine that is busy is busy for all of them. Of each the medians are told, of the time and of
this process's own (a PostgreSQL server has its own beside it), and their ratios to the ledger with the short history.
Without --ledger they are SQLite files; with it they are databases of that PostgreSQL server, which are made and dropped
again (the URL names the database to begin from).
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from ae_models.monitoring import BatchVerdict
from flows.alerts import Alert
from flows.channels import send_due
from flows.config import PipelineConfig, Settings
from flows.ledger import Claim, Ledger
from flows.ledger.tables import (
    BATCHES,
    FINGERPRINTS,
    INCIDENT_BATCHES,
    INCIDENTS,
    MONITORS,
    OUTBOX,
    POINTS,
    QUEUES,
    STREAMS,
    TALLIES,
    WATCHES,
)
from flows.review_queue import NEWEST
from flows.verdicts import NOMINAL_BATCHES
from flows.watchdog import after_batch, begin_run, end_run, look_after

ALARMS = 50  # every so many batches one alarms: an incident of its own, and an alert that was delivered
KEPT = 100  # queues of a pipeline that are still there
AT_ONCE = 2000  # rows that are inserted together
STATE = json.dumps({"evidence": "some", "filler": "x" * 400})
AIM = 1.1


def pipelines(count: int) -> Settings:
    """The settings of so many pipelines, each with an inbox and expectations."""
    configs = [
        PipelineConfig.model_validate(
            {
                "name": f"line-{number:04d}",
                "data": {"nominal": "nominal", "inbox": "inbox"},
                "monitor": {"expect_batch_every": "365d", "expect_run_every": "365d"},
            }
        )
        for number in range(count)
    ]
    folder = Path("/nowhere")
    return Settings(
        path=folder, workspace=folder, dashboard="http://127.0.0.1:5000", pipelines={c.name: c for c in configs}
    )


def fill(engine: sa.Engine, names: Sequence[str], batches: int) -> None:
    """So many finished batches, of these pipelines in turn, with everything that belongs to them."""
    start = datetime.now(UTC) - timedelta(days=30)
    each = -(-batches // len(names))

    def place(number: int) -> tuple[str, int, datetime, str]:
        """Its pipeline, its number there, when it was finished, and its key."""
        name = names[number % len(names)]
        return name, number // len(names) + 1, start + timedelta(days=29) * number / batches, f"key-{number:08d}"

    rows = [(number, *place(number)) for number in range(batches)]
    alarms = [row for row in rows if row[0] % ALARMS == ALARMS - 1]
    with engine.begin() as connection:
        _insert(connection, BATCHES, (_batch(*row) for row in rows))
        _insert(connection, POINTS, (_point(*row) for row in rows))
        _insert(connection, FINGERPRINTS, (_fingerprint(*row) for row in rows))
        _insert(connection, QUEUES, (_queue(*row, kept=row[2] > each - KEPT) for row in rows))
        _insert(connection, INCIDENTS, (_incident(*row) for row in alarms))
        _insert(connection, OUTBOX, (_message(*row) for row in alarms))
        _insert(connection, INCIDENT_BATCHES, ({"incident": row[0] + 1, "batch_key": row[4]} for row in alarms))
        for table, more in (
            (STREAMS, {"calibration": 1, "state": STATE}),
            (TALLIES, {"nominal": each, "false_alarms": 0}),
        ):
            _insert(connection, table, ({"pipeline": name, "calibration_version": "c1", **more} for name in names))
        _insert(connection, MONITORS, ({"pipeline": name, "run_id": "monitor", "shown": each} for name in names))
        watched = {"turns": 1, "since": start, "last_run_at": datetime.now(UTC), "good_run_at": datetime.now(UTC)}
        _insert(connection, WATCHES, ({"pipeline": name, **watched, "failed_runs": 0} for name in names))
        if connection.dialect.name == "postgresql":  # which does not number what comes with a number
            for table, column in ((INCIDENTS, "number"), (OUTBOX, "id")):
                sequence = sa.func.pg_get_serial_sequence(table.name, column)
                connection.execute(sa.select(sa.func.setval(sequence, batches + 1)))
            connection.exec_driver_sql("ANALYZE")  # as it does by itself after a while; SQLite never does


def _insert(connection: sa.Connection, table: sa.Table, rows: Iterator[dict[str, Any]]) -> None:
    while part := list(islice(rows, AT_ONCE)):
        connection.execute(sa.insert(table), part)


def _batch(place: int, name: str, number: int, at: datetime, key: str) -> dict[str, Any]:
    counts = {"n_scored": 100, "n_flagged": 1, "n_unreadable": 0, "alarm": place % ALARMS == ALARMS - 1}
    versions = {"model_version": "1", "calibration_version": "c1", "manifest_hash": f"images-{key}"}
    times = {"claimed_at": at, "renewed_at": at, "finished_at": at, "owner": "", "attempts": 1, "status": "done"}
    text = json.dumps({"severity": "none", "filler": "x" * 400})
    return {
        "key": key,
        "pipeline": name,
        "batch": f"lot-{number}",
        "run_id": key,
        "verdict": text,
        **counts,
        **versions,
        **times,
    }


def _point(place: int, name: str, number: int, at: datetime, key: str) -> dict[str, Any]:
    return {"pipeline": name, "number": number, "batch_key": key, "numbers": json.dumps({"median_score": 0.5})}


def _fingerprint(place: int, name: str, number: int, at: datetime, key: str) -> dict[str, Any]:
    return {"pipeline": name, "batch": f"lot-{number}", "stat_hash": f"stat-{key}", "manifest_hash": f"images-{key}"}


def _queue(place: int, name: str, number: int, at: datetime, key: str, kept: bool) -> dict[str, Any]:
    return {"batch_key": key, "queue": f"queue-{key}" if kept else "", "made_at": at, "pipeline": name}


def _incident(place: int, name: str, number: int, at: datetime, key: str) -> dict[str, Any]:
    times = dict.fromkeys(("opened_at", "first_place", "last_place", "last_alarm_at", "closed_at"), at)
    counted = {"batches": 1, "clean": 3, "reminders": 0, "escalated": False, "told": "[]", "alert": "{}"}
    named = {"number": place + 1, "key": f"incident-{key}", "pipeline": name, "kind": "defects", "severity": "warning"}
    return {**named, **times, **counted}


def _message(place: int, name: str, number: int, at: datetime, key: str) -> dict[str, Any]:
    named = {"dedupe_key": f"incident-{key}/opened", "channel": "log", "pipeline": name, "payload": "{}"}
    times = {"created_at": at, "next_attempt_at": at, "delivered_at": at, "attempts": 0, "sender": ""}
    return {"id": place + 1, "batch_key": f"incident-{key}", **named, **times}


def one_batch(ledger: Ledger, settings: Settings, name: str, number: int, alarm: bool = False) -> None:
    """Everything that scoring asks of the ledger for a batch that is new, beginning and end of the run included."""
    pipeline, images = settings.pipelines[name], f"images-new-{number}"
    begin_run(ledger, name)
    send_due(ledger, settings)
    ledger.queues.batches_without(name, NEWEST)
    ledger.queues.count(name)
    if ledger.manifests.known(name, f"new-{number}", images) is None:
        ledger.manifests.remember(name, f"new-{number}", images, images)
    assert not ledger.batches.is_done(name, images)
    ledger.batches.last_named(name, f"new-{number}")
    claim = ledger.claim(name, f"new-{number}", images, "1", "c1")
    assert isinstance(claim, Claim)
    ledger.batches.nominal_counts(name, "c1", NOMINAL_BATCHES)
    ledger.streams.of(name, "c1")
    ledger.streams.calibrations(name)
    ledger.batches.history(name, 1)
    ledger.timeline.monitor_run(name)
    ledger.renew(claim)
    verdict = _verdict(alarm)
    ledger.finish(
        claim,
        run_id="run",
        verdict=asdict(verdict),
        alarm=alarm,
        n_scored=100,
        n_flagged=verdict.flagged,
        n_unreadable=0,
        stream=None if alarm else lambda _, state: (state or STATE, ()),
        settle=after_batch(pipeline, claim.key, verdict, Alert(name, claim.batch, {}, "", (), None, claim.key)),
        point=lambda: {"median_score": 0.5},
    )
    ledger.batches.finished(claim.key)
    ledger.queues.note(claim.key, f"queue-new-{number}")
    shown = ledger.timeline.monitor_run(name)
    points = ledger.timeline.points(name, shown.shown if shown else 0)
    ledger.timeline.mark_shown(name, "monitor", points[-1].number)
    end_run(ledger, name, "")
    look_after(ledger, settings)
    send_due(ledger, settings)


def looks(ledger: Ledger, name: str) -> None:
    """What `reconwatch status` asks of the ledger for a pipeline, and once for all of them."""
    ledger.outbox.waiting_channels()
    ledger.batches.history(name, 1)
    ledger.batches.count(name)
    ledger.incidents.newest(name)
    ledger.batches.false_alarms(name, "c1")


def _verdict(alarm: bool) -> BatchVerdict:
    return BatchVerdict(
        scored=100,
        flagged=40 if alarm else 1,
        unreadable=0,
        expected_flagged=1.0,
        alarms_from=8,
        flagged_p_value=1e-9 if alarm else 0.6,
        unreadable_p_value=1.0,
        false_alarm_rate=0.01,
        unreadable_rate=0.001,
        diagnosis="defects" if alarm else "none",
        severity="critical" if alarm else "none",
    )


@dataclass
class Side:
    """A ledger with a history: what it is called, and what each round took, in seconds; `processor` of a batch."""

    name: str
    ledger: Ledger
    settings: Settings
    batch: list[float]
    status: list[float]
    processor: list[float]

    def take(self, number: int) -> None:
        """One batch more, of one pipeline after the other, and a look at how that one stands."""
        names = list(self.settings.pipelines)
        name, start, processor = names[number * 7919 % len(names)], perf_counter(), process_time()
        one_batch(self.ledger, self.settings, name, number)
        self.processor.append(process_time() - processor)
        self.batch.append(perf_counter() - start)
        start = perf_counter()
        looks(self.ledger, name)
        self.status.append(perf_counter() - start)


@dataclass(frozen=True)
class Cost:
    """The medians of one side in milliseconds, and their ratios to the short history."""

    name: str
    batch_ms: float
    batch_ratio: float
    processor_ms: float
    processor_ratio: float
    status_ms: float
    status_ratio: float


@contextmanager
def ledgers(url: str | None) -> Iterator[Any]:
    """A maker of empty ledgers: the URL of the next one."""
    if url is None:
        with tempfile.TemporaryDirectory() as folder:
            numbers = iter(range(1000))
            yield lambda: f"sqlite:///{Path(folder) / f'ledger-{next(numbers)}.db'}"
        return
    server, made = sa.create_engine(url, isolation_level="AUTOCOMMIT"), list[str]()

    def new() -> str:
        made.append(f"reconwatch_scale_{len(made)}")
        with server.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {made[-1]}")
        return sa.make_url(url).set(database=made[-1]).render_as_string(hide_password=False)

    try:
        yield new
    finally:
        with server.connect() as connection:
            for name in made:
                connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
        server.dispose()


def side(name: str, url: str, count: int, batches: int) -> Side:
    """A ledger with so many batches of so many pipelines."""
    settings, ledger = pipelines(count), Ledger.open(url)
    engine = sa.create_engine(url)
    fill(engine, list(settings.pipelines), batches)
    engine.dispose()
    return Side(name, ledger, settings, [], [], [])


def measure(batches: int, rounds: int, url: str | None) -> list[Cost]:
    """The cost of a batch, and of a look, with a short history and with a long one, in one pipeline and in many."""
    shapes = [("1 pipeline", 1, 100), ("1 pipeline", 1, batches), ("1,000 pipelines", 1000, 1000)]
    shapes.append(("1,000 pipelines", 1000, batches))
    with ledgers(url) as new:
        sides = [side(f"{name}, {total:,} batches", new(), count, total) for name, count, total in shapes]
        for number in range(rounds):
            for each in sides if number % 2 else reversed(sides):
                each.take(number)
        for each in sides:
            each.ledger.close()
    costs = []
    for short, long in (sides[:2], sides[2:]):
        for each in (short, long):
            numbers = list[float]()
            for now, then in (
                (each.batch, short.batch),
                (each.processor, short.processor),
                (each.status, short.status),
            ):
                numbers += [round(median(now) * 1000, 2), round(median(now) / median(then), 3)]
            costs.append(Cost(each.name, *numbers))
    return costs


def table(costs: Sequence[Cost]) -> Table:
    """The costs, a ledger a row."""
    columns = ("a batch, ms", f"ratio (aim {AIM})", "processor, ms", "ratio", "status, ms", "ratio")
    shown = Table("ledger", *columns, title="A fleet")
    for cost in costs:
        _, *numbers = astuple(cost)
        shown.add_row(cost.name, *(f"{number:.2f}" for number in numbers))
    return shown


def main() -> None:
    """Print the table, and write it where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--ledger", help="the URL of a PostgreSQL database; SQLite files where none is named")
    parser.add_argument("--output", type=Path, help="a JSON file for the rows")
    arguments = parser.parse_args()
    costs = measure(arguments.batches, arguments.rounds, arguments.ledger)
    Console(width=120).print(table(costs))
    if arguments.output:
        arguments.output.write_text(json.dumps([asdict(cost) for cost in costs], indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
