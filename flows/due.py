"""What a pipeline waits for, as its runs in MLflow say."""

from flows.config import PipelineConfig, fingerprint
from flows.tracking import TrainedRun
from flows.workspace import Workspace


def calibration_is_due(workspace: Workspace, pipeline: PipelineConfig) -> bool:
    """Whether the newest detector was never calibrated; that another one decides since then may be somebody's wish."""
    newest = workspace.tracking.latest_training(pipeline.name)
    if newest is None:
        return False
    no_champion = workspace.tracking.registry.champion_version(pipeline.name) is None
    return no_champion or not workspace.tracking.is_calibrated(pipeline.name, newest.run_id)


def changes_since_training(workspace: Workspace, pipeline: PipelineConfig) -> bool:
    """Whether data, model or training sections differ from those of the newest training."""
    newest = workspace.tracking.latest_training(pipeline.name)
    return newest is not None and is_another(newest, pipeline)


def is_another(training: TrainedRun, pipeline: PipelineConfig) -> bool:
    """Whether it was trained with other data, model or training sections than the pipeline has now."""
    return training.tags.get("reconwatch.configuration") != fingerprint(pipeline, "data", "model", "training")
