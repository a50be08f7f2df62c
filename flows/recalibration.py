"""A new threshold from the random audit: nominal images that people looked at, whatever their score."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ae_models.calibration import Threshold, conformal_threshold
from ae_models.certificate import Certificate, certify, installed_versions
from ae_models.champion import Champion
from ae_models.errors import InputError
from ae_models.panels import score_histogram
from flows.calibration import learnt_uris, version_description
from flows.config import ConformalThreshold, PipelineConfig, fingerprint
from flows.labels import Label, opinions
from flows.ledger import BatchRecord, utc_now
from flows.lineage import ThresholdRecord, lineage_of, lineage_table
from flows.markdown import as_text
from flows.processes import this_process
from flows.progress import Progress
from flows.replay import Replay, replay_with
from flows.reviewing import batch_review
from flows.tracking import REASON, ArtifactMissing, ChampionVersion, Tracking
from flows.workspace import Workspace

SHOWN = 100  # past batches, the newest, that the preview decides again


@dataclass(frozen=True)
class Recalibration:
    """A threshold that could decide from now on, what it rests on, and what past batches would have been.

    Attributes:
        pipeline: its name.
        version: the champion whose detector it is for.
        before: the champion's threshold.
        threshold: from the audit.
        scores: (n,) float64, of the nominal images of the audit.
        labels: those behind the scores, one an image.
        unfinished: batches of which a part of the audit is labelled, and which take no part.
        preview: past batches of this detector under the new threshold.
    """

    pipeline: str
    version: str
    before: Threshold
    threshold: Threshold
    scores: NDArray[np.float64]
    labels: tuple[Label, ...]
    unfinished: int
    preview: Replay

    @property
    def batches(self) -> dict[str, int]:
        """How many images each batch gave, by name."""
        return dict(Counter(label.batch for label in self.labels))

    @property
    def reviewers(self) -> tuple[str, ...]:
        """Whose labels they are."""
        return tuple(sorted({label.reviewer for label in self.labels}))

    def sentences(self) -> tuple[str, ...]:
        """What would change, for people."""
        who = ", ".join(self.reviewers)
        lines = [
            f"{len(self.scores)} nominal images of the audit of {len(self.batches)} batches, labelled by {who}: the "
            f"threshold of version {self.version} of {self.pipeline} goes from {self.before.value:.6g} to "
            f"{self.threshold.value:.6g}.",
            *self.threshold.sentences()[1:],
        ]
        if self.unfinished:
            lines.append(
                f"{self.unfinished} more batches take no part, as their audits are not labelled to the end: those who "
                "label begin with the highest scores."
            )
        return (*lines, *self.preview.sentences())


@dataclass(frozen=True)
class RecalibrationReport:
    """The version that decides batches from now on, and where its threshold comes from."""

    pipeline: str
    version: str
    run_id: str
    run_url: str
    threshold: Threshold
    lineage: tuple[ThresholdRecord, ...]

    def sentences(self) -> tuple[str, ...]:
        """What came out, for people."""
        return (f"Version {self.version} is champion of {self.pipeline}.", *self.threshold.sentences())


def plan_recalibration(
    pipeline: PipelineConfig,
    workspace: Workspace,
    since: datetime | None,
    until: datetime | None,
    progress: Progress,
) -> Recalibration:
    """The threshold from the audits of the batches decided from `since` on and before `until`; nothing is changed.

    The audit is drawn from all images of a batch, so that its nominal images, flagged or not, are what calibration
    images should be. Images that were not flagged would lack the highest scores, and confirmed false alarms the lowest.

    Raises:
        InputError: there is no champion, the threshold asked for needs other labels, or too few images are labelled.
    """
    wish = pipeline.threshold
    if not isinstance(wish, ConformalThreshold):
        raise InputError(
            f"threshold.method {wish.method!r} of {pipeline.name!r} is not found on nominal images alone: add what was "
            "labelled to data.labelled, and run 'reconwatch calibrate'"
        )
    champion = workspace.tracking.registry.champion(pipeline.name)
    own = _same_detector(pipeline.name, champion, workspace.tracking)
    records = workspace.ledger.batches.decided(pipeline.name, since, until)
    mine = [record for record in records if record.calibration_version in own]
    labels, unfinished = _nominal_labels(pipeline, mine, workspace)
    learnt = learnt_uris(workspace.tracking, champion.training_run)
    labels = tuple(label for label in labels if label.uri not in learnt)
    scores = np.array([label.score for label in labels], np.float64)
    try:
        threshold = conformal_threshold(scores, wish.false_alarm_rate, wish.confidence)
    except InputError as error:
        raise InputError(
            f"{len(labels)} nominal images of the audit of {pipeline.name!r} are labelled, in batches of which the "
            f"whole audit is. {error} ('reconwatch review' asks for labels, review.audit says how many a batch)"
        ) from error
    preview = replay_with(pipeline, mine[-SHOWN:], (threshold, scores), workspace.tracking, progress)
    before = champion.champion.threshold
    return Recalibration(pipeline.name, champion.version, before, threshold, scores, labels, unfinished, preview)


def recalibrate(
    pipeline: PipelineConfig,
    workspace: Workspace,
    since: datetime | None,
    until: datetime | None,
    progress: Progress,
    clock: Callable[[], datetime] = utc_now,
) -> RecalibrationReport:
    """Let the champion's detector decide by the threshold from the audit from now on; batches decided stay decided."""
    plan = plan_recalibration(pipeline, workspace, since, until, progress)
    tracking = workspace.tracking
    champion = tracking.registry.champion(pipeline.name)
    tags = {
        "reconwatch.process": this_process().owner(),
        "reconwatch.training_run": champion.training_run,
        "reconwatch.configuration": fingerprint(pipeline, "data", "threshold"),
        "reconwatch.calibrated_on": f"audit of {len(plan.batches)} batches",
        "reconwatch.labels_by": ", ".join(plan.reviewers),
    }
    with tracking.run(pipeline.name, "calibration", "recalibrate on the audit", tags) as run_id:
        detector = champion.champion.detector
        images = [(label.uri, label.batch_key) for label in plan.labels]  # of whose hash the contents are part
        seed, versions = pipeline.training.seed, installed_versions()
        certificate = certify(detector, plan.threshold, plan.scores, images, seed, clock(), versions)
        _log(tracking, run_id, plan, champion, certificate)
        made = Champion(detector, plan.threshold, plan.scores, certificate)
        version = _register(pipeline, tracking, run_id, plan, champion, made, tags)
        who = ", ".join(plan.reviewers)
        reason = f"recalibrated on {len(plan.scores)} nominal images of the audit, labelled by {who}"
        tracking.registry.promote(pipeline.name, version, {REASON: reason})
    return RecalibrationReport(
        pipeline.name,
        version,
        run_id,
        tracking.addresses.run(pipeline.name, run_id),
        plan.threshold,
        lineage_of(pipeline.name, tracking),
    )


def _nominal_labels(
    pipeline: PipelineConfig, records: Sequence[BatchRecord], workspace: Workspace
) -> tuple[tuple[Label, ...], int]:
    """The labels of the nominal images of audits that are labelled whole; how many are labelled in part."""
    known = opinions(workspace.ledger.labels.of(pipeline.name))
    begun = {label.batch_key for label in (opinion.label for opinion in known.values()) if label.audit}
    nominal, unfinished = dict[str, Label](), 0
    for record in records:
        if record.key not in begun:
            continue
        try:
            review = batch_review(record, pipeline, workspace)
        except ArtifactMissing:
            unfinished += 1
            continue
        audit = [image.uri for image in review.images.values() if image.audit]
        said = [review.opinions.get(uri) for uri in audit]
        if None in said:
            unfinished += 1
            continue
        # An image counts once, however often its batch was scored; one without a number as its score cannot.
        nominal |= {
            one.label.uri: one.label for one in said if one and one.verdict == "nominal" and one.label.score is not None
        }
    return tuple(nominal.values()), unfinished


def _same_detector(pipeline: str, champion: ChampionVersion, tracking: Tracking) -> frozenset[str]:
    """The calibrations of the champion's detector."""
    tags = [version.tags for version in tracking.registry.versions(pipeline)]
    own = [each for each in tags if each.get("reconwatch.training_run") == champion.training_run]
    return frozenset(each.get("reconwatch.calibration_run", "") for each in own)


def _log(
    tracking: Tracking, run_id: str, plan: Recalibration, champion: ChampionVersion, certificate: Certificate
) -> None:
    rows: list[dict[str, Any]] = [
        {
            "uri": label.uri,
            "score": label.score,
            "set": "audit",
            "batch": label.batch,
            "batch_key": label.batch_key,
            "flagged_then": label.flagged,
            "reviewer": label.reviewer,
            "labelled_at": label.labelled_at.isoformat(),
        }
        for label in plan.labels
    ]
    tracking.log_table(run_id, pd.DataFrame(rows), "scores.parquet")
    tracking.log_table(run_id, plan.preview.table(), "preview.csv")
    groups = {"calibration before": champion.champion.calibration_scores, "nominal, audit": plan.scores}
    tracking.log_picture(run_id, score_histogram(groups, plan.threshold.value), "scores.png")
    tracking.log_text(run_id, certificate.to_json(), "certificate.json")
    low, high = plan.threshold.false_alarm_band
    tracking.log(
        run_id,
        params={
            "threshold.method": plan.threshold.method,
            "threshold.target": plan.threshold.target,
            "threshold.rank": plan.threshold.rank,
            "images.nominal": plan.threshold.n_nominal,
            "calibrated_on": f"audit of {len(plan.batches)} batches",
            "version_before": plan.version,
        },
        metrics={
            "threshold": plan.threshold.value,
            "threshold_before": plan.before.value,
            "false_alarm_rate": plan.threshold.false_alarm_rate,
            "false_alarm_rate_low": low,
            "false_alarm_rate_high": high,
        },
        tags={"mlflow.note.content": _description(plan)},
    )


def _description(plan: Recalibration) -> str:
    counts = [f"| {as_text(batch)} | {images} |" for batch, images in plan.batches.items()]
    lines = [f"- {as_text(sentence)}" for sentence in plan.sentences()]
    return "\n".join([*lines, "", "| batch | nominal images of its audit |", "|---|---|", *counts[:100]])


def _register(
    pipeline: PipelineConfig,
    tracking: Tracking,
    run_id: str,
    plan: Recalibration,
    champion: ChampionVersion,
    made: Champion,
    tags: dict[str, str],
) -> str:
    version_tags = {
        "reconwatch.training_run": champion.training_run,
        "reconwatch.calibration_run": run_id,
        "reconwatch.version_before": champion.version,
        "reconwatch.calibrated_on": tags["reconwatch.calibrated_on"],
        "reconwatch.labels_by": tags["reconwatch.labels_by"],
        "threshold": f"{plan.threshold.value:.6g}",
        "threshold.method": plan.threshold.method,
    }
    before = lineage_table(lineage_of(pipeline.name, tracking))
    version = tracking.registry.register(pipeline.name, run_id, made, version_tags)
    description = [
        f"Version {champion.version} with a new threshold, from the random audit.",
        as_text(" ".join(plan.sentences())),
        version_description(pipeline, tracking, version, version_tags, made),
        "The thresholds before:",
        before,
    ]
    tracking.registry.describe(pipeline.name, version, "\n\n".join(description))
    return version
