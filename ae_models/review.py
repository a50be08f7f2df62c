"""The images of a batch that people look at: the suspicious ones, and a random sample that tells what was missed."""

from hashlib import sha256
from math import ceil

import numpy as np
from numpy.typing import ArrayLike

from ae_models.calibration import ROUNDING
from ae_models.curves import BoolArray
from ae_models.errors import InputError


def review_list(p_values: ArrayLike, q: float) -> BoolArray:
    """Which images of a batch to review: (m,) bool, from their conformal p-values (m,); NaN (no score) is not listed.

    Of the listed images at most the share q is nominal, on average (Benjamini and Hochberg, 1995; valid for conformal
    p-values, Bates et al., arXiv 2104.08279); in a nominal batch the list is empty with a chance of at least 1 - q. A
    p-value is at least 1 / (n + 1), so one image alone makes the list only where n >= m / q - 1: see
    `images_needed_for_review`.
    """
    _check_share(q)
    values = np.asarray(p_values, dtype=np.float64)
    known = ~np.isnan(values)
    listed = np.zeros(values.shape, dtype=np.bool_)
    ascending = np.sort(values[known])  # scipy's false_discovery_control takes most of a second to import
    below = np.flatnonzero(ascending <= q * (1 + ROUNDING) * np.arange(1, len(ascending) + 1) / max(1, len(ascending)))
    if below.size:
        listed[known] = values[known] <= ascending[below[-1]]
    return listed


def audit_sample(scored: ArrayLike, size: int, key: str) -> BoolArray:
    """A uniform random sample of the scored images (m,) of a batch: (m,) bool, all of them where there are no more.

    It looks at no score, so that it stands for all images of the batch: those of it that are not flagged tell the share
    of misses, and the nominal ones of it, flagged or not, are like calibration images. The same key draws the same
    images whatever version scores them, and from a batch with the same number of images.

    Args:
        scored: (m,) bool, False for images without a score, which are never drawn.
        size: images to draw, 0 or more.
        key: decides the draw, such as the hash of what the batch holds.
    """
    drawn = np.asarray(scored, dtype=np.bool_).copy()
    places = np.flatnonzero(drawn)
    drawn[sorted(places, key=lambda place: sha256(f"{key}\0{place}".encode()).digest())[size:]] = False
    return drawn


def images_needed_for_review(n_images: int, q: float) -> int:
    """The fewest calibration images with which one single image of a batch of n_images can make the list."""
    _check_share(q)
    return max(1, ceil((n_images / q - 1) * (1 - ROUNDING)))


def _check_share(q: float) -> None:
    if not 0 < q < 1:
        raise InputError(
            f"The share of nominal images on the review list is {q:g}: give a number above 0 and below 1, such as 0.1."
        )
