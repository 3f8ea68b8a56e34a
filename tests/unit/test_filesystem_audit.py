"""What an archive in a folder, and its auditor, say of one thing in it, and which bytes they put there."""

import errno
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import FileSystemArchive
from pipeline.archives.auditing import HealingSource
from pipeline.archives.filesystem import create_archive
from pipeline.archives.filesystem_audit import FileSystemAuditor
from pipeline.archives.sources import ArchiveSource, ProjectSource, copied_record
from pipeline.errors import BlobDamagedError, PipelineError, RecordError
from pipeline.release import RECORD_PID, Blob, ReleaseRecord
from tests.audits import PUBLIC
from tests.disk import Disk, linux_only
from tests.support import Counting, sha1, tree

FILES = {"a.csv": b"alpha", "b.csv": b"beta", "empty.csv": b""}
ALPHA, BETA = sha1(b"alpha"), sha1(b"beta")


class Place:
    """An archive in a folder, as its auditor looks at it."""

    def __init__(self, folder: Path) -> None:
        create_archive(folder)
        self.archive = FileSystemArchive(folder)
        self.auditor = FileSystemAuditor(self.archive, PUBLIC)
        self.folder = self.archive.title_folder("sample", PUBLIC)

    def publish(self, version: str = "0.1.0") -> None:
        """Publish the files."""
        project = self.archive.archive_path.parent / "project"
        for path, data in FILES.items():
            project.mkdir(exist_ok=True)
            (project / path).write_bytes(data)
        mapping: dict[str, Any] = {path: {"/path/": path, "/item/": "File"} for path in FILES}
        self.archive.upload_blobs_and_update_mapping(f"sample-v{version}", "sample", PUBLIC, mapping, project, 1, 1000)
        record = {"title": f"sample-v{version}", "title_versionless": "sample", "version": version, "project": mapping}
        self.archive.upload_release_record(record, PUBLIC)

    def mirror(self, other: "Place", version: str = "0.1.0") -> None:
        """Copy a release of another archive, as a mirror does."""
        record = other.archive.read_record("sample", version, PUBLIC)
        source = ArchiveSource(other.archive, record.content, PUBLIC)
        self.archive.upload_blobs(record.blobs, source, record, PUBLIC, threads=1, meter=Counting())
        self.archive.upload_release_record(copied_record(record, other.archive, PUBLIC), PUBLIC)

    def record(self, version: str = "0.1.0") -> Path:
        """Return the file of a record."""
        return self.archive.record_file("sample", version, PUBLIC)

    def copy(self, version: str = "0.1.0") -> Path:
        """Return the file of its second copy."""
        (file,) = (self.folder / ".records" / version).iterdir()
        return file

    def blob(self, digest: str) -> Path:
        """Return the file of a blob."""
        return self.folder / "blobs" / digest[:2] / digest

    def aside(self) -> list[bytes]:
        """Return what was set aside."""
        return sorted(file.read_bytes() for file in self.folder.glob(".damaged/*"))

    def looked_at(self, version: str = "0.1.0") -> str | None:
        """Return what is said of a record."""
        return self.auditor.look_at_record("sample", version, None)[1]


def fails_with(number: int) -> Any:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.fixture
def here(tmp_path: Path) -> Place:
    place = Place(tmp_path / "here")
    place.publish()
    return place


@pytest.fixture
def there(tmp_path: Path) -> Place:
    return Place(tmp_path / "there")


# What is there


def test_a_whole_record_is_read_and_proven(here: Place) -> None:
    record, damage = here.auditor.look_at_record("sample", "0.1.0", None)
    assert record is not None
    assert (record.title, damage) == ("sample-v0.1.0", None)
    assert here.auditor.is_proven("sample", "0.1.0")
    assert not here.auditor.is_proven("sample", "0.2.0")
    assert here.auditor.read_record("sample", "0.2.0") is None


def test_a_record_of_which_only_the_second_copy_is_left_is_told_unless_its_publishing_runs(here: Place) -> None:
    for version in ("0.10.0", "0.9.0"):
        here.publish(version)
    (here.folder / ".records" / "notes").mkdir()
    (here.folder / ".records" / "0.2.0").mkdir()
    here.record("0.9.0").unlink()
    assert here.auditor.versions("sample") == ["0.1.0", "0.9.0", "0.10.0"]
    record, damage = here.auditor.look_at_record("sample", "0.9.0", None)
    assert record is None
    assert damage is not None
    assert re.fullmatch(r"the record is missing, and only its second copy in .*/\.records/0\.9\.0 is left", damage)
    assert here.auditor.look_at_record("sample", "0.2.0", None) == (None, None)
    (here.folder / ".partial").mkdir()
    assert here.auditor.versions("sample") == ["0.1.0", "0.10.0"]
    assert here.auditor.look_at_record("sample", "0.9.0", None) == (None, None)
    assert here.auditor.versions("other") == []


@pytest.mark.parametrize(("days", "versions"), [(6.9, ["0.1.0"]), (7.1, ["0.1.0", "0.9.0"])])
def test_a_publishing_that_nobody_completed_for_a_week_hides_no_lost_record(
    here: Place, days: float, versions: list[str]
) -> None:
    here.publish("0.9.0")
    here.record("0.9.0").unlink()
    (here.folder / ".partial").mkdir()
    (copy_,) = (here.folder / ".records" / "0.9.0").iterdir()
    os.utime(copy_, (0, time.time() - days * 86400))
    assert here.auditor.versions("sample") == versions


def test_a_copy_that_is_removed_while_it_is_looked_at_is_no_lost_record(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.record().unlink()
    (here.folder / ".partial").mkdir()
    monkeypatch.setattr(os, "lstat", fails_with(errno.ENOENT))
    assert here.auditor.versions("sample") == []


@pytest.mark.parametrize("end", [b" ", b"} "], ids=["same size", "other size"])
def test_a_record_with_other_bytes_is_damaged(here: Place, end: bytes) -> None:
    here.record().write_bytes(here.record().read_bytes()[:-1] + end)
    with pytest.raises(RecordError, match="does not have the bytes that were published"):
        here.auditor.read_record("sample", "0.1.0")
    said = f"{here.record()} does not have the bytes that were published"
    assert here.auditor.look_at_record("sample", "0.1.0", None) == (None, f"the record is damaged: {said}")
    with pytest.raises(RecordError, match="does not have the bytes that were published; AuditArchive can repair it"):
        here.archive.read_record("sample", "0.1.0", PUBLIC)


def test_a_record_that_cannot_be_read_is_one_sentence(here: Place) -> None:
    here.record().unlink()
    here.record().mkdir()
    with pytest.raises(RecordError, match=r"sample-v0\.1\.0\.yml"):
        here.auditor.read_record("sample", "0.1.0")


def test_a_damaged_second_copy_is_told(here: Place) -> None:
    assert here.looked_at() is None
    copy = here.copy()
    copy.write_bytes(b"damaged")
    assert here.looked_at() == f"the second copy of the record, {copy}, is damaged"


def test_a_record_that_names_a_blob_otherwise_is_damaged(here: Place) -> None:
    """The earlier tool keeps no second copy by which it could be told."""
    shutil.rmtree(here.folder / ".records")
    assert here.looked_at() is None
    here.record().write_bytes(here.record().read_bytes().replace(f'"/bpid/": "{ALPHA}'.encode(), b'"/bpid/": "other'))
    assert b"other" in here.record().read_bytes()
    record, damage = here.auditor.look_at_record("sample", "0.1.0", None)
    assert record is None
    assert damage == f"the record is damaged: {here.record()} names {ALPHA} otherwise"


def test_a_blob_seems_damaged_when_it_is_missing_or_has_another_size(here: Place) -> None:
    blob = Blob(ALPHA, 5, ("a.csv",))
    assert here.auditor.seems_damaged("sample", blob) is False
    here.blob(ALPHA).write_bytes(b"ALPHA")
    assert here.auditor.seems_damaged("sample", blob) is False
    here.blob(ALPHA).write_bytes(b"alph")
    assert here.auditor.seems_damaged("sample", blob) is True
    here.blob(ALPHA).unlink()
    assert here.auditor.seems_damaged("sample", blob) is True


# Records that are healed


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
@pytest.mark.parametrize("what", ["record", "copy", "lost"])
def test_of_a_record_and_its_copy_each_heals_the_other(
    here: Place, there: Place, what: str, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.mirror(here)
    before = tree(here.folder)
    if what == "lost":
        here.record().unlink()
    else:
        (here.record() if what == "record" else here.copy()).write_bytes(b"damaged")
    if not links:
        monkeypatch.setattr(os, "link", fails_with(errno.EPERM))
    source = here.auditor.heal_record("sample", "0.1.0", there.auditor)
    assert source == ("the record itself" if what == "copy" else "its second copy")
    assert here.aside() == ([] if what == "lost" else [b"damaged"])
    assert {path: data for path, data in tree(here.folder).items() if ".damaged" not in path} == before


@pytest.mark.parametrize("of_a_mirror", [False, True], ids=["published", "mirrored"])
@pytest.mark.parametrize("what", ["both", "no copy"])
def test_the_bytes_of_a_record_are_made_from_that_of_the_other_archive(
    here: Place, there: Place, what: str, of_a_mirror: bool
) -> None:
    """Those differ in the origin only; the name of the copy, or the origin, proves which bytes were published."""
    there.mirror(here)
    one, other = (there, here) if of_a_mirror else (here, there)
    data, names = one.record().read_bytes(), one.copy().name
    one.record().write_bytes(data[:-1] + b" ")
    if what == "both":
        one.copy().write_bytes(b"damaged")
    else:
        shutil.rmtree(one.folder / ".records")
    if what == "no copy" and of_a_mirror:
        with pytest.raises(RecordError, match="it is not repaired, because nothing in"):
            one.auditor.heal_record("sample", "0.1.0", other.auditor)
        return
    assert one.auditor.heal_record("sample", "0.1.0", other.auditor) == str(other.archive.archive_path)
    assert one.record().read_bytes() == data
    assert one.aside() == sorted([data[:-1] + b" ", *([b"damaged"] if what == "both" else [])])
    assert (one.copy().name == names) if what == "both" else not (one.folder / ".records").exists()


def test_the_bytes_of_a_record_are_made_from_that_of_an_archive_that_names_blobs_otherwise(
    here: Place, there: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = here.record().read_bytes()
    theirs = ReleaseRecord(copied_record(here.archive.read_record("sample", "0.1.0", PUBLIC), here.archive, PUBLIC))
    theirs.set_pids({ALPHA: "https://site/pid/1", BETA: "https://site/pid/2"})
    theirs.content[RECORD_PID] = "https://site/pid/3"
    monkeypatch.setattr(there.auditor, "read_record", lambda title, version: theirs)
    for file in (here.record(), here.copy()):
        file.write_bytes(b"damaged")
    assert here.auditor.heal_record("sample", "0.1.0", there.auditor) == str(there.archive.archive_path)
    assert here.record().read_bytes() == here.copy().read_bytes() == data


@pytest.mark.parametrize("what", [Place.record, Place.copy])
def test_without_hard_links_a_damaged_record_keeps_its_name_until_the_right_bytes_get_it(
    here: Place, there: Place, what: Callable[[Place], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repair that is killed in between would leave a version that nobody knows of, or one without a copy."""
    file, data, replace = what(here), here.record().read_bytes(), os.replace
    file.write_bytes(b"damaged")
    seen = []

    def look(source: str, target: str, **where: Any) -> None:
        replace(source, target, **where)
        seen.append((file.read_bytes() if file.exists() else None, here.aside()))

    monkeypatch.setattr(os, "replace", look)
    monkeypatch.setattr(os, "link", fails_with(errno.EPERM))
    here.auditor.heal_record("sample", "0.1.0", there.auditor)
    assert seen[-2:] == [(b"damaged", [b"damaged"]), (data, [b"damaged"])]


def test_a_damaged_copy_of_another_name_is_removed_when_the_right_one_is_there(
    here: Place, there: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, other = here.copy(), here.copy().with_name("0" * 40)
    data, unlink, seen = right.read_bytes(), os.unlink, []
    other.write_bytes(b"damaged")
    right.write_bytes(b"damaged")

    def look(name: str, **where: Any) -> None:
        if name == other.name:
            seen.append(right.read_bytes())
        unlink(name, **where)

    monkeypatch.setattr(os, "unlink", look)
    here.auditor.heal_record("sample", "0.1.0", there.auditor)
    assert seen == [data]
    assert not other.exists()


def test_a_record_that_may_never_have_been_published_is_not_restored(here: Place, there: Place) -> None:
    here.record().unlink()
    before = tree(here.folder)
    with pytest.raises(RecordError, match=r"it is not restored, because .* does not have it"):
        here.auditor.heal_record("sample", "0.1.0", there.auditor)
    assert tree(here.folder) == before


def test_of_two_whole_copies_the_one_that_the_other_archive_proves_is_the_record(here: Place, there: Place) -> None:
    there.mirror(here)
    data = here.record().read_bytes()
    never_published = data + b" "
    (here.copy().parent / sha1(never_published)).write_bytes(never_published)
    here.record().write_bytes(b"damaged")
    assert here.auditor.heal_record("sample", "0.1.0", there.auditor) == str(there.archive.archive_path)
    assert here.record().read_bytes() == data
    assert here.aside() == [b"damaged"]


# Blobs that are healed


def heal(here: Place, there: Place, *blobs: Blob) -> dict[str, Exception]:
    record = here.archive.read_record("sample", "0.1.0", PUBLIC)
    source = HealingSource(there.auditor, blobs, record)
    return here.auditor.heal_blobs(blobs, record, source, threads=1, meter=Counting())


@pytest.mark.parametrize("damage", [b"ALPHA", b"alph", None], ids=["other bytes", "shorter", "missing"])
def test_a_blob_is_replaced_and_the_damaged_one_kept(here: Place, there: Place, damage: bytes | None) -> None:
    there.mirror(here)
    if damage is None:
        here.blob(ALPHA).unlink()
    else:
        here.blob(ALPHA).write_bytes(damage)
    assert heal(here, there, Blob(ALPHA, 5, ("a.csv",)), Blob(BETA, 4, ("b.csv",))) == {}
    assert here.blob(ALPHA).read_bytes() == b"alpha"
    assert here.aside() == ([] if damage is None else [damage]), "what is whole by now stays"
    assert not (here.folder / ".partial").exists()


def test_a_blob_that_is_damaged_there_too_stays_as_it_is(here: Place, there: Place) -> None:
    there.mirror(here)
    for place in (here, there):
        place.blob(ALPHA).write_bytes(b"ALPHA")
    here.blob(BETA).write_bytes(b"BETA")
    failures = heal(here, there, Blob(ALPHA, 5, ("a.csv",)), Blob(BETA, 4, ("b.csv",)))
    assert {digest: str(error) for digest, error in failures.items()} == {
        ALPHA: f"that of {there.archive.host} is damaged, too, so that it is not repaired"
    }
    assert (here.blob(ALPHA).read_bytes(), here.blob(BETA).read_bytes()) == (b"ALPHA", b"beta")
    assert here.aside() == [b"BETA"]


@pytest.mark.parametrize("left", [b"", b"al"], ids=["empty", "begun"])
def test_what_an_interrupted_upload_will_go_on_with_stays(here: Place, left: bytes) -> None:
    part = here.folder / ".partial" / f"{ALPHA}.part"
    part.parent.mkdir()
    part.write_bytes(left)
    here.auditor.tidy("sample")
    assert part.parent.exists() == bool(left)


@linux_only
def test_what_an_interrupted_repair_named_is_durable_before_its_traces_are_gone(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here.folder / ".partial").mkdir()
    disk = Disk(monkeypatch, here.folder)
    monkeypatch.setattr(os, "rmdir", lambda *folder, **where: disk.steps.append("rmdir"))
    here.auditor.tidy("sample")
    named = disk.steps[: disk.steps.index("rmdir")]
    for folder in (".", "blobs", f"blobs/{ALPHA[:2]}", f"blobs/{BETA[:2]}", ".records", ".records/0.1.0"):
        assert f"names in {folder}" in named


def test_something_else_than_a_file_is_set_aside_too(here: Place) -> None:
    here.blob(ALPHA).unlink()
    (here.blob(ALPHA) / "inside").mkdir(parents=True)
    here.auditor.set_aside("sample", ALPHA)
    assert not here.blob(ALPHA).exists()
    assert [path.name for path in here.folder.glob(".damaged/*/*")] == ["inside"]
    here.auditor.set_aside("sample", ALPHA)


# The archive itself


def test_a_blob_is_said_to_be_missing_when_it_is(here: Place) -> None:
    record = here.archive.read_record("sample", "0.1.0", PUBLIC)
    blob = next(blob for blob in record.blobs if blob.digest == ALPHA)
    with here.archive.open_blob(blob, record.content, PUBLIC) as stream:
        assert stream.read() == b"alpha"
    with here.archive.open_blob(blob, record.content, PUBLIC, 3) as stream:
        assert stream.read() == b"ha"
    here.blob(ALPHA).unlink()
    for break_it in (lambda: None, lambda: here.blob(ALPHA).mkdir(), lambda: shutil.rmtree(here.folder / "blobs")):
        break_it()
        with pytest.raises(BlobDamagedError, match=f"its blob .*{ALPHA} is missing from the archive"):
            here.archive.open_blob(blob, record.content, PUBLIC)
    for name in ("../../x", "alpha", None):
        with pytest.raises(RecordError, match="is not the name of a blob"):
            here.archive.open_blob(blob._replace(pid=name), record.content, PUBLIC)


def test_a_name_that_no_blob_can_have_makes_no_file(here: Place, tmp_path: Path) -> None:
    record = here.archive.read_record("sample", "0.1.0", PUBLIC).content
    before = tree(tmp_path)
    for name in ("../../x", "alpha"):
        status: dict[str, Any] = {}
        with pytest.raises(RecordError, match="is not the name of a blob"):
            here.archive.download_blob(name, tmp_path / "got.csv", status, 5, record, PUBLIC)
        assert status["success"] is False
    assert tree(tmp_path) == before


def test_a_record_in_the_file_of_another_one_is_not_read(here: Place) -> None:
    here.publish("0.2.0")
    shutil.rmtree(here.folder / ".records")
    here.record("0.1.0").write_bytes(here.record("0.2.0").read_bytes())
    with pytest.raises(RecordError, match=r"the record in this file is that of sample-v0\.2\.0"):
        here.archive.read_record("sample", "0.1.0", PUBLIC)


def test_a_record_is_refused_while_a_blob_of_it_is_missing_or_named_otherwise(here: Place) -> None:
    content = here.archive.read_record("sample", "0.1.0", PUBLIC).content
    content |= {"title": "sample-v0.2.0", "version": "0.2.0"}
    for change in ({"/bpid/": BETA}, {"/bytes/": 6}, {"/bpid/": sha1(b"x"), "/sha1/": sha1(b"x")}):
        wrong = {**content, "project": {**content["project"], "a.csv": content["project"]["a.csv"] | change}}
        with pytest.raises(PipelineError, match=r"a\.csv"):
            here.archive.upload_release_record(wrong, PUBLIC)
    assert here.archive.get_release_versions("sample") == ["0.1.0"]
    here.archive.upload_release_record(content, PUBLIC)
    assert here.archive.get_release_versions("sample") == ["0.1.0", "0.2.0"]


def test_blobs_of_another_size_or_kind_are_not_there(here: Place, tmp_path: Path) -> None:
    blob = Blob(ALPHA, 5, ("a.csv",))
    find = here.archive.find_blobs
    assert find([blob], "sample", PUBLIC) == {ALPHA: ALPHA}
    assert find([blob._replace(size=4)], "sample", PUBLIC) == {}
    here.blob(ALPHA).unlink()
    assert find([blob], "sample", PUBLIC) == {}
    here.blob(ALPHA).mkdir()
    size = here.blob(ALPHA).stat().st_size
    assert find([blob._replace(size=size)], "sample", PUBLIC) == {}
    assert find([blob], "other", PUBLIC) == find([], "sample", PUBLIC) == {}


def test_what_was_uploaded_and_what_failed_is_told_by_digest(here: Place, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_bytes(b"gamma")
    good, bad = Blob(sha1(b"gamma"), 5, ("new.csv",)), Blob(sha1(b"delta"), 5, ("none.csv",))
    record = ReleaseRecord(here.archive.read_record("sample", "0.1.0", PUBLIC).content)
    meter = Counting()
    pids, failures = here.archive.upload_blobs(
        [good, bad, Blob(ALPHA, 5, ("new.csv",))], ProjectSource(tmp_path), record, PUBLIC, threads=1, meter=meter
    )
    assert pids == {good.digest: good.digest, ALPHA: ALPHA}
    assert set(failures) == {bad.digest}
    assert sorted(meter.ended) == [
        ("new.csv", 5, True, False),
        ("new.csv", 5, True, True),
        ("none.csv", 0, False, False),
    ]


@pytest.mark.parametrize("data", [b"", b"g", b"gamma"], ids=repr)
def test_one_file_is_uploaded_and_told_where_it_is_asked_for(
    here: Place, tmp_path: Path, data: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "new.csv").write_bytes(data)
    given = ("new.csv", tmp_path, "sample", "sample-v0.1.0", PUBLIC, 1000)
    pid = sha1(data) if data else None
    assert here.archive.process_and_upload_blob(*given) == (pid, len(data))
    assert capsys.readouterr().out == ""
    assert here.archive.process_and_upload_blob(*given, verbose=True) == (pid, len(data))
    assert capsys.readouterr().out == (f"new.csv: {pid}, {len(data)} bytes\n" if data else "")
    assert not (here.folder / ".partial").exists()
