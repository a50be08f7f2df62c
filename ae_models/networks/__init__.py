"""The networks by name, and how one is built for images of a given size."""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from torch import nn

from ae_models.baselines import PrincipalComponents
from ae_models.errors import InputError
from ae_models.images import FeatureSpec
from ae_models.networks.code import CodeDistance
from ae_models.networks.codebook import Codebook
from ae_models.networks.convolutional import ConvolutionalAutoencoder
from ae_models.networks.feature_restoration import FeatureRestoration
from ae_models.networks.gaussian import PositionalGaussian
from ae_models.networks.linear import LinearAutoencoder
from ae_models.networks.moments import WindowMoments
from ae_models.networks.none import NoNetwork
from ae_models.networks.resnet import ResNetAutoencoder
from ae_models.networks.restoration import RestorationNetwork
from ae_models.networks.variational import VariationalAutoencoder
from ae_models.networks.whitened import WhitenedComponents

__all__ = [
    "NETWORKS",
    "ConvolutionalAutoencoder",
    "LinearAutoencoder",
    "ResNetAutoencoder",
    "RestorationNetwork",
    "VariationalAutoencoder",
    "build_network",
]

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "linear": LinearAutoencoder,
    "convolutional": ConvolutionalAutoencoder,
    "resnet": ResNetAutoencoder,
    "variational": VariationalAutoencoder,
    "unet": RestorationNetwork,
}
OF_RECIPES: dict[str, Callable[..., nn.Module]] = {  # what `model: auto` alone makes use of
    "pca": PrincipalComponents,
    "code": CodeDistance,
    "whitened_pca": WhitenedComponents,
    "gaussian": PositionalGaussian,
    "codebook": Codebook,
    "moments": WindowMoments,
    "none": NoNetwork,
    "restoration": FeatureRestoration,
}


def build_network(name: str, spec: FeatureSpec, parameters: Mapping[str, Any]) -> nn.Module:
    """The network `name` for images of `spec`, with random weights.

    Every network but "unet" has `encode` (N, C, H, W) -> codes, `decode` codes -> (N, C, H, W), and `forward` doing
    both; "unet" has `forward` alone. Each takes `output`: "sigmoid" for images in [0, 1], or "identity".

    Raises:
        InputError: no such network, or parameters that it does not take or cannot work with at this size.
    """
    networks = NETWORKS | OF_RECIPES
    if name not in networks:
        raise InputError(f"there is no network {name!r}: choose one of {', '.join(NETWORKS)}")
    try:
        return networks[name](spec, **parameters)
    except TypeError as error:
        choices = ", ".join(list(signature(networks[name]).parameters)[1:])
        raise InputError(f"network {name!r} does not take {parameters} ({error}): it takes {choices}") from error
