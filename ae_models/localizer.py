"""Where the defect is: what the error maps of several detectors, and the light of the image, say of it together."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ae_models.front_ends import OrientedGradients, Pixels, to_pixels
from ae_models.images import FeatureSpec, ImageSpec
from ae_models.networks.restoration import RestorationNetwork
from ae_models.scoring import LEAST
from ae_models.synthetic_defects import VISIBLE

POSITIONS = 32  # along the short side, at which places are judged
SMALLEST = 8  # positions along the short side
WIDTHS = (16, 24, 32, 32)
NETWORKS = 2  # whose mean is taken: each errs in places of its own
LEAST_LOOK = 0.1  # deviation of what a position looks like, below which it does not vary
FAINT = 0.02  # strength of edges, in that of their image, below which they are alike
LEAST_SPREAD = 0.01  # of logarithms
LEAST_SHARE = 1e-3  # of a usual error, below which errors are alike: their logarithms would be those of rounding
FARTHEST = 8.0  # deviations: what looks farther from the usual counts as so far


def suits_localizers(spec: ImageSpec) -> bool:
    """Whether images have enough positions to tell one place from another."""
    return min(spec.height, spec.width) >= SMALLEST


class Localizer(nn.Module):
    """Tells how likely each place is a defect's, from error maps and the looks of the image, in the units of errors.

    Errors stand where something is unusual, which is often a part of a defect only: the edge of a stain, the ends of a
    step. U-shaped networks see, at some 32 positions a side, the logarithms of the error maps of all members of a
    detector and what the image looks like there: its light, and how strong edges of each direction are. From synthetic
    defects, whose masks are known, they learn which positions belong to one (compare the discriminative network of
    Zavrtanik et al., DRAEM, 2021). The mean of what they give is brought to the centre and the spread that the
    logarithm of the fused error map has in nominal images.

    Args:
        spec: size of the images.
        members: how many error maps it sees.
        widths: channels of each network at each resolution.
    """

    least: Tensor  # (members, 1, 1), errors from which on they are told apart
    centres: Tensor  # (members, 1, 1), of the logarithms of usual errors
    scales: Tensor  # (members, 1, 1)
    look: Tensor  # (C + 8, h, w), usual
    look_scales: Tensor  # (C + 8, h, w)
    scale: Tensor  # (), of the logarithm of what it gives, by the networks' logit
    offset: Tensor  # ()

    def __init__(self, spec: ImageSpec, members: int, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.step = max(1, round(min(spec.height, spec.width) / POSITIONS))
        self.pixels = Pixels(spec, self.step, standardised=True)
        self.gradients = OrientedGradients(spec, self.step, normalised="image")
        self.height, self.width = self.pixels.spec.height, self.pixels.spec.width
        looks = spec.channels + self.gradients.spec.channels
        seen = FeatureSpec(self.height, self.width, members + looks)
        self.networks = nn.ModuleList(
            RestorationNetwork(seen, widths, "identity", convolutions=1, channels_out=1) for _ in range(NETWORKS)
        )
        self.to_pixels = to_pixels(self.pixels, spec)
        self.register_buffer("least", torch.full((members, 1, 1), LEAST))
        self.register_buffer("centres", torch.zeros(members, 1, 1))
        self.register_buffer("scales", torch.ones(members, 1, 1))
        self.register_buffer("look", torch.zeros(looks, self.height, self.width))
        self.register_buffer("look_scales", torch.ones(looks, self.height, self.width))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("offset", torch.zeros(()))

    def forward(self, images: Tensor, maps: Tensor) -> Tensor:
        """Maps (N, H, W) above 0 of images (N, C, H, W) in [0, 1] and the members' error maps (N, members, H, W)."""
        logits = self.logits(self.inputs(images, maps))[:, 0]
        return torch.as_tensor(self.to_pixels(self.scale * logits + self.offset)).exp()

    def logits(self, inputs: Tensor) -> Tensor:
        """The mean of what the networks give, (N, 1, h, w), of what they see, (N, members + C + 8, h, w)."""
        return torch.stack([network(inputs) for network in self.networks]).mean(0)

    def inputs(self, images: Tensor, maps: Tensor) -> Tensor:
        """What the networks see, (N, members + C + 8, h, w), of images (N, C, H, W) and maps (N, members, H, W)."""
        return self.standardised(self.at_positions(maps), self.looks(images))

    def standardised(self, errors: Tensor, looks: Tensor) -> Tensor:
        """The same of the errors (N, members, h, w) and the looks (N, C + 8, h, w) of each position."""
        unusual = ((looks - self.look) / self.look_scales).clamp(-FARTHEST, FARTHEST)
        return torch.cat([(self.logarithms(errors) - self.centres) / self.scales, unusual], dim=1)

    def looks(self, images: Tensor) -> Tensor:
        """The light of each position and the logarithms of the strength of edges in eight directions, (N, C + 8, h, w),
        of images (N, C, H, W)."""
        edges = (self.gradients(images) + FAINT).log()
        missing = 0, self.width - edges.shape[3], 0, self.height - edges.shape[2]  # where a last position is cut short
        return torch.cat([self.pixels(images), functional.pad(edges, missing, mode="replicate")], dim=1)

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
