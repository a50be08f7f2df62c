"""A clock and an audience that tests hold in their hands."""

from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Any


class Clock:
    """A clock that is set by hand."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


class Said:
    """Progress that keeps what is said."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def say(self, sentence: str) -> None:
        """Keeps it, as `warn` does."""
        self.sentences.append(sentence)

    warn = say

    def track(self, what: str, total: int) -> AbstractContextManager[Any]:
        """Keeps what is begun; its steps are not kept."""
        self.sentences.append(f"{what}: {total}")
        return nullcontext(lambda *steps: None)
