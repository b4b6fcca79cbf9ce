"""The next batch is read while this one is worked on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(batches: Iterable[T]) -> Iterator[T]:
    """The same, each taken in a thread of its own while whoever asked works on the one before.

    An error in taking one is raised where that one would have come. Whoever stops early waits for one more to be taken.
    """
    waiting = iter(batches)
    nothing = object()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        coming = thread.submit(next, waiting, nothing)
        while (taken := coming.result()) is not nothing:
            coming = thread.submit(next, waiting, nothing)
            yield taken  # type: ignore[misc]
