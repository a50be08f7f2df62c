"""With a Prefect server at hand every command is a flow run there; without one nothing of Prefect is even imported."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.request import Request, urlopen

import pytest
from mlflow import MlflowClient
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.notifications import (
    CustomWebhookNotificationBlock,
    MicrosoftTeamsWebhook,
    PagerDutyWebHook,
    SlackWebhook,
)
from prefect.exceptions import ParameterTypeError
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from flows.alerts import DeliveryFailed
from flows.calibrate import calibrate
from flows.channels_prefect import BlockType, saved_secret
from flows.prefect_server import find_server
from flows.review import recalibrate, retrain, review
from flows.run import run
from flows.score import score
from flows.train import train
from flows.workspace import open_workspace
from tests.ports import free_port

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
Process = subprocess.CompletedProcess[str]
SLACK = "https://hooks.slack.com/services/AAAAAAAAA/BBBBBBBBB"
TEAMS = (
    "https://prod-no.uksouth.logic.azure.com:443/workflows/3XXX5/triggers/manual/paths/invoke"
    "?api-version=2016-06-01&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig=iXXXU"
)
ODD = "2 {da} {{m}} ü [x](y)"
# Several command lines in one process, which imports everything once.
COMMANDS = """
import json
import sys
from flows.cli import main
for line in json.loads(sys.argv[1]):
    try:
        main(line)
    except SystemExit as left:
        print("exit", left.code)
"""
WHAT_IS_LEFT = """
import psutil
names = sorted({name.partition(".")[0] for name in sys.modules} & {"prefect", "mlflow"})
print(json.dumps([names, [child.name() for child in psutil.Process().children(recursive=True)]]))
"""


@dataclass(frozen=True)
class Server:
    """A Prefect server of the tests' own."""

    url: str

    def rows(self, kind: str, **filters: Any) -> Any:
        """What its API shows of `kind`: flow_runs, task_runs, artifacts, logs or events."""
        request = Request(f"{self.url}/{kind}/filter", json.dumps(filters).encode())
        request.add_header("Content-Type", "application/json")
        with urlopen(request) as answer:
            return json.load(answer)

    def flow_run(self, config: Path, name: str) -> dict[str, Any]:
        """The one flow run of that name on that file."""
        runs = self.rows("flow_runs", flow_runs={"name": {"any_": [name]}})
        run: dict[str, Any]
        (run,) = [run for run in runs if run["parameters"]["config"] == str(config)]
        return run

    def of_run(self, kind: str, run: dict[str, Any], count: int) -> list[dict[str, Any]]:
        """Its rows of a flow run; the server writes them down a moment after the run, so they are waited for."""
        for _ in range(300):
            rows: list[dict[str, Any]] = self.rows(kind, flow_runs={"id": {"any_": [run["id"]]}})
            if len(rows) >= count and all(row.get("state_type") not in ("PENDING", "RUNNING") for row in rows):
                break
            time.sleep(0.1)
        return rows


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """That of the tests, with a PREFECT_HOME of this module's own."""
    home = tmp_path_factory.mktemp("prefect")
    return {**os.environ, "PREFECT_HOME": str(home), "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def server(environment: dict[str, str]) -> Iterator[Server]:
    """`prefect server start` on a free port of loopback."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    start = [sys.executable, "-m", "prefect", "server", "start", "--no-ui", "--host", "127.0.0.1", "--port", str(port)]
    log = Path(environment["PREFECT_HOME"]) / "server.log"
    with log.open("w") as output, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        process = subprocess.Popen(start, env=environment, stdout=output, stderr=output)
        try:
            while find_server({"PREFECT_API_URL": url}).url is None:
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
            yield Server(url)
        finally:
            process.terminate()
            process.wait()


@pytest.fixture(scope="module")
def received() -> Iterator[tuple[str, list[Any]]]:
    """A web server on loopback: its address, and the JSON that it was sent."""
    bodies: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        thread = Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{web.server_port}/alerts", bodies
        web.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def config(
    project: Callable[..., Path],
    server: Server,
    received: tuple[str, list[Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A project with a batch of an odd name, whose alerts go through a block saved in Prefect, and are events there."""
    block = CustomWebhookNotificationBlock(
        name="alarms",
        url=received[0],
        json_data={"title": "{{subject}}", "message": "{{body}}"},
        headers=None,
        cookies=None,
    )
    with temporary_settings({PREFECT_API_URL: server.url}):
        save: Any = block.save  # its type leaves out _sync
        save("alarms", _sync=True)
    path = project(
        tmp_path_factory.mktemp("project"), alerts=[{"type": "webhook", "block": "alarms"}, {"type": "prefect_event"}]
    )
    inbox = path.parent / "data" / "inbox"
    odd = (inbox / "2-damaged").rename(inbox / ODD)
    (odd / "image-000.png").rename(odd / "!{name} é.png")
    return path


@pytest.fixture(scope="module")
def first(config: Path, server: Server, environment: dict[str, str]) -> Process:
    """`reconwatch run --json`, which trains, calibrates and scores three batches."""
    command = [sys.executable, "-m", "flows.cli", "run", "--json", "--config", str(config)]
    variables = environment | {"PREFECT_API_URL": server.url}
    return subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def new(project: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that is not trained yet."""
    return project(tmp_path_factory.mktemp("new"))


@pytest.fixture(scope="module")
def verbs(config: Path, new: Path, server: Server, environment: dict[str, str], first: Process) -> Process:
    """score without a champion; then, where there is one, the other verbs, the last of them on an empty folder too."""
    data = config.parent / "data"
    (data / "empty").mkdir()
    lines = [[verb, "tiles"] for verb in ("train", "calibrate", "review", "retrain")]
    lines += [["score", "tiles", str(data / "empty"), str(data / "nominal")]]
    lines = [["score", "tiles", "--config", str(new)], *([*line, "--config", str(config)] for line in lines)]
    return commands(environment | {"PREFECT_API_URL": server.url}, lines)


def commands(environment: dict[str, str], lines: list[list[str]], script: str = COMMANDS) -> Process:
    arguments = [sys.executable, "-c", script, json.dumps(lines)]
    return subprocess.run(arguments, env=environment, cwd=ROOT, capture_output=True, text=True)


def exits(process: Process) -> list[int]:
    """The exit codes of its command lines."""
    return [int(line.removeprefix("exit ")) for line in process.stdout.splitlines() if line.startswith("exit ")]


class TestSavedSecrets:
    """What a channel's `block` names is looked up in the server when an alert is sent."""

    @pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # apprise imports it
    @pytest.mark.parametrize(
        ("kind", "block", "secret"),
        [
            ("Slack Webhook", lambda: SlackWebhook(url=SecretStr(f"{SLACK}/{'c' * 24}")), f"{SLACK}/{'c' * 24}"),
            ("Microsoft Teams Webhook", lambda: MicrosoftTeamsWebhook(url=SecretStr(TEAMS)), TEAMS),
            (
                "Pager Duty Webhook",
                lambda: PagerDutyWebHook(integration_key=SecretStr("r" * 32), api_key=SecretStr("a" * 20)),
                "r" * 32,
            ),
        ],
    )
    def test_each_kind_of_block_gives_its_secret(
        self, server: Server, kind: BlockType, block: Callable[[], NotificationBlock], secret: str
    ) -> None:
        """The address, or PagerDuty's routing key, is that of the block, for channels to use in their own way."""
        with temporary_settings({PREFECT_API_URL: server.url}):
            save: Any = block().save  # its type leaves out _sync
            save("of-the-test", _sync=True)
            assert saved_secret(kind, "of-the-test") == secret

    def test_an_absent_block_is_said(self, server: Server) -> None:
        """The alert waits, and the sentence says what to do."""
        with temporary_settings({PREFECT_API_URL: server.url}), pytest.raises(DeliveryFailed) as failure:
            saved_secret("Slack Webhook", "absent")
        assert str(failure.value) == (
            "Prefect has no Slack Webhook block 'absent': save one by that name, or write its secret as ${VARIABLE}"
        )


class TestARun:
    """`reconwatch run` with a server at hand."""

    def test_standard_output_holds_the_json_alone(self, first: Process) -> None:
        """Prefect's lines go to standard error."""
        assert first.returncode == 0
        (report,) = json.loads(first.stdout)
        assert [batch["verdict"]["diagnosis"] for batch in report["batches"]] == ["none", "defects", "unreadable"]
        assert "Beginning flow run 'run-tiles'" in first.stderr

    def test_it_is_a_completed_flow_run(self, first: Process, config: Path, server: Server) -> None:
        """Its name holds the verb and the pipeline, its parameters the file and the pipeline."""
        run = server.flow_run(config, "run-tiles")
        assert run["state_type"] == "COMPLETED"
        assert run["parameters"] == {"config": str(config), "pipeline": "tiles"}

    def test_every_batch_is_a_task_run(self, first: Process, config: Path, server: Server) -> None:
        """It has the batch's name, whatever letters that holds."""
        tasks = server.of_run("task_runs", server.flow_run(config, "run-tiles"), 3)
        assert {task["name"]: task["state_type"] for task in tasks} == {
            "tiles 1-nominal": "COMPLETED",
            f"tiles {ODD}": "COMPLETED",
            "tiles 3-unreadable": "COMPLETED",
        }

    def test_an_artifact_leads_to_mlflow(self, first: Process, config: Path, server: Server) -> None:
        """It is Markdown that says what was done, names batches as they are, and links to the experiment."""
        artifacts = server.of_run("artifacts", server.flow_run(config, "run-tiles"), 2)
        (artifact,) = [artifact for artifact in artifacts if artifact["key"] != "status"]
        assert (artifact["key"], artifact["type"]) == ("run-tiles", "markdown")
        text = artifact["data"]
        assert "- Version 1 is champion of tiles." in text
        assert "- 2 {da} {{m}} ü \\[x\\](y): scored. 10 of 20 images are flagged" in text
        assert text.splitlines()[-1].startswith("[Open in MLflow](http://127.0.0.1:5000/#/experiments/")

    def test_an_artifact_says_how_all_pipelines_stand(self, first: Process, config: Path, server: Server) -> None:
        """The table of `reconwatch status`, each pipeline leading to MLflow."""
        artifacts = server.of_run("artifacts", server.flow_run(config, "run-tiles"), 2)
        (status,) = [artifact["data"] for artifact in artifacts if artifact["key"] == "status"]
        assert status.startswith("| pipeline | state | champion | threshold | batches | last batch |")
        assert (
            "| [tiles](http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning) | ready | 1 | "
            in status
        )

    def test_every_mlflow_run_leads_back(self, first: Process, config: Path, server: Server) -> None:
        """Its tags name the flow run, and the address of its page."""
        flow_run = server.flow_run(config, "run-tiles")
        tracking = open_workspace(config, {}).tracking
        client = MlflowClient(tracking.uri, tracking.uri)
        experiment = client.get_experiment_by_name("reconwatch/tiles")
        assert experiment is not None
        of_it = f"tags.`reconwatch.flow_run` = '{flow_run['id']}'"
        found = client.search_runs([experiment.experiment_id], of_it)
        kinds = sorted(run.data.tags["reconwatch.kind"] for run in found)
        assert kinds == ["batch", "batch", "batch", "calibration", "monitor", "training"]
        assert all(run.data.tags["reconwatch.flow_run_url"].endswith(flow_run["id"]) for run in found)

    def test_its_log_is_kept(self, first: Process, config: Path, server: Server) -> None:
        """The server shows what the run said."""
        run = server.flow_run(config, "run-tiles")
        lines = server.rows("logs", logs={"flow_run_id": {"any_": [run["id"]]}})
        assert any(line["message"].startswith("Training tiles: http://127.0.0.1:5000/") for line in lines)

    def test_alerts_are_events(self, first: Process, server: Server) -> None:
        """The server shows an event an alarm, of the pipeline's resource and with what the webhook is sent."""
        for _ in range(100):  # the server writes them down a moment later
            found = server.rows("events", filter={"event": {"prefix": ["reconwatch.alert."]}})["events"]
            if len(found) == 2:
                break
            time.sleep(0.1)
        assert {event["resource"]["prefect.resource.id"] for event in found} == {"reconwatch.pipeline.tiles"}
        assert {event["event"] for event in found} == {"reconwatch.alert.alarm"}
        assert {event["payload"]["batch"] for event in found} == {ODD, "3-unreadable"}

    def test_alerts_go_through_a_saved_block(self, first: Process, received: tuple[str, list[Any]]) -> None:
        """One request an alarm, made of the block's own template; `{{` of a name stands for no placeholder there."""
        titles = sorted(body["title"] for body in received[1])
        assert titles == [
            "reconwatch: batch 2 {da} { {m}} ü [x](y) of tiles raised an alarm (defects)",
            "reconwatch: batch 3-unreadable of tiles raised an alarm (unreadable)",
        ]
        (message,) = [body["message"] for body in received[1] if "{da}" in body["title"]]
        assert "!{name} é.png" in message


class TestTheOtherVerbs:
    """train, calibrate, review, retrain and score with a server at hand."""

    @pytest.mark.parametrize("verb", ["train", "calibrate", "review", "retrain"])
    def test_each_is_a_flow_run(self, verbs: Process, config: Path, server: Server, verb: str) -> None:
        """It has completed, with an artifact that leads to its MLflow run."""
        run = server.flow_run(config, f"{verb}-tiles")
        assert run["state_type"] == "COMPLETED"
        artifacts = server.of_run("artifacts", run, 2)
        (artifact,) = [artifact for artifact in artifacts if artifact["key"] != "status"]
        assert artifact["key"] == f"{verb}-tiles"
        assert "/runs/" in artifact["data"].splitlines()[-1]

    def test_what_cannot_be_done_fails_in_one_sentence(self, verbs: Process, new: Path, server: Server) -> None:
        """Without a champion the exit code is 2, and the flow run and standard error say why, without a traceback."""
        run = server.flow_run(new, "score-tiles")
        sentence = run["state"]["message"]
        assert run["state_type"] == "FAILED"
        assert sentence.startswith("pipeline 'tiles' has no champion yet: run 'reconwatch train tiles'")
        assert exits(verbs)[0] == 2
        assert verbs.stderr.splitlines().count(f"Error: {sentence}") == 1
        assert "Traceback" not in verbs.stderr

    def test_a_batch_that_fails_fails_its_runs(self, verbs: Process, config: Path, server: Server) -> None:
        """Its task and the flow say why, the other batch is scored, and the exit code is 1."""
        reason = "batch 'empty' holds no image: put images into it or remove it"
        run = server.flow_run(config, "score-tiles")
        assert run["state_type"] == "FAILED"
        assert run["state"]["message"] == f"batch empty: {reason}"
        tasks = server.of_run("task_runs", run, 2)
        assert {task["name"]: task["state"]["message"] for task in tasks} == {
            "tiles empty": reason,
            "tiles nominal": "",
        }
        assert exits(verbs)[-1] == 1
        assert f"Error: batch empty: {reason}; it is tried again by the next run" in verbs.stderr

    @pytest.mark.parametrize(
        "flow", [train, calibrate, score, run, review, recalibrate, retrain], ids=lambda flow: str(flow.name)
    )
    def test_wrong_parameters_are_refused(self, flow: Any) -> None:
        """A flow takes names and paths as text, and nothing else for them."""
        with pytest.raises(ParameterTypeError, match="pipeline: Input should be a valid string"):
            flow.validate_parameters({"config": "pipelines.yaml", "pipeline": 3})


def test_without_a_server_nothing_of_prefect_happens(
    project: Callable[..., Path], environment: dict[str, str], tmp_path: Path
) -> None:
    """Each command says that Prefect records nothing; Prefect is not imported, no server started, nothing written."""
    home = tmp_path / "prefect"
    home.mkdir()
    path = project(tmp_path / "project", alerts=["log"])
    lines = [["run"], ["score", "tiles"]]
    done = commands(
        environment | {"PREFECT_HOME": str(home)},
        [[*line, "--config", str(path)] for line in lines],
        COMMANDS + WHAT_IS_LEFT,
    )
    said = "Prefect records nothing of this: no server is set up (PREFECT_API_URL)."
    assert done.stderr.splitlines().count(said) == 2
    assert exits(done) == [0, 0]
    assert json.loads(done.stdout.splitlines()[-1]) == [["mlflow"], []]
    assert list(home.iterdir()) == []
