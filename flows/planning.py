"""What a pipeline's wishes take: the plan from its settings, and where its calibration stands against it."""

from contextlib import suppress
from dataclasses import dataclass
from statistics import median_low

from ae_models.errors import InputError
from ae_models.planning import Plan, plan
from flows.config import ConformalThreshold, MonitorConfig, PipelineConfig
from flows.sources import inbox_batches

BATCH_SIZE, POWER = 200, 0.8  # where nobody says otherwise
SMALLEST_DEFECT_RATES = (0.05, 0.1, 0.2, 0.3, 0.5)  # the first that batches of the size can show
STEPS = (1, 3, 10, 30, 100)  # times the fewest images, in the table of powers


@dataclass(frozen=True)
class Wishes:
    """What is wished for; None is what the pipeline has, or else the default."""

    false_alarm_rate: float | None = None
    confidence: float | None = None
    batch_size: int | None = None
    batch_false_alarm_rate: float | None = None
    smallest_defect_rate: float | None = None
    power: float = POWER
    detection_rate: float | None = None


NO_WISHES = Wishes()


@dataclass(frozen=True)
class PowerAt:
    """The chance that a batch such as is wished for alarms after a calibration on so many images."""

    calibration_images: int
    power: float


@dataclass(frozen=True)
class PlanReport:
    """A plan, the power with fewer images, and the calibration images of the pipeline, None without a calibration."""

    plan: Plan
    powers: tuple[PowerAt, ...]
    n_nominal: int | None

    def sentences(self) -> tuple[str, ...]:
        """The plan, and where the pipeline stands, for people."""
        standing = () if self.n_nominal is None else (f"Now: {self.plan.standing(self.n_nominal)}",)
        return (*self.plan.sentences(), *standing)


def plan_of(pipeline: PipelineConfig | None, wishes: Wishes = NO_WISHES) -> Plan:
    """The plan for a pipeline, or for none in particular, with these wishes in place of its settings.

    Raises:
        InputError: they cannot be met, or are no rates; the sentence has the nearest that can be.
    """
    if wishes.smallest_defect_rate is not None:
        return _plan(pipeline, wishes, wishes.smallest_defect_rate)
    for rate in SMALLEST_DEFECT_RATES[:-1]:
        with suppress(InputError):
            return _plan(pipeline, wishes, rate)
    return _plan(pipeline, wishes, SMALLEST_DEFECT_RATES[-1])


def report_of_plan(pipeline: PipelineConfig | None, wishes: Wishes, n_nominal: int | None) -> PlanReport:
    """The plan with the power at several numbers of calibration images, that of the pipeline (`n_nominal`) among them.

    Raises:
        InputError: as `plan_of`.
    """
    found = plan_of(pipeline, wishes)
    fewer = {(found.images_for_rate + 1) * times - 1 for times in STEPS}
    numbers = {number for number in fewer if number < found.images_for_power} | {found.images_for_power}
    numbers |= set() if n_nominal is None else {n_nominal}
    return PlanReport(found, tuple(PowerAt(number, found.power_with(number)) for number in sorted(numbers)), n_nominal)


def standing(pipeline: PipelineConfig, n_nominal: int) -> str:
    """Where a pipeline with so many calibration images stands, in one sentence; none where labels set its threshold."""
    if not isinstance(pipeline.threshold, ConformalThreshold):
        return ""
    try:
        return plan_of(pipeline).standing(n_nominal)
    except InputError as error:
        return str(error)


def _plan(pipeline: PipelineConfig | None, wishes: Wishes, smallest_defect_rate: float) -> Plan:
    threshold = pipeline.threshold if pipeline and isinstance(pipeline.threshold, ConformalThreshold) else None
    own, monitor = threshold or ConformalThreshold(), pipeline.monitor if pipeline else MonitorConfig()
    return plan(
        own.false_alarm_rate if wishes.false_alarm_rate is None else wishes.false_alarm_rate,
        own.confidence if wishes.confidence is None else wishes.confidence,
        _batch_size(pipeline) if wishes.batch_size is None else wishes.batch_size,
        monitor.batch_false_alarm_rate if wishes.batch_false_alarm_rate is None else wishes.batch_false_alarm_rate,
        smallest_defect_rate,
        wishes.power,
        wishes.detection_rate,
        monitor.stream_false_alarm_rate,
    )


def _batch_size(pipeline: PipelineConfig | None) -> int:
    """The median size of the batches in the inbox, or a default where there are none."""
    try:
        sizes = [len(batch.items) for batch in inbox_batches(pipeline.data) if batch.items] if pipeline else []
    except InputError:  # no inbox, or none yet
        sizes = []
    return median_low(sizes) if sizes else BATCH_SIZE
