"""What runs a graph's ONNX file: ONNX Runtime, or OpenVINO where it is installed."""

from __future__ import annotations

import queue
import threading
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ae_models.cores import available_cores
from ae_models.errors import InputError

ONNXRUNTIME, OPENVINO = "onnxruntime", "openvino"


class OpenvinoMissing(InputError):  # noqa: N818 (it says what happened)
    """OpenVINO is not installed; the message says what to do."""


class Session(Protocol):
    """A loaded graph. Threads may run it at once, and each run takes one of the cores."""

    def run(self, output: str, images: NDArray[np.float32]) -> NDArray[Any]:
        """One of its outputs for images (N, C, H, W) float32."""


class OnnxRuntimeSession:
    """The graph by ONNX Runtime; raises an exception of ONNX Runtime's own where it does not take the file."""

    def __init__(self, content: bytes, images: str) -> None:
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = settings.inter_op_num_threads = 1
        settings.log_severity_level = 3  # errors
        self._options = onnxruntime.RunOptions()
        self._options.only_execute_path_to_fetches = True
        self._options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
        self._images = images

    def run(self, output: str, images: NDArray[np.float32]) -> NDArray[Any]:
        """Only what the output needs is computed."""
        found: NDArray[Any] = self._session.run([output], {self._images: images}, self._options)[0]
        return found


class OpenvinoSession:
    """The graph by OpenVINO, floats in 32 bits; raises RuntimeError where it does not take the file.

    Each output is a model of its own, compiled when it is first asked for: OpenVINO computes all outputs of a model.
    """

    def __init__(self, content: bytes) -> None:
        require_openvino()
        import openvino

        self._whole = openvino.Core().read_model(content)
        self._compiled: dict[str, _Requests] = {}
        self._compiling = threading.Lock()

    def run(self, output: str, images: NDArray[np.float32]) -> NDArray[Any]:
        """Only what the output needs is computed."""
        with self._compiling:
            if output not in self._compiled:
                self._compiled[output] = _Requests(self._whole, output)
        return self._compiled[output].run(images)


class _Requests:
    """One output's compiled model, with as many requests as run at once."""

    def __init__(self, whole: Any, output: str) -> None:
        import openvino

        cores = available_cores()
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",  # or it takes 16 bits where the processor has units for them
            "INFERENCE_NUM_THREADS": cores,
            "NUM_STREAMS": cores,  # each with one thread
            "ENABLE_CPU_PINNING": False,
        }
        model = openvino.Model([whole.output(output)], whole.get_parameters())
        self._compiled = openvino.Core().compile_model(model, "CPU", settings)
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run(self, images: NDArray[np.float32]) -> NDArray[Any]:
        try:
            request = self._idle.get_nowait()
        except queue.Empty:
            request = self._compiled.create_infer_request()
        try:
            found: NDArray[Any] = request.infer([images])[0].copy()  # the request's own memory is written to again
            return found
        finally:
            self._idle.put(request)


def require_openvino() -> None:
    """Raise OpenvinoMissing where it is not installed."""
    if find_spec("openvino") is None:
        raise OpenvinoMissing(
            "engines openvino and int8 take OpenVINO, which is not installed: pip install 'reconwatch[openvino]'"
        )
