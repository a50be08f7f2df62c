"""Principal components: what a network has to beat."""

import math
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ae_models.images import FeatureSpec

EXACT = 1000  # images, or values of each, up to which exact components take less time than randomised ones
FAINTEST = 1e-3  # deviation along a component, as a share of the first's, below which it is rounding


class PrincipalComponents(nn.Module):
    """Reconstruction from the leading principal components: the optimum of a linear autoencoder of that code size.

    Args:
        spec: size of the images.
        code_size: number of components.
    """

    mean: Tensor
    components: Tensor

    def __init__(self, spec: FeatureSpec, code_size: int) -> None:
        super().__init__()
        self.shape = spec.shape
        pixels = math.prod(spec.shape)
        self.register_buffer("mean", torch.zeros(pixels))
        self.register_buffer("components", torch.zeros(code_size, pixels))

    @classmethod
    def of(cls, spec: FeatureSpec, mean: NDArray[np.float32], components: NDArray[np.float32]) -> Self:
        """The network with this mean (p,) and these components (code_size, p) of flat images, in evaluation mode."""
        network = cls(spec, len(components))
        network.mean.copy_(torch.from_numpy(mean))
        network.components.copy_(torch.from_numpy(components))
        return network.eval()

    def encode(self, images: Tensor) -> Tensor:
        """Codes (N, code_size) of images (N, C, H, W) in [0, 1]."""
        return (images.flatten(1) - self.mean) @ self.components.T

    def decode(self, codes: Tensor) -> Tensor:
        """Images (N, C, H, W) of codes (N, code_size)."""
        return (codes @ self.components + self.mean).reshape(-1, *self.shape)

    def forward(self, images: Tensor) -> Tensor:
        """Reconstructions (N, C, H, W) of images (N, C, H, W) in [0, 1]."""
        return self.decode(self.encode(images))


def fit_principal_components(
    images: NDArray[np.float32], spec: FeatureSpec, code_size: int = 32, seed: int = 0
) -> PrincipalComponents:
    """Principal components of images (N, C, H, W) in [0, 1]; at most N - 1 and a quarter of the pixels of them."""
    return PrincipalComponents.of(spec, *leading_components(images, code_size, seed))


def leading_components(
    images: NDArray[np.float32], code_size: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The mean (p,) and the leading principal components (k, p) of images (N, ...) of p values each.

    There are `code_size` of them, or what there is: at most N - 1, and a quarter of the values.
    """
    flat = images.reshape(len(images), -1)
    code_size = max(1, min(code_size, len(flat) - 1, flat.shape[1] // 4))
    mean = flat.mean(axis=0)
    differences = flat - mean
    if min(flat.shape) <= EXACT:
        return mean, _exact_components(differences, code_size)
    from sklearn.utils.extmath import randomized_svd  # takes half a second to import, which scoring can do without

    _, _, components = randomized_svd(differences, code_size, random_state=seed)
    return mean, components


def _exact_components(differences: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """The leading principal components (count, p) of differences (N, p) from their mean; zeros beyond their rank."""
    n_images, n_values = differences.shape
    few = differences if n_images < n_values else differences.T
    axes = np.linalg.eigh((few @ few.T).astype(np.float64))[1][:, : -count - 1 : -1].T.astype(np.float32)
    if few is not differences:
        return axes
    components = axes @ differences
    lengths = np.linalg.norm(components, axis=1, keepdims=True)
    found = lengths > FAINTEST * lengths.max()
    unit: NDArray[np.float32] = np.divide(components, lengths, out=np.zeros_like(components), where=found)
    return unit
