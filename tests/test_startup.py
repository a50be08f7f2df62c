"""Commands start quickly: what takes long to import is imported by the command that needs it, and by no other."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from flows.cli import app

Project = Callable[..., Path]
NETWORKS = ("torch", "torchvision", "sklearn", "scipy.stats", "matplotlib")
STORES = ("mlflow", "pandas", "numpy", "sqlalchemy")  # MLflow imports pandas and NumPy
HEAVY = (*NETWORKS, *STORES, "prefect")
RUN_ALL = """
import json, sys
from flows.cli import main
codes = []
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as ended:
        codes.append(ended.code)
loaded = [name for name in json.loads(sys.argv[2]) if name in sys.modules]
print("\\n" + json.dumps({"codes": codes, "loaded": loaded}))
"""


def loaded_by(*commands: list[str]) -> set[str]:
    """The heavy modules that a fresh process has imported after these commands, each of which has to succeed."""
    arguments = [sys.executable, "-c", RUN_ALL, json.dumps(commands), json.dumps(HEAVY)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["codes"] == [0] * len(commands), done.stderr
    return set(found["loaded"])


def verbs(command: Any, *names: str) -> Iterator[list[str]]:
    """Every command and every group of them, as it is typed."""
    yield list(names)
    for name, below in getattr(command, "commands", {}).items():
        yield from verbs(below, *names, name)


def test_help_imports_nothing_heavy() -> None:
    """Neither `reconwatch --help` nor that of any command waits for a library."""
    asked = [[*names, "--help"] for names in verbs(get_command(app))]
    assert ["alert", "list", "--help"] in asked
    assert loaded_by(*asked) == set()


@pytest.mark.parametrize("command", [["check"], ["status"], ["watchdog"], ["alert", "list"]], ids=" ".join)
def test_looking_at_how_things_stand_needs_no_network(command: list[str], project: Project, tmp_path: Path) -> None:
    """No PyTorch, no scikit-learn, no pictures and no Prefect; the stores alone."""
    path = project(tmp_path, model="auto")
    assert loaded_by([*command, "--config", str(path)]) <= set(STORES)


def test_the_ledger_alone_answers_about_incidents(project: Project, tmp_path: Path) -> None:
    """Nobody waits for MLflow to see which incidents are open."""
    assert loaded_by(["alert", "list", "--config", str(project(tmp_path))]) <= {"sqlalchemy"}


@pytest.mark.slow
def test_scoring_needs_what_scores(project: Project, tmp_path: Path) -> None:
    """No scikit-learn, no torchvision and no Prefect to score a folder; and how things stand then needs no network."""
    path = project(tmp_path)
    config = ["--config", str(path)]
    loaded_by(["run", "tiles", *config])
    folder, output = path.parent / "data" / "nominal", tmp_path / "scores.parquet"
    assert not loaded_by(["score", "tiles", str(folder), "--output", str(output), "--record", *config]) & {
        "sklearn",
        "torchvision",
        "prefect",
    }
    assert output.is_file()
    assert loaded_by(["status", *config]) <= set(STORES)


@pytest.mark.slow
def test_scores_in_a_file_need_no_network_and_no_store(project: Project, tmp_path: Path) -> None:
    """Neither PyTorch nor MLflow, SciPy's statistics or Prefect: ONNX Runtime scores by the kept champion."""
    path = project(tmp_path, engine="auto")
    config = ["--config", str(path)]
    loaded_by(["run", "tiles", *config])
    folder, output = path.parent / "data" / "nominal", tmp_path / "scores.parquet"
    command = ["score", "tiles", str(folder), "--output", str(output), *config]
    assert loaded_by(command) <= {"pandas", "numpy"}
    assert output.is_file()
