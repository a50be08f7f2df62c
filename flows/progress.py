"""Progress that people see while something takes long, with rate and time left: in a terminal, or as lines in a log."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console

LOG_AFTER_SECONDS, LOG_EVERY_SECONDS = 2.0, 10.0
Logger = logging.Logger | logging.LoggerAdapter[logging.Logger]


class Progress(Protocol):
    """Says what happens, and how far long work has come."""

    def say(self, sentence: str) -> None:
        """Tell people one thing."""

    def warn(self, sentence: str) -> None:
        """Tell people one thing that they should look at."""

    def track(self, what: str, total: int) -> AbstractContextManager[Callable[..., None]]:
        """A context that gives `advance(steps, note)`, to be called as the work goes on."""


class TerminalProgress:
    """Rich progress bars and sentences on standard error."""

    def __init__(self, console: "Console | None" = None) -> None:
        from rich.console import Console

        self._console = console or Console(stderr=True, highlight=False)

    def say(self, sentence: str) -> None:
        self._console.print(sentence, markup=False, soft_wrap=True)

    def warn(self, sentence: str) -> None:
        self._console.print(f"Note: {sentence}", markup=False, soft_wrap=True, style="yellow")

    @contextmanager
    def track(self, what: str, total: int) -> Iterator[Callable[..., None]]:
        from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars
        from rich.text import Text

        class RateColumn(ProgressColumn):
            def render(self, task: Task) -> Text:
                return Text(rate_in_words(task.speed) if task.speed else "")

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            RateColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=self._console, transient=True) as bars:
            task = bars.add_task(what, total=total, note="")
            yield lambda steps=1, note="": bars.update(task, advance=steps, note=note)


class LogProgress:
    """Sentences and, after two seconds and then every ten, a line on how far the work is, through `logging`."""

    def __init__(self, logger: Logger, clock: Callable[[], float] = monotonic) -> None:
        self._logger, self._clock = logger, clock

    def say(self, sentence: str) -> None:
        self._logger.info(sentence)

    def warn(self, sentence: str) -> None:
        self._logger.warning(sentence)

    @contextmanager
    def track(self, what: str, total: int) -> Iterator[Callable[..., None]]:
        done, start = 0, self._clock()
        due = start + LOG_AFTER_SECONDS

        def advance(steps: int = 1, note: str = "") -> None:
            nonlocal done, due
            done += steps
            now = self._clock()
            if now >= due and done:
                due = now + LOG_EVERY_SECONDS
                rate = done / (now - start)
                pace = f"{done:,} of {total:,}, {rate_in_words(rate)}, {time_in_words((total - done) / rate)} left"
                self._logger.info("%s: %s", what, ", ".join(filter(None, [pace, note])))

        yield advance


def rate_in_words(rate: float) -> str:
    """So many a second, or how long one takes."""
    if rate < 1:
        return f"{1 / rate:.1f} s each"
    return f"{rate:,.0f} a second" if rate >= 10 else f"{rate:.1f} a second"


def time_in_words(seconds: float) -> str:
    """A time as people say it, in its two largest units: 42 s, 3 min 20 s, 2 h 5 min."""
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def terminal_or_log() -> Progress:
    """Bars where a person watches, log lines where nobody does."""
    if sys.stderr.isatty():
        return TerminalProgress()
    return LogProgress(logging.getLogger("reconwatch"))
