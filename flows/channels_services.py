"""Alerts through services that pass them on: PagerDuty, and whatever apprise knows."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from flows.alerts import DeliveryFailed, Kind, Tone, tone
from flows.channels_http import TIMEOUT, addresses_unlogged, post
from flows.ledger import utc_now
from flows.words import one_line

SUMMARY, KEY = 1024, 255  # characters, which PagerDuty takes at most

_ACTIONS: Mapping[Kind, str] = {"acknowledged": "acknowledge", "resolved": "resolve"}  # all others trigger
_SEVERITIES: Mapping[Tone, str] = {"good": "info", "info": "info", "warning": "warning", "critical": "critical"}
_APPRISE_TYPES: Mapping[Tone, str] = {"good": "success", "info": "info", "warning": "warning", "critical": "failure"}


@dataclass(frozen=True)
class PagerDutyChannel:
    """An event to PagerDuty's Events API v2; all messages of one incident go to one alert there.

    Attributes:
        routing_key: gives the integration's secret key.
        url: the service's address.
    """

    name: str
    routing_key: Callable[[], str] = field(repr=False)
    url: str
    timeout: float = TIMEOUT
    clock: Callable[[], datetime] = field(default=utc_now, repr=False)

    def send(self, payload: Mapping[str, Any]) -> None:
        """Triggers, acknowledges or resolves; any answer but 2xx, and none in time, raises DeliveryFailed."""
        event = {"routing_key": self.routing_key(), **pagerduty_event(payload, self.clock())}
        post(f"PagerDuty '{self.name}'", self.url, event, timeout=self.timeout)


def pagerduty_event(payload: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """The event without its routing key."""
    key = payload["incident"]
    event: dict[str, Any] = {
        "event_action": _ACTIONS.get(payload["kind"], "trigger"),
        "dedup_key": key if len(key) <= KEY else hashlib.sha256(key.encode()).hexdigest(),
    }
    if event["event_action"] != "trigger":
        return event
    if payload["run_url"]:
        event["links"] = [{"href": payload["run_url"], "text": "See the pictures"}]
        event["links"] += [{"href": url, "text": "Label its images"} for url in [payload.get("review_url")] if url]
    details = {key: payload[key] for key in ("kind", "batch", "sentences", "worst", "verdict")}
    about = {
        "summary": one_line(payload["title"], SUMMARY),
        "source": payload["pipeline"],
        "severity": _SEVERITIES[tone(payload)],
        "timestamp": now.isoformat(),
        "class": payload["verdict"].get("diagnosis", payload["kind"]),
        "custom_details": details,
    }
    return {**event, "client": "reconwatch", "payload": about}


@dataclass(frozen=True)
class AppriseChannel:
    """A message through one of the services that apprise knows.

    Attributes:
        url: the secret address, in apprise's form.
    """

    name: str
    url: str = field(repr=False)

    def send(self, payload: Mapping[str, Any]) -> None:
        """Sends the alert as plain text; raises DeliveryFailed where apprise could not."""
        import apprise

        who = f"apprise '{self.name}'"
        asset = apprise.AppriseAsset(app_id="reconwatch", async_mode=False, http_redirects=False)
        with addresses_unlogged():
            service = apprise.Apprise(asset=asset)
            if not service.add(self.url) or len(service) != 1:
                raise DeliveryFailed(f"{who} needs one address of a service that apprise knows, such as discord://...")
            arrived = service.notify(
                title=one_line(payload["title"]),
                body=payload["text"],
                notify_type=apprise.NotifyType(_APPRISE_TYPES[tone(payload)]),
                body_format=apprise.NotifyFormat.TEXT,  # so that apprise escapes it where the service reads markup
            )
        if not arrived:
            raise DeliveryFailed(f"{who} could not deliver it; apprise does not say why", unreachable=True)
