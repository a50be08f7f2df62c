"""Synthetic defects, with masks, made of nominal images: for choosing a recipe, for training and for themselves.

The idea is that of CutPaste (Li et al., 2021) and DRAEM (Zavrtanik et al., 2021); sizes and contrasts are drawn on a
logarithmic scale, so that small and faint defects are as common as large and bold ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from ae_models.defect_kinds import KINDS, OF_THE_WHOLE_IMAGE, OF_TWO_IMAGES, Image
from ae_models.errors import InputError

__all__ = ["KINDS", "LOCAL_KINDS", "SyntheticDefectCorruption", "SyntheticDefects", "corrupt", "draw_defects"]

LOCAL_KINDS = tuple(kind for kind in KINDS if kind not in OF_THE_WHOLE_IMAGE)
RADII = (0.01, 0.3)  # of the short side
SMALLEST_RADIUS = 0.6  # pixels: one pixel is hit
AMPLITUDES = (0.06, 0.6)  # of the range from black to white
CONTRASTS = (0.5, 5.0)  # amplitudes in deviations of the image
COLOURED = 0.5  # the share of defects in images of three channels that are not grey
VISIBLE = 0.03  # the least change of a pixel that counts
SMALLEST_SHARE = 0.0005  # of the pixels: over so many, all that changed visibly has to make a visible mean
ATTEMPTS = 40
TRAINING_ATTEMPTS = 4
CLEAN_SHARE, SECOND_SHARE = 0.2, 0.25  # of training images: left clean; given a second defect


@dataclass(frozen=True, eq=False)
class SyntheticDefects:
    """Images with one defect each.

    Attributes:
        images: (K, C, H, W) float32 in [0, 1].
        masks: (K, H, W) bool, true where the image changed visibly; none is empty.
        kinds: (K,) str, names of `KINDS`.
        sources: (K,) int64, the place of the nominal image that each was made from.
    """

    images: NDArray[np.float32]
    masks: NDArray[np.bool_]
    kinds: NDArray[np.str_]
    sources: NDArray[np.int64]


def draw_defects(
    images: NDArray[np.float32], per_kind: int, seed: int, kinds: Sequence[str] = tuple(KINDS)
) -> SyntheticDefects:
    """Synthetic defects, `per_kind` of each kind, the kinds in the order given; the same (to rounding) everywhere.

    Each kind has a stream of random numbers of its own: leaving one out changes nothing about the others. Radii are
    1 to 30 % of the short side, changes 0.06 to 0.6 of the range or 0.5 to 5 deviations of the image, all log-uniform.
    A defect that changes the strongest 0.05 % of the pixels by less than 0.03 is drawn again; a kind that these images
    cannot show (a colour cast of grey ones, a blur of blank ones) is left out.

    Args:
        images: nominal images (N, C, H, W) in [0, 1].
        per_kind: defects of each kind.
        seed: of all that is drawn.
        kinds: names of `KINDS`.

    Raises:
        InputError: no image, an unknown kind, a single image for a kind that needs two, or no kind that can be seen.
    """
    _refuse_impossible(images, per_kind, kinds)
    drawn: list[tuple[Image, NDArray[np.bool_], str, int]] = []
    for kind in kinds:
        rng = np.random.default_rng((seed, list(KINDS).index(kind)))
        for _ in range(per_kind):
            defect = _visible_defect(images, kind, rng)
            if defect is None:
                break
            drawn.append(defect)
    if not drawn:
        raise InputError(
            f"none of the kinds {', '.join(kinds)} can be seen in these {len(images)} images: name other kinds, or "
            "give images that are not blank"
        )
    changed, masks, names, sources = zip(*drawn, strict=True)
    return SyntheticDefects(np.stack(changed), np.stack(masks), np.array(names), np.array(sources, dtype=np.int64))


def corrupt(
    images: NDArray[np.float32], rng: Generator, kinds: Sequence[str] = LOCAL_KINDS
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Training images with random defects, (N, C, H, W) in [0, 1], and where they changed visibly, (N, H, W).

    A fifth stay clean and a fifth have two defects. By default kinds that change the whole image are not among them:
    nothing in such an image tells how it was before. Kinds that need another image are left out where there is one
    image only.

    Args:
        images: nominal images (N, C, H, W) in [0, 1]; they are not changed.
        rng: draws everything.
        kinds: names of `KINDS`, equally common.
    """
    usable = [kind for kind in kinds if len(images) > 1 or kind not in OF_TWO_IMAGES]
    corrupted = images.copy()
    for index in np.flatnonzero(rng.random(len(images)) >= CLEAN_SHARE) if usable else ():
        for _ in range(1 + (rng.random() < SECOND_SHARE)):
            for _ in range(TRAINING_ATTEMPTS):
                other = images[_another(len(images), int(index), rng)]
                changed = _changed(corrupted[index], other, usable[rng.integers(len(usable))], rng)
                if _visible(corrupted[index], changed) is not None:
                    corrupted[index] = changed
                    break
    return corrupted, np.abs(corrupted - images).max(axis=1) >= VISIBLE


@dataclass(frozen=True)
class SyntheticDefectCorruption:
    """Training inputs with synthetic defects, (N, C, H, W) in [0, 1]; the loss stays against the clean images.

    Attributes:
        kinds: names of `KINDS` to draw from; an unknown one, or none at all, is an `InputError`.
    """

    kinds: tuple[str, ...] = LOCAL_KINDS

    def __post_init__(self) -> None:
        _refuse_unknown(self.kinds)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The images with defects drawn by the generator (one of the CPU), on the device where they were."""
        seed = int(torch.randint(2**62, (), generator=generator))
        corrupted, _ = corrupt(images.cpu().numpy(), np.random.default_rng(seed), self.kinds)
        return torch.from_numpy(corrupted).to(images.device)


def _visible_defect(
    images: NDArray[np.float32], kind: str, rng: Generator
) -> tuple[Image, NDArray[np.bool_], str, int] | None:
    """A defect that can be seen, with its mask, kind and source; None where many attempts gave none."""
    for _ in range(ATTEMPTS):
        source = int(rng.integers(len(images)))
        changed = _changed(images[source], images[_another(len(images), source, rng)], kind, rng)
        if (mask := _visible(images[source], changed)) is not None:
            return changed, mask, kind, source
    return None


def _changed(image: Image, other: Image, kind: str, rng: Generator) -> Image:
    """The image with a defect of the kind, of random size and amplitude, clipped to [0, 1]."""
    short = min(image.shape[1:])
    radius = _log_uniform(rng, max(SMALLEST_RADIUS, RADII[0] * short), max(SMALLEST_RADIUS, RADII[1] * short))
    changed: Image = np.clip(KINDS[kind](image, other, rng, radius, _amplitude(image, rng)), 0, 1, dtype=np.float32)
    return changed


def _amplitude(image: Image, rng: Generator) -> Image:
    """A change (C, 1, 1) of either sign, as strong as drawn in one channel at least."""
    strength = _log_uniform(rng, *AMPLITUDES)
    if rng.random() < 0.5:
        strength = min(_log_uniform(rng, *CONTRASTS) * float(image.std()), AMPLITUDES[1])
    channels = np.ones(len(image))
    if len(image) > 1 and rng.random() < COLOURED:
        channels = rng.uniform(-1, 1, len(image))
        channels /= np.abs(channels).max()
    amplitude: Image = (rng.choice((-1, 1)) * strength * channels).astype(np.float32)[:, None, None]
    return amplitude


def _visible(image: Image, changed: Image) -> NDArray[np.bool_] | None:
    """Where the image changed visibly, (H, W); None where the change as a whole is too weak."""
    change = np.abs(changed - image).max(axis=0)
    mask: NDArray[np.bool_] = change >= VISIBLE
    return mask if change[mask].sum() >= VISIBLE * max(1, SMALLEST_SHARE * change.size) else None


def _another(n: int, index: int, rng: Generator) -> int:
    """The place of another image than this one; this one's own where there is no other."""
    return int((index + rng.integers(1, n)) % n) if n > 1 else index


def _log_uniform(rng: Generator, low: float, high: float) -> float:
    return float(low * (high / low) ** rng.uniform())


def _refuse_impossible(images: NDArray[np.float32], per_kind: int, kinds: Sequence[str]) -> None:
    if len(images) == 0:
        raise InputError("there is no image to make synthetic defects from: give nominal images")
    if per_kind < 1:
        raise InputError(f"{per_kind} synthetic defects of each kind are asked for: ask for 1 at least")
    _refuse_unknown(kinds)
    if len(images) == 1 and (pairs := [kind for kind in kinds if kind in OF_TWO_IMAGES]):
        raise InputError(
            f"kind {pairs[0]!r} takes a part of another nominal image, and there is one image only: give two at least, "
            "or name other kinds"
        )


def _refuse_unknown(kinds: Sequence[str]) -> None:
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise InputError(f"there is no kind of defect {unknown[0]!r}: choose among {', '.join(KINDS)}")
    if not kinds:
        raise InputError(f"no kind of defect is named: choose among {', '.join(KINDS)}")
