"""The doctor says what is wrong with the machine and its stores, each with what to do, and changes nothing."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

from flows.check import Finding
from flows.cli import main
from flows.doctor import examine
from flows.ledger import Claim, Ledger, OutboxEntry, utc_now

Project = Callable[..., Path]

HERE = Path(__file__).parent
GIB = 2**30
AS_NOBODY = """
import os, sys
from pathlib import Path
from flows.doctor import _workspace

os.setuid(65534)
for finding in _workspace(Path(sys.argv[1]), lambda folder: 2**40):
    print(finding.state, finding.what, finding.sentence)
"""


@pytest.fixture
def config(project: Project, tmp_path: Path) -> Path:
    """A project whose MLflow store is there, and no ledger yet; its alerts go to the log."""
    return project(tmp_path)


def found(config: Path, what: str, environment: dict[str, str] | None = None, **more: object) -> list[tuple[str, str]]:
    """State and sentence of all that the doctor says of one thing."""
    findings: list[Finding] = examine(config, environment or {}, **more)  # type: ignore[arg-type]  # clock and free
    return [(finding.state, finding.sentence) for finding in findings if finding.what == what]


class Answering(BaseHTTPRequestHandler):
    """Says that all is well, at a time that is an hour late."""

    def do_GET(self) -> None:
        self.send_response_only(200)
        self.send_header("Date", self.date_time_string(int((utc_now() - timedelta(hours=1)).timestamp())))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b"true")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def late_server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_machine_that_is_well(config: Path) -> None:
    """Nothing is wrong, what is not there yet is noted, and nothing was made."""
    findings = examine(config, {}, free=lambda _: 50 * GIB)
    assert [finding for finding in findings if finding.state == "wrong"] == []
    assert {finding.what for finding in findings} >= {"Python", "packages", "workspace", "disk", "ledger", "mlflow"}
    (ledger,) = found(config, "ledger")
    assert ledger[0] == "note"
    assert ledger[1].endswith("ledger.db is not there yet: the first command makes it")
    assert not (config.parent / ".reconwatch" / "ledger.db").exists()


def test_versions_are_named(config: Path) -> None:
    """The packages that people ask for, in the versions that run."""
    ((state, sentence),) = found(config, "packages")
    assert state == "ok"
    assert [word.split()[0] for word in sentence.split(", ")] == [
        "torch",
        "torchvision",
        "mlflow",
        "prefect",
        "fastapi",
    ]


def test_a_version_that_does_not_fit(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each package that is missing or does not fit is named, with what is asked for, and what to do."""
    installed = {"fastapi": "0.156.0", "torch": "2.1.0+cpu"}
    monkeypatch.setattr("flows.doctor._installed", lambda name: installed.get(name, None if name == "typer" else "99"))
    ((state, sentence),) = found(config, "packages")
    assert state == "wrong"
    assert "fastapi<0.151,>=0.139 is needed, and 0.156.0 is there" in sentence
    assert "typer is not installed" in sentence
    assert "torch==" in sentence, "which torchvision asks for"
    assert sentence.endswith(": install the versions of constraints.txt, as 'make install' does")


def test_a_wrong_configuration_is_said_and_the_rest_too(config: Path) -> None:
    """The fault of the file is one line among the others."""
    config.write_text("pipelines: 3\n", encoding="utf-8")
    findings = examine(config, {})
    assert [finding.what for finding in findings if finding.state == "wrong"] == ["configuration"]
    assert "packages" in [finding.what for finding in findings]


def test_a_full_disk(config: Path) -> None:
    """With less than a GiB it says how much is left, and how to make room."""
    assert found(config, "disk", free=lambda _: 50 * GIB) == [("ok", "50.0 GiB are free")]
    ((state, sentence),) = found(config, "disk", free=lambda _: 12 * 2**20)
    assert state == "wrong"
    assert sentence.startswith("only 12 MiB are free where ")
    assert sentence.endswith(": make room ('reconwatch prune' drops pages of old batches) or move the workspace")


def test_a_workspace_that_cannot_be_made(config: Path) -> None:
    """A file where the workspace should be is named with what to do."""
    other = yaml.safe_load(config.read_text(encoding="utf-8")) | {"workspace": "pipelines.yaml/inside"}
    config.write_text(yaml.safe_dump(other), encoding="utf-8")
    ((state, sentence),) = found(config, "workspace")
    assert state == "wrong"
    assert "inside cannot be written (Not a directory): give who runs reconwatch the right to, or name" in sentence


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_workspace_without_rights(config: Path) -> None:
    """Somebody who may not write there hears so: rights do not bind root, so that it is tried as somebody else."""
    workspace = config.parent / ".reconwatch"
    for folder in (config.parent, *config.parent.parents):
        if not folder.stat().st_mode & 0o001 and "pytest" in str(folder):
            folder.chmod(0o755)
    workspace.chmod(0o555)
    environment = os.environ | {"PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, "-c", AS_NOBODY, str(workspace)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()[0]
    assert said.startswith(f"wrong workspace {workspace} cannot be written (Permission denied): give who runs")


def test_an_old_ledger_is_noted_and_left_as_it_is(config: Path) -> None:
    """It says that the next command changes it, in time for a copy."""
    path = config.parent / ".reconwatch" / "ledger.db"
    connection = sqlite3.connect(path)
    connection.executescript((HERE / "ledger_0_1_0_sqlite.sql").read_text(encoding="utf-8"))
    connection.close()
    ((state, sentence),) = found(config, "ledger")
    assert state == "note"
    assert "was written by an older reconwatch: the next command brings it up to date, so copy it before" in sentence
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT value FROM meta").fetchall() == [("1",)]
    connection.execute("UPDATE meta SET value = '7'")
    connection.commit()
    connection.close()
    ((state, sentence),) = found(config, "ledger")
    assert state == "wrong"
    assert "has schema version 7, and this reconwatch knows version 1: install" in sentence


def test_a_ledger_that_another_process_writes_in_is_no_fault(config: Path) -> None:
    """A ledger that is there and current is well, on SQLite by a write that is taken back."""
    url = f"sqlite:///{config.parent / '.reconwatch' / 'ledger.db'}"
    Ledger.open(url).close()
    assert found(config, "ledger") == [("ok", f"{url}, which can be written")]


def test_a_ledger_on_postgresql(config: Path, postgresql_url: str) -> None:
    """Its clock is compared with ours, and who may only read is told."""
    environment = {"RECONWATCH_LEDGER_URL": postgresql_url}
    Ledger.open(postgresql_url).close()
    ((state, sentence),) = found(config, "ledger", environment)
    assert state == "ok"
    assert ":***@127.0.0.1" in sentence
    assert found(config, "clock", environment) == [("ok", "as that of the ledger's database")]
    late = found(config, "clock", environment, clock=lambda: datetime.now(UTC) + timedelta(minutes=5))
    ((state, sentence),) = late
    assert state == "wrong"
    assert "300 s ahead of that of the ledger's database: set both by a time server" in sentence
    reading = f"{postgresql_url}?options=-c%20default_transaction_read_only%3Don"
    ((state, sentence),) = found(config, "ledger", {"RECONWATCH_LEDGER_URL": reading})
    assert state == "wrong"
    assert "read-only transaction" in sentence


def test_a_dead_database(config: Path) -> None:
    """A server that does not answer is one sentence, without the password."""
    environment = {"RECONWATCH_LEDGER_URL": "postgresql+psycopg://reconwatch:secret@127.0.0.1:9/reconwatch"}
    ((state, sentence),) = found(config, "ledger", environment)
    assert state == "wrong"
    assert "cannot be used" in sentence
    assert "secret" not in sentence


def test_dead_servers(config: Path) -> None:
    """Each server that does not answer is named with what to do."""
    environment = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    ((state, sentence),) = found(config, "mlflow", environment)
    assert state == "wrong"
    assert sentence.startswith("the MLflow server http://127.0.0.1:9 does not answer (")
    ((state, sentence),) = found(config, "prefect", environment)
    assert state == "wrong"
    assert sentence.endswith(": start it, or unset PREFECT_API_URL to run without it")


def test_a_clock_that_is_astray(config: Path, late_server: str) -> None:
    """A server whose answer is dated an hour ago is told apart from ours, with what to do."""
    ((state, sentence),) = found(config, "clock", {"PREFECT_API_URL": f"{late_server}/api"})
    assert state == "wrong"
    assert sentence.startswith("this machine's clock is 3,60")
    assert "s ahead of that of the Prefect server: set both by a time server" in sentence


def test_channels(project: Project, tmp_path: Path) -> None:
    """Each pipeline's channels are named, and one whose alerts do not arrive is wrong."""
    config = project(
        tmp_path, alerts=[{"type": "log"}, {"type": "webhook", "name": "ops", "url": "http://127.0.0.1:9"}]
    )
    assert found(config, "tiles alerts") == [("ok", "log, ops")]
    ledger = Ledger.open(f"sqlite:///{config.parent / '.reconwatch' / 'ledger.db'}")
    claim = ledger.claim("tiles", "lot-1", "images", "1", "c")
    assert isinstance(claim, Claim)
    entry = OutboxEntry("ops", "lot-1", {"text": "off"})
    ledger.finish(claim, run_id="r", verdict={}, alarm=True, n_scored=1, n_flagged=1, n_unreadable=0, alerts=[entry])
    alert = ledger.outbox.claim(ledger.outbox.pending()[0])
    assert alert is not None
    ledger.outbox.mark_failed(alert, "nobody answered", utc_now())
    (waits, named) = found(config, "tiles alerts")
    assert named == ("ok", "log, ops")
    assert waits[0] == "wrong"
    assert waits[1].endswith("nobody answered: 'reconwatch alert test ops' tries it out")


def test_the_command(config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It exits with 0 where all is well and with 1 where something is not; with --json the findings are JSON."""
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--config", str(config)])
    assert (ended.value.code, "Doctor" in capsys.readouterr().out) == (0, True)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--config", str(config), "--json"])
    findings = json.loads(capsys.readouterr().out)
    assert ended.value.code == 1
    assert [finding["what"] for finding in findings if finding["state"] == "wrong"] == ["prefect"]
