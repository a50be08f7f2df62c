"""A new threshold from the audit: nothing but random images counts, and nothing changes before somebody says so."""

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from ae_models.calibration import conformal_threshold
from ae_models.errors import InputError
from flows.calibration import calibrate
from flows.cli import main
from flows.due import calibration_is_due
from flows.labels import Verdict
from flows.ledger import BatchRecord, utc_now
from flows.progress import LogProgress
from flows.recalibration import plan_recalibration, recalibrate
from flows.reviewing import batch_review
from flows.running import run
from flows.streams import Stream
from flows.workspace import Workspace, open_workspace

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(mlflow|sqlalchemy).*")

Project = Callable[..., Path]
SmallImages = Callable[[Path, int, int], list[Path]]
Call = Callable[..., tuple[int, str, str]]
QUIET = LogProgress(logging.getLogger("quiet"))


@pytest.fixture(scope="module")
def decided(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose three batches are decided, each with an audit of all its readable images."""
    path = project(tmp_path_factory.mktemp("project"), review={"audit": 20})
    assert run(open_workspace(path, {}), "tiles", QUIET).failure == ""
    return path.parent


@pytest.fixture
def workspace(decided: Path, tmp_path: Path) -> Workspace:
    """The same for one test alone."""
    shutil.copytree(decided, tmp_path / "copy")
    return open_workspace(tmp_path / "copy" / "pipelines.yaml", {})


@pytest.fixture
def call(workspace: Workspace, capfd: pytest.CaptureFixture[str]) -> Call:
    """Runs `reconwatch COMMAND tiles` with these arguments; exit code, standard output and error."""

    def command(name: str, *arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main([name, "tiles", "--config", str(workspace.settings.path), *arguments])
        code = left.value.code
        return (code if isinstance(code, int) else int(bool(code)), *capfd.readouterr())

    return command


def batch(workspace: Workspace, name: str) -> BatchRecord:
    (record,) = [record for record in workspace.ledger.batches.decided("tiles") if record.batch == name]
    return record


def label(
    workspace: Workspace, name: str, verdict: Callable[[str], Verdict], count: int | None = None, by: str = "anna"
) -> list[str]:
    """Label the audit of a batch, or so many of it; the addresses of the images."""
    review = batch_review(batch(workspace, name), workspace.settings.pipeline("tiles"), workspace)
    audit = [image.uri for image in review.images.values() if image.audit][:count]
    labels = [review.label(uri, verdict(uri), "", by, utc_now(), "terminal") for uri in audit]
    assert workspace.ledger.labels.add(labels) == len(audit)
    return audit


def nominal(_: str) -> Verdict:
    return "nominal"


def damaged_or_not(uri: str) -> Verdict:
    """The first ten images of the batch `2-damaged` are outliers."""
    return "outlier" if int(Path(uri).stem.split("-")[1]) < 10 else "nominal"


class TestWhichImages:
    """Which labelled images a recalibration rests on."""

    def test_the_random_stream_keeps_the_rate_and_unflagged_images_do_not(self) -> None:
        """Over 400 pipelines at 5%: calibrated on audits 5% of nominal images are flagged, on unflagged ones 10%."""
        random = np.random.default_rng(0)
        of_audit, of_unflagged = list[float](), list[float]()
        for _ in range(400):
            first = conformal_threshold(random.normal(size=199), 0.05)
            stream = random.normal(size=400)
            unflagged = stream[~first.flags(stream)]
            for rates, scores in ((of_audit, stream[:199]), (of_unflagged, unflagged[:199])):
                rates.append(float(conformal_threshold(scores, 0.05).flags(random.normal(size=400)).mean()))
        assert np.mean(of_audit) == pytest.approx(0.05, abs=0.003)
        assert np.mean(of_unflagged) > 0.09

    def test_nominal_ones_of_the_audit_count_flagged_or_not(self, workspace: Workspace) -> None:
        """Outliers do not, nor does a label on an image that nobody drew."""
        label(workspace, "1-nominal", nominal)
        label(workspace, "2-damaged", damaged_or_not, by="bob")
        plan = plan_recalibration(workspace.settings.pipeline("tiles"), workspace, None, None, QUIET)
        assert plan.batches == {"1-nominal": 20, "2-damaged": 10}
        assert plan.reviewers == ("anna", "bob")
        scores = pd.concat([workspace.tracking.scores(batch(workspace, name).run_id) for name in plan.batches])
        expected = scores[[damaged_or_not(uri) == "nominal" or "1-nominal" in uri for uri in scores["uri"]]]["score"]
        assert sorted(plan.scores) == sorted(expected)
        assert plan.threshold == conformal_threshold(plan.scores, 0.05)

    def test_an_audit_that_is_labelled_in_part_does_not_count(self, workspace: Workspace) -> None:
        """People begin with the flagged images, whose scores are the highest."""
        label(workspace, "1-nominal", nominal)
        label(workspace, "2-damaged", damaged_or_not, count=19)
        plan = plan_recalibration(workspace.settings.pipeline("tiles"), workspace, None, None, QUIET)
        assert (plan.batches, plan.unfinished) == ({"1-nominal": 20}, 1)
        assert "1 more batches take no part, as their audits are not labelled to the end" in " ".join(plan.sentences())

    def test_too_few_are_refused_with_how_many_it_takes(self, workspace: Workspace) -> None:
        """And nothing is registered."""
        label(workspace, "3-unreadable", nominal)
        with pytest.raises(InputError, match=r"15 nominal images of the audit of 'tiles' are labelled.*19"):
            plan_recalibration(workspace.settings.pipeline("tiles"), workspace, None, None, QUIET)

    def test_only_batches_of_the_time_that_is_wished(self, workspace: Workspace) -> None:
        """What was decided before counts no more after a change of the light."""
        label(workspace, "1-nominal", nominal)
        label(workspace, "2-damaged", damaged_or_not)
        since = batch(workspace, "2-damaged").finished_at
        with pytest.raises(InputError, match="10 nominal images of the audit"):
            plan_recalibration(workspace.settings.pipeline("tiles"), workspace, since, None, QUIET)


@pytest.mark.slow
class TestTheNewThreshold:
    """What a recalibration changes."""

    def test_it_decides_the_next_batch_with_a_certificate_and_a_stream_of_its_own(
        self, workspace: Workspace, small_images: SmallImages
    ) -> None:
        """Batches that are decided stay decided."""
        label(workspace, "1-nominal", nominal)
        pipeline, before = workspace.settings.pipeline("tiles"), workspace.tracking.registry.champion("tiles")
        report = recalibrate(pipeline, workspace, None, None, QUIET)
        champion = workspace.tracking.registry.champion("tiles")  # refused without its own certificate
        assert (champion.version, champion.calibration_run) == (report.version, report.run_id)
        assert champion.training_run == before.training_run
        assert champion.champion.threshold.value != before.champion.threshold.value
        assert champion.champion.certificate.n_nominal == 20
        small_images(workspace.settings.path.parent / "data" / "inbox" / "4-next", 8, 4)
        (scored,) = run(workspace, "tiles", QUIET).batches
        assert (scored.batch, scored.version) == ("4-next", report.version)
        record = workspace.ledger.streams.of("tiles", report.run_id)
        assert record is not None
        assert (record.calibration, Stream.from_json(record.state).evidence.batches) == (2, 1)

    def test_its_lineage_says_of_what_it_was_made_and_by_whom(self, workspace: Workspace) -> None:
        """In the registry, on the version's page, and as rows."""
        label(workspace, "1-nominal", nominal)
        report = recalibrate(workspace.settings.pipeline("tiles"), workspace, None, None, QUIET)
        first, second = report.lineage
        assert (first.version, first.calibration, first.source, first.role) == ("1", 1, "nominal images", "")
        assert (second.version, second.calibration, second.role) == ("2", 2, "champion")
        assert (second.source, second.by) == ("audit of 1 batches", "anna")
        assert second.reason == "recalibrated on 20 nominal images of the audit, labelled by anna"
        client = MlflowClient(workspace.tracking.uri)
        page = client.get_model_version("tiles", "2").description or ""
        assert f"goes from {first.threshold} to {second.threshold}." in page.replace("\\", "")
        assert f"| 1 | {first.made_at:%Y-%m-%d %H:%M} | 1 | {first.threshold} | nominal images |" in page
        rows = pd.read_parquet(client.download_artifacts(report.run_id, "scores.parquet"))
        assert (len(rows), set(rows["batch"]), set(rows["reviewer"])) == (20, {"1-nominal"}, {"anna"})

    def test_calibrating_again_keeps_to_the_detector_that_decides(self, workspace: Workspace) -> None:
        """Neither the next run nor `calibrate` brings another one back."""
        label(workspace, "1-nominal", nominal)
        pipeline = workspace.settings.pipeline("tiles")
        training = workspace.tracking.registry.champion("tiles").training_run
        recalibrate(pipeline, workspace, None, None, QUIET)
        assert not calibration_is_due(workspace, pipeline)
        calibrate(pipeline, workspace.tracking, QUIET)
        assert workspace.tracking.registry.champion("tiles").training_run == training

    def test_names_of_reviewers_are_text(self, workspace: Workspace) -> None:
        """On the pages in MLflow."""
        label(workspace, "1-nominal", nominal, by="<b>eve</b>|x")
        report = recalibrate(workspace.settings.pipeline("tiles"), workspace, None, None, QUIET)
        client = MlflowClient(workspace.tracking.uri)
        pages = [client.get_model_version("tiles", "2").description or ""]
        pages.append(client.get_run(report.run_id).data.tags["mlflow.note.content"])
        assert all("<b>" not in page and "&lt;b&gt;eve&lt;/b&gt;" in page for page in pages)


@pytest.mark.slow
class TestCommand:
    """`reconwatch recalibrate`."""

    def said(self, words: str, sentences: Sequence[str]) -> bool:
        return any(words in sentence for sentence in sentences)

    def test_it_previews_and_changes_nothing_unless_it_is_told_to(self, call: Call, workspace: Workspace) -> None:
        """What past batches would have been, before and after."""
        label(workspace, "1-nominal", nominal)
        before = workspace.tracking.registry.champion("tiles").version
        code, out, errors = call("recalibrate")
        assert code == 0
        (line,) = [line for line in out.splitlines() if line.startswith("│ 2-damaged")]
        assert " -> " in line
        assert "20 nominal images of the audit of 1 batches, labelled by anna: the threshold of version 1" in out
        assert "With the new threshold, " in out
        assert f"Nothing was changed: reconwatch recalibrate tiles --config {workspace.settings.path} --yes" in errors
        assert workspace.tracking.registry.champion("tiles").version == before
        assert len(workspace.tracking.registry.versions("tiles")) == 1

    def test_with_yes_it_takes_effect_and_the_lineage_shows(self, call: Call, workspace: Workspace) -> None:
        """`versions` shows it again later."""
        label(workspace, "1-nominal", nominal)
        code, out, _ = call("recalibrate", "--yes")
        assert code == 0
        assert "Version 2 is champion of tiles." in out
        assert "audit of 1 batches" in out
        assert workspace.tracking.registry.champion("tiles").version == "2"
        assert "audit of 1 batches" in call("versions")[1]
        rows = json.loads(call("versions", "--json")[1])
        assert [(row["version"], row["role"]) for row in rows] == [("1", ""), ("2", "champion")]

    def test_json(self, call: Call, workspace: Workspace) -> None:
        """The plan without --yes, the outcome with it; nothing else on standard output."""
        label(workspace, "1-nominal", nominal)
        plan = json.loads(call("recalibrate", "--json")[1])
        assert (plan["threshold"]["n_nominal"], len(plan["scores"])) == (20, 20)
        assert json.loads(call("recalibrate", "--json", "--yes")[1])["version"] == "2"

    def test_wrong_input(self, call: Call) -> None:
        """One sentence, and exit code 2."""
        code, out, errors = call("recalibrate")
        (line,) = [line for line in errors.splitlines() if line.startswith("Error: ")]
        assert (code, out) == (2, "")
        assert line.startswith("Error: 0 nominal images of the audit of 'tiles' are labelled")
        assert call("recalibrate", "--since", "monday")[0] == 2
        later = (utc_now() + timedelta(days=1)).date().isoformat()
        assert call("recalibrate", "--since", later)[0] == 2
