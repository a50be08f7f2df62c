"""Files that lost their end, or a byte, after they were written: known as damaged, said, and made anew or refused."""

import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path

import pytest

from ae_models.errors import InputError
from flows import running
from flows.doctor import examine
from flows.progress import LogProgress
from flows.tracking import ArtifactMissing, TrackingUnavailable
from flows.tracking.artifacts import RECEIPT
from flows.workspace import Workspace, open_workspace

PROGRESS = LogProgress(getLogger("quiet"))
KINDS: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda content: b"",
    "cut in half": lambda content: content[: len(content) // 2],
    "without its last byte": lambda content: content[:-1],
    "with a byte flipped": lambda content: (
        content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 0x20]) + content[len(content) // 2 + 1 :]
    ),
}
STORES = ("ledger.db", "mlflow.db")
NO_STATE = (".lock", "-wal", "-shm")  # locks hold nothing; the others are SQLite's own, with checksums of their own

pytestmark = [
    pytest.mark.faults,
    pytest.mark.filterwarnings("ignore::UserWarning:mlflow", "ignore::DeprecationWarning"),
]


@dataclass(frozen=True)
class Finished:
    """A workspace after a real run, and the files that this wrote."""

    config: Path
    files: tuple[Path, ...]


def empty_journals(folder: Path) -> None:
    """What the stores' journals hold comes into the files themselves."""
    for name in STORES:
        with sqlite3.connect(folder / name) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()


@pytest.fixture(scope="module")
def finished(project: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Trained, calibrated and scored: the files are found, not listed."""
    config = project(tmp_path_factory.mktemp("finished"))
    workspace = open_workspace(config, {})
    report = running.run(workspace, "tiles", PROGRESS)
    assert not report.failed, report.failure
    workspace.ledger.close()
    folder = config.parent / ".reconwatch"
    empty_journals(folder)
    files = tuple(path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.endswith(NO_STATE))
    return Finished(config, files)


@pytest.fixture
def workspace(finished: Finished) -> Workspace:
    return open_workspace(finished.config, {})


def run_of(path: Path) -> str:
    """The run whose artifact a file is."""
    return path.parts[path.parts.index("artifacts", path.parts.index("artifacts") + 1) - 1]


def name_of(path: Path) -> str:
    """The name of the artifact that a file is."""
    return "/".join(path.parts[path.parts.index("artifacts", path.parts.index("artifacts") + 1) + 1 :])


def test_every_artifact_that_was_damaged_is_known_by_its_hash(
    finished: Finished, workspace: Workspace, tmp_path: Path, fault_count: Callable[[int], int]
) -> None:
    """Whichever file of a run is emptied, cut or changed by a byte: it is named, and it is not given as an artifact."""
    artifacts = [path for path in finished.files if "artifacts" in path.parts]
    drawn_anew = [path for path in artifacts if path.name == "monitor.html"]
    found = dict.fromkeys(KINDS, 0)
    every = len(KINDS) // fault_count(len(KINDS))  # kind of damage in turn, or all of them
    for place, path in enumerate(artifacts):
        content = path.read_bytes()
        for kind, damage in list(KINDS.items())[place % every :: every]:
            if path in drawn_anew or damage(content) == content:
                continue
            path.write_bytes(damage(content))
            try:
                with pytest.raises(ArtifactMissing, match="damaged") as refused:
                    workspace.tracking.artifact(run_of(path), name_of(path), tmp_path / kind / run_of(path))
                assert name_of(path) in str(refused.value)
                found[kind] += 1
            finally:
                path.write_bytes(content)
    assert len(artifacts) > 100  # of a training, a calibration with its model, three batches and the time line
    assert len(drawn_anew) == 1
    print(f"{len(artifacts)} artifacts of {len({run_of(path) for path in artifacts})} runs; known as damaged: {found}")


def test_all_damaged_artifacts_of_a_run_are_named(finished: Finished, workspace: Workspace) -> None:
    """Asked for the whole run, the names of what was damaged or lost come back, and of nothing else."""
    champion = workspace.tracking.registry.champion("tiles")
    run = champion.calibration_run
    assert workspace.tracking.artifacts.damaged(run) == ()
    mine = [path for path in finished.files if run in path.parts and path.name != RECEIPT]
    contents = {path: path.read_bytes() for path in mine[:3]}
    try:
        mine[0].write_bytes(b"")
        mine[1].unlink()
        assert workspace.tracking.artifacts.damaged(run) == tuple(sorted(map(name_of, mine[:2])))
    finally:
        for path, content in contents.items():
            path.write_bytes(content)


def test_the_doctor_reads_the_files_of_what_decides_and_of_the_newest_batches(finished: Finished) -> None:
    """One that was damaged is named with its run; where all are whole, that is said."""

    def said() -> list[tuple[str, str]]:
        findings = examine(finished.config, {}, free=lambda _: 2**40)
        return [(finding.state, finding.sentence) for finding in findings if finding.what == "artifacts"]

    whole = "all files of 5 runs, of what decides and of the newest 10 batches of each pipeline, are as they were"
    assert said() == [("ok", f"{whole} written")]
    for name in ("scores.parquet", "threshold.json", RECEIPT):
        named = [path for path in finished.files if path.name == name]
        path = next(path for path in named if not (path.parent / "monitor.html").exists())  # which is drawn anew
        content = path.read_bytes()
        path.write_bytes(content[:-1])
        try:
            ((state, sentence),) = said()
        finally:
            path.write_bytes(content)
        assert (state, sentence.startswith("tiles: ")) == ("wrong", True)
        assert name in sentence
        assert run_of(path) in sentence
        assert "restore" in sentence


@pytest.mark.parametrize("kind", KINDS)
def test_no_part_of_a_champion_decides_once_it_was_damaged(finished: Finished, workspace: Workspace, kind: str) -> None:
    """Each file of the champion: scoring says in one sentence what is damaged and what to do, and scores nothing."""
    run = workspace.tracking.registry.champion("tiles").calibration_run
    parts = [path for path in finished.files if run in path.parts and path.parent.name == "champion"]
    assert len(parts) == 6
    for path in parts:
        content = path.read_bytes()
        path.write_bytes(KINDS[kind](content))
        try:
            with pytest.raises((InputError, ArtifactMissing), match=r"calibrate again|train again|restore it"):
                workspace.tracking.registry.champion("tiles")
        finally:
            path.write_bytes(content)
    workspace.tracking.registry.champion("tiles")


@pytest.mark.parametrize("damaged", ["monitor.html", "sha256.txt"])
def test_a_damaged_monitor_page_is_drawn_anew(
    finished: Finished, small_images: Callable[[Path, int, int], list[Path]], damaged: str
) -> None:
    """The page of a pipeline over time holds nothing that the ledger does not: the next batch writes it whole, and its
    hash, which two processes that write at the same time leave as neither meant it."""
    (page,) = [path for path in finished.files if path.name == "monitor.html"]
    (page.parent / damaged).write_bytes(b"")
    small_images(finished.config.parent / "data" / "inbox" / f"4-{damaged}", 20, 4)
    workspace = open_workspace(finished.config, {})
    running.score(workspace, "tiles", [], PROGRESS)
    assert page.read_text(encoding="utf-8").count(f"4-{damaged}") > 0
    assert workspace.tracking.artifacts.damaged(page.parents[1].name) == ()


@pytest.mark.parametrize("name", STORES)
@pytest.mark.parametrize("kind", [*KINDS, "removed"])
def test_a_damaged_store_is_refused_in_one_sentence(finished: Finished, tmp_path: Path, name: str, kind: str) -> None:
    """A ledger or an MLflow store that lost its content is no new one, in which every batch would be scored and every
    alert be sent again: what happened and what to do is said instead."""
    folder = tmp_path / "project"
    shutil.copytree(finished.config.parent, folder)
    empty_journals(folder / ".reconwatch")  # an earlier test may hold the stores open, and SQLite mends them by these
    store = folder / ".reconwatch" / name
    content = store.read_bytes()
    if kind == "removed":
        store.unlink()
    elif kind == "with a byte flipped":
        store.write_bytes(
            content[:20] + b"\xff" * 200 + content[220:]
        )  # of the first page, which says what the file is
    else:
        store.write_bytes(KINDS[kind](content))
    with pytest.raises((InputError, TrackingUnavailable)) as refused:
        open_workspace(folder / "pipelines.yaml", {})
    message = str(refused.value)
    print(f"{name} {kind}: {message}")
    assert str(store) in message
    assert "\n" not in message
    assert any(words in message for words in ("restore", "check that"))


def test_a_store_that_was_removed_with_its_note_begins_anew(finished: Finished, tmp_path: Path) -> None:
    """Who means it removes the note as well, as the message says."""
    folder = tmp_path / "project"
    shutil.copytree(finished.config.parent, folder)
    empty_journals(folder / ".reconwatch")
    for name in STORES:
        (folder / ".reconwatch" / name).unlink()
        (folder / ".reconwatch" / f"{name}.made").unlink()
    workspace = open_workspace(folder / "pipelines.yaml", {})
    assert workspace.ledger.batches.count("tiles") == 0
