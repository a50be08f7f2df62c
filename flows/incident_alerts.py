"""What people are told of an incident: its messages in words."""

from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any

from flows.alerts import Alert
from flows.incidents import LASTING, Incident, Message
from flows.ledger import OutboxEntry, plain


def stored(alert: Alert) -> dict[str, Any]:
    """An alert as JSON values, for `Incident.alert`."""
    document: dict[str, Any] = plain(asdict(alert))
    return document


def entries(incident: Incident, message: Message, now: datetime) -> tuple[OutboxEntry, ...]:
    """The message's entry for each of its channels."""
    return alert_of(incident, message, now).entries(message.channels)


def alert_of(incident: Incident, message: Message, now: datetime) -> Alert:
    """The message in full: the incident's newest alarm, told as what this message says of it."""
    values = {**incident.alert, "worst": tuple(incident.alert["worst"])}
    alert = replace(
        Alert(**values),
        kind=message.kind,
        severity=incident.severity,
        incident=incident.key,
        dedupe_key=message.dedupe_key,
    )
    headline = _headline(incident, message, now)
    said = " ".join([*_news(incident, message), alert.sentences, *_advice(incident, message)])
    return replace(alert, headline=headline or alert.headline, sentences=said)


def name_of(incident: Incident) -> str:
    """`incident 12 of tiles (defects)`."""
    return f"incident {incident.number} of {incident.pipeline} ({incident.kind})"


def in_short(incident: Incident) -> str:
    """`12 defects (critical, 3 batches, newest lot-9, acknowledged by anna)`."""
    said: list[str] = [incident.severity]
    said += [] if incident.kind in LASTING else [_batches(incident), f"newest {incident.alert['batch']}"]
    said += [f"acknowledged by {incident.acknowledged_by}"] if incident.acknowledged_at else []
    return f"{incident.number} {incident.kind} ({', '.join(said)})"


def in_rough_words(time: timedelta) -> str:
    """A time as people say it: `40 s`, `25 min`, `3 h`, `2 days`."""
    seconds = time.total_seconds()
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"


def _headline(incident: Incident, message: Message, now: datetime) -> str:
    name, age = name_of(incident), in_rough_words(now - incident.opened_at)
    rose = message.dedupe_key.endswith("/critical")
    return {
        "alarm": f"batch {incident.alert['batch']} of {incident.pipeline} raised an alarm ({incident.kind})",
        "reminder": f"{name} is open for {age}, and nobody acknowledged it",
        "escalated": f"{name} became critical" if rose else f"{name} is escalated",
        "acknowledged": f"{name} is acknowledged by {incident.acknowledged_by}",
        "resolved": f"{name} is over",
    }.get(message.kind, "")


def _news(incident: Incident, message: Message) -> list[str]:
    if message.kind == "resolved":
        comment = [f"The comment on it: {incident.comment}."] if incident.comment else []
        return [_ending(incident), *comment, _counted(incident)]
    if message.kind == "acknowledged":
        return [f"They say: {incident.comment}."] if incident.comment else []
    return [_counted(incident)] if message.kind in ("reminder", "escalated") else []


def _ending(incident: Incident) -> str:
    if incident.closed_by:
        return f"{incident.closed_by} closed it{f' as a {incident.judgement}' if incident.judgement else ''}."
    if incident.kind in LASTING:
        return "It ended by itself."
    return f"The last {incident.clean} batches in a row were clean of it."


def _counted(incident: Incident) -> str:
    opened = f"since {incident.opened_at:%Y-%m-%d %H:%M} UTC"
    if incident.kind in LASTING:
        return f"It was noticed {opened.removeprefix('since ')}."
    return f"{_batches(incident)} alarmed {opened}; the newest:"


def _batches(incident: Incident) -> str:
    return f"{incident.batches} batch{'es' if incident.batches > 1 else ''}"


def _advice(incident: Incident, message: Message) -> list[str]:
    if message.kind in ("resolved", "acknowledged") or incident.closed_at is not None:
        return []
    return [f"This is incident {incident.number}; 'reconwatch alert ack {incident.number}' says that it is seen to."]
