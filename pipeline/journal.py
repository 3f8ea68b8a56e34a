"""A journal of audits: which blob was last found intact when, and which audits were finished.

It is trusted for nothing but what need not be done again tonight: what is damaged never gets into it as intact.
"""

import contextlib
import json
import sqlite3
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import ClassVar, NamedTuple, TypeVar

from .durable import make_private_file

T = TypeVar("T")

# So far the clocks of machines that share a journal may differ.
_SKEW_SECONDS = 24 * 3600


class Seen(NamedTuple):
    """When a blob was last read: in the audit of which night, and at what time; -1 when it was not intact."""

    night: str
    at: float


NEVER = Seen("", 0.0)
# Nights that were missed are made up for within this time.
_RESULT_DAYS = 30
# A blob that was not read for so long is due first of all anyway.
_MOST_DAYS = 1100


class AuditJournal:
    """The journal of one user, in one sqlite3 file. It may be deleted at any time, be read-only or damaged.

    Without it an audit reads everything again.

    Parameters
    ----------
    file : Path or None
        Where to keep it; None keeps nothing.
    """

    _known: ClassVar[dict[Path, "AuditJournal"]] = {}

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._memory: sqlite3.Connection | None = None
        self._is_prepared = False
        self._noted: dict[tuple[str, date, str], dict[str, int]] = {}

    @classmethod
    def at(cls, file: Path) -> "AuditJournal":
        """Return the journal in a file; the same one when it is asked for again."""
        if file not in cls._known:
            cls._known[file] = cls(file)
        return cls._known[file]

    def load(self, place: str) -> dict[str, Seen]:
        """Return what is known of the blobs in a place: key to when it was read last.

        What a clock that went wrong dates from the future is not: it would not be read again until then.
        """
        latest = time.time() + _SKEW_SECONDS

        def read(connection: sqlite3.Connection) -> dict[str, Seen]:
            rows = connection.execute("SELECT blob, night, at FROM blobs WHERE place = ? AND at <= ?", (place, latest))
            return {str(blob): Seen(str(night), float(at)) for blob, night, at in rows}

        return self._use(read) or {}

    def store(self, place: str, night: date, read: Iterable[tuple[str, float]]) -> None:
        """Remember blobs that were read: key and time, which is -1 for one that is not intact."""
        rows = [(place, blob, night.isoformat() if at >= 0 else "", at) for blob, at in read]
        if rows:
            self._use(
                lambda connection: connection.executemany("INSERT OR REPLACE INTO blobs VALUES (?, ?, ?, ?)", rows)
            )

    def turn(self, place: str, night: date) -> int:
        """Return how many other nights a place was audited in before; a night is counted once."""

        def count(connection: sqlite3.Connection) -> int:
            for last, number in connection.execute("SELECT night, number FROM turns WHERE place = ?", (place,)):
                if last == night.isoformat():
                    return int(number)
                row = (place, night.isoformat(), int(number) + 1)
                break
            else:
                row = (place, night.isoformat(), 0)
            connection.execute("INSERT OR REPLACE INTO turns VALUES (?, ?, ?)", row)
            return row[2]

        return self._use(count) or 0

    def result(self, place: str, night: date, options: str) -> dict[str, int] | None:
        """Return what an audit counted, as far as it came; None when that was not noted."""

        def read(connection: sqlite3.Connection) -> dict[str, int] | None:
            query = "SELECT counts FROM finished WHERE place = ? AND night = ? AND options = ?"
            for (counts,) in connection.execute(query, (place, night.isoformat(), options)):
                return {str(name): int(count) for name, count in json.loads(counts).items()}
            return None

        found = self._use(read)
        # What this process did it knows also when the file cannot be read any more.
        return self._noted.get((place, night, options)) if found is None and self._file is None else found

    def note(self, place: str, night: date, options: str, counts: Mapping[str, int]) -> None:
        """Remember what an audit counted."""
        self._noted[place, night, options] = dict(counts)
        row = (place, night.isoformat(), options, json.dumps(dict(counts)))
        self._use(lambda connection: connection.execute("INSERT OR REPLACE INTO finished VALUES (?, ?, ?, ?)", row))

    def forget(self, place: str, night: date) -> None:
        """Forget the results of all that is in a place, of earlier nights that are finished or a month ago.

        Of nights that are years ago everything is forgotten: places that are gone do not fill the journal for ever.
        """
        self._noted = {key: counts for key, counts in self._noted.items() if key[1] >= night}
        month_ago, years_ago = (
            date.fromordinal(max(1, night.toordinal() - days)).isoformat() for days in (_RESULT_DAYS, _MOST_DAYS)
        )
        within = (f"{place}\n", f"{place}\v", night.isoformat(), month_ago, place)

        def delete(connection: sqlite3.Connection) -> None:
            connection.execute(
                "DELETE FROM finished WHERE place > ? AND place < ? AND night < ? AND (night < ? OR night IN "
                "(SELECT night FROM finished WHERE place = ?))",
                within,
            )
            connection.execute("DELETE FROM finished WHERE night < ?", (years_ago,))
            connection.execute("DELETE FROM turns WHERE night < ?", (years_ago,))
            connection.execute("DELETE FROM blobs WHERE night < ? AND at >= 0", (years_ago,))

        self._use(delete)

    def _use(self, function: Callable[[sqlite3.Connection], T]) -> T | None:
        if self._file is not None:
            try:
                make_private_file(self._file)  # it names what is not published yet
                with contextlib.closing(sqlite3.connect(self._file, timeout=10)) as connection, connection:
                    if not self._is_prepared:
                        _prepare(connection)
                        self._is_prepared = True
                    connection.execute("PRAGMA synchronous = OFF")
                    return function(connection)
            except (sqlite3.OperationalError, OSError):
                self._file = None
            except (sqlite3.DatabaseError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
                with contextlib.suppress(OSError):
                    self._file.unlink()
                self._is_prepared = False
        # Where nothing can be kept, this run still knows what it did.
        if self._memory is None:
            self._memory = sqlite3.connect(":memory:", check_same_thread=False)
            weakref.finalize(self, self._memory.close)
            _prepare(self._memory)
        return function(self._memory)


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute(
        "CREATE TABLE IF NOT EXISTS blobs (place TEXT, blob TEXT, night TEXT, at REAL, PRIMARY KEY (place, blob)) "
        "WITHOUT ROWID"
    )
    connection.execute("CREATE TABLE IF NOT EXISTS turns (place TEXT PRIMARY KEY, night TEXT, number INTEGER)")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS finished (place TEXT, night TEXT, options TEXT, counts TEXT, "
        "PRIMARY KEY (place, night, options)) WITHOUT ROWID"
    )
