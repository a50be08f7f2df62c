"""The ONNX graph of a detector gives what PyTorch gives, travels with it, and is never used where it does not."""

import json
import logging
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ae_models.detector import AnyDetector, Detector, FusedDetector, by_engine, load_detector
from ae_models.errors import InputError
from ae_models.front_ends import build_front_end
from ae_models.graph import DESCRIPTION, FILE, Graph
from ae_models.graph_export import TOLERANCE, NotExportable, with_fewer_sums, with_graph
from ae_models.images import FeatureSpec, ImageSpec
from ae_models.localizer import Localizer
from ae_models.networks import NETWORKS, build_network
from ae_models.scoring import Score, ScoreDesign

BATCHES = (1, 2, 7, 64, 256)
RECIPES: list[tuple[str, dict[str, Any], str, dict[str, Any], ScoreDesign]] = [
    ("pixels", {"step": 2, "standardised": True}, "pca", {"code_size": 4}, ScoreDesign(3, True, 0.1)),
    ("gradients", {"step": 2, "normalised": "cell"}, "pca", {"code_size": 4}, ScoreDesign(3, True)),
    ("gradients", {"step": 3, "normalised": "image"}, "pca", {"code_size": 4}, ScoreDesign(5, False, 0.02)),
    ("derivatives", {"step": 2}, "gaussian", {}, ScoreDesign(3, True, 0.02)),
    ("ridges", {"step": 2}, "gaussian", {}, ScoreDesign(3, True, 0.02)),
    ("contrast", {}, "none", {}, ScoreDesign(3, True, 0.005, relative=0.5)),
    ("derivatives", {"step": 2}, "whitened_pca", {"code_size": 4}, ScoreDesign(3, False, 0.1)),
    ("derivatives", {"step": 2}, "codebook", {"entries": 300}, ScoreDesign(3, False, 0.1)),
    ("gradients", {"step": 2, "normalised": "cell"}, "moments", {"windows": 3}, ScoreDesign()),
    ("derivatives", {"step": 2}, "restoration", {}, ScoreDesign(3, False, 0.1)),
]
MORE_RECIPES: list[tuple[str, dict[str, Any], str, dict[str, Any], ScoreDesign]] = [
    ("pixels", {"step": 2}, "code", {"code_size": 4}, ScoreDesign(3, True, 0.1)),
    ("gradients", {"step": 2, "normalised": "cell"}, "pca", {"code_size": 4}, ScoreDesign(3, True, 0.1, energy=0.5)),
    ("backbone", {"channels": 20}, "gaussian", {}, ScoreDesign(1, True, 0.1)),
    ("backbone", {"channels": 20, "stages": [1, 2]}, "code", {"code_size": 4}, ScoreDesign(3, False, 0.1, energy=1.0)),
]


def images_of(spec: ImageSpec, count: int, seed: int = 0) -> NDArray[np.float32]:
    """Images (count, C, H, W) float32 in [0, 1]: waves and noise."""
    random, (down, across) = np.random.default_rng(seed), np.mgrid[0 : spec.height, 0 : spec.width] / 16
    waves = np.sin(across * random.uniform(1, 3, (count, spec.channels, 1, 1))) * np.cos(down)
    noise = random.normal(0, 0.02, (count, *spec.shape))
    images: NDArray[np.float32] = np.clip(0.5 + 0.3 * waves + noise, 0, 1).astype(np.float32)
    return images


def detector_of(
    spec: ImageSpec,
    network: str,
    parameters: dict[str, Any],
    design: ScoreDesign = ScoreDesign(),  # noqa: B008 (frozen)
    front_end: str = "pixels",
    front_end_parameters: dict[str, Any] | None = None,
) -> Detector:
    """A detector whose weights and usual errors are drawn."""
    torch.manual_seed(0)
    view = build_front_end(front_end, spec, front_end_parameters or {})
    features: FeatureSpec = view.spec  # type: ignore[assignment]  # torch types attributes as modules
    score = Score(design, features.height, features.width)
    score.usual = torch.rand(features.height, features.width) + 0.5
    built = build_network(network, features, parameters).eval()
    for buffer in (each for name, each in built.named_buffers() if name in ("components", "mean", "whitening")):
        buffer.add_(0.1 * torch.randn_like(buffer))
    return Detector(
        *(spec, network, parameters, built, "cpu", front_end, front_end_parameters or {}),
        fitted_front_end=view if view.state_dict() else None,
        fitted_score=score,
    )


def fused_detector(spec: ImageSpec) -> FusedDetector:
    """A detector of all recipes, fused, with a localizer."""
    members = [
        detector_of(spec, network, parameters, design, front_end, its_parameters)
        for front_end, its_parameters, network, parameters, design in RECIPES
    ]
    logarithms = [np.log(member.score(images_of(spec, 32))) for member in members]
    centres, scales = zip(*((float(each.mean()), float(each.std())) for each in logarithms), strict=True)
    weights = tuple(np.full(len(members), 1 / len(members)).tolist())
    of_maps = tuple(1 / float(member.error_maps(images_of(spec, 32)).mean()) for member in members)
    localizer = Localizer(spec, len(members)).eval()
    return FusedDetector(tuple(members), centres, scales, weights, of_maps, localizer=localizer)


def assert_the_same(detector: AnyDetector, batches: tuple[int, ...] = BATCHES) -> None:
    """Scores, maps and the order of images are PyTorch's, however many images there are at once."""
    exported = with_graph(detector, images_of(detector.spec, 32))
    assert exported.graph is not None
    assert exported.graph.difference < TOLERANCE
    images = images_of(detector.spec, max(batches), seed=1)
    wanted, maps = detector.score(images), detector.error_maps(images)
    for count in batches:
        scores = exported.score(images[:count])
        assert scores.dtype == np.float64
        np.testing.assert_allclose(scores, wanted[:count], rtol=1e-4, atol=1e-4 * wanted.std())
        found = exported.error_maps(images[:count])
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, maps[:count], rtol=1e-3, atol=1e-4 * maps.max())


@pytest.fixture(scope="module")
def small() -> AnyDetector:
    """A convolutional detector with its graph."""
    return with_graph(detector_of(ImageSpec(12, 9, 1), "convolutional", {}), images_of(ImageSpec(12, 9, 1), 32))


class TestTheSameAsPyTorch:
    """To 0.001 of a nominal deviation, and in practice to a thousandth of that."""

    @pytest.mark.parametrize(
        "spec", [ImageSpec(28, 28, 1), pytest.param(ImageSpec(17, 23, 3), marks=pytest.mark.slow)], ids=str
    )
    @pytest.mark.parametrize("network", NETWORKS)
    def test_every_network(self, network: str, spec: ImageSpec) -> None:
        """Batches from 1 to 256 images, also where no side is a multiple of anything."""
        assert_the_same(detector_of(spec, network, {}))

    @pytest.mark.slow
    @pytest.mark.parametrize("spec", [ImageSpec(28, 28, 1), ImageSpec(33, 21, 3)], ids=str)
    @pytest.mark.parametrize("recipe", [*RECIPES, *MORE_RECIPES], ids=lambda recipe: f"{recipe[2]} on {recipe[0]}")
    def test_every_front_end(
        self, recipe: tuple[str, dict[str, Any], str, dict[str, Any], ScoreDesign], spec: ImageSpec
    ) -> None:
        """With smoothing, positional normalisation, pooling, division by energy and typical error; drawn weights."""
        front_end, its_parameters, network, parameters, design = recipe
        assert_the_same(detector_of(spec, network, parameters, design, front_end, its_parameters))

    @pytest.mark.slow
    @pytest.mark.parametrize("spec", [ImageSpec(28, 28, 1), ImageSpec(45, 130, 3)], ids=str)
    def test_the_fused_detector(self, spec: ImageSpec, caplog: pytest.LogCaptureFixture) -> None:
        """Members, their views shared, their weights, and the least opinion; the exporter has nothing to warn of."""
        assert_the_same(fused_detector(spec))
        assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []

    def test_a_network_that_gives_nan(self, small: AnyDetector) -> None:
        """A score that is no number stays none, so that the image is flagged."""
        images = images_of(small.spec, 3)
        images[1] = np.nan
        assert np.isnan(small.score(images)).tolist() == [False, True, False]

    def test_any_number_of_threads(self, small: AnyDetector) -> None:
        """Images come back in their order, each with its own score."""
        assert small.graph is not None
        images = images_of(small.spec, 150)
        one, three = (small.graph.score(images, threads) for threads in (1, 3))
        np.testing.assert_array_equal(one, three)

    def test_no_images(self, small: AnyDetector) -> None:
        """No scores and no maps."""
        none = images_of(small.spec, 2)[:0]
        assert small.score(none).shape == (0,)
        assert small.error_maps(none).shape == (0, 12, 9)

    def test_images_of_another_size(self, small: AnyDetector) -> None:
        """Are refused as PyTorch's side refuses them."""
        with pytest.raises(InputError, match=r"images of shape \(1, 9, 12\) were given to a detector for \(1, 12, 9\)"):
            small.score(np.zeros((2, 1, 9, 12), np.float32))


def kinds(network: nn.Module) -> list[type]:
    """Of all its parts."""
    return [type(module) for module in network.modules()][1:]


def doubling(channels_in: int, channels_out: int, bias: bool = True) -> list[nn.Module]:
    """The layers that double the size of maps."""
    convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=bias)
    return [nn.Upsample(scale_factor=2, mode="nearest"), convolution]


def strides_of_transposed(network: nn.Module) -> list[tuple[int, ...]]:
    """Of its transposed convolutions."""
    return [layer.stride for layer in network.modules() if isinstance(layer, nn.ConvTranspose2d)]


class TestFewerSums:
    """Nearest upsampling and a 3 x 3 convolution are one transposed convolution."""

    @pytest.mark.parametrize("bias", [True, False])
    def test_it_gives_the_same(self, bias: bool) -> None:
        """At every pixel, those at the border too; the network itself is left as it is."""
        torch.manual_seed(0)
        layers = [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(5, 3, 3, padding=1, bias=bias), nn.ReLU()]
        network, maps = nn.Sequential(nn.Sequential(*layers)), torch.randn(2, 5, 7, 6)
        fewer = with_fewer_sums(network)
        assert kinds(fewer) == [nn.Sequential, nn.Identity, nn.ConvTranspose2d, nn.ReLU]
        with torch.no_grad():
            torch.testing.assert_close(fewer(maps), network(maps), rtol=1e-5, atol=1e-6)
        assert list(network.modules())[2:] == layers

    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_two_that_end_in_an_image_give_the_same(self, channels: int, bias: bool) -> None:
        """Though the maps between the two are in quarters."""
        torch.manual_seed(0)
        layers = [*doubling(5, 6, bias), nn.ReLU(), *doubling(6, channels, bias), nn.Sigmoid()]
        network, maps = nn.Sequential(*layers), torch.randn(2, 5, 7, 6)
        fewer = with_fewer_sums(network)
        assert strides_of_transposed(fewer) == [(4, 4)]
        with torch.no_grad():
            torch.testing.assert_close(fewer(maps), network(maps), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("between", [nn.MaxPool2d(2), nn.Conv2d(6, 6, 3, padding=1)], ids=["pooling", "a layer"])
    def test_two_with_more_between_stay_apart(self, between: nn.Module) -> None:
        """Quarters can be dealt with by what looks at one pixel at a time only."""
        network = nn.Sequential(*doubling(5, 6), between, *doubling(6, 1))
        assert strides_of_transposed(with_fewer_sums(network)) == [(2, 2), (2, 2)]

    @pytest.mark.parametrize(
        "layers",
        [
            [nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(4, 4, 3, padding=1)],
            [nn.Upsample(scale_factor=3, mode="nearest"), nn.Conv2d(4, 4, 3, padding=1)],
            [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(4, 4, 5, padding=2)],
            [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")],
            [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(4, 4, 3, padding=1, groups=2)],
            [nn.Upsample(scale_factor=2, mode="nearest"), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)],
        ],
        ids=["bilinear", "threefold", "5 x 5", "reflecting", "in groups", "not in a row"],
    )
    def test_others_stay_as_they_are(self, layers: list[nn.Module]) -> None:
        """Whatever is not exactly this."""
        assert kinds(with_fewer_sums(nn.Sequential(*layers))) == [type(layer) for layer in layers]


class Undecided(nn.Module):
    """A network that looks at the numbers before it decides what to do."""

    def forward(self, images: Tensor) -> Tensor:
        """The images, or none."""
        return images if float(images.sum()) > 1 else torch.zeros_like(images)


class Noisy(nn.Module):
    """A network that never gives the same twice."""

    def forward(self, images: Tensor) -> Tensor:
        """The images and noise."""
        return images + torch.rand_like(images)


class TestWhereThereIsNone:
    """A detector without a graph that gives the same is scored by PyTorch."""

    def test_what_cannot_be_exported(self) -> None:
        """The reason is one line."""
        detector = replace(detector_of(ImageSpec(8, 8, 1), "convolutional", {}), network=Undecided().eval())
        with pytest.raises(NotExportable) as caught:
            with_graph(detector, images_of(detector.spec, 8))
        assert str(caught.value)
        assert "\n" not in str(caught.value)

    def test_what_gives_other_scores(self) -> None:
        """It is compared before it is used."""
        detector = replace(detector_of(ImageSpec(8, 8, 1), "convolutional", {}), network=Noisy().eval())
        with pytest.raises(NotExportable, match=r"its scores differ from PyTorch's by .* of their deviation"):
            with_graph(detector, images_of(detector.spec, 8))


class TestItTravels:
    """The graph lies beside the weights, and belongs to them."""

    def test_saved_and_loaded(self, small: AnyDetector, tmp_path: Path) -> None:
        """The same scores, from the same graph."""
        small.save(tmp_path)
        loaded, images = load_detector(tmp_path), images_of(small.spec, 5)
        assert loaded.graph is not None
        assert small.graph is not None
        assert loaded.graph.difference == small.graph.difference
        np.testing.assert_array_equal(loaded.score(images), small.score(images))

    def test_to_another_process(self, small: AnyDetector) -> None:
        """Also after it scored: the session stays behind, and is opened anew."""
        assert small.graph is not None
        images = images_of(small.spec, 5)
        expected = small.graph.score(images)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(small.graph)).score(images), expected)

    def test_on_another_device(self, small: AnyDetector) -> None:
        """PyTorch scores there, and the graph waits for the way back."""
        assert small.on(torch.device("cpu")).graph is small.graph
        assert by_engine(small, "torch").graph is None
        elsewhere = small.on(torch.device("meta"))
        with pytest.raises(InputError) as caught:
            by_engine(elsewhere, "onnxruntime")
        assert str(caught.value) == ("engine onnxruntime scores on the CPU, not on meta: set training.device to cpu")

    def test_onnx_runtime_without_a_graph(self, small: AnyDetector) -> None:
        """Who wishes for it alone is told; who leaves it open is scored by PyTorch."""
        without = by_engine(small, "torch")
        assert by_engine(without, "auto") is without
        with pytest.raises(InputError) as caught:
            by_engine(without, "onnxruntime")
        assert str(caught.value) == (
            "engine onnxruntime has no graph of this detector: train again, or set engine to auto"
        )

    @pytest.mark.parametrize(
        ("harm", "reason"),
        [
            (lambda folder: (folder / FILE).unlink(), f"{FILE} is missing"),
            (lambda folder: (folder / DESCRIPTION).unlink(), f"{DESCRIPTION} is missing"),
            (lambda folder: (folder / FILE).write_bytes(b"graph"), f"{FILE} is damaged"),
            (lambda folder: (folder / DESCRIPTION).write_text("{"), f"{DESCRIPTION} cannot be read (JSONDecodeError)"),
            (lambda folder: (folder / DESCRIPTION).write_text("[]"), f"{DESCRIPTION} cannot be read (TypeError)"),
            (
                lambda folder: (folder / DESCRIPTION).write_text('{"format": 9}'),
                f"{DESCRIPTION} has the format 9, and this version reads 2",
            ),
        ],
        ids=["graph gone", "description gone", "graph damaged", "half written", "no object", "of another version"],
    )
    def test_damage_is_said_and_pytorch_scores(
        self,
        harm: Callable[[Path], Any],
        reason: str,
        small: AnyDetector,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """The scores are the same, and people hear why they take longer."""
        small.save(tmp_path)
        harm(tmp_path)
        with caplog.at_level(logging.WARNING, "reconwatch"):
            loaded = load_detector(tmp_path)
        assert loaded.graph is None
        assert caplog.messages == [
            f"The detector's graph cannot be used, so PyTorch scores, more slowly: {reason}. Train again."
        ]
        images = images_of(small.spec, 5)
        np.testing.assert_allclose(loaded.score(images), small.score(images), rtol=1e-4)

    def test_the_graph_of_another_detector(
        self, small: AnyDetector, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Files that are whole, and do not belong together, are told apart."""
        small.save(tmp_path / "a")
        detector_of(ImageSpec(12, 9, 1), "linear", {}).save(tmp_path / "b")
        for name in (FILE, DESCRIPTION):
            (tmp_path / "b" / name).write_bytes((tmp_path / "a" / name).read_bytes())
        with caplog.at_level(logging.WARNING, "reconwatch"):
            assert load_detector(tmp_path / "b").graph is None
        assert f"{FILE} was made of another detector" in caplog.text

    def test_a_graph_that_onnx_runtime_refuses(
        self, small: AnyDetector, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Such as one of a newer version: said, and not used."""
        replace(small, graph=Graph(b"no graph", small.spec)).save(tmp_path)
        with caplog.at_level(logging.WARNING, "reconwatch"):
            assert load_detector(tmp_path).graph is None
        assert f"ONNX Runtime cannot load {FILE}" in caplog.text

    def test_what_is_known_of_it(self, small: AnyDetector, tmp_path: Path) -> None:
        """How far from PyTorch it was found, and what made it."""
        small.save(tmp_path)
        stored = json.loads((tmp_path / DESCRIPTION).read_text(encoding="utf-8"))
        assert stored.keys() == {"format", "sha256", "detector_sha256", "difference", "versions", "int8", "runtime"}
        assert stored["versions"].keys() == {"torch", "onnx", "onnxscript", "onnxruntime"}
