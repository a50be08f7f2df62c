"""Synthetic defects: of every kind, for every shape of image, seeded, visible, and with masks that are true."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ae_models.defect_kinds import KINDS, OF_THE_WHOLE_IMAGE, OF_TWO_IMAGES, background_of, place
from ae_models.errors import InputError
from ae_models.synthetic_defects import (
    LOCAL_KINDS,
    VISIBLE,
    SyntheticDefectCorruption,
    corrupt,
    draw_defects,
)

Images = NDArray[np.float32]
OF_ONE_IMAGE = tuple(kind for kind in KINDS if kind not in OF_TWO_IMAGES)


@pytest.fixture(scope="module")
def textures() -> Callable[..., Images]:
    """A maker of images (N, C, H, W) of stripes and noise, every one different."""

    def make(n: int, channels: int, height: int, width: int) -> Images:
        rng = np.random.default_rng(0)
        stripes = 0.5 + 0.2 * np.sin(np.arange(width) * 0.9 + rng.uniform(0, 6, (n, channels, 1, 1)))
        images: Images = np.clip(stripes + rng.normal(0, 0.08, (n, channels, height, width)), 0, 1).astype(np.float32)
        return images

    return make


@pytest.fixture(scope="module")
def objects() -> Images:
    """Eight bright discs of different size (8, 1, 48, 48) on black."""
    rows, columns = np.mgrid[:48, :48] - 24
    radii = np.linspace(9, 16, 8)[:, None, None]
    discs: Images = (0.7 * (rows**2 + columns**2 < radii**2)).astype(np.float32)
    return discs[:, None]


@pytest.mark.parametrize(
    "shape", [(1, 8, 8), (1, 28, 28), (3, 17, 40), (1, 64, 21), (3, 96, 96), (1, 512, 300)], ids=str
)
def test_every_kind_is_drawn_for_every_shape(textures: Callable[..., Images], shape: tuple[int, int, int]) -> None:
    """Grey or RGB, tiny or large, square or not: images keep their shape and range, and each kind has its number."""
    defects = draw_defects(textures(4, *shape), per_kind=3, seed=0)
    shown = [kind for kind in KINDS if kind != "colour" or shape[0] == 3]
    assert defects.kinds.tolist() == [kind for kind in shown for _ in range(3)]
    assert defects.images.shape == (len(defects.kinds), *shape)
    assert defects.images.dtype == np.float32
    assert defects.images.min() >= 0
    assert defects.images.max() <= 1


def test_masks_are_true_where_the_image_changed_visibly(textures: Callable[..., Images]) -> None:
    """A mask holds exactly the pixels that are at least 0.03 away from the nominal image that was changed."""
    nominal = textures(5, 3, 40, 30)
    defects = draw_defects(nominal, per_kind=4, seed=1)
    change = np.abs(defects.images - nominal[defects.sources]).max(axis=1)
    np.testing.assert_array_equal(defects.masks, change >= VISIBLE)
    assert defects.masks.any(axis=(1, 2)).all()


def test_same_seed_draws_the_same(textures: Callable[..., Images]) -> None:
    """Two draws of one seed are equal, and those of another seed are not."""
    nominal = textures(5, 1, 32, 32)
    first, again, other = (draw_defects(nominal, per_kind=2, seed=seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.sources, again.sources)
    assert not np.array_equal(first.images, other.images)


def test_a_kind_is_the_same_whatever_other_kinds_are_asked_for(textures: Callable[..., Images]) -> None:
    """To leave out a kind changes nothing about the others, so that results can be compared."""
    nominal = textures(5, 1, 32, 32)
    whole, alone = draw_defects(nominal, 3, seed=0), draw_defects(nominal, 3, seed=0, kinds=("warp",))
    np.testing.assert_array_equal(whole.images[whole.kinds == "warp"], alone.images)


def test_nominal_images_are_not_changed(textures: Callable[..., Images]) -> None:
    """What is given stays as it was."""
    nominal = textures(5, 1, 32, 32)
    before = nominal.copy()
    draw_defects(nominal, 3, seed=0)
    corrupt(nominal, np.random.default_rng(0), tuple(KINDS))
    np.testing.assert_array_equal(nominal, before)


def test_small_defects_are_as_common_as_large_ones(textures: Callable[..., Images]) -> None:
    """Half of the spots cover less than 2 % of the image, and some cover more than 5 %."""
    defects = draw_defects(textures(4, 1, 64, 64), 60, seed=0, kinds=("spots",))
    shares = defects.masks.mean(axis=(1, 2))
    assert np.median(shares) < 0.02
    assert shares.max() > 0.05


def test_defects_lie_on_the_object(objects: Images) -> None:
    """Where an image has a flat background, defects are put on what stands before it."""
    rng = np.random.default_rng(0)
    rows, columns = np.round([place(objects[0], rng) for _ in range(60)]).astype(int).T
    assert (objects[0, 0, rows, columns] > 0).mean() > 0.6


def test_background_is_what_most_of_the_rim_shows(objects: Images, textures: Callable[..., Images]) -> None:
    """A disc on black has a black background; a texture has none."""
    assert background_of(objects[0]) == pytest.approx([0])
    assert background_of(textures(1, 1, 32, 32)[0]) is None


def test_missing_parts_of_an_object_mostly_show_the_background(objects: Images) -> None:
    """A hole in a disc on black is black."""
    defects = draw_defects(objects, 40, seed=0, kinds=("missing",))
    darkest = np.array([image[0][mask].min() for image, mask in zip(defects.images, defects.masks, strict=True)])
    assert (darkest < 0.05).mean() > 0.6


def test_another_pose_keeps_the_object_and_its_background(objects: Images) -> None:
    """A disc on black that is turned, resized or moved is still one disc of that brightness on black."""
    defects = draw_defects(objects, 20, seed=0, kinds=("pose",))
    nominal = objects[defects.sources]
    assert np.abs(defects.images.max(axis=(1, 2, 3)) - nominal.max(axis=(1, 2, 3))).max() < 0.1
    assert (defects.images == 0).mean(axis=(1, 2, 3)).min() > 0.2
    areas = (defects.images > 0.1).sum(axis=(1, 2, 3)) / (nominal > 0.1).sum(axis=(1, 2, 3))
    assert 0.2 < areas.min() < 0.8
    assert areas.max() < 2.1


def test_another_pose_of_a_texture_leaves_no_empty_corner(textures: Callable[..., Images]) -> None:
    """Beyond the edge the texture goes on, mirrored."""
    images = textures(6, 1, 32, 32)
    defects = draw_defects(images, 20, seed=0, kinds=("pose",))
    assert defects.images.min() >= images.min() - 1e-6


def test_a_colour_cast_is_left_out_of_grey_images(textures: Callable[..., Images]) -> None:
    """What images cannot show is not among the kinds that come back."""
    assert set(draw_defects(textures(3, 1, 16, 16), 1, 0, ("colour", "spots")).kinds) == {"spots"}


def test_blank_images_show_only_what_blank_images_can() -> None:
    """A blur or a warp of a blank image is nothing; a spot on it is one."""
    blank = np.full((3, 1, 32, 32), 0.5, dtype=np.float32)
    kinds = set(draw_defects(blank, 2, seed=0).kinds)
    assert {"spots", "scratch", "step", "smudge", "stain", "brightness"} <= kinds
    assert not kinds & {"blur", "warp", "rotation", "half", "patch", "colour"}


def test_kinds_that_cannot_be_seen_at_all_are_refused() -> None:
    """A set of defects is never empty in silence."""
    blank = np.full((3, 1, 32, 32), 0.5, dtype=np.float32)
    with pytest.raises(InputError, match="none of the kinds blur, warp can be seen in these 3 images: name other"):
        draw_defects(blank, 2, seed=0, kinds=("blur", "warp"))


def test_no_image_is_refused() -> None:
    """Defects are made of nominal images."""
    with pytest.raises(InputError, match="there is no image to make synthetic defects from"):
        draw_defects(np.zeros((0, 1, 8, 8), dtype=np.float32), 1, seed=0)


def test_an_unknown_kind_is_refused_with_those_there_are(textures: Callable[..., Images]) -> None:
    """The message names the choices."""
    with pytest.raises(InputError, match="no kind of defect 'rust': choose among spots, scratch"):
        draw_defects(textures(2, 1, 8, 8), 1, seed=0, kinds=("spots", "rust"))


def test_no_kind_is_refused(textures: Callable[..., Images]) -> None:
    """An empty list of kinds is a mistake."""
    with pytest.raises(InputError, match="no kind of defect is named: choose among spots"):
        draw_defects(textures(2, 1, 8, 8), 1, seed=0, kinds=())


def test_no_defect_of_a_kind_is_refused(textures: Callable[..., Images]) -> None:
    """Zero defects of each kind are a mistake."""
    with pytest.raises(InputError, match="0 synthetic defects of each kind are asked for: ask for 1 at least"):
        draw_defects(textures(2, 1, 8, 8), 0, seed=0)


def test_a_single_image_is_refused_for_kinds_that_need_two(textures: Callable[..., Images]) -> None:
    """A patch of another nominal image needs another nominal image; the other kinds do not."""
    alone = textures(1, 1, 16, 16)
    with pytest.raises(InputError, match="kind 'patch' takes a part of another nominal image, and there is one image"):
        draw_defects(alone, 1, seed=0)
    assert len(draw_defects(alone, 1, seed=0, kinds=OF_ONE_IMAGE).kinds) == len(OF_ONE_IMAGE) - 1  # no colour


def test_training_images_are_corrupted_and_some_stay_clean(textures: Callable[..., Images]) -> None:
    """Of many images about a fifth stay as they are; the masks are true exactly where the others changed visibly."""
    nominal = textures(200, 1, 24, 24)
    corrupted, masks = corrupt(nominal, np.random.default_rng(0))
    clean = (corrupted == nominal).all(axis=(1, 2, 3))
    assert 0.1 < clean.mean() < 0.3
    np.testing.assert_array_equal(masks.any(axis=(1, 2)), ~clean)
    np.testing.assert_array_equal(masks, np.abs(corrupted - nominal).max(axis=1) >= VISIBLE)


def test_training_images_keep_their_light(textures: Callable[..., Images]) -> None:
    """Kinds that change the whole image are no corruption by default: nothing in it tells how it was before."""
    assert not set(LOCAL_KINDS) & set(OF_THE_WHOLE_IMAGE)
    assert {*LOCAL_KINDS, *OF_THE_WHOLE_IMAGE} == set(KINDS)


def test_a_batch_of_one_is_corrupted(textures: Callable[..., Images]) -> None:
    """Kinds that need another image are left out where there is none."""
    alone = textures(1, 1, 24, 24)
    assert any((corrupt(alone, np.random.default_rng(seed))[0] != alone).any() for seed in range(5))


def test_corruption_follows_the_generator(textures: Callable[..., Images]) -> None:
    """As a part of training, the defects are drawn by torch's generator: equal seeds give equal inputs."""
    clean = torch.from_numpy(textures(20, 3, 16, 16))
    corruption = SyntheticDefectCorruption()
    first, again = (corruption(clean, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == clean.shape
    assert first.dtype == torch.float32
    assert not torch.equal(first, clean)


def test_corruption_draws_anew_at_every_call(textures: Callable[..., Images]) -> None:
    """Each batch sees other defects."""
    clean, generator = torch.from_numpy(textures(20, 1, 16, 16)), torch.Generator().manual_seed(3)
    corruption = SyntheticDefectCorruption(kinds=("spots",))
    assert not torch.equal(corruption(clean, generator), corruption(clean, generator))


def test_corruption_refuses_an_unknown_kind() -> None:
    """It is said before any training."""
    with pytest.raises(InputError, match="no kind of defect 'rust': choose among spots, scratch"):
        SyntheticDefectCorruption(kinds=("rust",))
