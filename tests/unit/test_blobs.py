"""What the tasks of blobs and of audits tell the scheduler: how many are one batch, and how far they are."""

import errno
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import luigi
import pytest

from pipeline.archives import FileSystemArchive
from pipeline.archives.filesystem import create_archive
from pipeline.errors import ArchiveError, ReleaseExistsError, StorageError
from pipeline.manifest import Manifest
from pipeline.release import BYTES, FILE, FILE_TYPE, FOLDER, ITEM, PATH, SHA1, Blob, ReleaseRecord
from pipeline.tasks.audit import AuditTitle
from pipeline.tasks.audit_runs import RepairRun
from pipeline.tasks.blobs import BIG_BYTES, _works_alone, tasks_for
from pipeline.tasks.mirror import MirrorReleaseRecord
from pipeline.tasks.publish import PublishRelease, UploadBlob, UploadReleaseRecord
from pipeline.tasks.runs import UploadRun, manifest_folder
from tests.support import sha1

MIB = 2**20


PATIENCE = 40.0


@pytest.fixture(autouse=True)
def _runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs stay that no task of a user holds, and none of another test."""
    monkeypatch.setattr("pipeline.tasks.runs._runs", {})


def blob_tasks(archive: Path, *sizes: int) -> list[UploadBlob]:
    """Return the tasks of a release of blobs of these sizes."""
    nodes: dict[str, Any] = {
        f"{n}.csv": {PATH: f"{n}.csv", ITEM: FILE, FILE_TYPE: "misc", BYTES: size, SHA1: f"{n:040x}"}
        for n, size in enumerate(sizes)
    }
    record = ReleaseRecord(
        {
            "title": "sample-v0.1.0",
            "title_versionless": "sample",
            "version": "0.1.0",
            "workflow_config_path": None,
            "workflow": {},
            "requirements": [],
            "project": {PATH: ".", ITEM: FOLDER, **nodes},
            "datasets": {},
        }
    )
    create_archive(str(archive))
    run = UploadRun(Manifest(str(archive), None, "workspace", "project", record), FileSystemArchive(str(archive)))
    return tasks_for(UploadBlob, run)


@pytest.mark.parametrize(
    ("sizes", "size"),
    [
        ([4096] * 100, 200),
        ([4096] * 8000, 1000),
        ([10 * MIB] * 1000, 51),
        ([63 * MIB] * 20, 8),
        ([4096] * 1000 + [BIG_BYTES] * 10, 200),
        ([BIG_BYTES] * 3, 200),
    ],
    ids=["few", "many", "10 MiB", "almost big", "some are big", "all are big"],
)
def test_a_batch_is_neither_too_many_blobs_nor_too_many_bytes(
    tmp_path: Path, sizes: list[int], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.tasks.blobs._works_alone", lambda: False)
    assert blob_tasks(tmp_path / "archive", *sizes)[0].max_batch_size == size


def test_who_works_alone_moves_a_release_in_one_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.tasks.blobs._works_alone", lambda: True)
    assert blob_tasks(tmp_path / "archive", *[4096] * 8000)[0].max_batch_size == 8000


@pytest.mark.parametrize(("local", "workers", "alone"), [(True, 1, True), (True, 2, False), (False, 1, False)])
def test_other_workers_are_those_of_a_central_scheduler_and_of_the_same_process(
    local: bool, workers: int, alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = SimpleNamespace(local_scheduler=local, workers=workers)
    monkeypatch.setattr("luigi.interface.core", lambda: core)
    assert _works_alone.__wrapped__() == alone


def test_the_largest_release_of_a_run_decides_how_large_batches_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.tasks.blobs._works_alone", lambda: False)
    few = blob_tasks(tmp_path / "few", *[4096] * 10)
    many = blob_tasks(tmp_path / "many", *[4096] * 8000)
    assert few[0].max_batch_size == many[0].max_batch_size == 1000


@pytest.mark.parametrize("alone", [True, False])
def test_big_blobs_come_first_and_share_a_batch_only_where_no_other_host_could_take_them(
    tmp_path: Path, alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.tasks.blobs._works_alone", lambda: alone)
    small, big = blob_tasks(tmp_path / "archive", 4096, BIG_BYTES)
    assert small.batchable
    assert big.batchable == alone
    assert big.priority > small.priority


def test_the_output_of_a_batch_is_there_when_its_blobs_are(tmp_path: Path) -> None:
    run, task = blob_tasks(tmp_path / "archive", 4096, 4097)[0].moving, UploadBlob
    batch = task(release="sample-v0.1.0", manifest=run.manifest.digest, blobs="0-1", path="2 blobs")
    assert [str(output) for output in batch.output()] == [f"{n}.csv ({n:040x})" for n in range(2)]
    assert not any(output.exists() for output in batch.output())
    run.there[f"{1:040x}"] = ""
    assert [output.exists() for output in batch.output()] == [False, True]


@pytest.fixture(params=["a blob", "an audit"])
def task(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A task that says how far it is, for which Luigi has no scheduler yet."""
    monkeypatch.setattr("pipeline.tasks.blobs._works_alone", lambda: False)
    tasks = blob_tasks(tmp_path / "archive", 4096)
    return tasks[0] if request.param == "a blob" else AuditTitle(archive=str(tmp_path / "archive"), title="sample")


def test_a_scheduler_that_does_not_answer_holds_up_nothing(task: Any) -> None:
    told: list[str] = []
    answers, done = threading.Event(), threading.Event()

    def tell(message: str) -> None:
        told.append(message)
        assert answers.wait(PATIENCE)

    task.set_status_message = tell
    task.set_progress_percentage = lambda percentage: done.set()
    task._announce("1 of 2 blobs", 50)
    task._announce("2 of 2 blobs", 100)
    assert not done.is_set()
    answers.set()
    assert done.wait(PATIENCE)
    assert told == ["1 of 2 blobs"]


def test_a_lost_scheduler_is_no_reason_to_stop(task: Any) -> None:
    done = threading.Event()

    def fail(message: str) -> None:
        raise ConnectionError("nobody there")

    task.set_status_message = fail
    task.set_progress_percentage = lambda percentage: done.set()
    task._announce("1 of 2 blobs", 50)
    assert done.wait(PATIENCE)


def test_the_page_of_the_scheduler_gets_no_markup_from_the_name_of_a_file(task: Any) -> None:
    told: list[str] = []
    done = threading.Event()
    task.set_status_message = told.append
    task.set_progress_percentage = lambda percentage: done.set()
    task._announce("1 of 2 blobs, now <img src=x onerror=alert(1)>.csv", 50)
    assert done.wait(PATIENCE)
    assert told == ["1 of 2 blobs, now \N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}img src=x onerror=alert(1)>.csv"]


def test_a_task_of_a_blob_can_be_made_without_naming_its_parameters() -> None:
    named = UploadBlob(release="sample-v0.1.0", path="a.csv", blobs="0", manifest="m")
    assert UploadBlob("sample-v0.1.0", "a.csv", "0", "m").task_id == named.task_id
    with pytest.raises(luigi.parameter.MissingParameterException):
        UploadBlob(release="sample-v0.1.0")


def test_a_record_that_is_refused_and_not_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = blob_tasks(tmp_path / "archive", 4096)[0].moving

    def refuse() -> str:
        raise ReleaseExistsError("sample-v0.1.0 is there already")

    monkeypatch.setattr(run, "_publish_record", refuse)
    with pytest.raises(ReleaseExistsError):
        run.publish()


@pytest.mark.parametrize(
    "error", [ReleaseExistsError("it is there already"), OSError("the disk is silent"), ArchiveError("it is gone")]
)
def test_what_cannot_be_seen_is_not_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    (blob,) = blob_tasks(tmp_path / "archive", 4096)
    mirrored, title = MirrorReleaseRecord(title="sample", version="0.1.0"), AuditTitle(title="sample")

    def fail(*args: object) -> bool:
        raise error

    monkeypatch.setattr(blob.moving, "is_finished", fail)
    monkeypatch.setattr(blob.moving, "is_there", fail)
    monkeypatch.setattr(mirrored, "done", blob.moving)
    monkeypatch.setattr(AuditTitle, "auditing", SimpleNamespace(result_of=fail))
    record = UploadReleaseRecord(release="sample-v0.1.0", manifest=blob.manifest)
    assert [task.complete() for task in (record, blob, mirrored, title)] == [False] * 4


def test_a_worker_that_does_not_see_the_archive_says_so_when_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (known,) = blob_tasks(tmp_path / "archive", 4096)
    known.moving.manifest.save(manifest_folder())
    monkeypatch.setattr("pipeline.tasks.runs._runs", {})
    (tmp_path / "archive" / ".rmearchive").unlink()
    task = UploadBlob(**known.param_kwargs)
    assert (task.priority, task.resources, task.complete()) == (1, {}, False)
    with pytest.raises(ArchiveError, match="is not an archive"):
        task.run()


def test_what_is_repeated_is_what_was_the_newest_when_the_task_began() -> None:
    task, places = PublishRelease(repeat_release=True), iter(["the first", "the second"])
    run: Any = SimpleNamespace(published_place=lambda: next(places))
    assert [task._repeated(run), task._repeated(run)] == ["the first", "the first"]


def test_what_another_process_repaired_is_read_once_and_known_then(tmp_path: Path) -> None:
    run = RepairRun(blob_tasks(tmp_path / "archive", 4096)[0].moving.manifest, FileSystemArchive(tmp_path / "archive"))
    data = b"x" * 4096
    blob = Blob(sha1(data), len(data), ("0.csv",), sha1(data))
    file = tmp_path / "archive" / "workspace" / "sample" / "blobs" / blob.digest[:2] / blob.digest
    assert not run.is_there(blob)
    file.parent.mkdir(parents=True)
    file.write_bytes(data)
    assert run.is_there(blob)
    file.unlink()
    assert run.is_there(blob)


def test_a_repair_is_over_when_the_last_blob_is_accounted_for(tmp_path: Path) -> None:
    run = RepairRun(blob_tasks(tmp_path / "archive", 1, 2)[0].moving.manifest, FileSystemArchive(tmp_path / "archive"))
    ends: list[bool] = []
    audit: Any = SimpleNamespace(damaged={"0.1.0": run.blobs})
    run.follow(audit, lambda: ends.append(run.is_over))
    for blob in run.blobs:
        assert ends == []
        run.progress.finished(blob.paths[0], blob.size, None, True)
        run._close_if_over()
    assert ends == [True]


def test_an_audit_whose_repairs_cannot_be_made_durable_fails_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Exception] = []

    def fail(title: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/srv/archive/blobs")

    auditing = SimpleNamespace(
        audit_of=lambda title: SimpleNamespace(check=lambda announce: None),
        note_found=lambda title: None,
        repairs_of=lambda title: [],
        finish_title=fail,
        title_failed=lambda title, error: told.append(error),
    )
    monkeypatch.setattr(AuditTitle, "auditing", auditing)
    with pytest.raises(StorageError, match=r"^/srv/archive: the disk is full; make room"):
        list(AuditTitle(archive="/srv/archive", title="sample").run())
    assert [error.errno for error in told if isinstance(error, OSError)] == [errno.ENOSPC]
