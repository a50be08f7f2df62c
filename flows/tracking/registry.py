"""The versions of the pipelines' models: which decides, which challenges, and what they hold."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray

from ae_models.errors import InputError
from flows.kept_champions import keep_champion
from flows.tracking.artifacts import Artifacts
from flows.tracking.served import save_pyfunc
from flows.tracking.store import AT_ONCE, Store, paged

if TYPE_CHECKING:
    import torch

    from ae_models.calibration import Threshold
    from ae_models.champion import Champion
    from ae_models.detector import AnyDetector

CHAMPION, CHALLENGER = "champion", "challenger"
BEFORE, REASON = "reconwatch.before", "reconwatch.reason"  # tags of a version: who decided before it, and why it does
CHAMPION_PARTS = "model/artifacts/champion"  # the folder of the champion's files in its calibration's run


@dataclass(frozen=True)
class ChampionVersion:
    """The registered version that decides batches, and where it comes from."""

    version: str
    calibration_run: str
    training_run: str
    champion: Champion

    def on(self, device: torch.device, engine: str = "auto") -> ChampionVersion:
        """The same, with its network on another device and its images scored by an engine.

        Raises:
            InputError: the engine cannot score it there.
        """
        from ae_models.detector import by_engine

        return replace(
            self, champion=replace(self.champion, detector=by_engine(self.champion.detector.on(device), engine))
        )


@dataclass(frozen=True)
class RegisteredVersion:
    """A version of a pipeline's model: its number, tags and aliases, and when it was registered."""

    version: str
    tags: Mapping[str, str]
    aliases: tuple[str, ...]
    made_at: datetime


@dataclass(frozen=True)
class Registry:
    """The registered versions of every pipeline's model."""

    _store: Store
    _artifacts: Artifacts

    def register(self, pipeline: str, run_id: str, champion: Champion, tags: Mapping[str, str]) -> str:
        """Register detector and threshold as one self-contained pyfunc version that decides nothing yet; its number."""
        with tempfile.TemporaryDirectory() as scratch:
            parts, model = Path(scratch) / "champion", Path(scratch) / "model"
            champion.save(parts)
            graph = champion.detector.graph
            save_pyfunc(model, parts, champion.detector.spec, openvino=graph is not None and graph.int8)
            self._artifacts.keep(run_id, model, "model")
        self._artifacts.seal(run_id)
        try:
            self._store.client.create_registered_model(pipeline, {"reconwatch.pipeline": pipeline})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{self._store.client.get_run(run_id).info.artifact_uri}/model"
        made = self._store.client.create_model_version(pipeline, source, run_id, dict(tags))
        return str(made.version)

    def describe(self, pipeline: str, version: str, description: str) -> None:
        """Give a version its description, in Markdown."""
        self._store.client.update_model_version(pipeline, version, description)

    def promote(self, pipeline: str, version: str, tags: Mapping[str, str] | None = None) -> None:
        """Let a version decide batches from now on; `tags` say why. Who was challenger is none any more.

        Nothing but the move of the alias, one write of the registry, lets another version decide. Which one decided
        before is kept, for who wants to go back.
        """
        before = self.version_by_alias(pipeline, CHAMPION)
        back = {BEFORE: before.version} if before is not None and before.version != version else {}
        self.note(pipeline, version, {**back, **(tags or {})})
        self._store.client.set_registered_model_alias(pipeline, CHAMPION, version)
        challenger = self.version_by_alias(pipeline, CHALLENGER)
        if challenger is not None and challenger.version == version:
            with _denied_or_done():  # a login may be let move aliases and not delete them: `challenger` knows
                self._store.client.delete_registered_model_alias(pipeline, CHALLENGER)

    def go_back(self, pipeline: str, version: str, reason: str) -> None:
        """Let a version that decided before decide again; both versions keep why."""
        champion = self.version_by_alias(pipeline, CHAMPION)
        if champion is not None:
            self.note(pipeline, champion.version, {"reconwatch.rolled_back": reason})
        self.note(pipeline, version, {REASON: reason})
        self._store.client.set_registered_model_alias(pipeline, CHAMPION, version)

    def challenge(self, pipeline: str, version: str) -> None:
        """Let a version be scored in the shadow of the champion from now on, in place of who was before."""
        self._store.client.set_registered_model_alias(pipeline, CHALLENGER, version)

    def challenger(self, pipeline: str) -> RegisteredVersion | None:
        """The version that challenges the champion; None where there is none, or where it is the champion by now."""
        found = self.version_by_alias(pipeline, CHALLENGER)
        if found is None:
            return None
        champion = self.version_by_alias(pipeline, CHAMPION)
        return None if champion is not None and champion.version == found.version else found

    def version_by_alias(self, pipeline: str, alias: str) -> RegisteredVersion | None:
        """The version with that alias; None where there is none."""
        try:
            found = self._store.client.get_model_version_by_alias(pipeline, alias)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            # Behind a login the aliases of a model that is not there are "denied" to all but administrators.
            if error.error_code == "PERMISSION_DENIED" and self._model(pipeline) is None:
                return None
            raise
        return _registered(found, (alias,))

    def _model(self, pipeline: str) -> RegisteredModel | None:
        try:
            return self._store.client.get_registered_model(pipeline)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def versions(self, pipeline: str) -> tuple[RegisteredVersion, ...]:
        """Every version of the pipeline's model, the oldest first."""
        model = self._model(pipeline)
        if model is None:
            return ()
        aliases: dict[str, str] = model.aliases
        found = list(self._search(f"name = '{pipeline}'"))
        named = {
            str(each.version): tuple(alias for alias in aliases if str(aliases[alias]) == str(each.version))
            for each in found
        }
        versions = (_registered(each, named[str(each.version)]) for each in found)
        return tuple(sorted(versions, key=lambda version: int(version.version)))

    def _search(self, condition: str) -> Iterator[ModelVersion]:
        return paged(lambda page: self._store.client.search_model_versions(condition, AT_ONCE, page_token=page))

    def champion_versions(self) -> dict[str, tuple[str, Mapping[str, str]]]:
        """What `champion_version` tells of each pipeline that has a champion: asked for together."""
        models = paged(lambda page: self._store.client.search_registered_models(None, AT_ONCE, page_token=page))
        champions = {model.name: str(model.aliases[CHAMPION]) for model in models if CHAMPION in model.aliases}
        versions = ((each.name, str(each.version), each.tags) for each in (self._search("") if champions else ()))
        return {name: (number, tags) for name, number, tags in versions if champions.get(name) == number}

    def note(self, pipeline: str, version: str, tags: Mapping[str, str]) -> None:
        """Keeps more about a version."""
        for key, value in tags.items():
            self._store.client.set_model_version_tag(pipeline, version, key, value[:5000])

    def champion_version(self, pipeline: str) -> tuple[str, Mapping[str, str]] | None:
        """Number and tags of the version that decides batches; None where there is none."""
        found = self.version_by_alias(pipeline, CHAMPION)
        return None if found is None else (found.version, found.tags)

    def loaded(self, pipeline: str, version: RegisteredVersion) -> ChampionVersion:
        """A version with its detector and threshold.

        Raises:
            InputError: its files are damaged.
        """
        return self._version(pipeline, version.version, version.tags)

    def champion(self, pipeline: str) -> ChampionVersion:
        """The champion, read from the registry.

        Raises:
            InputError: there is none, or its files are damaged.
        """
        found = self.champion_version(pipeline)
        if found is None:
            raise InputError(
                f"pipeline {pipeline!r} has no champion yet: run 'reconwatch train {pipeline}' and then "
                f"'reconwatch calibrate {pipeline}', or 'reconwatch run {pipeline}' for all of it"
            )
        return self._version(pipeline, *found, keep=True)

    def _version(self, pipeline: str, number: str, tags: Mapping[str, str], keep: bool = False) -> ChampionVersion:
        run_id = tags["reconwatch.calibration_run"]
        try:
            champion = self.decider(run_id, pipeline if keep else None)
        except InputError as error:
            raise InputError(f"version {number} of pipeline {pipeline!r} decides no batch: {error}") from error
        return ChampionVersion(number, run_id, tags["reconwatch.training_run"], champion)

    def decider(self, calibration_run: str, keep_for: str | None = None) -> Champion:
        """The detector and threshold of a calibration, whether they decide batches now or did once.

        A copy of their files is kept in the workspace for the pipeline that is named.

        Raises:
            ArtifactMissing: MLflow does not give them.
            InputError: they are damaged.
        """
        from ae_models.champion import Champion

        with tempfile.TemporaryDirectory() as folder:
            files = self._artifacts.fetched(calibration_run, CHAMPION_PARTS, Path(folder))
            champion = Champion.load(files)
            if keep_for is not None and champion.detector.graph is not None:
                with suppress(OSError):  # such as a full disk, which stops nobody here
                    keep_champion(self._store.workspace, keep_for, calibration_run, files)
            return champion

    def threshold(self, calibration_run: str) -> tuple[Threshold, NDArray[np.float64]]:
        """The threshold of a calibration and the scores (n,) behind it, without its network.

        Raises:
            ArtifactMissing: MLflow does not give them.
            InputError: they are damaged.
        """
        from ae_models.calibration import Threshold

        with tempfile.TemporaryDirectory() as folder:
            path = self._artifacts.fetched(calibration_run, f"{CHAMPION_PARTS}/threshold.json", Path(folder))
            threshold = Threshold.from_json(path.read_text(encoding="utf-8"))
            path = self._artifacts.fetched(calibration_run, f"{CHAMPION_PARTS}/calibration_scores.npy", Path(folder))
            return threshold, np.load(path, allow_pickle=False)

    def detector(self, run_id: str) -> AnyDetector:
        """The detector that a training run made."""
        from ae_models.detector import load_detector

        with tempfile.TemporaryDirectory() as folder:
            return load_detector(self._artifacts.fetched(run_id, "detector", Path(folder)))


@contextmanager
def _denied_or_done() -> Iterator[None]:
    """Nothing where the server does not let this login do it."""
    try:
        yield
    except MlflowException as error:
        if error.error_code != "PERMISSION_DENIED":
            raise


def _registered(found: ModelVersion, aliases: tuple[str, ...]) -> RegisteredVersion:
    made_at = datetime.fromtimestamp(found.creation_timestamp / 1000, UTC)
    return RegisteredVersion(str(found.version), dict(found.tags), aliases, made_at)
