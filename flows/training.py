"""Training: nominal images in, a detector beside its baseline in MLflow out."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ae_models.baselines import PrincipalComponents, fit_principal_components
from ae_models.corruptions import Corruption, build_corruption
from ae_models.detector import Detector
from ae_models.errors import InputError
from ae_models.images import ImageSpec
from ae_models.networks import build_network
from ae_models.ranks import ALONE, Ranks
from ae_models.scoring import ScoreDesign
from ae_models.selection import with_score
from ae_models.splits import split_by_group
from ae_models.training import Epoch, TrainingResult, TrainingSettings, fit
from flows.choosing import MOST, REAL, LabelledImages, choose, held_out
from flows.config import AutoConfig, PipelineConfig, fingerprint
from flows.pixels import free_memory, of_places, some_of
from flows.planning import standing
from flows.processes import this_process
from flows.progress import Progress
from flows.requirements import network_parameters
from flows.sources import Found, Item, labelled_items, nominal_items
from flows.tracking import Tracking
from flows.training_images import (
    ReadImages,
    group_names,
    read_images,
    read_nominal,
    spec_of,
    split,
    training_groups,
    with_confirmed,
)
from flows.training_record import (
    SHOWN,
    Learnt,
    log_choosers,
    log_code_map,
    log_data,
    log_description,
    log_detection,
    log_detector,
    log_fit,
    log_near_duplicates,
    reconstructions,
)
from flows.training_report import TrainingReport

ENOUGH_BASELINE = 32  # components of the baseline, as many as the linear network's code


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
    sides = split(pipeline, images)
    if confirmed:
        images, sides = with_confirmed(images, sides, confirmed, progress)
    if isinstance(pipeline.model, AutoConfig):
        held_out(training_groups(images, sides), pipeline.training.seed)  # refused now rather than after a start
    labelled = labelled_items(pipeline.data)
    tags = {
        "reconwatch.process": this_process().owner(),
        "reconwatch.configuration": fingerprint(pipeline, "data", "model", "training"),
    }
    with tracking.run(pipeline.name, kind, f"train {pipeline.model.network}", tags) as run_id:
        progress.say(f"Training {pipeline.name}: {tracking.addresses.run(pipeline.name, run_id)}")
        log_data(pipeline, tracking, run_id, found, images, sides)
        pairs = log_near_duplicates(tracking, run_id, images, sides, progress)
        learnt = _learn(pipeline, tracking, run_id, images, sides, labelled, progress, checkpoints, ranks)
        learnt = _exported(pipeline, tracking, run_id, learnt, images.pixels[sides["validation"]], progress)
        if pipeline.engine == "int8":
            learnt = _in_int8(pipeline, tracking, run_id, learnt, images, sides, progress)
        log_choosers(tracking, run_id, learnt, labelled)
        aurocs = log_detection(tracking, run_id, learnt, labelled, progress)
        log_detector(tracking, run_id, learnt, images.pixels[sides["validation"]])
        log_code_map(pipeline, tracking, run_id, learnt, images, sides)
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
    log_description(pipeline, tracking, report)
    if checkpoints is not None:
        shutil.rmtree(checkpoints, ignore_errors=True)
    return report


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
        log_fit(tracking, run_id, result, baseline_loss, len(training))
        losses = {"validation_loss": result.best.validation_loss, "baseline_loss": baseline_loss}
        return Learnt(detector, baseline, {"epochs": len(result.epochs), **losses})
    shown, uris = _labelled_half(labelled, spec, pipeline.training.seed, progress)
    choice = choose(
        pipeline.model,
        (training, training_groups(images, sides)),
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


def _in_int8(
    pipeline: PipelineConfig,
    tracking: Tracking,
    run_id: str,
    learnt: Learnt,
    images: ReadImages,
    sides: dict[str, NDArray[np.int64]],
    progress: Progress,
) -> Learnt:
    """What was learnt, the detector's networks in 8-bit integers, where these are found to detect as well."""
    if learnt.detector.graph is None:
        return learnt  # said already
    from ae_models.graph_export import NotExportable
    from ae_models.int8 import RANGED, STEPS, with_int8

    train = sides["train"]
    ranged = images.pixels[train[:: -(-len(train) // RANGED)]]
    held_out, seed = images.pixels[sides["validation"]], pipeline.training.seed
    try:
        with progress.track("Comparing 8-bit integers with floats", STEPS) as advance:
            detector, compared = with_int8(learnt.detector, ranged, held_out, seed, advance)
    except (NotExportable, InputError) as error:
        progress.warn(f"Floats score the images of {pipeline.name}: 8-bit integers cannot, since {error}")
        return learnt
    tracking.log(run_id, metrics=compared.metrics())
    if compared.fault is not None:
        progress.warn(f"Floats score the images of {pipeline.name}: with 8-bit integers {compared.fault}")
        return learnt
    return replace(learnt, detector=detector, report=learnt.report | {"int8": compared.sentence()})


def _labelled_half(
    labelled: tuple[Found, NDArray[np.bool_]] | None, spec: ImageSpec, seed: int, progress: Progress
) -> tuple[LabelledImages | None, frozenset[str]]:
    """Half of the labelled images, by group, to choose the recipe by; the other half says how good it is."""
    if labelled is None:
        return None, frozenset()
    found, truth = labelled
    groups = group_names(found.items)
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
    sides = split(pipeline, images)
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
