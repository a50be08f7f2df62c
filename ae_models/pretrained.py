"""torchvision's ResNets with their pretrained weights: where those lie, and how they are put in."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ae_models.errors import InputError

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of RGB in [0, 1]


def is_at_hand(name: str) -> bool:
    """Whether the file with torchvision's weights of the network `name` lies in torch's folder; nothing is downloaded.

    torch says where: TORCH_HOME, by default a folder in the user's cache.
    """
    return _file_of(_weights_of(name)).is_file()


def load_pretrained(network: nn.Module, name: str) -> None:
    """Put torchvision's weights of `name`, such as "resnet18", into a network of that form; its head may be absent.

    torch looks for the file in its own folder, and downloads it where it is not there yet.

    Raises:
        InputError: the file is not there and cannot be downloaded, or it does not hold these weights.
    """
    state, file = require_weights(name), _file_of(_weights_of(name))
    wanted = network.state_dict()
    if absent := sorted(wanted.keys() - state.keys()):
        raise InputError(f"{file} is not torchvision's {name} (it has no {absent[0]}): remove it")
    network.load_state_dict({name: state[name] for name in wanted})


def require_weights(name: str) -> dict[str, Tensor]:
    """torchvision's weights of `name`, read from torch's folder, or downloaded into it.

    Raises:
        InputError: the file is not there and cannot be downloaded, or it cannot be read.
    """
    weights = _weights_of(name)
    file = _file_of(weights)
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except OSError as error:
        raise InputError(
            f"torchvision's weights of {name} are not at {file} and cannot be downloaded ({error}): "
            f"put {weights.url} there, or do without pretrained weights"
        ) from error
    except Exception as error:  # torch has no common class for what a damaged file makes of its reader
        raise InputError(f"{file} cannot be read as weights: remove it") from error


def _weights_of(name: str) -> Any:
    from torchvision import models  # seconds, which few pipelines need to wait for

    return models.get_model_weights(name).DEFAULT


def _file_of(weights: Any) -> Path:
    return Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
