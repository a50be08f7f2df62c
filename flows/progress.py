"""Progress that people see while something takes long: in a terminal, or as lines in a log."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from time import monotonic
from typing import Protocol

LOG_EVERY_SECONDS = 10.0
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

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)

    def say(self, sentence: str) -> None:
        self._console.print(sentence, markup=False, soft_wrap=True)

    def warn(self, sentence: str) -> None:
        self._console.print(f"Note: {sentence}", markup=False, soft_wrap=True, style="yellow")

    @contextmanager
    def track(self, what: str, total: int) -> Iterator[Callable[..., None]]:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=self._console, transient=True) as bars:
            task = bars.add_task(what, total=total, note="")
            yield lambda steps=1, note="": bars.update(task, advance=steps, note=note)


class LogProgress:
    """Sentences and, every ten seconds, a line on how far the work is, through `logging`."""

    def __init__(self, logger: Logger, clock: Callable[[], float] = monotonic) -> None:
        self._logger, self._clock = logger, clock

    def say(self, sentence: str) -> None:
        self._logger.info(sentence)

    def warn(self, sentence: str) -> None:
        self._logger.warning(sentence)

    @contextmanager
    def track(self, what: str, total: int) -> Iterator[Callable[..., None]]:
        done, said = 0, self._clock()

        def advance(steps: int = 1, note: str = "") -> None:
            nonlocal done, said
            done += steps
            if self._clock() - said >= LOG_EVERY_SECONDS:
                said = self._clock()
                self._logger.info("%s: %d of %d %s", what, done, total, note)

        yield advance


def terminal_or_log() -> Progress:
    """Bars where a person watches, log lines where nobody does."""
    if sys.stderr.isatty():
        return TerminalProgress()
    return LogProgress(logging.getLogger("reconwatch"))
