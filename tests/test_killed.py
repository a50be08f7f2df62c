"""A run that is killed at any point and started again scores each batch once and alerts once."""

import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from flows.config import load
from flows.ledger import Ledger, open_ledger
from flows.streams import Stream
from flows.tracking import Tracking
from tests import faulty

KILLS, FRESH_EVERY = 50, 10  # every tenth kill meets a run that has to train and calibrate as well
PROCESSES = multiprocessing.get_context("forkserver")  # children that have the imports behind them
PROCESSES.set_forkserver_preload(["flows.running", "flows.cli", "prefect.blocks.notifications"])


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[str]]]:
    with faulty.receiver() as received:
        yield received


def run(path: str) -> None:
    """What `reconwatch run` does, in a process of its own."""
    from flows.cli import main

    main(["run", "--config", path])


def started(path: Path) -> multiprocessing.process.BaseProcess:
    process = PROCESSES.Process(target=run, args=(str(path),))
    process.start()
    return process


def finished(path: Path) -> float:
    """Run to the end; the seconds that it took."""
    start = time.monotonic()
    process = started(path)
    process.join(120)
    assert process.exitcode == 0
    return time.monotonic() - start


def add_batches(inbox: Path, number: int, small_images: Callable[[Path, int, int], list[Path]]) -> None:
    """One nominal and one damaged batch."""
    small_images(inbox / f"nominal-{number}", 20, 2 * number)
    for path in small_images(inbox / f"damaged-{number}", 20, 2 * number + 1)[:10]:
        noise = np.random.default_rng(number).integers(0, 256, (16, 16), dtype=np.uint8)
        Image.fromarray(noise).save(path)


def settled(path: Path) -> tuple[list[str], list[str], list[str]]:
    """Of a workspace: names of the decided batches, of those that alarmed, and of the finished MLflow runs.

    Its stream holds exactly the batches that raised no alarm, and its one monitor run has a point for each batch.
    """
    settings = load(path, {})
    ledger = Ledger.open(f"sqlite:///{settings.workspace / 'ledger.db'}")
    history = ledger.batches.history("tiles", 1000)
    assert ledger.outbox.pending() == ()
    calm = [record for record in history if not record.alarm]
    stream = ledger.streams.of("tiles", calm[0].calibration_version)
    assert stream is not None
    evidence = Stream.from_json(stream.state).evidence
    assert (evidence.batches, evidence.flagged) == (len(calm), sum(record.n_flagged for record in calm))
    client = MlflowClient(Tracking(settings, {}).uri)
    experiment = client.get_experiment_by_name("reconwatch/tiles")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`reconwatch.kind` = 'batch'")
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.info.run_id for run in runs} == {record.run_id for record in history}
    (monitor,) = client.search_runs([experiment.experiment_id], "tags.`reconwatch.kind` = 'monitor'")
    steps = [point.step for point in client.get_metric_history(monitor.info.run_id, "flag_rate")]
    assert sorted(steps) == list(range(1, len(history) + 1))
    names = [run.data.tags["reconwatch.batch"] for run in runs]
    return [record.batch for record in history], [record.batch for record in history if record.alarm], names


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:mlflow", "ignore::DeprecationWarning")
def test_a_killed_run_that_is_started_again_scores_each_batch_once_and_alerts_once(
    project: Callable[..., Path],
    small_images: Callable[[Path, int, int], list[Path]],
    receiver: tuple[str, list[str]],
    tmp_path: Path,
) -> None:
    """Killed with -9 at 50 random points: each batch is decided once and has one MLflow run, each incident one key."""
    address, keys = receiver
    chance = random.Random(0)
    kills, unfinished = 0, 0
    for workspace in range(KILLS // FRESH_EVERY):
        grouping = {"close_after": 3 * (workspace % 2)}  # without and with
        path = project(tmp_path / str(workspace), alerts=[{"type": "webhook", "url": address}], incidents=grouping)
        expected_batches, heard_before = 3, len(keys)
        seconds = 6.0
        for number in range(FRESH_EVERY):
            if number:
                add_batches(tmp_path / str(workspace) / "data" / "inbox", number, small_images)
                expected_batches += 2
            process = started(path)
            time.sleep(chance.uniform(0, seconds))
            unfinished += process.is_alive()
            process.kill()
            process.join()
            kills += 1
            rest = finished(path)
            seconds = max(rest, 1.0)
        batches, alarmed, names = settled(path)
        assert Counter(batches) == Counter(set(batches))
        assert len(batches) == expected_batches
        assert sorted(names) == sorted(batches)
        incidents = open_ledger(tmp_path / str(workspace) / ".reconwatch", {}).incidents.newest(closed=True)
        assert sum(incident.batches for incident in incidents) == len(alarmed)
        assert len(set(keys[heard_before:])) == len(incidents) == (2 if workspace % 2 else len(alarmed))
        assert {name for name in batches if name.startswith("damaged")} <= set(alarmed)
    assert kills == KILLS
    assert unfinished > KILLS // 2  # most kills met a run at work
    print(f"{unfinished} of {kills} kills met a run at work; {len(keys)} alerts received")
