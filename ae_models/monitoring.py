"""Whether a batch is off: exact tests of its flagged images and its unreadable files, within one false-alarm budget."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Literal

from scipy.stats import binom, hypergeom

from ae_models.calibration import Threshold
from ae_models.curves import percent
from ae_models.errors import InputError

Diagnosis = Literal["none", "defects", "unreadable", "defects and unreadable"]
Severity = Literal["none", "warning", "critical"]

TESTS = 2  # flagged images, unreadable files: each alarms at its share of the batch's budget (Bonferroni)
CRITICAL = 1000  # a p-value this many times below its test's budget is critical


@dataclass(frozen=True)
class BatchVerdict:
    """What a batch's counts say: p-values, whether it alarms, why, and how badly."""

    scored: int
    flagged: int
    unreadable: int
    expected_flagged: float  # in a nominal batch of as many scored images
    alarms_from: int | None  # flagged images from which on such a batch alarms; None where even all of them would not
    flagged_p_value: float  # in [0, 1]
    unreadable_p_value: float  # in [0, 1]
    false_alarm_rate: float  # the budget: the share of nominal batches that may alarm
    unreadable_rate: float  # the tolerated share of unreadable files
    diagnosis: Diagnosis
    severity: Severity

    @property
    def alarm(self) -> bool:
        return self.diagnosis != "none"

    def sentences(self) -> tuple[str, str]:
        """One sentence on the flagged images and one on the unreadable files, with the numbers of the verdict."""
        return _flagged_sentence(self), _unreadable_sentence(self)


def batch_verdict(
    n_scored: int,
    n_flagged: int,
    n_unreadable: int,
    threshold: Threshold,
    false_alarm_rate: float,
    unreadable_rate: float,
) -> BatchVerdict:
    """The verdict on a batch of n_scored readable images, n_flagged of them flagged, and n_unreadable files.

    A nominal batch alarms with at most the chance `false_alarm_rate`, half of which goes to the exact test of the
    flagged images and half to the exact binomial test of the unreadable files against the tolerated share
    `unreadable_rate`. A batch with no readable image always alarms, also where it is so small that this breaks the
    budget. Raises InputError for an empty batch or a rate out of range.
    """
    _check_counts(n_scored, n_flagged, n_unreadable)
    _check_rates(false_alarm_rate, unreadable_rate)
    flagged_p_value = _flagged_p_value(n_flagged, n_scored, threshold)
    unreadable_p_value = float(binom.sf(n_unreadable - 1, n_scored + n_unreadable, unreadable_rate))
    budget = false_alarm_rate / TESTS
    defects, unreadable = flagged_p_value <= budget, unreadable_p_value <= budget or n_scored == 0
    extreme = n_scored == 0 or min(flagged_p_value, unreadable_p_value) <= budget / CRITICAL
    return BatchVerdict(
        n_scored,
        n_flagged,
        n_unreadable,
        expected_flags(n_scored, threshold),
        smallest_alarming_count(n_scored, threshold, false_alarm_rate),
        flagged_p_value,
        unreadable_p_value,
        false_alarm_rate,
        unreadable_rate,
        _diagnosis(defects, unreadable),
        _severity(defects or unreadable, extreme),
    )


def expected_flags(n_scored: int, threshold: Threshold) -> float:
    """The number of images flagged in a nominal batch of n_scored, on average over calibrations: m l / (n + 1)."""
    return n_scored * threshold.false_alarm_rate


def smallest_alarming_count(n_scored: int, threshold: Threshold, false_alarm_rate: float) -> int | None:
    """The number of flags from which on a batch of n_scored images alarms; None where even all of them would not."""
    budget = false_alarm_rate / TESTS
    count = bisect_left(
        range(n_scored + 1), True, key=lambda flagged: _flagged_p_value(flagged, n_scored, threshold) <= budget
    )
    return count if count <= n_scored else None


def _flagged_p_value(n_flagged: int, n_scored: int, threshold: Threshold) -> float:
    """The chance of so many flags or more in a nominal batch, the luck of the calibration included.

    P(X >= x) for X ~ BetaBinomial(m, l, n + 1 - l) (Marques, arXiv 2303.02770), as the equal hypergeometric tail: of
    the x + l - 1 highest of n + m exchangeable images at least x are the batch's (Fisher's exact test), since
    scipy's betabinom.sf is 1 - cdf and wrong below 1e-12.
    """
    n, exceedances = threshold.n_nominal, threshold.exceedances_allowed
    return min(1.0, float(hypergeom.sf(n_flagged - 1, n + n_scored, n_scored, n_flagged + exceedances - 1)))


def _diagnosis(defects: bool, unreadable: bool) -> Diagnosis:
    if defects and unreadable:
        return "defects and unreadable"
    return "defects" if defects else "unreadable" if unreadable else "none"


def _severity(alarm: bool, extreme: bool) -> Severity:
    if not alarm:
        return "none"
    return "critical" if extreme else "warning"


def _flagged_sentence(verdict: BatchVerdict) -> str:
    if not verdict.scored:
        return "No image of the batch could be scored, so nothing is known about defects."
    flagged = f"{verdict.flagged:,}" if verdict.flagged else "None"
    images = f"{flagged} of {_counted(verdict.scored, 'image')} {'is' if verdict.flagged <= 1 else 'are'} flagged"
    counts = f"{images}, where {_expected(verdict.expected_flagged)} expected"
    if not verdict.flagged:
        return f"{counts}."
    chance = f"so many or more happen by chance {_how_often(verdict.flagged_p_value)}"
    if verdict.diagnosis in ("defects", "defects and unreadable"):
        return f"{counts}; {chance}: look for defects."
    if verdict.alarms_from is None:
        return f"{counts}; {chance}, and a batch so small cannot alarm."
    return f"{counts}; {chance}, and such a batch alarms from {verdict.alarms_from:,} on."


def _unreadable_sentence(verdict: BatchVerdict) -> str:
    total = verdict.scored + verdict.unreadable
    if not verdict.unreadable:
        return f"All {total:,} files could be read." if total > 1 else "The one file could be read."
    tolerated = f"up to {percent(verdict.unreadable_rate)} is tolerated" if verdict.unreadable_rate else "none may be"
    unread = f"{verdict.unreadable:,} of {_counted(total, 'file')} could not be read, where {tolerated}"
    chance = f"so many or more happen by chance {_how_often(verdict.unreadable_p_value)}"
    if verdict.diagnosis in ("none", "defects"):
        return f"{unread}; {chance}."
    if not verdict.unreadable_rate or not verdict.scored:
        return f"{unread}: check the camera and the transfer of files."
    return f"{unread}; {chance}: check the camera and the transfer of files."


def _expected(count: float) -> str:
    if count < 0.005:
        return "fewer than 0.01 are"
    number = f"{count:,.0f}" if count >= 10 else f"{count:.2g}"
    return f"about {number} {'is' if number == '1' else 'are'}"


def _how_often(p_value: float) -> str:
    if p_value >= 0.01:
        return f"in {p_value:.{0 if p_value >= 0.1 else 1}%} of nominal batches"
    if p_value < 1e-9:
        return "less than once in 1,000,000,000 nominal batches"
    return f"once in {float(f'{1 / p_value:.2g}'):,.0f} nominal batches"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _check_counts(n_scored: int, n_flagged: int, n_unreadable: int) -> None:
    if not 0 <= n_flagged <= n_scored or n_unreadable < 0:
        raise ValueError(f"{n_flagged} flagged of {n_scored} scored and {n_unreadable} unreadable images cannot be.")
    if n_scored + n_unreadable == 0:
        raise InputError("The batch holds no image, so there is nothing to judge: check its folder, glob or manifest.")


def _check_rates(false_alarm_rate: float, unreadable_rate: float) -> None:
    if not 0 < false_alarm_rate < 1:
        raise InputError(
            f"The false-alarm rate of batches is {false_alarm_rate:g}: give a number above 0 and below 1, such as 0.01."
        )
    if not 0 <= unreadable_rate < 1:
        raise InputError(
            f"The tolerated share of unreadable files is {unreadable_rate:g}: give a number of at least 0 and below 1, "
            "such as 0.01."
        )
