"""Alerts: what is said of a batch that raised an alarm, and its delivery through the channels."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from flows.ledger import Ledger, OutboxEntry, PendingAlert, plain, utc_now

SCHEMA = 1
DELAYS = (  # after the first failure, the second, ...; the last one again and again
    timedelta(seconds=10),
    timedelta(seconds=30),
    timedelta(minutes=2),
    timedelta(minutes=10),
    timedelta(hours=1),
)
PAGE = 100  # alerts held in memory at a time


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
