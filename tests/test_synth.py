"""`reconwatch synth` writes synthetic defects of a pipeline's nominal images, whole or not at all."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from flows.cli import main
from flows.config import load
from flows.sources import labelled_items

Synth = Callable[..., tuple[int, str]]


@pytest.fixture
def synth(capfd: pytest.CaptureFixture[str]) -> Synth:
    """Runs `reconwatch synth tiles` with these arguments; gives the exit code and what was said."""

    def run(*arguments: str | Path) -> tuple[int, str]:
        with pytest.raises(SystemExit) as caught:
            main(["synth", "tiles", *map(str, arguments)])
        return int(caught.value.code or 0), capfd.readouterr().err

    return run


@pytest.fixture
def configuration(small_images: Callable[[Path, int, int], list[Path]], tmp_path: Path) -> Path:
    """A pipelines.yaml with nominal images of 16 x 16, and the labelled images that are yet to be written."""
    small_images(tmp_path / "nominal", 30, 0)
    path = tmp_path / "pipelines.yaml"
    path.write_text("pipelines: {tiles: {data: {nominal: nominal, labelled: defects/test}}}", encoding="utf-8")
    return path


def pixels(path: Path) -> np.ndarray:
    """What the image file holds."""
    return np.asarray(Image.open(path))


def test_it_has_mvtecs_layout(synth: Synth, configuration: Path, tmp_path: Path) -> None:
    """Each kind has its folder of images and one of masks, and nominal images are in test/good."""
    output = tmp_path / "new" / "defects"
    code, said = synth("--config", configuration, "-o", output, "--per-kind", 3, "--kinds", "spots, warp")
    assert code == 0
    assert f"Wrote 6 images with defects to {output}; all kinds are seen in overview.png." in said
    assert sorted(path.name for path in output.iterdir()) == ["ground_truth", "manifest.csv", "overview.png", "test"]
    assert sorted(path.name for path in (output / "test").iterdir()) == ["good", "spots", "warp"]
    names = ["000.png", "001.png", "002.png"]
    assert sorted(path.name for path in (output / "test" / "warp").iterdir()) == names
    masks = sorted(path.name for path in (output / "ground_truth" / "warp").iterdir())
    assert masks == ["000_mask.png", "001_mask.png", "002_mask.png"]


def test_masks_belong_to_their_images(synth: Synth, configuration: Path, tmp_path: Path) -> None:
    """The manifest names each image's mask and source; where the mask is white, the image differs from its source."""
    output = tmp_path / "defects"
    synth("--config", configuration, "-o", output, "--per-kind", 2)
    for row in pd.read_csv(output / "manifest.csv").dropna().itertuples():
        change = np.abs(pixels(output / str(row.path)).astype(int) - pixels(Path(str(row.source))))
        mask = pixels(output / str(row.mask))
        assert set(np.unique(mask)) <= {0, 255}
        assert change[mask == 255].min() >= 7  # 0.03 of 255, less what rounding takes
        assert change[mask == 0].max(initial=0) <= 8


def test_nominal_images_in_it_are_the_unchanged_sources(synth: Synth, configuration: Path, tmp_path: Path) -> None:
    """test/good holds each nominal image that a defect was made of, as it was."""
    output = tmp_path / "defects"
    synth("--config", configuration, "-o", output, "--per-kind", 2)
    table = pd.read_csv(output / "manifest.csv")
    good = table[table.label == "good"]
    assert set(good.source) == set(table.source)
    for row in good.itertuples():
        np.testing.assert_array_equal(pixels(output / str(row.path)), pixels(Path(str(row.source))))


def test_it_can_be_used_as_labelled_images(synth: Synth, configuration: Path, tmp_path: Path) -> None:
    """Its test folder is a source of labelled images as it stands."""
    synth("--config", configuration, "-o", tmp_path / "defects", "--per-kind", 1, "--kinds", "spots,step")
    found = labelled_items(load(configuration, {}).pipeline("tiles").data)
    assert found is not None
    assert found[1].sum() == 2


def test_same_seed_writes_the_same(synth: Synth, configuration: Path, tmp_path: Path) -> None:
    """Two folders of one seed hold the same bytes; another seed gives other defects."""
    for folder, seed in (("first", 4), ("again", 4), ("other", 5)):
        synth("--config", configuration, "-o", tmp_path / folder, "--per-kind", 1, "--seed", seed)
    first, again, other = (
        (tmp_path / folder / "test" / "spots" / "000.png").read_bytes() for folder in ("first", "again", "other")
    )
    assert first == again
    assert first != other


def test_kinds_that_cannot_be_seen_are_named(synth: Synth, configuration: Path, tmp_path: Path) -> None:
    """Grey images have no colour cast, and it is said."""
    _, said = synth("--config", configuration, "-o", tmp_path / "defects", "--kinds", "colour,spots")
    assert "colour: left out, as it cannot be seen in these images." in said


def test_a_folder_with_something_in_it_is_refused(synth: Synth, configuration: Path, tmp_path: Path) -> None:
    """What lies there stays as it is."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    code, said = synth("--config", configuration, "-o", tmp_path / "mine")
    assert code == 2
    assert "mine is there already and not an empty folder: name another one with --output" in said
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_an_empty_folder_is_filled(synth: Synth, configuration: Path, tmp_path: Path) -> None:
    """A folder that was made for it is fine."""
    (tmp_path / "made").mkdir()
    assert synth("--config", configuration, "-o", tmp_path / "made", "--per-kind", 1)[0] == 0
    assert (tmp_path / "made" / "overview.png").exists()


def test_a_folder_among_the_nominal_images_is_refused(synth: Synth, configuration: Path) -> None:
    """Defects there would be learnt as nominal by the next training."""
    code, said = synth("--config", configuration, "-o", configuration.parent / "nominal" / "defects")
    assert code == 2
    assert "where defects would be learnt as nominal: name another folder with --output" in said


def test_a_wish_that_fails_leaves_nothing(synth: Synth, configuration: Path, tmp_path: Path) -> None:
    """An unknown kind is said with those there are, and no folder is made."""
    code, said = synth("--config", configuration, "-o", tmp_path / "defects", "--kinds", "rust")
    assert code == 2
    assert "there is no kind of defect 'rust': choose among spots, scratch" in said
    assert not (tmp_path / "defects").exists()
