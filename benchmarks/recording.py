"""What it costs to record a scored batch beside scoring it: its report, rows, run and review queue in MLflow.

    python -m benchmarks.recording [--images 10000] [--size 128] [--models auto linear] [--output FILE]

Images are drawn by a seed: smooth patterns with noise, of which a share has a speckled square. Scoring and recording
are measured one after the other in the same run, in seconds of processors, and their ratio is the figure. `auto` is
what a pipeline has that names no model. A first small batch leaves out what a process does once.
"""

import argparse
import json
import logging
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped, unused-ignore]  # it ships no types
import yaml
from PIL import Image
from rich.console import Console
from rich.table import Table

from flows import running
from flows.batch_run import REPORT, Surroundings, log_batch, write_batch
from flows.ledger import Claim
from flows.progress import LogProgress
from flows.review_queue import ask_about, open_queue
from flows.reviewing import asked_images
from flows.scoring import known_manifest, score_batch
from flows.sources import Batch, inbox_batches
from flows.streams import stream_of
from flows.tracking import ChampionVersion
from flows.workspace import Workspace, open_workspace

NOMINAL = 600
SHARES = {"nominal": 0.0, "damaged": 0.05, "all-damaged": 1.0}  # of images with a speckled square, by batch
FIRST = "a-first"  # of the process: it imports much
PROGRESS = LogProgress(logging.getLogger("quiet"))


@dataclass(frozen=True)
class Cost:
    """One batch: seconds of processors that scoring and recording took, and what came of it."""

    model: str
    batch: str
    images: int
    flagged: int
    scoring_seconds: float
    recording_seconds: float
    asking_seconds: float  # of these, for the review queue
    report_bytes: int
    memory_growth: int  # bytes of the process, while it recorded

    @property
    def ratio(self) -> float:
        """Recording over scoring."""
        return self.recording_seconds / self.scoring_seconds


def draw_images(folder: Path, count: int, size: int, damaged: float, seed: int) -> None:
    """Write `count` grey JPEG files of size x size."""
    random = np.random.default_rng(seed)
    down, across = np.mgrid[0:size, 0:size] / size
    patterns = [np.sin(np.pi * across), np.cos(np.pi * down), down * across, np.sin(2 * np.pi * (down + across))]
    noise = random.normal(0, 3, (16, size, size))
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = 128 + np.tensordot(random.uniform(-40, 40, 4), patterns, 1) + noise[random.integers(16)]
        if random.random() < damaged:
            top, left = random.integers(0, size * 3 // 4, 2)
            pixels[top : top + size // 4, left : left + size // 4] = random.integers(0, 256, (size // 4, size // 4))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"image-{number:05d}.jpg", quality=90)


def prepared(folder: Path, model: str) -> tuple[Workspace, ChampionVersion]:
    """The stores of a pipeline that is trained and calibrated."""
    pipeline = {
        "data": {"nominal": str(folder / "nominal"), "inbox": str(folder / "inbox")},
        "model": model,
        "training": {"epochs": 5},
    }
    path = folder / f"{model}.yaml"
    path.write_text(yaml.safe_dump({"workspace": str(folder / model), "pipelines": {"images": pipeline}}))
    workspace = open_workspace(path, {})
    running.train(workspace, "images", PROGRESS)
    running.calibrate(workspace, "images", PROGRESS)
    return workspace, workspace.tracking.registry.champion("images")


def cost(workspace: Workspace, champion: ChampionVersion, batch: Batch, model: str) -> Cost:
    """Score a batch and record it."""
    pipeline, tracking, ledger = workspace.settings.pipeline("images"), workspace.tracking, workspace.ledger
    manifest = known_manifest(pipeline, batch, ledger)
    claim = ledger.claim("images", batch.id, manifest, champion.version, champion.calibration_run)
    assert isinstance(claim, Claim)
    before = time.process_time()
    scored = score_batch(batch, champion.champion, pipeline, PROGRESS, lambda: None, manifest_hash=manifest)
    scoring = time.process_time() - before
    stream = stream_of(pipeline, champion, ledger)
    memory, start = psutil.Process().memory_info().rss, time.process_time()
    asked = asked_images(scored.table, pipeline.review.flagged, manifest)
    queue = open_queue(pipeline, batch.id, claim.key, asked, tracking, PROGRESS)
    with tempfile.TemporaryDirectory() as name:
        uris = [image.uri for image in asked]
        note = write_batch(Path(name), pipeline, batch, champion, scored, stream, claim, manifest, None, queue, uris)
        run_id = log_batch(note, Path(name), Surroundings("monitor", None, queue), tracking)
    verdict = scored.verdict
    counts = {name: getattr(verdict, name) for name in ("scored", "flagged", "unreadable")}
    ledger.finish(
        claim,
        run_id=run_id,
        verdict=asdict(verdict),
        alarm=verdict.alarm,
        **{f"n_{name}": count for name, count in counts.items()},
    )
    before_asking = time.process_time()
    threshold = champion.champion.threshold.value
    ask_about(batch.id, claim.key, asked, note.pictures, queue, threshold, tracking, ledger, PROGRESS)
    asking, seconds = time.process_time() - before_asking, time.process_time() - start
    grown = psutil.Process().memory_info().rss - memory
    with tempfile.TemporaryDirectory() as place:
        size = tracking.artifact(run_id, REPORT, Path(place)).stat().st_size
    return Cost(model, batch.id, len(scored.table), verdict.flagged, scoring, seconds, asking, size, grown)


def table(costs: list[Cost], size: int) -> Table:
    """The figures, a line a batch."""
    shown = Table(title=f"Recording a batch of {size} x {size} images beside scoring it")
    for name in (
        "model",
        "batch",
        "images",
        "flagged",
        "scoring, s",
        "recording, s",
        "of it for review, s",
        "ratio",
        "report, MB",
        "memory, MB",
    ):
        shown.add_column(name, justify="left" if name in ("model", "batch") else "right")
    for one in costs:
        seconds = (f"{one.scoring_seconds:.1f}", f"{one.recording_seconds:.2f}", f"{one.asking_seconds:.2f}")
        seconds = (*seconds, f"{one.ratio:.1%}")
        sizes = (f"{one.report_bytes / 1e6:.2f}", f"{one.memory_growth / 1e6:+.0f}")
        shown.add_row(one.model, one.batch, f"{one.images:,}", f"{one.flagged:,}", *seconds, *sizes)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000, help="in a batch (default: 10000)")
    parser.add_argument("--size", type=int, default=128, help="height and width (default: 128)")
    parser.add_argument("--models", nargs="+", default=["auto", "linear"], help="(default: auto linear)")
    parser.add_argument("--output", type=Path, help="also write the figures to this JSON file")
    arguments = parser.parse_args()
    costs = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_images(folder / "nominal", NOMINAL, arguments.size, 0, 0)
        draw_images(folder / "inbox" / FIRST, 300, arguments.size, 0, 9)
        for seed, (batch_name, share) in enumerate(SHARES.items(), 1):
            draw_images(folder / "inbox" / batch_name, arguments.images, arguments.size, share, seed)
        for model in arguments.models:
            workspace, champion = prepared(folder, model)
            first, *batches = inbox_batches(workspace.settings.pipeline("images").data)
            cost(workspace, champion, first, model)
            costs += [cost(workspace, champion, batch, model) for batch in batches]
    Console().print(table(costs, arguments.size))
    if arguments.output:
        figures = [asdict(one) | {"ratio": one.ratio} for one in costs]
        arguments.output.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
