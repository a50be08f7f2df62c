"""Verdicts, end to end on small images: what ails a batch is named, and what the batches show together is told."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlparse

import numpy as np
import pytest
import yaml
from mlflow import MlflowClient
from PIL import Image

from ae_models.certificate import Certificate
from flows.calibration import calibrate
from flows.ledger import Claim
from flows.progress import LogProgress
from flows.running import RunReport, run, score
from flows.scoring import BatchReport, past_batches, score_batch
from flows.sources import path_batches
from flows.streams import Stream
from flows.tracking.store import ArtifactMissing
from flows.workspace import Workspace, open_workspace

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(mlflow|sqlalchemy).*")

Project = Callable[..., Path]
SmallImages = Callable[[Path, int, int], list[Path]]
QUIET = LogProgress(logging.getLogger("quiet"))


def brighten(paths: list[Path], by: int) -> None:
    for path in paths:
        with Image.open(path) as image:
            pixels = np.asarray(image).astype(int)
        Image.fromarray(np.clip(pixels + by, 0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def folder(project: Project, small_images: SmallImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a further batch of which every image is brighter."""
    path = project(tmp_path_factory.mktemp("project"))
    brighten(small_images(path.parent / "data" / "inbox" / "4-bright", 20, 4), 60)
    return path.parent


@pytest.fixture(scope="module")
def workspace(folder: Path) -> Workspace:
    return open_workspace(folder / "pipelines.yaml", {})


@pytest.fixture(scope="module")
def first(workspace: Workspace) -> RunReport:
    """The first run."""
    report = run(workspace, "tiles", QUIET)
    assert report.failure == ""
    return report


@pytest.fixture(scope="module")
def batches(first: RunReport) -> dict[str, BatchReport]:
    """Its batches by name."""
    return {batch.batch: batch for batch in first.batches}


@pytest.fixture
def client(workspace: Workspace) -> MlflowClient:
    return MlflowClient(workspace.tracking.uri)


def stream(workspace: Workspace) -> Stream:
    """The stream of the champion."""
    record = workspace.ledger.streams.of("tiles", workspace.tracking.registry.champion("tiles").calibration_run)
    assert record is not None
    return Stream.from_json(record.state)


class TestDiagnosis:
    """Each fault has its name."""

    @pytest.mark.parametrize(
        ("batch", "diagnosis", "words"),
        [
            ("1-nominal", "none", ""),
            ("2-damaged", "defects", "look for defects"),
            ("3-unreadable", "unreadable", "check the camera and the transfer of files"),
            ("4-bright", "moved", "check the camera, the light and the focus"),
        ],
    )
    def test_what_ails_a_batch_is_named(
        self, batches: dict[str, BatchReport], batch: str, diagnosis: str, words: str
    ) -> None:
        """Defects, files that are no images, and light that changed are told apart, each with who should look."""
        verdict = batches[batch].verdict
        assert verdict is not None
        assert verdict.diagnosis == diagnosis
        assert words in " ".join(verdict.sentences())

    def test_the_run_shows_every_test(self, batches: dict[str, BatchReport], client: MlflowClient) -> None:
        """Metrics of the moved scores and of the stream, and the sentences in the description."""
        shown = client.get_run(str(batches["4-bright"].run_id))
        metrics, description = shown.data.metrics, shown.data.tags["mlflow.note.content"]
        assert metrics["moved_p_value"] <= 1
        assert metrics["median_shift"] > 1
        assert {"moved_distance", "stream_e_value", "images_to_review"} <= metrics.keys()
        assert shown.data.tags["reconwatch.diagnosis"] == "moved"
        assert "CRITICAL: moved" in description or "WARNING: moved" in description
        assert "The batches without an alarm, together: In 1 batch since the calibration" in description


class TestReview:
    """The column `review` names the images to look at."""

    def test_damaged_images_are_on_the_list(self, batches: dict[str, BatchReport]) -> None:
        """Those and hardly any other; whether an image is flagged does not change by it."""
        table = batches["2-damaged"].table
        assert table is not None
        listed = table[table["review"]]
        assert table["review"].dtype == bool
        assert listed["flagged"].all()
        assert sorted(Path(uri).name for uri in listed["uri"]) == [f"image-{number:03d}.png" for number in range(10)]

    def test_an_unreadable_image_is_flagged_and_not_on_the_list(self, batches: dict[str, BatchReport]) -> None:
        """There is nothing to look at."""
        table = batches["3-unreadable"].table
        assert table is not None
        unreadable = table[table["status"] == "unreadable"]
        assert unreadable["flagged"].all()
        assert not unreadable["review"].any()

    def test_a_random_sample_is_marked_for_the_audit(
        self, batches: dict[str, BatchReport], folder: Path, workspace: Workspace
    ) -> None:
        """Ten of each batch's scored images, and the same ones when the batch is scored again by another version."""
        for batch in batches.values():
            assert batch.table is not None
            audited = batch.table[batch.table["audit"]]
            assert (len(audited), set(audited["status"])) == (10, {"scored"})
        pipeline, inbox = workspace.settings.pipeline("tiles"), folder / "data" / "inbox"
        (damaged,) = path_batches([inbox / "2-damaged"])
        champion = workspace.tracking.registry.champion("tiles").champion
        again = score_batch(damaged, champion, pipeline, QUIET, lambda: None, manifest_hash=damaged.manifest_hash())
        table = batches["2-damaged"].table
        assert table is not None
        assert again.table["audit"].tolist() == table["audit"].tolist()


class TestStream:
    """Batches without an alarm are followed together."""

    def test_it_holds_the_batches_that_raised_no_alarm(self, first: RunReport, workspace: Workspace) -> None:
        """Each once, with exactly their counts."""
        champion = workspace.tracking.registry.champion("tiles").calibration_run
        calm = [record for record in workspace.ledger.batches.decided("tiles") if not record.alarm]
        calm = [record for record in calm if record.calibration_version == champion]
        evidence = stream(workspace).evidence
        counts = (len(calm), sum(record.n_scored for record in calm), sum(record.n_flagged for record in calm))
        assert (evidence.batches, evidence.scored, evidence.flagged) == counts

    def test_a_crossing_is_told_once_by_an_alert_of_its_own(
        self,
        first: RunReport,
        folder: Path,
        tmp_path: Path,
        small_images: SmallImages,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Batches of which none may alarm by itself alarm together; the batch after that says nothing new."""
        path = tmp_path / "pipelines.yaml"
        document = yaml.safe_load((folder / "pipelines.yaml").read_text())
        document |= {"workspace": str(folder / ".reconwatch")}
        document["pipelines"]["tiles"] |= {"data": {"nominal": str(folder / "data" / "nominal")}}
        document["pipelines"]["tiles"] |= {"monitor": {"batch_false_alarm_rate": 1e-9}}
        path.write_text(yaml.safe_dump(document))
        shifts = [tmp_path / f"shift-{number}" for number in range(4)]
        for number, shift in enumerate(shifts):
            for image in small_images(shift, 20, 50 + number)[:14]:
                Image.fromarray((np.indices((16, 16)).sum(0) % 2 * 255).astype(np.uint8)).save(image)
        with caplog.at_level(logging.WARNING, logger="reconwatch.alerts"):
            reports = score(open_workspace(path, {}), "tiles", shifts, QUIET)
        assert [report.verdict.alarm for report in reports if report.verdict] == [False] * 4
        (crossed,) = [report for report in reports if report.alarm]
        (told,) = [record.getMessage() for record in caplog.records if record.name == "reconwatch.alerts"]
        assert told.startswith("reconwatch: the stream of tiles has changed. In ")
        assert " ".join(crossed.stream) in told
        assert str(crossed.run_url) in told

    def test_a_new_champion_begins_a_stream_with_the_next_number(
        self, first: RunReport, workspace: Workspace, tmp_path: Path, small_images: SmallImages
    ) -> None:
        """It knows nothing of the batches before, and has its own share of the budget."""
        before = stream(workspace).evidence
        calibrate(workspace.settings.pipeline("tiles"), workspace.tracking, QUIET)
        small_images(tmp_path / "new", 20, 60)
        score(workspace, "tiles", [tmp_path / "new"], QUIET)
        evidence = stream(workspace).evidence
        assert (evidence.calibration, evidence.scored) == (before.calibration + 1, 20)
        assert evidence.budget < before.budget


class TestOlderRecords:
    """What an earlier reconwatch wrote is read."""

    def test_a_verdict_without_the_newer_tests_loads(self, first: RunReport, workspace: Workspace) -> None:
        """What it does not know is None, and everything else is as it was."""
        newer = ("moved_p_value", "moved_distance", "smallest_distance", "median_shift", "nominal_batches")
        record = workspace.ledger.batches.decided("tiles")[0]
        older = {key: value for key, value in record.verdict.items() if key not in (*newer, "overdispersion")}
        claim = workspace.ledger.claim("older", "lot", "images", "1", "calibration")
        assert isinstance(claim, Claim)
        workspace.ledger.finish(
            claim, run_id=record.run_id, verdict=older, alarm=False, n_scored=20, n_flagged=0, n_unreadable=0
        )
        (batch,) = past_batches(workspace, "older")
        assert batch.verdict is not None
        assert (batch.verdict.scored, batch.verdict.moved_p_value) == (older["scored"], None)
        assert len(batch.verdict.sentences()) == 2


class TestCertificate:
    """A calibration vouches for its parts, and nothing else is scored."""

    def test_people_see_it(self, first: RunReport, client: MlflowClient, workspace: Workspace, tmp_path: Path) -> None:
        """The calibration run has it as an artifact, equal to the champion's, and in words."""
        assert first.calibration is not None
        shown = client.get_run(first.calibration.run_id).data.tags["mlflow.note.content"]
        text = workspace.tracking.artifact(first.calibration.run_id, "certificate.json", tmp_path).read_text()
        certificate = Certificate.from_json(text)
        assert all(sentence in shown for sentence in certificate.sentences())
        assert certificate.n_nominal == first.calibration.threshold.n_nominal

    def test_scoring_refuses_a_changed_one(
        self, first: RunReport, client: MlflowClient, workspace: Workspace, tmp_path: Path, small_images: SmallImages
    ) -> None:
        """One sentence names the file that is not as it was written, and what to do; nothing is scored."""
        _, tags = workspace.tracking.registry.champion_version("tiles") or ("", {})
        place = urlparse(client.get_run(tags["reconwatch.calibration_run"]).info.artifact_uri).path
        certificate = Path(unquote(place)) / "model" / "artifacts" / "champion" / "certificate.json"
        original = certificate.read_text()
        small_images(tmp_path / "batch", 4, 70)
        done = workspace.ledger.batches.count("tiles")
        certificate.write_text(json.dumps(json.loads(original) | {"weights_sha256": "0" * 64}))
        with pytest.raises(ArtifactMissing) as refused:
            score(workspace, "tiles", [tmp_path / "batch"], QUIET)
        certificate.write_text(original)
        assert str(refused.value).startswith("model/artifacts/champion/certificate.json of run ")
        assert "was damaged after it was written" in str(refused.value)
        assert workspace.ledger.batches.count("tiles") == done
