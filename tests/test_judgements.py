"""What people say of alarms: false ones count as nominal batches from then on, in what later ones are compared with."""

import sqlite3
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ae_models.calibration import conformal_threshold
from ae_models.errors import InputError
from ae_models.monitoring import BatchVerdict, batch_verdict
from flows import watchdog
from flows.alerts import Alert
from flows.config import PipelineConfig, Settings
from flows.incidents import Incident
from flows.ledger import Claim, FollowStream, Ledger, PendingAlert

NOON = datetime(2024, 5, 17, 12, tzinfo=UTC)
THRESHOLD = conformal_threshold(np.arange(1000), 0.01)


@dataclass
class Line:
    """A pipeline whose batches are decided by hand, a minute after each other, and the ledger's file."""

    path: Path
    rules: dict[str, Any] = field(default_factory=dict)
    now: datetime = NOON
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = Ledger.open(f"sqlite:///{self.path}", lambda: self.now)

    @property
    def pipeline(self) -> PipelineConfig:
        return PipelineConfig.model_validate({"name": "tiles", "data": {"nominal": "x"}, "incidents": self.rules})

    @property
    def settings(self) -> Settings:
        pipelines = {"tiles": self.pipeline}
        return Settings(path=Path("x"), workspace=Path("x"), dashboard="http://127.0.0.1:5000", pipelines=pipelines)

    def begin(self, name: str, calibration: str = "5") -> Claim:
        claim = self.ledger.claim("tiles", name, f"images of {name}", "3", calibration)
        assert isinstance(claim, Claim)
        return claim

    def finish(
        self, claim: Claim, diagnosis: Any, flagged: int, scored: int = 200, stream: FollowStream | None = None
    ) -> None:
        severity: Any = "none" if diagnosis == "none" else "warning"
        said = BatchVerdict(scored, flagged, 1, 2.0, 7, 0.0001, 0.5, 0.01, 0.01, diagnosis, severity)
        alert = Alert("tiles", claim.batch, {}, "It is off.", (), None, claim.key)
        self.ledger.finish(
            claim,
            run_id="run",
            verdict={},
            alarm=said.alarm,
            n_scored=scored,
            n_flagged=flagged,
            n_unreadable=1,
            stream=stream,
            settle=watchdog.after_batch(self.pipeline, claim.key, said, alert),
        )

    def batch(self, name: str, diagnosis: str, flagged: int, calibration: str = "5", scored: int = 200) -> None:
        """A batch from beginning to end."""
        self.now += timedelta(minutes=1)
        self.finish(self.begin(name, calibration), diagnosis, flagged, scored)

    def say(self, number: int, judgement: Any = "false alarm", comment: str = "") -> tuple[Incident, int]:
        """What anna says of an incident."""
        return watchdog.close(self.ledger, self.settings, number, "anna", comment, judgement)

    def review(self, name: str, judgement: str) -> None:
        """What a review says of a batch, whether it alarmed or not, as the table takes it."""
        connection = sqlite3.connect(self.path)
        with connection:
            key = connection.execute("SELECT key FROM batches WHERE batch = ?", (name,)).fetchone()[0]
            row = (key, "defects", judgement, "anna", "", self.now.isoformat(" "))
            connection.execute("INSERT INTO judgements VALUES (?, ?, ?, ?, ?, ?)", row)
        connection.close()

    def flagged(self, calibration: str = "5") -> list[int]:
        """How many images are flagged in each nominal batch of a calibration, the fewest first."""
        return sorted(flagged for flagged, _ in self.ledger.batches.nominal_counts("tiles", calibration, 1000))

    def sent(self) -> tuple[PendingAlert, ...]:
        return self.ledger.outbox.pending()


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path / "ledger.db")


def test_false_alarms_count_as_nominal(line: Line) -> None:
    """Every batch of the incident does, beside those that raised no alarm; other incidents' do not."""
    line.batch("a", "none", 1)
    line.batch("b", "defects", 8)
    line.batch("c", "defects", 9)
    line.batch("d", "moved", 30)
    assert line.flagged() == [1]
    incident, nominal = line.say(1)
    assert (incident.judgement, nominal) == ("false alarm", 2)
    assert line.flagged() == [1, 8, 9]
    assert line.ledger.batches.false_alarms("tiles", "5") == (2, 3)


def test_true_alarms_do_not(line: Line) -> None:
    """It is kept that people said so, and nothing else comes of it."""
    line.batch("a", "defects", 8)
    assert line.say(1, "true alarm")[0].judgement == "true alarm"
    assert line.flagged() == []
    assert line.ledger.incidents.newest(closed=True)[0].judgement == "true alarm"


def test_a_true_alarm_that_was_not_raised_is_not_nominal(line: Line) -> None:
    """A batch that raised no alarm, of which a review says that one was due, is no measure for others."""
    line.batch("a", "none", 1)
    line.batch("b", "none", 2)
    assert line.flagged() == [1, 2]
    line.review("b", "true alarm")
    assert line.flagged() == [1]
    line.batch("c", "defects", 8)
    line.say(1)
    assert (line.flagged(), line.ledger.batches.false_alarms("tiles", "5")) == ([1, 8], (1, 2))


def test_each_calibration_has_its_own(line: Line) -> None:
    """A batch is compared with those that were cut by the same threshold."""
    line.batch("a", "defects", 8)
    line.batch("b", "defects", 9, calibration="6")
    line.say(1)
    assert (line.flagged("5"), line.flagged("6")) == ([8], [9])


def test_said_twice_is_said_once(line: Line) -> None:
    """The second time nothing changes, and nobody is told again."""
    line.batch("a", "defects", 8)
    line.say(1)
    told = len(line.sent())
    assert line.say(1)[1] == 1
    assert (line.flagged(), len(line.sent())) == ([8], told)


def test_the_last_word_counts(line: Line) -> None:
    """Whoever was mistaken takes it back."""
    line.batch("a", "defects", 8)
    line.say(1)
    line.say(1, "true alarm")
    assert (line.flagged(), line.ledger.batches.false_alarms("tiles", "5")) == ([], (0, 0))


def test_an_incident_that_is_over_can_be_judged(line: Line) -> None:
    """Most close by themselves; who closed it stays as it was, and nobody is told again that it is over."""
    line.rules = {"close_after": 0}
    line.batch("a", "defects", 8)
    told = len(line.sent())
    incident, nominal = line.say(1, comment="a reflection")
    assert (incident.closed_by, incident.comment, nominal) == (None, "a reflection", 1)
    assert (line.flagged(), len(line.sent())) == ([8], told)


def test_a_batch_with_two_findings_is_nominal_once_both_were_false(line: Line) -> None:
    """Files that could not be read were a fault, whatever its flagged images were, and whatever those of others."""
    line.batch("a", "defects and unreadable", 8)
    assert line.say(1)[1] == 0
    line.rules = {"close_after": 0}
    line.batch("b", "unreadable", 9)
    line.say(3)
    assert line.flagged() == [9]
    assert line.say(2)[1] == 1
    assert line.flagged() == [8, 9]


def test_a_batch_that_could_not_be_scored_has_no_share_of_flags(line: Line) -> None:
    """It is counted as a false alarm, and compared with none."""
    line.batch("a", "unreadable", 0, scored=0)
    line.say(1)
    assert (line.flagged(), line.ledger.batches.false_alarms("tiles", "5")) == ([], (1, 1))


def test_what_is_no_alarm_of_batches_has_none_to_judge(line: Line) -> None:
    """The sentence says so, and the incident stays as it is."""
    line.batch("a", "none", 0)
    line.now += timedelta(days=2)
    expecting = line.pipeline.model_copy(
        update={"monitor": line.pipeline.monitor.model_copy(update={"expect_batch_every": timedelta(days=1)})}
    )
    watchdog.look_after(line.ledger, line.settings.model_copy(update={"pipelines": {"tiles": expecting}}))
    sentence = (
        r"incident 1 of tiles \(missing\) has no batches, whose alarms alone can be called true or false: close it "
        "without that"
    )
    with pytest.raises(InputError, match=sentence):
        line.say(1)
    assert [incident.kind for incident in line.ledger.incidents.newest()] == ["missing"]


def test_people_hear_that_it_was_a_false_alarm(line: Line) -> None:
    """Whoever was told of the alarm."""
    line.batch("a", "defects", 8)
    line.say(1, comment="a reflection")
    assert (
        line.sent()[-1]
        .payload["sentences"]
        .startswith("anna closed it as a false alarm. The comment on it: a reflection. 1 batch alarmed since")
    )


def test_a_late_alarm_from_the_time_of_a_false_one_is_told(line: Line) -> None:
    """Nobody has looked at that batch, so it is no part of what was called false."""
    line.batch("a", "defects", 8)
    line.now += timedelta(minutes=1)
    late = line.begin("late")
    line.batch("b", "defects", 9)
    line.say(1)
    line.finish(late, "defects", 7)
    assert [incident.number for incident in line.ledger.incidents.newest()] == [2]
    assert line.flagged() == [8, 9]


def test_the_stream_stays_as_it_is(line: Line) -> None:
    """It holds the batches that raised no alarm, also once people say that one's was false."""
    claim = line.begin("a")
    line.finish(claim, "none", 1, stream=lambda *_: ("one batch", ()))
    line.batch("b", "defects", 8)
    line.say(1)
    record = line.ledger.streams.of("tiles", "5")
    assert record is not None
    assert record.state == "one batch"


def test_batches_carry_what_was_said_of_them(line: Line) -> None:
    """In the history, for what decides them again."""
    line.batch("a", "none", 1)
    line.batch("b", "defects", 8)
    line.say(1)
    assert [(record.batch, record.alarm, record.false_alarm) for record in line.ledger.batches.decided("tiles")] == [
        ("a", False, False),
        ("b", True, True),
    ]
    assert [record.false_alarm for record in line.ledger.batches.history("tiles")] == [True, False]


def test_what_alarmed_falsely_alarms_no_more_where_batches_differ(line: Line) -> None:
    """The whole way: nominal batches that differ, and one as bad as their worst, before people spoke and after.

    Without their word it is worse than all that did not alarm; with it, others were as bad.
    """
    rates = np.random.default_rng(0).beta(0.5, 49.5, size=220)
    for place, flagged in enumerate(np.random.default_rng(1).binomial(200, rates).tolist()):
        line.batch(f"lot {place}", "defects" if flagged >= 12 else "none", flagged)

    def alarms(flagged: int) -> bool:
        known = line.ledger.batches.nominal_counts("tiles", "5", 1000)
        verdict = batch_verdict(200, flagged, 0, THRESHOLD, 0.01, 0.01, nominal_batches=known)
        assert verdict.batches_differ
        return verdict.alarm

    assert alarms(12)
    for incident in line.ledger.incidents.newest(closed=True):
        line.say(incident.number)
    assert not alarms(12)
    assert alarms(200)
