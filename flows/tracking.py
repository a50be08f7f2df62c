"""What people look at: runs, pictures and model versions in MLflow. The only module that talks to it.

Whoever only reads how things stand needs no network: PyTorch and what stands on it are imported where one is loaded.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import tempfile
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import mlflow
import numpy as np
import pandas as pd
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
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

SERVED_REQUIREMENTS = ("torch", "numpy", "pandas", "pillow", "safetensors", "scikit-learn", "scipy")
CHAMPION, CHALLENGER = "champion", "challenger"
CHAMPION_PARTS = "model/artifacts/champion"  # the folder of the champion's files in its calibration's run
LARGEST_PICTURE = 32_000_000  # bytes
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


class Tracking:
    """One MLflow store: an embedded one in the workspace, or the server that MLFLOW_TRACKING_URI names."""

    def __init__(self, settings: Settings, environment: Mapping[str, str]) -> None:
        self.uri = environment.get("MLFLOW_TRACKING_URI") or f"sqlite:///{settings.workspace / 'mlflow.db'}"
        self.embedded = not environment.get("MLFLOW_TRACKING_URI")  # compose files set it to nothing
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
        """A new run of `kind` (training, calibration, batch) in the pipeline's experiment; its id."""
        tags = {"reconwatch.kind": kind, "reconwatch.pipeline": pipeline, **tags}
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

    def run_url(self, pipeline: str, run_id: str) -> str:
        """Where a browser shows the run."""
        return f"{self._dashboard.rstrip('/')}/#/experiments/{self._experiment(pipeline)}/runs/{run_id}{VIEW}"

    def experiment_url(self, pipeline: str) -> str:
        """Where a browser shows all runs of the pipeline."""
        return f"{self._dashboard.rstrip('/')}/#/experiments/{self._experiment(pipeline)}/runs{VIEW}"

    def latest_training(self, pipeline: str) -> TrainedRun | None:
        """The newest training run that finished; None where there is none."""
        runs = self._search(pipeline, "training", "attributes.status = 'FINISHED'", 1)
        return TrainedRun(runs[0].info.run_id, dict(runs[0].data.tags)) if runs else None

    def discard(self, pipeline: str, key: str) -> None:
        """Delete the runs of a batch's key, which a process that died left; they stay restorable in MLflow's bin."""
        for run in self._search(pipeline, "batch", f"tags.`reconwatch.key` = '{key}'", 100):
            self._client.delete_run(run.info.run_id)

    def end_abandoned(self, pipeline: str, kind: str) -> None:
        """Mark as KILLED the runs of `kind` whose process on this host died; they would say for ever that they run."""
        for run in self._search(pipeline, kind, "attributes.status = 'RUNNING'", 100):
            if owner_is_alive(run.data.tags.get("reconwatch.process", ""), this_process().host) is False:
                self._client.set_terminated(run.info.run_id, "KILLED")

    # Model versions

    def register(
        self, pipeline: str, run_id: str, champion: Champion, tags: Mapping[str, str], description: str
    ) -> str:
        """Register detector and threshold as one self-contained pyfunc version, as challenger; its number."""
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
        made = self._client.create_model_version(pipeline, source, run_id, dict(tags), description=description)
        self._client.set_registered_model_alias(pipeline, CHALLENGER, made.version)
        return str(made.version)

    def promote(self, pipeline: str, version: str) -> None:
        """Let a version decide batches from now on."""
        self._client.set_registered_model_alias(pipeline, CHAMPION, version)

    def champion_version(self, pipeline: str) -> tuple[str, Mapping[str, str]] | None:
        """Number and tags of the version that decides batches; None where there is none."""
        try:
            found = self._client.get_model_version_by_alias(pipeline, CHAMPION)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
        return str(found.version), dict(found.tags)

    def champion(self, pipeline: str) -> ChampionVersion:
        """The champion, read from the registry.

        Raises:
            InputError: there is none, or its files are damaged.
        """
        from ae_models.champion import Champion

        found = self.champion_version(pipeline)
        if found is None:
            raise InputError(
                f"pipeline {pipeline!r} has no champion yet: run 'reconwatch train {pipeline}' and then "
                f"'reconwatch calibrate {pipeline}', or 'reconwatch run {pipeline}' for all of it"
            )
        number, tags = found
        with tempfile.TemporaryDirectory() as folder:
            run_id = tags["reconwatch.calibration_run"]
            parts = self.artifact(run_id, CHAMPION_PARTS, Path(folder))
            try:
                champion = Champion.load(parts)
            except InputError as error:
                raise InputError(f"version {number} of pipeline {pipeline!r} decides no batch: {error}") from error
        return ChampionVersion(number, run_id, tags["reconwatch.training_run"], champion)

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

    # Inside

    def _experiment(self, pipeline: str) -> str:
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
        tags = {"mlflow.experimentKind": "custom_model_development", "reconwatch.pipeline": pipeline}
        try:
            return str(self._client.create_experiment(name, folder, tags))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return self._experiment(pipeline)

    def _search(self, pipeline: str, kind: str, condition: str, limit: int) -> Sequence[Run]:
        runs: Sequence[Run] = self._client.search_runs(
            [self._experiment(pipeline)],
            f"tags.`reconwatch.kind` = '{kind}' and {condition}",
            max_results=limit,
            order_by=["attributes.start_time DESC"],
        )
        return runs


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
        ]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what MLflow and pandas tell each other is no news to who calibrates
        mlflow.pyfunc.save_model(
            path=str(model),
            python_model=str(Path(__file__).with_name("served_model.py")),
            code_paths=[str(Path(ae_models.__file__).parent)],
            artifacts={"champion": str(parts)},
            signature=ModelSignature(outputs=outputs),  # an input schema would refuse lists and arrays of images
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
