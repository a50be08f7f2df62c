"""What a pipeline waits for, as its runs in MLflow say."""

from flows.config import PipelineConfig, fingerprint
from flows.workspace import Workspace


def calibration_is_due(workspace: Workspace, pipeline: PipelineConfig) -> bool:
    """Whether the newest detector decides no batches yet."""
    newest, champion = (
        workspace.tracking.latest_training(pipeline.name),
        workspace.tracking.champion_version(pipeline.name),
    )
    if newest is None:
        return False
    return champion is None or champion[1].get("reconwatch.training_run") != newest.run_id


def changes_since_training(workspace: Workspace, pipeline: PipelineConfig) -> bool:
    """Whether data, model or training sections differ from those of the newest training."""
    newest = workspace.tracking.latest_training(pipeline.name)
    now = fingerprint(pipeline, "data", "model", "training")
    return newest is not None and newest.tags.get("reconwatch.configuration") != now
