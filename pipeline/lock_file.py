"""The lock file of a fetch: exactly which releases were chosen, so that a later fetch gets the same."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .documents import load_mapping, read_document
from .durable import Staging, write_file
from .errors import InvalidNameError, InvalidVersionError, LockFileError, RecordError, SourceChangedError, printable
from .names import normalize_title
from .requirements import MOST_RELEASES
from .versions import parse_version

_MOST_BYTES = 2**24
_HEADER = "# Chosen by FetchRelease --with-requirements, which fetches the same again; --update chooses anew.\n"


@dataclass(frozen=True)
class LockedRelease:
    """A release that was chosen.

    Attributes
    ----------
    version : str
        Of the release.
    digest : str
        SHA-1 of its record.
    requires : tuple of str
        The requirements in its record.
    required_by : tuple of str
        The chosen releases that require it.
    """

    version: str
    digest: str
    requires: tuple[str, ...] = ()
    required_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class LockFile:
    """What was asked for, and what was chosen.

    Attributes
    ----------
    title : str
        Of the release that was asked for.
    versions : str
        The expressions that were asked for, separated by commas.
    archive, workspace : str
        Where the releases are.
    releases : mapping
        Title to what was chosen; the release that was asked for among them.
    """

    title: str
    versions: str
    archive: str
    workspace: str
    releases: Mapping[str, LockedRelease]

    @property
    def version(self) -> str:
        """The version of the release that was asked for."""
        return self.releases[self.title].version

    def required(self) -> dict[str, LockedRelease]:
        """Return what was chosen besides the release that was asked for."""
        return {title: release for title, release in self.releases.items() if title != self.title}

    def dump(self) -> bytes:
        """Return the content of the file."""
        releases = {
            title: {
                "version": one.version,
                "record": f"sha1:{one.digest}",
                "requires": list(one.requires),
                "required-by": list(one.required_by),
            }
            for title, one in self.releases.items()
        }
        content = {
            "title": self.title,
            "versions": self.versions,
            "archive": self.archive,
            "workspace": self.workspace,
            "releases": releases,
        }
        return (_HEADER + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)).encode()

    def write(self, file: Path) -> None:
        """Write the file so that it appears whole or not at all, and stays.

        Raises
        ------
        OSError
            When it cannot be written.
        """
        staging = Staging(file.parent / ".partial")
        write_file(self.dump(), file, staging, exclusive=False)
        staging.clear()


def read_lock_file(file: Path) -> LockFile | None:
    """Read a lock file; return None where there is none.

    Raises
    ------
    LockFileError
        When it is damaged, or is no lock file.
    OSError
        When it cannot be read.
    """
    try:
        data = read_document(file)
        if len(data) > _MOST_BYTES:
            raise ValueError(f"it is larger than {_MOST_BYTES} bytes")
        return _parse(load_mapping(data, str(file)))
    except FileNotFoundError:
        return None
    except (RecordError, SourceChangedError) as error:
        raise _damaged(file, str(error).removeprefix(f"{printable(file)}: ").rstrip(".")) from None
    except (InvalidNameError, InvalidVersionError, ValueError) as error:
        raise _damaged(file, str(error).rstrip(".")) from None


def _damaged(file: Path, reason: str) -> LockFileError:
    return LockFileError(
        f"The lock file {printable(file)} cannot be used: {reason}; restore it, or choose anew with --update."
    )


def _parse(content: Any) -> LockFile:
    title, versions, archive, workspace = (
        _get(content, name, str) for name in ("title", "versions", "archive", "workspace")
    )
    listed = _get(content, "releases", dict)
    if title not in listed or len(listed) > MOST_RELEASES:
        raise ValueError(f"'releases' must name '{printable(title[:100])}' and at most {MOST_RELEASES} releases")
    return LockFile(title, versions, archive, workspace, {_title(name): _release(one) for name, one in listed.items()})


def _get(content: Any, name: str, kind: type) -> Any:
    value = content.get(name) if isinstance(content, dict) else None
    if not isinstance(value, kind):
        raise ValueError(f"'{name}' is missing or has the wrong type")
    return value


def _title(name: object) -> str:
    if not isinstance(name, str) or normalize_title(name) != name:
        raise ValueError(f"'{printable(str(name)[:100])}' is not the title of a release")
    return name


def _release(content: Any) -> LockedRelease:
    version = str(parse_version(_get(content, "version", str)))
    digest = re.fullmatch(r"sha1:([0-9a-f]{40})", _get(content, "record", str), re.ASCII)
    requires, required_by = (_get(content, name, list) for name in ("requires", "required-by"))
    if digest is None or not all(isinstance(text, str) for text in (*requires, *required_by)):
        raise ValueError("'record' must be 'sha1:' and 40 hex digits, 'requires' and 'required-by' lists of texts")
    return LockedRelease(version, digest[1], tuple(requires), tuple(required_by))
