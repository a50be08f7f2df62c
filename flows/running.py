"""What is due, done in its order: train, calibrate, score, tell.

What only one of them needs is imported by it: scoring is quicker without the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from ae_models.errors import InputError
from ae_models.ranks import ALONE, Ranks
from ae_models.training import choose_device
from flows.alerts import DeliveryReport
from flows.channels import send_due
from flows.channels_email import no_picture
from flows.config import PipelineConfig
from flows.config_runner import DaskRunner, RayRunner
from flows.deciding_champion import deciding_champion, last_champion
from flows.delivery import deliver_runs
from flows.due import calibration_is_due, changes_since_training
from flows.heap import leave_old_objects_alone
from flows.inbox import due_batches
from flows.monitor import update_monitor
from flows.progress import Progress
from flows.review_queue import let_reviewers_in, make_missing_queues, read_answers, retire_queues
from flows.scoring import BatchReport, score_and_record
from flows.shadow import challenger_of, score_in_shadow
from flows.shards import RunShards, sharding_of
from flows.sources import Batch, path_batches
from flows.torchrun import together
from flows.tracking import ChampionVersion
from flows.watchdog import begin_run, end_run, look_after
from flows.words import reason_of
from flows.workspace import Workspace

if TYPE_CHECKING:
    from flows.calibration import CalibrationReport
    from flows.recalibration import RecalibrationReport
    from flows.retraining import RetrainingReport
    from flows.review_report import ReviewReport
    from flows.training_report import TrainingReport


def never() -> bool:
    """Whether it was stopped: by nobody."""
    return False


ScoreOne = Callable[[PipelineConfig, Batch, ChampionVersion, Workspace, Progress, bool], BatchReport]
"""Scores one batch; the last value says whether also one that another version has decided."""


@dataclass(frozen=True)
class _Round:
    """How the batches that are due are found and scored: once stopped, no further one is begun."""

    score_one: ScoreOne
    settled: timedelta | None = None
    stopped: Callable[[], bool] = never


@dataclass(frozen=True)
class RunReport:
    """What was due for a pipeline and how it ended; a failure's sentence where it could not go on."""

    pipeline: str
    training: TrainingReport | None = None
    calibration: CalibrationReport | None = None
    batches: tuple[BatchReport, ...] = ()
    failure: str = ""
    wrong_input: bool = False

    @property
    def failed(self) -> bool:
        """Whether anything of it failed."""
        return bool(self.failure) or any(batch.outcome == "failed" for batch in self.batches)

    @property
    def alarm(self) -> bool:
        """Whether a batch that was scored now alarmed."""
        return any(batch.alarm for batch in self.batches)


def train(workspace: Workspace, name: str, progress: Progress, ranks: Ranks = ALONE) -> TrainingReport:
    """Train a pipeline while no other process trains or calibrates it, but for those that train with this one."""
    pipeline = workspace.settings.pipeline(name)
    with _alone(workspace, pipeline, progress):
        return _trained(workspace, pipeline, progress, ranks)


def calibrate(workspace: Workspace, name: str, progress: Progress) -> CalibrationReport:
    """Calibrate a pipeline while no other process trains or calibrates it."""
    pipeline = workspace.settings.pipeline(name)
    with _alone(workspace, pipeline, progress):
        return _calibrated(workspace, pipeline, progress)


def _trained(
    workspace: Workspace, pipeline: PipelineConfig, progress: Progress, ranks: Ranks = ALONE
) -> TrainingReport:
    from flows.training import train

    checkpoints, cache = workspace.settings.checkpoints(pipeline.name), workspace.settings.cache
    with together(ranks, pipeline):
        return train(pipeline, workspace.tracking, progress, checkpoints=checkpoints, cache=cache, ranks=ranks)


def _calibrated(workspace: Workspace, pipeline: PipelineConfig, progress: Progress) -> CalibrationReport:
    from flows.calibration import calibrate

    return calibrate(pipeline, workspace.tracking, progress)


def review(workspace: Workspace, name: str, progress: Progress) -> ReviewReport:
    """Take in what people labelled of a pipeline's images, and measure."""
    from flows.review_report import review as review_pipeline

    return review_pipeline(workspace.settings.pipeline(name), workspace, progress)


def recalibrate(
    workspace: Workspace, name: str, since: datetime | None, until: datetime | None, progress: Progress
) -> RecalibrationReport:
    """Recalibrate a pipeline on its audit while no other process trains or calibrates it."""
    from flows.recalibration import recalibrate as recalibrate_pipeline

    pipeline = workspace.settings.pipeline(name)
    with _alone(workspace, pipeline, progress):
        return recalibrate_pipeline(pipeline, workspace, since, until, progress)


def retrain(workspace: Workspace, name: str, progress: Progress) -> RetrainingReport:
    """Train and calibrate a challenger while no other process trains or calibrates the pipeline."""
    from flows.retraining import retrain as retrain_pipeline

    pipeline = workspace.settings.pipeline(name)
    read_answers(pipeline, workspace, progress)
    with _alone(workspace, pipeline, progress):
        return retrain_pipeline(pipeline, workspace, progress)


def score_one(
    pipeline: PipelineConfig,
    batch: Batch,
    champion: ChampionVersion,
    workspace: Workspace,
    progress: Progress,
    again: bool = False,
    run_shards: RunShards | None = None,
) -> BatchReport:
    """Score one batch; where that fails, the report says why and the others go on.

    `run_shards` scores the shards of a big one, where they are not to be scored on this machine.
    """
    runner = pipeline.runner
    sharding = sharding_of(runner, workspace.settings.workspace, pipeline.training.device, run_shards)
    if isinstance(runner, DaskRunner | RayRunner) and run_shards is None and len(batch.items) > runner.shard_size:
        progress.say(f"Without a Prefect server, processes of this machine score {batch.id}, and not {runner.type}.")
    try:
        return score_and_record(pipeline, batch, champion, workspace, progress, again, sharding)
    except Exception as error:
        return BatchReport(pipeline.name, batch.id, "failed", reason=reason_of(error))


def score(
    workspace: Workspace,
    name: str,
    paths: Sequence[Path],
    progress: Progress,
    score_one: ScoreOne = score_one,
) -> tuple[BatchReport, ...]:
    """Score the given paths, or what is due in the inbox where none are given.

    Alerts are sent as they arise, and first of all those that could not be sent before.

    Raises:
        InputError: the pipeline has no champion, or a path is not there.
    """
    pipeline = workspace.settings.pipeline(name)
    if paths:
        return _score(workspace, pipeline, paths, progress, _Round(score_one))
    begin_run(workspace.ledger, pipeline.name)
    try:
        reports = _score(workspace, pipeline, paths, progress, _Round(score_one))
    except Exception as error:
        _end(workspace, pipeline, reason_of(error), progress)
        raise
    _end(workspace, pipeline, failures(reports), progress)
    return reports


def failures(reports: Sequence[BatchReport]) -> str:
    """What failed, in one line; empty where nothing did."""
    return "; ".join(f"batch {report.batch}: {report.reason}" for report in reports if report.outcome == "failed")


def _score(
    workspace: Workspace, pipeline: PipelineConfig, paths: Sequence[Path], progress: Progress, due: _Round
) -> tuple[BatchReport, ...]:
    leave_old_objects_alone()
    reports = _score_due(workspace, pipeline, paths, progress, due)
    if not workspace.tracking.answers():
        return reports  # the next run that reaches it adds what the monitor run lacks
    try:
        update_monitor(pipeline.name, workspace.tracking, workspace.ledger)
    except Exception as error:  # what is decided is decided
        progress.warn(f"The monitor run of {pipeline.name} is behind, and the next run adds what it lacks: {error}")
    return reports


def _score_due(
    workspace: Workspace, pipeline: PipelineConfig, paths: Sequence[Path], progress: Progress, due: _Round
) -> tuple[BatchReport, ...]:
    send_alerts(workspace, progress)
    if workspace.tracking.answers():
        deliver_runs(pipeline, workspace, progress)
        let_reviewers_in(pipeline, workspace, progress)
        make_missing_queues(pipeline, workspace, progress)
        retire_queues(pipeline, workspace, progress)
    batches = (
        path_batches(paths, pipeline.data) if paths else due_batches(pipeline, workspace.ledger, progress, due.settled)
    )
    if not batches:
        return ()
    champion = deciding_champion(workspace.tracking, workspace.settings.workspace, pipeline.name, progress)
    champion = champion.on(choose_device(pipeline.training.device), pipeline.engine)
    challenger = _challenger(pipeline, workspace, progress)
    reports = []
    for batch in batches:
        if due.stopped():
            break
        reports.append(due.score_one(pipeline, batch, champion, workspace, progress, bool(paths)))
        if challenger is not None:
            _shadow(batch, reports[-1], challenger, workspace, progress)
        if reports[-1].alarm:
            send_alerts(workspace, progress)
    return tuple(reports)


def _challenger(pipeline: PipelineConfig, workspace: Workspace, progress: Progress) -> ChampionVersion | None:
    if not workspace.tracking.answers():
        return None
    try:
        return challenger_of(pipeline, workspace.tracking)
    except Exception as error:  # who decides nothing stops nothing
        progress.warn(f"The challenger of {pipeline.name} cannot be loaded: {error}")
        return None


def _shadow(
    batch: Batch, report: BatchReport, challenger: ChampionVersion, workspace: Workspace, progress: Progress
) -> None:
    if report.outcome != "scored" or report.run_id is None:
        return
    try:
        score_in_shadow(batch, report.run_id, challenger, workspace.tracking, progress)
    except Exception as error:
        progress.warn(f"Batch {batch.id} was not scored in the shadow: {error}")


def run(
    workspace: Workspace,
    name: str,
    progress: Progress,
    score_one: ScoreOne = score_one,
    settled: timedelta | None = None,
    stopped: Callable[[], bool] = never,
) -> RunReport:
    """Whatever is due for a pipeline: training, calibration, scoring of new batches, alerts not sent yet.

    `settled` is that of `flows.inbox.inbox_state`; once `stopped`, no further batch is begun.
    """
    try:
        pipeline = workspace.settings.pipeline(name)
        begin_run(workspace.ledger, pipeline.name)
        report = _run(workspace, pipeline, progress, _Round(score_one, settled, stopped))
        _end(workspace, pipeline, report.failure or failures(report.batches), progress)
    except Exception as error:  # the other pipelines go on
        return RunReport(name, failure=reason_of(error), wrong_input=isinstance(error, InputError))
    return report


def _run(workspace: Workspace, pipeline: PipelineConfig, progress: Progress, due: _Round) -> RunReport:
    name, training, calibration = pipeline.name, None, None
    batches: tuple[BatchReport, ...] = ()
    if not workspace.tracking.answers():
        return _scored_alone(workspace, pipeline, progress, due)
    try:
        with _alone(workspace, pipeline, progress):
            if workspace.tracking.latest_training(name) is None:
                training = _trained(workspace, pipeline, progress)
            if calibration_is_due(workspace, pipeline):
                calibration = _calibrated(workspace, pipeline, progress)
        if training and calibration:
            training = replace(training, standing="")  # the calibration says where the pipeline stands
        _say_what_changed(workspace, pipeline, progress)
        if pipeline.data.inbox is None:
            progress.say(f"Pipeline {name} has no data.inbox, so there is nothing to score.")
        else:
            batches = _score(workspace, pipeline, (), progress, due)
    except Exception as error:
        failure = reason_of(error)
        return RunReport(name, training, calibration, batches, failure, isinstance(error, InputError))
    return RunReport(name, training, calibration, batches)


def _scored_alone(workspace: Workspace, pipeline: PipelineConfig, progress: Progress, due: _Round) -> RunReport:
    """What can be done while the MLflow server does not answer: new batches are decided, and nothing else."""
    batches: tuple[BatchReport, ...] = ()
    try:
        # without one nothing can be done, whether a batch is due or not
        last_champion(workspace.tracking, workspace.settings.workspace, pipeline.name)
        progress.warn(f"The MLflow server {workspace.tracking.shown_uri} does not answer: only new batches are scored.")
        if pipeline.data.inbox is not None:
            batches = _score(workspace, pipeline, (), progress, due)
    except Exception as error:
        return RunReport(pipeline.name, failure=reason_of(error), wrong_input=isinstance(error, InputError))
    return RunReport(pipeline.name, batches=batches)


def send_alerts(workspace: Workspace, progress: Progress) -> DeliveryReport:
    """Send every alert that is due, those of earlier runs that could not be sent included."""
    pictures = workspace.tracking.picture if workspace.tracking.answers() else no_picture
    report = send_due(workspace.ledger, workspace.settings, pictures)
    for failure in (*report.failed, *report.homeless):
        progress.warn(f"An alert waits to be sent: {failure}")
    return report


def _end(workspace: Workspace, pipeline: PipelineConfig, failure: str, progress: Progress) -> None:
    end_run(workspace.ledger, pipeline.name, failure)
    tell(workspace, progress)


def tell(workspace: Workspace, progress: Progress) -> None:
    """Open incidents for what did not happen in time, and send every alert that is due."""
    look_after(workspace.ledger, workspace.settings)
    send_alerts(workspace, progress)


def _say_what_changed(workspace: Workspace, pipeline: PipelineConfig, progress: Progress) -> None:
    if changes_since_training(workspace, pipeline):
        progress.warn(
            f"{pipeline.name} was trained with another data, model or training section than pipelines.yaml has now: "
            f"'reconwatch train {pipeline.name}' trains it anew"
        )


@contextmanager
def _alone(workspace: Workspace, pipeline: PipelineConfig, progress: Progress) -> Iterator[None]:
    """One process at a time trains and calibrates a pipeline; the lock of one that dies is free."""
    lock = FileLock(workspace.settings.workspace / f"{pipeline.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress.say(f"Waiting for another process that trains or calibrates {pipeline.name}.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
