"""What labelled images say of a score, against scikit-learn, scipy and computations from the definition."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest, norm
from sklearn.metrics import f1_score, fbeta_score, roc_auc_score

from ae_models.curves import Proportion, area_under_roc, auroc, detection_curves, operating_points
from ae_models.errors import InputError

Scores = NDArray[np.float64]
Labels = NDArray[np.bool_]


def overlapping(seed: int, n_nominal: int = 60, n_anomalous: int = 40, shift: float = 1.0) -> tuple[Scores, Labels]:
    random = np.random.default_rng(seed)
    scores = np.concatenate([random.normal(size=n_nominal), random.normal(shift, size=n_anomalous)])
    return scores, np.arange(scores.size) >= n_nominal


@pytest.mark.parametrize(("count", "total"), [(0, 300), (1, 20), (14, 15), (7, 7), (0, 1)])
def test_a_proportion_has_the_exact_interval(count: int, total: int) -> None:
    """The 95% interval of a share equals scipy's exact one, also at 0 and at all."""
    expected = binomtest(count, total).proportion_ci(method="exact")
    proportion = Proportion(count, total)
    assert (proportion.low, proportion.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_proportion_reads_as_a_sentence_part() -> None:
    """A share is printed with its counts and its interval."""
    assert str(Proportion(0, 300)) == "0% (0 of 300; 95% interval 0% to 1.22%)"


@pytest.mark.parametrize(("count", "total"), [(0, 0), (3, 2), (-1, 2), (0.5, 2), (True, 2)])
def test_a_proportion_of_impossible_counts_is_refused(count: object, total: object) -> None:
    """Counts that no images can have are refused with what was given."""
    with pytest.raises(InputError, match=rf"not count {count} of total {total}"):
        Proportion(count, total)  # type: ignore[arg-type]  # also of a wrong type


def test_auroc_equals_the_share_of_ordered_pairs() -> None:
    """The area is the share of pairs whose anomalous image scores higher, ties as one half, as scikit-learn has it."""
    scores, anomalous = overlapping(1)
    rounded = scores.round(1)
    area = roc_auc_score(anomalous, rounded)
    assert auroc(rounded, anomalous).value == pytest.approx(area, abs=1e-12)
    assert area_under_roc(rounded[~anomalous], rounded[anomalous]) == pytest.approx(area, abs=1e-12)


def test_auroc_variance_is_delongs() -> None:
    """Without groups the interval is the logit one of DeLong's variance, computed here from all pairs."""
    scores, anomalous = overlapping(2)
    hit, nominal = scores[anomalous], scores[~anomalous]
    kernel = (hit[:, None] > nominal) + 0.5 * (hit[:, None] == nominal)  # (m, n)
    area = kernel.mean()
    variance = kernel.mean(1).var(ddof=1) / hit.size + kernel.mean(0).var(ddof=1) / nominal.size
    half_width = norm.ppf(0.975) * np.sqrt(variance) / (area * (1 - area))
    low, high = 1 / (1 + np.exp(-(np.log(area / (1 - area)) + np.array([-half_width, half_width]))))
    assert (auroc(scores, anomalous).low, auroc(scores, anomalous).high) == pytest.approx((low, high), abs=1e-12)


def test_auroc_interval_covers_the_true_area() -> None:
    """Over 1,000 samples of two normals the 95% interval misses the true area in 5% (three s.e. are 2%)."""
    truth = norm.cdf(1 / np.sqrt(2))
    intervals = [auroc(*overlapping(seed)) for seed in range(1000)]
    missed = np.mean([not interval.low <= truth <= interval.high for interval in intervals])
    assert missed == pytest.approx(0.05, abs=0.021)


def test_copies_of_an_image_in_one_group_add_no_certainty() -> None:
    """Every image given three times, as one group, leaves the interval as wide as for single images."""
    scores, anomalous = overlapping(3)
    copied = auroc(np.repeat(scores, 3), np.repeat(anomalous, 3), groups=np.repeat(np.arange(scores.size), 3))
    single = auroc(scores, anomalous)
    assert (copied.low, copied.value, copied.high) == pytest.approx((single.low, single.value, single.high), abs=1e-12)


def test_grouped_auroc_interval_is_that_of_a_bootstrap_by_group() -> None:
    """Where parts differ and show both classes, the interval is near a percentile bootstrap of whole parts."""
    random = np.random.default_rng(4)
    part = np.repeat(np.arange(60), 6)
    anomalous = np.tile([False, False, False, True, True, True], 60)
    scores = random.normal(size=60)[part] + random.normal(size=360) + anomalous
    members = np.arange(360).reshape(60, 6)
    drawn = (members[random.integers(60, size=60)].ravel() for _ in range(500))
    low, high = np.quantile([roc_auc_score(anomalous[rows], scores[rows]) for rows in drawn], [0.025, 0.975])
    interval = auroc(scores, anomalous, groups=part)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.015)


def test_a_perfect_score_on_few_images_is_not_certain() -> None:
    """With every anomalous image above every nominal one, the lower end is that of as many disjoint pairs, not 1."""
    interval = auroc([0, 1, 2, 3, 4, 8, 9], [0, 0, 0, 0, 0, 1, 1])
    assert (interval.low, interval.value, interval.high) == pytest.approx((0.025 ** (1 / 2), 1, 1))


def test_a_constant_score_knows_nothing() -> None:
    """One score for all images has an area of one half."""
    assert auroc(np.ones(10), np.arange(10) < 4).value == 0.5


def test_one_anomalous_image_still_has_an_area() -> None:
    """A single anomalous image gives the area, with the interval of a single pair."""
    interval = auroc([0.0, 2.0, 1.0], [0, 0, 1])
    assert interval.value == 0.5
    assert interval.high - interval.low > 0.9


def test_best_f1_and_its_floor_are_scikit_learns() -> None:
    """The best F1 equals the best over all thresholds, and the floor that of flagging every image."""
    scores, anomalous = overlapping(5)
    curves = detection_curves(scores, anomalous)
    assert curves.best_f1 == pytest.approx(max(f1_score(anomalous, scores >= threshold) for threshold in scores))
    assert curves.best_f1_floor == pytest.approx(f1_score(anomalous, np.ones_like(anomalous)))


def test_useless_scores_reach_only_the_floors() -> None:
    """With one score for all images the best F1 and the average precision are the floors."""
    curves = detection_curves(np.zeros(10), np.arange(10) < 3)
    assert (curves.best_f1, curves.average_precision) == (curves.best_f1_floor, curves.average_precision_floor)


def test_curves_hold_what_their_names_say() -> None:
    """ROC and DET tell of the same rates, and each PR threshold has the precision and recall of score >= threshold."""
    scores, anomalous = overlapping(6)
    curves = detection_curves(scores, anomalous)
    threshold = curves.precision_recall_thresholds[30]
    flagged = scores >= threshold
    assert curves.precision[30] == pytest.approx(anomalous[flagged].mean())
    assert curves.precision_recall[30] == pytest.approx(flagged[anomalous].mean())
    at = int(np.flatnonzero(curves.det_thresholds == threshold)[0])
    assert curves.det_false_alarm_rate[at] == pytest.approx(flagged[~anomalous].mean())
    assert curves.det_miss_rate[at] == pytest.approx(1 - flagged[anomalous].mean())
    assert np.trapezoid(curves.recall, curves.false_alarm_rate) == pytest.approx(roc_auc_score(anomalous, scores))
    assert curves.roc_thresholds[0] == np.inf


def test_operating_points_count_every_threshold() -> None:
    """Each point has the counts of score >= threshold, ties included, from nothing flagged to everything."""
    scores, anomalous = overlapping(7)
    scores = scores.round(1)
    points = operating_points(scores, anomalous)
    for threshold, false_alarms, hits in zip(points.thresholds, points.false_alarms, points.hits, strict=True):
        flagged = scores >= threshold
        assert (false_alarms, hits) == (flagged[~anomalous].sum(), flagged[anomalous].sum())
    assert (points.false_alarms[0], points.hits[0]) == (0, 0)
    assert (points.n_nominal, points.n_anomalous) == (60, 40)


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_f_scores_are_scikit_learns(beta: float) -> None:
    """F-beta at every threshold equals scikit-learn's."""
    scores, anomalous = overlapping(8)
    points = operating_points(scores, anomalous)
    expected = [fbeta_score(anomalous, scores >= t, beta=beta, zero_division=0) for t in points.thresholds]
    assert points.f_scores(beta) == pytest.approx(np.array(expected))


@pytest.mark.parametrize(
    ("scores", "anomalous", "message"),
    [
        ([], [], r"There are no labelled scores"),
        ([1.0, 2.0], [True], r"There are 2 labelled scores and 1 labels: give one label for each image"),
        ([1.0, np.nan, np.inf], [0, 1, 1], r"2 of 3 labelled scores are not finite, the first at position 1 \(nan\)"),
        ([1.0, 2.0], [0, 2], r"A label is neither true \(anomalous\) nor false \(nominal\)"),
        ([1.0, 2.0], [True, True], r"All 2 labelled images are anomalous: add nominal ones"),
        ([1.0, 2.0], [False, False], r"All 2 labelled images are nominal: add anomalous ones"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(scores: list[Any], anomalous: list[Any], message: str) -> None:
    """Missing, unequal, non-finite or one-sided labels are refused with what is wrong and what to do."""
    with pytest.raises(InputError, match=message):
        detection_curves(scores, anomalous)


def test_groups_of_another_length_are_refused() -> None:
    """One group is needed for each image."""
    with pytest.raises(InputError, match="There are 4 labelled images and 3 groups"):
        auroc([1, 2, 3, 4], [0, 1, 0, 1], groups=["a", "b", "c"])
