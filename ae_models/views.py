"""What front ends make of images, kept while networks that see the same are fitted and tried."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ae_models.detector import in_parts, part_size
from ae_models.images import FeatureSpec

MOST_BYTES = 2**30


class Views:
    """Features of images by what sees them; those that were not used for longest give way to others.

    Args:
        most_bytes: that are kept. What is larger is computed each time anew, and no more than a part of it is there.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.most_bytes = most_bytes
        self._kept: dict[tuple[str, int], tuple[NDArray[np.float32], Tensor]] = {}  # by the images' id, so they stay

    def parts(
        self,
        view: str,
        front_end: nn.Module,
        images: NDArray[np.float32],
        places: NDArray[np.int64] | None = None,
    ) -> Iterator[Tensor]:
        """Features (n, c, h, w), part by part, of images (N, C, H, W) float32 in [0, 1].

        Args:
            view: the name of what the front end sees; front ends of one name see the same.
            front_end: from images to features.
            images: arrays that are not changed afterwards.
            places: of those images whose features are wanted; None for all.
        """
        spec: FeatureSpec = front_end.spec  # type: ignore[assignment]  # torch types attributes as modules
        key, size = (view, id(images)), 4 * len(images) * math.prod(spec.shape)
        if key not in self._kept and (places is not None or size > self.most_bytes):
            yield from _computed(front_end, images if places is None else images[places])
            return
        if key not in self._kept:
            while self._kept and size + sum(kept.nbytes for _, kept in self._kept.values()) > self.most_bytes:
                del self._kept[next(iter(self._kept))]
            features, start = torch.empty(len(images), *spec.shape), 0
            for part in _computed(front_end, images):
                features[start : start + len(part)] = part
                start += len(part)
            self._kept[key] = images, features
        self._kept[key] = self._kept.pop(key)  # the latest used is the last
        features = self._kept[key][1]
        yield from torch.split(features if places is None else features[places], part_size(images))


def _computed(front_end: nn.Module, images: NDArray[np.float32]) -> Iterator[Tensor]:
    for part in in_parts(images):
        with torch.inference_mode():
            features = torch.as_tensor(front_end(torch.from_numpy(part)))
        yield features
