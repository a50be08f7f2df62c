"""How every pipeline stands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ae_models.curves import Proportion, percent
from flows.config import PipelineConfig
from flows.due import is_another
from flows.incident_alerts import in_short
from flows.ledger import WaitingChannel
from flows.tracking import Standing
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
    waiting, pipelines = workspace.ledger.outbox.waiting_channels(), workspace.settings.pipelines
    standings, urls = workspace.tracking.standings(pipelines), workspace.tracking.addresses.pipelines(pipelines)
    return [_state(workspace, each, standings[name], waiting, urls[name]) for name, each in pipelines.items()]


def _state(
    workspace: Workspace, pipeline: PipelineConfig, standing: Standing, waiting: Sequence[WaitingChannel], url: str
) -> PipelineState:
    here = tuple(channel for channel in waiting if channel.pipeline == pipeline.name)
    champion = standing.champion
    history = workspace.ledger.batches.history(pipeline.name, 1)
    last = history[0] if history else None
    return PipelineState(
        name=pipeline.name,
        state=_words(standing, pipeline),
        champion=champion[0] if champion else None,
        threshold=champion[1].get("threshold") if champion else None,
        batches=workspace.ledger.batches.count(pipeline.name),
        last_batch=f"{last.batch} ({last.n_flagged} of {last.n_scored} flagged, {last.finished_at:%Y-%m-%d %H:%M} UTC)"
        if last
        else None,
        open_incidents=tuple(map(in_short, workspace.ledger.incidents.newest(pipeline.name))),
        alerts_waiting=sum(channel.count for channel in here),
        waiting_channels=here,
        url=url,
        false_alarms=_false_alarms(workspace, pipeline.name, champion[1]) if champion else None,
        batch_false_alarm_rate=pipeline.monitor.batch_false_alarm_rate,
    )


def _false_alarms(workspace: Workspace, name: str, tags: Mapping[str, str]) -> Proportion | None:
    false, nominal = workspace.ledger.batches.false_alarms(name, tags.get("reconwatch.calibration_run", ""))
    return Proportion(false, nominal) if false else None


def _words(standing: Standing, pipeline: PipelineConfig) -> str:
    if standing.training is None:
        return "not trained yet"
    if standing.champion is None:
        return "trained, not calibrated"
    if not standing.calibrated:
        return "a newer detector waits for calibration"
    return "configuration changed since training" if is_another(standing.training, pipeline) else "ready"
