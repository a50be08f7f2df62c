"""What a network is worth as a compressor: the error that is left, against the bits of its code."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ae_models.embeddings import Coder

BITS_PER_NUMBER = 8


@dataclass(frozen=True)
class Compression:
    """How well images survive a code of so many bits.

    Attributes:
        network: its name.
        code_size: numbers in a code.
        bits: of a quantised code: `BITS_PER_NUMBER` for each number.
        bits_per_pixel: the same over the image's height times width.
        psnr: peak signal-to-noise ratio of the images from quantised codes, in decibels; higher is better.
        psnr_unquantised: of the images from the codes as they are.
    """

    network: str
    code_size: int
    bits: int
    bits_per_pixel: float
    psnr: float
    psnr_unquantised: float


def measure_compression(
    network: str, coder: Coder, images: NDArray[np.float32], others: NDArray[np.float32]
) -> Compression:
    """What the coder makes of `others` (M, C, H, W) with the range of each number taken from `images` (N, C, H, W).

    Both are in [0, 1]; `others` are images that the network never saw.
    """
    codes, reference = coder.encode(others), coder.encode(images)
    quantised = quantise(codes, reference.min(axis=0), reference.max(axis=0))
    bits = coder.code_size * BITS_PER_NUMBER
    return Compression(
        network,
        coder.code_size,
        bits,
        bits / math.prod(others.shape[2:]),
        psnr(others, coder.decode(quantised)),
        psnr(others, coder.decode(codes)),
    )


def quantise(codes: NDArray[np.float32], low: NDArray[np.float32], high: NDArray[np.float32]) -> NDArray[np.float32]:
    """The codes (N, D) with each number at the nearest of 2**8 evenly spaced levels from `low` (D,) to `high` (D,)."""
    levels, span = 2**BITS_PER_NUMBER - 1, np.where(high > low, high - low, 1)
    steps = np.rint(np.clip((codes - low) / span, 0, 1) * levels)
    return np.asarray(low + steps / levels * span, np.float32)


def psnr(images: NDArray[np.float32], others: NDArray[np.float32]) -> float:
    """Peak signal-to-noise ratio, in decibels, of all images (N, C, H, W) with white at 1; infinite where equal."""
    error = float(np.square(images.astype(np.float64) - np.clip(others, 0, 1)).mean())
    return 10 * math.log10(1 / error) if error else math.inf


def compression_figure(results: Sequence[Compression]) -> Figure:
    """PSNR against the bits of a code, one line a network; quantised codes as solid lines, unquantised ones dotted."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(result.network for result in results):
        points = sorted((result for result in results if result.network == name), key=lambda result: result.bits)
        bits = [point.bits for point in points]
        (line,) = axes.plot(bits, [point.psnr for point in points], marker="o", label=name)
        axes.plot(bits, [point.psnr_unquantised for point in points], linestyle=":", color=line.get_color())
    axes.set(xscale="log", xlabel=f"bits of a code ({BITS_PER_NUMBER} a number)", ylabel="PSNR in dB")
    axes.set_xscale("log", base=2)
    axes.grid(alpha=0.3)
    axes.legend(title="dotted: not quantised")
    return figure
