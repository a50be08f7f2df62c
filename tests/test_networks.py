"""Every network of the registry: the images it takes, that all of it learns, and what it says of bad parameters."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ae_models.corruptions import CoarseNoise, GaussianNoise
from ae_models.detector import Detector, load_detector
from ae_models.errors import InputError
from ae_models.images import ImageSpec
from ae_models.networks import (
    NETWORKS,
    ConvolutionalAutoencoder,
    LinearAutoencoder,
    ResNetAutoencoder,
    RestorationNetwork,
    VariationalAutoencoder,
    build_network,
)
from ae_models.networks.convolutional import DECODERS
from ae_models.training import TrainingResult, TrainingSettings, fit, training_loss

SIZES = [(28, 28), (29, 31), (7, 64), (64, 7), (4, 4), (5, 3), (1, 9), (1, 1)]
TINY = {  # what it takes to learn sixteen images of 12 x 12
    **{name: TrainingSettings(epochs=60, batch_size=8, learning_rate=1e-2, device="cpu") for name in NETWORKS},
    "resnet": TrainingSettings(epochs=15, batch_size=8, learning_rate=2e-3, device="cpu"),
}
every_network = pytest.mark.parametrize("name", NETWORKS)
every_code = pytest.mark.parametrize("name", [name for name, network in NETWORKS.items() if hasattr(network, "encode")])


@dataclass(frozen=True)
class Features(ImageSpec):
    """The spec of features, which have any number of channels."""

    def __post_init__(self) -> None:
        """Any size will do."""


def stripes(count: int, spec: ImageSpec, seed: int = 0) -> NDArray[np.float32]:
    """Stripes of random place and contrast, alike in kind and not in detail: (count, C, H, W) in [0, 1]."""
    random = np.random.default_rng(seed)
    phase, contrast = random.uniform(0, 1.5, (count, 1, 1)), random.uniform(0.3, 1, (count, 1, 1))
    rows, columns = np.mgrid[: spec.height, : spec.width]
    plane = 0.5 + 0.5 * contrast * np.sin(phase + rows / 2 + columns / 5)
    return np.repeat(plane[:, None], spec.channels, axis=1).astype(np.float32)


def built(name: str, spec: ImageSpec, **parameters: Any) -> nn.Module:
    """The network with the same random weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_network(name, spec, parameters)


def trained(
    name: str, spec: ImageSpec, images: NDArray[np.float32], settings: TrainingSettings, **parameters: Any
) -> TrainingResult:
    """The network after training on the images, with noise on its input where it learns from nothing else."""
    corruption = GaussianNoise(0.05) if name == "unet" else None
    return fit(lambda: build_network(name, spec, parameters), images, images, settings, corruption=corruption)


@every_network
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_reconstruction_has_the_shape_of_its_image(name: str, height: int, width: int, channels: int) -> None:
    """Odd, elongated and tiny images, grey and RGB, come back in their size and range, or are refused by their size."""
    spec = ImageSpec(height, width, channels)
    images = torch.from_numpy(stripes(2, spec))
    try:
        network = built(name, spec).eval()
    except InputError as error:
        assert f"{height} x {width}" in str(error)  # noqa: PT017 (a network may also take the size)
        return
    reconstructions = network(images)
    assert reconstructions.shape == images.shape
    assert 0 <= reconstructions.min() <= reconstructions.max() <= 1


@every_network
def test_the_lessons_size_is_never_refused(name: str) -> None:
    """28 x 28 grey images suit every network with the parameters it has by default."""
    assert built(name, ImageSpec(28, 28, 1)).eval()(torch.zeros(1, 1, 28, 28)).shape == (1, 1, 28, 28)


@every_network
@pytest.mark.parametrize("channels", [1, 3])
def test_every_parameter_learns(name: str, channels: int) -> None:
    """The loss's gradient reaches each weight and bias: no layer is left out of the way from image to loss."""
    spec = ImageSpec(13, 18, channels)
    network, images = built(name, spec).train(), torch.from_numpy(stripes(8, spec))
    training_loss(network)(images, images).backward()  # type: ignore[no-untyped-call]  # torch does not type it
    without = [key for key, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    assert without == []


@every_network
def test_features_of_any_kind_are_taken(name: str) -> None:
    """Eight channels come back as eight, and with the output "identity" their values are not held in [0, 1]."""
    spec = Features(14, 11, 8)
    features = 10 * torch.randn(4, *spec.shape, generator=torch.Generator().manual_seed(0))
    reconstructions = built(name, spec, output="identity").train()(features)
    assert reconstructions.shape == features.shape
    assert reconstructions.min() < 0


@every_network
def test_unknown_outputs_are_refused_with_the_known_ones(name: str) -> None:
    """An output that does not exist is named, and so are those that do."""
    with pytest.raises(InputError, match=r"^there is no output 'tanh': choose one of sigmoid, identity$"):
        build_network(name, ImageSpec(28, 28, 1), {"output": "tanh"})


@every_network
def test_there_is_no_chance_in_a_reconstruction(name: str) -> None:
    """The same images are reconstructed the same, whatever the process draws in between, and in whatever company."""
    spec = ImageSpec(12, 12, 1)
    network, images = built(name, spec).eval(), torch.from_numpy(stripes(6, spec))
    with torch.inference_mode():
        first = network(images)
        with torch.random.fork_rng(devices=[]):
            torch.rand(5)
            assert torch.equal(network(images), first)
        assert torch.allclose(network(images[2:4]), first[2:4], atol=1e-5)


@every_network
def test_the_seed_decides_the_training(name: str) -> None:
    """Two trainings with one seed end in the same weights, to the last bit."""
    spec = ImageSpec(12, 12, 1)
    settings = replace(TINY[name], epochs=2)
    first, second = (trained(name, spec, stripes(16, spec), settings).network.state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


@every_code
def test_forward_is_decode_of_encode(name: str) -> None:
    """The code alone suffices for the reconstruction: nothing goes around it."""
    spec = ImageSpec(14, 11, 3)
    network, images = built(name, spec).eval(), torch.from_numpy(stripes(3, spec))
    assert torch.equal(network.decode(network.encode(images)), network(images))  # type: ignore[operator]  # of each network


@every_network
def test_a_network_learns_a_tiny_set(name: str) -> None:
    """On sixteen similar images the loss falls below that of the best constant, their mean image."""
    spec = ImageSpec(12, 12, 1)
    images = stripes(16, spec)
    result = trained(name, spec, images, TINY[name])
    assert result.best.validation_loss < 0.5 * result.epochs[0].validation_loss
    assert result.best.validation_loss < np.square(images - images.mean(axis=0)).mean()


@every_network
def test_a_saved_network_scores_as_before(name: str, tmp_path: Path) -> None:
    """After training, saving and loading, the detector gives exactly the same scores, in evaluation mode."""
    spec = ImageSpec(13, 10, 3)
    images = stripes(9, spec)
    detector = Detector(spec, name, {}, trained(name, spec, images, replace(TINY[name], epochs=2)).network)
    detector.save(tmp_path)
    loaded = load_detector(tmp_path)
    assert isinstance(loaded, Detector)
    assert loaded.score(images).tolist() == detector.score(images).tolist()
    assert not loaded.network.training


@every_network
def test_unknown_parameters_are_refused_with_the_known_ones(name: str) -> None:
    """A parameter that a network does not have is named, and so are those that it has."""
    with pytest.raises(InputError, match=rf"network '{name}' does not take .*'colour': 3.*: it takes \w+"):
        build_network(name, ImageSpec(28, 28, 1), {"colour": 3})


def test_unknown_networks_are_refused_with_the_known_ones() -> None:
    """A network that does not exist is named, and so are those that do."""
    with pytest.raises(InputError, match=rf"^there is no network 'vgg': choose one of {', '.join(NETWORKS)}$"):
        build_network("vgg", ImageSpec(28, 28, 1), {})


@pytest.mark.parametrize(
    ("size", "channels", "wished", "width"),
    [((28, 28), 1, 32, 32), ((28, 28), 1, 500, 196), ((5, 3), 1, 32, 3), ((4, 4), 3, 32, 12), ((1, 1), 1, 32, 1)],
)
def test_a_linear_code_is_at_most_a_quarter_of_the_pixels(
    size: tuple[int, int], channels: int, wished: int, width: int
) -> None:
    """The code has the wished width, or a quarter of the image's numbers where that is less, and one at least."""
    spec = ImageSpec(*size, channels)
    network = LinearAutoencoder(spec, wished).eval()
    assert network.encode(torch.zeros(2, *spec.shape)).shape == (2, width)


@pytest.mark.parametrize("code_size", [0, -3, 2.5, "32", True])
def test_impossible_linear_codes_are_refused(code_size: object) -> None:
    """A code size that is no whole number from 1 on is said back."""
    with pytest.raises(InputError, match=rf"^code_size is {code_size!r}: give a whole number from 1 on$"):
        build_network("linear", ImageSpec(28, 28, 1), {"code_size": code_size})


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_convolutional_code_of_the_lesson_is_32_by_7_by_7(decoder: str) -> None:
    """At 28 x 28 the two poolings of the default lead to 32 channels of 7 x 7, with either decoder."""
    network = ConvolutionalAutoencoder(ImageSpec(28, 28, 1), decoder=decoder)
    assert network.encode(torch.zeros(2, 1, 28, 28)).shape == (2, 32, 7, 7)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("convolutions", [1, 2])
def test_convolutional_parameters_shape_the_code(decoder: str, convolutions: int) -> None:
    """Each width halves the size, rounded up; code_channels narrows the code; images come back whole."""
    network = ConvolutionalAutoencoder(ImageSpec(30, 17, 3), (8, 16, 24), convolutions, decoder, code_channels=5)
    images = torch.rand(2, 3, 30, 17, generator=torch.Generator().manual_seed(0))
    assert network.encode(images).shape == (2, 5, 4, 3)
    assert network(images).shape == images.shape


def test_each_decoder_upsamples_in_its_own_way() -> None:
    """Transposed convolutions on request, and by default nearest upsampling followed by a convolution."""
    spec = ImageSpec(28, 28, 1)
    layers = {
        name: [type(layer).__name__ for layer in ConvolutionalAutoencoder(spec, decoder=name).decoder]
        for name in DECODERS
    }
    assert layers["transposed"] == ["ConvTranspose2d", "ReLU", "ConvTranspose2d", "Sigmoid"]
    assert layers["upsampling"] == ["Upsample", "Conv2d", "ReLU", "Upsample", "Conv2d", "Sigmoid"]
    default = ConvolutionalAutoencoder(spec)
    assert [type(layer).__name__ for layer in default.decoder] == layers["upsampling"]


def test_the_simplest_convolutional_network_of_the_lesson() -> None:
    """One width and transposed convolutions give the lesson's layers: convolution, pooling, one way back up."""
    network = ConvolutionalAutoencoder(ImageSpec(28, 28, 1), [3], decoder="transposed")
    assert [str(layer) for layer in [*network.encoder, *network.decoder]] == [
        "Conv2d(1, 3, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))",
        "ReLU()",
        "MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)",
        "ConvTranspose2d(3, 1, kernel_size=(2, 2), stride=(2, 2))",
        "Sigmoid()",
    ]


def test_padding_repeats_the_edge() -> None:
    """An image that is uniform stays so at the padded border: its code is that of the uniform image without padding."""
    odd, even = ConvolutionalAutoencoder(ImageSpec(15, 15, 1)), ConvolutionalAutoencoder(ImageSpec(16, 16, 1))
    even.load_state_dict(odd.state_dict())
    assert torch.equal(odd.encode(torch.full((1, 1, 15, 15), 0.7)), even.encode(torch.full((1, 1, 16, 16), 0.7)))


def test_too_many_poolings_are_refused_with_the_smallest_size() -> None:
    """Where a pooling would leave nothing, the message has the image's size and the smallest that is possible."""
    with pytest.raises(InputError, match=r"^3 poolings need images of at least 8 pixels a side, .* 28 x 7: give fewer"):
        build_network("convolutional", ImageSpec(28, 7, 1), {"widths": [8, 8, 8]})


def test_unknown_decoders_are_refused_with_the_known_ones() -> None:
    """A decoder that does not exist is named, and so are those that do."""
    with pytest.raises(InputError, match=r"^there is no decoder 'bilinear': choose one of transposed, upsampling$"):
        build_network("convolutional", ImageSpec(28, 28, 1), {"decoder": "bilinear"})


@pytest.mark.parametrize(
    "parameters",
    [
        {"widths": []},
        {"widths": [0]},
        {"widths": [8, -1]},
        {"widths": [8.5]},
        {"convolutions": 0},
        {"code_channels": 0},
    ],
)
def test_impossible_convolutional_sizes_are_refused(parameters: dict[str, Any]) -> None:
    """Numbers that no layer can have, and no layer at all, are said back with what is possible."""
    with pytest.raises(InputError, match="cannot be used: give whole numbers from 1 on, and at least one width"):
        build_network("convolutional", ImageSpec(28, 28, 1), parameters)


class TestResNet:
    """torchvision's ResNet without its head, its weights, and the decoder that starts from its embedding."""

    @pytest.fixture
    def checkpoints(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The folder in which torch looks for weights, on a machine without a network."""
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # the port where nothing ever answers
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        folder = tmp_path / "hub" / "checkpoints"
        folder.mkdir(parents=True)
        return folder

    @staticmethod
    def stand_in(depth: int = 18) -> dict[str, Tensor]:
        """Weights with the names and shapes of torchvision's, head included, all of one number: a small file."""
        from torchvision import models

        state = models.get_model(f"resnet{depth}", weights=None).state_dict()
        return {name: torch.full((), 0.5, dtype=value.dtype).expand(value.shape) for name, value in state.items()}

    @pytest.mark.parametrize(("depth", "size"), [(18, 512), (34, 512), (50, 2048)])
    def test_the_code_is_the_embedding(self, depth: int, size: int) -> None:
        """The code is what the head would have got: 512 numbers, at depth 50 2048."""
        network = ResNetAutoencoder(ImageSpec(32, 32, 3), depth).eval()
        assert network.encode(torch.zeros(1, 3, 32, 32)).shape == (1, size)

    def test_grey_is_taken_for_three_equal_channels(self) -> None:
        """A grey image has the embedding of the same image in RGB."""
        grey, colour = (ResNetAutoencoder(ImageSpec(32, 32, channels)).eval() for channels in (1, 3))
        colour.encoder.load_state_dict(grey.encoder.state_dict())
        images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
        assert torch.equal(grey.encode(images), colour.encode(images.expand(-1, 3, -1, -1)))

    def test_images_are_normalised_as_imagenets_are(self) -> None:
        """The encoder gets an image of ImageNet's mean colour as zeros."""
        network = ResNetAutoencoder(ImageSpec(32, 32, 3)).eval()
        mean = torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1).expand(1, 3, 32, 32)
        assert torch.allclose(network.encode(mean), network.encoder(torch.zeros(1, 3, 32, 32)), atol=1e-5)

    @pytest.mark.parametrize("frozen", [False, True])
    def test_a_frozen_encoder_stays_as_it_is(self, frozen: bool) -> None:
        """Training moves the decoder always, and the encoder, its batch statistics included, only where not frozen."""
        spec, settings = ImageSpec(16, 16, 1), replace(TINY["resnet"], epochs=1)
        start = built("resnet", spec, frozen=frozen).state_dict()
        end = trained("resnet", spec, stripes(8, spec), settings, frozen=frozen).network.state_dict()
        moved = {name for name in start if not torch.equal(start[name], end[name])}
        assert any(name.startswith("decoder.") for name in moved)
        assert any(name.startswith("encoder.") for name in moved) is not frozen

    @pytest.mark.parametrize("depth", [18, 50])
    def test_default_weights_are_torchvisions(self, checkpoints: Path, depth: int) -> None:
        """Training starts from the file in torch's folder, its head left out."""
        name = {18: "resnet18-f37072fd.pth", 50: "resnet50-11ad3fa6.pth"}[depth]
        torch.save(self.stand_in(depth), checkpoints / name)
        network = ResNetAutoencoder(ImageSpec(28, 28, 1), depth, "default")
        network.load_pretrained()
        assert all((value == value.new_tensor(0.5)).all() for value in network.encoder.state_dict().values())

    def test_training_puts_the_weights_in(self, checkpoints: Path) -> None:
        """`fit` starts from the pretrained weights, and what it saved is loaded where they are no longer at hand."""
        file, spec = checkpoints / "resnet18-f37072fd.pth", ImageSpec(16, 16, 1)
        torch.save(self.stand_in(), file)
        parameters = {"weights": "default", "frozen": True}
        network = trained("resnet", spec, stripes(8, spec), replace(TINY["resnet"], epochs=1), **parameters).network
        assert (network.get_parameter("encoder.conv1.weight") == 0.5).all()
        file.unlink()
        detector = Detector(spec, "resnet", parameters, network)
        detector.save(checkpoints)
        assert np.array_equal(load_detector(checkpoints).score(stripes(3, spec)), detector.score(stripes(3, spec)))

    def test_absent_weights_are_named_with_their_place(self, checkpoints: Path) -> None:
        """Offline, one sentence says which file torch looks for, where, and what else can be done."""
        spec = ImageSpec(16, 16, 1)
        with pytest.raises(InputError) as caught:
            trained("resnet", spec, stripes(8, spec), TINY["resnet"], weights="default")
        file = checkpoints / "resnet18-f37072fd.pth"
        assert str(caught.value).startswith(f"torchvision's weights of resnet18 are not at {file} and cannot be down")
        assert str(caught.value).endswith(
            "): put https://download.pytorch.org/models/resnet18-f37072fd.pth there, or do without pretrained weights"
        )

    @pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04damaged"])
    def test_damaged_weights_are_named(self, checkpoints: Path, content: bytes) -> None:
        """A file that is no weights file is to be removed."""
        file = checkpoints / "resnet18-f37072fd.pth"
        file.write_bytes(content)
        with pytest.raises(InputError, match=rf"^{file} cannot be read as weights: remove it$"):
            ResNetAutoencoder(ImageSpec(28, 28, 1), weights="default").load_pretrained()

    def test_weights_that_run_code_are_refused(self, checkpoints: Path) -> None:
        """Weights alone are read: a file with any other object in it is a damaged one."""
        torch.save({"conv1.weight": Path("x")}, checkpoints / "resnet18-f37072fd.pth")
        with pytest.raises(InputError, match=r"resnet18-f37072fd\.pth cannot be read as weights: remove it$"):
            ResNetAutoencoder(ImageSpec(28, 28, 1), weights="default").load_pretrained()

    def test_weights_of_another_network_are_named(self, checkpoints: Path) -> None:
        """A file with other names in it is to be removed, and one name that it lacks is said."""
        torch.save(self.stand_in(18), checkpoints / "resnet34-b627a593.pth")
        with pytest.raises(InputError, match=r"is not torchvision's resnet34 \(it has no layer1\.2\..*\): remove it$"):
            ResNetAutoencoder(ImageSpec(28, 28, 1), 34, "default").load_pretrained()

    @pytest.mark.parametrize(
        ("parameters", "sentence"),
        [
            ({"depth": 101}, "depth is 101: choose one of 18, 34, 50"),
            ({"weights": "imagenet"}, "weights is 'imagenet': choose one of none, default"),
        ],
    )
    def test_unknown_choices_are_refused_with_the_known_ones(self, parameters: dict[str, Any], sentence: str) -> None:
        """A depth or weights that do not exist are named, and so are those that do."""
        with pytest.raises(InputError, match=f"^{sentence}$"):
            build_network("resnet", ImageSpec(28, 28, 1), parameters)

    def test_pretrained_weights_are_for_images(self) -> None:
        """Features have no channels that pretrained weights could know of."""
        with pytest.raises(InputError, match=r"^torchvision's weights are for images, not for 8 channels"):
            build_network("resnet", Features(28, 28, 8), {"weights": "default"})


class TestVariational:
    """Codes that follow a known distribution."""

    def test_the_loss_is_error_plus_divergence(self) -> None:
        """With codes that are standard normal whatever the image, the loss is the error; a shift of the mean by 2 in
        each of 4 numbers adds beta times 8, over the image's 64 pixels."""
        network = VariationalAutoencoder(ImageSpec(8, 8, 1), code_size=4, beta=3.0)
        images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        bias = network.get_parameter("encoder.7.bias")
        for name in ("encoder.7.weight", "encoder.7.bias", "decoder.to_map.0.weight"):
            nn.init.zeros_(network.get_parameter(name))  # codes know nothing of images, nor reconstructions of codes
        error = nn.functional.mse_loss(network(images), images)
        assert torch.allclose(network.training_loss(images, images), error)
        with torch.no_grad():
            bias[:4] = 2.0
        assert torch.allclose(network.training_loss(images, images), error + 3.0 * 8 / 64)

    def test_training_draws_codes_and_scoring_does_not(self) -> None:
        """Two losses of the same images differ, two reconstructions do not."""
        network = VariationalAutoencoder(ImageSpec(8, 8, 1))
        images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            assert network.training_loss(images, images) != network.training_loss(images, images)
            assert torch.equal(network(images), network(images))

    def test_beta_holds_codes_near_the_standard_normal_distribution(self) -> None:
        """The larger the weight of the divergence, the smaller the mean codes of the training images."""
        spec = ImageSpec(12, 12, 1)
        images = stripes(16, spec)
        sizes = []
        for beta in (0.0, 0.1, 10.0):
            network = trained("variational", spec, images, TINY["variational"], beta=beta).network
            assert isinstance(network, VariationalAutoencoder)
            sizes.append(network.encode(torch.from_numpy(images)).square().mean().item())
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[-1] < 0.1

    @pytest.mark.parametrize("beta", [-1.0, float("nan"), float("inf")])
    def test_impossible_weights_of_the_divergence_are_refused(self, beta: float) -> None:
        """A weight below 0 would drive codes apart."""
        with pytest.raises(InputError, match=rf"^beta is {beta!r}: give a number from 0 on$"):
            build_network("variational", ImageSpec(28, 28, 1), {"beta": beta})

    def test_impossible_sizes_are_refused(self) -> None:
        """Code size and widths are whole numbers from 1 on, and there is at least one width."""
        with pytest.raises(InputError, match=r"^code_size is 0: give a whole number from 1 on$"):
            build_network("variational", ImageSpec(28, 28, 1), {"code_size": 0})
        with pytest.raises(InputError, match=r"^widths \[\] cannot be used: give whole numbers from 1 on"):
            build_network("variational", ImageSpec(28, 28, 1), {"widths": []})


class TestRestoration:
    """The U-shaped network gives back what a corruption took away."""

    def test_it_is_small(self) -> None:
        """Its 118,000 parameters train on two cores."""
        network = RestorationNetwork(ImageSpec(128, 128, 1))
        assert sum(parameter.numel() for parameter in network.parameters()) == 118_305

    def test_it_is_not_trained_without_a_corruption(self) -> None:
        """Its skip connections copy the input, defects included, where nothing has to be restored."""
        spec = ImageSpec(16, 16, 1)
        sentence = (
            r"^this network copies its input unless it learns to restore it: set model\.corruption to one of gaussian, "
        )
        with pytest.raises(InputError, match=sentence):
            fit(lambda: RestorationNetwork(spec), stripes(8, spec), stripes(8, spec), TINY["unet"])

    def test_it_restores(self) -> None:
        """Of noise that training never saw, it takes more than half of the squared error away."""
        spec = ImageSpec(16, 16, 1)
        settings = TrainingSettings(epochs=60, batch_size=16, learning_rate=1e-2, device="cpu")
        corruption = CoarseNoise(0.3, cell=4)
        images, others = stripes(48, spec), stripes(16, spec, seed=1)
        network = fit(lambda: RestorationNetwork(spec), images, others, settings, corruption=corruption).network
        clean = torch.from_numpy(stripes(16, spec, seed=2))
        corrupted = corruption(clean, torch.Generator().manual_seed(99))
        with torch.inference_mode():
            left = (network(corrupted) - clean).square().mean()
        assert left < 0.5 * (corrupted - clean).square().mean()
