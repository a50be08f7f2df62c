"""How many images a wish takes and what it then gives: false-alarm rates, batch size, smallest defect rate, power."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from math import ceil, floor, log

import numpy as np
from scipy.stats import beta, binom

from ae_models.calibration import ROUNDING, Threshold, conformal_threshold, images_needed
from ae_models.curves import FloatArray, percent
from ae_models.errors import InputError
from ae_models.monitoring import smallest_alarming_count
from ae_models.stream import StreamState, log_e_values

ASSUMED_DETECTION = 0.8  # of defects, where nobody has measured how many the threshold catches
LARGEST_CALIBRATION = 1_000_000  # images; more than that would not change a power by a per mille
LARGEST_BATCH = 1_000_000
LUCK = (np.arange(200) + 0.5) / 200  # (200,) quantiles of a calibration's luck over which is averaged
STREAMS, HORIZON = 500, 500  # simulated streams, and the batches of each
EXAMPLES = {
    "false-alarm rate": 0.01,
    "confidence": 0.95,
    "false-alarm rate of batches": 0.01,
    "smallest defect rate": 0.05,
    "power": 0.9,
    "false-alarm rate of the stream": 0.05,
}


@dataclass(frozen=True)
class Wish:
    """What a pipeline is to keep and to notice; rates and shares in (0, 1)."""

    false_alarm_rate: float  # of images
    confidence: float | None  # that the one calibration keeps it; None: on average over calibrations
    batch_size: int
    batch_false_alarm_rate: float
    smallest_defect_rate: float  # the share of defects in a batch that is to be noticed
    power: float  # the chance with which it is
    detection_rate: float | None = None  # the share of defects that the threshold catches; None where unknown
    stream_false_alarm_rate: float = 0.05

    def __post_init__(self) -> None:
        _check(self)

    @property
    def detection(self) -> float:
        """The share of defects that the threshold catches, or is assumed to."""
        return ASSUMED_DETECTION if self.detection_rate is None else self.detection_rate


@dataclass(frozen=True)
class Plan:
    """What a wish takes and gives."""

    wish: Wish
    images_for_rate: int  # nominal calibration images from which on the false-alarm rate can be promised
    images_for_power: int  # and from which on such batches are noticed with the wished power
    alarms_from: int  # flagged images of a batch, with images_for_power
    expected_power: float  # with images_for_power
    half_alone: float  # the chance that a batch with half as many defects alarms by itself
    half_delay: int | None  # batches within which half of their streams are noticed, also together; None beyond HORIZON

    def power_with(self, n_nominal: int) -> float:
        """The chance that such a batch alarms after a calibration on n_nominal images; 0 where they are too few."""
        if n_nominal < self.images_for_rate:
            return 0.0
        wish = self.wish
        return _power(conformal_threshold(np.arange(n_nominal), wish.false_alarm_rate, wish.confidence), wish)

    def standing(self, n_nominal: int) -> str:
        """Where a pipeline with so many nominal calibration images stands, in one sentence."""
        wish, has = self.wish, f"{n_nominal:,} calibration images"
        if n_nominal < self.images_for_rate:
            rate = percent(wish.false_alarm_rate)
            return f"{has} cannot promise a false-alarm rate of {rate}: that takes {self.images_for_rate:,}."
        noticed = f"With {has} {percent(self.power_with(n_nominal))} of {_batches(wish)} raise an alarm"
        if n_nominal >= self.images_for_power:
            return f"{noticed}; {percent(wish.power)} are wished for."
        return f"{noticed}; {percent(wish.power)} are wished for, which takes {self.images_for_power:,}."

    def sentences(self) -> tuple[str, ...]:
        """The plan for people."""
        wish = self.wish
        sure = "" if wish.confidence is None else f" with {percent(wish.confidence)} confidence"
        known = "it is assumed that " if wish.detection_rate is None else ""
        images, noticed = f"{self.images_for_power:,} nominal calibration images", percent(self.expected_power)
        return (
            f"A false-alarm rate of {percent(wish.false_alarm_rate)}{sure} takes {self.images_for_rate:,} nominal "
            "calibration images.",
            f"To notice {_batches(wish)} with a chance of {percent(wish.power)} takes {images}; {known}the threshold "
            f"catches {percent(wish.detection)} of defects.",
            f"A batch then alarms from {self.alarms_from:,} flagged images on: {noticed} of such batches do, and at "
            f"most {percent(wish.batch_false_alarm_rate)} of nominal ones alarm by any test.",
            f"With half as many defects {percent(self.half_alone)} of batches alarm by themselves, and of streams of "
            f"such batches {_within(self.half_delay)}.",
            f"On nominal batches the stream ever alarms with a chance of at most "
            f"{percent(wish.stream_false_alarm_rate)}.",
        )


def plan(
    false_alarm_rate: float,
    confidence: float | None,
    batch_size: int,
    batch_false_alarm_rate: float,
    smallest_defect_rate: float,
    power: float,
    detection_rate: float | None = None,
    stream_false_alarm_rate: float = 0.05,
    seed: int = 0,
) -> Plan:
    """What a wish takes, for independent images: exact but for `half_delay`, the median of 500 simulated streams.

    The power is that of the test of flagged images, averaged over the luck of the calibration; it grows with the
    calibration images but for the grain of whole flags. Raises InputError, with the nearest wishes that can be met,
    where a million of them do not give it.
    """
    wish = Wish(
        false_alarm_rate,
        confidence,
        batch_size,
        batch_false_alarm_rate,
        smallest_defect_rate,
        power,
        detection_rate,
        stream_false_alarm_rate,
    )
    exceedances = 1 + bisect_left(
        range(1, _most(wish)), power, key=lambda allowed: _power(_allowing(allowed, wish), wish)
    )
    threshold = _allowing(exceedances, wish)
    alarms_from = smallest_alarming_count(batch_size, threshold, batch_false_alarm_rate)
    if alarms_from is None or _power(threshold, wish) < power:
        raise InputError(_impossible(wish))
    half = replace(wish, smallest_defect_rate=smallest_defect_rate / 2)
    return Plan(
        wish,
        images_needed(false_alarm_rate, confidence),
        threshold.n_nominal,
        alarms_from,
        _power(threshold, wish),
        _power(threshold, half),
        _delay(threshold, half, alarms_from, np.random.default_rng(seed)),
    )


def _most(wish: Wish) -> int:
    """The largest l that is tried: that of about a million calibration images."""
    return max(100, int(LARGEST_CALIBRATION * wish.false_alarm_rate))


def _allowing(exceedances: int, wish: Wish) -> Threshold:
    """The threshold, of value 0, from the fewest images whose conformal threshold allows so many exceedances."""
    rate, confidence = wish.false_alarm_rate, wish.confidence
    if confidence is None:
        n = max(1, ceil((exceedances / rate - 1) * (1 - ROUNDING)))
        return Threshold(0.0, "marginal", rate, n, 0, n + 1 - exceedances)
    risk = (1 - confidence) * (1 + ROUNDING)
    enough = range(exceedances, int(10 * (exceedances + 10) / rate / min(1, 1 - confidence)) + 10)
    n = exceedances + bisect_left(
        enough, True, key=lambda n: float(beta.sf(rate, exceedances, n + 1 - exceedances)) <= risk
    )
    return Threshold(0.0, "conditional", rate, n, 0, n + 1 - exceedances, confidence)


def _flag_rates(nominal_rates: FloatArray, wish: Wish) -> FloatArray:
    """The share of flagged images in batches with the smallest defect rate, of the shape of the nominal rates."""
    return (1 - wish.smallest_defect_rate) * nominal_rates + wish.smallest_defect_rate * wish.detection


def _power(threshold: Threshold, wish: Wish) -> float:
    count = smallest_alarming_count(wish.batch_size, threshold, wish.batch_false_alarm_rate)
    if count is None:
        return 0.0
    nominal_rates = np.asarray(beta.ppf(LUCK, threshold.exceedances_allowed, threshold.rank))
    return float(np.mean(binom.sf(count - 1, wish.batch_size, _flag_rates(nominal_rates, wish))))


def _delay(threshold: Threshold, wish: Wish, alarms_from: int, random: np.random.Generator) -> int | None:
    """The batches within which half of the streams are noticed; the evidence is that of batches that did not alarm."""
    nominal_rates = random.beta(threshold.exceedances_allowed, threshold.rank, size=(STREAMS, 1))
    flagged = random.binomial(wish.batch_size, _flag_rates(nominal_rates, wish), size=(STREAMS, HORIZON))
    alone = flagged >= alarms_from
    seen, scored = np.where(alone, 0, flagged).cumsum(axis=1), wish.batch_size * (~alone).cumsum(axis=1)
    evidence = log_e_values(seen, scored, threshold.exceedances_allowed, threshold.n_nominal)
    noticed = alone | (evidence >= -log(StreamState.start(threshold, wish.stream_false_alarm_rate).budget))
    delays = np.where(noticed.any(axis=1), noticed.argmax(axis=1) + 1, HORIZON + 1)
    median = int(np.sort(delays)[STREAMS // 2])
    return median if median <= HORIZON else None


def _impossible(wish: Wish) -> str:
    """Why the wish cannot be met, and the nearest ones that can: of one other batch size, defect rate or power."""
    if wish.detection <= wish.false_alarm_rate:
        caught = (
            f"{percent(wish.detection)} of defects, no more than the {percent(wish.false_alarm_rate)} of nominal images"
        )
        return (
            f"The threshold catches {caught} that it may flag, so no number of images tells them apart: ask for a "
            "detection rate above the false-alarm rate."
        )

    def met(other: Wish) -> bool:
        return _power(_allowing(_most(other), other), other) >= wish.power

    best = _power(_allowing(_most(wish), wish), wish)
    sizes = bisect_left(range(LARGEST_BATCH), True, key=lambda size: met(replace(wish, batch_size=size + 1))) + 1
    shares = (
        bisect_left(range(1, 1000), True, key=lambda share: met(replace(wish, smallest_defect_rate=share / 1000))) + 1
    )
    nearest = [f"batches of {sizes:,}"] if sizes <= LARGEST_BATCH else []
    nearest += [f"defects from {percent(shares / 1000)} on"] if shares < 1000 else []
    nearest += [f"a power of {floor(1000 * best) / 10:g}%"] if best >= 0.001 else []
    return (
        f"{_batches(wish).capitalize()} cannot be noticed with a chance of {percent(wish.power)}, however many images "
        f"calibrate; the nearest that can be had: {', or '.join(nearest)}."
    )


def _within(delay: int | None) -> str:
    if delay is None:
        return f"fewer than half are noticed within {HORIZON:,} batches"
    return f"half are noticed within {delay:,} batch{'' if delay == 1 else 'es'}"


def _batches(wish: Wish) -> str:
    return f"batches of {wish.batch_size:,} with {percent(wish.smallest_defect_rate)} defects"


def _check(wish: Wish) -> None:
    shares = {
        "false-alarm rate": wish.false_alarm_rate,
        "confidence": wish.confidence,
        "false-alarm rate of batches": wish.batch_false_alarm_rate,
        "smallest defect rate": wish.smallest_defect_rate,
        "power": wish.power,
        "false-alarm rate of the stream": wish.stream_false_alarm_rate,
    }
    for name, share in shares.items():
        if share is not None and not 0 < share < 1:
            raise InputError(f"The {name} is {share:g}: give a number above 0 and below 1, such as {EXAMPLES[name]}.")
    if not 0 < wish.detection <= 1:
        raise InputError(
            f"The detection rate is {wish.detection:g}: give a number above 0 and up to 1, such as {ASSUMED_DETECTION}."
        )
    if not 1 <= wish.batch_size <= LARGEST_BATCH:
        raise InputError(f"The batch size is {wish.batch_size:,}: give a number from 1 to {LARGEST_BATCH:,}.")
