"""What the commands have in common: options, exit codes, and what is said where."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ae_models.errors import InputError

if TYPE_CHECKING:
    from flows.progress import Progress
    from flows.replay import Replay
    from flows.workspace import Workspace

Result = TypeVar("Result")

DEFAULT_CONFIG = Path("pipelines.yaml")
DONE, FAILED, WRONG_INPUT, ALARMED = 0, 1, 2, 3

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="The pipelines.yaml to use.", show_default="pipelines.yaml")
]
NameArgument = Annotated[str, typer.Argument(help="The pipeline's name in pipelines.yaml.", show_default=False)]
SinceOption = Annotated[
    str | None, typer.Option(help="Only batches decided from this date or time on (UTC).", metavar="DATE")
]
UntilOption = Annotated[
    str | None, typer.Option(help="Only batches decided until this date, or before this time.", metavar="DATE")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
EngineOption = Annotated[
    str | None,
    typer.Option(
        "--engine",
        metavar="[auto|torch|onnxruntime|openvino|int8]",
        help="What scores images.",
        show_default="what pipelines.yaml or RECONWATCH_ENGINE says",
    ),
]


def engine_from_now_on(engine: str | None) -> None:
    """Let an engine score in this command, whatever pipelines.yaml says; None changes nothing."""
    if engine is None:
        return
    from flows.config import ENGINES

    if engine not in ENGINES:
        raise InputError(f"--engine is {engine!r}: choose one of {', '.join(ENGINES)}")
    os.environ["RECONWATCH_ENGINE"] = engine


def config_path(context: typer.Context, given: Path | None) -> Path:
    """The configuration that was named after the command, or before it, or the default one."""
    path: Path = given or context.obj or DEFAULT_CONFIG
    return path


def config_hint(context: typer.Context, given: Path | None) -> str:
    """What to add to a command that is recommended, so that it uses the same configuration."""
    path = config_path(context, given)
    return "" if path == DEFAULT_CONFIG else f" --config {path}"


def settings_of(path: Path) -> Any:
    """The settings in the file; raises InputError with every fault of it."""
    from flows.config import load

    return load(path, os.environ)


def say(sentence: str) -> None:
    """A sentence for people, on standard error."""
    typer.echo(sentence, err=True)


def complain(sentence: str) -> None:
    """A sentence on what is wrong, on standard error."""
    typer.secho(f"Error: {sentence}", err=True, fg="red")


def print_json(value: Any) -> None:
    """The value as JSON on standard output."""
    typer.echo(json.dumps(value, indent=2, default=str))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    """A table on standard output."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    width = None if sys.stdout.isatty() else 200  # in a file, an address is worth more than a narrow table
    Console(width=width).print(table)


def flow_or_plain(
    path: Path,
    as_flow: Callable[[str], Result],
    plain: Callable[["Workspace", "Progress"], Result],
    goes_on: bool = False,
) -> Result:
    """The work as a Prefect flow where a server is at hand, and plainly where none is.

    An MLflow server that does not answer is waited for; then the work `goes_on` without it, or fails.
    """
    from flows.prefect_server import find_server

    settings_of(path)  # a wrong file is said before any server is asked
    server = find_server(os.environ)
    if server.url is not None:
        from flows.flow_record import without_heartbeats

        with without_heartbeats(os.environ):
            return as_flow(str(path.absolute()))
    from flows.workspace import Patience, open_workspace

    say(f"Prefect records nothing of this: {server.reason}.")
    shown = progress()
    return plain(open_workspace(path, patience=Patience(waits=True, goes_on=goes_on, say=shown.warn)), shown)


def progress() -> "Progress":
    """Bars where a person watches, lines in the log where nobody does."""
    from flows.progress import terminal_or_log

    return terminal_or_log()


def print_report(report: Any, as_json: bool) -> None:
    """What a report says, and the address of its run."""
    if as_json:
        print_json(plain(report))
        return
    for sentence in report.sentences():
        typer.echo(sentence)
    typer.echo(f"MLflow: {report.run_url}")


def print_replay(report: "Replay", as_json: bool, sentences: Sequence[str] = ()) -> None:
    """The batches of a replay, then and now, and below them its sentences, or these."""
    if as_json:
        print_json(plain(report) | {"first_alarm": report.alarms[0].batch if report.alarms else None})
        return
    rows = []
    for batch in report.batches:
        then, now = batch.then, batch.now
        before = "?" if then.threshold is None else f"{then.threshold:.4g}"
        rows.append(
            (
                batch.batch,
                f"{batch.decided_at:%Y-%m-%d %H:%M}",
                batch.version,
                f"{before} -> {now.threshold:.4g}" if now else before,
                f"{then.flagged} -> {now.flagged} of {batch.scored}" if now else f"{then.flagged} of {batch.scored}",
                f"{then.verdict} -> {now.verdict}" if now and batch.changed else then.verdict,
                "changed" if batch.changed else "" if now else "not decided again",
            )
        )
    columns = ("batch", "decided (UTC)", "version", "threshold", "flagged", "verdict", "")
    print_table(columns, rows, "Decided again")
    for sentence in sentences or report.sentences():
        typer.echo(sentence)
    for batch in report.batches:
        if batch.reason:
            say(f"{batch.batch}: {batch.reason}")


def plain(report: Any) -> Any:
    """A report as JSON values, without the rows of its images."""
    from dataclasses import fields, is_dataclass

    if is_dataclass(report):
        values = {field.name: plain(getattr(report, field.name)) for field in fields(report) if field.name != "table"}
        return values | ({"alarm": report.alarm} if hasattr(report, "alarm") else {})
    if isinstance(report, list | tuple):
        return [plain(part) for part in report]
    return report
