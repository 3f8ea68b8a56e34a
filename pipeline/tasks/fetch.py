"""Fetch a release into a folder: FetchRelease -> DownloadBlob for each blob."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import luigi

from ..errors import LockFileError, PipelineError, ReleaseFileError
from ..lock_file import LockFile, read_lock_file
from ..manifest import Manifest
from ..names import check_folder_name, normalize_title, record_title
from ..progress import format_bytes, log
from ..settings import full_path
from ..versions import parse_expressions
from .base import ReleaseTask
from .blobs import BlobTask, tasks_for
from .required import Shelf, choose, keep
from .runs import FetchRun, manifest_folder


class DownloadBlob(BlobTask):
    """Download one blob of a release to all its files, or a batch of them."""

    kind = FetchRun


class FetchRelease(ReleaseTask[FetchRun]):
    """Fetch the newest release that satisfies a version expression into ``<destination>/<title>-v<version>/``."""

    title = luigi.OptionalStrParameter(default=None, description="Title of the release.")
    versions = luigi.Parameter(default="", description="For instance >=0.1.0,<0.2.0; default: the newest.")
    destination = luigi.Parameter(default=".", description="Gets the folder <title>-v<version>.")
    with_requirements = luigi.BoolParameter(description="Also fetch the releases that it requires; see <title>.lock.")
    update = luigi.BoolParameter(description="Choose the required releases anew, whatever <title>.lock says.")

    _lock: LockFile | None = None
    _required: Sequence[Any] = ()

    def make_plan(self) -> FetchRun:
        """Choose the version, and look at what is in the destination already."""
        if not self.title:
            raise ReleaseFileError("No release was named; give its title with --title.")
        if self.update and not self.with_requirements:
            raise ReleaseFileError("--update is for required releases; give --with-requirements too, or leave it out.")
        title, expressions = normalize_title(self.title), parse_expressions(self.versions)
        workspace = check_folder_name(self.workspace, "workspace")
        folder = self._folder()
        archive = self.open_archive()
        shelf = Shelf(archive, self.location(), workspace, title)
        if self.with_requirements:
            kept = None if self.update else keep(shelf, expressions, self._lock_file())
            self._lock = kept or choose(shelf, expressions)
        record = shelf.asked(self._lock.version if self._lock else shelf.newest(expressions))
        folder = os.path.join(folder, record.title)
        return FetchRun(Manifest(self.location(), self.user, workspace, folder, record), archive)

    def _folder(self) -> str:
        return full_path(self.destination, "--destination")

    def _lock_file(self) -> Path:
        return Path(self._folder(), f"{normalize_title(str(self.title))}.lock")

    def required(self) -> list[Any]:
        """Return the tasks of the releases that were chosen because this one requires them."""
        alone: dict[str, Any] = {"with_requirements": False, "update": False, "report_directory": None}
        # Held here, so that they are the same with the same plans when they are asked for again.
        self._required = [
            self.clone(title=title, versions=f"=={one.version}", **alone)
            for title, one in (self._lock.required() if self._lock else {}).items()
        ]
        return list(self._required)

    def parts(self, plan: FetchRun) -> list[Any]:
        """Return the tasks of all releases that are fetched."""
        return [self, *self.required()]

    def complete(self) -> bool:
        """Tell whether there is nothing to do, for the required releases too."""
        performed = self._is_plan_new
        # Luigi lets a task run only when those that it requires are complete.
        return super().complete() and (performed or self._lock is None or self._is_wholly_complete())

    def _is_wholly_complete(self) -> bool:
        try:
            if not self.dry_run:
                return self._is_locked() and all(task.complete() for task in self.required())
            for task in self.required():
                task.complete()  # plans anew
            self.planned.required = [task.planned for task in self.required()]
            return True
        except (PipelineError, OSError) as error:
            self.refuse(error)
            return False

    def _is_locked(self) -> bool:
        """Tell whether the lock file says what was chosen."""
        try:
            return read_lock_file(self._lock_file()) == self._lock
        except LockFileError:
            return False

    def requirements(self, run: FetchRun) -> list[Any]:
        """Return the task of every blob and of every required release, when the lock file names these."""
        if self._lock and not self._is_locked():
            self._lock.write(self._lock_file())
        run.manifest.save(manifest_folder())
        return [*run.tasks(lambda: tasks_for(DownloadBlob, run)), *self.required()]

    def perform(self) -> None:
        """Write what is no blob, and the record when all else is there."""
        run = self.planned
        run.destination.finish()
        run.place = str(run.destination.record_file)
        run.progress.close()
        run.manifest.remove(manifest_folder())
        log.info("Fetched %s: %s.\nThe files are in %s", run.record.title, run.counts(), run.destination.folder)
        self._say_required()

    def say_present(self, run: FetchRun) -> None:
        """Say that the release is here already."""
        run.destination.tidy()
        run.place = str(run.destination.record_file)
        log.info(
            "Nothing to do: %s is here, with %d blobs, %s.\nThe files are in %s",
            run.record.title,
            len(run.blobs),
            format_bytes(run.record.nbytes),
            run.destination.folder,
        )
        self._say_required()

    def _say_required(self) -> None:
        if self._lock:
            names = ", ".join(record_title(title, one.version) for title, one in self._lock.required().items())
            log.info("Required by it, and here: %s.\nThe choice is in %s", names or "nothing", self._lock_file())
