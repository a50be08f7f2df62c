"""A big batch scored in shards by several workers: the same scores to the last digit, however it is cut.

A shard travels to a worker as addresses; the worker reads the images itself, writes a Parquet file of scores and
reasons, and gives back its path, rows and hash.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, ProcessPoolExecutor, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ae_models.cores import available_cores
from ae_models.errors import InputError
from ae_models.graph import load_graph
from ae_models.images import ImageSpec
from flows.config_runner import RunnerUnion, ThreadsRunner
from flows.items import Item
from flows.rows import STEP, Look, Scorer, Scores, score_here
from flows.words import reason_of

if TYPE_CHECKING:
    from ae_models.detector import AnyDetector

ROUNDS = 3  # attempts at a shard
TICK = 1.0  # seconds between two looks at shards that are under way


@dataclass(frozen=True)
class Shard:
    """A part of a batch on its way to a worker.

    Attributes:
        start: place of its first image in the batch, a multiple of STEP.
        items: its images.
        detector: the folder that it is loaded from, once a worker.
        device: the torch device that it is wished on.
        output: the Parquet file to write.
        by_graph: whether the detector's graph scores, and not PyTorch: as it would in the process that cuts the batch.
    """

    start: int
    items: tuple[Item, ...]
    detector: Path
    device: str
    output: Path
    by_graph: bool = False


@dataclass(frozen=True)
class Partition:
    """What a worker gives back: the Parquet file that it wrote, its rows, and the SHA-256 (hex) of its bytes."""

    path: Path
    rows: int
    sha256: str


RunShards = Callable[[Sequence[Shard], Look], Iterator[tuple[Shard, Partition | BaseException]]]


@dataclass(frozen=True)
class Sharding:
    """How a batch of more than `size` images is cut, who scores its parts, and the folder that all of them see.

    There are as many parts as a multiple of those that are scored `at_once`, so that none of the workers is left over.
    """

    size: int
    folder: Path
    device: str
    run: RunShards
    at_once: int = 1


def score_items(
    items: Sequence[Item],
    detector: "AnyDetector",
    sharding: Sharding | None,
    advance: Callable[..., None],
    look: Look = lambda: None,
    kept: Mapping[int, bytes] = MappingProxyType({}),
) -> Scores:
    """The scores of images, here or in shards; `advance` is told how many more are done, and `look` called often.

    `kept` are files whose bytes are in memory here, by their place; workers read theirs themselves.

    Raises:
        WorkerLost: a shard's workers died again and again.
    """
    if sharding is None or len(items) <= sharding.size:
        return score_here(items, detector, advance, look, kept=kept)
    return _score_in_shards(items, detector, sharding, advance, look)


class WorkerLost(RuntimeError):  # noqa: N818 (what happened, in words)
    """A shard could not be scored, whoever tried."""


def _score_in_shards(
    items: Sequence[Item],
    detector: "AnyDetector",
    sharding: Sharding,
    advance: Callable[..., None],
    look: Look,
) -> Scores:
    scores = np.full(len(items), np.nan)
    reasons = np.full(len(items), "", dtype=object)
    with _folder(sharding.folder) as folder:
        detector.save(folder / "detector")
        missing = cut(items, sharding, folder, detector.scoring_graph is not None)
        for attempt in range(1, ROUNDS + 1):
            lost: list[tuple[Shard, BaseException]] = []
            for shard, outcome in sharding.run(missing, look):
                if isinstance(outcome, BaseException):
                    lost.append((shard, outcome))
                    continue
                here = slice(shard.start, shard.start + len(shard.items))
                part = read(outcome)
                scores[here], reasons[here] = part.scores, part.reasons
                advance(outcome.rows)
            if not lost:
                return Scores(scores, reasons)
            _refuse_what_no_retry_mends(lost, attempt)
            missing = [shard for shard, _ in lost]
    raise AssertionError("the last round returns or raises")


def _refuse_what_no_retry_mends(lost: Sequence[tuple[Shard, BaseException]], attempt: int) -> None:
    shard, error = lost[0]
    for _, other in lost:
        if isinstance(other, InputError):
            raise other
    if attempt == ROUNDS:
        raise WorkerLost(
            f"{len(lost)} shards of the batch could not be scored in {ROUNDS} attempts; the first, from image "
            f"{shard.start + 1:,} on: {reason_of(error)}"
        ) from error


def cut(items: Sequence[Item], sharding: Sharding, folder: Path, by_graph: bool = False) -> list[Shard]:
    """The shards of a batch, alike in size; each begins where a step of the network does, so that every step sees the
    same images."""
    rounds = -(-len(items) // (sharding.size * sharding.at_once))
    size = -(-len(items) // (rounds * sharding.at_once * STEP)) * STEP
    return [
        Shard(
            start,
            tuple(items[start : start + size]),
            folder / "detector",
            sharding.device,
            folder / f"{start:010d}.parquet",
            by_graph,
        )
        for start in range(0, len(items), size)
    ]


def score_shard(shard: Shard, cores: int | None = None) -> Partition:
    """What a worker does: score the shard's images and write them; whole or not at all.

    A worker process that shares its machine with others is told how many of the cores are its own: workers that wait
    for each other's threads take many times as long.
    """
    scored = score_here(shard.items, _scorer(shard.detector, shard.by_graph, shard.device, cores), cores=cores)
    table = pd.DataFrame({"score": scored.scores, "reason": scored.reasons.astype(str)})
    with tempfile.NamedTemporaryFile(dir=shard.output.parent, suffix=".part", delete=False) as file:
        table.to_parquet(file.name, index=False)
        digest = hashlib.sha256(Path(file.name).read_bytes()).hexdigest()
    os.replace(file.name, shard.output)
    return Partition(shard.output, len(table), digest)


def read(partition: Partition) -> Scores:
    """The rows that a worker wrote.

    Raises:
        InputError: this process does not see the file, or sees another one.
    """
    try:
        content = partition.path.read_bytes()
    except OSError as error:
        raise InputError(
            f"a worker wrote {partition.path}, and this process cannot read it ({error.strerror}): put the workspace "
            "into a folder that all workers share, or use runner: processes"
        ) from error
    if hashlib.sha256(content).hexdigest() != partition.sha256:
        raise InputError(f"{partition.path} is not what the worker wrote: is the workspace one folder for all workers?")
    table = pd.read_parquet(partition.path)
    return Scores(table["score"].to_numpy(np.float64), table["reason"].to_numpy(object))


@lru_cache(maxsize=2)  # a worker lives for many shards, and its next batch may be another pipeline's
def _scorer(folder: Path, by_graph: bool, device: str, cores: int | None) -> Scorer:
    if by_graph:
        spec = json.loads((folder / "detector.json").read_text(encoding="utf-8"))["spec"]
        graph = load_graph(folder, ImageSpec.from_json(spec))
        if graph is None:
            raise InputError(f"the graph in {folder} is gone")
        return graph
    import torch

    from ae_models.detector import load_detector
    from ae_models.training import choose_device

    if cores:
        torch.set_num_threads(cores)
    return load_detector(folder).on(choose_device(device))


@contextmanager
def _folder(parent: Path) -> Iterator[Path]:
    """A new folder for the partitions of one batch, removed when they are read."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=parent))
    folder.chmod(0o755)  # workers of a cluster may be other users
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sharding_of(runner: RunnerUnion, workspace: Path, device: str, run: RunShards | None = None) -> Sharding | None:
    """How a pipeline's big batches are cut; None for not at all. `run` scores them elsewhere than on this machine."""
    if isinstance(runner, ThreadsRunner) and runner.workers == 1:
        return None
    elsewhere = getattr(runner, "address", None)  # of a cluster that runs nothing is known here but what is said
    at_once = runner.workers or (1 if elsewhere else available_cores())
    return Sharding(runner.shard_size, workspace / "shards", device, run or on_this_machine(runner), at_once)


def on_this_machine(runner: RunnerUnion) -> RunShards:
    """Threads, or processes; a cluster's shards are scored by as many processes as there are cores."""
    workers = runner.workers or available_cores()
    if isinstance(runner, ThreadsRunner):
        return in_pool(lambda: ThreadPoolExecutor(workers, thread_name_prefix="shard"))
    spawn = multiprocessing.get_context("spawn")  # a fork would take over the locks of torch's threads
    return in_pool(lambda: ProcessPoolExecutor(workers, spawn), share_of(workers))


def share_of(workers: int) -> int:
    """How many of this machine's cores are each worker's own, where so many share it."""
    return max(1, available_cores() // workers)


def in_pool(pool_of: Callable[[], Executor], cores: int | None = None) -> RunShards:
    """Shards scored by the workers of a pool, a new one each round: one that lost a worker takes no more work.

    `cores` are each worker's own, where that is a process.
    """

    def run(shards: Sequence[Shard], look: Look) -> Iterator[tuple[Shard, Partition | BaseException]]:
        with pool_of() as pool:
            waiting = {}
            for shard in shards:
                try:
                    waiting[pool.submit(score_shard, shard, cores)] = shard
                except BrokenExecutor as error:
                    yield shard, error
            try:
                while waiting:
                    done, _ = wait(waiting, TICK, FIRST_COMPLETED)
                    look()
                    for future in done:
                        yield waiting.pop(future), future.exception() or future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    return run
