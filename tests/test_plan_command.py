"""`reconwatch plan` says what a wish takes; training and calibration say where a pipeline stands against it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from flows.config import load
from flows.planning import Wishes, plan_of, standing

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(mlflow|sqlalchemy).*")

Project = Callable[..., Path]
Call = Callable[..., tuple[int, str, str]]
IMPOSSIBLE = "Batches of 20 with 5% defects cannot be noticed with a chance of 80%, however many images calibrate; "


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    """Runs `reconwatch ARGUMENTS` from an empty folder: exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str | Path) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        code = left.value.code
        return (code if isinstance(code, int) else int(bool(code)), *capfd.readouterr())

    return command


@pytest.fixture(scope="module")
def trained(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose pipeline is trained and calibrated, without batches."""
    path = project(tmp_path_factory.mktemp("trained"), data={"nominal": "data/nominal"})
    for verb in ("train", "calibrate"):
        with pytest.raises(SystemExit, match="0"):
            main([verb, "tiles", "--config", str(path)])
    return path


def complaint(errors: str) -> str:
    """The one error that was said."""
    (line,) = [line for line in errors.splitlines() if line.startswith("Error: ")]
    return line


def test_a_plan_before_there_is_anything(call: Call) -> None:
    """Without a configuration: the images for the rate and for the power, and what they give."""
    code, out, _ = call("plan", "--batch-size", "1000", "--defect-rate", "0.02")
    assert code == 0
    assert out.startswith("A false-alarm rate of 1% takes 99 nominal calibration images.\nTo notice batches of 1,000")
    assert "│ 99 " in out


def test_a_plan_for_machines(call: Call) -> None:
    """The same numbers as JSON, and nothing else on standard output."""
    code, out, _ = call("plan", "--rate", "0.02", "--confidence", "0.9", "--defect-rate", "0.1", "--json")
    document: Any = json.loads(out)
    assert code == 0
    assert document["plan"]["wish"]["false_alarm_rate"] == 0.02
    assert document["plan"]["wish"]["confidence"] == 0.9
    powers = [at["power"] for at in document["powers"]]
    assert powers == sorted(powers)
    assert document["powers"][-1] == {
        "calibration_images": document["plan"]["images_for_power"],
        "power": document["plan"]["expected_power"],
    }


def test_an_impossible_wish_is_refused_with_the_nearest(call: Call) -> None:
    """Exit code 2, and what could be had instead: it can."""
    code, out, errors = call("plan", "--batch-size", "20", "--defect-rate", "0.05")
    assert (code, out) == (2, "")
    nearest = "the nearest that can be had: batches of 182, or defects from 24.4% on, or a power of 7.3%."
    assert complaint(errors) == f"Error: {IMPOSSIBLE}{nearest}"
    assert call("plan", "--batch-size", "182", "--defect-rate", "0.05")[0] == 0


def test_without_a_wished_defect_rate_it_is_one_that_can_be_noticed(call: Call) -> None:
    """Small batches show many defects only."""
    for size, rate in (("200", 0.05), ("20", 0.3)):
        code, out, _ = call("plan", "--batch-size", size, "--json")
        assert (code, json.loads(out)["plan"]["wish"]["smallest_defect_rate"]) == (0, rate)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--power", "2"], "The power is 2: give a number above 0 and below 1"),
        (["--batch-size", "0"], "The batch size is 0"),
        (["--rate", "0"], "The false-alarm rate is 0"),
        (["--detection-rate", "1.5"], "The detection rate is 1.5"),
    ],
)
def test_a_wish_that_is_none(call: Call, arguments: list[str], words: str) -> None:
    """One sentence, and exit code 2."""
    code, _, errors = call("plan", *arguments)
    assert code == 2
    assert words in complaint(errors)


def test_a_pipelines_own_settings(project: Project, tmp_path: Path) -> None:
    """Rates are those of its file, and batches are as large as those in its inbox."""
    path = project(tmp_path, monitor={"batch_false_alarm_rate": 0.02, "stream_false_alarm_rate": 0.1})
    pipeline = load(path, {}).pipeline("tiles")
    wish = plan_of(pipeline, Wishes(smallest_defect_rate=0.5)).wish
    assert (wish.false_alarm_rate, wish.batch_false_alarm_rate, wish.stream_false_alarm_rate) == (0.05, 0.02, 0.1)
    assert wish.batch_size == 20


def test_a_pipeline_without_an_inbox(project: Project, tmp_path: Path) -> None:
    """Batches are taken to be of 200 images."""
    path = project(tmp_path, data={"nominal": "data/nominal"})
    assert plan_of(load(path, {}).pipeline("tiles"), Wishes(smallest_defect_rate=0.5)).wish.batch_size == 200


def test_a_pipeline_that_is_calibrated(call: Call, trained: Path) -> None:
    """The plan says where it stands, and its row is marked."""
    code, out, _ = call("plan", "tiles", "--defect-rate", "0.3", "--config", trained)
    assert code == 0
    assert "Now: With 19 calibration images " in out
    (row,) = [line for line in out.splitlines() if line.startswith("│ 19 ")]
    assert "now" in row


def test_an_unknown_pipeline(call: Call, trained: Path) -> None:
    """As with every verb."""
    code, _, errors = call("plan", "tilse", "--config", trained)
    assert code == 2
    assert "did you mean 'tiles'" in complaint(errors)


def test_training_and_calibration_say_where_the_pipeline_stands(call: Call, trained: Path) -> None:
    """One line each: of the images set aside, and of those that were calibrated on."""
    for verb in ("calibrate", "train"):
        code, out, _ = call(verb, "tiles", "--config", trained)
        assert code == 0
        (line,) = [line for line in out.splitlines() if line.startswith("With 19 calibration images ")]
        assert "of batches of 200 with 10% defects raise an alarm" in line


def test_a_threshold_from_labels_has_no_such_line(project: Project, tmp_path: Path) -> None:
    """Its rate is not what it was asked for."""
    (tmp_path / "data" / "bad").mkdir(parents=True)
    path = project(
        tmp_path,
        data={"nominal": "data/nominal", "labelled": {"nominal": "data/nominal", "anomalous": "data/bad"}},
        threshold={"method": "recall", "target": 0.9},
    )
    assert standing(load(path, {}).pipeline("tiles"), 300) == ""
