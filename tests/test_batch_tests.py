"""The tests of a batch: moved scores by enumeration of all orders, overdispersion by its formula and by simulation."""

from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from ae_models.batch_tests import batchwise_p_value, movement, overdispersion
from ae_models.calibration import FScore, Threshold, conformal_threshold, labelled_threshold
from ae_models.errors import InputError

N, M = 7, 5


def threshold(scores: NDArray[np.float64], rate: float = 0.25) -> Threshold:
    return conformal_threshold(scores, rate)


def orders() -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Calibration and batch scores in every order that they can have: all equally likely on a nominal batch."""
    places = np.arange(N + M, dtype=np.float64)
    chosen = [np.isin(places, batch) for batch in combinations(range(N + M), M)]
    return [(places[~batch], places[batch]) for batch in chosen]


def distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> Fraction:
    """Kolmogorov-Smirnov's, from its definition."""
    if not len(first) or not len(second):
        return Fraction(0)
    steps = [*first.tolist(), *second.tolist()]
    return max(
        abs(Fraction(int((first <= at).sum()), len(first)) - Fraction(int((second <= at).sum()), len(second)))
        for at in steps
    )


# Moved scores


def test_the_movement_is_exact_and_independent_of_the_number_of_flags() -> None:
    """Among all orders with the same number of flags, each p-value is the share with as large a distance or larger."""
    found: dict[int, list[tuple[Fraction, float, float]]] = {}
    for calibration, batch in orders():
        of = threshold(calibration)
        exact = distance(batch[batch < of.value], calibration[calibration < of.value])
        moved = movement(batch, calibration, of)
        found.setdefault(int(of.flags(batch).sum()), []).append((exact, moved.distance, moved.p_value))
    assert len(found) == M + 1
    for same_flags in found.values():
        for exact, measured, p_value in same_flags:
            as_large = sum(other >= exact for other, _, _ in same_flags)
            assert measured == pytest.approx(float(exact))
            assert p_value == pytest.approx(as_large / len(same_flags))


@pytest.mark.parametrize("n", [1, 5, 40, 300])
def test_equal_numbers_below_the_threshold_have_their_exact_law(n: int) -> None:
    """It is scipy's where that does not fail; scores that take turns are as close as can be, and p is 1."""
    calibration, random = np.arange(n + 1.0), np.random.default_rng(10)
    of = conformal_threshold(calibration, 1.5 / (n + 2))
    assert movement(np.arange(n) + 0.5, calibration, of).p_value == pytest.approx(1.0)
    for spread in (0.2, 0.5):
        batch = spread * n * random.random(n)
        expected = ks_2samp(batch, calibration[:n], method="exact").pvalue
        assert movement(batch, calibration, of).p_value == pytest.approx(expected, rel=1e-9, abs=0)


def test_flagged_defects_do_not_move_the_rest() -> None:
    """However high they score, and however many they are, the p-value is that of the images below the threshold."""
    random = np.random.default_rng(0)
    calibration, batch = random.normal(size=500), random.normal(size=200)
    of = conformal_threshold(calibration, 0.01)
    alone = movement(batch[batch < of.value], calibration, of)
    with_defects = movement([*batch[batch < of.value], *np.full(150, 1e6), np.inf, np.nan], calibration, of)
    assert (with_defects.p_value, with_defects.distance) == (alone.p_value, alone.distance)


@pytest.mark.parametrize(("shift", "scale"), [(1.0, 1.0), (-1.0, 1.0), (0.0, 2.5)])
def test_a_shift_or_a_stretch_of_all_scores_is_found(shift: float, scale: float) -> None:
    """Up, down or apart: 200 images of which all moved have a tiny p-value and a large distance."""
    random = np.random.default_rng(1)
    calibration = random.normal(size=500)
    moved = movement(shift + scale * random.normal(size=200), calibration, conformal_threshold(calibration, 0.01))
    assert moved.p_value < 1e-5
    assert moved.distance > 0.15


def test_the_median_shift_is_in_nominal_standard_deviations() -> None:
    """Half a standard deviation of a normal score is told as about 0.5, with its sign; NaN is left out."""
    random = np.random.default_rng(2)
    calibration = 7 + 3 * random.normal(size=20000)
    of = conformal_threshold(calibration, 0.01)
    for shift in (0.5, -0.5):
        batch = [*(7 + 3 * (shift + random.normal(size=20000))), np.nan]
        assert movement(batch, calibration, of).median_shift == pytest.approx(shift, abs=0.05)


@pytest.mark.parametrize("batch", [[], [np.nan], [np.inf, np.inf], [9.0]])
def test_a_batch_without_an_image_below_the_threshold_has_not_moved_there(batch: list[float]) -> None:
    """Nothing can be compared: p is 1 and the distance 0."""
    calibration = np.arange(8.0)
    moved = movement(batch, calibration, threshold(calibration))
    assert (moved.p_value, moved.distance) == (1.0, 0.0)


def test_scores_that_are_all_the_same_have_not_moved() -> None:
    """Neither the distance nor the median in nominal deviations is defined; nothing fails."""
    calibration = np.full(50, 2.0)
    moved = movement(np.full(20, 2.0), calibration, threshold(calibration))
    assert (moved.p_value, moved.distance, moved.median_shift) == (1.0, 0.0, None)


def test_rounded_scores_only_raise_the_p_value() -> None:
    """Over 2,000 nominal batches whose scores are full of ties, p <= 5% in at most 5% + 3 s.e. (1.5%)."""
    random = np.random.default_rng(3)
    below = 0
    for _ in range(2000):
        calibration, batch = random.integers(0, 12, size=60) / 1.0, random.integers(0, 12, size=30) / 1.0
        below += movement(batch, calibration, threshold(calibration)).p_value <= 0.05
    assert below / 2000 <= 0.065


def test_a_large_batch_takes_the_asymptotic_law() -> None:
    """A hundred thousand nominal images are no more often below 5% than they may be, and cost no warning."""
    random = np.random.default_rng(4)
    p_values = []
    for _ in range(100):
        calibration = random.random(1000)
        p_values.append(movement(random.random(100_000), calibration, conformal_threshold(calibration, 0.01)).p_value)
    assert np.mean(np.array(p_values) <= 0.05) <= 0.05 + 0.066


def test_nominal_batches_below_a_labelled_threshold_have_not_moved() -> None:
    """Its value is no calibration score; over 500 batches p <= 5% in at most 5% + 3 s.e. (2.9%)."""
    random = np.random.default_rng(5)
    anomalous, below = np.arange(40) < 15, 0
    for _ in range(500):
        calibration = random.normal(size=60)
        of = labelled_threshold(random.normal(size=40) + anomalous, anomalous, FScore(), calibration_scores=calibration)
        below += movement(random.normal(size=40), calibration, of).p_value <= 0.05
    assert below / 500 <= 0.079


def test_calibration_scores_that_are_not_finite_are_refused() -> None:
    """They are no calibration."""
    with pytest.raises(InputError, match="nominal calibration scores are not finite"):
        movement([1.0], [1.0, np.nan], threshold(np.arange(8.0)))


# Batches that differ


def test_overdispersion_is_tarones_formula() -> None:
    """(sum (x - m p)^2 / (p q) - sum m) / sqrt(2 sum m (m - 1)), in exact arithmetic up to the root."""
    batches = [(3, 100), (0, 50), (7, 120), (1, 80)]
    rate = Fraction(11, 350)
    squares = sum((flagged - scored * rate) ** 2 for flagged, scored in batches) / (rate * (1 - rate))
    pairs = 2 * sum(scored * (scored - 1) for _, scored in batches)
    assert overdispersion(batches) == pytest.approx(float(squares - 350) / pairs**0.5)


def test_overdispersion_has_the_same_digits_in_every_order() -> None:
    """Nominal batches come in no order, and their counts may be numpy's: nothing is rounded but the result."""
    random = np.random.default_rng(9)
    scored = random.integers(1, 10**6, 1000)
    batches = list(zip(random.binomial(scored, 0.01), scored, strict=True))
    found = {overdispersion([batches[place] for place in random.permutation(1000)]) for _ in range(20)}
    assert len(found) == 1
    total, flags = sum(int(m) for _, m in batches), sum(int(x) for x, _ in batches)
    rate = Fraction(flags, total)
    squares = sum((int(x) - int(m) * rate) ** 2 for x, m in batches) / (rate * (1 - rate))
    pairs = 2 * sum(int(m) * (int(m) - 1) for _, m in batches)
    assert found == {float(squares - total) / pairs**0.5}


def test_independent_images_rarely_look_overdispersed() -> None:
    """Over 3,000 histories of 30 batches of 200 at 1%, Z exceeds the normal 1% point in at most 1% + 1.1%."""
    random = np.random.default_rng(6)
    found = [
        overdispersion([(flagged, 200) for flagged in random.binomial(200, 0.01, 30).tolist()]) for _ in range(3000)
    ]
    assert np.mean([z is not None and z > 2.326 for z in found]) <= 0.021


def test_batches_that_belong_together_are_found() -> None:
    """With a correlation of 0.02 between the flags of a batch, 30 batches of 200 are found in more than 90%."""
    random = np.random.default_rng(7)
    found = []
    for _ in range(300):
        rates = random.beta(0.01 * 49, 0.99 * 49, size=30)
        found.append(overdispersion([(flagged, 200) for flagged in random.binomial(200, rates).tolist()]))
    assert np.mean([z is not None and z > 2.326 for z in found]) > 0.9


@pytest.mark.parametrize(
    "batches", [[], [(3, 100)], [(0, 50), (0, 60)], [(5, 5), (2, 2)], [(1, 1), (0, 1)], [(0, 0)] * 2]
)
def test_overdispersion_is_undefined_where_batches_cannot_show_it(batches: list[tuple[int, int]]) -> None:
    """Fewer than two batches, none or all flagged, or single images."""
    assert overdispersion(batches) is None


def test_the_p_value_among_batches_is_the_share_with_as_high_a_rate() -> None:
    """(1 + batches with at least this share of flags) / (K + 1); shares are compared exactly, whatever the sizes."""
    batches = [(1, 100), (3, 300), (0, 10), (7, 100)]
    assert batchwise_p_value(2, 200, batches) == 4 / 5
    assert batchwise_p_value(15, 200, batches) == 1 / 5
    assert batchwise_p_value(0, 200, batches) == 1.0
    assert batchwise_p_value(1, 10, []) == 1.0


def test_the_p_value_among_batches_holds_where_images_depend_on_each_other() -> None:
    """Over 3,000 batches of which each has its own rate, p <= 5% in at most 5% + 3 s.e. (1.2%)."""
    random = np.random.default_rng(8)
    below = 0
    for _ in range(3000):
        flagged = random.binomial(100, random.beta(0.5, 10, size=40)).tolist()
        below += batchwise_p_value(flagged[0], 100, [(other, 100) for other in flagged[1:]]) <= 0.05
    assert below / 3000 <= 0.062


def test_all_orders_are_equally_many() -> None:
    """The enumeration above is complete."""
    assert len(orders()) == comb(N + M, M)
