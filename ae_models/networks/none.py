"""No network: for front ends whose features are deviations already."""

import torch
from torch import Tensor, nn

from ae_models.images import FeatureSpec


class NoNetwork(nn.Module):
    """Reconstructs zeros, so that the squared error is the square of the features; nothing is learnt.

    Args:
        spec: size of the features.
    """

    def __init__(self, spec: FeatureSpec) -> None:
        super().__init__()

    def forward(self, features: Tensor) -> Tensor:
        """Zeros (N, c, h, w) for features (N, c, h, w)."""
        return torch.zeros_like(features)
