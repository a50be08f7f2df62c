"""The commands on alerts: `reconwatch alert`."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from ae_models.errors import InputError
from flows.cli_incidents import acknowledge_incident, close_incident, list_incidents
from flows.terminal import FAILED, ConfigOption, JsonOption, complain, config_path, print_json, settings_of

if TYPE_CHECKING:
    from flows.config import Settings

app = typer.Typer(name="alert", no_args_is_help=True, help="See to incidents, and to the channels that carry alerts.")
app.command("list")(list_incidents)
app.command("ack")(acknowledge_incident)
app.command("close")(close_incident)


@app.command("test")
def send_test(
    context: typer.Context,
    channel: Annotated[str, typer.Argument(help="The channel's name under alerts.", show_default=False)],
    pipeline: Annotated[str | None, typer.Option(help="The pipeline, where several have such a channel.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send one message through a channel now, which says that it is a test, and say whether it arrived."""
    settings: Settings = settings_of(config_path(context, config))
    name = _pipeline_with(settings, channel, pipeline)
    from flows.alerts import DeliveryFailed
    from flows.channels import channels, trial_alert

    failure = ""
    try:
        way = channels(settings.pipeline(name).alerts)[channel]
        way.send(trial_alert(name, channel, datetime.now(UTC)).payload())
    except DeliveryFailed as error:
        failure = str(error)
    if as_json:
        print_json({"pipeline": name, "channel": channel, "delivered": not failure, "failure": failure})
    elif not failure:
        typer.echo(f"The channel '{channel}' of pipeline '{name}' took the test message: look whether it is there.")
    if failure:
        complain(f"the test message did not arrive: {failure}")
        raise typer.Exit(FAILED)


def _pipeline_with(settings: "Settings", channel: str, named: str | None) -> str:
    """The pipeline whose channel is meant: the one that was named, or the only one, or any where all are the same."""
    pipelines = [settings.pipeline(named)] if named else list(settings.pipelines.values())
    there = {pipeline.name: way for pipeline in pipelines for way in pipeline.alerts if way.name == channel}
    if not there:
        known = sorted({way.name for pipeline in pipelines for way in pipeline.alerts})
        whose = f"pipeline '{named}'" if named else "any pipeline"
        there_are = f"it has: {', '.join(known)}" if known else "it has none"
        raise InputError(f"no channel '{channel}' under alerts of {whose} in {settings.path} ({there_are})")
    first, *others = there.values()
    if any(other != first for other in others):
        raise InputError(f"the pipelines {', '.join(there)} each have another channel '{channel}': add --pipeline NAME")
    return next(iter(there))
