"""The one training loop."""

import copy
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ae_models.checkpoints import Checkpoint
from ae_models.cores import available_cores
from ae_models.corruptions import CORRUPTIONS, Corruption
from ae_models.errors import InputError
from ae_models.ranks import ALONE, Ranks


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained.

    Attributes:
        epochs: passes over the training images at most.
        batch_size: images a step; two at least, for batch normalisation's sake.
        learning_rate: of Adam, at the start; it falls to zero along a cosine.
        patience: epochs without a better validation loss before training stops.
        seed: of the initial weights and the order of the images.
        device: "auto" (CUDA, then MPS, then CPU), or a torch device.
        seconds: after which the epoch at hand is the last, the learning rate falling to zero by then; None for no end.
    """

    epochs: int = 100
    batch_size: int = 64
    learning_rate: float = 3e-3
    patience: int = 15
    seed: int = 0
    device: str = "auto"
    seconds: float | None = None


@dataclass(frozen=True)
class Epoch:
    """One pass over the training images: number from 1, mean squared errors, seconds since training began."""

    number: int
    training_loss: float
    validation_loss: float
    seconds: float


@dataclass(frozen=True)
class TrainingResult:
    """The trained network (on the CPU, in evaluation mode, weights of its best epoch) and how it got there."""

    network: nn.Module
    epochs: tuple[Epoch, ...]
    best: Epoch
    device: str


@runtime_checkable
class OwnLoss(Protocol):
    """A network that does not learn from the mean squared error alone."""

    def training_loss(self, images: Tensor, clean: Tensor) -> Tensor:
        """The loss, a scalar, of corrupted images (N, C, H, W) whose clean ones are `clean`."""


@runtime_checkable
class OwnValidationLoss(Protocol):
    """A network whose output is not compared with images while it learns."""

    def validation_loss(self, images: Tensor, clean: Tensor) -> Tensor:
        """The loss, a scalar, of held-out corrupted images (N, C, H, W) whose clean ones are `clean`."""


@runtime_checkable
class Pretrained(Protocol):
    """A network that does not begin with random weights alone."""

    def load_pretrained(self) -> None:
        """Put the pretrained weights in, where any are wished for."""


def choose_device(wish: str) -> torch.device:
    """The torch device that `wish` names; "auto" takes CUDA, then MPS, then the CPU.

    PyTorch knows of a process's affinity alone: from here on it has no more threads than control groups leave time for.

    Raises:
        InputError: the wished device is not on this machine.
    """
    if torch.get_num_threads() > available_cores():
        torch.set_num_threads(available_cores())
    if wish == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    available = ["cpu", *(["cuda"] if gpus else []), *gpus, *(["mps"] if torch.backends.mps.is_available() else [])]
    if wish not in available:
        choices = " or ".join(["auto", *available])
        raise InputError(f"device {wish!r} is not on this machine: set training.device to {choices}")
    return torch.device(wish)


def fit(
    build: Callable[[], nn.Module],
    images: NDArray[np.float32],
    validation_images: NDArray[np.float32],
    settings: TrainingSettings,
    on_epoch: Callable[[Epoch, nn.Module], None] = lambda epoch, network: None,
    corruption: Corruption | None = None,
    checkpoint: Path | None = None,
    on_resume: Callable[[Sequence[Epoch]], None] = lambda epochs: None,
    ranks: Ranks = ALONE,
) -> TrainingResult:
    """Train a network to reconstruct nominal images, and stop when held-out nominal images no longer gain.

    With a corruption, each batch is corrupted anew on its way in and the loss is against the clean images; the
    held-out images are corrupted once, by the seed, so that their losses can be compared from epoch to epoch.

    Args:
        build: makes the network; called with torch seeded by `settings.seed`.
        images: nominal training images (N, C, H, W) float32 in [0, 1].
        validation_images: held-out nominal images (M, C, H, W) float32 in [0, 1].
        settings: how to train.
        on_epoch: called after every epoch with it and the network in evaluation mode.
        corruption: what is done to the network's input; None for nothing.
        checkpoint: file that holds where training stands, written after every epoch; where it is there already and of
            the same images, network and settings, training goes on from it. The caller removes it.
        on_resume: called with the epochs that are behind it when training goes on.
        ranks: the processes that train together; all call this with the same arguments.

    Raises:
        InputError: fewer than two training images or no validation image, a device or pretrained weights that are not
            there, a network that needs a corruption without one, or a loss that stopped being a number.
    """
    if len(images) < 2 or len(validation_images) < 1:
        raise InputError(
            f"{len(images)} training and {len(validation_images)} validation images are too few: give more nominal ones"
        )
    if len(images) < 2 * ranks.count:
        raise InputError(f"{len(images)} training images are too few for {ranks.count} processes: take fewer of them")
    device = choose_device(settings.device)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(settings.seed)
        network = build()
        if corruption is None and getattr(network, "needs_corruption", False):
            raise InputError(
                "this network copies its input unless it learns to restore it: set model.corruption to one of "
                f"{', '.join(CORRUPTIONS)}"
            )
        if isinstance(network, Pretrained):
            network.load_pretrained()
        clean = torch.from_numpy(images), torch.from_numpy(validation_images)
        _lay_out(network, torch.channels_last)  # a CPU's convolutions take down to half the time
        key = _key(network, images, validation_images, settings, device) if checkpoint else ""
        kept = Checkpoint(checkpoint, key) if checkpoint else None
        if ranks.rank:
            torch.manual_seed(settings.seed + ranks.rank)  # whatever a network draws differs from image to image
        work = _Work(network.to(device), *clean, settings, device, corruption or _untouched, ranks)
        return _fit(work, on_epoch, kept, on_resume)


def training_loss(network: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """What training makes small: the network's own loss, or else the mean squared error.

    It gives a scalar of the images (N, C, H, W) that a network in training mode gets and those (N, C, H, W) that it
    should give.
    """
    if isinstance(network, OwnLoss):
        return network.training_loss
    return lambda images, clean: nn.functional.mse_loss(network(images), clean)


def _untouched(images: Tensor, generator: torch.Generator) -> Tensor:
    return images


def _key(
    network: nn.Module,
    images: NDArray[np.float32],
    validation_images: NDArray[np.float32],
    settings: TrainingSettings,
    device: torch.device,
) -> str:
    """SHA-256 (hex) of all that a training depends on but for its corruption and its limit of time."""
    digest = hashlib.sha256(repr((asdict(replace(settings, seconds=None)), str(device), images.shape)).encode())
    for name, weights in network.state_dict().items():
        digest.update(name.encode() + weights.detach().cpu().contiguous().numpy().tobytes())
    for pixels in (images, validation_images):
        digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


@dataclass(frozen=True)
class _Work:
    """What a training works with."""

    network: nn.Module
    images: Tensor
    validation_images: Tensor
    settings: TrainingSettings
    device: torch.device
    corruption: Corruption
    ranks: Ranks


class _Standing:
    """Where a training stands: all that changes from epoch to epoch."""

    def __init__(self, work: _Work) -> None:
        settings, network = work.settings, work.network
        self.network = network
        self.device = work.device
        fused = work.device.type in ("cpu", "cuda")  # one call for all weights: most of a small network's step
        self.optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, fused=fused)
        self.order = torch.Generator().manual_seed(settings.seed)
        self.noise = torch.Generator().manual_seed(settings.seed)  # its own, so that a corruption leaves the order
        self.epochs: list[Epoch] = []
        self.best: Epoch | None = None
        self.best_weights = network.state_dict()

    def state(self) -> dict[str, Any]:
        """All of it as tensors, numbers and texts."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": [self.order.get_state(), self.noise.get_state(), torch.get_rng_state()],
            "gpu": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "epochs": [list(astuple(epoch)) for epoch in self.epochs],
            "best": self.best.number if self.best else 0,
            "best_weights": self.best_weights,
        }

    def go_on_from(self, state: dict[str, Any]) -> None:
        """Stand where `state` was taken."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        for generator, numbers in zip((self.order, self.noise), state["random"], strict=False):
            generator.set_state(numbers)
        torch.set_rng_state(state["random"][2])
        if state["gpu"] is not None:
            torch.cuda.set_rng_state(state["gpu"], self.device)
        self.epochs = [Epoch(*epoch) for epoch in state["epochs"]]
        self.best = next(epoch for epoch in self.epochs if epoch.number == state["best"])
        self.best_weights = state["best_weights"]

    def gone(self, settings: TrainingSettings) -> float:
        """The share of the training that is over."""
        if not self.epochs:
            return 0.0
        last = self.epochs[-1]
        return max(last.number / settings.epochs, last.seconds / (settings.seconds or math.inf))

    def over(self, settings: TrainingSettings) -> bool:
        """Whether no epoch follows."""
        if self.best is None:
            return False
        return self.gone(settings) >= 1 or self.epochs[-1].number - self.best.number >= settings.patience


def _fit(
    work: _Work,
    on_epoch: Callable[[Epoch, nn.Module], None],
    checkpoint: Checkpoint | None,
    on_resume: Callable[[Sequence[Epoch]], None],
) -> TrainingResult:
    settings, network, ranks = work.settings, work.network, work.ranks
    now = _Standing(work)
    if checkpoint and (kept := checkpoint.found()):
        now.go_on_from(kept)
        on_resume(tuple(now.epochs))
    learner = ranks.joined(_Learner(network))
    validation_inputs = work.corruption(work.validation_images, torch.Generator().manual_seed(settings.seed))
    start = perf_counter() - (now.epochs[-1].seconds if now.epochs else 0.0)
    while not now.over(settings):
        number = len(now.epochs) + 1
        batches = _batches(torch.randperm(len(work.images), generator=now.order), settings.batch_size, ranks.count)
        loss = _train_one_epoch(work, learner, batches, now)
        validation_loss = mean_loss(
            network, validation_inputs, work.validation_images, settings.batch_size, work.device, ranks
        )
        seconds = ranks.sums(0.0 if ranks.rank else perf_counter() - start)[0]  # the first one's clock for all
        epoch = Epoch(number, loss, validation_loss, seconds)
        if not math.isfinite(loss + validation_loss):
            raise InputError(
                f"the loss became {loss + validation_loss} in epoch {number}: set training.learning_rate "
                f"below {settings.learning_rate:g} (a tenth of it is a good next try)"
            )
        now.epochs.append(epoch)
        on_epoch(epoch, network)
        for group in now.optimizer.param_groups:
            group["lr"] = settings.learning_rate * (1 + math.cos(math.pi * min(1, now.gone(settings)))) / 2
        if now.best is None or epoch.validation_loss < now.best.validation_loss:
            now.best, now.best_weights = epoch, copy.deepcopy(network.state_dict())
        if checkpoint and not ranks.rank:
            checkpoint.keep(now.state())
    assert now.best is not None  # settings.epochs is at least 1
    network.load_state_dict(now.best_weights)
    _lay_out(network, torch.contiguous_format)
    return TrainingResult(network.cpu().eval(), tuple(now.epochs), now.best, str(work.device))


class _Learner(nn.Module):
    """The loss of a network as a module, for gradients to be shared between processes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._loss = training_loss(network)

    def forward(self, images: Tensor, clean: Tensor) -> Tensor:
        return self._loss(images, clean)


def _lay_out(network: nn.Module, memory_format: torch.memory_format) -> None:
    network.to(memory_format=memory_format)  # type: ignore[call-overload]  # torch's types do not know of it


def _train_one_epoch(work: _Work, learner: nn.Module, batches: list[Tensor], now: _Standing) -> float:
    work.network.train()
    total, device, ranks = 0.0, work.device, work.ranks
    for indices in batches:
        clean = work.images[indices]
        corrupted, own = ranks.part(work.corruption(clean, now.noise)).to(device), ranks.part(clean).to(device)
        with half_precision(device):
            loss = learner(corrupted, own)
        now.optimizer.zero_grad()
        share = len(own) * ranks.count / len(indices)  # the mean over processes is that over images
        (loss if share == 1 else loss * share).backward()
        now.optimizer.step()
        total += loss.item() * len(own)
    return ranks.sums(total)[0] / len(work.images)


def half_precision(device: torch.device) -> torch.autocast:
    """A context in which a GPU computes what bears it in bfloat16; no other device gains, and none else does."""
    usable = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=usable)


def _batches(order: Tensor, batch_size: int, processes: int = 1) -> list[Tensor]:
    """The order cut into batches of two or more a process: batch normalisation cannot train on a single image."""
    batches = list(torch.split(order, max(2 * processes, batch_size)))
    if len(batches) > 1 and len(batches[-1]) < 2 * processes:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


@torch.inference_mode()
def mean_loss(
    network: nn.Module,
    images: Tensor,
    clean: Tensor,
    batch_size: int,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> float:
    """The mean squared error, over images (N, C, H, W), of what the network gives for them against `clean`; or the
    network's own measure. Each of the ranks takes some of the batches.

    It leaves the network in evaluation mode.
    """
    network.eval()
    total = 0.0
    pairs = list(zip(torch.split(images, batch_size), torch.split(clean, batch_size), strict=True))
    for batch, target in pairs[ranks.rank :: ranks.count]:
        given, wished = batch.to(device), target.to(device)
        if isinstance(network, OwnValidationLoss):
            loss = network.validation_loss(given, wished)
        else:
            loss = nn.functional.mse_loss(network(given), wished)
        total += loss.item() * len(batch)
    return ranks.sums(total)[0] / len(images)
