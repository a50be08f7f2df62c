"""An incident is opened, told, reminded of, escalated and closed once, whatever happens in between and whoever dies."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from ae_models.errors import InputError
from ae_models.monitoring import BatchVerdict
from flows import watchdog
from flows.alerts import Alert
from flows.config import PipelineConfig, Settings
from flows.incidents import Incident
from flows.ledger import Claim, Ledger, PendingAlert
from flows.processes import this_process
from tests.stand_ins import Clock

NOON = datetime(2024, 5, 17, 12, tzinfo=UTC)
ROOT = Path(__file__).parents[1]
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
SEVERE = {"name": "pager", "minimum_severity": "critical"}
BOSS = {"name": "boss"}
NUMBERS = count()


def verdict(diagnosis: Any, severity: Any = "warning", scored: int = 90) -> BatchVerdict:
    """A verdict of that diagnosis; `none` is a clean batch. One of fewer than 5 images cannot alarm for defects."""
    severity = "none" if diagnosis == "none" else severity
    alarms_from = 5 if scored >= 5 else None
    return BatchVerdict(scored, 0, 1, 0.9, alarms_from, 0.0001, 0.5, 0.01, 0.01, diagnosis, severity)


@dataclass
class Line:
    """A pipeline whose batches are decided by hand."""

    ledger: Ledger
    clock: Clock
    pipeline: PipelineConfig
    numbers: Iterator[int] = field(default_factory=count)

    def begin(self, name: str | None = None) -> Claim:
        """Takes up a batch."""
        name = name or f"lot-{next(self.numbers)}"
        claim = self.ledger.claim(self.pipeline.name, name, f"images of {name}", "3", "5")
        assert isinstance(claim, Claim)
        return claim

    def finish(
        self,
        claim: Claim,
        diagnosis: str,
        severity: str = "warning",
        taken_at: datetime | None = None,
        scored: int = 90,
    ) -> None:
        """Decides a batch that was taken up."""
        said = verdict(diagnosis, severity, scored)
        alert = Alert(self.pipeline.name, claim.batch, {}, "It is off.", ("a.png",), "http://run", claim.key)
        self.ledger.finish(
            claim,
            run_id="run",
            verdict={},
            alarm=said.alarm,
            n_scored=scored,
            n_flagged=7,
            n_unreadable=1,
            settle=watchdog.after_batch(self.pipeline, claim.key, said, alert, taken_at),
        )

    def batch(self, diagnosis: str, severity: str = "warning", name: str | None = None, **more: Any) -> None:
        """A batch from beginning to end, a minute after the last."""
        self.clock.now += MINUTE
        self.finish(self.begin(name), diagnosis, severity, **more)

    def batches(self, *diagnoses: str) -> None:
        for diagnosis in diagnoses:
            self.batch(diagnosis)

    def wait(self, time: timedelta) -> None:
        """Lets time pass, and the watchdog look after it."""
        self.clock.now += time
        self.look()

    def look(self) -> None:
        watchdog.look_after(self.ledger, self.settings)

    @property
    def settings(self) -> Settings:
        pipelines = {self.pipeline.name: self.pipeline}
        return Settings(path=Path("x"), workspace=Path("x"), dashboard="http://127.0.0.1:5000", pipelines=pipelines)

    def sent(self) -> list[PendingAlert]:
        """Every message of the pipeline, in its order; none is ever delivered here."""
        return [alert for alert in self.ledger.outbox.pending() if alert.pipeline == self.pipeline.name]

    def heard(self, channel: str = "ops") -> list[str]:
        """The kinds of what a channel was sent, in order."""
        return [alert.payload["kind"] for alert in self.sent() if alert.channel == channel]

    def incidents(self) -> tuple[Incident, ...]:
        """Every incident of the pipeline, the oldest first."""
        return self.ledger.incidents.newest(self.pipeline.name, closed=True)[::-1]

    def open(self) -> list[str]:
        """The kinds of the open incidents, the oldest first."""
        return [incident.kind for incident in self.ledger.incidents.newest(self.pipeline.name)][::-1]


def pipeline(
    *channels: Mapping[str, Any], name: str = "tiles", monitor: Mapping[str, Any] | None = None, **rules: Any
) -> PipelineConfig:
    """A pipeline with a channel `ops` and these, and these rules."""
    written = [{"type": "webhook", "url": "http://127.0.0.1:9/", **channel} for channel in ({"name": "ops"}, *channels)]
    return PipelineConfig.model_validate(
        {"name": name, "data": {"nominal": "x"}, "alerts": written, "incidents": rules, "monitor": monitor or {}}
    )


@pytest.fixture
def clock() -> Clock:
    return Clock(NOON)


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Ledger:
    return Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}", clock)


@pytest.fixture
def line(ledger: Ledger, clock: Clock) -> Callable[..., Line]:
    def make(*channels: Mapping[str, Any], **rules: Any) -> Line:
        return Line(ledger, clock, pipeline(*channels, **rules))

    return make


class TestGrouping:
    """Which alarms are one incident."""

    def test_consecutive_alarms_are_one_incident_and_one_message(self, line: Callable[..., Line]) -> None:
        """People hear once of what lasts over many batches, and the incident holds them all."""
        tiles = line()
        tiles.batches("defects", "defects", "none", "defects")
        (incident,) = tiles.incidents()
        assert (incident.kind, incident.batches, incident.closed_at) == ("defects", 3, None)
        assert tiles.heard() == ["alarm"]

    def test_each_kind_is_an_incident_of_its_own(self, line: Callable[..., Line]) -> None:
        """Defects and broken files have other owners: whoever took on the one has not heard of the other."""
        tiles = line()
        tiles.batches("unreadable", "defects and unreadable")
        assert [(incident.kind, incident.batches) for incident in tiles.incidents()] == [
            ("unreadable", 2),
            ("defects", 1),
        ]
        assert tiles.heard() == ["alarm", "alarm"]

    def test_what_is_clean_of_one_kind_may_alarm_for_another(self, line: Callable[..., Line]) -> None:
        """The files are readable again, which closes one incident, while defects go on."""
        tiles = line(close_after=2, cool_down="1s")
        tiles.batches("defects and unreadable", "defects", "defects")
        assert tiles.open() == ["defects"]

    def test_pipelines_do_not_mix(self, ledger: Ledger, clock: Clock) -> None:
        """Another pipeline's clean batches close nothing here."""
        tiles, steel = (Line(ledger, clock, pipeline(name=name, cool_down="1s")) for name in ("tiles", "steel"))
        tiles.batches("defects")
        steel.batches("none", "none", "none", "none")
        assert (tiles.open(), steel.open()) == (["defects"], [])

    def test_with_close_after_0_each_alarming_batch_is_told(self, line: Callable[..., Line]) -> None:
        """Without grouping every alarm is a message, once, and nothing more comes of it."""
        tiles = line(close_after=0)
        tiles.batches("defects", "defects", "none")
        tiles.wait(48 * HOUR)
        assert tiles.heard() == ["alarm", "alarm"]
        assert tiles.open() == []

    def test_grouping_can_be_switched_off_meanwhile(self, ledger: Ledger, clock: Clock) -> None:
        """An incident that is open when close_after becomes 0 ends, and the next batch is told by itself."""
        Line(ledger, clock, pipeline()).batches("defects")
        tiles = Line(ledger, clock, pipeline(close_after=0))
        tiles.batch("defects", name="another")
        assert tiles.heard() == ["alarm", "alarm"]
        assert tiles.open() == []


class TestClosing:
    """When it is over."""

    def test_clean_batches_close_it_once_it_has_cooled_down(self, line: Callable[..., Line]) -> None:
        """Three clean batches in a row, and an hour since the last alarm: then it is over, and people hear so."""
        tiles = line()
        tiles.batches("defects", "none", "none", "none")
        assert tiles.open() == ["defects"]
        tiles.wait(HOUR)
        assert tiles.open() == []
        assert tiles.heard() == ["alarm", "resolved"]

    def test_an_alarm_between_begins_the_count_anew(self, line: Callable[..., Line]) -> None:
        """Three clean batches in a row are needed."""
        tiles = line(cool_down="1s")
        tiles.batches("defects", "none", "none", "defects", "none", "none")
        assert tiles.open() == ["defects"]
        tiles.batches("none")
        assert tiles.open() == []

    def test_a_process_that_wavers_is_one_incident(self, line: Callable[..., Line]) -> None:
        """Alarms that come back within the cool-down are the same matter, and nobody hears "over" in between."""
        tiles = line()
        for _ in range(4):
            tiles.batches("defects", "none", "none", "none", "none")
        assert len(tiles.incidents()) == 1
        assert tiles.heard() == ["alarm"]

    def test_a_later_alarm_is_a_new_incident(self, line: Callable[..., Line]) -> None:
        """After the end, the next alarm is told like the first, also where nothing looked in between."""
        tiles = line()
        tiles.batches("defects", "none", "none", "none")
        tiles.clock.now += 2 * HOUR
        tiles.batches("defects")
        assert tiles.heard() == ["alarm", "resolved", "alarm"]
        assert [incident.closed_at is None for incident in tiles.incidents()] == [False, True]

    @pytest.mark.parametrize(("diagnosis", "scored"), [("unreadable", 0), ("none", 4), ("moved", 90)])
    def test_a_batch_that_says_nothing_of_defects_is_not_clean_of_them(
        self, line: Callable[..., Line], diagnosis: str, scored: int
    ) -> None:
        """Every file broken, too few images to alarm, or all scores moved: defects would not be seen."""
        tiles = line(cool_down="1s")
        tiles.batches("defects")
        for _ in range(4):
            tiles.batch(diagnosis, scored=scored)
        assert tiles.open()[0] == "defects"

    def test_what_resolved_says(self, line: Callable[..., Line]) -> None:
        """The title names the incident; the text tells why it is over."""
        tiles = line(cool_down="1s")
        tiles.batches("defects", "none", "none", "none")
        resolved = tiles.sent()[-1].payload
        assert resolved["title"] == "reconwatch: incident 1 of tiles (defects) is over"
        assert resolved["sentences"] == (
            "The last 3 batches in a row were clean of it. 1 batch alarmed since 2024-05-17 12:01 UTC; the newest: "
            "It is off."
        )
        assert resolved["incident"] == tiles.sent()[0].payload["incident"]


class TestLateResults:
    """An old batch that is scored out of order."""

    def test_a_late_clean_batch_closes_nothing(self, line: Callable[..., Line]) -> None:
        """Batches from before the alarm say nothing of how things are since."""
        tiles = line(cool_down="1s")
        old = [tiles.begin() for _ in range(3)]
        tiles.batches("defects")
        tiles.clock.now += HOUR
        for claim in old:
            tiles.finish(claim, "none")
        assert tiles.open() == ["defects"]

    def test_a_late_alarm_does_not_begin_the_count_anew(self, line: Callable[..., Line]) -> None:
        """It adds to the open incident, which closes as if it had come in its turn."""
        tiles = line(cool_down="1s")
        old = tiles.begin()
        tiles.batches("defects", "none", "none")
        tiles.finish(old, "defects")
        tiles.batches("none")
        (incident,) = tiles.incidents()
        assert incident.batches == 2
        assert tiles.heard() == ["alarm", "resolved"]

    def test_a_late_alarm_of_a_time_that_is_over_reopens_nothing(self, line: Callable[..., Line]) -> None:
        """It belongs to the incident that people heard of then, and is counted there."""
        tiles = line(cool_down="1s")
        tiles.batches("defects")
        tiles.clock.now += MINUTE
        old = tiles.begin()
        tiles.batches("none", "none", "none")
        tiles.finish(old, "defects")
        (incident,) = tiles.incidents()
        assert (incident.batches, incident.closed_at is None) == (2, False)
        assert tiles.heard() == ["alarm", "resolved"]

    def test_a_late_alarm_that_is_worse_is_told(self, line: Callable[..., Line]) -> None:
        """People heard of a warning then; that it was critical is news."""
        tiles = line(cool_down="1s")
        tiles.batches("defects")
        tiles.clock.now += MINUTE
        old = tiles.begin()
        tiles.batches("none", "none", "none")
        tiles.finish(old, "defects", "critical")
        assert tiles.heard() == ["alarm", "resolved", "alarm"]

    def test_a_late_alarm_that_nobody_heard_of_is_told(self, line: Callable[..., Line]) -> None:
        """However late: an alarm from a time without an incident opens one, which only later batches close."""
        tiles = line(cool_down="1s")
        old = tiles.begin()
        tiles.batches("none", "none", "none")
        tiles.finish(old, "defects")
        assert tiles.heard() == ["alarm"]
        assert tiles.open() == ["defects"]
        tiles.batches("none", "none", "none")
        assert tiles.heard() == ["alarm", "resolved"]

    def test_images_that_say_when_they_were_taken_are_placed_by_that(self, line: Callable[..., Line]) -> None:
        """Batches of last week that are brought today close nothing of today."""
        tiles = line(cool_down="1s")
        tiles.batch("defects", taken_at=NOON)
        for day in range(7, 3, -1):
            tiles.batch("none", taken_at=NOON - timedelta(days=day))
        assert tiles.open() == ["defects"]

    def test_a_batch_that_is_judged_again_keeps_its_place(self, line: Callable[..., Line], ledger: Ledger) -> None:
        """Old batches that a new model finds clean close nothing of today."""
        tiles = line(cool_down="1s")
        tiles.batches("none", "none", "none", "defects")
        for number in range(3):
            tiles.clock.now += MINUTE
            claim = ledger.claim("tiles", f"lot-{number}", f"images of lot-{number}", "4", "6", again=True)
            assert isinstance(claim, Claim)
            tiles.finish(claim, "none")
        assert tiles.open() == ["defects"]

    def test_a_batch_that_was_taken_over_keeps_its_place(self, line: Callable[..., Line], ledger: Ledger) -> None:
        """Who died over a batch did not make it a newer one."""
        tiles = line(cool_down="1s")
        ledger.release(tiles.begin("slow"))
        tiles.batches("defects", "none", "none")
        tiles.batch("none", name="slow")
        assert tiles.open() == ["defects"]


class TestSeverity:
    """How bad it is, and who hears of it."""

    def test_a_channel_hears_of_what_is_bad_enough(self, line: Callable[..., Line]) -> None:
        """A pager for critical incidents hears nothing of a warning, its end included."""
        tiles = line(SEVERE, cool_down="1s")
        tiles.batches("defects", "none", "none", "none")
        assert (tiles.heard("ops"), tiles.heard("pager")) == (["alarm", "resolved"], [])

    def test_an_incident_that_becomes_critical_says_so(self, line: Callable[..., Line]) -> None:
        """Who heard of a warning hears that it is critical now; who did not hears of it for the first time."""
        tiles = line(SEVERE)
        tiles.batch("defects")
        tiles.batch("defects", "critical")
        tiles.batch("defects", "critical")
        assert (tiles.heard("ops"), tiles.heard("pager")) == (["alarm", "escalated"], ["alarm"])
        said = tiles.sent()[-1].payload
        assert (said["title"], said["severity"]) == (
            "reconwatch: incident 1 of tiles (defects) became critical",
            "critical",
        )

    def test_it_stays_as_bad_as_it_was(self, line: Callable[..., Line]) -> None:
        """A milder batch makes no incident milder."""
        tiles = line()
        tiles.batch("defects", "critical")
        tiles.batch("defects")
        assert tiles.incidents()[0].severity == "critical"
        assert tiles.heard() == ["alarm"]

    def test_a_rise_is_news_to_whoever_acknowledged_the_warning(self, line: Callable[..., Line]) -> None:
        """Acknowledging a warning is not acknowledging what it became."""
        tiles = line()
        tiles.batch("defects")
        watchdog.acknowledge(tiles.ledger, tiles.settings, 1, "anna", "")
        tiles.batch("defects", "critical")
        assert tiles.heard() == ["alarm", "acknowledged", "escalated"]


class TestOwners:
    """Each kind of incident is seen to by those whom it concerns."""

    def test_a_channel_hears_of_what_it_is_about(self, line: Callable[..., Line]) -> None:
        """From the first message to the last, and of nothing else, acknowledgements included."""
        tiles = line({"name": "camera", "about": ["moved", "missing"]}, {"name": "quality", "about": ["defects"]})
        tiles.batches("moved")
        watchdog.acknowledge(tiles.ledger, tiles.settings, 1, "anna", "")
        watchdog.close(tiles.ledger, tiles.settings, 1, "anna")
        tiles.batches("defects")
        assert tiles.heard("camera") == ["alarm", "acknowledged", "resolved"]
        assert tiles.heard("quality") == ["alarm"]
        assert tiles.heard("ops") == ["alarm", "acknowledged", "resolved", "alarm"]


class TestReminders:
    """While nobody sees to it."""

    def test_an_open_incident_is_reminded_of(self, line: Callable[..., Line]) -> None:
        """Every eight hours while nobody acknowledged it, and once where the watchdog slept for days."""
        tiles = line()
        tiles.batches("defects")
        tiles.wait(8 * HOUR - MINUTE)
        assert tiles.heard() == ["alarm"]
        tiles.wait(MINUTE)
        tiles.look()
        assert tiles.heard() == ["alarm", "reminder"]
        tiles.wait(100 * HOUR)
        assert tiles.heard() == ["alarm", "reminder", "reminder"]
        assert tiles.sent()[1].payload["title"] == (
            "reconwatch: incident 1 of tiles (defects) is open for 8 h, and nobody acknowledged it"
        )
        assert "'reconwatch alert ack 1' says that it is seen to" in tiles.sent()[1].payload["sentences"]

    def test_who_acknowledged_it_is_not_reminded(self, line: Callable[..., Line]) -> None:
        """The others hear who sees to it, and then only that it is over."""
        tiles = line()
        tiles.batches("defects")
        incident = watchdog.acknowledge(tiles.ledger, tiles.settings, 1, "anna", "the lamp is dirty")
        assert (incident.acknowledged_by, incident.comment, incident.acknowledged_at) == (
            "anna",
            "the lamp is dirty",
            tiles.clock.now,
        )
        tiles.wait(100 * HOUR)
        tiles.batches("none", "none", "none")
        assert tiles.heard() == ["alarm", "acknowledged", "resolved"]
        said = tiles.sent()[1].payload
        assert said["title"] == "reconwatch: incident 1 of tiles (defects) is acknowledged by anna"
        assert said["sentences"].startswith("They say: the lamp is dirty.")

    def test_what_is_about_to_close_is_not_reminded_of(self, line: Callable[..., Line]) -> None:
        """After the clean batches that close it, only the cool-down is waited for."""
        tiles = line(cool_down="2d")
        tiles.batches("defects", "none", "none", "none")
        tiles.wait(24 * HOUR)
        assert tiles.heard() == ["alarm"]

    def test_reminders_can_be_switched_off(self, line: Callable[..., Line]) -> None:
        """`remind_every: null` reminds of nothing."""
        tiles = line(remind_every=None)
        tiles.batches("defects")
        tiles.wait(100 * HOUR)
        assert tiles.heard() == ["alarm"]


class TestEscalation:
    """Who hears of it later."""

    def test_it_is_escalated_when_nobody_acknowledges_it(self, line: Callable[..., Line]) -> None:
        """The named channel hears of it only then, and of its end."""
        tiles = line(BOSS, escalate_to=["boss"], escalate_after="30min")
        tiles.batches("defects")
        assert tiles.heard("boss") == []
        tiles.wait(30 * MINUTE)
        tiles.look()
        assert (tiles.heard("ops"), tiles.heard("boss")) == (["alarm"], ["escalated"])
        tiles.batches("none", "none", "none")
        tiles.wait(HOUR)
        assert (tiles.heard("ops"), tiles.heard("boss")) == (["alarm", "resolved"], ["escalated", "resolved"])

    def test_what_is_acknowledged_is_not_escalated(self, line: Callable[..., Line]) -> None:
        """Neither by time nor because it became critical: somebody sees to it."""
        tiles = line(BOSS, escalate_to=["boss"])
        tiles.batches("defects")
        watchdog.acknowledge(tiles.ledger, tiles.settings, 1, "anna", "")
        tiles.wait(HOUR)
        tiles.batch("defects", "critical")
        assert tiles.heard("boss") == []

    def test_it_is_escalated_when_it_becomes_critical(self, line: Callable[..., Line]) -> None:
        """A rise is not waited out."""
        tiles = line(BOSS, escalate_to=["boss"])
        tiles.batch("defects")
        tiles.batch("defects", "critical")
        assert tiles.heard("boss") == ["escalated"]

    def test_an_escalated_warning_that_rises_is_told_again(self, line: Callable[..., Line]) -> None:
        """Each channel hears of the rise once."""
        tiles = line(BOSS, escalate_to=["boss"])
        tiles.batch("defects")
        tiles.wait(HOUR)
        tiles.batch("defects", "critical")
        assert tiles.heard("boss") == ["escalated", "escalated"]
        assert tiles.heard("ops") == ["alarm", "escalated"]


class TestByHand:
    """What people do."""

    def test_closing_by_hand(self, line: Callable[..., Line]) -> None:
        """It is over at once, people hear who closed it, and the next alarm is a new one."""
        tiles = line()
        tiles.batches("defects")
        watchdog.close(tiles.ledger, tiles.settings, 1, "anna")
        assert tiles.sent()[-1].payload["sentences"].startswith("anna closed it.")
        tiles.batches("defects")
        assert tiles.heard() == ["alarm", "resolved", "alarm"]

    def test_what_is_over_cannot_be_acknowledged(self, line: Callable[..., Line]) -> None:
        """The sentence names it."""
        tiles = line()
        tiles.batches("defects")
        watchdog.close(tiles.ledger, tiles.settings, 1, "anna")
        with pytest.raises(InputError, match=r"incident 1 of tiles \(defects\) is over: there is nothing to do"):
            watchdog.acknowledge(tiles.ledger, tiles.settings, 1, "anna", "")

    def test_a_number_that_is_none(self, line: Callable[..., Line]) -> None:
        """The sentence names those that are open."""
        tiles = line()
        tiles.batches("defects and unreadable")
        with pytest.raises(InputError, match=r"there is no incident 7 \(open are: 2, 1\)"):
            watchdog.close(tiles.ledger, tiles.settings, 7, "anna")

    def test_an_incident_of_a_pipeline_that_is_gone_can_be_closed(self, line: Callable[..., Line]) -> None:
        """Nobody is configured to hear of it."""
        tiles = line()
        tiles.batches("defects")
        watchdog.close(tiles.ledger, tiles.settings.model_copy(update={"pipelines": {}}), 1, "anna")
        assert (tiles.open(), tiles.heard()) == ([], ["alarm"])


class TestSilence:
    """Alarms for what did not happen."""

    def test_no_batch_in_time(self, line: Callable[..., Line]) -> None:
        """Told once, at the time, and over with the next batch, an alarming one too."""
        tiles = line(monitor={"expect_batch_every": "2h"})
        tiles.batches("none")
        tiles.wait(2 * HOUR - MINUTE)
        assert tiles.open() == []
        tiles.wait(MINUTE)
        tiles.wait(MINUTE)
        assert tiles.open() == ["missing"]
        tiles.batches("defects")
        assert tiles.heard() == ["missing", "alarm", "resolved"]
        said = tiles.sent()[0].payload
        assert said["title"] == "reconwatch: no batch of tiles came in time"
        assert said["sentences"].startswith(
            "No batch was scored since 2024-05-17 12:01 UTC, where one is expected every 2h: look whether images still "
            "arrive."
        )

    def test_no_batch_ever(self, line: Callable[..., Line]) -> None:
        """The time counts from when the pipeline was first heard of."""
        tiles = line(monitor={"expect_batch_every": "2h"})
        tiles.look()
        tiles.wait(2 * HOUR)
        assert tiles.open() == ["missing"]

    def test_a_silence_that_was_closed_by_hand_stays_closed(self, line: Callable[..., Line]) -> None:
        """Until a batch has come and the next silence begins."""
        tiles = line(monitor={"expect_batch_every": "2h"})
        tiles.batches("none")
        tiles.wait(2 * HOUR)
        watchdog.close(tiles.ledger, tiles.settings, 1, "anna")
        tiles.wait(24 * HOUR)
        assert tiles.open() == []
        tiles.batches("none")
        tiles.wait(2 * HOUR)
        assert tiles.open() == ["missing"]

    def test_a_silence_is_reminded_of(self, line: Callable[..., Line]) -> None:
        """Like any other incident."""
        tiles = line(monitor={"expect_batch_every": "2h"})
        tiles.batches("none")
        tiles.wait(2 * HOUR)
        tiles.wait(8 * HOUR)
        assert tiles.heard() == ["missing", "reminder"]

    def test_what_is_no_longer_expected_is_not_missing(self, ledger: Ledger, clock: Clock) -> None:
        """The incident ends when its key is taken out of the file."""
        tiles = Line(ledger, clock, pipeline(monitor={"expect_batch_every": "2h"}))
        tiles.look()
        tiles.wait(2 * HOUR)
        tiles.pipeline = pipeline()
        tiles.look()
        assert tiles.heard() == ["missing", "resolved"]

    def test_a_schedule_that_stopped(self, line: Callable[..., Line]) -> None:
        """No run in time is critical, for nobody looks at the images; the next run ends it."""
        tiles = line(monitor={"expect_run_every": "1d"})
        watchdog.begin_run(tiles.ledger, "tiles")
        tiles.wait(24 * HOUR)
        assert tiles.open() == ["stopped"]
        assert tiles.incidents()[0].severity == "critical"
        assert tiles.sent()[0].payload["title"] == "reconwatch: the runs of tiles have stopped"
        watchdog.begin_run(tiles.ledger, "tiles")
        tiles.look()
        assert tiles.heard() == ["missing", "resolved"]

    def test_three_failed_runs_in_a_row(self, line: Callable[..., Line]) -> None:
        """Two may be chance; the third is told with its reason, and a run that ends well ends it."""
        tiles = line()
        for failure in ("the disk is full", "the disk is full", "", "no memory", "no memory", "no memory"):
            assert tiles.open() == []
            watchdog.end_run(tiles.ledger, "tiles", failure)
            tiles.look()
        assert tiles.open() == ["failing"]
        assert tiles.sent()[0].payload["sentences"].startswith("3 runs in a row failed, the last with: no memory:")
        watchdog.end_run(tiles.ledger, "tiles", "")
        tiles.look()
        assert tiles.heard() == ["failing", "resolved"]

    def test_a_batch_that_kills_whoever_scores_it(self, ledger: Ledger, tmp_path: Path, clock: Clock) -> None:
        """Begun three times and never finished is told, though no run lived to say that it failed."""
        process = replace(this_process(), start="then")
        mortal = Line(Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}", clock, lambda: process), clock, pipeline())
        tiles = Line(ledger, clock, pipeline())
        for _ in range(3):
            assert tiles.open() == []
            tiles.clock.now += MINUTE
            mortal.begin("huge")
            tiles.look()
        assert tiles.open() == ["failing"]
        assert (
            tiles.sent()[0]
            .payload["sentences"]
            .startswith(
                "Batch huge was begun 3 times or more and never finished: 'reconwatch run tiles' shows what is wrong."
            )
        )
        tiles.clock.now += MINUTE
        watchdog.end_run(tiles.ledger, "tiles", "")
        tiles.look()
        assert tiles.open() == []

    def test_a_third_try_that_is_under_way_is_no_failure(self, line: Callable[..., Line]) -> None:
        """It may well end."""
        tiles = line()
        for _ in range(2):
            tiles.ledger.release(tiles.begin("slow"))
        claim = tiles.begin("slow")
        tiles.look()
        assert tiles.open() == []
        tiles.ledger.release(claim)
        tiles.look()
        assert tiles.open() == ["failing"]


# Any sequence of events

KINDS = ("none", "defects", "unreadable", "defects and unreadable")
BATCH = st.tuples(st.just("batch"), st.sampled_from(KINDS), st.sampled_from(["warning", "critical"]), st.booleans())
EVENTS = st.lists(
    st.one_of(
        BATCH,
        BATCH,
        st.tuples(st.just("wait"), st.sampled_from([MINUTE, 30 * MINUTE, 2 * HOUR, 9 * HOUR])),
        st.tuples(st.sampled_from(["ack", "close", "judge"]), st.integers(0, 3)),
    ),
    max_size=25,
)
RULES = st.fixed_dictionaries(
    {
        "close_after": st.integers(0, 3),
        "cool_down": st.sampled_from(["1s", "1h"]),
        "remind_every": st.sampled_from(["1h", "8h", None]),
        "escalate_to": st.sampled_from([(), ("boss",)]),
    }
)


def live(tiles: Line, events: list[tuple[Any, ...]]) -> None:
    """What the events do; a late batch was taken up at the very beginning."""
    late = iter(
        [tiles.begin(f"late-{number}") for number, event in enumerate(events) if event[0] == "batch" and event[3]]
    )
    for event in events:
        if event[0] == "batch" and event[3]:
            tiles.finish(next(late), event[1], event[2])
        elif event[0] == "batch":
            tiles.batch(event[1], event[2])
        elif event[0] == "wait":
            tiles.wait(event[1])
        else:
            tiles.clock.now += timedelta(seconds=1)
            there = tiles.ledger.incidents.newest(tiles.pipeline.name, closed=event[0] == "judge")
            if event[1] < len(there):
                number = there[event[1]].number
                if event[0] == "ack":
                    watchdog.acknowledge(tiles.ledger, tiles.settings, number, "anna", "")
                else:
                    said: Any = "false alarm" if event[0] == "judge" else None
                    watchdog.close(tiles.ledger, tiles.settings, number, "anna", judgement=said)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Line]:
    """Lines on one ledger, each a pipeline of its own: a new database an example would take long."""
    clock = Clock(NOON)
    ledger = Ledger.open(f"sqlite:///{tmp_path_factory.mktemp('shared') / 'ledger.db'}", clock)

    def make(**rules: Any) -> Line:
        return Line(ledger, clock, pipeline(SEVERE, BOSS, name=f"tiles-{next(NUMBERS)}", **rules))

    return make


@settings(max_examples=60, deadline=None)
@given(events=EVENTS, rules=RULES)
def test_whatever_happens_each_incident_is_told_as_it_should(
    shared: Callable[..., Line], events: list[tuple[Any, ...]], rules: dict[str, Any]
) -> None:
    """One first message for each channel that wants it, at most one end, and reminders only while it waits."""
    tiles = shared(**rules)
    live(tiles, events)
    messages = tiles.sent()
    assert len({(message.dedupe_key, message.channel) for message in messages}) == len(messages)
    for incident in tiles.incidents():
        ours = [message for message in messages if message.payload["incident"] == incident.key]
        first = Counter(message.channel for message in ours if message.dedupe_key.endswith("/first"))
        wanting = {"ops"} | ({"pager"} if incident.severity == "critical" else set())
        wanting |= {"boss"} if incident.escalated or "boss" not in rules["escalate_to"] else set()
        assert first == dict.fromkeys(wanting, 1)
        over = Counter(message.channel for message in ours if message.payload["kind"] == "resolved")
        told_its_end = incident.closed_at is not None and (rules["close_after"] or incident.closed_by)
        assert over == (dict.fromkeys(first, 1) if told_its_end else {})
        for message in ours:
            if message.payload["kind"] == "reminder":
                assert incident.acknowledged_at is None or message.created_at < incident.acknowledged_at
                assert incident.closed_at is None or message.created_at <= incident.closed_at


@settings(max_examples=40, deadline=None)
@given(events=EVENTS, rules=RULES)
def test_whatever_happens_no_alarm_is_lost(
    shared: Callable[..., Line], events: list[tuple[Any, ...]], rules: dict[str, Any]
) -> None:
    """Every finding of every batch is counted in one incident, and no kind has two open ones."""
    tiles = shared(**rules)
    live(tiles, events)
    found = [event[1].split(" and ") for event in events if event[0] == "batch" and event[1] != "none"]
    counted = sum(incident.batches for incident in tiles.incidents())
    assert counted == sum(map(len, found))
    assert len(set(tiles.open())) == len(tiles.open())


@settings(max_examples=40, deadline=None)
@given(alarms=st.lists(st.booleans(), max_size=30), close_after=st.integers(1, 3))
def test_incidents_are_the_runs_of_alarms(shared: Callable[..., Line], alarms: list[bool], close_after: int) -> None:
    """In order and without a cool-down, an incident ends where that many clean batches stand in a row."""
    tiles = shared(close_after=close_after, cool_down="1s")
    tiles.batches(*("defects" if alarm else "none" for alarm in alarms))
    text = "".join("x" if alarm else "." for alarm in alarms)
    runs = [run.strip(".") for run in text.replace("." * close_after, "." * close_after + "|").split("|")]
    joined = "|".join(runs).split("|")
    expected = [run.count("x") for run in joined if "x" in run]
    assert [incident.batches for incident in tiles.incidents()] == expected


# Crashes and two at once


class Crash(BaseException):
    """The process is gone."""


@contextmanager
def dies_before(statement: int) -> Iterator[list[str]]:
    """Lets the process die before that statement (counted from 0) of those that write or read; gives the statements."""
    seen: list[str] = []

    def check(connection: Any, cursor: Any, text: str, *_: Any) -> None:
        seen.append(text)
        if len(seen) > statement:
            raise Crash

    sa.event.listen(sa.Engine, "before_cursor_execute", check)
    try:
        yield seen
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", check)


def left(tiles: Line) -> tuple[Any, ...]:
    """All that people could notice: incidents and messages, without when they were written."""
    incidents = [(incident.kind, incident.batches, incident.clean, incident.told) for incident in tiles.incidents()]
    return incidents, [(alert.payload["kind"], alert.channel, alert.payload["severity"]) for alert in tiles.sent()]


def test_a_crash_between_any_two_statements_loses_nothing(shared: Callable[..., Line]) -> None:
    """Wherever the transaction that ends a batch is cut, nothing of it is there; tried again, all of it is, once."""
    whole = shared()
    whole.batch("defects")
    begun = whole.begin("lot-1")
    with dies_before(10**6) as statements:
        whole.finish(begun, "defects and unreadable", "critical")
    expected = left(whole)
    assert len(statements) > 10
    for statement in range(len(statements)):
        tiles = shared()
        tiles.batch("defects")
        before = left(tiles)
        claim = tiles.begin("lot-1")
        with pytest.raises(Crash), dies_before(statement):
            tiles.finish(claim, "defects and unreadable", "critical")
        assert left(tiles) == before
        tiles.finish(claim, "defects and unreadable", "critical")
        assert left(tiles) == expected


KILLED = """
import os, signal, sys
import sqlalchemy as sa
from test_watchdog import NOON, Clock, Ledger, Line, pipeline

clock = Clock(NOON)
tiles = Line(Ledger.open(sys.argv[1], clock), clock, pipeline())
claim = tiles.begin(sys.argv[2])
left = int(sys.argv[3])

@sa.event.listens_for(sa.Engine, "after_cursor_execute")
def die(*_):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

tiles.finish(claim, "defects")
"""

TWO_AT_ONCE = """
import sys
from test_watchdog import NOON, Clock, Ledger, Line, pipeline

clock = Clock(NOON)
tiles = Line(Ledger.open(sys.argv[1], clock), clock, pipeline())
print("ready", flush=True)
sys.stdin.readline()
for number in range(25):
    tiles.finish(tiles.begin(f"{sys.argv[2]}-{number}"), "defects")
    tiles.look()
"""


def process(script: str, *arguments: str) -> "subprocess.Popen[str]":
    """A Python process with this project and this folder's modules."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_no_half_incident(ledger: Ledger, clock: Clock, tmp_path: Path) -> None:
    """After kill -9 in the midst of the transaction the next process takes the batch over and tells of it once."""
    tiles, url = Line(ledger, clock, pipeline()), f"sqlite:///{tmp_path / 'ledger.db'}"
    for number in (2, 4, 6):
        with process(KILLED, url, f"lot-{number}", str(number)) as killed:
            assert killed.wait(600) == -signal.SIGKILL
        tiles.finish(tiles.begin(f"lot-{number}"), "defects")
    (incident,) = tiles.incidents()
    assert incident.batches == 3
    assert tiles.heard() == ["alarm"]


@pytest.mark.slow
def test_two_processes_at_once_open_one_incident(ledger: Ledger, clock: Clock, tmp_path: Path) -> None:
    """Fifty alarming batches from two processes on one ledger are one incident and one message."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    both = [process(TWO_AT_ONCE, url, name) for name in ("a", "b")]
    for one in both:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in both:
        one.communicate("\n", timeout=600)
        assert one.returncode == 0
    tiles = Line(ledger, clock, pipeline())
    (incident,) = tiles.incidents()
    assert incident.batches == 50
    assert tiles.heard() == ["alarm"]
