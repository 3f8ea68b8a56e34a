"""Blobs of a workspace on a CDCS site: which are there, and how one gets there.

A blob is uploaded under the name ``<digest><extension>``, then assigned to the workspace, and only then described by a
BlobMetadata record in that workspace, which is linked to it. So whoever finds the description finds a blob that is
whole and can be read; a run that is killed before leaves a blob that its name tells.
"""

import contextlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...checksums import CHUNK, Stream, algorithm, is_digest, new_hash, read_chunks
from ...errors import CredentialsError, PipelineError, RecordError
from ...project import source_changed
from ...release import BYTES, Blob
from ...transfer import Meter
from ...workers import Workers
from ..interface import project_source
from .client import Blob as StoredBlob
from .client import CDCSClient, Data
from .http import Ident, SiteUnavailableError

SHA1_KEY, PID_KEY = "sha1", "blob/PID/"
_BATCH = 500


class Description(NamedTuple):
    """What a BlobMetadata record says, and where it stands among those that say the same: the first counts."""

    created: str
    record: Ident
    digest: str
    pid: str
    size: int


class _Upload(NamedTuple):
    """A blob that this run put into the workspace, and the record that describes it."""

    pid: str
    handle: str
    blob: Ident
    record: Ident
    is_new: bool


class BlobShelf:
    """The blobs of one workspace on a CDCS site.

    Parameters
    ----------
    curator : CDCSClient
        Talks to the site.
    templates : sequence of int or str
        Ids of the versions of the template BlobMetadata, the current one first.
    workspace : int or str
        Id of the workspace.
    """

    def __init__(self, curator: CDCSClient, templates: Sequence[Ident], workspace: Ident) -> None:
        self._curator = curator
        self._templates = templates
        self._workspace = workspace

    # --- what is there --------------------------------------------------------------------------------------------

    def find(self, sizes: Mapping[str, int]) -> dict[str, Description]:
        """Return the descriptions of those blobs, digest to size, that are there with that size."""
        found: dict[str, Description] = {}
        for description in self._described(SHA1_KEY, sizes):
            if sizes.get(description.digest) == description.size:
                first = found.setdefault(description.digest, description)
                found[description.digest] = min(first, description, key=_age)
        return found

    def digests(self, pids: Iterable[str]) -> dict[str, str]:
        """Return the digests of blobs, by their PIDs."""
        return {description.pid: description.digest for description in self._described(PID_KEY, pids)}

    def _described(self, key: str, values: Iterable[str]) -> Iterator[Description]:
        wanted = list(dict.fromkeys(values))
        for start in range(0, len(wanted), _BATCH):
            query = {key: {"$in": wanted[start : start + _BATCH]}}
            for data in self._curator.query(self._templates, query, self._workspace):
                if (description := _description(data)) is not None:
                    yield description

    # --- how it gets there ----------------------------------------------------------------------------------------

    def upload(
        self, blobs: Sequence[Blob], project_directory: Path, *, threads: int, meter: Meter
    ) -> tuple[dict[str, str], dict[str, Exception]]:
        """Upload those blobs that are not there; return digest to PID, and digest to error of those that failed."""
        there = self.find({blob.digest: blob.size for blob in blobs})
        pids = {digest: description.pid for digest, description in there.items()}
        mine: dict[str, _Upload] = {}
        hopeless: list[PipelineError] = []

        def upload(blob: Blob) -> None:
            if blob.digest in there:
                meter.finished(blob.paths[0], blob.size, None, False)
                return
            if hopeless:
                raise hopeless[0]
            meter.started(blob.paths[0], blob.size)
            try:
                done = self._upload(blob, project_directory, meter, workers.check)
            except (SiteUnavailableError, CredentialsError) as error:
                # Each of the others would wait as long, for the same answer.
                hopeless.append(error)
                raise
            mine[blob.digest], pids[blob.digest] = done, done.pid
            meter.finished(blob.paths[0], blob.size, None, True)

        with Workers(threads, meter.tick) as workers:
            failed = workers.each(upload, blobs)
        for blob, error in failed.items():
            meter.finished(blob.paths[0], 0, error, False)
        if not hopeless:
            pids |= self._yield_to_earlier({blob.digest: blob.size for blob in blobs if blob.digest in mine}, mine)
        return pids, {blob.digest: error for blob, error in failed.items()}

    def _upload(self, blob: Blob, project_directory: Path, meter: Meter, check: Callable[[], None]) -> "_Upload":
        name = blob.digest + os.path.splitext(blob.paths[0])[1]
        stored = self._leftover(name, blob, check)
        is_new = stored is None
        if stored is None:
            with project_source(project_directory, blob.paths[0], 0) as source:
                stream = _CheckedSource(source, blob, meter, check)
                stored = self._curator.upload_blob(
                    name, stream, blob.size, already_done=lambda: self._leftover(name, blob, check)
                )
        else:
            meter.advanced(blob.paths[0], blob.size)
        if stored.workspace is None:
            self._curator.assign_blob(stored.id, self._workspace)
        pid = stored.pid or self._pid_of(stored, name)
        data = self._describe(blob, pid)
        self._curator.attach_metadata(stored.id, data.id)
        return _Upload(pid, stored.handle, stored.id, data.id, is_new)

    def _pid_of(self, stored: StoredBlob, name: str) -> str:
        """Return the PID of a blob that had none when it was looked at; its handle on a site without PIDs.

        A blob that another run is uploading can be seen before it has its PID.
        """
        now = [found for found in self._curator.list_own_blobs(name) if found.id == stored.id]
        return (now[0].pid if now else None) or stored.handle

    def _describe(self, blob: Blob, pid: str) -> Data:
        content = {SHA1_KEY: blob.digest, PID_KEY: pid, BYTES: blob.size}

        def already_done() -> Data | None:
            return next(iter(self._curator.query(self._templates, {PID_KEY: pid}, self._workspace)), None)

        return self._curator.create_data(blob.digest, self._templates[0], self._workspace, content, already_done)

    def _leftover(self, name: str, blob: Blob, check: Callable[[], None]) -> StoredBlob | None:
        """Return a whole blob that an interrupted run left undescribed; delete one of that name with other bytes."""
        for stored in self._curator.list_own_blobs(name):
            if stored.workspace not in (None, self._workspace):
                continue
            if self._holds(stored, blob, check):
                return stored
            self._curator.delete_blob(stored.id)
        return None

    def _holds(self, stored: StoredBlob, blob: Blob, check: Callable[[], None]) -> bool:
        digest, left = new_hash(algorithm(blob.digest)), blob.size
        with self._curator.open_blob(stored.handle, most=blob.size + 1) as stream:
            if stream.length not in (None, blob.size):
                return False
            for data in read_chunks(stream, min(CHUNK, blob.size + 1)):
                digest.update(data)
                left -= len(data)
                check()
        return left == 0 and digest.hexdigest() == blob.digest

    def _yield_to_earlier(self, sizes: Mapping[str, int], mine: Mapping[str, "_Upload"]) -> dict[str, str]:
        """Where another publisher described the same bytes first, use that, and remove what was uploaded here."""
        pids = {}
        # What cannot be looked up or removed harms nobody: everybody counts the first.
        with contextlib.suppress(PipelineError):
            for digest, first in self.find(sizes).items():
                if first.record != mine[digest].record:
                    pids[digest] = first.pid
                    self._curator.delete_data(mine[digest].record)
                    # A leftover that was put to use may be what the other publisher is just putting to use.
                    if mine[digest].is_new and first.pid not in (mine[digest].pid, mine[digest].handle):
                        self._curator.delete_blob(mine[digest].blob)
        return pids


def _description(data: Data) -> Description | None:
    """Return what a record says of a blob, or None: others may write nonsense into the workspace."""
    try:
        content: dict[str, Any] = data.content()
    except RecordError:
        return None
    digest, pid, size = content.get(SHA1_KEY), content.get(PID_KEY), content.get(BYTES)
    if not is_digest(digest) or not isinstance(pid, str) or not isinstance(size, int):
        return None
    return Description(data.created, data.id, str(digest), pid, size)


def _age(description: Description) -> tuple[str, str]:
    return description.created, str(description.record).zfill(64)


class _CheckedSource(io.RawIOBase):
    """A file on its way to the site. Its end is given only when all its bytes had the digest of the blob."""

    def __init__(self, stream: Stream, blob: Blob, meter: Meter, check: Callable[[], None]) -> None:
        self._stream, self._blob, self._meter, self._check = stream, blob, meter, check
        self._hash, self._position = new_hash(algorithm(blob.digest)), 0

    def tell(self) -> int:
        """Return how many bytes were read."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Start over, for a repetition of the upload."""
        if offset or whence != os.SEEK_SET:
            raise io.UnsupportedOperation("an upload can only start over")
        self._stream.seek(0)
        if self._position:
            self._meter.advanced(self._blob.paths[0], -self._position)
        self._hash, self._position = new_hash(algorithm(self._blob.digest)), 0
        return 0

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes.

        Raises
        ------
        SourceChangedError
            At the end, when the bytes were not those of the blob: the site then discards the upload.
        """
        self._check()
        data = self._stream.read(size) or b""
        if not data and self._hash.hexdigest() != self._blob.digest:
            raise source_changed()
        self._hash.update(data)
        self._position += len(data)
        if data:
            self._meter.advanced(self._blob.paths[0], len(data))
        return data
