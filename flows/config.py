"""The settings of pipelines.yaml: `load` gives them whole, or one InputError with every fault of the file.

`python -m flows.config` prints the JSON Schema that editors use (flows/pipelines.schema.json).
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator

from ae_models.errors import InputError
from flows import config_yaml
from flows.alert_hosts import refused_channels
from flows.config_channels import ABOUT, CHANNELS, SECRET_KEYS, Channel, LogChannel, WebhookChannel
from flows.config_faults import Fault, Location, Vocabulary, message, model_faults, nearest, written
from flows.config_incidents import IncidentsConfig
from flows.config_networks import CORRUPTIONS, MODELS, AutoConfig, ConvolutionalConfig, LinearConfig, ModelConfig
from flows.config_runner import RUNNERS, RunnerConfig, ThreadsRunner
from flows.config_schedules import SCHEDULES, ScheduleConfig
from flows.config_sections import (
    THRESHOLDS,
    ConformalThreshold,
    Engine,
    LabelledCost,
    LabelledFalseAlarmRate,
    LabelledFScore,
    LabelledRecall,
    MonitorConfig,
    ReviewConfig,
    ThresholdConfig,
    TrainingConfig,
)
from flows.config_sources import (
    LABELLED,
    DataConfig,
    LabelledFolders,
    ManifestSource,
    PathSource,
    Source,
    TableSource,
    TorchvisionSource,
    UrlSource,
)
from flows.config_types import PATTERNS, FilePath, Name, Part, keys_of, tag_of, web_address

__all__ = [
    "AutoConfig",
    "ConformalThreshold",
    "ConvolutionalConfig",
    "DataConfig",
    "IncidentsConfig",
    "LabelledCost",
    "LabelledFScore",
    "LabelledFalseAlarmRate",
    "LabelledFolders",
    "LabelledRecall",
    "LinearConfig",
    "LogChannel",
    "ManifestSource",
    "ModelConfig",
    "MonitorConfig",
    "PathSource",
    "PipelineConfig",
    "ReviewConfig",
    "ScheduleConfig",
    "Settings",
    "Source",
    "TableSource",
    "ThresholdConfig",
    "TorchvisionSource",
    "TrainingConfig",
    "UrlSource",
    "WebhookChannel",
    "fingerprint",
    "json_schema",
    "load",
]

ENGINES: tuple[str, ...] = get_args(Engine)


class PipelineEntry(Part):
    """What the file says of one pipeline."""

    data: DataConfig = Field(description="which images")
    model: ModelConfig = Field(
        default=AutoConfig(), description=f"the autoencoder: {', '.join(MODELS)}, or its parameters"
    )
    training: TrainingConfig = Field(default=TrainingConfig(), description="how it learns")
    threshold: ThresholdConfig = Field(
        default=ConformalThreshold(), description="from which score on an image is flagged"
    )
    monitor: MonitorConfig = Field(
        default=MonitorConfig(), description="when a batch, or the stream of batches, raises an alarm"
    )
    alerts: tuple[Channel, ...] = Field(
        default=(LogChannel(),), description="who is told of a batch that raised an alarm"
    )

    incidents: IncidentsConfig = Field(
        default=IncidentsConfig(), description="which alarms are one incident, and when people hear of it again"
    )

    review: ReviewConfig = Field(default=ReviewConfig(), description="which images people are asked to label")

    engine: Engine = Field(
        default="auto",
        description="what scores images: onnxruntime or openvino (on a CPU), torch, auto (onnxruntime where it can), "
        "or int8 (networks in 8-bit integers by openvino, where training finds that they detect as well)",
    )

    runner: RunnerConfig = Field(
        default=ThreadsRunner(), description=f"who scores big batches: {', '.join(RUNNERS)}, or its options"
    )

    schedule: ScheduleConfig = Field(
        default=ScheduleConfig(), description="when what is done; what is not said is as in the schedule of the file"
    )

    @field_validator("threshold")
    @classmethod
    def _has_labels(cls, threshold: Any, info: ValidationInfo) -> Any:
        data = info.data.get("data")
        if data is not None and data.labelled is None and not isinstance(threshold, ConformalThreshold):
            raise ValueError(
                f"method '{threshold.method}' needs labelled images: add data.labelled (a mapping with nominal and "
                "anomalous, or a manifest with a column label), or use method: conformal"
            )
        return threshold

    @field_validator("alerts")
    @classmethod
    def _distinct_names(cls, alerts: tuple[Channel, ...]) -> tuple[Channel, ...]:
        names = [channel.name for channel in alerts]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two channels are named '{twice[0]}': give each channel a name of its own")
        heard = {kind for channel in alerts for kind in channel.about}
        if alerts and (unheard := [kind for kind in ABOUT if kind not in heard]):
            raise ValueError(f"no channel is about {', '.join(unheard)}: leave about out of one, or add a channel")
        return alerts

    @field_validator("incidents")
    @classmethod
    def _escalates_to_channels(cls, incidents: IncidentsConfig, info: ValidationInfo) -> IncidentsConfig:
        names = [channel.name for channel in info.data.get("alerts", ())]
        if "alerts" in info.data and (unknown := [name for name in incidents.escalate_to if name not in names]):
            raise ValueError(
                f"escalate_to names '{unknown[0]}', which is no channel under alerts (they are: {', '.join(names)})"
            )
        return incidents


class PipelineConfig(PipelineEntry):
    """One pipeline, with its name."""

    name: Name = Field(description="the key that the pipeline stands at")


class SettingsFile(Part):
    """What pipelines.yaml says: the pipelines of reconwatch, each at its name."""

    workspace: FilePath = Field(
        default=Path(".reconwatch"),
        validate_default=True,
        description="the folder of the embedded stores and the results",
    )
    dashboard: Annotated[str, AfterValidator(web_address)] = Field(
        default="http://127.0.0.1:5000", description="where the MLflow pages of the embedded store are seen"
    )
    schedule: ScheduleConfig = Field(
        default=ScheduleConfig(), description="when what is done, where a pipeline does not say otherwise"
    )
    pipelines: dict[Name, PipelineEntry] = Field(
        description="the pipelines, each at its name",
        json_schema_extra={"additionalProperties": False, "minProperties": 1},
    )

    @field_validator("pipelines", mode="before")
    @classmethod
    def _has_pipelines(cls, pipelines: Any) -> Any:
        if pipelines is None or pipelines == {}:
            raise ValueError("has no pipeline: write one below it, a name with 'data:' and its 'nominal:' folder")
        return pipelines


class Settings(Part):
    """The settings of one file, whole and valid; every path in them is absolute."""

    path: Path = Field(description="the file")
    workspace: Path = Field(description="the folder of the embedded stores and the results")
    dashboard: str = Field(description="where the MLflow pages of the embedded store are seen")
    pipelines: dict[str, PipelineConfig] = Field(description="the pipelines by name, in the file's order")

    def pipeline(self, name: str) -> PipelineConfig:
        """The pipeline of that name; raises InputError that names the nearest one and all there are."""
        if name not in self.pipelines:
            there_are = ", ".join(self.pipelines)
            raise InputError(
                f"no pipeline '{name}' in {self.path}{nearest(name, self.pipelines)} (it has: {there_are})"
            )
        return self.pipelines[name]

    def checkpoints(self, pipeline: str) -> Path:
        """The folder for where a training of the pipeline stands, so that one that dies goes on there."""
        return self.workspace / "checkpoints" / pipeline

    @property
    def cache(self) -> Path:
        """The folder for decoded images that do not fit into memory; may be removed at any time."""
        return self.workspace / "cache"


VOCABULARY = Vocabulary(
    keys={
        "settings": SettingsFile.model_fields,
        "pipeline": PipelineEntry.model_fields,
        "data": DataConfig.model_fields,
        "training": TrainingConfig.model_fields,
        "monitor": MonitorConfig.model_fields,
        "incidents": IncidentsConfig.model_fields,
        "review": ReviewConfig.model_fields,
        "schedule": ScheduleConfig.model_fields,
    }
    | {
        str(tag_of(model)): keys_of(model)
        for model in (LABELLED | MODELS | CORRUPTIONS | THRESHOLDS | CHANNELS | SCHEDULES | RUNNERS).values()
    },
    patterns=PATTERNS,
)


def load(path: Path, environment: Mapping[str, str]) -> Settings:
    """The settings in `path`, `${NAME}` taken from `environment`; raises InputError with every fault of the file."""
    path = Path(os.path.expanduser(path)).absolute()
    document = config_yaml.read(path, environment)
    faults, file = document.faults, None
    try:
        file = SettingsFile.model_validate(document.values, context={"folder": path.parent})
    except ValidationError as error:
        faults = faults + model_faults(error, document.lines, document.unknown, VOCABULARY)
    faults = faults + _secrets_in(document, faults)
    if faults or file is None:
        raise InputError(message(path, faults))
    pipelines = {
        name: PipelineConfig(
            name=name,
            **dict(entry) | {"schedule": entry.schedule.over(file.schedule)} | _wished_engine(environment),
        )
        for name, entry in file.pipelines.items()
    }
    alerts = {name: pipeline.alerts for name, pipeline in pipelines.items()}
    if refused := tuple(refused_channels(alerts, environment)):
        raise InputError(f"{path}: " + "; ".join(refused))
    return Settings(path=path, workspace=file.workspace, dashboard=file.dashboard.rstrip("/"), pipelines=pipelines)


def _wished_engine(environment: Mapping[str, str]) -> dict[str, str]:
    """The engine that RECONWATCH_ENGINE names, in place of that in the file."""
    engine = environment.get("RECONWATCH_ENGINE")
    if engine and engine not in ENGINES:
        raise InputError(f"RECONWATCH_ENGINE is {engine!r}: choose one of {', '.join(ENGINES)}")
    return {"engine": engine} if engine else {}


def _secrets_in(document: config_yaml.Document, faults: Sequence[Fault]) -> list[Fault]:
    """The secrets that stand in the file itself, in channels without another fault."""
    sentence = "is secret and must not stand in the file: write ${NAME} and export that variable"
    return [
        Fault(line, written(place), sentence)
        for place, line in document.lines.items()
        if _is_a_secret(document, place) and not any(fault.path.startswith(written(place[:4])) for fault in faults)
    ]


def _is_a_secret(document: config_yaml.Document, place: Location) -> bool:
    if place[2:3] == ("data",) and place[-1] == "database":
        return place not in document.expanded and _has_a_password(document, place)
    if len(place) != 5 or place[2] != "alerts" or place in document.expanded:
        return False
    pipelines, name, alerts, number, key = place
    channel = document.values[pipelines][name][alerts][number]
    secret = isinstance(channel, dict) and key in SECRET_KEYS.get(str(channel.get("type")), ())
    return secret and channel[key] is not None


def _has_a_password(document: config_yaml.Document, place: Location) -> bool:
    value: Any = document.values
    for key in place:
        value = value[key]
    return isinstance(value, str) and re.search(r"://[^/@]*:[^/@]*@", value) is not None


Section = Literal["data", "model", "training", "threshold"]


def fingerprint(pipeline: PipelineConfig, *sections: Section) -> str:
    """SHA-256 (hex) of these sections as they are configured (of all four where none is named); paths count."""
    names: Sequence[str] = sections or ("data", "model", "training", "threshold")
    values = pipeline.model_dump(mode="json", include=set(names))
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of pipelines.yaml, with its shorthands and `${NAME}` in place of any value."""
    schema = _as_written(SettingsFile.model_json_schema())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "reconwatch pipelines.yaml"}


def _as_written(node: Any) -> Any:
    """The schema with `${NAME}` in place of any number or choice, and with the key that chooses a model required.

    Only `method: conformal` may be left out.
    """
    if isinstance(node, list):
        return [_as_written(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: value if key == "default" else _as_written(value) for key, value in node.items()}
    chosen = [
        key for key, value in node.get("properties", {}).items() if value.get("const", "conformal") != "conformal"
    ]
    if chosen:
        node["required"] = [*chosen, *node.get("required", [])]
    if node.get("type") in ("integer", "number", "boolean") or "enum" in node or "pattern" in node:
        words = {key: node.pop(key) for key in ("title", "description", "default") if key in node}
        return {**words, "anyOf": [node, {"type": "string", "pattern": r"\$\{"}]}
    return node


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
