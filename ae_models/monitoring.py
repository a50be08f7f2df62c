"""Whether a batch is off, and what ails it: exact tests of its scores and files, within one false-alarm budget."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Literal

from numpy.typing import ArrayLike
from scipy.stats import binom, norm

from ae_models.batch_tests import (
    Movement,
    NominalBatches,
    batchwise_p_value,
    flagged_p_value,
    movement,
    overdispersion,
)
from ae_models.calibration import ROUNDING, Threshold
from ae_models.curves import percent
from ae_models.errors import InputError

Diagnosis = Literal["none", "defects", "moved", "unreadable", "defects and unreadable", "moved and unreadable"]
Severity = Literal["none", "warning", "critical"]

# What each test may spend of the batch's budget (Bonferroni). Defects are what batches are watched for, so their test
# has the half; the other two look for faults of the equipment, which are large when they come.
FLAGGED, MOVED, UNREADABLE = 1 / 2, 1 / 4, 1 / 4
CRITICAL = 1000  # a p-value this many times below its test's budget is critical
SMALLEST_DISTANCE = 0.15  # a nominal normal score that moves by 0.38 standard deviations
NAMING = 0.025  # with too many flags, the chance that unmoved images below the threshold are named moved
MAJORITY = 0.05  # the chance that a batch of which half exceeds the threshold counts as one of which more does
UNEQUAL = float(norm.isf(0.01))  # Tarone's Z from which on nominal batches differ by more than chance


@dataclass(frozen=True)
class BatchVerdict:
    """What a batch's counts and scores say: p-values, whether it alarms, why, and how badly."""

    scored: int
    flagged: int
    unreadable: int
    expected_flagged: float  # in a nominal batch of as many scored images
    alarms_from: int | None  # flagged images from which on such a batch alarms; None where even all of them would not
    flagged_p_value: float  # in [0, 1]; that of whole batches where nominal ones differ by more than chance
    unreadable_p_value: float  # in [0, 1]
    false_alarm_rate: float  # the budget: the share of nominal batches that may alarm
    unreadable_rate: float  # the tolerated share of unreadable files
    diagnosis: Diagnosis
    severity: Severity
    moved_p_value: float | None = None  # in [0, 1], of the images below the threshold; None where no scores were given
    moved_distance: float | None = None  # Kolmogorov-Smirnov's in [0, 1], of those images
    smallest_distance: float = SMALLEST_DISTANCE  # the distance from which on it matters
    median_shift: float | None = None  # of all scores, in nominal standard deviations; None where those are 0
    nominal_batches: int = 0  # K, the earlier ones that were given
    overdispersion: float | None = None  # Tarone's Z of those; None where it is undefined

    @property
    def alarm(self) -> bool:
        return self.diagnosis != "none"

    @property
    def batches_differ(self) -> bool:
        """Whether nominal batches differ by more than chance, so that this one is compared with whole batches."""
        return self.overdispersion is not None and self.overdispersion >= UNEQUAL

    def sentences(self) -> tuple[str, ...]:
        """What is to be known, with the numbers: a sentence on the flagged images and one on all scores and files.

        Files that could not be read have one of their own, and so has it that nominal batches differ by more than
        chance.
        """
        moved, read = _moved_sentence(self), _unreadable_sentence(self)
        if moved and not self.unreadable:
            moved, read = f"{moved[:-1]}; {read[0].lower()}{read[1:]}", ""
        return tuple(filter(None, (_flagged_sentence(self), moved, _overdispersion_sentence(self), read)))


def batch_verdict(
    n_scored: int,
    n_flagged: int,
    n_unreadable: int,
    threshold: Threshold,
    false_alarm_rate: float,
    unreadable_rate: float,
    *,
    scores: ArrayLike | None = None,
    calibration_scores: ArrayLike | None = None,
    nominal_batches: NominalBatches = (),
    smallest_distance: float = SMALLEST_DISTANCE,
) -> BatchVerdict:
    """The verdict on a batch of n_scored readable images, n_flagged of them flagged, and n_unreadable files.

    A nominal batch alarms with at most the chance `false_alarm_rate`: half of it goes to the exact test of the flagged
    images, a quarter to the Kolmogorov-Smirnov test of the scores (n_scored,) against the calibration scores (n,), and
    a quarter to the exact binomial test of the unreadable files against the tolerated share `unreadable_rate`. Scores
    moved where the images below the threshold did, by at least `smallest_distance`, or where most images lie above it.
    `nominal_batches` holds (flagged, scored) of earlier nominal batches: where they differ by more than chance, the
    flagged images are compared with them instead. A batch with no readable image always alarms, also where it is so
    small that this breaks the budget. Raises InputError for an empty batch or a rate out of range.
    """
    _check_counts(n_scored, n_flagged, n_unreadable)
    _check_rates(false_alarm_rate, unreadable_rate, smallest_distance)
    dispersion = overdispersion(nominal_batches)
    known = nominal_batches if dispersion is not None and dispersion >= UNEQUAL else ()
    p_value = _test_of_flags(n_scored, threshold, false_alarm_rate, known)
    flagged, exact = p_value(n_flagged), flagged_p_value(n_flagged, n_scored, threshold)
    moved = None if scores is None or calibration_scores is None else movement(scores, calibration_scores, threshold)
    unread = float(binom.sf(n_unreadable - 1, n_scored + n_unreadable, unreadable_rate))
    too_many, lost = flagged <= false_alarm_rate * FLAGGED, unread <= false_alarm_rate * UNREADABLE or n_scored == 0
    shifted = moved is not None and (
        _has_moved(moved, false_alarm_rate * MOVED, smallest_distance)
        or (too_many and (_mostly_flagged(n_flagged, n_scored) or _has_moved(moved, NAMING, smallest_distance)))
    )
    # Whole batches cannot tell a p-value below 1 / (K + 1), so the exact one says how clear the alarm is.
    clear = too_many and exact <= false_alarm_rate * FLAGGED / CRITICAL
    clear |= shifted and moved is not None and moved.p_value <= false_alarm_rate * MOVED / CRITICAL
    clear |= n_scored == 0 or unread <= false_alarm_rate * UNREADABLE / CRITICAL
    diagnosis = _diagnosis(too_many, shifted, lost)
    return BatchVerdict(
        n_scored,
        n_flagged,
        n_unreadable,
        expected_flags(n_scored, threshold),
        _smallest(n_scored, p_value, false_alarm_rate),
        flagged,
        unread,
        false_alarm_rate,
        unreadable_rate,
        diagnosis,
        _severity(diagnosis != "none", clear),
        None if moved is None else moved.p_value,
        None if moved is None else moved.distance,
        smallest_distance,
        None if moved is None else moved.median_shift,
        len(nominal_batches),
        dispersion,
    )


def expected_flags(n_scored: int, threshold: Threshold) -> float:
    """The number of images flagged in a nominal batch of n_scored, on average over calibrations: m l / (n + 1)."""
    return n_scored * threshold.false_alarm_rate


def smallest_alarming_count(n_scored: int, threshold: Threshold, false_alarm_rate: float) -> int | None:
    """The number of flags from which on a batch of n_scored images alarms; None where even all of them would not."""
    return _smallest(n_scored, _test_of_flags(n_scored, threshold, false_alarm_rate, ()), false_alarm_rate)


def batches_needed(false_alarm_rate: float) -> int:
    """The fewest nominal batches that the flagged images of another can be compared with, at this rate for batches."""
    return ceil((1 / (false_alarm_rate * FLAGGED) - 1) * (1 - ROUNDING))


def _test_of_flags(
    n_scored: int, threshold: Threshold, false_alarm_rate: float, batches: NominalBatches
) -> Callable[[int], float]:
    """The p-value of each number of flags: exact, or among the batches where those are given.

    Too few batches can never reach the budget. A batch must then be worse than all of them besides failing the exact
    test, which bounds its false alarms by 1 / (K + 1).
    """

    def p_value(n_flagged: int) -> float:
        exact = flagged_p_value(n_flagged, n_scored, threshold)
        if not batches:
            return exact
        among = batchwise_p_value(n_flagged, n_scored, batches)
        if len(batches) >= batches_needed(false_alarm_rate):
            return among
        return exact if among == 1 / (len(batches) + 1) else max(exact, among)

    return p_value


def _smallest(n_scored: int, p_value: Callable[[int], float], false_alarm_rate: float) -> int | None:
    budget = false_alarm_rate * FLAGGED
    count = bisect_left(range(n_scored + 1), True, key=lambda flagged: p_value(flagged) <= budget)
    return count if count <= n_scored else None


def _has_moved(moved: Movement, level: float, smallest_distance: float) -> bool:
    return moved.p_value <= level and moved.distance >= smallest_distance


def _mostly_flagged(n_flagged: int, n_scored: int) -> bool:
    """Whether more than half of such images exceed the threshold, not of these few alone: five of five, 59 of 100."""
    return bool(binom.sf(n_flagged - 1, n_scored, 0.5) <= MAJORITY)


def _diagnosis(too_many: bool, moved: bool, unreadable: bool) -> Diagnosis:
    if moved:
        return "moved and unreadable" if unreadable else "moved"
    if too_many:
        return "defects and unreadable" if unreadable else "defects"
    return "unreadable" if unreadable else "none"


def _severity(alarm: bool, clear: bool) -> Severity:
    if not alarm:
        return "none"
    return "critical" if clear else "warning"


def _flagged_sentence(verdict: BatchVerdict) -> str:
    if not verdict.scored:
        return "No image of the batch could be scored, so nothing is known about defects."
    flagged = f"{verdict.flagged:,}" if verdict.flagged else "None"
    images = f"{flagged} of {_counted(verdict.scored, 'image')} {'is' if verdict.flagged <= 1 else 'are'} flagged"
    counts = f"{images}, where {_expected(verdict.expected_flagged)} expected"
    if not verdict.flagged:
        return f"{counts}."
    chance = f"so many or more happen by chance {_how_often(verdict.flagged_p_value)}"
    if verdict.alarms_from is None:
        return f"{counts}; {chance}, and a batch so small cannot alarm."
    if verdict.flagged < verdict.alarms_from:
        return f"{counts}; {chance}, and such a batch alarms from {verdict.alarms_from:,} on."
    if "moved" in verdict.diagnosis:
        return f"{counts}; {chance}: as all scores moved, these need not be defects."
    return f"{counts}; {chance}: look for defects."


def _moved_sentence(verdict: BatchVerdict) -> str | None:
    if verdict.moved_p_value is None or verdict.moved_distance is None or not verdict.scored:
        return None
    shift = verdict.median_shift
    median = (
        "" if shift is None else f", median {'up' if shift >= 0 else 'down'} by {abs(shift):.2g} nominal deviations"
    )
    distance = f"Kolmogorov-Smirnov distance {verdict.moved_distance:.2f}{median}"
    chance = f"so large or larger happens by chance {_how_often(verdict.moved_p_value)}"
    if "moved" not in verdict.diagnosis and verdict.flagged == verdict.scored:
        return None  # nothing lies below the threshold
    enough = verdict.moved_distance >= verdict.smallest_distance
    if "moved" in verdict.diagnosis:
        if enough and verdict.moved_p_value <= NAMING:
            why = f"All scores moved, below the threshold too ({distance}; {chance})"
        else:
            why = f"Most images lie above the threshold, so all scores moved rather than a few{median}"
        return f"{why}: check the camera, the light and the focus."
    if verdict.moved_p_value <= verdict.false_alarm_rate * MOVED:
        small = f"{distance}; it matters from {verdict.smallest_distance:g} on"
        return f"Scores below the threshold moved, but by less than matters ({small})."
    return f"Scores below the threshold are like those of nominal images ({distance}; {chance})."


def _overdispersion_sentence(verdict: BatchVerdict) -> str | None:
    if not verdict.batches_differ:
        return None
    needed, known = batches_needed(verdict.false_alarm_rate), verdict.nominal_batches
    sentence = f"Nominal batches differ by more than chance (Tarone's Z {verdict.overdispersion:.1f} over {known:,})"
    if known >= needed:
        return f"{sentence}, so the flagged images are compared with theirs."
    return (
        f"{sentence}: until {needed:,} are known, a batch alarms only where it is worse than all of them, "
        f"and nominal ones do up to once in {known + 1:,}."
    )


def _unreadable_sentence(verdict: BatchVerdict) -> str:
    total = verdict.scored + verdict.unreadable
    if not verdict.unreadable:
        return f"All {total:,} files could be read." if total > 1 else "The one file could be read."
    tolerated = f"up to {percent(verdict.unreadable_rate)} is tolerated" if verdict.unreadable_rate else "none may be"
    unread = f"{verdict.unreadable:,} of {_counted(total, 'file')} could not be read, where {tolerated}"
    chance = f"so many or more happen by chance {_how_often(verdict.unreadable_p_value)}"
    if "unreadable" not in verdict.diagnosis:
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


def _check_rates(false_alarm_rate: float, unreadable_rate: float, smallest_distance: float) -> None:
    if not 0 < false_alarm_rate < 1:
        raise InputError(
            f"The false-alarm rate of batches is {false_alarm_rate:g}: give a number above 0 and below 1, such as 0.01."
        )
    if not 0 <= unreadable_rate < 1:
        raise InputError(
            f"The tolerated share of unreadable files is {unreadable_rate:g}: give a number of at least 0 and below 1, "
            "such as 0.01."
        )
    if not 0 <= smallest_distance < 1:
        raise InputError(
            f"The smallest distance by which scores count as moved is {smallest_distance:g}: give a number of at least "
            "0 and below 1, such as 0.15."
        )
