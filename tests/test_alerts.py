"""Alerts say what they are, and arrive once at a receiver that looks at their keys, or are kept."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import jsonschema  # type: ignore[import-untyped]  # it has no types
import pytest

from flows.alerts import (
    DELAYS,
    GIVE_UP,
    Alert,
    Channel,
    DeliveryFailed,
    DeliveryReport,
    Kind,
    deliver,
    in_words,
)
from flows.ledger import Claim, Ledger, WaitingChannel
from tests.stand_ins import Clock

NOON = datetime(2024, 5, 17, 12, tzinfo=UTC)
ROOT = Path(__file__).parents[1]
SCHEMA_FILE = ROOT / "flows" / "alert.schema.json"
ALERT = Alert(
    pipeline="tiles",
    batch="lot-7",
    verdict={"severity": "alarm", "p": 0.0001, "counts": {"scored": 90, "flagged": 7}},
    sentences="7 of 90 images are flagged.",
    worst=("tile-03.png", "tile-41.png"),
    run_url="http://127.0.0.1:5000/#/runs/1",
    dedupe_key="tiles/lot-7",
)

DELIVER_AND_STALL = """
import sys, time
from flows.alerts import deliver
from flows.ledger import Ledger

class Stalling:
    name = "ops"
    def send(self, payload):
        print("sending", flush=True)
        time.sleep(600)

deliver(Ledger.open(sys.argv[1]), {"tiles": {"ops": Stalling()}})
"""


@pytest.fixture
def clock() -> Clock:
    return Clock(NOON)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture
def ledger(url: str, clock: Clock) -> Ledger:
    return Ledger.open(url, clock)


def raise_alarm(ledger: Ledger, *names: str, batch: str = "lot-7") -> None:
    alert = Alert("tiles", batch, {}, "It is off.", (), None, f"tiles/{batch}")
    claim = ledger.claim("tiles", batch, f"images of {batch}", "3", "5")
    assert isinstance(claim, Claim)
    ledger.finish(
        claim,
        run_id="run",
        verdict={},
        alarm=True,
        n_scored=9,
        n_flagged=2,
        n_unreadable=1,
        alerts=alert.entries(names),
    )


@dataclass
class Recorder:
    """A channel that keeps what it is given, or fails as it is told."""

    name: str = "ops"
    failure: Exception | None = None
    keys: list[str] = field(default_factory=list)

    def send(self, payload: Mapping[str, Any]) -> None:
        self.keys.append(payload["dedupe_key"])
        if self.failure is not None:
            raise self.failure


def routes(*ways: Channel) -> dict[str, dict[str, Channel]]:
    return {"tiles": {channel.name: channel for channel in ways}}


# What is said


def test_the_payload_is_json_with_a_version() -> None:
    """A receiver gets every field, and the version of the document's form."""
    payload = ALERT.payload()
    assert json.loads(json.dumps(payload, allow_nan=False)) == payload
    assert (payload["schema"], payload["kind"], payload["severity"]) == (1, "alarm", "warning")
    assert payload["incident"] == payload["dedupe_key"] == "tiles/lot-7"
    assert payload["verdict"]["counts"] == {"scored": 90, "flagged": 7}
    assert payload["worst"] == ["tile-03.png", "tile-41.png"]


@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_kind_of_message_is_as_published(kind: Kind) -> None:
    """The payload of each kind, of a batch or of none, holds to flows/alert.schema.json, which names all its keys."""
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    about_none = Alert("tiles", None, {}, "Nothing came.", (), None, "key", kind, "critical", incident="7")
    for alert in (replace(ALERT, kind=kind, run_id="r", picture="worst.png"), about_none):
        jsonschema.Draft202012Validator(schema).validate(alert.payload())
        assert set(alert.payload()) == set(schema["properties"]) == set(schema["required"])


def test_the_title_says_the_kind() -> None:
    """Each kind of message has words of its own, and whoever makes it may put others there."""
    assert len({replace(ALERT, kind=kind).title() for kind in get_args(Kind)}) == len(get_args(Kind))
    assert replace(ALERT, kind="resolved").title() == "reconwatch: an alarm of tiles is over"
    assert replace(ALERT, headline="lots 7 to 9 of tiles are off").title() == "reconwatch: lots 7 to 9 of tiles are off"


def test_the_text_tells_people_what_and_where() -> None:
    """The batch, the finding, the worst images and the pictures, a line each."""
    assert ALERT.text().splitlines() == [
        "reconwatch: batch lot-7 of tiles raised an alarm.",
        "7 of 90 images are flagged.",
        "Worst images: tile-03.png, tile-41.png.",
        "Pictures: http://127.0.0.1:5000/#/runs/1",
    ]


# Delivery


def test_an_alert_is_delivered_once(ledger: Ledger, clock: Clock) -> None:
    """What arrived is not sent by the next pass."""
    raise_alarm(ledger, "ops")
    ops = Recorder()
    assert deliver(ledger, routes(ops), clock) == DeliveryReport(delivered=1)
    assert deliver(ledger, routes(ops), clock) == DeliveryReport()
    assert ops.keys == ["tiles/lot-7"]


def test_what_fails_is_tried_again_after_stated_delays(ledger: Ledger, clock: Clock) -> None:
    """Each failure makes the alert wait longer, up to an hour; it is never dropped."""
    raise_alarm(ledger, "ops")
    ops = Recorder(failure=DeliveryFailed("webhook 'ops' answered 500"))
    for delay in (*DELAYS, DELAYS[-1], DELAYS[-1]):
        report = deliver(ledger, routes(ops), clock)
        assert report.failed == ("the alert on batch 'lot-7' of pipeline 'tiles': webhook 'ops' answered 500",)
        clock.now += delay - timedelta(seconds=1)
        assert deliver(ledger, routes(ops), clock) == DeliveryReport()
        clock.now += timedelta(seconds=1)
    ops.failure = None
    assert deliver(ledger, routes(ops), clock) == DeliveryReport(delivered=1)


def test_a_failing_channel_stops_no_other(ledger: Ledger, clock: Clock) -> None:
    """The other channels get their alert in the same pass, even where one fails in an unforeseen way."""
    raise_alarm(ledger, "broken", "down", "ops")
    broken = Recorder("broken", failure=KeyError("token-s3cr3t"))
    down = Recorder("down", failure=DeliveryFailed("webhook 'down' could not be reached", unreachable=True))
    ops = Recorder()
    report = deliver(ledger, routes(broken, down, ops), clock)
    assert (report.delivered, len(report.failed), len(ops.keys)) == (1, 2, 1)
    assert "channel 'broken' failed with KeyError" in report.failed[0]
    assert "s3cr3t" not in str(report)


def test_an_unreachable_channel_is_waited_for_once_a_pass(ledger: Ledger, clock: Clock) -> None:
    """After one alert timed out, the others of that channel stay due for the next pass."""
    for batch in ("lot-7", "lot-8", "lot-9"):
        raise_alarm(ledger, "ops", batch=batch)
    ops = Recorder(failure=DeliveryFailed("webhook 'ops' gave no answer in time", unreachable=True))
    report = deliver(ledger, routes(ops), clock)
    assert (len(report.failed), report.waiting, len(ops.keys)) == (1, 2, 1)
    ops.failure = None
    assert deliver(ledger, routes(ops), clock).delivered == 2


def test_one_refused_alert_does_not_hold_up_the_others(ledger: Ledger, clock: Clock) -> None:
    """A receiver that answers, though with an error, is sent the rest in the same pass."""
    for batch in ("lot-7", "lot-8", "lot-9"):
        raise_alarm(ledger, "ops", batch=batch)
    ops = Recorder(failure=DeliveryFailed("webhook 'ops' answered 413"))
    assert deliver(ledger, routes(ops), clock).failed == (
        "the alert on batch 'lot-9' of pipeline 'tiles': webhook 'ops' answered 413 (and 2 others)",
    )
    assert len(ops.keys) == 3


def test_a_channel_that_only_fails_is_left_alone_for_the_pass(ledger: Ledger, clock: Clock) -> None:
    """After ten failures in a row the rest of a storm waits, so that a pass ends, and what is said of it is short."""
    for number in range(30):
        raise_alarm(ledger, "ops", batch=f"lot-{number}")
    ops = Recorder(failure=DeliveryFailed("webhook 'ops' answered 500"))
    report = deliver(ledger, routes(ops), clock)
    assert (len(ops.keys), report.waiting, len(report.failed)) == (GIVE_UP, 20, 1)
    assert report.failed[0].endswith("webhook 'ops' answered 500 (and 9 others)")


def test_an_old_storm_keeps_no_new_alert_waiting(ledger: Ledger, clock: Clock) -> None:
    """What was never tried goes before what failed, though that is older."""
    for number in range(GIVE_UP):
        raise_alarm(ledger, "ops", batch=f"old-{number}")
    ops = Recorder(failure=DeliveryFailed("webhook 'ops' answered 500"))
    deliver(ledger, routes(ops), clock)
    clock.now += DELAYS[0]
    raise_alarm(ledger, "ops", batch="new")
    ops.keys.clear()
    deliver(ledger, routes(ops), clock)
    assert ops.keys[0] == "tiles/new"


def test_an_alert_whose_channel_is_gone_is_kept(ledger: Ledger, clock: Clock) -> None:
    """A channel that was taken out of the configuration is reported, and delivers when it is put back."""
    raise_alarm(ledger, "ops")
    assert deliver(ledger, {}, clock).homeless == (
        "1 alert waits for the channel 'ops', which pipeline 'tiles' no longer has: "
        "put it back under alerts to have them delivered",
    )
    assert deliver(ledger, routes(Recorder()), clock).delivered == 1


def test_a_channel_that_is_down_can_be_seen(ledger: Ledger, clock: Clock) -> None:
    """How many alerts wait for it, since when, and why; until they are delivered."""
    ops = Recorder(failure=DeliveryFailed("webhook 'ops' answered 500"))
    for batch in ("lot-7", "lot-8"):
        raise_alarm(ledger, "ops", batch=batch)
        deliver(ledger, routes(ops), clock)
        clock.now += timedelta(hours=1)
    raise_alarm(ledger, "new", batch="lot-9")
    new, down = ledger.outbox.waiting_channels()
    assert new == WaitingChannel("tiles", "new", 1, NOON + timedelta(hours=2), None)
    assert down == WaitingChannel("tiles", "ops", 2, NOON, "webhook 'ops' answered 500")
    assert in_words(new) == "tiles: 1 alert waits for the channel 'new' since 2024-05-17 14:00 UTC, not tried yet"
    assert in_words(down) == (
        "tiles: 2 alerts wait for the channel 'ops' since 2024-05-17 12:00 UTC; webhook 'ops' answered 500"
    )
    ops.failure = None
    deliver(ledger, routes(ops, Recorder("new")), clock)
    assert ledger.outbox.waiting_channels() == ()


def test_more_alerts_than_a_page_are_all_sent(ledger: Ledger, clock: Clock) -> None:
    """A storm is delivered whole, in the order in which it came."""
    batches = [f"lot-{number}" for number in range(102)]
    for batch in batches:
        raise_alarm(ledger, "ops", batch=batch)
    ops = Recorder()
    assert deliver(ledger, routes(ops), clock).delivered == 102
    assert ops.keys == [f"tiles/{batch}" for batch in batches]


def test_two_deliverers_share_the_work(ledger: Ledger, clock: Clock) -> None:
    """Of four that deliver at the same time, each alert is sent by one."""
    for number in range(20):
        raise_alarm(ledger, "ops", batch=f"lot-{number}")
    ops = Recorder()
    threads = [threading.Thread(target=deliver, args=(ledger, routes(ops), clock)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ops.keys) == len(set(ops.keys)) == 20


def test_an_interrupted_delivery_stays_due(ledger: Ledger, clock: Clock) -> None:
    """Ctrl-C while sending leaves the alert to the next pass of the same process."""
    raise_alarm(ledger, "ops")

    class Interrupted(Recorder):
        def send(self, payload: Mapping[str, Any]) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deliver(ledger, routes(Interrupted()), clock)
    assert deliver(ledger, routes(Recorder()), clock).delivered == 1


def test_a_killed_deliverer_loses_no_alert(ledger: Ledger, url: str, clock: Clock) -> None:
    """What a process was sending when it was killed with -9 is sent by the next, with the same key."""
    raise_alarm(ledger, "ops")
    ops, environment = Recorder(), os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", DELIVER_AND_STALL, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "sending\n"
        assert deliver(ledger, routes(ops), clock) == DeliveryReport(), "a living sender's alert is left to it"
        process.send_signal(signal.SIGKILL)
    assert deliver(ledger, routes(ops), clock).delivered == 1
    assert ops.keys == ["tiles/lot-7"]
