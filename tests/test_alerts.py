"""Alerts arrive, once to a receiver that looks at their keys, or are kept; and no address shows anywhere."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_args

import jsonschema  # type: ignore[import-untyped]  # it has no types
import psutil  # type: ignore[import-untyped, unused-ignore]  # it ships no types
import pytest
from pydantic import SecretStr

from flows import config
from flows.alerts import (
    DELAYS,
    Alert,
    Channel,
    DeliveryFailed,
    DeliveryReport,
    Kind,
    deliver,
)
from flows.channels import LogChannel, WebhookChannel, channels
from flows.ledger import Claim, Ledger

NOON = datetime(2024, 5, 17, 12, tzinfo=UTC)
ROOT = Path(__file__).parents[1]
SCHEMA_FILE = ROOT / "flows" / "alert.schema.json"
ALERT = Alert(
    pipeline="tiles",
    batch="lot-7",
    verdict={"severity": "alarm", "p": 0.0001, "counts": {"scored": 90, "flagged": 7}},
    sentences="7 of 90 images are flagged.",
    worst=("tile-03.png", "tile-41.png"),
    run_url="http://127.0.0.1:5000/#/runs/1",
    dedupe_key="tiles/lot-7",
)

DELIVER_AND_STALL = """
import sys, time
from flows.alerts import deliver
from flows.ledger import Ledger

class Stalling:
    name = "ops"
    def send(self, payload):
        print("sending", flush=True)
        time.sleep(600)

deliver(Ledger.open(sys.argv[1]), {"tiles": {"ops": Stalling()}})
"""


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Receiver:
    """A web server on loopback that answers as the path says: a status, `hang` or `close`."""

    received: list[tuple[Mapping[str, str], Any]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    def url(self, answer: str) -> str:
        return f"http://127.0.0.1:{self.port}/{answer}/token-s3cr3t"

    def handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.received.append((dict(self.headers), json.loads(body)))
                answer = self.path.split("/")[1]
                if answer == "hang":
                    receiver.released.wait(30)
                elif answer != "close":
                    self.send_response(int(answer))
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Receiver]:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    receiver = Receiver()
    with ThreadingHTTPServer(("127.0.0.1", 0), receiver.handler()) as server:
        receiver.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield receiver
        receiver.released.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture
def ledger(url: str, clock: Clock) -> Ledger:
    return Ledger.open(url, clock)


def raise_alarm(ledger: Ledger, *names: str, batch: str = "lot-7") -> None:
    alert = Alert("tiles", batch, {}, "It is off.", (), None, f"tiles/{batch}")
    claim = ledger.claim("tiles", batch, f"images of {batch}", "3", "5")
    assert isinstance(claim, Claim)
    ledger.finish(
        claim,
        run_id="run",
        verdict={},
        alarm=True,
        n_scored=9,
        n_flagged=2,
        n_unreadable=1,
        alerts=alert.entries(names),
    )


@dataclass
class Recorder:
    """A channel that keeps what it is given, or fails as it is told."""

    name: str = "ops"
    failure: Exception | None = None
    keys: list[str] = field(default_factory=list)

    def send(self, payload: Mapping[str, Any]) -> None:
        self.keys.append(payload["dedupe_key"])
        if self.failure is not None:
            raise self.failure


def routes(*ways: Channel) -> dict[str, dict[str, Channel]]:
    return {"tiles": {channel.name: channel for channel in ways}}


# What is said


def test_the_payload_is_json_with_a_version() -> None:
    """A receiver gets every field, and the version of the document's form."""
    payload = ALERT.payload()
    assert json.loads(json.dumps(payload, allow_nan=False)) == payload
    assert (payload["schema"], payload["kind"], payload["severity"]) == (1, "alarm", "warning")
    assert payload["incident"] == payload["dedupe_key"] == "tiles/lot-7"
    assert payload["verdict"]["counts"] == {"scored": 90, "flagged": 7}
    assert payload["worst"] == ["tile-03.png", "tile-41.png"]


@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_kind_of_message_is_as_published(kind: Kind) -> None:
    """The payload of each kind, of a batch or of none, holds to flows/alert.schema.json, which names all its keys."""
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    about_none = Alert("tiles", None, {}, "Nothing came.", (), None, "key", kind, "critical", incident="7")
    for alert in (replace(ALERT, kind=kind, run_id="r", picture="worst.png"), about_none):
        jsonschema.Draft202012Validator(schema).validate(alert.payload())
        assert set(alert.payload()) == set(schema["properties"]) == set(schema["required"])


def test_the_title_says_the_kind() -> None:
    """Each kind of message has words of its own, and whoever makes it may put others there."""
    assert len({replace(ALERT, kind=kind).title() for kind in get_args(Kind)}) == len(get_args(Kind))
    assert replace(ALERT, kind="resolved").title() == "reconwatch: an alarm of tiles is over"
    assert replace(ALERT, headline="lots 7 to 9 of tiles are off").title() == "reconwatch: lots 7 to 9 of tiles are off"


def test_the_text_tells_people_what_and_where() -> None:
    """The batch, the finding, the worst images and the pictures, a line each."""
    assert ALERT.text().splitlines() == [
        "reconwatch: batch lot-7 of tiles raised an alarm.",
        "7 of 90 images are flagged.",
        "Worst images: tile-03.png, tile-41.png.",
        "Pictures: http://127.0.0.1:5000/#/runs/1",
    ]


# The log


def test_the_log_gets_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """An alert is one warning on one line, even where a file's name holds a line break or an escape sequence."""
    alert = Alert("tiles", "lot-7", {}, "Off.", ("a\nERROR all is lost.png", "b\x1b[31m.png"), None, "key")
    with caplog.at_level(logging.WARNING, "reconwatch.alerts"):
        LogChannel().send(alert.payload())
    assert caplog.messages == [
        "reconwatch: batch lot-7 of tiles raised an alarm. Off. Worst images: a ERROR all is lost.png, b [31m.png."
    ]


# The webhook


def test_the_webhook_gets_the_payload(receiver: Receiver) -> None:
    """The document arrives as it is, with its key in a header, and no process or server is started for it."""
    children = psutil.Process().children(recursive=True)
    WebhookChannel("ops", receiver.url("200")).send(ALERT.payload())
    ((headers, document),) = receiver.received
    assert document == ALERT.payload()
    assert headers["Idempotency-Key"] == "tiles/lot-7"
    assert psutil.Process().children(recursive=True) == children


def test_a_name_like_a_placeholder_arrives_as_it_is(receiver: Receiver) -> None:
    """Braces in file names and batches are no template, and bring no secret out."""
    names = ("{{body}}.png", "{{ webhook_url }}", "{{ alert_batch }}", "{{$PATH}}")
    alert = Alert("tiles", "{{subject}}", {"{{name}}": "{{ name }}"}, "{{body}}", names, None, "k\n{{body}}ü")
    WebhookChannel("ops", receiver.url("200")).send(alert.payload())
    assert receiver.received[0][1] == alert.payload()


@pytest.mark.parametrize("name", [b"tile-\xff.png", b"tile-\xed\xa0\x80.png"])
def test_a_name_that_is_no_text_arrives_escaped(receiver: Receiver, name: bytes) -> None:
    """A file whose name is no UTF-8 does not hold its alert back for ever."""
    alert = Alert("tiles", "lot-7", {}, "Off.", (os.fsdecode(name),), None, "key")
    WebhookChannel("ops", receiver.url("200")).send(alert.payload())
    assert receiver.received[0][1]["worst"][0].startswith("tile-\\udc")


@pytest.mark.parametrize(
    ("answer", "sentence", "unreachable"),
    [
        ("500", "webhook 'ops' answered 500", False),
        ("404", "webhook 'ops' answered 404", False),
        ("302", "webhook 'ops' answered 302", False),
        ("hang", "webhook 'ops' gave no answer in time", True),
        ("close", "webhook 'ops' could not be reached (RemoteProtocolError)", True),
    ],
)
def test_anything_but_a_good_answer_is_a_failure(
    receiver: Receiver, answer: str, sentence: str, unreachable: bool
) -> None:
    """Errors, redirects, silence and a closed connection are told apart, in one sentence each."""
    with pytest.raises(DeliveryFailed) as failure:
        WebhookChannel("ops", receiver.url(answer), timeout=0.5).send(ALERT.payload())
    assert str(failure.value) == sentence
    assert failure.value.unreachable == unreachable


def test_a_refused_connection_is_a_failure(receiver: Receiver) -> None:
    """Where nobody listens, the alert did not arrive."""
    with ThreadingHTTPServer(("127.0.0.1", 0), receiver.handler()) as server:
        unused = server.server_address[1]
    with pytest.raises(DeliveryFailed, match=r"webhook 'ops' could not be reached \(ConnectError\)"):
        WebhookChannel("ops", f"http://127.0.0.1:{unused}/token-s3cr3t").send(ALERT.payload())


@pytest.mark.parametrize("address", ["ftp://host/token-s3cr3t", "token-s3cr3t", "http://host:port/token-s3cr3t"])
def test_an_address_that_is_none_is_a_failure(receiver: Receiver, address: str) -> None:
    """A wrong address is said without showing it."""
    with pytest.raises(DeliveryFailed) as failure:
        WebhookChannel("ops", address).send(ALERT.payload())
    assert str(failure.value) == "webhook 'ops' has an address that is not http://... or https://..."


@pytest.mark.parametrize("answer", ["200", "500", "hang", "close"])
def test_the_address_shows_nowhere(receiver: Receiver, caplog: pytest.LogCaptureFixture, answer: str) -> None:
    """Neither the log at its most talkative, nor the error and its causes, nor the channel's repr holds the URL."""
    channel = WebhookChannel("ops", receiver.url(answer), timeout=0.5)
    told = repr(channel)
    with caplog.at_level(logging.DEBUG):
        try:
            channel.send(ALERT.payload())
        except DeliveryFailed as failure:
            told += repr(failure) + repr(failure.__cause__) + repr(failure.__context__)
    assert "s3cr3t" not in told + caplog.text


def test_other_requests_are_logged_as_before(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    """The HTTP client is silenced for the alert only."""
    import httpx

    with caplog.at_level(logging.INFO, "httpx"):
        WebhookChannel("ops", receiver.url("200")).send(ALERT.payload())
        assert not caplog.messages
        httpx.post(receiver.url("200"), json={})
    assert len(caplog.messages) == 1


def test_a_saved_block_keeps_its_template(receiver: Receiver) -> None:
    """A block from Prefect gets the title and the text in its own form, and its token is no one's to fetch."""
    from prefect.blocks.notifications import CustomWebhookNotificationBlock
    from prefect.types import SecretDict

    saved = CustomWebhookNotificationBlock(
        name="chat",
        url=receiver.url("200"),
        json_data={"text": "{{subject}}: {{body}}", "token": "{{token}}"},
        headers={"X-Team": "line 2"},
        cookies=None,
        secrets=SecretDict({"token": "t0k3n"}),
    )
    alert = Alert("tiles", "lot {{{token}}}", {}, "{{token}}{{body}}", (), None, "key")
    WebhookChannel("ops", block="chat", load={"chat": saved}.__getitem__).send(alert.payload())
    ((headers, document),) = receiver.received
    assert (headers["X-Team"], headers["Idempotency-Key"], document["token"]) == ("line 2", "key", "t0k3n")
    assert "lot { { {token}}}" in document["text"]
    assert "t0k3n" not in document["text"]


def test_a_saved_block_needs_a_prefect_server(receiver: Receiver) -> None:
    """Without a server's address nothing is started in its place, and the sentence says what to set."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    sentence = "the block 'chat' is saved in a Prefect server and PREFECT_API_URL names none: set it, or give a url"
    with temporary_settings(restore_defaults={PREFECT_API_URL}), pytest.raises(DeliveryFailed) as failure:
        WebhookChannel("ops", block="chat").send(ALERT.payload())
    assert str(failure.value) == sentence


def test_channels_are_those_of_the_configuration(receiver: Receiver) -> None:
    """Each configured channel is there under its name, and sends where its secret says."""
    configured = (
        config.LogChannel(),
        config.WebhookChannel(name="ops", url=SecretStr(receiver.url("200"))),
        config.WebhookChannel(name="chat", block="saved"),
    )
    built = channels(configured)
    assert list(built) == ["log", "ops", "chat"]
    built["ops"].send(ALERT.payload())
    assert len(receiver.received) == 1
    assert built["chat"] == WebhookChannel("chat", block="saved")


# Delivery


def test_an_alert_is_delivered_once(ledger: Ledger, clock: Clock) -> None:
    """What arrived is not sent by the next pass."""
    raise_alarm(ledger, "ops")
    ops = Recorder()
    assert deliver(ledger, routes(ops), clock) == DeliveryReport(delivered=1)
    assert deliver(ledger, routes(ops), clock) == DeliveryReport()
    assert ops.keys == ["tiles/lot-7"]


def test_what_fails_is_tried_again_after_stated_delays(ledger: Ledger, clock: Clock) -> None:
    """Each failure makes the alert wait longer, up to an hour; it is never dropped."""
    raise_alarm(ledger, "ops")
    ops = Recorder(failure=DeliveryFailed("webhook 'ops' answered 500"))
    for delay in (*DELAYS, DELAYS[-1], DELAYS[-1]):
        report = deliver(ledger, routes(ops), clock)
        assert report.failed == ("the alert on batch 'lot-7' of pipeline 'tiles': webhook 'ops' answered 500",)
        clock.now += delay - timedelta(seconds=1)
        assert deliver(ledger, routes(ops), clock) == DeliveryReport()
        clock.now += timedelta(seconds=1)
    ops.failure = None
    assert deliver(ledger, routes(ops), clock) == DeliveryReport(delivered=1)


def test_a_failing_channel_stops_no_other(ledger: Ledger, clock: Clock) -> None:
    """The other channels get their alert in the same pass, even where one fails in an unforeseen way."""
    raise_alarm(ledger, "broken", "down", "ops")
    broken = Recorder("broken", failure=KeyError("token-s3cr3t"))
    down = Recorder("down", failure=DeliveryFailed("webhook 'down' could not be reached", unreachable=True))
    ops = Recorder()
    report = deliver(ledger, routes(broken, down, ops), clock)
    assert (report.delivered, len(report.failed), len(ops.keys)) == (1, 2, 1)
    assert "channel 'broken' failed with KeyError" in report.failed[0]
    assert "s3cr3t" not in str(report)


def test_an_unreachable_channel_is_waited_for_once_a_pass(ledger: Ledger, clock: Clock) -> None:
    """After one alert timed out, the others of that channel stay due for the next pass."""
    for batch in ("lot-7", "lot-8", "lot-9"):
        raise_alarm(ledger, "ops", batch=batch)
    ops = Recorder(failure=DeliveryFailed("webhook 'ops' gave no answer in time", unreachable=True))
    report = deliver(ledger, routes(ops), clock)
    assert (len(report.failed), report.waiting, len(ops.keys)) == (1, 2, 1)
    ops.failure = None
    assert deliver(ledger, routes(ops), clock).delivered == 2


def test_one_refused_alert_does_not_hold_up_the_others(ledger: Ledger, clock: Clock) -> None:
    """A receiver that answers, though with an error, is sent the rest in the same pass."""
    for batch in ("lot-7", "lot-8", "lot-9"):
        raise_alarm(ledger, "ops", batch=batch)
    ops = Recorder(failure=DeliveryFailed("webhook 'ops' answered 413"))
    assert len(deliver(ledger, routes(ops), clock).failed) == 3


def test_an_alert_whose_channel_is_gone_is_kept(ledger: Ledger, clock: Clock) -> None:
    """A channel that was taken out of the configuration is reported, and delivers when it is put back."""
    raise_alarm(ledger, "ops")
    assert deliver(ledger, {}, clock).homeless == (
        "1 alert waits for the channel 'ops', which pipeline 'tiles' no longer has: "
        "put it back under alerts to have them delivered",
    )
    assert deliver(ledger, routes(Recorder()), clock).delivered == 1


def test_more_alerts_than_a_page_are_all_sent(ledger: Ledger, clock: Clock) -> None:
    """A storm is delivered whole, in the order in which it came."""
    batches = [f"lot-{number}" for number in range(102)]
    for batch in batches:
        raise_alarm(ledger, "ops", batch=batch)
    ops = Recorder()
    assert deliver(ledger, routes(ops), clock).delivered == 102
    assert ops.keys == [f"tiles/{batch}" for batch in batches]


def test_two_deliverers_share_the_work(ledger: Ledger, clock: Clock) -> None:
    """Of four that deliver at the same time, each alert is sent by one."""
    for number in range(20):
        raise_alarm(ledger, "ops", batch=f"lot-{number}")
    ops = Recorder()
    threads = [threading.Thread(target=deliver, args=(ledger, routes(ops), clock)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ops.keys) == len(set(ops.keys)) == 20


def test_an_interrupted_delivery_stays_due(ledger: Ledger, clock: Clock) -> None:
    """Ctrl-C while sending leaves the alert to the next pass of the same process."""
    raise_alarm(ledger, "ops")

    class Interrupted(Recorder):
        def send(self, payload: Mapping[str, Any]) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deliver(ledger, routes(Interrupted()), clock)
    assert deliver(ledger, routes(Recorder()), clock).delivered == 1


def test_a_killed_deliverer_loses_no_alert(ledger: Ledger, url: str, clock: Clock) -> None:
    """What a process was sending when it was killed with -9 is sent by the next, with the same key."""
    raise_alarm(ledger, "ops")
    ops, environment = Recorder(), os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", DELIVER_AND_STALL, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "sending\n"
        assert deliver(ledger, routes(ops), clock) == DeliveryReport(), "a living sender's alert is left to it"
        process.send_signal(signal.SIGKILL)
    assert deliver(ledger, routes(ops), clock).delivered == 1
    assert ops.keys == ["tiles/lot-7"]
