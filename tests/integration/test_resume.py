"""A run that is killed at any moment harms nothing, and the same command completes what it began.

The processes are real and so is SIGKILL. Moments are drawn from a seeded generator: some after a number of seconds,
most when so many parts, blobs or bytes are visible. What a run wrote is told by the kernel where that exists (Linux).
"""

import contextlib
import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from pipeline import FileSystemArchive
from pipeline.checksums import HashCache, Stream
from pipeline.destination import Destination
from pipeline.durable import Staging
from pipeline.release import ReleaseRecord
from pipeline.transfer import Move, Silent, file_source, move_blobs
from tests.support import Workshop, assert_archive_is_sound, bytes_written, sha1, tree

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL on this system")

KILLS = 4
MIB = 2**20
PATIENCE = 60.0

Moment = Callable[[], bool]
Stamps = dict[str, tuple[int, int]]


def many_small_and_a_few_large() -> dict[str, bytes]:
    """Three hundred small files, large ones below and above the size that moves alone, twins, and an empty file."""
    dice = random.Random(2)
    files = {f"points/{n % 10}/point {n:03}.csv": dice.randbytes(dice.randrange(1, 3000)) for n in range(300)}
    files |= {f"traces/trace {n}.bin": dice.randbytes(3 * MIB + n) for n in range(2)}
    files["traces/long trace.bin"] = dice.randbytes(65 * MIB)
    files["twins/first.csv"] = files["twins/second.csv"] = files["twins/deeper/third.csv"] = dice.randbytes(5000)
    return files | {"notes/empty.txt": b""}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A workshop where the project was published and fetched by runs that nobody disturbed."""
    workshop = Workshop(tmp_path_factory.mktemp("undisturbed"))
    workshop.project(files=many_small_and_a_few_large())
    assert workshop.publish().code == 0
    assert workshop.fetch().code == 0
    return workshop


def visible(folder: Path) -> dict[str, Path]:
    """Return the files in a folder that have their final names, by relative path."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path for name, path in files.items() if ".partial/" not in name}


def stamps(folder: Path) -> Stamps:
    """Return what changes when a file is written or replaced: inode and modification time."""
    return {
        name: (status.st_ino, status.st_mtime_ns)
        for name, status in ((name, path.stat()) for name, path in visible(folder).items())
    }


def names_in(folder: Path, pattern: str) -> int:
    return sum(1 for _ in folder.glob(pattern))


def part_bytes(partial: Path) -> int:
    """Return the bytes in parts; parts may get their names meanwhile."""
    total = 0
    for part in partial.glob("*.part"):
        with contextlib.suppress(FileNotFoundError):
            total += part.stat().st_size
    return total


def some_moment(kind: str, dice: random.Random, partial: Path, done: Path, pattern: str, last: Path) -> Moment:
    """Return a moment for a kill: after so many seconds, parts, finished files or bytes more, or at the end."""
    if kind == "seconds":
        end = time.monotonic() + dice.uniform(0.3, 1.3)
        return lambda: time.monotonic() >= end
    if kind == "parts":
        parts = names_in(partial, "*.part") + dice.randrange(1, 120)
        return lambda: names_in(partial, "*.part") >= parts
    if kind == "finished":
        finished = names_in(done, pattern) + dice.randrange(1, 60)
        return lambda: names_in(done, pattern) >= finished
    if kind == "bytes":
        nbytes = part_bytes(partial) + dice.randrange(1, 24 * MIB)
        return lambda: part_bytes(partial) >= nbytes
    return last.exists


def some_moments(dice: random.Random, partial: Path, done: Path, pattern: str, last: Path) -> Iterator[Moment]:
    """Yield moments of every kind, as they are asked for; the last is that in which the record is visible."""
    kinds = ["seconds", "parts", "finished", "bytes"]
    dice.shuffle(kinds)
    for kind in [*kinds, "record"]:
        yield some_moment(kind, dice, partial, done, pattern, last)


def killed(process: "subprocess.Popen[str]", moment: Moment) -> bool:
    """Kill a process when the moment has come; return False when it had ended with success before."""
    end = time.monotonic() + PATIENCE
    while process.poll() is None and not moment():
        assert time.monotonic() < end, "the run does not end"
        time.sleep(0.005)
    process.kill()
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode in (0, -signal.SIGKILL), output
    return process.returncode != 0


class Witness:
    """Looks at a folder after every kill: the bytes are right, and what was there has not been written again."""

    def __init__(self, folder: Path, expected: dict[str, bytes | None], last: str) -> None:
        self.folder = folder
        self.expected = {name: data for name, data in expected.items() if data is not None}
        self.last = last
        self.seen: Stamps = {}

    def look(self) -> None:
        now = stamps(self.folder)
        for name, path in visible(self.folder).items():
            if now[name] != self.seen.get(name):
                assert path.read_bytes() == self.expected[name], f"{name} has its name, but not its bytes"
        again = {name for name, stamp in self.seen.items() if now.get(name) != stamp}
        assert not again, "these had their names already and were written again"
        if self.last in now:
            assert now.keys() == self.expected.keys(), "the record was there before all that it names"
        # Empty files live in the record; they may be made again.
        self.seen = {name: stamp for name, stamp in now.items() if self.expected[name] or name == self.last}


@pytest.mark.parametrize("seed", [1, 2])
def test_publishing_that_is_killed_at_many_moments_ends_like_an_undisturbed_run(
    undisturbed: Workshop, seed: int
) -> None:
    dice = random.Random(seed)
    expected = tree(undisturbed.archive)
    record = undisturbed.record_file().relative_to(undisturbed.archive).as_posix()
    kills = 0
    for number in range(KILLS):
        archive = undisturbed.folder / f"archive-{seed}-{number}"
        title = archive / undisturbed.title_folder().relative_to(undisturbed.archive)
        witness = Witness(archive, expected, record)
        options = {
            "title": "sample",
            "release_version": "0.1.0",
            "project_directory": "project",
            "archive": archive,
            "create_archive": True,
        }
        for moment in some_moments(dice, title / ".partial", title, "blobs/??/*", archive / record):
            kills += killed(undisturbed.start("PublishRelease", **options), moment)
            witness.look()
        outcome = undisturbed.run("PublishRelease", **options)
        assert outcome.code == 0, outcome.output
        witness.look()
        assert not list(archive.rglob(".partial"))
        assert tree(archive) == expected
        if kills >= KILLS:
            return
    pytest.fail(f"only {kills} runs lived long enough to be killed")


@pytest.mark.parametrize("seed", [1, 2])
def test_fetching_that_is_killed_at_many_moments_ends_like_an_undisturbed_run(undisturbed: Workshop, seed: int) -> None:
    dice = random.Random(seed)
    expected = tree(undisturbed.folder / "fetched")
    record = "sample-v0.1.0/.rme/record.yml"
    kills = 0
    for number in range(KILLS):
        destination = undisturbed.folder / f"fetched-{seed}-{number}"
        release = destination / "sample-v0.1.0"
        witness = Witness(destination, expected, record)
        for moment in some_moments(dice, release / ".rme" / ".partial", release, "*/**/*.*", destination / record):
            kills += killed(undisturbed.start("FetchRelease", title="sample", destination=destination), moment)
            witness.look()
        outcome = undisturbed.fetch(destination=destination)
        assert outcome.code == 0, outcome.output
        witness.look()
        assert not list(destination.rglob(".partial"))
        assert tree(destination) == expected
        if kills >= KILLS:
            return
    pytest.fail(f"only {kills} runs lived long enough to be killed")


def start_in_group(workshop: Workshop, task: str, **options: object) -> "subprocess.Popen[bytes]":
    """Start a task as the head of its own process group; its output goes to ``output`` in the workshop."""
    with (workshop.folder / "output").open("ab") as output:
        return subprocess.Popen(
            workshop.command(task, **options),
            cwd=workshop.folder,
            env=workshop.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def wait_for_group(group: int) -> None:
    """Wait until no process of a group is left, and end those that stay."""
    end = time.monotonic() + PATIENCE
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < end:
            os.killpg(group, 0)
            time.sleep(0.01)
        os.killpg(group, signal.SIGKILL)
        pytest.fail("worker processes went on after their run had been killed")


@pytest.mark.skipif(sys.platform == "win32", reason="Luigi forks its workers")
@pytest.mark.parametrize("whole_group", [True, False], ids=["all-killed", "workers-orphaned"])
def test_publishing_with_several_worker_processes_survives_a_kill(undisturbed: Workshop, whole_group: bool) -> None:
    dice = random.Random(whole_group)
    archive = undisturbed.folder / f"archive-workers-{whole_group}"
    title = archive / undisturbed.title_folder().relative_to(undisturbed.archive)
    options = {
        "title": "sample",
        "release_version": "0.1.0",
        "project_directory": "project",
        "archive": archive,
        "create_archive": True,
        "workers": 3,
    }
    groups = []
    for _ in range(3):
        process = start_in_group(undisturbed, "PublishRelease", **options)
        groups.append(process.pid)
        parts = dice.randrange(1, 100)
        end = time.monotonic() + PATIENCE
        while process.poll() is None and names_in(title, ".partial/*.part") < parts:
            assert time.monotonic() < end, "the run does not end"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL) if whole_group else process.kill()
        process.wait()
    # Orphans of the killed runs may be at work still: their blobs are locked, and the run shares the work with them.
    outcome = undisturbed.run("PublishRelease", **options)
    assert outcome.code == 0, outcome.output
    for group in groups:
        wait_for_group(group)
    assert_archive_is_sound(archive)
    assert undisturbed.run("PublishRelease", **options).code == 0
    assert tree(archive) == tree(undisturbed.archive)


@pytest.mark.skipif(sys.platform == "win32", reason="Luigi forks its workers")
@pytest.mark.parametrize("task", ["PublishRelease", "FetchRelease"])
def test_several_worker_processes_do_the_same_and_say_the_same_as_one(workshop: Workshop, task: str) -> None:
    workshop.project(files={f"data/{n}.csv": b"%d," % n * 100 for n in range(250)})
    if task == "FetchRelease":
        assert workshop.publish().code == 0
        outcome = workshop.fetch(workers=2)
    else:
        outcome = workshop.publish(workers=2)
    assert outcome.code == 0
    assert "Traceback" not in outcome.output
    assert "ERROR" not in outcome.output
    assert "250 moved" in outcome.output
    assert "0 already there" in outcome.output


@pytest.mark.skipif(
    not Path("/proc/self/io").exists(), reason="the system does not count the bytes that a process writes"
)
def test_a_large_file_goes_on_from_where_a_kill_stopped_it(workshop: Workshop) -> None:
    data = random.Random(3).randbytes(96 * MIB)
    options = {"title": "sample", "release_version": "0.1.0", "project_directory": "project", "create_archive": True}
    workshop.project(files={"trace.bin": data})
    part = workshop.title_folder() / ".partial" / f"{sha1(data)}.part"
    assert killed(workshop.start("PublishRelease", **options), lambda: part.exists() and part.stat().st_size > 24 * MIB)
    there = part.stat().st_size
    assert 24 * MIB < there < len(data)
    written = bytes_written(workshop.start("PublishRelease", **options))
    assert len(data) - there <= written < len(data) - there + 4 * MIB
    assert workshop.blob_file(data).read_bytes() == data

    part = workshop.folder / "fetched" / "sample-v0.1.0" / ".rme" / ".partial" / part.name
    fetching = workshop.start("FetchRelease", title="sample")
    assert killed(fetching, lambda: part.exists() and part.stat().st_size > 24 * MIB)
    there = part.stat().st_size
    assert 24 * MIB < there < len(data)
    written = bytes_written(workshop.start("FetchRelease", title="sample"))
    assert len(data) - there <= written < len(data) - there + 4 * MIB
    assert (workshop.folder / "fetched" / "sample-v0.1.0" / "trace.bin").read_bytes() == data


@pytest.mark.parametrize("damage", ["flipped byte", "too long", "whole, flipped byte"])
def test_a_damaged_part_is_noticed_and_written_anew(workshop: Workshop, damage: str) -> None:
    data = random.Random(4).randbytes(3 * MIB)
    parts = {
        "flipped byte": data[:1000] + bytes([data[1000] ^ 1]) + data[1001 : 2 * MIB],
        "too long": data + b"more",
        "whole, flipped byte": data[:-1] + bytes([data[-1] ^ 1]),
    }
    workshop.project(files={"trace.bin": data})
    release = workshop.folder / "fetched" / "sample-v0.1.0"
    for partial in (workshop.title_folder() / ".partial", release / ".rme" / ".partial"):
        partial.mkdir(parents=True)
        (partial / f"{sha1(data)}.part").write_bytes(parts[damage])
    assert workshop.publish().code == 0
    assert workshop.fetch().code == 0
    assert workshop.blob_file(data).read_bytes() == data
    assert (release / "trace.bin").read_bytes() == data
    assert not list(workshop.folder.rglob(".partial"))


class CountedSource:
    """A source that remembers from where, and how much, was read."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.offsets: list[int] = []
        self.nbytes = 0

    @contextlib.contextmanager
    def __call__(self, offset: int) -> Iterator[Stream]:
        self.offsets.append(offset)
        with file_source(self.file, offset) as stream:
            yield stream
            self.nbytes += stream.tell() - offset


def move_with_part(folder: Path, data: bytes, part: bytes | None) -> CountedSource:
    """Move one blob of which `part` was left by an interrupted run."""
    staging = Staging(folder / ".partial")
    staging.make()
    (folder / "source").write_bytes(data)
    if part is not None:
        Path(staging.part(sha1(data))).write_bytes(part)
    source = CountedSource(folder / "source")
    move = Move("trace.bin", sha1(data), len(data), source, (str(folder / "target"),))
    assert move_blobs([move], staging, threads=2, meter=Silent(), chunk=1000) == {}
    assert (folder / "target").read_bytes() == data
    return source


def test_of_a_half_copied_blob_only_the_rest_is_read(tmp_path: Path) -> None:
    data = random.Random(5).randbytes(100_000)
    source = move_with_part(tmp_path, data, data[:60_000])
    assert (source.offsets, source.nbytes) == ([60_000], 40_000)


def test_of_a_whole_part_nothing_is_read(tmp_path: Path) -> None:
    data = random.Random(5).randbytes(100_000)
    source = move_with_part(tmp_path, data, data)
    assert (source.offsets, source.nbytes) == ([], 0)


def test_of_a_damaged_part_everything_is_read_again(tmp_path: Path) -> None:
    data = random.Random(5).randbytes(100_000)
    source = move_with_part(tmp_path, data, b"x" + data[1:60_000])
    assert source.offsets == [60_000, 0]
    assert source.nbytes == 140_000


@pytest.mark.skipif(sys.platform != "linux", reason="the name of an open folder is asked of Linux")
class TestAnotherRunWasStoppedBeforeItsNamesWereDurable:
    """A name that can be seen may be gone after a power failure, until its folder is on the disk."""

    FILES: ClassVar = {"a.csv": b"1", "deep/er/b.csv": b"2", "deep/c.csv": b"3"}

    @staticmethod
    def synced_folders(monkeypatch: pytest.MonkeyPatch, record: Path) -> set[str]:
        """Return a set that gets the name of every folder that is made durable while the record cannot be seen."""
        synced: set[str] = set()
        fsync = os.fsync

        def remember(fd: int) -> None:
            fsync(fd)
            if stat.S_ISDIR(os.fstat(fd).st_mode) and not record.exists():
                synced.add(os.readlink(f"/proc/self/fd/{fd}"))

        monkeypatch.setattr(os, "fsync", remember)
        return synced

    def test_whoever_publishes_the_record_makes_them_durable(
        self, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        workshop.project(files=self.FILES)
        assert workshop.publish().code == 0
        file = workshop.record_file()
        record = json.loads(file.read_bytes())
        file.unlink()
        synced = self.synced_folders(monkeypatch, file)
        assert FileSystemArchive(workshop.archive).upload_release_record(record) == str(file)
        assert {str(workshop.blob_file(data).parent) for data in self.FILES.values()} <= synced

    def test_whoever_completes_a_fetch_makes_them_durable(
        self, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        workshop.project(files=self.FILES)
        assert workshop.publish().code == 0
        assert workshop.fetch().code == 0
        (folder,) = (workshop.folder / "fetched").iterdir()
        (folder / ".rme" / "record.yml").unlink()
        synced = self.synced_folders(monkeypatch, folder / ".rme" / "record.yml")
        record = ReleaseRecord.parse(workshop.record_file().read_bytes(), "record")
        Destination(folder, record, HashCache(None)).finish()
        assert {str((folder / path).parent) for path in self.FILES} <= synced
