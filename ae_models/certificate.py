"""What a calibration promised, and of what exactly: so that nothing else is scored by its threshold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ae_models.calibration import Threshold
from ae_models.curves import percent
from ae_models.errors import InputError
from ae_models.images import DECODING

if TYPE_CHECKING:
    from ae_models.detector import AnyDetector

PACKAGES = ("reconwatch", "torch", "numpy")
WHAT = {
    "weights_sha256": "the network's weights",
    "preprocessing_sha256": "what is done to images before and after the network",
    "scores_sha256": "the calibration scores",
}


@dataclass(frozen=True)
class Certificate:
    """A calibration's promise and the SHA-256 of everything that it was measured with."""

    method: str
    target: float
    n_nominal: int
    rank: int
    rate: float  # l / (n + 1): the chance that a nominal image is flagged, on average over calibrations
    confidence: float | None
    band: tuple[float, float]  # 5th and 95th percentile of the rate that such a calibration really has
    seed: int  # of the split
    images_sha256: str  # of the calibration images' names and contents
    weights_sha256: str
    preprocessing_sha256: str  # of the detector's description and the version of decoding
    scores_sha256: str
    versions: Mapping[str, str]  # of what computed the scores
    time: str  # ISO 8601, with its offset

    def sentences(self) -> tuple[str, ...]:
        """The certificate for people."""
        sure = "" if self.confidence is None else f", with {percent(self.confidence)} confidence"
        low, high = map(percent, self.band)
        software = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        images = f"{self.n_nominal:,} nominal images ({self.images_sha256[:12]}, split with seed {self.seed})"
        weights, preprocessing, scores = (getattr(self, name)[:12] for name in WHAT)
        return (
            f"Calibrated {self.time} on {images}: method {self.method}{sure}, rank {self.rank:,}.",
            f"Nominal images are flagged at {percent(self.rate)}; in 9 of 10 calibrations between {low} and {high}.",
            f"It holds for weights {weights}, preprocessing {preprocessing} and scores {scores}, by {software}.",
        )

    def to_json(self) -> str:
        """The certificate as a JSON object, every number exact."""
        return json.dumps(asdict(self), indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Certificate:
        """The certificate that `to_json` wrote; raises InputError for any other text or set of keys."""
        try:
            entries = json.loads(text)
        except ValueError as error:
            raise InputError(f"The certificate is not JSON ({error}): calibrate again.") from error
        names = {field.name for field in fields(cls)}
        if not isinstance(entries, dict) or entries.keys() != names:
            raise InputError(f"The certificate holds other keys than {', '.join(sorted(names))}: calibrate again.")
        return cls(**entries | {"band": tuple(entries["band"])})


def certify(
    detector: AnyDetector,
    threshold: Threshold,
    calibration_scores: ArrayLike,
    images: Iterable[tuple[str, str]],
    seed: int,
    time: datetime,
    versions: Mapping[str, str],
) -> Certificate:
    """The certificate of a calibration with these scores (n,) of images given by (name, hash of the content)."""
    return Certificate(
        method=threshold.method,
        target=threshold.target,
        n_nominal=threshold.n_nominal,
        rank=threshold.rank,
        rate=threshold.false_alarm_rate,
        confidence=threshold.confidence,
        band=threshold.false_alarm_band,
        seed=seed,
        images_sha256=_sha256(sorted(images)),
        versions=dict(versions),
        time=time.isoformat(timespec="seconds"),
        **_hashes(detector, calibration_scores),
    )


def mismatch(
    certificate: Certificate, detector: AnyDetector, threshold: Threshold, calibration_scores: ArrayLike
) -> str | None:
    """One sentence that names what the certificate was not given for, or None where it covers all of this.

    The versions of software are told, not compared: any update would void every threshold. What an update may change in
    scores is compared by its own number (`ae_models.images.DECODING`).
    """
    return _mismatch(certificate, _hashes(detector, calibration_scores), threshold)


def mismatch_in(
    folder: Path, certificate: Certificate, threshold: Threshold, calibration_scores: ArrayLike
) -> str | None:
    """What `mismatch` says of the detector whose files lie in a folder, without loading it."""
    return _mismatch(certificate, _stored_hashes(folder, calibration_scores), threshold)


def _mismatch(certificate: Certificate, hashes: Mapping[str, str], threshold: Threshold) -> str | None:
    found: dict[str, Any] = dict(hashes)
    found |= {name: getattr(threshold, name) for name in ("method", "target", "n_nominal", "rank", "confidence")}
    differing = [name for name, value in found.items() if getattr(certificate, name) != value]
    if not differing:
        return None
    what = WHAT.get(differing[0], f"the threshold ({differing[0]})")
    return f"The certificate of {certificate.time} was given for another state of {what}: calibrate again."


def installed_versions() -> dict[str, str]:
    """The versions of Python and of the packages that compute scores."""
    return {"python": python_version()} | {name: _version(name) for name in PACKAGES}


def _hashes(detector: AnyDetector, calibration_scores: ArrayLike) -> dict[str, str]:
    """Hashes of what the detector saves, so that nothing by which it scores can be forgotten here."""
    with TemporaryDirectory() as name:
        detector.save(Path(name))
        return _stored_hashes(Path(name), calibration_scores)


def _stored_hashes(folder: Path, calibration_scores: ArrayLike) -> dict[str, str]:
    weights = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.safetensors"))]
    description = json.loads((folder / "detector.json").read_text(encoding="utf-8"))
    return {
        "weights_sha256": _sha256(weights),
        "preprocessing_sha256": _sha256([DECODING, description]),
        "scores_sha256": hashlib.sha256(np.ascontiguousarray(calibration_scores, dtype="<f8").tobytes()).hexdigest(),
    }


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a checkout
        return "not installed"
