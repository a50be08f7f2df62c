"""The lesson's score, against computations by hand."""

import numpy as np
import torch
from torch import Tensor, nn

from ae_models.detector import BATCH_SIZE, Detector
from ae_models.images import ImageSpec
from ae_models.networks import build_network
from ae_models.scoring import Score, ScoreDesign, squared_errors


def mean_squared_errors(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Scores (N,) by the default design."""
    errors = squared_errors(images, reconstructions)
    return torch.as_tensor(Score(ScoreDesign(), *errors.shape[1:])(errors))


def test_an_error_map_is_the_squared_error_at_every_pixel() -> None:
    """Each pixel has the mean over its channels of the squared difference, by hand."""
    image = torch.tensor([[[[0.0, 1.0]], [[0.5, 1.0]]]])  # one image of 2 channels, 1 x 2
    reconstruction = torch.tensor([[[[0.5, 1.0]], [[0.5, 0.0]]]])
    assert squared_errors(image, reconstruction).tolist() == [[[0.125, 0.5]]]


def test_the_score_is_the_lessons_mean_squared_error() -> None:
    """The score of an image is the mean over all its numbers of the squared error, as numpy has it."""
    images, reconstructions = np.random.default_rng(0).random((2, 5, 3, 9, 7), dtype=np.float32)
    by_hand = np.square(images.astype(np.float64) - reconstructions).reshape(5, -1).mean(axis=1)
    scores = mean_squared_errors(torch.from_numpy(images), torch.from_numpy(reconstructions))
    np.testing.assert_allclose(scores, by_hand, rtol=1e-6)


def test_the_score_is_the_mean_of_the_error_map() -> None:
    """What people see in the error map is what the score sums up."""
    images, reconstructions = torch.rand(2, 5, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    maps = squared_errors(images, reconstructions)
    expected = maps.numpy().astype(np.float64).mean(axis=(1, 2))
    np.testing.assert_allclose(mean_squared_errors(images, reconstructions), expected, rtol=1e-12)


def test_scores_are_float64() -> None:
    """Scores that differ beyond float32 stay apart, so that a large image's single pixel counts."""
    images = torch.full((2, 1, 2048, 2048), 0.5)
    images[1, 0, 0, 0] = 0.5001
    scores = mean_squared_errors(images, torch.zeros_like(images))
    assert scores.dtype == torch.float64
    assert scores[0] == 0.25
    assert scores[1] > scores[0]


def test_a_perfect_reconstruction_scores_zero() -> None:
    """A network that returns its input has no error anywhere."""
    spec = ImageSpec(6, 4, 3)
    images = np.random.default_rng(0).random((3, *spec.shape), dtype=np.float32)
    assert Detector(spec, "", {}, nn.Identity()).score(images).tolist() == [0, 0, 0]


def test_scores_do_not_depend_on_the_batch() -> None:
    """An image scores the same alone as among more images than fit one step of the network."""
    spec = ImageSpec(12, 12, 1)
    detector = Detector(spec, "convolutional", {}, build_network("convolutional", spec, {}).eval())
    images = np.random.default_rng(0).random((BATCH_SIZE + 5, *spec.shape), dtype=np.float32)
    alone = np.concatenate([detector.score(images[place : place + 1]) for place in range(len(images))])
    np.testing.assert_allclose(detector.score(images), alone, rtol=1e-6)


def test_no_images_have_no_scores() -> None:
    """Empty in, empty out, of the shapes and kinds that images would give."""
    spec = ImageSpec(6, 4, 3)
    detector, none = Detector(spec, "", {}, nn.Identity()), np.empty((0, *spec.shape), np.float32)
    assert detector.score(none).shape == (0,)
    assert detector.score(none).dtype == np.float64
    assert detector.error_maps(none).shape == (0, 6, 4)
    assert detector.reconstruct(none).shape == (0, 3, 6, 4)


def test_an_image_that_becomes_no_number_has_no_number_as_score() -> None:
    """NaN is not averaged away: it is the threshold that flags it."""
    images = torch.zeros(2, 1, 4, 4)
    reconstructions = images.clone()
    reconstructions[1, 0, 2, 2] = torch.nan
    assert mean_squared_errors(images, reconstructions).isnan().tolist() == [False, True]
