"""Alerts by HTTP: one POST that shows its address nowhere, and the signed webhook."""

import base64
import hashlib
import hmac
import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote

import httpx

from flows.alerts import DeliveryFailed
from flows.ledger import utc_now

TIMEOUT = 10.0  # seconds for connecting, for sending, and for each wait for the answer
_CLIENT_LOGGERS = (
    "httpx",
    "httpcore.connection",
    "httpcore.http11",
    "httpcore.proxy",
    "apprise",
    "urllib3.connectionpool",
)


def post(who: str, url: str, document: Any, headers: Mapping[str, str] | None = None, timeout: float = TIMEOUT) -> None:
    """Sends a JSON document, or bytes that are one; any answer but 2xx raises DeliveryFailed, which begins with `who`.

    A redirect is such an answer: what was meant for one address goes to no other. The answer's text is not read.
    """
    content = document if isinstance(document, bytes) else json_bytes(document)
    always = {"Content-Type": "application/json", "User-Agent": "reconwatch"}
    try:
        with (
            addresses_unlogged(),
            httpx.Client(timeout=timeout, follow_redirects=False) as client,
            client.stream("POST", url, content=content, headers=always | dict(headers or {})) as answer,
        ):
            answer.raise_for_status()
        return
    except Exception as error:
        failed = failure(who, error)
    raise failed  # outside of `except`: the error that it stands for holds the address


def json_bytes(document: Any) -> bytes:
    """The document as compact JSON in UTF-8."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def failure(who: str, error: Exception) -> DeliveryFailed:
    """What went wrong with a request, in words that hold nothing of the error's own text, where addresses stand."""
    if isinstance(error, DeliveryFailed):
        return error
    if isinstance(error, httpx.HTTPStatusError):
        return DeliveryFailed(f"{who} answered {error.response.status_code}")
    if isinstance(error, httpx.TimeoutException):
        return DeliveryFailed(f"{who} gave no answer in time", unreachable=True)
    if isinstance(error, (httpx.UnsupportedProtocol, httpx.InvalidURL)):
        return DeliveryFailed(f"{who} has an address that is not http://... or https://...")
    if isinstance(error, httpx.TransportError):
        return DeliveryFailed(f"{who} could not be reached ({type(error).__name__})", unreachable=True)
    return DeliveryFailed(f"{who} failed with {type(error).__name__}")


@contextmanager
def addresses_unlogged() -> Iterator[None]:
    """Keeps the HTTP clients from logging this thread's requests meanwhile: their lines hold the address."""
    thread = threading.get_ident()

    def of_others(record: logging.LogRecord) -> bool:
        return record.thread != thread

    loggers = [logging.getLogger(name) for name in _CLIENT_LOGGERS]
    for logger in loggers:
        logger.addFilter(of_others)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(of_others)


def header_key(payload: Mapping[str, Any]) -> str:
    """The dedupe key as a header can hold it; without `.`, which parts what is signed."""
    return quote(str(payload["dedupe_key"]), safe=":/").replace(".", "%2E")


def signature(key: bytes, message: str, timestamp: str, body: bytes) -> str:
    """The value of `webhook-signature` by Standard Webhooks: HMAC-SHA256 of `message.timestamp.body`, in base64."""
    signed = b".".join((message.encode(), timestamp.encode(), body))
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


@dataclass(frozen=True)
class WebhookChannel:
    """The payload as JSON, to a web address.

    Attributes:
        url: the secret address.
        key: what requests are signed with, or None.
        timeout: seconds until a silent receiver counts as unreachable.
    """

    name: str
    url: str = field(repr=False)
    key: bytes | None = field(default=None, repr=False)
    timeout: float = TIMEOUT
    clock: Callable[[], datetime] = field(default=utc_now, repr=False)

    def send(self, payload: Mapping[str, Any]) -> None:
        """Sends the alert; any answer but 2xx, and none in time, raises DeliveryFailed."""
        body, message = json_bytes(payload), header_key(payload)
        headers = {"Idempotency-Key": message}
        if self.key is not None:
            timestamp = str(int(self.clock().timestamp()))
            headers |= {"webhook-id": message, "webhook-timestamp": timestamp}
            headers["webhook-signature"] = signature(self.key, message, timestamp, body)
        post(f"webhook '{self.name}'", self.url, body, headers, self.timeout)
