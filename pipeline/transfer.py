"""Move verified bytes to files: parts, resume, threads, and names given in groups.

A blob is written to a part beside its final place and hashed as it is written. When a group of parts is complete it
is made durable in one wave of fsync, then the parts get their final names, then the folders are made durable. So a
final name always holds bytes with the right digest, also after a power failure.
"""

import contextlib
import errno
import hashlib
import io
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from .checksums import CHUNK, Stream, algorithm, new_hash, open_regular, read_chunks
from .errors import BlobDamagedError, BlobError, printable
from .locks import locks_for
from .workers import Workers

if TYPE_CHECKING:
    from hashlib import _Hash


log = logging.getLogger("pipeline")

_GROUP_FILES = 512
_GROUP_BYTES = 2**30


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


class Staging:
    """The folder where parts are written, on the file system of the final names.

    Parameters
    ----------
    folder : Path
        Made when it is needed, removed by :meth:`clear`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._prefix = os.path.join(folder, "")

    def part(self, digest: str) -> str:
        """Return the path of the part of a blob."""
        return f"{self._prefix}{digest}.part"

    def make(self) -> None:
        """Make the folder, and its parents durable."""
        for folder in make_folders(self.folder):
            sync_folder(folder)

    def clear(self) -> None:
        """Remove the folder with all that interrupted runs left in it, unless another run is using it."""
        if not self.folder.is_dir():
            return
        with contextlib.suppress(OSError):
            locks_for(self.folder).remove_unless_used(self._remove_parts)
            self.folder.rmdir()

    def _remove_parts(self) -> None:
        for part in self.folder.glob("*.part"):
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def file_source(path: str | os.PathLike[str], offset: int) -> Iterator[Stream]:
    """Open a regular file at `offset` bytes, as a source of a :class:`Move`."""
    with open(open_regular(path), "rb", buffering=0) as stream:
        stream.seek(offset)
        yield stream


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
    failures: dict[str, Exception] = {}
    with Workers(threads, meter.tick) as workers:
        mover = _Mover(staging, workers, meter, make_folder or make_folders, chunk)
        for group in _groups(moves):
            failures |= mover.move(group)
    return failures


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
    def __init__(
        self,
        staging: Staging,
        workers: Workers,
        meter: Meter,
        make_folder: Callable[[Path], Iterable[Path]],
        chunk: int,
    ) -> None:
        self._staging = staging
        self._workers = workers
        self._meter = meter
        self._make_folder = make_folder
        self._chunk = chunk
        self._folders: set[str] = set()

    def move(self, group: list[Move]) -> dict[str, Exception]:
        """Move a group: first what nobody else is moving, then, one wait at a time, the rest."""
        failures: dict[str, Exception] = {}
        try:
            self._staging.make()
            locks = locks_for(self._staging.folder)
            mine = locks.acquire(move.digest for move in group)
        except OSError as error:
            for move in group:
                self._meter.finished(move.name, 0, error, False)
            return {move.digest: error for move in group}
        rest = group
        while True:
            try:
                failures |= self._move_locked([move for move in rest if move.digest in mine])
            finally:
                locks.release(mine)
            rest = [move for move in rest if move.digest not in mine]
            if not rest:
                return failures
            log.info("%s: another run is moving this; waiting for it.", printable(rest[0].name))
            locks.wait(rest[0].digest, self._meter.tick)
            mine = {rest[0].digest} | locks.acquire(move.digest for move in rest[1:])

    def _move_locked(self, moves: list[Move]) -> dict[str, Exception]:
        done: list[Move] = []

        def receive(move: Move) -> None:
            if move.is_there():
                self._meter.finished(move.name, move.size, None, False)
                return
            self._meter.started(move.name, move.size)
            part = self._staging.part(move.digest)
            self._receive(move, part)
            for number in range(1, len(move.targets)):
                twin = replace(move, source=lambda offset: file_source(part, offset))
                self._receive(twin, self._part_of_target(move, number), counted=False)
            done.append(move)

        failures = self._each(receive, moves)
        failures |= self._commit(done)
        for move in moves:
            if move.digest in failures:
                self._meter.finished(move.name, 0, failures[move.digest], False)
        for move in done:
            if move.digest not in failures:
                self._meter.finished(move.name, move.size, None, True)
        return failures

    def _part_of_target(self, move: Move, number: int) -> str:
        return self._staging.part(f"{move.digest}.{number}" if number else move.digest)

    def _each(self, function: Callable[[Move], None], moves: Iterable[Move]) -> dict[str, Exception]:
        return {move.digest: error for move, error in self._workers.each(function, moves).items()}

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

    def _commit(self, done: list[Move]) -> dict[str, Exception]:
        """Make parts durable, give them their names, make the names durable."""
        failures = self._each(self._sync_parts, done)
        folders: dict[str, list[Move]] = {}
        for move in done:
            if move.digest in failures:
                continue
            try:
                for number, target in enumerate(move.targets):
                    folder = os.path.dirname(target)
                    for changed in (*self._made(folder), folder):
                        folders.setdefault(changed, []).append(move)
                    os.replace(self._part_of_target(move, number), target)
            except Exception as error:
                failures[move.digest] = error
        for folder, unsynced in self._workers.each(sync_folder, folders).items():
            failures |= {move.digest: unsynced for move in folders[folder]}
        return failures

    def _made(self, folder: str) -> list[str]:
        if folder in self._folders:
            return []
        made = [str(parent) for parent in self._make_folder(Path(folder))]
        self._folders.add(folder)
        return made

    def _sync_parts(self, move: Move) -> None:
        for number in range(len(move.targets)):
            fd = os.open(self._part_of_target(move, number), os.O_RDWR | getattr(os, "O_BINARY", 0))
            try:
                sync(fd)
            finally:
                os.close(fd)


def _write(stream: io.FileIO, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[stream.write(view) :]


def sync(fd: int) -> None:
    """Return when the bytes of an open file are on the disk itself, not only in its cache."""
    if sys.platform == "darwin":
        import fcntl

        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fsync(fd)


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Return when the names in a folder are on the disk; does nothing where the file system has no way to do that."""
    if sys.platform == "win32":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(fd)


def make_folders(folder: Path) -> list[Path]:
    """Make a folder and its parents, and return the folders that got a new name in them."""
    try:
        folder.mkdir()
    except FileExistsError:
        return []
    except FileNotFoundError:
        made = make_folders(folder.parent)
        folder.mkdir(exist_ok=True)
        return [*made, folder.parent]
    return [folder.parent]


def write_file(data: bytes, target: Path, staging: Staging, *, exclusive: bool) -> None:
    """Write a small file so that it appears whole or not at all, and stays.

    Parameters
    ----------
    data : bytes
        All of it.
    target : Path
        Its name; the folder is made.
    staging : Staging
        Where it is written first.
    exclusive : bool
        Never replace a file of that name.

    Raises
    ------
    FileExistsError
        When `exclusive` is asked for and the name is taken.
    OSError
        When it cannot be written.
    """
    staging.make()
    locks = locks_for(staging.folder)
    key = hashlib.sha1(os.fsencode(target), usedforsecurity=False).hexdigest()
    locks.wait(key, lambda: None)
    part = staging.part(key)
    try:
        with open(part, "wb") as stream:
            stream.write(data)
            stream.flush()
            sync(stream.fileno())
        made = make_folders(target.parent)
        if exclusive:
            _name_exclusively(part, target)
        else:
            os.replace(part, target)
        for folder in (target.parent, *made):
            sync_folder(folder)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(part)
        locks.release([key])


def _name_exclusively(part: str, target: Path) -> None:
    try:
        os.link(part, target)
    except FileExistsError:
        raise
    except OSError:
        # No hard links here (FAT, many network drives): the lock that the caller holds keeps other runs away.
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        os.rename(part, target)
