"""What this process knows of a running audit: its titles, what was found, and what is being repaired."""

import json
import time
from collections import Counter, deque
from collections.abc import Callable, MutableMapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple
from weakref import WeakValueDictionary

from ..archives import get_interface
from ..archives.auditing import Auditor, HealingSource
from ..audit import Finding, Scope, TitleAudit, is_whole
from ..errors import AuditError, RecordError, explain, printable
from ..journal import AuditJournal
from ..manifest import Manifest
from ..progress import format_bytes, log
from ..release import Blob
from ..report import DONE, RUNNING, UNCHANGED, WAITING, Counts, ReleaseReport
from ..settings import read_settings
from .runs import Run, manifest_folder, threads_and_resources
from .telling import Teller


class AuditOptions(NamedTuple):
    """What an audit was asked for.

    Attributes
    ----------
    archive, repair_from : str
        Where the archive is, and the one to repair from; the latter is empty when nothing is to be repaired.
    user : str or None
        Who uses the archive.
    workspace : str
        The workspace in both.
    scope : Scope
        Which blobs are read.
    """

    archive: str
    user: str | None
    workspace: str
    repair_from: str
    scope: Scope


class AuditRun:
    """The audit of an archive.

    Parameters
    ----------
    options : AuditOptions
        What is to be done.

    Attributes
    ----------
    options : AuditOptions
        As given.
    threads : int
        How many blobs are read at the same time.
    resources : dict
        What a title takes of the limits in ``[resources]``, name to number of transfers.
    teller : Teller
        Tells the scheduler how far the audit is.
    """

    _runs: ClassVar[MutableMapping[AuditOptions, "AuditRun"]] = WeakValueDictionary()
    # Of these no task in this process holds the run.
    _begun_elsewhere: ClassVar[deque["AuditRun"]] = deque(maxlen=16)

    def __init__(self, options: AuditOptions) -> None:
        self.options = options
        self.threads, self.resources = threads_and_resources(options.archive, options.repair_from)
        self.teller = Teller()
        self._audits: dict[str, TitleAudit] = {}
        self._repairs: dict[str, list[RepairRun]] = {}
        self._before: frozenset[str] = frozenset()
        self._over: set[str] = set()
        self._loose = ReleaseReport(options.workspace, state=WAITING)
        self._began, self._number = time.monotonic(), time.time_ns()
        self._runs[options] = self

    @classmethod
    def of(cls, options: AuditOptions) -> "AuditRun":
        """Return the run that was asked for, which another process may have begun."""
        run = cls._runs.get(options)
        if run is None:
            run = cls(options)
            cls._begun_elsewhere.append(run)
        return run

    @cached_property
    def journal(self) -> AuditJournal:
        """When each blob was found intact."""
        return AuditJournal.at(Path(read_settings().cache_directory) / "audits-1.sqlite3")

    @cached_property
    def auditor(self) -> Auditor:
        """The archive."""
        return get_interface(self.options.archive, self.options.user).auditor(self.options.workspace)

    @cached_property
    def mirror(self) -> Auditor | None:
        """The archive to repair from."""
        where = self.options.repair_from
        return get_interface(where).auditor(self.options.workspace) if where else None

    @cached_property
    def titles(self) -> list[str]:
        """The titles of the archive."""
        if self.options.repair_from:
            _ = self.mirror  # one that does not exist is said before anything is read
        self.journal.forget(self._place, self.options.scope.night)
        titles = self.auditor.titles()
        self._before = frozenset(title for title in titles if self.result_of(title) is not None)
        self._over = set(self._before)
        return titles

    @property
    def title(self) -> str:
        """What is audited, for people."""
        return f"the audit of {printable(self.options.archive)} for {self.options.scope.night}"

    def prospect(self) -> str:
        """Return what would be done, for people."""
        return "is finished" if self.is_finished() else "is to be done"

    # --- what is known --------------------------------------------------------------------------------------------

    @property
    def _place(self) -> str:
        return f"{self.options.archive}\n{self.options.workspace}"

    @property
    def _manner(self) -> str:
        scope = self.options.scope
        return json.dumps([str(scope.sample), scope.max_age_days, self.options.repair_from])

    def is_finished(self) -> bool:
        """Tell whether an audit like this was finished for this night, and left nothing damaged."""
        return self.journal.result(self._place, self.options.scope.night, self._manner) is not None

    def result_of(self, title: str) -> dict[str, int] | None:
        """Return what was counted for a title; None when it was not audited tonight, or is still damaged."""
        return self.journal.result(f"{self._place}\n{title}", self.options.scope.night, self._manner)

    def _found_in(self, title: str) -> dict[str, int]:
        """Return what was counted in a title that is not intact yet, and the number of the run that did."""
        return self.journal.result(f"{self._place}\n{title}", self.options.scope.night, f"{self._manner} so far") or {}

    def note_found(self, title: str) -> None:
        """Remember what was found in a title, which another process may go on with."""
        audit = self.audit_of(title)
        if audit.has_found:
            place, counts = f"{self._place}\n{title}", {**audit.counts, "run": self._number}
            self.journal.note(place, self.options.scope.night, f"{self._manner} so far", counts)

    def audit_of(self, title: str) -> TitleAudit:
        """Return the audit of a title."""
        if title not in self._audits:
            place = self._place if self.auditor.shares_blobs else f"{self._place}\n{title}"
            audit = TitleAudit(self.auditor, title, place, self.journal, self.options.scope, self.mirror, self.threads)
            audit.earlier.update(self._found_in(title))
            self._audits[title] = audit
        return self._audits[title]

    # --- repairs --------------------------------------------------------------------------------------------------

    def repairs_of(self, title: str) -> "list[RepairRun]":
        """Return what is to be repaired of a title, release by release."""
        if title not in self._repairs:
            audit = self.audit_of(title)
            self._repairs[title] = [self._repair(audit, version) for version in audit.damaged]
        return self._repairs[title]

    def _repair(self, audit: TitleAudit, version: str) -> "RepairRun":
        record = self.auditor.read_record(audit.title, version)
        if record is None:
            raise RecordError(f"The record of {audit.title}-v{version} is gone since it was read; run again.")
        options = self.options
        manifest = Manifest(
            options.archive, options.user, options.workspace, "", record, options.repair_from, options.workspace
        )
        run = RepairRun(manifest, self.auditor.archive)
        run.follow(audit, lambda: self._repair_over(audit))
        manifest.save(manifest_folder())
        return run

    def _repair_over(self, audit: TitleAudit) -> None:
        # Where a repair failed, Luigi does not come back to the title.
        repairs = self._repairs[audit.title]
        if all(run.is_over for run in repairs) and any(run.progress.failed for run in repairs):
            self.title_over(audit.title)

    # --- the end --------------------------------------------------------------------------------------------------

    def finish_title(self, title: str) -> None:
        """Remember that a title is audited and intact.

        Raises
        ------
        AuditError
            When it is not intact.
        """
        audit = self.audit_of(title)
        for run in self._repairs.get(title, []):
            run.manifest.remove(manifest_folder())
        if self.mirror is not None:
            self.auditor.tidy(title)
        if not audit.failures:
            self.journal.note(f"{self._place}\n{title}", self.options.scope.night, self._manner, audit.counts)
        self.title_over(title)
        if audit.failures:
            raise AuditError(f"{title}: {len(audit.failures)} found damaged and not repaired.", audit.failures)

    def title_failed(self, title: str, error: Exception) -> None:
        """Note that a title could not be looked at."""
        if title in self._audits:
            self._audits[title].failures.append(Finding(title, explain(error)))
        self.title_over(title)

    def title_over(self, title: str) -> None:
        """Note that nothing more is done with a title in this run; when it was the last one, say what was found."""
        self._over.add(title)
        if self._over.issuperset(self.titles) and self._failures():
            log.error(
                "%s was not found intact: %s. When the cause is gone, run the same command again for the rest.",
                printable(self.options.archive),
                self.summary(),
            )

    def _failures(self) -> list[Finding]:
        return [finding for audit in self._audits.values() for finding in audit.failures]

    def finish(self) -> None:
        """Look at what belongs to no title, and remember that the archive is intact.

        Raises
        ------
        AuditError
            When a record is damaged.
        """
        mended = self.auditor.mend() if self.options.repair_from else []
        for sentence in mended:
            log.warning("%s", Finding(self.options.workspace, sentence))
        findings = [Finding(self.options.workspace, sentence) for sentence in self.auditor.unread_records()]
        unnamed = self.auditor.unnamed_blobs()
        for name, size in unnamed:
            log.warning("No record names the blob %s, %d bytes; it was left alone.", printable(name), size)
        counts = self._loose.counts
        counts.unnamed_blobs, counts.unnamed_bytes = len(unnamed), sum(size for _, size in unnamed)
        counts.damaged_records = len(findings) + len(mended)
        self._loose.state = DONE
        for finding in findings:
            self._loose.fail("", finding.sentence)
        if findings:
            raise AuditError("\n".join(map(str, findings)), findings)
        self.journal.note(self._place, self.options.scope.night, self._manner, self.counts())

    def counts(self) -> Counter[str]:
        """Return what was counted in all titles."""
        total = Counter(vars(self._loose.counts))
        for title in self.titles:
            audit = self._audits.get(title)
            total.update(audit.counts if audit is not None else self._counts_of(title))
        return total

    def describe(self) -> list[ReleaseReport]:
        """Return what there is to tell of each title now, and of what belongs to none."""
        told = [self._describe(title) for title in vars(self).get("titles", [])]
        return told + [self._loose] * any(vars(self._loose.counts).values())

    def _describe(self, title: str) -> ReleaseReport:
        audit = self._audits.get(title)
        if audit is None:
            return self._describe_elsewhere(title)
        told = ReleaseReport(title, state=RUNNING, seconds=audit.seconds, counts=Counts(**audit.counts))
        if title in self._over:
            told.succeed(DONE)
        for finding in audit.failures:
            told.fail(finding.what, finding.sentence)
        return told

    def _describe_elsewhere(self, title: str) -> ReleaseReport:
        """Return what there is to tell of a title that this process did not look at."""
        told = ReleaseReport(title, state=WAITING, counts=Counts(**self._counts_of(title)))
        if title in self._before:
            told.state = UNCHANGED
        elif self.result_of(title) is not None:
            told.succeed(DONE)
        elif self._found_in(title).get("run") == self._number:
            told.fail("", "it was not found intact; the log has the findings")
        return told

    def _counts_of(self, title: str) -> dict[str, int]:
        found = self.result_of(title) or self._found_in(title)
        return {name: count for name, count in found.items() if name != "run"}

    def summary(self) -> str:
        """Return what was done, for people."""
        counts = self.counts()
        return (
            f"{len(self.titles)} titles, {counts['blobs']} blobs ({format_bytes(counts['bytes'])}); "
            f"{counts['checked_blobs']} read ({format_bytes(counts['checked_bytes'])}), "
            f"{counts['damaged_blobs']} damaged, {counts['missing_blobs']} missing, "
            f"{counts['repaired_blobs']} repaired, {counts['damaged_records']} records damaged, "
            f"{counts['unnamed_blobs']} blobs that no record names ({format_bytes(counts['unnamed_bytes'])}), "
            f"{time.monotonic() - self._began:.1f} s"
        )


class RepairRun(Run):
    """The replacing of damaged blobs of one release by those of another archive.

    Attributes
    ----------
    is_over : bool
        Whether each of them was replaced or could not be.
    """

    is_over = False
    _audit: TitleAudit | None = None
    _over: Callable[[], None] | None = None
    _damaged: tuple[Blob, ...] = ()

    def follow(self, audit: TitleAudit, over: Callable[[], None]) -> None:
        """Repair what an audit in this process found, and call `over` at the end."""
        self._audit, self._over = audit, over
        self._damaged = tuple(audit.damaged[self.record.version])

    def numbers(self) -> list[int]:
        """Return which blobs of the record are to be replaced."""
        digests = {blob.digest for blob in self._damaged}
        return [number for number, blob in enumerate(self.blobs) if blob.digest in digests]

    @cached_property
    def auditor(self) -> Auditor:
        """The archive that is repaired."""
        return self.archive.auditor(self.manifest.workspace)

    @cached_property
    def missing(self) -> list[Blob]:
        """The blobs to be replaced."""
        return list(self._damaged)

    def _find(self) -> dict[str, str]:
        return {}

    def is_there(self, blob: Blob) -> bool:
        """Tell whether a blob is whole, by reading it where that is not known."""
        if blob.digest not in self.there and blob not in self._damaged and is_whole(self.auditor, blob, self.record):
            self.there[blob.digest] = ""
        return blob.digest in self.there

    def _move(self, blobs: Sequence[Blob]) -> tuple[dict[str, str], dict[str, Exception]]:
        mirror = get_interface(self.manifest.source).auditor(self.manifest.source_workspace)
        source = HealingSource(mirror, blobs, self.record)
        failures = self.auditor.heal_blobs(blobs, self.record, source, threads=self.threads, meter=self.progress)
        if self._audit is not None:
            self._audit.healed(blob for blob in blobs if blob.digest not in failures)
            for blob in blobs:
                if blob.digest in failures:
                    self._audit.not_healed(blob, self.record.version, failures[blob.digest])
        return {blob.digest: "" for blob in blobs if blob.digest not in failures}, failures

    def _close_if_over(self) -> None:
        if self.progress.accounted >= len(self.missing):
            self.is_over = True
            self.progress.close()
            if self._over is not None:
                self._over()
