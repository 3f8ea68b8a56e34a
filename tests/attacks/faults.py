"""Let one call to the operating system fail or never return, for every call of an operation and every such way.

``python -m tests.attacks.faults`` tries all of them as long as there is time: each call in one way before any in two,
in an order that the seed tells.
"""

import argparse
import errno
import json
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tests.attacks.calls import REAL, Call, intercept
from tests.attacks.order import one_of_each_first, share_of_sorts
from tests.attacks.scenes import SCENES, Scene, Scenery, Stage
from tests.support import Outcome, Workshop

SHORT, KILL = "short", "SIGKILL"
KILLED = -signal.SIGKILL
# What may go wrong with each call.
_ERRORS = {
    "open": ("ENOSPC", "EIO", "EACCES", "EMFILE", "EINTR"),
    "close": ("EIO", "ENOSPC"),
    "read": ("EIO", "EINTR", SHORT),
    "write": ("ENOSPC", "EIO", "EINTR", SHORT),
    "fsync": ("ENOSPC", "EIO", "EINTR"),
    "ftruncate": ("EIO", "EACCES"),
    "fstat": ("EIO",),
    "mkdir": ("ENOSPC", "EIO", "EACCES"),
    "rmdir": ("EIO", "EACCES"),
    "unlink": ("EIO", "EACCES"),
    "remove": ("EIO", "EACCES"),
    "rename": ("ENOSPC", "EIO", "EACCES", "EINTR"),
    "replace": ("ENOSPC", "EIO", "EACCES", "EINTR"),
    "link": ("ENOSPC", "EIO", "EACCES", "EINTR", "EPERM"),
    "stat": ("EIO", "EACCES"),
    "lstat": ("EIO", "EACCES"),
    "listdir": ("EIO", "EACCES", "EMFILE"),
    "scandir": ("EIO", "EACCES", "EMFILE"),
    "lockf": ("EIO", "ENOLCK", "EINTR"),
    "sqlite": ("ENOSPC", "EIO", "EACCES", "EMFILE"),
}
_SQLITE = {
    "ENOSPC": "database or disk is full",
    "EIO": "disk I/O error",
    "EACCES": "attempt to write a readonly database",
    "EMFILE": "unable to open database file",
}
_NEEDS_ROOM = {"write", "mkdir", "link", "fsync"}


class Attacked(Protocol):
    """What is run in folders of its own."""

    @property
    def workshop(self) -> Workshop:
        """Where it is run."""

    def folders(self) -> list[Path]:
        """Return the folders that it reads and writes."""

    def run(self, trouble: Callable[[], object]) -> Outcome:
        """Run it to its end, in a process in which `trouble` is called first."""


class Fault(NamedTuple):
    """Something that goes wrong.

    Attributes
    ----------
    step : int
        The number of the call that fails, counted from 1.
    error : str
        Its error, that it reads or writes less than it was asked to, or that the process is killed before it.
    lasts : bool
        Whether all calls of its kind fail from then on, too.
    """

    step: int
    error: str
    lasts: bool = False


def possible_faults(names: list[str]) -> Iterator[Fault]:
    """Yield what may go wrong in a run that makes these calls."""
    for step, name in enumerate(names, 1):
        yield Fault(step, KILL)
        for error in _ERRORS[name]:
            yield Fault(step, error)
            # A call that is always interrupted is made again for ever, by Python itself (PEP 475).
            if error not in (SHORT, "EINTR"):
                yield Fault(step, error, True)


def calls_of(stage: Attacked) -> list[str]:
    """Run an operation and return the names of all calls that it makes."""
    return [name for name, _ in calls_about(stage)]


def calls_about(stage: Attacked) -> list[tuple[str, str]]:
    """Run an operation and return the names of all calls that it makes, each with the path that it is about."""
    told = stage.workshop.folder / "calls"
    with told.open("ab", buffering=0) as file:

        def count(call: Call, make: Callable[[], Any]) -> Any:
            file.write(f"{call.name} {call.path}\n".encode())
            return make()

        outcome = stage.run(lambda: intercept(stage.folders(), count))
    assert outcome.code == 0, outcome.output
    return [(name, path) for name, _, path in (line.partition(" ") for line in told.read_text().splitlines())]


def strike(stage: Attacked, fault: Fault) -> tuple[Outcome, str]:
    """Run an operation with a fault, and return how it ended and which call failed."""
    told = stage.workshop.folder / "failed"
    outcome = stage.run(lambda: intercept(stage.folders(), _Failing(fault, told)))
    return outcome, told.read_text() if told.exists() else "no call"


class _Failing:
    def __init__(self, fault: Fault, told: Path) -> None:
        self._fault = fault
        self._told = told
        self._count = 0
        self._first: Call | None = None

    def __call__(self, call: Call, make: Callable[[], Any]) -> Any:
        self._count += 1
        if self._count == self._fault.step:
            self._first = call
            self._told.write_text(f"{call.name} {call.path} {call.other}")
        if self._count == self._fault.step or (self._fault.lasts and self._is_struck(call)):
            return self._fail(call, make)
        return make()

    def _is_struck(self, call: Call) -> bool:
        if self._first is None:
            return False
        if self._fault.error == "ENOSPC" and call.name != "sqlite":
            return call.creates or call.name in _NEEDS_ROOM
        return call.name == self._first.name

    def _fail(self, call: Call, make: Callable[[], Any]) -> Any:
        if self._fault.error == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._fault.error == SHORT:
            if call.name == "write":
                data = memoryview(call.arguments[0])
                return REAL["write"](call.descriptor, data[: max(1, len(data) // 2)])
            return REAL["read"](call.descriptor, max(1, call.arguments[0] // 2))
        if call.name == "sqlite":
            raise sqlite3.OperationalError(_SQLITE[self._fault.error])
        if call.name == "close":
            make()
        code = getattr(errno, self._fault.error)
        if call.descriptor >= 0:
            raise OSError(code, os.strerror(code))
        raise OSError(code, os.strerror(code), call.path, None, call.other or None)


def complaints(stage: Stage, fault: Fault) -> tuple[list[str], Counter[str]]:
    """Run an operation with a fault, and return what was not as it should be, and what the run came to."""
    outcome, call = strike(stage, fault)
    found = [*badly_ended(outcome), *stage.broken()]
    if outcome.code == 0:
        found += stage.unfinished(is_tidy=False)
    found += stage.completed()
    return [f"{stage.scene.name}, {call}: {sentence}" for sentence in found], Counter({f"exit {outcome.code}": 1})


def badly_ended(outcome: Outcome) -> list[str]:
    """Return what is wrong with the end of a run in which a call failed."""
    sentences = [line for line in outcome.output.splitlines() if line.startswith("ERROR: ")]
    is_told = outcome.code in (30, 35) and sentences
    if "Traceback" not in outcome.output and (is_told or outcome.code in (0, KILLED)):
        return []
    return [f"it ended with {outcome.code}: {outcome.output}"]


def every_fault(scenery: Scenery, scenes: list[Scene], dice: random.Random) -> list[tuple[Scene, Fault]]:
    """Return all faults of some operations in the order in which they are tried."""
    faults = []
    for scene in scenes:
        with scenery.stage(scene) as stage:
            faults += [(scene, fault) for fault in possible_faults(calls_of(stage))]
    dice.shuffle(faults)
    return one_of_each_first(faults, _call)


def _call(attack: tuple[Scene, Fault]) -> tuple[str, int]:
    scene, fault = attack
    return scene.name, fault.step


def main() -> int:
    """Try faults, tell what was found, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.attacks.faults", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="how long to go on; default: 600")
    parser.add_argument("--seed", type=int, default=6, help="of the order; default: 6")
    parser.add_argument("--scene", choices=SCENES, action="append", help="only this operation; may be repeated")
    parser.add_argument("--fault", type=json.loads, help="only this one, for instance '[7, \"ENOSPC\", false]'")
    given = parser.parse_args()
    end = time.monotonic() + given.seconds
    scenes = [SCENES[name] for name in given.scene or SCENES]
    tried, findings, ends = 0, 0, Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        scenery = Scenery(Path(folder))
        faults = [(scene, Fault(*given.fault)) for scene in scenes] if given.fault else []
        faults = faults or every_fault(scenery, scenes, random.Random(given.seed))
        for scene, fault in faults:
            if time.monotonic() > end:
                break
            with scenery.stage(scene) as stage:
                found, ended = complaints(stage, fault)
            tried, findings, ends = tried + 1, findings + bool(found), ends + ended
            if found:
                print(f"--scene {scene.name} --fault '{json.dumps(fault)}'", *found, sep="\n  ", flush=True)
    told = ", ".join(f"{count} x {end}" for end, count in sorted(ends.items()))
    calls = share_of_sorts(faults, tried, _call)
    print(f"{tried} of {len(faults)} faults at {calls} calls ({told}), {findings} with findings, seed {given.seed}")
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main())
