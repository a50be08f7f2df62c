"""The challenger in the shadow of the champion: it scores the same batches, and decides none."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd

from ae_models.batch_tests import flagged_p_value
from ae_models.images import stream
from ae_models.training import choose_device
from flows.config import PipelineConfig
from flows.fetching import contents_of
from flows.ledger import BatchRecord
from flows.progress import Progress
from flows.sources import Batch, inbox_batches
from flows.tracking import ArtifactMissing, ChampionVersion, Tracking
from flows.workspace import Workspace

FOLDER = "shadow"  # of the challengers' scores among the artifacts of a batch's run
NEWEST = 20  # batches that a new challenger catches up with


@dataclass(frozen=True)
class Shadow:
    """A batch with the scores of champion and challenger: columns uri, score, flagged, audit, and challenger_score and
    challenger_flagged; one row an image that both could read."""

    record: BatchRecord
    table: pd.DataFrame


def challenger_of(pipeline: PipelineConfig, tracking: Tracking) -> ChampionVersion | None:
    """The version that is scored in the shadow; None where nobody challenges the champion."""
    found = tracking.registry.challenger(pipeline.name)
    if found is None:
        return None
    return tracking.registry.loaded(pipeline.name, found).on(choose_device(pipeline.training.device), pipeline.engine)


def score_in_shadow(
    batch: Batch, run_id: str, challenger: ChampionVersion, tracking: Tracking, progress: Progress
) -> None:
    """Put the challenger's scores of a batch beside the champion's, in the batch's run."""
    start, champion = perf_counter(), challenger.champion
    scores, readable = np.full(len(batch.items), np.nan), np.zeros(len(batch.items), np.bool_)
    with (
        progress.track(f"Scoring {batch.id} in the shadow", len(batch.items)) as advance,
        contents_of(batch.items) as contents,
    ):
        for part in stream(contents, champion.detector.spec):
            scores[part.indices], readable[part.indices] = champion.detector.score(part.pixels), True
            advance(len(part.indices) + len(part.unreadable))
    flagged = champion.threshold.flags(scores)
    uris = [item.uri for item in batch.items]
    table = pd.DataFrame({"uri": uris, "score": scores, "p_value": champion.p_values(scores), "flagged": flagged})
    table = table[readable]
    with tempfile.TemporaryDirectory() as folder:
        table.to_parquet(Path(folder) / f"{challenger.version}.parquet", index=False)
        tracking.log_folder(run_id, Path(folder), FOLDER)
    n_flagged = int(table["flagged"].sum())
    tracking.log(
        run_id,
        metrics={
            "challenger_version": float(challenger.version),
            "challenger_flagged": n_flagged,
            "challenger_flagged_p_value": flagged_p_value(n_flagged, len(table), champion.threshold),
            "challenger_images_per_second": len(batch.items) / max(perf_counter() - start, 1e-9),
        },
    )


def catch_up(pipeline: PipelineConfig, workspace: Workspace, challenger: ChampionVersion, progress: Progress) -> int:
    """Score the newest batches that lie in the inbox as they were decided in the shadow too; how many."""
    found = {batch.id: batch for batch in inbox_batches(pipeline.data)} if pipeline.data.inbox else {}
    scored = 0
    for record in workspace.ledger.batches.history(pipeline.name, NEWEST):
        batch = found.get(record.batch)
        if batch is None or batch.manifest_hash() != record.manifest_hash:
            continue
        try:
            score_in_shadow(batch, record.run_id, challenger, workspace.tracking, progress)
            scored += 1
        except Exception as error:
            progress.warn(f"Batch {record.batch} was not scored in the shadow: {error}")
    return scored


def shadows(pipeline: PipelineConfig, workspace: Workspace, version: str, limit: int) -> tuple[Shadow, ...]:
    """The newest decided batches that the version scored in the shadow, the newest first."""
    found = []
    for record in workspace.ledger.batches.history(pipeline.name, limit):
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = workspace.tracking.artifact(record.run_id, f"{FOLDER}/{version}.parquet", Path(folder))
                own = pd.read_parquet(path)
            table = workspace.tracking.scores(record.run_id)
        except ArtifactMissing:
            continue
        columns = [name for name in ("uri", "score", "flagged", "audit") if name in table]
        renamed = own.rename(columns={"score": "challenger_score", "flagged": "challenger_flagged"})
        kept = table.loc[table["status"] == "scored", columns]
        found.append(Shadow(record, kept.merge(renamed.drop(columns="p_value"), on="uri")))
    return tuple(found)
