"""What a challenger has to show before it decides: on the same images as the champion, and in its shadow."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from ae_models.baselines import fit_principal_components
from ae_models.batch_tests import flagged_p_value
from ae_models.comparison import auroc_difference
from ae_models.curves import percent
from ae_models.detector import AnyDetector, Detector
from ae_models.errors import InputError
from ae_models.synthetic_defects import draw_defects
from ae_models.training import choose_device
from flows.calibration import calibration_items, judging_items, learnt_uris
from flows.config import PipelineConfig
from flows.labels import opinions
from flows.progress import Progress
from flows.shadow import shadows
from flows.sources import Item, nominal_items
from flows.tracking import ChampionVersion, Tracking
from flows.training import ENOUGH_BASELINE
from flows.training_images import read_images
from flows.workspace import Workspace

MOST = 400  # labelled or nominal images that both are compared on
FITTED = 2000  # training images behind the principal components
PER_KIND = 12  # synthetic defects of each kind
SHADOWED = 50  # batches, the newest, of which the challenger's flags are counted
ENOUGH_LABELS = 20  # nominal images of audits that tell more than batches without an alarm do
SURELY = 0.01  # the chance of so many flags below which a rate counts as not kept
SLOWER = 1.5  # times as long as the champion a challenger may take
TIMED = 64  # images in a run against the clock


@dataclass(frozen=True)
class Check:
    """One thing that a challenger has to show, whether it does, and in which numbers."""

    name: str
    passed: bool
    sentence: str


@dataclass(frozen=True)
class Comparison:
    """Images (N, C, H, W) that neither detector learnt from, which of them are anomalous, and of what they are."""

    images: NDArray[np.float32]
    anomalous: NDArray[np.bool_]
    groups: tuple[str, ...]
    words: str


def gate(
    pipeline: PipelineConfig,
    champion: ChampionVersion,
    challenger: ChampionVersion,
    workspace: Workspace,
    progress: Progress,
) -> tuple[Check, ...]:
    """The checks of a challenger; what cannot be checked is not passed."""
    device = choose_device(pipeline.training.device)
    try:
        old, new = (each.on(device, pipeline.engine).champion.detector for each in (champion, challenger))
        if old.spec != new.spec:
            raise InputError(f"it takes images of another size than the champion: {new.spec} and {old.spec}")
        compared = comparison(pipeline, champion, challenger, new, workspace.tracking, progress)
    except InputError as error:
        unknown = tuple(Check(name, False, str(error)) for name in ("detection", "baseline", "latency"))
        return (*unknown, false_alarms(pipeline, challenger, workspace))
    baseline = _baseline(pipeline, challenger, new, workspace.tracking, progress)
    scores = _finite(new.score(compared.images))
    rivals = {"detection": old, "baseline": baseline}
    words = {"detection": f"the champion, version {champion.version}", "baseline": "principal components"}
    return (
        *(
            _detection(name, scores, _finite(rival.score(compared.images)), compared, words[name])
            for name, rival in rivals.items()
        ),
        false_alarms(pipeline, challenger, workspace),
        _latency(old, new, compared.images),
    )


def comparison(
    pipeline: PipelineConfig,
    champion: ChampionVersion,
    challenger: ChampionVersion,
    detector: AnyDetector,
    tracking: Tracking,
    progress: Progress,
) -> Comparison:
    """Labelled images where there are some of both kinds that chose neither recipe, else synthetic defects.

    Raises:
        InputError: both were trained on all nominal images, so that there is nothing to compare them on.
    """
    runs = [tracking.training(version.training_run) for version in (champion, challenger)]
    judged = [judging_items(pipeline, tracking, run)[0] for run in runs]
    if judged[0] is not None and judged[1] is not None:
        usable = {item.uri for item in judged[0][0]}
        pairs = [(item, bool(bad)) for item, bad in zip(*judged[1], strict=True) if item.uri in usable]
        kinds = [_some([pair for pair in pairs if pair[1] is bad], pipeline) for bad in (False, True)]
        if all(kinds):
            chosen = [pair for kind in kinds for pair in kind]
            return _labelled(chosen, detector, progress)
    unseen = [{item.uri: item for item in calibration_items(pipeline, tracking, run)} for run in runs]
    common = [item for uri, item in unseen[1].items() if uri in unseen[0]]
    if not common:
        raise InputError(
            "no nominal image is left that neither version was trained on, and no labelled one: nothing compares them"
        )
    images = read_images([item for item, _ in _some([(i, False) for i in common], pipeline)], detector.spec,
                         "Reading nominal images", progress).pixels  # fmt: skip
    defects = draw_defects(images, PER_KIND, pipeline.training.seed)
    groups = (*map(str, range(len(images))), *map(str, defects.sources.tolist()))
    anomalous = np.arange(len(groups)) >= len(images)
    words = f"{len(defects.images)} synthetic defects and {len(images)} nominal images"
    return Comparison(np.concatenate([images, defects.images]), anomalous, groups, words)


def false_alarms(pipeline: PipelineConfig, challenger: ChampionVersion, workspace: Workspace) -> Check:
    """Whether the challenger keeps its false-alarm rate on nominal images of audits, or on batches without an alarm.

    Images that it learnt from take no part: it knows them, and flags fewer of them than of others.
    """
    seen = shadows(pipeline, workspace, challenger.version, SHADOWED)
    if not seen:
        sentence = "no batch was scored in its shadow yet: 'reconwatch run' does so with each new one"
        return Check("false alarms", False, sentence)
    learnt = learnt_uris(workspace.tracking, challenger.training_run)
    unseen = [(shadow.record, shadow.table[~shadow.table["uri"].isin(learnt)]) for shadow in seen]
    known = opinions(workspace.ledger.labels.of(pipeline.name))
    nominal = {image for image, opinion in known.items() if opinion.verdict == "nominal" and opinion.label.audit}
    labelled = [
        flagged
        for record, table in unseen
        for uri, flagged in zip(table["uri"], table["challenger_flagged"], strict=True)
        if (record.key, uri) in nominal
    ]
    calm = [table["challenger_flagged"] for record, table in unseen if len(table) and not record.alarm]
    if len(labelled) >= ENOUGH_LABELS:
        flagged, total, words = sum(labelled), len(labelled), "nominal images of audits that it did not learn from"
    elif calm:
        flagged, total = int(sum(flags.sum() for flags in calm)), sum(map(len, calm))
        words = f"images of {len(calm)} batches without an alarm that it did not learn from"
    else:
        sentence = "of batches without an alarm it scored no image that it did not learn from, nor are enough labelled"
        return Check("false alarms", False, sentence)
    threshold = challenger.champion.threshold
    chance = flagged_p_value(int(flagged), total, threshold)
    sentence = (
        f"{flagged} of {total} {words} are flagged, where {percent(threshold.false_alarm_rate)} are promised; so many "
        f"or more happen by chance in {percent(chance)} of cases (at least {percent(SURELY)} is wanted)"
    )
    return Check("false alarms", chance >= SURELY, sentence)


def _labelled(chosen: Sequence[tuple[Item, bool]], detector: AnyDetector, progress: Progress) -> Comparison:
    truth = {item.uri: bad for item, bad in chosen}
    images = read_images([item for item, _ in chosen], detector.spec, "Reading labelled images", progress)
    anomalous = np.array([truth[item.uri] for item in images.items], np.bool_)
    groups = tuple(item.group or item.uri for item in images.items)
    words = f"{int(anomalous.sum())} anomalous and {int((~anomalous).sum())} nominal labelled images"
    return Comparison(images.pixels, anomalous, groups, words)


def _some(pairs: Sequence[tuple[Item, bool]], pipeline: PipelineConfig) -> list[tuple[Item, bool]]:
    """At most `MOST` of them, drawn by the seed."""
    order = np.random.default_rng(pipeline.training.seed).permutation(len(pairs))[:MOST]
    return [pairs[place] for place in np.sort(order)]


def _baseline(
    pipeline: PipelineConfig,
    challenger: ChampionVersion,
    detector: AnyDetector,
    tracking: Tracking,
    progress: Progress,
) -> AnyDetector:
    """Principal components of nominal images other than those of the comparison."""
    calibration = calibration_items(pipeline, tracking, tracking.training(challenger.training_run))
    apart = {item.uri for item in calibration}
    learnt = [(item, False) for item in nominal_items(pipeline.data).items if item.uri not in apart][:FITTED]
    images = read_images([item for item, _ in learnt], detector.spec, "Reading nominal images", progress).pixels
    components = fit_principal_components(images, detector.spec, ENOUGH_BASELINE, pipeline.training.seed)
    return Detector(detector.spec, "pca", {}, components)


def _detection(
    name: str, new: NDArray[np.float64], old: NDArray[np.float64], compared: Comparison, rival: str
) -> Check:
    difference = auroc_difference(new, old, compared.anomalous, compared.groups)
    sentence = f"AUROC against that of {rival}: {difference}, on {compared.words}"
    return Check(name, not difference.worse, sentence)


def _latency(old: AnyDetector, new: AnyDetector, images: NDArray[np.float32]) -> Check:
    timed = images[np.resize(np.arange(len(images)), TIMED)]
    before, now = (min(_seconds(each, timed) for _ in range(3)) for each in (old, new))
    ratio = now / max(before, 1e-9)
    sentence = (
        f"it takes {1000 * now / TIMED:.3g} ms an image where the champion takes {1000 * before / TIMED:.3g} ms, "
        f"{ratio:.2f} times as long (at most {SLOWER} is wanted)"
    )
    return Check("latency", ratio <= SLOWER, sentence)


def _seconds(detector: AnyDetector, images: NDArray[np.float32]) -> float:
    start = perf_counter()
    detector.score(images)
    return perf_counter() - start


def _finite(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """A score that is no number is flagged, so it ranks above all."""
    return np.nan_to_num(scores, nan=np.finfo(np.float64).max, posinf=np.finfo(np.float64).max)
