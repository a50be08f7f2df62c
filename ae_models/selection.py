"""The recipe for detection, chosen for the images at hand: fitted, tried on defects, and the best of them fused.

Nominal images are split in three by group: recipes are fitted on the first part, what is usual at each position is
taken from the second, and the third, with synthetic defects made from it, says which recipes tell defects best.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ae_models.backbone import Backbone
from ae_models.baselines import PrincipalComponents, fit_principal_components
from ae_models.curves import Auroc, area_under_roc, auroc
from ae_models.detector import LEAST_OPINION, Detector, FusedDetector, log_score
from ae_models.front_ends import build_front_end
from ae_models.images import FeatureSpec, ImageSpec
from ae_models.localizer import suits_localizers
from ae_models.localizing import fit_localizer
from ae_models.networks import build_network
from ae_models.networks.code import fit_code_distance
from ae_models.networks.codebook import fit_codebook
from ae_models.networks.feature_restoration import FeatureRestoration
from ae_models.networks.gaussian import PositionalGaussian, fit_positional_gaussian
from ae_models.networks.moments import fit_window_moments
from ae_models.networks.whitened import fit_whitened_components
from ae_models.scoring import LEAST, Score, ScoreDesign, fit_scores, scores_by
from ae_models.synthetic_defects import LOCAL_KINDS, SyntheticDefectCorruption, SyntheticDefects
from ae_models.training import TrainingSettings, fit
from ae_models.views import Views

CODE_SIZE, WHITENED_CODE_SIZE = 64, 128
DISTANCE_CODE_SIZES = (8, 16, 32)
ENTRIES = 512  # of a codebook
WINDOWS = (3, 4)  # along a side, in which moments are taken: what lies across the edge of one lies within another
RELATIVE = 1 / 3  # power of an image's typical error by which its errors are divided
FUSED = 11  # recipes in the detector, at most
SPECK, TINY, SMALL = 0.003, 0.01, 0.05  # shares of the positions that small defects cover
FINE = 64  # positions along the short side of the finest features that are looked at
TAUGHT = (
    "spots",
    "scratch",
    "patch",
    "missing",
)  # kinds of defects that networks learn from; they are judged by others
STEPS, BATCH_SIZE, LEARNING_RATE = 400, 16, 4e-3  # of training
EPOCH = 400  # images at least, between two looks at the held-out ones
SMALLEST_OF_BACKBONES = 32  # pixels along the short side
MOST_BACKBONE_POSITIONS = 32  # along the short side: each has a covariance of its own
SMALLEST_TRAINED = 8  # positions along the short side
HELD_OUT = 256  # images that say when to stop, at most
SHORTEST_TRAINING = 20.0  # seconds; with less left nothing is trained
MAPPED, MAPPED_PIXELS = 150, 500_000  # defects and pixels on which error maps are compared, about
MAD_TO_DEVIATION = 1.4826
MIDDLE_90 = 3.29  # deviations between these quantiles
LEAST_SPREAD = 0.01  # of the logarithm of a score: a hundredth of the score
BASELINE_CODE_SIZE = 32
LOCALIZER = "localizer"  # its name beside those of recipes
SIZES = ("code_size", "windows")  # parameters of networks that stand in the names of recipes


@dataclass(frozen=True)
class Recipe:
    """What a detector is made of, before anything is fitted."""

    front_end: str
    network: str
    design: ScoreDesign
    front_end_parameters: dict[str, Any] = field(default_factory=dict)
    network_parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def view(self) -> str:
        """The same for recipes whose networks see the same of an image."""
        return repr((self.front_end, self.front_end_parameters))

    @property
    def network_key(self) -> str:
        """The same for recipes that differ in their score only, so that one network's errors serve them."""
        return repr((self.view, self.network, self.network_parameters, self.design.energy))

    @property
    def kind(self) -> str:
        """What it is one of, for fusing: recipes of one kind miss much the same things."""
        if self.front_end == "backbone":
            return self.front_end
        if self.network == "codebook":
            return f"codebook on {self.front_end}"
        if self.network == "moments":
            return f"moments in {self.network_parameters['windows']} windows a side"
        return "pca" if self.network == "whitened_pca" else self.network

    @property
    def on_ridges(self) -> bool:
        """Whether it sees ridges, which shows it what others of its kind miss."""
        return self.front_end == "ridges"

    @property
    def trained(self) -> bool:
        """Whether the network learns step by step, from synthetic defects."""
        return self.network == "restoration"

    @property
    def name(self) -> str:
        """The recipe in words."""
        details = ", ".join(
            key if value is True else str(value)
            for key, value in self.front_end_parameters.items()
            if key not in ("step", "stages")
        )
        usual = ", positional" if self.design.positional else ""
        pooling = "mean" if self.design.pooling == 1 else f"top {100 * self.design.pooling:g}%"
        size = "".join(f"-{self.network_parameters[key]}" for key in SIZES if key in self.network_parameters)
        return f"{self.network}{size} on {self.front_end}{f' ({details})' if details else ''}{usual}, {pooling}"


BASELINE = Recipe("pixels", "pca", ScoreDesign(), {}, {"code_size": BASELINE_CODE_SIZE})


@dataclass(frozen=True)
class Trial:
    """How well a recipe told defects from held-out nominal images.

    Attributes:
        aurocs: by kind of defect; without those that its network learned from, which would flatter it.
        auroc: mean over these kinds, by which it is judged.
        weight: its share in the fused score; 0 where it is not in the detector.
    """

    recipe: Recipe
    aurocs: dict[str, float]
    auroc: float
    weight: float

    @property
    def chosen(self) -> bool:
        """Whether it is in the detector."""
        return self.weight > 0


@dataclass(frozen=True)
class Selection:
    """The detector, and what was tried for it.

    Attributes:
        detector: the best recipes, fused.
        trials: every recipe, in the order in which they were tried.
        auroc: of the fused recipes on the defects that they were chosen by.
        baseline_auroc: of the mean squared error of principal components of the pixels, on the same.
        seconds: that it took.
        left_out: the names of what there was no time to train.
    """

    detector: FusedDetector
    trials: tuple[Trial, ...]
    auroc: Auroc
    baseline_auroc: Auroc
    seconds: float
    left_out: tuple[str, ...]

    @property
    def chosen(self) -> tuple[str, ...]:
        """The names of the recipes in the detector, the best first."""
        return tuple(trial.recipe.name for trial in self._ranked() if trial.chosen)

    def table(self) -> list[dict[str, str | float | bool]]:
        """One row a recipe, the best first: name, weight in the detector, mean AUROC and AUROC by kind of defect."""
        return [
            {
                "recipe": trial.recipe.name,
                "chosen": trial.chosen,
                "weight": trial.weight,
                "mean_auroc": trial.auroc,
                **trial.aurocs,
            }
            for trial in self._ranked()
        ]

    def _ranked(self) -> list[Trial]:
        return sorted(self.trials, key=lambda trial: -trial.auroc)


def _design(positional: bool, pooling: float) -> ScoreDesign:
    return ScoreDesign(3, positional, pooling, relative=RELATIVE)


def linear_recipes(spec: ImageSpec) -> tuple[Recipe, ...]:
    """Recipes whose network is fitted in closed form, or is none: seconds on any machine."""
    short = min(spec.height, spec.width)
    coarse, fine = max(1, round(short / 32)), max(1, round(short / FINE))
    cell = max(min(4, short // 9), coarse, 1)
    front_ends = (
        ("pixels", {"step": coarse}),
        ("pixels", {"step": coarse, "standardised": True}),
        ("gradients", {"step": cell, "normalised": "cell"}),
        ("gradients", {"step": cell, "normalised": "image"}),
    )
    designs = [_design(positional, pooling) for positional in (False, True) for pooling in (1.0, TINY)]
    recipes = [
        Recipe(front_end, "pca", design, parameters, {"code_size": CODE_SIZE})
        for front_end, parameters in front_ends
        for design in designs
    ]
    recipes += [
        Recipe("derivatives", "gaussian", _design(True, pooling), {"step": fine})
        for pooling in (1.0, SMALL, TINY, SPECK)
    ]
    recipes += [
        Recipe("derivatives", "code", ScoreDesign(), {"step": coarse}, {"code_size": size})
        for size in DISTANCE_CODE_SIZES
    ]
    recipes += [
        Recipe("derivatives", "whitened_pca", design, {"step": coarse}, {"code_size": WHITENED_CODE_SIZE})
        for design in designs
    ]
    recipes += [
        Recipe("ridges", "gaussian", _design(True, pooling), {"step": coarse}) for pooling in (SMALL, TINY, SPECK)
    ]
    recipes += [
        Recipe("ridges", "whitened_pca", design, {"step": coarse}, {"code_size": WHITENED_CODE_SIZE})
        for design in designs
    ]
    recipes += [
        Recipe(front_end, "codebook", _design(positional, pooling), parameters, {"entries": ENTRIES})
        for front_end, parameters in (("derivatives", {"step": coarse}), front_ends[2])
        for positional in (False, True)
        for pooling in (1.0, SMALL, TINY)
    ]
    recipes += [
        Recipe("gradients", "moments", ScoreDesign(), front_ends[2][1], {"windows": windows}) for windows in WINDOWS
    ]
    recipes += [Recipe("contrast", "none", _design(True, pooling)) for pooling in (SMALL, TINY, SPECK)]
    return tuple(recipes)


def suits_backbones(spec: ImageSpec) -> bool:
    """Whether a pretrained network sees anything in images so small."""
    return min(spec.height, spec.width) >= SMALLEST_OF_BACKBONES


def backbone_recipes(spec: ImageSpec, name: str | None) -> tuple[Recipe, ...]:
    """Recipes on what the pretrained network `name` sees; none without one, or where images are too small for it."""
    if name is None or not suits_backbones(spec):
        return ()
    short = min(spec.height, spec.width)
    stages = [1, 2, 3] if short <= 4 * MOST_BACKBONE_POSITIONS else [2, 3]
    return tuple(
        Recipe("backbone", "gaussian", _design(positional, pooling), {"name": name, "stages": stages})
        for positional in (False, True)
        for pooling in (1.0, SMALL, TINY)
    )


def trained_recipes(spec: ImageSpec) -> tuple[Recipe, ...]:
    """Recipes whose network learns to restore synthetic defects: minutes without a GPU."""
    step = max(1, round(min(spec.height, spec.width) / FINE))
    if min(spec.height, spec.width) // step < SMALLEST_TRAINED:
        return ()
    return tuple(
        Recipe("derivatives", "restoration", ScoreDesign(3, positional, pooling), {"step": step})
        for positional in (False, True)
        for pooling in (1.0, SMALL, TINY, SPECK)
    )


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
    def compared(self) -> tuple[NDArray[np.float32], ...]:
        """The nominal images that defects are compared with."""
        return (self.selection,) if self.other is None else (self.selection, self.other)

    @property
    def spec(self) -> ImageSpec:
        """Size and channels of the images."""
        _, channels, height, width = self.fit.shape
        return ImageSpec(height, width, channels)


@dataclass(frozen=True)
class Fitting:
    """How recipes are fitted.

    Attributes:
        seed: of what is random.
        device: that networks are trained on.
        on_epoch: called after each epoch of a network in training, with its number and how many there will be.
        seconds: that the training of a network may take.
        checkpoints: a folder for where the training of each network stands; None for none.
        views: what front ends made of the images already.
    """

    seed: int = 0
    device: str = "cpu"
    on_epoch: Callable[[int, int], None] = lambda epoch, epochs: None
    seconds: float = math.inf
    checkpoints: Path | None = None
    views: Views = field(default_factory=Views)


@dataclass(frozen=True)
class _Tried:
    """A recipe and the logarithms of its scores, fitted without the images that it scored."""

    recipe: Recipe
    detector: Detector
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
    on_epoch: Callable[[int, int], None] = lambda epoch, epochs: None,
    seconds: float = math.inf,
    device: str = "cpu",
    checkpoints: Path | None = None,
    localise: bool = False,
) -> Selection:
    """Fit every recipe, see how well each tells the defects, and fuse the best of each kind of network.

    Kinds of networks miss different things: one what it can reconstruct, one what is common, one what it was not
    taught. So the fused ones are the best of each kind, and each kind counts as the square of how far above chance its
    best mean AUROC is. Where recipes of a kind see ridges and others do not, the best of both are fused and share that.

    Args:
        parts: nominal images.
        defects: images with defects, as a rule synthetic ones made from `parts.selection`.
        recipes: what to try, in this order; the baseline is tried before them.
        weights: how much each kind of defect matters; by default all alike.
        fused: how many are fused, at most.
        seed: of what is random in fitting.
        on_network: called before each network is fitted, with its name.
        on_epoch: called after each epoch of a network in training, with its number and how many there will be; for the
            localizer with how many parts of its work are done, and how many there are.
        seconds: that all of it may take; networks that need training are given what is left, if it is enough.
        device: that they are trained on.
        checkpoints: a folder for where the training of each network stands, so that one that died goes on there.
        localise: whether the detector learns in the end where defects are, for its error maps, if time is left.
    """
    start = perf_counter()
    tried: list[_Tried] = []
    left_out: list[str] = []
    fitting = Fitting(seed, device, on_epoch, checkpoints=checkpoints)
    for group in by_network([BASELINE, *recipes]):
        left = seconds - (perf_counter() - start)
        if group[0].trained and left < SHORTEST_TRAINING:
            left_out.append(group[0].network)
            continue
        on_network(group[0].name)
        tried += _try(group, parts, defects, replace(fitting, seconds=left))
    kinds = list(dict.fromkeys(defects.kinds.tolist()))
    aurocs = np.array([[_auroc(one, defects.kinds == kind) for kind in kinds] for one in tried])
    counts = _that_count(tried, kinds, defects)
    importance = counts * np.array([(weights or {}).get(kind, 1.0) for kind in kinds])
    means = np.average(aurocs, axis=1, weights=importance)
    shares = _shares(means, [one.recipe for one in tried], fused)
    trials = tuple(
        Trial(
            one.recipe, {kind: value for kind, value, counted in zip(kinds, row, count, strict=True) if counted}, *rest
        )
        for one, row, count, *rest in zip(tried, aurocs.tolist(), counts, means.tolist(), shares, strict=True)
    )
    chosen = [(one, share) for one, share in zip(tried, shares, strict=True) if share > 0]
    told = np.isin(defects.kinds, np.array(kinds)[counts.all(axis=0)])
    as_tried = _fused(chosen, parts, fitting, _map_shares(chosen, defects, told, fitting))
    detector = replace(as_tried, members=_refitted(chosen, parts, fitting))
    left = seconds - (perf_counter() - start)
    localise = localise and suits_localizers(parts.spec)
    if localise and left < SHORTEST_TRAINING:
        left_out.append(LOCALIZER)
    elif localise:
        on_network(LOCALIZER)
        feared = tuple(kind for kind in LOCAL_KINDS if not weights or kind in weights) or LOCAL_KINDS
        kept = checkpoints and checkpoints / f"{LOCALIZER}.pt"
        unseen = np.concatenate([parts.usual, parts.selection])  # by networks that were not fitted again
        localizer = fit_localizer(as_tried, unseen, feared, seed, left, device, on_epoch, kept)
        detector = replace(detector, localizer=localizer)
    compared = sum(map(len, parts.compared))
    truth = np.concatenate([np.zeros(compared, np.bool_), np.ones(int(told.sum()), np.bool_)])
    sources = defects.sources[told].tolist()  # a defect and the image it was made of are one group; -1 for real defects
    groups = [*map(str, range(compared))]
    groups += [str(source) if source >= 0 else f"defect {place}" for place, source in enumerate(sources)]
    fused_scores = np.sum([share * _spreads(one, told) for one, share in chosen], axis=0)
    return Selection(
        detector,
        trials,
        auroc(fused_scores, truth, groups),
        auroc(np.concatenate([tried[0].nominal, tried[0].defects[told]]), truth, groups),
        perf_counter() - start,
        tuple(left_out),
    )


def _that_count(tried: Sequence[_Tried], kinds: Sequence[str], defects: SyntheticDefects) -> NDArray[np.bool_]:
    """Whether a recipe is judged by a kind, (recipes, kinds): not by what it learned from, where there is another."""
    taught = np.isin(kinds, TAUGHT) & bool((defects.sources >= 0).all())
    if taught.all():
        taught[:] = False
    return np.array([~(taught & one.recipe.trained) for one in tried])


def _shares(means: NDArray[np.float64], recipes: Sequence[Recipe], fused: int) -> list[float]:
    """What each recipe's opinion counts, in all 1: nothing but for the best `fused` of one kind each, on ridges or not.

    A kind counts as the square of how far above chance its best is; both of a kind share that in proportion to theirs.
    """
    best: dict[tuple[str, bool], int] = {}
    for place in np.argsort(-means, kind="stable").tolist():
        best.setdefault((recipes[place].kind, recipes[place].on_ridges), place)
    chosen = list(best.values())[:fused]
    above = {place: max(0.0, float(means[place]) - 0.5) ** 2 for place in chosen}
    if not any(above.values()):
        above = {chosen[0]: 1.0}
    most, total = defaultdict[str, float](float), defaultdict[str, float](float)
    for place, value in above.items():
        kind = recipes[place].kind
        most[kind], total[kind] = max(most[kind], value), total[kind] + value
    counts = {
        place: above[place] * most[kind] / (total[kind] or 1) for place in above for kind in [recipes[place].kind]
    }
    return [counts.get(place, 0.0) / sum(counts.values()) for place in range(len(means))]


def by_network(recipes: Sequence[Recipe]) -> list[list[Recipe]]:
    """The recipes that share a front end and a network, which is fitted once for them."""
    groups: dict[str, list[Recipe]] = {}
    for recipe in recipes:
        groups.setdefault(recipe.network_key, []).append(recipe)
    return list(groups.values())


def _try(group: Sequence[Recipe], parts: NominalParts, defects: SyntheticDefects, fitting: Fitting) -> list[_Tried]:
    base = fit_recipe(group[0], parts, fitting)
    scores = fit_designs(base, [recipe.design for recipe in group], parts.usual, fitting.views)
    nominal, defective = (
        log_score(scores_by(scores, errors_of(base, images, fitting.views)).numpy())
        for images in (parts.compared, (defects.images,))
    )
    return [
        _Tried(recipe, replace(base, fitted_score=score), *logarithms)
        for recipe, score, *logarithms in zip(group, scores, nominal, defective, strict=True)
    ]


def _map_shares(
    chosen: Sequence[tuple[_Tried, float]], defects: SyntheticDefects, told: NDArray[np.bool_], fitting: Fitting
) -> list[float]:
    """What each chosen recipe's error map counts, in all 1: the square of how far above chance it tells the pixels of
    defects from others. Where no mask says which pixels these are, it counts as much as the recipe's score."""
    shown = np.flatnonzero(told & defects.masks.any((1, 2)))
    shown = shown[:: max(1, len(shown) // MAPPED)]
    masks = defects.masks[shown]
    if not masks.any() or masks.all():
        return [share for _, share in chosen]
    above = [max(0.0, _pixel_auroc(one.detector, defects, shown, fitting) - 0.5) ** 2 for one, _ in chosen]
    return [each / sum(above) for each in above] if any(above) else [share for _, share in chosen]


def _pixel_auroc(detector: Detector, defects: SyntheticDefects, shown: NDArray[np.int64], fitting: Fitting) -> float:
    """AUROC of the pixels of the detector's error maps of some of the defects against their masks."""
    masks, views = defects.masks[shown], fitting.views
    parts = views.parts(detector.view, detector.front_end, defects.images, shown)  # kept since these were scored
    maps = _whole(detector.to_pixels(detector.scorer.maps(detector.errors_in(part))) for part in parts)
    step = max(1, round((maps.size / MAPPED_PIXELS) ** 0.5))
    masks, maps = masks[:, ::step, ::step], maps[:, ::step, ::step]
    return area_under_roc(maps[~masks], maps[masks])


def _fused(
    chosen: Sequence[tuple[_Tried, float]], parts: NominalParts, fitting: Fitting, map_shares: Sequence[float]
) -> FusedDetector:
    """The chosen recipes; their nominal spread is that of images that they were not fitted to."""
    spreads = [robust_spread(one.nominal[: len(parts.selection)]) for one, _ in chosen]
    centres, scales = zip(*spreads, strict=True)
    usual = [_usual_error(one.detector, parts, fitting) for one, _ in chosen]
    of_maps = tuple(share / error for share, error in zip(map_shares, usual, strict=True))
    members = tuple(one.detector for one, _ in chosen)
    return FusedDetector(members, centres, scales, tuple(share for _, share in chosen), of_maps)


def _refitted(chosen: Sequence[tuple[_Tried, float]], parts: NominalParts, fitting: Fitting) -> tuple[Detector, ...]:
    """The detectors of the chosen recipes, those in closed form fitted again, selection images included."""
    members = []
    for one, _ in chosen:
        if one.recipe.trained or one.recipe.network == "none":
            members.append(one.detector)
            continue
        base = fit_recipe(one.recipe, parts, fitting, with_selection=True)
        (score,) = fit_designs(base, [one.recipe.design], parts.usual, fitting.views)
        members.append(replace(base, fitted_score=score))
    return tuple(members)


def _usual_error(detector: Detector, parts: NominalParts, fitting: Fitting) -> float:
    """The mean over all positions of the detector's error maps of the selection images, always above 0."""
    maps = (detector.scorer.maps(errors) for errors in errors_of(detector, (parts.selection,), fitting.views))
    return max(LEAST, float(np.mean(np.concatenate([part.mean((1, 2)).numpy() for part in maps]))))


def robust_spread(values: NDArray[np.float64]) -> tuple[float, float]:
    """Median and 1.4826 times the median absolute deviation of values (n,), the second always above 0.

    Where most values are alike, and any other would outweigh all else, it is a tenth of what lies between the 5% and
    the 95% quantile, in deviations of a normal distribution.
    """
    low, centre, high = np.quantile(values, (0.05, 0.5, 0.95)).tolist()
    deviation = MAD_TO_DEVIATION * float(np.median(np.abs(values - centre)))
    return centre, max(LEAST_SPREAD, (high - low) / (10 * MIDDLE_90), deviation)


def fit_recipe(recipe: Recipe, parts: NominalParts, fitting: Fitting, with_selection: bool = False) -> Detector:
    """The recipe's front end and network, fitted to `parts.fit`, or `parts.selection` too; its score is the mean error.

    Of the parts, `usual` says when training has to stop.
    """
    front_end = build_front_end(recipe.front_end, parts.spec, recipe.front_end_parameters)
    if isinstance(front_end, Backbone):
        front_end.load_pretrained()
    features: FeatureSpec = front_end.spec  # type: ignore[assignment]  # torch types attributes as modules
    images = (parts.fit, parts.selection) if with_selection else (parts.fit,)
    count = sum(map(len, images))

    def seen(*some: NDArray[np.float32]) -> Iterator[Tensor]:
        return chain.from_iterable(fitting.views.parts(recipe.view, front_end, each) for each in some)

    parameters = dict(recipe.network_parameters)
    if recipe.network == "pca":
        code_size = min(parameters["code_size"], count // 2)
        network: nn.Module = fit_principal_components(_whole(seen(*images)), features, code_size, fitting.seed)
    elif recipe.network == "code":
        code_size = min(parameters["code_size"], count // 2)
        held_out = _whole(seen(parts.usual))
        network = fit_code_distance(_whole(seen(*images)), held_out, features, code_size, fitting.seed)
    elif recipe.network == "whitened_pca":
        code_size = min(parameters["code_size"], count // 4)
        network = fit_whitened_components(list(seen(*images)), features, code_size, fitting.seed)
    elif recipe.network == "gaussian":
        network = fit_positional_gaussian(seen(*images), features)
    elif recipe.network == "codebook":
        network = fit_codebook(seen(*images), count, features, parameters["entries"], fitting.seed)
    elif recipe.network == "moments":
        network = fit_window_moments(seen(*images), features, parameters["windows"])
    elif recipe.trained:
        usual = fit_positional_gaussian(seen(*images), features)
        network = _trained(recipe, front_end, usual, parts, np.concatenate(images), fitting)
    else:
        network = build_network(recipe.network, features, parameters)
    if isinstance(network, PrincipalComponents):
        parameters = {"code_size": len(network.components)}
    return Detector(
        parts.spec,
        recipe.network,
        parameters,
        network.eval(),
        front_end_name=recipe.front_end,
        front_end_parameters=recipe.front_end_parameters,
        fitted_front_end=front_end if isinstance(front_end, Backbone) else None,
        fitted_score=Score(ScoreDesign(energy=recipe.design.energy), features.height, features.width),
    )


class _OnFeatures(nn.Module):
    """A network that learns on the features of images, which are what is corrupted."""

    def __init__(self, front_end: nn.Module, network: FeatureRestoration) -> None:
        super().__init__()
        self.front_end, self.network = front_end, network
        self.needs_corruption = network.needs_corruption

    def training_loss(self, images: Tensor, clean: Tensor) -> Tensor:
        """The network's loss, a scalar, of corrupted images (N, C, H, W) whose clean ones are known."""
        with torch.no_grad():
            features, wished = self.front_end(images), self.front_end(clean)
        return self.network.training_loss(features, wished)

    def validation_loss(self, images: Tensor, clean: Tensor) -> Tensor:
        """The same, of held-out images."""
        return self.training_loss(images, clean)


def _trained(
    recipe: Recipe,
    front_end: nn.Module,
    usual: PositionalGaussian,
    parts: NominalParts,
    images: NDArray[np.float32],
    fitting: Fitting,
) -> nn.Module:
    features: FeatureSpec = front_end.spec  # type: ignore[assignment]  # torch types attributes as modules

    def build() -> nn.Module:
        network = FeatureRestoration(features, **recipe.network_parameters)
        network.usual.load_state_dict(usual.state_dict())
        return _OnFeatures(front_end, network)

    images = np.tile(images, (max(1, EPOCH // len(images)), 1, 1, 1))  # each time with another defect
    epochs = math.ceil(STEPS * BATCH_SIZE / len(images))
    settings = TrainingSettings(
        epochs, BATCH_SIZE, LEARNING_RATE, epochs, fitting.seed, fitting.device, fitting.seconds
    )
    trained = fit(
        build,
        images,
        parts.usual[:HELD_OUT],
        settings,
        lambda epoch, network: fitting.on_epoch(epoch.number, epochs),
        SyntheticDefectCorruption(TAUGHT),
        fitting.checkpoints and fitting.checkpoints / f"{_file_name(recipe)}.pt",
    ).network
    network: nn.Module = trained.network  # type: ignore[assignment]  # torch types attributes as tensors or modules
    return network


def _file_name(recipe: Recipe) -> str:
    return hashlib.sha256(repr(recipe).encode()).hexdigest()[:16]


def with_score(detector: Detector, design: ScoreDesign, usual: NDArray[np.float32]) -> Detector:
    """The detector with a score of that design, fitted to held-out nominal images (N, C, H, W) in [0, 1]."""
    (score,) = fit_designs(detector, [design], usual)
    return replace(detector, fitted_score=score)


def fit_designs(
    detector: Detector, designs: Sequence[ScoreDesign], usual: NDArray[np.float32], views: Views | None = None
) -> list[Score]:
    """A score of each design, fitted to the detector's errors of held-out nominal images (N, C, H, W) in [0, 1]."""
    features: FeatureSpec = detector.front_end.spec  # type: ignore[assignment]  # torch types attributes as modules
    scores = [Score(design, features.height, features.width) for design in designs]
    fit_scores(scores, errors_of(detector, (usual,), views))
    return scores


def errors_of(
    detector: Detector, images: Sequence[NDArray[np.float32]], views: Views | None = None
) -> Iterator[Tensor]:
    """Squared errors, in parts (n, h, w), of arrays of images (N, C, H, W) in [0, 1]; `views` as in `Fitting`."""
    views = views or Views(0)
    for each in images:
        yield from map(detector.errors_in, views.parts(detector.view, detector.front_end, each))


def _whole(parts: Iterable[Tensor]) -> NDArray[np.float32]:
    return np.concatenate([part.numpy() for part in parts])


def _spreads(tried: _Tried, told: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The scores of nominal images and of the defects that count, in nominal spreads above the usual."""
    centre, scale = robust_spread(tried.nominal)
    return np.maximum(LEAST_OPINION, (np.concatenate([tried.nominal, tried.defects[told]]) - centre) / scale)


def _auroc(tried: _Tried, of_kind: NDArray[np.bool_]) -> float:
    return area_under_roc(tried.nominal, tried.defects[of_kind])
