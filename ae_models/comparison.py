"""Which of two scores finds anomalous images better, on the same images."""

from dataclasses import dataclass

from numpy.typing import ArrayLike
from scipy.stats import norm

from ae_models.curves import Groups, group_numbers, labelled_scores, placement_variance, placements_of


@dataclass(frozen=True)
class AurocDifference:
    """The area under the ROC curve of one score less that of another on the same images, with its 95% interval."""

    value: float
    low: float
    high: float

    @property
    def worse(self) -> bool:
        """Whether the first is shown to be worse: the whole interval lies below 0."""
        return self.high < 0

    def __str__(self) -> str:
        return f"{self.value:+.3f} (95% interval {self.low:+.3f} to {self.high:+.3f})"


def auroc_difference(
    first: ArrayLike, second: ArrayLike, anomalous: ArrayLike, groups: Groups | None = None
) -> AurocDifference:
    """The difference for scores (n,) and (n,) of images with labels (n,), which belong together as groups (n,) say.

    By DeLong, DeLong and Clarke-Pearson (Biometrics 1988) for paired curves, summed over groups as Obuchowski
    (Biometrics 1997) does: each image counts by the difference of its two placements, so that what both scores find
    easy or hard says nothing. Raises InputError where a class is missing or a score is not finite.
    """
    values, labels = labelled_scores(first, anomalous)
    others, _ = labelled_scores(second, anomalous)
    differences = placements_of(values, labels) - placements_of(others, labels)
    value = float(differences[labels].mean())
    member = group_numbers(groups, labels.size)
    deviation = max(0.0, placement_variance(differences - value, labels, member)) ** 0.5
    half = float(norm.ppf(0.975)) * deviation
    return AurocDifference(value, value - half, value + half)
