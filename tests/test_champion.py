"""The champion: a detector, its threshold and its scores stay together, or are refused."""

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch

from ae_models.calibration import conformal_threshold
from ae_models.certificate import certify, installed_versions
from ae_models.champion import PARTS, Champion
from ae_models.detector import Detector
from ae_models.errors import InputError
from ae_models.images import ImageSpec
from ae_models.networks import build_network

SPEC = ImageSpec(8, 8, 1)
TIME = datetime(2024, 5, 17, 12, tzinfo=UTC)


def champion(seed: int = 0) -> Champion:
    """A champion with 99 calibration scores and the threshold that 5% of nominal images exceed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        detector = Detector(SPEC, "linear", {}, build_network("linear", SPEC, {}).eval())
    scores = detector.score(np.random.default_rng(seed).random((99, *SPEC.shape), dtype=np.float32))
    threshold = conformal_threshold(scores, 0.05)
    certificate = certify(detector, threshold, scores, [("a.png", "a")], 0, TIME, installed_versions())
    return Champion(detector, threshold, scores, certificate)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a saved champion."""
    champion().save(tmp_path / "champion")
    return tmp_path / "champion"


def vouch(folder: Path) -> None:
    """Have champion.json vouch for the files as they are now."""
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in PARTS}
    (folder / "champion.json").write_text(json.dumps(hashes))


def refusal(folder: Path) -> str:
    """What loading the folder says."""
    with pytest.raises(InputError) as caught:
        Champion.load(folder)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def test_everything_comes_back(folder: Path) -> None:
    """Threshold and calibration scores are equal to the last bit, and so is every score, p-value and flag."""
    saved, loaded = champion(), Champion.load(folder)
    images = np.random.default_rng(9).random((5, *SPEC.shape), dtype=np.float32)
    scores = loaded.detector.score(images)
    assert (loaded.threshold, loaded.certificate) == (saved.threshold, saved.certificate)
    assert loaded.calibration_scores.tolist() == saved.calibration_scores.tolist()
    assert loaded.calibration_scores.dtype == np.float64
    assert scores.tolist() == saved.detector.score(images).tolist()
    assert loaded.p_values(scores).tolist() == saved.p_values(scores).tolist()
    assert loaded.threshold.flags(scores).tolist() == saved.threshold.flags(scores).tolist()


def test_p_values_are_shares_of_nominal_images() -> None:
    """One plus the calibration images that score as badly or worse, of one more than there are."""
    scores = champion().calibration_scores
    values = champion().p_values(np.array([scores.max() + 1, scores.max(), scores.min(), np.nan]))
    assert values.tolist() == [0.01, 0.02, 1.0, 0.01]


def test_calibration_images_are_flagged_as_often_as_promised() -> None:
    """With 99 nominal images and a rate of 5%, the four highest of them lie above the threshold."""
    it = champion()
    assert it.threshold.flags(it.calibration_scores).sum() == 4
    assert (it.p_values(it.calibration_scores) <= 0.05 + 1e-12)[it.threshold.flags(it.calibration_scores)].all()


def test_the_folder_holds_no_code(folder: Path) -> None:
    """JSON, safetensors and a plain array are all there is."""
    assert {path.name for path in folder.iterdir()} == {"champion.json", *PARTS}


def test_saving_again_replaces(folder: Path) -> None:
    """A folder holds the champion that was saved last."""
    champion(seed=1).save(folder)
    assert Champion.load(folder).threshold == champion(seed=1).threshold


@pytest.mark.parametrize("name", ["champion.json", *PARTS])
def test_a_missing_part_is_named(folder: Path, name: str) -> None:
    """The sentence has the file, and what makes it anew."""
    (folder / name).unlink()
    again = "train" if name in ("detector.json", "weights.safetensors") else "calibrate"
    sentence = refusal(folder)
    assert f"No such file or directory: '{folder / name}'" in sentence
    assert sentence.endswith(f": {again} again")


@pytest.mark.parametrize(
    "parts", [("detector.json", "weights.safetensors"), ("threshold.json",), ("calibration_scores.npy",), PARTS]
)
def test_parts_of_two_champions_are_never_one(folder: Path, tmp_path: Path, parts: tuple[str, ...]) -> None:
    """Each part is sound by itself, and yet a threshold never meets weights or scores of another champion."""
    champion(seed=1).save(tmp_path / "other")
    for name in parts:
        shutil.copy(tmp_path / "other" / name, folder / name)
    assert refusal(folder) == (
        f"the threshold in {folder} cannot be read (champion.json was written for other files than lie beside it): "
        "calibrate again"
    )


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000], ids=["none", "part", "list", "bytes", "nest"]
)
@pytest.mark.parametrize("name", ["champion.json", "threshold.json", "certificate.json"])
def test_damaged_json_is_refused(folder: Path, name: str, content: bytes) -> None:
    """Nothing, a part, another type, bytes or bottomless nesting in place of the JSON."""
    (folder / name).write_bytes(content)
    if name != "champion.json":
        vouch(folder)
    assert refusal(folder).endswith(": calibrate again")


def test_an_unknown_key_of_the_threshold_is_named(folder: Path) -> None:
    """The threshold is read strictly even where champion.json vouches for it."""
    document = json.loads((folder / "threshold.json").read_text()) | {"smoothing": 3}
    (folder / "threshold.json").write_text(json.dumps(document))
    vouch(folder)
    assert "smoothing" in refusal(folder)


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda content: b"", "No data left in file"),
        (lambda content: content[:40], "cannot be read"),
        (lambda content: content[:-8], "cannot be read"),
        (lambda content: b"not an array", "cannot be read"),
    ],
    ids=["empty", "within the header", "one score short", "prose"],
)
def test_damaged_calibration_scores_are_refused(folder: Path, damage: Callable[[bytes], bytes], fault: str) -> None:
    """An array that is cut or no array is refused even where champion.json vouches for it."""
    path = folder / "calibration_scores.npy"
    path.write_bytes(damage(path.read_bytes()))
    vouch(folder)
    assert fault in refusal(folder)


@pytest.mark.parametrize("shape", [(98,), (0,), (99, 2), ()])
def test_another_number_of_scores_than_the_threshold_has_is_refused(folder: Path, shape: tuple[int, ...]) -> None:
    """Both numbers are said."""
    np.save(folder / "calibration_scores.npy", np.ones(shape))
    vouch(folder)
    assert refusal(folder) == (
        f"the threshold in {folder} is of 99 nominal scores, and {np.ones(shape).size} lie beside it: calibrate again"
    )


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("weights_sha256", "0" * 64, "the network's weights"),
        ("preprocessing_sha256", "0" * 64, "what is done to images before and after the network"),
        ("scores_sha256", "0" * 64, "the calibration scores"),
        ("rank", 90, "the threshold (rank)"),
    ],
)
def test_a_certificate_of_something_else_is_refused(folder: Path, key: str, value: object, what: str) -> None:
    """Even where champion.json vouches for it, one sentence says when it was given and what it does not cover."""
    document = json.loads((folder / "certificate.json").read_text()) | {key: value}
    (folder / "certificate.json").write_text(json.dumps(document))
    vouch(folder)
    assert refusal(folder) == (
        f"the champion in {folder} is not what was calibrated: the certificate of 2024-05-17T12:00:00+00:00 was given "
        f"for another state of {what}: calibrate again."
    )


@pytest.mark.parametrize("band", [None, 3])
def test_a_certificate_without_a_band_is_refused(folder: Path, band: object) -> None:
    """A value of another kind is a sentence too."""
    document = json.loads((folder / "certificate.json").read_text()) | {"band": band}
    (folder / "certificate.json").write_text(json.dumps(document))
    vouch(folder)
    assert refusal(folder).endswith(": calibrate again")


class Payload:
    """An object whose pickle, when loaded, creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("kind", ["pickle", "array of objects"])
def test_a_pickle_in_place_of_the_scores_is_never_run(folder: Path, tmp_path: Path, kind: str) -> None:
    """Neither a plain pickle nor one within an array is loaded, even where champion.json vouches for it."""
    path, payload = folder / "calibration_scores.npy", Payload(tmp_path / "marker")
    if kind == "pickle":
        path.write_bytes(pickle.dumps(payload))
    else:
        np.save(path, np.array([payload], dtype=object), allow_pickle=True)
    vouch(folder)
    assert refusal(folder).endswith(": calibrate again")
    assert not (tmp_path / "marker").exists()
    with path.open("rb") as file:  # loaded without care, it would have been run
        np.load(file, allow_pickle=True)
    assert (tmp_path / "marker").exists()
