"""A pipeline over time: its monitor run in MLflow, which mirrors the time line that the ledger holds.

What a process that died left out, the next one adds: the ledger knows up to which point the run is complete, and a
point that is logged a second time, with the same number, time and values, is the same point to MLflow.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from ae_models.champion import Champion
from ae_models.monitor_page import LINEAR, LOGARITHMIC, PERCENT, Chart, MonitorPage, Values, WatchedBatch
from ae_models.monitoring import FLAGGED, MOVED, UNREADABLE
from flows.ledger import BatchRecord, Ledger, MonitorRun, Point
from flows.report import ScoredBatch
from flows.streams import Stream
from flows.tracking import LoggedPoint, Tracking

PAGE = "monitor.html"
KIND = "monitor"  # of the run
MEASURED = (  # what MLflow's own charts show, by batch number
    *("flag_rate", "flagged_p_value", "moved_p_value", "moved_distance", "unreadable_p_value", "unreadable_share"),
    *("stream_e_value", "images_per_second", "median_score", "highest_score", "threshold", "alarm"),
)
KEPT = (  # of each batch in the ledger, beside its verdict
    *("stream_e_value", "stream_limit", "images_per_second", "median_score", "highest_score", "threshold"),
    *("rate_low", "rate_high", "own_time"),
)
DRAWN = 5000  # batches on the page, the newest; the run's metrics have all
LATE_SECONDS = 60.0  # older than a batch that was decided before it by more than this: it came late
TESTS = ("flagged_p_value", "moved_p_value", "moved_distance", "smallest_distance", "unreadable_p_value")


def point_of(
    champion: Champion, scored: ScoredBatch, stream: Stream, own_time: datetime | None = None
) -> dict[str, float | None]:
    """What the ledger keeps of a batch for its pipeline's time line, beside the verdict.

    Args:
        champion: decided it.
        scored: its scores.
        stream: as the batch left it.
        own_time: when it was taken, or its files were written.
    """
    low, high = champion.threshold.false_alarm_band
    readable = scored.table.loc[scored.table["status"] == "scored", "score"]
    return {
        "stream_e_value": stream.evidence.e_value,
        "stream_limit": 1 / stream.evidence.budget,
        "images_per_second": len(scored.table) / max(scored.seconds, 1e-9),
        "median_score": float(readable.median()) if len(readable) else None,
        "highest_score": float(readable.max()) if len(readable) else None,
        "threshold": champion.threshold.value,
        "rate_low": low,
        "rate_high": high,
        "own_time": own_time.timestamp() if own_time else None,
    }


def measured(point: Point) -> dict[str, float | None]:
    """Everything that is shown of a batch, by name."""
    batch, verdict = point.batch, point.batch.verdict
    scored, files = batch.n_scored, batch.n_scored + batch.n_unreadable
    budget = verdict["false_alarm_rate"]
    return {
        **dict.fromkeys(KEPT),
        **point.values,
        **{name: verdict[name] for name in TESTS},
        "flag_rate": batch.n_flagged / scored if scored else None,
        "expected_rate": verdict["expected_flagged"] / scored if scored else None,
        "alarm_rate": verdict["alarms_from"] / scored if scored and verdict["alarms_from"] is not None else None,
        "unreadable_share": batch.n_unreadable / files if files else None,
        "unreadable_rate": verdict["unreadable_rate"],
        "flagged_limit": budget * FLAGGED,
        "moved_limit": budget * MOVED,
        "unreadable_limit": budget * UNREADABLE,
        "alarm": float(batch.alarm),
    }


def monitor_run(name: str, tracking: Tracking, ledger: Ledger) -> str:
    """The id of the pipeline's monitor run, which is begun where there is none."""
    run = ledger.timeline.monitor_run(name)
    return run.run_id if run else _begun(name, tracking, ledger, "").run_id


def update_monitor(name: str, tracking: Tracking, ledger: Ledger) -> None:
    """Bring what the pipeline's monitor run lacks into it, and draw its page anew; nothing where it lacks nothing."""
    run = ledger.timeline.monitor_run(name)
    lacking = ledger.timeline.points(name, run.shown if run else 0)
    if not lacking:
        return
    if run is None or not tracking.is_there(run.run_id):  # people may delete it
        run = _begun(name, tracking, ledger, run.run_id if run else "")
        lacking = ledger.timeline.points(name, run.shown)
    tracking.log_points(run.run_id, [_logged(point) for point in lacking])
    points = ledger.timeline.points(name, max(0, ledger.batches.count(name) - DRAWN))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / PAGE).write_text(monitor_page(name, points).html(), encoding="utf-8")
        tracking.log_folder(run.run_id, Path(folder), whole=True)
    description = _description(name, tracking, run.run_id, points[-1].batch)
    tracking.log(run.run_id, tags={"mlflow.note.content": description})
    ledger.timeline.mark_shown(name, run.run_id, lacking[-1].number)  # points may hold batches that came since


def _begun(name: str, tracking: Tracking, ledger: Ledger, instead_of: str) -> MonitorRun:
    left = tracking.begun_run(name, KIND)  # by a process that died before the ledger knew, or that is as far as we are
    ours = left or tracking.start_run(name, KIND, f"{name} over time", {})
    run = ledger.timeline.take_monitor_run(name, ours, instead_of)
    if run.run_id != ours and left is None:  # another process was first
        tracking.delete(ours)
    return run


def monitor_page(name: str, points: Sequence[Point]) -> MonitorPage:
    """The page of a pipeline with these batches, the last of it."""
    columns = _columns([measured(point) for point in points])
    alarms = sum(point.batch.alarm for point in points)
    before = points[0].number - 1 if points else 0
    which = f"The last {len(points):,} of {before + len(points):,}" if before else f"{len(points):,}"
    return MonitorPage(
        title=f"{name} over time",
        sentences=(f"{which} batches, of which {alarms:,} alarmed.",),
        batches=_watched_batches(points),
        calibrations=[point.batch.calibration_version for point in points],
        charts=_charts(columns) if points else (),
        before=before,
    )


def _charts(columns: Mapping[str, Values]) -> tuple[Chart, ...]:
    def chart(title: str, scale: str, series: Mapping[str, str], limits: Mapping[str, str]) -> Chart:
        shown, drawn = ({words: columns[name] for words, name in names.items()} for names in (series, limits))
        return Chart(title, shown, drawn, scale=scale)

    rate = {"alarms from": "alarm_rate", "expected": "expected_rate"}
    rates = chart("Flagged images", PERCENT, {"flagged": "flag_rate"}, rate)
    # Squared errors are not below 0; the scores of fused detectors may be.
    scale = LOGARITHMIC if all(value is None or value > 0 for value in columns["median_score"]) else LINEAR
    scores = {"median": "median_score", "highest": "highest_score"}
    return (
        replace(rates, band=(columns["rate_low"], columns["rate_high"])),
        chart("Flagged images: p-value", LOGARITHMIC, {"p-value": "flagged_p_value"}, {"limit": "flagged_limit"}),
        chart("Moved scores: distance", LINEAR, {"distance": "moved_distance"}, {"from": "smallest_distance"}),
        chart("Moved scores: p-value", LOGARITHMIC, {"p-value": "moved_p_value"}, {"limit": "moved_limit"}),
        chart("Batches together: e-value", LOGARITHMIC, {"e-value": "stream_e_value"}, {"limit": "stream_limit"}),
        chart("Scores", scale, scores, {"threshold": "threshold"}),
        chart("Unreadable files", PERCENT, {"unreadable": "unreadable_share"}, {"tolerated": "unreadable_rate"}),
        chart(
            "Unreadable files: p-value", LOGARITHMIC, {"p-value": "unreadable_p_value"}, {"limit": "unreadable_limit"}
        ),
        chart("Images a second", LINEAR, {"images a second": "images_per_second"}, {}),
    )


def _columns(rows: Sequence[Mapping[str, float | None]]) -> dict[str, Values]:
    """The values by name; batches from before a name was measured have none of it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _watched_batches(points: Sequence[Point]) -> list[WatchedBatch]:
    """The batches as they are named on the page: one that is older than a batch decided before it is called late."""
    watched, newest = [], float("-inf")
    for point in points:
        own_time = point.values.get("own_time")
        late = ""
        if own_time is not None:
            if own_time < newest - LATE_SECONDS:
                late = f", of {datetime.fromtimestamp(own_time, UTC):%Y-%m-%d %H:%M}: late"
            newest = max(newest, own_time)
        watched.append(_watched(point.batch, late))
    return watched


def _watched(batch: BatchRecord, late: str) -> WatchedBatch:
    alarm = f"{batch.verdict['severity']}: {batch.verdict['diagnosis']}" if batch.alarm else ""
    alarm += ", which people call false" if batch.false_alarm else ""
    return WatchedBatch(batch.batch, f"{batch.finished_at:%Y-%m-%d %H:%M}{late}", batch.model_version, alarm)


def _logged(point: Point) -> LoggedPoint:
    values = measured(point)
    return LoggedPoint(point.number, point.batch.finished_at, {name: values.get(name) for name in MEASURED})


def _description(name: str, tracking: Tracking, run_id: str, last: BatchRecord) -> str:
    version = f"[version {last.model_version}]({tracking.addresses.version(name, last.model_version)})"
    batch = f"{last.finished_at:%Y-%m-%d %H:%M} UTC"
    if last.run_id:  # MLflow may not have it yet
        batch = f"[{batch}]({tracking.addresses.run(name, last.run_id)})"
    page = tracking.addresses.run(name, run_id, PAGE)
    return (
        f"**[Open the time line]({page})**: flagged images, p-values, drift, evidence and more by batch, with limits, "
        "alarms and recalibrations. MLflow's own charts of them are under *Model metrics*; a step is the number of a "
        f"batch.\n\nThe last batch is that of {batch}, decided by {version}."
    )
