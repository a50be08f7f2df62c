"""SIGTERM and Ctrl-C as a wish to stop, which is met at the next good moment."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event


class Stop:
    """Whether SIGTERM or Ctrl-C came, and how often."""

    def __init__(self) -> None:
        self.times = 0
        self._event = Event()

    def __bool__(self) -> bool:
        return self.times > 0

    def ask(self, *_: object) -> None:
        """What the signal's handler does."""
        self.times += 1
        self._event.set()

    def wait(self, seconds: float) -> None:
        """Wait that long, or until a signal comes."""
        self._event.wait(seconds)

    def hurries(self) -> bool:
        """Whether a second signal came."""
        return self.times > 1


@contextmanager
def until_signal() -> Iterator[Stop]:
    """Within the block, the two signals only ask to stop."""
    stop = Stop()
    before = {number: signal.signal(number, stop.ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
