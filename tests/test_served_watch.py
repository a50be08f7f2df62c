"""The watch of `reconwatch serve`: a run is wished for once for each batch that becomes complete."""

import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

import pytest
import yaml

from flows.config import Settings, load
from flows.ledger import open_ledger
from flows.progress import TerminalProgress
from flows.served_watch import AGAIN_EVERY, DueWatch, Watcher, watched_pipelines

Project = Callable[..., Path]
WATCHED = {"watch": True, "score": None}


def changed(config: Path, **sections: object) -> Settings:
    """The file's settings once pipeline `tiles` has these sections."""
    content = yaml.safe_load(config.read_text())
    content["pipelines"]["tiles"] |= sections
    config.write_text(yaml.safe_dump(content))
    return load(config, {})


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Whether it becomes true in that time."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


@pytest.fixture
def now() -> list[float]:
    """The clock: its one number is the time in seconds."""
    return [0.0]


@pytest.fixture
def wishes() -> list[str]:
    """The pipelines for which a run was wished."""
    return []


@pytest.fixture
def watch(project: Project, tmp_path: Path, now: list[float], wishes: list[str]) -> DueWatch:
    """Of a pipeline whose three batches are complete by their marker."""
    inbox = {"path": "data/inbox", "marker": "_SUCCESS"}
    config = project(tmp_path, schedule=WATCHED, data={"nominal": "data/nominal", "inbox": inbox})
    for folder in (tmp_path / "data" / "inbox").iterdir():
        (folder / "_SUCCESS").touch()
    return DueWatch(load(config, {}), {}, wishes.append, TerminalProgress(), lambda: now[0])


def looked(watch: DueWatch) -> None:
    """One turn of the watch: a look, and what follows from it."""
    pipeline = watch.settings.pipeline("tiles")
    if watch.look(pipeline).due:
        assert watch.ready(pipeline) == ""


def test_one_wish_for_what_is_due(watch: DueWatch, wishes: list[str], now: list[float]) -> None:
    """However often it is looked at, until something more is due; what stays due for long is wished for again."""
    for _ in range(3):
        looked(watch)
    assert wishes == ["tiles"]
    (watch.settings.path.parent / "data" / "inbox" / "1-nominal").rename(
        watch.settings.path.parent / "data" / "inbox" / "4-new"
    )
    looked(watch)
    assert wishes == ["tiles"] * 2
    now[0] += AGAIN_EVERY - 1
    looked(watch)
    assert wishes == ["tiles"] * 2
    now[0] += 1
    looked(watch)
    assert wishes == ["tiles"] * 3
    watch.close()


def test_a_batch_that_changed_is_due_anew(watch: DueWatch, wishes: list[str]) -> None:
    """Under the same name."""
    looked(watch)
    (watch.settings.path.parent / "data" / "inbox" / "1-nominal" / "image-000.png").unlink()
    looked(watch)
    assert wishes == ["tiles"] * 2
    watch.close()


def test_what_is_decided_is_no_wish(watch: DueWatch, wishes: list[str]) -> None:
    """An inbox in which nothing is due is only looked at."""
    pipeline = watch.settings.pipeline("tiles")
    ledger = open_ledger(watch.settings.workspace, {})
    for batch in watch.look(pipeline).due:
        claim = ledger.claim("tiles", batch.id, batch.manifest_hash(), "1", "c1")
        ledger.finish(claim, run_id="r", verdict={}, alarm=False, n_scored=1, n_flagged=0, n_unreadable=0)  # type: ignore[arg-type]  # nobody else is there
    looked(watch)
    assert wishes == []
    watch.close()
    ledger.close()


def test_the_watch_follows_the_file(project: Project, tmp_path: Path) -> None:
    """Begun where a pipeline asks for it, begun anew where that changes, ended where nobody asks."""
    config = project(tmp_path)
    wishes: SimpleQueue[str] = SimpleQueue()
    watcher = Watcher({}, wishes.put, TerminalProgress())
    watcher.follow(load(config, {}))
    assert watcher.pipelines == ()
    watcher.follow(changed(config, schedule=WATCHED))
    assert within(60, lambda: not wishes.empty())
    first = watcher._thread
    watcher.follow(changed(config, alerts=[]))
    assert watcher._thread is not first
    assert first is not None
    assert not first.is_alive()
    second = watcher._thread
    watcher.follow(load(config, {}))
    assert watcher._thread is second
    watcher.follow(changed(config, schedule={"watch": False}))
    assert watcher.pipelines == ()
    assert second is not None
    assert not second.is_alive()


def test_who_is_watched(project: Project, tmp_path: Path) -> None:
    """Who says so itself or by the file's section, and has an inbox."""
    config = project(tmp_path)
    content = yaml.safe_load(config.read_text())
    tiles = content["pipelines"]["tiles"]
    content["schedule"] = {"watch": True}
    content["pipelines"] |= {
        "own": tiles | {"schedule": {"watch": False}},
        "trained-only": tiles | {"data": {"nominal": "data/nominal"}},
    }
    config.write_text(yaml.safe_dump(content))
    assert [pipeline.name for pipeline in watched_pipelines(load(config, {}))] == ["tiles"]
