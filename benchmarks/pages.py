"""How fast the largest pages are there: a batch of 10,000 images, and a pipeline of 5,000 batches.

    python -m benchmarks.pages [--chromium /usr/bin/chromium] [--output pages.json]

Each page is opened as a file, and then in MLflow's frame on a real server, and timed until what one sees first is
painted; an empty page shows what of that is MLflow's own. MLflow's scripts are in the browser's cache by then. The time
line's page is drawn by the command that people use, on a ledger and a store that hold so many batches; how long it
takes to add one batch to them is timed as well.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from playwright.sync_api import BrowserContext, sync_playwright
from rich.console import Console
from rich.table import Table

from ae_models.calibration import conformal_threshold
from ae_models.certificate import certify, installed_versions
from ae_models.champion import Champion
from ae_models.detector import Detector
from ae_models.images import ImageSpec
from ae_models.monitoring import BatchVerdict, batch_verdict
from ae_models.networks import build_network
from flows.ledger import Claim
from flows.monitor import PAGE, monitor_run, point_of, update_monitor
from flows.report import ScoredBatch, report_on
from flows.sources import Batch, Item
from flows.streams import Stream
from flows.tracking import ChampionVersion
from flows.workspace import Workspace, open_workspace

SIZE, IMAGES, UNREADABLE = 128, 10_000, 500
HISTORIES = (100, 1000, 5000)  # batches
FIRST_VIEW = {"empty": "p", "batch": ".card img", "pipeline": "figure svg .series"}
FRAME = "iframe.mlflow-html-iframe"
SLOWEST = 120_000  # milliseconds
PAINTED = "() => new Promise((done) => requestAnimationFrame(() => setTimeout(() => done(performance.now()))))"


@dataclass(frozen=True)
class Opened:
    """A page: what it holds, its bytes, and the seconds until its first view was painted, as a file and in MLflow."""

    page: str
    holds: str
    size: int
    seconds: float
    in_mlflow: float


@dataclass(frozen=True)
class Updated:
    """What it took to add one batch to the time line of a pipeline with so many."""

    batches: int
    seconds: float


def champion() -> ChampionVersion:
    """A champion on images of SIZE x SIZE, whose network has random weights."""
    spec = ImageSpec(SIZE, SIZE, 1)
    torch.manual_seed(0)
    detector = Detector(spec, "linear", {}, build_network("linear", spec, {}).eval())
    scores = np.random.default_rng(0).lognormal(0, 0.3, 999)
    threshold = conformal_threshold(scores, 0.01)
    time_ = datetime(2024, 5, 17, tzinfo=UTC)
    certificate = certify(detector, threshold, scores, [], 0, time_, installed_versions())
    return ChampionVersion("3", "calibration", "training", Champion(detector, threshold, scores, certificate))


def verdict_of(scores: np.ndarray, unreadable: int, deciding: Champion) -> BatchVerdict:  # type: ignore[type-arg]
    flagged = int(deciding.threshold.flags(scores).sum())
    calibration = deciding.calibration_scores
    return batch_verdict(
        len(scores), flagged, unreadable, deciding.threshold, 0.01, 0, scores=scores, calibration_scores=calibration
    )


def batch_page(deciding: ChampionVersion) -> str:
    """The report of a batch of noise, which compresses badly, a fifth of which is flagged."""
    random = np.random.default_rng(1)
    scores = random.lognormal(0.1, 0.6, IMAGES)
    scores[:UNREADABLE] = np.nan
    readable = np.isfinite(scores)
    table = pd.DataFrame(
        {
            "uri": [f"/mnt/line-3/2024-05-17/camera-left/image-{number:06d}.png" for number in range(IMAGES)],
            "score": scores,
            "p_value": np.where(readable, deciding.champion.p_values(np.nan_to_num(scores)), np.nan),
            "flagged": deciding.champion.threshold.flags(scores),
            "status": np.where(readable, "scored", "unreadable"),
            "reason": np.where(readable, "", "is a PNG file that breaks off"),
            "review": False,
            "audit": random.random(IMAGES) < 0.004,
        }
    )
    scored = ScoredBatch(table, verdict_of(scores[readable], UNREADABLE, deciding.champion), 10.0)
    picture = random.integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
    items = tuple(Item(uri, lambda: picture) for uri in table["uri"])
    return report_on(Batch("2024-05-17", items), deciding, scored, [], datetime.now(UTC)).html


def finish_batches(workspace: Workspace, deciding: ChampionVersion, first: int, last: int) -> None:
    """Decide batches of those numbers, of which every hundredth alarms; without MLflow runs of their own."""
    stream = Stream.start(deciding.champion.threshold, workspace.settings.pipeline("images").monitor, 1)
    for number in range(first, last):
        random = np.random.default_rng(number)
        scores = random.lognormal(0.5 if number % 100 == 99 else 0, 0.3, 200)
        verdict = verdict_of(scores, 0, deciding.champion)
        table = pd.DataFrame({"score": scores, "status": "scored"})
        point = point_of(deciding.champion, ScoredBatch(table, verdict, 0.5 + random.random()), stream)
        name = f"2024-line-3-{number:05d}"
        claim = workspace.ledger.claim("images", name, name, "3", f"calibration {number // 1000}")
        assert isinstance(claim, Claim)
        workspace.ledger.finish(
            claim,
            run_id="run",
            verdict=asdict(verdict),
            alarm=verdict.alarm,
            n_scored=200,
            n_flagged=verdict.flagged,
            n_unreadable=0,
            point=lambda point=point: point,  # type: ignore[misc]  # mypy cannot infer it
        )


def updates(workspace: Workspace, deciding: ChampionVersion) -> Iterator[Updated]:
    """One batch more, on histories of several lengths."""
    done = 0
    for batches in HISTORIES:
        finish_batches(workspace, deciding, done, batches - 1)
        update_monitor("images", workspace.tracking, workspace.ledger)
        finish_batches(workspace, deciding, batches - 1, batches)
        start = time.perf_counter()
        update_monitor("images", workspace.tracking, workspace.ledger)
        yield Updated(batches, time.perf_counter() - start)
        done = batches


def opened(browser: BrowserContext, path: Path, address: str, kind: str, holds: str) -> Opened:
    """The page as a browser shows it."""
    page = browser.new_page()
    page.goto(path.as_uri())
    page.locator(FIRST_VIEW[kind]).first.wait_for(state="attached")
    seconds = page.evaluate(PAINTED) / 1000  # since the page was asked for
    page.goto("about:blank")
    start = time.perf_counter()
    page.goto(address)
    page.frame_locator(FRAME).locator(FIRST_VIEW[kind]).first.wait_for(state="visible", timeout=SLOWEST)
    in_mlflow = time.perf_counter() - start
    page.close()
    return Opened(kind, holds, path.stat().st_size, seconds, in_mlflow)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """An MLflow server on the stores of a workspace, once it answers; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--default-artifact-root", (folder / "artifacts").as_uri()]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        while not answers(f"{url}/health"):
            time.sleep(0.2)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def answers(url: str) -> bool:
    """Whether a server answers there."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


@contextmanager
def chromium(path: str) -> Iterator[BrowserContext]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser.new_context(viewport={"width": 1400, "height": 900})
        browser.close()


def table(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    shown = Table(title=title)
    for column in columns:
        shown.add_column(column, justify="left" if column in ("page", "holds") else "right")
    for row in rows:
        shown.add_row(*row)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    found: Callable[[str], str | None] = shutil.which
    parser.add_argument("--chromium", default=found("chromium"), help="the browser (default: that of the machine)")
    parser.add_argument("--output", type=Path, help="also write the figures to this JSON file")
    arguments = parser.parse_args()
    if not arguments.chromium:
        parser.error("no Chromium was found: name one with --chromium")
    deciding = champion()
    with tempfile.TemporaryDirectory() as name, chromium(arguments.chromium) as browser:
        folder = Path(name)
        document = {"workspace": str(folder / "ws"), "pipelines": {"images": {"data": {"nominal": "."}}}}
        (folder / "pipelines.yaml").write_text(yaml.safe_dump(document))
        workspace = open_workspace(folder / "pipelines.yaml", {})
        report = folder / "report.html"
        report.write_text(batch_page(deciding), encoding="utf-8")
        added = list(updates(workspace, deciding))
        run_id = monitor_run("images", workspace.tracking, workspace.ledger)
        line = workspace.tracking.artifact(run_id, PAGE, folder)
        empty = folder / "empty.html"
        empty.write_text("<p>Nothing.</p>", encoding="utf-8")
        workspace.tracking.log_text(run_id, empty.read_text(encoding="utf-8"), empty.name)
        workspace.tracking.log_text(run_id, report.read_text(encoding="utf-8"), report.name)
        experiment = workspace.tracking.addresses.run("images", run_id).partition("#")[2].partition("?")[0]
        with served(folder / "ws") as url:
            page = browser.new_page()
            page.goto(f"{url}/#{experiment}/artifacts/{empty.name}")  # MLflow's scripts come into the cache
            page.frame_locator(FRAME).locator("p").wait_for(timeout=SLOWEST)
            page.close()
            pages = [
                opened(browser, path, f"{url}/#{experiment}/artifacts/{path.name}", kind, holds)
                for path, kind, holds in (
                    (empty, "empty", "nothing"),
                    (report, "batch", f"{IMAGES:,} images, {UNREADABLE} unreadable"),
                    (line, "pipeline", f"{HISTORIES[-1]:,} batches"),
                )
            ]
    rows = [
        (one.page, one.holds, f"{one.size / 1e6:.2f}", f"{one.seconds:.2f}", f"{one.in_mlflow:.2f}") for one in pages
    ]
    Console().print(table("First view", ("page", "holds", "MB", "as a file, s", "in MLflow, s"), rows))
    costs = [(f"{one.batches:,}", f"{one.seconds:.2f}") for one in added]
    Console().print(table("One batch more on the time line", ("batches", "seconds"), costs))
    if arguments.output:
        figures = {"pages": [asdict(one) for one in pages], "updates": [asdict(one) for one in added]}
        arguments.output.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
