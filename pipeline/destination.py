"""A fetched release on disk: its files, each verified before it gets its name, and at last ``.rme/record.yml``."""

import os
import stat
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from .checksums import HashCache, Stamp, Stream, algorithm, hash_file, hash_files
from .documents import read_document
from .durable import Staging, sync_folder, sync_upwards, write_file
from .errors import BlobDamagedError, BlobsFailedError, RecordError, SourceChangedError, printable
from .release import Blob, ReleaseRecord
from .transfer import Meter, Move, Silent, move_blobs

STATE_FOLDER = ".rme"
OpenBlob = Callable[[Blob, int], AbstractContextManager[Stream]]


class Destination:
    """The folder that gets the files of one release.

    Parameters
    ----------
    folder : Path
        Made when it is needed. Nothing is ever written outside it, nor through a symbolic link in it.
    record : ReleaseRecord
        What belongs into it.
    cache : HashCache
        Spares the reading of files that were verified before.
    anchor : Path, optional
        A folder that it is in. Where one is given, a symbolic link to `folder` is not followed either.

    Raises
    ------
    RecordError
        When the record names a file that the state of the folder needs.
    """

    def __init__(self, folder: Path, record: ReleaseRecord, cache: HashCache, anchor: Path | None = None) -> None:
        self.folder = folder
        self.record = record
        self.record_file = folder / STATE_FOLDER / "record.yml"
        self._staging = Staging(folder / STATE_FOLDER / ".partial", folder if anchor is None else anchor)
        # Text, because path objects would cost more than the looking at a file.
        self._prefix = os.path.join(folder, "")
        self._cache = cache
        self._twins: tuple[str, str] | None = None
        self._check_names()

    def _check_names(self) -> None:
        # A record names every folder that something is in.
        reserved = {f"{STATE_FOLDER}/record.yml", f"{STATE_FOLDER}/.partial"}
        paths = [*self.record.folders, *self.record.empty_files, *(p for blob in self.record.blobs for p in blob.paths)]
        alike: dict[str, str] = {}
        for path in paths:
            twin = alike.setdefault(unicodedata.normalize("NFC", path).casefold(), path)
            if twin != path:
                self._twins = (twin, path)
            in_the_way = path.casefold() == STATE_FOLDER and path not in self.record.folders
            if in_the_way or path.casefold() in reserved:
                raise RecordError(f"{self.record.title}: the record names '{printable(path)}', which is not accepted.")

    def verified(self, *, threads: int = 1, meter: Meter | None = None) -> set[str]:
        """Return the digests of the blobs of which every file is here, with the right bytes.

        Files are read unless they are known to be unchanged since they were read last. So the first run after a fetch
        reads back what is on the disk, and later ones need not.
        """
        stamps: dict[str, dict[str, Stamp]] = {"sha1": {}, "sha256": {}}
        for blob in self.record.blobs:
            for path in blob.paths:
                if (stamp := self._stamp(path)) is not None and stamp.size == blob.size:
                    stamps[algorithm(blob.digest)][path] = stamp
        digests: dict[str, str] = {}
        for name, expected in stamps.items():
            digests |= self._hash(expected, name, threads, meter or Silent())
        return {blob.digest for blob in self.record.blobs if all(digests.get(p) == blob.digest for p in blob.paths)}

    def _hash(self, stamps: dict[str, Stamp], name: str, threads: int, meter: Meter) -> dict[str, str]:
        def advance(nbytes: int) -> None:
            meter.advanced("", nbytes)

        return hash_files(
            self.folder, stamps, self._cache, name=name, threads=threads, advance=advance, tick=meter.tick
        )[0]

    def _stamp(self, path: str) -> Stamp | None:
        try:
            status = os.lstat(self._prefix + path)
        except OSError:
            return None
        return Stamp.of(status) if stat.S_ISREG(status.st_mode) else None

    def fetch(
        self, blobs: Sequence[Blob], open_blob: OpenBlob, *, threads: int, meter: Meter, chunk: int
    ) -> dict[str, Exception]:
        """Fetch blobs to all their files and return those that failed, digest to error.

        Parameters
        ----------
        blobs : sequence of Blob
            Of the record.
        open_blob : callable
            Takes a blob and an offset in bytes and returns a context manager with a binary stream.
        threads : int
            How many are fetched at the same time.
        meter : Meter
            Is told how it goes.
        chunk : int
            Bytes that a thread holds in memory.
        """
        try:
            self._make_staging()
        except (OSError, RecordError) as error:
            for blob in blobs:
                meter.finished(blob.paths[0], 0, error, False)
            return {blob.digest: error for blob in blobs}

        def move(blob: Blob) -> Move:
            return Move(
                name=blob.paths[0],
                digest=blob.digest,
                size=blob.size,
                source=lambda offset: open_blob(blob, offset),
                targets=tuple(self._prefix + path for path in blob.paths),
                is_there=lambda: self._holds(blob),
                wrong=lambda: blob_damaged(blob),
            )

        return move_blobs(map(move, blobs), self._staging, threads=threads, meter=meter, chunk=chunk)

    def _holds(self, blob: Blob) -> bool:
        """Tell whether all files of a blob are here by now, by reading them: another run may have fetched them."""
        try:
            return all(
                (stamp := self._stamp(path)) is not None
                and stamp.size == blob.size
                and hash_file(self._prefix + path, algorithm(blob.digest))[0] == blob.digest
                for path in blob.paths
            )
        except (OSError, SourceChangedError):
            return False

    def is_complete(self) -> bool:
        """Tell whether everything of the record that is no blob is here: empty files, folders and the record."""
        try:
            return (
                read_document(self.record_file) == self.record.dump()
                and all((stamp := self._stamp(path)) and stamp.size == 0 for path in self.record.empty_files)
                and all(os.path.isdir(self._prefix + path) for path in self.record.folders)
            )
        except (OSError, SourceChangedError, RecordError):
            return False

    def finish(self) -> None:
        """Write what the record holds besides blobs, then the record itself, and tidy up.

        Raises
        ------
        OSError
            When something cannot be written, as where a symbolic link stands in the place of a folder.
        """
        self._make_staging()
        with self._staging.folders() as folders:
            for path in self.record.folders:
                folders.make(self._prefix + path)
        for path in self.record.empty_files:
            write_file(b"", self.folder / path, self._staging, exclusive=False)
        # Another run may have been stopped when it had named a file and not made the name durable.
        for path in self.record.folders:
            sync_folder(self._prefix + path)
        sync_upwards(self.folder)
        write_file(self.record.dump(), self.record_file, self._staging, exclusive=False)
        self.tidy()

    def _make_staging(self) -> None:
        self._staging.make()
        if self._twins and self._staging.folder.with_name(".PARTIAL").exists():
            one, other = map(printable, self._twins)
            raise RecordError(
                f"'{one}' and '{other}' are one name in {printable(self.folder)}, where upper and lower case are the "
                "same; give a --destination on another file system."
            )

    def tidy(self) -> None:
        """Remove what interrupted runs left, unless another run is using it."""
        self._staging.clear()


def fetch_file(
    find: Callable[[], Blob], open_blob: OpenBlob, target: Path, update_dict: dict[str, Any], chunk: int
) -> None:
    """Fetch one blob into a file of any name, verified before it gets the name.

    Parameters
    ----------
    find : callable
        Returns the blob.
    open_blob : callable
        As for :meth:`Destination.fetch`.
    target : Path
        The file.
    update_dict : dict
        Kept up to date: ``size`` (bytes so far), ``finished``, ``success`` and ``error``.
    chunk : int
        Bytes to hold in memory.

    Raises
    ------
    BlobsFailedError
        When the blob is missing or damaged; `update_dict` tells the same.
    """
    target = Path(os.path.abspath(target))
    update_dict.update(size=0, finished=False, success=False, error=None)
    try:
        blob = find()
        move = Move(
            name=target.name,
            digest=blob.digest,
            size=blob.size,
            source=lambda offset: open_blob(blob, offset),
            targets=(str(target),),
            wrong=lambda: blob_damaged(blob),
        )
        staging = Staging(target.parent / ".partial")
        failures = move_blobs([move], staging, threads=1, meter=_Status(update_dict), chunk=chunk)
        staging.clear()
        if failures:
            raise BlobsFailedError([(target.name, failures[blob.digest])])
    except Exception as error:
        update_dict["error"] = error
        raise
    finally:
        update_dict.update(success=update_dict["error"] is None, finished=True)


class _Status(Silent):
    """Keeps the size in an update_dict."""

    def __init__(self, update_dict: dict[str, Any]) -> None:
        self._status = update_dict

    def advanced(self, name: str, nbytes: int) -> None:
        self._status["size"] += nbytes


def blob_damaged(blob: Blob) -> BlobDamagedError:
    """Return the error for a blob whose bytes in the archive are not those of the record."""
    return BlobDamagedError(
        f"its blob {printable(blob.pid or blob.digest)} in the archive is damaged, the bytes do not have the digest "
        "and size of the record; restore it and run the same command again"
    )
