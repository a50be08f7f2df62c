"""The moments of features in windows: how strong and how varied a texture is."""

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from torch import Tensor

from ae_models.images import FeatureSpec
from ae_models.networks import build_network
from ae_models.networks.moments import WindowMoments, fit_window_moments

SPEC = FeatureSpec(12, 9, 2)


def textures(count: int, seed: int) -> Tensor:
    """Features (count, 2, 12, 9) whose details lie anywhere, of one strength in the mean."""
    return torch.rand(count, *SPEC.shape, generator=torch.Generator().manual_seed(seed))


def errors(network: torch.nn.Module, given: Tensor) -> Tensor:
    """Squared errors (N, h, w), means over the channels."""
    with torch.no_grad():
        return torch.as_tensor((given - network(given)).square().mean(1))


def test_moments_are_those_of_each_window() -> None:
    """By hand: the logarithms of the mean strength and of the deviation, feature by feature, window by window."""
    given = textures(5, 1) - 0.3
    windows = [given[:, :, top : top + 4, left : left + 3] for top in (0, 4, 8) for left in (0, 3, 6)]
    cut = torch.stack([window.flatten(2) for window in windows], dim=2)  # (N, c, 9, positions)
    by_hand = torch.cat([cut.abs().mean(3), cut.std(3, correction=0)], dim=1)
    found = WindowMoments(SPEC, 3).moments(given)
    torch.testing.assert_close(found, (by_hand + 0.001).log().flatten(1))


def test_the_mean_error_is_the_mahalanobis_distance_of_the_moments() -> None:
    """By scikit-learn's covariance of Ledoit and Wolf, over the number of moments."""
    fit, new = textures(40, 1), textures(7, 2)
    network = fit_window_moments([fit[:30], fit[30:]], SPEC, 3)
    of_fit, of_new = (network.moments(each).double().numpy() for each in (fit, new))
    scaled = LedoitWolf().fit((of_fit - of_fit.mean(0)) / of_fit.std(0))
    by_hand = scaled.mahalanobis((of_new - of_fit.mean(0)) / of_fit.std(0)) / of_fit.shape[1]
    np.testing.assert_allclose(errors(network, new).mean((1, 2)).numpy(), by_hand, rtol=1e-4)


def test_it_does_not_matter_where_in_a_window_the_details_lie() -> None:
    """A texture that is shuffled within a window has the same moments."""
    network, given = fit_window_moments([textures(40, 1)], SPEC, 3), textures(7, 2)
    shuffled = given.clone()
    shuffled[:, :, 4:8, 3:6] = given[:, :, 4:8, 3:6].flip(2, 3)
    torch.testing.assert_close(errors(network, shuffled), errors(network, given), rtol=1e-4, atol=1e-4)


def test_the_map_shows_the_window_that_is_unusual() -> None:
    """There the texture is flatter than it ever was, and its mean the same."""
    network, given = fit_window_moments([textures(60, 1)], SPEC, 3), textures(7, 2)
    given[:, :, 8:, :3] = 0.5 + 0.3 * (given[:, :, 8:, :3] - 0.5)
    found = errors(network, given)
    inside = torch.zeros(SPEC.height, SPEC.width, dtype=torch.bool)
    inside[8:, :3] = True
    assert (found[:, inside].amin(1) > found[:, ~inside].amax(1)).all()


@pytest.mark.parametrize("size", [(12, 9, 2), (2, 7, 1), (1, 1, 3)], ids=str)
@pytest.mark.parametrize("windows", [1, 3, 4])
def test_every_position_is_in_one_window(size: tuple[int, int, int], windows: int) -> None:
    """Sides that are no multiple of their number, or hold fewer positions than that."""
    network = WindowMoments(FeatureSpec(*size), windows)
    for side, sides in zip(size, (network.down, network.across), strict=False):
        assert (sides.sum(1) == 1).all()
        held = sides.sum(0)
        assert len(held) == min(side, windows)
        assert held.max() - held.min() <= 1


@pytest.mark.parametrize("count", [2, 3])
def test_images_that_are_all_the_same_leave_finite_errors(count: int) -> None:
    """Nothing varies, and what does is told."""
    same = torch.full((count, *SPEC.shape), 0.5)
    network = fit_window_moments([same], SPEC, 3)
    assert errors(network, same).max() < 1e-6
    found = errors(network, textures(5, 2))
    assert torch.isfinite(found).all()
    assert found.mean((1, 2)).min() > 1


def test_it_comes_back_from_its_weights() -> None:
    """Built by name and given the weights, it errs alike."""
    network = fit_window_moments([textures(20, 1)], SPEC, 3)
    built = build_network("moments", SPEC, {"windows": 3})
    built.load_state_dict(network.state_dict())
    assert torch.equal(errors(built, textures(9, 2)), errors(network, textures(9, 2)))
