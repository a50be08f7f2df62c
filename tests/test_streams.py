"""The stream of a champion's batches: it is told once when it goes over its limit, and starts anew with a champion."""

import json
from dataclasses import replace

import numpy as np
import pytest

from ae_models.calibration import Threshold, conformal_threshold
from ae_models.errors import InputError
from flows.config import MonitorConfig
from flows.streams import Stream

SCORES = np.arange(1.0, 1001.0)
LIMIT = 1 / (0.05 * 6 / np.pi**2)


def threshold(confidence: float | None = None) -> Threshold:
    return conformal_threshold(SCORES, 0.01, confidence)


def begun(confidence: float | None = None, calibration: int = 1) -> Stream:
    return Stream.start(threshold(confidence), MonitorConfig(), calibration)


def seen(stream: Stream, *flagged: int) -> tuple[Stream, list[int]]:
    """The stream after batches of 100 with so many flags each, and the places of those that crossed a limit."""
    crossed = []
    for place, count in enumerate(flagged):
        before, stream = stream, stream.after(count, 100)
        if stream.crossings(before):
            crossed.append(place)
    return stream, crossed


def test_nominal_batches_say_nothing() -> None:
    """As many flags as promised, for long: no crossing, and evidence near none."""
    stream, crossed = seen(begun(), *[1] * 200)
    assert crossed == []
    assert stream.evidence.e_value < 1


def test_a_small_lasting_rise_is_told_once() -> None:
    """Three flags in a hundred, of which no batch alarms alone, cross the limit; further ones say nothing new."""
    stream, crossed = seen(begun(), *[3] * 40)
    assert len(crossed) == 1
    assert stream.alarmed
    assert stream.evidence.e_value > LIMIT


def test_evidence_that_wavers_around_its_limit_is_one_crossing() -> None:
    """Below the limit and above it again, without having been gone in between, is no news."""
    over, first = seen(begun(), *[3] * 14)
    below, _ = seen(over, 0, 0, 0)
    above, again = seen(below, *[3] * 5)
    assert (len(first), again) == (1, [])
    assert 1 < below.evidence.e_value < LIMIT < above.evidence.e_value


def test_a_crossing_is_told_again_after_the_evidence_was_gone() -> None:
    """Once the e-value was 1 or less, the next crossing is news."""
    gone, _ = seen(begun(), *[3] * 14, *[0] * 24)
    assert (gone.alarmed, gone.evidence.e_value < 1) == (False, True)
    _, again = seen(gone, *[5] * 40)
    assert len(again) == 1


def test_the_sentence_of_a_crossing_has_its_numbers() -> None:
    """Batches, flags and images so far, the e-value, and what to do."""
    before, _ = seen(begun(), *[3] * 5)
    (sentence,) = before.after(9, 100).crossings(before)
    assert sentence.startswith("In 6 batches since the calibration 24 of 600 images are flagged, where about 5.99 are")
    assert "look at the flagged ones, or calibrate again" in sentence


def test_each_calibration_has_its_share_of_the_budget() -> None:
    """The second calibration's limit is four times the first one's."""
    assert begun(calibration=2).evidence.budget == pytest.approx(begun().evidence.budget / 4)


def test_the_change_detector_needs_a_confidence() -> None:
    """Without one there is none; with one it works beside the evidence, at the run length that is configured."""
    assert begun().change is None
    change = begun(0.95).change
    assert change is not None
    assert change.average_run_length == 1000


def test_a_change_after_long_calm_is_noticed_sooner_than_by_the_evidence() -> None:
    """After 500 calm batches the evidence has a long way to go; the change detector has none."""
    stream, crossed = seen(begun(0.95), *[0] * 500, *[4] * 10)
    assert crossed
    assert crossed[0] > 499
    assert not stream.evidence.alarm


def test_severity_is_by_the_evidence() -> None:
    """Critical from 1,000 times the limit on."""
    over, _ = seen(begun(), *[3] * 40)
    assert over.severity == "warning"
    assert over.after(60, 100).severity == "critical"


@pytest.mark.parametrize("confidence", [None, 0.95])
def test_it_is_kept_as_json(confidence: float | None) -> None:
    """What the ledger keeps gives the same stream."""
    stream = replace(seen(begun(confidence), 3, 4)[0], alarmed=True)
    assert Stream.from_json(stream.to_json()) == stream


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", json.dumps({"evidence": {}, "change": None, "alarmed": False})]
)
def test_a_damaged_state_is_refused(text: str) -> None:
    """It is never taken for the beginning of a stream."""
    with pytest.raises(InputError, match="calibrate again"):
        Stream.from_json(text)
