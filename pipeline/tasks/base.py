"""What the tasks have in common: planning before running, and errors told in one sentence."""

import contextlib
import json
import logging
import re
from typing import Any, Generic

import luigi

from ..archives import ArchiveInterface, get_interface, is_url
from ..credentials import announce_hosts
from ..errors import ArchiveError, PipelineError, StorageError, explain
from ..progress import log, speak_up
from ..settings import full_path, resolve_alias
from .runs import AnyRun


class _WithoutTraceback(logging.Filter):
    """Lets Luigi log an error that explains itself without the traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, PipelineError):
            record.msg, record.args, record.exc_info, record.exc_text = str(error), (), None, None
        return True


_HIDDEN = "***"

logging.getLogger("luigi-interface").addFilter(_WithoutTraceback())


class GlobsParameter(luigi.Parameter):
    """Globs, as a JSON list or separated by commas."""

    def parse(self, x: str) -> tuple[str, ...]:
        """Return the globs in a text; never fails."""
        try:
            globs = json.loads(x)
        except ValueError:
            globs = None
        if not isinstance(globs, list) or not all(isinstance(glob, str) for glob in globs):
            globs = [glob.strip() for glob in x.split(",")]
        return tuple(glob for glob in globs if glob)

    def normalize(self, x: Any) -> tuple[str, ...]:
        """Return globs that a script gave as a list."""
        return self.parse(x) if isinstance(x, str) else tuple(x)

    def serialize(self, x: Any) -> str:
        """Return globs as a JSON list."""
        return json.dumps(list(x))


class ArchiveParameter(luigi.Parameter):
    """An archive. A password in a URL never gets into a task, because luigid shows the parameters of tasks."""

    def normalize(self, x: str) -> str:
        """Hide a user name and password in a URL."""
        return re.sub(r"^(\w+://)[^/?#]*@", rf"\1{_HIDDEN}@", x)


def announce_archive(archive: str) -> None:
    """Tell which site a task will talk to: all tasks do, before the first one needs a password."""
    with contextlib.suppress(PipelineError):  # the task says so when it runs
        location = resolve_alias(archive)
        if is_url(location):
            announce_hosts(location)


class ExplainedTask(luigi.Task):
    """A task whose errors are one sentence, in the log and on the scheduler's page."""

    def perform(self) -> None:
        """Do the work of the task."""
        raise NotImplementedError

    def run(self) -> None:
        """Do the work; what the file system refuses becomes an error with an explanation."""
        try:
            self.perform()
        except OSError as error:
            raise StorageError(explain(error)) from error

    def on_failure(self, exception: BaseException) -> Any:
        """Return what the scheduler's page shows."""
        return str(exception) if isinstance(exception, PipelineError) else super().on_failure(exception)


class PlannedTask(ExplainedTask, Generic[AnyRun]):
    """A task that the user asks for. It plans first; an error in the plan is raised when Luigi runs it."""

    archive = ArchiveParameter(default="", description="Folder or URL of the archive, or an alias from [archives].")
    workspace = luigi.Parameter(default="Global Public Workspace", description="Workspace in the archive.")
    user = luigi.OptionalStrParameter(default=None, significant=False, description="User name in the archive.")
    dry_run = luigi.BoolParameter(description="Only say what would move, and change nothing.")

    _plan: AnyRun | PipelineError | None = None
    _performed: bool = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        announce_archive(self.archive)

    def make_plan(self) -> AnyRun:
        """Find out what is to be done."""
        raise NotImplementedError

    def requirements(self, run: AnyRun) -> Any:
        """Return what must be done before :meth:`perform`."""
        raise NotImplementedError

    def say_present(self, run: AnyRun) -> None:
        """Say that there is nothing to do."""
        raise NotImplementedError

    @property
    def planned(self) -> AnyRun:
        """The plan.

        Raises
        ------
        PipelineError
            When there is something wrong with it.
        """
        if self._plan is None:
            self._plan = self._try_to_plan()
        if isinstance(self._plan, PipelineError):
            raise self._plan
        return self._plan

    def _try_to_plan(self) -> AnyRun | PipelineError:
        try:
            run = self.make_plan()
            # This looks at what is in place already: here, where what goes wrong becomes one sentence.
            log.debug("%s: %s.", run.record.title, run.prospect())
            return run
        except PipelineError as error:
            return error
        except OSError as error:
            return StorageError(explain(error))

    def complete(self) -> bool:
        """Tell whether there is nothing to do: what is asked for is there, or it is a dry run."""
        speak_up()
        if self._performed:
            self._performed = False
        else:
            self._plan = None
        try:
            return self.planned.is_finished() or self.dry_run
        except (PipelineError, OSError) as error:
            self._plan = error if isinstance(error, PipelineError) else StorageError(explain(error))
            return False

    def requires(self) -> Any:
        """Return what must be done first; nothing when the plan is wrong."""
        try:
            return self.requirements(self.planned)
        except PipelineError:
            return []

    def run(self) -> None:
        """Do the work, or say what is wrong with the plan."""
        if isinstance(self._plan, PipelineError):
            raise self._plan
        super().run()
        self._performed = True

    def open_archive(self) -> ArchiveInterface:
        """Return the archive that the task names.

        Raises
        ------
        ArchiveError
            When there is none.
        """
        return get_interface(self.location(), self.user)

    def location(self) -> str:
        """Return where the archive is, as a URL or an absolute folder.

        Raises
        ------
        ArchiveError
            When the task does not name one.
        """
        location = resolve_alias(self.archive)
        if not location:
            raise ArchiveError("No archive was named; give --archive, or set it for this task in luigi.cfg.")
        if f"://{_HIDDEN}@" in ArchiveParameter().normalize(location):
            raise ArchiveError("The URL of the archive holds a user name or password; leave it out and give --user.")
        return location if is_url(location) else full_path(location, "--archive")


@PlannedTask.event_handler(luigi.Event.DEPENDENCY_PRESENT)
def _say_present(task: PlannedTask[Any]) -> None:
    run = task.planned
    if task.dry_run:
        log.info("Dry run: of %s, %s. Nothing was changed.", run.record.title, run.prospect())
    else:
        task.say_present(run)


__all__ = ["ExplainedTask", "GlobsParameter", "PlannedTask"]
