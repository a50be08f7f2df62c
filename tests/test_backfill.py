"""`reconwatch backfill`: batches of the past, between two times, by one version, and nobody is told of them."""

import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ae_models.errors import InputError
from flows import backfill as module
from flows import running
from flows.backfill import backfill, plan_backfill
from flows.cli import main
from flows.progress import LogProgress
from flows.workspace import Workspace, open_workspace

Project = Callable[..., Path]
PROGRESS = LogProgress(logging.getLogger(__name__))
SINCE, UNTIL = datetime(2024, 3, 1, tzinfo=UTC), datetime(2024, 4, 1, tzinfo=UTC)


@pytest.fixture
def config(project: Project, tmp_path: Path) -> Path:
    """A project whose three batches are of March 2024, a day each, and a fourth one of today."""
    path = project(tmp_path, training={"epochs": 1}, alerts=[{"type": "log"}])
    inbox = path.parent / "data" / "inbox"
    for day, folder in enumerate(sorted(inbox.iterdir()), 1):
        for file in folder.iterdir():
            os.utime(file, times=(time := (SINCE + timedelta(days=day)).timestamp(), time))
    (inbox / "4-today").mkdir()
    (inbox / "1-nominal" / "image-000.png").rename(inbox / "4-today" / "image-000.png")
    os.utime(inbox / "4-today" / "image-000.png")
    return path


@pytest.fixture
def workspace(config: Path) -> Workspace:
    """Its stores, with a champion and nothing decided."""
    workspace = open_workspace(config, {})
    running.train(workspace, "tiles", PROGRESS)
    running.calibrate(workspace, "tiles", PROGRESS)
    return workspace


def of_march(workspace: Workspace, version: str | None = None) -> Any:
    return plan_backfill(workspace.settings.pipeline("tiles"), workspace, SINCE, UNTIL, version)


@pytest.mark.slow
def test_batches_of_that_time_are_decided_and_nobody_is_told(workspace: Workspace) -> None:
    """Two of three alarm; there is no alert, incident, stream or point of them, and they are due no more."""
    plan = of_march(workspace)
    assert [past.batch.id for past in plan.batches] == ["1-nominal", "2-damaged", "3-unreadable"]
    assert plan.sentences() == (
        "3 batches of tiles are from 2024-03-01 00:00 to before 2024-04-01 00:00 UTC; version 1 has decided 0 of them, "
        "and 3 with 59 images are left.",
    )
    reports = backfill(plan, workspace, PROGRESS)
    assert [report.verdict.alarm for report in reports if report.verdict] == [False, True, True]
    ledger = workspace.ledger
    assert ledger.outbox.pending() == ()
    assert ledger.incidents.newest(closed=True) == ()
    assert ledger.batches.count("tiles") == 0
    assert ledger.timeline.points("tiles") == ()
    assert [batch.batch for batch in ledger.batches.history("tiles/backfill")] == [
        "3-unreadable",
        "2-damaged",
        "1-nominal",
    ]
    due = running.score(workspace, "tiles", (), PROGRESS)
    assert [report.batch for report in due] == ["4-today"]


@pytest.mark.slow
def test_it_goes_on_where_it_was(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ended in the second batch, it does the second and third; a third time there is nothing to do."""
    record = module.log_batch  # type: ignore[attr-defined]  # where it is looked up

    def end_at_the_second(*arguments: Any, **more: Any) -> str:
        if arguments[0].batch == "2-damaged":
            raise KeyboardInterrupt
        return record(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(module, "log_batch", end_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            backfill(of_march(workspace), workspace, PROGRESS)
    assert [past.known for past in of_march(workspace).batches] == [True, False, False]
    reports = backfill(of_march(workspace), workspace, PROGRESS)
    assert [report.batch for report in reports] == ["2-damaged", "3-unreadable"]
    assert backfill(of_march(workspace), workspace, PROGRESS) == ()


@pytest.mark.slow
def test_another_version_decides_them_anew(workspace: Workspace) -> None:
    """What one version decided, another may decide too; one that is not there is named with those that are."""
    running.score(workspace, "tiles", (), PROGRESS)
    assert of_march(workspace).due == ()
    running.calibrate(workspace, "tiles", PROGRESS)
    assert len(of_march(workspace, "2").due) == 3
    assert of_march(workspace, "1").due == ()
    with pytest.raises(InputError, match=r"pipeline 'tiles' has no version 7 \(there are: 1, 2\)"):
        of_march(workspace, "7")


@pytest.mark.slow
def test_the_command_says_what_it_would_do(
    workspace: Workspace, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--dry-run lists the batches and records nothing; times the wrong way round are refused."""
    command = ["backfill", "tiles", "--since", "2024-03-01", "--until", "2024-03-03", "--config", str(config)]
    with pytest.raises(SystemExit) as left:
        main([*command, "--dry-run"])
    assert left.value.code == 0
    said = capsys.readouterr().out
    assert "2024-03-02 00:00" in said
    assert "1-nominal" in said
    assert "3-unreadable" not in said
    assert workspace.ledger.batches.count("tiles/backfill") == 0
    with pytest.raises(SystemExit) as left:
        main(command)
    assert left.value.code == 0
    assert "Backfilled by version 1" in capsys.readouterr().out
    assert workspace.ledger.batches.count("tiles/backfill") == 2
    with pytest.raises(SystemExit) as left:
        main([*command[:3], "2024-03-05", *command[4:]])
    assert left.value.code == 2
    assert "--since 2024-03-05 00:00 is not before --until 2024-03-04 00:00: swap them" in capsys.readouterr().err
