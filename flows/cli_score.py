"""The commands that decide batches: `score` and `run`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ae_models.errors import InputError
from flows.terminal import (
    ALARMED,
    FAILED,
    WRONG_INPUT,
    ConfigOption,
    EngineOption,
    JsonOption,
    NameArgument,
    complain,
    config_hint,
    config_path,
    engine_from_now_on,
    flow_or_plain,
    plain,
    print_json,
    print_report,
    print_table,
    progress,
    say,
    settings_of,
)

if TYPE_CHECKING:
    from flows.progress import Progress
    from flows.running import RunReport
    from flows.scoring import BatchReport
    from flows.workspace import Workspace

FailOption = Annotated[bool, typer.Option("--fail-on-alarm", help="Exit with 3 where a batch raised an alarm.")]


def score(
    context: typer.Context,
    name: NameArgument,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders (a batch each) or image files (one batch together); none for the inbox."),
    ] = None,
    config: ConfigOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write one row an image of the PATHS to this Parquet file; record nothing."
        ),
    ] = None,
    fail_on_alarm: FailOption = False,
    engine: EngineOption = None,
    record: Annotated[
        bool, typer.Option("--record", help="With --output: also record the batches, as without it.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Score images: the given PATHS, or the batches of the inbox that are not scored yet.

    [bold]reconwatch score tiles[/bold] scores what is due in the inbox.
    [bold]reconwatch score tiles photos/monday[/bold] scores a folder as a batch, and records it.
    [bold]reconwatch score tiles photos/monday --output monday.parquet[/bold] writes its scores to a file, and records
    nothing. Each batch is recorded once; to score it again records nothing new.
    """
    engine_from_now_on(engine)
    if output is not None and not paths:
        raise InputError("--output needs PATHs: name the folders or images whose scores to write")
    if output is not None and not record:
        _scores_only(config_path(context, config), name, paths or [], output, fail_on_alarm, as_json)
        return

    def plainly(workspace: "Workspace", shown: "Progress") -> Any:
        from flows import running

        return running.score(workspace, name, paths or [], shown)

    def as_flow(path: str) -> Any:
        from flows.flow_record import report_of
        from flows.score import score as score_flow

        return report_of(score_flow(path, name, [str(path.absolute()) for path in paths or []], return_state=True))

    reports: Sequence[BatchReport] = flow_or_plain(config_path(context, config), as_flow, plainly, goes_on=True)
    if output is not None:
        _write_output(config_path(context, config), name, paths or [], reports, output)
    print_batches(reports, as_json)
    _exit(any(report.outcome == "failed" for report in reports), fail_on_alarm and any(r.alarm for r in reports))


def run(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(help="Pipelines; all where none is named.")] = None,
    config: ConfigOption = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on: score each batch within seconds of being complete.")
    ] = False,
    fail_on_alarm: FailOption = False,
    engine: EngineOption = None,
    as_json: JsonOption = False,
) -> None:
    """Do whatever is due: train, calibrate, score new batches, send alerts.

    Safe to repeat and to kill: it goes on where it was. Put it on a schedule as it is, with
    [bold]--fail-on-alarm[/bold] where the exit code should tell; or let it wait for batches itself, with
    [bold]--watch[/bold], until Ctrl-C or SIGTERM.
    """
    engine_from_now_on(engine)
    reports: list[RunReport] = []
    path = config_path(context, config)
    names = names or list(settings_of(path).pipelines)
    unknown = [name for name in names if name not in settings_of(path).pipelines]
    if unknown:
        settings_of(path).pipeline(unknown[0])
    if watch:
        from flows.cli_watch import watch as watch_inboxes

        watch_inboxes(path, names, progress(), lambda report: _print_run(report, as_json))
        return

    def plainly(workspace: "Workspace", shown: "Progress") -> Any:
        from flows import running

        return [running.run(workspace, name, shown) for name in names]

    def as_flow(path: str) -> Any:
        from flows.flow_record import report_of
        from flows.run import run as run_flow

        return [report_of(run_flow(path, name, return_state=True)) for name in names]

    reports = flow_or_plain(path, as_flow, plainly, goes_on=True)
    if as_json:
        print_json([plain(report) for report in reports])
    else:
        for report in reports:
            _print_learning(report)
        print_batches([batch for report in reports for batch in report.batches], as_json=False)
    for report in reports:
        if report.failure:
            complain(f"{report.pipeline}: {report.failure}")
    if not as_json and not any(report.failed for report in reports):
        say(f"The pictures: reconwatch ui{config_hint(context, config)}")
    if any(report.wrong_input for report in reports):
        raise typer.Exit(WRONG_INPUT)
    _exit(any(report.failed for report in reports), fail_on_alarm and any(report.alarm for report in reports))


def _scores_only(
    path: Path, name: str, paths: Sequence[Path], output: Path, fail_on_alarm: bool, as_json: bool
) -> None:
    if fail_on_alarm:
        raise InputError("--output alone gives no verdict that --fail-on-alarm could look at: add --record")
    settings = settings_of(path)
    from flows.scores_only import write_rows

    reports = write_rows(settings, name, paths, output, os.environ, progress())
    if as_json:
        print_json([plain(report) for report in reports])
    else:
        for report in reports:
            typer.echo(report.sentence())
    say(f"Wrote {sum(report.scored + report.unreadable for report in reports)} rows to {output}; nothing was recorded.")


def _write_output(path: Path, name: str, paths: Sequence[Path], reports: "Sequence[BatchReport]", output: Path) -> None:
    """One Parquet file with the rows of every batch; those known already are scored again for it."""
    from flows.scores_only import write_rows

    tables = {report.batch: report.table for report in reports if report.table is not None}
    written = write_rows(settings_of(path), name, paths, output, os.environ, progress(), tables)
    say(f"Wrote {sum(report.scored + report.unreadable for report in written)} rows to {output}.")


def _print_run(report: "RunReport", as_json: bool) -> None:
    """What one run of a watch did; nothing where it did nothing."""
    if as_json:
        print_json(plain(report))
        return
    _print_learning(report)
    if report.batches:
        print_batches(report.batches, as_json=False)


def _print_learning(report: "RunReport") -> None:
    for part in (report.training, report.calibration):
        if part is not None:
            print_report(part, as_json=False)


def print_batches(reports: "Sequence[BatchReport]", as_json: bool) -> None:
    if as_json:
        print_json([plain(report) for report in reports])
        return
    if not reports:
        typer.echo("No batch is due.")
        return
    rows = []
    for report in reports:
        verdict = report.verdict
        counts = (str(verdict.scored), str(verdict.flagged), str(verdict.unreadable)) if verdict else ("", "", "")
        known = {"known": "scored before", "busy": report.reason}.get(report.outcome, report.outcome)
        outcome = (verdict.diagnosis if verdict.alarm else "nominal") if verdict else known
        rows.append((report.pipeline, report.batch, outcome, *counts))
    print_table(("pipeline", "batch", "verdict", "scored", "flagged", "unreadable"), rows, "Batches")
    for report in reports:  # below the table: a terminal would cut addresses into pieces there
        if report.run_url:
            typer.echo(f"{report.batch}: {report.run_url}")
    for report in reports:
        if report.verdict is not None and report.verdict.alarm:
            typer.echo(f"ALARM {report.batch}: {' '.join(report.verdict.sentences())}")
        if report.stream:
            typer.echo(f"ALARM stream of {report.pipeline}: {' '.join(report.stream)}")
        if report.outcome == "failed":
            complain(f"batch {report.batch}: {report.reason}; it is tried again by the next run")


def _exit(failed: bool, alarmed: bool) -> None:
    if failed or alarmed:
        raise typer.Exit(FAILED if failed else ALARMED)
