"""Reading ahead changes when batches are read, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from vaelens.scoring.ahead import ahead


def test_the_same_in_order_and_none_twice() -> None:
    assert list(ahead([])) == []
    assert list(ahead(iter(range(50)))) == list(range(50))
    assert list(ahead([None, False, 0])) == [None, False, 0]


def test_the_next_is_read_while_this_one_is_worked_on() -> None:
    read = [threading.Event() for _ in range(3)]

    def batches() -> Iterator[int]:
        for at in range(3):
            read[at].set()
            yield at

    for at in ahead(batches()):
        assert at == 2 or read[at + 1].wait(10)  # without having asked for it
        assert at == 0 or threading.active_count() > 1


def test_no_more_than_one_is_read_ahead() -> None:
    taken: list[int] = []

    def batches() -> Iterator[int]:
        for at in range(10):
            taken.append(at)
            yield at

    for at in ahead(batches()):
        assert len(taken) <= at + 2  # this one and the next


def test_an_error_comes_where_its_batch_would_have() -> None:
    def batches() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("the third")

    taken = ahead(batches())
    assert [next(taken), next(taken)] == [1, 2]
    with pytest.raises(ValueError, match="the third"):
        next(taken)


def test_whoever_stops_early_leaves_no_thread() -> None:
    before = threading.active_count()
    for at in ahead(range(100)):
        if at == 3:
            break
    assert threading.active_count() == before
