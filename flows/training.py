"""Training: nominal images in, a detector beside its baseline in MLflow out."""

import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from os.path import commonpath
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from ae_models.baselines import PrincipalComponents, fit_principal_components
from ae_models.code_maps import MappedImages, map_page
from ae_models.corruptions import Corruption, build_corruption
from ae_models.curves import Auroc, auroc, detection_curves
from ae_models.detector import AnyDetector, Detector, FusedDetector
from ae_models.embeddings import best_projection, code_map, coder_of, has_code
from ae_models.errors import InputError
from ae_models.images import ImageSpec, infer_spec, stream
from ae_models.networks import build_network
from ae_models.panels import curves_figure, image_rows, loss_figure
from ae_models.ranks import ALONE, Ranks
from ae_models.scoring import ScoreDesign
from ae_models.selection import with_score
from ae_models.splits import groups_of, near_duplicates, perceptual_hashes, split_by_group
from ae_models.training import Epoch, TrainingResult, TrainingSettings, fit
from flows.choosing import MOST, REAL, LabelledImages, choose, held_out
from flows.config import AutoConfig, PipelineConfig, fingerprint
from flows.fetching import contents_of
from flows.markdown import as_text
from flows.pixels import Decoding, Outcome, file_of, fits, free_memory, of_places, some_of
from flows.pixels import found as found_pixels
from flows.planning import standing
from flows.processes import this_process
from flows.progress import Progress
from flows.requirements import calibration_images_needed, network_parameters, require_enough, require_size
from flows.sources import Found, Item, content_hash, labelled_items, nominal_items
from flows.tracking import Tracking

MAPPED = 600  # images on the map of codes
SHOWN = 8  # images in the sheets of reconstructions
CHOOSERS = "labelled_that_chose.parquet"  # the artifact of a training run by labelled images
ENOUGH_BASELINE = 32  # components of the baseline, as many as the linear network's code


@dataclass(frozen=True)
class ReadImages:
    """Images in memory: the items that could be read, their pixels (N, C, H, W) in [0, 1], and the others' reasons."""

    items: tuple[Item, ...]
    pixels: NDArray[np.float32]
    unreadable: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class TrainingReport:
    """What a training gave; losses are mean squared errors on held-out nominal images.

    Attributes:
        standing: what its calibration images will allow, in one sentence; empty where labels set the threshold.
    """

    pipeline: str
    run_id: str
    run_url: str
    network: str
    image_size: str
    n_training: int
    n_validation: int
    n_calibration: int
    n_unreadable: int
    near_duplicates: int
    epochs: int = 0
    validation_loss: float | None = None
    baseline_loss: float | None = None
    recipes: tuple[str, ...] = ()
    recipes_tried: int = 0
    chosen_by: str = ""
    selection_auroc: Auroc | None = None
    selection_baseline_auroc: Auroc | None = None
    auroc: Auroc | None = None
    baseline_auroc: Auroc | None = None
    standing: str = ""

    def sentences(self) -> tuple[str, ...]:
        """What came out, for people."""
        lines = self._learnt()
        if self.auroc and self.baseline_auroc:
            verdict = "beats" if self.auroc.value > self.baseline_auroc.value else "DOES NOT BEAT"
            lines.append(
                f"On the labelled images its AUROC of {_interval(self.auroc)} {verdict} the "
                f"{_interval(self.baseline_auroc)} of principal components."
            )
        return (*lines, *filter(None, [self.standing]))

    def _learnt(self) -> list[str]:
        if self.validation_loss is not None and self.baseline_loss is not None:
            better = "below" if self.validation_loss < self.baseline_loss else "NOT below"
            return [
                f"{self.network} network on {self.image_size} images: {self.epochs} epochs over {self.n_training} "
                "images.",
                f"Validation error {self.validation_loss:.4g}, {better} the {self.baseline_loss:.4g} of the PCA "
                "baseline.",
            ]
        lines = [
            f"{self.recipes_tried} recipes tried on {self.image_size} images, {self.n_training} to learn from; the "
            f"best are fused: {'; '.join(self.recipes)}."
        ]
        if self.selection_auroc and self.selection_baseline_auroc:
            verdict = "beats" if self.selection_auroc.value > self.selection_baseline_auroc.value else "DOES NOT BEAT"
            lines.append(
                f"On the {self.chosen_by} that chose them their AUROC of {_interval(self.selection_auroc)} {verdict} "
                f"the {_interval(self.selection_baseline_auroc)} of the PCA baseline."
            )
        return lines


def train(
    pipeline: PipelineConfig,
    tracking: Tracking,
    progress: Progress,
    confirmed: Sequence[Item] = (),
    kind: str = "training",
    checkpoints: Path | None = None,
    cache: Path | None = None,
    ranks: Ranks = ALONE,
) -> TrainingReport:
    """Train the pipeline's network on its nominal images and record it in MLflow.

    `confirmed` are further nominal images to learn from, which stay away from early stopping and calibration: people
    confirmed them because of their scores. Those of a group on one of these sides are left out. `kind` is the run's.
    `checkpoints` is a folder for where training stands: what dies goes on there; `cache` is one for decoded images that
    do not fit into memory. `ranks` train together, each with this
    pipeline; the others than the first call `follow`.

    Raises:
        InputError: the images or the configuration do not allow it; said before any training time is spent.
    """
    tracking.end_abandoned(pipeline.name, kind)
    found = nominal_items(pipeline.data)
    images = read_nominal(pipeline, found, progress, cache)
    sides = split(pipeline, images.items)
    if confirmed:
        images, sides = _with_confirmed(images, sides, confirmed, progress)
    if isinstance(pipeline.model, AutoConfig):
        held_out(_training_groups(images, sides), pipeline.training.seed)  # refused now rather than after a start
    labelled = labelled_items(pipeline.data)
    tags = {
        "reconwatch.process": this_process().owner(),
        "reconwatch.configuration": fingerprint(pipeline, "data", "model", "training"),
    }
    with tracking.run(pipeline.name, kind, f"train {pipeline.model.network}", tags) as run_id:
        progress.say(f"Training {pipeline.name}: {tracking.addresses.run(pipeline.name, run_id)}")
        _log_data(pipeline, tracking, run_id, found, images, sides)
        pairs = _log_near_duplicates(tracking, run_id, images, sides, progress)
        learnt = _learn(pipeline, tracking, run_id, images, sides, labelled, progress, checkpoints, ranks)
        learnt = _exported(pipeline, tracking, run_id, learnt, images.pixels[sides["validation"]], progress)
        _log_choosers(tracking, run_id, learnt, labelled)
        aurocs = _log_detection(tracking, run_id, learnt, labelled, progress)
        _log_detector(tracking, run_id, learnt, images.pixels[sides["validation"]])
        _log_code_map(pipeline, tracking, run_id, learnt, images, sides)
    spec = spec_of(images.pixels)
    report = TrainingReport(
        pipeline=pipeline.name,
        run_id=run_id,
        run_url=tracking.addresses.run(pipeline.name, run_id),
        network=pipeline.model.network,
        image_size=f"{spec.height} x {spec.width} x {spec.channels}",
        n_training=len(sides["train"]),
        n_validation=len(sides["validation"]),
        n_calibration=len(sides["calibration"]),
        n_unreadable=len(images.unreadable),
        near_duplicates=pairs,
        auroc=aurocs[0] if aurocs else None,
        baseline_auroc=aurocs[1] if aurocs else None,
        standing=standing(pipeline, len(sides["calibration"])),
    )
    report = replace(report, **learnt.report)
    _log_description(pipeline, tracking, report)
    if checkpoints is not None:
        shutil.rmtree(checkpoints, ignore_errors=True)
    return report


@dataclass(frozen=True)
class Learnt:
    """What learning gave: the detector, its baseline, what the report says of it, and labelled images it was shown."""

    detector: AnyDetector
    baseline: PrincipalComponents
    report: dict[str, Any]
    shown: frozenset[str] = frozenset()


def _learn(
    pipeline: PipelineConfig,
    tracking: Tracking,
    run_id: str,
    images: ReadImages,
    sides: dict[str, NDArray[np.int64]],
    labelled: tuple[Found, NDArray[np.bool_]] | None,
    progress: Progress,
    checkpoints: Path | None,
    ranks: Ranks,
) -> Learnt:
    training, spec = of_places(images.pixels, sides["train"]), spec_of(images.pixels)
    baseline = fit_principal_components(some_of(training, free_memory()), spec, ENOUGH_BASELINE, pipeline.training.seed)
    if not isinstance(pipeline.model, AutoConfig):
        result, baseline_loss = _fit(pipeline, tracking, run_id, images, sides, baseline, progress, checkpoints, ranks)
        plain = Detector(spec, pipeline.model.network, network_parameters(pipeline), result.network)
        design = ScoreDesign(**pipeline.model.score.model_dump())
        detector = with_score(plain, design, images.pixels[sides["validation"]])
        _log_fit(tracking, run_id, result, baseline_loss, len(training))
        losses = {"validation_loss": result.best.validation_loss, "baseline_loss": baseline_loss}
        return Learnt(detector, baseline, {"epochs": len(result.epochs), **losses})
    shown, uris = _labelled_half(labelled, spec, pipeline.training.seed, progress)
    choice = choose(
        pipeline.model,
        (training, _training_groups(images, sides)),
        images.pixels[sides["validation"]],
        shown,
        baseline,
        pipeline.training.seed,
        pipeline.training.device,
        tracking,
        run_id,
        progress,
        checkpoints,
    )
    report = {
        "recipes": choice.chosen,
        "recipes_tried": choice.n_recipes,
        "chosen_by": choice.defects,
        "selection_auroc": choice.auroc,
        "selection_baseline_auroc": choice.baseline_auroc,
    }
    return Learnt(choice.detector, baseline, report, uris if choice.defects == REAL else frozenset())


def _exported(
    pipeline: PipelineConfig,
    tracking: Tracking,
    run_id: str,
    learnt: Learnt,
    held_out: NDArray[np.float32],
    progress: Progress,
) -> Learnt:
    """What was learnt, the detector with its graph for ONNX Runtime, unless PyTorch is to score or has to."""
    if pipeline.engine == "torch":
        return learnt
    from ae_models.graph_export import NotExportable, with_graph  # brings seconds of imports

    try:
        detector = with_graph(learnt.detector, held_out)
    except NotExportable as error:
        progress.warn(f"PyTorch scores the images of {pipeline.name}, more slowly: ONNX Runtime cannot, since {error}")
        return learnt
    assert detector.graph is not None
    tracking.log(run_id, metrics={"graph_difference": detector.graph.difference})
    return replace(learnt, detector=detector)


def _labelled_half(
    labelled: tuple[Found, NDArray[np.bool_]] | None, spec: ImageSpec, seed: int, progress: Progress
) -> tuple[LabelledImages | None, frozenset[str]]:
    """Half of the labelled images, by group, to choose the recipe by; the other half says how good it is."""
    if labelled is None:
        return None, frozenset()
    found, truth = labelled
    groups = _groups(found.items)
    if len(set(groups)) < 2:
        return None, frozenset()
    places = split_by_group(groups, {"shown": 0.5, "kept": 0.5}, seed)["shown"][:MOST]
    items = [found.items[place] for place in places]
    anomalous = {found.items[place].uri: bool(truth[place]) for place in places}
    images = read_images(items, spec, "Reading labelled images", progress)
    labels = tuple(item.label or "anomalous" if anomalous[item.uri] else None for item in images.items)
    return LabelledImages(images.pixels, labels), frozenset(anomalous)


def corruption_of(pipeline: PipelineConfig) -> Corruption | None:
    """What is done to the network's input while it learns; None for nothing."""
    if isinstance(pipeline.model, AutoConfig):
        return None
    wish = pipeline.model.corruption
    return build_corruption(wish.type, wish.model_dump(exclude={"type"})) if wish.type != "none" else None


def read_nominal(pipeline: PipelineConfig, found: Found, progress: Progress, cache: Path | None = None) -> ReadImages:
    """The nominal images, at most `training.max_images` of them drawn by the seed; in memory, or mapped from `cache`.

    Raises:
        InputError: too few of them, or of them readable, for the split and the threshold that is asked for.
    """
    data, training = pipeline.data, pipeline.training
    if found.left_out:
        progress.say(f"Left out {len(found.left_out)} files that are no images by name, such as {found.left_out[0]}.")
    require_enough(pipeline, len(found.items))
    items = found.items
    if len(items) > training.max_images:
        drawn = np.random.default_rng(training.seed).permutation(len(items))[: training.max_images]
        items = tuple(items[index] for index in np.sort(drawn))
        progress.say(f"Using {len(items)} of {len(found.items)} nominal images (training.max_images).")
    inferred = infer_spec([item.content for item in items]) if data.size is None or data.channels is None else None
    height, width = data.size or (inferred.height, inferred.width) if inferred else data.size or (0, 0)
    spec = ImageSpec(height, width, data.channels or (inferred.channels if inferred else 1))
    require_size(pipeline, spec)
    images = read_images(items, spec, "Reading nominal images", progress, cache)
    if images.unreadable:
        uri, reason = images.unreadable[0]
        progress.warn(
            f"{len(images.unreadable)} nominal images cannot be read and are left out; the first: {uri}: {reason}"
        )
    require_enough(pipeline, len(images.items))
    if images.pixels.min() == images.pixels.max():
        raise InputError(f"all {len(images.items)} nominal images are one flat colour: check data.nominal")
    return images


def spec_of(pixels: NDArray[np.float32]) -> ImageSpec:
    """The spec of images (N, C, H, W)."""
    _, channels, height, width = pixels.shape
    return ImageSpec(height, width, channels)


def read_images(
    items: Sequence[Item], spec: ImageSpec, what: str, progress: Progress, cache: Path | None = None
) -> ReadImages:
    """The items' images at the size of `spec`: in memory, or where they do not fit and there is a `cache`, mapped."""
    if cache is None or fits(len(items), spec, free_memory()):
        pixels = np.empty((len(items), *spec.shape), np.float32)
        outcome = _decode(items, spec, pixels, what, progress)
        return _read(items, pixels[: len(outcome.kept)], outcome)
    path = file_of(items, spec, cache)
    known = found_pixels(path, spec)
    if known is None:
        progress.say(f"{len(items):,} images do not fit into memory: they are decoded into {cache}.")
        file = Decoding(path, len(items), spec)
        outcome = _decode(items, spec, file.pixels, what, progress)
        known = file.done(outcome), outcome
    return _read(items, *known)


def _read(items: Sequence[Item], pixels: NDArray[np.float32], outcome: Outcome) -> ReadImages:
    unreadable = tuple((items[place].uri, reason) for place, reason in outcome.unreadable)
    return ReadImages(tuple(items[place] for place in outcome.kept), pixels, unreadable)


def _decode(
    items: Sequence[Item], spec: ImageSpec, pixels: NDArray[np.float32], what: str, progress: Progress
) -> Outcome:
    """Fill `pixels` (len(items), C, H, W) from its beginning with the images that can be read."""
    kept: list[int] = []
    unreadable: list[tuple[int, str]] = []
    with progress.track(what, len(items)) as advance, contents_of(items) as contents:
        for batch in stream(contents, spec):
            start = len(kept)
            pixels[start : start + len(batch.indices)] = batch.pixels
            kept += batch.indices.tolist()
            unreadable += batch.unreadable
            advance(len(batch.indices) + len(batch.unreadable))
    return Outcome(tuple(kept), tuple(unreadable))


def split(pipeline: PipelineConfig, items: Sequence[Item]) -> dict[str, NDArray[np.int64]]:
    """Indices of the items of each side (train, validation, calibration); a group is on one side only."""
    training = pipeline.training
    shares = {
        "train": 1 - training.validation_share - training.calibration_share,
        "validation": training.validation_share,
        "calibration": training.calibration_share,
    }
    return split_by_group(_groups(items), shares, training.seed, {"calibration": calibration_images_needed(pipeline)})


def _with_confirmed(
    images: ReadImages, sides: dict[str, NDArray[np.int64]], confirmed: Sequence[Item], progress: Progress
) -> tuple[ReadImages, dict[str, NDArray[np.int64]]]:
    """The images with the confirmed ones on the side of training, but for those that another side has already."""
    apart = [images.items[place] for side in ("validation", "calibration") for place in sides[side]]
    groups = {item.group for item in apart if item.group is not None}
    hashes, uris = {content_hash(item) for item in apart}, {item.uri for item in images.items}
    usable = [item for item in confirmed if item.group not in groups and item.uri not in uris]
    usable = [item for item in usable if content_hash(item) not in hashes]
    more = read_images(usable, spec_of(images.pixels), "Reading confirmed images", progress)
    start = len(images.items)
    sides = sides | {"train": np.concatenate([sides["train"], np.arange(start, start + len(more.items))])}
    pixels = np.concatenate([images.pixels, more.pixels])
    return ReadImages(images.items + more.items, pixels, images.unreadable + more.unreadable), sides


def _groups(items: Sequence[Item]) -> list[str]:
    """The group of each image, which is its own where none is named; the same wherever the images lie."""
    common = len(commonpath([item.uri for item in items]))
    return [item.group if item.group is not None else item.uri[common:] for item in items]


def _training_groups(images: ReadImages, sides: dict[str, NDArray[np.int64]]) -> list[str]:
    groups = _groups(images.items)
    return [groups[place] for place in sides["train"]]


def _log_data(
    pipeline: PipelineConfig,
    tracking: Tracking,
    run_id: str,
    found: Found,
    images: ReadImages,
    sides: dict[str, NDArray[np.int64]],
) -> None:
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


def _log_near_duplicates(
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


def _fit(
    pipeline: PipelineConfig,
    tracking: Tracking,
    run_id: str,
    images: ReadImages,
    sides: dict[str, NDArray[np.int64]],
    baseline: PrincipalComponents,
    progress: Progress,
    checkpoints: Path | None,
    ranks: Ranks,
) -> tuple[TrainingResult, float]:
    pixels, validation = (of_places(images.pixels, sides[side]) for side in ("train", "validation"))
    spec = spec_of(pixels)
    settings = settings_of(pipeline)
    rival = Detector(spec, "pca", {}, baseline)
    baseline_loss = float(rival.score(validation).mean())
    shown = validation[:SHOWN]

    with progress.track(f"Training {pipeline.model.network}", settings.epochs) as advance:

        def on_epoch(epoch: Epoch, network: nn.Module) -> None:
            metrics = {"loss": epoch.training_loss, "validation_loss": epoch.validation_loss}
            tracking.log(run_id, metrics=metrics, step=epoch.number)
            if epoch.number & (epoch.number - 1) == 0:  # 1, 2, 4, 8, ...: as fast as reconstructions change
                learner = Detector(spec, pipeline.model.network, {}, network, str(next(network.parameters()).device))
                name = f"reconstructions/epoch_{epoch.number:04d}.png"
                tracking.log_picture(run_id, reconstructions(shown, learner, rival), name)
            advance(1, f"validation error {epoch.validation_loss:.4g}")

        def on_resume(epochs: Sequence[Epoch]) -> None:
            progress.say(f"Training of {pipeline.name} goes on after epoch {epochs[-1].number}, where it was stopped.")
            for epoch in epochs:
                metrics = {"loss": epoch.training_loss, "validation_loss": epoch.validation_loss}
                tracking.log(run_id, metrics=metrics, step=epoch.number)
            advance(len(epochs))

        result = fit(
            lambda: build_network(pipeline.model.network, spec, network_parameters(pipeline)),
            pixels,
            validation,
            settings,
            on_epoch,
            corruption_of(pipeline),
            checkpoints and checkpoints / f"{fingerprint(pipeline, 'model')}.pt",
            on_resume,
            ranks,
        )
    return result, baseline_loss


def settings_of(pipeline: PipelineConfig) -> TrainingSettings:
    """How its network is trained."""
    wished = pipeline.training.model_dump()
    return TrainingSettings(**{key: wished[key] for key in wished if key in TrainingSettings.__dataclass_fields__})


def follow(pipeline: PipelineConfig, checkpoints: Path, cache: Path, progress: Progress, ranks: Ranks) -> None:
    """Train with the first of the ranks, which records what comes of it: the same images, split and steps."""
    images = read_nominal(pipeline, nominal_items(pipeline.data), progress, cache)
    sides = split(pipeline, images.items)
    pixels, validation = (of_places(images.pixels, sides[side]) for side in ("train", "validation"))
    fit(
        lambda: build_network(pipeline.model.network, spec_of(pixels), network_parameters(pipeline)),
        pixels,
        validation,
        settings_of(pipeline),
        corruption=corruption_of(pipeline),
        checkpoint=checkpoints / f"{fingerprint(pipeline, 'model')}.pt",
        ranks=ranks,
    )


def reconstructions(shown: NDArray[np.float32], learner: AnyDetector, rival: Detector) -> Image.Image:
    """Images (N, C, H, W), below them what the network makes of them, and what principal components do."""
    rows = {"input": shown, learner.name: learner.reconstruct(shown)}
    return image_rows(rows | {"principal components": rival.reconstruct(shown)})


def _log_fit(tracking: Tracking, run_id: str, result: TrainingResult, baseline_loss: float, n_training: int) -> None:
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


def _log_detector(tracking: Tracking, run_id: str, learnt: Learnt, validation: NDArray[np.float32]) -> None:
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


def _log_code_map(
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


def _log_description(pipeline: PipelineConfig, tracking: Tracking, report: TrainingReport) -> None:
    """What came of it, and where its calibrations are found."""
    found = tracking.addresses.search(pipeline.name, {"training_run": report.run_id})
    lines = [*(f"- {as_text(sentence)}" for sentence in report.sentences()), "", f"[Its calibrations]({found})"]
    tracking.log(report.run_id, tags={"mlflow.note.content": "\n".join(lines)})


def _log_choosers(
    tracking: Tracking, run_id: str, learnt: Learnt, labelled: tuple[Found, NDArray[np.bool_]] | None
) -> None:
    """Which labelled images chose the recipe, where they did: they are no judges of it."""
    chose = [item for item in labelled[0].items if item.uri in learnt.shown] if labelled else []
    if chose:
        rows = [(item.uri, item.group, content_hash(item)) for item in chose]
        tracking.log_table(run_id, pd.DataFrame(rows, columns=["uri", "group", "sha256"]), CHOOSERS)


def _log_detection(
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
    labels = {name: f"{names[name]}: AUROC {_interval(area)}" for name, area in areas.items()}
    curves = {name: detection_curves(value, truth[indices]) for name, value in values.items()}
    tracking.log_picture(run_id, curves_figure(curves, labels), "curves.png")
    metrics: dict[str, float] = {}
    for name, prefix in (("network", ""), ("baseline", "baseline_")):
        metrics |= {f"{prefix}auroc{'' if key == 'value' else '_' + key}": v for key, v in asdict(areas[name]).items()}
        metrics[f"{prefix}average_precision"] = curves[name].average_precision
    tracking.log(run_id, metrics=metrics)
    return areas["network"], areas["baseline"]


def _interval(area: Auroc) -> str:
    return f"{area.value:.3f} ({area.low:.3f} to {area.high:.3f})"
