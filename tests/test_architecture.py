"""Which module may know of what: the walls between mathematics and the outside world, read from the imports."""

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MATHEMATICS = sorted((ROOT / "ae_models").rglob("*.py"))
PACKAGES = [*MATHEMATICS, *sorted((ROOT / "flows").rglob("*.py"))]

OUTSIDE_MATHEMATICS = {"prefect", "mlflow", "yaml", "sqlalchemy", "pydantic", "flows"}
MAY_IMPORT = {  # files, and folders of them
    "prefect": {
        "flows/train.py",
        "flows/calibrate.py",
        "flows/score.py",
        "flows/shard_tasks.py",
        "flows/run.py",
        "flows/review.py",
        "flows/flow_record.py",
        "flows/prefect_server.py",
        "flows/deploy.py",
        "flows/deployments.py",
        "flows/served_runs.py",
        "flows/serve.py",
        "flows/channels_prefect.py",
    },
    "onnxruntime": {"ae_models/sessions.py", "ae_models/int8.py"},
    "openvino": {"ae_models/sessions.py"},
    "mlflow": {"flows/tracking", "flows/served_model.py"},
    "sqlalchemy": {"flows/ledger", "flows/tables.py"},
    "alembic": {"flows/ledger"},
}
CODE_THAT_RUNS_WHEN_LOADED = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def imports(source: str) -> Iterator[tuple[str, bool]]:
    """Each imported module's dotted name, and whether importing the file imports it (not only a function, or mypy)."""
    tree = ast.parse(source)
    later = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    typing = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    deferred = {id(node) for block in [*later, *typing] for node in ast.walk(block)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) not in deferred) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, id(node) not in deferred


def libraries(source: str) -> set[str]:
    """The top-level names of all that is imported, wherever in the file."""
    return {name.split(".")[0] for name, _ in imports(source)}


def reads_environment(source: str) -> bool:
    """Whether the environment's variables are read: os.environ, os.getenv, or either imported from os."""
    nodes = list(ast.walk(ast.parse(source)))
    names = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            names |= {alias.name for alias in node.names}
    return bool(names & {"environ", "environb", "getenv", "getenvb"})


def unsafe_loads(source: str) -> list[str]:
    """What could run code from a file: pickle and its kin, and torch.load that is not told weights_only=True."""
    found = sorted(libraries(source) & CODE_THAT_RUNS_WHEN_LOADED)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            function = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            weights = function != "torch.load" or given.get("weights_only") == "True"
            arrays = function not in {"np.load", "numpy.load"} or given.get("allow_pickle", "False") == "False"
            found += [] if weights and arrays else [ast.unparse(node)]
        elif isinstance(node, ast.ImportFrom) and node.module in {"torch", "numpy"}:
            found += [f"from {node.module} import load" for alias in node.names if alias.name == "load"]
    return found


def offenders(library: str, sources: dict[str, str]) -> list[str]:
    """The files, of these sources by path, that import a library without being allowed to."""
    return [
        path
        for path, text in sources.items()
        if library in libraries(text)
        and not any(path == own or path.startswith(f"{own}/") for own in MAY_IMPORT[library])
    ]


def sources(paths: list[Path]) -> dict[str, str]:
    """The texts of these files by their path in the project."""
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def test_packages_are_found() -> None:
    """The checks below look at real files; an empty list would pass them all."""
    assert ROOT / "ae_models" / "errors.py" in MATHEMATICS
    assert ROOT / "flows" / "tracking" / "store.py" in PACKAGES


@pytest.mark.parametrize("path", MATHEMATICS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_mathematics_knows_nothing_of_the_outside(path: Path) -> None:
    """A module of ae_models imports no orchestration, tracking, configuration or database, and reads no environment."""
    text = path.read_text(encoding="utf-8")
    assert libraries(text) & OUTSIDE_MATHEMATICS == set()
    assert not reads_environment(text)


@pytest.mark.parametrize("library", MAY_IMPORT)
def test_each_outside_library_has_its_modules(library: str) -> None:
    """Prefect, MLflow, SQLAlchemy and Alembic are imported by their few modules only."""
    assert offenders(library, sources(PACKAGES)) == []


def test_channels_import_prefect_only_when_it_is_used() -> None:
    """Importing the channels does not import Prefect: that takes seconds, and most of them need none of it."""
    text = (ROOT / "flows" / "channels_prefect.py").read_text(encoding="utf-8")
    assert [name for name, at_once in imports(text) if name.startswith("prefect") and at_once] == []


@pytest.mark.parametrize("path", PACKAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_that_is_loaded_can_run_code(path: Path) -> None:
    """No pickle anywhere, and torch loads weights only: a detector from elsewhere is data."""
    assert unsafe_loads(path.read_text(encoding="utf-8")) == []


def test_the_folder_mlflow_never_shadows_the_library() -> None:
    """`import mlflow` finds the installed library from the project's folder too, as mlflow/ holds no Python file."""
    assert list((ROOT / "mlflow").rglob("*.py")) == []
    specification = importlib.util.find_spec("mlflow")
    assert specification is not None
    assert specification.origin is not None
    assert Path(specification.origin).parent != ROOT / "mlflow"


class TestTheChecksThemselves:
    """Each check above finds what it is there for."""

    @pytest.mark.parametrize(
        "source",
        ["import mlflow.pyfunc as p", "from mlflow import x", "def f():\n    import mlflow", "if 1: import mlflow"],
    )
    def test_imports_are_found_in_every_form(self, source: str) -> None:
        """An import is seen under another name, from a submodule, inside a function or a condition."""
        assert libraries(source) == {"mlflow"}
        assert offenders("mlflow", {"flows/report.py": source}) == ["flows/report.py"]
        assert offenders("mlflow", {"flows/tracking/store.py": source}) == []

    def test_imports_that_wait_are_told_apart(self) -> None:
        """What stands in a function, or is for mypy alone, is not imported with the file."""
        source = (
            "import a\nclass C:\n import b\n def f(self):\n  import c\nasync def g():\n from d import e\n"
            "if TYPE_CHECKING:\n import h"
        )
        assert dict(imports(source)) == {"a": True, "b": True, "c": False, "d": False, "h": False}

    @pytest.mark.parametrize(
        "source",
        [
            "import os\nos.environ['A']",
            "import os as o\no.getenv('A')",
            "from os import environ as e",
            "from os import getenv",
        ],
    )
    def test_reading_the_environment_is_found(self, source: str) -> None:
        """The environment is seen under any name of os."""
        assert reads_environment(source)

    def test_other_uses_of_os_are_no_reading_of_the_environment(self) -> None:
        """Paths and cores come from os too."""
        assert not reads_environment("import os\nfrom os import cpu_count\nos.replace('a', 'b')")

    @pytest.mark.parametrize(
        "source",
        [
            "import pickle",
            "from joblib import load",
            "torch.load(path)",
            "torch.load(path, weights_only=False)",
            "torch.load(path, weights_only=chosen)",
            "from torch import load",
            "np.load(path, allow_pickle=True)",
        ],
    )
    def test_unsafe_loads_are_found(self, source: str) -> None:
        """Whatever could run code from a file is seen, a default that is unsaid included."""
        assert unsafe_loads(source)

    @pytest.mark.parametrize("source", ["torch.load(path, weights_only=True)", "np.load(path)", "json.load(file)"])
    def test_safe_loads_pass(self, source: str) -> None:
        """Weights, plain arrays and JSON are data."""
        assert unsafe_loads(source) == []
