"""The configuration with its stores opened: what every flow and command begins with."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from flows.config import Settings, load
from flows.ledger import Ledger, open_ledger
from flows.tracking import Tracking


@dataclass(frozen=True)
class Workspace:
    """What is watched, the record that people see, and the ledger that decides what is done."""

    settings: Settings
    tracking: Tracking
    ledger: Ledger


def open_workspace(
    path: Path, environment: Mapping[str, str] = os.environ, tags: Mapping[str, str] = MappingProxyType({})
) -> Workspace:
    """The stores of the configuration at `path`, made where they are not there yet; new runs in MLflow get the tags.

    Raises:
        InputError: the configuration is wrong.
        TrackingUnavailable: the MLflow store does not answer.
    """
    settings = load(path, environment)
    settings.workspace.mkdir(parents=True, exist_ok=True)
    return Workspace(settings, Tracking(settings, environment, tags), open_ledger(settings.workspace, environment))
