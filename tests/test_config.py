"""pipelines.yaml: what it may say, what it means, and what its faults are called."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it has no types
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import flows.config
from ae_models.corruptions import CORRUPTIONS, build_corruption
from ae_models.errors import InputError
from ae_models.images import ImageSpec
from ae_models.networks import NETWORKS, build_network
from ae_models.scoring import ScoreDesign
from flows.config import (
    VOCABULARY,
    AutoConfig,
    ConformalThreshold,
    ConvolutionalConfig,
    DataConfig,
    LabelledCost,
    LabelledFalseAlarmRate,
    LabelledFolders,
    LabelledFScore,
    LabelledRecall,
    LinearConfig,
    LogChannel,
    ManifestSource,
    MonitorConfig,
    PathSource,
    PipelineConfig,
    Settings,
    TorchvisionSource,
    TrainingConfig,
    WebhookChannel,
    fingerprint,
    json_schema,
    load,
)
from flows.config_channels import CHANNELS
from flows.config_networks import GaussianConfig, ResNetConfig
from flows.config_runner import RUNNERS

SCHEMA_FILE = Path(flows.config.__file__).with_name("pipelines.schema.json")
SECRET = "https://hooks.example.com/T0P-S3CRET"

WHOLE = """
workspace: store
dashboard: https://mlflow.example.com/
pipelines:
  tiles:
    data:
      nominal: {manifest: tables/tiles.parquet, where: {label: good, side: [1, 2]}, root: images}
      inbox: inbox/*/new
      labelled: {nominal: ok, anomalous: {path: broken}}
      nominal_labels: [fine]
      group: part_(\\d+)
      size: [96, 128]
      channels: 1
    model: {network: convolutional, widths: [16, 32], convolutions: 2, decoder: transposed, code_channels: 8}
    training: {epochs: 5, learning_rate: 1e-2, device: cuda:1, seed: 7}
    threshold: {method: f_score, beta: 2}
    monitor: {batch_false_alarm_rate: 0.05, unreadable_rate: 0}
    alerts: [log, {type: webhook, name: shift-lead, url: "${HOOK}"}, {type: webhook, block: line-one}]
  digits:
    data:
      nominal: {torchvision: MNIST, root: "${DATA:-torch}", train: true, classes: [0, 1], limit: "${LIMIT}"}
      inbox: {torchvision: SVHN, root: torch, split: test, batch_size: 100}
    model: linear
    threshold: {confidence: 0.9}
"""
ENVIRONMENT = {"HOOK": SECRET, "LIMIT": "300"}

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A function that writes a pipelines.yaml and gives its path."""

    def to_file(text: str) -> Path:
        path = tmp_path / "pipelines.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return to_file


def pipeline(body: str) -> str:
    """The text of a file with one pipeline, tiles: a nominal folder (lines 3-4), then `body` from line 5 on."""
    return f"pipelines:\n  tiles:\n    data:\n      nominal: images\n{body}"


def faults(path: Path, environment: Mapping[str, str] | None = None) -> list[str]:
    """The lines of the message, after its first."""
    with pytest.raises(InputError) as caught:
        load(path, environment or {})
    return str(caught.value).splitlines()[1:]


def sentence(path: Path) -> str:
    """The message, which must be one line."""
    with pytest.raises(InputError) as caught:
        load(path, {})
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- what a file means


def test_a_nominal_folder_is_a_whole_pipeline(write: Write, tmp_path: Path) -> None:
    """Everything but data.nominal has a default."""
    settings = load(write(pipeline("")), {})
    assert settings == Settings(
        path=tmp_path / "pipelines.yaml",
        workspace=tmp_path / ".reconwatch",
        dashboard="http://127.0.0.1:5000",
        pipelines={
            "tiles": PipelineConfig(
                name="tiles",
                data=DataConfig(nominal=PathSource(path=tmp_path / "images")),
                model=AutoConfig(),
                training=TrainingConfig(),
                threshold=ConformalThreshold(false_alarm_rate=0.01),
                monitor=MonitorConfig(),
                alerts=(LogChannel(),),
            )
        },
    )


def test_every_key_reaches_its_model(write: Write, tmp_path: Path) -> None:
    """A file that uses every section means what it says."""
    settings = load(write(WHOLE), ENVIRONMENT)
    tiles, digits = settings.pipelines.values()
    assert (settings.workspace, settings.dashboard) == (tmp_path / "store", "https://mlflow.example.com")
    assert tiles.data == DataConfig(
        nominal=ManifestSource(
            manifest=tmp_path / "tables/tiles.parquet",
            where={"label": ("good",), "side": (1, 2)},
            root=tmp_path / "images",
        ),
        inbox=PathSource(path=tmp_path / "inbox/*/new", glob=True),
        labelled=LabelledFolders(
            nominal=PathSource(path=tmp_path / "ok"), anomalous=PathSource(path=tmp_path / "broken")
        ),
        nominal_labels=("fine",),
        group=r"part_(\d+)",
        size=(96, 128),
        channels=1,
    )
    assert tiles.model == ConvolutionalConfig(widths=(16, 32), convolutions=2, decoder="transposed", code_channels=8)
    assert tiles.training == TrainingConfig(epochs=5, learning_rate=0.01, device="cuda:1", seed=7)
    assert tiles.threshold == LabelledFScore(beta=2)
    assert [channel.name for channel in tiles.alerts] == ["log", "shift-lead", "webhook"]
    assert digits.data.nominal == TorchvisionSource(
        torchvision="MNIST", root=tmp_path / "torch", train=True, classes=(0, 1), limit=300
    )
    assert digits.threshold == ConformalThreshold(confidence=0.9)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("{method: false_alarm_rate, target: 0.05}", LabelledFalseAlarmRate(target=0.05)),
        ("{method: recall, target: 0.95}", LabelledRecall(target=0.95)),
        ("{method: f_score}", LabelledFScore(beta=1)),
        ("{method: cost, miss: 50}", LabelledCost(false_alarm=1, miss=50)),
    ],
)
def test_labelled_threshold_methods(write: Write, written: str, expected: object) -> None:
    """Each method that uses labels is chosen by its name."""
    settings = load(write(pipeline(f"      labelled: labels.csv\n    threshold: {written}\n")), {})
    assert settings.pipeline("tiles").threshold == expected


@pytest.mark.parametrize(
    ("written", "kind"),
    [("a.csv", ManifestSource), ("b/c.PARQUET", ManifestSource), ("a", PathSource), ("a/*.png", PathSource)],
)
def test_a_text_is_a_manifest_by_its_ending_and_a_path_otherwise(write: Write, written: str, kind: type) -> None:
    """The shorthand for a source is one text."""
    settings = load(write(pipeline(f"      inbox: {written}\n")), {})
    assert isinstance(settings.pipeline("tiles").data.inbox, kind)


def test_settings_are_frozen(write: Write) -> None:
    """Nothing can be set after loading."""
    settings = load(write(pipeline("")), {})
    with pytest.raises(ValidationError, match="frozen"):
        settings.pipeline("tiles").training.epochs = 3


def test_an_unknown_pipeline_is_answered_with_the_nearest_and_all(write: Write, tmp_path: Path) -> None:
    """A misspelt name on the command line is easy to put right."""
    with pytest.raises(InputError) as caught:
        load(write(WHOLE), ENVIRONMENT).pipeline("tile")
    expected = f"no pipeline 'tile' in {tmp_path}/pipelines.yaml; did you mean 'tiles'? (it has: tiles, digits)"
    assert str(caught.value) == expected


def test_torchvision_arguments_are_those_that_were_given(tmp_path: Path) -> None:
    """A data set's class is called with train or split only where the file has it."""
    test_part = TorchvisionSource(torchvision="SVHN", root=tmp_path, split="test")
    assert test_part.arguments() == {"root": tmp_path, "split": "test"}
    assert TorchvisionSource(torchvision="MNIST", root=tmp_path).arguments() == {"root": tmp_path}


# --- paths


def test_paths_start_from_the_file_and_tilde_is_the_home_folder(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a command is run from does not matter, also where the file itself is named relative to there."""
    monkeypatch.setenv("HOME", "/home/me")
    file = write(pipeline("      inbox: ~/inbox\n      labelled: /data/labels.csv\n"))
    monkeypatch.chdir(file.parent.parent)
    settings = load(Path(tmp_path.name, "pipelines.yaml"), {})
    data = settings.pipeline("tiles").data
    assert settings.path == file
    assert data.nominal == PathSource(path=tmp_path / "images")
    assert data.inbox == PathSource(path=Path("/home/me/inbox"))
    assert data.labelled == ManifestSource(manifest=Path("/data/labels.csv"))


def test_brackets_in_the_files_own_folder_are_no_wildcards(tmp_path: Path) -> None:
    """Only what the file says can be a glob: the folder it lies in is taken literally."""
    folder = tmp_path / "line [2]"
    (folder / "in").mkdir(parents=True)
    (folder / "in/a.png").touch()
    file = folder / "pipelines.yaml"
    file.write_text(pipeline("      inbox: in/*.png\n"))
    data = load(file, {}).pipeline("tiles").data
    assert isinstance(data.inbox, PathSource)
    assert [str(match) for match in Path("/").glob(str(data.inbox.path)[1:])] == [str(folder / "in/a.png")]
    assert data.nominal == PathSource(path=folder / "images", glob=False)


def test_a_folder_with_a_bracket_in_its_name_can_be_named(write: Write, tmp_path: Path) -> None:
    """`glob: false` takes the path as it stands."""
    settings = load(write(pipeline('      inbox: {path: "in[1]", glob: false}\n')), {})
    assert settings.pipeline("tiles").data.inbox == PathSource(path=tmp_path / "in[1]", glob=False)


@pytest.mark.parametrize("written", ['""', '"a\\0b"', "${EMPTY}"])
def test_an_empty_path_is_a_fault(write: Write, written: str) -> None:
    """An empty variable must not make a pipeline learn from the file's own folder."""
    found = faults(write(pipeline(f"      inbox: {written}\n")), {"EMPTY": ""})
    assert found == ["line 5  pipelines.tiles.data.inbox: is not a path ('.' is the folder that the file is in)"]


# --- variables


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("${A}", "one"),
        ("x${A}${B}y", "xonetwoy"),
        ("${ABSENT:-three}", "three"),
        ("${EMPTY:-three}", "three"),
        ("${A:-three}", "one"),
        ("x${ABSENT:-}", "x"),
        ("$${A}", "${A}"),
        ("$A $ {A}", "$A $ {A}"),
        ("${COLON}", "a: [b, &c"),
        ("${NESTED}", "${A}"),
    ],
)
def test_variables_are_expanded_after_parsing(write: Write, written: str, expected: str) -> None:
    """A variable's value is text, whatever stands in it; it cannot add YAML or other variables."""
    environment = {"A": "one", "B": "two", "EMPTY": "", "COLON": "a: [b, &c", "NESTED": "${A}"}
    settings = load(write(pipeline(f"      nominal_labels: ['{written}']\n")), environment)
    assert settings.pipeline("tiles").data.nominal_labels == (expected,)


def test_numbers_truths_and_choices_can_be_variables(write: Write) -> None:
    """What a variable gives is text, and is read as the number it stands for."""
    body = (
        "      channels: ${N}\n      inbox: {torchvision: MNIST, root: d, train: '${T}'}\n"
        "    model: ${M}\n    training: {epochs: '${N}', learning_rate: '${R}'}\n"
    )
    tiles = load(write(pipeline(body)), {"N": "3", "T": "false", "M": "linear", "R": "1e-4"}).pipeline("tiles")
    assert isinstance(tiles.data.inbox, TorchvisionSource)
    assert (tiles.data.channels, tiles.data.inbox.train, tiles.model) == (3, False, LinearConfig())
    assert (tiles.training.epochs, tiles.training.learning_rate) == (3, 1e-4)


def test_keys_are_not_expanded(write: Write) -> None:
    """Only values hold variables."""
    found = faults(write("pipelines:\n  ${A}:\n    data: {nominal: a}\n"), {"A": "tiles"})
    assert found[0].startswith("line 2  pipelines.${A}: '${A}' is not a name")


@pytest.mark.parametrize(
    ("body", "key"),
    [("    training: {epochs: '${A}'}", "training.epochs"), ("    model: {network: '${A}'}", "model.network")],
)
def test_an_unset_variable_is_named_once(write: Write, body: str, key: str) -> None:
    """An unset variable is one fault: its value is not judged further."""
    expected = "the variable A is not set: export it, or give a default, ${A:-...}"
    assert faults(write(pipeline(body))) == [f"line 5  pipelines.tiles.{key}: {expected}"]


@pytest.mark.parametrize("written", ["${", "${a b}", "${1}", "${A:-${B}}", "${A"])
def test_a_broken_variable_is_a_fault(write: Write, written: str) -> None:
    """What looks like a variable and is none is not taken literally."""
    assert faults(write(pipeline(f"      inbox: '{written}'\n")), {"A": "a", "B": "b"}) == [
        "line 5  pipelines.tiles.data.inbox: '${' must be followed by NAME} or NAME:-default}; "
        "for the characters themselves write '$${'"
    ]


# --- every fault in one message


def test_all_faults_come_in_one_message_in_the_files_order(write: Write, tmp_path: Path) -> None:
    """Unknown and missing keys, wrong values, unset variables and cross-checks of all pipelines come at once."""
    file = write(
        """
pipelines:
  tiles:
    modle: linear
    data:
      inbox: ${DATA}/inbox
    training:
      epochs: many
      patience: 0
  cloth:
    data: {nominal: a}
    threshold:
      method: recall
      target: 0.9
colour: red
"""
    )
    with pytest.raises(InputError) as caught:
        load(file, {})
    assert str(caught.value) == (
        f"pipelines.yaml ({tmp_path}/pipelines.yaml): 7 faults\n"
        "line 4  pipelines.tiles.modle: unknown key; did you mean 'model'? "
        "(choices: alerts, data, engine, incidents, model, monitor, review, runner, schedule, threshold, training)\n"
        "line 5  pipelines.tiles.data.nominal: missing\n"
        "line 6  pipelines.tiles.data.inbox: the variable DATA is not set: export it, or give a default, ${DATA:-...}\n"
        "line 8  pipelines.tiles.training.epochs: 'many' is not a whole number\n"
        "line 9  pipelines.tiles.training.patience: 0 must be at least 1\n"
        "line 12  pipelines.cloth.threshold: method 'recall' needs labelled images: add data.labelled (a mapping with "
        "nominal and anomalous, or a manifest with a column label), or use method: conformal\n"
        "line 15  colour: unknown key (choices: dashboard, pipelines, schedule, workspace)"
    )


DATA_SETS = (
    "MNIST, FashionMNIST, KMNIST, EMNIST, QMNIST, CIFAR10, CIFAR100, SVHN, STL10, Flowers102, DTD, EuroSAT, GTSRB, "
    "Imagenette"
)
NO_SOURCE = "must be a path, or a mapping with one of these keys: path, url, manifest, table, torchvision"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        # numbers and texts
        ("    training: {epochs: 1.5}", "training.epochs: 1.5 is not a whole number"),
        ("    training: {epochs: yes}", "training.epochs: 'yes' is not a whole number"),
        ("    training: {epochs: true}", "training.epochs: true is not a number"),
        ("    training: {learning_rate: fast}", "training.learning_rate: 'fast' is not a number"),
        ("    training: {learning_rate: .nan}", "training.learning_rate: nan is not a finite number"),
        ("    training: {learning_rate: 0}", "training.learning_rate: 0 must be greater than 0"),
        ("    training: {validation_share: 1}", "training.validation_share: 1 must be less than 1"),
        (
            "    training: {validation_share: 0.5, calibration_share: 0.6}",
            "training.calibration_share: with validation_share it takes all images: together they must be less than 1",
        ),
        (
            "    training: {device: gpu}",
            "training.device: 'gpu' is not a device: auto, cpu, mps, cuda, or one GPU such as cuda:0",
        ),
        ("    monitor: {unreadable_rate: -1}", "monitor.unreadable_rate: -1 must be at least 0"),
        ("    monitor: {smallest_distance: 1}", "monitor.smallest_distance: 1 must be less than 1"),
        ("    monitor: {review_fdr: 0}", "monitor.review_fdr: 0 must be greater than 0"),
        ("    review: {audit: -1}", "review.audit: -1 must be at least 0"),
        ("    review: {audit: 2000}", "review.audit: 2000 must be at most 1000"),
        ("    monitor: {stream_run_length: 1}", "monitor.stream_run_length: 1 must be greater than 1"),
        ("    monitor: {batch_false_alarm_rate: 0.6}", "monitor.batch_false_alarm_rate: 0.6 must be at most 0.5"),
        ("      nominal_labels: [1]", "data.nominal_labels[0]: 1 is not text; put it in quotes"),
        ("      nominal_labels: []", "data.nominal_labels: needs at least 1, got 0"),
        ("      nominal_labels: good", "data.nominal_labels: 'good' is not a list"),
        ("      size: [128]", "data.size[1]: missing"),
        ("      size: [128, 4]", "data.size[1]: 4 must be at least 8"),
        ("      size: 128", "data.size: 128 is not a list"),
        ("      channels: 4", "data.channels: 4 is not one of the choices (choices: 1, 3)"),
        ("      channels: true", "data.channels: true is not a number"),
        (
            "      group: (a",
            "data.group: '(a' is neither a column's name nor a regular expression: "
            "missing ), unterminated subpattern at position 0",
        ),
        # mappings
        ("    training:", "training: is empty; write something below it, or delete the key"),
        ("    training: fast", "training: 'fast' is not a mapping (keys and their values)"),
        (
            "    monitor: {expect_batch_every: 2 hours}",
            "monitor.expect_batch_every: '2 hours' is not a time: "
            "write a whole number and its unit, such as 90s, 30min, 2h or 1d",
        ),
        (
            "    incidents: {cool_down: 5}",
            "incidents.cool_down: 5 is not a time: write a whole number and its unit, such as 90s, 30min, 2h or 1d",
        ),
        (
            "    incidents: {escalate_to: [boss]}",
            "incidents: escalate_to names 'boss', which is no channel under alerts (they are: log)",
        ),
        (
            "    monitor: {rate: 0.1}",
            "monitor.rate: unknown key (choices: batch_false_alarm_rate, expect_batch_every, expect_run_every, "
            "review_fdr, smallest_distance, stream_false_alarm_rate, stream_run_length, unreadable_rate)",
        ),
        (
            "    name: tiles",
            "name: unknown key (choices: alerts, data, engine, incidents, model, monitor, review, runner, schedule, "
            "threshold, training)",
        ),
        # choices of a model
        (
            "    model: lineer",
            "model: 'lineer' is not one of the choices; did you mean 'linear'? "
            "(choices: auto, linear, convolutional, resnet, variational, unet)",
        ),
        (
            "    model: {network: lineer}",
            "model.network: 'lineer' is not one of the choices; did you mean 'linear'? "
            "(choices: auto, linear, convolutional, resnet, variational, unet)",
        ),
        (
            "    model: {code_size: 8}",
            "model: has no key 'network' (choices: auto, linear, convolutional, resnet, variational, unet)",
        ),
        (
            "    model: 3",
            "model: 3 is not a mapping with the key 'network' "
            "(choices: auto, linear, convolutional, resnet, variational, unet)",
        ),
        (
            "    model: {network: linear, widths: [8]}",
            "model.widths: unknown key (choices: code_size, corruption, network, score)",
        ),
        (
            "    model: {network: convolutional, decoder: upsample}",
            "model.decoder: 'upsample' is not one of the choices; did you mean 'upsampling'? "
            "(choices: transposed, upsampling)",
        ),
        (
            "    model: {network: convolutional, widths: [8, 8, 8, 8, 8, 8, 8]}",
            "model.widths: takes at most 6, got 7",
        ),
        (
            "    model: {network: resnet, depth: 20}",
            "model.depth: 20 is not one of the choices (choices: 18, 34, 50)",
        ),
        (
            "    model: {network: linear, corruption: salt}",
            "model.corruption: 'salt' is not one of the choices "
            "(choices: none, gaussian, coarse, masks, synthetic_defects)",
        ),
        (
            "    model: {network: linear, corruption: {type: masks, deviation: 0.1}}",
            "model.corruption.deviation: unknown key (choices: count, shape, share, type)",
        ),
        (
            "    model: {network: unet, corruption: none}",
            "model.corruption: unet copies its input, defects included, unless it learns to restore it: "
            "choose one of gaussian, coarse, masks, synthetic_defects",
        ),
        (
            "      labelled: a\n    threshold: {method: f_score, f_score: 2}",
            "threshold.f_score: unknown key (choices: beta, method)",
        ),
        # sources
        ("      inbox: 5", f"data.inbox: {NO_SOURCE}"),
        ("      inbox: {}", f"data.inbox: {NO_SOURCE}"),
        ("      inbox: {path: 5}", "data.inbox.path: 5 is not a path"),
        (
            "      inbox: {manifest: a.csv, where: {n: {}}}",
            "data.inbox.where.n: must be a text, a number, true or false, or a list of them",
        ),
        (
            "      inbox: {manifest: a.csv, where: {n: [.inf]}}",
            "data.inbox.where.n: must be a text, a number, true or false, or a list of them",
        ),
        (
            "      inbox: {torchvision: MNST, root: d}",
            f"data.inbox.torchvision: 'MNST' is not one of the choices; did you mean 'MNIST'? (choices: {DATA_SETS})",
        ),
        (
            "      inbox: {torchvision: MNIST, root: d, split: test}",
            "data.inbox.split: MNIST has no split 'test': write train: true or train: false",
        ),
        (
            "      inbox: {torchvision: SVHN, root: d, train: false}",
            "data.inbox.train: SVHN has no train: write split (choices: train, test, extra)",
        ),
        (
            "      inbox: {torchvision: EuroSAT, root: d, train: false}",
            "data.inbox.train: EuroSAT has no train: it has one part only, so delete the key",
        ),
        (
            "      inbox: {torchvision: EMNIST, root: d}",
            "data.inbox: EMNIST needs a split: write split "
            "(choices: byclass, bymerge, balanced, letters, digits, mnist)",
        ),
        (
            "      inbox: {torchvision: CIFAR10, root: d, classes: [1.5]}",
            "data.inbox.classes: must be a list of class names or class numbers",
        ),
        ("      labelled: {nominal: a}", "data.labelled.anomalous: missing"),
        # alerts
        ("    alerts: log", "alerts: this is not a list"),
        (
            "    alerts: [mail]",
            "alerts[0]: this is not a mapping with the key 'type' "
            "(choices: log, webhook, slack, teams, email, pagerduty, apprise, prefect_event)",
        ),
        (
            "    alerts: [{type: webhook}]",
            "alerts[0]: needs either url or block (the name of a Custom Webhook block saved in Prefect), not both",
        ),
        (
            "    alerts: [{type: webhook, url: 'http://a', block: b}]",
            "alerts[0]: needs either url or block (the name of a Custom Webhook block saved in Prefect), not both",
        ),
        (
            "    alerts: [{type: webhook, url: 'ftp://a'}]",
            "alerts[0].url: must be a web address that starts with http:// or https://",
        ),
        (
            "    alerts: [{type: webhook, url: 'http://a', secret: short}]",
            "alerts[0].secret: must be whsec_ and 24 to 64 random bytes in base64: "
            "echo whsec_$(openssl rand -base64 32)",
        ),
        (
            "    alerts: [{type: webhook, block: a, secret: whsec_MDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAw}]",
            "alerts[0]: secret signs requests to url, and a block has its own form: leave one of them out",
        ),
        (
            "    alerts: [{type: slack}]",
            "alerts[0]: needs either url or block (the name of a Slack Webhook block saved in Prefect), not both",
        ),
        (
            "    alerts: [{type: teams, url: 'http://a', block: b}]",
            "alerts[0]: needs either url or block (the name of a Microsoft Teams Webhook block saved in Prefect), "
            "not both",
        ),
        (
            "    alerts: [{type: pagerduty}]",
            "alerts[0]: needs either routing_key or block (the name of a Pager Duty Webhook block saved in Prefect), "
            "not both",
        ),
        ("    alerts: [{type: apprise}]", "alerts[0].url: missing"),
        ("    alerts: [{type: email, host: h, to: a@b}]", "alerts[0].from: missing"),
        (
            "    alerts: [{type: email, host: h, from: a@b, to: [a@b, 'a@b, c@d']}]",
            "alerts[0].to[1]: this is not an e-mail address, such as night-shift@example.com",
        ),
        (
            "    alerts: [{type: email, host: 'a b', from: a@b, to: a@b}]",
            "alerts[0].host: this is not the name or address of a server, such as mail.example.com",
        ),
        ("    alerts: [{type: email, host: h, from: a@b, to: []}]", "alerts[0].to: needs at least 1, got 0"),
        (
            "    alerts: [{type: email, host: h, from: a@b, to: a@b, user: u}]",
            "alerts[0]: needs both user and password, or neither",
        ),
        (
            "    alerts: [{type: email, host: h, from: a@b, to: a@b, user: u, password: p, security: none}]",
            "alerts[0]: with security: none anybody could read the password on its way: use starttls or tls",
        ),
        (
            "    alerts: [{type: log, minimum_severity: bad}]",
            "alerts[0].minimum_severity: this is not one of the choices (choices: warning, critical)",
        ),
        (
            "    alerts: [{type: webhook, block: a}, {type: webhook, block: b}]",
            "alerts: two channels are named 'webhook': give each channel a name of its own",
        ),
        (
            "    alerts: [log, {type: webhook, block: a, name: log}]",
            "alerts: two channels are named 'log': give each channel a name of its own",
        ),
    ],
)  # fmt: skip
def test_a_fault_is_one_line_in_words(write: Write, body: str, expected: str) -> None:
    """Each kind of fault has its sentence; the path holds only keys that people wrote or should write."""
    line = 4 + len(body.splitlines())
    assert faults(write(pipeline(body))) == [f"line {line}  pipelines.tiles.{expected}"]


def test_a_misspelt_source_key_is_named(write: Write) -> None:
    """The kind of source is guessed from the nearest key, so the fault is about that key."""
    assert faults(write(pipeline("      inbox: {manifst: a.csv}"))) == [
        "line 5  pipelines.tiles.data.inbox.manifest: missing",
        "line 5  pipelines.tiles.data.inbox.manifst: unknown key; did you mean 'manifest'? "
        "(choices: batch, manifest, root, settled, where)",
    ]


def test_a_long_value_is_cut(write: Write) -> None:
    """One wrong value does not fill the screen."""
    (fault,) = faults(write(pipeline(f"    training: {{epochs: {'x' * 500}}}")))
    assert len(fault) < 160
    assert fault.endswith("xxx... is not a whole number")


@pytest.mark.parametrize(
    "alerts",
    [
        SECRET,
        f"[{SECRET}]",
        f"[{{type: {SECRET}}}]",
        f"[{{type: webhook, url: '{SECRET} x'}}]",
        f"[{{type: webhook, name: '{SECRET}', block: a}}]",
        f"[{{type: webhook, urll: '{SECRET}'}}]",
        f"[{{type: webhook, url: ['{SECRET}']}}]",
        f"[{{type: webhook, url: '{SECRET}', block: a}}]",
        f"[{{type: webhook, url: 'http://a', secret: '{SECRET}'}}]",
        f"[{{type: slack, url: '{SECRET}', block: a}}]",
        f"[{{type: email, host: '{SECRET}', from: '{SECRET}', to: '{SECRET}', port: '{SECRET}'}}]",
        f"[{{type: email, host: h, from: a@b, to: a@b, password: '{SECRET}'}}]",
        f"[{{type: pagerduty, routing_key: ['{SECRET}'], url: '{SECRET} x'}}]",
        f"[{{type: apprise, url: ['{SECRET}']}}]",
    ],
)
def test_a_secret_is_never_shown_in_a_fault(write: Write, alerts: str) -> None:
    """Wherever under alerts an address was written by mistake, the message does not repeat it."""
    found = faults(write(pipeline(f"    alerts: {alerts}")))
    assert found
    assert "S3CRET" not in "\n".join(found)


@pytest.mark.parametrize(
    ("channel", "key"),
    [
        ("type: webhook, url: 'http://a', secret: whsec_MDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAw", "secret"),
        ("type: slack, url: 'http://a'", "url"),
        ("type: teams, url: 'http://a'", "url"),
        ("type: email, host: h, from: a@b, to: a@b, user: u, password: p", "password"),
        ("type: pagerduty, routing_key: k", "routing_key"),
        ("type: apprise, url: 'json://a'", "url"),
    ],
)
def test_a_secret_in_the_file_is_refused(write: Write, channel: str, key: str) -> None:
    """It belongs in a variable, which is taken; other faults of the file are said beside it."""
    sentence = "is secret and must not stand in the file: write ${NAME} and export that variable"
    path = write(pipeline(f"    alerts: [log, {{{channel}}}]\n    training: {{epochs: 0}}"))
    assert faults(path) == [
        f"line 5  pipelines.tiles.alerts[1].{key}: {sentence}",
        "line 6  pipelines.tiles.training.epochs: 0 must be at least 1",
    ]
    value = re.search(rf"{key}: '?([^',]+)", channel)
    assert value is not None
    kept = channel.replace(f"{key}: '{value[1]}'", f"{key}: {value[1]}").replace(
        f"{key}: {value[1]}", f"{key}: '${{A}}'"
    )
    load(write(pipeline(f"    alerts: [log, {{{kept}}}]")), {"A": value[1]})


def test_a_kind_of_which_nobody_hears_is_refused(write: Write) -> None:
    """Nothing is left without an owner; who wants no alerts at all may have none."""
    alerts = "[{type: log, about: [defects, moved]}, {type: webhook, url: 'http://a', about: [stream, failing]}]"
    assert faults(write(pipeline(f"    alerts: {alerts}"))) == [
        "line 5  pipelines.tiles.alerts: no channel is about unreadable, missing, stopped: leave about out of one, or "
        "add a channel"
    ]
    assert load(write(pipeline("    alerts: []")), {}).pipeline("tiles").alerts == ()


def test_a_secret_that_is_not_given_is_none(write: Write) -> None:
    """A key without a value beside the block that takes its place is no secret."""
    (channel,) = load(write(pipeline("    alerts: [{type: slack, url: null, block: a}]")), {}).pipeline("tiles").alerts
    assert channel.name == "slack"


def test_a_misspelt_key_of_a_channel_is_named(write: Write) -> None:
    """The choices are the keys as files write them."""
    alerts = "[{type: email, host: h, form: a@b, from: a@b, to: a@b}]"
    assert faults(write(pipeline(f"    alerts: {alerts}"))) == [
        "line 5  pipelines.tiles.alerts[0].form: unknown key; did you mean 'from'? "
        "(choices: about, from, host, minimum_severity, name, password, port, security, to, type, user)",
    ]


def test_a_secret_is_not_shown_by_the_settings(write: Write) -> None:
    """Printing or storing settings does not give the webhook's address away; asking for it does."""
    settings = load(write(WHOLE), ENVIRONMENT)
    channel = settings.pipeline("tiles").alerts[1]
    assert "S3CRET" not in repr(settings) + str(settings) + settings.model_dump_json()
    assert isinstance(channel, WebhookChannel)
    assert channel.url is not None
    assert channel.url.get_secret_value() == SECRET


# --- what is not a configuration at all


def test_no_file(tmp_path: Path) -> None:
    """A missing file is answered with the command that writes one."""
    expected = f"no pipelines.yaml in {tmp_path}: 'reconwatch init FOLDER' writes one"
    assert sentence(tmp_path / "pipelines.yaml") == expected


def test_a_folder(tmp_path: Path) -> None:
    """A folder is not searched for a file."""
    assert sentence(tmp_path) == f"{tmp_path} is a folder: give the file, such as {tmp_path}/pipelines.yaml"


def test_not_utf8(tmp_path: Path) -> None:
    """A file in another encoding is not guessed at."""
    path = tmp_path / "pipelines.yaml"
    path.write_bytes("pipelines: {käse: {}}".encode("latin-1"))
    assert sentence(path) == f"pipelines.yaml ({path}) is not UTF-8 text (byte 13): save it as UTF-8"


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    """Editors on Windows write one."""
    path = tmp_path / "pipelines.yaml"
    path.write_text(pipeline(""), encoding="utf-8-sig")
    assert list(load(path, {}).pipelines) == ["tiles"]


EMPTY = "is empty: write 'pipelines:' and a pipeline below it, or let 'reconwatch init FOLDER' write one"
NO_KEY = "does not start with a key: write 'pipelines:' at its top and a pipeline below it"
CONTROL = "is not valid YAML at line 2: a control character that no text may hold"
TAG = "is not valid YAML at line 1: the tag tag:yaml.org,2002"
TOO_MANY = "is not valid YAML at line 1: its aliases (*) expand to more than 10,000 values"


def doubled(template: str) -> str:
    """Twenty keys, each twice the one before."""
    return "".join(f"{chr(98 + i)}: &{chr(98 + i)} {template.format(chr(97 + i))}\n" for i in range(20))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", EMPTY),
        ("# nothing yet\n", EMPTY),
        ("- a\n- b\n", NO_KEY),
        ("pipelines\n", NO_KEY),
        ("a: 1\nb: [1, 2\nc: 3\n", "is not valid YAML at line 3: expected ',' or ']', but got ':'"),
        ("a: b\n\x07: c", CONTROL),
        ("a: *b\n", "is not valid YAML at line 1: found undefined alias 'b'"),
        ("a: 1\n---\nb: 2\n", "is not valid YAML at line 2: but found another document"),
        ("a: &a\n  b: *a\n", "is not valid YAML at line 1: an alias (*) refers to itself"),
        ("? [a]\n: b\n", "is not valid YAML at line 1: a key must be text"),
        ("a: !!python/name:os.system ''\n", f"{TAG}:python/name:os.system is not supported"),
        ("a: !!set {b}\n", f"{TAG}:set is not supported"),
        ("a: !!float b\n", "is not valid YAML at line 1: not a number"),
        ("[" * 1000, "is nested too deeply"),
        ("a: &a [x, x]\n" + doubled("[*{0}, *{0}]"), TOO_MANY),
        ("a: &a {x: 1}\n" + doubled("{{<<: [*{0}, *{0}]}}"), TOO_MANY),
    ],
    ids=range(16),
)  # fmt: skip
def test_a_file_that_is_no_configuration_is_one_sentence(write: Write, text: str, expected: str) -> None:
    """Where there are no keys to speak of, the message says what is wrong and where."""
    path = write(text)
    assert sentence(path) == f"pipelines.yaml ({path}) {expected}"


@pytest.mark.parametrize("text", ["pipelines:\n", "pipelines: {}\n"])
def test_no_pipelines(write: Write, text: str) -> None:
    """A file with no pipeline in it is not a valid one."""
    expected = "line 1  pipelines: has no pipeline: write one below it, a name with 'data:' and its 'nominal:' folder"
    assert faults(write(text)) == [expected]


def test_a_duplicate_key_is_a_fault(write: Write) -> None:
    """YAML would silently take the last one."""
    assert faults(write(pipeline("      inbox: a\n      nominal: b\n"))) == [
        "line 6  pipelines.tiles.data.nominal: the key is already at line 4"
    ]


@pytest.mark.parametrize(("key", "kind"), [("on", "bool"), ("no", "bool"), ("1", "int"), ("null", "null")])
def test_a_key_that_yaml_does_not_read_as_text_must_be_quoted(write: Write, key: str, kind: str) -> None:
    """YAML 1.1 reads `on` as true, and other tools do not: the name must not depend on who reads it."""
    entry = "{data: {nominal: a}}"
    assert faults(write(f"pipelines:\n  {key}: {entry}\n")) == [
        f"line 2  pipelines.{key}: YAML reads this key as {kind}, not as text: quote it, '{key}'"
    ]
    assert list(load(write(f"pipelines:\n  '{key}': {entry}\n"), {}).pipelines) == [key]


@pytest.mark.parametrize(
    ("written", "expected"),
    [("no", "no"), ("0123", "0123"), ("12:30", "12:30"), ("2024-01-31", "2024-01-31"), ("12", 12), ("true", True)],
)
def test_values_that_only_yaml_1_1_takes_for_numbers_stay_text(write: Write, written: str, expected: object) -> None:
    """A label `no` or a lot `0123` in a manifest is compared as it is written."""
    settings = load(write(pipeline(f"      inbox: {{manifest: a.csv, where: {{lot: {written}}}}}\n")), {})
    inbox = settings.pipeline("tiles").data.inbox
    assert isinstance(inbox, ManifestSource)
    assert inbox.where == {"lot": (expected,)}


def test_aliases_and_merge_keys_share_settings(write: Write) -> None:
    """What two pipelines share is written once; a pipeline's own keys win, and only they are expanded."""
    settings = load(
        write(
            "pipelines:\n"
            "  a: &a\n    data: {nominal: x}\n    training: &t {epochs: 5, seed: 1}\n"
            "  b:\n    <<: *a\n    training: {<<: *t, seed: 2}\n"
        ),
        {},
    )
    assert settings.pipeline("b").training == TrainingConfig(epochs=5, seed=2)
    assert settings.pipeline("b").data == settings.pipeline("a").data


# --- nothing else ever comes out


KEYS = st.sampled_from([*sorted({key for keys in VOCABULARY.keys.values() for key in keys}), "on", "1", "<<", "${A}"])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(2**63), 2**64])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["linear", "conformal", "recall", "cost", "log", "webhook", "a.csv", "a/*", "${A}", "${B}", "[[", "~x", "MNIST"]
    )
    | st.dates()
    | st.binary(max_size=3)
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | SCALARS, inner, max_size=4),
    max_leaves=12,
)


def paths(content: Any) -> list[tuple[Any, ...]]:
    """The path of every value below `content`."""
    children = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path for key, value in children for path in [(key,), *((key, *rest) for rest in paths(value))]]


@st.composite
def spoiled_files(draw: st.DrawFn) -> Any:
    """The file that uses every section, with a few values replaced and a few keys added."""
    content = yaml.safe_load(WHOLE)
    for _ in range(draw(st.integers(1, 3))):
        *parents, key = draw(st.sampled_from(paths(content) or [(0,)]))
        place = content
        for parent in parents:
            place = place[parent]
        if isinstance(place, dict):
            place[draw(st.just(key) | KEYS)] = draw(VALUES)
        elif isinstance(place, list) and place:
            place[key] = draw(VALUES)
    return content


ANY_FILE = settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def loads_or_is_refused(path: Path, text: str) -> None:
    """Any third outcome is raised; a refusal is in our own words, without names of classes or secrets."""
    path.write_text(text, encoding="utf-8", newline="")
    refusal = None
    try:
        load(path, {"A": "1", **ENVIRONMENT})
    except InputError as error:
        refusal = str(error)
    assert refusal is None or not re.search("Input should|<[A-Z]|S3CRET", refusal)


@ANY_FILE
@given(content=spoiled_files() | VALUES)
def test_any_mapping_loads_or_is_refused_in_words(tmp_path_factory: pytest.TempPathFactory, content: object) -> None:
    """Whatever values the keys have, there is no other outcome than settings or an InputError."""
    path = tmp_path_factory.getbasetemp() / "any-mapping.yaml"
    loads_or_is_refused(path, yaml.safe_dump(content, allow_unicode=True))


@ANY_FILE
@given(text=st.text(alphabet=st.sampled_from("ab:{}[]-!&*<>|?'\"\\#%@ \n\t$1.~é\x00\ufeff")))
def test_any_text_loads_or_is_refused_in_words(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Whatever stands in the file, there is no other outcome than settings or an InputError."""
    loads_or_is_refused(tmp_path_factory.getbasetemp() / "any-text.yaml", text)


# --- networks


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_a_choice(write: Write, name: str) -> None:
    """Each network can be had by its name alone, and takes what its section says by default."""
    model = load(write(pipeline(f"    model: {name}")), {}).pipeline("tiles").model
    assert model.network == name
    network = build_network(name, ImageSpec(32, 32, 1), model.model_dump(exclude={"network", "corruption", "score"}))
    assert isinstance(network, type(build_network(name, ImageSpec(32, 32, 1), {})))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption_is_a_choice(write: Write, name: str) -> None:
    """Each corruption can be had by its name alone, and is by default what it is in the library."""
    body = f"    model: {{network: linear, corruption: {name}}}"
    model = load(write(pipeline(body)), {}).pipeline("tiles").model
    assert isinstance(model, LinearConfig)
    corruption = model.corruption
    assert corruption.type == name
    assert build_corruption(name, corruption.model_dump(exclude={"type"})) == build_corruption(name, {})


def test_a_network_may_have_its_parameters_from_variables(write: Write) -> None:
    """A choice among numbers takes a variable too."""
    body = "    model: {network: resnet, depth: '${DEPTH}', corruption: {type: gaussian, deviation: '${D}'}}"
    model = load(write(pipeline(body)), {"DEPTH": "34", "D": "0.1"}).pipeline("tiles").model
    assert isinstance(model, ResNetConfig)
    assert model.depth == 34
    assert model.corruption == GaussianConfig(deviation=0.1)


def test_a_score_is_the_mean_squared_error_unless_it_says_otherwise(write: Write) -> None:
    """What stands nowhere is the lesson's, and what stands there is taken."""
    plain, other = (
        load(write(pipeline(f"    model: {{network: linear{more}}}")), {}).pipeline("tiles").model
        for more in ("", ", score: {smoothing: 3, positional: true, pooling: 0.01, energy: 0.25, relative: 0.5}")
    )
    assert isinstance(plain, LinearConfig)
    assert isinstance(other, LinearConfig)
    assert ScoreDesign(**plain.score.model_dump()) == ScoreDesign()
    assert ScoreDesign(**other.score.model_dump()) == ScoreDesign(3, True, 0.01, 0.25, 0.5)


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ("smoothing: 4", "4 is even, so that no pixel is the window's middle: give 3 or 5"),
        ("pooling: 0", "greater than 0"),
        ("energy: 2", "2 must be at most 1"),
        ("relative: 2", "2 must be at most 1"),
    ],
)
def test_an_impossible_score_is_refused(write: Write, score: str, message: str) -> None:
    """What is wrong, and what can be given."""
    with pytest.raises(InputError, match=message):
        load(write(pipeline(f"    model: {{network: linear, score: {{{score}}}}}")), {})


# --- the JSON Schema


def test_the_schema_file_is_the_models_schema() -> None:
    """`python -m flows.config > flows/pipelines.schema.json` was run after the last change of the models."""
    assert SCHEMA_FILE.read_text(encoding="utf-8") == json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


@pytest.mark.parametrize(
    "text",
    [WHOLE, pipeline(""), pipeline("    training: {epochs: '${E}'}\n    model: '${M}'\n    alerts: []\n")],
    ids=["everything", "shortest", "variables"],
)
def test_the_schema_accepts_what_loads(text: str) -> None:
    """An editor does not underline shorthands, or variables in place of numbers and choices."""
    jsonschema.Draft202012Validator.check_schema(json_schema())
    # A JSON parser's view of the file, as editors have it: 1e-2 is a number there.
    content = json.loads(json.dumps(yaml.safe_load(text)).replace('"1e-2"', "1e-2"))
    jsonschema.Draft202012Validator(json_schema()).validate(content)


@pytest.mark.parametrize(
    "body",
    [
        "    modle: linear",
        "    name: tiles",
        "    model: {code_size: 8}",
        "    training: {epochs: many}",
        "    training: {epochs: 0}",
        "    training: {device: gpu}",
        "    threshold: {method: recall}",
        "      size: [8]",
        "      inbox: {torchvision: MNST, root: a}",
        "    alerts: [mail]",
        "  bad name: {data: {nominal: a}}",
    ],
)
def test_the_schema_refuses_what_does_not_load(write: Write, body: str) -> None:
    """An editor underlines what `load` would refuse."""
    assert faults(write(pipeline(body)))
    assert not jsonschema.Draft202012Validator(json_schema()).is_valid(yaml.safe_load(pipeline(body)))


def test_every_key_has_a_description() -> None:
    """An editor explains each key."""
    bare = [
        (part["title"], key)
        for part in json_schema()["$defs"].values()
        for key, value in part["properties"].items()
        if "description" not in value
    ]
    assert bare == []


# --- fingerprints


def test_a_fingerprint_changes_with_its_sections_only(write: Write) -> None:
    """It tells that a section changed since training, and is blind to the others."""
    before = load(write(pipeline("    training: {epochs: 5}\n")), {}).pipeline("tiles")
    after = load(write(pipeline("    training: {epochs: 6}\n    alerts: []\n")), {}).pipeline("tiles")
    assert fingerprint(before, "data", "model") == fingerprint(after, "model", "data")
    assert fingerprint(before, "training") != fingerprint(after, "training")
    assert fingerprint(before) != fingerprint(after)
    assert len(fingerprint(before)) == 64


def test_a_fingerprint_holds_networks_and_paths_apart(tmp_path: Path) -> None:
    """Another network, or images in another place, is another configuration."""
    data, elsewhere = (DataConfig(nominal=PathSource(path=tmp_path / name)) for name in "ab")
    tiles = PipelineConfig(name="tiles", data=data)
    assert fingerprint(tiles, "data") != fingerprint(PipelineConfig(name="tiles", data=elsewhere), "data")
    other = PipelineConfig(name="tiles", data=data, model=ConvolutionalConfig())
    assert fingerprint(tiles, "model") != fingerprint(other, "model")


def test_a_fingerprint_does_not_depend_on_the_pipelines_name(tmp_path: Path) -> None:
    """Renaming a pipeline is no reason to train it again."""
    data = DataConfig(nominal=PathSource(path=tmp_path))
    assert fingerprint(PipelineConfig(name="a", data=data)) == fingerprint(PipelineConfig(name="b", data=data))


def test_importing_the_configuration_is_cheap() -> None:
    """`reconwatch --help` and `check` must not wait for PyTorch, MLflow or Prefect."""
    program = (
        "import flows.config, sys; print(sorted({'torch', 'mlflow', 'prefect', 'pandas', 'numpy'} & set(sys.modules)))"
    )
    root = Path(flows.config.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True).stdout == "[]\n"


# --- the guide


@pytest.mark.parametrize("page", ["configuration.md", "sources.md"])
def test_every_example_in_the_guide_loads(write: Write, page: str) -> None:
    """What the pages on the configuration and on sources show can be copied."""
    guide = (Path(flows.config.__file__).parents[1] / "docs/guide" / page).read_text(encoding="utf-8")
    environment = {"DATA": "data", "SHIFT_LEAD_WEBHOOK": SECRET, "PLANT_DATABASE": "sqlite:///plant.db"}
    for example in re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL):
        lines = [line for line in example.splitlines() if not line.startswith("#")]
        alternatives = [[line] for line in lines] if example.count("\nnominal:") > 1 else [lines]
        for written in filter(None, alternatives):
            load(write(whole_file(written)), environment)


def test_every_example_in_the_guide_to_alerts_loads(write: Write) -> None:
    """Each channel's lines can be copied, once its secrets are variables; together they are one list."""
    guide = (Path(flows.config.__file__).parents[1] / "docs/guide/alerts.md").read_text(encoding="utf-8")
    environment = dict.fromkeys(re.findall(r"\$\{(\w+)\}", guide), SECRET)
    environment["WEBHOOK_SECRET"] = "whsec_MDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAw"
    examples = [example.splitlines() for example in re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL)]
    types = set()
    for example in examples:
        settings = load(write(whole_file(example)), environment)
        types |= {channel.type for channel in settings.pipeline("tiles").alerts}
    assert types == set(CHANNELS)


def whole_file(example: list[str]) -> str:
    """The text of a file around an example: a whole one, a source, or a section of a pipeline."""
    if example[0] == "pipelines:":
        return "\n".join(example)
    data = (
        ["data:", *(f"  {line}" for line in example)] if example[0].startswith("nominal:") else ["data: {nominal: a}"]
    )
    body = example if example[0] == "data:" else data if example[0].startswith("nominal:") else [*data, *example]
    return "pipelines:\n  tiles:\n" + "\n".join(f"    {line}" for line in body)


def test_the_guide_names_every_key() -> None:
    """A new key is not finished before it is explained."""
    guide = (Path(flows.config.__file__).parents[1] / "docs/guide/configuration.md").read_text(encoding="utf-8")
    keys = {key for section in VOCABULARY.keys.values() for key in section}
    assert sorted(key for key in keys if f"`{key}" not in guide and f"{key}:" not in guide) == []


@pytest.mark.parametrize("name", RUNNERS)
def test_a_runner_is_named_in_one_line(write: Write, name: str) -> None:
    """Its name is all that it takes; with options it is a mapping."""
    cloth = f"  cloth:\n    data: {{nominal: a}}\n    runner: {{type: {name}, workers: 3}}\n"
    file = write(pipeline(f"    runner: {name}\n{cloth}"))
    short, long = (load(file, {}).pipeline(one).runner for one in ("tiles", "cloth"))
    assert short.type == name
    assert long == short.model_copy(update={"workers": 3})


def test_an_unknown_runner_is_told_with_the_choices(write: Write) -> None:
    """As every choice is."""
    expected = "is not one of the choices; did you mean 'threads'? (choices: threads, processes, dask, ray)"
    assert expected in faults(write(pipeline("    runner: thread")))[0]
