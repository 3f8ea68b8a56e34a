"""When something goes wrong: one clear sentence, everything else still moves, and the next run finishes."""

import contextlib
import datetime
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.checksums import HashCache, Stamp
from pipeline.documents import dump_mapping
from pipeline.errors import PipelineError, RecordError, ReleaseFileError
from pipeline.release import ReleaseRecord
from pipeline.release_file import read_release_file
from tests.forked import ForkedWorkshop
from tests.support import Outcome, Workshop, assert_archive_is_sound, sha1, tree

FILES = {"a.txt": b"alpha", "data/b.bin": b"beta" * 1000, "data/deep/c.csv": b"1,2\n", "empty": b""}
BIG = bytes(range(256)) * 2000  # 512 kB

posix = pytest.mark.skipif(os.name != "posix", reason="permissions and signals of POSIX")


def said(outcome: Outcome, *words: str, code: int = 30) -> str:
    """Check that a run ended with one sentence that has all of `words`, and return it."""
    assert "Traceback" not in outcome.output, outcome.output
    assert outcome.code == code, outcome.output
    sentences = [line for line in outcome.output.splitlines() if line.startswith("ERROR: ")]
    assert len(sentences) == 1, outcome.output
    for word in words:
        assert word in sentences[0]
    return sentences[0]


def succeeded(outcome: Outcome, *words: str) -> str:
    """Check that a run did what it was asked for, and return what it said."""
    assert outcome.code == 0, outcome.output
    assert "Traceback" not in outcome.output
    assert "ERROR" not in outcome.output
    for word in words:
        assert word in outcome.output
    return outcome.output


def digests_of_record(workshop: Workshop, version: str = "0.1.0") -> dict[str, str]:
    """Return path to SHA-1 of what a record says, read with nothing of the code under test."""
    found = {}

    def visit(folder: dict[str, dict]) -> None:
        for name, node in folder.items():
            if not name.startswith("/"):
                if node["/item/"] == "Directory":
                    visit(node)
                else:
                    found[node["/path/"]] = node["/sha1/"]

    visit(json.loads(workshop.record_file(version).read_bytes())["project"])
    return found


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    """A folder where a user works, quickly where that is possible."""
    (tmp_path / "workshop").mkdir()
    return (ForkedWorkshop if hasattr(os, "fork") else Workshop)(tmp_path / "workshop")


def run_with_trouble(workshop: Workshop, trouble: str, task: str, **options: object) -> Outcome:
    """Run a task in a process in which `trouble`, some Python, is executed first."""
    if not isinstance(workshop, ForkedWorkshop):
        pytest.skip("needs a process that can be forked")
    return workshop.run_with(trouble, task, **options)


def publish_with_trouble(workshop: Workshop, trouble: str, version: str = "0.1.0") -> Outcome:
    """Publish the project in a process where something happens."""
    options = {"project_directory": "project", "title": "sample", "release_version": version, "create_archive": True}
    return run_with_trouble(workshop, trouble, "PublishRelease", **options)


def trouble_around_upload(action: str, when: str) -> str:
    """Return Python that does `action` (on ``file``, data/b.bin) before or after blobs are uploaded."""
    return (
        "import os, pathlib\n"
        "upload = pipeline.FileSystemArchive.upload_blobs\n"
        "file = pathlib.Path('project/data/b.bin')\n"
        "def troubled(self, *args, **kwargs):\n"
        f"    if {when == 'before'!r}: {action}\n"
        "    result = upload(self, *args, **kwargs)\n"
        f"    if {when == 'after'!r}: {action}\n"
        "    return result\n"
        "pipeline.FileSystemArchive.upload_blobs = troubled\n"
    )


def run_as_owner_without_privileges(workshop: Workshop, task: str, **options: object) -> Outcome:
    """Run a task so that file permissions hold for it, also where the tests run as root."""
    command = workshop.command(task, **options)
    if os.geteuid() == 0:
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            pytest.skip("the tests run as root, for whom permissions do not hold, and there is no setpriv")
        command = [setpriv, "--bounding-set", "-dac_override,-dac_read_search,-fowner", *command]
    process = subprocess.run(
        command,
        cwd=workshop.folder,
        env=workshop.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    return Outcome(process.returncode, process.stdout)


PUBLISH = {"project_directory": "project", "title": "sample", "release_version": "0.1.0"}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A workshop where a release was published; to be copied, not to be changed."""
    workshop = Workshop(tmp_path_factory.mktemp("template"))
    workshop.project(files=FILES)
    succeeded(workshop.publish())
    return workshop


@pytest.fixture
def published(template: Workshop, workshop: Workshop) -> Workshop:
    """A workshop with one release in its archive."""
    for name in ("project", "archive"):
        shutil.copytree(template.folder / name, workshop.folder / name)
    return workshop


def make_archive(workshop: Workshop) -> None:
    """Make an archive without a run."""
    workshop.archive.mkdir(exist_ok=True)
    (workshop.archive / ".rmearchive").touch()


def fetched(workshop: Workshop, version: str = "0.1.0") -> Path:
    """Return the folder of a fetched release."""
    return workshop.folder / "fetched" / f"sample-v{version}"


def assert_all_was_fetched(workshop: Workshop, files: dict[str, bytes] = FILES) -> None:
    """Check that the files of the release are here, and nothing that is left over."""
    found = tree(fetched(workshop))
    assert {path: data for path, data in found.items() if data is not None and path != ".rme/record.yml"} == files
    assert ".rme/.partial" not in found


def assert_all_was_published(workshop: Workshop, files: dict[str, bytes] = FILES) -> None:
    """Check that record and blobs are here, and nothing that is left over."""
    assert digests_of_record(workshop) == {path: sha1(data) for path, data in files.items()}
    assert all(workshop.blob_file(data).read_bytes() == data for data in files.values() if data)
    assert_archive_is_sound(workshop.archive)
    assert not (workshop.title_folder() / ".partial").exists()


class TestASourceFileThatDoesNotStay:
    """The digests are frozen at the start of a run; what is uploaded is checked against the file as it is read now."""

    @pytest.mark.parametrize("when", ["before", "after"])
    @pytest.mark.parametrize(
        ("action", "sentence"),
        [
            ("file.write_bytes(b'beto' * 1000)", "changed"),
            ("file.write_bytes(b'beta' * 1001)", "changed"),
            ("file.write_bytes(b'beta')", "changed"),
            ("file.write_bytes(b'')", "changed"),
            ("file.unlink()", "vanished"),
            ("file.unlink(); file.mkdir()", "data/b.bin"),
            ("file.unlink(); os.mkfifo(file)", "data/b.bin"),
            ("file.unlink(); file.symlink_to(file.name)", "symbolic link"),
        ],
        ids=["edited", "grown", "shrunk", "emptied", "vanished", "became-a-folder", "became-a-pipe", "became-a-loop"],
    )
    def test_is_named_and_the_next_run_finishes(
        self, workshop: Workshop, when: str, action: str, sentence: str
    ) -> None:
        workshop.project(files=FILES)
        outcome = publish_with_trouble(workshop, trouble_around_upload(action, when))
        said(outcome, "data/b.bin", sentence)
        assert not workshop.record_file().exists()
        assert workshop.blob_file(b"alpha").read_bytes() == b"alpha"  # the other blobs still moved
        assert_archive_is_sound(workshop.archive)

        source = workshop.folder / "project" / "data" / "b.bin"
        if source.is_dir():
            source.rmdir()
        elif os.path.lexists(source) and not source.is_file():
            source.unlink()
        files = dict(FILES)
        if source.exists():
            files["data/b.bin"] = source.read_bytes()
        else:
            del files["data/b.bin"]
        output = succeeded(workshop.publish(), "Published sample-v0.1.0")
        assert "2 already there" in output or when == "after"
        assert_all_was_published(workshop, files)

    def test_an_empty_file_that_grows_is_noticed_too(self, workshop: Workshop) -> None:
        workshop.project(files=FILES)
        trouble = trouble_around_upload("pathlib.Path('project/empty').write_bytes(b'x')", "before")
        said(publish_with_trouble(workshop, trouble), "empty", "changed")
        assert not workshop.record_file().exists()
        succeeded(workshop.publish())
        assert_all_was_published(workshop, {**FILES, "empty": b"x"})

    def test_a_file_whose_time_stamp_alone_changed_is_no_failure(self, workshop: Workshop) -> None:
        workshop.project(files=FILES)
        succeeded(publish_with_trouble(workshop, trouble_around_upload("os.utime(file, (1, 1))", "before")))
        assert_all_was_published(workshop)

    def test_a_change_of_content_with_size_and_time_put_back_is_noticed(self, workshop: Workshop) -> None:
        workshop.project(files=FILES)
        action = (
            "s = os.stat(file); file.write_bytes(b'beto' * 1000); os.utime(file, ns=(s.st_atime_ns, s.st_mtime_ns))"
        )
        said(publish_with_trouble(workshop, trouble_around_upload(action, "after")), "data/b.bin", "changed")
        assert not workshop.record_file().exists()

    @posix
    def test_an_unreadable_file_is_named_and_the_others_move(self, workshop: Workshop) -> None:
        project = workshop.project(files=FILES)
        (project / "a.txt").chmod(0)
        outcome = run_as_owner_without_privileges(workshop, "PublishRelease", **PUBLISH, create_archive=True)
        said(outcome, "a.txt", "permission is denied")
        assert "3 blobs" in outcome.output
        assert "1 failed" in outcome.output
        assert workshop.blob_file(FILES["data/b.bin"]).exists()
        assert not workshop.record_file().exists()
        (project / "a.txt").chmod(0o600)
        succeeded(workshop.publish(), "1 moved", "2 already there")
        assert_all_was_published(workshop)

    @posix
    def test_an_unreadable_folder_is_named(self, workshop: Workshop) -> None:
        project = workshop.project(files=FILES)
        (project / "data").chmod(0)
        outcome = run_as_owner_without_privileges(workshop, "PublishRelease", **PUBLISH, create_archive=True)
        (project / "data").chmod(0o700)
        said(outcome, "data", "permission is denied")
        succeeded(workshop.publish())

    @posix
    def test_an_unreadable_folder_that_is_ignored_is_in_nobodys_way(self, workshop: Workshop) -> None:
        project = workshop.project(files={**FILES, "private/notes.txt": b"mine"})
        (project / "private").chmod(0)
        options = {**PUBLISH, "create_archive": True, "ignores": "private/"}
        outcome = run_as_owner_without_privileges(workshop, "PublishRelease", **options)
        (project / "private").chmod(0o700)
        succeeded(outcome)
        assert_all_was_published(workshop)

    @posix
    def test_an_unreadable_ignore_file_is_named(self, workshop: Workshop) -> None:
        project = workshop.project(files={**FILES, "data/.gitignore": b"*.tmp\n"})
        (project / "data" / ".gitignore").chmod(0)
        outcome = run_as_owner_without_privileges(workshop, "PublishRelease", **PUBLISH, create_archive=True)
        said(outcome, "data/.gitignore", "permission is denied")

    @posix
    def test_a_dry_run_does_not_keep_quiet_about_an_unreadable_file(self, workshop: Workshop) -> None:
        project = workshop.project(files=FILES)
        (project / "a.txt").chmod(0)
        outcome = run_as_owner_without_privileges(
            workshop, "PublishRelease", **PUBLISH, create_archive=True, dry_run=True
        )
        assert "a.txt" in outcome.output
        assert "Traceback" not in outcome.output


class TestADiskThatDoesNotTakeIt:
    """Full, limited or read-only."""

    LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"

    @posix
    def test_a_blob_that_is_too_large_for_the_archive_does_not_stop_the_others(self, workshop: Workshop) -> None:
        workshop.project(files={**FILES, "big.bin": BIG})
        said(publish_with_trouble(workshop, self.LIMIT), "big.bin", "too large")
        assert not workshop.record_file().exists()
        assert not workshop.blob_file(BIG).exists()
        assert all(workshop.blob_file(data).exists() for data in FILES.values() if data)
        succeeded(workshop.publish(), "1 moved", "3 already there")
        assert_all_was_published(workshop, {**FILES, "big.bin": BIG})

    @posix
    def test_a_blob_that_is_too_large_for_the_destination_does_not_stop_the_others(self, workshop: Workshop) -> None:
        workshop.project(files={**FILES, "big.bin": BIG})
        succeeded(workshop.publish())
        said(run_with_trouble(workshop, self.LIMIT, "FetchRelease", title="sample"), "big.bin", "too large")
        assert not (fetched(workshop) / "big.bin").exists()
        assert (fetched(workshop) / "data" / "b.bin").read_bytes() == FILES["data/b.bin"]
        assert not (fetched(workshop) / ".rme" / "record.yml").exists()
        succeeded(workshop.fetch(), "1 moved", "3 already there")
        assert_all_was_fetched(workshop, {**FILES, "big.bin": BIG})

    @pytest.fixture
    def small_disk(self, workshop: Workshop) -> Iterator[Path]:
        """A disk of 256 kB under the archive."""
        workshop.archive.mkdir()
        with mounted(["-t", "tmpfs", "-o", "size=256k", "tmpfs", str(workshop.archive)], workshop.archive):
            yield workshop.archive

    def test_a_full_disk_is_said_once_and_room_is_all_that_the_next_run_needs(
        self, workshop: Workshop, small_disk: Path
    ) -> None:
        workshop.project(files={**FILES, "big.bin": BIG})
        outcome = workshop.publish()
        assert "the disk is full; make room" in said(outcome, "big.bin")
        assert not workshop.record_file().exists()
        assert_archive_is_sound(small_disk)
        mount("-o", "remount,size=8m", str(small_disk))
        succeeded(workshop.publish(), "Published")
        assert_all_was_published(workshop, {**FILES, "big.bin": BIG})

    def test_a_disk_that_is_full_to_the_last_byte_says_so(self, workshop: Workshop, small_disk: Path) -> None:
        workshop.project(files=FILES)
        make_archive(workshop)
        with contextlib.suppress(OSError), (small_disk / "filling").open("wb", buffering=0) as filling:
            while True:
                filling.write(bytes(4096))
        said(workshop.publish(), "the disk is full; make room")
        assert not workshop.record_file().exists()
        (small_disk / "filling").unlink()
        succeeded(workshop.publish(), "Published")
        assert_all_was_published(workshop)

    def test_a_record_that_finds_the_disk_full_appears_in_the_next_run(self, workshop: Workshop) -> None:
        workshop.project(files=FILES)
        trouble = (
            "import errno\n"
            "def full(self, *args, **kwargs): raise OSError(errno.ENOSPC, 'No space', '/archive/sample.yml')\n"
            "pipeline.FileSystemArchive.upload_release_record = full\n"
        )
        said(publish_with_trouble(workshop, trouble), "/archive: the disk is full; make room")
        assert not workshop.record_file().exists()
        succeeded(workshop.publish(), "0 moved", "3 already there")
        assert_all_was_published(workshop)

    @posix
    def test_an_archive_without_the_right_to_write_is_named(self, workshop: Workshop) -> None:
        workshop.project(files=FILES)
        make_archive(workshop)
        workshop.archive.chmod(0o500)
        outcome = run_as_owner_without_privileges(workshop, "PublishRelease", **PUBLISH)
        workshop.archive.chmod(0o700)
        said(outcome, str(workshop.archive), "permission is denied")
        succeeded(workshop.publish())
        assert_all_was_published(workshop)

    @posix
    def test_an_archive_without_the_right_to_write_can_be_fetched_from(self, published: Workshop) -> None:
        folders = [published.archive, *(path for path in published.archive.rglob("*") if path.is_dir())]
        for folder in folders:
            folder.chmod(0o500)
        before = tree(published.archive)
        outcome = run_as_owner_without_privileges(published, "FetchRelease", title="sample")
        for folder in folders:
            folder.chmod(0o700)
        succeeded(outcome)
        assert_all_was_fetched(published)
        assert tree(published.archive) == before

    @posix
    def test_blobs_without_the_right_to_look_are_one_sentence(self, published: Workshop) -> None:
        blobs = published.title_folder() / "blobs"
        blobs.chmod(0)
        again = run_as_owner_without_privileges(published, "PublishRelease", **PUBLISH)
        other = run_as_owner_without_privileges(published, "PublishRelease", **{**PUBLISH, "release_version": "0.2.0"})
        dry = run_as_owner_without_privileges(
            published, "PublishRelease", **{**PUBLISH, "release_version": "0.2.0"}, dry_run=True
        )
        blobs.chmod(0o700)
        for outcome in (again, other, dry):
            said(outcome, "blobs", "permission is denied")

    @posix
    def test_a_destination_without_the_right_to_write_is_named(self, published: Workshop) -> None:
        destination = published.folder / "fetched"
        destination.mkdir(mode=0o500)
        outcome = run_as_owner_without_privileges(published, "FetchRelease", title="sample")
        destination.chmod(0o700)
        said(outcome, "fetched", "permission is denied")
        succeeded(published.fetch())
        assert_all_was_fetched(published)

    def test_a_read_only_disk_is_named(self, published: Workshop) -> None:
        (published.folder / "project" / "new.txt").write_bytes(b"new")
        archive = str(published.archive)
        with mounted(["--bind", archive, archive], published.archive):
            mount("-o", "remount,ro,bind", archive)
            said(published.publish(version="0.2.0"), "the file system is read-only; make it writable")
            succeeded(published.fetch(), "Fetched")
        succeeded(published.publish(version="0.2.0"), "1 moved", "3 already there")


def mount(*arguments: str) -> None:
    """Mount something, or skip the test where that is not allowed."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root on Linux can mount a small disk")
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")


@contextlib.contextmanager
def mounted(arguments: list[str], folder: Path) -> Iterator[None]:
    """Mount something on a folder as long as the context lasts."""
    mount(*arguments)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


class TestAnArchiveThatIsNotWhole:
    """Blobs and records that somebody lost or damaged."""

    @pytest.mark.parametrize(
        ("damage", "sentence"),
        [
            (lambda blob: blob.unlink(), "missing"),
            (lambda blob: blob.write_bytes(b"beto" * 1000), "damaged"),
            (lambda blob: blob.write_bytes(b"beta"), "damaged"),
            (lambda blob: blob.write_bytes(b""), "damaged"),
            (lambda blob: blob.write_bytes(b"beta" * 5000), "damaged"),
            (lambda blob: (blob.unlink(), blob.mkdir()), "missing"),
            (lambda blob: (blob.unlink(), os.mkfifo(blob)), "missing"),
            (lambda blob: shutil.rmtree(blob.parent), "missing"),
            (lambda blob: (shutil.rmtree(blob.parent), blob.parent.write_bytes(b"")), "missing"),
        ],
        ids=["missing", "edited", "cut", "emptied", "grown", "a-folder", "a-pipe", "no-folder", "folder-is-a-file"],
    )
    def test_a_blob_that_is_not_itself_is_named_and_fetched_when_restored(
        self, published: Workshop, damage, sentence: str
    ) -> None:
        blob = published.blob_file(FILES["data/b.bin"])
        damage(blob)
        outcome = published.fetch()
        said(outcome, "data/b.bin", sentence, blob.name)
        assert "2 moved" in outcome.output
        assert "1 failed" in outcome.output
        found = tree(fetched(published))
        assert found["a.txt"] == b"alpha"
        assert "data/b.bin" not in found
        assert ".rme/record.yml" not in found

        if blob.parent.is_file():
            blob.parent.unlink()
        elif blob.is_dir():
            blob.rmdir()
        elif blob.exists() and not blob.is_file():
            blob.unlink()
        blob.parent.mkdir(exist_ok=True)
        blob.write_bytes(FILES["data/b.bin"])
        succeeded(published.fetch(), "1 moved", "2 already there")
        assert_all_was_fetched(published)

    @pytest.mark.parametrize("levels", [0, 1, 2, 3], ids=["fan-out", "blobs", "title", "workspace"])
    def test_a_link_into_nowhere_among_its_folders_is_named(self, workshop: Workshop, levels: int) -> None:
        workshop.project(files=FILES)
        make_archive(workshop)
        folder = workshop.blob_file(b"alpha").parents[levels]
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.symlink_to("nowhere")
        said(workshop.publish(), "a.txt", str(folder), "it is a symbolic link")
        folder.unlink()
        succeeded(workshop.publish())
        assert workshop.blob_file(b"alpha").read_bytes() == b"alpha"

    def test_what_was_fetched_stays_when_its_blob_is_lost(self, published: Workshop) -> None:
        succeeded(published.fetch())
        published.blob_file(b"alpha").unlink()
        succeeded(published.fetch(), "Nothing to do")
        (fetched(published) / "data" / "b.bin").write_bytes(b"edited")
        succeeded(published.fetch(), "1 moved")
        assert_all_was_fetched(published)

    def test_publishing_again_restores_a_lost_or_cut_blob(self, published: Workshop) -> None:
        published.blob_file(b"alpha").unlink()
        published.blob_file(FILES["data/b.bin"]).write_bytes(b"beta")
        record = published.record_file().read_bytes()
        succeeded(published.publish(), "2 moved", "1 already there")
        assert_all_was_published(published)
        assert published.record_file().read_bytes() == record

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\x00\x01\x02",
            b"\xff\xfe\x00",
            b"{",
            b"[]",
            b"just text",
            b"{}",
            b'{"project": []}',
            b"!!python/object/apply:os.system ['touch pwned']",
            b"a: !!python/name:os.system",
            b"x: !!bool maybe",
            b"x: !!int ''",
            b"x: !!float ''",
            b"x: !!timestamp never",
            b"x: !!binary '%'",
            b"? {a: b}\n: c",
            b"&a [*a]",
            b"{[[[[",
            b"[" * 20_000,
            b"- " * 20_000 + b"x",
            b"{a: " * 20_000,
            b"x: *nobody",
            b"--- 1\n--- 2\n",
            b"x: 2026-99-99",
        ],
        ids=repr,
    )
    def test_a_damaged_record_is_refused_by_the_interface(
        self, published: Workshop, content: bytes, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        archive = interface(published)
        published.record_file().write_bytes(content)
        with pytest.raises(RecordError, match=r"sample-v0\.1\.0\.yml"):
            archive.get_release_records("sample")
        assert not Path("pwned").exists()

    @pytest.mark.parametrize(
        "damage",
        [
            lambda data: data[: len(data) // 2],
            lambda data: data.replace(b'"sample-v0.1.0"', b'"sample-v0.2.0"'),
            lambda data: data.replace(b'"0.1.0"', b'"0.2.0"'),
            lambda data: data.replace(b'"sample"', b'"other"'),
            lambda data: data.replace(sha1(b"alpha").encode(), b"x"),
            lambda data: data.replace(b'"/bytes/": 5', b'"/bytes/": -5'),
            lambda data: data.replace(b'"/bytes/": 5', b'"/bytes/": "5"'),
            lambda data: data.replace(b'"/bytes/": 5', b'"/bytes/": 1e99'),
            lambda data: b"x: !!bool maybe",
            lambda data: b"project: !!python/object/apply:os.system ['touch pwned']",
        ],
        ids=["cut", "title", "version", "versionless", "digest", "negative", "text", "huge", "bool", "python"],
    )
    def test_a_damaged_record_is_one_sentence_for_those_who_fetch_it(self, published: Workshop, damage) -> None:
        record = published.record_file()
        good = record.read_bytes()
        assert damage(good) != good
        record.write_bytes(damage(good))
        said(published.fetch(), record.name)
        assert not (published.folder / "fetched").exists()
        assert not (published.folder / "pwned").exists()
        record.write_bytes(good)
        succeeded(published.fetch())
        assert_all_was_fetched(published)

    def test_a_damaged_record_does_not_stop_other_versions(self, published: Workshop) -> None:
        succeeded(published.publish(version="0.2.0"))
        published.record_file("0.2.0").write_bytes(b"{")
        said(published.fetch(), "sample-v0.2.0.yml")
        succeeded(published.fetch(versions="<0.2.0"))
        assert_all_was_fetched(published)
        succeeded(published.publish(version="0.3.0"), "3 already there")
        said(published.publish(version="0.2.0"), "sample-v0.2.0.yml")

    def test_a_folder_under_the_name_of_a_record_is_one_sentence(self, published: Workshop) -> None:
        published.record_file("9.0.0").mkdir()
        said(published.fetch(), "sample-v9.0.0.yml")

    @pytest.mark.parametrize("task", ["PublishRelease", "dry"])
    def test_a_file_where_the_blobs_belong_is_one_sentence(self, published: Workshop, task: str) -> None:
        blobs = published.title_folder() / "blobs"
        shutil.rmtree(blobs)
        blobs.write_bytes(b"")
        said(published.publish(version="0.2.0", dry_run=task == "dry"), "blobs", "folder")
        blobs.unlink()
        succeeded(published.publish(version="0.2.0"))

    def test_a_file_where_the_title_belongs_is_one_sentence(self, workshop: Workshop) -> None:
        workshop.project(files=FILES)
        make_archive(workshop)
        workshop.title_folder().parent.mkdir()
        workshop.title_folder().write_bytes(b"")
        said(workshop.publish(), "sample", "file stands where a folder belongs")

    def test_a_folder_where_a_fetched_file_belongs_is_named(self, published: Workshop) -> None:
        (fetched(published) / "a.txt").mkdir(parents=True)
        sentence = said(published.fetch(), "a.txt", "a folder stands where a file belongs")
        assert ".part:" not in sentence, "the message must name what stands in the way, not the part"
        (fetched(published) / "a.txt").rmdir()
        succeeded(published.fetch(), "1 moved")
        assert_all_was_fetched(published)

    def test_a_folder_where_an_empty_file_belongs_is_named(self, published: Workshop) -> None:
        (fetched(published) / "empty").mkdir(parents=True)
        sentence = said(published.fetch(), "empty", "a folder stands where a file belongs")
        assert ".part:" not in sentence, "the message must name what stands in the way, not the part"
        (fetched(published) / "empty").rmdir()
        succeeded(published.fetch())
        assert_all_was_fetched(published)

    def test_a_file_where_a_fetched_folder_belongs_is_named(self, published: Workshop) -> None:
        fetched(published).mkdir(parents=True)
        (fetched(published) / "data").write_bytes(b"in the way")
        said(published.fetch(), "data", "a file stands where a folder belongs")
        assert (fetched(published) / "data").read_bytes() == b"in the way"
        (fetched(published) / "data").unlink()
        succeeded(published.fetch())
        assert_all_was_fetched(published)

    def test_a_file_where_the_destination_belongs_is_named(self, published: Workshop) -> None:
        (published.folder / "fetched").write_bytes(b"")
        said(published.fetch(), "fetched", "a file stands where a folder belongs")


def interface(workshop: Workshop):
    """Return the workshop's archive."""
    from pipeline.archive_interface import FileSystemArchive

    return FileSystemArchive(workshop.archive)


class TestALocalFileThatIsEdited:
    """A fetched folder is checked whenever the release is fetched again."""

    def test_an_edit_during_the_fetching_of_other_files_is_noticed_by_the_next_run(self, published: Workshop) -> None:
        succeeded(published.fetch())
        (fetched(published) / "data" / "b.bin").unlink()
        trouble = (
            "import pathlib, time\n"
            "fetch = pipeline.FileSystemArchive.open_blob\n"
            "def editing(self, *args, **kwargs):\n"
            "    pathlib.Path('fetched/sample-v0.1.0/a.txt').write_bytes(b'ALPHA')\n"
            "    return fetch(self, *args, **kwargs)\n"
            "pipeline.FileSystemArchive.open_blob = editing\n"
            "now = time.time_ns\n"
            "time.time_ns = lambda: now() + 10**10  # as if the fetching went on for ten seconds\n"
        )
        outcome = run_with_trouble(published, trouble, "FetchRelease", title="sample")
        assert "Traceback" not in outcome.output
        assert (fetched(published) / "a.txt").read_bytes() == b"ALPHA"
        succeeded(published.fetch(), "1 moved")
        assert_all_was_fetched(published)

    @pytest.mark.parametrize("content", [b"ALPHA", b"alph", b"alphabet", b"", None])
    def test_an_edited_file_is_fetched_again(self, published: Workshop, content: bytes | None) -> None:
        succeeded(published.fetch())
        file = fetched(published) / "a.txt"
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        succeeded(published.fetch(), "1 moved", "2 already there")
        assert_all_was_fetched(published)
        succeeded(published.fetch(), "Nothing to do")

    @pytest.mark.parametrize("content", [b"x", None])
    def test_an_edited_empty_file_is_fetched_again(self, published: Workshop, content: bytes | None) -> None:
        succeeded(published.fetch())
        (fetched(published) / "empty").unlink()
        if content is not None:
            (fetched(published) / "empty").write_bytes(content)
        succeeded(published.fetch(), "0 moved")
        assert_all_was_fetched(published)

    @pytest.mark.parametrize("content", [b"{}", None])
    def test_an_edited_record_is_written_again(self, published: Workshop, content: bytes | None) -> None:
        succeeded(published.fetch())
        record = fetched(published) / ".rme" / "record.yml"
        record.unlink()
        if content is not None:
            record.write_bytes(content)
        succeeded(published.fetch(), "0 moved")
        assert record.read_bytes() == published.record_file().read_bytes()


class TestACacheOfDigestsThatIsDamaged:
    """It costs only time."""

    @staticmethod
    def filled_cache(workshop: Workshop) -> Path:
        """Publish version 0.1.0 and return the cache that knows its digests."""
        workshop.project(files=FILES)
        hours_later = "import time; now = time.time_ns; time.time_ns = lambda: now() + 10**13"
        succeeded(publish_with_trouble(workshop, hours_later))
        file = workshop.folder / "cache" / "digests-2.sqlite3"
        known = HashCache(file).load(workshop.folder / "project")
        assert len(known) == len(FILES), "nothing was cached: a useless test"
        return file

    @pytest.mark.parametrize(
        "damage",
        [
            lambda file: file.write_bytes(b"not a database, but long enough to be taken for one" * 100),
            lambda file: file.write_bytes(b""),
            lambda file: file.write_bytes(file.read_bytes()[:5000]),
            lambda file: (file.unlink(), file.mkdir()),
            lambda file: (shutil.rmtree(file.parent), file.parent.write_bytes(b"")),
            lambda file: execute(file, "DROP TABLE digests", "CREATE TABLE digests (something TEXT)"),
        ],
        ids=[
            "garbage",
            "emptied",
            "cut",
            "a-folder",
            "no-folder",
            "other-table",
        ],
    )
    def test_publishing_and_fetching_go_on(self, workshop: Workshop, damage) -> None:
        file = self.filled_cache(workshop)
        damage(file)
        succeeded(workshop.publish(version="0.2.0"), "Published")
        assert digests_of_record(workshop, "0.2.0") == {path: sha1(data) for path, data in FILES.items()}
        succeeded(workshop.fetch(), "Fetched")
        assert_archive_is_sound(workshop.archive)

    @pytest.mark.parametrize("value", ["'x'", "NULL", "x'ff00'", f"'{'0' * 40}'", "-1"])
    def test_publishing_goes_on_whichever_field_is_wrong(self, workshop: Workshop, value: str) -> None:
        file = self.filled_cache(workshop)
        good = file.read_bytes()
        columns = [row[1] for row in execute(file, "PRAGMA table_info(digests)")]
        for number, column in enumerate(columns):
            file.write_bytes(good)
            execute(file, f"UPDATE OR IGNORE digests SET {column} = {value}")
            version = f"1.{number}.0"
            succeeded(workshop.publish(version=version), "Published")
            assert digests_of_record(workshop, version) == {path: sha1(data) for path, data in FILES.items()}, column

    def test_a_bit_that_flips_in_it_is_never_believed(self, tmp_path: Path) -> None:
        """Every entry that is loaded is an entry that was stored, whichever bit of the file is wrong."""
        stored = {
            f"data/{number}.bin": (Stamp(number, 10**15 + number, 10**15, 7), sha1(bytes([number])))
            for number in range(1, 4)
        }
        original, file = tmp_path / "original", tmp_path / "cache"
        HashCache(original).store(tmp_path, [(path, stamp, digest) for path, (stamp, digest) in stored.items()])
        assert HashCache(original).load(tmp_path) == stored
        good = original.read_bytes()
        interesting = [place for place, byte in enumerate(good) if byte]
        for place in interesting:
            damaged = bytearray(good)
            damaged[place] ^= 1
            file.write_bytes(damaged)
            for path, (stamp, digest) in HashCache(file).load(tmp_path).items():
                # A wrong stamp is harmless: no file has it. A wrong digest for a right stamp is a wrong record.
                assert path not in stored or stored[path][0] != stamp or stored[path][1] == digest, place


def execute(file: Path, *statements: str) -> list[tuple]:
    """Run SQL on a database."""
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        return [row for statement in statements for row in connection.execute(statement)]


class TestWhatTheUserGotWrong:
    """One sentence, a code that is not zero, and nothing has changed."""

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"release_version": "1.0"}, ["--release-version", "1.0"]),
            ({"release_version": "v1.0.0"}, ["--release-version"]),
            ({"release_version": "1.0.0/../../x"}, ["--release-version"]),
            ({"release_version": "1.0." + "9" * 300}, ["characters"]),
            ({"release_version": None}, ["--release-version"]),
            ({"title": None}, ["--title"]),
            ({"title": "9lives"}, ["9lives", "not valid"]),
            ({"title": "../x"}, ["../x", "not valid"]),
            ({"title": "SELF"}, ["SELF", "not valid"]),
            ({"title": "größe"}, ["größe", "not valid"]),
            ({"workspace": "../x"}, ["../x", "workspace"]),
            ({"workspace": ".x"}, [".x", "workspace"]),
            ({"workspace": " "}, ["workspace"]),
            ({"workspace": "a/b"}, ["a/b", "workspace"]),
            ({"workspace": "w" * 300}, ["workspace"]),
            ({"project_directory": "no/such/folder"}, ["no/such/folder", "--project-directory"]),
            ({"project_directory": "luigi.cfg"}, ["luigi.cfg", "--project-directory"]),
            ({"project_directory": "~nosuchuser/project"}, ["~nosuchuser"]),
            ({"release_file": "no.yml"}, ["no.yml", "--release-file"]),
            ({"release_file": "project"}, ["project"]),
            ({"release_file": "loop"}, ["loop"]),
            ({"archive": "arhcive"}, ["arhcive", "CreateArchive"]),
            ({"archive": "project"}, ["project", "not an archive"]),
            ({"archive": "luigi.cfg"}, ["luigi.cfg"]),
            ({"archive": "luigi.cfg/x"}, ["luigi.cfg"]),
            ({"archive": "~nosuchuser/archive"}, ["~nosuchuser"]),
            ({"archive": "loop"}, ["loop"]),
            ({"archive": "x" * 300}, ["xxx"]),
            ({"archive": "https://archive.example.org/"}, ["https://archive.example.org"]),
            ({"repeat_release": True}, ["--repeat-release"]),
        ],
        ids=lambda value: ",".join(f"{k}={str(v)[:20]}" for k, v in value.items()) if isinstance(value, dict) else "",
    )
    def test_publishing(self, workshop: Workshop, options: dict[str, object], words: list[str]) -> None:
        workshop.project(files=FILES)
        make_archive(workshop)
        (workshop.folder / "loop").symlink_to("loop")
        before = names(workshop)
        said(workshop.run("PublishRelease", **{**PUBLISH, **options}), *words)
        assert names(workshop) == before

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"title": None}, ["--title"]),
            ({"title": "nothing"}, ["no release nothing", "Global Public Workspace"]),
            ({"title": "../sample"}, ["../sample", "not valid"]),
            ({"versions": ">=9.0.0"}, ["sample", ">=9.0.0"]),
            ({"versions": ">=0.1"}, [">=0.1", "not semantic"]),
            ({"versions": "~1.0.0"}, ["~1.0.0"]),
            ({"versions": "=>1.0.0"}, ["=>1.0.0"]),
            ({"versions": "newest"}, ["newest"]),
            ({"versions": ">"}, ["not semantic"]),
            ({"workspace": "elsewhere"}, ["sample", "elsewhere"]),
            ({"workspace": "../x"}, ["../x", "workspace"]),
            ({"archive": "arhcive"}, ["arhcive", "not an archive"]),
            ({"archive": "~nosuchuser/archive"}, ["~nosuchuser"]),
            ({"archive": "ftp://archive.example.org/"}, ["ftp://archive.example.org", "--archive"]),
            ({"destination": "~nosuchuser/x"}, ["~nosuchuser"]),
            ({"destination": "luigi.cfg"}, ["luigi.cfg"]),
        ],
        ids=lambda value: ",".join(f"{k}={str(v)[:20]}" for k, v in value.items()) if isinstance(value, dict) else "",
    )
    def test_fetching(self, published: Workshop, options: dict[str, object], words: list[str]) -> None:
        before = names(published)
        said(published.run("FetchRelease", **{"title": "sample", **options}), *words)
        assert names(published) == before

    @pytest.mark.parametrize(
        ("task", "option"), [("PublishRelease", "--project-directory"), ("CreateArchive", "--archive")]
    )
    def test_what_is_named_neither_in_the_command_nor_in_the_configuration_is_asked_for(
        self, workshop: Workshop, task: str, option: str
    ) -> None:
        config = workshop.folder / "luigi.cfg"
        config.write_text(config.read_text("utf-8").replace(f"[{task}]", "[nothing]"), "utf-8")
        before = names(workshop)
        said(workshop.run(task), option)
        assert names(workshop) == before

    def test_an_invalid_workspace_does_not_make_an_archive_first(self, workshop: Workshop) -> None:
        workshop.project(files=FILES)
        said(workshop.publish(workspace="../x", create_archive=True), "workspace")
        assert not workshop.archive.exists()

    def test_an_unknown_option_is_refused_by_name(self, workshop: Workshop) -> None:
        outcome = workshop.publish(relaese_version="0.1.0")
        assert outcome.code != 0
        assert "Traceback" not in outcome.output
        assert "--relaese-version" in outcome.output

    @pytest.mark.parametrize("threads", ["0", "-3", "many"])
    def test_a_senseless_number_of_threads_is_refused_by_name(self, workshop: Workshop, threads: str) -> None:
        workshop.project(files=FILES)
        text = (workshop.folder / "luigi.cfg").read_text("utf-8")
        (workshop.folder / "luigi.cfg").write_text(f"{text}\nthreads = {threads}\n", "utf-8")
        said(workshop.publish(), "threads")

    @pytest.mark.parametrize(
        ("task", "options"),
        [
            ("UploadBlob", {"blobs": "0", "path": "x"}),
            ("UnreadableFile", {"path": "x"}),
            ("UploadReleaseRecord", {}),
        ],
    )
    def test_a_part_of_the_graph_that_is_run_alone_is_one_sentence(
        self, workshop: Workshop, task: str, options: dict[str, object]
    ) -> None:
        outcome = workshop.run(task, release="x", manifest="0" * 40, **options)
        assert outcome.code != 0
        assert "run PublishRelease, FetchRelease or MirrorRelease, not its parts" in outcome.output
        assert "Traceback" not in outcome.output

    def test_an_existing_version_with_other_content_stays_as_it_is(self, published: Workshop) -> None:
        before = tree(published.archive)
        (published.folder / "project" / "a.txt").write_bytes(b"other")
        said(published.publish(), "sample-v0.1.0", "already", "--release-version")
        said(published.publish(dry_run=True), "sample-v0.1.0", "already", "--release-version")
        assert tree(published.archive) == before

    def test_the_same_content_again_is_nothing_to_do(self, published: Workshop) -> None:
        before = tree(published.archive)
        succeeded(published.publish(), "Nothing to do", "sample-v0.1.0.yml")
        assert tree(published.archive) == before


def names(workshop: Workshop) -> list[str]:
    """Return the names of everything in the workshop but the cache, without following links."""
    found = []
    for folder, folders, files in os.walk(workshop.folder):
        if folder == str(workshop.folder) and "cache" in folders:
            folders.remove("cache")
        found += [os.path.join(folder, name) for name in (*folders, *files)]
    return sorted(found)


class TestTypingErrorsDoNotMakeArchives:
    """A folder becomes an archive only when somebody says so."""

    @pytest.mark.parametrize("exists", [False, True])
    def test_a_folder_that_is_no_archive_is_refused_with_the_remedy(self, workshop: Workshop, exists: bool) -> None:
        workshop.project(files=FILES)
        if exists:
            workshop.archive.mkdir()
        said(workshop.publish(create_archive=False), str(workshop.archive), "CreateArchive")
        assert workshop.archive.exists() == exists
        assert not exists or not any(workshop.archive.iterdir())

    def test_create_archive_is_a_task(self, workshop: Workshop) -> None:
        succeeded(workshop.run("CreateArchive", archive="deep/new"), "deep/new is an archive now")
        assert tree(workshop.folder / "deep") == {"new": None, "new/.rmearchive": b""}
        succeeded(workshop.run("CreateArchive", archive="deep/new"), "Nothing to do")
        assert tree(workshop.folder / "deep") == {"new": None, "new/.rmearchive": b""}

    def test_create_archive_understands_the_home_folder_and_aliases(self, workshop: Workshop) -> None:
        workshop.environment["HOME"] = str(workshop.folder)
        config = (workshop.folder / "luigi.cfg").read_text("utf-8")
        (workshop.folder / "luigi.cfg").write_text(config.replace("[archives]", "[archives]\nours = ~/theirs"), "utf-8")
        succeeded(workshop.run("CreateArchive", archive="ours"), "is an archive now")
        assert (workshop.folder / "theirs" / ".rmearchive").is_file()
        succeeded(workshop.run("CreateArchive", archive="ours"), "Nothing to do")
        workshop.project(files=FILES)
        succeeded(workshop.publish(archive="ours", create_archive=False), "theirs")
        assert not workshop.archive.exists()

    @pytest.mark.parametrize(
        "archive", ["luigi.cfg", "luigi.cfg/below", "https://archive.example.org", "~nosuchuser/x", "x" * 300, "loop"]
    )
    def test_create_archive_refuses_what_cannot_be_one(self, workshop: Workshop, archive: str) -> None:
        (workshop.folder / "loop").symlink_to("loop")
        before = names(workshop)
        said(workshop.run("CreateArchive", archive=archive), archive[:200])
        assert names(workshop) == before

    def test_create_archive_repeats_no_secret(self, workshop: Workshop) -> None:
        assert "geheim" not in said(
            workshop.run("CreateArchive", archive="https://alice:geheim@localhost:1/"), "leave it out and give --user"
        )

    def test_publishing_into_the_project_itself_is_refused(self, workshop: Workshop) -> None:
        project = workshop.project(files=FILES)
        said(workshop.publish(archive="project"), "project")
        assert {path: data for path, data in tree(project).items() if data} == {p: d for p, d in FILES.items() if d}

    def test_an_archive_inside_the_project_is_not_published(self, workshop: Workshop) -> None:
        workshop.project(files=FILES)
        succeeded(workshop.publish(archive="project/archive"))
        succeeded(workshop.publish(archive="project/archive"), "Nothing to do")
        succeeded(workshop.publish(archive="project/archive", version="0.2.0"), "0 moved")


class TestDryRuns:
    """They say blobs, bytes and what is there, and change nothing."""

    @staticmethod
    def all_but_cache(workshop: Workshop) -> dict[str, bytes | None]:
        return {path: data for path, data in tree(workshop.folder).items() if not path.startswith("cache")}

    def test_publishing_into_an_archive_that_is_not_made_yet(self, workshop: Workshop) -> None:
        workshop.project(files=FILES)
        before = self.all_but_cache(workshop)
        succeeded(
            workshop.publish(dry_run=True), "3 of 3 blobs would move", "(4.0 kB of 4.0 kB)", "0 are already there"
        )
        assert self.all_but_cache(workshop) == before

    def test_publishing_what_is_partly_there(self, published: Workshop) -> None:
        (published.folder / "project" / "new").write_bytes(b"7 bytes")
        before = self.all_but_cache(published)
        output = succeeded(published.publish(version="0.2.0", dry_run=True), "sample-v0.2.0")
        assert "1 of 4 blobs would move (7 B of 4.0 kB), 3 are already there" in output
        assert self.all_but_cache(published) == before

    def test_publishing_what_is_published(self, published: Workshop) -> None:
        before = self.all_but_cache(published)
        succeeded(published.publish(dry_run=True), "0 of 3 blobs would move")
        assert self.all_but_cache(published) == before

    def test_fetching_all(self, published: Workshop) -> None:
        before = self.all_but_cache(published)
        succeeded(published.fetch(dry_run=True), "3 of 3 blobs would move (4.0 kB of 4.0 kB)", "0 are already there")
        assert self.all_but_cache(published) == before

    def test_fetching_what_is_partly_here(self, published: Workshop) -> None:
        succeeded(published.fetch())
        (fetched(published) / "a.txt").write_bytes(b"edite")
        before = self.all_but_cache(published)
        succeeded(published.fetch(dry_run=True), "1 of 3 blobs would move (5 B of 4.0 kB), 2 are already there")
        assert self.all_but_cache(published) == before

    def test_a_dry_run_that_would_fail_fails(self, published: Workshop) -> None:
        said(published.fetch(dry_run=True, versions=">5.0.0"), ">5.0.0")
        said(published.publish(dry_run=True, version="1"), "--release-version")


BAD_RELEASE_FILES = {
    "text": "just text",
    "list": "[1, 2]",
    "number": "3",
    "broken": "release: [",
    "tab": "release:\n\ttitle: x",
    "not-utf-8": b"\xff\xfe\x00",
    "nul": b"a: \x00",
    "release-is-text": "release: sample",
    "release-is-a-list": "release: []",
    "title-is-a-number": "release: {title: 3}",
    "title-is-a-list": "release: {title: [a]}",
    "version-is-a-number": "release: {version: 1.0}",
    "version-is-a-date": "release: {version: 2026-01-01}",
    "ignores-is-text": "release: {ignores: '*.tmp'}",
    "ignores-has-a-number": "release: {ignores: [3]}",
    "includes-is-a-mapping": "release: {includes: {a: b}}",
    "datasets-is-a-list": "datasets: [a]",
    "datasets-has-a-number": "datasets: {a: 3}",
    "requirements-is-text": "requires-releases: a>=1",
    "requirements-has-a-mapping": "requires-releases: [{a: b}]",
    "python-tag": "x: !!python/object/apply:os.system ['touch pwned']",
    "unknown-tag": "x: !mine y",
    "not-a-number": "x: .nan",
    "infinite": "x: [.inf]",
    "set": "x: !!set {a, b}",
    "binary": "x: !!binary aGVsbG8=",
    "bool-tag": "x: !!bool maybe",
    "int-tag": "x: !!int ''",
    "float-tag": "x: !!float ''",
    "timestamp-tag": "x: !!timestamp never",
    "no-such-date": "x: 2026-99-99",
    "recursive": "x: &a [*a]",
    "recursive-mapping": "x: &a {b: *a}",
    "unhashable-key": "? {a: b}\n: c",
    "unknown-alias": "x: *nobody",
    "deep-list": "x: " + "[" * 3000 + "]" * 3000,
    "deep-json": "[" * 20_000,
    "deep-block": "- " * 3000 + "x",
    "surrogate": 'x: "\\ud800"',
    "surrogate-in-json": '{"x": "\\ud800"}',
    "huge-number": "x: 1" + "0" * 5000,
    "long-key": "? " + "k" * 2000 + "\n: value",
    "wrong-title": "release: {title: '../x', version: 0.1.0}",
    "wrong-version": "release: {title: x, version: '1'}",
}


YAML_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.dates(min_value=datetime.date(1, 1, 1))
    | st.datetimes()
    | st.binary(max_size=5),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.text() | st.integers() | st.booleans() | st.none() | st.dates(), children, max_size=3)
    ),
    max_leaves=8,
)


class TestAReleaseFileThatIsWrong:
    """Whatever is in it, it is one sentence that names the file or the field."""

    @pytest.mark.parametrize("content", BAD_RELEASE_FILES.values(), ids=BAD_RELEASE_FILES)
    def test_is_one_sentence(self, workshop: Workshop, content: str | bytes) -> None:
        project = workshop.project(files=FILES)
        (project / "release.yml").write_bytes(content if isinstance(content, bytes) else content.encode())
        make_archive(workshop)
        # The version is in the command only where it is not the file that must give it.
        given = b"version: '1'" in (project / "release.yml").read_bytes()
        options = {} if given or b"../x" in (project / "release.yml").read_bytes() else PUBLISH
        said(workshop.run("PublishRelease", **{"project_directory": "project", **options}))
        assert tree(workshop.archive) == {".rmearchive": b""}
        assert not (workshop.folder / "pwned").exists()

    @posix
    def test_a_pipe_is_not_waited_for(self, workshop: Workshop) -> None:
        project = workshop.project(files=FILES)
        os.mkfifo(project / "release.yml")

        def give_up(*_: object) -> None:
            raise AssertionError("reading the release file waits for ever")

        before = signal.signal(signal.SIGALRM, give_up)
        signal.alarm(5)
        try:
            with pytest.raises(PipelineError, match=r"release\.yml"):
                read_release_file(project)
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)

    @posix
    @pytest.mark.parametrize("lines", [9, 7])
    def test_aliases_do_not_make_a_small_file_a_huge_record(self, workshop: Workshop, lines: int) -> None:
        """The "billion laughs": each line names the one before it ten times."""
        project = workshop.project(files={"a.txt": b"alpha", "release.yml": laughs(lines).encode()})
        assert (project / "release.yml").stat().st_size < 1000
        limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30)); "
        limit += "resource.setrlimit(resource.RLIMIT_CPU, (20, 20))"
        said(publish_with_trouble(workshop, limit))

    @pytest.mark.parametrize("content", ["", "# nothing\n", "release:\n", "{}", "datasets:\n", "null"])
    def test_an_empty_one_is_as_good_as_none(self, workshop: Workshop, content: str) -> None:
        workshop.project(files={"a.txt": b"alpha", "release.yml": content.encode()})
        succeeded(workshop.publish(), "Published")

    @pytest.mark.parametrize(
        "content",
        [
            "1: one",
            "true: yes",
            "2026-03-02: a day",
            "null: nothing",
            "1.5: a number",
            "x: {1: one, true: yes, null: no, 2026-01-01: day}",
            "x: 2026-03-02\ny: 2026-03-02T12:00:00Z",
            "x: &a {b: c}\ny: *a",
            "x: [1, 2.5, -0.0, 1e300, 0x10, 0o7, ~, yes, 12:30:00]",
            'x: "\\x85 \\u2028 \\ufeff \\x7f \\0"',
        ],
        ids=lambda content: content[:20],
    )
    def test_odd_but_good_yaml_is_kept_and_published_once(self, workshop: Workshop, content: str) -> None:
        workshop.project(files={"a.txt": b"alpha", "release.yml": content.encode()})
        succeeded(workshop.publish(), "Published")
        succeeded(workshop.publish(), "Nothing to do")
        record = workshop.record_file().read_bytes()
        assert yaml.safe_load(record) == json.loads(record)
        succeeded(workshop.fetch(), "Fetched")
        succeeded(workshop.fetch(), "Nothing to do")

    @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        content=st.dictionaries(
            st.sampled_from(["release", "datasets", "requires-releases", "x"]) | st.text(max_size=5) | st.integers(),
            YAML_VALUES
            | st.fixed_dictionaries(
                {}, optional=dict.fromkeys(("title", "version", "ignores", "includes"), YAML_VALUES)
            ),
            max_size=4,
        )
    )
    def test_any_yaml_is_either_a_sentence_or_survives_the_way_through_a_record(self, tmp_path, content) -> None:
        (tmp_path / "release.yml").write_text(yaml.safe_dump(content, allow_unicode=True), "utf-8")
        assert_sentence_or_stable(tmp_path)

    @settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        text=st.lists(
            st.sampled_from(
                [
                    "release",
                    "title",
                    "x",
                    ": ",
                    ":\n  ",
                    "- ",
                    "\n",
                    "[",
                    "]",
                    "{",
                    "}",
                    ", ",
                    "'",
                    '"',
                    "&a ",
                    "*a",
                    "!!bool ",
                    "!!int ",
                    "!!float ",
                    "!!set ",
                    "!!timestamp ",
                    "!!null ",
                    "!!omap ",
                    "!!pairs ",
                    "!",
                    "|",
                    "<<: ",
                    "? ",
                    "%YAML 1.1",
                    "---\n",
                    "...",
                    "#",
                    "~",
                    "1",
                    "1.5",
                    ".nan",
                    "2026-01-01",
                    "\t",
                    "\\u",
                    "=",
                ]
            ),
            max_size=14,
        ).map("".join)
        | st.text(max_size=30)
    )
    def test_any_text_is_either_a_sentence_or_survives_the_way_through_a_record(self, tmp_path, text: str) -> None:
        (tmp_path / "release.yml").write_bytes(text.encode("utf-8", "surrogatepass"))
        assert_sentence_or_stable(tmp_path)


def assert_sentence_or_stable(project: Path) -> None:
    """Check that the release file there is refused with a sentence, or is the same after being written to a record."""
    try:
        release_file = read_release_file(project)
        fields = {
            "title": "sample-v0.1.0",
            "title_versionless": "sample",
            "version": "0.1.0",
            "project": {},
            "workflow": release_file.workflow,
            "datasets": release_file.datasets,
            "requirements": release_file.requirements,
        }
        data = dump_mapping(fields)
    except (ReleaseFileError, RecordError) as error:
        sentence = str(error)
    else:
        sentence = "it was accepted"
        assert ReleaseRecord.parse(data, "again").same_release(ReleaseRecord(fields))
    assert len(sentence.splitlines()) == 1


def laughs(lines: int) -> str:
    """Return small YAML that is ten to the power of `lines` values when its aliases are written out."""
    text = "x0: &x0 [l, l, l, l, l, l, l, l, l, l]\n"
    for line in range(1, lines):
        text += f"x{line}: &x{line} [{', '.join([f'*x{line - 1}'] * 10)}]\n"
    return text
