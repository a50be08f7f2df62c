"""Which images of a batch people are asked to label, and their labels on their way into the ledger."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from hashlib import sha256

import pandas as pd

from ae_models.errors import InputError
from ae_models.review import audit_sample
from flows.config import PipelineConfig
from flows.labels import Label, Opinion, Verdict, Way, opinions
from flows.ledger import BatchRecord
from flows.tracking import ArtifactMissing
from flows.words import one_line
from flows.workspace import Workspace

LONGEST_NAME, LONGEST_COMMENT = 100, 2000  # characters


@dataclass(frozen=True)
class ReviewImage:
    """A scored image as people are asked about it: what was found, and whether it is in the audit."""

    uri: str
    score: float  # NaN where it has none that counts
    p_value: float
    flagged: bool
    audit: bool


@dataclass(frozen=True)
class BatchReview:
    """A decided batch, its scored images, and what people said of them.

    Attributes:
        record: the batch as the ledger has it.
        threshold: that decided it.
        images: every scored image, by address.
        asked: those that people are asked to label: flagged ones, the most extreme first, and the audit.
        opinions: what people said so far, by address.
    """

    record: BatchRecord
    threshold: float
    images: Mapping[str, ReviewImage]
    asked: tuple[ReviewImage, ...]
    opinions: Mapping[str, Opinion]

    @cached_property
    def waiting(self) -> tuple[ReviewImage, ...]:
        """The asked images of which nobody said anything yet."""
        return tuple(image for image in self.asked if image.uri not in self.opinions)

    def label(self, uri: str, verdict: Verdict, comment: str, reviewer: str, labelled_at: datetime, way: Way) -> Label:
        """The record of what a person said of one of the images.

        Raises:
            InputError: the batch has no such scored image, or the reviewer has no name.
        """
        image = self.images.get(uri)
        if image is None:
            raise InputError(f"batch {self.record.batch!r} has no scored image {uri[:200]!r}")
        name = one_line(reviewer, LONGEST_NAME)
        if not name:
            raise InputError("the reviewer has no name")
        return Label(
            pipeline=self.record.pipeline,
            batch_key=self.record.key,
            batch=self.record.batch,
            uri=uri,
            verdict=verdict,
            comment=one_line(comment, LONGEST_COMMENT),
            reviewer=name,
            labelled_at=labelled_at,
            way=way,
            score=image.score if math.isfinite(image.score) else None,
            threshold=self.threshold,
            flagged=image.flagged,
            audit=image.audit,
        )


def asked_images(table: pd.DataFrame, most: int, manifest_hash: str) -> tuple[ReviewImage, ...]:
    """The images of a batch that people are asked to label, from the rows of its scores.

    Where more than `most` images are flagged, that many of them are drawn at random, so that the labels stand for all
    of them. The flagged ones come first, the most extreme first; then the rest of the audit, in no order, so that its
    first ones stand for it where people stop early.
    """
    scored = table[table["status"] == "scored"]
    drawn = audit_sample(scored["flagged"], most, f"{manifest_hash}/flagged")
    asked = scored[drawn | scored["audit"].astype(bool)] if "audit" in scored else scored[drawn]
    return tuple(sorted(review_images(asked), key=lambda image: (not image.flagged, *_turn(image))))


def review_images(table: pd.DataFrame) -> list[ReviewImage]:
    """The rows of scored images; batches from before the audit have none in it."""
    audit = table["audit"] if "audit" in table else pd.Series(False, table.index)
    columns = (table["uri"], table["score"], table["p_value"], table["flagged"], audit)
    return [
        ReviewImage(str(uri), float(score), float(p_value), bool(flagged), bool(audited))
        for uri, score, p_value, flagged, audited in zip(*columns, strict=True)
    ]


def batch_review(record: BatchRecord, pipeline: PipelineConfig, workspace: Workspace) -> BatchReview:
    """A decided batch with its images and labels.

    Raises:
        ArtifactMissing: MLflow does not give the batch's scores or threshold any more.
    """
    table = workspace.tracking.scores(record.run_id)
    threshold, _ = workspace.tracking.registry.threshold(record.calibration_version)
    said = opinions(workspace.ledger.labels.of(record.pipeline, record.key))
    return BatchReview(
        record,
        threshold.value,
        {image.uri: image for image in review_images(table[table["status"] == "scored"])},
        asked_images(table, pipeline.review.flagged, record.manifest_hash),
        {uri: opinion for (_, uri), opinion in said.items()},
    )


def newest_reviews(pipeline: PipelineConfig, workspace: Workspace, batches: int) -> tuple[BatchReview, ...]:
    """The newest decided batches whose scores MLflow still has, the newest first."""
    reviews = []
    for record in workspace.ledger.batches.history(pipeline.name, batches):
        try:
            reviews.append(batch_review(record, pipeline, workspace))
        except ArtifactMissing:
            continue
    return tuple(reviews)


class BatchReviews:
    """The decided batches of a pipeline by key or, the newest of a name, by name; each is read once."""

    def __init__(self, pipeline: PipelineConfig, workspace: Workspace) -> None:
        self._pipeline, self._workspace = pipeline, workspace
        self._records = workspace.ledger.batches.decided(pipeline.name)
        self._read: dict[str, BatchReview] = {}

    def find(self, key: str, name: str = "") -> BatchReview:
        """The batch; raises InputError where there is none, or where its scores are gone."""
        found = [record for record in self._records if record.key == key or (not key and record.batch == name)]
        if not found:
            raise InputError(f"pipeline {self._pipeline.name!r} has decided no batch {(key or name)[:200]!r}")
        record = found[-1]
        if record.key not in self._read:
            try:
                self._read[record.key] = batch_review(record, self._pipeline, self._workspace)
            except ArtifactMissing as error:
                raise InputError(f"the scores of batch {record.batch!r} are gone: {error}") from error
        return self._read[record.key]


def _turn(image: ReviewImage) -> tuple[float, str]:
    """The most extreme score first of flagged images, and the order of a hash of the others."""
    if not image.flagged:
        return 0, sha256(image.uri.encode()).hexdigest()
    return -math.inf if math.isnan(image.score) else -image.score, ""
