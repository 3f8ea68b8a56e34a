"""What the tasks have in common: planning before running, and errors told in one sentence."""

import contextlib
import json
import logging
import re
from typing import Any, Generic, Protocol, TypeVar

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


class TextsParameter(luigi.Parameter):
    """Texts such as globs or titles, as a JSON list or separated by commas."""

    def parse(self, x: str) -> tuple[str, ...]:
        """Return the texts in a list; never fails."""
        try:
            texts = json.loads(x)
        except ValueError:
            texts = None
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            texts = [text.strip() for text in x.split(",")]
        return tuple(text for text in texts if text)

    def normalize(self, x: Any) -> tuple[str, ...]:
        """Return texts that a script gave as a list."""
        return self.parse(x) if isinstance(x, str) else tuple(x)

    def serialize(self, x: Any) -> str:
        """Return texts as a JSON list."""
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


class Plan(Protocol):
    """What a task has found out is to be done."""

    @property
    def title(self) -> str:
        """What is to be done with, for people."""

    def prospect(self) -> str:
        """Return what would be done, for people."""

    def is_finished(self) -> bool:
        """Tell whether nothing is left to do."""


AnyPlan = TypeVar("AnyPlan", bound=Plan)


class PlannedTask(ExplainedTask, Generic[AnyPlan]):
    """A task that plans before it runs. An error in the plan is raised when Luigi runs it.

    Attributes
    ----------
    done : Plan or None
        What it carried out last.
    """

    dry_run: bool = False
    done: AnyPlan | None = None
    _plan: AnyPlan | PipelineError | None = None
    _performed: bool = False

    def make_plan(self) -> AnyPlan:
        """Find out what is to be done."""
        raise NotImplementedError

    def requirements(self, plan: AnyPlan) -> Any:
        """Return what must be done before :meth:`perform`."""
        raise NotImplementedError

    def say_present(self, plan: AnyPlan) -> None:
        """Say that there is nothing to do."""
        raise NotImplementedError

    @property
    def planned(self) -> AnyPlan:
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

    def _try_to_plan(self) -> AnyPlan | PipelineError:
        try:
            plan = self.make_plan()
            # This looks at what is in place already: here, where what goes wrong becomes one sentence.
            log.debug("%s: %s.", plan.title, plan.prospect())
            return plan
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
        self.done = self.planned
        self._performed = True


class ReleaseTask(PlannedTask[AnyRun]):
    """A task with one release of one archive."""

    archive = ArchiveParameter(default="", description="Folder or URL of the archive, or an alias from [archives].")
    workspace = luigi.Parameter(default="Global Public Workspace", description="Workspace in the archive.")
    user = luigi.OptionalStrParameter(default=None, significant=False, description="User name in the archive.")
    dry_run = luigi.BoolParameter(description="Only say what would move, and change nothing.")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        announce_archive(self.archive)

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
        return locate_archive(self.archive, "--archive")


def locate_archive(archive: str, option: str) -> str:
    """Return where an archive is, as a URL or an absolute folder.

    Parameters
    ----------
    archive : str
        The value of an :class:`ArchiveParameter`.
    option : str
        What gave it, for messages.

    Raises
    ------
    ArchiveError
        When it names none, or holds a secret.
    """
    location = resolve_alias(archive)
    if not location:
        raise ArchiveError(f"No archive was named; give {option}, or set it for this task in luigi.cfg.")
    if f"://{_HIDDEN}@" in ArchiveParameter().normalize(location):
        raise ArchiveError(f"The URL of {option} holds a user name or password; leave it out and give --user.")
    return location if is_url(location) else full_path(location, option)


@PlannedTask.event_handler(luigi.Event.DEPENDENCY_PRESENT)
def _say_present(task: PlannedTask[Any]) -> None:
    plan = task.planned
    if task.dry_run:
        log.info("Dry run, nothing was changed. Of %s, %s.", plan.title, plan.prospect())
    else:
        task.say_present(plan)


__all__ = ["ExplainedTask", "PlannedTask", "ReleaseTask", "TextsParameter"]
