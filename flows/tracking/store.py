"""The MLflow store itself: connected to once, its experiments, and what is said where it does not answer."""

from __future__ import annotations

import logging
import os
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from ae_models.errors import InputError
from flows.config import Settings
from flows.store_files import note_made, require_kept

PATIENCE: Mapping[str, str] = {  # unless they are set: the library's own are 120 s of waiting, 7 times over
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds without an answer
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5",  # after 0, 4, 8, 16 and 32 s, and up to 1 s more each
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "2",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # where the JSON of --json belongs
}
ACTIVE = ViewType.ACTIVE_ONLY
AT_ONCE = 1000  # the most that MLflow gives in one answer to every question
SIGN_OF_LIFE = 5.0  # seconds in which a server has to answer whether it is there


class TrackingUnavailable(RuntimeError):  # noqa: N818 (it says what happened)
    """The MLflow store does not answer; the message says which, and what to do."""


class ArtifactMissing(RuntimeError):  # noqa: N818 (it says what happened)
    """MLflow does not give an artifact: its run or its file was deleted, or cannot be reached."""


@dataclass(frozen=True)
class Store:
    """One MLflow store, to which a client is connected.

    Attributes:
        embedded: whether it is the workspace's own.
        dashboard: the address under which a browser shows it.
    """

    uri: str
    embedded: bool
    workspace: Path
    dashboard: str
    client: MlflowClient

    @classmethod
    def opened(cls, settings: Settings, environment: Mapping[str, str], needed: bool = True) -> Store:
        """The store that MLFLOW_TRACKING_URI names, or the workspace's own, made where there is none yet.

        A server that is not `needed` may be away for now; `answers` says whether it is.

        Raises:
            TrackingUnavailable: it does not answer.
            InputError: the workspace's own lost its content.
        """
        embedded = not environment.get("MLFLOW_TRACKING_URI")  # compose files set it to nothing
        file = settings.workspace / "mlflow.db"
        uri = environment.get("MLFLOW_TRACKING_URI") or f"sqlite:///{file}"
        dashboard = uri if uri.startswith("http") else settings.dashboard
        client = _connected(uri, settings.workspace, needed, file if embedded else None)
        return cls(uri, embedded, settings.workspace, dashboard.rstrip("/"), client)

    def answers(self) -> bool:
        """Whether it can be written to now, as far as a short question tells; a database always says yes."""
        with suppress(TrackingUnavailable):
            self.require()
            return True
        return False

    def require(self) -> None:
        """Nothing where it answers.

        Raises:
            TrackingUnavailable: it does not; the sentence says why, and what to do.
        """
        if self.uri.startswith("http"):
            _require_server(self.uri)

    def has_login(self) -> bool:
        """Whether it is a server that knows its users by MLflow's own basic authentication."""
        return self.uri.startswith("http") and self.asked("/api/2.0/mlflow/users/current", "GET").status_code == 200

    def asked(self, path: str, method: str, **document: Any) -> Any:
        """What a server answers to a request that MLflow's client has no call for."""
        login = get_default_host_creds(self.uri)  # type: ignore[no-untyped-call]
        return http_request(login, path, method, raise_on_status=False, **document)  # type: ignore[no-untyped-call]

    def experiment(self, pipeline: str, kind: str = "custom_model_development") -> str:
        """The id of the pipeline's experiment, made where there is none yet."""
        name = f"reconwatch/{pipeline}"
        found = self.client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "deleted":
            raise TrackingUnavailable(
                f"the MLflow experiment {name!r} was deleted: restore it with "
                f"'mlflow experiments restore --experiment-id {found.experiment_id}', or rename the pipeline"
            )
        if found is not None:
            return str(found.experiment_id)
        folder = (self.workspace / "artifacts" / quote(pipeline)).as_uri() if self.embedded else None
        tags = {"mlflow.experimentKind": kind, "reconwatch.pipeline": pipeline.removesuffix(" review")}
        try:
            return str(self.client.create_experiment(name, folder, tags))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return self.experiment(pipeline, kind)

    def search(self, pipeline: str, kind: str, condition: str, limit: int) -> Sequence[Run]:
        """The newest runs of `kind` of a pipeline that fulfil a condition."""
        runs: Sequence[Run] = self.client.search_runs(
            [self.experiment(pipeline)],
            f"tags.`reconwatch.kind` = '{kind}' and {condition}",
            max_results=limit,
            order_by=["attributes.start_time DESC"],
        )
        return runs

    def experiments(self, pipelines: Iterable[str]) -> dict[str, str]:
        """The id of each pipeline's experiment, without those that have none yet: asked for together."""
        names, ours = {f"reconwatch/{name}": name for name in pipelines}, "name LIKE 'reconwatch/%'"
        found = paged(lambda page: self.client.search_experiments(ACTIVE, AT_ONCE, ours, page_token=page))
        return {names[each.name]: str(each.experiment_id) for each in found if each.name in names}

    def search_all(self, experiments: Mapping[str, str], kind: str) -> dict[str, list[Run]]:
        """The runs of `kind` that ended well, by pipeline, the newest first, of pipelines with these experiments: asked
        for together."""
        ids = {number: name for name, number in experiments.items()}
        ended, newest = (
            f"tags.`reconwatch.kind` = '{kind}' and attributes.status = 'FINISHED'",
            ["attributes.start_time DESC"],
        )
        found = dict[str, list[Run]]()
        if ids:
            wanted = list(ids)
            for run in paged(lambda page: self.client.search_runs(wanted, ended, ACTIVE, AT_ONCE, newest, page)):
                found.setdefault(ids[run.info.experiment_id], []).append(run)
        return found

    def repository(self, run_id: str) -> Any:  # which has no types
        """MLflow's access to the artifacts of a run; where they are is asked once, as that never changes."""
        return self.client._tracking_client._get_artifact_repo(run_id)  # as client.log_artifacts does

    def download(self, run_id: str, name: str, folder: Path) -> Path:
        """The artifact or folder of artifacts `name`, copied into `folder`.

        Raises:
            ArtifactMissing: MLflow does not give it.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return Path(self.repository(run_id).download_artifacts(name, str(folder)))
        except (MlflowException, OSError) as error:
            raise ArtifactMissing(f"MLflow does not give {name} of run {run_id} ({first_line(error)})") from error


def paged(ask: Callable[[str | None], PagedList[Any]]) -> Iterator[Any]:
    """Everything that is found, page by page."""
    page = None
    while True:
        part = ask(page)
        yield from part
        page = part.token
        if not page:
            return


def _connected(uri: str, workspace: Path, needed: bool, file: Path | None) -> MlflowClient:
    """The client of a store; `file` is that of the workspace's own."""
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)  # MLflow reads them at each request, and takes them in no other way
    for noisy in ("alembic", "mlflow"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)
    if uri.startswith("http"):
        if not needed:
            return MlflowClient(uri, uri)
        _require_server(uri)
    workspace.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(workspace / "mlflow.lock"):  # two processes that migrate one new database both crash
            if file is not None:
                require_kept(file)
            client = MlflowClient(uri, uri)  # migrates
            client.search_experiments(max_results=1)
            if file is not None:
                note_made(file)
    except InputError:
        raise
    except Exception as error:  # mlflow lets SQLAlchemy's and its own errors through
        if "error code 401" in str(error):
            raise TrackingUnavailable(_refused(uri)) from None
        raise TrackingUnavailable(
            f"the MLflow store {without_password(uri)} cannot be opened: {first_line(error)} "
            "(check that it is one, can be written and has room; where it is damaged, restore it from a backup)"
        ) from error
    return client


def _refused(uri: str) -> str:
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    who = f"does not take the user {user!r} with this password" if user else "wants a user and a password"
    return f"the MLflow server {without_password(uri)} {who}: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"


def _require_server(uri: str) -> None:
    # A question that its database has to answer: without that the server is healthy and can do nothing.
    asked = urllib.request.Request(f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search", b'{"max_results": 1}')
    asked.add_header("Content-Type", "application/json")
    user, password = (os.environ.get(f"MLFLOW_TRACKING_{name}", "") for name in ("USERNAME", "PASSWORD"))
    if user:
        asked.add_header("Authorization", f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}")
    try:
        with urllib.request.urlopen(asked, timeout=SIGN_OF_LIFE):
            return
    except urllib.error.HTTPError as error:
        if error.code < 500:
            return  # it is there; whether it takes our credentials is seen by the client
        reason = f"it answered {error.code}, as it does where its database is away"
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "reason", error))
    raise TrackingUnavailable(
        f"the MLflow server {without_password(uri)} does not answer ({reason}): start it, or unset "
        "MLFLOW_TRACKING_URI to use the workspace's own store"
    )


def without_password(uri: str) -> str:
    """An address as it may be shown."""
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def first_line(error: BaseException) -> str:
    """What went wrong, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
