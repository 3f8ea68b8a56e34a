"""Files and names that survive a power failure, and the folder where they are written first."""

import contextlib
import errno
import hashlib
import os
import sys
from pathlib import Path

from .locks import locks_for


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

    def part_of_target(self, digest: str, number: int) -> str:
        """Return the path of the part that becomes one of several targets of a blob."""
        return self.part(f"{digest}.{number}" if number else digest)

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


def make_private_folder(folder: Path) -> None:
    """Make a folder and its parents, where they are not there, for this user only."""
    try:
        folder.mkdir(0o700)
    except FileExistsError:
        return
    except FileNotFoundError:
        make_private_folder(folder.parent)
        folder.mkdir(0o700, exist_ok=True)


def open_private(file: str | os.PathLike[str], flags: int) -> int:
    """Open a file, as the `opener` of :func:`open`; one that is made is for this user only."""
    return os.open(file, flags, 0o600)


def make_private_file(file: Path) -> None:
    """Make an empty file and its folder, where they are not there, for this user only."""
    make_private_folder(file.parent)
    if not file.exists():
        with open(file, "ab", opener=open_private):
            pass


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
