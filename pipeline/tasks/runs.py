"""What this process knows of a running upload or download: its manifest, what is in place, and how far it is."""

import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, MutableMapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ..archives import ArchiveInterface, get_interface, is_url
from ..archives.sources import ArchiveSource, BlobSource, ProjectSource, copied_record
from ..checksums import CHUNK, HashCache
from ..destination import Destination
from ..errors import BlobNotThereError, BlobsFailedError, PipelineError, ReleaseExistsError, printable
from ..manifest import Manifest
from ..progress import Progress, format_bytes, log
from ..project import Project, changed_files
from ..release import RECORD_PID, Blob, ReleaseRecord
from ..settings import read_settings, transfer_limit
from .telling import Teller

AnyRun = TypeVar("AnyRun", bound="Run")
# What nobody needs any more is forgotten: the tasks of a user hold their runs.
_runs: MutableMapping[tuple[type["Run"], str], "Run"] = weakref.WeakValueDictionary()
# A worker that was only handed blobs has no such task.
_loaded: deque["Run"] = deque(maxlen=16)


def hash_cache() -> HashCache:
    """Return the cache of digests of this user."""
    return HashCache(Path(read_settings().cache_directory) / "digests-2.sqlite3")


def manifest_folder() -> Path:
    """Return the folder of the manifests of running releases of this user."""
    return Path(read_settings().cache_directory) / "manifests"


def run_of(kind: type[AnyRun], digest: str) -> AnyRun:
    """Return the run of a manifest, which another process may have begun.

    Raises
    ------
    ManifestError
        When the manifest is not known here.
    """
    run = _runs.get((kind, digest))
    if run is None:
        manifest = Manifest.load(manifest_folder(), digest)
        run = kind(manifest, get_interface(manifest.archive, manifest.user))
        _loaded.append(run)
    return run  # type: ignore[return-value]


def known_run(kind: type[AnyRun], digest: str) -> AnyRun | None:
    """Return the run of a manifest, or None where it is not known here or has no archive: running the task says so."""
    try:
        return run_of(kind, digest)
    except PipelineError:
        return None


def runs_of(kind: type["Run"]) -> list["Run"]:
    """Return all runs of a kind that this process knows."""
    return [run for (known, _), run in list(_runs.items()) if known is kind]


def threads_and_resources(*archives: str) -> tuple[int, dict[str, int]]:
    """Return how many blobs move at the same time, and what that takes of the limits in ``[resources]``, by host."""
    hosts = (urlsplit(archive).hostname or "" for archive in archives if is_url(archive))
    limits = {host: limit for host in hosts if (limit := transfer_limit(host)) is not None}
    threads = min([read_settings().threads, *limits.values()])
    return threads, dict.fromkeys(limits, threads)


class Run(ABC):
    """The moving of the blobs of one manifest.

    Parameters
    ----------
    manifest : Manifest
        What moves.
    archive : ArchiveInterface
        Where from, or where to.

    Attributes
    ----------
    rank : int
        Of several runs, one with a higher rank moves all of its blobs first.
    threads : int
        How many blobs move at the same time.
    resources : dict
        What a batch takes of the limits in ``[resources]``, name to number of transfers.
    place : str or None
        Where the record is that is written last, as far as this process knows.
    teller : Teller
        Tells the scheduler how far the run is.
    """

    place: str | None = None
    rank: int = 0

    def __init__(self, manifest: Manifest, archive: ArchiveInterface) -> None:
        self.manifest = manifest
        self.record: ReleaseRecord = manifest.record
        self.blobs = self.record.blobs
        self.archive = archive
        self.threads, self.resources = threads_and_resources(manifest.archive, manifest.source)
        self.unreadable: dict[str, Exception] = {}
        self.teller = Teller()
        self._there: dict[str, str] | None = None
        self._stale = False
        self._tasks: list[Any] | None = None
        _runs[type(self), manifest.digest] = self

    @property
    def title(self) -> str:
        """What moves, for people."""
        return self.record.title

    @property
    def there(self) -> dict[str, str]:
        """The blobs that are in place, as far as this process knows: digest to PID, or to nothing in a folder."""
        if self._there is None:
            self._there = self._find()
        return self._there

    @abstractmethod
    def _find(self) -> dict[str, str]:
        """Ask where the blobs go to which of them are there, and what their PIDs are."""

    @abstractmethod
    def _move(self, blobs: Sequence[Blob]) -> tuple[dict[str, str], dict[str, Exception]]:
        """Move blobs and return those that are in place, digest to PID, and those that failed, digest to error."""

    def is_finished(self) -> bool:
        """Tell whether the release is whole where it goes to."""
        return all(map(self.is_there, self.blobs))

    def is_there(self, blob: Blob) -> bool:
        """Tell whether a blob is in place; where another worker may have moved it, look everything up once more."""
        if blob.digest not in self.there and self._stale:
            self._stale = False
            self._there = self._find()
        return blob.digest in self.there

    def tasks(self, make: Callable[[], list[Any]]) -> list[Any]:
        """Return the tasks of the blobs, which `make` makes once.

        Luigi asks again just before it runs what depends on them; other workers may have moved blobs since.
        """
        if self._tasks is None:
            self._tasks = make()
        else:
            self.expect_changes()
        return self._tasks

    def expect_changes(self) -> None:
        """Note that, from the time on when there are tasks, other workers may move blobs too."""
        self._stale = self._tasks is not None

    @cached_property
    def missing(self) -> list[Blob]:
        """The blobs that were not in place when the run began."""
        return [blob for blob in self.blobs if blob.digest not in self.there]

    @cached_property
    def progress(self) -> Progress:
        """The one report on this run."""
        nbytes = sum(blob.size for blob in self.missing)
        return Progress(self.record.title, len(self.missing) + len(self.unreadable), nbytes)

    @property
    def has_begun(self) -> bool:
        """Whether blobs began to move."""
        return "progress" in vars(self)

    def move(self, blobs: Sequence[Blob], announce: Callable[[str, int], None]) -> None:
        """Move those blobs that are not in place.

        Raises
        ------
        BlobsFailedError
            When some could not be moved; the others were.
        """
        self.progress.announce = announce
        missing = [blob for blob in blobs if blob.digest not in self.there]
        moved, failures = self._move(missing)
        self.there.update(moved)
        self._close_if_over()
        if failures:
            raise BlobsFailedError([(b.paths[0], failures[b.digest]) for b in missing if b.digest in failures])

    def fail_unreadable(self, path: str) -> None:
        """Count a file that could not be read as a failed blob.

        Parameters
        ----------
        path : str
            The file, as it is shown to people.

        Raises
        ------
        BlobsFailedError
            Always.
        """
        path, error = next((name, error) for name, error in self.unreadable.items() if printable(name) == path)
        self.progress.finished(path, 0, error, False)
        self._close_if_over()
        raise BlobsFailedError([(path, error)])

    def _close_if_over(self) -> None:
        if self.progress.failed and self.progress.accounted >= len(self.missing) + len(self.unreadable):
            self.progress.close()
            log.error(
                "%s is not complete: %s. When the cause is gone, run the same command again; it moves what is missing.",
                self.record.title,
                self.counts(),
            )

    def counts(self) -> str:
        """Return what was done, for people."""
        progress = self.progress
        there = len(self.blobs) - len(self.missing) + progress.there
        others = len(self.missing) + len(self.unreadable) - progress.accounted
        return (
            f"{len(self.blobs) + len(self.unreadable)} blobs, {format_bytes(self.record.nbytes)}; "
            f"{progress.moved} moved ({format_bytes(progress.moved_bytes)}), {there} already there, "
            + (f"{others} moved by other workers, " if others else "")
            + f"{progress.failed} failed, {progress.seconds:.1f} s"
        )

    def prospect(self) -> str:
        """Return what would be done, for people."""
        nbytes = sum(blob.size for blob in self.missing)
        unreadable = str(BlobsFailedError(list(self.unreadable.items())))
        return (
            f"{len(self.missing)} of {len(self.blobs)} blobs would move ({format_bytes(nbytes)} of "
            f"{format_bytes(self.record.nbytes)}), {len(self.blobs) - len(self.missing)} are already there"
            + (f", {len(self.unreadable)} could not be read:\n{unreadable}\n" if unreadable else "")
        )


class ArchivingRun(Run):
    """The moving of a release into an archive: its blobs, then its record.

    Attributes
    ----------
    repeats : str or None
        Where the record is that is to be followed by another one of the same version; None when none is.
    """

    repeats: str | None = None

    def __init__(self, manifest: Manifest, archive: ArchiveInterface) -> None:
        super().__init__(manifest, archive)
        self._published = False

    @property
    @abstractmethod
    def source(self) -> BlobSource:
        """Where the blobs come from."""

    @abstractmethod
    def advice(self) -> str:
        """Return what to do when the archive has this version with other content."""

    @abstractmethod
    def final_record(self) -> dict[str, Any]:
        """Return the record as it is published, when all blobs are there."""

    def _find(self) -> dict[str, str]:
        found = self.archive.find_blobs(self.blobs, self.record.title_versionless, self.manifest.workspace)
        return (self._there or {}) | found

    def _move(self, blobs: Sequence[Blob]) -> tuple[dict[str, str], dict[str, Exception]]:
        return self.archive.upload_blobs(
            blobs,
            self.source,
            self.record,
            self.manifest.workspace,
            threads=self.threads,
            meter=self.progress,
        )

    def published(self) -> dict[str, Any] | None:
        """Return the record of this version that is in the archive, or None."""
        return self.archive.get_release(self.record.title_versionless, self.record.version, self.manifest.workspace)

    def is_published(self) -> bool:
        """Tell whether the archive has the record, with this content.

        Raises
        ------
        ReleaseExistsError
            When it has this version with other content.
        """
        if self._published:
            return True
        published = self.published()
        if published is not None and self._is_to_be_followed(published):
            return False
        if published is not None and not (
            self.unreadable or ReleaseRecord(published, self.record.title).same_release(self.record)
        ):
            raise ReleaseExistsError(
                f"{self.record.title} is in {printable(self.archive.host)} already, with other content, and a "
                f"published release never changes; {self.advice()}."
            )
        # A record never changes, so that it need not be read again.
        self._published = published is not None
        return self._published

    def _is_to_be_followed(self, published: dict[str, Any]) -> bool:
        return False

    def is_finished(self) -> bool:
        """Tell whether the record and every blob of it are in the archive."""
        return self.is_published() and not self.unreadable and super().is_finished()

    def publish(self) -> None:
        """Upload the record."""
        if not self.is_published():
            try:
                self.place = self._publish_record()
                # What the archive confirmed need not be looked up, which might be too early for its index.
                self._published = True
            except ReleaseExistsError:
                if not self.is_published():  # another run was faster; with the same content that is as good
                    raise
        self.tidy()

    def _publish_record(self) -> str:
        def publish() -> str:
            return self.archive.publish_record(self.final_record(), self.manifest.workspace, self.repeats)

        try:
            return publish()
        except BlobNotThereError:
            # Of two that upload the same bytes, the later one takes its blob back, which this run may have found.
            self._there = self._find()
            return publish()

    def tidy(self) -> None:
        """Remove what this and interrupted runs needed on the way."""
        self.archive.tidy(self.record.title_versionless, self.manifest.workspace)


class UploadRun(ArchivingRun):
    """The publishing of a release.

    Attributes
    ----------
    project : Project or None
        The project as it was scanned; None in a process that was only handed the manifest.
    """

    project: Project | None = None

    @property
    def source(self) -> BlobSource:
        """The project directory."""
        return ProjectSource(self.manifest.directory)

    def advice(self) -> str:
        """Return which options help."""
        return "give another --release-version" + (
            " or --repeat-release" if self.archive.supports_repeat_releases else ""
        )

    def _is_to_be_followed(self, published: dict[str, Any]) -> bool:
        return self.repeats is not None and self._place_of(published) == self.repeats

    def published_place(self) -> str | None:
        """Return where the record of this version is, or None where there is none."""
        published = self.published()
        return None if published is None else self._place_of(published)

    def _place_of(self, published: dict[str, Any]) -> str:
        return str(published.get(RECORD_PID) or self.archive.locate_record(published, self.manifest.workspace))

    def publish(self) -> None:
        """Upload the record.

        Raises
        ------
        BlobsFailedError
            When a source file changed since its blob was uploaded.
        """
        if self.project is not None:
            digests = {path: blob.digest for blob in self.blobs for path in blob.paths}
            if changed := changed_files(self.project, digests):
                raise BlobsFailedError(list(changed.items()))
        super().publish()

    def final_record(self) -> dict[str, Any]:
        """Return the record with the PIDs of its blobs."""
        self.record.set_pids(self.there)
        return self.record.content


class MirrorRun(ArchivingRun):
    """The copying of a release from another archive."""

    @cached_property
    def origin_archive(self) -> ArchiveInterface:
        """The archive that the release is copied from."""
        return get_interface(self.manifest.source)

    @property
    def source(self) -> BlobSource:
        """The blobs of the release there."""
        return ArchiveSource(self.origin_archive, self.record.content, self.manifest.source_workspace)

    def advice(self) -> str:
        """Return what can be done."""
        return f"compare it with that in {printable(self.origin_archive.host)}, and leave it out with --versions"

    def final_record(self) -> dict[str, Any]:
        """Return the record with the PIDs of the blobs here, and with where the release was published first."""
        content = copied_record(self.record, self.origin_archive, self.manifest.source_workspace)
        ReleaseRecord(content).set_pids(self.there)
        return content


class FetchRun(Run):
    """The fetching of a release.

    Attributes
    ----------
    required : sequence of FetchRun
        What a dry run would fetch besides.
    """

    required: Sequence["FetchRun"] = ()

    @cached_property
    def destination(self) -> Destination:
        """The folder that gets the files."""
        folder = Path(self.manifest.directory)
        return Destination(folder, self.record, hash_cache(), anchor=folder.parent)

    def _find(self) -> dict[str, str]:
        with Progress(f"checking {self.manifest.directory}", 0, self.record.nbytes) as progress:
            return dict.fromkeys(self.destination.verified(threads=self.threads, meter=progress), "")

    def _move(self, blobs: Sequence[Blob]) -> tuple[dict[str, str], dict[str, Exception]]:
        failures = self.destination.fetch(
            blobs,
            lambda blob, offset: self.archive.open_blob(blob, self.record.content, self.manifest.workspace, offset),
            threads=self.threads,
            meter=self.progress,
            chunk=CHUNK,
        )
        return {blob.digest: "" for blob in blobs if blob.digest not in failures}, failures

    def is_finished(self) -> bool:
        """Tell whether everything of the release is in the folder."""
        return self.destination.is_complete() and super().is_finished()

    def prospect(self) -> str:
        """Return what would be done, for people."""
        return "; of ".join([super().prospect(), *(f"{run.record.title}, {run.prospect()}" for run in self.required)])
