"""The ledger numbers finished batches, and knows up to which of them a pipeline's monitor run is complete."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from flows.ledger import Claim, Ledger, MonitorRun

ROOT = Path(__file__).parents[1]
FINISH = """
import sys
from flows.ledger import Claim, Ledger

ledger = Ledger.open(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for number in range(20):
    batch = f"{sys.argv[2]}-{number}"
    claim = ledger.claim("tiles", batch, batch, "3", "calibration")
    assert isinstance(claim, Claim)
    ledger.finish(claim, run_id="run", verdict={}, alarm=False, n_scored=9, n_flagged=0, n_unreadable=0)
"""


class Crash(BaseException):
    """The process ends here."""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture
def ledger(url: str) -> Ledger:
    return Ledger.open(url)


def finish(ledger: Ledger, batch: str, pipeline: str = "tiles", **values: float | None) -> None:
    claim = ledger.claim(pipeline, batch, batch, "3", "calibration")
    assert isinstance(claim, Claim)
    ledger.finish(
        claim, run_id="run", verdict={"a": 1}, alarm=True, n_scored=9, n_flagged=2, n_unreadable=1, point=lambda: values
    )


def numbered(ledger: Ledger, pipeline: str = "tiles", after: int = 0) -> list[tuple[int, str]]:
    return [(point.number, point.batch.batch) for point in ledger.timeline.points(pipeline, after)]


def test_finished_batches_are_numbered_by_pipeline(ledger: Ledger) -> None:
    """In the order in which they were finished, from 1 on."""
    for batch, pipeline in (("b", "tiles"), ("a", "tiles"), ("a", "wood"), ("c", "tiles")):
        finish(ledger, batch, pipeline)
    assert numbered(ledger) == [(1, "b"), (2, "a"), (3, "c")]
    assert numbered(ledger, "wood") == [(1, "a")]
    assert numbered(ledger, after=2) == [(3, "c")]
    assert numbered(ledger, "slate") == []


def test_a_point_holds_the_batch_and_its_values(ledger: Ledger) -> None:
    """What finish was given comes back; what is no number is None."""
    finish(ledger, "a", e_value=1.5, highest_score=None, median_score=float("nan"))
    (point,) = ledger.timeline.points("tiles")
    assert point.values == {"e_value": 1.5, "highest_score": None, "median_score": None}
    assert point.batch == ledger.batches.history("tiles")[0]


def test_a_crash_within_the_transaction_takes_no_number(ledger: Ledger) -> None:
    """Batch and point are written together, or neither is."""

    def crash() -> Mapping[str, float | None]:
        raise Crash

    claim = ledger.claim("tiles", "a", "a", "3", "calibration")
    assert isinstance(claim, Claim)
    with pytest.raises(Crash):
        ledger.finish(claim, run_id="", verdict={}, alarm=False, n_scored=1, n_flagged=0, n_unreadable=0, point=crash)
    assert ledger.timeline.points("tiles") == ()
    assert ledger.batches.history("tiles") == ()


def test_processes_at_once_leave_no_gap_and_share_no_number(url: str, ledger: Ledger) -> None:
    """Each batch of each process has its own number."""
    command = [sys.executable, "-c", FINISH, url]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    processes = [subprocess.Popen([*command, name], cwd=ROOT, **pipes) for name in ("x", "y")]  # type: ignore[call-overload]  # the pipes
    for process in processes:
        assert process.stdout.readline() == b"ready\n"
    for process in processes:
        process.communicate(b"go\n")
    assert [process.returncode for process in processes] == [0, 0]
    assert [number for number, _ in numbered(ledger)] == list(range(1, 41))


def test_one_run_shows_a_pipeline(ledger: Ledger) -> None:
    """The first that is named; a second one is told which."""
    assert ledger.timeline.monitor_run("tiles") is None
    assert ledger.timeline.take_monitor_run("tiles", "first") == MonitorRun("first", 0)
    assert ledger.timeline.take_monitor_run("tiles", "second") == MonitorRun("first", 0)
    assert ledger.timeline.take_monitor_run("wood", "second") == MonitorRun("second", 0)
    assert ledger.timeline.monitor_run("tiles") == MonitorRun("first", 0)


def test_what_is_shown_never_goes_back(ledger: Ledger) -> None:
    """A process that knows of fewer batches, or of another run, changes nothing."""
    ledger.timeline.take_monitor_run("tiles", "first")
    ledger.timeline.mark_shown("tiles", "first", 5)
    ledger.timeline.mark_shown("tiles", "first", 3)
    ledger.timeline.mark_shown("tiles", "another", 9)
    assert ledger.timeline.monitor_run("tiles") == MonitorRun("first", 5)


def test_a_lost_run_is_replaced_once(ledger: Ledger) -> None:
    """The new one begins with the first point; who comes second with the same wish gets it."""
    ledger.timeline.take_monitor_run("tiles", "first")
    ledger.timeline.mark_shown("tiles", "first", 5)
    assert ledger.timeline.take_monitor_run("tiles", "second", "first") == MonitorRun("second", 0)
    assert ledger.timeline.take_monitor_run("tiles", "third", "first") == MonitorRun("second", 0)
