"""`model: auto`: the recipe for a pipeline's images chosen, and what was tried recorded in MLflow."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ae_models.backbone import BACKBONES
from ae_models.baselines import PrincipalComponents
from ae_models.curves import Auroc
from ae_models.detector import FusedDetector
from ae_models.errors import InputError
from ae_models.images import ImageSpec
from ae_models.localizer import suits_localizers
from ae_models.panels import recipe_figure
from ae_models.pretrained import is_at_hand, require_weights
from ae_models.selection import (
    NominalParts,
    Selection,
    backbone_recipes,
    linear_recipes,
    select,
    suits_backbones,
    trained_recipes,
)
from ae_models.splits import split_by_group
from ae_models.synthetic_defects import KINDS, SyntheticDefects, draw_defects
from flows.config import AutoConfig
from flows.config_incidents import in_words
from flows.progress import Progress
from flows.tracking import Tracking

PER_KIND = 45  # synthetic defects of each kind
SELECTION_SHARE = 0.25  # of the training side
FEWEST_TO_FIT, FEWEST_TO_CHOOSE = 4, 2  # images; a defect may take a part of another image
MOST = 4000  # training images that recipes are tried on
FEWEST_DEFECTS = 20  # labelled anomalous images from which on they say which recipe is best


@dataclass(frozen=True)
class LabelledImages:
    """Labelled images to choose by, (N, C, H, W) float32 in [0, 1], and the label of each; None for a nominal one."""

    pixels: NDArray[np.float32]
    labels: tuple[str | None, ...]


@dataclass(frozen=True)
class Choice:
    """The chosen detector, and how it and the baseline do on the defects that it was chosen by."""

    detector: FusedDetector
    auroc: Auroc
    baseline_auroc: Auroc
    n_recipes: int
    chosen: tuple[str, ...]
    defects: str


def choose(
    model: AutoConfig,
    training: tuple[NDArray[np.float32], list[str]],
    validation: NDArray[np.float32],
    labelled: LabelledImages | None,
    picture: PrincipalComponents,
    seed: int,
    device: str,
    tracking: Tracking,
    run_id: str,
    progress: Progress,
    checkpoints: Path | None = None,
) -> Choice:
    """Try the recipes on the training side's images and fuse the best.

    Args:
        model: the section of the configuration.
        training: nominal images (N, C, H, W) float32 in [0, 1] of the training side, and the group of each.
        validation: those of the validation side, from which is taken what is usual at each position.
        labelled: real defects to choose by, where there are enough.
        picture: reconstructs images for people.
        seed: of the split, the defects and the fits.
        device: that networks are trained on.
        tracking: gets the table of recipes and its picture.
        run_id: the training run.
        progress: told how far it is.
        checkpoints: a folder for where the training of each network stands.
    """
    parts = _parts(*training, validation[:MOST], seed)
    defects, words = _defects(model, parts, labelled, seed)
    if labelled is not None and words == REAL:
        nominal = np.array([label is None for label in labelled.labels])
        parts = replace(parts, other=labelled.pixels[nominal])
    backbone = _backbone(model, parts.spec)
    recipes = linear_recipes(parts.spec) + backbone_recipes(parts.spec, backbone) + trained_recipes(parts.spec)
    networks = len({one.network_key for one in recipes}) + 1 + suits_localizers(parts.spec)
    weights = {str(kind): weight for kind, weight in (model.defects or {}).items()}
    with TrialBars(progress, networks) as bars:
        found = select(
            parts,
            defects,
            recipes,
            weights,
            model.fused,
            seed,
            bars.on_network,
            bars.on_epoch,
            model.time_budget.total_seconds(),
            device,
            checkpoints,
            localise=True,
        )
    if found.left_out:
        names, budget = " and ".join(found.left_out), in_words(model.time_budget)
        progress.warn(
            f"Trying recipes may take {budget}, which was not enough to train {names}: what is quicker is fused; "
            "give more time with model.time_budget."
        )
    _log(tracking, run_id, found, words)
    detector = replace(found.detector, picture=picture)
    return Choice(detector, found.auroc, found.baseline_auroc, len(found.trials), found.chosen, words)


class TrialBars(ExitStack):
    """How far choosing is: recipes one after the other, and the epochs of one that is trained in a bar of their own."""

    def __init__(self, progress: Progress, networks: int) -> None:
        super().__init__()
        self._progress, self._networks = progress, networks
        self._fitted, self._name, self._epoch = -1, "", 0
        self._advance: Callable[..., None] | None = None  # of the recipes' bar, while that is the one shown
        self._advance_training: Callable[..., None] | None = None

    def on_network(self, name: str) -> None:
        """A network begins, so the one before it is done."""
        self._fitted, self._name, self._epoch = self._fitted + 1, name.partition(", ")[0], 0
        if self._advance:
            self._advance(1, self._name)
            return
        self._advance, self._advance_training = self._show("Trying recipes", self._networks), None
        self._advance(self._fitted, self._name)

    def on_epoch(self, epoch: int, epochs: int) -> None:
        """An epoch is done; where training goes on from a checkpoint the first is not 1."""
        if not self._advance_training:
            self._advance, self._advance_training = None, self._show(f"Training {self._name}", epochs)
        self._advance_training(epoch - self._epoch)
        self._epoch = epoch

    def _show(self, what: str, total: int) -> Callable[..., None]:
        self.close()
        return self.enter_context(self._progress.track(what, total))


REAL, SYNTHETIC = "labelled defects", "synthetic defects"


def held_out(groups: list[str], seed: int) -> dict[str, NDArray[np.int64]]:
    """The places of the training side's images by use, "fit" and "selection"; a group is in one of them only.

    Raises:
        InputError: there are too few images, or too few groups, to hold some out.
    """
    least = {"fit": FEWEST_TO_FIT, "selection": FEWEST_TO_CHOOSE}
    if len(groups) < sum(least.values()) or len(set(groups)) < 2:
        raise InputError(
            f"model auto holds out some of the images to learn from, and {len(groups)} images in {len(set(groups))} "
            f"groups are too few: give more nominal images (it takes {sum(least.values())} in 2 groups beside those "
            "for validation and calibration), or name a network, such as model: linear"
        )
    return split_by_group(groups, {"fit": 1 - SELECTION_SHARE, "selection": SELECTION_SHARE}, seed, least)


def _parts(images: NDArray[np.float32], groups: list[str], validation: NDArray[np.float32], seed: int) -> NominalParts:
    sides = held_out(groups, seed)
    fit, selection = (images[places[:MOST]] for places in (sides["fit"], sides["selection"]))
    return NominalParts(fit, validation, selection)


def _defects(
    model: AutoConfig, parts: NominalParts, labelled: LabelledImages | None, seed: int
) -> tuple[SyntheticDefects, str]:
    """Real defects where there are enough of them, and otherwise synthetic ones."""
    if labelled is not None:
        kinds = np.array([label for label in labelled.labels if label is not None])
        if len(kinds) >= FEWEST_DEFECTS and len(kinds) < len(labelled.labels):
            pixels = labelled.pixels[[label is not None for label in labelled.labels]]
            _, _, height, width = pixels.shape
            nowhere = np.zeros((len(pixels), height, width), np.bool_)
            return SyntheticDefects(pixels, nowhere, kinds, np.full(len(pixels), -1, np.int64)), REAL
    kinds_wished = tuple(model.defects or KINDS)
    return draw_defects(parts.selection, PER_KIND, seed, kinds_wished), SYNTHETIC


def _backbone(model: AutoConfig, spec: ImageSpec) -> str | None:
    """The backbone whose features are tried: the one that is named, or one whose weights are at hand."""
    if model.backbone == "auto":
        return next((name for name in BACKBONES if is_at_hand(name)), None) if suits_backbones(spec) else None
    if model.backbone == "none":
        return None
    require_weights(model.backbone)
    return model.backbone


def _log(tracking: Tracking, run_id: str, found: Selection, words: str) -> None:
    table = pd.DataFrame(found.table())
    tracking.log_table(run_id, table, "recipes.csv")
    tracking.log_picture(run_id, recipe_figure(found, words), "recipes.png")
    tracking.log(
        run_id,
        params={"recipes.chosen": "; ".join(found.chosen), "recipes.tried": len(table), "recipes.chosen_by": words},
        metrics={
            "selection_seconds": found.seconds,
            "selection_auroc": found.auroc.value,
            "selection_baseline_auroc": found.baseline_auroc.value,
        },
    )
