"""Simulate that the power fails: what was synced is on the disk, what was not is there or is not, as chance has it.

All that runs do to files is recorded. After any of these operations the power may fail. Then of each file the writes
that were synced are kept, and each later one is kept or lost by itself; so is each name in a folder. Some file systems
rename in one step, and others may lose one half of it. What such a disk holds is laid out as real files and checked;
then the same command must complete.

``python -m tests.attacks.power`` tries each operation, and what comes after runs that were killed.
"""

import argparse
import base64
import fcntl
import json
import os
import random
import shutil
import stat
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.attacks.calls import REAL, Call, intercept
from tests.attacks.faults import KILLED
from tests.attacks.scenes import FOLDERS, SCENES, Scene, Scenery, Stage

_SHARES = (0.0, 0.1, 0.5, 0.9, 1.0)

Event = dict[str, Any]


class Recorder:
    """Writes down what processes do to files, in the order in which they do it.

    Parameters
    ----------
    stage : Stage
        Where they do it.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._log = stage.workshop.folder / "events"
        self._log.touch()

    def events(self) -> list[Event]:
        """Return what was done until now; paths are relative."""
        events = [json.loads(line) for line in self._log.read_text().splitlines()]
        for event in events:
            event["data"] = base64.b85decode(event.get("data", ""))
        return events

    def begin(self, die_before: int = 0) -> Callable[[], None]:
        """Return what makes a process tell what it does, and kill itself before its change number `die_before`."""

        def begin() -> None:
            log = REAL["open"](self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            count = 0

            def record(call: Call, make: Callable[[], Any]) -> Any:
                nonlocal count
                # One at a time, in all processes: so the order is known.
                fcntl.flock(log, fcntl.LOCK_EX)
                try:
                    told = self._told(call)
                    count += told is not None
                    if told is not None and count == die_before:
                        os.kill(os.getpid(), 9)
                    result = make()
                    if told is not None:
                        self._write(log, call, told, result)
                    return result
                finally:
                    fcntl.flock(log, fcntl.LOCK_UN)

            intercept(self._stage.folders()[: len(FOLDERS)], record)

        return begin

    def _told(self, call: Call) -> Event | None:
        """Return what there is to tell of a call, before it is made."""
        told: Event = {"call": call.name, "path": self._relative(call.path), "other": self._relative(call.other)}
        told["process"] = os.getpid()
        if call.name == "open":
            told["is_new"] = call.creates and not os.path.lexists(call.path)
            told["empties"] = bool(call.arguments[1] & os.O_TRUNC)
            return told
        if call.descriptor >= 0:
            told["descriptor"] = call.descriptor
        if call.name == "write":
            told["offset"] = REAL["lseek"](call.descriptor, 0, os.SEEK_CUR)
            return told
        if call.name == "ftruncate":
            told["size"] = call.arguments[0]
            return told
        return (
            told if call.name in {"mkdir", "rmdir", "unlink", "remove", "rename", "replace", "link", "fsync"} else None
        )

    def _relative(self, path: str) -> str:
        return os.path.relpath(path, self._stage.workshop.folder) if path else ""

    @staticmethod
    def _write(log: int, call: Call, told: Event, result: Any) -> None:
        if call.name == "open":
            told["descriptor"] = result
            told["is_folder"] = stat.S_ISDIR(REAL["fstat"](result).st_mode)
        if call.name == "write":
            told["data"] = base64.b85encode(bytes(call.arguments[0])[:result]).decode()
        REAL["write"](log, json.dumps(told).encode() + b"\n")


@dataclass
class File:
    """A file on the disk: what is durable, and what was written since."""

    durable: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)  # None cuts it off at that offset

    def bytes(self, is_kept: Callable[[], bool]) -> bytes:
        """Return what it holds when each pending write is kept or lost."""
        data = bytearray(self.durable)
        for offset, written in self.pending:
            if not is_kept():
                continue
            if written is None:
                del data[offset:]
                data.extend(bytes(offset - len(data)))
            else:
                data.extend(bytes(max(0, offset - len(data))))
                data[offset : offset + len(written)] = written
        return bytes(data)

    def sync(self) -> None:
        """Make all of it durable."""
        self.durable, self.pending = self.bytes(lambda: True), []


@dataclass
class Change:
    """A name in a folder that now stands for something, or for nothing; the other half of a renaming is its twin."""

    name: str
    node: "File | Folder | None"
    twin: "tuple[Folder, Change] | None" = None


@dataclass
class Folder:
    """A folder on the disk: the names that are durable, and what was changed since."""

    durable: "dict[str, File | Folder]" = field(default_factory=dict)
    pending: list[Change] = field(default_factory=list)

    def names(self, is_kept: Callable[[Change], bool] = lambda change: True) -> "dict[str, File | Folder]":
        """Return what it holds when each pending change is kept or lost."""
        names = dict(self.durable)
        for change in self.pending:
            if is_kept(change):
                names.pop(change.name, None)
                if change.node is not None:
                    names[change.name] = change.node
        return names

    def sync(self) -> None:
        """Make all of it durable."""
        self.durable, self.pending = self.names(), []


class Disk:
    """A disk that was synced before the recording began.

    Parameters
    ----------
    folder : Path
        What is on it.
    """

    def __init__(self, folder: Path) -> None:
        self._root = Folder({name: _loaded(folder / name) for name in FOLDERS if (folder / name).exists()})
        self._open: dict[tuple[int, int], File | Folder] = {}

    def apply(self, event: Event) -> None:
        """Do what was recorded."""
        call, path = event["call"], event["path"]
        if call in ("write", "ftruncate", "fsync"):
            node = self._open[event["process"], event["descriptor"]]
            if call == "fsync":
                node.sync()
            elif isinstance(node, File):
                data = event["data"] if call == "write" else None
                node.pending.append((event["offset"] if call == "write" else event["size"], data))
        elif call == "open":
            self._apply_open(event)
        elif call == "mkdir":
            self._change(path, Folder())
        elif call in ("unlink", "remove", "rmdir"):
            self._change(path, None)
        elif call == "link":
            self._change(event["other"], self._node(path))
        elif self._node(path) is not self._find(event["other"]):  # two names of one file stay as they are
            here, there = self._change(event["other"], self._node(path)), self._change(path, None)
            here[1].twin, there[1].twin = there, here

    def _apply_open(self, event: Event) -> None:
        if event["is_new"]:
            self._change(event["path"], File())
        node = self._node(event["path"])
        if event["empties"] and isinstance(node, File):
            node.pending.append((0, None))
        self._open[event["process"], event["descriptor"]] = node

    def _folder_of(self, path: str) -> tuple[Folder, str]:
        folder: File | Folder = self._root
        *parents, name = path.split("/")
        for parent in parents:
            assert isinstance(folder, Folder)
            folder = folder.names()[parent]
        assert isinstance(folder, Folder)
        return folder, name

    def _find(self, path: str) -> "File | Folder | None":
        if path == ".":
            return self._root
        folder, name = self._folder_of(path)
        return folder.names().get(name)

    def _node(self, path: str) -> "File | Folder":
        node = self._find(path)
        assert node is not None, path
        return node

    def _change(self, path: str, node: "File | Folder | None") -> tuple[Folder, Change]:
        folder, name = self._folder_of(path)
        change = Change(name, node)
        folder.pending.append(change)
        return folder, change

    def lay_out(self, folder: Path, dice: random.Random, share: float) -> None:
        """Make the files that a disk may have when the power fails now.

        About `share` of what was not synced is kept.
        """
        renames_in_one_step = dice.random() < 0.5
        decided: dict[int, bool] = {}

        def is_kept(change: Change) -> bool:
            if id(change) not in decided:
                decided[id(change)] = dice.random() < share
                if change.twin is not None and renames_in_one_step:
                    other_folder, other = change.twin
                    # The other half may be durable already.
                    decided[id(change)] |= not any(pending is other for pending in other_folder.pending)
                    decided[id(other)] = decided[id(change)]
            return decided[id(change)]

        made: dict[int, Path] = {}

        def lay(node: File | Folder, path: Path) -> None:
            if isinstance(node, Folder):
                path.mkdir()
                for name, inside in node.names(is_kept).items():
                    lay(inside, path / name)
            elif id(node) in made:
                os.link(made[id(node)], path)
            else:
                path.write_bytes(node.bytes(lambda: dice.random() < share))
                made[id(node)] = path

        for name, node in self._root.names(is_kept).items():
            shutil.rmtree(folder / name, ignore_errors=True)
            lay(node, folder / name)
        for name in set(FOLDERS) - self._root.names(is_kept).keys():
            shutil.rmtree(folder / name, ignore_errors=True)


def _loaded(path: Path) -> "File | Folder":
    if path.is_dir():
        return Folder({inside.name: _loaded(inside) for inside in path.iterdir()})
    return File(path.read_bytes())


@dataclass
class History:
    """What runs did to files.

    Attributes
    ----------
    scene : Scene
        The operation.
    events : list of Event
        What they did.
    cache : dict
        Some of what was in the cache folder at the end, name to bytes.
    """

    scene: Scene
    events: list[Event]
    cache: dict[str, bytes]
    _disk: Disk | None = None
    _applied: int = 0

    def disk(self, before: Path, moment: int) -> Disk:
        """Return the disk after `moment` events; asked with later and later moments, it only does what is new."""
        if self._disk is None or self._applied > moment:
            self._disk, self._applied = Disk(before), 0
        for event in self.events[self._applied : moment]:
            self._disk.apply(event)
        self._applied = moment
        return self._disk


def undisturbed(scenery: Scenery, scene: Scene) -> History:
    """Record an operation that nothing disturbs."""
    return _recorded(scenery, scene, lambda stage, recorder: None)


def after_a_kill(scenery: Scenery, scene: Scene, change: int) -> History:
    """Record an operation that is killed before a change to files, and then run again."""

    def kill(stage: Stage, recorder: Recorder) -> None:
        assert stage.run(recorder.begin(change)).code in (0, KILLED)

    return _recorded(scenery, scene, kill)


def two_at_once(scenery: Scenery, scene: Scene) -> History:
    """Record two runs that do the same at the same time."""
    return _recorded(scenery, scene, lambda stage, recorder: stage.fork(recorder.begin()), wait_for_first=True)


def _recorded(
    scenery: Scenery, scene: Scene, before: Callable[[Stage, Recorder], Any], wait_for_first: bool = False
) -> History:
    with scenery.stage(scene) as stage:
        recorder = Recorder(stage)
        first = before(stage, recorder)
        outcome = stage.run(recorder.begin())
        if wait_for_first:
            assert first.ends().code == 0
        assert outcome.code == 0, outcome.output
        cache = stage.workshop.folder / "cache"
        kept = {file.name: file.read_bytes() for file in cache.glob("*.sqlite3")}
        return History(scene, recorder.events(), kept)


def fail_power(
    history: History,
    scenery: Scenery,
    moment: int,
    dice: random.Random,
    *,
    share: float | None = None,
    and_complete: bool = True,
) -> list[str]:
    """Let the power fail after `moment` events, and return what was not as it should be.

    Parameters
    ----------
    history : History
        What runs did until then, and later.
    scenery : Scenery
        Gives the folder.
    moment : int
        How many events there were.
    dice : Random
        Tells what is lost.
    share : float, optional
        How much of what was not synced is kept, about; by default as chance has it.
    and_complete : bool, optional
        Whether to run the same command then.
    """
    with scenery.stage(history.scene) as stage:
        disk = history.disk(scenery.before(history.scene), moment)
        disk.lay_out(stage.workshop.folder, dice, dice.choice(_SHARES) if share is None else share)
        is_over = moment == len(history.events)
        # Before the end, no audit has noted that it is finished.
        cache = {name: data for name, data in history.cache.items() if is_over or "audit" not in name}
        _lay_out_cache(stage.workshop.folder / "cache", cache, dice)
        found = stage.broken()
        if is_over:
            found += [f"although it was done, {sentence}" for sentence in stage.unfinished(is_tidy=False)]
        if and_complete:
            found += stage.completed()
    return [f"{history.scene.name}: {sentence}" for sentence in found]


def _lay_out_cache(cache: Path, files: dict[str, bytes], dice: random.Random) -> None:
    """Make a cache, which is never synced: it is gone, or what it will be at the end, or has holes."""
    if dice.random() < 0.5:
        return
    cache.mkdir(exist_ok=True)
    for name, data in files.items():
        hole = dice.choice([len(data), dice.randrange(len(data))])
        (cache / name).write_bytes(data[:hole] + bytes(len(data) - hole))


def histories(scenery: Scenery, scene: Scene, dice: random.Random) -> Iterator[History]:
    """Yield an undisturbed run, then, without end, runs after others that were killed, and two at once."""
    history = undisturbed(scenery, scene)
    yield history
    while True:
        yield after_a_kill(scenery, scene, dice.randrange(1, len(history.events) + 1))
        yield two_at_once(scenery, scene)


def main() -> int:
    """Let the power fail, tell what was found, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.attacks.power", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="how long to go on; default: 600")
    parser.add_argument("--seed", type=int, default=6, help="default: 6")
    parser.add_argument("--scene", choices=SCENES, action="append", help="only this operation; may be repeated")
    given = parser.parse_args()
    end, tried, completed, findings = time.monotonic() + given.seconds, Counter[str](), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        scenery = Scenery(Path(folder))
        dice = random.Random(given.seed)
        ways = {name: histories(scenery, SCENES[name], dice) for name in given.scene or SCENES}
        while time.monotonic() < end:
            for name, way in ways.items():
                history = next(way)
                for moment in range(len(history.events) + 1):
                    seed = dice.randrange(10**9)
                    and_complete = dice.random() < 0.1
                    found = fail_power(history, scenery, moment, random.Random(seed), and_complete=and_complete)
                    tried[name] += 1
                    completed += and_complete
                    findings += bool(found)
                    if found:
                        done = history.events[moment - 1] if moment else {}
                        where = {key: done.get(key) for key in ("call", "path", "other")}
                        print(f"after {where} ({moment} of {len(history.events)})", *found, sep="\n  ", flush=True)
                    if time.monotonic() > end:
                        break
    told = ", ".join(f"{count} of {name}" for name, count in sorted(tried.items()))
    print(f"{tried.total()} power failures ({told}), {completed} runs after one, {findings} with findings")
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main())
