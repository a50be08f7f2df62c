"""Other libraries' detectors on the same split, each in a virtual environment of its own.

    python -m benchmarks.peers --tiles FOLDER --fashion FOLDER --output peers.json

They are PyOD's AutoEncoder, anomalib's GANomaly and anomalib's PatchCore without pretrained weights. uv makes the
environments, in the versions of `peers.txt`; images and scores are exchanged as npz files. What does not install, fails
or takes too long stands in the table with its reason.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score

from ae_models.curves import Auroc, auroc
from benchmarks.detection_sets import DetectionSet, add_arguments, sets_of

HERE = Path(__file__).parent
ENVIRONMENTS = HERE / ".environments"
INSTALL_SECONDS = 900
PATIENCE = 60  # seconds beyond four times the training time, after which a peer is given up


@dataclass(frozen=True)
class Peer:
    """A detector of another library: its name in tables, what to install, and which settings are not its defaults."""

    title: str
    environment: str
    packages: tuple[str, ...]
    settings: str


PEERS = {
    "pyod-autoencoder": Peer("PyOD AutoEncoder", "pyod", ("pyod", "torch", "tqdm"), "none (10 epochs)"),
    "ganomaly": Peer(
        "anomalib GANomaly",
        "anomalib",
        ("anomalib", "torch", "torchvision"),
        "short side brought to 64 pixels, 100 epochs or as many as the time allows",
    ),
    "patchcore": Peer(
        "anomalib PatchCore, random weights",
        "anomalib",
        ("anomalib", "torch", "torchvision"),
        "backbone resnet18, pre_trained=False, coreset_sampling_ratio=0.01, short side at least 64 pixels",
    ),
}


class PeerUnavailable(RuntimeError):  # noqa: N818 (the name that a caller reads in `except`)
    """A peer gave no scores; the message is one sentence that says why."""


@dataclass(frozen=True, eq=False)
class PeerScores:
    """What a peer made of a set: scores (M,), higher is worse; maps (M, H, W) or None; epochs; seconds."""

    scores: NDArray[np.float64]
    maps: NDArray[np.float32] | None
    epochs: int
    seconds: float


@dataclass(frozen=True)
class PeerRow:
    """One line of the table: what was measured, or the reason why nothing was."""

    data: str
    peer: str
    seed: int
    image_auroc: Auroc | None = None
    pixel_auroc: float | None = None
    epochs: int | None = None
    seconds: float | None = None
    reason: str | None = None


def install(peer: Peer, environments: Path = ENVIRONMENTS) -> Path:
    """The Python of the peer's environment, which is made where it is not there yet.

    Raises:
        PeerUnavailable: uv is absent, or the library does not install here.
    """
    folder = environments / peer.environment
    python = folder / "bin" / "python"
    if (folder / "installed").exists():
        return python
    uv = shutil.which("uv")
    if uv is None:
        raise PeerUnavailable(f"{peer.title} needs uv to make its environment, and uv was not found")
    install_packages = [uv, "pip", "install", "--python", str(python), "--constraints", str(HERE / "peers.txt")]
    for command in ([uv, "venv", "--clear", str(folder)], [*install_packages, *peer.packages]):
        _run(command, INSTALL_SECONDS, f"{peer.title} does not install here")
    (folder / "installed").touch()
    return python


def peer_scores(method: str, data: DetectionSet, python: Path, seed: int, seconds: float) -> PeerScores:
    """The scores that a peer gives the set's test images after learning its training images.

    Args:
        method: a name of `PEERS`.
        data: the set.
        python: of an environment in which the peer is installed.
        seed: of its weights and of the order of the images.
        seconds: after which training stops where it can; after four times as many and a minute it is given up.

    Raises:
        PeerUnavailable: it failed, took too long, or gave scores that are no numbers.
    """
    title = PEERS[method].title
    found = answer(method, data.train_images, data.test_images, python, seed, seconds, f"{title} failed on {data.name}")
    scores = found["scores"].astype(np.float64)
    if not np.isfinite(scores).all():
        raise PeerUnavailable(f"{title} gave scores on {data.name} that are no numbers")
    return PeerScores(scores, found.get("maps"), int(found["epochs"]), float(found["seconds"]))


def answer(
    method: str,
    train: NDArray[np.float32],
    test: NDArray[np.float32],
    python: Path,
    seed: int,
    seconds: float,
    failure: str,
) -> dict[str, Any]:
    """What `peer_worker.py` gives in the peer's environment for images (N, C, H, W) to learn from and to score.

    Raises:
        PeerUnavailable: it failed or took too long; its sentence begins with `failure`.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "images.npz", Path(folder) / "scores.npz"
        np.savez(source, train=train, test=test)
        command = [str(python), str(HERE / "peer_worker.py"), method, str(source), str(target), str(seed), str(seconds)]
        _run(command, 4 * seconds + PATIENCE, failure)
        with np.load(target) as found:
            return dict(found)


def measured(method: str, data: DetectionSet, environments: Path, seed: int, seconds: float) -> PeerRow:
    """The peer's line in the table; a peer that is not available has its reason there."""
    title = PEERS[method].title
    try:
        found = peer_scores(method, data, install(PEERS[method], environments), seed, seconds)
    except PeerUnavailable as error:
        return PeerRow(data.name, title, seed, reason=str(error))
    pixels = None
    if found.maps is not None and data.test_masks is not None:
        pixels = float(roc_auc_score(data.test_masks.ravel(), found.maps.ravel()))
    image_auroc = auroc(found.scores, data.test_labels, data.test_groups)
    return PeerRow(data.name, title, seed, image_auroc, pixels, found.epochs, found.seconds)


def table(rows: Sequence[PeerRow]) -> Table:
    """The lines as a table for people."""
    shown = Table(title="Other libraries on the same split", title_justify="left")
    for column in ("set", "detector", "seed", "image AUROC (95 %)", "pixel AUROC", "epochs", "seconds"):
        shown.add_column(column, no_wrap=column != "image AUROC (95 %)")  # which may hold a reason
    for row in rows:
        if row.image_auroc is None:
            shown.add_row(row.data, row.peer, str(row.seed), row.reason)
            continue
        area = row.image_auroc
        pixels = "" if row.pixel_auroc is None else f"{row.pixel_auroc:.3f}"
        interval = f"{area.value:.3f} ({area.low:.3f} to {area.high:.3f})"
        shown.add_row(row.data, row.peer, str(row.seed), interval, pixels, str(row.epochs), f"{row.seconds:.0f}")
    return shown


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the peers on the sets that are named, print the table, and write it as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=main.__doc__)
    add_arguments(parser)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--seconds", type=float, default=300, help="of training, for each peer, set and seed")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, help="where uv makes the environments")
    parser.add_argument("--output", type=Path, help="a JSON file")
    given = parser.parse_args(arguments)
    rows = []
    for seed in given.seeds:
        for data in sets_of(given, seed):
            for method in given.peers:
                rows.append(measured(method, data, given.environments, seed, given.seconds))
                if given.output is not None:  # after every line: hours of figures outlive an interruption
                    given.output.write_text(json.dumps([asdict(row) for row in rows], indent=2), encoding="utf-8")
    Console(width=None if sys.stdout.isatty() else 160).print(table(rows))


def _run(command: Sequence[str], seconds: float, failure: str) -> None:
    """Run a command whose environment knows nothing of ours; its last line of error is the reason."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise PeerUnavailable(f"{failure}: it took more than {seconds:.0f} seconds") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise PeerUnavailable(f"{failure}: {lines[-1]}")


if __name__ == "__main__":
    main()
