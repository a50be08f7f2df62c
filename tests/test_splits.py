"""How images are divided among the sides of a split, and which of them are near-duplicates."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from ae_models.errors import InputError
from ae_models.splits import NearDuplicate, groups_of, near_duplicates, perceptual_hashes, split_by_group

SHARES = {"train": 0.6, "validation": 0.15, "calibration": 0.25}


def scenes(count: int, size: int = 64, seed: int = 0) -> np.ndarray:
    """Unlike images with structure of several sizes: (count, 1, size, size) float32 in [0, 1]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 12, 12), dtype=np.uint8)
    large = [np.asarray(Image.fromarray(scene).resize((size, size), Image.Resampling.BICUBIC)) for scene in coarse]
    return (np.stack(large)[:, None] / 255).astype(np.float32)


def as_jpeg(image: np.ndarray, quality: int = 75) -> np.ndarray:
    """The (1, H, W) image after JPEG compression."""
    file = io.BytesIO()
    Image.fromarray((image[0] * 255).round().astype(np.uint8)).save(file, "JPEG", quality=quality)
    return (np.asarray(Image.open(file))[None] / 255).astype(np.float32)


def found(images: np.ndarray) -> list[tuple[int, int]]:
    """The places of the near-duplicates among the images."""
    return [(pair.first, pair.second) for pair in near_duplicates(perceptual_hashes(images))]


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=3, max_size=40), seed=st.integers(0, 5))
def test_groups_stay_whole_and_every_image_is_used_once(sizes: list[int], seed: int) -> None:
    """Whatever the groups' sizes, each is on one side, each image is on one side, and no side is empty."""
    groups = [f"part {number}" for number, size in enumerate(sizes) for _ in range(size)]
    sides = split_by_group(groups, SHARES, seed)
    assert sorted(np.concatenate(list(sides.values())).tolist()) == list(range(len(groups)))
    held = [{groups[place] for place in places} for places in sides.values()]
    assert all(held)
    assert sum(map(len, held)) == len(sizes)


def test_sides_reach_their_shares_of_images() -> None:
    """Shares count images: with a group of 50 among single ones, the sides are as large as without it."""
    groups = ["large"] * 50 + [f"single {number}" for number in range(150)]
    sides = split_by_group(groups, SHARES, seed=3)
    assert {side: len(places) for side, places in sides.items()} == {"train": 120, "validation": 30, "calibration": 50}


def test_split_depends_on_names_and_seed_alone() -> None:
    """The same groups in another order fall on the same sides; another seed gives another split."""
    groups = [f"part {number}" for number in range(100)]
    there = split_by_group(groups, SHARES, seed=1)["calibration"]
    back = split_by_group(groups[::-1], SHARES, seed=1)["calibration"]
    assert {groups[place] for place in there} == {groups[::-1][place] for place in back}
    assert there.tolist() != split_by_group(groups, SHARES, seed=2)["calibration"].tolist()


def test_split_is_the_same_on_every_platform() -> None:
    """The draw is a hash and no generator's stream: this very split is to be had everywhere, and for ever."""
    sides = split_by_group([f"part {number}" for number in range(10)], SHARES, seed=0)
    assert {side: places.tolist() for side, places in sides.items()} == {
        "train": [0, 4, 5, 7, 8, 9],
        "validation": [2, 6],
        "calibration": [1, 3],
    }


def test_minimum_is_met_at_the_others_cost() -> None:
    """99 of 120 images go to calibration if it needs them; the other two divide the rest by their shares."""
    sides = split_by_group([str(number) for number in range(120)], SHARES, 0, {"calibration": 99})
    assert {side: len(places) for side, places in sides.items()} == {"train": 17, "validation": 4, "calibration": 99}


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 6), min_size=12, max_size=40))
def test_minimum_is_met_by_whole_groups(sizes: list[int]) -> None:
    """Where groups are small, a minimum of a third is met."""
    groups = [str(number) for number, size in enumerate(sizes) for _ in range(size)]
    sides = split_by_group(groups, SHARES, 0, {"calibration": len(groups) // 3})
    assert len(sides["calibration"]) >= len(groups) // 3


def test_too_few_images_for_the_minimum_are_counted() -> None:
    """The error says how many images there are and how many are needed."""
    expected = r"There are 60 images, but the sides need 101 \(train 1, validation 1, calibration 99\): add images"
    with pytest.raises(InputError, match=expected):
        split_by_group([str(number) for number in range(60)], SHARES, 0, {"calibration": 99})


def test_groups_too_large_for_the_minima_say_what_is_possible() -> None:
    """Two large groups cannot both serve one side and leave something for the others; the nearest split is said."""
    groups = ["a"] * 50 + ["b"] * 50 + ["c"] * 2
    expected = r"not met with 102 images in 3 whole groups; the nearest is train 2, validation 0, calibration 100: add"
    with pytest.raises(InputError, match=expected):
        split_by_group(groups, SHARES, 0, {"calibration": 90})


def test_fewer_groups_than_sides_is_one_sentence() -> None:
    """Two parts cannot be on three sides."""
    expected = (
        r"A split into 3 sides \(train, validation, calibration\) needs as many groups, but the 20 images are in 2"
    )
    with pytest.raises(InputError, match=expected):
        split_by_group(["a", "b"] * 10, SHARES, 0)


@pytest.mark.parametrize("shares", [{}, {"train": 0.5, "test": 0.4}, {"train": 1.0, "test": 0.0}])
def test_shares_must_sum_to_one(shares: dict[str, float]) -> None:
    """Shares that are none are refused by what they are."""
    with pytest.raises(InputError, match="must be above 0 and sum to 1"):
        split_by_group(["a", "b"], shares, 0)


def test_minimum_of_an_unknown_side_is_refused() -> None:
    """A misspelt side is no silent loss of its minimum."""
    with pytest.raises(InputError, match="A minimum is given for calibraton, but the sides"):
        split_by_group(["a", "b", "c"], SHARES, 0, {"calibraton": 1})


def test_unlike_images_are_no_duplicates() -> None:
    """Different scenes give no pair."""
    assert found(scenes(100)) == []


def test_handwritten_digits_are_hardly_ever_duplicates() -> None:
    """Of 1,797 different digits of 8x8 pixels, at most two pairs are taken for the same."""
    assert len(found((load_digits().images[:, None] / 16).astype(np.float32))) <= 2


def test_copy_is_found_at_distance_zero() -> None:
    """A copy is the one pair, and nothing lies between the two."""
    images = scenes(20)
    (pair,) = near_duplicates(perceptual_hashes(np.concatenate([images, images[7:8]])))
    assert (pair.first, pair.second) == (7, 20)
    assert pair.distance < 1e-5


@pytest.mark.parametrize(
    "change",
    [
        as_jpeg,
        lambda image: image * np.float32(0.8),
        lambda image: image * np.float32(0.8) + np.float32(0.1),
        lambda image: image + np.random.default_rng(0).normal(0, 0.02, image.shape).astype(np.float32),
    ],
    ids=["JPEG", "darker", "less contrast", "noise"],
)
def test_changed_copy_is_found(change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Re-encoding, brightness, contrast and sensor noise do not hide a copy."""
    images = scenes(20)
    assert found(np.concatenate([images, change(images[7])[None]])) == [(7, 20)]


def test_colour_tells_parts_apart() -> None:
    """The same shape in another colour is another part."""
    shape = scenes(1)[0, 0]
    red, blue = np.stack([shape, shape * 0, shape * 0]), np.stack([shape * 0, shape * 0, shape])
    others = np.repeat(scenes(10, seed=1), 3, axis=1)
    assert found(np.concatenate([others, red[None], blue[None]])) == []


def test_what_all_images_share_does_not_make_duplicates() -> None:
    """Parts in one jig that differ by a faint texture are told apart by it, and a copy among them is still found."""
    images = scenes(1) * np.float32(0.7) + np.float32(0.03) * scenes(60, seed=1)
    copy = as_jpeg(images[3], quality=95)[None]
    assert found(np.concatenate([images, copy])) == [(3, 60)]


def test_blank_images_with_noise_are_no_duplicates() -> None:
    """Even images differ by their noise; only true copies of them are pairs."""
    noise = np.random.default_rng(0).normal(0.5, 0.01, (50, 1, 64, 64)).astype(np.float32)
    assert found(np.concatenate([noise, noise[4:5]])) == [(4, 50)]


def test_constant_images_are_copies_if_their_brightness_is() -> None:
    """Without any structure, brightness decides."""
    levels = np.array([0.2, 0.5, 0.2, 0.0, 1.0], np.float32)
    assert found(np.ones((5, 1, 32, 32), np.float32) * levels[:, None, None, None]) == [(0, 2)]


def test_large_cluster_stays_connected_with_few_pairs() -> None:
    """Of 600 copies each lists 16 partners at most, and they are one group."""
    pairs = near_duplicates(perceptual_hashes(np.repeat(scenes(1), 600, axis=0)))
    assert len(pairs) <= 16 * 600
    assert len(set(groups_of(pairs, 600).tolist())) == 1


def test_hashes_of_batches_can_be_stacked() -> None:
    """A hash depends on its image alone."""
    images = scenes(6)
    stacked = np.concatenate([perceptual_hashes(images[:4]), perceptual_hashes(images[4:])])
    np.testing.assert_allclose(stacked, perceptual_hashes(images), atol=1e-6)


def test_small_and_oblong_images_have_hashes() -> None:
    """Images smaller than the thumbnail, and oblong ones, are hashed to the same length."""
    assert perceptual_hashes(np.zeros((2, 1, 5, 90), np.float32)).shape == (2, 256)


def test_groups_are_what_pairs_connect() -> None:
    """Pairs chain images into groups; an image without a pair is a group of its own."""
    groups = groups_of([NearDuplicate(0, 1, 0.0), NearDuplicate(1, 4, 0.01)], 6)
    assert groups.tolist() == [0, 0, 1, 2, 0, 3]


def test_no_pairs_leave_every_image_alone() -> None:
    """Without pairs there are as many groups as images."""
    assert groups_of([], 3).tolist() == [0, 1, 2]
