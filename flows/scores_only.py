"""Scores of images in a file: no record, no verdict, no alert, and no waiting for PyTorch or MLflow."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ae_models.champion import LeanChampion
from ae_models.errors import InputError
from ae_models.graph import FILE
from ae_models.sessions import OpenvinoMissing
from flows.config import PipelineConfig, Settings
from flows.deciding_version import deciding_run
from flows.items import KEPT_BYTES, Batch
from flows.kept_champions import forget_champion, kept_champion
from flows.progress import Progress
from flows.rows import Decider, rows_of, score_here
from flows.sources import path_batches

if TYPE_CHECKING:
    import pandas as pd


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


def write_rows(
    settings: Settings,
    name: str,
    paths: Sequence[Path],
    output: Path,
    environment: Mapping[str, str],
    progress: Progress,
    scored: "Mapping[str, pd.DataFrame]" = MappingProxyType({}),
) -> tuple[ScoresOnly, ...]:
    """Write one row an image of the paths to a Parquet file, by the version that decides now.

    Batches whose rows are there already, by name in `scored`, are not scored again.

    Raises:
        InputError: the pipeline has no champion, a path is not there, or there is no image in any.
    """
    pipeline = settings.pipeline(name)
    batches = [batch for batch in path_batches(paths, pipeline.data) if batch.items]
    if not batches:
        raise InputError(f"there is no image in {', '.join(map(str, paths))}: nothing was written to {output}")
    tables = {batch.id: _columns(scored[batch.id]) for batch in batches if batch.id in scored}
    if absent := [batch for batch in batches if batch.id not in tables]:
        decider = _kept(settings, pipeline, environment) or _from_registry(settings, pipeline, environment, progress)
        tables |= {batch.id: _rows(batch, decider, pipeline, progress) for batch in absent}
    _write([tables[batch.id] for batch in batches], output)
    return tuple(
        ScoresOnly(
            name,
            batch.id,
            int((tables[batch.id]["status"] == "scored").sum()),
            int(tables[batch.id]["flagged"].sum()),
            int((tables[batch.id]["status"] == "unreadable").sum()),
        )
        for batch in batches
    )


def _columns(table: "pd.DataFrame") -> dict[str, Any]:
    return {str(name): table[name].to_numpy() for name in table}


def _rows(batch: Batch, decider: Decider, pipeline: PipelineConfig, progress: Progress) -> dict[str, Any]:
    manifest_hash = batch.manifest_hash(keep=KEPT_BYTES)
    with progress.track(f"Scoring {pipeline.name} {batch.id}", len(batch.items)) as advance:
        kept = batch.kept.of(manifest_hash)
        batch.kept.forget()  # once these are scored
        scored = score_here(batch.items, decider.detector, advance, kept=kept)
    return rows_of(batch, decider, scored, pipeline, manifest_hash)


def _kept(settings: Settings, pipeline: PipelineConfig, environment: Mapping[str, str]) -> LeanChampion | None:
    """The version that decides now, from its copy in the workspace; None where PyTorch or MLflow has to be asked."""
    if pipeline.engine == "torch" or pipeline.training.device not in ("auto", "cpu"):
        return None
    run_id = deciding_run(settings, environment, pipeline.name)
    files = run_id and kept_champion(settings.workspace, pipeline.name, run_id)
    if not files or not (files / FILE).exists():
        return None
    try:
        champion = LeanChampion.load(files)
        return replace(champion, detector=champion.detector.by(pipeline.engine))
    except OpenvinoMissing:
        raise
    except InputError:
        forget_champion(files)
        return None


def _from_registry(
    settings: Settings, pipeline: PipelineConfig, environment: Mapping[str, str], progress: Progress
) -> Decider:
    from ae_models.training import choose_device
    from flows.deciding_champion import deciding_champion
    from flows.workspace import Patience, open_tracking

    tracking = open_tracking(settings, environment, patience=Patience(goes_on=True))
    version = deciding_champion(tracking, settings.workspace, pipeline.name, progress)
    return version.on(choose_device(pipeline.training.device), pipeline.engine).champion


def _write(tables: Sequence[Mapping[str, Any]], path: Path) -> None:
    """The rows as Parquet, whole or not at all."""
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        parquet.write_table(pyarrow.concat_tables(map(pyarrow.table, tables)), file.name)
    os.replace(file.name, path)
