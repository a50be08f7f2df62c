"""Images are found where the configuration says, in a stable order, with what is known of each; nothing is guessed."""

import os
import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ae_models.errors import InputError
from flows.config import DataConfig
from flows.folders import images_in, loose_files
from flows.items import BLOCK
from flows.sources import (
    Batch,
    Found,
    Item,
    content_hash,
    inbox_batches,
    labelled_items,
    nominal_items,
    path_batches,
)

SmallImages = Callable[[Path, int, int], list[Path]]
ODD_NAMES = (
    "with space.png",
    "größe 画像.png",
    "line\nbreak.png",
    "'; DROP TABLE.png",
    "{{ braces }}.png",
    "a*[b]?.png",
)
UNDECODABLE = os.fsdecode(b"caf\xe9.png")  # Latin-1 bytes, as old cameras and archives write them


def data(**parts: Any) -> DataConfig:
    """The data section that says this; what is absent is as by default."""
    return DataConfig.model_validate({"nominal": "unused", **parts})


def names(found: Found | Batch) -> list[str]:
    return [Path(item.uri).name for item in found.items]


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"an image to whoever only looks at names")
    return path


def manifest(path: Path, table: Mapping[str, list[Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(dict(table))
    if path.suffix.lower() == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fashion_mnist(tmp_path_factory.mktemp("sets"), [0, 9, 9, 3, 0, 9])


def fashion_mnist(root: Path, labels: list[int]) -> Path:
    """A FashionMNIST of one image a label in both its parts, in the files (idx) that torchvision reads."""
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = np.arange(len(labels) * 28 * 28, dtype=np.uint32).astype(np.uint8)
    for part in ("train", "t10k"):
        sizes = b"".join(size.to_bytes(4, "big") for size in (len(labels), 28, 28))
        (raw / f"{part}-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + sizes + pixels.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + sizes[:4] + bytes(labels))
    return root


class TestFolders:
    """A folder is all images in it, by name."""

    def test_folders_come_before_names_that_sort_between(self, tmp_path: Path) -> None:
        """Paths are ordered part by part; links in a circle are images that cannot be read, and are not followed."""
        expected = [touch(tmp_path / name) for name in ("a/b.png", "a-b.png", "c/d/e.png", "c.png")]
        (tmp_path / "c" / "round").symlink_to("round")
        (tmp_path / "c" / "up").symlink_to(tmp_path)
        uris = [item.uri for item in images_in(tmp_path).items]
        assert uris == [str(path) for path in sorted([*expected, tmp_path / "c" / "round"])]

    def test_a_folder_gives_its_images_in_the_order_of_their_paths(self, tmp_path: Path) -> None:
        """Subfolders are looked into, names may end in anything, and the order is that of the paths."""
        for name in ("b.png", "a.jpg", "sub/c.TIFF", "sub/without-suffix"):
            touch(tmp_path / "nominal" / name)
        found = nominal_items(data(nominal=str(tmp_path / "nominal")))
        assert names(found) == ["a.jpg", "b.png", "c.TIFF", "without-suffix"]
        assert found.items[0].content() == tmp_path / "nominal" / "a.jpg"
        assert Path(found.items[0].uri).is_absolute()

    def test_documents_and_hidden_files_are_left_out_and_said(self, tmp_path: Path) -> None:
        """What lies beside images without being one is no image, and its name is kept to be said."""
        for name in ("a.png", "notes.txt", "labels.csv", "Thumbs.db", ".hidden.png", ".cache/b.png"):
            touch(tmp_path / name)
        found = nominal_items(data(nominal=str(tmp_path)))
        assert names(found) == ["a.png"]
        left_out = {str(Path(name).relative_to(tmp_path)) for name in found.left_out}
        assert left_out == {"notes.txt", "labels.csv", "Thumbs.db", ".hidden.png", ".cache/b.png"}

    def test_a_hidden_parent_hides_nothing(self, tmp_path: Path) -> None:
        """Only what is hidden inside the folder is left out: the folder itself was named by its user."""
        touch(tmp_path / ".archive" / "a.png")
        assert names(nominal_items(data(nominal=str(tmp_path / ".archive")))) == ["a.png"]

    def test_a_glob_gives_what_it_matches(self, tmp_path: Path) -> None:
        """Wildcards match over folders, and ** at any depth."""
        for name in ("x/ok/1.png", "y/ok/2.png", "y/bad/3.png", "y/ok/deep/4.png"):
            touch(tmp_path / name)
        assert names(nominal_items(data(nominal=f"{tmp_path}/*/ok/*.png"))) == ["1.png", "2.png"]
        assert len(nominal_items(data(nominal=f"{tmp_path}/**/*.png")).items) == 4

    def test_a_link_that_leads_nowhere_is_an_image_that_cannot_be_read(self, tmp_path: Path) -> None:
        """A dangling link is reported with the unreadable images instead of being dropped in silence."""
        (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
        found = images_in(tmp_path)
        assert names(found) == ["gone.png"]
        assert content_hash(found.items[0]) == "unreadable: No such file or directory"

    @pytest.mark.parametrize(
        ("path", "sentence"),
        [
            ("absent", "there is no folder {root}/absent: correct the path or put images there"),
            ("empty", "there is no image in {root}/empty: put images there or correct the path"),
            ("*.png", "no file matches {root}/*.png: correct the pattern or put images there"),
        ],
    )
    def test_no_image_is_said(self, tmp_path: Path, path: str, sentence: str) -> None:
        """An absent folder, an empty one and a glob without a match each have their sentence."""
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputError) as caught:
            nominal_items(data(nominal=f"{tmp_path}/{path}"))
        assert str(caught.value) == sentence.format(root=tmp_path)


class TestNames:
    """Any name that a file system holds is taken."""

    def test_odd_names_are_kept(self, tmp_path: Path) -> None:
        """Spaces, other scripts, line breaks and wildcards in a name are part of it."""
        for name in ODD_NAMES:
            touch(tmp_path / name)
        found = images_in(tmp_path)
        assert sorted(names(found)) == sorted(ODD_NAMES)
        assert all(item.content() == Path(item.uri) for item in found.items)

    def test_bytes_that_are_no_text_are_written_out(self, tmp_path: Path) -> None:
        """A name that is no UTF-8 becomes text that every store takes, and its file is still found."""
        touch(tmp_path / "batch" / UNDECODABLE)
        (batch,) = path_batches([tmp_path / "batch"])
        assert names(batch) == ["caf\\xe9.png"]
        batch.items[0].uri.encode()
        assert batch.items[0].content() == tmp_path / "batch" / UNDECODABLE
        assert len(content_hash(batch.items[0])) == 64
        assert "absent" not in batch.stat_hash()

    def test_a_folder_name_that_is_no_text_is_written_out(self, tmp_path: Path) -> None:
        """A batch's id is text too."""
        touch(tmp_path / os.fsdecode(b"lot\xff") / "a.png")
        assert [batch.id for batch in inbox_batches(data(inbox=str(tmp_path)))] == ["lot\\xff"]


class TestManifests:
    """A table lists images, and what is known of each."""

    @pytest.mark.parametrize("name", ["table.csv", "table.parquet", "TABLE.PARQUET"])
    def test_rows_are_items(self, tmp_path: Path, name: str) -> None:
        """Every row is an image with its label, group, timestamp and batch; relative paths start at the manifest."""
        table = {
            "path": ["a.png", str(tmp_path / "elsewhere" / "b.png")],
            "label": ["good", "nominal"],
            "part": ["p1", "p2"],
            "timestamp": ["2024-05-17T12:00:00", "2024-05-18"],
            "batch": ["lot 1", "lot 2"],
        }
        path = manifest(tmp_path / "here" / name, table)
        first, second = nominal_items(data(nominal=str(path), group="part", allow_outside=True)).items
        assert first.uri == str(tmp_path / "here" / "a.png")
        assert second.uri == str(tmp_path / "elsewhere" / "b.png")
        assert (first.label, first.group, first.timestamp, first.batch) == (
            "good",
            "p1",
            "2024-05-17T12:00:00",
            "lot 1",
        )

    def test_relative_paths_start_at_the_root_that_is_given(self, tmp_path: Path) -> None:
        """`root` stands for the manifest's own folder."""
        path = manifest(tmp_path / "lists" / "table.csv", {"path": ["a.png"]})
        found = nominal_items(data(nominal={"manifest": str(path), "root": str(tmp_path / "images")}))
        assert found.items[0].uri == str(tmp_path / "images" / "a.png")

    @pytest.mark.parametrize("name", ["table.csv", "table.parquet"])
    def test_where_keeps_the_rows_that_fit(self, tmp_path: Path, name: str) -> None:
        """Each column of `where` keeps one value or several, as text or as a number."""
        shifts = ["day", "night", "day", "late"]
        table: dict[str, list[Any]] = {"path": list("abcd"), "camera": [1, 1, 2, 2], "shift": shifts}
        where = {"camera": 2, "shift": ["day", "night"]}
        path = manifest(tmp_path / name, table)
        assert names(nominal_items(data(nominal={"manifest": str(path), "where": where}))) == ["c"]

    def test_only_nominal_rows_are_learnt_from(self, tmp_path: Path) -> None:
        """Where there are labels, rows of other labels and rows without one are no nominal images."""
        path = manifest(tmp_path / "t.csv", {"path": list("abcd"), "label": ["Good", "crack", None, "NOMINAL"]})
        assert names(nominal_items(data(nominal=str(path)))) == ["a", "d"]

    def test_every_word_is_a_label(self, tmp_path: Path) -> None:
        """Words that tables often hold for 'no value' are labels like others."""
        path = manifest(tmp_path / "t.csv", {"path": list("ab"), "label": ["NA", "crack"]})
        assert names(nominal_items(data(nominal=str(path), nominal_labels=["NA"]))) == ["a"]

    @pytest.mark.parametrize(
        ("table", "source", "sentence"),
        [
            ({"file": ["a"]}, {}, "the manifest {path} has no column path: it has file"),
            ({"path": ["a"]}, {"where": {"shift": "day"}}, "the manifest {path} has no column shift: it has path"),
            (
                {"path": ["a"], "shift": ["day"]},
                {"where": {"shift": "dawn"}},
                "no row of the manifest {path} fits where: {{'shift': ('dawn',)}}",
            ),
            ({"path": ["a", None, None]}, {}, "the manifest {path} has 2 rows without a path"),
            (
                {"path": ["a"], "label": ["crack"]},
                {},
                "no row of {path} has a nominal label (nominal, good, normal, ok): name yours in data.nominal_labels",
            ),
        ],
    )
    def test_a_wrong_manifest_is_said(
        self, tmp_path: Path, table: dict[str, list[Any]], source: dict[str, Any], sentence: str
    ) -> None:
        """A missing column, a condition that no row fits, rows without a path, no nominal label: a sentence each."""
        path = manifest(tmp_path / "t.parquet", table)
        with pytest.raises(InputError) as caught:
            nominal_items(data(nominal={"manifest": str(path), **source}))
        assert str(caught.value) == sentence.format(path=path)

    @pytest.mark.parametrize(
        ("name", "content"), [("t.parquet", b"PAR1 cut"), ("t.csv", b""), ("t.csv", b"\xff\xfe\0")]
    )
    def test_a_damaged_manifest_is_said(self, tmp_path: Path, name: str, content: bytes) -> None:
        """A file that is no table is named, with what its reader said."""
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"the manifest .*{name} cannot be read as {name[2:]}: "):
            nominal_items(data(nominal=str(tmp_path / name)))

    def test_an_absent_manifest_is_said(self, tmp_path: Path) -> None:
        """A manifest that is not there is named."""
        with pytest.raises(InputError, match=r"there is no manifest .*t\.csv: correct the path"):
            nominal_items(data(nominal=str(tmp_path / "t.csv")))


class TestGroups:
    """Images of one part carry one group."""

    def test_a_regular_expression_finds_the_group_in_the_path(self, tmp_path: Path) -> None:
        """Its first group counts, and an image whose path it does not match has no group."""
        for name in ("part7-a.png", "part7-b.png", "part8-a.png", "other.png"):
            touch(tmp_path / name)
        found = nominal_items(data(nominal=str(tmp_path), group=r"part(\d+)-"))
        assert [item.group for item in found.items] == [None, "7", "7", "8"]

    def test_without_parentheses_the_whole_match_is_the_group(self, tmp_path: Path) -> None:
        """A pattern needs no parentheses."""
        touch(tmp_path / "part7-a.png")
        assert nominal_items(data(nominal=str(tmp_path), group=r"part\d+")).items[0].group == "part7"

    def test_a_group_that_is_nowhere_is_said(self, tmp_path: Path) -> None:
        """Neither a column nor a match: the sentence shows one of the paths."""
        touch(tmp_path / "a.png")
        with pytest.raises(InputError) as caught:
            nominal_items(data(nominal=str(tmp_path), group="part"))
        assert str(caught.value) == (
            f"data.group: 'part' is no column of a manifest and matches no path, such as {tmp_path}/a.png"
        )


class TestLabelled:
    """Labelled images say of each whether it is anomalous."""

    def test_no_labelled_section_is_no_labelled_image(self) -> None:
        """A pipeline needs none."""
        assert labelled_items(data()) is None

    def test_two_folders(self, tmp_path: Path) -> None:
        """What lies in `nominal` is nominal, what lies in `anomalous` is not."""
        touch(tmp_path / "ok" / "a.png")
        touch(tmp_path / "bad" / "b.png")
        labelled = labelled_items(
            data(labelled={"nominal": str(tmp_path / "ok"), "anomalous": str(tmp_path / "bad")}),
        )
        assert labelled is not None
        found, truth = labelled
        assert [item.label for item in found.items] == ["nominal", "anomalous"]
        assert truth.tolist() == [False, True]

    def test_one_folder_with_a_subfolder_a_label(self, tmp_path: Path) -> None:
        """A folder's subfolders are the labels, as in MVTec's `test`."""
        for name in ("crack/a.png", "good/b.png", "hole/c.png"):
            touch(tmp_path / name)
        labelled = labelled_items(data(labelled=str(tmp_path)))
        assert labelled is not None
        found, truth = labelled
        assert [item.label for item in found.items] == ["crack", "good", "hole"]
        assert truth.tolist() == [True, False, True]

    def test_a_manifest_with_labels(self, tmp_path: Path) -> None:
        """Every label but the nominal ones is anomalous, whatever its case."""
        path = manifest(tmp_path / "t.csv", {"path": list("ab"), "label": ["FINE", "Crack"]})
        labelled = labelled_items(data(labelled=str(path), nominal_labels=["fine"]))
        assert labelled is not None
        assert labelled[1].tolist() == [False, True]

    def test_a_manifest_without_labels_is_said(self, tmp_path: Path) -> None:
        """The first image without a label is named, with what to do."""
        path = manifest(tmp_path / "t.csv", {"path": list("ab")})
        with pytest.raises(InputError) as caught:
            labelled_items(data(labelled=str(path)))
        assert str(caught.value) == (
            f"2 labelled images have no label, the first is {tmp_path}/a: give the manifest a column 'label', "
            "or the folder one subfolder a label"
        )

    def test_one_class_alone_is_said(self, tmp_path: Path) -> None:
        """Both classes are needed: the sentence counts them and says how labels are read."""
        touch(tmp_path / "crack" / "a.png")
        with pytest.raises(InputError) as caught:
            labelled_items(data(labelled=str(tmp_path)))
        assert str(caught.value) == (
            "data.labelled holds 0 nominal and 1 anomalous images, and both are needed (nominal labels are nominal, "
            "good, normal, ok: see data.nominal_labels)"
        )


class TestTorchvision:
    """Data sets that torchvision reads, from files that are there."""

    def source(self, root: Path, **parts: Any) -> dict[str, Any]:
        return {"torchvision": "FashionMNIST", "root": str(root), **parts}

    def test_images_have_addresses_labels_and_pixels(self, root: Path) -> None:
        """Each image of the part asked for has an address of its own, its class as label, and its pixels."""
        found = nominal_items(data(nominal=self.source(root, train=False)))
        assert found.items[1].uri == "torchvision://FashionMNIST/test/000001"
        assert [item.label for item in found.items][:2] == ["T-shirt/top", "Ankle boot"]
        content = found.items[1].content()
        assert isinstance(content, Image.Image)
        assert np.asarray(content).ravel()[:2].tolist() == [(28 * 28) % 256, (28 * 28 + 1) % 256]

    @pytest.mark.parametrize("classes", [["Ankle boot"], [9], ["9"]])
    def test_classes_are_chosen_by_name_or_number(self, root: Path, classes: list[Any]) -> None:
        """A class has a name and a number; an image keeps its place in the set."""
        found = nominal_items(data(nominal=self.source(root, classes=classes)))
        assert names(found) == ["000001", "000002", "000005"]

    def test_limit_takes_the_first_of_those_chosen(self, root: Path) -> None:
        """The limit counts what the classes left."""
        found = nominal_items(data(nominal=self.source(root, classes=["Ankle boot", 3], limit=3)))
        assert names(found) == ["000001", "000002", "000003"]

    def test_an_inbox_is_cut_into_batches(self, root: Path) -> None:
        """Consecutive images are a batch, named after the first; the last may be short."""
        batches = inbox_batches(data(inbox=self.source(root, batch_size=4)))
        assert [(batch.id, len(batch.items)) for batch in batches] == [("000000", 4), ("000004", 2)]
        assert batches[0].manifest_hash() != batches[1].manifest_hash()
        assert batches[0].stat_hash() == inbox_batches(data(inbox=self.source(root, batch_size=4)))[0].stat_hash()

    def test_an_unknown_class_is_said(self, root: Path) -> None:
        """The sentence lists the classes that there are."""
        with pytest.raises(InputError, match=r"FashionMNIST has no class Hat: it has \['T-shirt/top', 'Trouser', "):
            nominal_items(data(nominal=self.source(root, classes=["Hat"])))

    def test_an_absent_set_is_said(self, tmp_path: Path) -> None:
        """Nothing is downloaded: the sentence is the call that does it."""
        with pytest.raises(InputError) as caught:
            nominal_items(data(nominal=self.source(tmp_path, train=False)))
        assert str(caught.value) == (
            f"torchvision's FashionMNIST is not in {tmp_path}, or damaged: get it with "
            f"torchvision.datasets.FashionMNIST(root='{tmp_path}', train=False, download=True)"
        )

    def test_a_damaged_set_is_said(self, tmp_path: Path) -> None:
        """Files that were cut off have the same sentence."""
        fashion_mnist(tmp_path, [0, 1])
        images = tmp_path / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
        images.write_bytes(images.read_bytes()[:100])
        with pytest.raises(InputError, match="or damaged: get it with"):
            nominal_items(data(nominal=self.source(tmp_path)))


class TestInbox:
    """What lies in the inbox is in batches."""

    def test_each_subfolder_is_a_batch(self, tmp_path: Path) -> None:
        """Batches come in the order of their names, and an empty folder is one without images."""
        for name in ("lot-2/a.png", "lot-2/deep/b.png", "lot-10/c.png", "lot-2/readme.txt", ".staging/d.png"):
            touch(tmp_path / name)
        (tmp_path / "lot-3").mkdir()
        batches = inbox_batches(data(inbox=str(tmp_path)))
        assert [(batch.id, names(batch)) for batch in batches] == [
            ("lot-10", ["c.png"]),
            ("lot-2", ["a.png", "b.png"]),
            ("lot-3", []),
        ]
        assert batches[1].left_out == (str(tmp_path / "lot-2" / "readme.txt"),)

    def test_files_beside_the_batches_are_told(self, tmp_path: Path) -> None:
        """An image in the inbox itself belongs to no batch; documents and hidden files there are no matter."""
        for name in ("lot/a.png", "stray.png", "readme.txt", ".hidden.png"):
            touch(tmp_path / name)
        assert loose_files(data(inbox=str(tmp_path))) == (str(tmp_path / "stray.png"),)

    def test_a_glob_of_folders_is_their_batches(self, tmp_path: Path) -> None:
        """Folders that match are batches, named by their path since their names alone may be equal."""
        for name in ("line-1/new/a.png", "line-2/new/b.png", "line-2/old/c.png"):
            touch(tmp_path / name)
        batches = inbox_batches(data(inbox=f"{tmp_path}/*/new"))
        assert [batch.id for batch in batches] == [f"{tmp_path}/line-1/new", f"{tmp_path}/line-2/new"]

    def test_a_glob_of_files_is_a_batch_a_folder(self, tmp_path: Path) -> None:
        """Only the files that match are in the batch of their folder."""
        for name in ("line-1/a.png", "line-1/a.jpg", "line-2/b.png", "line-3/c.jpg"):
            touch(tmp_path / name)
        batches = inbox_batches(data(inbox=f"{tmp_path}/*/*.png"))
        assert [(batch.id, names(batch)) for batch in batches] == [
            (f"{tmp_path}/line-1", ["a.png"]),
            (f"{tmp_path}/line-2", ["b.png"]),
        ]

    def test_a_manifest_names_its_batches(self, tmp_path: Path) -> None:
        """Rows of one batch are together, whatever lies between them."""
        path = manifest(tmp_path / "t.csv", {"path": list("abc"), "batch": ["2", "1", "2"]})
        batches = inbox_batches(data(inbox=str(path)))
        assert [(batch.id, names(batch)) for batch in batches] == [("1", ["b"]), ("2", ["a", "c"])]

    def test_a_manifest_row_without_a_batch_is_said(self, tmp_path: Path) -> None:
        """An image that belongs to no batch is named."""
        path = manifest(tmp_path / "t.csv", {"path": list("ab"), "batch": ["1", None]})
        with pytest.raises(InputError) as caught:
            inbox_batches(data(inbox=str(path)))
        assert str(caught.value) == f"the inbox manifest {path} needs a value in column 'batch' for {tmp_path}/b"

    def test_no_inbox_is_said(self, tmp_path: Path) -> None:
        """Without one, the sentence shows the other way."""
        with pytest.raises(
            InputError, match=r"has no data\.inbox: add one, or name the images: reconwatch score NAME PATH"
        ):
            inbox_batches(data())
        with pytest.raises(InputError, match=r"the inbox .*absent is no folder: make it, or correct data\.inbox"):
            inbox_batches(data(inbox=str(tmp_path / "absent")))


class TestPaths:
    """Paths given by hand."""

    def test_folders_are_batches_and_files_are_one_more(self, tmp_path: Path) -> None:
        """A folder is a batch of its name; all files together are another; what is given twice counts once."""
        folder, first, second = tmp_path / "lot", touch(tmp_path / "a.png"), touch(tmp_path / "b.txt")
        touch(folder / "c.png")
        batches = path_batches([first, folder, second, first, folder])
        assert [(batch.id, names(batch)) for batch in batches] == [
            ("lot", ["c.png"]),
            (f"2 files of {tmp_path.name}", ["a.png", "b.txt"]),
        ]

    def test_one_file_is_a_batch_of_its_path(self, tmp_path: Path) -> None:
        """A single image is its own batch."""
        path = touch(tmp_path / "a.png")
        assert [batch.id for batch in path_batches([path])] == [str(path)]

    def test_folders_of_one_name_are_told_apart(self, tmp_path: Path) -> None:
        """Two batches of one call never share an id."""
        folders = [touch(tmp_path / line / "new" / "a.png").parent for line in ("line-1", "line-2")]
        assert [batch.id for batch in path_batches(folders)] == [str(folder) for folder in folders]

    def test_a_link_keeps_its_name(self, tmp_path: Path) -> None:
        """Stores that link to files named by content do not change what an image is called."""
        (tmp_path / "a.png").symlink_to(touch(tmp_path / "store" / "0123abcd"))
        assert names(path_batches([tmp_path / "a.png"])[0]) == ["a.png"]

    def test_relative_paths_become_absolute(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The folder `.` has a name too."""
        touch(tmp_path / "lot" / "a.png")
        monkeypatch.chdir(tmp_path / "lot")
        (batch,) = path_batches([Path()])
        assert (batch.id, batch.items[0].uri) == ("lot", str(tmp_path / "lot" / "a.png"))

    def test_absent_paths_are_all_said(self, tmp_path: Path) -> None:
        """Every path that is not there is named at once."""
        with pytest.raises(InputError) as caught:
            path_batches([tmp_path, tmp_path / "x", tmp_path / "y"])
        assert str(caught.value) == (f"there is no {tmp_path}/x, {tmp_path}/y: give folders or image files that exist")


class TestHashes:
    """A batch is known by its images; whether it was touched is told without reading them."""

    @pytest.fixture
    def folder(self, tmp_path: Path, small_images: SmallImages) -> Path:
        small_images(tmp_path / "lot", 3, 0)
        return tmp_path / "lot"

    def hashes(self, folder: Path) -> tuple[str, str]:
        (batch,) = path_batches([folder])
        return batch.stat_hash(), batch.manifest_hash()

    def test_an_untouched_batch_keeps_both(self, folder: Path) -> None:
        """Looking twice changes nothing."""
        assert self.hashes(folder) == self.hashes(folder)

    def test_a_touched_file_changes_the_cheap_hash_alone(self, folder: Path) -> None:
        """A new time on an old file is no new batch."""
        before = self.hashes(folder)
        os.utime(folder / "image-000.png", (1, 1))
        after = self.hashes(folder)
        assert after[0] != before[0]
        assert after[1] == before[1]

    def test_new_content_changes_both(self, folder: Path) -> None:
        """An image that was replaced makes another batch."""
        before = self.hashes(folder)
        Image.new("L", (16, 16)).save(folder / "image-000.png")
        after = self.hashes(folder)
        assert after[0] != before[0]
        assert after[1] != before[1]

    def test_a_new_name_changes_the_manifest(self, folder: Path) -> None:
        """The names of the images count."""
        before = self.hashes(folder)
        (folder / "image-000.png").rename(folder / "renamed.png")
        assert self.hashes(folder)[1] != before[1]

    def test_a_copy_elsewhere_is_the_same_batch(self, folder: Path, tmp_path: Path) -> None:
        """The manifest hash says nothing of the place; another name of the batch is another batch."""
        before = self.hashes(folder)
        copy, renamed = tmp_path / "elsewhere" / "lot", tmp_path / "other"
        shutil.copytree(folder, copy)
        shutil.copytree(folder, renamed)
        assert self.hashes(copy)[1] == before[1]
        assert self.hashes(copy)[0] != before[0]
        assert self.hashes(renamed)[1] != before[1]

    def test_a_file_that_vanished_changes_both_and_fails_nothing(self, folder: Path) -> None:
        """A file may go while its batch is looked at."""
        (batch,) = path_batches([folder])
        before = (batch.stat_hash(), batch.manifest_hash())
        (folder / "image-000.png").unlink()
        assert batch.stat_hash() != before[0]
        assert batch.manifest_hash() != before[1]


class TestWhatIsKeptBetweenHashAndScore:
    """The bytes that a batch's hash stands for are those that are scored, as far as there is room for them."""

    @pytest.fixture
    def batch(self, tmp_path: Path) -> Batch:
        """Files of 10, 20 and 30 bytes."""
        for size in (10, 20, 30):
            (tmp_path / f"{size}.png").write_bytes(b"a" * size)
        return path_batches([tmp_path])[0]

    def test_the_bytes_that_were_hashed(self, batch: Batch) -> None:
        """By place; nothing is read again, though a file is another one by now."""
        manifest_hash = batch.manifest_hash(keep=100)
        Path(batch.items[0].uri).write_bytes(b"b" * 10)
        assert batch.kept.of(manifest_hash) == {0: b"a" * 10, 1: b"a" * 20, 2: b"a" * 30}

    def test_not_those_of_another_hash(self, batch: Batch) -> None:
        """Another process may have read other contents, and the ledger know their hash."""
        batch.manifest_hash(keep=100)
        assert not batch.kept.of("another hash")

    def test_those_of_the_last_reading(self, batch: Batch) -> None:
        """Who reads again has no use for what was there before."""
        before = batch.manifest_hash(keep=100)
        Path(batch.items[0].uri).write_bytes(b"b" * 10)
        after = batch.manifest_hash(keep=100)
        assert batch.kept.of(after)[0] == b"b" * 10
        assert not batch.kept.of(before)

    @pytest.mark.parametrize(("room", "places"), [(0, []), (35, [0, 1]), (45, [0, 2]), (60, [0, 1, 2])])
    def test_no_more_than_there_is_room_for(self, batch: Batch, room: int, places: list[int]) -> None:
        """What does not fit is read again."""
        if room == 45:
            Path(batch.items[1].uri).write_bytes(b"a" * 40)
        assert list(batch.kept.of(batch.manifest_hash(keep=room))) == places
        assert batch.kept.size <= room

    def test_no_large_file(self, batch: Batch) -> None:
        """To read one again costs little beside what else is done with it."""
        Path(batch.items[1].uri).write_bytes(bytes(BLOCK + 1))
        assert list(batch.kept.of(batch.manifest_hash(keep=10 * BLOCK))) == [0, 2]

    def test_nothing_once_it_is_scored(self, batch: Batch) -> None:
        """Memory is given back."""
        manifest_hash = batch.manifest_hash(keep=100)
        batch.kept.forget()
        assert not batch.kept.of(manifest_hash)
        assert batch.kept.size == 0


@pytest.mark.parametrize(
    ("times", "taken_at"),
    [
        (["2024-05-17 12:00", "2024-05-17T13:30:00"], datetime(2024, 5, 17, 13, 30, tzinfo=UTC)),
        (["2024-05-17T12:00+02:00"], datetime(2024, 5, 17, 10, tzinfo=UTC)),
        (["2024-05-17", None], None),
        (["yesterday"], None),
        ([], None),
    ],
)
def test_a_batch_is_as_new_as_its_newest_image(times: list[str | None], taken_at: datetime | None) -> None:
    """Where every image says when it was taken; without a zone that is UTC, and what is no time says nothing."""
    items = tuple(Item(f"{number}.png", bytes, timestamp=time) for number, time in enumerate(times))
    assert Batch("lot-7", items).taken_at() == taken_at
