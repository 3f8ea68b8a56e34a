"""Blobs that a test moves in a folder, and a meter that writes down how it goes."""

import contextlib
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.durable import Staging
from pipeline.errors import BlobDamagedError
from pipeline.transfer import Move, move_blobs
from tests.support import sha1

Failures = dict[str, Exception]


class Witness:
    """A meter that writes down what it is told."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.nbytes = 0
        self.errors: dict[str, Exception] = {}
        self.moved: dict[str, bool] = {}
        self.sizes: dict[str, int] = {}
        self.tick: Callable[[], None] = lambda: None
        self._guard = threading.Lock()

    def started(self, name: str, size: int) -> None:
        self.events.append(f"started {name}")
        self.sizes[name] = size

    def advanced(self, name: str, nbytes: int) -> None:
        with self._guard:
            self.nbytes += nbytes

    def finished(self, name: str, nbytes: int, error: Exception | None, moved: bool) -> None:
        self.events.append(f"finished {name}")
        self.moved[name] = moved
        assert nbytes == (0 if error else self.sizes.get(name, nbytes))
        if error:
            self.errors[name] = error


class Desk:
    """A folder with a staging, and blobs that are moved in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.staging = Staging(folder / ".partial")
        self.meter = Witness()

    def blob(self, name: str, data: bytes, *targets: str, source: bytes | None = None) -> Move:
        """Return the move of a blob; `source` is what is read where that is something else."""
        read = data if source is None else source
        return Move(
            name=name,
            digest=sha1(data),
            size=len(data),
            source=lambda offset: contextlib.nullcontext(io.BytesIO(read[offset:])),
            targets=tuple(str(self.folder / target) for target in targets or (name,)),
            wrong=lambda: BlobDamagedError(f"{name} is wrong"),
        )

    def move(self, *moves: Move, **options: Any) -> Failures:
        """Move blobs."""
        return move_blobs(moves, self.staging, **{"threads": 2, "meter": self.meter, **options})

    def parts(self) -> list[str]:
        """Return the names of the parts that are left."""
        return sorted(path.name for path in self.staging.folder.glob("*.part"))


def fails_with(number: int) -> Any:
    """Return a function that fails with an error of the operating system."""

    def fail(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail
