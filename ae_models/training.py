"""The one training loop."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ae_models.corruptions import CORRUPTIONS, Corruption
from ae_models.errors import InputError


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

    Raises:
        InputError: the wished device is not on this machine.
    """
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

    Raises:
        InputError: fewer than two training images or no validation image, a device or pretrained weights that are not
            there, a network that needs a corruption without one, or a loss that stopped being a number.
    """
    if len(images) < 2 or len(validation_images) < 1:
        raise InputError(
            f"{len(images)} training and {len(validation_images)} validation images are too few: give more nominal ones"
        )
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
        return _fit(network.to(device), *clean, settings, device, on_epoch, corruption or _untouched)


def training_loss(network: nn.Module, images: Tensor, clean: Tensor) -> Tensor:
    """What training makes small, a scalar: the network's own loss, or else the mean squared error.

    Args:
        network: in training mode.
        images: what it gets, (N, C, H, W).
        clean: what it should give, (N, C, H, W).
    """
    if isinstance(network, OwnLoss):
        return network.training_loss(images, clean)
    return nn.functional.mse_loss(network(images), clean)


def _untouched(images: Tensor, generator: torch.Generator) -> Tensor:
    return images


def _fit(
    network: nn.Module,
    images: Tensor,
    validation_images: Tensor,
    settings: TrainingSettings,
    device: torch.device,
    on_epoch: Callable[[Epoch, nn.Module], None],
    corruption: Corruption,
) -> TrainingResult:
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    generator = torch.Generator().manual_seed(settings.seed)
    noise = torch.Generator().manual_seed(settings.seed)  # its own, so that a corruption leaves the order as it is
    validation_inputs = corruption(validation_images, torch.Generator().manual_seed(settings.seed))
    epochs: list[Epoch] = []
    best, best_weights, start = None, network.state_dict(), perf_counter()
    for number in range(1, settings.epochs + 1):
        batches = _batches(torch.randperm(len(images), generator=generator), settings.batch_size)
        loss = _train_one_epoch(network, images, batches, optimizer, device, lambda batch: corruption(batch, noise))
        validation_loss = mean_loss(network, validation_inputs, validation_images, settings.batch_size, device)
        epoch = Epoch(number, loss, validation_loss, perf_counter() - start)
        if not math.isfinite(loss + validation_loss):
            raise InputError(
                f"the loss became {loss + validation_loss} in epoch {number}: set training.learning_rate "
                f"below {settings.learning_rate:g} (a tenth of it is a good next try)"
            )
        epochs.append(epoch)
        on_epoch(epoch, network)
        gone = max(number / settings.epochs, epoch.seconds / (settings.seconds or math.inf))
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * (1 + math.cos(math.pi * min(1, gone))) / 2
        if best is None or epoch.validation_loss < best.validation_loss:
            best, best_weights = epoch, copy.deepcopy(network.state_dict())
        elif number - best.number >= settings.patience:
            break
        if gone >= 1:
            break
    assert best is not None  # settings.epochs is at least 1
    network.load_state_dict(best_weights)
    _lay_out(network, torch.contiguous_format)
    return TrainingResult(network.cpu().eval(), tuple(epochs), best, str(device))


def _lay_out(network: nn.Module, memory_format: torch.memory_format) -> None:
    network.to(memory_format=memory_format)  # type: ignore[call-overload]  # torch's types do not know of it


def _train_one_epoch(
    network: nn.Module,
    images: Tensor,
    batches: list[Tensor],
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    corrupted: Callable[[Tensor], Tensor],
) -> float:
    network.train()
    total = 0.0
    for indices in batches:
        batch = images[indices]
        loss = training_loss(network, corrupted(batch).to(device), batch.to(device))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
        optimizer.step()
        total += loss.item() * len(batch)
    return total / len(images)


def _batches(order: Tensor, batch_size: int) -> list[Tensor]:
    """The order cut into batches of two or more: batch normalisation cannot train on a single image."""
    batches = list(torch.split(order, max(2, batch_size)))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


@torch.inference_mode()
def mean_loss(network: nn.Module, images: Tensor, clean: Tensor, batch_size: int, device: torch.device) -> float:
    """The mean squared error, over images (N, C, H, W), of what the network gives for them against `clean`; or the
    network's own measure.

    It leaves the network in evaluation mode.
    """
    network.eval()
    total = 0.0
    for batch, target in zip(torch.split(images, batch_size), torch.split(clean, batch_size), strict=True):
        given, wished = batch.to(device), target.to(device)
        if isinstance(network, OwnValidationLoss):
            loss = network.validation_loss(given, wished)
        else:
            loss = nn.functional.mse_loss(network(given), wished)
        total += loss.item() * len(batch)
    return total / len(images)
