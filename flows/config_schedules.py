"""What pipelines.yaml says of schedules: when a pipeline is scored, recalibrated, retrained and reviewed."""

from datetime import datetime, timedelta
from typing import Annotated, Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, Tag, field_validator

from flows.config_incidents import Duration, read_duration
from flows.config_types import Part, chosen_by_keys

Work = Literal["score", "recalibrate", "retrain", "review"]
WORKS: tuple[Work, ...] = get_args(Work)
EVERY_FIVE_MINUTES = timedelta(minutes=5)


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"{name!r} is no time zone: write one such as UTC, Europe/Berlin or America/New_York"
        ) from None
    return name


def _cron(text: str) -> str:
    try:
        if len(text.split()) != 5:
            raise CronSimError("not five fields")
        next(CronSim(text, datetime(2024, 1, 1)))
    except (CronSimError, StopIteration) as error:
        why = str(error) or "it never comes"
        raise ValueError(
            f"{text!r} is no cron schedule ({why}): write minute, hour, day of month, month and day of week, such as "
            "'*/15 * * * *' or '30 6 * * 1-5'"
        ) from None
    return text


def _rrule(text: str) -> str:
    from dateutil.rrule import rrulestr

    try:
        rrulestr(text)
    except (ValueError, TypeError, AttributeError) as error:
        why = f" ({error})" if str(error).startswith("invalid") else ""  # its other words are for programmers
        raise ValueError(
            f"{text!r} is no recurrence rule{why}: write one of RFC 5545, such as FREQ=MONTHLY;BYDAY=1MO;BYHOUR=3"
        ) from None
    return text


TimeZone = Annotated[str, AfterValidator(_zone)]


class CronSchedule(Part):
    """Whenever the clock of a time zone shows what five cron fields say."""

    cron: Annotated[str, AfterValidator(_cron)] = Field(
        description="minute, hour, day of month, month, day of week, such as '30 6 * * 1-5'"
    )
    timezone: TimeZone | None = Field(default=None, description="whose clock counts; by default that of the section")


class IntervalSchedule(Part):
    """Again and again after the same time, whatever the clocks do; counted from midnight UTC."""

    interval: Duration = Field(description="the time between two runs, such as 15min")

    @field_validator("interval")
    @classmethod
    def _long_enough(cls, interval: timedelta) -> timedelta:
        if interval < timedelta(seconds=10):
            raise ValueError("is shorter than a run takes to start: write 10s or more")
        return interval


class RecurrenceSchedule(Part):
    """Whenever a recurrence rule of RFC 5545 says, in a time zone."""

    rrule: Annotated[str, AfterValidator(_rrule)] = Field(description="such as FREQ=MONTHLY;BYDAY=1MO;BYHOUR=3")
    timezone: TimeZone | None = Field(default=None, description="whose clock counts; by default that of the section")


SCHEDULES: dict[str, type[BaseModel]] = {
    "cron": CronSchedule,
    "interval": IntervalSchedule,
    "rrule": RecurrenceSchedule,
}


def _from_text(value: object) -> object:
    """A text alone is an interval where it is a time, a recurrence rule where it says FREQ=, and cron otherwise."""
    if not isinstance(value, str):
        return value
    try:
        read_duration(value)
    except ValueError:
        return {"rrule": value} if "FREQ=" in value.upper() else {"cron": value}
    return {"interval": value}


ScheduleModel = (
    Annotated[CronSchedule, Tag("<CronSchedule>")]
    | Annotated[IntervalSchedule, Tag("<IntervalSchedule>")]
    | Annotated[RecurrenceSchedule, Tag("<RecurrenceSchedule>")]
)
Schedule = Annotated[
    ScheduleModel,
    chosen_by_keys(SCHEDULES, "a cron schedule, a time such as 15min"),
    BeforeValidator(_from_text, json_schema_input_type=ScheduleModel | str),
]


class ScheduleConfig(Part):
    """When `reconwatch serve` and work pools do what with a pipeline; null is never."""

    timezone: TimeZone = Field(default="UTC", description="whose clock counts where a schedule names none")
    score: Schedule | None = Field(
        default=IntervalSchedule(interval=EVERY_FIVE_MINUTES),
        description="whatever is due: new batches are scored, once the pipeline is trained and calibrated",
    )
    recalibrate: Schedule | None = Field(
        default=None, description="a threshold from the random audit, which decides at once"
    )
    retrain: Schedule | None = Field(default=None, description="a challenger, which decides nothing yet")
    review: Schedule | None = Field(default=None, description="labels are taken in, precision and misses measured")
    watch: bool = Field(
        default=False, description="reconwatch serve scores a batch within seconds of being complete, beside `score`"
    )

    def over(self, common: "ScheduleConfig") -> "ScheduleConfig":
        """These schedules, and those of `common`, in its time zone, where these say nothing."""
        own = {name: getattr(self, name) for name in WORKS if name in self.model_fields_set}
        zone = self.timezone if "timezone" in self.model_fields_set else common.timezone
        watch = self.watch if "watch" in self.model_fields_set else common.watch
        return ScheduleConfig(timezone=zone, watch=watch, **{name: common.zoned(name) for name in WORKS} | own)

    def zoned(self, work: Work) -> CronSchedule | IntervalSchedule | RecurrenceSchedule | None:
        """The schedule of that work, with the time zone that counts for it."""
        schedule: CronSchedule | IntervalSchedule | RecurrenceSchedule | None = getattr(self, work)
        if schedule is None or isinstance(schedule, IntervalSchedule) or schedule.timezone is not None:
            return schedule
        return schedule.model_copy(update={"timezone": self.timezone})
