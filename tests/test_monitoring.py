"""Verdicts on batches: exact tests against enumeration, simulation and scipy, what ails a batch, and in which words."""

import json
from dataclasses import asdict
from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import betabinom, binom, fisher_exact, norm

from ae_models.calibration import FScore, Threshold, conformal_threshold, labelled_threshold
from ae_models.errors import InputError
from ae_models.monitoring import (
    BatchVerdict,
    batch_verdict,
    batches_needed,
    expected_flags,
    smallest_alarming_count,
)


def threshold(n: int = 1000, rate: float = 0.01, confidence: float | None = None) -> Threshold:
    return conformal_threshold(np.arange(n), rate, confidence)


def verdict(
    n_scored: int,
    n_flagged: int,
    n_unreadable: int = 0,
    rate: float = 0.02,
    tolerated: float = 0.01,
    of: Threshold | None = None,
) -> BatchVerdict:
    return batch_verdict(n_scored, n_flagged, n_unreadable, of or threshold(), rate, tolerated)


def alarming_count(m: int, of: Threshold | None = None) -> int:
    count = smallest_alarming_count(m, of or threshold(), 0.02)
    assert count is not None
    return count


# The test of flagged images


@pytest.mark.parametrize("exceedances", [1, 2, 3])
def test_the_flagged_p_value_equals_the_count_of_all_orders(exceedances: int) -> None:
    """Among all orders of 5 calibration and 4 batch images, equally likely, the share with so many flags or more."""
    n, m = 5, 4
    of = threshold(n, exceedances / (n + 1))
    flags_by_order = []
    for batch in combinations(range(n + m), m):  # the places of the batch's images in ascending order of score
        value = [place for place in range(n + m) if place not in batch][of.rank - 1]
        flags_by_order.append(sum(place > value for place in batch))
    for flagged in range(m + 1):
        share = Fraction(sum(flags >= flagged for flags in flags_by_order), comb(n + m, m))
        assert verdict(m, flagged, of=of).flagged_p_value == pytest.approx(float(share), rel=1e-12)


@pytest.mark.parametrize("flagged", [0, 1, 2, 9, 40, 200])
def test_the_flagged_p_value_is_the_beta_binomial_tail(flagged: int) -> None:
    """The tail equals the sum of scipy's beta-binomial probabilities, far out too (where 1 - cdf has no digit left)."""
    tail = betabinom.pmf(np.arange(flagged, 201), 200, 10, 991).sum()
    assert verdict(200, flagged).flagged_p_value == pytest.approx(tail, rel=1e-9, abs=0)


def test_a_batch_test_with_a_labelled_threshold_is_fishers() -> None:
    """With l = 1 + calibration scores above, it is Fisher's exact test of batch flags against calibration flags."""
    random = np.random.default_rng(0)
    scores, anomalous = random.normal(size=80) + 2 * (np.arange(80) < 30), np.arange(80) < 30
    nominal = random.normal(size=200)
    picked = labelled_threshold(scores, anomalous, FScore(), calibration_scores=nominal)
    above = int(picked.flags(nominal).sum())
    table = np.array([[25, 75], [above, 200 - above]])
    expected = fisher_exact(table, alternative="greater").pvalue
    assert verdict(100, 25, of=picked).flagged_p_value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("confidence", [None, 0.95])
def test_nominal_batches_alarm_within_the_budget_where_the_binomial_test_does_not(confidence: float | None) -> None:
    """Over 2,500 calibrations and batches of 1,000: at most 1% + 3 s.e. (0.6%); the binomial test 4.3% (marginal)."""
    random = np.random.default_rng(1)
    alarms = naive_alarms = 0
    alarms_from = alarming_count(1000, threshold(confidence=confidence))
    naive_from = int(binom.ppf(0.99, 1000, 0.01)) + 1
    for _ in range(2500):
        of = conformal_threshold(random.random(1000), 0.01, confidence)
        flagged = int(of.flags(random.random(1000)).sum())
        alarms += flagged >= alarms_from
        naive_alarms += flagged >= naive_from
    assert alarms / 2500 <= 0.016
    assert (naive_alarms / 2500 > 0.03) == (confidence is None)


def test_nominal_batches_with_a_labelled_threshold_alarm_within_the_budget() -> None:
    """Over 800 calibrations with a threshold picked by labels: at most half of the 10% budget + 3 s.e. (2.3%)."""
    random = np.random.default_rng(2)
    anomalous = np.arange(60) < 20
    alarms = 0
    for _ in range(800):
        labelled_scores = random.normal(size=60) + 1.5 * anomalous
        of = labelled_threshold(labelled_scores, anomalous, FScore(), calibration_scores=random.normal(size=100))
        flagged = int(of.flags(random.normal(size=50)).sum())
        alarms += verdict(50, flagged, rate=0.1, of=of).alarm
    assert alarms / 800 <= 0.05 + 0.023


def test_defects_are_noticed() -> None:
    """With n = 1,000 at 1%, a batch of 200 of which 5% flag alarms with a power of 0.88 at a test level of 1%."""
    alarms_from = alarming_count(200)
    assert binom.sf(alarms_from - 1, 200, 0.05) >= 0.85


def test_the_batch_alarms_from_the_smallest_alarming_count_on() -> None:
    """One flag fewer is no alarm, that many is one; the verdict carries the number."""
    for m in (2, 20, 200, 5000):
        count = alarming_count(m)
        assert verdict(m, count).diagnosis == "defects"
        assert verdict(m, count - 1).diagnosis == "none"
        assert verdict(m, count).alarms_from == count


def test_a_batch_can_be_too_small_to_alarm() -> None:
    """When even all images flagged are not rare enough there is no such count, and the verdict says so."""
    small = verdict(1, 1, rate=0.001)
    assert (small.alarm, small.alarms_from) == (False, None)
    assert small.sentences()[0] == (
        "1 of 1 image is flagged, where about 0.01 are expected; so many or more happen by chance once in 100 "
        "nominal batches, and a batch so small cannot alarm."
    )


def test_a_threshold_that_promises_nothing_never_alarms() -> None:
    """When the threshold lies below all calibration scores, any number of flags is expected."""
    of = labelled_threshold([0, 0, 1, 1], [0, 0, 1, 1], FScore(), calibration_scores=np.full(50, 9.0))
    assert verdict(100, 100, of=of).flagged_p_value == 1.0
    assert smallest_alarming_count(100, of, 0.5) is None


def test_expected_flags_are_the_mean_of_the_law() -> None:
    """m l / (n + 1), as the beta-binomial has it."""
    assert expected_flags(200, threshold()) == pytest.approx(betabinom.mean(200, 10, 991))


# Unreadable files


@pytest.mark.parametrize(("unreadable", "total", "tolerated"), [(0, 10, 0.01), (3, 203, 0.01), (6, 104, 0.02)])
def test_the_unreadable_p_value_is_the_exact_binomial_tail(unreadable: int, total: int, tolerated: float) -> None:
    """The share of unreadable files is tested against the tolerated one, over all files of the batch."""
    expected = sum(binom.pmf(k, total, tolerated) for k in range(unreadable, total + 1))
    found = verdict(total - unreadable, 0, unreadable, tolerated=tolerated).unreadable_p_value
    assert found == pytest.approx(expected, rel=1e-9)


def test_no_unreadable_file_is_tolerated_at_zero() -> None:
    """With a tolerated share of 0 one unreadable file alarms, and none does not."""
    assert verdict(100, 0, 1, tolerated=0).diagnosis == "unreadable"
    assert verdict(100, 0, 0, tolerated=0).diagnosis == "none"


def test_a_batch_with_no_readable_image_always_alarms() -> None:
    """Even one single file, at any tolerance, is an alarm when nothing could be scored."""
    only = verdict(0, 0, 1, tolerated=0.9)
    assert (only.diagnosis, only.severity, only.flagged_p_value) == ("unreadable", "critical", 1.0)


def test_the_budget_covers_counts_alone() -> None:
    """Over 20,000 nominal batches with unreadable files at the tolerated rate: at most 3/4 of 5% + 3 s.e. (0.4%)."""
    random = np.random.default_rng(3)
    of = threshold(300, 0.02)
    rates = random.beta(of.exceedances_allowed, of.rank, size=20000)
    unreadable = random.binomial(200, 0.03, size=20000)
    flagged = random.binomial(200 - unreadable, rates)
    cases, times = np.unique(np.stack([flagged, unreadable]), axis=1, return_counts=True)
    alarms = [batch_verdict(200 - int(u), int(f), int(u), of, 0.05, 0.03).alarm for f, u in cases.T]
    assert (times @ alarms) / 20000 <= 0.0415


# The verdict


@pytest.mark.parametrize(
    ("flagged", "unreadable", "diagnosis", "severity"),
    [
        (2, 1, "none", "none"),
        (10, 0, "defects", "warning"),
        (40, 0, "defects", "critical"),
        (2, 9, "unreadable", "warning"),
        (2, 40, "unreadable", "critical"),
        (40, 9, "defects and unreadable", "critical"),
    ],
)
def test_the_diagnosis_says_which_test_alarmed_and_the_severity_how_clearly(
    flagged: int, unreadable: int, diagnosis: str, severity: str
) -> None:
    """A p-value a thousand times below its share of the budget is critical."""
    found = verdict(200, flagged, unreadable)
    assert (found.diagnosis, found.severity, found.alarm) == (diagnosis, severity, diagnosis != "none")
    assert (found.scored, found.flagged, found.unreadable) == (200, flagged, unreadable)


@pytest.mark.parametrize(
    ("counts", "sentences"),
    [
        (
            (200, 14, 0),
            (
                "14 of 200 images are flagged, where about 2 are expected; so many or more happen by chance once in "
                "590,000 nominal batches: look for defects.",
                "All 200 files could be read.",
            ),
        ),
        (
            (200, 40, 40),
            (
                "40 of 200 images are flagged, where about 2 are expected; so many or more happen by chance less than "
                "once in 1,000,000,000 nominal batches: look for defects.",
                "40 of 240 files could not be read, where up to 1% is tolerated; so many or more happen by chance less "
                "than once in 1,000,000,000 nominal batches: check the camera and the transfer of files.",
            ),
        ),
        (
            (1001, 12, 1),
            (
                "12 of 1,001 images are flagged, where about 10 are expected; so many or more happen by chance in 33% "
                "of nominal batches, and such a batch alarms from 23 on.",
                "1 of 1,002 files could not be read, where up to 1% is tolerated; so many or more happen by chance in "
                "100% of nominal batches.",
            ),
        ),
        ((100, 0, 0), ("None of 100 images is flagged, where about 1 is expected.", "All 100 files could be read.")),
        ((1, 0, 0), ("None of 1 image is flagged, where about 0.01 are expected.", "The one file could be read.")),
        (
            (0, 0, 12),
            (
                "No image of the batch could be scored, so nothing is known about defects.",
                "12 of 12 files could not be read, where up to 1% is tolerated: check the camera and the transfer of "
                "files.",
            ),
        ),
    ],
)
def test_the_verdict_in_words(counts: tuple[int, int, int], sentences: tuple[str, str]) -> None:
    """Two sentences with the numbers that carry the verdict, right for one, none and many."""
    assert verdict(*counts).sentences() == sentences


# What ails a batch


def judged(
    scores: NDArray[np.float64], nominal: NDArray[np.float64], rate: float = 0.01, unreadable: int = 0
) -> BatchVerdict:
    of = conformal_threshold(nominal, 0.01)
    flagged = int(of.flags(scores).sum())
    return batch_verdict(len(scores), flagged, unreadable, of, rate, 0.01, scores=scores, calibration_scores=nominal)


def normal(m: int) -> NDArray[np.float64]:
    """The m quantiles in the middle of equal shares of the normal distribution: nominal scores without any luck."""
    return np.asarray(norm.ppf((np.arange(m) + 0.5) / m))


def diagnoses(shift: float, scale: float, defects: float, height: float, m: int, n: int = 1000) -> list[str]:
    """Of 100 batches of m scores, normal but for shift and scale, with defects that lie around a height."""
    random = np.random.default_rng(17)
    found: list[str] = []
    for _ in range(100):
        scores = shift + scale * random.normal(size=m)
        defective = random.random(m) < defects
        scores[defective] = height + random.normal(size=defective.sum())
        found.append(judged(scores, random.normal(size=n)).diagnosis)
    return found


@pytest.mark.parametrize("defects", [0.02, 0.05, 0.1, 0.2])
@pytest.mark.parametrize("m", [50, 200, 1000])
@pytest.mark.parametrize("height", [8.0, 3.0])
def test_a_tail_of_defects_is_named_defects(defects: float, m: int, height: float) -> None:
    """2% to 20% of high scores among nominal ones: where the batch alarms it is for defects, but for 8% of batches."""
    found = diagnoses(0, 1, defects, height, m)
    assert found.count("moved") <= 8
    assert set(found) <= {"none", "moved", "defects"}
    if m * defects >= 40:
        assert found.count("defects") >= 80


@pytest.mark.parametrize(
    ("shift", "scale", "m"),
    [(1, 1, 100), (0.6, 1, 200), (2, 1, 20), (9, 1, 20), (-0.6, 1, 200), (0, 2, 200), (1, 1.5, 200)],
)
def test_a_shift_or_a_stretch_of_all_scores_is_named_moved(shift: float, scale: float, m: int) -> None:
    """A moved location or scale is named so in 90% of batches, also where most images exceed the threshold."""
    assert diagnoses(shift, scale, 0, 0, m).count("moved") >= 90


def test_a_shift_with_defects_on_top_is_named_moved() -> None:
    """Defects cannot be told from the rest while all scores are moved: that is mended first."""
    assert diagnoses(1.5, 1, 0.1, 9, 200).count("moved") == 100


def test_nominal_batches_alarm_within_the_budget_of_all_tests() -> None:
    """Over 1,500 calibrations and batches, unreadable files at the tolerated rate: at most 10% + 3 s.e. (2.3%)."""
    random = np.random.default_rng(18)
    alarms = 0
    for _ in range(1500):
        unreadable = int(random.binomial(100, 0.01))
        alarms += judged(random.normal(size=100 - unreadable), random.normal(size=300), 0.1, unreadable).alarm
    assert alarms / 1500 <= 0.123


def test_a_huge_batch_does_not_alarm_on_trifles() -> None:
    """Twenty thousand images that moved by a tenth of a deviation are no alarm, however sure the movement is."""
    found = judged(normal(20000) + 0.1, normal(5000))
    assert found.moved_p_value is not None
    assert found.moved_p_value < 1e-4
    assert found.diagnosis == "none"
    assert found.sentences()[1] == (
        "Scores below the threshold moved, but by less than matters (Kolmogorov-Smirnov distance 0.04, median up by "
        "0.1 nominal deviations; it matters from 0.15 on); all 20,000 files could be read."
    )


def test_moved_scores_and_unreadable_files_are_both_named() -> None:
    """Two faults of the equipment at once."""
    random = np.random.default_rng(20)
    assert (
        judged(random.normal(size=200) + 2, random.normal(size=1000), unreadable=40).diagnosis == "moved and unreadable"
    )


@pytest.mark.parametrize(("value", "diagnosis"), [(0.0, "none"), (99.0, "none")])
def test_one_image_alone_cannot_alarm_at_one_per_cent(value: float, diagnosis: str) -> None:
    """Whether flagged or not; nothing is said of scores below the threshold where there are none."""
    found = judged(np.array([value]), np.random.default_rng(21).normal(size=1000))
    assert found.diagnosis == diagnosis
    assert any("below the threshold" in sentence for sentence in found.sentences()) == (value == 0)


def test_twenty_images_and_twenty_calibration_images_are_enough_for_a_verdict() -> None:
    """At a rate that so few can promise, a moved batch is named; with scores that are all the same nothing fails."""
    random = np.random.default_rng(22)
    nominal = random.normal(size=20)
    of = conformal_threshold(nominal, 0.05)
    for scores, diagnosis in ((random.normal(size=20) + 9, "moved"), (np.full(20, np.median(nominal)), "moved")):
        flagged = int(of.flags(scores).sum())
        found = batch_verdict(20, flagged, 0, of, 0.05, 0.01, scores=scores, calibration_scores=nominal)
        assert found.diagnosis == diagnosis


def test_scores_that_are_not_numbers_count_as_flagged() -> None:
    """An image that was read but has no score is flagged, and is no sign of movement."""
    random = np.random.default_rng(23)
    scores = random.normal(size=200)
    scores[:30] = np.nan
    found = judged(scores, random.normal(size=1000))
    assert (found.flagged >= 30, found.diagnosis) == (True, "defects")


def test_moved_scores_in_words() -> None:
    """What moved, by how much, and who looks."""
    assert judged(normal(200) + 1, normal(1000)).sentences() == (
        "18 of 200 images are flagged, where about 2 are expected; so many or more happen by chance once in "
        "170,000,000 nominal batches: as all scores moved, these need not be defects.",
        "All scores moved, below the threshold too (Kolmogorov-Smirnov distance 0.36, median up by 1 nominal "
        "deviations; so large or larger happens by chance less than once in 1,000,000,000 nominal batches): check "
        "the camera, the light and the focus; all 200 files could be read.",
    )


def test_scores_that_nearly_all_lie_above_the_threshold_in_words() -> None:
    """Nothing is left below the threshold to compare, which says it all."""
    assert judged(normal(200) + 9, normal(1000)).sentences()[1] == (
        "Most images lie above the threshold, so all scores moved rather than a few, median up by 9 nominal "
        "deviations: check the camera, the light and the focus; all 200 files could be read."
    )


def test_scores_that_did_not_move_in_words() -> None:
    """The distance and how often chance gives it."""
    assert judged(normal(200) + 0.05, normal(1000)).sentences()[1] == (
        "Scores below the threshold are like those of nominal images (Kolmogorov-Smirnov distance 0.02, median up by "
        "0.05 nominal deviations; so large or larger happens by chance in 100% of nominal batches); all 200 files "
        "could be read."
    )


# Batches that differ


def history(k: int, correlation: float, seed: int = 0) -> list[tuple[int, int]]:
    """(flagged, scored) of k nominal batches of 200 at 1%, with this correlation between the flags of a batch."""
    random = np.random.default_rng(seed)
    strength = 1 / correlation - 1
    return [(int(random.binomial(200, rate)), 200) for rate in random.beta(0.01 * strength, 0.99 * strength, size=k)]


def test_batches_that_differ_are_compared_with_whole_batches() -> None:
    """Over 2,000 batches with a correlation of 0.05: within their half of 10% + 3 s.e. (1.5%); images alone: 15%."""
    batches, random, of = history(60, 0.05), np.random.default_rng(25), threshold()
    alarms = naive = 0
    for rate in random.beta(0.01 * 19, 0.99 * 19, size=2000).tolist():
        flagged = int(random.binomial(200, rate))
        alarms += batch_verdict(200, flagged, 0, of, 0.1, 0.01, nominal_batches=batches).alarm
        naive += batch_verdict(200, flagged, 0, of, 0.1, 0.01).alarm
    assert naive / 2000 > 0.1
    assert alarms / 2000 <= 0.065


def test_the_verdict_says_that_batches_differ_and_carries_their_p_value() -> None:
    """With 19 batches or more at a budget of 10% the flags are compared with theirs; the severity stays exact."""
    batches = history(30, 0.2)
    found = batch_verdict(200, 150, 0, threshold(), 0.1, 0.01, nominal_batches=batches)
    assert found.flagged_p_value == 1 / 31
    assert (found.batches_differ, found.nominal_batches, found.severity) == (True, 30, "critical")
    assert found.sentences()[1] == (
        f"Nominal batches differ by more than chance (Tarone's Z {found.overdispersion:.1f} over 30), so the flagged "
        "images are compared with theirs."
    )


def test_with_too_few_batches_one_must_be_worse_than_all_of_them() -> None:
    """A count that is rare by the exact test, but not the highest share ever seen, is no alarm; it is said why."""
    batches = [(0, 200), (1, 200), (0, 200), (16, 200), (0, 200)]
    of = threshold()
    calm, worse = (batch_verdict(200, count, 0, of, 0.01, 0.01, nominal_batches=batches) for count in (16, 17))
    assert (calm.diagnosis, worse.diagnosis) == ("none", "defects")
    assert calm.alarms_from == worse.alarms_from == 17
    assert batch_verdict(200, 16, 0, of, 0.01, 0.01).alarm
    assert calm.sentences()[1] == (
        f"Nominal batches differ by more than chance (Tarone's Z {calm.overdispersion:.1f} over 5): until 199 are "
        "known, a batch alarms only where it is worse than all of them, and nominal ones do up to once in 6."
    )


def test_nominal_batches_that_do_not_differ_change_nothing() -> None:
    """The exact test stays, and the verdict carries Tarone's Z."""
    batches = [(2, 200), (1, 200), (3, 200), (2, 200)]
    found, alone = (batch_verdict(200, 9, 0, threshold(), 0.01, 0.01, nominal_batches=known) for known in (batches, ()))
    assert found.overdispersion is not None
    assert not found.batches_differ
    assert (found.flagged_p_value, found.alarms_from) == (alone.flagged_p_value, alone.alarms_from)
    assert found.sentences() == alone.sentences()


@pytest.mark.parametrize(("rate", "needed"), [(0.01, 199), (0.02, 99), (0.1, 19)])
def test_the_batches_needed_reach_the_budget(rate: float, needed: int) -> None:
    """1 / (K + 1) is at most half of the budget, and with one batch fewer it is not."""
    assert batches_needed(rate) == needed
    assert 1 / (needed + 1) <= rate / 2 < 1 / needed


# What is kept


def test_a_verdict_comes_back_from_its_json() -> None:
    """The ledger keeps it as the JSON of its fields."""
    random = np.random.default_rng(26)
    for found in (judged(random.normal(size=50) + 1, random.normal(size=300)), verdict(200, 3, 2)):
        assert BatchVerdict(**json.loads(json.dumps(asdict(found), allow_nan=False))) == found


def test_a_verdict_of_an_older_version_comes_back() -> None:
    """Rows from before scores were tested lack the newer fields; they read as not tested."""
    names = (
        "moved_p_value",
        "moved_distance",
        "smallest_distance",
        "median_shift",
        "nominal_batches",
        "overdispersion",
    )
    stored = {name: value for name, value in asdict(verdict(200, 14)).items() if name not in names}
    assert BatchVerdict(**stored) == verdict(200, 14)
    assert len(BatchVerdict(**stored).sentences()) == 2


# What is refused


def test_an_empty_batch_is_refused() -> None:
    """A batch without any image has no verdict."""
    with pytest.raises(InputError, match="The batch holds no image, so there is nothing to judge: check its folder"):
        verdict(0, 0, 0)


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ((0.0, 0.01), "The false-alarm rate of batches is 0: give a number above 0 and below 1, such as 0.01"),
        ((1.0, 0.01), "The false-alarm rate of batches is 1: "),
        ((0.02, 1.0), "The tolerated share of unreadable files is 1: give a number of at least 0 and below 1"),
        ((0.02, -0.1), "The tolerated share of unreadable files is -0.1: "),
    ],
)
def test_rates_out_of_range_are_refused(rates: tuple[float, float], message: str) -> None:
    """A budget or tolerance that is no share is refused with what to give."""
    with pytest.raises(InputError, match=message):
        verdict(10, 0, 0, *rates)


@pytest.mark.parametrize("distance", [-0.1, 1.0])
def test_a_smallest_distance_out_of_range_is_refused(distance: float) -> None:
    """With what to give instead."""
    with pytest.raises(
        InputError, match=f"by which scores count as moved is {distance:g}: give a number of at least 0 and"
    ):
        batch_verdict(10, 0, 0, threshold(), 0.01, 0.01, smallest_distance=distance)


@pytest.mark.parametrize("counts", [(10, 11, 0), (10, -1, 0), (10, 0, -1)])
def test_counts_that_cannot_be_are_a_fault_of_the_caller(counts: tuple[int, int, int]) -> None:
    """More flagged than scored, or fewer than none, is a mistake in the program."""
    with pytest.raises(ValueError, match="cannot be"):
        verdict(*counts)
