"""The Prefect flow that learns from what people labelled."""

from pathlib import Path

from prefect import State, flow

from flows import running
from flows.flow_record import failed, flow_progress, record
from flows.review_report import ReviewReport
from flows.workspace import open_workspace


@flow(name="review", flow_run_name="review-{pipeline}", validate_parameters=True)
def review(config: str, pipeline: str) -> ReviewReport | State[ReviewReport]:
    """Take in the labels of MLflow's Review tab; measure precision and misses, and show them on the review run.

    Args:
        config: path of pipelines.yaml.
        pipeline: its name there.
    """
    try:
        workspace = open_workspace(Path(config))
        report = running.review(workspace, pipeline, flow_progress())
        record(f"review-{pipeline}", report.run_url, report.sentences())
    except Exception as error:
        return failed(error)
    return report
