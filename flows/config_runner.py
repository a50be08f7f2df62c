"""What pipelines.yaml says of who scores the parts of a big batch: threads, processes, Dask or Ray."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field, Tag

from flows.config_types import Count, Part, Text, chosen_by, shorthand

SHARD_SIZE = 16_384
NAMED = "Of one that is named by its address, how many share a batch: it is cut into as many shards for each"
SIZE_WORDS = "images of a batch that one worker scores at a time, at most; rounded up to a multiple of 64"


class ThreadsRunner(Part):
    """Threads of the process itself."""

    type: Literal["threads"] = Field(default="threads", description="threads of the process itself: nothing is started")
    workers: Count = Field(default=1, description="shards that are scored at once; with 1 a batch is not cut")
    shard_size: Count = Field(default=SHARD_SIZE, description=SIZE_WORDS)


class ProcessesRunner(Part):
    """Processes of this machine."""

    type: Literal["processes"] = Field(default="processes", description="processes of this machine")
    workers: Count | None = Field(default=None, description="processes; by default one a core")
    shard_size: Count = Field(default=SHARD_SIZE, description=SIZE_WORDS)


class DaskRunner(Part):
    """The workers of a Dask cluster."""

    type: Literal["dask"] = Field(default="dask", description="the workers of a Dask cluster")
    address: Text | None = Field(
        default=None, description="of a cluster's scheduler, such as tcp://scheduler:8786; by default one is started"
    )
    workers: Count | None = Field(
        default=None, description=f"processes of a cluster that is started; one a core. {NAMED}"
    )
    shard_size: Count = Field(default=SHARD_SIZE, description=SIZE_WORDS)


class RayRunner(Part):
    """The workers of a Ray cluster."""

    type: Literal["ray"] = Field(default="ray", description="the workers of a Ray cluster")
    address: Text | None = Field(
        default=None, description="of a cluster, such as ray://head:10001; by default one is started"
    )
    workers: Count | None = Field(
        default=None, description=f"processor cores of a cluster that is started; all of them. {NAMED}"
    )
    shard_size: Count = Field(default=SHARD_SIZE, description=SIZE_WORDS)


RUNNERS: dict[str, type[BaseModel]] = {
    "threads": ThreadsRunner,
    "processes": ProcessesRunner,
    "dask": DaskRunner,
    "ray": RayRunner,
}
RunnerUnion = (
    Annotated[ThreadsRunner, Tag("<ThreadsRunner>")]
    | Annotated[ProcessesRunner, Tag("<ProcessesRunner>")]
    | Annotated[DaskRunner, Tag("<DaskRunner>")]
    | Annotated[RayRunner, Tag("<RayRunner>")]
)
RunnerConfig = Annotated[
    RunnerUnion,
    chosen_by("type", RUNNERS),
    BeforeValidator(
        shorthand("type"),
        json_schema_input_type=RunnerUnion | Literal["threads", "processes", "dask", "ray"],
    ),
]
