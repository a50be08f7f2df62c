"""The Prefect flow that does whatever is due."""

from prefect import State, flow

from flows import running
from flows.flow_record import PartFailedError, deployed_turn, failed, flow_progress, flow_workspace, record
from flows.running import RunReport
from flows.score import score_as_task, sentences
from flows.watching import SETTLED


@flow(name="run", flow_run_name="run-{pipeline}", validate_parameters=True)
def run(config: str, pipeline: str) -> RunReport | State[RunReport]:
    """Whatever is due for the pipeline: training, calibration, scoring of new batches, alerts not sent yet.

    Args:
        config: path of pipelines.yaml.
        pipeline: its name there.
    """
    try:
        workspace = flow_workspace(config, goes_on=True)
        described = workspace.settings.pipeline(pipeline)
        url = workspace.tracking.addresses.pipeline(described.name)
        settled = SETTLED if described.schedule.watch else None
        with deployed_turn(workspace, pipeline, "run"):
            report = running.run(workspace, pipeline, flow_progress(), score_as_task, settled)
        lines = [line for part in (report.training, report.calibration) if part for line in part.sentences()]
        lines += [report.failure] if report.failure else sentences(report.batches)
        if report.training or report.calibration or report.batches or report.failure:
            record(workspace, f"run-{pipeline}", url, lines)
    except Exception as error:
        return failed(error)
    failure = report.failure or running.failures(report.batches)
    return failed(PartFailedError(failure, report)) if failure else report
