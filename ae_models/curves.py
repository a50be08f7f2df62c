"""What labelled images say of a score: ROC, PR and DET curves, the area under ROC, and shares with intervals.

scikit-learn and scipy.stats are imported by the functions that call them: that takes a second, and most users of this
module want a share in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ae_models.errors import InputError

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Groups = Sequence[Any] | NDArray[Any]


def percent(share: float) -> str:
    """A share in [0, 1] as people read it: 0.0295 -> '2.95%'."""
    return f"{100 * share:.3g}%"


@dataclass(frozen=True)
class Proportion:
    """A measured share, `count` of `total` images, with its exact 95% interval (Clopper and Pearson, Biometrika 1934).

    The interval takes the images as independent: images of one part or lot make it too narrow.
    """

    count: int
    total: int

    def __post_init__(self) -> None:
        if type(self.count) is not int or type(self.total) is not int or not 0 <= self.count <= self.total > 0:
            raise InputError(
                f"A proportion needs whole numbers with 0 <= count <= total and total > 0, "
                f"not count {self.count!r} of total {self.total!r}."
            )

    @property
    def value(self) -> float:
        return self.count / self.total

    @property
    def low(self) -> float:
        return _clopper_pearson(self.count, self.total)[0]

    @property
    def high(self) -> float:
        return _clopper_pearson(self.count, self.total)[1]

    def __str__(self) -> str:
        interval = f"95% interval {percent(self.low)} to {percent(self.high)}"
        return f"{percent(self.value)} ({self.count} of {self.total}; {interval})"


@dataclass(frozen=True)
class Auroc:
    """The chance that an anomalous image scores above a nominal one (ties count half), with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class DetectionCurves:
    """ROC, PR and DET curves of one score as scikit-learn gives them, and their summaries.

    Every array is float64; rates lie in [0, 1]. A threshold t means `score >= t`. The first ROC threshold is infinite
    and flags nothing; `precision` and `precision_recall` are one longer than `precision_recall_thresholds`.
    """

    false_alarm_rate: FloatArray  # (R,), ROC x
    recall: FloatArray  # (R,), ROC y
    roc_thresholds: FloatArray  # (R,), decreasing
    precision: FloatArray  # (P + 1,), PR y
    precision_recall: FloatArray  # (P + 1,), PR x
    precision_recall_thresholds: FloatArray  # (P,), increasing
    det_false_alarm_rate: FloatArray  # (D,), DET x
    det_miss_rate: FloatArray  # (D,), DET y
    det_thresholds: FloatArray  # (D,), increasing
    average_precision: float
    average_precision_floor: float  # of a score that knows nothing: the share of anomalous images
    best_f1: float  # at the threshold that is best on these very images, so optimistic
    best_f1_floor: float  # F1 of flagging every image


@dataclass(frozen=True, eq=False)
class OperatingPoints:
    """What every possible threshold does on labelled images: (T,) arrays, from nothing flagged to everything."""

    thresholds: FloatArray  # decreasing; flags score >= t; the first is infinite
    false_alarms: NDArray[np.int64]  # nominal images flagged
    hits: NDArray[np.int64]  # anomalous images flagged

    @property
    def n_nominal(self) -> int:
        return int(self.false_alarms[-1])

    @property
    def n_anomalous(self) -> int:
        return int(self.hits[-1])

    def f_scores(self, beta: float) -> FloatArray:
        """F-beta at every threshold: (T,) float64 in [0, 1]; the last is that of flagging every image."""
        return f_score(beta, self.hits, self.false_alarms, self.n_anomalous)


@dataclass(frozen=True)
class OperatingPoint:
    """What one threshold does on labelled images: rates in [0, 1]; the precision is 1 where nothing is flagged."""

    threshold: float
    false_alarm_rate: float
    recall: float
    precision: float

    @classmethod
    def of(cls, threshold: float, flags: BoolArray, anomalous: BoolArray) -> Self:
        """That of the flags (n,) that the threshold sets on images with labels (n,), of which both kinds are there."""
        precision = float(anomalous[flags].mean()) if flags.any() else 1.0
        return cls(threshold, float(flags[~anomalous].mean()), float(flags[anomalous].mean()), precision)


def f_score(beta: float, hits: ArrayLike, false_alarms: ArrayLike, n_anomalous: int) -> FloatArray:
    """F-beta in [0, 1] of the shape of hits: recall counts beta times as much as precision (van Rijsbergen 1979)."""
    found, false = np.asarray(hits, dtype=np.float64), np.asarray(false_alarms, dtype=np.float64)
    return np.asarray((1 + beta**2) * found / (found + false + beta**2 * n_anomalous))


def labelled_scores(scores: ArrayLike, anomalous: ArrayLike) -> tuple[FloatArray, BoolArray]:
    """Scores (n,) float64 and labels (n,) bool (true = anomalous): finite, of one length, both classes present.

    Raises InputError otherwise.
    """
    values = finite_scores(scores, "labelled")
    labels = np.asarray(anomalous)
    if labels.shape != values.shape:
        raise InputError(
            f"There are {values.size} labelled scores and {labels.size} labels: give one label for each image."
        )
    if not np.isin(labels, (0, 1)).all():
        raise InputError(
            "A label is neither true (anomalous) nor false (nominal): correct or leave out the images without one."
        )
    flags = labels.astype(np.bool_)
    if flags.all() or not flags.any():
        held, missing = ("anomalous", "nominal") if flags.all() else ("nominal", "anomalous")
        raise InputError(f"All {flags.size} labelled images are {held}: add {missing} ones, as both kinds are needed.")
    return values, flags


def finite_scores(scores: ArrayLike, kind: str) -> FloatArray:
    """Scores as (n,) float64, n > 0, each finite; raises InputError, naming the `kind` of scores, otherwise."""
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not values.size:
        raise InputError(
            f"There are no {kind} scores (shape {values.shape}): give one score for each of at least one image."
        )
    faulty = np.flatnonzero(~np.isfinite(values))
    if faulty.size:
        first = f"the first at position {faulty[0]} ({values[faulty[0]]})"
        raise InputError(
            f"{faulty.size} of {values.size} {kind} scores are not finite, {first}: "
            "leave those images out, or train the network again."
        )
    return values


def operating_points(scores: ArrayLike, anomalous: ArrayLike) -> OperatingPoints:
    """The false alarms and hits at every threshold, by scikit-learn's ROC curve of scores (n,) and labels (n,)."""
    from sklearn.metrics import roc_curve

    values, labels = labelled_scores(scores, anomalous)
    false_alarm_rate, recall, thresholds = roc_curve(labels, values, drop_intermediate=False)
    n_anomalous = np.count_nonzero(labels)
    return OperatingPoints(
        thresholds,
        np.rint(false_alarm_rate * (labels.size - n_anomalous)).astype(np.int64),
        np.rint(recall * n_anomalous).astype(np.int64),
    )


def detection_curves(scores: ArrayLike, anomalous: ArrayLike) -> DetectionCurves:
    """The ROC, PR and DET curves of scores (n,), higher is more anomalous, against labels (n,), true for anomalous.

    Raises InputError where a class is missing or a score is not finite.
    """
    from sklearn.metrics import average_precision_score, det_curve, precision_recall_curve, roc_curve

    values, labels = labelled_scores(scores, anomalous)
    points = operating_points(values, labels)
    f1 = points.f_scores(beta=1)
    false_alarm_rate, recall, roc_thresholds = roc_curve(labels, values)
    precision, precision_recall, precision_recall_thresholds = precision_recall_curve(labels, values)
    det_false_alarm_rate, det_miss_rate, det_thresholds = det_curve(labels, values)
    return DetectionCurves(
        false_alarm_rate=false_alarm_rate,
        recall=recall,
        roc_thresholds=roc_thresholds,
        precision=precision,
        precision_recall=precision_recall,
        precision_recall_thresholds=precision_recall_thresholds,
        det_false_alarm_rate=det_false_alarm_rate,
        det_miss_rate=det_miss_rate,
        det_thresholds=det_thresholds,
        average_precision=float(average_precision_score(labels, values)),
        average_precision_floor=points.n_anomalous / labels.size,
        best_f1=float(f1.max()),
        best_f1_floor=float(f1[-1]),
    )


def auroc(scores: ArrayLike, anomalous: ArrayLike, groups: Groups | None = None) -> Auroc:
    """The area under the ROC curve of scores (n,) against labels (n,), with a 95% interval that respects groups (n,).

    Variance by DeLong, DeLong and Clarke-Pearson (Biometrics 1988) from mid-ranks (Sun and Xu 2014), summed over groups
    as Obuchowski (Biometrics 1997) does for images that belong together; interval on the logit scale. Where no variance
    can be estimated (a perfect score, or one group of a class) the interval is Clopper and Pearson's for disjoint pairs
    of an anomalous and a nominal group, which is wide.
    Raises InputError where a class is missing or a score is not finite.
    """
    from scipy.stats import norm

    values, labels = labelled_scores(scores, anomalous)
    placements = placements_of(values, labels)
    area = float(placements[labels].mean())
    member = group_numbers(groups, labels.size)
    variance = placement_variance(placements - area, labels, member)
    if variance <= 0 or not 0 < area < 1:
        return Auroc(area, *_clopper_pearson_pairs(area, labels, member))
    half_width = float(norm.ppf(0.975)) * variance**0.5 / (area * (1 - area))
    centre = log(area / (1 - area))
    return Auroc(area, 1 / (1 + exp(half_width - centre)), 1 / (1 + exp(-half_width - centre)))


def area_under_roc(nominal: ArrayLike, anomalous: ArrayLike) -> float:
    """The area under the ROC curve of the scores (n,) of nominal images, or pixels, and those (k,) of anomalous ones.

    The chance that an anomalous one scores above a nominal one; ties count half; scikit-learn takes ten times
    as long. Raises InputError where there are none of a kind, or a score is not finite.
    """
    below, values = np.sort(finite_scores(nominal, "nominal")), np.sort(finite_scores(anomalous, "anomalous"))
    beaten = np.searchsorted(below, values, "left") + np.searchsorted(below, values, "right")
    return float(beaten.mean() / (2 * below.size))


def placements_of(scores: FloatArray, anomalous: BoolArray) -> FloatArray:
    """For each image the share of the other class that it is on the right side of: (n,) float64 in [0, 1]."""
    from scipy.stats import rankdata

    ranks = rankdata(scores)
    placements = np.empty_like(scores)
    placements[anomalous] = (ranks[anomalous] - rankdata(scores[anomalous])) / np.count_nonzero(~anomalous)
    placements[~anomalous] = 1 - (ranks[~anomalous] - rankdata(scores[~anomalous])) / np.count_nonzero(anomalous)
    return placements


def group_numbers(groups: Groups | None, n_images: int) -> NDArray[np.intp]:
    """The number of each image's group: (n,) integers from 0; without groups each image is its own."""
    if groups is None:
        return np.arange(n_images)
    if len(groups) != n_images:
        raise InputError(
            f"There are {n_images} labelled images and {len(groups)} groups: give one group for each image."
        )
    return np.unique(np.asarray(groups).astype(str), return_inverse=True)[1]


def placement_variance(excess: FloatArray, anomalous: BoolArray, member: NDArray[np.intp]) -> float:
    """Obuchowski's variance of the area, DeLong's where every image is its own group; 0 for a class of one group."""
    hit, nominal = (np.bincount(member, of_class) for of_class in (anomalous, ~anomalous))
    n_groups = np.array([np.count_nonzero(hit), np.count_nonzero(nominal), hit.size])
    if n_groups.min() < 2:
        return 0.0
    hit_sum = np.bincount(member, excess * anomalous) / hit.sum()
    nominal_sum = np.bincount(member, excess * ~anomalous) / nominal.sum()
    products = np.array([hit_sum @ hit_sum, nominal_sum @ nominal_sum, 2 * hit_sum @ nominal_sum])
    return float(n_groups / (n_groups - 1) @ products)


def _clopper_pearson_pairs(area: float, anomalous: BoolArray, member: NDArray[np.intp]) -> tuple[float, float]:
    """The interval of the area from disjoint pairs of groups: independent trials that succeed with that chance."""
    of_anomalous, of_nominal = set(member[anomalous].tolist()), set(member[~anomalous].tolist())
    n_pairs = min(len(of_anomalous), len(of_nominal), max(1, len(of_anomalous | of_nominal) // 2))
    return _clopper_pearson(area * n_pairs, n_pairs)


def _clopper_pearson(count: float, total: int) -> tuple[float, float]:
    from scipy.stats import beta

    low = float(beta.ppf(0.025, count, total - count + 1)) if count > 0 else 0.0
    high = float(beta.ppf(0.975, count + 1, total - count)) if count < total else 1.0
    return low, high
