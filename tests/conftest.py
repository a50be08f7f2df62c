"""What every test needs: an environment without the stores, servers and settings of whoever runs the tests."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from playwright.sync_api import Browser, expect, sync_playwright

from tests.ports import free_port
from tests.postgresql import PostgreSQL, PostgreSQLMissing
from tests.postgresql import running as postgresql_running

PREFIXES = ("MLFLOW_", "PREFECT_", "RECONWATCH_")
HOME = pytest.StashKey[tempfile.TemporaryDirectory[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """How large the tests of faults are."""
    parser.addoption(
        "--fault-size", type=float, default=0.05, help="share of the full tests of faults (make test-faults: 1)"
    )


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
        "RECONWATCH_SERVER_WAITS": "0",  # tests that wait for a server say for how long
        "OMP_NUM_THREADS": "1",  # tests share the cores: threads that wait for each other take many times as long
    }


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove what the tests' Prefect left behind."""
    config.stash[HOME].cleanup()


@pytest.fixture(scope="session")
def fault_count(pytestconfig: pytest.Config) -> Callable[[int], int]:
    """From the full number of trials to that of this test run, by --fault-size."""

    def count(full: int) -> int:
        return max(1, round(full * float(pytestconfig.getoption("--fault-size"))))

    return count


@pytest.fixture(scope="session")
def small_images() -> Callable[[Path, int, int], list[Path]]:
    """A maker of `n` nominal images in a folder: 16 x 16, grey, four smooth patterns in amounts drawn by the seed."""

    def make(folder: Path, n: int, seed: int) -> list[Path]:
        random = np.random.default_rng(seed)
        down, across = np.mgrid[0:16, 0:16] / 16
        patterns = [np.sin(np.pi * across), np.cos(np.pi * down), down * across, np.sin(2 * np.pi * (down + across))]
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"image-{number:03d}.png" for number in range(n)]
        for path in paths:
            pixels = 128 + np.tensordot(random.uniform(-40, 40, 4), patterns, 1) + random.normal(0, 2, (16, 16))
            Image.fromarray(pixels.astype(np.uint8)).save(path)
        return paths

    return make


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new MLflow store, to be copied into workspaces: making one takes seconds."""
    from flows.config import Settings  # not before pytest_configure
    from flows.tracking import Tracking

    folder = tmp_path_factory.mktemp("store")
    with warnings.catch_warnings(action="ignore"):  # MLflow's own, of SQLAlchemy
        Tracking(Settings(path=folder, workspace=folder, dashboard="http://127.0.0.1:5000", pipelines={}), {})
    return folder / "mlflow.db"


@pytest.fixture(scope="session")
def project(small_images: Callable[[Path, int, int], list[Path]], empty_store: Path) -> Callable[..., Path]:
    """A maker of a folder with nominal images, an inbox of three batches and a pipelines.yaml; gives that file.

    Of the batch `2-damaged` half are damaged; of `3-unreadable` a quarter are no images. `sections` are further ones
    of the pipeline `tiles`, or stand for its own.
    """

    def make(folder: Path, **sections: Any) -> Path:
        small_images(folder / "data" / "nominal", 60, 0)
        inbox = folder / "data" / "inbox"
        small_images(inbox / "1-nominal", 20, 1)
        for path in small_images(inbox / "2-damaged", 20, 2)[:10]:
            Image.fromarray((np.indices((16, 16)).sum(0) % 2 * 255).astype(np.uint8)).save(path)
        for path in small_images(inbox / "3-unreadable", 20, 3)[:5]:
            path.write_bytes(b"no image")
        pipeline = {
            "data": {"nominal": "data/nominal", "inbox": "data/inbox"},
            "model": {"network": "linear"},
            "training": {"epochs": 5},
            "threshold": {"method": "conformal", "false_alarm_rate": 0.05},
            "engine": "torch",  # to export a graph takes seconds: tests of that ask for it
        }
        path = folder / "pipelines.yaml"
        path.write_text(yaml.safe_dump({"pipelines": {"tiles": pipeline | sections}}), encoding="utf-8")
        (folder / ".reconwatch").mkdir()
        shutil.copy(empty_store, folder / ".reconwatch")
        return path

    return make


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API's address of a `prefect server start` on a free port of loopback, started once for all tests."""
    home = tmp_path_factory.mktemp("prefect-server")
    port = free_port()
    start = [sys.executable, "-m", "prefect", "server", "start", "--no-ui", "--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"PREFECT_HOME": str(home), "NO_PROXY": "127.0.0.1"}
    with (home / "server.log").open("wb") as log, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        server = subprocess.Popen(start, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            for _ in range(1800):
                assert server.poll() is None, (home / "server.log").read_text()
                with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=1):
                    break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/api"
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()


@dataclass(frozen=True)
class Dashboard:
    """A project on whose stores a real MLflow server is being started, and the server's address on loopback."""

    config: Path
    url: str
    server: "subprocess.Popen[bytes]"

    def wait(self) -> None:
        """Until the server answers; it takes the better part of a minute to start."""
        for _ in range(1800):
            assert self.server.poll() is None, "the MLflow server ended"
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=1):
                    return
            except OSError:
                time.sleep(0.1)
        raise TimeoutError("the MLflow server does not answer")


@pytest.fixture(scope="session")
def dashboard(project: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    """`reconwatch ui` on a project of its own, started once for all tests; wait for it before a page is opened."""
    with _served(project(tmp_path_factory.mktemp("dashboard"))) as dashboard:
        yield dashboard


@pytest.fixture(scope="session")
def serve() -> Callable[[Path], AbstractContextManager[Dashboard]]:
    """A context that starts `reconwatch ui` on a configuration which says nothing of a dashboard."""
    return _served


@contextmanager
def _served(config: Path) -> Iterator[Dashboard]:
    port = free_port()
    config.write_text(f"dashboard: http://127.0.0.1:{port}\n{config.read_text(encoding='utf-8')}", encoding="utf-8")
    command = [sys.executable, "-m", "flows.cli", "ui", "--config", str(config)]
    environment = os.environ | {"NO_PROXY": "127.0.0.1", "PYTHONPATH": str(Path(__file__).parents[1])}
    with (config.parent / "server.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        try:
            yield Dashboard(config, f"http://127.0.0.1:{port}", server)
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL server on loopback; tests that need it are skipped where there is none."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(postgresql_running())
        except PostgreSQLMissing as reason:
            pytest.skip(str(reason))
        yield server


@pytest.fixture
def postgresql_url(postgresql: PostgreSQL) -> str:
    """The address of an empty database on it, as SQLAlchemy reads it."""
    return postgresql.url(postgresql.new_database())


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database, of each kind that a ledger may be in."""
    if request.param == "SQLite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    return str(request.getfixturevalue("postgresql_url"))


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The machine's own Chromium; tests that need it are skipped where there is none."""
    found = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
    if not found:
        pytest.skip("no Chromium is installed (on Debian: apt-get install chromium)")
    expect.set_options(timeout=60_000)  # milliseconds that pages may take on a busy machine
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found[0], args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()
