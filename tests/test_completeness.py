"""A batch is scored once it is complete: nothing that is still being written is read, whoever writes however slowly."""

import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.completeness import still_arriving
from flows.config import DataConfig, PipelineConfig
from flows.inbox import InboxState, inbox_state
from flows.ledger import Ledger, open_ledger
from flows.sources import inbox_batches
from tests.stand_ins import Said

SmallImages = Callable[[Path, int, int], list[Path]]
LATER = timedelta(hours=1)


def pipeline(inbox: Path, **how: Any) -> PipelineConfig:
    data = DataConfig.model_validate({"nominal": "unused", "inbox": {"path": str(inbox), **how}})
    return PipelineConfig(name="tiles", data=data)


def reason(tiles: PipelineConfig, at: datetime | None = None) -> str:
    """Why the one batch of the inbox is not complete; empty where it is."""
    (batch,) = inbox_batches(tiles.data)
    assert tiles.data.inbox is not None
    return still_arriving(batch, tiles.data.inbox, at or datetime.now(UTC))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    (tmp_path / "workspace").mkdir()
    ledger = open_ledger(tmp_path / "workspace", {})
    yield ledger
    ledger.close()


class TestSettled:
    """A batch that nothing changed for the stated time is complete."""

    def test_it_is_complete_once_its_time_is_over(self, tmp_path: Path, small_images: SmallImages) -> None:
        """Just written it is not, and the reason says for how long nothing may change; later it is."""
        small_images(tmp_path / "lot", 2, 0)
        tiles = pipeline(tmp_path, settled="30s")
        sentence = r"is still being written: it changed \d+ s ago, and is complete once nothing changed for 30s"
        assert re.fullmatch(sentence, reason(tiles))
        assert reason(tiles, datetime.now(UTC) + timedelta(seconds=31)) == ""

    @pytest.mark.parametrize("copy", [shutil.copytree, shutil.move])
    def test_times_that_a_copy_keeps_do_not_hide_that_it_is_new(
        self, tmp_path: Path, small_images: SmallImages, copy: Callable[[Path, Path], object]
    ) -> None:
        """Programs that copy keep the old time of a file; the time at which the system wrote it counts."""
        for path in small_images(tmp_path / "old" / "lot", 2, 0):
            os.utime(path, (1, 1))
        (tmp_path / "inbox").mkdir()
        copy(tmp_path / "old" / "lot", tmp_path / "inbox" / "lot")
        assert reason(pipeline(tmp_path / "inbox", settled="30s")).startswith("is still being written")

    def test_a_file_that_is_no_image_counts(self, tmp_path: Path, small_images: SmallImages) -> None:
        """A hidden temporary file beside the images is somebody who still writes."""
        small_images(tmp_path / "lot", 2, 0)
        tiles, temporary = pipeline(tmp_path, settled="1s"), tmp_path / "lot" / ".a.png.Xy12"
        time.sleep(1.1)
        assert reason(tiles) == ""
        temporary.touch()
        soon = datetime.fromtimestamp(temporary.stat().st_ctime, UTC) + timedelta(seconds=0.5)
        assert reason(tiles, soon).startswith("is still being written: it changed 0 s ago")

    def test_a_clock_that_is_ahead_is_named(self, tmp_path: Path, small_images: SmallImages) -> None:
        """Where the files' clock and ours differ, waiting helps nobody: the sentence is about the clocks."""
        small_images(tmp_path / "lot", 2, 0)
        an_hour_ago = datetime.now(UTC) - LATER
        sentence = reason(pipeline(tmp_path, settled="30s"), an_hour_ago)
        assert re.fullmatch(r"changed 3[56]\d\d s ahead of this machine's clock \(set the clocks .*\)", sentence)

    def test_without_a_key_a_folder_is_complete_when_it_is_there(
        self, tmp_path: Path, small_images: SmallImages
    ) -> None:
        """By default a batch appears whole: written elsewhere, and renamed into the inbox."""
        small_images(tmp_path / "lot", 2, 0)
        assert reason(pipeline(tmp_path)) == ""


class TestMarker:
    """A file says that the batch is complete."""

    @pytest.mark.parametrize("name", ["_SUCCESS", ".done", "ready.txt", "last.png"])
    def test_it_is_complete_once_the_file_is_there(self, tmp_path: Path, small_images: SmallImages, name: str) -> None:
        """Whatever the marker is called: until it is there the batch waits, and it is no image of it."""
        small_images(tmp_path / "lot", 2, 0)
        tiles = pipeline(tmp_path, marker=name)
        assert reason(tiles) == f"is still being written: its file {name} is not there"
        (tmp_path / "lot" / name).touch()
        assert reason(tiles) == ""
        assert len(inbox_batches(tiles.data)[0].items) == 2

    def test_with_both_keys_both_have_to_hold(self, tmp_path: Path, small_images: SmallImages) -> None:
        """A marker that comes too early is no harm where the batch has to settle as well."""
        small_images(tmp_path / "lot", 2, 0)
        (tmp_path / "lot" / "_SUCCESS").touch()
        tiles = pipeline(tmp_path, marker="_SUCCESS", settled="30s")
        assert reason(tiles).startswith("is still being written: it changed")
        assert reason(tiles, datetime.now(UTC) + LATER) == ""


class TestNames:
    """Names say that something is not finished, in every way of telling."""

    @pytest.mark.parametrize("name", ["a.png.part", "a.png.filepart", "A.PNG.TMP", "a.crdownload", "deep/b.partial"])
    def test_a_file_that_a_program_still_writes_holds_its_batch_back(
        self, tmp_path: Path, small_images: SmallImages, name: str
    ) -> None:
        """Browsers, rsync and transfer programs write under another name and rename at the end."""
        small_images(tmp_path / "lot", 2, 0)
        (tmp_path / "lot" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "lot" / name).touch()
        expected = f"is still being written: {Path(name).name} is not finished"
        assert reason(pipeline(tmp_path)) == expected

    def test_a_folder_may_be_called_unfinished_too(self, tmp_path: Path, small_images: SmallImages) -> None:
        """A batch that is written as lot.tmp and renamed to lot is complete from then on; a hidden one is unseen."""
        small_images(tmp_path / "lot.tmp", 2, 0)
        small_images(tmp_path / ".lot-2", 2, 0)
        assert reason(pipeline(tmp_path)) == "is still being written: lot.tmp is not finished"
        (tmp_path / "lot.tmp").rename(tmp_path / "lot")
        assert reason(pipeline(tmp_path)) == ""


def write_slowly(images: list[Path], folder: Path, finish: Callable[[], None]) -> threading.Thread:
    """A thread that writes copies of the images into the folder in pieces, over a good second, and then finishes."""

    def write() -> None:
        folder.mkdir(parents=True)
        for image in images:
            content = image.read_bytes()
            with (folder / image.name).open("wb") as file:
                for start in range(0, len(content), 1 + len(content) // 4):
                    file.write(content[start : start + 1 + len(content) // 4])
                    file.flush()
                    time.sleep(0.04)
        finish()

    thread = threading.Thread(target=write)
    thread.start()
    return thread


class TestSlowWriters:
    """While somebody writes, the batch is listed again and again: it is due once, and then it is whole."""

    @pytest.mark.parametrize("way", ["settled", "marker", "rename"])
    def test_a_batch_is_due_only_once_it_is_whole(
        self, tmp_path: Path, small_images: SmallImages, ledger: Ledger, way: str
    ) -> None:
        """In each of the three ways no half-written file is ever part of a batch that is due."""
        images = small_images(tmp_path / "camera", 8, 0)
        inbox, folder = tmp_path / "inbox", tmp_path / "inbox" / "lot"
        inbox.mkdir()
        finish: dict[str, Callable[[], Any]] = {
            "settled": lambda: None,
            "marker": lambda: (folder / "_SUCCESS").touch(),
            "rename": lambda: (tmp_path / "inbox" / ".lot").rename(folder),
        }
        how = {"settled": {"settled": "1s"}, "marker": {"marker": "_SUCCESS"}, "rename": {}}[way]
        writer = write_slowly(images, inbox / ".lot" if way == "rename" else folder, finish[way])
        tiles, listings, said = pipeline(inbox, **how), 0, Said()
        state = InboxState((), ())
        while not state.due:
            state = inbox_state(tiles, ledger, said)
            listings += 1
            time.sleep(0.02)
        contents = {Path(item.uri).name: Path(item.uri).read_bytes() for item in state.due[0].items}
        assert contents == {image.name: image.read_bytes() for image in images}
        assert listings > 10
        assert said.sentences == ["Reading tiles lot: 8"], "nothing was read before it was whole"
        writer.join()

    def test_an_inbox_manifest_that_is_being_written_waits(
        self, tmp_path: Path, small_images: SmallImages, ledger: Ledger
    ) -> None:
        """Rows are appended: the batches are due once neither it nor its files changed for the stated time."""
        images = small_images(tmp_path / "images", 3, 0)
        manifest = tmp_path / "inbox.csv"
        manifest.write_text("path,batch\n" + "".join(f"images/{image.name},lot\n" for image in images))
        data = DataConfig.model_validate({"nominal": "unused", "inbox": {"manifest": str(manifest), "settled": "30s"}})
        tiles = PipelineConfig(name="tiles", data=data)
        (waiting,) = inbox_state(tiles, ledger, Said()).waiting
        assert waiting.reason.startswith("is still being written: it changed ")
        (batch,) = inbox_state(tiles, ledger, Said(), now=lambda: datetime.now(UTC) + LATER).due
        assert len(batch.items) == 3


class TestOrder:
    """Due batches come the oldest first, or by name."""

    @pytest.fixture
    def inbox(self, tmp_path: Path, small_images: SmallImages) -> Path:
        for name, time_of_files in (("a", 3000), ("b", 1000), ("c", 2000)):
            for path in small_images(tmp_path / "inbox" / name, 2, 0):
                os.utime(path, (time_of_files, time_of_files))
        return tmp_path / "inbox"

    def order(self, ledger: Ledger, **data: Any) -> list[str]:
        tiles = PipelineConfig(name="tiles", data=DataConfig.model_validate({"nominal": "unused", **data}))
        return [batch.id for batch in inbox_state(tiles, ledger, Said()).due]

    def test_the_oldest_comes_first(self, inbox: Path, ledger: Ledger) -> None:
        """The newest file of a batch says how old it is."""
        assert self.order(ledger, inbox=str(inbox)) == ["b", "c", "a"]

    def test_names_can_be_the_order(self, inbox: Path, ledger: Ledger) -> None:
        """Where files were copied without their times, names say more."""
        assert self.order(ledger, inbox=str(inbox), order="name") == ["a", "b", "c"]

    def test_a_manifest_knows_better(self, tmp_path: Path, small_images: SmallImages, ledger: Ledger) -> None:
        """The times of a manifest come before those of the files."""
        images = small_images(tmp_path / "images", 3, 0)
        days = ("2024-05-03", "2024-05-01", "2024-05-02")
        rows = [f"images/{image.name},{name},{day}" for image, name, day in zip(images, "abc", days, strict=True)]
        (tmp_path / "inbox.csv").write_text("\n".join(["path,batch,timestamp", *rows]))
        assert self.order(ledger, inbox=str(tmp_path / "inbox.csv")) == ["b", "c", "a"]
