"""The recipe is chosen by the defects that it tells from nominal images, and fused with the next best."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from ae_models import localizing
from ae_models import selection as selection_module
from ae_models.baselines import PrincipalComponents, fit_principal_components
from ae_models.curves import auroc
from ae_models.detector import Detector
from ae_models.images import ImageSpec
from ae_models.scoring import ScoreDesign
from ae_models.selection import (
    BASELINE,
    TAUGHT,
    Fitting,
    NominalParts,
    Recipe,
    Selection,
    fit_recipe,
    linear_recipes,
    robust_spread,
    select,
    trained_recipes,
    with_score,
)
from ae_models.synthetic_defects import LOCAL_KINDS, SyntheticDefects, draw_defects

SEES_LIGHT = Recipe("pixels", "pca", ScoreDesign(), {"step": 8}, {"code_size": 1})
SEES_DETAIL = Recipe("contrast", "none", ScoreDesign(3, True, 0.01))


def nominal_images(count: int, size: tuple[int, int, int] = (24, 24, 1), seed: int = 0) -> NDArray[np.float32]:
    """Images (count, C, H, W) of one soft texture, with little or much noise."""
    height, width, channels = size
    down, across = np.mgrid[0:height, 0:width]
    texture = 0.5 + 0.15 * np.sin(across / 3) + 0.1 * np.cos(down / 4)
    random = np.random.default_rng(seed)
    strength = random.uniform(0.02, 0.08, (count, 1, 1, 1))  # hides small defects from a mean over all pixels
    noise = strength * random.normal(size=(count, channels, height, width))
    images: NDArray[np.float32] = np.clip(texture + noise, 0, 1).astype(np.float32)
    return images


def rings(random: np.random.Generator, count: int, gap: float = 0) -> NDArray[np.float32]:
    """Images (count, 1, 32, 32) of a ring anywhere, with a gap of that many radians anywhere in it."""
    down, across = np.mgrid[0:32, 0:32]
    row, column, angle = (random.uniform(low, high, (count, 1, 1)) for low, high in ((9, 23), (9, 23), (-np.pi, np.pi)))
    away = np.hypot(down - row, across - column)
    turn = np.angle(np.exp(1j * (np.arctan2(down - row, across - column) - angle)))
    ring = np.clip(2 - np.abs(away - 6), 0, 1) * (np.abs(turn) >= gap / 2)
    images: NDArray[np.float32] = (0.2 + 0.6 * ring + 0.01 * random.normal(size=ring.shape)).astype(np.float32)
    return images[:, None]


def planted(images: NDArray[np.float32], kinds: Sequence[str]) -> SyntheticDefects:
    """A dark spot of 2 x 2 pixels in each image, or all of it a little brighter."""
    spotted, brighter = images.copy(), np.clip(images + 0.04, 0, 1)
    spotted[:, :, 10:12, 6:8] = np.clip(images[:, :, 10:12, 6:8] - 0.45, 0, 1)
    changed = [{"spots": spotted, "brightness": brighter}[kind] for kind in kinds]
    masks = [np.abs(one - images).max(axis=1) > 0.02 for one in changed]
    sources = np.tile(np.arange(len(images)), len(kinds))
    return SyntheticDefects(
        np.concatenate(changed), np.concatenate(masks), np.repeat(kinds, len(images)), sources.astype(np.int64)
    )


def parts_of(
    size: tuple[int, int, int] = (24, 24, 1), counts: tuple[int, int, int] = (30, 15, 20), seed: int = 0
) -> NominalParts:
    """Nominal images in three parts."""
    images = nominal_images(sum(counts), size, seed)
    fit, usual, selection = np.split(images, np.cumsum(counts)[:2])
    return NominalParts(fit, usual, selection)


def choose(
    kinds: Sequence[str], recipes: Sequence[Recipe], weights: dict[str, float] | None = None, fused: int = 1
) -> Selection:
    """The selection among recipes by planted defects of some kinds."""
    parts = parts_of()
    return select(parts, planted(parts.selection, kinds), recipes, weights, fused)


def chosen(selection: Selection) -> list[Recipe]:
    """The recipes in the detector."""
    return [trial.recipe for trial in selection.trials if trial.chosen]


def fitted_baseline(parts: NominalParts) -> PrincipalComponents:
    """The baseline by hand; at most half as many components as images."""
    return fit_principal_components(parts.fit, parts.spec, len(parts.fit) // 2)


class TestChoice:
    """Which recipe is the best."""

    @pytest.mark.parametrize(("kind", "best"), [("brightness", SEES_LIGHT), ("spots", SEES_DETAIL)])
    @pytest.mark.parametrize("order", [1, -1])
    def test_the_recipe_that_sees_the_defects_is_chosen(self, kind: str, best: Recipe, order: int) -> None:
        """Coarse means drown a detail, and light is no contrast: what is to be found decides, and not the order."""
        assert chosen(choose([kind], [SEES_LIGHT, SEES_DETAIL][::order])) == [best]

    @pytest.mark.parametrize(
        ("weights", "best"),
        [({"spots": 20.0}, SEES_DETAIL), ({"brightness": 20.0}, SEES_LIGHT)],
        ids=["spots", "brightness"],
    )
    def test_what_the_owner_fears_weighs_more(self, weights: dict[str, float], best: Recipe) -> None:
        """On the same defects, the kind that matters most decides; kinds without a weight count 1."""
        assert chosen(choose(["spots", "brightness"], [SEES_LIGHT, SEES_DETAIL], weights)) == [best]

    def test_many_of_one_sort_do_not_turn_the_choice(self) -> None:
        """A recipe that finds both kinds is the best, however many find spots a little better and nothing else."""
        shares = (0.01, 0.02, 0.03, 0.05, 0.1, 0.3, 0.6, 1.0)
        others = [replace(SEES_DETAIL, design=replace(SEES_DETAIL.design, pooling=share)) for share in shares]
        assert chosen(choose(["spots", "brightness"], [*others, SEES_LIGHT])) == [SEES_LIGHT]

    def test_fused_both_kinds_are_found(self) -> None:
        """The fused recipes tell both kinds of defects better than either recipe alone."""
        recipes = [SEES_LIGHT, SEES_DETAIL]
        both = choose(["spots", "brightness"], recipes, fused=2)
        alone = [choose(["spots", "brightness"], [one], {}, 1) for one in recipes]
        assert both.auroc.value > max(one.auroc.value for one in alone)

    def test_ridges_share_the_weight_of_their_kind(self) -> None:
        """So that a kind counts no more for being seen twice; each of the two as it tells the defects."""
        pair = [
            Recipe(sight, "gaussian", ScoreDesign(3, True, 0.01), {"step": 2}) for sight in ("derivatives", "ridges")
        ]
        selection = choose(["spots", "brightness"], [SEES_LIGHT, *pair], fused=3)
        _, light, *both = selection.trials
        assert [trial.chosen for trial in selection.trials] == [False, True, True, True]
        above, *of_kind = [(trial.auroc - 0.5) ** 2 for trial in (light, *both)]
        whole = above + max(of_kind)
        assert light.weight == pytest.approx(above / whole)
        for trial, own in zip(both, of_kind, strict=True):
            assert trial.weight == pytest.approx(max(of_kind) * own / sum(of_kind) / whole)

    def test_the_baseline_is_always_tried(self) -> None:
        """Principal components of the pixels, by the lesson's score: first, and named on their own."""
        selection = choose(["spots"], [SEES_DETAIL])
        assert [trial.recipe for trial in selection.trials] == [BASELINE, SEES_DETAIL]
        (value,) = selection.trials[0].aurocs.values()
        assert selection.baseline_auroc.value == pytest.approx(value)

    def test_the_seed_decides_all(self) -> None:
        """The same images, defects and seed give the same choice and the same scores, to the last bit."""
        first, second = (choose(["spots", "brightness"], [SEES_LIGHT, SEES_DETAIL], fused=2) for _ in range(2))
        assert first.table() == second.table()
        given = nominal_images(5, seed=9)
        assert first.detector.score(given).tolist() == second.detector.score(given).tolist()

    def test_real_defects_and_further_nominal_images_are_compared(self) -> None:
        """Labelled nominal images are compared with the defects, and nothing is fitted to them."""
        parts = parts_of()
        further = nominal_images(10, seed=5)
        more = NominalParts(parts.fit, parts.usual, parts.selection, further)
        assert [len(images) for images in more.compared] == [len(parts.selection), 10]
        drawn = draw_defects(nominal_images(10, seed=6), 20, 0, ["spots"])
        defects = SyntheticDefects(drawn.images, drawn.masks, drawn.kinds, np.full(20, -1, np.int64))
        with_more, without = (select(part, defects, [SEES_DETAIL], fused=1) for part in (more, parts))
        given = nominal_images(5, seed=9)
        assert with_more.detector.score(given).tolist() == without.detector.score(given).tolist()


class TestAnywhere:
    """Objects that lie anywhere in their images."""

    def test_a_codebook_tells_what_a_gaussian_at_each_position_does_not(self) -> None:
        """A ring lies anywhere; of some a piece is missing."""
        random = np.random.default_rng(0)
        parts = NominalParts(*(rings(random, count) for count in (60, 20, 40)))
        broken = SyntheticDefects(
            rings(random, 40, gap=0.8), np.ones((40, 32, 32), np.bool_), np.repeat("missing", 40), np.full(40, -1)
        )
        step, design = {"step": 1}, ScoreDesign(3, False, 0.01)
        recipes = [
            Recipe("derivatives", "gaussian", design, step),
            Recipe("derivatives", "codebook", design, step, {"entries": 512}),
        ]
        selection = select(parts, broken, recipes, fused=1)
        _, gaussian, codebook = selection.trials
        assert gaussian.auroc < 0.75
        assert codebook.auroc > 0.9
        assert chosen(selection) == [recipes[1]]


class TestTable:
    """What was tried, for people."""

    def test_it_has_one_row_a_recipe_the_best_first(self) -> None:
        """With its mean AUROC, and that by kind of defect."""
        rows = choose(["spots", "brightness"], [SEES_LIGHT, SEES_DETAIL]).table()
        assert [row["mean_auroc"] for row in rows] == sorted((float(row["mean_auroc"]) for row in rows), reverse=True)
        assert [row["chosen"] for row in rows] == [True, False, False]
        assert list(rows[0]) == ["recipe", "chosen", "weight", "mean_auroc", "spots", "brightness"]
        for row in rows:
            assert row["mean_auroc"] == pytest.approx((float(row["spots"]) + float(row["brightness"])) / 2)

    @pytest.mark.parametrize(
        ("recipe", "name"),
        [
            (BASELINE, "pca-32 on pixels, mean"),
            (
                Recipe("pixels", "pca", ScoreDesign(3), {"standardised": True, "step": 2}),
                "pca on pixels (standardised)",
            ),
            (Recipe("gradients", "pca", ScoreDesign(3, True), {"normalised": "cell"}), "pca on gradients (cell), posi"),
            (SEES_DETAIL, "none on contrast, positional, top 1%"),
        ],
    )
    def test_a_recipe_has_a_name_in_words(self, recipe: Recipe, name: str) -> None:
        """Network, front end with what is special of it, and score."""
        assert recipe.name.startswith(name)


class TestIntervals:
    """How sure the AUROC is."""

    def test_a_defect_and_the_image_that_it_was_made_of_are_one_group(self) -> None:
        """The interval is as wide as so few source images allow, not as narrow as so many defects."""
        parts = parts_of()
        drawn = draw_defects(parts.selection, 60, 0, ["spots"])
        separate = SyntheticDefects(drawn.images, drawn.masks, drawn.kinds, np.full(60, -1, np.int64))
        grouped, single = (select(parts, defects, [SEES_DETAIL], fused=1).auroc for defects in (drawn, separate))
        assert grouped.value == single.value
        assert (grouped.low, grouped.high) != (single.low, single.high)

    def test_the_groups_are_those_of_the_sources(self) -> None:
        """They are the ones that `auroc` takes: the place of the nominal image."""
        parts = parts_of()
        drawn = draw_defects(parts.selection, 20, 0, ["spots"])
        selection = select(parts, drawn, [], fused=1)
        baseline = Detector(parts.spec, "pca", {}, fitted_baseline(parts))
        scores = np.concatenate([baseline.score(parts.selection), baseline.score(drawn.images)])
        by_hand = auroc(scores, np.arange(40) >= 20, [*range(20), *drawn.sources])
        assert selection.baseline_auroc.value == pytest.approx(by_hand.value)
        assert selection.baseline_auroc.low == pytest.approx(by_hand.low, abs=1e-6)


class TestDetector:
    """The detector that comes of it."""

    def test_its_error_map_points_at_a_defect(self) -> None:
        """The highest point lies within a spot that was planted in a new image, at each of several places."""
        detector = choose(["spots"], linear_recipes(ImageSpec(24, 24, 1)), fused=3).detector
        for top, left in [(3, 4), (10, 17), (18, 8)]:
            image = nominal_images(1, seed=7)
            image[..., top : top + 3, left : left + 3] -= 0.4
            highest = np.unravel_index(detector.error_maps(image)[0].argmax(), (24, 24))
            assert top - 2 <= highest[0] <= top + 4
            assert left - 2 <= highest[1] <= left + 4

    def test_new_nominal_images_score_around_zero(self) -> None:
        """A score is in nominal spreads above the usual: new images of the same kind stay within a few."""
        detector = choose(["spots"], linear_recipes(ImageSpec(24, 24, 1)), fused=3).detector
        assert -2 < np.median(detector.score(nominal_images(50, seed=8))) < 3

    def test_the_chosen_are_fitted_again_to_the_images_that_chose_them(self) -> None:
        """Their networks reconstruct the selection images better than those that were fitted without them."""
        parts = parts_of()
        selection = select(parts, planted(parts.selection, ["brightness"]), [], fused=1)
        (member,) = selection.detector.members
        without = fit_recipe(BASELINE, parts, Fitting())
        assert member.score(parts.selection).mean() < 0.9 * without.score(parts.selection).mean()

    def test_one_of_each_kind_of_network_is_fused(self) -> None:
        """The best of each, as many as there are; what does not tell defects better than chance is left out."""
        recipes = [SEES_DETAIL, SEES_LIGHT, Recipe("pixels", "gaussian", ScoreDesign())]
        networks = [one.network for one in chosen(choose(["spots"], recipes, fused=5))]
        assert sorted(networks) == sorted(set(networks))
        assert "none" in networks

    def test_opinions_weigh_as_much_as_they_are_worth(self) -> None:
        """By the square of their mean AUROC above chance, and in all 1."""
        selection = choose(["spots", "brightness"], [SEES_LIGHT, SEES_DETAIL], fused=2)
        assert sum(trial.weight for trial in selection.trials) == pytest.approx(1)
        first, second = (trial for trial in selection.trials if trial.chosen)
        assert first.weight / second.weight == pytest.approx(((first.auroc - 0.5) / (second.auroc - 0.5)) ** 2)
        assert selection.detector.weights == (first.weight, second.weight)

    def test_maps_weigh_as_much_as_they_tell_of_places(self) -> None:
        """By the square of their AUROC above chance on the pixels of defects, each over its mean on nominal images."""
        parts = parts_of()
        defects = planted(parts.selection, ["spots", "brightness"])
        selection = select(parts, defects, [SEES_LIGHT, SEES_DETAIL], fused=2)
        members = [with_score(fit_recipe(one, parts, Fitting()), one.design, parts.usual) for one in chosen(selection)]
        areas = [roc_auc_score(defects.masks.ravel(), one.error_maps(defects.images).ravel()) for one in members]
        usual = [one.error_maps(parts.selection).mean() for one in members]
        first, second = ((max(0, area - 0.5)) ** 2 / mean for area, mean in zip(areas, usual, strict=True))
        weights = selection.detector.map_weights
        assert weights[0] / weights[1] == pytest.approx(first / second, rel=1e-3)

    def test_without_masks_maps_weigh_as_much_as_scores(self) -> None:
        """Of labelled images it is not known where their defects are."""
        parts = parts_of()
        defects = planted(parts.selection, ["spots", "brightness"])
        unmasked = replace(defects, masks=np.zeros_like(defects.masks))
        selection = select(parts, unmasked, [SEES_LIGHT, SEES_DETAIL], fused=2)
        members = [with_score(fit_recipe(one, parts, Fitting()), one.design, parts.usual) for one in chosen(selection)]
        shares = [
            weight * member.error_maps(parts.selection).mean()
            for weight, member in zip(selection.detector.map_weights, members, strict=True)
        ]
        assert shares == pytest.approx(selection.detector.weights, rel=1e-3)


class TestLocalised:
    """The detector learns where defects are, where that is wished and time is left."""

    def localised(self, seconds: float, monkeypatch: pytest.MonkeyPatch, **more: Any) -> tuple[Selection, list[str]]:
        """A choice, and what was fitted for it."""
        monkeypatch.setattr(localizing, "DRAWN", 100)
        monkeypatch.setattr(localizing, "STEPS", 10)
        parts, names = parts_of(), list[str]()
        defects = planted(parts.selection, ["spots"])
        return select(
            parts, defects, [SEES_DETAIL], on_network=names.append, seconds=seconds, localise=True, **more
        ), names

    def test_with_time_left(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It comes last, and how far it is is told."""
        epochs: list[tuple[int, int]] = []
        found, names = self.localised(60, monkeypatch, on_epoch=lambda *of: epochs.append(of))
        assert found.detector.localizer is not None
        assert names[-1] == "localizer"
        done, parts = zip(*epochs, strict=True)
        assert set(parts) == {20}
        assert list(done) == sorted(done)
        assert (done[0], done[-1]) == (1, 20)

    def test_with_no_time_left(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Error maps stay the weighted sum of the recipes'."""
        found, names = self.localised(10, monkeypatch)
        assert found.detector.localizer is None
        assert "localizer" not in names
        assert found.left_out == ("localizer",)

    def test_it_learns_from_the_kinds_that_matter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Those that the owner of the pipeline fears, where they have a place in the image."""
        taught: list[tuple[str, ...]] = []
        monkeypatch.setattr(
            selection_module, "fit_localizer", lambda detector, unseen, kinds, *rest: taught.append(kinds)
        )
        for weights in ({"spots": 2.0, "brightness": 1.0}, {"brightness": 1.0}, {}):
            self.localised(60, monkeypatch, weights=weights)
        assert taught == [("spots",), LOCAL_KINDS, LOCAL_KINDS]


@pytest.fixture(scope="module")
def parts() -> NominalParts:
    """Nominal images of 16 x 16 pixels."""
    return parts_of((16, 16, 1))


@pytest.fixture(scope="module")
def defects(parts: NominalParts) -> SyntheticDefects:
    """One kind that networks are taught, and two that they are not."""
    return draw_defects(parts.selection, 20, 0, ["spots", "step", "smudge"])


@pytest.fixture(scope="module")
def selection(parts: NominalParts, defects: SyntheticDefects) -> Selection:
    """A choice in which a network was trained."""
    return select(parts, defects, trained_recipes(parts.spec), fused=2)


class TestTrained:
    """Recipes whose network learns from synthetic defects."""

    def test_it_learns_to_tell_defects(self, selection: Selection) -> None:
        """Kinds that it was not taught among them, better than the baseline does."""
        best = max(trial.auroc for trial in selection.trials if trial.recipe.trained)
        assert best > max(0.7, selection.trials[0].auroc)

    def test_it_is_not_judged_by_what_it_was_taught(self, selection: Selection) -> None:
        """Its AUROC on those kinds would flatter it; the others are judged by all."""
        for trial in selection.trials:
            assert set(trial.aurocs) == ({"step", "smudge"} if trial.recipe.trained else {"spots", "step", "smudge"})
            assert trial.auroc == pytest.approx(np.mean(list(trial.aurocs.values())))

    def test_it_is_judged_by_what_it_was_taught_where_there_is_nothing_else(self, parts: NominalParts) -> None:
        """An owner who fears nothing but what networks are taught still gets one."""
        defects = draw_defects(parts.selection, 10, 0, TAUGHT)
        selection = select(parts, defects, trained_recipes(parts.spec)[:1])
        assert set(selection.trials[1].aurocs) == set(TAUGHT)

    def test_real_defects_judge_all(self, parts: NominalParts, defects: SyntheticDefects) -> None:
        """A label that has the name of a synthetic kind is nothing that a network was taught."""
        real = replace(defects, sources=np.full(len(defects.kinds), -1, np.int64))
        selection = select(parts, real, trained_recipes(parts.spec)[:1])
        assert set(selection.trials[1].aurocs) == {"spots", "step", "smudge"}

    def test_without_time_nothing_is_trained(self, parts: NominalParts, defects: SyntheticDefects) -> None:
        """What is in closed form is tried all the same, and fused."""
        selection = select(parts, defects, [*trained_recipes(parts.spec), SEES_DETAIL], seconds=1)
        assert {trial.recipe.network for trial in selection.trials} == {"pca", "none"}

    def test_the_squared_error_is_a_share(self, selection: Selection, parts: NominalParts) -> None:
        """Between 0 and 1 at every position, on nominal images, on noise and on blank ones."""
        (member,) = [one for one in selection.detector.members if one.network_name == "restoration"]
        noise = np.random.default_rng(0).random((4, 1, 16, 16), dtype=np.float32)
        for images in (parts.selection, noise, np.zeros_like(noise)):
            errors = member.errors(torch.from_numpy(images))
            assert 0 <= errors.min() <= errors.max() <= 1 + 1e-5

    def test_images_too_small_for_it(self) -> None:
        """A side of fewer than 8 pixels has no trained recipes."""
        assert trained_recipes(ImageSpec(7, 40, 1)) == ()

    def test_progress_counts_epochs(self, parts: NominalParts, defects: SyntheticDefects) -> None:
        """Each epoch is told, with how many there will be."""
        told: list[tuple[int, int]] = []
        select(parts, defects, trained_recipes(parts.spec)[:1], on_epoch=lambda *epoch: told.append(epoch))
        assert told == [(number, told[-1][1]) for number in range(1, told[-1][1] + 1)]


class TestImages:
    """Whatever images there are."""

    @pytest.mark.parametrize("size", [(8, 8, 1), (16, 31, 3), (40, 9, 1), (1, 20, 1)], ids=str)
    def test_every_size_has_recipes(self, size: tuple[int, int, int]) -> None:
        """Tiny, oblong and coloured ones: one of each kind is fused, all scores are numbers."""
        parts = parts_of(size)
        defects = draw_defects(parts.selection, 4, 0, ["spots", "patch", "brightness"])
        detector = select(parts, defects, linear_recipes(parts.spec)).detector
        names = {"pca", "whitened_pca", "gaussian", "code", "codebook", "moments", "none"}
        assert {one.network_name for one in detector.members} <= names
        assert len(detector.members) >= 3
        given = nominal_images(5, size, seed=9)
        assert np.isfinite(detector.score(given)).all()
        assert detector.error_maps(given).shape == (5, *size[:2])

    @pytest.mark.parametrize("counts", [(9, 4, 4), (4, 1, 2)], ids=str)
    def test_a_handful_of_images(self, counts: tuple[int, int, int]) -> None:
        """Codes are as small as so few images allow, and the scores are numbers."""
        parts = parts_of(counts=counts)
        defects = draw_defects(parts.selection, 4, 0, ["spots", "patch", "brightness"])
        selection = select(parts, defects, linear_recipes(parts.spec))
        assert np.isfinite(selection.detector.score(nominal_images(5, seed=9))).all()

    def test_images_that_are_all_the_same(self) -> None:
        """Nothing varies and nothing errs, and defects are still told."""
        parts = NominalParts(*(np.repeat(nominal_images(1), count, axis=0) for count in (10, 5, 5)))
        defects = draw_defects(parts.selection, 4, 0, ["spots", "patch"])
        selection = select(parts, defects, linear_recipes(parts.spec))
        assert selection.auroc.value == 1
        assert np.isfinite(selection.detector.score(defects.images)).all()

    def test_recipes_that_differ_in_their_score_share_a_network(self) -> None:
        """It is fitted once, and only the best of one kind of network is fused; contrast tells nothing of light."""
        recipes = [SEES_DETAIL, SEES_LIGHT, *(replace(SEES_LIGHT, design=ScoreDesign(1, True, p)) for p in (1, 0.5))]
        parts, fitted = parts_of(), list[str]()
        defects = planted(parts.selection, ["brightness"])
        selection = select(parts, defects, recipes, fused=3, on_network=fitted.append)
        assert fitted == [BASELINE.name, SEES_DETAIL.name, SEES_LIGHT.name]
        assert [one.front_end for one in chosen(selection)] == ["pixels"]

    def test_grey_images_in_colour(self) -> None:
        """Colours that nominal images never have are divided by a number, and coloured defects are told."""
        grey = [np.repeat(nominal_images(count, seed=count), 3, axis=1) for count in (30, 15, 20)]
        parts, red = NominalParts(*grey), np.zeros((1, 3, 24, 24), np.float32)
        red[:, 0] = 1
        defects = draw_defects(parts.selection, 5, 0, ["colour", "spots"])
        selection = select(parts, defects, linear_recipes(parts.spec))
        assert np.isfinite(selection.detector.score(red)).all()


class TestSpread:
    """Median and median absolute deviation."""

    def test_it_is_that_of_a_normal_distribution(self) -> None:
        """Of many normal numbers, mean and deviation; outliers do not count."""
        values = np.random.default_rng(0).normal(3, 2, 10_001)
        values[:100] = 1e9
        centre, scale = robust_spread(values)
        assert centre == pytest.approx(3, abs=0.1)
        assert scale == pytest.approx(2, abs=0.1)

    def test_values_without_spread_can_be_divided_by(self) -> None:
        """The scale is never 0."""
        centre, scale = robust_spread(np.full(5, 2.0))
        assert centre == 2
        assert scale > 0

    def test_where_most_are_alike_the_others_count(self) -> None:
        """Images without any error, more than half of them, make no other one a million spreads off."""
        values = np.concatenate([np.full(60, -80.0), np.linspace(-6, -4, 40)])
        centre, scale = robust_spread(values)
        assert centre == -80
        assert (values.max() - centre) / scale < 50
