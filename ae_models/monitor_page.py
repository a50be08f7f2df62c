"""The page of a pipeline over time: what was measured of each batch, with limits, alarms and recalibrations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ae_models.pages import page

PAGE = Path(__file__).with_name("monitor_page.html")

LINEAR, LOGARITHMIC, PERCENT = "linear", "logarithmic", "percent"  # scales; the last is linear, told as percentages
Values = Sequence[float | None]  # one a batch


@dataclass(frozen=True)
class Chart:
    """One chart, of values by batch.

    Attributes:
        title: what is shown.
        series: the measured values, by name.
        limits: what they are compared with, by name.
        band: below and above which a value is unusual; None where there is none.
        scale: one of the three.
    """

    title: str
    series: Mapping[str, Values]
    limits: Mapping[str, Values]
    band: tuple[Values, Values] | None = None
    scale: str = LINEAR


@dataclass(frozen=True)
class WatchedBatch:
    """What is said of a batch: its name, when it was finished, which version decided it, and its alarm or ""."""

    name: str
    time: str
    version: str
    alarm: str


@dataclass(frozen=True)
class MonitorPage:
    """A pipeline's batches, and its charts; all words are shown as text, whatever they hold.

    Attributes:
        sentences: how the pipeline stands.
        calibrations: for each batch, which calibration decided it.
        before: how many batches came before the first of these.
    """

    title: str
    sentences: Sequence[str]
    batches: Sequence[WatchedBatch]
    calibrations: Sequence[str]
    charts: Sequence[Chart]
    before: int = 0

    def html(self) -> str:
        """The page as one HTML file that needs no network, no storage and no other page."""
        data = {
            "title": self.title,
            "sentences": list(self.sentences),
            "before": self.before,
            "batches": [[batch.name, batch.time, batch.version] for batch in self.batches],
            "alarms": [[place, batch.alarm] for place, batch in enumerate(self.batches) if batch.alarm],
            "recalibrations": _changes(self.calibrations)[1:],
            "charts": [_chart_data(chart) for chart in self.charts],
        }
        return page(PAGE, data)


def _chart_data(chart: Chart) -> dict[str, Any]:
    return {
        "title": chart.title,
        "scale": chart.scale,
        "series": [[name, _rounded(values)] for name, values in chart.series.items()],
        "limits": [[name, _steps(values)] for name, values in chart.limits.items()],
        "band": [_steps(values) for values in chart.band] if chart.band else None,
    }


def _steps(values: Values) -> list[list[float | None]]:
    """The values as (place, value) where they change: limits rarely do."""
    rounded = _rounded(values)
    return [[place, rounded[place]] for place in _changes(rounded)]


def _changes(values: Sequence[object]) -> list[int]:
    """The places of values that differ from the one before, and the first place."""
    return [place for place, value in enumerate(values) if place == 0 or value != values[place - 1]]


def _rounded(values: Values) -> list[float | None]:
    return [None if value is None or not np.isfinite(value) else float(f"{value:.4g}") for value in values]
