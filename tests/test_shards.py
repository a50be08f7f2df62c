"""A big batch in shards: the same digits however it is cut and whoever scores it, and nothing lost with a worker."""

import logging
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from ae_models.detector import Detector
from ae_models.errors import InputError
from ae_models.graph_export import with_graph
from ae_models.images import ImageSpec
from ae_models.images import read as read_image
from ae_models.networks import build_network
from flows import running
from flows.config import DataConfig, PathSource
from flows.config_runner import DaskRunner, ProcessesRunner, RunnerUnion, ThreadsRunner
from flows.fence import Fence
from flows.items import Item
from flows.progress import LogProgress
from flows.rows import Scores
from flows.scoring import score_batch
from flows.shards import (
    Partition,
    Sharding,
    WorkerLost,
    cut,
    in_pool,
    on_this_machine,
    score_items,
    sharding_of,
)
from flows.sources import path_batches
from flows.workspace import open_workspace

IMAGES = 420  # 7 shards of 64, the last one shorter


@dataclass(frozen=True)
class Dies:
    """An image whose first reader is killed; `mark` remembers it."""

    path: Path
    mark: Path
    always: bool = False

    def __call__(self) -> Path:
        if self.always or not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.path


@pytest.fixture(scope="module")
def detector() -> Detector:
    """A convolutional detector with random weights, of images 20 x 16."""
    torch.manual_seed(0)
    spec = ImageSpec(20, 16, 1)
    return Detector(spec, "convolutional", {}, build_network("convolutional", spec, {}).eval())


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> tuple[Item, ...]:
    """Image files of noise, every fiftieth of them unreadable."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    items = []
    for number in range(IMAGES):
        path = folder / f"{number:03d}.png"
        Image.fromarray(random.integers(0, 256, (20, 16), np.uint8)).save(path)
        if number % 50 == 7:
            path.write_bytes(b"no image")
        items.append(Item(str(path), partial(Path, path)))
    return tuple(items)


@pytest.fixture(scope="module")
def whole(items: tuple[Item, ...], detector: Detector) -> Scores:
    """What the batch scores uncut."""
    return score_items(items, detector, None, lambda steps: None)


def same(one: Scores, other: Scores) -> bool:
    """Whether both hold the same to the last digit."""
    return one.scores.tobytes() == other.scores.tobytes() and one.reasons.tolist() == other.reasons.tolist()


def sharding(folder: Path, runner: RunnerUnion) -> Sharding:
    """That runner on this machine."""
    return Sharding(runner.shard_size, folder / "shards", "cpu", on_this_machine(runner))


@pytest.mark.parametrize("size", [64, 150, 420, 1000])
def test_a_batch_scores_the_same_to_the_last_digit_however_it_is_cut(
    size: int, items: tuple[Item, ...], detector: Detector, whole: Scores, tmp_path: Path
) -> None:
    """Seven shards, three or one of it give the very scores of the uncut batch, and leave nothing behind."""
    done: list[int] = []
    cut_up = score_items(items, detector, sharding(tmp_path, ThreadsRunner(workers=3, shard_size=size)), done.append)
    assert same(cut_up, whole)
    assert sum(done) == IMAGES
    assert np.isnan(cut_up.scores).sum() == 9
    assert list((tmp_path / "shards").glob("*")) == []


@pytest.mark.parametrize(
    "runner", [ThreadsRunner(workers=3, shard_size=64), ProcessesRunner(workers=2, shard_size=150)]
)
def test_workers_score_by_the_graph_where_the_cutting_process_does(
    runner: RunnerUnion, items: tuple[Item, ...], detector: Detector, tmp_path: Path
) -> None:
    """To its last digit, which is not PyTorch's."""
    readable = [read_image(item.content(), detector.spec) for item in items[:7]]
    graph = with_graph(detector, np.stack(readable))
    uncut = score_items(items, graph, None, lambda steps: None)
    assert same(score_items(items, graph, sharding(tmp_path, runner), lambda steps: None), uncut)


def test_shards_begin_where_steps_of_the_network_do(tmp_path: Path) -> None:
    """The results of a step may depend on how many images are in it: a shard holds whole steps, but for the last."""
    items = [Item(str(number), partial(Path, str(number))) for number in range(IMAGES)]
    shards = cut(items, sharding(tmp_path, ThreadsRunner(workers=2, shard_size=100)), tmp_path)
    assert [(shard.start, len(shard.items)) for shard in shards] == [(0, 128), (128, 128), (256, 128), (384, 36)]


def test_a_batch_of_one_shard_is_not_cut(items: tuple[Item, ...], detector: Detector, whole: Scores) -> None:
    """What fits one shard is scored by the process itself: no worker is started and no file written."""

    def refuse(*_: object) -> None:
        raise AssertionError("no worker is needed")

    alone = Sharding(IMAGES, Path("/nowhere"), "cpu", refuse)  # type: ignore[arg-type]  # it must not be called
    assert same(score_items(items, detector, alone, lambda steps: None), whole)


def test_threads_cut_nothing_unless_told_to(tmp_path: Path) -> None:
    """The default runner is the process itself: one stream whose decoding threads are all there is."""
    assert sharding_of(ThreadsRunner(), tmp_path, "cpu") is None
    assert sharding_of(ThreadsRunner(workers=2), tmp_path, "cpu") is not None


def test_a_named_cluster_is_given_shards_for_those_who_are_said_to_share_it(tmp_path: Path) -> None:
    """Nothing is known of its workers here; where `workers` says how many there are, none of them is left over."""
    address, items = "tcp://scheduler:8786", [Item(str(number), partial(Path, str(number))) for number in range(20_000)]

    def lengths(runner: DaskRunner) -> list[int]:
        sharding = sharding_of(runner, tmp_path, "cpu")
        assert sharding is not None
        return [len(shard.items) for shard in cut(items, sharding, tmp_path)]

    assert lengths(DaskRunner(address=address, shard_size=8192)) == [6720, 6720, 6560]
    assert lengths(DaskRunner(address=address, shard_size=8192, workers=2)) == [5056, 5056, 5056, 4832]


@pytest.mark.slow
def test_a_process_that_dies_costs_its_shard_only(
    items: tuple[Item, ...], detector: Detector, whole: Scores, tmp_path: Path
) -> None:
    """A worker killed midway is replaced, and the result is complete and the same to the last digit."""
    victim = Item(items[300].uri, Dies(Path(items[300].uri), tmp_path / "died"))
    mortal = (*items[:300], victim, *items[301:])
    scored = score_items(
        mortal, detector, sharding(tmp_path, ProcessesRunner(workers=2, shard_size=64)), lambda steps: None
    )
    assert (tmp_path / "died").exists()
    assert same(scored, whole)


@pytest.mark.slow
def test_a_shard_that_kills_every_worker_is_given_up(
    items: tuple[Item, ...], detector: Detector, tmp_path: Path
) -> None:
    """After three attempts the error says which part of the batch it was."""
    victim = Item(items[70].uri, Dies(Path(items[70].uri), tmp_path / "died", always=True))
    deadly = (*items[:70], victim, *items[71:128])
    with pytest.raises(WorkerLost, match=r"shards of the batch could not be scored in 3 attempts; the first, from im"):
        score_items(deadly, detector, sharding(tmp_path, ProcessesRunner(workers=1, shard_size=64)), lambda steps: None)


def test_an_outage_of_a_worker_is_tried_again(
    items: tuple[Item, ...], detector: Detector, whole: Scores, tmp_path: Path
) -> None:
    """An error that is no property of an image costs an attempt at its shard."""
    failures = [OSError("the network is down")]

    def content() -> Path:
        if failures:
            raise failures.pop()
        return Path(items[0].uri)

    flaky = (Item(items[0].uri, content), *items[1:])
    threads = sharding(tmp_path, ThreadsRunner(workers=2, shard_size=64))
    assert same(score_items(flaky, detector, threads, lambda steps: None), whole)


def test_a_workspace_that_workers_do_not_share_is_said(
    items: tuple[Item, ...], detector: Detector, tmp_path: Path
) -> None:
    """A partition that is not where the worker wrote it means another disk there."""
    pool = in_pool(lambda: ThreadPoolExecutor(2))

    def elsewhere(shards, look):  # type: ignore[no-untyped-def]  # a fake RunShards
        for shard, outcome in pool(shards, look):
            assert isinstance(outcome, Partition)
            outcome.path.unlink()
            yield shard, outcome

    with pytest.raises(InputError, match="put the workspace into a folder that all workers share"):
        score_items(items, detector, Sharding(64, tmp_path, "cpu", elsewhere), lambda steps: None)


@pytest.mark.parametrize("fenced", [True, False])
def test_the_items_of_files_travel_to_other_processes(
    fenced: bool, small_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    """An item's image can be fetched elsewhere than where it was found, that of an inbox too."""
    import pickle

    from flows.folders import images_in

    small_images(tmp_path, 2, 0)
    fence = Fence(tmp_path, DataConfig(nominal=PathSource(path=tmp_path))) if fenced else None
    contents = [item.content for item in images_in(tmp_path, fence).items]
    assert [content() for content in pickle.loads(pickle.dumps(contents))] == sorted(tmp_path.glob("*.png"))


@pytest.mark.slow
def test_a_batch_is_decided_alike_by_every_runner(
    project: Callable[..., Path], small_images: Callable[[Path, int, int], list[Path]], tmp_path: Path
) -> None:
    """What `runner` says of a pipeline changes who scores a big batch, and nothing of its rows and verdict."""
    config = project(tmp_path)
    progress = LogProgress(logging.getLogger("quiet"))
    workspace = open_workspace(config, {})
    running.train(workspace, "tiles", progress)
    running.calibrate(workspace, "tiles", progress)
    small_images(tmp_path / "big", 200, 5)[7].write_bytes(b"no image")
    (batch,) = path_batches([tmp_path / "big"])
    champion = workspace.tracking.registry.champion("tiles").champion
    plain, *others = (
        score_batch(
            batch,
            champion,
            workspace.settings.pipeline("tiles"),
            progress,
            lambda: None,
            manifest_hash="0" * 64,
            sharding=sharding_of(runner, tmp_path, "cpu"),
        )
        for runner in (
            ThreadsRunner(),
            ThreadsRunner(workers=3, shard_size=64),
            ProcessesRunner(workers=2, shard_size=128),
        )
    )
    for other in others:
        assert other.verdict == plain.verdict
        pd.testing.assert_frame_equal(other.table, plain.table, check_exact=True)
