"""Runs in the environment of rmellipse 0.4.5: publishes and fetches by its own functions, as its commands do.

``python rmellipse_driver.py publish PROJECT ARCHIVE VERSION`` and ``fetch ARCHIVE VERSION FOLDER``.
"""

import contextlib
import sys
from pathlib import Path

WORKSPACE = "Global Public Workspace"
TITLE = "sample"
# The defaults of its commands.
THREADS = 50
CHUNK = 2**20


def publish(project: str, archive: str, version: str) -> None:
    """Publish a folder; a version that is there already is refused at the end, when all files were read."""
    from rmellipse.workflows.archive_interface import FileSystemArchive
    from rmellipse.workflows.extras import map_directory

    interface = FileSystemArchive(archive, None)
    record = {
        "title": f"{TITLE}-v{version}",
        "title_versionless": TITLE,
        "version": version,
        "workflow_config_path": "workflow.yml",
        "workflow": {"jobs": {}},
        "requirements": [],
        "project": map_directory({}, Path(project)),
        "datasets": {},
    }
    interface.upload_blobs_and_update_mapping(
        release_title=record["title"],
        release_title_versionless=TITLE,
        workspace=WORKSPACE,
        project_mapping=record["project"],
        project_directory=Path(project),
        max_threads=THREADS,
        chunk_size=CHUNK,
    )
    with contextlib.suppress(FileExistsError):
        interface.upload_release_record(record, WORKSPACE)


def fetch(archive: str, version: str, folder: str) -> None:
    """Fetch a version into a folder."""
    from rmellipse.workflows.archive_interface import FileSystemArchive

    interface = FileSystemArchive(archive, None)
    records = interface.get_release_records(
        title_versionless=TITLE, version_expressions=[f"=={version}"], workspace=WORKSPACE
    )
    interface.download_release(
        record=records[f"{TITLE}-v{version}"],
        workspace=WORKSPACE,
        max_threads=THREADS,
        release_cache_folder=Path(folder),
        download_chunk_bytes=4 * CHUNK,
    )


if __name__ == "__main__":
    {"publish": publish, "fetch": fetch}[sys.argv[1]](*sys.argv[2:])
