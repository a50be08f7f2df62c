"""What a network that learned to tell photographs apart sees of an image, as a front end."""

from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from ae_models.errors import InputError
from ae_models.filters import Filter, Places, between
from ae_models.images import FeatureSpec, ImageSpec
from ae_models.pretrained import IMAGENET_DEVIATION, IMAGENET_MEAN, load_pretrained

BACKBONES = ("resnet18", "resnet34", "resnet50", "wide_resnet50_2")
STAGES = (1, 2, 3)  # of four: the last one knows what is in a photograph, and little of where
CHOICE = 20211  # seed of the channels that are kept: the same in every detector


class Backbone(nn.Module):
    """Feature maps of a pretrained ResNet's stages at the first one's resolution, (N, C, H, W) -> (N, channels, h, w).

    The channels are drawn once among those of all stages (Defard et al., PaDiM, 2021: a random few do as well as all).
    The weights are torchvision's, which `load_pretrained` puts in and a saved detector carries; they never change.

    Args:
        spec: size of the images; grey ones are given three times.
        name: the ResNet, one of `BACKBONES`.
        stages: ascending, from 1 to 3; the first says the resolution, 1 every 4th pixel and each next one half of it.
        channels: that are kept.

    Raises:
        InputError: no such backbone or stages.
    """

    mean: Tensor
    deviation: Tensor
    kept: Tensor

    def __init__(
        self, spec: ImageSpec, name: str = "resnet18", stages: tuple[int, ...] = STAGES, channels: int = 100
    ) -> None:
        super().__init__()
        if name not in BACKBONES:
            raise InputError(f"there is no backbone {name!r}: choose one of {', '.join(BACKBONES)}")
        if not stages or list(stages) != sorted(set(stages) & set(STAGES)):
            raise InputError(f"a backbone has no stages {list(stages)}: give ascending ones of {list(STAGES)}")
        from torchvision import models  # seconds, which few pipelines need to wait for

        self.name, self.stages = name, tuple(stages)
        network = models.get_model(name, weights=None)
        widths = [64, 128, 256] if name in ("resnet18", "resnet34") else [256, 512, 1024]
        self.stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
        self.layers = nn.ModuleList(getattr(network, f"layer{stage}") for stage in range(1, max(stages) + 1))
        total = sum(widths[stage - 1] for stage in stages)
        drawn = torch.randperm(total, generator=torch.Generator().manual_seed(CHOICE))[: min(channels, total)]
        self.register_buffer("kept", drawn.sort().values, False)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).reshape(3, 1, 1), False)
        self.register_buffer("deviation", torch.tensor(IMAGENET_DEVIATION).reshape(3, 1, 1), False)
        seen = [[_places(side, stage) for side in (spec.height, spec.width)] for stage in stages]
        self.finer = nn.ModuleList(Filter(*map(between, places, seen[0])) for places in seen[1:])
        self.places = seen[0][0], seen[0][1]
        self.spec = FeatureSpec(len(seen[0][0]), len(seen[0][1]), len(drawn))
        self.requires_grad_(False)
        self.eval()

    def load_pretrained(self) -> None:
        """Put torchvision's weights in; `InputError` where they are not there and cannot be downloaded."""
        from torchvision import models

        network = models.get_model(self.name, weights=None)
        load_pretrained(network, self.name)
        self.stem[0].load_state_dict(network.conv1.state_dict())
        self.stem[1].load_state_dict(network.bn1.state_dict())
        for stage, layer in enumerate(self.layers, 1):
            layer.load_state_dict(getattr(network, f"layer{stage}").state_dict())

    def train(self, mode: bool = True) -> Self:
        """Always evaluation mode: what it sees of an image does not depend on the others in the batch."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, channels, h, w) of images (N, C, H, W) in [0, 1]."""
        maps = self.stem((images - self.mean) / self.deviation)  # (N, 1 or 3, H, W) -> (N, 64, H / 4, W / 4)
        found = []
        for stage, layer in enumerate(self.layers, 1):
            maps = layer(maps)
            if stage in self.stages:
                found.append(maps)
        alike = [found[0], *(finer(one) for finer, one in zip(self.finer, found[1:], strict=True))]
        return torch.cat(alike, dim=1)[:, self.kept]


def _places(side: int, stage: int) -> Places:
    """Where the positions of a stage lie along a side: each convolution of stride 2 keeps the first of two."""
    return np.arange(0.0, side, 2 ** (stage + 1))
