"""Releases on a real CDCS server, through real Luigi runs: the same promises as in a folder."""

import contextlib
import hashlib
import io
import json
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import CDCSArchive, ReleaseRecordNotFoundError
from pipeline.archives.cdcs.http import NotFoundError
from pipeline.archives.sources import ProjectSource
from pipeline.errors import ArchiveError, BlobsFailedError, RecordError
from pipeline.release import ReleaseRecord
from pipeline.transfer import Silent
from tests.cdcs import OTHER, PUBLIC, Site, archive_of, described, serve, stored
from tests.cdcs_server import CDCSServer
from tests.support import Workshop, sha1

MIB = 2**20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CDCSServer]:
    yield from serve(tmp_path_factory.mktemp("cdcs"))


@pytest.fixture
def alice(server: CDCSServer) -> CDCSArchive:
    return archive_of(server, "alice")


@pytest.fixture
def site(workshop: Workshop, server: CDCSServer, request: pytest.FixtureRequest) -> Site:
    words = "".join(c if c.isalnum() else "-" for c in request.node.name.removeprefix("test_"))
    return Site(workshop, server, words.replace("_", "-").strip("-")[:60].strip("-"))


def files(seed: str, count: int = 12) -> dict[str, bytes]:
    """Return files that no other test has: blobs of a workspace are shared by all of its releases."""
    dice = random.Random(seed)
    return {f"data/{n % 3}/Größe {n}.csv": dice.randbytes(dice.randrange(1, 4000)) for n in range(count)}


def upload(archive: CDCSArchive, directory: Path, content: dict[str, bytes], workspace: str = PUBLIC) -> ReleaseRecord:
    """Upload files and return a record of them, without publishing it."""
    for path, data in content.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(data)
    project = {path: {"/item/": "File", "/path/": path} for path in content}
    title = f"api-{sha1(repr(content).encode())[:12]}"
    record = {"title": f"{title}-v1.0.0", "title_versionless": title, "version": "1.0.0", "project": project}
    archive.upload_blobs_and_update_mapping(
        release_title=record["title"],
        release_title_versionless=title,
        workspace=workspace,
        project_mapping=project,
        project_directory=directory,
        max_threads=4,
        chunk_size=MIB,
    )
    return ReleaseRecord(record)


# --- publishing and fetching ------------------------------------------------------------------------------------------


def test_a_release_comes_back_as_it_was_published_and_both_runs_need_nothing_more(
    site: Site, alice: CDCSArchive
) -> None:
    content = {**files(site.title), "empty.txt": b"", "twins/a.bin": b"twins 1", "twins/b.bin": b"twins 1"}
    site.workshop.project(files=content)
    outcome = site.publish()
    assert outcome.code == 0, outcome.output
    assert "13 moved" in outcome.output
    (record,) = alice.get_release_records(site.title).values()
    assert f"The record is {record['/PID/']}" in outcome.output
    digests = [sha1(data) for data in content.values() if data]
    assert described(alice, digests) == stored(alice, digests) == dict.fromkeys(digests, 1)

    outcome = site.fetch()
    assert outcome.code == 0, outcome.output
    assert site.fetched() == content
    for again in (site.publish(), site.fetch()):
        assert again.code == 0
        assert "Nothing to do" in again.output
    assert list(alice.get_release_records(site.title)) == [f"{site.title}-v0.1.0"]
    assert described(alice, digests) == dict.fromkeys(digests, 1)


def test_a_new_version_moves_only_what_changed(site: Site, alice: CDCSArchive) -> None:
    content = files(site.title)
    site.workshop.project(files=content)
    assert site.publish("0.1.0").code == 0
    changed = site.title.encode()
    site.workshop.project(files={"data/0/Größe 0.csv": changed})
    dry = site.publish("0.2.0", dry_run=True)
    assert "1 of 12 blobs would move" in dry.output
    outcome = site.publish("0.2.0")
    assert outcome.code == 0, outcome.output
    assert "1 moved" in outcome.output
    assert "11 already there" in outcome.output
    assert site.fetch(versions="<0.2.0").code == site.fetch().code == 0
    assert site.fetched("0.1.0") == content
    assert site.fetched("0.2.0") == {**content, "data/0/Größe 0.csv": changed}


def test_an_existing_version_is_refused_and_repeated_only_when_asked_for(site: Site, alice: CDCSArchive) -> None:
    site.workshop.project(files=files(site.title, 3))
    assert site.publish().code == 0
    first = alice.get_release_records(site.title)[f"{site.title}-v0.1.0"]
    site.workshop.project(files={"new.csv": site.title.encode()})
    refused = site.publish()
    assert refused.code == 30
    assert "give another --release-version or --repeat-release" in refused.output
    repeated = site.publish(repeat_release=True)
    assert repeated.code == 0, repeated.output
    second = alice.get_release_records(site.title)[f"{site.title}-v0.1.0"]
    assert second["/PID/"] != first["/PID/"]
    assert "new.csv" in second["project"]
    assert f"The record is {second['/PID/']}" in repeated.output
    assert site.publish(repeat_release=True).code == 0
    assert alice.get_release_records(site.title)[f"{site.title}-v0.1.0"]["/PID/"] != second["/PID/"]
    assert alice.get_release_versions(site.title) == ["0.1.0"]
    assert site.fetch().code == 0
    assert "new.csv" in site.fetched()


def test_publishing_that_is_killed_is_completed_by_the_same_command(site: Site, alice: CDCSArchive) -> None:
    content = {**files(site.title, 120), "long trace.bin": random.Random(site.title).randbytes(70 * MIB)}
    site.workshop.project(files=content)
    digests = [sha1(data) for data in content.values()]
    dice = random.Random(1)
    kills = 0
    for _ in range(4):
        aim = sum(stored(alice, digests).values()) + dice.randrange(1, 25)
        process = site.start()
        with process:
            kills += _kill_when(process, lambda aim=aim: sum(stored(alice, digests).values()) >= aim)  # type: ignore[misc]
        with contextlib.suppress(ReleaseRecordNotFoundError):
            assert alice.get_release_records(site.title)
            assert described(alice, digests) == dict.fromkeys(digests, 1)
    assert kills >= 2
    outcome = site.publish()
    assert outcome.code == 0, outcome.output
    # A server that was being sent something when the client died throws it away a little later.
    assert described(alice, digests) == stored(alice, digests) == dict.fromkeys(digests, 1)
    assert len(alice.get_release_records(site.title)) == 1
    assert site.fetch().code == 0
    assert site.fetched() == content


def _kill_when(process: "subprocess.Popen[str]", moment: Callable[[], bool]) -> bool:
    end = time.monotonic() + 60
    while process.poll() is None and not moment():
        assert time.monotonic() < end, "the run does not end"
    killed = process.poll() is None
    process.kill()
    output = process.stdout.read() if process.stdout else ""
    assert process.wait() in (0, -9), output
    return killed


def test_two_publishers_at_once_leave_one_blob_of_everything(site: Site, alice: CDCSArchive) -> None:
    content = files(site.title, 60)
    site.workshop.project(files=content)
    first, second = site.start("0.1.0"), site.start("0.2.0")
    outputs = [process.communicate(timeout=120)[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), outputs
    digests = [sha1(data) for data in content.values()]
    assert described(alice, digests) == dict.fromkeys(digests, 1)
    for version in ("0.1.0", "0.2.0"):
        assert site.fetch(versions=f"=={version}").code == 0
        assert site.fetched(version) == content


def test_workspaces_are_honoured_in_writing_and_reading(site: Site, alice: CDCSArchive, server: CDCSServer) -> None:
    content = files(site.title, 3)
    site.workshop.project(files=content)
    digests = [sha1(data) for data in content.values()]
    assert site.publish("0.1.0").code == 0
    elsewhere = site.publish("0.2.0", workspace=OTHER)
    assert elsewhere.code == 0, elsewhere.output
    assert "3 moved" in elsewhere.output
    assert described(alice, digests, OTHER) == described(alice, digests) == dict.fromkeys(digests, 1)
    assert alice.get_release_versions(site.title) == ["0.1.0"]
    assert alice.get_release_versions(site.title, OTHER) == ["0.2.0"]
    with pytest.raises(NotFoundError, match=f"no workspace '{OTHER}'"):
        archive_of(server, "bob").get_release_records(site.title, None, OTHER)
    missing = site.fetch(workspace="Nowhere")
    assert missing.code == 30
    assert "no workspace 'Nowhere'" in missing.output


def test_a_new_archive_gets_its_templates_once_and_only_from_an_administrator(
    workshop: Workshop, tmp_path: Path
) -> None:
    with CDCSServer(tmp_path / "new") as server:
        site = Site(workshop, server, "sample")
        workshop.project(files={"a.csv": b"1"})
        without = site.publish()
        assert without.code == 30
        assert "; ask its administrator to install it" in without.output
        refused = workshop.run("CreateArchive", archive=server.base_url)
        assert refused.code == 30
        assert "Only administrators" in refused.output
        site.log_in("admin")
        made = workshop.run("CreateArchive", archive=server.base_url)
        assert made.code == 0, made.output
        assert "Release and BlobMetadata installed" in made.output
        assert "has the templates already" in workshop.run("CreateArchive", archive=server.base_url).output
        site.log_in("alice")
        assert site.publish().code == 0


# --- the interface ----------------------------------------------------------------------------------------------------


def test_a_record_is_refused_until_its_blobs_are_there(alice: CDCSArchive, tmp_path: Path) -> None:
    record = upload(alice, tmp_path, {"a.csv": b"refused 1", "b.csv": b"refused 2"})
    node = record.content["project"]["a.csv"]
    node["/bpid/"], right = f"{alice.host}/rest/blob/download/99999/", node["/bpid/"]
    with pytest.raises(ArchiveError, match=r"the blob of 'a.csv' is not in"):
        alice.upload_release_record(record.content, PUBLIC)
    with pytest.raises(ArchiveError, match="is not in"):
        alice.upload_release_record({**record.content}, OTHER)
    node["/bpid/"] = right
    assert alice.upload_release_record(record.content, PUBLIC)


def test_what_the_site_would_refuse_is_refused_before_anything_moves(site: Site, alice: CDCSArchive) -> None:
    data = site.title.encode()
    site.workshop.project(files={"$ref": data})
    outcome = site.publish()
    assert outcome.code == 30
    assert "cannot be stored in CDCS: the key '$ref' starts with '$'" in outcome.output
    assert "Traceback" not in outcome.output
    assert not stored(alice, [sha1(data)])


def test_one_file_is_uploaded_once_with_the_parameters_as_documented(alice: CDCSArchive, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"one file")
    (tmp_path / "empty").touch()
    first = alice.process_and_upload_blob("a.csv", tmp_path, "one-v1.0.0", "one", PUBLIC, MIB)
    assert first == alice.process_and_upload_blob(Path("a.csv"), tmp_path, "one-v2.0.0", "one", PUBLIC, MIB)
    assert first[1] == 8
    assert alice.process_and_upload_blob("empty", tmp_path, "one-v1.0.0", "one", PUBLIC, MIB) == (None, 0)
    assert described(alice, [sha1(b"one file")]) == {sha1(b"one file"): 1}


def test_a_file_that_changes_is_not_stored_under_the_digest_that_it_had(alice: CDCSArchive, tmp_path: Path) -> None:
    record = upload(alice, tmp_path, {"steady.csv": b"steady"})
    (tmp_path / "changing.csv").write_bytes(b"after")
    blob = record.blobs[0]._replace(digest=sha1(b"befor"), size=5, paths=("changing.csv",))
    pids, failures = alice.upload_blobs([blob], ProjectSource(tmp_path), record, PUBLIC, threads=1, meter=Silent())
    assert not pids
    assert "changed" in str(failures[blob.digest])
    assert not stored(alice, [blob.digest, sha1(b"after")])


def test_an_orphan_is_used_when_it_is_whole_and_removed_when_it_is_not(alice: CDCSArchive, tmp_path: Path) -> None:
    whole, wrong = b"a whole orphan", b"a wrong orphan"
    kept = alice.curator.upload_blob(f"{sha1(whole)}.csv", io.BytesIO(whole), len(whole))
    removed = alice.curator.upload_blob(f"{sha1(wrong)}.csv", io.BytesIO(b"something else"), 14)
    upload(alice, tmp_path, {"whole.csv": whole, "wrong.csv": wrong})
    idents = {blob.id for blob in alice.curator.list_own_blobs()}
    assert kept.id in idents
    assert removed.id not in idents
    assert stored(alice, [sha1(whole), sha1(wrong)]) == {sha1(whole): 1, sha1(wrong): 1}


def test_a_blob_is_downloaded_verified_or_not_at_all(alice: CDCSArchive, tmp_path: Path) -> None:
    data = os.urandom(300_000)
    record = upload(alice, tmp_path, {"a.bin": data}).content
    pid, status = record["project"]["a.bin"]["/bpid/"], dict[str, Any]()
    alice.download_blob(pid, tmp_path / "got.bin", status, len(data), record, PUBLIC)
    assert (tmp_path / "got.bin").read_bytes() == data
    assert status == {"size": len(data), "finished": True, "success": True, "error": None}

    record["project"]["a.bin"]["/sha1/"] = sha1(b"other bytes")
    with pytest.raises(BlobsFailedError, match="damaged"):
        alice.download_blob(pid, tmp_path / "bad.bin", status, len(data), record, PUBLIC)
    assert status["finished"] is True
    assert status["success"] is False
    with pytest.raises(RecordError, match="has no blob"):
        alice.download_blob(f"{pid}0", tmp_path / "bad.bin", status, len(data), record, PUBLIC)
    assert not (tmp_path / "bad.bin").exists()


def test_a_blob_is_opened_anywhere_although_the_site_always_starts_over(alice: CDCSArchive, tmp_path: Path) -> None:
    record = upload(alice, tmp_path, {"a.txt": b"0123456789 opened"})
    with alice.open_blob(record.blobs[0]._replace(pid=_pid(record)), record.content, PUBLIC, 11) as stream:
        assert stream.read(100) == b"opened"


def _pid(record: ReleaseRecord) -> str:
    (node,) = record.content["project"].values()
    return str(node["/bpid/"])


def test_a_release_of_the_earlier_tool_is_fetched_by_the_digests_of_its_blob_metadata(
    alice: CDCSArchive, tmp_path: Path
) -> None:
    # Its records have no /sha1/, and what its BlobMetadata calls sha1 is SHA-256.
    data, curator = b"of the earlier tool", alice.curator
    digest = hashlib.sha256(data).hexdigest()
    public = curator.workspace_id(PUBLIC)
    blob = curator.upload_blob("earlier.csv", io.BytesIO(data), len(data))
    curator.assign_blob(blob.id, public)
    metadata = {"sha1": digest, "blob/PID/": blob.pid, "/bytes/": len(data)}
    curator.create_data("earlier.csv", curator.template_id("BlobMetadata"), public, metadata)
    node = {"/item/": "File", "/path/": "a.csv", "/bpid/": blob.pid, "/bytes/": len(data)}
    record = {"title": "earlier-v1.0.0", "title_versionless": "earlier", "version": "1.0.0", "project": {"a.csv": node}}
    curator.create_data("earlier-v1.0.0", curator.template_id("Release"), public, record)
    (found,) = alice.get_release_records("earlier").values()
    assert found["project"]["a.csv"]["/sha1/"] == digest
    alice.download_release(found, PUBLIC, 2, tmp_path / "got", MIB, progress_bar=False)
    assert (tmp_path / "got" / "a.csv").read_bytes() == data


def test_a_release_of_the_earlier_tool_whose_blobs_nobody_describes_is_refused(alice: CDCSArchive) -> None:
    node = {"/item/": "File", "/path/": "a.csv", "/bpid/": f"{alice.host}/pid/rest/local/cdcs/GONE", "/bytes/": 7}
    record = {"title": "bare-v1.0.0", "title_versionless": "bare", "version": "1.0.0", "project": {"a.csv": node}}
    curator = alice.curator
    curator.create_data("bare-v1.0.0", curator.template_id("Release"), curator.workspace_id(PUBLIC), record)
    with pytest.raises(RecordError, match=r"'a.csv' has no valid /sha1/ or /bpid/"):
        alice.get_release_records("bare")


def test_nonsense_of_others_in_the_workspace_hides_nothing(alice: CDCSArchive, tmp_path: Path) -> None:
    record = upload(alice, tmp_path, {"a.csv": b"among nonsense"})
    curator, public = alice.curator, alice.curator.workspace_id(PUBLIC)
    template = curator.template_id("BlobMetadata")
    digest = sha1(b"among nonsense")
    for size, pid in ((1, "x"), (-1, "y"), (14, "")):
        with contextlib.suppress(ArchiveError):
            curator.create_data("n", template, public, {"sha1": digest, "blob/PID/": pid, "/bytes/": size})
    assert alice.find_blobs(record.blobs, "any", PUBLIC) == {digest: _pid(record)}
    bad = {"title": "no", "title_versionless": record.title_versionless, "version": "not one", "project": {}}
    curator.create_data("no", curator.template_id("Release"), public, bad)
    alice.upload_release_record(record.content, PUBLIC)
    assert json.dumps(alice.get_release_versions(record.title_versionless)) == '["1.0.0"]'


def test_required_releases_come_from_the_site_until_one_is_published_again(site: Site) -> None:
    cables, project = f"cables-of-{site.title}"[:60].strip("-"), site.workshop.project(files=files(site.title, 2))
    assert site.publish("0.2.0", title=cables).code == 0
    (project / "release.yml").write_text(f"requires-releases: ['{cables}>=0.2.0']", encoding="utf-8")
    assert site.publish().code == 0
    outcome = site.fetch(with_requirements=True)
    assert outcome.code == 0, outcome.output
    assert f"Required by it, and here: {cables}-v0.2.0" in outcome.output
    assert len(list(site.workshop.folder.glob("fetched/*/data"))) == 2
    assert "Nothing to do" in site.fetch(with_requirements=True).output
    (project / "release.yml").unlink()
    assert site.publish("0.2.0", title=cables, repeat_release=True).code == 0
    outcome = site.fetch(with_requirements=True)
    assert outcome.code == 30
    assert f"names {cables}-v0.2.0, which is no longer in {site.server.base_url} with the same record" in outcome.output
    assert site.fetch(with_requirements=True, update=True).code == 0
