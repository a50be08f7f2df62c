"""What pipelines.yaml says of a pipeline beside its images and its network: training, threshold, monitoring."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, Tag, ValidationInfo, field_validator

from flows.config_incidents import Duration
from flows.config_types import (
    DEVICE,
    NOT_BOOLEAN,
    Count,
    Part,
    Positive,
    Rate,
    Share,
    chosen_by,
)

Engine = Literal["auto", "torch", "onnxruntime", "openvino", "int8"]


class TrainingConfig(Part):
    """How the network learns, and how the nominal images are split."""

    epochs: Count = Field(default=100, description="passes over the training images, at most")
    batch_size: Count = Field(default=64, description="images in one step")
    learning_rate: Annotated[float, Field(gt=0, le=1), NOT_BOOLEAN] = Field(
        default=3e-3, description="of the Adam optimiser"
    )
    patience: Count = Field(default=15, description="epochs without a lower validation error before training stops")
    seed: Annotated[int, Field(ge=0, lt=2**32), NOT_BOOLEAN] = Field(
        default=0, description="of the split, the weights and the batches"
    )
    device: Annotated[str, Field(pattern=DEVICE)] = Field(default="auto", description="auto, cpu, mps, cuda or cuda:N")
    validation_share: Share = Field(
        default=0.15, description="share of the nominal images that early stopping looks at"
    )
    calibration_share: Share = Field(
        default=0.25, description="share of the nominal images that the threshold is taken from"
    )
    max_images: Count = Field(default=20_000, description="nominal images that are used, at most")

    @field_validator("calibration_share")
    @classmethod
    def _leaves_some(cls, share: float, info: ValidationInfo) -> float:
        if share + info.data.get("validation_share", 0) >= 1:
            raise ValueError("with validation_share it takes all images: together they must be less than 1")
        return share


class ConformalThreshold(Part):
    """A threshold from nominal images alone: an order statistic of their scores."""

    method: Literal["conformal"] = Field(
        default="conformal", description="from nominal images alone; holds at any sample size"
    )
    false_alarm_rate: Rate = Field(default=0.01, description="share of nominal images that may be flagged")
    confidence: Share | None = Field(
        default=None,
        description="hold the rate with this probability over calibration sets; by default on average over them",
    )


class LabelledFalseAlarmRate(Part):
    """A threshold from labelled images: the most anomalies found at a share of false alarms."""

    method: Literal["false_alarm_rate"] = Field(
        default="false_alarm_rate", description="the highest recall at this rate"
    )
    target: Rate = Field(description="share of labelled nominal images that may be flagged")


class LabelledRecall(Part):
    """A threshold from labelled images: the fewest false alarms at a share of anomalies found."""

    method: Literal["recall"] = Field(default="recall", description="the fewest false alarms at this recall")
    target: Annotated[float, Field(gt=0, lt=1), NOT_BOOLEAN] = Field(
        description="share of anomalies that must be flagged"
    )


class LabelledFScore(Part):
    """A threshold from labelled images: the best F-score."""

    method: Literal["f_score"] = Field(default="f_score", description="the best F-score")
    beta: Positive = Field(default=1.0, description="recall counts this many times as much as precision")


class LabelledCost(Part):
    """A threshold from labelled images: the lowest cost of false alarms and misses."""

    method: Literal["cost"] = Field(default="cost", description="the lowest cost")
    false_alarm: Positive = Field(default=1.0, description="what flagging a nominal image costs")
    miss: Positive = Field(default=10.0, description="what not flagging an anomalous image costs")


THRESHOLDS: dict[str, type[BaseModel]] = {
    "conformal": ConformalThreshold,
    "false_alarm_rate": LabelledFalseAlarmRate,
    "recall": LabelledRecall,
    "f_score": LabelledFScore,
    "cost": LabelledCost,
}
ThresholdConfig = Annotated[
    Annotated[ConformalThreshold, Tag("<ConformalThreshold>")]
    | Annotated[LabelledFalseAlarmRate, Tag("<LabelledFalseAlarmRate>")]
    | Annotated[LabelledRecall, Tag("<LabelledRecall>")]
    | Annotated[LabelledFScore, Tag("<LabelledFScore>")]
    | Annotated[LabelledCost, Tag("<LabelledCost>")],
    chosen_by("method", THRESHOLDS, default="conformal"),
]


class MonitorConfig(Part):
    """When a whole batch, or the stream of batches, raises an alarm."""

    batch_false_alarm_rate: Rate = Field(default=0.01, description="share of nominal batches that may raise an alarm")
    unreadable_rate: Annotated[float, Field(ge=0, lt=1), NOT_BOOLEAN] = Field(
        default=0.01, description="share of unreadable files that is normal"
    )
    smallest_distance: Annotated[float, Field(ge=0, lt=1), NOT_BOOLEAN] = Field(
        default=0.15, description="distance (Kolmogorov-Smirnov) from nominal scores from which on it matters"
    )
    review_fdr: Share = Field(
        default=0.1, description="share of nominal images, on average, among those of a batch that are to be reviewed"
    )
    stream_false_alarm_rate: Rate = Field(
        default=0.05,
        description="chance that nominal batches ever raise an alarm of the stream, all calibrations together",
    )
    stream_run_length: Annotated[float, Field(gt=1), NOT_BOOLEAN] = Field(
        default=1000,
        description="nominal batches to a false alarm of the change detector, which needs threshold.confidence",
    )
    expect_batch_every: Duration | None = Field(
        default=None, description="time without a scored batch that raises an alarm"
    )
    expect_run_every: Duration | None = Field(
        default=None, description="time without a run of reconwatch that raises an alarm"
    )


class ReviewConfig(Part):
    """What people are asked to label of a batch, beside its flagged images."""

    audit: Annotated[int, Field(ge=0, le=1000), NOT_BOOLEAN] = Field(
        default=10, description="images of a batch that are drawn at random, flagged or not; 0 for none"
    )
    flagged: Annotated[int, Field(ge=0, le=1000), NOT_BOOLEAN] = Field(
        default=50, description="flagged images of a batch that are asked for, at most; more are drawn at random"
    )
    reviewers: tuple[Annotated[str, Field(min_length=1, max_length=100)], ...] = Field(
        default=(), description="users of an MLflow server with a login who may label in its Review tab"
    )
