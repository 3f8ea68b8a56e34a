"""Publish, fetch, mirror and audit through a network that fails, at every request in turn.

Each round lets one fault happen to one request, or to it and all later ones. The run ends complete or with one
sentence, in bounded time. Then the same command through a network that is well completes, nothing is on the site
twice, and nothing is lost.

``python -m tests.attacks.network`` tries every fault at every request of every task; that takes hours. With
``--seconds`` it tries as many as it can: each kind of fault at each request once before any twice, in an order that
``--seed`` chooses.
"""

import argparse
import contextlib
import copy
import itertools
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pipeline import ArchiveInterface, CDCSArchive, FileSystemArchive
from pipeline.archives.filesystem import create_archive
from pipeline.errors import BlobsFailedError, ReleaseRecordNotFoundError
from tests.attacks.bad_network import DENIED, FAULTS, LATE, BadNetwork, Fault
from tests.attacks.order import one_of_each_first, share_of_sorts
from tests.audits import audit
from tests.cdcs import IMPATIENT, Site, archive_of, make_archive, told_no_secret
from tests.cdcs_server import CDCSServer
from tests.forked import ForkedWorkshop
from tests.support import Outcome, assert_archive_is_sound, sha1, tree

VERSION = "0.1.0"
# Each leaves blobs on the site, and CDCS takes the longer to list them the more there are.
_ATTACKS_ON_A_SITE = 60
SomeAttack = TypeVar("SomeAttack")


class Place:
    """A site behind a bad network, and a folder for what is done with it."""

    def __init__(self, folder: Path, server: CDCSServer, network: BadNetwork) -> None:
        self.folder, self.server, self.network = folder, server, network
        self._numbers = itertools.count()
        self._alice = archive_of(server)
        self.attempts: Counter[str] = Counter()
        self._requests: dict[str, int] = {}

    def alice(self) -> CDCSArchive:
        """Return the site as another process would see it that is logged in already."""
        archive = copy.copy(self._alice)
        archive._shelves = {}
        return archive

    def round(self, action: "Action") -> "Round":
        """Return a new round: files, titles and a workspace that no other has."""
        return Round(self, action, next(self._numbers))

    def requests(self, action: "Action") -> int:
        """Return how many requests a task takes where nothing goes wrong."""
        if action.name not in self._requests:
            with contextlib.closing(self.round(action)) as quiet:
                self.network.meet(None)
                outcome = quiet.run(IMPATIENT)
                assert outcome.code == 0, outcome.output
                self._requests[action.name] = self.network.count
                assert not quiet.wrong(), quiet.wrong()
        return self._requests[action.name]


@contextlib.contextmanager
def a_place(folder: Path) -> Iterator[Place]:
    """Start a site behind a network."""
    with BadNetwork() as network, CDCSServer(folder / "cdcs", public_url=network.url) as server:
        network.upstream = server.local_url
        make_archive(server)
        yield Place(folder, server, network)


def each_at_a_place(attacks: Sequence[SomeAttack]) -> Iterator[tuple[Place, SomeAttack]]:
    """Yield attacks, each with a place for it: now and then a new one."""
    for start in range(0, len(attacks), _ATTACKS_ON_A_SITE):
        with tempfile.TemporaryDirectory() as folder, a_place(Path(folder)) as place:
            for attack in attacks[start : start + _ATTACKS_ON_A_SITE]:
                yield place, attack


class Round(Site):
    """One task, before, while and after the network fails."""

    def __init__(self, place: Place, action: "Action", number: int) -> None:
        folder = place.folder / f"round-{number}"
        folder.mkdir()
        super().__init__(ForkedWorkshop(folder), place.server, f"round-{number}")
        config = folder / "luigi.cfg"
        # One after the other, so that a number means the same request each time.
        config.write_text(config.read_text().replace("[pipeline]", "[pipeline]\nthreads = 1"))
        self.place, self.action, self.alice = place, action, place.alice()
        self.titles = (self.title, f"{self.title}-other")[: action.releases]
        dice = random.Random(self.title)
        self.content = {f"{name}.csv": dice.randbytes(400 + dice.randrange(400)) for name in "ab"}
        self.content["big.bin"] = dice.randbytes(70_000)
        self.digests = {sha1(data): path for path, data in self.content.items()}
        self.workspace = f"workspace {number}"
        path = "/rest/workspace/"
        self.alice.curator.call("POST", path, {"title": self.workspace}, doing="to make it", expect=201)
        create_archive(folder / "mirror")
        self.mirror = FileSystemArchive(folder / "mirror")
        self.workshop.project(files=self.content)
        for prepare in action.prepare:
            prepare(self)

    def close(self) -> None:
        """Forget it."""
        super().close()
        shutil.rmtree(self.workshop.folder)

    # --- what is there before -------------------------------------------------------------------------------------

    def put(self, archive: ArchiveInterface, title: str = "", *requirements: str) -> None:
        """Publish the files without a process of their own, under the title of this round or another one."""
        title = title or self.title
        project = {path: {"/path/": path, "/item/": "File"} for path in self.content}
        name, folder = f"{title}-v{VERSION}", self.workshop.folder / "project"
        archive.upload_blobs_and_update_mapping(name, title, self.workspace, project, folder, 4, 2**20)
        record = {"title": name, "title_versionless": title, "version": VERSION, "project": project}
        archive.upload_release_record({**record, "requirements": list(requirements)}, self.workspace)

    def put_on_site(self) -> None:
        """Publish on the site."""
        self.put(self.alice)

    def put_what_requires_it_on_site(self) -> None:
        """Publish another release on the site, which requires the one of this round."""
        self.put(self.alice, *reversed(self.titles))

    def put_in_folder(self) -> None:
        """Publish in the folder."""
        self.put(self.mirror)

    def publish_with_the_task(self) -> None:
        """Publish on the site as the task does."""
        outcome = self.run()
        assert outcome.code == 0, outcome.output

    def damage_site(self) -> None:
        """Flip bits of one blob on the site, and delete another."""
        (file,) = (self.server.folder / "media" / "blob").rglob(f"{sha1(self.content['a.csv'])}*")
        _flip(file)
        (blob,) = self.alice.curator.find_own_blobs([sha1(self.content["big.bin"])])
        self.alice.curator.delete_blob(blob.id)

    def damage_folder(self) -> None:
        """Flip bits of one blob in the folder, and delete another."""
        for path, do in (("a.csv", _flip), ("big.bin", Path.unlink)):
            (file,) = (self.workshop.folder / "mirror").glob(f"*/*/blobs/??/{sha1(self.content[path])}")
            do(file)

    # --- what is done ---------------------------------------------------------------------------------------------

    def run(self, trouble: str | Callable[[], object] = "") -> Outcome:
        """Carry out the task."""
        options = {"workspace": self.workspace, **self.action.options(self)}
        return told_no_secret(self.workshop.run_with(trouble, self.action.task, **options))

    def folders(self) -> list[Path]:
        """Return the folders that the task reads and writes."""
        return [self.workshop.folder / name for name in ("project", "fetched", "mirror", "cache")]

    # --- what is there afterwards ---------------------------------------------------------------------------------

    def wrong(self, may_be_twice: bool = False) -> list[str]:
        """Return what is wrong when the task was completed."""
        wrong = [] if may_be_twice else self._twice()
        for archive in self._archives():
            for title in self.titles:
                if not self._is_whole(archive, title):
                    wrong.append(f"what was fetched from {archive.host} is not what was published as {title}")
                found = audit(archive, title=title, workspace=self.workspace)
                wrong += map(str, found.failures)
        if self.action.task == "FetchRelease":
            for title in self.titles:
                if self.fetched(VERSION, title) != self.content:
                    wrong.append(f"what the task fetched is not what was published as {title}")
        assert_archive_is_sound(self.workshop.folder / "mirror")
        return wrong

    def half_done(self) -> list[str]:
        """Return what is wrong when the task was not completed: a record without its blobs, a file of other bytes."""
        wrong = []
        for title, archive in itertools.product(self.titles, self._archives()):
            with contextlib.suppress(ReleaseRecordNotFoundError):
                if self.action.task != "AuditArchive" and not self._is_whole(archive, title):
                    wrong.append(f"the record of {title} can be seen in {archive.host}, and not all of its blobs")
        for title in self.titles:
            fetched = {path: data for path, data in self.fetched(VERSION, title).items() if ".part" not in path}
            if not fetched.items() <= self.content.items():
                wrong.append(f"a fetched file of {title} has other bytes")
        assert_archive_is_sound(self.workshop.folder / "mirror") if not self.action.damages_folder else None
        return wrong

    def wrong_after(self, attacked: Outcome, *, may_be_twice: bool = False, may_look_again: bool = False) -> list[str]:
        """Run the task again, undisturbed, and return what was wrong before and is wrong then.

        Parameters
        ----------
        attacked : Outcome
            How the disturbed run ended.
        may_be_twice : bool, optional
            Whether the site may hold something twice.
        may_look_again : bool, optional
            Whether there may be something to do although the disturbed run was complete.
        """
        wrong = self.half_done() if attacked.code != 0 else []
        again = self.run()
        if again.code != 0:
            return [*wrong, f"the same command did not complete afterwards: {again}"]
        if attacked.code == 0 and not may_look_again and "Nothing to do" not in again.output:
            wrong.append(f"there was something left to do: {attacked.output}\n{again.output}")
        return wrong + self.wrong(may_be_twice)

    def _archives(self) -> Iterator[ArchiveInterface]:
        if self.action.has_site:
            yield self.place.alice()
        if self.action.has_folder:
            yield FileSystemArchive(self.workshop.folder / "mirror")

    def _is_whole(self, archive: ArchiveInterface, title: str) -> bool:
        (record,) = archive.get_release_records(title, None, self.workspace).values()
        target = self.workshop.folder / "whole"
        shutil.rmtree(target, ignore_errors=True)
        with contextlib.suppress(BlobsFailedError):
            archive.download_release(record, self.workspace, 4, target, 2**20, progress_bar=False)
        return {path: data for path, data in tree(target).items() if not path.startswith(".rme")} == self.content

    def _twice(self) -> list[str]:
        """Return what the site has more or less often than it should, by asking it for everything there is."""
        if not self.action.has_site:
            return []
        curator = self.place.alice().curator
        workspace = curator.workspace_id(self.workspace)
        found: Counter[str] = Counter()
        for template in ("Release", "BlobMetadata"):
            for data in curator.query(curator.template_ids(template), {}, workspace):
                found[f"description of {self.digests[data.title]}" if data.title in self.digests else template] += 1
        for blob in curator.list_own_blobs():
            for digest, path in self.digests.items():
                if digest in blob.filename:
                    is_aside = blob.filename.startswith("damaged-")
                    kind = "aside" if is_aside else "private" if blob.workspace is None else "blob"
                    found[f"{kind} {path}"] += 1
        kinds = ("blob", "description of")
        expected = Counter(
            {"Release": self.action.releases} | {f"{kind} {path}": 1 for path in self.content for kind in kinds}
        )
        if self.action.damages_site:
            # CDCS keeps what described a blob that was deleted.
            expected.update({"aside a.csv": 1, "description of a.csv": 1, "description of big.bin": 1})
        return [
            f"{what}: {found[what]} instead of {expected[what]}"
            for what in {**found, **expected}
            if found[what] != expected[what]
        ]


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 16
    file.chmod(0o644)
    file.write_bytes(data)


class Action(NamedTuple):
    """A task of the user, what is there before, and about how many requests it takes."""

    name: str
    task: str
    requests: int
    options: Callable[[Round], dict[str, Any]]
    prepare: tuple[Callable[[Round], None], ...] = ()
    has_site: bool = True
    has_folder: bool = False
    damages_site: bool = False
    damages_folder: bool = False
    releases: int = 1


def _publish(site: Round) -> dict[str, Any]:
    return {**site.options(), "project_directory": "project", "release_version": VERSION}


def _fetch(site: Round) -> dict[str, Any]:
    return {**site.options(), "destination": "fetched"}


def _fetch_all(site: Round) -> dict[str, Any]:
    return {**_fetch(site), "title": site.titles[-1], "with_requirements": True}


def _mirror_all(site: Round) -> dict[str, Any]:
    return {"source": site.server.base_url, "destination": "mirror", "titles": ",".join(site.titles)}


def _mirror(to_site: bool) -> Callable[[Round], dict[str, Any]]:
    def options(site: Round) -> dict[str, Any]:
        source, destination = ("mirror", site.server.base_url)[:: 1 if to_site else -1]
        return {"title": site.title, "source": source, "destination": destination}

    return options


def _audit(of_site: bool) -> Callable[[Round], dict[str, Any]]:
    def options(site: Round) -> dict[str, Any]:
        archive, repair_from = (site.server.base_url, "mirror")[:: 1 if of_site else -1]
        return {"archive": archive, "repair_from": repair_from, "date": "2026-11-23"}

    return options


_ON_SITE, _IN_FOLDER, _BOTH = (
    (Round.put_on_site,),
    (Round.put_in_folder,),
    (Round.put_on_site, Round.put_in_folder),
)
_TWO_ON_SITE = (Round.put_on_site, Round.put_what_requires_it_on_site)
ACTIONS = (
    Action("publish", "PublishRelease", 26, _publish),
    Action("publish again", "PublishRelease", 8, _publish, (Round.publish_with_the_task,)),
    Action("fetch", "FetchRelease", 9, _fetch, _ON_SITE),
    Action("mirror to a site", "MirrorRelease", 27, _mirror(True), _IN_FOLDER, has_folder=True),
    Action("mirror from a site", "MirrorRelease", 9, _mirror(False), _ON_SITE, has_folder=True),
    Action("fetch what is required", "FetchRelease", 18, _fetch_all, _TWO_ON_SITE, releases=2),
    Action("mirror all", "MirrorArchive", 15, _mirror_all, _TWO_ON_SITE, has_folder=True, releases=2),
    Action(
        "repair a site",
        "AuditArchive",
        45,
        _audit(True),
        (*_BOTH, Round.damage_site),
        has_folder=True,
        damages_site=True,
    ),
    Action(
        "repair a folder",
        "AuditArchive",
        7,
        _audit(False),
        (*_BOTH, Round.damage_folder),
        has_folder=True,
        damages_folder=True,
    ),
)


class Attack(NamedTuple):
    """A fault that happens to a task, at a request of a number."""

    action: Action
    fault: Fault
    number: int
    lasting: bool = False

    def __str__(self) -> str:
        """Return it as a sentence."""
        since = "and all later ones of" if self.lasting else "of"
        return f"request {self.number} {since} '{self.action.name}' {self.fault.name}"


def carry_out(place: Place, attack: Attack) -> list[str]:
    """Carry out an attack, and return what was wrong with what the user got."""
    with contextlib.closing(place.round(attack.action)) as site:
        place.network.meet(attack.fault, attack.number, attack.lasting)
        attacked = site.run(IMPATIENT)
        struck = place.network.struck
        place.network.meet(None)
        place.attempts["struck" if struck else "came too late"] += 1
        place.attempts["complete" if attacked.code == 0 else "told"] += 1
        wrong = [f"it ended in a way that is not documented: {attacked}"] if not _is_an_end(attacked) else []
        is_denied = attack.fault.name == DENIED and attack.lasting
        wrong += site.wrong_after(attacked, may_be_twice=is_denied or attack.fault.name == LATE)
        return [f"{attack} ({struck}): {what}" for what in wrong]


def _is_an_end(outcome: Outcome) -> bool:
    """Tell whether a run is complete, or says in sentences what failed."""
    lines = outcome.output.splitlines()
    if "Traceback" in outcome.output or any(line.startswith('  File "') for line in lines):
        return False
    return outcome.code == 0 or (outcome.code == 30 and any(line.startswith("ERROR: ") for line in lines))


def all_attacks(place: Place) -> list[Attack]:
    """Return every fault at every request of every task."""
    return [
        Attack(action, fault, number, lasting)
        for action in ACTIONS
        for number in range(1, place.requests(action) + 1)
        for fault in FAULTS
        for lasting in ([False, True] if fault.may_last else [False])
    ]


def sample(dice: random.Random) -> list[Attack]:
    """Return every kind of fault once, each at some request of some task, and every task at least twice."""
    by_kind: dict[str, list[Fault]] = {}
    for fault in FAULTS:
        by_kind.setdefault(fault.kind, []).append(fault)
    actions = itertools.cycle(dice.sample(ACTIONS, len(ACTIONS)))
    attacks = []
    for faults, action in zip(by_kind.values(), actions, strict=False):
        fault = dice.choice(faults)
        attacks.append(Attack(action, fault, dice.randint(1, action.requests), fault.may_last and dice.random() < 0.25))
    return attacks


def _pair(attack: Attack) -> tuple[str, int, str]:
    return attack.action.name, attack.number, attack.fault.kind


def main() -> int:
    """Attack for as long as is asked for, and print figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.attacks.network", description=__doc__)
    parser.add_argument("--seconds", type=float, help="how long; by default until everything was tried")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--only", default="", help="only attacks whose sentence holds this text")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, a_place(Path(folder)) as place:
        attacks = [attack for attack in all_attacks(place) if asked.only in str(attack)]
    random.Random(asked.seed).shuffle(attacks)
    attacks = one_of_each_first(attacks, _pair)
    end = time.monotonic() + (asked.seconds or float("inf"))
    tried, findings, figures = 0, 0, dict[Place, Counter[str]]()
    for place, attack in each_at_a_place(attacks):
        if time.monotonic() > end:
            break
        tried, figures[place] = tried + 1, place.attempts
        for finding in carry_out(place, attack):
            findings += 1
            print(f"FINDING {finding}", flush=True)
    ends = dict(sum(figures.values(), Counter()))
    pairs = share_of_sorts(attacks, tried, _pair)
    print(f"seed {asked.seed}: {tried} of {len(attacks)} attacks, {findings} findings; {ends}")
    print(f"Of requests and kinds of faults {pairs} pairs were tried.")
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
