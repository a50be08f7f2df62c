"""`reconwatch alert test` sends one message now, and says what became of it."""

import json
import logging
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from flows.cli import main

Call = Callable[..., tuple[int, str, str]]
WEBHOOK = {"type": "webhook", "name": "ops", "url": "http://127.0.0.1:9/t0k3n"}  # nobody listens there


@pytest.fixture
def call(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Runs `reconwatch alert test ARGUMENTS` on pipelines with these alerts; its exit code, output and errors."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def run(*arguments: str, **alerts: Any) -> tuple[int, str, str]:
        pipelines = {name: {"data": {"nominal": "images"}, "alerts": channels} for name, channels in alerts.items()}
        path = tmp_path / "pipelines.yaml"
        path.write_text(yaml.safe_dump({"pipelines": pipelines}), encoding="utf-8")
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(["alert", "test", *arguments, "--config", str(path)])
        code = caught.value.code
        assert isinstance(code, int)
        return code, *capfd.readouterr()

    return run


def test_it_arrives(call: Call) -> None:
    """The channel gets a message that says that it is a test; nothing is scored, stored or asked of MLflow for it."""
    received: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        channel = WEBHOOK | {"url": f"http://127.0.0.1:{server.server_port}/t0k3n", "minimum_severity": "critical"}
        code, out, _ = call("ops", tiles=["log", channel])
        server.shutdown()
        thread.join()
    assert (code, out) == (
        0,
        "The channel 'ops' of pipeline 'tiles' took the test message: look whether it is there.\n",
    )
    (document,) = received
    assert (document["kind"], document["pipeline"], document["batch"]) == ("test", "tiles", None)
    assert "nothing is wrong" in document["text"]


def test_the_log_takes_it(call: Call, caplog: pytest.LogCaptureFixture) -> None:
    """A channel that needs no configuration can be tested too."""
    with caplog.at_level(logging.WARNING, "reconwatch.alerts"):
        assert call("log", tiles=["log"])[0] == 0
    assert "a test of an alert channel of tiles" in caplog.text


def test_it_does_not_arrive(call: Call) -> None:
    """The exit code is 1, and the sentence says why without showing the address."""
    code, out, err = call("ops", tiles=[WEBHOOK])
    assert (code, out) == (1, "")
    assert err == "Error: the test message did not arrive: webhook 'ops' could not be reached (ConnectError)\n"


def test_json_says_it_too(call: Call) -> None:
    """Standard output is one document, whatever happened."""
    code, out, _ = call("ops", "--json", tiles=[WEBHOOK])
    assert code == 1
    assert json.loads(out) == {
        "pipeline": "tiles",
        "channel": "ops",
        "delivered": False,
        "failure": "webhook 'ops' could not be reached (ConnectError)",
    }


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("mail",), "no channel 'mail' under alerts of any pipeline in {path} (it has: log, ops)"),
        (("ops", "--pipeline", "tiles"), "no channel 'ops' under alerts of pipeline 'tiles' in {path} (it has: log)"),
        (
            ("ops", "--pipeline", "tile"),
            "no pipeline 'tile' in {path}; did you mean 'tiles'? (it has: caps, screws, tiles)",
        ),
        (("ops",), "the pipelines caps, screws each have another channel 'ops': add --pipeline NAME"),
    ],
)
def test_a_channel_that_cannot_be_meant(call: Call, tmp_path: Path, arguments: tuple[str, ...], sentence: str) -> None:
    """The exit code is 2, and the sentence says which channels there are."""
    other = WEBHOOK | {"url": "http://127.0.0.1:9/other"}
    code, _, err = call(*arguments, tiles=["log"], screws=[WEBHOOK], caps=[other])
    assert code == 2
    assert err == f"Error: {sentence.format(path=tmp_path / 'pipelines.yaml')}\n"


def test_one_channel_of_many_pipelines_is_tested_once(call: Call) -> None:
    """Where all pipelines have the same channel, none needs to be named; where they differ, one does."""
    assert call("log", tiles=["log"], screws=["log", WEBHOOK])[0] == 0
    code, _, err = call(
        "ops", "--pipeline", "caps", screws=[WEBHOOK], caps=[WEBHOOK | {"minimum_severity": "critical"}]
    )
    assert (code, "did not arrive" in err) == (1, True)
