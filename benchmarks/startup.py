"""How long commands take to start: process time of fresh processes, beside what Python and the libraries take alone.

    python -m benchmarks.startup [--rounds 5] [--output startup.json]

A pipeline of 28 x 28 images is made, trained and scored in a temporary folder. Then every command is run once a round,
one after the other, so that a machine that is busy is busy for all of them. Of each the median is told: of the
processor's seconds (user and system), and of the clock's.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import yaml
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from typer.main import get_command

from flows.cli import app

MLFLOW = "import mlflow, mlflow.store.tracking.sqlalchemy_store"
ALONE = {
    "python alone": "pass",
    "MLflow and its store alone": MLFLOW,
    "PyTorch alone": "import torch",
    "all that scoring stands on": f"{MLFLOW}; import torch, scipy.stats",
}
AIMS = {"--help": 0.5, "--output": 2.0}  # processor seconds on a core that is not busy, by the last word of the command


@dataclass
class Side:
    """One command: what it is called, how it is run, and what each round took."""

    name: str
    command: Sequence[str]
    processor: list[float] = field(default_factory=list)  # seconds, user and system
    clock: list[float] = field(default_factory=list)  # seconds

    def run(self, folder: Path) -> None:
        """Run it once more in a fresh process."""
        start = perf_counter()
        process = subprocess.Popen(self.command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert process.stdout is not None
        said = process.stdout.read().decode()
        _, state, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(state)
        process.stdout.close()
        if process.returncode:
            raise RuntimeError(f"{' '.join(self.command)} exited with {process.returncode}: {said}")
        self.clock.append(perf_counter() - start)
        self.processor.append(usage.ru_utime + usage.ru_stime)


@dataclass(frozen=True)
class Cost:
    """The medians of one command."""

    name: str
    processor_seconds: float
    clock_seconds: float
    aim: float | None

    @classmethod
    def of(cls, side: Side, name: str = "") -> "Cost":
        """What the rounds of a side come to."""
        return cls(name or side.name, median(side.processor), median(side.clock), AIMS.get(side.name.split()[-1]))


def images(folder: Path, count: int, seed: int) -> None:
    """Grey images of 28 x 28 with smooth patterns, as PNG files."""
    random, (down, across) = np.random.default_rng(seed), np.mgrid[0:28, 0:28] / 28
    folder.mkdir(parents=True)
    for number in range(count):
        waves = np.sin(np.pi * (across + random.random())) + random.random() * np.cos(np.pi * down)
        pixels = np.clip(128 + 40 * waves + random.normal(0, 4, (28, 28)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:04d}.png")


def prepare(folder: Path, rounds: int) -> None:
    """A pipeline that is trained, calibrated and has scored a batch, and a batch for each round."""
    images(folder / "nominal", 600, 0)
    images(folder / "inbox" / "first", 100, 1)
    for number in range(rounds):
        images(folder / f"new-{number}", 100, 2 + number)
    pipeline = {
        "data": {"nominal": "nominal", "inbox": "inbox"},
        "model": {"network": "convolutional"},
        "training": {"epochs": 3},
    }
    (folder / "pipelines.yaml").write_text(yaml.safe_dump({"pipelines": {"small": pipeline}}), encoding="utf-8")
    subprocess.run(reconwatch("run"), cwd=folder, check=True, capture_output=True)


def reconwatch(*arguments: str) -> tuple[str, ...]:
    """The command as a fresh process runs it."""
    return (sys.executable, "-c", "from flows.cli import main; main()", *arguments)


def verbs(command: Any, *names: str) -> Iterator[tuple[str, ...]]:
    """Every command, as it is typed."""
    below = getattr(command, "commands", None)
    if not below:
        yield names
    for name, part in (below or {}).items():
        yield from verbs(part, *names, name)


def measure(rounds: int) -> list[Cost]:
    """The cost of each command, and of what it stands on."""
    alone = [Side(name, (sys.executable, "-c", source)) for name, source in ALONE.items()]
    helps = [Side(f"{' '.join(names)} --help", reconwatch(*names, "--help")) for names in verbs(get_command(app))]
    top = Side("reconwatch --help", reconwatch("--help"))
    looks = [Side(f"reconwatch {name}", reconwatch(*name.split())) for name in ("alert list", "status", "check")]
    score = Side("reconwatch score, 100 images, --output", ())
    record = Side("reconwatch score, 100 images, --output --record", ())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, rounds)
        for number in track(range(rounds), "Rounds"):
            score.command = reconwatch("score", "small", f"new-{number}", "--output", "scores.parquet")
            record.command = (*score.command, "--record")
            for side in (*alone, top, *helps, *looks, score, record):
                side.run(folder)
    slowest = max(helps, key=lambda side: median(side.processor))
    costs = [*map(Cost.of, alone), Cost.of(top), Cost.of(slowest, f"{slowest.name}, the slowest of {len(helps)}")]
    return [*costs, *map(Cost.of, (*looks, score, record))]


def main() -> None:
    """Print the table, and write it where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="a JSON file for the rows")
    arguments = parser.parse_args()
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    costs = measure(arguments.rounds)
    table = Table("what", "processor s", "aim", "clock s", title="Starting")
    for cost in costs:
        seconds, aim = f"{cost.processor_seconds:.2f}", f"{cost.aim:g}" if cost.aim else ""
        table.add_row(cost.name, seconds, aim, f"{cost.clock_seconds:.2f}")
    Console(width=120).print(table)
    if arguments.output:
        arguments.output.write_text(json.dumps([asdict(cost) for cost in costs], indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
