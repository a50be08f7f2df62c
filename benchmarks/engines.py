"""What other engines and 8-bit integers would gain: the scoring graph by ONNX Runtime and OpenVINO, as floats and int8.

    python -m benchmarks.engines [--rounds 5] [--only convolutional auto] [--output engines.json]

All run one thread, in turn, on the same parts of images as scoring does; the medians of the ratios of processor time to
ONNX Runtime's in floats are told. Weights are drawn, but "auto" is chosen and fitted, from the recipes in closed form.
int8 is that of `ae_models.int8`, which the product runs by OpenVINO alone. Beside it stands how far its scores are from
the floats', at most, in deviations of scores.
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import process_time
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from ae_models.detector import AnyDetector, Detector
from ae_models.front_ends import build_front_end
from ae_models.graph import Graph
from ae_models.graph_export import NotExportable, onnx_of
from ae_models.images import FeatureSpec, ImageSpec
from ae_models.int8 import RANGED, convolutional_members, quantised
from ae_models.networks import build_network
from ae_models.scoring import Score
from ae_models.selection import NominalParts, Recipe, linear_recipes, select, trained_recipes
from ae_models.synthetic_defects import draw_defects

SIZES = (ImageSpec(28, 28, 1), ImageSpec(128, 128, 1), ImageSpec(256, 256, 3))
WIDTHS = {28: [32, 32], 128: [32, 64, 128, 256], 256: [32, 64, 128, 256]}
COUNTS = {28: 256, 128: 32, 256: 8}  # images that are scored in a round
KINDS = ("linear", "convolutional", "variational", "unet", "resnet", "auto", "restoration")
BASE, BASE_INT8, OTHER, OTHER_INT8 = "ONNX Runtime", "ONNX Runtime, int8", "OpenVINO", "OpenVINO, int8"


@dataclass(frozen=True)
class Measured:
    """One detector: milliseconds an image in floats by ONNX Runtime, and every side's ratio to it and difference."""

    name: str
    milliseconds: float
    ratios: dict[str, float]
    differences: dict[str, float]  # the largest of the scores, in deviations


def images_of(spec: ImageSpec, count: int, seed: int = 0) -> NDArray[np.float32]:
    """Images (count, C, H, W) in [0, 1]: waves and noise."""
    random, (down, across) = np.random.default_rng(seed), np.mgrid[0 : spec.height, 0 : spec.width] / 16
    waves = np.sin(across * random.uniform(1, 3, (count, spec.channels, 1, 1))) * np.cos(down)
    noise = random.normal(0, 0.02, (count, *spec.shape))
    images: NDArray[np.float32] = np.clip(0.5 + 0.3 * waves + noise, 0, 1).astype(np.float32)
    return images


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
    graphs = {BASE: Graph(content, spec), OTHER: Graph(content, spec, runtime="openvino")}
    with suppress(NotExportable):  # no network of it is convolutional: the table says so
        smaller = quantised(content, convolutional_members(detector), images_of(spec, RANGED, 8))
        graphs |= {BASE_INT8: Graph(smaller, spec), OTHER_INT8: Graph(smaller, spec, int8=True, runtime="openvino")}
    wanted, taken = graphs[BASE].score(images, threads=1), {side: list[float]() for side in graphs}
    apart = {side: graph.score(images, threads=1) - wanted for side, graph in graphs.items()}
    for _ in range(rounds):
        for side, graph in graphs.items():
            before = process_time()
            graph.score(images, threads=1)
            taken[side].append(process_time() - before)
    base = np.array(taken[BASE])
    ratios = {side: float(np.median(base / np.array(each))) for side, each in taken.items()}
    differences = {side: float(np.abs(each).max() / wanted.std()) for side, each in apart.items()}
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
    sides = [BASE_INT8, OTHER, OTHER_INT8]
    table = Table("detector", "ms an image", *sides, "int8: scores differ by", title="Over ONNX Runtime in floats")
    for each in found:
        ratios = [f"{each.ratios[side]:.2f}" if side in each.ratios else "cannot" for side in sides]
        apart = f"{each.differences[OTHER_INT8]:.2g}" if OTHER_INT8 in each.differences else ""
        table.add_row(each.name, f"{each.milliseconds:.2f}", *ratios, apart)
    Console(width=120).print(table)
    if arguments.output:
        arguments.output.write_text(json.dumps([asdict(each) for each in found], indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
