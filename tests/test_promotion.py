"""Who decides: a challenger scores in the shadow, takes over by the gate or a person's word, and can be taken back."""

import copy
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from numpy.typing import NDArray

from ae_models.errors import InputError
from ae_models.images import ImageSpec
from flows.cli import main
from flows.due import calibration_is_due
from flows.gate import Check, false_alarms, gate
from flows.ledger import utc_now
from flows.lineage import lineage_of
from flows.progress import LogProgress
from flows.promotion import promote, rollback
from flows.retraining import confirmed_items, retrain
from flows.reviewing import batch_review
from flows.running import run
from flows.shadow import shadows
from flows.tracking import ChampionVersion, RegisteredVersion
from flows.workspace import Workspace, open_workspace

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(mlflow|sqlalchemy).*"),
]

Project = Callable[..., Path]
SmallImages = Callable[[Path, int, int], list[Path]]
QUIET = LogProgress(logging.getLogger("quiet"))


@pytest.fixture(scope="module")
def decided(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose three batches are decided; copies of it find the images where they lie."""
    path = project(tmp_path_factory.mktemp("project"))
    path.write_text(path.read_text().replace("data/", f"{path.parent}/data/"))
    assert run(open_workspace(path, {}), "tiles", QUIET).failure == ""
    return path.parent


@pytest.fixture(scope="module")
def challenged(decided: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a challenger, and two labels: a nominal image and an outlier of `1-nominal`."""
    folder = copied(decided, tmp_path_factory.mktemp("challenged"))
    workspace = open_workspace(folder / "pipelines.yaml", {})
    label(workspace, "1-nominal", ["image-004.png"], "nominal")
    label(workspace, "1-nominal", ["image-005.png"], "outlier")
    report = retrain(workspace.settings.pipeline("tiles"), workspace, QUIET)
    assert report.calibration.role == "challenger"
    return folder


def copied(folder: Path, place: Path) -> Path:
    """The project's stores and configuration elsewhere."""
    shutil.copytree(folder, place / "copy", ignore=shutil.ignore_patterns("data"))
    return place / "copy"


@pytest.fixture
def workspace(challenged: Path, tmp_path: Path) -> Workspace:
    """The challenged project for one test alone."""
    folder = copied(challenged, tmp_path)
    return open_workspace(folder / "pipelines.yaml", {})


def label(workspace: Workspace, name: str, files: Sequence[str], verdict: str) -> None:
    (record,) = [record for record in workspace.ledger.batches.decided("tiles") if record.batch == name]
    review = batch_review(record, workspace.settings.pipeline("tiles"), workspace)
    for uri in review.images:
        if Path(uri).name in files:
            workspace.ledger.labels.add([review.label(uri, verdict, "", "anna", utc_now(), "terminal")])  # type: ignore[arg-type]  # one of the verdicts


def versions(workspace: Workspace) -> dict[str, RegisteredVersion]:
    return {version.version: version for version in workspace.tracking.registry.versions("tiles")}


class TestRetraining:
    """A challenger learns from what people confirmed."""

    def test_it_learns_from_confirmed_images_and_calibrates_on_none_of_them(self, workspace: Workspace) -> None:
        """They were looked at because of their scores, so they may not set a threshold."""
        client = MlflowClient(workspace.tracking.uri)
        training = versions(workspace)["2"].tags["reconwatch.training_run"]
        table = pd.read_parquet(client.download_artifacts(training, "data/splits.parquet"))
        inbox = table[table["uri"].str.contains("inbox")]
        assert [Path(uri).name for uri in inbox["uri"]] == ["image-004.png"]
        assert inbox["side"].tolist() == ["train"]

    def test_only_images_that_lie_in_the_inbox_are_read(self, workspace: Workspace) -> None:
        """An address that somebody wrote into the ledger is never opened."""
        known = workspace.ledger.labels.of("tiles")[0]
        workspace.ledger.labels.add([replace(known, uri="/etc/hostname", labelled_at=utc_now())])
        items, missing = confirmed_items(workspace.settings.pipeline("tiles"), workspace.ledger)
        assert [Path(item.uri).name for item in items] == ["image-004.png"]
        assert missing == 1

    def test_it_decides_nothing(self, workspace: Workspace) -> None:
        """Neither now nor by the next run, and calibration is not due."""
        assert workspace.tracking.registry.champion("tiles").version == "1"
        assert versions(workspace)["2"].aliases == ("challenger",)
        assert not calibration_is_due(workspace, workspace.settings.pipeline("tiles"))


class TestShadow:
    """The challenger's scores stand beside the champion's."""

    def test_it_catches_up_with_the_batches_that_are_there(self, workspace: Workspace) -> None:
        """Each image that both could read has both scores, by different detectors."""
        found = shadows(workspace.settings.pipeline("tiles"), workspace, "2", 20)
        assert [shadow.record.batch for shadow in found] == ["3-unreadable", "2-damaged", "1-nominal"]
        assert [len(shadow.table) for shadow in found] == [15, 20, 20]
        assert (found[1].table["score"] != found[1].table["challenger_score"]).all()

    def test_the_next_batch_is_decided_by_the_champion_and_scored_by_both(
        self, workspace: Workspace, small_images: SmallImages
    ) -> None:
        """What the challenger finds changes no verdict; it is a metric of the batch's run."""
        inbox = workspace.settings.pipeline("tiles").data.inbox
        folder = Path(str(getattr(inbox, "path", ""))) / f"4-{workspace.settings.path.parent.parent.name}"
        small_images(folder, 8, 4)
        try:
            (report,) = run(workspace, "tiles", QUIET).batches
        finally:
            shutil.rmtree(folder)
        assert (report.outcome, report.version) == ("scored", "1")
        metrics = MlflowClient(workspace.tracking.uri).get_run(str(report.run_id)).data.metrics
        assert metrics["challenger_version"] == 2
        assert {"challenger_flagged", "challenger_flagged_p_value", "challenger_images_per_second"} <= metrics.keys()


@dataclass(frozen=True)
class Other:
    """A detector with a score of its own."""

    spec: ImageSpec
    score: Callable[[NDArray[np.float32]], NDArray[np.float64]]
    graph: None = None

    def on(self, _: object) -> "Other":
        return self


def scoring_by(
    score: Callable[[NDArray[np.float32]], NDArray[np.float64]], version: ChampionVersion
) -> ChampionVersion:
    """The version with another score."""
    champion = copy.copy(version.champion)
    object.__setattr__(champion, "detector", Other(champion.detector.spec, score))
    return replace(version, champion=champion)


class TestGate:
    """What a challenger has to show."""

    def found(
        self, workspace: Workspace, challenger: ChampionVersion, champion: ChampionVersion | None = None
    ) -> dict[str, Check]:
        champion = champion or workspace.tracking.registry.champion("tiles")
        checks = gate(workspace.settings.pipeline("tiles"), champion, challenger, workspace, QUIET)
        return {check.name: check for check in checks}

    def test_a_challenger_like_the_champion_passes(self, workspace: Workspace) -> None:
        """On synthetic defects where there are no labelled images, with every number."""
        challenger = workspace.tracking.registry.loaded("tiles", versions(workspace)["2"])
        checks = self.found(workspace, challenger)
        assert list(checks) == ["detection", "baseline", "false alarms", "latency"]
        assert checks["detection"].passed
        assert checks["false alarms"].passed
        assert "AUROC against that of the champion, version 1: " in checks["detection"].sentence
        assert "synthetic defects and 19 nominal images" in checks["detection"].sentence
        assert "AUROC against that of principal components: " in checks["baseline"].sentence
        # One of the batch's 20 was confirmed, so that the challenger learnt from it.
        assert " of 19 images of 1 batches without an alarm that it did not learn from are flagged, where 5% are" in (
            checks["false alarms"].sentence
        )
        assert "times as long" in checks["latency"].sentence

    def test_one_that_finds_defects_worse_does_not(self, workspace: Workspace) -> None:
        """A network that finds flat images odd."""
        known = workspace.tracking.registry.loaded("tiles", versions(workspace)["2"])

        def backwards(images: NDArray[np.float32]) -> NDArray[np.float64]:
            return np.asarray(-np.abs(np.diff(images.astype(np.float64), axis=-1)).max(axis=(1, 2, 3)))

        checks = self.found(workspace, scoring_by(backwards, known))
        assert not checks["detection"].passed
        assert not checks["baseline"].passed

    def test_one_that_flags_too_many_nominal_images_does_not(self, workspace: Workspace) -> None:
        """Its threshold is too low for what it promises."""
        known = workspace.tracking.registry.loaded("tiles", versions(workspace)["2"])
        pipeline = workspace.settings.pipeline("tiles")
        for shadow in shadows(pipeline, workspace, "2", 20):
            own = shadow.table.rename(columns={"challenger_score": "s"})[["uri", "s"]].rename(columns={"s": "score"})
            table = own.assign(p_value=0.5, flagged=True)
            workspace.tracking.log_table(shadow.record.run_id, table, "shadow/2.parquet")
        check = false_alarms(pipeline, known, workspace)
        assert not check.passed
        assert check.sentence.startswith("19 of 19 images of 1 batches without an alarm that it did not learn from are")

    @pytest.mark.parametrize(("seconds", "passed"), [(1.4, True), (1.6, False)])
    def test_one_that_takes_much_longer_does_not(
        self, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, seconds: float, passed: bool
    ) -> None:
        """Half as long again as the champion at most, by a clock that only scoring moves."""
        registry, clock = workspace.tracking.registry, [0.0]

        def taking(time: float, number: str) -> ChampionVersion:
            def score(images: NDArray[np.float32]) -> NDArray[np.float64]:
                clock[0] += time
                return np.asarray(images.astype(np.float64).max(axis=(1, 2, 3)))

            return scoring_by(score, registry.loaded("tiles", versions(workspace)[number]))

        monkeypatch.setattr("flows.gate.perf_counter", lambda: clock[0])
        check = self.found(workspace, taking(seconds, "2"), taking(1.0, "1"))["latency"]
        assert check.passed is passed
        assert f"{seconds:.2f} times as long (at most 1.5 is wanted)" in check.sentence

    def test_one_that_was_never_in_the_shadow_does_not(self, workspace: Workspace) -> None:
        """Nothing is known of its false alarms."""
        known = workspace.tracking.registry.loaded("tiles", versions(workspace)["2"])
        check = false_alarms(workspace.settings.pipeline("tiles"), replace(known, version="9"), workspace)
        assert not check.passed
        assert "no batch was scored in its shadow yet" in check.sentence


class TestPromotion:
    """Another version decides."""

    def test_a_person_promotes_with_a_reason_that_stays(self, workspace: Workspace) -> None:
        """In the registry, beside what the gate found; markup in it is text."""
        pipeline = workspace.settings.pipeline("tiles")
        report = promote(pipeline, None, "it finds <b>scratches</b>\nbetter", "anna", workspace, QUIET)
        assert (report.promoted, report.version, report.before) == (True, "2", "1")
        version = versions(workspace)["2"]
        assert version.aliases == ("champion",)
        assert version.tags["reconwatch.reason"] == "it finds <b>scratches</b> better (by anna)"
        assert version.tags["reconwatch.before"] == "1"
        assert "AUROC against" in version.tags["reconwatch.gate.detection"]
        assert not calibration_is_due(workspace, pipeline)

    def test_it_decides_the_next_batch_and_the_rest_stays_decided(
        self, workspace: Workspace, small_images: SmallImages
    ) -> None:
        """One version for the whole of each batch: detector, threshold and stream come together."""
        pipeline = workspace.settings.pipeline("tiles")
        promote(pipeline, "2", "looks right", "anna", workspace, QUIET)
        folder = Path(str(getattr(pipeline.data.inbox, "path", ""))) / f"5-{workspace.settings.path.parent.parent.name}"
        small_images(folder, 8, 5)
        try:
            (report,) = run(workspace, "tiles", QUIET).batches
        finally:
            shutil.rmtree(folder)
        assert (report.outcome, report.version) == ("scored", "2")
        champion = workspace.tracking.registry.champion("tiles")
        assert workspace.ledger.batches.decided("tiles")[-1].calibration_version == champion.calibration_run
        assert [record.model_version for record in workspace.ledger.batches.decided("tiles")] == ["1", "1", "1", "2"]

    def test_without_a_reason_the_gate_decides(self, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        """One that does not pass stays a challenger, and nothing is written."""
        monkeypatch.setattr("flows.gate.SLOWER", 0.0)  # nobody is so quick
        client = MlflowClient(workspace.tracking.uri)
        report = promote(workspace.settings.pipeline("tiles"), None, " ", "anna", workspace, QUIET)
        assert not report.promoted
        assert workspace.tracking.registry.champion("tiles").version == "1"
        assert report.sentences()[-1].startswith("Version 2 was not promoted; version 1 of tiles decides on.")
        assert "reconwatch.reason" not in client.get_model_version("tiles", "2").tags

    def test_a_rollback_brings_the_version_before_back(self, workspace: Workspace) -> None:
        """With its reason on both, and the lineage shows it; going back further than the first is refused."""
        pipeline = workspace.settings.pipeline("tiles")
        promote(pipeline, None, "try it", "anna", workspace, QUIET)
        report = rollback(pipeline, "too many false alarms", "bob", workspace.tracking)
        assert (report.version, report.before) == ("1", "2")
        assert workspace.tracking.registry.champion("tiles").version == "1"
        assert not calibration_is_due(workspace, pipeline)
        first, second = lineage_of("tiles", workspace.tracking)
        assert first.reason.startswith("back from version 2: too many false alarms (by bob, ")
        assert (first.role, second.role) == ("champion", "")
        assert versions(workspace)["2"].tags["reconwatch.rolled_back"] == first.reason
        with pytest.raises(InputError, match="no version of 'tiles' decided before the champion"):
            rollback(pipeline, "again", "bob", workspace.tracking)
        with pytest.raises(InputError, match="nobody challenges the champion of 'tiles'"):
            promote(pipeline, None, "again", "bob", workspace, QUIET)

    @pytest.mark.parametrize(
        ("version", "words"),
        [("1", "version 1 is champion of 'tiles' already"), ("9", r"'tiles' has no version '9' \(it has: 1, 2\)")],
    )
    def test_a_version_that_cannot_take_over_is_refused(self, workspace: Workspace, version: str, words: str) -> None:
        """In one sentence."""
        with pytest.raises(InputError, match=words):
            promote(workspace.settings.pipeline("tiles"), version, "x", "anna", workspace, QUIET)


class TestCommands:
    """`reconwatch promote` and `rollback`."""

    def call(self, workspace: Workspace, *arguments: str) -> int:
        with pytest.raises(SystemExit) as left:
            main([*arguments, "--config", str(workspace.settings.path)])
        code = left.value.code
        return code if isinstance(code, int) else int(bool(code))

    def test_there_and_back(self, workspace: Workspace, capfd: pytest.CaptureFixture[str]) -> None:
        """Findings, outcome, and the reason are printed; JSON for machines."""
        assert self.call(workspace, "promote", "tiles", "--reason", "better", "--by", "anna", "--json") == 0
        report = json.loads(capfd.readouterr().out)
        assert (report["promoted"], report["reason"], len(report["checks"])) == (True, "better (by anna)", 4)
        assert self.call(workspace, "rollback", "tiles", "--reason", "worse", "--by", "anna") == 0
        assert "Version 1 is champion of tiles, in place of version 2." in capfd.readouterr().out
        assert self.call(workspace, "rollback", "tiles", "--reason", "") == 2
