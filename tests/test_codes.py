"""The commands on codes, from the pipeline's images to the files and the MLflow run."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from flows.cli import main
from flows.config import load
from flows.tracking import Tracking

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(mlflow|sqlalchemy).*")

Project = Callable[..., Path]


@pytest.fixture(scope="module")
def trained(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a champion, and a variational network that is trained alone."""
    path = project(tmp_path_factory.mktemp("trained"), model={"network": "linear", "code_size": 4})
    document = yaml.safe_load(path.read_text())
    document["pipelines"]["drawn"] = document["pipelines"]["tiles"] | {"model": "variational"}
    document["pipelines"]["restored"] = document["pipelines"]["tiles"] | {"model": "unet"}
    path.write_text(yaml.safe_dump(document))
    for arguments in (["train", "tiles"], ["calibrate", "tiles"], ["train", "drawn"], ["train", "restored"]):
        done(*arguments, "--config", path)
    return path


def done(*arguments: str | Path) -> None:
    """`reconwatch ARGUMENTS`, which ends well."""
    with pytest.raises(SystemExit, match=r"^0$"):
        main([str(argument) for argument in arguments])


@pytest.fixture
def report(trained: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs a command with --json on the trained project and gives its report."""

    def run(*arguments: str | Path) -> Any:
        capfd.readouterr()
        done(*arguments, "--config", trained, "--json")
        return json.loads(capfd.readouterr().out)

    return run


@pytest.fixture
def refusal(trained: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command on the trained project that fails, and gives its one sentence."""

    def run(*arguments: str | Path) -> str:
        capfd.readouterr()
        with pytest.raises(SystemExit, match=r"^2$"):
            main([*map(str, arguments), "--config", str(trained)])
        (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("Error: ")]
        return line.removeprefix("Error: ")

    return run


def size_of(given: Any, name: str) -> tuple[int, int]:
    """Width and height of a picture that a report names."""
    with Image.open(Path(given["folder"]) / name) as picture:
        return picture.size


def artifacts(path: Path, run_id: str) -> list[str]:
    """The names of the run's artifacts."""
    return sorted(Tracking(load(path, {}), {}).artifact_names(run_id))


class TestCodes:
    """`reconwatch codes`."""

    def test_the_map_is_a_picture_a_page_and_a_table(self, trained: Path, report: Callable[..., Any]) -> None:
        """They lie in the workspace, and as artifacts in the run."""
        given = report("codes", "tiles", "--method", "pca")
        folder = trained.parent / ".reconwatch" / "codes" / "tiles"
        assert given["folder"] == str(folder)
        assert sorted(file.name for file in folder.iterdir()) == ["codes.parquet", "map.html", "map.png"]
        assert artifacts(trained, given["run_id"]) == ["codes.parquet", "map.html", "map.png", "sha256.txt"]
        assert size_of(given, "map.png")[0] > 500

    def test_the_pipelines_own_images_are_mapped(self, trained: Path, report: Callable[..., Any]) -> None:
        """Nominal images and those of the inbox, labelled by where they come from; unreadable ones are counted."""
        given = report("codes", "tiles", "--method", "pca")
        table = pd.read_parquet(Path(given["folder"]) / "codes.parquet")
        counts = {"nominal": 60, "1-nominal": 20, "2-damaged": 20, "3-unreadable": 15}
        assert table["label"].value_counts().to_dict() == counts
        assert (given["n_images"], given["n_unreadable"], given["detector"]) == (115, 5, "champion 1")
        assert np.stack(table["code"].to_list()).shape == (115, 4)

    def test_flagged_images_are_marked(self, report: Callable[..., Any]) -> None:
        """Of the damaged ones most are, as the champion's threshold says."""
        given = report("codes", "tiles", "--method", "pca")
        table = pd.read_parquet(Path(given["folder"]) / "codes.parquet")
        damaged = table[table["label"] == "2-damaged"]
        assert damaged["flagged"].sum() >= 8
        assert f"{table['flagged'].sum()} of the images are flagged." in given["notes"]
        assert '"flagged":true' in (Path(given["folder"]) / "map.html").read_text()

    def test_paths_are_mapped_instead(self, trained: Path, report: Callable[..., Any], tmp_path: Path) -> None:
        """Folders are labels, --limit draws some of the images, and the files go where --output says."""
        inbox = trained.parent / "data" / "inbox"
        folders = (inbox / "1-nominal", inbox / "2-damaged")
        given = report("codes", "tiles", *folders, "--method", "pca", "--limit", "30", "--output", tmp_path / "a" / "b")
        assert given["n_images"] == 30
        table = pd.read_parquet(tmp_path / "a" / "b" / "codes.parquet")
        assert set(table["label"]) == {"1-nominal", "2-damaged"}

    def test_a_pipeline_without_a_champion_uses_its_newest_detector(self, report: Callable[..., Any]) -> None:
        """Nothing is flagged then: there is no threshold."""
        given = report("codes", "drawn", "--method", "pca")
        assert given["detector"] == "the newest detector"
        assert pd.read_parquet(Path(given["folder"]) / "codes.parquet")["flagged"].isna().all()

    def test_principal_components_are_said_with_the_way_to_umap(
        self, monkeypatch: pytest.MonkeyPatch, report: Callable[..., Any]
    ) -> None:
        """Where UMAP is not installed, the map says what it is, and what would be better."""
        monkeypatch.setattr("ae_models.embeddings.find_spec", lambda name: None)
        notes = report("codes", "tiles")["notes"]
        assert notes[0].startswith("The map is by PCA. Its clusters: ")
        assert notes[1] == "UMAP tells kinds of images further apart: pip install 'reconwatch[umap]'."

    def test_umap_that_is_asked_for_and_absent_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, refusal: Callable[..., str]
    ) -> None:
        """The extra is named."""
        monkeypatch.setitem(sys.modules, "umap", None)
        assert refusal("codes", "tiles", "--method", "umap").startswith("UMAP is not installed: pip install 'reconwat")

    def test_images_that_cannot_be_read_are_named(self, refusal: Callable[..., str], tmp_path: Path) -> None:
        """Where none can, the first is said with its reason."""
        (tmp_path / "a.png").write_bytes(b"no image")
        sentence = refusal("codes", "tiles", tmp_path / "a.png")
        assert sentence.startswith(f"none of 1 images can be read, such as {tmp_path / 'a.png'}: ")

    @pytest.mark.parametrize("command", ["codes", "decode"])
    def test_a_network_without_a_code_is_refused(self, refusal: Callable[..., str], command: str) -> None:
        """The restoration network has none."""
        assert refusal(command, "restored").startswith("this network has no code: train linear, convolutional, ")

    @pytest.mark.parametrize("command", ["codes", "decode", "compression"])
    def test_unknown_pipelines_are_refused(self, refusal: Callable[..., str], command: str) -> None:
        """The nearest one is named."""
        assert "no pipeline 'tile' in " in refusal(command, "tile")

    @pytest.mark.parametrize("command", ["codes", "decode"])
    def test_nothing_trained_is_said_with_what_to_do(
        self, project: Project, tmp_path: Path, capfd: pytest.CaptureFixture[str], command: str
    ) -> None:
        """A pipeline without a detector is to be trained first."""
        path = project(tmp_path)
        with pytest.raises(SystemExit, match=r"^2$"):
            main([command, "tiles", "--config", str(path)])
        sentence = "pipeline 'tiles' has no trained detector yet: run 'reconwatch train tiles'"
        assert sentence in capfd.readouterr().err


class TestDecode:
    """`reconwatch decode`."""

    def test_samples_and_walks_are_pictures(self, trained: Path, report: Callable[..., Any]) -> None:
        """They lie in the workspace, and as artifacts in the run."""
        given = report("decode", "tiles")
        assert artifacts(trained, given["run_id"]) == ["samples.png", "sha256.txt", "walks.png"]
        assert given["folder"] == str(trained.parent / ".reconwatch" / "decode" / "tiles")
        across = [size_of(given, name)[0] for name in given["files"]]
        assert 1000 < across[0] < across[1]  # a walk shows its two ends as well

    def test_the_variational_network_draws_from_its_prior_too(self, report: Callable[..., Any]) -> None:
        """It has one row of samples more than any other network."""
        linear, variational = (size_of(report("decode", name), "samples.png")[1] for name in ("tiles", "drawn"))
        assert variational > linear + 100

    def test_the_seed_decides(self, report: Callable[..., Any]) -> None:
        """The same seed gives the same pictures, another one others."""
        pictures = [
            (Path(report("decode", "tiles", "--seed", seed)["folder"]) / "samples.png").read_bytes()
            for seed in ("3", "3", "4")
        ]
        assert pictures[0] == pictures[1] != pictures[2]

    def test_a_walk_between_two_images(self, trained: Path, report: Callable[..., Any]) -> None:
        """Two named images make one walk."""
        nominal = trained.parent / "data" / "nominal"
        ends = (nominal / "image-000.png", nominal / "image-001.png")
        _, named = size_of(report("decode", "tiles", "--between", *ends), "walks.png")
        _, drawn = size_of(report("decode", "tiles"), "walks.png")
        assert drawn == 5 * named

    def test_a_walk_needs_two_readable_images(self, trained: Path, refusal: Callable[..., str]) -> None:
        """A folder in place of an image is too many of them."""
        nominal = trained.parent / "data" / "nominal"
        sentence = refusal("decode", "tiles", "--between", nominal, nominal / "image-000.png")
        assert sentence == "a walk is between two readable images, not 61: name two image files"


class TestCompression:
    """`reconwatch compression`."""

    def test_the_sweep_is_a_table_and_a_figure(self, trained: Path, report: Callable[..., Any]) -> None:
        """Principal components and networks at several sizes of their codes, each size once."""
        given = report("compression", "tiles", "--epochs", "1")
        assert artifacts(trained, given["run_id"]) == ["compression.csv", "compression.png", "sha256.txt"]
        table = pd.read_csv(Path(given["folder"]) / "compression.csv")
        assert set(table["network"]) == {"principal components", "linear", "convolutional"}
        assert not table.duplicated(["network", "code_size"]).any()
        assert (table["bits"] == 8 * table["code_size"]).all()
        assert table["psnr"].between(5, 60).all()

    def test_it_is_a_table_for_people(self, trained: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """With the bits of a number and the images that it was measured on in its title."""
        done("compression", "tiles", "--epochs", "1", "--config", trained)
        out = capfd.readouterr().out
        assert "images that no network saw, 8 bits a number" in out
        assert "PSNR in dB" in out
