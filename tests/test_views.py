"""What front ends make of images: computed once where it is kept, and the same however little may be kept."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ae_models.images import FeatureSpec
from ae_models.views import Views

COUNT, SIZE = 150, (1, 40, 50)  # more images than are computed at once
BYTES = COUNT * 40 * 50 * 4


class Counting(nn.Module):
    """Doubles images, and counts those that it saw."""

    spec = FeatureSpec(40, 50, 1)

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        """Twice the images."""
        self.seen += len(images)
        return 2 * images


@pytest.fixture
def front_end() -> Counting:
    """A front end that saw nothing yet."""
    return Counting()


def some(seed: int) -> NDArray[np.float32]:
    """Random images."""
    return np.random.default_rng(seed).random((COUNT, *SIZE), dtype=np.float32)


def seen_of(views: Views, view: str, front_end: nn.Module, each: Sequence[NDArray[np.float32]]) -> None:
    """Go through the features of arrays of images, which must be theirs."""
    for images in each:
        features = torch.cat([*views.parts(view, front_end, images)])
        np.testing.assert_array_equal(features.numpy(), 2 * images)


def test_what_is_kept_is_computed_once(front_end: Counting) -> None:
    """Of each array of images, although they are of one size."""
    images = [some(0), some(1)]
    seen_of(Views(2 * BYTES), "double", front_end, [*images, *images])
    assert front_end.seen == 2 * COUNT


@pytest.mark.parametrize(("most_bytes", "seen"), [(BYTES, COUNT), (BYTES - 1, COUNT + 3)])
def test_features_of_some_of_the_images(front_end: Counting, most_bytes: int, seen: int) -> None:
    """In the order asked for; they are computed where those of all are not kept."""
    views, images, places = Views(most_bytes), some(0), np.array([7, 3, 149])
    seen_of(views, "double", front_end, [images])
    features = torch.cat([*views.parts("double", front_end, images, places)])
    np.testing.assert_array_equal(features.numpy(), 2 * images[places])
    assert front_end.seen == seen


def test_what_is_too_large_to_keep_is_computed_each_time(front_end: Counting) -> None:
    """Nothing else changes."""
    images = some(0)
    seen_of(Views(BYTES - 1), "double", front_end, [images, images])
    assert front_end.seen == 2 * COUNT


def test_what_was_not_used_for_longest_gives_way(front_end: Counting) -> None:
    """The first was used since the second, so the third takes the second's place."""
    first, second, third = some(0), some(1), some(2)
    views = Views(2 * BYTES)
    seen_of(views, "double", front_end, [first, second, first, third])
    front_end.seen = 0
    seen_of(views, "double", front_end, [first, third])
    assert front_end.seen == 0
    seen_of(views, "double", front_end, [second])
    assert front_end.seen == COUNT


def test_views_of_the_same_images_are_apart() -> None:
    """Each has its own front end."""
    views, images, ends = Views(), some(0), (Counting(), Counting())
    for name, front_end in zip(("one", "other"), ends, strict=True):
        seen_of(views, name, front_end, [images])
    assert [front_end.seen for front_end in ends] == [COUNT, COUNT]


def test_features_come_in_the_same_parts_kept_or_not(front_end: Counting) -> None:
    """Rounding depends on how many are computed at once."""
    images = some(0)
    sizes = [[len(part) for part in Views(most).parts("double", front_end, images)] for most in (0, BYTES)]
    assert sizes[0] == sizes[1]
    assert len(sizes[0]) > 1
