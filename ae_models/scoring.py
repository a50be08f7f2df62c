"""From an image and its reconstruction to an error map and one score: the mean squared error."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def squared_error_maps(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Squared error at every pixel (N, H, W), mean over channels, of images and reconstructions (N, C, H, W)."""
    return (images - reconstructions).square().mean(dim=1)


def mean_squared_errors(images: Tensor, reconstructions: Tensor) -> NDArray[np.float64]:
    """The lesson's score (N,) of images and reconstructions (N, C, H, W): the mean squared error; higher is worse."""
    maps = squared_error_maps(images, reconstructions).cpu()  # Apple's GPUs have no float64
    errors: NDArray[np.float64] = maps.double().mean(dim=(1, 2)).numpy()
    return errors
