"""What is wrong with the machine, the stores and the servers, and what to do about it.

What is wrong with images and pipelines is said by `flows.check`.
"""

import platform
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from ae_models.errors import InputError
from flows.alerts import in_words
from flows.channels import channels
from flows.check import Finding
from flows.config import Settings, load
from flows.ledger import inspect_ledger, ledger_url, open_ledger, utc_now
from flows.prefect_server import NOT_SET_UP, find_server
from flows.tracking import ArtifactMissing, Tracking, TrackingUnavailable

OURS = "reconwatch"
SHOWN = ("torch", "torchvision", "mlflow", "prefect", "fastapi")  # versions that people ask for
LEAST_FREE = 2**30  # bytes
MOST_ASTRAY = 60.0  # seconds that two clocks may differ: a claim from another host holds for ten minutes
SECONDS = 5.0
NEWEST = 10  # batches of a pipeline whose files are looked at

Clock = Callable[[], datetime]
FreeBytes = Callable[[Path], int]


def free_bytes(folder: Path) -> int:
    """How much room is left where a folder is, or will be."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return shutil.disk_usage(there).free


def examine(
    path: Path, environment: Mapping[str, str], clock: Clock = utc_now, free: FreeBytes = free_bytes
) -> list[Finding]:
    """Everything there is to say on what the configuration at `path` runs on; nothing is changed but for a probe."""
    findings = list(_versions())
    try:
        settings = load(path, environment)
    except InputError as error:
        return [*findings, Finding("wrong", "configuration", str(error))]
    findings += _workspace(settings.workspace, free)
    for part in (_ledger, _mlflow, _artifacts, _prefect):
        try:
            findings += part(settings, environment, clock)
        except (InputError, TrackingUnavailable) as error:
            findings.append(Finding("wrong", part.__name__.strip("_"), str(error)))
    return [*findings, *_folders(settings), *_channels(settings)]


def _versions() -> Iterator[Finding]:
    """What is installed, against what reconwatch and torchvision ask for."""
    python, asked = platform.python_version(), metadata(OURS)["Requires-Python"]
    if python in SpecifierSet(asked):
        yield Finding("ok", "Python", python)
    else:
        yield Finding("wrong", "Python", f"{python} runs, and reconwatch needs {asked}: install such a one")
    needs = [*_needs(OURS), *(need for need in _needs("torchvision") if need.name == "torch")]
    if unmet := [said for need in needs if (said := _unmet(need))]:
        advice = "install the versions of constraints.txt, as 'make install' does"
        yield Finding("wrong", "packages", f"{'; '.join(unmet)}: {advice}")
    else:
        yield Finding("ok", "packages", ", ".join(f"{name} {_installed(name)}" for name in SHOWN))


def _needs(package: str) -> list[Requirement]:
    needed = map(Requirement, requires(package) or ())
    return [each for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _unmet(need: Requirement) -> str:
    """What is said where a package lacks or has the wrong version; empty where it is well."""
    installed = _installed(need.name)
    if installed is None:
        return f"{need.name} is not installed"
    return "" if need.specifier.contains(installed, prereleases=True) else f"{need} is needed, and {installed} is there"


def _workspace(workspace: Path, free: FreeBytes) -> Iterator[Finding]:
    """Whether there is room in the workspace, and its folder and files can be written."""
    try:
        workspace.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workspace) as probe:
            probe.write(b"probe")
        for file in ("ledger.db", "mlflow.db"):
            if (workspace / file).exists():
                (workspace / file).open("r+b").close()
        yield Finding("ok", "workspace", str(workspace))
    except OSError as error:
        sentence = f"{workspace} cannot be written ({error.strerror or error}): give who runs reconwatch the right to"
        yield Finding("wrong", "workspace", f"{sentence}, or name another folder in 'workspace'")
    left = free(workspace)
    if left >= LEAST_FREE:
        yield Finding("ok", "disk", f"{left / 2**30:,.1f} GiB are free")
    else:
        advice = "make room ('reconwatch prune' drops pages of old batches) or move the workspace"
        yield Finding("wrong", "disk", f"only {left / 2**20:,.0f} MiB are free where {workspace} lies: {advice}")


def _ledger(settings: Settings, environment: Mapping[str, str], clock: Clock) -> Iterator[Finding]:
    state = inspect_ledger(ledger_url(settings.workspace, environment))
    if not state.there:
        yield Finding("note", "ledger", f"{state.address} is not there yet: the first command makes it")
    elif not state.current:
        sentence = f"{state.address} was written by an older reconwatch: the next command brings it up to date"
        yield Finding("note", "ledger", f"{sentence}, so copy it before if you may want to go back")
    else:
        yield Finding("ok", "ledger", f"{state.address}, which can be written")
        yield from _waiting(settings, environment)
    if state.now is not None:
        yield _clock_finding("the ledger's database", state.now, clock())


def _waiting(settings: Settings, environment: Mapping[str, str]) -> Iterator[Finding]:
    """The channels that alerts could not be sent through."""
    ledger = open_ledger(settings.workspace, environment)
    try:
        for channel in ledger.outbox.waiting_channels():
            if channel.last_error:
                advice = f"'reconwatch alert test {channel.channel}' tries it out"
                yield Finding("wrong", f"{channel.pipeline} alerts", f"{in_words(channel)}: {advice}")
    finally:
        ledger.close()


def _mlflow(settings: Settings, environment: Mapping[str, str], clock: Clock) -> Iterator[Finding]:
    uri = environment.get("MLFLOW_TRACKING_URI")
    if not uri and not (settings.workspace / "mlflow.db").exists():
        store = settings.workspace / "mlflow.db"
        yield Finding("note", "mlflow", f"{store} is not there yet: the first command makes it")
        return
    tracking = Tracking(settings, environment)
    yield Finding("ok", "mlflow", tracking.shown_uri)
    if uri and uri.startswith("http"):
        yield from _server_clock("the MLflow server", f"{uri.rstrip('/')}/health", clock)


def _artifacts(settings: Settings, environment: Mapping[str, str], clock: Clock) -> Iterator[Finding]:
    """Whether the files of what decides, and of the newest batches, are as they were written; each of them is read."""
    state = inspect_ledger(ledger_url(settings.workspace, environment))
    if not (state.there and state.current):
        return
    tracking, wrong, runs = Tracking(settings, environment), list[str](), 0
    for pipeline, run_id in _kept_runs(settings, tracking, environment):
        runs += 1
        try:
            damaged = ", ".join(tracking.artifacts.damaged(run_id))
        except ArtifactMissing as error:
            wrong.append(f"{pipeline}: {error}")
            continue
        wrong += [f"{pipeline}: {damaged} of run {run_id} are not as they were written, or gone"] if damaged else []
    for sentence in wrong:
        advice = "restore them from a backup, or let the step that made them run again"
        yield Finding("wrong", "artifacts", f"{sentence}: {advice}")
    if runs and not wrong:
        newest = f"of what decides and of the newest {NEWEST} batches of each pipeline"
        yield Finding("ok", "artifacts", f"all files of {runs} runs, {newest}, are as they were written")


def _kept_runs(settings: Settings, tracking: Tracking, environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Pipelines and runs whose files are looked at."""
    ledger = open_ledger(settings.workspace, environment)
    try:
        for name, standing in tracking.standings(settings.pipelines).items():
            champion, training = standing.champion, standing.training
            deciding = [] if champion is None else [champion[1].get("reconwatch.calibration_run", "")]
            newest = [record.run_id for record in ledger.batches.history(name, NEWEST)]
            runs = [*deciding, "" if training is None else training.run_id, *newest]
            yield from ((name, run) for run in runs if run)
    finally:
        ledger.close()


def _prefect(settings: Settings, environment: Mapping[str, str], clock: Clock) -> Iterator[Finding]:
    server = find_server(environment)
    if server.url is not None:
        yield Finding("ok", "prefect", server.url)
        yield from _server_clock("the Prefect server", f"{server.url.rstrip('/')}/health", clock)
    elif server.reason == NOT_SET_UP:
        yield Finding("note", "prefect", f"{server.reason}: commands run without it")
    else:
        advice = "start it, or unset PREFECT_API_URL to run without it"
        yield Finding("wrong", "prefect", f"{server.reason}: {advice}")


def _server_clock(whose: str, address: str, clock: Clock) -> Iterator[Finding]:
    """How far our clock is from a server's, by the date of its answer."""
    try:
        with urllib.request.urlopen(address, timeout=SECONDS) as answer:
            date = answer.headers["Date"]
    except urllib.error.HTTPError as error:  # who wants a password tells the time too
        date = error.headers["Date"]
    except OSError:
        return
    if date:
        yield _clock_finding(whose, parsedate_to_datetime(date), clock())


def _clock_finding(whose: str, theirs: datetime, ours: datetime) -> Finding:
    ahead = (ours - theirs).total_seconds()
    if abs(ahead) <= MOST_ASTRAY:
        return Finding("ok", "clock", f"as that of {whose}")
    said = f"{abs(ahead):,.0f} s {'ahead of' if ahead > 0 else 'behind'} that of {whose}"
    advice = "set both by a time server ('timedatectl set-ntp true')"
    return Finding("wrong", "clock", f"this machine's clock is {said}: {advice}")


def _folders(settings: Settings) -> Iterator[Finding]:
    """The folders of images that may not be read."""
    for pipeline in settings.pipelines.values():
        for what in ("nominal", "inbox"):
            folder = getattr(pipeline.data, what, None)
            if not isinstance(folder, Path) or not folder.is_dir():
                continue  # whether it has to be there is said by `reconwatch check`
            try:
                next(folder.iterdir(), None)
            except OSError as error:
                sentence = f"{folder} cannot be read ({error.strerror}): give who runs reconwatch the right to"
                yield Finding("wrong", f"{pipeline.name} {what}", sentence)


def _channels(settings: Settings) -> Iterator[Finding]:
    """The channels of each pipeline."""
    for pipeline in settings.pipelines.values():
        try:
            names = ", ".join(channels(pipeline.alerts))
        except Exception as error:
            yield Finding("wrong", f"{pipeline.name} alerts", str(error))
            continue
        advice = "nobody hears of its alarms: name a channel under 'alerts'"
        yield Finding("ok" if names else "wrong", f"{pipeline.name} alerts", names or advice)
