"""The Prefect flow that does whatever is due."""

from pathlib import Path

from prefect import flow

from flows import running
from flows.flow_record import flow_progress, record
from flows.running import RunReport
from flows.score import score_as_task, sentences
from flows.workspace import open_workspace


@flow(name="run", flow_run_name="run-{pipeline}", validate_parameters=True)
def run(config: str, pipeline: str) -> RunReport:
    """Whatever is due for the pipeline: training, calibration, scoring of new batches, alerts not sent yet.

    Args:
        config: path of pipelines.yaml.
        pipeline: its name there.
    """
    workspace = open_workspace(Path(config))
    report = running.run(workspace, pipeline, flow_progress(), score_as_task)
    lines = [*(report.training.sentences() if report.training else ())]
    lines += [*(report.calibration.sentences() if report.calibration else ()), *sentences(report.batches)]
    record(f"run-{pipeline}", workspace.tracking.experiment_url(pipeline), [*lines, report.failure])
    return report
