"""The channels that carry alerts to people, made from a pipeline's `alerts`."""

import base64
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, assert_never

from pydantic import SecretStr

from flows import config_channels as config
from flows.alerts import Alert, Channel, DeliveryReport, deliver
from flows.channels_chat import SlackChannel, TeamsChannel
from flows.channels_email import EmailChannel, Pictures, no_picture
from flows.channels_http import WebhookChannel
from flows.channels_prefect import BlockType, PrefectEventChannel, SavedWebhookChannel, saved_secret
from flows.channels_services import AppriseChannel, PagerDutyChannel
from flows.config import Settings
from flows.ledger import Ledger
from flows.words import one_line

_LOGGER = logging.getLogger("reconwatch.alerts")


@dataclass(frozen=True)
class LogChannel:
    """One warning a alert, on one line, to the logger `reconwatch.alerts`."""

    name: str = "log"

    def send(self, payload: Mapping[str, Any]) -> None:
        """Logs the alert's text; line breaks and control characters, which file names may hold, become spaces."""
        _LOGGER.warning("%s", one_line(payload["text"]))


def channels(configured: Sequence[config.AnyChannel], pictures: Pictures = no_picture) -> dict[str, Channel]:
    """The channels of one pipeline by name, from its `alerts`; `pictures` gives the contact sheets of e-mails."""
    return {channel.name: _channel(channel, pictures) for channel in configured}


def send_due(ledger: Ledger, settings: Settings, pictures: Pictures = no_picture) -> DeliveryReport:
    """Sends every alert of every pipeline that is due, those that could not be sent before included."""
    return deliver(ledger, _ChannelsOf(settings, pictures))


class _ChannelsOf(Mapping[str, Mapping[str, Channel]]):
    """The channels of each pipeline, made when they are first asked for: of a thousand pipelines few have any to do."""

    def __init__(self, settings: Settings, pictures: Pictures) -> None:
        self._settings, self._pictures = settings, pictures
        self._made = dict[str, Mapping[str, Channel]]()

    def __getitem__(self, name: str) -> Mapping[str, Channel]:
        if name not in self._made:
            self._made[name] = channels(self._settings.pipelines[name].alerts, self._pictures)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._settings.pipelines)

    def __len__(self) -> int:
        return len(self._settings.pipelines)


def _channel(configured: config.AnyChannel, pictures: Pictures) -> Channel:
    match configured:
        case config.LogChannel():
            return LogChannel(configured.name)
        case config.WebhookChannel():
            return _webhook(configured)
        case config.SlackChannel():
            return SlackChannel(configured.name, _secret(configured.url, "Slack Webhook", configured.block))
        case config.TeamsChannel():
            return TeamsChannel(configured.name, _secret(configured.url, "Microsoft Teams Webhook", configured.block))
        case config.EmailChannel():
            return _email(configured, pictures)
        case config.PagerDutyChannel():
            key = _secret(configured.routing_key, "Pager Duty Webhook", configured.block)
            return PagerDutyChannel(configured.name, key, configured.url)
        case config.AppriseChannel():
            return AppriseChannel(configured.name, configured.url.get_secret_value())
        case config.PrefectEventChannel():
            return PrefectEventChannel(configured.name)
        case _:
            assert_never(configured)


def _webhook(configured: config.WebhookChannel) -> Channel:
    if configured.block is not None:
        return SavedWebhookChannel(configured.name, configured.block)
    secret = configured.secret
    key = base64.b64decode(secret.get_secret_value().removeprefix(config.SECRET_MARK)) if secret else None
    return WebhookChannel(configured.name, _value(configured.url), key)


def _email(configured: config.EmailChannel, pictures: Pictures) -> Channel:
    return EmailChannel(
        name=configured.name,
        host=configured.host,
        port=configured.port or config.SMTP_PORTS[configured.security],
        security=configured.security,
        sender=configured.sender,
        recipients=configured.to,
        user=configured.user,
        password=_value(configured.password) or None,
        pictures=pictures,
    )


def _secret(given: SecretStr | None, kind: BlockType, block: str | None) -> Callable[[], str]:
    """What gives the secret when it is needed: blocks are asked for at each message, as they may change."""
    return partial(saved_secret, kind, block) if block is not None else partial(_value, given)


def _value(secret: SecretStr | None) -> str:
    return secret.get_secret_value() if secret else ""


def trial_alert(pipeline: str, channel: str, now: datetime) -> Alert:
    """A message that says that it is a test, and nothing else."""
    return Alert(
        pipeline=pipeline,
        batch=None,
        verdict={},
        sentences=f"This is a test of the channel {channel}, sent by hand at {now:%Y-%m-%d %H:%M:%S} UTC: nothing is "
        "wrong, and nothing needs to be done. Alerts will arrive like this.",
        worst=(),
        run_url=None,
        dedupe_key=f"test/{pipeline}/{channel}/{now:%Y%m%dT%H%M%S%f}",
        kind="test",
    )
