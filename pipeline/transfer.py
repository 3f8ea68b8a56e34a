"""Move verified bytes to files: parts, resume, threads, and names given in groups.

A blob is written to a part beside its final place and hashed as it is written. When a group of parts is complete it
is made durable in one wave of fsync, then the parts get their final names, then the folders are made durable. So a
final name always holds bytes with the right digest, also after a power failure.
"""

import contextlib
import io
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from .checksums import CHUNK, Stream, algorithm, new_hash, open_regular, read_chunks
from .durable import Staging, sync, sync_folder
from .errors import BlobDamagedError, BlobError
from .folders import Folders, most_open_files
from .workers import Workers

if TYPE_CHECKING:
    from hashlib import _Hash


_GROUP_FILES = 256
_GROUP_BYTES = 2**32
_LARGE_BYTES = 2**18
_LONGEST_UNSYNCED_SECONDS = 2.0


class Meter(Protocol):
    """Who wants to know how the moving goes. All methods may be called from any thread."""

    def started(self, name: str, size: int) -> None:
        """Note that a blob of `size` bytes begins to move."""

    def advanced(self, name: str, nbytes: int) -> None:
        """Note that `nbytes` more of it are in place; negative when it has to start over."""

    def finished(self, name: str, nbytes: int, error: Exception | None, moved: bool) -> None:
        """Note that it has its final name (`moved` tells whether by this run), or `error` that it has not."""

    def tick(self) -> None:
        """Take a breath; called several times a second, from the thread that asked for the moving."""


class Silent:
    """A meter that nobody reads."""

    def started(self, name: str, size: int) -> None:
        """Ignore it."""

    def advanced(self, name: str, nbytes: int) -> None:
        """Ignore it."""

    def finished(self, name: str, nbytes: int, error: Exception | None, moved: bool) -> None:
        """Ignore it."""

    def tick(self) -> None:
        """Ignore it."""


@dataclass(frozen=True, eq=False)
class Move:
    """One blob to be moved.

    Attributes
    ----------
    name : str
        What people call it: the path of its first file.
    digest : str
        The SHA-1 or SHA-256 that its bytes must have.
    size : int
        The number of bytes that it must have.
    source : callable
        Takes an offset in bytes and returns a context manager with a binary stream that begins there.
    targets : tuple of str
        The final names, at least one; text, because path objects would cost more than the moving of a small blob.
    is_there : callable
        Tells whether all targets hold the blob by now; asked when the lock on the blob is held.
    wrong : callable
        Makes the error for bytes that are not those of `digest`: the source changed, or the blob is damaged.
    before_naming : callable
        Called when the bytes are verified and durable, just before they get their names.
    """

    name: str
    digest: str
    size: int
    source: Callable[[int], AbstractContextManager[Stream]]
    targets: tuple[str, ...]
    is_there: Callable[[], bool] = lambda: False
    wrong: Callable[[], BlobError] = BlobDamagedError
    before_naming: Callable[[], None] = lambda: None


def file_source(path: str | os.PathLike[str], offset: int) -> io.FileIO:
    """Open a regular file at `offset` bytes, as a source of a :class:`Move`."""
    stream = io.FileIO(open_regular(path))
    if offset:
        stream.seek(offset)
    return stream


def move_blobs(
    moves: Iterable[Move],
    staging: Staging,
    *,
    threads: int,
    meter: Meter,
    chunk: int = CHUNK,
) -> dict[str, Exception]:
    """Move blobs to their final names, many at a time. One that fails does not stop the others.

    Parameters
    ----------
    moves : iterable of Move
        No two with the same digest. They are asked for as they are needed, so that not all are in memory at once.
    staging : Staging
        Where parts are written; parts that an interrupted run left there are gone on with.
    threads : int
        How many blobs move at the same time.
    meter : Meter
        Is told how it goes.
    chunk : int, optional
        Bytes that a thread holds in memory.

    Returns
    -------
    dict
        The blobs that could not be moved, digest to error.
    """
    mover = _Mover(staging, threads, meter, chunk)
    try:
        mover.move(_groups(moves))
    finally:
        mover.close()
    return mover.failures


def _groups(moves: Iterable[Move]) -> Iterator[list[Move]]:
    # They are open until they are durable, while the next ones are written.
    most = most_open_files(_GROUP_FILES, share=4)
    group: list[Move] = []
    files = nbytes = 0
    for move in moves:
        if group and (files + len(move.targets) > most or nbytes > _GROUP_BYTES):
            yield group
            group, files, nbytes = [], 0, 0
        group.append(move)
        files += len(move.targets)
        nbytes += move.size
    if group:
        yield group


@dataclass
class _Group:
    """Blobs that this run has locked, on their way to their names."""

    folders: Folders
    held: contextlib.ExitStack
    parts: dict[Move, list[int]] = field(default_factory=dict)
    failures: dict[Move, Exception] = field(default_factory=dict)
    durable: Callable[[], dict[Move, Exception]] = dict


class _Mover:
    """Moves groups of blobs: writes all parts, then makes them durable, then gives them their names.

    While a group becomes durable, the next one is written. The names become durable less often than the bytes, because
    many are in the same folder.

    Attributes
    ----------
    failures : dict
        The blobs that could not be moved, digest to error.
    """

    def __init__(self, staging: Staging, threads: int, meter: Meter, chunk: int) -> None:
        self.failures: dict[str, Exception] = {}
        self._staging = staging
        self._locks = staging.locks
        # Writing and making durable go on at the same time. What makes durable does nothing but wait, and many files
        # that are made durable at the same time take a disk a third of the time of one after the other.
        self._workers = Workers(threads, meter.tick)
        self._syncers = Workers(threads, meter.tick, useful=threads)
        self._hashers = ThreadPoolExecutor(threads, "pipeline-hash")
        self._meter = meter
        self._chunk = chunk
        self._under_way: list[_Group] = []
        self._named: list[Move] = []
        self._changed: dict[str, list[Move]] = {}
        self._synced_at = time.monotonic()

    def move(self, groups: Iterable[list[Move]]) -> None:
        """Move groups: of each, first what nobody else is moving, then, one wait at a time, the rest."""
        with self._hashers, self._workers, self._syncers:
            for group in groups:
                self._move_group(group)
            self._finish()

    def close(self) -> None:
        """Give up what is under way."""
        while self._under_way:
            self._under_way.pop().held.close()

    def _move_group(self, moves: list[Move]) -> None:
        rest = moves
        while rest:
            try:
                mine = self._lock(rest)
            except OSError as error:
                self._fail(dict.fromkeys(rest, error))
                return
            self._write([move for move in rest if move.digest in mine])
            rest = [move for move in rest if move.digest not in mine]

    def _lock(self, moves: list[Move]) -> set[str]:
        """Lock what nobody else is moving, or else, when it is free, the first one; return the digests."""
        self._staging.make()
        mine = self._locks.acquire(move.digest for move in moves)
        if not mine:
            # Who waits holds no lock that somebody else may wait for.
            self._finish()
            self._locks.wait(moves[0].digest, moves[0].name, self._meter.tick)
            mine = {moves[0].digest}
        return mine

    def _finish(self) -> None:
        """Give their names to all that is written, and make the names durable."""
        while self._under_way:
            self._name_first()
        self._sync_names()

    def _sync_names(self) -> None:
        failures: dict[Move, Exception] = {}
        for folder, error in self._syncers.each(sync_folder, self._changed).items():
            failures |= dict.fromkeys(self._changed[folder], error)
        self._fail({move: failures[move] for move in self._named if move in failures})
        for move in self._named:
            if move not in failures:
                self._meter.finished(move.name, move.size, None, True)
        self._named, self._changed, self._synced_at = [], {}, time.monotonic()

    def _fail(self, failures: dict[Move, Exception]) -> None:
        for move, error in failures.items():
            self.failures[move.digest] = error
            self._meter.finished(move.name, 0, error, False)

    def _write(self, moves: list[Move]) -> None:
        """Write the parts of blobs that are locked, and begin to make them durable when the group before is."""
        held = contextlib.ExitStack()
        held.callback(self._locks.release, [move.digest for move in moves])
        group = _Group(held.enter_context(self._staging.folders()), held)
        self._under_way.append(group)
        try:
            # Before other threads use it.
            group.folders.make(self._staging.folder)
        except OSError as error:
            group.failures = dict.fromkeys(moves, error)
        else:
            nbytes = sum(move.size for move in moves)
            group.failures = self._workers.each(lambda move: self._receive_all(move, group), moves, nbytes)
        if len(self._under_way) > 1:
            self._name_first()
        whole = [move for move in group.parts if move not in group.failures]
        group.durable = self._syncers.begin(lambda move: _sync_all(group.parts[move]), whole)

    def _receive_all(self, move: Move, group: _Group) -> None:
        if move.is_there():
            self._meter.finished(move.name, move.size, None, False)
            return
        self._meter.started(move.name, move.size)
        opened = group.parts[move] = []
        part = self._staging.part(move.digest)
        for number in range(len(move.targets)):
            twin = replace(move, source=lambda offset: file_source(part, offset)) if number else move
            copy = self._staging.part_of_target(move.digest, number)
            opened.append(self._receive(twin, copy, group.folders, counted=not number))
            group.held.callback(_close, opened[-1])

    def _name_first(self) -> None:
        """Give their names to the blobs of the group that is under way longest, as soon as they are durable."""
        group = self._under_way[0]
        group.failures |= group.durable()
        for move in group.parts:
            if move not in group.failures:
                try:
                    self._name(move, group.folders)
                except Exception as error:
                    group.failures[move] = error
        self._fail(group.failures)
        self._under_way.pop(0).held.close()
        if time.monotonic() - self._synced_at > _LONGEST_UNSYNCED_SECONDS:
            self._sync_names()

    def _name(self, move: Move, folders: Folders) -> None:
        move.before_naming()
        for number, target in enumerate(move.targets):
            folder = os.path.dirname(target)
            for changed in (*folders.make(folder), folder):
                self._changed.setdefault(changed, []).append(move)
            folders.replace(self._staging.part_of_target(move.digest, number), target)
        self._named.append(move)

    def _receive(self, move: Move, part: str, folders: Folders, counted: bool) -> int:
        """Write the bytes of a blob to its part, going on after what an interrupted run left; return it, open."""
        advanced = self._meter.advanced if counted else Silent().advanced
        fd = folders.open_own(part)
        with contextlib.ExitStack() as held:
            held.callback(_close, fd)
            _take_rights(fd)
            resumed = True
            while resumed:
                digest = new_hash(algorithm(move.digest))
                there = self._read_part(move, fd, digest)
                resumed = there > 0
                if resumed:
                    advanced(move.name, there)
                if there < move.size:
                    self._append(move, fd, digest, there, advanced)
                if digest.hexdigest() == move.digest:
                    held.pop_all()
                    return fd
                advanced(move.name, -move.size)
                os.lseek(fd, 0, os.SEEK_SET)
                os.ftruncate(fd, 0)
        # It is closed by now: Windows removes no open file.
        folders.unlink(part)
        raise move.wrong()

    def _read_part(self, move: Move, fd: int, digest: "_Hash") -> int:
        there = os.fstat(fd).st_size
        if there > move.size:
            os.ftruncate(fd, 0)
        elif there:
            with io.FileIO(fd, closefd=False) as stream:
                for data in read_chunks(stream, min(self._chunk, there)):
                    digest.update(data)
                    self._workers.check()
            return there
        return 0

    def _append(self, move: Move, fd: int, digest: "_Hash", there: int, advanced: Callable[[str, int], None]) -> None:
        # One byte more than there should be: a source that has grown is noticed, however long it is by now.
        chunk = min(self._chunk, move.size - there + 1)
        with move.source(there) as source:
            for data in read_chunks(source, chunk):
                there += len(data)
                if there > move.size:
                    raise move.wrong()
                # A large piece is hashed while it is written.
                hashing = self._hashers.submit(digest.update, data) if len(data) >= _LARGE_BYTES else None
                _write(fd, data)
                if hashing is None:
                    digest.update(data)
                else:
                    hashing.result()
                advanced(move.name, len(data))
                self._workers.check()
                if there == move.size and len(data) < chunk and isinstance(source, io.FileIO):
                    return  # a file that gives less than was asked for has no more
        if there < move.size:
            raise move.wrong()


def _sync_all(fds: list[int]) -> None:
    try:
        for fd in fds:
            sync(fd)
    except OSError:
        # The system takes bytes for durable now that it may have lost: the next run must not go on with them.
        for fd in fds:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, 0)
        raise


def _close(fd: int) -> None:
    with contextlib.suppress(OSError):  # what is not durable by now gets no name
        os.close(fd)


def _take_rights(fd: int) -> None:
    """Let a part that lay there with other rights than those of plain data not hand them on to what it becomes."""
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    if mode & ~0o666 and hasattr(os, "fchmod"):
        with contextlib.suppress(OSError):  # some file systems have the same rights for everything
            os.fchmod(fd, mode & 0o666)


def _write(fd: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
