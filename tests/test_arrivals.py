"""Late, repeated, changed and deleted batches each have one defined behaviour, and people are told of it."""

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from mlflow import MlflowClient

from ae_models.images import ImageInput
from flows import running
from flows.inbox import due_batches, known_manifest
from flows.monitor import monitor_page
from flows.scoring import BatchReport, score_and_record
from flows.sources import inbox_batches
from flows.tracking import ChampionVersion
from flows.workspace import Workspace, open_workspace
from tests.stand_ins import Said

SmallImages = Callable[[Path, int, int], list[Path]]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:mlflow", "ignore::DeprecationWarning")


class Line:
    """A trained pipeline, its inbox, and what was said."""

    def __init__(self, workspace: Workspace, inbox: Path) -> None:
        self.workspace, self.inbox, self.said = workspace, inbox, Said()
        self.pipeline = workspace.settings.pipeline("tiles")
        self.champion: ChampionVersion = workspace.tracking.registry.champion("tiles")

    def run(self) -> list[tuple[str, str]]:
        """What becomes of the batches that are due."""
        self.said.sentences.clear()
        report = running.run(self.workspace, "tiles", self.said)
        assert report.failure == ""
        return [(batch.batch, batch.outcome) for batch in report.batches]

    def score(self, name: str, meanwhile: Callable[[Path], object], when: str) -> BatchReport:
        """Score a batch while somebody does something to it: once it is `listed`, or once its first image is `read`."""
        (batch,) = (batch for batch in inbox_batches(self.pipeline.data) if batch.id == name)
        known_manifest(self.pipeline, batch, self.workspace.ledger)
        if when == "listed":
            meanwhile(self.inbox / name)
        else:
            batch.kept.forget()  # as of a batch too large to be kept from its hash to its scores
            first = batch.items[0].content

            def content() -> ImageInput:
                meanwhile(self.inbox / name)
                return first()

            object.__setattr__(batch.items[0], "content", content)
        self.said.sentences.clear()
        return score_and_record(self.pipeline, batch, self.champion, self.workspace, self.said)

    def decided(self) -> list[str]:
        return [record.batch for record in reversed(self.workspace.ledger.batches.history("tiles", 100))]


@pytest.fixture(scope="module")
def line(project: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Line:
    path = project(tmp_path_factory.mktemp("line"))
    workspace = open_workspace(path, {})
    for batch in (path.parent / "data" / "inbox").iterdir():
        shutil.rmtree(batch)
    assert running.run(workspace, "tiles", Said()).failure == ""
    return Line(workspace, path.parent / "data" / "inbox")


def batch_of(line: Line, small_images: SmallImages, name: str, seed: int, day: int = 20) -> list[Path]:
    """A new batch whose files are of this day of May 2024."""
    images = small_images(line.inbox / name, 12, seed)
    taken = datetime(2024, 5, day, 12, tzinfo=UTC).timestamp()
    for image in images:
        os.utime(image, (taken, taken))
    return images


def test_a_late_batch_is_scored_when_it_arrives_with_its_own_time(line: Line, small_images: SmallImages) -> None:
    """What is due together comes the oldest first; what comes later is scored then, and the monitor calls it late."""
    batch_of(line, small_images, "a-newer", 1, day=12)
    batch_of(line, small_images, "b-older", 2, day=11)
    assert line.run() == [("b-older", "scored"), ("a-newer", "scored")]
    batch_of(line, small_images, "c-late", 3, day=10)
    assert line.run() == [("c-late", "scored")]
    page = monitor_page("tiles", line.workspace.ledger.timeline.points("tiles"))
    times = {batch.name: batch.time for batch in page.batches}
    assert times["c-late"].endswith(", of 2024-05-10 12:00: late")
    assert "late" not in times["a-newer"] + times["b-older"]


def test_a_repeated_batch_is_decided_once(line: Line, small_images: SmallImages) -> None:
    """Touched, moved away and back, or written again with the same content: nothing is recorded a second time."""
    images = batch_of(line, small_images, "repeated", 4)
    assert line.run() == [("repeated", "scored")]
    os.utime(images[0])
    assert line.run() == []
    shutil.move(line.inbox / "repeated", line.inbox.parent / "repeated")
    shutil.copytree(line.inbox.parent / "repeated", line.inbox / "repeated", copy_function=shutil.copyfile)
    assert line.run() == []
    assert line.decided().count("repeated") == 1


def test_a_batch_that_changed_after_its_decision_is_a_new_one_that_leads_to_the_old(
    line: Line, small_images: SmallImages
) -> None:
    """It is said with the address of the earlier decision, and its run in MLflow leads there."""
    batch_of(line, small_images, "changed", 5)
    line.run()
    (earlier,) = (r for r in line.workspace.ledger.batches.history("tiles", 1) if r.batch == "changed")
    batch_of(line, small_images, "changed", 6)
    assert line.run() == [("changed", "scored")]
    url = line.workspace.tracking.addresses.run("tiles", earlier.run_id)
    sentence = f"A batch changed of tiles was decided before, with other images: this is a new one. Then: {url}"
    assert sentence in line.said.sentences
    (later,) = line.workspace.ledger.batches.history("tiles", 1)
    tags = MlflowClient(line.workspace.tracking.uri).get_run(later.run_id).data.tags
    assert tags["reconwatch.replaced"] == earlier.run_id
    assert (
        f"A batch of this name was decided before, with other images: [that decision]({url})."
        in tags["mlflow.note.content"]
    )


def test_a_batch_that_changes_while_it_is_scored_stays_due(line: Line, small_images: SmallImages) -> None:
    """Nothing is recorded of a state that nobody saw whole; the next run decides it as it is then."""
    batch_of(line, small_images, "moving", 7)

    def write(folder: Path) -> None:
        with (folder / "image-005.png").open("ab") as file:
            file.write(b"more")

    report = line.score("moving", write, when="read")
    reason = "changed while it was scored (image-005.png): nothing is recorded, and it stays due"
    assert (report.outcome, report.reason) == ("changed", reason)
    assert f"Batch moving of tiles {reason}." in line.said.sentences
    assert "moving" not in line.decided()
    assert [batch.id for batch in due_batches(line.pipeline, line.workspace.ledger, Said())] == ["moving"]
    assert line.run() == [("moving", "scored")]


def test_a_batch_that_is_deleted_before_it_is_scored_is_said(line: Line, small_images: SmallImages) -> None:
    """It is neither skipped in silence nor judged by files that are not there."""
    batch_of(line, small_images, "gone", 8)
    report = line.score("gone", shutil.rmtree, when="listed")
    assert report.outcome == "gone"
    assert line.said.sentences == [
        "Batch gone of tiles was deleted before it was scored, and nothing is recorded of it."
    ]
    assert "gone" not in line.decided()


def test_images_that_are_deleted_while_their_batch_is_scored_are_unreadable(
    line: Line, small_images: SmallImages
) -> None:
    """The batch is judged with them: a disk that loses files is a fault that somebody should hear of."""
    batch_of(line, small_images, "shrinking", 9)
    report = line.score("shrinking", lambda folder: (folder / "image-003.png").unlink(missing_ok=True), when="read")
    assert report.outcome == "scored"
    assert report.table is not None
    missing = report.table[report.table["status"] == "unreadable"]
    assert missing[["uri", "reason"]].to_numpy().tolist() == [
        [str(line.inbox / "shrinking" / "image-003.png"), "does not exist"]
    ]
