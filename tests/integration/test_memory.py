"""Memory does not grow with the size of a file: what counts is the peak of the whole luigi process, by the kernel."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import Workshop

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the system does not tell the peak of a process")

MIB = 2**20
LARGE = 640 * MIB
# Eight threads with a buffer of 1 MiB each, and what the allocator keeps.
MOST_GROWTH = 60 * MIB
ASK = (
    "import resource, subprocess, sys; ended = subprocess.run(sys.argv[1:]); "
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(ended.returncode)"
)


def peak_memory(workshop: Workshop, task: str, **options: object) -> int:
    """Run a task to its end and return the most bytes of memory that it had."""
    # A small process stands between: to the peak of a process Linux counts that of the one that started it.
    ended = subprocess.run(
        [sys.executable, "-c", ASK, *workshop.command(task, **options)],
        cwd=workshop.folder,
        env=workshop.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return int(ended.stdout.splitlines()[-1]) * (1 if sys.platform == "darwin" else 1024)


def sparse(file: Path, size: int) -> None:
    """Make a file of that many bytes, most of them in holes that take no room on the disk."""
    file.parent.mkdir(exist_ok=True)
    dice = random.Random(size)
    with file.open("wb") as stream:
        os.truncate(stream.fileno(), size)
        for _ in range(8):
            stream.seek(dice.randrange(size - 1000))
            stream.write(dice.randbytes(1000))


def test_a_large_file_takes_no_more_memory_than_a_small_one(workshop: Workshop) -> None:
    peaks = {}
    for name, size in (("small", 100_000), ("large", LARGE)):
        sparse(workshop.folder / name / "data.bin", size)
        publish = {"project_directory": name, "release_version": "0.1.0", "create_archive": True}
        peaks["publish", name] = peak_memory(workshop, "PublishRelease", title=name, **publish)
        (workshop.folder / name / "data.bin").unlink()
        peaks["fetch", name] = peak_memory(workshop, "FetchRelease", title=name)
        fetched = workshop.folder / "fetched" / f"{name}-v0.1.0" / "data.bin"
        assert fetched.stat().st_size == size
        fetched.unlink()
    for task in ("publish", "fetch"):
        assert peaks[task, "large"] - peaks[task, "small"] < MOST_GROWTH
    (blob,) = workshop.title_folder("large").glob("blobs/??/*")
    blob.unlink()
