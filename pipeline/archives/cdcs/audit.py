"""How an archive on a CDCS site is audited and repaired.

CDCS never changes a blob, and gives a PID once. So the bytes of a damaged one are kept in a private blob whose name
begins with ``damaged-``, then the blob itself is deleted, and what is whole is uploaded and described like any other.
Readers whose record names the PID that is gone get the blob that is described with the same digest.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from ...checksums import CHUNK, algorithm, is_digest, new_hash, read_chunks
from ...errors import ArchiveError, InvalidNameError, InvalidVersionError, RecordError, printable
from ...release import BYTES, FOLDER, PID, SHA1, Blob, ReleaseRecord, walk_mapping
from ...transfer import Meter
from ...workers import Workers
from ..auditing import Auditor
from ..sources import BlobSource
from .client import Blob as StoredBlob
from .http import NotAllowedError, NotFoundError
from .uploads import BlobShelf, Description, blob_number

if TYPE_CHECKING:
    from .archive import CDCSArchive


class _Survey(NamedTuple):
    unread: list[str]
    unnamed: list[tuple[str, int]]


class CDCSAuditor(Auditor):
    """A workspace of an archive on a CDCS site, as an audit looks at it.

    Parameters
    ----------
    archive : CDCSArchive
        The archive.
    workspace : str
        The workspace.
    """

    archive: "CDCSArchive"
    shares_blobs = True

    # --- what belongs to no title ---------------------------------------------------------------------------------

    def unread_records(self) -> list[str]:
        """Return a sentence for each record of the template Release that is none."""
        return self._survey.unread

    def unnamed_blobs(self) -> list[tuple[str, int]]:
        """Return the PIDs of the blobs that are described and that no record names; none where a record is damaged."""
        return self._survey.unnamed

    @cached_property
    def _survey(self) -> _Survey:
        """Read all records of the workspace once."""
        described = list(self._shelf.all_described())
        unread, named = [], set[str]()
        for data in self.archive.release_data(self.workspace):
            try:
                named.update(_names(self.archive.named_content(data), data.title))
            except (RecordError, InvalidNameError, InvalidVersionError) as error:
                unread.append(f"the record {printable(data.id)}, '{printable(data.title)}', is damaged: {error}")
        unnamed = {said.pid: said.size for said in described if not named & {said.pid, said.digest}}
        return _Survey(unread, [] if unread else list(unnamed.items()))

    @property
    def _shelf(self) -> BlobShelf:
        return self.archive.shelf(self.workspace)

    # --- repairing ------------------------------------------------------------------------------------------------

    def heal_blobs(
        self, blobs: Sequence[Blob], record: ReleaseRecord, source: BlobSource, *, threads: int, meter: Meter
    ) -> dict[str, Exception]:
        """Replace damaged and missing blobs. A run that is killed leaves a missing one, which the next replaces."""

        def clear(blob: Blob) -> None:
            _verify(source, blob, workers)
            self._clear(blob, workers)

        with Workers(threads, meter.tick) as workers:
            failed = workers.each(clear, blobs)
        for blob, error in failed.items():
            meter.finished(blob.paths[0], 0, error, False)
        cleared = [blob for blob in blobs if blob not in failed]
        _, failures = self._shelf.upload(cleared, source, threads=threads, meter=meter)
        return failures | {blob.digest: error for blob, error in failed.items()}

    def _clear(self, blob: Blob, workers: Workers) -> None:
        """Take away what readers of a blob get, until that is whole or nothing."""
        for stored in self._stored(blob):
            if self._shelf.holds(stored, blob, workers.check):
                return
            self._keep_aside(stored, blob.digest)
            try:
                self.archive.curator.delete_blob(stored.id)
            except NotAllowedError:
                raise ArchiveError(
                    f"{printable(self.archive.curator.whom())} may not remove the damaged one; run the same command as "
                    f"the owner of the blob {printable(stored.id)} or as an administrator"
                ) from None

    def _stored(self, blob: Blob) -> Iterator[StoredBlob]:
        """Yield what the site has under the PID of a blob, then what is described with the same digest."""
        said = self._shelf.by_pid([str(blob.pid)]).get(str(blob.pid))
        others = self._shelf.described({blob.digest: blob.size}).get(blob.digest, [])
        own = {stored.pid or stored.handle: stored for stored in self.archive.curator.find_own_blobs([blob.digest])}
        seen = set()
        if str(blob.pid) in own:
            seen.add(own[str(blob.pid)].id)
            yield own[str(blob.pid)]
        for description in ([said] if said else []) + others:
            stored = own.get(description.pid) or self._look_up(description)
            if stored is not None and stored.id not in seen:
                seen.add(stored.id)
                yield stored

    def _look_up(self, description: Description) -> StoredBlob | None:
        number = blob_number(description.handle)
        if number is None:
            return None
        try:
            stored = self.archive.curator.get_blob(number)
        except NotFoundError:
            return None
        return stored if stored.workspace == self._shelf.workspace else None

    def _keep_aside(self, stored: StoredBlob, digest: str) -> None:
        """Upload the bytes of a damaged blob once more, for nobody else to read, unless an interrupted run did."""
        extension = os.path.splitext(stored.filename)[1]
        name = f"damaged-{stored.id}-{digest}{extension}"
        curator = self.archive.curator
        if curator.list_own_blobs(name):
            return
        with tempfile.TemporaryFile() as file:
            with curator.open_blob(stored.handle) as stream:
                for data in read_chunks(stream, CHUNK):
                    file.write(data)
            size = file.tell()
            file.seek(0)
            if size:
                curator.upload_blob(name, file, size, lambda: next(iter(curator.list_own_blobs(name)), None))


def _verify(source: BlobSource, blob: Blob, workers: Workers) -> None:
    """Read the blob that is to replace a damaged one, before that is touched."""
    digest, size = new_hash(algorithm(blob.digest)), 0
    with source.open(blob) as stream:
        for data in read_chunks(stream, min(CHUNK, blob.size + 1)):
            digest.update(data)
            size += len(data)
            workers.check()
            if size > blob.size:
                break
    if size != blob.size or digest.hexdigest() != blob.digest:
        raise source.wrong(blob)


def _names(content: Mapping[str, Any], title: str) -> Iterator[str]:
    """Yield the digests and PIDs that a record names."""
    project = content.get("project")
    if not isinstance(project, dict):
        raise RecordError("it has no 'project' mapping.")
    for node in walk_mapping(project, title):
        if node.item != FOLDER and node.properties.get(BYTES):
            digest, pid = node.properties.get(SHA1), node.properties.get(PID)
            if isinstance(pid, str):
                yield pid
            if is_digest(digest):
                yield str(digest)
