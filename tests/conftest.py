"""What every test needs: an environment without the stores, servers and settings of whoever runs the tests."""

import os
import tempfile

import pytest

PREFIXES = ("MLFLOW_", "PREFECT_", "RECONWATCH_")
HOME = pytest.StashKey[tempfile.TemporaryDirectory[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Before any test module is imported: Prefect and MLflow read their variables when they are."""
    for name in [name for name in os.environ if name.startswith(PREFIXES)]:
        del os.environ[name]
    config.stash[HOME] = tempfile.TemporaryDirectory(prefix="reconwatch-tests-", ignore_cleanup_errors=True)
    os.environ |= {
        "PREFECT_HOME": config.stash[HOME].name,  # its database and profiles
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
    }


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove what the tests' Prefect left behind."""
    config.stash[HOME].cleanup()
