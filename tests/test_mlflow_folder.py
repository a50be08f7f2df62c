"""What `mlflow/` starts: on loopback unless told otherwise, with a login, and no secret among the options."""

import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[1] / "mlflow"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
SECRETS = ("POSTGRES_PASSWORD", "AWS_SECRET_ACCESS_KEY", "MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY")
SET = {
    "POSTGRES_HOST": "127.0.0.1",
    "POSTGRES_PASSWORD": "planted",
    "MLFLOW_ARTIFACTS_DESTINATION": "s3://mlflow",
    "MLFLOW_AUTH_ADMIN_PASSWORD": "planted-password",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "planted",
}


def script(settings: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """`servers.sh` with these settings, which end it before it starts anything."""
    command = [FOLDER / "servers.sh"]
    return subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False, timeout=60)


class TestCompose:
    """The compose file, as far as it can be read without Docker."""

    def test_every_port_is_on_loopback(self) -> None:
        """Unless a variable says otherwise."""
        ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", ())]
        assert len(ports) == 3
        assert all(re.match(r"(127\.0\.0\.1|\$\{[A-Z]+_HOST:-127\.0\.0\.1\}):", port) for port in ports)

    def test_no_secret_is_an_option(self) -> None:
        """A list of processes shows options."""
        commands = [str(service.get("command", "")) for service in COMPOSE["services"].values()]
        assert [name for name in SECRETS for command in commands if name in command] == []

    def test_secrets_have_no_default(self) -> None:
        """Without one nothing starts; the message says where to set it."""
        text = (FOLDER / "compose.yaml").read_text(encoding="utf-8")
        for name in SECRETS:
            assert f"${{{name}:?set it in .env beside compose.yaml" in text
            assert f"${{{name}:-" not in text

    def test_mlflow_has_a_login_and_names_its_hosts(self) -> None:
        """Basic authentication on a database of its own, and an answer to named Host headers alone."""
        command = COMPOSE["services"]["mlflow"]["command"]
        assert "--app-name=basic-auth" in command
        (hosts,) = [option for option in command if option.startswith("--allowed-hosts=")]
        assert hosts.endswith(":-localhost:*,127.0.0.1:*},mlflow:5000")
        assert "/mlflow_auth" in COMPOSE["configs"]["users"]["content"]
        assert COMPOSE["services"]["mlflow"]["configs"][0]["source"] == "users"

    def test_everything_that_is_named_is_there(self) -> None:
        """Volumes, services that others wait for, and files that are mounted."""
        services = COMPOSE["services"]
        waited = {name for service in services.values() for name in service.get("depends_on", ())}
        assert waited <= set(services)
        mounts = [mount.split(":")[0] for service in services.values() for mount in service.get("volumes", ())]
        assert {mount for mount in mounts if not mount.startswith("./")} == set(COMPOSE["volumes"])
        assert all((FOLDER / mount).is_file() for mount in mounts if mount.startswith("./"))

    def test_every_variable_is_explained(self) -> None:
        """What can be set stands in .env.example."""
        example = (FOLDER / ".env.example").read_text(encoding="utf-8")
        text = (FOLDER / "compose.yaml").read_text(encoding="utf-8") + (FOLDER / "servers.sh").read_text("utf-8")
        named = set(re.findall(r"\$\{([A-Z][A-Z0-9_]+)[:}]", text)) - {"BASH_SOURCE"}
        assert sorted(name for name in named if name not in example) == []


class TestScript:
    """`servers.sh`, as far as it goes without a database; `test_servers.py` runs it whole."""

    @pytest.mark.parametrize("name", sorted(SET))
    def test_what_is_not_set_is_named(self, name: str) -> None:
        """And where to set it."""
        ended = script({key: value for key, value in SET.items() if key != name} | {name: ""})
        assert ended.returncode == 1
        assert re.fullmatch(rf"set {name} in .*/mlflow/\.env \(see \.env\.example\)\n", ended.stderr)

    def test_a_password_that_would_break_an_address_is_refused(self) -> None:
        """The sentence does not show it."""
        ended = script(SET | {"POSTGRES_PASSWORD": "pl@nted/word"})
        assert ended.returncode == 1
        assert "take letters and digits only" in ended.stderr
        assert "pl@nted" not in ended.stderr

    @pytest.mark.parametrize("name", ["start.sh", "servers.sh"])
    def test_servers_listen_on_loopback(self, name: str) -> None:
        """Unless a variable says otherwise; and no password is among the options."""
        text = (FOLDER / name).read_text(encoding="utf-8")
        assert text.count("--host") - text.count('--host "$POSTGRES_HOST"') == text.count('_HOST:-127.0.0.1}" ')
        assert "--backend-store-uri" not in text
        assert (FOLDER / name).stat().st_mode & stat.S_IXUSR
