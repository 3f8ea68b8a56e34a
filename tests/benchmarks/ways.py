"""The ways to publish and to fetch that are compared: ours, the least that is possible, and the tools of others."""

import os
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tests.environments import debian_program, python_with
from tests.support import ROOT, Workshop

PUBLISH, AGAIN, CHANGED = "publish", "no-op rerun", "1 % changed"
FETCH, FETCH_AGAIN, AUDIT = "fetch", "fetch rerun", "audit"
OPERATIONS = (PUBLISH, AGAIN, CHANGED, FETCH, FETCH_AGAIN, AUDIT)
_VERSIONS = {PUBLISH: "1.0.0", AGAIN: "1.0.0", CHANGED: "1.1.0"}
_NEWEST = _VERSIONS[CHANGED]
_NO_KEYRING = "keyring.backends.null.Keyring"

Command = list[str | Path]


@dataclass(frozen=True)
class Place:
    """A fresh folder where a way does everything once.

    Attributes
    ----------
    folder : Path
        All of it; the project is in it already.
    """

    folder: Path

    @property
    def project(self) -> Path:
        """The files that are published."""
        return self.folder / "project"

    @property
    def archive(self) -> Path:
        """Where they are published to."""
        return self.folder / "archive"

    @property
    def fetched(self) -> Path:
        """Where they are fetched to."""
        return self.folder / "fetched"

    def environment(self) -> dict[str, str]:
        """Return environment variables with a home of its own and nothing of the user's settings."""
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        kept = {name: os.environ[name] for name in ("PATH", "TMPDIR", "SYSTEMROOT") if name in os.environ}
        return {**kept, "HOME": str(home), "USERPROFILE": str(home), "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}


class Way(ABC):
    """A tool and the commands with which it does each operation."""

    name: ClassVar[str]
    about: ClassVar[str]

    def install(self) -> None:
        """Get what is missing; raises NotInstalledError where that cannot be had."""
        return

    def version(self) -> Command | None:
        """Return the command that tells the version."""
        return None

    def prepare(self, place: Place) -> list[Command]:
        """Return the commands that a user gives once, long before; they are not measured."""
        place.archive.mkdir()
        return []

    @abstractmethod
    def commands(self, operation: str, place: Place) -> list[Command]:
        """Return the commands of an operation; none where the tool does not have it."""

    def folder(self, operation: str, place: Place) -> Path:
        """Return the folder in which the commands run."""
        return place.folder

    def environment(self, place: Place) -> dict[str, str]:
        """Return all environment variables of the commands."""
        return place.environment()

    def fetched(self, place: Place) -> Path:
        """Return the folder that holds the files after the fetch."""
        return place.fetched


class Pipeline(Way):
    """This project, through Luigi."""

    name = "pipeline"
    about = "`luigi --module pipeline PublishRelease`, `FetchRelease` and `AuditArchive`, local scheduler"

    def __init__(self) -> None:
        self._workshops: dict[Place, Workshop] = {}

    def prepare(self, place: Place) -> list[Command]:
        self._workshops[place] = Workshop(place.folder)
        return []

    def commands(self, operation: str, place: Place) -> list[Command]:
        command = self._workshops[place].command
        if operation in _VERSIONS:
            options = {"project_directory": place.project, "release_version": _VERSIONS[operation]}
            return [[*command("PublishRelease", title="sample", create_archive=True, **options)]]
        if operation in (FETCH, FETCH_AGAIN):
            return [[*command("FetchRelease", title="sample", destination=place.fetched)]]
        if operation == AUDIT:
            return [[*command("AuditArchive", archive=place.archive)]]
        return []

    def environment(self, place: Place) -> dict[str, str]:
        return {**place.environment(), "PYTHONPATH": str(ROOT), "PYTHON_KEYRING_BACKEND": _NO_KEYRING}

    def fetched(self, place: Place) -> Path:
        return place.fetched / f"sample-v{_NEWEST}"


class Bare(Way):
    """The least that must be done."""

    name = "bare"
    about = "`bare.py`: a thread pool that reads once, SHA-1, writes, fsync in groups, renames"

    def commands(self, operation: str, place: Place) -> list[Command]:
        program: Command = [sys.executable, "-I", Path(__file__).with_name("bare.py")]
        if operation in _VERSIONS:
            return [[*program, "publish", place.project, place.archive]]
        if operation == AUDIT:
            return [[*program, "audit", place.archive]]
        return [[*program, "fetch", place.archive, place.fetched]]


class _DebianWay(Way):
    """A program of Debian's."""

    packages: ClassVar[tuple[str, ...]]

    def install(self) -> None:
        self.program, self._variables = debian_program(self.name, *self.packages)

    def version(self) -> Command | None:
        return [self.program, "version"]

    def environment(self, place: Place) -> dict[str, str]:
        return {**place.environment(), **self._variables}


class Rclone(_DebianWay):
    """Copies folders, here to a local one."""

    name = "rclone"
    packages = ("rclone",)
    about = "`rclone copy --checksum`; audit: `rclone check` of the archive against the project; no fsync"

    def commands(self, operation: str, place: Place) -> list[Command]:
        if operation == AUDIT:
            return [[self.program, "check", place.project, place.archive]]
        ends = (place.project, place.archive) if operation in _VERSIONS else (place.archive, place.fetched)
        return [[self.program, "copy", "--checksum", *ends]]


class Rsync(_DebianWay):
    """Copies folders, here to a local one."""

    name = "rsync"
    packages = ("rsync",)
    about = "`rsync -a --checksum`; no fsync"

    def version(self) -> Command | None:
        return [self.program, "--version"]

    def commands(self, operation: str, place: Place) -> list[Command]:
        if operation == AUDIT:
            return []
        source, target = (place.project, place.archive) if operation in _VERSIONS else (place.archive, place.fetched)
        return [[self.program, "-a", "--checksum", f"{source}/", f"{target}/"]]


class Dvc(Way):
    """Versions of data beside Git."""

    name = "dvc"
    about = "`dvc add` and `dvc push` to a local remote; `dvc pull` into a second repository; no fsync"

    def install(self) -> None:
        self.program = python_with("dvc==3.67.1").with_name("dvc")

    def version(self) -> Command | None:
        return [self.program, "--version"]

    def prepare(self, place: Place) -> list[Command]:
        super().prepare(place)
        place.fetched.mkdir()
        commands: list[Command] = []
        for repository in (place.folder, place.fetched):
            dvc: Command = [self.program, "--cd", repository]
            commands += [[*dvc, "init", "--no-scm"], [*dvc, "remote", "add", "--default", "here", place.archive]]
        return commands

    def commands(self, operation: str, place: Place) -> list[Command]:
        if operation in _VERSIONS:
            return [[self.program, "add", "project"], [self.program, "push"]]
        if operation == AUDIT:
            return []
        pointer = place.folder / "project.dvc"
        (place.fetched / pointer.name).write_bytes(pointer.read_bytes())
        return [[self.program, "pull"]]

    def folder(self, operation: str, place: Place) -> Path:
        return place.fetched if operation in (FETCH, FETCH_AGAIN) else place.folder

    def environment(self, place: Place) -> dict[str, str]:
        own = {name: str(place.folder / "home" / name) for name in ("DVC_SITE_CACHE_DIR", "DVC_SYSTEM_CONFIG_DIR")}
        return {**place.environment(), **own, "DVC_NO_ANALYTICS": "true", "CI": "true"}

    def fetched(self, place: Place) -> Path:
        return place.fetched / "project"


class Rmellipse(Way):
    """The earlier tool."""

    name = "rmellipse"
    about = "rmellipse 0.4.5, the functions behind its commands; no fsync, its fetch does not verify"

    def install(self) -> None:
        self.python = python_with("rmellipse==0.4.5")

    def prepare(self, place: Place) -> list[Command]:
        super().prepare(place)
        (place.archive / ".rmearchive").touch()
        return []

    def commands(self, operation: str, place: Place) -> list[Command]:
        # Isolated, because the names of modules beside the program are also those of libraries.
        program: Command = [self.python, "-I", "-X", "utf8", Path(__file__).with_name("rmellipse_driver.py")]
        if operation in _VERSIONS:
            return [[*program, "publish", place.project, place.archive, _VERSIONS[operation]]]
        if operation == AUDIT:
            return []
        return [[*program, "fetch", place.archive, _NEWEST, place.fetched]]

    def environment(self, place: Place) -> dict[str, str]:
        return {**place.environment(), "GIT_PYTHON_REFRESH": "quiet"}


class Restic(_DebianWay):
    """Backups, in chunks that are compressed and encrypted: for reference."""

    name = "restic"
    packages = ("restic",)
    about = "`restic backup` and `restic restore latest`, encrypted chunks; audit: `restic check --read-data`"

    def prepare(self, place: Place) -> list[Command]:
        return [[self.program, "init"]]

    def commands(self, operation: str, place: Place) -> list[Command]:
        if operation in _VERSIONS:
            return [[self.program, "backup", "."]]
        if operation == AUDIT:
            return [[self.program, "check", "--read-data"]]
        return [[self.program, "restore", "latest", "--target", place.fetched]]

    def folder(self, operation: str, place: Place) -> Path:
        return place.project if operation in _VERSIONS else place.folder

    def environment(self, place: Place) -> dict[str, str]:
        own = {"RESTIC_REPOSITORY": str(place.archive), "RESTIC_PASSWORD": "benchmark"}
        return {**super().environment(place), **own}


WAYS: dict[str, type[Way]] = {way.name: way for way in (Pipeline, Bare, Rclone, Rsync, Dvc, Rmellipse, Restic)}
