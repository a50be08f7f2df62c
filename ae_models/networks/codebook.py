"""A codebook of nominal features: each position becomes the entry that is most like it, wherever images had that."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from ae_models.images import FeatureSpec
from ae_models.networks.gaussian import ridge, whitening

SEEN = 50_000  # positions that entries are chosen of, at most
AT_ONCE = 256  # positions compared with all entries, to stay in a CPU's cache
ENTRIES_AT_ONCE = 128  # compared with all positions elsewhere


class Codebook(nn.Module):
    """Reconstructs the features at each position by the nearest of the nominal ones that it knows.

    The squared error is the squared distance to that entry, in units of the covariance of nominal features over all
    positions. Where in the image these were does not matter, so objects may be turned and moved, and textures may have
    any phase and several modes. It is an autoencoder whose code is a number for each position (van den Oord et al.,
    VQ-VAE, 2017) and whose codebook is drawn from the nominal images (Roth et al., PatchCore, 2022).

    Args:
        spec: size of the features.
        entries: in the codebook.
    """

    mean: Tensor  # (c,)
    whitening: Tensor  # (c, c)
    entries: Tensor  # (entries, c), whitened

    def __init__(self, spec: FeatureSpec, entries: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(spec.channels))
        self.register_buffer("whitening", torch.eye(spec.channels))
        self.register_buffer("entries", torch.zeros(entries, spec.channels))

    def forward(self, features: Tensor) -> Tensor:
        """Reconstructions (N, c, h, w) of features (N, c, h, w); what they lack is the difference from the entry."""
        whitened = self.whitened(features.permute(0, 2, 3, 1).flatten(0, 2))  # (N h w, c)
        differences = whitened - self.entries[self._nearest(whitened)]
        return features - differences.reshape(features.shape[0], *features.shape[2:], -1).permute(0, 3, 1, 2)

    def _nearest(self, whitened: Tensor) -> Tensor:
        """The place of the nearest entry to each of whitened vectors (n, c); few at once, so that memory is bounded."""
        if whitened.is_cpu and not torch.compiler.is_exporting():
            lengths = self.entries.square().sum(1)
            parts = (torch.addmm(lengths, some, self.entries.T, alpha=-2) for some in torch.split(whitened, AT_ONCE))
            # Several times as fast as PyTorch's least with its place.
            return torch.from_numpy(np.concatenate([part.numpy().argmin(1) for part in parts]))
        least, places = torch.full_like(whitened[:, 0], torch.inf), torch.zeros_like(whitened[:, 0], dtype=torch.long)
        for start in range(0, len(self.entries), ENTRIES_AT_ONCE):
            block = self.entries[start : start + ENTRIES_AT_ONCE]
            distances, found = torch.addmm(block.square().sum(1), whitened, block.T, alpha=-2).min(1)
            places = torch.where(distances < least, found + start, places)
            least = torch.minimum(distances, least)
        return places

    def whitened(self, vectors: Tensor) -> Tensor:
        """The features of positions, (n, c), in nominal deviations."""
        return (vectors - self.mean) @ self.whitening.T


def fit_codebook(parts: Iterable[Tensor], count: int, spec: FeatureSpec, entries: int, seed: int) -> Codebook:
    """The codebook of nominal features, given in parts (n, c, h, w) of `count` images in all.

    Each further entry is the position that is farthest from all entries so far: what is rare in nominal images is in
    the codebook as well.
    """
    network = Codebook(spec, entries)
    vectors = _drawn(parts, min(1.0, SEEN / (count * spec.height * spec.width)), seed)
    network.mean.copy_(vectors.mean(0))
    differences = vectors - network.mean
    covariance = (differences.T @ differences / len(vectors)).double()
    network.whitening.copy_(whitening(covariance + ridge(covariance)))
    network.entries.copy_(_spread_out(network.whitened(vectors), entries))
    return network.eval()


def _drawn(parts: Iterable[Tensor], share: float, seed: int) -> Tensor:
    """A share of the positions, (n, c), of features in parts (n, c, h, w)."""
    generator, drawn = torch.Generator().manual_seed(seed), []
    for part in parts:
        vectors = part.permute(0, 2, 3, 1).flatten(0, 2)
        places = torch.randperm(len(vectors), generator=generator)[: max(1, round(share * len(vectors)))]
        drawn.append(vectors[places])
    return torch.cat(drawn)


def _spread_out(vectors: Tensor, count: int) -> Tensor:
    """So many of vectors (n, c): the shortest, then each time the one farthest from all that were taken."""
    lengths = vectors.square().sum(1)
    taken, distances = [int(lengths.argmin())], torch.full_like(lengths, torch.inf)
    while len(taken) < count:
        last = vectors[taken[-1]]
        distances = torch.minimum(distances, lengths - 2 * (vectors @ last) + last.square().sum())
        taken.append(int(distances.argmax()))
    return vectors[taken]
