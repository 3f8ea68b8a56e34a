"""How many blobs are one batch: enough that the scheduler is not asked often, and few enough to be shared by hosts."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.archives import FileSystemArchive
from pipeline.archives.filesystem import create_archive
from pipeline.manifest import Manifest
from pipeline.release import BYTES, FILE, FILE_TYPE, FOLDER, ITEM, PATH, SHA1, ReleaseRecord
from pipeline.tasks.blobs import BIG_BYTES, tasks_for
from pipeline.tasks.publish import UploadBlob
from pipeline.tasks.runs import UploadRun

MIB = 2**20


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
    monkeypatch.setattr("pipeline.tasks.runs._runs", {})
    monkeypatch.setattr("pipeline.tasks.blobs._works_alone", lambda: False)
    assert blob_tasks(tmp_path / "archive", *sizes)[0].max_batch_size == size


def test_the_largest_release_of_a_run_decides_how_large_batches_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.tasks.runs._runs", {})
    few = blob_tasks(tmp_path / "few", *[4096] * 10)
    many = blob_tasks(tmp_path / "many", *[4096] * 8000)
    assert few[0].max_batch_size == many[0].max_batch_size == 1000


@pytest.mark.parametrize("alone", [True, False])
def test_big_blobs_come_first_and_share_a_batch_only_where_no_other_host_could_take_them(
    tmp_path: Path, alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.tasks.runs._runs", {})
    monkeypatch.setattr("pipeline.tasks.blobs._works_alone", lambda: alone)
    small, big = blob_tasks(tmp_path / "archive", 4096, BIG_BYTES)
    assert small.batchable
    assert big.batchable == alone
    assert big.priority > small.priority
