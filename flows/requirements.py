"""What a pipeline takes before it can be trained; what cannot be met is refused before any training time is spent.

Networks are imported where one is asked for, so that a check of the configuration does not wait for PyTorch.
"""

from typing import Any

import numpy as np

from ae_models.calibration import images_needed
from ae_models.errors import InputError
from ae_models.images import ImageSpec
from ae_models.sessions import OPENVINO, require_openvino
from flows.config import AutoConfig, ConformalThreshold, PipelineConfig


def calibration_images_needed(pipeline: PipelineConfig) -> int:
    """The fewest calibration images from which the wished threshold can be found."""
    wish = pipeline.threshold
    return images_needed(wish.false_alarm_rate, wish.confidence) if isinstance(wish, ConformalThreshold) else 20


def require_enough(pipeline: PipelineConfig, count: int) -> None:
    """Refuse fewer nominal images than the threshold takes, and as many again to learn from."""
    needed = calibration_images_needed(pipeline)
    if count >= max(8, 2 * needed):
        return
    possible = max(1, count // 2)
    lowest = 1 / (possible + 1)
    wish = pipeline.threshold
    if isinstance(wish, ConformalThreshold):
        way = f"a false-alarm rate of {wish.false_alarm_rate:g} needs {needed} images for calibration alone"
        advice = f"set threshold.false_alarm_rate to {np.ceil(lowest * 1000) / 1000:g} or more, or "
    else:
        way, advice = f"calibration needs {needed} of them", ""
    raise InputError(
        f"pipeline {pipeline.name!r} has {count} readable nominal images, and {way} and as many again to learn from: "
        f"{advice if count >= 8 else ''}give at least {max(8, 2 * needed)} nominal images"
    )


def network_parameters(pipeline: PipelineConfig) -> dict[str, Any]:
    """What the pipeline's network is built with: its section less name, corruption and score, as JSON."""
    return pipeline.model.model_dump(mode="json", exclude={"network", "corruption", "score"})


def require_size(pipeline: PipelineConfig, spec: ImageSpec) -> None:
    """Refuse, before any training time is spent, a network that cannot take images of that size."""
    if isinstance(pipeline.model, AutoConfig):
        return
    from ae_models.networks import build_network

    build_network(pipeline.model.network, spec, network_parameters(pipeline))


def require_engine(pipeline: PipelineConfig) -> None:
    """Refuse an engine that is not installed."""
    if pipeline.engine in (OPENVINO, "int8"):
        require_openvino()


def require_device(pipeline: PipelineConfig) -> None:
    """Refuse a GPU that is not on this machine."""
    if pipeline.training.device in ("auto", "cpu"):
        return
    from ae_models.training import choose_device

    choose_device(pipeline.training.device)
