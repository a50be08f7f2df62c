"""The commands that say who decides: `reconwatch recalibrate`, `retrain`, `promote`, `rollback` and `versions`."""

import sys
from getpass import getuser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.terminal import (
    FAILED,
    ConfigOption,
    JsonOption,
    NameArgument,
    SinceOption,
    UntilOption,
    config_hint,
    config_path,
    flow_or_plain,
    plain,
    print_json,
    print_replay,
    print_report,
    print_table,
    progress,
    say,
    settings_of,
)

if TYPE_CHECKING:
    from datetime import datetime

    from flows.lineage import ThresholdRecord
    from flows.progress import Progress
    from flows.recalibration import Recalibration
    from flows.workspace import Workspace

ByOption = Annotated[str | None, typer.Option(help="Who says so.", show_default="your user name")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]


def recalibrate(
    context: typer.Context,
    name: NameArgument,
    since: SinceOption = None,
    until: UntilOption = None,
    yes: YesOption = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find a new threshold on the nominal images of the random audit, and show what it would have changed.

    It takes effect with [bold]--yes[/bold], or where you say so. Batches that are decided stay decided.
    """
    path = config_path(context, config)
    settings_of(path).pipeline(name)
    from flows.replay import moment

    after = moment(since, "--since", end_of_day=False) if since else None
    before = moment(until, "--until", end_of_day=True) if until else None
    plan = _planned(path, name, after, before)
    if as_json and not yes:
        print_json(plain(plan) | {"scores": plan.scores.tolist()})
        return
    if not as_json:
        print_replay(plan.preview, as_json=False, sentences=plan.sentences())
    if not (yes or _agreed("Let this threshold decide from now on?")):
        say(f"Nothing was changed: reconwatch recalibrate {name}{config_hint(context, config)} --yes changes it.")
        return

    def plainly(workspace: "Workspace", progress: "Progress") -> Any:
        from flows import running

        return running.recalibrate(workspace, name, after, before, progress)

    def as_flow(path: str) -> Any:
        from flows.flow_record import report_of
        from flows.review import recalibrate as recalibrate_flow

        return report_of(recalibrate_flow(path, name, after, before, return_state=True))

    report = flow_or_plain(path, as_flow, plainly)
    if as_json:
        print_json(plain(report))
        return
    _print_lineage(report.lineage)
    for sentence in report.sentences():
        typer.echo(sentence)
    typer.echo(f"MLflow: {report.run_url}")


def retrain(
    context: typer.Context, name: NameArgument, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Train a challenger on the nominal images and on those that people confirmed to be nominal.

    It scores the same batches as the champion, in its shadow, and decides none before [bold]reconwatch promote[/bold].
    """

    def plainly(workspace: "Workspace", progress: "Progress") -> Any:
        from flows import running

        return running.retrain(workspace, name, progress)

    def as_flow(path: str) -> Any:
        from flows.flow_record import report_of
        from flows.review import retrain as retrain_flow

        return report_of(retrain_flow(path, name, return_state=True))

    print_report(flow_or_plain(config_path(context, config), as_flow, plainly), as_json)


def promote(
    context: typer.Context,
    name: NameArgument,
    version: Annotated[str | None, typer.Option(help="Which version.", show_default="the challenger")] = None,
    reason: Annotated[
        str, typer.Option(help="Why, whatever the gate finds; without it the gate decides.", show_default=False)
    ] = "",
    by: ByOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let the challenger decide batches from now on, where it passes the gate or you give a reason.

    The gate: it finds defects no worse than the champion and than principal components, keeps its false-alarm rate, and
    is about as fast. Reason and findings stand in the registry.
    """
    path = config_path(context, config)
    settings_of(path).pipeline(name)
    from flows.promotion import promote as promote_version
    from flows.workspace import open_workspace

    workspace = open_workspace(path)
    pipeline = workspace.settings.pipeline(name)
    report = promote_version(pipeline, version, reason, by or getuser(), workspace, progress())
    if as_json:
        print_json(plain(report))
    else:
        for sentence in report.sentences():
            typer.echo(sentence)
    if not report.promoted:
        raise typer.Exit(FAILED)


def rollback(
    context: typer.Context,
    name: NameArgument,
    reason: Annotated[str, typer.Option(help="Why.", show_default=False)],
    by: ByOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let the version that decided before the champion decide again."""
    path = config_path(context, config)
    settings_of(path).pipeline(name)
    from flows.promotion import rollback as roll_back
    from flows.workspace import open_workspace

    workspace = open_workspace(path)
    report = roll_back(workspace.settings.pipeline(name), reason, by or getuser(), workspace.tracking)
    if as_json:
        print_json(plain(report))
        return
    for sentence in report.sentences():
        typer.echo(sentence)


def versions(
    context: typer.Context, name: NameArgument, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """List a pipeline's versions: threshold, what it was calibrated on, whose labels, and why it decided."""
    path = config_path(context, config)
    settings_of(path).pipeline(name)
    from flows.lineage import lineage_of
    from flows.workspace import open_workspace

    records = lineage_of(name, open_workspace(path).tracking)
    if as_json:
        print_json(plain(records))
    elif not records:
        typer.echo(f"{name} has no version yet.")
    else:
        _print_lineage(records)


def _planned(path: Path, name: str, since: "datetime | None", until: "datetime | None") -> "Recalibration":
    from flows.recalibration import plan_recalibration
    from flows.review_queue import read_answers
    from flows.workspace import open_workspace

    workspace = open_workspace(path)
    pipeline = workspace.settings.pipeline(name)
    read_answers(pipeline, workspace, progress())
    return plan_recalibration(pipeline, workspace, since, until, progress())


def _agreed(question: str) -> bool:
    return sys.stdin.isatty() and typer.confirm(question, err=True)


def _print_lineage(records: "tuple[ThresholdRecord, ...]") -> None:
    columns = ("version", "", "made (UTC)", "calibration", "threshold", "calibrated on", "labels by", "why")
    rows = [
        (
            one.version,
            one.role,
            f"{one.made_at:%Y-%m-%d %H:%M}",
            str(one.calibration),
            one.threshold,
            one.source,
            one.by,
            one.reason,
        )
        for one in records
    ]
    print_table(columns, rows, "Versions")
