"""What the project's own files promise: every version pinned, no host but public ones, one version number."""

import os
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
NOT_OURS = {"build", "dist", "site", "demo", "mlruns"}
TEXT_SUFFIXES = {".py", ".toml", ".txt", ".md", ".yml", ".yaml", ".json", ".sh", ""}
HOST = re.compile(r"https?://[a-z0-9.-]*(?:pypi|hosted|npmjs|debian|pythonhosted)", re.IGNORECASE)
LOCK_FILES = ("uv.lock", "poetry.lock", "Pipfile.lock", "pdm.lock", "pylock.toml")
PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[A-Za-z0-9.+!-]+)")


def project() -> dict[str, Any]:
    """What pyproject.toml says."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def pins(text: str) -> dict[str, str]:
    """Each package's exact version; a line that is neither a pin nor a comment is an error."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    matches = [PIN.fullmatch(line) for line in lines]
    loose = [line for line, match in zip(lines, matches, strict=True) if match is None]
    assert loose == [], "constraints are name==version, one a line"
    return {canonicalize_name(match["name"]): match["version"] for match in matches if match}


def constraints() -> dict[str, str]:
    """Each package's version in constraints.txt."""
    return pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))


def declared() -> list[Requirement]:
    """Every requirement of pyproject.toml: the packages, the extras, and what builds them."""
    described = project()
    extras = described["project"]["optional-dependencies"].values()
    texts = [*described["project"]["dependencies"], *described["build-system"]["requires"]]
    return [Requirement(text) for text in [*texts, *(text for extra in extras for text in extra)]]


def forbidden(text: str) -> list[str]:
    """The addresses of package registries in a text."""
    return HOST.findall(text)


def own_files() -> Iterator[Path]:
    """The project's text files, without what is installed, built or left behind by runs."""
    for folder, subfolders, names in os.walk(ROOT):
        subfolders[:] = [name for name in subfolders if name == ".ci" or not name.startswith((".", "__"))]
        if Path(folder) == ROOT:
            subfolders[:] = [name for name in subfolders if name not in NOT_OURS]
        yield from (Path(folder, name) for name in names if Path(name).suffix in TEXT_SUFFIXES)


@pytest.mark.parametrize("requirement", declared(), ids=lambda requirement: requirement.name)
def test_every_declared_dependency_is_pinned_within_its_range(requirement: Requirement) -> None:
    """constraints.txt names one exact version of each dependency, and it is one that pyproject.toml allows."""
    pinned = constraints().get(canonicalize_name(requirement.name))
    assert pinned is not None, f"constraints.txt has no {requirement.name}"
    assert requirement.specifier.contains(Version(pinned))


def test_fastapi_is_held_below_what_breaks_prefect() -> None:
    """FastAPI stays in the range in which Prefect's and MLflow's servers both work, and both files say why."""
    requirement = next(requirement for requirement in declared() if requirement.name == "fastapi")
    assert not requirement.specifier.contains("0.153.0")
    assert Version("0.139") <= Version(constraints()["fastapi"]) < Version("0.151")
    for name in ("pyproject.toml", "constraints.txt"):
        assert "Prefect 3.8.8" in (ROOT / name).read_text(encoding="utf-8")


def test_builds_of_torch_stay_open() -> None:
    """No pin ties torch to one backend: UV_TORCH_BACKEND chooses among builds of the same version."""
    assert [name for name in constraints() if name.startswith(("nvidia-", "cuda-", "triton"))] == []
    assert "+" not in constraints()["torch"]


def test_packages_are_listed_by_name() -> None:
    """The wheel holds ae_models and flows, and never the folder mlflow/, which has a library's name."""
    assert project()["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["ae_models", "flows"]


def test_version_is_the_installed_one() -> None:
    """What is installed is this version: `make install` sees to it whenever pyproject.toml changes."""
    try:
        installed = version("reconwatch")
    except PackageNotFoundError:
        pytest.skip("reconwatch is not installed here")
    assert installed == project()["project"]["version"]


def test_servers_mlflow_is_the_pinned_one() -> None:
    """The server of compose.yaml is as new as the clients that constraints.txt installs."""
    text = (ROOT / "mlflow" / "compose.yaml").read_text(encoding="utf-8")
    assert re.findall(r"mlflow==([0-9.]+)", text) == [constraints()["mlflow"]]


def test_no_registry_host_and_no_lock_file() -> None:
    """Where packages come from is the business of the machine: no file names a registry, and none locks to one."""
    files = list(own_files())
    assert ROOT / "pyproject.toml" in files
    named = [path.relative_to(ROOT).as_posix() for path in files if forbidden(path.read_text(encoding="utf-8"))]
    assert named == []
    assert [name for name in LOCK_FILES if (ROOT / name).exists()] == []


class TestTheChecksThemselves:
    """Each check above finds what it is there for."""

    @pytest.mark.parametrize("line", ["numpy>=2", "numpy", "numpy==2.*", "-e .", "--index-url x", "numpy @ file:///x"])
    def test_a_loose_constraint_is_refused(self, line: str) -> None:
        """Anything but name==version fails."""
        with pytest.raises(AssertionError, match="name==version"):
            pins(f"# comment\n{line}\n")

    def test_names_are_compared_in_their_normal_form(self) -> None:
        """PyYAML and pyyaml are one package."""
        assert pins("PyYAML==6.0.3\ntyping_extensions==4.16.0\n") == {"pyyaml": "6.0.3", "typing-extensions": "4.16.0"}

    def test_a_registry_host_is_found(self) -> None:
        """Mirrors count; documentation does not."""
        assert forbidden("see https://" + "files.pythonhosted.org/x")
        assert forbidden("HTTPS://" + "mirror.pypi.example/simple")
        assert not forbidden("see https://docs.astral.sh/uv and https://mlflow.org")


class TestImage:
    """`Dockerfile`, as far as it can be read without Docker."""

    TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")

    def test_it_copies_what_the_package_is_made_of(self) -> None:
        """Everything that is copied is there and let through by .dockerignore, and the build needs no more."""
        copied = {name for line in re.findall(r"^COPY (.+) \S+$", self.TEXT, re.MULTILINE) for name in line.split()}
        allowed = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE))
        assert copied == allowed
        assert all((ROOT / name).exists() for name in copied)
        described = project()["project"]
        needed = {*project()["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"], *described["license-files"]}
        assert needed | {"pyproject.toml", "constraints.txt", described["readme"]} == copied

    def test_its_extras_and_its_python_are_those_of_the_package(self) -> None:
        """An extra that does not exist would only be warned of."""
        (extras,) = re.findall(r"^ARG EXTRAS=(\S+)$", self.TEXT, re.MULTILINE)
        assert set(extras.split(",")) <= set(project()["project"]["optional-dependencies"])
        (python,) = re.findall(r"^FROM python:([0-9.]+)-slim$", self.TEXT, re.MULTILINE)
        assert SpecifierSet(project()["project"]["requires-python"]).contains(python)

    def test_a_worker_names_the_command_and_the_user_is_not_root(self) -> None:
        """Kubernetes gives the command as arguments, which an entry point would take for its own."""
        assert "ENTRYPOINT" not in re.findall(r"^([A-Z]+)", self.TEXT, re.MULTILINE)
        assert re.findall(r"^USER (\S+)$", self.TEXT, re.MULTILINE) == ["reconwatch"]
