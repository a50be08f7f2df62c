"""An error map shows a defect where it is: at every step and size, on average without a bias."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ae_models.detector import Detector, FusedDetector
from ae_models.filters import between, middles
from ae_models.front_ends import FRONT_ENDS, build_front_end, to_pixels
from ae_models.images import ImageSpec

STEPPED: list[tuple[str, dict[str, Any]]] = [
    ("pixels", {}),
    ("pixels", {"standardised": True}),
    ("gradients", {"normalised": "cell"}),
    ("gradients", {"normalised": "image"}),
    ("contrast", {}),
    ("derivatives", {}),
]
SIZES = [(61, 83), (90, 66)]
BIAS = 0.25  # pixels


class Nominal(nn.Module):
    """Reconstructs the features of the one nominal image, whatever it gets."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features

    def forward(self, features: Tensor) -> Tensor:
        """The nominal features (1, c, h, w) for features (N, c, h, w)."""
        return self.features.expand_as(features)


def view(name: str, spec: ImageSpec, parameters: dict[str, Any]) -> nn.Module:
    """A front end that is the same from left and right and from above and below, drawn weights too."""
    torch.manual_seed(0)
    front_end = build_front_end(name, spec, parameters)
    for weights in (each for each in front_end.parameters() if each.dim() == 4):
        mirrored = weights + weights.flip(2)
        weights.copy_((mirrored + mirrored.flip(3)) / 4)
    return front_end


def detector_of(name: str, parameters: dict[str, Any], spec: ImageSpec, grey: float = 0.5) -> Detector:
    """A detector whose one nominal image is plain grey."""
    front_end = view(name, spec, parameters)
    features = front_end(torch.full((1, *spec.shape), grey))
    return Detector(spec, "", {}, Nominal(features), "cpu", name, parameters, fitted_front_end=front_end)


def offsets(detector: Detector | FusedDetector, period: int) -> NDArray[np.float64]:
    """How far below and right of a single bright pixel the middle of the error map lies, (N, 2) in pixels.

    The pixel goes down and to the right through the middle of the image, over two periods of the positions.
    """
    height, width = detector.spec.height, detector.spec.width
    places = np.array([height, width]) // 2 + np.arange(-period, period)[:, None]
    images = np.full((len(places), *detector.spec.shape), 0.5, np.float32)
    images[np.arange(len(places)), :, places[:, 0], places[:, 1]] = 1
    maps = detector.error_maps(images).astype(np.float64)
    maps /= maps.sum((1, 2), keepdims=True)
    middles_down, middles_across = maps.sum(2) @ np.arange(height), maps.sum(1) @ np.arange(width)
    return np.column_stack([middles_down, middles_across]) - places


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("name", "parameters"), STEPPED, ids=str)
def test_a_bright_pixel_is_shown_where_it_is(
    name: str, parameters: dict[str, Any], step: int, size: tuple[int, int]
) -> None:
    """The middle of its error is within half a step, and on average nowhere but there."""
    found = offsets(detector_of(name, {**parameters, "step": step}, ImageSpec(*size, 1)), step)
    assert np.abs(found).max() <= max(BIAS, step / 2)
    np.testing.assert_allclose(found.mean(0), 0, atol=BIAS)


@pytest.mark.parametrize("stages", [[1], [2], [1, 2], [2, 3]], ids=str)
def test_a_backbone_shows_it_where_it_is(stages: list[int]) -> None:
    """Its stages lie one upon the other, however coarse."""
    step = 2 ** (stages[-1] + 1)
    found = offsets(detector_of("backbone", {"stages": stages}, ImageSpec(161, 183, 1)), step)
    assert np.abs(found).max() <= step / 2
    np.testing.assert_allclose(found.mean(0), 0, atol=BIAS)


def test_a_fused_map_shows_it_where_it_is() -> None:
    """Members of several steps agree about the place."""
    spec = ImageSpec(61, 83, 1)
    choices = [("pixels", {"step": 4}), ("gradients", {"step": 4}), ("derivatives", {"step": 2}), ("contrast", {})]
    members = tuple(detector_of(name, parameters, spec) for name, parameters in choices)
    found = offsets(FusedDetector(members, (0.0,) * 4, (1.0,) * 4, (0.25,) * 4, (1.0,) * 4), 4)
    assert np.abs(found).max() <= 2
    np.testing.assert_allclose(found.mean(0), 0, atol=BIAS)


@pytest.mark.parametrize("size", [(61, 83), (29, 30), (8, 5), (1, 7)], ids=str)
@pytest.mark.parametrize("name", FRONT_ENDS)
def test_a_slope_stays_a_slope(name: str, size: tuple[int, int]) -> None:
    """A map of the positions' own places becomes that of the pixels', level beyond the outermost ones."""
    for step in {1, 2, 3, 5, min(size)} & set(range(1, min(size) + 1)):
        spec, parameters = ImageSpec(*size, 1), {} if name == "backbone" else {"step": step}
        front_end = build_front_end(name, spec, parameters)
        down, across = front_end.places  # type: ignore[misc]  # torch types attributes as modules
        maps = torch.from_numpy(down[:, None] + 100 * across).float()[None]
        rows, columns = (
            np.clip(np.arange(side), own[0], own[-1]) for side, own in zip(size, (down, across), strict=True)
        )
        np.testing.assert_allclose(to_pixels(front_end, spec)(maps)[0], rows[:, None] + 100 * columns, rtol=1e-5)


def test_what_has_every_pixel_is_left_alone() -> None:
    """No matrix stands where there is nothing to bring to another size."""
    spec = ImageSpec(9, 14, 1)
    assert isinstance(to_pixels(build_front_end("pixels", spec, {}), spec), nn.Identity)


def test_the_last_window_is_cut() -> None:
    """Of five pixels, by two: the fifth is by itself, and its own middle."""
    assert middles(5, 2).tolist() == [0.5, 2.5, 4.0]


def test_values_between_two_places_are_linear() -> None:
    """And beyond the outermost they are theirs."""
    matrix = between(np.array([1.0, 3.0]), np.arange(5.0))
    assert matrix.tolist() == [[1, 0], [1, 0], [0.5, 0.5], [0, 1], [0, 1]]
