"""The command line: `reconwatch`. What takes long to import is imported by the command that needs it."""

import gc
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ae_models.errors import InputError
from flows.cli_alert import app as alert_app
from flows.cli_backfill import backfill
from flows.cli_codes import app as codes_app
from flows.cli_doctor import doctor
from flows.cli_incidents import watchdog
from flows.cli_prune import prune
from flows.cli_review import review
from flows.cli_serve import deploy, serve, up
from flows.cli_versions import promote, recalibrate, retrain, rollback, versions
from flows.terminal import (
    ALARMED,
    FAILED,
    WRONG_INPUT,
    ConfigOption,
    EngineOption,
    JsonOption,
    complain,
    config_hint,
    config_path,
    engine_from_now_on,
    print_json,
    print_table,
    say,
    settings_of,
)
from flows.terminal import flow_or_plain as _flow_or_plain
from flows.terminal import plain as _plain
from flows.terminal import print_replay as _print_replay
from flows.terminal import progress as _progress
from flows.words import reason_of

if TYPE_CHECKING:
    from flows.progress import Progress
    from flows.running import RunReport
    from flows.scoring import BatchReport
    from flows.workspace import Workspace

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

    written = write_configuration(folder, config_path(context, config), name)
    typer.echo(written.text)
    for note in written.notes:
        say(note)
    say(f"Written to {written.path}. Next: reconwatch run{config_hint(context, config)}")


@app.command()
def check(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="One pipeline; all where none is named.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what is wrong with configuration, data and stores, and what to do."""
    path = config_path(context, config)
    settings_of(path)  # a wrong file is said before the seconds that the next import takes
    from flows.check import check_all

    findings = check_all(path, name, os.environ)
    if as_json:
        print_json([finding.__dict__ for finding in findings])
    else:
        print_table(
            ("", "what", "finding"), [(finding.state, finding.what, finding.sentence) for finding in findings], "Check"
        )
    if any(finding.state == "wrong" for finding in findings):
        raise typer.Exit(WRONG_INPUT)


@app.command()
def train(
    context: typer.Context,
    name: NameArgument,
    config: ConfigOption = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Processes, or GPUs, that train together on this machine (by torchrun).")
    ] = 1,
    as_json: JsonOption = False,
) -> None:
    """Train a pipeline's network on its nominal images.

    A part of them is kept aside for early stopping and for calibration, which has to follow:
    [bold]reconwatch calibrate NAME[/bold].
    """

    from flows.torchrun import help_train, ranks_of, start

    path, ranks = config_path(context, config), ranks_of(os.environ)
    if processes > 1 and ranks.count == 1:
        settings_of(path).pipeline(name)  # a mistake is said once, not by each of them
        more = ["--json"] if as_json else []
        raise typer.Exit(start(processes, ["train", name, "--config", str(path), *more]))
    if ranks.rank:
        return help_train(settings_of(path), name, ranks, _progress())

    def plain(workspace: "Workspace", progress: "Progress") -> Any:
        from flows import running

        return running.train(workspace, name, progress, ranks)

    def as_flow(path: str) -> Any:
        from flows.train import train as train_flow

        return train_flow(path, name)

    report = _flow_or_plain(path, as_flow, plain)
    _print_report(report, as_json)
    say(f"Next: reconwatch calibrate {name}{config_hint(context, config)}")


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

    _print_report(_flow_or_plain(config_path(context, config), as_flow, plain), as_json)


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

    def plain(workspace: "Workspace", progress: "Progress") -> Any:
        from flows import running

        return running.score(workspace, name, paths or [], progress)

    def as_flow(path: str) -> Any:
        from flows.flow_record import report_of
        from flows.score import score as score_flow

        return report_of(score_flow(path, name, [str(path.absolute()) for path in paths or []], return_state=True))

    reports: Sequence[BatchReport] = _flow_or_plain(config_path(context, config), as_flow, plain, goes_on=True)
    if output is not None:
        _write_output(config_path(context, config), name, paths or [], reports, output)
    _print_batches(reports, as_json)
    _exit(any(report.outcome == "failed" for report in reports), fail_on_alarm and any(r.alarm for r in reports))


@app.command()
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

        watch_inboxes(path, names, _progress(), lambda report: _print_run(report, as_json))
        return

    def plain(workspace: "Workspace", progress: "Progress") -> Any:
        from flows import running

        return [running.run(workspace, name, progress) for name in names]

    def as_flow(path: str) -> Any:
        from flows.flow_record import report_of
        from flows.run import run as run_flow

        return [report_of(run_flow(path, name, return_state=True)) for name in names]

    reports = _flow_or_plain(path, as_flow, plain, goes_on=True)
    if as_json:
        print_json([_plain(report) for report in reports])
    else:
        for report in reports:
            _print_learning(report)
        _print_batches([batch for report in reports for batch in report.batches], as_json=False)
    for report in reports:
        if report.failure:
            complain(f"{report.pipeline}: {report.failure}")
    if not as_json and not any(report.failed for report in reports):
        say(f"The pictures: reconwatch ui{config_hint(context, config)}")
    if any(report.wrong_input for report in reports):
        raise typer.Exit(WRONG_INPUT)
    _exit(any(report.failed for report in reports), fail_on_alarm and any(report.alarm for report in reports))


@app.command()
def plan(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="A pipeline, for what it has; none for the defaults.")] = None,
    rate: Annotated[float | None, typer.Option(help="The false-alarm rate of images.")] = None,
    confidence: Annotated[
        float | None, typer.Option(help="That the one calibration keeps the rate, such as 0.95.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images in a batch; by default as in the inbox.")] = None,
    batch_rate: Annotated[float | None, typer.Option(help="The false-alarm rate of batches.")] = None,
    defect_rate: Annotated[
        float | None,
        typer.Option(
            help="The share of defects in a batch that is to be noticed.", show_default="0.05, or the next that can be"
        ),
    ] = None,
    power: Annotated[float, typer.Option(help="The chance with which it is noticed.")] = 0.8,
    detection_rate: Annotated[
        float | None, typer.Option(help="The share of defects that the threshold catches.", show_default="0.8, assumed")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say how many images a wish takes, and what it then gives; a wish that cannot be met is refused with the nearest.

    [bold]reconwatch plan --batch-size 1000 --defect-rate 0.02[/bold] plans before there is anything.
    [bold]reconwatch plan tiles[/bold] says where a pipeline stands.
    """
    path = config_path(context, config)
    pipeline = settings_of(path).pipeline(name) if name else None
    from flows.planning import Wishes, report_of_plan

    wishes = Wishes(rate, confidence, batch_size, batch_rate, defect_rate, power, detection_rate)
    report = report_of_plan(pipeline, wishes, _calibration_images(path, name) if name else None)
    if as_json:
        print_json(_plain(report))
        return
    for sentence in report.sentences():
        typer.echo(sentence)
    rows = [
        (f"{at.calibration_images:,}", f"{at.power:.1%}", "now" if at.calibration_images == report.n_nominal else "")
        for at in report.powers
    ]
    print_table(("calibration images", "such batches that alarm", ""), rows, "Power")


@app.command()
def replay(
    context: typer.Context,
    name: NameArgument,
    rate: Annotated[float, typer.Option(help="The false-alarm rate of images, such as 0.005.", show_default=False)],
    batch_rate: Annotated[
        float | None, typer.Option(help="The false-alarm rate of batches.", show_default="each batch's own")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Only batches decided from this date or time on (UTC).", metavar="DATE")
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Only batches decided until this date, or before this time.", metavar="DATE")
    ] = None,
    config: ConfigOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write one row a batch to this Parquet file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Decide past batches again at another rate, from their stored scores: which ones, and since when?

    [bold]reconwatch replay tiles --rate 0.005 --since 2024-05-01[/bold] says which batches would alarm now. Nothing
    is scored and nothing recorded.
    """
    path = config_path(context, config)
    settings_of(path).pipeline(name)
    from flows.replay import moment
    from flows.replay import replay as replay_batches
    from flows.scoring import write_scores
    from flows.workspace import open_workspace

    after = moment(since, "--since", end_of_day=False) if since else None
    before = moment(until, "--until", end_of_day=True) if until else None
    workspace = open_workspace(path)
    report = replay_batches(
        workspace.settings.pipeline(name),
        rate,
        batch_rate,
        after,
        before,
        workspace.tracking,
        workspace.ledger,
        _progress(),
    )
    if output is not None:
        write_scores(report.table(), output)
    _print_replay(report, as_json)


@app.command()
def status(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show pipelines, champions, last batches, open incidents, and alerts that wait for a channel."""
    path = config_path(context, config)
    settings_of(path)  # as above
    from flows.alerts import in_words
    from flows.status import COLUMNS, pipeline_states
    from flows.workspace import open_workspace

    workspace = open_workspace(path)
    states = pipeline_states(workspace)
    if as_json:
        print_json([_plain(state) for state in states])
        return
    print_table(COLUMNS, [state.cells() for state in states], "Pipelines")
    for state in states:
        for sentence in (*map(in_words, state.waiting_channels), *filter(None, [state.sentence()])):
            typer.echo(sentence)


app.command()(watchdog)
app.command()(review)
app.command()(recalibrate)
app.command()(retrain)
app.command()(promote)
app.command()(rollback)
app.command()(versions)
app.command()(prune)
app.command()(doctor)
app.command()(backfill)
app.command()(serve)
app.command()(deploy)
app.command()(up)


@app.command()
def synth(
    context: typer.Context,
    name: NameArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="An empty or new folder.", show_default=False)],
    per_kind: Annotated[int, typer.Option(min=1, help="Defects of each kind.")] = 20,
    kinds: Annotated[str, typer.Option(help="The kinds, with commas between.", show_default="all of them")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other defects.")] = 0,
    config: ConfigOption = None,
) -> None:
    """Write images with synthetic defects and their masks, made of a pipeline's nominal images.

    The folder has the layout of the MVTec data sets: test/KIND/000.png and ground_truth/KIND/000_mask.png, the nominal
    images they were made of in test/good, and a picture of them all, overview.png.
    """
    pipeline = settings_of(config_path(context, config)).pipeline(name)
    from flows.synth import write_defects

    wished = tuple(kind.strip() for kind in kinds.split(",")) if kinds else None
    for sentence in write_defects(pipeline, output, per_kind, wished, seed, _progress()):
        say(sentence)


@app.command()
def ui(
    context: typer.Context,
    config: ConfigOption = None,
    port: Annotated[int | None, typer.Option(help="The port on 127.0.0.1.", show_default="that of dashboard")] = None,
) -> None:
    """Open the MLflow dashboard on this configuration's stores (stop it with Ctrl-C)."""
    from flows.dashboard import serve_dashboard

    serve_dashboard(settings_of(config_path(context, config)), port, os.environ, say)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where the demo's images and stores go.")] = Path("demo"),
    as_json: JsonOption = False,
) -> None:
    """Run the main job on real embedded images, offline: train, calibrate, score three batches, alert."""
    from flows.demo import run_demo

    reports = run_demo(folder, _progress(), say)
    _print_batches(reports, as_json)
    say(f"To open these addresses, start the dashboard: reconwatch ui --config {folder / 'pipelines.yaml'}")


app.add_typer(codes_app)


def main(arguments: Sequence[str] | None = None) -> None:
    """The console command: every failure is one sentence on standard error and an exit code that says its kind."""
    _quiet()
    gc.set_threshold(10_000)  # imports make many objects that stay: looking through them is a tenth of a short command
    with _sentences_for_failures():
        app(args=list(arguments) if arguments is not None else None)


@contextmanager
def _sentences_for_failures() -> Iterator[None]:
    try:
        yield
    except InputError as error:
        complain(str(error))
        sys.exit(WRONG_INPUT)
    except Exception as error:
        if os.environ.get("RECONWATCH_DEBUG"):
            raise
        complain(f"{reason_of(error)} (RECONWATCH_DEBUG=1 shows where)")
        sys.exit(FAILED)


def _scores_only(
    path: Path, name: str, paths: Sequence[Path], output: Path, fail_on_alarm: bool, as_json: bool
) -> None:
    if fail_on_alarm:
        raise InputError("--output alone gives no verdict that --fail-on-alarm could look at: add --record")
    settings = settings_of(path)
    from flows.scores_only import write_rows

    reports = write_rows(settings, name, paths, output, os.environ, _progress())
    if as_json:
        print_json([_plain(report) for report in reports])
    else:
        for report in reports:
            typer.echo(report.sentence())
    say(f"Wrote {sum(report.scored + report.unreadable for report in reports)} rows to {output}; nothing was recorded.")


def _write_output(path: Path, name: str, paths: Sequence[Path], reports: "Sequence[BatchReport]", output: Path) -> None:
    """One Parquet file with the rows of every batch; those known already are scored again for it."""
    from flows.scores_only import write_rows

    tables = {report.batch: report.table for report in reports if report.table is not None}
    written = write_rows(settings_of(path), name, paths, output, os.environ, _progress(), tables)
    say(f"Wrote {sum(report.scored + report.unreadable for report in written)} rows to {output}.")


def _calibration_images(path: Path, name: str) -> int | None:
    """How many images the threshold of a pipeline's champion is from; None where there is none yet."""
    from flows.workspace import open_workspace

    tracking = open_workspace(path).tracking
    champion = tracking.registry.champion_version(name)
    return tracking.registry.threshold(champion[1]["reconwatch.calibration_run"])[0].n_nominal if champion else None


def _print_report(report: Any, as_json: bool) -> None:
    if as_json:
        print_json(_plain(report))
        return
    for sentence in report.sentences():
        typer.echo(sentence)
    typer.echo(f"MLflow: {report.run_url}")


def _print_run(report: "RunReport", as_json: bool) -> None:
    """What one run of a watch did; nothing where it did nothing."""
    if as_json:
        print_json(_plain(report))
        return
    _print_learning(report)
    if report.batches:
        _print_batches(report.batches, as_json=False)


def _print_learning(report: "RunReport") -> None:
    for part in (report.training, report.calibration):
        if part is not None:
            _print_report(part, as_json=False)


def _print_batches(reports: "Sequence[BatchReport]", as_json: bool) -> None:
    if as_json:
        print_json([_plain(report) for report in reports])
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
