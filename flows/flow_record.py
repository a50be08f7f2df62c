"""What a flow run shows in Prefect: how it ended, its log, and an artifact that leads to MLflow."""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from prefect import State, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import deployment, flow_run
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Cancelled, Failed

from ae_models.errors import InputError
from flows.alerts import in_words
from flows.progress import LogProgress, Progress, TerminalProgress
from flows.status import COLUMNS, PipelineState, pipeline_states
from flows.tracking import TrackingUnavailable
from flows.turns import TurnTaken, turn
from flows.words import reason_of
from flows.workspace import Patience, Workspace, open_workspace


class PartFailedError(RuntimeError):
    """A run did what it could and something of it failed: `report` holds both."""

    def __init__(self, sentence: str, report: Any) -> None:
        super().__init__(sentence)
        self.report = report


def flow_progress() -> Progress:
    """Progress in the terminal where a person watches, as lines in the log of the flow run where nobody does."""
    return TerminalProgress() if sys.stderr.isatty() else LogProgress(get_run_logger())


@contextmanager
def without_heartbeats(environment: Mapping[str, str]) -> Iterator[None]:
    """A context whose flow runs send no heartbeats, unless PREFECT_FLOWS_HEARTBEAT_FREQUENCY asks for them.

    They are for commands: who gave one sees how it ends, and would wait up to a second for the thread that sends them.
    """
    name = "PREFECT_FLOWS_HEARTBEAT_FREQUENCY"
    with nullcontext() if name in environment else temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


def failed(error: Exception) -> State[Any]:
    """The state of a run that `error` stopped; whoever called the flow gets the error.

    A flow returns it instead of raising: Prefect would log the traceback of a mistake in pipelines.yaml, and pickle it.
    """
    if isinstance(error, TurnTaken):
        return Cancelled(name="Skipped", message=f"Skipped: {error}.")
    if not isinstance(error, (InputError, TrackingUnavailable, PartFailedError)):
        get_run_logger().error("What stopped this run:", exc_info=error)
    return Failed(message=reason_of(error), data=error)


def report_of(state: State[Any]) -> Any:
    """What a run reports, also where something of it failed; raises what stopped it."""
    result = state.result(raise_on_failure=False)
    if isinstance(result, PartFailedError):
        return result.report
    if isinstance(result, BaseException):
        raise result
    return result


def deployed_turn(workspace: Workspace, pipeline: str, work: str) -> AbstractContextManager[None]:
    """One run of this work at a time for the pipeline, of those that deployments start; by hand, any number.

    Raises (on entering):
        TurnTaken: another one is at work.
    """
    if deployment.id is None:
        return nullcontext()
    return turn(workspace.settings.workspace, pipeline, work)


def flow_workspace(config: str, goes_on: bool = False) -> Workspace:
    """The stores of the configuration; what the flow run begins in MLflow leads back to it by its tags.

    An MLflow server that does not answer is waited for; then the run `goes_on` without it, or fails.
    """
    tags = {"reconwatch.flow_run": str(flow_run.id)}
    if str(flow_run.ui_url).startswith("http"):  # without a server that has pages, it is "None/flow-runs/..."
        tags["reconwatch.flow_run_url"] = str(flow_run.ui_url)
    patience = Patience(waits=True, goes_on=goes_on, say=get_run_logger().warning)
    return open_workspace(Path(config), tags=tags, patience=patience)


def record(workspace: Workspace, key: str, url: str, sentences: Sequence[str]) -> None:
    """Leave a Markdown artifact with the sentences and the address of the MLflow page, and one of all pipelines."""
    lines = [f"- {_as_markdown(sentence)}" for sentence in sentences if sentence]
    create_markdown_artifact(
        key=re.sub(r"[^a-z0-9]+", "-", key.lower()).strip("-"),
        markdown="\n".join([*lines, "", f"[Open in MLflow]({url})"]),
        description="What this flow run did",
    )
    if not workspace.tracking.answers():
        return
    create_markdown_artifact(
        key="status", markdown=status_markdown(pipeline_states(workspace)), description="How every pipeline stands"
    )


def status_markdown(states: Sequence[PipelineState]) -> str:
    """The table of `reconwatch status`, with each pipeline's name leading to its runs in MLflow."""
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    for state in states:
        name, *cells = map(_as_markdown, state.cells())
        lines.append(f"| [{name}]({state.url}) | {' | '.join(cells)} |")
    waiting = [in_words(channel) for state in states for channel in state.waiting_channels]
    return "\n".join([*lines, "", *(f"- {_as_markdown(sentence)}" for sentence in waiting)])


def _as_markdown(sentence: str) -> str:
    """The sentence as Markdown that shows it as it is: names of batches may hold anything."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(sentence.split()))
