"""How blobs get onto a CDCS site, and how two who bring the same bytes agree; the site is a few lines in memory."""

import contextlib
import io
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.archives.cdcs.bodies import TransferBrokenError
from pipeline.archives.cdcs.client import Blob as StoredBlob
from pipeline.archives.cdcs.client import Data
from pipeline.archives.cdcs.contents import SEAL, sealed
from pipeline.archives.cdcs.downloads import Download
from pipeline.archives.cdcs.http import SiteUnavailableError
from pipeline.archives.cdcs.uploads import BlobShelf, _CheckedSource, age, blob_number
from pipeline.archives.sources import ProjectSource
from pipeline.errors import SourceChangedError
from pipeline.release import Blob
from tests.memory_site import ELSEWHERE, HERE, TEMPLATE, Curator, Site, Stream
from tests.support import Counting, sha1


class Desk:
    """Alice, who uploads files of her folder; bob publishes there too."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.site, self.meter = folder, Site(), Counting()
        self.alice = Curator(self.site, "alice")

    def shelf(self) -> BlobShelf:
        """Return the blobs of the workspace as a new run sees them."""
        return BlobShelf(self.alice, [TEMPLATE], HERE)  # type: ignore[arg-type]

    def blob(self, data: bytes, name: str = "a.csv") -> Blob:
        """Put a file into the folder, and return its blob."""
        (self.folder / name).write_bytes(data)
        return Blob(sha1(data), len(data), (name,))

    def upload(self, *blobs: Blob, shelf: BlobShelf | None = None) -> tuple[dict[str, str], dict[str, Exception]]:
        """Upload blobs."""
        return (shelf or self.shelf()).upload(blobs, ProjectSource(self.folder), threads=1, meter=self.meter)

    def steps(self) -> list[str]:
        """Return what changed the site, in order."""
        return [step for step in self.site.done if step != "query"]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


# Uploading


@pytest.mark.parametrize("pids", [True, False])
def test_a_blob_is_described_when_it_is_whole_and_can_be_read(desk: Desk, pids: bool) -> None:
    desk.site.gives_pids = pids
    blob = desk.blob(b"alpha")
    found, failures = desk.upload(blob)
    ((stored, owner, data),) = desk.site.blobs.values()
    assert (found, failures) == ({blob.digest: stored.pid or stored.handle}, {})
    assert desk.steps() == [f"upload {blob.digest}.csv", "assign", "describe", "attach"]
    assert (owner, data, stored.workspace) == ("alice", b"alpha", HERE)
    ((described, _),) = desk.site.data.values()
    expected = {"sha1": blob.digest, "blob/PID/": stored.pid or stored.handle, "/bytes/": 5, "/handle/": stored.handle}
    assert described.content() == sealed(expected)
    assert (desk.meter.ended, desk.meter.nbytes) == ([("a.csv", 5, True, True)], 5)


def test_it_is_told_when_a_blob_begins_to_move(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[str, int]] = []
    monkeypatch.setattr(desk.meter, "started", lambda name, size: started.append((name, size)))
    blob = desk.blob(b"alpha")
    for _ in range(2):
        desk.upload(blob)
    assert started == [("a.csv", 5)]


def test_what_is_there_is_not_uploaded_again(desk: Desk) -> None:
    blob = desk.blob(b"alpha")
    first = desk.upload(blob)
    desk.site.done.clear()
    desk.meter.ended.clear()
    assert desk.upload(blob) == first
    assert desk.steps() == []
    assert desk.meter.ended == [("a.csv", 5, True, False)]


@pytest.mark.parametrize("pids", [True, False])
def test_the_blobs_of_the_user_are_confirmed_by_one_list_of_them(desk: Desk, pids: bool) -> None:
    desk.site.gives_pids = pids
    blob = desk.blob(b"alpha")
    first = desk.upload(blob)
    desk.alice.unavailable = True
    assert desk.upload(blob) == first


@pytest.mark.parametrize("pids", [True, False])
def test_what_another_user_described_is_used_while_it_can_be_read(desk: Desk, pids: bool) -> None:
    desk.site.gives_pids = pids
    blob = desk.blob(b"alpha")
    theirs = desk.site.put(b"alpha", "bob")
    desk.site.describe(theirs, "bob")
    assert desk.upload(blob) == ({blob.digest: theirs.pid or theirs.handle}, {})
    assert desk.steps() == []
    del desk.site.blobs[str(theirs.id)]
    (pid,) = desk.upload(blob)[0].values()
    assert pid != theirs.pid
    assert "assign" in desk.steps()


@pytest.mark.parametrize(
    "what", ["elsewhere", "checksum", "pid", "size", "digest", "nonsense", "list", "no pid", "seal"]
)
def test_a_description_that_does_not_fit_is_not_believed(desk: Desk, what: str) -> None:
    blob = desk.blob(b"alpha")
    theirs = desk.site.put(b"alpha", "bob", workspace=ELSEWHERE if what == "elsewhere" else HERE)
    if what == "checksum":
        wrong = theirs._replace(checksum=sha1(b"other"))
        desk.site.blobs[str(theirs.id)] = (wrong, "bob", b"alpha")
    changes: dict[str, dict[str, Any]] = {
        "pid": {"blob/PID/": "https://site/pid/1"},
        "size": {"/bytes/": 6},
        "digest": {"sha1": blob.digest.upper()},
        "nonsense": {"/bytes/": "5"},
        "no pid": {"blob/PID/": None},
        "seal": {SEAL: sha1(b"another description")},
    }
    if what == "list":
        desk.site.write("[]", "bob")
    else:
        desk.site.describe(theirs, "bob", **changes.get(what, {}))
    (pid,) = desk.upload(blob)[0].values()
    assert pid != theirs.pid
    assert f"upload {blob.digest}.csv" in desk.steps()


@pytest.mark.parametrize("checksum", [sha1(b"alpha").upper(), "0" * 64, None])
def test_a_checksum_that_fits_or_is_of_another_kind_is_no_doubt(desk: Desk, checksum: str | None) -> None:
    blob = desk.blob(b"alpha")
    theirs = desk.site.put(b"alpha", "bob")
    desk.site.blobs[str(theirs.id)] = (theirs._replace(checksum=checksum), "bob", b"alpha")
    desk.site.describe(theirs, "bob")
    assert desk.upload(blob) == ({blob.digest: theirs.pid}, {})


@pytest.mark.parametrize("there", [b"alpha", b"longer than it says", None])
def test_a_description_without_a_handle_is_confirmed_by_its_pid(desk: Desk, there: bytes | None) -> None:
    blob = desk.blob(b"alpha")
    theirs = desk.site.put(b"alpha", "bob")
    desk.site.describe(theirs, "bob", **{"/handle/": None})
    if there is None:
        del desk.site.blobs[str(theirs.id)]
    else:
        desk.site.blobs[str(theirs.id)] = (theirs, "bob", there)
    assert (desk.shelf().find({blob.digest: 5}) != {}) == (there == b"alpha")


def test_a_site_that_fails_is_not_taken_for_one_without_the_blob(desk: Desk) -> None:
    blob = desk.blob(b"alpha")
    desk.site.describe(desk.site.put(b"alpha", "bob"), "bob")
    desk.alice.unavailable = True
    with pytest.raises(SiteUnavailableError):
        desk.upload(blob)
    desk.site.data.clear()
    desk.site.describe(desk.site.put(b"alpha", "bob"), "bob", **{"/handle/": None})
    assert desk.shelf().find({blob.digest: 5}) == {}, "a PID that may not be read fails without a reason"


def test_a_pid_of_another_site_is_not_asked(desk: Desk) -> None:
    blob = desk.blob(b"alpha")
    theirs = desk.site.put(b"alpha", "bob")
    changes = {"/handle/": None, "blob/PID/": "https://elsewhere/pid/1"}
    desk.site.describe(theirs, "bob", **changes)
    desk.site.blobs[str(theirs.id)] = (theirs._replace(pid="https://elsewhere/pid/1"), "bob", b"alpha")
    assert desk.shelf().find({blob.digest: 5}) == {}


# What an interrupted run left


@pytest.mark.parametrize("data", [b"a", b"alpha"])
@pytest.mark.parametrize("workspace", [None, HERE])
def test_what_an_interrupted_run_uploaded_is_put_to_use(desk: Desk, workspace: int | None, data: bytes) -> None:
    blob = desk.blob(data)
    left = desk.site.put(data, "alice", f"{blob.digest}.csv", workspace)
    assert desk.upload(blob) == ({blob.digest: left.pid}, {})
    assert desk.steps() == [*(["assign"] if workspace is None else []), "describe", "attach"]
    assert desk.meter.nbytes == len(data)


def test_what_has_its_pid_only_after_it_was_listed_is_described_by_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = desk.blob(b"alpha")
    left = desk.site.put(b"alpha", "alice", f"{blob.digest}.csv", None)
    monkeypatch.setattr(desk.alice, "find_own_blobs", lambda prefixes: [left._replace(pid=None)])
    assert desk.upload(blob) == ({blob.digest: left.pid}, {})


@pytest.mark.parametrize("is_mine", [False, True], ids=["by another run", "by this one, which gave up waiting"])
def test_what_is_just_being_uploaded_is_not_changed_before_it_has_its_pid(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, is_mine: bool
) -> None:
    blob = desk.blob(b"alpha")
    named = desk.site.put(b"alpha", "alice", f"{blob.digest}.csv", None)
    del desk.site.blobs[str(named.id)]

    def show(stored: StoredBlob) -> None:
        desk.site.blobs[str(named.id)] = (stored, "alice", b"alpha")

    def lose_answer(name: str, stream: Any, size: int, already_done: Any) -> Any:
        show(named._replace(pid=None))
        return already_done()

    def pause(failures: int) -> None:
        assert desk.steps() == []
        if failures == 2:
            show(named)

    if not is_mine:
        show(named._replace(pid=None))
    monkeypatch.setattr(desk.alice, "upload_blob", lose_answer)
    monkeypatch.setattr(desk.alice, "pause", pause)
    assert desk.upload(blob) == ({blob.digest: named.pid}, {})


def test_what_an_interrupted_run_left_on_a_site_without_pids_is_not_waited_for_for_long(desk: Desk) -> None:
    blob, desk.site.gives_pids = desk.blob(b"alpha"), False
    left = desk.site.put(b"alpha", "alice", f"{blob.digest}.csv", None)
    assert desk.upload(blob) == ({blob.digest: left.handle}, {})
    assert desk.alice.paused == [1, 2]


def test_what_has_no_pid_before_it_can_be_seen_is_described_by_the_one_that_it_gets_then(desk: Desk) -> None:
    blob = desk.blob(b"alpha")
    left = desk.site.put(b"alpha", "alice", f"{blob.digest}.csv", None)
    desk.site.blobs[str(left.id)] = (left._replace(pid=None), "alice", b"alpha")
    assert desk.upload(blob) == ({blob.digest: left.pid}, {})


def two_pids(desk: Desk, blob: Blob, workspace: int | None = None) -> StoredBlob:
    """Let an interrupted run leave a blob to which CDCS gave two PIDs."""
    left = desk.site.put(b"alpha", "alice", f"{blob.digest}.csv", workspace)
    desk.site.blobs[str(left.id)] = (left._replace(pid=None), "alice", b"alpha")
    desk.site.with_two_pids.add(str(left.id))
    return left


@pytest.mark.parametrize("workspace", [None, HERE])
def test_what_the_site_lets_nobody_change_any_more_is_left_alone_and_uploaded_anew(
    desk: Desk, workspace: int | None
) -> None:
    blob = desk.blob(b"alpha")
    left = two_pids(desk, blob, workspace)
    first = desk.upload(blob)
    (new,) = (stored for stored, _, _ in desk.site.blobs.values() if stored.id != left.id)
    assert first == ({blob.digest: new.pid}, {})
    assert [data.content()["blob/PID/"] for data, _ in desk.site.data.values()] == [new.pid]
    assert desk.upload(blob) == first


def test_where_a_second_one_may_not_be_changed_either_no_run_uploads_a_third(desk: Desk) -> None:
    blob = desk.blob(b"alpha")
    left = {two_pids(desk, blob).id for _ in range(2)}
    for _ in range(3):
        pids, failures = desk.upload(blob)
        assert (pids, set(failures)) == ({}, {blob.digest})
        assert ({*desk.site.blobs}, desk.site.data) == (left, {})
    desk.site.with_two_pids.clear()
    assert set(desk.upload(blob)[0]) == {blob.digest}
    assert {*desk.site.blobs} == left


def test_an_upload_whose_answer_was_lost_is_not_taken_for_what_may_not_be_changed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob, arrived = desk.blob(b"alpha"), list[StoredBlob]()

    def lose_answer(name: str, stream: Any, size: int, already_done: Any) -> Any:
        arrived.append(desk.site.put(b"alpha", "alice", name, None))
        return already_done()

    two_pids(desk, blob)
    monkeypatch.setattr(desk.alice, "upload_blob", lose_answer)
    assert desk.upload(blob) == ({blob.digest: arrived[0].pid}, {})


def test_what_an_interrupted_run_left_is_not_read_to_its_end_by_one_that_stops(desk: Desk) -> None:
    def check() -> None:
        raise InterruptedError

    blob = desk.blob(b"alpha")
    with pytest.raises(InterruptedError):
        desk.shelf().holds(desk.site.put(b"alpha", "alice"), blob, check)


@pytest.mark.parametrize("data", [b"ALPHA", b"alph", b"alpha beta", b""], ids=repr)
def test_what_an_interrupted_run_left_with_other_bytes_is_deleted(desk: Desk, data: bytes) -> None:
    blob = desk.blob(b"alpha")
    desk.site.put(data, "alice", f"{blob.digest}.csv", None)
    desk.upload(blob)
    assert desk.steps()[:2] == ["delete blob of alice", f"upload {blob.digest}.csv"]
    assert [data for _, _, data in desk.site.blobs.values()] == [b"alpha"]


def test_what_an_interrupted_run_left_and_somebody_deletes_meanwhile_is_uploaded(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = desk.blob(b"alpha")
    left = desk.site.put(b"alpha", "alice", f"{blob.digest}.csv", None)
    del desk.site.blobs[str(left.id)]
    monkeypatch.setattr(desk.alice, "find_own_blobs", lambda prefixes: [left])
    desk.upload(blob)
    assert desk.steps() == [f"upload {blob.digest}.csv", "assign", "describe", "attach"]


@pytest.mark.parametrize(("arrived", "again"), [(b"alpha", False), (b"alph", True)])
def test_an_upload_whose_answer_was_lost_is_repeated_only_where_it_did_not_arrive_whole(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, arrived: bytes, again: bool
) -> None:
    blob, upload = desk.blob(b"alpha"), desk.alice.upload_blob

    def lose_answer(name: str, stream: Any, size: int, already_done: Any) -> StoredBlob:
        desk.site.put(arrived, "alice", name, None)
        return already_done() or upload(name, stream, size, already_done)

    monkeypatch.setattr(desk.alice, "upload_blob", lose_answer)
    desk.upload(blob)
    repeated = ["delete blob of alice", f"upload {blob.digest}.csv"] if again else []
    assert desk.steps() == [*repeated, "assign", "describe", "attach"]
    assert [data for _, _, data in desk.site.blobs.values()] == [b"alpha"]


def test_what_an_interrupted_run_left_is_deleted_where_it_may_not_be_published(desk: Desk) -> None:
    blob = desk.blob(b"alpha")
    desk.site.put(b"alpha", "alice", f"{blob.digest}.csv", None)
    desk.alice.may_assign = False
    pids, failures = desk.upload(blob)
    assert (pids, set(failures)) == ({}, {blob.digest})
    assert desk.steps() == ["delete blob of alice"]


def test_what_cannot_be_put_to_use_now_is_kept_for_the_next_run(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = desk.blob(b"alpha")
    left = desk.site.put(b"alpha", "alice", f"{blob.digest}.csv", None)

    def fail(*arguments: Any) -> None:
        raise SiteUnavailableError("the site is away")

    with monkeypatch.context() as patch:
        patch.setattr(desk.alice, "attach_metadata", fail)
        assert set(desk.upload(blob)[1]) == {blob.digest}
    assert desk.upload(blob) == ({blob.digest: left.pid}, {})
    assert desk.steps() == ["assign", "describe"]


def test_what_an_interrupted_run_left_and_that_run_takes_back_meanwhile_is_uploaded(desk: Desk) -> None:
    blob = desk.blob(b"alpha")
    left = desk.site.put(b"alpha", "alice", f"{blob.digest}.csv", HERE)

    def take_back() -> None:
        desk.alice.after_describing = lambda: None
        desk.alice.delete_blob(str(left.id))

    desk.alice.after_describing = take_back
    pids, failures = desk.upload(blob)
    ((stored, owner, data),) = desk.site.blobs.values()
    assert (pids, failures) == ({blob.digest: stored.pid}, {})
    assert (owner, data) == ("alice", b"alpha")
    assert len(desk.site.data) == 1


def test_what_is_in_another_workspace_or_of_another_user_is_left_alone(desk: Desk) -> None:
    blob = desk.blob(b"alpha")
    others = [desk.site.put(b"alpha", "alice", workspace=ELSEWHERE), desk.site.put(b"alpha", "bob", workspace=None)]
    (pid,) = desk.upload(blob)[0].values()
    assert pid not in {other.pid for other in others}
    assert len(desk.site.blobs) == 3


def test_what_was_described_elsewhere_or_otherwise_is_not_taken_for_this_description(desk: Desk) -> None:
    blob = desk.blob(b"alpha")
    desk.site.describe(desk.site.put(b"alpha", "alice", "other", ELSEWHERE), "alice", ELSEWHERE)
    gone = desk.site.put(b"alpha", "alice")
    desk.site.describe(gone, "alice")
    del desk.site.blobs[str(gone.id)]
    (pid,) = desk.upload(blob)[0].values()
    assert pid != gone.pid
    assert "describe" in desk.steps()


# Two at once


def bob_is_first(desk: Desk, *, readable: bool = True) -> StoredBlob:
    """Let bob describe the same bytes just before alice does."""
    theirs = desk.site.put(b"alpha", "bob")

    def describe() -> None:
        desk.site.describe(theirs, "bob")
        if not readable:
            del desk.site.blobs[str(theirs.id)]

    desk.alice.before_describing = describe
    return theirs


def test_the_first_description_counts_and_the_later_one_goes_with_its_blob(desk: Desk) -> None:
    blob = desk.blob(b"alpha")
    theirs = bob_is_first(desk)
    shelf = desk.shelf()
    assert desk.upload(blob, shelf=shelf) == ({blob.digest: theirs.pid}, {})
    assert desk.steps()[-2:] == ["delete data of alice", "delete blob of alice"]
    assert [owner for _, owner in desk.site.data.values()] == ["bob"]
    assert shelf.known({blob.digest: 5}) == {(blob.digest, theirs.pid)}


@pytest.mark.parametrize("error", [SourceChangedError("changed"), OSError("cannot be read")], ids=repr)
def test_the_first_description_counts_although_another_file_cannot_be_uploaded(
    desk: Desk, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, blob = desk.blob(b"beta", "b.csv"), desk.blob(b"alpha")
    upload = desk.alice.upload_blob

    def fail(name: str, *arguments: Any) -> StoredBlob:
        if name.startswith(other.digest):
            raise error
        return upload(name, *arguments)

    monkeypatch.setattr(desk.alice, "upload_blob", fail)
    theirs = bob_is_first(desk)
    assert desk.upload(other, blob) == ({blob.digest: theirs.pid}, {other.digest: error})


def test_a_first_description_of_what_cannot_be_read_does_not_count(desk: Desk) -> None:
    blob = desk.blob(b"alpha")
    theirs = bob_is_first(desk, readable=False)
    (pid,) = desk.upload(blob)[0].values()
    assert pid != theirs.pid
    assert len(desk.site.blobs) == 1
    assert not any(step.startswith("delete") for step in desk.steps())


def test_a_leftover_that_was_put_to_use_is_not_deleted(desk: Desk) -> None:
    blob = desk.blob(b"alpha")
    desk.site.put(b"alpha", "alice")
    theirs = bob_is_first(desk)
    assert desk.upload(blob)[0] == {blob.digest: theirs.pid}
    assert desk.steps()[-1] == "delete data of alice"
    assert len(desk.site.blobs) == 2


@pytest.mark.parametrize("came", [b"", b"alph", b"alpha"], ids=repr)
def test_a_leftover_whose_answer_was_cut_off_is_used_where_all_its_bytes_came_and_never_deleted(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, came: bytes
) -> None:
    blob = desk.blob(b"alpha")
    left = desk.site.put(b"alpha", "alice")
    stream = Stream(came, None)
    error = TransferBrokenError("It does not tell how long it is.")

    def fail() -> None:
        raise error

    monkeypatch.setattr(stream, "check_end", fail)
    monkeypatch.setattr(desk.alice, "open_blob", lambda *arguments, **options: contextlib.nullcontext(stream))
    is_whole = came == b"alpha"
    assert desk.upload(blob) == (({blob.digest: left.pid}, {}) if is_whole else ({}, {blob.digest: error}))
    assert desk.steps() == (["describe", "attach"] if is_whole else [])


def test_a_later_description_of_another_user_changes_nothing(desk: Desk) -> None:
    blob = desk.blob(b"alpha")
    first = desk.upload(blob)
    desk.site.describe(desk.site.put(b"alpha", "bob"), "bob")
    assert desk.upload(blob) == first


def test_what_cannot_be_looked_up_in_the_end_harms_nobody(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = desk.blob(b"alpha")
    shelf = desk.shelf()

    def fail(sizes: Any) -> Any:
        raise SiteUnavailableError("the site is away")

    monkeypatch.setattr(desk.alice, "attach_metadata", lambda *_: monkeypatch.setattr(shelf, "described", fail))
    pids, failures = desk.upload(blob, shelf=shelf)
    assert set(pids) == {blob.digest}
    assert failures == {}


# Failures


@pytest.mark.parametrize("now", [b"ALPHA", b"alph", b"alpha beta", b""], ids=repr)
def test_a_file_that_changed_leaves_no_blob_and_does_not_stop_the_others(desk: Desk, now: bytes) -> None:
    wrong, right = desk.blob(b"alpha", "wrong.csv"), desk.blob(b"beta", "right.csv")
    (desk.folder / "wrong.csv").write_bytes(now)
    pids, failures = desk.upload(wrong, right)
    assert (set(pids), set(failures)) == ({right.digest}, {wrong.digest})
    assert isinstance(failures[wrong.digest], SourceChangedError)
    assert [data for _, _, data in desk.site.blobs.values()] == [b"beta"]
    assert sorted(desk.meter.ended) == [("right.csv", 4, True, True), ("wrong.csv", 0, False, False)]


def test_who_may_not_publish_leaves_nothing_and_is_told_once(desk: Desk) -> None:
    desk.alice.may_assign = False
    blobs = [desk.blob(b"%d" % n, f"{n}.csv") for n in range(4)]
    pids, failures = desk.upload(*blobs)
    assert pids == {}
    assert set(failures) == {blob.digest for blob in blobs}
    assert {str(error) for error in failures.values()} == {"you may not publish there"}
    assert [step.split()[0] for step in desk.steps()] == ["upload", "delete"]
    assert desk.site.blobs == {}


# What is there


def test_many_blobs_are_asked_for_in_parts(desk: Desk) -> None:
    for n in range(200):
        desk.site.describe(desk.site.put(b"%d" % n, "bob"), "bob")
    sizes = {sha1(b"%d" % n): len(b"%d" % n) for n in range(250)}
    assert set(desk.shelf().described(sizes)) == {sha1(b"%d" % n) for n in range(200)}
    assert desk.site.done.count("query") == 3
    assert len(desk.shelf().known(sizes)) == 200
    assert len(list(desk.shelf().descriptions({}))) == 200
    pids = [f"https://site/pid/{n}" for n in range(100, 110, 2)]
    assert set(desk.shelf().by_pid(pids)) == set(pids)


@pytest.mark.parametrize(
    "changes",
    [
        {"sha1": "nonsense"},
        {"sha1": None},
        {"/bytes/": "5"},
        {"/bytes/": None},
        {"blob/PID/": None},
        {"blob/PID/": 7},
        {"/bytes/": None, "blob/PID/": None},
    ],
)
def test_nonsense_about_a_blob_is_passed_over(desk: Desk, changes: dict[str, Any]) -> None:
    theirs = desk.site.put(b"alpha", "bob")
    desk.site.describe(theirs, "bob", **changes)
    assert theirs.pid
    assert desk.shelf().by_pid([theirs.pid]) == {}
    assert desk.shelf().described({sha1(b"alpha"): 5}) == {}


def test_what_was_stored_earlier_comes_first_and_of_one_moment_the_lower_number() -> None:
    times = {3: "2026-11-23T00:00:02", 10: "2026-11-23T00:00:01", 9: "2026-11-23T00:00:01"}
    stored = [Data(number, "sample", TEMPLATE, HERE, created, "{}") for number, created in times.items()]
    assert [data.id for data in sorted(stored, key=age)] == [9, 10, 3]


def test_of_several_descriptions_the_earliest_comes_first(desk: Desk) -> None:
    stored = [desk.site.put(b"alpha", "bob") for _ in range(3)]
    for one in reversed(stored):
        desk.site.describe(one, "bob")
    said = desk.shelf().described({sha1(b"alpha"): 5})[sha1(b"alpha")]
    assert [description.pid for description in said] == [one.pid for one in reversed(stored)]
    assert desk.shelf().find({sha1(b"alpha"): 5})[sha1(b"alpha")] == said[0]


def test_what_was_just_uploaded_is_known_although_the_site_does_not_find_it_yet(desk: Desk) -> None:
    blob, shelf = desk.blob(b"alpha"), desk.shelf()
    pids, _ = desk.upload(blob, shelf=shelf)
    desk.site.data.clear()
    assert shelf.known({blob.digest: 5}) == {(blob.digest, pids[blob.digest])}
    assert shelf.known({blob.digest: 6}) == set()
    assert set(shelf.find({blob.digest: 5})) == {blob.digest}
    assert desk.shelf().known({blob.digest: 5}) == set()


def test_what_was_uploaded_long_ago_is_asked_of_the_site(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    blob, shelf = desk.blob(b"alpha"), desk.shelf()
    desk.upload(blob, shelf=shelf)
    desk.site.data.clear()
    desk.upload(shelf=shelf)
    assert shelf.known({blob.digest: 5})
    monkeypatch.setattr("pipeline.archives.cdcs.uploads._INDEX_SECONDS", -1.0)
    desk.upload(shelf=shelf)
    assert shelf.known({blob.digest: 5}) == set()


@pytest.mark.parametrize(
    ("handle", "number"),
    [
        ("https://site/rest/blob/download/12ab/", "12ab"),
        ("https://site/7", "7"),
        ("https://site/?x", None),
        (None, None),
    ],
)
def test_a_handle_ends_with_the_id(handle: str | None, number: str | None) -> None:
    assert blob_number(handle) == number


# A blob on its way


def test_an_upload_that_is_repeated_starts_over(desk: Desk) -> None:
    blob = desk.blob(b"alpha" * 1000)
    with _CheckedSource(ProjectSource(desk.folder), blob, desk.meter, lambda: None) as stream:
        assert stream.seek(0) == 0
        assert stream.read(3000) == b"alpha" * 600
        assert (stream.tell(), desk.meter.nbytes) == (3000, 3000)
        assert stream.seek(0) == 0
        assert (stream.tell(), desk.meter.nbytes) == (0, 0)
        assert b"".join(iter(lambda: stream.read(999), b"")) == b"alpha" * 1000
        assert desk.meter.nbytes == 5000
        for offset, whence in ((1, io.SEEK_SET), (0, io.SEEK_END), (0, io.SEEK_CUR)):
            with pytest.raises(io.UnsupportedOperation):
                stream.seek(offset, whence)


class LazyPool:
    """Does what it is given only when somebody waits for it."""

    def __init__(self, threads: int, **options: Any) -> None:
        self.ended = False

    def submit(self, function: Any, *arguments: Any) -> Any:
        """Do nothing yet."""
        return types.SimpleNamespace(result=lambda: function(*arguments))

    def shutdown(self) -> None:
        """End."""
        self.ended = True


def test_nothing_is_judged_by_bytes_that_are_still_to_be_hashed(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.archives.cdcs.uploads.ThreadPoolExecutor", LazyPool)
    blob = desk.blob(b"alpha" * 1000)
    with _CheckedSource(ProjectSource(desk.folder), blob, desk.meter, lambda: None) as stream:
        assert stream.read(3000) == b"alpha" * 600
        stream.seek(0)
        assert b"".join(iter(lambda: stream.read(999), b"")) == b"alpha" * 1000


def test_an_upload_leaves_neither_a_thread_nor_an_open_file(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.archives.cdcs.uploads.ThreadPoolExecutor", LazyPool)
    with _CheckedSource(ProjectSource(desk.folder), desk.blob(b"alpha"), desk.meter, lambda: None) as stream:
        stream.read(2)
    pool: Any = stream._hasher
    opened: Any = stream._stream
    assert (pool.ended, opened.closed, stream.closed) == (True, True, True)


def test_an_upload_stops_when_it_is_told_to(desk: Desk) -> None:
    def check() -> None:
        raise InterruptedError

    with (
        _CheckedSource(ProjectSource(desk.folder), desk.blob(b"alpha"), desk.meter, check) as stream,
        pytest.raises(InterruptedError),
    ):
        stream.read(1)


def test_a_source_that_is_too_long_is_noticed_before_more_is_sent_than_there_should_be(desk: Desk) -> None:
    blob = desk.blob(b"alpha")
    (desk.folder / "a.csv").write_bytes(b"alpha" * 1000)
    with _CheckedSource(ProjectSource(desk.folder), blob, desk.meter, lambda: None) as stream:
        assert stream.read(5) == b"alpha"
        with pytest.raises(SourceChangedError):
            stream.read(5)
    with (
        _CheckedSource(ProjectSource(desk.folder), blob, desk.meter, lambda: None) as stream,
        pytest.raises(SourceChangedError),
    ):
        stream.read(6)


class BreakingStream(Stream):
    """Breaks off after some bytes."""

    def __init__(self, data: bytes, start: int, most: int) -> None:
        super().__init__(data[start:], len(data))
        self.start, self._most = start, most

    def readinto(self, buffer: Any) -> int:
        if not self._most:
            raise TransferBrokenError("it broke off")
        count = super().readinto(memoryview(buffer)[: self._most])
        self._most -= count
        return count

    def read(self, size: int | None = -1) -> bytes:
        buffer = bytearray(100 if size in (None, -1) else size)
        return bytes(buffer[: self.readinto(buffer)])


class BreakingCurator(Curator):
    """A site that breaks off after some bytes each time, with or without `Range`."""

    def __init__(self, data: bytes, most: list[int], ranges: bool) -> None:
        super().__init__(Site(), "alice")
        self.bytes, self.most, self.ranges = data, most, ranges
        self.asked: list[int] = []
        self.open = 0

    @contextlib.contextmanager
    def open_blob(self, url: str, offset: int = 0, most: int = 0, attempts: int | None = None) -> Iterator[Stream]:
        self.asked.append(offset)
        assert most == len(self.bytes) + 1
        assert self.open == 0, "one connection is enough"
        broken = self.most.pop(0) if self.most else 10**9
        self.open += 1
        yield BreakingStream(self.bytes, offset if self.ranges else 0, broken)
        self.open -= 1


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("offset", [0, 7])
def test_a_download_that_breaks_off_goes_on(ranges: bool, offset: int) -> None:
    data = bytes(range(250))
    site = BreakingCurator(data, [60, 60 if ranges else 100], ranges)
    with Download(site, "https://site/pid/1", offset, len(data)) as stream:  # type: ignore[arg-type]
        assert stream.readable()
        assert stream.readall() == data[offset:]
    assert site.asked == ([offset, offset + 60, offset + 120] if ranges else [offset, 60, 100])
    assert site.paused == [1, 2]
    assert (site.open, stream.closed) == (0, True)


def test_a_download_that_breaks_off_again_and_again_is_given_up() -> None:
    site = BreakingCurator(bytes(250), [10, 0, 0, 0], True)
    with (
        Download(site, "https://site/pid/1", 0, 250) as stream,  # type: ignore[arg-type]
        pytest.raises(TransferBrokenError),
    ):
        stream.readall()
    assert site.paused == [1, 2]


def test_a_download_that_makes_progress_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.archives.cdcs.downloads._PROGRESS", 20)
    site = BreakingCurator(bytes(250), [20] * 12, True)
    with Download(site, "https://site/pid/1", 0, 250) as stream:  # type: ignore[arg-type]
        assert stream.readall() == bytes(250)
    assert site.paused == [1] * 12
