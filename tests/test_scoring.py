"""From errors to scores, against computations by hand: the lesson's mean squared error, and other designs."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from ae_models.detector import BATCH_SIZE, Detector
from ae_models.errors import InputError
from ae_models.images import ImageSpec
from ae_models.networks import build_network
from ae_models.scoring import Score, ScoreDesign, fit_scores, relative_errors, scores_by, squared_errors


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


def errors_of(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Squared errors (count, 9, 7), larger on the right."""
    errors = np.random.default_rng(seed).random((count, 9, 7)) * np.arange(1, 8)
    return errors.astype(np.float32)


def scored(
    design: ScoreDesign, errors: NDArray[np.float32], usual: NDArray[np.float32] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Maps and scores by a design, fitted to the errors `usual` where there are some."""
    score = Score(design, *errors.shape[1:])
    if usual is not None:
        score.fit(torch.from_numpy(usual))
    given = torch.from_numpy(errors)
    return score.maps(given).numpy(), score(given).numpy()


class TestDesigns:
    """Smoothing, positional normalisation and pooling."""

    def test_smoothing_averages_over_a_window(self) -> None:
        """The map is scipy's uniform filter of the errors, borders repeated, and the score its mean."""
        errors = errors_of(4)
        by_hand = ndimage.uniform_filter(errors.astype(np.float64), (1, 3, 3), mode="nearest")
        maps, scores = scored(ScoreDesign(smoothing=3), errors)
        np.testing.assert_allclose(maps, by_hand, rtol=1e-5)
        np.testing.assert_allclose(scores, by_hand.mean((1, 2)), rtol=1e-6)

    def test_smoothing_may_be_wider_than_the_map(self) -> None:
        """A window of 11 over maps of 9 x 7."""
        maps, _ = scored(ScoreDesign(smoothing=11), errors_of(2))
        np.testing.assert_allclose(
            maps, ndimage.uniform_filter(errors_of(2).astype(np.float64), (1, 11, 11), mode="nearest"), rtol=1e-5
        )

    def test_positional_normalisation_divides_by_what_is_usual_there(self) -> None:
        """By the mean error at the position, in nominal images, plus 0.3 of the mean over all positions."""
        errors, usual = errors_of(4), errors_of(50, seed=1)
        mean = usual.astype(np.float64).mean(0)
        by_hand = errors / (mean + 0.3 * mean.mean())
        maps, scores = scored(ScoreDesign(positional=True), errors, usual)
        np.testing.assert_allclose(maps, by_hand, rtol=1e-5)
        np.testing.assert_allclose(scores, by_hand.mean((1, 2)), rtol=1e-6)

    def test_positional_normalisation_is_of_smoothed_errors(self) -> None:
        """What is usual is smoothed as the errors are."""
        errors, usual = errors_of(4), errors_of(50, seed=1)
        smooth = ndimage.uniform_filter(errors.astype(np.float64), (1, 3, 3), mode="nearest")
        mean = ndimage.uniform_filter(usual.astype(np.float64), (1, 3, 3), mode="nearest").mean(0)
        maps, _ = scored(ScoreDesign(3, True), errors, usual)
        np.testing.assert_allclose(maps, smooth / (mean + 0.3 * mean.mean()), rtol=1e-5)

    def test_where_nominal_images_never_err_scores_stay_finite(self) -> None:
        """Perfect reconstructions of all nominal images leave nothing to divide by but a rounding error."""
        nothing = np.zeros((5, 9, 7), np.float32)
        _, scores = scored(ScoreDesign(positional=True), nothing, nothing)
        assert scores.tolist() == [0] * 5
        _, scores = scored(ScoreDesign(positional=True), errors_of(1), nothing)
        assert 1e9 < scores[0] < np.inf

    def test_without_positional_normalisation_fitting_changes_nothing(self) -> None:
        """Designs that need no nominal images do not look at them."""
        _, before = scored(ScoreDesign(3, False, 0.1), errors_of(4))
        _, after = scored(ScoreDesign(3, False, 0.1), errors_of(4), errors_of(50, seed=1))
        assert before.tolist() == after.tolist()

    @pytest.mark.parametrize(("power", "factor"), [(0.0, 9.0), (0.5, 3.0), (1.0, 1.0)])
    def test_energy_makes_contrast_count_less(self, power: float, factor: float) -> None:
        """An image of three times the values has nine times the squared error, and over its energy the same."""
        features = 0.2 + torch.rand(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
        errors = squared_errors(features, torch.zeros_like(features))
        once = relative_errors(errors, features, power)
        thrice = relative_errors(9 * errors, 3 * features, power)
        assert float((thrice / once).mean()) == pytest.approx(factor, rel=1e-3)

    def test_a_black_image_has_a_finite_error(self) -> None:
        """It has no energy to divide by."""
        black = torch.zeros(1, 1, 3, 3)
        assert torch.isfinite(relative_errors(torch.ones(1, 3, 3), black, 1.0)).all()

    @pytest.mark.parametrize(("power", "factor"), [(0.0, 9.0), (0.5, 3.0), (1.0, 1.0)])
    def test_an_image_that_is_hard_throughout_counts_less(self, power: float, factor: float) -> None:
        """One that errs nine times as much everywhere, and with the power 1 by how it differs from itself only."""
        once, ninefold = (scored(ScoreDesign(relative=power), times * errors_of(4))[1] for times in (1, 9))
        np.testing.assert_allclose(ninefold / once, factor, rtol=1e-5)

    def test_what_an_image_is_divided_by_is_its_geometric_mean(self) -> None:
        """Which one bright position in 63 hardly moves; a hundredth of the mean is added, so that zeros do not."""
        errors = errors_of(4).astype(np.float64)
        errors[:, 0, 0], errors[:, 1, 1] = 100, 0
        faintest = 0.01 * errors.mean((1, 2), keepdims=True)
        typical = np.exp(np.log(errors + faintest).mean((1, 2), keepdims=True))
        maps, _ = scored(ScoreDesign(relative=1), errors.astype(np.float32))
        np.testing.assert_allclose(maps, errors / typical, rtol=1e-4)

    def test_an_image_without_any_error_scores_nothing(self) -> None:
        """There is nothing to divide by, and nothing to divide."""
        assert scored(ScoreDesign(relative=1), np.zeros((2, 9, 7), np.float32))[1].tolist() == [0, 0]

    @pytest.mark.parametrize(("pooling", "kept"), [(0.5, 32), (0.1, 6), (0.01, 1), (1e-9, 1)])
    def test_pooling_is_the_mean_of_the_largest(self, pooling: float, kept: int) -> None:
        """Of that share of the 63 positions, of one at least."""
        errors = errors_of(4)
        _, scores = scored(ScoreDesign(pooling=pooling), errors)
        by_hand = np.sort(errors.reshape(4, -1).astype(np.float64))[:, -kept:].mean(1)
        np.testing.assert_allclose(scores, by_hand, rtol=1e-12)

    @pytest.mark.parametrize("design", [ScoreDesign(3), ScoreDesign(1, True), ScoreDesign(5, True, 0.05)], ids=str)
    def test_no_number_stays_no_number(self, design: ScoreDesign) -> None:
        """NaN at one position is neither smoothed away nor left out of the largest; other images are not touched."""
        errors = errors_of(3)
        errors[1, 4, 4] = np.nan
        _, scores = scored(design, errors, errors_of(50, seed=1))
        assert np.isnan(scores).tolist() == [False, True, False]

    def test_what_is_usual_is_a_weight(self) -> None:
        """It is saved and loaded with the network."""
        score = Score(ScoreDesign(positional=True), 9, 7)
        score.fit(torch.from_numpy(errors_of(50)))
        loaded = Score(ScoreDesign(positional=True), 9, 7)
        loaded.load_state_dict(score.state_dict())
        given = torch.from_numpy(errors_of(4))
        assert loaded(given).tolist() == score(given).tolist()


class TestSeveralDesigns:
    """Scores by several designs at once, of errors that come in parts."""

    DESIGNS = (
        ScoreDesign(),
        ScoreDesign(3, True, 1.0),
        ScoreDesign(3, True, 0.05),
        ScoreDesign(3, False, 0.05),
        ScoreDesign(5, True, 0.05, relative=0.5),
    )

    def test_each_is_what_it_is_alone(self) -> None:
        """To the rounding of sums."""
        usual, errors = torch.from_numpy(errors_of(50, seed=1)), torch.from_numpy(errors_of(7))
        scores = [Score(design, 9, 7) for design in self.DESIGNS]
        fit_scores(scores, torch.split(usual, 16))
        together = scores_by(scores, torch.split(errors, 3))
        alone = [scored(design, errors.numpy(), usual.numpy())[1] for design in self.DESIGNS]
        np.testing.assert_allclose(together, alone, rtol=1e-6)

    def test_errors_are_not_gone_through_where_nothing_is_taken_from_them(self) -> None:
        """Without a positional design there is no need to compute them."""
        parts = iter([torch.zeros(1, 9, 7)])
        fit_scores([Score(ScoreDesign(3), 9, 7)], parts)
        assert next(parts, None) is not None


class TestDesignAsJson:
    """A design is stored as JSON and read back strictly."""

    def test_it_comes_back(self) -> None:
        """Through text and back it is the same."""
        design = ScoreDesign(5, True, 0.01)
        assert ScoreDesign.from_json(json.loads(json.dumps(design.to_json()))) == design

    @pytest.mark.parametrize(
        "stored", [{}, {"smoothing": 1, "positional": False}, {**ScoreDesign().to_json(), "gain": 1}]
    )
    def test_missing_and_unknown_keys_are_refused(self, stored: dict[str, Any]) -> None:
        """The keys that there must be and those that there are."""
        with pytest.raises(InputError) as caught:
            ScoreDesign.from_json(stored)
        assert str(caught.value) == (
            "A score design holds exactly ['energy', 'pooling', 'positional', 'relative', 'smoothing'], "
            f"but this one holds {sorted(stored)}."
        )

    @pytest.mark.parametrize("smoothing", [0, 2, -1, 3.0, True, None])
    def test_an_impossible_window(self, smoothing: Any) -> None:
        """A window has a middle."""
        with pytest.raises(InputError) as caught:
            ScoreDesign(smoothing=smoothing)
        assert str(caught.value) == f"smoothing is {smoothing!r}: give an odd number of positions, 1 for none"

    @pytest.mark.parametrize("key", ["energy", "relative"])
    def test_an_impossible_power(self, key: str) -> None:
        """From none of it to all of it."""
        with pytest.raises(InputError) as caught:
            ScoreDesign(**{key: 1.5})  # type: ignore[arg-type]  # whatever the key is
        assert str(caught.value) == f"{key} is 1.5: give a power from 0 (not used) to 1"

    @pytest.mark.parametrize("pooling", [0, -0.1, 1.1, float("nan")])
    def test_an_impossible_share(self, pooling: float) -> None:
        """Some positions count, and no more than there are."""
        with pytest.raises(InputError) as caught:
            ScoreDesign(pooling=pooling)
        assert str(caught.value) == f"pooling is {pooling!r}: give a share above 0 and at most 1"
