"""While a batch is scored the garbage collector leaves older objects alone, and nothing stays uncollected for it."""

import gc
import weakref

import pytest

from flows.heap import old_objects_left_alone


class Ring:
    """Something that only the garbage collector can free."""

    def __init__(self) -> None:
        self.itself = self


def test_older_objects_are_looked_through_again_afterwards() -> None:
    """Within, what was there before stays; what is new is freed; afterwards all of it is."""
    older = Ring()
    seen = weakref.ref(older)
    with old_objects_left_alone():
        del older
        new = weakref.ref(Ring())
        gc.collect()
        assert (seen() is not None, new() is None) == (True, True)
    gc.collect()
    assert seen() is None


def test_a_failure_ends_it_too() -> None:
    """Nothing stays out of the collector's sight for a batch that failed."""
    with pytest.raises(RuntimeError), old_objects_left_alone():
        raise RuntimeError
    assert gc.get_freeze_count() == 0
