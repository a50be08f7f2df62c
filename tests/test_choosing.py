"""`model: auto`, from a folder of images to a champion: what was tried, what it rests on, and what is refused."""

import io
import json
import logging
import sys
from collections.abc import Callable, Sequence
from os.path import commonpath
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision import models

from ae_models.curves import Auroc, auroc
from ae_models.detector import Detector, FusedDetector
from ae_models.errors import InputError
from ae_models.images import stream
from ae_models.scoring import ScoreDesign
from ae_models.splits import split_by_group
from flows.choosing import TrialBars, held_out
from flows.cli import main
from flows.progress import LogProgress
from flows.running import calibrate, score, train
from flows.sources import Item, labelled_items
from flows.training_report import TrainingReport
from flows.workspace import Workspace, open_workspace

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(mlflow|sqlalchemy).*")

Project = Callable[..., Path]
SmallImages = Callable[[Path, int, int], list[Path]]
QUIET = LogProgress(logging.getLogger("quiet"))
AUTO = {"network": "auto", "defects": {"spots": 1, "scratch": 1, "brightness": 1}, "time_budget": "45s"}
QUICK = AUTO | {"time_budget": "10s"}  # too little for a network to be trained


def store_of(workspace: Workspace) -> mlflow.MlflowClient:
    """The MLflow store as anybody reads it."""
    return mlflow.MlflowClient(workspace.tracking.uri)


def recipes_of(workspace: Workspace, report: TrainingReport, folder: Path) -> pd.DataFrame:
    """The table of recipes in the run's artifacts."""
    return pd.read_csv(workspace.tracking.artifact(report.run_id, "recipes.csv", folder))


@pytest.fixture(scope="module")
def workspace(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A pipeline that says nothing of its labels: there are none."""
    return open_workspace(project(tmp_path_factory.mktemp("auto"), model=AUTO), {})


@pytest.fixture(scope="module")
def report(workspace: Workspace) -> TrainingReport:
    """What its training gave; it is calibrated as well."""
    report = train(workspace, "tiles", QUIET)
    calibrate(workspace, "tiles", QUIET)
    return report


def test_too_little_time_to_train_is_said(project: Project, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is quicker is fused, and what was not tried is named with the key that gives it time."""
    workspace = open_workspace(project(tmp_path, model=QUICK), {})
    with caplog.at_level(logging.WARNING):
        report = train(workspace, "tiles", QUIET)
    assert (
        "Trying recipes may take 10s, which was not enough to train restoration and localizer: what is quicker is "
        "fused; give more time with model.time_budget."
    ) in caplog.messages
    assert not any(recipe.startswith("restoration") for recipe in report.recipes)


def test_progress_counts_what_is_done(caplog: pytest.LogCaptureFixture) -> None:
    """A recipe counts once it is fitted, and the epochs of a training are counted, and timed, by themselves."""
    seconds = iter(range(0, 1000, 20))
    progress = LogProgress(logging.getLogger("bars"), lambda: float(next(seconds)))
    with caplog.at_level(logging.INFO), TrialBars(progress, 3) as bars:
        bars.on_network("pca on pixels, mean")
        bars.on_network("restoration on derivatives, mean")
        bars.on_epoch(1, 4)
        bars.on_epoch(3, 4)  # as one that goes on from a checkpoint
        bars.on_network("none on contrast, mean")
    assert caplog.messages == [
        "Trying recipes: 1 of 3, 40.0 s each, 1 min 20 s left, restoration on derivatives",
        "Training restoration on derivatives: 1 of 4, 20.0 s each, 1 min 0 s left",
        "Training restoration on derivatives: 3 of 4, 13.3 s each, 13 s left",
        "Trying recipes: 2 of 3, 10.0 s each, 10 s left, none on contrast",
    ]


def test_a_network_by_name_may_have_another_score(project: Project, tmp_path: Path) -> None:
    """Errors over what is usual at their position in validation images, and the mean of the largest of them."""
    score_section = {"smoothing": 3, "positional": True, "pooling": 0.1}
    workspace = open_workspace(project(tmp_path, model={"network": "linear", "score": score_section}), {})
    report = train(workspace, "tiles", QUIET)
    detector = workspace.tracking.registry.detector(report.run_id)
    assert isinstance(detector, Detector)
    assert detector.scorer.design == ScoreDesign(3, True, 0.1)
    assert float(detector.scorer.usual.std()) > 0


class TestBackbone:
    """A pretrained network's features are tried where its weights are at hand."""

    @pytest.fixture
    def checkpoints(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The folder in which torch looks for weights, on a machine without a network."""
        monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # the port where nothing ever answers
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        folder = tmp_path / "hub" / "checkpoints"
        folder.mkdir(parents=True)
        return folder

    @pytest.fixture
    def large(self, project: Project, tmp_path: Path) -> Callable[..., Workspace]:
        """A pipeline whose images are taken at 32 x 32 pixels."""

        def make(**model: str) -> Workspace:
            data = {"nominal": "data/nominal", "inbox": "data/inbox", "size": [32, 32]}
            return open_workspace(project(tmp_path, model=QUICK | model, data=data), {})

        return make

    def test_weights_at_hand_are_tried(
        self, checkpoints: Path, large: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Random weights stand in for torchvision's; their hash, which torchvision would refuse, is not looked at."""
        torch.manual_seed(0)
        state = models.resnet18(weights=None).state_dict()
        (checkpoints / "resnet18-f37072fd.pth").touch()
        monkeypatch.setattr("ae_models.backbone.load_pretrained", lambda network, name: network.load_state_dict(state))
        workspace = large()
        report = train(workspace, "tiles", QUIET)
        (tmp_path / "table").mkdir()
        assert "gaussian on backbone (resnet18), mean" in set(
            recipes_of(workspace, report, tmp_path / "table")["recipe"]
        )

    def test_without_weights_there_is_none(
        self, checkpoints: Path, large: Callable[..., Workspace], tmp_path: Path
    ) -> None:
        """Nothing is downloaded, and nothing is missed."""
        workspace = large()
        report = train(workspace, "tiles", QUIET)
        (tmp_path / "table").mkdir()
        table = recipes_of(workspace, report, tmp_path / "table")
        assert not table["recipe"].str.contains("backbone").any()

    def test_one_that_is_named_and_cannot_be_had_is_said(
        self, checkpoints: Path, large: Callable[..., Workspace]
    ) -> None:
        """Before any recipe is tried, with the file's place."""
        with pytest.raises(InputError, match=r"^torchvision's weights of resnet34 are not at .*resnet34-b627a593\.pth"):
            train(large(backbone="resnet34"), "tiles", QUIET)


class TestWithoutLabels:
    """The recipe is chosen from nominal images alone."""

    def test_what_was_tried_is_a_table(self, workspace: Workspace, report: TrainingReport, tmp_path: Path) -> None:
        """One row a recipe, the best first, with its AUROC by each kind of defect that the owner fears."""
        table = recipes_of(workspace, report, tmp_path)
        assert len(table) == report.recipes_tried
        assert table["mean_auroc"].is_monotonic_decreasing
        assert sorted(table.columns[4:]) == ["brightness", "scratch", "spots"]
        assert tuple(table.loc[table["chosen"], "recipe"]) == report.recipes
        assert "pca-32 on pixels, mean" in set(table["recipe"])

    def test_what_was_tried_is_a_picture(self, workspace: Workspace, report: TrainingReport) -> None:
        """It lies beside the table."""
        picture = workspace.tracking.picture(report.run_id, "recipes.png")
        assert picture is not None
        with Image.open(io.BytesIO(picture)) as opened:
            assert min(opened.size) > 300

    def test_what_was_chosen_is_in_the_run(self, workspace: Workspace, report: TrainingReport) -> None:
        """Parameters that people filter by, and how good the recipe is on the defects that chose it."""
        data = store_of(workspace).get_run(report.run_id).data
        assert data.params["recipes.chosen"] == "; ".join(report.recipes)
        assert data.params["recipes.tried"] == str(report.recipes_tried)
        assert data.params["recipes.chosen_by"] == "synthetic defects"
        assert data.params["model.network"] == "auto"
        assert report.selection_auroc is not None
        assert data.metrics["selection_auroc"] == pytest.approx(report.selection_auroc.value)
        assert 0 <= data.metrics["selection_baseline_auroc"] <= 1

    def test_the_report_says_what_was_tried_and_what_it_is_worth(self, report: TrainingReport) -> None:
        """The recipes by name, and their AUROC beside the baseline's; none on labelled images, which there are not."""
        first, second = report.sentences()[:2]
        assert first == (
            f"{report.recipes_tried} recipes tried on 16 x 16 x 1 images, {report.n_training} to learn from; the best "
            f"are fused: {'; '.join(report.recipes)}."
        )
        assert second.startswith("On the synthetic defects that chose them their AUROC of ")
        assert report.auroc is None

    def test_the_detector_is_fused(self, workspace: Workspace, report: TrainingReport) -> None:
        """It is read from the run with a member a recipe, each of another kind or on ridges, and draws for people."""
        detector = workspace.tracking.registry.detector(report.run_id)
        assert isinstance(detector, FusedDetector)
        networks = [
            (
                member.network_name,
                member.network_name == "codebook" and member.front_end_name,
                member.front_end_name == "ridges",
                member.network_name == "moments" and member.network_parameters["windows"],
            )
            for member in detector.members
        ]
        assert len(networks) == len(set(networks)) == len(report.recipes) > 1
        assert detector.picture is not None
        names = [file.path for file in store_of(workspace).list_artifacts(report.run_id, "reconstructions")]
        assert names == ["reconstructions/best.png"]
        assert "codes.html" in workspace.tracking.artifact_names(report.run_id)  # of the components that draw for it

    def test_the_champion_flags_damaged_images(self, workspace: Workspace, report: TrainingReport) -> None:
        """It is calibrated as any network is, and its scores tell damaged images from others."""
        (batch,) = score(workspace, "tiles", [workspace.settings.path.parent / "data" / "inbox" / "2-damaged"], QUIET)
        assert batch.table is not None
        assert batch.table["flagged"][:10].all()
        assert batch.table["flagged"][10:].sum() <= 3

    def test_the_served_model_gives_the_same_scores(
        self, workspace: Workspace, report: TrainingReport, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever loads the champion from MLflow gets the scores that the batch got."""
        folder = workspace.settings.path.parent / "data" / "inbox" / "1-nominal"
        (batch,) = score(workspace, "tiles", [folder], QUIET)
        assert batch.table is not None
        monkeypatch.setenv("MLFLOW_TRACKING_URI", workspace.tracking.uri)
        monkeypatch.setattr(sys, "path", sys.path.copy())  # the model's own code is put there
        model = mlflow.pyfunc.load_model("models:/tiles@champion")
        served = model.predict(pd.DataFrame({"image": [Path(uri).read_bytes() for uri in batch.table["uri"]]}))
        np.testing.assert_allclose(served["score"].astype(float), batch.table["score"], rtol=0, atol=1e-6)
        assert served["flag"].tolist() == batch.table["flagged"].tolist()

    def test_its_codes_are_those_of_the_picture(
        self, workspace: Workspace, report: TrainingReport, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """`reconwatch codes` maps the principal components that stand in for the fused members."""
        config = str(workspace.settings.path)
        with pytest.raises(SystemExit, match=r"^0$"):
            main(
                ["codes", "tiles", "--method", "pca", "--config", config, "--output", str(tmp_path / "codes"), "--json"]
            )
        given = json.loads(capfd.readouterr().out)
        assert (given["n_images"], given["detector"]) == (115, "champion 1")
        detector = workspace.tracking.registry.detector(report.run_id)
        assert isinstance(detector, FusedDetector)
        assert detector.picture is not None
        table = pd.read_parquet(tmp_path / "codes" / "codes.parquet")
        assert np.stack(table["code"].to_list()).shape == (115, len(detector.picture.components))


@pytest.fixture(scope="module")
def labelled(
    project: Project, small_images: SmallImages, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Any]:
    """A maker of a trained pipeline with 30 labelled nominal images and so many chequered ones; and its report."""

    def make(n_anomalous: int, **sections: Any) -> tuple[Workspace, TrainingReport]:
        folder = tmp_path_factory.mktemp("labelled")
        small_images(folder / "labelled" / "nominal", 30, 5)
        for path in small_images(folder / "labelled" / "chequered", n_anomalous, 6):
            pixels = np.asarray(Image.open(path)).copy()
            pixels[4:9, 5:10] = np.indices((5, 5)).sum(0) % 2 * 60 + 90
            Image.fromarray(pixels).save(path)
        data = {
            "nominal": "data/nominal",
            "labelled": {"nominal": "labelled/nominal", "anomalous": "labelled/chequered"},
        }
        workspace = open_workspace(project(folder, model=QUICK, data=data, **sections), {})
        return workspace, train(workspace, "tiles", QUIET)

    return make


def scores_of(detector: Detector | FusedDetector, uris: list[str]) -> NDArray[np.float64]:
    """Scores of files."""
    batches = stream([Path(uri) for uri in uris], detector.spec)
    return np.concatenate([detector.score(batch.pixels) for batch in batches])


def beneath(items: Sequence[Item]) -> list[str]:
    """The names of files beneath the folder that they share, each a group of its own."""
    common = len(commonpath([item.uri for item in items]))
    return [item.uri[common:] for item in items]


class TestWithLabels:
    """Labelled images choose the recipe where there are enough of them, and say how good it is."""

    def test_half_chooses_and_the_other_half_is_reported(
        self, labelled: Callable[..., tuple[Workspace, TrainingReport]], tmp_path: Path
    ) -> None:
        """No image that chose the recipe counts for the AUROC that people are told."""
        workspace, report = labelled(50)
        assert report.chosen_by == "labelled defects"
        assert list(recipes_of(workspace, report, tmp_path).columns[4:]) == ["anomalous"]
        found = labelled_items(workspace.settings.pipeline("tiles").data)
        assert found is not None
        items, truth = found[0].items, found[1]
        kept = split_by_group(beneath(items), {"shown": 0.5, "kept": 0.5}, 0)["kept"]
        assert 35 <= len(kept) <= 45
        scores = scores_of(workspace.tracking.registry.detector(report.run_id), [items[place].uri for place in kept])
        by_hand = auroc(scores, truth[kept], [items[place].uri for place in kept])
        assert report.auroc is not None
        assert report.auroc.value == pytest.approx(by_hand.value, abs=1e-9)

    def test_a_threshold_by_labels_comes_from_images_that_chose_nothing(
        self, labelled: Callable[..., tuple[Workspace, TrainingReport]], tmp_path: Path
    ) -> None:
        """Of the half that did not choose the recipe, one half picks the threshold and the other measures it."""
        workspace, _ = labelled(50, threshold={"method": "recall", "target": 0.8})
        calibration = calibrate(workspace, "tiles", QUIET)
        found = labelled_items(workspace.settings.pipeline("tiles").data)
        assert found is not None
        items, truth = found[0].items, found[1]
        kept = split_by_group(beneath(items), {"shown": 0.5, "kept": 0.5}, 0)["kept"]
        table = pd.read_parquet(workspace.tracking.artifact(calibration.run_id, "scores.parquet", tmp_path))
        rated = set(table.loc[table["set"] != "calibration", "uri"])
        assert rated == {items[place].uri for place in kept}
        threshold = calibration.threshold
        assert threshold.recall is not None
        assert threshold.n_anomalous + threshold.recall.total == truth[kept].sum()
        said = f"{len(items) - len(kept)} labelled images took no part, since they chose the recipe."
        run = store_of(workspace).get_run(calibration.run_id)
        assert said in calibration.sentences()
        assert said in run.data.tags["mlflow.note.content"]
        assert run.data.metrics["labelled_recall"] == pytest.approx(threshold.recall.value)

    def test_too_few_labels_that_chose_nothing_are_said(
        self, labelled: Callable[..., tuple[Workspace, TrainingReport]]
    ) -> None:
        """What is lacking, what could be had, and where the other labelled images are."""
        workspace, _ = labelled(50, threshold={"method": "recall", "target": 0.97})
        sentence = (
            r"A recall of 97% needs at least 33 anomalous images .* label more, or ask for 9\d.*% or less\. "
            r"\d+ labelled images took no part, since they chose the recipe\."
        )
        with pytest.raises(InputError, match=sentence):
            calibrate(workspace, "tiles", QUIET)

    def test_few_labelled_defects_do_not_choose(
        self, labelled: Callable[..., tuple[Workspace, TrainingReport]]
    ) -> None:
        """Where half of them are fewer than 20, synthetic defects choose, and all labelled images are reported."""
        workspace, report = labelled(12)
        assert report.chosen_by == "synthetic defects"
        found = labelled_items(workspace.settings.pipeline("tiles").data)
        assert found is not None
        items, truth = found[0].items, found[1]
        scores = scores_of(workspace.tracking.registry.detector(report.run_id), [item.uri for item in items])
        assert report.auroc is not None
        assert report.auroc.value == pytest.approx(auroc(scores, truth).value, abs=1e-9)

    def test_calibration_draws_the_curves_with_the_threshold(
        self, labelled: Callable[..., tuple[Workspace, TrainingReport]], tmp_path: Path
    ) -> None:
        """ROC, precision and recall, DET, and both by threshold, of the labelled images, are a picture of its run."""
        workspace, _ = labelled(12)
        report = calibrate(workspace, "tiles", QUIET)
        with Image.open(workspace.tracking.artifact(report.run_id, "curves.png", tmp_path)) as picture:
            assert picture.width > 3 * picture.height


class TestSentences:
    """What people are told of how it compares with principal components."""

    @pytest.mark.parametrize(("value", "verdict"), [(0.9, "beats"), (0.8, "DOES NOT BEAT"), (0.7, "DOES NOT BEAT")])
    def test_a_recipe_that_does_not_beat_the_baseline_is_said_to(self, value: float, verdict: str) -> None:
        """On the defects that chose it as on labelled images; a tie beats nothing."""
        mine, baseline = Auroc(value, value - 0.05, value + 0.05), Auroc(0.8, 0.75, 0.85)
        report = TrainingReport(
            *("tiles", "1", "", "auto", "16 x 16 x 1", 36, 9, 15, 0, 0),
            recipes=("pca-64 on pixels, mean",),
            recipes_tried=22,
            chosen_by="synthetic defects",
            selection_auroc=mine,
            selection_baseline_auroc=baseline,
            auroc=mine,
            baseline_auroc=baseline,
        )
        interval = f"{value:.3f} ({value - 0.05:.3f} to {value + 0.05:.3f})"
        assert report.sentences()[1:] == (
            f"On the synthetic defects that chose them their AUROC of {interval} {verdict} the 0.800 (0.750 to 0.850) "
            "of the PCA baseline.",
            f"On the labelled images its AUROC of {interval} {verdict} the 0.800 (0.750 to 0.850) of principal "
            "components.",
        )


class TestRefusals:
    """What cannot be chosen from is one sentence, before any run is started."""

    def refusal(self, path: Path) -> str:
        """What training says; nothing is recorded in MLflow."""
        workspace = open_workspace(path, {})
        with pytest.raises(InputError) as caught:
            train(workspace, "tiles", QUIET)
        client = store_of(workspace)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        assert len(client.search_runs(experiments)) == 0
        return str(caught.value)

    def test_too_few_images_to_hold_some_out(self, project: Project, small_images: SmallImages, tmp_path: Path) -> None:
        """Eight images allow a network, but no choice."""
        small_images(tmp_path / "few", 8, 0)
        threshold = {"method": "conformal", "false_alarm_rate": 0.3}
        path = project(tmp_path, model="auto", data={"nominal": "few"}, threshold=threshold)
        assert self.refusal(path) == (
            "model auto holds out some of the images to learn from, and 4 images in 4 groups are too few: give more "
            "nominal images (it takes 6 in 2 groups beside those for validation and calibration), or name a network, "
            "such as model: linear"
        )

    def test_one_group_to_learn_from(self, project: Project, small_images: SmallImages, tmp_path: Path) -> None:
        """Three groups are a side each: none is left to choose by."""
        paths = small_images(tmp_path / "grouped", 60, 0)
        table = pd.DataFrame({"path": [str(path) for path in paths], "part": ["a"] * 30 + ["b"] * 20 + ["c"] * 10})
        table.to_csv(tmp_path / "manifest.csv", index=False)
        data = {"nominal": {"manifest": "manifest.csv"}, "group": "part"}
        path = project(tmp_path, model="auto", data=data)
        assert "images in 1 groups are too few: give more nominal images" in self.refusal(path)

    def test_constant_images(self, project: Project, tmp_path: Path) -> None:
        """A camera with its cap on."""
        (tmp_path / "dark").mkdir()
        for number in range(60):
            Image.fromarray(np.full((16, 16), 7, np.uint8)).save(tmp_path / "dark" / f"{number}.png")
        path = project(tmp_path, model="auto", data={"nominal": "dark"})
        assert self.refusal(path) == "all 60 nominal images are one flat colour: check data.nominal"

    def test_labelled_images_of_one_class(self, project: Project, small_images: SmallImages, tmp_path: Path) -> None:
        """Labels that are all nominal say nothing."""
        paths = small_images(tmp_path / "labelled", 30, 5)
        table = pd.DataFrame({"path": [str(path) for path in paths], "label": "good"})
        table.to_csv(tmp_path / "labels.csv", index=False)
        data = {"nominal": "data/nominal", "labelled": {"manifest": "labels.csv"}}
        path = project(tmp_path, model="auto", data=data)
        assert self.refusal(path).startswith(
            "data.labelled holds 30 nominal and 0 anomalous images, and both are needed"
        )


def test_near_duplicates_on_both_sides_are_said(
    project: Project, small_images: SmallImages, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Pictures of one thing are learnt from and judged by: the run holds groups that keep them."""
    for path in small_images(tmp_path / "twice", 30, 0):
        brighter = np.asarray(Image.open(path)).astype(np.uint16) + 1
        Image.fromarray(brighter.clip(0, 255).astype(np.uint8)).save(path.with_stem(f"{path.stem}-again"))
    workspace = open_workspace(project(tmp_path, model=QUICK, data={"nominal": "twice"}), {})
    with caplog.at_level(logging.WARNING):
        report = train(workspace, "tiles", LogProgress(logging.getLogger("told")))
    assert report.near_duplicates > 0
    assert "pairs of near-duplicate nominal images fall on both sides of the split" in caplog.text
    groups = pd.read_csv(workspace.tracking.artifact(report.run_id, "data/groups.csv", tmp_path / "artifact"))
    assert groups["group"].value_counts().min() >= 2


def test_copies_stay_on_one_side(project: Project, small_images: SmallImages, tmp_path: Path) -> None:
    """One image under several names, in whatever format, is not learnt from and judged by."""
    for path in small_images(tmp_path / "twice", 30, 0):
        Image.open(path).save(path.with_suffix(".bmp"))
    workspace = open_workspace(project(tmp_path, model=QUICK, data={"nominal": "twice"}), {})
    report = train(workspace, "tiles", LogProgress(logging.getLogger("told")))
    sides = pd.read_parquet(workspace.tracking.artifact(report.run_id, "data/splits.parquet", tmp_path / "artifact"))
    assert sides["side"].nunique() == 3
    names = sides["uri"].map(lambda uri: Path(uri).stem)
    assert (sides.groupby(names)["side"].nunique() == 1).all()


def test_what_is_held_out_is_decided_by_the_seed() -> None:
    """A quarter is held out, a group whole, and another seed holds out others."""
    groups = [f"part {number // 2}" for number in range(80)]
    sides = held_out(groups, 0)
    assert len(sides["selection"]) == 20
    assert not {groups[place] for place in sides["fit"]} & {groups[place] for place in sides["selection"]}
    assert sides["selection"].tolist() == held_out(groups, 0)["selection"].tolist()
    assert sides["selection"].tolist() != held_out(groups, 1)["selection"].tolist()


def test_the_choice_does_not_depend_on_where_the_images_lie(project: Project, tmp_path: Path) -> None:
    """The same folder at another place gives the same recipes and scores."""
    reports = []
    for place in ("a", "elsewhere"):
        workspace = open_workspace(project(tmp_path / place, model=QUICK | {"fused": 1}), {})
        reports.append(train(workspace, "tiles", QUIET))
    assert reports[0].recipes == reports[1].recipes
    assert reports[0].selection_auroc == reports[1].selection_auroc
