"""A ResNet of torchvision as encoder, its head removed, with a decoder that starts from its embedding."""

from typing import Self

import torch
from torch import Tensor, nn

from ae_models.errors import InputError
from ae_models.images import FeatureSpec
from ae_models.networks.layers import MapDecoder
from ae_models.pretrained import IMAGENET_DEVIATION, IMAGENET_MEAN, load_pretrained

DEPTHS = (18, 34, 50)
WEIGHTS = ("none", "default")


class ResNetAutoencoder(nn.Module):
    """A ResNet (He et al., Deep Residual Learning, 2016) up to its pooled embedding, then a learned map, upsampling
    and convolution back to the image.

    Images are normalised as ImageNet's are, and a grey one is given three times; features (neither 1 nor 3 channels)
    go in as they are, through a first convolution of as many channels.

    Args:
        spec: size of the images.
        depth: 18, 34 or 50 layers.
        weights: "none" (random) or "default" (torchvision's, which `load_pretrained` puts in).
        frozen: the encoder keeps its weights, and only the decoder learns.
        output: "sigmoid" for images in [0, 1], "identity" for features of any range.

    Raises:
        InputError: no such depth or weights, or pretrained weights for features.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self, spec: FeatureSpec, depth: int = 18, weights: str = "none", frozen: bool = False, output: str = "sigmoid"
    ) -> None:
        super().__init__()
        for name, value, choices in (("depth", depth, DEPTHS), ("weights", weights, WEIGHTS)):
            if value not in choices:
                raise InputError(f"{name} is {value!r}: choose one of {', '.join(map(str, choices))}")
        self.is_image = spec.channels in (1, 3)
        if weights == "default" and not self.is_image:
            raise InputError(f"torchvision's weights are for images, not for {spec.channels} channels: weights: none")
        from torchvision import models  # seconds, which few pipelines need to wait for

        self.depth, self.weights, self.frozen = depth, weights, frozen
        self.encoder = models.get_model(f"resnet{depth}", weights=None)
        embedding = self.encoder.fc.in_features
        self.encoder.fc = nn.Identity()
        if not self.is_image:
            self.encoder.conv1 = nn.Conv2d(spec.channels, 64, 7, stride=2, padding=3, bias=False)
        self.encoder.requires_grad_(not frozen)
        self.decoder = MapDecoder(spec, embedding, output)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).reshape(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(IMAGENET_DEVIATION).reshape(3, 1, 1), persistent=False)

    def load_pretrained(self) -> None:
        """Put torchvision's weights into the encoder, where "default" ones are wished for; `fit` calls it.

        Raises:
            InputError: the file is not there and cannot be downloaded, or it does not hold these weights.
        """
        if self.weights == "default":
            load_pretrained(self.encoder, f"resnet{self.depth}")

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode; a frozen encoder stays in evaluation mode, its batch statistics as they are."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def encode(self, images: Tensor) -> Tensor:
        """Embeddings (N, 512), or (N, 2048) at depth 50, of images (N, C, H, W)."""
        if self.is_image:
            images = (images - self.mean) / self.deviation  # (N, 1 or 3, H, W) -> (N, 3, H, W)
        return torch.as_tensor(self.encoder(images))

    def decode(self, codes: Tensor) -> Tensor:
        """Images (N, C, H, W) of embeddings."""
        return torch.as_tensor(self.decoder(codes))

    def forward(self, images: Tensor) -> Tensor:
        """Reconstructions (N, C, H, W) of images (N, C, H, W)."""
        return self.decode(self.encode(images))
