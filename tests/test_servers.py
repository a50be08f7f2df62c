"""The main job through the servers of a team: PostgreSQL, an S3 store, MLflow with a login, and Prefect."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Timer

import pytest

from flows.ledger import Ledger
from tests.outages import Mode
from tests.ports import free_port
from tests.postgresql import PostgreSQL
from tests.real_servers import ADMIN_PASSWORD, ROOT, SECRET_KEY, SESSIONS, RealServers, dump, real_servers

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:(mlflow|sqlalchemy|moto).*")]

HOOK, MAIL = "planted-hook-token", "planted-mail-password"
ADA_PASSWORD = "planted-ada-password"
HERE = {"NO_PROXY": "127.0.0.1", "PYTHONPATH": str(ROOT)}
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
DATABASES = ("mlflow", "mlflow_auth", "prefect", "reconwatch")


@pytest.fixture(scope="module")
def servers(postgresql: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServers]:
    """The servers, started by their script."""
    with real_servers(postgresql, tmp_path_factory.mktemp("servers")) as servers:
        yield servers


@dataclass(frozen=True)
class Site:
    """A pipeline on the servers, and what its commands printed."""

    config: Path
    servers: RealServers
    printed: list[str]

    def reconwatch(self, *arguments: str, **environment: str) -> str:
        """What a command prints, which ends well; `environment` comes on top."""
        process = subprocess.run(
            [sys.executable, "-m", "flows.cli", *arguments, "--config", str(self.config)],
            env=os.environ
            | self.servers.environment()
            | {"NO_PROXY": "127.0.0.1", "PYTHONPATH": str(ROOT)}
            | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        self.printed.append(process.stdout + process.stderr)
        assert process.returncode == 0, self.printed[-1]
        return self.printed[-1]

    def ledger(self) -> Ledger:
        """The ledger in PostgreSQL."""
        return Ledger.open(self.servers.database.url("reconwatch"))


@pytest.fixture(scope="module")
def site(
    servers: RealServers, project: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A project that ran once: trained, calibrated, three batches scored; its alerts go to nobody who answers."""
    port = free_port()
    mail = {"type": "email", "host": "127.0.0.1", "port": port, "security": "tls", "user": "ada", "password": "${MAIL}"}
    alerts = [
        {"type": "webhook", "url": "${HOOK}"},
        {"type": "slack", "url": "${HOOK}"},
        mail | {"from": "a@example.com", "to": "b@example.com"},
    ]
    site = Site(project(tmp_path_factory.mktemp("site"), alerts=alerts), servers, [])
    (site.config.parent / ".reconwatch" / "mlflow.db").unlink()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("HOOK", f"http://127.0.0.1:{port}/{HOOK}")
        monkeypatch.setenv("MAIL", MAIL)
        site.reconwatch("run")
        yield site


def test_the_main_job(site: Site) -> None:
    """Runs and decisions are in PostgreSQL, artifacts in the store, flow runs in Prefect, and nothing beside."""
    ledger = site.ledger()
    records = ledger.batches.decided("tiles")
    ledger.close()
    assert [(record.batch, record.alarm) for record in records][1:] == [("2-damaged", True), ("3-unreadable", True)]
    objects = site.servers.objects()
    for record in records:
        for name in ("report.html", "scores.parquet"):
            assert any(key.endswith(f"/{record.run_id}/artifacts/{name}") for key in objects)
    database = site.servers.database
    assert database.execute("SELECT count(*) FROM runs WHERE name LIKE 'batch %'", "mlflow") == "3"
    assert database.execute("SELECT state_type FROM flow_run WHERE name = 'run-tiles'", "prefect") == "COMPLETED"
    assert not (site.config.parent / ".reconwatch" / "mlflow.db").exists()
    assert not (site.config.parent / ".reconwatch" / "ledger.db").exists()


def test_who_has_no_password_is_refused(site: Site) -> None:
    """MLflow answers nobody else, and the sentence says whom it refused."""
    process = subprocess.run(
        [sys.executable, "-m", "flows.cli", "status", "--config", str(site.config)],
        env=os.environ | site.servers.environment("eve", "planted-wrong-password") | HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1
    assert "does not take the user 'eve' with this password" in process.stderr


@pytest.fixture(scope="module")
def ada_password(servers: RealServers) -> str:
    """That of the reviewer Ada, a user of MLflow like others."""
    servers.make_user("ada", ADA_PASSWORD)
    return ADA_PASSWORD


def test_a_program_says_itself_who_labels(site: Site, ada_password: str) -> None:
    """MLflow's server keeps the name that it is sent, whoever is logged in."""
    found = site.servers.database.execute(
        "SELECT request_id FROM trace_tags WHERE key = 'reconwatch.key' ORDER BY request_id LIMIT 2", "mlflow"
    ).split()
    for trace, name in zip(found, ("ada", "somebody-else"), strict=True):
        answer = {
            "trace_id": trace,
            "assessment_name": "verdict",
            "source": {"source_type": "HUMAN", "source_id": name},
            "feedback": {"value": "nothing special"},
            "rationale": f"by {name}",
        }
        path = f"3.0/mlflow/traces/{trace}/assessments"
        kept = site.servers.ask(path, {"assessment": answer}, "ada", ada_password)
        assert kept["assessment"]["source"]["source_id"] == name


@pytest.fixture(autouse=True)
def up_again(request: pytest.FixtureRequest) -> Iterator[None]:
    """The next test finds everything there."""
    yield
    if "servers" in request.fixturenames:
        servers: RealServers = request.getfixturevalue("servers")
        servers.way_to_store.set("pass")
        servers.way_to_database.set("pass")


def require_delivered_once(site: Site, name: str) -> None:
    """Holds where the batch is decided once, and its one run, with its scores, is in MLflow and its store."""
    ledger = site.ledger()
    (record,) = [record for record in ledger.batches.decided("tiles") if record.batch == name]
    ledger.close()
    assert any(key.endswith(f"/{record.run_id}/artifacts/scores.parquet") for key in site.servers.objects())
    count = f"SELECT count(*) FROM runs WHERE name = 'batch {name}' AND lifecycle_stage = 'active'"
    assert site.servers.database.execute(count, "mlflow") == "1"


@pytest.mark.faults
@pytest.mark.parametrize("mode", ["refuse", "hang", "error"])
def test_the_store_is_down(site: Site, mode: Mode, small_images: Callable[[Path, int, int], list[Path]]) -> None:
    """A batch that MLflow's store does not take is decided; its run comes once the store is back, and once."""
    small_images(site.config.parent / "data" / "inbox" / f"store-{mode}", 12, 500 + len(mode))
    site.servers.way_to_store.set(mode)
    assert "its verdict stands, its run waits in" in site.reconwatch("score", "tiles", **IMPATIENT)
    ledger = site.ledger()
    record = ledger.batches.history("tiles", 1)[0]
    ledger.close()
    assert (record.batch, record.run_id) == (f"store-{mode}", "")
    site.servers.way_to_store.set("pass")
    site.reconwatch("score", "tiles")
    require_delivered_once(site, f"store-{mode}")


@pytest.mark.faults
@pytest.mark.parametrize("mode", ["refuse", "hang"])
def test_the_database_of_mlflow_and_prefect_is_down(
    site: Site, mode: Mode, small_images: Callable[[Path, int, int], list[Path]]
) -> None:
    """Both servers run and cannot do anything: the batch is decided, and its run comes later, once."""
    small_images(site.config.parent / "data" / "inbox" / f"database-{mode}", 12, 600 + len(mode))
    site.servers.way_to_database.set(mode)
    said = site.reconwatch("score", "tiles", **IMPATIENT)
    assert "its verdict stands, its run waits in" in said
    ledger = site.ledger()
    record = ledger.batches.history("tiles", 1)[0]
    ledger.close()
    assert (record.batch, record.run_id) == (f"database-{mode}", "")
    site.servers.way_to_database.set("pass")
    site.reconwatch("score", "tiles")
    require_delivered_once(site, f"database-{mode}")


@pytest.mark.faults
def test_postgresql_ends_under_all_of_them_and_comes_back(
    site: Site, small_images: Callable[[Path, int, int], list[Path]], pytestconfig: pytest.Config
) -> None:
    """MLflow, Prefect and the ledger lose their databases for a minute while a batch is due: it is decided once."""
    small_images(site.config.parent / "data" / "inbox" / "postgresql", 12, 700)
    database, seconds = site.servers.database, 60 * float(pytestconfig.getoption("--fault-size"))
    database.stop()
    back = Timer(seconds, database.start)
    back.start()
    try:
        site.reconwatch("score", "tiles", **IMPATIENT, RECONWATCH_SERVER_WAITS="")  # as stated, not as the tests'
    finally:
        back.join()
    site.reconwatch("score", "tiles")
    require_delivered_once(site, "postgresql")


def test_no_secret_is_kept_anywhere(site: Site) -> None:
    """After training, scoring and alerts that failed, no store, log, artifact or line that was printed holds one."""
    secrets = [HOOK, MAIL, ADMIN_PASSWORD, SECRET_KEY, SESSIONS, ADA_PASSWORD, site.servers.database.password]
    assert "An alert waits to be sent" in "".join(site.printed)
    texts = {f"database {name}": dump(site.servers.database, name) for name in DATABASES}
    texts |= {f"object {key}": content for key, content in site.servers.objects().items()}
    texts |= {"the servers' log": site.servers.log.read_bytes(), "printed": "".join(site.printed).encode()}
    files = [path for path in (site.config.parent).rglob("*") if path.is_file()]
    texts |= {f"file {path.name}": path.read_bytes() for path in files}
    found = [(place, secret) for place, text in texts.items() for secret in secrets if secret.encode() in text]
    assert found == []
