"""The command on batches of the past: `reconwatch backfill`."""

from typing import Annotated

import typer

from flows.terminal import (
    FAILED,
    ConfigOption,
    JsonOption,
    complain,
    config_path,
    plain,
    print_json,
    print_table,
    progress,
    settings_of,
)


def backfill(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The pipeline's name in pipelines.yaml.", show_default=False)],
    since: Annotated[str, typer.Option(help="Batches taken from this date or time on (UTC).", metavar="DATE")],
    until: Annotated[str, typer.Option(help="Batches taken until this date, or before this time.", metavar="DATE")],
    version: Annotated[str | None, typer.Option(help="Which version decides.", show_default="the champion")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which batches it would decide.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Decide batches of the past by one version, the oldest first, and tell nobody.

    They are recorded as backfilled: no alert, no incident, no point on the time line. Safe to kill and to repeat: it
    goes on where it was. A batch's time is that in its manifest, or that of its newest file.
    """
    path = config_path(context, config)
    settings_of(path).pipeline(name)
    from flows.backfill import backfill as backfill_batches
    from flows.backfill import plan_backfill
    from flows.replay import moment
    from flows.workspace import open_workspace

    after, before = moment(since, "--since", end_of_day=False), moment(until, "--until", end_of_day=True)
    workspace = open_workspace(path)
    plan = plan_backfill(workspace.settings.pipeline(name), workspace, after, before, version)
    if not as_json:
        for sentence in plan.sentences():
            typer.echo(sentence)
    if dry_run:
        rows = [
            (
                past.batch.id,
                f"{past.taken_at:%Y-%m-%d %H:%M}",
                str(len(past.batch.items)),
                "known" if past.known else "",
            )
            for past in plan.batches
        ]
        if as_json:
            print_json([dict(zip(("batch", "taken_at", "images", "state"), row, strict=True)) for row in rows])
        else:
            print_table(("batch", "taken (UTC)", "images", ""), rows, "Batches of that time")
        return
    reports = backfill_batches(plan, workspace, progress())
    if as_json:
        print_json([plain(report) for report in reports])
    else:
        rows = [
            (
                report.batch,
                (report.verdict.diagnosis if report.verdict.alarm else "nominal") if report.verdict else report.outcome,
                str(report.verdict.flagged) if report.verdict else "",
                str(report.verdict.scored) if report.verdict else "",
            )
            for report in reports
        ]
        print_table(("batch", "verdict", "flagged", "scored"), rows, f"Backfilled by version {plan.version.version}")
    for report in reports:
        if report.outcome == "failed":
            complain(f"batch {report.batch}: {report.reason}; it is tried again by the next backfill")
    if any(report.outcome == "failed" for report in reports):
        raise typer.Exit(FAILED)
