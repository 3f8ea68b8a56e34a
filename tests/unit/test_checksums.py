"""Digests are right for any bytes and any way of reading them; the cache of digests saves time and never lies."""

import contextlib
import hashlib
import io
import os
import socket
import sqlite3
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import checksums
from pipeline.checksums import (
    CHUNK,
    HashCache,
    Stamp,
    algorithm,
    chunked_sha,
    hash_file,
    hash_files,
    is_digest,
    is_settled,
    new_hash,
    open_regular,
    read_chunks,
)
from pipeline.errors import InvalidNameError, SourceChangedError

SHA1, SHA256 = "a9993e364706816aba3e25717850c26c9cd0d89d", hashlib.sha256(b"abc").hexdigest()
OLD = 1_700_000_000_000_000_001
PROJECT = Path("project")

posix_only = pytest.mark.skipif(os.name == "nt", reason="Windows has no POSIX change time and no pipes in folders")


class Dribble(io.RawIOBase):
    """A stream that gives fewer bytes than it is asked for, as sockets do."""

    def __init__(self, data: bytes, most: int) -> None:
        self._stream = io.BytesIO(data)
        self._most = most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._stream.readinto(memoryview(buffer)[: self._most])


class ReadOnlyInterface:
    """A stream that has only `read`, as some HTTP responses."""

    def __init__(self, data: bytes) -> None:
        self.read = io.BytesIO(data).read


# Streams


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(1, 400))
def test_a_stream_has_the_sha1_of_its_bytes_whatever_the_chunk(data: bytes, chunk: int) -> None:
    assert chunked_sha(io.BytesIO(data), chunk) == hashlib.sha1(data).hexdigest()
    assert chunked_sha(io.BytesIO(data)) == hashlib.sha1(data).hexdigest()


@settings(deadline=None)
@given(st.binary(max_size=100), st.integers(0, 120), st.integers(1, 9))
def test_a_stream_is_read_from_where_it_stands_and_to_its_end(data: bytes, start: int, most: int) -> None:
    stream = io.BytesIO(data)
    stream.seek(start)
    assert chunked_sha(stream, 7) == hashlib.sha1(data[start:]).hexdigest()
    dribble: Any = Dribble(data, most)
    assert chunked_sha(dribble, 10) == hashlib.sha1(data).hexdigest()


def test_a_chunk_of_nothing_never_gives_the_digest_of_nothing() -> None:
    with pytest.raises(ValueError, match="chunk"):
        chunked_sha(io.BytesIO(b"abc"), 0)


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(1, 400), st.integers(1, 50))
def test_chunks_put_together_are_the_stream(data: bytes, chunk: int, most: int) -> None:
    for stream in (io.BytesIO(data), Dribble(data, most), ReadOnlyInterface(data)):
        pieces = [bytes(piece) for piece in read_chunks(stream, chunk)]  # type: ignore[arg-type]
        assert b"".join(pieces) == data
        assert all(0 < len(piece) <= chunk for piece in pieces)


# Digests


@pytest.mark.parametrize(("digest", "name"), [(SHA1, "sha1"), (SHA256, "sha256")])
def test_the_length_of_a_digest_tells_its_algorithm(digest: str, name: str) -> None:
    assert is_digest(digest)
    assert algorithm(digest) == name
    hasher = new_hash(name)
    hasher.update(b"abc")
    assert hasher.hexdigest() == digest


@pytest.mark.parametrize(
    "text",
    [
        *("", "abc", SHA1[:-1], SHA1 + "0", SHA1.upper(), SHA1[:-1] + "\n", SHA1[:-1] + "g", "/" * 40, "." * 64),
        *("../" * 13 + "a", "١" * 40, " " * 40, None, 5, SHA1.encode(), ["a"] * 40, {"a"}),
    ],
)
def test_what_could_be_a_path_or_another_type_is_no_digest(text: Any) -> None:
    assert not is_digest(text)


# Files


@pytest.mark.parametrize("name", ["sha1", "sha256"])
@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 17])
def test_a_file_is_hashed_whole_and_its_stamp_is_returned(tmp_path: Path, size: int, name: str) -> None:
    data = (bytes(range(251)) * (size // 251 + 1))[:size]
    file = tmp_path / "Größe µm.bin"
    file.write_bytes(data)
    advanced: list[int] = []
    digest, stamp = hash_file(file, name, advanced.append)
    assert digest == hashlib.new(name, data).hexdigest()
    assert stamp == Stamp.of(file.stat())
    assert stamp.size == sum(advanced) == size
    assert all(0 < count <= CHUNK for count in advanced)


@pytest.mark.parametrize("size", [10, 2 * CHUNK])
@pytest.mark.parametrize("edit", ["grow", "shrink", "overwrite"])
def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path, size: int, edit: str) -> None:
    file = tmp_path / "growing.csv"
    file.write_bytes(bytes(size))
    os.utime(file, ns=(OLD, OLD))

    edits = [edit]

    def interfere(_: int) -> None:
        if not edits:
            return
        if edits.pop() == "shrink":
            os.truncate(file, 5)
        else:
            with file.open("ab" if edit == "grow" else "r+b") as stream:
                stream.write(b"x")

    with pytest.raises(SourceChangedError, match=r"growing\.csv changed while it was being read"):
        hash_file(file, advance=interfere)


@pytest.mark.parametrize("size", [10, 2 * CHUNK])
def test_a_file_that_grows_as_fast_as_it_is_read_is_not_read_for_ever(tmp_path: Path, size: int) -> None:
    file = tmp_path / "growing.csv"
    file.write_bytes(bytes(size))
    read: list[int] = []

    def grow(count: int) -> None:
        read.append(count)
        assert sum(read) <= size
        with file.open("ab") as stream:
            stream.write(bytes(count))

    with pytest.raises(SourceChangedError, match="changed while it was being read"):
        hash_file(file, advance=grow)


def test_reading_stops_when_the_caller_says_so(tmp_path: Path) -> None:
    file = tmp_path / "large.bin"
    file.write_bytes(bytes(3 * CHUNK))
    calls: list[int] = []

    def stop(count: int) -> None:
        calls.append(count)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hash_file(file, advance=stop)
    assert len(calls) == 1


def test_what_cannot_be_a_name_is_refused_by_a_sentence() -> None:
    with pytest.raises(InvalidNameError, match="cannot be the name of a file"):
        open_regular("a\0b")


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        hash_file(tmp_path / "absent")
    assert caught.value.filename == str(tmp_path / "absent")


def within_seconds(call: Any, *arguments: Any) -> BaseException | None:
    """Return what `call` raises; fail when it blocks."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call(*arguments)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive(), "it blocks"
    return raised[0] if raised else None


@posix_only
def test_a_pipe_never_blocks(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe\n1")
    for call in (hash_file, open_regular):
        error = within_seconds(call, tmp_path / "pipe\n1")
        assert isinstance(error, SourceChangedError)
        assert "is not a regular file" in str(error)
        assert str(error).isprintable()


@posix_only
@pytest.mark.parametrize("kind", ["folder", "socket", "device", "link to a pipe"])
def test_what_is_no_regular_file_is_refused(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "special"
    monkeypatch.chdir(tmp_path)  # the address of a socket must be short
    if kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("special")
    elif kind == "device":
        path = Path("/dev/zero")
    else:
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to("pipe")
    error = within_seconds(hash_file, path)
    assert isinstance(error, (SourceChangedError, OSError))


@posix_only
def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    def lowest_free() -> int:
        descriptor = os.dup(0)
        os.close(descriptor)
        return descriptor

    (tmp_path / "file").write_bytes(b"abc")
    os.mkfifo(tmp_path / "pipe")
    before = lowest_free()
    hash_file(tmp_path / "file")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(SourceChangedError):
            hash_file(path)
    with pytest.raises(StopIteration):
        hash_file(tmp_path / "file", advance=lambda _: next(iter(())))
    assert lowest_free() == before


# The cache


def stamp_of(number: int = 1) -> Stamp:
    return Stamp(size=3, modified_ns=OLD, changed_ns=OLD, inode=number)


def read_again(folder: Path, cache: HashCache) -> tuple[dict[str, str], int]:
    """Hash all files of a folder by the cache; return their digests and how many bytes had to be read."""
    stamps = {file.name: Stamp.of(file.stat()) for file in folder.iterdir()}
    count: list[int] = []
    digests, failures = hash_files(folder, stamps, cache, advance=count.append)
    assert not failures
    return digests, sum(count)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with two files that are old enough to be remembered."""
    (tmp_path / "project").mkdir()
    for name in ("a.csv", "b.csv"):
        (tmp_path / "project" / name).write_bytes(b"content of " + name.encode())
        os.utime(tmp_path / "project" / name, ns=(OLD, OLD))
    until_settled(tmp_path / "project")
    return tmp_path / "project"


def until_settled(folder: Path) -> None:
    """Return when the clock of the file system has ticked, so that a change after this gives another stamp."""
    newest = max(path.stat().st_ctime_ns for path in folder.iterdir())
    while time.time_ns() - newest < 30_000_000:
        pass


def test_an_unchanged_file_is_not_read_again(folder: Path, tmp_path: Path) -> None:
    first, read = read_again(folder, HashCache(tmp_path / "cache" / "digests.sqlite"))
    assert first == {name: hashlib.sha1(b"content of " + name.encode()).hexdigest() for name in ("a.csv", "b.csv")}
    assert read == 32
    assert read_again(folder, HashCache(tmp_path / "cache" / "digests.sqlite")) == (first, 0)


def test_only_the_edited_file_is_read_again(folder: Path, tmp_path: Path) -> None:
    read_again(folder, HashCache(tmp_path / "digests.sqlite"))
    (folder / "b.csv").write_bytes(b"edited")
    until_settled(folder)
    digests, read = read_again(folder, HashCache(tmp_path / "digests.sqlite"))
    assert digests["b.csv"] == hashlib.sha1(b"edited").hexdigest()
    assert read == len(b"edited")
    assert read_again(folder, HashCache(tmp_path / "digests.sqlite")) == (digests, 0)


def test_files_that_are_gone_are_forgotten(folder: Path, tmp_path: Path) -> None:
    cache = HashCache(tmp_path / "digests.sqlite")
    read_again(folder, cache)
    (folder / "a.csv").rename(folder / "c.csv")
    until_settled(folder)
    read_again(folder, cache)
    assert set(cache.load(folder)) == {"b.csv", "c.csv"}


@posix_only
@pytest.mark.parametrize("way", ["in place", "by another file"])
def test_an_edit_of_the_same_size_is_noticed_also_when_its_time_is_set_back(
    folder: Path, tmp_path: Path, way: str
) -> None:
    read_again(folder, HashCache(tmp_path / "digests.sqlite"))
    file, new = folder / "a.csv", b"CONTENT of a.csv"
    if way == "in place":
        with file.open("r+b") as stream:
            stream.write(new)
    else:
        (tmp_path / "other").write_bytes(new)
        os.replace(tmp_path / "other", file)
    os.utime(file, ns=(OLD, OLD))
    digests, _ = read_again(folder, HashCache(tmp_path / "digests.sqlite"))
    assert digests["a.csv"] == hashlib.sha1(new).hexdigest()


def test_a_file_that_changed_a_moment_before_it_was_read_is_not_trusted() -> None:
    # An edit within the same tick of the file system's clock would leave the stamp as it is.
    second = 10**9
    assert not is_settled(Stamp(3, OLD, OLD, 1), OLD)
    assert not is_settled(Stamp(3, OLD, OLD + second, 1), OLD + second)
    assert not is_settled(Stamp(3, OLD + 3600 * second, OLD, 1), OLD + second)
    assert is_settled(Stamp(3, OLD, OLD, 1), OLD + second)
    assert not is_settled(Stamp(3, OLD, OLD, 1), OLD + second // 50)
    assert is_settled(Stamp(3, OLD, OLD, 1), OLD + second // 50 + 1)


@pytest.mark.parametrize("tick", [10**9, 10**6])
def test_a_clock_that_ticks_in_whole_seconds_needs_more_patience(tick: int) -> None:
    second = 10**9
    whole = 1_700_000_000 * second + tick
    assert not is_settled(Stamp(3, whole, whole, 1), whole + second)
    assert not is_settled(Stamp(3, whole, whole, 1), whole + 2 * second)
    assert is_settled(Stamp(3, whole, whole, 1), whole + 2 * second + 1)


def test_only_what_cannot_change_unseen_is_remembered(tmp_path: Path) -> None:
    for name in ("fresh.csv", "settled.csv"):
        (tmp_path / name).write_bytes(b"abc")
    os.utime(tmp_path / "fresh.csv", ns=(OLD, time.time_ns() + 3600 * 10**9))
    until_settled(tmp_path)
    stamps = {path.name: Stamp.of(path.stat()) for path in tmp_path.iterdir()}
    cache = HashCache(tmp_path / "digests.sqlite")
    digests, failures = hash_files(tmp_path, stamps, cache)
    assert (digests, failures) == ({"fresh.csv": SHA1, "settled.csv": SHA1}, {})
    assert set(cache.load(tmp_path)) == {"settled.csv"}


def test_folders_and_algorithms_are_kept_apart(tmp_path: Path) -> None:
    cache = HashCache(tmp_path / "digests.sqlite")
    cache.store(PROJECT, [("a", stamp_of(1), SHA1), ("a", stamp_of(2), SHA256)])
    cache.store(PROJECT / "sub", [("a", stamp_of(3), SHA1[::-1])])
    assert cache.load(PROJECT) == {"a": (stamp_of(1), SHA1)}
    assert cache.load(PROJECT, "sha256") == {"a": (stamp_of(2), SHA256)}
    assert cache.load(PROJECT / "sub") == {"a": (stamp_of(3), SHA1[::-1])}
    assert cache.load(Path("elsewhere")) == {}


def test_the_newest_entry_replaces_the_older_one(tmp_path: Path) -> None:
    cache = HashCache(tmp_path / "digests.sqlite")
    for number, digest in ((1, SHA1), (2, SHA1[::-1])):
        cache.store(PROJECT, [("a", stamp_of(number), digest)])
    assert cache.load(PROJECT) == {"a": (stamp_of(2), SHA1[::-1])}


def test_without_a_file_nothing_is_kept() -> None:
    cache = HashCache(None)
    cache.store(PROJECT, [("a", stamp_of(), SHA1)])
    assert cache.load(PROJECT) == {}


def test_storing_nothing_does_not_even_make_the_file(tmp_path: Path) -> None:
    HashCache(tmp_path / "digests.sqlite").store(PROJECT, [])
    assert list(tmp_path.iterdir()) == []


# Names as a file system gives them: any bytes but NUL.
FILE_NAMES = st.binary(min_size=1, max_size=12).filter(lambda name: b"\0" not in name).map(os.fsdecode)
NUMBERS = st.integers(0, 2**64 - 1)
STAMPS = st.builds(Stamp, NUMBERS, st.integers(-(10**18), OLD), st.integers(0, OLD), NUMBERS)


@posix_only
@settings(deadline=None, max_examples=40)
@given(st.dictionaries(FILE_NAMES, STAMPS, max_size=5), FILE_NAMES)
def test_odd_names_and_large_numbers_come_back_as_they_were(stamps: dict[str, Stamp], project: str) -> None:
    with tempfile.TemporaryDirectory() as home:
        cache = HashCache(Path(home) / "digests.sqlite")
        cache.store(Path(project), [(path, stamp, SHA1) for path, stamp in stamps.items()])
        assert cache.load(Path(project)) == {path: (stamp, SHA1) for path, stamp in stamps.items()}


@pytest.mark.parametrize("name", ["two\nlines", "ünï", "'; DROP TABLE digests; --", os.fsdecode(b"\xff\xfe"), "a/b/c"])
def test_one_odd_name_does_not_cost_the_others(tmp_path: Path, name: str) -> None:
    cache = HashCache(tmp_path / "digests.sqlite")
    cache.store(PROJECT, [(name, stamp_of(1), SHA1), ("plain", stamp_of(2), SHA1)])
    assert cache.load(PROJECT) == {name: (stamp_of(1), SHA1), "plain": (stamp_of(2), SHA1)}


def test_many_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    def write(number: int) -> None:
        HashCache(tmp_path / "digests.sqlite").store(PROJECT, [(f"{number}-{i}", stamp_of(i), SHA1) for i in range(20)])

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(HashCache(tmp_path / "digests.sqlite").load(PROJECT)) == 6 * 20


def test_nobody_writes_between_what_a_writer_reads_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "digests.sqlite"
    HashCache(file).store(PROJECT, [("a", stamp_of(), SHA1)])
    read = checksums._read

    def read_and_try(*arguments: Any) -> Any:
        other = sqlite3.connect(file, timeout=0, isolation_level=None)
        with contextlib.closing(other), pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        return read(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(checksums, "_read", read_and_try)
        HashCache(file).store(PROJECT, [("b", stamp_of(), SHA1)])
    assert set(HashCache(file).load(PROJECT)) == {"a", "b"}


def test_of_many_folders_those_are_forgotten_that_were_not_stored_for_the_longest_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksums, "_MOST_FOLDERS", 2)
    cache = HashCache(tmp_path / "digests.sqlite")
    for name in ("one", "two", "one", "three"):
        cache.store(Path(name), [("a", stamp_of(), SHA1)])
    assert [name for name in ("one", "two", "three") if cache.load(Path(name))] == ["one", "three"]


# A cache that cannot be used costs time and nothing else


def filled(file: Path) -> Path:
    HashCache(file).store(PROJECT, [(f"f{i}", stamp_of(i), SHA1) for i in range(20)])
    assert len(HashCache(file).load(PROJECT)) == 20
    return file


def assert_harmless(cache: HashCache) -> None:
    """Use a broken cache in every way; it may know less, but what it knows is right."""
    for _ in range(2):
        known = cache.load(PROJECT)
        assert all(known[f"f{stamp.inode}"] == (stamp_of(stamp.inode), SHA1) for stamp, _ in known.values())
        cache.store(PROJECT, [("f1", stamp_of(1), SHA1)])


def garbage(good: bytes) -> bytes:
    return b"this is not a database\n" * 100


def cut_short(good: bytes) -> bytes:
    return good[: len(good) // 2 + 100]


def without_header(good: bytes) -> bytes:
    return bytes(100) + good[100:]


def zeros_inside(good: bytes) -> bytes:
    return good[:4096] + bytes(len(good) - 4096)


@pytest.mark.parametrize("damage", [garbage, cut_short, without_header, zeros_inside])
def test_a_damaged_cache_is_survived_and_the_next_run_has_a_good_one(tmp_path: Path, damage: Any) -> None:
    file = filled(tmp_path / "digests.sqlite")
    file.write_bytes(damage(file.read_bytes()))
    assert_harmless(HashCache(file))
    HashCache(file).store(PROJECT, [("a", stamp_of(), SHA1)])
    assert HashCache(file).load(PROJECT)["a"] == (stamp_of(), SHA1)


@pytest.mark.parametrize("damage", [garbage, cut_short, without_header, zeros_inside])
def test_a_damaged_cache_is_not_left_open(tmp_path: Path, damage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Windows deletes no file that is open; Python 3.13 warns of it.
    file = filled(tmp_path / "digests.sqlite")
    file.write_bytes(damage(file.read_bytes()))
    opened: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def remember(*arguments: Any, **options: Any) -> sqlite3.Connection:
        opened.append(connect(*arguments, **options))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", remember)
    assert_harmless(HashCache(file))
    assert opened
    for connection in opened:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("SELECT 1")


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (str(OLD).encode(), str(OLD)[:-3].encode() + b"\x0c01"),
        (str(OLD).encode(), str(OLD)[:-1].encode() + b"\xff"),
        (str(OLD).encode(), str(OLD)[:-1].encode() + b"9"),
        (SHA1.encode(), SHA1[:-1].encode() + b"/"),
        (SHA1.encode(), SHA1[::-1].encode()),
        (SHA1.encode(), SHA1[:-1].encode() + b"\xff"),
        (b"CREATE TABLE", b"CREATE TAB\x8eE"),
    ],
    ids=[
        *("a control character in a number", "no digit", "another number"),
        *("no digest", "another digest", "no text", "schema"),
    ],
)
def test_a_single_damaged_value_is_survived(tmp_path: Path, good: bytes, bad: bytes) -> None:
    file = filled(tmp_path / "digests.sqlite")
    content = file.read_bytes()
    assert good in content
    file.write_bytes(content.replace(good, bad, 1))
    assert_harmless(HashCache(file))


def test_a_stamp_of_another_shape_is_survived_and_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "digests.sqlite"
    HashCache(file).store(PROJECT, [("a", (3, OLD, OLD), SHA1)])  # type: ignore[list-item]
    assert HashCache(file).load(PROJECT) == {}
    assert not file.exists()


def test_an_empty_file_becomes_a_cache(tmp_path: Path) -> None:
    (tmp_path / "digests.sqlite").touch()
    filled(tmp_path / "digests.sqlite")


def test_a_cache_of_another_layout_is_survived(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "digests.sqlite")
    connection.execute("CREATE TABLE digests (something TEXT)")
    connection.close()
    assert_harmless(HashCache(tmp_path / "digests.sqlite"))


@pytest.mark.parametrize("obstacle", ["the cache is a folder", "its folder is a file"])
def test_a_cache_that_cannot_be_opened_is_survived(tmp_path: Path, obstacle: str) -> None:
    file = tmp_path / "cache" / "digests.sqlite"
    if obstacle == "the cache is a folder":
        file.mkdir(parents=True)
    else:
        (tmp_path / "cache").write_bytes(b"")
    assert_harmless(HashCache(file))


def test_a_read_only_cache_is_read_and_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = filled(tmp_path / "digests.sqlite")
    connect = sqlite3.connect
    # Opened read-only instead of chmod, which does not stop the administrator.
    monkeypatch.setattr(
        sqlite3, "connect", lambda path, **options: connect(f"{path.as_uri()}?mode=ro", uri=True, **options)
    )
    cache = HashCache(file)
    assert len(cache.load(PROJECT)) == 20
    cache.store(PROJECT, [("new", stamp_of(), SHA1)])
    assert "new" not in HashCache(file).load(PROJECT)
    assert len(HashCache(file).load(PROJECT)) == 20


def test_a_cache_that_another_program_locks_is_survived_and_waited_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = filled(tmp_path / "digests.sqlite")
    connect = sqlite3.connect
    other = connect(file, isolation_level=None)
    waited: list[float] = []

    def connect_impatiently(path: Path, timeout: float) -> sqlite3.Connection:
        waited.append(timeout)
        return connect(path, timeout=0.05)

    try:
        other.execute("BEGIN EXCLUSIVE")
        monkeypatch.setattr(sqlite3, "connect", connect_impatiently)
        assert_harmless(HashCache(file))
    finally:
        other.close()
    assert len(waited) == 1
    assert len(HashCache(file).load(PROJECT)) == 20


def test_files_are_hashed_although_the_cache_is_broken(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "digests.sqlite").write_bytes(garbage(b""))
    digests, read = read_again(folder, HashCache(tmp_path / "digests.sqlite"))
    assert digests["a.csv"] == hashlib.sha1(b"content of a.csv").hexdigest()
    assert read == 32


# Many files


def test_one_bad_file_does_not_hide_the_digests_of_the_others(folder: Path) -> None:
    stamps = {file.name: Stamp.of(file.stat()) for file in folder.iterdir()}
    stamps["absent.csv"] = stamp_of()
    (folder / "b.csv").write_bytes(b"edited after the scan")
    digests, failures = hash_files(folder, stamps, HashCache(None), threads=2)
    assert digests == {"a.csv": hashlib.sha1(b"content of a.csv").hexdigest()}
    assert isinstance(failures["absent.csv"], FileNotFoundError)
    assert isinstance(failures["b.csv"], SourceChangedError)


def test_reading_a_large_file_stops_when_the_caller_is_interrupted(tmp_path: Path) -> None:
    size = 2**29
    with (tmp_path / "large.bin").open("wb") as stream:
        stream.truncate(size)
    stamps = {"large.bin": Stamp.of((tmp_path / "large.bin").stat())}
    begun, interrupted = threading.Event(), threading.Event()
    read: list[int] = []

    def advance(count: int) -> None:
        read.append(count)
        begun.set()
        interrupted.wait()

    def tick() -> None:
        if begun.is_set():
            interrupted.set()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hash_files(tmp_path, stamps, HashCache(None), advance=advance, tick=tick)
    assert sum(read) < size


def test_no_files_are_no_work(tmp_path: Path) -> None:
    assert hash_files(tmp_path, {}, HashCache(tmp_path / "digests.sqlite")) == ({}, {})


def test_a_cache_that_gives_something_else_than_digests_is_thrown_away(tmp_path: Path) -> None:
    file = tmp_path / "digests.sqlite3"
    HashCache(file).store(tmp_path, [("a.csv", Stamp(1, 2, 3, 4), "Z" * 40)])
    assert HashCache(file).load(tmp_path) == {}
    assert not file.exists()
