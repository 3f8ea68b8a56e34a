"""Publish a project as a release: PublishRelease -> UploadReleaseRecord -> UploadBlob for each blob."""

from pathlib import Path
from typing import Any

import luigi

from ..archives import ArchiveInterface, FileSystemArchive, is_url
from ..archives.filesystem import MARKER, create_archive
from ..checksums import hash_files
from ..errors import ArchiveError, PipelineError, ProjectError, ReleaseFileError, printable
from ..manifest import Manifest
from ..names import check_folder_name, normalize_title, record_title
from ..progress import Progress, format_bytes, log
from ..project import Project, scan_project
from ..release import ReleaseRecord
from ..release_file import ReleaseFile, read_release_file
from ..settings import full_path, read_settings
from ..versions import parse_version
from .base import HIDDEN, ManifestTask, ReleaseTask, TextsParameter
from .blobs import BlobTask, tasks_for
from .runs import UploadRun, hash_cache, known_run, manifest_folder, run_of


class UploadBlob(BlobTask):
    """Upload one blob of a release, or a batch of them."""

    kind = UploadRun


class UnreadableFile(ManifestTask):
    """A file of the project that could not be read. It fails, and so holds back the record but not the other blobs."""

    path = luigi.Parameter(description="The file, for people.")
    manifest = luigi.Parameter(visibility=HIDDEN, description="Digest of the manifest.")

    def complete(self) -> bool:
        """Tell that it is never done in the run that found it."""
        return False

    def perform(self) -> None:
        """Say why the file could not be read."""
        run_of(UploadRun, self.manifest).fail_unreadable(self.path)


class UploadReleaseRecord(ManifestTask):
    """Upload the record of a release, when all of its blobs are in the archive."""

    manifest = luigi.Parameter(visibility=HIDDEN, description="Digest of the manifest.")

    def requires(self) -> list[Any]:
        """Return the task of every blob."""
        run = known_run(UploadRun, self.manifest)
        return (
            []
            if run is None
            else run.tasks(
                lambda: [
                    *(
                        UnreadableFile(release=self.release, path=printable(path), manifest=self.manifest)
                        for path in run.unreadable
                    ),
                    *tasks_for(UploadBlob, run),
                ]
            )
        )

    def complete(self) -> bool:
        """Tell whether the archive has the record and every blob that it names."""
        run = known_run(UploadRun, self.manifest)
        if run is None:
            return False
        run.expect_changes()
        try:
            return run.is_finished()
        except (PipelineError, OSError):
            return False  # somebody was faster, with other content, or it cannot be seen; running says so

    def perform(self) -> None:
        """Publish the record."""
        run_of(UploadRun, self.manifest).publish()


class PublishRelease(ReleaseTask[UploadRun]):
    """Publish a project directory as a release in an archive."""

    project_directory = luigi.Parameter(default="", description="Folder of the project.")
    release_file = luigi.OptionalStrParameter(default=None, description="Release file; default <project>/release.yml.")
    title = luigi.OptionalStrParameter(default=None, description="Title of the release.")
    release_version = luigi.OptionalStrParameter(default=None, description="Semantic version of the release.")
    includes = TextsParameter(default="", description="Globs of files to publish although a rule ignores them.")
    ignores = TextsParameter(default="", description="Globs of files not to publish.")
    repeat_release = luigi.BoolParameter(description="Publish a version again, where the archive allows it.")
    create_archive = luigi.BoolParameter(description="Make the folder an archive if it is none.")

    _newest: str | None = None

    def make_plan(self) -> UploadRun:
        """Freeze what the project holds now into a manifest."""
        if not self.project_directory:
            raise ReleaseFileError("No project was named; give --project-directory, or set it in luigi.cfg.")
        directory = Path(full_path(self.project_directory, "--project-directory"))
        if not directory.is_dir():
            raise ProjectError(f"There is no folder {printable(directory)}; correct --project-directory.")
        release_file = read_release_file(directory, self.release_file)
        title, version = self._title_and_version(release_file)
        workspace = check_folder_name(self.workspace, "workspace")
        archive = self._open_archive()
        if self.repeat_release and not archive.supports_repeat_releases:
            raise ArchiveError(
                f"{printable(archive.host)} keeps every version once; leave out --repeat-release and give another "
                "--release-version."
            )
        project = scan_project(directory, self.ignores or release_file.ignores, self.includes or release_file.includes)
        digests, unreadable = self._hash(project)
        record = ReleaseRecord(
            {
                "title": record_title(title, version),
                "title_versionless": title,
                "version": version,
                "workflow_config_path": release_file.path,
                "workflow": release_file.workflow,
                "requirements": release_file.requirements,
                "project": project.mapping(digests),
                "datasets": release_file.datasets,
            },
            f"the record of {title}",
        )
        archive.check_record(record)  # what cannot be written is refused before anything is uploaded
        manifest = Manifest(self.location(), self.user, workspace, str(directory), record)
        run = UploadRun(manifest, archive)
        run.project = project
        run.unreadable = unreadable
        run.repeats = self._repeated(run) if self.repeat_release else None
        return run

    def _repeated(self, run: UploadRun) -> str:
        """Return where the record is that was the newest of this version when this task began."""
        if self._newest is None:
            self._newest = run.published_place() or ""
        return self._newest

    def _title_and_version(self, release_file: ReleaseFile) -> tuple[str, str]:
        title, version = self.title or release_file.title, self.release_version or release_file.version
        for value, option, key in ((title, "--title", "title"), (version, "--release-version", "version")):
            if not value:
                raise ReleaseFileError(
                    f"The release has no {key}; give {option}, or set 'release: {key}:' in release.yml."
                )
        source = "--release-version" if self.release_version else "version in the release file"
        return normalize_title(str(title)), str(parse_version(version, source))

    def _open_archive(self) -> ArchiveInterface:
        location = self.location()
        if self.create_archive and not is_url(location):
            if self.dry_run and not Path(location, MARKER).exists():
                return _ArchiveToBe(location)
            create_archive(location)
        return self.open_archive()

    def _hash(self, project: Project) -> tuple[dict[str, str], dict[str, Exception]]:
        nbytes = sum(stamp.size for stamp in project.files.values())
        with Progress(f"reading {project.directory.name}", 0, nbytes) as progress:
            return hash_files(
                project.directory,
                project.files,
                hash_cache(),
                threads=read_settings().threads,
                advance=lambda count: progress.advanced("", count),
                tick=progress.tick,
            )

    def requirements(self, run: UploadRun) -> UploadReleaseRecord:
        """Return the task of the record, which requires those of the blobs."""
        run.manifest.save(manifest_folder())
        return UploadReleaseRecord(release=run.record.title, manifest=run.manifest.digest)

    def perform(self) -> None:
        """Say what was done."""
        run = self.planned
        run.progress.close()
        run.manifest.remove(manifest_folder())
        log.info("Published %s: %s.\n%s", run.record.title, run.counts(), self._where(run))

    def say_present(self, run: UploadRun) -> None:
        """Say that the release is in the archive already."""
        run.tidy()
        log.info(
            "Nothing to do: %s is published, with %d blobs, %s.\n%s",
            run.record.title,
            len(run.blobs),
            format_bytes(run.record.nbytes),
            self._where(run),
        )

    def _where(self, run: UploadRun) -> str:
        run.place = run.place or run.archive.locate_record(run.record.content, run.manifest.workspace)
        return f"The record is {printable(run.place)}"


class _ArchiveToBe(FileSystemArchive):
    """The archive that a dry run would make."""

    def __init__(self, location: str) -> None:
        ArchiveInterface.__init__(self, location)
        self.archive_path = Path(location)
