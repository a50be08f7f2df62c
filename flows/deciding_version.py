"""Which version of a pipeline decides at this moment, asked of the registry by one small query.

MLflow's client takes seconds to import. Its alias is one row of a table, or one answer of a server; where neither is at
hand, nothing is guessed, and whoever asks has to ask MLflow.
"""

import json
import sqlite3
import urllib.request
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode

from flows.config import Settings

ALIAS = "champion"
QUERY = """
    select run_id from registered_model_aliases join model_versions using (workspace, name, version)
    where name = ? and alias = ?
"""
SECONDS = 5.0


def deciding_run(settings: Settings, environment: Mapping[str, str], pipeline: str) -> str | None:
    """The calibration run of the version that decides; None where there is none, or MLflow itself has to be asked."""
    uri = environment.get("MLFLOW_TRACKING_URI") or f"sqlite:///{settings.workspace / 'mlflow.db'}"
    if any(environment.get(name) for name in ("MLFLOW_WORKSPACE", "MLFLOW_REGISTRY_URI")):
        return None
    try:
        if uri.startswith("sqlite:///"):
            return _in_database(Path(uri.removeprefix("sqlite:///")), pipeline)
        secured = any(name.startswith("MLFLOW_TRACKING_") and name != "MLFLOW_TRACKING_URI" for name in environment)
        return _at_server(uri, pipeline) if uri.startswith("http") and not secured else None
    except (OSError, sqlite3.Error, ValueError, LookupError, TypeError):
        return None


def _in_database(path: Path, pipeline: str) -> str | None:
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=SECONDS)) as database:
        found = database.execute(QUERY, (pipeline, ALIAS)).fetchall()
    return str(found[0][0]) if len(found) == 1 else None


def _at_server(uri: str, pipeline: str) -> str | None:
    asked = urlencode({"name": pipeline, "alias": ALIAS})
    address = f"{uri.rstrip('/')}/api/2.0/mlflow/registered-models/alias?{asked}"
    with urllib.request.urlopen(address, timeout=SECONDS) as answer:
        return str(json.load(answer)["model_version"]["run_id"])
