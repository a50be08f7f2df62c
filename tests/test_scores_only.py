"""`score PATHS --output FILE`: scores by the version that decides now, and nothing else happens."""

import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest

from ae_models.champion import LeanChampion
from ae_models.errors import InputError
from flows.cli import main
from flows.config import load
from flows.deciding_version import deciding_run
from flows.kept_champions import kept_champion
from flows.running import run
from flows.workspace import Workspace, open_workspace

Project = Callable[..., Path]


class Silent:
    """Progress that nobody sees."""

    def say(self, sentence: str) -> None:
        """Nothing."""

    def warn(self, sentence: str) -> None:
        """Nothing."""

    def track(self, what: str, total: int) -> "Silent":
        """Itself."""
        return self

    def __enter__(self) -> Callable[..., None]:
        return lambda *arguments: None

    def __exit__(self, *error: object) -> None:
        """Nothing."""


def code_of(*arguments: object) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def watched(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A project that is trained with a graph, calibrated, and has scored its inbox."""
    workspace = open_workspace(project(tmp_path_factory.mktemp("watched"), engine="auto"), {})
    report = run(workspace, "tiles", Silent())
    assert not report.failed, report.failure
    return workspace


def written(workspace: Workspace, output: Path, *options: str) -> pd.DataFrame:
    """What the command writes of the first batch."""
    folder = workspace.settings.path.parent / "data" / "inbox" / "2-damaged"
    config: Sequence[object] = ("--config", workspace.settings.path)
    assert code_of("score", "tiles", folder, "--output", output, *options, *config) == 0
    return pd.read_parquet(output)


@pytest.mark.slow
class TestScoresOnly:
    """Quick, and never by another version than the one that decides."""

    def test_the_rows_are_those_that_are_recorded(self, watched: Workspace, tmp_path: Path) -> None:
        """Every column, every digit; and the ledger knows nothing of it."""
        before = watched.ledger.batches.history("tiles", 100)
        lean = written(watched, tmp_path / "lean.parquet")
        assert watched.ledger.batches.history("tiles", 100) == before
        full = written(watched, tmp_path / "full.parquet", "--record")
        pd.testing.assert_frame_equal(lean, full)
        assert lean["flagged"].sum() >= 10

    def test_pytorch_gives_the_same_rows(self, watched: Workspace, tmp_path: Path) -> None:
        """The engine changes how long it takes; it is asked for also where a batch is known already."""
        folder = tmp_path / "by-torch"
        os.environ.pop("RECONWATCH_ENGINE", None)
        try:
            by_torch = written(watched, folder / "torch.parquet", "--engine", "torch")
            known = written(watched, folder / "known.parquet", "--engine", "torch", "--record")
        finally:
            os.environ.pop("RECONWATCH_ENGINE", None)
        lean = written(watched, folder / "lean.parquet")
        pd.testing.assert_frame_equal(by_torch, lean, rtol=1e-4)
        assert (by_torch["score"] != lean["score"]).any()
        pd.testing.assert_frame_equal(by_torch, known, check_exact=True)

    def test_a_copy_is_kept_of_who_decides(self, watched: Workspace) -> None:
        """By its calibration run, which the registry is asked for."""
        run_id = deciding_run(watched.settings, {}, "tiles")
        assert run_id == watched.tracking.registry.champion("tiles").calibration_run
        files = kept_champion(watched.settings.workspace, "tiles", run_id)
        assert files is not None
        assert LeanChampion.load(files).threshold == watched.tracking.registry.champion("tiles").champion.threshold

    def test_who_decides_is_asked_each_time(self, watched: Workspace, tmp_path: Path) -> None:
        """An alias that was moved, by whatever hand, counts at once; here to a version whose run has no copy."""
        database = watched.settings.workspace / "mlflow.db"
        kept = deciding_run(watched.settings, {}, "tiles")
        with closing(sqlite3.connect(database)) as store, store:
            store.execute("update model_versions set run_id = 'another' where name = 'tiles'")
        try:
            assert deciding_run(watched.settings, {}, "tiles") == "another"
            assert kept_champion(watched.settings.workspace, "tiles", "another") is None
        finally:
            with closing(sqlite3.connect(database)) as store, store:
                store.execute("update model_versions set run_id = ? where name = 'tiles'", (kept,))

    def test_a_damaged_copy_is_replaced(self, watched: Workspace, tmp_path: Path) -> None:
        """It is as strictly checked as what MLflow gives, which is asked then."""
        run_id = deciding_run(watched.settings, {}, "tiles")
        assert run_id is not None
        files = kept_champion(watched.settings.workspace, "tiles", run_id)
        assert files is not None
        (files / "threshold.json").write_text("{}", encoding="utf-8")
        with pytest.raises(InputError, match=r"champion\.json was written for other files"):
            LeanChampion.load(files)
        rows = written(watched, tmp_path / "rows.parquet")
        assert len(rows) == 20
        assert LeanChampion.load(files).threshold.n_nominal > 0


def test_a_file_is_no_verdict(project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody waits for an alarm that cannot come."""
    config = project(tmp_path)
    command = ("score", "tiles", tmp_path, "--output", tmp_path / "rows.parquet", "--fail-on-alarm")
    assert code_of(*command, "--config", config) == 2
    assert "--output alone gives no verdict that --fail-on-alarm could look at: add --record" in capsys.readouterr().err


def test_a_store_that_is_not_asked(project: Project, tmp_path: Path) -> None:
    """Nothing is guessed where the registry is elsewhere, secured or absent: MLflow itself is asked then."""
    settings = load(project(tmp_path), {})
    assert deciding_run(settings, {}, "tiles") is None
    assert deciding_run(settings, {"MLFLOW_TRACKING_URI": "postgresql://db/mlflow"}, "tiles") is None
    secured = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_TRACKING_TOKEN": "secret"}
    assert deciding_run(settings, secured, "tiles") is None
    assert deciding_run(settings, {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}, "tiles") is None
