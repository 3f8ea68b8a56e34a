"""Audit an archive, and repair it from another one: AuditArchive -> AuditTitle -> RepairBlob for what is damaged."""

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import luigi

from ..archives.interface import DEFAULT_WORKSPACE
from ..audit import Scope
from ..errors import ArchiveError, AuditError, PipelineError, SettingsError, StorageError, explain, printable
from ..names import check_folder_name
from ..progress import log
from ..report import ReleaseReport
from .audit_runs import AuditOptions, AuditRun, RepairRun
from .base import ArchiveParameter, ExplainedTask, ReportedTask, announce_archive, locate_archive, night_parameter
from .blobs import BlobTask
from .reports import TaskReport, link_report, touch_reports


class RepairBlob(BlobTask):
    """Replace a damaged or missing blob by that of another archive, or a batch of them."""

    kind = RepairRun


class _Auditing(ExplainedTask):
    """What is asked for."""

    date = night_parameter()
    archive = ArchiveParameter(default="", positional=False, description="Folder, URL or alias of the archive.")
    workspace = luigi.Parameter(default=DEFAULT_WORKSPACE, positional=False, description="Workspace in the archive.")
    user = luigi.OptionalStrParameter(
        default=None, significant=False, positional=False, description="User name in the archive."
    )
    sample = luigi.FloatParameter(
        default=1.0, positional=False, description="Read only this part of the blobs, for instance 0.1 each night."
    )
    max_age_days = luigi.IntParameter(
        default=0, positional=False, description="Read only what was not read for so many days; default: everything."
    )
    repair_from = ArchiveParameter(
        default="", positional=False, description="Archive that has the same releases, to replace what is damaged."
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        announce_archive(self.archive)
        announce_archive(self.repair_from)

    def options(self) -> AuditOptions:
        """Return what is asked for.

        Raises
        ------
        PipelineError
            When it makes no sense.
        """
        archive = locate_archive(self.archive, "--archive")
        repair_from = locate_archive(self.repair_from, "--repair-from") if self.repair_from else ""
        if archive == repair_from:
            raise ArchiveError("--repair-from is the archive itself; give another one that has the same releases.")
        if not 0 < self.sample <= 1:
            raise SettingsError(f"--sample {self.sample} makes no sense; give a part such as 0.1, or leave it out.")
        if self.max_age_days < 0:
            raise SettingsError(f"--max-age-days {self.max_age_days} makes no sense; give 0 or more.")
        scope = Scope(self.date, Fraction(str(self.sample)), self.max_age_days)
        return AuditOptions(archive, self.user, check_folder_name(self.workspace, "workspace"), repair_from, scope)


class AuditTitle(_Auditing):
    """Look at all records of a title and read its blobs again; what is damaged is replaced where that is asked for."""

    title = luigi.Parameter(positional=False, description="The title.")

    @property
    def auditing(self) -> AuditRun:
        """The run that this belongs to."""
        return AuditRun.of(self.options())

    @property
    def resources(self) -> dict[str, int]:  # type: ignore[override]  # Luigi has a plain attribute
        """What the scheduler counts against the limit of a host."""
        with contextlib.suppress(PipelineError):  # running says what is wrong
            return self.auditing.resources
        return {}

    def complete(self) -> bool:
        """Tell whether the title was audited for this night, and is intact."""
        with contextlib.suppress(PipelineError, OSError):  # running says what is wrong
            return self.auditing.result_of(self.title) is not None
        return False

    def run(self) -> Iterator[list[RepairBlob]]:  # type: ignore[override]  # repairs are dynamic dependencies
        """Read, then let the damaged blobs be replaced, then say what is left.

        Luigi begins this anew when they are: what was read is known then.
        """
        link_report(self)
        run = self.auditing
        try:
            run.audit_of(self.title).check(self._announce)
            run.note_found(self.title)
            repairs = [task for repair in run.repairs_of(self.title) for task in _tasks_of(repair)]
        except Exception as error:
            run.title_failed(self.title, error)
            if isinstance(error, OSError):
                raise StorageError(explain(error)) from error
            raise
        if repairs:
            yield repairs
        try:
            run.finish_title(self.title)
        except OSError as error:
            run.title_failed(self.title, error)
            raise StorageError(explain(error)) from error

    def _announce(self, message: str, percentage: int) -> None:
        touch_reports()
        self.auditing.teller.tell(self, message, percentage)

    def on_failure(self, exception: BaseException) -> Any:
        """Return what the scheduler's page shows: all that was found."""
        if isinstance(exception, AuditError):
            return "\n".join(map(str, [exception, *exception.findings]))
        return super().on_failure(exception)


def _tasks_of(run: RepairRun) -> list[RepairBlob]:
    digest, title = run.manifest.digest, run.record.title
    return [
        RepairBlob(release=title, manifest=digest, blobs=str(number), path=printable(run.blobs[number].paths[0]))
        for number in run.numbers()
    ]


class AuditArchive(_Auditing, ReportedTask[AuditRun]):
    """Read an archive again, and find what is damaged, missing, or named by no record."""

    def make_plan(self) -> AuditRun:
        """Note what is to be done; the archive is asked when it is."""
        return AuditRun(self.options())

    def requirements(self, plan: AuditRun) -> list[AuditTitle]:
        """Return the task of each title."""
        given = {name: value for name, value in self.param_kwargs.items() if name != "report_directory"}
        return [AuditTitle(**given, title=title) for title in plan.titles]

    def describe(self, plan: AuditRun, report: TaskReport) -> list[ReleaseReport]:
        """Return what there is to tell of each title now."""
        return plan.describe()

    def perform(self) -> None:
        """Say that the archive is intact."""
        run = self.planned
        run.finish()
        log.info("Audited %s; all that was read is intact now: %s.", printable(run.options.archive), run.summary())

    def say_present(self, plan: AuditRun) -> None:
        """Say that it is done."""
        log.info("Nothing to do: %s is finished; what it read was intact.", plan.title)
