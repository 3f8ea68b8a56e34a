"""Threads take items from one list, tell what failed, and stop at once when the caller does."""

import os
import threading
import time
from collections.abc import Callable

import pytest

from pipeline import workers as module
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
                time.sleep(0.001)  # between two looks
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


def meeting(count: int) -> tuple[Callable[[int], None], threading.Event]:
    """Return work that waits until so many items are worked on at the same time, and what tells that they were."""
    together = threading.Event()
    met = threading.Barrier(count, together.set)

    def meet(item: int) -> None:
        met.wait(PATIENCE)

    return meet, together


def test_what_is_begun_goes_on_while_the_caller_does_something_else() -> None:
    meet, together = meeting(2)
    with Workers(2, lambda: None, useful=2) as workers:
        finish = workers.begin(meet, range(2))
        assert together.wait(PATIENCE)
        assert finish() == {}


def test_two_lists_that_are_under_way_are_told_apart() -> None:
    def fail(item: int) -> None:
        if item % 2:
            raise ValueError(f"{item} is wrong")

    def give_up(item: int) -> None:
        raise HopelessError("the disk is full")

    with Workers(2, lambda: None) as workers:
        first, second, third = (
            workers.begin(fail, range(5)),
            workers.begin(give_up, [5, 6]),
            workers.begin(fail, [7, 8]),
        )
        assert {item: str(error) for item, error in third().items()} == {7: "7 is wrong"}
        assert {item: str(error) for item, error in second().items()} == {5: "the disk is full", 6: "the disk is full"}
        assert {item: str(error) for item, error in first().items()} == {1: "1 is wrong", 3: "3 is wrong"}


def test_no_more_items_are_worked_on_at_the_same_time_than_may_be() -> None:
    guard = threading.Lock()
    now, most = 0, 0
    ticked = threading.Event()

    def work(item: int) -> None:
        nonlocal now, most
        with guard:
            now += 1
            most = max(most, now)
        assert ticked.wait(PATIENCE)
        with guard:
            now -= 1

    with Workers(3, ticked.set, useful=2) as workers:
        ends = [workers.begin(work, range(10), nbytes) for nbytes in (0, 2**30)]
        assert [end() for end in ends] == [{}, {}]
    assert most <= 3


@pytest.mark.parametrize(("processors", "threads"), [(3, 3), (8, 4), (None, 1)])
def test_large_pieces_are_worked_on_by_every_processor_from_the_beginning(
    processors: int | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    meet, together = meeting(threads)
    with Workers(4, lambda: None) as workers:
        finish = workers.begin(meet, range(threads), threads * (module._SMALL_BYTES + 1))
        assert together.wait(PATIENCE)
        assert finish() == {}


def test_items_that_were_left_out_are_not_taken_for_done() -> None:
    begun = threading.Event()

    def work(item: int) -> None:
        begun.set()
        while True:
            workers.check()
            time.sleep(0.001)  # long work, which asks now and then whether it is to stop

    with Workers(1, lambda: None) as workers:
        finish = workers.begin(work, range(3))
        assert begun.wait(PATIENCE)
    with pytest.raises(InterruptedError):
        finish()


def test_what_is_no_ordinary_error_reaches_the_caller() -> None:
    def work(item: int) -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit), Workers(2, lambda: None) as workers:
        workers.each(work, range(2))
