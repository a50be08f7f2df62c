"""Pipelines as Prefect deployments: what pipelines.yaml asks for, and what has to change on the server for that."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    DeploymentFilterTags,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType, VersionInfo
from prefect.client.schemas.responses import DeploymentResponse
from prefect.deployments.runner import DeploymentApplyError
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Cron, Interval, RRule, Schedule
from prefect.types.entrypoint import EntrypointType

from ae_models.errors import InputError
from flows.config import Settings
from flows.config_schedules import WORKS, CronSchedule, IntervalSchedule, RecurrenceSchedule, Work
from flows.review import recalibrate, retrain, review
from flows.run import run

FLOWS: Mapping[Work, Flow[..., Any]] = {
    "score": run,  # whatever is due: the first training and calibration too
    "recalibrate": recalibrate,
    "retrain": retrain,
    "review": review,
}
OURS = "reconwatch"  # the tag of every deployment that reconwatch made, and may delete
AT_WORK = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)
MIDNIGHT = datetime(2020, 1, 1, tzinfo=UTC)  # what intervals are counted from, so that no restart moves them
PAGE = 200  # rows that Prefect gives at once


@dataclass(frozen=True)
class Place:
    """Where deployments of a file run: served by `reconwatch serve`, or by the workers of a pool.

    Attributes:
        config: the file, as an absolute path here.
        config_there: its path where the runs are.
        variables: the job variables of a pool's runs.
    """

    config: str
    config_there: str
    pool: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tags(self) -> list[str]:
        """What tells the deployments of this file and place from all others."""
        where = f"reconwatch-pool:{self.pool}" if self.pool else "reconwatch-served"
        return [OURS, f"reconwatch-file:{self.config}", where]

    def name(self, pipeline: str) -> str:
        """The deployment's name: a pool's can stand beside those that are served."""
        return f"{pipeline}@{self.pool}" if self.pool else pipeline


@dataclass(frozen=True)
class Wanted:
    """A deployment as the file wants it; without a schedule people may start it."""

    pipeline: str
    work: Work
    schedule: CronSchedule | IntervalSchedule | RecurrenceSchedule | None

    def version(self, place: Place) -> str:
        """What changes with anything that the server has to know of it."""
        schedule = self.schedule.model_dump(mode="json") if self.schedule else None
        text = json.dumps([self.pipeline, self.work, schedule, asdict(place)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Changes:
    """What a comparison with the server led to: full names of deployments, and the ids of those that there are now."""

    made: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    busy: tuple[str, ...]  # to be removed once their run is over; their schedules are off
    ids: Mapping[UUID, Wanted]

    def sentences(self) -> tuple[str, ...]:
        """What happened, for people; nothing where nothing did."""
        said = {
            "New": self.made,
            "Changed": self.changed,
            "Removed": self.removed,
            "Off, and removed once the run under way is over": self.busy,
        }
        return tuple(f"{what}: {', '.join(names)}." for what, names in said.items() if names)


def wanted_deployments(settings: Settings) -> tuple[Wanted, ...]:
    """One of each kind of work for every pipeline, in the order of the file."""
    return tuple(
        Wanted(name, work, pipeline.schedule.zoned(work))
        for name, pipeline in settings.pipelines.items()
        for work in WORKS
    )


def bring_about(wanted: tuple[Wanted, ...], place: Place, client: SyncPrefectClient) -> Changes:
    """Make, change and remove deployments of this file and place until they are what is wanted; others stay.

    What is as wanted is not touched: its scheduled runs stay, and a schedule that people switched off is off.

    Raises:
        InputError: a name is taken by a deployment that is not of this file, or Prefect refuses one.
    """
    there = {_full_name(one): one for one in _deployments(client, place.tags)}
    names: dict[str, list[str]] = {"made": [], "changed": [], "removed": [], "busy": []}
    ids: dict[UUID, Wanted] = {}
    for each in wanted:
        name = f"{FLOWS[each.work].name}/{place.name(each.pipeline)}"
        known = there.pop(name, None)
        if known is None:
            _refuse_foreign(name, client)
        if known is None or known.version != each.version(place):
            ids[_apply(each, place)] = each
            names["made" if known is None else "changed"].append(name)
        else:
            ids[known.id] = each
    for name, one in there.items():
        names["removed" if _remove(one, client) else "busy"].append(name)
    return Changes(**{what: tuple(which) for what, which in names.items()}, ids=ids)


def runs_at_work(deployments: Iterable[UUID], client: SyncPrefectClient) -> list[FlowRun]:
    """The flow runs of these deployments that Prefect believes to be pending, running or being cancelled."""
    states = FlowRunFilterState(type=FlowRunFilterStateType(any_=list(AT_WORK)))
    return client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=list(deployments))),
        flow_run_filter=FlowRunFilter(state=states),
        limit=PAGE,
    )


def _apply(wanted: Wanted, place: Place) -> UUID:
    flow = FLOWS[wanted.work]
    schedule = schedule_for_prefect(wanted.schedule)
    deployment: Any = flow.to_deployment(
        place.name(wanted.pipeline),
        schedules=[schedule] if schedule else [],
        parameters={"config": place.config_there, "pipeline": wanted.pipeline},
        description=f"{(flow.description or '').splitlines()[0]}\n\nMade by reconwatch from {place.config}.",
        tags=place.tags,
        version=wanted.version(place),
        enforce_parameter_schema=True,
        paused=False,  # where it was removed and came back
        work_pool_name=place.pool,
        job_variables=dict(place.variables),
        entrypoint_type=EntrypointType.MODULE_PATH,
        _sync=True,  # type: ignore[call-arg]  # whatever loop runs around: else Prefect gives a coroutine there
    )
    try:
        # Left out, Prefect runs git for a version, in whatever folder we are.
        version = VersionInfo(type="reconwatch", version=wanted.version(place))
        identifier: UUID = deployment.apply(version_info=version, _sync=True)
    except (DeploymentApplyError, ValueError) as error:
        raise InputError(f"Prefect refuses the deployment {flow.name}/{place.name(wanted.pipeline)}: {error}") from None
    return identifier


def schedule_for_prefect(schedule: CronSchedule | IntervalSchedule | RecurrenceSchedule | None) -> Schedule | None:
    """The same schedule in Prefect's form. Intervals are in UTC: in a zone, Prefect leaves out the hour that the clock
    repeats in autumn."""
    if schedule is None:
        return None
    if isinstance(schedule, IntervalSchedule):
        return Interval(schedule.interval, anchor_date=MIDNIGHT, timezone="UTC")
    if isinstance(schedule, CronSchedule):
        return Cron(schedule.cron, timezone=schedule.timezone)
    return RRule(schedule.rrule, timezone=schedule.timezone)


def _remove(deployment: DeploymentResponse, client: SyncPrefectClient) -> bool:
    """Whether it could be deleted: while a run of it is under way it is only paused, as the run needs it to load."""
    if runs_at_work([deployment.id], client):
        client.update_deployment(deployment.id, DeploymentUpdate(paused=True, version="removed"))
        return False
    client.delete_deployment(deployment.id)
    return True


def _deployments(client: SyncPrefectClient, tags: list[str]) -> Iterator[DeploymentResponse]:
    offset = 0
    while found := client.read_deployments(
        deployment_filter=DeploymentFilter(tags=DeploymentFilterTags(all_=tags)), limit=PAGE, offset=offset
    ):
        yield from found
        offset += len(found)


def _full_name(deployment: DeploymentResponse) -> str:
    entrypoint = (deployment.entrypoint or "").rpartition(".")[2]  # flows.run.run: a flow has its function's name
    return f"{entrypoint}/{deployment.name}"


def _refuse_foreign(name: str, client: SyncPrefectClient) -> None:
    try:
        found = client.read_deployment_by_name(name)
    except ObjectNotFound:
        return
    owner = [tag.partition(":")[2] for tag in found.tags if tag.startswith("reconwatch-file:")]
    whose = f"belongs to {owner[0]}" if owner else "was not made by reconwatch"
    raise InputError(
        f"the deployment {name} on this Prefect server {whose}: give the pipeline another name, or delete that "
        f"deployment (prefect deployment delete {name})"
    )
