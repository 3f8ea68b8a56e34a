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
# So often it is asked whether more threads would help. They do where less than this share of one processor is busy.
_LOOK_SECONDS = 0.05
_BUSY = 0.5
# Work on pieces of more bytes than this is mostly done outside of the interpreter.
_SMALL_BYTES = 2**16


class Workers:
    """Threads for work that waits for disks and networks; a context manager.

    It begins with few threads, and soon has more where they wait. Those that do not wait fight for the interpreter: to
    read files of 4 KiB that are in memory takes two threads three times as long as one.

    Parameters
    ----------
    threads : int
        How many items are worked on at the same time at most.
    tick : callable
        Called several times a second in the caller's thread while it waits.
    useful : int, optional
        How many threads it begins with.
    """

    def __init__(self, threads: int, tick: Callable[[], None], useful: int = 1) -> None:
        self._threads = threads
        self._tick = tick
        self._useful = useful
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

    def each(self, function: Callable[[Item], None], items: Iterable[Item], nbytes: int = 0) -> dict[Item, Exception]:
        """Call `function` with every item and return the items that failed, with their errors: see :meth:`begin`."""
        return self.begin(function, items, nbytes)()

    def begin(
        self, function: Callable[[Item], None], items: Iterable[Item], nbytes: int = 0
    ) -> Callable[[], dict[Item, Exception]]:
        """Begin to call `function` with every item.

        After an error that is hopeless, the items that are left fail with it at once.

        Parameters
        ----------
        function : callable
            The work.
        items : iterable
            What is worked on.
        nbytes : int, optional
            How many bytes are hashed in all. Large pieces are hashed outside of the interpreter, on every processor.

        Returns
        -------
        callable
            Waits for the end, and returns the items that failed, with their errors. It raises InterruptedError as
            :meth:`check` does: then some items were left out.
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
        if nbytes > _SMALL_BYTES * len(todo):
            self._useful = min(self._threads, max(self._useful, os.cpu_count() or 1))
        begun = {self._pool.submit(work) for _ in range(min(self._useful, most))}

        def finish() -> dict[Item, Exception]:
            pending = begun
            while pending:
                began, busy = time.monotonic(), time.process_time()
                finished, pending = wait(pending, _LOOK_SECONDS if self._useful < most else TICK_SECONDS)
                for future in finished:
                    future.result()
                waits = time.process_time() - busy < _BUSY * (time.monotonic() - began)
                if todo and waits and self._useful < most:
                    more = min(self._useful, most - self._useful)
                    pending |= {self._pool.submit(work) for _ in range(more)}
                    self._useful += more
                self._tick()
            self.check()
            return failures

        return finish
