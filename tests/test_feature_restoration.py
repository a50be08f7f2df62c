"""The network that takes out of features what a defect changed in them."""

import pytest
import torch
from torch import Tensor

from ae_models.errors import InputError
from ae_models.images import FeatureSpec
from ae_models.networks import build_network
from ae_models.networks.feature_restoration import FeatureRestoration
from ae_models.networks.gaussian import fit_positional_gaussian

SIZES = [(8, 8, 3), (9, 13, 2), (31, 8, 18)]


def features(count: int, size: tuple[int, int, int], seed: int = 0) -> Tensor:
    """Features (count, c, h, w) of a size (h, w, c)."""
    height, width, channels = size
    return torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(seed))


def network(size: tuple[int, int, int] = (8, 8, 3)) -> FeatureRestoration:
    """The network with random weights, its Gaussians fitted."""
    torch.manual_seed(0)
    made = FeatureRestoration(FeatureSpec(*size))
    usual = fit_positional_gaussian([features(60, size)], FeatureSpec(*size))
    made.usual.load_state_dict(usual.state_dict())
    return made.eval()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_squared_error_is_a_share_at_every_position(size: tuple[int, int, int]) -> None:
    """Odd sizes keep their shape, and the mean over channels of the squared error lies between 0 and 1."""
    given = features(5, size, seed=1)
    error = (given - network(size)(given)).square().mean(1)
    assert error.shape == (5, *size[:2])
    assert 0 <= error.min() <= error.max() <= 1 + 1e-5


def test_it_moves_features_towards_what_is_usual() -> None:
    """Restored features lie nearer to the nominal mean, in nominal deviations, than those that were given."""
    made, given = network(), 3 * features(5, (8, 8, 3), seed=1)
    restored = made(given)
    before, after = (values - made.usual(values) for values in (given, restored))
    assert after.square().mean() < before.square().mean()


def test_features_that_are_just_the_mean_are_numbers() -> None:
    """They have no direction to be moved in."""
    made = network()
    given = made.usual.mean[None].clone()
    assert torch.isfinite(made(given)).all()


def test_features_far_off_are_numbers() -> None:
    """However far: what lies beyond twelve deviations counts as so far."""
    assert torch.isfinite(network()(1e6 * features(2, (8, 8, 3)))).all()


def test_what_a_defect_changed_is_what_it_learns() -> None:
    """The loss is least where the share is that of the change: near 0 for clean features, near 1 for a large change."""
    made = network()
    clean = features(4, (8, 8, 3), seed=2)
    changed = clean + 6 * torch.ones_like(clean)
    made.shares = torch.nn.Sequential(torch.nn.Conv2d(3, 1, 1))  # type: ignore[assignment]  # one share everywhere
    for weights in made.shares.parameters():
        torch.nn.init.zeros_(weights)
    losses = {}
    for logit in (-5.0, 0.0, 5.0):
        torch.nn.init.constant_(made.shares[0].bias, logit)  # type: ignore[index]  # as above
        with torch.no_grad():
            losses[logit] = tuple(float(made.training_loss(images, clean)) for images in (clean, changed))
    assert min(losses, key=lambda logit: losses[logit][0]) == -5
    assert min(losses, key=lambda logit: losses[logit][1]) == 5


def test_gradients_reach_every_parameter() -> None:
    """Nothing in it is left untrained; the Gaussians are no parameters."""
    made = network().train()
    clean = features(4, (8, 8, 3), seed=2)
    made.training_loss(clean + features(4, (8, 8, 3), seed=3), clean).backward()  # type: ignore[no-untyped-call]
    assert all(weights.grad is not None and weights.grad.abs().sum() > 0 for weights in made.parameters())
    assert not any(name.startswith("usual") for name, _ in made.named_parameters())


def test_saved_weights_give_the_same() -> None:
    """Built from JSON values and given the weights, it restores to the last bit as before."""
    made, given = network(), features(3, (8, 8, 3), seed=1)
    again = build_network("restoration", FeatureSpec(8, 8, 3), {}).eval()
    again.load_state_dict(made.state_dict())
    assert torch.equal(again(given), made(given))


def test_features_too_small_are_refused() -> None:
    """Two poolings need four positions a side."""
    with pytest.raises(InputError, match="2 poolings need images of at least 4 pixels a side, and these are 3 x 9"):
        build_network("restoration", FeatureSpec(3, 9, 2), {})
