"""A detector's way from images to scores and error maps as an ONNX graph: no PyTorch needed.

The graph is made once, where the detector is trained (`ae_models.graph_export`). PyTorch stays the reference: a graph
in floats is used only where it was found to give the same, and only on a CPU. One in 8-bit integers (`ae_models.int8`)
gives scores of its own, so that no threshold but one of its own scores holds for it, and nothing else may stand in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ae_models.cores import available_cores
from ae_models.errors import InputError
from ae_models.images import ImageSpec
from ae_models.sessions import ONNXRUNTIME, OPENVINO, OnnxRuntimeSession, OpenvinoMissing, OpenvinoSession, Session

FILE, DESCRIPTION = "scoring.onnx", "scoring.json"
FORMAT = 2
IMAGES, SCORES, MAPS = "images", "scores", "maps"
AT_ONCE, CACHED_PIXELS = 16, 2**17  # images, and pixels of them, that one thread works on: they stay in its cache


class GraphDamaged(ValueError):  # noqa: N818 (it says what happened)
    """The files of a graph are missing, damaged, or those of another detector; the message says which."""


@dataclass(frozen=True)
class Graph:
    """The graph and how far it was found from PyTorch.

    Attributes:
        content: the ONNX file.
        spec: size and channels of the images that it takes.
        difference: the largest between its scores and PyTorch's when it was made, in deviations of nominal scores.
        versions: of what made it.
        int8: whether its networks compute in 8-bit integers.
        runtime: what runs it, "onnxruntime" or "openvino"; int8 is run by OpenVINO alone.
    """

    content: bytes = field(repr=False)
    spec: ImageSpec
    difference: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)
    int8: bool = False
    runtime: str = ONNXRUNTIME

    def __post_init__(self) -> None:
        if self.runtime not in (ONNXRUNTIME, OPENVINO) or (self.int8 and self.runtime != OPENVINO):
            raise ValueError(f"no graph {'in int8' if self.int8 else 'in floats'} is run by {self.runtime!r}")

    def by(self, engine: str) -> Graph:
        """The same graph, if it is in floats, run by "onnxruntime" or "openvino"; as it is by any other engine."""
        if self.int8 or engine in (self.runtime, "auto", "int8"):
            return self
        return replace(self, runtime=engine)

    @property
    def sha256(self) -> str:
        """Of its content."""
        return hashlib.sha256(self.content).hexdigest()

    def score(self, images: NDArray[np.float32], threads: int | None = None) -> NDArray[np.float64]:
        """Scores (N,) float64 of images (N, C, H, W) float32 in [0, 1], by as many threads as there are cores."""
        scores: NDArray[np.float64] = self._run(SCORES, images, threads)
        return scores

    def error_maps(self, images: NDArray[np.float32], threads: int | None = None) -> NDArray[np.float32]:
        """Error maps (N, H, W) float32 of images (N, C, H, W) float32 in [0, 1]."""
        maps: NDArray[np.float32] = self._run(MAPS, images, threads)
        return maps

    def _run(self, output: str, images: NDArray[np.float32], threads: int | None) -> NDArray[Any]:
        if images.shape[1:] != self.spec.shape:
            raise InputError(f"images of shape {images.shape[1:]} were given to a detector for {self.spec.shape}")
        threads = threads or available_cores()
        parts = list(_parts(images)) if len(images) else [images]
        run = self._runner(output)
        if threads == 1 or len(parts) == 1:
            found = [run(part) for part in parts]
        else:  # each thread has its own images: threads that share one image wait for each other
            with ThreadPoolExecutor(min(threads, len(parts)), thread_name_prefix="score") as pool:
                found = list(pool.map(run, parts))
        return np.concatenate(found)

    def _runner(self, output: str) -> Callable[[NDArray[np.float32]], NDArray[Any]]:
        session = self._session
        return lambda part: session.run(output, np.ascontiguousarray(part, np.float32))

    def __getstate__(self) -> dict[str, Any]:
        """What travels to another process: all but the session, which is opened anew there."""
        return {name: value for name, value in vars(self).items() if name != "_session"}

    @cached_property
    def _session(self) -> Session:
        try:
            if self.runtime == OPENVINO:
                return OpenvinoSession(self.content)
            return OnnxRuntimeSession(self.content, IMAGES)
        except OpenvinoMissing:
            raise
        except Exception as error:  # ONNX Runtime's own have no common class
            name = {ONNXRUNTIME: "ONNX Runtime", OPENVINO: "OpenVINO"}[self.runtime]
            raise GraphDamaged(f"{name} cannot load {FILE} ({first_line(error)})") from error

    @property
    def scoring_graph(self) -> Graph:
        """Itself."""
        return self

    def open(self) -> Graph:
        """The graph itself, ready to run.

        Raises:
            GraphDamaged: what is to run it does not take it.
            OpenvinoMissing: OpenVINO is to run it, and is not installed.
        """
        assert self._session
        return self

    def save(self, folder: Path) -> None:
        """Write the graph and what is known of it beside the detector in `folder`, to which it then belongs."""
        (folder / FILE).write_bytes(self.content)
        description = {
            "format": FORMAT,
            "sha256": self.sha256,
            "detector_sha256": _detector_hash(folder),
            "difference": self.difference,
            "versions": dict(self.versions),
            "int8": self.int8,
            "runtime": self.runtime,
        }
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=2), encoding="utf-8")


def load_graph(folder: Path, spec: ImageSpec) -> Graph | None:
    """The graph that `save` wrote beside a detector; None where the detector was saved without one.

    Raises:
        GraphDamaged: a file is missing or damaged, or belongs to another detector.
        OpenvinoMissing: OpenVINO is to run it, and is not installed.
    """
    described, written = (folder / DESCRIPTION).exists(), (folder / FILE).exists()
    if not described and not written:
        return None
    if not described or not written:
        raise GraphDamaged(f"{FILE if described else DESCRIPTION} is missing")
    try:
        stored = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        content = (folder / FILE).read_bytes()
        if stored["format"] != FORMAT:
            raise GraphDamaged(f"{DESCRIPTION} has the format {stored['format']!r}, and this version reads {FORMAT}")
        if hashlib.sha256(content).hexdigest() != stored["sha256"]:
            raise GraphDamaged(f"{FILE} is damaged")
        if _detector_hash(folder) != stored["detector_sha256"]:
            raise GraphDamaged(f"{FILE} was made of another detector")
        made = (float(stored["difference"]), dict(stored["versions"]), stored["int8"], stored["runtime"])
        return Graph(content, spec, *made).open()
    except (GraphDamaged, OpenvinoMissing):
        raise
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise GraphDamaged(f"{DESCRIPTION} cannot be read ({type(error).__name__})") from error


def first_line(error: Exception) -> str:
    """The line of an error that says what is wrong; OpenVINO's first ones say where in its own code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if not line.startswith("Exception from ")), type(error).__name__)[:300]


def _detector_hash(folder: Path) -> str:
    """Of the description of the detector, which has the hash of its weights."""
    return hashlib.sha256((folder / "detector.json").read_bytes()).hexdigest()


def _parts(images: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Images (N, C, H, W) in parts, the same by however many threads: sums in other parts would round otherwise."""
    at_once = max(1, min(AT_ONCE, CACHED_PIXELS // max(1, images.shape[2] * images.shape[3])))
    for start in range(0, len(images), at_once):
        yield images[start : start + at_once]
