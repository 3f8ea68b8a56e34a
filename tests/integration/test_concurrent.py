"""Runs that move the same blobs at the same time share the work, and harm nothing.

What could be a race is made certain: the test holds the lock of a blob, or stops a process, until both runs are where
they could meet.
"""

import contextlib
import hashlib
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.locks import locks_for
from tests.support import Outcome, Workshop, assert_archive_is_sound, sha1, tree

MIB = 2**20
PATIENCE = 60.0
# So many that they are one batch: a run that waits for one of them has moved all others.
FILES = {f"data/{n % 7}/{n:03}.csv": b"%d," % n * 200 for n in range(180)}

linux_only = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc to see what a process has open")


def wait_until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.005)


def ends(*processes: "subprocess.Popen[str]") -> list[Outcome]:
    """Wait for processes, and return how they ended."""
    outputs = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    return [Outcome(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


def moved(*outcomes: Outcome) -> list[int]:
    """Return how many blobs the runs say that they moved."""
    return [int(count) for outcome in outcomes for count in re.findall(r"(\d+) moved", outcome.output)]


def assert_well_ended(*outcomes: Outcome) -> None:
    for outcome in outcomes:
        assert outcome.code in (0, 10), outcome.output
        assert "Traceback" not in outcome.output
        assert "ERROR" not in outcome.output
    assert 0 in {outcome.code for outcome in outcomes}


class Runs:
    """Starts runs in a workshop, and ends those that a failed test leaves."""

    def __init__(self, workshop: Workshop) -> None:
        self.workshop = workshop
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, task: str, **options: object) -> "subprocess.Popen[str]":
        self.processes.append(self.workshop.start(task, **options))
        return self.processes[-1]

    def publish(self, version: str = "0.1.0", **options: object) -> "subprocess.Popen[str]":
        options = {"title": "sample", "create_archive": True, "project_directory": "project", **options}
        return self.start("PublishRelease", release_version=version, **options)

    def fetch(self) -> "subprocess.Popen[str]":
        return self.start("FetchRelease", title="sample")


@pytest.fixture
def runs(workshop: Workshop) -> Iterator[Runs]:
    runs = Runs(workshop)
    yield runs
    for process in runs.processes:
        if process.poll() is None:
            process.kill()
        with process:
            pass


@contextlib.contextmanager
def held(folder: Path, key: str) -> Iterator[None]:
    """Hold the lock of one blob, as another run would that is moving it."""
    folder.mkdir(parents=True, exist_ok=True)
    locks = locks_for(folder)
    assert locks.acquire([key])
    try:
        yield
    finally:
        locks.release([key])


def has_open(process: "subprocess.Popen[str]", file: Path) -> bool:
    """Tell whether a process has a file open."""
    assert process.poll() is None, "the process has ended already"
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{process.pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                if os.readlink(f"/proc/{process.pid}/fd/{fd}") == str(file):
                    return True
    return False


def key_of(file: Path) -> str:
    """Return what a small file is locked by while it is written."""
    return hashlib.sha1(os.fsencode(file)).hexdigest()


@pytest.mark.parametrize("flags", [{}, {"user": "another"}], ids=["identical-commands", "different-flags"])
def test_two_runs_of_one_release_share_the_work(workshop: Workshop, runs: Runs, flags: dict[str, str]) -> None:
    workshop.project(files=FILES)
    partial = workshop.title_folder() / ".partial"
    first = FILES["data/0/000.csv"]
    with held(partial, sha1(first)):
        both = [runs.publish(), runs.publish(**flags)]
        # All but one blob are there, and no run can end: both must meet at the last one and at the record.
        blobs = workshop.title_folder() / "blobs"
        wait_until(lambda: sum(1 for _ in blobs.glob("??/*")) == len(FILES) - 1, "all other blobs are there")
        assert all(run.poll() is None for run in both)
        assert not workshop.record_file().exists()
    outcomes = ends(*both)
    assert_well_ended(*outcomes)
    assert sum(moved(*outcomes)) == len(FILES)
    assert_archive_is_sound(workshop.archive)
    assert not partial.exists()
    assert workshop.publish().output.startswith("Nothing to do")


@linux_only
def test_two_runs_that_upload_the_same_record_at_once_both_succeed(workshop: Workshop, runs: Runs) -> None:
    workshop.project(files={"a.csv": b"1,2,3"})
    assert workshop.publish().code == 0
    record = workshop.record_file("0.2.0").resolve()
    partial = workshop.title_folder().resolve() / ".partial"
    with held(partial, key_of(record)):
        both = [runs.publish("0.2.0"), runs.publish("0.2.0")]
        # Both have seen that there is no such record yet, and wait to write it.
        for run in both:
            wait_until(lambda run=run: has_open(run, partial / "lock"), "the record is about to be written")
    outcomes = ends(*both)
    assert_well_ended(*outcomes)
    assert not partial.exists()


@linux_only
def test_of_two_runs_that_upload_different_records_of_one_version_only_one_succeeds(
    workshop: Workshop, runs: Runs
) -> None:
    workshop.project("one", {"a.csv": b"1,2,3"})
    workshop.project("two", {"b.csv": b"1,2,3"})
    assert workshop.publish("one").code == 0
    record = workshop.record_file("0.2.0").resolve()
    partial = workshop.title_folder().resolve() / ".partial"
    with held(partial, key_of(record)):
        both = [runs.publish("0.2.0", project_directory=name) for name in ("one", "two")]
        for run in both:
            wait_until(lambda run=run: has_open(run, partial / "lock"), "the record is about to be written")
    outcomes = ends(*both)
    assert sorted(outcome.code for outcome in outcomes) == [0, 30]
    loser = max(outcomes, key=lambda outcome: outcome.code)
    assert "a published release never changes" in loser.output
    assert "Traceback" not in loser.output
    winner = ("one", "two")[outcomes.index(min(outcomes, key=lambda outcome: outcome.code))]
    assert workshop.publish(winner, "0.2.0").code == 0
    assert not partial.exists()


def test_two_versions_of_one_title_share_their_blobs(workshop: Workshop, runs: Runs) -> None:
    shared = FILES
    workshop.project("old", {**shared, "old.csv": b"old"})
    workshop.project("new", {**shared, "new.csv": b"new"})
    both = [
        runs.publish("0.1.0", project_directory="old"),
        runs.publish("0.2.0", project_directory="new"),
    ]
    outcomes = ends(*both)
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    assert sum(moved(*outcomes)) == len(shared) + 2
    assert_archive_is_sound(workshop.archive)
    blobs = {path.name for path in workshop.title_folder().glob("blobs/??/*")}
    assert blobs == {sha1(data) for data in [*shared.values(), b"old", b"new"]}
    assert workshop.record_file("0.1.0").exists()
    assert workshop.record_file("0.2.0").exists()
    assert not (workshop.title_folder() / ".partial").exists()


def test_two_fetches_into_one_destination_share_the_work(workshop: Workshop, runs: Runs) -> None:
    project = workshop.project(files={**FILES, "twin.csv": FILES["data/0/000.csv"], "empty.txt": b""})
    assert workshop.publish().code == 0
    release = workshop.folder / "fetched" / "sample-v0.1.0"
    partial = release / ".rme" / ".partial"
    with held(partial, sha1(FILES["data/1/001.csv"])):
        both = [runs.fetch(), runs.fetch()]
        wait_until(lambda: sum(1 for _ in release.glob("data/*/*")) == len(FILES) - 1, "all other files are there")
        before = {path: path.stat().st_ino for path in release.glob("data/*/*")}
        assert all(run.poll() is None for run in both)
        assert not (release / ".rme" / "record.yml").exists()
    outcomes = ends(*both)
    assert_well_ended(*outcomes)
    assert sum(moved(*outcomes)) == len(FILES)
    assert {path: path.stat().st_ino for path in before} == before, "verified files were fetched again"
    assert not partial.exists()
    fetched = tree(release)
    assert {name: data for name, data in fetched.items() if not name.startswith(".rme")} == tree(project)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="a process cannot be stopped on this system")
@pytest.mark.parametrize("task", ["PublishRelease", "FetchRelease"])
def test_a_run_that_died_holding_locks_does_not_block_the_next(workshop: Workshop, runs: Runs, task: str) -> None:
    data = random.Random(6).randbytes(80 * MIB)
    workshop.project(files={"long.bin": data, "a.csv": b"a", "b.csv": b"b"})
    folder = workshop.title_folder()
    options: dict[str, object] = {"title": "sample"}
    if task == "PublishRelease":
        options |= {"release_version": "0.1.0", "create_archive": True, "project_directory": "project"}
    else:
        assert workshop.publish().code == 0
        folder = workshop.folder / "fetched" / "sample-v0.1.0" / ".rme"
    part = folder / ".partial" / f"{sha1(data)}.part"
    one = runs.start(task, **options)
    wait_until(lambda: part.exists() and part.stat().st_size > MIB, "a large file is being copied")
    one.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, one.pid, os.WSTOPPED)
    there = part.stat().st_size
    assert there < len(data)
    other = runs.start(task, **options)
    if Path("/proc/self/fd").exists():
        wait_until(lambda: has_open(other, part.parent.resolve() / "lock"), "the second run asks for the lock")
    assert part.stat().st_size == there, "two runs wrote one part"
    assert other.poll() is None
    one.kill()
    (outcome,) = ends(other)
    assert outcome.code == 0, outcome.output
    assert moved(outcome) == [3]
    assert not part.parent.exists()
    if task == "PublishRelease":
        assert workshop.blob_file(data).read_bytes() == data
    else:
        assert (folder.parent / "long.bin").read_bytes() == data


def test_many_runs_at_once_leave_one_whole_release(workshop: Workshop, runs: Runs) -> None:
    """No moment is arranged here: five runs of the same command, as cron makes them on a slow day."""
    workshop.project(files=FILES)
    five = [runs.publish() for _ in range(5)]
    outcomes = ends(*five)
    assert_well_ended(*outcomes)
    assert sum(moved(*outcomes)) == len(FILES)
    assert_archive_is_sound(workshop.archive)
    assert not (workshop.title_folder() / ".partial").exists()
    outcome = workshop.fetch()
    assert outcome.code == 0, outcome.output
