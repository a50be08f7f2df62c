"""Which images go to which side of a split: groups stay whole, and near-duplicates tell what a group is."""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ae_models.errors import InputError

NO_MINIMUM: Mapping[str, int] = MappingProxyType({})
THUMBNAIL = 16  # pixels a side: fine enough to tell parts apart, coarse enough to forgive noise and re-encoding
BLANK = 1e-5  # standard deviation below which a thumbnail has no structure at all
BLANK_BRIGHTNESS = 1.5 / 255  # blank images are alike within one grey level
MEAN_SHRINKAGE = 8  # a handful of images does not know yet what is common to the whole set
PARTNERS = 16  # later partners kept for each image: enough to connect any cluster, and memory stays linear
BLOCK = 512


@dataclass(frozen=True)
class NearDuplicate:
    """Two images, by their places, that show the same thing; distance 0 is a copy, 1 is as unlike as any two."""

    first: int
    second: int
    distance: float


def split_by_group(
    groups: Sequence[str], shares: Mapping[str, float], seed: int, minimum: Mapping[str, int] = NO_MINIMUM
) -> dict[str, NDArray[np.int64]]:
    """
    The places of the images on each side, (n,) int64 ascending: every group is whole on one side, no side is empty.

    `groups` names each image's group. The sides come as near to their shares of the images as whole groups allow; a
    side's `minimum` of images is met first, at the others' cost. Groups are drawn by a hash of seed and name, so the
    split is the same on every platform, whatever the order of the images. Raises `InputError` where the shares do not
    sum to 1, there are fewer groups than sides, or the minima cannot be met.
    """
    least = dict.fromkeys(shares, 1) | {side: max(1, count) for side, count in minimum.items()}
    sizes = Counter(groups)
    _refuse_impossible(sizes, shares, least)
    target = _targets(len(groups), shares, least)
    side_of: dict[str, str] = {}
    missing = dict(target)  # images that a side still lacks
    for group in _drawn(sizes, seed):
        side = max(missing, key=missing.__getitem__)
        side_of[group] = side
        missing[side] -= sizes[group]
    _meet_minima(side_of, sizes, least)
    sides = np.array([side_of[group] for group in groups])
    return {side: np.flatnonzero(sides == side).astype(np.int64) for side in shares}


def first_copies(images: NDArray[np.float32]) -> list[int]:
    """For each of images (N, C, H, W) the place of the first that is the same in every pixel: mostly its own."""
    first: dict[bytes, int] = {}
    digests = (hashlib.blake2b(np.ascontiguousarray(image).data).digest() for image in images)
    return [first.setdefault(digest, place) for place, digest in enumerate(digests)]


def perceptual_hashes(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """
    What `near_duplicates` compares: each image's 16x16 thumbnail (means of areas), (N, C * 256) float32 in [0, 1].

    `images` is (N, C, H, W) in [0, 1]; batches may be hashed one by one and stacked. Bits would be smaller, but the
    usual ones (a brighter than its neighbour) flip at random on even backgrounds, which industrial images are full of.
    """
    rows, columns = _area_weights(images.shape[2]), _area_weights(images.shape[3])
    return (rows @ images @ columns.T).reshape(len(images), -1).astype(np.float32)


def near_duplicates(
    hashes: NDArray[np.float32], *, limit: float = 0.015, advance: Callable[[int], object] = lambda images: None
) -> list[NearDuplicate]:
    """
    The pairs of images that are copies of one another but for re-encoding, noise, brightness or contrast.

    `hashes` is what `perceptual_hashes` gives. Brightness and contrast are taken out of each thumbnail, and what all
    images have in common (the part in its jig) out of the set; distance is the squared difference of two such
    remainders over the sum of their squares. Shifts are found only where they are small beside the structure. Images
    without any structure are alike if their brightness is. Of a large cluster each image is listed with its 16 nearest
    later partners, which connects the cluster. O(N^2) time, O(N) memory. `advance` hears of images that are compared.
    """
    contrast, brightness, blank = _normalised(hashes)
    remainder = contrast - contrast.sum(axis=0) / (len(contrast) + MEAN_SHRINKAGE)
    energy = np.einsum("nd,nd->n", remainder, remainder)
    pairs: list[NearDuplicate] = []
    for start in range(0, len(hashes), BLOCK):
        total = energy[start : start + BLOCK, None] + energy[start:]
        shared = remainder[start : start + BLOCK] @ remainder[start:].T
        shared *= 2
        alike = np.triu(shared >= (1 - limit) * total, k=1)  # |a - b|^2 <= limit (|a|^2 + |b|^2), multiplied out
        for row in np.flatnonzero(alike.any(axis=1)):
            others = np.flatnonzero(alike[row])
            both_blank = blank[start + row] & blank[start + others]
            same_light = np.abs(brightness[start + row] - brightness[start + others]) < BLANK_BRIGHTNESS
            others = others[~both_blank | same_light]
            both = total[row, others]
            distances = np.maximum(both - shared[row, others], 0) / np.maximum(both, 1e-30)
            for nearest in np.argsort(distances, kind="stable")[:PARTNERS]:
                first, second = int(start + row), int(start + others[nearest])
                pairs.append(NearDuplicate(first, second, float(distances[nearest])))
        advance(len(total))
    return pairs


def groups_of(pairs: Sequence[NearDuplicate], n: int) -> NDArray[np.int64]:
    """The group, (n,) int64 counted from 0, of each of n images: the same where pairs connect them."""
    places = np.array([(pair.first, pair.second) for pair in pairs], dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(pairs), dtype=np.int8), (places[:, 0], places[:, 1])), shape=(n, n))
    labels: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return labels


def _refuse_impossible(sizes: Counter[str], shares: Mapping[str, float], least: Mapping[str, int]) -> None:
    if unknown := sorted(set(least) - set(shares)):
        raise InputError(f"A minimum is given for {', '.join(unknown)}, but the sides of the split are {list(shares)}.")
    if min(shares.values(), default=0) <= 0 or not math.isclose(sum(shares.values()), 1, abs_tol=1e-6):
        raise InputError(f"The shares of a split must be above 0 and sum to 1, unlike {dict(shares)}.")
    if len(sizes) < len(shares):
        raise InputError(
            f"A split into {len(shares)} sides ({', '.join(shares)}) needs as many groups, but the {sizes.total()} "
            f"images are in {len(sizes)}: give images of more groups, or group them more finely."
        )
    if sum(least.values()) > sizes.total():
        raise InputError(
            f"There are {sizes.total()} images, but the sides need {sum(least.values())} ({_listed(least)}): "
            "add images, or ask for a smaller minimum."
        )


def _targets(images: int, shares: Mapping[str, float], least: Mapping[str, int]) -> dict[str, float]:
    """The number of images each side should have: its share, or its minimum where that is more."""
    bound: set[str] = set()
    while True:
        left = images - sum(least[side] for side in bound)
        free = sum(share for side, share in shares.items() if side not in bound)
        target = {side: least[side] if side in bound else left * share / free for side, share in shares.items()}
        short = {side for side in shares if side not in bound and target[side] < least[side]}
        if not short:
            return target
        bound |= short


def _drawn(sizes: Counter[str], seed: int) -> list[str]:
    """The groups, large ones first because they are hard to place; those of one size in a random order."""
    return sorted(sizes, key=lambda group: (-sizes[group], hashlib.sha256(f"{seed}:{group}".encode()).digest()))


def _meet_minima(side_of: dict[str, str], sizes: Counter[str], least: Mapping[str, int]) -> None:
    """Moves groups to sides that lack images: the smallest that is enough, or else the largest that can be spared."""
    held = Counter(dict.fromkeys(least, 0))
    for group, side in side_of.items():
        held[side] += sizes[group]
    for side in least:
        while (lacking := least[side] - held[side]) > 0:
            spare = [group for group, other in side_of.items() if held[other] - sizes[group] >= least[other]]
            spare = [group for group in spare if side_of[group] != side]
            if not spare:
                raise InputError(
                    f"The minima ({_listed(least)}) were not met with {sizes.total()} images in {len(sizes)} whole "
                    f"groups; the nearest is {_listed(held)}: add images, ask for a smaller minimum, or group "
                    "them more finely."
                )
            enough = [group for group in spare if sizes[group] >= lacking]
            moved = min(enough, key=sizes.__getitem__) if enough else max(spare, key=sizes.__getitem__)
            held[side_of[moved]] -= sizes[moved]
            held[side] += sizes[moved]
            side_of[moved] = side


def _listed(least: Mapping[str, int]) -> str:
    return ", ".join(f"{side} {count}" for side, count in least.items())


def _area_weights(size: int) -> NDArray[np.float32]:
    """(16, size): how much each pixel of a side counts in each of the thumbnail's, by the area that they share."""
    edges = np.arange(THUMBNAIL + 1) * (size / THUMBNAIL)
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights = np.maximum(overlap, 0)
    normalised: NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return normalised


def _normalised(
    hashes: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Thumbnails of mean 0 and length 1 (0 where blank), their brightness (N,), and which ones are blank (N,)."""
    brightness = hashes.mean(axis=1)
    centred = hashes - brightness[:, None]
    length = np.linalg.norm(centred, axis=1)
    blank = length < BLANK * math.sqrt(hashes.shape[1])
    centred[blank] = 0
    return centred / np.where(blank, 1, length)[:, None], brightness, blank
