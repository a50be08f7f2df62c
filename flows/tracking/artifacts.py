"""The artifacts of runs, and the SHA-256 of each, by which what was damaged since it was written is known."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlparse

from mlflow.exceptions import MlflowException

from flows.tracking.store import ArtifactMissing, Store

RECEIPT = "sha256.txt"  # an artifact in the form that `sha256sum --check` reads
SEAL = "reconwatch.sha256"  # a run's tag: the SHA-256 of its receipt


@dataclass(frozen=True)
class Artifacts:
    """What runs hold; files are given back only as they were written.

    Attributes:
        begun: by run, the hashes that are not written yet: those of a run that goes on in this process.
    """

    _store: Store
    begun: dict[str, dict[str, str]]

    def keep(self, run_id: str, folder: Path, name: str | None = None, whole: bool = False) -> None:
        """All files of a folder as artifacts under `name`, in one call.

        Where they are the `whole` of what the run holds, hashes from before are not asked for: those that two
        processes wrote at the same time are good for nothing, and what is written anew mends them.
        """
        hashes = _hashes(folder, f"{name}/" if name else "")
        self._store.client.log_artifacts(run_id, str(folder), name)
        self._to_disk(run_id, hashes)
        if run_id in self.begun:
            self.begun[run_id] |= hashes
        else:
            self._tag(run_id, self._write(run_id, hashes if whole else self._receipt(run_id) | hashes))

    def seal(self, run_id: str) -> None:
        """Write the hashes of what was kept so far."""
        self._tag(run_id, self.with_hashes(run_id))

    def with_hashes(self, run_id: str) -> dict[str, str]:
        """The same, but for the tags that the run needs then: these are given back."""
        hashes = self.begun.get(run_id)
        return self._write(run_id, hashes) if hashes else {}

    def fetched(self, run_id: str, name: str, folder: Path) -> Path:
        """The artifact or folder of artifacts `name`, copied into `folder`.

        Raises:
            ArtifactMissing: MLflow does not give it, or not as it was written.
        """
        path = self._store.download(run_id, name, folder)
        told = {of: told for of, told in self._receipt(run_id).items() if of == name or of.startswith(f"{name}/")}
        found = {name: _hash(path)} if path.is_file() else _hashes(path, f"{name}/")
        if wrong := sorted(of for of in told if found.get(of) != told[of]):
            raise ArtifactMissing(
                f"{wrong[0]} of run {run_id} was damaged after it was written (its SHA-256 is another): restore it "
                "from a backup, or let the step that made it run again"
            )
        return path

    def damaged(self, run_id: str) -> tuple[str, ...]:
        """The names of the run's artifacts that are not as they were written, or not there; none where that is unknown.

        Every file of the run is read.
        """
        told = self._receipt(run_id)
        wrong = []
        with tempfile.TemporaryDirectory() as folder:
            for place, name in enumerate(told):
                try:
                    path = self._store.download(run_id, name, Path(folder, str(place)))
                except ArtifactMissing:
                    wrong.append(name)
                else:
                    wrong += [name] if _hash(path) != told[name] else []
        return tuple(wrong)

    def delete(self, run_id: str, name: str) -> None:
        """Delete an artifact of a run, or a folder of them, for good."""
        self._store.repository(run_id).delete_artifacts(name)
        with suppress(ArtifactMissing):  # hashes that are gone name nothing
            told = self._receipt(run_id)
            left = {of: told[of] for of in told if of != name and not of.startswith(f"{name}/")}
            if told:
                self._tag(run_id, self._write(run_id, left))

    def _receipt(self, run_id: str) -> dict[str, str]:
        """The hashes by name; none for a run from before there were receipts, or that has no artifacts."""
        if run_id in self.begun:
            return dict(self.begun[run_id])
        seal = self._sealed(run_id)
        if not seal:
            return {}
        with tempfile.TemporaryDirectory() as folder:
            path = self._store.download(run_id, RECEIPT, Path(folder))
            content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != seal:
            raise ArtifactMissing(
                f"{RECEIPT} of run {run_id} was damaged, so that nothing says whether its other files were: restore "
                f"it from a backup, or delete the run's tag {SEAL} to use them as they are"
            )
        lines = (line.split("  ", 1) for line in content.decode().splitlines())
        return {name: told for told, name in lines}

    def _sealed(self, run_id: str) -> str:
        try:
            return str(self._store.client.get_run(run_id).data.tags.get(SEAL, ""))
        except MlflowException as error:
            raise ArtifactMissing(f"MLflow has no run {run_id} any more") from error

    def _write(self, run_id: str, hashes: Mapping[str, str]) -> dict[str, str]:
        content = "".join(f"{told}  {name}\n" for name, told in sorted(hashes.items())).encode()
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / RECEIPT).write_bytes(content)
            self._store.client.log_artifacts(run_id, folder)
        self._to_disk(run_id, [RECEIPT])
        return {SEAL: hashlib.sha256(content).hexdigest()}

    def _tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            self._store.client.set_tag(run_id, key, value)

    def _to_disk(self, run_id: str, names: Iterable[str]) -> None:
        """Waits until files of the workspace's own store would outlast a loss of power; a server sees to its own."""
        if not self._store.embedded:
            return
        root = Path(unquote(urlparse(self._store.repository(run_id).artifact_uri).path))
        files = [root / name for name in names]
        for path in [*files, *{file.parent for file in files}]:
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hashes(folder: Path, before: str) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {f"{before}{path.relative_to(folder).as_posix()}": _hash(path) for path in files}
