"""The command line: `reconwatch`. What takes long to import is imported by the command that needs it."""

import gc
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from ae_models.errors import InputError
from flows.cli_alert import app as alert_app
from flows.cli_backfill import backfill
from flows.cli_codes import app as codes_app
from flows.cli_doctor import doctor
from flows.cli_incidents import watchdog
from flows.cli_plan import plan, replay
from flows.cli_prune import prune
from flows.cli_review import review
from flows.cli_score import print_batches, run, score
from flows.cli_serve import deploy, serve, up
from flows.cli_train import calibrate, train
from flows.cli_versions import promote, recalibrate, retrain, rollback, versions
from flows.terminal import (
    FAILED,
    WRONG_INPUT,
    ConfigOption,
    JsonOption,
    NameArgument,
    complain,
    config_hint,
    config_path,
    plain,
    print_json,
    print_table,
    progress,
    say,
    settings_of,
)
from flows.words import reason_of

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


app.command()(train)
app.command()(calibrate)
app.command()(score)
app.command()(run)
app.command()(plan)
app.command()(replay)


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
        print_json([plain(state) for state in states])
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
    for sentence in write_defects(pipeline, output, per_kind, wished, seed, progress()):
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

    reports = run_demo(folder, progress(), say)
    print_batches(reports, as_json)
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
