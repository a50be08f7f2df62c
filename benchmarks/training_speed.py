"""How fast training is on images that are decoded once, beside PNG files through a DataLoader.

    python -m benchmarks.training_speed [--images 4000] [--size 28] [--rounds 3] [--output training_speed.json]

One epoch of the same convolutional network on the same images, by one thread: the loop of `ae_models.training`, its
images decoded beforehand and that counted or not, beside a plain loop that reads files through torchvision's
transforms and a DataLoader without worker processes, and with two. Sides are taken in turn; figures are medians.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import pil_to_tensor

from ae_models.images import ImageSpec, stream
from ae_models.networks import build_network
from ae_models.training import TrainingSettings, fit

BATCH, EPOCHS = 64, 5


class Files(Dataset[Tensor]):
    """Images of files, decoded whenever they are asked for."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, place: int) -> Tensor:
        with Image.open(self._paths[place]) as image:
            return pil_to_tensor(image).float() / 255


def decoded(paths: list[Path], spec: ImageSpec) -> NDArray[np.float32]:
    """All images (N, C, H, W)."""
    return np.concatenate([batch.pixels for batch in stream(paths, spec)])


def by_loader(paths: list[Path], spec: ImageSpec, workers: int) -> None:
    """The usual loop: files through a DataLoader."""
    network = build_network("convolutional", spec, {}).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    loader = DataLoader(Files(paths), BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    for _ in range(EPOCHS):
        for batch in loader:
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(network(batch), batch)
            loss.backward()
            optimizer.step()


def by_us(pixels: NDArray[np.float32], spec: ImageSpec, checkpoint: Path | None = None) -> None:
    """The loop of `ae_models.training`; its validation is of two images, as the other loop has none."""
    settings = TrainingSettings(epochs=EPOCHS, batch_size=BATCH, patience=EPOCHS, device="cpu")
    fit(lambda: build_network("convolutional", spec, {}), pixels, pixels[:2], settings, checkpoint=checkpoint)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=4000, help="to learn from (default: 4000)")
    parser.add_argument("--size", type=int, default=28, help="height and width (default: 28)")
    parser.add_argument("--rounds", type=int, default=3, help="of each side (default: 3)")
    parser.add_argument("--output", type=Path, help="also write the figures to this JSON file")
    arguments = parser.parse_args()
    spec = ImageSpec(arguments.size, arguments.size, 1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        random, paths = np.random.default_rng(0), []
        for number in range(arguments.images):
            pixels = random.normal(128, 20, (spec.height // 4, spec.width // 4)).astype(np.uint8)
            Image.fromarray(pixels).resize((spec.width, spec.height)).save(path := Path(name) / f"{number:06d}.png")
            paths.append(path)
        held = decoded(paths, spec)
        sides: dict[str, Callable[[], None]] = {
            "PNG, DataLoader": lambda: by_loader(paths, spec, 0),
            "PNG, DataLoader, 2 workers": lambda: by_loader(paths, spec, 2),
            "decoded once, that included": lambda: by_us(decoded(paths, spec), spec),
            "decoded before": lambda: by_us(held, spec),
            "decoded before, checkpoints": lambda: by_us(held, spec, Path(name) / f"{time.time_ns()}.pt"),
        }
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(arguments.rounds):
            for side, work in sides.items():
                start = time.process_time() if side != "PNG, DataLoader, 2 workers" else time.perf_counter()
                work()
                end = time.process_time() if side != "PNG, DataLoader, 2 workers" else time.perf_counter()
                seconds[side].append(end - start)
    shown = Table(title=f"{EPOCHS} epochs over {arguments.images:,} images of {arguments.size} x {arguments.size}")
    for column in ("side", "s", "times as fast"):
        shown.add_column(column, justify="left" if column == "side" else "right")
    usual = median(seconds["PNG, DataLoader"])
    for side, values in seconds.items():
        shown.add_row(side, f"{median(values):.1f}", f"{usual / median(values):.2f}")
    Console().print(shown)
    if arguments.output:
        figures = {side: {"seconds": values, "speed": usual / median(values)} for side, values in seconds.items()}
        arguments.output.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
