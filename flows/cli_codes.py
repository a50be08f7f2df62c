"""The commands on codes: `reconwatch codes`, `reconwatch decode` and `reconwatch compression`."""

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.terminal import (
    ConfigOption,
    JsonOption,
    NameArgument,
    config_path,
    print_json,
    print_report,
    print_table,
    settings_of,
)

if TYPE_CHECKING:
    from flows.workspace import Workspace

app = typer.Typer()

OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="The folder for the files.", show_default="WORKSPACE/COMMAND/NAME"),
]


class Method(StrEnum):
    """How codes come onto a plane."""

    UMAP = "UMAP"
    PCA = "PCA"


@app.command()
def codes(
    context: typer.Context,
    name: NameArgument,
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Folders or image files; the pipeline's own images where none is named.")
    ] = None,
    output: OutputOption = None,
    method: Annotated[
        Method | None,
        typer.Option(case_sensitive=False, help="How codes come onto a plane.", show_default="UMAP where installed"),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Images at most, drawn by the seed.")] = 2000,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Map the codes that a pipeline's network gives images, clusters named, flagged images marked.

    Writes map.png, map.html (point at an image to see it) and codes.parquet, and keeps them in MLflow.
    """
    workspace, folder = _opened(config_path(context, config), name, "codes", output)
    from flows.codes import draw_code_map
    from flows.progress import terminal_or_log

    pipeline = workspace.settings.pipeline(name)
    chosen = method.value if method else None
    report = draw_code_map(pipeline, workspace.tracking, terminal_or_log(), folder, paths or (), chosen, limit)
    print_report(report, as_json)


@app.command()
def decode(
    context: typer.Context,
    name: NameArgument,
    between: Annotated[
        tuple[Path, Path] | None, typer.Option(help="Two images to walk between, instead of drawn ones.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws codes and images.")] = 0,
    output: OutputOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Decode new images from codes: around real ones, from a distribution of them, on the way between two.

    Writes samples.png and walks.png, and keeps them in MLflow.
    """
    workspace, folder = _opened(config_path(context, config), name, "decode", output)
    from flows.decoding import decode_codes
    from flows.progress import terminal_or_log

    pipeline = workspace.settings.pipeline(name)
    report = decode_codes(pipeline, workspace.tracking, terminal_or_log(), folder, between or (), seed)
    print_report(report, as_json)


@app.command()
def compression(
    context: typer.Context,
    name: NameArgument,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images, for each network.")] = 20,
    output: OutputOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure bits and error of codes of several sizes: principal components, linear and convolutional networks.

    Trains each of them on the pipeline's nominal images. Writes compression.csv and compression.png, and keeps them in
    MLflow. The pipeline's detector stays as it is.
    """
    workspace, folder = _opened(config_path(context, config), name, "compression", output)
    from flows.compression import compress
    from flows.progress import terminal_or_log

    report = compress(workspace.settings.pipeline(name), workspace.tracking, terminal_or_log(), folder, epochs)
    if as_json:
        print_json(asdict(report))
        return
    rows = [
        (result.network, str(result.code_size), str(result.bits), f"{result.bits_per_pixel:.3g}", f"{result.psnr:.2f}")
        for result in report.results
    ]
    columns = ("network", "code size", "bits", "bits a pixel", "PSNR in dB")
    print_table(columns, rows, f"{report.pipeline}: {report.n_held_out} images that no network saw, 8 bits a number")
    typer.echo(f"Written to {report.folder}: {', '.join(report.files)}")
    typer.echo(f"MLflow: {report.run_url}")


def _opened(path: Path, name: str, command: str, output: Path | None) -> tuple["Workspace", Path]:
    """The workspace, and the folder for the files; a wrong file or name is said before anything takes long."""
    settings_of(path).pipeline(name)
    from flows.workspace import open_workspace

    workspace = open_workspace(path)
    return workspace, output or workspace.settings.workspace / command / name
