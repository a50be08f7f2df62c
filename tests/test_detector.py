"""The detector on disk and in use: it comes back as it was, and whatever is damaged is one clear refusal."""

import hashlib
import io
import json
import pickle
import re
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ae_models.baselines import fit_principal_components
from ae_models.detector import BATCH_SIZE, Detector, FusedDetector, load_detector
from ae_models.errors import InputError
from ae_models.front_ends import FRONT_ENDS
from ae_models.images import ImageSpec
from ae_models.networks import NETWORKS, build_network
from ae_models.scoring import Score, ScoreDesign
from ae_models.selection import Fitting, NominalParts, Recipe, fit_recipe
from ae_models.training import TrainingSettings, fit

SPEC = ImageSpec(8, 6, 1)
PARAMETERS = {"code_size": 5}
WEIGHTS = (0.5, 0.2, 0.3)  # of the members of a fused detector
MAP_WEIGHTS = (2.0, 0.0, 0.7)
KEYS = ["format", "fusion", "int8_sha256", "localizer", "members", "picture", "spec", "weights_sha256"]


def images(count: int = 7, seed: int = 0) -> NDArray[np.float32]:
    """Images (count, 1, 8, 6) float32 in [0, 1]."""
    return np.random.default_rng(seed).random((count, *SPEC.shape), dtype=np.float32)


def trained(seed: int = 0) -> Detector:
    """A detector whose network has learnt, batch-norm statistics included."""
    settings = TrainingSettings(epochs=2, device="cpu", seed=seed)
    result = fit(lambda: build_network("linear", SPEC, PARAMETERS), images(), images(), settings)
    return Detector(SPEC, "linear", PARAMETERS, result.network)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a saved detector."""
    trained().save(tmp_path / "detector")
    return tmp_path / "detector"


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the stored JSON object in place."""
    path = folder / "detector.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def put_weights(folder: Path, weights: bytes) -> None:
    """Replace the weights, and have detector.json vouch for the new ones."""
    (folder / "weights.safetensors").write_bytes(weights)
    edit(folder, lambda document: document.update(weights_sha256=hashlib.sha256(weights).hexdigest()))


def refusal(folder: Path) -> str:
    """What loading the folder says: one sentence with the folder and what to do, and the fault between."""
    with pytest.raises(InputError) as caught:
        load_detector(folder)
    sentence, before, after = str(caught.value), f"the detector in {folder} cannot be read (", "): train again"
    assert sentence.startswith(before)
    assert sentence.endswith(after)
    return sentence.removeprefix(before).removesuffix(after)


class TestSavedAndLoaded:
    """What was saved is what is loaded."""

    def test_everything_comes_back(self, tmp_path: Path) -> None:
        """Size, network, parameters and every score to the last bit; the network in evaluation mode on the CPU."""
        detector = trained()
        detector.save(tmp_path)
        loaded = load_detector(tmp_path)
        assert isinstance(loaded, Detector)
        assert (loaded.spec, loaded.network_name, loaded.network_parameters) == (SPEC, "linear", PARAMETERS)
        assert loaded.score(images()).tolist() == detector.score(images()).tolist()
        assert np.array_equal(loaded.reconstruct(images()), detector.reconstruct(images()))
        assert (loaded.network.training, loaded.device) == (False, "cpu")

    def test_the_folder_holds_weights_and_json_alone(self, folder: Path) -> None:
        """Two files: readable text, and tensors in a format that cannot hold code."""
        assert sorted(path.name for path in folder.iterdir()) == ["detector.json", "weights.safetensors"]
        (member,) = json.loads((folder / "detector.json").read_text())["members"]
        assert member["network"] == {"name": "linear", "parameters": PARAMETERS}
        names = {f"member_0.network.{name}" for name in trained().network.state_dict()}
        assert load_file(folder / "weights.safetensors").keys() == names | {"member_0.score.usual"}

    def test_missing_folders_are_made(self, tmp_path: Path) -> None:
        """The folder and those above it need not be there."""
        trained().save(tmp_path / "a" / "b")
        assert load_detector(tmp_path / "a" / "b").spec == SPEC

    def test_saving_again_replaces(self, folder: Path) -> None:
        """A folder holds the detector that was saved last."""
        other = trained(seed=1)
        other.save(folder)
        assert load_detector(folder).score(images()).tolist() == other.score(images()).tolist()

    def test_the_files_are_not_needed_after_loading(self, folder: Path) -> None:
        """A loaded detector scores on when its folder is emptied."""
        loaded = load_detector(folder)
        for path in folder.iterdir():
            path.write_bytes(b"")
        assert loaded.score(images()).tolist() == trained().score(images()).tolist()


class TestDamage:
    """Every damage of the folder is one sentence."""

    @pytest.mark.parametrize("name", ["detector.json", "weights.safetensors"])
    def test_a_missing_file(self, folder: Path, name: str) -> None:
        """The file that is missing is named."""
        (folder / name).unlink()
        assert f"No such file or directory: '{folder / name}'" in refusal(folder)

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        """So is the folder."""
        assert "No such file or directory" in refusal(tmp_path / "nowhere")

    def test_a_file_in_place_of_the_folder(self, tmp_path: Path) -> None:
        """A file is no folder."""
        (tmp_path / "file").touch()
        assert "Not a directory" in refusal(tmp_path / "file")

    @pytest.mark.parametrize("kept", [0, 100, -1])
    def test_truncated_weights(self, folder: Path, kept: int) -> None:
        """Weights cut to nothing, within their header, or by their last byte, are not those that were saved."""
        weights = (folder / "weights.safetensors").read_bytes()
        (folder / "weights.safetensors").write_bytes(weights[:kept])
        assert refusal(folder) == "the weights are not those of its detector.json"

    def test_weights_of_another_detector(self, folder: Path, tmp_path: Path) -> None:
        """Weights that would fit, but belong to another detector, are refused."""
        trained(seed=1).save(tmp_path / "other")
        (tmp_path / "other" / "weights.safetensors").rename(folder / "weights.safetensors")
        assert refusal(folder) == "the weights are not those of its detector.json"

    @pytest.mark.parametrize(
        "content",
        [b"", b"{", b"\xff\xfe\x00", b"not JSON", b"[" * 100_000],
        ids=["nothing", "a part", "bytes", "prose", "nesting"],
    )
    def test_text_that_is_not_json(self, folder: Path, content: bytes) -> None:
        """Nothing, a part, bytes, prose or bottomless nesting in place of the JSON."""
        (folder / "detector.json").write_bytes(content)
        assert refusal(folder)

    @pytest.mark.parametrize("content", ["[]", "null", "3", '"format"'])
    def test_json_that_is_no_object(self, folder: Path, content: str) -> None:
        """Other JSON is said back with the keys that there must be."""
        (folder / "detector.json").write_text(content)
        assert refusal(folder).startswith(f"detector.json must hold exactly {KEYS}, and holds ")

    @pytest.mark.parametrize("number", [0, 1, "2", None])
    def test_an_unknown_format(self, folder: Path, number: object) -> None:
        """A format of another version is named beside this version's."""
        edit(folder, lambda document: document.update(format=number))
        assert refusal(folder) == f"its format is {number!r}, and this version reads format 10"

    @pytest.mark.parametrize("key", [key for key in KEYS if key != "format"])
    def test_a_missing_key(self, folder: Path, key: str) -> None:
        """What must be there and what is there are both named."""
        edit(folder, lambda document: document.pop(key))
        assert refusal(folder).endswith(f"and holds {[other for other in KEYS if other != key]}")

    def test_an_extra_key(self, folder: Path) -> None:
        """A key of an unknown meaning is not passed over."""
        edit(folder, lambda document: document.update(smoothing=3))
        assert "'smoothing'" in refusal(folder)

    @pytest.mark.parametrize("part", ["network", "front_end"])
    def test_an_extra_key_of_a_part(self, folder: Path, part: str) -> None:
        """Neither is one within."""
        edit(folder, lambda document: document["members"][0][part].update(pruned=True))
        words = part.replace("_", " ")
        assert refusal(folder).startswith(f"the {words} in detector.json must hold exactly ['name', 'parameters'],")

    def test_an_extra_key_of_the_score(self, folder: Path) -> None:
        """The score's design is held as strictly."""
        edit(folder, lambda document: document["members"][0]["score"].update(gain=True))
        assert refusal(folder).startswith(
            "A score design holds exactly ['energy', 'pooling', 'positional', 'relative', 'smoothing'],"
        )

    @pytest.mark.parametrize(
        ("spec", "fault"),
        [
            ({"height": 8, "width": 6}, "exactly"),
            ({"height": 8, "width": 6, "channels": 1, "depth": 2}, "exactly"),
            ({"height": 8, "width": 0, "channels": 1}, "whole numbers from 1 on"),
            ({"height": 8, "width": 6, "channels": 2}, "1 channel"),
            (["height", "width", "channels"], ""),
            (7, ""),
        ],
    )
    def test_an_impossible_size(self, folder: Path, spec: object, fault: str) -> None:
        """Missing, unknown and impossible sizes are refused."""
        edit(folder, lambda document: document.update(spec=spec))
        assert fault in refusal(folder)

    @pytest.mark.parametrize("name", ["vgg", "", 3, None])
    def test_an_unknown_network(self, folder: Path, name: object) -> None:
        """A network that this version does not have is named with those that it has."""
        edit(folder, lambda document: document["members"][0]["network"].update(name=name))
        assert refusal(folder) == f"there is no network {name!r}: choose one of {', '.join(NETWORKS)}"

    @pytest.mark.parametrize("name", ["sound", "", 3, None])
    def test_an_unknown_front_end(self, folder: Path, name: object) -> None:
        """A front end that this version does not have is named with those that it has."""
        edit(folder, lambda document: document["members"][0]["front_end"].update(name=name))
        assert refusal(folder) == f"there is no front end {name!r}: choose one of {', '.join(FRONT_ENDS)}"

    @pytest.mark.parametrize("parameters", [{"depth": 3}, {"step": 0}, {"step": 7}, {"step": "2"}, [5], "5", 5, None])
    def test_parameters_that_the_front_end_does_not_take(self, folder: Path, parameters: object) -> None:
        """Unknown and impossible parameters are refused."""
        edit(folder, lambda document: document["members"][0]["front_end"].update(parameters=parameters))
        assert refusal(folder)

    @pytest.mark.parametrize("parameters", [{"depth": 3}, {"code_size": 0}, {"code_size": "5"}, [5], "5", 5, None])
    def test_parameters_that_the_network_does_not_take(self, folder: Path, parameters: object) -> None:
        """Unknown and impossible parameters are refused."""
        edit(folder, lambda document: document["members"][0]["network"].update(parameters=parameters))
        assert refusal(folder)

    @pytest.mark.parametrize("change", [{"name": "convolutional", "parameters": {}}, {"parameters": {"code_size": 6}}])
    def test_a_network_that_the_weights_do_not_fit(self, folder: Path, change: dict[str, Any]) -> None:
        """Weights are loaded strictly: every name and shape must be that of the network."""
        edit(folder, lambda document: document["members"][0]["network"].update(change))
        assert "Error(s) in loading state_dict" in refusal(folder)

    def test_one_tensor_too_many(self, folder: Path, tmp_path: Path) -> None:
        """A tensor without a place is not passed over."""
        weights = load_file(folder / "weights.safetensors")
        save_file(weights | {"extra": torch.zeros(1)}, tmp_path / "weights")
        put_weights(folder, (tmp_path / "weights").read_bytes())
        assert 'Unexpected key(s) in state_dict: "extra"' in refusal(folder)


def recipe(front_end: str, network: str, design: ScoreDesign, parameters: dict[str, Any]) -> Detector:
    """A detector with a front end and a score, both fitted to the images."""
    code = {"code_size": 3} if network == "pca" else {}
    parts = NominalParts(images(30), images(20, seed=1), images(20, seed=1))
    fitted = fit_recipe(Recipe(front_end, network, design, parameters, code), parts, Fitting())
    errors = fitted.errors(torch.from_numpy(images(20, seed=1)))
    score = Score(design, *errors.shape[1:])
    score.fit(errors)
    return replace(fitted, fitted_score=score)


@pytest.fixture(scope="module")
def fused() -> FusedDetector:
    """Three detectors on three front ends, at three resolutions, fused; with a picture for people."""
    members = (
        recipe("pixels", "pca", ScoreDesign(), {"standardised": True}),
        recipe("gradients", "pca", ScoreDesign(3, True, 0.2), {"step": 2}),
        recipe("contrast", "none", ScoreDesign(3, True, 0.1), {}),
    )
    logarithms = [np.log(member.score(images(20, seed=1))) for member in members]
    centres = tuple(float(np.median(values)) for values in logarithms)
    picture = fit_principal_components(images(30), SPEC, 4)
    return FusedDetector(members, centres, (0.5, 0.25, 2.0), WEIGHTS, MAP_WEIGHTS, picture)


@pytest.fixture
def fused_folder(fused: FusedDetector, tmp_path: Path) -> Path:
    """A folder with a saved fused detector."""
    fused.save(tmp_path / "fused")
    return tmp_path / "fused"


class TestFused:
    """Several detectors as one."""

    def test_the_score_is_the_mean_opinion(self, fused: FusedDetector) -> None:
        """The weighted mean of how many spreads the logarithm of a member's score lies above the centre."""
        opinions = [(np.log(member.score(images())) - centre) / scale for member, centre, scale in members(fused)]
        expected = np.average(np.maximum(opinions, -3), axis=0, weights=WEIGHTS)
        np.testing.assert_allclose(fused.score(images()), expected, rtol=1e-9)

    def test_everything_comes_back(self, fused: FusedDetector, fused_folder: Path) -> None:
        """Saved and loaded, it scores, maps and draws to the last bit as before."""
        loaded = load_detector(fused_folder)
        assert isinstance(loaded, FusedDetector)
        assert (loaded.name, loaded.centres, loaded.scales) == (fused.name, fused.centres, fused.scales)
        assert (loaded.weights, loaded.map_weights) == (fused.weights, fused.map_weights)
        assert loaded.score(images()).tolist() == fused.score(images()).tolist()
        assert np.array_equal(loaded.error_maps(images()), fused.error_maps(images()))
        assert np.array_equal(loaded.reconstruct(images()), fused.reconstruct(images()))

    def test_it_is_named_after_its_members(self, fused: FusedDetector) -> None:
        """Network and front end of each; the front end in full only where it is not the plain pixels."""
        assert fused.name == "pca on pixels + pca on gradients + none on contrast"

    def test_a_member_that_finds_an_image_very_usual_does_not_outweigh_the_others(self) -> None:
        """However well one member reconstructs an image, it counts as 3 spreads below the usual, and no more."""
        perfect, blind = Detector(SPEC, "", {}, nn.Identity()), Detector(SPEC, "", {}, Nothing())
        centre = float(np.log(blind.score(images(1))[0])) - 10
        fused = FusedDetector((perfect, blind), (-5.0, centre), (1.0, 1.0), (0.5, 0.5), (1.0, 1.0))
        assert fused.score(images(1)) == [pytest.approx((10 - 3) / 2)]

    def test_error_maps_have_the_size_of_the_images(self, fused: FusedDetector) -> None:
        """At whatever resolution the members work, the map is in the images' own coordinates."""
        maps = fused.error_maps(images())
        assert maps.shape == (7, SPEC.height, SPEC.width)
        assert maps.dtype == np.float32
        assert (maps >= 0).all()

    def test_the_error_map_is_the_weighted_sum_of_the_members(self, fused: FusedDetector) -> None:
        """By weights of its own: who tells images does not always tell where in them a defect is."""
        by_hand = sum(
            weight * member.error_maps(images()) for weight, member in zip(MAP_WEIGHTS, fused.members, strict=True)
        )
        np.testing.assert_allclose(fused.error_maps(images()), by_hand, rtol=1e-5)

    def test_no_images_have_no_scores(self, fused: FusedDetector) -> None:
        """Empty in, empty out."""
        none = images(0)
        assert (fused.score(none).shape, fused.error_maps(none).shape) == ((0,), (0, 8, 6))
        assert fused.reconstruct(none).shape == none.shape

    def test_images_of_another_shape_are_refused(self, fused: FusedDetector) -> None:
        """Both shapes are named, whichever of the three is asked for."""
        for ask in (fused.score, fused.error_maps, fused.reconstruct):
            with pytest.raises(InputError, match=re.escape("images of shape (1, 6, 8) were given to a detector for")):
                ask(np.zeros((2, 1, 6, 8), np.float32))

    def test_an_image_that_is_no_number_has_no_number_as_score(self, fused: FusedDetector) -> None:
        """NaN in one pixel is NaN in that image's score, which the threshold flags, and in no other's."""
        given = images()
        given[3, 0, 4, 4] = np.nan
        scores, others = fused.score(given), [place for place in range(7) if place != 3]
        assert np.isnan(scores).tolist() == [place == 3 for place in range(7)]
        np.testing.assert_allclose(scores[others], fused.score(images())[others], rtol=1e-5)

    def test_an_image_without_any_error_has_a_score(self) -> None:
        """The logarithm of 0 is not taken: a perfect reconstruction is as far below the usual as there is."""
        perfect = Detector(SPEC, "", {}, nn.Identity())
        assert FusedDetector((perfect,), (-5.0,), (1.0,), (1.0,), (1.0,)).score(images(1)) == [-3]

    def test_people_are_shown_principal_components(self, fused: FusedDetector) -> None:
        """Members that see features cannot draw an image: its reconstruction is the picture's, within [0, 1]."""
        assert fused.picture is not None
        drawn = fused.picture(torch.from_numpy(images())).clamp(0, 1).numpy()
        np.testing.assert_allclose(fused.reconstruct(images()), drawn, rtol=1e-6)
        assert (fused.illustrator.network_name, fused.illustrator.network) == ("pca", fused.picture)

    def test_a_fused_detector_on_another_device_leaves_the_first_where_it_was(self, fused: FusedDetector) -> None:
        """`on` moves every member, score and picture of a second detector; the first still scores."""
        before = fused.score(images()).tolist()
        moved = fused.on(torch.device("meta"))
        assert moved.device == "meta"
        assert moved.picture is not None
        parts = [moved.picture, *(part for member in moved.members for part in (member.network, member.scorer))]
        assert {tensor.device.type for part in parts for tensor in part.state_dict().values()} == {"meta"}
        assert fused.score(images()).tolist() == before

    def test_moved_to_where_it_is_it_scores_the_same(self, fused: FusedDetector) -> None:
        """Front ends are built anew on the other device, and see the same."""
        assert fused.on(torch.device("cpu")).score(images()).tolist() == fused.score(images()).tolist()


def members(fused: FusedDetector) -> list[tuple[Detector, float, float]]:
    """Each member with its centre and scale."""
    return list(zip(fused.members, fused.centres, fused.scales, strict=True))


class TestFusedDamage:
    """What is damaged of a fused detector is one sentence as well."""

    def test_truncated_weights(self, fused_folder: Path) -> None:
        """Weights cut by their last byte are not those that were saved."""
        weights = fused_folder / "weights.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])
        assert refusal(fused_folder) == "the weights are not those of its detector.json"

    @pytest.mark.parametrize("name", ["centres", "scales", "weights", "map_weights"])
    def test_another_number_of_members_than_of_centres_or_scales(self, fused_folder: Path, name: str) -> None:
        """Each member has its own of each."""
        edit(fused_folder, lambda document: document["fusion"][name].pop())
        assert (
            refusal(fused_folder)
            == "it holds another number of members than of centres, scales, weights or map weights"
        )

    def test_a_member_too_few(self, fused_folder: Path) -> None:
        """The weights of a member that is gone are not passed over."""
        edit(fused_folder, lambda document: document["members"].pop())
        assert 'Unexpected key(s) in state_dict: "member_2.' in refusal(fused_folder)

    def test_members_in_another_order(self, fused_folder: Path) -> None:
        """Members of other shapes do not fit each other's weights."""
        edit(fused_folder, lambda document: document["members"].reverse())
        assert "Error(s) in loading state_dict" in refusal(fused_folder)

    def test_several_members_that_are_not_fused(self, fused_folder: Path) -> None:
        """How they are fused is not guessed."""
        edit(fused_folder, lambda document: document.update(fusion={}))
        assert refusal(fused_folder) == "it holds 3 members, and does not say how they are fused"

    @pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf")])
    @pytest.mark.parametrize("name", ["scales", "weights"])
    def test_an_impossible_scale(self, fused_folder: Path, name: str, scale: float) -> None:
        """A scale by which no score can be divided is refused, and so is a weight that weighs nothing."""
        edit(fused_folder, lambda document: document["fusion"][name].__setitem__(1, scale))
        assert refusal(fused_folder) == "its centres must be finite, and its scales and weights above 0"

    @pytest.mark.parametrize("weights", [[1, -1, 1], [0, 0, 0]])
    def test_impossible_map_weights(self, fused_folder: Path, weights: list[float]) -> None:
        """A member may be left out of the map, and not all of them."""
        edit(fused_folder, lambda document: document["fusion"].update(map_weights=weights))
        assert refusal(fused_folder) == "its map weights must be 0 or above, and one of them above 0"

    @pytest.mark.parametrize("centre", [float("nan"), "low", None])
    def test_an_impossible_centre(self, fused_folder: Path, centre: object) -> None:
        """So is a centre that is no number."""
        edit(fused_folder, lambda document: document["fusion"]["centres"].__setitem__(1, centre))
        assert refusal(fused_folder)

    @pytest.mark.parametrize("fusion", [{"centres": []}, {"mean": []}, [1], "max"])
    def test_another_fusion(self, fused_folder: Path, fusion: object) -> None:
        """The keys that there must be are named."""
        edit(fused_folder, lambda document: document.update(fusion=fusion))
        assert refusal(fused_folder).startswith(
            "the fusion in detector.json must hold exactly ['centres', 'map_weights', 'scales', 'weights'],"
        )

    @pytest.mark.parametrize("picture", [0, 3, -1, "4"])
    def test_a_picture_that_the_weights_do_not_fit(self, fused_folder: Path, picture: object) -> None:
        """The picture's components are counted."""
        edit(fused_folder, lambda document: document.update(picture=picture))
        assert refusal(fused_folder)


class Payload:
    """An object whose pickle, when loaded, creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.marker,)


def plain_pickle(payload: Payload) -> bytes:
    """The pickle by itself."""
    return pickle.dumps(payload)


def torch_file(payload: Payload) -> bytes:
    """The pickle within a file of `torch.save`."""
    file = io.BytesIO()
    torch.save(payload, file)
    return file.getvalue()


@pytest.mark.parametrize("write", [plain_pickle, torch_file])
def test_the_payload_works(write: Callable[[Payload], bytes], tmp_path: Path) -> None:
    """Unpickled, the payload creates its file: the next test would notice."""
    file = io.BytesIO(write(Payload(tmp_path / "marker")))
    if write is torch_file:
        torch.load(file, weights_only=False)
    else:
        pickle.load(file)
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize("write", [plain_pickle, torch_file])
@pytest.mark.parametrize("vouched", [False, True], ids=["stray", "with its hash in detector.json"])
def test_a_pickle_in_place_of_the_weights_is_never_run(
    folder: Path, tmp_path: Path, write: Callable[[Payload], bytes], vouched: bool
) -> None:
    """Neither a stray pickle nor one that detector.json vouches for is more than bytes of a wrong format."""
    weights = write(Payload(tmp_path / "marker"))
    if vouched:
        put_weights(folder, weights)
    else:
        (folder / "weights.safetensors").write_bytes(weights)
    assert refusal(folder)
    assert not (tmp_path / "marker").exists()


class Nothing(nn.Module):
    """Gives nothing back."""

    def forward(self, images: Tensor) -> Tensor:
        """Zeros, as many as there are pixels."""
        return torch.zeros_like(images)


class Counting(nn.Module):
    """Returns its images, and knows how many threads PyTorch had."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The images."""
        self.threads.append(torch.get_num_threads())
        return images


class Forgetful(nn.Module):
    """Returns its images, and knows which of its reconstructions are still held by somebody."""

    def __init__(self) -> None:
        super().__init__()
        self.returned: list[weakref.ref[Tensor]] = []
        self.most_alive = 0

    def forward(self, images: Tensor) -> Tensor:
        """A copy of the images."""
        reconstructions = images.clone()
        self.returned.append(weakref.ref(reconstructions))
        self.most_alive = max(self.most_alive, sum(tensor() is not None for tensor in self.returned))
        return reconstructions


class TestInUse:
    """Scoring, error maps and reconstructions."""

    def test_all_three_agree(self) -> None:
        """The error map is that of the reconstruction, and the score is its mean."""
        detector, given = trained(), images(BATCH_SIZE + 3)
        maps = np.square(given - detector.reconstruct(given)).mean(axis=1)
        np.testing.assert_allclose(detector.error_maps(given), maps, rtol=1e-6)
        np.testing.assert_allclose(detector.score(given), maps.astype(np.float64).mean(axis=(1, 2)), rtol=1e-6)

    @pytest.mark.parametrize("shape", [(2, 1, 6, 8), (2, 3, 8, 6), (2, 8, 6), (1, 8, 6)])
    def test_images_of_another_shape_are_refused(self, shape: tuple[int, ...]) -> None:
        """Both shapes are named, whichever of the three is asked for."""
        detector = trained()
        for ask in (detector.score, detector.error_maps, detector.reconstruct):
            with pytest.raises(InputError) as caught:
                ask(np.zeros(shape, np.float32))
            assert str(caught.value) == f"images of shape {shape[1:]} were given to a detector for (1, 8, 6)"

    def test_memory_does_not_grow_with_the_number_of_images(self) -> None:
        """While many images are scored, the reconstructions of two steps at most are held at a time."""
        network = Forgetful()
        Detector(SPEC, "", {}, network).score(images(6 * BATCH_SIZE))
        assert len(network.returned) == 6
        assert network.most_alive <= 2

    def test_small_images_are_drawn_by_one_thread(self) -> None:
        """Several threads wait for each other longer than they work; afterwards PyTorch has those that it had."""
        network, threads = Counting(), torch.get_num_threads()
        try:
            torch.set_num_threads(3)
            Detector(SPEC, "", {}, network).reconstruct(images())
            assert (network.threads, torch.get_num_threads()) == ([1], 3)
        finally:
            torch.set_num_threads(threads)

    def test_images_are_left_as_they_were(self) -> None:
        """Scoring writes nothing into the images, nor into the network's batch-norm statistics."""
        detector, given = trained(), images()
        first = detector.score(given).tolist()
        assert np.array_equal(given, images())
        assert detector.score(given).tolist() == first

    def test_a_detector_on_another_device_leaves_the_first_where_it_was(self) -> None:
        """`on` gives a second detector; the one it was asked of still scores."""
        detector = trained()
        before = detector.score(images()).tolist()
        moved = detector.on(torch.device("meta"))
        assert moved.device == "meta"
        assert {parameter.device.type for parameter in moved.network.parameters()} == {"meta"}
        assert detector.score(images()).tolist() == before
