"""What each channel hands over, how it fails, and that no address shows anywhere."""

import base64
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped, unused-ignore]  # it ships no types
import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.types import SecretDict
from pydantic import SecretStr, TypeAdapter

from flows import config_channels as config
from flows.alerts import Alert, Channel, DeliveryFailed, deliver, tone
from flows.channels import LogChannel, channels, trial_alert
from flows.channels_chat import SlackChannel, TeamsChannel, slack_message, teams_message
from flows.channels_http import WebhookChannel, signature
from flows.channels_prefect import PrefectEventChannel, SavedWebhookChannel, saved_secret
from flows.channels_services import AppriseChannel, PagerDutyChannel, pagerduty_event
from flows.ledger import Claim, Ledger

pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # apprise imports it

NOON = datetime(2024, 5, 17, 12, tzinfo=UTC)
SECRET = "s3cr3t"
ALERT = Alert(
    pipeline="tiles",
    batch="lot-7",
    verdict={"severity": "warning", "diagnosis": "defects", "scored": 90, "flagged": 7},
    sentences="7 of 90 images are flagged.",
    worst=("tile-03.png", "tile-41.png"),
    run_url="http://127.0.0.1:5000/#/runs/1",
    dedupe_key="tiles/lot-7",
)
ODD = "<!channel> *b* _i_ `c` [x](http://evil.example) & <b>\n# {{$now}} ${x}.png"


@dataclass(frozen=True)
class Request:
    """What the receiver was sent."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)


@dataclass
class Receiver:
    """A web server on loopback that answers as the path says: a status, `hang` or `close`."""

    received: list[Request] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    def url(self, answer: str, scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.port}/{answer}/token-{SECRET}"

    def handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.received.append(Request(self.path, dict(self.headers), body))
                answer = self.path.split("/")[1]
                if answer == "hang":
                    receiver.released.wait(30)
                elif answer != "close":
                    self.send_response(int(answer))
                    self.send_header("Location", f"http://127.0.0.1:{receiver.port}/200/elsewhere")
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            def do_GET(self) -> None:  # Prefect's client asks for a token first
                self.send_error(404)

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


def by_web(receiver: Receiver, answer: str) -> list[Channel]:
    """Every channel that goes to an address, made to go to the receiver, which answers as it is told."""
    url, json_url = receiver.url(answer), receiver.url(answer, "json")
    return [
        WebhookChannel("ops", url, b"key-" + SECRET.encode(), timeout=0.5),
        SlackChannel("room", lambda: url, timeout=0.5),
        TeamsChannel("room", lambda: url, timeout=0.5),
        PagerDutyChannel("duty", lambda: SECRET, f"http://127.0.0.1:{receiver.port}/{answer}", timeout=0.5),
        AppriseChannel("any", f"{json_url}?rto=0.5&cto=0.5"),
    ]


BY_WEB = ("webhook", "slack", "teams", "pagerduty", "apprise")


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
    (request,) = receiver.received
    assert request.document == ALERT.payload()
    assert request.headers["Idempotency-Key"] == "tiles/lot-7"
    assert request.headers["Content-Type"] == "application/json"
    assert "webhook-signature" not in request.headers
    assert psutil.Process().children(recursive=True) == children


def test_a_signed_webhook_can_be_verified(receiver: Receiver) -> None:
    """Key, timestamp and body are signed, in the headers and the way of Standard Webhooks."""
    key = bytes(range(32))
    WebhookChannel("ops", receiver.url("200"), key, clock=lambda: NOON).send(replace(ALERT, dedupe_key="a.b").payload())
    (request,) = receiver.received
    assert request.headers["webhook-id"] == request.headers["Idempotency-Key"] == "a%2Eb"
    assert request.headers["webhook-timestamp"] == str(int(NOON.timestamp()))
    expected = signature(key, "a%2Eb", request.headers["webhook-timestamp"], request.body)
    assert request.headers["webhook-signature"] == expected


def test_the_signature_is_that_of_the_standard() -> None:
    """The example in the documents of Standard Webhooks' reference libraries gives their signature."""
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signed = signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_guides_ten_lines_verify(receiver: Receiver) -> None:
    """What docs/guide/alerts.md shows accepts what is sent, and refuses it changed, late, or under another key."""
    guide = (Path(__file__).parents[1] / "docs/guide/alerts.md").read_text(encoding="utf-8")
    (code,) = [block.partition("```")[0] for block in guide.split("```python\n")[1:] if "def verified" in block]
    names: dict[str, Any] = {}
    exec(code, names)
    verified: Callable[..., bool] = names["verified"]
    secret = f"whsec_{base64.b64encode(bytes(range(32))).decode()}"
    WebhookChannel("ops", receiver.url("200"), bytes(range(32))).send(ALERT.payload())
    (request,) = receiver.received
    assert verified(request.headers, request.body, secret)
    assert not verified(request.headers, request.body + b" ", secret)
    assert not verified(request.headers, request.body, f"whsec_{base64.b64encode(bytes(32)).decode()}")
    assert not verified({**request.headers, "webhook-timestamp": "1614265330"}, request.body, secret)


def test_a_name_like_a_placeholder_arrives_as_it_is(receiver: Receiver) -> None:
    """Braces in file names and batches are no template, and bring no secret out."""
    names = ("{{body}}.png", "{{ webhook_url }}", "{{ alert_batch }}", "{{$PATH}}")
    alert = Alert("tiles", "{{subject}}", {"{{name}}": "{{ name }}"}, "{{body}}", names, None, "k\n{{body}}ü")
    WebhookChannel("ops", receiver.url("200")).send(alert.payload())
    assert receiver.received[0].document == alert.payload()


@pytest.mark.parametrize("name", [b"tile-\xff.png", b"tile-\xed\xa0\x80.png"])
def test_a_name_that_is_no_text_arrives_escaped(receiver: Receiver, name: bytes) -> None:
    """A file whose name is no UTF-8 does not hold its alert back for ever."""
    alert = Alert("tiles", "lot-7", {}, "Off.", (os.fsdecode(name),), None, "key")
    WebhookChannel("ops", receiver.url("200")).send(alert.payload())
    assert receiver.received[0].document["worst"][0].startswith("tile-\\udc")


# How sending fails


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


@pytest.mark.parametrize("number", range(len(BY_WEB)), ids=BY_WEB)
@pytest.mark.parametrize("answer", ["307", "308"])
def test_no_channel_follows_a_redirect(receiver: Receiver, number: int, answer: str) -> None:
    """An alert goes to the address that was configured, and to no other that the receiver names."""
    with pytest.raises(DeliveryFailed):
        by_web(receiver, answer)[number].send(ALERT.payload())
    assert [request.path.split("/")[1] for request in receiver.received] == [answer]


def test_a_refused_connection_is_a_failure(receiver: Receiver) -> None:
    """Where nobody listens, the alert did not arrive."""
    with ThreadingHTTPServer(("127.0.0.1", 0), receiver.handler()) as server:
        unused = server.server_address[1]
    with pytest.raises(DeliveryFailed, match=r"webhook 'ops' could not be reached \(ConnectError\)"):
        WebhookChannel("ops", f"http://127.0.0.1:{unused}/token-{SECRET}").send(ALERT.payload())


@pytest.mark.parametrize("address", ["ftp://host/token-s3cr3t", "token-s3cr3t", "http://host:port/token-s3cr3t"])
def test_an_address_that_is_none_is_a_failure(receiver: Receiver, address: str) -> None:
    """A wrong address is said without showing it."""
    with pytest.raises(DeliveryFailed) as failure:
        WebhookChannel("ops", address).send(ALERT.payload())
    assert str(failure.value) == "webhook 'ops' has an address that is not http://... or https://..."


@pytest.mark.parametrize("number", range(len(BY_WEB)), ids=BY_WEB)
@pytest.mark.parametrize("answer", ["200", "500", "hang", "close"])
def test_the_secret_shows_nowhere(
    receiver: Receiver, caplog: pytest.LogCaptureFixture, tmp_path: Path, number: int, answer: str
) -> None:
    """Neither the log at its most talkative, nor the error and its causes, nor repr, nor the ledger holds it."""
    channel = by_web(receiver, answer)[number]
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    raise_alarm(ledger, channel.name)
    told = repr(channel)
    with caplog.at_level(logging.DEBUG):
        try:
            channel.send(ALERT.payload())
        except DeliveryFailed as failure:
            told += repr(failure) + repr(failure.__cause__) + repr(failure.__context__)
        told += repr(deliver(ledger, {"tiles": {channel.name: channel}}))
    ledger.close()
    told += "".join(path.read_bytes().decode("latin-1") for path in tmp_path.glob("ledger.db*"))
    assert len(receiver.received) == 2
    assert SECRET not in told + caplog.text


def raise_alarm(ledger: Ledger, channel: str) -> None:
    claim = ledger.claim("tiles", "lot-7", "images", "3", "5")
    assert isinstance(claim, Claim)
    counts: dict[str, Any] = {"n_scored": 9, "n_flagged": 2, "n_unreadable": 1}
    ledger.finish(claim, run_id="run", verdict={}, alarm=True, alerts=ALERT.entries([channel]), **counts)


def test_other_requests_are_logged_as_before(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    """The HTTP client is silenced for the alert only."""
    with caplog.at_level(logging.INFO, "httpx"):
        WebhookChannel("ops", receiver.url("200")).send(ALERT.payload())
        assert not caplog.messages
        httpx.post(receiver.url("200"), json={})
    assert len(caplog.messages) == 1


# Slack and Teams


def test_slack_gets_title_sentences_names_and_a_button(receiver: Receiver) -> None:
    """Blocks for rooms, and the whole text for notifications."""
    SlackChannel("room", lambda: receiver.url("200")).send(ALERT.payload())
    message = receiver.received[0].document
    header, section, actions = message["blocks"]
    assert header["text"]["text"] == "reconwatch: batch lot-7 of tiles raised an alarm"
    assert texts(section) == ["WARNING. 7 of 90 images are flagged.", "Worst images:", "tile-03.png", "tile-41.png"]
    assert actions["elements"][0]["url"] == ALERT.run_url
    assert message["text"] == ALERT.text()


def test_rooms_are_led_to_the_labels_too() -> None:
    """A second button, where the batch's images can be labelled, and only to a web address."""
    alert = replace(ALERT, review_url="http://127.0.0.1:5000/#/review")
    slack = slack_message(alert.payload())["blocks"][-1]["elements"]
    assert [(button["text"]["text"], button["url"]) for button in slack] == [
        ("See the pictures", ALERT.run_url),
        ("Label its images", alert.review_url),
    ]
    teams = teams_message(alert.payload())["attachments"][0]["content"]["actions"]
    assert [(action["title"], action["url"]) for action in teams] == [
        ("See the pictures", ALERT.run_url),
        ("Label its images", alert.review_url),
    ]
    assert alert.text().endswith("Label its images: http://127.0.0.1:5000/#/review")
    odd = replace(alert, review_url="javascript:x")
    assert len(slack_message(odd.payload())["blocks"][-1]["elements"]) == 1


def test_slack_reads_no_markup_from_names() -> None:
    """Names stand in parts that Slack does not parse, and escaped in the text that it does."""
    message = slack_message(replace(ALERT, batch=ODD, worst=(ODD,)).payload())
    header, section, _ = message["blocks"]
    assert header["text"]["type"] == "plain_text"
    assert {part["type"] for part in leaves(section)} == {"text"}
    assert "<!channel> *b* _i_ `c` [x](http://evil.example) & <b> # {{$now}} ${x}.png" in texts(section)
    assert message["mrkdwn"] is False
    assert "<" not in message["text"]
    assert "&lt;!channel&gt; *b*" in message["text"]


def test_teams_gets_a_card(receiver: Receiver) -> None:
    """An Adaptive Card with title, sentences, names and a button, as a workflow takes it."""
    TeamsChannel("room", lambda: receiver.url("202")).send(ALERT.payload())
    message = receiver.received[0].document
    ((attachment,), kind) = (message["attachments"], message["type"])
    assert (kind, attachment["contentType"]) == ("message", "application/vnd.microsoft.card.adaptive")
    card = attachment["content"]
    assert texts(card) == [
        "reconwatch: batch lot-7 of tiles raised an alarm",
        "WARNING. 7 of 90 images are flagged.",
        "Worst images:",
        "tile-03.png",
        "tile-41.png",
    ]
    assert card["body"][0]["style"] == "warning"
    assert card["actions"] == [{"type": "Action.OpenUrl", "title": "See the pictures", "url": ALERT.run_url}]


def test_teams_reads_no_markdown_from_names() -> None:
    """Every text is a run of rich text; a TextBlock, which reads Markdown, is nowhere."""
    card = teams_message(replace(ALERT, batch=ODD, worst=(ODD,)).payload())["attachments"][0]["content"]
    assert {part["type"] for part in leaves(card)} == {"TextRun"}
    assert "<!channel> *b* _i_ `c` [x](http://evil.example) & <b> # {{$now}} ${x}.png" in texts(card)


@pytest.mark.parametrize("message", [slack_message, teams_message])
def test_a_long_alert_stays_within_what_rooms_take(message: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
    """Names of hundreds of letters are cut, and an address that is none makes no button."""
    alert = replace(ALERT, batch="b" * 5000, sentences="s " * 9000, worst=("w" * 255,) * 5, run_url="javascript:x")
    sent = message(alert.payload())
    assert len(json.dumps(sent)) < 28_000
    assert all(len(text) <= 5000 for text in texts(sent))
    assert "javascript" not in json.dumps({**sent, "text": ""})


def leaves(node: Any) -> list[Any]:
    """Every part of a message that holds a text itself."""
    if isinstance(node, list):
        return [leaf for item in node for leaf in leaves(item)]
    if not isinstance(node, dict):
        return []
    own = [node] if isinstance(node.get("text"), str) and "blocks" not in node else []
    return own + [leaf for value in node.values() for leaf in leaves(value)]


def texts(node: Any) -> list[str]:
    return [leaf["text"] for leaf in leaves(node)]


# PagerDuty


def test_pagerduty_is_triggered(receiver: Receiver) -> None:
    """An alarm opens an alert there, with the integration's key, what was found, and where it is seen."""
    channel = PagerDutyChannel("duty", lambda: SECRET, receiver.url("202"), clock=lambda: NOON)
    channel.send(replace(ALERT, severity="critical").payload())
    event = receiver.received[0].document
    assert (event["routing_key"], event["event_action"], event["dedup_key"]) == (SECRET, "trigger", "tiles/lot-7")
    assert event["links"] == [{"href": ALERT.run_url, "text": "See the pictures"}]
    said = event["payload"]
    assert said["summary"] == "reconwatch: batch lot-7 of tiles raised an alarm"
    assert (said["source"], said["severity"], said["class"]) == ("tiles", "critical", "defects")
    assert said["timestamp"] == "2024-05-17T12:00:00+00:00"
    assert said["custom_details"]["worst"] == ["tile-03.png", "tile-41.png"]


def test_pagerduty_follows_the_incident() -> None:
    """Whatever is said of an incident goes to one alert there, which is acknowledged and resolved with it."""
    actions = {}
    for kind in ("alarm", "reminder", "escalated", "acknowledged", "resolved"):
        alert = replace(ALERT, kind=kind, incident="tiles/12", dedupe_key=f"tiles/12/{kind}")
        event = pagerduty_event(alert.payload(), NOON)
        actions[kind] = event["event_action"]
        assert event["dedup_key"] == "tiles/12"
    assert actions == {
        "alarm": "trigger",
        "reminder": "trigger",
        "escalated": "trigger",
        "acknowledged": "acknowledge",
        "resolved": "resolve",
    }


def test_pagerduty_takes_long_names() -> None:
    """Key and summary are no longer than its API allows, and different keys stay different."""
    first, second = (replace(ALERT, batch="b" * 2000, incident="i" * 300 + end).payload() for end in "12")
    events = [pagerduty_event(payload, NOON) for payload in (first, second)]
    assert len({event["dedup_key"] for event in events}) == 2
    assert all(len(event["dedup_key"]) <= 255 for event in events)
    assert len(events[0]["payload"]["summary"]) == 1024


@pytest.mark.parametrize(
    ("kind", "severity", "feeling"),
    [
        ("alarm", "warning", "warning"),
        ("escalated", "critical", "critical"),
        ("missing", "warning", "warning"),
        ("resolved", "critical", "good"),
        ("acknowledged", "critical", "info"),
        ("test", "warning", "info"),
    ],
)
def test_good_news_does_not_look_like_bad(kind: Any, severity: Any, feeling: str) -> None:
    """The end of a critical incident is good news, and a test is neither."""
    assert tone(replace(ALERT, kind=kind, severity=severity).payload()) == feeling


# apprise


def test_apprise_passes_it_on(receiver: Receiver) -> None:
    """Title, text and type go to the service of the address."""
    AppriseChannel("any", receiver.url("200", "json")).send(ALERT.payload())
    document = receiver.received[0].document
    assert document["title"] == ALERT.title()
    assert document["message"] == ALERT.text()
    assert document["type"] == "warning"


@pytest.mark.parametrize("address", ["nothing://s3cr3t", "json://a/s3cr3t, json://b/s3cr3t", " "])
def test_apprise_needs_one_address(address: str) -> None:
    """An address that apprise does not know, or several at once, are said without showing them."""
    with pytest.raises(DeliveryFailed) as failure:
        AppriseChannel("any", address).send(ALERT.payload())
    assert str(failure.value) == (
        "apprise 'any' needs one address of a service that apprise knows, such as discord://..."
    )


# Prefect


def test_a_saved_block_keeps_its_template(receiver: Receiver) -> None:
    """A block from Prefect gets the title and the text in its own form, and its token is no one's to fetch."""
    saved = CustomWebhookNotificationBlock(
        name="chat",
        url=receiver.url("200"),
        json_data={"text": "{{subject}}: {{body}}", "token": "{{token}}"},
        headers={"X-Team": "line 2"},
        cookies=None,
        secrets=SecretDict({"token": "t0k3n"}),
    )
    alert = Alert("tiles", "lot {{{token}}}", {}, "{{token}}{{body}}", (), None, "key")
    SavedWebhookChannel("ops", "chat", load={"chat": saved}.__getitem__).send(alert.payload())
    (request,) = receiver.received
    document, headers = request.document, request.headers
    assert (headers["X-Team"], headers["Idempotency-Key"], document["token"]) == ("line 2", "key", "t0k3n")
    assert "lot { { {token}}}" in document["text"]
    assert "t0k3n" not in document["text"]


@pytest.mark.parametrize(
    ("send", "sentence"),
    [
        (
            lambda: SavedWebhookChannel("ops", "chat").send(ALERT.payload()),
            "the block 'chat' is saved in a Prefect server and PREFECT_API_URL names none: "
            "set it, or write its secret as ${VARIABLE}",
        ),
        (
            lambda: SlackChannel("room", lambda: saved_secret("Slack Webhook", "chat")).send(ALERT.payload()),
            "the block 'chat' is saved in a Prefect server and PREFECT_API_URL names none: "
            "set it, or write its secret as ${VARIABLE}",
        ),
        (
            lambda: PrefectEventChannel("events").send(ALERT.payload()),
            "events need a Prefect server and PREFECT_API_URL names none: set it, or take the channel out of alerts",
        ),
    ],
    ids=["webhook", "slack", "event"],
)
def test_what_prefect_keeps_needs_a_prefect_server(send: Callable[[], None], sentence: str) -> None:
    """Without a server's address nothing is started in its place, and the sentence says what to set."""
    with temporary_settings(restore_defaults={PREFECT_API_URL}), pytest.raises(DeliveryFailed) as failure:
        send()
    assert str(failure.value) == sentence


def test_an_event_that_the_server_does_not_take_is_a_failure(receiver: Receiver) -> None:
    """Unlike with `emit_event`, it is known, and the alert is tried again."""
    url = f"http://127.0.0.1:{receiver.port}/404"
    with temporary_settings({PREFECT_API_URL: url}), pytest.raises(DeliveryFailed) as failure:
        PrefectEventChannel("events").send(ALERT.payload())
    assert str(failure.value) == "Prefect event 'events' answered 404"


def test_an_event_names_pipeline_and_batch(receiver: Receiver) -> None:
    """Its resource is the pipeline, with what automations ask for; the batch is related; its id is the alert's."""
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{receiver.port}/204"}):
        for _ in range(2):
            PrefectEventChannel("events", clock=lambda: NOON).send(ALERT.payload())
    first, second = (request.document[0] for request in receiver.received)
    assert first == second
    assert first["event"] == "reconwatch.alert.alarm"
    assert first["resource"] == {
        "prefect.resource.id": "reconwatch.pipeline.tiles",
        "prefect.resource.name": "tiles",
        "reconwatch.severity": "warning",
        "reconwatch.incident": "tiles/lot-7",
    }
    assert first["related"][0]["prefect.resource.id"] == "reconwatch.batch.tiles.lot-7"
    assert first["payload"] == ALERT.payload()


# From the configuration


def test_channels_are_those_of_the_configuration(receiver: Receiver) -> None:
    """Each configured channel is there under its name, and sends where its secret says."""
    url, key = SecretStr(receiver.url("200")), base64.b64encode(bytes(32)).decode()
    configured = (
        config.LogChannel(),
        config.WebhookChannel(name="ops", url=url, secret=SecretStr(f"whsec_{key}")),
        config.SlackChannel(name="slack", url=url),
        config.TeamsChannel(name="teams", url=url),
        config.PagerDutyChannel(name="duty", routing_key=SecretStr(SECRET), url=receiver.url("202")),
        config.AppriseChannel(name="any", url=SecretStr(receiver.url("200", "json"))),
    )
    built = channels(configured)
    assert list(built) == ["log", "ops", "slack", "teams", "duty", "any"]
    for channel in built.values():
        channel.send(ALERT.payload())
    assert len(receiver.received) == 5
    assert "webhook-signature" in receiver.received[0].headers
    assert channels([config.WebhookChannel(name="chat", block="saved")])["chat"] == SavedWebhookChannel("chat", "saved")


def test_no_dump_of_the_configuration_shows_a_secret() -> None:
    """Whatever a channel's section is printed or stored as, its secrets are stars."""
    sections: list[dict[str, Any]] = [
        {"type": "webhook", "url": f"http://a/{SECRET}", "secret": f"whsec_{SECRET * 6}"},
        {"type": "slack", "url": f"http://a/{SECRET}"},
        {"type": "teams", "url": f"http://a/{SECRET}"},
        {"type": "email", "host": "mail", "from": "a@b", "to": "c@d", "user": "u", "password": SECRET},
        {"type": "pagerduty", "routing_key": SECRET},
        {"type": "apprise", "url": f"json://a/{SECRET}"},
    ]
    for section in sections:
        channel: Any = TypeAdapter(config.Channel).validate_python(section)
        assert SECRET not in repr(channel) + str(channel) + channel.model_dump_json() + repr(channel.model_dump())
        assert SECRET not in repr(channels([channel]))


def test_a_test_message_says_that_it_is_one() -> None:
    """Nobody who gets it looks for a fault; each has a key of its own."""
    alert = trial_alert("tiles", "ops", NOON)
    assert alert.text() == (
        "reconwatch: a test of an alert channel of tiles.\n"
        "This is a test of the channel ops, sent by hand at 2024-05-17 12:00:00 UTC: nothing is wrong, and nothing "
        "needs to be done. Alerts will arrive like this."
    )
    assert alert.kind == "test"
    assert alert.dedupe_key != trial_alert("tiles", "ops", NOON.replace(microsecond=1)).dedupe_key
