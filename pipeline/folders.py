"""Folders that are written into, opened one below the other, so that no symbolic link leads out of them.

Others may be able to write into an archive or a destination. Whoever swaps a folder in it for a link, also between a
look at it and its use, makes the writing fail, and moves it nowhere else (POSIX.1-2008: ``openat``, ``O_NOFOLLOW``).
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

Name: TypeAlias = str | os.PathLike[str]

# Where the system has no such calls, as Windows, links are looked for just before.
_HAS_HANDLES = {os.open, os.mkdir, os.rename, os.link, os.unlink, os.rmdir, os.stat} <= os.supports_dir_fd
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
# Never waits for somebody at the other end of a pipe.
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_READ_AND_WRITE = os.O_RDWR | os.O_CREAT | _NO_LINK | getattr(os, "O_BINARY", 0)
_ANSWERS_OF_LINKS_AND_SOCKETS = (errno.ELOOP, errno.EMLINK, errno.ENXIO)
_MOST_OPEN = 256
_NO_HANDLE = -1


class Folders:
    """The folders below one that is trusted, as a context that closes them.

    Parameters
    ----------
    anchor : str or PathLike
        The folder that is trusted, be it a link; what is below it is not.

    Raises
    ------
    OSError
        By every method, when something cannot be done; with ``ELOOP`` where a link stands in the way.
    """

    def __init__(self, anchor: Name) -> None:
        self._anchor = os.path.abspath(anchor)
        self._prefix = os.path.join(self._anchor, "")
        self._handles: dict[str, int] = {}
        self._most = most_open_files(_MOST_OPEN, share=8)

    def __enter__(self) -> "Folders":
        return self

    def __exit__(self, *exception: object) -> None:
        while self._handles:
            self._close_newest()

    def make(self, folder: Name) -> list[str]:
        """Make a folder and its parents, and return the folders that got a new name in them."""
        folder = self._below(folder)
        with contextlib.suppress(FileNotFoundError):
            self._handle(folder)
            return []
        if folder == self._anchor:
            return [str(parent) for parent in make_folders(Path(folder))]
        made = self.make(os.path.dirname(folder))
        with contextlib.suppress(FileExistsError), _naming(folder):
            name, where = self._at(folder)
            os.mkdir(name, **where)
        self._handle(folder)
        return [*made, os.path.dirname(folder)]

    def open_own(self, file: Name) -> int:
        """Open a file for reading and writing; make it where there is none, or something that is no file of its own.

        That is a link, a pipe, or a second name of a file that may be anywhere.
        """
        with _naming(file):
            name, where = self._at(file)
            try:
                opened = os.open(name, _READ_AND_WRITE, 0o666, **where)
                status = os.fstat(opened)
                if stat.S_ISREG(status.st_mode) and status.st_nlink <= 1:
                    return opened
                os.close(opened)
            except OSError as error:
                if error.errno not in _ANSWERS_OF_LINKS_AND_SOCKETS:
                    raise
            os.unlink(name, **where)
            return os.open(name, _READ_AND_WRITE | os.O_EXCL, 0o666, **where)

    def open_shared(self, file: Name) -> int:
        """Open a file for reading and writing that other processes have open too; make it where there is none."""
        with _naming(file):
            name, where = self._at(file)
            return os.open(name, _READ_AND_WRITE, 0o666, **where)

    def replace(self, source: Name, target: Name) -> None:
        """Give a file another name, whatever has that name."""
        with _naming(source, target):
            names, where = self._pair(source, target)
            os.replace(*names, **where)

    def link(self, source: Name, target: Name) -> None:
        """Give a file a second name, unless something has that name."""
        with _naming(source, target):
            names, where = self._pair(source, target)
            if where:
                where["follow_symlinks"] = False
            os.link(*names, **where)

    def unlink(self, file: Name) -> None:
        """Remove a file."""
        with _naming(file):
            name, where = self._at(file)
            os.unlink(name, **where)

    def rmdir(self, folder: Name) -> None:
        """Remove an empty folder."""
        with _naming(folder):
            name, where = self._at(folder)
            os.rmdir(name, **where)

    def names(self, folder: Name) -> list[str]:
        """Return the names in a folder."""
        handle = self._handle(self._below(folder))
        return os.listdir(os.fspath(folder) if handle == _NO_HANDLE else handle)

    def status(self, file: Name) -> os.stat_result:
        """Return what the file system says of a name itself, also of a link."""
        with _naming(file):
            name, where = self._at(file)
            return os.stat(name, **where, follow_symlinks=False)

    def _below(self, path: Name) -> str:
        text = os.fspath(path)
        return text if text.startswith(self._prefix) else os.path.abspath(text)

    def _at(self, file: Name) -> tuple[str, dict[str, Any]]:
        """Return how to name a file in a call, and in which folder."""
        folder, name = os.path.split(self._below(file))
        handle = self._handle(folder)
        return (os.fspath(file), {}) if handle == _NO_HANDLE else (name, {"dir_fd": handle})

    def _pair(self, source: Name, target: Name) -> tuple[tuple[str, str], dict[str, Any]]:
        (one, here), (other, there) = self._at(source), self._at(target)
        return (one, other), {"src_dir_fd": here["dir_fd"], "dst_dir_fd": there["dir_fd"]} if here else {}

    def _handle(self, folder: str) -> int:
        handle = self._handles.get(folder)
        if handle is None:
            handle = self._open(folder)
            # The newest: other threads may be using the earlier ones, where the parts are.
            if len(self._handles) >= self._most:
                self._close_newest()
            self._handles[folder] = handle
        return handle

    def _open(self, folder: str) -> int:
        if folder == self._anchor:
            if _HAS_HANDLES:
                return os.open(folder, _FOLDER)
            os.stat(folder)  # this tells where it is not there, too
            return _NO_HANDLE
        above, name = os.path.split(folder)
        if not folder.startswith(self._prefix) or name in ("", os.curdir, os.pardir):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), folder)
        handle = self._handle(above)
        with _naming(folder):
            if handle == _NO_HANDLE:
                if stat.S_ISLNK(os.lstat(folder).st_mode) or getattr(os.path, "isjunction", os.path.islink)(folder):
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                return _NO_HANDLE
            try:
                return os.open(name, _FOLDER | _NO_LINK, dir_fd=handle)
            except NotADirectoryError:
                # Which is what Linux says of a link, too.
                if stat.S_ISLNK(os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode):
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
                raise

    def _close_newest(self) -> None:
        handle = self._handles.popitem()[1]
        if handle != _NO_HANDLE:
            os.close(handle)


@contextlib.contextmanager
def _naming(file: Name, target: Name | None = None) -> Iterator[None]:
    """Let errors of calls that know the last part of a name only tell all of it."""
    try:
        yield
    except OSError as error:
        names = (os.fspath(file),) if target is None else (os.fspath(file), None, os.fspath(target))
        raise OSError(error.errno, error.strerror, *names) from None


def most_open_files(most: int, share: int) -> int:
    """Return how many files may be open, `most` or the `share`-th part of what the system allows the process."""
    try:
        import resource
    except ImportError:  # Windows
        return most
    return max(1, min(most, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // share))


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
