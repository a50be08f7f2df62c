"""The Prefect flow that scores batches, one task a batch."""

from collections.abc import Sequence
from pathlib import Path

from prefect import State, flow, task
from prefect.cache_policies import NO_CACHE

from flows import running
from flows.config import PipelineConfig
from flows.flow_record import PartFailedError, failed, flow_progress, flow_workspace, record, report_of
from flows.progress import Progress
from flows.scoring import BatchReport
from flows.shard_tasks import Here, as_tasks
from flows.sources import Batch
from flows.tracking import ChampionVersion
from flows.workspace import Workspace


@flow(name="score", flow_run_name="score-{pipeline}", validate_parameters=True)
def score(
    config: str, pipeline: str, paths: Sequence[str] = ()
) -> tuple[BatchReport, ...] | State[tuple[BatchReport, ...]]:
    """Score the paths, or whatever is due in the pipeline's inbox; record verdicts and send alerts.

    Args:
        config: path of pipelines.yaml.
        pipeline: its name there.
        paths: folders (a batch each) or image files (one batch together); none for the inbox.
    """
    try:
        workspace = flow_workspace(config, goes_on=True)
        reports = running.score(workspace, pipeline, [Path(path) for path in paths], flow_progress(), score_as_task)
        if reports:  # a schedule finds nothing due most of the time, and pages of that help nobody
            record(workspace, f"score-{pipeline}", workspace.tracking.addresses.pipeline(pipeline), sentences(reports))
    except Exception as error:
        return failed(error)
    failure = running.failures(reports)
    return failed(PartFailedError(failure, reports)) if failure else reports


def score_as_task(
    pipeline: PipelineConfig,
    batch: Batch,
    champion: ChampionVersion,
    workspace: Workspace,
    progress: Progress,
    again: bool = False,
) -> BatchReport:
    """Score one batch as a Prefect task, so that its flow run shows a line for it, and the shards of a big one."""
    run_shards = as_tasks(pipeline.runner)
    score_it = Here(lambda: running.score_one(pipeline, batch, champion, workspace, progress, again, run_shards))
    name = f"{pipeline.name} {batch.id}"

    # its name as a text would have Prefect look for parameters between braces
    @task(name="score batch", task_run_name=lambda: name, cache_policy=NO_CACHE)
    def score_batch() -> BatchReport | State[BatchReport]:
        report = score_it()
        return failed(PartFailedError(report.reason, report)) if report.outcome == "failed" else report

    report: BatchReport = report_of(score_batch(return_state=True))
    return report


def sentences(reports: Sequence[BatchReport]) -> list[str]:
    """A line for each batch."""
    lines = []
    for report in reports:
        words = " ".join(report.verdict.sentences()) if report.verdict else report.reason
        lines.append(f"{report.batch}: {report.outcome}. {words}")
        lines += [f"The stream: {sentence}" for sentence in report.stream]
    return lines or ["No batch was due."]
