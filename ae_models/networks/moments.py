"""How strong features are, and how much they vary, in windows of the image: its texture, wherever its details lie."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from ae_models.images import FeatureSpec

FAINT = 0.001  # added to strengths and deviations before the logarithm: below it, there is nothing
LEAST = 0.01  # deviation of a moment below which it does not vary in nominal images
LEAST_VARIANCE = 1e-6  # of moments together, in their own variances


class WindowMoments(nn.Module):
    """Reconstructs features so that the squared error is the squared Mahalanobis distance of their windows' moments.

    The image is cut into windows alike; in each, of every feature, the logarithms of its mean strength and of its
    deviation are taken (compare Rippel et al., Modeling the Distribution of Normal Data in Pre-Trained Deep Features,
    2021, who take means over the image). These moments say how strong and how varied a texture is, and not where its
    details lie. Their whitened difference from the nominal mean, each window's part of it in that window, takes the
    place of the error.

    Args:
        spec: size of the features.
        windows: along each side, or as many as there are positions if those are fewer.
    """

    mean: Tensor  # (moments,)
    whitening: Tensor  # (moments, moments)
    down: Tensor  # (h, windows): 1 where a row is in a window
    across: Tensor  # (w, windows)

    def __init__(self, spec: FeatureSpec, windows: int) -> None:
        super().__init__()
        self.channels = spec.channels
        self.register_buffer("down", _windows(spec.height, windows), persistent=False)
        self.register_buffer("across", _windows(spec.width, windows), persistent=False)
        count = 2 * spec.channels * self.down.shape[1] * self.across.shape[1]
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("whitening", torch.eye(count))

    def forward(self, features: Tensor) -> Tensor:
        """Reconstructions (N, c, h, w) of features (N, c, h, w); what they lack is the same in all channels."""
        whitened = (self.moments(features) - self.mean) @ self.whitening.T
        windows = whitened.reshape(-1, 2 * self.channels, self.down.shape[1], self.across.shape[1])
        return features - self._at_positions(windows.square().mean(1, keepdim=True).sqrt())

    def moments(self, features: Tensor) -> Tensor:
        """Logarithms of strengths and of deviations of features (N, c, h, w): (N, 2 c windows windows)."""
        differences = features - self._at_positions(self._means(features))
        strengths, deviations = self._means(features.abs()), self._means(differences.square()).sqrt()
        return (torch.cat([strengths, deviations], dim=1) + FAINT).log().flatten(1)

    def _means(self, maps: Tensor) -> Tensor:
        """The mean of maps (N, c, h, w) in each window, (N, c, windows, windows)."""
        down, across = (side / side.sum(0) for side in (self.down, self.across))
        return torch.as_tensor(down.T @ maps @ across)

    def _at_positions(self, windows: Tensor) -> Tensor:
        """Maps (N, c, h, w) that are in each window what they are told, (N, c, windows, windows)."""
        return torch.as_tensor(self.down @ windows @ self.across.T)


def fit_window_moments(parts: Iterable[Tensor], spec: FeatureSpec, windows: int) -> WindowMoments:
    """The moments of nominal features, given in parts (n, c, h, w).

    Their covariance is that of Ledoit and Wolf (2004), as there may be more moments than images.
    """
    from sklearn.covariance import ledoit_wolf

    network = WindowMoments(spec, windows)
    moments = torch.cat([network.moments(part) for part in parts]).double().numpy()
    mean, deviations = moments.mean(0), np.maximum(LEAST, moments.std(0))
    covariance, _ = ledoit_wolf((moments - mean) / deviations, assume_centered=True)
    variances, axes = np.linalg.eigh(covariance)
    # The symmetric square root leaves each whitened moment at its own feature and window (Kessy et al., 2018, ZCA-cor).
    whitening = (axes / np.sqrt(np.maximum(LEAST_VARIANCE, variances))) @ axes.T / deviations
    network.mean.copy_(torch.from_numpy(mean))
    network.whitening.copy_(torch.from_numpy(whitening))
    return network.eval()


def _windows(side: int, windows: int) -> Tensor:
    """Which positions of a side each window holds, (side, windows) of 0 and 1; they are as alike as that can be."""
    windows = min(windows, side)
    return torch.eye(windows)[torch.arange(side) * windows // side]
