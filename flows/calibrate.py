"""The Prefect flow that calibrates a pipeline."""

from prefect import State, flow

from flows import running
from flows.calibration import CalibrationReport
from flows.flow_record import failed, flow_progress, flow_workspace, record


@flow(name="calibrate", flow_run_name="calibrate-{pipeline}", validate_parameters=True)
def calibrate(config: str, pipeline: str) -> CalibrationReport | State[CalibrationReport]:
    """Find the threshold of the pipeline's newest detector and let both decide batches from now on.

    Args:
        config: path of pipelines.yaml.
        pipeline: its name there.
    """
    try:
        workspace = flow_workspace(config)
        report = running.calibrate(workspace, pipeline, flow_progress())
        record(workspace, f"calibrate-{pipeline}", report.run_url, report.sentences())
    except Exception as error:
        return failed(error)
    return report
