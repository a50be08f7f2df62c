"""The variational autoencoder: codes that follow a known distribution, so that images can be drawn from it."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ae_models.errors import InputError
from ae_models.images import FeatureSpec
from ae_models.networks.layers import MapDecoder, padded, pooling_factor, require_count, require_widths


class VariationalAutoencoder(nn.Module):
    """Images to a normal distribution of codes that is held near the standard normal one, and back (Kingma & Welling,
    Auto-Encoding Variational Bayes, 2014).

    The code of an image is the mean of its distribution, so that scores and reconstructions have no chance in them;
    only `training_loss` draws codes.

    Args:
        spec: size of the images.
        code_size: numbers in the code.
        widths: channels of the encoder at each resolution; each ends in one pooling.
        beta: weight of the divergence from the standard normal distribution, beside the squared error summed over
            pixels: twice the variance of the noise that a pixel is taken to have (Higgins et al., beta-VAE, 2017).
        output: "sigmoid" for images in [0, 1], "identity" for features of any range.

    Raises:
        InputError: more poolings than the image has room for, or a number that is too low.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        code_size: int = 16,
        widths: Sequence[int] = (32, 64),
        beta: float = 0.3,
        output: str = "sigmoid",
    ) -> None:
        super().__init__()
        require_count("code_size", code_size)
        require_widths(widths)
        if not 0 <= beta < math.inf:
            raise InputError(f"beta is {beta!r}: give a number from 0 on")
        self.code_size, self.beta, self.factor = code_size, beta, pooling_factor(spec, len(widths))
        down: list[nn.Module] = []
        for wide, narrow in pairwise([spec.channels, *widths]):
            down += [nn.Conv2d(wide, narrow, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 2)]
        map_size = math.ceil(spec.height / self.factor) * math.ceil(spec.width / self.factor)
        self.encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(widths[-1] * map_size, 2 * code_size))
        self.decoder = MapDecoder(spec, code_size, output)

    def distribution(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance, each (N, code_size), of the codes of images (N, C, H, W)."""
        mean, log_variance = torch.as_tensor(self.encoder(padded(images, self.factor))).chunk(2, dim=1)
        return mean, log_variance

    def encode(self, images: Tensor) -> Tensor:
        """Codes (N, code_size) of images (N, C, H, W): the means of their distributions."""
        return self.distribution(images)[0]

    def decode(self, codes: Tensor) -> Tensor:
        """Images (N, C, H, W) of codes (N, code_size)."""
        return torch.as_tensor(self.decoder(codes))

    def forward(self, images: Tensor) -> Tensor:
        """Reconstructions (N, C, H, W) of images (N, C, H, W), from the mean codes."""
        return self.decode(self.encode(images))

    def training_loss(self, images: Tensor, clean: Tensor) -> Tensor:
        """Mean squared error of reconstructions from drawn codes against `clean`, plus `beta` times the divergence.

        Both are sums over an image divided by its number of pixels and channels, so that the first is the loss of the
        other networks. Codes are drawn from torch's global generator, which `fit` seeds.
        """
        mean, log_variance = self.distribution(images)
        drawn = mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1).mean() / 2
        return nn.functional.mse_loss(self.decode(drawn), clean) + self.beta * divergence / clean[0].numel()
