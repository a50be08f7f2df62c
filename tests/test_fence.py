"""What others wrote is read only from where it may be: paths, links and addresses that lead elsewhere are refused."""

import io
import logging
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ae_models.errors import InputError
from ae_models.images import ImageSpec, Unreadable, read_or_reason
from flows import local_files
from flows.config import DataConfig, PipelineConfig
from flows.inbox import inbox_state
from flows.items import digest, name_of
from flows.ledger import open_ledger
from flows.progress import LogProgress
from flows.sources import content_hash, inbox_batches, nominal_items, path_batches

SmallImages = Callable[[Path, int, int], list[Path]]
SPEC = ImageSpec(16, 16, 1)


def data(**parts: Any) -> DataConfig:
    """The data section that says this; what is absent is as by default."""
    return DataConfig.model_validate({"nominal": "unused", **parts})


def manifest(path: Path, *places: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("path,batch\n" + "".join(f'"{place}",lot\n' for place in places), encoding="utf-8")
    return path


@pytest.fixture
def secret(tmp_path: Path, small_images: SmallImages) -> Path:
    """An image that lies where no source of the tests may read."""
    return small_images(tmp_path / "elsewhere", 1, 0)[0]


class TestPathsOfManifests:
    """A manifest names what lies in its root, and nothing else."""

    @pytest.mark.parametrize(
        "place",
        [
            "../elsewhere/image-000.png",
            "a/../../elsewhere/image-000.png",
            "/etc/hostname",
            "./../../x.png",
            "file:///etc/hostname",
        ],
    )
    def test_a_path_that_leads_out_is_refused(self, tmp_path: Path, secret: Path, place: str) -> None:
        """The whole manifest is refused, with the row's path and what to do: nothing of it is scored."""
        path = manifest(tmp_path / "lists" / "t.csv", "a.png", place)
        with pytest.raises(InputError) as caught:
            inbox_batches(data(inbox=str(path)))
        assert str(caught.value) == (
            f"the manifest {path} names {place.removeprefix('file://')}, which lies outside of {tmp_path}/lists: "
            "correct that row, give the folder that all of them lie in as root, or set data.allow_outside: true"
        )

    def test_a_wider_root_takes_it_in(self, tmp_path: Path, secret: Path) -> None:
        """Where the images lie beside the manifest, its root says so."""
        path = manifest(tmp_path / "lists" / "t.csv", "elsewhere/image-000.png", str(secret))
        (batch,) = inbox_batches(data(inbox={"manifest": str(path), "root": str(tmp_path)}))
        assert [item.uri for item in batch.items] == [str(secret), str(secret)]

    def test_a_pipeline_may_allow_it(self, tmp_path: Path, secret: Path) -> None:
        """Who trusts the manifest says so, for the pipeline."""
        path = manifest(tmp_path / "lists" / "t.csv", "../elsewhere/image-000.png")
        (batch,) = inbox_batches(data(inbox=str(path), allow_outside=True))
        assert batch.items[0].content() == tmp_path / "lists" / ".." / "elsewhere" / "image-000.png"

    def test_dots_that_stay_inside_are_fine(self, tmp_path: Path) -> None:
        """Only where a path leads counts, not how it is written."""
        path = manifest(tmp_path / "t.csv", "a/../b.png", "..c.png")
        assert len(inbox_batches(data(inbox=str(path)))[0].items) == 2

    @pytest.mark.parametrize(
        ("place", "sentence"),
        [
            ("zip://a.png::archive.zip", "archives are not opened; unpack it beforehand"),
            ("tar://a.png", "archives are not opened"),
            ("s3://other/a.png", "names s3://other/a.png, which is in no folder that data.allowed_urls names"),
            (
                "http://127.0.0.1/a.png",
                "names http://127.0.0.1/a.png, which is in no folder that data.allowed_urls names",
            ),
            ("gopher://a/b", "which is in no folder that data.allowed_urls names"),
        ],
    )
    def test_addresses_that_nobody_allowed_are_refused(self, tmp_path: Path, place: str, sentence: str) -> None:
        """Other schemes, archives and chains of them are refused before anything is asked of any host."""
        path = manifest(tmp_path / "t.csv", place)
        with pytest.raises(InputError) as caught:
            inbox_batches(data(inbox=str(path)))
        assert sentence in str(caught.value)

    def test_an_address_stays_below_its_root(self, tmp_path: Path) -> None:
        """A root that is a URL has no way up either."""
        for place in (
            "../b/a.png",
            "/a.png",
            "a/../../b.png",
            "s3://bucket/images/../secret/a.png",
            "s3://bucket/imagesx/a.png",
        ):
            path = manifest(tmp_path / "t.csv", place)
            with pytest.raises(
                InputError, match=r"lies outside of s3://bucket/images|in no folder that data\.allowed_urls"
            ):
                inbox_batches(data(inbox={"manifest": str(path), "root": "s3://bucket/images"}))


class TestLinks:
    """Links may lead anywhere within the folder of their source."""

    def reasons(self, found: Any) -> list[str]:
        read = [read_or_reason(item.content, SPEC) for item in found.items]
        return [image.reason if isinstance(image, Unreadable) else "" for image in read]

    def test_a_link_out_of_the_folder_is_not_followed(
        self, tmp_path: Path, small_images: SmallImages, secret: Path
    ) -> None:
        """The image behind it is unreadable and says why; the others are read."""
        small_images(tmp_path / "inbox" / "lot", 1, 0)
        (tmp_path / "inbox" / "lot" / "link.png").symlink_to(secret)
        (batch,) = inbox_batches(data(inbox=str(tmp_path / "inbox")))
        assert self.reasons(batch) == [
            "",
            f"is reached by a link out of {tmp_path}/inbox; set data.allow_outside: true where that is meant",
        ]
        (allowed,) = inbox_batches(data(inbox=str(tmp_path / "inbox"), allow_outside=True))
        assert self.reasons(allowed) == ["", ""]
        assert batch.stat_hash() != allowed.stat_hash(), "what was refused is looked at again once it is allowed"

    def test_a_link_within_the_folder_is_followed(self, tmp_path: Path, small_images: SmallImages) -> None:
        """A store of files by content may lie in the same folder."""
        (image,) = small_images(tmp_path / "nominal" / "store", 1, 0)
        (tmp_path / "nominal" / "link.png").symlink_to(image)
        assert self.reasons(nominal_items(data(nominal=str(tmp_path / "nominal")))) == ["", ""]

    def test_the_folder_itself_may_be_a_link(self, tmp_path: Path, small_images: SmallImages) -> None:
        """Who wrote the configuration named it, so it is meant."""
        small_images(tmp_path / "disk" / "lot", 2, 0)
        (tmp_path / "inbox").symlink_to(tmp_path / "disk")
        assert self.reasons(inbox_batches(data(inbox=str(tmp_path / "inbox")))[0]) == ["", ""]

    def test_a_batch_that_is_a_link_out_of_the_inbox_is_refused_whole(
        self, tmp_path: Path, small_images: SmallImages
    ) -> None:
        """It stays in the inbox and is said at every run, instead of being judged by images that nobody read."""
        small_images(tmp_path / "elsewhere", 2, 0)
        (tmp_path / "inbox").mkdir()
        (tmp_path / "inbox" / "lot").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "workspace").mkdir()
        tiles = PipelineConfig(name="tiles", data=data(inbox=str(tmp_path / "inbox")))
        ledger = open_ledger(tmp_path / "workspace", {})
        state = inbox_state(tiles, ledger, LogProgress(logging.getLogger("test")))
        ledger.close()
        assert state.due == ()
        assert [waiting.reason for waiting in state.waiting] == [
            "is a link that leads out of the inbox (set data.allow_outside: true where that is meant)"
        ]

    def test_a_manifest_cannot_go_through_a_link_either(self, tmp_path: Path, secret: Path) -> None:
        """A path that stays inside by its words may leave by a link: it is looked at where it leads."""
        path = manifest(tmp_path / "root" / "t.csv", "folder/image-000.png")
        (tmp_path / "root" / "folder").symlink_to(secret.parent)
        (batch,) = inbox_batches(data(inbox=str(path)))
        assert self.reasons(batch)[0].startswith(f"is reached by a link out of {tmp_path}/root")

    @pytest.mark.parametrize("system", ["Linux", "another"])
    def test_a_file_that_becomes_a_link_after_it_was_listed_is_refused(
        self,
        tmp_path: Path,
        small_images: SmallImages,
        secret: Path,
        monkeypatch: pytest.MonkeyPatch,
        system: str,
    ) -> None:
        """It is looked at again when it is read, by the kernel or, on systems without its quick way, name by name."""
        if system == "another":
            monkeypatch.delattr(os, "O_PATH", raising=False)
        image, _ = small_images(tmp_path / "inbox" / "lot", 2, 0)
        (batch,) = inbox_batches(data(inbox=str(tmp_path / "inbox")))
        assert self.reasons(batch) == ["", ""]
        image.unlink()
        image.symlink_to(secret)
        refused, other = self.reasons(batch)
        assert refused.startswith("is reached by a link out of")
        assert other == ""
        hashed, other = map(content_hash, batch.items)
        assert hashed.startswith("unreadable: is reached by a link out of")
        assert len(other) == 64

    def test_a_folder_that_becomes_a_link_after_it_was_listed_is_refused(
        self, tmp_path: Path, small_images: SmallImages, secret: Path
    ) -> None:
        """A file's own name is not all that may lead out."""
        (image,) = small_images(tmp_path / "inbox" / "lot", 1, 0)
        (batch,) = inbox_batches(data(inbox=str(tmp_path / "inbox")))
        image.rename(secret.parent / image.name)
        (tmp_path / "inbox" / "lot").rmdir()
        (tmp_path / "inbox" / "lot").symlink_to(secret.parent)
        assert self.reasons(batch)[0].startswith("is reached by a link out of")
        assert content_hash(batch.items[0]).startswith("unreadable: is reached by a link out of")

    @pytest.mark.parametrize("system", ["this one", "another"])
    def test_a_batch_is_hashed_as_each_of_its_images_is_read(
        self,
        tmp_path: Path,
        small_images: SmallImages,
        secret: Path,
        monkeypatch: pytest.MonkeyPatch,
        system: str,
    ) -> None:
        """Also where an image, or a folder of them, became a link after they were listed: nothing of it is kept."""
        if system == "another":
            monkeypatch.setattr(local_files, "_is_within", lambda file, folder: False)  # as where there is no /proc
        lot = tmp_path / "inbox" / "lot"
        image, _ = small_images(lot, 2, 0)
        (moved,) = small_images(lot / "part", 1, 1)
        (batch,) = inbox_batches(data(inbox=str(tmp_path / "inbox")))
        image.unlink()
        image.symlink_to(secret)
        moved.rename(secret.parent / moved.name)
        (lot / "part").rmdir()
        (lot / "part").symlink_to(secret.parent)
        hashes = list(map(content_hash, batch.items))
        lines = [f"{name_of(item.uri)}\0{found}" for item, found in zip(batch.items, hashes, strict=True)]
        assert batch.manifest_hash(keep=2**20) == digest([batch.id, *lines])
        assert [hashed.startswith("unreadable") for hashed in hashes] == [True, False, True]
        assert list(batch.kept.of(digest([batch.id, *lines]))) == [1]

    def test_folders_given_by_hand_are_fenced_too(self, tmp_path: Path, secret: Path) -> None:
        """What a person names is meant, what lies in it may be anybody's."""
        (tmp_path / "lot").mkdir()
        (tmp_path / "lot" / "link.png").symlink_to(secret)
        (tmp_path / "link.png").symlink_to(secret)
        folder, single = path_batches([tmp_path / "lot", tmp_path / "link.png"], data())
        assert self.reasons(folder)[0].startswith("is reached by a link out of")
        assert self.reasons(single) == [""]

    def test_a_glob_is_fenced_from_its_first_wildcard_on(self, tmp_path: Path, secret: Path) -> None:
        """What the pattern names in words is meant."""
        (tmp_path / "lines [2]" / "a").mkdir(parents=True)
        (tmp_path / "lines [2]" / "a" / "link.png").symlink_to(secret)
        (tmp_path / "lines [2]" / "a" / "image.png").write_bytes(secret.read_bytes())
        pattern = f"{str(tmp_path).replace('[', '[[]')}/lines [[]2]/*/*.png"
        assert [reason[:26] for reason in self.reasons(nominal_items(data(nominal=pattern)))] == [
            "",
            "is reached by a link out o",
        ]


@pytest.mark.parametrize(
    ("path", "reason"),
    [("a.zip", "is no image, or in none of the formats that are read"), ("a.tar.gz", "is no image, or in none")],
)
def test_archives_are_not_opened(tmp_path: Path, path: str, reason: str) -> None:
    """An archive among images is an unreadable file, whatever is packed in it."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.png", os.urandom(100))
    (tmp_path / "lot").mkdir()
    (tmp_path / "lot" / path).write_bytes(packed.getvalue())
    (batch,) = path_batches([tmp_path / "lot"])
    read = read_or_reason(batch.items[0].content, SPEC)
    assert isinstance(read, Unreadable)
    assert read.reason.startswith(reason)
