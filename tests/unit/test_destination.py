"""A fetched release: what is here is told by its bytes, nothing is written elsewhere, and the record comes last."""

import contextlib
import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.checksums import HashCache, Stream
from pipeline.destination import Destination, fetch_file
from pipeline.errors import BlobDamagedError, BlobsFailedError, PipelineError, RecordError
from pipeline.locks import locks_for
from pipeline.release import BYTES, FILE, FOLDER, ITEM, PATH, SHA1, Blob, ReleaseRecord
from tests.disk import Disk, linux_only
from tests.support import Counting, sha1, tree

Files = dict[str, bytes | None]
FILES: Files = {"a.csv": b"alpha", "deep/er/b.csv": b"beta", "twin.csv": b"alpha", "deep/empty": b"", "hollow": None}


def record_of(files: Files) -> ReleaseRecord:
    """Return the record of some files; None stands for a folder."""
    project: dict[str, Any] = {}
    for path, data in files.items():
        *folders, name = path.split("/")
        place = project
        for depth, folder in enumerate(folders, 1):
            place = place.setdefault(folder, {PATH: "/".join(folders[:depth]), ITEM: FOLDER})
        kind = {ITEM: FOLDER} if data is None else {ITEM: FILE, BYTES: len(data), SHA1: sha1(data)}
        place[name] = {PATH: path, **kind}
    title = {"title": "sample-v0.1.0", "title_versionless": "sample", "version": "0.1.0"}
    return ReleaseRecord({**title, "project": project})


class Fetch:
    """A release that is fetched into a folder."""

    def __init__(self, folder: Path, files: Files) -> None:
        self.folder = folder
        self.record = record_of(files)
        self.data = {sha1(data): data for data in files.values() if data}
        self.meter = Counting()
        self.opened: list[str] = []

    def destination(self) -> Destination:
        """Return the destination as a new run sees it."""
        return Destination(self.folder, self.record, HashCache(None))

    @contextlib.contextmanager
    def open(self, blob: Blob, offset: int) -> Iterator[Stream]:
        self.opened.append(blob.paths[0])
        yield io.BytesIO(self.data[blob.digest][offset:])

    def blobs(self) -> dict[str, Exception]:
        """Fetch the blobs."""
        return self.destination().fetch(self.record.blobs, self.open, threads=2, meter=self.meter, chunk=3)

    def all(self) -> "Fetch":
        """Fetch everything."""
        assert self.blobs() == {}
        self.destination().finish()
        return self


@pytest.fixture
def fetch(tmp_path: Path) -> Fetch:
    return Fetch(tmp_path / "sample", FILES)


def test_everything_of_a_record_is_there_when_it_is_fetched(fetch: Fetch) -> None:
    found = tree(fetch.all().folder)
    assert found.pop(".rme/record.yml") == fetch.record.dump()
    assert found == {**FILES, "deep": None, "deep/er": None, ".rme": None}
    assert fetch.destination().is_complete()
    assert fetch.meter.nbytes == len(b"alpha" + b"beta")
    assert sorted(fetch.meter.ended) == [("a.csv", 5, True, True), ("deep/er/b.csv", 4, True, True)]


@linux_only
def test_the_record_gets_its_name_when_all_other_names_are_durable(
    fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, fetch.folder)
    fetch.blobs()
    assert "names in .rme" in disk.before("name a.csv")
    disk.steps.clear()
    fetch.destination().finish()
    before = disk.before("name .rme/record.yml")
    assert {"names in .", "names in deep", "names in deep/er", "names in hollow"} <= set(before)
    assert before.index("name deep/empty") < before.index("names in deep")
    assert "names in .rme" in disk.after("name .rme/record.yml")


@pytest.mark.parametrize("change", ["missing", "edited", "longer", "a link", "a folder"])
@pytest.mark.parametrize("path", ["a.csv", "twin.csv", "deep/er/b.csv"])
def test_only_what_has_the_right_bytes_in_every_file_is_verified(fetch: Fetch, path: str, change: str) -> None:
    digests = {sha1(b"alpha"), sha1(b"beta")}
    assert fetch.destination().verified() == set()
    fetch.all()
    assert fetch.destination().verified() == digests
    file, data = fetch.folder / path, FILES[path]
    assert data
    file.unlink()
    if change == "edited":
        file.write_bytes(data.upper())
    if change == "longer":
        file.write_bytes(data + b"x")
    if change == "a link":
        (fetch.folder / "elsewhere").write_bytes(data)
        file.symlink_to(fetch.folder / "elsewhere")
    if change == "a folder":
        file.mkdir()
    assert fetch.destination().verified(threads=2) == digests - {sha1(data)}


def test_looking_at_what_is_here_says_how_far_it_is(fetch: Fetch) -> None:
    fetch.all()
    (fetch.folder / "twin.csv").write_bytes(b"another size, which need not be read")
    meter = Counting()
    fetch.destination().verified(meter=meter)
    assert meter.nbytes == len(b"alpha" + b"beta")


def test_what_another_run_has_fetched_by_now_is_not_fetched_again(fetch: Fetch) -> None:
    fetch.all()
    fetch.opened.clear()
    fetch.meter.ended.clear()
    assert fetch.blobs() == {}
    assert fetch.opened == []
    assert sorted(fetch.meter.ended) == [("a.csv", 5, True, False), ("deep/er/b.csv", 4, True, False)]


@pytest.mark.parametrize("content", [None, b"ALPHA", b"alph", b"alpha beta"], ids=repr)
@pytest.mark.parametrize("path", ["a.csv", "twin.csv"])
def test_what_is_not_right_in_one_of_its_files_is_fetched_again(fetch: Fetch, path: str, content: bytes | None) -> None:
    fetch.all()
    fetch.opened.clear()
    (fetch.folder / path).unlink()
    if content is not None:
        (fetch.folder / path).write_bytes(content)
    assert fetch.blobs() == {}
    assert fetch.opened == ["a.csv"]
    assert (fetch.folder / path).read_bytes() == b"alpha"


def test_what_cannot_be_read_is_fetched_again(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch.all()
    fetch.opened.clear()
    open_ = os.open

    def refuse(path: Any, flags: int, *mode: int, **where: int) -> int:
        if str(path).endswith("a.csv") and not flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, "Permission denied")
        return open_(path, flags, *mode, **where)

    monkeypatch.setattr(os, "open", refuse)
    assert fetch.blobs() == {}
    assert fetch.opened == ["a.csv"]


def test_nothing_is_fetched_through_a_link_and_all_else_is(fetch: Fetch, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    fetch.folder.mkdir()
    (fetch.folder / "deep").symlink_to(tmp_path / "elsewhere")
    failures = fetch.blobs()
    assert set(failures) == {sha1(b"beta")}
    assert "symbolic links" in str(failures[sha1(b"beta")])
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert (fetch.folder / "a.csv").read_bytes() == b"alpha"
    with pytest.raises(OSError, match="symbolic links"):
        fetch.destination().finish()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_state_that_is_elsewhere_fails_everything(fetch: Fetch, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    fetch.folder.mkdir()
    (fetch.folder / ".rme").symlink_to(tmp_path / "elsewhere")
    assert set(fetch.blobs()) == {sha1(b"alpha"), sha1(b"beta")}
    assert sorted(fetch.meter.ended) == [("a.csv", 0, False, False), ("deep/er/b.csv", 0, False, False)]
    (tmp_path / "elsewhere" / ".partial").mkdir()
    (tmp_path / "elsewhere" / ".partial" / "x.part").touch()
    fetch.destination().tidy()
    assert (tmp_path / "elsewhere" / ".partial" / "x.part").exists()


@pytest.mark.parametrize(
    "damage",
    [
        "no record",
        "edited record",
        "no empty file",
        "empty file with bytes",
        "empty file is a link",
        "no folder",
        "file",
    ],
)
def test_a_release_is_complete_with_all_that_is_no_blob_and_finishing_mends_it(fetch: Fetch, damage: str) -> None:
    fetch.all()
    empty, folder, record = fetch.folder / "deep" / "empty", fetch.folder / "hollow", fetch.destination().record_file
    if damage == "no record":
        record.unlink()
    if damage == "edited record":
        record.write_bytes(record.read_bytes() + b"\n")
    if damage.startswith(("no empty", "empty")):
        empty.unlink()
    if damage == "empty file with bytes":
        empty.write_bytes(b"x")
    if damage == "empty file is a link":
        empty.symlink_to(fetch.folder / "a.csv")
    if damage in ("no folder", "file"):
        folder.rmdir()
    if damage == "file":
        folder.touch()
    assert not fetch.destination().is_complete()
    if damage == "file":
        folder.unlink()
    fetch.destination().finish()
    assert fetch.destination().is_complete()
    assert (fetch.folder / "a.csv").read_bytes() == b"alpha"


def test_parts_are_removed_when_a_release_is_complete_unless_they_are_in_use(fetch: Fetch) -> None:
    partial = fetch.folder / ".rme" / ".partial"
    fetch.blobs()
    locks = locks_for(partial)
    locks.acquire(["0" * 40])
    fetch.destination().finish()
    assert partial.exists()
    locks.release(["0" * 40])
    fetch.destination().tidy()
    assert not partial.exists()


@pytest.mark.parametrize(
    "path", [".rme", ".RME", ".rme/record.yml", ".Rme/Record.YML", ".rme/.partial", ".rme/.partial/x"]
)
def test_the_state_of_a_destination_is_not_a_file_of_a_release(tmp_path: Path, path: str) -> None:
    with pytest.raises(RecordError, match="which is not accepted"):
        Fetch(tmp_path, {"a": b"a", path: b"alpha"}).destination()


@pytest.mark.parametrize(
    "path", [".rme/other", ".rme/x/record.yml", "rme", "deep/.rme", "deep/.rme/record.yml", ".rme2"]
)
def test_names_like_those_of_the_state_are_names(tmp_path: Path, path: str) -> None:
    assert (Fetch(tmp_path, {path: b"alpha"}).all().folder / path).read_bytes() == b"alpha"


@pytest.mark.parametrize("same", [True, False])
def test_names_that_differ_in_case_are_refused_where_they_are_one(tmp_path: Path, same: bool) -> None:
    """A link makes ``.PARTIAL`` the same folder as ``.partial``, as such a file system does."""
    fetch = Fetch(tmp_path, {"a.csv": b"alpha", "A.csv": b"beta"})
    if same:
        (tmp_path / ".rme").mkdir()
        (tmp_path / ".rme" / ".PARTIAL").symlink_to(".partial")
        assert all("are one name in" in str(error) for error in fetch.blobs().values())
        with pytest.raises(RecordError, match="are one name in"):
            fetch.destination().finish()
        assert not (tmp_path / "a.csv").exists()
    else:
        assert (fetch.all().folder / "a.csv").read_bytes() == b"alpha"


def test_names_that_do_not_differ_in_case_alone_are_fetched_anywhere(tmp_path: Path) -> None:
    (tmp_path / ".rme" / ".PARTIAL").mkdir(parents=True)
    assert Fetch(tmp_path, {"a.csv": b"alpha", "b.csv": b"beta"}).blobs() == {}


# One file


@pytest.mark.parametrize("fault", ["none", "damaged", "unknown"])
def test_fetching_one_file_tells_how_it_ended(tmp_path: Path, fault: str) -> None:
    status: dict[str, Any] = {}
    seen: list[dict[str, Any]] = []
    data = b"ALPHA" if fault == "damaged" else b"alpha"

    def find() -> Blob:
        seen.append(dict(status))
        if fault == "unknown":
            raise PipelineError("there is no such blob")
        return Blob(sha1(b"alpha"), 5, ("a.csv",))

    def fetch() -> None:
        target = tmp_path / "new" / "a.csv"
        fetch_file(find, lambda blob, offset: contextlib.nullcontext(io.BytesIO(data[offset:])), target, status, 1000)

    if fault == "none":
        fetch()
        assert status == {"size": 5, "finished": True, "success": True, "error": None}
        assert tree(tmp_path) == {"new": None, "new/a.csv": b"alpha"}
    else:
        with pytest.raises(BlobsFailedError if fault == "damaged" else PipelineError) as caught:
            fetch()
        assert status == {"size": 0, "finished": True, "success": False, "error": caught.value}
        assert not (tmp_path / "new" / "a.csv").exists()
        assert not (tmp_path / "new" / ".partial").exists()
    assert seen == [{"size": 0, "finished": False, "success": False, "error": None}]


def test_a_damaged_blob_is_named_by_its_pid_or_its_digest(tmp_path: Path) -> None:
    fetch = Fetch(tmp_path, {"a.csv": b"alpha"})
    fetch.data = {sha1(b"alpha"): b"ALPHA"}
    (error,) = fetch.blobs().values()
    assert isinstance(error, BlobDamagedError)
    assert sha1(b"alpha") in str(error)
