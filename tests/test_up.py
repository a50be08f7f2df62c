"""`reconwatch up` and `ui`: everything on one machine with one command, and nothing is left of it afterwards."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psutil
import pytest

from flows.children import start, stop
from flows.cli import main
from flows.config import load
from flows.ledger import open_ledger
from flows.up import Part, Running, started, started_again
from tests.ports import free_port

ROOT = Path(__file__).parents[1]
Project = Callable[..., Path]
TREE = """
import signal, subprocess, sys, time
if {stubborn}:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session={apart})
print(other.pid, flush=True)
time.sleep(600)
"""
STARTER = """
import os, sys, time
from pathlib import Path
from flows.children import start
child = start("a child", sys.argv[2:], os.environ, Path(sys.argv[1]), 1)
time.sleep(600)
"""


def wait_for(what: Callable[[], Any], seconds: float = 400) -> Any:
    """What is waited for, as soon as it is true of it."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come in time"
        time.sleep(0.2)
    return found


@contextmanager
def running(log: Path, arguments: Sequence[str]) -> Iterator["subprocess.Popen[bytes]"]:
    """A command line in a process of its own; it and all that came from it are killed at the end."""
    environment = os.environ | {"NO_PROXY": "127.0.0.1", "PYTHONPATH": str(ROOT)}
    environment.pop("PREFECT_HOME")  # everything is in the workspace
    command = [sys.executable, "-m", "flows.cli", *arguments]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
                one.kill()
            process.wait()


def alive(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those that still run."""
    return [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("stubborn", [False, True])
@pytest.mark.parametrize("apart", [False, True])
def test_a_child_ends_with_its_own_children(stubborn: bool, apart: bool, tmp_path: Path) -> None:
    """Whatever group they are in, and whether or not it listens to SIGTERM."""
    log = tmp_path / "logs" / "child.log"
    command = [sys.executable, "-c", TREE.format(stubborn=stubborn, apart=apart)]
    child = start("a child", command, os.environ, log, 1)
    grandchild = psutil.Process(int(wait_for(lambda: log.read_text().strip())))
    assert child.ended() is None
    stop(child)
    assert child.ended() == (-signal.SIGKILL if stubborn else -signal.SIGTERM)
    assert alive([grandchild]) == []
    assert child.guard.poll() == 0
    stop(child)  # a second time there is nothing to do


@pytest.mark.parametrize("stubborn", [False, True])
@pytest.mark.parametrize("apart", [False, True])
def test_a_child_ends_with_who_started_it_however_that_ended(stubborn: bool, apart: bool, tmp_path: Path) -> None:
    """After `kill -9` too: the child, its own children, and the guard that saw to it."""
    log = tmp_path / "child.log"
    command = [sys.executable, "-c", TREE.format(stubborn=stubborn, apart=apart)]
    with subprocess.Popen([sys.executable, "-c", STARTER, str(log), *command], cwd=ROOT) as starter:
        wait_for(lambda: log.exists() and log.read_text().endswith("\n"))
        wait_for(lambda: len(psutil.Process(starter.pid).children(recursive=True)) == 3)
        family = psutil.Process(starter.pid).children(recursive=True)
        starter.kill()
    wait_for(lambda: alive(family) == [])


@pytest.mark.slow
def test_up_runs_a_pipeline_and_leaves_nothing_behind(project: Project, tmp_path: Path) -> None:
    """It says both addresses, a scheduled run decides a batch, and after SIGTERM no process of it is left."""
    pages, port = free_port(), free_port()
    config = project(tmp_path, schedule={"score": "10s"}, training={"epochs": 1})
    config.write_text(f"dashboard: http://127.0.0.1:{pages}\n{config.read_text()}")
    log = tmp_path / "up.log"
    with running(log, ["up", "--config", str(config), "--prefect-port", str(port)]) as process:
        wait_for(lambda: "Ctrl-C stops all of it." in log.read_text() or process.poll() is not None)
        said = log.read_text()
        assert f"Prefect: http://127.0.0.1:{port}\nMLflow:  http://127.0.0.1:{pages}\n" in said
        request = Request(
            f"http://127.0.0.1:{port}/api/deployments/filter", b"{}", {"Content-Type": "application/json"}
        )
        with urlopen(request) as answer:
            assert isinstance(json.load(answer), list)
        with urlopen(f"http://127.0.0.1:{pages}/health") as answer:
            assert answer.status == 200
        ledger = open_ledger(load(config, {}).workspace, {})
        wait_for(lambda: ledger.batches.count("tiles") == 3)
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 3
        listening = {at.laddr.ip for one in family for at in one.net_connections() if at.status == psutil.CONN_LISTEN}
        assert listening == {"127.0.0.1"}
        process.send_signal(signal.SIGTERM)
        assert process.wait(300) == 0
        assert alive(family) == []
    workspace = config.parent / ".reconwatch"
    assert {path.name for path in (workspace / "logs").iterdir()} == {"prefect.log", "mlflow.log", "serve.log"}
    assert (workspace / "prefect" / "prefect.db").is_file()


@pytest.mark.slow
def test_a_part_that_cannot_start_ends_all_with_its_last_words(project: Project, tmp_path: Path) -> None:
    """No server is left running without the others."""
    config = project(tmp_path)
    config.write_text(f"dashboard: http://127.0.0.1:{free_port()}\n{config.read_text()}")
    (config.parent / ".reconwatch" / "prefect").write_text("in the way of the folder")
    log = tmp_path / "up.log"
    with running(log, ["up", "--config", str(config), "--prefect-port", str(free_port())]) as process:
        assert process.wait(300) == 1
    assert re.search(r"Prefect server ended with code \d+ before it answered: ", log.read_text())
    assert str(config.parent / ".reconwatch" / "logs" / "prefect.log") in log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_dashboard_ends_with_ui(project: Project, tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM to `reconwatch ui` alone ends the MLflow server and its workers; so does `kill -9`, a little later."""
    config, port = project(tmp_path), free_port()
    with running(tmp_path / "ui.log", ["ui", "--config", str(config), "--port", str(port)]) as process:
        wait_for(lambda: psutil.Process(process.pid).children(recursive=True))
        time.sleep(5)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        assert process.wait(300) == (0 if number == signal.SIGTERM else -signal.SIGKILL)
        wait_for(lambda: alive(family) == [], 60)


class TestAPartThatEnds:
    """It is started again, unless it cannot stay up."""

    @pytest.fixture
    def ended(self, tmp_path: Path) -> Iterator[Running]:
        """One that said something and ended with code 3."""
        command = [sys.executable, "-c", "import sys; print('no room', flush=True); sys.exit(3)"]
        running = started(Part("MLflow server", command, os.environ, tmp_path / "mlflow.log", None, 1))
        running.child.process.wait()
        yield running
        stop(running.child)

    def test_after_a_while_it_is_started_again(self, ended: Running) -> None:
        """And that is said, with its log."""
        said: list[str] = []
        again = started_again(replace(ended, since=ended.since - 61), said.append)
        assert again.child.process.pid != ended.child.process.pid
        stop(again.child)
        assert said == [f"MLflow server ended with code 3 and is started again; its log is {ended.part.log}"]

    def test_at_once_it_ends_all(self, ended: Running) -> None:
        """With its last words."""
        with pytest.raises(RuntimeError, match="MLflow server ended with code 3 soon after its start: no room"):
            started_again(ended, print)


class TestWhatIsInTheWay:
    """It is said before anything is started."""

    def refused(self, config: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
        """What the command says, where it takes the input to be wrong."""
        with pytest.raises(SystemExit) as left:
            main(["up", "--config", str(config), *options])
        assert left.value.code == 2
        return capsys.readouterr().err

    def test_a_port_that_is_taken(self, project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Whose it was to be, and where to write another."""
        config = project(tmp_path)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            said = self.refused(config, capsys, "--prefect-port", str(port))
            assert f"port {port} of 127.0.0.1 is not free for Prefect" in said
            assert "--prefect-port takes another" in said
            config.write_text(f"dashboard: http://127.0.0.1:{port}\n{config.read_text()}")
            said = self.refused(config, capsys, "--prefect-port", str(free_port()))
            assert f"port {port} of 127.0.0.1 is not free for MLflow" in said
            assert "write another into 'dashboard' of pipelines.yaml" in said

    def test_another_prefect_server(
        self,
        project: Project,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Two would each run the schedules."""
        monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example.com/api")
        said = self.refused(project(tmp_path), capsys)
        assert "PREFECT_API_URL names a server already (http://prefect.example.com/api): run 'reconwatch serve'" in said
