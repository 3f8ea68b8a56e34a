"""How a run goes, told in one way to a terminal (bars), to a log (lines) and to Luigi's scheduler (status message)."""

import logging
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .errors import printable
from .logs import LogHandler

if TYPE_CHECKING:
    from tqdm import tqdm

log = logging.getLogger("pipeline")

_LINE_SECONDS = 5.0
_ANNOUNCE_SECONDS = 1.0
_NAMES_SHOWN = 3


def format_bytes(nbytes: float) -> str:
    """Return a number of bytes for people, in decimal units.

    Examples
    --------
    >>> format_bytes(0), format_bytes(999), format_bytes(3_250_000), format_bytes(2.5e15)
    ('0 B', '999 B', '3.2 MB', '2500.0 TB')
    """
    unit = "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if nbytes < 999.95:
            break
        nbytes, unit = nbytes / 1000, larger
    return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"


class Progress:
    """Counts blobs and bytes, and says so; a :class:`~pipeline.transfer.Meter` and a context manager.

    Parameters
    ----------
    what : str
        What is moving, for people.
    blobs : int
        How many blobs there are to move.
    nbytes : int
        How many bytes they have.
    shown : bool, optional
        Show bars or lines at all.
    names_shown : bool, optional
        Show which blobs are moving.

    Attributes
    ----------
    announce : callable or None
        Takes a status message and a percentage; called about once a second.
    moved, there : int
        Blobs that were moved by this run, or were in place already.
    moved_bytes : int
        The bytes of the moved ones.
    """

    def __init__(self, what: str, blobs: int, nbytes: int, *, shown: bool = True, names_shown: bool = True) -> None:
        self.announce: Callable[[str, int], None] | None = None
        self.moved = self.there = self.moved_bytes = 0
        self._failed: set[str] = set()
        self._what = what
        self._blobs = blobs
        self._total = nbytes
        self._bytes = 0
        self._shown = shown
        self._names_shown = names_shown
        self._current: dict[str, int] = {}
        self._guard = threading.Lock()
        self._bars: list[tqdm[Any]] = []
        self._began = self._line_at = self._announced_at = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    @property
    def failed(self) -> int:
        """How many blobs could not be moved; one that is tried again counts once."""
        return len(self._failed)

    @property
    def accounted(self) -> int:
        """How many blobs are moved, there or failed."""
        return self.moved + self.there + self.failed

    def started(self, name: str, size: int) -> None:
        """Note that a blob begins to move."""
        with self._guard:
            self._current[name] = size

    def advanced(self, name: str, nbytes: int) -> None:
        """Note that bytes of a blob are in place; negative when it starts over."""
        with self._guard:
            self._bytes += nbytes
            if name in self._current:
                self._current[name] -= nbytes

    def finished(self, name: str, nbytes: int, error: Exception | None, moved: bool) -> None:
        """Note the end of a blob."""
        with self._guard:
            self._current.pop(name, None)
            self._failed.discard(name)
            if error is not None:
                self._failed.add(name)
            elif moved:
                self.moved += 1
                self.moved_bytes += nbytes
            else:
                self.there += 1
                self._bytes += nbytes

    def tick(self) -> None:
        """Show where things are, if it is time to."""
        now = time.monotonic()
        if self.announce and now - self._announced_at >= _ANNOUNCE_SECONDS:
            self._announced_at = now
            self.announce(self.status(), self.percentage())
        if not self._shown:
            return
        if sys.stderr.isatty():
            self._show_bars()
        elif now - self._line_at >= _LINE_SECONDS:
            self._line_at = now
            log.info("%s: %s", self._what, self.status())

    def percentage(self) -> int:
        """Return how much is done, 0 to 100."""
        return 100 if not self._total else min(100, max(0, 100 * self._bytes // self._total))

    def status(self) -> str:
        """Return one line that says how far things are and what is moving."""
        blobs = f"{self.accounted} of {self._blobs} blobs, " if self._blobs else ""
        status = f"{blobs}{format_bytes(self._bytes)} of {format_bytes(self._total)}"
        if self.failed:
            status += f", {self.failed} failed"
        if not self._current and self.accounted < self._blobs:
            return f"{status}, waiting for another run that moves the rest"
        names = self._names() if self._names_shown else ""
        return f"{status}, now {names}" if names else status

    def _names(self) -> str:
        with self._guard:
            names = [name for name, left in self._current.items() if left > 0]
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        return ", ".join(map(printable, names[:_NAMES_SHOWN])) + more

    def _show_bars(self) -> None:
        from tqdm import tqdm

        if not self._bars:
            bar: tqdm[Any] = tqdm(total=self._total, desc=self._what, unit="B", unit_scale=True, delay=0.5)
            self._bars.append(bar)
            if self._names_shown:
                bar = tqdm(total=0, bar_format="{desc}", position=1, leave=False, delay=0.5)
                self._bars.append(bar)
        self._bars[0].update(self._bytes - self._bars[0].n)
        if self._blobs:
            self._bars[0].set_postfix_str(f"{self.accounted}/{self._blobs} blobs", refresh=False)
        for bar in self._bars[1:]:
            bar.set_description_str(self._names()[: (bar.ncols or 80) - 1])

    def close(self) -> None:
        """Take the bars off the screen."""
        if self._bars:
            self._show_bars()
        while self._bars:
            self._bars.pop().close()


def speak_up() -> None:
    """Show what this package logs, and an interrupt in one line, where the program has not arranged for it."""
    if not log.hasHandlers():
        log.addHandler(LogHandler(sys.stderr))
        log.setLevel(logging.INFO)
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _explain_interrupt


def _explain_interrupt(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        log.error("Interrupted. Run the same command again; it goes on where this one stopped.")
    else:
        sys.__excepthook__(kind, error, trace)
