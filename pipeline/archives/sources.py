"""Where blobs come from that are put into an archive: a project directory, or another archive."""

import contextlib
import copy
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checksums import CHUNK, Stream, hash_file
from ..destination import blob_damaged, fetch_file
from ..errors import BlobError, BlobsFailedError
from ..project import source_changed, source_vanished
from ..release import ORIGIN, RECORD_PID, Blob, ReleaseRecord
from ..transfer import file_source

if TYPE_CHECKING:
    from .interface import ArchiveInterface


class BlobSource(ABC):
    """Where blobs come from that are put into an archive."""

    @abstractmethod
    def open(self, blob: Blob, offset: int = 0) -> AbstractContextManager[Stream]:
        """Open a blob as a stream of its bytes from `offset` on. The reader verifies them."""

    @abstractmethod
    def wrong(self, blob: Blob) -> BlobError:
        """Return the error for bytes that do not have the digest of the blob."""

    @contextlib.contextmanager
    def as_file(self, blob: Blob) -> Iterator[tuple[Path, str]]:
        """Give a blob, verified, as a file: a folder, and the path of the file in it; by default it is a copy."""
        with tempfile.TemporaryDirectory() as folder:
            name = os.path.basename(blob.paths[0])
            try:
                fetch_file(lambda: blob, self.open, Path(folder) / name, {}, CHUNK)
            except BlobsFailedError as error:
                raise error.failures[0][1] from None
            yield Path(folder), name


class ProjectSource(BlobSource):
    """The files of a project directory.

    Parameters
    ----------
    directory : Path
        The project directory.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = os.fspath(directory)

    def open(self, blob: Blob, offset: int = 0) -> AbstractContextManager[Stream]:
        """Open the first file that holds a blob.

        Raises
        ------
        SourceChangedError
            When it is gone.
        """
        try:
            return file_source(os.path.join(self._directory, blob.paths[0]), offset)
        except FileNotFoundError:
            raise source_vanished() from None

    def wrong(self, blob: Blob) -> BlobError:
        """Return the error for a file that changed."""
        return source_changed()

    @contextlib.contextmanager
    def as_file(self, blob: Blob) -> Iterator[tuple[Path, str]]:
        """Give the file itself.

        Raises
        ------
        SourceChangedError
            When it does not hold the blob any more.
        """
        digest, _ = hash_file(Path(self._directory) / blob.paths[0])
        if digest != blob.digest:
            raise source_changed()
        yield Path(self._directory), blob.paths[0]


class ArchiveSource(BlobSource):
    """The blobs of a release in an archive.

    Parameters
    ----------
    archive : ArchiveInterface
        The archive.
    record : dict
        The record of the release, as the archive gives it.
    workspace : str
        Where the release is.
    """

    def __init__(self, archive: "ArchiveInterface", record: dict[str, Any], workspace: str) -> None:
        self._archive = archive
        self._record = record
        self._workspace = workspace

    def open(self, blob: Blob, offset: int = 0) -> AbstractContextManager[Stream]:
        """Open a blob of the release."""
        return self._archive.open_blob(blob, self._record, self._workspace, offset)

    def wrong(self, blob: Blob) -> BlobError:
        """Return the error for a damaged blob."""
        return blob_damaged(blob)


def copied_record(record: ReleaseRecord, archive: "ArchiveInterface", workspace: str) -> dict[str, Any]:
    """Return the record of a copy: that of the release in an archive, and where it was published first."""
    content = copy.deepcopy(record.content)
    pid = content.pop(RECORD_PID, None)
    content.setdefault(
        ORIGIN,
        {
            "host": str(archive.host),
            "workspace": workspace,
            "pid": pid or archive.locate_record(record.content, workspace),
            "digest": record.digest,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        },
    )
    return content
