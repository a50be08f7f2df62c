"""The champion that decides: the registry's, or the one that decided last while the MLflow server does not answer."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

from ae_models.champion import Champion
from ae_models.errors import InputError
from flows.kept_champions import (
    FOLDER,
    Decided,
    decided_last,
    forget_champion,
    keep_champion,
    kept_champion,
    note_decided,
)
from flows.progress import Progress
from flows.tracking import ChampionVersion, Tracking, TrackingUnavailable

CALIBRATION, TRAINING = "reconwatch.calibration_run", "reconwatch.training_run"  # tags of a version


def deciding_champion(tracking: Tracking, workspace: Path, pipeline: str, progress: Progress) -> ChampionVersion:
    """The champion of the registry; the one that it last gave, where its server does not answer.

    Raises:
        InputError: there is none.
        TrackingUnavailable: the server does not answer, and nothing was scored here before.
    """
    if tracking.embedded:
        return tracking.registry.champion(pipeline)
    try:
        if tracking.answers():
            return _named(tracking, workspace, pipeline, progress)
    except InputError:
        raise
    except Exception:
        if tracking.answers():
            raise
    champion = last_champion(tracking, workspace, pipeline)
    progress.warn(
        f"The MLflow server {tracking.shown_uri} does not answer: version {champion.version} of {pipeline}, which "
        "decided last, decides on, and the runs of its batches wait"
    )
    return champion


def last_champion(tracking: Tracking, workspace: Path, pipeline: str) -> ChampionVersion:
    """The champion that decided last, as it is kept in the workspace.

    Raises:
        TrackingUnavailable: none is kept here, and the server does not answer.
        InputError: none is kept here.
    """
    decided = decided_last(workspace, pipeline)
    champion = None if decided is None else _kept(workspace, pipeline, decided)
    if champion is not None:
        return champion
    nothing = f"this workspace keeps no champion of {pipeline!r} to go on with"
    try:
        tracking.require()
    except TrackingUnavailable as away:
        raise TrackingUnavailable(f"{away}; {nothing}") from None
    raise InputError(f"{nothing}: run again")


def _named(tracking: Tracking, workspace: Path, pipeline: str, progress: Progress) -> ChampionVersion:
    """The one that the registry names; from here where it is kept, so that the store of its files may be away."""
    champion = None
    if found := tracking.registry.champion_version(pipeline):
        version, tags = found
        with suppress(KeyError):
            champion = _kept(workspace, pipeline, Decided(version, tags[CALIBRATION], tags[TRAINING]))
    champion = champion or tracking.registry.champion(pipeline)
    try:
        _keep(champion, workspace, pipeline)
    except OSError as error:  # it decides, whether it is kept or not
        folder = workspace / FOLDER / pipeline
        progress.warn(f"The champion cannot be kept in {folder} for when MLflow does not answer: {error}")
    return champion


def _kept(workspace: Path, pipeline: str, decided: Decided) -> ChampionVersion | None:
    """That version by its copy in the workspace; None where there is none, or only a damaged one, which is dropped."""
    files = kept_champion(workspace, pipeline, decided.calibration_run)
    if files is None:
        return None
    try:
        champion = Champion.load(files)
    except InputError:
        forget_champion(files)
        return None
    return ChampionVersion(decided.version, decided.calibration_run, decided.training_run, champion)


def _keep(champion: ChampionVersion, workspace: Path, pipeline: str) -> None:
    """Its files first, and then in one write that it decided last."""
    decided = Decided(champion.version, champion.calibration_run, champion.training_run)
    if kept_champion(workspace, pipeline, champion.calibration_run) is None:
        with tempfile.TemporaryDirectory() as folder:
            champion.champion.save(Path(folder) / "champion")
            keep_champion(workspace, pipeline, champion.calibration_run, Path(folder) / "champion")
    if decided != decided_last(workspace, pipeline):
        note_decided(workspace, pipeline, decided)
