"""Blobs of a workspace on a CDCS site: which are there, and how one gets there.

A blob is uploaded under the name ``<digest><extension>``, then assigned to the workspace, and only then described by a
BlobMetadata record in that workspace, which is linked to it. So whoever finds the description finds a blob that is
whole and can be read; a run that is killed before leaves a blob that its name tells.
"""

import contextlib
import io
import itertools
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from ...checksums import CHUNK, algorithm, is_digest, new_hash, read_chunks
from ...errors import ArchiveError, PipelineError, RecordError
from ...release import BYTES, RECORD_PID, Blob
from ...transfer import Meter
from ...workers import Item, Workers
from ..sources import BlobSource
from .client import Blob as StoredBlob
from .client import CDCSClient, Data
from .contents import is_sealed, sealed, without
from .http import Ident, NotAllowedError, NotFoundError, SiteRefusedError, SiteUnavailableError

SHA1_KEY, PID_KEY, HANDLE_KEY = "sha1", "blob/PID/", "/handle/"
# A site gives at most a hundred records in one answer, and a blob may be described more than once.
_BATCH = 90
_AT_ONCE = 8
_INDEX_SECONDS = 3600.0


class Description(NamedTuple):
    """What a BlobMetadata record says; of several that say the same the one that sorts first counts."""

    age: tuple[str, str]
    record: Ident
    digest: str
    pid: str
    size: int
    handle: str | None


class _Upload(NamedTuple):
    """A blob that this run put into the workspace, and what describes it."""

    blob: StoredBlob
    description: Description
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
        Id of the workspace; kept as an attribute.
    """

    def __init__(self, curator: CDCSClient, templates: Sequence[Ident], workspace: Ident) -> None:
        self._curator = curator
        self._templates = templates
        self.workspace = workspace
        # What was described here, and when: a site that updates its index later may not find it for a while.
        self._made: dict[str, tuple[Description, float]] = {}

    # --- what is there --------------------------------------------------------------------------------------------

    def find(self, sizes: Mapping[str, int]) -> dict[str, Description]:
        """Return the descriptions of those blobs, digest to size, that can be read with that size.

        A description may outlive its blob. Each is confirmed: the user's own blobs are listed, others looked up.
        """
        found = self.described(sizes)
        own = [blob for blob in self._curator.find_own_blobs(found) if blob.workspace == self.workspace]
        readable = {blob.pid or blob.handle for blob in own}
        alive: dict[str, Description] = {}

        def confirm(digest: str) -> None:
            for description in found[digest]:
                if description.pid in readable or self._can_be_read(description):
                    alive[digest] = description
                    return

        _ask_for_all(confirm, found)
        return alive

    def described(self, sizes: Mapping[str, int]) -> dict[str, list[Description]]:
        """Return all that is said of those blobs, digest to size, the earliest first."""
        found: dict[str, set[Description]] = {}
        for description in itertools.chain(self._made_here(sizes), self._query(SHA1_KEY, sizes)):
            if sizes.get(description.digest) == description.size:
                found.setdefault(description.digest, set()).add(description)
        return {digest: sorted(found[digest]) for digest in sizes if digest in found}

    def known(self, sizes: Mapping[str, int]) -> set[tuple[str, str]]:
        """Return digest and PID of those blobs, digest to size, that are described, by this run or by anybody."""
        mine = {made.digest: made.pid for made in self._made_here(sizes) if made.size == sizes[made.digest]}
        others = self.described({digest: size for digest, size in sizes.items() if digest not in mine})
        return {*mine.items(), *((digest, one.pid) for digest, said in others.items() for one in said)}

    def by_pid(self, pids: Iterable[str]) -> dict[str, Description]:
        """Return what is said of blobs, by their PIDs."""
        return {description.pid: description for description in self._query(PID_KEY, pids)}

    def descriptions(self, query: Mapping[str, Any]) -> Iterator[Data]:
        """Yield the BlobMetadata records that match a query, as the site keeps them."""
        return self._curator.query(self._templates, query, self.workspace)

    def _made_here(self, digests: Iterable[str]) -> Iterator[Description]:
        return (self._made[digest][0] for digest in digests if digest in self._made)

    def _query(self, key: str, values: Iterable[str]) -> list[Description]:
        wanted = list(dict.fromkeys(values))
        found: list[Description] = []

        def ask(start: int) -> None:
            query = {key: {"$in": wanted[start : start + _BATCH]}}
            answer = self._curator.query(self._templates, query, self.workspace, few=True)
            found.extend(filter(None, map(description_in, answer)))

        _ask_for_all(ask, range(0, len(wanted), _BATCH))
        return found

    def _can_be_read(self, description: Description) -> bool:
        """Ask the site for a blob of another user, without reading it where its handle is known."""
        number = blob_number(description.handle)
        try:
            if number:
                return self._fits(self._curator.get_blob(number), description)
            if self._curator.is_here(description.pid):
                with self._curator.open_blob(description.pid, most=description.size + 1, attempts=1) as stream:
                    return stream.length in (None, description.size)
        except SiteUnavailableError:
            # At a PID that may not be read, a site fails without a reason.
            if number:
                raise
        except ArchiveError:
            pass
        return False

    def _fits(self, stored: StoredBlob, description: Description) -> bool:
        checksum = stored.checksum or ""
        return (
            stored.workspace == self.workspace
            and description.pid == (stored.pid or stored.handle)
            and (len(checksum) != len(description.digest) or checksum.lower() == description.digest)
        )

    # --- how it gets there ----------------------------------------------------------------------------------------

    def upload(
        self, blobs: Sequence[Blob], source: BlobSource, *, threads: int, meter: Meter
    ) -> tuple[dict[str, str], dict[str, Exception]]:
        """Upload those blobs that are not there; return digest to PID, and digest to error of those that failed."""
        self._forget()
        there = self.find({blob.digest: blob.size for blob in blobs})
        missing = [blob for blob in blobs if blob.digest not in there]
        leftovers = self._leftovers(blob.digest for blob in missing)
        mine: dict[str, _Upload] = {}

        def upload(blob: Blob) -> None:
            meter.started(blob.paths[0], blob.size)
            mine[blob.digest] = self._upload(blob, leftovers.get(blob.digest, []), source, meter, workers)
            meter.finished(blob.paths[0], blob.size, None, True)

        for blob in blobs:
            if blob.digest in there:
                meter.finished(blob.paths[0], blob.size, None, False)
        with Workers(threads, meter.tick) as workers:
            failed = workers.each(upload, missing)
        for blob, error in failed.items():
            meter.finished(blob.paths[0], 0, error, False)
        pids = {digest: description.pid for digest, description in there.items()}
        pids |= {digest: done.description.pid for digest, done in mine.items()}
        if not any(isinstance(error, PipelineError) and error.is_hopeless for error in failed.values()):
            pids |= self._yield_to_earlier(mine)
        return pids, {blob.digest: error for blob, error in failed.items()}

    def _leftovers(self, digests: Iterable[str]) -> dict[str, list[StoredBlob]]:
        """Return the user's own blobs whose names tell those digests, which an interrupted run did not describe."""
        found: dict[str, list[StoredBlob]] = {}
        for stored in self._curator.find_own_blobs(digests):
            if stored.workspace in (None, self.workspace):
                found.setdefault(os.path.splitext(stored.filename)[0], []).append(stored)
        return found

    def _upload(
        self, blob: Blob, leftovers: list[StoredBlob], source: BlobSource, meter: Meter, workers: Workers
    ) -> _Upload:
        is_refused = False
        for stored in self._whole(leftovers, blob, workers.check):
            try:
                used = _Upload(stored, self._put_to_use(stored, blob), False)
                meter.advanced(blob.paths[0], blob.size)
                return used
            except NotAllowedError:
                raise
            except SiteRefusedError:
                # It went with the run that uploaded it, because a third one was faster than both; or it has two PIDs.
                # Where another is refused too, it is the site, and each run would only leave one more copy.
                if is_refused:
                    raise
                is_refused = True
        stored = self._send(blob, leftovers, source, meter, workers.check)
        return _Upload(stored, self._put_to_use(stored, blob), True)

    def _settled(self, stored: StoredBlob) -> StoredBlob:
        """Return a blob as it is when the run that uploads it has its answer; it may be doing so just now.

        CDCS shows a blob a moment before it gives it a PID. Who changes it in that moment lets it get a second one, and
        CDCS refuses every change of a blob that has two. Sites without PIDs, and killed runs, leave it without one.
        """
        for failures in range(3):
            if stored.pid is None:
                if failures:
                    self._curator.pause(failures)
                stored = self._curator.get_blob(stored.id)
        return stored

    def _put_to_use(self, stored: StoredBlob, blob: Blob) -> Description:
        """Let everybody see a blob that is whole, and describe it."""
        if stored.workspace is None:
            self._assign(stored)
        # A blob of another run can be seen before it has its PID; sites without PIDs have the handle only.
        pid = stored.pid or self._curator.get_blob(stored.id).pid or stored.handle
        description = self.describe(blob, pid, stored.handle)
        try:
            self._curator.attach_metadata(stored.id, description.record)
        except SiteRefusedError:
            self._curator.delete_data(description.record)
            raise
        self._made[blob.digest] = description, time.monotonic()
        return description

    def _forget(self) -> None:
        """Forget what the site has had in its index for long, for programs that run for long."""
        since = time.monotonic() - _INDEX_SECONDS
        for digest in [digest for digest, (_, at) in self._made.items() if at < since]:
            del self._made[digest]

    def _assign(self, stored: StoredBlob) -> None:
        try:
            self._curator.assign_blob(stored.id, self.workspace)
        except NotAllowedError as error:
            error.is_hopeless = True
            # Anybody may upload what nobody else can read; it would only be in the way.
            with contextlib.suppress(PipelineError):
                self._curator.delete_blob(stored.id)
            raise

    def _send(
        self, blob: Blob, earlier: Collection[StoredBlob], source: BlobSource, meter: Meter, check: Callable[[], None]
    ) -> StoredBlob:
        known = {stored.id for stored in earlier}

        def already_done() -> StoredBlob | None:
            found = self._leftovers([blob.digest]).get(blob.digest, [])
            return next(self._whole([stored for stored in found if stored.id not in known], blob, check), None)

        name = blob.digest + _extension(blob.paths[0])
        with _CheckedSource(source, blob, meter, check) as stream:
            return self._curator.upload_blob(name, stream, blob.size, already_done)

    def describe(self, blob: Blob, pid: str, handle: str | None) -> Description:
        """Publish which bytes a stored blob has, and where it is."""
        said = {SHA1_KEY: blob.digest, PID_KEY: pid, BYTES: blob.size, HANDLE_KEY: handle}
        content = sealed({key: value for key, value in said.items() if value is not None})
        template = self._templates[0]

        def already_done() -> Data | None:
            for data in self._curator.own_data(blob.digest, template):
                if data.workspace == self.workspace and without(data.content(), RECORD_PID) == content:
                    return data
            return None

        data = self._curator.create_data(blob.digest, template, self.workspace, content, already_done)
        return Description(age(data), data.id, blob.digest, pid, blob.size, handle)

    def _whole(self, leftovers: list[StoredBlob], blob: Blob, check: Callable[[], None]) -> Iterator[StoredBlob]:
        """Yield those that have all bytes of the blob; delete those that have others."""
        for stored in leftovers:
            with contextlib.suppress(NotFoundError):
                if self.holds(stored, blob, check):
                    yield self._settled(stored)
                    continue
            self._curator.delete_blob(stored.id)

    def holds(self, stored: StoredBlob, blob: Blob, check: Callable[[], None]) -> bool:
        """Tell whether a stored blob has all bytes of a blob, by reading it; an answer that is cut off is an error."""
        digest, left = new_hash(algorithm(blob.digest)), blob.size
        with self._curator.open_blob(stored.handle, most=blob.size + 1) as stream:
            if stream.length not in (None, blob.size):
                return False
            for data in read_chunks(stream, min(CHUNK, blob.size + 1)):
                digest.update(data)
                left -= len(data)
                check()
            if left > 0:
                stream.check_end()
        return left == 0 and digest.hexdigest() == blob.digest

    def _yield_to_earlier(self, mine: Mapping[str, _Upload]) -> dict[str, str]:
        """Where another publisher described the same bytes first, use that, and remove what was uploaded here."""
        pids = {}
        # What cannot be looked up or removed harms nobody: everybody counts the first.
        with contextlib.suppress(PipelineError):
            for digest, all_of_it in self.described({d: done.description.size for d, done in mine.items()}).items():
                done = mine[digest]
                first = next(
                    said for said in all_of_it if said.record == done.description.record or self._can_be_read(said)
                )
                if first.record == done.description.record:
                    continue
                pids[digest] = first.pid
                del self._made[digest]
                self._curator.delete_data(done.description.record)
                # A leftover that was put to use may be what the other publisher is just putting to use.
                if done.is_new and first.pid != done.description.pid:
                    self._curator.delete_blob(done.blob.id)
        return pids


def _ask_for_all(ask: Callable[[Item], None], items: Collection[Item]) -> None:
    """Call `ask` with every item, several at the same time, and raise the first error."""
    with Workers(_AT_ONCE, lambda: None) as workers:
        for error in workers.each(ask, items).values():
            raise error


def blob_number(handle: str | None) -> str | None:
    """Return the id of a blob that its handle ends with; None where it does not."""
    found = re.search(r"/(\w+)/?$", handle or "")
    return found[1] if found else None


def _extension(path: str) -> str:
    """Return the extension of a path, which sites look at; none where it would break the headers of a download."""
    extension = os.path.splitext(path)[1]
    return extension if re.fullmatch(r"\.[A-Za-z0-9_-]{1,20}", extension) else ""


def description_in(data: Data) -> Description | None:
    """Return what a record says of a blob, or None: others may write nonsense into the workspace."""
    try:
        content: dict[str, Any] = data.content()
        is_sealed(content)
    except RecordError:
        return None
    digest, pid, size, handle = (content.get(key) for key in (SHA1_KEY, PID_KEY, BYTES, HANDLE_KEY))
    if not is_digest(digest) or not isinstance(pid, str) or not isinstance(size, int):
        return None
    return Description(age(data), data.id, str(digest), pid, size, handle if isinstance(handle, str) else None)


def age(data: Data) -> tuple[str, str]:
    """Return what sorts records by the time when they were stored, the same way for everybody who looks."""
    return data.created, str(data.id).zfill(64)


class _CheckedSource(io.RawIOBase):
    """A blob on its way to the site. Its end is given only when all its bytes had the digest of the blob.

    A large one is hashed in a thread of its own, while the bytes are sent.
    """

    def __init__(self, source: BlobSource, blob: Blob, meter: Meter, check: Callable[[], None]) -> None:
        self._source, self._blob, self._meter, self._check = source, blob, meter, check
        self._hash, self._position = new_hash(algorithm(blob.digest)), 0
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix="pipeline-hash")
        self._hashing: Future[None] | None = None
        self._opened = contextlib.ExitStack()
        self._stream = self._opened.enter_context(source.open(blob))

    def tell(self) -> int:
        """Return how many bytes were read."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Start over, for a repetition of the upload."""
        if offset or whence != os.SEEK_SET:
            raise io.UnsupportedOperation("an upload can only start over")
        if self._position:
            self._meter.advanced(self._blob.paths[0], -self._position)
            self._opened.close()
            self._stream = self._opened.enter_context(self._source.open(self._blob))
        self._hash, self._position = new_hash(algorithm(self._blob.digest)), 0
        return 0

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes.

        Raises
        ------
        BlobError
            At the end, when the bytes were not those of the blob: the site then discards the upload.
        """
        self._check()
        data = self._stream.read(size) or b""
        self._finish_hashing()
        too_long = self._position + len(data) > self._blob.size
        if too_long or (not data and self._hash.hexdigest() != self._blob.digest):
            raise self._source.wrong(self._blob)
        if len(data) == self._blob.size:
            self._hash.update(data)
        else:
            self._hashing = self._hasher.submit(self._hash.update, data)
        self._position += len(data)
        if data:
            self._meter.advanced(self._blob.paths[0], len(data))
        return data

    def _finish_hashing(self) -> None:
        if self._hashing is not None:
            self._hashing.result()

    def close(self) -> None:
        """End the thread, and close the source."""
        self._hasher.shutdown()
        self._opened.close()
        super().close()
