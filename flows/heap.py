"""What Python's garbage collector need not look through."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def old_objects_left_alone() -> Iterator[None]:
    """Within it the collector looks through new objects alone; afterwards through all of them, as before.

    A full collection takes more than half a second where PyTorch, MLflow and Prefect are imported, and the many small
    objects of most batches set it off. Several threads may be within: the first to leave ends it for all.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
