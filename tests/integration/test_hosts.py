"""Two hosts share a release: one luigid, one archive on a drive that both have, and a cache of its own for each."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.tasks.blobs import BIG_BYTES
from tests.hosts import Host, Laboratory
from tests.luigid import wait_until
from tests.slow import SlowDisk
from tests.support import assert_archive_is_sound

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has network namespaces")

SMALL = {f"data/point {n:02}.csv": b"%d," % n * 50 for n in range(40)}
# So large that each moves alone, and first: there is one for each host, and then a batch for whoever is free.
LARGE = [f"sweep {n}.h5" for n in range(2)]
COUNT = len(SMALL) + len(LARGE)
DONE = re.compile(r"done +(?:Upload|Mirror)Blob\(.*blobs=(\d+)(?:-(\d+))?,")


@pytest.fixture
def laboratory(tmp_path: Path) -> Iterator[Laboratory]:
    with Laboratory(tmp_path) as laboratory:
        yield laboratory


def both_publish(laboratory: Laboratory) -> tuple[str, dict[str, Any]]:
    """Make a project on the drive, and return the command that publishes it."""
    project = laboratory.hosts[0].project(str(laboratory.drive / "project"), SMALL)
    for number, name in enumerate(LARGE):
        with (project / name).open("wb") as stream:
            stream.write(b"%d" % number)
            stream.truncate(BIG_BYTES)
    options = {"project_directory": project, "archive": laboratory.drive / "archive"}
    return "PublishRelease", {**options, "title": "sample", "release_version": "0.1.0", "create_archive": True}


def both_mirror(laboratory: Laboratory) -> tuple[str, dict[str, Any]]:
    """Make an archive and an empty one on the drive, and return the command that copies one to the other."""
    task, options = both_publish(laboratory)
    alpha = laboratory.hosts[0]
    alpha.start(task, **{**options, "archive": laboratory.drive / "source"}, local_scheduler=True)
    assert alpha.ends().code == 0
    alpha.start("CreateArchive", archive=laboratory.drive / "archive", local_scheduler=True)
    assert alpha.ends().code == 0
    return "MirrorArchive", {
        "date": "2026-11-23",
        "source": laboratory.drive / "source",
        "destination": laboratory.drive / "archive",
    }


Prepare = Callable[[Laboratory], tuple[str, dict[str, Any]]]


def begin(laboratory: Laboratory, prepare: Prepare) -> SlowDisk:
    """Let both hosts begin the same, and return the disk that they wait for, each in the middle of a batch."""
    task, options = prepare(laboratory)
    disk = SlowDisk(*laboratory.hosts)
    disk.allow(1)
    for host in laboratory.hosts:
        host.start(task, log_level="INFO", **options)
    for host in laboratory.hosts:
        wait_until(lambda host=host: disk.is_read_by(host.name), f"{host.name} moves blobs")
    return disk


def moved(output: str) -> list[int]:
    """Return the positions of the blobs that a host has moved, by its log."""
    return [n for first, last in DONE.findall(output) for n in range(int(first), int(last or first) + 1)]


def assert_well_done(laboratory: Laboratory, host: Host, *outputs: str) -> None:
    """Check that the release is whole, that a run said so, and that the same command knows it."""
    assert any(re.search(f"(Published|Mirrored) sample-v0.1.0: {COUNT} blobs", output) for output in outputs)
    assert not any("Traceback" in output for output in outputs)
    blobs = list(laboratory.drive.glob("archive/*/sample/blobs/??/*"))
    assert len(blobs) == COUNT
    assert_archive_is_sound(laboratory.drive / "archive")
    assert not list(laboratory.drive.glob("archive/*/sample/.partial"))
    host.start_again()
    outcome = host.ends()
    assert outcome.code == 0, outcome.output
    assert "Nothing to do" in outcome.output


@pytest.mark.parametrize("prepare", [both_publish, both_mirror])
def test_two_hosts_share_the_blobs_and_each_blob_moves_once(laboratory: Laboratory, prepare: Prepare) -> None:
    begin(laboratory, prepare).recover()
    outcomes = [host.ends() for host in laboratory.hosts]
    # Luigi counts what the other host did as not run.
    assert {outcome.code for outcome in outcomes} <= {0, 10, 25}
    shares = [moved(outcome.output) for outcome in outcomes]
    assert all(shares)
    assert sorted(shares[0] + shares[1]) == list(range(COUNT))
    assert_well_done(laboratory, laboratory.hosts[0], *(outcome.output for outcome in outcomes))


@pytest.mark.parametrize("lose", [Host.kill, Host.unplug])
def test_a_host_that_is_lost_leaves_its_blobs_to_the_other(
    laboratory: Laboratory, lose: Callable[[Host], None]
) -> None:
    disk = begin(laboratory, both_publish)
    lost, other = laboratory.hosts
    lose(lost)
    disk.recover()
    outcome = other.ends()
    assert outcome.code in {0, 10, 25}, outcome.output
    assert sorted(moved(outcome.output)) == list(range(COUNT))
    assert_well_done(laboratory, other, outcome.output)


def test_a_blob_that_cannot_be_moved_keeps_no_host_waiting_for_ever(laboratory: Laboratory) -> None:
    disk = begin(laboratory, both_publish)
    project = laboratory.drive / "project"
    (project / "data" / "point 07.csv").write_bytes(b"edited")
    disk.recover()
    outcomes = [host.ends() for host in laboratory.hosts]
    assert max(outcome.code for outcome in outcomes) == 30
    told = "".join(outcome.output for outcome in outcomes)
    assert "data/point 07.csv: it changed while it was being published" in told
    assert "Traceback" not in told
    assert not list(laboratory.drive.glob("archive/*/sample/*.yml"))
