"""The convolutional autoencoder: max pooling down to the code, learned upsampling back."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ae_models.errors import InputError
from ae_models.images import FeatureSpec
from ae_models.networks.layers import output_layer, padded, pooling_factor


class ConvolutionalAutoencoder(nn.Module):
    """Convolutions and 2x2 max pooling once per width; the decoder undoes each pooling.

    Images whose sides are not multiples of 2 ** len(widths) are padded by repeating their edge, and reconstructions
    are cut back to the size of the image.

    Args:
        spec: size of the images.
        widths: channels at each depth; its length is the number of poolings.
        convolutions: 3x3 convolutions at each depth.
        decoder: "transposed" (2x2 transposed convolutions of stride 2) or "upsampling" (nearest neighbour, then a 3x3
            convolution), which has no checkerboard (Odena et al., Deconvolution and Checkerboard Artifacts, 2016).
        code_channels: channels of the code; the last width when None.
        output: "sigmoid" for images in [0, 1], "identity" for features of any range.

    Raises:
        InputError: more poolings than the image has room for, a number below 1, or no such decoder.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        widths: Sequence[int] = (32, 32),
        convolutions: int = 1,
        decoder: str = "upsampling",
        code_channels: int | None = None,
        output: str = "sigmoid",
    ) -> None:
        super().__init__()
        numbers = [*widths, convolutions, *([] if code_channels is None else [code_channels])]
        if not widths or any(type(number) is not int or number < 1 for number in numbers):
            raise InputError(
                f"widths {list(widths)}, convolutions {convolutions!r} or code_channels {code_channels!r} cannot be "
                "used: give whole numbers from 1 on, and at least one width"
            )
        self.height, self.width, self.factor = spec.height, spec.width, pooling_factor(spec, len(widths))
        if decoder not in DECODERS:
            raise InputError(f"there is no decoder {decoder!r}: choose one of {', '.join(DECODERS)}")
        depths = [spec.channels, *widths[:-1], code_channels or widths[-1]]
        down: list[nn.Module] = []
        for wide, narrow in pairwise(depths):
            for step in range(convolutions):
                down += [nn.Conv2d(wide if step == 0 else narrow, narrow, 3, padding=1), nn.ReLU()]
            down.append(nn.MaxPool2d(2, 2))
        up: list[nn.Module] = []
        for narrow, wide in pairwise(reversed(depths)):
            up += [*DECODERS[decoder](narrow, wide), nn.ReLU()]
        self.encoder = nn.Sequential(*down)
        self.decoder = nn.Sequential(*up[:-1], output_layer(output))

    def encode(self, images: Tensor) -> Tensor:
        """Codes (N, code channels, ceil(H / factor), ceil(W / factor)) of images (N, C, H, W) in [0, 1]."""
        return torch.as_tensor(self.encoder(padded(images, self.factor)))

    def decode(self, codes: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] of codes."""
        return torch.as_tensor(self.decoder(codes))[..., : self.height, : self.width]

    def forward(self, images: Tensor) -> Tensor:
        """Reconstructions (N, C, H, W) in [0, 1] of images (N, C, H, W) in [0, 1]."""
        return self.decode(self.encode(images))


def _transposed(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [nn.ConvTranspose2d(channels_in, channels_out, 2, stride=2)]


def _upsampling(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(channels_in, channels_out, 3, padding=1)]


DECODERS = {"transposed": _transposed, "upsampling": _upsampling}
