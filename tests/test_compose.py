"""`mlflow/compose.yaml`, as Docker Compose and its servers would read it: its form, its values, flags and variables.

Where there is no Docker nothing starts it; what can be compared with the specification, with what Docker Compose itself
makes of it, and with the servers that are installed here in the same versions, is.
"""

import configparser
import json
import os
import re
import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it has no types
import pytest
import yaml
from botocore.session import Session  # type: ignore[import-untyped, unused-ignore]  # neither has it
from mlflow import environment_variables
from mlflow.environment_variables import _EnvironmentVariable
from prefect.settings import Settings
from prefect.settings.legacy import _get_settings_fields

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "mlflow" / "compose.yaml").read_text(encoding="utf-8")
SET = {  # what `.env` holds
    "POSTGRES_PASSWORD": "planted",
    "AWS_ACCESS_KEY_ID": "planted",
    "AWS_SECRET_ACCESS_KEY": "planted",
    "MLFLOW_AUTH_ADMIN_PASSWORD": "planted-password",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "planted",
}

# The part of https://github.com/compose-spec/compose-spec that the file uses; anything else in it is a mistake.
TEXTS = {"type": "array", "items": {"type": "string"}, "minItems": 1}
VARIABLES = {"type": "object", "patternProperties": {"^[A-Z][A-Z0-9_]*$": {"type": ["string", "null"]}}}
DURATION = {"type": "string", "pattern": "^([0-9]+(h|m|s|ms|us))+$"}
STATES = ["service_started", "service_healthy", "service_completed_successfully"]


def record(required: list[str], **properties: Any) -> dict[str, Any]:
    """The schema of a mapping with these keys and no others."""
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


SERVICE = record(
    ["image"],
    image={"type": "string", "pattern": r"^[a-z0-9./-]+(:[A-Za-z0-9_.-]+)?$"},
    build=record(["dockerfile_inline"], dockerfile_inline={"type": "string"}),
    command=TEXTS,
    configs={
        "type": "array",
        "items": record(["source", "target"], source={"type": "string"}, target={"pattern": "^/"}),
    },
    depends_on={"type": "object", "additionalProperties": record(["condition"], condition={"enum": STATES})},
    environment=VARIABLES | {"additionalProperties": False},
    healthcheck=record(
        ["test"],
        test=TEXTS | {"items": [{"enum": ["CMD", "CMD-SHELL"]}], "additionalItems": {"type": "string"}, "minItems": 2},
        interval=DURATION,
        timeout=DURATION,
        start_period=DURATION,
        retries={"type": "integer", "minimum": 1},
    ),
    ports={"type": "array", "items": {"type": "string", "pattern": r"^[0-9.]+:[0-9]+:[0-9]+$"}},
    restart={"enum": ["no", "always", "on-failure", "unless-stopped"]},
    volumes={"type": "array", "items": {"type": "string", "pattern": r"^(\./)?[\w.-]+:/[\w./-]+(:ro)?$"}},
)
FILE = record(
    ["services"],
    name={"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]*$"},
    services={"type": "object", "additionalProperties": SERVICE},
    configs={"type": "object", "additionalProperties": record(["content"], content={"type": "string"})},
    volumes={"type": "object", "additionalProperties": {"type": "null"}},
)


def interpolated(text: str, variables: dict[str, str]) -> str:
    """A value with its variables, as Compose puts them in: `${A}`, `${A:-default}`, `${A:?what to do}`."""

    def value(found: re.Match[str]) -> str:
        name, rest = found["name"], found["rest"] or ""
        if rest.startswith(":-"):
            return variables.get(name) or rest[2:]
        assert variables.get(name), f"{name} is not set: {rest.removeprefix(':?')}"
        return variables[name]

    return re.sub(r"\$\{(?P<name>[A-Z][A-Z0-9_]*)(?P<rest>:[-?][^}]*)?\}", value, text)


def read(variables: dict[str, str]) -> dict[str, Any]:
    """The file as Compose has it once variables are put in; extensions (`x-`) are none of its parts."""

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: filled(each) for key, each in value.items()}
        if isinstance(value, list):
            return [filled(each) for each in value]
        return interpolated(value, variables) if isinstance(value, str) else value

    return {key: filled(value) for key, value in yaml.safe_load(TEXT).items() if not key.startswith("x-")}


COMPOSE = read(SET)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def installed(package: str) -> str:
    """The version that is pinned here."""
    (version,) = re.findall(rf"^{package}==(\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    return str(version)


def test_it_has_the_form_of_a_compose_file() -> None:
    """Every key, and the form of every value, once variables are put in."""
    jsonschema.validate(COMPOSE, FILE, jsonschema.Draft7Validator)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("depends_on:", "depend_on:"),
        ("condition: service_healthy", "condition: healthy"),
        ("interval: 5s", "interval: 5 seconds"),
        ("test: [CMD, pg_isready", "test: [pg_isready"),
        ("127.0.0.1:${POSTGRES_PORT:-5432}:5432", "${POSTGRES_HOST:-localhost}:5432"),
        ("restart: unless-stopped", "restart: unless-stoped"),
        ('RUSTFS_CONSOLE_ENABLE: "false"', "RUSTFS_CONSOLE_ENABLE: false"),
    ],
)
def test_a_slip_would_be_found(monkeypatch: pytest.MonkeyPatch, right: str, wrong: str) -> None:
    """The form is narrow enough to be of use."""
    assert right in TEXT
    monkeypatch.setitem(globals(), "TEXT", TEXT.replace(right, wrong))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(read(SET), FILE, jsonschema.Draft7Validator)


@pytest.mark.parametrize("name", sorted(SET))
def test_nothing_starts_without_its_secrets(name: str) -> None:
    """And it is said where to set them."""
    with pytest.raises(AssertionError, match=f"{name} is not set: set it in .env beside compose.yaml"):
        read({key: value for key, value in SET.items() if key != name})


def compose(variables: dict[str, str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """What Docker Compose reads in the file, as JSON; it needs no daemon for that."""
    (folder / ".env").touch()  # in place of the one beside the file
    program, file = str(Path(sys.executable).parent / "docker-compose"), str(ROOT / "mlflow" / "compose.yaml")
    command = [program, "--file", file, "--env-file", str(folder / ".env"), "config"]
    environment = variables | {"PATH": os.defpath, "HOME": str(folder)}
    return subprocess.run(
        [*command, "--format", "json"], env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def test_docker_compose_reads_what_is_tested_here(tmp_path: Path) -> None:
    """Images, commands, variables, conditions and contents are those of this file; every port is on loopback."""
    read_by_it = compose(SET, tmp_path)
    assert (read_by_it.returncode, read_by_it.stderr) == (0, "")
    theirs = json.loads(read_by_it.stdout)
    assert set(theirs["services"]) == set(SERVICES)
    for name, ours in SERVICES.items():
        service = theirs["services"][name]
        assert [service.get(key) for key in ("image", "command")] == [ours["image"], ours.get("command")]
        assert (service.get("environment") or {}) == ours.get("environment", {})
        conditions = {other: how["condition"] for other, how in (service.get("depends_on") or {}).items()}
        assert conditions == {other: how["condition"] for other, how in ours.get("depends_on", {}).items()}
        ports = [f"{one['host_ip']}:{one['published']}:{one['target']}" for one in service.get("ports") or ()]
        assert ports == ours.get("ports", [])
        assert all(port.startswith("127.0.0.1:") for port in ports)
    assert theirs["configs"]["users"]["content"] == COMPOSE["configs"]["users"]["content"]


def test_docker_compose_says_which_secrets_are_missing(tmp_path: Path) -> None:
    """All of them at once, and where to set them."""
    refused = compose({}, tmp_path)
    assert refused.returncode == 1
    for name in SET:
        assert f"required variable {name} is missing a value: set it in .env beside compose.yaml" in refused.stderr


def test_who_waits_for_another_can_be_let_go() -> None:
    """A service that is waited for until it is healthy has a check, one that is to end is not started again, and no two
    wait for each other."""
    waits = {name: set(service.get("depends_on", ())) for name, service in SERVICES.items()}
    for service in SERVICES.values():
        for other, how in service.get("depends_on", {}).items():
            assert ("healthcheck" in SERVICES[other]) or how["condition"] != "service_healthy"
            assert ("restart" not in SERVICES[other]) or how["condition"] != "service_completed_successfully"
    while waits:
        free = {name for name, others in waits.items() if not others}
        assert free, f"they wait for each other: {waits}"
        waits = {name: others - free for name, others in waits.items() if name not in free}


@pytest.fixture(scope="module")
def server() -> Any:
    """The command `mlflow server`."""
    with warnings.catch_warnings(action="ignore"):  # MLflow's own, of its type hints
        return import_module("mlflow.cli").server


def test_mlflow_takes_these_options(server: Any) -> None:
    """Read by the very command line of the version that the image gets."""
    program, command, *options = SERVICES["mlflow"]["command"]
    assert (program, command) == ("mlflow", "server")
    taken = server.make_context("server", list(options)).params
    found = (taken["app_name"], taken["host"], int(taken["port"]), int(taken["workers"]))
    assert found == ("basic-auth", "0.0.0.0", 5000, 2)
    assert taken["allowed_hosts"] == "localhost:*,127.0.0.1:*,mlflow:5000"
    assert taken["artifacts_destination"] == "s3://mlflow"
    assert f"mlflow=={installed('mlflow')} " in SERVICES["mlflow-image"]["build"]["dockerfile_inline"]
    assert SERVICES["mlflow-image"]["image"] == SERVICES["mlflow"]["image"] == SERVICES["bucket"]["image"]


def test_prefect_takes_these_options() -> None:
    """As its own help names them, in the version of the image."""
    program, *command = SERVICES["prefect"]["command"]
    words = [word for word in command if not word.startswith("--")]
    assert (program, words[:2]) == ("prefect", ["server", "start"])
    told = subprocess.run(
        [sys.executable, "-m", "prefect", "server", "start", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for option, value in zip(command[2::2], command[3::2], strict=True):
        assert re.search(rf"{option} (STR|INT)", told), option
        assert value == {"--host": "0.0.0.0", "--port": "4200"}[option]
    assert SERVICES["prefect"]["image"] == f"prefecthq/prefect:{installed('prefect')}-python3.11"


def test_every_variable_is_one_that_its_program_reads(server: Any) -> None:
    """MLflow's and Prefect's by their own lists, the keys of the store by those of botocore."""
    known = {each.name for each in vars(environment_variables).values() if isinstance(each, _EnvironmentVariable)}
    known |= {each.envvar for each in server.params if isinstance(each.envvar, str)}
    known |= set(_get_settings_fields(Settings))
    known |= {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}  # of botocore.credentials.EnvProvider
    known |= {str(name) for names in Session.SESSION_VARIABLES.values() for name in [names[1]] if names[1]}
    ours = {name: set(SERVICES[name].get("environment", ())) for name in ("bucket", "mlflow", "prefect")}
    assert all(ours.values())
    assert {name: variables - known for name, variables in ours.items()} == {name: set() for name in ours}


def test_the_file_of_users_is_one_of_mlflow() -> None:
    """Its settings are those that MLflow reads, and the function that it names is there."""
    parser = configparser.ConfigParser()
    with warnings.catch_warnings(action="ignore"):  # of what MLflow's server imports
        known = import_module("mlflow.server.auth.config").AuthConfig._fields
    parser.read_string(COMPOSE["configs"]["users"]["content"])
    settings = dict(parser["mlflow"])
    assert set(settings) <= set(known)
    assert settings["database_uri"] == "postgresql+psycopg://reconwatch:planted@database:5432/mlflow_auth"
    module, _, function = settings["authorization_function"].partition(":")
    assert callable(getattr(import_module(module), function))


def test_python_within_it_can_be_read() -> None:
    """The check of each server, and what makes the bucket."""
    commands = [service.get("command", []) for service in SERVICES.values()]
    commands += [service["healthcheck"]["test"][1:] for service in SERVICES.values() if "healthcheck" in service]
    scripts = [command[2] for command in commands if command[:2] == ["python", "-c"]]
    assert len(scripts) == 3
    for script in scripts:
        compile(script, "compose.yaml", "exec")
    for name, port in (("mlflow", 5000), ("prefect", 4200)):
        assert f"127.0.0.1:{port}/" in SERVICES[name]["healthcheck"]["test"][3]
        assert SERVICES[name]["ports"][0].endswith(f":{port}")
