"""What it brings to score a big batch in shards, and what Prefect, ledger, MLflow and report cost beside scoring.

    python -m benchmarks.shards [--images 20000] [--batch 10000] [--rounds 3] [--output shards.json]

Images are 28 x 28 and drawn by a seed. The sides are taken in turn in one run, and the figures are medians and their
ratios: two Dask workers beside one process with one thread, with a worker killed midway and without; a scored batch
with everything around it beside bare scoring; a flow run on nothing that is due. A Prefect server is started for it,
and is not counted where seconds of processors are told; workers are started, and have imported what they need, before.
"""

import argparse
import asyncio
import importlib
import json
import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
import yaml
from distributed import Client, LocalCluster
from PIL import Image
from prefect import flow
from prefect.testing.utilities import prefect_test_harness
from rich.console import Console
from rich.table import Table

from ae_models.detector import AnyDetector, Detector
from ae_models.graph_export import with_graph
from ae_models.images import ImageSpec, read
from ae_models.networks import build_network
from flows import running
from flows.config_runner import DaskRunner
from flows.flow_record import without_heartbeats
from flows.items import Item, file_item
from flows.progress import LogProgress
from flows.rows import Scores, score_here
from flows.score import score
from flows.shard_tasks import Here, as_tasks
from flows.shards import score_items, sharding_of
from flows.workspace import open_workspace

SPEC = ImageSpec(28, 28, 1)
WORKERS = 2
NOMINAL = 400
AIMS = {"dask": 1.7, "whole batch": 1.25, "empty flow, s": 0.5}
WORK: dict[str, Here[tuple[tuple[Item, ...], AnyDetector, Path]]] = {}  # by the address of the cluster that does it
PROGRESS = LogProgress(logging.getLogger("quiet"))


@dataclass(frozen=True)
class Figure:
    """What was measured: seconds of each round of two sides, and what is asked of their ratio or of the second."""

    name: str
    first: str
    first_seconds: list[float]
    second: str
    second_seconds: list[float]
    asked: str

    @property
    def ratio(self) -> float:
        """Median of the first over that of the second."""
        return median(self.first_seconds) / median(self.second_seconds)


def draw(folder: Path, count: int, seed: int) -> tuple[Item, ...]:
    """Write `count` grey PNG files."""
    random, (height, width) = np.random.default_rng(seed), (SPEC.height, SPEC.width)
    down, across = np.mgrid[0:height, 0:width] / height
    patterns = [np.sin(np.pi * across), np.cos(np.pi * down), down * across]
    folder.mkdir(parents=True)
    items = []
    for number in range(count):
        pixels = 128 + np.tensordot(random.uniform(-40, 40, 3), patterns, 1) + random.normal(0, 3, (height, width))
        Image.fromarray(pixels.astype(np.uint8)).save(path := folder / f"{number:06d}.png")
        items.append(file_item(str(path)))  # as folders are listed
    return tuple(items)


def processor(workers: Sequence[int] = ()) -> float:
    """Seconds of processors that this process and workers by their process number have taken."""
    own = [psutil.Process().cpu_times(), *(psutil.Process(worker).cpu_times() for worker in workers)]
    return float(sum(each.user + each.system for each in own))


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that the work took, and what it gave."""
    start = time.perf_counter()
    outcome = work()
    return time.perf_counter() - start, outcome


@contextmanager
def one_thread() -> Iterator[None]:
    """This process on one core, for decoding and network alike."""
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, {min(cores)})
    torch.set_num_threads(1)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)


@flow(name="shards")
def in_shards(address: str) -> Scores:
    """The scores of the items by a Dask cluster's workers, each shard a task of this flow run.

    What it works on is no parameter: Prefect sends the parameters along with each task.
    """
    items, detector, folder = WORK[address]()
    runner = DaskRunner(address=address, workers=WORKERS)
    sharding = sharding_of(runner, folder, "cpu", as_tasks(runner))
    return score_items(items, detector, sharding, lambda steps: None)


def import_all() -> None:
    """What a worker imports for its first shard."""
    for name in ("prefect.task_engine", "prefect.main", "flows.shard_tasks", "pyarrow.parquet", "onnxruntime"):
        importlib.import_module(name)


def dask(folder: Path, images: int, rounds: int) -> list[Figure]:
    """Two workers beside one process with one thread; every other time a worker is killed midway."""
    items = draw(folder / "many", images, 0)
    detector = with_graph(
        Detector(SPEC, "convolutional", {}, build_network("convolutional", SPEC, {}).eval()),
        np.stack([read(item.content(), SPEC) for item in items[:256]]),
    )
    alone, workers, killed = [], [], []
    alone_busy, workers_busy = [], []
    for _ in range(rounds):
        with one_thread():
            before = processor()
            seconds, expected = timed(lambda: score_here(items, detector, cores=1))
        alone.append(seconds)
        alone_busy.append(processor() - before)
        cluster = LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=":0")
        with cluster, Client(cluster) as client:  # a new one each round: one worker of the last was killed
            client.wait_for_workers(WORKERS)
            client.run(import_all)

            def sharded(items: tuple[Item, ...], address: str = cluster.scheduler_address) -> Scores:
                WORK[address] = Here(lambda: (items, detector, folder / "shards"))
                with without_heartbeats({}):  # as the command does
                    return in_shards(address)

            sharded(items)  # each worker's first shard imports what is left
            numbers = [worker.pid for worker in cluster.workers.values()]
            before = processor(numbers)
            seconds, scores = timed(lambda sharded=sharded: sharded(items))
            workers.append(seconds)
            workers_busy.append((processor(numbers) - before) / WORKERS)
            assert scores.scores.tobytes() == expected.scores.tobytes()
            timer = threading.Timer(workers[-1] / 2, os.kill, (numbers[0], signal.SIGKILL))
            timer.start()
            seconds, scores = timed(lambda sharded=sharded: sharded(items))
            killed.append(seconds)
            timer.join()
            assert scores.scores.tobytes() == expected.scores.tobytes()
    first = "one process, one thread"
    share = f"this process and {WORKERS} workers, shared by {WORKERS} cores"
    return [
        Figure("dask, of processors", first, alone_busy, share, workers_busy, "what idle cores would give"),
        Figure("dask", first, alone, f"{WORKERS} Dask workers", workers, f"at least {AIMS['dask']}"),
        Figure("dask, one killed", first, alone, "of them one killed midway", killed, "complete"),
    ]


def project(folder: Path) -> Path:
    """A pipeline of 28 x 28 images that is trained and calibrated."""
    draw(folder / "nominal", NOMINAL, 1)
    (folder / "inbox").mkdir()
    pipeline = {
        "data": {"nominal": "nominal", "inbox": "inbox"},
        "model": "convolutional",
        "training": {"epochs": 3},
    }
    path = folder / "pipelines.yaml"
    path.write_text(yaml.safe_dump({"pipelines": {"images": pipeline}}))
    workspace = open_workspace(path, {})
    running.train(workspace, "images", PROGRESS)
    running.calibrate(workspace, "images", PROGRESS)
    return path


def whole_batch(config: Path, images: int, rounds: int) -> list[Figure]:
    """A flow run that scores one batch, beside bare scoring of the same images, by the clock and by processors.

    What a process imports at its first batch is left out by one that is scored before.
    """
    whole, bare, whole_busy, bare_busy = [], [], [], []
    detector = open_workspace(config, {}).tracking.registry.champion("images").champion.detector
    draw(config.parent / "inbox" / "first", 300, 9)
    score(str(config), "images")  # the first batch of a process imports much
    for number in range(rounds):
        items = draw(config.parent / "inbox" / f"{number}", images, 10 + number)
        score_here(items[:640], detector)
        before = processor()
        bare.append(timed(lambda items=items: score_here(items, detector))[0])
        bare_busy.append(processor() - before)
        before = processor()
        seconds, reports = timed(lambda: score(str(config), "images"))
        whole.append(seconds)
        whole_busy.append(processor() - before)
        assert [report.outcome for report in reports] == ["scored"]
    first, asked = "flow, ledger, MLflow, report", f"at most {AIMS['whole batch']}"
    return [
        Figure("whole batch", first, whole, "bare scoring", bare, asked),
        Figure("whole batch, of processors", first, whole_busy, "bare scoring", bare_busy, asked),
    ]


def empty_flow(config: Path, rounds: int) -> list[Figure]:
    """A flow run on nothing that is due, beside flows that do nothing at all."""

    @flow(name="nothing")
    def nothing() -> None: ...

    @flow(name="nothing, async")
    async def nothing_async() -> None: ...

    def without_heart(work: Callable[[], Any]) -> Any:
        with without_heartbeats({}):  # as the command does
            return work()

    sides: dict[str, Callable[[], Any]] = {
        "score, nothing due": lambda: without_heart(lambda: score(str(config), "images")),
        "an empty flow": nothing,
        "an empty async flow": lambda: asyncio.run(nothing_async()),
        "the same without Prefect": lambda: running.score(open_workspace(config, {}), "images", [], PROGRESS),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}

    for _ in range(rounds + 1):
        for name, work in sides.items():
            seconds[name].append(timed(work)[0])
    warm = {name: values[1:] for name, values in seconds.items()}
    ours = warm.pop("score, nothing due")
    asked = f"at most {AIMS['empty flow, s']} s in all"
    return [Figure("nothing due", "score, nothing due", ours, name, values, asked) for name, values in warm.items()]


def table(figures: list[Figure]) -> Table:
    """The figures, a line each."""
    shown = Table(title="Shards, and what stands around scoring")
    for name in ("what", "first side", "s", "second side", "s", "ratio", "asked"):
        shown.add_column(name, justify="right" if name in ("s", "ratio") else "left")
    for one in figures:
        times = (f"{median(one.first_seconds):.2f}", f"{median(one.second_seconds):.2f}")
        shown.add_row(one.name, one.first, times[0], one.second, times[1], f"{one.ratio:.2f}", one.asked)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000, help="of the batch in shards (default: 20000)")
    parser.add_argument("--batch", type=int, default=10_000, help="images of the whole batch (default: 10000)")
    parser.add_argument("--rounds", type=int, default=3, help="of each side (default: 3)")
    parser.add_argument("--only", choices=["dask", "whole", "empty"], help="one of the three (default: all)")
    parser.add_argument("--output", type=Path, help="also write the figures to this JSON file")
    arguments = parser.parse_args()
    figures: list[Figure] = []

    def show(more: list[Figure]) -> None:  # each part at once, as they take minutes
        figures.extend(more)
        Console().print(table(more))
        if arguments.output:
            written = [vars(one) | {"ratio": one.ratio} for one in figures]
            arguments.output.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")

    with tempfile.TemporaryDirectory() as name, prefect_test_harness(server_startup_timeout=180):
        folder = Path(name)
        if arguments.only in (None, "dask"):
            show(dask(folder, arguments.images, arguments.rounds))
        if arguments.only == "dask":
            return
        config = project(folder / "project")
        if arguments.only in (None, "empty"):
            show(empty_flow(config, arguments.rounds))
        if arguments.only in (None, "whole"):
            show(whole_batch(config, arguments.batch, arguments.rounds))


if __name__ == "__main__":
    from benchmarks import shards  # by that name workers find it: what belongs to __main__ would be sent to them whole

    shards.main()
