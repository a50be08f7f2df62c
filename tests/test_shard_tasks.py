"""The shards of a big batch as Prefect tasks: the same digits by every runner, a killed worker or not."""

import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, STDOUT
from typing import Any

import numpy as np
import pytest
from prefect import flow
from prefect.testing.utilities import prefect_test_harness

from ae_models.detector import Detector
from ae_models.errors import InputError
from ae_models.images import ImageSpec
from ae_models.networks import build_network
from flows import running
from flows.config_runner import DaskRunner, ProcessesRunner, RayRunner, RunnerUnion, ThreadsRunner
from flows.items import Item
from flows.progress import LogProgress
from flows.rows import Scores
from flows.score import score as score_flow
from flows.shard_tasks import Here, Work, as_tasks
from flows.shards import Shard, Sharding, score_items
from flows.workspace import open_workspace
from tests.ports import free_port

IMAGES = 256

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Drawn:
    """An image drawn from a seed by whoever reads it; the first reader is killed where there is a `mark`."""

    seed: int
    mark: Path | None = None

    def __call__(self) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        if self.mark is not None and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return np.random.default_rng(self.seed).integers(0, 256, (20, 16), np.uint8)


@pytest.fixture(scope="module", autouse=True)
def prefect() -> Iterator[None]:
    """A Prefect server of this module's own."""
    with prefect_test_harness(server_startup_timeout=180):
        yield


@pytest.fixture(scope="module")
def detector() -> Detector:
    """A convolutional detector with random weights, of images 20 x 16."""
    spec = ImageSpec(20, 16, 1)
    return Detector(spec, "convolutional", {}, build_network("convolutional", spec, {}).eval())


class Unseen:
    """What gives an image, and is not to be looked at."""

    def __call__(self) -> bytes:
        return b""

    def __reduce__(self) -> Any:
        raise AssertionError("Dask looked through the images of a shard")


def test_dask_tells_works_apart_without_a_look_at_their_images() -> None:
    """It would take the process that cuts the batch almost as long as to score the image."""
    tokenize = pytest.importorskip("dask.base").tokenize
    shards = [
        Shard(start, (Item("image", Unseen()),) * 3, Path("detector"), "cpu", Path(f"{start}.parquet"))
        for start in (0, 64)
    ]
    assert len({tokenize(Work(shard, 1)) for shard in shards}) == 2


def test_what_is_done_here_does_not_travel() -> None:
    """Prefect sends what is around a task along with it, and that may hold all images, the detector and open stores."""
    cloudpickle = pytest.importorskip("cloudpickle")
    lock, images = threading.Lock(), bytes(10**6)  # a lock cannot travel at all
    here = Here(lambda: (lock, images))
    sent = cloudpickle.dumps(here)
    assert here() == (lock, images)
    assert len(sent) < 1000
    with pytest.raises(RuntimeError, match="by no worker"):
        pickle.loads(sent)()


def items(mark: Path | None = None) -> tuple[Item, ...]:
    """Images; whoever is the first to read number 100 is killed, where there is a mark."""
    return tuple(Item(str(seed), Drawn(seed, mark if seed == 100 else None)) for seed in range(IMAGES))


def scored(detector: Detector, images: tuple[Item, ...], runner: RunnerUnion, folder: Path) -> Scores:
    """What the images score in a flow run, each shard a task of it."""

    @flow
    def score() -> Scores:
        sharding = Sharding(runner.shard_size, folder, "cpu", as_tasks(runner))
        return score_items(images, detector, sharding, lambda steps: None)

    return score()


@pytest.mark.parametrize(
    "runner",
    [
        ThreadsRunner(workers=2, shard_size=64),
        ProcessesRunner(workers=2, shard_size=64),
        DaskRunner(workers=2, shard_size=64),
        RayRunner(workers=2, shard_size=64),
    ],
    ids=lambda runner: runner.type,
)
def test_every_runner_gives_the_same_digits(
    runner: RunnerUnion, detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads, processes, Dask and Ray score as one process does, also where a worker is killed."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # Ray's workers read this module too
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # another's cluster, which is not asked for
    alone = score_items(items(), detector, None, lambda steps: None)
    mark = None if runner.type == "threads" else tmp_path / "killed"
    together = scored(detector, items(mark), runner, tmp_path / "shards")
    assert together.scores.tobytes() == alone.scores.tobytes()
    assert mark is None or mark.exists()


@pytest.mark.parametrize("kind", ["processes", "dask", "ray"])
def test_a_batch_of_the_inbox_in_the_product_s_own_flow(
    kind: str, project: Callable[..., Path], small_images: Callable[[Path, int, int], list[Path]], tmp_path: Path
) -> None:
    """What the flow holds beside the shards, such as open stores, does not keep them from their workers."""
    config = project(tmp_path, runner={"type": kind, "workers": 2, "shard_size": 64})
    workspace, progress = open_workspace(config, {}), LogProgress(logging.getLogger("quiet"))
    running.train(workspace, "tiles", progress)
    running.calibrate(workspace, "tiles", progress)
    shutil.rmtree(tmp_path / "data" / "inbox")
    small_images(tmp_path / "data" / "inbox" / "big", 150, 5)
    reports: Any = score_flow(str(config), "tiles")  # by Prefect's types a state too
    assert [(report.outcome, report.reason, len(report.table)) for report in reports] == [("scored", "", 150)]


@pytest.mark.parametrize("name", ["dask", "ray"])
def test_a_runner_that_is_not_installed_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says which package is missing and what else works, before any batch is begun."""
    monkeypatch.setitem(sys.modules, f"prefect_{name}.task_runners", None)
    runner: RunnerUnion = DaskRunner() if name == "dask" else RayRunner()
    with pytest.raises(InputError, match=rf"runner: {name} needs the package prefect-{name}.*'reconwatch\[{name}\]'"):
        as_tasks(runner)


def test_a_cluster_is_found_by_its_address(detector: Detector, tmp_path: Path) -> None:
    """The workers of a Dask cluster that runs already do the work, and it goes on running."""
    from distributed import LocalCluster

    start: Any = LocalCluster  # it has no types
    with start(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster:
        runner = DaskRunner(address=cluster.scheduler_address, shard_size=64)
        together = scored(detector, items(), runner, tmp_path / "shards")
        assert len(cluster.scheduler_info["workers"]) == 1
    alone = score_items(items(), detector, None, lambda steps: None)
    assert together.scores.tobytes() == alone.scores.tobytes()


def test_a_ray_cluster_is_found_by_its_address(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers of a Ray cluster that runs already, and asks for its token, do the work; it goes on running."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    ray, port = str(Path(sys.executable).with_name("ray")), free_port()
    subprocess.run([ray, "get-auth-token", "--generate"], check=True, capture_output=True)
    command = [ray, "start", "--head", "--block", f"--port={port}", "--num-cpus=1"]
    command += ["--include-dashboard=false", "--disable-usage-stats"]
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    with subprocess.Popen(command, stdout=PIPE, stderr=STDOUT, text=True, start_new_session=True) as cluster:
        try:
            assert any("Ray runtime started" in line for line in cluster.stdout or ())
            runner = RayRunner(address=f"127.0.0.1:{port}", shard_size=64)
            together = scored(detector, items(), runner, tmp_path / "shards")
            assert cluster.poll() is None
        finally:
            os.killpg(cluster.pid, signal.SIGTERM)
    alone = score_items(items(), detector, None, lambda steps: None)
    assert together.scores.tobytes() == alone.scores.tobytes()
