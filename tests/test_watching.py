"""Watch mode: a batch is acted upon within seconds of being complete, and nothing that fails ends the watch."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from flows.config import DataConfig, PipelineConfig
from flows.inbox import InboxState, Waiting
from flows.items import Batch
from flows.ledger import open_ledger
from flows.watching import DELAYS, Look, Ready, watch_inboxes
from tests.stand_ins import Said

SmallImages = Callable[[Path, int, int], list[Path]]
PATIENCE = 300.0  # seconds until a test gives up; on a busy machine a training takes its time


def pipeline(inbox: Any, name: str = "tiles") -> PipelineConfig:
    return PipelineConfig(name=name, data=DataConfig.model_validate({"nominal": "unused", "inbox": inbox}))


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


@contextmanager
def watching(
    pipelines: list[PipelineConfig], look: Look, ready: Ready, said: Said, clock: Callable[[], float] = time.monotonic
) -> Iterator[None]:
    """The watch, in a thread that is stopped in the end."""
    stop = Event()
    thread = Thread(target=watch_inboxes, args=(pipelines, look, ready, stop, said), kwargs={"clock": clock})
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def folders(one: PipelineConfig, decided: set[str]) -> InboxState:
    """Every subfolder of the inbox as a batch, due unless it is decided."""
    inbox = Path(one.data.inbox.path)  # type: ignore[union-attr]  # the tests' own have a path
    names = sorted(path.name for path in inbox.iterdir())
    return InboxState(tuple(Batch(name, ()) for name in names if name not in decided), (), frozenset(names))


def test_a_new_batch_is_acted_upon_without_waiting_for_the_next_look(tmp_path: Path) -> None:
    """The folder tells of its change: a look that is due in a minute happens at once."""
    decided: set[str] = set()

    def ready(one: PipelineConfig) -> str:
        decided.update(path.name for path in tmp_path.iterdir())
        return ""

    looks: list[float] = []

    def look(one: PipelineConfig) -> InboxState:
        looks.append(time.monotonic())
        return folders(one, decided)

    with watching([pipeline(str(tmp_path))], look, ready, Said()):
        until(lambda: len(looks) == 1)
        (tmp_path / "lot-1").mkdir()
        until(lambda: "lot-1" in decided)
        (tmp_path / "lot-2").mkdir()
        until(lambda: "lot-2" in decided)


def test_a_failure_is_tried_again_later_and_the_others_go_on(tmp_path: Path) -> None:
    """Each failure in a row makes the pause longer; another pipeline is not held up, and a success ends the row."""
    now, tried = [0.0], list[float]()
    said, others = Said(), list[str]()

    def ready(one: PipelineConfig) -> str:
        if one.name == "other":
            others.append(one.name)
            return ""
        tried.append(now[0])
        return "the store is away" if len(tried) < 4 else ""

    def look(one: PipelineConfig) -> InboxState:
        due = len(tried) < 4 if one.name == "tiles" else len(others) < 3
        return InboxState((Batch("lot", ()),) if due else (), (), frozenset({"lot"}))

    with watching([pipeline("s3://b/x"), pipeline("s3://b/y", "other")], look, ready, said, lambda: now[0]):
        while len(tried) < 4:
            now[0] += 1
            time.sleep(0.05)
        until(lambda: len(others) == 3)
    pauses = [after - before for before, after in pairwise(tried)]
    assert all(pause >= delay for pause, delay in zip(pauses, DELAYS, strict=False))
    assert pauses == sorted(pauses)
    assert [sentence for sentence in said.sentences if "tiles" in sentence] == [
        "tiles failed, and is tried again in 5 s: the store is away",
        "tiles failed, and is tried again in 15 s: the store is away",
        "tiles failed, and is tried again in 1 min 0 s: the store is away",
    ]


@pytest.mark.parametrize("error", [RuntimeError("no answer"), OSError()])
def test_an_inbox_that_cannot_be_looked_at_does_not_end_the_watch(error: Exception) -> None:
    """A store that is away for a while is a failure like others."""
    said, looks = Said(), [0]

    def look(one: PipelineConfig) -> InboxState:
        looks[0] += 1
        if looks[0] == 1:
            raise error
        return InboxState((), (), frozenset())

    now = [0.0]
    with watching([pipeline("s3://b/x")], look, lambda one: "", said, lambda: now[0]):
        until(lambda: looks[0] == 1)
        now[0] = 6.0
        until(lambda: looks[0] == 2)
    assert said.sentences == [f"tiles failed, and is tried again in 5 s: {str(error) or 'OSError'}"]


def test_a_batch_that_waits_is_said_once_and_one_that_is_deleted_is_said() -> None:
    """A batch that was seen and is gone before it was complete is not forgotten in silence."""
    states = [
        InboxState((), (Waiting("lot", f"is still being written: it changed {n} s ago"),), frozenset({"lot"}))
        for n in range(3)
    ]
    said, now = Said(), [0.0]

    def look(one: PipelineConfig) -> InboxState:
        return states.pop(0) if states else InboxState((), (), frozenset())

    with watching([pipeline("s3://b/x")], look, lambda one: "", said, lambda: now[0]):
        while len(said.sentences) < 2:
            now[0] += 1
            time.sleep(0.05)
    assert said.sentences == [
        "Batch lot of tiles is still being written: it changed 0 s ago; it is watched.",
        "Batch lot of tiles was deleted before it was scored, and nothing is recorded of it.",
    ]


@pytest.mark.slow
def test_the_command_scores_batches_as_they_come_and_stops_cleanly(
    project: Callable[..., Path], small_images: SmallImages, tmp_path: Path
) -> None:
    """Slowly written, moved in, or broken: each batch is decided once, whole; SIGTERM ends the watch with 0."""
    path = project(tmp_path / "p")
    inbox = tmp_path / "p" / "data" / "inbox"
    command = [sys.executable, "-W", "ignore", "-m", "flows.cli", "run", "--watch", "--config", str(path)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_API")}
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, cwd=Path(__file__).parents[1]
        )
    ledger = open_ledger(path.parent / ".reconwatch", {})

    def decided() -> dict[str, int]:
        records = ledger.batches.history("tiles", 100)
        return {record.batch: record.n_scored + record.n_unreadable for record in records}

    try:
        until(lambda: process.poll() is not None or "Watching tiles" in log.read_text())
        assert set(decided()) == {"1-nominal", "2-damaged", "3-unreadable"}
        images = small_images(tmp_path / "camera", 12, 7)
        (inbox / "4-slow").mkdir()
        for image in images:
            content = image.read_bytes()
            with (inbox / "4-slow" / image.name).open("wb") as file:
                for half in (content[: len(content) // 2], content[len(content) // 2 :]):
                    file.write(half)
                    file.flush()
                    time.sleep(0.15)
        until(lambda: "4-slow" in decided())
        assert decided()["4-slow"] == 12
        shutil.copytree(tmp_path / "camera", tmp_path / "p" / "5-moved")
        (tmp_path / "p" / "5-moved").rename(inbox / "5-moved")
        until(lambda: "5-moved" in decided())
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        ledger.close()
    text = log.read_text()
    assert "Batch 4-slow of tiles is still being written: it changed" in text
    assert text.rstrip().endswith("Stopped.")
    assert "Traceback" not in text
