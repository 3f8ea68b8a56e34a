"""In which order an archive in a folder makes things durable and visible."""

import contextlib
import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline import ArchiveInterface, FileSystemArchive
from pipeline.archives import filesystem as module
from pipeline.archives.filesystem import create_archive
from pipeline.archives.filesystem_audit import FileSystemAuditor
from pipeline.archives.interface import ReleaseName
from pipeline.durable import sync_upwards
from pipeline.errors import BlobsFailedError, RecordError, ReleaseExistsError
from pipeline.release import Blob
from tests.audits import PUBLIC, audit
from tests.disk import Disk, linux_only
from tests.support import sha1, tree

ALPHA = sha1(b"alpha")


def upload(archive: FileSystemArchive, folder: Path, data: bytes = b"alpha") -> dict[str, Any]:
    """Upload the blob of a release of one file, and return the record, which is still to be published."""
    folder.mkdir(exist_ok=True)
    (folder / "a.csv").write_bytes(data)
    project: dict[str, Any] = {"a.csv": {"/path/": "a.csv", "/item/": "File"}}
    archive.upload_blobs_and_update_mapping("sample-v0.1.0", "sample", PUBLIC, project, folder, 1, 1000)
    return {"title": "sample-v0.1.0", "title_versionless": "sample", "version": "0.1.0", "project": project}


def new_archive(folder: Path) -> FileSystemArchive:
    create_archive(folder)
    return FileSystemArchive(folder)


@pytest.fixture
def archive(tmp_path: Path) -> FileSystemArchive:
    return new_archive(tmp_path / "archive")


@linux_only
def test_a_folder_is_durably_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch, tmp_path)
    assert create_archive(tmp_path / "deep" / "archive") is True
    assert disk.steps == ["names in deep/archive", "names in deep", "names in ."]
    assert create_archive(tmp_path / "deep" / "archive") is False
    assert tree(tmp_path) == {"deep": None, "deep/archive": None, "deep/archive/.rmearchive": b""}


def test_a_folder_with_files_can_be_made_an_archive(tmp_path: Path) -> None:
    (tmp_path / "notes").touch()
    assert create_archive(tmp_path) is True


@linux_only
def test_a_record_is_published_when_its_copy_and_its_blobs_are_durable(
    archive: FileSystemArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = upload(archive, tmp_path / "project")
    folder = archive.title_folder("sample", PUBLIC)
    disk = Disk(monkeypatch, folder)
    archive.upload_release_record(record, PUBLIC)
    before = disk.before("name sample-v0.1.0.yml")
    (copy,) = [step for step in before if step.startswith("name .records/0.1.0/")]
    assert "names in .records/0.1.0" in before[before.index(copy) :]
    assert "names in .records" in before[before.index(copy) :]
    assert f"names in blobs/{ALPHA[:2]}" in before
    assert "names in ." in disk.after("name sample-v0.1.0.yml")


def test_a_record_is_told_to_be_where_it_was_published(archive: FileSystemArchive, tmp_path: Path) -> None:
    record, file = upload(archive, tmp_path / "project"), archive.record_file("sample", "0.1.0", PUBLIC)
    assert archive.upload_release_record(record, PUBLIC) == archive.locate_record(record, PUBLIC) == file.as_posix()


def test_a_record_that_another_run_publishes_just_before_is_not_replaced(
    archive: FileSystemArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, file = upload(archive, tmp_path / "project"), archive.record_file("sample", "0.1.0", PUBLIC)

    def be_late(folder: Path) -> None:
        monkeypatch.setattr(module, "sync_upwards", sync_upwards)
        archive.upload_release_record({**record, "operator": "somebody else"}, PUBLIC)
        sync_upwards(folder)

    monkeypatch.setattr(module, "sync_upwards", be_late)
    with pytest.raises(ReleaseExistsError):
        archive.upload_release_record({**record, "operator": "me"}, PUBLIC)
    assert archive.read_record("sample", "0.1.0", PUBLIC).content["operator"] == "somebody else"
    (copy,) = (file.parent / ".records" / "0.1.0").iterdir()
    assert copy.read_bytes() == file.read_bytes()


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_run_that_was_killed_just_before_it_published_is_completed_by_the_same_command(
    archive: FileSystemArchive, tmp_path: Path, is_whole: bool
) -> None:
    record, file = upload(archive, tmp_path / "project"), archive.record_file("sample", "0.1.0", PUBLIC)
    archive.upload_release_record(record, PUBLIC)
    file.unlink()
    (copy,) = (file.parent / ".records" / "0.1.0").iterdir()
    if not is_whole:
        copy.write_bytes(b"damaged")
    archive.upload_release_record(record, PUBLIC)
    assert copy.read_bytes() == file.read_bytes()


@linux_only
def test_what_is_damaged_durably_has_a_second_name_before_its_own_is_given_away(
    archive: FileSystemArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = new_archive(tmp_path / "mirror")
    for place in (archive, mirror):
        place.upload_release_record(upload(place, tmp_path / "project"), PUBLIC)
    folder = archive.title_folder("sample", PUBLIC)
    blob = folder / "blobs" / ALPHA[:2] / ALPHA
    blob.write_bytes(b"ALPHA")
    disk = Disk(monkeypatch, folder)
    assert not audit(archive, mirror).failures
    before = disk.before(f"name blobs/{ALPHA[:2]}/{ALPHA}")
    (aside,) = [step for step in before if step.startswith(f"name .damaged/{ALPHA}-")]
    assert "names in .damaged" in before[before.index(aside) :]
    assert "names in ." in before[: before.index(aside)]
    assert blob.read_bytes() == b"alpha"


@linux_only
def test_what_is_set_aside_is_durably_there_before_it_is_durably_gone(
    archive: FileSystemArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(archive, tmp_path / "project")
    disk = Disk(monkeypatch, archive.title_folder("sample", PUBLIC))
    FileSystemAuditor(archive, PUBLIC).set_aside("sample", ALPHA)
    (aside,) = [step for step in disk.steps if step.startswith(f"name .damaged/{ALPHA}-")]
    assert disk.steps == ["names in .", aside, "names in .damaged", f"names in blobs/{ALPHA[:2]}"]


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_what_is_set_aside_is_gone_from_its_place_and_kept_once(
    archive: FileSystemArchive, tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:

        def refuse(*arguments: object, **where: object) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    upload(archive, tmp_path / "project")
    folder = archive.title_folder("sample", PUBLIC)
    auditor = FileSystemAuditor(archive, PUBLIC)
    for _ in range(2):
        auditor.set_aside("sample", ALPHA)
    assert [path.read_bytes() for path in (folder / ".damaged").iterdir()] == [b"alpha"]
    assert not (folder / "blobs" / ALPHA[:2] / ALPHA).exists()


def test_a_repair_that_was_killed_when_it_had_set_something_aside_does_not_do_it_again(
    archive: FileSystemArchive, tmp_path: Path
) -> None:
    upload(archive, tmp_path / "project")
    folder = archive.title_folder("sample", PUBLIC)
    (folder / ".damaged").mkdir()
    os.link(folder / "blobs" / ALPHA[:2] / ALPHA, folder / ".damaged" / f"{ALPHA}-20261123T000000.000000Z")
    FileSystemAuditor(archive, PUBLIC).set_aside("sample", ALPHA)
    assert len(list((folder / ".damaged").iterdir())) == 1


def test_another_file_that_is_kept_aside_does_not_keep_the_next_one_from_it(
    archive: FileSystemArchive, tmp_path: Path
) -> None:
    auditor = FileSystemAuditor(archive, PUBLIC)
    for data in (b"alpha", b"beta", b"alpha"):
        upload(archive, tmp_path / "project", data)
        auditor.set_aside("sample", sha1(data))
    folder = archive.title_folder("sample", PUBLIC) / ".damaged"
    assert sorted(path.read_bytes() for path in folder.iterdir()) == [b"alpha", b"alpha", b"beta"]


def test_an_auditor_sees_blobs_by_their_place_and_all_else_by_its_path(
    archive: FileSystemArchive, tmp_path: Path
) -> None:
    upload(archive, tmp_path / "project")
    blobs = archive.title_folder("sample", PUBLIC) / "blobs"
    for path, data in {"ff/" + ALPHA: b"misplaced", "ff/notes": b"no digest", "loose": b"no folder"}.items():
        (blobs / path).parent.mkdir(exist_ok=True)
        (blobs / path).write_bytes(data)
    (blobs / "link").symlink_to(tmp_path)
    sizes = FileSystemAuditor(archive, PUBLIC).list_blobs("sample")
    assert sizes.pop(str(blobs / "link")) == len(str(tmp_path))
    assert sizes == {
        ALPHA: 5,
        str(blobs / "ff" / ALPHA): 9,
        str(blobs / "ff" / "notes"): 9,
        str(blobs / "loose"): 9,
    }


def test_titles_are_folders_with_the_name_of_a_title(archive: FileSystemArchive, tmp_path: Path) -> None:
    workspace = archive.archive_path / PUBLIC
    workspace.mkdir()
    for name in ("sample", "another", ".hidden"):
        (workspace / name).mkdir()
    (workspace / "file").touch()
    assert FileSystemAuditor(archive, PUBLIC).titles() == ["another", "sample"]
    assert FileSystemAuditor(archive, "nowhere").titles() == []


def test_an_archive_says_that_a_version_is_published_once(archive: ArchiveInterface) -> None:
    assert archive.supports_repeat_releases is False


def test_blobs_whose_names_begin_alike_are_found(archive: FileSystemArchive, tmp_path: Path) -> None:
    first, *others = [b"%d" % n for n in range(2000)]
    second = next(data for data in others if sha1(data)[:2] == sha1(first)[:2])
    for data in (first, second):
        upload(archive, tmp_path / "project", data)
    blobs = [Blob(sha1(data), len(data), ("a.csv",)) for data in (first, second, b"alpha")]
    assert archive.find_blobs(blobs, "sample", PUBLIC) == {sha1(data): sha1(data) for data in (first, second)}


def test_one_file_that_cannot_be_uploaded_is_named(archive: FileSystemArchive, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"alpha")
    title = archive.title_folder("sample", PUBLIC)
    title.mkdir(parents=True)
    (title / ".partial").touch()
    with pytest.raises(BlobsFailedError) as caught:
        archive.process_and_upload_blob("a.csv", tmp_path, "sample", "sample-v0.1.0", PUBLIC, 1000)
    assert [path for path, _ in caught.value.failures] == ["a.csv"]


def test_releases_are_listed_by_what_is_there_or_by_the_titles_that_are_asked_for(
    archive: FileSystemArchive, tmp_path: Path
) -> None:
    archive.upload_release_record(upload(archive, tmp_path / "project"), PUBLIC)
    (archive.archive_path / PUBLIC / ".hidden").mkdir()
    for titles in (None, ["sample"], ["sample", "another"]):
        assert archive.list_releases(PUBLIC, titles) == [ReleaseName("sample", "0.1.0")]
    assert archive.list_releases(PUBLIC, ["another"]) == archive.list_releases(PUBLIC, []) == []
    assert archive.list_releases("nowhere") == []


def test_a_refused_record_does_not_become_what_was_published(archive: FileSystemArchive, tmp_path: Path) -> None:
    """The earlier tool keeps no second copy of a record; that of a refused one would be taken for it."""
    record = upload(archive, tmp_path / "project")
    archive.upload_release_record(record, PUBLIC)
    file, folder = archive.record_file("sample", "0.1.0", PUBLIC), archive.title_folder("sample", PUBLIC)
    shutil.rmtree(folder / ".records")
    published = file.read_bytes()
    with pytest.raises(ReleaseExistsError):
        archive.upload_release_record({**record, "operator": "somebody else"}, PUBLIC)
    mirror = new_archive(tmp_path / "mirror")
    mirror.upload_release_record(upload(mirror, tmp_path / "project"), PUBLIC)
    assert not audit(archive).failures
    auditor = FileSystemAuditor(archive, PUBLIC)
    with contextlib.suppress(RecordError):
        auditor.heal_record("sample", "0.1.0", mirror.auditor(PUBLIC))
    assert file.read_bytes() == published


def test_a_refused_record_leaves_what_a_damaged_one_is_healed_by(archive: FileSystemArchive, tmp_path: Path) -> None:
    record, file = upload(archive, tmp_path / "project"), archive.record_file("sample", "0.1.0", PUBLIC)
    archive.upload_release_record(record, PUBLIC)
    copies, published = tree(file.parent / ".records"), file.read_bytes()
    for damage in (published[:-1] + b" ", None):
        if damage is None:
            file.unlink()
            file.mkdir()
        else:
            file.write_bytes(damage)
        with pytest.raises(ReleaseExistsError):
            archive.upload_release_record(record, PUBLIC)
        assert tree(file.parent / ".records") == copies


def test_a_damaged_copy_that_was_never_published_is_set_aside(archive: FileSystemArchive, tmp_path: Path) -> None:
    mirror = new_archive(tmp_path / "mirror")
    for place in (archive, mirror):
        place.upload_release_record(upload(place, tmp_path / "project"), PUBLIC)
    copies = archive.title_folder("sample", PUBLIC) / ".records" / "0.1.0"
    (right,) = copies.iterdir()
    (copies / sha1(b"another record")).write_bytes(b"damaged")
    assert (
        FileSystemAuditor(archive, PUBLIC).heal_record("sample", "0.1.0", mirror.auditor(PUBLIC)) == "the record itself"
    )
    assert list(copies.iterdir()) == [right]
    assert [path.read_bytes() for path in (copies.parent.parent / ".damaged").iterdir()] == [b"damaged"]


def test_a_record_that_nothing_proves_is_left_as_it_is(archive: FileSystemArchive, tmp_path: Path) -> None:
    archive.upload_release_record(upload(archive, tmp_path / "project"), PUBLIC)
    file = archive.record_file("sample", "0.1.0", PUBLIC)
    (copy,) = (file.parent / ".records" / "0.1.0").iterdir()
    file.write_bytes(b"damaged")
    copy.write_bytes(b"damaged too")
    before = tree(archive.archive_path)
    mirror = new_archive(tmp_path / "mirror")
    with pytest.raises(RecordError, match="it is not repaired"):
        FileSystemAuditor(archive, PUBLIC).heal_record("sample", "0.1.0", mirror.auditor(PUBLIC))
    assert tree(archive.archive_path) == before
