"""Whether a stream of batches got worse: an e-process valid at any time, and a detector of changes after long calm.

Both are values of a few numbers however many images they have seen. A recalibration starts them anew.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from math import exp, inf, log, log1p, pi
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaln

from ae_models.calibration import Threshold
from ae_models.curves import FloatArray, percent
from ae_models.errors import InputError

RATIOS = np.array([1.5, 2.0, 3.0, 5.0, 10.0])  # by which the odds of a flag may have grown; all at once, equally likely
WORSE = "images are flagged more often than promised, so look at the flagged ones, or calibrate again"
LARGEST = 700.0  # the logarithm up to which an e-value is told: exp(710) is no number any more


@dataclass(frozen=True)
class StreamState:
    """The evidence that images of a stream are flagged more often than the calibration allows.

    The chance that nominal batches ever raise the alarm is at most `budget`, the luck of the calibration included, and
    at most `false_alarm_rate` over all calibrations to come: number j has 6 / (pi^2 j^2) of it.
    """

    n_nominal: int  # n, calibration images
    exceedances: int  # l = n + 1 - k of the threshold
    false_alarm_rate: float  # in (0, 1), of the stream for ever
    calibration: int = 1  # j
    batches: int = 0
    scored: int = 0
    flagged: int = 0

    def __post_init__(self) -> None:
        if fault := _fault(self):
            raise InputError(f"This state of a stream cannot be used: {fault}; calibrate again.")

    @classmethod
    def start(cls, threshold: Threshold, false_alarm_rate: float, calibration: int = 1) -> Self:
        """A stream of which nothing was seen yet, cut by this threshold."""
        _check_rate(false_alarm_rate)
        return cls(threshold.n_nominal, threshold.exceedances_allowed, false_alarm_rate, calibration)

    def after(self, flagged: int, scored: int) -> Self:
        """The state after one more batch."""
        _check_counts(flagged, scored)
        return replace(self, batches=self.batches + 1, scored=self.scored + scored, flagged=self.flagged + flagged)

    def recalibrated(self, threshold: Threshold) -> Self:
        """A new stream with the next calibration's threshold and share of the budget."""
        return type(self).start(threshold, self.false_alarm_rate, self.calibration + 1)

    @property
    def budget(self) -> float:
        """The chance of a false alarm that this calibration may spend."""
        return self.false_alarm_rate * 6 / (pi * self.calibration) ** 2

    @property
    def log_e_value(self) -> float:
        """The natural logarithm of the e-value."""
        return float(log_e_values(self.flagged, self.scored, self.exceedances, self.n_nominal))

    @property
    def e_value(self) -> float:
        """The evidence, 1 at the start: on nominal batches it ever reaches 1 / g with a chance of at most g."""
        return exp(min(self.log_e_value, LARGEST))

    @property
    def alarm(self) -> bool:
        """Whether the evidence reaches 1 / budget."""
        return self.log_e_value >= -log(self.budget)

    def sentence(self) -> str:
        """What was seen and what it means, for people."""
        expected = self.scored * self.exceedances / (self.n_nominal + 1)
        batches = f"{self.batches:,} batch{'' if self.batches == 1 else 'es'} since the calibration"
        seen = f"In {batches} {self.flagged:,} of {self.scored:,} images are flagged"
        limit = f"{1 / self.budget:,.0f}"
        evidence = f"{seen}, where about {expected:,.3g} are expected (e-value {_told(self.e_value)}"
        if not self.alarm:
            return f"{evidence}; the stream alarms from {limit} on)."
        return f"{evidence}, from {limit} on an alarm; a nominal stream ever gets there once in {limit}): {WORSE}."

    def to_json(self) -> str:
        """The state as a JSON object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The state that `to_json` wrote; raises InputError for any other text, key or value."""
        return cls(**_entries(text, cls))


def log_e_values(flagged: ArrayLike, scored: ArrayLike, exceedances: int, n_nominal: int) -> FloatArray:
    """The logarithm of the e-value of each pair of counts so far: float64 of their shape.

    The mixture over c in RATIOS of the likelihoods of X flagged of M images where the rate follows
    Beta(l, (n + 1 - l) / c), over that of Beta(l, n + 1 - l), the law of the rate under a conformal threshold: a
    martingale of mean 1 on nominal batches, so Ville's inequality holds (Ville 1939; Ramdas et al., Statistical Science
    2023). Where the threshold lies below every calibration score nothing is promised, and it is 0.
    """
    hits, total = np.asarray(flagged, dtype=np.float64)[..., None], np.asarray(scored, dtype=np.float64)[..., None]
    kept = n_nominal + 1 - exceedances
    if kept == 0:
        return np.zeros(total.shape[:-1])

    def likelihood(missed: Any) -> FloatArray:
        return np.asarray(betaln(exceedances + hits, missed + total - hits) - betaln(exceedances, missed))

    worse = np.logaddexp.reduce(likelihood(kept / RATIOS), axis=-1) - log(len(RATIOS))
    return np.asarray(worse - likelihood(kept)[..., 0])


@dataclass(frozen=True)
class ChangeState:
    """The Shiryaev-Roberts detector: notices a change that comes after any number of nominal batches.

    R = (R + 1) L with each batch's likelihood ratio L, averaged over RATIOS; an alarm where R reaches
    `average_run_length`. Where the rate of flags is at most `rate`, nominal batches raise one alarm in that many or
    more, on average: no probability, as over a long time a false alarm is sure (e-detectors, Shin, Ramdas and Rinaldo,
    arXiv 2203.03532). After an alarm it starts again.
    """

    rate: float  # that the threshold keeps with its confidence
    confidence: float
    average_run_length: float  # in batches
    calibration: int = 1
    batches: int = 0  # since it started
    log_statistics: tuple[float, ...] = (0.0,) * len(RATIOS)  # log(1 + R) for each of RATIOS

    def __post_init__(self) -> None:
        if fault := _change_fault(self):
            raise InputError(f"This state of a change detector cannot be used: {fault}; calibrate again.")

    @classmethod
    def start(cls, threshold: Threshold, average_run_length: float, calibration: int = 1) -> Self:
        """A detector that has seen nothing yet; raises InputError where the threshold carries no confidence."""
        if threshold.confidence is None:
            raise InputError(
                f"A change detector needs a threshold that keeps its rate with a stated confidence, not one of method "
                f"{threshold.method}: set threshold.confidence, such as 0.95."
            )
        if not 1 < average_run_length < inf:
            raise InputError(
                f"The average run length is {average_run_length:g} batches: give a number above 1, such as 1000."
            )
        return cls(threshold.target, threshold.confidence, average_run_length, calibration)

    def after(self, flagged: int, scored: int) -> Self:
        """The state after one more batch."""
        _check_counts(flagged, scored)
        before = np.zeros(len(RATIOS)) if self.alarm else np.array(self.log_statistics)
        worse = RATIOS * self.rate / (1 - self.rate + RATIOS * self.rate)
        ratio = flagged * np.log(worse / self.rate) + (scored - flagged) * np.log((1 - worse) / (1 - self.rate))
        statistics = tuple(np.logaddexp(0.0, before + ratio).tolist())
        return replace(self, batches=1 if self.alarm else self.batches + 1, log_statistics=statistics)

    def recalibrated(self, threshold: Threshold) -> Self:
        """A new detector with the next calibration's threshold. The run length is a rate: nothing of it is spent."""
        return type(self).start(threshold, self.average_run_length, self.calibration + 1)

    @property
    def statistic(self) -> float:
        """R, at least 0."""
        return exp(min(self._log_one_plus, LARGEST)) - 1

    @property
    def alarm(self) -> bool:
        """Whether R reaches the average run length."""
        return self._log_one_plus >= log1p(self.average_run_length)

    @property
    def _log_one_plus(self) -> float:
        return float(np.logaddexp.reduce(self.log_statistics)) - log(len(RATIOS))

    def sentence(self) -> str:
        """What it says, for people."""
        run_length = f"{self.average_run_length:,.0f}"
        promise = f"nominal batches raise one alarm in {run_length} or more, on average"
        state = f"The change statistic is {_told(self.statistic)} of {run_length} ({promise})"
        return f"{state}: {WORSE}." if self.alarm else f"{state}."

    def to_json(self) -> str:
        """The state as a JSON object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The state that `to_json` wrote; raises InputError for any other text, key or value."""
        entries = _entries(text, cls)
        if not isinstance(entries["log_statistics"], list):
            raise InputError("The state of a change detector has no list of log_statistics: calibrate again.")
        return cls(**entries | {"log_statistics": tuple(entries["log_statistics"])})


def _told(evidence: float) -> str:
    if evidence >= 1e9:
        return "over 1,000,000,000"
    return f"{evidence:,.0f}" if evidence >= 100 else f"{evidence:.3g}"


def _entries(text: str, of: type[StreamState] | type[ChangeState]) -> dict[str, Any]:
    names = {field.name for field in fields(of)}
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise InputError(f"The state of a stream is not JSON ({error}): calibrate again.") from error
    if not isinstance(entries, dict) or entries.keys() != names:
        raise InputError(f"The state of a stream holds other keys than {', '.join(sorted(names))}: calibrate again.")
    return entries


def _check_counts(flagged: int, scored: int) -> None:
    if not 0 <= flagged <= scored:
        raise ValueError(f"{flagged} flagged of {scored} scored images cannot be.")


def _check_rate(rate: float) -> None:
    if not 0 < rate < 1:
        raise InputError(
            f"The false-alarm rate of the stream is {percent(rate)}: give a number above 0 and below 1, such as 0.01."
        )


def _fault(state: StreamState) -> str | None:
    for name in ("n_nominal", "exceedances", "calibration", "batches", "scored", "flagged"):
        count = getattr(state, name)
        if type(count) is not int or count < 0:
            return f"{name} is {count!r}, not a whole number of 0 or more"
    if not 1 <= state.exceedances <= state.n_nominal + 1 or not state.calibration or state.flagged > state.scored:
        return f"its counts {asdict(state)} contradict each other"
    return _rate_fault(state.false_alarm_rate, "false_alarm_rate")


def _change_fault(state: ChangeState) -> str | None:
    for name in ("calibration", "batches"):
        if type(getattr(state, name)) is not int or getattr(state, name) < 0:
            return f"{name} is {getattr(state, name)!r}, not a whole number of 0 or more"
    if not isinstance(state.average_run_length, int | float) or not 1 < state.average_run_length < inf:
        return f"average_run_length is {state.average_run_length!r}, not a number above 1"
    if len(state.log_statistics) != len(RATIOS) or not all(
        isinstance(number, int | float) and 0 <= number < inf for number in state.log_statistics
    ):
        return f"log_statistics is {state.log_statistics!r}, not {len(RATIOS)} numbers of 0 or more"
    return _rate_fault(state.rate, "rate") or _rate_fault(state.confidence, "confidence")


def _rate_fault(rate: object, name: str) -> str | None:
    is_rate = isinstance(rate, int | float) and 0 < rate < 1
    return None if is_rate else f"{name} is {rate!r}, not a number above 0 and below 1"
