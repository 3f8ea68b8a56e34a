"""Stand between a program and the operating system: every call that has to do with some folders passes one function.

It changes the functions of ``os``, ``io`` and ``sqlite3`` for the whole process and for good, so it is for processes
that were forked for it. It needs no rights, no debugger and no compiler.
"""

import builtins
import functools
import io
import os
import pathlib
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

PATH_CALLS = ("mkdir", "rmdir", "unlink", "remove", "rename", "replace", "link", "stat", "lstat", "listdir", "scandir")
DESCRIPTOR_CALLS = ("read", "write", "fsync", "ftruncate", "fstat")
REAL = {name: getattr(os, name) for name in (*PATH_CALLS, *DESCRIPTOR_CALLS, "open", "close", "lseek")}
_real_open, _FileIO, _connect = io.open, io.FileIO, sqlite3.connect


class Call(NamedTuple):
    """A call that is about to be made.

    Attributes
    ----------
    name : str
        The function of ``os``, or ``lockf`` or ``sqlite``.
    path : str
        What it is about, absolute.
    other : str
        The second path of a call with two, which is the new name.
    descriptor : int
        The file descriptor, for calls that have one; else -1.
    arguments : tuple
        As given.
    """

    name: str
    path: str
    other: str = ""
    descriptor: int = -1
    arguments: tuple[Any, ...] = ()

    @property
    def creates(self) -> bool:
        """Whether it opens a file that may have to be made."""
        return self.name == "open" and bool(self.arguments[1] & os.O_CREAT)


Around = Callable[[Call, Callable[[], Any]], Any]


class _Interceptor:
    """Knows the folders and the open files in them.

    Parameters
    ----------
    folders : iterable of Path
        Only calls about what is below them are told of, and about the folders that they are in themselves.
    around : callable
        Called with each :class:`Call` and a function that makes it.
    """

    def __init__(self, folders: Iterable[Path], around: Around) -> None:
        self._folders = {os.fspath(folder) for folder in folders}
        self._around_them = {os.path.dirname(folder) for folder in self._folders}
        self._around = around
        self._opened: dict[int, tuple[str, tuple[int, int]]] = {}

    def path_of(self, path: Any, folder: int | None = None) -> str | None:
        """Return the absolute path of what a call is about, or None where nobody wants to know."""
        if isinstance(path, int):
            return self._path_of_descriptor(path)
        if not isinstance(path, (str, bytes, os.PathLike)):
            return None
        inside = None if folder is None else self._path_of_descriptor(folder)
        absolute = os.path.normpath(os.path.join(inside or os.getcwd(), os.fsdecode(path)))
        is_below = any(absolute == folder or absolute.startswith(folder + os.sep) for folder in self._folders)
        return absolute if is_below or absolute in self._around_them else None

    def _path_of_descriptor(self, fd: int) -> str | None:
        path, identity = self._opened.get(fd, (None, None))
        try:
            return path if path is not None and _identity(fd) == identity else None
        except OSError:
            return None

    def about_path(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Make a call whose first argument is a path, or whose first two are."""
        path = self.path_of(args[0] if args else ".", kwargs.get("dir_fd", kwargs.get("src_dir_fd")))
        other = self.path_of(args[1], kwargs.get("dst_dir_fd")) if name in ("rename", "replace", "link") else None
        if path is None and other is None:
            return REAL[name](*args, **kwargs)
        return self._around(
            Call(name, path or os.fspath(args[0]), other or "", arguments=args), lambda: REAL[name](*args, **kwargs)
        )

    def about_descriptor(self, name: str, fd: int, *args: Any) -> Any:
        """Make a call whose first argument is a file descriptor."""
        path = self.path_of(fd) if isinstance(fd, int) else None
        if path is None:
            return REAL[name](fd, *args)
        return self._around(Call(name, path, descriptor=fd, arguments=args), lambda: REAL[name](fd, *args))

    def open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        """Open a file, and remember it."""
        watched = self.path_of(path, dir_fd)
        if watched is None:
            return int(REAL["open"](path, flags, mode, dir_fd=dir_fd))

        def opened() -> int:
            fd = int(REAL["open"](path, flags, mode, dir_fd=dir_fd))
            self._opened[fd] = (watched, _identity(fd))
            return fd

        return int(self._around(Call("open", watched, arguments=(path, flags)), opened))

    def close(self, fd: int) -> None:
        """Close a file, and forget it."""
        path = self.path_of(fd)
        self._opened.pop(fd, None)
        if path is None:
            REAL["close"](fd)
        else:
            self._around(Call("close", path, descriptor=fd), lambda: REAL["close"](fd))

    def open_stream(
        self,
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        """Open a file as a stream whose reading and writing is told of, too."""
        if self.path_of(file) is None:
            return _real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw = _File(file, mode.replace("b", "").replace("t", ""), closefd, opener)
        if buffering == 0:
            return raw
        kind = io.BufferedRandom if "+" in mode else io.BufferedReader if "r" in mode else io.BufferedWriter
        stream = kind(raw)  # type: ignore[arg-type]  # a raw stream of our own
        return stream if "b" in mode else io.TextIOWrapper(stream, encoding, errors, newline)

    def lockf(self, real: Callable[..., Any], fd: int, *args: Any) -> Any:
        """Lock or unlock a part of a file."""
        path = self.path_of(fd)
        if path is None:
            return real(fd, *args)
        return self._around(Call("lockf", path, descriptor=fd, arguments=args), lambda: real(fd, *args))

    def connect(self, file: Any, *args: Any, **kwargs: Any) -> sqlite3.Connection:
        """Open a database."""
        path = None if file == ":memory:" else self.path_of(file)
        if path is None:
            return _connect(file, *args, **kwargs)
        around = self._around

        class Connection(sqlite3.Connection):
            def execute(self, *args: Any) -> Any:
                return around(Call("sqlite", path, arguments=args), lambda: sqlite3.Connection.execute(self, *args))

            def executemany(self, *args: Any) -> Any:
                return around(Call("sqlite", path, arguments=args), lambda: sqlite3.Connection.executemany(self, *args))

        connection: sqlite3.Connection = around(
            Call("sqlite", path), lambda: _connect(file, *args, factory=Connection, **kwargs)
        )
        return connection


class _File(_FileIO):
    """A raw file that reads and writes by the functions of ``os``, which are told of."""

    def __init__(self, file: Any, mode: str = "r", closefd: bool = True, opener: Any = None) -> None:
        super().__init__(file, mode, closefd, opener or (lambda path, flags: os.open(path, flags, 0o666)))

    def write(self, data: Any) -> int:
        return os.write(self.fileno(), data)

    def readinto(self, buffer: Any) -> int:
        data = os.read(self.fileno(), len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int | None = -1) -> bytes:
        return self.readall() if size is None or size < 0 else os.read(self.fileno(), size)

    def readall(self) -> bytes:
        return b"".join(iter(lambda: os.read(self.fileno(), 2**20), b""))


def intercept(folders: Iterable[Path], around: Around) -> None:
    """Let `around` make all calls of this process that are about something below some folders, one at a time."""
    guard = threading.RLock()

    def one_at_a_time(call: Call, make: Callable[[], Any]) -> Any:
        with guard:
            return around(call, make)

    between = _Interceptor(folders, one_at_a_time)
    for name in PATH_CALLS:
        setattr(os, name, functools.partial(between.about_path, name))
    for name in DESCRIPTOR_CALLS:
        setattr(os, name, functools.partial(between.about_descriptor, name))
    # Each stands for the function that it calls, with the same parameters, which mypy cannot see.
    os.open, os.close = between.open, between.close  # type: ignore[assignment]
    io.FileIO = _File  # type: ignore[misc]
    io.open = builtins.open = between.open_stream  # type: ignore[assignment]
    sqlite3.connect = between.connect  # type: ignore[assignment]
    if sys.platform != "win32":
        import fcntl

        fcntl.lockf = functools.partial(between.lockf, fcntl.lockf)  # type: ignore[assignment]
    accessor = getattr(pathlib, "_NormalAccessor", None)  # Python 3.10 holds on to the functions of os
    if accessor is not None:
        for name in (*PATH_CALLS, "open"):
            if hasattr(accessor, name):
                setattr(accessor, name, staticmethod(between.open_stream if name == "open" else getattr(os, name)))


def _identity(fd: int) -> tuple[int, int]:
    status = REAL["fstat"](fd)
    return status.st_dev, status.st_ino
