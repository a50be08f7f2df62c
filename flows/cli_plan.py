"""The commands that ask what another wish would give: `plan` beforehand, and `replay` over past batches."""

from pathlib import Path
from typing import Annotated

import typer

from flows.terminal import (
    ConfigOption,
    JsonOption,
    NameArgument,
    SinceOption,
    UntilOption,
    config_path,
    plain,
    print_json,
    print_replay,
    print_table,
    progress,
    settings_of,
)


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
        print_json(plain(report))
        return
    for sentence in report.sentences():
        typer.echo(sentence)
    rows = [
        (f"{at.calibration_images:,}", f"{at.power:.1%}", "now" if at.calibration_images == report.n_nominal else "")
        for at in report.powers
    ]
    print_table(("calibration images", "such batches that alarm", ""), rows, "Power")


def replay(
    context: typer.Context,
    name: NameArgument,
    rate: Annotated[float, typer.Option(help="The false-alarm rate of images, such as 0.005.", show_default=False)],
    batch_rate: Annotated[
        float | None, typer.Option(help="The false-alarm rate of batches.", show_default="each batch's own")
    ] = None,
    since: SinceOption = None,
    until: UntilOption = None,
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
        progress(),
    )
    if output is not None:
        write_scores(report.table(), output)
    print_replay(report, as_json)


def _calibration_images(path: Path, name: str) -> int | None:
    """How many images the threshold of a pipeline's champion is from; None where there is none yet."""
    from flows.workspace import open_workspace

    tracking = open_workspace(path).tracking
    champion = tracking.registry.champion_version(name)
    return tracking.registry.threshold(champion[1]["reconwatch.calibration_run"])[0].n_nominal if champion else None
