"""A program that never ends, and that publishes, fetches, mirrors and audits in one process, again and again.

Run as ``python -m tests.attacks.long_lived FOLDER ROUNDS [URL]``; it prints what it holds after each round, as JSON.
"""

import contextlib
import functools
import gc
import json
import os
import re
import sys
import tracemalloc
from datetime import date
from pathlib import Path
from typing import Any

import luigi

import pipeline
from pipeline import ArchiveInterface, get_interface
from pipeline.archives.filesystem import create_archive
from pipeline.errors import BlobsFailedError
from tests.attacks.load import (
    BETWEEN_NIGHTS,
    FIRST_NIGHT,
    RUNS_EACH_ROUND,
    Sample,
    compress_time,
    damage,
    grow_old,
    make_project,
    of_folders,
    of_process,
    throw_away,
)

WORKSPACE = "Global Public Workspace"


def build(task: luigi.Task, succeeds: bool = True) -> None:
    """Run a task, as a script does."""
    assert luigi.build([task], local_scheduler=True, no_lock=True, log_level="CRITICAL") is succeeds, task


def with_tasks(number: int, title: str, when: date, host: str) -> None:
    """Do the work of a night by tasks; one of them fails."""
    release: dict[str, Any] = {"title": title, "report_directory": "reports"}
    publish: dict[str, Any] = {"project_directory": title, "release_version": "1.0.0"}
    for _ in ("new", "nothing to do"):
        build(pipeline.PublishRelease(archive=host, **release, **publish))
    build(pipeline.FetchRelease(archive=host, destination=f"{title}-fetched", **release))
    mirror: dict[str, Any] = {"source": host, "destination": "mirror", "report_directory": "reports"}
    build(pipeline.MirrorArchive(date=when, titles=[title], **mirror))
    damage(Path("mirror"), title)
    build(pipeline.AuditArchive(date=when, archive="mirror", report_directory="reports"), succeeds=False)
    build(pipeline.FetchRelease(archive="mirror", destination=f"{title}-damaged", **release), succeeds=False)
    build(pipeline.AuditArchive(date=when, archive="mirror", repair_from=host, report_directory="reports"))


def with_the_interface(title: str, host: str) -> None:
    """Publish and fetch without tasks; a fetch of what is damaged fails."""
    archive = get_interface(host)
    name = f"{title}-v1.0.1"
    (Path(title) / "same.csv").write_bytes(name.encode())
    (record,) = archive.get_release_records(title, ["==1.0.0"]).values()
    archive.upload_blobs_and_update_mapping(name, title, WORKSPACE, record["project"], title, 4, 2**20)
    record.pop("/PID/", None)
    archive.upload_release_record({**record, "title": name, "version": "1.0.1"}, WORKSPACE)
    fetch(archive, title, f"{title}-by-interface")
    damage(Path("mirror"), title)
    with contextlib.suppress(BlobsFailedError):
        fetch(get_interface("mirror"), title, f"{title}-by-interface-damaged")


def fetch(archive: ArchiveInterface, title: str, folder: str) -> None:
    """Fetch a release without tasks."""
    (record,) = archive.get_release_records(title, ["==1.0.0"]).values()
    archive.download_release(record, WORKSPACE, 4, folder, 2**20, False, False)


def empty_caches() -> None:
    """Drop what is kept up to a limit, which is reached one day, and what nobody holds; what has no limit stays."""
    re.purge()
    for cache in gc.get_objects():
        if isinstance(cache, functools._lru_cache_wrapper) and cache.cache_parameters()["maxsize"] is not None:
            cache.cache_clear()
    gc.collect()


def main() -> None:
    """Live."""
    folder, rounds, url = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    os.chdir(folder)
    for archive in ("archive", "mirror"):
        create_archive(archive)
    compress_time()
    tracemalloc.start()
    for number in range(rounds):
        title = f"night-{number}"
        make_project(Path(title), number)
        host = url[0] if url else "archive"
        with_tasks(number, title, FIRST_NIGHT + number * BETWEEN_NIGHTS, host)
        with_the_interface(title, host)
        throw_away(Path(), number)
        grow_old(Path("cache"))
        empty_caches()
        counts = of_process(os.getpid(), "the program") | of_folders(
            Path(), Path("cache"), [Path("archive"), Path("mirror")]
        )
        counts["memory of the program"] = tracemalloc.get_traced_memory()[0]
        counts["objects in the program"] = len(gc.get_objects())
        print(json.dumps(Sample((number + 1) * RUNS_EACH_ROUND, counts)), flush=True)


if __name__ == "__main__":
    main()
