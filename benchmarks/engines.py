"""What other engines and 8-bit integers would gain: the scoring graph by ONNX Runtime and OpenVINO, as floats and int8.

    uv pip install --target FOLDER --no-deps openvino openvino-telemetry  # it is no dependency
    PYTHONPATH=FOLDER python -m benchmarks.engines [--rounds 5] [--only convolutional auto] [--output engines.json]

Without OpenVINO its sides are left out. All run one thread, in turn, on the same parts of images as scoring does; the
medians of the ratios of processor time to ONNX Runtime's in floats are told. Weights are drawn, but "auto" is chosen
and fitted, from the recipes in closed form. int8 is static quantisation (QDQ, a scale a channel for weights, by least
and largest value for what lies between layers) of the networks' layers; front ends, error maps, positional
normalisation and pooling stay floats. Beside it stands how far its scores are from the floats', at most, in deviations
of scores.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from rich.console import Console
from rich.table import Table

from ae_models.detector import AnyDetector, Detector
from ae_models.front_ends import build_front_end
from ae_models.graph import IMAGES, SCORES, Graph, _parts
from ae_models.graph_export import onnx_of
from ae_models.images import FeatureSpec, ImageSpec
from ae_models.networks import build_network
from ae_models.scoring import Score
from ae_models.selection import NominalParts, Recipe, linear_recipes, select, trained_recipes
from ae_models.synthetic_defects import draw_defects

Run = Callable[[NDArray[np.float32]], NDArray[np.float64]]
LAYERS = [
    *("Conv", "ConvTranspose", "Gemm", "MatMul"),
    *("Relu", "MaxPool", "Concat", "Resize", "Add", "Pad", "Sigmoid"),  # between them, so that nothing turns to floats
]
SIZES = (ImageSpec(28, 28, 1), ImageSpec(128, 128, 1), ImageSpec(256, 256, 3))
WIDTHS = {28: [32, 32], 128: [32, 64, 128, 256], 256: [32, 64, 128, 256]}
COUNTS = {28: 256, 128: 32, 256: 8}  # images that are scored in a round
CALIBRATED = 64  # images by which the scales of int8 are found
KINDS = ("linear", "convolutional", "variational", "unet", "resnet", "auto", "restoration")
BASE, BASE_INT8, OTHER, OTHER_INT8 = "ONNX Runtime", "ONNX Runtime, int8", "OpenVINO", "OpenVINO, int8"


@dataclass(frozen=True)
class Measured:
    """One detector: milliseconds an image in floats by ONNX Runtime, and every side's ratio to it and difference."""

    name: str
    milliseconds: float
    ratios: dict[str, float]
    differences: dict[str, float]  # the largest of the scores, in deviations


class Calibration(CalibrationDataReader):
    """Images (N, C, H, W) in eights, as the quantisation wants them."""

    def __init__(self, images: NDArray[np.float32]) -> None:
        self.parts = iter(np.array_split(images, max(1, len(images) // 8)))

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next eight; None after the last."""
        part = next(self.parts, None)
        return None if part is None else {IMAGES: part}


def images_of(spec: ImageSpec, count: int, seed: int = 0) -> NDArray[np.float32]:
    """Images (count, C, H, W) in [0, 1]: waves and noise."""
    random, (down, across) = np.random.default_rng(seed), np.mgrid[0 : spec.height, 0 : spec.width] / 16
    waves = np.sin(across * random.uniform(1, 3, (count, spec.channels, 1, 1))) * np.cos(down)
    noise = random.normal(0, 0.02, (count, *spec.shape))
    return np.clip(0.5 + 0.3 * waves + noise, 0, 1).astype(np.float32)


def quantised(content: bytes, images: NDArray[np.float32]) -> bytes:
    """The ONNX file with its networks' layers in int8."""
    with tempfile.TemporaryDirectory() as name:
        plain, prepared, made = (Path(name) / f"{each}.onnx" for each in ("plain", "prepared", "made"))
        plain.write_bytes(content)
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        nodes = [node.name for node in onnx.load(prepared).graph.node if _is_of_a_network(node)]
        quantize_static(
            prepared,
            made,
            Calibration(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=LAYERS,
            nodes_to_quantize=nodes,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return made.read_bytes()


def _is_of_a_network(node: Any) -> bool:
    scopes = [each.value for each in node.metadata_props if each.key == "pkg.torch.onnx.name_scopes"]
    return node.op_type in LAYERS and any("networks." in scope for scope in scopes)


def by_onnxruntime(content: bytes, spec: ImageSpec) -> Run:
    """Scores as the product gives them."""
    graph = Graph(content, spec).open()
    return lambda images: graph.score(images, threads=1)


def by_openvino(content: bytes) -> Run:
    """Scores by OpenVINO, which would take fewer bits where the processor has units for them if not told otherwise."""
    import openvino  # type: ignore[import-not-found,unused-ignore]  # no dependency

    whole = openvino.Core().read_model(content)
    model = openvino.Model([whole.output(SCORES)], whole.get_parameters())
    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.compile_model(model, "CPU", settings | {"ENABLE_CPU_PINNING": False}).create_infer_request()
    return lambda images: np.concatenate([request.infer([part])[0].copy() for part in _parts(images)])


def detectors(kinds: list[str]) -> Iterator[tuple[str, AnyDetector]]:
    """Of every kind by name."""
    for kind in kinds:
        for spec in SIZES if kind in ("convolutional", "unet", "resnet") else SIZES[:2]:
            torch.manual_seed(0)
            name = f"{kind}, {spec.height} x {spec.width} x {spec.channels}"
            if kind == "auto":
                parts = NominalParts(*(images_of(spec, 100, seed) for seed in range(3)))
                yield name, select(parts, draw_defects(parts.selection, 10, 0), linear_recipes(spec)).detector
            elif kind == "restoration":
                yield name, _restoration(spec, trained_recipes(spec)[0])
            else:
                parameters = {"widths": WIDTHS[spec.height]} if kind == "convolutional" else {}
                yield name, Detector(spec, kind, parameters, build_network(kind, spec, parameters).eval())


def _restoration(spec: ImageSpec, recipe: Recipe) -> Detector:
    view = build_front_end(recipe.front_end, spec, recipe.front_end_parameters)
    features = cast(FeatureSpec, view.spec)
    network = build_network(recipe.network, features, recipe.network_parameters).eval()
    score = Score(recipe.design, features.height, features.width)
    described = (
        recipe.network,
        recipe.network_parameters,
        network,
        "cpu",
        recipe.front_end,
        recipe.front_end_parameters,
    )
    return Detector(spec, *described, view if view.state_dict() else None, score)


def measure(name: str, detector: AnyDetector, rounds: int) -> Measured:
    """All sides in turn, after one round that warms them up."""
    spec, content = detector.spec, onnx_of(detector)
    images = images_of(spec, COUNTS[spec.height], 7)
    smaller = quantised(content, images_of(spec, CALIBRATED, 8))
    runs = {BASE: by_onnxruntime(content, spec), BASE_INT8: by_onnxruntime(smaller, spec)}
    for side, file in ((OTHER, content), (OTHER_INT8, smaller)) if find_spec("openvino") else ():
        with suppress(RuntimeError):  # OpenVINO cannot compile it: the table says so
            runs[side] = by_openvino(file)
    wanted, taken = runs[BASE](images), {side: list[float]() for side in runs}
    differences = {side: float(np.abs(run(images) - wanted).max() / wanted.std()) for side, run in runs.items()}
    for _ in range(rounds):
        for side, run in runs.items():
            before = process_time()
            run(images)
            taken[side].append(process_time() - before)
    base = np.array(taken[BASE])
    ratios = {side: float(np.median(base / np.array(each))) for side, each in taken.items()}
    return Measured(name, 1000 * median(base) / len(images), ratios, differences)


def main() -> None:
    """Print the table, and write it where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = [measure(name, detector, arguments.rounds) for name, detector in detectors(arguments.only)]
    sides = [BASE_INT8, OTHER, OTHER_INT8] if find_spec("openvino") else [BASE_INT8]
    table = Table("detector", "ms an image", *sides, "int8: scores differ by", title="Over ONNX Runtime in floats")
    for each in found:
        ratios = [f"{each.ratios[side]:.2f}" if side in each.ratios else "cannot" for side in sides]
        table.add_row(each.name, f"{each.milliseconds:.2f}", *ratios, f"{each.differences[BASE_INT8]:.2g}")
    Console(width=120).print(table)
    if arguments.output:
        arguments.output.write_text(json.dumps([asdict(each) for each in found], indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
