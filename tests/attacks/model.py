"""Random sequences of everything that is done with archives, each step compared with a model: a few dictionaries.

What a step must say and leave is known beforehand from what was published and what was damaged. After each step all
archives are read by an independent reader. The long form tries more sequences::

    python -m tests.attacks.model --rounds 100 --seed 7
"""

import argparse
import itertools
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from tests.attacks.known import TITLES, TREES, VERSIONS
from tests.attacks.machine import ArchiveMachine
from tests.attacks.places import Folder, OnSite, Place
from tests.cdcs import serve
from tests.cdcs_server import USERS, CDCSServer
from tests.support import Outcome, tree


class Machine(ArchiveMachine):
    """The same, and two runs at once."""

    def together(self, *runs: tuple[str, dict[str, Any]]) -> list[Outcome]:
        """Run tasks at the same time."""
        begun = [self.workshop.begin("", task, **options) for task, options in runs]
        outcomes = [run.ends() for run in begun]
        self.tried["two at once"] += 1
        assert not any("Traceback" in outcome.output for outcome in outcomes), outcomes
        return outcomes

    def _publishing(self, title: str, version: str, name: str = "project") -> tuple[str, dict[str, Any]]:
        directory = self.workshop.folder / name
        options = {"title": title, "release_version": version, "project_directory": directory}
        return "PublishRelease", self.options(self.archive, **options)

    @precondition(lambda self: self.mirror.is_intact)
    @rule(
        what=st.sampled_from(
            ("FetchRelease", "MirrorArchive", "AuditArchive", "two publish", "two mirror", "two repair")
        ),
        title=st.sampled_from(sorted(TITLES)),
        versions=st.tuples(*[st.sampled_from(VERSIONS)] * 2),
        trees=st.tuples(TREES, TREES),
        same=st.booleans(),
    )
    def two_at_once(self, what: str, title: str, versions: tuple[str, str], trees: Any, same: bool) -> None:
        """Do two things at once."""
        if what in ("two mirror", "two repair"):
            self.mirror_or_repair_twice("MirrorArchive" if what == "two mirror" else "AuditArchive")
        elif not self.archive.is_intact:
            return
        elif what == "two publish":
            self.two_publish(title, versions, trees, same)
        else:
            self.publish_while_somebody_reads(title, versions[0], trees[0], what)

    def two_publish(self, title: str, versions: tuple[str, str], trees: Any, same: bool) -> None:
        """Publish twice at once: of the same version with different content exactly one is published."""
        names, title_there = ("project", "other"), TITLES[title]
        projects = [self.project(title_there, files, name) for files, name in zip(trees, names, strict=True)]
        keys = [(title_there, version) for version in (versions[:1] * 2 if same else versions)]
        there = [self.archive.releases.get(key) for key in keys]
        self.begun = dict(zip(keys, projects, strict=True))
        outcomes = self.together(
            *(self._publishing(title, key[1], name) for key, name in zip(keys, names, strict=True))
        )
        codes = [outcome.code for outcome in outcomes]
        if keys[0] == keys[1] and there[0] is None and projects[0] != projects[1]:
            assert sorted(codes) == [0, 30], outcomes
        else:
            assert codes == [0 if old in (None, new) else 30 for old, new in zip(there, projects, strict=True)], (
                outcomes
            )
        for key, files, outcome in zip(keys, projects, outcomes, strict=True):
            if outcome.code == 0:
                self.archive.releases[key] = files
            else:
                assert re.search("never changes|by another run just now", outcome.output), outcome.output
            self.begun = {key: files}
            self.reread()

    def publish_while_somebody_reads(self, title: str, version: str, files: dict[str, bytes], reader: str) -> None:
        """Publish while the archive is fetched from, mirrored or audited: the reader sees all of a release or none."""
        key = TITLES[title], version
        project = self.project(key[0], files)
        before = self.archive.releases.get(key)
        self.night += timedelta(days=1)
        destination = self.workshop.folder / "read"
        shutil.rmtree(destination, ignore_errors=True)
        options = self.options(self.archive)
        if reader == "FetchRelease":
            options |= {"title": title, "destination": destination}
        else:
            options["date"] = self.night
        if reader == "MirrorArchive":
            options |= {"source": options.pop("archive"), "destination": self.mirror.place.location}
        published, read = self.together(self._publishing(title, version), (reader, options))
        assert published.code == (0 if before in (None, project) else 30), published
        if published.code == 0:
            self.archive.releases[key] = project
        there = [key for key in self.archive.releases if key[0] == TITLES[title]]
        assert read.code == 0 or (reader == "FetchRelease" and len(there) < 2 and "There is no release" in read.output)
        for name in destination.glob("*"):
            got = {path: data for path, data in tree(name).items() if not path.startswith(".rme")}
            assert got == self.archive.releases[TITLES[title], name.name.removeprefix(f"{TITLES[title]}-v")]
        for copied in self.mirror.told().keys() - self.mirror.releases.keys():
            self.mirror.releases[copied] = self.archive.releases[copied]
        self.reread()

    def mirror_or_repair_twice(self, task: str) -> None:
        """Mirror twice at once, or repair twice at once: both end well, whoever of them did it."""
        if task == "MirrorArchive" and not self.archive.is_intact:
            return
        self.night += timedelta(days=1)
        place, mirror = self.archive.place, self.mirror.place
        options: dict[str, Any] = {"date": self.night, "workspace": place.workspace}
        if task == "MirrorArchive":
            options |= {"source": place.location, "destination": mirror.location}
            assert all(self._copies(self.archive, self.mirror, key, self.archive.releases[key])
                       for key in self.archive.releases.keys() - self.mirror.releases.keys())  # fmt: skip
        else:
            options |= {"archive": place.location, "repair_from": mirror.location}
        outcomes = self.together((task, options), (task, options))
        self.archive.records.clear()
        self.reread()
        left = self.archive.damage.keys() & self.archive.blobs().keys()
        assert not any(self._can_heal(self.mirror, blob) for blob in left), outcomes
        assert [outcome.code for outcome in outcomes] == [30 if left else 0] * 2, outcomes


class SiteMachine(Machine):
    """The same with an archive on a CDCS site, and a folder that is its mirror."""

    server: ClassVar[CDCSServer]
    numbers: ClassVar[Iterable[int]] = itertools.count()

    def open_places(self, workspace: str) -> tuple[Place, Place]:
        number = next(self.numbers)  # type: ignore[call-overload]  # hypothesis types what rules draw as objects
        workspace = f"{number} {workspace}"[:150]
        # What the server keeps of one sequence is not taken for that of another one.
        self.salt = f" {number}".encode()
        self.workshop.environment |= {"PIPELINE_USER": "alice", "PIPELINE_PASSWORD": USERS["alice"].password}
        return OnSite(self.server, workspace), Folder(self.folder / "mirror", workspace)


def attack(machine: type[Machine], rounds: int, number: int | None = None, steps: int = 15) -> None:
    """Try so many sequences; with a number the same ones as last time, and a failure is made as short as it can be."""
    phases = (Phase.generate,) if number is None else (Phase.generate, Phase.shrink)
    if number is not None:
        seed(number)(machine)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=rounds,
            stateful_step_count=steps,
            derandomize=number is None,
            database=None,
            deadline=None,
            phases=phases,
            suppress_health_check=list(HealthCheck),
        ),
    )


@contextmanager
def site_machine(folder: Path) -> Iterator[type[SiteMachine]]:
    """Yield the machine of a new site."""
    for server in serve(folder):
        SiteMachine.server = server
        yield SiteMachine


def main() -> None:
    """Try sequences on folders and on a site."""
    parser = argparse.ArgumentParser(prog="python -m tests.attacks.model", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100, help="sequences on folders; a site gets a third")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    given = parser.parse_args()
    print(f"--seed {given.seed}", flush=True)
    try:
        attack(Machine, given.rounds, given.seed, 25)
        with tempfile.TemporaryDirectory() as folder, site_machine(Path(folder) / "site") as machine:
            attack(machine, given.rounds // 3, given.seed, 25)
    finally:
        print(", ".join(f"{count} {what}" for what, count in sorted(Machine.tried.items())))
        findings = int(sys.exc_info()[0] is not None)
        print(f"{findings} findings; repeat with --rounds {given.rounds} --seed {given.seed}")


if __name__ == "__main__":
    main()
