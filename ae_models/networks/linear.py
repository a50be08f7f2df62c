"""The linear autoencoder: one linear layer down to the code, one back."""

import math

import torch
from torch import Tensor, nn

from ae_models.images import FeatureSpec
from ae_models.networks.layers import output_layer, require_count


class LinearAutoencoder(nn.Module):
    """An encoder Linear - ReLU - BatchNorm and a decoder Linear - output on the flattened image.

    The code is never wider than a quarter of the pixels: a wider one copies its input, defects included.

    Args:
        spec: size of the images.
        code_size: wished numbers in the code.
        output: "sigmoid" for images in [0, 1], "identity" for features of any range.

    Raises:
        InputError: a code size below 1.
    """

    def __init__(self, spec: FeatureSpec, code_size: int = 32, output: str = "sigmoid") -> None:
        super().__init__()
        require_count("code_size", code_size)
        self.shape = spec.shape
        pixels = math.prod(spec.shape)
        code_size = max(1, min(code_size, pixels // 4))
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(pixels, code_size), nn.ReLU(), nn.BatchNorm1d(code_size))
        self.decoder = nn.Sequential(nn.Linear(code_size, pixels), output_layer(output))

    def encode(self, images: Tensor) -> Tensor:
        """Codes (N, code_size) of images (N, C, H, W) in [0, 1]."""
        return torch.as_tensor(self.encoder(images))

    def decode(self, codes: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] of codes (N, code_size)."""
        return torch.as_tensor(self.decoder(codes)).reshape(-1, *self.shape)

    def forward(self, images: Tensor) -> Tensor:
        """Reconstructions (N, C, H, W) in [0, 1] of images (N, C, H, W) in [0, 1]."""
        return self.decode(self.encode(images))
