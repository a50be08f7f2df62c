"""What stands in MLflow of a training."""

import hashlib
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from ae_models.baselines import PrincipalComponents
from ae_models.code_maps import MappedImages, map_page
from ae_models.curves import Auroc, auroc, detection_curves
from ae_models.detector import AnyDetector, Detector, FusedDetector
from ae_models.embeddings import best_projection, code_map, coder_of, has_code
from ae_models.images import stream
from ae_models.panels import curves_figure, image_rows, loss_figure
from ae_models.splits import groups_of, near_duplicates, perceptual_hashes
from ae_models.training import TrainingResult
from flows.config import PipelineConfig
from flows.fetching import contents_of
from flows.markdown import as_text
from flows.progress import Progress
from flows.sources import Found, content_hash
from flows.tracking import Tracking
from flows.training_images import ReadImages
from flows.training_report import TrainingReport, interval

MAPPED = 600  # images on the map of codes
SHOWN = 8  # images in the sheets of reconstructions
CHOOSERS = "labelled_that_chose.parquet"  # the artifact of a training run by labelled images


@dataclass(frozen=True)
class Learnt:
    """What learning gave: the detector, its baseline, what the report says of it, and labelled images it was shown."""

    detector: AnyDetector
    baseline: PrincipalComponents
    report: dict[str, Any]
    shown: frozenset[str] = frozenset()


def log_data(
    pipeline: PipelineConfig,
    tracking: Tracking,
    run_id: str,
    found: Found,
    images: ReadImages,
    sides: dict[str, NDArray[np.int64]],
) -> None:
    """The images by side, group and hash; how many of each, and the settings that training goes by."""
    side_of = np.empty(len(images.items), dtype=object)
    for side, indices in sides.items():
        side_of[indices] = side
    table = pd.DataFrame(
        {
            "uri": [item.uri for item in images.items],
            "side": side_of.astype(str),
            "group": [item.group for item in images.items],
            "sha256": [content_hash(item) for item in images.items],
        }
    )
    tracking.log_table(run_id, table, "data/splits.parquet")
    if images.unreadable:
        tracking.log_table(run_id, pd.DataFrame(images.unreadable, columns=["uri", "reason"]), "data/unreadable.csv")
    digest = hashlib.sha256("".join(sorted(table["sha256"])).encode()).hexdigest()
    counts = {side: len(indices) for side, indices in sides.items()}
    tracking.log_data(run_id, f"{pipeline.name} nominal", digest, str(found.items[0].uri), counts)
    _, channels, height, width = images.pixels.shape
    tracking.log(
        run_id,
        params={
            **{f"model.{key}": value for key, value in pipeline.model.model_dump(mode="json").items()},
            **{f"training.{key}": value for key, value in pipeline.training.model_dump(mode="json").items()},
            **{f"images.{side}": count for side, count in counts.items()},
            "images.unreadable": len(images.unreadable),
            "images.groups": int(table["group"].nunique()),
            "images.size": f"{height} x {width} x {channels}",
            "data.sha256": digest,
        },
    )


def log_near_duplicates(
    tracking: Tracking, run_id: str, images: ReadImages, sides: dict[str, NDArray[np.int64]], progress: Progress
) -> int:
    """Say which near-duplicates fall on both sides of the split; record the groups that would keep them together."""
    with progress.track("Looking for near-duplicates", len(images.pixels)) as advance:
        pairs = near_duplicates(perceptual_hashes(images.pixels), advance=advance)
    side_of = np.empty(len(images.items), dtype=object)
    for side, indices in sides.items():
        side_of[indices] = side
    across = [pair for pair in pairs if side_of[pair.first] != side_of[pair.second]]
    if not across:
        return 0
    members = groups_of(pairs, len(images.items))
    paths = [item.uri for item in images.items]
    table = pd.DataFrame({"path": paths, "group": [f"g{number}" for number in members], "side": side_of.astype(str)})
    tracking.log_table(run_id, table, "data/groups.csv")
    first, second = (Path(images.items[index].uri).name for index in (across[0].first, across[0].second))
    progress.warn(
        f"{len(across)} pairs of near-duplicate nominal images fall on both sides of the split, such as {first} and "
        f"{second}, so that the threshold may be too low: the run's data/groups.csv holds groups that keep them "
        "together; use it as data.nominal with data.group: group"
    )
    return len(across)


def log_fit(tracking: Tracking, run_id: str, result: TrainingResult, baseline_loss: float, n_training: int) -> None:
    tracking.log_picture(run_id, loss_figure(result.epochs, baseline_loss), "losses.png")
    tracking.log(
        run_id,
        params={"device": result.device, "parameters": sum(p.numel() for p in result.network.parameters())},
        metrics={
            "best_epoch": result.best.number,
            "best_validation_loss": result.best.validation_loss,
            "baseline_validation_loss": baseline_loss,
            "training_seconds": result.epochs[-1].seconds,
            "images_per_second": len(result.epochs) * n_training / max(result.epochs[-1].seconds, 1e-9),
        },
    )


def log_detector(tracking: Tracking, run_id: str, learnt: Learnt, validation: NDArray[np.float32]) -> None:
    """The detector, and what it makes of a few held-out images."""
    detector = learnt.detector
    with tempfile.TemporaryDirectory() as folder:
        detector.save(Path(folder))
        tracking.log_folder(run_id, Path(folder), "detector")
    shown = validation[:SHOWN]
    if isinstance(detector, FusedDetector):  # principal components reconstruct for people
        sheet = image_rows({"input": shown, "principal components": detector.reconstruct(shown)})
    else:
        sheet = reconstructions(shown, detector, Detector(detector.spec, "pca", {}, learnt.baseline))
    tracking.log_picture(run_id, sheet, "reconstructions/best.png")


def log_code_map(
    pipeline: PipelineConfig,
    tracking: Tracking,
    run_id: str,
    learnt: Learnt,
    images: ReadImages,
    sides: dict[str, NDArray[np.int64]],
) -> None:
    """The map of the codes of nominal images, those that the network learnt from and others, where it has codes."""
    detector = learnt.detector.illustrator if isinstance(learnt.detector, FusedDetector) else learnt.detector
    if not has_code(detector.network):
        return
    kinds = {"train": "learnt from", "validation": "held out", "calibration": "held out"}
    kind_of = np.empty(len(images.items), dtype=object)
    for side, places in sides.items():
        kind_of[places] = kinds[side]
    random = np.random.default_rng(pipeline.training.seed)
    kept = np.sort(random.permutation(len(images.items))[:MAPPED])
    pixels = images.pixels[kept]
    codes = coder_of(detector.network, detector.spec).encode(pixels)
    drawn = code_map(codes, None, best_projection(), pipeline.training.seed)
    uris, scores = [images.items[place].uri for place in kept], learnt.detector.score(pixels)
    mapped = MappedImages(uris, kind_of[kept].tolist(), scores, None, pixels)
    title = f"{pipeline.name}: codes of nominal images, by {drawn.method}"
    tracking.log_text(run_id, map_page(drawn, mapped, title), "codes.html")


def log_description(pipeline: PipelineConfig, tracking: Tracking, report: TrainingReport) -> None:
    """What came of it, and where its calibrations are found."""
    found = tracking.addresses.search(pipeline.name, {"training_run": report.run_id})
    lines = [*(f"- {as_text(sentence)}" for sentence in report.sentences()), "", f"[Its calibrations]({found})"]
    tracking.log(report.run_id, tags={"mlflow.note.content": "\n".join(lines)})


def log_choosers(
    tracking: Tracking, run_id: str, learnt: Learnt, labelled: tuple[Found, NDArray[np.bool_]] | None
) -> None:
    """Which labelled images chose the recipe, where they did: they are no judges of it."""
    chose = [item for item in labelled[0].items if item.uri in learnt.shown] if labelled else []
    if chose:
        rows = [(item.uri, item.group, content_hash(item)) for item in chose]
        tracking.log_table(run_id, pd.DataFrame(rows, columns=["uri", "group", "sha256"]), CHOOSERS)


def log_detection(
    tracking: Tracking,
    run_id: str,
    learnt: Learnt,
    labelled: tuple[Found, NDArray[np.bool_]] | None,
    progress: Progress,
) -> tuple[Auroc, Auroc] | None:
    """AUROC of the detector and of the baseline on the labelled images, where there are some, and their curves.

    Labelled images that chose the recipe are left out.
    """
    if labelled is None:
        return None
    places = [place for place, item in enumerate(labelled[0].items) if item.uri not in learnt.shown]
    items, truth = [labelled[0].items[place] for place in places], labelled[1][places]
    if truth.all() or not truth.any():
        return None
    detector = learnt.detector
    scores: dict[str, list[NDArray[np.float64]]] = {"network": [], "baseline": []}
    kept: list[NDArray[np.int64]] = []
    rival = Detector(detector.spec, "pca", {}, learnt.baseline)
    with progress.track("Scoring labelled images", len(items)) as advance, contents_of(items) as contents:
        for batch in stream(contents, detector.spec):
            kept.append(batch.indices)
            scores["network"].append(detector.score(batch.pixels))
            scores["baseline"].append(rival.score(batch.pixels))
            advance(len(batch.indices) + len(batch.unreadable))
    indices = np.concatenate(kept)
    groups = [items[index].group or items[index].uri for index in indices]
    values = {name: np.concatenate(parts) for name, parts in scores.items()}
    areas = {name: auroc(value, truth[indices], groups) for name, value in values.items()}
    names = {"network": detector.name, "baseline": "principal components"}
    labels = {name: f"{names[name]}: AUROC {interval(area)}" for name, area in areas.items()}
    curves = {name: detection_curves(value, truth[indices]) for name, value in values.items()}
    tracking.log_picture(run_id, curves_figure(curves, labels), "curves.png")
    metrics: dict[str, float] = {}
    for name, prefix in (("network", ""), ("baseline", "baseline_")):
        metrics |= {f"{prefix}auroc{'' if key == 'value' else '_' + key}": v for key, v in asdict(areas[name]).items()}
        metrics[f"{prefix}average_precision"] = curves[name].average_precision
    tracking.log(run_id, metrics=metrics)
    return areas["network"], areas["baseline"]


def reconstructions(shown: NDArray[np.float32], learner: AnyDetector, rival: Detector) -> Image.Image:
    """Images (N, C, H, W), below them what the network makes of them, and what principal components do."""
    rows = {"input": shown, learner.name: learner.reconstruct(shown)}
    return image_rows(rows | {"principal components": rival.reconstruct(shown)})
