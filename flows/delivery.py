"""The run of a decided batch on its way to MLflow: logged at once, or kept and delivered once MLflow answers again."""

from dataclasses import dataclass
from pathlib import Path

from flows.batch_run import BatchNote, Surroundings, log_batch
from flows.config import PipelineConfig
from flows.ledger import BatchRecord
from flows.monitor import monitor_run
from flows.progress import Progress
from flows.spool import Damaged, Kept, Spool
from flows.tracking import ReviewQueue, TrackingUnavailable
from flows.words import one_line
from flows.workspace import Workspace


@dataclass(frozen=True)
class Shown:
    """Where a batch is seen; nowhere yet, as long as MLflow does not answer.

    Attributes:
        run_id: empty where it is not in MLflow yet.
        url: of the run's page; None where it is not there yet.
        queue: where its images are labelled; None where nothing is asked, or not yet.
    """

    run_id: str
    url: str | None = None
    queue: ReviewQueue | None = None


def show_or_keep(
    note: BatchNote,
    files: Path,
    queue: ReviewQueue | None,
    pipeline: PipelineConfig,
    workspace: Workspace,
    progress: Progress,
    again: bool,
    there: bool,
) -> Shown:
    """Log a batch's run; where an MLflow server does not take it, keep it: what is found is decided either way.

    `there` says whether it answered a moment ago, so that one that hangs is waited for once.
    """
    try:
        if not there:
            raise TrackingUnavailable("it does not answer")
        return _shown(note, files, queue, pipeline, workspace, again)
    except Exception as error:
        if workspace.tracking.embedded:  # what a disk refuses it would refuse the spool
            raise
        folder = Spool.of(workspace.settings.workspace).keep(note, files)
        progress.warn(
            f"MLflow does not take batch {note.batch} ({one_line(str(error), 200)}): its verdict stands, its run waits "
            f"in {folder}, and the next run that reaches MLflow delivers it"
        )
        return Shown("")


def _shown(
    note: BatchNote,
    files: Path,
    queue: ReviewQueue | None,
    pipeline: PipelineConfig,
    workspace: Workspace,
    again: bool,
) -> Shown:
    tracking, ledger = workspace.tracking, workspace.ledger
    before = ledger.batches.history(pipeline.name, 1)
    monitor = monitor_run(pipeline.name, tracking, ledger)
    around = Surroundings(monitor, (before[0].batch, before[0].run_id) if before else None, queue)
    run_id = log_batch(note, files, around, tracking, again)
    return Shown(run_id, tracking.addresses.run(pipeline.name, run_id), queue)


def deliver_runs(pipeline: PipelineConfig, workspace: Workspace, progress: Progress) -> int:
    """Log the runs that wait, the oldest batch first; how many. What fails here waits for the next time."""
    spool = Spool.of(workspace.settings.workspace)
    if not (spool.folder / pipeline.name).is_dir() or not workspace.tracking.answers():
        return 0
    delivered = 0
    with spool.alone(pipeline.name) as alone:
        for kept in spool.waiting(pipeline.name) if alone else ():
            try:
                delivered += _delivered(kept, spool, workspace, progress)
            except Exception as error:
                progress.warn(f"Runs of {pipeline.name} still wait for MLflow: {one_line(str(error), 200)}")
                break
    if delivered:
        progress.say(f"{delivered} runs of {pipeline.name} that waited for MLflow are there now.")
    return delivered


def _delivered(kept: Kept | Damaged, spool: Spool, workspace: Workspace, progress: Progress) -> bool:
    if isinstance(kept, Damaged):
        progress.warn(
            f"The run of batch {kept.batch} that waited for MLflow is damaged and is not delivered: its verdict stands "
            f"in the ledger, and what is left lies in {kept.folder}"
        )
        return False
    record = workspace.ledger.batches.finished(kept.note.key)
    if record is None:  # its attempt died before it was decided, and the next one writes it anew
        return False
    if not record.run_id:
        run_id = log_batch(kept.note, kept.files, _around(record, workspace), workspace.tracking, again=True)
        workspace.ledger.batches.note_run(record.key, run_id)
    spool.drop(kept.note)
    return not record.run_id


def _around(record: BatchRecord, workspace: Workspace) -> Surroundings:
    """Its queue is made by who makes the missing ones, with pictures."""
    monitor = monitor_run(record.pipeline, workspace.tracking, workspace.ledger)
    before = workspace.ledger.batches.decided(record.pipeline, until=record.finished_at)[-1:]
    return Surroundings(monitor, (before[0].batch, before[0].run_id) if before else None)
