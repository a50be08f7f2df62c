"""The squared error that is the distance of a code from those of nominal images."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ae_models.images import FeatureSpec
from ae_models.networks import build_network
from ae_models.networks.code import CodeDistance, fit_code_distance

SPEC = FeatureSpec(6, 5, 2)
SIZES = (4.0, 2.0, 1.0)


def features(count: int, seed: int) -> NDArray[np.float32]:
    """Features (count, 2, 6, 5) that vary along three fixed directions, and a little in all."""
    directions = np.linalg.qr(np.random.default_rng(0).normal(size=(60, 3)))[0].T * np.array(SIZES)[:, None]
    random = np.random.default_rng(seed)
    made = 3 + random.normal(size=(count, 3)) @ directions + 0.01 * random.normal(size=(count, 60))
    shaped: NDArray[np.float32] = made.reshape(count, 2, 6, 5).astype(np.float32)
    return shaped


def errors(network: CodeDistance, given: NDArray[np.float32]) -> NDArray[np.float64]:
    """Squared errors (N,), summed over all there is."""
    tensor = torch.from_numpy(given)
    summed: NDArray[np.float64] = (tensor - network(tensor)).square().sum((1, 2, 3)).double().numpy()
    return summed


def test_the_squared_error_is_the_mahalanobis_distance_of_the_code() -> None:
    """By hand: codes on the singular vectors of the fitted images, over the deviations of the held-out ones."""
    fit, held_out, new = features(200, 1), features(100, 2), features(7, 3)
    network = fit_code_distance(fit, held_out, SPEC, 3, seed=0)
    mean = fit.reshape(200, -1).mean(0)
    components = np.linalg.svd(fit.reshape(200, -1) - mean, full_matrices=False)[2][:3]
    deviations = np.sqrt(np.square((held_out.reshape(100, -1) - mean) @ components.T).mean(0))
    by_hand = np.square((new.reshape(7, -1) - mean) @ components.T / deviations).sum(1)
    np.testing.assert_allclose(errors(network, new), by_hand, rtol=1e-3)


def test_what_it_can_reconstruct_may_still_be_far_off() -> None:
    """Ten deviations along a nominal direction leave no error to principal components, and a hundredfold one here."""
    network = fit_code_distance(features(200, 1), features(100, 2), SPEC, 3, seed=0)
    usual = features(50, 3)
    direction: NDArray[np.float32] = network.components[0].numpy().reshape(2, 6, 5)
    far: NDArray[np.float32] = usual + np.float32(10 * network.deviations[0]) * direction
    assert np.median(errors(network, far)) > 20 * np.median(errors(network, usual))


def test_held_out_images_have_a_mean_of_one_a_component() -> None:
    """Deviations are those of images that the components were not fitted to."""
    network = fit_code_distance(features(20, 1), features(300, 2), SPEC, 3, seed=0)
    assert errors(network, features(300, 2)).mean() == pytest.approx(3, rel=1e-3)


def test_a_code_that_never_varies_has_finite_errors() -> None:
    """Images that are all alike have no deviation to divide by."""
    alike = np.full((10, 2, 6, 5), 0.5, np.float32)
    network = fit_code_distance(alike, alike, SPEC, 2, seed=0)
    assert np.isfinite(errors(network, features(3, 1))).all()


def test_saved_weights_give_the_same_errors() -> None:
    """What it is fitted to is in its weights."""
    network = fit_code_distance(features(50, 1), features(50, 2), SPEC, 3, seed=0)
    again = build_network("code", SPEC, {"code_size": 3})
    again.load_state_dict(network.state_dict())
    assert isinstance(again, CodeDistance)
    assert np.array_equal(errors(again, features(5, 3)), errors(network, features(5, 3)))
