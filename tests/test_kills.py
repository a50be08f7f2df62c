"""Killed at any point of any step, and started several at once: nothing is lost, and nothing is done twice."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from flows.ledger import Claim, OutboxEntry
from flows.workspace import open_workspace
from tests.faulty import Project, at_once, batches, finished, receiver, require_whole, started
from tests.postgresql import PostgreSQL

KILLS_A_STEP = 50  # of four steps: 200 kills a database
FINISH_EVERY = 5  # kills, after which a run may end
ALERTS = 20  # that wait when alerts are sent

pytestmark = [
    pytest.mark.faults,
    pytest.mark.filterwarnings("ignore::UserWarning:mlflow", "ignore::DeprecationWarning"),
]
Make = Callable[[str], tuple[Project, list[str]]]


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def make(request: pytest.FixtureRequest, project: Callable[..., Path], tmp_path: Path) -> Iterator[Make]:
    """A maker of a project whose ledger and MLflow are in files, or on a server; and what its receiver gets."""

    def made(name: str) -> tuple[Project, list[str]]:
        folder = tmp_path / name
        path = project(folder, alerts=[{"type": "webhook", "url": address}], incidents={"close_after": 0})
        if request.param == "SQLite":
            return Project(path), keys
        server: PostgreSQL = request.getfixturevalue("postgresql")
        ledger, mlflow = (server.url(server.new_database()) for _ in range(2))
        return Project(path, {"RECONWATCH_LEDGER_URL": ledger, "MLFLOW_TRACKING_URI": mlflow}), keys

    with receiver() as (address, keys), pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)  # where MLflow puts artifacts that it has no place for
        yield made


def require_trained(project: Project, known: set[str]) -> None:
    """Holds where every training that says it ended well can be used, and none decides anything; those that are not
    known to be so are looked at, and are known afterwards."""
    tracking = open_workspace(project.path, project.environment).tracking
    client = MlflowClient(tracking.uri)
    experiment = client.get_experiment_by_name("reconwatch/tiles")
    assert experiment is not None
    ended = client.search_runs([experiment.experiment_id], "attributes.status = 'FINISHED'")
    for run in {run.info.run_id for run in ended} - known:
        tracking.registry.detector(run)
        known.add(run)
    assert tracking.registry.versions("tiles") == ()


def require_champion(project: Project) -> None:
    """Holds where nothing decides yet, or a whole champion does."""
    registry = open_workspace(project.path, project.environment).tracking.registry
    if registry.champion_version("tiles") is not None:
        registry.champion("tiles")


def enter_alerts(project: Project, number: int) -> list[str]:
    """The keys of new alerts that wait to be sent."""
    ledger = open_workspace(project.path, project.environment).ledger
    channel = open_workspace(project.path, project.environment).settings.pipeline("tiles").alerts[0].name
    new = [f"alert-{number}-{place}" for place in range(ALERTS)]
    for key in new:
        claim = ledger.claim("tiles", key, key, "1", "1")
        assert isinstance(claim, Claim)
        payload = {"batch": key, "kind": "alarm", "severity": "warning", "dedupe_key": key, "text": "It is off."}
        entry = OutboxEntry(channel, key, payload)
        ledger.finish(
            claim, run_id="run", verdict={}, alarm=True, n_scored=1, n_flagged=1, n_unreadable=0, alerts=[entry]
        )
    ledger.close()
    return new


class Killer:
    """Kills steps of a project at random points of their duration, and counts the kills that met one at work."""

    def __init__(self, project: Project, kills: int) -> None:
        self.project, self.kills, self.met, self.chance = project, kills, dict[str, int](), random.Random(3)

    def kill(self, step: str, prepare: Callable[[int], None], require: Callable[[Project], None]) -> None:
        """Kills a step so often; every fifth time, and at the end, it may finish."""
        prepare(0)
        seconds = finished(self.project, step)
        require(self.project)
        for number in range(1, self.kills + 1):
            prepare(number)
            running = started(self.project, step).begun()
            time.sleep(self.chance.uniform(0, seconds))
            self.met[step] = self.met.get(step, 0) + running.killed()
            require(self.project)
            if number % FINISH_EVERY == 0 or number == self.kills:
                seconds = min(seconds * 2, max(finished(self.project, step), 0.02))
                require(self.project)


def test_a_step_that_is_killed_at_any_point_loses_nothing_and_does_nothing_twice(
    make: Make, fault_count: Callable[[int], int], small_images: Callable[[Path, int, int], list[Path]]
) -> None:
    """Training, calibration, scoring and sending, killed with -9 at random points: a rerun finishes what is due, each
    batch is decided once, each alert reaches its receiver under one key, and what decides is whole at every moment."""
    project, keys = make("killed")
    killer = Killer(project, max(2, fault_count(KILLS_A_STEP)))
    names, inbox = ["1-nominal", "2-damaged", "3-unreadable"], project.path.parent / "data" / "inbox"

    def nothing(_: object) -> None:
        """Training and calibration have something to do each time."""

    def new_batches(number: int) -> None:
        names.extend(batches(inbox, 2, small_images, 2 * number))

    known: set[str] = set()
    killer.kill("train", nothing, lambda project: require_trained(project, known))
    require_trained(project, set())
    killer.kill("calibrate", nothing, require_champion)
    finished(project, "score")  # the batches that were there: a score takes as long as one of two new batches
    killer.kill("score", new_batches, nothing)
    require_whole(project, names)
    assert len(set(keys)) == n_alarms(project)
    entered: list[str] = []
    before = len(keys)
    killer.kill("alert", lambda number: entered.extend(enter_alerts(project, number)), nothing)
    assert set(keys[before:]) == set(entered)
    assert len(keys) - before - len(entered) <= killer.met["alert"]  # one in flight at each kill, under the same key
    print(f"of {killer.kills} kills a step met it at work: {killer.met}")
    assert sum(killer.met.values()) >= 2 * killer.kills  # half of all
    assert all(met >= killer.kills // 4 for met in killer.met.values())


def n_alarms(project: Project) -> int:
    """How many alarms people should have heard of: each of its own, as incidents are never put together here."""
    return len(open_workspace(project.path, project.environment).ledger.incidents.newest(closed=True))


@pytest.mark.parametrize("number", [2, 8])
def test_scorers_that_start_at_once_score_each_batch_once(
    make: Make, number: int, small_images: Callable[[Path, int, int], list[Path]], fault_count: Callable[[int], int]
) -> None:
    """Two, and eight, on one inbox: each batch has one decision, one run in MLflow, one point, and one alert."""
    project, keys = make("at-once")
    finished(project, "train")
    finished(project, "calibrate")
    more = batches(project.path.parent / "data" / "inbox", max(6, fault_count(40)), small_images)
    outcomes = at_once(project, "score", number)
    names = ["1-nominal", "2-damaged", "3-unreadable", *more]
    assert Counter(name for outcome in outcomes for name in outcome) == Counter(names)  # type: ignore[attr-defined]
    finished(project, "score")  # what a scorer that was last left for the monitor run, and alerts
    require_whole(project, names)
    assert len(keys) == len(set(keys)) == n_alarms(project)
    print(f"{number} scorers shared {len(names)} batches: {[len(outcome) for outcome in outcomes]}")  # type: ignore[arg-type]
