"""From features and their reconstruction to an error map and one score; the lesson's mean squared error by default."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from ae_models.errors import InputError
from ae_models.front_ends import local_mean

STEADY = 0.3  # share of the mean variance that is added to each: where nominal images never vary, errors would explode
FAINTEST = 0.01  # share of an image's mean error that is added to each before their geometric mean
LEAST_ENERGY = 1e-4  # mean square below which an image is black
LEAST = 1e-12  # a squared rounding error: what nominal images that never err anywhere are divided by


@dataclass(frozen=True)
class ScoreDesign:
    """How the squared errors of an image become its score.

    Attributes:
        smoothing: side of the window over which errors are averaged, in positions; odd, 1 for none.
        positional: whether errors are divided by what they are at that position in held-out nominal images.
        pooling: share of the positions, those with the largest errors, whose mean is the score; in (0, 1].
        energy: power of the features' mean square by which an image's errors are divided; 0 for none, 1 makes the error
            of an image and of the same one with other contrast alike.
        relative: power of an image's typical error, the geometric mean over its positions, by which its errors are
            divided; 0 for none. Some nominal images are hard throughout, as in other light or of a coarser grain: a
            defect stands out from its own image.
    """

    smoothing: int = 1
    positional: bool = False
    pooling: float = 1.0
    energy: float = 0.0
    relative: float = 0.0

    def __post_init__(self) -> None:
        if type(self.smoothing) is not int or self.smoothing < 1 or self.smoothing % 2 == 0:
            raise InputError(f"smoothing is {self.smoothing!r}: give an odd number of positions, 1 for none")
        if not 0 < self.pooling <= 1:
            raise InputError(f"pooling is {self.pooling!r}: give a share above 0 and at most 1")
        if not 0 <= self.energy <= 1:
            raise InputError(f"energy is {self.energy!r}: give a power from 0 (not used) to 1")
        if not 0 <= self.relative <= 1:
            raise InputError(f"relative is {self.relative!r}: give a power from 0 (not used) to 1")

    def to_json(self) -> dict[str, Any]:
        """Its values by name; `from_json` takes them back."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """The design that `to_json` stored; a missing or an unknown key is an `InputError`."""
        names = {field.name for field in fields(cls)}
        if set(stored) != names:
            raise InputError(f"A score design holds exactly {sorted(names)}, but this one holds {sorted(stored)}.")
        return cls(**stored)


class Score(nn.Module):
    """Error maps and scores by a design; `fit` gives it the errors of held-out nominal images where it needs them.

    Args:
        design: how errors become a score.
        height: of the maps.
        width: of the maps.
    """

    usual: Tensor  # (h, w), what the smoothed error is divided by

    def __init__(self, design: ScoreDesign, height: int, width: int) -> None:
        super().__init__()
        self.design = design
        self.register_buffer("usual", torch.ones(height, width))

    def fit(self, errors: Tensor) -> None:
        """Take what is usual at each position from the error maps (N, h, w) of held-out nominal images."""
        fit_scores([self], [errors])

    def maps(self, errors: Tensor) -> Tensor:
        """Error maps (N, h, w) by the design, of squared errors (N, h, w)."""
        return self.maps_of(smoothed(errors, self.design.smoothing))

    def maps_of(self, smooth: Tensor) -> Tensor:
        """The same, of squared errors that are smoothed already."""
        maps = smooth / self.usual
        if self.design.relative == 0:
            return maps
        faintest = FAINTEST * maps.mean((1, 2), keepdim=True) + LEAST
        typical = (maps + faintest).log().mean((1, 2), keepdim=True).exp()
        return maps / typical.pow(self.design.relative)

    def forward(self, errors: Tensor) -> Tensor:
        """Scores (N,) float64, higher is more anomalous, of squared errors (N, h, w)."""
        return self.pooled(self.maps(errors))

    def pooled(self, maps: Tensor) -> Tensor:
        """Scores (N,) float64 of error maps (N, h, w)."""
        positions = maps.flatten(1)
        if self.design.pooling < 1:
            kept = max(1, round(self.design.pooling * positions.shape[1]))
            positions = positions.topk(kept, dim=1).values
        return positions.cpu().double().mean(1)  # Apple's GPUs have no float64


def smoothed(errors: Tensor, side: int) -> Tensor:
    """Means of errors (N, h, w) over a window of that odd side about every position."""
    return errors if side == 1 else local_mean(errors[:, None], side, side)[:, 0]


def fit_scores(scores: Sequence[Score], parts: Iterable[Tensor]) -> None:
    """`Score.fit` of several scores, by errors in parts (n, h, w) that are gone through once and not kept."""
    positional = [score for score in scores if score.design.positional]
    sums, count = {score.design.smoothing: torch.zeros_like(score.usual).cpu().double() for score in positional}, 0
    for errors in parts if sums else ():
        for side, total in sums.items():
            total += smoothed(errors, side).sum(0).cpu()
        count += len(errors)
    for score in positional:
        mean = (sums[score.design.smoothing] / count).to(score.usual)
        score.usual = mean + STEADY * mean.mean() + LEAST


def scores_by(scores: Sequence[Score], parts: Iterable[Tensor]) -> Tensor:
    """What each score gives each image, (scores, N) float64, of errors in parts (n, h, w); none of them is kept.

    Smoothing, and maps that differ in their pooling only, are computed once. The scores were fitted to the same errors.
    """
    but_pooling = [replace(score.design, pooling=1.0) for score in scores]
    of_maps = dict(zip(but_pooling, scores, strict=True))
    found = []
    for errors in parts:
        smooth = {side: smoothed(errors, side) for side in {design.smoothing for design in of_maps}}
        maps = {design: score.maps_of(smooth[design.smoothing]) for design, score in of_maps.items()}
        pooled = [score.pooled(maps[design]) for design, score in zip(but_pooling, scores, strict=True)]
        found.append(torch.stack(pooled))
    return torch.cat(found, dim=1)


def relative_errors(errors: Tensor, features: Tensor, power: float) -> Tensor:
    """Squared errors (N, h, w) over the mean square of their image's features (N, c, h, w) to a power."""
    if power == 0:
        return errors
    energy = features.square().mean((1, 2, 3)) + LEAST_ENERGY
    return errors / energy[:, None, None].pow(power)


def squared_errors(features: Tensor, reconstructions: Tensor) -> Tensor:
    """Squared error at every position (N, h, w), mean over channels, of features and reconstructions (N, c, h, w)."""
    return (features - reconstructions).square().mean(dim=1)
