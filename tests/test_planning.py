"""Plans: the images that a wish takes against simulation, and the nearest wish where one cannot be met."""

import re
from typing import Any

import numpy as np
import pytest

from ae_models.calibration import conformal_threshold, images_needed
from ae_models.errors import InputError
from ae_models.monitoring import batch_verdict
from ae_models.planning import Plan, plan


def planned(**changes: Any) -> Plan:
    wishes = {
        "false_alarm_rate": 0.01,
        "confidence": None,
        "batch_size": 200,
        "batch_false_alarm_rate": 0.01,
        "smallest_defect_rate": 0.05,
        "power": 0.85,
        "detection_rate": 1.0,
    }
    return plan(**{**wishes, **changes})


@pytest.mark.parametrize("confidence", [None, 0.95])
@pytest.mark.parametrize("detection_rate", [1.0, 0.7])
def test_the_expected_power_is_that_of_simulated_batches(confidence: float | None, detection_rate: float) -> None:
    """Calibrated with the planned images, batches with the smallest defect rate alarm as often, within 4 s.e. (3%)."""
    found = planned(confidence=confidence, detection_rate=detection_rate, batch_size=300)
    random, alarms = np.random.default_rng(0), 0
    for _ in range(2000):
        of = conformal_threshold(random.random(found.images_for_power), 0.01, confidence)
        defects = random.random(300) < 0.05
        scores = np.where(
            defects & (random.random(300) < detection_rate), 2.0, random.random(300) * np.where(defects, 0, 1)
        )
        flagged = int(of.flags(scores).sum())
        assert batch_verdict(300, flagged, 0, of, 0.01, 0.01).alarms_from == found.alarms_from
        alarms += flagged >= found.alarms_from
    assert alarms / 2000 == pytest.approx(found.expected_power, abs=0.03)


def test_fewer_images_than_planned_do_not_give_the_power() -> None:
    """The planned number gives it, and the number with one exceedance less does not."""
    found = planned()
    assert found.images_for_power == 699
    assert found.power_with(699) == found.expected_power >= 0.85
    assert found.power_with(599) < 0.85
    assert found.power_with(98) == 0.0


def test_the_rates_images_are_those_of_the_calibration() -> None:
    """As `images_needed` has them, and the power never takes fewer."""
    for rate, confidence in [(0.01, None), (0.01, 0.95), (0.002, 0.9)]:
        found = planned(false_alarm_rate=rate, confidence=confidence)
        assert found.images_for_rate == images_needed(rate, confidence) <= found.images_for_power


def test_a_stream_of_weak_defects_takes_several_batches() -> None:
    """Of 100 images a batch with 3% defects, all caught, a tenth alarm alone; half of the streams take 2 to 12."""
    found = planned(batch_size=100, smallest_defect_rate=0.06, power=0.5)
    assert found.half_alone == pytest.approx(0.11, abs=0.01)
    assert found.half_delay is not None
    assert 2 <= found.half_delay <= 12


def test_half_the_defects_alarm_as_often_alone_as_a_plan_for_them_says() -> None:
    """The same figure from the other side: the power of the wish for half the defect rate, at as many images."""
    found, half = planned(), planned(smallest_defect_rate=0.025, power=0.01)
    assert found.half_alone == pytest.approx(half.power_with(found.images_for_power))


def test_a_stream_may_never_notice_what_is_too_weak() -> None:
    """When most streams are not noticed within 500 batches there is no delay, and the plan says so."""
    found = planned(smallest_defect_rate=0.002, power=0.001)
    assert found.half_delay is None
    assert found.sentences()[3].endswith("of streams of such batches fewer than half are noticed within 500 batches.")


def test_the_plan_in_words() -> None:
    """What it takes, what it gives, and what was assumed."""
    assert planned(detection_rate=None, smallest_defect_rate=0.06).sentences() == (
        "A false-alarm rate of 1% takes 99 nominal calibration images.",
        "To notice batches of 200 with 6% defects with a chance of 85% takes 699 nominal calibration images; it is "
        "assumed that the threshold catches 80% of defects.",
        "A batch then alarms from 8 flagged images on: 88.7% of such batches do, and at most 1% of nominal ones alarm "
        "by any test.",
        "With half as many defects 36.3% of batches alarm by themselves, and of streams of such batches half are "
        "noticed within 2 batches.",
        "On nominal batches the stream ever alarms with a chance of at most 5%.",
    )


@pytest.mark.parametrize(
    ("n_nominal", "sentence"),
    [
        (98, "98 calibration images cannot promise a false-alarm rate of 1%: that takes 99."),
        (
            300,
            "With 300 calibration images 74.3% of batches of 200 with 5% defects raise an alarm; 85% are wished for, "
            "which takes 699.",
        ),
        (
            699,
            "With 699 calibration images 90.8% of batches of 200 with 5% defects raise an alarm; 85% are wished for.",
        ),
    ],
)
def test_where_a_pipeline_stands(n_nominal: int, sentence: str) -> None:
    """Too few for the rate, too few for the power, enough."""
    assert planned().standing(n_nominal) == sentence


def test_an_impossible_wish_is_refused_with_the_nearest_possible_ones() -> None:
    """Each of the three numbers that the message names makes the wish possible, alone."""
    with pytest.raises(InputError) as refusal:
        planned(smallest_defect_rate=0.02, power=0.9)
    message = str(refusal.value)
    found = re.fullmatch(
        r"Batches of 200 with 2% defects cannot be noticed with a chance of 90%, however many images calibrate; the "
        r"nearest that can be had: batches of (\d+), or defects from ([0-9.]+)% on, or a power of ([0-9.]+)%\.",
        message,
    )
    assert found is not None, message
    size, share, power = int(found[1]), float(found[2]) / 100, float(found[3]) / 100
    assert planned(smallest_defect_rate=0.02, power=0.9, batch_size=size).expected_power >= 0.9
    assert planned(smallest_defect_rate=share, power=0.9).expected_power >= 0.9
    assert planned(smallest_defect_rate=0.02, power=power).expected_power >= power


def test_a_batch_too_small_to_alarm_is_told_the_size_that_can() -> None:
    """One image is never rare enough at 1%: neither power nor defects help."""
    with pytest.raises(InputError, match=r"Batches of 1 with 2% defects .* can be had: batches of [0-9,]+\.$"):
        planned(batch_size=1, smallest_defect_rate=0.02)


def test_a_threshold_that_catches_nothing_is_refused() -> None:
    """When it catches no more defects than nominal images, no number of images helps."""
    with pytest.raises(
        InputError, match="catches 1% of defects, no more than the 1% of nominal images that it may flag"
    ):
        planned(detection_rate=0.01)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"false_alarm_rate": 0}, "The false-alarm rate is 0: give a number above 0 and below 1, such as 0.01"),
        ({"confidence": 1}, "The confidence is 1: give a number above 0 and below 1, such as 0.95"),
        ({"batch_false_alarm_rate": 2}, "The false-alarm rate of batches is 2: "),
        ({"smallest_defect_rate": 0}, "The smallest defect rate is 0: "),
        ({"power": 1}, "The power is 1: give a number above 0 and below 1, such as 0.9"),
        ({"stream_false_alarm_rate": 0}, "The false-alarm rate of the stream is 0: "),
        ({"detection_rate": 0}, "The detection rate is 0: give a number above 0 and up to 1, such as 0.8"),
        ({"batch_size": 0}, "The batch size is 0: give a number from 1 to 1,000,000"),
    ],
)
def test_wishes_out_of_range_are_refused(changes: dict[str, float], message: str) -> None:
    """With what to give instead."""
    with pytest.raises(InputError, match=message):
        planned(**changes)
