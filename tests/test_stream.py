"""Streams: evidence against enumeration and simulation, what a recalibration does, and what is kept."""

from itertools import product
from math import log, pi

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import beta, betabinom, binom, norm

from ae_models.calibration import FScore, Threshold, conformal_threshold, labelled_threshold
from ae_models.errors import InputError
from ae_models.stream import RATIOS, WORSE, ChangeState, StreamState, log_e_values


def threshold(n: int = 1000, rate: float = 0.01, confidence: float | None = None) -> Threshold:
    return conformal_threshold(np.arange(n), rate, confidence)


def stream(rate: float = 0.05, of: Threshold | None = None) -> StreamState:
    return StreamState.start(of or threshold(), rate)


# The e-process


@pytest.mark.parametrize(("flagged", "scored"), [(0, 100), (1, 100), (7, 100)])
def test_the_e_value_is_the_ratio_of_the_integrated_likelihoods(flagged: int, scored: int) -> None:
    """Numerical integration over the rate, under worse laws of it and under the calibration's own, agrees."""

    def likelihood(missed: float) -> float:
        law = beta(10, missed)

        def density(p: float) -> float:
            return float(p**flagged * (1 - p) ** (scored - flagged) * law.pdf(p))

        return quad(density, 0, 1, points=[law.ppf(0.01), law.ppf(0.5), law.ppf(0.99)], epsabs=0)[0]

    expected = np.mean([likelihood(991 / ratio) for ratio in RATIOS]) / likelihood(991)
    assert stream().after(flagged, scored).e_value == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("flagged", "scored"), [(0, 1), (40, 1000), (100, 100), (900, 90000)])
def test_the_e_value_is_the_ratio_of_beta_binomial_chances(flagged: int, scored: int) -> None:
    """As scipy has them, far out too."""
    worse = np.mean(betabinom.pmf(flagged, scored, 10, 991 / RATIOS))
    assert stream().after(flagged, scored).e_value == pytest.approx(worse / betabinom.pmf(flagged, scored, 10, 991))


def test_the_evidence_is_a_martingale_on_nominal_batches() -> None:
    """Over all outcomes of two more batches, weighted by their chance given those before, its mean stays the same."""
    n, exceedances = 50, 2
    start = StreamState(n, exceedances, 0.05).after(1, 10)

    def chance(flagged: int, scored: int, before: StreamState) -> float:
        a, b = exceedances + before.flagged, n + 1 - exceedances + before.scored - before.flagged
        return float(betabinom.pmf(flagged, scored, a, b))

    mean = 0.0
    for first, second in product(range(4), range(6)):
        middle = start.after(first, 3)
        mean += chance(first, 3, start) * chance(second, 5, middle) * middle.after(second, 5).e_value
    assert mean == pytest.approx(start.e_value, rel=1e-6)


def test_a_nominal_stream_ever_alarms_within_its_budget() -> None:
    """Over 2,000 calibrations and streams of 500 batches: at most 5% + 3 s.e. (1.5%)."""
    random = np.random.default_rng(0)
    rates = random.beta(10, 991, size=(2000, 1))
    flagged = random.binomial(100, rates, size=(2000, 500)).cumsum(axis=1)
    evidence = log_e_values(flagged, 100 * np.arange(1, 501), 10, 1000)
    ever = (evidence.max(axis=1) >= log(1 / 0.05)).mean()
    assert 0 < ever <= 0.065


def test_a_nominal_stream_with_a_labelled_threshold_alarms_within_its_budget() -> None:
    """Its rate is what the defects need, whatever the calibration: over 500 streams at most 5% + 3 s.e. (2.9%)."""
    random = np.random.default_rng(1)
    anomalous, alarms = np.arange(60) < 20, 0
    for _ in range(500):
        labelled = random.normal(size=60) + 2 * anomalous
        of = labelled_threshold(labelled, anomalous, FScore(), calibration_scores=random.normal(size=200))
        rate = float(norm.sf(of.value))
        flagged = random.binomial(50, rate, size=300).cumsum()
        evidence = log_e_values(flagged, 50 * np.arange(1, 301), of.exceedances_allowed, 200)
        alarms += evidence.max() >= log(1 / 0.05)
    assert alarms / 500 <= 0.079


def test_five_per_cent_of_defects_are_noticed_within_days() -> None:
    """At a true rate of 5% half of the streams of 100 images a batch alarm within 3 batches."""
    random = np.random.default_rng(2)
    flagged = random.binomial(100, 0.05, size=(500, 20)).cumsum(axis=1)
    alarms = log_e_values(flagged, 100 * np.arange(1, 21), 10, 1000) >= log(1 / 0.05)
    assert np.median(alarms.argmax(axis=1) + 1) <= 3
    assert alarms.any(axis=1).all()


def test_a_long_stream_overflows_nothing() -> None:
    """After ten million images, nominal or all of them flagged, the evidence is a number and the state as small."""
    nominal, worse = stream().after(100_000, 10_000_000), stream().after(10_000_000, 10_000_000)
    assert (nominal.alarm, worse.alarm) == (False, True)
    assert 0 <= nominal.e_value < 1
    assert 1e300 < worse.e_value < float("inf")
    assert len(worse.to_json()) < 200


def test_a_threshold_that_promises_nothing_never_alarms() -> None:
    """Below all calibration scores any number of flags is expected, so there is no evidence."""
    state = StreamState(50, 51, 0.05).after(1000, 1000)
    assert (state.e_value, state.alarm) == (1.0, False)


def test_a_recalibration_starts_anew_with_a_smaller_share_of_the_budget() -> None:
    """Calibration j may spend 6 delta / (pi^2 j^2); over all to come that is delta."""
    state = stream().after(50, 100)
    assert state.alarm
    renewed = state.recalibrated(threshold(300))
    assert renewed == StreamState(300, 3, 0.05, calibration=2)
    assert renewed.budget == pytest.approx(0.05 * 6 / pi**2 / 4)
    assert sum(StreamState(300, 3, 0.05, number).budget for number in range(1, 20001)) == pytest.approx(0.05, rel=1e-4)


def test_a_state_survives_json() -> None:
    """What `to_json` writes `from_json` takes back."""
    state = stream().after(3, 100).after(1, 50)
    assert StreamState.from_json(state.to_json()) == state


@pytest.mark.parametrize(
    ("flagged", "sentence"),
    [
        (2, "e-value 0.37; the stream alarms from 33 on)."),
        (12, f"e-value 1,517, from 33 on an alarm; a nominal stream ever gets there once in 33): {WORSE}."),
        (
            100,
            f"e-value over 1,000,000,000, from 33 on an alarm; a nominal stream ever gets there once in 33): {WORSE}.",
        ),
    ],
)
def test_the_stream_in_words(flagged: int, sentence: str) -> None:
    """What was seen, what was expected, and what to do where it alarms."""
    seen = f"In 1 batch since the calibration {flagged} of 200 images are flagged, where about 2 are expected"
    assert stream().after(flagged, 200).sentence() == f"{seen} ({sentence}"


# The change detector


def test_the_statistic_is_the_recursion_of_shiryaev_and_roberts() -> None:
    """R = (R + 1) L with binomial likelihoods, for each ratio of the odds, and their mean."""
    state, statistics = ChangeState.start(threshold(confidence=0.95), 1000), np.zeros(5)
    worse = RATIOS * 0.01 / (0.99 + RATIOS * 0.01)
    for flagged, scored in [(1, 100), (0, 50), (4, 100), (2, 30)]:
        state = state.after(flagged, scored)
        ratio = binom.pmf(flagged, scored, worse) / binom.pmf(flagged, scored, 0.01)
        statistics = (statistics + 1) * ratio
        assert state.statistic == pytest.approx(statistics.mean(), rel=1e-9)


def test_nominal_batches_raise_an_alarm_at_most_as_often_as_the_run_length_says() -> None:
    """At the full rate, 10,000 batches with a run length of 100 give at most 100 + 3 s.e. (30) alarms."""
    random = np.random.default_rng(3)
    state, alarms = ChangeState.start(threshold(confidence=0.95), 100), 0
    for flagged in random.binomial(100, 0.01, size=10000).tolist():
        state = state.after(flagged, 100)
        alarms += state.alarm
    assert 0 < alarms <= 130


def test_a_change_after_long_calm_is_noticed_where_the_evidence_of_all_time_sleeps() -> None:
    """After 5,000 nominal batches a rate of 5% raises the change alarm in a few batches, and not that of the stream."""
    random = np.random.default_rng(4)
    of = threshold(confidence=0.95)
    change, whole = ChangeState.start(of, 10000), stream(of=of)
    for flagged in random.binomial(100, 0.005, size=5000).tolist():
        change, whole = change.after(flagged, 100), whole.after(flagged, 100)
    for flagged in random.binomial(100, 0.05, size=6).tolist():
        change, whole = change.after(flagged, 100), whole.after(flagged, 100)
        if change.alarm:
            break
    assert change.alarm
    assert not whole.alarm


def test_a_detector_starts_again_after_its_alarm() -> None:
    """The batch after an alarm is the first of a new run."""
    alarmed = ChangeState.start(threshold(confidence=0.95), 100).after(50, 100)
    assert alarmed.alarm
    assert alarmed.after(1, 100) == ChangeState.start(threshold(confidence=0.95), 100).after(1, 100)


def test_a_recalibrated_detector_starts_anew() -> None:
    """With the new threshold's rate; a run length is a rate, so nothing of it is spent."""
    state = ChangeState.start(threshold(confidence=0.95), 100).after(5, 100)
    assert state.recalibrated(threshold(300, 0.05, 0.9)) == ChangeState(0.05, 0.9, 100, calibration=2)


def test_a_threshold_without_a_confidence_is_refused() -> None:
    """Its rate holds on average only, and a run length would not hold at all."""
    with pytest.raises(
        InputError, match=r"needs a threshold that keeps its rate .*: set threshold.confidence, such as 0\.95"
    ):
        ChangeState.start(threshold(), 100)


def test_a_detector_survives_json_and_ten_million_images() -> None:
    """However extreme, its state stays numbers and comes back as it was."""
    state = ChangeState.start(threshold(confidence=0.95), 100).after(10_000_000, 10_000_000)
    assert state.alarm
    assert state.statistic < float("inf")
    assert ChangeState.from_json(state.to_json()) == state


def test_the_detector_in_words() -> None:
    """The statistic beside the run length, and what to do where it alarms."""
    calm = ChangeState.start(threshold(confidence=0.95), 1000).after(1, 100)
    promise = "of 1,000 (nominal batches raise one alarm in 1,000 or more, on average)"
    assert calm.sentence() == f"The change statistic is {calm.statistic:.3g} {promise}."
    assert calm.after(30, 100).sentence() == f"The change statistic is over 1,000,000,000 {promise}: {WORSE}."


# What is refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "The state of a stream is not JSON"),
        ("{}", "The state of a stream holds other keys than batches, "),
        ("[1]", "The state of a stream holds other keys than batches, "),
        (stream().to_json().replace("1000", "-1"), "n_nominal is -1, not a whole number of 0 or more; calibrate again"),
        (stream().to_json().replace('"flagged": 0', '"flagged": 9'), "contradict each other; calibrate again"),
        (stream().to_json().replace("0.05", "5"), "false_alarm_rate is 5, not a number above 0 and below 1"),
    ],
)
def test_a_damaged_state_is_refused(text: str, message: str) -> None:
    """With what is wrong and what to do."""
    with pytest.raises(InputError, match=message):
        StreamState.from_json(text)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"log_statistics": [', '"log_statistics": 3, "x": [', "holds other keys"),
        ("[0.0, 0.0, 0.0, 0.0, 0.0]", "3", "has no list of log_statistics"),
        ("[0.0, ", "[-1.0, ", "not 5 numbers of 0 or more"),
        ("[0.0, ", "[NaN, ", "not 5 numbers of 0 or more"),
        ('"batches": 0', '"batches": 0.5', "batches is 0.5, not a whole number"),
        ("100", "0.5", "average_run_length is 0.5, not a number above 1"),
        ("0.95", "null", "confidence is None, not a number above 0"),
    ],
)
def test_a_damaged_detector_is_refused(old: str, new: str, message: str) -> None:
    """With what is wrong and what to do."""
    text = ChangeState.start(threshold(confidence=0.95), 100).to_json()
    with pytest.raises(InputError, match=message):
        ChangeState.from_json(text.replace(old, new))


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_rate_out_of_range_is_refused(rate: float) -> None:
    """With what to give instead."""
    with pytest.raises(
        InputError, match=r"The false-alarm rate of the stream is .*: give a number above 0 and below 1"
    ):
        stream(rate)


def test_a_run_length_out_of_range_is_refused() -> None:
    """With what to give instead."""
    with pytest.raises(InputError, match="The average run length is 1 batches: give a number above 1, such as 1000"):
        ChangeState.start(threshold(confidence=0.95), 1)


@pytest.mark.parametrize("state", [stream(), ChangeState.start(threshold(confidence=0.95), 100)])
def test_counts_that_cannot_be_are_a_fault_of_the_caller(state: StreamState | ChangeState) -> None:
    """More flagged than scored is a mistake in the program."""
    with pytest.raises(ValueError, match="5 flagged of 4 scored images cannot be"):
        state.after(5, 4)
