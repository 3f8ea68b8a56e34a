"""Many runs at once: publishers, readers, and processes that die or stop while they hold a lock.

The long form tries more of it, with other numbers in each round::

    python -m tests.attacks.concurrency --rounds 30 --seed 7
"""

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from pipeline.durable import Staging
from pipeline.locks import locks_for
from tests.attacks.places import Folder, Key, OnSite, Place, Tree, digests, outline
from tests.cdcs import serve
from tests.cdcs_server import USERS, CDCSServer
from tests.forked import ForkedRun, ForkedWorkshop
from tests.support import Outcome, sha1, tree

WORKSPACE = "Global Public Workspace"
PATIENCE = 60.0


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition to come true."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.01)  # between two looks


class Arena:
    """An archive that many runs use at once.

    Parameters
    ----------
    folder : Path
        Gets everything.
    server : CDCSServer, optional
        The site of the archive; without it the archive is a folder.
    """

    def __init__(self, folder: Path, server: CDCSServer | None = None) -> None:
        (folder / "workshop").mkdir(parents=True)
        self.folder = folder
        self.workshop = ForkedWorkshop(folder / "workshop")
        self.place: Place
        if server is None:
            self.place = Folder(folder / "archive", WORKSPACE)
        else:
            self.place = OnSite(server, f"workspace of {sha1(os.fsencode(folder))}")
            self.workshop.environment |= {"PIPELINE_USER": "alice", "PIPELINE_PASSWORD": USERS["alice"].password}
        self.releases: dict[Key, Tree] = {}
        self._runs: list[ForkedRun] = []

    def close(self) -> None:
        """End the runs that a failed test leaves."""
        for run in self._runs:
            run.close()

    def begin(self, trouble: str, task: str, **options: object) -> ForkedRun:
        """Begin a task."""
        self._runs.append(self.workshop.begin(trouble, task, workspace=self.place.workspace, **options))
        return self._runs[-1]

    def project(self, name: str, files: dict[str, bytes]) -> Tree:
        """Make a project, and return what it holds."""
        # What a server keeps of one arena is not taken for that of another one.
        salt = os.fsencode(self.folder) if isinstance(self.place, OnSite) else b""
        return tree(self.workshop.project(name, {path: data + salt for path, data in files.items()}))

    def publish(self, name: str, version: str, trouble: str = "", title: str = "sample") -> ForkedRun:
        """Begin to publish a project."""
        return self.begin(
            trouble,
            "PublishRelease",
            archive=self.place.location,
            project_directory=name,
            title=title,
            release_version=version,
        )

    def fetch(self, name: str, versions: str = "", trouble: str = "") -> ForkedRun:
        """Begin to fetch a release."""
        return self.begin(
            trouble,
            "FetchRelease",
            archive=self.place.location,
            title="sample",
            versions=versions,
            destination=name,
        )

    def mirror(self, destination: Folder) -> ForkedRun:
        """Begin to copy everything to a folder."""
        options = {"source": self.place.location, "destination": destination.location}
        return self.begin("", "MirrorArchive", **options)

    def look(self, place: Place | None = None) -> int:
        """Check, as somebody who reads now, that all blobs of each record are there, and return how many there are."""
        place = place or self.place
        found = place.records()
        for (title, version), told in found.items():
            assert told == outline(self.releases[title, version])
            for digest, data in digests(self.releases[title, version]).items():
                assert place.blob(title, digest) == data, f"{version} is there without one of its blobs"
        return len(found)


def ends(*runs: ForkedRun) -> list[Outcome]:
    """Wait for runs, and return how they ended; never with a traceback."""
    outcomes = [run.ends() for run in runs]
    for outcome in outcomes:
        assert "Traceback" not in outcome.output, outcome.output
    return outcomes


def publish_many_versions(arena: Arena, publishers: int, dice: random.Random) -> int:
    """Publish many versions at once, which share blobs, while others look, fetch and mirror; return how many looked."""
    shared = {f"shared/{n}.csv": dice.randbytes(dice.randrange(1, 3000)) for n in range(6)}
    runs, looks = [], 0
    for number in range(publishers):
        own = {f"own {n}.csv": dice.randbytes(200) for n in range(4)}
        some = dict(dice.sample(sorted(shared.items()), 4))
        arena.releases["sample", f"0.{number}.0"] = arena.project(f"project {number}", some | own)
    for number in range(publishers):
        runs.append(arena.publish(f"project {number}", f"0.{number}.0"))
    mirror = Folder(arena.folder / "mirror", arena.place.workspace)
    readers = [arena.fetch("fetched"), arena.mirror(mirror)]
    while not all(_is_over(run.pid) for run in runs):
        arena.look()
        arena.look(mirror)
        looks += 1
    outcomes = ends(*runs)
    assert {outcome.code for outcome in outcomes} == {0}, [o.output for o in outcomes if o.code]
    fetched, mirrored = ends(*readers)
    assert fetched.code == 0 or "There is no release" in fetched.output, fetched.output
    assert mirrored.code == 0, mirrored.output
    for folder in (arena.workshop.folder / "fetched").glob("*"):
        got = {path: data for path, data in tree(folder).items() if not path.startswith(".rme")}
        assert got == arena.releases["sample", folder.name.removeprefix("sample-v")]
    assert arena.look() == publishers
    (again,) = ends(arena.mirror(mirror))
    assert again.code == 0, again.output
    assert arena.look(mirror) == publishers
    if isinstance(arena.place, Folder):
        assert not list(arena.place.folder.rglob(".partial"))
    return looks


def _is_over(pid: int) -> bool:
    """Tell whether a process has ended, and leave it to be waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def publish_one_version(arena: Arena, publishers: int, dice: random.Random) -> None:
    """Publish different content as one version many times at once: exactly one wins, and all others say so."""
    shared = {"shared.csv": dice.randbytes(500)}
    projects = [arena.project(f"project {n}", {**shared, "own.csv": dice.randbytes(300)}) for n in range(publishers)]
    outcomes = ends(*(arena.publish(f"project {n}", "1.0.0") for n in range(publishers)))
    codes = [outcome.code for outcome in outcomes]
    assert sorted(codes) == [0, *[30] * (publishers - 1)], outcomes
    for outcome in outcomes:
        assert outcome.code == 0 or "never changes" in outcome.output or "by another run just now" in outcome.output, (
            outcome.output
        )
    winner = codes.index(0)
    arena.releases = {("sample", "1.0.0"): projects[winner]}
    assert arena.look() == 1
    again = ends(*(arena.publish(f"project {n}", "1.0.0") for n in range(publishers)))
    assert [outcome.code for outcome in again] == codes
    assert again[winner].output.startswith("Nothing to do")


def fight_for_a_lock(folder: Path, processes: int, rounds: int, dice: random.Random) -> int:
    """Let processes take one lock again and again, and kill some; return how many were killed.

    No two that live are ever inside at once, nobody takes away what is being written, and the dead block nobody.
    """
    fighters = [_fork(_Fighter(folder, rounds, dice.randrange(2**32))) for _ in range(processes)]
    kills = 0
    while not all(map(_is_over, fighters)):
        time.sleep(dice.random() * 0.05)  # so that the moments differ
        if kills < processes // 2:
            with contextlib.suppress(ProcessLookupError):
                os.kill(dice.choice(fighters), signal.SIGKILL)
                kills += 1
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in fighters]
    assert set(codes) <= {0, -signal.SIGKILL}, codes
    return codes.count(-signal.SIGKILL)


class _Fighter:
    def __init__(self, folder: Path, rounds: int, number: int) -> None:
        self.staging, self.inside = Staging(folder / ".partial"), folder / "inside"
        self.rounds, self.dice = rounds, random.Random(number)

    def __call__(self) -> int:
        """Return what is wrong: 0 for nothing, 2 when two were inside, 3 when a part was taken away."""
        key, me = sha1(b"what all want"), str(os.getpid())
        for _ in range(self.rounds):
            if self.dice.random() < 0.5:
                self.staging.clear()
            self.staging.make()
            locks = locks_for(self.staging.folder)
            locks.wait(key, "what all want", lambda: None)
            if self.inside.exists() and _lives(self.inside.read_text()):
                return 2
            part = Path(self.staging.part(key))
            for file in (self.inside, part):
                file.write_text(me)
            for _ in range(self.dice.randrange(20)):
                if not part.exists() or part.read_text() != me:
                    return 3
                time.sleep(0.0002)  # the lock is held so long, that others come
            self.inside.unlink()
            part.unlink()
            locks.release([key])
            if self.dice.random() < 0.5:
                self.staging.clear()
        return 0


def _lives(pid: str) -> bool:
    """Tell whether a process lives; one that was killed and not waited for does not."""
    with contextlib.suppress(OSError):
        return bool(pid) and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def _fork(function: Callable[[], int]) -> int:
    """Run a function in a process of its own, and return its id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads, which all wait
        child = os.fork()
    if not child:
        code = 120
        try:
            signal.alarm(120)
            code = function()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def main() -> None:
    """Try it all in rounds, on folders and on a site."""
    parser = argparse.ArgumentParser(prog="python -m tests.attacks.concurrency", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    given = parser.parse_args()
    tried: Counter[str] = Counter()
    number = given.seed
    try:
        with tempfile.TemporaryDirectory() as name, contextlib.contextmanager(serve)(Path(name) / "site") as server:
            for number in range(given.seed, given.seed + given.rounds):
                dice = random.Random(number)
                for kind, site in (("folder", None), ("site", server)):
                    place = Path(name) / f"{number} {kind}"
                    tried["publishers"] += (publishers := dice.randrange(2, 9))
                    tried["looks at an archive in use"] += publish_many_versions(
                        Arena(place / "many", site), publishers, dice
                    )
                    publish_one_version(Arena(place / "one", site), publishers, dice)
                    tried["publishers of one version"] += publishers
                fights = Path(name) / f"{number} fight"
                fights.mkdir()
                tried["killed owners of a lock"] += fight_for_a_lock(fights, 8, 300, dice)
                tried["fights for a lock"] += 8 * 300
                tried["rounds"] += 1
    finally:
        print(", ".join(f"{count} {what}" for what, count in sorted(tried.items())))
        findings = int(sys.exc_info()[0] is not None)
        print(f"{findings} findings; repeat the last round with --rounds 1 --seed {number}")


if __name__ == "__main__":
    main()
