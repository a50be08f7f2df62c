"""How long a store that does not answer is waited for: a stated list of delays, and then its one sentence."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from ae_models.errors import InputError

VARIABLE = "RECONWATCH_SERVER_WAITS"
DELAYS = (1.0, 2.0, 5.0, 10.0, 15.0, 30.0)  # seconds, 63 together: the minute that a server takes to start again

Got = TypeVar("Got")


def delays_in(environment: Mapping[str, str]) -> tuple[float, ...]:
    """The delays of RECONWATCH_SERVER_WAITS, seconds between commas (0 for none at all), or the stated ones.

    Raises:
        InputError: the variable holds something else.
    """
    words = environment.get(VARIABLE, "")
    if not words:
        return DELAYS
    try:
        delays = tuple(float(word) for word in words.split(","))
    except ValueError:
        delays = (-1.0,)
    if not all(math.isfinite(delay) and delay >= 0 for delay in delays):
        raise InputError(f"{VARIABLE} is {words!r}: write seconds between commas, such as 1,5,30, or 0 for no waiting")
    return delays if any(delays) else ()


def patiently(
    attempt: Callable[[], Got],
    may_pass: Callable[[Exception], bool],
    delays: Sequence[float] = DELAYS,
    say: Callable[[str], None] = lambda _: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Got:
    """What the attempt gives. After a failure that may pass it is made again when the next delay is over; any other
    failure stands at once, and so does the last one."""
    for delay in delays:
        try:
            return attempt()
        except Exception as error:
            if not may_pass(error):
                raise
            say(f"{error}; trying again in {delay:g} s")
            sleep(delay)
    return attempt()
