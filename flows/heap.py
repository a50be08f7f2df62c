"""What Python's garbage collector need not look through."""

import gc
from functools import cache


@cache
def leave_old_objects_alone() -> None:
    """From the first call in a process on, the collector looks only through objects that are newer than it.

    A full collection takes more than half a second where PyTorch, MLflow and Prefect are imported, and the many small
    objects of most batches set it off. Once only: garbage that is there at a later call would never be freed, such as
    the thread pools of MLflow's artifact stores.
    """
    gc.freeze()
