"""The commands that run pipelines on their schedules: `reconwatch serve`, `deploy` and `up`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from flows.terminal import ConfigOption, JsonOption, complain, config_path, print_json, say, settings_of

GraceOption = Annotated[
    float, typer.Option(min=0, help="Seconds that runs under way get to finish once it is stopped.")
]


def serve(
    context: typer.Context,
    config: ConfigOption = None,
    grace: GraceOption = 60.0,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Runs at once, at most.", show_default="the number of cores")
    ] = None,
) -> None:
    """Run every pipeline on its schedules, as deployments on the Prefect server that PREFECT_API_URL names.

    It follows the file: what is added, changed or removed there counts within seconds. Stop it with Ctrl-C or SIGTERM;
    schedules stay.
    """
    path = config_path(context, config).absolute()
    settings_of(path)  # a wrong file is said before the seconds that the next import takes
    from flows.serve import serve as serve_pipelines

    serve_pipelines(path, os.environ, say, complain, grace=grace, limit=limit)


def deploy(
    context: typer.Context,
    pool: Annotated[str, typer.Option(help="The work pool.", show_default=False)],
    image: Annotated[
        str | None, typer.Option(help="The image that runs are made of, in a pool of containers.", show_default=False)
    ] = None,
    job_variables: Annotated[
        Path | None,
        typer.Option(help="A YAML file with the job variables of the runs: volumes, env.", show_default=False),
    ] = None,
    config_there: Annotated[
        str | None, typer.Option(help="The file's path where runs are.", show_default="its path here")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove this file's deployments from the pool.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the same deployments for a work pool, whose workers then do the runs: processes, Docker, Kubernetes.

    Safe to repeat: what is as wanted is not touched, what went away from the file goes away.
    """
    path = config_path(context, config).absolute()
    settings_of(path)
    from flows.deploy import deploy as deploy_pipelines
    from flows.deploy import job_variables as variables_in

    variables = variables_in(job_variables, image)
    changes = deploy_pipelines(path, os.environ, pool, config_there or str(path), variables, remove)
    if as_json:
        print_json({name: list(getattr(changes, name)) for name in ("made", "changed", "removed", "busy")})
        return
    for sentence in changes.sentences() or ("Nothing changed.",):
        typer.echo(sentence)
    if not remove:
        say(f"Now a worker does the runs: prefect worker start --pool {pool}")


def up(
    context: typer.Context,
    config: ConfigOption = None,
    prefect_port: Annotated[int, typer.Option(help="Prefect's port on 127.0.0.1.")] = 4200,
    grace: GraceOption = 60.0,
) -> None:
    """Run Prefect, MLflow and [bold]reconwatch serve[/bold] on this machine, for this machine only.

    It says the two addresses once they answer. MLflow's port is that of [bold]dashboard[/bold] in the file. Logs are in
    the workspace; Ctrl-C or SIGTERM ends all of it.
    """
    path = config_path(context, config).absolute()
    settings_of(path)
    from flows.up import up as run_everything

    run_everything(path, os.environ, prefect_port, grace, say, complain)
