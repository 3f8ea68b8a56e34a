"""An archive in a folder.

A record is ``<workspace>/<title>/<title>-v<version>.yml``, a blob ``<workspace>/<title>/blobs/<2 digits>/<digest>``.
This is the layout of the earlier tool (rmellipse 0.4.5), which reads what is published here. Parts of running uploads
are in ``<workspace>/<title>/.partial``, which is gone when nothing runs. :mod:`.filesystem_audit` tells of the rest.
"""

import functools
import io
import os
import re
import stat
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from ..checksums import CHUNK, hash_file, is_digest
from ..destination import fetch_file
from ..documents import read_document
from ..durable import Staging, is_taken, sync_folder, sync_upwards, write_file
from ..errors import (
    ArchiveError,
    BlobDamagedError,
    BlobNotThereError,
    BlobsFailedError,
    RecordError,
    ReleaseExistsError,
    SourceChangedError,
    printable,
)
from ..names import check_folder_name
from ..release import BYTES, FOLDER, PID, SHA1, Blob, ReleaseRecord, walk_mapping
from ..transfer import Meter, Move, Silent, file_source, move_blobs
from ..versions import is_version, matches, parse_expressions, precedence
from .filesystem_audit import FileSystemAuditor, is_as_published, is_folder_name, remove_other_copies, write_copy
from .interface import DEFAULT_WORKSPACE, ArchiveInterface, Record, ReleaseName
from .sources import BlobSource, ProjectSource

MARKER = ".rmearchive"


def create_archive(folder: str | Path) -> bool:
    """Make a folder an archive; return False when it is one already.

    Raises
    ------
    OSError
        When the folder or the marker in it cannot be made.
    """
    marker = Path(folder) / MARKER
    if marker.exists():
        return False
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
    sync_upwards(marker.parent)
    return True


class FileSystemArchive(ArchiveInterface):
    """An archive in a folder. Who may read and write is a matter of the file system's permissions.

    Parameters
    ----------
    host : str or Path
        The folder.
    user : str, optional
        Not used; kept for callers that name one.

    Attributes
    ----------
    archive_path : Path
        The folder, absolute and with symbolic links resolved.
    host : str
        The folder as given, in posix form.

    Raises
    ------
    ArchiveError
        When the folder is not an archive.
    """

    supports_repeat_releases = False

    def __init__(self, host: str | Path, user: str | None = None) -> None:
        super().__init__(Path(host).as_posix(), user)
        self.archive_path = Path(os.path.realpath(host))
        if not (self.archive_path / MARKER).is_file():
            raise ArchiveError(
                f"{printable(host)} is not an archive; correct the name, or make it one with "
                f"'luigi --module pipeline CreateArchive --archive {printable(host)}'."
            )

    def auditor(self, workspace: str) -> FileSystemAuditor:
        """Return what an audit sees of a workspace."""
        return FileSystemAuditor(self, workspace)

    def title_folder(self, title: str, workspace: str) -> Path:
        """Return the folder of a title."""
        return _title_folder(self.archive_path, title, workspace)

    def staging(self, title: str, workspace: str) -> Staging:
        """Return the folder where what belongs to a title is written first."""
        return Staging(self.title_folder(title, workspace) / ".partial", self.archive_path)

    def _blobs_folder(self, title: str, workspace: str) -> str:
        return _blobs_folder(self.archive_path, title, workspace)

    def _blob_file(self, digest: str | None, title: str, workspace: str) -> str:
        if not is_digest(digest):
            raise RecordError(f"'{printable(digest)}' is not the name of a blob in a file-system archive.")
        return f"{self._blobs_folder(title, workspace)}/{str(digest)[:2]}/{digest}"

    def get_release_records(
        self,
        title_versionless: str,
        version_expressions: Sequence[str] | None = None,
        workspace: str = DEFAULT_WORKSPACE,
    ) -> dict[str, Record]:
        """Return the records of a release that satisfy all version expressions, oldest to newest.

        Raises
        ------
        ReleaseRecordNotFoundError
            When there is none.
        RecordError
            When one of them is damaged.
        """
        return {
            f"{title_versionless}-v{version}": self.read_record(title_versionless, version, workspace).content
            for version in self.get_release_versions(title_versionless, workspace)
            if matches(version, parse_expressions(version_expressions))
        }

    def get_release_versions(self, title_versionless: str, workspace: str = DEFAULT_WORKSPACE) -> list[str]:
        """Return the versions of a release, oldest to newest, by the names of its records."""
        name = re.compile(re.escape(title_versionless) + r"-v(.+)\.yml")
        try:
            names = os.listdir(self.title_folder(title_versionless, workspace))
        except (FileNotFoundError, NotADirectoryError):
            return []
        versions = (match[1] for match in map(name.fullmatch, names) if match)
        return sorted(filter(is_version, versions), key=lambda version: (precedence(version), version))

    def list_releases(
        self, workspace: str = DEFAULT_WORKSPACE, titles: Sequence[str] | None = None
    ) -> list[ReleaseName]:
        """Return the releases of a workspace by the names of folders and records, sorted."""
        if titles is None:
            names = _names_in(self.archive_path / check_folder_name(workspace, "workspace"))
            titles = [name for name in names if is_folder_name(name)]
        return super().list_releases(workspace, titles)

    def record_file(self, title: str, version: str, workspace: str) -> Path:
        """Return the file of a record."""
        return self.title_folder(title, workspace) / f"{title}-v{version}.yml"

    def read_record(self, title: str, version: str, workspace: str) -> ReleaseRecord:
        """Read a record.

        Raises
        ------
        OSError
            When its file cannot be read.
        RecordError
            When it is damaged, or does not have the bytes that were published.
        """
        file = self.record_file(title, version, workspace)
        data = read_document(file)
        if not is_as_published(data, self.title_folder(title, workspace), version):
            raise RecordError(
                f"{printable(file)} does not have the bytes that were published; AuditArchive can repair it."
            )
        record = ReleaseRecord.parse(data, str(file))
        if (record.title_versionless, record.version) != (title, version):
            raise RecordError(f"{printable(file)}: the record in this file is that of {printable(record.title)}.")
        return record

    def find_blobs(self, blobs: Iterable[Blob], title_versionless: str, workspace: str) -> dict[str, str]:
        """Return the PIDs of those blobs that are in the archive with the right size: the digests themselves."""
        folder = self._blobs_folder(title_versionless, workspace)
        found = {}
        for first, alike in groupby(sorted(blobs, key=lambda blob: blob.digest), key=lambda blob: blob.digest[:2]):
            names = _names_in(f"{folder}/{first}")
            for digest, size in ((blob.digest, blob.size) for blob in alike):
                if digest in names and _has_size(f"{folder}/{first}/{digest}", size):
                    found[digest] = digest
        return found

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
        """Upload blobs in groups that become durable and visible together."""
        failures = self._upload(
            blobs,
            source,
            record.title_versionless,
            workspace,
            threads=threads,
            meter=meter,
            chunk=chunk_size,
        )
        return {blob.digest: blob.digest for blob in blobs if blob.digest not in failures}, failures

    def _upload(
        self,
        blobs: Iterable[Blob],
        source: BlobSource,
        title: str,
        workspace: str,
        *,
        threads: int,
        meter: Meter,
        chunk: int,
    ) -> dict[str, Exception]:
        folder = self._blobs_folder(title, workspace)

        def move(blob: Blob) -> Move:
            target = f"{folder}/{blob.digest[:2]}/{blob.digest}"
            return Move(
                name=blob.paths[0],
                digest=blob.digest,
                size=blob.size,
                source=lambda offset: source.open(blob, offset),
                targets=(target,),
                is_there=lambda: _has_size(target, blob.size),
                wrong=lambda: source.wrong(blob),
            )

        return move_blobs(map(move, blobs), self.staging(title, workspace), threads=threads, meter=meter, chunk=chunk)

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
        """Upload one file, unless the archive has its bytes already; the PID is its SHA-1."""
        path = Path(posix_rel_path).as_posix()
        digest, stamp = hash_file(Path(working_dir) / path)
        if stamp.size == 0:
            return None, 0
        blob = Blob(digest, stamp.size, (path,))
        failures = self._upload(
            [blob],
            ProjectSource(working_dir),
            release_title_versionless,
            workspace_title,
            threads=1,
            meter=Silent(),
            chunk=chunk_size,
        )
        self.tidy(release_title_versionless, workspace_title)
        if failures:
            raise BlobsFailedError([(path, failures[digest])])
        if verbose:
            print(f"{printable(path)}: {digest}, {stamp.size} bytes")
        return digest, stamp.size

    def upload_release_record(
        self, release_record: Record, workspace: str | None = None, *, workspace_title: str | None = None
    ) -> str:
        """Publish a record and return its path. The workspace goes by either name.

        Raises
        ------
        ReleaseExistsError
            When this version is in the archive already.
        BlobNotThereError
            When a blob of the record is not in the archive.
        RecordError
            When the record is not valid.
        """
        given = workspace if workspace is not None else workspace_title
        where = DEFAULT_WORKSPACE if given is None else given
        record = ReleaseRecord(release_record)
        found = self.find_blobs(record.blobs, record.title_versionless, where)
        for node in walk_mapping(record.content["project"], record.title):
            pid = node.properties.get(PID)
            if (
                node.item != FOLDER
                and node.properties[BYTES]
                and (pid not in found or node.properties.get(SHA1, pid) != pid)
            ):
                raise BlobNotThereError(record.title, node.path, self.host)
        # Another run may have been stopped when it had named a blob and not made the name durable.
        blobs = self._blobs_folder(record.title_versionless, where)
        for names in sorted({path for blob in record.blobs for path in (blobs, f"{blobs}/{blob.digest[:2]}")}):
            sync_folder(names)
        folder, staging = (
            self.title_folder(record.title_versionless, where),
            self.staging(record.title_versionless, where),
        )
        file, data = self.record_file(record.title_versionless, record.version, where), record.dump()
        try:
            # The second copy of what is refused would be taken for that of a record which the earlier tool published.
            if is_taken(file):
                raise FileExistsError
            sync_upwards(write_copy(data, folder, record.version, staging).parent)
            write_file(data, file, staging, exclusive=True)
        except FileExistsError:
            raise ReleaseExistsError(
                f"{record.title} is in {printable(self.host)} already, and a published release never changes; "
                "choose another version."
            ) from None
        finally:
            remove_other_copies(file, folder, record.version, staging)
            self.tidy(record.title_versionless, where)
        return file.as_posix()

    def open_blob(self, blob: Blob, release_record: Record, workspace: str, offset: int = 0) -> io.FileIO:
        """Open a blob as a stream of its bytes from `offset` on.

        Raises
        ------
        BlobDamagedError
            When the archive does not have it.
        """
        file = self._blob_file(blob.pid, release_record["title_versionless"], workspace)
        try:
            return file_source(file, offset)
        except (FileNotFoundError, NotADirectoryError, SourceChangedError):
            raise BlobDamagedError(
                f"its blob {printable(file)} is missing from the archive; restore it and run the same command again"
            ) from None

    def download_blob(
        self,
        blob_pid: str,
        target_file: str | Path,
        update_dict: dict[str, Any],
        expected_size: int,
        release_record: Record,
        workspace: str,
        chunk_size: int = 2**25,
    ) -> None:
        """Fetch one blob into a file, which gets its name only when the bytes are verified.

        Raises
        ------
        BlobsFailedError
            When the blob is missing or damaged; `update_dict` tells the same.
        """

        def find() -> Blob:
            self._blob_file(blob_pid, release_record["title_versionless"], workspace)
            return Blob(blob_pid, expected_size, (Path(target_file).name,), blob_pid)

        fetch_file(
            find,
            lambda blob, offset: self.open_blob(blob, release_record, workspace, offset),
            Path(target_file),
            update_dict,
            chunk_size,
        )

    def locate_record(self, record: Record, workspace: str) -> str:
        """Return the file of a published record."""
        return self.record_file(record["title_versionless"], record["version"], workspace).as_posix()

    def tidy(self, title_versionless: str, workspace: str) -> None:
        """Remove the parts that interrupted runs left for this release, unless another run is using them."""
        self.staging(title_versionless, workspace).clear()


def _title_folder(archive: Path, title: str, workspace: str) -> Path:
    return archive / check_folder_name(workspace, "workspace") / check_folder_name(title, "title")


@functools.lru_cache(maxsize=100)
def _blobs_folder(archive: Path, title: str, workspace: str) -> str:
    """Return the folder of the blobs as text: path objects would cost more than to look at a small blob."""
    return str(_title_folder(archive, title, workspace) / "blobs")


def _names_in(folder: str | Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:
        return set()


def _has_size(path: str | Path, size: int) -> bool:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == size
