"""What is wrong with configuration, data and stores, and what to do about it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ae_models.errors import InputError
from ae_models.images import infer_spec
from flows.config import PipelineConfig, load
from flows.due import changes_since_training
from flows.folders import loose_files
from flows.prefect_server import find_server
from flows.requirements import require_device, require_engine, require_enough, require_size
from flows.sources import inbox_batches, labelled_items, nominal_items
from flows.tracking import TrackingUnavailable
from flows.workspace import Workspace, open_workspace


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, how it is, and what to do where it is not well."""

    state: Literal["ok", "note", "wrong"]
    what: str
    sentence: str


def check_all(path: Path, name: str | None, environment: Mapping[str, str]) -> list[Finding]:
    """Everything there is to say on the configuration at `path`, or on one pipeline of it.

    Raises:
        InputError: the configuration itself is wrong; the message holds every fault of it.
    """
    settings = load(path, environment)
    pipelines = [settings.pipeline(name)] if name else list(settings.pipelines.values())
    findings = [Finding("ok", "configuration", f"{settings.path}: {', '.join(settings.pipelines)}")]
    workspace = None
    try:
        workspace = open_workspace(path, environment)
        findings.append(Finding("ok", "MLflow", workspace.tracking.shown_uri))
    except (InputError, TrackingUnavailable) as error:
        findings.append(Finding("wrong", "MLflow", str(error)))
    server = find_server(environment)
    findings.append(
        Finding("ok", "Prefect", server.url)
        if server.url
        else Finding("note", "Prefect", f"{server.reason}: commands run without it")
    )
    for pipeline in pipelines:
        findings += _pipeline_findings(pipeline, workspace)
    return findings


def _pipeline_findings(pipeline: PipelineConfig, workspace: Workspace | None) -> Iterator[Finding]:
    for part in (_nominal, _labelled, _inbox):
        try:
            yield from part(pipeline)
        except InputError as error:
            yield Finding("wrong", f"{pipeline.name} {part.__name__.strip('_')}", str(error))
    if workspace is None:
        return
    champion = workspace.tracking.registry.champion_version(pipeline.name)
    if champion is None:
        yield Finding("note", f"{pipeline.name} champion", f"none yet: reconwatch run {pipeline.name}")
    elif changes_since_training(workspace, pipeline):
        yield Finding(
            "note",
            f"{pipeline.name} champion",
            f"version {champion[0]} was trained with another configuration: reconwatch train {pipeline.name}",
        )
    else:
        yield Finding("ok", f"{pipeline.name} champion", f"version {champion[0]}")


def _nominal(pipeline: PipelineConfig) -> Iterator[Finding]:
    found = nominal_items(pipeline.data)
    require_enough(pipeline, len(found.items))
    spec, data = infer_spec([item.content for item in found.items]), pipeline.data
    if data.size is not None:
        spec = replace(spec, height=data.size[0], width=data.size[1])
    spec = replace(spec, channels=data.channels or spec.channels)
    require_size(pipeline, spec)
    require_device(pipeline)
    require_engine(pipeline)
    groups = len({item.group for item in found.items if item.group is not None})
    words = f"{len(found.items)} images, seen as {spec.height} x {spec.width} x {spec.channels}"
    yield Finding("ok", f"{pipeline.name} nominal", words + (f", {groups} groups" if groups else ""))
    if found.left_out:
        yield Finding(
            "note",
            f"{pipeline.name} nominal",
            f"{len(found.left_out)} files are no images by name and are left out, such as {found.left_out[0]}",
        )


def _labelled(pipeline: PipelineConfig) -> Iterator[Finding]:
    labelled = labelled_items(pipeline.data)
    if labelled is None:
        yield Finding("note", f"{pipeline.name} labelled", "none: detection cannot be measured, only false alarms")
    else:
        found, truth = labelled
        yield Finding(
            "ok", f"{pipeline.name} labelled", f"{len(found.items)} images, {int(truth.sum())} of them anomalous"
        )


def _inbox(pipeline: PipelineConfig) -> Iterator[Finding]:
    if pipeline.data.inbox is None:
        yield Finding("note", f"{pipeline.name} inbox", "none: 'reconwatch score NAME PATH' scores what it is given")
        return
    batches = inbox_batches(pipeline.data)
    yield Finding(
        "ok", f"{pipeline.name} inbox", f"{len(batches)} batches, {sum(len(batch.items) for batch in batches)} images"
    )
    if stray := loose_files(pipeline.data):
        yield Finding(
            "note",
            f"{pipeline.name} inbox",
            f"{len(stray)} files belong to no batch, such as {stray[0]}: put them into a subfolder",
        )
