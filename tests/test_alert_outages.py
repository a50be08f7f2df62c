"""While a mail server or a webhook is down, hangs or answers 500, alerts wait in the ledger; then they arrive, once."""

import socketserver
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from flows.alerts import DELAYS, Alert, Channel, deliver
from flows.channels_email import EmailChannel
from flows.channels_http import WebhookChannel
from flows.ledger import Ledger
from tests.outages import Mode, Outage

START = datetime(2026, 3, 1, tzinfo=UTC)

pytestmark = pytest.mark.faults


@contextmanager
def serving(server: Any) -> Iterator[int]:
    """A server on loopback; its port."""
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def webhooks(got: list[str]) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            got.append(self.headers["Idempotency-Key"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        yield port


@contextmanager
def mails(got: list[str]) -> Iterator[int]:
    class Handler(socketserver.StreamRequestHandler):
        def say(self, line: str) -> None:
            self.wfile.write(f"{line}\r\n".encode())

        def handle(self) -> None:
            self.say("220 here")
            while command := self.rfile.readline().strip().upper():
                if command == b"DATA":
                    self.say("354 go on")
                    mail = b"".join(iter(self.rfile.readline, b".\r\n"))
                    got.append(mail.decode())
                self.say("221 bye" if command == b"QUIT" else "250 good")

    with serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)) as port:
        yield port


def channel(kind: str, port: int) -> Channel:
    if kind == "webhook":
        return WebhookChannel("way", f"http://127.0.0.1:{port}/x", timeout=0.5)
    return EmailChannel("way", "127.0.0.1", port, "none", "a@example.com", ("b@example.com",), timeout=0.5)


def enter(ledger: Ledger) -> None:
    """A finished batch with one alert."""
    claim: Any = ledger.claim("tiles", "monday", "hash", "1", "c1")
    alert = Alert("tiles", "monday", {}, "Look.", (), None, claim.key)
    entries = alert.entries(["way"])
    ledger.finish(claim, run_id="r1", verdict={}, alarm=True, n_scored=1, n_flagged=1, n_unreadable=0, alerts=entries)


@pytest.mark.parametrize("mode", ["refuse", "hang", "error"])
@pytest.mark.parametrize(("kind", "receiver"), [("webhook", webhooks), ("email", mails)])
def test_an_alert_waits_and_arrives_once(tmp_path: Path, kind: str, receiver: Any, mode: Mode) -> None:
    """It is tried by the stated delays, for more than a minute, and what failed is said in one sentence."""
    got, now = list[str](), [START]
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}", clock=lambda: now[0])
    enter(ledger)
    with receiver(got) as port, Outage(port) as outage:
        ways = {"tiles": {"way": channel(kind, outage.port)}}
        outage.set(mode)
        for delay in DELAYS[:3]:
            report = deliver(ledger, ways, lambda: now[0])
            assert report.delivered == 0
            (sentence,) = report.failed
            assert sentence.startswith("the alert on batch 'monday' of pipeline 'tiles': ")
            assert "\n" not in sentence
            now[0] += delay - timedelta(seconds=1)
            assert deliver(ledger, ways, lambda: now[0]).failed == ()
            now[0] += timedelta(seconds=1)
        outage.set("pass")
        assert got == []
        assert deliver(ledger, ways, lambda: now[0]).delivered == 1
        assert deliver(ledger, ways, lambda: now[0] + timedelta(days=1)).delivered == 0
    assert len(got) == 1
    ledger.close()
