"""From a decided batch to labels: who is asked what, in MLflow, in the terminal and in a file, and what comes of it."""

import csv
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import AssessmentSource, Feedback
from mlflow.tracing.client import TracingClient
from PIL import Image

from flows.cli import main
from flows.config import Settings
from flows.ledger import BatchRecord, utc_now
from flows.progress import LogProgress
from flows.review_queue import make_missing_queues, read_answers, retire_queues
from flows.review_report import review
from flows.reviewing import asked_images, batch_review
from flows.running import RunReport, run
from flows.tracking import Question, ReviewQueues, Tracking
from flows.workspace import Workspace, open_workspace

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(mlflow|sqlalchemy).*")

Project = Callable[..., Path]
Call = Callable[..., tuple[int, str, str]]
QUIET = LogProgress(logging.getLogger("quiet"))
STRANGE = "<img src=x onerror=alert(1)>[a](http:b).png"  # a name that a file may have


class BrokenQueues(ReviewQueues):
    """Review queues that do not work."""

    def ask(self, pipeline: str, queue_id: str, questions: Sequence[Question]) -> None:
        raise OSError("the disk is full")


class Broken(Tracking):
    """A store whose review queues do not work."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, {})
        self.review = BrokenQueues(self._store)


@pytest.fixture(scope="module")
def folder(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project; one of the damaged images has a strange name."""
    folder = project(tmp_path_factory.mktemp("project"), review={"audit": 6, "flagged": 8}).parent
    damaged = folder / "data" / "inbox" / "2-damaged"
    (damaged / "image-003.png").rename(damaged / STRANGE.replace("/", ""))
    return folder


@pytest.fixture(scope="module")
def workspace(folder: Path) -> Workspace:
    return open_workspace(folder / "pipelines.yaml", {})


@pytest.fixture(scope="module")
def first(workspace: Workspace) -> RunReport:
    report = run(workspace, "tiles", QUIET)
    assert report.failure == ""
    return report


@pytest.fixture
def damaged(first: RunReport, workspace: Workspace) -> BatchRecord:
    (record,) = [one for one in workspace.ledger.batches.decided("tiles") if one.batch == "2-damaged"]
    return record


@pytest.fixture
def copy(first: RunReport, folder: Path, tmp_path: Path) -> Workspace:
    """The same project for one test alone, labels and queues included."""
    shutil.copytree(folder, tmp_path / "copy")
    return open_workspace(tmp_path / "copy" / "pipelines.yaml", {})


@pytest.fixture
def call(copy: Workspace, capfd: pytest.CaptureFixture[str]) -> Call:
    """Runs `reconwatch review tiles` with these arguments on the copy; exit code, standard output and error."""

    def command(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main(["review", "tiles", "--config", str(copy.settings.path), *arguments])
        code = left.value.code
        return (code if isinstance(code, int) else int(bool(code)), *capfd.readouterr())

    return command


MAKE_QUEUES = """
import sys
from pathlib import Path
from flows.workspace import open_workspace

workspace = open_workspace(Path(sys.argv[1]), {})
print("ready", flush=True)
for number in range(int(sys.argv[2])):
    sys.stdin.readline()
    name = f"p{number}"
    one = workspace.tracking.review.queue(name, sys.argv[3], ("good", "bad"), "?")
    both = workspace.tracking.review.queue(name, "of both", ("good", "bad"), "?")
    print(one.id, both.id, flush=True)
"""


def experiment(workspace: Workspace) -> str:
    found = MlflowClient(workspace.tracking.uri).get_experiment_by_name("reconwatch/tiles review")
    assert found is not None
    return str(found.experiment_id)


def traces(workspace: Workspace) -> list[Any]:
    return list(TracingClient(workspace.tracking.uri).search_traces(locations=[experiment(workspace)], max_results=500))


def answer(workspace: Workspace, trace: Any, verdict: str, comment: str = "", by: str = "anna") -> None:
    """What MLflow writes when somebody submits an answer in the Review tab."""
    source = AssessmentSource("HUMAN", by)
    given = Feedback(name="verdict", value=verdict, rationale=comment, source=source)
    TracingClient(workspace.tracking.uri).log_assessment(trace.info.trace_id, given)


class TestWhoIsAsked:
    """Which images of a batch."""

    @pytest.fixture
    def table(self) -> pd.DataFrame:
        """30 images, the last 20 flagged, one of them without a number as its score; the audit has three."""
        scores = np.arange(30.0)
        scores[12] = np.nan
        return pd.DataFrame(
            {
                "uri": [f"/data/{number}.png" for number in range(30)],
                "score": scores,
                "p_value": 0.5,
                "flagged": np.arange(30) >= 10,
                "status": ["scored"] * 29 + ["unreadable"],
                "audit": np.isin(np.arange(30), [3, 5, 15]),
            }
        )

    def test_flagged_images_come_first_and_the_most_extreme_of_them(self, table: pd.DataFrame) -> None:
        """One whose score is no number is the most extreme; unreadable files have nothing to look at."""
        asked = [int(Path(image.uri).stem) for image in asked_images(table, 50, "hash")]
        assert asked[:-2] == [12, *range(28, 12, -1), 11, 10]
        assert set(asked[-2:]) == {3, 5}

    def test_of_too_many_flagged_ones_some_are_drawn(self, table: pd.DataFrame) -> None:
        """At random, by the batch, so that labels on them stand for all; the audit comes on top."""
        asked = asked_images(table, 4, "hash")
        drawn = {image.uri for image in asked if image.flagged and not image.audit}
        assert len(drawn) in (3, 4)
        assert {image.uri for image in asked if image.audit} == {"/data/3.png", "/data/5.png", "/data/15.png"}
        assert asked == asked_images(table, 4, "hash") != asked_images(table, 4, "another")

    def test_a_batch_from_before_the_audit_has_its_flagged_ones(self, table: pd.DataFrame) -> None:
        """Its scores have no such column."""
        assert len(asked_images(table.drop(columns="audit"), 50, "hash")) == 19


class TestQueue:
    """A batch's queue in MLflow's Review tab."""

    def test_every_asked_image_is_one_question(self, damaged: BatchRecord, workspace: Workspace) -> None:
        """In an experiment of its own, which opens as what shows the tab, beside the pipeline's."""
        asked = batch_review(damaged, workspace.settings.pipeline("tiles"), workspace).asked
        mine = [trace for trace in traces(workspace) if trace.info.tags["reconwatch.key"] == damaged.key]
        assert {trace.info.tags["reconwatch.uri"] for trace in mine} == {image.uri for image in asked}
        queue_id = workspace.ledger.queues.of(damaged.key)
        assert queue_id is not None
        queue = TracingClient(workspace.tracking.uri)._list_review_queue_items(queue_id)
        assert {item.item_id for item in queue} == {trace.info.trace_id for trace in mine}
        kind = MlflowClient(workspace.tracking.uri).get_experiment(experiment(workspace)).tags
        assert kind["mlflow.experimentKind"] == "genai_development"

    def test_it_shows_the_picture(self, damaged: BatchRecord, workspace: Workspace, tmp_path: Path) -> None:
        """By the address of an artifact of the batch's run, the only form that the tab shows of any size."""
        shown = [t.info.response_preview for t in traces(workspace) if t.info.tags["reconwatch.key"] == damaged.key]
        assert all("![panel](http://127.0.0.1:5000/get-artifact?path=review%2F" in text for text in shown)
        assert all(len(text) < 1000 and f"run_uuid={damaged.run_id})" in text for text in shown)
        with Image.open(workspace.tracking.artifact(damaged.run_id, "review/0000.jpg", tmp_path)) as picture:
            picture.load()
            assert min(picture.size) > 300

    def test_names_of_files_are_text(self, damaged: BatchRecord, workspace: Workspace) -> None:
        """HTML and Markdown in them is escaped."""
        texts = [trace.info.request_preview for trace in traces(workspace)]
        (text,) = [text for text in texts if "onerror" in text]
        assert text.startswith(r"&lt;img src=x onerror=alert\(1\)&gt;\[a\]\(http:b\).png of batch 2-damaged:")

    def test_the_run_and_the_alert_lead_there(self, first: RunReport, workspace: Workspace) -> None:
        """The description has a link, and what people are told has the address."""
        for report in first.batches:
            assert report.run_id is not None
            tags = MlflowClient(workspace.tracking.uri).get_run(report.run_id).data.tags
            queue = workspace.ledger.queues.of(tags["reconwatch.key"])
            address = f"http://127.0.0.1:5000/#/experiments/{experiment(workspace)}/review-queue?workflowType=genai"
            assert f"[Label its images]({address}&selectedQueueId={queue})" in tags["mlflow.note.content"]
        (incident,) = [one for one in workspace.ledger.incidents.newest("tiles") if one.kind == "defects"]
        assert incident.alert["review_url"].startswith(f"{address}&selectedQueueId=rq-")

    def test_the_report_leads_there(self, first: RunReport, workspace: Workspace, tmp_path: Path) -> None:
        """Its page has the queue's address."""
        for record in workspace.ledger.batches.decided("tiles"):
            page = workspace.tracking.artifact(record.run_id, "report.html", tmp_path).read_text(encoding="utf-8")
            assert f'selectedQueueId={workspace.ledger.queues.of(record.key)}"' in page

    def test_nothing_is_made_twice(self, copy: Workspace) -> None:
        """Whoever dies between the queue and the note of it makes the same questions again."""
        before = len(traces(copy))
        pipeline = copy.settings.pipeline("tiles")
        with copy.ledger._database.transaction() as connection:
            connection.exec_driver_sql("DELETE FROM review_queues")
        make_missing_queues(pipeline, copy, QUIET)
        assert len(traces(copy)) == before
        assert copy.ledger.queues.batches_without("tiles", 20) == ()
        assert len(TracingClient(copy.tracking.uri)._list_review_queues(experiment(copy))) == 3

    def test_a_queue_that_fails_stops_no_batch_and_is_made_by_the_next_run(
        self, copy: Workspace, small_images: Callable[[Path, int, int], list[Path]]
    ) -> None:
        """The batch is decided all the same."""
        small_images(copy.settings.path.parent / "data" / "inbox" / "4-later", 10, 4)
        broken = replace(copy, tracking=Broken(copy.settings))
        report = run(broken, "tiles", QUIET)
        assert [(batch.batch, batch.outcome) for batch in report.batches] == [("4-later", "scored")]
        (left,) = copy.ledger.queues.batches_without("tiles", 20)
        assert left.batch == "4-later"
        run(copy, "tiles", QUIET)
        assert copy.ledger.queues.batches_without("tiles", 20) == ()
        pictures = [t.info.response_preview for t in traces(copy) if t.info.tags["reconwatch.key"] == left.key]
        assert len(pictures) >= 6
        assert all("![panel]" in text for text in pictures)
        described = MlflowClient(copy.tracking.uri).get_run(left.run_id).data.tags["mlflow.note.content"]
        assert described.count("[Label its images](") == 1

    def test_images_that_are_gone_are_asked_about_without_a_picture(
        self, copy: Workspace, small_images: Callable[[Path, int, int], list[Path]]
    ) -> None:
        """Only what lies in the inbox is read again, whatever a table of scores says."""
        folder = copy.settings.path.parent / "data" / "inbox" / "4-later"
        small_images(folder, 10, 4)
        run(replace(copy, tracking=Broken(copy.settings)), "tiles", QUIET)
        (left,) = copy.ledger.queues.batches_without("tiles", 20)
        folder.rename(copy.settings.path.parent / "elsewhere")
        make_missing_queues(copy.settings.pipeline("tiles"), copy, QUIET)
        texts = [t.info.response_preview for t in traces(copy) if t.info.tags["reconwatch.key"] == left.key]
        assert len(texts) >= 6
        assert all(text.endswith("could not be read again, so there is no picture.") for text in texts)

    def test_only_the_newest_queues_stay(
        self, copy: Workspace, damaged: BatchRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """MLflow's tab asks for each by itself; what was answered in the others became labels first."""
        monkeypatch.setattr("flows.review_queue.KEPT", 1)
        monkeypatch.setattr("flows.review_queue.AT_ONCE", 1)
        (trace, *_) = [t for t in traces(copy) if t.info.tags["reconwatch.key"] == damaged.key]
        answer(copy, trace, "unsure")
        retire_queues(copy.settings.pipeline("tiles"), copy, QUIET)
        newest = copy.ledger.batches.decided("tiles")[-1]
        assert [key for key, _ in copy.ledger.queues.of_pipeline("tiles")] == [newest.key]
        assert {t.info.tags["reconwatch.key"] for t in traces(copy)} == {newest.key}
        assert [label.verdict for label in copy.ledger.labels.of("tiles")] == ["unsure"]
        assert copy.ledger.queues.batches_without("tiles", 20) == ()


class TestAnswers:
    """What people answer in MLflow."""

    def test_they_become_labels_once(self, copy: Workspace, damaged: BatchRecord) -> None:
        """With the score and threshold that they are on; to read them again adds nothing."""
        mine = [t for t in traces(copy) if t.info.tags["reconwatch.key"] == damaged.key]
        answer(copy, mine[0], "true outlier", "a <b>scratch</b>\nat the edge")
        answer(copy, mine[1], "false alarm (nominal)", by="bob")
        pipeline = copy.settings.pipeline("tiles")
        assert (read_answers(pipeline, copy, QUIET), read_answers(pipeline, copy, QUIET)) == (2, 0)
        labels = {label.uri: label for label in copy.ledger.labels.of("tiles")}
        label = labels[mine[0].info.tags["reconwatch.uri"]]
        assert (label.verdict, label.reviewer, label.way) == ("outlier", "anna", "mlflow")
        assert label.comment == "a <b>scratch</b> at the edge"
        assert label.score is not None
        assert label.flagged == (label.score > label.threshold)
        assert labels[mine[1].info.tags["reconwatch.uri"]].verdict == "nominal"

    def test_strange_ones_are_left_out(self, copy: Workspace, caplog: pytest.LogCaptureFixture) -> None:
        """Whoever may write into MLflow can label no image that was not scored, nor with another word."""
        client = TracingClient(copy.tracking.uri)
        question = Question("0" * 64, "/etc/passwd", 0, "x", "x", "x")
        real = traces(copy)[0].info.tags
        other = Question(real["reconwatch.key"], "/etc/passwd", 1, "x", "x", "x")
        client.log_spans(experiment(copy), [question.span(1), other.span(1)])
        for trace in traces(copy):
            if trace.info.tags["reconwatch.uri"] == "/etc/passwd":
                answer(copy, trace, "true outlier")
            elif trace.info.tags["reconwatch.uri"] == real["reconwatch.uri"]:
                answer(copy, trace, "whatever")
        with caplog.at_level("WARNING", logger="quiet"):
            assert read_answers(copy.settings.pipeline("tiles"), copy, QUIET) == 0
        assert copy.ledger.labels.of("tiles") == ()
        assert "3 answers in MLflow are left out" in caplog.text

    def test_review_measures_and_shows_them(self, copy: Workspace, damaged: BatchRecord) -> None:
        """Precision with its interval, in a run of the pipeline's, which stays one however often it is done."""
        mine = [t for t in traces(copy) if t.info.tags["reconwatch.key"] == damaged.key]
        flagged = {image.uri: image.flagged for image in batch_review(damaged, *_of(copy)).asked}
        for trace in mine:
            nominal = trace.info.tags["reconwatch.uri"].endswith("image-000.png")
            if flagged[trace.info.tags["reconwatch.uri"]]:
                answer(copy, trace, "false alarm (nominal)" if nominal else "true outlier")
        report = review(*_of(copy), QUIET)
        assert report.new_labels == sum(flagged.values())
        assert report.measures.precision is not None
        assert report.measures.precision.total == sum(flagged.values())
        again = review(*_of(copy), QUIET)
        assert (again.new_labels, again.run_url) == (0, report.run_url)
        shown = MlflowClient(copy.tracking.uri).get_run(report.run_url.split("/runs/")[1].split("?")[0])
        assert shown.data.metrics["review_precision"] == report.measures.precision.value
        assert shown.data.metrics["review_precision_low"] < shown.data.metrics["review_precision"]
        assert "| batch | 2-damaged |" in shown.data.tags["mlflow.note.content"]


def _of(workspace: Workspace) -> tuple[Any, Workspace]:
    return workspace.settings.pipeline("tiles"), workspace


class TestFiles:
    """The same in a CSV file."""

    def rows(self, path: Path) -> list[dict[str, str]]:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def write(self, path: Path, rows: Sequence[Mapping[str, str]]) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def test_there_and_back(self, call: Call, copy: Workspace, tmp_path: Path) -> None:
        """Export, fill in, import; a second import adds nothing, and the export then shows the labels."""
        path = tmp_path / "labels.csv"
        code, _, errors = call("--export", str(path))
        assert code == 0
        assert f"rows to {path}: fill in label (outlier, nominal or unsure)." in errors
        rows = self.rows(path)
        rows[0] |= {"label": "false alarm", "comment": "=2+3", "reviewer": "bob"}
        rows[1]["label"] = "true outlier"
        self.write(path, rows)
        code, out, errors = call("--import", str(path), "--by", "anna")
        assert (code, f"{path}: 2 new labels, 0 known, {len(rows) - 2} rows" in errors) == (0, True)
        assert "2 images of tiles are labelled." in out
        assert "0 new labels, 2 known" in call("--import", str(path), "--by", "anna")[2]
        call("--export", str(path))
        first, second = self.rows(path)[:2]
        assert (first["label"], first["comment"], first["reviewer"]) == ("nominal", "'=2+3", "bob")
        assert (second["label"], second["reviewer"]) == ("outlier", "anna")
        assert "0 new labels, 2 known" in call("--import", str(path))[2]
        assert {label.comment for label in copy.ledger.labels.of("tiles")} == {"=2+3", ""}

    def test_wrong_rows_are_named_and_the_rest_goes_on(self, call: Call, copy: Workspace, tmp_path: Path) -> None:
        """Each with its line; the exit code says that input was wrong."""
        path = tmp_path / "labels.csv"
        call("--export", str(path))
        rows = self.rows(path)[:6]
        rows[0]["label"] = "perhaps"
        rows[1] |= {"label": "outlier", "image": "../../etc/passwd"}
        rows[2] |= {"label": "outlier", "batch_key": "", "batch": "9-none"}
        rows[3] |= {"label": "outlier", "labelled_at": "yesterday"}
        later = (utc_now() + timedelta(days=2)).isoformat()
        rows[4] |= {"label": "outlier", "labelled_at": later}
        rows[5]["label"] = "unsure"
        self.write(path, rows)
        code, _, errors = call("--import", str(path))
        wrong = [line for line in errors.splitlines() if line.startswith("Error: ")]
        assert code == 2
        assert wrong == [
            f"Error: {path}, line 2: 'perhaps' is no label: write outlier, nominal (a false alarm, where flagged) or "
            "unsure",
            f"Error: {path}, line 3: batch '{rows[1]['batch']}' has no scored image '../../etc/passwd'",
            f"Error: {path}, line 4: pipeline 'tiles' has decided no batch '9-none'",
            f"Error: {path}, line 5: labelled_at 'yesterday' is no time: write 2024-05-17T14:30 (UTC), or nothing",
            f"Error: {path}, line 6: labelled_at '{later[:40]}' lies in the future",
        ]
        assert [label.verdict for label in copy.ledger.labels.of("tiles")] == ["unsure"]

    def test_a_spreadsheet_that_writes_semicolons(self, call: Call, copy: Workspace, tmp_path: Path) -> None:
        """With a mark of the encoding at the beginning, without the columns that nobody needs."""
        image = batch_review(copy.ledger.batches.decided("tiles")[0], *_of(copy)).asked[0]
        path = tmp_path / "labels.csv"
        path.write_text(f"batch;image;label\n1-nominal;{image.uri};nominal\n", encoding="utf-8-sig")
        assert call("--import", str(path))[0] == 0
        assert [label.uri for label in copy.ledger.labels.of("tiles")] == [image.uri]

    @pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"\xff\xfe\x00", b"batch,image,label\n" + b"x" * 200_000])
    def test_what_is_no_such_file_is_refused(self, call: Call, tmp_path: Path, content: bytes) -> None:
        """In one sentence that names it."""
        path = tmp_path / "labels.csv"
        path.write_bytes(content)
        code, out, errors = call("--import", str(path))
        (line,) = [line for line in errors.splitlines() if line.startswith("Error: ")]
        assert (code, out) == (2, "")
        assert str(path) in line


class TestTerminal:
    """Labels typed in."""

    def test_it_asks_for_each_image_that_waits(
        self, call: Call, copy: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A letter and a comment; what is no label is asked again; q ends, and what was said is kept."""
        answers = iter(["o a scratch", "what", "n", "s", "q"])
        monkeypatch.setattr("typer.prompt", lambda *_, **__: next(answers))
        code, out, errors = call("--ask", "--by", "anna")
        assert code == 0
        assert "images wait for a label" in errors
        assert "'what' is no label" in errors
        labels = copy.ledger.labels.of("tiles")
        assert [(one.verdict, one.comment, one.reviewer, one.way) for one in labels] == [
            ("outlier", "a scratch", "anna", "terminal"),
            ("nominal", "", "anna", "terminal"),
        ]
        assert "2 images of tiles are labelled." in out

    def test_without_a_terminal_it_lists_what_waits(self, call: Call) -> None:
        """With the address of each queue."""
        code, out, _ = call()
        assert code == 0
        assert "No image of tiles is labelled yet." in out
        assert "2-damaged: http://127.0.0.1:5000/#/experiments/" in out

    def test_json(self, call: Call) -> None:
        """The same for machines, and nothing else on standard output."""
        document = json.loads(call("--json")[1])
        assert document["labelled"] == 0
        assert {one["batch"] for one in document["newest"]} == {"1-nominal", "2-damaged", "3-unreadable"}


@pytest.mark.faults
def test_processes_that_make_the_first_queues_at_once_each_have_theirs(
    project: Project, tmp_path: Path, fault_count: Callable[[int], int]
) -> None:
    """Of a pipeline that was never reviewed: the question and a queue that both want are made by the faster."""
    config, rounds = project(tmp_path), fault_count(100)
    command = [sys.executable, "-c", MAKE_QUEUES, str(config), str(rounds)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    pipe = subprocess.PIPE
    both = [
        subprocess.Popen([*command, name], stdin=pipe, stdout=pipe, text=True, env=environment) for name in ("a", "b")
    ]
    try:
        for process in both:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for _ in range(rounds):
            for process in both:
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
            (one, shared), (other, same) = (
                str(process.stdout and process.stdout.readline()).split() for process in both
            )
            assert (shared == same, len({one, other, shared})) == (True, 3)
    finally:
        for process in both:
            process.kill()
            process.communicate()


def test_a_question_that_another_process_makes_meanwhile_is_taken(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the making, every time."""
    review, known = open_workspace(project(tmp_path), {}).tracking.review, TracingClient._get_label_schema_by_name
    first = True

    def look(client: TracingClient, place: str, name: str) -> Any:
        nonlocal first
        if not first:
            return known(client, place, name)
        first = False
        try:
            return known(client, place, name)
        finally:
            assert review.queue("tiles", "of the other", ("good", "bad"), "?").id

    monkeypatch.setattr(TracingClient, "_get_label_schema_by_name", look)
    assert review.queue("tiles", "ours", ("good", "bad"), "?").id != review.queue("tiles", "of the other", (), "").id
