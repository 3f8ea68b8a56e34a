"""Blobs get their names when their bytes are verified and durable, and one that fails does not stop the others."""

import contextlib
import errno
import io
import os
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import transfer
from pipeline.checksums import Stream
from pipeline.errors import PipelineError
from pipeline.locks import locks_for
from pipeline.transfer import Move, file_source
from pipeline.workers import Workers
from tests.desk import Desk, fails_with
from tests.disk import Disk, linux_only

PATIENCE = 40.0


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


# Durable


@linux_only
def test_all_bytes_of_a_group_are_durable_before_the_first_name_and_then_the_names_are(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, desk.folder)
    moves = [desk.blob(f"new/{n}", b"%d" % n * (n + 1)) for n in range(5)]
    assert desk.move(*moves) == {}
    first = min(disk.steps.index(f"name {move.name}") for move in moves)
    synced = disk.steps[:first]
    assert {f"bytes of .partial/{move.digest}.part: {move.size}" for move in moves} <= set(synced)
    assert "names in ." in synced, "the folder of the parts is durable first"
    last = max(disk.steps.index(f"name {move.name}") for move in moves)
    assert {"names in new", "names in ."} <= set(disk.steps[last:])


@linux_only
def test_a_blob_is_said_to_be_moved_when_its_name_is_durable(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch, desk.folder)
    desk.meter.events = disk.steps
    assert desk.move(desk.blob("a", b"alpha"), desk.blob("deep/b", b"beta")) == {}
    assert "names in ." in disk.before("finished a")
    assert "names in deep" in disk.before("finished deep/b")
    assert "name a" in disk.before("finished a")


def test_a_name_that_cannot_be_made_durable_is_a_failure_of_its_blobs_alone(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync_folder = transfer.sync_folder

    def fail_in_bad(folder: str) -> None:
        if folder.endswith("bad"):
            fails_with(errno.EIO)()
        sync_folder(folder)

    monkeypatch.setattr(transfer, "sync_folder", fail_in_bad)
    good, bad = desk.blob("good/a", b"alpha"), desk.blob("bad/b", b"beta")
    both = desk.blob("good/c", b"gamma", "good/c", "bad/c")
    failures = desk.move(good, bad, both)
    assert set(failures) == {bad.digest, both.digest}
    assert set(desk.meter.errors) == {"bad/b", "good/c"}
    assert desk.meter.moved == {"good/a": True, "bad/b": False, "good/c": False}


def test_bytes_that_cannot_be_made_durable_never_get_their_name(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "sync", fails_with(errno.EIO))
    move = desk.blob("a", b"alpha")
    assert set(desk.move(move)) == {move.digest}
    assert not (desk.folder / "a").exists()


@pytest.mark.parametrize("limit", ["files", "bytes"])
def test_a_group_has_no_more_files_or_bytes_than_may_wait(
    desk: Desk, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names show where a group ends: they are given when all of its parts are durable."""
    monkeypatch.setattr(transfer, "_GROUP_FILES" if limit == "files" else "_GROUP_BYTES", 4)
    waiting, most = 0, 0
    sync, name = transfer.sync, os.replace
    guard = threading.Lock()

    def wait(fd: int) -> None:
        nonlocal waiting, most
        sync(fd)
        with guard:
            waiting += 1
            most = max(most, waiting)

    def named(part: str, target: str, **where: int) -> None:
        nonlocal waiting
        name(part, target, **where)
        waiting -= 1

    monkeypatch.setattr(transfer, "sync", wait)
    monkeypatch.setattr(os, "replace", named)
    twins = ("x", "y") if limit == "files" else ("x",)
    moves = [
        desk.blob(str(n), bytes([65 + n, 66, 67][: 3 if limit == "bytes" else 1]), *(f"{n}{t}" for t in twins))
        for n in range(7)
    ]
    assert desk.move(*moves) == {}
    assert most == (4 if limit == "files" else 2)
    assert all(Path(target).exists() for move in moves for target in move.targets)


def test_a_blob_with_more_files_than_a_group_is_a_group(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_GROUP_FILES", 2)
    names = [f"twin {n}" for n in range(5)]
    assert desk.move(desk.blob("a", b"alpha"), desk.blob("twins", b"beta", *names), desk.blob("c", b"gamma")) == {}
    assert {(desk.folder / name).read_bytes() for name in names} == {b"beta"}


# Verified


@pytest.mark.parametrize(
    "source",
    [b"", b"alph", b"ALPHA", b"alpha beta", b"alphabet" * 2**17],
    ids=["empty", "short", "other", "long", "huge"],
)
def test_what_has_other_bytes_never_gets_the_name(desk: Desk, source: bytes) -> None:
    wrong, right = desk.blob("wrong", b"alpha", source=source), desk.blob("right", b"beta")
    failures = desk.move(wrong, right)
    assert [str(error) for error in failures.values()] == ["wrong is wrong"]
    assert set(failures) == {wrong.digest}
    assert not (desk.folder / "wrong").exists()
    assert (desk.folder / "right").read_bytes() == b"beta"
    assert desk.meter.moved == {"wrong": False, "right": True}


def test_no_more_is_read_of_a_source_than_shows_that_it_is_too_long(desk: Desk) -> None:
    endless = io.BufferedReader(io.FileIO("/dev/zero")) if os.path.exists("/dev/zero") else io.BytesIO(bytes(2**24))
    with endless:
        move = replace(desk.blob("a", bytes(5000)), source=lambda offset: contextlib.nullcontext(endless))
        assert set(desk.move(move, chunk=2**20)) == {move.digest}
    assert not (desk.folder / "a").exists()


@pytest.mark.parametrize("size", [1, 2**18 - 1, 2**18, 2**18 + 1, 2**20 + 1])
@pytest.mark.parametrize("chunk", [1000, 2**18, 2**20])
def test_blobs_of_any_size_in_pieces_of_any_size_are_what_they_were(desk: Desk, size: int, chunk: int) -> None:
    data = bytes(n * 7 % 251 for n in range(size))
    assert desk.move(desk.blob("a", data), chunk=chunk) == {}
    assert (desk.folder / "a").read_bytes() == data
    assert desk.meter.nbytes == size


@pytest.mark.parametrize("chunk", [7, 1000, 5000, 5001, 2**20])
def test_files_are_copied_whole_whatever_the_pieces(desk: Desk, chunk: int) -> None:
    data = bytes(n * 7 % 251 for n in range(5000))
    (desk.folder / "source").write_bytes(data)
    move = replace(desk.blob("a", data), source=lambda offset: file_source(desk.folder / "source", offset))
    assert desk.move(move, chunk=chunk) == {}
    assert (desk.folder / "a").read_bytes() == data


@pytest.mark.parametrize("chunk", [7, 1000, 5000, 5001, 2**20])
def test_a_file_that_has_grown_is_noticed_whatever_the_pieces(desk: Desk, chunk: int) -> None:
    data = bytes(n * 7 % 251 for n in range(5000))
    (desk.folder / "source").write_bytes(data + b"x")
    move = replace(desk.blob("a", data), source=lambda offset: file_source(desk.folder / "source", offset))
    assert [str(error) for error in desk.move(move, chunk=chunk).values()] == ["a is wrong"]


@pytest.mark.parametrize("too_much", [0, 1, 1000])
def test_a_stream_that_gives_little_at_a_time_is_read_to_its_end(desk: Desk, too_much: int) -> None:
    """A network may give less than was asked for, and still have more than there should be."""

    class Dribble(io.BytesIO):
        def readinto(self, buffer: Any) -> int:
            return super().readinto(memoryview(buffer)[:10])

    data = bytes(range(250))
    source = data + bytes(too_much)
    move = replace(desk.blob("a", data), source=lambda offset: contextlib.nullcontext(Dribble(source[offset:])))
    assert set(desk.move(move)) == ({move.digest} if too_much else set())
    assert (desk.folder / "a").exists() == (not too_much)


@linux_only
def test_a_process_that_may_open_few_files_moves_many(desk: Desk) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    moves = [desk.blob(str(n), b"%d" % n) for n in range(300)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * len(os.listdir("/proc/self/fd")) + 40, hard))
    try:
        assert desk.move(*moves) == {}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_disk_that_takes_a_few_bytes_at_a_time_gets_all_of_them(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    assert desk.move(desk.blob("a", b"alphabet")) == {}
    assert (desk.folder / "a").read_bytes() == b"alphabet"


def test_several_files_of_one_blob_are_written_from_what_was_verified(desk: Desk) -> None:
    move = desk.blob("a", b"alpha", "one", "two", "three/four")
    assert desk.move(move) == {}
    assert [(desk.folder / name).read_bytes() for name in ("one", "two", "three/four")] == [b"alpha"] * 3
    assert len({(desk.folder / name).stat().st_ino for name in ("one", "two")}) == 2
    assert desk.meter.nbytes == 5, "bytes are counted once"
    assert desk.parts() == []


# Going on


@pytest.mark.parametrize("left", [b"al", b"alpha", b"x", b"xx", b"ALPHA", b"alpha beta"], ids=repr)
def test_what_an_interrupted_run_left_is_gone_on_with_or_written_anew(desk: Desk, left: bytes) -> None:
    move = desk.blob("a", b"alpha")
    desk.staging.make()
    Path(desk.staging.part(move.digest)).write_bytes(left)
    assert desk.move(move) == {}
    assert (desk.folder / "a").read_bytes() == b"alpha"
    assert desk.meter.nbytes == 5


def test_what_an_interrupted_run_left_whole_needs_no_source(desk: Desk) -> None:
    move = replace(desk.blob("a", b"alpha"), source=fails_with(errno.EIO))
    desk.staging.make()
    Path(desk.staging.part(move.digest)).write_bytes(b"alpha")
    assert desk.move(move) == {}
    assert (desk.folder / "a").read_bytes() == b"alpha"


@pytest.mark.parametrize("what", ["source", "part"])
def test_an_interrupted_run_does_not_read_on_to_the_end(desk: Desk, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(10_000)
    pieces: list[int] = []
    begun, interrupted = threading.Event(), threading.Event()
    read_chunks = transfer.read_chunks

    def read(stream: Stream, chunk: int) -> Iterator[bytes | memoryview]:
        for piece in read_chunks(stream, chunk):
            pieces.append(len(piece))
            begun.set()
            assert interrupted.wait(PATIENCE)
            yield piece

    def interrupt() -> None:
        if begun.is_set():
            raise KeyboardInterrupt

    class Leaving(Workers):
        def __exit__(self, *exc: object) -> None:
            self._stop.set()
            interrupted.set()
            super().__exit__(*exc)

    monkeypatch.setattr(transfer, "read_chunks", read)
    monkeypatch.setattr(transfer, "Workers", Leaving)
    desk.meter.tick = interrupt
    move = desk.blob("a", data)
    if what == "part":
        desk.staging.make()
        Path(desk.staging.part(move.digest)).write_bytes(data)
    with pytest.raises(KeyboardInterrupt):
        desk.move(move, chunk=1)
    assert pieces == [1]


def test_a_damaged_part_and_a_wrong_source_are_one_failure(desk: Desk) -> None:
    move = desk.blob("a", b"alpha", source=b"ALPHA")
    desk.staging.make()
    Path(desk.staging.part(move.digest)).write_bytes(b"xx")
    assert set(desk.move(move)) == {move.digest}
    assert desk.parts() == []


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="this system follows symbolic links")
def test_a_part_is_not_written_through_a_link(desk: Desk) -> None:
    move = desk.blob("a", b"alpha")
    desk.staging.make()
    Path(desk.staging.part(move.digest)).symlink_to(desk.folder / "elsewhere")
    assert desk.move(move) == {}
    assert not (desk.folder / "elsewhere").exists()
    assert not (desk.folder / "a").is_symlink()


@pytest.mark.skipif(os.name != "posix", reason="rights of POSIX")
@pytest.mark.parametrize(("left", "right"), [(0o777, 0o666), (0o640, 0o640), (0o4755, 0o644)])
def test_a_part_that_lay_there_hands_on_no_right_to_execute(desk: Desk, left: int, right: int) -> None:
    move = desk.blob("a", b"alpha")
    desk.staging.make()
    part = Path(desk.staging.part(move.digest))
    part.touch()
    part.chmod(left)
    assert desk.move(move) == {}
    assert stat.S_IMODE((desk.folder / "a").stat().st_mode) == right


def test_what_was_copied_stays_for_the_next_run_when_a_source_breaks_off(desk: Desk) -> None:
    class Broken(io.BytesIO):
        def readinto(self, buffer: Any) -> int:
            if self.tell() >= 4000:
                raise ConnectionError("it broke off")
            return super().readinto(buffer)

    data = bytes(range(250)) * 40
    broken = replace(desk.blob("a", data), source=lambda offset: contextlib.nullcontext(Broken(data[offset:])))
    assert [str(error) for error in desk.move(broken, chunk=1000).values()] == ["it broke off"]
    assert Path(desk.staging.part(broken.digest)).stat().st_size == 4000


# Together


def test_one_that_cannot_get_its_name_does_not_stop_the_others(desk: Desk) -> None:
    (desk.folder / "taken" / "inside").mkdir(parents=True)
    bad, good = desk.blob("taken", b"alpha"), desk.blob("b", b"beta")
    assert set(desk.move(bad, good)) == {bad.digest}
    assert (desk.folder / "b").read_bytes() == b"beta"
    assert desk.meter.moved == {"taken": False, "b": True}


def test_a_staging_that_cannot_be_made_is_a_failure_of_all(desk: Desk) -> None:
    (desk.folder / ".partial").touch()
    moves = desk.blob("a", b"alpha"), desk.blob("b", b"beta")
    assert set(desk.move(*moves)) == {move.digest for move in moves}
    assert set(desk.meter.errors) == {"a", "b"}


def test_what_is_there_by_now_is_not_read(desk: Desk) -> None:
    move = replace(desk.blob("a", b"alpha"), is_there=lambda: True, source=fails_with(errno.EIO))
    assert desk.move(move) == {}
    assert desk.meter.events == ["finished a"]
    assert desk.meter.moved == {"a": False}


def test_what_has_to_happen_before_a_name_is_given_happens_when_the_bytes_are_verified(desk: Desk) -> None:
    happened: list[str] = []

    def before(move: Move) -> Callable[[], None]:
        def remember() -> None:
            part = Path(desk.staging.part(move.digest))
            happened.append(f"{move.name} {part.read_bytes()!r} {os.path.exists(move.targets[0])}")

        return remember

    right, wrong = desk.blob("right", b"alpha"), desk.blob("wrong", b"beta", source=b"BETA")
    desk.move(*(replace(move, before_naming=before(move)) for move in (right, wrong)))
    assert happened == ["right b'alpha' False"]


def test_the_rest_moves_before_a_blob_of_another_run_is_waited_for(desk: Desk) -> None:
    theirs, ours, last = desk.blob("theirs", b"alpha"), desk.blob("ours", b"beta"), desk.blob("last", b"gamma")
    desk.staging.make()
    locks = locks_for(desk.staging.folder)
    locks.acquire([theirs.digest, last.digest])
    waited = threading.Event()
    desk.meter.tick = lambda: waited.set() if "finished ours" in desk.meter.events else None
    with ThreadPoolExecutor(1) as pool:
        moving = pool.submit(desk.move, theirs, ours, last)
        assert waited.wait(PATIENCE)
        assert desk.meter.events == ["started ours", "finished ours"]
        assert (desk.folder / "ours").exists()
        locks.release([theirs.digest, last.digest])
        assert moving.result(PATIENCE) == {}
    assert [(desk.folder / name).read_bytes() for name in ("theirs", "last")] == [b"alpha", b"gamma"]
    assert locks.acquire([theirs.digest, ours.digest, last.digest]), "all locks are given up"
    locks.release([theirs.digest, ours.digest, last.digest])


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc to see what a process has open")
@pytest.mark.parametrize("fault", ["none", "wrong", "stopped", "no folder"])
def test_nothing_stays_open_or_locked(desk: Desk, fault: str) -> None:
    move = desk.blob("a", b"alpha", "a", "b", source=b"ALPHA" if fault == "wrong" else None)
    if fault == "no folder":
        move = replace(move, targets=(str(desk.folder / "a" / "x"), str(desk.folder / "a")))
    desk.staging.make()
    locks_for(desk.staging.folder).acquire([])
    before = len(os.listdir("/proc/self/fd"))
    if fault == "stopped":

        def stop() -> None:
            raise KeyboardInterrupt

        desk.meter.tick = stop
        with pytest.raises(KeyboardInterrupt):
            desk.move(move)
    else:
        assert bool(desk.move(move)) == (fault in ("wrong", "no folder"))
    assert len(os.listdir("/proc/self/fd")) == before
    assert locks_for(desk.staging.folder).acquire([move.digest]) == {move.digest}
    locks_for(desk.staging.folder).release([move.digest])


def test_a_hopeless_error_is_that_of_all_that_are_left(desk: Desk) -> None:
    class HopelessError(PipelineError):
        is_hopeless = True

    opened: list[str] = []

    def source(name: str) -> Callable[[int], contextlib.AbstractContextManager[Stream]]:
        @contextlib.contextmanager
        def fail(offset: int) -> Iterator[Stream]:
            opened.append(name)
            raise HopelessError("the disk is full")
            yield

        return fail

    moves = [replace(desk.blob(str(n), b"%d" % n), source=source(str(n))) for n in range(5)]
    assert {str(error) for error in desk.move(*moves, threads=1).values()} == {"the disk is full"}
    assert opened == ["0"]
    assert set(desk.meter.errors) == set("01234")


@pytest.mark.parametrize(
    ("seconds", "events"),
    [
        (-1.0, "started a, started b, finished a, started c, finished b, finished c"),
        (1e9, "started a, started b, started c, finished a, finished b, finished c"),
    ],
    ids=["slow", "fast"],
)
def test_names_become_durable_together_but_do_not_wait_long(
    desk: Desk, seconds: float, events: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_GROUP_FILES", 1)
    monkeypatch.setattr(transfer, "_LONGEST_UNSYNCED_SECONDS", seconds)
    assert desk.move(*(desk.blob(name, name.encode()) for name in "abc")) == {}
    assert ", ".join(desk.meter.events) == events


@pytest.mark.parametrize("offset", [0, 2])
def test_a_file_is_opened_at_an_offset(tmp_path: Path, offset: int) -> None:
    (tmp_path / "a").write_bytes(b"alpha")
    with file_source(tmp_path / "a", offset) as stream:
        assert stream.read() == b"alpha"[offset:]
