"""Across a change of the clocks, in both directions, no batch is skipped or decided twice: Prefect's own dates."""

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from prefect.server.schemas import schedules as server_schedules

from flows.config_schedules import CronSchedule, IntervalSchedule, RecurrenceSchedule
from flows.deployments import schedule_for_prefect

SPRING = datetime(2026, 3, 29, 1, tzinfo=UTC)  # in Berlin 02:00 is followed by 03:00
AUTUMN = datetime(2026, 10, 25, 1, tzinfo=UTC)  # and 03:00 by 02:00
BERLIN = "Europe/Berlin"
pytestmark = pytest.mark.faults
AnySchedule = CronSchedule | IntervalSchedule | RecurrenceSchedule


def runs(schedule: AnySchedule, change: datetime) -> list[datetime]:
    """When Prefect's server runs it, from two days before the change to two days after it, in UTC."""
    ours: Any = schedule_for_prefect(schedule)
    served: Any
    if ours.cron:
        served = server_schedules.CronSchedule(cron=ours.cron, timezone=ours.timezone)
    elif ours.rrule:
        served = server_schedules.RRuleSchedule(rrule=ours.rrule, timezone=ours.timezone)
    else:
        served = server_schedules.IntervalSchedule(
            interval=ours.interval, anchor_date=ours.anchor_date, timezone=ours.timezone
        )
    days = timedelta(days=2)
    found = asyncio.run(served.get_dates(n=1000, start=change - days, end=change + days))
    return [datetime.fromtimestamp(one.timestamp(), UTC) for one in found]


def gaps(times: list[datetime]) -> set[int]:
    """The minutes between two runs."""
    return {round((after - before).total_seconds() / 60) for before, after in pairwise(times)}


@pytest.mark.parametrize("change", [SPRING, AUTUMN])
def test_intervals_know_of_no_change(change: datetime) -> None:
    """Every quarter of an hour, on the dot, each of them once."""
    times = runs(IntervalSchedule(interval=timedelta(minutes=15)), change)
    assert len(times) == len(set(times)) == 385
    assert gaps(times) == {15}


@pytest.mark.parametrize(
    ("schedule", "change", "expected"),
    [
        (CronSchedule(cron="*/15 * * * *", timezone=BERLIN), SPRING, {15}),
        (CronSchedule(cron="*/15 * * * *", timezone=BERLIN), AUTUMN, {15, 75}),  # the repeated hour has none
        (CronSchedule(cron="*/15 * * * *", timezone="UTC"), AUTUMN, {15}),
        (
            CronSchedule(cron="30 2 * * *", timezone=BERLIN),
            SPRING,
            {23 * 60, 24 * 60},
        ),  # the local time that is left out
        (CronSchedule(cron="30 2 * * *", timezone=BERLIN), AUTUMN, {24 * 60, 25 * 60}),  # the one that comes twice
        (RecurrenceSchedule(rrule="FREQ=HOURLY", timezone=BERLIN), SPRING, {60}),
        (RecurrenceSchedule(rrule="FREQ=HOURLY", timezone=BERLIN), AUTUMN, {60, 120}),
    ],
)
def test_a_local_time_comes_once(schedule: AnySchedule, change: datetime, expected: set[int]) -> None:
    """No run is made twice, and the longest pause is the hour that the clocks repeat, as the guide says."""
    times = runs(schedule, change)
    assert len(times) == len(set(times))
    assert gaps(times) == expected


@pytest.mark.parametrize("change", [SPRING, AUTUMN])
@pytest.mark.parametrize(
    "schedule",
    [
        IntervalSchedule(interval=timedelta(minutes=5)),
        CronSchedule(cron="*/15 * * * *", timezone=BERLIN),
        CronSchedule(cron="30 2 * * *", timezone=BERLIN),
    ],
)
def test_no_batch_is_skipped_or_repeated(schedule: AnySchedule, change: datetime) -> None:
    """A batch every ten minutes: each is taken by exactly one run, the first after it came."""
    arrivals = [change + timedelta(minutes=10 * number) for number in range(-100, 100)]
    inbox, taken = list(arrivals), list[datetime]()
    for time in runs(schedule, change):
        due = [arrival for arrival in inbox if arrival <= time]
        taken += due
        inbox = [arrival for arrival in inbox if arrival not in due]
    assert taken == arrivals[: len(taken)]
    assert taken[-1] >= change


def test_a_restart_moves_no_interval() -> None:
    """The anchor of an interval is fixed, so that no restart moves its runs."""
    one, two = (schedule_for_prefect(IntervalSchedule(interval=timedelta(minutes=5))) for _ in range(2))
    assert one == two
    assert schedule_for_prefect(None) is None
