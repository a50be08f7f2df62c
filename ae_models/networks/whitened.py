"""Principal components of whitened features: what varies together in nominal images is no defect."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ae_models.baselines import PrincipalComponents, leading_components
from ae_models.images import FeatureSpec
from ae_models.networks.gaussian import PositionalGaussian, fit_positional_gaussian


class WhitenedComponents(PrincipalComponents):
    """Reconstructs features so that the squared error is what principal components of the whitened features leave.

    A Gaussian at each position takes what lies there as independent of all other positions. But light, wear or a slight
    turn moves many at once; the components of the whitened differences take that away, and a defect stays.

    Args:
        spec: size of the features.
        code_size: number of components.
    """

    def __init__(self, spec: FeatureSpec, code_size: int) -> None:
        super().__init__(spec, code_size)
        self.usual = PositionalGaussian(spec)

    def forward(self, images: Tensor) -> Tensor:
        """Reconstructions (N, c, h, w) of features (N, c, h, w); what they lack is in nominal deviations."""
        whitened = images - self.usual(images)
        return torch.as_tensor(images - (whitened - self.decode(self.encode(whitened))))


def fit_whitened_components(
    parts: Sequence[Tensor], spec: FeatureSpec, code_size: int, seed: int
) -> WhitenedComponents:
    """The Gaussians of nominal features, given in parts (n, c, h, w), and the components of what they whitened."""
    usual = fit_positional_gaussian(parts, spec)
    whitened = np.concatenate([(part - usual(part)).numpy() for part in parts])
    network = WhitenedComponents.of(spec, *leading_components(whitened, code_size, seed))
    network.usual.load_state_dict(usual.state_dict())
    return network
