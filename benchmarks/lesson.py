"""Every system of the lesson on Fashion-MNIST: a table, a JSON file, and the pictures of docs/guide/autoencoders.md.

    python benchmarks/lesson.py --data FOLDER [--output docs/pictures] [--json benchmarks/lesson.json]

FOLDER is the root that torchvision.datasets.FashionMNIST takes. One seed and few images: it shows what each system
does, and is no ranking. Each network is trained twice: on all ten classes (reconstruction, pictures), and on bags
alone (how well its mean squared error tells other things from bags).
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torchvision.datasets import FashionMNIST

from ae_models.baselines import fit_principal_components
from ae_models.code_maps import MappedImages, map_figure
from ae_models.compression import Compression, compression_figure, measure_compression, psnr
from ae_models.corruptions import Corruption, build_corruption
from ae_models.curves import auroc
from ae_models.detector import Detector
from ae_models.embeddings import Coder, best_projection, code_map, coder_of
from ae_models.images import ImageSpec
from ae_models.networks import build_network
from ae_models.panels import image_rows
from ae_models.training import TrainingSettings, fit
from flows.decoding import sample_rows, walk_rows

SPEC = ImageSpec(28, 28, 1)
NOMINAL = "Bag"
TRAINING, VALIDATION, TEST = 1500, 200, 1000  # images of all classes
BAGS = 500  # to train on
SHOWN, SEED = 10, 0
Images = NDArray[np.float32]


@dataclass(frozen=True)
class System:
    """One system of the lesson: its number and name there, and what it is made of and trained with."""

    title: str
    network: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 12
    learning_rate: float = 3e-3
    corruption: str = "none"


SYSTEMS = {
    "linear": System("1 linear", "linear", {"code_size": 32}, epochs=40),
    "transposed": System(
        "2 transposed convolution", "convolutional", {"widths": [3], "decoder": "transposed"}, 12, 3e-2
    ),
    "upsampling": System("3 upsampling", "convolutional", {"widths": [3]}, 12, 3e-2),
    "deep": System("4 deep convolutional", "convolutional", {"widths": [32, 32]}),
    "resnet": System("5 ResNet-18, random weights", "resnet", {"depth": 18}, 5, 1e-3),
    "denoising": System("6 denoising", "convolutional", {"widths": [32, 32]}, corruption="gaussian"),
    "inpainting": System("7 inpainting", "convolutional", {"widths": [32, 64, 64]}, corruption="masks"),
    "variational": System("9 variational", "variational", epochs=14),
    "restoring": System("restoring U-net", "unet", epochs=6, corruption="coarse"),
}
COMPRESSORS = (
    *(System("linear", "linear", {"code_size": size}, epochs=40) for size in (8, 32, 128)),
    *(System("convolutional", "convolutional", {"code_channels": size}, epochs=8) for size in (1, 4, 16)),
)
COMPONENTS = (4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Measured:
    """What a system did: decibels on test images of all classes, and AUROC with its 95 % interval, bags as nominal."""

    system: str
    parameters: int
    code_size: int | None
    seconds: float
    psnr: float
    auroc: float
    auroc_low: float
    auroc_high: float


def main() -> None:
    """Train everything, print the table, write JSON and pictures."""
    arguments = _arguments()
    start = perf_counter()
    data = Data(arguments.data)
    networks, rows = {}, [measure_components(data)]
    for name, system in SYSTEMS.items():
        networks[name], row = measure(system, data)
        rows.append(row)
        print(_line(row), flush=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    compressions = compress(data)
    draw(networks, data, compressions, arguments.output)
    document = {
        "nominal": NOMINAL,
        "systems": [asdict(row) for row in rows],
        "compression": [asdict(result) for result in compressions],
        "checkerboard": checkerboards(networks),
        "seconds": round(perf_counter() - start, 1),
    }
    arguments.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print("\n".join(["", *map(_line, rows), f"{document['seconds']} s", json.dumps(document["checkerboard"])]))


class Data:
    """Fashion-MNIST: images (N, 1, 28, 28) in [0, 1] and labels, drawn by the seed."""

    def __init__(self, root: Path) -> None:
        training, test = (FashionMNIST(str(root), train=train) for train in (True, False))
        self.classes: list[str] = training.classes
        pixels, labels = _drawn(training)
        self.training, self.validation = np.split(pixels[: TRAINING + VALIDATION], [TRAINING])
        bags = pixels[labels == self.classes.index(NOMINAL)]
        self.bags, self.more_bags = bags[:BAGS], bags[BAGS : BAGS + VALIDATION]
        pixels, labels = _drawn(test)
        self.test, self.labels = pixels[:TEST], [self.classes[label] for label in labels[:TEST]]
        self.nominal = labels == self.classes.index(NOMINAL)
        self.all_test = pixels


def measure(system: System, data: Data) -> tuple[nn.Module, Measured]:
    """The system trained on all classes, and its figures."""
    start = perf_counter()
    network = _trained(system, data.training, data.validation)
    seconds = perf_counter() - start
    nominal = _trained(system, data.bags, data.more_bags)
    return network, _measured(system.title, network, nominal, data, seconds)


def measure_components(data: Data) -> Measured:
    """Principal components, which every network has to beat."""
    start = perf_counter()
    network = fit_principal_components(data.training, SPEC, 32, SEED)
    seconds = perf_counter() - start
    nominal = fit_principal_components(data.bags, SPEC, 32, SEED)
    return _measured("principal components", network, nominal, data, seconds)


def compress(data: Data) -> list[Compression]:
    """Bits and decibels of codes of several sizes."""
    fitted: list[tuple[str, nn.Module]] = [
        ("principal components", fit_principal_components(data.training, SPEC, size, SEED)) for size in COMPONENTS
    ]
    fitted += [(system.title, _trained(system, data.training, data.validation)) for system in COMPRESSORS]
    return [measure_compression(name, coder_of(network, SPEC), data.training, data.test) for name, network in fitted]


def checkerboards(networks: Mapping[str, nn.Module]) -> dict[str, float]:
    """How strong a pattern of every second pixel the decoders paint into flat grey images, in thousandths of white."""
    found = {}
    for name in ("transposed", "upsampling"):
        untrained = [_pattern(_untrained(name, seed)) for seed in range(20)]
        found[f"{name}, at initialisation"] = sum(untrained) / len(untrained)
        found[f"{name}, trained"] = _pattern(networks[name])
    return {name: round(1000 * value, 2) for name, value in found.items()}


def draw(networks: Mapping[str, nn.Module], data: Data, compressions: list[Compression], folder: Path) -> None:
    """The pictures of the page, each below 120 KB."""
    shown, more = data.test[:SHOWN], data.test[SHOWN : 2 * SHOWN]
    rows = {"images": shown}
    for name, system in SYSTEMS.items():
        rows[system.title] = _output(networks[name], shown)
    _save(image_rows(rows), folder / "lesson-reconstructions.png")
    _save(image_rows(_checkerboard_rows(networks, shown)), folder / "lesson-checkerboard.png")
    for name in ("denoising", "inpainting", "restoring"):
        corrupted = _corrupted(SYSTEMS[name].corruption, shown)
        rows = {"images": shown, "corrupted": corrupted, "restored": _output(networks[name], corrupted)}
        _save(image_rows(rows), folder / f"lesson-{name}.png")
    _save_figure(compression_figure(compressions), folder / "lesson-compression.png")
    _draw_map(coder_of(networks["deep"], SPEC), data, folder / "lesson-map.png")
    for name in ("deep", "variational"):
        coder = coder_of(networks[name], SPEC)
        _save(image_rows(sample_rows(coder, data.training, shown, SEED)), folder / f"lesson-samples-{name}.png")
        walks = walk_rows(coder, np.stack([shown, more], axis=1)[:4])
        _save(image_rows(walks), folder / f"lesson-walks-{name}.png")


def _trained(system: System, images: Images, validation: Images) -> nn.Module:
    settings = TrainingSettings(
        epochs=system.epochs, learning_rate=system.learning_rate, patience=system.epochs, seed=SEED, device="cpu"
    )
    corruption: Corruption | None = None
    if system.corruption != "none":
        corruption = build_corruption(system.corruption, {})
    build = lambda: build_network(system.network, SPEC, system.parameters)  # noqa: E731 (as short as its use)
    return fit(build, images, validation, settings, corruption=corruption).network


def _measured(title: str, network: nn.Module, nominal: nn.Module, data: Data, seconds: float) -> Measured:
    area = auroc(Detector(SPEC, "", {}, nominal).score(data.all_test), ~data.nominal)
    return Measured(
        title,
        sum(p.numel() for p in network.parameters()) or sum(b.numel() for b in network.buffers()),
        coder_of(network, SPEC).code_size if hasattr(network, "encode") else None,
        round(seconds, 1),
        round(psnr(data.test, _output(network, data.test)), 2),
        *(round(value, 4) for value in (area.value, area.low, area.high)),
    )


def _output(network: nn.Module, images: Images) -> Images:
    return Detector(SPEC, "", {}, network).reconstruct(images)


def _corrupted(name: str, images: Images) -> Images:
    generator = torch.Generator().manual_seed(SEED)
    return build_corruption(name, {})(torch.from_numpy(images), generator).numpy()


def _checkerboard_rows(networks: Mapping[str, nn.Module], shown: Images) -> dict[str, Images]:
    rows = {}
    for name in ("transposed", "upsampling"):
        flat = np.concatenate([_output(_untrained(name, seed), _flat(0.5)) for seed in range(SHOWN)])
        rows[f"{name}: a flat grey image through ten networks that never learnt, contrast stretched"] = _stretched(flat)
    for name in ("transposed", "upsampling"):
        rows[f"{name}: after training, the middle of each reconstruction"] = _output(networks[name], shown)[
            ..., 7:21, 7:21
        ]
    return rows


def _untrained(name: str, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        system = SYSTEMS[name]
        return build_network(system.network, SPEC, system.parameters).eval()


def _flat(*greys: float) -> Images:
    return np.stack([np.full(SPEC.shape, grey, np.float32) for grey in greys])


def _pattern(network: nn.Module) -> float:
    """The deviation, over the four places in a square of 2 x 2 pixels, of what a flat image becomes at that place."""
    inner = _output(network, _flat(0.1, 0.3, 0.5, 0.7, 0.9))[..., 4:-4, 4:-4]
    places = [inner[..., row::2, column::2].mean(axis=(1, 2, 3)) for row in (0, 1) for column in (0, 1)]
    return float(np.std(places, axis=0).mean())


def _stretched(images: Images) -> Images:
    """The images' inner parts, away from the border's own effect, from black to white."""
    inner = images[..., 7:21, 7:21]
    low, high = inner.min(axis=(2, 3), keepdims=True), inner.max(axis=(2, 3), keepdims=True)
    return np.where(high - low > 1e-6, (inner - low) / np.maximum(high - low, 1e-6), 0.5).astype(np.float32)


def _draw_map(coder: Coder, data: Data, path: Path) -> None:
    drawn = code_map(coder.encode(data.test), data.labels, best_projection(), SEED)
    mapped = MappedImages([""] * TEST, data.labels, np.zeros(TEST), None, data.test)
    title = f"Fashion-MNIST: codes of the deep convolutional network, {coder.code_size} numbers each, by {drawn.method}"
    _save_figure(map_figure(drawn, mapped, title), path)


def _drawn(data: FashionMNIST) -> tuple[Images, NDArray[np.int64]]:
    order = np.random.default_rng(SEED).permutation(len(data))
    return (data.data.numpy()[order, None] / 255).astype(np.float32), data.targets.numpy()[order]


def _save(picture: Image.Image, path: Path) -> None:
    half = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    half.convert("L").quantize(32).save(path, optimize=True)


def _save_figure(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=80)
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(64)
    small.save(path, optimize=True)


def _line(row: Measured) -> str:
    code = "-" if row.code_size is None else str(row.code_size)
    return (
        f"| {row.system} | {row.parameters:,} | {code} | {row.seconds:.0f} s | {row.psnr:.1f} dB "
        f"| {row.auroc:.3f} ({row.auroc_low:.3f} to {row.auroc_high:.3f}) |"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the root that torchvision's FashionMNIST takes")
    parser.add_argument("--output", type=Path, default=Path("docs/pictures"), help="the folder for the pictures")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/lesson.json"), help="the file for the figures")
    return parser.parse_args()


if __name__ == "__main__":
    main()
