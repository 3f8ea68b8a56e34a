"""Move verified bytes to files: parts, resume, threads, and names given in groups.

A blob is written to a part beside its final place and hashed as it is written. When a group of parts is complete it
is made durable in one wave of fsync, then the parts get their final names, then the folders are made durable. So a
final name always holds bytes with the right digest, also after a power failure.
"""

import contextlib
import io
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from .checksums import CHUNK, Stream, algorithm, new_hash, open_regular, read_chunks
from .durable import Staging, make_folders, sync, sync_folder
from .errors import BlobDamagedError, BlobError, printable
from .locks import locks_for
from .workers import TICK_SECONDS, Workers

if TYPE_CHECKING:
    from hashlib import _Hash


log = logging.getLogger("pipeline")

_GROUP_FILES = 512
_GROUP_BYTES = 2**30
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
    """

    name: str
    digest: str
    size: int
    source: Callable[[int], AbstractContextManager[Stream]]
    targets: tuple[str, ...]
    is_there: Callable[[], bool] = lambda: False
    wrong: Callable[[], BlobError] = BlobDamagedError


def file_source(path: str | os.PathLike[str], offset: int) -> io.FileIO:
    """Open a regular file at `offset` bytes, as a source of a :class:`Move`."""
    stream = io.FileIO(open_regular(path))
    if offset:
        stream.seek(offset)
    return stream


def move_blobs(
    moves: Sequence[Move],
    staging: Staging,
    *,
    threads: int,
    meter: Meter,
    make_folder: Callable[[Path], Iterable[Path]] | None = None,
    chunk: int = CHUNK,
) -> dict[str, Exception]:
    """Move blobs to their final names, many at a time. One that fails does not stop the others.

    Parameters
    ----------
    moves : sequence of Move
        No two with the same digest.
    staging : Staging
        Where parts are written; parts that an interrupted run left there are gone on with.
    threads : int
        How many blobs move at the same time.
    meter : Meter
        Is told how it goes.
    make_folder : callable, optional
        Makes the folder of a target and returns the folders that must be made durable; by default :func:`make_folders`.
    chunk : int, optional
        Bytes that a thread holds in memory.

    Returns
    -------
    dict
        The blobs that could not be moved, digest to error.
    """
    committer = _Committer(staging, threads, meter, make_folder or make_folders)
    with contextlib.closing(committer), committer.workers, Workers(threads, meter.tick) as workers:
        mover = _Mover(staging, workers, meter, committer, chunk)
        for group in _groups(moves):
            mover.move(group)
        committer.finish()
    return committer.failures


def _groups(moves: Sequence[Move]) -> Iterator[list[Move]]:
    group: list[Move] = []
    nbytes = 0
    for move in moves:
        if len(group) == _GROUP_FILES or nbytes > _GROUP_BYTES:
            yield group
            group, nbytes = [], 0
        group.append(move)
        nbytes += move.size
    if group:
        yield group


class _Mover:
    """Receives groups of blobs, and hands them to a committer."""

    def __init__(self, staging: Staging, workers: Workers, meter: Meter, committer: "_Committer", chunk: int) -> None:
        self._staging = staging
        self._workers = workers
        self._meter = meter
        self._committer = committer
        self._chunk = chunk

    def move(self, group: list[Move]) -> None:
        """Move a group: first what nobody else is moving, then, one wait at a time, the rest."""
        try:
            self._staging.make()
            locks = locks_for(self._staging.folder)
            mine = locks.acquire(move.digest for move in group)
        except OSError as error:
            for move in group:
                self._committer.fail(move, error)
            return
        rest = group
        while True:
            self._committer.locked |= mine
            self._receive_all([move for move in rest if move.digest in mine])
            rest = [move for move in rest if move.digest not in mine]
            if not rest:
                return
            # Nothing is held while waiting: the other run may be waiting for it.
            self._committer.finish()
            log.info("%s: another run is moving this; waiting for it.", printable(rest[0].name))
            locks.wait(rest[0].digest, self._meter.tick)
            mine = {rest[0].digest} | locks.acquire(move.digest for move in rest[1:])

    def _receive_all(self, moves: list[Move]) -> None:
        done: list[Move] = []

        def receive(move: Move) -> None:
            if move.is_there():
                self._meter.finished(move.name, move.size, None, False)
                self._committer.release({move.digest})
                return
            self._meter.started(move.name, move.size)
            part = self._staging.part(move.digest)
            self._receive(move, part)
            for number in range(1, len(move.targets)):
                twin = replace(move, source=lambda offset: file_source(part, offset))
                self._receive(twin, self._staging.part_of_target(move.digest, number), counted=False)
            done.append(move)

        for move, error in self._workers.each(receive, moves).items():
            self._committer.fail(move, error)
        self._committer.commit(done)

    def _receive(self, move: Move, part: str, counted: bool = True) -> None:
        """Write the bytes of a blob to its part, going on after what an interrupted run left there."""
        advanced = self._meter.advanced if counted else Silent().advanced
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        with open(os.open(part, flags, 0o666), "r+b", buffering=0) as stream:
            resumed = True
            while resumed:
                digest = new_hash(algorithm(move.digest))
                there = self._read_part(move, stream, digest)
                resumed = there > 0
                if there:
                    advanced(move.name, there)
                if there < move.size:
                    self._append(move, stream, digest, there, advanced)
                if digest.hexdigest() == move.digest:
                    return
                advanced(move.name, -move.size)
                stream.seek(0)
                stream.truncate()
        os.unlink(part)
        raise move.wrong()

    def _read_part(self, move: Move, stream: io.FileIO, digest: "_Hash") -> int:
        there = os.fstat(stream.fileno()).st_size
        if there > move.size:
            stream.truncate(0)
        elif there:
            for data in read_chunks(stream, min(self._chunk, there)):
                digest.update(data)
                self._workers.check()
            return there
        return 0

    def _append(
        self, move: Move, stream: io.FileIO, digest: "_Hash", there: int, advanced: Callable[[str, int], None]
    ) -> None:
        with move.source(there) as source:
            # One byte more than there should be: a source that has grown is noticed, however long it is by now.
            for data in read_chunks(source, min(self._chunk, move.size - there + 1)):
                there += len(data)
                if there > move.size:
                    raise move.wrong()
                _write(stream, data)
                digest.update(data)
                advanced(move.name, len(data))
                self._workers.check()
        if there < move.size:
            raise move.wrong()


class _Committer:
    """Makes groups of parts durable and gives them their names, while the next group is received.

    The names become durable less often than the bytes, because many are in the same folder. A blob stays locked until
    its name is.

    Attributes
    ----------
    failures : dict
        The blobs that could not be moved, digest to error.
    locked : set of str
        The digests that are locked.
    workers : Workers
        The threads that it needs.
    """

    def __init__(
        self, staging: Staging, threads: int, meter: Meter, make_folder: Callable[[Path], Iterable[Path]]
    ) -> None:
        self.failures: dict[str, Exception] = {}
        self.locked: set[str] = set()
        self.workers = Workers(threads, lambda: None)
        self._staging = staging
        self._meter = meter
        self._make_folder = make_folder
        self._thread = ThreadPoolExecutor(1, "pipeline-commit")
        self._running: Future[None] | None = None
        self._made: set[str] = set()
        self._named: list[Move] = []
        self._folders: dict[str, list[Move]] = {}
        self._synced_at = time.monotonic()

    def commit(self, parts: list[Move]) -> None:
        """Begin to commit blobs of which all parts are written, when those before are committed."""
        self._wait()
        self._running = self._thread.submit(self._commit, parts)

    def finish(self) -> None:
        """Return when everything is committed."""
        self._wait()
        self._running = self._thread.submit(self._sync_folders)
        self._wait()

    def close(self) -> None:
        """Return when nothing runs any more, and give up the locks."""
        self._thread.shutdown()
        self.release(set(self.locked))

    def fail(self, move: Move, error: Exception) -> None:
        """Note that a blob could not be moved."""
        self.failures[move.digest] = error
        self._meter.finished(move.name, 0, error, False)
        self.release({move.digest})

    def release(self, digests: set[str]) -> None:
        """Give up the locks on blobs."""
        if held := digests & self.locked:
            self.locked -= held
            locks_for(self._staging.folder).release(held)

    def _wait(self) -> None:
        while self._running is not None and not wait([self._running], TICK_SECONDS).done:
            self._meter.tick()
        if self._running is not None:
            self._running.result()

    def _commit(self, parts: list[Move]) -> None:
        unsynced = self.workers.each(self._sync_parts, parts)
        for move in parts:
            try:
                if move in unsynced:
                    raise unsynced[move]
                self._name(move)
                self._named.append(move)
            except Exception as error:
                self.fail(move, error)
        if time.monotonic() - self._synced_at > _LONGEST_UNSYNCED_SECONDS:
            self._sync_folders()

    def _sync_parts(self, move: Move) -> None:
        for number in range(len(move.targets)):
            part = self._staging.part_of_target(move.digest, number)
            fd = os.open(part, os.O_RDWR | getattr(os, "O_BINARY", 0))
            try:
                sync(fd)
            finally:
                os.close(fd)

    def _name(self, move: Move) -> None:
        for number, target in enumerate(move.targets):
            folder = os.path.dirname(target)
            for changed in (*self._make(folder), folder):
                self._folders.setdefault(changed, []).append(move)
            os.replace(self._staging.part_of_target(move.digest, number), target)

    def _make(self, folder: str) -> list[str]:
        if folder in self._made:
            return []
        made = [str(parent) for parent in self._make_folder(Path(folder))]
        self._made.add(folder)
        return made

    def _sync_folders(self) -> None:
        failures: dict[Move, Exception] = {}
        for folder, error in self.workers.each(sync_folder, self._folders).items():
            failures |= dict.fromkeys(self._folders[folder], error)
        for move in self._named:
            if move in failures:
                self.fail(move, failures[move])
            else:
                self._meter.finished(move.name, move.size, None, True)
        self.release({move.digest for move in self._named})
        self._named, self._folders, self._synced_at = [], {}, time.monotonic()


def _write(stream: io.FileIO, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[stream.write(view) :]
