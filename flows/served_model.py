"""The registered model: a table of images in, one of scores and flags out. MLflow copies this file beside the weights.

It imports `ae_models` alone, which travels with it, so whoever serves it needs no reconwatch.
"""

import base64
import binascii
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray

from ae_models.champion import Champion
from ae_models.images import ImageInput, stream


class ServedDetector(PythonModel):
    """Scores images given as bytes, base64 text or arrays; never as paths, which a stranger could choose."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the detector, its threshold and its calibration scores from the model's folder."""
        self.champion = Champion.load(Path(context.artifacts["champion"]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """One row an image: score, threshold, flag, p_value, status ("scored" or "unreadable") and reason.

        An unreadable image is flagged, and has None for score and p-value. On request a row has heat_map too: a PNG in
        base64 of the error over the image, at the network's size; empty for an unreadable one.

        Args:
            context: unused.
            model_input: its column `image` holds the encoded bytes of image files, the same in base64, or arrays (H, W)
                or (H, W, C), uint8, uint16 or float in [0, 1].
            params: {"heat_map": True} asks for the heat maps, whose scale is one for the images of a request.
        """
        images: list[ImageInput] = [_image(value) for value in model_input["image"]]
        wants_maps = bool((params or {}).get("heat_map", False))
        scores, reasons = np.full(len(images), np.nan), np.full(len(images), "", dtype=object)
        seen: dict[int, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
        for batch in stream(images, self.champion.detector.spec):
            scores[batch.indices] = self.champion.detector.score(batch.pixels)
            for index, reason in batch.unreadable:
                reasons[index] = reason
            if wants_maps:
                maps = self.champion.detector.error_maps(batch.pixels)
                seen |= dict(zip(batch.indices.tolist(), zip(batch.pixels, maps, strict=True), strict=True))
        answer = pd.DataFrame(
            {
                "score": _or_none(scores, reasons == ""),
                "threshold": self.champion.threshold.value,
                "flag": self.champion.threshold.flags(scores),
                "p_value": _or_none(self.champion.p_values(scores), reasons == ""),
                "status": np.where(reasons == "", "scored", "unreadable"),
                "reason": reasons.astype(str),
            }
        )
        return answer.assign(heat_map=_heat_maps(seen, len(images))) if wants_maps else answer


def _heat_maps(seen: dict[int, tuple[NDArray[np.float32], NDArray[np.float32]]], count: int) -> list[str]:
    """A PNG in base64 for each image that could be read, and an empty text for the others."""
    from ae_models.panels import brightest, heat_overlay  # draws; most who serve want numbers alone

    drawn = [""] * count
    top = brightest(np.stack([error_map for _, error_map in seen.values()])) if seen else 1.0
    for index, (pixels, error_map) in seen.items():
        file = io.BytesIO()
        heat_overlay(pixels, error_map, top).save(file, "PNG")
        drawn[index] = base64.b64encode(file.getvalue()).decode()
    return drawn


def _or_none(numbers: NDArray[np.float64], readable: NDArray[np.bool_]) -> NDArray[Any]:
    """The numbers (N,) float64; None instead of those of unreadable images, since a server's JSON has no NaN."""
    known = numbers.astype(object)
    known[~readable] = None
    return numbers if readable.all() else known


def _image(value: Any) -> ImageInput:
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except (ValueError, binascii.Error):
            return b""  # read as an empty file, and said to be one
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    return np.asarray(value)


set_model(ServedDetector())
