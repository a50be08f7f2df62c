"""The demo: one command in an empty folder, and the main job on real images can be looked at; a second one is quick."""

import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from mlflow import MlflowClient
from PIL import Image

from ae_models.errors import InputError
from flows.demo import BATCH, BROKEN, CONFIGURATION, DAMAGED, NOMINAL, damage, run_demo, write_demo, write_images
from flows.progress import terminal_or_log

Process = subprocess.CompletedProcess[str]
VERDICTS = {"1-nominal": "none", "2-damaged": "defects", "3-unreadable": "unreadable"}
# What a library says when it is not told to be quiet.
NOISE = re.compile(r"warning|traceback|uvicorn|alembic|INFO|deprecat|starting temporary|telemetry", re.IGNORECASE)


def demo(folder: Path, *options: str) -> Process:
    """`reconwatch demo` from an empty folder, with an environment that has nothing of ours in it."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder.parent), "OMP_NUM_THREADS": "1"}  # others run beside
    command = [sys.executable, "-m", "flows.cli", "demo", folder.name, *options]
    return subprocess.run(command, env=environment, cwd=folder.parent, capture_output=True, text=True)


def ours(folder: Path) -> list[str]:
    """The command lines of processes that run in the demo's folder or were told of it."""
    lines = []
    for process in psutil.process_iter():
        try:
            if str(folder) in " ".join([*process.cmdline(), *process.environ().values()]):
                lines.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return lines


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("empty") / "demo"


@pytest.fixture(scope="module")
def first(folder: Path) -> Process:
    """The demo's first call."""
    return demo(folder)


@pytest.fixture(scope="module")
def second(folder: Path, first: Process) -> Process:
    """The demo's second call, whose result is JSON."""
    return demo(folder, "--json")


@pytest.mark.slow
class TestTheFirstCall:
    """It does the main job and says what of it is real."""

    def test_it_says_what_is_real(self, first: Process) -> None:
        """It ends well, and its first line tells real images from simulated damage."""
        assert first.returncode == 0
        assert first.stderr.splitlines()[0] == (
            "Real: 1650 handwritten digits that come with scikit-learn (8 x 8 pixels, from UCI). "
            "Simulated: damage on 30 images of batch 2-damaged, and 12 broken files in 3-unreadable."
        )

    def test_it_says_what_was_found_and_where_it_can_be_seen(self, first: Process, folder: Path) -> None:
        """A table of the batches, a line an alarm, an address a batch, and how the dashboard is started."""
        lines = first.stdout.splitlines()
        assert [line.split("│")[2:4] for line in lines if "│ digits" in line] == [
            [" 1-nominal    ", " nominal    "],
            [" 2-damaged    ", " defects    "],
            [" 3-unreadable ", " unreadable "],
        ]
        alarms = [line.partition(":")[0] for line in lines if line.startswith("ALARM")]
        assert alarms == ["ALARM 2-damaged", "ALARM 3-unreadable"]
        assert [line.partition(": http://127.0.0.1:5000/")[0] for line in lines if ": http" in line] == list(VERDICTS)
        assert first.stderr.splitlines()[-1].endswith("reconwatch ui --config demo/pipelines.yaml")

    def test_no_library_is_heard(self, first: Process, second: Process) -> None:
        """What is printed is ours, but for two lines on the flow run."""
        for text in (first.stdout, first.stderr, second.stdout, second.stderr):
            assert [line for line in text.splitlines() if NOISE.search(line)] == []

    def test_the_graph_scores(self, first: Process) -> None:
        """What the detector gives by ONNX Runtime is what it gives by PyTorch, which is slower."""
        assert "PyTorch scores the images" not in first.stdout + first.stderr

    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:mlflow")
    def test_mlflow_has_a_run_a_batch(self, first: Process, folder: Path) -> None:
        """Each run is tagged with the verdict and has the picture of its worst images."""
        client = MlflowClient(f"sqlite:///{folder / '.reconwatch' / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("reconwatch/digits")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id], "tags.`reconwatch.kind` = 'batch'")
        tags = [run.data.tags for run in runs]
        assert {tag["reconwatch.batch"]: tag["reconwatch.diagnosis"] for tag in tags} == VERDICTS
        assert not any("reconwatch.flow_run_url" in tag for tag in tags)  # the demo's Prefect has no pages
        for run in runs:
            assert {"report.html", "scores.parquet", "worst.png"} <= {
                file.path for file in client.list_artifacts(run.info.run_id)
            }

    def test_prefect_has_the_flow_run(self, first: Process, second: Process, folder: Path) -> None:
        """One run, completed, with a task a batch, a log, its artifact and that of all; the second call added none."""
        database = folder / ".reconwatch" / "prefect" / "prefect.db"
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as prefect:
            runs = prefect.execute("select name, state_type from flow_run").fetchall()
            tasks = prefect.execute("select name, state_type from task_run order by name").fetchall()
            logs = prefect.execute("select count(*) from log where message like 'Training digits: http%'").fetchone()
            artifacts = prefect.execute("select key from artifact order by key").fetchall()
        prefect.close()
        assert runs == [("run-digits", "COMPLETED")]
        assert tasks == [(f"digits {batch}", "COMPLETED") for batch in VERDICTS]
        assert logs == (1,)
        assert artifacts == [("run-digits",), ("status",)]

    def test_no_server_is_left(self, first: Process, folder: Path) -> None:
        """The Prefect server of the demo ended with it."""
        assert ours(folder) == []


@pytest.mark.slow
class TestTheSecondCall:
    """What is there is found."""

    def test_nothing_is_done_again(self, second: Process, folder: Path) -> None:
        """It says so, starts no server, and shows the same verdicts."""
        assert second.returncode == 0
        assert second.stderr.splitlines()[:2] == [
            "Found the demo in demo: only what is due is done (remove the folder to start over).",
            "Nothing is due, and nothing was scored again. What was found before:",
        ]
        assert "Prefect" not in second.stderr
        batches = json.loads(second.stdout)
        assert {batch["batch"]: batch["verdict"]["diagnosis"] for batch in batches} == VERDICTS
        assert {batch["outcome"] for batch in batches} == {"known"}


class TestTheImages:
    """Real digits, of which some are damaged on purpose."""

    def test_the_batches_are_what_is_said_of_them(self, tmp_path: Path) -> None:
        """As many nominal, damaged and broken files as the demo says, and no image in two places."""
        write_images(tmp_path)
        batches = {folder.name: sorted(folder.iterdir()) for folder in (tmp_path / "inbox").iterdir()}
        nominal = sorted((tmp_path / "nominal").iterdir())
        assert len(nominal) == NOMINAL
        assert {name: len(files) for name, files in batches.items()} == dict.fromkeys(VERDICTS, BATCH)
        names = [path.name for files in (nominal, *batches.values()) for path in files]
        assert len(set(names)) == len(names)
        assert [path.name for path in batches["3-unreadable"] if not _readable(path)] == [
            path.name for path in batches["3-unreadable"][:BROKEN]
        ]
        other = tmp_path / "again"
        write_images(other)
        assert (other / "nominal" / nominal[0].name).read_bytes() == nominal[0].read_bytes()

    def test_damage_changes_an_image(self) -> None:
        """Every simulated fault leaves the image in size and kind, and changes some pixels but not most."""
        image = np.full((8, 8), 100, np.uint8)
        for seed in range(DAMAGED):
            damaged = damage(image, seed)
            assert (damaged.shape, damaged.dtype) == (image.shape, image.dtype)
            assert 3 <= (damaged != image).sum() <= 9
        assert (image == 100).all()


class TestAFolderInUse:
    """The demo takes nobody's images for its own."""

    def test_data_of_others(self, tmp_path: Path) -> None:
        """A folder that has data and no demo is refused, and nothing is written to it."""
        (tmp_path / "data").mkdir()
        with pytest.raises(InputError, match=r"/data is not the demo's: name another folder"):
            run_demo(tmp_path, terminal_or_log(), print)
        assert [path.name for path in tmp_path.rglob("*")] == ["data"]

    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:mlflow")
    def test_a_project_of_others(self, project: Callable[..., Path], tmp_path: Path) -> None:
        """A pipelines.yaml without the demo's pipeline is refused."""
        project(tmp_path)
        with pytest.raises(InputError, match=r"no pipeline 'digits' in .*pipelines\.yaml"):
            run_demo(tmp_path, terminal_or_log(), lambda _: None)

    def test_images_half_written(self, tmp_path: Path) -> None:
        """A demo that was killed while it wrote its images writes them again."""
        (tmp_path / ".data" / "nominal").mkdir(parents=True)
        write_demo(tmp_path)
        assert (tmp_path / "pipelines.yaml").read_text() == CONFIGURATION
        assert len(list((tmp_path / "data" / "nominal").iterdir())) == NOMINAL


def _readable(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            image.load()
    except OSError:
        return False
    return True
