"""How an archive in a folder is audited and repaired.

A record is kept twice: ``<title>/.records/<version>/<SHA-1>`` holds its bytes once more, named by their digest. So a
flipped bit in either of the two is seen, and the other one heals it. What is damaged is kept in ``<title>/.damaged``.
"""

import copy
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checksums import algorithm, hash_file, is_digest, new_hash
from ..documents import load_mapping, read_document
from ..durable import Staging, is_taken, sync_folder, write_file
from ..errors import BlobError, InvalidNameError, PipelineError, RecordError, SourceChangedError, explain, printable
from ..names import check_folder_name
from ..release import ORIGIN, RECORD_PID, Blob, ReleaseRecord
from ..transfer import Meter, Move, move_blobs
from ..versions import is_version, precedence
from .auditing import Auditor, origin_digest
from .sources import BlobSource

if TYPE_CHECKING:
    from .filesystem import FileSystemArchive

COPIES, DAMAGED = ".records", ".damaged"
_ABANDONED_SECONDS = 7 * 86400


class FileSystemAuditor(Auditor):
    """A workspace of an archive in a folder, as an audit looks at it.

    Parameters
    ----------
    archive : FileSystemArchive
        The archive.
    workspace : str
        The workspace.
    """

    archive: "FileSystemArchive"

    def titles(self) -> list[str]:
        """Return the names of the title folders, also of those without a record."""
        folder = self.archive.archive_path / check_folder_name(self.workspace, "workspace")
        names = [entry.name for entry in _entries(folder) if entry.is_dir()]
        return [name for name in names if is_folder_name(name)]

    def _folder(self, title: str) -> Path:
        return self.archive.title_folder(title, self.workspace)

    def _record(self, title: str, version: str) -> Path:
        return self.archive.record_file(title, version, self.workspace)

    def _blob(self, title: str, digest: str) -> Path:
        return self._folder(title) / "blobs" / digest[:2] / digest

    def versions(self, title: str) -> list[str]:
        """Return the versions of a title, also those of which only the second copy of the record is left."""
        # Copies first: a record that is published meanwhile is listed then.
        copied = {entry.name for entry in _entries(self._folder(title) / COPIES) if is_version(entry.name)}
        listed = super().versions(title)
        lost = {version for version in copied.difference(listed) if self._is_lost(title, version)}
        return sorted({*listed, *lost}, key=lambda version: (precedence(version), version))

    def _is_lost(self, title: str, version: str) -> bool:
        """Tell whether a record is gone that has a second copy, which is written just before it is published."""
        copies = record_copies(self._folder(title), version)
        if not copies or self._may_be_published_soon(title, copies):
            return False
        return not self._record(title, version).exists()

    def _may_be_published_soon(self, title: str, copies: Sequence[Path]) -> bool:
        """Tell whether the run that wrote copies of a record goes on, or was killed and may be completed."""
        if not self.archive.staging(title, self.workspace).folder.exists():
            return False
        try:
            written = max(os.lstat(copy_).st_mtime for copy_ in copies)
        except FileNotFoundError:
            return True  # somebody removes them just now
        return time.time() - written < _ABANDONED_SECONDS

    def read_record(self, title: str, version: str) -> ReleaseRecord | None:
        """Return a record; None when it is gone.

        Raises
        ------
        RecordError
            When it is damaged, or is not what was published.
        """
        try:
            self._prove(title, version)
            return self.archive.read_record(title, version, self.workspace)
        except FileNotFoundError:
            return None
        except (OSError, SourceChangedError) as error:
            raise RecordError(explain(error, self._record(title, version))) from None

    def list_blobs(self, title: str) -> dict[str, int]:
        """Return the names and sizes of the files in the folder of the blobs."""
        sizes: dict[str, int] = {}
        for folder in _entries(self._folder(title) / "blobs"):
            for entry in _entries(folder.path) if folder.is_dir(follow_symlinks=False) else [folder]:
                with suppress(FileNotFoundError):
                    name = entry.name if is_digest(entry.name) and entry.name[:2] == folder.name else entry.path
                    sizes[name] = entry.stat(follow_symlinks=False).st_size
        return sizes

    # --- what is damaged ------------------------------------------------------------------------------------------

    def look_at_record(
        self, title: str, version: str, mirror: Auditor | None
    ) -> tuple[ReleaseRecord | None, str | None]:
        """Return a record as far as it can be read, and what is wrong with it or with its copy, or None."""
        record, damage = super().look_at_record(title, version, mirror)
        if record is None and damage is None and self._is_lost(title, version):
            copies = printable(self._folder(title) / COPIES / version)
            return None, f"the record is missing, and only its second copy in {copies} is left"
        for file in record_copies(self._folder(title), version) if damage is None else ():
            if _intact(file) is None:
                damage = f"the second copy of the record, {file}, is damaged"
        for blob in () if record is None or damage is not None else record.blobs:
            if blob.pid != blob.digest:
                return None, f"the record is damaged: {self._record(title, version)} names {blob.digest} otherwise"
        return record, damage

    def _prove(self, title: str, version: str) -> None:
        file = self._record(title, version)
        if not is_as_published(read_document(file), self._folder(title), version):
            raise RecordError(f"{file} does not have the bytes that were published")

    def is_proven(self, title: str, version: str) -> bool:
        """Tell whether a record has a second copy, which tells what was published."""
        return bool(record_copies(self._folder(title), version))

    def seems_damaged(self, title: str, blob: Blob) -> bool:
        """Look at the size of the file."""
        try:
            return os.stat(self._blob(title, blob.digest)).st_size != blob.size
        except OSError:
            return True

    # --- repairing ------------------------------------------------------------------------------------------------

    def heal_record(self, title: str, version: str, mirror: Auditor) -> str:
        """Put back the record from its copy, the copy from the record, or both from the mirror's record.

        Raises
        ------
        RecordError
            When nothing proves which bytes were published.
        """
        file, copies = self._record(title, version), record_copies(self._folder(title), version)
        if not file.exists() and mirror.read_record(title, version) is None:
            raise RecordError(
                f"it is not restored, because {printable(mirror.archive.host)} does not have it, so that it may never "
                "have been published; publish it again, or remove the copy"
            )
        proven = {copy_.name for copy_ in copies}
        source, data = self._exact_bytes(title, version, mirror, proven)
        staging = self.archive.staging(title, self.workspace)
        damaged = [copy_ for copy_ in copies if _intact(copy_) is None]
        for copy_ in damaged:
            self._set_aside(title, copy_)
        if copies:
            write_file(data, self._folder(title) / COPIES / version / sha1(data), staging, exclusive=False)
        for copy_ in damaged:
            if copy_.name != sha1(data):
                _unlink(copy_, staging)
        if _read(file) != data:
            self._set_aside(title, file)
            write_file(data, file, staging, exclusive=False)
        self.tidy(title)
        return source

    def _exact_bytes(self, title: str, version: str, mirror: Auditor, proven: set[str]) -> tuple[str, bytes]:
        """Return the bytes that were published, and where they were found."""
        file = self._record(title, version)
        data = _read(file)
        if data is not None and sha1(data) in proven:
            return "the record itself", data
        whole = [copy_ for copy_ in map(_intact, record_copies(self._folder(title), version)) if copy_ is not None]
        if len(whole) == 1:
            return "its second copy", whole[0]
        theirs = mirror.read_record(title, version)
        if theirs is not None:
            told = origin_digest(theirs)
            wanted = proven or ({told} if told else set())
            for rebuilt in _rebuilt(theirs, data):
                if sha1(rebuilt) in wanted:
                    return printable(mirror.archive.host), rebuilt
        raise RecordError(
            f"it is not repaired, because nothing in {printable(mirror.archive.host)} tells its exact bytes; look at "
            "both, and replace it by hand"
        )

    def heal_blobs(
        self, blobs: Sequence[Blob], record: ReleaseRecord, source: BlobSource, *, threads: int, meter: Meter
    ) -> dict[str, Exception]:
        """Replace damaged and missing blobs like any that is uploaded; the damaged ones move aside just before."""
        title = record.title_versionless

        def move(blob: Blob) -> Move:
            target = self._blob(title, blob.digest)
            return Move(
                name=blob.paths[0],
                digest=blob.digest,
                size=blob.size,
                source=lambda offset: source.open(blob, offset),
                targets=(str(target),),
                is_there=lambda: _holds(target, blob),
                wrong=lambda: source.wrong(blob),
                before_naming=lambda: self._set_aside(title, target),
            )

        staging = self.archive.staging(title, self.workspace)
        failures = move_blobs(map(move, blobs), staging, threads=threads, meter=meter)
        self._remove_parts(title)
        return failures

    def tidy(self, title: str) -> None:
        """Make durable what interrupted repairs named, and remove their parts.

        Raises
        ------
        OSError
            When it cannot be made durable.
        """
        if self.archive.staging(title, self.workspace).folder.is_dir():
            for folder, _, _ in os.walk(self._folder(title)):
                sync_folder(folder)
            self._remove_parts(title)

    def _remove_parts(self, title: str) -> None:
        """Remove the folder of parts, unless there are some that an interrupted upload will go on with."""
        parts = self.archive.staging(title, self.workspace).folder.glob("*.part")
        with suppress(OSError):
            if not any(part.stat().st_size for part in parts):
                self.archive.tidy(title, self.workspace)

    def set_aside(self, title: str, name: str) -> None:
        """Take a damaged blob that no record names out of the way."""
        file = self._blob(title, name)
        self._set_aside(title, file)
        _unlink(file, self.archive.staging(title, self.workspace))
        sync_folder(file.parent)

    def _set_aside(self, title: str, file: Path) -> None:
        """Give a damaged file a second name in ``.damaged``, so that its own name can be given to what is whole."""
        aside = self._folder(title) / DAMAGED
        if not is_taken(file):
            return
        staging = self.archive.staging(title, self.workspace)
        with staging.folders() as folders:
            for folder in folders.make(aside):
                sync_folder(folder)
            # A repair that was killed may have done this already.
            if any(_is_same(file, entry.path) for entry in _entries(aside) if entry.name.startswith(file.name)):
                return
            name = aside / f"{file.name}-{datetime.now(timezone.utc):%Y%m%dT%H%M%S.%fZ}"
            try:
                folders.link(file, name)
            except OSError:
                # No hard links here, or a folder stands where a file belongs.
                is_record = file.suffix == ".yml" or file.parent.parent.name == COPIES
                data = _read(file) if is_record else None
                if data is None:
                    folders.replace(file, name)
                else:  # a record or copy whose name is gone for a moment would be forgotten if the run is killed then
                    write_file(data, name, staging, exclusive=True)
            sync_folder(aside)


def record_copies(folder: Path, version: str) -> list[Path]:
    """Return the files that hold a record of a title folder once more; each is named by the SHA-1 of its bytes."""
    return sorted(Path(entry.path) for entry in _entries(folder / COPIES / version) if is_digest(entry.name))


def is_as_published(data: bytes, folder: Path, version: str) -> bool:
    """Tell whether the bytes of a record, which were read before this is asked, are those that its copy is named by."""
    copies = record_copies(folder, version)
    return not copies or sha1(data) in {copy_.name for copy_ in copies}


def write_copy(data: bytes, folder: Path, version: str, staging: Staging) -> Path:
    """Keep the bytes of a record once more, before it is published, and return the file."""
    file = folder / COPIES / version / sha1(data)
    write_file(data, file, staging, exclusive=False)
    return file


def remove_other_copies(record: Path, folder: Path, version: str, staging: Staging) -> None:
    """Remove what runs left that were killed, or came too late, just before they published a record of this version."""
    published = _read(record)
    copies = record_copies(folder, version)
    if published is not None and sha1(published) in {file.name for file in copies}:
        for file in copies:
            if file.name != sha1(published):
                _unlink(file, staging)


def _unlink(file: Path, staging: Staging) -> None:
    with suppress(FileNotFoundError), staging.folders() as folders:
        folders.unlink(file)


def _is_same(file: Path, other: str) -> bool:
    return os.path.samestat(os.lstat(file), os.lstat(other))


def sha1(data: bytes) -> str:
    """Return the SHA-1 of some bytes."""
    digest = new_hash("sha1")
    digest.update(data)
    return digest.hexdigest()


def _rebuilt(theirs: ReleaseRecord, damaged: bytes | None) -> Iterator[bytes]:
    """Yield what a record here may have been, given a mirror's: without an origin, or with one of the two."""
    content = copy.deepcopy(theirs.content)
    content.pop(RECORD_PID, None)
    origins: list[Any] = [content.pop(ORIGIN, None)]
    record = ReleaseRecord(content)
    record.set_pids({blob.digest: blob.digest for blob in record.blobs})
    yield record.dump()
    with suppress(PipelineError):
        mine = None if damaged is None else load_mapping(damaged, "the record")
        origins += [mine.get(ORIGIN)] if isinstance(mine, dict) else []
    for origin in origins:
        if origin is not None:
            yield ReleaseRecord({**content, ORIGIN: origin}).dump()


def is_folder_name(name: str) -> bool:
    """Tell whether a name can be that of a title."""
    with suppress(InvalidNameError):
        return bool(check_folder_name(name, "title"))
    return False


def _read(file: Path) -> bytes | None:
    try:
        return read_document(file)
    except (OSError, PipelineError):
        return None


def _intact(file: Path) -> bytes | None:
    """Return the bytes of a file that is named by their SHA-1; None when they are others."""
    data = _read(file)
    return data if data is not None and sha1(data) == file.name else None


def _holds(file: Path, blob: Blob) -> bool:
    try:
        digest, stamp = hash_file(file, algorithm(blob.digest))
    except (OSError, BlobError):
        return False
    return digest == blob.digest and stamp.size == blob.size


def _entries(folder: str | Path) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
