"""The Prefect flows that learn from what people labelled."""

from datetime import datetime

from prefect import State, flow

from flows import running
from flows.flow_record import deployed_turn, failed, flow_progress, flow_workspace, record
from flows.recalibration import RecalibrationReport
from flows.retraining import RetrainingReport
from flows.review_report import ReviewReport


@flow(name="review", flow_run_name="review-{pipeline}", validate_parameters=True)
def review(config: str, pipeline: str) -> ReviewReport | State[ReviewReport]:
    """Take in the labels of MLflow's Review tab; measure precision and misses, and show them on the review run.

    Args:
        config: path of pipelines.yaml.
        pipeline: its name there.
    """
    try:
        workspace = flow_workspace(config)
        with deployed_turn(workspace, pipeline, "review"):
            report = running.review(workspace, pipeline, flow_progress())
        record(workspace, f"review-{pipeline}", report.run_url, report.sentences())
    except Exception as error:
        return failed(error)
    return report


@flow(name="recalibrate", flow_run_name="recalibrate-{pipeline}", validate_parameters=True)
def recalibrate(
    config: str, pipeline: str, since: datetime | None = None, until: datetime | None = None
) -> RecalibrationReport | State[RecalibrationReport]:
    """Find the threshold of the champion's detector on the random audit, and let it decide from now on.

    Args:
        config: path of pipelines.yaml.
        pipeline: its name there.
        since: only batches decided from this time on.
        until: only batches decided before this time.
    """
    try:
        workspace = flow_workspace(config)
        with deployed_turn(workspace, pipeline, "recalibrate"):
            report = running.recalibrate(workspace, pipeline, since, until, flow_progress())
        record(workspace, f"recalibrate-{pipeline}", report.run_url, report.sentences())
    except Exception as error:
        return failed(error)
    return report


@flow(name="retrain", flow_run_name="retrain-{pipeline}", validate_parameters=True)
def retrain(config: str, pipeline: str) -> RetrainingReport | State[RetrainingReport]:
    """Train a challenger on the nominal images and those that people confirmed; it decides nothing yet.

    Args:
        config: path of pipelines.yaml.
        pipeline: its name there.
    """
    try:
        workspace = flow_workspace(config)
        with deployed_turn(workspace, pipeline, "retrain"):
            report = running.retrain(workspace, pipeline, flow_progress())
        record(workspace, f"retrain-{pipeline}", report.run_url, report.sentences())
    except Exception as error:
        return failed(error)
    return report
