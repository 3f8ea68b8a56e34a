"""A lock on a blob belongs to one run, whatever becomes of that run and of the file of the locks."""

import contextlib
import errno
import itertools
import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline import locks as module
from pipeline.locks import BlobLocks, locks_for
from tests.support import sha1

PATIENCE = 40.0
A, B, C = (sha1(letter) for letter in (b"a", b"b", b"c"))

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")


def fork() -> int:
    """Fork; the threads beside this one all wait."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


@contextlib.contextmanager
def other_run(file: Path, *digests: str) -> Iterator[set[str]]:
    """Let another process acquire locks, and yield those that it got; it is killed at the end of the block."""
    reading, writing = os.pipe()
    child = fork()
    if not child:
        try:
            mine = BlobLocks(file, file.parent.parent).acquire(digests)
            os.write(writing, f"{' '.join(sorted(mine))}\n".encode())
            signal.pause()
        finally:
            os._exit(1)
    os.close(writing)
    try:
        with open(reading, encoding="ascii") as answer:
            yield set(answer.readline().split())
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / ".partial" / "lock"


@pytest.fixture
def locks(file: Path) -> BlobLocks:
    return BlobLocks(file, file.parent.parent)


def test_a_lock_is_given_once(locks: BlobLocks) -> None:
    assert locks.acquire([A, B]) == {A, B}
    assert locks.acquire([B, C]) == {C}
    locks.release([A, C])
    assert locks.acquire([A, B, C]) == {A, C}


def test_another_run_gets_what_is_left(locks: BlobLocks, file: Path) -> None:
    locks.acquire([A])
    with other_run(file, A, B) as theirs:
        assert theirs == {B}
        assert locks.acquire([B, C]) == {C}
    assert locks.acquire([B]) == {B}, "a run that was killed holds nothing"


def test_what_is_given_up_is_free_for_another_run(locks: BlobLocks, file: Path) -> None:
    locks.acquire([A, B])
    locks.release([B, C])
    with other_run(file, A, B) as theirs:
        assert theirs == {B}


def test_a_lock_is_given_up_without_that_on_the_next_byte(locks: BlobLocks, file: Path) -> None:
    first, next_ = "0" * 12 + "a" * 28, "0" * 11 + "1" + "b" * 28
    locks.acquire([first, next_])
    locks.release([first])
    with other_run(file, first, next_) as theirs:
        assert theirs == {first}


def test_digests_that_begin_alike_are_locked_apart(locks: BlobLocks, file: Path) -> None:
    zeros = ["0" * 40, "0" * 11 + "1" * 29, "f" * 40, "f" * 11 + "e" * 29]
    locks.acquire(zeros[::2])
    with other_run(file, *zeros) as theirs:
        assert theirs == set(zeros[1::2])


def test_a_run_that_waits_goes_on_when_the_lock_is_given_up(locks: BlobLocks) -> None:
    locks.acquire([A])
    waited = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(locks.wait, A, "a.csv", waited.set)
        assert waited.wait(PATIENCE)
        assert not waiting.done()
        locks.release([A])
        waiting.result(PATIENCE)
    assert locks.acquire([A]) == set()


def test_a_run_that_waits_says_so_once_and_looks_ten_times_a_second(
    locks: BlobLocks, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(locks._changed, "wait", waits.append)
    ticks = itertools.count(1)
    locks.acquire([A])
    with caplog.at_level(logging.INFO, "pipeline"):
        locks.wait(A, "a.csv", lambda: locks.release([A] if next(ticks) == 3 else []))
    assert waits == [0.1] * 3
    assert caplog.messages == ["a.csv: another run is writing this; waiting for it."]


def test_a_run_that_waits_is_woken_as_soon_as_the_lock_is_given_up(
    locks: BlobLocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait, waits, woken = locks._changed.wait, threading.Event(), []

    def wait_for_long(_: float) -> None:
        waits.set()
        woken.append(wait(PATIENCE / 10))

    monkeypatch.setattr(locks._changed, "wait", wait_for_long)
    locks.acquire([A])
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(locks.wait, A, "a.csv", lambda: None)
        assert waits.wait(PATIENCE)
        locks.release([A])
        waiting.result(PATIENCE)
    assert woken == [True]


def test_a_lock_is_not_lost_when_its_file_is_removed_by_a_run_that_had_finished(locks: BlobLocks, file: Path) -> None:
    locks.acquire([A])
    locks.release([A])
    file.unlink()
    file.parent.rmdir()
    assert locks.acquire([A]) == {A}
    with other_run(file, A, B) as theirs:
        assert theirs == {B}


def test_a_lock_is_not_lost_when_its_file_is_another_one_by_now(locks: BlobLocks, file: Path) -> None:
    locks.acquire([A])
    locks.release([A])
    file.unlink()
    with other_run(file, B) as theirs:
        assert theirs == {B}
        assert locks.acquire([A, B]) == {A}


def test_a_lock_is_not_lost_when_its_file_is_removed_just_before_it_is_taken(
    locks: BlobLocks, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, removed = module._lock, []

    def be_late(fd: int, offset: int, nbytes: int) -> None:
        if not removed:
            removed.append(file)
            file.unlink()
        lock(fd, offset, nbytes)

    monkeypatch.setattr(module, "_lock", be_late)
    assert locks.acquire([A]) == {A}
    assert removed
    with other_run(file, A, B) as theirs:
        assert theirs == {B}


def test_locks_are_given_also_when_somebody_removed_the_file_of_those_that_are_held(
    locks: BlobLocks, file: Path
) -> None:
    locks.acquire([A])
    file.unlink()
    assert locks.acquire([B]) == {B}
    with other_run(file, B, C) as theirs:
        assert theirs == {C}


def test_a_folder_that_is_removed_in_between_is_made_again(
    locks: BlobLocks, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_, removed = os.open, []

    def remove_first(path: Any, *arguments: Any, **where: Any) -> int:
        if Path(path).name == "lock" and not removed:
            removed.append(path)
            file.parent.rmdir()
        return open_(path, *arguments, **where)

    monkeypatch.setattr(os, "open", remove_first)
    assert locks.acquire([A]) == {A}
    assert removed
    assert file.exists()


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="this system follows symbolic links")
def test_the_file_of_the_locks_is_not_written_through_a_link(locks: BlobLocks, file: Path, tmp_path: Path) -> None:
    file.parent.mkdir()
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        locks.acquire([A])
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="this system follows symbolic links")
def test_what_is_locked_by_a_file_that_cannot_be_opened_is_left_alone(locks: BlobLocks, file: Path) -> None:
    file.parent.mkdir()
    file.symlink_to("elsewhere")
    done: list[bool] = []
    locks.remove_unless_used(lambda: done.append(True))
    assert done == []
    assert file.is_symlink()


def test_where_there_are_no_locks_a_run_is_warned_once_and_works(
    locks: BlobLocks, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = []

    def refuse(fd: int, offset: int, nbytes: int) -> None:
        asked.append(offset)
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(module, "_lock", refuse)
    monkeypatch.setattr(module, "_unlock", refuse)
    with caplog.at_level(logging.WARNING, "pipeline"):
        assert locks.acquire([A, B]) == {A, B}
        locks.release([A])
        assert locks.acquire([A, B]) == {A}
    assert len(caplog.records) == len(asked) == 1
    assert "do not run two at once here" in caplog.text


def test_a_disk_that_fails_is_not_taken_for_another_run(
    locks: BlobLocks, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, asked = module._lock, []

    def fail_at_the_second(fd: int, offset: int, nbytes: int) -> None:
        asked.append(offset)
        if len(asked) == 2:
            raise OSError(errno.EIO, "Input/output error")
        lock(fd, offset, nbytes)

    monkeypatch.setattr(module, "_lock", fail_at_the_second)
    with pytest.raises(OSError, match="Input/output error"):
        locks.acquire([A, B])
    with other_run(file, A, B) as theirs:
        assert theirs == {A, B}


def test_a_run_that_is_done_removes_the_file(locks: BlobLocks, file: Path) -> None:
    done: list[bool] = []
    locks.acquire([A])
    locks.remove_unless_used(lambda: done.append(True))
    assert done == []
    assert file.exists()
    locks.release([A])
    locks.remove_unless_used(lambda: done.append(file.exists()))
    assert done == [True], "what the locks protect goes before they do"
    assert not file.exists()
    assert locks.acquire([A]) == {A}


def test_a_run_that_is_done_leaves_alone_what_another_uses(locks: BlobLocks, file: Path) -> None:
    done: list[bool] = []
    with other_run(file, A) as theirs:
        assert theirs == {A}
        locks.remove_unless_used(lambda: done.append(True))
        assert done == []
        assert file.exists()
    locks.remove_unless_used(lambda: done.append(True))
    assert done == [True]


def test_a_file_that_was_removed_by_another_run_protects_nothing(
    locks: BlobLocks, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[bool] = []
    lock = module._lock

    def be_late(fd: int, offset: int, nbytes: int) -> None:
        file.unlink()
        file.touch()
        lock(fd, offset, nbytes)

    monkeypatch.setattr(module, "_lock", be_late)
    locks.remove_unless_used(lambda: done.append(True))
    assert done == []
    assert file.exists()


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc to see what a process has open")
def test_nothing_stays_open_when_a_run_is_done(locks: BlobLocks, file: Path) -> None:
    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = opened()
    locks.acquire([A])
    locks.acquire([B])
    locks.release([A, B])
    assert opened() == before
    locks.remove_unless_used(lambda: None)
    with other_run(file, A):
        between = opened()
        locks.remove_unless_used(lambda: None)
        assert opened() == between
        with pytest.raises(KeyboardInterrupt):
            locks.wait(A, "a.csv", interrupt)
        assert opened() == between
    assert opened() == before


def test_there_is_one_object_for_a_folder_whatever_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    assert locks_for(tmp_path / "folder") is locks_for(tmp_path / "link")
    assert locks_for(tmp_path / "folder") is not locks_for(tmp_path)
    assert locks_for(tmp_path / "folder").acquire([A]) == {A}
    assert (tmp_path / "folder" / "lock").exists()


def test_a_forked_process_does_not_take_the_locks_of_its_parent_for_its_own(tmp_path: Path) -> None:
    locks = locks_for(tmp_path)
    assert locks.acquire([A]) == {A}
    child = fork()
    if not child:
        code = 100
        try:
            code = len(locks_for(tmp_path).acquire([A, B]))
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def test_a_folder_that_is_removed_again_and_again_is_an_error(
    locks: BlobLocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def removed(*file: Any) -> int:
        tried.append(file)
        raise FileNotFoundError

    monkeypatch.setattr("pipeline.locks.Folders.open_shared", removed)
    with pytest.raises(FileNotFoundError):
        locks.acquire([A])
    assert len(tried) == 1000
