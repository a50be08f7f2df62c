"""What takes more than two seconds says how far it is, how fast it goes, and how long it still takes."""

import io
import logging

import pytest
from rich.console import Console

from flows.progress import LogProgress, TerminalProgress, rate_in_words, time_in_words


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_log_has_a_line_after_two_seconds_and_then_every_ten(caplog: pytest.LogCaptureFixture) -> None:
    """With how many are done, the rate since the beginning, and the time left at that rate."""
    clock = Clock()
    progress = LogProgress(logging.getLogger("told"), clock)
    with caplog.at_level(logging.INFO, "told"), progress.track("Scoring tiles", 10_000) as advance:
        for second in (1, 2, 3, 11, 12, 40):
            clock.now = 100.0 + second
            advance(100, "one unreadable" if second > 10 else "")
    assert caplog.messages == [
        "Scoring tiles: 200 of 10,000, 100 a second, 1 min 38 s left",
        "Scoring tiles: 500 of 10,000, 42 a second, 3 min 48 s left, one unreadable",
        "Scoring tiles: 600 of 10,000, 15 a second, 10 min 27 s left, one unreadable",
    ]


def test_what_is_quick_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A log is not filled with what took less than two seconds."""
    progress = LogProgress(logging.getLogger("told"), Clock())
    with caplog.at_level(logging.INFO, "told"), progress.track("Scoring tiles", 10) as advance:
        advance(10)
    assert caplog.messages == []


def test_a_terminal_shows_how_many_how_fast_and_how_long() -> None:
    """A bar with the count, the rate, a note and the time left."""
    shown = io.StringIO()
    progress = TerminalProgress(Console(file=shown, force_terminal=True, width=120))
    with progress.track("Scoring tiles", 1000) as advance:
        for _ in range(3):
            advance(100, "so far")
    assert "Scoring tiles" in shown.getvalue()
    assert "300/1000" in shown.getvalue()
    assert "a second so far" in shown.getvalue()


@pytest.mark.parametrize(
    ("rate", "words"), [(1234.5, "1,234 a second"), (42.4, "42 a second"), (1.26, "1.3 a second"), (0.25, "4.0 s each")]
)
def test_rates_in_words(rate: float, words: str) -> None:
    """Many a second, or seconds for each."""
    assert rate_in_words(rate) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "0 s"), (41.6, "42 s"), (59.7, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_times_in_words(seconds: float, words: str) -> None:
    """Two units at most."""
    assert time_in_words(seconds) == words
