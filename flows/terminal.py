"""What the commands have in common: options, exit codes, and what is said where."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from flows.progress import Progress
    from flows.workspace import Workspace

Result = TypeVar("Result")

DEFAULT_CONFIG = Path("pipelines.yaml")
DONE, FAILED, WRONG_INPUT, ALARMED = 0, 1, 2, 3

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="The pipelines.yaml to use.", show_default="pipelines.yaml")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]


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
    path: Path, as_flow: Callable[[str], Result], plain: Callable[["Workspace", "Progress"], Result]
) -> Result:
    """The work as a Prefect flow where a server is at hand, and plainly where none is."""
    from flows.prefect_server import find_server

    settings_of(path)  # a wrong file is said before any server is asked
    server = find_server(os.environ)
    if server.url is not None:
        return as_flow(str(path.absolute()))
    from flows.workspace import open_workspace

    say(f"Prefect records nothing of this: {server.reason}.")
    return plain(open_workspace(path), progress())


def progress() -> "Progress":
    """Bars where a person watches, lines in the log where nobody does."""
    from flows.progress import terminal_or_log

    return terminal_or_log()
