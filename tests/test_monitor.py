"""A pipeline over time: each decided batch is one point in its monitor run, whatever dies, and one on its page."""

import json
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from flows import monitor
from flows.ledger.timeline import Timeline
from flows.monitor import MEASURED, PAGE, monitor_run, update_monitor
from flows.progress import LogProgress
from flows.running import RunReport, run, score
from flows.tracking import Tracking
from flows.workspace import Workspace, open_workspace

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(mlflow|sqlalchemy).*")

Project = Callable[..., Path]
SmallImages = Callable[[Path, int, int], list[Path]]
QUIET = LogProgress(logging.getLogger("quiet"))


@pytest.fixture(scope="module")
def workspace(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return open_workspace(project(tmp_path_factory.mktemp("project")), {})


@pytest.fixture(scope="module")
def report(workspace: Workspace) -> RunReport:
    """Training, calibration and three batches."""
    return run(workspace, "tiles", QUIET)


@pytest.fixture(scope="module")
def client(workspace: Workspace) -> MlflowClient:
    return MlflowClient(workspace.tracking.uri, workspace.tracking.uri)


@pytest.fixture
def shown(report: RunReport, workspace: Workspace) -> str:
    """The monitor run that shows what is decided."""
    update_monitor("tiles", workspace.tracking, workspace.ledger)
    return monitor_run("tiles", workspace.tracking, workspace.ledger)


def page_of(workspace: Workspace, run_id: str, folder: Path) -> Any:
    """The data of the run's page."""
    return held_by(workspace.tracking.artifact(run_id, PAGE, folder).read_text(encoding="utf-8"))


def held_by(text: str) -> Any:
    """The data of a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def steps(client: MlflowClient, run_id: str, metric: str = "flag_rate") -> list[int]:
    """The steps of a metric's points, as they were logged."""
    return [point.step for point in client.get_metric_history(run_id, metric)]


class TestMonitorRun:
    """One run a pipeline, for as long as it lives."""

    def test_each_batch_is_a_point(self, client: MlflowClient, shown: str, workspace: Workspace) -> None:
        """Every measure has a value by the batch's number, at the time at which the batch was decided."""
        points = workspace.ledger.timeline.points("tiles")
        assert [point.number for point in points[:3]] == [1, 2, 3]
        assert [point.batch.batch for point in points[:3]] == ["1-nominal", "2-damaged", "3-unreadable"]
        for name in MEASURED:
            assert steps(client, shown, name)[:3] == [1, 2, 3], name
        rates = client.get_metric_history(shown, "flag_rate")
        assert [point.value for point in rates[:3]] == [
            point.batch.n_flagged / point.batch.n_scored for point in points[:3]
        ]
        assert rates[0].timestamp == int(points[0].batch.finished_at.timestamp() * 1000)
        assert [point.value for point in client.get_metric_history(shown, "alarm")[:3]] == [0, 1, 1]
        assert client.get_metric_history(shown, "unreadable_share")[2].value == 0.25

    def test_it_is_found_by_its_kind(self, client: MlflowClient, shown: str) -> None:
        """There is one, and its description leads to its page, the last batch and the version that decided it."""
        experiment = client.get_experiment_by_name("reconwatch/tiles")
        assert experiment is not None
        found = client.search_runs([experiment.experiment_id], "tags.`reconwatch.kind` = 'monitor'")
        assert [run.info.run_id for run in found] == [shown]
        description = found[0].data.tags["mlflow.note.content"]
        assert f"/runs/{shown}/artifacts/monitor.html" in description
        assert "decided by [version 1](" in description

    def test_every_batch_leads_to_it(self, client: MlflowClient, report: RunReport, shown: str) -> None:
        """From a batch's run one gets to the pipeline's, from the first batch on."""
        for batch in report.batches:
            description = client.get_run(batch.run_id or "").data.tags["mlflow.note.content"]
            assert f"/runs/{shown}?" in description

    def test_a_process_that_dies_logs_no_point_twice(
        self,
        client: MlflowClient,
        shown: str,
        workspace: Workspace,
        small_images: SmallImages,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Killed after MLflow took the points and before the ledger knew, the next run shows them once."""
        before = steps(client, shown)
        small_images(tmp_path / "dies", 8, 5)

        def die(self: Timeline, *_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as dying:
            dying.setattr(Timeline, "mark_shown", die)
            with pytest.raises(KeyboardInterrupt):
                score(workspace, "tiles", [tmp_path / "dies"], QUIET)
        update_monitor("tiles", workspace.tracking, workspace.ledger)
        assert steps(client, shown) == [*before, len(before) + 1]

    def test_what_was_left_out_is_added(
        self, client: MlflowClient, shown: str, workspace: Workspace, small_images: SmallImages, tmp_path: Path
    ) -> None:
        """Where the run lacks batches, the next run adds them all, though it has nothing to score itself."""
        before = steps(client, shown)
        for number in range(2):
            small_images(tmp_path / f"late-{number}", 8, 10 + number)

        class Unreachable(Tracking):
            def log_points(self, *_: object) -> None:
                raise OSError("no route to host")

        broken = Workspace(workspace.settings, Unreachable(workspace.settings, {}), workspace.ledger)
        reports = score(broken, "tiles", [tmp_path / "late-0", tmp_path / "late-1"], QUIET)
        assert [report.outcome for report in reports] == ["scored", "scored"]
        assert steps(client, shown) == before
        run(workspace, "tiles", QUIET)
        assert steps(client, shown) == [*before, len(before) + 1, len(before) + 2]

    def test_what_is_decided_while_it_is_written_is_added(
        self, client: MlflowClient, shown: str, workspace: Workspace, small_images: SmallImages, tmp_path: Path
    ) -> None:
        """A batch of another process that comes between the points and the page is left for the next update."""
        before = steps(client, shown)
        for name in ("own", "another's"):
            small_images(tmp_path / name, 8, 20 + len(name))

        class Overtaken(Tracking):
            def log_points(self, *arguments: Any) -> None:
                super().log_points(*arguments)
                if not (tmp_path / "came").exists():
                    (tmp_path / "came").touch()
                    score(unreachable, "tiles", [tmp_path / "another's"], QUIET)

        class Unreachable(Tracking):
            def log_points(self, *_: object) -> None:
                raise OSError("no route to host")

        unreachable = Workspace(workspace.settings, Unreachable(workspace.settings, {}), workspace.ledger)
        overtaken = Workspace(workspace.settings, Overtaken(workspace.settings, {}), workspace.ledger)
        score(overtaken, "tiles", [tmp_path / "own"], QUIET)
        assert steps(client, shown) == [*before, len(before) + 1]
        update_monitor("tiles", workspace.tracking, workspace.ledger)
        assert steps(client, shown) == [*before, len(before) + 1, len(before) + 2]

    def test_a_deleted_run_is_replaced(self, client: MlflowClient, shown: str, workspace: Workspace) -> None:
        """Another one begins, and shows all batches from the first on."""
        client.delete_run(shown)
        workspace.ledger.timeline.take_monitor_run("tiles", shown, shown)  # as if a batch had come since
        update_monitor("tiles", workspace.tracking, workspace.ledger)
        new = monitor_run("tiles", workspace.tracking, workspace.ledger)
        assert new != shown
        assert steps(client, new) == [point.number for point in workspace.ledger.timeline.points("tiles")]

    def test_two_processes_begin_one(self, client: MlflowClient, workspace: Workspace, report: RunReport) -> None:
        """Whoever is second uses the run of the first, and leaves none of its own."""
        first = monitor._begun("slate", workspace.tracking, workspace.ledger, "")
        second = monitor._begun("slate", workspace.tracking, workspace.ledger, "")
        assert first == second
        experiment = client.get_experiment_by_name("reconwatch/slate")
        assert experiment is not None
        assert [run.info.run_id for run in client.search_runs([experiment.experiment_id])] == [first.run_id]

    def test_a_run_that_was_begun_and_not_told_is_used(
        self, client: MlflowClient, workspace: Workspace, report: RunReport
    ) -> None:
        """Killed after MLflow began it and before the ledger knew: the next process leaves no second one."""
        left = workspace.tracking.start_run("wood", "monitor", "wood over time", {})
        assert monitor_run("wood", workspace.tracking, workspace.ledger) == left
        experiment = client.get_experiment_by_name("reconwatch/wood")
        assert experiment is not None
        assert [run.info.run_id for run in client.search_runs([experiment.experiment_id])] == [left]

    def test_nothing_new_costs_nothing(self, shown: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a new batch MLflow is not asked at all."""
        for name in ("log_points", "log_folder", "log", "is_there", "start_run"):
            monkeypatch.setattr(Tracking, name, None)
        update_monitor("tiles", workspace.tracking, workspace.ledger)


class TestPage:
    """The time line as an interactive figure."""

    def test_it_holds_every_batch(self, shown: str, workspace: Workspace, tmp_path: Path) -> None:
        """Names, times and versions; alarms with severity and diagnosis."""
        held = page_of(workspace, shown, tmp_path)
        assert [name for name, _, _ in held["batches"][:3]] == ["1-nominal", "2-damaged", "3-unreadable"]
        assert held["alarms"][:2] == [[1, "warning: defects"], [2, "critical: unreadable"]]
        assert len(held["batches"]) == len(workspace.ledger.timeline.points("tiles"))

    def test_limits_and_band_are_lines(self, shown: str, workspace: Workspace, tmp_path: Path) -> None:
        """The rate that is expected, from which on a batch alarms, and the calibration's band."""
        chart = page_of(workspace, shown, tmp_path)["charts"][0]
        assert (chart["title"], chart["scale"]) == ("Flagged images", "percent")
        assert [name for name, _ in chart["limits"]] == ["alarms from", "expected"]
        verdict = workspace.ledger.timeline.points("tiles")[0].batch.verdict
        assert chart["limits"][0][1][0] == [0, verdict["alarms_from"] / verdict["scored"]]
        low, high = workspace.tracking.registry.champion("tiles").champion.threshold.false_alarm_band
        assert [band[0][1] for band in chart["band"]] == [pytest.approx(low, rel=1e-3), pytest.approx(high, rel=1e-3)]

    def test_the_page_of_a_long_history_holds_its_newest_batches(
        self,
        shown: str,
        workspace: Workspace,
        small_images: SmallImages,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """It does not grow without end; batches keep their numbers, and the run's metrics have all of them."""
        monkeypatch.setattr(monitor, "DRAWN", 2)
        small_images(workspace.settings.path.parent / "data" / "inbox" / "long-history", 20, 77)
        score(workspace, "tiles", [], QUIET)
        number = workspace.ledger.batches.count("tiles")
        held = page_of(workspace, shown, tmp_path)
        assert held["before"] == number - 2
        assert [name for name, _, _ in held["batches"]][1] == "long-history"
        assert held["sentences"][0].startswith(f"The last 2 of {number} batches, of which ")

    def test_recalibrations_are_marked(self, shown: str, workspace: Workspace) -> None:
        """Where another calibration decides, the place is known."""
        points = workspace.ledger.timeline.points("tiles")[:3]
        other = replace(points[2], batch=replace(points[2].batch, calibration_version="another"))
        page = monitor.monitor_page("tiles", [*points[:2], other])
        assert '"recalibrations":[2]' in page.html()

    def test_batches_from_before_are_shown(self, shown: str, workspace: Workspace) -> None:
        """A batch of which only the verdict is known has its counts and tests, and gaps elsewhere."""
        points = workspace.ledger.timeline.points("tiles")[:3]
        text = monitor.monitor_page("tiles", [replace(points[0], values={}), *points[1:]]).html()
        charts = {chart["title"]: chart for chart in held_by(text)["charts"]}
        assert charts["Flagged images"]["series"][0][1][0] is not None
        assert charts["Scores"]["series"][0][1][0] is None
        assert charts["Scores"]["series"][0][1][1] is not None
        assert held_by(monitor.monitor_page("tiles", [replace(points[0], values={})]).html())["charts"]

    def test_false_alarms_are_called_so(self, shown: str, workspace: Workspace) -> None:
        """Where people said so of all that a batch alarmed for."""
        point = workspace.ledger.timeline.points("tiles")[1]
        page = monitor.monitor_page("tiles", [replace(point, batch=replace(point.batch, false_alarm=True))])
        assert held_by(page.html())["alarms"] == [[0, "warning: defects, which people call false"]]

    def test_names_are_text(self, workspace: Workspace, shown: str, small_images: SmallImages, tmp_path: Path) -> None:
        """A batch whose name looks like markup is shown by its letters."""
        folder = tmp_path / "<script>alert(1)<"
        small_images(folder, 4, 20)
        score(workspace, "tiles", [folder], QUIET)
        run_id = monitor_run("tiles", workspace.tracking, workspace.ledger)
        assert page_of(workspace, run_id, tmp_path)["batches"][-1][0] == folder.name
