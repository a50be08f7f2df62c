"""The commands by which people teach: `reconwatch review`."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from getpass import getuser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ae_models.errors import InputError
from flows.terminal import (
    WRONG_INPUT,
    ConfigOption,
    JsonOption,
    NameArgument,
    complain,
    config_path,
    flow_or_plain,
    print_json,
    print_table,
    progress,
    say,
    settings_of,
)

if TYPE_CHECKING:
    from flows.progress import Progress
    from flows.review_report import ReviewReport
    from flows.reviewing import BatchReview, ReviewImage
    from flows.workspace import Workspace


def review(
    context: typer.Context,
    name: NameArgument,
    export: Annotated[
        Path | None, typer.Option("--export", help="Write the images that are asked for to this CSV file.")
    ] = None,
    read: Annotated[
        Path | None, typer.Option("--import", help="Take in the labels of this CSV file, as --export wrote it.")
    ] = None,
    ask: Annotated[
        bool | None, typer.Option("--ask/--no-ask", help="Ask for labels here.", show_default="in a terminal")
    ] = None,
    batches: Annotated[int, typer.Option(min=1, help="How many of the newest batches to ask about.")] = 5,
    by: Annotated[str | None, typer.Option(help="Who labels.", show_default="your user name")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Label images, and say how many flags are right and how many outliers are missed.

    Takes in what was answered in MLflow's Review tab. In a terminal it then asks for the images that nobody labelled
    yet; [bold]--export labels.csv[/bold] and [bold]--import labels.csv[/bold] do the same in a spreadsheet.
    """
    path = config_path(context, config)
    settings_of(path).pipeline(name)
    wrong = _import(path, name, read, by or getuser()) if read else ()
    if export or (ask if ask is not None else sys.stdin.isatty() and not (read or as_json)):
        _with_reviews(path, name, export, batches, by or getuser())

    def plain(workspace: "Workspace", progress: "Progress") -> "ReviewReport":
        from flows import running

        return running.review(workspace, name, progress)

    def as_flow(path: str) -> "ReviewReport":
        from flows.flow_record import report_of
        from flows.review import review as review_flow

        report: ReviewReport = report_of(review_flow(path, name, return_state=True))
        return report

    _print(flow_or_plain(path, as_flow, plain), as_json)
    for fault in wrong:
        complain(fault)
    if wrong:
        raise typer.Exit(WRONG_INPUT)


def _import(path: Path, name: str, file: Path, reviewer: str) -> tuple[str, ...]:
    """Take in the labels of a file; the rows that are wrong, in sentences."""
    from flows.label_files import read_labels
    from flows.ledger import utc_now
    from flows.workspace import open_workspace

    workspace = open_workspace(path)
    found = read_labels(file, workspace.settings.pipeline(name), workspace, reviewer, utc_now)
    new = workspace.ledger.labels.add(found.labels)
    say(f"{file}: {new} new labels, {len(found.labels) - new} known, {found.empty} rows without one.")
    return tuple(f"{file}, {fault}" for fault in found.faults)


def _with_reviews(path: Path, name: str, export: Path | None, batches: int, reviewer: str) -> None:
    from flows.label_files import write_labels
    from flows.review_queue import read_answers
    from flows.reviewing import newest_reviews
    from flows.workspace import open_workspace

    workspace = open_workspace(path)
    pipeline = workspace.settings.pipeline(name)
    read_answers(pipeline, workspace, progress())  # nobody is asked twice
    reviews = newest_reviews(pipeline, workspace, batches)
    if export is not None:
        say(f"Wrote {write_labels(reviews, export)} rows to {export}: fill in label (outlier, nominal or unsure).")
        return
    _ask(reviews, workspace, reviewer)


def _ask(reviews: "Sequence[BatchReview]", workspace: "Workspace", reviewer: str) -> None:
    """Ask for each image that nobody labelled yet, and keep each answer at once."""
    from flows.labels import read_verdict
    from flows.ledger import utc_now

    waiting = [(review, image) for review in reviews for image in review.waiting]
    if not waiting:
        return
    say(f"{len(waiting)} images wait for a label: o(utlier), n(ominal), u(nsure), each with a comment if you like;")
    say("s(kip) leaves one out, q(uit) ends.")
    for number, (review, image) in enumerate(waiting, 1):
        say(f"\n{number} of {len(waiting)}: {_words(review, image)}")
        while True:
            word, _, comment = typer.prompt("label", default="s", show_default=False, err=True).partition(" ")
            if word.casefold() in ("q", "quit"):
                return
            if word.casefold() in ("s", "skip"):
                break
            try:
                label = review.label(image.uri, read_verdict(word), comment, reviewer, utc_now(), "terminal")
            except InputError as error:
                complain(str(error))
                continue
            workspace.ledger.labels.add([label])
            break


def _words(review: "BatchReview", image: "ReviewImage") -> str:
    from flows.words import one_line

    why = "flagged" if image.flagged else "not flagged, drawn at random"
    return (
        f"{one_line(image.uri, 1000)}\n  batch {one_line(review.record.batch, 200)}, {why}: score {image.score:.4g}, "
        f"threshold {review.threshold:.4g}, p {image.p_value:.3g}"
    )


def _print(report: "ReviewReport", as_json: bool) -> None:
    if as_json:
        print_json(asdict(report))
        return
    from flows.review_report import share

    rows = [
        (part.kind, part.name, share(part.measures.precision), share(part.measures.misses), str(part.measures.unsure))
        for part in report.parts
    ]
    if rows:
        print_table(("by", "", "precision", "misses", "unsure"), rows, "What labels say")
    columns = ("batch", "decided (UTC)", "asked", "waiting")
    waiting = [
        (one.batch, f"{one.decided_at:%Y-%m-%d %H:%M}", str(one.asked), str(one.waiting)) for one in report.newest
    ]
    print_table(columns, waiting, "To be labelled")
    for one in report.newest:
        if one.queue and one.waiting:
            typer.echo(f"{one.batch}: {one.queue}")
    for sentence in report.sentences():
        typer.echo(sentence)
    typer.echo(f"MLflow: {report.run_url}")
