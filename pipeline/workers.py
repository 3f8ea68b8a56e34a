"""A pool of threads that take items from one list, and stop at once when the caller does."""

import errno
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

from .errors import PipelineError

Item = TypeVar("Item")
TICK_SECONDS = 0.2
# Work begins with few threads, and soon has more where they wait.
_FIRST_THREADS = 2
_LOOK_SECONDS = 0.02
_WAITING = 0.8


class Workers:
    """Threads for work that waits for disks and networks; a context manager.

    Parameters
    ----------
    threads : int
        How many items are worked on at the same time at most.
    tick : callable
        Called several times a second in the caller's thread while it waits.
    """

    def __init__(self, threads: int, tick: Callable[[], None]) -> None:
        self._threads = threads
        self._tick = tick
        self._useful = min(threads, _FIRST_THREADS)
        self._stop = threading.Event()

    def __enter__(self) -> "Workers":
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="pipeline")
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._pool.shutdown()

    def check(self) -> None:
        """Raise when the work is to stop; long work calls it now and then.

        Raises
        ------
        InterruptedError
            When the caller has left the context, for instance by a keyboard interrupt.
        """
        if self._stop.is_set():
            raise InterruptedError(errno.EINTR, "stopped")

    def each(self, function: Callable[[Item], None], items: Iterable[Item]) -> dict[Item, Exception]:
        """Call `function` with every item and return the items that failed, with their errors.

        After an error that is hopeless, the items that are left fail with it at once.

        Raises
        ------
        InterruptedError
            As :meth:`check` does: then some items were left out.
        """
        todo = deque(items)
        failures: dict[Item, Exception] = {}
        hopeless: list[Exception] = []

        def work() -> None:
            while not self._stop.is_set():
                try:
                    item = todo.popleft()
                except IndexError:
                    return
                if hopeless:
                    failures[item] = hopeless[0]
                    continue
                try:
                    function(item)
                except Exception as error:
                    failures[item] = error
                    if isinstance(error, PipelineError) and error.is_hopeless:
                        hopeless.append(error)

        most = min(self._threads, len(todo))
        pending = {self._pool.submit(work) for _ in range(min(self._useful, most))}
        while pending:
            load = _Load()
            finished, pending = wait(pending, _LOOK_SECONDS if self._useful < most else TICK_SECONDS)
            for future in finished:
                future.result()
            if todo and self._useful < most and load.allows_more_than(self._useful):
                more = min(self._useful, most - self._useful)
                pending |= {self._pool.submit(work) for _ in range(more)}
                self._useful += more
            self._tick()
        self.check()
        return failures


class _Load:
    """How many processors this process keeps busy from now on.

    Threads that wait for a disk or a network cost nothing. Those that do not wait fight for the interpreter: eight of
    them take twice as long as one to read files of 4 KiB that are in memory.
    """

    def __init__(self) -> None:
        self._began = time.monotonic(), time.process_time()

    def allows_more_than(self, threads: int) -> bool:
        """Tell whether more than that many threads would help: these wait, or none of them waits for another."""
        seconds, busy = time.monotonic() - self._began[0], time.process_time() - self._began[1]
        return busy < _WAITING * seconds or (threads < (os.cpu_count() or 1) and busy > _WAITING * threads * seconds)
