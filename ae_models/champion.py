"""The detector, its threshold, the scores behind it and their certificate: always saved, loaded and used together."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ae_models.calibration import Threshold, p_values
from ae_models.certificate import Certificate, mismatch, mismatch_in
from ae_models.errors import InputError
from ae_models.graph import Graph, GraphDamaged, load_graph
from ae_models.images import ImageSpec

if TYPE_CHECKING:
    from ae_models.detector import AnyDetector

PARTS = ("detector.json", "weights.safetensors", "threshold.json", "calibration_scores.npy", "certificate.json")


@dataclass(frozen=True)
class Champion:
    """What decides a batch; a threshold means nothing without the weights whose scores it cuts.

    Attributes:
        detector: gives the scores.
        threshold: cuts them.
        calibration_scores: (n,) float64, scores of nominal images that training never saw.
        certificate: says what the threshold promises, and for which of all this.
    """

    detector: AnyDetector
    threshold: Threshold
    calibration_scores: NDArray[np.float64]
    certificate: Certificate

    def p_values(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """For each score (m,) the share of nominal images that score as badly or worse: (m,) in (0, 1]."""
        return p_values(scores, self.calibration_scores)

    def save(self, folder: Path) -> None:
        """Write the detector, threshold, calibration scores and certificate into `folder`, made if absent.

        `champion.json` is written last: the hash of each, so that parts of two champions are never taken for one.
        """
        self.detector.save(folder)
        np.save(folder / "calibration_scores.npy", self.calibration_scores, allow_pickle=False)
        (folder / "threshold.json").write_text(self.threshold.to_json(), encoding="utf-8")
        (folder / "certificate.json").write_text(self.certificate.to_json(), encoding="utf-8")
        (folder / "champion.json").write_text(json.dumps(_hashes(folder), indent=2), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Champion:
        """The champion that `save` wrote into `folder`.

        Raises:
            InputError: a part is missing, damaged, or does not belong to the others, or the certificate is not theirs.
        """
        from ae_models.detector import load_detector  # brings PyTorch

        detector = load_detector(folder)
        threshold, scores, certificate = _decision(folder)
        champion = cls(detector, threshold, scores, certificate)
        if fault := mismatch(certificate, detector, threshold, champion.calibration_scores):
            raise InputError(f"the champion in {folder} is not what was calibrated: {fault[0].lower()}{fault[1:]}")
        return champion


@dataclass(frozen=True)
class LeanChampion:
    """What gives a batch its scores and flags, and nothing else: read in a moment, without PyTorch.

    Attributes:
        detector: the graph that gives the scores.
        threshold: cuts them.
        calibration_scores: (n,) float64, scores of nominal images that training never saw.
    """

    detector: Graph
    threshold: Threshold
    calibration_scores: NDArray[np.float64]

    def p_values(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """For each score (m,) the share of nominal images that score as badly or worse: (m,) in (0, 1]."""
        return p_values(scores, self.calibration_scores)

    @classmethod
    def load(cls, folder: Path) -> LeanChampion:
        """The champion that `Champion.save` wrote into `folder`, checked as strictly.

        Raises:
            InputError: a part is missing, damaged, or does not belong to the others, or there is no graph.
        """
        threshold, scores, certificate = _decision(folder)
        if fault := mismatch_in(folder, certificate, threshold, scores):
            raise InputError(f"the champion in {folder} is not what was calibrated: {fault[0].lower()}{fault[1:]}")
        try:
            description = json.loads((folder / "detector.json").read_text(encoding="utf-8"))
            graph = load_graph(folder, ImageSpec.from_json(description["spec"]))
        except (GraphDamaged, LookupError) as error:
            raise InputError(f"the graph in {folder} cannot be used: {error}") from error
        if graph is None:
            raise InputError(f"the champion in {folder} has no graph: train again")
        return cls(graph, threshold, scores)


def _decision(folder: Path) -> tuple[Threshold, NDArray[np.float64], Certificate]:
    """What beside the detector makes a champion, of files that belong to each other."""
    try:
        if json.loads((folder / "champion.json").read_text(encoding="utf-8")) != _hashes(folder):
            raise ValueError("champion.json was written for other files than lie beside it")
        threshold = Threshold.from_json((folder / "threshold.json").read_text(encoding="utf-8"))
        scores = np.load(folder / "calibration_scores.npy", allow_pickle=False)
        certificate = Certificate.from_json((folder / "certificate.json").read_text(encoding="utf-8"))
    except (OSError, EOFError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"the threshold in {folder} cannot be read ({error}): calibrate again") from error
    if scores.shape != (threshold.n_nominal,):
        raise InputError(
            f"the threshold in {folder} is of {threshold.n_nominal} nominal scores, and {scores.size} lie beside "
            "it: calibrate again"
        )
    return threshold, np.asarray(scores, np.float64), certificate


def _hashes(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in PARTS}
