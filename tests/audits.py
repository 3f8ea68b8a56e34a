"""Audit a title and repair it, as the tasks do, in this process and without Luigi."""

from datetime import date
from pathlib import Path

from pipeline import ArchiveInterface, FileSystemArchive
from pipeline.archives.auditing import HealingSource
from pipeline.audit import Scope, TitleAudit
from pipeline.journal import AuditJournal
from pipeline.transfer import Silent

PUBLIC = "Global Public Workspace"
TONIGHT = date(2026, 11, 23)


def audit(
    archive: Path | ArchiveInterface,
    mirror: Path | ArchiveInterface | None = None,
    *,
    title: str = "sample",
    workspace: str = PUBLIC,
    journal: AuditJournal | None = None,
    scope: Scope | None = None,
) -> TitleAudit:
    """Audit a title, repair it where a mirror is given, and return what was found."""
    auditor = opened(archive).auditor(workspace)
    healer = None if mirror is None else opened(mirror).auditor(workspace)
    known = AuditJournal(None) if journal is None else journal
    found = TitleAudit(auditor, title, "here", known, scope or Scope(TONIGHT), healer, threads=2)
    found.check()
    for version, blobs in found.damaged.items():
        record = auditor.read_record(title, version)
        assert record is not None
        assert healer is not None
        source = HealingSource(healer, blobs, record)
        failures = auditor.heal_blobs(blobs, record, source, threads=2, meter=Silent())
        found.healed(blob for blob in blobs if blob.digest not in failures)
        for blob in blobs:
            if blob.digest in failures:
                found.not_healed(blob, version, failures[blob.digest])
    return found


def opened(archive: Path | ArchiveInterface) -> ArchiveInterface:
    """Return an archive."""
    return FileSystemArchive(archive) if isinstance(archive, Path) else archive
