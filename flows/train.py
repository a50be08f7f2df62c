"""The Prefect flow that trains a pipeline."""

from pathlib import Path

from prefect import flow

from flows.flow_record import flow_progress, record
from flows.training import TrainingReport
from flows.training import train as train_pipeline
from flows.workspace import open_workspace


@flow(name="train", flow_run_name="train-{pipeline}", validate_parameters=True)
def train(config: str, pipeline: str) -> TrainingReport:
    """Train the pipeline's network on its nominal images and record it in MLflow.

    Args:
        config: path of pipelines.yaml.
        pipeline: its name there.
    """
    workspace = open_workspace(Path(config))
    report = train_pipeline(workspace.settings.pipeline(pipeline), workspace.tracking, flow_progress())
    record(f"train-{pipeline}", report.run_url, report.sentences())
    return report
