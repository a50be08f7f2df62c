"""What becomes of incidents: after a batch, after a run, when nothing happened, and when people say so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from ae_models.errors import InputError
from flows.alerts import Alert
from flows.config import PipelineConfig, Settings
from flows.config_channels import Severity
from flows.config_incidents import in_words
from flows.incident_alerts import entries, name_of, stored
from flows.incidents import (
    LASTING,
    Finding,
    Incident,
    Judgement,
    Message,
    acknowledged,
    alarmed,
    begun,
    closed,
    covers,
    key_of,
    passed,
    settled,
)
from flows.ledger import IncidentBook, Ledger, Standing

if TYPE_CHECKING:
    from ae_models.monitoring import BatchVerdict

FAILURES = 3  # runs that failed in a row, or times that a batch was begun and not finished, that are an incident


def after_batch(
    pipeline: PipelineConfig, batch_key: str, verdict: BatchVerdict, alert: Alert, taken_at: datetime | None = None
) -> Callable[[IncidentBook], None]:
    """What `Ledger.finish` does to the incidents once a batch is decided.

    Each kind of finding has its own incident, since other people see to it.

    Args:
        alert: what is said of the batch where it alarmed.
        taken_at: the batch's place in the stream, where its images say it; else it is when it was first claimed.
    """

    def settle(book: IncidentBook) -> None:
        place = taken_at or book.place_of(batch_key)
        standing = {incident.kind: incident for incident in _settle_open(book, pipeline)}
        for finding in findings(verdict, alert):
            _add_alarm(book, pipeline, finding, standing.get(finding.kind), batch_key, place)
        for kind, incident in standing.items():
            if kind == "missing":
                _write(book, *closed(incident, "", audience(pipeline, kind), book.now))
            elif kind not in LASTING and _is_clean(verdict, kind):
                _keep(book, pipeline, passed(incident, place), incident)

    return settle


def _is_clean(verdict: BatchVerdict, kind: str) -> bool:
    """Whether a batch speaks against that kind, and does not only say nothing of it.

    Where nothing was scored nothing is known; where all scores moved, or the batch is too small, nothing of defects.
    """
    kinds = verdict.diagnosis.split(" and ")
    hidden = kind == "defects" and ("moved" in kinds or verdict.alarms_from is None)
    return verdict.scored > 0 and kind not in kinds and not hidden


def findings(verdict: BatchVerdict, alert: Alert) -> tuple[Finding, ...]:
    """What is wrong with a batch, a finding each kind; none where it did not alarm."""
    if not verdict.alarm or verdict.severity == "none":
        return ()
    return tuple(Finding(kind, verdict.severity, stored(alert)) for kind in verdict.diagnosis.split(" and "))


def begin_run(ledger: Ledger, pipeline: str) -> None:
    """Notes that a run of the pipeline has begun, so that its schedule has not stopped."""
    with ledger.incidents.book(pipeline) as book:
        book.note(replace(book.watch, last_run_at=book.now))


def end_run(ledger: Ledger, pipeline: str, failure: str) -> None:
    """Notes how a run of the pipeline ended: '' where it ended well, else what failed."""
    with ledger.incidents.book(pipeline) as book:
        watch = book.watch
        if failure:
            book.note(replace(watch, failed_runs=watch.failed_runs + 1, failure=failure))
        else:
            book.note(replace(watch, good_run_at=book.now, failed_runs=0, failure=None))


def look_after(ledger: Ledger, settings: Settings) -> None:
    """Reminds, escalates and closes what is due in every pipeline, and notices what did not happen."""
    standings = ledger.incidents.standings(FAILURES)
    for pipeline in settings.pipelines.values():
        if _is_quiet(pipeline, standings.get(pipeline.name)):
            continue
        with ledger.incidents.book(pipeline.name) as book:
            _settle_open(book, pipeline)
            _settle_missing(book, pipeline)
            _settle_stopped(book, pipeline)
            _settle_failing(book, pipeline)


def _is_quiet(pipeline: PipelineConfig, standing: Standing | None) -> bool:
    """Whether there is nothing to look after: no transaction is needed for each of a thousand pipelines to know it."""
    if standing is None or standing.open or standing.given_up or standing.watch.failed_runs >= FAILURES:
        return False
    expected = (pipeline.monitor.expect_batch_every, standing.last_batch_at)
    begun = (pipeline.monitor.expect_run_every, standing.watch.last_run_at)
    return all(
        every is None or standing.now - (last or standing.watch.since) < every for every, last in (expected, begun)
    )


def acknowledge(ledger: Ledger, settings: Settings, number: int, by: str, comment: str) -> Incident:
    """The incident, acknowledged; raises InputError where there is none of that number, or it is over."""

    def ours(incident: Incident, book: IncidentBook) -> tuple[Incident, tuple[Message, ...]]:
        told = audience(settings.pipelines.get(incident.pipeline), incident.kind)
        return acknowledged(incident, by, comment, told, book.now)

    return _by_hand(ledger, number, ours)


def close(
    ledger: Ledger, settings: Settings, number: int, by: str, comment: str = "", judgement: Judgement | None = None
) -> tuple[Incident, int]:
    """The incident, closed, and how many of its batches count as nominal by the judgement.

    With a judgement an incident that is over takes it too. Raises InputError where there is none of that number, where
    it is over and there is no judgement, or where it has no batches to judge.
    """
    nominal = 0

    def over(incident: Incident, book: IncidentBook) -> tuple[Incident, tuple[Message, ...]]:
        nonlocal nominal
        if judgement is not None:
            nominal = _judged(book, incident, judgement, by, comment)
            incident = replace(incident, judgement=judgement, comment=comment or incident.comment)
        if incident.closed_at is not None:
            return incident, ()
        told = audience(settings.pipelines.get(incident.pipeline), incident.kind)
        return closed(incident, by, told, book.now, comment)

    return _by_hand(ledger, number, over, past=judgement is not None), nominal


def audience(pipeline: PipelineConfig | None, kind: str) -> Mapping[str, Severity]:
    """The least severity that each of the pipeline's channels about that kind hears of; none where it is gone."""
    channels = pipeline.alerts if pipeline else ()
    return {channel.name: channel.minimum_severity for channel in channels if kind in channel.about}


def lasts(book: IncidentBook, pipeline: PipelineConfig, kind: str, origin: str, finding: Finding | None) -> None:
    """Opens an incident of one of the kinds in LASTING where there is a finding, and closes it where there is none.

    Args:
        origin: since when or since what it lasts: closed by hand, it opens again only with another.
    """
    there = [incident for incident in book.open() if incident.kind == kind]
    if finding is None:
        for incident in there:
            _write(book, *closed(incident, "", audience(pipeline, kind), book.now))
    elif not there and not book.knows(key_of(pipeline.name, kind, origin)):
        _keep(book, pipeline, begun(pipeline.name, finding, origin, book.now, book.now), None)


def _settle_open(book: IncidentBook, pipeline: PipelineConfig) -> list[Incident]:
    """Those that are still open once every open incident has had its due."""
    settled_now = [_keep(book, pipeline, incident, incident) for incident in book.open()]
    return [incident for incident in settled_now if incident.closed_at is None]


def _settle_missing(book: IncidentBook, pipeline: PipelineConfig) -> None:
    expected, last = pipeline.monitor.expect_batch_every, book.last_batch_at()
    since, finding = last or book.watch.since, None
    if expected is not None and book.now - since >= expected:
        said = f"No batch was scored since {since:%Y-%m-%d %H:%M} UTC, where one is expected every {in_words(expected)}"
        advice = "look whether images still arrive"
        finding = _silence(pipeline, "missing", "warning", f"no batch of {pipeline.name} came in time", said, advice)
    lasts(book, pipeline, "missing", since.isoformat(), finding)


def _settle_stopped(book: IncidentBook, pipeline: PipelineConfig) -> None:
    expected, since, finding = pipeline.monitor.expect_run_every, book.watch.last_run_at or book.watch.since, None
    if expected is not None and book.now - since >= expected:
        said = f"No run began since {since:%Y-%m-%d %H:%M} UTC, where one should every {in_words(expected)}"
        advice = "look after its schedule, for nobody looks at the images meanwhile"
        finding = _silence(pipeline, "stopped", "critical", f"the runs of {pipeline.name} have stopped", said, advice)
    lasts(book, pipeline, "stopped", since.isoformat(), finding)


def _settle_failing(book: IncidentBook, pipeline: PipelineConfig) -> None:
    watch, finding, said = book.watch, None, ""
    if watch.failed_runs >= FAILURES:
        said = f"{watch.failed_runs} runs in a row failed, the last with: {watch.failure}"
    elif given_up := book.given_up(FAILURES):
        said = f"Batch {given_up[0]} was begun {FAILURES} times or more and never finished"
    if said:
        advice = f"'reconwatch run {pipeline.name}' shows what is wrong"
        finding = _silence(pipeline, "failing", "critical", f"scoring of {pipeline.name} fails", said, advice)
    lasts(book, pipeline, "failing", (watch.good_run_at or watch.since).isoformat(), finding)


def _silence(pipeline: PipelineConfig, kind: str, severity: Severity, headline: str, said: str, advice: str) -> Finding:
    alert = Alert(pipeline.name, None, {}, f"{said.rstrip('.')}: {advice}.", (), None, "", headline=headline)
    return Finding(kind, severity, stored(alert))


def _add_alarm(
    book: IncidentBook,
    pipeline: PipelineConfig,
    finding: Finding,
    standing: Incident | None,
    batch_key: str,
    place: datetime,
) -> None:
    if standing is not None:
        _keep(book, pipeline, alarmed(standing, finding, place, book.now), standing, batch_key)
        return
    for past in book.closed_around(finding.kind, place):
        if covers(past, finding.severity, place):
            book.write(replace(past, batches=past.batches + 1), batch_key)
            return
    _keep(book, pipeline, begun(pipeline.name, finding, batch_key, place, book.now), None, batch_key)


def _keep(
    book: IncidentBook, pipeline: PipelineConfig, incident: Incident, before: Incident | None, batch_key: str = ""
) -> Incident:
    """Keeps an incident as it stands now, with the messages that came due."""
    if before is None:
        incident = book.write(incident)  # which gives it the number that its messages name
    after, messages = settled(incident, before, pipeline.incidents, audience(pipeline, incident.kind), book.now)
    if after != before:
        _write(book, after, messages, batch_key)
    return after


def _write(book: IncidentBook, incident: Incident, messages: tuple[Message, ...], batch_key: str = "") -> None:
    book.write(incident, batch_key)
    for message in messages:
        book.send(incident, entries(incident, message, book.now))


def _judged(book: IncidentBook, incident: Incident, judgement: Judgement, by: str, note: str) -> int:
    if incident.kind in LASTING:
        raise InputError(
            f"{name_of(incident)} has no batches, whose alarms alone can be called true or false: close it without that"
        )
    return book.judge(incident, judgement, by, note)


def _by_hand(
    ledger: Ledger,
    number: int,
    change: Callable[[Incident, IncidentBook], tuple[Incident, tuple[Message, ...]]],
    past: bool = False,
) -> Incident:
    """The incident after the change; with `past`, one that is over too."""
    found = ledger.incidents.numbered(number)
    if found is None:
        there_are = ", ".join(str(incident.number) for incident in ledger.incidents.newest()) or "none"
        raise InputError(
            f"there is no incident {number} (open are: {there_are}): 'reconwatch alert list --all' shows all"
        )
    with ledger.incidents.book(found.pipeline) as book:
        incident = book.numbered(number)
        if incident.closed_at is not None and not past:
            raise InputError(f"{name_of(found)} is over: there is nothing to do")
        after, messages = change(incident, book)
        _write(book, after, messages)
    return after
