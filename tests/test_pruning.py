"""Old batches: what takes room goes when somebody says so, and what was decided and said stays."""

import json
import logging
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import AssessmentSource, Feedback
from mlflow.tracing.client import TracingClient

from flows.cli import main
from flows.ledger import utc_now
from flows.progress import LogProgress
from flows.pruning import Pruning, plan_pruning, prune
from flows.replay import replay
from flows.running import run
from flows.workspace import Workspace, open_workspace

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(mlflow|sqlalchemy).*"),
]

Project = Callable[..., Path]
QUIET = LogProgress(logging.getLogger("quiet"))
YEAR = timedelta(days=365)


@pytest.fixture
def workspace(project: Project, tmp_path: Path) -> Workspace:
    """A project whose three batches are decided."""
    workspace = open_workspace(project(tmp_path), {})
    assert run(workspace, "tiles", QUIET).failure == ""
    return workspace


def in_a_year(workspace: Workspace, scores_too: bool = False) -> Pruning:
    """What will be old in two years."""
    return plan_pruning(
        workspace.settings.pipeline("tiles"), workspace, YEAR, scores_too, QUIET, lambda: utc_now() + 2 * YEAR
    )


def test_pages_pictures_and_queues_go_and_the_rest_stays(workspace: Workspace) -> None:
    """Verdicts, metrics, scores; and answers that nobody had read yet become labels first."""
    client, tracing = MlflowClient(workspace.tracking.uri), TracingClient(workspace.tracking.uri)
    found = client.get_experiment_by_name("reconwatch/tiles review")
    assert found is not None
    (trace, *_) = tracing.search_traces(locations=[found.experiment_id], max_results=1)
    given = Feedback(name="verdict", value="true outlier", source=AssessmentSource("HUMAN", "anna"))
    tracing.log_assessment(trace.info.trace_id, given)
    before = workspace.ledger.batches.decided("tiles")
    plan = in_a_year(workspace)
    assert [old.record.batch for old in plan.batches] == ["1-nominal", "2-damaged", "3-unreadable"]
    assert all(set(old.artifacts) == {"report.html", "review", "worst.png"} for old in plan.batches)
    done = prune(plan, workspace.settings.pipeline("tiles"), workspace, QUIET)
    assert done.sentences()[0].endswith("and 3 review queues are gone.")
    assert workspace.ledger.batches.decided("tiles") == before
    assert [label.reviewer for label in workspace.ledger.labels.of("tiles")] == ["anna"]
    for record in before:
        assert workspace.tracking.artifact_names(record.run_id) == ["scores.parquet", "sha256.txt"]
        shown = client.get_run(record.run_id).data
        assert shown.metrics["images_scored"] == record.n_scored
        assert "reconwatch.pruned" in shown.tags
    assert tracing.search_traces(locations=[found.experiment_id], max_results=10) == []
    assert in_a_year(workspace).batches == ()
    assert workspace.ledger.queues.batches_without("tiles", 20) == ()
    assert run(workspace, "tiles", QUIET).batches == ()


def test_scores_go_where_that_is_wished_and_replay_says_so(workspace: Workspace) -> None:
    """The verdicts stay all the same."""
    plan = in_a_year(workspace, scores_too=True)
    assert "Without scores such a batch cannot be replayed." in plan.sentences()
    prune(plan, workspace.settings.pipeline("tiles"), workspace, QUIET)
    pipeline = workspace.settings.pipeline("tiles")
    again = replay(pipeline, 0.1, None, None, None, workspace.tracking, workspace.ledger, QUIET)
    assert [batch.now for batch in again.batches] == [None, None, None]
    assert [batch.then.verdict for batch in again.batches] == ["nominal", "defects", "unreadable"]


def test_young_batches_and_deleted_runs_are_let_be(workspace: Workspace) -> None:
    """What is not old stays whole; a run that people deleted is none of ours."""
    assert plan_pruning(workspace.settings.pipeline("tiles"), workspace, YEAR, False, QUIET).batches == ()
    record = workspace.ledger.batches.decided("tiles")[0]
    workspace.tracking.delete(record.run_id)
    plan = in_a_year(workspace)
    assert plan.batches[0].artifacts == {}
    prune(plan, workspace.settings.pipeline("tiles"), workspace, QUIET)


def test_what_a_store_lost_by_itself_stops_nothing(workspace: Workspace) -> None:
    """A folder of artifacts that is gone holds nothing."""
    shutil.rmtree(workspace.settings.workspace / "artifacts")
    prune(in_a_year(workspace), workspace.settings.pipeline("tiles"), workspace, QUIET)


def test_the_command_says_first_and_does_with_yes(workspace: Workspace, capfd: pytest.CaptureFixture[str]) -> None:
    """And takes no time but one that it understands."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main(["prune", "tiles", "--config", str(workspace.settings.path), *arguments])
        return int(left.value.code or 0), *capfd.readouterr()

    with workspace.ledger._database.transaction() as connection:
        connection.exec_driver_sql("UPDATE batches SET finished_at = '2024-05-17 12:00:00'")
    code, out, errors = call("--older-than", "180d")
    assert code == 0
    assert "3 batches of tiles decided before" in out
    assert "What stays: verdicts, labels, metrics and runs, and the scores of every image." in out
    assert "Nothing was changed: reconwatch prune tiles --older-than 180d" in errors
    record = workspace.ledger.batches.decided("tiles")[0]
    assert len(workspace.tracking.artifact_names(record.run_id)) > 1
    document = json.loads(call("--older-than", "180d", "--json", "--yes")[1])
    assert (document["done"], len(document["batches"])) == (True, 3)
    assert workspace.tracking.artifact_names(record.run_id) == ["scores.parquet", "sha256.txt"]
    assert "is left to go" in call("--older-than", "180d")[1]
    code, _, errors = call("--older-than", "soon")
    assert code == 2
    assert "--older-than 'soon' is not a time: write a whole number and its unit" in errors
