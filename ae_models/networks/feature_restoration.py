"""Restoration in the space of features: which share of what is unusual at a position is a defect's."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ae_models.images import FeatureSpec
from ae_models.networks.gaussian import PositionalGaussian
from ae_models.networks.restoration import RestorationNetwork

FARTHEST = 12.0  # deviations: what lies farther from the nominal mean counts as so far
NOTHING = 1e-6  # mean square below which a deviation has no direction


class FeatureRestoration(nn.Module):
    """Takes out of features what a defect changed in them, so that the squared error is how much that was.

    A Gaussian at each position says how far features are from nominal ones, in nominal deviations; a U-shaped network
    sees these, and learns from synthetic defects how much of the mean square e of a position a defect brought in, as
    e / (1 + e). What it gives are the features moved towards the nominal mean by just that much. A plain restoration
    is punished wherever a defect does not show, as within an even stain or where a texture hides it, and learns to
    doubt everything; here what does not show is not asked for (compare Zavrtanik et al., DRAEM, 2021).

    Args:
        spec: size of the features.
        widths: channels of the U-shaped network at each resolution.
    """

    needs_corruption = True

    def __init__(self, spec: FeatureSpec, widths: Sequence[int] = (16, 24, 32)) -> None:
        super().__init__()
        self.usual = PositionalGaussian(spec)
        self.shares = RestorationNetwork(spec, widths, "identity", convolutions=1, channels_out=1)

    def forward(self, features: Tensor) -> Tensor:
        """Restored features (N, c, h, w) of features (N, c, h, w); the squared error is a share in [0, 1]."""
        unusual = self._unusual(features)
        length = unusual.square().mean(1, keepdim=True).clamp_min(NOTHING).sqrt()
        return torch.as_tensor(features - self._shares(unusual).sigmoid().sqrt() * unusual / length)

    def training_loss(self, images: Tensor, clean: Tensor) -> Tensor:
        """Cross-entropy, a scalar, of the shares in features (N, c, h, w) with defects, whose clean ones are known."""
        unusual = self._unusual(images)
        brought = (unusual - self._unusual(clean)).square().mean(1, keepdim=True)
        return functional.binary_cross_entropy_with_logits(self._shares(unusual), brought / (1 + brought))

    def _unusual(self, features: Tensor) -> Tensor:
        return torch.as_tensor((features - self.usual(features)).clamp(-FARTHEST, FARTHEST))

    def _shares(self, unusual: Tensor) -> Tensor:
        return torch.as_tensor(self.shares(unusual.sign() * unusual.abs().log1p()))  # (N, 1, h, w), logits
