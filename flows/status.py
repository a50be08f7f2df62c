"""How every pipeline stands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ae_models.curves import Proportion, percent
from flows.config import PipelineConfig
from flows.due import calibration_is_due, changes_since_training
from flows.incident_alerts import in_short
from flows.ledger import WaitingChannel
from flows.workspace import Workspace

COLUMNS = ("pipeline", "state", "champion", "threshold", "batches", "last batch", "open incidents", "alerts waiting")


@dataclass(frozen=True)
class PipelineState:
    """One pipeline: what decides its batches, what was last decided, and what waits.

    Attributes:
        false_alarms: those that people called so, of the champion's nominal batches; None where they called none so.
        batch_false_alarm_rate: what was asked for.
    """

    name: str
    state: str
    champion: str | None
    threshold: str | None
    batches: int
    last_batch: str | None
    open_incidents: tuple[str, ...]
    alerts_waiting: int
    waiting_channels: tuple[WaitingChannel, ...]
    url: str
    false_alarms: Proportion | None
    batch_false_alarm_rate: float

    def sentence(self) -> str:
        """How often nominal batches alarmed beside how often they may; empty where nobody called an alarm false."""
        if self.false_alarms is None:
            return ""
        promised = percent(self.batch_false_alarm_rate)
        return (
            f"{self.name}: false alarms, as people say: {self.false_alarms}, where {promised} of nominal batches may."
        )

    def cells(self) -> tuple[str, ...]:
        """What stands below COLUMNS."""
        return (
            self.name,
            self.state,
            self.champion or "none",
            self.threshold or "",
            str(self.batches),
            self.last_batch or "none",
            ", ".join(self.open_incidents) or "none",
            str(self.alerts_waiting),
        )


def pipeline_states(workspace: Workspace) -> list[PipelineState]:
    """The state of every pipeline, in the order of the file."""
    waiting = workspace.ledger.outbox.waiting_channels()
    return [_state(workspace, pipeline, waiting) for pipeline in workspace.settings.pipelines.values()]


def _state(workspace: Workspace, pipeline: PipelineConfig, waiting: Sequence[WaitingChannel]) -> PipelineState:
    here = tuple(channel for channel in waiting if channel.pipeline == pipeline.name)
    champion = workspace.tracking.registry.champion_version(pipeline.name)
    history = workspace.ledger.batches.history(pipeline.name, 1)
    last = history[0] if history else None
    return PipelineState(
        name=pipeline.name,
        state=_words(workspace, pipeline, champion is not None),
        champion=champion[0] if champion else None,
        threshold=champion[1].get("threshold") if champion else None,
        batches=workspace.ledger.batches.count(pipeline.name),
        last_batch=f"{last.batch} ({last.n_flagged} of {last.n_scored} flagged, {last.finished_at:%Y-%m-%d %H:%M} UTC)"
        if last
        else None,
        open_incidents=tuple(map(in_short, workspace.ledger.incidents.newest(pipeline.name))),
        alerts_waiting=sum(channel.count for channel in here),
        waiting_channels=here,
        url=workspace.tracking.addresses.pipeline(pipeline.name),
        false_alarms=_false_alarms(workspace, pipeline.name, champion[1]) if champion else None,
        batch_false_alarm_rate=pipeline.monitor.batch_false_alarm_rate,
    )


def _false_alarms(workspace: Workspace, name: str, tags: Mapping[str, str]) -> Proportion | None:
    false, nominal = workspace.ledger.batches.false_alarms(name, tags.get("reconwatch.calibration_run", ""))
    return Proportion(false, nominal) if false else None


def _words(workspace: Workspace, pipeline: PipelineConfig, has_champion: bool) -> str:
    if workspace.tracking.latest_training(pipeline.name) is None:
        return "not trained yet"
    if calibration_is_due(workspace, pipeline):
        return "trained, not calibrated" if not has_champion else "a newer detector waits for calibration"
    return "configuration changed since training" if changes_since_training(workspace, pipeline) else "ready"
