"""The U-shaped restoration network: it learns to give back what a corruption took away."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ae_models.images import FeatureSpec
from ae_models.networks.layers import output_layer, padded, pooling_factor, require_count, require_widths


class RestorationNetwork(nn.Module):
    """Convolutions down and up again, with skip connections at each resolution (Ronneberger et al., U-Net, 2015).

    The skip connections carry every detail around the narrow part, so trained on clean images it copies its input,
    defects included; trained with a corruption it learns what does not belong and takes it away. So it has no code
    that stands for the image, and `fit` refuses to train it without a corruption. Its output is the restored image
    itself, not a correction of the input. 118,000 parameters with the default widths.

    Args:
        spec: size of the images; sides that are not multiples of the pooling are padded by repeating their edge.
        widths: channels at each resolution; a 2x2 pooling between each two.
        output: "sigmoid" for images in [0, 1], "identity" for features of any range.
        convolutions: at each resolution, down and up.
        channels_out: channels of what it gives; by default those of the images.

    Raises:
        InputError: more poolings than the image has room for, or a number below 1.
    """

    needs_corruption = True

    def __init__(
        self,
        spec: FeatureSpec,
        widths: Sequence[int] = (16, 32, 64),
        output: str = "sigmoid",
        convolutions: int = 2,
        channels_out: int | None = None,
    ) -> None:
        super().__init__()
        require_widths(widths)
        require_count("convolutions", convolutions)
        self.factor = pooling_factor(spec, len(widths) - 1)
        down, up = pairwise([spec.channels, *widths]), reversed(list(pairwise(widths)))
        self.down = nn.ModuleList(_block(wide, narrow, convolutions) for wide, narrow in down)
        self.up = nn.ModuleList(_block(low + high, high, convolutions) for high, low in up)
        self.pool = nn.MaxPool2d(2, 2)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.last = nn.Sequential(nn.Conv2d(widths[0], channels_out or spec.channels, 1), output_layer(output))

    def forward(self, images: Tensor) -> Tensor:
        """Restored images (N, C, H, W) of images (N, C, H, W)."""
        height, width = images.shape[-2:]
        maps, kept = padded(images, self.factor), []
        for depth, block in enumerate(self.down):
            maps = block(self.pool(maps) if depth else maps)
            kept.append(maps)
        kept.pop()
        for block in self.up:
            maps = block(torch.cat([self.upsample(maps), kept.pop()], dim=1))
        return torch.as_tensor(self.last(maps))[..., :height, :width]


def _block(channels_in: int, channels_out: int, convolutions: int) -> nn.Sequential:
    further = [part for _ in range(convolutions - 1) for part in _convolution(channels_out, channels_out)]
    return nn.Sequential(*_convolution(channels_in, channels_out), *further)


def _convolution(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False), nn.BatchNorm2d(channels_out), nn.ReLU()]
