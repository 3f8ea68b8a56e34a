"""The manifest: what one run moves, frozen at its start and named by its own digest.

Every worker that knows the name expands a batch of blob tasks in the same way. A batch names its members as ranges over
the sorted blobs of the manifest's record.
"""

import contextlib
import functools
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from .documents import load_json
from .durable import make_private_folder, open_private
from .errors import ManifestError, RecordError, printable
from .names import check_component
from .release import ReleaseRecord

_DAY_SECONDS = 24 * 3600
_KEPT_SECONDS = 30 * _DAY_SECONDS


@dataclass(frozen=True)
class Manifest:
    """What one run moves.

    Attributes
    ----------
    archive : str
        The archive, as a folder or URL.
    user : str or None
        Who uses the archive.
    workspace : str
        The workspace in it.
    directory : str
        The project directory or the folder that gets the files, absolute; empty when both ends are archives.
    record : ReleaseRecord
        The release; before it is published, without PIDs.
    source, source_workspace : str
        The archive that a release is copied from, and the workspace there; empty when it is not.
    """

    archive: str
    user: str | None
    workspace: str
    directory: str
    record: ReleaseRecord
    source: str = ""
    source_workspace: str = ""

    @cached_property
    def _data(self) -> bytes:
        described = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "record"}
        # A record of the earlier tool may hold what strict JSON does not, such as NaN and dates.
        return json.dumps({**described, "record": self.record.content}, default=str).encode()

    @cached_property
    def digest(self) -> str:
        """The name of the manifest: the SHA-1 of its content, 40 hex digits."""
        return hashlib.sha1(self._data, usedforsecurity=False).hexdigest()

    def save(self, folder: Path) -> None:
        """Write the manifest into `folder`, for workers in other processes; where it cannot be, they are not served."""
        with contextlib.suppress(OSError):
            make_private_folder(folder)  # what is not published yet is named in it
            if not (folder / self.digest).exists():
                _remove_forgotten(folder, int(time.time() // _DAY_SECONDS))
                part = folder / f"{self.digest}.{os.getpid()}"
                with open(part, "wb", opener=open_private) as stream:
                    stream.write(self._data)
                part.replace(folder / self.digest)
        # Of a large release it takes a lot of memory, and it can be made again.
        self.__dict__.pop("_data", None)

    def remove(self, folder: Path) -> None:
        """Remove what :meth:`save` wrote."""
        with contextlib.suppress(OSError):
            (folder / self.digest).unlink()

    @classmethod
    def load(cls, folder: Path, digest: str) -> "Manifest":
        """Read the manifest of that name.

        Raises
        ------
        ManifestError
            When it is not there, or not what its name says.
        """
        try:
            data = (folder / check_component(digest, "manifests")).read_bytes()
            if hashlib.sha1(data, usedforsecurity=False).hexdigest() != digest:
                raise ValueError
            content: dict[str, Any] = load_json(data)
            return cls(**{**content, "record": ReleaseRecord(content["record"])})
        except (OSError, ValueError, TypeError, KeyError, RecordError, RecursionError):
            raise ManifestError(
                f"The manifest {printable(digest[:50])} is not known here; run PublishRelease, FetchRelease or "
                "MirrorRelease, not its parts."
            ) from None


@functools.lru_cache(maxsize=1)
def _remove_forgotten(folder: Path, day: int) -> None:
    """Remove the manifests of runs that were given up; once in a `day`, for one run may mirror very many releases."""
    for file in folder.iterdir():
        with contextlib.suppress(OSError):  # another run may remove it just now
            if file.stat().st_mtime < time.time() - _KEPT_SECONDS:
                file.unlink()


def format_ranges(numbers: Iterable[int]) -> str:
    """Return numbers as compact ranges.

    Examples
    --------
    >>> format_ranges([3, 0, 1, 2, 7])
    '0-3,7'
    """
    ranges: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def parse_ranges(text: str, count: int) -> list[int]:
    """Return the numbers that :func:`format_ranges` wrote, each below `count`.

    Raises
    ------
    ManifestError
        When the text is anything else, or a number is not below `count`.

    Examples
    --------
    >>> parse_ranges("0-3,7", 8)
    [0, 1, 2, 3, 7]
    """
    numbers: list[int] = []
    for item in text.split(","):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", item, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if not first <= last < count or (numbers and first <= numbers[-1]):
            raise ManifestError(f"'{printable(text[:50])}' does not name blobs of a manifest of {count}.")
        numbers.extend(range(first, last + 1))
    return numbers
