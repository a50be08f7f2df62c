"""A detector's graph with its convolutional networks in 8-bit integers, judged beside the same graph in floats.

Static quantisation (Jacob et al., CVPR 2018): a scale a channel for weights, and for what lies between layers one by
its least and largest value on nominal images. What errors are of stays floats (they are small beside it), and so do
error maps, positional normalisation and pooling, and networks in closed form: whitening multiplies rounding by what it
divides by.

False alarms are not at stake: a threshold is calibrated on int8's own scores, and promises for them what it promises
for floats. Detection is: so it is compared, on synthetic defects in nominal images that the network never saw.
"""

import tempfile
from ast import literal_eval
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

from ae_models.comparison import AurocDifference, auroc_difference
from ae_models.curves import area_under_roc
from ae_models.detector import AnyDetector, FusedDetector
from ae_models.errors import InputError
from ae_models.graph import IMAGES, Graph, first_line
from ae_models.graph_export import NotExportable
from ae_models.sessions import OPENVINO
from ae_models.synthetic_defects import SyntheticDefects, draw_defects

LAYERS = ("Conv", "ConvTranspose", "Gemm")
BETWEEN = ("Relu", "MaxPool", "Concat", "Resize", "Add", "Pad")  # so that nothing turns to floats between layers
RANGED, JUDGED = 64, 256  # nominal images that are enough to find scales by; at most, to judge detection by
PER_KIND = 20  # synthetic defects
AT_ONCE = 8  # images, while scales are found
MOST_LOST = 0.01  # of the AUROC on synthetic defects, and a lower 95% limit for that
FALSE_ALARMS = 0.05  # the rate at which the share of defects found is told
TIMED = 3  # rounds
STEPS = 3


@dataclass(frozen=True)
class Int8Comparison:
    """A graph in int8 beside the same in floats, on held-out nominal images and synthetic defects in them.

    Attributes:
        n_nominal: images.
        n_defects: images with a synthetic defect.
        aurocs: of floats and of int8.
        difference: the AUROC of int8 less that of floats.
        found: the shares of defects flagged by floats and by int8 where 5 in 100 of the nominal images are.
        milliseconds: an image, floats by ONNX Runtime and int8 by OpenVINO, one thread.
        scores_apart: the largest difference of the scores of a nominal image, in deviations of floats' scores.
    """

    n_nominal: int
    n_defects: int
    aurocs: tuple[float, float]
    difference: AurocDifference
    found: tuple[float, float]
    milliseconds: tuple[float, float]
    scores_apart: float

    @property
    def fault(self) -> str | None:
        """Why int8 will not do; None where it will."""
        if self.difference.low >= -MOST_LOST:
            return None
        return f"it may lose more than {MOST_LOST:g} of the AUROC on synthetic defects: {self.difference}"

    def sentence(self) -> str:
        """What came out, for people."""
        (floats, int8), (of_floats, of_int8) = self.aurocs, self.milliseconds
        slower = " Set engine to auto and train again: it is faster." if of_int8 > of_floats else ""
        return (
            f"8-bit integers find {self.n_defects} synthetic defects in held-out images with an AUROC of {int8:.3f}, "
            f"floats with {floats:.3f}, and take {of_int8:.2g} ms an image on one core, floats {of_floats:.2g}.{slower}"
        )

    def metrics(self) -> Mapping[str, float]:
        """The numbers, each by a name for MLflow."""
        values = {"auroc": self.aurocs, "found": self.found, "milliseconds": self.milliseconds}
        pairs = {f"{kind}_{name}": pair[kind == "int8"] for name, pair in values.items() for kind in ("float", "int8")}
        return pairs | {"int8_auroc_difference_low": self.difference.low}


class _Calibration(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
    """Images (N, C, H, W), a few at once, as the quantisation wants them."""

    def __init__(self, images: NDArray[np.float32]) -> None:
        self._parts = iter(np.array_split(images, max(1, len(images) // AT_ONCE)))

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next few; None after the last."""
        part = next(self._parts, None)
        return None if part is None else {IMAGES: part}


def with_int8(
    detector: AnyDetector,
    training: NDArray[np.float32],
    held_out: NDArray[np.float32],
    seed: int,
    advance: Callable[..., None] = lambda *steps: None,
) -> tuple[AnyDetector, Int8Comparison]:
    """The detector with its graph in int8, and how that compares with the one in floats, which it has to have.

    Args:
        detector: with a graph in floats.
        training: a few nominal images (N, C, H, W) float32 in [0, 1], by which scales are found.
        held_out: nominal images (N, C, H, W) that the network did not learn from, by which detection is judged.
        seed: of the synthetic defects.
        advance: told of each of `STEPS` steps.

    Raises:
        NotExportable: no network of it is convolutional, or ONNX Runtime or OpenVINO cannot do it.
        InputError: no synthetic defect can be made in the held-out images.
    """
    floats = detector.graph
    assert floats is not None
    assert not floats.int8
    nominal = held_out[:JUDGED]
    defects = draw_defects(nominal, PER_KIND, seed)
    advance(1, "finding scales")
    try:
        content = quantised(floats.content, convolutional_members(detector), training)
        made = {package: version(package) for package in ("onnxruntime", "openvino")}
        graph = Graph(content, floats.spec, versions={**floats.versions, **made}, int8=True, runtime=OPENVINO)
        advance(1, "scoring by both")
        compared = _compared(floats, graph, nominal, defects)
    except (NotExportable, InputError):
        raise
    except Exception as error:  # neither ONNX Runtime nor OpenVINO has a common class for what it cannot do
        raise NotExportable(first_line(error)) from error
    advance(1)
    return replace(detector, graph=replace(graph, difference=compared.scores_apart)), compared


def convolutional_members(detector: AnyDetector) -> list[int]:
    """The places of the members whose networks have convolutions; raises NotExportable where none has."""
    members = detector.members if isinstance(detector, FusedDetector) else (detector,)
    layers = (nn.Conv2d, nn.ConvTranspose2d)
    places = [
        place
        for place, member in enumerate(members)
        if any(isinstance(module, layers) for module in member.network.modules())
    ]
    if not places:
        raise NotExportable("it has no convolutional network, and only those gain by it")
    return places


def quantised(content: bytes, members: list[int], images: NDArray[np.float32]) -> bytes:
    """The ONNX file with these members' networks in int8, their scales found by nominal images (N, C, H, W)."""
    with tempfile.TemporaryDirectory() as name:
        floats, prepared, made = (Path(name) / f"{each}.onnx" for each in ("floats", "prepared", "int8"))
        floats.write_bytes(content)
        quant_pre_process(floats, prepared, skip_symbolic_shape=True, skip_optimization=True)  # which would lose scopes
        layers = _layers(onnx.load(prepared).graph, {f"networks.{place}" for place in members})
        if not layers:  # ONNX Runtime would take that for all
            raise NotExportable("the exported graph does not say which of its layers are the networks'")
        quantize_static(
            prepared,
            made,
            _Calibration(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*LAYERS, *BETWEEN],
            nodes_to_quantize=layers,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        model = onnx.load(made)
        _keep_floats_elsewhere(model.graph, set(layers))
        return bytes(model.SerializeToString())


def _keep_floats_elsewhere(graph: Any, layers: set[str]) -> None:
    """Let all nodes but these layers read what was not rounded: the images and reconstructions that errors are of."""
    unrounded = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    rounded = {
        node.output[0]: unrounded.get(node.input[0]) for node in graph.node if node.op_type == "DequantizeLinear"
    }
    for node in graph.node:
        if node.name not in layers and node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            for place, name in enumerate(node.input):
                node.input[place] = rounded.get(name) or name


def _layers(graph: Any, modules: set[str]) -> list[str]:
    """The names of the nodes within these modules that are layers, or have nothing but what layers give as input."""
    names, given = list[str](), set[str]()
    constant = {tensor.name for tensor in graph.initializer} | {""}
    for node in graph.node:  # each after those that its inputs come from
        if node.op_type == "Constant":
            constant |= set(node.output)
        elif _is_within(node, modules) and (
            node.op_type in LAYERS or (node.op_type in BETWEEN and set(node.input) - constant <= given)
        ):
            names.append(node.name)
            given |= set(node.output)
    return names


def _is_within(node: Any, modules: set[str]) -> bool:
    """Whether a node was exported from one of these modules, or from a part of it."""
    scopes = [literal_eval(entry.value) for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"]
    return any(modules.intersection(names) for names in scopes)


def _compared(floats: Graph, int8: Graph, nominal: NDArray[np.float32], defects: SyntheticDefects) -> Int8Comparison:
    usual, anomalous = ([each.score(images) for each in (floats, int8)] for images in (nominal, defects.images))
    limits = [np.quantile(scores, 1 - FALSE_ALARMS, method="higher") for scores in usual]
    labels = np.arange(len(nominal) + len(defects.images)) >= len(nominal)
    by_floats, by_int8 = (np.concatenate(scores) for scores in zip(usual, anomalous, strict=True))
    sources = np.concatenate([np.arange(len(nominal)), defects.sources])
    slow, fast = _milliseconds((floats, int8), nominal)
    return Int8Comparison(
        n_nominal=len(nominal),
        n_defects=len(defects.images),
        aurocs=(area_under_roc(usual[0], anomalous[0]), area_under_roc(usual[1], anomalous[1])),
        difference=auroc_difference(by_int8, by_floats, labels, sources.tolist()),
        found=(float((anomalous[0] > limits[0]).mean()), float((anomalous[1] > limits[1]).mean())),
        milliseconds=(slow, fast),
        scores_apart=float(np.abs(usual[1] - usual[0]).max() / (usual[0].std() or 1.0)),
    )


def _milliseconds(graphs: tuple[Graph, ...], images: NDArray[np.float32]) -> list[float]:
    """Each graph's for an image, on one core: the best of a few rounds in which they take turns."""
    taken: list[list[float]] = [[] for _ in graphs]
    for _ in range(TIMED):
        for graph, each in zip(graphs, taken, strict=True):
            before = perf_counter()
            graph.score(images, threads=1)
            each.append(1000 * (perf_counter() - before) / len(images))
    return [min(each) for each in taken]
