"""The recipe for detection, chosen for the images at hand: fitted, tried on defects, and the best of them fused.

Nominal images are split in three by group: recipes are fitted on the first part, what is usual at each position is
taken from the second, and the third, with synthetic defects made from it, says which recipes tell defects best.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from ae_models.baselines import fit_principal_components
from ae_models.curves import Auroc, auroc
from ae_models.detector import Detector, FusedDetector, in_parts, log_score
from ae_models.front_ends import build_front_end
from ae_models.images import FeatureSpec, ImageSpec
from ae_models.networks import build_network
from ae_models.networks.gaussian import fit_positional_gaussian
from ae_models.scoring import Score, ScoreDesign
from ae_models.synthetic_defects import SyntheticDefects

CODE_SIZE = 64
FUSED = 3  # recipes in the detector
TINY, SMALL = 0.01, 0.05  # shares of the positions that small defects cover
MAD_TO_DEVIATION = 1.4826
BASELINE_CODE_SIZE = 32


@dataclass(frozen=True)
class Recipe:
    """What a detector is made of, before anything is fitted."""

    front_end: str
    network: str
    design: ScoreDesign
    front_end_parameters: dict[str, Any] = field(default_factory=dict)
    network_parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def network_key(self) -> str:
        """The same for recipes that differ in their score only, so that one network serves them."""
        return repr((self.front_end, self.front_end_parameters, self.network, self.network_parameters))

    @property
    def view(self) -> str:
        """The same for recipes that see an image alike, but for its resolution, the size of the code and the score."""
        parameters = {key: value for key, value in self.front_end_parameters.items() if key != "step"}
        return repr((self.front_end, parameters, self.network))

    @property
    def name(self) -> str:
        """The recipe in words."""
        details = ", ".join(
            key if value is True else str(value) for key, value in self.front_end_parameters.items() if key != "step"
        )
        usual = ", positional" if self.design.positional else ""
        pooling = "mean" if self.design.pooling == 1 else f"top {self.design.pooling:.0%}"
        size = f"-{self.network_parameters['code_size']}" if "code_size" in self.network_parameters else ""
        return f"{self.network}{size} on {self.front_end}{f' ({details})' if details else ''}{usual}, {pooling}"


BASELINE = Recipe("pixels", "pca", ScoreDesign(), {}, {"code_size": BASELINE_CODE_SIZE})


@dataclass(frozen=True)
class Trial:
    """How well a recipe told defects from held-out nominal images.

    Attributes:
        aurocs: by kind of defect.
        rank: mean over the kinds of its rank among the recipes, from 1 for the best.
        chosen: whether it is in the detector.
    """

    recipe: Recipe
    aurocs: dict[str, float]
    rank: float
    chosen: bool


@dataclass(frozen=True)
class Selection:
    """The detector, and what was tried for it.

    Attributes:
        detector: the best recipes, fused.
        trials: every recipe, in the order in which they were tried.
        auroc: of the fused recipes on the defects that they were chosen by.
        baseline_auroc: of the mean squared error of principal components of the pixels, on the same.
        seconds: that it took.
    """

    detector: FusedDetector
    trials: tuple[Trial, ...]
    auroc: Auroc
    baseline_auroc: Auroc
    seconds: float

    @property
    def chosen(self) -> tuple[str, ...]:
        """The names of the recipes in the detector, the best first."""
        return tuple(trial.recipe.name for trial in sorted(self.trials, key=lambda trial: trial.rank) if trial.chosen)

    def table(self) -> list[dict[str, str | float | bool]]:
        """One row a recipe, the best first: name, whether it is in the detector, mean rank, AUROC by kind of defect."""
        rows = sorted(self.trials, key=lambda trial: trial.rank)
        return [
            {
                "recipe": trial.recipe.name,
                "chosen": trial.chosen,
                "mean_rank": trial.rank,
                "mean_auroc": float(np.mean(list(trial.aurocs.values()))),
                **trial.aurocs,
            }
            for trial in rows
        ]


def linear_recipes(spec: ImageSpec) -> tuple[Recipe, ...]:
    """Recipes whose network is fitted in closed form, or is none: seconds on any machine."""
    short = min(spec.height, spec.width)
    coarse = max(1, round(short / 32))
    cell = max(min(4, short // 9), coarse, 1)
    front_ends = (
        ("pixels", {"step": coarse}),
        ("pixels", {"step": coarse, "standardised": True}),
        ("gradients", {"step": cell, "normalised": "cell"}),
        ("gradients", {"step": cell, "normalised": "image"}),
    )
    designs = [ScoreDesign(3, positional, pooling) for positional in (False, True) for pooling in (1.0, TINY)]
    recipes = [
        Recipe(front_end, "pca", design, parameters, {"code_size": CODE_SIZE})
        for front_end, parameters in front_ends
        for design in designs
    ]
    recipes += [
        Recipe("derivatives", "gaussian", ScoreDesign(3, True, pooling), {"step": cell})
        for pooling in (1.0, SMALL, TINY)
    ]
    recipes += [Recipe("contrast", "none", ScoreDesign(3, True, pooling)) for pooling in (SMALL, TINY)]
    return tuple(recipes)


@dataclass(frozen=True)
class NominalParts:
    """Nominal images (N, C, H, W) float32 in [0, 1] by what they are used for; no group is in two of them.

    Attributes:
        fit: networks are fitted to them.
        usual: what is usual at each position is taken from them.
        selection: defects are made from them and compared with them; in the end networks are fitted to them too.
        other: further ones that defects are compared with, and nothing is ever fitted to.
    """

    fit: NDArray[np.float32]
    usual: NDArray[np.float32]
    selection: NDArray[np.float32]
    other: NDArray[np.float32] | None = None

    @property
    def compared(self) -> NDArray[np.float32]:
        """The nominal images that defects are compared with."""
        return self.selection if self.other is None else np.concatenate([self.selection, self.other])

    @property
    def spec(self) -> ImageSpec:
        """Size and channels of the images."""
        _, channels, height, width = self.fit.shape
        return ImageSpec(height, width, channels)


@dataclass(frozen=True)
class _Tried:
    """A recipe and the logarithms of its scores, fitted without the images that it scored."""

    recipe: Recipe
    nominal: NDArray[np.float64]
    defects: NDArray[np.float64]


def select(
    parts: NominalParts,
    defects: SyntheticDefects,
    recipes: Sequence[Recipe],
    weights: Mapping[str, float] | None = None,
    fused: int = FUSED,
    seed: int = 0,
    on_network: Callable[[str], None] = lambda name: None,
) -> Selection:
    """Fit every recipe, rank them on the defects, and fuse the best, fitted again on all that is there.

    Args:
        parts: nominal images.
        defects: images with defects, as a rule synthetic ones made from `parts.selection`.
        recipes: what to try; the baseline is tried beside them.
        weights: how much each kind of defect matters; by default all alike.
        fused: how many of the best are fused.
        seed: of what is random in fitting.
        on_network: called before each network is fitted, with its name.
    """
    start = perf_counter()
    tried: list[_Tried] = []
    for group in by_network([BASELINE, *recipes]):
        on_network(group[0].name)
        tried += _try(group, parts, defects, seed)
    kinds = list(dict.fromkeys(defects.kinds.tolist()))
    aurocs = np.array([[_auroc(one, defects.kinds == kind) for kind in kinds] for one in tried])
    importance = [(weights or {}).get(kind, 1.0) for kind in kinds]
    ranks = np.average([rankdata(-column) for column in aurocs.T.round(3)], axis=0, weights=importance)
    best = _best(ranks, [one.recipe for one in tried], fused)
    chosen = [tried[place] for place in best]
    detector = _fused(chosen, parts, seed)
    truth = np.concatenate([np.zeros(len(parts.compared), np.bool_), np.ones(len(defects.kinds), np.bool_)])
    sources = defects.sources.tolist()  # a defect and the image that it was made of are one group; -1 for real defects
    groups = [*map(str, range(len(parts.compared)))]
    groups += [str(source) if source >= 0 else f"defect {place}" for place, source in enumerate(sources)]
    trials = tuple(
        Trial(one.recipe, dict(zip(kinds, row.tolist(), strict=True)), float(rank), place in best)
        for place, (one, row, rank) in enumerate(zip(tried, aurocs, ranks, strict=True))
    )
    fused_scores = np.max([_spreads(one) for one in chosen], axis=0)
    return Selection(
        detector,
        trials,
        auroc(fused_scores, truth, groups),
        auroc(np.concatenate([tried[0].nominal, tried[0].defects]), truth, groups),
        perf_counter() - start,
    )


def _best(ranks: NDArray[np.float64], recipes: Sequence[Recipe], fused: int) -> list[int]:
    """The places of the best recipes, no two of one view: they would see the same, and miss the same."""
    best: dict[str, int] = {}
    for place in np.argsort(ranks, kind="stable"):
        best.setdefault(recipes[place].view, int(place))
    return list(best.values())[:fused]


def by_network(recipes: Sequence[Recipe]) -> list[list[Recipe]]:
    """The recipes that share a front end and a network, which is fitted once for them."""
    groups: dict[str, list[Recipe]] = {}
    for recipe in recipes:
        groups.setdefault(recipe.network_key, []).append(recipe)
    return list(groups.values())


def _try(group: Sequence[Recipe], parts: NominalParts, defects: SyntheticDefects, seed: int) -> list[_Tried]:
    base = fit_recipe(group[0], parts.spec, parts.fit, seed)
    usual, nominal, defective = (errors_of(base, images) for images in (parts.usual, parts.compared, defects.images))
    tried = []
    for recipe in group:
        score = fit_score(recipe.design, usual)
        tried.append(_Tried(recipe, *(log_score(score(errors).numpy()) for errors in (nominal, defective))))
    return tried


def _fused(chosen: Sequence[_Tried], parts: NominalParts, seed: int) -> FusedDetector:
    """The chosen recipes fitted again, selection images included; their nominal spread stays that of unseen images."""
    images = np.concatenate([parts.fit, parts.selection])
    members = []
    for one in chosen:
        base = fit_recipe(one.recipe, parts.spec, images, seed)
        members.append(replace(base, fitted_score=fit_score(one.recipe.design, errors_of(base, parts.usual))))
    spreads = [robust_spread(one.nominal[: len(parts.selection)]) for one in chosen]
    centres, scales = zip(*spreads, strict=True)
    return FusedDetector(tuple(members), centres, scales)


def robust_spread(values: NDArray[np.float64]) -> tuple[float, float]:
    """Median and 1.4826 times the median absolute deviation of values (n,), the second always above 0."""
    centre = float(np.median(values))
    return centre, max(1e-6, MAD_TO_DEVIATION * float(np.median(np.abs(values - centre))))


def fit_recipe(recipe: Recipe, spec: ImageSpec, images: NDArray[np.float32], seed: int) -> Detector:
    """The recipe's front end and network, fitted to nominal images (N, C, H, W); its score is not fitted yet."""
    front_end = build_front_end(recipe.front_end, spec, recipe.front_end_parameters)
    features: FeatureSpec = front_end.spec  # type: ignore[assignment]  # torch types attributes as modules
    if recipe.network == "pca":
        values = np.concatenate([part.numpy() for part in _features(front_end, images)])
        code_size = min(recipe.network_parameters["code_size"], len(images) // 2)
        network: nn.Module = fit_principal_components(values, features, code_size, seed)
        parameters = {"code_size": len(network.components)}  # type: ignore[arg-type]  # torch types buffers as modules
    elif recipe.network == "gaussian":
        network, parameters = fit_positional_gaussian(torch.cat(_features(front_end, images)), features), {}
    else:
        network, parameters = build_network(recipe.network, features, recipe.network_parameters), {}
    return Detector(
        spec,
        recipe.network,
        parameters,
        network.eval(),
        front_end_name=recipe.front_end,
        front_end_parameters=recipe.front_end_parameters,
    )


def fit_score(design: ScoreDesign, usual: Tensor) -> Score:
    """The score of a design, fitted to the errors (N, h, w) of held-out nominal images."""
    score = Score(design, *usual.shape[1:])
    score.fit(usual)
    return score


def _features(front_end: nn.Module, images: NDArray[np.float32]) -> list[Tensor]:
    with torch.inference_mode():
        return [front_end(torch.from_numpy(part)) for part in in_parts(images)]


def errors_of(detector: Detector, images: NDArray[np.float32]) -> Tensor:
    """Squared errors (N, h, w) of images (N, C, H, W) in [0, 1]."""
    return torch.cat([detector.errors(torch.from_numpy(part)) for part in in_parts(images)])


def _spreads(tried: _Tried) -> NDArray[np.float64]:
    """The scores of nominal images and defects in nominal spreads above the usual."""
    centre, scale = robust_spread(tried.nominal)
    return (np.concatenate([tried.nominal, tried.defects]) - centre) / scale


def _auroc(tried: _Tried, of_kind: NDArray[np.bool_]) -> float:
    truth = np.concatenate([np.zeros(len(tried.nominal)), np.ones(int(of_kind.sum()))])
    return float(roc_auc_score(truth, np.concatenate([tried.nominal, tried.defects[of_kind]])))
