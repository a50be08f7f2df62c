"""Images that a pipeline's network decodes from codes that no image has."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ae_models.embeddings import Coder, coder_of, samples_near, samples_of_gaussian, samples_of_prior, walk
from ae_models.errors import InputError
from ae_models.networks import VariationalAutoencoder
from ae_models.panels import image_rows
from flows.codes import Chosen, CodesReport, choose_detector, read_some, recorded
from flows.config import PipelineConfig
from flows.progress import Progress
from flows.sources import nominal_items, path_batches
from flows.tracking import Tracking

DISTANCES = (0.25, 0.5, 1.0)  # of a sample from the code that it is drawn around, in standard deviations
SHOWN = 10  # images in a row
WALKS = 5
USED = 1000  # nominal images whose codes the normal distribution is fitted to


def decode_codes(
    pipeline: PipelineConfig,
    tracking: Tracking,
    progress: Progress,
    output: Path,
    between: Sequence[Path] = (),
    seed: int = 0,
) -> CodesReport:
    """New images: `samples.png` and `walks.png`, in `output` and in MLflow.

    Samples are decoded from codes around those of nominal images, from a normal distribution that is fitted to theirs
    and, of a variational network, from its prior. Walks go between nominal images, or between the two of `between`.

    Raises:
        InputError: nothing was trained yet, the network has no code, or images are missing or cannot be read.
    """
    chosen = choose_detector(pipeline, tracking)
    coder = coder_of(chosen.detector.network, chosen.detector.spec)
    ends = _ends(between, chosen, progress)
    images = read_some(nominal_items(pipeline.data).items, chosen.detector, USED, seed, progress)
    order = np.random.default_rng(seed).permutation(len(images.pixels))
    if ends is None:
        ends = images.pixels[np.resize(order, 2 * WALKS)].reshape(WALKS, 2, *images.pixels.shape[1:])
    samples = sample_rows(coder, images.pixels, images.pixels[order[:SHOWN]], seed)
    with recorded(pipeline, tracking, "decode", output) as (folder, run_id):
        image_rows(samples).save(folder / "samples.png", optimize=True)
        image_rows(walk_rows(coder, ends)).save(folder / "walks.png", optimize=True)
    return CodesReport(
        pipeline.name,
        chosen.words,
        len(images.items),
        len(images.unreadable),
        coder.code_size,
        (),
        str(output),
        ("samples.png", "walks.png"),
        run_id,
        tracking.addresses.run(pipeline.name, run_id),
    )


def sample_rows(
    coder: Coder, images: NDArray[np.float32], shown: NDArray[np.float32], seed: int
) -> dict[str, NDArray[np.float32]]:
    """Rows of images (K, C, H, W) by title: the shown ones and what is decoded around and far from their codes.

    Args:
        coder: of the network.
        images: (N, C, H, W) in [0, 1], whose codes say what codes are like.
        shown: (K, C, H, W) in [0, 1].
        seed: draws the codes.
    """
    codes, own = coder.encode(images), coder.encode(shown)
    near = samples_near(own, codes.std(axis=0), DISTANCES, seed)
    rows = {"images": shown, "decoded from their codes": coder.decode(own)}
    for index, distance in enumerate(DISTANCES):
        rows[f"decoded at {distance:g} of a standard deviation from their codes"] = coder.decode(near[:, index])
    fitted = samples_of_gaussian(codes, len(shown), seed)
    rows["decoded from a normal distribution fitted to all codes"] = coder.decode(fitted)
    if isinstance(coder.network, VariationalAutoencoder):
        prior = samples_of_prior(coder.code_size, len(shown), seed)
        rows["decoded from the prior, a standard normal distribution"] = coder.decode(prior)
    return rows


def walk_rows(coder: Coder, ends: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """A row of images (K, C, H, W) for each pair of images of `ends` (W, 2, C, H, W): from the first to the second."""
    rows = {}
    for number, pair in enumerate(ends, start=1):
        start, end = coder.encode(pair)
        steps = coder.decode(walk(start, end, SHOWN))
        title = f"walk {number}: an image, what is decoded from its code to the other one's, the other image"
        rows[title] = np.concatenate([pair[:1], steps, pair[1:]])
    return rows


def _ends(paths: Sequence[Path], chosen: Chosen, progress: Progress) -> NDArray[np.float32] | None:
    """The two images (1, 2, C, H, W) of a walk, where they are named."""
    if not paths:
        return None
    items = [item for batch in path_batches(paths) for item in batch.items]
    images = read_some(items, chosen.detector, len(items), 0, progress)
    if len(images.items) != 2:
        raise InputError(f"a walk is between two readable images, not {len(images.items)}: name two image files")
    return images.pixels[None]
