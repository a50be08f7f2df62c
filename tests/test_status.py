"""How every pipeline stands: as each one's own runs and versions say, and asked for together."""

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from flows import running
from flows.due import calibration_is_due
from flows.progress import LogProgress
from flows.status import pipeline_states
from flows.workspace import Workspace, open_workspace

PROGRESS = LogProgress(logging.getLogger("quiet"))

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:mlflow", "ignore::DeprecationWarning")


def with_pipelines(config: Path, names: list[str], **sections: Any) -> Workspace:
    """A workspace in which these pipelines are like `tiles`, but for sections of their own."""
    document = yaml.safe_load(config.read_text(encoding="utf-8"))
    document["pipelines"] |= dict.fromkeys(names, document["pipelines"]["tiles"] | sections)
    config.write_text(yaml.safe_dump(document), encoding="utf-8")
    return open_workspace(config, {})


def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often MLflow's client is asked for what, from now on."""
    counts: Counter[str] = Counter()

    def counted(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            counts[name] += 1
            return method(*arguments, **options)

        return call

    for name in dir(MlflowClient):
        if name.startswith(("get_", "search_")):
            monkeypatch.setattr(MlflowClient, name, counted(name, getattr(MlflowClient, name)))
    return counts


def test_each_state_has_its_words(project: Callable[..., Path], tmp_path: Path) -> None:
    """From a pipeline that is new to one whose configuration is another one since it was trained."""
    config = project(tmp_path)
    workspace = with_pipelines(config, ["new", "half", "again"])
    for name in ("tiles", "again"):
        assert running.run(workspace, name, PROGRESS).failure == ""
    for name in ("half", "again"):
        running.train(workspace, name, PROGRESS)
    states = {state.name: state for state in pipeline_states(workspace)}
    assert {name: state.state for name, state in states.items()} == {
        "tiles": "ready",
        "new": "not trained yet",
        "half": "trained, not calibrated",
        "again": "a newer detector waits for calibration",
    }
    for name, state in states.items():
        assert calibration_is_due(workspace, workspace.settings.pipeline(name)) == ("calibrat" in state.state)
        assert state.champion == (workspace.tracking.registry.champion_version(name) or (None,))[0]
    workspace.ledger.close()
    workspace = with_pipelines(config, ["tiles"], training={"epochs": 6})
    states = {state.name: state for state in pipeline_states(workspace)}
    assert states["tiles"].state == "configuration changed since training"
    assert states["tiles"].url == workspace.tracking.addresses.pipeline("tiles")
    workspace.ledger.close()


def test_mlflow_is_asked_no_more_often_for_many_pipelines(
    project: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand pipelines would be asked for one after the other for minutes."""
    config = project(tmp_path)
    workspace = open_workspace(config, {})
    running.train(workspace, "tiles", PROGRESS)
    workspace.ledger.close()
    counts = asked(monkeypatch)
    numbers = []
    for more in (0, 30):
        workspace = with_pipelines(config, [f"line-{number}" for number in range(more)])
        counts.clear()
        assert len(pipeline_states(workspace)) == 1 + more
        numbers.append(dict(counts))
        workspace.ledger.close()
    assert numbers[0] == numbers[1]
    assert 0 < sum(numbers[0].values()) < 10
