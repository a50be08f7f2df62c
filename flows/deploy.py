"""`reconwatch deploy`: pipelines as deployments of a work pool."""

import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import WorkPool
from prefect.exceptions import ObjectNotFound

from ae_models.errors import InputError
from flows.config import load
from flows.deployments import Changes, Place, bring_about, wanted_deployments
from flows.prefect_server import find_server

PASSWORD = re.compile(r"://[^\s/@:]*:[^\s/@]+@")  # in an address


def deploy(
    path: Path,
    environment: Mapping[str, str],
    pool: str,
    config_there: str,
    variables: Mapping[str, Any],
    remove: bool,
) -> Changes:
    """Bring the pool's deployments of this file about, or remove them all.

    Args:
        config_there: the file's path where the runs are.
        variables: the job variables of the runs, of those that the pool has.

    Raises:
        InputError: the file has faults, no Prefect server answers, there is no such pool, or its runs would not be as
            the variables have it, or have no image.
    """
    settings = load(path, environment)
    if not any(kind(config_there).is_absolute() for kind in (PurePosixPath, PureWindowsPath)):
        raise InputError(f"--config-there is '{config_there}': give the whole path that the file has where runs are")
    server = find_server(environment)
    if server.url is None:
        raise InputError(
            f"'reconwatch deploy' needs a Prefect server, and {server.reason}: start one (prefect server start) and "
            "export PREFECT_API_URL"
        )
    place = Place(str(settings.path), config_there, pool, variables)
    with get_client(sync_client=True) as client:
        found = _pool(pool, client, server.url)
        if remove:
            return bring_about((), place, client)
        _check(found, variables)
        return bring_about(wanted_deployments(settings), place, client)


def job_variables(file: Path | None, image: str | None) -> dict[str, Any]:
    """The job variables of a YAML file, with this image where one is given.

    Raises:
        InputError: the file holds none, or a password in the clear, which everybody could read in Prefect.
    """
    variables = _read(file) if file else {}
    if PASSWORD.search(json.dumps(variables)):
        raise InputError(
            f"{file} holds an address with a password, which Prefect would show to everybody: keep the address in a "
            "secret block and write {{ prefect.blocks.secret.NAME }} in its place"
        )
    return variables | ({"image": image} if image else {})


def _read(file: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
        json.dumps(found)
    except OSError as error:
        raise InputError(f"the job variables in {file} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        why = " ".join(str(error).split())
        raise InputError(f"the job variables in {file} are no YAML of texts, numbers and lists: {why}") from None
    if not isinstance(found, dict):
        raise InputError(f"{file} holds no job variables: write one a line, such as 'image: registry/name:tag'")
    return found


def _pool(name: str, client: SyncPrefectClient, url: str) -> WorkPool:
    try:
        return client.read_work_pool(name)
    except ObjectNotFound:
        raise InputError(
            f"there is no work pool '{name}' on {url}: prefect work-pool create {name} --type process (or docker, "
            "or kubernetes)"
        ) from None


def _check(pool: WorkPool, variables: Mapping[str, Any]) -> None:
    """Prefect itself checks the values of variables, and leaves out those that the pool does not have."""
    known = pool.base_job_template.get("variables", {}).get("properties", {})
    for name in variables:
        if name.partition(".")[0] not in known:
            raise InputError(
                f"runs of the work pool '{pool.name}' ({pool.type}) have no job variable '{name}': leave it out, or "
                f"take one of {', '.join(sorted(known))}"
            )
    if "image" in known and not variables.get("image") and not known["image"].get("default"):
        raise InputError(
            f"runs of the work pool '{pool.name}' ({pool.type}) would be made of Prefect's own image, in which there "
            "is no reconwatch: name one with it, by --image"
        )
