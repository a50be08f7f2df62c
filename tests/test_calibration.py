"""Thresholds and p-values: what they promise, checked against enumeration, simulation and scikit-learn."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import beta, norm
from sklearn.metrics import fbeta_score

from ae_models.calibration import (
    Cost,
    Criterion,
    FalseAlarmRate,
    FScore,
    Recall,
    Threshold,
    conformal_threshold,
    images_needed,
    labelled_threshold,
    p_values,
)
from ae_models.curves import Proportion, operating_points
from ae_models.errors import InputError

Scores = NDArray[np.float64]
Labels = NDArray[np.bool_]

CRITERIA: list[Criterion] = [FalseAlarmRate(0.05), Recall(0.9), FScore(2.0), Cost(1.0, 20.0)]


def labelled(seed: int, n_nominal: int = 100, n_anomalous: int = 60, shift: float = 2.0) -> tuple[Scores, Labels]:
    random = np.random.default_rng(seed)
    scores = np.concatenate([random.normal(size=n_nominal), random.normal(shift, size=n_anomalous)])
    return scores, np.arange(scores.size) >= n_nominal


def calibration(seed: int = 0, n: int = 300) -> Scores:
    return np.random.default_rng(seed).normal(size=n)


def a_threshold(**changes: Any) -> Threshold:
    return replace(conformal_threshold(np.arange(1.0, 100.0), 0.05), **changes)


def measured(threshold: Threshold) -> tuple[Proportion, Proportion, Proportion]:
    """Precision, recall and false alarms, all there."""
    assert threshold.precision is not None
    assert threshold.recall is not None
    assert threshold.false_alarms is not None
    return threshold.precision, threshold.recall, threshold.false_alarms


# The one comparison


def test_only_scores_above_the_threshold_are_flagged() -> None:
    """A score equal to the threshold is not flagged, the next float64 above it is."""
    threshold = a_threshold()
    scores = [threshold.value, np.nextafter(threshold.value, np.inf), -np.inf, np.inf]
    assert threshold.flags(scores).tolist() == [False, True, False, True]


def test_a_score_that_is_not_a_number_is_flagged() -> None:
    """NaN compares as false with everything, and must still be seen by a person."""
    assert a_threshold().flags([np.nan, 0.0]).tolist() == [True, False]


def test_float32_scores_are_compared_in_float64() -> None:
    """A float32 score below the threshold by less than float32 resolves is not flagged, and one above it is."""
    threshold = a_threshold(value=0.1)
    above = np.float32(0.1)  # 0.10000000149
    assert threshold.flags(np.array([above, np.nextafter(above, np.float32(0))])).tolist() == [True, False]


def test_flags_keep_the_shape_of_the_scores() -> None:
    """Flags come in the shape of the scores, also for none."""
    assert a_threshold().flags(np.zeros((2, 3))).shape == (2, 3)
    assert a_threshold().flags([]).shape == (0,)


# Marginal


def test_the_marginal_threshold_is_an_order_statistic() -> None:
    """Of 99 scores the largest is the threshold at 1%, the fifth largest at 5%, with the rank recorded."""
    scores = np.random.default_rng(0).permutation(np.arange(1.0, 100.0))
    assert [
        (t.value, t.rank, t.exceedances_allowed) for t in (conformal_threshold(scores, r) for r in (0.01, 0.05))
    ] == [
        (99.0, 99, 1),
        (95.0, 95, 5),
    ]


@pytest.mark.parametrize(("n", "rate", "exceedances"), [(99, 0.29, 29), (99, 0.07, 7), (999, 0.001, 1), (9, 0.3, 3)])
def test_rounding_in_n_plus_one_times_the_rate_costs_no_rank(n: int, rate: float, exceedances: int) -> None:
    """(n + 1) rate is a whole number that floating point misses from below or above, and counts as that number."""
    assert conformal_threshold(np.arange(n), rate).exceedances_allowed == exceedances


@pytest.mark.parametrize("n", [100, 299])
@pytest.mark.parametrize("rate", [0.01, 0.05])
def test_the_marginal_rate_is_kept_on_average_over_calibrations(n: int, rate: float) -> None:
    """Over 2,000 calibrations the mean true rate is l / (n + 1), within four standard errors."""
    random = np.random.default_rng(1)
    thresholds = [conformal_threshold(random.exponential(size=n), rate) for _ in range(2000)]
    realised = np.exp([-threshold.value for threshold in thresholds])
    promised = thresholds[0].false_alarm_rate
    assert promised <= rate
    assert realised.mean() == pytest.approx(promised, abs=4 * realised.std() / np.sqrt(2000))


def test_the_band_holds_the_realised_rate_in_nine_calibrations_of_ten() -> None:
    """Over 2,000 calibrations 5% lie below the band and 5% above, within four standard errors (2%)."""
    random = np.random.default_rng(2)
    thresholds = [conformal_threshold(random.exponential(size=300), 0.02) for _ in range(2000)]
    realised = np.exp([-threshold.value for threshold in thresholds])
    low, high = thresholds[0].false_alarm_band
    assert (np.mean(realised < low), np.mean(realised > high)) == pytest.approx((0.05, 0.05), abs=0.02)


@pytest.mark.parametrize(("n", "high"), [(100, 0.0295), (300, 0.021), (1000, 0.0157), (5000, 0.0124)])
def test_the_band_narrows_with_more_images(n: int, high: float) -> None:
    """The 95th percentile of the rate at 1%: known figures."""
    assert conformal_threshold(np.arange(n), 0.01).false_alarm_band[1] == pytest.approx(high, rel=0.02)


def test_ties_only_lower_the_rate() -> None:
    """With scores of ten values only, the mean true rate stays below the promise."""
    random = np.random.default_rng(3)
    realised = [(9 - conformal_threshold(random.integers(10, size=99), 0.25).value) / 10 for _ in range(500)]
    assert np.mean(realised) < 0.25


def test_constant_scores_flag_nothing_but_what_is_above() -> None:
    """When all calibration scores are equal, that score is nominal."""
    threshold = conformal_threshold(np.full(99, 0.5), 0.05)
    assert threshold.flags([0.5, 0.51]).tolist() == [False, True]


# Calibration-conditional


@pytest.mark.parametrize(("n", "rate"), [(300, 0.01), (100, 0.05), (1000, 0.05)])
def test_the_conditional_rate_is_exceeded_in_at_most_the_stated_share(n: int, rate: float) -> None:
    """Of 2,000 calibrations with 90% confidence at most 10% exceed the rate, plus three standard errors (2%)."""
    random = np.random.default_rng(4)
    values = np.array([conformal_threshold(random.exponential(size=n), rate, 0.9).value for _ in range(2000)])
    assert np.mean(np.exp(-values) > rate) <= 0.12


@pytest.mark.parametrize(
    ("n", "rate", "confidence"), [(59, 0.05, 0.95), (500, 0.02, 0.9), (1000, 0.01, 0.5), (40, 0.9, 0.1)]
)
def test_the_conditional_threshold_is_the_lowest_that_keeps_its_promise(n: int, rate: float, confidence: float) -> None:
    """One rank lower would break the promise; found here by trying every rank."""
    threshold = conformal_threshold(np.arange(n), rate, confidence)
    risks = beta.sf(rate, np.arange(1, n + 1), n + 1 - np.arange(1, n + 1))
    assert threshold.exceedances_allowed == np.count_nonzero(risks <= 1 - confidence + 1e-12)


def test_a_confidence_raises_the_threshold() -> None:
    """The conditional threshold is at least the marginal one of the same scores."""
    scores = calibration(n=1000)
    assert conformal_threshold(scores, 0.01, 0.95).value > conformal_threshold(scores, 0.01).value


# How many images


@pytest.mark.parametrize(
    ("rate", "confidence", "n"),
    [(0.01, None, 99), (0.001, None, 999), (0.3, None, 3), (0.05, 0.95, 59), (0.01, 0.95, 299), (0.001, 0.95, 2995)],
)
def test_images_needed_are_exactly_enough(rate: float, confidence: float | None, n: int) -> None:
    """With the number needed there is a threshold, with one image fewer there is none."""
    assert images_needed(rate, confidence) == n
    assert conformal_threshold(np.arange(n), rate, confidence).rank == n
    with pytest.raises(InputError):
        conformal_threshold(np.arange(n - 1), rate, confidence)


@pytest.mark.parametrize(
    ("rate", "confidence", "message"),
    [
        (
            0.001,
            None,
            "A false-alarm rate of 0.1% needs at least 999 nominal calibration images, and there are 300: add 699",
        ),
        (0.005, 0.95, "A false-alarm rate of 0.5% with 95% confidence needs at least 598 nominal calibration images"),
    ],
)
def test_too_few_images_are_refused_with_the_nearest_rate(rate: float, confidence: float | None, message: str) -> None:
    """The message says what is needed, and asking for the rate that it offers works."""
    with pytest.raises(InputError, match=re.escape(message)) as refusal:
        conformal_threshold(np.arange(300), rate, confidence)
    (offer,) = re.findall(r"ask for a rate of ([\d.]+)% or more", str(refusal.value))
    offered = float(offer) / 100
    assert conformal_threshold(np.arange(300), offered, confidence).rank == 300


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([], "There are no nominal calibration scores"),
        ([[1.0, 2.0]], r"There are no nominal calibration scores \(shape \(1, 2\)\)"),
        ([1.0, np.nan], r"1 of 2 nominal calibration scores are not finite, the first at position 1 \(nan\)"),
        ([np.inf, 1.0], r"1 of 2 nominal calibration scores are not finite, the first at position 0 \(inf\)"),
    ],
)
def test_calibration_scores_must_be_finite(scores: list[Any], message: str) -> None:
    """Empty or non-finite calibration scores are refused with the place of the first."""
    with pytest.raises(InputError, match=message):
        conformal_threshold(scores, 0.5)


@pytest.mark.parametrize(
    ("rate", "confidence", "message"),
    [
        (0.0, None, "The false-alarm rate is 0: give a number above 0 and below 1, such as 0.01"),
        (5, None, "The false-alarm rate is 5: "),
        (np.nan, None, "The false-alarm rate is nan: "),
        (0.01, 1.0, "The confidence is 1: give a number above 0 and below 1, such as 0.95"),
    ],
)
def test_rates_out_of_range_are_refused(rate: float, confidence: float | None, message: str) -> None:
    """A rate or confidence that is no share is refused with what to give."""
    with pytest.raises(InputError, match=message):
        conformal_threshold(np.arange(100), rate, confidence)


# p-values


def test_the_p_value_is_the_share_of_calibration_scores_at_least_as_high() -> None:
    """Each p-value equals the count by its definition, ties included."""
    random = np.random.default_rng(5)
    nominal, scores = random.integers(20, size=50), random.integers(-1, 22, size=200)
    assert p_values(scores, nominal).tolist() == [(1 + sum(nominal >= score)) / 51 for score in scores]


def test_scores_that_are_not_numbers_get_the_smallest_p_value() -> None:
    """NaN and infinity are as extreme as possible, minus infinity is not."""
    assert p_values([np.nan, np.inf, -np.inf], np.arange(9)).tolist() == [0.1, 0.1, 1.0]


def test_no_scores_have_no_p_values() -> None:
    """An empty batch gives an empty float64 array."""
    assert p_values([], np.arange(9)).dtype == np.float64
    assert p_values([], np.arange(9)).shape == (0,)


def test_an_image_is_flagged_exactly_where_its_p_value_is_small() -> None:
    """For any n, rate and ties: flagged by the marginal threshold iff p <= l / (n + 1); NaN on the flagged side."""
    random = np.random.default_rng(6)
    for _ in range(300):
        n, rate = int(random.integers(5, 60)), random.uniform(0.2, 0.9)
        nominal = random.integers(8, size=n) / 7
        scores = np.append(random.integers(-1, 10, size=40) / 7, np.nan)
        threshold = conformal_threshold(nominal, rate)
        small = p_values(scores, nominal) <= threshold.false_alarm_rate
        assert (threshold.flags(scores) == small).all()


# Labelled


@pytest.mark.parametrize("seed", range(5))
def test_each_criterion_picks_what_trying_every_threshold_finds(seed: int) -> None:
    """The picked operating point is the best of all thresholds, by a computation from the flags themselves."""
    scores, anomalous = labelled(seed)
    scores = scores.round(1)
    points = operating_points(scores, anomalous)
    flagged = {threshold: scores >= threshold for threshold in points.thresholds}
    picked = [points.thresholds[criterion.pick(points)] for criterion in CRITERIA]
    false_alarms = {t: f[~anomalous].sum() for t, f in flagged.items()}
    misses = {t: (~f)[anomalous].sum() for t, f in flagged.items()}
    f2 = {t: fbeta_score(anomalous, f, beta=2, zero_division=0) for t, f in flagged.items()}
    cost = {t: false_alarms[t] + 20 * misses[t] for t in flagged}
    assert picked[0] == min(t for t in flagged if (1 + false_alarms[t]) / 101 <= 0.05)
    assert picked[1] == max(t for t in flagged if (1 + misses[t]) / 61 <= 0.1)
    assert f2[picked[2]] == pytest.approx(max(f2.values()))
    assert cost[picked[3]] == min(cost.values())


def test_the_wished_rate_and_recall_are_kept_on_average() -> None:
    """Over 400 labelled sets the mean true rate is at most 5%, the mean true recall at least 90% (3 s.e.)."""
    by_rate, by_recall = (
        np.array([labelled_threshold(*labelled(seed), wish, calibration_scores=[0.0]).value for seed in range(400)])
        for wish in (FalseAlarmRate(0.05), Recall(0.9))
    )
    rates, recalls = norm.sf(by_rate), norm.sf(by_recall - 2)
    assert rates.mean() <= 0.05 + 3 * rates.std() / np.sqrt(400)
    assert recalls.mean() >= 0.9 - 3 * recalls.std() / np.sqrt(400)


def test_figures_come_from_the_half_that_did_not_pick() -> None:
    """Of 100 nominal and 60 anomalous images, 50 and 30 pick and the other 50 and 30 are counted."""
    scores, anomalous = labelled(1)
    threshold = labelled_threshold(scores, anomalous, FScore(), calibration_scores=calibration())
    precision, recall, false_alarms = measured(threshold)
    assert (threshold.n_anomalous, recall.total, false_alarms.total) == (30, 30, 50)
    assert (precision.count, precision.total) == (recall.count, recall.count + false_alarms.count)


def test_the_f_score_comes_with_its_floor() -> None:
    """The F-score of the other half and that of flagging all of it are recorded for the criterion that is about it."""
    threshold = labelled_threshold(*labelled(1), FScore(2.0), calibration_scores=calibration())
    precision, recall = (share.value for share in measured(threshold)[:2])
    assert threshold.f_score == pytest.approx(5 * precision * recall / (4 * precision + recall))
    assert threshold.f_score_floor == pytest.approx(5 * (30 / 80) / (4 * (30 / 80) + 1))
    assert labelled_threshold(*labelled(1), Recall(0.9), calibration_scores=calibration()).f_score is None


def test_scikit_learns_at_least_becomes_above() -> None:
    """The image whose score is the picked operating point is flagged: score >= t there is score > value here."""
    scores, anomalous = [0.1, 0.1, 0.7, 0.7], [0, 0, 1, 1]
    threshold = labelled_threshold(scores, anomalous, FScore(), calibration_scores=calibration())
    assert threshold.flags(scores).tolist() == [False, False, True, True]
    assert threshold.value == np.nextafter(0.7, 0)


def test_a_threshold_may_flag_nothing() -> None:
    """Where no false alarm is allowed and nominal images score highest, it is their score; precision is undefined."""
    threshold = labelled_threshold(
        [9, 9, 9, 9, 2, 2], [0, 0, 0, 0, 1, 1], FalseAlarmRate(0.34), calibration_scores=[1, 9, 10]
    )
    assert (threshold.value, threshold.rank, threshold.precision) == (9.0, 2, None)
    assert "Precision there: undefined, as none is flagged." in threshold.sentences()


@pytest.mark.parametrize("seed", range(4))
def test_a_group_is_on_one_side(seed: int) -> None:
    """Two anomalous parts, of nine images and of one: the other half holds the nine or the one, never a mix."""
    anomalous = np.array([True] * 10 + [False] * 40)
    groups = ["a"] * 9 + ["b"] + ["c"] * 30 + ["d"] * 10
    threshold = labelled_threshold(
        np.arange(50.0), anomalous, FScore(), groups=groups, seed=seed, calibration_scores=calibration()
    )
    _, recall, false_alarms = measured(threshold)
    assert recall.total in (9, 1)
    assert false_alarms.total in (30, 10)


def test_both_halves_hold_both_classes_wherever_that_is_possible() -> None:
    """Random groups, mixed and pure, are always halved when each class has two groups."""
    random = np.random.default_rng(7)
    halved = 0
    for _ in range(500):
        groups, anomalous = random.integers(4, size=12), random.random(12) < 0.4
        if min(len(set(groups[anomalous])), len(set(groups[~anomalous]))) < 2:
            continue
        threshold = labelled_threshold(random.random(12), anomalous, FScore(), groups, calibration_scores=[0.5])
        assert threshold.recall is not None
        assert threshold.false_alarms is not None
        assert 0 < threshold.recall.total < anomalous.sum()
        assert 0 < threshold.false_alarms.total < (~anomalous).sum()
        halved += 1
    assert halved > 300


def test_the_same_seed_gives_the_same_threshold() -> None:
    """Halves are drawn by the seed alone."""
    first, again, other = (
        labelled_threshold(*labelled(1), FScore(), seed=seed, calibration_scores=calibration()) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_rank_of_a_labelled_threshold_counts_nominal_calibration_images(criterion: Criterion) -> None:
    """l = 1 + the number of calibration scores above the threshold, so the band is that of a lower order statistic."""
    nominal = calibration()
    threshold = labelled_threshold(*labelled(1), criterion, calibration_scores=nominal)
    assert threshold.n_nominal == 300
    assert threshold.exceedances_allowed == 1 + threshold.flags(nominal).sum()
    assert (threshold.method, threshold.target) == (criterion.method, criterion.target)


def test_a_labelled_threshold_below_all_calibration_scores_promises_nothing() -> None:
    """When every calibration image is flagged, the rate is taken as 1."""
    threshold = labelled_threshold(*labelled(1), FScore(), calibration_scores=calibration() + 100)
    assert (threshold.rank, threshold.false_alarm_rate, threshold.false_alarm_band) == (0, 1.0, (1.0, 1.0))


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        (
            Recall(0.99),
            "A recall of 99% needs at least 99 anomalous images in the half of the labelled images that picks the "
            "threshold, and there are 30: label more, or ask for 96.7% or less.",
        ),
        (
            FalseAlarmRate(0.01),
            "A false-alarm rate of 1% needs at least 99 nominal images in the half of the labelled images that picks "
            "the threshold, and there are 50: label more, or ask for 1.97% or more.",
        ),
    ],
)
def test_a_wish_beyond_the_labelled_images_is_refused_with_the_nearest(criterion: Criterion, message: str) -> None:
    """The message says how many images are needed and what can be had with those there are."""
    with pytest.raises(InputError, match=re.escape(message)):
        labelled_threshold(*labelled(1), criterion, calibration_scores=calibration())


def test_one_group_of_a_class_cannot_be_halved() -> None:
    """With all anomalous images of one part, nothing would be left to measure the threshold."""
    with pytest.raises(InputError, match="The labelled anomalous images form 1 group, and 2 are needed"):
        labelled_threshold([0, 1, 2, 3], [0, 0, 1, 1], FScore(), ["a", "b", "c", "c"], calibration_scores=calibration())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FalseAlarmRate(0), "The false-alarm rate is 0: give a number above 0 and below 1"),
        (lambda: Recall(1), "The recall is 1: give a number above 0 and below 1, such as 0.95"),
        (lambda: FScore(0), "The beta of the F-score is 0: give a number above 0"),
        (lambda: Cost(-1, 1), "The cost of a false alarm is -1: give a number above 0"),
        (lambda: Cost(1, np.inf), "The cost of a miss is inf: give a number above 0"),
    ],
)
def test_senseless_criteria_are_refused(build: Callable[[], Criterion], message: str) -> None:
    """A criterion that no threshold can answer is refused where it is made."""
    with pytest.raises(InputError, match=message):
        build()


# In words


def test_a_marginal_threshold_says_its_promise() -> None:
    """Two sentences: what is flagged, and the rate with its band."""
    assert a_threshold().sentences() == (
        "Images that score above 95 are flagged (wished for: false-alarm rate 5%).",
        "At most 5% of nominal images are flagged, on average over calibrations; "
        "in 9 of 10 calibrations with 99 nominal calibration images the rate is between 2.01% and 9.01%.",
    )


def test_a_conditional_threshold_says_its_confidence() -> None:
    """The rate is stated with the confidence it was asked with."""
    promise = conformal_threshold(np.arange(300), 0.01, 0.95).sentences()[1]
    assert promise.startswith("At most 1% of nominal images are flagged, with 95% confidence;")


def test_a_labelled_threshold_says_what_was_measured() -> None:
    """Recall, precision and false alarms with their intervals, and the F-score beside its floor."""
    threshold = labelled_threshold([0.1, 0.1, 0.7, 0.7], [0, 0, 1, 1], FScore(), calibration_scores=np.arange(9) / 20)
    assert threshold.sentences()[2:] == (
        "Recall on labelled images that did not pick the threshold: 100% (1 of 1; 95% interval 2.5% to 100%).",
        "Precision there: 100% (1 of 1; 95% interval 2.5% to 100%).",
        "False alarms there: 0% (0 of 1; 95% interval 0% to 97.5%).",
        "F-score there: 1.000; flagging every image would give 0.667.",
    )


# Stored


@pytest.mark.parametrize("criterion", [None, *CRITERIA])
def test_a_threshold_comes_back_from_json_unchanged(criterion: Criterion) -> None:
    """Every field, to the last bit, is the same after a round trip."""
    threshold = conformal_threshold(calibration(), 0.02, 0.9)
    if criterion is not None:
        threshold = labelled_threshold(*labelled(1), criterion, calibration_scores=calibration())
    assert Threshold.from_json(threshold.to_json()) == threshold


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": float("nan")}, "value is nan, not a finite number"),
        ({"value": float("inf")}, "value is inf, not a finite number"),
        ({"value": None}, "value is None, not a finite number"),
        ({"value": "0.5"}, "value is '0.5', not a finite number"),
        ({"target": True}, "target is True, not a finite number"),
        ({"rank": 95.0}, "rank is 95.0, not a whole number"),
        ({"rank": 100}, "rank 100 does not exist among 99 nominal images"),
        ({"n_nominal": 0, "rank": 0}, "rank 0 does not exist among 0 nominal images"),
        ({"method": "percentile"}, "method is 'percentile', not one of marginal, conditional"),
        ({"confidence": 0.9}, "method marginal does not go with confidence 0.9"),
        ({"precision": 0.9}, "The threshold's precision is 0.9 in the JSON, not an object"),
        ({"precision": {"count": 1}}, "The threshold's precision lacks total in the JSON"),
        ({"precision": {"count": 3, "total": 2}}, "A proportion needs whole numbers"),
        ({"quantile": 1}, r"The threshold has unknown keys in the JSON \(quantile\)"),
    ],
)
def test_json_of_no_threshold_is_refused(changes: dict[str, Any], message: str) -> None:
    """A value, type or key that no calibration writes is refused by name."""
    entries = json.loads(a_threshold().to_json()) | changes
    with pytest.raises(InputError, match=message):
        Threshold.from_json(json.dumps(entries))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "The threshold is not JSON"),
        ("[]", r"The threshold is \[\] in the JSON"),
        ("{}", "The threshold lacks conf"),
    ],
)
def test_text_that_is_no_threshold_is_refused(text: str, message: str) -> None:
    """Broken, foreign or empty JSON is refused with what to do."""
    with pytest.raises(InputError, match=f"{message}.*calibrate again"):
        Threshold.from_json(text)
