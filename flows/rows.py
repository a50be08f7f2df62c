"""The rows of a batch's images: from its items to scores, p-values and flags, whoever decides and whatever is recorded.

It imports no network and no store, so that who only wants scores in a file has them in a moment.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ae_models.calibration import Threshold
from ae_models.graph import Graph
from ae_models.images import ImageBatch, ImageSpec, stream, stream_through
from ae_models.review import audit_sample, review_list
from flows.config import PipelineConfig
from flows.fetching import contents_of
from flows.items import Batch, Item

STEP = 64  # images of a step of the network; its floating-point results may depend on how many it gets at once
Look = Callable[[], None]  # called often while images are scored


class Scorer(Protocol):
    """What gives images their scores."""

    @property
    def spec(self) -> ImageSpec:
        """Size and channels of the images that it takes."""

    @property
    def scoring_graph(self) -> Graph | None:
        """The graph that gives the scores; None where something else does."""

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


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores (n,) float64, NaN where an image is unreadable, and the reasons (n,), empty where it is readable."""

    scores: NDArray[np.float64]
    reasons: NDArray[np.object_]


def score_here(
    items: Sequence[Item],
    scorer: Scorer,
    advance: Callable[..., None] = lambda steps: None,
    look: Look = lambda: None,
    cores: int | None = None,
    kept: Mapping[int, bytes] = MappingProxyType({}),
) -> Scores:
    """The scores of images by this process, one stream from decoding to the network, on all or so many of its cores.

    Where a graph scores, each core has steps of its own; PyTorch has threads of its own. `advance` is told how many
    more are done, and `look` is called after each step. `kept` are files whose bytes are in memory, by their place.
    """
    graph = scorer.scoring_graph
    scores = np.full(len(items), np.nan)
    reasons = np.full(len(items), "", dtype=object)
    with contents_of(items, kept) as contents:
        steps: Iterator[tuple[ImageBatch, NDArray[np.float64]]]
        if graph is None:
            steps = ((part, scorer.score(part.pixels)) for part in stream(contents, scorer.spec, STEP, cores))
        else:
            run = graph.open().score

            def step(part: ImageBatch) -> tuple[ImageBatch, NDArray[np.float64]]:
                return part, run(part.pixels, threads=1)

            steps = stream_through(contents, scorer.spec, step, STEP, cores and cores + 1)
        for part, found in steps:
            scores[part.indices] = found
            for index, reason in part.unreadable:
                reasons[index] = reason
            look()
            advance(len(part.indices) + len(part.unreadable))
    return Scores(scores, reasons)


def rows_of(
    batch: Batch,
    decider: Decider,
    scored: Scores,
    pipeline: PipelineConfig,
    manifest_hash: str,
) -> dict[str, Any]:
    """The columns of a batch's rows, an image each; the batch's hash draws the images of the audit."""
    readable = scored.reasons == ""
    p_values = np.where(readable, decider.p_values(scored.scores), np.nan)
    return {
        "uri": [item.uri for item in batch.items],
        "score": scored.scores,
        "p_value": p_values,
        "flagged": decider.threshold.flags(scored.scores),
        "status": np.where(readable, "scored", "unreadable"),
        "reason": scored.reasons.astype(str),
        "review": review_list(p_values, pipeline.monitor.review_fdr),
        "audit": audit_sample(readable, pipeline.review.audit, manifest_hash),
    }
