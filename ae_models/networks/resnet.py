"""A ResNet of torchvision as encoder, its head removed, with a decoder that starts from its embedding."""

from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from ae_models.errors import InputError
from ae_models.images import FeatureSpec
from ae_models.networks.layers import MapDecoder

DEPTHS = (18, 34, 50)
WEIGHTS = ("none", "default")
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of RGB in [0, 1]


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

        torch looks for the file in its own folder, and downloads it where it is not there yet.

        Raises:
            InputError: the file is not there and cannot be downloaded, or it does not hold these weights.
        """
        if self.weights == "none":
            return
        from torchvision import models

        weights = models.get_model_weights(f"resnet{self.depth}").DEFAULT
        file = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
        try:
            state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        except OSError as error:
            raise InputError(
                f"torchvision's weights of resnet{self.depth} are not at {file} and cannot be downloaded ({error}): "
                f"put {weights.url} there, or set weights to none"
            ) from error
        except Exception as error:  # torch has no common class for what a damaged file makes of its reader
            raise InputError(f"{file} cannot be read as weights: remove it") from error
        wanted = self.encoder.state_dict()
        if absent := sorted(wanted.keys() - state.keys()):
            raise InputError(f"{file} is not torchvision's resnet{self.depth} (it has no {absent[0]}): remove it")
        self.encoder.load_state_dict({name: state[name] for name in wanted})

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
