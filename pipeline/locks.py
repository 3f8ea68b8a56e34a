"""Locks on single blobs, so that runs that move the same blobs share the work and never write one part together.

Every blob owns one byte of a lock file, far beyond its end. The operating system releases the locks of a process that
dies, also over NFS and SMB, so nothing is ever left locked (POSIX.1 ``fcntl`` record locks; ``LockFile`` on Windows).
"""

import contextlib
import errno
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path

from .errors import printable
from .folders import Folders

log = logging.getLogger("pipeline")

_EVERYTHING = 0
_TAKEN = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
_POLL_SECONDS = 0.1
_ATTEMPTS = 1000

if sys.platform == "win32":
    import msvcrt

    def _lock(fd: int, offset: int, nbytes: int) -> None:
        os.lseek(fd, offset % 2**31, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_NBLCK, nbytes or 2**31 - 1)

    def _unlock(fd: int, offset: int, nbytes: int) -> None:
        os.lseek(fd, offset % 2**31, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_UNLCK, nbytes or 2**31 - 1)

else:
    import fcntl

    def _lock(fd: int, offset: int, nbytes: int) -> None:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, nbytes, offset)

    def _unlock(fd: int, offset: int, nbytes: int) -> None:
        fcntl.lockf(fd, fcntl.LOCK_UN, nbytes, offset)


class BlobLocks:
    """The locks of one folder; use :func:`locks_for` to get the one object that a process has for it.

    Parameters
    ----------
    file : Path
        The lock file. It is made when the first lock is taken.
    anchor : Path
        A folder that it is in, below which no symbolic link is followed.
    """

    def __init__(self, file: Path, anchor: Path) -> None:
        self._file = file
        self._anchor = anchor
        self._fd = -1
        self._held: set[int] = set()
        self._changed = threading.Condition()
        self._supported = True

    def acquire(self, digests: Iterable[str]) -> set[str]:
        """Lock those of `digests` that nobody else has locked, without waiting, and return them.

        Raises
        ------
        OSError
            When the lock file cannot be made, or nothing can be locked.
        """
        wanted = list(digests)
        with self._changed:
            while True:
                self._open()
                taken: dict[str, int] = {}
                try:
                    taken.update((digest, offset) for digest in wanted if self._take(offset := _offset(digest)))
                    if self._is_current():
                        return set(taken)
                except OSError:
                    self._drop(taken.values())
                    raise
                self._drop(taken.values())
                self._close()

    def wait(self, digest: str, name: str, tick: Callable[[], None]) -> None:
        """Lock `digest`, waiting for whoever has it.

        Parameters
        ----------
        digest : str
            What is locked.
        name : str
            What people call it; who has to wait says so.
        tick : callable
            Called about ten times a second meanwhile.

        Raises
        ------
        OSError
            When the lock file cannot be made.
        """
        said = False
        try:
            while not self.acquire([digest]):
                if not said:
                    log.info("%s: another run is writing this; waiting for it.", printable(name))
                    said = True
                with self._changed:
                    self._changed.wait(_POLL_SECONDS)
                tick()
        finally:
            self.release([])

    def release(self, digests: Iterable[str]) -> None:
        """Give up locks."""
        with self._changed:
            self._drop(map(_offset, digests))
            self._changed.notify_all()

    def remove_unless_used(self, and_then: Callable[[], None]) -> None:
        """Call `and_then` and remove the lock file, if no other run holds or awaits a lock here."""
        with self._changed:
            if self._held:
                return
            try:
                self._open()
                _lock(self._fd, 0, _EVERYTHING)
            except OSError:
                self._close()
                return
            if self._is_current():
                and_then()
                if sys.platform == "win32":
                    self._close()
                with contextlib.suppress(FileNotFoundError), Folders(self._anchor) as folders:
                    folders.unlink(self._file)
            self._close()

    def _take(self, offset: int) -> bool:
        if offset in self._held:
            return False
        if self._supported:
            try:
                _lock(self._fd, offset, 1)
            except OSError as error:
                if error.errno in _TAKEN:
                    return False
                if error.errno not in _UNSUPPORTED:
                    raise
                self._supported = False
                log.warning("%s: this file system has no locks; do not run two at once here.", self._file.parent)
        self._held.add(offset)
        return True

    def _drop(self, offsets: Iterable[int]) -> None:
        for offset in offsets:
            if offset in self._held:
                self._held.remove(offset)
                if self._supported:
                    with contextlib.suppress(OSError):  # the system does it when the process ends
                        _unlock(self._fd, offset, 1)
        if not self._held:
            self._close()  # or a program that runs for long would keep a file open for every folder

    def _open(self) -> None:
        for attempt in range(_ATTEMPTS if self._fd < 0 else 0):
            try:
                with Folders(self._anchor) as folders:
                    folders.make(self._file.parent)
                    self._fd = folders.open_shared(self._file)
                    return
            except FileNotFoundError:
                # Another run that had finished removed the folder in between.
                if attempt == _ATTEMPTS - 1:
                    raise

    def _is_current(self) -> bool:
        try:
            there = os.lstat(self._file)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self._fd))

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _offset(digest: str) -> int:
    return 1 + int(digest[:12], 16)


_of_process: weakref.WeakValueDictionary[tuple[int, Path], BlobLocks] = weakref.WeakValueDictionary()
_guard = threading.Lock()


def locks_for(folder: Path, anchor: Path | None = None) -> BlobLocks:
    """Return the locks of `folder`, which is below `anchor`, by default its parent.

    There is one object per process and folder, because POSIX drops all of a process's locks on a file as soon as the
    process closes any descriptor of it.
    """
    key = (os.getpid(), Path(os.path.realpath(folder)))
    with _guard:
        locks = _of_process.get(key)
        if locks is None:
            locks = _of_process[key] = BlobLocks(folder / "lock", folder.parent if anchor is None else anchor)
        return locks
