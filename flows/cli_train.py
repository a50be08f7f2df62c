"""The commands that learn: `train` and `calibrate`."""

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.terminal import (
    ConfigOption,
    JsonOption,
    NameArgument,
    config_hint,
    config_path,
    flow_or_plain,
    print_report,
    progress,
    say,
    settings_of,
)

if TYPE_CHECKING:
    from flows.progress import Progress
    from flows.workspace import Workspace


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
        return help_train(settings_of(path), name, ranks, progress())

    def plainly(workspace: "Workspace", shown: "Progress") -> Any:
        from flows import running

        return running.train(workspace, name, shown, ranks)

    def as_flow(path: str) -> Any:
        from flows.train import train as train_flow

        return train_flow(path, name)

    report = flow_or_plain(path, as_flow, plainly)
    print_report(report, as_json)
    say(f"Next: reconwatch calibrate {name}{config_hint(context, config)}")


def calibrate(
    context: typer.Context, name: NameArgument, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Find a pipeline's threshold on images that training never saw, and let it decide batches from now on."""

    def plainly(workspace: "Workspace", shown: "Progress") -> Any:
        from flows import running

        return running.calibrate(workspace, name, shown)

    def as_flow(path: str) -> Any:
        from flows.calibrate import calibrate as calibrate_flow

        return calibrate_flow(path, name)

    print_report(flow_or_plain(config_path(context, config), as_flow, plainly), as_json)
