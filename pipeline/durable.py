"""Files and names that survive a power failure, and the folder where they are written first."""

import contextlib
import errno
import hashlib
import os
import sys
from pathlib import Path

from .folders import Folders
from .locks import BlobLocks, locks_for


class Staging:
    """The folder where parts are written, on the file system of the final names.

    Parameters
    ----------
    folder : Path
        Made when it is needed, removed by :meth:`clear`.
    anchor : Path, optional
        The folder that both it and the final names are in, by default its parent. Nothing is written through a symbolic
        link below the anchor.
    """

    def __init__(self, folder: Path, anchor: Path | None = None) -> None:
        self.folder = folder
        self._anchor = folder.parent if anchor is None else anchor
        self._prefix = os.path.join(folder, "")

    def part(self, digest: str) -> str:
        """Return the path of the part of a blob."""
        return f"{self._prefix}{digest}.part"

    def part_of_target(self, digest: str, number: int) -> str:
        """Return the path of the part that becomes one of several targets of a blob."""
        return self.part(f"{digest}.{number}" if number else digest)

    def folders(self) -> Folders:
        """Return the folders below the anchor, as a context."""
        return Folders(self._anchor)

    @property
    def locks(self) -> BlobLocks:
        """The locks on what is written here."""
        return locks_for(self.folder, self._anchor)

    def make(self) -> None:
        """Make the folder, and its parents durable."""
        with self.folders() as folders:
            for folder in folders.make(self.folder):
                sync_folder(folder)

    def clear(self) -> None:
        """Remove the folder with all that interrupted runs left in it, unless another run is using it."""
        with contextlib.suppress(OSError), self.folders() as folders:
            if not self.folder.is_dir():
                return
            # A run that was killed may have named what it wrote last, and not made the name durable.
            sync_folder(self.folder.parent)
            self.locks.remove_unless_used(lambda: self._remove_parts(folders))
            folders.rmdir(self.folder)
            sync_folder(self.folder.parent)  # or it may be there again after a power failure

    def _remove_parts(self, folders: Folders) -> None:
        for name in folders.names(self.folder):
            if name.endswith(".part"):
                with contextlib.suppress(FileNotFoundError):
                    folders.unlink(self._prefix + name)


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
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(fd)


def sync_upwards(folder: Path) -> None:
    """Return when the names in a folder, and its own and those of its parents, are on the disk, whoever made them.

    A run that was killed may have made a folder, and not its name durable. Folders that cannot be opened were not made
    by runs of this user.
    """
    sync_folder(folder)
    device = os.stat(folder).st_dev
    for parent in folder.parents:
        with contextlib.suppress(PermissionError):
            if os.stat(parent).st_dev != device:
                return
            sync_folder(parent)


def is_taken(path: str | os.PathLike[str]) -> bool:
    """Tell whether a name stands for anything; where that cannot be seen, this is an error and not an answer."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


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
    locks = staging.locks
    key = hashlib.sha1(os.fsencode(target), usedforsecurity=False).hexdigest()
    locks.wait(key, target.name, lambda: None)
    part = staging.part(key)
    try:
        with staging.folders() as folders:
            try:
                # Not what a killed run left: that may have a second name by now, that of what it published.
                with open(folders.open_own(part), "wb") as stream:
                    stream.truncate()
                    stream.write(data)
                    stream.flush()
                    sync(stream.fileno())
                made = folders.make(target.parent)
                if exclusive:
                    _name_exclusively(part, target, folders)
                else:
                    folders.replace(part, target)
                for folder in (str(target.parent), *made):
                    sync_folder(folder)
            finally:
                with contextlib.suppress(OSError):
                    folders.unlink(part)
    finally:
        locks.release([key])


def _name_exclusively(part: str, target: Path, folders: Folders) -> None:
    try:
        folders.link(part, target)
    except FileExistsError:
        raise
    except OSError:
        # No hard links here (FAT, many network drives): the lock that the caller holds keeps other runs away.
        with contextlib.suppress(FileNotFoundError):
            folders.status(target)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        folders.replace(part, target)
