"""Who decides: a challenger takes over by a gate or by a person's word, and a champion is taken back."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from ae_models.errors import InputError
from flows.config import PipelineConfig
from flows.gate import Check, gate
from flows.ledger import utc_now
from flows.progress import Progress
from flows.tracking import BEFORE, CHAMPION, REASON, RegisteredVersion, Tracking
from flows.words import one_line
from flows.workspace import Workspace

LONGEST = 1000  # characters of a reason


@dataclass(frozen=True)
class Promotion:
    """Which version decides now, which did before, why, and what the gate found."""

    pipeline: str
    version: str
    before: str
    promoted: bool
    reason: str
    checks: tuple[Check, ...]

    def sentences(self) -> tuple[str, ...]:
        """What came out, for people."""
        outcomes = {True: "passed", False: "NOT PASSED"}
        found = [f"{outcomes[check.passed]}, {check.name}: {check.sentence}." for check in self.checks]
        if self.promoted:
            decides = f"Version {self.version} is champion of {self.pipeline}, in place of version {self.before}."
            return (*found, decides, f"Why: {self.reason}.")
        return (
            *found,
            f"Version {self.version} was not promoted; version {self.before} of {self.pipeline} decides on. "
            "A person may decide otherwise, with --reason.",
        )


def promote(
    pipeline: PipelineConfig,
    version: str | None,
    reason: str,
    by: str,
    workspace: Workspace,
    progress: Progress,
    clock: Callable[[], datetime] = utc_now,
) -> Promotion:
    """Let the challenger, or the version, decide batches from now on: where it passes the gate, or for a reason.

    The gate's findings and the reason stand in the registry. Batches that are being scored are finished by the version
    that they were begun with.

    Raises:
        InputError: there is no such version, or it decides already.
    """
    tracking = workspace.tracking
    chosen = _chosen(pipeline.name, version, tracking)
    champion = tracking.registry.champion(pipeline.name)
    if chosen.version == champion.version:
        raise InputError(f"version {chosen.version} is champion of {pipeline.name!r} already")
    checks = gate(pipeline, champion, tracking.registry.loaded(pipeline.name, chosen), workspace, progress)
    passed = all(check.passed for check in checks)
    said = one_line(reason, LONGEST)
    if not passed and not said:
        return Promotion(pipeline.name, chosen.version, champion.version, False, "", checks)
    words = f"{said} (by {one_line(by, 100)})" if said else "it passed the gate"
    tags = {
        REASON: words,
        "reconwatch.promoted_at": clock().isoformat(timespec="seconds"),
        "reconwatch.gate": "passed" if passed else "not passed",
        **{f"reconwatch.gate.{check.name.replace(' ', '_')}": check.sentence for check in checks},
    }
    tracking.registry.promote(pipeline.name, chosen.version, tags)
    return Promotion(pipeline.name, chosen.version, champion.version, True, words, checks)


def rollback(
    pipeline: PipelineConfig, reason: str, by: str, tracking: Tracking, clock: Callable[[], datetime] = utc_now
) -> Promotion:
    """Let the version that decided before the champion decide again.

    Raises:
        InputError: there is none, or no reason.
    """
    said = one_line(reason, LONGEST)
    if not said:
        raise InputError("give a reason: who comes after you will want to know")
    champion = tracking.registry.version_by_alias(pipeline.name, CHAMPION)
    before = champion.tags.get(BEFORE) if champion is not None else None
    if champion is None or before is None:
        raise InputError(f"no version of {pipeline.name!r} decided before the champion, so there is none to go back to")
    if before not in {version.version for version in tracking.registry.versions(pipeline.name)}:
        raise InputError(f"version {before} of {pipeline.name!r}, which decided before, was deleted from the registry")
    words = f"{said} (by {one_line(by, 100)}, {clock():%Y-%m-%d %H:%M} UTC)"
    tracking.registry.go_back(pipeline.name, before, f"back from version {champion.version}: {words}")
    return Promotion(pipeline.name, before, champion.version, True, words, ())


def _chosen(name: str, version: str | None, tracking: Tracking) -> RegisteredVersion:
    if version is None:
        challenger = tracking.registry.challenger(name)
        if challenger is None:
            raise InputError(f"nobody challenges the champion of {name!r}: run 'reconwatch retrain {name}' first")
        return challenger
    there_are = {each.version: each for each in tracking.registry.versions(name)}
    if version not in there_are:
        raise InputError(f"{name!r} has no version {version!r} (it has: {', '.join(there_are)})")
    return there_are[version]
