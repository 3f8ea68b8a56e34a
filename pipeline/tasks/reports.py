"""The run reports of tasks: what is told of each release, gathered from the runs and from what Luigi says of tasks."""

import contextlib
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import PipelineError
from ..progress import log
from ..release import ORIGIN
from ..report import DONE, RUNNING, UNCHANGED, WAITING, Counts, ReleaseReport, Report
from ..settings import full_path, read_settings
from .runs import Run

_open: list["TaskReport"] = []


class TaskReport(Report):
    """The report of a task of the user.

    Parameters
    ----------
    task : ReportedTask
        The task; it describes the releases.
    asked : mapping
        Its parameters, name to text.
    directory : Path
        Gets the report.
    about : str
        What the name of the file says.
    night : date or None
        As in :class:`~pipeline.report.Report`.
    """

    def __init__(self, task: Any, asked: Mapping[str, str], directory: Path, about: str, night: Any) -> None:
        super().__init__(type(task).__name__, asked, directory, about=about, night=night)
        self.task = task
        self._thread, self._has_run = threading.get_ident(), False
        self._entries: dict[Any, ReleaseReport] = {}
        _open.append(self)

    def refresh(self) -> None:
        """Ask the task what there is to tell."""
        plan = self.task.known_plan
        if isinstance(plan, PipelineError):
            self.failure = str(plan)
        elif plan is not None:
            self.releases = self.task.describe(plan, self)

    def entry(self, part: Any) -> ReleaseReport:
        """Return what is told of the release that one task moves; it is brought up to date until the task has ended."""
        run = part.known_plan
        entry = self._entries.get(part)
        if entry is None:
            entry = self._entries[part] = ReleaseReport("", state=WAITING)
        if isinstance(run, Run):
            entry.title, entry.version = run.record.title_versionless, run.record.version
        elif not entry.title:
            entry.title, entry.version = part.title, getattr(part, "version", None)
        if isinstance(run, Run) and entry.state not in (DONE, UNCHANGED):
            _bring_up_to_date(entry, run)
        return entry

    def note(self, task: Any, error: BaseException | None = None) -> None:
        """Note that a task has ended; it may be that of the user, of a release, or of some blobs."""
        if error is not None:
            for entry in self._concerned(task):
                for path, reason in getattr(error, "failures", [("", error)]):
                    entry.fail(path, reason)
            self.save()
        elif task is self.task:
            self.note_moved(task)
            self.end()
        else:
            self.note_moved(task)
            self.touch()

    def note_moved(self, task: Any) -> None:
        """Note that the task of a release has moved it."""
        if task in self._entries:
            self.entry(task).succeed(DONE)

    def note_start(self) -> None:
        """Note that tasks are run, so that all that is to be run with them has its report already."""
        self._has_run = True

    @property
    def is_over(self) -> bool:
        """Whether its run has ended without an end of the task: the next one begins in the same thread."""
        return self._has_run and self._thread == threading.get_ident()

    def _concerned(self, task: Any) -> Iterator[ReleaseReport]:
        manifest = getattr(task, "manifest", None)
        for part, entry in self._entries.items():
            run = part.known_plan
            if part is task or (manifest and isinstance(run, Run) and run.manifest.digest == manifest):
                yield entry

    def note_present(self, task: Any) -> None:
        """Note that there is nothing to do for a task."""
        if task in self._entries:
            self.entry(task).succeed(UNCHANGED)
        if task is self.task:
            self.end()

    def end(self) -> None:
        """Close the report of a task that succeeded; releases that it did not move were moved by other runs."""
        self.refresh()
        for part, entry in self._entries.items():
            if entry.state == DONE:
                for other in _open:
                    if other is not self:
                        other.leave_out(part)
            elif entry.state in (RUNNING, WAITING):
                entry.succeed(UNCHANGED)
        self.close()

    def leave_out(self, part: Any) -> None:
        """Note that the report of another night tells of a release that was moved for both."""
        if part in self._entries:
            counts = self._entries[part].counts
            self._entries[part].succeed(UNCHANGED)
            counts.there_blobs, counts.moved_blobs, counts.moved_bytes = counts.blobs, 0, 0

    def close(self, state: str | None = None) -> None:
        """Write the report for the last time, and say where it is."""
        if self in _open:
            _open.remove(self)
            super().close(state)
            if self.path is not None:
                log.info("The report is %s", self.path)

    def settle(self) -> None:
        """Find out how it ended where the task of the user did not run here: another worker may have run it."""
        self.refresh()
        plan = self.task.known_plan
        # Python sets this when an exception ends the process: then nobody wants to wait.
        interrupted = hasattr(sys, "last_value")
        if plan is not None and not isinstance(plan, PipelineError) and not self.has_failed and not interrupted:
            with contextlib.suppress(PipelineError, OSError):
                for run in [part.known_plan for part in self._entries if isinstance(part.known_plan, Run)]:
                    run.expect_changes()
                if plan.is_finished():
                    self.end()
        super().settle()


def _bring_up_to_date(entry: ReleaseReport, run: Run) -> None:
    before = Counts(**vars(entry.counts))
    counts = entry.counts
    if not counts.blobs:
        counts.blobs, counts.bytes = len(run.blobs) + len(run.unreadable), run.record.nbytes
    counts.there_blobs = len(run.blobs) - len(run.missing)
    if run.has_begun:
        progress = run.progress
        counts.moved_blobs, counts.moved_bytes = progress.moved, progress.moved_bytes
        counts.there_blobs += progress.there
        counts.failed_blobs = progress.failed
        if counts != before:
            entry.seconds = progress.seconds
        if entry.state == WAITING:
            entry.state = RUNNING
    entry.record = run.place
    origin = run.record.content.get(ORIGIN)
    if isinstance(origin, dict):
        entry.origin = f"{origin.get('host')}, {origin.get('date')}"


def open_report(task: Any) -> TaskReport | None:
    """Return a new report of a task; None where none is asked for, or where a warning says why there is none.

    Parameters
    ----------
    task : ReportedTask
        A task of the user.
    """
    # A program that runs one task after the other need not end for the reports of those that failed.
    for report in [report for report in _open if report.is_over]:
        report.close_at_exit()
    try:
        directory = Path(full_path(task.report_directory, "--report-directory"))
        return TaskReport(task, task.asked(), directory, task.about(), getattr(task, "date", None))
    except PipelineError as error:
        log.warning("The run goes on without a report: %s", error)
        return None


def note_end(task: Any, error: BaseException | None = None) -> None:
    """Tell all open reports that a task has ended."""
    for report in list(_open):
        report.note(task, error)


def note_start() -> None:
    """Tell all open reports that a task begins to run."""
    for report in _open:
        report.note_start()


def note_present(task: Any) -> None:
    """Tell all open reports that there is nothing to do for a task."""
    for report in list(_open):
        report.note_present(task)


def touch_reports() -> None:
    """Let all open reports be written, if it is time to."""
    for report in _open:
        report.touch()


def link_report(task: Any) -> None:
    """Let the scheduler's page link a running task to the report that it is part of."""
    if _open and task.set_tracking_url is not None:
        task.set_tracking_url(_open[0].url(read_settings().report_url))
