"""The command line does one thing a verb, says failures in one sentence, and its exit code says their kind."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from ae_models.networks import NETWORKS, LinearAutoencoder
from flows.cli import main
from flows.config import load
from flows.sources import nominal_items

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(mlflow|sqlalchemy).*")

Project = Callable[..., Path]
SmallImages = Callable[[Path, int, int], list[Path]]
CODES_VERBS = ("codes", "decode", "compression")
VERBS = (
    *("init", "check", "train", "calibrate", "score", "run", "plan", "replay", "status", "synth", "ui", "demo"),
    *CODES_VERBS,
    "watchdog",
)


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code and all that it wrote."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one error that was said, without its mark."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("Error: ")]
        assert "Traceback" not in self.err
        return line.removeprefix("Error: ")


Call = Callable[..., Outcome]


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    """Runs `reconwatch ARGUMENTS` in this process, from an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> Outcome:
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        code = caught.value.code
        return Outcome(code if isinstance(code, int) else int(bool(code)), *capfd.readouterr())

    return run


@pytest.fixture(scope="module")
def trained(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose pipeline is trained and calibrated, and whose inbox is scored."""
    path = project(tmp_path_factory.mktemp("trained"))
    with pytest.raises(SystemExit, match="0"):
        main(["run", "--config", str(path)])
    return path


@pytest.fixture
def inbox_of_one(trained: Path, small_images: SmallImages) -> Iterator[Path]:
    """A new batch in the trained project's inbox; it is gone after the test."""
    folder = trained.parent / "data" / "inbox" / "new"
    small_images(folder, 6, 11)
    yield folder
    shutil.rmtree(folder)


class Diverging(LinearAutoencoder):
    """A network whose reconstructions are no numbers any more."""

    def decode(self, codes: Tensor) -> Tensor:
        return super().decode(codes) * torch.nan


def document(outcome: Outcome) -> Any:
    """The one JSON document on standard output; fails on anything beside it, and on NaN, which is no JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(outcome.out, parse_constant=refuse)


def with_sections(path: Path, folder: Path, **sections: Any) -> Path:
    """Another pipelines.yaml on the same images and stores, with other sections."""
    entry = yaml.safe_load(path.read_text())["pipelines"]["tiles"]
    data = path.parent / "data"
    entry["data"] = {"nominal": str(data / "nominal"), "inbox": str(data / "inbox")}
    merged = {
        key: {**entry.get(key, {}), **value} if isinstance(value, dict) else value for key, value in sections.items()
    }
    written = folder / "other.yaml"
    text = {"workspace": str(path.parent / ".reconwatch"), "pipelines": {"tiles": entry | merged}}
    written.write_text(yaml.safe_dump(text))
    return written


class TestHelp:
    """Help teaches."""

    @pytest.mark.parametrize("verb", VERBS)
    def test_every_verb_explains_itself(self, call: Call, verb: str) -> None:
        """--help shows the verb's usage and ends well."""
        outcome = call(verb, "--help")
        assert outcome.code == 0
        assert f" {verb} [OPTIONS]" in outcome.out

    @pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "demo"])
    def test_every_verb_takes_a_configuration(self, call: Call, verb: str) -> None:
        """--config stands after every verb that reads one."""
        assert "--config" in call(verb, "--help").out

    def test_the_command_lists_its_verbs(self, call: Call) -> None:
        """Help of the whole lists every verb and the exit codes."""
        outcome = call("--help")
        assert all(verb in outcome.out for verb in VERBS)
        assert "2 your input is wrong" in " ".join(outcome.out.split())


class TestWrongInput:
    """What the user gave wrong is one sentence on standard error, and exit code 2."""

    @pytest.mark.parametrize("verb", [["check"], ["train", "tiles"], ["run"], ["status"], ["score", "tiles"]])
    def test_an_absent_configuration(self, call: Call, verb: list[str]) -> None:
        """Every verb says where it looked."""
        outcome = call(*verb)
        assert (outcome.code, outcome.out) == (2, "")
        assert "pipelines.yaml" in outcome.sentence

    def test_a_configuration_with_faults(self, call: Call, tmp_path: Path) -> None:
        """Every fault of the file comes at once, each with its line."""
        (tmp_path / "pipelines.yaml").write_text(
            "pipelines:\n  tiles:\n    data: {nominal: a, inbux: b}\n    modl: x\n"
        )
        outcome = call("run")
        assert outcome.code == 2
        assert "2 faults" in outcome.sentence
        assert "line 3" in outcome.err
        assert "line 4" in outcome.err

    @pytest.mark.parametrize("verb", ["train", "calibrate", "score", "run", "check"])
    def test_an_unknown_pipeline(self, call: Call, trained: Path, verb: str) -> None:
        """The nearest name and all there are."""
        outcome = call(verb, "tilse", "--config", trained)
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.sentence.startswith(f"no pipeline 'tilse' in {trained}")
        assert "did you mean 'tiles'" in outcome.sentence
        assert "it has: tiles" in outcome.sentence

    def test_an_unknown_option(self, call: Call) -> None:
        """A misspelt option is wrong input too."""
        outcome = call("run", "--josn")
        assert outcome.code == 2
        assert "--josn" in outcome.err

    def test_scoring_before_training(self, call: Call, project: Project, tmp_path: Path) -> None:
        """Without a champion the sentence says what makes one."""
        path = project(tmp_path / "project")
        outcome = call("score", "tiles", "--config", path)
        assert outcome.code == 2
        assert outcome.sentence == (
            "pipeline 'tiles' has no champion yet: run 'reconwatch train tiles' and then 'reconwatch calibrate tiles', "
            "or 'reconwatch run tiles' for all of it"
        )

    def test_calibrating_before_training(self, call: Call, project: Project, tmp_path: Path) -> None:
        """Without a detector the sentence says what makes one."""
        outcome = call("calibrate", "tiles", "--config", project(tmp_path / "project"))
        assert outcome.code == 2
        assert outcome.sentence == "pipeline 'tiles' has no trained detector yet: run 'reconwatch train tiles'"

    def test_too_few_nominal_images(self, call: Call, trained: Path, tmp_path: Path) -> None:
        """Before any training, the lowest rate that so many images allow, and how many the wished one needs."""
        path = with_sections(trained, tmp_path, threshold={"false_alarm_rate": 0.01})
        outcome = call("train", "tiles", "--config", path)
        assert outcome.code == 2
        assert outcome.sentence == (
            "pipeline 'tiles' has 60 readable nominal images, and a false-alarm rate of 0.01 needs 99 images for "
            "calibration alone and as many again to learn from: set threshold.false_alarm_rate to 0.033 or more, or "
            "give at least 198 nominal images"
        )
        assert "Training tiles:" not in outcome.err

    def test_a_threshold_from_labels_without_labels(self, call: Call, trained: Path, tmp_path: Path) -> None:
        """The method, what it needs, and the one that needs none."""
        path = with_sections(trained, tmp_path, threshold=None)
        text = path.read_text().replace("threshold: null", "threshold: {method: recall, target: 0.9}")
        path.write_text(text)
        outcome = call("calibrate", "tiles", "--config", path)
        assert outcome.code == 2
        assert "method 'recall' needs labelled images: add data.labelled" in outcome.err

    def test_flat_images(self, call: Call, project: Project, tmp_path: Path) -> None:
        """Images of one flat colour teach nothing, and are said."""
        path = project(tmp_path / "project")
        for image in (path.parent / "data" / "nominal").iterdir():
            Image.new("L", (16, 16), 90).save(image)
        outcome = call("train", "tiles", "--config", path)
        assert outcome.code == 2
        assert outcome.sentence == "all 60 nominal images are one flat colour: check data.nominal"

    def test_an_image_size_that_the_network_cannot_take(self, call: Call, trained: Path, tmp_path: Path) -> None:
        """Said by check and train alike, before any training."""
        sections = {"model": {"network": "convolutional", "widths": [4] * 6}, "data": {"size": [8, 8]}}
        path = with_sections(trained, tmp_path, **sections)
        checked = call("check", "--config", path, "--json")
        wrong = [finding["sentence"] for finding in document(checked) if finding["state"] == "wrong"]
        trained_outcome = call("train", "tiles", "--config", path)
        assert (checked.code, trained_outcome.code) == (2, 2)
        assert wrong == [trained_outcome.sentence]

    def test_output_without_paths(self, call: Call, trained: Path, tmp_path: Path) -> None:
        """--output is for paths that are named."""
        outcome = call("score", "tiles", "--config", trained, "--output", tmp_path / "scores.parquet")
        assert outcome.code == 2
        assert outcome.sentence == "--output needs PATHs: name the folders or images whose scores to write"

    def test_a_missing_path(self, call: Call, trained: Path, tmp_path: Path) -> None:
        """Every path that is not there is named, and nothing is scored."""
        outcome = call("score", "tiles", tmp_path / "absent", "--config", trained)
        assert outcome.code == 2
        assert outcome.sentence == f"there is no {tmp_path}/absent: give folders or image files that exist"


class TestFailures:
    """What failed without being the user's fault is one sentence too, and exit code 1."""

    def test_a_dead_tracking_server(self, call: Call, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The server's address, that it does not answer, and the two ways out."""
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
        outcome = call("run", "--config", trained)
        assert outcome.code == 1
        assert "the MLflow server http://127.0.0.1:9 does not answer (" in outcome.sentence
        assert "start it, or unset MLFLOW_TRACKING_URI to use the workspace's own store" in outcome.sentence
        assert "secret" not in outcome.err

    def test_a_dead_tracking_server_is_a_finding(
        self, call: Call, trained: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """check goes on without the store."""
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        outcome = call("check", "--config", trained, "--json")
        assert outcome.code == 2
        states = {finding["what"]: finding["state"] for finding in document(outcome)}
        assert states["MLflow"] == "wrong"
        assert states["tiles nominal"] == "ok"

    def test_a_dead_prefect_server(self, call: Call, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The work is done without it, and that is said in one sentence."""
        monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
        outcome = call("score", "tiles", "--config", trained)
        assert outcome.code == 0
        (said,) = [line for line in outcome.err.splitlines() if "Prefect" in line]
        assert said.startswith(
            "Prefect records nothing of this: the server at http://127.0.0.1:9/api does not answer ("
        )

    def test_an_empty_folder(self, call: Call, trained: Path, tmp_path: Path) -> None:
        """A folder named by hand must hold an image."""
        (tmp_path / "empty").mkdir()
        outcome = call("score", "tiles", tmp_path / "empty", "--config", trained)
        assert outcome.code == 1
        assert outcome.sentence == (
            "batch empty: batch 'empty' holds no image: put images into it or remove it; "
            "it is tried again by the next run"
        )

    def test_a_loss_that_is_no_number(
        self, call: Call, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Training stops at once, the sentence names the setting to change, and the champion stays."""
        monkeypatch.setitem(NETWORKS, "linear", Diverging)
        path = with_sections(trained, tmp_path, training={"learning_rate": 0.5})
        outcome = call("train", "tiles", "--config", path)
        assert outcome.code == 2
        assert outcome.sentence == (
            "the loss became nan in epoch 1: set training.learning_rate below 0.5 (a tenth of it is a good next try)"
        )
        assert call("status", "--config", trained, "--json").out.count('"state": "ready"') == 1

    def test_a_wrong_file_is_said_at_once(self, tmp_path: Path) -> None:
        """No verb imports what takes seconds before the configuration is found to be right."""
        script = "import sys\nfrom flows.cli import main\ntry:\n    main()\nfinally:\n    print('torch' in sys.modules)"
        for verb in (["check"], ["status"], ["train", "tiles"], ["score", "tiles"], ["run"]):
            command = [sys.executable, "-c", script, *verb, "--config", str(tmp_path / "absent.yaml")]
            done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
            assert (done.returncode, done.stdout) == (2, "False\n")
            assert done.stderr.startswith("Error: ")
            assert "Traceback" not in done.stderr


class TestReports:
    """What a verb reports goes to standard output, as a table or as JSON; all else goes to standard error."""

    def test_check(self, call: Call, trained: Path) -> None:
        """Configuration, stores and data are looked at; a pipeline that is well has no wrong finding."""
        outcome = call("check", "tiles", "--config", trained, "--json")
        findings = {finding["what"]: (finding["state"], finding["sentence"]) for finding in document(outcome)}
        assert outcome.code == 0
        assert findings["tiles nominal"] == ("ok", "60 images, seen as 16 x 16 x 1")
        assert findings["tiles inbox"] == ("ok", "3 batches, 60 images")
        assert findings["tiles champion"][0] == "ok"
        assert findings["Prefect"][0] == "note"

    def test_check_finds_what_is_wrong(self, call: Call, trained: Path, tmp_path: Path) -> None:
        """Each wrong part has its finding, and the exit code says that there is one."""
        path = with_sections(trained, tmp_path, data={"nominal": "nowhere", "inbox": "neither"})
        outcome = call("check", "--config", path)
        assert outcome.code == 2
        assert "there is no folder" in outcome.out
        assert "is no folder: make it, or correct data.inbox" in " ".join(outcome.out.split())

    def test_status(self, call: Call, trained: Path) -> None:
        """The champion, the last batches and the open incidents."""
        outcome = call("status", "--config", trained, "--json")
        (state,) = document(outcome)
        assert outcome.code == 0
        assert (state["name"], state["alerts_waiting"]) == ("tiles", 0)
        assert [incident.split()[1] for incident in state["open_incidents"]] == ["unreadable", "defects"]
        table = call("status", "--config", trained)
        assert "2-damaged" in table.out

    def test_status_says_how_many_alarms_were_false(self, call: Call, trained: Path) -> None:
        """As people called them so, beside the rate that was asked for."""
        incidents = [each["number"] for each in document(call("alert", "list", "--json", "--config", trained))]
        (_, first) = incidents
        assert call("alert", "close", first, "--false-alarm", "--config", trained).code == 0
        said = "tiles: false alarms, as people say: 50% (1 of 2; 95% interval 1.26% to 98.7%), where 1% of nominal "
        try:
            assert f"{said}batches may." in call("status", "--config", trained).out
        finally:
            call("alert", "close", first, "--true-alarm", "--config", trained)
        assert "false alarms" not in call("status", "--config", trained).out

    def test_status_before_training(self, call: Call, project: Project, tmp_path: Path) -> None:
        """A new pipeline is said to be new."""
        (state,) = document(call("status", "--json", "--config", project(tmp_path / "project")))
        assert (state["state"], state["champion"], state["batches"]) == ("not trained yet", None, 0)

    def test_train_and_calibrate(self, call: Call, trained: Path) -> None:
        """Each reports what came out, and where it is seen; calibrating makes the new detector the champion."""
        training = document(call("train", "tiles", "--config", trained, "--json"))
        assert training["n_training"] + training["n_validation"] + training["n_calibration"] == 60
        assert training["run_id"] in training["run_url"]
        (state,) = document(call("status", "--config", trained, "--json"))
        assert state["state"] == "a newer detector waits for calibration"
        calibration = document(call("calibrate", "tiles", "--config", trained, "--json"))
        (state,) = document(call("status", "--config", trained, "--json"))
        assert state["champion"] == calibration["version"]

    def test_run_with_nothing_due(self, call: Call, trained: Path) -> None:
        """A second run finds nothing to do, and says so."""
        assert document(call("run", "--config", trained, "--json"))[0]["batches"] == []
        assert "No batch is due." in call("run", "--config", trained).out

    def test_score_the_inbox(self, call: Call, trained: Path, inbox_of_one: Path) -> None:
        """What is new in the inbox is scored, and nothing else."""
        (report,) = document(call("score", "tiles", "--config", trained, "--json"))
        assert (report["batch"], report["outcome"], report["verdict"]["scored"]) == ("new", "scored", 6)

    def test_the_configuration_may_stand_before_the_verb(self, call: Call, trained: Path) -> None:
        """--config is taken on either side of the verb."""
        before, after = call("--config", trained, "status"), call("status", "--config", trained)
        assert (before.code, before.out) == (0, after.out)

    def test_the_default_configuration(self, call: Call, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without --config it is pipelines.yaml here."""
        monkeypatch.chdir(trained.parent)
        assert call("status").code == 0


class TestAlarms:
    """--fail-on-alarm turns an alarm into exit code 3."""

    @pytest.fixture
    def damaged(self, trained: Path, tmp_path: Path) -> Path:
        """A damaged batch that nobody has scored yet."""
        shutil.copytree(trained.parent / "data" / "inbox" / "2-damaged", tmp_path / "damaged")
        return tmp_path / "damaged"

    def test_an_alarm_is_no_failure_unless_asked(self, call: Call, trained: Path, damaged: Path) -> None:
        """Without the option an alarmed batch ends with 0, and is said."""
        Image.new("L", (16, 16), 1).save(damaged / "one-more.png")
        outcome = call("score", "tiles", damaged, "--config", trained)
        assert outcome.code == 0
        assert "ALARM damaged: 10 of 21 images are flagged" in outcome.out or "ALARM damaged: 11 of 21" in outcome.out

    def test_an_alarm_fails_when_asked(self, call: Call, trained: Path, damaged: Path) -> None:
        """With it, 3."""
        assert call("score", "tiles", damaged, "--config", trained, "--fail-on-alarm").code == 3

    def test_a_nominal_batch_does_not(
        self, call: Call, trained: Path, tmp_path: Path, small_images: SmallImages
    ) -> None:
        """A batch without an alarm ends with 0 either way."""
        small_images(tmp_path / "fine", 6, 5)
        assert call("score", "tiles", tmp_path / "fine", "--config", trained, "--fail-on-alarm").code == 0

    def test_a_batch_without_a_readable_image_alarms(self, call: Call, trained: Path, tmp_path: Path) -> None:
        """Nothing readable is the worst of news, and not a failure."""
        (tmp_path / "dark").mkdir()
        (tmp_path / "dark" / "a.png").write_bytes(b"")
        outcome = call("score", "tiles", tmp_path / "dark", "--config", trained, "--json")
        (report,) = document(outcome)
        assert outcome.code == 0
        assert (report["verdict"]["scored"], report["verdict"]["diagnosis"]) == (0, "unreadable")


class TestOutput:
    """`score NAME PATH... --output FILE.parquet` writes one row an image."""

    @pytest.fixture
    def paths(self, tmp_path: Path, small_images: SmallImages) -> list[Path]:
        """A folder with a damaged image and an unreadable one, and a file beside it; each test's has its own name."""
        folder = tmp_path / f"lot of {tmp_path.name}"
        small_images(folder, 4, 21)
        Image.fromarray(np.eye(16, dtype=np.uint8) * 255).save(folder / "image-001.png")
        (folder / "image-002.png").write_bytes(b"no image")
        (single,) = small_images(tmp_path / "more", 1, 22)
        return [folder, single]

    def test_its_columns(self, call: Call, trained: Path, tmp_path: Path, paths: Sequence[Path]) -> None:
        """The names and types that the README promises, and no other."""
        output = tmp_path / "deep" / "scores.parquet"
        assert call("score", "tiles", *paths, "--output", output, "--config", trained).code == 0
        schema = pq.read_schema(output)
        types = {field.name: str(field.type).removeprefix("large_") for field in schema}
        assert types == {
            "uri": "string",
            "score": "double",
            "p_value": "double",
            "flagged": "bool",
            "status": "string",
            "reason": "string",
            "review": "bool",
            "audit": "bool",
        }

    def test_its_rows(self, call: Call, trained: Path, tmp_path: Path, paths: Sequence[Path]) -> None:
        """Every image is a row in the order given; an unreadable one is flagged, has no score, and says why."""
        output = tmp_path / "scores.parquet"
        call("score", "tiles", *paths, "--output", output, "--config", trained)
        table = pd.read_parquet(output)
        expected = [str(path) for path in sorted(paths[0].iterdir())] + [str(paths[1])]
        assert table["uri"].tolist() == expected
        assert table["status"].tolist() == ["scored", "scored", "unreadable", "scored", "scored"]
        assert table["flagged"].tolist() == [False, True, True, False, False]
        assert table["score"].isna().tolist() == table["p_value"].isna().tolist() == [False, False, True, False, False]
        assert table["reason"].tolist()[0] == ""
        assert "image" in table["reason"].tolist()[2]

    def test_a_second_call_gives_the_same(
        self, call: Call, trained: Path, tmp_path: Path, paths: Sequence[Path]
    ) -> None:
        """The same rows, and nothing is recorded twice."""
        outputs = [tmp_path / "first.parquet", tmp_path / "second.parquet"]
        first = document(call("score", "tiles", *paths, "-o", outputs[0], "--record", "--config", trained, "--json"))
        (before,) = document(call("status", "--config", trained, "--json"))
        second = document(call("score", "tiles", *paths, "-o", outputs[1], "--record", "--config", trained, "--json"))
        (after,) = document(call("status", "--config", trained, "--json"))
        assert [report["outcome"] for report in first + second] == ["scored", "scored", "known", "known"]
        assert [report["run_id"] for report in first] == [report["run_id"] for report in second]
        assert before == after
        assert outputs[0].read_bytes() == outputs[1].read_bytes()

    def test_folders_of_one_name(self, call: Call, trained: Path, tmp_path: Path, small_images: SmallImages) -> None:
        """Each keeps its own rows."""
        images = small_images(tmp_path / "line-1" / "new", 2, 31) + small_images(tmp_path / "line-2" / "new", 2, 32)
        output = tmp_path / "scores.parquet"
        folders = [tmp_path / line / "new" for line in ("line-1", "line-2")]
        call("score", "tiles", *folders, "-o", output, "--config", trained)
        assert pd.read_parquet(output)["uri"].tolist() == [str(path) for path in images]

    def test_an_undecodable_name(self, call: Call, trained: Path, tmp_path: Path, small_images: SmallImages) -> None:
        """A file name that is no UTF-8 stops no batch, and is written out in its row."""
        (path,) = small_images(tmp_path / "old", 1, 41)
        path.rename(path.with_name("caf\udce9.png"))
        output = tmp_path / "scores.parquet"
        assert call("score", "tiles", tmp_path / "old", "-o", output, "--config", trained).code == 0
        assert pd.read_parquet(output)["uri"].tolist() == [f"{tmp_path}/old/caf\\xe9.png"]

    def test_an_empty_folder_writes_nothing(self, call: Call, trained: Path, tmp_path: Path) -> None:
        """Where there is no image at all, no file appears."""
        (tmp_path / "empty").mkdir()
        output = tmp_path / "scores.parquet"
        outcome = call("score", "tiles", tmp_path / "empty", "-o", output, "--config", trained)
        assert outcome.code != 0
        assert not output.exists()


class TestInit:
    """`init` writes a pipelines.yaml that works for what lies in a folder."""

    def written(self, tmp_path: Path) -> Any:
        return yaml.safe_load((tmp_path / "pipelines.yaml").read_text(encoding="utf-8"))["pipelines"]

    def test_a_folder_of_images(self, call: Call, tmp_path: Path, small_images: SmallImages) -> None:
        """The folder is the nominal images; the inbox is made beside pipelines.yaml; what it wrote is valid."""
        small_images(tmp_path / "tiles", 40, 0)
        outcome = call("init", "tiles")
        assert outcome.code == 0
        assert self.written(tmp_path) == {
            "tiles": {
                "data": {"nominal": "tiles", "inbox": "inbox"},
                "threshold": {"false_alarm_rate": 0.05},
            }
        }
        assert outcome.out.strip() == (tmp_path / "pipelines.yaml").read_text().strip()
        assert "40 images allow a false-alarm rate of 0.05; 200 would allow 0.01." in outcome.err
        assert (tmp_path / "inbox").is_dir()
        assert (tmp_path / ".reconwatch" / "pipelines.schema.json").is_file()

    def test_nominal_and_inbox(self, call: Call, tmp_path: Path, small_images: SmallImages) -> None:
        """Folders of those names are taken as what they say."""
        small_images(tmp_path / "my data" / "nominal", 20, 0)
        small_images(tmp_path / "my data" / "inbox" / "lot-1", 3, 1)
        assert call("init", "my data").code == 0
        (name,) = self.written(tmp_path)
        assert name == "my-data"
        assert self.written(tmp_path)[name]["data"] == {"nominal": "my data/nominal", "inbox": "my data/inbox"}

    def test_the_layout_of_mvtec(self, call: Call, tmp_path: Path, small_images: SmallImages) -> None:
        """train/good is learnt from, test is reported on."""
        for part in ("train/good", "test/good", "test/crack"):
            small_images(tmp_path / "bottle" / part, 18, 0)
        call("init", "bottle")
        assert self.written(tmp_path)["bottle"]["data"] == {
            "nominal": "bottle/train/good",
            "inbox": "bottle/inbox",
            "labelled": "bottle/test",
        }

    def test_an_inbox_inside_the_images_is_not_learnt_from(
        self, call: Call, tmp_path: Path, small_images: SmallImages
    ) -> None:
        """Where batches lie below the nominal images, only the files beside them are nominal."""
        small_images(tmp_path, 20, 0)
        small_images(tmp_path / "inbox" / "lot-1", 3, 1)
        outcome = call("init", ".", "--name", "tiles")
        assert outcome.code == 0
        assert self.written(tmp_path)["tiles"]["data"] == {"nominal": "./*", "inbox": "inbox"}
        assert "20 nominal images" in outcome.err

    def test_a_folder_with_wildcards_in_its_name(self, call: Call, tmp_path: Path, small_images: SmallImages) -> None:
        """Brackets in a name stay part of it."""
        small_images(tmp_path / "tiles [new]", 20, 0)
        call("init", "tiles [new]")
        settings = load(tmp_path / "pipelines.yaml", {})
        assert len(nominal_items(settings.pipeline("tiles-new").data).items) == 20

    def test_too_few_images(self, call: Call, tmp_path: Path, small_images: SmallImages) -> None:
        """Too little to learn from is said, and nothing is written."""
        small_images(tmp_path / "tiles", 5, 0)
        outcome = call("init", "tiles")
        assert outcome.code == 2
        assert outcome.sentence == (
            "5 images in tiles are too few to learn from and to calibrate on: give at least 18, better 200"
        )
        assert [path.name for path in tmp_path.iterdir()] == ["tiles"]

    def test_no_images(self, call: Call, tmp_path: Path) -> None:
        """Documents are no images."""
        (tmp_path / "tiles").mkdir()
        (tmp_path / "tiles" / "readme.txt").write_text("none yet")
        outcome = call("init", "tiles")
        assert outcome.code == 2
        assert outcome.sentence == "there is no image in tiles: put nominal images into tiles/nominal"

    def test_an_absent_folder(self, call: Call) -> None:
        """A folder that is not there is said."""
        outcome = call("init", "absent")
        assert (outcome.code, outcome.sentence) == (
            2,
            "there is no folder absent: name one with nominal images in it",
        )

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("mine", "pipelines.yaml is there already, and is no pipelines.yaml to add to"),
            ("pipelines:\n  tiles: {data: {nominal: a}}\n", "pipelines.yaml has a pipeline 'tiles' already"),
            ("pipelines:\n  a: {data: {nominal: a}}\nworkspace: w\n", "its pipelines are not the last part of it"),
        ],
    )
    def test_an_existing_file_that_cannot_be_added_to_is_kept(
        self, call: Call, tmp_path: Path, small_images: SmallImages, text: str, sentence: str
    ) -> None:
        """Nothing is ever overwritten."""
        small_images(tmp_path / "tiles", 20, 0)
        (tmp_path / "pipelines.yaml").write_text(text)
        outcome = call("init", "tiles")
        assert outcome.code == 2
        assert sentence in outcome.sentence
        assert (tmp_path / "pipelines.yaml").read_text() == text

    def test_an_existing_file_is_added_to(self, call: Call, tmp_path: Path, small_images: SmallImages) -> None:
        """The second pipeline stands below the first, whose lines, comments included, stay as they were."""
        text = "# mine\npipelines:\n  first:\n    data:\n      nominal: a  # the good ones\n"
        small_images(tmp_path / "tiles", 20, 0)
        (tmp_path / "pipelines.yaml").write_text(text)
        assert call("init", "tiles").code == 0
        assert (tmp_path / "pipelines.yaml").read_text().startswith(text)
        assert list(load(tmp_path / "pipelines.yaml", {}).pipelines) == ["first", "tiles"]

    def test_a_name_that_no_pipeline_can_have(self, call: Call, tmp_path: Path, small_images: SmallImages) -> None:
        """A wrong --name is said before anything is written."""
        small_images(tmp_path / "tiles", 20, 0)
        outcome = call("init", "tiles", "--name", "my tiles!")
        assert outcome.code == 2
        assert "'my tiles!' is not a name: up to 63 letters" in outcome.sentence
        assert not (tmp_path / "pipelines.yaml").exists()

    def test_what_it_wrote_runs(self, call: Call, tmp_path: Path, small_images: SmallImages, empty_store: Path) -> None:
        """From a folder to a scored batch in two commands."""
        small_images(tmp_path / "tiles" / "nominal", 20, 0)
        small_images(tmp_path / "tiles" / "inbox" / "lot-1", 3, 1)
        call("init", "tiles")
        shutil.copy(empty_store, tmp_path / ".reconwatch")
        outcome = call("run", "--json")
        (report,) = document(outcome)
        assert (outcome.code, report["failure"]) == (0, "")
        assert [batch["outcome"] for batch in report["batches"]] == ["scored"]


class TestDashboard:
    """`ui` says what it cannot show."""

    def test_before_anything_was_recorded(self, call: Call, tmp_path: Path) -> None:
        """Without a store there is nothing to show."""
        (tmp_path / "pipelines.yaml").write_text("pipelines: {tiles: {data: {nominal: images}}}")
        outcome = call("ui")
        assert outcome.code == 2
        assert outcome.sentence == (
            f"there is nothing to show in {tmp_path}/.reconwatch yet: run 'reconwatch run' first"
        )

    def test_with_a_server_of_its_own(self, call: Call, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A tracking server shows itself."""
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        outcome = call("ui", "--config", trained)
        assert outcome.code == 2
        assert outcome.sentence == (
            "MLFLOW_TRACKING_URI names a server, and its dashboard is there already: open http://127.0.0.1:9"
        )
