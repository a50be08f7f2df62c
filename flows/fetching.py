"""Images that are fetched before they are needed, many at once: from a network most of the time is waiting."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType

from ae_models.images import ImageInput
from flows.items import Item

AT_ONCE = 16  # images that are fetched at the same time
AHEAD = 32  # images that are fetched before they are asked for, at most


class _ReadAhead:
    """The contents of items in their order, each fetched a little before it is asked for."""

    def __init__(self, items: Sequence[Item], pool: ThreadPoolExecutor) -> None:
        self._items, self._pool = items, pool
        self._pending: dict[int, Future[ImageInput]] = {}
        self._begun, self._lock = 0, threading.Lock()

    def take(self, place: int) -> ImageInput:
        """The content of the item at this place; asked for once."""
        with self._lock:
            while self._begun < min(place + AHEAD + 1, len(self._items)):
                self._pending[self._begun] = self._pool.submit(self._items[self._begun].content)
                self._begun += 1
            future = self._pending.pop(place)
        return future.result()


@contextmanager
def contents_of(
    items: Sequence[Item], kept: Mapping[int, bytes] = MappingProxyType({})
) -> Iterator[Sequence[Callable[[], ImageInput]]]:
    """What gives each image, for `ae_models.images.stream`; those behind a network are fetched beforehand.

    Memory stays flat: about `AHEAD` files are held that nobody asked for yet. `kept` are local files whose bytes are
    in memory, by their item's place.
    """
    if not any(item.waits for item in items):
        yield [partial(bytes, kept[place]) if place in kept else item.content for place, item in enumerate(items)]
        return
    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="fetch")
    reader = _ReadAhead(items, pool)
    try:
        yield [partial(reader.take, place) for place in range(len(items))]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
