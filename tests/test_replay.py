"""Past batches are decided again at another rate from what was stored, each by its own calibration."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient

from ae_models.errors import InputError
from flows.calibration import calibrate
from flows.cli import main
from flows.progress import LogProgress
from flows.replay import Decision, Replay, ReplayedBatch, moment, replay
from flows.running import run
from flows.workspace import Workspace, open_workspace

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(mlflow|sqlalchemy).*")

Project = Callable[..., Path]
SmallImages = Callable[[Path, int, int], list[Path]]
QUIET = LogProgress(logging.getLogger("quiet"))


@pytest.fixture(scope="module")
def folder(project: Project, small_images: SmallImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with three batches decided by a first calibration, and one by a second with more images.

    Its batch `2-damaged` was decided with so small a budget that it raised no alarm.
    """
    path = project(tmp_path_factory.mktemp("project"))
    calm = path.with_name("calm.yaml")
    document = yaml.safe_load(path.read_text())
    document["pipelines"]["tiles"] |= {"monitor": {"batch_false_alarm_rate": 1e-9, "unreadable_rate": 0.5}}
    calm.write_text(yaml.safe_dump(document))
    assert run(open_workspace(calm, {}), "tiles", QUIET).failure == ""
    small_images(path.parent / "data" / "nominal" / "later", 20, 70)
    workspace = open_workspace(path, {})
    calibrate(workspace.settings.pipeline("tiles"), workspace.tracking, QUIET)
    small_images(path.parent / "data" / "inbox" / "4-later", 20, 71)
    assert run(workspace, "tiles", QUIET).failure == ""
    return path.parent


@pytest.fixture(scope="module")
def workspace(folder: Path) -> Workspace:
    return open_workspace(folder / "pipelines.yaml", {})


@pytest.fixture
def again(workspace: Workspace) -> Callable[..., Replay]:
    """Decides the batches again: `again(rate, batch_rate, since, until)`."""

    def decide(
        rate: float, batch_rate: float | None = None, since: datetime | None = None, until: datetime | None = None
    ) -> Replay:
        pipeline = workspace.settings.pipeline("tiles")
        return replay(pipeline, rate, batch_rate, since, until, workspace.tracking, workspace.ledger, QUIET)

    return decide


def by_name(report: Replay) -> dict[str, ReplayedBatch]:
    return {batch.batch: batch for batch in report.batches}


@contextmanager
def without(path: Path) -> Iterator[None]:
    """The file is gone meanwhile."""
    away = path.with_name("away")
    path.rename(away)
    yield
    away.rename(path)


def artifacts(workspace: Workspace, run_id: str) -> Path:
    """The folder of a run's artifacts."""
    uri = MlflowClient(workspace.tracking.uri).get_run(run_id).info.artifact_uri
    return Path(unquote(urlparse(str(uri)).path))


@pytest.mark.parametrize(
    ("then", "now", "words"),
    [
        ("nominal", "defects", "1 alarm that did not, 0 no longer do."),
        ("moved", "nominal", "0 alarm that did not, 1 no longer do."),
        ("moved", "defects", "0 alarm that did not, 0 no longer do, 1 alarm for another reason."),
    ],
)
def test_every_verdict_that_changes_is_counted(then: str, now: str, words: str) -> None:
    """Also where a batch alarms as before, for another reason."""
    before, after = (Decision(0.5, 3, verdict, verdict != "nominal") for verdict in (then, now))
    batch = ReplayedBatch("monday", datetime(2024, 1, 1, tzinfo=UTC), "1", "run", 20, 0, before, after, True, "")
    said = Replay("tiles", None, None, (batch,)).sentences()[0]
    assert said == f"With the new threshold, 1 of 1 batches of tiles are decided otherwise: {words}"


class TestDecisions:
    """What would be decided."""

    def test_the_same_rates_decide_the_same(self, again: Callable[..., Replay]) -> None:
        """Then as now: thresholds, flags and verdicts, the oldest batch first."""
        report = again(0.05)
        assert [batch.batch for batch in report.batches] == ["1-nominal", "2-damaged", "3-unreadable", "4-later"]
        assert all(batch.then == batch.now for batch in report.batches)
        assert not any(batch.changed for batch in report.batches)

    def test_another_rate_moves_threshold_and_flags(self, again: Callable[..., Replay]) -> None:
        """A higher rate has a lower threshold and flags more."""
        for batch in again(0.3).batches:
            assert batch.now is not None
            assert batch.then.threshold is not None
            assert batch.now.threshold is not None
            assert batch.now.threshold < batch.then.threshold
            assert batch.now.flagged >= batch.then.flagged

    def test_another_rate_of_batches_changes_verdicts(self, again: Callable[..., Replay]) -> None:
        """A batch that kept still for its small budget alarms with a larger one; the others stay as they were."""
        report = again(0.05, 0.01)
        assert [batch.batch for batch in report.batches if batch.changed] == ["2-damaged"]
        damaged = by_name(report)["2-damaged"]
        assert damaged.now is not None
        assert (damaged.then.verdict, damaged.now.verdict) == ("nominal", "defects")

    def test_each_calibration_has_its_own_scores(self, again: Callable[..., Replay]) -> None:
        """Batches of one calibration share a threshold; those of another have theirs."""
        report = again(0.2)
        thresholds = {(batch.version, batch.now.threshold) for batch in report.batches if batch.now}
        assert len(thresholds) == 2
        assert {version for version, _ in thresholds} == {"1", "2"}

    def test_it_says_since_when(self, again: Callable[..., Replay]) -> None:
        """The first batch that would alarm, and how many since; how many verdicts change, and in which way."""
        report = again(0.05, 0.01)
        first, second = report.sentences()
        assert first == (
            "At a false-alarm rate of 0.05, 1 of 4 batches of tiles are decided otherwise: 1 alarm that did not, 0 no "
            "longer do."
        )
        assert second.startswith("The first to alarm is 2-damaged, decided 20")
        assert second.endswith("UTC; from then on 1 of 3 do.")

    def test_only_batches_of_the_time(self, again: Callable[..., Replay], workspace: Workspace) -> None:
        """From `since` on, before `until`."""
        times = [record.finished_at for record in workspace.ledger.batches.decided("tiles")]
        report = again(0.05, None, times[1], times[3])
        assert [batch.batch for batch in report.batches] == ["2-damaged", "3-unreadable"]
        assert again(0.05, None, times[3] + timedelta(days=1)).batches == ()

    def test_nothing_is_recorded(self, again: Callable[..., Replay], workspace: Workspace) -> None:
        """Ledger, alerts and MLflow runs are as before."""

        def everything() -> Any:
            client = MlflowClient(workspace.tracking.uri)
            experiment = client.get_experiment_by_name("reconwatch/tiles")
            assert experiment is not None
            runs = client.search_runs([experiment.experiment_id])
            ledger = workspace.ledger
            versions = client.search_model_versions("name = 'tiles'")
            streams = [
                ledger.streams.of("tiles", record.calibration_version) for record in ledger.batches.decided("tiles")
            ]
            return [run.to_dictionary() for run in runs], streams, ledger.outbox.pending(), len(versions)

        before = everything()
        again(0.3, 0.5)
        assert everything() == before


class TestWhatIsMissing:
    """What is not there any more stops nothing else."""

    def test_the_network_is_not_needed(self, again: Callable[..., Replay], workspace: Workspace) -> None:
        """Without its weights every batch is decided again all the same."""
        parts = (
            artifacts(workspace, workspace.tracking.registry.champion("tiles").calibration_run)
            / "model/artifacts/champion"
        )
        with without(parts / "weights.safetensors"):
            assert len(again(0.05).decided) == 4

    def test_scores_that_are_gone_are_said(self, again: Callable[..., Replay], workspace: Workspace) -> None:
        """The batch has a reason in one line; the others are decided."""
        gone = by_name(again(0.05))["1-nominal"]
        with without(artifacts(workspace, gone.run_id) / "scores.parquet"):
            report = again(0.05)
        batch = by_name(report)["1-nominal"]
        assert (batch.now, len(report.decided)) == (None, 3)
        assert batch.then == gone.then
        assert batch.reason.startswith(f"MLflow does not give scores.parquet of run {gone.run_id} (")
        assert report.sentences()[-1] == "1 cannot be decided again, for the reasons given."

    def test_a_calibration_that_is_gone_takes_its_batches_only(
        self, again: Callable[..., Replay], workspace: Workspace
    ) -> None:
        """What was decided then is shown without its threshold."""
        run_id = workspace.tracking.registry.champion("tiles").calibration_run
        with without(artifacts(workspace, run_id) / "model/artifacts/champion/threshold.json"):
            report = again(0.05)
        batch = by_name(report)["4-later"]
        assert (batch.now, batch.then.threshold, len(report.decided)) == (None, None, 3)

    def test_a_rate_that_one_calibration_cannot_have_is_said_for_its_batches(
        self, again: Callable[..., Replay]
    ) -> None:
        """The second calibration has the images for 3%, the first one has not."""
        report = again(0.03)
        assert [batch.batch for batch in report.decided] == ["4-later"]
        assert "33" in by_name(report)["1-nominal"].reason  # images

    def test_a_rate_that_none_can_have_is_refused(self, again: Callable[..., Replay]) -> None:
        """The sentence says how many images it takes."""
        with pytest.raises(InputError, match="999"):
            again(0.001)


class TestTimes:
    """What a person gives as a time."""

    @pytest.mark.parametrize(
        ("text", "end_of_day", "expected"),
        [
            ("2024-05-17", False, datetime(2024, 5, 17, tzinfo=UTC)),
            ("2024-05-17", True, datetime(2024, 5, 18, tzinfo=UTC)),
            ("2024-05-17T14:30", True, datetime(2024, 5, 17, 14, 30, tzinfo=UTC)),
            ("2024-05-17 14:30+02:00", False, datetime(2024, 5, 17, 12, 30, tzinfo=UTC)),
        ],
    )
    def test_a_date_or_a_time(self, text: str, end_of_day: bool, expected: datetime) -> None:
        """A date is a whole day; a time without a zone is UTC."""
        assert moment(text, "--since", end_of_day) == expected

    def test_anything_else_is_refused(self) -> None:
        """With the option's name and an example."""
        with pytest.raises(InputError, match="--since 'monday' is no date: write 2024-05-17, or a time such as"):
            moment("monday", "--since", end_of_day=False)


class TestCommand:
    """`reconwatch replay`."""

    @pytest.fixture
    def call(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
        """Runs `reconwatch replay tiles ARGUMENTS`: exit code, output and errors."""

        def command(*arguments: str) -> tuple[int, str, str]:
            capfd.readouterr()
            with pytest.raises(SystemExit) as left:
                main(["replay", "tiles", "--config", str(folder / "pipelines.yaml"), *arguments])
            code = left.value.code
            return (code if isinstance(code, int) else int(bool(code)), *capfd.readouterr())

        return command

    def test_a_table_marks_what_changes(self, call: Callable[..., tuple[int, str, str]]) -> None:
        """Then and now of each batch, and the sentences below."""
        code, out, _ = call("--rate", "0.05", "--batch-rate", "0.01")
        assert code == 0
        (line,) = [line for line in out.splitlines() if line.startswith("│ 2-damaged")]
        assert "nominal -> defects" in line
        assert "changed" in line
        assert "The first to alarm is 2-damaged" in out

    def test_json(self, call: Callable[..., tuple[int, str, str]]) -> None:
        """The same for machines, and nothing else on standard output."""
        code, out, _ = call("--rate", "0.05", "--batch-rate", "0.01", "--json")
        document = json.loads(out)
        assert (code, document["first_alarm"]) == (0, "2-damaged")
        assert [batch["changed"] for batch in document["batches"]] == [False, True, False, False]
        assert document["batches"][1]["now"]["verdict"] == "defects"

    def test_a_file_for_other_tools(self, call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
        """One row a batch."""
        assert call("--rate", "0.1", "--output", str(tmp_path / "batches.parquet"))[0] == 0
        table = pd.read_parquet(tmp_path / "batches.parquet")
        assert list(table["batch"]) == ["1-nominal", "2-damaged", "3-unreadable", "4-later"]
        assert (table["threshold_now"] < table["threshold_then"]).all()

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--rate", "0.05", "--since", "monday"], "--since 'monday' is no date"),
            (["--rate", "0.001"], "999"),
            (["--rate", "2"], "2"),
            (["--rate", "0.05", "--batch-rate", "3"], "The false-alarm rate of batches is 3"),
        ],
    )
    def test_wrong_input(self, call: Callable[..., tuple[int, str, str]], arguments: list[str], words: str) -> None:
        """One sentence, and exit code 2."""
        code, out, errors = call(*arguments)
        (line,) = [line for line in errors.splitlines() if line.startswith("Error: ")]
        assert (code, out) == (2, "")
        assert words in line
