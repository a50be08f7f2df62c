"""A row of the table of false alarms, and when a measured rate keeps a promise."""

from dataclasses import dataclass

from ae_models.curves import Proportion, percent


@dataclass(frozen=True)
class Row:
    """One thing measured; `kept` also where nothing is promised, and for the naive tests beside ours."""

    what: str
    setting: str
    promised: str
    realised: str
    kept: bool

    def __post_init__(self) -> None:
        object.__setattr__(self, "kept", bool(self.kept))  # numpy's is no JSON


def rate_of(count: int, total: int) -> Proportion:
    """A share with its exact 95% interval."""
    return Proportion(int(count), int(total))


def at_most(rate: Proportion, promise: float) -> bool:
    """Whether the promise lies within or above the interval of the measured rate."""
    return rate.low <= promise


def told(rate: Proportion) -> str:
    """The rate with its interval."""
    return f"{percent(rate.value)} ({percent(rate.low)} to {percent(rate.high)})"
