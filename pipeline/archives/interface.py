"""What every archive can do, for scripts and for the Luigi tasks alike.

An archive of your own needs the four abstract methods. The others have a default on top of them, and may be replaced
where an archive can do better.
"""

import contextlib
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from ..checksums import CHUNK, HashCache, Stream, hash_file
from ..destination import Destination
from ..errors import ArchiveError, BlobsFailedError, ReleaseRecordNotFoundError, SourceChangedError, printable
from ..names import record_title
from ..progress import Progress
from ..release import BYTES, FOLDER, ITEM, PID, SHA1, Blob, ReleaseRecord, walk_mapping
from ..transfer import Meter, file_source
from ..workers import Workers
from .auditing import Auditor
from .found import found_and_sorted
from .sources import BlobSource, ProjectSource

DEFAULT_WORKSPACE = "Global Public Workspace"
Record = dict[str, Any]


class ReleaseName(NamedTuple):
    """What a release is called: its title and its version."""

    title_versionless: str
    version: str


class ArchiveInterface(ABC):
    """An archive of releases.

    Parameters
    ----------
    host : str or Path
        Where the archive is: a folder or a URL.
    user : str, optional
        Who uses it, where the archive wants to know.
    password : str, optional
        Taken by archives that need one; never kept here.

    Attributes
    ----------
    host, user
        As given.
    supports_repeat_releases : bool
        Whether a version can be published more than once.
    """

    supports_repeat_releases: bool = False

    def __init__(self, host: str | Path, user: str | None = None, password: str | None = None) -> None:
        self.host: str | Path = host
        self.user = user

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "get_release_records" in cls.__dict__:
            cls.get_release_records = found_and_sorted(cls.get_release_records)  # type: ignore[method-assign]  # of a subclass

    @abstractmethod
    def get_release_records(
        self,
        title_versionless: str,
        version_expressions: Sequence[str] | None = None,
        workspace: str = DEFAULT_WORKSPACE,
    ) -> dict[str, Record]:
        """Return the records of a release that satisfy all version expressions.

        Parameters
        ----------
        title_versionless : str
            The title without the version.
        version_expressions : sequence of str, optional
            For instance ``[">=0.1.0", "<0.2.0"]`` or ``["==0.1.2"]``; None means all.
        workspace : str, optional
            Where to look.

        Returns
        -------
        dict
            ``{title}-v{version}`` to record, from the oldest version to the newest by semantic-version precedence.
            An implementation may return them in any order.

        Raises
        ------
        ReleaseRecordNotFoundError
            When there is none. An implementation may as well return an empty dict.
        """

    @abstractmethod
    def download_blob(
        self,
        blob_pid: str,
        target_file: Path,
        update_dict: dict[str, Any],
        expected_size: int,
        release_record: Record,
        workspace: str,
        chunk_size: int = 2**25,
    ) -> None:
        """Fetch one blob into a file, which gets its name only when the bytes are verified.

        Parameters
        ----------
        blob_pid : str
            The ``/bpid/`` of the record.
        target_file : Path
            The file.
        update_dict : dict
            Kept up to date: ``size`` (bytes so far), ``finished``, ``success`` and ``error``.
        expected_size : int
            The ``/bytes/`` of the record.
        release_record : dict
            The record that names the blob.
        workspace : str
            Where the record is.
        chunk_size : int, optional
            Bytes to hold in memory.
        """

    @abstractmethod
    def process_and_upload_blob(
        self,
        posix_rel_path: str | Path,
        working_dir: str | Path,
        release_title_versionless: str,
        release_title: str,
        workspace_title: str,
        chunk_size: int,
        verbose: bool = False,
    ) -> tuple[str | None, int]:
        """Upload one file, unless the archive has its bytes already.

        Parameters
        ----------
        posix_rel_path : str or Path
            The file, relative to `working_dir`.
        working_dir : str or Path
            The project directory.
        release_title_versionless, release_title : str
            The title without and with the version.
        workspace_title : str
            Where to.
        chunk_size : int
            Bytes to hold in memory.
        verbose : bool, optional
            Say what is done.

        Returns
        -------
        blob_pid : str or None
            The PID of the blob; None for an empty file, which lives in the record only.
        nbytes : int
            The size of the file in bytes.
        """

    @abstractmethod
    def upload_release_record(self, release_record: Record, workspace: str) -> str:
        """Publish a record, after all of its blobs, and return its PID.

        Parameters
        ----------
        release_record : dict
            The record.
        workspace : str
            Where to.
        """

    def get_release(self, title_versionless: str, version: str, workspace: str = DEFAULT_WORKSPACE) -> Record | None:
        """Return the record of one version, or None."""
        try:
            records = self.get_release_records(title_versionless, [f"=={version}"], workspace)
        except ReleaseRecordNotFoundError:
            return None
        return records.get(record_title(title_versionless, version))

    def get_release_versions(self, title_versionless: str, workspace: str = DEFAULT_WORKSPACE) -> list[str]:
        """Return the versions of a release, from the oldest to the newest; none when there is no such release."""
        try:
            records = self.get_release_records(title_versionless, None, workspace)
        except ReleaseRecordNotFoundError:
            return []
        return [record["version"] for record in records.values()]

    def list_releases(
        self, workspace: str = DEFAULT_WORKSPACE, titles: Sequence[str] | None = None
    ) -> list[ReleaseName]:
        """Return the releases of a workspace, sorted by title and from the oldest version to the newest.

        By default each title is asked for, which must be given then.

        Parameters
        ----------
        workspace : str, optional
            Where to look.
        titles : sequence of str, optional
            Only the releases with these titles; None means all.

        Raises
        ------
        ArchiveError
            When the archive cannot tell which titles there are.
        """
        if titles is None:
            raise ArchiveError(f"{printable(self.host)} cannot list its titles; name them, for a mirror with --titles.")
        return [
            ReleaseName(title, version)
            for title in sorted(set(titles))
            for version in self.get_release_versions(title, workspace)
        ]

    def find_blobs(self, blobs: Iterable[Blob], title_versionless: str, workspace: str) -> dict[str, str]:
        """Return the PIDs of those blobs that are in the archive with the right size, digest to PID.

        By default none is known, and :meth:`upload_blobs` finds out.
        """
        return {}

    def upload_blobs(
        self,
        blobs: Sequence[Blob],
        source: BlobSource,
        record: ReleaseRecord,
        workspace: str,
        *,
        threads: int,
        meter: Meter,
        chunk_size: int = CHUNK,
    ) -> tuple[dict[str, str], dict[str, Exception]]:
        """Upload blobs, many at a time. One that fails does not stop the others.

        Parameters
        ----------
        blobs : sequence of Blob
            Of the record.
        source : BlobSource
            Where their bytes are.
        record : ReleaseRecord
            The release that they belong to.
        workspace : str
            Where to.
        threads : int
            How many move at the same time.
        meter : Meter
            Is told how it goes.
        chunk_size : int, optional
            Bytes that a thread holds in memory.

        Returns
        -------
        pids : dict
            Digest to PID.
        failures : dict
            Digest to error.
        """
        pids: dict[str, str] = {}

        def upload(blob: Blob) -> None:
            meter.started(blob.paths[0], blob.size)
            with source.as_file(blob) as (folder, path):
                pid, _ = self.process_and_upload_blob(
                    posix_rel_path=path,
                    working_dir=folder,
                    release_title_versionless=record.title_versionless,
                    release_title=record.title,
                    workspace_title=workspace,
                    chunk_size=chunk_size,
                )
            pids[blob.digest] = str(pid)
            meter.advanced(blob.paths[0], blob.size)
            meter.finished(blob.paths[0], blob.size, None, True)

        with Workers(threads, meter.tick) as workers:
            failed = workers.each(upload, blobs)
        for blob, error in failed.items():
            meter.finished(blob.paths[0], 0, error, False)
        return pids, {blob.digest: error for blob, error in failed.items()}

    def publish_record(self, release_record: Record, workspace: str, after: str | None) -> str:
        """Publish a record, unless another one of its version was published since the caller looked.

        By default the archive keeps a version once, and :meth:`upload_release_record` sees to it. `after` is where
        the newest record of this version was when the caller looked; None when there was none.

        Raises
        ------
        ReleaseExistsError
            When there is another one by now.
        """
        return self.upload_release_record(release_record, workspace)

    def check_record(self, record: ReleaseRecord) -> None:
        """Refuse a record that the archive could not keep, before anything is uploaded for it.

        Raises
        ------
        RecordError
            When it has something that cannot be written.
        """
        record.dump()

    def open_blob(
        self, blob: Blob, release_record: Record, workspace: str, offset: int = 0
    ) -> AbstractContextManager[Stream]:
        """Open a blob as a stream of its bytes from `offset` on. The reader verifies them.

        By default the blob is downloaded into a temporary file first.
        """
        return self._open_downloaded(blob, release_record, workspace, offset)

    @contextlib.contextmanager
    def _open_downloaded(self, blob: Blob, release_record: Record, workspace: str, offset: int) -> Iterator[Stream]:
        with tempfile.TemporaryDirectory() as folder:
            target, status = Path(folder) / "blob", dict[str, Any]()
            self.download_blob(
                blob_pid=str(blob.pid),
                target_file=target,
                update_dict=status,
                expected_size=blob.size,
                release_record=release_record,
                workspace=workspace,
            )
            if status.get("error"):
                raise status["error"]
            with file_source(target, offset) as stream:
                yield stream

    def auditor(self, workspace: str) -> Auditor:
        """Return what an audit sees of a workspace. By default it can read, and repair nothing."""
        return Auditor(self, workspace)

    def locate_record(self, record: Record, workspace: str) -> str:
        """Return where a published record is, for people: by default its PID, or the archive."""
        return str(record.get("/PID/", self.host))

    def tidy(self, title_versionless: str, workspace: str) -> None:  # noqa: B027  most archives have nothing to tidy
        """Remove what interrupted runs left for this release, unless another run is using it."""

    def download_release(
        self,
        record: Record,
        workspace: str,
        max_threads: int,
        release_cache_folder: str | Path,
        download_chunk_bytes: int,
        progress_bar: bool = True,
        file_status: bool = True,
    ) -> None:
        """Fetch all files of a release into a folder, and the record into its ``.rme/record.yml``.

        What is there already, with the right bytes, is not fetched again.

        Parameters
        ----------
        record : dict
            The record, from :meth:`get_release_records`.
        workspace : str
            Where the record is.
        max_threads : int
            How many blobs are fetched at the same time.
        release_cache_folder : str or Path
            Gets the files.
        download_chunk_bytes : int
            Bytes that each thread holds in memory.
        progress_bar : bool, optional
            Show progress.
        file_status : bool, optional
            Show in it which files are moving.

        Raises
        ------
        BlobsFailedError
            When some blobs could not be fetched; all others were.
        RecordError
            When the record is damaged or hostile.
        """
        release = ReleaseRecord(record)
        folder = Path(os.path.abspath(release_cache_folder))
        destination = Destination(folder, release, HashCache(None))
        there = destination.verified(threads=max_threads)
        missing = [blob for blob in release.blobs if blob.digest not in there]
        nbytes = sum(blob.size for blob in missing)
        with Progress(release.title, len(missing), nbytes, shown=progress_bar, names_shown=file_status) as progress:
            failures = destination.fetch(
                missing,
                lambda blob, offset: self.open_blob(blob, record, workspace, offset),
                threads=max_threads,
                meter=progress,
                chunk=download_chunk_bytes,
            )
        _raise_failures({blob.paths[0]: failures[blob.digest] for blob in missing if blob.digest in failures})
        destination.finish()

    def upload_blobs_and_update_mapping(
        self,
        release_title: str,
        release_title_versionless: str,
        workspace: str,
        project_mapping: dict[str, Any],
        project_directory: str | Path,
        max_threads: int,
        chunk_size: int,
        no_blobs: bool = False,
    ) -> None:
        """Upload every file of a project mapping, and write ``/bpid/``, ``/bytes/`` and ``/sha1/`` into it.

        To be called before :meth:`upload_release_record`.

        Parameters
        ----------
        release_title, release_title_versionless : str
            The title with and without the version.
        workspace : str
            Where to.
        project_mapping : dict
            The ``project`` of a record; changed in place.
        project_directory : str or Path
            Where its files are.
        max_threads : int
            How many blobs move at the same time.
        chunk_size : int
            Bytes that each thread holds in memory.
        no_blobs : bool, optional
            Upload nothing, for debugging only: the mapping gets sizes and digests but no PIDs.

        Raises
        ------
        BlobsFailedError
            When some files could not be uploaded; all others were.
        """
        directory = Path(project_directory)
        files = [node for node in walk_mapping(project_mapping, release_title) if node.item != FOLDER]
        failures: dict[str, Exception] = {}
        for node in files:
            try:
                digest, stamp = hash_file(directory / node.path)
                node.properties.update({PID: None, BYTES: stamp.size, SHA1: digest})
            except (OSError, SourceChangedError) as error:
                # Its old properties would not be true; without a size it cannot be published.
                node.properties.update({PID: None, BYTES: None, SHA1: None})
                failures[node.path] = error
        if no_blobs:
            _raise_failures(failures)
            return
        version = release_title.removeprefix(f"{release_title_versionless}-v")
        release = ReleaseRecord(
            {
                "title": release_title,
                "title_versionless": release_title_versionless,
                "version": version,
                "project": _only(project_mapping, failures),
            }
        )
        self.check_record(release)
        with Progress(release_title, len(release.blobs), release.nbytes) as progress:
            pids, failed = self.upload_blobs(
                release.blobs,
                ProjectSource(directory),
                release,
                workspace,
                threads=max_threads,
                meter=progress,
                chunk_size=chunk_size,
            )
        failures |= {blob.paths[0]: failed[blob.digest] for blob in release.blobs if blob.digest in failed}
        _raise_failures(failures)
        release.set_pids(pids)


def _raise_failures(failures: Mapping[str, Exception]) -> None:
    if failures:
        raise BlobsFailedError(list(failures.items()))


def _only(project: dict[str, Any], failures: Mapping[str, Exception], folder: str = "") -> dict[str, Any]:
    """Return a mapping without the files that failed; its other nodes are those of `project`."""
    if not failures:
        return project
    return {
        name: _only(node, failures, f"{folder}{name}/") if isinstance(node, dict) and node.get(ITEM) == FOLDER else node
        for name, node in project.items()
        if folder + name not in failures
    }
