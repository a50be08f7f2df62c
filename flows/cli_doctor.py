"""The command `reconwatch doctor`."""

import os

import typer

from flows.terminal import FAILED, ConfigOption, JsonOption, config_path, print_json, print_table


def doctor(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Say what is wrong with versions, stores, clocks, rights, disk and servers, and what to do.

    It changes nothing. What is wrong with images and pipelines is said by [bold]reconwatch check[/bold].
    """
    from flows.doctor import examine

    findings = examine(config_path(context, config), os.environ)
    if as_json:
        print_json([finding.__dict__ for finding in findings])
    else:
        print_table(
            ("", "what", "finding"), [(finding.state, finding.what, finding.sentence) for finding in findings], "Doctor"
        )
    if any(finding.state == "wrong" for finding in findings):
        raise typer.Exit(FAILED)
