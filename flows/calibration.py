"""Calibration: the newest detector and nominal images it never saw in, a champion in MLflow out."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ae_models.calibration import (
    Cost,
    Criterion,
    FalseAlarmRate,
    FScore,
    Recall,
    Threshold,
    conformal_threshold,
    labelled_threshold,
)
from ae_models.certificate import Certificate, certify, installed_versions
from ae_models.champion import Champion
from ae_models.curves import OperatingPoint, detection_curves
from ae_models.detector import AnyDetector, by_engine
from ae_models.errors import InputError
from ae_models.images import stream
from ae_models.panels import curves_figure, score_histogram
from ae_models.training import choose_device
from flows.config import (
    ConformalThreshold,
    LabelledCost,
    LabelledFalseAlarmRate,
    LabelledFScore,
    LabelledRecall,
    PipelineConfig,
    fingerprint,
)
from flows.fetching import contents_of
from flows.ledger import utc_now
from flows.planning import standing
from flows.processes import this_process
from flows.progress import Progress
from flows.sources import Item, content_hash, labelled_items, nominal_items
from flows.tracking import CHALLENGER, CHAMPION, Tracking, TrainedRun
from flows.training_record import CHOOSERS


@dataclass(frozen=True)
class CalibrationReport:
    """What a calibration gave: the version that now decides batches, its threshold, and what that allows.

    Attributes:
        role: "champion", or "challenger" of a version that decides none.
    """

    pipeline: str
    version: str
    run_id: str
    run_url: str
    threshold: Threshold
    n_unreadable: int
    n_chose: int  # labelled images that took no part, since they chose the recipe
    standing: str
    role: str = CHAMPION

    def sentences(self) -> tuple[str, ...]:
        """What came out, for people."""
        lines = (f"Version {self.version} is {self.role} of {self.pipeline}.", *self.threshold.sentences())
        return (*lines, *filter(None, [_left_out(self.n_chose), self.standing]))


@dataclass(frozen=True)
class Scored:
    """Items with their scores (N,) float64; those that could not be read are in `unreadable` alone."""

    items: tuple[Item, ...]
    scores: NDArray[np.float64]
    places: NDArray[np.int64]
    unreadable: tuple[tuple[str, str], ...]


def calibrate(
    pipeline: PipelineConfig, tracking: Tracking, progress: Progress, clock: Callable[[], datetime] = utc_now
) -> CalibrationReport:
    """Find the pipeline's threshold and let the newest detector, or the one that decides since, decide with it.

    Raises:
        InputError: nothing was trained yet, or too few images are left to calibrate on.
    """
    training = detector_to_calibrate(pipeline, tracking)
    if training is None:
        raise InputError(
            f"pipeline {pipeline.name!r} has no trained detector yet: run 'reconwatch train {pipeline.name}'"
        )
    return calibrate_detector(pipeline, training, tracking, progress, clock)


def calibrate_detector(
    pipeline: PipelineConfig,
    training: TrainedRun,
    tracking: Tracking,
    progress: Progress,
    clock: Callable[[], datetime] = utc_now,
    role: str = CHAMPION,
) -> CalibrationReport:
    """Find the threshold of a detector and register both, as champion or as challenger.

    Raises:
        InputError: too few images are left to calibrate on.
    """
    tracking.end_abandoned(pipeline.name, "calibration")
    trained = tracking.registry.detector(training.run_id)
    detector = by_engine(trained.on(choose_device(pipeline.training.device)), pipeline.engine)
    items = calibration_items(pipeline, tracking, training)
    labelled, n_chose = judging_items(pipeline, tracking, training)
    tags = {
        "reconwatch.process": this_process().owner(),
        "reconwatch.training_run": training.run_id,
        "reconwatch.configuration": fingerprint(pipeline, "data", "threshold"),
    }
    with tracking.run(pipeline.name, "calibration", f"calibrate {pipeline.threshold.method}", tags) as run_id:
        nominal = score_items(detector, items, "Scoring calibration images", progress)
        rated = score_items(detector, labelled[0], "Scoring labelled images", progress) if labelled else None
        truth = labelled[1][rated.places] if labelled and rated else None
        threshold = find_threshold(pipeline, nominal.scores, rated, truth, n_chose)
        images = [(item.uri, content_hash(item)) for item in nominal.items]
        seed, versions = pipeline.training.seed, installed_versions()
        certificate = certify(detector, threshold, nominal.scores, images, seed, clock(), versions)
        champion = Champion(trained.on(choose_device("cpu")), threshold, nominal.scores, certificate)
        _log_calibration(tracking, run_id, threshold, certificate, nominal, rated, truth, n_chose)
        version = _register(pipeline, tracking, run_id, training, champion)
        if role == CHALLENGER:
            tracking.registry.challenge(pipeline.name, version)
        else:
            tracking.registry.promote(pipeline.name, version)
    if nominal.unreadable:
        progress.warn(f"{len(nominal.unreadable)} calibration images could not be read: {nominal.unreadable[0][1]}")
    return CalibrationReport(
        pipeline.name,
        version,
        run_id,
        tracking.addresses.run(pipeline.name, run_id),
        threshold,
        len(nominal.unreadable),
        n_chose,
        standing(pipeline, threshold.n_nominal),
        role,
    )


def detector_to_calibrate(pipeline: PipelineConfig, tracking: Tracking) -> TrainedRun | None:
    """The newest training that no calibration ended for; else that of the champion, which people may have changed."""
    newest, champion = tracking.latest_training(pipeline.name), tracking.registry.champion_version(pipeline.name)
    if newest is None or champion is None or not tracking.is_calibrated(pipeline.name, newest.run_id):
        return newest
    return tracking.training(champion[1]["reconwatch.training_run"])


def calibration_items(pipeline: PipelineConfig, tracking: Tracking, training: TrainedRun) -> tuple[Item, ...]:
    """The nominal images that are there now and that training did not see: not by name, content or group."""
    with tempfile.TemporaryDirectory() as folder:
        table = pd.read_parquet(tracking.artifact(training.run_id, "data/splits.parquet", Path(folder)))
    seen = table[table["side"] != "calibration"]
    uris, hashes, groups = set(seen["uri"]), set(seen["sha256"]), set(seen["group"].dropna())
    known = dict(zip(table["uri"], table["sha256"], strict=True))
    found = nominal_items(pipeline.data)
    unseen = [item for item in found.items if item.uri not in uris and item.group not in groups]
    unseen = [item for item in unseen if known.get(item.uri, "") or content_hash(item) not in hashes]
    if not unseen:
        raise InputError(
            f"all {len(found.items)} nominal images of pipeline {pipeline.name!r} were seen in training: run "
            f"'reconwatch train {pipeline.name}', which sets some aside, or add new ones"
        )
    return tuple(unseen[: pipeline.training.max_images])


def learnt_uris(tracking: Tracking, training_run: str) -> frozenset[str]:
    """The addresses of the images that a training learnt from, or stopped by."""
    with tempfile.TemporaryDirectory() as folder:
        table = pd.read_parquet(tracking.artifact(training_run, "data/splits.parquet", Path(folder)))
    return frozenset(table.loc[table["side"] != "calibration", "uri"])


def judging_items(
    pipeline: PipelineConfig, tracking: Tracking, training: TrainedRun
) -> tuple[tuple[tuple[Item, ...], NDArray[np.bool_]] | None, int]:
    """The labelled images that did not choose the recipe, with which of them are anomalous; and how many did.

    Not by name, content or group. None where there are no labelled images, or none that are left.
    """
    labelled = labelled_items(pipeline.data)
    if labelled is None:
        return None, 0
    items, truth = labelled[0].items, labelled[1]
    if CHOOSERS not in tracking.artifact_names(training.run_id):
        return (items, truth), 0
    with tempfile.TemporaryDirectory() as folder:
        table = pd.read_parquet(tracking.artifact(training.run_id, CHOOSERS, Path(folder)))
    uris, hashes, groups = set(table["uri"]), set(table["sha256"]), set(table["group"].dropna())
    kept = [item.uri not in uris and item.group not in groups and content_hash(item) not in hashes for item in items]
    judging = tuple(item for item, judges in zip(items, kept, strict=True) if judges)
    return (judging, truth[kept]) if judging else None, len(items) - len(judging)


def score_items(detector: AnyDetector, items: Sequence[Item], what: str, progress: Progress) -> Scored:
    """The scores of the items that can be read."""
    scores, places, unreadable = [np.empty(0)], [np.empty(0, np.int64)], []
    with progress.track(what, len(items)) as advance, contents_of(items) as contents:
        for batch in stream(contents, detector.spec):
            scores.append(detector.score(batch.pixels))
            places.append(batch.indices)
            unreadable += [(items[index].uri, reason) for index, reason in batch.unreadable]
            advance(len(batch.indices) + len(batch.unreadable))
    kept = np.concatenate(places)
    return Scored(tuple(items[index] for index in kept), np.concatenate(scores), kept, tuple(unreadable))


def find_threshold(
    pipeline: PipelineConfig,
    nominal_scores: NDArray[np.float64],
    labelled: Scored | None,
    anomalous: NDArray[np.bool_] | None,
    n_chose: int = 0,
) -> Threshold:
    """The threshold that the pipeline asks for, from nominal scores (n,) and, where asked for, labelled ones.

    `n_chose` more labelled images take no part, since they chose the recipe.

    Raises:
        InputError: too few scores, or labels asked for and not there.
    """
    wish = pipeline.threshold
    if isinstance(wish, ConformalThreshold):
        return conformal_threshold(nominal_scores, wish.false_alarm_rate, wish.confidence)
    if labelled is None or anomalous is None:
        more = "label images that did not choose the recipe" if n_chose else f"add data.labelled to {pipeline.name!r}"
        raise InputError(f"threshold.method {wish.method!r} needs labels: {more}")
    groups = [item.group or item.uri for item in labelled.items]
    seed = pipeline.training.seed
    try:
        return labelled_threshold(
            labelled.scores, anomalous, _criterion(wish), groups, seed, calibration_scores=nominal_scores
        )
    except InputError as error:
        raise InputError(" ".join(filter(None, [str(error), _left_out(n_chose)]))) from error


def _left_out(n_chose: int) -> str:
    if not n_chose:
        return ""
    return f"{n_chose} labelled images took no part, since they chose the recipe."


def _criterion(wish: LabelledFalseAlarmRate | LabelledRecall | LabelledFScore | LabelledCost) -> Criterion:
    match wish:
        case LabelledFalseAlarmRate():
            return FalseAlarmRate(wish.target)
        case LabelledRecall():
            return Recall(wish.target)
        case LabelledFScore():
            return FScore(wish.beta)
        case LabelledCost():
            return Cost(wish.false_alarm, wish.miss)


def _log_calibration(
    tracking: Tracking,
    run_id: str,
    threshold: Threshold,
    certificate: Certificate,
    nominal: Scored,
    labelled: Scored | None,
    anomalous: NDArray[np.bool_] | None,
    n_chose: int,
) -> None:
    table = pd.DataFrame({"uri": [item.uri for item in nominal.items], "score": nominal.scores, "set": "calibration"})
    groups = {"nominal, calibration": nominal.scores}
    if labelled is not None and anomalous is not None:
        groups |= {
            "nominal, labelled": labelled.scores[~anomalous],
            "anomalous, labelled": labelled.scores[anomalous],
        }
        names = np.where(anomalous, "anomalous", "nominal")
        more = pd.DataFrame({"uri": [item.uri for item in labelled.items], "score": labelled.scores, "set": names})
        table = pd.concat([table, more], ignore_index=True)
    tracking.log_table(run_id, table, "scores.parquet")
    tracking.log_picture(run_id, score_histogram(groups, threshold.value), "scores.png")
    tracking.log_text(run_id, certificate.to_json(), "certificate.json")
    low, high = threshold.false_alarm_band
    metrics = {
        "threshold": threshold.value,
        "false_alarm_rate": threshold.false_alarm_rate,
        "false_alarm_rate_low": low,
        "false_alarm_rate_high": high,
    }
    if threshold.recall is not None and threshold.false_alarms is not None:
        metrics |= {"labelled_recall": threshold.recall.value}
        metrics |= {"labelled_false_alarm_rate": threshold.false_alarms.value}
    elif labelled is not None and anomalous is not None:
        flags = threshold.flags(labelled.scores)
        for name, those in (("labelled_recall", anomalous), ("labelled_false_alarm_rate", ~anomalous)):
            metrics |= {name: float(flags[those].mean())} if those.any() else {}
    if labelled is not None and anomalous is not None and anomalous.any() and not anomalous.all():
        at = OperatingPoint.of(threshold.value, threshold.flags(labelled.scores), anomalous)
        curves, words = detection_curves(labelled.scores, anomalous), f"{len(anomalous):,} labelled images"
        tracking.log_picture(run_id, curves_figure({"detector": curves}, {"detector": words}, at), "curves.png")
    sentences = filter(None, (*threshold.sentences(), _left_out(n_chose), *certificate.sentences()))
    description = "\n".join(f"- {sentence}" for sentence in sentences)
    tracking.log(
        run_id,
        params={
            "threshold.method": threshold.method,
            "threshold.target": threshold.target,
            "threshold.rank": threshold.rank,
            "images.nominal": threshold.n_nominal,
            "images.anomalous": threshold.n_anomalous,
            "images.labelled_that_chose": n_chose,
            "images.unreadable": len(nominal.unreadable),
        },
        metrics=metrics,
        tags={"mlflow.note.content": description},
    )


def _register(
    pipeline: PipelineConfig, tracking: Tracking, run_id: str, training: TrainedRun, champion: Champion
) -> str:
    threshold = champion.threshold
    tags = {
        "reconwatch.training_run": training.run_id,
        "reconwatch.calibration_run": run_id,
        "threshold": f"{threshold.value:.6g}",
        "threshold.method": threshold.method,
    }
    version = tracking.registry.register(pipeline.name, run_id, champion, tags)
    tracking.registry.describe(pipeline.name, version, version_description(pipeline, tracking, version, tags, champion))
    return version


def version_description(
    pipeline: PipelineConfig, tracking: Tracking, version: str, tags: Mapping[str, str], champion: Champion
) -> str:
    """The version's page in Markdown: what it promises, what it was made of, and what it decided."""
    name, training = pipeline.name, tags["reconwatch.training_run"]
    others = tracking.addresses.search(name, {"kind": "calibration", "training_run": training})
    batches = tracking.addresses.search(name, {"kind": "batch", "version": version})
    trained = f"[the training run]({tracking.addresses.run(name, training)})"
    calibrated = f"[the calibration run]({tracking.addresses.run(name, tags['reconwatch.calibration_run'])})"
    lines = [
        f"Detector of {trained} with the threshold of {calibrated}. [All calibrations of this detector]({others}). "
        f"**[The batches that it decided]({batches})**",
        "",
        *(f"- {sentence}" for sentence in champion.threshold.sentences()),
        "",
        "**Certificate**",
        "",
        *(f"- {sentence}" for sentence in champion.certificate.sentences()),
    ]
    return "\n".join(lines)
