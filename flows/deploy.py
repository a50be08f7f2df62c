"""`reconwatch deploy`: pipelines as deployments of a work pool."""

from collections.abc import Mapping
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from ae_models.errors import InputError
from flows.config import load
from flows.deployments import Changes, Place, bring_about, wanted_deployments
from flows.prefect_server import find_server


def deploy(
    path: Path, environment: Mapping[str, str], pool: str, image: str | None, config_there: str, remove: bool
) -> Changes:
    """Bring the pool's deployments of this file about, or remove them all.

    Raises:
        InputError: the file has faults, no Prefect server answers, there is no such pool, or its runs have no image.
    """
    settings = load(path, environment)
    server = find_server(environment)
    if server.url is None:
        raise InputError(
            f"'reconwatch deploy' needs a Prefect server, and {server.reason}: start one (prefect server start) and "
            "export PREFECT_API_URL"
        )
    place = Place(str(settings.path), config_there, pool, image)
    with get_client(sync_client=True) as client:
        try:
            found = client.read_work_pool(pool)
        except ObjectNotFound:
            raise InputError(
                f"there is no work pool '{pool}' on {server.url}: prefect work-pool create {pool} --type process"
            ) from None
        variables = found.base_job_template.get("variables", {}).get("properties", {})
        if image and "image" not in variables:
            raise InputError(f"runs of the work pool '{pool}' ({found.type}) have no image: leave --image out")
        return bring_about(() if remove else wanted_deployments(settings), place, client)
