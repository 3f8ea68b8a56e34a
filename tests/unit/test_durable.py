"""A name is given to bytes that are durable already, and then it is made durable itself."""

import contextlib
import errno
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.durable import (
    Staging,
    is_taken,
    make_private_file,
    make_private_folder,
    sync_folder,
    sync_upwards,
    write_file,
)
from pipeline.folders import make_folders
from pipeline.locks import locks_for
from tests.disk import Disk, linux_only
from tests.support import sha1, tree

PATIENCE = 40.0
DATA = b"1,2,3\n" * 100


def fails_with(number: int) -> Any:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    return Staging(tmp_path / ".partial")


def lock_key(target: Path) -> str:
    return sha1(os.fsencode(target))


@linux_only
@pytest.mark.parametrize("exclusive", [True, False])
def test_a_small_file_gets_its_name_when_its_bytes_are_durable(
    staging: Staging, tmp_path: Path, exclusive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, tmp_path)
    write_file(DATA, tmp_path / "new" / "deep" / "record.yml", staging, exclusive=exclusive)
    naming = "name new/deep/record.yml"
    assert disk.before(naming)[-1].endswith(f".part: {len(DATA)}")
    assert {"names in new/deep", "names in new", "names in ."} <= set(disk.after(naming))
    assert "names in ." in disk.before(naming), "the folder of the parts is durable before anything is written in it"
    assert (tmp_path / "new" / "deep" / "record.yml").read_bytes() == DATA


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_a_name_that_is_taken_is_never_given_again(
    staging: Staging, tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", fails_with(errno.EPERM))
    target = tmp_path / "record.yml"
    write_file(DATA, target, staging, exclusive=True)
    with pytest.raises(FileExistsError):
        write_file(b"other", target, staging, exclusive=True)
    assert target.read_bytes() == DATA
    write_file(b"other", target, staging, exclusive=False)
    assert target.read_bytes() == b"other"


@pytest.mark.parametrize("fault", ["none", "taken", "no space"])
def test_nothing_is_left_of_the_writing_of_a_small_file(
    staging: Staging, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "record.yml"
    locks = staging.locks
    if fault == "taken":
        target.write_bytes(b"other")
    if fault == "no space":
        monkeypatch.setattr("pipeline.durable.sync", fails_with(errno.ENOSPC))
    if fault == "none":
        write_file(DATA, target, staging, exclusive=True)
    else:
        with pytest.raises(OSError, match="File exists" if fault == "taken" else "No space"):
            write_file(DATA, target, staging, exclusive=True)
    assert not list(staging.folder.glob("*.part"))
    assert locks.acquire([lock_key(target)]), "the lock is given up"


def test_nothing_of_what_a_killed_run_left_is_in_a_small_file(staging: Staging, tmp_path: Path) -> None:
    target = tmp_path / "record.yml"
    staging.make()
    Path(staging.part(lock_key(target))).write_bytes(DATA + b"4,5,6\n")
    write_file(DATA, target, staging, exclusive=True)
    assert target.read_bytes() == DATA


def test_a_small_file_waits_for_another_run_that_writes_it(
    staging: Staging, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "record.yml"
    staging.make()
    locks = locks_for(staging.folder)
    acquire, asked = locks.acquire, threading.Event()

    def ask(digests: Iterable[str]) -> set[str]:
        mine = acquire(digests)
        asked.set()
        return mine

    monkeypatch.setattr(locks, "acquire", ask)
    assert acquire([lock_key(target)])
    with ThreadPoolExecutor(1) as other_run:
        writing = other_run.submit(write_file, DATA, target, staging, exclusive=True)
        writing.add_done_callback(lambda _: asked.set())
        assert asked.wait(PATIENCE)
        assert not target.exists()
        locks.release([lock_key(target)])
    assert writing.result() is None
    assert target.read_bytes() == DATA


def test_a_file_system_that_cannot_sync_folders_is_good_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
        monkeypatch.setattr(os, "fsync", fails_with(number))
        sync_folder(tmp_path)


def test_a_folder_that_cannot_be_made_durable_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", fails_with(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        sync_folder(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no way to sync a folder")
def test_what_is_no_folder_is_not_taken_for_a_durable_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        sync_folder(tmp_path / "file")


@pytest.mark.parametrize("number", [0, errno.EINVAL, errno.EIO])
def test_no_folder_stays_open(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, closed = [], []
    open_, close = os.open, os.close

    def remember(path: Any, flags: int) -> int:
        opened.append(open_(path, flags))
        return opened[-1]

    def forget(fd: int) -> None:
        close(fd)
        closed.append(fd)

    monkeypatch.setattr(os, "open", remember)
    monkeypatch.setattr(os, "close", forget)
    if number:
        monkeypatch.setattr(os, "fsync", fails_with(number))
    with contextlib.suppress(OSError):
        sync_folder(tmp_path)
    assert opened == closed != []


def test_making_folders_tells_which_folders_have_new_names(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b" / "c"
    assert make_folders(deep) == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    assert deep.is_dir()
    assert make_folders(deep) == []
    assert make_folders(tmp_path / "a" / "d") == [tmp_path / "a"]


@pytest.mark.parametrize("make", [make_folders, make_private_folder])
def test_a_folder_that_another_run_makes_in_between_is_as_good(
    make: Callable[[Path], list[Path] | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = Path.mkdir

    def make_more(folder: Path, *arguments: Any, **options: Any) -> None:
        mkdir(folder, *arguments, **options)
        if folder.name == "a":
            mkdir(folder / "b")

    monkeypatch.setattr(Path, "mkdir", make_more)
    assert make(tmp_path / "a" / "b") == ([tmp_path, tmp_path / "a"] if make is make_folders else None)
    assert (tmp_path / "a" / "b").is_dir()


@linux_only
def test_the_folder_of_the_parts_is_durable_before_there_are_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, tmp_path)
    Staging(tmp_path / "title" / ".partial").make()
    assert disk.steps == ["names in .", "names in title"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no handles of folders: writing tells it")
def test_a_file_where_the_folder_of_the_parts_belongs_is_an_error(staging: Staging) -> None:
    staging.folder.touch()
    with pytest.raises(NotADirectoryError, match=staging.folder.name):
        staging.make()


def test_clearing_makes_durable_what_a_killed_run_named_and_then_that_the_folder_is_gone(
    staging: Staging, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    staging.make()
    part = Path(staging.part("0" * 40))
    part.touch()
    monkeypatch.setattr(
        "pipeline.durable.sync_folder", lambda folder: synced.append((folder, part.exists(), staging.folder.exists()))
    )
    staging.clear()
    assert synced == [(tmp_path, True, True), (tmp_path, False, False)]


def test_clearing_removes_what_interrupted_runs_left(staging: Staging) -> None:
    staging.clear()
    staging.make()
    Path(staging.part("0" * 40)).write_bytes(b"half")
    locks_for(staging.folder).acquire(["1" * 40])
    locks_for(staging.folder).release(["1" * 40])
    staging.clear()
    assert not staging.folder.exists()


def test_clearing_leaves_alone_what_is_in_use(staging: Staging) -> None:
    staging.make()
    part = Path(staging.part("0" * 40))
    part.write_bytes(b"half")
    locks = locks_for(staging.folder)
    locks.acquire(["0" * 40])
    staging.clear()
    assert {path: data for path, data in tree(staging.folder).items() if path.endswith(".part")} == {part.name: b"half"}
    locks.release(["0" * 40])
    staging.clear()
    assert not staging.folder.exists()


def test_the_parts_of_several_targets_are_not_one(staging: Staging) -> None:
    parts = [staging.part_of_target("0" * 40, number) for number in range(3)]
    assert parts[0] == staging.part("0" * 40)
    assert len(set(parts)) == 3
    assert {os.path.dirname(part) for part in parts} == {str(staging.folder)}


def test_a_name_is_taken_by_anything_that_has_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    taken = {name: is_taken(tmp_path / name) for name in ("file", "folder", "link", "nothing")}
    assert taken == {"file": True, "folder": True, "link": True, "nothing": False}
    with pytest.raises(NotADirectoryError):
        is_taken(tmp_path / "file" / "below")


def test_the_root_has_no_parents_to_make_durable() -> None:
    sync_upwards(Path(os.path.abspath(os.sep)))


@linux_only
def test_the_names_of_a_folder_and_all_above_it_are_made_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    disk = Disk(monkeypatch, tmp_path)
    sync_upwards(deep)
    assert disk.steps == ["names in a/b", "names in a", "names in ."]


@linux_only
def test_other_file_systems_above_a_folder_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr("pipeline.durable.sync_folder", synced.append)
    sync_upwards(Path("/proc/self"))
    assert synced == [Path("/proc/self"), Path("/proc")]


@pytest.mark.skipif(os.name != "posix", reason="Windows has no rights of owner, group and others")
def test_a_private_file_and_its_folders_are_for_this_user_only(tmp_path: Path) -> None:
    file = tmp_path / "new" / "deep" / "digests.sqlite"
    make_private_file(file)
    rights = [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent, file.parent.parent)]
    assert rights == [0o600, 0o700, 0o700]
    assert file.read_bytes() == b""
    file.write_bytes(DATA)
    make_private_file(file)
    assert file.read_bytes() == DATA
