"""How fast files become scores, beside the usual way and beside what the machine can do.

    python -m benchmarks.throughput [--rounds 5] [--images 512] [--sizes 28 128] [--output FILE.json]

The sides are taken in turn in one run; medians of ratios are told. On one core they are of processor time, which others
on the machine disturb least, and for both cores of the clock's. All of them score the same PNG files by the same
network, a convolutional autoencoder with drawn weights (32-32 at 28 x 28; 32-64-128-256 at 128 x 128), to mean squared
errors. The usual way is Pillow in a DataLoader with two workers and eager PyTorch. One core is one that the whole
process is bound to; memory is measured in a process of its own.
"""

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from ae_models.detector import Detector
from ae_models.graph import Graph
from ae_models.graph_export import onnx_of
from ae_models.images import ImageSpec, read, stream_through
from ae_models.networks import build_network

WIDTHS = {28: (32, 32), 128: (32, 64, 128, 256)}
MATRIX = 1024  # side of the matrices by which the rate of the machine is measured
SCORED_ALONE = """
import sys
from itertools import islice, cycle
from pathlib import Path
from ae_models.graph import Graph
from ae_models.images import ImageSpec, stream_through
folder, size, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
graph = Graph((folder / "graph.onnx").read_bytes(), ImageSpec(size, size, 1)).open()
files = islice(cycle(sorted(folder.glob("*.png"))), count)
total = sum(stream_through(files, graph.spec, lambda part: graph.score(part.pixels, threads=1).sum()))
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


@dataclass(frozen=True)
class Figure:
    """One figure: what it compares, what came out, and what is aimed at."""

    name: str
    value: float
    aim: float | None
    rates: dict[str, float]  # images a second of each side


class Files(Dataset[torch.Tensor]):
    """Images by Pillow, as most who write such a thing read them."""

    def __init__(self, files: Sequence[Path], size: int) -> None:
        self.files, self.size = files, size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> torch.Tensor:
        with Image.open(self.files[place]) as image:
            pixels = np.asarray(
                image.convert("L").resize((self.size, self.size), Image.Resampling.BILINEAR), np.float32
            )
        return torch.from_numpy(pixels / 255)[None]


@contextmanager
def bound_to(cores: int) -> Iterator[None]:
    """The whole process on so many cores, its threads too."""
    before, threads = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, set(sorted(before)[:cores]))
    torch.set_num_threads(cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
        torch.set_num_threads(threads)


def usual(files: Sequence[Path], size: int, network: torch.nn.Module) -> NDArray[np.float64]:
    """Scores by a DataLoader with two workers and eager PyTorch."""
    parts = []
    with torch.no_grad():
        for images in DataLoader(Files(files, size), batch_size=64, num_workers=2):
            parts.append((network(images) - images).square().mean((1, 2, 3)).double().numpy())
    return np.concatenate(parts)


def ours(files: Sequence[Path], graph: Graph) -> NDArray[np.float64]:
    """Scores by the product's own way."""
    return np.concatenate(list(stream_through(files, graph.spec, lambda part: graph.score(part.pixels, threads=1))))


def decoded(files: Sequence[Path], spec: ImageSpec) -> NDArray[np.float32]:
    """The images (N, C, H, W), by one thread."""
    return np.stack([read(file, spec) for file in files])


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """How long it takes, in seconds of processors (of processes that it starts too) and of the clock."""
    clock, before = perf_counter(), processor()
    work()
    return processor() - before, perf_counter() - clock


def processor() -> float:
    """Seconds of processors that this process and those that it started and that ended have taken."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def operations(spec: ImageSpec, widths: Sequence[int]) -> float:
    """Multiplications and additions of the convolutions for one image: a 3 x 3 at each resolution, down and up."""
    total, (height, width) = 0.0, (spec.height, spec.width)
    depths = [spec.channels, *widths]
    for low, high in itertools.pairwise(depths):
        total += 2 * 2 * 9 * low * high * height * width  # once down, and once up after the upsampling
        height, width = height // 2, width // 2
    return total


def figures(size: int, count: int, rounds: int, folder: Path) -> list[Figure]:
    """The figures at one size of images."""
    spec, random = ImageSpec(size, size, 1), np.random.default_rng(0)
    down, across = np.mgrid[0:size, 0:size] / size
    files = [folder / f"{number:05d}.png" for number in range(count)]
    for file in files:
        waves = np.sin(6 * across * random.uniform(0.5, 2)) * np.cos(5 * down) * 60 + 128
        Image.fromarray((waves + random.normal(0, 6, (size, size))).clip(0, 255).astype(np.uint8)).save(file)
    torch.manual_seed(0)
    parameters = {"widths": list(WIDTHS[size])}
    network = build_network("convolutional", spec, parameters).eval()
    detector = Detector(spec, "convolutional", parameters, network)
    (folder / "graph.onnx").write_bytes(onnx_of(detector))
    graph = Graph((folder / "graph.onnx").read_bytes(), spec).open()
    pixels = decoded(files, spec)
    np.testing.assert_allclose(ours(files, graph), usual(files, size, network), rtol=1e-3)
    matrix = torch.rand(MATRIX, MATRIX)
    sides: dict[str, Callable[[], object]] = {
        "usual": lambda: usual(files, size, network),
        "ours": lambda: ours(files, graph),
        "decode": lambda: decoded(files, spec),
        "network": lambda: graph.score(pixels),
        "eager": lambda: [detector.score(pixels[start : start + 64]) for start in range(0, count, 64)],
        "matrix": lambda: [matrix @ matrix for _ in range(4)],
    }
    taken: dict[str, list[float]] = {name: [] for name in (*sides, "one core, clock", "both cores, clock")}
    for _ in range(rounds):
        with bound_to(1):
            for name, work in sides.items():
                taken[name].append(seconds(work)[0])
            taken["one core, clock"].append(seconds(sides["ours"])[1])
        with bound_to(2):
            taken["both cores, clock"].append(seconds(sides["ours"])[1])
    at = {name: np.array(values) for name, values in taken.items()}
    matrix_rate = 4 * 2 * MATRIX**3 / at["matrix"]
    network_rate = operations(spec, WIDTHS[size]) * count / at["network"]
    rates = {name: count / median(values) for name, values in taken.items() if name != "matrix"}
    bound = at["decode"] + at["network"]

    def figure(name: str, ratios: NDArray[np.float64], aim: float | None) -> Figure:
        return Figure(f"{name}, {size} x {size}", float(np.median(ratios)), aim, rates)

    return [
        figure("files to scores, over the usual way, one core", at["usual"] / at["ours"], {28: 7.0, 128: 3.5}[size]),
        figure("files to scores, share of 1 / (1 / decode + 1 / network)", bound / at["ours"], 0.95),
        figure("both cores over one", at["one core, clock"] / at["both cores, clock"], 1.8),
        figure("network alone, over eager PyTorch", at["eager"] / at["network"], None),
        figure("network alone, share of the f32 matrix rate", network_rate / matrix_rate, 0.9 if size == 128 else None),
    ]


def memory(folder: Path, size: int, few: int, many: int) -> Figure:
    """The highest memory of scoring many images over that of few, each in a process of its own."""
    highest = {}
    for count in (few, many):
        command = [sys.executable, "-c", SCORED_ALONE, str(folder), str(size), str(count)]
        said = subprocess.run(command, capture_output=True, text=True, check=True)
        highest[count] = int(said.stdout)
    name = f"memory of scoring {many:,} images over {few:,}, {size} x {size}"
    return Figure(
        name, highest[many] / highest[few], 1.05, {f"{count:,} images, KiB": highest[count] for count in highest}
    )


def main() -> None:
    """Print the table, and write it where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--sizes", type=int, nargs="+", choices=sorted(WIDTHS), default=sorted(WIDTHS))
    parser.add_argument("--memory", type=int, nargs=2, default=(1000, 100_000), metavar=("FEW", "MANY"))
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    arguments = parser.parse_args()
    found: list[Figure] = []
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as name:
            found += figures(size, arguments.images, arguments.rounds, Path(name))
            if size == min(arguments.sizes):
                found.append(memory(Path(name), size, *arguments.memory))
    table = Table("what", "ratio", "aim", title="Scoring")
    for figure in found:
        table.add_row(figure.name, f"{figure.value:.2f}", f"{figure.aim:g}" if figure.aim else "")
    Console(width=120).print(table)
    if arguments.output:
        arguments.output.write_text(json.dumps([asdict(figure) for figure in found], indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
