"""Whoever runs reconwatch can say to which hosts alerts may go, whatever pipelines.yaml says."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from ae_models.errors import InputError
from flows.config import Settings, load

ALLOWED = {"RECONWATCH_ALERT_HOSTS": "hooks.slack.com, *.example.com", "SECRET": "https://inside.lan/T0/planted-token"}


def loaded(folder: Path, channel: dict[str, Any], environment: Mapping[str, str] = ALLOWED) -> Settings:
    (folder / "nominal").mkdir(exist_ok=True)
    pipeline = {"data": {"nominal": "nominal"}, "alerts": [channel]}
    path = folder / "pipelines.yaml"
    path.write_text(yaml.safe_dump({"pipelines": {"tiles": pipeline}}), encoding="utf-8")
    return load(path, environment)


@pytest.mark.parametrize(
    "channel",
    [
        {"type": "log"},
        {"type": "prefect_event"},
        {"type": "webhook", "url": "https://alerts.example.com/x"},
        {"type": "email", "host": "mail.example.com", "from": "a@example.com", "to": "b@example.com"},
    ],
    ids=lambda channel: channel["type"],
)
def test_allowed_hosts_are_used(tmp_path: Path, channel: dict[str, Any]) -> None:
    """Hosts of the list, with wildcards, and channels that lead to none."""
    assert loaded(tmp_path, channel).pipeline("tiles").alerts[0].type == channel["type"]


@pytest.mark.parametrize(
    ("channel", "reason"),
    [
        ({"type": "webhook", "url": "http://169.254.169.254/latest"}, "leads to the host '169.254.169.254', which"),
        ({"type": "webhook", "url": "http://example.com.evil.net/"}, "leads to the host 'example.com.evil.net', which"),
        ({"type": "webhook", "url": "http://x.example.com@evil.net/"}, "leads to the host 'evil.net', which"),
        ({"type": "slack", "url": "${SECRET}"}, "leads to the host 'inside.lan', which"),
        ({"type": "webhook", "block": "line"}, "uses a block saved in Prefect, whose host"),
        ({"type": "apprise", "url": "${SECRET}"}, "goes through apprise, whose hosts"),
        (
            {"type": "email", "host": "10.0.0.7", "from": "a@example.com", "to": "b@example.com"},
            "leads to the host '10.0.0.7', which",
        ),
    ],
)
def test_others_are_refused(tmp_path: Path, channel: dict[str, Any], reason: str) -> None:
    """The sentence names channel, pipeline, host and variable, and nothing of a secret address but its host."""
    with pytest.raises(InputError, match=rf"the alert channel '.*' of pipeline 'tiles' {reason}") as refused:
        loaded(tmp_path, channel)
    assert "planted-token" not in str(refused.value)


def test_without_the_variable_any_host_may_be_used(tmp_path: Path) -> None:
    """Who writes the file is then who runs it."""
    assert loaded(tmp_path, {"type": "webhook", "url": "http://10.0.0.7/"}, {}).pipeline("tiles").alerts
