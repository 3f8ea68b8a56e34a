"""Threads take items from one list, tell what failed, and stop at once when the caller does."""

import threading
import time

import pytest

from pipeline.errors import PipelineError
from pipeline.workers import Workers

PATIENCE = 40.0


class HopelessError(PipelineError):
    """An error that every other item would meet too."""

    is_hopeless = True


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_every_item_is_worked_on_once_and_failures_are_told(threads: int) -> None:
    done: list[int] = []

    def work(item: int) -> None:
        done.append(item)
        if item % 3 == 0:
            raise ValueError(f"{item} is wrong")

    with Workers(threads, lambda: None) as workers:
        failures = workers.each(work, range(20))
    assert sorted(done) == list(range(20))
    assert {item: str(error) for item, error in failures.items()} == {n: f"{n} is wrong" for n in range(0, 20, 3)}


def test_after_a_hopeless_error_nothing_more_is_tried() -> None:
    done: list[int] = []

    def work(item: int) -> None:
        done.append(item)
        if item == 2:
            raise HopelessError("the disk is full")

    with Workers(1, lambda: None) as workers:
        failures = workers.each(work, range(6))
        assert done == [0, 1, 2]
        assert {item: str(error) for item, error in failures.items()} == dict.fromkeys(range(2, 6), "the disk is full")
        assert workers.each(done.append, [7]) == {}, "the next list is worked on again"


def test_work_that_waits_gets_all_the_threads_that_there_may_be() -> None:
    together = threading.Barrier(4)

    def meet(item: int) -> None:
        together.wait(PATIENCE)

    with Workers(4, lambda: None) as workers:
        assert workers.each(meet, range(4)) == {}


def test_the_caller_is_asked_now_and_then_while_it_waits() -> None:
    ticked = threading.Event()

    def wait(item: int) -> None:
        assert ticked.wait(PATIENCE)

    with Workers(2, ticked.set) as workers:
        assert workers.each(wait, range(2)) == {}


def test_no_items_are_no_work() -> None:
    with Workers(2, lambda: None) as workers:
        assert workers.each(lambda item: None, []) == {}


def test_work_ends_when_the_caller_is_interrupted() -> None:
    begun: list[int] = []
    ended: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        try:
            while True:
                workers.check()
                time.sleep(0.001)
        finally:
            ended.append(item)

    def tick() -> None:
        if begun:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Workers(2, tick) as workers:
        workers.each(work, range(1000))
    assert sorted(begun) == sorted(ended)
    assert len(begun) <= 2
    with pytest.raises(InterruptedError):
        workers.check()
