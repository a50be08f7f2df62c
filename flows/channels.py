"""The channels that carry alerts to people, made from a pipeline's `alerts`."""

import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from flows import config
from flows.alerts import Channel, DeliveryFailed

if TYPE_CHECKING:
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

_CLIENT_LOGGERS = ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy")
_LOGGER = logging.getLogger("reconwatch.alerts")


@dataclass(frozen=True)
class LogChannel:
    """One warning a alert, on one line, to the logger `reconwatch.alerts`."""

    name: str = "log"

    def send(self, payload: Mapping[str, Any]) -> None:
        """Logs the alert's text; line breaks and control characters, which file names may hold, become spaces."""
        printable = "".join(letter if letter.isprintable() else " " for letter in payload["text"])
        _LOGGER.warning("%s", " ".join(printable.split()))


def saved_webhook(name: str) -> "CustomWebhookNotificationBlock":
    """The Custom Webhook block saved in Prefect under that name; raises DeliveryFailed where no server is set."""
    from prefect.blocks.notifications import CustomWebhookNotificationBlock
    from prefect.settings import get_current_settings

    if not get_current_settings().api.url:  # Prefect would start a server of its own
        raise DeliveryFailed(
            f"the block '{name}' is saved in a Prefect server and PREFECT_API_URL names none: set it, or give a url"
        )
    load: Any = CustomWebhookNotificationBlock.load  # its type leaves out _sync
    try:
        block: CustomWebhookNotificationBlock = load(name, _sync=True)
    except ValueError:
        raise DeliveryFailed(
            f"Prefect has no Custom Webhook block '{name}': save one by that name, or give a url"
        ) from None
    except Exception as error:
        raise DeliveryFailed(
            f"the block '{name}' could not be loaded from Prefect ({type(error).__name__})", unreachable=True
        ) from None
    return block


@dataclass(frozen=True)
class WebhookChannel:
    """A request to a web address, or through a Custom Webhook block that is saved in Prefect.

    Attributes:
        url: the secret address, which gets the payload as JSON by POST; or None.
        block: the block's name; its own template stands and is given `subject` and `body`; or None.
        timeout: seconds until a silent receiver counts as unreachable; a saved block has its own.
    """

    name: str
    url: str | None = field(default=None, repr=False)
    block: str | None = None
    timeout: float = 10.0
    load: Callable[[str], "CustomWebhookNotificationBlock"] = field(default=saved_webhook, repr=False)

    def send(self, payload: Mapping[str, Any]) -> None:
        """Sends the alert; any answer but 2xx, and none in time, raises DeliveryFailed."""
        try:
            with _addresses_unlogged():
                self._notify(payload)
            return
        except Exception as error:
            failure = _failure(self.name, error)
        raise failure  # outside of `except`: the error that it stands for holds the address

    def _notify(self, payload: Mapping[str, Any]) -> None:
        block = self._own_block(payload) if self.block is None else self._saved_block(self.block, payload)
        notify: Any = block.notify  # its type leaves out _sync
        with block.raise_on_failure():
            notify(_braced(payload["text"]), _braced(payload["title"]), _sync=True)

    def _own_block(self, payload: Mapping[str, Any]) -> "CustomWebhookNotificationBlock":
        from prefect.blocks.notifications import CustomWebhookNotificationBlock
        from prefect.types import SecretDict

        secrets = {"webhook_url": self.url} | {f"alert_{key}": value for key, value in payload.items()}
        # A value that stands for a whole placeholder is put in as it is: `{{...}}` in a file's name stays that.
        return CustomWebhookNotificationBlock(
            name=self.name,
            url="{{ webhook_url }}",
            json_data={key: f"{{{{ alert_{key} }}}}" for key in payload},
            headers={"Idempotency-Key": _header(payload)},
            cookies=None,
            timeout=self.timeout,
            secrets=SecretDict(secrets),
        )

    def _saved_block(self, name: str, payload: Mapping[str, Any]) -> "CustomWebhookNotificationBlock":
        block = self.load(name)
        block.headers = {"Idempotency-Key": _header(payload)} | (block.headers or {})
        return block


def channels(configured: Sequence[config.LogChannel | config.WebhookChannel]) -> dict[str, Channel]:
    """The channels of one pipeline by name, from its `alerts`."""
    return {channel.name: _channel(channel) for channel in configured}


def _channel(configured: config.LogChannel | config.WebhookChannel) -> Channel:
    if isinstance(configured, config.LogChannel):
        return LogChannel(configured.name)
    url = configured.url.get_secret_value() if configured.url else None
    return WebhookChannel(configured.name, url, configured.block)


def _failure(name: str, error: Exception) -> DeliveryFailed:
    """What went wrong with a webhook, in words that hold nothing of the error's own text, where addresses stand."""
    import httpx

    if isinstance(error, DeliveryFailed):
        return error
    if isinstance(error, httpx.HTTPStatusError):
        return DeliveryFailed(f"webhook '{name}' answered {error.response.status_code}")
    if isinstance(error, httpx.TimeoutException):
        return DeliveryFailed(f"webhook '{name}' gave no answer in time", unreachable=True)
    if isinstance(error, (httpx.UnsupportedProtocol, httpx.InvalidURL)):
        return DeliveryFailed(f"webhook '{name}' has an address that is not http://... or https://...")
    if isinstance(error, httpx.TransportError):
        return DeliveryFailed(f"webhook '{name}' could not be reached ({type(error).__name__})", unreachable=True)
    return DeliveryFailed(f"webhook '{name}' failed with {type(error).__name__}")


@contextmanager
def _addresses_unlogged() -> Iterator[None]:
    """Keeps the HTTP client from logging this thread's requests meanwhile: its lines hold the address."""
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


def _braced(text: str) -> str:
    """`text` without `{{`, which a block would take for a placeholder, and put its secrets there."""
    return re.sub(r"\{(?=\{)", "{ ", text)


def _header(payload: Mapping[str, Any]) -> str:
    return quote(str(payload["dedupe_key"]), safe=":/")
