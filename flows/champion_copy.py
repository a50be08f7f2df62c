"""The champion that decided last, kept in the workspace: it decides on while the MLflow server does not answer."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from ae_models.champion import Champion
from ae_models.errors import InputError
from flows.progress import Progress
from flows.tracking import ChampionVersion, TrackingUnavailable
from flows.workspace import Workspace

FOLDER, LAST = "champions", "last.json"
CALIBRATION = "reconwatch.calibration_run"  # the tag of a version


def deciding_champion(workspace: Workspace, pipeline: str, progress: Progress) -> ChampionVersion:
    """The champion of the registry; the one that it last gave, where its server does not answer.

    Raises:
        InputError: there is none.
        TrackingUnavailable: the server does not answer, and nothing was scored here before.
    """
    tracking, folder = workspace.tracking, workspace.settings.workspace / FOLDER / pipeline
    if tracking.embedded:
        return tracking.registry.champion(pipeline)
    try:
        if tracking.answers():
            return _named(workspace, pipeline, folder, progress)
    except InputError:
        raise
    except Exception:
        if tracking.answers():
            raise
    champion = kept_champion(workspace, pipeline)
    progress.warn(
        f"The MLflow server {tracking.shown_uri} does not answer: version {champion.version} of {pipeline}, which "
        "decided last, decides on, and the runs of its batches wait"
    )
    return champion


def _named(workspace: Workspace, pipeline: str, folder: Path, progress: Progress) -> ChampionVersion:
    """The one that the registry names; from here where it is kept, so that the store of its files may be away."""
    registry = workspace.tracking.registry
    found = registry.champion_version(pipeline)
    with suppress(OSError, ValueError, TypeError, KeyError, InputError):
        kept = _read(folder)
        if found is not None and (kept.version, kept.calibration_run) == (found[0], found[1].get(CALIBRATION)):
            return kept
    champion = registry.champion(pipeline)
    _keep(champion, folder, progress)
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


def _read(folder: Path) -> ChampionVersion:
    document = json.loads((folder / LAST).read_text(encoding="utf-8"))
    return ChampionVersion(**document, champion=Champion.load(folder / str(document["calibration_run"])))


def kept_champion(workspace: Workspace, pipeline: str) -> ChampionVersion:
    """The champion that decided last.

    Raises:
        TrackingUnavailable: none is kept here, and the server does not answer.
        InputError: none is kept here.
    """
    try:
        return _read(workspace.settings.workspace / FOLDER / pipeline)
    except (OSError, ValueError, TypeError, KeyError, InputError) as error:
        nothing = f"this workspace keeps no champion of {pipeline!r} to go on with"
        try:
            workspace.tracking.require()
        except TrackingUnavailable as away:
            raise TrackingUnavailable(f"{away}; {nothing}") from error
        raise InputError(f"{nothing}: run again") from error
