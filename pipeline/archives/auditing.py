"""What an audit asks of an archive, with the answers that any archive can give.

An archive that can do better has an :class:`Auditor` of its own, which its ``auditor`` method returns.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from ..checksums import Stream
from ..errors import ArchiveError, BlobDamagedError, BlobError, PipelineError, RecordError, printable
from ..names import record_title
from ..release import ORIGIN, Blob, ReleaseRecord
from ..transfer import Meter
from .sources import ArchiveSource, BlobSource

if TYPE_CHECKING:
    from .interface import ArchiveInterface


class Auditor:
    """A workspace of an archive, as an audit looks at it. This one needs no more than what every archive has.

    Parameters
    ----------
    archive : ArchiveInterface
        The archive.
    workspace : str
        The workspace.

    Attributes
    ----------
    archive, workspace
        As given.
    shares_blobs : bool
        Whether releases of several titles can have one blob.
    """

    shares_blobs: bool = False

    def __init__(self, archive: "ArchiveInterface", workspace: str) -> None:
        self.archive = archive
        self.workspace = workspace

    # --- what is there --------------------------------------------------------------------------------------------

    def titles(self) -> list[str]:
        """Return the titles of the workspace, sorted."""
        return sorted({name.title_versionless for name in self.archive.list_releases(self.workspace)})

    def versions(self, title: str) -> list[str]:
        """Return the versions of a title, oldest to newest."""
        return self.archive.get_release_versions(title, self.workspace)

    def read_record(self, title: str, version: str) -> ReleaseRecord | None:
        """Return a record; None when there is none.

        Raises
        ------
        RecordError
            When it is damaged.
        """
        found = self.archive.get_release(title, version, self.workspace)
        return None if found is None else ReleaseRecord(found, f"{record_title(title, version)} in {self.archive.host}")

    def list_blobs(self, title: str) -> dict[str, int]:
        """Return the blobs that are stored for a title, whether or not a record names them: name to size.

        By default none, because an archive need not be able to tell.
        """
        return {}

    def unnamed_blobs(self) -> list[tuple[str, int]]:
        """Return the blobs of the whole workspace that no record names, and their sizes; by default none are known."""
        return []

    def unread_records(self) -> list[str]:
        """Return a sentence for each record that cannot be found by its title; by default none are known."""
        return []

    # --- what is damaged ------------------------------------------------------------------------------------------

    def look_at_record(
        self, title: str, version: str, mirror: "Auditor | None"
    ) -> tuple[ReleaseRecord | None, str | None]:
        """Return a record as far as it can be read, and what is wrong with it, or None.

        By default the record must be one, and that of another archive must describe the same release. Where they
        differ, the digest in the ``origin`` of the other one may prove this one.
        """
        try:
            mine = self.read_record(title, version)
        except RecordError as error:
            return None, f"the record is damaged: {error}"
        if mine is None or mirror is None or self.is_proven(title, version):
            return mine, None
        theirs = _readable(mirror, title, version)
        if theirs is None or mine.same_release(theirs) or origin_digest(theirs) == mine.digest:
            return mine, None
        return mine, f"the record is not that of {printable(mirror.archive.host)}, and one of the two is damaged"

    def is_proven(self, title: str, version: str) -> bool:
        """Tell whether the archive itself can prove that a record is what was published; by default it cannot."""
        return False

    def seems_damaged(self, title: str, blob: Blob) -> bool:
        """Tell whether a blob is missing or has another size, as far as this can be seen without reading it."""
        return False

    def open_blob(self, blob: Blob, record: Mapping[str, Any]) -> AbstractContextManager[Stream]:
        """Open a blob for reading.

        Raises
        ------
        BlobDamagedError
            When it is missing.
        """
        return self.archive.open_blob(blob, dict(record), self.workspace)

    # --- repairing ------------------------------------------------------------------------------------------------

    def heal_record(self, title: str, version: str, mirror: "Auditor") -> str:
        """Put back the exact bytes of a record, keep the damaged ones aside, and return where they came from.

        Raises
        ------
        PipelineError
            When this cannot be done.
        """
        raise ArchiveError(f"it cannot be repaired, because {printable(self.archive.host)} never changes a record")

    def mend(self) -> list[str]:
        """Repair what belongs to no title and needs no other archive; return what was done, a sentence each.

        By default there is nothing of the kind.

        Raises
        ------
        PipelineError
            When this cannot be done.
        """
        return []

    def heal_blobs(
        self, blobs: Sequence[Blob], record: ReleaseRecord, source: BlobSource, *, threads: int, meter: Meter
    ) -> dict[str, Exception]:
        """Replace damaged and missing blobs, keep damaged ones aside, and return what failed, digest to error.

        Parameters
        ----------
        blobs : sequence of Blob
            Of the record.
        record : ReleaseRecord
            The release that names them.
        source : BlobSource
            Where their bytes are.
        threads : int
            How many move at the same time.
        meter : Meter
            Is told how it goes.
        """
        error = ArchiveError(f"{printable(self.archive.host)} is a kind of archive that cannot replace blobs")
        for blob in blobs:
            meter.finished(blob.paths[0], 0, error, False)
        return {blob.digest: error for blob in blobs}

    def tidy(self, title: str) -> None:
        """Make durable what an interrupted repair put in place, and remove what else it left.

        Raises
        ------
        OSError
            When it cannot be made durable.
        """

    def set_aside(self, title: str, name: str) -> None:
        """Take a damaged blob that no record names out of the way.

        Raises
        ------
        PipelineError
            When this cannot be done.
        """
        raise ArchiveError(f"{printable(self.archive.host)} is a kind of archive that cannot set blobs aside")


class HealingSource(BlobSource):
    """Blobs in another archive that have the same digests as those of a release.

    Parameters
    ----------
    mirror : Auditor
        The other archive.
    blobs : sequence of Blob
        What is looked for.
    record : ReleaseRecord
        The release that names them.
    """

    def __init__(self, mirror: Auditor, blobs: Sequence[Blob], record: ReleaseRecord) -> None:
        self._host = mirror.archive.host
        title = record.title_versionless
        theirs = _readable(mirror, title, record.version)
        content = record.content if theirs is None else theirs.content
        self._source = ArchiveSource(mirror.archive, content, mirror.workspace)
        self._blobs = {blob.digest: blob for blob in (() if theirs is None else theirs.blobs)}
        elsewhere = {blob.digest: blob for blob in blobs if blob.digest not in self._blobs}
        found = mirror.archive.find_blobs(elsewhere.values(), title, mirror.workspace)
        self._blobs |= {digest: elsewhere[digest]._replace(pid=pid) for digest, pid in found.items()}

    def _blob(self, blob: Blob) -> Blob:
        if blob.digest not in self._blobs:
            raise BlobDamagedError(f"{printable(self._host)} does not have it, so that it is not repaired")
        return self._blobs[blob.digest]

    def open(self, blob: Blob, offset: int = 0) -> AbstractContextManager[Stream]:
        """Open the blob of the other archive.

        Raises
        ------
        BlobDamagedError
            When that archive does not have it.
        """
        return self._source.open(self._blob(blob), offset)

    def wrong(self, blob: Blob) -> BlobError:
        """Return the error for a blob that is damaged there, too."""
        return BlobDamagedError(f"that of {printable(self._host)} is damaged, too, so that it is not repaired")


def origin_digest(record: ReleaseRecord) -> str | None:
    """Return the SHA-1 of the record that a mirror's record was made from, as it tells; None where it does not."""
    origin = record.content.get(ORIGIN)
    digest = origin.get("digest") if isinstance(origin, dict) else None
    return digest if isinstance(digest, str) else None


def _readable(mirror: Auditor, title: str, version: str) -> ReleaseRecord | None:
    """Return the record of a mirror; None when there is none, or when its own audit has something to say of it."""
    try:
        return mirror.read_record(title, version)
    except PipelineError:
        return None
