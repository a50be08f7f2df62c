"""The distance in the code of principal components, as a squared error."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ae_models.baselines import PrincipalComponents, leading_components
from ae_models.images import FeatureSpec

LEAST = 1e-6  # a rounding error: the deviation of a code that never varies


class CodeDistance(PrincipalComponents):
    """Reconstructs features so that the squared error is the squared Mahalanobis distance of their code.

    What principal components reconstruct well may still be unusual: an object that is turned, moved or of another form.
    The whitened code, taken back to the features, takes the place of the error (Hotelling's T squared, where the error
    is the Q of Jackson and Mudholkar, 1979), so that its map shows where the unusual code comes from.

    Args:
        spec: size of the features.
        code_size: number of components.
    """

    deviations: Tensor

    def __init__(self, spec: FeatureSpec, code_size: int) -> None:
        super().__init__(spec, code_size)
        self.register_buffer("deviations", torch.ones(code_size))

    def forward(self, images: Tensor) -> Tensor:
        """Reconstructions (N, c, h, w) of features (N, c, h, w); what they lack is the whitened code, as features."""
        whitened = (self.encode(images) / self.deviations) @ self.components
        return images - whitened.reshape(images.shape)


def fit_code_distance(
    features: NDArray[np.float32], held_out: NDArray[np.float32], spec: FeatureSpec, code_size: int, seed: int
) -> CodeDistance:
    """The principal components of nominal features (N, c, h, w), and the deviations of codes of held-out ones.

    Deviations of the features that the components were fitted to would be too small for others.
    """
    network = CodeDistance.of(spec, *leading_components(features, code_size, seed))
    codes = network.encode(torch.from_numpy(held_out))
    network.deviations.copy_(codes.square().mean(0).sqrt() + LEAST)
    return network
