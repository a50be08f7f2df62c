"""Clocks that jump, and time zones that change: no batch is skipped or repeated, and no message waits for a year."""

import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from logging import getLogger
from pathlib import Path

import pytest

from flows.alerts import deliver
from flows.config import load
from flows.inbox import due_batches
from flows.ledger import AlreadyDone, Busy, Claim, Ledger, OutboxEntry
from flows.processes import Process
from flows.progress import LogProgress
from tests.faulty import Project, done
from tests.stand_ins import Clock

NOON = datetime(2024, 10, 27, 0, 30, tzinfo=UTC)  # half an hour before summer time ends in Berlin
HOUR, YEAR = timedelta(hours=1), timedelta(days=365)
PROGRESS = LogProgress(getLogger("quiet"))

pytestmark = pytest.mark.faults


@pytest.fixture
def clock() -> Clock:
    return Clock(NOON)


@pytest.fixture
def zone() -> Iterator[Callable[[str], None]]:
    """A setter of the time zone of this process, which gets its own back."""
    before = os.environ.get("TZ")

    def change(name: str) -> None:
        os.environ["TZ"] = name
        time.tzset()

    yield change
    os.environ.pop("TZ") if before is None else change(before)
    time.tzset()


def decided(ledger: Ledger, batch: str, *alerts: OutboxEntry) -> None:
    claim = ledger.claim("tiles", batch, f"images of {batch}", "1", "1")
    assert isinstance(claim, Claim)
    ledger.finish(claim, run_id="run", verdict={}, alarm=False, n_scored=9, n_flagged=0, n_unreadable=0, alerts=alerts)


@pytest.mark.parametrize("jump", [-YEAR, -HOUR, HOUR, YEAR])
def test_a_jump_between_runs_repeats_and_skips_nothing(database_url: str, clock: Clock, jump: timedelta) -> None:
    """What was decided stays decided, what comes after is decided, and batches keep the order of their numbers."""
    ledger = Ledger.open(database_url, clock)
    decided(ledger, "before")
    clock.now += jump
    decided(ledger, "after")
    clock.now -= jump
    for name in ("before", "after"):
        assert isinstance(ledger.claim("tiles", name, f"images of {name}", "1", "1"), AlreadyDone)
    assert [point.batch.batch for point in ledger.timeline.points("tiles")] == ["before", "after"]


@pytest.mark.parametrize("jump", [-YEAR, -HOUR, HOUR, YEAR])
def test_a_claim_of_a_living_process_survives_every_jump(database_url: str, clock: Clock, jump: timedelta) -> None:
    """Whether a process of this host lives is no question of the clock."""
    ledger = Ledger.open(database_url, clock)
    assert isinstance(ledger.claim("tiles", "lot-7", "images", "1", "1"), Claim)
    clock.now += jump
    assert isinstance(ledger.claim("tiles", "lot-7", "images", "1", "1"), Busy)


def test_a_claim_of_another_host_does_not_hold_until_its_wrong_clock_is_right(database_url: str, clock: Clock) -> None:
    """A host whose clock is a year ahead claims a batch and dies: others do not wait for a year."""
    ledger = Ledger.open(database_url, clock)
    clock.now += YEAR
    there = Ledger.open(database_url, clock, lambda: Process("another-host", 1, "then"))
    assert isinstance(there.claim("tiles", "lot-7", "images", "1", "1"), Claim)
    clock.now -= YEAR
    claim = ledger.claim("tiles", "lot-7", "images", "1", "1")
    assert isinstance(claim, Claim)
    assert claim.attempt == 2


def test_an_alert_that_failed_while_the_clock_was_ahead_is_sent_at_once(database_url: str, clock: Clock) -> None:
    """Its next attempt lies in a year; no delay is as long, so it is due."""
    ledger = Ledger.open(database_url, clock)
    decided(ledger, "before", OutboxEntry("hook", "key", {"batch": "before"}))
    clock.now += YEAR
    (alert,) = ledger.outbox.pending(clock.now)
    claimed = ledger.outbox.claim(alert)
    assert claimed is not None
    ledger.outbox.mark_failed(claimed, "nobody answers", clock.now + timedelta(seconds=10))
    clock.now -= YEAR
    sent: list[str] = []

    class Hook:
        name = "hook"

        def send(self, payload: object) -> None:
            sent.append(str(payload))

    assert deliver(ledger, {"tiles": {"hook": Hook()}}, clock).delivered == 1
    assert len(sent) == 1


def test_a_batch_decided_by_a_clock_that_was_ahead_hides_no_silence(database_url: str, clock: Clock) -> None:
    """One batch is dated next year: that none comes any more is noticed all the same."""
    ledger = Ledger.open(database_url, clock)
    decided(ledger, "before")
    clock.now += YEAR
    decided(ledger, "ahead")
    clock.now += HOUR - YEAR
    with ledger.incidents.book("tiles") as book:
        assert book.last_batch_at() == NOON


@pytest.mark.parametrize("name", ["Europe/Berlin", "America/St_Johns", "Pacific/Kiritimati", "Asia/Kathmandu"])
def test_processes_of_different_time_zones_share_a_ledger(
    database_url: str, clock: Clock, zone: Callable[[str], None], name: str
) -> None:
    """What one wrote is the same instant to the other, in the hour too that the end of summer time has twice."""
    zone(name)
    for minutes in range(0, 120, 30):  # over the end of summer time
        clock.now = NOON + timedelta(minutes=minutes)
        ledger = Ledger.open(database_url, clock)
        decided(ledger, f"lot-{minutes}")
        ledger.close()
    zone("UTC")
    there = Ledger.open(database_url, clock)
    assert [record.finished_at for record in there.batches.decided("tiles")] == [
        NOON + timedelta(minutes=minutes) for minutes in range(0, 120, 30)
    ]
    assert isinstance(there.claim("tiles", "lot-30", "images of lot-30", "1", "1"), AlreadyDone)


@pytest.mark.filterwarnings("ignore::UserWarning:mlflow", "ignore::DeprecationWarning")
def test_processes_of_different_time_zones_share_an_inbox(
    project: Callable[..., Path], tmp_path: Path, small_images: Callable[[Path, int, int], list[Path]]
) -> None:
    """Of each run TZ is another one, from the last hours of a day to the first: each batch is scored once, by the first
    run that finds it complete, whatever the hour was when it was written."""
    inbox = {"path": "data/inbox", "settled": "1s"}
    path = project(tmp_path, data={"nominal": "data/nominal", "inbox": inbox})
    done(Project(path, {"TZ": "Pacific/Kiritimati"}), "train")  # UTC+14
    done(Project(path, {"TZ": "America/St_Johns"}), "calibrate")
    scored = [done(Project(path, {"TZ": "Pacific/Pago_Pago"}), "score")]  # UTC-11
    for number, zone in enumerate(("Pacific/Kiritimati", "Asia/Kathmandu", "Pacific/Pago_Pago")):
        small_images(tmp_path / "data" / "inbox" / f"new-{number}", 12, 10 + number)
        time.sleep(1.1)  # until it is settled
        scored += [done(Project(path, {"TZ": zone}), "score"), done(Project(path, {"TZ": "UTC"}), "score")]
    assert scored == [["1-nominal", "2-damaged", "3-unreadable"], ["new-0"], [], ["new-1"], [], ["new-2"], []]
    names = ["1-nominal", "2-damaged", "3-unreadable", "new-0", "new-1", "new-2"]
    ledger = Ledger.open(f"sqlite:///{tmp_path / '.reconwatch' / 'ledger.db'}")
    assert [point.batch.batch for point in ledger.timeline.points("tiles")] == names
    ledger.close()


def test_a_batch_that_processes_die_of_keeps_no_other_one_waiting(
    project: Callable[..., Path], tmp_path: Path, clock: Clock
) -> None:
    """A decoder that ends its process would do so at every run: after three the batch is left for last."""
    settings = load(project(tmp_path), {})
    pipeline = settings.pipeline("tiles")
    url = f"sqlite:///{tmp_path / 'other.db'}"
    dead = Ledger.open(url, clock, lambda: Process("another-host", 1, "then"))
    first = due_batches(pipeline, dead, PROGRESS)
    assert [batch.id for batch in first] == ["1-nominal", "2-damaged", "3-unreadable"]
    for _ in range(3):
        assert isinstance(dead.claim("tiles", "1-nominal", first[0].manifest_hash(), "1", "1"), Claim)
        clock.now += HOUR
    names = [batch.id for batch in due_batches(pipeline, dead, PROGRESS)]
    assert names == ["2-damaged", "3-unreadable", "1-nominal"]
