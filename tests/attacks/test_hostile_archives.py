"""Whoever can write into an archive or a destination cannot make others write, remove or hang elsewhere."""

import hashlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.durable import Staging, write_file
from pipeline.errors import PipelineError
from tests.attacks.fuzz import watched
from tests.attacks.swapping import fetch, prepare, publish, repair
from tests.forked import ForkedWorkshop
from tests.support import ROOT, Outcome, assert_archive_is_sound, sha1, tree

pytestmark = pytest.mark.skipif(os.name != "posix", reason="making links is a privilege on Windows")

FILES = {"a.txt": b"alpha", "data/b.txt": b"beta"}
PRECIOUS = b"precious"


@pytest.fixture
def forked(tmp_path: Path) -> ForkedWorkshop:
    """A workshop in a folder of its own, beside which there is something precious."""
    folder = tmp_path / "workshop"
    folder.mkdir()
    (tmp_path / "precious").write_bytes(PRECIOUS)
    return ForkedWorkshop(folder)


def ends_well(outcome: Outcome, *words: str) -> None:
    """Check that a run ended by itself, done or with sentences."""
    assert outcome.code in (0, 30), outcome.output
    assert "Traceback" not in outcome.output, outcome.output
    for word in words:
        assert word in outcome.output


def test_a_folder_that_becomes_a_link_before_any_step_is_not_written_through() -> None:
    """The long form tries every step; this one some of each."""
    command = [sys.executable, "-m", "tests.attacks.swapping", "--every", "40"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout.split()[0]) > 30


@pytest.mark.parametrize("place", ["", "/blobs", "/.partial", "/.records"])
def test_a_link_in_the_archive_is_one_sentence(forked: ForkedWorkshop, place: str) -> None:
    forked.project(files=FILES)
    assert forked.publish().code == 0
    outside = forked.folder / "outside"
    folder = Path(f"{forked.title_folder()}{place}")
    if folder.is_dir():
        folder.rename(outside)
    else:
        outside.mkdir()
    folder.symlink_to(outside)
    before = tree(outside)
    forked.project(files={"a.txt": b"news"})
    outcome = forked.publish(version="0.2.0")
    assert outcome.code == 30, outcome.output
    ends_well(outcome, f"sample{place}: it is a symbolic link, and nothing is written through it")
    assert tree(outside) == before
    folder.unlink()
    outside.rename(folder)
    assert forked.publish(version="0.2.0").code == 0
    assert_archive_is_sound(forked.archive)


def test_a_link_instead_of_the_fetched_folder_is_not_followed(forked: ForkedWorkshop) -> None:
    forked.project(files=FILES)
    assert forked.publish().code == 0
    outside = forked.folder / "outside"
    outside.mkdir()
    folder = forked.folder / "fetched" / "sample-v0.1.0"
    folder.parent.mkdir()
    folder.symlink_to(outside)
    outcome = forked.fetch()
    assert outcome.code == 30
    ends_well(outcome, "sample-v0.1.0: it is a symbolic link")
    assert tree(outside) == {}


# --- parts that are none ----------------------------------------------------------------------------------------------

Put = Callable[[Path, Path], None]


def _socket(part: Path, precious: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        folder = os.open(part.parent, os.O_RDONLY)
        try:
            one.bind(f"/proc/self/fd/{folder}/{part.name}")
        finally:
            os.close(folder)


PUTS: dict[str, Put] = {
    "link": lambda part, precious: part.symlink_to(precious),
    "broken link": lambda part, precious: part.symlink_to(precious.parent / "nothing"),
    "hard link": lambda part, precious: part.hardlink_to(precious),
    "pipe": lambda part, precious: os.mkfifo(part),
    "socket": _socket,
    "folder": lambda part, precious: part.mkdir(),
}


def put_parts(put: Put, folder: Path, names: list[str], precious: Path) -> None:
    """Put something in the place of each part."""
    folder.mkdir(parents=True)
    for name in names:
        put(folder / f"{name}.part", precious)


def key_of(target: Path) -> str:
    """Return the name of the part of a small file."""
    return hashlib.sha1(os.fsencode(target)).hexdigest()


@pytest.mark.parametrize("kind", list(PUTS))
def test_a_part_that_is_no_file_of_its_own_is_not_written_into(forked: ForkedWorkshop, kind: str) -> None:
    precious = forked.folder.parent / "precious"
    forked.project(files=FILES)
    title, fetched = forked.title_folder(), forked.folder / "fetched" / "sample-v0.1.0"
    blobs = [sha1(data) for data in FILES.values()]
    put_parts(PUTS[kind], title / ".partial", [*blobs, key_of(title / "sample-v0.1.0.yml")], precious)
    outcome = forked.publish()
    ends_well(outcome)
    assert precious.read_bytes() == PRECIOUS
    assert not (precious.parent / "nothing").exists()
    if kind == "folder":
        assert outcome.code == 30
        assert "a folder stands where a file belongs" in outcome.output
        for folder in (title / ".partial").glob("*.part"):
            folder.rmdir()
        outcome = forked.publish()
    assert outcome.code == 0, outcome.output
    assert_archive_is_sound(forked.archive)
    put_parts(PUTS[kind], fetched / ".rme" / ".partial", [*blobs, key_of(fetched / ".rme" / "record.yml")], precious)
    ends_well(forked.fetch())
    assert precious.read_bytes() == PRECIOUS
    for folder in (fetched / ".rme").glob(".partial/*.part"):
        folder.rmdir()
    assert forked.fetch().code == 0
    assert {path: data for path, data in tree(fetched).items() if path in FILES} == FILES


def test_a_run_that_was_killed_while_it_published_leaves_no_way_to_change_the_record(tmp_path: Path) -> None:
    """It may leave a part that is the published record, by a second name."""
    record, staging = tmp_path / "title" / "sample-v0.1.0.yml", Staging(tmp_path / "title" / ".partial", tmp_path)
    write_file(b"published", record, staging, exclusive=True)
    os.link(record, staging.part(key_of(record)))
    with pytest.raises(FileExistsError):
        write_file(b"another", record, staging, exclusive=True)
    assert record.read_bytes() == b"published"


# --- what is no file --------------------------------------------------------------------------------------------------


def put(kind: str, place: Path) -> None:
    """Put something in the place of a file or folder, whatever is there."""
    if place.exists():
        place.rename(place.with_name("moved"))
    place.parent.mkdir(parents=True, exist_ok=True)
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "loop":
        place.symlink_to(place.name)
    elif kind == "endless":
        place.symlink_to("/dev/zero")
    else:
        place.write_bytes(bytes(100))


BLOB = sha1(b"alpha")
TITLE = "archive/Global Public Workspace/sample"
PLACES = [
    "archive/Global Public Workspace",
    TITLE,
    *(f"{TITLE}/{name}" for name in ("sample-v0.1.0.yml", "sample-v0.2.0.yml", f"blobs/{BLOB[:2]}/{BLOB}", "blobs")),
    *(f"{TITLE}/{name}" for name in (f"blobs/{BLOB[:2]}", ".records", ".records/0.1.0", f".records/0.1.0/{BLOB}")),
    *(f"{TITLE}/{name}" for name in (".partial", ".partial/lock", ".damaged")),
    *(
        f"fetched/{name}"
        for name in ("a.txt", "data", ".rme", ".rme/record.yml", ".rme/.partial", ".rme/.partial/lock")
    ),
]


@pytest.mark.parametrize("kind", ["pipe", "loop", "endless", "zeros"])
def test_nothing_waits_for_what_is_no_file_or_falls_over_it(tmp_path: Path, kind: str) -> None:
    base = tmp_path / "base"
    base.mkdir()
    prepare(base)
    for number, place in enumerate(PLACES):
        folder = tmp_path / str(number)
        shutil.copytree(base, folder)
        put(kind, folder / place)
        for action in (fetch, publish, repair):
            # Anything else than an error that is a sentence, or more than some seconds, is a failure.
            with watched(), suppress(PipelineError, OSError):
                action(folder)


@pytest.mark.parametrize(
    ("place", "task"),
    [
        ("fetched/sample.lock", "FetchRelease"),
        ("fetched/sample-v0.1.0/.rme/record.yml", "FetchRelease"),
        ("cache/digests-2.sqlite3", "FetchRelease"),
        ("cache/audits-1.sqlite3", "AuditArchive"),
        ("reports/AuditArchive-2026-11-01-20261101T000000Z.json", "AuditArchive"),
        ("reports/AuditArchive-2026-11-01-20261101T000000Z.html", "AuditArchive"),
        ("reports/.partial/lock", "AuditArchive"),
    ],
)
def test_no_run_waits_for_a_pipe(forked: ForkedWorkshop, place: str, task: str) -> None:
    forked.project(files=FILES)
    assert forked.publish().code == 0
    put("pipe", forked.folder / place)
    options = {"title": "sample", "with_requirements": True} if task == "FetchRelease" else {"archive": "archive"}
    ends_well(forked.run(task, **options, report_directory="reports"))
