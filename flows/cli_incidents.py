"""The commands on incidents: `reconwatch alert list`, `ack` and `close`, and `reconwatch watchdog`."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from getpass import getuser
from typing import TYPE_CHECKING, Annotated

import typer

from flows.terminal import (
    ALARMED,
    ConfigOption,
    JsonOption,
    complain,
    config_path,
    print_json,
    print_table,
    settings_of,
)

if TYPE_CHECKING:
    from pathlib import Path

    from flows.config import Settings
    from flows.incidents import Incident, Judgement
    from flows.ledger import Ledger

NumberArgument = Annotated[int, typer.Argument(help="The incident's number.", show_default=False)]
ByOption = Annotated[str | None, typer.Option(help="Who does.", show_default="your user name")]
CommentOption = Annotated[str, typer.Option(help="What the others should know.")]


def list_incidents(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="One pipeline; all where none is named.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Those that are over too.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the open incidents, the newest first."""
    settings, ledger = _opened(context, config)
    if name is not None:
        settings.pipeline(name)
    _print(ledger.incidents.newest(name, closed=every), as_json)


def acknowledge_incident(
    context: typer.Context,
    number: NumberArgument,
    by: ByOption = None,
    comment: CommentOption = "",
    config: ConfigOption = None,
) -> None:
    """Say that somebody sees to an incident: no reminder and no escalation from here on."""
    settings, ledger = _opened(context, config)
    from flows.incident_alerts import name_of
    from flows.watchdog import acknowledge

    incident = acknowledge(ledger, settings, number, by or getuser(), comment)
    typer.echo(f"Acknowledged by {incident.acknowledged_by}: {name_of(incident)}.")
    _send(settings, ledger)


def close_incident(
    context: typer.Context,
    number: NumberArgument,
    false_alarm: Annotated[
        bool | None,
        typer.Option(
            "--false-alarm/--true-alarm",
            help="Whether it was one; said of an incident that is over, too.",
            show_default="nothing is said",
        ),
    ] = None,
    by: ByOption = None,
    comment: CommentOption = "",
    config: ConfigOption = None,
) -> None:
    """Close an incident before it closes by itself, and say whether it was a false alarm.

    Batches whose alarms were false count as nominal from then on, where later ones are compared with them.
    """
    settings, ledger = _opened(context, config)
    from flows.watchdog import close

    judgement: Judgement | None = None
    if false_alarm is not None:
        judgement = "false alarm" if false_alarm else "true alarm"
    by = by or getuser()
    incident, nominal = close(ledger, settings, number, by, comment, judgement)
    typer.echo(_closing(incident, by, nominal))
    _send(settings, ledger)


def watchdog(
    context: typer.Context,
    config: ConfigOption = None,
    fail_on_alarm: Annotated[
        bool, typer.Option("--fail-on-alarm", help="Exit with 3 where an incident is open.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Look after incidents, notice what did not happen, and send what is due; scores nothing.

    For a scheduler other than the one of [bold]reconwatch run[/bold], which may have stopped. Neither MLflow nor
    Prefect needs to answer.
    """
    settings, ledger = _opened(context, config)
    from flows.watchdog import look_after

    look_after(ledger, settings)
    _send(settings, ledger)
    there_are = ledger.incidents.newest()
    _print(there_are, as_json)
    if there_are and fail_on_alarm:
        raise typer.Exit(ALARMED)


def _opened(context: typer.Context, config: "Path | None") -> "tuple[Settings, Ledger]":
    settings: Settings = settings_of(config_path(context, config))
    from flows.ledger import open_ledger

    return settings, open_ledger(settings.workspace, os.environ)


def _send(settings: "Settings", ledger: "Ledger") -> None:
    """Sends what is due; MLflow is asked only for the pictures of e-mails, which else go without."""
    from flows.channels import send_due

    def picture(run_id: str, name: str) -> bytes | None:
        from flows.tracking import Tracking

        return Tracking(settings, os.environ).picture(run_id, name)

    report = send_due(ledger, settings, picture)
    for failure in (*report.failed, *report.homeless):
        complain(f"an alert waits to be sent: {failure}")


def _print(incidents: "Sequence[Incident]", as_json: bool) -> None:
    if as_json:
        print_json([asdict(incident) for incident in incidents])
        return
    if not incidents:
        typer.echo("No incident is open.")
        return
    rows = [
        (
            str(incident.number),
            incident.pipeline,
            incident.kind,
            incident.severity,
            str(incident.batches) if incident.alert["batch"] else "",
            incident.alert["batch"] or "",
            f"{incident.opened_at:%Y-%m-%d %H:%M} UTC",
            _state(incident),
        )
        for incident in incidents
    ]
    columns = ("number", "pipeline", "kind", "severity", "batches", "newest", "opened", "state")
    print_table(columns, rows, "Incidents")


def _closing(incident: "Incident", by: str, nominal: int) -> str:
    from flows.incident_alerts import name_of

    if incident.judgement is None:
        return f"Closed by {by}: {name_of(incident)}."
    said = f"Closed as a {incident.judgement}, as {by} says: {name_of(incident)}."
    if incident.judgement == "true alarm":
        return said
    counted = f"{said} Batches of it that count as nominal from now on: {nominal} of {incident.batches}"
    if nominal < incident.batches:
        return f"{counted}; the others alarmed for something else too, which nobody called false."
    return f"{counted}."


def _state(incident: "Incident") -> str:
    if incident.closed_at is not None:
        by = f" by {incident.closed_by}" if incident.closed_by else ""
        closed = f"closed {incident.closed_at:%Y-%m-%d %H:%M} UTC{by}"
        if incident.judgement is None:
            return closed
        said = f": {incident.comment}" if incident.comment else ""
        return f"{closed}, a {incident.judgement}{said}"
    if incident.acknowledged_at is None:
        return "open"
    said = f": {incident.comment}" if incident.comment else ""
    return f"acknowledged by {incident.acknowledged_by}{said}"
