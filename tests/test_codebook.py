"""The codebook of nominal features, to whose entries each position is compared."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ae_models.images import FeatureSpec
from ae_models.networks import build_network
from ae_models.networks.codebook import Codebook, fit_codebook
from ae_models.networks.gaussian import fit_positional_gaussian

SPEC = FeatureSpec(6, 5, 2)
MODES = torch.tensor([[4.0, 0.0], [-4.0, 0.0], [0.0, 4.0]])


def features(count: int, seed: int, modes: Tensor = MODES) -> Tensor:
    """Features (count, 2, 6, 5): at each position one of the modes, drawn anew in each image, and a little noise."""
    random = torch.Generator().manual_seed(seed)
    drawn = modes[torch.randint(len(modes), (count, 6, 5), generator=random)]
    return drawn.permute(0, 3, 1, 2) + 0.1 * torch.randn(count, *SPEC.shape, generator=random)


def errors(network: torch.nn.Module, given: Tensor) -> Tensor:
    """Squared errors (N, h, w), summed over the channels."""
    with torch.no_grad():
        return torch.as_tensor((given - network(given)).square().sum(1))


def test_the_squared_error_is_the_mahalanobis_distance_to_the_nearest_entry() -> None:
    """By hand, over all positions of the fitted images and all entries."""
    fit, new = features(40, 1), features(7, 2)
    network = fit_codebook([fit[:30], fit[30:]], 40, SPEC, 5, seed=0)
    vectors, of_new = (each.permute(0, 2, 3, 1).reshape(-1, 2).double().numpy() for each in (fit, new))
    covariance = np.cov(vectors.T, bias=True)
    inverse = np.linalg.inv(covariance + 0.01 * np.diag(np.diag(covariance)))
    entries = network.entries.double().numpy() @ np.linalg.inv(network.whitening.double().numpy()).T + vectors.mean(0)
    apart = of_new[:, None] - entries
    by_hand = np.einsum("nkc,cd,nkd->nk", apart, inverse, apart).min(1)
    np.testing.assert_allclose(errors(network, new).numpy().ravel(), by_hand, rtol=1e-3, atol=1e-5)


def test_it_does_not_matter_where_nominal_images_have_what_is_seen() -> None:
    """Entries that were at the left are found at the right, which a Gaussian at each position finds odd."""
    left, right = features(40, 1, MODES[:1]), features(40, 1, MODES[1:2])
    nominal = torch.cat([left[..., :2], right[..., 2:]], dim=-1)
    network, gaussian = fit_codebook([nominal], 40, SPEC, 20, seed=0), fit_positional_gaussian([nominal], SPEC)
    mirrored = nominal.flip(-1)[..., :5]
    assert errors(network, mirrored).mean() < 2 * errors(network, nominal).mean() + 0.1
    assert errors(gaussian, mirrored).mean() > 100 * errors(gaussian, nominal).mean()


def test_what_lies_between_the_modes_is_told() -> None:
    """The mean of all nominal features is none of them."""
    network = fit_codebook([features(40, 1)], 40, SPEC, 20, seed=0)
    between = features(40, 1)
    between[:, :, 3, 2] = MODES.mean(0)
    found = errors(network, between)
    assert (found.flatten(1).argmax(1) == 3 * 5 + 2).all()


def test_what_is_rare_in_nominal_images_has_an_entry() -> None:
    """One position in a thousand looks unlike all others, and is nominal all the same."""
    fit = features(40, 1)
    fit[0, :, 2, 2] = torch.tensor([0.0, -9.0])
    network = fit_codebook([fit], 40, SPEC, 4, seed=0)
    assert errors(network, fit)[0, 2, 2] < 1e-6


def test_the_nearest_of_many_entries() -> None:
    """Positions are gone through in parts, the last of which is a smaller one; the first and the last entry count."""
    network = Codebook(SPEC, 300)
    network.entries.copy_(torch.randn(300, 2, generator=torch.Generator().manual_seed(0)))
    given = features(9, 2)
    apart = torch.cdist(given.permute(0, 2, 3, 1).flatten(0, 2), network.entries).square().min(1).values
    torch.testing.assert_close(errors(network, given).flatten(), apart, rtol=1e-3, atol=1e-4)
    network.entries[[0, 299]] = torch.tensor([[50.0, 0.0], [0.0, 50.0]])
    assert errors(network, torch.tensor([[50.0, 0.0]]).T[None, :, :, None].expand(1, 2, 6, 5)).max() == 0
    assert errors(network, torch.tensor([[0.0, 50.0]]).T[None, :, :, None].expand(1, 2, 6, 5)).max() == 0


@pytest.mark.parametrize("count", [1, 3])
def test_images_that_are_all_the_same_leave_finite_errors(count: int) -> None:
    """Fewer different positions than entries, and nothing that varies."""
    network = fit_codebook([torch.full((count, *SPEC.shape), 0.5)], count, SPEC, 8, seed=0)
    assert torch.isfinite(errors(network, features(5, 2))).all()
    assert errors(network, torch.full((2, *SPEC.shape), 0.5)).max() < 1e-6


def test_the_seed_decides_which_positions_are_seen() -> None:
    """Of more positions than are looked at."""
    many = features(2000, 1)
    one, again, other = (fit_codebook([many], 2000, SPEC, 4, seed).entries for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_it_comes_back_from_its_weights() -> None:
    """Built by name and given the weights, it errs alike."""
    network = fit_codebook([features(20, 1)], 20, SPEC, 6, seed=0)
    built = build_network("codebook", SPEC, {"entries": 6})
    assert isinstance(built, Codebook)
    built.load_state_dict(network.state_dict())
    assert torch.equal(errors(built, features(9, 2)), errors(network, features(9, 2)))
