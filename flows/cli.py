"""The command line: `reconwatch`. What takes long to import is imported by the command that needs it."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ae_models.errors import InputError
from flows.cli_alert import app as alert_app
from flows.cli_incidents import watchdog
from flows.terminal import ALARMED, FAILED, WRONG_INPUT, ConfigOption, JsonOption
from flows.terminal import complain as _complain
from flows.terminal import config_hint as _config_hint
from flows.terminal import config_path as _config
from flows.terminal import print_json as _print_json
from flows.terminal import print_table as _print_table
from flows.terminal import say as _say
from flows.terminal import settings_of as _settings

if TYPE_CHECKING:
    from flows.progress import Progress
    from flows.running import RunReport
    from flows.scoring import BatchReport
    from flows.workspace import Workspace

Result = TypeVar("Result")

app = typer.Typer(
    name="reconwatch",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="From nothing to a flagged batch: [bold]reconwatch init FOLDER[/bold], then [bold]reconwatch run[/bold]. "
    "Exit codes: 0 done, 1 failed, 2 your input is wrong, 3 a batch alarmed (with --fail-on-alarm).",
)
app.add_typer(alert_app, name="alert")

NameArgument = Annotated[str, typer.Argument(help="The pipeline's name in pipelines.yaml.", show_default=False)]
FailOption = Annotated[bool, typer.Option("--fail-on-alarm", help="Exit with 3 where a batch raised an alarm.")]


@app.callback()
def main_options(context: typer.Context, config: ConfigOption = None) -> None:
    """Watch streams of images for outliers with autoencoders.

    Training learns what nominal images look like; calibration finds the reconstruction error above which an image is
    flagged; scoring judges each new batch, records it in MLflow, and raises an alert where it is off.
    """
    context.obj = config


@app.command()
def init(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="A folder with nominal images, or with subfolders of them.")],
    config: ConfigOption = None,
    name: Annotated[str, typer.Option(help="The pipeline's name; by default the folder's.")] = "",
) -> None:
    """Write a pipelines.yaml for the images found in FOLDER, or add a pipeline to the one that is there.

    Nominal images may lie in the folder itself or in nominal/, good/ or train/good/; batches in inbox/; images with
    labels in test/, a subfolder a label.
    """
    from flows.init import write_configuration

    written = write_configuration(folder, _config(context, config), name)
    typer.echo(written.text)
    for note in written.notes:
        _say(note)
    _say(f"Written to {written.path}. Next: reconwatch run{_config_hint(context, config)}")


@app.command()
def check(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="One pipeline; all where none is named.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what is wrong with configuration, data and stores, and what to do."""
    path = _config(context, config)
    _settings(path)  # a wrong file is said before the seconds that the next import takes
    from flows.check import check_all

    findings = check_all(path, name, os.environ)
    if as_json:
        _print_json([finding.__dict__ for finding in findings])
    else:
        _print_table(
            ("", "what", "finding"), [(finding.state, finding.what, finding.sentence) for finding in findings], "Check"
        )
    if any(finding.state == "wrong" for finding in findings):
        raise typer.Exit(WRONG_INPUT)


@app.command()
def train(context: typer.Context, name: NameArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Train a pipeline's network on its nominal images.

    A part of them is kept aside for early stopping and for calibration, which has to follow:
    [bold]reconwatch calibrate NAME[/bold].
    """

    def plain(workspace: "Workspace", progress: "Progress") -> Any:
        from flows import running

        return running.train(workspace, name, progress)

    def as_flow(path: str) -> Any:
        from flows.train import train as train_flow

        return train_flow(path, name)

    report = _flow_or_plain(_config(context, config), as_flow, plain)
    _print_report(report, as_json)
    _say(f"Next: reconwatch calibrate {name}{_config_hint(context, config)}")


@app.command()
def calibrate(
    context: typer.Context, name: NameArgument, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Find a pipeline's threshold on images that training never saw, and let it decide batches from now on."""

    def plain(workspace: "Workspace", progress: "Progress") -> Any:
        from flows import running

        return running.calibrate(workspace, name, progress)

    def as_flow(path: str) -> Any:
        from flows.calibrate import calibrate as calibrate_flow

        return calibrate_flow(path, name)

    _print_report(_flow_or_plain(_config(context, config), as_flow, plain), as_json)


@app.command()
def score(
    context: typer.Context,
    name: NameArgument,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders (a batch each) or image files (one batch together); none for the inbox."),
    ] = None,
    config: ConfigOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write one row an image to this Parquet file.")
    ] = None,
    fail_on_alarm: FailOption = False,
    as_json: JsonOption = False,
) -> None:
    """Score images: the given PATHS, or the batches of the inbox that are not scored yet.

    [bold]reconwatch score tiles[/bold] scores what is due in the inbox.
    [bold]reconwatch score tiles photos/monday --output monday.parquet[/bold] scores a folder and writes its scores.
    Each batch is recorded once; to score it again records nothing new.
    """
    if output is not None and not paths:
        raise InputError("--output needs PATHs: name the folders or images whose scores to write")

    def plain(workspace: "Workspace", progress: "Progress") -> Any:
        from flows import running

        return running.score(workspace, name, paths or [], progress)

    def as_flow(path: str) -> Any:
        from flows.flow_record import report_of
        from flows.score import score as score_flow

        return report_of(score_flow(path, name, [str(path.absolute()) for path in paths or []], return_state=True))

    reports: Sequence[BatchReport] = _flow_or_plain(_config(context, config), as_flow, plain)
    if output is not None:
        _write_output(context, config, name, paths or [], reports, output)
    _print_batches(reports, as_json)
    _exit(any(report.outcome == "failed" for report in reports), fail_on_alarm and any(r.alarm for r in reports))


@app.command()
def run(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(help="Pipelines; all where none is named.")] = None,
    config: ConfigOption = None,
    fail_on_alarm: FailOption = False,
    as_json: JsonOption = False,
) -> None:
    """Do whatever is due: train, calibrate, score new batches, send alerts.

    Safe to repeat and to kill: it goes on where it was. Put it on a schedule as it is, with
    [bold]--fail-on-alarm[/bold] where the exit code should tell.
    """
    reports: list[RunReport] = []
    path = _config(context, config)
    names = names or list(_settings(path).pipelines)
    unknown = [name for name in names if name not in _settings(path).pipelines]
    if unknown:
        _settings(path).pipeline(unknown[0])

    def plain(workspace: "Workspace", progress: "Progress") -> Any:
        from flows import running

        return [running.run(workspace, name, progress) for name in names]

    def as_flow(path: str) -> Any:
        from flows.flow_record import report_of
        from flows.run import run as run_flow

        return [report_of(run_flow(path, name, return_state=True)) for name in names]

    reports = _flow_or_plain(path, as_flow, plain)
    if as_json:
        _print_json([_plain(report) for report in reports])
    else:
        for report in reports:
            for part in (report.training, report.calibration):
                if part is not None:
                    _print_report(part, as_json=False)
        _print_batches([batch for report in reports for batch in report.batches], as_json=False)
    for report in reports:
        if report.failure:
            _complain(f"{report.pipeline}: {report.failure}")
    if not as_json and not any(report.failed for report in reports):
        _say(f"The pictures: reconwatch ui{_config_hint(context, config)}")
    if any(report.wrong_input for report in reports):
        raise typer.Exit(WRONG_INPUT)
    _exit(any(report.failed for report in reports), fail_on_alarm and any(report.alarm for report in reports))


@app.command()
def status(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show pipelines, champions, last batches, open incidents, and alerts that wait for a channel."""
    path = _config(context, config)
    _settings(path)  # as above
    from flows.alerts import in_words
    from flows.status import pipeline_states
    from flows.workspace import open_workspace

    workspace = open_workspace(path)
    states = pipeline_states(workspace)
    if as_json:
        _print_json([_plain(state) for state in states])
        return
    columns = (
        "pipeline",
        "state",
        "champion",
        "threshold",
        "batches",
        "last batch",
        "open incidents",
        "alerts waiting",
    )
    rows = [
        (
            state.name,
            state.state,
            state.champion or "none",
            state.threshold or "",
            str(state.batches),
            state.last_batch or "none",
            ", ".join(state.open_incidents) or "none",
            str(state.alerts_waiting),
        )
        for state in states
    ]
    _print_table(columns, rows, "Pipelines")
    for state in states:
        for waiting in state.waiting_channels:
            typer.echo(in_words(waiting))


app.command()(watchdog)


@app.command()
def ui(
    context: typer.Context,
    config: ConfigOption = None,
    port: Annotated[int | None, typer.Option(help="The port on 127.0.0.1.", show_default="that of dashboard")] = None,
) -> None:
    """Open the MLflow dashboard on this configuration's stores (stop it with Ctrl-C)."""
    from flows.dashboard import serve_dashboard

    serve_dashboard(_settings(_config(context, config)), port, os.environ, _say)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where the demo's images and stores go.")] = Path("demo"),
    as_json: JsonOption = False,
) -> None:
    """Run the main job on real embedded images, offline: train, calibrate, score three batches, alert."""
    from flows.demo import run_demo

    reports = run_demo(folder, _progress(), _say)
    _print_batches(reports, as_json)
    _say(f"To open these addresses, start the dashboard: reconwatch ui --config {folder / 'pipelines.yaml'}")


def main(arguments: Sequence[str] | None = None) -> None:
    """The console command: every failure is one sentence on standard error and an exit code that says its kind."""
    _quiet()
    with _sentences_for_failures():
        app(args=list(arguments) if arguments is not None else None)


@contextmanager
def _sentences_for_failures() -> Iterator[None]:
    try:
        yield
    except InputError as error:
        _complain(str(error))
        sys.exit(WRONG_INPUT)
    except Exception as error:
        if os.environ.get("RECONWATCH_DEBUG"):
            raise
        _complain(f"{str(error) or type(error).__name__} (RECONWATCH_DEBUG=1 shows where)")
        sys.exit(FAILED)


def _flow_or_plain(
    path: Path, as_flow: Callable[[str], Result], plain: Callable[["Workspace", "Progress"], Result]
) -> Result:
    """The work as a Prefect flow where a server is at hand, and plainly where none is."""
    from flows.prefect_server import find_server

    _settings(path)  # a wrong file is said before any server is asked
    server = find_server(os.environ)
    if server.url is not None:
        return as_flow(str(path.absolute()))
    from flows.workspace import open_workspace

    _say(f"Prefect records nothing of this: {server.reason}.")
    return plain(open_workspace(path), _progress())


def _write_output(
    context: typer.Context,
    config: Path | None,
    name: str,
    paths: Sequence[Path],
    reports: "Sequence[BatchReport]",
    output: Path,
) -> None:
    """One Parquet file with the rows of every batch; those known already are scored again for it."""
    import pandas as pd

    from flows.scoring import score_batch, write_scores
    from flows.sources import path_batches
    from flows.workspace import open_workspace

    tables = {report.batch: report.table for report in reports if report.table is not None}
    batches = path_batches(paths)
    if absent := [batch for batch in batches if batch.id not in tables and batch.items]:
        workspace = open_workspace(_config(context, config))
        champion, pipeline = workspace.tracking.champion(name).champion, workspace.settings.pipeline(name)
        for batch in absent:
            tables[batch.id] = score_batch(batch, champion, pipeline, _progress(), lambda: None).table
    if not tables:
        raise InputError(f"there is no image in {', '.join(map(str, paths))}: nothing was written to {output}")
    write_scores(pd.concat([tables[batch.id] for batch in batches if batch.id in tables], ignore_index=True), output)
    _say(f"Wrote {sum(map(len, tables.values()))} rows to {output}.")


def _print_report(report: Any, as_json: bool) -> None:
    if as_json:
        _print_json(_plain(report))
        return
    for sentence in report.sentences():
        typer.echo(sentence)
    typer.echo(f"MLflow: {report.run_url}")


def _print_batches(reports: "Sequence[BatchReport]", as_json: bool) -> None:
    if as_json:
        _print_json([_plain(report) for report in reports])
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
    _print_table(("pipeline", "batch", "verdict", "scored", "flagged", "unreadable"), rows, "Batches")
    for report in reports:  # below the table: a terminal would cut addresses into pieces there
        if report.run_url:
            typer.echo(f"{report.batch}: {report.run_url}")
    for report in reports:
        if report.verdict is not None and report.verdict.alarm:
            typer.echo(f"ALARM {report.batch}: {' '.join(report.verdict.sentences())}")
        if report.outcome == "failed":
            _complain(f"batch {report.batch}: {report.reason}; it is tried again by the next run")


def _plain(report: Any) -> Any:
    """A report as JSON values, without the rows of its images."""
    from dataclasses import fields, is_dataclass

    if is_dataclass(report):
        values = {field.name: _plain(getattr(report, field.name)) for field in fields(report) if field.name != "table"}
        return values | ({"alarm": report.alarm} if hasattr(report, "alarm") else {})
    if isinstance(report, list | tuple):
        return [_plain(part) for part in report]
    return report


def _progress() -> "Progress":
    from flows.progress import terminal_or_log

    return terminal_or_log()


def _exit(failed: bool, alarmed: bool) -> None:
    if failed or alarmed:
        raise typer.Exit(FAILED if failed else ALARMED)


def _quiet() -> None:
    """Keep libraries' own notices away from what we say; warnings of ours go through logging."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "reconwatch",
    }.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", module=r"(mlflow|prefect|torch)\b")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("reconwatch").setLevel(logging.INFO)


if __name__ == "__main__":
    main()
