"""What MLflow serves: detector and threshold as one self-contained pyfunc."""

from __future__ import annotations

import base64
import io
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from numpy.typing import NDArray
from PIL import Image

import ae_models

if TYPE_CHECKING:
    from ae_models.images import ImageSpec

SERVED_REQUIREMENTS = (
    *("torch", "onnxruntime", "numpy", "pandas", "pillow", "safetensors", "scikit-learn", "scipy", "matplotlib"),
)


def save_pyfunc(model: Path, parts: Path, spec: ImageSpec, openvino: bool = False) -> None:
    """Write the model that MLflow serves into a folder; `openvino` says whether its scores take OpenVINO."""
    needed = (*SERVED_REQUIREMENTS, *(["openvino"] if openvino else []))
    example = _base64_png(np.full((spec.height, spec.width), 128, np.uint8))
    # Text is what a request carries; MLflow lets the bytes and arrays of a caller's own table through as they are.
    inputs = Schema([ColSpec("string", "image")])
    outputs = Schema(
        [
            ColSpec("double", "score"),
            ColSpec("double", "threshold"),
            ColSpec("boolean", "flag"),
            ColSpec("double", "p_value"),
            ColSpec("string", "status"),
            ColSpec("string", "reason"),
            ColSpec("string", "heat_map", required=False),
        ]
    )
    asked = ParamSchema([ParamSpec("heat_map", "boolean", False)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what MLflow and pandas tell each other is no news to who calibrates
        mlflow.pyfunc.save_model(
            path=str(model),
            python_model=str(Path(__file__).parents[1] / "served_model.py"),
            code_paths=[str(Path(ae_models.__file__).parent)],
            artifacts={"champion": str(parts)},
            signature=ModelSignature(inputs, outputs, asked),
            input_example=pd.DataFrame({"image": [example]}),
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in needed],
        )


def _base64_png(pixels: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
