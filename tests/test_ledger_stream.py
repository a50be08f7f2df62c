"""The ledger follows each calibration's stream of batches: every finished batch is in it once, whatever dies."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from flows.ledger import Claim, FollowStream, Ledger, LostClaim, OutboxEntry, StreamRecord

ROOT = Path(__file__).parents[1]
COUNT = """
import json, sys
from flows.ledger import Claim, Ledger

def follow(calibration, state):
    names = json.loads(state) if state else []
    return json.dumps([*names, batch]), ()

ledger = Ledger.open(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[3])):
    batch = f"{sys.argv[2]}-{number}"
    claim = ledger.claim("tiles", batch, batch, "3", "calibration")
    assert isinstance(claim, Claim)
    ledger.finish(claim, run_id="run", verdict={}, alarm=False, n_scored=9, n_flagged=0, n_unreadable=0, stream=follow)
"""


class Crash(BaseException):
    """The process ends here."""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture
def ledger(url: str) -> Ledger:
    return Ledger.open(url)


def claimed(ledger: Ledger, batch: str, calibration: str = "first", pipeline: str = "tiles") -> Claim:
    claim = ledger.claim(pipeline, batch, batch, "3", calibration)
    assert isinstance(claim, Claim)
    return claim


def finish(
    ledger: Ledger, claim: Claim, stream: FollowStream | None = None, *, flagged: int = 2, alarm: bool = False
) -> None:
    ledger.finish(
        claim, run_id="run", verdict={}, alarm=alarm, n_scored=9, n_flagged=flagged, n_unreadable=1, stream=stream
    )


def adding(batch: str, alerts: Sequence[OutboxEntry] = ()) -> FollowStream:
    """A step that keeps the calibration's number and the names of the batches so far."""

    def follow(calibration: int, state: str | None) -> tuple[str, Sequence[OutboxEntry]]:
        before = json.loads(state) if state else [calibration]
        return json.dumps([*before, batch]), alerts

    return follow


def at(hour: int) -> datetime:
    return datetime(2024, 5, 17, hour, tzinfo=UTC)


def seen(ledger: Ledger, calibration: str = "first", pipeline: str = "tiles") -> list[int | str]:
    """What `adding` has kept."""
    record = ledger.streams.of(pipeline, calibration)
    assert record is not None
    kept: list[int | str] = json.loads(record.state)
    return kept


def test_no_stream_before_the_first_batch(ledger: Ledger) -> None:
    """A calibration that decided nothing yet has no stream, and no number."""
    assert ledger.streams.of("tiles", "first") is None
    assert ledger.streams.calibrations("tiles") == 0


def test_each_batch_takes_the_stream_one_step_further(ledger: Ledger) -> None:
    """The step gets what the last one left, and its result is kept."""
    for batch in ("a", "b", "c"):
        finish(ledger, claimed(ledger, batch), adding(batch))
    assert ledger.streams.of("tiles", "first") == StreamRecord(1, '[1, "a", "b", "c"]')


def test_a_batch_without_a_step_leaves_the_stream(ledger: Ledger) -> None:
    """What is not counted changes nothing."""
    finish(ledger, claimed(ledger, "a"), adding("a"))
    finish(ledger, claimed(ledger, "b"))
    assert seen(ledger) == [1, "a"]


def test_a_new_calibration_has_a_stream_of_its_own_and_the_next_number(ledger: Ledger) -> None:
    """Streams do not mix, each has its number within the pipeline, and the old one goes on where it was."""
    for batch, calibration in (("a", "first"), ("b", "second"), ("c", "first")):
        finish(ledger, claimed(ledger, batch, calibration), adding(batch))
    finish(ledger, claimed(ledger, "d", "first", "wood"), adding("d"))
    assert seen(ledger, "first") == [1, "a", "c"]
    assert seen(ledger, "second") == [2, "b"]
    assert seen(ledger, "first", "wood") == [1, "d"]
    assert ledger.streams.calibrations("tiles") == 2


def test_an_alert_of_the_stream_is_sent_with_the_batch(ledger: Ledger) -> None:
    """What a step raises is in the outbox once the batch is finished."""
    entry = OutboxEntry("log", "stream-1", {"text": "It got worse."})
    finish(ledger, claimed(ledger, "a"), adding("a", [entry]))
    (alert,) = ledger.outbox.pending()
    assert (alert.dedupe_key, alert.payload) == ("stream-1", {"text": "It got worse."})


def test_a_crash_within_the_transaction_writes_nothing(ledger: Ledger) -> None:
    """Batch, stream and alerts stay as they were, and the next attempt counts the batch once."""
    finish(ledger, claimed(ledger, "a"), adding("a"))
    claim = claimed(ledger, "b")

    def crash(calibration: int, state: str | None) -> tuple[str, Sequence[OutboxEntry]]:
        raise Crash

    with pytest.raises(Crash):
        finish(ledger, claim, crash)
    assert (seen(ledger), ledger.batches.count("tiles"), ledger.outbox.pending()) == ([1, "a"], 1, ())
    ledger.release(claim)
    finish(ledger, claimed(ledger, "b"), adding("b"))
    assert seen(ledger) == [1, "a", "b"]


def test_a_lost_claim_counts_nothing(ledger: Ledger) -> None:
    """Whoever lost the batch to another process does not count it a second time."""
    claim = claimed(ledger, "a")
    ledger.release(claim)
    finish(ledger, claimed(ledger, "a"), adding("a"))
    with pytest.raises(LostClaim):
        finish(ledger, claim, adding("a"))
    assert seen(ledger) == [1, "a"]


def test_two_processes_at_once_lose_no_batch(url: str, ledger: Ledger) -> None:
    """Both finish their batches of one stream at the same time: every one is in it, once."""
    each = 25
    command = [sys.executable, "-c", COUNT, url]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [*command, name, str(each)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        for name in ("left", "right")
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.communicate("\n")
        assert process.returncode == 0
    record = ledger.streams.of("tiles", "calibration")
    assert record is not None
    assert sorted(json.loads(record.state)) == sorted(f"{name}-{n}" for name in ("left", "right") for n in range(each))


def test_counts_of_nominal_batches(ledger: Ledger) -> None:
    """Of one calibration's batches that raised no alarm, the newest first, and as many as are asked for."""
    for batch, flagged, alarm in (("a", 1, False), ("b", 9, True), ("c", 3, False)):
        finish(ledger, claimed(ledger, batch), flagged=flagged, alarm=alarm)
    finish(ledger, claimed(ledger, "d", "second"), flagged=4)
    assert sorted(ledger.batches.nominal_counts("tiles", "first", limit=10)) == [(1, 9), (3, 9)]
    assert ledger.batches.nominal_counts("tiles", "first", limit=1) == ((3, 9),)


@pytest.mark.parametrize(
    ("since", "until", "expected"), [(None, None, "abc"), (1, None, "bc"), (None, 1, "a"), (1, 2, "b"), (2, 1, "")]
)
def test_decided_batches_of_a_time(url: str, since: int | None, until: int | None, expected: str) -> None:
    """From `since` on and before `until`, the oldest first."""
    for number, batch in enumerate("abc"):
        ledger = Ledger.open(url, partial(at, number))
        finish(ledger, claimed(ledger, batch))
    found = ledger.batches.decided("tiles", None if since is None else at(since), None if until is None else at(until))
    assert "".join(record.batch for record in found) == expected
