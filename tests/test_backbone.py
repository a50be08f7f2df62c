"""What a pretrained ResNet sees of an image, as a front end whose weights travel with the detector."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision import models

from ae_models.backbone import BACKBONES, Backbone
from ae_models.detector import load_detector
from ae_models.errors import InputError
from ae_models.front_ends import build_front_end
from ae_models.images import ImageSpec
from ae_models.pretrained import is_at_hand
from ae_models.selection import Fitting, NominalParts, backbone_recipes, fit_recipe, linear_recipes, select
from ae_models.synthetic_defects import draw_defects

SIZES = [(32, 32, 1), (33, 47, 3), (64, 40, 1)]


def images(count: int, size: tuple[int, int, int] = (32, 32, 1), seed: int = 0) -> NDArray[np.float32]:
    """Noise (count, C, H, W) in [0, 1]."""
    height, width, channels = size
    drawn: NDArray[np.float32] = np.random.default_rng(seed).random((count, channels, height, width), np.float32)
    return drawn


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which torch looks for weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def weights(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Random weights in place of torchvision's resnet18, in a file that its own loader reads and checks."""
    torch.manual_seed(0)
    state: dict[str, Tensor] = models.resnet18(weights=None).state_dict()
    torch.save(state, checkpoints / "resnet18-f37072fd.pth")
    return state


class TestFeatures:
    """The maps of several stages, at one resolution."""

    @pytest.mark.parametrize("size", SIZES, ids=str)
    @pytest.mark.parametrize("stages", [(1, 2, 3), (2, 3), (3,)], ids=str)
    def test_its_spec_is_the_shape_that_it_gives(self, stages: tuple[int, ...], size: tuple[int, int, int]) -> None:
        """At odd and oblong sizes, grey and in colour; the first stage says how fine."""
        front_end = Backbone(ImageSpec(*size), stages=stages, channels=20)
        assert front_end(torch.from_numpy(images(2, size))).shape == (2, *front_end.spec.shape)

    def test_they_are_those_of_the_network_itself(self) -> None:
        """The first stage is torchvision's layer1 of the image as ImageNet's are normalised; all channels by size."""
        torch.manual_seed(0)
        front_end = Backbone(ImageSpec(32, 32, 3), stages=(1,), channels=64)
        given = torch.from_numpy(images(2, (32, 32, 3)))
        mean, deviation = (
            torch.tensor(values).reshape(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        )
        expected = front_end.layers[0](front_end.stem((given - mean) / deviation))
        assert torch.equal(front_end(given), expected)

    def test_the_same_channels_are_kept_in_every_detector(self) -> None:
        """Which ones is drawn once and for all."""
        first, second = (Backbone(ImageSpec(32, 32, 1), channels=100).kept for _ in range(2))
        assert len(first) == 100
        assert torch.equal(first, second)

    def test_an_image_is_seen_the_same_in_training_mode(self) -> None:
        """Its batch statistics are the weights' own, whatever network it is a part of."""
        front_end = Backbone(ImageSpec(32, 32, 1))
        given = torch.from_numpy(images(3))
        expected = front_end(given)
        assert torch.equal(nn.Sequential(front_end).train()(given), expected)

    @pytest.mark.parametrize("name", BACKBONES)
    def test_every_backbone_can_be_built(self, name: str) -> None:
        """Each gives as many channels as are asked for."""
        assert Backbone(ImageSpec(32, 32, 1), name, channels=30).spec.channels == 30


class TestRefusals:
    """What cannot be, said with what can."""

    def test_an_unknown_backbone(self) -> None:
        """It is named with those there are."""
        with pytest.raises(InputError, match=r"^there is no backbone 'vgg': choose one of resnet18, .*"):
            build_front_end("backbone", ImageSpec(32, 32, 1), {"name": "vgg"})

    @pytest.mark.parametrize("stages", [(), (0,), (4,), (2, 1), (1, 1)])
    def test_impossible_stages(self, stages: tuple[int, ...]) -> None:
        """Stages are ascending, and the network has four."""
        with pytest.raises(InputError, match=r"^a backbone has no stages \[.*\]: give ascending ones of \[1, 2, 3\]$"):
            Backbone(ImageSpec(32, 32, 1), stages=stages)

    def test_small_images_have_no_recipes_on_it(self) -> None:
        """Below 32 pixels little is left after its strides."""
        assert backbone_recipes(ImageSpec(28, 28, 1), "resnet18") == ()
        assert backbone_recipes(ImageSpec(32, 32, 1), None) == ()
        assert backbone_recipes(ImageSpec(32, 32, 1), "resnet18") != ()


class TestWeights:
    """They are torchvision's, and a detector carries them."""

    def test_whether_they_are_at_hand(self, checkpoints: Path) -> None:
        """The file in torch's folder says so; nothing is downloaded."""
        assert not is_at_hand("resnet18")
        (checkpoints / "resnet18-f37072fd.pth").touch()
        assert is_at_hand("resnet18")

    def test_a_saved_detector_needs_the_file_no_more(
        self, checkpoints: Path, monkeypatch: pytest.MonkeyPatch, weights: dict[str, Tensor], tmp_path: Path
    ) -> None:
        """Scores are the same where torchvision's weights were never seen."""
        monkeypatch.setattr(
            "ae_models.backbone.load_pretrained", lambda network, name: network.load_state_dict(weights)
        )
        parts = NominalParts(*(images(12, seed=seed) for seed in range(3)))
        (recipe, *_) = backbone_recipes(parts.spec, "resnet18")
        detector = fit_recipe(recipe, parts, Fitting())
        assert detector.name == "gaussian on backbone"
        assert torch.equal(dict(detector.front_end.named_parameters())["stem.0.weight"], weights["conv1.weight"])
        detector.save(tmp_path / "detector")
        (checkpoints / "resnet18-f37072fd.pth").unlink()
        expected = detector.score(images(4, seed=9))
        loaded = load_detector(tmp_path / "detector")
        assert np.array_equal(loaded.score(images(4, seed=9)), expected)
        assert np.array_equal(loaded.on(torch.device("cpu")).score(images(4, seed=9)), expected)

    def test_it_is_fused_beside_the_other_kinds(
        self, monkeypatch: pytest.MonkeyPatch, weights: dict[str, Tensor]
    ) -> None:
        """Its Gaussian does not take the place of the one on derivatives: they see different things."""
        monkeypatch.setattr(
            "ae_models.backbone.load_pretrained", lambda network, name: network.load_state_dict(weights)
        )
        random = np.random.default_rng(0)
        down, across = np.mgrid[0:32, 0:32]
        texture = 0.5 + 0.2 * np.sin(across / 3) * np.cos(down / 4) + 0.03 * random.normal(size=(44, 1, 32, 32))
        parts = NominalParts(*np.split(np.clip(texture, 0, 1).astype(np.float32), [20, 30]))
        recipes = [one for one in linear_recipes(parts.spec) if one.front_end == "derivatives"]
        found = select(
            parts,
            draw_defects(parts.selection, 6, 0, ("spots", "missing")),
            [*recipes, *backbone_recipes(parts.spec, "resnet18")],
        )
        assert {"gaussian on derivatives", "gaussian on backbone"} <= {one.name for one in found.detector.members}

    def test_a_damaged_file_is_named(self, checkpoints: Path) -> None:
        """Before anything is fitted, in one sentence."""
        (checkpoints / "resnet18-f37072fd.pth").write_bytes(b"no weights")
        with pytest.raises(InputError, match=r"resnet18-f37072fd\.pth cannot be read as weights: remove it$"):
            Backbone(ImageSpec(32, 32, 1)).load_pretrained()
