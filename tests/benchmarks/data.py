"""The files that are published: the same bytes in every run, from a seed."""

import filecmp
import os
import random
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

KIB, MIB, GIB = 2**10, 2**20, 2**30
_FILES_PER_FOLDER = 100
_FOLDERS_PER_FOLDER = 10
_CHANGED_BYTES = 4 * KIB


@dataclass(frozen=True)
class Case:
    """Files of one kind.

    Attributes
    ----------
    name : str
        What the command line calls it.
    files, size : int
        How many files there are, and how many bytes are in each.
    """

    name: str
    files: int
    size: int

    def __str__(self) -> str:
        for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
            if self.size >= unit:
                return f"{self.name}: {self.files:,} of {self.size / unit:.4g} {name}"
        return f"{self.name}: {self.files:,} of {self.size} bytes"

    def scaled(self, scale: float) -> "Case":
        """Return fewer files, or smaller ones where they are few."""
        if self.files < 10:
            return Case(self.name, self.files, max(1, round(self.size * scale)))
        return Case(self.name, max(4, round(self.files * scale)), self.size)


CASES = {
    case.name: case
    for case in (
        Case("S", 10_000, 4 * KIB),
        Case("M", 1_000, 256 * KIB),
        Case("L", 4, GIB),
        Case("H", 100_000, KIB),
    )
}


def make_project(folder: Path, case: Case) -> None:
    """Make the files of a case, in nested folders."""
    dice = random.Random(f"{case.name} {case.files} {case.size}")
    for number in range(case.files):
        outer, inner = divmod(number // _FILES_PER_FOLDER, _FOLDERS_PER_FOLDER)
        file = folder / f"group-{outer:03}" / f"run-{inner}" / f"{number:06}.bin"
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as stream:
            for start in range(0, case.size, MIB):
                stream.write(dice.randbytes(min(MIB, case.size - start)))


def link_project(project: Path, copy: Path) -> None:
    """Make a second folder with the same files; nobody changes them in place, so hard links will do."""
    shutil.copytree(project, copy, copy_function=os.link)


def change_project(folder: Path) -> None:
    """Replace one file in a hundred, at least one, by one with another beginning."""
    files = list(_files(folder))
    dice = random.Random(len(files))
    for name in dice.sample(files, max(1, len(files) // 100)):
        file, new = folder / name, folder.parent / "new"
        shutil.copyfile(file, new)
        with new.open("r+b") as stream:
            stream.write(dice.randbytes(min(_CHANGED_BYTES, new.stat().st_size)))
        new.replace(file)


def warm(folder: Path) -> None:
    """Read all files, so that they are in memory for everybody."""
    for name in _files(folder):
        with (folder / name).open("rb", buffering=0) as stream:
            while stream.read(MIB):
                pass


def empty(folder: Path) -> None:
    """Give back the room that files take, but for those with another hard link, and leave their names.

    For minutes after many files were removed, ext4 makes each new one some ten times more slowly than before: it passes
    over every inode that was in use a moment ago. So nothing is removed while anything is still to be measured.
    """
    for name in _files(folder):
        file = folder / name
        status = file.lstat()
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
            file.chmod(0o600)
            os.truncate(file, 0)


def seconds_per_new_file(folder: Path, files: int = 1000) -> float:
    """Return how long it takes now to make a small file, which tells of what removed many before."""
    place = Path(tempfile.mkdtemp(prefix="new-", dir=folder))
    began = time.perf_counter()
    for number in range(files):
        (place / str(number)).write_bytes(bytes(KIB))
    return (time.perf_counter() - began) / files


def differences(project: Path, fetched: Path) -> list[str]:
    """Return what is not the same in both folders; names that begin with a dot at the top are a tool's own."""
    ours, theirs = set(_files(project)), {name for name in _files(fetched) if not name.startswith(".")}
    common = sorted(ours & theirs)
    changed = [name for name in common if not filecmp.cmp(project / name, fetched / name, shallow=False)]
    return sorted(ours ^ theirs) + changed


def _files(folder: Path) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            yield os.path.relpath(os.path.join(parent, name), folder)
