"""What grows in a process that goes on: many small batches over many pipelines, as a scheduled worker does them.

    python -m benchmarks.soak [--batches 2000] [--pipelines 20] [--output soak.json]

Each batch of 20 images arrives in the inbox of its pipeline and is scored by the real path: ledger, MLflow's store,
monitor page, report, review queue, alerts; every tenth holds damaged images. Nothing is taken out of the inboxes. After
each batch memory, open files and threads are read. Shown by tenths of the batches; the last is compared with the first.
Training and calibration come before. Where other work shares the cores, the processor time tells more than the wall's,
and the yardstick, a fixed piece of work beside each batch, tells by how much the machine itself became slower.
"""

import argparse
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median

import numpy as np
import psutil  # type: ignore[import-untyped, unused-ignore]  # it ships no types
import yaml
from PIL import Image
from rich.console import Console
from rich.table import Table

from flows import running
from flows.progress import LogProgress
from flows.workspace import Workspace, open_workspace

SIDE, IMAGES, NOMINAL = 16, 20, 100
DAMAGED_EVERY, DAMAGED = 10, 2  # batches; images in one of them
WINDOWS = 10
MIB = 2**20
PROGRESS = LogProgress(logging.getLogger("quiet"))


@dataclass(frozen=True)
class Reading:
    """What one batch cost, and what the process holds after it."""

    processor_seconds: float
    wall_seconds: float
    yardstick_seconds: float
    memory: int  # bytes, resident
    open_files: int
    threads: int


@dataclass(frozen=True)
class Window:
    """A tenth of the batches: medians of the seconds, means of what the process holds."""

    batches: int
    processor_seconds: float
    wall_seconds: float
    yardstick_seconds: float
    memory_mib: float
    open_files: float
    threads: float


@dataclass(frozen=True)
class Growth:
    """The last window over the first: ratios of seconds, differences of what the process holds."""

    processor: float
    processor_by_yardstick: float
    wall: float
    memory_mib: float
    memory_mib_second_half: float  # the last window above the middle one: what only caches took has ended there
    open_files: float
    threads: float


def draw_images(folder: Path, number: int, damaged: int, seed: int) -> None:
    """Write so many small grey images, the first of them damaged."""
    random = np.random.default_rng(seed)
    down, across = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    patterns = [np.sin(np.pi * across), np.cos(np.pi * down), down * across, np.sin(2 * np.pi * (down + across))]
    folder.mkdir(parents=True)
    for place in range(number):
        pixels = 128 + np.tensordot(random.uniform(-40, 40, 4), patterns, 1) + random.normal(0, 2, (SIDE, SIDE))
        if place < damaged:
            pixels = random.integers(0, 256, (SIDE, SIDE))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{place:03d}.png")


def configured(folder: Path, pipelines: int) -> tuple[Path, list[str]]:
    """A pipelines.yaml with so many pipelines, each with an inbox of its own, and their names."""
    draw_images(folder / "nominal", NOMINAL, 0, 0)
    names = [f"line-{number:02d}" for number in range(pipelines)]
    for name in names:
        (folder / "inbox" / name).mkdir(parents=True)
    entries = {
        name: {
            "data": {"nominal": "nominal", "inbox": f"inbox/{name}"},
            "model": "linear",
            "training": {"epochs": 2},
            "threshold": {"method": "conformal", "false_alarm_rate": 0.05},
        }
        for name in names
    }
    path = folder / "pipelines.yaml"
    path.write_text(yaml.safe_dump({"pipelines": entries}), encoding="utf-8")
    return path, names


def readings(workspace: Workspace, names: Sequence[str], batches: int, inbox: Path) -> Iterator[Reading]:
    """A reading after each batch; the pipelines take turns."""
    process = psutil.Process()
    for number in range(batches):
        name, turn = names[number % len(names)], number // len(names)
        damaged = DAMAGED if (number + turn) % DAMAGED_EVERY == 0 else 0
        draw_images(inbox / name / f"batch-{turn:05d}", IMAGES, damaged, 1 + number)
        wall, processor = time.perf_counter(), time.process_time()
        report = running.run(workspace, name, PROGRESS)
        processor, wall = time.process_time() - processor, time.perf_counter() - wall
        if report.failed or [batch.outcome for batch in report.batches] != ["scored"]:
            raise RuntimeError(f"batch {number} was not scored: {report}")
        memory, files, threads = process.memory_info().rss, process.num_fds(), process.num_threads()
        yield Reading(processor, wall, yardstick(), memory, files, threads)


def yardstick() -> float:
    """Processor seconds of a fixed piece of work."""
    start = time.process_time()
    for number in range(300):
        json.loads(json.dumps({str(place): place * number for place in range(50)}))
    return time.process_time() - start


def windows(read: Sequence[Reading]) -> list[Window]:
    """The readings by tenths."""
    parts = [read[len(read) * place // WINDOWS : len(read) * (place + 1) // WINDOWS] for place in range(WINDOWS)]
    return [
        Window(
            len(part),
            median(one.processor_seconds for one in part),
            median(one.wall_seconds for one in part),
            median(one.yardstick_seconds for one in part),
            mean(one.memory for one in part) / MIB,
            mean(one.open_files for one in part),
            mean(one.threads for one in part),
        )
        for part in parts
        if part
    ]


def growth(shown: Sequence[Window]) -> Growth:
    """How much the last window is above the first."""
    first, middle, last = shown[0], shown[len(shown) // 2], shown[-1]
    processor = last.processor_seconds / first.processor_seconds
    return Growth(
        processor,
        processor / (last.yardstick_seconds / first.yardstick_seconds),
        last.wall_seconds / first.wall_seconds,
        last.memory_mib - first.memory_mib,
        last.memory_mib - middle.memory_mib,
        last.open_files - first.open_files,
        last.threads - first.threads,
    )


def soak(folder: Path, batches: int, pipelines: int) -> list[Window]:
    """So many batches over so many pipelines in an empty folder, by tenths."""
    path, names = configured(folder, pipelines)
    workspace = open_workspace(path, {})
    for name in names:
        report = running.run(workspace, name, PROGRESS)
        if report.failed:
            raise RuntimeError(report.failure)
    shown = windows(list(readings(workspace, names, batches, folder / "inbox")))
    workspace.ledger.close()
    return shown


def table(shown: Sequence[Window]) -> Table:
    """The windows, a line each."""
    drawn = Table(title="Batches of 20 images, by tenths")
    for name in ("batches", "processor, ms", "wall, ms", "yardstick, ms", "memory, MiB", "open files", "threads"):
        drawn.add_column(name, justify="right")
    for one in shown:
        seconds = (one.processor_seconds, one.wall_seconds, one.yardstick_seconds)
        times = [f"{1000 * value:.1f}" for value in seconds]
        held = (f"{one.memory_mib:.1f}", f"{one.open_files:.1f}", f"{one.threads:.1f}")
        drawn.add_row(f"{one.batches}", *times, *held)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batches", type=int, default=2000, help="over all pipelines (default: 2000)")
    parser.add_argument("--pipelines", type=int, default=20, help="(default: 20)")
    parser.add_argument("--output", type=Path, help="also write the figures to this JSON file")
    arguments = parser.parse_args()
    if arguments.batches < WINDOWS:
        parser.error(f"{arguments.batches} batches are too few for {WINDOWS} windows")
    warnings.simplefilter("ignore")  # MLflow's own
    logging.disable(logging.ERROR)  # the alerts of damaged batches
    with tempfile.TemporaryDirectory() as name:
        shown = soak(Path(name), arguments.batches, arguments.pipelines)
    grown = growth(shown)
    Console().print(table(shown))
    Console().print(
        f"The last tenth over the first: processor {grown.processor:.2f} ({grown.processor_by_yardstick:.2f} by the "
        f"yardstick), wall {grown.wall:.2f}, memory {grown.memory_mib:+.1f} MiB (over the middle "
        f"{grown.memory_mib_second_half:+.1f}), open files {grown.open_files:+.1f}, threads {grown.threads:+.1f}"
    )
    if arguments.output:
        figures = {
            "batches": arguments.batches,
            "pipelines": arguments.pipelines,
            "windows": [asdict(one) for one in shown],
            "growth": asdict(grown),
        }
        arguments.output.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
