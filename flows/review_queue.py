"""The images of a batch that are asked for, as a queue in MLflow's Review tab, and what people answered there."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ae_models.champion import Champion
from ae_models.errors import InputError
from ae_models.images import stream
from ae_models.review_pictures import review_pictures
from flows.batch_run import label_link, write_pictures
from flows.config import PipelineConfig
from flows.labels import SHOWN, read_verdict
from flows.ledger import BatchRecord, Ledger
from flows.markdown import as_text
from flows.progress import Progress
from flows.reviewing import BatchReview, BatchReviews, ReviewImage, batch_review
from flows.sources import Item, inbox_batches
from flows.tracking import Question, ReviewQueue, Tracking
from flows.words import one_line, reason_of
from flows.workspace import Workspace

INSTRUCTION = (
    "Is something wrong with the image? Answer for the image as you see it, whether it was flagged or not: "
    f"'{SHOWN['outlier']}' where it is no nominal image, '{SHOWN['nominal']}' where nothing is wrong with it. "
    "The rationale is kept as your comment."
)
NEWEST = 20  # batches that are looked at for one without its queue
KEPT, AT_ONCE = 100, 10  # queues of a pipeline that stay, the newest; so many more are taken away together
LONGEST = 80  # characters of a name
Contents = Mapping[str, Item]


def open_queue(
    pipeline: PipelineConfig, batch: str, key: str, asked: Sequence[ReviewImage], tracking: Tracking, progress: Progress
) -> ReviewQueue | None:
    """The queue of a batch, still empty; None where nothing is asked, or MLflow gives none, which stops no batch."""
    if not asked:
        return None
    name = f"{one_line(batch, LONGEST)} {key[:8]}"
    try:
        return tracking.review.queue(pipeline.name, name, tuple(SHOWN.values()), INSTRUCTION, pipeline.review.reviewers)
    except Exception as error:
        progress.warn(f"Batch {batch} has no queue in MLflow's Review tab: {_first_line(error)}")
        return None


def ask_about(
    batch: str,
    key: str,
    asked: Sequence[ReviewImage],
    pictures: Mapping[str, str],
    queue: ReviewQueue | None,
    threshold: float,
    tracking: Tracking,
    ledger: Ledger,
    progress: Progress,
) -> None:
    """Put the images of a batch that was just decided into its queue; what fails here the next run makes up for.

    `pictures` are the artifacts of its run that show them, by address.
    """
    record = ledger.batches.finished(key)
    if record is None:
        return
    try:
        if queue is not None:
            fill_queue(record, asked, pictures, queue, threshold, tracking, ledger)
        elif not asked:
            ledger.queues.note(key, "")
    except Exception as error:
        progress.warn(f"Batch {batch} has no queue in MLflow's Review tab yet: {_first_line(error)}")


def fill_queue(
    record: BatchRecord,
    asked: Sequence[ReviewImage],
    pictures: Mapping[str, str],
    queue: ReviewQueue,
    threshold: float,
    tracking: Tracking,
    ledger: Ledger,
) -> None:
    """Put the asked images of a decided batch into its queue; to do it again changes nothing."""
    shown = {uri: tracking.addresses.picture(record.run_id, name) for uri, name in pictures.items()}
    questions = [
        _question(record, place, shown.get(image.uri, ""), image, threshold) for place, image in enumerate(asked)
    ]
    tracking.review.ask(record.pipeline, queue.id, questions)
    ledger.queues.note(record.key, queue.id)


def let_reviewers_in(pipeline: PipelineConfig, workspace: Workspace, progress: Progress) -> None:
    """Let who is named in review.reviewers label the batches to come, and those whose queues are there."""
    name, reviewers, review = pipeline.name, pipeline.review.reviewers, workspace.tracking.review
    if not reviewers:
        return
    try:
        for failed in review.admit(name, reviewers):
            progress.warn(f"Review of {name} in MLflow does not let in {one_line(failed, 300)}")
        review.assign(name, reviewers)
    except Exception as error:
        progress.warn(f"Reviewers of {name} are not let into MLflow's Review tab: {_first_line(error)}")


def make_missing_queues(pipeline: PipelineConfig, workspace: Workspace, progress: Progress) -> None:
    """Make the queues of decided batches that a process which died, or a store that failed, left without one.

    Only images that the pipeline's inbox holds now are read again; of the others there is no picture.
    """
    for record in workspace.ledger.queues.batches_without(pipeline.name, NEWEST):
        if not record.run_id:  # MLflow does not have it yet
            continue
        try:
            _make_queue(record, pipeline, workspace, progress)
        except Exception as error:
            progress.warn(f"Batch {record.batch} has no queue in MLflow's Review tab yet: {_first_line(error)}")


def retire_queues(pipeline: PipelineConfig, workspace: Workspace, progress: Progress) -> None:
    """Take the oldest queues away where there are many: MLflow's tab asks for each by itself, and grows slow.

    What was answered in them becomes labels first, and what was not can be labelled by other ways.
    """
    if workspace.ledger.queues.count(pipeline.name) < KEPT + AT_ONCE:
        return
    queues = workspace.ledger.queues.of_pipeline(pipeline.name)
    try:
        read_answers(pipeline, workspace, progress)
        for key, queue in queues[KEPT:]:
            workspace.tracking.review.delete(pipeline.name, queue)
            workspace.ledger.queues.drop(key)
    except Exception as error:
        progress.warn(f"Old queues of {pipeline.name} in MLflow's Review tab are still there: {_first_line(error)}")


def read_answers(pipeline: PipelineConfig, workspace: Workspace, progress: Progress) -> int:
    """Take what people answered in MLflow into the ledger; how many labels were new."""
    reviews, labels, strange = BatchReviews(pipeline, workspace), [], list[str]()
    known = {
        (*label.image, label.reviewer): (SHOWN[label.verdict], label.comment)
        for label in workspace.ledger.labels.of(pipeline.name)
        if label.way == "mlflow"
    }
    queues = dict(workspace.ledger.queues.of_pipeline(pipeline.name))
    for answer in workspace.tracking.review.answers(pipeline.name, queues):
        if known.get((answer.key, answer.uri, answer.reviewer)) == (answer.verdict, answer.comment):
            continue
        if not answer.proved:
            strange.append(f"{answer.reviewer!r} on {answer.uri!r}, whom MLflow does not have as who completed it")
            continue
        try:
            review = reviews.find(answer.key)
            verdict = read_verdict(answer.verdict)
            labels.append(review.label(answer.uri, verdict, answer.comment, answer.reviewer, answer.at, "mlflow"))
        except InputError as error:
            strange.append(str(error))
    if strange:
        progress.warn(f"{len(strange)} answers in MLflow are left out, such as: {one_line(strange[0], 300)}")
    return workspace.ledger.labels.add(labels)


def _make_queue(record: BatchRecord, pipeline: PipelineConfig, workspace: Workspace, progress: Progress) -> None:
    review = batch_review(record, pipeline, workspace)
    queue = open_queue(pipeline, record.batch, record.key, review.asked, workspace.tracking, progress)
    if queue is None:
        if not review.asked:
            workspace.ledger.queues.note(record.key, "")
        return
    found = inbox_batches(pipeline.data) if pipeline.data.inbox else ()
    items = {item.uri: item for batch in found if batch.id == record.batch for item in batch.items}
    champion = workspace.tracking.registry.decider(record.calibration_version)
    pictures = _log_pictures(review, items, champion, workspace.tracking)
    fill_queue(record, review.asked, pictures, queue, review.threshold, workspace.tracking, workspace.ledger)
    workspace.tracking.add_to_description(record.run_id, label_link(queue))


def _log_pictures(review: BatchReview, contents: Contents, champion: Champion, tracking: Tracking) -> dict[str, str]:
    """The artifact that shows each asked image; images that are not there or cannot be read any more have none."""
    asked = [image.uri for image in review.asked if image.uri in contents]
    parts = list(stream((contents[uri].content for uri in asked), champion.detector.spec))
    places = [int(place) for part in parts for place in part.indices]
    if not places:
        return {}
    pixels = np.concatenate([part.pixels for part in parts])
    detector = champion.detector
    pictures = review_pictures(pixels, detector.reconstruct(pixels), detector.error_maps(pixels))
    with tempfile.TemporaryDirectory() as folder:
        drawn = dict(zip((asked[place] for place in places), pictures, strict=True))
        names = write_pictures(Path(folder), asked, drawn)
        tracking.log_folder(review.record.run_id, Path(folder))
    return names


def _question(record: BatchRecord, place: int, picture: str, image: ReviewImage, threshold: float) -> Question:
    name, batch = one_line(Path(image.uri).name, LONGEST), one_line(record.batch, LONGEST)
    why = "flagged" if image.flagged else "not flagged, drawn at random"
    numbers = f"score {image.score:.4g}, threshold {threshold:.4g}, p {image.p_value:.3g}"
    shown = f"![panel]({picture})" if picture else "The image could not be read again, so there is no picture."
    return Question(
        key=record.key,
        uri=image.uri,
        place=place,
        name=name,
        text=f"{as_text(name)} of batch {as_text(batch)}: is something wrong with it?",
        found=f"{why}: {numbers}\n\n{shown}",
    )


def _first_line(error: Exception) -> str:
    return one_line(reason_of(error), 400)
