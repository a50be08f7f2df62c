"""The tests of a batch and what each follows on nominal batches: flagged images, moved scores, batches that differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, sqrt

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln
from scipy.stats import hypergeom, ks_2samp

from ae_models.calibration import Threshold
from ae_models.curves import FloatArray, finite_scores

EXACT = 1_000_000  # pairs of scores up to which the exact law of the distance takes milliseconds
NORMAL = 1.4826  # the standard deviation of a normal distribution in units of its median absolute deviation

NominalBatches = Sequence[tuple[int, int]]  # (flagged, scored) of each


@dataclass(frozen=True)
class Movement:
    """How far the scores of a batch lie from the calibration's, apart from the images above the threshold."""

    p_value: float  # in [0, 1]; 1 where no image of the batch, or of the calibration, lies below the threshold
    distance: float  # Kolmogorov-Smirnov's, in [0, 1]: at least this share of those images has moved
    median_shift: float | None  # of all scores, in nominal standard deviations; None where those are 0 or it is NaN


def flagged_p_value(n_flagged: int, n_scored: int, threshold: Threshold) -> float:
    """The chance of so many flags or more in a nominal batch, the luck of the calibration included.

    P(X >= x) for X ~ BetaBinomial(m, l, n + 1 - l) (Marques, arXiv 2303.02770), as the equal hypergeometric tail: of
    the x + l - 1 highest of n + m exchangeable images at least x are the batch's (Fisher's exact test), since
    scipy's betabinom.sf is 1 - cdf and wrong below 1e-12.
    """
    n, exceedances = threshold.n_nominal, threshold.exceedances_allowed
    return min(1.0, float(hypergeom.sf(n_flagged - 1, n + n_scored, n_scored, n_flagged + exceedances - 1)))


def movement(scores: ArrayLike, calibration_scores: ArrayLike, threshold: Threshold) -> Movement:
    """Whether the images of a batch (m,) that lie below the threshold score like the calibration images (n,) that do.

    The two-sample Kolmogorov-Smirnov test of the scores below the threshold. Given the threshold, those of a nominal
    batch and of the calibration follow one law and do not depend on the number of flagged images: so the p-value is
    exact, independent of `flagged_p_value`, and not moved by defects that are flagged. Ties only raise it. Raises
    InputError for calibration scores that are not finite.
    """
    batch, nominal = np.asarray(scores, dtype=np.float64), finite_scores(calibration_scores, "nominal calibration")
    # Strictly below, as a conformal threshold is itself one of the calibration scores, and the largest of them.
    rest, nominal_rest = batch[batch < threshold.value], nominal[nominal < threshold.value]
    shift = _median_shift(batch[~np.isnan(batch)], nominal)
    if not rest.size or not nominal_rest.size:
        return Movement(1.0, 0.0, shift)
    few = rest.size * nominal_rest.size <= EXACT
    if few and rest.size == nominal_rest.size:
        return Movement(*_equal_sizes(rest, nominal_rest), shift)
    found = ks_2samp(rest, nominal_rest, method="exact" if few else "asymp")
    return Movement(float(found.pvalue), float(found.statistic), shift)


def _equal_sizes(first: FloatArray, second: FloatArray) -> tuple[float, float]:
    """The exact p-value (Gnedenko and Korolyuk, 1951) and the Kolmogorov-Smirnov distance of n and n scores.

    For equal sizes scipy's exact method rounds chances near 1 to above 1, warns and gives up.
    """
    n, both = first.size, np.concatenate([first, second])
    below, below_too = (np.searchsorted(np.sort(scores), both, side="right") for scores in (first, second))
    steps = int(np.abs(below - below_too).max())
    if steps == 0:
        return 1.0, 0.0
    reach = steps * np.arange(1, n // steps + 1)
    chances = np.exp(2 * gammaln(n + 1) - gammaln(n - reach + 1) - gammaln(n + reach + 1))
    return min(1.0, 2 * float(chances[::2].sum() - chances[1::2].sum())), steps / n


def overdispersion(batches: NominalBatches) -> float | None:
    """Tarone's Z: about standard normal where flags of nominal batches are independent, large where batches differ.

    Tarone, Biometrika 1979, with the rate that the batches have together, so the luck of the calibration does not
    count. None where it is undefined: fewer than two batches, none of two images, or none or all flagged.
    """
    counts = [(int(flagged), int(scored)) for flagged, scored in batches]  # Python's, which have no end
    flags, images = sum(flagged for flagged, _ in counts), sum(scored for _, scored in counts)
    pairs = sum(scored * (scored - 1) for _, scored in counts)
    if len(counts) < 2 or not pairs or not 0 < flags < images:
        return None
    # sum (x - m p)^2 / (p q) for p = flags / images, over one denominator: in whole numbers no order matters
    squares = sum((flagged * images - scored * flags) ** 2 for flagged, scored in counts)
    return (squares - images * flags * (images - flags)) / (flags * (images - flags)) / sqrt(2 * pairs)


def batchwise_p_value(n_flagged: int, n_scored: int, batches: NominalBatches) -> float:
    """The conformal p-value of a batch among K nominal ones by their share of flagged images: at least 1 / (K + 1).

    It takes the batches as exchangeable, not the images within them.
    """
    as_high = sum(flagged * n_scored >= n_flagged * scored for flagged, scored in batches)
    return (1 + as_high) / (len(batches) + 1)


def _median_shift(scores: FloatArray, nominal: FloatArray) -> float | None:
    centre = float(np.median(nominal))
    deviation = NORMAL * float(np.median(np.abs(nominal - centre)))
    shift = (float(np.median(scores)) - centre) / deviation if scores.size and deviation else float("nan")
    return shift if isfinite(shift) else None
