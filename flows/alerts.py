"""Alerts: what is said of a batch that raised an alarm, the channels that carry it, and the delivery."""

import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from flows import config
from flows.ledger import Ledger, OutboxEntry, PendingAlert, plain, utc_now

if TYPE_CHECKING:
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

SCHEMA = 1
DELAYS = (  # after the first failure, the second, ...; the last one again and again
    timedelta(seconds=10),
    timedelta(seconds=30),
    timedelta(minutes=2),
    timedelta(minutes=10),
    timedelta(hours=1),
)
PAGE = 100  # alerts held in memory at a time
_CLIENT_LOGGERS = ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy")
_LOGGER = logging.getLogger("reconwatch.alerts")


class DeliveryFailed(RuntimeError):  # noqa: N818 (it says what happened)
    """An alert did not arrive; the sentence never holds an address.

    Attributes:
        unreachable: nobody answered, so that the next alert would only wait again.
    """

    def __init__(self, sentence: str, unreachable: bool = False) -> None:
        super().__init__(sentence)
        self.unreachable = unreachable


@dataclass(frozen=True)
class Alert:
    """What is said of one batch.

    Attributes:
        verdict: plain JSON values.
        sentences: what was found, for people.
        worst: names or addresses of the worst images, the worst first.
        run_url: where the batch's pictures are, or None.
        dedupe_key: the same for every copy of this alert, so that a receiver can drop the second.
    """

    pipeline: str
    batch: str
    verdict: Mapping[str, Any]
    sentences: str
    worst: tuple[str, ...]
    run_url: str | None
    dedupe_key: str

    def title(self) -> str:
        """One line that names the batch."""
        return f"reconwatch: batch {self.batch} of {self.pipeline} raised an alarm"

    def text(self) -> str:
        """The alert for people."""
        lines = [f"{self.title()}.", self.sentences]
        if self.worst:
            lines.append(f"Worst images: {', '.join(self.worst)}.")
        if self.run_url:
            lines.append(f"Pictures: {self.run_url}")
        return "\n".join(lines)

    def payload(self) -> dict[str, Any]:
        """The alert as the JSON document that channels send."""
        document: dict[str, Any] = plain(
            {
                "schema": SCHEMA,
                "pipeline": self.pipeline,
                "batch": self.batch,
                "title": self.title(),
                "text": self.text(),
                "sentences": self.sentences,
                "worst": self.worst,
                "run_url": self.run_url,
                "verdict": self.verdict,
                "dedupe_key": self.dedupe_key,
            }
        )
        return document

    def entries(self, names: Sequence[str]) -> tuple[OutboxEntry, ...]:
        """The outbox entries that send this alert through the channels of these names."""
        payload = self.payload()
        return tuple(OutboxEntry(name, self.dedupe_key, payload) for name in names)


class Channel(Protocol):
    """A way to people."""

    @property
    def name(self) -> str:
        """Its name within the pipeline."""

    def send(self, payload: Mapping[str, Any]) -> None:
        """Hands over one alert's payload; raises DeliveryFailed where it did not arrive."""


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


@dataclass(frozen=True)
class DeliveryReport:
    """What one pass over the outbox did.

    Attributes:
        delivered: how many alerts arrived.
        failed: one sentence an alert that did not.
        waiting: how many due alerts were kept for the next pass, because their channel was unreachable in this one.
        homeless: one sentence a channel that the configuration no longer has, while alerts wait for it.
    """

    delivered: int = 0
    failed: tuple[str, ...] = ()
    waiting: int = 0
    homeless: tuple[str, ...] = ()


def deliver(
    ledger: Ledger,
    channels_by_pipeline: Mapping[str, Mapping[str, Channel]],
    clock: Callable[[], datetime] = utc_now,
) -> DeliveryReport:
    """Sends every due alert once and says what became of it; what fails is due again after DELAYS, for ever.

    After a channel was unreachable, its other alerts wait for the next pass: they would only time out one by one.
    """
    delivered, waiting, failed = 0, 0, list[str]()
    unreachable, homeless = set[tuple[str, str]](), dict[tuple[str, str], int]()
    for due in _due(ledger, clock()):
        route = (due.pipeline, due.channel)
        channel = channels_by_pipeline.get(due.pipeline, {}).get(due.channel)
        if channel is None:
            homeless[route] = homeless.get(route, 0) + 1
        elif route in unreachable:
            waiting += 1
        elif (alert := ledger.claim_alert(due)) is not None:
            failure = _sent(ledger, channel, alert, clock)
            if failure is None:
                delivered += 1
                continue
            failed.append(f"the alert on batch '{alert.payload['batch']}' of pipeline '{alert.pipeline}': {failure}")
            if failure.unreachable:
                unreachable.add(route)
    return DeliveryReport(delivered, tuple(failed), waiting, tuple(map(_homeless, homeless.items())))


def _sent(
    ledger: Ledger, channel: Channel, alert: PendingAlert, clock: Callable[[], datetime]
) -> DeliveryFailed | None:
    try:
        channel.send(alert.payload)
    except DeliveryFailed as error:
        failure = error
    except Exception as error:  # a channel's own fault stops no other; its text may hold an address
        failure = DeliveryFailed(f"channel '{alert.channel}' failed with {type(error).__name__}")
    except BaseException:
        ledger.mark_failed(alert, "interrupted", clock())
        raise
    else:
        ledger.mark_delivered(alert)
        return None
    delay = DELAYS[min(alert.attempts, len(DELAYS) - 1)]
    ledger.mark_failed(alert, str(failure), clock() + delay)
    return failure


def _due(ledger: Ledger, now: datetime) -> Iterator[PendingAlert]:
    last = 0
    while page := ledger.pending_alerts(now, after=last, limit=PAGE):
        yield from page
        last = page[-1].id


def _homeless(counted: tuple[tuple[str, str], int]) -> str:
    (pipeline, channel), count = counted
    return (
        f"{count} alert{'s wait' if count > 1 else ' waits'} for the channel '{channel}', which pipeline '{pipeline}' "
        "no longer has: put it back under alerts to have them delivered"
    )


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
