"""The runs of every pipeline, and what they hold."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pandas as pd
from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from PIL import Image

from flows.config import Settings
from flows.processes import highest_memory, owner_is_alive, this_process
from flows.tracking.addresses import Addresses
from flows.tracking.artifacts import RECEIPT, Artifacts
from flows.tracking.registry import Registry
from flows.tracking.review import ReviewQueues
from flows.tracking.scores import read_scores
from flows.tracking.store import Store, without_password

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LARGEST_PICTURE = 32_000_000  # bytes
MONITOR = "monitor"  # the kind of the run that shows a pipeline over time
METRICS_AT_ONCE = 1000  # as many as MLflow takes


@dataclass(frozen=True)
class TrainedRun:
    """A finished training run: its id, its tags and its folder of artifacts `name` through `Tracking.artifact`."""

    run_id: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Standing:
    """How a pipeline stands in MLflow.

    Attributes:
        champion: number and tags of the version that decides; None where there is none.
        training: the newest that finished; None where there is none.
        calibrated: whether a calibration of it ended well.
    """

    champion: tuple[str, Mapping[str, str]] | None
    training: TrainedRun | None
    calibrated: bool


@dataclass(frozen=True)
class LoggedPoint:
    """Metrics of one step; a value of None is left out."""

    step: int
    time: datetime
    metrics: Mapping[str, float | None]


class Tracking:
    """One MLflow store: an embedded one in the workspace, or the server that MLFLOW_TRACKING_URI names.

    Attributes:
        artifacts: the files of runs.
        addresses: where a browser shows what is in it.
        registry: the versions of the pipelines' models.
        review: the queues in which people are asked about images.
    """

    def __init__(
        self,
        settings: Settings,
        environment: Mapping[str, str],
        tags: Mapping[str, str] = MappingProxyType({}),
        needed: bool = True,
    ) -> None:
        """The store; every run that is started gets the tags. A server that is not `needed` may be away for now.

        Raises:
            TrackingUnavailable: it is needed, and does not answer.
        """
        self._store = Store.opened(settings, environment, needed)
        self._tags = tags
        self.artifacts = Artifacts(self._store, {})
        self.addresses = Addresses(self._store, {})
        self.registry = Registry(self._store, self.artifacts)
        self.review = ReviewQueues(self._store)

    @property
    def uri(self) -> str:
        """The store's address."""
        return self._store.uri

    @property
    def embedded(self) -> bool:
        """Whether it is the workspace's own."""
        return self._store.embedded

    def answers(self) -> bool:
        """Whether it can be written to now; of stores that are no servers, always."""
        return self._store.answers()

    def require(self) -> None:
        """Nothing where it answers; raises TrackingUnavailable with what to do where it does not."""
        self._store.require()

    @property
    def shown_uri(self) -> str:
        """The store's address without its password."""
        return without_password(self._store.uri)

    # Runs

    def start_run(self, pipeline: str, kind: str, name: str, tags: Mapping[str, str]) -> str:
        """A new run of `kind` (training, calibration, batch, monitor) in the pipeline's experiment; its id."""
        tags = {"reconwatch.kind": kind, "reconwatch.pipeline": pipeline, **self._tags, **tags}
        run = self._store.client.create_run(self._store.experiment(pipeline), run_name=name, tags=tags)
        if kind != MONITOR:  # which goes on for ever, and whose page is drawn anew each time
            self.artifacts.begun[run.info.run_id] = {}
        return str(run.info.run_id)

    @contextmanager
    def run(self, pipeline: str, kind: str, name: str, tags: Mapping[str, str]) -> Iterator[str]:
        """A run that ends FINISHED, or FAILED with the reason as a tag where its body raises."""
        run_id = self.start_run(pipeline, kind, name, tags)
        try:
            yield run_id
        except BaseException as error:
            self.artifacts.begun.pop(run_id, None)
            self._store.client.set_tag(run_id, "reconwatch.failure", f"{type(error).__name__}: {error}"[:500])
            self._store.client.set_terminated(run_id, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        self.finish(run_id)

    def lasting_run(self, pipeline: str, kind: str, name: str) -> str:
        """The pipeline's one run of `kind`, to which more is added each time; made where there is none yet."""
        runs = self._store.search(pipeline, kind, "attributes.status = 'FINISHED'", 1)
        if runs:
            return str(runs[0].info.run_id)
        run_id = self.start_run(pipeline, kind, name, {})
        self.finish(run_id)
        return run_id

    def finish(
        self,
        run_id: str,
        metrics: Mapping[str, float | None] = MappingProxyType({}),
        tags: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """End the run as FINISHED with these metrics and tags, the hashes of its artifacts and how much memory this
        took."""
        hashes = self.artifacts.with_hashes(run_id)
        self.artifacts.begun.pop(run_id, None)
        memory = {"highest_memory_mib": round(highest_memory() / 2**20)}
        self.log(run_id, metrics={**metrics, **memory}, tags={**tags, **hashes})
        self._store.client.set_terminated(run_id, "FINISHED")

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
        self._store.client.log_batch(
            run_id,
            metrics=[
                Metric(key, float(value), now, step) for key, value in (metrics or {}).items() if value is not None
            ],
            params=[Param(key, str(value)[:6000]) for key, value in (params or {}).items()],
            tags=[RunTag(key, str(value)[:5000]) for key, value in (tags or {}).items()],
            synchronous=True,
        )

    def add_to_description(self, run_id: str, paragraph: str) -> None:
        """Add a paragraph, in Markdown, to what the page of a run says; nothing where it says so already."""
        said = self._store.client.get_run(run_id).data.tags.get("mlflow.note.content", "")
        if paragraph not in said:
            self._store.client.set_tag(run_id, "mlflow.note.content", f"{said}\n\n{paragraph}".strip())

    def log_points(self, run_id: str, points: Iterable[LoggedPoint]) -> None:
        """Metrics of many steps. One that is there already, with the same step, time and value, is not added again."""
        metrics = [
            Metric(key, float(value), int(point.time.timestamp() * 1000), point.step)
            for point in points
            for key, value in point.metrics.items()
            if value is not None
        ]
        for start in range(0, len(metrics), METRICS_AT_ONCE):
            self._store.client.log_batch(run_id, metrics[start : start + METRICS_AT_ONCE], synchronous=True)

    def log_data(self, run_id: str, name: str, digest: str, source: str, profile: Mapping[str, Any]) -> None:
        """What data went in, for the run's Datasets column."""
        data = Dataset(
            name, digest[:36], "reconwatch", json.dumps({"uri": source}), schema=None, profile=json.dumps(dict(profile))
        )
        self._store.client.log_inputs(run_id, [DatasetInput(data)])

    def is_there(self, run_id: str) -> bool:
        """Whether a run exists and was not deleted."""
        try:
            return bool(self._store.client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def latest_training(self, pipeline: str) -> TrainedRun | None:
        """The newest training run that finished; None where there is none."""
        runs = self._store.search(pipeline, "training", "attributes.status = 'FINISHED'", 1)
        return TrainedRun(runs[0].info.run_id, dict(runs[0].data.tags)) if runs else None

    def is_calibrated(self, pipeline: str, training_run: str) -> bool:
        """Whether a calibration of this training's detector ended well."""
        condition = f"tags.`reconwatch.training_run` = '{training_run}' and attributes.status = 'FINISHED'"
        return bool(self._store.search(pipeline, "calibration", condition, 1))

    def standings(self, pipelines: Iterable[str]) -> dict[str, Standing]:
        """How each of these pipelines stands, in a few questions for all of them together."""
        names = tuple(pipelines)
        champions, experiments = self.registry.champion_versions(), self._store.experiments(names)
        trained, calibrated = (self._store.search_all(experiments, kind) for kind in ("training", "calibration"))
        standings = {}
        for name in names:
            newest = next((TrainedRun(run.info.run_id, dict(run.data.tags)) for run in trained.get(name, ())), None)
            done = {run.data.tags.get("reconwatch.training_run") for run in calibrated.get(name, ())}
            is_calibrated = newest is not None and newest.run_id in done
            standings[name] = Standing(champions.get(name), newest, is_calibrated)
        return standings

    def training(self, run_id: str) -> TrainedRun:
        """The training run of that id."""
        return TrainedRun(run_id, dict(self._store.client.get_run(run_id).data.tags))

    def discard(self, pipeline: str, key: str, kind: str = "batch") -> None:
        """Delete the runs of that kind of a batch's key, left by a process that died; MLflow's bin still has them."""
        for run in self._store.search(pipeline, kind, f"tags.`reconwatch.key` = '{key}'", 100):
            self.delete(run.info.run_id)

    def begun_run(self, pipeline: str, kind: str) -> str | None:
        """The newest run of `kind` that was begun and got no metric yet; None where there is none."""
        empty = [
            run
            for run in self._store.search(pipeline, kind, "attributes.status = 'RUNNING'", 10)
            if not run.data.metrics
        ]
        return str(empty[0].info.run_id) if empty else None

    def delete(self, run_id: str) -> None:
        """Delete a run; it stays restorable in MLflow's bin."""
        self._store.client.delete_run(run_id)

    def end_abandoned(self, pipeline: str, kind: str) -> None:
        """Mark as KILLED the runs of `kind` whose process on this host died; they would say for ever that they run."""
        for run in self._store.search(pipeline, kind, "attributes.status = 'RUNNING'", 100):
            if owner_is_alive(run.data.tags.get("reconwatch.process", ""), this_process().host) is False:
                self._store.client.set_terminated(run.info.run_id, "KILLED")

    # What they hold

    def log_folder(self, run_id: str, folder: Path, name: str | None = None, whole: bool = False) -> None:
        """All files of a folder as artifacts under `name`, in one call; `whole` as in `Artifacts.keep`."""
        self.artifacts.keep(run_id, folder, name, whole)

    def log_picture(self, run_id: str, picture: Image.Image | Figure, name: str) -> None:
        """A picture or a figure as the PNG artifact `name`."""
        with self._new_artifact(run_id, name) as path:
            if isinstance(picture, Image.Image):
                picture.save(path)
            else:
                picture.savefig(path, dpi=110)

    def log_text(self, run_id: str, text: str, name: str) -> None:
        """A text as the artifact `name`."""
        with self._new_artifact(run_id, name) as path:
            path.write_text(text, encoding="utf-8")

    def log_table(self, run_id: str, table: pd.DataFrame, name: str) -> None:
        """A table as the Parquet or CSV artifact `name`."""
        with self._new_artifact(run_id, name) as path:
            table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_parquet(path, index=False)

    @contextmanager
    def _new_artifact(self, run_id: str, name: str) -> Iterator[Path]:
        """Where to write the file that becomes the artifact `name`."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            yield path
            self.artifacts.keep(run_id, Path(folder))

    def artifact(self, run_id: str, name: str, folder: Path) -> Path:
        """The artifact or folder of artifacts `name`, copied into `folder`.

        Raises:
            ArtifactMissing: MLflow does not give it, or not as it was written.
        """
        return self.artifacts.fetched(run_id, name, folder)

    def artifact_names(self, run_id: str) -> list[str]:
        """The names of the run's artifacts at the top."""
        return [str(file.path) for file in self._store.client.list_artifacts(run_id)]

    def artifact_sizes(self, run_id: str) -> dict[str, int]:
        """The bytes of each artifact at the top of a run but its hashes, of a folder those of the files in it."""
        sizes = {}
        for file in self._store.client.list_artifacts(run_id):
            if file.path == RECEIPT:
                continue
            inside = self._store.client.list_artifacts(run_id, file.path) if file.is_dir else [file]
            sizes[str(file.path)] = sum(each.file_size or 0 for each in inside)
        return sizes

    def delete_artifact(self, run_id: str, name: str) -> None:
        """Delete an artifact of a run, or a folder of them, for good."""
        self.artifacts.delete(run_id, name)

    def picture(self, run_id: str, name: str) -> bytes | None:
        """The artifact `name` of a run; None where there is none, or one of more than 32 MB."""
        found = [file for file in self._store.client.list_artifacts(run_id) if file.path == name and not file.is_dir]
        if not found or (found[0].file_size or 0) > LARGEST_PICTURE:
            return None
        with tempfile.TemporaryDirectory() as folder:
            return self.artifact(run_id, name, Path(folder)).read_bytes()

    def scores(self, batch_run: str) -> pd.DataFrame:
        """The rows of a batch's images, as they were scored.

        Raises:
            ArtifactMissing: MLflow does not give them, or they are no table of scores.
        """
        with tempfile.TemporaryDirectory() as folder:
            return read_scores(self.artifact(batch_run, "scores.parquet", Path(folder)), f"run {batch_run}")
