"""Principal components against their definition."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from ae_models.baselines import fit_principal_components
from ae_models.detector import Detector
from ae_models.images import ImageSpec

SPEC = ImageSpec(8, 8, 1)


def digits(count: int, first: int = 0) -> NDArray[np.float32]:
    """Scans of handwritten digits (count, 1, 8, 8) in [0, 1]."""
    scans: NDArray[np.float64] = load_digits().images[first : first + count, None]
    return (scans / 16).astype(np.float32)


def test_reconstructions_are_those_of_the_singular_value_decomposition() -> None:
    """The reconstruction of new images is their projection on numpy's leading right singular vectors."""
    images, new = digits(400), digits(50, first=400)
    flat = images.reshape(400, -1).astype(np.float64)
    leading = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)[2][:8]
    expected = (new.reshape(50, -1) - flat.mean(axis=0)) @ leading.T @ leading + flat.mean(axis=0)
    baseline = fit_principal_components(images, SPEC, code_size=8)
    np.testing.assert_allclose(baseline(torch.from_numpy(new)).numpy().reshape(50, -1), expected, atol=1e-3)


def test_the_training_error_is_the_least_possible() -> None:
    """No linear code of that size does better on the training images (Eckart and Young, Psychometrika 1936)."""
    images = digits(400)
    singular = np.linalg.svd(images.reshape(400, -1) - images.reshape(400, -1).mean(axis=0), compute_uv=False)
    optimum = np.square(singular[8:]).sum() / images.size
    detector = Detector(SPEC, "pca", {}, fit_principal_components(images, SPEC, code_size=8))
    assert detector.score(images).mean() == pytest.approx(optimum, rel=1e-4)


def test_it_beats_the_mean_image() -> None:
    """On images it has not seen its error is far below that of always answering with the mean image."""
    images, new = digits(400), digits(100, first=400)
    detector = Detector(SPEC, "pca", {}, fit_principal_components(images, SPEC))
    assert detector.score(new).mean() < 0.4 * np.square(new - images.mean(axis=0)).mean()


@pytest.mark.parametrize(("count", "components"), [(400, 16), (5, 4), (2, 1), (1, 1)])
def test_components_are_fewer_than_images_and_pixels(count: int, components: int) -> None:
    """At most one less than the images and a quarter of the pixels, and one at least."""
    assert fit_principal_components(digits(count), SPEC, code_size=32).components.shape == (components, 64)


def test_as_many_components_as_images_allow_return_the_images() -> None:
    """Five images lie in the four dimensions around their mean, and come back without loss."""
    images = digits(5)
    baseline = fit_principal_components(images, SPEC, code_size=32)
    np.testing.assert_allclose(baseline(torch.from_numpy(images)).numpy(), images, atol=1e-5)


def test_identical_images_have_their_mean_as_reconstruction() -> None:
    """Images without any variation are no reason to stop: each comes back as it is."""
    images = np.repeat(digits(1), 6, axis=0)
    baseline = fit_principal_components(images, SPEC)
    np.testing.assert_allclose(baseline(torch.from_numpy(images)).numpy(), images, atol=1e-6)


def test_the_seed_decides() -> None:
    """The same images and seed give the same components."""
    images = digits(100)
    first, second = (fit_principal_components(images, SPEC, seed=3).components for _ in range(2))
    assert torch.equal(first, second)


def test_images_are_left_as_they_were() -> None:
    """Fitting does not write into the images that it is given."""
    images = digits(50)
    before = images.copy()
    fit_principal_components(images, SPEC)
    assert np.array_equal(images, before)


def test_colour_images_of_any_shape_keep_it() -> None:
    """Channels, height and width come back in their order."""
    spec = ImageSpec(5, 9, 3)
    images = np.random.default_rng(0).random((12, *spec.shape), dtype=np.float32)
    baseline = fit_principal_components(images, spec, code_size=11)
    np.testing.assert_allclose(baseline(torch.from_numpy(images)).numpy(), images, atol=1e-5)
