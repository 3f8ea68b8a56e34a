"""The release file (``release.yml``): what a project says about its next release.

Its keys are those of the earlier tool's workflow files: ``release`` (``title``, ``version``, ``includes``,
``ignores``), ``datasets``, ``requires-releases``; whatever else it holds is kept in the record under ``workflow``.
"""

import datetime
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .documents import load_mapping, read_document
from .errors import RecordError, ReleaseFileError, SourceChangedError, explain, printable

_OWN_KEYS = ("release", "datasets", "requires-releases")


@dataclass(frozen=True)
class ReleaseFile:
    """The content of a release file; every field may be missing.

    Attributes
    ----------
    path : str or None
        The file, relative to the project directory where it is inside, posix.
    title, version : str or None
        Of the release, as written.
    includes, ignores : list of str
        Globs.
    datasets : dict
        Name to path.
    requirements : list of str
        Releases that this one needs, with version expressions.
    workflow : dict
        Everything else.
    """

    path: str | None = None
    title: str | None = None
    version: str | None = None
    includes: list[str] = field(default_factory=list)
    ignores: list[str] = field(default_factory=list)
    datasets: dict[str, str] = field(default_factory=dict)
    requirements: list[str] = field(default_factory=list)
    workflow: dict[str, Any] = field(default_factory=dict)


def read_release_file(project_directory: Path, release_file: str | None = None) -> ReleaseFile:
    """Read the release file of a project.

    Parameters
    ----------
    project_directory : Path
        The project.
    release_file : str, optional
        Another file than ``release.yml`` in it; then it must exist.

    Raises
    ------
    ReleaseFileError
        When the file cannot be read, or a field of it has the wrong type.
    """
    file = Path(release_file) if release_file else project_directory / "release.yml"
    try:
        content = load_mapping(read_document(file), str(file))
    except FileNotFoundError:
        if release_file:
            raise ReleaseFileError(f"There is no release file {printable(file)}; correct --release-file.") from None
        return ReleaseFile()
    except OSError as error:
        raise ReleaseFileError(f"{explain(error, file)}.") from None
    except (RecordError, SourceChangedError) as error:
        raise ReleaseFileError(str(error)) from None
    fields = _Fields(file, {} if content is None else content)
    release = _Fields(file, fields.get("release", dict) or {}, "release: ")
    return ReleaseFile(
        path=_relative(file, project_directory),
        title=release.get("title", str),
        version=release.get("version", str),
        includes=release.texts("includes"),
        ignores=release.texts("ignores"),
        datasets=fields.datasets(),
        requirements=fields.texts("requires-releases"),
        workflow=fields.plain("workflow", {k: v for k, v in fields.content.items() if k not in _OWN_KEYS}),
    )


def _relative(file: Path, directory: Path) -> str:
    relative = os.path.relpath(file, directory)
    return file.name if relative.startswith(os.pardir) else Path(relative).as_posix()


class _Fields:
    """Fields of a mapping, with errors that name them."""

    def __init__(self, file: Path, content: Any, prefix: str = "") -> None:
        if not isinstance(content, dict):
            raise ReleaseFileError(f"{printable(file)}: this must be a mapping of keys, for example 'release:'.")
        self.content = content
        self._file = file
        self._prefix = prefix

    def _wrong(self, key: object, expected: str) -> ReleaseFileError:
        return ReleaseFileError(f"{printable(self._file)}: '{self._prefix}{printable(key)}' must be {expected}.")

    def get(self, key: str, kind: type) -> Any:
        value = self.content.get(key)
        if value is not None and not isinstance(value, kind):
            expected = "a mapping" if kind is dict else 'text; write it in quotes, for example "0.1.0"'
            raise self._wrong(key, expected)
        return value

    def texts(self, key: str) -> list[str]:
        value = self.content.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong(key, "a list of texts")
        return value

    def datasets(self) -> dict[str, str]:
        value = self.get("datasets", dict) or {}
        if not all(isinstance(name, str) and isinstance(path, str) for name, path in value.items()):
            raise self._wrong("datasets", "a mapping of names to paths")
        return dict(value)

    def plain(self, key: object, value: Any) -> Any:
        """Return a value in the types of JSON: YAML's dates become ISO 8601 text."""
        if isinstance(value, (datetime.date, datetime.datetime)):
            return value.isoformat()
        if isinstance(value, dict):
            return {self._name(key, name): self.plain(key, child) for name, child in value.items()}
        if isinstance(value, list):
            return [self.plain(key, child) for child in value]
        if value is None or isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value)):
            return value
        raise self._wrong(key, "plain YAML: texts, finite numbers, dates, lists and mappings")

    def _name(self, key: object, name: object) -> str:
        plain = self.plain(key, name)
        return plain if isinstance(plain, str) else json.dumps(plain)
