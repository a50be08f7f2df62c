"""While batches are scored the garbage collector leaves what was there before alone, and nothing newer."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from flows.heap import leave_old_objects_alone


class Ring:
    """Something that only the garbage collector can free."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def a_new_process() -> Iterator[None]:
    """Nothing was left alone before, nor is it afterwards."""
    leave_old_objects_alone.cache_clear()
    gc.unfreeze()
    yield
    leave_old_objects_alone.cache_clear()
    gc.unfreeze()


def test_older_objects_are_left_alone_and_newer_ones_are_not() -> None:
    """What was there before stays, garbage or not; what is new is freed."""
    older = Ring()
    seen = weakref.ref(older)
    leave_old_objects_alone()
    del older
    new = weakref.ref(Ring())
    gc.collect()
    assert (seen() is not None, new() is None) == (True, True)


def test_garbage_between_two_batches_is_freed() -> None:
    """Each batch calls it; what one leaves behind before the next begins does not stay for ever."""
    leave_old_objects_alone()
    left_behind = weakref.ref(Ring())
    leave_old_objects_alone()
    gc.collect()
    assert left_behind() is None
