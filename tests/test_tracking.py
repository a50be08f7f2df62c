"""MLflow holds what people need to look at: runs that can be found, curves, pictures, versions and their origin."""

import logging
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient
from PIL import Image

from ae_models.errors import InputError
from ae_models.panels import TILE
from flows.calibration import CalibrationReport
from flows.progress import LogProgress
from flows.running import RunReport, run, score
from flows.tracking import Tracking, TrackingUnavailable
from flows.training_report import TrainingReport
from flows.workspace import Workspace, open_workspace

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(mlflow|sqlalchemy).*")

Project = Callable[..., Path]
SmallImages = Callable[[Path, int, int], list[Path]]
QUIET = LogProgress(logging.getLogger("quiet"))


@pytest.fixture(scope="module")
def workspace(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return open_workspace(project(tmp_path_factory.mktemp("project")), {})


@pytest.fixture(scope="module")
def report(workspace: Workspace) -> RunReport:
    """The project's first run: trained, calibrated, three batches scored."""
    report = run(workspace, "tiles", QUIET)
    assert report.failure == ""
    return report


@pytest.fixture(scope="module")
def training(report: RunReport) -> TrainingReport:
    assert report.training is not None
    return report.training


@pytest.fixture(scope="module")
def calibration(report: RunReport) -> CalibrationReport:
    assert report.calibration is not None
    return report.calibration


@pytest.fixture
def client(workspace: Workspace) -> MlflowClient:
    """MLflow as anybody uses it."""
    return MlflowClient(workspace.tracking.uri, workspace.tracking.uri)


class TestTraining:
    """A training run shows what went in, how it learnt, and what came out."""

    def test_losses_are_curves(self, client: MlflowClient, training: TrainingReport) -> None:
        """Training and validation loss have a point an epoch, from the first on."""
        for name in ("loss", "validation_loss"):
            history = client.get_metric_history(training.run_id, name)
            assert sorted(point.step for point in history) == list(range(1, training.epochs + 1))
        lowest = min(point.value for point in client.get_metric_history(training.run_id, "validation_loss"))
        assert lowest == training.validation_loss

    def test_the_baseline_stands_beside_the_network(self, client: MlflowClient, training: TrainingReport) -> None:
        """The error of principal components on the same images is a metric of the same run."""
        metrics = client.get_run(training.run_id).data.metrics
        assert metrics["baseline_validation_loss"] == training.baseline_loss
        assert metrics["best_validation_loss"] == training.validation_loss

    def test_it_says_how_fast_it_was_and_how_much_it_took(self, client: MlflowClient, training: TrainingReport) -> None:
        """Images a second, every epoch counted, and the memory of the process at its highest."""
        metrics = client.get_run(training.run_id).data.metrics
        read = training.epochs * training.n_training
        assert metrics["images_per_second"] == pytest.approx(read / metrics["training_seconds"])
        assert 50 < metrics["highest_memory_mib"] < 100_000

    def test_its_parameters_rebuild_it(self, client: MlflowClient, training: TrainingReport) -> None:
        """Model and training sections are parameters, with the fingerprint of the images."""
        params = client.get_run(training.run_id).data.params
        assert (params["model.network"], params["training.epochs"]) == ("linear", "5")
        assert params["images.size"] == "16 x 16 x 1"
        assert len(params["data.sha256"]) == 64

    def test_its_data_is_named(self, client: MlflowClient, training: TrainingReport) -> None:
        """The Datasets column shows which images went in."""
        inputs = client.get_run(training.run_id).inputs
        assert inputs is not None
        (given,) = inputs.dataset_inputs
        assert given.dataset.name == "tiles nominal"

    def test_every_image_has_its_side(self, workspace: Workspace, training: TrainingReport, tmp_path: Path) -> None:
        """The split is a table: one row an image, each on one side."""
        table = pd.read_parquet(workspace.tracking.artifact(training.run_id, "data/splits.parquet", tmp_path))
        assert len(table) == table["uri"].nunique() == 60
        counts = {"train": training.n_training, "validation": training.n_validation}
        assert table["side"].value_counts().to_dict() == {**counts, "calibration": training.n_calibration}

    def test_reconstructions_by_epoch_are_pictures(
        self, workspace: Workspace, training: TrainingReport, tmp_path: Path
    ) -> None:
        """Epochs 1, 2, 4, ... and the best one show what the network makes of images it did not learn from."""
        folder = workspace.tracking.artifact(training.run_id, "reconstructions", tmp_path)
        names = ["best.png", "epoch_0001.png", "epoch_0002.png", "epoch_0004.png"]
        assert sorted(path.name for path in folder.iterdir()) == names
        for name in names:
            Image.open(folder / name).verify()

    def test_principal_components_stand_beside_the_network(
        self, workspace: Workspace, training: TrainingReport, tmp_path: Path
    ) -> None:
        """Each picture has three rows: the images, what the network makes of them, and what the baseline does."""
        folder = workspace.tracking.artifact(training.run_id, "reconstructions", tmp_path)
        for path in folder.iterdir():
            with Image.open(path) as picture:
                assert picture.height > 3 * TILE

    def test_its_codes_are_on_a_map(self, workspace: Workspace, training: TrainingReport, tmp_path: Path) -> None:
        """A page shows all nominal images by their codes, those that the network learnt from and the others."""
        page = workspace.tracking.artifact(training.run_id, "codes.html", tmp_path).read_text(encoding="utf-8")
        assert '"kinds":["' in page
        assert all(f'"{kind}"' in page for kind in ("learnt from", "held out"))
        assert page.count('"thumbnail":"data:image/png') == 60

    def test_its_description_says_what_came_out(
        self, workspace: Workspace, client: MlflowClient, training: TrainingReport
    ) -> None:
        """The report's sentences, and where its calibrations are."""
        description = client.get_run(training.run_id).data.tags["mlflow.note.content"]
        assert description.startswith("- linear network on 16 x 16 x 1 images: 5 epochs over")
        assert workspace.tracking.addresses.search("tiles", {"training_run": training.run_id}) in description


class TestBatches:
    """A batch has one run, which is found by what it is."""

    @pytest.mark.parametrize(
        ("condition", "batches"),
        [
            ("tags.`reconwatch.alarm` = 'true'", {"2-damaged", "3-unreadable"}),
            ("tags.`reconwatch.alarm` = 'false'", {"1-nominal"}),
            ("tags.`reconwatch.diagnosis` = 'unreadable'", {"3-unreadable"}),
            ("tags.`reconwatch.batch` = '2-damaged'", {"2-damaged"}),
            ("tags.`reconwatch.severity` != 'none'", {"2-damaged", "3-unreadable"}),
            ("metrics.images_flagged >= 10", {"2-damaged"}),
            ("metrics.images_unreadable > 0", {"3-unreadable"}),
        ],
    )
    def test_batches_are_searched(
        self, client: MlflowClient, report: RunReport, condition: str, batches: set[str]
    ) -> None:
        """MLflow's search finds batches by alarm, diagnosis, name and counts."""
        experiment = client.get_experiment_by_name("reconwatch/tiles")
        assert experiment is not None
        # Other tests of this module add batches of their own, all of which begin with "odd".
        found = client.search_runs([experiment.experiment_id], f"tags.`reconwatch.kind` = 'batch' and {condition}")
        names = {run.data.tags["reconwatch.batch"] for run in found}
        assert {name for name in names if not name.startswith("odd")} == batches

    def test_its_artifacts(self, workspace: Workspace, report: RunReport, tmp_path: Path) -> None:
        """Every image's row, the report, the sheet of the worst images for alerts, and the hashes of all three."""
        run_id = report.batches[1].run_id
        assert run_id is not None
        names = ["report.html", "review", "scores.parquet", "sha256.txt", "worst.png"]
        assert sorted(workspace.tracking.artifact_names(run_id)) == names
        table = pd.read_parquet(workspace.tracking.artifact(run_id, "scores.parquet", tmp_path))
        assert len(table) == 20
        Image.open(workspace.tracking.artifact(run_id, "worst.png", tmp_path)).verify()
        page = workspace.tracking.artifact(run_id, "report.html", tmp_path).read_text(encoding="utf-8")
        assert all(f'"name":"image-{number:03d}.png"' in page for number in range(10))

    def test_its_description_leads_on(self, workspace: Workspace, client: MlflowClient, report: RunReport) -> None:
        """The verdict with its numbers, and links to the report, the champion and the batch before."""
        first, second = (client.get_run(batch.run_id or "") for batch in report.batches[:2])
        description = second.data.tags["mlflow.note.content"]
        page = workspace.tracking.addresses.run("tiles", second.info.run_id, "report.html")
        assert description.startswith(f"**WARNING: defects. [Open the report]({page})**")
        assert "- 10 of 20 images are flagged, where about 1 is expected;" in description
        assert f"/runs/{second.info.run_id}/artifacts/report.html?" in page
        assert (
            f"[version {report.batches[1].version}]({workspace.tracking.addresses.version('tiles', '1')})"
            in description
        )
        before = workspace.tracking.addresses.run("tiles", first.info.run_id)
        assert f"The batch before: [1-nominal]({before})." in description
        assert "It is the first batch." in first.data.tags["mlflow.note.content"]

    def test_its_description_stays_a_page(
        self, workspace: Workspace, client: MlflowClient, report: RunReport, tmp_path: Path
    ) -> None:
        """However many files are unreadable and however long their names, ten are named and the others counted."""
        folder = tmp_path / "odd many"
        folder.mkdir()
        for number in range(14):
            (folder / f"{number:02d}{'_' * 200}.png").write_bytes(b"")
        (scored,) = score(workspace, "tiles", [folder], QUIET)
        description = client.get_run(scored.run_id or "").data.tags["mlflow.note.content"]
        assert len(description) < 5000
        assert description.endswith("and 4 more, in the report.")

    def test_names_cannot_write_the_description(
        self, workspace: Workspace, client: MlflowClient, report: RunReport, tmp_path: Path
    ) -> None:
        """HTML and Markdown in the name of a file are shown as they are."""
        folder = tmp_path / "odd"
        folder.mkdir()
        for name in ("<img src=x onerror=alert(1)>.png", "[click](evil) | *b*.png", "line\nbreak.png", "<b>.txt"):
            (folder / name).write_bytes(b"no image")
        (scored,) = score(workspace, "tiles", [folder], QUIET)
        assert scored.run_id is not None
        description = client.get_run(scored.run_id).data.tags["mlflow.note.content"]
        assert "<" not in description
        assert "&lt;img src=x onerror=alert\\(1\\)&gt;.png" in description
        assert "| \\[click\\]\\(evil\\) \\| \\*b\\*.png |" in description
        assert "| line break.png |" in description
        assert "such as &lt;b&gt;.txt" in description

    def test_a_batch_name_with_quotes_is_recorded(
        self, workspace: Workspace, client: MlflowClient, report: RunReport, tmp_path: Path
    ) -> None:
        """Quotes in a batch's name are part of it."""
        folder = tmp_path / "odd 'name' \"of\" a batch"
        folder.mkdir()
        (folder / "a.png").write_bytes(b"")
        (scored,) = score(workspace, "tiles", [folder], QUIET)
        assert scored.run_id is not None
        recorded = client.get_run(scored.run_id)
        assert (recorded.info.status, recorded.data.tags["reconwatch.batch"]) == ("FINISHED", folder.name)


class TestVersions:
    """A registered version says where it comes from, and aliases say what it does."""

    def test_the_champion_is_the_version_that_decides(
        self, client: MlflowClient, calibration: CalibrationReport
    ) -> None:
        """After a calibration the alias names its version, and nobody challenges it."""
        aliases = client.get_registered_model("tiles").aliases
        assert {alias: str(version) for alias, version in aliases.items()} == {"champion": calibration.version}

    def test_its_tags_lead_to_its_runs(
        self, client: MlflowClient, training: TrainingReport, calibration: CalibrationReport
    ) -> None:
        """Training, calibration and threshold are tags; the description says them in words."""
        version = client.get_model_version("tiles", calibration.version)
        assert version.run_id == calibration.run_id
        assert version.tags == {
            "reconwatch.training_run": training.run_id,
            "reconwatch.calibration_run": calibration.run_id,
            "threshold": f"{calibration.threshold.value:.6g}",
            "threshold.method": calibration.threshold.method,
        }
        assert f"- {calibration.threshold.sentences()[0]}" in (version.description or "")

    def test_its_page_shows_the_certificate_and_leads_to_its_batches(
        self, workspace: Workspace, client: MlflowClient, training: TrainingReport, calibration: CalibrationReport
    ) -> None:
        """What was promised for which weights, the detector's other calibrations, and the batches that it decided."""
        description = client.get_model_version("tiles", calibration.version).description or ""
        certificate = workspace.tracking.registry.champion("tiles").champion.certificate
        assert all(f"- {sentence}" in description for sentence in certificate.sentences())
        batches = workspace.tracking.addresses.search("tiles", {"kind": "batch", "version": calibration.version})
        assert f"[The batches that it decided]({batches})" in description
        assert batches.endswith(
            "&searchFilter=tags.%60reconwatch.kind%60%20%3D%20%27batch%27%20and%20"
            "tags.%60reconwatch.version%60%20%3D%20%271%27"
        )
        calibrations = {"kind": "calibration", "training_run": training.run_id}
        assert workspace.tracking.addresses.search("tiles", calibrations) in description

    def test_nothing_in_it_can_run_code_when_loaded(
        self, workspace: Workspace, calibration: CalibrationReport, tmp_path: Path
    ) -> None:
        """The model's folder holds weights, arrays, JSON and source; no pickle under any name."""
        folder = workspace.tracking.artifact(calibration.run_id, "model", tmp_path)
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert {"weights.safetensors", "threshold.json", "MLmodel"} <= {path.name for path in files}
        assert [path for path in files if path.suffix in (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".pyc")] == []
        assert [path for path in files if path.read_bytes()[:1] == b"\x80"] == []  # how pickles begin
        assert [path for path in files if path.read_bytes()[:2] == b"PK"] == []  # zip, as torch.save writes

    def test_the_champion_comes_back_as_it_was(self, workspace: Workspace, calibration: CalibrationReport) -> None:
        """What scores batches is what was registered: weights, threshold and calibration scores."""
        version = workspace.tracking.registry.champion("tiles")
        assert (version.version, version.calibration_run) == (calibration.version, calibration.run_id)
        assert version.champion.threshold == calibration.threshold
        assert len(version.champion.calibration_scores) == calibration.threshold.n_nominal

    def test_an_absent_champion_is_said(self, workspace: Workspace) -> None:
        """The sentence says which commands make one."""
        with pytest.raises(InputError, match="pipeline 'wood' has no champion yet: run 'reconwatch train wood'"):
            workspace.tracking.registry.champion("wood")


class TestRuns:
    """A run that does not end well says so."""

    def test_a_failed_run_says_why(self, workspace: Workspace, client: MlflowClient) -> None:
        """The reason is a tag of the run, and nobody takes it for a finished one."""
        with (
            pytest.raises(ValueError, match="no light"),
            workspace.tracking.run("glass", "training", "train linear", {}) as run_id,
        ):
            raise ValueError("no light")
        failed = client.get_run(run_id)
        assert (failed.info.status, failed.data.tags["reconwatch.failure"]) == ("FAILED", "ValueError: no light")
        assert workspace.tracking.latest_training("glass") is None

    def test_a_deleted_experiment_is_said(self, workspace: Workspace, client: MlflowClient) -> None:
        """What somebody deleted in the dashboard is not made anew: the sentence says what restores it."""
        workspace.tracking.start_run("clay", "training", "train linear", {})
        experiment = client.get_experiment_by_name("reconwatch/clay")
        assert experiment is not None
        client.delete_experiment(experiment.experiment_id)
        with pytest.raises(TrackingUnavailable, match=f"restore --experiment-id {experiment.experiment_id}"):
            workspace.tracking.start_run("clay", "training", "train linear", {})


class TestPictures:
    """What alerts show of a batch."""

    def test_the_contact_sheet_of_a_batch_is_found(self, workspace: Workspace, report: RunReport) -> None:
        """It is the PNG that the batch's run shows."""
        (run_id,) = [batch.run_id for batch in report.batches if batch.batch == "2-damaged"]
        assert run_id is not None
        picture = workspace.tracking.picture(run_id, "worst.png")
        assert picture is not None
        assert picture.startswith(b"\x89PNG")

    def test_what_is_not_there_is_none(self, workspace: Workspace, training: TrainingReport) -> None:
        """A run without a contact sheet has no picture."""
        assert workspace.tracking.picture(training.run_id, "worst.png") is None

    def test_what_is_too_large_is_none(
        self, workspace: Workspace, report: RunReport, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A picture without measure is not fetched."""
        monkeypatch.setattr("flows.tracking.tracking.LARGEST_PICTURE", 100)
        run_id = report.batches[0].run_id
        assert run_id is not None
        assert workspace.tracking.picture(run_id, "worst.png") is None


class TestStores:
    """Which store is used."""

    def test_an_empty_variable_is_none(self, workspace: Workspace) -> None:
        """MLFLOW_TRACKING_URI set to nothing, as compose files do, is the embedded store and its folder."""
        tracking = Tracking(workspace.settings, {"MLFLOW_TRACKING_URI": ""})
        assert tracking.uri == workspace.tracking.uri
        assert tracking.embedded

    def test_a_store_that_cannot_be_opened_is_said(self, workspace: Workspace, tmp_path: Path) -> None:
        """The address without its password, and why."""
        uri = f"sqlite:///{tmp_path}/absent/mlflow.db"
        (tmp_path / "absent").write_text("a file where the folder should be")
        with pytest.raises(TrackingUnavailable, match=r"the MLflow store sqlite:///.* cannot be opened: "):
            Tracking(workspace.settings, {"MLFLOW_TRACKING_URI": uri})
