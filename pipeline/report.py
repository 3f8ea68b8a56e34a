"""Run reports: what was asked, what was done and what failed, as JSON for programs and as a page for people.

A report is two files of one name. The JSON is UTF-8, and all of these keys are always there; later versions may add
keys, and a change of one of these changes ``schema``. Times are UTC, ISO 8601. Texts are shown as in the log:
characters that cannot be printed stand there as escapes.

==================  ================================================================================================
``schema``          ``release-pipeline/report/1``
``program``         the name and version of this program
``task``            ``PublishRelease``, ``FetchRelease``, ``MirrorRelease``, ``MirrorArchive`` or ``AuditArchive``
``night``           the date that the task was asked to work for; null for a task without one
``state``           ``running``, or not ended by itself; ``done``; ``unchanged``: there was nothing to do; ``failed``:
                    something did, all else was done; ``interrupted``: ended before its end, as by Ctrl-C
``started``         when it began
``updated``         when this was written: the end, once it has ended
``seconds``         from ``started`` to ``updated``
``asked``           the parameters, name to text; locations of archives are whole, secrets are never among them
``failure``         why nothing could be done, as one text; null when that was not so
``totals``          ``releases``, of these ``done_releases``, ``unchanged_releases`` and ``failed_releases``, and the
                    sum of each of the counts below
``releases``        a list; what is unchanged may be counted only, in ``totals``
==================  ================================================================================================

Each of ``releases`` has:

==================  ================================================================================================
``title``           the title without version
``version``         the version; null where an audit speaks of all that is under a title
``state``           as above, or ``waiting``: has not begun
``seconds``         how long it took
``record``          where the record is, a path or a URL; null where there is none yet
``origin``          what the record of a mirrored release says of where it was published; null elsewhere
``counts``          the counts of :class:`Counts`
``failures``        at most 100 of ``{"path": ..., "reason": ...}``; the path of what could not be done, empty
                    where that is all of it, and why
``more_failures``   how many there are besides
==================  ================================================================================================
"""

import atexit
import contextlib
import datetime
import json
import os
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .checksums import open_regular
from .durable import Staging, write_file
from .errors import PipelineError, explain, printable
from .progress import log
from .report_page import Night, render_page

SCHEMA = "release-pipeline/report/1"
WAITING, RUNNING, DONE, UNCHANGED = "waiting", "running", "done", "unchanged"
FAILED, INTERRUPTED = "failed", "interrupted"

_STATES = (RUNNING, DONE, UNCHANGED, FAILED, INTERRUPTED)
# Runs with the same of these are nights of one history.
_SERIES = ("source", "destination", "archive", "workspace", "destination_workspace")
_MOST_FAILURES = 100
_LONGEST_NAME = 120
_SAVE_SECONDS = 5.0
# Writing a very long report takes at most one part in this many of the time of the run.
_SAVE_SHARE = 20
_NIGHTS_SHOWN = 30
_NIGHTS_READ = 200
_LARGEST_READ = 16 * 2**20


@dataclass
class Counts:
    """What is counted of a release, and summed up for the run.

    Attributes
    ----------
    blobs, bytes : int
        What the release has, or what an audit found named in the records.
    moved_blobs, moved_bytes : int
        What this run moved.
    there_blobs : int
        Blobs that were in place already.
    failed_blobs : int
        Blobs that could not be moved; after an audit, those that are still damaged or missing.
    checked_blobs, checked_bytes : int
        What an audit read again.
    damaged_blobs, missing_blobs : int
        What it found, whether or not it was repaired then.
    repaired_blobs : int
        Damaged and missing blobs that were replaced from another archive.
    damaged_records : int
        Records that cannot be read or do not say what they must.
    unnamed_blobs, unnamed_bytes : int
        Blobs that no record names.
    """

    blobs: int = 0
    bytes: int = 0
    moved_blobs: int = 0
    moved_bytes: int = 0
    there_blobs: int = 0
    failed_blobs: int = 0
    checked_blobs: int = 0
    checked_bytes: int = 0
    damaged_blobs: int = 0
    missing_blobs: int = 0
    repaired_blobs: int = 0
    damaged_records: int = 0
    unnamed_blobs: int = 0
    unnamed_bytes: int = 0


_COUNTED = [count.name for count in fields(Counts)]


@dataclass
class ReleaseReport:
    """What is told of one release, or by an audit of one title.

    Attributes
    ----------
    title, version, state, seconds, record, origin, counts
        As in the JSON.
    failures : list of (str, str)
        Path and reason of the first failures; :meth:`fail` adds one.
    more_failures : int
        How many there are besides.
    """

    title: str
    version: str | None = None
    state: str = RUNNING
    seconds: float = 0.0
    record: str | None = None
    origin: str | None = None
    counts: Counts = field(default_factory=Counts)
    failures: list[tuple[str, str]] = field(default_factory=list)
    more_failures: int = 0

    def fail(self, path: str, reason: str | BaseException) -> None:
        """Note what could not be done, and why; the release has failed."""
        self.state = FAILED
        if len(self.failures) < _MOST_FAILURES:
            text = explain(reason) if isinstance(reason, BaseException) else reason
            self.failures.append((printable(path), _lines(text)))
        else:
            self.more_failures += 1

    def succeed(self, state: str) -> None:
        """Note that it is done or unchanged; what failed was tried again."""
        self.state, self.failures, self.more_failures = state, [], 0

    def content(self) -> dict[str, Any]:
        """Return what the JSON has of it."""
        return {
            "title": printable(self.title),
            "version": None if self.version is None else printable(self.version),
            "state": self.state,
            "seconds": round(self.seconds, 3),
            "record": None if self.record is None else printable(self.record),
            "origin": None if self.origin is None else printable(self.origin),
            "counts": asdict(self.counts),
            "failures": [{"path": path, "reason": reason} for path, reason in self.failures],
            "more_failures": self.more_failures,
        }


class Report:
    """The report of one run; it is written as the run goes on, so that also a killed run leaves one.

    A report that cannot be written is a warning, never a failure of the run.

    Parameters
    ----------
    task : str
        The name of the task.
    asked : mapping
        Its parameters, name to text, without secrets. A history is that of runs with the same ``source``,
        ``destination``, ``archive``, ``workspace`` and ``destination_workspace``.
    directory : Path
        Gets the report; made when it is not there.
    about : str, optional
        What the name of the file says, such as the title and version of the release.
    night : date, optional
        The date that the task was asked to work for; it then begins the name, and earlier nights are linked.

    Attributes
    ----------
    releases : list of ReleaseReport
        What is told of each release; append to it, change what is in it, and call :meth:`touch`.
    unchanged : int
        How many more releases were in place already.
    failure : str or None
        Why nothing could be done.
    state : str
        As in the JSON.

    Examples
    --------
    A task with releases of its own, such as an audit, tells each when it has looked at it::

        report = Report("AuditArchive", {"archive": "/srv/archive"}, Path("reports"), night=date)
        release = ReleaseReport("waveguide", counts=Counts(checked_blobs=7, damaged_blobs=1, failed_blobs=1))
        release.fail("blobs/ab/ab...", BlobDamagedError("its bytes have another SHA-1."))
        report.releases.append(release)
        report.touch()
        report.close()
    """

    def __init__(
        self,
        task: str,
        asked: Mapping[str, str],
        directory: Path,
        *,
        about: str = "",
        night: datetime.date | None = None,
    ) -> None:
        self.releases: list[ReleaseReport] = []
        self.unchanged = 0
        self.failure: str | None = None
        self.state = RUNNING
        self._task = task
        self._asked = {name: printable(value) for name, value in asked.items()}
        self._directory = directory
        self._night = None if night is None else night.isoformat()
        self._started = self._updated = datetime.datetime.now(datetime.timezone.utc)
        self._began = time.monotonic()
        about = "" if night else re.sub(r"[^\w.+-]+", "-", about, flags=re.ASCII).strip("-.")[:_LONGEST_NAME]
        parts = (task, self._night, about, self._started.strftime("%Y%m%dT%H%M%SZ"))
        self._wanted_name = "-".join(part for part in parts if part)
        self._name: str | None = None
        self._nights: list[Night] | None = None
        self._staging = Staging(directory / ".partial")
        self._guard = threading.Lock()
        self._save_at = 0.0
        self._warned = False
        self._process = os.getpid()
        atexit.register(self.close_at_exit)

    @property
    def has_failed(self) -> bool:
        """Whether anything failed until now."""
        return self.failure is not None or any(release.state == FAILED for release in self.releases)

    @property
    def path(self) -> str | None:
        """Where the page is; None when it could not be written."""
        return None if self._name is None else os.path.abspath(self._file(self._name, "html"))

    def refresh(self) -> None:
        """Bring the releases up to date; called before each writing, for reports that can do so by themselves."""

    def settle(self) -> None:
        """Say of what has not ended that it was interrupted; called when the program ends before the report does."""
        for release in self.releases:
            if release.state in (RUNNING, WAITING):
                release.state = INTERRUPTED

    def url(self, base: str = "") -> str:
        """Return the address of the page.

        Parameters
        ----------
        base : str, optional
            The address under which the directory is served; without it, that of the file.
        """
        page = f"{self._name or self._wanted_name}.html"
        return f"{base.rstrip('/')}/{quote(page)}" if base else Path(os.path.abspath(self._directory), page).as_uri()

    def touch(self) -> None:
        """Write the report if it was last written some seconds ago; call this as often as you like."""
        if time.monotonic() >= self._save_at and self._guard.acquire(blocking=False):
            try:
                self._save()
            finally:
                self._guard.release()

    def save(self) -> None:
        """Write the report as it is now."""
        with self._guard:
            self._save()

    def close(self, state: str | None = None) -> None:
        """Write the report for the last time.

        Parameters
        ----------
        state : str, optional
            By default ``failed`` when anything did, ``unchanged`` when there are only unchanged releases, else
            ``done``.
        """
        self.refresh()
        unchanged = all(release.state == UNCHANGED for release in self.releases)
        self.state = FAILED if self.has_failed else state or (UNCHANGED if unchanged else DONE)
        atexit.unregister(self.close_at_exit)
        self._nights = None  # earlier nights may have been made up for meanwhile
        self.save()
        self._staging.clear()

    def close_at_exit(self) -> None:
        """Close the report of a run that has ended before it did."""
        if os.getpid() == self._process and self._adopt() == RUNNING:
            self.settle()
            self.close(INTERRUPTED)

    def _adopt(self) -> str:
        """Take over what failed in other processes that were forked for this run, and return the state they wrote."""
        written = self._read_same_work(self._file(self._name, "json")) if self._name else None
        if written is None:
            return RUNNING
        # Somebody else may have changed the file.
        with contextlib.suppress(LookupError, TypeError, AttributeError):
            told = {(told["title"], told["version"]): told["failures"] for told in written["releases"]}
            for release in self.releases:
                for failure in told.get((release.title, release.version), []):
                    if (failure["path"], failure["reason"]) not in release.failures:
                        release.fail(failure["path"], failure["reason"])
            return str(written["state"])
        return RUNNING

    def content(self) -> dict[str, Any]:
        """Return what the JSON has."""
        from . import __version__

        releases = [release.content() for release in self.releases]
        states = [release["state"] for release in releases]
        return {
            "schema": SCHEMA,
            "program": f"release-pipeline {__version__}",
            "task": self._task,
            "night": self._night,
            "state": self.state,
            "started": _utc(self._started),
            "updated": _utc(self._updated),
            "seconds": round(time.monotonic() - self._began, 3),
            "asked": self._asked,
            "failure": None if self.failure is None else _lines(self.failure),
            "totals": {
                "releases": len(releases) + self.unchanged,
                "done_releases": states.count(DONE),
                "unchanged_releases": states.count(UNCHANGED) + self.unchanged,
                "failed_releases": states.count(FAILED),
                **{name: sum(release["counts"][name] for release in releases) for name in _COUNTED},
            },
            "releases": releases,
        }

    def _save(self) -> None:
        began = time.monotonic()
        if self.state == RUNNING:
            self.refresh()
        if os.getpid() != self._process:
            self._adopt()
        self._updated = datetime.datetime.now(datetime.timezone.utc)
        content = self.content()
        data = json.dumps(content, ensure_ascii=False, indent=1).encode()
        try:
            if self._name is None:
                self._name = self._claim(data)
            else:
                write_file(data, self._file(self._name, "json"), self._staging, exclusive=False)
            if self._nights is None:
                self._nights = self._earlier_nights(self._name)
            page = render_page(content, self._name, [*self._nights, *_nights(content, self._name)])
            write_file(page.encode(), self._file(self._name, "html"), self._staging, exclusive=False)
        except OSError as error:
            if not self._warned:
                log.warning("The run goes on, but its report cannot be written: %s.", explain(error))
            self._warned = True
        now = time.monotonic()
        self._save_at = now + max(_SAVE_SECONDS, _SAVE_SHARE * (now - began))

    def _claim(self, data: bytes) -> str:
        """Write the JSON under a name that no other run has."""
        number, name = 1, self._wanted_name
        while True:
            with contextlib.suppress(FileExistsError):
                write_file(data, self._file(name, "json"), self._staging, exclusive=True)
                return name
            number += 1
            name = f"{self._wanted_name}-{number}"

    def _file(self, name: str, ending: str) -> Path:
        return self._directory / f"{name}.{ending}"

    def _earlier_nights(self, own: str) -> list[Night]:
        """Return the last nights before this one that this task did the same work, as the reports here tell."""
        if self._night is None:
            return []
        pattern = re.compile(rf"({self._task}-[\w.+-]+)\.json", re.ASCII)
        names = sorted(match[1] for name in os.listdir(self._directory) if (match := pattern.fullmatch(name)))
        nights: list[Night] = []
        for name in [name for name in reversed(names) if name < own][:_NIGHTS_READ]:
            if len(nights) < _NIGHTS_SHOWN and self._file(name, "html").is_file():
                nights += _nights(self._read_same_work(self._file(name, "json")), name)
        return nights[::-1]

    def _read_same_work(self, file: Path) -> Any:
        try:
            with open(open_regular(file), "rb") as stream:
                content = json.loads(stream.read(_LARGEST_READ))
            same = content["task"] == self._task and all(
                content["asked"].get(name) == self._asked.get(name) for name in _SERIES
            )
            return content if same else None
        except (PipelineError, OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
            return None


def _nights(content: Any, name: str) -> list[Night]:
    """Return the night that a report tells of; none where it is not a report of one."""
    try:
        night, state, totals = content["night"], content["state"], content["totals"]
        numbers = [totals[key] for key in ("moved_bytes", "checked_bytes", "releases", "failed_releases")]
        moved, checked, releases, failed = [n for n in numbers if type(n) is int and 0 <= n < 2**63]
        if state not in _STATES or not re.fullmatch(r"\d{4}-\d\d-\d\d", night, re.ASCII):
            return []
        return [Night(f"{name}.html", night, state, checked or moved, releases, failed)]
    except (LookupError, TypeError, ValueError):
        return []


def _utc(moment: datetime.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _lines(text: str) -> str:
    return "\n".join(map(printable, text.splitlines()))
