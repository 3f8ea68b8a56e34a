"""Digests of files and streams, and a cache of them.

A blob is named by the SHA-1 of its bytes (40 hex digits, FIPS 180-4). Archives of the earlier tool hold SHA-256 names
(64 digits). The length of a digest tells which of the two it is.
"""

import contextlib
import hashlib
import io
import json
import os
import sqlite3
import stat
import time
import zlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeAlias, TypeVar

from .durable import make_private_file
from .errors import InvalidNameError, SourceChangedError, printable
from .workers import Workers

if TYPE_CHECKING:
    from hashlib import _Hash

Stream: TypeAlias = BinaryIO | io.RawIOBase

CHUNK = 2**20
# What is only hashed stays in the cache of a processor.
_HASHED_AT_ONCE = 2**18
_READ = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
_ALGORITHMS = {40: "sha1", 64: "sha256"}
_HEX = frozenset("0123456789abcdef")
# What is stored gets the highest number of all rows.
_MOST_FOLDERS = 1000
_FORGET = "DELETE FROM digests WHERE rowid <= (SELECT rowid FROM digests ORDER BY rowid DESC LIMIT 1 OFFSET ?)"

T = TypeVar("T")
# Path to the four numbers of a stamp and the digest.
_Entries: TypeAlias = dict[str, tuple[Any, ...]]


def chunked_sha(f: io.BytesIO, chunk: int = 2**25) -> str:
    """Return the SHA-1 of a binary stream as 40 hex digits.

    Parameters
    ----------
    f : binary stream
        Read from where it stands to its end.
    chunk : int, optional
        How many bytes to read at a time.

    Raises
    ------
    ValueError
        When `chunk` is not positive.

    Examples
    --------
    >>> chunked_sha(io.BytesIO(b"abc"))
    'a9993e364706816aba3e25717850c26c9cd0d89d'
    """
    if chunk < 1:
        raise ValueError("A chunk must have at least one byte.")
    digest = hashlib.sha1(usedforsecurity=False)
    while data := f.read(chunk):
        digest.update(data)
    return digest.hexdigest()


def is_digest(text: object) -> bool:
    """Tell whether `text` is a lower-case hex SHA-1 or SHA-256.

    Examples
    --------
    >>> is_digest("a9993e364706816aba3e25717850c26c9cd0d89d")
    True
    >>> is_digest("../../etc/passwd")
    False
    """
    return isinstance(text, str) and len(text) in _ALGORITHMS and _HEX.issuperset(text)


def algorithm(digest: str) -> str:
    """Return the name of the algorithm that made `digest`, by its length."""
    return _ALGORITHMS[len(digest)]


def new_hash(name: str) -> "_Hash":
    """Return an empty hash of the algorithm `name`, as hashlib spells it."""
    return hashlib.new(name, usedforsecurity=False)


class Stamp(NamedTuple):
    """What the file system says of a file; while it stays, so do the bytes.

    `changed_ns` (POSIX ctime) is part of it because a program can set the modification time back but not this one.
    """

    size: int
    modified_ns: int
    changed_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Stamp":
        """Take the stamp from what ``os.stat`` or ``os.fstat`` returned."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def open_regular(path: str | os.PathLike[str]) -> int:
    """Open a regular file for reading and return its descriptor; never blocks on a pipe or a device.

    Raises
    ------
    OSError
        When it cannot be opened, or is not a regular file.
    """
    try:
        fd = os.open(path, _READ)
    except ValueError as error:
        raise InvalidNameError(f"{printable(os.fspath(path))} cannot be the name of a file: {error}.") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise SourceChangedError(f"{printable(os.fspath(path))} is not a regular file.")
    return fd


def hash_file(
    path: str | os.PathLike[str],
    name: str = "sha1",
    advance: Callable[[int], None] = lambda nbytes: None,
) -> tuple[str, Stamp]:
    """Return the digest of a file and the stamp that the file had while it was read.

    Parameters
    ----------
    path : str or PathLike
        A regular file.
    name : str, optional
        The algorithm, ``sha1`` or ``sha256``.
    advance : callable, optional
        Called with each number of bytes read, as they are read; what it raises stops the reading.

    Raises
    ------
    OSError
        When the file cannot be read.
    SourceChangedError
        When the file changed while it was read.
    """
    digest = new_hash(name)
    fd = open_regular(path)
    try:
        before = Stamp.of(os.fstat(fd))
        left = before.size
        # What grows is noticed by its stamp, and not read for ever.
        while left and (data := os.read(fd, min(left, _HASHED_AT_ONCE))):
            left -= len(data)
            digest.update(data)
            advance(len(data))
        if Stamp.of(os.fstat(fd)) != before:
            raise SourceChangedError(f"{printable(os.fspath(path))} changed while it was being read; run again.")
        return digest.hexdigest(), before
    finally:
        os.close(fd)


def read_chunks(stream: Stream, chunk: int) -> Iterator[bytes | memoryview]:
    """Yield what is left of a stream, at most `chunk` bytes at a time, through one buffer where the stream allows it.

    Each piece is valid until the next one is asked for.
    """
    readinto = getattr(stream, "readinto", None)
    if readinto is None:
        while data := stream.read(chunk):
            yield data
        return
    view = memoryview(bytearray(chunk))
    while count := readinto(view):
        yield view[:count]


def hash_files(
    folder: Path,
    stamps: Mapping[str, Stamp],
    cache: "HashCache",
    *,
    name: str = "sha1",
    threads: int = 1,
    advance: Callable[[int], None] = lambda nbytes: None,
    tick: Callable[[], None] = lambda: None,
) -> tuple[dict[str, str], dict[str, Exception]]:
    """Return the digests of many files, reading only those that the cache does not know.

    Parameters
    ----------
    folder : Path
        Where the files are.
    stamps : mapping
        Relative posix path to the stamp that the file is expected to have.
    cache : HashCache
        Asked first, and told what was read.
    name : str, optional
        The algorithm, ``sha1`` or ``sha256``.
    threads : int, optional
        How many files are read at the same time.
    advance, tick : callable, optional
        Told of bytes as they are read, from any thread; called now and then, from this one.

    Returns
    -------
    digests : dict
        Path to digest.
    failures : dict
        Path to the error, for files that could not be read or have another stamp by now.
    """
    known = cache.load(folder, name) if stamps else {}
    digests = {path: known[path][1] for path, stamp in stamps.items() if path in known and known[path][0] == stamp}
    fresh: dict[str, str] = {}
    settled: list[tuple[str, Stamp, str]] = []

    with Workers(threads, tick) as workers:

        def read(path: str) -> None:
            def advanced(nbytes: int) -> None:
                advance(nbytes)
                workers.check()

            began = time.time_ns()
            digest, stamp = hash_file(f"{folder}{os.sep}{path}", name, advanced)
            if stamp != stamps[path]:
                raise SourceChangedError("it changed while it was being read; run the same command again")
            fresh[path] = digest
            if is_settled(stamp, began):
                settled.append((path, stamp, digest))

        try:
            unknown = [path for path in stamps if path not in digests]
            failures = workers.each(read, unknown, sum(stamps[path].size for path in unknown))
        finally:
            cache.store(folder, settled, stamps)
    return digests | fresh, failures


class HashCache:
    """Digests of files that were read before, so that an unchanged file is not read again.

    Kept in one sqlite3 file, by folder, path and stamp. It may be deleted at any time, be read-only or damaged:
    it costs only time.

    Parameters
    ----------
    file : Path or None
        Where to keep it; None keeps nothing.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file

    def load(self, folder: Path, name: str = "sha1") -> dict[str, tuple[Stamp, str]]:
        """Return what is known of the files below `folder`: relative posix path to stamp and digest."""
        try:
            entries = self._use(lambda connection: _read(connection, folder, name)) or {}
            known = {path: (Stamp(*numbers), digest) for path, (*numbers, digest) in entries.items()}
            if not all(is_digest(digest) for _, digest in known.values()):
                raise ValueError
            return known
        except (ValueError, TypeError):
            self._discard()
            return {}

    def store(
        self, folder: Path, entries: Iterable[tuple[str, Stamp, str]], there: Container[str] | None = None
    ) -> None:
        """Remember (relative posix path, stamp, digest) of files below `folder`, and forget those that are not `there`.

        The caller vouches that a change after the reading would have changed the stamp; see :func:`is_settled`. Of very
        many folders those are forgotten that were not stored for the longest time.
        """
        by_name: dict[str, _Entries] = {}
        for path, stamp, digest in entries:
            by_name.setdefault(algorithm(digest), {})[path] = (*stamp, digest)

        def merge(connection: sqlite3.Connection) -> None:
            connection.execute("BEGIN IMMEDIATE")
            for name, fresh in by_name.items():
                known = _read(connection, folder, name)
                kept = known if there is None else {path: known[path] for path in known if path in there}
                data = json.dumps(kept | fresh).encode()
                row = (os.fsencode(folder), name, data, _crc(folder, name, data))
                connection.execute("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?)", row)
            connection.execute(_FORGET, (_MOST_FOLDERS,))

        if by_name:
            self._use(merge)

    def _use(self, function: Callable[[sqlite3.Connection], T]) -> T | None:
        if self._file is None:
            return None
        try:
            make_private_file(self._file)  # it names what is not published yet
            with contextlib.closing(sqlite3.connect(self._file, timeout=10)) as connection, connection:
                connection.execute("PRAGMA synchronous = OFF")
                # One row for a folder: to read and write it takes a tenth of the time that a row for each file would.
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS digests (folder BLOB, algorithm TEXT, entries BLOB, crc INTEGER, "
                    "PRIMARY KEY (folder, algorithm))"
                )
                return function(connection)
        except (sqlite3.OperationalError, OSError):
            self._file = None
        except (sqlite3.DatabaseError, ValueError, TypeError, RecursionError):
            self._discard()
        return None

    def _discard(self) -> None:
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.unlink()


def _read(connection: sqlite3.Connection, folder: Path, name: str) -> _Entries:
    query = "SELECT entries, crc FROM digests WHERE folder = ? AND algorithm = ?"
    for data, crc in connection.execute(query, (os.fsencode(folder), name)):
        if isinstance(data, bytes) and crc == _crc(folder, name, data):
            return dict(json.loads(data))
    return {}


def _crc(folder: Path, name: str, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(os.fsencode(folder) + name.encode()))


def is_settled(stamp: Stamp, read_ns: int) -> bool:
    """Tell whether every change of a file after `read_ns` gives it another stamp.

    It does not where the file was read within the tick of the clock in which it changed last: file systems tick every
    10 ms or faster, or every 2 s (FAT).
    """
    changed = max(stamp.modified_ns, stamp.changed_ns)
    tick = 2_000_000_000 if changed % 1_000_000 == 0 else 20_000_000
    return read_ns - changed > tick
