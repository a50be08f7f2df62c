"""Incidents: which alarms are one matter, and when people hear of it, are reminded, and hear that it is over.

Pure rules: an incident and what happened in, the incident after it and the messages that are due out. The ledger keeps
incidents, and writes each with its messages in one transaction.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from flows.config_channels import Severity
from flows.config_incidents import IncidentsConfig

RANK: dict[str, int] = {"warning": 1, "critical": 2}
Judgement = Literal["false alarm", "true alarm"]  # what people say of an alarm
MessageKind = Literal["alarm", "reminder", "acknowledged", "escalated", "resolved", "missing", "failing", "stream"]
LASTING: dict[str, MessageKind] = {"missing": "missing", "stopped": "missing", "failing": "failing", "stream": "stream"}
"""What lasts until it is over, and batches have no say in: the kind of incident, and of the message that opens it."""


@dataclass(frozen=True)
class Finding:
    """What is wrong: its kind, how badly, and the alert that says so.

    Attributes:
        kind: what is wrong with a batch (defects, unreadable, ...), or one of LASTING.
        alert: the document that channels would send of it, as JSON values.
    """

    kind: str
    severity: Severity
    alert: Mapping[str, Any]


@dataclass(frozen=True)
class Incident:
    """One matter: alarms of one pipeline and kind that belong together, and what people were told of it.

    Attributes:
        key: the same on every ledger for the same beginning; the messages' dedupe keys begin with it.
        alert: of the newest alarm in it.
        first_place: the place in the stream of its first batch.
        last_place: the place of the newest batch that counted for it, alarming or clean.
        last_alarm_at: when its last alarm was raised, as the clock says.
        clean: clean batches in a row since its last alarm.
        told: names of the channels that heard of it.
        spoken_at: when the last message was due.
        judgement: what people say of its batches' alarms, true where of any; None where nothing.
        number: short, for people; 0 before the ledger has given it one.
    """

    pipeline: str
    kind: str
    key: str
    severity: Severity
    alert: Mapping[str, Any]
    opened_at: datetime
    first_place: datetime
    last_place: datetime
    last_alarm_at: datetime
    batches: int = 1
    clean: int = 0
    told: tuple[str, ...] = ()
    escalated: bool = False
    spoken_at: datetime | None = None
    reminders: int = 0
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None
    comment: str | None = None
    closed_at: datetime | None = None
    closed_by: str | None = None
    judgement: Judgement | None = None
    number: int = 0


@dataclass(frozen=True)
class Message:
    """What the channels of these names are to hear of an incident; the key is the same for every copy."""

    kind: MessageKind
    dedupe_key: str
    channels: tuple[str, ...]


def begun(pipeline: str, finding: Finding, origin: str, place: datetime, now: datetime) -> Incident:
    """A new incident; `origin` is what began it: the key of a batch, or since when something did not happen."""
    key = key_of(pipeline, finding.kind, origin)
    return Incident(pipeline, finding.kind, key, finding.severity, finding.alert, now, place, place, now)


def key_of(pipeline: str, kind: str, origin: str) -> str:
    """The SHA-256 (hex) of what an incident is known by."""
    return hashlib.sha256(json.dumps([pipeline, kind, origin]).encode()).hexdigest()


def alarmed(incident: Incident, finding: Finding, place: datetime, now: datetime) -> Incident:
    """The incident with another alarming batch; a late one adds to it and says nothing of how things stand now."""
    worst = max(incident.severity, finding.severity, key=RANK.__getitem__)
    joined = replace(incident, severity=worst, batches=incident.batches + 1)
    if place < incident.last_place:
        return replace(joined, first_place=min(place, incident.first_place))
    return replace(joined, alert=finding.alert, last_place=place, last_alarm_at=now, clean=0)


def passed(incident: Incident, place: datetime) -> Incident:
    """The incident after a clean batch; one from before the newest that counted, scored late, changes nothing."""
    if place < incident.last_place:
        return incident
    return replace(incident, last_place=place, clean=incident.clean + 1)


def covers(incident: Incident, severity: Severity, place: datetime) -> bool:
    """Whether an alarm scored late was part of this closed incident, so that people have heard of it.

    Not where they called it a false alarm: nobody has said so of this one.
    """
    within = incident.first_place <= place < incident.last_place and incident.judgement != "false alarm"
    return within and RANK[severity] <= RANK[incident.severity]


def acknowledged(
    incident: Incident, by: str, comment: str, audience: Mapping[str, Severity], now: datetime
) -> tuple[Incident, tuple[Message, ...]]:
    """The incident as someone's own, with no reminder and no escalation from here on, and the message that says so."""
    incident = replace(incident, acknowledged_at=now, acknowledged_by=by, comment=comment or None)
    return incident, _to_told(incident, "acknowledged", f"acknowledged/{by}", audience)


def settled(
    incident: Incident, before: Incident | None, rules: IncidentsConfig, audience: Mapping[str, Severity], now: datetime
) -> tuple[Incident, tuple[Message, ...]]:
    """The incident as it stands `now`, and the messages that came due; nothing where it was closed already.

    Args:
        before: what it was before this happened; None where it is new.
        audience: the least severity that each channel hears of, by the channel's name.
    """
    if incident.closed_at is not None:
        return incident, ()
    risen = before is not None and before.severity != incident.severity
    incident, messages = _told(_escalated(incident, risen, rules, now), risen, rules, audience, now)
    if _is_over(incident, rules, now):
        incident, resolved = closed(incident, "", audience, now)
        return incident, messages + (resolved if rules.close_after else ())
    if _reminder_is_due(incident, rules, now):
        incident, reminder = _reminded(incident, audience, now)
        messages += reminder
    return incident, messages


def closed(
    incident: Incident, by: str, audience: Mapping[str, Severity], now: datetime, comment: str = ""
) -> tuple[Incident, tuple[Message, ...]]:
    """The incident closed, and the message to everyone who had heard of it; `by` is '' where it closed by itself."""
    incident = replace(incident, closed_at=now, closed_by=by or None, comment=comment or incident.comment)
    return incident, _to_told(incident, "resolved", "resolved", audience)


def _escalated(incident: Incident, risen: bool, rules: IncidentsConfig, now: datetime) -> Incident:
    if not rules.escalate_to or incident.acknowledged_at is not None:
        return incident
    long = now - incident.opened_at >= rules.escalate_after and not _is_quiet(incident, rules)
    return replace(incident, escalated=incident.escalated or risen or long)


def _told(
    incident: Incident, risen: bool, rules: IncidentsConfig, audience: Mapping[str, Severity], now: datetime
) -> tuple[Incident, tuple[Message, ...]]:
    """Those told that have not heard of it and want to, and those that heard of a warning of what is critical now."""
    wanting = [
        name
        for name, least in audience.items()
        if RANK[least] <= RANK[incident.severity] and (incident.escalated or name not in rules.escalate_to)
    ]
    first = [name for name in wanting if name not in incident.told]
    opening = LASTING.get(incident.kind, "alarm")
    messages = [
        Message(opening, f"{incident.key}/first", tuple(name for name in first if name not in rules.escalate_to)),
        Message("escalated", f"{incident.key}/first", tuple(name for name in first if name in rules.escalate_to)),
        *(_to_told(incident, "escalated", incident.severity, audience) if risen else ()),
    ]
    messages = [message for message in messages if message.channels]
    spoken_at = now if messages else incident.spoken_at
    return replace(incident, told=(*incident.told, *first), spoken_at=spoken_at), tuple(messages)


def _reminded(
    incident: Incident, audience: Mapping[str, Severity], now: datetime
) -> tuple[Incident, tuple[Message, ...]]:
    number = incident.reminders + 1
    reminder = _to_told(incident, "reminder", f"reminder/{number}", audience)
    return replace(incident, reminders=number, spoken_at=now), reminder


def _to_told(incident: Incident, kind: MessageKind, end: str, audience: Mapping[str, Severity]) -> tuple[Message, ...]:
    names = tuple(name for name in incident.told if name in audience)  # others are no longer configured
    return (Message(kind, f"{incident.key}/{end}", names),) if names else ()


def _is_quiet(incident: Incident, rules: IncidentsConfig) -> bool:
    return incident.kind not in LASTING and incident.clean >= rules.close_after


def _is_over(incident: Incident, rules: IncidentsConfig, now: datetime) -> bool:
    cooled = now - incident.last_alarm_at >= rules.cool_down or rules.close_after == 0
    return _is_quiet(incident, rules) and cooled


def _reminder_is_due(incident: Incident, rules: IncidentsConfig, now: datetime) -> bool:
    if rules.remind_every is None or incident.acknowledged_at is not None or _is_quiet(incident, rules):
        return False
    return incident.spoken_at is not None and now - incident.spoken_at >= rules.remind_every
