"""Labels in MLflow's Review tab behind a login: a real server, a real browser, and whose name a label has."""

import logging
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow.entities import AssessmentSource, Feedback
from mlflow.exceptions import MlflowException
from mlflow.tracing.client import TracingClient
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from playwright.sync_api import Browser, expect

from flows.calibration import calibrate
from flows.progress import LogProgress
from flows.review_queue import let_reviewers_in, read_answers
from flows.running import run
from flows.words import reason_of
from flows.workspace import Workspace, open_workspace
from tests.conftest import Dashboard
from tests.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:(mlflow|sqlalchemy).*")]

SECONDS = 60_000  # milliseconds that MLflow's pages may take on a busy machine
QUIET = LogProgress(logging.getLogger("quiet"))
PASSWORD = "planted-password-1"


@pytest.fixture(scope="module")
def server(project: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    """A project, and an MLflow server with basic authentication; who runs the pipeline there is no administrator."""
    folder = tmp_path_factory.mktemp("login")
    config = project(folder / "project", review={"audit": 4, "flagged": 4, "reviewers": ["ada", "nobody"]})
    port = free_port()
    users = folder / "users.ini"
    users.write_text(
        f"[mlflow]\ndatabase_uri = sqlite:///{folder / 'users.db'}\ndefault_permission = EDIT\n"
        f"auth_cache_ttl_seconds = 60\nadmin_username = admin\nadmin_password = {PASSWORD}\n"
    )
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    environment = os.environ | {
        "MLFLOW_AUTH_CONFIG_PATH": str(users),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "NO_PROXY": "127.0.0.1",
    }
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    dashboard = Dashboard(config, f"http://127.0.0.1:{port}", process)
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in (("NO_PROXY", "127.0.0.1"), ("USERNAME", "admin"), ("PASSWORD", PASSWORD)):
            monkeypatch.setenv(name if name == "NO_PROXY" else f"MLFLOW_TRACKING_{name}", value)
        try:
            dashboard.wait()
            for name in ("line", "ada", "bob", "cid"):
                user = {"username": name, "password": PASSWORD}
                login = get_default_host_creds(dashboard.url)  # type: ignore[no-untyped-call]
                assert http_request(login, "/api/2.0/mlflow/users/create", "POST", json=user).ok  # type: ignore[no-untyped-call]
            monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "line")
            yield dashboard
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


class Listening(LogProgress):
    """Keeps what was warned of."""

    def __init__(self) -> None:
        super().__init__(logging.getLogger("quiet"))
        self.said: list[str] = []

    def warn(self, sentence: str) -> None:
        self.said.append(sentence)


@pytest.fixture(scope="module")
def progress() -> Listening:
    return Listening()


@pytest.fixture(scope="module")
def workspace(server: Dashboard, progress: Listening) -> Workspace:
    """The project after its first run on the server."""
    workspace = open_workspace(server.config, {"MLFLOW_TRACKING_URI": server.url})
    assert run(workspace, "tiles", progress).failure == ""
    return workspace


def queue_of(workspace: Workspace, batch: str) -> tuple[str, str]:
    """The queue of a batch: its id, and where a browser shows it."""
    (record,) = [one for one in workspace.ledger.batches.decided("tiles") if one.batch == batch]
    queue = workspace.ledger.queues.of(record.key)
    assert queue
    return queue, workspace.tracking.review.url("tiles", queue)


def test_a_pipeline_is_begun_by_who_is_no_administrator(workspace: Workspace) -> None:
    """Training, calibration and the first batches need no grant but the server's default."""
    assert workspace.tracking.registry.champion("tiles").version == "1"
    assert {batch.batch for batch in workspace.ledger.batches.decided("tiles")} >= {"1-nominal", "2-damaged"}


def test_who_is_no_user_is_said(workspace: Workspace, progress: Listening) -> None:
    """The queues are there all the same."""
    told = "Review of tiles in MLflow does not let in nobody (User with username=nobody not found)"
    assert progress.said.count(told) == 1


def test_a_reviewer_labels_in_the_browser(workspace: Workspace, server: Dashboard, browser: Browser) -> None:
    """Her name is the one she is logged in by; an answer that a program sends in her name is left out."""
    queue, url = queue_of(workspace, "2-damaged")
    context = browser.new_context(
        viewport={"width": 1400, "height": 900}, http_credentials={"username": "ada", "password": PASSWORD}
    )
    context.set_default_timeout(SECONDS)
    page = context.new_page()
    page.goto(url)
    page.get_by_role("button", name="Start review").click()
    expect(page.get_by_role("img", name="panel")).to_be_visible(timeout=SECONDS)
    page.get_by_text("Select an option").click()
    page.get_by_role("option", name="true outlier").click()
    page.get_by_placeholder("Rationale (optional)").fill("by ada")
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_text("1 of ", exact=False).first).to_be_visible(timeout=SECONDS)
    context.close()

    client = TracingClient(server.url)
    items = client._list_review_queue_items(queue, max_results=100)
    done = [item.completed_by for item in items if item.completed_by]
    assert done == ["ada"]
    waiting = next(item.item_id for item in items if not item.completed_by)
    forged = Feedback(name="verdict", value="unsure", source=AssessmentSource("HUMAN", "ada"))
    client.log_assessment(waiting, forged)

    progress = Listening()
    pipeline = workspace.settings.pipeline("tiles")
    assert (read_answers(pipeline, workspace, progress), read_answers(pipeline, workspace, progress)) == (1, 0)
    (label,) = workspace.ledger.labels.of("tiles")
    assert (label.reviewer, label.comment, label.way) == ("ada", "by ada", "mlflow")
    assert progress.said[0].startswith("1 answers in MLflow are left out, such as: 'ada' on ")


def test_who_is_no_reviewer_cannot_begin(workspace: Workspace, browser: Browser) -> None:
    """A user of the server whom review.reviewers does not name sees the queue's name at most."""
    context = browser.new_context(http_credentials={"username": "bob", "password": PASSWORD})
    context.set_default_timeout(SECONDS)
    page = context.new_page()
    with page.expect_response(lambda answer: "/items/list?" in answer.url) as items:
        page.goto(queue_of(workspace, "2-damaged")[1])
    assert items.value.status == 403
    expect(page.get_by_role("button", name="Start review")).to_have_count(0)
    context.close()


def test_who_is_named_later_labels_the_queues_that_are_there(workspace: Workspace, server: Dashboard) -> None:
    """The next run gives them to cid, too, and takes them from nobody."""
    queue, _ = queue_of(workspace, "2-damaged")
    pipeline = workspace.settings.pipeline("tiles")
    review = pipeline.review.model_copy(update={"reviewers": ("ada", "Cid")})
    progress = Listening()
    let_reviewers_in(pipeline.model_copy(update={"review": review}), workspace, progress)
    assert TracingClient(server.url)._get_review_queue(queue).users == ["ada", "cid", "nobody"]
    assert progress.said == ["Review of tiles in MLflow does not let in Cid (User with username=Cid not found)"]


def test_a_colleague_promotes(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may change a model and delete nothing of it can let a challenger decide, which then challenges nobody."""
    registry = workspace.tracking.registry
    calibrate(workspace.settings.pipeline("tiles"), workspace.tracking, QUIET)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "bob")
    registry.challenge("tiles", "1")
    assert registry.challenger("tiles") is not None
    registry.promote("tiles", "1")
    champion = registry.champion_version("tiles")
    assert champion is not None
    assert (champion[0], registry.challenger("tiles")) == ("1", None)


def test_what_a_login_may_not_is_said(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the grant that it lacks; the same from each command."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "bob")
    queue, _ = queue_of(workspace, "2-damaged")
    with pytest.raises(MlflowException) as raised:
        workspace.tracking.review.delete("tiles", queue)
    assert "needs a grant of MANAGE on its experiments" in reason_of(raised.value)
    progress = Listening()
    let_reviewers_in(workspace.settings.pipeline("tiles"), workspace, progress)
    assert [sentence.partition(" (")[0] for sentence in progress.said] == [
        "Review of tiles in MLflow does not let in ada, nobody, unless they were let in before"
    ]
