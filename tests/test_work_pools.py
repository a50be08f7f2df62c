"""`reconwatch deploy` for pools of containers, on a real Prefect server: what it holds, and what a worker makes of it.

There is no container here: what the worker would start in one is started as a process with the variables of one.
"""

import asyncio
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_docker.worker import DockerWorkerJobConfiguration
from prefect_kubernetes.worker import KubernetesWorker, KubernetesWorkerJobConfiguration

from flows.cli import main
from flows.config import load
from flows.ledger import open_ledger

pytestmark = pytest.mark.slow

TEMPLATE = Path(__file__).parents[1] / "examples" / "kubernetes-pool.json"
POOLS = {"docker": [], "kubernetes": ["--base-job-template", str(TEMPLATE)]}
IMAGE = "registry.example/reconwatch:1"
Deploy = Callable[..., str]


@pytest.fixture
def client(prefect_api: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[SyncPrefectClient]:
    """A client of the tests' server, which has no deployment once the test is over."""
    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    with temporary_settings({PREFECT_API_URL: prefect_api}), get_client(sync_client=True) as client:
        yield client
        for one in client.read_deployments():
            client.delete_deployment(one.id)


@pytest.fixture(params=sorted(POOLS))
def pool(request: pytest.FixtureRequest, client: SyncPrefectClient) -> Iterator[str]:
    """A work pool of each kind of container, made as the guide says; its name is its kind."""
    kind: str = request.param
    command = [sys.executable, "-m", "prefect", "work-pool", "create", kind, "--type", kind, *POOLS[kind]]
    subprocess.run(command, check=True, capture_output=True)
    yield kind
    client.delete_work_pool(kind)


@pytest.fixture
def config(project: Callable[..., Path], tmp_path: Path) -> Path:
    return project(tmp_path / "line", schedule={"score": "1d"}, training={"epochs": 1})


@pytest.fixture
def deploy(config: Path, capsys: pytest.CaptureFixture[str]) -> Deploy:
    """Runs the command on the file; what it says, or what is wrong."""

    def command(pool: str, *arguments: str) -> str:
        with pytest.raises(SystemExit) as left:
            main(["deploy", "--pool", pool, "--config", str(config), *arguments])
        printed = capsys.readouterr()
        assert left.value.code in (0, 2)
        return printed.out if left.value.code == 0 else " ".join(printed.err.split())

    return command


def variables(folder: Path, **values: Any) -> list[str]:
    """The option that gives these job variables."""
    file = folder / "variables.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return ["--job-variables", str(file)]


def held(client: SyncPrefectClient, name: str) -> Any:
    """What the server holds of a deployment."""
    return client.read_deployment_by_name(name)


def test_the_server_holds_what_a_container_needs(
    pool: str, deploy: Deploy, client: SyncPrefectClient, config: Path, tmp_path: Path
) -> None:
    """The image and the variables, the flow by its place in the installed package, and no code to be fetched."""
    options = variables(tmp_path, env={"MLFLOW_TRACKING_URI": "http://mlflow:5000"}, image="older")
    said = deploy(pool, "--image", IMAGE, *options, "--config-there", "/srv/line/pipelines.yaml")
    assert said.startswith(
        f"New: run/tiles@{pool}, recalibrate/tiles@{pool}, retrain/tiles@{pool}, review/tiles@{pool}"
    )
    one = held(client, f"run/tiles@{pool}")
    assert one.job_variables == {"env": {"MLFLOW_TRACKING_URI": "http://mlflow:5000"}, "image": IMAGE}
    assert (one.entrypoint, one.path, one.pull_steps, one.storage_document_id) == ("flows.run.run", None, [], None)
    assert one.parameters == {"config": "/srv/line/pipelines.yaml", "pipeline": "tiles"}
    assert (one.enforce_parameter_schema, one.parameter_openapi_schema["required"]) == (True, ["config", "pipeline"])
    assert [each.schedule.interval.days for each in one.schedules] == [1]
    assert one.global_concurrency_limit is None  # the turn is a lock that ends with the container
    assert (
        deploy(pool, "--image", IMAGE, *options, "--config-there", "/srv/line/pipelines.yaml") == "Nothing changed.\n"
    )
    assert deploy(pool, "--image", "newer", *options).startswith(f"Changed: run/tiles@{pool}")
    assert held(client, f"run/tiles@{pool}").job_variables["image"] == "newer"


def test_an_event_loop_around_it_changes_nothing(pool: str, deploy: Deploy) -> None:
    """As in a notebook: there Prefect would give coroutines, which nobody waits for."""

    async def within() -> str:
        return deploy(pool, "--image", IMAGE)

    assert asyncio.run(within()).startswith(f"New: run/tiles@{pool}")


def test_what_could_not_run_is_refused(pool: str, deploy: Deploy, client: SyncPrefectClient, tmp_path: Path) -> None:
    """No image, a variable that the pool does not have, and one that its template does not take: nothing is made."""
    assert f"runs of the work pool '{pool}' ({pool}) would be made of Prefect's own image" in deploy(pool)
    unknown = deploy(pool, "--image", IMAGE, *variables(tmp_path, volume=["a:b"]))
    assert f"runs of the work pool '{pool}' ({pool}) have no job variable 'volume': leave it out" in unknown
    wrong = deploy(pool, "--image", IMAGE, *variables(tmp_path, volumes="a:b"))
    assert f"Prefect refuses the deployment run/tiles@{pool}" in wrong
    assert "volumes" in wrong
    assert client.read_deployments() == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("env: {A: 'postgresql+psycopg://me:planted@host/name'}", "holds an address with a password, which Prefect"),
        ("- image", "holds no job variables: write one a line"),
        ("image: [", "are no YAML of texts, numbers and lists: "),
        ("name: 2026-01-01", "are no YAML of texts, numbers and lists: "),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_a_file_that_holds_no_job_variables_is_refused(
    deploy: Deploy, tmp_path: Path, text: str | None, words: str
) -> None:
    """In one sentence, which does not repeat a password."""
    file = tmp_path / "variables.yaml"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    said = deploy("docker", "--job-variables", str(file))
    assert words in said
    assert "planted" not in said


def test_a_path_that_depends_on_the_folder_is_refused(deploy: Deploy) -> None:
    """A container begins in a folder of its own."""
    said = deploy("docker", "--image", IMAGE, "--config-there", "pipelines.yaml")
    assert "--config-there is 'pipelines.yaml': give the whole path" in said


def test_the_template_for_kubernetes_is_that_of_prefect_and_four_variables() -> None:
    """Prefect's own has no volume and no secret; everything else is as in the version that is installed."""
    ours, theirs = json.loads(TEMPLATE.read_text(encoding="utf-8")), KubernetesWorker.get_default_base_job_template()
    added = {name: ours["variables"]["properties"].pop(name) for name in ("volumes", "volume_mounts", "env_from")}
    assert {each["type"] for each in added.values()} == {"array"}
    assert ours["variables"]["properties"].pop("security_context")["default"] == {"fsGroup": 1000}
    pod = ours["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    assert (pod.pop("volumes"), pod.pop("securityContext")) == ("{{ volumes }}", "{{ security_context }}")
    (container,) = pod["containers"]
    assert (container.pop("volumeMounts"), container.pop("envFrom")) == ("{{ volume_mounts }}", "{{ env_from }}")
    assert ours == theirs


def rendered(pool: str, run: FlowRun) -> tuple[list[str], dict[str, str], Any]:
    """What a worker of the pool makes of a flow run, by its own function: command, variables, and all of it."""

    async def configuration() -> Any:
        kinds = {"docker": DockerWorkerJobConfiguration, "kubernetes": KubernetesWorkerJobConfiguration}
        async with get_client() as client:
            there = await client.read_work_pool(pool)
            return await kinds[pool].resolve_for_flow_run(run, client=client, work_pool=there, worker_name="worker")

    found = asyncio.run(configuration())
    if pool == "docker":
        return shlex.split(found.command), found.env, found
    (container,) = found.job_manifest["spec"]["template"]["spec"]["containers"]
    return container["args"], {each["name"]: each["value"] for each in container["env"]}, found


def test_what_a_worker_starts_does_the_run(
    pool: str, deploy: Deploy, client: SyncPrefectClient, config: Path, tmp_path: Path
) -> None:
    """From an empty folder, with the variables of the container alone: the flow is found in the installed package, and
    what the job variables set counts."""
    ledger = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    mounts: dict[str, Any] = {"volumes": [f"{config.parent}:{config.parent}"]}
    if pool == "kubernetes":
        mounts = {
            "volumes": [{"name": "line", "persistentVolumeClaim": {"claimName": "line"}}],
            "volume_mounts": [{"name": "line", "mountPath": str(config.parent)}],
            "env_from": [{"secretRef": {"name": "reconwatch"}}],
        }
    set_there = {"RECONWATCH_LEDGER_URL": ledger, "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"}
    assert deploy(pool, "--image", IMAGE, *variables(tmp_path, env=set_there, **mounts)).startswith("New: ")
    run = client.create_flow_run_from_deployment(held(client, f"run/tiles@{pool}").id)
    command, environment, configuration = rendered(pool, run)
    assert command == ["prefect", "flow-run", "execute"]
    if pool == "docker":
        assert (configuration.image, configuration.volumes) == (IMAGE, mounts["volumes"])
    else:
        pod = deepcopy(configuration.job_manifest["spec"]["template"]["spec"])
        (container,) = pod["containers"]
        assert (container["image"], container["volumeMounts"]) == (IMAGE, mounts["volume_mounts"])
        assert (container["envFrom"], "command" in container) == (mounts["env_from"], False)
        assert (pod["volumes"], pod["securityContext"]) == (mounts["volumes"], {"fsGroup": 1000})

    empty = tmp_path / "container"
    empty.mkdir()
    image = {"PATH": f"{Path(sys.executable).parent}:{os.defpath}", "HOME": str(empty)}
    ended = subprocess.run(command, env=image | environment, cwd=empty, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    state = client.read_flow_run(run.id).state
    assert state is not None
    assert (state.name, state.message) == ("Completed", None), ended.stderr
    settings = load(config, {})
    assert open_ledger(settings.workspace, {"RECONWATCH_LEDGER_URL": ledger}).batches.count("tiles") == 3
    assert not (settings.workspace / "ledger.db").exists()
