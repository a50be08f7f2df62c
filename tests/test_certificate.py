"""Certificates: what they say, that they come back as they were, and that nothing else passes for what they cover."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ae_models.calibration import Threshold, conformal_threshold
from ae_models.certificate import Certificate, certify, installed_versions, mismatch
from ae_models.detector import Detector
from ae_models.errors import InputError
from ae_models.images import DECODING, ImageSpec
from ae_models.networks import build_network

Champion = tuple[Detector, Threshold, NDArray[np.float64]]


def champion(width: int = 8, seed: int = 0) -> Champion:
    torch.manual_seed(seed)
    spec, parameters = ImageSpec(8, width, 1), {"code_size": 2}
    detector = Detector(spec, "linear", parameters, build_network("linear", spec, parameters).eval())
    scores = np.random.default_rng(0).random(200)
    return detector, conformal_threshold(scores, 0.01), scores


def certificate(of: Champion) -> Certificate:
    time = datetime(2030, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    versions = {"python": "3.13.1", "reconwatch": "0.1.0"}
    return certify(*of, [("b.png", "2"), ("a.png", "1")], 7, time, versions)


def test_a_certificate_covers_what_it_was_given_for() -> None:
    """Detector, threshold and scores of the calibration pass, also after a save and load of the detector's weights."""
    assert mismatch(certificate(champion()), *champion()) is None


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda held: (champion(seed=1)[0], *held[1:]), "the network's weights"),
        (lambda held: (held[0], held[1], held[2] + 1e-12), "the calibration scores"),
        (lambda held: (held[0], conformal_threshold(held[2], 0.02), held[2]), "the threshold (target)"),
        (lambda held: (held[0], replace(held[1], rank=190), held[2]), "the threshold (rank)"),
    ],
)
def test_anything_else_is_a_mismatch(change: Callable[[Champion], Champion], what: str) -> None:
    """One sentence says which part differs, since when, and what to do."""
    held = champion()
    assert mismatch(certificate(held), *change(held)) == (
        f"The certificate of 2030-01-02T03:04:05+00:00 was given for another state of {what}: calibrate again."
    )


def test_another_decoding_of_images_is_a_mismatch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that reads the same file as other pixels voids certificates of before."""
    held = champion()
    given = certificate(held)
    monkeypatch.setattr("ae_models.certificate.DECODING", DECODING + 1)
    assert "done to images before and after the network" in (mismatch(given, *held) or "")


def test_other_versions_of_software_are_no_mismatch() -> None:
    """They are told in words: an update would void every threshold."""
    held = champion()
    given = replace(certificate(held), versions={"python": "3.12.0"})
    assert mismatch(given, *held) is None
    assert "by python 3.12.0." in given.sentences()[2]


def test_a_certificate_survives_json() -> None:
    """What `to_json` writes `from_json` takes back, every number exact."""
    given = certificate(champion())
    assert Certificate.from_json(given.to_json()) == given


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "The certificate is not JSON"),
        ("[]", "The certificate holds other keys than band, confidence"),
        ('{"method": "marginal"}', "The certificate holds other keys than "),
    ],
)
def test_other_texts_are_refused(text: str, message: str) -> None:
    """With one sentence."""
    with pytest.raises(InputError, match=message):
        Certificate.from_json(text)


def test_the_certificate_in_words() -> None:
    """When, on what, which promise, and for what."""
    given = certificate(champion())
    first, second, third = given.sentences()
    assert first == (
        f"Calibrated 2030-01-02T03:04:05+00:00 on 200 nominal images ({given.images_sha256[:12]}, split with seed 7): "
        "method marginal, rank 199."
    )
    assert second == "Nominal images are flagged at 0.995%; in 9 of 10 calibrations between 0.178% and 2.35%."
    assert third.startswith(f"It holds for weights {given.weights_sha256[:12]}, preprocessing ")
    assert third.endswith("by python 3.13.1, reconwatch 0.1.0.")


def test_the_order_of_the_images_does_not_matter() -> None:
    """The hash is of the set of calibration images, whichever came first."""
    detector, threshold, scores = champion()
    images = [("a.png", "1"), ("b.png", "2")]
    given = certify(detector, threshold, scores, images, 7, datetime(2030, 1, 1, tzinfo=UTC), {})
    assert given.images_sha256 == certificate(champion()).images_sha256


def test_the_installed_versions_are_of_what_computes_scores() -> None:
    """Python, this package, torch and numpy."""
    assert list(installed_versions()) == ["python", "reconwatch", "torch", "numpy"]
    assert installed_versions()["numpy"] == np.__version__
