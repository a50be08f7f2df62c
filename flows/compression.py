"""How far networks compress a pipeline's images: the error that is left against the bits of a code."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from ae_models.baselines import fit_principal_components
from ae_models.compression import Compression, compression_figure, measure_compression
from ae_models.embeddings import coder_of
from ae_models.networks import build_network
from ae_models.training import TrainingSettings, fit
from flows.codes import recorded
from flows.config import PipelineConfig
from flows.progress import Progress
from flows.sources import nominal_items
from flows.tracking import Tracking
from flows.training_images import read_nominal, spec_of, split

PCA = "principal components"
SWEEP: tuple[tuple[str, Mapping[str, Any]], ...] = (
    *((PCA, {"code_size": size}) for size in (4, 8, 16, 32, 64, 128)),
    *(("linear", {"code_size": size}) for size in (4, 8, 16, 32, 64, 128)),
    *(("convolutional", {"code_channels": channels}) for channels in (1, 2, 4, 8)),
)


@dataclass(frozen=True)
class CompressionReport:
    """What each network makes of held-out images at each size of its code."""

    pipeline: str
    n_training: int
    n_held_out: int
    results: tuple[Compression, ...]
    folder: str
    files: tuple[str, ...]
    run_id: str
    run_url: str


def compress(
    pipeline: PipelineConfig, tracking: Tracking, progress: Progress, output: Path, epochs: int = 20
) -> CompressionReport:
    """Principal components and networks of several code sizes, fitted to the pipeline's nominal images and measured on
    ones that none of them saw: `compression.csv` and `compression.png`, in `output` and in MLflow.

    Raises:
        InputError: the images do not allow a training.
    """
    images = read_nominal(pipeline, nominal_items(pipeline.data), progress)
    sides = split(pipeline, images)
    pixels, validation, held_out = (images.pixels[sides[side]] for side in ("train", "validation", "calibration"))
    wish = pipeline.training
    settings = TrainingSettings(epochs, wish.batch_size, wish.learning_rate, wish.patience, wish.seed, wish.device)
    results: dict[tuple[str, int], Compression] = {}  # small images allow fewer sizes than are asked for
    with progress.track("Compressing", len(SWEEP)) as advance:
        for name, parameters in SWEEP:
            network = _fitted(name, parameters, pixels, validation, settings)
            coder = coder_of(network, spec_of(pixels))
            result = measure_compression(name, coder, pixels, held_out)
            results[name, result.code_size] = result
            advance(1, f"{name}: {result.bits} bits, {result.psnr:.1f} dB")
    table = pd.DataFrame([asdict(result) for result in results.values()])
    with recorded(pipeline, tracking, "compression", output) as (folder, run_id):
        table.to_csv(folder / "compression.csv", index=False)
        compression_figure(list(results.values())).savefig(folder / "compression.png", dpi=110)
    return CompressionReport(
        pipeline.name,
        len(pixels),
        len(held_out),
        tuple(results.values()),
        str(output),
        ("compression.csv", "compression.png"),
        run_id,
        tracking.addresses.run(pipeline.name, run_id),
    )


def _fitted(
    name: str,
    parameters: Mapping[str, Any],
    pixels: NDArray[np.float32],
    validation: NDArray[np.float32],
    settings: TrainingSettings,
) -> nn.Module:
    spec = spec_of(pixels)
    if name == PCA:
        return fit_principal_components(pixels, spec, parameters["code_size"], settings.seed)
    return fit(lambda: build_network(name, spec, parameters), pixels, validation, settings).network
