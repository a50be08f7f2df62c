"""A Gaussian at each position: the linear autoencoder with an empty code, its errors in units of what is usual."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ae_models.images import FeatureSpec

SHRINKAGE = 0.3  # of each position's covariance towards the mean over positions
RIDGE = 0.01  # of the mean variances, added to each
LEAST = 1e-12  # a squared rounding error: the variance of what never varies in nominal images, such as grey's colour


class PositionalGaussian(nn.Module):
    """Reconstructs features so that the squared error is the squared Mahalanobis distance from the nominal ones.

    The features at each position have a mean and a covariance of their own in nominal images (Defard et al., PaDiM,
    2021); the whitened difference from the mean takes the place of the error.

    Args:
        spec: size of the features.
    """

    mean: Tensor  # (c, h, w)
    whitening: Tensor  # (h w, c, c)

    def __init__(self, spec: FeatureSpec) -> None:
        super().__init__()
        self.shape = spec.shape
        self.register_buffer("mean", torch.zeros(spec.shape))
        self.register_buffer("whitening", torch.eye(spec.channels).repeat(spec.height * spec.width, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Reconstructions (N, c, h, w) of features (N, c, h, w); what they lack is the whitened difference."""
        differences = (features - self.mean).flatten(2)  # (N, c, h w)
        by_position = differences.permute(2, 1, 0).contiguous()  # (h w, c, N): twice as fast as an einsum
        whitened = (self.whitening @ by_position).permute(2, 1, 0)
        return features - whitened.reshape(features.shape)


def fit_positional_gaussian(parts: Iterable[Tensor], spec: FeatureSpec) -> PositionalGaussian:
    """The Gaussians of nominal features, given in parts (n, c, h, w); memory does not grow with their number."""
    network, count = PositionalGaussian(spec), 0
    first: Tensor | None = None  # taken off, so that squares of large values do not swallow small variances
    sums = torch.zeros(spec.channels, spec.height * spec.width)
    products = torch.zeros(spec.height * spec.width, spec.channels, spec.channels)
    for part in parts:
        first = part.mean(0) if first is None else first
        differences = (part - first).flatten(2)  # (n, c, h w)
        sums += differences.sum(0)
        by_position = differences.permute(2, 1, 0).contiguous()  # (h w, c, n): four times as fast as without
        products.baddbmm_(by_position, by_position.mT)
        count += len(part)
    assert first is not None  # there is at least one image
    mean = sums / count
    network.mean.copy_(first + mean.reshape(spec.shape))
    covariances = products / count - mean.T[:, :, None] * mean.T[:, None, :]
    usual = covariances.mean(0)
    shrunk = (1 - SHRINKAGE) * covariances + SHRINKAGE * usual + ridge(usual)
    network.whitening.copy_(whitening(shrunk))
    return network.eval()


def ridge(covariance: Tensor) -> Tensor:
    """What is added to a covariance (c, c), so that what hardly varies in nominal images counts no more than that."""
    return torch.diag(RIDGE * covariance.diagonal() + LEAST)


def whitening(covariances: Tensor) -> Tensor:
    """The matrices (..., c, c) float64 by which differences of these covariances (..., c, c) become whitened."""
    lower = torch.linalg.cholesky(covariances.double())
    identity = torch.eye(lower.shape[-1], dtype=torch.float64).expand_as(lower)
    return torch.as_tensor(torch.linalg.solve_triangular(lower, identity, upper=False))
