"""A challenger: trained on the nominal images and on those that people confirmed, calibrated, deciding nothing yet."""

from dataclasses import dataclass, replace

from flows.calibration import CalibrationReport, calibrate_detector
from flows.config import PipelineConfig
from flows.labels import opinions
from flows.ledger import Ledger
from flows.progress import Progress
from flows.shadow import catch_up, challenger_of
from flows.sources import Item, groups_of, inbox_batches
from flows.tracking import CHALLENGER
from flows.training import train
from flows.training_report import TrainingReport
from flows.workspace import Workspace

KIND = "retraining"  # of the run: a training whose detector decides only once it is promoted


@dataclass(frozen=True)
class RetrainingReport:
    """What came of a retraining: the challenger, and how many batches it scored in the shadow at once."""

    pipeline: str
    training: TrainingReport
    calibration: CalibrationReport
    confirmed: int
    missing: int
    shadowed: int

    @property
    def run_url(self) -> str:
        """Where a browser shows the training."""
        return self.training.run_url

    def sentences(self) -> tuple[str, ...]:
        """What came out, for people."""
        images = f"{self.confirmed} images that people confirmed to be nominal were added to the training."
        gone = f"{self.missing} more are not in the inbox any more." if self.missing else ""
        batches = (
            f"It scored the newest {self.shadowed} batches in the shadow of the champion, as it will all to come: "
            f"'reconwatch promote {self.pipeline}' lets it decide."
        )
        learnt = (images, *filter(None, [gone]), *self.training.sentences())
        return (*learnt, *self.calibration.sentences(), batches)


def retrain(pipeline: PipelineConfig, workspace: Workspace, progress: Progress) -> RetrainingReport:
    """Train and calibrate a challenger; the champion decides on.

    Raises:
        InputError: the images or the configuration do not allow it.
    """
    tracking = workspace.tracking
    confirmed, missing = confirmed_items(pipeline, workspace.ledger)
    settings = workspace.settings
    checkpoints, cache = settings.checkpoints(pipeline.name), settings.cache
    training = train(pipeline, tracking, progress, confirmed, KIND, checkpoints, cache)
    run = tracking.training(training.run_id)
    calibration = calibrate_detector(pipeline, run, tracking, progress, role=CHALLENGER)
    challenger = challenger_of(pipeline, tracking)
    shadowed = catch_up(pipeline, workspace, challenger, progress) if challenger else 0
    training = replace(training, standing="")  # the calibration says where the pipeline stands
    return RetrainingReport(pipeline.name, training, calibration, len(confirmed), missing, shadowed)


def confirmed_items(pipeline: PipelineConfig, ledger: Ledger) -> tuple[tuple[Item, ...], int]:
    """The images that people confirmed to be nominal, with their groups, and how many more there were.

    Only those that lie in the inbox now: an address in the ledger is never opened by itself.
    """
    known = opinions(ledger.labels.of(pipeline.name)).items()
    uris = {uri for (_, uri), opinion in known if opinion.verdict == "nominal"}
    uris -= {uri for (_, uri), opinion in known if opinion.verdict == "outlier"}
    found = inbox_batches(pipeline.data) if pipeline.data.inbox and uris else ()
    items = {item.uri: item for batch in found for item in batch.items if item.uri in uris}
    groups = groups_of(pipeline.data, list(items))
    chosen = tuple(replace(items[uri], group=groups.get(uri)) for uri in sorted(items))
    return chosen, len(uris) - len(chosen)
