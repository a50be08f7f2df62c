"""`reconwatch serve` on a real Prefect server: runs come when they are due, one at a time, whatever process dies."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    DeploymentFilterTags,
    FlowRunFilter,
    FlowRunFilterId,
)
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Pending, Running

from flows.cli import main
from flows.config import load
from flows.deployments import Place, bring_about, wanted_deployments
from flows.ledger import open_ledger
from flows.serve import Complaint, Following
from flows.served_runs import ServedRuns
from flows.turns import turn

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
Project = Callable[..., Path]
EVERY_TEN_SECONDS = {"score": "10s"}


@pytest.fixture
def client(prefect_api: str) -> Iterator[SyncPrefectClient]:
    """A client of the tests' server."""
    with temporary_settings({PREFECT_API_URL: prefect_api}), get_client(sync_client=True) as client:
        yield client


@dataclass(frozen=True)
class Serving:
    """A running `reconwatch serve`: its file, its process, and what it says."""

    config: Path
    process: "subprocess.Popen[bytes]"
    log: Path

    def said(self) -> str:
        """Everything so far."""
        return self.log.read_text()

    def runs(self) -> list[psutil.Process]:
        """The processes of its flow runs."""
        found = psutil.Process(self.process.pid).children()
        alive = [one for one in found if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
        return [one for one in alive if "prefect.engine" in one.cmdline()]

    def decided(self) -> int:
        """How many batches of the pipeline tiles the ledger holds."""
        return open_ledger(load(self.config, {}).workspace, {}).batches.count("tiles")


def wait_for(what: Callable[[], Any], seconds: float = 400) -> Any:
    """What is waited for, as soon as it is true of it."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come in time"
        time.sleep(0.2)
    return found


@contextmanager
def serving(config: Path, api: str, *options: str) -> Iterator[Serving]:
    """`reconwatch serve` on a file, killed with its runs at the end where it is still there."""
    log = config.parent / f"serve-{time.monotonic_ns()}.log"
    command = [sys.executable, "-m", "flows.cli", "serve", "--config", str(config), *options]
    environment = os.environ | {"PREFECT_API_URL": api, "NO_PROXY": "127.0.0.1", "PYTHONPATH": str(ROOT)}
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        yield Serving(config, process, log)
    finally:
        if process.poll() is None:
            for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
                one.kill()
            process.wait()


def deployments(client: SyncPrefectClient, config: Path) -> dict[str, Any]:
    """Those of a file, by flow and name."""
    tags = DeploymentFilterTags(all_=[f"reconwatch-file:{config}"])
    found = client.read_deployments(deployment_filter=DeploymentFilter(tags=tags))
    return {f"{str(one.entrypoint).rpartition('.')[2]}/{one.name}": one for one in found}


def states(client: SyncPrefectClient, config: Path) -> list[tuple[str, str]]:
    """Name and message of the states of a file's runs of tiles, the oldest first."""
    run = deployments(client, config)["run/tiles"]
    found = client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[run.id])),
        sort=FlowRunSort.EXPECTED_START_TIME_ASC,  # Prefect has made many that are to come
        limit=200,
    )
    return [(one.state.name or "", one.state.message or "") for one in found if one.state]


def rewritten(config: Path, **changes: Any) -> None:
    """The file with other pipelines or schedules, put in its place at once as editors do."""
    text = yaml.safe_dump(yaml.safe_load(config.read_text()) | changes)
    new = config.with_suffix(".new")
    new.write_text(text)
    new.replace(config)


def unscheduled(config: Path) -> dict[str, Any]:
    """The file's pipelines, with no schedule of their own but that they are never scored by one."""
    pipelines = yaml.safe_load(config.read_text())["pipelines"]
    return {name: each | {"schedule": {"score": None}} for name, each in pipelines.items()}


def test_pipelines_are_served_on_their_schedules_and_follow_the_file(
    project: Project, tmp_path: Path, prefect_api: str, client: SyncPrefectClient
) -> None:
    """A scheduled run trains, calibrates and decides; a new batch is decided by the next; the file is followed."""
    config = project(tmp_path, schedule=EVERY_TEN_SECONDS, training={"epochs": 1})
    with serving(config, prefect_api) as serve:
        wait_for(lambda: serve.decided() == 3)
        there = deployments(client, config)
        assert set(there) == {f"{flow}/tiles" for flow in ("run", "recalibrate", "retrain", "review")}
        assert there["run/tiles"].parameters == {"config": str(config), "pipeline": "tiles"}

        pipelines = yaml.safe_load(config.read_text())["pipelines"]
        pipelines["tiles"]["schedule"] = {"score": "0 6 * * *", "timezone": "Europe/Berlin"}
        rewritten(config, pipelines=pipelines | {"more": pipelines["tiles"]})
        wait_for(lambda: "Changed: run/tiles." in serve.said())
        assert "run/more" in deployments(client, config)
        (schedule,) = deployments(client, config)["run/tiles"].schedules
        assert (schedule.schedule.cron, schedule.schedule.timezone) == ("0 6 * * *", "Europe/Berlin")

        good = config.read_text()
        config.write_text(good.replace("0 6 * * *", "0 66 * * *"))
        wait_for(lambda: "is no cron schedule" in serve.said())
        assert "The schedules of the last good pipelines.yaml go on; correct the file." in serve.said()
        assert len(deployments(client, config)) == 8

        rewritten_pipelines = {"tiles": pipelines["tiles"] | {"schedule": {"score": None}}}
        config.write_text(good)
        wait_for(lambda: "pipelines.yaml is in order again." in serve.said())
        rewritten(config, pipelines=rewritten_pipelines)
        wait_for(lambda: "Removed: " in serve.said())
        assert "run/more" not in deployments(client, config)
        assert deployments(client, config)["run/tiles"].schedules == []
        serve.process.send_signal(signal.SIGTERM)
        assert serve.process.wait(300) == 0
    assert not any(one.paused for one in deployments(client, config).values())


def test_a_watched_pipeline_runs_when_a_batch_is_complete(
    project: Project, tmp_path: Path, prefect_api: str, client: SyncPrefectClient
) -> None:
    """Without any schedule: what is there, what is moved in, and what is written slowly and settles; each once."""
    config = project(tmp_path, schedule={"watch": True, "score": None}, training={"epochs": 1})
    inbox = config.parent / "data" / "inbox"
    with serving(config, prefect_api) as serve:
        wait_for(lambda: serve.decided() == 3)
        assert "4 schedules" not in serve.said()
        assert f"Serving 1 pipelines of {config}: 0 schedules, 1 watched." in serve.said()
        shutil.copytree(inbox / "1-nominal", config.parent / "camera")
        (config.parent / "camera").rename(inbox / "4-moved")
        wait_for(lambda: serve.decided() == 4)
        (inbox / "5-slow").mkdir()
        for image in sorted((inbox / "1-nominal").iterdir()):
            shutil.copy(image, inbox / "5-slow")
            time.sleep(0.3)
        wait_for(lambda: serve.decided() == 5)
        rewritten(config, schedule={"watch": False}, pipelines=unscheduled(config))
        wait_for(lambda: f"Serving 1 pipelines of {config}: 0 schedules.\n" in serve.said())
        serve.process.send_signal(signal.SIGTERM)
        assert serve.process.wait(300) == 0
    ledger = open_ledger(load(config, {}).workspace, {})
    (slow,) = [one for one in ledger.batches.history("tiles", 10) if one.batch == "5-slow"]
    assert slow.n_scored == 20


def test_a_killed_run_frees_its_place_and_no_two_are_at_work(
    project: Project, tmp_path: Path, prefect_api: str, client: SyncPrefectClient
) -> None:
    """While a run hangs, others are skipped; killed with -9 it is crashed, and the next one runs."""
    config = project(tmp_path, schedule=EVERY_TEN_SECONDS, training={"epochs": 1})
    with serving(config, prefect_api) as serve:
        hanging = wait_for(serve.runs)[0]
        hanging.suspend()
        wait_for(lambda: "Skipped" in [name for name, _ in states(client, config)])
        assert len(serve.runs()) == 1
        hanging.kill()
        wait_for(lambda: [run for run in serve.runs() if run.pid != hanging.pid])
        wait_for(lambda: "Crashed" in [name for name, _ in states(client, config)])
        wait_for(lambda: serve.decided() == 3)
    found = dict(states(client, config))
    assert found["Skipped"] == "Skipped: the run before is still at work on tiles, and does what is due."
    assert found["Crashed"] == "Its process ended with code -9 and said nothing."


def test_serve_and_its_run_killed_together_wedge_nothing(
    project: Project, tmp_path: Path, prefect_api: str, client: SyncPrefectClient
) -> None:
    """After kill -9 of both, a run that Prefect still believes in blocks nothing: the next serve decides."""
    config = project(tmp_path, schedule=EVERY_TEN_SECONDS, training={"epochs": 1})
    with serving(config, prefect_api) as serve:
        run = wait_for(serve.runs)[0]
        wait_for(lambda: {"Pending", "Running"} & {name for name, _ in states(client, config)})
    assert not run.is_running() or run.status() == psutil.STATUS_ZOMBIE
    with serving(config, prefect_api) as serve:
        wait_for(serve.runs)
        wait_for(lambda: serve.decided() == 3)


def test_a_run_under_way_finishes_after_sigterm_or_is_handed_back(
    project: Project, tmp_path: Path, prefect_api: str, client: SyncPrefectClient
) -> None:
    """A run that takes longer than --grace is stopped and scheduled again, and the next serve starts it."""
    config = project(tmp_path, schedule=EVERY_TEN_SECONDS, training={"epochs": 1})
    with serving(config, prefect_api, "--grace", "200") as serve:
        wait_for(serve.runs)
        serve.process.send_signal(signal.SIGTERM)
        assert serve.process.wait(300) == 0
        assert "Waiting up to 200 s for 1 runs under way" in serve.said()
        assert serve.decided() == 3
    (config.parent / "data" / "inbox" / "1-nominal").rename(config.parent / "data" / "inbox" / "4-again")
    with serving(config, prefect_api, "--grace", "1") as serve:
        run = wait_for(serve.runs)[0]
        run.suspend()
        serve.process.send_signal(signal.SIGTERM)
        time.sleep(2)
        run.resume()
        assert serve.process.wait(300) == 0
        assert (
            "A run was still at work: it was stopped, and the next 'reconwatch serve' starts it again." in serve.said()
        )
        assert "HandedBack" in [name for name, _ in states(client, config)]
    with serving(config, prefect_api) as serve:
        wait_for(lambda: serve.decided() == 4)


def test_a_second_serve_of_a_workspace_is_refused(project: Project, tmp_path: Path, prefect_api: str) -> None:
    """Two would start every run twice."""
    config = project(tmp_path, schedule={"score": None})
    with serving(config, prefect_api) as first:
        wait_for(lambda: "Serving" in first.said())
        with serving(config, prefect_api) as second:
            assert second.process.wait(300) == 2
            assert f"another 'reconwatch serve' is at work in {config.parent / '.reconwatch'}" in second.said()


class TestRunsThatAreDue:
    """Which of the runs that are due is started, without the processes."""

    @pytest.fixture
    def runs(self, project: Project, tmp_path: Path, client: SyncPrefectClient) -> ServedRuns:
        """Those of a file whose pipeline has no schedule; none is ever started, as none may be at work."""
        config = project(tmp_path, schedule={"score": None})
        settings = load(config, {})
        changes = bring_about(wanted_deployments(settings), Place(str(config), str(config)), client)
        return ServedRuns(client, settings.workspace, print, 0, changes.ids)

    def deployment(self, runs: ServedRuns) -> UUID:
        """That of the work `score`."""
        return next(identifier for identifier, wanted in runs.deployments.items() if wanted.work == "score")

    def state(self, runs: ServedRuns, identifier: UUID) -> tuple[str | None, str | None]:
        """Name and message of a run's state."""
        (run,) = runs.client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[identifier])))
        assert run.state
        return run.state.name, run.state.message

    def test_what_people_start_waits_for_its_turn(self, runs: ServedRuns) -> None:
        """A run started by hand is not skipped while another is at work."""
        run = runs.client.create_flow_run_from_deployment(self.deployment(runs))
        with turn(runs.workspace, "tiles", "run"):
            runs.start_due(datetime.now(UTC) + timedelta(seconds=1))
        assert self.state(runs, run.id)[0] == "Scheduled"

    def test_whoever_sees_a_batch_arrive_has_a_run_made_at_once(self, runs: ServedRuns) -> None:
        """One for several wishes, and none of a pipeline that is not there; another wish waits for its turn."""
        for name in ("tiles", "gone", "tiles"):
            runs.wishes.put(name)
        for _ in range(2):
            runs.start_wished(datetime.now(UTC) + timedelta(seconds=1))
            runs.wishes.put("tiles")
        (made,) = runs.client.get_scheduled_flow_runs_for_deployments([self.deployment(runs)])
        assert not made.auto_scheduled

    def test_a_run_without_a_process_is_called_crashed(self, runs: ServedRuns) -> None:
        """One that Prefect believes to be running or pending, after two minutes; not while somebody has the turn."""
        stuck = [runs.client.create_flow_run_from_deployment(self.deployment(runs), state=Pending()).id]
        stuck += [runs.client.create_flow_run_from_deployment(self.deployment(runs), state=Running()).id]
        runs.clear_silent(datetime.now(UTC) + timedelta(seconds=60))
        with turn(runs.workspace, "tiles", "run"):
            runs.clear_silent(datetime.now(UTC) + timedelta(minutes=3))
        assert [self.state(runs, one)[0] for one in stuck] == ["Pending", "Running"]
        runs.clear_silent(datetime.now(UTC) + timedelta(minutes=3))
        assert [self.state(runs, one) for one in stuck] == [("Crashed", "Its process is gone, and said nothing.")] * 2

    def test_bad_parameters_are_refused_by_the_server(self, runs: ServedRuns) -> None:
        """A run with parameters of another form is not even made."""
        with pytest.raises(Exception, match="Validation failed for field 'pipeline'"):
            runs.client.create_flow_run_from_deployment(self.deployment(runs), parameters={"pipeline": 5})


class TestDeployments:
    """What is on the server is what the file says, and nothing else is touched."""

    def test_what_is_as_wanted_stays(self, project: Project, tmp_path: Path, client: SyncPrefectClient) -> None:
        """A second time nothing changes, and a schedule that people switched off stays off."""
        config = project(tmp_path, schedule={"score": "5min"})
        wanted, place = wanted_deployments(load(config, {})), Place(str(config), str(config))
        first = bring_about(wanted, place, client)
        assert len(first.made) == 4
        (run,) = [one for name, one in deployments(client, config).items() if name == "run/tiles"]
        client.update_deployment_schedule(run.id, run.schedules[0].id, active=False)
        second = bring_about(wanted, place, client)
        assert second.sentences() == ()
        assert second.ids == first.ids
        assert [one.active for one in deployments(client, config)["run/tiles"].schedules] == [False]

    def test_a_name_of_another_file_is_refused(
        self, project: Project, tmp_path: Path, client: SyncPrefectClient
    ) -> None:
        """Two files with a pipeline of one name do not take each other's deployments."""
        config = project(tmp_path, schedule={"score": None})
        wanted = wanted_deployments(load(config, {}))
        bring_about(wanted, Place(str(config), str(config)), client)
        with pytest.raises(Exception, match=f"the deployment run/tiles on this Prefect server belongs to {config}"):
            bring_about(wanted, Place("/elsewhere/pipelines.yaml", "/elsewhere/pipelines.yaml"), client)

    def test_one_that_is_at_work_is_removed_later(
        self, project: Project, tmp_path: Path, client: SyncPrefectClient
    ) -> None:
        """Removed from the file, it is paused while its run is under way; the others go at once."""
        config = project(tmp_path, schedule={"score": "5min"})
        place = Place(str(config), str(config))
        wanted = wanted_deployments(load(config, {}))
        bring_about(wanted, place, client)
        run = client.create_flow_run_from_deployment(deployments(client, config)["run/tiles"].id, state=Running())
        changes = bring_about((), place, client)
        assert changes.busy == ("run/tiles",)
        assert len(changes.removed) == 3
        assert deployments(client, config)["run/tiles"].paused
        back = bring_about(wanted, place, client)
        assert back.changed == ("run/tiles",)
        assert not deployments(client, config)["run/tiles"].paused
        client.delete_flow_run(run.id)
        assert len(bring_about((), place, client).removed) == 4


def test_a_worker_of_a_pool_runs_what_was_deployed(
    project: Project,
    tmp_path: Path,
    prefect_api: str,
    client: SyncPrefectClient,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From the installed package; a second deploy changes nothing, and --remove takes all of it back."""
    config = project(tmp_path, schedule={"score": "1d"}, training={"epochs": 1})
    monkeypatch.setenv("PREFECT_API_URL", prefect_api)

    def command(*arguments: str) -> str:
        with pytest.raises(SystemExit) as left:
            main(["deploy", "--pool", "line-one", "--config", str(config), *arguments])
        printed = capsys.readouterr()
        return printed.out if left.value.code == 0 else printed.err

    def prefect(*arguments: str) -> None:
        variables = os.environ | {"PREFECT_HOME": str(tmp_path / "home")}
        subprocess.run([sys.executable, "-m", "prefect", *arguments], env=variables, check=True, capture_output=True)

    assert "there is no work pool 'line-one'" in command()
    prefect("work-pool", "create", "line-one", "--type", "process")
    assert "runs of the work pool 'line-one' (process) have no job variable 'image': leave it out" in command(
        "--image", "a:1"
    )
    assert command().startswith("New: run/tiles@line-one, recalibrate/tiles@line-one")
    assert command() == "Nothing changed.\n"
    there = deployments(client, config)["run/tiles@line-one"]
    assert (there.entrypoint, there.work_pool_name) == ("flows.run.run", "line-one")
    client.create_flow_run_from_deployment(there.id)
    prefect("worker", "start", "--pool", "line-one", "--run-once")
    assert open_ledger(load(config, {}).workspace, {}).batches.count("tiles") == 3
    assert command("--remove").startswith("Removed: ")
    assert deployments(client, config) == {}


@pytest.fixture(autouse=True)
def _clean(request: pytest.FixtureRequest) -> Iterator[None]:
    """All tests have a pipeline `tiles`: what one leaves on the server goes before the next."""
    yield
    if "client" not in request.fixturenames and "prefect_api" not in request.fixturenames:
        return
    with (
        temporary_settings({PREFECT_API_URL: request.getfixturevalue("prefect_api")}),
        get_client(sync_client=True) as client,
    ):
        for one in client.read_deployments():
            client.delete_deployment(one.id)


def test_without_a_server_it_says_so(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one sentence with what to do, and exit code 2."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    for command in (["serve"], ["deploy", "--pool", "local"]):
        with pytest.raises(SystemExit) as left:
            main([*command, "--config", str(project(tmp_path / command[0]))])
        assert left.value.code == 2
        said = capsys.readouterr().err
        assert f"'reconwatch {command[0]}' needs a Prefect server, and no server is set up (PREFECT_API_URL)" in said


def test_what_is_wrong_is_said_once_and_again_when_it_is_right() -> None:
    """Not at every look, which is every two seconds."""
    said: list[str] = []
    complaint = Complaint(said.append, said.append)
    complaint.is_right("well")
    for sentence in ("wrong", "wrong", "otherwise wrong"):
        complaint.is_wrong(sentence)
    complaint.is_right("well")
    assert said == ["wrong", "otherwise wrong", "well"]


def test_a_file_that_is_gone_for_a_moment_is_a_fault_like_others(project: Project, tmp_path: Path) -> None:
    """The last good one goes on."""
    config = project(tmp_path)
    said: list[str] = []
    following = Following(config, {}, Complaint(said.append, said.append))
    following.look()
    text = config.read_text()
    config.unlink()
    following.look()
    following.look()
    assert following.settings is not None
    assert len(said) == 1
    assert said[0].startswith(f"no pipelines.yaml in {tmp_path}")
    config.write_text(text)
    following.look()
    assert said[1] == "pipelines.yaml is in order again."
