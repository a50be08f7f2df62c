"""The review list: Benjamini-Hochberg by its definition, and what one flag needs. The audit: a fair draw."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ae_models.calibration import p_values
from ae_models.errors import InputError
from ae_models.review import audit_sample, images_needed_for_review, review_list


def by_definition(values: NDArray[np.float64], q: float) -> NDArray[np.bool_]:
    """The k smallest, with the largest k whose k-th smallest is at most k q / m."""
    order = np.sort(values)
    passing = [k for k in range(1, len(order) + 1) if order[k - 1] <= k * q / len(order) + 1e-12]
    return values <= order[max(passing) - 1] if passing else np.zeros(len(values), bool)


@pytest.mark.parametrize("seed", range(20))
def test_the_list_is_that_of_the_definition(seed: int) -> None:
    """Step-up over the sorted p-values, ties included."""
    random = np.random.default_rng(seed)
    values = np.where(random.random(40) < 0.2, random.integers(1, 20, 40), random.integers(1, 1001, 40)) / 1001
    assert review_list(values, 0.2).tolist() == by_definition(values, 0.2).tolist()


def test_at_most_the_wished_share_of_the_list_is_nominal() -> None:
    """Over 2,000 calibrations and batches with 10% defects the mean share is at most 10% + 3 s.e. (0.9%)."""
    random = np.random.default_rng(0)
    shares = []
    for _ in range(2000):
        scores = random.normal(size=100) + 4 * (np.arange(100) < 10)
        listed = review_list(p_values(scores, random.normal(size=1000)), 0.1)
        shares.append(listed[10:].sum() / max(1, listed.sum()))
    assert np.mean(shares) <= 0.109


def test_a_nominal_batch_has_an_empty_list_nearly_always() -> None:
    """Over 2,000 nominal batches a list of any length comes up in at most 10% + 3 s.e. (2%)."""
    random = np.random.default_rng(1)
    lists = [review_list(p_values(random.random(50), random.random(500)), 0.1) for _ in range(2000)]
    assert np.mean([listed.any() for listed in lists]) <= 0.12


@pytest.mark.parametrize(("n_images", "q"), [(100, 0.1), (20, 0.05), (7, 0.3), (1, 0.5)])
def test_one_single_image_makes_the_list_from_the_stated_number_of_calibration_images_on(
    n_images: int, q: float
) -> None:
    """n >= m / q - 1: with one image fewer the most extreme one of the batch is not listed."""
    n = images_needed_for_review(n_images, q)
    scores = np.full(n_images, -1.0)
    scores[0] = 1e9
    assert review_list(p_values(scores, np.arange(n)), q).sum() == 1
    if n > 1:
        assert review_list(p_values(scores, np.arange(n - 1)), q).sum() == 0


def test_an_image_without_a_p_value_is_not_listed() -> None:
    """Unreadable files have no score; they do not count as images either."""
    assert review_list([np.nan, 0.01, np.nan], 0.05).tolist() == [False, True, False]
    assert review_list([np.nan], 0.05).tolist() == [False]
    assert review_list([], 0.05).tolist() == []


@pytest.mark.parametrize("q", [0.0, 1.0])
def test_a_share_out_of_range_is_refused(q: float) -> None:
    """With what to give instead."""
    with pytest.raises(InputError, match=rf"review list is {q:g}: give a number above 0 and below 1, such as 0\.1\."):
        review_list([0.5], q)


class TestAudit:
    """A uniform random sample of the scored images of a batch."""

    def test_it_has_the_wished_size_and_holds_scored_images_alone(self) -> None:
        """Unreadable files have nothing to look at; a batch with fewer images is taken whole."""
        scored = np.arange(100) % 4 != 0
        drawn = audit_sample(scored, 10, "key")
        assert drawn.sum() == 10
        assert drawn.dtype == bool
        assert scored[drawn].all()
        assert audit_sample(scored, 1000, "key").tolist() == scored.tolist()
        assert audit_sample(scored, 0, "key").sum() == 0
        assert audit_sample([], 10, "key").tolist() == []

    def test_a_key_draws_the_same_again_and_another_key_others(self) -> None:
        """So that a batch that is scored again asks for the same labels."""
        scored = np.ones(1000, bool)
        first, again, other = (audit_sample(scored, 20, key) for key in ("a", "a", "b"))
        assert first.tolist() == again.tolist()
        assert first.tolist() != other.tolist()

    def test_what_it_draws_of_a_key_stays_for_ever(self) -> None:
        """The draw is a hash's, no generator's that another version of a library may change."""
        assert np.flatnonzero(audit_sample(np.ones(20, bool), 5, "batch")).tolist() == [2, 11, 12, 17, 18]

    def test_every_image_is_drawn_equally_often(self) -> None:
        """Over 5,000 keys each of 50 images is among the 10 in 20% of draws, give or take 5 standard errors (2.8%)."""
        drawn = np.mean([audit_sample(np.ones(50, bool), 10, str(key)) for key in range(5000)], axis=0)
        np.testing.assert_allclose(drawn, 0.2, atol=0.028)
