"""What becomes of blobs on a CDCS site that somebody else deletes, moves, describes or is uploading too."""

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import CDCSArchive
from pipeline.archives.cdcs.http import SiteRefusedError
from pipeline.errors import BlobDamagedError, BlobNotThereError, BlobsFailedError
from pipeline.manifest import Manifest
from pipeline.release import BYTES, FILE, ITEM, PATH, PID, SHA1, Blob, ReleaseRecord
from pipeline.tasks.runs import UploadRun
from tests.cdcs import OTHER, PUBLIC, Site, archive_of, described, serve, stored
from tests.cdcs_server import CDCSServer
from tests.luigid import Scheduler
from tests.support import Workshop, sha1


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CDCSServer]:
    yield from serve(tmp_path_factory.mktemp("cdcs"))


@pytest.fixture
def alice(server: CDCSServer) -> CDCSArchive:
    return archive_of(server, "alice")


@pytest.fixture
def bob(server: CDCSServer) -> CDCSArchive:
    return archive_of(server, "bob")


def upload(archive: CDCSArchive, folder: Path, data: bytes) -> tuple[Blob, str]:
    """Upload some bytes and return the blob and its PID."""
    (folder / "a.csv").write_bytes(data)
    pid, size = archive.process_and_upload_blob("a.csv", folder, "t-v1.0.0", "t", PUBLIC, 2**20)
    return Blob(sha1(data), size, ("a.csv",)), str(pid)


def find(archive: CDCSArchive, blob: Blob) -> str | None:
    return archive.find_blobs([blob], "t", PUBLIC).get(blob.digest)


def test_a_blob_that_its_owner_deleted_is_uploaded_again_by_whoever_needs_it(
    alice: CDCSArchive, bob: CDCSArchive, tmp_path: Path
) -> None:
    blob, pid = upload(alice, tmp_path, b"to be deleted")
    assert find(alice, blob) == find(bob, blob) == pid
    (own,) = alice.curator.find_own_blobs([blob.digest])
    alice.curator.delete_blob(own.id)
    assert find(alice, blob) is find(bob, blob) is None
    _, again = upload(bob, tmp_path, b"to be deleted")
    assert find(alice, blob) == find(bob, blob) == again != pid


def test_a_blob_that_was_taken_out_of_the_workspace_is_not_counted(
    alice: CDCSArchive, bob: CDCSArchive, tmp_path: Path
) -> None:
    blob, _ = upload(alice, tmp_path, b"to be moved")
    (own,) = alice.curator.find_own_blobs([blob.digest])
    alice.curator.assign_blob(own.id, alice.curator.workspace_id(OTHER))
    assert find(alice, blob) is find(bob, blob) is None


@pytest.mark.parametrize(
    "pid", ["http://127.0.0.1:9/elsewhere", "file:///etc/passwd", "/pid/rest/local/cdcs/NOWHERE", "", "//[", "\0"]
)
def test_a_description_of_what_is_not_there_is_not_believed(
    alice: CDCSArchive, bob: CDCSArchive, tmp_path: Path, pid: str
) -> None:
    data = f"described only, {pid!r}".encode()
    content = {"sha1": sha1(data), "blob/PID/": pid.replace("\0", "nul"), "/bytes/": len(data)}
    curator = bob.curator
    template, workspace = curator.template_id("BlobMetadata"), curator.workspace_id(PUBLIC)
    curator.create_data("nonsense", template, workspace, content)
    blob = Blob(sha1(data), len(data), ("a.csv",))
    assert find(alice, blob) is None
    assert find(alice, blob) is None
    _, real = upload(alice, tmp_path, data)
    assert find(alice, blob) == find(bob, blob) == real


def test_a_blob_whose_pid_has_vanished_is_read_by_its_handle(alice: CDCSArchive, tmp_path: Path) -> None:
    data = b"its pid vanishes"
    blob, pid = upload(alice, tmp_path, data)
    (own,) = alice.curator.find_own_blobs([blob.digest])
    curator = alice.curator
    gone = f"{pid}GONE"
    content = {"sha1": blob.digest, "blob/PID/": gone, "/bytes/": blob.size, "/handle/": own.handle}
    curator.create_data(blob.digest, curator.template_id("BlobMetadata"), curator.workspace_id(PUBLIC), content)
    assert find(alice, blob) == pid
    with alice.open_blob(blob._replace(pid=gone), {}, PUBLIC) as stream:
        assert stream.read(100) == data


def test_a_blob_that_was_found_and_then_taken_back_is_looked_for_again(
    server: CDCSServer, alice: CDCSArchive, bob: CDCSArchive, tmp_path: Path
) -> None:
    blob, pid = upload(bob, tmp_path, b"uploaded by two")
    node = {PATH: "a.csv", ITEM: FILE, BYTES: blob.size, SHA1: blob.digest}
    content = {"title": "two-v1.0.0", "title_versionless": "two", "version": "1.0.0", "project": {"a.csv": node}}
    run = UploadRun(Manifest(server.base_url, "alice", PUBLIC, str(tmp_path), ReleaseRecord(content)), alice)
    assert run.is_there(blob)
    (own,) = bob.curator.find_own_blobs([blob.digest])
    bob.curator.delete_data(bob.shelf(PUBLIC).by_pid([pid])[pid].record)
    bob.curator.delete_blob(own.id)
    with pytest.raises(BlobNotThereError, match=r"the blob of 'a\.csv' is not in"):
        run.publish()
    _, stays = upload(archive_of(server), tmp_path, b"uploaded by two")
    run.publish()
    published = alice.get_release("two", "1.0.0", PUBLIC)
    assert published is not None
    assert published["project"]["a.csv"][PID] == stays != pid


def test_a_blob_that_is_only_described_is_missing(alice: CDCSArchive) -> None:
    data, curator = b"described here and there", alice.curator
    pids = [f"{alice.host}/pid/rest/local/cdcs/{name}" for name in ("GONE", "GONE-TOO")]
    for pid, handle in zip(pids, ({}, {"/handle/": f"{alice.host}/rest/blob/download/99999/"}), strict=True):
        content = {"sha1": sha1(data), "blob/PID/": pid, "/bytes/": len(data), **handle}
        curator.create_data(sha1(data), curator.template_id("BlobMetadata"), curator.workspace_id(PUBLIC), content)
    blob = Blob(sha1(data), len(data), ("a.csv",), pids[0])
    with (
        pytest.raises(BlobDamagedError, match=r"its blob .*GONE is missing from the archive"),
        alice.open_blob(blob, {}, PUBLIC),
    ):
        pass


def test_a_blob_with_two_pids_which_cdcs_refuses_to_change_does_not_stop_a_publisher(
    workshop: Workshop, server: CDCSServer, alice: CDCSArchive
) -> None:
    site, data = Site(workshop, server, "two-pids"), b"two runs changed it before it had its PID"
    workshop.project(files={"a.csv": data})
    file, name = workshop.folder / "project" / "a.csv", f"{sha1(data)}.csv"
    left = alice.curator.upload_blob(name, file, len(data))
    with contextlib.closing(sqlite3.connect(server.folder / "db.sqlite3", timeout=60)) as database, database:
        database.execute(
            "INSERT INTO core_linked_records_app_localid(record_name, record_object_class, record_object_id) "
            "SELECT 'cdcs/ANOTHER', record_object_class, record_object_id FROM core_linked_records_app_localid "
            "WHERE record_object_id = ?",
            (str(left.id),),
        )
    with pytest.raises(SiteRefusedError, match="while setting a PID"):
        alice.curator.assign_blob(left.id, alice.curator.workspace_id(PUBLIC))
    outcome = site.publish("1.0.0")
    assert outcome.code == 0, outcome.output
    record = alice.get_release("two-pids", "1.0.0", PUBLIC)
    assert record is not None
    (new,) = (own for own in alice.curator.find_own_blobs([sha1(data)]) if own.id != left.id)
    assert record["project"]["a.csv"][PID] == new.pid is not None
    assert "Nothing to do" in site.publish("1.0.0").output


def test_one_file_that_may_not_be_published_leaves_nothing_behind(server: CDCSServer, tmp_path: Path) -> None:
    carol = archive_of(server, "carol")
    with pytest.raises(BlobsFailedError, match="ask the site for the right"):
        upload(carol, tmp_path, b"one file of carol")
    assert carol.curator.list_own_blobs() == []


def test_who_may_not_publish_leaves_nothing_behind(workshop: Workshop, server: CDCSServer) -> None:
    site = Site(workshop, server, "not-allowed")
    site.log_in("carol")
    workshop.project(files={f"{number}.csv": f"carol {number}".encode() for number in range(40)})
    outcome = site.publish()
    assert outcome.code == 30
    assert "ask the site for the right to it for 'carol'" in outcome.output
    assert archive_of(server, "carol").curator.list_own_blobs() == []


def test_no_more_transfers_run_at_once_than_the_resources_of_the_host_allow(
    workshop: Workshop, server: CDCSServer
) -> None:
    site = Site(workshop, server, "limited")
    files = {f"{number}.csv": f"limited {number}".encode() for number in range(205)}
    workshop.project(files=files)
    scheduler = Scheduler(workshop)
    try:
        scheduler.ask("update_resources", **{"127.0.0.1": 2})
        with (workshop.folder / "central.cfg").open("a") as config:
            config.write("[resources]\n127.0.0.1 = 2\n")
        run = site.start(workers=3)
        scheduler.runs.append(run)
        running = set()
        while run.poll() is None:
            tasks = scheduler.ask("task_list", status="RUNNING", upstream_status="").values()
            running.add(sum(task["name"] == "UploadBlob" for task in tasks))
            assert scheduler.ask("resource_list")[0]["num_used"] <= 2
            time.sleep(0.1)
        assert run.wait() == 0, run.stdout and run.stdout.read()
        assert running == {0, 1}
    finally:
        scheduler.close()
    digests = [sha1(data) for data in files.values()]
    archive = archive_of(server)
    assert described(archive, digests) == stored(archive, digests) == dict.fromkeys(digests, 1)
