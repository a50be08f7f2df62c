"""The one training loop."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

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
    """

    epochs: int = 100
    batch_size: int = 64
    learning_rate: float = 3e-3
    patience: int = 15
    seed: int = 0
    device: str = "auto"


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
) -> TrainingResult:
    """Train a network to reconstruct nominal images, and stop when held-out nominal images no longer gain.

    Args:
        build: makes the network; called with torch seeded by `settings.seed`.
        images: nominal training images (N, C, H, W) float32 in [0, 1].
        validation_images: held-out nominal images (M, C, H, W) float32 in [0, 1].
        settings: how to train.
        on_epoch: called after every epoch with it and the network in evaluation mode.

    Raises:
        InputError: fewer than two training images or no validation image, a device that is not there, or a loss that
            stopped being a number.
    """
    if len(images) < 2 or len(validation_images) < 1:
        raise InputError(
            f"{len(images)} training and {len(validation_images)} validation images are too few: give more nominal ones"
        )
    device = choose_device(settings.device)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(settings.seed)
        network = build().to(device)
        return _fit(network, torch.from_numpy(images), torch.from_numpy(validation_images), settings, device, on_epoch)


def _fit(
    network: nn.Module,
    images: Tensor,
    validation_images: Tensor,
    settings: TrainingSettings,
    device: torch.device,
    on_epoch: Callable[[Epoch, nn.Module], None],
) -> TrainingResult:
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs)
    generator = torch.Generator().manual_seed(settings.seed)
    epochs: list[Epoch] = []
    best, best_weights, start = None, network.state_dict(), perf_counter()
    for number in range(1, settings.epochs + 1):
        training_loss = _train_one_epoch(network, images, optimizer, settings.batch_size, device, generator)
        schedule.step()
        validation_loss = mean_loss(network, validation_images, settings.batch_size, device)
        epoch = Epoch(number, training_loss, validation_loss, perf_counter() - start)
        if not math.isfinite(training_loss + validation_loss):
            raise InputError(
                f"the loss became {training_loss + validation_loss} in epoch {number}: set training.learning_rate "
                f"below {settings.learning_rate:g} (a tenth of it is a good next try)"
            )
        epochs.append(epoch)
        on_epoch(epoch, network)
        if best is None or epoch.validation_loss < best.validation_loss:
            best, best_weights = epoch, copy.deepcopy(network.state_dict())
        elif number - best.number >= settings.patience:
            break
    assert best is not None  # settings.epochs is at least 1
    network.load_state_dict(best_weights)
    return TrainingResult(network.cpu().eval(), tuple(epochs), best, str(device))


def _train_one_epoch(
    network: nn.Module,
    images: Tensor,
    optimizer: torch.optim.Optimizer,
    batch_size: int,
    device: torch.device,
    generator: torch.Generator,
) -> float:
    network.train()
    total = 0.0
    for indices in _batches(torch.randperm(len(images), generator=generator), batch_size):
        batch = images[indices].to(device)
        loss = nn.functional.mse_loss(network(batch), batch)
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
def mean_loss(network: nn.Module, images: Tensor, batch_size: int, device: torch.device) -> float:
    """The network's mean squared error over images (N, C, H, W) in [0, 1]; leaves it in evaluation mode."""
    network.eval()
    total = 0.0
    for batch in torch.split(images, batch_size):
        on_device = batch.to(device)
        total += nn.functional.mse_loss(network(on_device), on_device).item() * len(batch)
    return total / len(images)
