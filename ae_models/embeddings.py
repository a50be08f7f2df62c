"""Codes of images: their 2-D map with its clusters, and images decoded from codes that no image has."""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from torch import Tensor, nn

from ae_models.errors import InputError
from ae_models.images import ImageSpec

BATCH_SIZE = 64
NEIGHBOURS = 15  # UMAP's own default; fewer images than that have no neighbourhoods to keep
MOST_CLUSTERS = 8  # that are looked for where no labels say how many kinds there are
JUDGED = 1000  # points that the number of clusters is judged by: its cost grows with their square


class Codes(Protocol):
    """A network with a code between its encoder and its decoder."""

    def encode(self, images: Tensor) -> Tensor:
        """Codes of images (N, C, H, W)."""

    def decode(self, codes: Tensor) -> Tensor:
        """Images (N, C, H, W) of codes."""


@dataclass(frozen=True)
class Coder:
    """A network's way to codes and back, each code as one row of numbers.

    Attributes:
        network: in evaluation mode.
        code_shape: of one code, as the network has it.
        device: that the network is on.
    """

    network: Codes
    code_shape: tuple[int, ...]
    device: torch.device

    @property
    def code_size(self) -> int:
        """Numbers in a code."""
        return math.prod(self.code_shape)

    @torch.inference_mode()
    def encode(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Codes (N, code_size) of images (N, C, H, W) in [0, 1]."""
        batches = torch.split(torch.from_numpy(images), BATCH_SIZE)
        codes = [self.network.encode(batch.to(self.device)).cpu().numpy() for batch in batches if len(batch)]
        return np.concatenate([np.empty((0, *self.code_shape), np.float32), *codes]).reshape(-1, self.code_size)

    @torch.inference_mode()
    def decode(self, codes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Images (N, C, H, W) of codes (N, code_size)."""
        shaped = torch.from_numpy(codes.astype(np.float32)).reshape(-1, *self.code_shape)
        return np.concatenate(
            [self.network.decode(batch.to(self.device)).cpu().numpy() for batch in torch.split(shaped, BATCH_SIZE)]
        )


def has_code(network: nn.Module) -> bool:
    """Whether the network has a code: where its input goes around the narrow part it has none."""
    return hasattr(network, "encode")


@torch.inference_mode()
def coder_of(network: nn.Module, spec: ImageSpec) -> Coder:
    """The network's coder.

    Raises:
        InputError: the network has no code, because its input goes around the narrow part.
    """
    if not has_code(network):
        raise InputError("this network has no code: train linear, convolutional, resnet or variational for codes")
    codes, device = cast(Codes, network), next(iter(network.state_dict().values())).device
    shape = codes.encode(torch.zeros(1, *spec.shape, device=device)).shape[1:]
    return Coder(codes, tuple(shape), device)


@dataclass(frozen=True, eq=False)
class CodeMap:
    """Codes on a plane, near ones near each other as far as that goes, in clusters.

    Attributes:
        points: (N, 2) float64.
        method: "UMAP" or "PCA".
        clusters: (N,) int64, of each point.
        names: of the clusters: the commonest label of each and its share, or a number where there are no labels.
        centres: (K, 2) float64, where each cluster lies.
    """

    points: NDArray[np.float64]
    method: str
    clusters: NDArray[np.int64]
    names: tuple[str, ...]
    centres: NDArray[np.float64]


def code_map(codes: NDArray[np.float32], labels: Sequence[str] | None, method: str, seed: int) -> CodeMap:
    """The map of codes (N, D) by a method of `PROJECTIONS`.

    There are as many clusters as labels; without labels, as many as are best told apart on the map.

    Raises:
        InputError: there is no code, or one that is not finite, or no such method, or UMAP is not installed.
    """
    if method not in PROJECTIONS:
        raise InputError(f"there is no method {method!r}: choose one of {', '.join(PROJECTIONS)}")
    damaged = int((~np.isfinite(codes)).any(axis=1).sum())
    if not len(codes) or damaged:
        raise InputError(f"{len(codes)} codes of which {damaged} are not finite cannot be mapped: give more images")
    if len(codes) <= NEIGHBOURS:
        method = "PCA"
    points = PROJECTIONS[method](codes, seed)
    clusters = _cluster(points, len(set(labels)) if labels else None, seed)
    members = [np.flatnonzero(clusters == cluster).tolist() for cluster in range(clusters.max() + 1)]
    names = [_name([labels[index] for index in places]) for places in members] if labels else None
    return CodeMap(
        points,
        method,
        clusters,
        tuple(names or [f"cluster {number + 1}" for number in range(len(members))]),
        np.stack([np.median(points[places], axis=0) for places in members]),
    )


def best_projection() -> str:
    """The name in `PROJECTIONS` of the best one there is: UMAP where it is installed, PCA otherwise."""
    return "UMAP" if find_spec("umap") else "PCA"


def samples_near(
    codes: NDArray[np.float32], deviations: NDArray[np.float32], distances: Sequence[float], seed: int
) -> NDArray[np.float32]:
    """Codes (N, len(distances), D), one at each distance from each of the codes (N, D), in a direction of its own.

    A distance is in standard deviations of each number, `deviations` (D,).
    """
    directions = np.random.default_rng(seed).standard_normal((len(codes), 1, codes.shape[1]))
    steps = directions * deviations * np.asarray(distances)[None, :, None]
    return np.asarray(codes[:, None] + steps, np.float32)


def samples_of_gaussian(codes: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    """Codes (count, D) drawn from the normal distribution with the mean and covariance of the codes (N, D)."""
    centred = codes - codes.mean(axis=0)
    mixed = np.random.default_rng(seed).standard_normal((count, len(codes))) @ centred  # of that covariance, exactly
    return np.asarray(codes.mean(axis=0) + mixed / math.sqrt(max(1, len(codes) - 1)), np.float32)


def samples_of_prior(code_size: int, count: int, seed: int) -> NDArray[np.float32]:
    """Codes (count, code_size) drawn from the standard normal distribution, a variational network's prior."""
    return np.random.default_rng(seed).standard_normal((count, code_size)).astype(np.float32)


def walk(start: NDArray[np.float32], end: NDArray[np.float32], steps: int) -> NDArray[np.float32]:
    """Codes (steps, D) on the straight line between two codes (D,), both included."""
    shares = np.linspace(0, 1, steps)[:, None]
    return np.asarray((1 - shares) * start + shares * end, np.float32)


def _umap(codes: NDArray[np.float32], seed: int) -> NDArray[np.float64]:
    """(N, 2), by UMAP (McInnes et al., Uniform Manifold Approximation and Projection, 2018)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed takes one core, and what numba says of itself
        try:
            from umap import UMAP
        except ImportError as error:
            raise InputError(
                "UMAP is not installed: pip install 'reconwatch[umap]', or take principal components: PCA"
            ) from error
        return np.asarray(UMAP(n_neighbors=NEIGHBOURS, random_state=seed).fit_transform(codes), np.float64)


def _principal_components(codes: NDArray[np.float32], seed: int) -> NDArray[np.float64]:
    """(N, 2), zeros where codes have fewer than two numbers, or do not differ."""
    points = np.zeros((len(codes), 2))
    components = min(2, *codes.shape)
    if np.ptp(codes, axis=0).any():
        points[:, :components] = PCA(components, random_state=seed).fit_transform(codes)
    return points


PROJECTIONS: dict[str, Callable[[NDArray[np.float32], int], NDArray[np.float64]]] = {
    "UMAP": _umap,
    "PCA": _principal_components,
}


def _cluster(points: NDArray[np.float64], kinds: int | None, seed: int) -> NDArray[np.int64]:
    """The cluster (N,) of each point (N, 2), numbered from 0, none of them empty."""
    different = len(np.unique(points, axis=0))
    if kinds is not None or different < 3:
        return _kmeans(points, min(kinds or 1, different), seed)
    judged = np.random.default_rng(seed).permutation(len(points))[:JUDGED]
    tries = [_kmeans(points, count, seed) for count in range(2, min(MOST_CLUSTERS, different - 1) + 1)]
    return max(tries, key=lambda clusters: _separation(points[judged], clusters[judged]))


def _separation(points: NDArray[np.float64], clusters: NDArray[np.int64]) -> float:
    return float(silhouette_score(points, clusters)) if 1 < len(set(clusters)) < len(points) else -1.0


def _kmeans(points: NDArray[np.float64], count: int, seed: int) -> NDArray[np.int64]:
    labels = KMeans(count, n_init=4, random_state=seed).fit_predict(points)
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def _name(labels: Sequence[str]) -> str:
    label, count = Counter(labels).most_common(1)[0]
    return f"{label} ({count / len(labels):.0%})"
