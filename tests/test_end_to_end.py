"""From a folder of nominal images to verdicts and alerts: each batch is scored once, by images training never saw."""

import errno
import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from PIL import Image

from flows.calibration import calibrate
from flows.config import load
from flows.progress import LogProgress
from flows.running import RunReport, run
from flows.sources import nominal_items
from flows.status import pipeline_states
from flows.tracking import Tracking
from flows.training_images import read_nominal, split
from flows.workspace import Workspace, open_workspace

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(mlflow|sqlalchemy).*")

Project = Callable[..., Path]
SmallImages = Callable[[Path, int, int], list[Path]]
QUIET = LogProgress(logging.getLogger("quiet"))


class FullDisk(Tracking):
    """A store that takes no run of the batch `8-b`."""

    def start_run(self, pipeline: str, kind: str, name: str, tags: Mapping[str, str]) -> str:
        if tags.get("reconwatch.batch") == "8-b":
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().start_run(pipeline, kind, name, tags)


class Lines(logging.Handler):
    """Keeps the lines of a logger."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@dataclass
class Told:
    """What people were told: bodies of requests to a web server on loopback, and lines of the log."""

    requests: list[Any] = field(default_factory=list)
    log: Lines = field(default_factory=Lines)
    url: str = ""

    def handler(self) -> type[BaseHTTPRequestHandler]:
        requests = self.requests

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@pytest.fixture(scope="module")
def told() -> Iterator[Told]:
    """A receiver of alerts that listens."""
    told = Told()
    logger = logging.getLogger("reconwatch.alerts")
    logger.addHandler(told.log)
    with (
        pytest.MonkeyPatch.context() as monkeypatch,
        ThreadingHTTPServer(("127.0.0.1", 0), told.handler()) as server,
    ):
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        told.url = f"http://127.0.0.1:{server.server_address[1]}/alerts"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield told
        server.shutdown()
        thread.join()
    logger.removeHandler(told.log)


@pytest.fixture(scope="module")
def folder(project: Project, told: Told, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that tells of alarms in the log and by a webhook."""
    path = project(tmp_path_factory.mktemp("project"), alerts=["log", {"type": "webhook", "url": told.url}])
    return path.parent


@pytest.fixture(scope="module")
def workspace(folder: Path) -> Workspace:
    return open_workspace(folder / "pipelines.yaml", {})


@pytest.fixture(scope="module")
def first(workspace: Workspace) -> RunReport:
    """The first run."""
    return run(workspace, "tiles", QUIET)


def again(folder: Path) -> RunReport:
    """Another run, with the stores opened anew as another process would."""
    return run(open_workspace(folder / "pipelines.yaml", {}), "tiles", QUIET)


def scored(report: RunReport) -> list[str]:
    return [batch.batch for batch in report.batches if batch.outcome == "scored"]


class TestTheFirstRun:
    """One command trains, calibrates, scores what lies in the inbox, and tells."""

    def test_everything_due_is_done(self, first: RunReport) -> None:
        """Training, calibration and three batches, without a failure."""
        assert first.failure == ""
        assert first.training is not None
        assert first.calibration is not None
        assert scored(first) == ["1-nominal", "2-damaged", "3-unreadable"]

    def test_verdicts_tell_the_batches_apart(self, first: RunReport) -> None:
        """Nominal images raise nothing, damaged ones are found, files that are no images are said to be unreadable."""
        verdicts = [batch.verdict for batch in first.batches if batch.verdict is not None]
        assert [verdict.diagnosis for verdict in verdicts] == ["none", "defects", "unreadable"]
        assert [(verdict.scored, verdict.unreadable) for verdict in verdicts] == [(20, 0), (20, 0), (15, 5)]
        assert first.batches[1].table is not None
        damaged = first.batches[1].table.nlargest(10, "score")
        assert sorted(Path(uri).name for uri in damaged["uri"]) == [f"image-{number:03d}.png" for number in range(10)]
        assert damaged["flagged"].all()

    def test_each_batch_has_its_run(self, first: RunReport, workspace: Workspace, tmp_path: Path) -> None:
        """Its rows are a Parquet artifact, its worst images a picture, and its address opens in the dashboard."""
        for batch in first.batches:
            assert batch.run_id is not None
            assert batch.table is not None
            assert f"/runs/{batch.run_id}" in str(batch.run_url)
            place = tmp_path / batch.batch
            place.mkdir()
            stored = pd.read_parquet(workspace.tracking.artifact(batch.run_id, "scores.parquet", place))
            pd.testing.assert_frame_equal(stored, batch.table)
            with Image.open(workspace.tracking.artifact(batch.run_id, "worst.png", place)) as picture:
                picture.load()
                assert min(picture.size) > 100

    def test_each_alarm_is_told_once_on_every_channel(self, first: RunReport, told: Told) -> None:
        """Two batches alarmed: two requests and two lines, with the pictures' address and the worst images' names."""
        mine = {batch.run_url: batch.batch for batch in first.batches}
        requests = [request for request in told.requests if request["run_url"] in mine]
        assert sorted(request["batch"] for request in requests) == ["2-damaged", "3-unreadable"]
        by_batch = {request["batch"]: request for request in requests}
        assert mine[by_batch["2-damaged"]["run_url"]] == "2-damaged"
        assert by_batch["2-damaged"]["worst"][0] in {f"image-{number:03d}.png" for number in range(10)}
        assert by_batch["3-unreadable"]["worst"] == [f"image-{number:03d}.png" for number in range(5)]
        lines = [line for line in told.log.lines if any(str(url) in line for url in mine)]
        assert len(lines) == 2

    def test_calibration_used_no_image_of_training(
        self, first: RunReport, workspace: Workspace, tmp_path: Path
    ) -> None:
        """The images behind the threshold are exactly those set aside."""
        assert first.training is not None
        assert first.calibration is not None
        split = pd.read_parquet(workspace.tracking.artifact(first.training.run_id, "data/splits.parquet", tmp_path))
        used = pd.read_parquet(workspace.tracking.artifact(first.calibration.run_id, "scores.parquet", tmp_path))
        assert set(used["uri"]) == set(split.loc[split["side"] == "calibration", "uri"])


class TestLaterRuns:
    """What is done stays done."""

    def test_nothing_is_done_twice(self, first: RunReport, folder: Path, told: Told) -> None:
        """With nothing new, nothing is trained, scored or told."""
        before = len(told.requests), len(told.log.lines)
        report = again(folder)
        assert (report.training, report.calibration, report.batches) == (None, None, ())
        assert (len(told.requests), len(told.log.lines)) == before

    def test_a_touched_batch_is_no_new_one(self, first: RunReport, folder: Path) -> None:
        """New times on old files change nothing."""
        for path in (folder / "data" / "inbox" / "2-damaged").iterdir():
            path.touch()
        assert again(folder).batches == ()

    def test_a_new_batch_alone_is_scored(self, first: RunReport, folder: Path, small_images: SmallImages) -> None:
        """What arrives is scored; an empty folder and a loose file wait."""
        inbox = folder / "data" / "inbox"
        small_images(inbox / "4-new", 8, 4)
        (inbox / "5-empty").mkdir()
        (inbox / "loose.png").write_bytes(b"")
        report = again(folder)
        assert (scored(report), report.failure) == (["4-new"], "")

    def test_a_changed_batch_is_scored_anew(self, first: RunReport, folder: Path, small_images: SmallImages) -> None:
        """One more image makes another batch of the same name."""
        inbox = folder / "data" / "inbox"
        small_images(inbox / "6-growing", 8, 6)
        assert "6-growing" in scored(again(folder))
        Image.new("L", (16, 16), 100).save(inbox / "6-growing" / "late.png")
        assert scored(again(folder)) == ["6-growing"]

    def test_a_new_threshold_decides_new_batches_only(
        self, first: RunReport, folder: Path, small_images: SmallImages, tmp_path: Path
    ) -> None:
        """Recalibration uses new nominal images, never those of training under any name, and rescores nothing."""
        again(folder)
        workspace = open_workspace(folder / "pipelines.yaml", {})
        training = workspace.tracking.latest_training("tiles")
        assert training is not None
        split = pd.read_parquet(workspace.tracking.artifact(training.run_id, "data/splits.parquet", tmp_path))
        learnt = split.loc[split["side"] != "calibration", "uri"]
        new = {str(path) for path in small_images(folder / "data" / "nominal" / "later", 12, 70)}
        copy = folder / "data" / "nominal" / "copy.png"
        copy.write_bytes(Path(learnt.iloc[0]).read_bytes())
        report = calibrate(workspace.settings.pipeline("tiles"), workspace.tracking, QUIET)
        used = set(pd.read_parquet(workspace.tracking.artifact(report.run_id, "scores.parquet", tmp_path))["uri"])
        assert new <= used
        assert used.isdisjoint(learnt)
        assert str(copy) not in used
        assert workspace.tracking.registry.champion("tiles").version == report.version
        small_images(folder / "data" / "inbox" / "7-later", 8, 7)
        after = again(folder)
        assert [(batch.batch, batch.version) for batch in after.batches] == [("7-later", report.version)]


class TestSplit:
    """Which image is on which side."""

    def test_it_is_the_same_wherever_the_images_lie(self, small_images: SmallImages, tmp_path: Path) -> None:
        """The same images under another folder are split alike, so that a copy of a project gives the same model."""
        sides = []
        for place in ("here", "far/away"):
            folder = tmp_path / place
            small_images(folder / "nominal", 60, 0)
            (folder / "pipelines.yaml").write_text(
                "pipelines: {a: {data: {nominal: nominal}, threshold: {false_alarm_rate: 0.05}}}"
            )
            pipeline = load(folder / "pipelines.yaml", {}).pipeline("a")
            sides.append(split(pipeline, read_nominal(pipeline, nominal_items(pipeline.data), QUIET)))
        assert sides[0].keys() == sides[1].keys()
        assert all((sides[0][side] == sides[1][side]).all() for side in sides[0])


class TestFailures:
    """What cannot be done stops nothing else."""

    def test_a_broken_batch_stops_no_other(self, first: RunReport, folder: Path, small_images: SmallImages) -> None:
        """A batch that cannot be recorded fails alone, says why, and is scored by the next run."""
        names = ["8-a", "8-b", "8-c"]
        again(folder)
        for seed, name in enumerate(names, 80):
            small_images(folder / "data" / "inbox" / name, 6, seed)
        workspace = open_workspace(folder / "pipelines.yaml", {})
        report = run(replace(workspace, tracking=FullDisk(workspace.settings, {})), "tiles", QUIET)
        assert [(batch.batch, batch.outcome) for batch in report.batches] == [
            ("8-a", "scored"),
            ("8-b", "failed"),
            ("8-c", "scored"),
        ]
        assert report.batches[1].reason == "[Errno 28] No space left on device"
        assert report.failed
        assert scored(again(folder)) == ["8-b"]

    def test_a_broken_pipeline_stops_no_other(self, first: RunReport, folder: Path) -> None:
        """Its failure is a sentence of its own report; the other pipeline of the file goes on."""
        document = yaml.safe_load((folder / "pipelines.yaml").read_text())
        document["pipelines"] = {"wood": {"data": {"nominal": "data/wood"}}} | document["pipelines"]
        both = folder / "both.yaml"
        both.write_text(yaml.safe_dump(document))
        workspace = open_workspace(both, {})
        wood, tiles = (run(workspace, name, QUIET) for name in ("wood", "tiles"))
        assert (wood.failed, wood.wrong_input) == (True, True)
        assert wood.failure == f"there is no folder {folder}/data/wood: correct the path or put images there"
        assert not tiles.failed
        states = {state.name: state.state for state in pipeline_states(workspace)}
        assert states == {"wood": "not trained yet", "tiles": "ready"}

    def test_runs_that_fail_again_and_again_are_told(self, first: RunReport, folder: Path, told: Told) -> None:
        """The third failure in a row is an incident with its reason; the run that ends well ends it."""
        document = yaml.safe_load((folder / "pipelines.yaml").read_text())
        document["pipelines"]["slate"] = document["pipelines"]["tiles"] | {"data": {"nominal": "data/slate"}}
        path = folder / "failing.yaml"
        path.write_text(yaml.safe_dump(document))
        workspace = open_workspace(path, {})
        for _ in range(3):
            assert workspace.ledger.incidents.newest("slate") == ()
            run(workspace, "slate", QUIET)
        request = told.requests[-1]
        assert (request["kind"], request["pipeline"], request["severity"]) == ("failing", "slate", "critical")
        assert request["sentences"].startswith(
            f"3 runs in a row failed, the last with: there is no folder {folder}/data/slate: correct the path"
        )
        document["pipelines"]["slate"]["data"] = {"nominal": "data/nominal"}
        path.write_text(yaml.safe_dump(document))
        assert not run(open_workspace(path, {}), "slate", QUIET).failed
        assert told.requests[-1]["kind"] == "resolved"
