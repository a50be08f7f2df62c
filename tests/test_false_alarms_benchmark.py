"""The benchmark of false alarms still runs: each part of it in small, on simulated scores and on images."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.false_alarms import (
    batch_rows,
    correlated_rows,
    diagnosis_rows,
    image_rows,
    marked_rows,
    power_row,
    stream_rows,
)
from benchmarks.false_alarms_at_work import Files, at_work
from benchmarks.false_alarms_on_images import Images, Set, other_light, promises
from benchmarks.false_alarms_table import Row, at_most, rate_of, told


@pytest.mark.parametrize(
    ("part", "repeats", "rows"),
    [
        (image_rows, 20, 11),
        (batch_rows, 10, 18),
        (correlated_rows, 40, 6),
        (stream_rows, 10, 12),
        (diagnosis_rows, 10, 9),
        (power_row, 20, 2),
        pytest.param(marked_rows, 1, 12, marks=pytest.mark.slow),
    ],
)
def test_each_simulation_gives_its_rows(
    part: Callable[[int, np.random.Generator], Iterator[Row]], repeats: int, rows: int
) -> None:
    """As many as there are settings, each with what was promised and what was found."""
    found = list(part(repeats, np.random.default_rng(0)))
    assert len(found) == rows
    assert all(row.what and row.setting and row.realised for row in found)


def images(count: int, seed: int) -> Images:
    """Images of 8 x 8 noise, four of a group."""
    pixels = np.random.default_rng(seed).random((count, 1, 8, 8), dtype=np.float32)
    return Images(pixels, tuple(f"tile {seed} {place // 4}" for place in range(count)))


def test_the_images_give_their_rows() -> None:
    """Promises on splits by group, and what becomes of other images."""
    train = Set("noise", images(400, 0), 0.05, 20)
    assert len(list(promises(train, 2))) == 8
    assert len(list(other_light(train, images(80, 1), 2, None))) == 10


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:(mlflow|sqlalchemy).*")
def test_the_whole_pipeline_gives_its_rows(
    small_images: Callable[[Path, int, int], list[Path]], tmp_path: Path
) -> None:
    """Trained, calibrated and at work on files; every batch that was decided is found in the ledger and in MLflow."""
    paths = tuple(small_images(tmp_path, 120, 0))
    files = Files("patterns", paths, tuple(str(place // 2) for place in range(120)), 16, 0.1, 20)
    rows = list(at_work(files, 2))
    assert [row.promised for row in rows] == ["10%", "1%", "5%", "all"]
    assert rows[-1].realised == "4 of 4"


def test_a_rate_keeps_its_promise_where_the_interval_reaches_down_to_it() -> None:
    """A share of 2 in 100 may be one of 1%; one of 10 in 100 may not."""
    assert at_most(rate_of(2, 100), 0.01)
    assert not at_most(rate_of(10, 100), 0.01)
    assert told(rate_of(2, 100)) == "2% (0.243% to 7.04%)"
