"""Read a title of an archive again and find what is damaged, without knowing of Luigi.

Records are looked at in every audit, and of every blob it is seen whether it is there with the right size. Which blobs
are read and hashed is a matter of the :class:`Scope`.
"""

import errno
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from fractions import Fraction
from math import floor
from typing import Any

from .archives.auditing import Auditor
from .checksums import CHUNK, algorithm, is_digest, new_hash, read_chunks
from .errors import BlobDamagedError, BlobsFailedError, PipelineError, explain, printable
from .journal import NEVER, AuditJournal, Seen
from .progress import Progress, log
from .release import Blob, ReleaseRecord
from .workers import Workers

_STORE_SECONDS = 2.0


@dataclass(frozen=True)
class Scope:
    """Which blobs an audit reads.

    Attributes
    ----------
    night : date
        Blobs that were found intact in the audit of this or a later night are not read again.
    sample : Fraction
        Which part of the blobs of each title is read; those come first that were not read for the longest time.
    max_age_days : int
        Blobs that were found intact less than so many days before are not read.
    """

    night: date
    sample: Fraction = Fraction(1)
    max_age_days: int = 1

    def due(self, title: str, keys: Sequence[str], seen: Mapping[str, Seen], turn: int = 0) -> list[str]:
        """Return which of the blobs of a title are to be read; `turn` counts the audits of it."""
        since = (self.night - timedelta(days=max(1, self.max_age_days) - 1)).isoformat()
        due = [key for key in keys if seen.get(key, NEVER).night < since]
        if self.sample < 1:
            tonight = self.night.isoformat()
            read = sum(seen.get(key, NEVER).night == tonight for key in keys)
            due = sorted(due, key=lambda key: seen.get(key, NEVER).at)[
                : max(0, self._share(title, len(keys), turn) - read)
            ]
        return due

    def _share(self, title: str, count: int, turn: int) -> int:
        """Return how many blobs are an audit's part, so that also titles with few blobs get their turn, and no more."""
        part, phase = self.sample * count, Fraction(zlib.crc32(title.encode()), 2**32)
        return floor(part * (turn + 1) + phase) - floor(part * turn + phase)


@dataclass(frozen=True)
class Finding:
    """Something that is wrong in an archive.

    Attributes
    ----------
    what : str
        The record or the blob, for people.
    sentence : str
        What is wrong with it, and what was done.
    """

    what: str
    sentence: str

    def __str__(self) -> str:
        return f"{printable(self.what)}: {printable(self.sentence)}"


class _Named:
    """A blob, and the version of the first record that names it."""

    __slots__ = ("blob", "version")

    def __init__(self, blob: Blob, version: str | None) -> None:
        self.blob, self.version = blob, version


@dataclass
class TitleAudit:
    """The audit of one title.

    Attributes
    ----------
    auditor : Auditor
        The archive.
    title : str
        The title.
    place : str
        Where the journal keeps what is known of the blobs.
    journal : AuditJournal
        When they were read last.
    scope : Scope
        Which of them are read.
    mirror : Auditor or None
        The archive to repair from.
    threads : int
        How many blobs are read at the same time.
    counts : Counter
        What was found; the names are those of the run report.
    failures : list of Finding
        What is damaged and not repaired.
    damaged : dict
        Blobs to be repaired, by the version of a record that names them; none without a mirror.
    seconds : float
        How long the reading took.
    earlier : Counter
        What was found this night by another process, or by a run that did not repair it all.
    """

    auditor: Auditor
    title: str
    place: str
    journal: AuditJournal
    scope: Scope
    mirror: Auditor | None
    threads: int
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[Finding] = field(default_factory=list)
    damaged: dict[str, list[Blob]] = field(default_factory=dict)
    seconds: float = 0.0
    earlier: Counter[str] = field(default_factory=Counter)
    _is_checked: bool = False
    _sees_all: bool = True
    _read: list[tuple[str, float]] = field(default_factory=list)
    _stored_at: float = 0.0

    def check(self, announce: Callable[[str, int], None] | None = None) -> None:
        """Look at all records and at the blobs that are due, once."""
        if self._is_checked:
            return
        began = time.monotonic()
        # Blobs first: a record that is published meanwhile names blobs that are listed already.
        listed = self.auditor.list_blobs(self.title)
        named: dict[str, _Named] = {}
        for version in self.auditor.versions(self.title):
            self._check_record(version, named)
        self.counts.update(blobs=len(named), bytes=sum(entry.blob.size for entry in named.values()))
        for blob in self._unnamed(listed, named):
            named[key_of(blob)] = _Named(blob, None)
        self._check_blobs(named, announce)
        self._count_earlier()
        self._is_checked = True
        self.seconds = time.monotonic() - began

    def _count_earlier(self) -> None:
        """Count what was found before, too; of that, what is not found again was repaired meanwhile."""
        now, before = self.counts, self.earlier
        broken = [counts["damaged_blobs"] + counts["missing_blobs"] for counts in (now, before)]
        now["repaired_blobs"] += before["repaired_blobs"]
        now["repaired_blobs"] += max(0, broken[1] - before["repaired_blobs"] - broken[0])
        now.update(checked_blobs=before["checked_blobs"], checked_bytes=before["checked_bytes"])
        for name in ("damaged_blobs", "missing_blobs", "damaged_records"):
            now[name] = max(now[name], before[name])

    @property
    def has_found(self) -> bool:
        """Whether anything was damaged or missing, also what is repaired."""
        return any(self.counts[name] for name in ("damaged_blobs", "missing_blobs", "damaged_records"))

    # --- records --------------------------------------------------------------------------------------------------

    def _check_record(self, version: str, named: dict[str, _Named]) -> None:
        what = f"{self.title}-v{version}"
        record, damage = self.auditor.look_at_record(self.title, version, self.mirror)
        if damage is not None:
            self.counts["damaged_records"] += 1
            if self._heal_record(what, version, damage):
                record, damage = self.auditor.look_at_record(self.title, version, self.mirror)
                if damage is not None:
                    self.fail(what, damage)
        self._sees_all = self._sees_all and (record is not None or damage is None)
        for blob in () if record is None else record.blobs:
            named.setdefault(key_of(blob), _Named(blob, version))

    def _heal_record(self, what: str, version: str, damage: str) -> bool:
        if self.mirror is None:
            self.fail(what, damage)
            return False
        try:
            source = self.auditor.heal_record(self.title, version, self.mirror)
        except (PipelineError, OSError) as error:
            self.fail(what, f"{damage}; {explain(error)}")
            return False
        log.warning("%s", Finding(what, f"{damage}; it was repaired from {source}"))
        return True

    # --- blobs ----------------------------------------------------------------------------------------------------

    def _unnamed(self, listed: Mapping[str, int], named: Mapping[str, _Named]) -> list[Blob]:
        """Tell of the stored blobs that no record names, and return those whose names tell their digest."""
        if not self._sees_all:
            return []
        digests = {entry.blob.digest for entry in named.values()}
        unnamed = {name: size for name, size in listed.items() if name not in digests}
        for name, size in unnamed.items():
            log.warning(
                "%s: no record names the blob %s, %d bytes; it was left alone.", self.title, printable(name), size
            )
        self.counts.update(unnamed_blobs=len(unnamed), unnamed_bytes=sum(unnamed.values()))
        return [Blob(name, size, (name,), name) for name, size in unnamed.items() if is_digest(name)]

    def _check_blobs(self, named: Mapping[str, _Named], announce: Callable[[str, int], None] | None) -> None:
        seen = self.journal.load(self.place)
        turn = self.journal.turn(f"{self.place}\n{self.title}", self.scope.night)
        due = set(self.scope.due(self.title, list(named), seen, turn))
        due |= {key for key in named if key not in due and self.auditor.seems_damaged(self.title, named[key].blob)}
        by_version: dict[str | None, list[Blob]] = {}
        for key in named:
            if key in due:
                by_version.setdefault(named[key].version, []).append(named[key].blob)
        nbytes = sum(named[key].blob.size for key in due)
        with (
            Progress(f"auditing {self.title}", len(due), nbytes) as progress,
            Workers(self.threads, lambda: self._tick(progress)) as workers,
        ):
            progress.announce = announce
            try:
                for version, blobs in by_version.items():
                    self._check_some(version, blobs, progress, workers)
            finally:
                self._store()
        self.counts.update(checked_blobs=progress.moved, checked_bytes=progress.moved_bytes)

    def _check_some(self, version: str | None, blobs: list[Blob], progress: Progress, workers: Workers) -> None:
        """Read the blobs of one record, so that only this record is held in memory."""
        record = self._record_of(version)
        damages: dict[str, str] = {}

        def check(blob: Blob) -> None:
            progress.started(blob.paths[0], blob.size)
            damage = self._damage(blob, record, progress, workers)
            progress.finished(blob.paths[0], blob.size, None, True)
            if damage is not None:
                damages[key_of(blob)] = damage
            self._read.append((key_of(blob), time.time() if damage is None else -1.0))

        failures = workers.each(check, blobs, sum(blob.size for blob in blobs))
        for blob in blobs:
            if blob in failures:
                progress.finished(blob.paths[0], 0, failures[blob], False)
                self.fail(self._called(blob, version), f"it could not be read: {explain(failures[blob])}")
            elif key_of(blob) in damages:
                self._found(blob, version, damages[key_of(blob)])

    def _record_of(self, version: str | None) -> dict[str, Any]:
        record = None if version is None else self.auditor.read_record(self.title, version)
        return {"title_versionless": self.title} if record is None else record.content

    def _damage(self, blob: Blob, record: dict[str, Any], progress: Progress, workers: Workers) -> str | None:
        """Return what is wrong with a blob, or None."""
        digest, size = new_hash(algorithm(blob.digest)), 0
        try:
            with self.auditor.open_blob(blob, record) as stream:
                for data in read_chunks(stream, min(CHUNK, blob.size + 1)):
                    digest.update(data)
                    size += len(data)
                    progress.advanced(blob.paths[0], len(data))
                    workers.check()
                    if size > blob.size:
                        return f"the blob is damaged: it has more than {blob.size} bytes"
        except BlobDamagedError:
            self.counts["missing_blobs"] += 1
            return "the blob is missing"
        except BlobsFailedError as failed:
            # What other kinds of archives say that verify what they give.
            if not all(isinstance(error, BlobDamagedError) for _, error in failed.failures):
                raise
            return "the blob is damaged or missing"
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return "the blob is damaged: the disk cannot read it"
        if size < blob.size:
            return f"the blob is damaged: it has {size} bytes instead of {blob.size}"
        name = algorithm(blob.digest).upper().replace("SHA", "SHA-")
        return None if digest.hexdigest() == blob.digest else f"the blob is damaged: its bytes have another {name}"

    def _found(self, blob: Blob, version: str | None, damage: str) -> None:
        if damage != "the blob is missing":
            self.counts["damaged_blobs"] += 1
        what = self._called(blob, version)
        if self.mirror is None:
            self.counts["failed_blobs"] += 1
            self.fail(what, damage)
        elif version is None:
            self._set_aside(blob, what, damage)
        else:
            log.warning("%s", Finding(what, f"{damage}; it is replaced from {self.mirror.archive.host}"))
            self.damaged.setdefault(version, []).append(blob)

    def _set_aside(self, blob: Blob, what: str, damage: str) -> None:
        try:
            self.auditor.set_aside(self.title, blob.digest)
        except (PipelineError, OSError) as error:
            self.counts["failed_blobs"] += 1
            self.fail(what, f"{damage}; {explain(error)}")
            return
        self.counts["repaired_blobs"] += 1
        log.warning("%s", Finding(what, f"{damage}; no record names it, and it was set aside"))

    def _called(self, blob: Blob, version: str | None) -> str:
        return f"{self.title}, {blob.digest}" if version is None else f"{self.title}-v{version}, {blob.paths[0]}"

    def _tick(self, progress: Progress) -> None:
        progress.tick()
        if time.monotonic() - self._stored_at > _STORE_SECONDS:
            self._store()

    def _store(self) -> None:
        read, self._read = self._read, []
        self.journal.store(self.place, self.scope.night, read)
        self._stored_at = time.monotonic()

    # --- what becomes of it ---------------------------------------------------------------------------------------

    def healed(self, blobs: Iterable[Blob]) -> None:
        """Note blobs that were replaced."""
        done = list(blobs)
        self.counts["repaired_blobs"] += len(done)
        self.journal.store(self.place, self.scope.night, [(key_of(blob), time.time()) for blob in done])

    def not_healed(self, blob: Blob, version: str, error: Exception) -> None:
        """Note a blob that could not be replaced."""
        self.counts["failed_blobs"] += 1
        self.failures.append(Finding(self._called(blob, version), explain(error)))

    def fail(self, what: str, sentence: str) -> None:
        """Say and note what is damaged and not repaired."""
        self.failures.append(Finding(what, sentence))
        log.error("%s", self.failures[-1])


def key_of(blob: Blob) -> str:
    """Return the name of a blob in the journal."""
    return blob.digest if blob.pid in (None, blob.digest) else f"{blob.digest} {blob.pid}"


def is_whole(auditor: Auditor, blob: Blob, record: ReleaseRecord) -> bool:
    """Tell whether an archive has a blob with all of its bytes, by reading it."""
    digest, left = new_hash(algorithm(blob.digest)), blob.size
    try:
        with auditor.open_blob(blob, record.content) as stream:
            for data in read_chunks(stream, min(CHUNK, blob.size + 1)):
                digest.update(data)
                left -= len(data)
    except (PipelineError, OSError):
        return False
    return left == 0 and digest.hexdigest() == blob.digest
