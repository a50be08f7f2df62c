"""Thresholds on the anomaly score, from nominal images alone or from labelled ones, and the p-value of an image.

Throughout: n nominal calibration scores S_(1) <= ... <= S_(n), a threshold of rank k, and l = n + 1 - k. Calibration
images must not have taken part in training, early stopping or the choice of the score.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import asdict, dataclass, fields, replace
from math import ceil, floor, inf, isfinite, log, log1p, log10
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ae_models.curves import (
    BoolArray,
    FloatArray,
    Groups,
    OperatingPoints,
    Proportion,
    f_score,
    finite_scores,
    group_numbers,
    labelled_scores,
    operating_points,
    percent,
)
from ae_models.errors import InputError

Method = Literal["marginal", "conditional", "false_alarm_rate", "recall", "f_score", "cost"]

ROUNDING = 1e-9  # (n + 1) * 0.29 is 28.999999999999996 at n = 99 and means 29


@dataclass(frozen=True)
class Threshold:
    """The score above which an image is flagged, and what is known of it.

    target is, by method: the false-alarm rate (marginal, conditional, false_alarm_rate), the recall, the beta (of the
    F-score), or what a miss costs in false alarms (cost). precision, recall, false_alarms and the F-scores were
    measured on labelled images that did not pick the threshold, and are None without such; precision also where none
    was flagged.
    """

    value: float
    method: Method
    target: float
    n_nominal: int  # n, the nominal calibration images in which `rank` counts
    n_anomalous: int  # labelled anomalous images that picked the threshold; 0 for the conformal methods
    rank: int  # k: the number of calibration scores that are surely not flagged; 0 where all lie above
    confidence: float | None = None  # that this very calibration keeps the target; of method conditional only
    precision: Proportion | None = None
    recall: Proportion | None = None
    false_alarms: Proportion | None = None
    f_score: float | None = None  # of method f_score only
    f_score_floor: float | None = None  # the F-score of flagging every image

    def __post_init__(self) -> None:
        if fault := _fault(self):
            raise InputError(f"This threshold cannot be used: {fault}; calibrate again.")

    def flags(self, scores: ArrayLike) -> BoolArray:
        """Whether each score exceeds the threshold: bool, of the shape of scores; NaN is flagged."""
        # In float64: beside float32 scores numpy would round the threshold to float32.
        return np.logical_not(np.asarray(scores, dtype=np.float64) <= self.value)

    @property
    def exceedances_allowed(self) -> int:
        """l = n + 1 - k: at most l - 1 calibration images exceed the threshold, and the next image makes l of n + 1."""
        return self.n_nominal + 1 - self.rank

    @property
    def false_alarm_rate(self) -> float:
        """The chance l / (n + 1) that a nominal image is flagged, on average over calibrations; ties only lower it."""
        return self.exceedances_allowed / (self.n_nominal + 1)

    @property
    def false_alarm_band(self) -> tuple[float, float]:
        """5th and 95th percentile of the rate that one such calibration really has: Beta(l, n + 1 - l) (Vovk 2012)."""
        if self.rank == 0:
            return 1.0, 1.0
        from scipy.stats import beta  # as below: half a second that few need

        low, high = (float(beta.ppf(share, self.exceedances_allowed, self.rank)) for share in (0.05, 0.95))
        return low, high

    def sentences(self) -> tuple[str, ...]:
        """What the threshold promises and what was measured, for people."""
        sentences = [f"Images that score above {self.value:.6g} are flagged ({_wish(self)}).", _promise(self)]
        if self.recall is not None:
            sentences += [
                f"Recall on labelled images that did not pick the threshold: {self.recall}.",
                f"Precision there: {self.precision or 'undefined, as none is flagged'}.",
                f"False alarms there: {self.false_alarms}.",
            ]
        if self.f_score is not None:
            floor_ = f"flagging every image would give {self.f_score_floor:.3f}"
            sentences.append(f"F-score there: {self.f_score:.3f}; {floor_}.")
        return tuple(sentences)

    def to_json(self) -> str:
        """The threshold as a JSON object, every number exact."""
        return json.dumps(asdict(self), indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Threshold:
        """The threshold that `to_json` wrote; raises InputError for any other text, key or value."""
        try:
            entries = json.loads(text)
        except ValueError as error:
            raise InputError(f"The threshold is not JSON ({error}): calibrate again.") from error
        _check_keys(entries, {field.name for field in fields(cls)}, "threshold")
        for name in ("precision", "recall", "false_alarms"):
            if entries[name] is not None:
                _check_keys(entries[name], {"count", "total"}, f"threshold's {name}")
                entries[name] = Proportion(**entries[name])
        return cls(**entries)


@dataclass(frozen=True)
class FalseAlarmRate:
    """The lowest threshold that a new nominal image exceeds with at most this chance."""

    target: float
    method: ClassVar[Method] = "false_alarm_rate"

    def __post_init__(self) -> None:
        _check_share(self.target, "false-alarm rate")

    def pick(self, points: OperatingPoints) -> int:
        """The index of the operating point; raises InputError where the nominal images are too few."""
        n = points.n_nominal
        allowed = _marginal_exceedances(n, self.target) - 1
        if allowed < 0:
            wish, nearest = f"false-alarm rate of {percent(self.target)}", f"{_percent_up(1 / (n + 1))} or more"
            raise InputError(_too_few_labelled(wish, images_needed(self.target), "nominal", n, nearest))
        return int(np.flatnonzero(points.false_alarms <= allowed)[-1])


@dataclass(frozen=True)
class Recall:
    """The highest threshold that a new anomalous image exceeds with at least this chance."""

    target: float
    method: ClassVar[Method] = "recall"

    def __post_init__(self) -> None:
        _check_share(self.target, "recall")

    def pick(self, points: OperatingPoints) -> int:
        """The index of the operating point; raises InputError where the anomalous images are too few."""
        n = points.n_anomalous
        misses = _marginal_exceedances(n, 1 - self.target) - 1
        if misses < 0:
            wish, nearest = f"recall of {percent(self.target)}", f"{_percent_down(n / (n + 1))} or less"
            raise InputError(_too_few_labelled(wish, images_needed(1 - self.target), "anomalous", n, nearest))
        return int(np.argmax(points.hits >= n - misses))


@dataclass(frozen=True)
class FScore:
    """The threshold of the best F-beta; recall counts beta times as much as precision."""

    beta: float = 1.0
    method: ClassVar[Method] = "f_score"

    def __post_init__(self) -> None:
        _check_positive(self.beta, "beta of the F-score")

    @property
    def target(self) -> float:
        return self.beta

    def pick(self, points: OperatingPoints) -> int:
        """The index of the operating point; among equals the one with the fewest flags."""
        return int(np.argmax(points.f_scores(self.beta)))


@dataclass(frozen=True)
class Cost:
    """The threshold of the least total cost on the labelled images, given the cost of a false alarm and of a miss."""

    false_alarm: float
    miss: float
    method: ClassVar[Method] = "cost"

    def __post_init__(self) -> None:
        _check_positive(self.false_alarm, "cost of a false alarm")
        _check_positive(self.miss, "cost of a miss")

    @property
    def target(self) -> float:
        return self.miss / self.false_alarm

    def pick(self, points: OperatingPoints) -> int:
        """The index of the operating point; among equals the one with the fewest flags."""
        misses = points.n_anomalous - points.hits
        return int(np.argmin(self.false_alarm * points.false_alarms + self.miss * misses))


Criterion = FalseAlarmRate | Recall | FScore | Cost


def conformal_threshold(scores: ArrayLike, rate: float, confidence: float | None = None) -> Threshold:
    """The threshold that nominal images exceed with at most the chance `rate`, from their calibration scores (n,).

    Without a confidence the promise holds on average over calibrations (split conformal; Vovk, Gammerman and Shafer
    2005). With one, the rate of this very calibration is at most `rate` with that probability (Vovk, "Conditional
    validity of inductive conformal predictors", 2012). Raises InputError for non-finite scores, or too few of them.
    """
    ordered = np.sort(finite_scores(scores, "nominal calibration"))
    _check_wish(rate, confidence)
    exceedances = _exceedances(ordered.size, rate, confidence)
    if exceedances < 1:
        raise InputError(_too_few(ordered.size, rate, confidence))
    rank = ordered.size + 1 - exceedances
    method: Method = "marginal" if confidence is None else "conditional"
    return Threshold(float(ordered[rank - 1]), method, rate, ordered.size, 0, rank, confidence)


def images_needed(rate: float, confidence: float | None = None) -> int:
    """The fewest nominal calibration images from which `conformal_threshold` can promise this rate."""
    _check_wish(rate, confidence)
    exact = 1 / rate - 1 if confidence is None else log(1 - confidence) / log1p(-rate)
    return max(1, ceil(exact * (1 - ROUNDING)))


def labelled_threshold(
    scores: ArrayLike,
    anomalous: ArrayLike,
    criterion: Criterion,
    groups: Groups | None = None,
    seed: int = 0,
    *,
    calibration_scores: ArrayLike,
) -> Threshold:
    """The threshold that meets the criterion on one half of the labelled images (n,), measured on the other half.

    Each half holds both classes, and a group of `groups` (n,) is on one side. calibration_scores are of nominal images
    other than the labelled ones; the rank counts in them. Raises InputError where the images cannot be halved so, or
    are too few for the criterion.
    """
    values, labels = labelled_scores(scores, anomalous)
    calibration = np.sort(finite_scores(calibration_scores, "nominal calibration"))
    held_out = _held_out_half(labels, group_numbers(groups, labels.size), seed)
    points = operating_points(values[~held_out], labels[~held_out])
    value = _just_below(points.thresholds, criterion.pick(points))
    # k = #{S_i <= value}, so S_(k) <= value is exceeded at least as often, and the law of its rate is a bound here. The
    # batch test with this k is Fisher's exact test of the batch against the calibration images, hence exact for any
    # value picked without them.
    rank = int(np.searchsorted(calibration, value, side="right"))
    picked = Threshold(value, criterion.method, criterion.target, calibration.size, points.n_anomalous, rank)
    return _measured(picked, values[held_out], labels[held_out])


def p_values(scores: ArrayLike, calibration_scores: ArrayLike) -> FloatArray:
    """The conformal p-value (1 + #{S_i >= s}) / (n + 1) of each score (m,): float64 in [1 / (n + 1), 1]; least for NaN.

    For a nominal image it is at most alpha with a chance of at most alpha. A marginal threshold flags exactly the
    images whose p-value is at most l / (n + 1). Within a batch the values depend on each other through the calibration
    images they share (Bates et al., arXiv 2104.08279).
    """
    ordered = np.sort(finite_scores(calibration_scores, "nominal calibration"))
    below = np.searchsorted(ordered, np.asarray(scores, dtype=np.float64), side="left")  # NaN sorts last
    return np.asarray((1 + ordered.size - below) / (ordered.size + 1), dtype=np.float64)


def _exceedances(n: int, rate: float, confidence: float | None) -> int:
    """The largest l whose threshold S_(n + 1 - l) keeps the promise; 0 where n is too small."""
    if confidence is None:
        return _marginal_exceedances(n, rate)
    from scipy.stats import beta

    risk = (1 - confidence) * (1 + ROUNDING)
    return bisect_right(range(1, n + 1), risk, key=lambda l_: float(beta.sf(rate, l_, n + 1 - l_)))


def _marginal_exceedances(n: int, rate: float) -> int:
    return min(n, floor((n + 1) * rate + ROUNDING))


def _held_out_half(anomalous: BoolArray, member: NDArray[np.intp], seed: int) -> BoolArray:
    """Which images (n,) measure the threshold that the others pick: about half of each class, groups kept together.

    Groups of both classes are dealt first, then anomalous ones, then nominal ones, the larger first, each to the half
    with fewer images of its class: so both halves get both classes wherever each class has two groups.
    """
    counts = np.stack([np.bincount(member, ~anomalous), np.bincount(member, anomalous)], axis=1).astype(int)  # (G, 2)
    _check_halves(np.count_nonzero(counts, axis=0).tolist())
    kind = (counts > 0) @ (1, 2)  # 3 both, 2 anomalous, 1 nominal
    shuffled = np.random.default_rng(seed).permutation(len(counts))
    dealt = shuffled[np.lexsort((-counts[shuffled].sum(axis=1), -kind[shuffled]))]
    held, side = np.zeros((2, 2), dtype=int), np.zeros(len(counts), dtype=int)
    for group in dealt:
        judged = int(kind[group] > 1)
        side[group] = held[1, judged] < held[0, judged]
        held[side[group]] += counts[group]
    return np.asarray(side[member] == 1)


def _just_below(thresholds: FloatArray, index: int) -> float:
    """The value v for which score > v flags what scikit-learn's score >= t flags; finite where that is nothing."""
    return float(thresholds[1] if index == 0 else np.nextafter(thresholds[index], -inf))


def _measured(threshold: Threshold, scores: FloatArray, anomalous: BoolArray) -> Threshold:
    flagged = threshold.flags(scores)
    n_anomalous, n_nominal = int(anomalous.sum()), int((~anomalous).sum())
    hits, false_alarms = int(flagged[anomalous].sum()), int(flagged[~anomalous].sum())
    of_f_score = threshold.method == "f_score"
    return replace(
        threshold,
        precision=Proportion(hits, hits + false_alarms) if hits + false_alarms else None,
        recall=Proportion(hits, n_anomalous),
        false_alarms=Proportion(false_alarms, n_nominal),
        f_score=float(f_score(threshold.target, hits, false_alarms, n_anomalous)) if of_f_score else None,
        f_score_floor=float(f_score(threshold.target, n_anomalous, n_nominal, n_anomalous)) if of_f_score else None,
    )


def _wish(threshold: Threshold) -> str:
    if threshold.method == "f_score":
        return f"best F-score, beta {threshold.target:g}"
    if threshold.method == "cost":
        return f"least cost, a miss costing as much as {threshold.target:g} false alarms"
    return f"wished for: {'recall' if threshold.method == 'recall' else 'false-alarm rate'} {percent(threshold.target)}"


def _promise(threshold: Threshold) -> str:
    images = f"{threshold.n_nominal} nominal calibration images"
    low, high = map(percent, threshold.false_alarm_band)
    if threshold.method not in ("marginal", "conditional"):
        return f"At most {high} of nominal images are flagged, with 95% confidence from {images}."
    rate, sure = percent(threshold.false_alarm_rate), "on average over calibrations"
    if threshold.confidence is not None:
        rate, sure = percent(threshold.target), f"with {percent(threshold.confidence)} confidence"
    return (
        f"At most {rate} of nominal images are flagged, {sure}; "
        f"in 9 of 10 calibrations with {images} the rate is between {low} and {high}."
    )


def _too_few(n: int, rate: float, confidence: float | None) -> str:
    needed = images_needed(rate, confidence)
    smallest = 1 / (n + 1) if confidence is None else 1 - (1 - confidence) ** (1 / n)
    sure = "" if confidence is None else f" with {percent(confidence)} confidence"
    return (
        f"A false-alarm rate of {percent(rate)}{sure} needs at least {needed} nominal calibration images, and there "
        f"{'is' if n == 1 else 'are'} {n}: add {needed - n}, or ask for a rate of {_percent_up(smallest)} or more."
    )


def _too_few_labelled(wish: str, needed: int, kind: str, n: int, nearest: str) -> str:
    return (
        f"A {wish} needs at least {needed} {kind} images in the half of the labelled images that picks the threshold, "
        f"and there {'is' if n == 1 else 'are'} {n}: label more, or ask for {nearest}."
    )


def _percent_up(share: float) -> str:
    """The share as a percentage of three digits, rounded up, so that it can be asked for."""
    scale = 10 ** (2 - floor(log10(100 * share)))
    return f"{ceil(100 * share * scale) / scale:g}%"


def _percent_down(share: float) -> str:
    return f"{floor(1000 * share) / 10:g}%"


def _check_halves(n_groups: list[int]) -> None:
    for name, count in zip(("nominal", "anomalous"), n_groups, strict=True):
        if count < 2:
            raise InputError(
                f"The labelled {name} images form {count} group, and 2 are needed, one to pick the threshold and one "
                f"to measure it: label {name} images of another group, or calibrate on nominal images alone."
            )


def _check_wish(rate: float, confidence: float | None) -> None:
    _check_share(rate, "false-alarm rate")
    if confidence is not None:
        _check_share(confidence, "confidence")


def _check_share(share: float, name: str) -> None:
    if not 0 < share < 1:
        example = 0.01 if name == "false-alarm rate" else 0.95
        raise InputError(f"The {name} is {share:g}: give a number above 0 and below 1, such as {example}.")


def _check_positive(number: float, name: str) -> None:
    if not 0 < number < inf:
        raise InputError(f"The {name} is {number:g}: give a number above 0, such as 1.")


def _check_keys(entries: object, names: set[str], what: str) -> None:
    if not isinstance(entries, dict):
        raise InputError(f"The {what} is {entries!r} in the JSON, not an object: calibrate again.")
    if missing := sorted(names - entries.keys()):
        raise InputError(f"The {what} lacks {', '.join(missing)} in the JSON: calibrate again.")
    if unknown := sorted(entries.keys() - names):
        raise InputError(f"The {what} has unknown keys in the JSON ({', '.join(unknown)}): calibrate again.")


def _fault(threshold: Threshold) -> str | None:
    """What is wrong with the fields of a threshold, or None."""
    if threshold.method not in get_args(Method):
        return f"method is {threshold.method!r}, not one of {', '.join(get_args(Method))}"
    for name in ("value", "target", "confidence", "f_score", "f_score_floor"):
        number = getattr(threshold, name)
        if not _is_finite(number) and (number is not None or name in ("value", "target")):
            return f"{name} is {number!r}, not a finite number"
    for name in ("n_nominal", "n_anomalous", "rank"):
        count = getattr(threshold, name)
        if type(count) is not int or count < 0:
            return f"{name} is {count!r}, not a whole number of 0 or more"
    if threshold.n_nominal < 1 or threshold.rank > threshold.n_nominal:
        return f"rank {threshold.rank} does not exist among {threshold.n_nominal} nominal images"
    if (threshold.method == "conditional") != (threshold.confidence is not None):
        return f"method {threshold.method} does not go with confidence {threshold.confidence}"
    return None


def _is_finite(number: object) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and isfinite(number)
