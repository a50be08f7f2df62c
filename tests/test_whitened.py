"""Principal components of whitened features."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ae_models.images import FeatureSpec
from ae_models.networks import build_network
from ae_models.networks.gaussian import fit_positional_gaussian
from ae_models.networks.whitened import WhitenedComponents, fit_whitened_components

SPEC = FeatureSpec(5, 4, 2)


def features(count: int, seed: int) -> Tensor:
    """Features (count, 2, 5, 4) that rise and fall together, as in changing light, and a little alone."""
    random = torch.Generator().manual_seed(seed)
    together = torch.randn(count, 1, 1, 1, generator=random)
    return (
        3
        + together * torch.linspace(1, 2, 40).reshape(SPEC.shape)
        + 0.1 * torch.randn(count, *SPEC.shape, generator=random)
    )


def errors(network: torch.nn.Module, given: Tensor) -> Tensor:
    """Squared errors (N,), summed over all there is."""
    with torch.no_grad():
        return torch.as_tensor((given - network(given)).square().sum((1, 2, 3)))


def test_the_squared_error_is_what_components_leave_of_the_whitened_features() -> None:
    """By hand: the first singular vector of the whitened features of the fitted images."""
    fit, new = features(200, 1), features(7, 2)
    network = fit_whitened_components([fit[:150], fit[150:]], SPEC, 1, seed=0)
    usual = fit_positional_gaussian([fit], SPEC)
    whitened, of_new = ((part - usual(part)).flatten(1).numpy() for part in (fit, new))
    mean = whitened.mean(0)
    components = np.linalg.svd(whitened - mean, full_matrices=False)[2][:1]
    left = (of_new - mean) - (of_new - mean) @ components.T @ components
    np.testing.assert_allclose(errors(network, new).numpy(), np.square(left).sum(1), rtol=1e-3)


def test_what_varies_together_is_no_error_and_one_position_alone_is() -> None:
    """Light that changes more than ever before counts less than one position that changes by half as much."""
    network = fit_whitened_components([features(200, 1)], SPEC, 1, seed=0)
    gaussian = fit_positional_gaussian([features(200, 1)], SPEC)
    other_light = 3 + 4 * torch.linspace(1, 2, 40).reshape(1, *SPEC.shape)
    one_position = torch.full((1, *SPEC.shape), 3.0)
    one_position[0, 0, 2, 2] += 2
    assert errors(network, other_light) < errors(network, one_position)
    assert errors(gaussian, other_light) > errors(gaussian, one_position)


def test_it_comes_back_from_its_weights() -> None:
    """Built by name and given the weights, it errs alike."""
    network = fit_whitened_components([features(50, 1)], SPEC, 3, seed=0)
    built = build_network("whitened_pca", SPEC, {"code_size": 3})
    assert isinstance(built, WhitenedComponents)
    built.load_state_dict(network.state_dict())
    assert errors(built, features(9, 2)).tolist() == errors(network, features(9, 2)).tolist()


@pytest.mark.parametrize("count", [1, 2])
def test_images_that_are_all_the_same_leave_finite_errors(count: int) -> None:
    """There is nothing to whiten by, and no component but an arbitrary one."""
    network = fit_whitened_components([features(1, 1).repeat(count, 1, 1, 1)], SPEC, 1, seed=0)
    assert torch.isfinite(errors(network, features(5, 2))).all()
