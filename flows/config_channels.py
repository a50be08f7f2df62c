"""What pipelines.yaml says of the channels that carry alerts to people."""

import base64
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, SecretStr, Tag, model_validator

from flows.config_types import (
    HOST,
    MAIL_ADDRESS,
    NOT_BOOLEAN,
    Name,
    Part,
    Text,
    chosen_by,
    shorthand,
    web_address,
)

Severity = Literal["warning", "critical"]
About = Literal["defects", "moved", "unreadable", "stream", "missing", "stopped", "failing"]
ABOUT: tuple[About, ...] = get_args(About)

SECRET_MARK = "whsec_"  # what signing secrets begin with, by Standard Webhooks
SMTP_PORTS: Mapping[str, int] = {"starttls": 587, "tls": 465, "none": 25}


class ChannelPart(Part):
    """What every channel has in common."""

    minimum_severity: Severity = Field(
        default="warning", description="how bad it must be for the channel to be told: warning or critical"
    )
    about: tuple[About, ...] = Field(
        default=ABOUT, description=f"the kinds of incident that the channel hears of, of {', '.join(ABOUT)}"
    )


class LogChannel(ChannelPart):
    """Alerts in the log."""

    name: ClassVar[str] = "log"
    type: Literal["log"] = Field(default="log", description="a line in the log")


def _one_of(url: object, block: object, wanted: str, kind: str) -> None:
    if (url is None) == (block is None):
        raise ValueError(f"needs either {wanted} or block (the name of a {kind} block saved in Prefect), not both")


def _secret_address(url: SecretStr | None) -> SecretStr | None:
    if url is not None:
        web_address(url.get_secret_value())
    return url


def _signing_secret(secret: SecretStr | None) -> SecretStr | None:
    if secret is not None:
        try:
            key = base64.b64decode(secret.get_secret_value().removeprefix(SECRET_MARK), validate=True)
        except ValueError:
            key = b""
        if not 24 <= len(key) <= 64:
            raise ValueError(
                "must be whsec_ and 24 to 64 random bytes in base64: echo whsec_$(openssl rand -base64 32)"
            )
    return secret


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, str) else value


SecretAddress = Annotated[SecretStr | None, AfterValidator(_secret_address)]
MailAddress = Annotated[str, Field(pattern=MAIL_ADDRESS, max_length=254)]


class WebhookChannel(ChannelPart):
    """Alerts to a web address."""

    type: Literal["webhook"] = Field(default="webhook", description="a request to a web address")
    name: Name = Field(default="webhook", description="the channel's name, its own within the pipeline")
    url: SecretAddress = Field(
        default=None, description="the address (http or https); secret, so better as ${VARIABLE}"
    )
    block: Text | None = Field(
        default=None, description="the name of a Custom Webhook block saved in Prefect, instead of url"
    )
    secret: Annotated[SecretStr | None, AfterValidator(_signing_secret)] = Field(
        default=None, description="what requests to url are signed with (Standard Webhooks), whsec_... as ${VARIABLE}"
    )

    @model_validator(mode="after")
    def _one_address(self) -> Self:
        _one_of(self.url, self.block, "url", "Custom Webhook")
        if self.secret is not None and self.block is not None:
            raise ValueError("secret signs requests to url, and a block has its own form: leave one of them out")
        return self


class SlackChannel(ChannelPart):
    """Alerts to a room in Slack."""

    type: Literal["slack"] = Field(default="slack", description="a message in Slack")
    name: Name = Field(default="slack", description="the channel's name, its own within the pipeline")
    url: SecretAddress = Field(default=None, description="an incoming webhook's secret address, as ${VARIABLE}")
    block: Text | None = Field(
        default=None, description="the name of a Slack Webhook block saved in Prefect, instead of url"
    )

    @model_validator(mode="after")
    def _one_address(self) -> Self:
        _one_of(self.url, self.block, "url", "Slack Webhook")
        return self


class TeamsChannel(ChannelPart):
    """Alerts to a room in Microsoft Teams."""

    type: Literal["teams"] = Field(default="teams", description="a card in Microsoft Teams")
    name: Name = Field(default="teams", description="the channel's name, its own within the pipeline")
    url: SecretAddress = Field(default=None, description="a workflow's secret address, as ${VARIABLE}")
    block: Text | None = Field(
        default=None, description="the name of a Microsoft Teams Webhook block saved in Prefect, instead of url"
    )

    @model_validator(mode="after")
    def _one_address(self) -> Self:
        _one_of(self.url, self.block, "url", "Microsoft Teams Webhook")
        return self


class EmailChannel(ChannelPart):
    """Alerts by e-mail."""

    type: Literal["email"] = Field(default="email", description="a mail with the worst images inside")
    name: Name = Field(default="email", description="the channel's name, its own within the pipeline")
    host: Annotated[str, Field(pattern=HOST)] = Field(description="the SMTP server")
    port: Annotated[int, Field(ge=1, le=65535), NOT_BOOLEAN] | None = Field(
        default=None, description="its port; by default 587 with starttls, 465 with tls, 25 with none"
    )
    security: Literal["starttls", "tls", "none"] = Field(
        default="starttls", description="how the connection is encrypted"
    )
    user: Text | None = Field(default=None, description="who logs in; by default nobody does")
    password: SecretStr | None = Field(default=None, description="the user's password, as ${VARIABLE}")
    sender: MailAddress = Field(alias="from", description="the address that the mail comes from")
    to: Annotated[
        tuple[MailAddress, ...],
        Field(min_length=1, max_length=50),
        BeforeValidator(_one_or_more, json_schema_input_type=MailAddress | list[MailAddress]),
    ] = Field(description="the address, or addresses, that it goes to")

    @model_validator(mode="after")
    def _keeps_the_password(self) -> Self:
        if (self.user is None) != (self.password is None):
            raise ValueError("needs both user and password, or neither")
        if self.password is not None and self.security == "none":
            raise ValueError("with security: none anybody could read the password on its way: use starttls or tls")
        return self


class PagerDutyChannel(ChannelPart):
    """Alerts to whoever is on call by PagerDuty."""

    type: Literal["pagerduty"] = Field(default="pagerduty", description="an alert in PagerDuty (Events API v2)")
    name: Name = Field(default="pagerduty", description="the channel's name, its own within the pipeline")
    routing_key: SecretStr | None = Field(default=None, description="the integration's secret key, as ${VARIABLE}")
    block: Text | None = Field(
        default=None, description="the name of a Pager Duty Webhook block saved in Prefect, instead of routing_key"
    )
    url: Annotated[str, AfterValidator(web_address)] = Field(
        default="https://events.pagerduty.com/v2/enqueue",
        description="the service's address; in the EU, https://events.eu.pagerduty.com/v2/enqueue",
    )

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        _one_of(self.routing_key, self.block, "routing_key", "Pager Duty Webhook")
        return self


class AppriseChannel(ChannelPart):
    """Alerts through one of the services that apprise knows."""

    type: Literal["apprise"] = Field(default="apprise", description="a message through a service that apprise knows")
    name: Name = Field(default="apprise", description="the channel's name, its own within the pipeline")
    url: SecretStr = Field(min_length=1, description="its secret address in apprise's form, as ${VARIABLE}")


class PrefectEventChannel(ChannelPart):
    """Alerts as events in Prefect."""

    type: Literal["prefect_event"] = Field(
        default="prefect_event", description="an event in Prefect, for automations to react to"
    )
    name: Name = Field(default="prefect-event", description="the channel's name, its own within the pipeline")


CHANNELS: dict[str, type[BaseModel]] = {
    "log": LogChannel,
    "webhook": WebhookChannel,
    "slack": SlackChannel,
    "teams": TeamsChannel,
    "email": EmailChannel,
    "pagerduty": PagerDutyChannel,
    "apprise": AppriseChannel,
    "prefect_event": PrefectEventChannel,
}
SECRET_KEYS: Mapping[str, tuple[str, ...]] = {
    "webhook": ("secret",),  # not url: that of a receiver of one's own is no secret
    "slack": ("url",),
    "teams": ("url",),
    "email": ("password",),
    "pagerduty": ("routing_key",),
    "apprise": ("url",),
}
"""What must not stand in the file itself, by the channel's type."""
AnyChannel = (
    LogChannel
    | WebhookChannel
    | SlackChannel
    | TeamsChannel
    | EmailChannel
    | PagerDutyChannel
    | AppriseChannel
    | PrefectEventChannel
)
ChannelUnion = (
    Annotated[LogChannel, Tag("<LogChannel>")]
    | Annotated[WebhookChannel, Tag("<WebhookChannel>")]
    | Annotated[SlackChannel, Tag("<SlackChannel>")]
    | Annotated[TeamsChannel, Tag("<TeamsChannel>")]
    | Annotated[EmailChannel, Tag("<EmailChannel>")]
    | Annotated[PagerDutyChannel, Tag("<PagerDutyChannel>")]
    | Annotated[AppriseChannel, Tag("<AppriseChannel>")]
    | Annotated[PrefectEventChannel, Tag("<PrefectEventChannel>")]
)
Channel = Annotated[
    ChannelUnion,
    chosen_by("type", CHANNELS),
    BeforeValidator(shorthand("type", "log"), json_schema_input_type=ChannelUnion | Literal["log"]),
]
