"""Linear filters of maps as matrices, one a side of the map; borders are repeated.

A product of matrices is one filter after the other, taken at once, and a row that is left out is never computed. At the
sizes that networks see, and on a CPU, matrices are as fast as sums of shifted maps or faster, by any engine.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

BLOCK = 32  # positions computed at once: a filter of few pixels leaves most of a large matrix empty

Matrix = NDArray[np.float64]
Places = NDArray[np.float64]  # of positions along one side of an image, in pixels; the first pixel's centre is 0


def blur(size: int, deviation: float) -> Matrix:
    """The matrix (size, size) of a Gaussian blur of that many pixels, cut at three deviations."""
    reach = max(1, round(3 * deviation))
    offsets = np.arange(-reach, reach + 1)
    return _banded(size, np.exp(-(offsets**2) / (2 * deviation**2)))


def mean(size: int, window: int) -> Matrix:
    """The matrix (size, size) of means over windows of that odd size."""
    return _banded(size, np.ones(window))


def slope(size: int) -> Matrix:
    """The matrix (size, size) of half the difference between the neighbours after and before."""
    rows, matrix = np.arange(size), np.zeros((size, size))
    np.add.at(matrix, (rows, np.minimum(rows + 1, size - 1)), 0.5)
    np.add.at(matrix, (rows, np.maximum(rows - 1, 0)), -0.5)
    return matrix


def every(size: int, step: int) -> Matrix:
    """The matrix (ceil((size - start) / step), size) that keeps one of `step` positions, the one in their middle."""
    return np.eye(size)[(step - 1) // 2 :: step]


def kept(size: int, step: int) -> Places:
    """The positions that `every` keeps."""
    return every(size, step) @ np.arange(size)


def middles(size: int, step: int) -> Places:
    """The middles (ceil(size / step),) of windows of `step` pixels side by side, the last one cut where they end."""
    first = np.arange(0, size, step)
    return (first + np.minimum(first + step, size) - 1) / 2


def between(places: Places, wanted: Places) -> Matrix:
    """The matrix (wanted, places) from values at ascending places to those at others, linear in between.

    Beyond the first and the last place the value is theirs.
    """
    return np.stack([np.interp(wanted, places, unit) for unit in np.eye(len(places))], axis=1)


class Down(nn.Module):
    """Filters maps down their columns, (N, C, H, W) -> (N, C, rows of the matrix, W).

    Args:
        matrix: (positions, H).
    """

    def __init__(self, matrix: Matrix) -> None:
        super().__init__()
        self.places = _blocks(self, matrix)

    def forward(self, maps: Tensor) -> Tensor:
        """The filtered maps of maps (N, C, H, W)."""
        return _joined([block @ maps.narrow(-2, *place) for block, place in _parts(self, self.places)], -2)


class Across(nn.Module):
    """Filters maps across their rows, (N, C, H, W) -> (N, C, H, rows of the matrix).

    Args:
        matrix: (positions, W).
    """

    def __init__(self, matrix: Matrix) -> None:
        super().__init__()
        self.places = _blocks(self, matrix)

    def forward(self, maps: Tensor) -> Tensor:
        """The filtered maps of maps (N, C, H, W)."""
        return _joined([maps.narrow(-1, *place) @ block.T for block, place in _parts(self, self.places)], -1)


class Filter(nn.Module):
    """Filters maps along both sides.

    Args:
        down: (positions, H).
        across: (positions, W).
    """

    def __init__(self, down: Matrix, across: Matrix) -> None:
        super().__init__()
        self.down, self.across = Down(down), Across(across)

    def forward(self, maps: Tensor) -> Tensor:
        """The filtered maps of maps (N, C, H, W)."""
        return torch.as_tensor(self.down(self.across(maps)))


def _banded(size: int, weights: Matrix) -> Matrix:
    """The matrix (size, size) that weighs each position's surroundings by weights (odd number,) of sum 1."""
    reach = len(weights) // 2
    rows, matrix = np.arange(size), np.zeros((size, size))
    for offset, weight in zip(range(-reach, reach + 1), weights / math.fsum(weights), strict=True):
        np.add.at(matrix, (rows, np.clip(rows + offset, 0, size - 1)), weight)
    return matrix


def _blocks(module: nn.Module, matrix: Matrix) -> list[tuple[int, int]]:
    """Give the module the blocks of a matrix as buffers; for each the first position that it takes in, and how many."""
    places = []
    for number in range(math.ceil(len(matrix) / BLOCK)):
        rows = matrix[number * BLOCK : (number + 1) * BLOCK]
        used = np.flatnonzero(rows.any(axis=0))
        first, last = (int(used[0]), int(used[-1])) if used.size else (0, 0)
        module.register_buffer(f"block_{number}", torch.from_numpy(rows[:, first : last + 1].astype(np.float32)), False)
        places.append((first, last + 1 - first))
    return places


def _parts(module: nn.Module, places: list[tuple[int, int]]) -> list[tuple[Tensor, tuple[int, int]]]:
    return [(module.get_buffer(f"block_{number}"), place) for number, place in enumerate(places)]


def _joined(parts: list[Tensor], side: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=side)
