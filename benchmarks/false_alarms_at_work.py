"""The same promises kept by the whole pipeline: `pipelines.yaml`, train, calibrate and score, with real stores.

The rates are read from what people would read: flags from the batches' scores in MLflow, alarms from the ledger.
"""

import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track
from scipy.stats import t

from ae_models.curves import percent
from ae_models.splits import split_by_group
from benchmarks.false_alarms_on_images import ankle_boots, nominal_tiles
from benchmarks.false_alarms_table import Row, at_most, rate_of, told
from flows import running
from flows.progress import LogProgress
from flows.workspace import Workspace, open_workspace

NAME = "watched"
QUIET = LogProgress(logging.getLogger("quiet"))


@dataclass(frozen=True)
class Files:
    """Files of nominal images, the group of each, and how a pipeline is to see them."""

    name: str
    paths: tuple[Path, ...]
    groups: tuple[str, ...]
    size: int
    rate: float
    batch_size: int


def pipeline_rows(folder: Path, splits: int) -> Iterator[Row]:
    """The rows of each data set that the folder holds."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    logging.getLogger("reconwatch.alerts").disabled = True  # they are counted
    if (folder / "fashion-mnist").is_dir():
        images = ankle_boots(folder / "fashion-mnist")
        with tempfile.TemporaryDirectory() as written:
            paths = _written(images.pixels, Path(written))
            yield from at_work(Files("Fashion-MNIST, ankle boots", paths, images.groups, 28, 0.01, 100), splits)
    if (folder / "magnetic-tiles" / "manifest.csv").is_file():
        tiles = nominal_tiles(folder / "magnetic-tiles", "train")
        yield from at_work(Files("magnetic tiles", tuple(tiles), tuple(tiles.values()), 64, 0.05, 48), splits)


def at_work(of: Files, splits: int) -> Iterator[Row]:
    """Splits by group into images that the pipeline is given (65%) and images at work, in batches in random order."""
    counts, totals, rates = Counter[str](), Counter[str](), []
    for seed in track(range(splits), f"{of.name}, whole pipeline"):
        with tempfile.TemporaryDirectory() as folder:
            workspace = open_workspace(_configured(of, Path(folder), seed), {})
            running.train(workspace, NAME, QUIET)
            running.calibrate(workspace, NAME, QUIET)
            reports = running.score(workspace, NAME, (), QUIET)
            flags, alarms = _recorded(workspace)
            workspace.ledger.close()
        rates.append(flags.mean())
        counts.update(batches=int(alarms.sum()), streams=any(report.stream for report in reports))
        totals.update(batches=alarms.size, reports=len(reports))
    name = f"{of.name}, whole pipeline"
    low, high = _mean_of(rates)
    found = f"{percent(float(np.mean(rates)))} ({percent(low)} to {percent(high)})"
    yield Row(name, f"images, mean of {splits} splits by group", percent(of.rate), found, low <= of.rate)
    batches = rate_of(counts["batches"], totals["batches"])
    yield Row(name, f"random batches of {of.batch_size}", "1%", told(batches), at_most(batches, 0.01))
    streams = rate_of(counts["streams"], splits)
    yield Row(name, "streams of them", "5%", told(streams), at_most(streams, 0.05))
    known = f"{totals['batches']} of {totals['reports']}"
    yield Row(name, "batches decided and recorded", "all", known, totals["batches"] == totals["reports"])


def _mean_of(rates: list[float]) -> tuple[float, float]:
    """The 95% interval of the mean rate of splits: images of a group, and of one calibration, are no coin flips."""
    if len(rates) < 2:
        return 0.0, 1.0
    reach = float(t.ppf(0.975, len(rates) - 1) * np.std(rates, ddof=1) / np.sqrt(len(rates)))
    return max(0.0, float(np.mean(rates)) - reach), min(1.0, float(np.mean(rates)) + reach)


def _configured(of: Files, folder: Path, seed: int) -> Path:
    """A pipelines.yaml with its two manifests: of the images that are given, and of batches that come in."""
    sides = split_by_group(of.groups, {"given": 0.65, "work": 0.35}, seed)
    order = np.random.default_rng(seed).permutation(sides["work"])
    whole = order[: order.size // of.batch_size * of.batch_size]
    for name, places in (("given", sides["given"]), ("work", whole)):
        rows = {"path": [of.paths[place] for place in places], "group": [of.groups[place] for place in places]}
        batches = [f"batch {number // of.batch_size:03d}" for number in range(places.size)]
        pd.DataFrame(rows | {"batch": batches}).to_csv(folder / f"{name}.csv", index=False)
    pipeline = {
        "data": {
            "nominal": "given.csv",
            "inbox": "work.csv",
            "group": "group",
            "size": [of.size, of.size],
            "allow_outside": True,
        },
        "model": {"network": "linear"},
        "training": {"epochs": 20, "seed": seed},
        "threshold": {"method": "conformal", "false_alarm_rate": of.rate},
    }
    path = folder / "pipelines.yaml"
    path.write_text(yaml.safe_dump({"pipelines": {NAME: pipeline}}), encoding="utf-8")
    return path


def _recorded(workspace: Workspace) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which images were flagged, as MLflow has it, and which batches alarmed, as the ledger has it."""
    decided = workspace.ledger.batches.decided(NAME)
    with tempfile.TemporaryDirectory() as folder:
        tables = [
            pd.read_parquet(workspace.tracking.artifact(record.run_id, "scores.parquet", Path(folder) / record.run_id))
            for record in decided
        ]
    return pd.concat(tables)["flagged"].to_numpy(np.bool_), np.array([record.alarm for record in decided])


def _written(pixels: NDArray[np.float32], folder: Path) -> tuple[Path, ...]:
    """Images (N, 1, H, W) in [0, 1] as files."""
    paths = tuple(folder / f"{number:05d}.png" for number in range(len(pixels)))
    for path, image in zip(paths, np.rint(255 * pixels[:, 0]).astype(np.uint8), strict=True):
        Image.fromarray(image).save(path)
    return paths
