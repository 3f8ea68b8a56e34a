"""While one group of blobs becomes durable the next is written, and neither loses what it is promised by that."""

import contextlib
import errno
import io
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import transfer
from pipeline.locks import BlobLocks, locks_for
from pipeline.transfer import Move
from tests.desk import Desk, fails_with
from tests.disk import Disk, linux_only

PATIENCE = 40.0
# For what must not happen to happen.
CHANCE = 0.2


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Blobs of which each is a group of its own, unless a test wants it otherwise."""
    monkeypatch.setattr(transfer, "_GROUP_FILES", 1)
    return Desk(tmp_path)


class Slow(io.BytesIO):
    """A source that does something before it is read."""

    def __init__(self, data: bytes, before: Callable[[], object]) -> None:
        super().__init__(data)
        self._before = before

    def readinto(self, buffer: Any) -> int:
        self._before()
        return super().readinto(buffer)


def read_after(before: Callable[[], object], move: Move, data: bytes) -> Move:
    """Return a move that does something whenever its source is read."""
    return replace(move, source=lambda offset: contextlib.nullcontext(Slow(data[offset:], before)))


def is_locked(desk: Desk, move: Move) -> bool:
    locks = locks_for(desk.staging.folder)
    mine = locks.acquire([move.digest])
    locks.release(mine)
    return not mine


def open_parts() -> list[str]:
    names = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            names.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [name for name in names if name.endswith(".part")]


# Durable


@linux_only
@pytest.mark.parametrize("files", [1, 2, 3])
def test_no_blob_has_a_name_before_its_bytes_are_durable_nor_is_done_before_its_names_are(
    desk: Desk, files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_GROUP_FILES", files)
    disk = Disk(monkeypatch, desk.folder)
    desk.meter.events = disk.steps
    targets = {f"new {n % 3}/{n}": [f"new {n % 3}/{n}", f"twin/{n}"][: 1 + n % 2] for n in range(8)}
    moves = [desk.blob(name, name.encode(), *names) for name, names in targets.items()]
    assert desk.move(*moves) == {}
    for move in moves:
        for number, target in enumerate(targets[move.name]):
            part = os.path.relpath(desk.staging.part_of_target(move.digest, number), desk.folder)
            assert f"bytes of {part}: {move.size}" in disk.before(f"name {target}")
            named, done = (disk.steps.index(step) for step in (f"name {target}", f"finished {move.name}"))
            assert f"names in {os.path.dirname(target)}" in disk.steps[named:done]


def test_the_next_group_is_written_while_the_last_becomes_durable(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    is_read = threading.Event()

    def sync(fd: int) -> None:
        assert is_read.wait(PATIENCE)

    monkeypatch.setattr(transfer, "sync", sync)
    assert desk.move(desk.blob("a", b"alpha"), read_after(is_read.set, desk.blob("b", b"beta"), b"beta")) == {}


@linux_only
def test_no_more_files_are_open_than_those_of_two_groups(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_GROUP_FILES", 2)
    counts: list[int] = []
    moves = [
        read_after(lambda: counts.append(len(open_parts())), desk.blob(n, n.encode()), n.encode()) for n in "abcdefghi"
    ]
    assert desk.move(*moves) == {}
    assert max(counts) == 4


@pytest.mark.parametrize("files", [1, 2, 5])
def test_bytes_that_cannot_be_made_durable_are_a_failure_of_their_blob_alone(
    desk: Desk, files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_GROUP_FILES", files)
    sync = transfer.sync

    def fail_for_bad(fd: int) -> None:
        if os.fstat(fd).st_size == len(b"bad"):
            fails_with(errno.EIO)()
        sync(fd)

    monkeypatch.setattr(transfer, "sync", fail_for_bad)
    moves = [desk.blob(name, name.encode() * n) for n, name in enumerate(("a", "b", "bad", "c", "d"), 1) if n != 3]
    bad = desk.blob("bad", b"bad", "bad", "bad too")
    moves.insert(2, bad)
    assert set(desk.move(*moves)) == {bad.digest}
    assert desk.meter.moved == {"a": True, "b": True, "bad": False, "c": True, "d": True}
    assert sorted(path.name for path in desk.folder.iterdir() if path.is_file()) == ["a", "b", "c", "d"]


@linux_only
def test_a_blob_of_which_one_file_cannot_be_written_gets_no_name(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def fill_up(fd: int, data: bytes) -> int:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(".1.part"):
            fails_with(errno.ENOSPC)()
        return write(fd, data)

    monkeypatch.setattr(os, "write", fill_up)
    moves = [desk.blob("a", b"alpha"), desk.blob("b", b"beta", "b", "twin"), desk.blob("c", b"gamma")]
    assert set(desk.move(*moves)) == {moves[1].digest}
    assert sorted(path.name for path in desk.folder.iterdir() if path.is_file()) == ["a", "c"]
    monkeypatch.setattr(os, "write", write)
    assert desk.move(replace(moves[1], source=fails_with(errno.EIO))) == {}, "what was written is gone on with"
    assert (desk.folder / "twin").read_bytes() == b"beta"


@pytest.mark.parametrize("failing", [1, 2])
def test_bytes_that_could_not_be_made_durable_are_written_anew_by_the_next_run(
    desk: Desk, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an error the system takes them for durable, though it has lost them: to ask once more proves nothing."""
    calls: list[int] = []
    offsets: list[int] = []

    def fail_once(fd: int) -> None:
        calls.append(fd)
        if len(calls) == failing:
            fails_with(errno.EIO)()

    def source(offset: int) -> contextlib.AbstractContextManager[io.BytesIO]:
        offsets.append(offset)
        return contextlib.nullcontext(io.BytesIO(b"alpha"[offset:]))

    move = replace(desk.blob("a", b"alpha", "a", "twin"), source=source)
    monkeypatch.setattr(transfer, "sync", fail_once)
    assert set(desk.move(move)) == {move.digest}
    assert {file.stat().st_size for file in desk.staging.folder.glob("*.part")} == {0}
    assert desk.move(move) == {}
    assert offsets == [0, 0]
    assert (desk.folder / "twin").read_bytes() == b"alpha"


def test_a_disk_that_does_nothing_any_more_is_told_by_its_first_error(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "sync", fails_with(errno.EIO))
    monkeypatch.setattr(os, "ftruncate", fails_with(errno.EROFS))
    (error,) = desk.move(desk.blob("a", b"alpha")).values()
    assert isinstance(error, OSError)
    assert error.errno == errno.EIO


@pytest.mark.parametrize("fault", ["name", "folder"])
def test_a_blob_that_fails_twice_is_told_once(desk: Desk, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name cannot be given, and its folder cannot be made durable."""
    (desk.folder / "bad" / "taken" / "inside").mkdir(parents=True)
    monkeypatch.setattr(transfer, "sync_folder", fails_with(errno.EIO))
    move = desk.blob("a", b"alpha", "bad/taken" if fault == "name" else "bad/a")
    assert set(desk.move(move)) == {move.digest}
    assert desk.meter.events == ["started a", "finished a"]


# Closed


class Complaining:
    """A disk that complains when one of the files of a desk is closed, as some network drives do. They are closed then.

    Attributes
    ----------
    closed : int
        How many times such a file was closed.
    twice : int
        How many times something was closed that was not open: by then that may be somebody else's.
    """

    def __init__(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        self.closed = self.twice = 0
        self._folder = os.fspath(desk.folder)
        self._close = os.close
        monkeypatch.setattr(os, "close", self._complain)

    def _complain(self, fd: int) -> None:
        try:
            path, is_file = os.readlink(f"/proc/self/fd/{fd}"), stat.S_ISREG(os.fstat(fd).st_mode)
        except FileNotFoundError:
            self.twice += 1
            raise
        self._close(fd)
        if is_file and path.startswith(self._folder) and not path.endswith("lock"):
            self.closed += 1
            fails_with(errno.EDQUOT)()


@linux_only
@pytest.mark.parametrize("source", [b"alpha", b"ALPHA", b"alph"], ids=["right", "wrong", "short"])
def test_a_disk_that_complains_when_a_file_is_closed_changes_nothing(
    desk: Desk, source: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves = [desk.blob("a", b"alpha", source=source), desk.blob("b", b"beta"), desk.blob("c", b"gamma")]
    with monkeypatch.context() as patch:
        disk = Complaining(desk, patch)
        failures = desk.move(*moves)
    assert [str(error) for error in failures.values()] == ([] if source == b"alpha" else ["a is wrong"])
    assert desk.meter.moved == {"a": source == b"alpha", "b": True, "c": True}
    assert (disk.closed, disk.twice) == (3, 0)
    assert not any(is_locked(desk, move) for move in moves)


@linux_only
def test_an_interrupt_while_one_group_is_written_and_one_becomes_durable_leaves_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_synced, is_read, interrupted, closed = (threading.Event() for _ in range(4))
    synced: list[int] = []
    close = os.close

    def sync(fd: int) -> None:
        synced.append(fd)
        is_synced.set()
        assert interrupted.wait(PATIENCE)
        assert not closed.wait(CHANCE), "it was closed while it became durable"
        os.fsync(fd)

    def note(fd: int) -> None:
        if fd in synced:
            closed.set()
        close(fd)

    def interrupt() -> None:
        if is_synced.is_set() and is_read.is_set():
            interrupted.set()
            raise KeyboardInterrupt

    def read() -> None:
        is_read.set()
        assert interrupted.wait(PATIENCE)

    moves = [desk.blob(name, name.encode()) for name in "abc"]
    moves[1] = read_after(read, moves[1], b"b")
    files, threads = os.listdir("/proc/self/fd"), threading.active_count()
    with monkeypatch.context() as patch:
        patch.setattr(transfer, "sync", sync)
        patch.setattr(os, "close", note)
        patch.setattr(desk.meter, "tick", interrupt)
        with pytest.raises(KeyboardInterrupt):
            desk.move(*moves)
    assert len(synced) == 1
    assert os.listdir("/proc/self/fd") == files
    assert threading.active_count() == threads
    assert desk.meter.events == ["started a", "started b"]
    assert [path.name for path in desk.folder.iterdir()] == [".partial"]
    assert not any(is_locked(desk, move) for move in moves)
    assert desk.move(*moves) == {}, "the next run completes it"


@linux_only
@pytest.mark.parametrize("when", ["read", "to be named", "named", "done"])
def test_an_interrupt_at_any_moment_leaves_nothing_open_or_locked(
    desk: Desk, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the disk complains when the files are closed."""

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    moves = [desk.blob(name, name.encode()) for name in "abcd"]
    if when == "read":
        moves[2] = read_after(interrupt, moves[2], b"c")
    elif when == "to be named":
        moves[1] = replace(moves[1], before_naming=interrupt)
    files, threads = os.listdir("/proc/self/fd"), threading.active_count()
    with monkeypatch.context() as patch:
        if when == "named":
            patch.setattr(transfer, "sync_folder", interrupt)
        elif when == "done":
            patch.setattr(desk.meter, "finished", interrupt)
        Complaining(desk, patch)
        with pytest.raises(KeyboardInterrupt):
            desk.move(*moves)
    assert os.listdir("/proc/self/fd") == files
    assert threading.active_count() == threads
    assert not any(is_locked(desk, move) for move in moves)
    assert desk.move(*(desk.blob(name, name.encode()) for name in "abcd")) == {}


# Locked


def test_a_blob_is_locked_until_it_has_its_name_and_no_longer(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    names = "abcd"
    plain = {name: desk.blob(name, name.encode()) for name in names}
    seen: dict[str, bool] = {}
    sync = transfer.sync

    def look(when: str, name: str) -> None:
        seen[f"{when} {name}"] = is_locked(desk, plain[name])

    def look_and_sync(fd: int) -> None:
        (name,) = (
            name for name in names if desk.staging.part(plain[name].digest) == os.readlink(f"/proc/self/fd/{fd}")
        )
        look("synced", name)
        sync(fd)

    def moving(number: int) -> Move:
        name = names[number]

        def read() -> None:
            for earlier in names[: number + 1]:
                look(f"{name} is read, and", earlier)

        return replace(read_after(read, plain[name], name.encode()), before_naming=lambda: look("named", name))

    if os.path.exists("/proc/self/fd"):
        monkeypatch.setattr(transfer, "sync", look_and_sync)
    assert desk.move(*map(moving, range(4))) == {}
    assert [step for step, locked in seen.items() if not locked] == [
        "c is read, and a",
        "d is read, and a",
        "d is read, and b",
    ]


def test_who_waits_for_another_run_has_named_all_that_it_has_written(desk: Desk) -> None:
    ours, theirs, last = desk.blob("ours", b"alpha"), desk.blob("theirs", b"beta"), desk.blob("last", b"gamma")
    desk.staging.make()
    locks = locks_for(desk.staging.folder)
    locks.acquire([theirs.digest])
    waits = threading.Event()
    desk.meter.tick = lambda: waits.set() if "finished ours" in desk.meter.events else None
    with ThreadPoolExecutor(1) as pool:
        moving = pool.submit(desk.move, ours, theirs, last)
        try:
            assert waits.wait(PATIENCE)
            assert (desk.folder / "ours").exists()
            assert not is_locked(desk, ours)
            assert desk.meter.events == ["started ours", "finished ours"]
        finally:
            locks.release([theirs.digest])
        assert moving.result(PATIENCE) == {}
    assert set(desk.meter.moved) == {"ours", "theirs", "last"}


def test_two_that_move_the_same_blobs_in_another_order_both_end(desk: Desk) -> None:
    other = Desk(desk.folder)
    both_read = threading.Barrier(2)
    end = time.monotonic() + PATIENCE

    def give_up() -> None:
        if time.monotonic() > end:
            raise TimeoutError("they wait for each other")

    def moves(first: str, second: str) -> Iterable[Move]:
        first_move, second_move = (
            replace(desk.blob(name, name.encode()), is_there=(desk.folder / name).exists) for name in (first, second)
        )
        return read_after(lambda: both_read.wait(PATIENCE), first_move, first.encode()), second_move

    desk.meter.tick = other.meter.tick = give_up
    with ThreadPoolExecutor(2) as pool:
        ends = [pool.submit(desk.move, *moves("a", "b")), pool.submit(other.move, *moves("b", "a"))]
        assert [end.result(2 * PATIENCE) for end in ends] == [{}, {}]
    assert {(desk.folder / name).read_bytes() for name in "ab"} == {b"a", b"b"}


@pytest.mark.parametrize(
    ("failing", "failed"),
    [(1, {"theirs", "ours", "last"}), (2, {"theirs", "last"}), (3, {"theirs", "last"}), (5, {"last"})],
)
def test_locks_that_cannot_be_taken_are_a_failure_of_the_blobs_that_need_them(
    desk: Desk, failing: int, failed: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that kept a lock would wait for itself the next time."""
    monkeypatch.setattr(transfer, "_GROUP_FILES", 3)
    moves = [desk.blob(name, name.encode()) for name in ("theirs", "ours", "last")]
    of_another_run = [moves[0].digest, moves[2].digest]
    desk.staging.make()
    locks = locks_for(desk.staging.folder)
    locks.acquire(of_another_run)
    acquire, calls = BlobLocks.acquire, 0

    def count(self: BlobLocks, digests: Iterable[str]) -> set[str]:
        nonlocal calls
        calls += 1
        if calls == failing:
            fails_with(errno.EIO)()
        return acquire(self, digests)

    with monkeypatch.context() as patch:
        patch.setattr(BlobLocks, "acquire", count)
        # While it waits, which it does when it has asked in vain.
        desk.meter.tick = lambda: locks.release(of_another_run if calls == 3 else [])
        failures = desk.move(*moves, desk.blob("d", b"delta"))
    assert {move.name for move in moves if move.digest in failures} == failed
    assert {name for name, moved in desk.meter.moved.items() if moved} == {"theirs", "ours", "last", "d"} - failed
    locks.release(of_another_run)
    assert not any(is_locked(desk, move) for move in moves)


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="this system follows symbolic links")
def test_parts_that_would_be_written_through_a_link_are_a_failure_of_their_group(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = desk.blob("good", b"alpha"), desk.blob("bad", b"beta")
    elsewhere, aside = tmp_path / "elsewhere", tmp_path / "aside"
    elsewhere.mkdir()
    acquire = BlobLocks.acquire

    def swap(self: BlobLocks, digests: Iterable[str]) -> set[str]:
        mine = acquire(self, digests)
        if bad.digest in mine:
            desk.staging.folder.rename(aside)
            desk.staging.folder.symlink_to(elsewhere)
        return mine

    with monkeypatch.context() as patch:
        patch.setattr(BlobLocks, "acquire", swap)
        assert set(desk.move(good, bad)) == {bad.digest}
    assert desk.meter.moved == {"good": True, "bad": False}
    assert list(elsewhere.iterdir()) == []
    assert not (desk.folder / "bad").exists()
    desk.staging.folder.unlink()
    assert not is_locked(desk, bad)


class Endless(io.RawIOBase):
    """A source that goes on when all has been read."""

    given = 0

    def readinto(self, buffer: Any) -> int:
        """Give as much as is asked for."""
        assert self.given < 1000, "it is not given up"
        self.given += len(buffer)
        buffer[:] = b"x" * len(buffer)
        return len(buffer)


def test_a_source_that_never_ends_is_given_up(desk: Desk) -> None:
    source = Endless()
    blob = replace(desk.blob("a.csv", b"alpha"), source=lambda offset: contextlib.nullcontext(source))
    assert str(desk.move(blob, chunk=100)[blob.digest]) == "a.csv is wrong"
    assert source.given == 6


class Hesitant(io.FileIO):
    """A file of which each reading gives little."""

    def readinto(self, buffer: Any) -> int:
        """Give two bytes."""
        return super().readinto(memoryview(buffer)[:2])


def test_a_file_that_gives_little_at_a_time_is_read_to_its_end(desk: Desk) -> None:
    (desk.folder / "source").write_bytes(b"alpha")
    blob = replace(desk.blob("a.csv", b"alpha"), source=lambda offset: Hesitant(desk.folder / "source"))
    assert desk.move(blob) == {}
    assert (desk.folder / "a.csv").read_bytes() == b"alpha"
