"""Every corruption of the registry: what it does to an image, that the seed decides it, and what it refuses."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ae_models.corruptions import CORRUPTIONS, CoarseNoise, GaussianNoise, Masks, build_corruption, smooth_noise
from ae_models.errors import InputError

SIZES = [(28, 28), (29, 31), (7, 64), (64, 7), (4, 4), (1, 9), (1, 1)]
every_corruption = pytest.mark.parametrize("name", CORRUPTIONS)


def seeded(seed: int = 0) -> torch.Generator:
    """A generator that starts from the seed."""
    return torch.Generator().manual_seed(seed)


def images(number: int = 4, channels: int = 1, height: int = 32, width: int = 32) -> Tensor:
    """Random images (N, C, H, W) in [0, 1]."""
    return torch.rand(number, channels, height, width, generator=seeded(7))


@every_corruption
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_shape_and_range_stay(name: str, height: int, width: int, channels: int) -> None:
    """Odd, elongated and tiny images, grey and RGB, keep their shape and stay in [0, 1]."""
    clean = images(3, channels, height, width)
    corrupted = build_corruption(name, {})(clean, seeded())
    assert corrupted.shape == clean.shape
    assert 0 <= corrupted.min() <= corrupted.max() <= 1


@every_corruption
def test_it_corrupts_images(name: str) -> None:
    """No image is left as it was, but a few by synthetic defects; the images given are not written into."""
    clean = images(8)
    corrupted = build_corruption(name, {})(clean, seeded())
    changed = (corrupted != clean).flatten(1).any(dim=1)
    assert changed.all() or (name == "synthetic_defects" and changed.sum() >= 4)
    assert torch.equal(clean, images(8))


@every_corruption
def test_the_seed_decides(name: str) -> None:
    """One seed gives one corruption, another gives another, and torch's global generator is left alone."""
    corruption, before = build_corruption(name, {}), torch.get_rng_state()
    assert torch.equal(corruption(images(), seeded()), corruption(images(), seeded()))
    assert not torch.equal(corruption(images(), seeded()), corruption(images(), seeded(1)))
    assert torch.equal(torch.get_rng_state(), before)


@every_corruption
def test_each_batch_is_corrupted_anew(name: str) -> None:
    """The same images are corrupted in another way each time, and differently from one to the next."""
    corruption, generator = build_corruption(name, {}), seeded()
    flat = torch.full((4, 1, 32, 32), 0.5)
    flat[:, :, :, 16:] = 0.7
    first, second = corruption(flat, generator), corruption(flat, generator)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


@every_corruption
def test_unknown_parameters_are_refused_with_the_known_ones(name: str) -> None:
    """A parameter that a corruption does not have is named, and so are those that it has."""
    with pytest.raises(InputError, match=rf"^corruption '{name}' does not take .*'colour': 3.*: it takes \w+"):
        build_corruption(name, {"colour": 3})


def test_unknown_corruptions_are_refused_with_the_known_ones() -> None:
    """A corruption that does not exist is named, and so are those that do."""
    with pytest.raises(InputError, match=rf"^there is no corruption 'salt': choose one of {', '.join(CORRUPTIONS)}$"):
        build_corruption("salt", {})


@pytest.mark.parametrize(
    ("name", "parameters", "sentence"),
    [
        ("gaussian", {"deviation": 0}, "deviation is 0: give a number above 0"),
        ("gaussian", {"deviation": float("nan")}, "deviation is nan: give a number above 0"),
        ("coarse", {"deviation": -1.0}, "deviation is -1.0: give a number above 0"),
        ("coarse", {"cell": 0}, "cell is 0: give a whole number of pixels from 1 on"),
        ("masks", {"share": 1.0}, "share is 1.0: give a number between 0 and 1"),
        ("masks", {"shape": "stars"}, "shape is 'stars': choose one of rectangles, blobs"),
        ("masks", {"count": 0.5}, "count is 0.5: give a whole number from 1 on"),
    ],
)
def test_impossible_parameters_are_refused(name: str, parameters: dict[str, Any], sentence: str) -> None:
    """What cannot be done is said back with what can."""
    with pytest.raises(InputError, match=f"^{sentence}$"):
        build_corruption(name, parameters)


def test_gaussian_noise_has_its_deviation() -> None:
    """Away from black and white, the noise has mean zero and the deviation that was asked for."""
    noise = GaussianNoise(0.05)(torch.full((4, 1, 64, 64), 0.5), seeded()) - 0.5
    assert noise.mean().item() == pytest.approx(0, abs=0.002)
    assert noise.std().item() == pytest.approx(0.05, rel=0.03)


def test_gaussian_noise_is_independent_from_pixel_to_pixel() -> None:
    """Neighbours have nothing in common."""
    noise = GaussianNoise(0.05)(torch.full((4, 1, 64, 64), 0.5), seeded()) - 0.5
    assert torch.corrcoef(torch.stack([noise[..., 1:].flatten(), noise[..., :-1].flatten()]))[0, 1].abs() < 0.03


def test_coarse_noise_is_smooth() -> None:
    """Neighbours are nearly equal, and pixels several cells apart have nothing in common."""
    noise = CoarseNoise(0.1, cell=8)(torch.full((32, 1, 64, 64), 0.5), seeded()) - 0.5
    near = torch.corrcoef(torch.stack([noise[..., 1:].flatten(), noise[..., :-1].flatten()]))[0, 1]
    far = torch.corrcoef(torch.stack([noise[..., 24:].flatten(), noise[..., :-24].flatten()]))[0, 1]
    assert near > 0.9
    assert far.abs() < 0.1


def test_the_grid_of_coarse_noise_moves() -> None:
    """Its cells do not lie at the same place in each batch, so that a network cannot learn where they are."""
    generator = seeded()
    corners = {
        int(smooth_noise((1, 1, 1, 64), 8, generator)[0, 0, 0].diff().diff().abs().gt(1e-4).nonzero()[0])
        for _ in range(20)
    }
    assert len(corners) > 3


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", ["rectangles", "blobs"])
def test_masks_take_parts_out(shape: str, channels: int) -> None:
    """About the wished share of each image has its mean colour in all channels, and the rest is as it was."""
    clean = images(16, channels)
    corrupted = Masks(0.2, shape)(clean, seeded())
    changed = (corrupted != clean).all(dim=1)
    mean = clean.mean(dim=(2, 3), keepdim=True)
    assert torch.equal(torch.where(changed[:, None], mean, clean), corrupted)
    shares = changed.flatten(1).float().mean(dim=1)
    assert 0.1 < shares.min() <= shares.max() < 0.25


def test_a_single_rectangle_is_one() -> None:
    """With a count of one, what is taken out of an image fills the box around it, and has the wished area."""
    clean = images(16)
    for changed in (Masks(0.25, count=1)(clean, seeded()) != clean)[:, 0]:
        rows, columns = changed.nonzero(as_tuple=True)
        area = int((rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1))
        assert int(changed.sum()) == area == pytest.approx(256, rel=0.1)


def test_rectangles_reach_every_place() -> None:
    """Corners and edges are taken out as well, so that none is always seen."""
    clean = images(400, 1, 16, 16)
    changed = (Masks(0.3, count=1)(clean, seeded()) != clean).any(dim=0)
    assert changed.all()
