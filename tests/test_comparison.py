"""The difference of two areas under the ROC curve on the same images, against a computation by hand and by chance."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ae_models.comparison import auroc_difference
from ae_models.curves import auroc
from ae_models.errors import InputError

Scores = NDArray[np.float64]


def scores_of(seed: int, first: float, second: float) -> tuple[Scores, Scores, NDArray[np.bool_]]:
    """Two scores that share half of their noise, of 100 nominal and 60 anomalous images moved by so much."""
    random = np.random.default_rng(seed)
    anomalous = np.arange(160) >= 100
    shared = random.normal(size=160)
    return (
        shared + random.normal(size=160) + first * anomalous,
        shared + random.normal(size=160) + second * anomalous,
        anomalous,
    )


def test_it_is_the_difference_of_the_areas() -> None:
    """Whatever the images have in common."""
    first, second, anomalous = scores_of(0, 2.0, 1.0)
    difference = auroc_difference(first, second, anomalous)
    expected = auroc(first, anomalous).value - auroc(second, anomalous).value
    assert difference.value == pytest.approx(expected, abs=1e-12)
    assert difference.low < difference.value < difference.high


def test_the_same_score_twice_differs_by_nothing() -> None:
    """Without any doubt, and is not worse."""
    first, _, anomalous = scores_of(1, 1.0, 1.0)
    difference = auroc_difference(first, first, anomalous)
    assert (difference.value, difference.low, difference.high, difference.worse) == (0, 0, 0, False)


def test_a_clearly_worse_score_is_shown_to_be_so() -> None:
    """And the better one is not."""
    first, second, anomalous = scores_of(2, 0.2, 3.0)
    assert auroc_difference(first, second, anomalous).worse
    assert not auroc_difference(second, first, anomalous).worse


def test_of_equal_scores_one_in_forty_is_called_worse() -> None:
    """Over 2,000 pairs 2.5%, give or take 4 standard errors (1.4%)."""
    worse = [auroc_difference(*scores_of(seed, 1.0, 1.0)).worse for seed in range(2000)]
    assert np.mean(worse) == pytest.approx(0.025, abs=0.014)


def test_images_that_belong_together_widen_the_interval() -> None:
    """Ten copies of each image are no more images."""
    first, second, anomalous = scores_of(3, 1.0, 0.8)
    once = auroc_difference(first, second, anomalous)
    groups = [str(number) for number in range(160)] * 10
    copied = auroc_difference(np.tile(first, 10), np.tile(second, 10), np.tile(anomalous, 10), groups)
    assert copied.high - copied.low == pytest.approx(once.high - once.low, rel=0.02)


def test_a_class_that_is_missing_is_refused() -> None:
    """There is nothing to compare."""
    with pytest.raises(InputError):
        auroc_difference([1.0, 2.0], [1.0, 2.0], [True, True])
