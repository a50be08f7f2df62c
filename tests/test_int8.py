"""Networks in 8-bit integers: used where they detect as well as floats, and then alone; OpenVINO runs them."""

import json
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from torch import Tensor, nn

from ae_models import sessions
from ae_models.comparison import AurocDifference
from ae_models.detector import AnyDetector, by_engine, load_detector
from ae_models.errors import InputError
from ae_models.graph import DESCRIPTION, FILE, Graph
from ae_models.graph_export import NotExportable, with_graph
from ae_models.images import ImageSpec
from ae_models.int8 import MOST_LOST, RANGED, Int8Comparison, with_int8
from ae_models.networks import NETWORKS
from flows.cli import main
from flows.running import run
from flows.workspace import Workspace, open_workspace
from tests.test_graph import BATCHES, detector_of, fused_detector, images_of

SPEC = ImageSpec(28, 28, 1)
ENGINES = ("auto", "torch", "onnxruntime", "openvino", "int8")


class Blur(nn.Module):
    """A network that blurs, its maps shifted far away and back between: in floats that costs nothing."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.there, self.back = nn.Conv2d(1, 1, 3, padding=1, padding_mode="zeros"), nn.Conv2d(1, 1, 1)
        with torch.no_grad():
            self.there.weight.fill_(1 / 9)
            self.there.bias = nn.Parameter(torch.tensor([float(shift)]))
            self.back.weight.fill_(1)
            self.back.bias = nn.Parameter(torch.tensor([-float(shift)]))

    def forward(self, images: Tensor) -> Tensor:
        """Blurred images."""
        return torch.as_tensor(self.back(self.there(images)))


def in_int8(detector: AnyDetector) -> tuple[AnyDetector, Int8Comparison]:
    """The detector in int8, and how it compares."""
    exported = with_graph(detector, images_of(detector.spec, 32))
    return with_int8(exported, images_of(detector.spec, RANGED, 1), images_of(detector.spec, 60, 2), 0)


@pytest.fixture(scope="module")
def small() -> AnyDetector:
    """A detector in int8."""
    return in_int8(detector_of(SPEC, "convolutional", {}))[0]


class Noting:
    """Progress that keeps what people are told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []

    def say(self, sentence: str) -> None:
        """Keep it."""
        self.said.append(sentence)

    def warn(self, sentence: str) -> None:
        """Keep it."""
        self.warned.append(sentence)

    @contextmanager
    def track(self, what: str, total: int) -> Iterator[Callable[..., None]]:
        """Nothing to see."""
        yield lambda *steps: None


def graph_of(detector: AnyDetector) -> Graph:
    """The detector's."""
    assert detector.graph is not None
    return detector.graph


class TestOpenvino:
    """In floats it gives what PyTorch gives, as ONNX Runtime does."""

    @pytest.mark.parametrize("spec", [SPEC, pytest.param(ImageSpec(17, 23, 3), marks=pytest.mark.slow)], ids=str)
    @pytest.mark.parametrize("network", NETWORKS)
    def test_every_network(self, network: str, spec: ImageSpec) -> None:
        """Scores and maps, batches from 1 to 256."""
        detector = detector_of(spec, network, {})
        by_openvino = by_engine(with_graph(detector, images_of(spec, 32)), "openvino")
        assert graph_of(by_openvino).runtime == "openvino"
        images = images_of(spec, max(BATCHES), seed=1)
        wanted, maps = detector.score(images), detector.error_maps(images)
        for count in BATCHES:
            found = by_openvino.score(images[:count])
            np.testing.assert_allclose(found, wanted[:count], rtol=1e-4, atol=1e-4 * wanted.std())
            np.testing.assert_allclose(
                by_openvino.error_maps(images[:count]), maps[:count], rtol=1e-3, atol=1e-4 * maps.max()
            )

    @pytest.mark.slow
    def test_the_fused_detector(self) -> None:
        """Recipes in closed form, restoration and the localizer, fused."""
        detector, images = fused_detector(SPEC), images_of(SPEC, 20, 1)
        by_openvino = by_engine(with_graph(detector, images_of(SPEC, 32)), "openvino")
        np.testing.assert_allclose(by_openvino.score(images), detector.score(images), rtol=1e-3, atol=1e-4)
        maps = detector.error_maps(images)
        np.testing.assert_allclose(by_openvino.error_maps(images), maps, rtol=1e-3, atol=1e-4 * maps.max())

    def test_it_is_kept_for_workers(self, small: AnyDetector, tmp_path: Path) -> None:
        """A detector that is written for shards is scored by what was chosen, also in another process."""
        floats = with_graph(detector_of(SPEC, "convolutional", {}), images_of(SPEC, 32))
        by_engine(floats, "openvino").save(tmp_path)
        assert graph_of(load_detector(tmp_path)).runtime == "openvino"

    def test_a_file_that_it_cannot_load(self) -> None:
        """Says which file, and what OpenVINO says."""
        with pytest.raises(ValueError, match=f"OpenVINO cannot load {FILE}"):
            Graph(b"no graph", SPEC, runtime="openvino").open()


class TestInt8:
    """Other scores than in floats, so that nothing may stand in for them."""

    @pytest.mark.parametrize("network", ["convolutional", "resnet", "variational", "unet"])
    def test_it_detects_as_floats_do(self, network: str) -> None:
        """Scores are near those in floats, and no more of the AUROC is lost than is allowed."""
        detector = detector_of(SPEC, network, {})
        smaller, compared = in_int8(detector)
        assert compared.fault is None
        assert compared.aurocs[1] == pytest.approx(compared.aurocs[0], abs=MOST_LOST)
        images = images_of(SPEC, 40, 5)
        scores, wanted = smaller.score(images), detector.score(images)
        assert 0 < np.abs(scores - wanted).max() < 0.2 * wanted.std()
        assert graph_of(smaller).difference < 0.2

    def test_what_it_would_lose_is_found(self) -> None:
        """A network whose maps lie in a narrow part of a wide range: in int8 nothing is left of the images."""
        plain = replace(detector_of(SPEC, "convolutional", {}), network=Blur(0).eval())
        _, near = in_int8(plain)
        assert near.fault is None
        _, far = in_int8(replace(plain, network=Blur(1000).eval()))
        assert far.aurocs[0] == pytest.approx(near.aurocs[0], abs=0.01)
        assert far.fault == (f"it may lose more than 0.01 of the AUROC on synthetic defects: {far.difference}")

    def test_doubt_is_a_fault(self) -> None:
        """The whole 95% interval has to lie above what may be lost."""
        compared = Int8Comparison(20, 20, (0.9, 0.9), AurocDifference(0.0, -0.02, 0.02), (0.5, 0.5), (2.0, 1.0), 0.1)
        assert compared.fault is not None
        assert replace(compared, difference=AurocDifference(0.0, -0.005, 0.005)).fault is None

    def test_what_is_told(self) -> None:
        """One sentence, and every number by a name."""
        compared = Int8Comparison(20, 30, (0.9, 0.8), AurocDifference(-0.1, -0.2, 0.0), (0.5, 0.4), (2.0, 1.0), 0.1)
        assert compared.sentence() == (
            "8-bit integers find 30 synthetic defects in held-out images with an AUROC of 0.800, floats with 0.900, "
            "and take 1 ms an image on one core, floats 2."
        )
        slower = replace(compared, milliseconds=(2.0, 3.0)).sentence()
        assert slower.endswith(
            "take 3 ms an image on one core, floats 2. Set engine to auto and train again: it is faster."
        )
        assert compared.metrics() == {
            **{"float_auroc": 0.9, "int8_auroc": 0.8, "int8_auroc_difference_low": -0.2},
            **{"float_found": 0.5, "int8_found": 0.4, "float_milliseconds": 2.0, "int8_milliseconds": 1.0},
        }

    def test_only_convolutional_networks(self) -> None:
        """Of a fused detector the others stay floats; where there is none, int8 is refused."""
        with pytest.raises(NotExportable) as caught:
            in_int8(detector_of(SPEC, "linear", {}))
        assert str(caught.value) == "it has no convolutional network, and only those gain by it"

    @pytest.mark.slow
    def test_the_fused_detector(self) -> None:
        """Its restoration in int8, its recipes in closed form and its localizer in floats."""
        detector, images = fused_detector(SPEC), images_of(SPEC, 20, 5)
        smaller, _ = in_int8(detector)
        wanted, maps = detector.score(images), detector.error_maps(images)
        assert 0 < np.abs(smaller.score(images) - wanted).max() < 0.2 * wanted.std()
        np.testing.assert_allclose(smaller.error_maps(images), maps, atol=0.1 * maps.max())

    def test_any_number_of_threads_and_images(self, small: AnyDetector) -> None:
        """Each image has its own score, to the last digit."""
        images, graph = images_of(SPEC, 150), graph_of(small)
        one = graph.score(images, threads=1)
        np.testing.assert_array_equal(graph.score(images, threads=3), one)
        np.testing.assert_allclose(graph.score(images[:7]), one[:7], rtol=1e-6)

    def test_no_number_stays_none(self, small: AnyDetector) -> None:
        """An error is a difference of floats: it cannot hide behind the least or largest integer."""
        images = images_of(SPEC, 3)
        images[1] = np.nan
        assert np.isnan(small.score(images)).tolist() == [False, True, False]

    @pytest.mark.parametrize("engine", ENGINES)
    def test_no_engine_changes_it(self, engine: str, small: AnyDetector) -> None:
        """Its threshold holds for its scores in int8: also where PyTorch is wished for, or the network is on a GPU."""
        assert by_engine(small, engine).scoring_graph is small.graph
        assert by_engine(small.on(torch.device("meta")), engine).scoring_graph is small.graph

    def test_floats_where_int8_was_refused(self) -> None:
        """They are scored as by `auto`."""
        floats = with_graph(detector_of(SPEC, "convolutional", {}), images_of(SPEC, 32))
        assert by_engine(floats, "int8") is floats

    def test_saved_loaded_and_sent(self, small: AnyDetector, tmp_path: Path) -> None:
        """The same graph, the same scores."""
        small.save(tmp_path)
        loaded, images = load_detector(tmp_path), images_of(SPEC, 5)
        assert graph_of(loaded).int8
        np.testing.assert_array_equal(loaded.score(images), small.score(images))
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(graph_of(small))).score(images), small.score(images))

    @pytest.mark.parametrize(
        ("harm", "reason"),
        [
            (lambda folder: (folder / FILE).write_bytes(b"graph"), f"its graph cannot be used: {FILE} is damaged"),
            (lambda folder: [(folder / name).unlink() for name in (FILE, DESCRIPTION)], "its graph is missing"),
        ],
        ids=["damaged", "gone"],
    )
    def test_pytorch_never_stands_in(
        self, harm: Callable[[Path], Any], reason: str, small: AnyDetector, tmp_path: Path
    ) -> None:
        """Its scores would be others."""
        small.save(tmp_path)
        harm(tmp_path)
        with pytest.raises(InputError) as caught:
            load_detector(tmp_path)
        assert str(caught.value) == (
            f"the detector in {tmp_path} cannot be read (it scores in int8, and {reason}): train again"
        )

    def test_another_graph(self, small: AnyDetector, tmp_path: Path) -> None:
        """A whole one that belongs to the same weights, in floats, is told apart by its hash."""
        small.save(tmp_path)
        description = json.loads((tmp_path / DESCRIPTION).read_text(encoding="utf-8"))
        content = graph_of(with_graph(detector_of(SPEC, "convolutional", {}), images_of(SPEC, 32))).content
        (tmp_path / FILE).write_bytes(content)
        described = description | {"sha256": Graph(content, SPEC).sha256, "int8": False}
        (tmp_path / DESCRIPTION).write_text(json.dumps(described), encoding="utf-8")
        with pytest.raises(InputError, match="it scores in int8, and its graph is another"):
            load_detector(tmp_path)

    def test_without_openvino(self, small: AnyDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """One sentence says what to install; that training again would help is not said."""
        small.save(tmp_path)
        monkeypatch.setattr(sessions, "find_spec", lambda name: None)
        with pytest.raises(InputError) as caught:
            load_detector(tmp_path)
        assert str(caught.value) == (
            "engines openvino and int8 take OpenVINO, which is not installed: pip install 'reconwatch[openvino]'"
        )

    def test_onnx_runtime_does_not_run_it(self) -> None:
        """There is no such graph."""
        with pytest.raises(ValueError, match="no graph in int8 is run by 'onnxruntime'"):
            Graph(b"", SPEC, int8=True)


def test_people_see_the_same_reconstructions(small: AnyDetector) -> None:
    """They are by the weights in floats."""
    images = images_of(SPEC, 4)
    floats = detector_of(SPEC, "convolutional", {})
    np.testing.assert_array_equal(small.reconstruct(images), floats.reconstruct(images))


def code_of(*arguments: object) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def training_metrics(workspace: Workspace) -> dict[str, float]:
    """Of the newest training."""
    trained = workspace.tracking.latest_training("tiles")
    assert trained is not None
    return dict(MlflowClient(workspace.tracking.uri).get_run(trained.run_id).data.metrics)


@pytest.mark.slow
class TestOneLineOfYaml:
    """`engine: int8`."""

    def test_from_training_to_a_flagged_batch(
        self, project: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What was compared stands in MLflow; by any engine the rows are the same, with or without PyTorch."""
        monkeypatch.setenv("RECONWATCH_ENGINE", "")  # --engine sets it: undone after the test
        config, progress = project(tmp_path, engine="int8", model={"network": "convolutional"}), Noting()
        workspace = open_workspace(config, {})
        report = run(workspace, "tiles", progress)
        assert not report.failed, report.failure
        metrics = training_metrics(workspace)
        assert metrics["int8_auroc"] == pytest.approx(metrics["float_auroc"], abs=MOST_LOST)
        assert graph_of(workspace.tracking.registry.champion("tiles").champion.detector).int8
        rows = []
        for engine in ("int8", "auto", "torch"):
            output = tmp_path / f"{engine}.parquet"
            options = ("--output", output, "--engine", engine, "--config", config)
            assert code_of("score", "tiles", tmp_path / "data" / "inbox" / "2-damaged", *options) == 0
            rows.append(pd.read_parquet(output))
        assert rows[0]["flagged"].sum() >= 10
        pd.testing.assert_frame_equal(rows[0], rows[1])
        pd.testing.assert_frame_equal(rows[0], rows[2])

    def test_where_it_will_not_do(self, project: Callable[..., Path], tmp_path: Path) -> None:
        """Floats score, and people hear why."""
        progress = Noting()
        workspace = open_workspace(project(tmp_path, engine="int8"), {})
        report = run(workspace, "tiles", progress)
        assert not report.failed, report.failure
        assert (
            "Floats score the images of tiles: 8-bit integers cannot, since it has no convolutional network, and only "
            "those gain by it"
        ) in progress.warned
        assert not graph_of(workspace.tracking.registry.champion("tiles").champion.detector).int8

    def test_without_openvino(
        self, project: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is refused before anything is trained."""
        monkeypatch.setattr(sessions, "find_spec", lambda name: None)
        workspace = open_workspace(project(tmp_path, engine="int8"), {})
        report = run(workspace, "tiles", Noting())
        assert report.failed
        assert "which is not installed: pip install 'reconwatch[openvino]'" in str(report.failure)
        assert workspace.tracking.latest_training("tiles") is None
