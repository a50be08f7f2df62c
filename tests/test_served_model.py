"""The registered model gives anybody who has MLflow the scores that the batch gets, and needs no reconwatch for it."""

import base64
import io
import json
import logging
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray
from PIL import Image

import ae_models
from ae_models.images import decode
from flows.progress import LogProgress
from flows.running import run, score
from flows.workspace import Workspace, open_workspace
from tests.ports import free_port

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(mlflow|sqlalchemy).*")

Project = Callable[..., Path]
QUIET = LogProgress(logging.getLogger("quiet"))
URI = "models:/tiles@champion"
# Loaded by every Python with this folder on PYTHONPATH: reconwatch counts as not installed.
BLOCKER = """
import sys
from importlib.machinery import PathFinder

class Blocker:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in ("flows", "ae_models"):
            return None
        spec = PathFinder.find_spec(name, sys.path)
        if spec is None or (spec.origin or "").startswith({installed!r}):
            elsewhere = [entry for entry in sys.path if entry != {installed!r}]
            spec = PathFinder.find_spec(name, elsewhere)
        if spec is None or name == "flows":
            raise ModuleNotFoundError(f"No module named {{name!r}}")
        return spec

sys.meta_path.insert(0, Blocker)
"""


@pytest.fixture(scope="module")
def workspace(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A trained and calibrated pipeline."""
    workspace = open_workspace(project(tmp_path_factory.mktemp("project")), {})
    assert run(workspace, "tiles", QUIET).failure == ""
    return workspace


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of every kind that a camera gives, none of the network's size (16 x 16)."""
    folder, random = tmp_path_factory.mktemp("images") / "kinds", np.random.default_rng(0)
    folder.mkdir()
    grey, colour = random.integers(0, 256, (45, 70), np.uint8), random.integers(0, 256, (45, 70, 3), np.uint8)
    Image.fromarray(grey).save(folder / "grey.png")
    Image.fromarray(colour).save(folder / "colour.png")
    Image.fromarray(random.integers(0, 65536, (45, 70), np.uint16)).save(folder / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth = np.add.outer(np.arange(45), np.arange(70)).astype(np.uint8)
    Image.fromarray(smooth).save(folder / "rotated.jpg", exif=exif)
    Image.fromarray(random.integers(0, 256, (5, 7), np.uint8)).save(folder / "small.png")
    Image.fromarray(random.integers(0, 256, (300, 200), np.uint8)).save(folder / "tall.png")
    return folder


@pytest.fixture(scope="module")
def expected(workspace: Workspace, images: Path) -> pd.DataFrame:
    """What scoring the folder gives, one row an image."""
    (report,) = score(workspace, "tiles", [images], QUIET)
    assert report.table is not None
    assert report.table["status"].tolist() == ["scored"] * 6
    return report.table


@pytest.fixture(scope="module")
def model(workspace: Workspace) -> Iterator[Any]:
    """The champion as anybody loads it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", workspace.tracking.uri)
        monkeypatch.setattr(sys, "path", sys.path.copy())  # the model's own code is put there
        yield mlflow.pyfunc.load_model(URI)


def files(table: pd.DataFrame) -> list[bytes]:
    return [Path(uri).read_bytes() for uri in table["uri"]]


def column(images: Any) -> pd.DataFrame:
    """The table that the model takes."""
    return pd.DataFrame({"image": pd.Series(list(images), dtype=object)})


def base64_of(contents: list[bytes]) -> list[str]:
    return [base64.b64encode(content).decode() for content in contents]


def assert_same(given: Any, expected: pd.DataFrame) -> None:
    """The rows of the model are those of the folder, in order."""
    np.testing.assert_allclose(given["score"], expected["score"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(given["p_value"], expected["p_value"], rtol=0, atol=1e-9)
    assert given["flag"].tolist() == expected["flagged"].tolist()
    assert given["status"].tolist() == expected["status"].tolist()


class TestScores:
    """Whatever form images are given in, their scores are those of the files."""

    def test_bytes(self, model: Any, expected: pd.DataFrame) -> None:
        """Contents of files, as they are."""
        assert_same(model.predict(column(files(expected))), expected)

    def test_base64(self, model: Any, expected: pd.DataFrame) -> None:
        """Text, as JSON carries it."""
        assert_same(model.predict(pd.DataFrame({"image": base64_of(files(expected))})), expected)

    def test_arrays(self, model: Any, expected: pd.DataFrame) -> None:
        """Decoded images of any size, grey or colour, 8-bit or float."""
        assert_same(model.predict(column(decode(Path(uri)) for uri in expected["uri"])), expected)

    def test_other_columns_are_left_alone(self, model: Any, expected: pd.DataFrame) -> None:
        """The column `image` counts, wherever it stands."""
        assert_same(model.predict(column(files(expected)).assign(camera="left")[["camera", "image"]]), expected)

    def test_a_table_without_images_is_refused(self, model: Any) -> None:
        """By the model's signature, which names what is missing."""
        with pytest.raises(MlflowException, match=r"missing inputs \['image'\]"):
            model.predict(pd.DataFrame({"content": ["aGk="]}))

    @pytest.mark.parametrize("name", ["grey.png", "colour.png"])
    @pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
    def test_types_of_arrays(self, model: Any, expected: pd.DataFrame, name: str, dtype: type[Any]) -> None:
        """(H, W) and (H, W, 3), as bytes or as floats in [0, 1]."""
        row = expected[expected["uri"].str.endswith(name)]
        pixels: NDArray[Any] = decode(Path(row["uri"].iloc[0]))
        assert_same(model.predict(column([pixels if dtype is np.uint8 else pixels.astype(dtype) / 255])), row)

    def test_16_bit_arrays(self, model: Any, expected: pd.DataFrame) -> None:
        """uint16 means 0 to 65535."""
        row = expected[expected["uri"].str.endswith("deep.png")]
        pixels = np.asarray(Image.open(row["uri"].iloc[0])).astype(np.uint16)
        assert_same(model.predict(column([pixels])), row)

    def test_the_signature(self, model: Any, expected: pd.DataFrame) -> None:
        """It names the column that is taken and those that are given, which every row has."""
        given = model.predict(column(files(expected)))
        columns = ["score", "threshold", "flag", "p_value", "status", "reason"]
        assert list(given.columns) == columns
        assert model.metadata.signature.inputs.input_names() == ["image"]
        assert model.metadata.signature.outputs.input_names() == [*columns, "heat_map"]
        assert (given["flag"] == (given["score"] > given["threshold"])).all()
        assert given["reason"].tolist() == [""] * len(given)


class TestHeatMaps:
    """Where an image differs from what the network expects, for those who ask."""

    def test_they_come_on_request(self, model: Any, expected: pd.DataFrame) -> None:
        """One picture an image, of the network's size, and the same scores as without."""
        given = model.predict(column(files(expected)), params={"heat_map": True})
        assert_same(given, expected)
        for text in given["heat_map"]:
            with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
                assert (picture.format, picture.size) == ("PNG", (16, 16))

    def test_an_unreadable_image_has_none(self, model: Any, expected: pd.DataFrame) -> None:
        """The others keep theirs."""
        given = model.predict(column([b"no image", files(expected)[0]]), params={"heat_map": True})
        assert [bool(text) for text in given["heat_map"]] == [False, True]
        assert model.predict(column([b""]), params={"heat_map": True})["heat_map"].tolist() == [""]

    def test_an_unknown_wish_is_no_wish(self, model: Any, expected: pd.DataFrame) -> None:
        """Nor is one that says no."""
        assert "heat_map" not in model.predict(column(files(expected)), params={"heat_map": False})


class TestUnreadable:
    """What is no image is a row that says so, among the others."""

    @pytest.mark.parametrize(
        "broken",
        [
            b"",
            b"no image",
            "no base64!",
            "",
            "/etc/hostname",
            np.zeros((2, 2, 7), np.uint8),
            np.full((4, 4), np.nan),
            None,
        ],
        ids=["empty", "text", "no base64", "no text", "a path", "seven channels", "NaN", "nothing"],
    )
    def test_it_is_flagged_and_said(self, model: Any, expected: pd.DataFrame, broken: Any) -> None:
        """It has no score, it is flagged, it says why, and it moves no other row."""
        given = model.predict(column([files(expected)[0], broken, files(expected)[1]]))
        assert given["status"].tolist() == ["scored", "unreadable", "scored"]
        assert bool(given["flag"].iloc[1])
        assert given["score"].iloc[1] is None
        assert given["reason"].iloc[1] != ""
        np.testing.assert_allclose(
            given["score"].iloc[[0, 2]].astype(float), expected["score"].iloc[[0, 1]], rtol=0, atol=1e-6
        )

    def test_no_image_at_all(self, model: Any) -> None:
        """An empty table has an empty answer."""
        assert len(model.predict(column([]))) == 0


@pytest.fixture(scope="module")
def without_reconwatch(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a machine that has MLflow and no reconwatch."""
    folder = tmp_path_factory.mktemp("blocker")
    installed = str(Path(ae_models.__file__).parents[1])
    (folder / "sitecustomize.py").write_text(BLOCKER.format(installed=installed))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PYTHONPATH": str(folder), "PATH": path, "MLFLOW_TRACKING_URI": workspace.tracking.uri}


@pytest.fixture(scope="module")
def server(without_reconwatch: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`mlflow models serve` on such a machine; its address."""
    port = free_port()
    folder = tmp_path_factory.mktemp("server")
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", URI, "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            command, cwd=folder, env=without_reconwatch, stdout=log, stderr=log, start_new_session=True
        ) as process,
    ):
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_for(f"{address}/ping", process, folder / "log")
            yield address
        finally:
            os.killpg(process.pid, 9)


def _wait_for(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(f"the server did not start:\n{log.read_text()[-3000:]}")


def invoke(address: str, document: Any) -> bytes:
    request = urllib.request.Request(
        f"{address}/invocations", json.dumps(document).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return bytes(answer.read())


@pytest.mark.slow
class TestServing:
    """`mlflow models serve` answers requests where reconwatch is not installed."""

    @pytest.mark.parametrize("package", ["flows", "ae_models"])
    def test_the_machine_has_no_reconwatch(
        self, without_reconwatch: dict[str, str], tmp_path: Path, package: str
    ) -> None:
        """The environment of these tests hides the installed packages: what is served brings its own."""
        command = [sys.executable, "-c", f"import {package}"]
        done = subprocess.run(command, cwd=tmp_path, env=without_reconwatch, capture_output=True, text=True)
        assert f"ModuleNotFoundError: No module named '{package}'" in done.stderr

    @pytest.mark.parametrize("form", ["dataframe_split", "dataframe_records", "inputs", "instances"])
    def test_base64_images_are_scored(self, server: str, expected: pd.DataFrame, form: str) -> None:
        """In each form that MLflow's protocol has for a table, the scores are those of the folder."""
        texts = base64_of(files(expected))
        documents = {
            "dataframe_split": {"columns": ["image"], "data": [[text] for text in texts]},
            "dataframe_records": [{"image": text} for text in texts],
            "inputs": {"image": texts},
            "instances": [{"image": text} for text in texts],
        }
        answer = json.loads(invoke(server, {form: documents[form]}))
        assert_same(pd.DataFrame(answer["predictions"]), expected)

    def test_an_unreadable_image_is_a_row(self, server: str) -> None:
        """It is flagged, and says why."""
        records = [{"image": text} for text in ("bm8gaW1hZ2U=", "no base64!", None)]
        rows = json.loads(invoke(server, {"dataframe_records": records}))["predictions"]
        assert [(row["status"], row["flag"]) for row in rows] == [("unreadable", True)] * 3
        assert "" not in [row["reason"] for row in rows]

    def test_its_answer_is_json(self, server: str) -> None:
        """Readers of JSON other than Python's refuse NaN, and with it the scores of all other images."""

        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is no JSON")

        json.loads(invoke(server, {"dataframe_records": [{"image": "bm8gaW1hZ2U="}]}), parse_constant=refuse)

    def test_heat_maps_come_on_request(self, server: str, expected: pd.DataFrame) -> None:
        """By `params`, as MLflow's protocol has it."""
        document = {"inputs": {"image": base64_of(files(expected)[:2])}, "params": {"heat_map": True}}
        rows = json.loads(invoke(server, document))["predictions"]
        with Image.open(io.BytesIO(base64.b64decode(rows[0]["heat_map"]))) as picture:
            assert picture.size == (16, 16)

    def test_the_example_client(self, server: str, images: Path, expected: pd.DataFrame, tmp_path: Path) -> None:
        """It prints a line an image, and writes heat maps where it is told to."""
        client = Path(__file__).parents[1] / "examples" / "ask_served_model.py"
        command = [sys.executable, str(client), server, *map(str, sorted(images.iterdir())), "--heat-maps", "maps"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        lines = done.stdout.splitlines()
        assert len(lines) == 6
        row = expected[expected["uri"].str.endswith("colour.png")].iloc[0]
        assert lines[0].startswith(f"{images / 'colour.png'}: {'FLAGGED' if row['flagged'] else 'nominal'}")
        assert f"score {row['score']:.4g}" in lines[0]
        with Image.open(tmp_path / "maps" / "colour.png") as picture:
            assert picture.size == (16, 16)
