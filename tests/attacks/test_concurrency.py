"""Many runs at once, with owners of locks that stop or die, with clocks that are wrong, and with two schedulers."""

import contextlib
import errno
import io
import os
import random
import re
import signal
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest

from pipeline.archives.sources import ProjectSource
from pipeline.locks import locks_for
from pipeline.release import Blob
from pipeline.transfer import Silent
from tests.attacks.concurrency import (
    Arena,
    ends,
    fight_for_a_lock,
    publish_many_versions,
    publish_one_version,
    wait_until,
)
from tests.attacks.places import Folder, OnSite
from tests.cdcs import serve
from tests.cdcs_server import CDCSServer
from tests.luigid import Scheduler
from tests.luigid import ends as run_ends
from tests.support import Workshop, assert_archive_is_sound, sha1

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes as Linux shows them")

MIB = 2**20
FILES = {f"data/{n}.csv": b"%d," % n * 100 for n in range(30)}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CDCSServer]:
    yield from serve(tmp_path_factory.mktemp("cdcs"))


@pytest.fixture(params=["folder", "site"])
def arena(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Arena]:
    site = request.getfixturevalue("server") if request.param == "site" else None
    with contextlib.closing(Arena(tmp_path / "arena", site)) as arena:
        yield arena


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Arena]:
    with contextlib.closing(Arena(tmp_path / "arena")) as arena:
        yield arena


def test_many_publish_versions_at_once_and_readers_see_all_of_a_release_or_none(arena: Arena) -> None:
    assert publish_many_versions(arena, 3, random.Random(4)) > 1


def test_of_many_that_publish_one_version_with_different_content_exactly_one_wins(arena: Arena) -> None:
    publish_one_version(arena, 3, random.Random(5))


# Waits, where all is decided and nothing of the record is written, until somebody lets it go on.
LATE = """
import pathlib, time
from pipeline.tasks.runs import UploadRun
final_record = UploadRun.final_record
def late(self):
    here = pathlib.Path({here!r})
    here.touch()
    while here.exists():
        time.sleep(0.01)  # until the test lets it go on
    return final_record(self)
UploadRun.final_record = late
"""


def test_who_comes_late_does_not_publish_over_what_was_published_meanwhile(arena: Arena, tmp_path: Path) -> None:
    here = tmp_path / "here"
    arena.project("late", {"a.csv": b"late"})
    arena.releases["sample", "0.1.0"] = arena.project("early", {"a.csv": b"early"})
    late = arena.publish("late", "0.1.0", LATE.format(here=str(here)))
    wait_until(here.exists, "the record is about to be written")
    (early,) = ends(arena.publish("early", "0.1.0"))
    here.unlink()
    (outcome,) = ends(late)
    assert early.code == 0, early.output
    assert outcome.code == 30, outcome.output
    assert "sample-v0.1.0 is in" in outcome.output
    assert arena.look() == 1


def test_a_blob_that_was_put_to_use_when_its_owner_took_it_back_is_uploaded_anew(
    server: CDCSServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, data = OnSite(server, "taken back"), b"what three publish at once"
    (tmp_path / "a.csv").write_bytes(data)
    curator, shelf = place.alice.curator, place.alice.shelf(place.workspace)
    left = curator.upload_blob(f"{sha1(data)}.csv", io.BytesIO(data), len(data), lambda: None)
    attach = curator.attach_metadata

    def too_late(blob: int, record: int) -> None:
        if blob == left.id:
            curator.delete_blob(blob)
        attach(blob, record)

    monkeypatch.setattr(curator, "attach_metadata", too_late)
    blob = Blob(sha1(data), len(data), ("a.csv",))
    pids, failures = shelf.upload([blob], ProjectSource(tmp_path), threads=1, meter=Silent())
    assert not failures, failures
    assert place.blob("", blob.digest) == data
    (described,) = shelf.described({blob.digest: blob.size})[blob.digest]
    assert pids == {blob.digest: described.pid}


def test_a_lock_is_held_by_one_that_lives_and_never_by_the_dead(tmp_path: Path) -> None:
    assert fight_for_a_lock(tmp_path, 6, 120, random.Random(6)) > 0


def test_a_folder_that_another_run_removes_at_that_moment_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = os.mkdir

    def late(folder: str, *args: int, **where: int) -> None:
        """Find the folder there, which is gone when the next one looks."""
        monkeypatch.setattr(os, "mkdir", mkdir)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder))

    monkeypatch.setattr(os, "mkdir", late)
    locks = locks_for(tmp_path / ".partial")
    assert locks.acquire([sha1(b"a blob")])
    locks.release([sha1(b"a blob")])
    locks.remove_unless_used(lambda: None)


# --- owners of locks that stop ----------------------------------------------------------------------------------------

# A run stops once.
STOP = """
import os, signal
once = iter([signal.SIGSTOP])
def stop():
    for how in once:
        os.kill(os.getpid(), how)
"""
# Where a run stops, and what others that need the same say then.
MOMENTS = {
    "a blob is written": (
        "import pipeline.transfer as t\nreceive = t._Mover._receive\n"
        "def slow(self, *args, **kwargs):\n    stop()\n    return receive(self, *args, **kwargs)\n"
        "t._Mover._receive = slow\n"
    ),
    "the record is written": (
        "import pipeline.durable as d\nname = d._name_exclusively\n"
        "def slow(*args):\n    stop()\n    return name(*args)\nd._name_exclusively = slow\n"
    ),
    "it tidies up": (
        "import pipeline.durable as d\nremove = d.Staging._remove_parts\n"
        "def slow(*args):\n    stop()\n    remove(*args)\nd.Staging._remove_parts = slow\n"
    ),
}


@pytest.mark.parametrize("how", [signal.SIGCONT, signal.SIGKILL], ids=["goes on", "is killed"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_others_say_that_they_wait_for_a_run_that_stands_still_and_go_on_when_it_does_or_dies(
    folder: Arena, moment: str, how: signal.Signals
) -> None:
    folder.releases["sample", "0.1.0"] = folder.project("project", {"a.csv": b"one", "b.csv": b"two"})
    stopped = folder.publish("project", "0.1.0", STOP + MOMENTS[moment])
    os.waitid(os.P_PID, stopped.pid, os.WSTOPPED | os.WNOWAIT)
    other = folder.publish("project", "0.1.0" if moment != "it tidies up" else "0.2.0")
    folder.releases["sample", "0.2.0"] = folder.releases["sample", "0.1.0"]
    wait_until(lambda: "another run" in other.said(), "the other run says that it waits")
    assert "waiting for it" in other.said()
    stopped.signal(how)
    first, second = ends(stopped, other)
    assert first.code == (0 if how == signal.SIGCONT else -signal.SIGKILL), first.output
    assert second.code == 0, second.output
    assert folder.look() == len(folder.place.records()) > 0


def test_who_fetches_says_what_it_waits_for(folder: Arena) -> None:
    folder.project("project", {"a.csv": b"one", "empty": b""})
    assert ends(folder.publish("project", "0.1.0"))[0].code == 0
    # The lock of the record is that of whoever writes it into the same folder.
    slow = (
        "import pipeline.durable as d\nsync = d.sync\n"
        "def slow(fd):\n    if os.readlink(f'/proc/self/fd/{fd}').endswith('.part'): stop()\n    sync(fd)\n"
        "d.sync = slow\n"
    )
    stopped = folder.fetch("fetched", trouble=STOP + slow)
    os.waitid(os.P_PID, stopped.pid, os.WSTOPPED | os.WNOWAIT)
    other = folder.fetch("fetched")
    wait_until(lambda: "another run" in other.said(), "the other run says that it waits")
    stopped.signal(signal.SIGCONT)
    assert [outcome.code for outcome in ends(stopped, other)] == [0, 0]


def test_a_run_that_stands_still_in_the_cache_of_digests_stops_nobody(folder: Arena) -> None:
    for name in ("one", "two"):
        folder.releases["sample", f"0.{len(name)}.{len(folder.releases)}"] = folder.project(name, FILES)
    busy = (
        "import pipeline.checksums as c\nread = c._read\n"
        "def slow(connection, folder, name):\n    if connection.in_transaction: stop()\n"
        "    return read(connection, folder, name)\nc._read = slow\nc.is_settled = lambda *stamp: True\n"
    )
    stopped = folder.publish("one", "0.3.0", STOP + busy)
    os.waitid(os.P_PID, stopped.pid, os.WSTOPPED | os.WNOWAIT)
    impatient = (
        "import sqlite3\nconnect = sqlite3.connect\n"
        "sqlite3.connect = lambda file, timeout=0, **more: connect(file, timeout=0.1, **more)\n"
    )
    (outcome,) = ends(folder.publish("two", "0.3.1", impatient))
    assert outcome.code == 0, outcome.output
    stopped.signal(signal.SIGCONT)
    assert ends(stopped)[0].code == 0


# --- clocks -----------------------------------------------------------------------------------------------------------

SHIFT = """
import time
for name, unit in (("time", 1), ("time_ns", 10**9)):
    setattr(time, name, lambda now=getattr(time, name), unit=unit: now() + {days} * 86400 * unit)
"""


@pytest.mark.parametrize("days", [-400, 400])
def test_a_run_with_another_clock_takes_nothing_away_from_one_that_is_at_work(folder: Arena, days: int) -> None:
    big = {"big.bin": random.Random(7).randbytes(3 * MIB)}
    folder.releases["sample", "0.1.0"] = folder.project("one", FILES | big)
    folder.releases["sample", "0.2.0"] = folder.project("two", FILES)
    folder.releases["sample", "0.3.0"] = folder.project("three", {"c.csv": b"3"})
    slow = (
        "import pipeline.transfer as t\nwrite = t._write\n"
        "def slow(fd, data):\n    write(fd, data)\n    if len(data) > 10**6: stop()\nt._write = slow\n"
    )
    stopped = folder.publish("one", "0.1.0", STOP + slow)
    os.waitid(os.P_PID, stopped.pid, os.WSTOPPED | os.WNOWAIT)
    old = [file for file in folder.folder.rglob("*") if {".partial", "manifests"} & set(file.parts)]
    for file in old:
        os.utime(file, (1, 1))
    shift = SHIFT.format(days=days)
    outcomes = ends(folder.publish("three", "0.3.0", shift), folder.fetch("fetched", "==0.3.0", shift))
    assert outcomes[0].code == 0, outcomes[0].output
    parts = [file for file in old if file.suffix == ".part"]
    assert parts
    assert all(file.exists() for file in parts)
    waiting = folder.publish("two", "0.2.0", shift)
    stopped.signal(signal.SIGCONT)
    assert [outcome.code for outcome in ends(stopped, waiting)] == [0, 0]
    assert folder.look() == 3
    assert_archive_is_sound(Path(folder.place.location))


def test_an_audit_does_not_believe_that_a_blob_was_read_in_the_future(folder: Arena) -> None:
    """A machine without a clock battery starts in another year, audits, and then learns what time it is."""
    assert isinstance(folder.place, Folder)
    folder.project("project", FILES)
    assert ends(folder.publish("project", "0.1.0"))[0].code == 0
    tonight = date.today() + timedelta(days=1)  # noqa: DTZ011  the night of this machine, as the task has it
    options = {"archive": folder.place.location, "workspace": folder.place.workspace}
    later = tonight + timedelta(days=4000)
    outcome = folder.workshop.run_with(SHIFT.format(days=4000), "AuditArchive", date=later, **options)
    assert (outcome.code, "30 read" in outcome.output) == (0, True), outcome.output
    blob = next(folder.place.folder.glob("*/*/blobs/*/*"))
    blob.write_bytes(b"x" * blob.stat().st_size)
    outcome = folder.workshop.run("AuditArchive", date=tonight, **options)
    assert outcome.code == 30, outcome.output
    assert "the blob is damaged" in outcome.output


def test_files_of_the_future_and_of_1970_are_published_as_they_are(folder: Arena) -> None:
    for version, seconds in (("0.1.0", 2**33), ("0.2.0", 1)):
        files = {"a.csv": b"%d" % seconds}
        folder.releases["sample", version] = folder.project("project", files)
        os.utime(folder.workshop.folder / "project" / "a.csv", (seconds, seconds))
        assert ends(folder.publish("project", version))[0].code == 0
    assert folder.look() == 2


# --- two schedulers ---------------------------------------------------------------------------------------------------


def test_two_schedulers_with_one_archive_move_each_blob_once(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    schedulers = []
    try:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            workshop = Workshop(tmp_path / name)
            schedulers.append(Scheduler(workshop))
        project = schedulers[0].workshop.project(files=FILES)
        runs = [scheduler.publish(archive=archive, project_directory=project) for scheduler in schedulers]
        outcomes = [run_ends(run) for run in runs]
        assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
        moved = [re.search(r"(\d+) moved", outcome.output) for outcome in outcomes]
        # One that begins late finds nothing to do.
        assert sum(int(told[1]) for told in moved if told) == len(FILES), outcomes
        assert_archive_is_sound(archive)
    finally:
        for scheduler in schedulers:
            scheduler.close()
