"""The operations that are attacked, each with what it begins with and what must come of it."""

import functools
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tests.attacks.checker import check_archive, check_fetched
from tests.forked import ForkedRun, ForkedWorkshop
from tests.support import Outcome, sha1

# What the operations read and write; they may leave anything in `cache`.
FOLDERS = ("archive", "mirror", "fetched", "project")
_DICE = Random(6)
_BIG = _DICE.randbytes(300_000)  # more than one thread hashes at once
FIRST = {
    "a.txt": b"alpha",
    "data/b.bin": _BIG,
    "data/deep/c.csv": b"1,2\n",
    "data/deep/twin of c.csv": b"1,2\n",
    "empty": b"",
}
SECOND = {**FIRST, "a.txt": b"beta", "data/d.bin": _DICE.randbytes(5000)}
LOOSE = b"named by no record"
_REPORT = {"report_directory": "cache/reports"}
_PUBLISH = {"project_directory": "project", "title": "sample", "archive": "archive"}
# When a release was mirrored, and in which folder its archive was.
_ACCIDENTAL = re.compile(rb'(?<="date": )"[^"]*"|(?<=")/[^"]*?/archive(?=[/"])')

Tree = dict[str, bytes | None]


@dataclass(frozen=True, eq=False)
class Scene:
    """An operation.

    Attributes
    ----------
    name : str
        What it is called here.
    task : str
        The task that is run.
    options : dict
        Its options.
    prepare : callable
        Makes what it begins with, in a workshop.
    """

    name: str
    task: str
    options: dict[str, Any]
    prepare: Callable[[ForkedWorkshop], None]


def _project(workshop: ForkedWorkshop, files: dict[str, bytes] = FIRST) -> None:
    shutil.rmtree(workshop.folder / "project", ignore_errors=True)
    workshop.project(files=files)
    (workshop.folder / "project" / "nothing").mkdir()


def _publish_first(workshop: ForkedWorkshop) -> None:
    _project(workshop)
    _well(workshop.publish(archive="archive"))


def _publish_both(workshop: ForkedWorkshop) -> None:
    _publish_first(workshop)
    _project(workshop, SECOND)
    _well(workshop.publish(version="0.2.0", archive="archive"))


def _one_then_another_project(workshop: ForkedWorkshop) -> None:
    _publish_first(workshop)
    _project(workshop, SECOND)


def _empty_mirror(workshop: ForkedWorkshop) -> None:
    _publish_both(workshop)
    _well(workshop.run("CreateArchive", archive="mirror"))


def _damaged_archive(workshop: ForkedWorkshop) -> None:
    _empty_mirror(workshop)
    _well(workshop.run("MirrorArchive", source="archive", destination="mirror"))
    _flip(workshop.blob_file(_BIG))
    workshop.blob_file(b"1,2\n").unlink()
    workshop.blob_file(b"beta").write_bytes(b"bet")
    record = workshop.record_file("0.2.0")
    record.write_bytes(record.read_bytes().replace(b"workflow_config_path", b"workflow_config_pbth"))
    _flip(*(workshop.title_folder() / ".records" / "0.1.0").iterdir())
    loose = workshop.blob_file(LOOSE)
    loose.parent.mkdir(exist_ok=True)
    loose.write_bytes(LOOSE[:-1])


def _flip(*files: Path) -> None:
    for file in files:
        data = file.read_bytes()
        file.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])


def _well(outcome: Outcome) -> None:
    assert outcome.code == 0, outcome.output


SCENES = {
    scene.name: scene
    for scene in (
        Scene("publish", "PublishRelease", {**_PUBLISH, "release_version": "0.1.0", "create_archive": True}, _project),
        Scene("publish-next", "PublishRelease", {**_PUBLISH, "release_version": "0.2.0"}, _one_then_another_project),
        Scene(
            "fetch",
            "FetchRelease",
            {"title": "sample", "archive": "archive", "destination": "fetched", **_REPORT},
            _publish_both,
        ),
        Scene("mirror", "MirrorArchive", {"source": "archive", "destination": "mirror"}, _empty_mirror),
        Scene("audit", "AuditArchive", {"archive": "archive", "repair_from": "mirror", **_REPORT}, _damaged_archive),
    )
}


class Scenery:
    """Makes the folders in which operations are attacked.

    Parameters
    ----------
    folder : Path
        Where they are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        # Each is made once.
        self.before = functools.cache(self._before)
        self.after = functools.cache(self._after)
        self.settled = functools.cache(settled)
        self.wrong_in = functools.cache(lambda folder: set(wrong_in(folder)))

    @contextmanager
    def stage(self, scene: Scene) -> Iterator["Stage"]:
        """Give a folder with what an operation begins with."""
        self._count += 1
        folder = self._folder / str(self._count)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield Stage(scene, folder, self)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _before(self, scene: Scene) -> Path:
        """Return a folder with what an operation begins with."""
        folder = self._folder / f"before {scene.name}"
        folder.mkdir(parents=True)
        scene.prepare(ForkedWorkshop(folder))
        shutil.rmtree(folder / "cache", ignore_errors=True)
        return folder

    def _after(self, scene: Scene) -> Path:
        """Return a folder with what an operation ends with when nothing disturbs it."""
        folder = self._folder / f"after {scene.name}"
        folder.mkdir(parents=True)
        _well(Stage(scene, folder, self).run())
        return folder


class Stage:
    """A folder in which an operation is attacked.

    Attributes
    ----------
    scene : Scene
        The operation.
    workshop : ForkedWorkshop
        Where it is run.
    """

    def __init__(self, scene: Scene, folder: Path, scenery: Scenery) -> None:
        self.scene = scene
        self.workshop = ForkedWorkshop(folder)
        self._scenery = scenery
        for name in FOLDERS:
            if (scenery.before(scene) / name).exists():
                shutil.copytree(scenery.before(scene) / name, folder / name, dirs_exist_ok=True)

    def fork(self, trouble: str | Callable[[], object] = "", **options: object) -> ForkedRun:
        """Start the operation."""
        return self.workshop.begin(trouble, self.scene.task, **self.scene.options, **options)

    def run(self, trouble: str | Callable[[], object] = "", **options: object) -> Outcome:
        """Run the operation to its end."""
        return self.fork(trouble, **options).ends()

    def folders(self) -> list[Path]:
        """Return the folders that the operation reads and writes."""
        return [self.workshop.folder / name for name in (*FOLDERS, "cache")]

    def broken(self) -> list[str]:
        """Return which promises do not hold, whatever became of the run."""
        before, folder = self._scenery.before(self.scene), self.workshop.folder
        finished, here = self._scenery.settled(self._scenery.after(self.scene)), settled(folder)
        kept = (path for path, data in self._scenery.settled(before).items() if finished.get(path, ...) == data)
        lost = [path for path in kept if here.get(path, ...) != finished[path]]
        known = self._scenery.wrong_in(before)
        # Where there are no hard links, what is damaged goes out of the way before it is replaced.
        known = known | {wrong.replace("is damaged", "is missing") for wrong in known}
        return [*sorted(set(wrong_in(folder)) - known), *(f"{path} is lost or changed" for path in lost)]

    def completed(self) -> list[str]:
        """Run the operation without trouble, and return what is not as if there had never been any."""
        outcome = self.run()
        if outcome.code:
            return [f"the same command ends with {outcome.code}: {outcome.output}"]
        # An audit that was finished is not looked at again that night, and leaves to uploads what they may go on with.
        return self.unfinished(is_tidy=self.scene.task != "AuditArchive")

    def unfinished(self, is_tidy: bool) -> list[str]:
        """Return in what the folder differs from that of an operation without trouble.

        Parameters
        ----------
        is_tidy : bool
            Whether parts that were left count.
        """
        expected, found = self._scenery.settled(self._scenery.after(self.scene)), settled(self.workshop.folder)
        differing = [path for path in sorted({*expected, *found}) if expected.get(path, ...) != found.get(path, ...)]
        # What could not be read for a moment may have been kept aside although it was whole.
        differing = [path for path in differing if path in expected or "/.damaged" not in path]
        shown = [path for path in differing if is_tidy or "/.partial" not in path]
        return [*wrong_in(self.workshop.folder), *(f"{path} is not as it should be" for path in shown)]


def wrong_in(folder: Path) -> Iterator[str]:
    """Yield what the checker finds in the archives and the fetched releases of a workshop."""
    for name in ("archive", "mirror"):
        yield from (f"{name}: {wrong}" for wrong in check_archive(folder / name))
    for fetched in folder.glob("fetched/sample-v*"):
        yield from check_fetched(fetched, folder / "archive/Global Public Workspace/sample" / f"{fetched.name}.yml")


def settled(folder: Path) -> Tree:
    """Return all that is in the folders of a workshop, without the moments at which it was made."""
    tree: Tree = {}
    for path in (path for name in FOLDERS for path in sorted((folder / name).rglob("*"))):
        data = None if path.is_dir() else path.read_bytes()
        if data is not None and b'"origin"' in data:
            data = _ACCIDENTAL.sub(b"", data)
        name = path.relative_to(folder).as_posix()
        if "/.damaged/" in name:
            name = re.sub(r"-\d+T[\d.]+Z", "", name)
        elif "/.records/" in name and data is not None and sha1(path.read_bytes()) == path.name:
            name = f"{path.parent.relative_to(folder).as_posix()}/{sha1(data)}"
        while name in tree and data is not None:
            name += " again"
        tree[name] = data
    return tree
