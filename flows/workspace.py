"""The configuration with its stores opened: what every flow and command begins with."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from flows.config import Settings, load
from flows.ledger import Ledger, open_ledger
from flows.tracking import Tracking, TrackingUnavailable
from flows.waiting import delays_in, patiently


@dataclass(frozen=True)
class Patience:
    """With an MLflow server that does not answer: whether it is waited for, and whether work goes on without it.

    Attributes:
        waits: it is asked again after each of the delays; otherwise it is said at once.
        goes_on: what can be done without it is done; otherwise it is an error.
        say: where the waiting is told.
    """

    waits: bool = False
    goes_on: bool = False
    say: Callable[[str], None] = lambda _: None


AT_ONCE = Patience()  # for who asks how things stand


@dataclass(frozen=True)
class Workspace:
    """What is watched, the record that people see, and the ledger that decides what is done."""

    settings: Settings
    tracking: Tracking
    ledger: Ledger


def open_workspace(
    path: Path,
    environment: Mapping[str, str] = os.environ,
    tags: Mapping[str, str] = MappingProxyType({}),
    patience: Patience = AT_ONCE,
) -> Workspace:
    """The stores of the configuration at `path`, made where they are not there yet; new runs in MLflow get the tags.

    Raises:
        InputError: the configuration is wrong.
        TrackingUnavailable: the MLflow store does not answer, and the patience with it is at its end.
    """
    settings = load(path, environment)
    settings.workspace.mkdir(parents=True, exist_ok=True)
    return Workspace(
        settings, open_tracking(settings, environment, tags, patience), open_ledger(settings.workspace, environment)
    )


def open_tracking(
    settings: Settings,
    environment: Mapping[str, str],
    tags: Mapping[str, str] = MappingProxyType({}),
    patience: Patience = AT_ONCE,
) -> Tracking:
    """The record alone, without the ledger.

    Raises:
        TrackingUnavailable: the MLflow store does not answer, and the patience with it is at its end.
    """

    def away(error: Exception) -> bool:
        return isinstance(error, TrackingUnavailable)

    delays = delays_in(environment) if patience.waits else ()
    try:
        return patiently(lambda: Tracking(settings, environment, tags), away, delays, patience.say)
    except TrackingUnavailable:
        if not patience.goes_on:
            raise
        return Tracking(settings, environment, tags, needed=False)
