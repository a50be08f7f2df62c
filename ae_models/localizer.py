"""Where the defect is: what the error maps of several detectors, and the light of the image, say of it together."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ae_models.front_ends import Pixels, to_pixels
from ae_models.images import FeatureSpec, ImageSpec
from ae_models.networks.restoration import RestorationNetwork
from ae_models.scoring import LEAST
from ae_models.synthetic_defects import VISIBLE

POSITIONS = 32  # along the short side, at which places are judged
SMALLEST = 8  # positions along the short side
WIDTHS = (16, 24, 32, 32)
LEAST_LIGHT = 0.1  # deviation of the light of a position, in those of its image, below which it does not vary
LEAST_SPREAD = 0.01  # of logarithms
LEAST_SHARE = 1e-3  # of a usual error, below which errors are alike: their logarithms would be those of rounding
FARTHEST = 8.0  # deviations: light that is farther from the usual counts as so far


def suits_localizers(spec: ImageSpec) -> bool:
    """Whether images have enough positions to tell one place from another."""
    return min(spec.height, spec.width) >= SMALLEST


class Localizer(nn.Module):
    """Tells how likely each place is a defect's, from error maps and the light of the image, in the units of errors.

    Errors stand where something is unusual, which is often a part of a defect only: the edge of a stain, the ends of a
    step. A U-shaped network sees, at some 32 positions a side, the logarithms of the error maps of all members of a
    detector and the light of the image, and learns from synthetic defects, whose masks are known, which positions
    belong to one (compare the discriminative network of Zavrtanik et al., DRAEM, 2021). What it gives is brought to
    the centre and the spread that the logarithm of the fused error map has in nominal images.

    Args:
        spec: size of the images.
        members: how many error maps it sees.
        widths: channels of the network at each resolution.
    """

    least: Tensor  # (members, 1, 1), errors from which on they are told apart
    centres: Tensor  # (members, 1, 1), of the logarithms of usual errors
    scales: Tensor  # (members, 1, 1)
    light: Tensor  # (C, h, w), usual
    light_scales: Tensor  # (C, h, w)
    scale: Tensor  # (), of the logarithm of what it gives, by the network's logit
    offset: Tensor  # ()

    def __init__(self, spec: ImageSpec, members: int, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.step = max(1, round(min(spec.height, spec.width) / POSITIONS))
        self.pixels = Pixels(spec, self.step, standardised=True)
        height, width = self.pixels.spec.height, self.pixels.spec.width
        seen = FeatureSpec(height, width, members + spec.channels)
        self.network = RestorationNetwork(seen, widths, "identity", convolutions=1, channels_out=1)
        self.to_pixels = to_pixels(self.pixels, spec)
        self.register_buffer("least", torch.full((members, 1, 1), LEAST))
        self.register_buffer("centres", torch.zeros(members, 1, 1))
        self.register_buffer("scales", torch.ones(members, 1, 1))
        self.register_buffer("light", torch.zeros(self.pixels.spec.shape))
        self.register_buffer("light_scales", torch.ones(self.pixels.spec.shape))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("offset", torch.zeros(()))

    def forward(self, images: Tensor, maps: Tensor) -> Tensor:
        """Maps (N, H, W) above 0 of images (N, C, H, W) in [0, 1] and the members' error maps (N, members, H, W)."""
        logits = self.network(self.inputs(images, maps))[:, 0]
        return torch.as_tensor(self.to_pixels(self.scale * logits + self.offset)).exp()

    def inputs(self, images: Tensor, maps: Tensor) -> Tensor:
        """What the network sees, (N, members + C, h, w), of images (N, C, H, W) and error maps (N, members, H, W)."""
        return self.standardised(self.at_positions(maps), self.pixels(images))

    def standardised(self, errors: Tensor, light: Tensor) -> Tensor:
        """The same of the errors (N, members, h, w) and the light (N, C, h, w) at each position."""
        unusual = ((light - self.light) / self.light_scales).clamp(-FARTHEST, FARTHEST)
        return torch.cat([(self.logarithms(errors) - self.centres) / self.scales, unusual], dim=1)

    def logarithms(self, errors: Tensor) -> Tensor:
        """Of errors (N, members, h, w) at each position."""
        return torch.maximum(errors, self.least).log()

    def at_positions(self, maps: Tensor) -> Tensor:
        """The mean errors at each position, (N, K, h, w), of maps (N, K, H, W)."""
        return functional.avg_pool2d(maps, self.step, ceil_mode=True)

    def shares(self, images: Tensor, clean: Tensor) -> Tensor:
        """The share of each position that is a defect's, (N, 1, h, w), where the clean images (N, C, H, W) are known.

        Where a defect changed most of an image, what it left stands out as the defect would.
        """
        changed = ((images - clean).abs().amax(1, keepdim=True) >= VISIBLE).to(images.dtype)
        shares = functional.avg_pool2d(changed, self.step, ceil_mode=True)
        return torch.where(shares.mean((1, 2, 3), keepdim=True) > 0.5, 1 - shares, shares)
