"""What people look at: runs, pictures and model versions in MLflow. The only module that talks to it.

Whoever only reads how things stand needs no network: PyTorch and what stands on it are imported where one is loaded.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import tempfile
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from time import time, time_ns
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import mlflow
import numpy as np
import pandas as pd
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Assessment, Dataset, DatasetInput, Metric, Param, Run, RunTag, Span
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.genai.label_schemas import InputCategorical
from mlflow.models import ModelSignature
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracing.client import TracingClient
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from numpy.typing import NDArray
from PIL import Image

import ae_models
from ae_models.errors import InputError
from flows.config import Settings
from flows.processes import highest_memory, owner_is_alive, this_process

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

    from ae_models.calibration import Threshold
    from ae_models.champion import Champion
    from ae_models.detector import AnyDetector
    from ae_models.images import ImageSpec

SERVED_REQUIREMENTS = ("torch", "numpy", "pandas", "pillow", "safetensors", "scikit-learn", "scipy", "matplotlib")
CHAMPION, CHALLENGER = "champion", "challenger"
BEFORE, REASON = "reconwatch.before", "reconwatch.reason"  # tags of a version: who decided before it, and why it does
CHAMPION_PARTS = "model/artifacts/champion"  # the folder of the champion's files in its calibration's run
LARGEST_PICTURE = 32_000_000  # bytes
VERDICT = "verdict"  # the question of a review queue, and the name of its answers
METRICS_AT_ONCE = 1000  # as many as MLflow takes
VIEW = "?workflowType=machine_learning"  # without it MLflow shows the pages of its language-model side


class TrackingUnavailable(RuntimeError):  # noqa: N818 (it says what happened)
    """The MLflow store does not answer; the message says which, and what to do."""


class ArtifactMissing(RuntimeError):  # noqa: N818 (it says what happened)
    """MLflow does not give an artifact: its run or its file was deleted, or cannot be reached."""


@dataclass(frozen=True)
class TrainedRun:
    """A finished training run: its id, its tags and its folder of artifacts `name` through `Tracking.artifact`."""

    run_id: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class ChampionVersion:
    """The registered version that decides batches, and where it comes from."""

    version: str
    calibration_run: str
    training_run: str
    champion: Champion

    def on(self, device: torch.device) -> ChampionVersion:
        """The same, with its network on another device."""
        return replace(self, champion=replace(self.champion, detector=self.champion.detector.on(device)))


@dataclass(frozen=True)
class RegisteredVersion:
    """A version of a pipeline's model: its number, tags and aliases, and when it was registered."""

    version: str
    tags: Mapping[str, str]
    aliases: tuple[str, ...]
    made_at: datetime


@dataclass(frozen=True)
class ReviewQueue:
    """A queue of images in MLflow's Review tab: its id, and where a browser shows it."""

    id: str
    url: str


@dataclass(frozen=True)
class Question:
    """One image in a queue, as MLflow asks about it: a text on it, and what was found, both Markdown.

    The key of its batch and its address are what answers are known by. MLflow shows 1,000 characters of each text, and
    asks in the order of `place`.
    """

    key: str
    uri: str
    place: int
    name: str
    text: str
    found: str

    @property
    def trace_id(self) -> str:
        """The id of the trace that asks it: the same however often it is asked."""
        return f"tr-{self._identity[:16].hex()}"

    @property
    def _identity(self) -> bytes:
        """What was attached to a queue at once stands there in the order of the ids."""
        return self.place.to_bytes(4) + hashlib.sha256(f"{self.key}\0{self.uri}".encode()).digest()

    def span(self, now: int) -> Span:
        """The one span of its trace, in the form that the Review tab shows; `now` in nanoseconds."""
        identity, at = self._identity, now - self.place * 1_000_000
        attributes = {
            "mlflow.traceRequestId": self.trace_id,
            "mlflow.spanType": "CHAT_MODEL",
            "mlflow.spanInputs": {"messages": [{"role": "user", "content": self.text}]},
            "mlflow.spanOutputs": {"choices": [{"message": {"role": "assistant", "content": self.found}}]},
            "mlflow.traceTag.reconwatch.key": self.key,
            "mlflow.traceTag.reconwatch.uri": self.uri,
        }
        return Span.from_dict(
            {
                "trace_id": base64.b64encode(identity[:16]).decode(),
                "span_id": base64.b64encode(identity[16:24]).decode(),
                "parent_span_id": None,
                "name": self.name,
                "start_time_unix_nano": at,
                "end_time_unix_nano": at,
                "status": {"code": "STATUS_CODE_OK", "message": ""},
                "attributes": {name: json.dumps(value) for name, value in attributes.items()},
            }
        )


@dataclass(frozen=True)
class Answer:
    """What a person answered to a question in MLflow; everything but the time is text of strangers."""

    key: str
    uri: str
    verdict: str
    comment: str
    reviewer: str
    at: datetime


@dataclass(frozen=True)
class LoggedPoint:
    """Metrics of one step; a value of None is left out."""

    step: int
    time: datetime
    metrics: Mapping[str, float | None]


class Tracking:
    """One MLflow store: an embedded one in the workspace, or the server that MLFLOW_TRACKING_URI names."""

    def __init__(
        self, settings: Settings, environment: Mapping[str, str], tags: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """The store; every run that is started gets the tags."""
        self.uri = environment.get("MLFLOW_TRACKING_URI") or f"sqlite:///{settings.workspace / 'mlflow.db'}"
        self.embedded = not environment.get("MLFLOW_TRACKING_URI")  # compose files set it to nothing
        self._tags = tags
        self._workspace = settings.workspace
        self._dashboard = self.uri if self.uri.startswith("http") else settings.dashboard
        self._client = self._connect()

    def _connect(self) -> MlflowClient:
        for noisy in ("alembic", "mlflow"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)
        if self.uri.startswith("http"):
            _require_server(self.uri)
        self._workspace.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self._workspace / "mlflow.lock"):  # two processes that migrate one new database both crash
                client = MlflowClient(self.uri, self.uri)  # migrates
                client.search_experiments(max_results=1)
        except Exception as error:  # mlflow lets SQLAlchemy's and its own errors through
            raise TrackingUnavailable(
                f"the MLflow store {_without_password(self.uri)} cannot be opened: {_first_line(error)}"
            ) from error
        return client

    @property
    def shown_uri(self) -> str:
        """The store's address without its password."""
        return _without_password(self.uri)

    # Runs

    def start_run(self, pipeline: str, kind: str, name: str, tags: Mapping[str, str]) -> str:
        """A new run of `kind` (training, calibration, batch, monitor) in the pipeline's experiment; its id."""
        tags = {"reconwatch.kind": kind, "reconwatch.pipeline": pipeline, **self._tags, **tags}
        run = self._client.create_run(self._experiment(pipeline), run_name=name, tags=tags)
        return str(run.info.run_id)

    @contextmanager
    def run(self, pipeline: str, kind: str, name: str, tags: Mapping[str, str]) -> Iterator[str]:
        """A run that ends FINISHED, or FAILED with the reason as a tag where its body raises."""
        run_id = self.start_run(pipeline, kind, name, tags)
        try:
            yield run_id
        except BaseException as error:
            self._client.set_tag(run_id, "reconwatch.failure", f"{type(error).__name__}: {error}"[:500])
            self._client.set_terminated(run_id, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        self.finish(run_id)

    def lasting_run(self, pipeline: str, kind: str, name: str) -> str:
        """The pipeline's one run of `kind`, to which more is added each time; made where there is none yet."""
        runs = self._search(pipeline, kind, "attributes.status = 'FINISHED'", 1)
        if runs:
            return str(runs[0].info.run_id)
        run_id = self.start_run(pipeline, kind, name, {})
        self.finish(run_id)
        return run_id

    def finish(self, run_id: str) -> None:
        """End the run as FINISHED, and note how much memory this took."""
        self._client.log_metric(run_id, "highest_memory_mib", round(highest_memory() / 2**20))
        self._client.set_terminated(run_id, "FINISHED")

    def log(
        self,
        run_id: str,
        params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float | None] | None = None,
        tags: Mapping[str, str] | None = None,
        step: int = 0,
    ) -> None:
        """Parameters, metrics and tags in one call; a metric of None is left out."""
        now = int(time() * 1000)
        self._client.log_batch(
            run_id,
            metrics=[
                Metric(key, float(value), now, step) for key, value in (metrics or {}).items() if value is not None
            ],
            params=[Param(key, str(value)[:6000]) for key, value in (params or {}).items()],
            tags=[RunTag(key, str(value)[:5000]) for key, value in (tags or {}).items()],
            synchronous=True,
        )

    def log_points(self, run_id: str, points: Iterable[LoggedPoint]) -> None:
        """Metrics of many steps. One that is there already, with the same step, time and value, is not added again."""
        metrics = [
            Metric(key, float(value), int(point.time.timestamp() * 1000), point.step)
            for point in points
            for key, value in point.metrics.items()
            if value is not None
        ]
        for start in range(0, len(metrics), METRICS_AT_ONCE):
            self._client.log_batch(run_id, metrics[start : start + METRICS_AT_ONCE], synchronous=True)

    def artifact_sizes(self, run_id: str) -> dict[str, int]:
        """The bytes of each artifact at the top of a run, of a folder those of the files in it."""
        sizes = {}
        for file in self._client.list_artifacts(run_id):
            inside = self._client.list_artifacts(run_id, file.path) if file.is_dir else [file]
            sizes[str(file.path)] = sum(each.file_size or 0 for each in inside)
        return sizes

    def delete_artifact(self, run_id: str, name: str) -> None:
        """Delete an artifact of a run, or a folder of them, for good."""
        place = self._client.get_run(run_id).info.artifact_uri
        repository: Any = get_artifact_repository(str(place), tracking_uri=self.uri)  # whose methods have no types
        repository.delete_artifacts(name)

    def delete_queue(self, pipeline: str, queue_id: str) -> None:
        """Delete a review queue and its questions, with their answers; nothing where it is gone."""
        client, experiment = TracingClient(self.uri), self._review_experiment(pipeline)
        try:
            items = client._list_review_queue_items(queue_id, max_results=1000)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return
            raise
        ids = [item.item_id for item in items]
        for start in range(0, len(ids), 100):  # as many as MLflow takes at once
            client.delete_traces(experiment, trace_ids=ids[start : start + 100])
        client._delete_review_queue(queue_id)

    def is_there(self, run_id: str) -> bool:
        """Whether a run exists and was not deleted."""
        try:
            return bool(self._client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def log_data(self, run_id: str, name: str, digest: str, source: str, profile: Mapping[str, Any]) -> None:
        """What data went in, for the run's Datasets column."""
        data = Dataset(
            name, digest[:36], "reconwatch", json.dumps({"uri": source}), schema=None, profile=json.dumps(dict(profile))
        )
        self._client.log_inputs(run_id, [DatasetInput(data)])

    def log_folder(self, run_id: str, folder: Path, name: str | None = None) -> None:
        """All files of a folder as artifacts under `name`, in one call."""
        self._client.log_artifacts(run_id, str(folder), name)

    def log_picture(self, run_id: str, picture: Image.Image | Figure, name: str) -> None:
        """A picture or a figure as the PNG artifact `name`."""
        if isinstance(picture, Image.Image):
            self._client.log_image(run_id, picture, name)
        else:
            self._client.log_figure(run_id, picture, name, save_kwargs={"dpi": 110})

    def log_text(self, run_id: str, text: str, name: str) -> None:
        """A text as the artifact `name`."""
        self._client.log_text(run_id, text, name)

    def log_table(self, run_id: str, table: pd.DataFrame, name: str) -> None:
        """A table as the Parquet or CSV artifact `name`."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(name).name
            table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_parquet(path, index=False)
            parent = Path(name).parent.as_posix()
            self._client.log_artifact(run_id, str(path), None if parent == "." else parent)

    def artifact(self, run_id: str, name: str, folder: Path) -> Path:
        """The artifact or folder of artifacts `name`, copied into `folder`.

        Raises:
            ArtifactMissing: MLflow does not give it.
        """
        try:
            return Path(self._client.download_artifacts(run_id, name, str(folder)))
        except (MlflowException, OSError) as error:
            raise ArtifactMissing(f"MLflow does not give {name} of run {run_id} ({_first_line(error)})") from error

    def artifact_names(self, run_id: str) -> list[str]:
        """The names of the run's artifacts at the top."""
        return [str(file.path) for file in self._client.list_artifacts(run_id)]

    def picture(self, run_id: str, name: str) -> bytes | None:
        """The artifact `name` of a run; None where there is none, or one of more than 32 MB."""
        found = [file for file in self._client.list_artifacts(run_id) if file.path == name and not file.is_dir]
        if not found or (found[0].file_size or 0) > LARGEST_PICTURE:
            return None
        with tempfile.TemporaryDirectory() as folder:
            return self.artifact(run_id, name, Path(folder)).read_bytes()

    def run_url(self, pipeline: str, run_id: str, artifact: str = "") -> str:
        """Where a browser shows the run, or one of its artifacts."""
        place = f"/artifacts/{quote(artifact)}" if artifact else ""
        return f"{self._dashboard.rstrip('/')}/#/experiments/{self._experiment(pipeline)}/runs/{run_id}{place}{VIEW}"

    def search_url(self, pipeline: str, tags: Mapping[str, str]) -> str:
        """Where a browser shows the pipeline's runs that have these `reconwatch.` tags."""
        condition = " and ".join(f"tags.`reconwatch.{name}` = '{value}'" for name, value in tags.items())
        return f"{self.experiment_url(pipeline)}&searchFilter={quote(condition)}"

    def version_url(self, pipeline: str, version: str) -> str:
        """Where a browser shows a version of the pipeline's model."""
        return f"{self._dashboard.rstrip('/')}/#/models/{quote(pipeline)}/versions/{version}{VIEW}"

    def picture_url(self, run_id: str, name: str) -> str:
        """The address of a picture among the run's artifacts, for pages of MLflow itself."""
        return f"{self._dashboard.rstrip('/')}/get-artifact?path={quote(name, safe='')}&run_uuid={run_id}"

    def experiment_url(self, pipeline: str) -> str:
        """Where a browser shows all runs of the pipeline."""
        return f"{self._dashboard.rstrip('/')}/#/experiments/{self._experiment(pipeline)}/runs{VIEW}"

    def latest_training(self, pipeline: str) -> TrainedRun | None:
        """The newest training run that finished; None where there is none."""
        runs = self._search(pipeline, "training", "attributes.status = 'FINISHED'", 1)
        return TrainedRun(runs[0].info.run_id, dict(runs[0].data.tags)) if runs else None

    def is_calibrated(self, pipeline: str, training_run: str) -> bool:
        """Whether a calibration of this training's detector ended well."""
        condition = f"tags.`reconwatch.training_run` = '{training_run}' and attributes.status = 'FINISHED'"
        return bool(self._search(pipeline, "calibration", condition, 1))

    def training(self, run_id: str) -> TrainedRun:
        """The training run of that id."""
        return TrainedRun(run_id, dict(self._client.get_run(run_id).data.tags))

    def discard(self, pipeline: str, key: str) -> None:
        """Delete the runs of a batch's key, which a process that died left; they stay restorable in MLflow's bin."""
        for run in self._search(pipeline, "batch", f"tags.`reconwatch.key` = '{key}'", 100):
            self.delete(run.info.run_id)

    def begun_run(self, pipeline: str, kind: str) -> str | None:
        """The newest run of `kind` that was begun and got no metric yet; None where there is none."""
        empty = [
            run for run in self._search(pipeline, kind, "attributes.status = 'RUNNING'", 10) if not run.data.metrics
        ]
        return str(empty[0].info.run_id) if empty else None

    def delete(self, run_id: str) -> None:
        """Delete a run; it stays restorable in MLflow's bin."""
        self._client.delete_run(run_id)

    def end_abandoned(self, pipeline: str, kind: str) -> None:
        """Mark as KILLED the runs of `kind` whose process on this host died; they would say for ever that they run."""
        for run in self._search(pipeline, kind, "attributes.status = 'RUNNING'", 100):
            if owner_is_alive(run.data.tags.get("reconwatch.process", ""), this_process().host) is False:
                self._client.set_terminated(run.info.run_id, "KILLED")

    # Model versions

    def register(self, pipeline: str, run_id: str, champion: Champion, tags: Mapping[str, str]) -> str:
        """Register detector and threshold as one self-contained pyfunc version that decides nothing yet; its number."""
        with tempfile.TemporaryDirectory() as scratch:
            parts, model = Path(scratch) / "champion", Path(scratch) / "model"
            champion.save(parts)
            _save_pyfunc(model, parts, champion.detector.spec)
            self._client.log_artifacts(run_id, str(model), "model")
        try:
            self._client.create_registered_model(pipeline, {"reconwatch.pipeline": pipeline})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{self._client.get_run(run_id).info.artifact_uri}/model"
        made = self._client.create_model_version(pipeline, source, run_id, dict(tags))
        return str(made.version)

    def describe(self, pipeline: str, version: str, description: str) -> None:
        """Give a version its description, in Markdown."""
        self._client.update_model_version(pipeline, version, description)

    def promote(self, pipeline: str, version: str, tags: Mapping[str, str] | None = None) -> None:
        """Let a version decide batches from now on; `tags` say why. Who was challenger is none any more.

        Nothing but the move of the alias, one write of the registry, lets another version decide. Which one decided
        before is kept, for who wants to go back.
        """
        before = self.version_by_alias(pipeline, CHAMPION)
        back = {BEFORE: before.version} if before is not None and before.version != version else {}
        self.note_version(pipeline, version, {**back, **(tags or {})})
        self._client.set_registered_model_alias(pipeline, CHAMPION, version)
        challenger = self.version_by_alias(pipeline, CHALLENGER)
        if challenger is not None and challenger.version == version:
            self._client.delete_registered_model_alias(pipeline, CHALLENGER)

    def go_back(self, pipeline: str, version: str, reason: str) -> None:
        """Let a version that decided before decide again; both versions keep why."""
        champion = self.version_by_alias(pipeline, CHAMPION)
        if champion is not None:
            self.note_version(pipeline, champion.version, {"reconwatch.rolled_back": reason})
        self.note_version(pipeline, version, {REASON: reason})
        self._client.set_registered_model_alias(pipeline, CHAMPION, version)

    def challenge(self, pipeline: str, version: str) -> None:
        """Let a version be scored in the shadow of the champion from now on, in place of who was before."""
        self._client.set_registered_model_alias(pipeline, CHALLENGER, version)

    def version_by_alias(self, pipeline: str, alias: str) -> RegisteredVersion | None:
        """The version with that alias; None where there is none."""
        try:
            found = self._client.get_model_version_by_alias(pipeline, alias)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
        return _registered(found, (alias,))

    def versions(self, pipeline: str) -> tuple[RegisteredVersion, ...]:
        """Every version of the pipeline's model, the oldest first."""
        try:
            aliases: dict[str, str] = self._client.get_registered_model(pipeline).aliases
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return ()
            raise
        found, page = list[ModelVersion](), None
        while True:
            part = self._client.search_model_versions(f"name = '{pipeline}'", max_results=200, page_token=page)
            found += part
            page = part.token
            if not page:
                break
        named = {
            str(each.version): tuple(alias for alias in aliases if str(aliases[alias]) == str(each.version))
            for each in found
        }
        versions = (_registered(each, named[str(each.version)]) for each in found)
        return tuple(sorted(versions, key=lambda version: int(version.version)))

    def note_version(self, pipeline: str, version: str, tags: Mapping[str, str]) -> None:
        """Keeps more about a version."""
        for key, value in tags.items():
            self._client.set_model_version_tag(pipeline, version, key, value[:5000])

    def champion_version(self, pipeline: str) -> tuple[str, Mapping[str, str]] | None:
        """Number and tags of the version that decides batches; None where there is none."""
        found = self.version_by_alias(pipeline, CHAMPION)
        return None if found is None else (found.version, found.tags)

    def registered(self, pipeline: str, version: RegisteredVersion) -> ChampionVersion:
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
        return self._version(pipeline, *found)

    def _version(self, pipeline: str, number: str, tags: Mapping[str, str]) -> ChampionVersion:
        run_id = tags["reconwatch.calibration_run"]
        try:
            champion = self.decider(run_id)
        except InputError as error:
            raise InputError(f"version {number} of pipeline {pipeline!r} decides no batch: {error}") from error
        return ChampionVersion(number, run_id, tags["reconwatch.training_run"], champion)

    def decider(self, calibration_run: str) -> Champion:
        """The detector and threshold of a calibration, whether they decide batches now or did once.

        Raises:
            ArtifactMissing: MLflow does not give them.
            InputError: they are damaged.
        """
        from ae_models.champion import Champion

        with tempfile.TemporaryDirectory() as folder:
            return Champion.load(self.artifact(calibration_run, CHAMPION_PARTS, Path(folder)))

    def threshold(self, calibration_run: str) -> tuple[Threshold, NDArray[np.float64]]:
        """The threshold of a calibration and the scores (n,) behind it, without its network.

        Raises:
            ArtifactMissing: MLflow does not give them.
            InputError: they are damaged.
        """
        from ae_models.calibration import Threshold

        with tempfile.TemporaryDirectory() as folder:
            path = self.artifact(calibration_run, f"{CHAMPION_PARTS}/threshold.json", Path(folder))
            threshold = Threshold.from_json(path.read_text(encoding="utf-8"))
            path = self.artifact(calibration_run, f"{CHAMPION_PARTS}/calibration_scores.npy", Path(folder))
            return threshold, np.load(path, allow_pickle=False)

    def scores(self, batch_run: str) -> pd.DataFrame:
        """The rows of a batch's images, as they were scored.

        Raises:
            ArtifactMissing: MLflow does not give them.
        """
        with tempfile.TemporaryDirectory() as folder:
            return pd.read_parquet(self.artifact(batch_run, "scores.parquet", Path(folder)))

    def detector(self, run_id: str) -> AnyDetector:
        """The detector that a training run made."""
        from ae_models.detector import load_detector

        with tempfile.TemporaryDirectory() as folder:
            return load_detector(self.artifact(run_id, "detector", Path(folder)))

    # Review

    def review_queue(self, pipeline: str, name: str, choices: Sequence[str], instruction: str) -> ReviewQueue:
        """The review queue of that name, made where there is none yet."""
        experiment, client = self._review_experiment(pipeline), TracingClient(self.uri)
        try:
            queue = client._get_review_queue_by_name(experiment, name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            schema = self._verdict_schema(client, experiment, choices, instruction)
            queue = client._create_review_queue(experiment, name=name, queue_type="custom", schema_ids=[schema])
        return ReviewQueue(queue.queue_id, self._queue_url(experiment, queue.queue_id))

    def ask(self, pipeline: str, queue_id: str, questions: Sequence[Question]) -> None:
        """Put questions into a queue; those that are in it stay as they are."""
        client, now = TracingClient(self.uri), time_ns()
        client.log_spans(self._review_experiment(pipeline), [question.span(now) for question in questions])
        client._add_items_to_review_queue(queue_id, item_ids=[question.trace_id for question in questions])

    def answers(self, pipeline: str) -> list[Answer]:
        """What people answered in the pipeline's queues; of what they changed, the last."""
        found = self._client.get_experiment_by_name(f"reconwatch/{pipeline} review")
        if found is None or found.lifecycle_stage == "deleted":
            return []
        client, answers, page = TracingClient(self.uri), list[Answer](), None
        while True:
            traces = client.search_traces(
                locations=[found.experiment_id],
                filter_string=f"feedback.{VERDICT} IS NOT NULL",
                max_results=500,
                page_token=page,
                include_spans=False,
            )
            for trace in traces:
                tags = trace.info.tags
                given = (a for a in trace.info.assessments if a.name == VERDICT and a.valid and a.feedback is not None)
                answers += [_answer(tags, assessment) for assessment in given]
            page = traces.token
            if not page:
                return answers

    def _verdict_schema(self, client: TracingClient, experiment: str, choices: Sequence[str], instruction: str) -> str:
        try:
            return str(client._get_label_schema_by_name(experiment, VERDICT).schema_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        schema = client._create_label_schema(
            experiment_id=experiment,
            name=VERDICT,
            type="feedback",
            input=InputCategorical(options=list(choices)),
            instruction=instruction,
            enable_comment=True,
        )
        return str(schema.schema_id)

    def _review_experiment(self, pipeline: str) -> str:
        return self._experiment(f"{pipeline} review", "genai_development")

    def queue_url(self, pipeline: str, queue_id: str) -> str:
        """Where a browser shows a queue."""
        return self._queue_url(self._review_experiment(pipeline), queue_id)

    def _queue_url(self, experiment: str, queue_id: str) -> str:
        return (
            f"{self._dashboard.rstrip('/')}/#/experiments/{experiment}/review-queue"
            f"?workflowType=genai&selectedQueueId={queue_id}"
        )

    # Inside

    def _experiment(self, pipeline: str, kind: str = "custom_model_development") -> str:
        name = f"reconwatch/{pipeline}"
        found = self._client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "deleted":
            raise TrackingUnavailable(
                f"the MLflow experiment {name!r} was deleted: restore it with "
                f"'mlflow experiments restore --experiment-id {found.experiment_id}', or rename the pipeline"
            )
        if found is not None:
            return str(found.experiment_id)
        folder = (self._workspace / "artifacts" / quote(pipeline)).as_uri() if self.embedded else None
        tags = {"mlflow.experimentKind": kind, "reconwatch.pipeline": pipeline.removesuffix(" review")}
        try:
            return str(self._client.create_experiment(name, folder, tags))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return self._experiment(pipeline, kind)

    def _search(self, pipeline: str, kind: str, condition: str, limit: int) -> Sequence[Run]:
        runs: Sequence[Run] = self._client.search_runs(
            [self._experiment(pipeline)],
            f"tags.`reconwatch.kind` = '{kind}' and {condition}",
            max_results=limit,
            order_by=["attributes.start_time DESC"],
        )
        return runs


def _registered(found: ModelVersion, aliases: tuple[str, ...]) -> RegisteredVersion:
    made_at = datetime.fromtimestamp(found.creation_timestamp / 1000, UTC)
    return RegisteredVersion(str(found.version), dict(found.tags), aliases, made_at)


def _answer(tags: Mapping[str, str], given: Assessment) -> Answer:
    return Answer(
        key=tags.get("reconwatch.key", ""),
        uri=tags.get("reconwatch.uri", ""),
        verdict=str(given.feedback.value if given.feedback else ""),
        comment=given.rationale or "",
        reviewer=given.source.source_id or "",
        at=datetime.fromtimestamp((given.last_update_time_ms or 0) / 1000, UTC),
    )


def _save_pyfunc(model: Path, parts: Path, spec: ImageSpec) -> None:
    example = _base64_png(np.full((spec.height, spec.width), 128, np.uint8))
    outputs = Schema(
        [
            ColSpec("double", "score"),
            ColSpec("double", "threshold"),
            ColSpec("boolean", "flag"),
            ColSpec("double", "p_value"),
            ColSpec("string", "status"),
            ColSpec("string", "reason"),
            ColSpec("string", "heat_map", required=False),
        ]
    )
    asked = ParamSchema([ParamSpec("heat_map", "boolean", False)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what MLflow and pandas tell each other is no news to who calibrates
        mlflow.pyfunc.save_model(
            path=str(model),
            python_model=str(Path(__file__).with_name("served_model.py")),
            code_paths=[str(Path(ae_models.__file__).parent)],
            artifacts={"champion": str(parts)},
            # An input schema would refuse lists and arrays of images.
            signature=ModelSignature(outputs=outputs, params=asked),
            input_example=pd.DataFrame({"image": [example]}),
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in SERVED_REQUIREMENTS],
        )


def _base64_png(pixels: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _require_server(uri: str) -> None:
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5):
            return
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return  # it is there; the client brings the credentials
        reason = f"it answered {error.code}"
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "reason", error))
    raise TrackingUnavailable(
        f"the MLflow server {_without_password(uri)} does not answer ({reason}): start it, or unset "
        "MLFLOW_TRACKING_URI to use the workspace's own store"
    )


def _without_password(uri: str) -> str:
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
