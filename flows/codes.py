"""The codes that a pipeline's network gives images, on a map."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ae_models.calibration import Threshold
from ae_models.code_maps import MappedImages, map_figure, map_page
from ae_models.detector import AnyDetector, Detector
from ae_models.embeddings import CodeMap, best_projection, code_map, coder_of
from ae_models.errors import InputError
from flows.config import PipelineConfig
from flows.processes import this_process
from flows.progress import Progress
from flows.sources import Item, inbox_batches, labelled_items, nominal_items, path_batches
from flows.tracking import Tracking
from flows.training_images import ReadImages, read_images


@dataclass(frozen=True)
class Chosen:
    """What decides a pipeline's batches, or its newest trained detector where nothing does yet."""

    words: str
    detector: Detector
    threshold: Threshold | None


@dataclass(frozen=True)
class CodesReport:
    """What came of a network's codes: the files in `folder`, which are artifacts of the run as well."""

    pipeline: str
    detector: str
    n_images: int
    n_unreadable: int
    code_size: int
    notes: tuple[str, ...]
    folder: str
    files: tuple[str, ...]
    run_id: str
    run_url: str

    def sentences(self) -> tuple[str, ...]:
        """What came out, for people."""
        left_out = f" ({self.n_unreadable} more cannot be read)" if self.n_unreadable else ""
        return (
            f"{self.detector} of {self.pipeline}: {self.n_images} images{left_out}, codes of {self.code_size} numbers.",
            *self.notes,
            f"Written to {self.folder}: {', '.join(self.files)}",
        )


def draw_code_map(
    pipeline: PipelineConfig,
    tracking: Tracking,
    progress: Progress,
    output: Path,
    paths: Sequence[Path] = (),
    method: str | None = None,
    limit: int = 2000,
) -> CodesReport:
    """The codes of a data set on a map: `map.png`, `map.html` and `codes.parquet`, in `output` and in MLflow.

    The data set is what `paths` hold; without any, the pipeline's nominal images with its labelled ones or, where it
    has none, with the batches of its inbox.

    Raises:
        InputError: nothing was trained yet, the network has no code, or no image can be read.
    """
    chosen = choose_detector(pipeline, tracking)
    coder = coder_of(chosen.detector.network, chosen.detector.spec)
    images = read_some(data_set(pipeline, paths), chosen.detector, limit, pipeline.training.seed, progress)
    scores, codes = chosen.detector.score(images.pixels), coder.encode(images.pixels)
    labels = [item.label or "" for item in images.items]
    known = labels if len(set(labels)) > 1 else None
    progress.say(f"Mapping {len(codes)} codes of {coder.code_size} numbers.")
    drawn = code_map(codes, known, method or best_projection(), pipeline.training.seed)
    flagged = chosen.threshold.flags(scores) if chosen.threshold else None
    kinds = known or [drawn.names[cluster] for cluster in drawn.clusters]
    mapped = MappedImages([item.uri for item in images.items], kinds, scores, flagged, images.pixels)
    title = f"{pipeline.name}: codes of {chosen.words}, by {drawn.method}"
    with recorded(pipeline, tracking, "codes", output) as (folder, run_id):
        map_figure(drawn, mapped, title).savefig(folder / "map.png", dpi=110)
        (folder / "map.html").write_text(map_page(drawn, mapped, title), encoding="utf-8")
        _table(drawn, mapped, labels, codes).to_parquet(folder / "codes.parquet", index=False)
    notes = [f"The map is by {drawn.method}. Its clusters: {', '.join(drawn.names)}."]
    if drawn.method == "PCA" and best_projection() == "PCA":
        notes.append("UMAP tells kinds of images further apart: pip install 'reconwatch[umap]'.")
    if flagged is not None:
        notes.append(f"{int(flagged.sum())} of the images are flagged.")
    return CodesReport(
        pipeline.name,
        chosen.words,
        len(images.items),
        len(images.unreadable),
        coder.code_size,
        tuple(notes),
        str(output),
        ("map.png", "map.html", "codes.parquet"),
        run_id,
        tracking.addresses.run(pipeline.name, run_id),
    )


def choose_detector(pipeline: PipelineConfig, tracking: Tracking) -> Chosen:
    """The champion with its threshold, or else the newest trained detector.

    Raises:
        InputError: nothing was trained yet.
    """
    if tracking.registry.champion_version(pipeline.name) is not None:
        found = tracking.registry.champion(pipeline.name)
        return Chosen(f"champion {found.version}", _with_codes(found.champion.detector), found.champion.threshold)
    training = tracking.latest_training(pipeline.name)
    if training is None:
        raise InputError(
            f"pipeline {pipeline.name!r} has no trained detector yet: run 'reconwatch train {pipeline.name}'"
        )
    return Chosen("the newest detector", _with_codes(tracking.registry.detector(training.run_id)), None)


def _with_codes(detector: AnyDetector) -> Detector:
    """The detector itself, or the principal components that stand in for fused ones on features."""
    return detector if isinstance(detector, Detector) else detector.illustrator


def data_set(pipeline: PipelineConfig, paths: Sequence[Path]) -> list[Item]:
    """The images of `paths`, or those of the pipeline, each with a label: its own, or where it comes from."""
    if paths:
        return [replace(item, label=Path(item.uri).parent.name) for b in path_batches(paths) for item in b.items]
    items = [replace(item, label=item.label or "nominal") for item in nominal_items(pipeline.data).items]
    if labelled := labelled_items(pipeline.data):
        items += labelled[0].items
    elif pipeline.data.inbox is not None:
        for batch in inbox_batches(pipeline.data):
            items += [replace(item, label=item.label or batch.id) for item in batch.items]
    return items


def read_some(items: Sequence[Item], detector: Detector, limit: int, seed: int, progress: Progress) -> ReadImages:
    """The images, at most `limit` of them drawn by the seed, at the detector's size.

    Raises:
        InputError: none of them can be read.
    """
    kept = np.sort(np.random.default_rng(seed).permutation(len(items))[:limit])
    if len(kept) < len(items):
        progress.say(f"Taking {len(kept)} of {len(items)} images.")
    images = read_images([items[index] for index in kept], detector.spec, "Reading images", progress)
    if not images.items:
        reason = f", such as {images.unreadable[0][0]}: {images.unreadable[0][1]}" if images.unreadable else ""
        raise InputError(f"none of {len(kept)} images can be read{reason}: give readable images")
    return images


@contextmanager
def recorded(pipeline: PipelineConfig, tracking: Tracking, kind: str, output: Path) -> Iterator[tuple[Path, str]]:
    """A folder and an MLflow run's id; what is put into the folder comes to `output` and becomes artifacts."""
    tracking.end_abandoned(pipeline.name, kind)
    tags = {"reconwatch.process": this_process().owner()}
    with tracking.run(pipeline.name, kind, kind, tags) as run_id, tempfile.TemporaryDirectory() as name:
        yield Path(name), run_id
        tracking.log_folder(run_id, Path(name))
        output.mkdir(parents=True, exist_ok=True)
        for file in Path(name).iterdir():
            shutil.copy(file, output)


def _table(drawn: CodeMap, mapped: MappedImages, labels: Sequence[str], codes: NDArray[np.float32]) -> pd.DataFrame:
    unknown = pd.array([pd.NA] * len(mapped.names), dtype="boolean")
    return pd.DataFrame(
        {
            "uri": mapped.names,
            "label": labels,
            "cluster": [drawn.names[cluster] for cluster in drawn.clusters],
            "score": mapped.scores,
            "flagged": unknown if mapped.flagged is None else mapped.flagged,
            "across": drawn.points[:, 0],
            "up": drawn.points[:, 1],
            "code": list(codes),
        }
    )
