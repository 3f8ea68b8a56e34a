"""A pool of threads that take items from one list, and stop at once when the caller does."""

import errno
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

from .errors import PipelineError

Item = TypeVar("Item")
_TICK_SECONDS = 0.2


class Workers:
    """Threads for work that waits for disks and networks; a context manager.

    Parameters
    ----------
    threads : int
        How many items are worked on at the same time.
    tick : callable
        Called several times a second in the caller's thread while it waits.
    """

    def __init__(self, threads: int, tick: Callable[[], None]) -> None:
        self._threads = threads
        self._tick = tick
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

        pending = {self._pool.submit(work) for _ in range(min(self._threads, len(todo)))}
        while pending:
            finished, pending = wait(pending, _TICK_SECONDS)
            for future in finished:
                future.result()
            self._tick()
        return failures
