"""What this process asks of the disk, written down in order; Linux tells the name of an open file."""

import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the name of an open file is asked of Linux")


class Disk:
    """The steps by which files and names become durable.

    Parameters
    ----------
    monkeypatch : MonkeyPatch
        Ends the writing down with the test.
    folder : Path
        What is in it is written down, by relative path, and nothing else.

    Attributes
    ----------
    steps : list of str
        ``bytes of <file>: <size>`` and ``names in <folder>`` when they are made durable, ``name <file>`` when a file
        gets its name.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.steps: list[str] = []
        self._folder = folder
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self._sync)
        for name in ("replace", "rename", "link"):
            monkeypatch.setattr(os, name, self._naming(getattr(os, name)))

    def _sync(self, fd: int) -> None:
        self._fsync(fd)
        status, file = os.fstat(fd), self._relative(os.readlink(f"/proc/self/fd/{fd}"))
        is_folder = stat.S_ISDIR(status.st_mode)
        self._remember(f"names in {file}" if is_folder else f"bytes of {file}: {status.st_size}", file)

    def _naming(self, function: Any) -> Any:
        def name(source: str, target: str, **where: Any) -> None:
            function(source, target, **where)
            folder = os.readlink(f"/proc/self/fd/{where['dst_dir_fd']}") if where else ""
            file = self._relative(os.path.join(folder, target))
            self._remember(f"name {file}", file)

        return name

    def _remember(self, step: str, file: str) -> None:
        if not file.startswith(".."):
            self.steps.append(step)

    def _relative(self, path: str | Path) -> str:
        return Path(os.path.relpath(path, self._folder)).as_posix()

    def before(self, step: str) -> list[str]:
        """Return the steps before one of them."""
        return self.steps[: self.steps.index(step)]

    def after(self, step: str) -> list[str]:
        """Return the steps after one of them."""
        return self.steps[self.steps.index(step) + 1 :]
