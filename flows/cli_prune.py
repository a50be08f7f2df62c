"""The command `reconwatch prune`."""

from typing import Annotated

import typer

from ae_models.errors import InputError
from flows.terminal import (
    ConfigOption,
    JsonOption,
    config_hint,
    config_path,
    print_json,
    progress,
    say,
    settings_of,
)


def prune(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The pipeline's name in pipelines.yaml.", show_default=False)],
    older_than: Annotated[
        str, typer.Option(help="Batches decided longer ago than this, such as 180d.", show_default=False)
    ],
    scores: Annotated[bool, typer.Option("--scores", help="The scores of their images too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Drop pages, pictures and review queues of old batches; decisions and labels never.

    It says what would go, and does it with [bold]--yes[/bold].
    """
    path = config_path(context, config)
    settings_of(path).pipeline(name)
    from flows.config_incidents import read_duration
    from flows.pruning import plan_pruning
    from flows.pruning import prune as prune_batches
    from flows.workspace import open_workspace

    try:
        age = read_duration(older_than)
    except ValueError as error:
        raise InputError(f"--older-than {error}") from error
    workspace = open_workspace(path)
    pipeline = workspace.settings.pipeline(name)
    plan = plan_pruning(pipeline, workspace, age, scores, progress())
    if yes:
        plan = prune_batches(plan, pipeline, workspace, progress())
    if as_json:
        batches = [{"batch": old.record.batch, "artifacts": old.artifacts, "queue": old.queue} for old in plan.batches]
        print_json(
            {"pipeline": name, "before": plan.before, "bytes": plan.bytes, "done": plan.done, "batches": batches}
        )
        return
    for sentence in plan.sentences():
        typer.echo(sentence)
    if not yes and plan.batches:
        say(f"Nothing was changed: reconwatch prune {name} --older-than {older_than}"
            f"{' --scores' if scores else ''}{config_hint(context, config)} --yes does it.")  # fmt: skip
