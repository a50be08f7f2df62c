"""The demo: the main job on real images that come with scikit-learn, with damage that is simulated and said to be."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from shlex import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ae_models.errors import InputError
from flows.due import calibration_is_due
from flows.prefect_server import find_server
from flows.progress import Progress
from flows.scoring import BatchReport, due_batches, past_batches
from flows.workspace import Workspace, open_workspace

PIPELINE = "digits"
CONFIGURATION = """\
# The demo's pipeline. Images: handwritten digits that come with scikit-learn; the damage in the inbox is simulated.
pipelines:
  digits:
    data:
      nominal: data/nominal
      inbox: data/inbox
"""
NOMINAL, BATCH = 1200, 150
DAMAGED, BROKEN = 30, 12


def run_demo(folder: Path, progress: Progress, say: Callable[[str], None]) -> Sequence[BatchReport]:
    """Write the images into `folder` where they are not there yet, and run the main job on them as a Prefect flow.

    Raises:
        InputError: `folder` holds something else than a demo.
    """
    path = folder / "pipelines.yaml"
    if path.exists():
        say(f"Found the demo in {folder}: only what is due is done (remove the folder to start over).")
    else:
        write_demo(folder)
        say(
            f"Real: {NOMINAL + 3 * BATCH} handwritten digits that come with scikit-learn (8 x 8 pixels, from UCI). "
            f"Simulated: damage on {DAMAGED} images of batch 2-damaged, and {BROKEN} broken files in 3-unreadable."
        )
    workspace = open_workspace(path)
    if not _is_due(workspace, progress):
        say("Nothing is due, and nothing was scored again. What was found before:")
        return past_batches(workspace, PIPELINE)
    _prefect_of_the_demo(folder, say)
    from flows.flow_record import report_of
    from flows.run import run

    report = report_of(run(str(path.absolute()), PIPELINE, return_state=True))
    if report.failure:
        raise InputError(report.failure) if report.wrong_input else RuntimeError(report.failure)
    for part in (report.training, report.calibration):
        for sentence in part.sentences() if part else ():
            say(sentence)
    return report.batches or past_batches(workspace, PIPELINE)


def _is_due(workspace: Workspace, progress: Progress) -> bool:
    """Whether a run would do anything: asked first, because a Prefect server takes its time to start."""
    pipeline = workspace.settings.pipeline(PIPELINE)
    untrained = workspace.tracking.latest_training(PIPELINE) is None
    if untrained or calibration_is_due(workspace, pipeline) or workspace.ledger.outbox.pending():
        return True
    return bool(due_batches(pipeline, workspace.ledger, progress))


def write_demo(folder: Path) -> None:
    """Images and configuration; whoever is killed meanwhile leaves nothing that looks finished."""
    if (folder / "data").exists():
        raise InputError(
            f"{folder / 'data'} is not the demo's: name another folder, as in 'reconwatch demo new-folder'"
        )
    write_images(folder / ".data")
    (folder / ".data").rename(folder / "data")
    (folder / "pipelines.yaml").write_text(CONFIGURATION, encoding="utf-8")


def write_images(folder: Path) -> None:
    """Nominal digits, and an inbox of three batches: nominal, damaged, and one with unreadable files."""
    digits = _shuffled_digits()
    _write(folder / "nominal", digits[:NOMINAL], 0)
    for number, name in enumerate(("1-nominal", "2-damaged", "3-unreadable")):
        start = NOMINAL + number * BATCH
        batch = digits[start : start + BATCH]
        if name == "2-damaged":
            batch = np.concatenate(
                [np.stack([damage(image, seed) for seed, image in enumerate(batch[:DAMAGED])]), batch[DAMAGED:]]
            )
        _write(folder / "inbox" / name, batch, start)
    broken = sorted((folder / "inbox" / "3-unreadable").iterdir())[:BROKEN]
    for number, path in enumerate(broken):
        content = path.read_bytes()
        path.write_bytes([content[: len(content) // 2], b"", b"no image at all"][number % 3])


def damage(image: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """The image (8, 8) with one simulated fault: a scratch across it, or a spot of the opposite brightness."""
    random, damaged = np.random.default_rng(seed), image.copy()
    if seed % 2:
        row, slope = random.integers(1, 7), random.choice([-0.5, 0.0, 0.5])
        for column in range(8):
            damaged[int(np.clip(row + slope * (column - 4), 0, 7)), column] = 255
    else:
        top, left = random.integers(0, 6, size=2)
        damaged[top : top + 3, left : left + 3] = 255 - damaged[top : top + 3, left : left + 3]
    return damaged


def _shuffled_digits() -> NDArray[np.uint8]:
    from sklearn.datasets import load_digits

    images = (load_digits().images * 255 / 16).astype(np.uint8)  # 0 to 16 as stored
    shuffled: NDArray[np.uint8] = images[np.random.default_rng(0).permutation(len(images))]
    return shuffled


def _write(folder: Path, images: NDArray[np.uint8], first: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images, first):
        Image.fromarray(image).save(folder / f"digit-{number:04d}.png")


def _prefect_of_the_demo(folder: Path, say: Callable[[str], None]) -> None:
    """Without a Prefect server at hand, let Prefect start one of its own, with its files in the demo's folder."""
    server = find_server(os.environ)
    if server.url is not None:
        say(f"Prefect: the server at {server.url} records the flow run.")
        return
    for name in ("PREFECT_API_URL", "PREFECT_PROFILE"):
        os.environ.pop(name, None)
    home = (folder / ".reconwatch" / "prefect").absolute()
    home.mkdir(parents=True, exist_ok=True)
    os.environ |= {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL": "INFO",
    }
    say(
        f"Prefect: {server.reason}, so the demo starts one that ends with it (half a minute on a small machine). "
        f"To see its flow run later: PREFECT_HOME={quote(str(home))} prefect server start"
    )
