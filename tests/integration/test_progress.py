"""What a run says of itself: bars on a terminal, lines elsewhere, and at the end what was done."""

import contextlib
import os
import re
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.locks import locks_for
from pipeline.progress import Progress
from tests.support import ROOT, Workshop, sha1

PATIENCE = 40.0
FILES = {f"data/{n}.csv": b"%d" % n * 10_000 for n in range(5)}
SUMMARY = re.compile(
    r"(?P<verb>Published|Fetched) sample-v0\.[12]\.0: (?P<blobs>\d+) blobs, (?P<bytes>[\d.]+ k?B); "
    r"(?P<moved>\d+) moved \((?P<moved_bytes>[\d.]+ k?B)\), (?P<there>\d+) already there, (?P<failed>\d+) failed, "
    r"(?P<seconds>[\d.]+) s\.\n(?P<where>.*)\n"
)


def wait_until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.02)


@contextlib.contextmanager
def held(folder: Path, data: bytes) -> Iterator[None]:
    """Hold the lock of a blob, so that the run that moves it lasts."""
    folder.mkdir(parents=True, exist_ok=True)
    locks = locks_for(folder)
    assert locks.acquire([sha1(data)])
    try:
        yield
    finally:
        locks.release([sha1(data)])


class Watched:
    """A run whose output is read while it lasts, on a terminal or in a file."""

    def __init__(self, workshop: Workshop, terminal: bool, task: str, **options: object) -> None:
        self._terminal = terminal
        self._seen = b""
        if terminal:
            import fcntl
            import pty
            import termios

            self._reader, writer = pty.openpty()
            fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        else:
            self._reader, writer = os.pipe()
        os.set_blocking(self._reader, False)
        try:
            self.process = subprocess.Popen(
                workshop.command(task, **options),
                cwd=workshop.folder,
                env={**workshop.environment, "TERM": "xterm"},
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=writer,
            )
        finally:
            os.close(writer)

    @property
    def seen(self) -> str:
        """What was shown until now."""
        # A pipe that has nothing now blocks; a terminal that its program has left is an error (EIO).
        with contextlib.suppress(OSError):
            while data := os.read(self._reader, 65536):
                self._seen += data
        return self._seen.decode().replace("\r\n", "\n")

    def end(self) -> str:
        """Wait for the end, and return all that was shown."""
        wait_until(lambda: self.seen is not None and self.process.poll() is not None, "the run ends")
        assert self.process.returncode == 0, self.seen
        return self.seen

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._reader)


def publishing(workshop: Workshop) -> tuple[Path, dict[str, object]]:
    """Return where parts are while a project is published, and how to publish it."""
    workshop.project(files=FILES)
    command = {"project_directory": "project", "release_version": "0.1.0", "create_archive": True}
    return workshop.title_folder() / ".partial", {"task": "PublishRelease", **command}


def fetching(workshop: Workshop) -> tuple[Path, dict[str, object]]:
    """Return where parts are while a release is fetched, and how to fetch it."""
    workshop.project(files=FILES)
    assert workshop.publish().code == 0
    return workshop.folder / "fetched" / "sample-v0.1.0" / ".rme" / ".partial", {"task": "FetchRelease"}


Prepare = Callable[[Workshop], tuple[Path, dict[str, object]]]
both_ways = pytest.mark.parametrize("prepare", [publishing, fetching])


@pytest.fixture
def watch(workshop: Workshop) -> Iterator[Callable[..., Watched]]:
    """Start runs that are watched, and end those that a failed test leaves."""
    runs: list[Watched] = []

    def start(terminal: bool, task: str, **options: object) -> Watched:
        runs.append(Watched(workshop, terminal, task, title="sample", **options))
        return runs[-1]

    yield start
    for run in runs:
        run.close()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no pty on this system")
@both_ways
def test_on_a_terminal_bars_show_bytes_and_blobs(
    workshop: Workshop, watch: Callable[..., Watched], prepare: Prepare
) -> None:
    partial, command = prepare(workshop)
    with held(partial, FILES["data/4.csv"]):
        run = watch(True, **command)
        wait_until(lambda: "4/5 blobs" in run.seen, "a bar counts the blobs")
        assert re.search(r"sample-v0\.1\.0: +80%\|.+\| 40\.0k/50\.0k", run.seen)
        assert not SUMMARY.search(run.seen)
    shown = run.end()
    (summary,) = SUMMARY.finditer(shown)
    assert "blobs, now" not in shown, "lines are for those who have no bars"
    assert "|" not in shown[summary.start() :], "a bar was drawn after the last words"


@both_ways
def test_without_a_terminal_lines_say_how_far_it_is(
    workshop: Workshop, watch: Callable[..., Watched], prepare: Prepare
) -> None:
    partial, command = prepare(workshop)
    with held(partial, FILES["data/4.csv"]):
        run = watch(False, **command)
        line = "sample-v0.1.0: 4 of 5 blobs, 40.0 kB of 50.0 kB"
        wait_until(lambda: line in run.seen, "a line says how far it is")
    shown = run.end()
    assert SUMMARY.search(shown)
    assert "%|" not in shown
    assert "\r" not in shown
    assert "\x1b" not in shown


def test_a_run_that_waits_for_another_says_so(workshop: Workshop, watch: Callable[..., Watched]) -> None:
    partial, command = publishing(workshop)
    with held(partial, FILES["data/4.csv"]):
        run = watch(False, **command)
        wait_until(lambda: "4 of 5 blobs" in run.seen, "a line says how far it is")
        assert "another run" in run.seen
    run.end()


def test_a_line_names_what_is_moving_now() -> None:
    progress = Progress("sample-v0.1.0", 2, 30)
    progress.started("data/a.csv", 10)
    progress.started("data/b\n.csv", 20)
    progress.advanced("data/a.csv", 4)
    assert progress.status() == r"0 of 2 blobs, 4 B of 30 B, now data/a.csv, data/b\n.csv"
    assert progress.percentage() == 13
    progress.finished("data/a.csv", 10, OSError("x"), False)
    assert "1 of 2 blobs" in progress.status()
    assert "1 failed, now data/b" in progress.status()


@both_ways
def test_the_end_says_what_was_done(workshop: Workshop, watch: Callable[..., Watched], prepare: Prepare) -> None:
    _, command = prepare(workshop)
    shown = watch(False, **command).end()
    (summary,) = SUMMARY.finditer(shown)
    verb, where = {
        "PublishRelease": ("Published", workshop.record_file()),
        "FetchRelease": ("Fetched", workshop.folder / "fetched" / "sample-v0.1.0"),
    }[str(command["task"])]
    assert summary.groupdict() == {
        "verb": verb,
        "blobs": "5",
        "bytes": "50.0 kB",
        "moved": "5",
        "moved_bytes": "50.0 kB",
        "there": "0",
        "failed": "0",
        "seconds": summary["seconds"],
        "where": summary["where"],
    }
    assert summary["where"].endswith(str(where.resolve()))
    # Nothing else is said in a run that is over at once.
    assert shown == summary[0]


@both_ways
def test_the_end_tells_what_was_moved_from_what_was_there(
    workshop: Workshop, watch: Callable[..., Watched], prepare: Prepare
) -> None:
    _, command = prepare(workshop)
    watch(False, **command).end()
    if command["task"] == "PublishRelease":
        (workshop.folder / "project" / "more.csv").write_bytes(b"more")
        (summary,) = SUMMARY.finditer(watch(False, **{**command, "release_version": "0.2.0"}).end())
        assert (summary["blobs"], summary["moved"], summary["moved_bytes"], summary["there"]) == ("6", "1", "4 B", "5")
    else:
        (workshop.folder / "fetched" / "sample-v0.1.0" / "data" / "3.csv").write_bytes(b"edited")
        (summary,) = SUMMARY.finditer(watch(False, **command).end())
        assert (summary["blobs"], summary["moved"], summary["there"]) == ("5", "1", "4")


@both_ways
def test_a_second_run_says_that_there_is_nothing_to_do(
    workshop: Workshop, watch: Callable[..., Watched], prepare: Prepare
) -> None:
    _, command = prepare(workshop)
    (summary,) = SUMMARY.finditer(watch(False, **command).end())
    shown = watch(False, **command).end()
    first, second = shown.splitlines()
    assert re.fullmatch(r"Nothing to do: sample-v0\.1\.0 is (published|here), with 5 blobs, 50\.0 kB\.", first)
    assert second == summary["where"]


def test_a_failure_is_counted_at_the_end(workshop: Workshop) -> None:
    project = workshop.project(files=FILES)
    with held(workshop.title_folder() / ".partial", FILES["data/4.csv"]):
        run = workshop.start(
            "PublishRelease", title="sample", release_version="0.1.0", project_directory="project", create_archive=True
        )
        wait_until(lambda: sum(1 for _ in workshop.title_folder().glob("blobs/??/*")) == 4, "the others are there")
        (project / "data" / "4.csv").write_bytes(b"edited")
    output, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 30
    assert "data/4.csv: it changed while it was being published" in output
    assert re.search(
        r"sample-v0\.1\.0 is not complete: 5 blobs, 50\.0 kB; "
        r"4 moved \(40\.0 kB\), 0 already there, 1 failed, [\d.]+ s\.",
        output,
    )


def test_the_error_of_a_script_that_uses_this_is_shown_as_ever() -> None:
    script = "from pipeline.progress import speak_up\nspeak_up()\nraise RuntimeError('of the script')"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("RuntimeError: of the script\n")
