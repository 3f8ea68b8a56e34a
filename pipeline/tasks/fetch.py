"""Fetch a release into a folder: FetchRelease -> DownloadBlob for each blob."""

import os
from typing import Any

import luigi

from ..archives.interface import not_found
from ..errors import ReleaseFileError
from ..manifest import Manifest
from ..names import check_folder_name, normalize_title, record_title
from ..progress import format_bytes, log
from ..release import ReleaseRecord
from ..settings import full_path
from ..versions import matches, parse_expressions
from .base import ReleaseTask
from .blobs import BlobTask, tasks_for
from .runs import FetchRun, manifest_folder


class DownloadBlob(BlobTask):
    """Download one blob of a release to all its files, or a batch of them."""

    kind = FetchRun


class FetchRelease(ReleaseTask[FetchRun]):
    """Fetch the newest release that satisfies a version expression into ``<destination>/<title>-v<version>/``."""

    title = luigi.OptionalStrParameter(default=None, description="Title of the release.")
    versions = luigi.Parameter(default="", description="For instance >=0.1.0,<0.2.0; default: the newest.")
    destination = luigi.Parameter(default=".", description="Gets the folder <title>-v<version>.")

    def make_plan(self) -> FetchRun:
        """Choose the version, and look at what is in the destination already."""
        if not self.title:
            raise ReleaseFileError("No release was named; give its title with --title.")
        title, expressions = normalize_title(self.title), parse_expressions(self.versions)
        workspace = check_folder_name(self.workspace, "workspace")
        archive = self.open_archive()
        versions = [v for v in archive.get_release_versions(title, workspace) if matches(v, expressions)]
        if not versions:
            raise not_found(archive, title, expressions, workspace)
        name = record_title(title, versions[-1])
        found = archive.get_release(title, versions[-1], workspace)
        if found is None:
            raise not_found(archive, title, [f"=={versions[-1]}"], workspace)
        record = ReleaseRecord(found, f"the record of {name}")
        folder = os.path.join(full_path(self.destination, "--destination"), name)
        return FetchRun(Manifest(self.location(), self.user, workspace, folder, record), archive)

    def requirements(self, run: FetchRun) -> list[Any]:
        """Return the task of every blob."""
        run.manifest.save(manifest_folder())
        return run.tasks(lambda: tasks_for(DownloadBlob, run))

    def perform(self) -> None:
        """Write what is no blob, and the record when all else is there."""
        run = self.planned
        run.destination.finish()
        run.progress.close()
        run.manifest.remove(manifest_folder())
        log.info("Fetched %s: %s.\nThe files are in %s", run.record.title, run.counts(), run.destination.folder)

    def say_present(self, run: FetchRun) -> None:
        """Say that the release is here already."""
        run.destination.tidy()
        log.info(
            "Nothing to do: %s is here, with %d blobs, %s.\nThe files are in %s",
            run.record.title,
            len(run.blobs),
            format_bytes(run.record.nbytes),
            run.destination.folder,
        )
