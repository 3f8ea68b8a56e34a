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


def batch_size(archive: Path, *sizes: int) -> int:
    """Return how many blobs are a batch in a release of blobs of these sizes."""
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
    return int(tasks_for(UploadBlob, run)[0].max_batch_size)


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
def test_a_batch_is_neither_too_many_blobs_nor_too_many_bytes(tmp_path: Path, sizes: list[int], size: int) -> None:
    assert batch_size(tmp_path / "archive", *sizes) == size
