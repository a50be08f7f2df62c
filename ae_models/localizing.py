"""A localizer taught where defects are, from synthetic ones whose masks are known."""

from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ae_models.detector import FusedDetector, batches
from ae_models.localizer import LEAST_LOOK, LEAST_SHARE, LEAST_SPREAD, POSITIONS, Localizer
from ae_models.scoring import LEAST
from ae_models.synthetic_defects import LOCAL_KINDS, corrupt
from ae_models.training import Epoch, TrainingSettings, fit

DRAWN = 6000  # images with synthetic defects, where their short side has POSITIONS; in proportion where it has fewer
AT_ONCE = 50  # of them
WATCHED = 0.2  # share of the nominal images whose defects say when to stop
STEPS, BATCH_SIZE, LEARNING_RATE = 3200, 16, 4e-3  # steps in the same proportion
DRAWING = 0.5  # of the seconds, at most
PARTS = 10  # of the drawing, and as many of the training, in which progress is told
SHORTEST = 0.1  # seconds: one pass over what was drawn


def fit_localizer(
    detector: FusedDetector,
    nominal: NDArray[np.float32],
    kinds: Sequence[str] = LOCAL_KINDS,
    seed: int = 0,
    seconds: float = float("inf"),
    device: str = "cpu",
    on_part: Callable[[int, int], None] = lambda part, parts: None,
    checkpoint: Path | None = None,
) -> Localizer | None:
    """A localizer for the detector; None where no defect can be seen in these images, or they are too few.

    Args:
        detector: on the CPU.
        nominal: images (N, C, H, W) float32 in [0, 1] that no member's network was fitted to.
        kinds: of the synthetic defects.
        seed: of all that is random.
        seconds: that it may take, about.
        device: that the localizer is trained on.
        on_part: called as it goes on, with how many parts of all the work are done and how many there are.
        checkpoint: a file for where the training stands; None for none.
    """
    rng = np.random.default_rng(seed)
    watched, learned = np.split(rng.permutation(len(nominal)), [round(WATCHED * len(nominal))])
    if not len(watched):
        return None
    start = perf_counter()
    usual, seen = _usual(detector, nominal)
    share = min(1.0, min(usual.height, usual.width) / POSITIONS)
    counts = [round(part * share * DRAWN) for part in (WATCHED, 1)]
    sides: list[NDArray[np.float32]] = []

    def on_drawn(done: int) -> None:
        on_part(PARTS * (done + sum(map(len, sides))) // sum(counts), 2 * PARTS)

    until = start + DRAWING * seconds
    for places, wanted in zip((watched, learned), counts, strict=True):
        sides.append(_drawn(detector, usual, nominal[places], wanted, kinds, rng, until, on_drawn))
    if not all(side[:, -1].any() for side in sides):
        return None
    epochs = max(1, round(share * STEPS * BATCH_SIZE / len(sides[1])))
    left = max(SHORTEST, seconds - (perf_counter() - start))
    settings = TrainingSettings(epochs, BATCH_SIZE, LEARNING_RATE, epochs, seed, device, left)

    def build() -> nn.Module:
        localizer = Localizer(detector.spec, len(detector.members))
        localizer.load_state_dict(usual.state_dict() | localizer.networks.state_dict(prefix="networks."))
        return _Learning(localizer)

    def on_epoch(epoch: Epoch, network: nn.Module) -> None:
        on_part(PARTS + PARTS * epoch.number // epochs, 2 * PARTS)

    trained = fit(build, sides[1], sides[0], settings, on_epoch, None, checkpoint).network
    assert isinstance(trained, _Learning)
    return _in_units_of_errors(trained.localizer, *seen)


class _Learning(nn.Module):
    """A localizer that learns from what it sees and, as a last channel, the share that is a defect's."""

    def __init__(self, localizer: Localizer) -> None:
        super().__init__()
        self.localizer = localizer

    def training_loss(self, images: Tensor, clean: Tensor) -> Tensor:
        """Cross-entropy, a scalar, of inputs and shares (N, members + C + 9, h, w); each network learns by itself."""
        inputs, shares = images[:, :-1], images[:, -1:]
        losses = [
            functional.binary_cross_entropy_with_logits(network(inputs), shares) for network in self.localizer.networks
        ]
        return torch.stack(losses).mean()

    def validation_loss(self, images: Tensor, clean: Tensor) -> Tensor:
        """The same of held-out images, of the networks' mean."""
        logits = self.localizer.logits(images[:, :-1])
        return functional.binary_cross_entropy_with_logits(logits, images[:, -1:])


def _usual(detector: FusedDetector, nominal: NDArray[np.float32]) -> tuple[Localizer, tuple[Tensor, Tensor]]:
    """A localizer that knows what nominal images (N, C, H, W) look like and nothing else; what it sees of them, and the
    logarithms (N, 1, h, w) of the detector's errors there."""
    localizer = Localizer(detector.spec, len(detector.members))
    errors, looks, fused = [], [], []
    with torch.inference_mode():
        for part in batches(nominal, detector.spec, "cpu"):
            maps = detector.member_maps(part)
            errors.append(localizer.at_positions(maps))
            looks.append(localizer.looks(part))
            fused.append(localizer.at_positions(detector.weighted(maps)[:, None]))
    seen, look = torch.cat(errors), torch.cat(looks)
    localizer.least.copy_((LEAST_SHARE * seen.mean((0, 2, 3)))[:, None, None].clamp_min(LEAST))
    logarithms = localizer.logarithms(seen)
    localizer.centres.copy_(logarithms.mean((0, 2, 3))[:, None, None])
    localizer.scales.copy_(logarithms.std((0, 2, 3), correction=0)[:, None, None].clamp_min(LEAST_SPREAD))
    localizer.look.copy_(look.mean(0))
    localizer.look_scales.copy_(look.std(0, correction=0) + LEAST_LOOK)
    return localizer, (localizer.standardised(seen, look), torch.cat(fused).clamp_min(LEAST).log())


def _drawn(
    detector: FusedDetector,
    localizer: Localizer,
    nominal: NDArray[np.float32],
    count: int,
    kinds: Sequence[str],
    rng: Generator,
    until: float,
    on_drawn: Callable[[int], None],
) -> NDArray[np.float32]:
    """What the localizer sees of images with defects, and their shares, (K, members + C + 9, h, w); K is `count`, or
    fewer where time runs out."""
    channels = len(detector.members) + len(localizer.look) + 1
    drawn, done = np.empty((count, channels, localizer.height, localizer.width), np.float32), 0
    while done < count and not (done and perf_counter() > until):
        clean = nominal[rng.integers(len(nominal), size=min(AT_ONCE, count - done))]
        changed, _ = corrupt(clean, rng, kinds)
        pairs = (batches(each, detector.spec, "cpu") for each in (changed, clean))
        with torch.inference_mode():
            for part, before in zip(*pairs, strict=True):
                rows = drawn[done : done + len(part)]
                rows[:, :-1] = localizer.inputs(part, detector.member_maps(part))
                rows[:, -1:] = localizer.shares(part, before)
                done += len(part)
        on_drawn(done)
    return drawn[:done]


def _in_units_of_errors(localizer: Localizer, inputs: Tensor, errors: Tensor) -> Localizer:
    """The localizer so that what it gives of nominal images has the centre and spread of the logarithms of errors.

    Args:
        localizer: trained.
        inputs: what it sees of nominal images, (N, members + C + 8, h, w).
        errors: logarithms (N, 1, h, w) of the detector's own.
    """
    with torch.inference_mode():
        given = torch.cat([localizer.logits(part) for part in torch.split(inputs, BATCH_SIZE)])
    localizer.scale.copy_(errors.std(correction=0) / given.std(correction=0).clamp_min(LEAST_SPREAD))
    localizer.offset.copy_(errors.mean() - localizer.scale * given.mean())
    return localizer
