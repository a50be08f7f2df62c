"""Where a defect is, is learned from synthetic ones and told beside the errors, in their units."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from ae_models import localizing
from ae_models.detector import FusedDetector, load_detector
from ae_models.errors import InputError
from ae_models.images import ImageSpec
from ae_models.localizer import Localizer, suits_localizers
from ae_models.localizing import fit_localizer
from ae_models.scoring import ScoreDesign
from ae_models.selection import Fitting, NominalParts, Recipe, fit_recipe, with_score
from ae_models.synthetic_defects import draw_defects

SPEC = ImageSpec(24, 20, 1)
RECIPES = (
    Recipe("contrast", "none", ScoreDesign(3, True, 0.05)),
    Recipe("gradients", "gaussian", ScoreDesign(3, False, 0.1), {"step": 2}),
)


def nominal(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Images (count, 1, 24, 20) of soft ripples with noise."""
    down, across = np.mgrid[0 : SPEC.height, 0 : SPEC.width]
    texture = 0.5 + 0.15 * np.sin(across / 3) + 0.1 * np.cos(down / 4)
    noise = 0.03 * np.random.default_rng(seed).normal(size=(count, *SPEC.shape))
    images: NDArray[np.float32] = np.clip(texture + noise, 0, 1).astype(np.float32)
    return images


@pytest.fixture(scope="module", autouse=True)
def small_lesson() -> Iterator[None]:
    """Fewer defects and steps, which these images need no more of."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(localizing, "DRAWN", 640)
        patch.setattr(localizing, "STEPS", 240)
        yield


def localised(detector: FusedDetector, images: NDArray[np.float32], **more: Any) -> FusedDetector:
    """The detector with what a localizer learned from the images."""
    return replace(detector, localizer=fit_localizer(detector, images, **more))


@pytest.fixture(scope="module")
def fused() -> FusedDetector:
    """Two detectors that see the edges of things, fused, and no localizer."""
    parts = NominalParts(nominal(40), nominal(30, seed=1), nominal(20, seed=2))
    members = tuple(with_score(fit_recipe(one, parts, Fitting()), one.design, parts.usual) for one in RECIPES)
    usual = tuple(1 / float(member.error_maps(parts.selection).mean()) for member in members)
    return FusedDetector(members, (0.0, 0.0), (1.0, 1.0), (0.5, 0.5), usual)


@pytest.fixture(scope="module")
def taught(fused: FusedDetector) -> FusedDetector:
    """The same with a localizer."""
    return localised(fused, nominal(60, seed=3))


class TestTaught:
    """A detector with a localizer."""

    def test_its_maps_tell_more_of_defects_that_are_more_than_their_edge(
        self, fused: FusedDetector, taught: FusedDetector
    ) -> None:
        """Within a stain or beyond a step there is nothing unusual to be seen but the light."""
        defects = draw_defects(nominal(40, seed=4), 40, 0, ["stain", "missing", "step"])
        held = defects.masks.mean((1, 2)) < 0.5
        truth = defects.masks[held].ravel()
        without, with_it = (
            roc_auc_score(truth, one.error_maps(defects.images[held]).ravel()) for one in (fused, taught)
        )
        assert with_it > without + 0.05

    def test_its_scores_are_what_they_were(self, fused: FusedDetector, taught: FusedDetector) -> None:
        """Whether an image is flagged is not for it to say."""
        assert taught.score(nominal(9)).tolist() == fused.score(nominal(9)).tolist()

    def test_its_maps_of_nominal_images_are_in_the_units_of_errors(
        self, fused: FusedDetector, taught: FusedDetector
    ) -> None:
        """What the localizer gives has, in logarithms, the centre and the spread of the errors alone."""
        images = torch.from_numpy(nominal(60, seed=3))
        assert taught.localizer is not None
        with torch.inference_mode():
            given = taught.localizer(images, taught.member_maps(images)).log().numpy()
        errors = np.log(fused.error_maps(images.numpy()))
        assert given.mean() == pytest.approx(errors.mean(), abs=0.05)
        assert given.std() == pytest.approx(errors.std(), rel=0.2)

    def test_its_map_is_the_geometric_mean_of_errors_and_twice_the_localizer(
        self, fused: FusedDetector, taught: FusedDetector
    ) -> None:
        """So that both count, and its values range as far as errors do."""
        images = torch.from_numpy(nominal(5))
        assert taught.localizer is not None
        with torch.inference_mode():
            given = taught.localizer(images, taught.member_maps(images)).numpy()
        wanted = np.cbrt(fused.error_maps(images.numpy()) * given**2)
        np.testing.assert_allclose(taught.error_maps(images.numpy()), wanted, rtol=1e-4)

    def test_errors_below_a_thousandth_of_the_usual_are_alike(self, taught: FusedDetector) -> None:
        """So rounding, which differs between machines and takes errors below 0, changes nothing."""
        assert taught.localizer is not None
        images = torch.from_numpy(nominal(4, seed=6))
        with torch.inference_mode():
            maps = taught.member_maps(images)
            usual = maps.mean((0, 2, 3), keepdim=True)
            maps[..., 5:15, 5:15] = 0
            none = taught.localizer(images, maps)
            for share in (-1e-4, 1e-4, 5e-4):
                rounded = torch.where(maps == 0, share * usual, maps)
                assert torch.equal(taught.localizer(images, rounded), none)

    def test_it_takes_the_mean_of_its_networks(self, taught: FusedDetector) -> None:
        """Each learned by itself, and errs in places of its own."""
        assert taught.localizer is not None
        images = torch.from_numpy(nominal(4, seed=6))
        with torch.inference_mode():
            seen = taught.localizer.inputs(images, taught.member_maps(images))
            first, second = (network(seen) for network in taught.localizer.networks)
            assert not torch.allclose(first, second, atol=0.1)
            assert torch.allclose(taught.localizer.logits(seen), (first + second) / 2, atol=1e-5)

    def test_it_sees_light_and_edges(self, taught: FusedDetector) -> None:
        """Upright stripes of the same light on average are edges across, and none down."""
        assert taught.localizer is not None
        plain = torch.from_numpy(nominal(1, seed=6))
        striped = plain.clone()
        striped[:, :, 5:15, 4:16] += 0.2 * (torch.arange(12) // 2 % 2) - 0.1
        before, after = (taught.localizer.looks(each)[0, :, 7:13, 7:13].mean((1, 2)) for each in (plain, striped))
        assert before.shape == (1 + 8,)
        assert after[0] == pytest.approx(float(before[0]), abs=0.1)
        assert after[1] > before[1] + 0.5
        assert after[3] < before[3] + 0.1

    def test_it_comes_back(self, taught: FusedDetector, tmp_path: Path) -> None:
        """Saved and loaded, it maps to the last bit as before."""
        taught.save(tmp_path)
        loaded = load_detector(tmp_path)
        assert np.array_equal(loaded.error_maps(nominal(7)), taught.error_maps(nominal(7)))

    def test_of_one_seed_it_is_the_same_again(self, fused: FusedDetector, taught: FusedDetector) -> None:
        """Whatever was drawn between."""
        torch.rand(5)
        again = localised(fused, nominal(60, seed=3))
        assert np.array_equal(again.error_maps(nominal(5)), taught.error_maps(nominal(5)))

    def test_with_little_time_it_learns_from_what_was_drawn_by_then(
        self, fused: FusedDetector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is trained and tells something all the same."""
        monkeypatch.setattr(localizing, "AT_ONCE", 20)
        told: list[tuple[int, int]] = []
        hurried = localised(fused, nominal(60, seed=3), seconds=0, on_part=lambda *of: told.append(of))
        last, planned = told[-1]
        assert last < planned
        assert hurried.localizer is not None
        assert np.isfinite(hurried.error_maps(nominal(5))).all()


class TestNothingToLearn:
    """There is no localizer."""

    def test_images_in_which_no_defect_can_be_seen(self, fused: FusedDetector) -> None:
        """A patch of one black image on another is black."""
        black = np.zeros((12, *SPEC.shape), np.float32)
        assert fit_localizer(fused, black, kinds=["patch"]) is None

    def test_too_few_images_to_hold_one_out(self, fused: FusedDetector) -> None:
        """With two images none is left that says when to stop."""
        assert fit_localizer(fused, nominal(2)) is None

    def test_images_of_a_few_pixels(self) -> None:
        """There is no place in them."""
        assert not suits_localizers(ImageSpec(7, 100, 1))
        assert suits_localizers(ImageSpec(8, 8, 3))


class TestShares:
    """What a localizer learns to tell."""

    def test_a_position_counts_by_what_of_it_changed(self) -> None:
        """At 64 pixels a side each position is 2 x 2 of them."""
        clean = torch.zeros(1, 3, 64, 64)
        changed = clean.clone()
        changed[0, 1, 10:12, 20] = 0.1  # one of three channels, half of a position
        changed[0, :, 30, 30] = 0.02  # not to be seen
        shares = Localizer(ImageSpec(64, 64, 3), 2).shares(changed, clean)
        assert shares.shape == (1, 1, 32, 32)
        assert shares[0, 0, 5, 10] == 0.5
        assert shares.sum() == 0.5

    def test_what_changed_most_of_an_image_is_the_rest_of_it(self) -> None:
        """Nobody sees which of two parts is the nominal one: the smaller stands out."""
        clean = torch.zeros(2, 1, 32, 32)
        changed = clean.clone()
        changed[0, :, 8:] = 0.5
        changed[1, :, 24:] = 0.5
        shares = Localizer(ImageSpec(32, 32, 1), 1).shares(changed, clean)[:, 0]
        assert shares[0, :8].min() == 1
        assert shares[0, 8:].max() == 0
        assert shares[1, 24:].min() == 1

    @pytest.mark.parametrize(
        "spec", [ImageSpec(8, 8, 1), ImageSpec(33, 21, 3), ImageSpec(70, 200, 1), ImageSpec(129, 133, 1)], ids=str
    )
    def test_any_size(self, spec: ImageSpec) -> None:
        """Maps have the size of the image, also where positions do not divide it."""
        maps = Localizer(spec, 2).eval()(torch.rand(3, *spec.shape), torch.rand(3, 2, spec.height, spec.width))
        assert maps.shape == (3, spec.height, spec.width)
        assert (maps > 0).all()


def test_a_localizer_without_its_weights_is_refused(fused: FusedDetector, tmp_path: Path) -> None:
    """What the document says and what the weights hold have to agree."""
    fused.save(tmp_path)
    document = tmp_path / "detector.json"
    document.write_text(document.read_text().replace('"localizer": false', '"localizer": true'))
    with pytest.raises(InputError, match=r'Missing key\(s\) in state_dict: "localizer'):
        load_detector(tmp_path)


def test_on_another_device_it_goes_along(taught: FusedDetector) -> None:
    """A copy, with a localizer of its own."""
    there = taught.on(torch.device("cpu"))
    assert there.localizer is not taught.localizer
    assert np.array_equal(there.error_maps(nominal(3)), replace(taught, graph=None).error_maps(nominal(3)))
