"""Past batches decided again at another rate, from their stored scores: which lots, and since when.

Neither the network nor an image is needed, and nothing is recorded.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ae_models.calibration import Threshold, conformal_threshold
from ae_models.errors import InputError
from flows.config import ConformalThreshold, MonitorConfig, PipelineConfig
from flows.ledger import BatchRecord, Ledger
from flows.progress import Progress
from flows.tracking import ArtifactMissing, Tracking
from flows.verdicts import NOMINAL_BATCHES, verdict_on

Calibration = tuple[Threshold, NDArray[np.float64]]
"""A threshold, and the calibration scores (n,) behind it."""


@dataclass(frozen=True)
class Decision:
    """What was, or would be, decided of a batch."""

    threshold: float | None  # None where it is not known any more
    flagged: int
    verdict: str  # "nominal", or the diagnosis
    alarm: bool


@dataclass(frozen=True)
class ReplayedBatch:
    """A past batch, as it was decided and as it would be, and whether the verdicts differ.

    `now` is None, and `reason` says why, where it cannot be decided again.
    """

    batch: str
    decided_at: datetime
    version: str
    run_id: str
    scored: int
    unreadable: int
    then: Decision
    now: Decision | None
    changed: bool
    reason: str


@dataclass(frozen=True)
class Replay:
    """The batches of a pipeline decided again, the oldest first.

    Attributes:
        false_alarm_rate: None where another threshold decides than one of this rate from each one's own calibration.
        batch_false_alarm_rate: None where it is each batch's own.
    """

    pipeline: str
    false_alarm_rate: float | None
    batch_false_alarm_rate: float | None
    batches: tuple[ReplayedBatch, ...]

    @property
    def decided(self) -> tuple[ReplayedBatch, ...]:
        """Those that could be decided again."""
        return tuple(batch for batch in self.batches if batch.now is not None)

    @property
    def alarms(self) -> tuple[ReplayedBatch, ...]:
        """Those that would alarm."""
        return tuple(batch for batch in self.decided if batch.now and batch.now.alarm)

    def sentences(self) -> tuple[str, ...]:
        """What would be otherwise, and since when, for people."""
        changed = [batch for batch in self.decided if batch.changed]
        more = [batch for batch in changed if batch in self.alarms and not batch.then.alarm]
        fewer = [batch for batch in changed if batch.then.alarm and batch not in self.alarms]
        others = len(changed) - len(more) - len(fewer)
        other = f", {others} alarm for another reason" if others else ""
        rate = self.false_alarm_rate
        how = "With the new threshold" if rate is None else f"At a false-alarm rate of {rate:g}"
        sentences = [
            f"{how}, {len(changed)} of {len(self.decided)} batches of "
            f"{self.pipeline} are decided otherwise: {len(more)} alarm that did not, {len(fewer)} no longer do{other}."
        ]
        if self.alarms:
            first = self.alarms[0]
            since = sum(batch.decided_at >= first.decided_at for batch in self.decided)
            sentences.append(
                f"The first to alarm is {first.batch}, decided {first.decided_at:%Y-%m-%d %H:%M} UTC; from then on "
                f"{len(self.alarms)} of {since} do."
            )
        if undecided := len(self.batches) - len(self.decided):
            sentences.append(f"{undecided} cannot be decided again, for the reasons given.")
        return tuple(sentences)

    def table(self) -> pd.DataFrame:
        """One row a batch; what is not known is null."""
        rows = [
            {
                "batch": each.batch,
                "decided_at": each.decided_at,
                "version": each.version,
                "run_id": each.run_id,
                "scored": each.scored,
                "unreadable": each.unreadable,
                **{f"{name}_then": getattr(each.then, name) for name in Decision.__dataclass_fields__},
                **{f"{name}_now": getattr(each.now, name, None) for name in Decision.__dataclass_fields__},
                "changed": each.changed,
                "reason": each.reason,
            }
            for each in self.batches
        ]
        return pd.DataFrame(rows)


def replay(
    pipeline: PipelineConfig,
    false_alarm_rate: float,
    batch_false_alarm_rate: float | None,
    since: datetime | None,
    until: datetime | None,
    tracking: Tracking,
    ledger: Ledger,
    progress: Progress,
) -> Replay:
    """Decide the batches that were finished from `since` on and before `until` again, all else as it was then.

    Each is cut by a threshold of this rate from the scores of the calibration that decided it, with the confidence that
    the pipeline has now. Where nominal batches differ, it is compared with those of this time alone.

    Raises:
        InputError: the rate is none, or no calibration among them has the images for it.
    """
    confidence = pipeline.threshold.confidence if isinstance(pipeline.threshold, ConformalThreshold) else None

    def cut(own: Calibration) -> Calibration:
        return conformal_threshold(own[1], false_alarm_rate, confidence), own[1]

    records = ledger.batches.decided(pipeline.name, since, until)
    batches = _decided_again(pipeline, records, cut, batch_false_alarm_rate, tracking, progress)
    return Replay(pipeline.name, false_alarm_rate, batch_false_alarm_rate, batches)


def replay_with(
    pipeline: PipelineConfig,
    records: Sequence[BatchRecord],
    calibration: Calibration,
    tracking: Tracking,
    progress: Progress,
) -> Replay:
    """Decide batches again by another threshold and the calibration scores behind it, all else as it was then.

    The scores of the batches must be those of the detector that the threshold is for.
    """
    return Replay(
        pipeline.name, None, None, _decided_again(pipeline, records, lambda _: calibration, None, tracking, progress)
    )


def _decided_again(
    pipeline: PipelineConfig,
    records: Sequence[BatchRecord],
    cut: Callable[[Calibration], Calibration],
    batch_false_alarm_rate: float | None,
    tracking: Tracking,
    progress: Progress,
) -> tuple[ReplayedBatch, ...]:
    """The batches decided by what `cut` makes of their own calibrations.

    Raises:
        InputError: none of them can be.
    """
    rates = {} if batch_false_alarm_rate is None else {"false_alarm_rate": batch_false_alarm_rate}
    nominal: dict[str, list[tuple[int, int]]] = defaultdict(list)
    refused: list[InputError] = []

    @cache
    def calibration(run_id: str) -> Calibration:
        return tracking.registry.threshold(run_id)

    def again(record: BatchRecord) -> ReplayedBatch:
        before = None
        try:
            before, own = calibration(record.calibration_version)
            threshold, scores = cut((before, own))
            monitor = _monitor(pipeline.monitor, record.verdict | rates)
            known = nominal[record.calibration_version]
            verdict = verdict_on(tracking.scores(record.run_id), threshold, scores, monitor, known[-NOMINAL_BATCHES:])
        except (ArtifactMissing, OSError, ValueError, KeyError) as error:
            refused.extend([error] if isinstance(error, InputError) else [])
            return _replayed(record, before, None, " ".join(str(error).split()))
        if record.false_alarm or not verdict.alarm:
            known.append((verdict.flagged, verdict.scored))
        return _replayed(record, before, _decision(threshold, asdict(verdict)))

    batches = []
    with progress.track(f"Deciding batches of {pipeline.name} again", len(records)) as advance:
        for record in records:
            batches.append(again(record))
            advance()
    if refused and all(batch.now is None for batch in batches):
        raise refused[0]
    return tuple(batches)


def moment(text: str, option: str, end_of_day: bool) -> datetime:
    """The time that a person gave: a date (the day's beginning, or its end), or a time; in UTC where no zone is given.

    Raises:
        InputError: it is neither.
    """
    try:
        day = datetime.combine(date.fromisoformat(text), time(), UTC)
        return day + timedelta(days=1) if end_of_day else day
    except ValueError:
        pass
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(
            f"{option} {text!r} is no date: write 2024-05-17, or a time such as 2024-05-17T14:30 (UTC)"
        ) from None
    return given if given.tzinfo else given.replace(tzinfo=UTC)


def _monitor(monitor: MonitorConfig, verdict: Mapping[str, Any]) -> MonitorConfig:
    """The limits by which a batch was decided; those that its verdict does not know yet are the pipeline's."""
    kept = {"batch_false_alarm_rate": verdict["false_alarm_rate"], "unreadable_rate": verdict["unreadable_rate"]}
    distance = verdict.get("smallest_distance", monitor.smallest_distance)
    return monitor.model_copy(update=kept | {"smallest_distance": distance})


def _replayed(
    record: BatchRecord, threshold: Threshold | None, now: Decision | None, reason: str = ""
) -> ReplayedBatch:
    then = _decision(threshold, record.verdict)
    return ReplayedBatch(
        record.batch,
        record.finished_at,
        record.model_version,
        record.run_id,
        record.n_scored,
        record.n_unreadable,
        then,
        now,
        now is not None and now.verdict != then.verdict,
        reason,
    )


def _decision(threshold: Threshold | None, verdict: Mapping[str, Any]) -> Decision:
    alarm, value = verdict["diagnosis"] != "none", None if threshold is None else threshold.value
    return Decision(value, verdict["flagged"], verdict["diagnosis"] if alarm else "nominal", alarm)
