"""`reconwatch alert list`, `ack` and `close`, and `reconwatch watchdog`, as people and schedulers call them."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from ae_models.monitoring import BatchVerdict
from flows.alerts import Alert
from flows.cli import main
from flows.config import load
from flows.ledger import Claim, Ledger, open_ledger
from flows.watchdog import after_batch

NOON = datetime(2024, 5, 17, 12, tzinfo=UTC)
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two pipelines, one of which had an alarming batch with two findings at noon of a day long ago."""
    data = {"nominal": "images"}
    pipelines = {
        "tiles": {"data": data, "incidents": {"remind_every": None}},
        "steel": {"data": data, "monitor": {"expect_batch_every": "2h"}},
    }
    path = tmp_path / "pipelines.yaml"
    path.write_text(yaml.safe_dump({"pipelines": pipelines}), encoding="utf-8")
    settings = load(path, {})
    settings.workspace.mkdir()
    ledger = Ledger.open(f"sqlite:///{settings.workspace / 'ledger.db'}", lambda: NOON)
    claim = ledger.claim("tiles", "lot-7", "images", "3", "5")
    assert isinstance(claim, Claim)
    verdict = BatchVerdict(90, 7, 9, 0.9, 5, 1e-9, 1e-9, 0.01, 0.01, "defects and unreadable", "critical")
    alert = Alert("tiles", "lot-7", {}, "7 of 90 images are flagged.", ("a.png",), None, claim.key)
    counts: dict[str, Any] = {"n_scored": 90, "n_flagged": 7, "n_unreadable": 9}
    settle = after_batch(settings.pipeline("tiles"), claim.key, verdict, alert)
    ledger.finish(claim, run_id="run", verdict={}, alarm=True, settle=settle, **counts)
    with ledger.incidents.book("steel"):
        pass  # heard of at noon
    return path


@pytest.fixture
def call(path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Call:
    """Runs `reconwatch ARGUMENTS` on them; its exit code, output, and errors with what the log channel was told."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        caplog.clear()
        with pytest.raises(SystemExit) as caught:
            main([*arguments, "--config", str(path)])
        code = caught.value.code
        assert isinstance(code, int)
        out, err = capfd.readouterr()
        return code, out, err + caplog.text

    return run


def document(outcome: tuple[int, str, str]) -> Any:
    return json.loads(outcome[1])


class TestList:
    """`reconwatch alert list`."""

    def test_open_incidents_are_listed(self, call: Call) -> None:
        """A line an incident, the newest first, with its number, which the other commands take."""
        code, out, _ = call("alert", "list")
        lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
        assert code == 0
        assert lines == [
            ["2", "tiles", "unreadable", "critical", "1", "lot-7", "2024-05-17 12:00 UTC", "open"],
            ["1", "tiles", "defects", "critical", "1", "lot-7", "2024-05-17 12:00 UTC", "open"],
        ]

    def test_as_json(self, call: Call) -> None:
        """Every field, for other programs."""
        first = document(call("alert", "list", "--json"))[-1]
        assert (first["number"], first["kind"], first["batches"], first["acknowledged_by"]) == (1, "defects", 1, None)
        assert datetime.fromisoformat(first["opened_at"]) == NOON

    def test_of_one_pipeline(self, call: Call) -> None:
        """Another pipeline's are left out; a name that is none is wrong input."""
        assert call("alert", "list", "steel")[1] == "No incident is open.\n"
        code, _, err = call("alert", "list", "stel")
        assert code == 2
        assert "no pipeline 'stel'" in err

    def test_those_that_are_over(self, call: Call) -> None:
        """They are listed with --all alone, with who closed them."""
        call("alert", "close", "1", "--by", "anna")
        assert [incident["number"] for incident in document(call("alert", "list", "--json"))] == [2]
        assert [incident["closed_by"] for incident in document(call("alert", "list", "--all", "--json"))] == [
            None,
            "anna",
        ]
        assert "by anna" in call("alert", "list", "--all")[1]


class TestAcknowledge:
    """`reconwatch alert ack`."""

    def test_it_is_noted_and_told(self, call: Call) -> None:
        """Who and why is kept, and the others hear of it at once."""
        code, out, err = call("alert", "ack", "1", "--by", "anna", "--comment", "the lamp")
        assert (code, out) == (0, "Acknowledged by anna: incident 1 of tiles (defects).\n")
        assert "reconwatch: incident 1 of tiles (defects) is acknowledged by anna." in err
        assert "acknowledged by anna: the lamp" in call("alert", "list")[1]

    def test_by_default_it_is_whoever_calls(self, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
        """The user's name of the system."""
        monkeypatch.setenv("LOGNAME", "berta")
        assert call("alert", "ack", "1")[1].startswith("Acknowledged by berta:")

    def test_a_number_that_is_none(self, call: Call) -> None:
        """Wrong input, with those that there are."""
        code, out, err = call("alert", "ack", "9")
        assert (code, out) == (2, "")
        assert "there is no incident 9 (open are: 2, 1): 'reconwatch alert list --all' shows all" in err


class TestClose:
    """`reconwatch alert close`."""

    def test_it_is_closed_and_told(self, call: Call) -> None:
        """A second time there is nothing to do, which is wrong input."""
        code, out, err = call("alert", "close", "1", "--by", "anna")
        assert (code, out) == (0, "Closed by anna: incident 1 of tiles (defects).\n")
        assert "reconwatch: incident 1 of tiles (defects) is over. anna closed it." in err
        code, _, err = call("alert", "close", "1")
        assert code == 2
        assert "incident 1 of tiles (defects) is over: there is nothing to do" in err

    def test_a_false_alarm_is_called_so(self, call: Call) -> None:
        """It is told and listed with its reason, and how many of its batches count as nominal."""
        code, out, err = call("alert", "close", "1", "--false-alarm", "--by", "anna", "--comment", "a reflection")
        assert (code, out) == (
            0,
            "Closed as a false alarm, as anna says: incident 1 of tiles (defects). Batches of it that count as "
            "nominal from now on: 0 of 1; the others alarmed for something else too, which nobody called false.\n",
        )
        assert "anna closed it as a false alarm. The comment on it: a reflection." in err
        out = call("alert", "close", "2", "--false-alarm", "--by", "anna")[1]
        assert out == (
            "Closed as a false alarm, as anna says: incident 2 of tiles (unreadable). Batches of it that count as "
            "nominal from now on: 1 of 1.\n"
        )
        listed = document(call("alert", "list", "--all", "--json"))
        assert [incident["judgement"] for incident in listed] == ["false alarm", "false alarm"]
        table = " ".join(call("alert", "list", "--all")[1].replace("│", " ").split())
        assert "a false alarm: a reflection" in table

    def test_what_is_over_can_be_judged_and_judged_again(self, call: Call) -> None:
        """The last word counts; nothing more is told."""
        call("alert", "close", "1", "--by", "anna")
        assert call("alert", "close", "1", "--false-alarm", "--by", "berta")[2] == ""
        out = call("alert", "close", "1", "--true-alarm", "--by", "berta")[1]
        assert out == "Closed as a true alarm, as berta says: incident 1 of tiles (defects).\n"
        (first,) = [each for each in document(call("alert", "list", "--all", "--json")) if each["number"] == 1]
        assert (first["closed_by"], first["judgement"]) == ("anna", "true alarm")


class TestWatchdog:
    """`reconwatch watchdog`."""

    def test_it_notices_what_did_not_happen(self, call: Call) -> None:
        """The pipeline that got no batch in time has an incident now, which is told; nothing is asked of MLflow."""
        code, out, err = call("watchdog", "--json")
        assert (code, document((code, out, err))[0]["kind"]) == (0, "missing")
        assert "reconwatch: no batch of steel came in time." in err

    def test_it_delivers_what_waits(self, call: Call, path: Path) -> None:
        """Nothing is left in the outbox, and a second time there is nothing to say."""
        call("watchdog")
        ledger = open_ledger(load(path, {}).workspace, {})
        assert ledger.outbox.pending() == ()
        assert call("watchdog")[2] == ""

    def test_a_script_can_ask_whether_something_is_open(self, call: Call) -> None:
        """With --fail-on-alarm the exit code is 3 while an incident is open."""
        assert call("watchdog", "--fail-on-alarm")[0] == 3
        for number in ("1", "2", "3"):
            call("alert", "close", number)
        assert call("watchdog", "--fail-on-alarm")[:2] == (0, "No incident is open.\n")

    def test_it_needs_no_mlflow(self, call: Call, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It does its work where the tracking server is down."""
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        assert call("watchdog")[0] == 0


def test_reminders_come_from_the_watchdog(call: Call, path: Path) -> None:
    """An incident that nobody acknowledged is told again when its time has come."""
    call("watchdog")
    document = yaml.safe_load(path.read_text())
    document["pipelines"]["tiles"]["incidents"] = {"remind_every": "1d"}
    path.write_text(yaml.safe_dump(document))
    days = round((datetime.now(UTC) - NOON) / timedelta(days=1))
    assert f"incident 1 of tiles (defects) is open for {days} days, and nobody acknowledged it" in call("watchdog")[2]
