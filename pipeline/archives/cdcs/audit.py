"""How an archive on a CDCS site is audited and repaired.

A record proves itself by its seal, and what it said is put back under its PID. CDCS never changes a blob, and gives a
PID once. So the bytes of a damaged one are kept in a private blob whose name begins with ``damaged-``, then the blob
itself is deleted, and what is whole is uploaded and described like any other. Readers whose record names the PID that
is gone get the blob that is described with the same digest.
"""

import contextlib
import hashlib
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from ...checksums import CHUNK, algorithm, new_hash, read_chunks
from ...errors import ArchiveError, printable
from ...names import record_title
from ...release import RECORD_PID, Blob, ReleaseRecord
from ...transfer import Meter
from ...versions import precedence
from ...workers import Workers
from ..auditing import Auditor
from ..interface import ReleaseName
from ..sources import BlobSource
from .client import Blob as StoredBlob
from .client import Data
from .contents import SEAL
from .http import Ident, NotAllowedError, NotFoundError
from .restoring import Restorer
from .survey import Survey
from .unreadable import stub
from .uploads import BlobShelf, Description, age, blob_number

if TYPE_CHECKING:
    from .archive import CDCSArchive


class _Seen(NamedTuple):
    """What is known of a record that was read; a site may give no PIDs."""

    age: tuple[str, str]
    id: Ident
    pid: str | None
    is_sealed: bool


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

    def __init__(self, archive: "CDCSArchive", workspace: str) -> None:
        super().__init__(archive, workspace)
        self._seen: dict[ReleaseName, _Seen] = {}

    # --- records --------------------------------------------------------------------------------------------------

    def titles(self) -> list[str]:
        """Return the titles of the workspace, also of damaged records, sorted."""
        return sorted({name.title_versionless for name in self._survey.records})

    def versions(self, title: str) -> list[str]:
        """Return the versions of a title, also of damaged records, oldest to newest."""
        versions = [name.version for name in self._survey.records if name.title_versionless == title]
        return sorted(versions, key=lambda version: (precedence(version), version))

    def read_record(self, title: str, version: str) -> ReleaseRecord | None:
        """Return the newest record of a version; None when there is none.

        Raises
        ------
        RecordError
            When it is damaged.
        """
        self._seen.pop(ReleaseName(title, version), None)
        found = self.archive.newest(title, version, self.workspace)
        if found is None:
            return None
        record = self.archive.read(*found, self.workspace)
        data, content = found
        self._seen[ReleaseName(title, version)] = _Seen(age(data), data.id, content.get(RECORD_PID), SEAL in content)
        return record

    def look_at_record(
        self, title: str, version: str, mirror: Auditor | None
    ) -> tuple[ReleaseRecord | None, str | None]:
        """Return a record as far as it can be read, and what is wrong with it, its title or its PID, or None."""
        name = ReleaseName(title, version)
        kept = self._survey.records.get(name) if "_survey" in vars(self) else None
        if kept is not None and kept.id in self._survey.unreadable:
            return None, f"the record is damaged: {kept.damage}"
        record, wrong = super().look_at_record(title, version, mirror)
        seen = self._seen.get(name)
        if wrong is None and kept is not None and (seen is None or seen.age < kept.age):
            return None, f"the record is damaged: {kept.damage or 'the site does not find it by its title'}"
        if wrong is None and kept is not None and kept.damage:
            wrong = f"the record is damaged: {kept.damage}"
        if wrong is None and seen is not None and not self._is_found_by_pid(seen):
            wrong = f"the record is damaged: its PID {printable(seen.pid)} does not lead to it"
        return record, wrong

    def _is_found_by_pid(self, seen: "_Seen") -> bool:
        return seen.pid is None or self.archive.is_found_by_pid(seen.id, seen.pid, self.workspace)

    def is_proven(self, title: str, version: str) -> bool:
        """Tell whether a record that was read has a seal, which tells what was published."""
        seen = self._seen.get(ReleaseName(title, version))
        return seen is not None and seen.is_sealed

    # --- what belongs to no title ---------------------------------------------------------------------------------

    def unread_records(self) -> list[str]:
        """Return a sentence for each damaged record that is not the newest of a release."""
        survey = self._survey
        return [
            *survey.unread,
            *(f"the description of a blob, {printable(data.id)}, is damaged" for data in survey.broken),
            *(f"the blob {printable(b.pid)} of '{printable(b.paths[0])}' is not described" for b in survey.undescribed),
        ]

    def unnamed_blobs(self) -> list[tuple[str, int]]:
        """Return the PIDs of the blobs that are described and that no record names; none where a record is damaged."""
        return self._survey.unnamed

    @cached_property
    def _survey(self) -> Survey:
        return Survey(self.archive, self.workspace)

    @property
    def _shelf(self) -> BlobShelf:
        return self.archive.shelf(self.workspace)

    # --- repairing records ----------------------------------------------------------------------------------------

    def heal_record(self, title: str, version: str, mirror: Auditor) -> str:
        """Put back what a record said, under its PID, and keep the damaged text in a blob that nobody else can read.

        Raises
        ------
        PipelineError
            When nothing proves what was published, or the site does not allow it.
        """
        name = ReleaseName(title, version)
        ident = self._survey.records[name].id
        if ident in self._survey.unreadable:
            data = stub(self._survey.ask, ident, record_title(title, version))
        else:
            data = self.archive.curator.get_data(ident)
        source, content = Restorer(self.archive, self.workspace, data, mirror).restore(title, version)
        self._keep_text(data)
        with self._allowed("replace it", f"the record {data.id}"):
            self.archive.curator.replace_data(data.id, record_title(title, version), content)
        del self._survey
        return source

    def mend(self) -> list[str]:
        """Describe again the blobs of damaged descriptions, remove those, and return what was done."""
        if not (self._survey.broken or self._survey.undescribed):
            return []
        del self._survey  # what was repaired meanwhile may be described by now
        done = []
        for blob in self._survey.undescribed:
            own = {stored.pid or stored.handle: stored for stored in self.archive.curator.find_own_blobs([blob.digest])}
            stored = own.get(str(blob.pid))
            self._shelf.describe(blob, str(blob.pid), stored.handle if stored else None)
            done.append(f"the blob {printable(blob.pid)} of '{printable(blob.paths[0])}' was described again")
        for data in self._survey.broken:
            self._keep_text(data)
            with self._allowed("remove it", f"the record {data.id}"):
                self.archive.curator.delete_data(data.id)
            done.append(f"the damaged description of a blob, {printable(data.id)}, was removed")
        del self._survey
        return done

    @contextlib.contextmanager
    def _allowed(self, doing: str, what: str) -> Iterator[None]:
        try:
            yield
        except NotAllowedError:
            raise ArchiveError(
                f"{printable(self.archive.curator.whom())} may not {doing}; run the same command as the owner of "
                f"{printable(what)} or as an administrator"
            ) from None

    # --- repairing blobs ------------------------------------------------------------------------------------------

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
            with self._allowed("remove the damaged one", f"the blob {stored.id}"):
                self.archive.curator.delete_blob(stored.id)

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
        with tempfile.TemporaryFile() as file, self.archive.curator.open_blob(stored.handle) as stream:
            stream.check_end()
            for data in read_chunks(stream, CHUNK):
                file.write(data)
            self._keep(name, file)

    def _keep_text(self, data: Data) -> None:
        text = data.text.encode("utf-8", "surrogatepass")
        digest = hashlib.sha1(text, usedforsecurity=False).hexdigest()
        self._keep(f"damaged-{data.id}-{digest}.json", io.BytesIO(text))

    def _keep(self, name: str, file: BinaryIO) -> None:
        """Upload what was damaged, unless an interrupted run did; nobody else can read it."""
        curator = self.archive.curator
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if size and not curator.list_own_blobs(name):
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
