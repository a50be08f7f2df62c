"""What pipelines.yaml says of incidents: which alarms are one matter, and when people hear of it again."""

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer

from flows.config_types import NOT_BOOLEAN, Name, Part

DURATION = r"^([1-9][0-9]{0,5}) ?(s|min|h|d)$"
SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}


def _duration(value: object) -> object:
    if isinstance(value, timedelta):
        return value
    written = re.fullmatch(DURATION, str(value))
    if written is None:
        raise ValueError(f"{value!r} is not a time: write a whole number and its unit, such as 90s, 30min, 2h or 1d")
    return timedelta(seconds=int(written[1]) * SECONDS[written[2]])


def read_duration(text: str) -> timedelta:
    """The time that a person wrote, as in the file; raises ValueError that says how."""
    found = _duration(text)
    assert isinstance(found, timedelta)
    return found


def in_words(time: timedelta) -> str:
    """The time as it is written in the file, in the largest unit that it is a whole number of."""
    seconds = int(time.total_seconds())
    unit = next(unit for unit in reversed(SECONDS) if seconds % SECONDS[unit] == 0)
    return f"{seconds // SECONDS[unit]}{unit}"


Duration = Annotated[
    timedelta,
    BeforeValidator(_duration, json_schema_input_type=Annotated[str, Field(pattern=DURATION)]),
    PlainSerializer(in_words, when_used="json"),
]


class IncidentsConfig(Part):
    """Which alarms are one incident, and when people hear of it again."""

    close_after: Annotated[int, Field(ge=0), NOT_BOOLEAN] = Field(
        default=3,
        description="clean batches in a row that close an incident; 0 makes each alarming batch one of its own",
    )
    cool_down: Duration = Field(
        default="1h", validate_default=True, description="no incident closes sooner than this after its last alarm"
    )
    remind_every: Duration | None = Field(
        default="8h",
        validate_default=True,
        description="time between reminders while nobody acknowledged it; null for none",
    )
    escalate_after: Duration = Field(
        default="1h",
        validate_default=True,
        description="time without an acknowledgement after which escalate_to is told",
    )
    escalate_to: tuple[Name, ...] = Field(
        default=(), description="channels under alerts that hear of an incident only once it is escalated"
    )
