"""Swap a folder for a link to another place just before a step of a publish, a fetch or a repair.

Nothing may be written, changed or removed in the other place, and the same run succeeds when the link is gone. Every
step is tried with every folder: ``python -m tests.attacks.swapping [--every N]``.
"""

import argparse
import logging
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.archives.filesystem import FileSystemArchive, create_archive
from pipeline.checksums import hash_file
from pipeline.errors import PipelineError
from pipeline.project import scan_project
from tests.audits import PUBLIC, audit
from tests.support import assert_archive_is_sound, sha1, tree

# What Python tells of just before it does it; to look at a file is not among these.
_EVENTS = {"open", "os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "os.listdir", "os.scandir"}
_OLD, _NEW = {"a.txt": b"alpha", "data/b.txt": b"beta"}, {"a.txt": b"gamma", "data/b.txt": b"delta", "data/none": b""}
_XX = sha1(b"gamma")[:2]


@dataclass
class Swap:
    """The swapping of one folder, before one step."""

    place: Path
    outside: Path
    at: int
    steps: int = 0
    names: set[str] = field(default_factory=set)
    is_done: bool = False

    @property
    def aside(self) -> Path:
        """Where the folder is while a link has its name."""
        return self.outside.parent / "aside"

    def step(self, paths: list[str]) -> None:
        """Count a step, and swap the folder when it is time and there is one."""
        self.names.update(os.path.basename(path) for path in paths)
        self.steps += 1
        if self.steps >= self.at and not self.is_done and self.place.is_dir():
            self.is_done = True
            self.place.rename(self.aside)
            self.place.symlink_to(self.outside)

    def undo(self) -> None:
        """Put the folder back."""
        if self.is_done:
            if self.place.is_symlink():
                self.place.unlink()
            self.aside.rename(self.place)


_active: list[Swap] = []
_guard = threading.RLock()
_inside = threading.local()


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _EVENTS and _active and not getattr(_inside, "hook", False):
        _inside.hook = True
        try:
            with _guard:
                _active[0].step([os.fsdecode(one) for one in arguments if isinstance(one, (str, bytes))])
        finally:
            _inside.hook = False


def _publish(folder: Path, version: str) -> None:
    archive, directory = FileSystemArchive(folder / "archive"), folder / f"project-{version}"
    found = scan_project(directory)
    mapping = found.mapping({path: hash_file(directory / path)[0] for path in found.files})
    title = f"sample-v{version}"
    archive.upload_blobs_and_update_mapping(title, "sample", PUBLIC, mapping, directory, 2, 1000)
    record = {"title": title, "title_versionless": "sample", "version": version, "project": mapping}
    archive.upload_release_record(record, PUBLIC)


def publish(folder: Path) -> None:
    """Publish the second version, unless it is there."""
    archive = FileSystemArchive(folder / "archive")
    if archive.get_release("sample", "0.2.0") is None:
        _publish(folder, "0.2.0")
    archive.tidy("sample", PUBLIC)


def fetch(folder: Path) -> None:
    """Fetch the first version."""
    archive = FileSystemArchive(folder / "archive")
    record = archive.get_release("sample", "0.1.0")
    if record is None:
        raise PipelineError("There is no such release.")
    archive.download_release(record, PUBLIC, 2, folder / "fetched", 1000, progress_bar=False)


def repair(folder: Path) -> None:
    """Repair a damaged blob, a missing blob and a damaged record."""
    found = audit(folder / "archive", folder / "mirror")
    if found.failures:
        raise PipelineError(str(found.failures[0]))
    FileSystemArchive(folder / "archive").tidy("sample", PUBLIC)


def prepare(folder: Path) -> None:
    """Publish a first version into an archive that has a mirror."""
    for version, files in (("0.1.0", _OLD), ("0.2.0", _NEW)):
        for path, data in files.items():
            file = folder / f"project-{version}" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
    create_archive(folder / "archive")
    _publish(folder, "0.1.0")
    shutil.copytree(folder / "archive", folder / "mirror")


def damage(folder: Path) -> None:
    """Damage its blobs and its record."""
    title = folder / "archive" / PUBLIC / "sample"
    (title / "blobs" / sha1(b"alpha")[:2] / sha1(b"alpha")).write_bytes(b"ALPHA")
    (title / "blobs" / sha1(b"beta")[:2] / sha1(b"beta")).unlink()
    (title / "sample-v0.1.0.yml").write_bytes(b"{}")


_TITLE = f"archive/{PUBLIC}/sample"
_ACTIONS: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "publish": (
        publish,
        [
            f"archive/{PUBLIC}",
            *(
                f"{_TITLE}{name}"
                for name in ("", "/blobs", f"/blobs/{_XX}", "/.partial", "/.records", "/.records/0.2.0")
            ),
        ],
    ),
    "fetch": (fetch, ["fetched/data", "fetched/.rme", "fetched/.rme/.partial"]),
    "repair": (
        repair,
        [
            f"{_TITLE}{name}"
            for name in ("", "/blobs", f"/blobs/{sha1(b'beta')[:2]}", "/.partial", "/.damaged", "/.records/0.1.0")
        ],
    ),
}


def _fill(outside: Path, place: str, places: list[str], names: set[str]) -> None:
    """Make the same folders in the other place, with files of all names that a run uses, so that a loss is noticed."""
    folders = [other.removeprefix(place).strip("/") for other in places if f"{other}/".startswith(f"{place}/")]
    within = {part for folder in folders for part in folder.split("/")}
    for folder in ("", *folders):
        (outside / folder).mkdir(parents=True, exist_ok=True)
        for name in names - within - {"", ".", ".."}:
            (outside / folder / name).write_bytes(b"precious")


def _is_whole(folder: Path) -> bool:
    assert_archive_is_sound(folder / "archive")
    return not list((folder / "archive").glob("*/*/.partial"))


def _try(base: Path, name: str, place: str, at: int, names: set[str]) -> Swap:
    """Run an action with a swap; raise AssertionError when anything is wrong."""
    action, places = _ACTIONS[name]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "work"
        shutil.copytree(base, folder)
        if name == "repair":
            damage(folder)
        swap = Swap(folder / place, Path(temporary) / "outside", at)
        _fill(swap.outside, place, places, names)
        before = tree(swap.outside)
        _active.append(swap)
        try:
            action(folder)
        except (PipelineError, OSError):
            pass
        finally:
            _active.clear()
        after = tree(swap.outside)
        changed = {path for path in before.keys() | after.keys() if before.get(path, 0) != after.get(path, 0)}
        assert not changed, f"{name} wrote through {place}, swapped before step {at}: {sorted(changed)[:3]}"
        swap.undo()
        action(folder)
        assert _is_whole(folder), f"{name} is not whole after {place} was swapped before step {at}"
    return swap


def attack(every: int = 1) -> Iterator[str]:
    """Try each `every`-th step of each action with each folder, and yield what was tried."""
    sys.addaudithook(_hook)
    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        base.mkdir()
        prepare(base)
        for name, (_, places) in _ACTIONS.items():
            clean = _try(base, name, "nowhere", sys.maxsize, set())
            for number, place in enumerate(places):
                for at in range(1 + number % every, clean.steps + 1, every):
                    swap = _try(base, name, place, at, clean.names)
                    if not swap.is_done:
                        break
                    yield f"{name}, {place}, {at}"


def main() -> None:
    """Try them all and say how many there were."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="try each N-th step only")
    began, tried = time.monotonic(), list(attack(parser.parse_args().every))
    print(f"{len(tried)} swaps, nothing was written through a link, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
