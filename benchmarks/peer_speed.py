"""How fast a fully connected autoencoder is fitted, and scores, beside PyOD's AutoEncoder.

    python -m benchmarks.peer_speed [--images 4000] [--size 28] [--rounds 5] [--output peer_speed.json]

The same network learns from the same images in memory, for as many epochs and in batches of the same size (PyOD's
defaults), by one thread of one core. Two networks are compared. `linear` is the product's own with an output of any
range, which PyOD builds layer by layer alike where it is asked for one hidden layer of 32, no dropout, no weight decay
and no preprocessing. The other is PyOD's default (64, 32, 64, with dropout), with its preprocessing, which standardises
each image whenever it is asked for. The product has no such network: the same layers go through its training loop and
its graph, with a front end that standardises images, once for training, and in the graph for scoring.

Fitting ends, as PyOD's does, with the scores of the training images; ours has two validation images, as PyOD has none,
and the export of the graph, once a training, is told apart. Scores are PyOD's distances and our mean squared errors.
Sides are taken in turn, each after a first small run; figures are medians of ratios of processor time. PyOD runs in a
virtual environment of its own, as for `benchmarks.peers`.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import process_time

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from ae_models.detector import Detector
from ae_models.graph import Graph
from ae_models.graph_export import onnx_of
from ae_models.images import ImageSpec
from ae_models.networks import build_network
from ae_models.training import TrainingSettings, fit
from benchmarks.peers import ENVIRONMENTS, PEERS, PeerUnavailable, answer, install
from benchmarks.throughput import bound_to

EPOCHS, BATCH, LEARNING_RATE, DROPOUT = 10, 32, 1e-3, 0.2  # PyOD's defaults
SECONDS = 600  # that a side may take
AIMS = {"fit": 1.5, "score": 5.0}
Images = NDArray[np.float32]


@dataclass(frozen=True)
class Spent:
    """Seconds of one processor for fitting and for scoring as many images; those of the export where there is one."""

    fit: float
    score: float
    export: float | None = None


@dataclass(frozen=True)
class Compared:
    """A network, and what both sides took in each round."""

    network: str
    ours: list[Spent]
    peers: list[Spent]

    def ratio(self, part: str) -> float:
        """How many times as fast we are at "fit" or "score": the median over rounds."""
        pairs = zip(self.ours, self.peers, strict=True)
        return float(median(getattr(peer, part) / getattr(our, part) for our, peer in pairs))


class Standardised(nn.Module):
    """A front end: images as PyOD's preprocessing gives them, each pixel in nominal deviations from its mean."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, nominal: Images) -> None:
        super().__init__()
        _, channels, height, width = nominal.shape
        self.spec, self.places = ImageSpec(height, width, channels), (np.arange(height), np.arange(width))
        self.register_buffer("mean", torch.from_numpy(nominal.mean(0)))
        self.register_buffer("deviation", torch.from_numpy(nominal.std(0) + 1e-8))

    def forward(self, images: Tensor) -> Tensor:
        """Standardised images (N, C, H, W) of images (N, C, H, W)."""
        return torch.as_tensor((images - self.mean) / self.deviation)


def linear(spec: ImageSpec) -> nn.Module:
    """The product's linear autoencoder with an output of any range: what PyOD makes of one hidden layer."""
    return build_network("linear", spec, {"output": "identity"})


def pyod_default(spec: ImageSpec) -> nn.Module:
    """The layers of PyOD's AutoEncoder with its default arguments, on images."""
    sizes, layers = (math.prod(spec.shape), 64, 32, 64), list[nn.Module]([nn.Flatten()])
    for wide, narrow in pairwise(sizes):
        layers += [nn.Linear(wide, narrow), nn.ReLU(), nn.BatchNorm1d(narrow), nn.Dropout(DROPOUT)]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], sizes[0]), nn.Unflatten(1, spec.shape))


NETWORKS: dict[str, tuple[Callable[[ImageSpec], nn.Module], str, bool]] = {  # how it is built, PyOD's, standardised
    "linear": (linear, "pyod-speed-linear", False),
    "PyOD's default": (pyod_default, "pyod-speed", True),
}


def ours(
    build: Callable[[ImageSpec], nn.Module], train: Images, test: Images, standardised: bool, epochs: int
) -> Spent:
    """What our training loop and our graph take."""
    _, channels, height, width = train.shape
    spec = ImageSpec(height, width, channels)
    settings = TrainingSettings(epochs, BATCH, LEARNING_RATE, epochs, device="cpu")
    start = process_time()
    front_end = Standardised(train) if standardised else None
    seen = front_end(torch.from_numpy(train)).numpy() if front_end else train
    network = fit(lambda: build(spec), seen, seen[:2], settings).network
    trained = process_time()
    graph = Graph(onnx_of(Detector(spec, "", {}, network, fitted_front_end=front_end)), spec).open()
    exported = process_time()
    graph.score(train, threads=1)
    fitted = process_time()
    graph.score(test, threads=1)
    return Spent(trained - start + fitted - exported, process_time() - fitted, exported - trained)


def compare(name: str, images: Images, rounds: int, python: Path) -> Compared:
    """Both sides on images (N, C, H, W) in [0, 1], in turn."""
    build, method, standardised = NETWORKS[name]
    ours(build, images[: 2 * BATCH], images[:BATCH], standardised, epochs=1)
    compared = Compared(name, [], [])
    for seed in range(rounds):
        compared.ours.append(ours(build, images, images, standardised, EPOCHS))
        found = answer(method, images, images, python, seed, SECONDS, "PyOD's AutoEncoder failed")
        compared.peers.append(Spent(float(found["fit_seconds"]), float(found["score_seconds"])))
    return compared


def table(rows: Sequence[Compared], images: int) -> Table:
    """A line a network and part."""
    shown = Table(title=f"{EPOCHS} epochs over {images:,} images, and their scores; seconds of one processor")
    for column in ("network", "", "ours", "PyOD", "times as fast", "aim"):
        shown.add_column(column, justify="right" if column in ("ours", "PyOD", "times as fast", "aim") else "left")
    for row in rows:
        for part, aim in AIMS.items():
            sides = [median(getattr(spent, part) for spent in side) for side in (row.ours, row.peers)]
            seconds = [f"{side:.2f}" for side in sides]
            shown.add_row(row.network, part, *seconds, f"{row.ratio(part):.2f}", f"{aim:g}")
    return shown


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure both networks, print the table, and write it as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peer_speed", description=main.__doc__)
    parser.add_argument("--images", type=int, default=4000, help="to learn from and to score (default: 4000)")
    parser.add_argument("--size", type=int, default=28, help="height and width (default: 28)")
    parser.add_argument("--rounds", type=int, default=5, help="of each side (default: 5)")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, help="where uv makes the environment")
    parser.add_argument("--output", type=Path, help="a JSON file")
    given = parser.parse_args(arguments)
    images = np.random.default_rng(0).random((given.images, 1, given.size, given.size), np.float32)
    try:
        python = install(PEERS["pyod-autoencoder"], given.environments)
        with bound_to(1):  # PyOD's process too
            rows = [compare(name, images, given.rounds, python) for name in NETWORKS]
    except PeerUnavailable as error:
        sys.exit(str(error))
    Console(width=None if sys.stdout.isatty() else 120).print(table(rows, given.images))
    if given.output is not None:
        figures = [asdict(row) | {part: row.ratio(part) for part in AIMS} for row in rows]
        given.output.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
