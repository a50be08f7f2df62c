"""The champion that decided last, kept in the workspace: it decides on while the MLflow server does not answer."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

from ae_models.champion import Champion
from ae_models.errors import InputError
from flows.progress import Progress
from flows.tracking import ChampionVersion, TrackingUnavailable
from flows.workspace import Workspace

FOLDER, LAST = "champions", "last.json"


def deciding_champion(workspace: Workspace, pipeline: str, progress: Progress) -> ChampionVersion:
    """The champion of the registry; the one that it last gave, where its server does not answer.

    Raises:
        InputError: there is none.
        TrackingUnavailable: the server does not answer, and nothing was scored here before.
    """
    tracking, folder = workspace.tracking, workspace.settings.workspace / FOLDER / pipeline
    try:
        if tracking.answers():
            champion = tracking.registry.champion(pipeline)
            if not tracking.embedded:
                _keep(champion, folder, progress)
            return champion
    except InputError:
        raise
    except Exception:
        if tracking.answers():
            raise
    champion = _kept(folder, pipeline, tracking.shown_uri)
    progress.warn(
        f"The MLflow server {tracking.shown_uri} does not answer: version {champion.version} of {pipeline}, which "
        "decided last, decides on, and the runs of its batches wait"
    )
    return champion


def _keep(champion: ChampionVersion, folder: Path, progress: Progress) -> None:
    try:
        _replace(champion, folder)
    except OSError as error:  # it decides, whether it is kept or not
        progress.warn(f"The champion cannot be kept in {folder} for when MLflow does not answer: {error}")


def _replace(champion: ChampionVersion, folder: Path) -> None:
    """Beside the last one first, and then in its place by one write of `last.json`."""
    document = {
        "version": champion.version,
        "calibration_run": champion.calibration_run,
        "training_run": champion.training_run,
    }
    last = folder / LAST
    if last.exists() and last.read_text(encoding="utf-8") == json.dumps(document):
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        champion.champion.save(Path(scratch) / "champion")
        (Path(scratch) / LAST).write_text(json.dumps(document), encoding="utf-8")
        place = folder / champion.calibration_run
        shutil.rmtree(place, ignore_errors=True)
        (Path(scratch) / "champion").rename(place)
        os.replace(Path(scratch) / LAST, last)
    for old in folder.iterdir():
        if old.is_dir() and old.name != champion.calibration_run:
            shutil.rmtree(old, ignore_errors=True)


def _kept(folder: Path, pipeline: str, server: str) -> ChampionVersion:
    try:
        document = json.loads((folder / LAST).read_text(encoding="utf-8"))
        return ChampionVersion(**document, champion=Champion.load(folder / str(document["calibration_run"])))
    except (OSError, ValueError, TypeError, KeyError, InputError) as error:
        raise TrackingUnavailable(
            f"the MLflow server {server} does not answer, and this workspace holds no champion of {pipeline!r} to go "
            "on with: start the server, and run again"
        ) from error
