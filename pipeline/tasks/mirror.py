"""Copy releases to another archive: MirrorArchive, MirrorRelease -> MirrorReleaseRecord -> MirrorBlob for each blob."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import luigi

from ..archives import ArchiveInterface, get_interface
from ..archives.found import not_found
from ..archives.interface import DEFAULT_WORKSPACE, ReleaseName
from ..errors import ArchiveError, PipelineError, RecordError, ReleaseFileError, printable
from ..manifest import Manifest
from ..names import check_folder_name, normalize_title, record_title
from ..progress import format_bytes, log
from ..report import ReleaseReport
from ..versions import matches, parse_expressions
from .base import (
    ArchiveParameter,
    ExplainedTask,
    PlannedTask,
    ReportedTask,
    TextsParameter,
    announce_archive,
    locate_archive,
    night_parameter,
)
from .blobs import PRIORITIES_PER_RANK, BlobTask, tasks_for
from .reports import TaskReport
from .runs import MirrorRun, manifest_folder


class MirrorBlob(BlobTask):
    """Copy one blob of a release, or a batch of them."""

    kind = MirrorRun


class _BetweenArchives(ExplainedTask):
    """What all copying has in common: two archives, and a workspace in each."""

    # Not positional, because RangeDailyBase gives the date to the first parameter that is.
    source = ArchiveParameter(default="", positional=False, description="Archive to copy from: folder, URL or alias.")
    destination = ArchiveParameter(
        default="", positional=False, description="Archive to copy to: folder, URL or alias."
    )
    workspace = luigi.Parameter(default=DEFAULT_WORKSPACE, positional=False, description="Workspace in the source.")
    destination_workspace = luigi.OptionalStrParameter(
        default=None, positional=False, description="Workspace in the destination; default: that of the source."
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        announce_archive(self.source)
        announce_archive(self.destination)

    def ends(self) -> tuple[str, str]:
        """Return where the two archives are.

        Raises
        ------
        ArchiveError
            When one is not named, or both are the same.
        """
        source = locate_archive(self.source, "--source")
        destination = locate_archive(self.destination, "--destination")
        if (source, self.workspace) == (destination, self.workspace_there()):
            raise ArchiveError("--source and --destination are the same archive and workspace; change one of them.")
        return source, destination

    def workspace_there(self) -> str:
        """Return the workspace in the destination."""
        return check_folder_name(self.destination_workspace or self.workspace, "workspace")


class MirrorReleaseRecord(_BetweenArchives, PlannedTask[MirrorRun]):
    """Copy one version of a release: its blobs, then its record."""

    title = luigi.Parameter(description="Title of the release.")
    version = luigi.Parameter(description="Its version.")
    rank: int = 0

    @property
    def priority(self) -> int:  # type: ignore[override]  # Luigi has a plain attribute
        """The record comes after the blobs of its release, and before those of the next one."""
        return self.rank * PRIORITIES_PER_RANK

    def make_plan(self) -> MirrorRun:
        """Read the record in the source, and find out which blobs the destination has."""
        source, destination = self.ends()
        archive = get_interface(source)
        auditor = archive.auditor(self.workspace)
        record, damage = auditor.look_at_record(self.title, self.version, None)
        # What is damaged may be the second copy of a record that is what was published.
        if damage is not None and (record is None or not auditor.is_proven(self.title, self.version)):
            name = record_title(self.title, self.version)
            raise RecordError(f"{name} in {printable(source)} is not copied: {damage}; AuditArchive can repair it.")
        if record is None:
            raise not_found(archive, self.title, [f"=={self.version}"], self.workspace)
        there = get_interface(destination)
        there.check_record(record)
        manifest = Manifest(destination, None, self.workspace_there(), "", record, source, self.workspace)
        run = MirrorRun(manifest, there)
        run.rank = self.rank
        return run

    def complete(self) -> bool:
        """Tell whether the destination has the release; what was copied here is not looked up again."""
        with contextlib.suppress(PipelineError, OSError):  # looking at the release anew says what is wrong
            if self.done is not None and self.done.is_finished():
                return True
        return super().complete()

    def requirements(self, plan: MirrorRun) -> list[Any]:
        """Return the task of every blob."""
        plan.manifest.save(manifest_folder())
        return plan.tasks(lambda: tasks_for(MirrorBlob, plan))

    def perform(self) -> None:
        """Publish the record, and say what was done."""
        run = self.planned
        run.publish()
        run.progress.close()
        run.manifest.remove(manifest_folder())
        log.info("Mirrored %s: %s.", run.title, run.counts())

    def say_present(self, plan: MirrorRun) -> None:
        """Leave it to the task that asked for many."""
        plan.tidy()


@dataclass(frozen=True)
class MirrorPlan:
    """Which releases are to be copied.

    Attributes
    ----------
    source, destination : str
        From where to where, for people.
    releases : list of MirrorReleaseRecord
        The tasks of the releases that are looked at.
    there : int
        How many releases need not be looked at, because the destination has them.
    tidy : callable
        Removes what interrupted runs left of those.
    """

    source: str
    destination: str
    releases: list[MirrorReleaseRecord]
    there: int
    tidy: Callable[[], None] = lambda: None

    @property
    def title(self) -> str:
        """What is copied, for people."""
        return f"the releases in {self.source}"

    def is_finished(self) -> bool:
        """Tell whether the destination has all of them."""
        return all(map(_is_there, self.releases))

    def prospect(self) -> str:
        """Return what would be copied, one line for each release."""
        lines = [_prospect(task) for task in self.releases if not _is_there(task)]
        there = self.there + len(self.releases) - len(lines)
        said = f"{len(lines)} of {there + len(lines)} would be copied to {self.destination}, {there} are already there"
        return "\n".join([said + (":" if lines else ""), *lines])


def _is_there(task: MirrorReleaseRecord) -> bool:
    try:
        if task.planned.is_finished():
            return True
    except (PipelineError, OSError):
        return False
    task.keep_plan()
    return False


def _prospect(task: MirrorReleaseRecord) -> str:
    name = record_title(task.title, task.version)
    try:
        return f"{name}: {task.planned.prospect()}"
    except PipelineError as error:
        return f"{name} cannot be copied: {error}"


class _Mirror(_BetweenArchives, ReportedTask[MirrorPlan]):
    """The copying of many releases."""

    versions = luigi.Parameter(default="", positional=False, description="For instance >=1.0.0,<2.0.0; default: all.")
    dry_run = luigi.BoolParameter(positional=False, description="Only say what would be copied, and change nothing.")

    def tasks(self, releases: list[ReleaseName]) -> list[MirrorReleaseRecord]:
        """Return the tasks of some releases."""
        names = ("source", "destination", "workspace", "destination_workspace")
        ends: dict[str, Any] = {name: getattr(self, name) for name in names}
        return [MirrorReleaseRecord(**{**ends, "title": title, "version": version}) for title, version in releases]

    def plan_for(self, releases: list[ReleaseName], there: int, tidy: Callable[[], None] = lambda: None) -> MirrorPlan:
        """Return the plan to look at some releases."""
        tasks = self.tasks(releases)
        for rank, task in enumerate(reversed(tasks)):
            task.rank = rank
        return MirrorPlan(printable(self.source), printable(self.destination), tasks, there, tidy)

    def requirements(self, plan: MirrorPlan) -> list[Any]:
        """Return the task of each release."""
        return plan.releases

    def parts(self, plan: MirrorPlan) -> list[MirrorReleaseRecord]:
        """Return the tasks of the releases that are looked at."""
        return plan.releases

    def describe(self, plan: MirrorPlan, report: TaskReport) -> list[ReleaseReport]:
        """Return what there is to tell of each; the others are counted."""
        report.unchanged = plan.there
        return super().describe(plan, report)

    def perform(self) -> None:
        """Say what was done."""
        plan = self.planned
        plan.tidy()
        # Each is told once, also where several nights are made up for at the same time.
        runs = [task.done for task in plan.releases if task.done is not None]
        for task in plan.releases:
            task.done = None
        log.info(
            "Mirrored %s to %s: %d releases, %d blobs moved (%s), %d releases already there.",
            plan.source,
            plan.destination,
            len(runs),
            sum(run.progress.moved for run in runs),
            format_bytes(sum(run.progress.moved_bytes for run in runs)),
            plan.there + len(plan.releases) - len(runs),
        )

    def say_present(self, plan: MirrorPlan) -> None:
        """Say that the destination has everything."""
        plan.tidy()
        count = plan.there + len(plan.releases)
        log.info("Nothing to do: %s has all %d releases of %s.", plan.destination, count, plan.source)


class MirrorRelease(_Mirror):
    """Copy a release to another archive: all its versions, or those that satisfy a version expression."""

    title = luigi.OptionalStrParameter(default=None, description="Title of the release.")

    def make_plan(self) -> MirrorPlan:
        """Find the versions in the source; each is compared with the destination."""
        if not self.title:
            raise ReleaseFileError("No release was named; give its title with --title.")
        title, expressions = normalize_title(self.title), parse_expressions(self.versions)
        archive = get_interface(self.ends()[0])
        versions = archive.get_release_versions(title, self.workspace)
        wanted = [ReleaseName(title, version) for version in versions if matches(version, expressions)]
        if not wanted:
            raise not_found(archive, title, expressions, self.workspace)
        return self.plan_for(wanted, 0)


_FRESH_SECONDS = 10.0
_listings: dict[tuple[str, str, tuple[str, ...] | None], tuple[float, list[ReleaseName]]] = {}


def _list_releases(archive: ArchiveInterface, workspace: str, titles: list[str] | None) -> list[ReleaseName]:
    """Return what is in an archive, asked once for all the nights that RangeDailyBase looks at in one go."""
    key = str(archive.host), workspace, None if titles is None else tuple(titles)
    asked_at, names = _listings.get(key, (-_FRESH_SECONDS, []))
    if time.monotonic() - asked_at >= _FRESH_SECONDS:
        names = archive.list_releases(workspace, titles)
        _listings[key] = time.monotonic(), names
    return names


@ExplainedTask.event_handler(luigi.Event.START)
def _forget_listings(task: ExplainedTask) -> None:
    _listings.clear()


class MirrorArchive(_Mirror):
    """Copy every release that another archive lacks. One that cannot be copied does not stop the others."""

    date = night_parameter()
    titles = TextsParameter(default="", positional=False, description="Titles, as a list or with commas; default: all.")

    def make_plan(self) -> MirrorPlan:
        """Ask both archives once what they have."""
        source, destination = map(get_interface, self.ends())
        titles = [normalize_title(title) for title in self.titles] or None
        expressions = parse_expressions(self.versions)
        here = _list_releases(source, self.workspace, titles)
        wanted = [name for name in here if matches(name.version, expressions)]
        there = set(_list_releases(destination, self.workspace_there(), titles))
        missing = [name for name in wanted if name not in there]

        def tidy() -> None:
            for title in sorted({name.title_versionless for name in there}):
                destination.tidy(title, self.workspace_there())

        return self.plan_for(missing, len(wanted) - len(missing), tidy)
