"""What the tasks have in common: planning before running, and errors told in one sentence."""

import contextlib
import gc
import json
import logging
import re
from collections.abc import Sequence
from datetime import date
from typing import Any, ClassVar, Generic, Protocol, TypeVar
from weakref import WeakValueDictionary

import luigi
import luigi.interface
from luigi.parameter import ParameterVisibility
from luigi.rpc import RPCError
from luigi.task_register import Register
from luigi.worker import TaskException

from ..archives import ArchiveInterface, get_interface, is_url
from ..credentials import announce_hosts
from ..errors import ArchiveError, PipelineError, StorageError, explain
from ..progress import log, speak_up
from ..report import RUNNING, ReleaseReport
from ..settings import full_path, resolve_alias
from .reports import TaskReport, link_report, note_end, note_present, note_start, open_report
from .runs import AnyRun, Run


class _WithoutTraceback(logging.Filter):
    """Lets Luigi log an error that can be explained without the traceback."""

    _told: BaseException | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and (text := _sentence(error)) is not None:
            record.msg, record.args, record.exc_info, record.exc_text = text, (), None, None
        elif error is None:
            record.exc_info = None  # of an attempt to reach luigid, where Luigi has none at hand
        again = isinstance(error, RPCError) and error is self._told
        self._told = error
        return not again


def _sentence(error: BaseException) -> str | None:
    """Return what an error means to people, or None where only a traceback can tell."""
    if isinstance(error, RPCError):
        return _NO_LUIGID
    if isinstance(error, TaskException) or str(error).startswith("Unfulfilled dependenc"):
        return _NOT_SEEN
    return str(error) if isinstance(error, PipelineError) else None


_HIDDEN = "***"
# A parameter that tells people nothing is not on the scheduler's page.
HIDDEN = ParameterVisibility.HIDDEN
_NO_LUIGID = (
    "luigid, the central scheduler, cannot be reached; start it, or correct scheduler_host and scheduler_port in the "
    "section [core] of luigi.cfg, and run the same command again."
)
# Of a task, Luigi found just after running it, or just before running what depends on it, that it is not complete.
_NOT_SEEN = (
    "What was done a moment ago is gone, or cannot be seen, because files were removed, or the disk, the network "
    "drive or the site did not answer; check them and run the same command again."
)

logging.getLogger("luigi-interface").addFilter(_WithoutTraceback())
# Luigi reads these where it needs them, and warns that it does not.
luigi.interface.core.ignore_unconsumed |= {"rpc_connect_timeout", "rpc_retry_attempts", "rpc_retry_wait"}


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
        # A password may have characters that end the name of a host; no address of a site has an @ elsewhere.
        return re.sub(r"^(\w+://).*@", rf"\1{_HIDDEN}@", x, flags=re.DOTALL)


def night_parameter() -> Any:
    """Return the parameter of a task that runs every night: its date, by default that on which the program started."""
    # The local date, as in cron.
    today = date.today()  # noqa: DTZ011  a night is that of the place where the task runs
    return luigi.DateParameter(default=today, description="The night that this is for; default: today.")


def announce_archive(archive: str) -> None:
    """Tell which site a task will talk to: all tasks do, before the first one needs a password."""
    with contextlib.suppress(PipelineError):  # the task says so when it runs
        location = resolve_alias(archive)
        if is_url(location):
            announce_hosts(location)


class _Forgetful(Register):
    """Makes tasks that are forgotten when nobody needs them, where Luigi would keep each until the program ends."""

    _tasks: ClassVar[WeakValueDictionary[Any, luigi.Task]] = WeakValueDictionary()

    def __call__(cls: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805  a metaclass makes classes
        """Return the task with these parameters; the same one as long as somebody holds it."""
        if cls.is_made_once:
            return super(Register, cls).__call__(*args, **kwargs)
        key = (cls, tuple(cls.get_param_values(cls.get_params(), args, kwargs)))
        try:
            task = _Forgetful._tasks.get(key)
        except TypeError:  # a script gave something odd; running says so
            return super(Register, cls).__call__(*args, **kwargs)
        if task is None:
            task = _Forgetful._tasks[key] = super(Register, cls).__call__(*args, **kwargs)
        return task


class ExplainedTask(luigi.Task, metaclass=_Forgetful):
    """A task whose errors are one sentence, in the log and on the scheduler's page.

    Attributes
    ----------
    is_made_once : bool
        Whether who makes a task holds it, so that nobody makes another one with the same parameters.
    """

    is_made_once: ClassVar[bool] = False

    def perform(self) -> None:
        """Do the work of the task."""
        raise NotImplementedError

    def run(self) -> None:
        """Do the work; what the file system refuses becomes an error with an explanation."""
        link_report(self)
        try:
            self.perform()
        except OSError as error:
            raise StorageError(explain(error)) from error

    def on_failure(self, exception: BaseException) -> Any:
        """Return what the scheduler's page shows."""
        return _sentence(exception) or super().on_failure(exception)


class ManifestTask(ExplainedTask):
    """What is done for one manifest. All parameters are texts, and those that are hidden tell tasks apart too."""

    release = luigi.Parameter(description="Title and version of the release.")

    def to_str_params(self, only_significant: bool = False, only_public: bool = False) -> dict[str, str]:
        """Return the parameters as they are; no copies, because there are very many tasks."""
        return self.param_kwargs


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
    _is_plan_new: bool = False

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
    def known_plan(self) -> AnyPlan | PipelineError | None:
        """The plan or what is wrong with it, None before it was made."""
        return self._plan

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
        gc.unfreeze()  # what an earlier run in this process froze is garbage now
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
        if not self._is_plan_new:
            self._plan = None
        self._is_plan_new = False
        try:
            return self.planned.is_finished() or self.dry_run
        except (PipelineError, OSError) as error:
            self.refuse(error)
            return False

    def refuse(self, error: PipelineError | OSError) -> None:
        """Note what is wrong with the plan, for :meth:`run` to say."""
        self._plan = error if isinstance(error, PipelineError) else StorageError(explain(error))

    def requires(self) -> Any:
        """Return what must be done first; nothing when the plan is wrong."""
        try:
            return self.requirements(self.planned)
        except (PipelineError, OSError) as error:
            self.refuse(error)
            return []

    def run(self) -> None:
        """Do the work, or say what is wrong with the plan."""
        if isinstance(self._plan, PipelineError):
            raise self._plan
        super().run()
        self.done = self.planned
        self.keep_plan()

    def keep_plan(self) -> None:
        """Let the next :meth:`complete` use the plan as it is: it was made or carried out just now."""
        self._is_plan_new = True


class ReportedTask(PlannedTask[AnyPlan]):
    """A planned task that writes a report of its run where it is asked for.

    Releases that move are told by themselves: :meth:`parts` names their tasks, whose plans are runs. A task that does
    something else, such as an audit, overrides :meth:`describe`; it is asked whenever the report is written, which is
    now and then while tasks end. A task with a `run` of its own calls :func:`~pipeline.tasks.reports.link_report`.

    Attributes
    ----------
    report : TaskReport or None
        The report, when one is asked for and the run has begun.
    """

    report_directory = luigi.OptionalStrParameter(
        default=None,
        significant=False,
        positional=False,
        description="Folder that gets a report of the run, as JSON and as a page.",
    )

    report: TaskReport | None = None

    def parts(self, plan: AnyPlan) -> Sequence[PlannedTask[Any]]:
        """Return the tasks that move one release each."""
        return [self]

    def describe(self, plan: AnyPlan, report: TaskReport) -> list[ReleaseReport]:
        """Return what there is to tell of each release now."""
        return [report.entry(part) for part in self.parts(plan)]

    def asked(self) -> dict[str, str]:
        """Return what was asked for, as texts; where an archive is, not its alias."""
        asked: dict[str, str] = self.to_str_params()
        for name in ("report_directory", "dry_run", "date"):
            asked.pop(name, None)
        for name, parameter in self.get_params():
            if isinstance(parameter, ArchiveParameter):
                with contextlib.suppress(PipelineError):
                    asked[name] = locate_archive(asked[name], name)
        return asked

    def about(self) -> str:
        """Return what the name of the report says."""
        plan = self.known_plan
        return plan.title if isinstance(plan, Run) else str(getattr(self, "title", None) or "")

    def requires(self) -> Any:
        """Return what must be done first, and begin the report."""
        required = super().requires()
        self.begin_report()
        return required

    def begin_report(self) -> None:
        """Begin the report, unless it is begun."""
        if self.report_directory and not self.dry_run and (self.report is None or self.report.state != RUNNING):
            self.report = open_report(self)
            if self.report is not None:
                self.report.save()


class ReleaseTask(ReportedTask[AnyRun]):
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
        raise ArchiveError(f"The URL of {option} holds a user name or password; leave it out and set PIPELINE_USER.")
    return location if is_url(location) else full_path(location, option)


@PlannedTask.event_handler(luigi.Event.DEPENDENCY_PRESENT)
def _say_present(task: PlannedTask[Any]) -> None:
    plan = task.planned
    if task.dry_run:
        log.info("Dry run, nothing was changed. Of %s, %s.", plan.title, plan.prospect())
    else:
        task.say_present(plan)
        if isinstance(task, ReportedTask):
            task.begin_report()
        note_present(task)


@ExplainedTask.event_handler(luigi.Event.START)
def _note_start(task: ExplainedTask) -> None:
    note_start()


@ExplainedTask.event_handler(luigi.Event.SUCCESS)
def _note_success(task: ExplainedTask) -> None:
    note_end(task)


@ExplainedTask.event_handler(luigi.Event.FAILURE)
def _note_failure(task: ExplainedTask, error: BaseException) -> None:
    note_end(task, error)


@ExplainedTask.event_handler(luigi.Event.PROCESS_FAILURE)
def _say_killed(task: ExplainedTask, message: str) -> None:
    error = StorageError(
        "its process was ended from outside, perhaps because memory ran out; run the same command again"
    )
    log.error("%s: %s.", task.task_family, error)
    note_end(task, error)


__all__ = ["ExplainedTask", "PlannedTask", "ReleaseTask", "ReportedTask", "TextsParameter"]
