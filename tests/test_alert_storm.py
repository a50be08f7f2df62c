"""A small alert storm, as the benchmark raises it: channels that fail half of the time lose and make up nothing."""

from pathlib import Path

import pytest

from benchmarks.alert_storm import storm, table


@pytest.mark.slow
@pytest.mark.parametrize(("grouped", "incidents"), [(False, 120), (True, 2)])
def test_a_storm_loses_nothing_and_makes_nothing_up(tmp_path: Path, grouped: bool, incidents: int) -> None:
    """Every incident reaches both channels though half of the requests fail, and copies carry a key that is known."""
    seen = storm(tmp_path, grouped, batches=120, seed=0)
    assert (seen.flagged_batches, seen.incidents) == (120, incidents)
    assert (seen.lost, seen.unexpected, seen.out_of_order) == (0, 0, 0)
    assert seen.answered_500 > 0
    assert seen.requests == seen.messages + seen.answered_500
    assert table([seen]).row_count == 13
