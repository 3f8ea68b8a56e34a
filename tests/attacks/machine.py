"""Everything that one run at a time does with an archive and its mirror, as rules of a state machine."""

import re
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.errors import printable
from tests.attacks.known import EXPRESSIONS, TITLES, TREES, VERSIONS, Known, precedence, satisfies
from tests.attacks.places import Folder, Key, Place, Tree, digests
from tests.cdcs_server import USERS
from tests.forked import ForkedWorkshop
from tests.support import Outcome, sha1, tree

FIRST = {
    "a.csv": b"one,two\n" * 40,
    "data/b.h5": bytes(range(256)) * 9,
    "data/twin.csv": b"one,two\n" * 40,
    "empty": b"",
}

# When a run is killed; of many not at all.
MOMENTS: st.SearchStrategy[int | None] = st.sampled_from((*[None] * 15, *range(0, 90, 3), 120, 150))

# Ends the process at the call of that number of what changes a folder, or of what a site is asked.
KILL = """
import itertools, os, requests, signal
calls = itertools.count()
def mortal(function):
    def dying(*args, **kwargs):
        moment = next(calls)
        if moment == {moment}:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if moment == {moment} - 1 and function is request:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return dying
request = requests.Session.request
for name in ("link", "replace", "rename", "unlink", "fsync", "mkdir", "open", "write", "rmdir"):
    setattr(os, name, mortal(getattr(os, name)))
requests.Session.request = mortal(request)
"""


class ArchiveMachine(RuleBasedStateMachine):
    """An archive and its mirror, and everything that one run at a time does with them."""

    tried: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="model-"))
        (self.folder / "workshop").mkdir()
        self.workshop = ForkedWorkshop(self.folder / "workshop")
        self.night = date(2026, 1, 1)
        self.salt = b""
        self.begun: dict[Key, Tree] = {}
        self.tried["sequences"] += 1

    def open_places(self, workspace: str) -> tuple[Place, Place]:
        """Return the archive and its mirror."""
        return tuple(Folder(self.folder / name, workspace) for name in ("archive", "mirror"))  # type: ignore[return-value]  # two

    @initialize(workspace=st.sampled_from(("Global Public Workspace", "Größen & <Maße> 量", "x" * 200)))
    def begin(self, workspace: str) -> None:
        archive, mirror = self.open_places(workspace)
        self.archive, self.mirror = Known(archive), Known(mirror)
        self.both = {"archive": self.archive, "mirror": self.mirror}
        self._publish("sample", "0.1.0", self.project("sample", FIRST), None)

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @property
    def is_intact(self) -> bool:
        """Whether nothing is damaged: what two runs say of damage depends on which of them is faster."""
        return all(known.is_intact for known in self.both.values())

    # --- running ---------------------------------------------------------------------------------------------------

    def options(self, known: Known, **options: object) -> dict[str, Any]:
        return {"archive": known.place.location, "workspace": known.place.workspace, **options}

    def run(self, task: str, trouble: str = "", **options: object) -> Outcome:
        """Run a task; no run ever ends with a traceback or an unknown code."""
        self.tried[task] += 1
        outcome = self.workshop.run_with(trouble, task, **options)
        assert "Traceback" not in outcome.output, outcome.output
        assert outcome.code in ((0, 30, -signal.SIGKILL) if trouble else (0, 30)), outcome.output
        assert not any(user.password in outcome.output for user in USERS.values())
        return outcome

    def killed(self, moment: int | None, task: str, **options: object) -> bool:
        """Run a task that is killed at a moment, and tell whether it was."""
        if moment is None:
            return False
        outcome = self.run(task, KILL.format(moment=moment), **options)
        self.tried["kills"] += outcome.code == -signal.SIGKILL
        self.reread()
        return True

    def reread(self) -> None:
        """Find out what is there after runs of which it is not known how far they came."""
        named = {
            (title, digest)
            for known in self.both.values()
            for (title, _), files in [*known.releases.items(), *self.begun.items()]
            for digest in digests(files)
        }
        for known in self.both.values():
            known.reread(named)

    # --- publishing ------------------------------------------------------------------------------------------------

    def project(self, title: str, files: Mapping[str, bytes], name: str = "project") -> Tree:
        """Make a project, and return what it holds."""
        directory = self.workshop.folder / name
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        made: set[str] = set()
        for path, data in sorted(files.items()):
            if made.isdisjoint(_parents(path)) and all(path not in _parents(other) for other in made):
                made.add(path)
                (directory / path).parent.mkdir(parents=True, exist_ok=True)
                (directory / path).write_bytes(data + self.salt + title.encode() if self.salt and data else data)
        return tree(directory)

    @rule(
        title=st.sampled_from(sorted(TITLES)), version=st.sampled_from(VERSIONS), files=TREES,
        moment=MOMENTS,
    )  # fmt: skip
    def publish(self, title: str, version: str, files: dict[str, bytes], moment: int | None) -> None:
        """Publish anything under any version: a new one, or one that is there."""
        self._publish(title, version, self.project(title, files), moment)

    @precondition(lambda self: self.archive.releases)
    @rule(data=st.data(), moment=MOMENTS)
    def publish_again(self, data: st.DataObject, moment: int | None) -> None:
        """Publish the same content under a version that is there, or under a new one."""
        key = data.draw(st.sampled_from(sorted(self.archive.releases)))
        self._publish_again(key, data.draw(st.sampled_from((key[1], *VERSIONS))), moment)

    def _publish_again(self, key: Key, version: str, moment: int | None) -> None:
        directory = self.workshop.folder / "project"
        shutil.rmtree(directory, ignore_errors=True)
        for path, content in self.archive.releases[key].items():
            if content is None:
                (directory / path).mkdir(parents=True, exist_ok=True)
            else:
                (directory / path).parent.mkdir(parents=True, exist_ok=True)
                (directory / path).write_bytes(content)
        directory.mkdir(exist_ok=True)
        self._publish(key[0], version, tree(directory), moment)

    def _publish(self, title: str, version: str, files: Tree, moment: int | None) -> None:
        key = TITLES.get(title, title), version
        options = self.options(
            self.archive, title=title, release_version=version, project_directory=self.workshop.folder / "project"
        )
        self.begun = {key: files}
        killed = self.killed(moment, "PublishRelease", **options)
        if killed and key in self.archive.told():
            self.archive.releases.setdefault(key, files)
        there = self.archive.releases.get(key)
        lacking = self.archive.lacks(key[0], files)
        outcome = self.run("PublishRelease", **options)
        if self.archive.is_unreadable(key) or there not in (None, files):
            assert outcome.code == 30, outcome.output
            assert "never changes" in outcome.output or self.archive.is_unreadable(key), outcome.output
            return
        assert outcome.code == 0, outcome.output
        if there is None or lacking:
            assert f"Published {key[0]}-v{version}: {len(digests(files))} blobs" in outcome.output
        else:
            assert f"Nothing to do: {key[0]}-v{version} is published" in outcome.output
        moved = re.search(r"(\d+) moved", outcome.output)
        assert int(moved[1] if moved else 0) == len(lacking), outcome.output
        self.archive.releases[key] = files
        self.archive.store(key[0], lacking)

    # --- fetching --------------------------------------------------------------------------------------------------

    @rule(
        source=st.sampled_from(("archive", "mirror")), title=st.sampled_from(sorted(TITLES)),
        expression=st.sampled_from(EXPRESSIONS), fresh=st.booleans(), moment=MOMENTS,
    )  # fmt: skip
    def fetch(self, source: str, title: str, expression: str, fresh: bool, moment: int | None) -> None:
        """Fetch the newest version that satisfies an expression, into a new folder or over what is there."""
        self._fetch(self.both[source], title, expression, fresh, moment)

    def _fetch(self, known: Known, title: str, expression: str, fresh: bool, moment: int | None) -> None:
        name = TITLES.get(title, title)
        destination = self.workshop.folder / "fetched"
        if fresh:
            shutil.rmtree(destination, ignore_errors=True)
        options = self.options(known, title=title, versions=expression, destination=destination)
        versions = [v for t, v in known.releases if t == name and satisfies(v, expression)]
        if not versions:
            outcome = self.run("FetchRelease", **options)
            assert outcome.code == 30
            assert f"There is no release {name} " in outcome.output
            return
        key = name, max(versions, key=precedence)
        files, folder = known.releases[key], destination / f"{name}-v{key[1]}"
        before = _held(folder, files)
        self.killed(moment, "FetchRelease", **options)
        needed = {sha1(data) for path, data in files.items() if data and _held(folder, files)[path] != data}
        outcome = self.run("FetchRelease", **options)
        for path, data in _held(folder, files).items():
            assert data in (None, files[path], before[path]), path
        if known.is_unreadable(key):
            assert outcome.code == 30, outcome.output
        elif lost := needed & known.damaged(name, files):
            assert outcome.code == 30, outcome.output
            first = min(path for path, data in files.items() if data and sha1(data) in lost)
            assert printable(first) in outcome.output
        else:
            assert outcome.code == 0, outcome.output
            moved = re.search(r"(\d+) moved", outcome.output)
            assert int(moved[1] if moved else 0) == len(needed), outcome.output
            assert {path: data for path, data in tree(folder).items() if not path.startswith(".rme")} == files

    @precondition(lambda self: any(self.workshop.folder.glob("fetched/*")))
    @rule(data=st.data())
    def edit_what_was_fetched(self, data: st.DataObject) -> None:
        """Change or delete a fetched file."""
        fetched = [file for file in sorted(self.workshop.folder.glob("fetched/*/**/*")) if file.is_file()]
        files = [file for file in fetched if ".rme" not in file.relative_to(self.workshop.folder).parts]
        if files:
            file = data.draw(st.sampled_from(files))
            if data.draw(st.booleans()):
                file.unlink()
            else:
                file.write_bytes(_flipped(file.read_bytes(), data.draw(st.integers(0, 2**20))))

    # --- mirroring -------------------------------------------------------------------------------------------------

    @rule(back=st.booleans(), title=st.none() | st.sampled_from(sorted(TITLES)), moment=MOMENTS)
    def mirror_releases(self, back: bool, title: str | None, moment: int | None) -> None:
        """Copy all releases that the other archive lacks, or compare all versions of one."""
        self._mirror(back, title and TITLES[title], moment)

    def _mirror(self, back: bool, title: str | None, moment: int | None) -> None:
        source, destination = (self.mirror, self.archive) if back else (self.archive, self.mirror)
        options: dict[str, Any] = {"source": source.place.location, "destination": destination.place.location}
        options["workspace"] = source.place.workspace
        task = "MirrorArchive"
        if title is not None:
            task, options["title"] = "MirrorRelease", title
        wanted = {key: files for key, files in source.releases.items() if title is None or key[0] == title}
        if self.killed(moment, task, **options):
            for key in destination.told().keys() & source.releases.keys():
                destination.releases.setdefault(key, source.releases[key])
        if title is None:
            wanted = {key: files for key, files in wanted.items() if key not in destination.releases}
        failed = [key for key, files in wanted.items() if not self._copies(source, destination, key, files)]
        outcome = self.run(task, **options)
        if title is not None and not wanted:
            assert outcome.code == 30
            assert f"There is no release {title} " in outcome.output
            return
        assert outcome.code == (30 if failed else 0), (failed, outcome.output)
        for name, version in failed:
            assert f"{name}-v{version}" in outcome.output

    def _copies(self, source: Known, destination: Known, key: Key, files: Tree) -> bool:
        """Note what the copying of a release does, and tell whether it is complete."""
        if source.is_unreadable(key) or destination.is_unreadable(key):
            return False
        assert destination.releases.get(key, files) == files
        lacking = destination.lacks(key[0], files)
        lost = lacking & source.damaged(key[0], files)
        destination.store(key[0], lacking - lost)
        if not lost:
            destination.releases[key] = files
        return not lost

    # --- damage and audits -----------------------------------------------------------------------------------------

    @rule(
        where=st.sampled_from(("archive", "mirror")),
        how=st.sampled_from(("flipped", "truncated", "deleted")),
        then=st.sampled_from(("fetch", "publish", "mirror", "repair", "audit", "")),
        data=st.data(),
    )
    def damage_a_blob(self, where: str, how: str, then: str, data: st.DataObject) -> None:
        """Flip a bit of a blob, cut its end off, or delete it, and do something that may meet it."""
        whole = sorted(self.both[where].blobs().keys() - self.both[where].damage.keys())
        if whole:
            self.damage(where, how, data.draw(st.sampled_from(whole)), data.draw(st.integers(0, 2**20)), then)

    def damage(self, where: str, how: str, blob: tuple[str, str], position: int, then: str) -> None:
        """Damage a blob, and do something that meets it."""
        known = self.both[where]
        held = known.blobs()[blob]
        if how == "deleted":
            known.place.delete_blob(*blob)
            known.damage[blob] = how, None
        else:
            now = held[: position % len(held)] if how == "truncated" else _flipped(held, position)
            known.place.write_blob(*blob, now)
            known.damage[blob] = how, now
        self._meet(where, then, min(key for key, files in known.releases.items() if blob[1] in digests(files)))

    def _meet(self, where: str, then: str, key: Key) -> None:
        """Do something with a release that is damaged."""
        if then == "fetch":
            self._fetch(self.both[where], key[0], f"=={key[1]}", True, None)
        elif then == "publish":
            if where == "archive":
                self._publish_again(key, key[1], None)
        elif then == "mirror":
            self._mirror(where == "mirror", key[0], None)
        elif then:
            self._audit(where, then == "repair", None)

    @rule(where=st.sampled_from(("archive", "mirror")), which=st.sampled_from(("record", "copy")), data=st.data())
    def damage_a_record(self, where: str, which: str, data: st.DataObject) -> None:
        """Flip a bit of a record in a folder, or of its second copy."""
        known = self.both[where]
        whole = sorted(known.releases.keys() - known.records.keys())
        if whole and isinstance(known.place, Folder):
            key = data.draw(st.sampled_from(whole))
            file = known.place.record_file(key) if which == "record" else known.place.record_copy(key)
            now = _flipped(file.read_bytes(), data.draw(st.integers(0, 2**20)))
            file.write_bytes(now)
            known.records[key] = which, now

    @precondition(lambda self: self.is_intact)
    @rule(where=st.sampled_from(("archive", "mirror")), data=st.data())
    def lose_a_record(self, where: str, data: st.DataObject) -> None:
        """Delete a record in a folder: an audit says so, and the other archive, or who published it, brings it back."""
        known, other = (self.archive, self.mirror) if where == "archive" else (self.mirror, self.archive)
        if not known.releases or not isinstance(known.place, Folder):
            return
        key = data.draw(st.sampled_from(sorted(known.releases)))
        file = known.place.record_file(key)
        held = file.read_bytes()
        file.unlink()
        self.night += timedelta(days=1)
        options = self.options(known, date=self.night)
        outcome = self.run("AuditArchive", **options)
        assert outcome.code == 30, outcome.output
        assert f"{key[0]}-v{key[1]}: the record is missing" in outcome.output
        outcome = self.run("AuditArchive", **options, repair_from=other.place.location)
        assert outcome.code == (0 if key in other.releases else 30), outcome.output
        if key not in other.releases:
            assert "does not have it" in outcome.output
            file.write_bytes(held)
        assert file.read_bytes() == held

    @rule(where=st.sampled_from(("archive", "mirror")), repair=st.booleans(), moment=MOMENTS)
    def audit(self, where: str, repair: bool, moment: int | None) -> None:
        """Read an archive again, and repair it from the other one."""
        self._audit(where, repair, moment)

    def _audit(self, where: str, repair: bool, moment: int | None) -> None:
        known, other = (self.archive, self.mirror) if where == "archive" else (self.mirror, self.archive)
        self.night += timedelta(days=1)
        options = self.options(known, date=self.night)
        if repair:
            options["repair_from"] = other.place.location
        self.killed(moment, "AuditArchive", **options)
        outcome = self.run("AuditArchive", **options)
        unread = set() if repair else {key for key in known.records if known.is_unreadable(key)}
        named = {
            known.blob(title, digest)
            for (title, version), files in known.releases.items()
            if (title, version) not in unread
            for digest in digests(files)
        }
        damaged = {blob: held for blob, held in known.damage.items() if blob in named}
        healed = {blob for blob in damaged if repair and self._can_heal(other, blob)}
        failed = damaged.keys() - healed
        assert outcome.code == (30 if failed or (known.records and not repair) else 0), outcome.output
        for title, digest in damaged:
            paths = [p for (t, _), files in known.releases.items() if title in ("", t) for p, data in files.items()
                     if data and sha1(data) == digest]  # fmt: skip
            assert any(f"{printable(path)}: the blob is " in outcome.output for path in paths), outcome.output
        for name, version in known.records:
            assert f"{name}-v{version}: the " in outcome.output, outcome.output
        if repair:
            kept = {held for _, held in [*known.records.values(), *(known.damage[blob] for blob in healed)] if held}
            assert kept <= known.place.aside(), "what was damaged was not kept"
            known.records.clear()
        for blob in healed:
            del known.damage[blob]

    @staticmethod
    def _can_heal(other: Known, blob: tuple[str, str]) -> bool:
        titles = [blob[0]] if blob[0] else {title for title, _ in other.releases}
        keys = {other.blob(title, blob[1]) for title in titles}
        return not keys.isdisjoint(other.stored - other.damage.keys())

    # --- what always holds -----------------------------------------------------------------------------------------

    @invariant()
    def the_archives_are_as_the_model(self) -> None:
        for known in getattr(self, "both", {}).values():
            known.check()
        self.tried["steps"] += 1


def _parents(path: str) -> list[str]:
    return [path.rsplit("/", depth)[0] for depth in range(1, path.count("/") + 1)]


def _held(folder: Path, files: Tree) -> Tree:
    """Return what a folder has of the files of a release; None for what is not there."""
    return {path: (folder / path).read_bytes() if (folder / path).is_file() else None for path in files}


def _flipped(data: bytes, position: int) -> bytes:
    at = position % len(data) if data else 0
    return data[:at] + bytes([data[at] ^ 1 << position % 8]) + data[at + 1 :] if data else b"!"
