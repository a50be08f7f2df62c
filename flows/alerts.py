"""Alerts: what is said of a batch that raised an alarm, and its delivery through the channels."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol

from flows.ledger import Ledger, OutboxEntry, PendingAlert, WaitingChannel, plain, utc_now

Kind = Literal["alarm", "reminder", "acknowledged", "escalated", "resolved", "missing", "failing", "stream", "test"]
Severity = Literal["warning", "critical"]
Tone = Literal["good", "info", "warning", "critical"]

SCHEMA = 1  # of the payload, as flows/alert.schema.json says it
TITLES: Mapping[Kind, str] = {
    "alarm": "batch {batch} of {pipeline} raised an alarm",
    "reminder": "an alarm of {pipeline} is still open",
    "acknowledged": "an alarm of {pipeline} was acknowledged",
    "escalated": "an alarm of {pipeline} is escalated",
    "resolved": "an alarm of {pipeline} is over",
    "missing": "no batch of {pipeline} came in time",
    "failing": "scoring of {pipeline} fails",
    "stream": "the stream of {pipeline} has changed",
    "test": "a test of an alert channel of {pipeline}",
}
DELAYS = (  # after the first failure, the second, ...; the last one again and again
    timedelta(seconds=10),
    timedelta(seconds=30),
    timedelta(minutes=2),
    timedelta(minutes=10),
    timedelta(hours=1),
)
PAGE = 100  # alerts held in memory at a time
GIVE_UP = 10  # failures in a row after which a channel is left alone until the next pass
Route = tuple[str, str]  # pipeline, channel


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
    """One message to people: an alarm, what became of it, or what did not happen.

    Attributes:
        batch: None where the message is of no one batch.
        verdict: plain JSON values; empty where the message is of no one batch.
        sentences: what was found, for people.
        worst: names or addresses of the worst images, the worst first.
        run_url: where the batch's pictures are, or None.
        dedupe_key: the same for every copy of this alert, so that a receiver can drop the second.
        incident: the same for all messages on one matter, so that a receiver can put them together; by default the
            dedupe_key.
        run_id: the MLflow run that holds the picture, or None.
        picture: the name of that run's artifact with the worst images, a PNG, or None.
        review_url: where the batch's images are labelled, or None.
        headline: the title, where it is not that of the kind; without a full stop.
    """

    pipeline: str
    batch: str | None
    verdict: Mapping[str, Any]
    sentences: str
    worst: tuple[str, ...]
    run_url: str | None
    dedupe_key: str
    kind: Kind = "alarm"
    severity: Severity = "warning"
    incident: str = ""
    run_id: str | None = None
    picture: str | None = None
    review_url: str | None = None
    headline: str = ""

    def title(self) -> str:
        """One line that says what it is about."""
        headline = self.headline or TITLES[self.kind].format(batch=self.batch, pipeline=self.pipeline)
        return f"reconwatch: {headline}"

    def text(self) -> str:
        """The alert for people."""
        lines = [f"{self.title()}.", self.sentences]
        if self.worst:
            lines.append(f"Worst images: {', '.join(self.worst)}.")
        if self.run_url:
            lines.append(f"Pictures: {self.run_url}")
        if self.review_url:
            lines.append(f"Label its images: {self.review_url}")
        return "\n".join(lines)

    def payload(self) -> dict[str, Any]:
        """The alert as the JSON document that channels send."""
        document: dict[str, Any] = plain(
            {
                "schema": SCHEMA,
                "kind": self.kind,
                "severity": self.severity,
                "pipeline": self.pipeline,
                "batch": self.batch,
                "title": self.title(),
                "text": self.text(),
                "sentences": self.sentences,
                "worst": self.worst,
                "run_url": self.run_url,
                "review_url": self.review_url,
                "run_id": self.run_id,
                "picture": self.picture,
                "verdict": self.verdict,
                "incident": self.incident or self.dedupe_key,
                "dedupe_key": self.dedupe_key,
            }
        )
        return document

    def entries(self, names: Sequence[str]) -> tuple[OutboxEntry, ...]:
        """The outbox entries that send this alert through the channels of these names."""
        payload = self.payload()
        return tuple(OutboxEntry(name, self.dedupe_key, payload) for name in names)


def tone(payload: Mapping[str, Any]) -> Tone:
    """How a message is to be felt, for colours and the severities of other services."""
    by_kind: Mapping[str, Tone] = {"resolved": "good", "acknowledged": "info", "test": "info"}
    severity: Severity = payload["severity"]
    return by_kind.get(payload["kind"], severity)


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
        failed: one sentence a channel where alerts did not, on the last of them.
        waiting: how many due alerts were kept for the next pass, because their channel was left alone in this one.
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

    Alerts on one matter reach a channel in their order; those that were never tried go before those that failed, so
    that an old storm keeps no new alert waiting. After a channel was unreachable, or failed GIVE_UP times in a row,
    its other alerts wait for the next pass: they would only time out one by one.
    """
    delivered, waiting = 0, 0
    failures, homeless = dict[Route, _Failures](), dict[Route, int]()
    for due in _due(ledger, clock()):
        route = (due.pipeline, due.channel)
        channel = channels_by_pipeline.get(due.pipeline, {}).get(due.channel)
        so_far = failures.setdefault(route, _Failures())
        if channel is None:
            homeless[route] = homeless.get(route, 0) + 1
        elif so_far.in_a_row >= GIVE_UP:
            waiting += 1
        elif (alert := ledger.outbox.claim(due)) is not None:
            failure = _sent(ledger, channel, alert, clock)
            delivered += failure is None
            failures[route] = so_far.after(alert, failure)
    said = tuple(of_route.sentence() for of_route in failures.values() if of_route.total)
    return DeliveryReport(delivered, said, waiting, tuple(map(_homeless, homeless.items())))


@dataclass(frozen=True)
class _Failures:
    """What failed on one channel in one pass."""

    in_a_row: int = 0
    total: int = 0
    last: str = ""

    def after(self, alert: PendingAlert, failure: DeliveryFailed | None) -> "_Failures":
        if failure is None:
            return replace(self, in_a_row=0)
        in_a_row = GIVE_UP if failure.unreachable else self.in_a_row + 1
        return _Failures(in_a_row, self.total + 1, f"{_subject(alert)} of pipeline '{alert.pipeline}': {failure}")

    def sentence(self) -> str:
        others = self.total - 1
        return self.last + (f" (and {others} other{'s' if others > 1 else ''})" if others else "")


def in_words(waiting: WaitingChannel) -> str:
    """What is known of a channel for which alerts wait."""
    counted = "1 alert waits" if waiting.count == 1 else f"{waiting.count:,} alerts wait"
    reason = f"; {waiting.last_error}" if waiting.last_error else ", not tried yet"
    return (
        f"{waiting.pipeline}: {counted} for the channel '{waiting.channel}' since {waiting.since:%Y-%m-%d %H:%M} UTC"
        f"{reason}"
    )


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
        ledger.outbox.mark_failed(alert, "interrupted", clock())
        raise
    else:
        ledger.outbox.mark_delivered(alert)
        return None
    delay = DELAYS[min(alert.attempts, len(DELAYS) - 1)]
    ledger.outbox.mark_failed(alert, str(failure), clock() + delay)
    return failure


def _due(ledger: Ledger, now: datetime) -> Iterator[PendingAlert]:
    for tried in (False, True):
        last = 0
        while page := ledger.outbox.pending(now, after=last, limit=PAGE, tried=tried):
            yield from page
            last = page[-1].id


def _subject(alert: PendingAlert) -> str:
    batch = alert.payload["batch"]
    return f"the alert on batch '{batch}'" if batch else f"the alert '{alert.payload['kind']}'"


def _homeless(counted: tuple[tuple[str, str], int]) -> str:
    (pipeline, channel), count = counted
    return (
        f"{count} alert{'s wait' if count > 1 else ' waits'} for the channel '{channel}', which pipeline '{pipeline}' "
        "no longer has: put it back under alerts to have them delivered"
    )
