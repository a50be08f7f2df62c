"""The rows of a batch's images: from its items to scores, p-values and flags, whoever decides and whatever is recorded.

It imports no network and no store, so that who only wants scores in a file has them in a moment.
"""

from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ae_models.calibration import Threshold
from ae_models.images import ImageSpec, stream
from ae_models.review import audit_sample, review_list
from flows.config import PipelineConfig
from flows.fetching import contents_of
from flows.items import Batch
from flows.progress import Progress

RENEW_SECONDS = 30.0


class Scorer(Protocol):
    """What gives images their scores."""

    @property
    def spec(self) -> ImageSpec:
        """Size and channels of the images that it takes."""

    def score(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        """Scores (N,) float64 of images (N, C, H, W) float32 in [0, 1]."""


class Decider(Protocol):
    """What decides about images."""

    @property
    def detector(self) -> Scorer:
        """Gives the scores."""

    @property
    def threshold(self) -> Threshold:
        """Cuts them."""

    def p_values(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """For each score (m,) the share of nominal images that score as badly or worse: (m,) in (0, 1]."""


def scores_of(
    batch: Batch, decider: Decider, what: str, progress: Progress, renew: Callable[[], None] = lambda: None
) -> tuple[NDArray[np.float64], NDArray[np.object_]]:
    """For each image of a batch its score, NaN for none, and why it cannot be read, empty where it can.

    `what` is shown as what goes on, and `renew` is called about every half minute.
    """
    renewed = monotonic()
    scores = np.full(len(batch.items), np.nan)
    reasons = np.full(len(batch.items), "", dtype=object)
    with progress.track(what, len(batch.items)) as advance, contents_of(batch.items) as contents:
        for part in stream(contents, decider.detector.spec):
            scores[part.indices] = decider.detector.score(part.pixels)
            for index, reason in part.unreadable:
                reasons[index] = reason
            if monotonic() - renewed > RENEW_SECONDS:
                renewed = monotonic()
                renew()
            advance(len(part.indices) + len(part.unreadable))
    return scores, reasons


def rows_of(
    batch: Batch,
    decider: Decider,
    scores: NDArray[np.float64],
    reasons: NDArray[np.object_],
    pipeline: PipelineConfig,
    manifest_hash: str,
) -> dict[str, Any]:
    """The columns of a batch's rows, an image each; the batch's hash draws the images of the audit."""
    readable = reasons == ""
    p_values = np.where(readable, decider.p_values(scores), np.nan)
    return {
        "uri": [item.uri for item in batch.items],
        "score": scores,
        "p_value": p_values,
        "flagged": decider.threshold.flags(scores),
        "status": np.where(readable, "scored", "unreadable"),
        "reason": reasons.astype(str),
        "review": review_list(p_values, pipeline.monitor.review_fdr),
        "audit": audit_sample(readable, pipeline.review.audit, manifest_hash),
    }
