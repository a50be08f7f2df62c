"""The batches that one calibration decided, as a stream: what they show together though none shows it alone."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import log
from typing import Self

from ae_models.calibration import Threshold
from ae_models.errors import InputError
from ae_models.monitoring import CRITICAL, BatchVerdict
from ae_models.stream import ChangeState, StreamState
from flows.alerts import Alert, Severity
from flows.config import MonitorConfig, PipelineConfig
from flows.incident_alerts import stored
from flows.incidents import Finding
from flows.ledger import IncidentBook, Ledger, OutboxEntry
from flows.tracking import ChampionVersion
from flows.watchdog import lasts

KIND = "stream"  # of its incident


@dataclass(frozen=True)
class Stream:
    """What the batches of a calibration show that raised no alarm of their own.

    One very bad batch, of which people heard, would otherwise raise the evidence for good, and the stream would say
    nothing new. Leaving out batches for having many flags only lowers the evidence, so its budget holds. That people
    call an alarm false changes nothing here: its batch was left out in its turn, and the detector of changes takes
    batches in their order alone.

    Attributes:
        evidence: that images are flagged more often than promised, since the calibration.
        change: the same after any number of calm batches; None where the threshold carries no confidence.
        alarmed: whether the evidence has reached its limit, and been above 1 ever since.
    """

    evidence: StreamState
    change: ChangeState | None
    alarmed: bool = False

    @classmethod
    def start(cls, threshold: Threshold, monitor: MonitorConfig, calibration: int) -> Self:
        """The stream of a calibration, of that number within its pipeline, before its first batch."""
        evidence = StreamState.start(threshold, monitor.stream_false_alarm_rate, calibration)
        if threshold.confidence is None:
            return cls(evidence, None)
        return cls(evidence, ChangeState.start(threshold, monitor.stream_run_length, calibration))

    def after(self, flagged: int, scored: int) -> Self:
        """The stream with one more batch."""
        evidence = self.evidence.after(flagged, scored)
        change = self.change and self.change.after(flagged, scored)
        return type(self)(evidence, change, evidence.alarm or (self.alarmed and evidence.e_value > 1))

    def crossings(self, before: "Stream") -> tuple[str, ...]:
        """What the last batch made known, in sentences; a limit is crossed once until the evidence is gone."""
        crossed = [self.evidence.sentence()] if self.alarmed and not before.alarmed else []
        if self.change is not None and self.change.alarm:  # it starts again by itself
            crossed.append(self.change.sentence())
        return tuple(crossed)

    @property
    def severity(self) -> Severity:
        """How bad a crossing is: critical where the evidence is 1,000 times its limit."""
        far = self.evidence.log_e_value >= log(CRITICAL / self.evidence.budget)
        return "critical" if far else "warning"

    def sentences(self) -> tuple[str, ...]:
        """Where the stream stands, for people."""
        return (self.evidence.sentence(), *([self.change.sentence()] if self.change else []))

    def to_json(self) -> str:
        """The stream as a JSON object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The stream that `to_json` wrote; raises InputError for anything else."""
        try:
            entries = json.loads(text)
            evidence, change, alarmed = (entries[name] for name in ("evidence", "change", "alarmed"))
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"The stream in the ledger cannot be read ({error!r}): calibrate again.") from error
        state = None if change is None else ChangeState.from_json(json.dumps(change))
        return cls(StreamState.from_json(json.dumps(evidence)), state, alarmed is True)


class StreamStep:
    """The step of a stream by one batch, for the transaction that finishes the batch.

    Attributes:
        crossed: what the step made known, once it was taken.
        stream: the stream after it; None where it was not taken.
    """

    def __init__(
        self, pipeline: PipelineConfig, champion: ChampionVersion, verdict: BatchVerdict, alert: Alert
    ) -> None:
        """The step; `alert` is what is said, but for severity and sentences."""
        self.crossed: tuple[str, ...] = ()
        self.stream: Stream | None = None
        self._pipeline, self._champion, self._verdict, self._alert = pipeline, champion, verdict, alert

    def __call__(self, calibration: int, state: str | None) -> tuple[str, Sequence[OutboxEntry]]:
        """The state after the batch; what this made known is told by `settle`."""
        before = _read(state, self._pipeline, self._champion, calibration)
        self.stream = before.after(self._verdict.flagged, self._verdict.scored)
        self.crossed = self.stream.crossings(before)
        return self.stream.to_json(), ()

    def settle(self, book: IncidentBook) -> None:
        """Opens the incident of the stream where a limit was crossed, and closes it once the evidence is gone."""
        if self.stream is None:
            return
        if self.crossed:
            severity = self.stream.severity
            alert = replace(self._alert, severity=severity, sentences=" ".join(self.crossed))
            lasts(book, self._pipeline, KIND, alert.dedupe_key, Finding(KIND, severity, stored(alert)))
        elif not self.stream.alarmed and self.stream.evidence.e_value <= 1:
            lasts(book, self._pipeline, KIND, "", None)


def counts_in_stream(verdict: BatchVerdict) -> bool:
    """Whether a batch counts in its stream: its images could be scored, and it raised no alarm of its own."""
    return bool(verdict.scored) and not verdict.alarm


def stream_of(pipeline: PipelineConfig, champion: ChampionVersion, ledger: Ledger) -> Stream:
    """The champion's stream as the ledger holds it now; one without a batch where there is none yet."""
    record = ledger.streams.of(pipeline.name, champion.calibration_run)
    if record is None:
        return _read(None, pipeline, champion, ledger.streams.calibrations(pipeline.name) + 1)
    return _read(record.state, pipeline, champion, record.calibration)


def _read(state: str | None, pipeline: PipelineConfig, champion: ChampionVersion, calibration: int) -> Stream:
    return (
        Stream.from_json(state) if state else Stream.start(champion.champion.threshold, pipeline.monitor, calibration)
    )
