"""The section `schedule` of pipelines.yaml: what it means, whose counts, and what is said of its faults."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from ae_models.errors import InputError
from flows.config import load
from flows.config_schedules import CronSchedule, IntervalSchedule, RecurrenceSchedule, ScheduleConfig

FIRST_SUNDAY = "FREQ=MONTHLY;BYDAY=1SU;BYHOUR=3;BYMINUTE=0;BYSECOND=0"
Schedules = Callable[..., ScheduleConfig]


@pytest.fixture
def schedules(tmp_path: Path) -> Schedules:
    """A reader of a pipeline's schedules, from its own section and that of the file."""

    def read(own: str, common: str = "") -> ScheduleConfig:
        path = tmp_path / "pipelines.yaml"
        section = f"schedule: {{{common}}}\n" if common else ""
        path.write_text(f"{section}pipelines:\n  tiles: {{data: {{nominal: ok}}, schedule: {{{own}}}}}\n")
        return load(path, {}).pipeline("tiles").schedule

    return read


def test_by_default_whatever_is_due_is_done_every_five_minutes(schedules: Schedules) -> None:
    """A pipeline without a word on schedules is scored, and nothing else happens by itself."""
    schedule = schedules("")
    assert schedule.zoned("score") == IntervalSchedule(interval=timedelta(minutes=5))
    assert [schedule.zoned(work) for work in ("recalibrate", "retrain", "review")] == [None, None, None]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("15min", IntervalSchedule(interval=timedelta(minutes=15))),
        ("'30 6 * * 1-5'", CronSchedule(cron="30 6 * * 1-5", timezone="UTC")),
        (FIRST_SUNDAY, RecurrenceSchedule(rrule=FIRST_SUNDAY, timezone="UTC")),
        ("{interval: 2h}", IntervalSchedule(interval=timedelta(hours=2))),
        ("{cron: 0 0 L * *, timezone: Asia/Tokyo}", CronSchedule(cron="0 0 L * *", timezone="Asia/Tokyo")),
        ("'rrule:freq=daily'", RecurrenceSchedule(rrule="rrule:freq=daily", timezone="UTC")),
        ("null", None),
    ],
)
def test_the_forms_of_a_schedule(schedules: Schedules, text: str, expected: object) -> None:
    """A time, five cron fields or a recurrence rule, as a text or as a mapping; null is never."""
    assert schedules(f"score: {text}").zoned("score") == expected


def test_what_a_pipeline_does_not_say_is_as_in_the_file(schedules: Schedules) -> None:
    """Key by key; each schedule keeps the time zone of the section that it stands in."""
    common = "timezone: Europe/Berlin, score: 1h, review: 0 7 * * *, retrain: 0 3 * * 0"
    schedule = schedules("timezone: Asia/Tokyo, score: 0 6 * * *, retrain: null", common)
    assert schedule.zoned("score") == CronSchedule(cron="0 6 * * *", timezone="Asia/Tokyo")
    assert schedule.zoned("review") == CronSchedule(cron="0 7 * * *", timezone="Europe/Berlin")
    assert schedule.zoned("retrain") is None
    assert schedules("score: 0 6 * * *", common).zoned("score") == CronSchedule(
        cron="0 6 * * *", timezone="Europe/Berlin"
    )


def test_watching_is_off_unless_a_section_says_otherwise(schedules: Schedules) -> None:
    """The pipeline's own word counts more than that of the file."""
    assert not schedules("").watch
    assert schedules("watch: true").watch
    assert schedules("", "watch: true").watch
    assert not schedules("watch: false", "watch: true").watch


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "score: 61 * * * *",
            "schedule.score: '61 * * * *' is no cron schedule (Bad minute): write minute, hour, day of month, month "
            "and day of week, such as '*/15 * * * *' or '30 6 * * 1-5'",
        ),
        ("score: 0 0 31 2 *", "schedule.score: '0 0 31 2 *' is no cron schedule (Bad day-of-month)"),
        ("score: '@daily'", "schedule.score: '@daily' is no cron schedule (not five fields)"),
        ("score: soon", "schedule.score: 'soon' is no cron schedule (not five fields)"),
        (
            "score: 5s",
            "schedule.score: is shorter than a run takes to start: write 10s or more",
        ),
        (
            "timezone: Mars/Base",
            "schedule.timezone: 'Mars/Base' is no time zone: write one such as UTC, Europe/Berlin or America/New_York",
        ),
        ("timezone: ../etc/passwd", "schedule.timezone: '../etc/passwd' is no time zone"),
        ("score: {cron: 0 6 * * *, timezone: CEST}", "schedule.score.timezone: 'CEST' is no time zone"),
        (
            "retrain: FREQ=OFTEN",
            "schedule.retrain: 'FREQ=OFTEN' is no recurrence rule (invalid 'FREQ': OFTEN): write one of RFC 5545, "
            "such as FREQ=MONTHLY;BYDAY=1MO;BYHOUR=3",
        ),
        ("retrain: {rrule: monthly}", "schedule.retrain.rrule: 'monthly' is no recurrence rule: write one of RFC 5545"),
        (
            "review: 7",
            "schedule.review: must be a cron schedule, a time such as 15min, or a mapping with one of these keys: "
            "cron, interval, rrule",
        ),
        ("calibrate: 1d", "schedule.calibrate: unknown key; did you mean 'recalibrate'?"),
    ],
)
def test_a_fault_is_said_with_its_place_and_what_to_write(schedules: Schedules, text: str, fault: str) -> None:
    """What is wrong, where, and what a right one looks like."""
    with pytest.raises(InputError) as caught:
        schedules(text)
    assert f"pipelines.tiles.{fault}" in str(caught.value)
