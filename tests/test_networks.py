"""Every network of the registry: the images it takes, that all of it learns, and what it says of bad parameters."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from ae_models.detector import Detector
from ae_models.errors import InputError
from ae_models.images import ImageSpec
from ae_models.networks import NETWORKS, ConvolutionalAutoencoder, LinearAutoencoder, build_network
from ae_models.networks.convolutional import DECODERS
from ae_models.training import TrainingSettings, fit

SIZES = [(28, 28), (29, 31), (7, 64), (64, 7), (4, 4), (5, 3), (1, 9), (1, 1)]
every_network = pytest.mark.parametrize("name", NETWORKS)


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
    """The loss's gradient reaches each weight and bias: no layer is left out of the way from image to image."""
    spec = ImageSpec(13, 18, channels)
    network, images = built(name, spec).train(), torch.from_numpy(stripes(8, spec))
    nn.functional.mse_loss(network(images), images).backward()  # type: ignore[no-untyped-call]  # torch does not type it
    without = [key for key, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    assert without == []


@every_network
def test_forward_is_decode_of_encode(name: str) -> None:
    """The code alone suffices for the reconstruction: nothing goes around it."""
    spec = ImageSpec(14, 11, 3)
    network, images = built(name, spec).eval(), torch.from_numpy(stripes(3, spec))
    assert torch.equal(network.decode(network.encode(images)), network(images))  # type: ignore[operator]  # of each network


@every_network
def test_a_network_learns_a_tiny_set(name: str) -> None:
    """On sixteen similar images the loss falls below that of the best constant, their mean image."""
    images = stripes(16, ImageSpec(12, 12, 1))
    settings = TrainingSettings(epochs=60, batch_size=8, learning_rate=1e-2, device="cpu")
    result = fit(lambda: build_network(name, ImageSpec(12, 12, 1), {}), images, images, settings)
    assert result.best.validation_loss < 0.5 * result.epochs[0].validation_loss
    assert result.best.validation_loss < np.square(images - images.mean(axis=0)).mean()


@every_network
def test_a_saved_network_scores_as_before(name: str, tmp_path: Path) -> None:
    """After training, saving and loading, the detector gives exactly the same scores, in evaluation mode."""
    spec = ImageSpec(13, 10, 3)
    images = stripes(9, spec)
    settings = TrainingSettings(epochs=2, device="cpu")
    detector = Detector(spec, name, {}, fit(lambda: build_network(name, spec, {}), images, images, settings).network)
    detector.save(tmp_path)
    loaded = Detector.load(tmp_path)
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
