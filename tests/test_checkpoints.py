"""A training that dies goes on after its last epoch, and ends with the very weights that it would have had."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from ae_models.corruptions import Corruption, build_corruption
from ae_models.images import ImageSpec
from ae_models.networks import build_network
from ae_models.training import Epoch, TrainingResult, TrainingSettings, fit, half_precision

SPEC = ImageSpec(16, 16, 1)
SETTINGS = TrainingSettings(epochs=6, batch_size=8, device="cpu")


def images(n: int, seed: int = 0) -> NDArray[np.float32]:
    """Noise (n, 1, 16, 16)."""
    return np.random.default_rng(seed).random((n, *SPEC.shape), np.float32)


def network(name: str) -> Callable[[], nn.Module]:
    """A maker of that network."""
    return lambda: build_network(name, SPEC, {})


def trained(
    name: str,
    checkpoint: Path | None,
    on_epoch: Callable[[Epoch, nn.Module], None] = lambda epoch, network: None,
    on_resume: Callable[[Sequence[Epoch]], None] = lambda epochs: None,
    settings: TrainingSettings = SETTINGS,
    corruption: Corruption | None = None,
) -> TrainingResult:
    """A training on 20 images."""
    return fit(network(name), images(20), images(8, 1), settings, on_epoch, corruption, checkpoint, on_resume)


def stop_at(number: int) -> Callable[[Epoch, nn.Module], None]:
    """What fails in that epoch, before where training stands is kept."""

    def on_epoch(epoch: Epoch, _: nn.Module) -> None:
        if epoch.number == number:
            raise KeyboardInterrupt

    return on_epoch


def assert_same(one: TrainingResult, other: TrainingResult) -> None:
    """Both have the same weights and losses, to the last digit."""
    weights, others = one.network.state_dict(), other.network.state_dict()
    assert all(torch.equal(weights[key], others[key]) for key in weights)
    assert [replace(e, seconds=0) for e in one.epochs] == [replace(e, seconds=0) for e in other.epochs]


@pytest.mark.parametrize("name", ["linear", "convolutional", "variational"])
def test_it_goes_on_after_the_last_epoch(name: str, tmp_path: Path) -> None:
    """Stopped in epoch 4 and begun again, training does epochs 4 to 6 and ends where it would have ended unstopped."""
    corruption = build_corruption("gaussian", {"deviation": 0.1})
    path = tmp_path / "training.pt"
    behind: list[Epoch] = []
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        trained(name, path, stop_at(4), corruption=corruption)
    result = trained(name, path, lambda epoch, _: done.append(epoch.number), behind.extend, corruption=corruption)
    assert [epoch.number for epoch in behind] == [1, 2, 3]
    assert done == [4, 5, 6]
    assert_same(result, trained(name, None, corruption=corruption))


def train_and_die(path: Path) -> None:
    """Train until the process kills itself in epoch 5."""

    def on_epoch(epoch: Epoch, _: nn.Module) -> None:
        if epoch.number == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    trained("convolutional", path, on_epoch)


@pytest.mark.slow
def test_a_killed_process_costs_one_epoch(tmp_path: Path) -> None:
    """After `kill -9` in epoch 5 another process does epochs 5 and 6, and has the weights of an unkilled one."""
    path, done = tmp_path / "training.pt", []
    process = multiprocessing.get_context("spawn").Process(target=train_and_die, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    result = trained("convolutional", path, lambda epoch, _: done.append(epoch.number))
    assert done == [5, 6]
    assert_same(result, trained("convolutional", None))


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    """Where only what follows training had died, the network is there at once."""
    path, done = tmp_path / "training.pt", []
    first = trained("linear", path)
    assert_same(trained("linear", path, lambda epoch, _: done.append(epoch.number)), first)
    assert done == []


@pytest.mark.parametrize("change", [{"seed": 1}, {"learning_rate": 1e-3}, {"batch_size": 4}])
def test_another_training_does_not_go_on_from_it(change: dict[str, float], tmp_path: Path) -> None:
    """With other settings training begins anew; what was kept is replaced."""
    path = tmp_path / "training.pt"
    behind: list[Epoch] = []
    trained("linear", path)
    settings = replace(SETTINGS, **change)  # type: ignore[arg-type]  # mypy does not follow the keys
    assert_same(
        trained("linear", path, on_resume=behind.extend, settings=settings), trained("linear", None, settings=settings)
    )
    assert behind == []


@pytest.mark.parametrize("damage", [b"", b"no checkpoint", None])
def test_a_damaged_file_is_as_good_as_none(damage: bytes | None, tmp_path: Path) -> None:
    """A file that was cut short, or is something else, is neither read nor an error."""
    path = tmp_path / "training.pt"
    behind: list[Epoch] = []
    trained("linear", path)
    path.write_bytes(path.read_bytes()[:1000] if damage is None else damage)
    assert_same(trained("linear", path, on_resume=behind.extend), trained("linear", None))
    assert behind == []


def test_only_the_file_is_left(tmp_path: Path) -> None:
    """It is replaced as a whole: nothing of the writing stays beside it."""
    trained("linear", tmp_path / "deeper" / "training.pt")
    assert [path.name for path in (tmp_path / "deeper").iterdir()] == ["training.pt"]


def test_a_processor_computes_in_full_precision() -> None:
    """Half precision is for GPUs: a CPU's results stay as they are."""
    with half_precision(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
