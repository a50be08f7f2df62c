"""The queues of MLflow's Review tab, in which people are asked about images."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from time import time_ns
from typing import Any

from mlflow.entities import Assessment, Span
from mlflow.exceptions import MlflowException
from mlflow.genai.label_schemas import InputCategorical
from mlflow.tracing.client import TracingClient

from flows.tracking.store import Store, paged

VERDICT = "verdict"  # the question of a review queue, and the name of its answers


@dataclass(frozen=True)
class ReviewQueue:
    """A queue of images in MLflow's Review tab: its id, and where a browser shows it."""

    id: str
    url: str


@dataclass(frozen=True)
class Question:
    """One image in a queue, as MLflow asks about it: a text on it, and what was found, both Markdown.

    The key of its batch and its address are what answers are known by. MLflow shows 1,000 characters of each text, and
    asks in the order of `place`.
    """

    key: str
    uri: str
    place: int
    name: str
    text: str
    found: str

    @property
    def trace_id(self) -> str:
        """The id of the trace that asks it: the same however often it is asked."""
        return f"tr-{self._identity[:16].hex()}"

    @property
    def _identity(self) -> bytes:
        """What was attached to a queue at once stands there in the order of the ids."""
        return self.place.to_bytes(4) + hashlib.sha256(f"{self.key}\0{self.uri}".encode()).digest()

    def span(self, now: int) -> Span:
        """The one span of its trace, in the form that the Review tab shows; `now` in nanoseconds."""
        identity, at = self._identity, now - self.place * 1_000_000
        attributes = {
            "mlflow.traceRequestId": self.trace_id,
            "mlflow.spanType": "CHAT_MODEL",
            "mlflow.spanInputs": {"messages": [{"role": "user", "content": self.text}]},
            "mlflow.spanOutputs": {"choices": [{"message": {"role": "assistant", "content": self.found}}]},
            "mlflow.traceTag.reconwatch.key": self.key,
            "mlflow.traceTag.reconwatch.uri": self.uri,
        }
        return Span.from_dict(
            {
                "trace_id": base64.b64encode(identity[:16]).decode(),
                "span_id": base64.b64encode(identity[16:24]).decode(),
                "parent_span_id": None,
                "name": self.name,
                "start_time_unix_nano": at,
                "end_time_unix_nano": at,
                "status": {"code": "STATUS_CODE_OK", "message": ""},
                "attributes": {name: json.dumps(value) for name, value in attributes.items()},
            }
        )


@dataclass(frozen=True)
class Answer:
    """What a person answered to a question in MLflow; everything but the time is text of strangers.

    `proved` is False where there is a login, and the server says that somebody else, or nobody, completed the question.
    """

    key: str
    uri: str
    verdict: str
    comment: str
    reviewer: str
    at: datetime
    proved: bool = True


@dataclass(frozen=True)
class ReviewQueues:
    """The review queues of every pipeline."""

    _store: Store

    def queue(
        self, pipeline: str, name: str, choices: Sequence[str], instruction: str, reviewers: Sequence[str] = ()
    ) -> ReviewQueue:
        """The review queue of that name, made where there is none yet, for these users of a server with a login."""
        experiment, client = self._review_experiment(pipeline), TracingClient(self._store.uri)

        def made() -> Any:
            schema = self._verdict_schema(client, experiment, choices, instruction)
            return client._create_review_queue(
                experiment, name=name, queue_type="custom", users=list(reviewers), schema_ids=[schema]
            )

        queue = _found_or_made(lambda: client._get_review_queue_by_name(experiment, name), made)
        return ReviewQueue(queue.queue_id, self._queue_url(experiment, queue.queue_id))

    def admit(self, pipeline: str, reviewers: Sequence[str]) -> list[str]:
        """Let users of a server with a login write in the pipeline's Review tab; who cannot be let in, and why.

        MLflow's pages let only those label who hold a grant of their own, whatever the server allows everybody.
        """
        if not reviewers or not self._store.has_login():
            return []
        experiment, failed = self._review_experiment(pipeline), list[str]()
        for name in reviewers:
            grant = {
                "username": name,
                "resource_type": "experiment",
                "resource_id": experiment,
                "permission": "EDIT",
            }
            answer = self._store.asked("/api/3.0/mlflow/users/permissions/grant", "POST", json=grant)
            if answer.status_code == 403:
                return [
                    f"{', '.join(reviewers)}, unless they were let in before (this login may give no grants: "
                    "whoever began the pipeline may, or an administrator)"
                ]
            if answer.status_code >= 400 and "RESOURCE_ALREADY_EXISTS" not in answer.text:
                failed.append(f"{name} ({_reason(answer)})")
        return failed

    def assign(self, pipeline: str, reviewers: Sequence[str]) -> None:
        """Add users to those whom the pipeline's queues are for; nobody is taken from one."""
        client, wanted = TracingClient(self._store.uri), [name.lower() for name in reviewers]  # as MLflow keeps them
        experiment = self._review_experiment(pipeline)
        for queue in paged(lambda page: client._list_review_queues(experiment, page_token=page)):
            lacking = [name for name in wanted if name not in queue.users]
            if lacking and str(queue.queue_type) == "custom":
                client._update_review_queue(queue.queue_id, users=[*queue.users, *lacking])

    def ask(self, pipeline: str, queue_id: str, questions: Sequence[Question]) -> None:
        """Put questions into a queue; those that are in it stay as they are."""
        client, now = TracingClient(self._store.uri), time_ns()
        client.log_spans(self._review_experiment(pipeline), [question.span(now) for question in questions])
        client._add_items_to_review_queue(queue_id, item_ids=[question.trace_id for question in questions])

    def answers(self, pipeline: str, queues: Mapping[str, str]) -> list[Answer]:
        """What people answered in the pipeline's queues, by the key of their batch; of what they changed, the last."""
        found = self._store.client.get_experiment_by_name(f"reconwatch/{pipeline} review")
        if found is None or found.lifecycle_stage == "deleted":
            return []
        client, answers, page = TracingClient(self._store.uri), list[Answer](), None
        completed = self._completed(client, queues) if self._store.has_login() else None
        while True:
            traces = client.search_traces(
                locations=[found.experiment_id],
                filter_string=f"feedback.{VERDICT} IS NOT NULL",
                max_results=500,
                page_token=page,
                include_spans=False,
            )
            for trace in traces:
                tags = trace.info.tags
                given = (a for a in trace.info.assessments if a.name == VERDICT and a.valid and a.feedback is not None)
                by = completed(tags.get("reconwatch.key", ""), trace.info.trace_id) if completed else None
                answers += [_answer(tags, assessment, by) for assessment in given]
            page = traces.token
            if not page:
                return answers

    def _completed(self, client: TracingClient, queues: Mapping[str, str]) -> Callable[[str, str], str]:
        """Gives the user who completed the question of a trace, as the server knows by his login; empty for nobody."""

        @cache
        def of_batch(key: str) -> dict[str, str]:
            items = client._list_review_queue_items(queues[key], max_results=1000) if key in queues else ()
            return {item.item_id: item.completed_by or "" for item in items}

        return lambda key, trace: of_batch(key).get(trace, "")

    def url(self, pipeline: str, queue_id: str) -> str:
        """Where a browser shows a queue."""
        return self._queue_url(self._review_experiment(pipeline), queue_id)

    def delete(self, pipeline: str, queue_id: str) -> None:
        """Delete a review queue and its questions, with their answers; nothing where it is gone."""
        client, experiment = TracingClient(self._store.uri), self._review_experiment(pipeline)
        try:
            items = client._list_review_queue_items(queue_id, max_results=1000)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return
            raise
        ids = [item.item_id for item in items]
        for start in range(0, len(ids), 100):  # as many as MLflow takes at once
            client.delete_traces(experiment, trace_ids=ids[start : start + 100])
        client._delete_review_queue(queue_id)

    def _verdict_schema(self, client: TracingClient, experiment: str, choices: Sequence[str], instruction: str) -> str:
        def made() -> Any:
            return client._create_label_schema(
                experiment_id=experiment,
                name=VERDICT,
                type="feedback",
                input=InputCategorical(options=list(choices)),
                instruction=instruction,
                enable_comment=True,
            )

        schema = _found_or_made(lambda: client._get_label_schema_by_name(experiment, VERDICT), made)
        return str(schema.schema_id)

    def _review_experiment(self, pipeline: str) -> str:
        return self._store.experiment(f"{pipeline} review", "genai_development")

    def _queue_url(self, experiment: str, queue_id: str) -> str:
        return (
            f"{self._store.dashboard}/#/experiments/{experiment}/review-queue"
            f"?workflowType=genai&selectedQueueId={queue_id}"
        )


def _found_or_made(find: Callable[[], Any], make: Callable[[], Any]) -> Any:
    """What is there, or else what is made now; where another process is faster, what that one made."""
    try:
        return find()
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    try:
        return make()
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return find()


def _answer(tags: Mapping[str, str], given: Assessment, completed_by: str | None) -> Answer:
    signed = given.source.source_id or ""
    if completed_by is not None:  # which MLflow keeps in small letters
        signed = signed.strip().lower()
    return Answer(
        key=tags.get("reconwatch.key", ""),
        uri=tags.get("reconwatch.uri", ""),
        verdict=str(given.feedback.value if given.feedback else ""),
        comment=given.rationale or "",
        reviewer=signed,
        proved=completed_by in (None, signed),
        at=datetime.fromtimestamp((given.last_update_time_ms or 0) / 1000, UTC),
    )


def _reason(answer: Any) -> str:
    """What the server says of a request that it refused."""
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        return f"it answered {answer.status_code}"
