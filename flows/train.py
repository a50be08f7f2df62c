"""The Prefect flow that trains a pipeline."""

import os

from prefect import State, flow

from flows import running
from flows.flow_record import failed, flow_progress, flow_workspace, record
from flows.torchrun import ranks_of
from flows.training_report import TrainingReport


@flow(name="train", flow_run_name="train-{pipeline}", validate_parameters=True)
def train(config: str, pipeline: str) -> TrainingReport | State[TrainingReport]:
    """Train the pipeline's network on its nominal images and record it in MLflow.

    Args:
        config: path of pipelines.yaml.
        pipeline: its name there.
    """
    try:
        workspace = flow_workspace(config)
        report = running.train(workspace, pipeline, flow_progress(), ranks_of(os.environ))
        record(workspace, f"train-{pipeline}", report.run_url, report.sentences())
    except Exception as error:
        return failed(error)
    return report
