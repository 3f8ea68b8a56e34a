"""An audit finds every flipped bit of an archive, and heals it from a mirror; killed at any moment it does no harm."""

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from datetime import date, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

import pipeline.archives.filesystem_audit
from pipeline import ArchiveInterface, FileSystemArchive
from pipeline.archives.auditing import Auditor
from pipeline.archives.filesystem import create_archive
from pipeline.audit import Scope
from pipeline.errors import ArchiveError
from pipeline.journal import AuditJournal
from pipeline.release import Blob, ReleaseRecord
from tests.audits import PUBLIC, TONIGHT, audit
from tests.forked import ForkedWorkshop
from tests.support import Outcome, Workshop, assert_archive_is_sound, sha1, tree

FLIPS = 60
PATIENCE = 60.0

Tree = dict[str, bytes | None]


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    """A folder where a user works, quickly where that is possible."""
    (tmp_path / "workshop").mkdir()
    return (ForkedWorkshop if hasattr(os, "fork") else Workshop)(tmp_path / "workshop")


def publish(workshop: Workshop, title: str, version: str, files: dict[str, bytes]) -> None:
    """Publish files without a process of their own."""
    create_archive(workshop.archive)
    folder = workshop.project(f"{title}-{version}", files)
    archive = FileSystemArchive(workshop.archive)
    project = {path: {"/path/": path, "/item/": "File"} for path in files}
    archive.upload_blobs_and_update_mapping(f"{title}-v{version}", title, PUBLIC, project, folder, 2, 2**20)
    record = {"title": f"{title}-v{version}", "title_versionless": title, "version": version, "project": project}
    archive.upload_release_record({**record, "workflow": {"operator": "Größe, 3 µm", "n": 1.5e-7}}, PUBLIC)


FILES = {"a.csv": b"one\n" * 50, "Größe.bin": bytes(range(256)) * 4, "empty": b"", "twin.csv": b"one\n" * 50}
MORE = {"a.csv": b"one\n" * 50, "b.csv": b"two\n" * 9}


@pytest.fixture
def mirrored(workshop: Workshop) -> Workshop:
    """An archive with two versions, and its mirror, which was made by a real run."""
    publish(workshop, "sample", "0.1.0", FILES)
    publish(workshop, "sample", "0.2.0", MORE)
    create_archive(workshop.folder / "mirror")
    assert workshop.run("MirrorArchive", source="archive", destination="mirror").code == 0
    return workshop


def kept(folder: Path, *besides: str) -> Tree:
    """Return an archive as it is, without what is kept aside."""
    left_out = ("/.damaged", *besides)
    return {path: data for path, data in tree(folder).items() if not any(part in path for part in left_out)}


def aside(folder: Path, title: str = "sample") -> list[bytes]:
    """Return what is kept aside."""
    return [file.read_bytes() for file in sorted((folder / PUBLIC / title / ".damaged").glob("*"))]


def flip(file: Path, dice: random.Random) -> bytes:
    """Flip one bit of a file, and return what it holds then."""
    data = bytearray(file.read_bytes())
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    file.write_bytes(data)
    return bytes(data)


# --- flipped bits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("damaged", "whole"), [("archive", "mirror"), ("mirror", "archive")])
def test_a_bit_flipped_anywhere_is_found_and_healed_from_the_other_archive(
    mirrored: Workshop, damaged: str, whole: str
) -> None:
    here, there = mirrored.folder / damaged, mirrored.folder / whole
    before, other = tree(here), tree(there)
    dice = random.Random(damaged)
    files = [path for path, data in before.items() if data]
    assert sum("/blobs/" in path for path in files) == 3
    assert sum("/.records/" in path for path in files) == sum(path.endswith(".yml") for path in files) == 2
    for number in range(FLIPS):
        path = files[number % len(files)]
        bytes_then = flip(here / path, dice)
        found = audit(here)
        assert len(found.failures) == 1, path
        assert tree(here) == {**before, path: bytes_then}, path
        found = audit(here, there)
        assert not found.failures, (path, found.failures)
        assert found.counts["damaged_blobs"] == found.counts["repaired_blobs"] == ("/blobs/" in path)
        assert found.counts["damaged_records"] == ("/blobs/" not in path)
        assert kept(here) == before, path
        assert aside(here) == [bytes_then], path
        shutil.rmtree(here / PUBLIC / "sample" / ".damaged")
    assert tree(there) == other


def test_a_record_and_its_copy_that_are_both_damaged_are_healed_from_the_other_archive(mirrored: Workshop) -> None:
    dice = random.Random(5)
    for here, there in ((mirrored.archive, mirrored.folder / "mirror"), (mirrored.folder / "mirror", mirrored.archive)):
        before = tree(here)
        record = here / PUBLIC / "sample" / "sample-v0.1.0.yml"
        text = record.read_text(encoding="utf-8")
        record.write_text(text.replace("3 µm", "8 µm"), encoding="utf-8")
        (copy,) = (record.parent / ".records" / "0.1.0").iterdir()
        flip(copy, dice)
        assert len(audit(here).failures) == 1
        assert not audit(here, there).failures
        assert kept(here) == before
        assert len(aside(here)) == 2


def test_a_bit_flipped_in_a_part_never_gets_into_the_archive(workshop: Workshop) -> None:
    publish(workshop, "sample", "0.1.0", {"a.csv": b"one"})
    shutil.copytree(workshop.archive, mirror := workshop.folder / "mirror")
    for number in range(40):
        dice = random.Random(number)
        data = dice.randbytes(5000)
        partial = workshop.title_folder() / ".partial"
        partial.mkdir()
        part = partial / f"{sha1(data)}.part"
        part.write_bytes(data[: dice.randrange(1, 5001)])
        then = flip(part, dice)
        workshop.blob_file(b"one").unlink()
        assert not audit(workshop.archive, mirror).failures
        assert workshop.blob_file(b"one").read_bytes() == b"one"
        assert part.read_bytes() == then
        publish(workshop, "sample", f"0.2.{number}", {"big.bin": data})
        assert workshop.blob_file(data).read_bytes() == data
        assert_archive_is_sound(workshop.archive)


def test_a_record_that_nothing_proves_is_left_as_it_is(mirrored: Workshop) -> None:
    (copy,) = (mirrored.title_folder() / ".records" / "0.1.0").iterdir()
    for file in (copy, mirrored.record_file()):
        file.write_bytes(b"?")
    there = mirrored.folder / "mirror" / PUBLIC / "sample"
    (there / "sample-v0.1.0.yml").unlink()
    shutil.rmtree(there / ".records" / "0.1.0")
    before = tree(mirrored.archive)
    (finding,) = audit(mirrored.archive, mirrored.folder / "mirror").failures
    assert "tells its exact bytes" in finding.sentence
    assert tree(mirrored.archive) == before


def test_a_damaged_copy_of_what_was_never_published_is_set_aside(mirrored: Workshop) -> None:
    before = kept(mirrored.archive)
    (mirrored.title_folder() / ".records" / "0.1.0" / sha1(b"of a run that was killed")).write_bytes(b"?")
    found = audit(mirrored.archive, mirrored.folder / "mirror")
    assert (found.failures, found.counts["damaged_records"]) == ([], 1)
    assert kept(mirrored.archive) == before
    assert aside(mirrored.archive) == [b"?"]


def test_a_folder_in_the_place_of_a_record_is_set_aside(mirrored: Workshop) -> None:
    before = tree(mirrored.archive)
    mirrored.record_file().unlink()
    mirrored.record_file().mkdir()
    found = audit(mirrored.archive, mirrored.folder / "mirror")
    assert (found.failures, found.counts["damaged_records"]) == ([], 1)
    assert kept(mirrored.archive) == before
    assert [file.is_dir() for file in (mirrored.title_folder() / ".damaged").iterdir()] == [True]


def test_without_a_second_copy_a_record_is_compared_with_that_of_the_mirror(mirrored: Workshop) -> None:
    """Archives of earlier versions, and of the earlier tool, keep records once."""
    mirror = mirrored.folder / "mirror"
    for archive in (mirrored.archive, mirror):
        shutil.rmtree(archive / PUBLIC / "sample" / ".records")
    record = mirrored.record_file()
    text = record.read_text(encoding="utf-8")
    assert not audit(mirrored.archive, mirror).failures

    record.write_text(text.replace("3 µm", "8 µm"), encoding="utf-8")
    assert not audit(mirrored.archive).failures
    assert not audit(mirrored.archive, mirror).failures
    assert record.read_text(encoding="utf-8") == text

    (mirror / PUBLIC / "sample" / record.name).write_text(
        (mirror / PUBLIC / "sample" / record.name).read_text(encoding="utf-8").replace("3 µm", "8 µm"), encoding="utf-8"
    )
    assert not audit(mirrored.archive, mirror).failures, "the digest of the origin tells which one is right"
    (finding,) = audit(mirror, mirrored.archive).failures
    assert "nothing in" in finding.sentence


def test_what_a_damaged_record_names_is_not_looked_for(mirrored: Workshop) -> None:
    digest = sha1(MORE["b.csv"])
    record = mirrored.record_file("0.2.0")
    record.write_bytes(record.read_bytes().replace(digest.encode(), b"0" * 40))
    found = audit(mirrored.archive)
    assert [finding.what for finding in found.failures] == ["sample-v0.2.0"]
    assert found.counts["unnamed_blobs"] == found.counts["missing_blobs"] == 0


def test_a_record_cannot_lead_an_audit_out_of_the_archive(mirrored: Workshop) -> None:
    shutil.rmtree(mirrored.title_folder() / ".records")
    outside = mirrored.folder / "outside"
    outside.write_bytes(b"mine")
    content = json.loads(mirrored.record_file().read_bytes())
    content["project"]["a.csv"]["/bpid/"] = "../../../../outside"
    mirrored.record_file().write_text(json.dumps(content), encoding="utf-8")
    before = tree(mirrored.archive)
    (finding,) = audit(mirrored.archive).failures
    assert "names" in finding.sentence
    assert tree(mirrored.archive) == before
    audit(mirrored.archive, mirrored.folder / "mirror")
    assert outside.read_bytes() == b"mine"


# --- what else can be wrong -------------------------------------------------------------------------------------------


def damages() -> Iterator[tuple[str, Any, str]]:
    yield "missing", lambda file: file.unlink(), "the blob is missing"
    yield "shorter", lambda file: file.write_bytes(file.read_bytes()[:-1]), "it has 1023 bytes instead of 1024"
    yield "longer", lambda file: file.write_bytes(file.read_bytes() + b"x"), "it has more than 1024 bytes"
    yield "empty", lambda file: file.write_bytes(b""), "it has 0 bytes instead of 1024"
    yield "folder", lambda file: (file.unlink(), file.mkdir()), "the blob is missing"


@pytest.mark.parametrize(("damage", "says"), [pytest.param(*rest, id=name) for name, *rest in damages()])
def test_a_blob_of_another_size_is_found_in_every_audit_and_replaced(
    mirrored: Workshop, damage: Any, says: str
) -> None:
    before, journal = tree(mirrored.archive), AuditJournal(mirrored.folder / "journal")
    audit(mirrored.archive, journal=journal)
    damage(mirrored.blob_file(FILES["Größe.bin"]))
    (finding,) = audit(mirrored.archive, journal=journal, scope=Scope(TONIGHT, max_age_days=9)).failures
    assert finding.what == "sample-v0.1.0, Größe.bin"
    assert says in finding.sentence
    assert not audit(mirrored.archive, mirrored.folder / "mirror", journal=journal).failures
    assert kept(mirrored.archive) == before


def test_blobs_that_no_record_names_are_told_and_left_alone(
    mirrored: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    data = b"uploaded, and never published"
    mirrored.blob_file(data).parent.mkdir(exist_ok=True)
    mirrored.blob_file(data).write_bytes(data)
    stray = mirrored.title_folder() / "blobs" / "notes.txt"
    stray.write_bytes(b"mine")
    before = tree(mirrored.archive)
    found = audit(mirrored.archive, mirrored.folder / "mirror")
    assert not found.failures
    assert (found.counts["unnamed_blobs"], found.counts["unnamed_bytes"]) == (2, len(data) + 4)
    assert sha1(data) in caplog.text
    assert "notes.txt" in caplog.text
    assert tree(mirrored.archive) == before

    mirrored.blob_file(data).write_bytes(b"damaged, then")
    (finding,) = audit(mirrored.archive).failures
    assert "another SHA-1" in finding.sentence
    assert not audit(mirrored.archive, mirrored.folder / "mirror").failures
    assert aside(mirrored.archive) == [b"damaged, then"]
    assert not mirrored.blob_file(data).exists()


def test_what_the_disk_cannot_read_is_replaced(
    mirrored: Workshop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = mirrored.blob_file(FILES["Größe.bin"])
    before, open_blob = damaged.stat().st_ino, FileSystemArchive.open_blob
    hash_file = pipeline.archives.filesystem_audit.hash_file

    def fail(file: Path) -> None:
        if file.exists() and file.stat().st_ino == before:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(file))

    def read(archive: FileSystemArchive, blob: Blob, *args: Any, **kwargs: Any) -> Any:
        fail(archive.archive_path / PUBLIC / "sample" / "blobs" / blob.digest[:2] / blob.digest)
        return open_blob(archive, blob, *args, **kwargs)

    def hashed(file: Path, *args: Any) -> Any:
        fail(file)
        return hash_file(file, *args)

    monkeypatch.setattr(FileSystemArchive, "open_blob", read)
    monkeypatch.setattr(pipeline.archives.filesystem_audit, "hash_file", hashed)
    assert not audit(mirrored.archive, mirrored.folder / "mirror").failures
    assert "Größe.bin: the blob is damaged: the disk cannot read it; it is replaced from" in caplog.text
    assert damaged.stat().st_ino != before
    assert damaged.read_bytes() == FILES["Größe.bin"]


def test_what_cannot_be_set_aside_is_said(mirrored: Workshop) -> None:
    data = b"uploaded, and never published"
    mirrored.blob_file(data).parent.mkdir(exist_ok=True)
    mirrored.blob_file(data).write_bytes(b"?" * len(data))
    (mirrored.title_folder() / ".damaged").write_bytes(b"in the way")
    found = audit(mirrored.archive, mirrored.folder / "mirror")
    (finding,) = found.failures
    assert finding.sentence.startswith("the blob is damaged: its bytes have another SHA-1; ")
    assert ".damaged" in finding.sentence
    assert (found.counts["failed_blobs"], found.counts["repaired_blobs"]) == (1, 0)
    assert mirrored.blob_file(data).read_bytes() == b"?" * len(data)


def test_what_the_mirror_does_not_have_or_has_damaged_is_one_sentence_and_the_rest_is_healed(
    mirrored: Workshop,
) -> None:
    one, two, three = (mirrored.blob_file(data) for data in (FILES["a.csv"], FILES["Größe.bin"], MORE["b.csv"]))
    mirror = mirrored.folder / "mirror"
    for file in (one, two, three):
        file.write_bytes(b"?" * file.stat().st_size)
    (mirror / two.relative_to(mirrored.archive)).write_bytes(b"!" * 1024)
    (mirror / three.relative_to(mirrored.archive)).unlink()
    then = kept(mirrored.archive)
    found = audit(mirrored.archive, mirror)
    sentences = {finding.what: finding.sentence for finding in found.failures}
    assert "is damaged, too" in sentences.pop("sample-v0.1.0, Größe.bin")
    assert "missing" in sentences.pop("sample-v0.2.0, b.csv")
    assert not sentences
    assert kept(mirrored.archive) == {**then, one.relative_to(mirrored.archive).as_posix(): FILES["a.csv"]}
    assert aside(mirrored.archive) == [b"?" * 200]


@pytest.mark.parametrize("record", ["gone", "damaged"])
def test_a_blob_is_healed_from_another_version_of_the_title(mirrored: Workshop, record: str) -> None:
    theirs = mirrored.folder / "mirror" / PUBLIC / "sample" / "sample-v0.1.0.yml"
    if record == "gone":
        shutil.rmtree(theirs.parent / ".records" / "0.1.0")
        theirs.unlink()
    else:
        theirs.write_bytes(b"?")
    mirrored.blob_file(FILES["Größe.bin"]).unlink()
    assert not audit(mirrored.archive, mirrored.folder / "mirror").failures
    assert mirrored.blob_file(FILES["Größe.bin"]).read_bytes() == FILES["Größe.bin"]


class OwnKind(ArchiveInterface):
    """An archive that somebody else wrote, before there were audits."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._inner = FileSystemArchive(folder)

    def get_release_records(
        self, title_versionless: str, version_expressions: Any = None, workspace: str = PUBLIC
    ) -> dict[str, dict[str, Any]]:
        return self._inner.get_release_records(title_versionless, version_expressions, workspace)

    def download_blob(self, *args: Any, **kwargs: Any) -> None:
        self._inner.download_blob(*args, **kwargs)

    def process_and_upload_blob(self, *args: Any, **kwargs: Any) -> tuple[str | None, int]:
        return self._inner.process_and_upload_blob(*args, **kwargs)

    def upload_release_record(self, release_record: dict[str, Any], workspace: str) -> str:
        return self._inner.upload_release_record(release_record, workspace)


def test_an_archive_of_ones_own_kind_is_read_and_heals_others_but_not_itself(mirrored: Workshop) -> None:
    own = OwnKind(mirrored.folder / "mirror")
    assert not audit(own).failures
    mirrored.blob_file(FILES["a.csv"]).unlink()
    assert not audit(mirrored.archive, own).failures
    blob = mirrored.folder / "mirror" / mirrored.blob_file(FILES["a.csv"]).relative_to(mirrored.archive)
    blob.write_bytes(b"x" * 200)
    for mirror, says in ((None, "damaged or missing"), (mirrored.archive, "cannot replace blobs")):
        (finding,) = audit(own, mirror).failures
        assert says in finding.sentence
    assert blob.read_bytes() == b"x" * 200
    blob.unlink()
    blob.symlink_to(blob.name)
    (finding,) = audit(own, mirrored.archive).failures
    assert "it could not be read" in finding.sentence
    with pytest.raises(ArchiveError, match="cannot list its titles"):
        own.auditor(PUBLIC).titles()
    with pytest.raises(ArchiveError, match="never changes a record"):
        own.auditor(PUBLIC).heal_record("sample", "0.1.0", Auditor(own, PUBLIC))
    with pytest.raises(ArchiveError, match="set blobs aside"):
        own.auditor(PUBLIC).set_aside("sample", sha1(b""))


# --- how often blobs are read -----------------------------------------------------------------------------------------


class Reads:
    """Counts which blobs an audit reads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read: list[str] = []
        open_blob = FileSystemArchive.open_blob

        def counting(archive: FileSystemArchive, blob: Blob, *args: Any, **kwargs: Any) -> Any:
            self.read.append(blob.digest)
            return open_blob(archive, blob, *args, **kwargs)

        monkeypatch.setattr(FileSystemArchive, "open_blob", counting)

    def take(self) -> set[str]:
        """Return the blobs that were read since the last time, each of them once."""
        read, self.read = self.read, []
        assert len(set(read)) == len(read)
        return set(read)


def many(count: int) -> dict[str, bytes]:
    return {f"{number}.csv": f"measurement {number}".encode() for number in range(count)}


def test_a_tenth_each_time_reads_everything_in_ten_audits_and_starts_again(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(workshop, "sample", "0.1.0", many(23))
    journal, reads = AuditJournal(workshop.folder / "journal"), Reads(monkeypatch)
    first: list[set[str]] = []
    for night in range(20):
        scope = Scope(TONIGHT + timedelta(days=10 * night), Fraction("0.1"))
        audit(workshop.archive, journal=journal, scope=scope)
        first.append(reads.take())
        assert len(first[-1]) in (2, 3)
        audit(workshop.archive, journal=journal, scope=scope)
        assert not reads.take(), "the part of this night is read already"
    everything = {sha1(data) for data in many(23).values()}
    assert set.union(*first[:10]) == set.union(*first[10:]) == everything
    assert sum(map(len, first[:10])) == 23


def test_what_is_damaged_is_read_every_night_until_it_is_healed(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(workshop, "sample", "0.1.0", many(20))
    journal, reads = AuditJournal(workshop.folder / "journal"), Reads(monkeypatch)
    victim = workshop.blob_file(b"measurement 7")
    victim.write_bytes(b"measuremint 7")
    found = [
        bool(
            audit(
                workshop.archive, journal=journal, scope=Scope(TONIGHT + timedelta(days=night), Fraction("0.1"))
            ).failures
        )
        for night in range(20)
    ]
    assert found.count(True) >= 10
    assert found == sorted(found), "once it was found, it is found every night"
    victim.write_bytes(b"measurement 7")
    reads.read.clear()
    audit(workshop.archive, journal=journal, scope=Scope(TONIGHT + timedelta(days=20), max_age_days=100))
    assert reads.take() == {sha1(b"measurement 7")}


def test_only_what_was_not_read_for_some_days_is_read(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, reads = AuditJournal(workshop.folder / "journal"), Reads(monkeypatch)

    def read(days: int, **scope: Any) -> int:
        audit(workshop.archive, journal=journal, scope=Scope(TONIGHT + timedelta(days=days), **scope))
        return len(reads.take())

    publish(workshop, "sample", "0.1.0", many(5))
    assert read(0, max_age_days=7) == 5
    publish(workshop, "sample", "0.2.0", many(8))
    reads.take()
    assert read(6, max_age_days=7) == 3
    assert read(7, max_age_days=7) == 5
    assert read(7) == 3
    assert read(8) == 8
    assert read(3) == 0, "a night that was missed is made up for by a later one"


# --- real runs --------------------------------------------------------------------------------------------------------


def run_audit(workshop: Workshop, **options: object) -> Outcome:
    outcome = workshop.run("AuditArchive", **{"archive": "archive", **options})
    assert "Traceback" not in outcome.output, outcome.output
    return outcome


def test_a_run_says_what_it_found_with_code_30_until_it_is_repaired_with_code_0(mirrored: Workshop) -> None:
    publish(mirrored, "other", "1.0.0", MORE)
    before, times = tree(mirrored.archive), {file: file.stat().st_mtime_ns for file in mirrored.archive.rglob("*")}
    outcome = run_audit(mirrored)
    assert outcome.code == 0, outcome.output
    assert "2 titles, 5 blobs" in outcome.output
    assert "5 read" in outcome.output
    assert tree(mirrored.archive) == before
    assert {file: file.stat().st_mtime_ns for file in mirrored.archive.rglob("*")} == times
    assert "Nothing to do" in run_audit(mirrored).output

    tomorrow = date.today() + timedelta(days=1)  # noqa: DTZ011
    mirrored.blob_file(FILES["a.csv"]).write_bytes(b"x" * 200)
    outcome = run_audit(mirrored, date=tomorrow)
    assert outcome.code == 30
    assert "sample-v0.1.0, a.csv: the blob is damaged: its bytes have another SHA-1\n" in outcome.output
    assert outcome.output.count("was not found intact: 2 titles") == 1
    outcome = run_audit(mirrored, date=tomorrow, repair_from="mirror")
    assert outcome.code == 0, outcome.output
    assert "it is replaced from" in outcome.output
    assert "1 damaged, 0 missing, 1 repaired" in outcome.output
    assert kept(mirrored.archive) == before
    assert "Nothing to do" in run_audit(mirrored, date=tomorrow, repair_from="mirror").output


def test_a_title_that_cannot_be_healed_does_not_stop_the_others_and_only_it_is_looked_at_again(
    mirrored: Workshop,
) -> None:
    publish(mirrored, "another", "1.0.0", {"x": b"x1"})
    publish(mirrored, "zebra", "1.0.0", {"z": b"z1"})
    mirrored.blob_file(b"x1", "another").unlink()
    mirrored.blob_file(MORE["b.csv"]).unlink()
    mirrored.blob_file(FILES["Größe.bin"]).write_bytes(b"x" * 1024)
    options = {"repair_from": "mirror"}
    outcome = run_audit(mirrored, **options)
    assert outcome.code == 30
    (sentence,) = [line for line in outcome.output.splitlines() if line.startswith("ERROR")]
    assert sentence.startswith("ERROR: x: ")
    assert "does not have it" in sentence
    assert outcome.output.count("was not found intact: 3 titles") == 1
    assert "2 missing, 2 repaired" in outcome.output
    assert mirrored.blob_file(MORE["b.csv"]).read_bytes() == MORE["b.csv"]
    mirrored.blob_file(b"x1", "another").write_bytes(b"x1")
    outcome = run_audit(mirrored, **options)
    assert outcome.code == 0, outcome.output
    assert "3 titles, 5 blobs" in outcome.output
    assert "Nothing to do" in run_audit(mirrored, **options).output


KILL = """
import os, signal
left = [{moment}]
def mortal(function):
    def dying(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return dying
for name in ("link", "replace", "rename", "unlink", "fsync", "mkdir"):
    setattr(os, name, mortal(getattr(os, name)))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a process that can be forked")
def test_a_repair_that_is_killed_at_any_step_is_completed_by_the_same_command(mirrored: Workshop) -> None:
    assert isinstance(mirrored, ForkedWorkshop)
    before = tree(mirrored.archive)
    shutil.copytree(mirrored.archive, mirrored.folder / "whole")
    gone, blob, record = MORE["b.csv"], FILES["Größe.bin"], mirrored.record_file()
    dice = random.Random(3)
    for moment in range(0, 500, 6):
        shutil.rmtree(mirrored.archive)
        shutil.rmtree(mirrored.folder / "cache", ignore_errors=True)
        shutil.copytree(mirrored.folder / "whole", mirrored.archive)
        mirrored.blob_file(gone).unlink()
        damaged = {file: flip(file, dice) for file in (mirrored.blob_file(blob), record)}
        options = {"archive": "archive", "repair_from": "mirror"}
        outcome = mirrored.run_with(KILL.format(moment=moment), "AuditArchive", **options)
        for file, data in damaged.items():
            assert file.read_bytes() in (data, before[file.relative_to(mirrored.archive).as_posix()])
        assert not mirrored.blob_file(gone).exists() or mirrored.blob_file(gone).read_bytes() == gone
        if outcome.code == 0:
            break
        assert outcome.code == -signal.SIGKILL, outcome.output
        outcome = run_audit(mirrored, repair_from="mirror")
        assert outcome.code == 0, outcome.output
        assert kept(mirrored.archive, "/.partial") == before
        assert sorted(aside(mirrored.archive)) == sorted(damaged.values())
    assert moment > 20


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL on this system")
def test_an_audit_that_is_killed_goes_on_where_it_stopped(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    publish(workshop, "sample", "0.1.0", many(30))
    publish(workshop, "a-first", "0.1.0", many(3))
    stuck = b"measurement 9"
    custom = workshop.folder / "custom"
    custom.mkdir()
    (custom / "sitecustomize.py").write_text(
        "import time\nimport pipeline.audit as audit\nfrom pipeline import FileSystemArchive as Archive\n"
        "audit._STORE_SECONDS, open_blob = 0.0, Archive.open_blob\n"
        f"def stick(archive, blob, *more):\n    time.sleep(99 * (blob.digest == '{sha1(stuck)}'))\n"
        "    return open_blob(archive, blob, *more)\nArchive.open_blob = stick\n"
    )
    patched = workshop.environment["PYTHONPATH"] + os.pathsep + str(custom)
    process = subprocess.Popen(
        workshop.command("AuditArchive", archive="archive", pipeline_threads=1),
        cwd=workshop.folder,
        env={**workshop.environment, "PYTHONPATH": patched},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    journal, end = workshop.folder / "cache" / "audits-1.sqlite3", time.monotonic() + PATIENCE
    while time.monotonic() < end and journalled(journal) < 29:
        time.sleep(0.02)
    process.kill()
    process.wait()
    outcome = run_audit(workshop)
    assert outcome.code == 0, outcome.output
    assert "2 titles, 33 blobs" in outcome.output
    assert " 4 read" in outcome.output, "the three of the other title, and the one that was not finished"


def journalled(file: Path) -> int:
    """Return how many blobs of the title a journal knows."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT count(*) FROM blobs WHERE place LIKE '%sample'").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def test_missed_nights_are_made_up_for(mirrored: Workshop) -> None:
    mirrored.configure("AuditArchive", archive="archive", sample="0.5")
    today = date.today()  # noqa: DTZ011
    nights = {"of": "AuditArchive", "start": today - timedelta(days=4), "stop": today}
    outcome = Workshop.run(mirrored, "RangeDailyBase", **nights)
    assert outcome.code == 0, outcome.output
    assert outcome.output.count("Audited") == 4
    assert journalled(mirrored.folder / "cache" / "audits-1.sqlite3") == 3
    again = Workshop.run(mirrored, "RangeDailyBase", **nights)
    assert again.code == 0
    assert "Audited" not in again.output


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sample": 0}, "--sample 0.0 makes no sense"),
        ({"sample": 1.5}, "--sample 1.5 makes no sense"),
        ({"max_age_days": -1}, "--max-age-days -1 makes no sense"),
        ({"repair_from": "archive"}, "--repair-from is the archive itself"),
        ({"repair_from": "nowhere"}, "nowhere is not an archive"),
        ({"archive": "nowhere"}, "nowhere is not an archive"),
        ({"archive": None}, "give --archive"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(mirrored: Workshop, options: dict[str, object], says: str) -> None:
    outcome = run_audit(mirrored, **options)
    assert outcome.code == 30, outcome.output
    (sentence,) = [line for line in outcome.output.splitlines() if line.startswith("ERROR")]
    assert says in sentence


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a process that can be forked")
def test_what_cannot_be_read_for_another_reason_is_said_and_not_replaced(mirrored: Workshop) -> None:
    assert isinstance(mirrored, ForkedWorkshop)
    before = tree(mirrored.archive)
    trouble = (
        "from pipeline import FileSystemArchive as Archive\nopen_blob = Archive.open_blob\n"
        "def refuse(archive, blob, *more):\n"
        "    if 'mirror' not in str(archive.host):\n"
        "        raise PermissionError(13, 'Permission denied', blob.paths[0])\n"
        "    return open_blob(archive, blob, *more)\nArchive.open_blob = refuse\n"
    )
    outcome = mirrored.run_with(trouble, "AuditArchive", archive="archive", repair_from="mirror")
    assert outcome.code == 30
    assert "sample-v0.1.0, a.csv: it could not be read: a.csv: permission is denied" in outcome.output
    assert outcome.output.count("was not found intact") == 1
    trouble = (
        "from pipeline.journal import AuditJournal as Journal\n"
        "def refuse(*args):\n    raise PermissionError(13, 'Permission denied', 'x')\nJournal.load = refuse\n"
    )
    outcome = mirrored.run_with(trouble, "AuditArchive", archive="archive")
    assert outcome.code == 30
    assert "ERROR: x: permission is denied" in outcome.output
    assert outcome.output.count("was not found intact") == 1
    assert tree(mirrored.archive) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a process that can be forked")
def test_titles_that_cannot_be_listed_for_a_moment_are_not_taken_for_none(mirrored: Workshop) -> None:
    assert isinstance(mirrored, ForkedWorkshop)
    trouble = (
        "from pipeline.archives.filesystem_audit import FileSystemAuditor as Auditor\n"
        "titles, refused = Auditor.titles, []\n"
        "def refuse(auditor):\n    refused.append(1)\n    if len(refused) > 2:\n        return titles(auditor)\n"
        "    raise PermissionError(13, 'Permission denied', 'x')\nAuditor.titles = refuse\n"
    )
    outcome = mirrored.run_with(trouble, "AuditArchive", archive="archive")
    assert outcome.code == 30, outcome.output
    assert "ERROR: x: permission is denied" in outcome.output
    outcome = run_audit(mirrored)
    assert outcome.code == 0
    assert "3 read" in outcome.output


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a process that can be forked")
def test_a_record_that_goes_while_its_blobs_are_read_is_said(mirrored: Workshop) -> None:
    assert isinstance(mirrored, ForkedWorkshop)
    mirrored.blob_file(FILES["Größe.bin"]).unlink()
    trouble = (
        "import os\nfrom pipeline.tasks.audit_runs import AuditRun as Run\nrepairs_of = Run.repairs_of\n"
        f"def remove(run, title):\n    os.unlink({str(mirrored.record_file())!r})\n    return repairs_of(run, title)\n"
        "Run.repairs_of = remove\n"
    )
    outcome = mirrored.run_with(trouble, "AuditArchive", archive="archive", repair_from="mirror")
    assert outcome.code == 30, outcome.output
    assert "ERROR: The record of sample-v0.1.0 is gone since it was read; run again." in outcome.output
    assert run_audit(mirrored, repair_from="mirror").code == 0
    assert mirrored.blob_file(FILES["Größe.bin"]).read_bytes() == FILES["Größe.bin"]


def test_the_report_tells_of_each_title_what_was_read_and_what_is_damaged(mirrored: Workshop) -> None:
    publish(mirrored, "other", "1.0.0", MORE)
    mirrored.blob_file(MORE["b.csv"], "other").write_bytes(b"two\n")
    mirrored.blob_file(FILES["Größe.bin"]).unlink()
    reports = mirrored.folder / "reports"

    def report(code: int, **options: object) -> dict[str, Any]:
        shutil.rmtree(reports, ignore_errors=True)
        options |= {"archive": "archive", "report_directory": "reports"}
        # A report of what failed is finished when Python ends, which a forked process does not do.
        assert Workshop.run(mirrored, "AuditArchive", **options).code == code
        (file,) = reports.glob("AuditArchive-*.json")
        assert file.with_suffix(".html").is_file()
        return dict(json.loads(file.read_bytes()))

    told = report(30, repair_from="mirror")
    titles = {title["title"]: title for title in told["releases"]}
    assert told["state"] == "failed"
    assert titles["sample"]["state"] == "done"
    assert titles["other"]["state"] == "failed"
    assert [failure["path"] for failure in titles["other"]["failures"]] == ["other-v1.0.0, b.csv"]
    names = ("checked_blobs", "damaged_blobs", "missing_blobs", "repaired_blobs", "failed_blobs")
    assert {name: told["totals"][name] for name in names} == dict(zip(names, (5, 1, 1, 1, 1), strict=True))
    mirrored.blob_file(MORE["b.csv"], "other").write_bytes(MORE["b.csv"])
    told = report(0, repair_from="mirror")
    assert [title["state"] for title in told["releases"]] == ["done", "unchanged"]
    assert report(0, repair_from="mirror")["state"] == "unchanged"


def test_what_processes_of_one_audit_find_is_counted_together(mirrored: Workshop) -> None:
    publish(mirrored, "other", "1.0.0", MORE)
    mirrored.blob_file(MORE["b.csv"], "other").write_bytes(b"two\n")
    mirrored.blob_file(FILES["Größe.bin"]).unlink()
    reports = mirrored.folder / "reports"
    options = {"archive": "archive", "report_directory": "reports", "workers": 3}

    def told(code: int, **more: object) -> tuple[dict[str, str], list[int]]:
        shutil.rmtree(reports, ignore_errors=True)
        assert Workshop.run(mirrored, "AuditArchive", **options, **more).code == code
        (file,) = reports.glob("AuditArchive-*.json")
        report = json.loads(file.read_bytes())
        names = ("blobs", "damaged_blobs", "missing_blobs", "repaired_blobs")
        return {part["title"]: part["state"] for part in report["releases"]}, [report["totals"][name] for name in names]

    assert told(30) == ({"other": "failed", "sample": "failed"}, [5, 1, 1, 0])
    assert told(30, repair_from="mirror") == ({"other": "failed", "sample": "done"}, [5, 1, 1, 1])
    mirrored.blob_file(MORE["b.csv"], "other").write_bytes(MORE["b.csv"])
    assert told(0, repair_from="mirror") == ({"other": "done", "sample": "unchanged"}, [5, 1, 1, 2])


def test_a_title_of_its_own_can_be_audited_and_says_what_makes_no_sense(mirrored: Workshop) -> None:
    mirrored.blob_file(FILES["a.csv"]).unlink()
    outcome = mirrored.run("AuditTitle", archive="archive", title="sample", repair_from="mirror")
    assert outcome.code == 0, outcome.output
    assert mirrored.blob_file(FILES["a.csv"]).read_bytes() == FILES["a.csv"]
    outcome = mirrored.run("AuditTitle", archive="archive", title="sample", sample=7)
    assert outcome.code == 30
    assert "ERROR: --sample 7.0 makes no sense" in outcome.output
    outcome = mirrored.run("AuditTitle", archive="nowhere", title="sample")
    assert outcome.code == 30
    assert "nowhere is not an archive" in outcome.output
    assert "Traceback" not in outcome.output


def test_an_archive_without_releases_is_intact(workshop: Workshop) -> None:
    create_archive(workshop.archive)
    outcome = run_audit(workshop)
    assert outcome.code == 0, outcome.output
    assert "0 titles" in outcome.output


@pytest.mark.parametrize("trouble", ["damaged", "a folder"])
def test_a_journal_that_cannot_be_used_costs_only_time(mirrored: Workshop, trouble: str) -> None:
    journal = mirrored.folder / "cache" / "audits-1.sqlite3"
    journal.parent.mkdir(exist_ok=True)
    if trouble == "damaged":
        journal.write_bytes(b"SQLite format 3\0" + b"nonsense" * 1000)
    else:
        journal.mkdir()
    outcome = run_audit(mirrored)
    assert outcome.code == 0, outcome.output
    assert "3 read" in outcome.output


# --- publishing -------------------------------------------------------------------------------------------------------


def test_a_copy_that_was_not_published_is_removed_by_whoever_publishes(workshop: Workshop) -> None:
    publish(workshop, "sample", "0.1.0", MORE)
    (copy,) = (workshop.title_folder() / ".records" / "0.1.0").iterdir()
    assert copy.read_bytes() == workshop.record_file().read_bytes()
    workshop.record_file().unlink()
    publish(workshop, "sample", "0.1.0", FILES)
    (copy,) = (workshop.title_folder() / ".records" / "0.1.0").iterdir()
    assert copy.read_bytes() == workshop.record_file().read_bytes()
    record = ReleaseRecord.parse(copy.read_bytes(), "the copy")
    with pytest.raises(Exception, match="already"):
        FileSystemArchive(workshop.archive).upload_release_record({**record.content, "workflow": {"other": 1}}, PUBLIC)
    assert [copy] == list((workshop.title_folder() / ".records" / "0.1.0").iterdir())
