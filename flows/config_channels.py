"""What pipelines.yaml says of the channels that carry alerts to people."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, SecretStr, Tag, field_validator, model_validator

from flows.config_types import Name, Part, Text, chosen_by, shorthand, web_address

Severity = Literal["warning", "critical"]


class ChannelPart(Part):
    """What every channel has in common."""

    minimum_severity: Severity = Field(
        default="warning", description="how bad it must be for the channel to be told: warning or critical"
    )

    def wants(self, severity: Severity) -> bool:
        """Whether a message of that severity is for this channel."""
        return severity == "critical" or self.minimum_severity == "warning"


class LogChannel(ChannelPart):
    """Alerts in the log."""

    name: ClassVar[str] = "log"
    type: Literal["log"] = Field(default="log", description="a line in the log")


class WebhookChannel(ChannelPart):
    """Alerts to a web address."""

    type: Literal["webhook"] = Field(default="webhook", description="a request to a web address")
    name: Name = Field(default="webhook", description="the channel's name, its own within the pipeline")
    url: SecretStr | None = Field(
        default=None, description="the address (http or https); secret, so better as ${VARIABLE}"
    )
    block: Text | None = Field(
        default=None, description="the name of a Custom Webhook block saved in Prefect, instead of url"
    )

    @field_validator("url")
    @classmethod
    def _is_web_address(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            web_address(url.get_secret_value())
        return url

    @model_validator(mode="after")
    def _one_address(self) -> Self:
        if (self.url is None) == (self.block is None):
            raise ValueError("a webhook needs either url or block (the name of a block saved in Prefect), not both")
        return self


CHANNELS: dict[str, type[BaseModel]] = {"log": LogChannel, "webhook": WebhookChannel}
ChannelUnion = Annotated[LogChannel, Tag("<LogChannel>")] | Annotated[WebhookChannel, Tag("<WebhookChannel>")]
Channel = Annotated[
    ChannelUnion,
    chosen_by("type", CHANNELS),
    BeforeValidator(shorthand("type", "log"), json_schema_input_type=ChannelUnion | Literal["log"]),
]
