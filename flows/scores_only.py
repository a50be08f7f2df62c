"""Scores of images in a file and nothing else: no record, no verdict, no alert, no waiting for PyTorch or MLflow."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ae_models.champion import LeanChampion
from ae_models.errors import InputError
from flows.config import PipelineConfig, Settings
from flows.deciding_version import deciding_run
from flows.items import Batch
from flows.kept_champions import forget_champion, kept_champion
from flows.progress import Progress
from flows.rows import Decider, rows_of, scores_of
from flows.sources import path_batches


@dataclass(frozen=True)
class ScoresOnly:
    """How many images of a batch were scored, flagged and could not be read."""

    pipeline: str
    batch: str
    scored: int
    flagged: int
    unreadable: int

    def sentence(self) -> str:
        """The numbers for people."""
        return f"{self.batch}: {self.scored} scored, {self.flagged} flagged, {self.unreadable} unreadable"


def write_scores_only(
    settings: Settings,
    name: str,
    paths: Sequence[Path],
    output: Path,
    environment: Mapping[str, str],
    progress: Progress,
) -> tuple[ScoresOnly, ...]:
    """Write one row an image of the paths to a Parquet file, by the version that decides now.

    Raises:
        InputError: the pipeline has no champion, a path is not there, or there is no image in any.
    """
    pipeline = settings.pipeline(name)
    batches = [batch for batch in path_batches(paths, pipeline.data) if batch.items]
    if not batches:
        raise InputError(f"there is no image in {', '.join(map(str, paths))}: nothing was written to {output}")
    decider = _kept(settings, pipeline, environment) or _from_registry(settings, pipeline, environment)
    tables = [_rows(batch, decider, pipeline, progress) for batch in batches]
    _write(tables, output)
    return tuple(
        ScoresOnly(
            name,
            batch.id,
            int((table["status"] == "scored").sum()),
            int(table["flagged"].sum()),
            int((table["status"] == "unreadable").sum()),
        )
        for batch, table in zip(batches, tables, strict=True)
    )


def _rows(batch: Batch, decider: Decider, pipeline: PipelineConfig, progress: Progress) -> dict[str, Any]:
    scores, reasons = scores_of(batch, decider, f"Scoring {pipeline.name} {batch.id}", progress)
    return rows_of(batch, decider, scores, reasons, pipeline, batch.manifest_hash())


def _kept(settings: Settings, pipeline: PipelineConfig, environment: Mapping[str, str]) -> LeanChampion | None:
    """The version that decides now, from its copy in the workspace; None where PyTorch or MLflow has to be asked."""
    if pipeline.engine == "torch" or pipeline.training.device not in ("auto", "cpu"):
        return None
    run_id = deciding_run(settings, environment, pipeline.name)
    files = run_id and kept_champion(settings.workspace, pipeline.name, run_id)
    if not files:
        return None
    try:
        return LeanChampion.load(files)
    except InputError:
        forget_champion(files)
        return None


def _from_registry(settings: Settings, pipeline: PipelineConfig, environment: Mapping[str, str]) -> Decider:
    from ae_models.training import choose_device
    from flows.tracking import Tracking

    version = Tracking(settings, environment).registry.champion(pipeline.name)
    return version.on(choose_device(pipeline.training.device), pipeline.engine).champion


def _write(tables: Sequence[Mapping[str, Any]], path: Path) -> None:
    """The rows as Parquet, whole or not at all."""
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        parquet.write_table(pyarrow.concat_tables(map(pyarrow.table, tables)), file.name)
    os.replace(file.name, path)
