"""Which releases a fetch with requirements gets: those of its lock file, or the newest that fit together."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..archives import ArchiveInterface, is_url
from ..archives.found import not_found
from ..errors import LockFileError, ReleaseRecordNotFoundError, RequirementsError, printable
from ..lock_file import LockedRelease, LockFile, read_lock_file
from ..names import record_title
from ..release import ReleaseRecord
from ..requirements import Requirement, parse_requirements, resolve
from ..settings import normalize_host
from ..versions import matches


class _Facts(NamedTuple):
    digest: str
    requirements: tuple[Requirement, ...]


class Shelf:
    """What a workspace of an archive says of a release and of those that it requires; each record is read once.

    Parameters
    ----------
    archive : ArchiveInterface
        The archive.
    location : str
        Where it is; kept as a lock file names it.
    workspace : str
        The workspace.
    title : str
        The release that was asked for.
    """

    def __init__(self, archive: ArchiveInterface, location: str, workspace: str, title: str) -> None:
        self.archive = archive
        self.location = normalize_host(location) if is_url(location) else printable(location)
        self.workspace = workspace
        self.title = title
        self._facts: dict[tuple[str, str], _Facts] = {}
        self._asked: dict[str, ReleaseRecord] = {}

    def newest(self, expressions: Sequence[str]) -> str:
        """Return the newest version of the release that satisfies all expressions, or the one that is spelled out.

        Raises
        ------
        ReleaseRecordNotFoundError
            When there is none.
        """
        versions = [version for version in self.versions(self.title) if matches(version, expressions)]
        if not versions:
            raise not_found(self.archive, self.title, expressions, self.workspace)
        # Versions that differ in nothing but build metadata are equal for an expression.
        return next((version for version in versions if [f"=={version}"] == list(expressions)), versions[-1])

    def versions(self, title: str) -> list[str]:
        """Return the versions of a release, from the oldest to the newest."""
        return self.archive.get_release_versions(title, self.workspace)

    def asked(self, version: str) -> ReleaseRecord:
        """Return the record of a version of the release that was asked for.

        Raises
        ------
        ReleaseRecordNotFoundError
            When there is none.
        """
        if version not in self._asked:
            self._asked[version] = self._read(self.title, version)
        return self._asked[version]

    def requirements(self, title: str, version: str) -> tuple[Requirement, ...]:
        """Return what a release requires."""
        return self._look_up(title, version).requirements

    def digest(self, title: str, version: str) -> str:
        """Return the SHA-1 of a record."""
        return self._look_up(title, version).digest

    def _look_up(self, title: str, version: str) -> _Facts:
        if (title, version) not in self._facts:
            record = self.asked(version) if title == self.title else self._read(title, version)
            self._facts[title, version] = _Facts(record.digest, parse_requirements(record.content, self.workspace))
        return self._facts[title, version]

    def _read(self, title: str, version: str) -> ReleaseRecord:
        found = self.archive.get_release(title, version, self.workspace)
        if found is None:
            raise not_found(self.archive, title, [f"=={version}"], self.workspace)
        return ReleaseRecord(found, f"the record of {record_title(title, version)}")


def choose(shelf: Shelf, expressions: Sequence[str]) -> LockFile:
    """Choose the newest release that satisfies all expressions, and the newest ones that it requires.

    Raises
    ------
    RequirementsError
        When there is no such choice.
    """
    chosen = resolve(shelf.title, shelf.newest(expressions), shelf.versions, shelf.requirements)
    required_by: dict[str, list[str]] = {title: [] for title in chosen}
    for title, version in chosen.items():
        for requirement in shelf.requirements(title, version):
            required_by[requirement.title].append(record_title(title, version))
    releases = {
        title: LockedRelease(
            version,
            shelf.digest(title, version),
            tuple(map(str, shelf.requirements(title, version))),
            tuple(required_by[title]),
        )
        for title, version in chosen.items()
    }
    return LockFile(shelf.title, "".join(",".join(expressions).split()), shelf.location, shelf.workspace, releases)


def keep(shelf: Shelf, expressions: Sequence[str], file: Path) -> LockFile | None:
    """Return what a lock file says, checked against the archive; None where there is no lock file.

    Raises
    ------
    LockFileError
        When it does not fit what is asked for, or the archive no longer has exactly what it names.
    """
    lock = read_lock_file(file)
    if lock is None:
        return None
    where = f"The lock file {printable(file)}"
    asked = {"title": (lock.title, shelf.title), "archive": (lock.archive, shelf.location)}
    asked["workspace"] = (lock.workspace, shelf.workspace)
    for field, (locked, wanted) in asked.items():
        if locked != wanted:
            raise LockFileError(
                f"{where} is for the {field} '{printable(locked)}', not '{printable(wanted)}'; correct --{field}, give "
                "another --destination, or choose anew with --update."
            )
    if not matches(lock.version, expressions):
        raise LockFileError(
            f"{where} has {record_title(lock.title, lock.version)}, which does not satisfy "
            f"--versions {','.join(expressions)}; correct --versions, or choose anew with --update."
        )
    _check_records(shelf, lock, where)
    _check_choice(shelf, lock, where)
    return lock


def _check_records(shelf: Shelf, lock: LockFile, where: str) -> None:
    for title, one in lock.releases.items():
        try:
            changed = shelf.digest(title, one.version) != one.digest
            found = "with the same record"
        except ReleaseRecordNotFoundError:
            changed, found = True, ""
        if changed:
            name = f"{where} names {record_title(title, one.version)}, which is no longer in"
            raise LockFileError(
                f"{name} {printable(shelf.archive.host)} {found}".rstrip()
                + "; restore it there, or choose anew with --update."
            )


def _check_choice(shelf: Shelf, lock: LockFile, where: str) -> None:
    """Refuse a lock file in which a required release is missing, does not fit, or is required by none."""
    locked = {title: one.version for title, one in lock.releases.items()}
    try:
        needed = resolve(
            lock.title, lock.version, lambda title: [locked[title]] if title in locked else [], shelf.requirements
        )
    except RequirementsError as error:
        raise LockFileError(f"{where} cannot be used; choose anew with --update: {error}") from None
    if unneeded := sorted(locked.keys() - needed.keys()):
        raise LockFileError(f"{where} names {unneeded[0]}, which nothing requires; choose anew with --update.")
