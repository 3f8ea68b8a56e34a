"""A CDCS site is audited, heals a folder and is healed from one; what was damaged stays with whoever repaired it."""

import contextlib
import copy
import io
import itertools
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import ArchiveInterface, CDCSArchive, FileSystemArchive
from pipeline.archives.cdcs.client import CDCSClient
from pipeline.archives.filesystem import create_archive
from pipeline.errors import BlobsFailedError
from pipeline.release import Blob
from tests.audits import audit
from tests.cdcs import PUBLIC, Site, archive_of, described, serve, stored
from tests.cdcs_server import CDCSServer
from tests.forked import ForkedWorkshop
from tests.support import Outcome, Workshop, sha1, tree


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CDCSServer]:
    yield from serve(tmp_path_factory.mktemp("cdcs"))


@pytest.fixture
def title(request: pytest.FixtureRequest) -> str:
    """A title of the test's own."""
    return "t" + sha1(request.node.name.encode())[:10]


class Mirrored(Site):
    """A release in a workspace of a site, and a folder that mirrors it."""

    def __init__(self, workshop: Workshop, server: CDCSServer, title: str) -> None:
        super().__init__(workshop, server, title)
        dice = random.Random(title)
        self.content = {f"{number}.csv": dice.randbytes(500 + number) for number in range(10)}
        self.workspace = f"workspace {title}"
        self.alice = archive_of(server)
        made = self.alice.curator.call(
            "POST", "/rest/workspace/", {"title": self.workspace}, doing="to make a workspace", expect=201
        )
        assert made
        self.mirror = workshop.folder / "mirror"
        create_archive(self.mirror)
        for archive in (self.alice, FileSystemArchive(self.mirror)):
            self.put(archive, "0.1.0", self.content, self.workspace)

    def put(self, archive: ArchiveInterface, version: str, files: dict[str, bytes], workspace: str) -> None:
        """Publish files without a process of their own."""
        folder = self.workshop.project(version, files)
        project = {path: {"/path/": path, "/item/": "File"} for path in files}
        name = f"{self.title}-v{version}"
        archive.upload_blobs_and_update_mapping(name, self.title, workspace, project, folder, 4, 2**20)
        record = {"title": name, "title_versionless": self.title, "version": version, "project": project}
        archive.upload_release_record(record, workspace)

    def opened(self) -> CDCSArchive:
        """Return the site as another process would see it that is logged in already."""
        archive = copy.copy(self.alice)
        archive._shelves = {}
        return archive

    def audit(self, archive: str | None = None, **options: object) -> Outcome:
        """Audit the workspace of the site."""
        options = {"archive": archive or self.server.base_url, "workspace": self.workspace, **options}
        outcome = self.workshop.run("AuditArchive", **options)
        assert "Traceback" not in outcome.output, outcome.output
        return outcome

    def file_of(self, path: str) -> Path:
        """Return the file in which the server keeps a blob."""
        (file,) = (self.server.folder / "media" / "blob").rglob(f"{sha1(self.content[path])}*")
        return file

    def flip(self, path: str) -> bytes:
        """Flip a bit of a blob on the server, and return what it holds then."""
        data = bytearray(self.content[path])
        data[len(data) // 2] ^= 16
        self.file_of(path).write_bytes(data)
        return bytes(data)

    def delete(self, path: str) -> None:
        """Delete a blob, and leave its description."""
        (blob,) = self.alice.curator.find_own_blobs([sha1(self.content[path])])
        self.alice.curator.delete_blob(blob.id)

    def fetched_whole(self) -> bool:
        """Tell whether the release can be fetched as it was published."""
        folder = self.workshop.folder / "fetched"
        shutil.rmtree(folder, ignore_errors=True)
        alice = self.opened()
        (record,) = alice.get_release_records(self.title, None, self.workspace).values()
        with contextlib.suppress(BlobsFailedError):
            alice.download_release(record, self.workspace, 4, folder, 2**20, progress_bar=False)
            return {path: (folder / path).read_bytes() for path in self.content} == self.content
        return False

    def aside(self) -> list[bytes]:
        """Return the bytes that are kept aside, which nobody else can read."""
        kept = [blob for blob in self.alice.curator.list_own_blobs() if blob.filename.startswith("damaged-")]
        wanted = [blob for blob in kept if any(sha1(data) in blob.filename for data in self.content.values())]
        assert all(blob.workspace is None for blob in wanted)
        found = []
        for blob in wanted:
            with self.alice.curator.open_blob(blob.handle) as stream:
                found.append(stream.read())
        return found


@pytest.fixture
def site(tmp_path: Path, server: CDCSServer, title: str) -> Mirrored:
    return Mirrored((ForkedWorkshop if hasattr(os, "fork") else Workshop)(tmp_path), server, title)


def test_damaged_and_missing_blobs_of_a_site_are_found_and_healed_from_a_folder(site: Mirrored) -> None:
    outcome = site.audit()
    assert outcome.code == 0, outcome.output
    assert "10 read" in outcome.output
    damaged = site.flip("0.csv")
    site.delete("1.csv")
    site.file_of("2.csv").write_bytes(site.content["2.csv"][:-1])
    outcome = site.audit(date="2099-01-01")
    assert outcome.code == 30
    for said in ("0.csv: the blob is damaged: its bytes", "1.csv: the blob is missing", "2.csv: the blob is damaged"):
        assert f"{site.title}-v0.1.0, {said}" in outcome.output
    assert not site.aside()
    assert not site.fetched_whole()

    before = site.alice.get_release_records(site.title, None, site.workspace)
    outcome = site.audit(date="2099-01-01", repair_from="mirror")
    assert outcome.code == 0, outcome.output
    assert "2 damaged, 1 missing, 3 repaired" in outcome.output
    assert sorted(site.aside()) == sorted([damaged, site.content["2.csv"][:-1]])
    assert site.fetched_whole()
    assert site.alice.get_release_records(site.title, None, site.workspace) == before
    outcome = site.audit(date="2099-01-02", repair_from="mirror")
    assert outcome.code == 0, outcome.output
    assert "10 read" in outcome.output
    assert "0 damaged, 0 missing" in outcome.output
    assert "0 blobs that no record names" in outcome.output
    assert max(stored(site.alice, map(sha1, site.content.values())).values()) == 1
    site.put(site.opened(), "0.2.0", site.content, site.workspace)
    assert max(stored(site.alice, map(sha1, site.content.values())).values()) == 1


def test_a_folder_is_healed_from_a_site(site: Mirrored) -> None:
    shutil.rmtree(site.mirror)
    create_archive(mirror := site.mirror)
    source = {"source": site.server.base_url, "workspace": site.workspace}
    assert site.workshop.run("MirrorArchive", **source, destination="mirror").code == 0
    before = tree(mirror)
    for number, file in enumerate(sorted(mirror.glob("*/*/blobs/??/*"))[:3]):
        file.write_bytes(b"damaged") if number else file.unlink()
    for file in (*mirror.glob("*/*/*.yml"), *mirror.glob("*/*/.records/*/*")):
        file.write_bytes(file.read_bytes().replace(b'"version"', b'"versiom"'))
    outcome = site.audit("mirror", repair_from=site.server.base_url)
    assert outcome.code == 0, outcome.output
    assert "2 damaged, 1 missing, 3 repaired, 1 records damaged" in outcome.output
    assert {path: data for path, data in tree(mirror).items() if "/.damaged" not in path} == before


class Killed(BaseException):
    """What a test raises where a run would be killed."""


STEPS = [
    *itertools.product(("upload_blob", "delete_blob", "create_data"), ("before", "after")),
    *itertools.product(("assign_blob", "attach_metadata"), ("before",)),
]


def test_a_repair_that_is_killed_between_two_requests_is_completed_by_the_next(
    site: Mirrored, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"title": site.title, "workspace": site.workspace}
    damaged = []
    for (step, when), path in zip(STEPS, site.content, strict=False):
        damaged.append(site.flip(path))
        real = getattr(CDCSClient, step)

        def dying(*args: Any, when: str = when, real: Callable[..., Any] = real, **kwargs: Any) -> None:
            if when == "after":
                real(*args, **kwargs)
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(CDCSClient, step, dying)
            with pytest.raises(Killed):
                audit(site.opened(), site.mirror, **options)
        found = audit(site.opened(), site.mirror, **options)
        assert not found.failures
    assert not audit(site.opened(), **options).failures
    assert sorted(site.aside()) == sorted(damaged)
    assert set(stored(site.alice, map(sha1, site.content.values())).values()) == {1}


def test_a_damaged_blob_stays_where_the_mirror_has_no_better_one(site: Mirrored) -> None:
    damaged = site.flip("0.csv")
    for worse in (b"x" * 500, b"x" * 3_000_000):
        (blob,) = site.mirror.glob(f"*/*/blobs/??/{sha1(site.content['0.csv'])}")
        blob.write_bytes(worse)
        outcome = site.audit(repair_from="mirror")
        assert outcome.code == 30
        assert "is damaged, too" in outcome.output
        assert site.file_of("0.csv").read_bytes() == damaged
        assert not site.aside()


def test_a_damaged_blob_gives_way_to_a_whole_one_that_is_described_already(site: Mirrored) -> None:
    data, curator = site.content["0.csv"], site.alice.curator
    damaged, shelf = site.flip("0.csv"), site.alice.shelf(site.workspace)
    other = curator.upload_blob("uploaded otherwise.csv", io.BytesIO(data), len(data))
    curator.assign_blob(other.id, shelf.workspace)
    shelf.describe(Blob(sha1(data), len(data), ("0.csv",)), str(other.pid), other.handle)
    assert not audit(site.opened(), site.mirror, title=site.title, workspace=site.workspace).failures
    assert site.aside() == [damaged]
    assert curator.find_own_blobs([sha1(data)]) == []
    assert site.fetched_whole()


def test_descriptions_that_lead_nowhere_do_not_stop_a_repair(site: Mirrored) -> None:
    data, curator = site.content["0.csv"], site.alice.curator
    damaged, shelf = site.flip("0.csv"), site.alice.shelf(site.workspace)
    elsewhere = curator.upload_blob("in no workspace.csv", io.BytesIO(data), len(data))
    gone = f"{site.server.base_url}/rest/blob/download/99999/"
    for number, handle in enumerate((None, gone, elsewhere.handle)):
        pid = f"{site.server.base_url}/pid/rest/local/cdcs/GONE{number}"
        shelf.describe(Blob(sha1(data), len(data), ("0.csv",)), pid, handle)
    assert not audit(site.opened(), site.mirror, title=site.title, workspace=site.workspace).failures
    assert site.aside() == [damaged]
    assert curator.get_blob(elsewhere.id) == elsewhere
    assert site.fetched_whole()


def test_who_may_not_remove_a_blob_is_told_who_may(site: Mirrored) -> None:
    data = f"of alice {site.title}".encode()
    site.content["only.csv"] = data
    for archive in (site.alice, FileSystemArchive(site.mirror)):
        site.put(archive, "0.9.0", {"only.csv": data}, PUBLIC)
    site.flip("only.csv")
    options: dict[str, object] = {"workspace": PUBLIC, "repair_from": "mirror"}
    site.log_in("bob")
    for _ in range(2):
        outcome = site.audit(**options)
        assert outcome.code == 30
        assert "may not remove the damaged one; run the same command as the owner of the blob" in outcome.output
    bob = archive_of(site.server, "bob").curator
    assert len([blob for blob in bob.list_own_blobs() if sha1(data) in blob.filename]) == 1
    site.log_in("alice")
    outcome = site.audit(**options)
    assert outcome.code == 0, outcome.output
    assert "1 damaged, 0 missing, 1 repaired" in outcome.output


def test_what_a_site_cannot_deliver_is_named_and_not_touched(site: Mirrored, monkeypatch: pytest.MonkeyPatch) -> None:
    site.file_of("4.csv").unlink()
    monkeypatch.setattr(CDCSClient, "pause", lambda *args: None)
    found = audit(site.alice, site.mirror, title=site.title, workspace=site.workspace)
    (finding,) = found.failures
    assert finding.what.endswith("4.csv")
    assert "it could not be read" in finding.sentence
    assert len(site.alice.curator.find_own_blobs([sha1(site.content["4.csv"])])) == 1


def test_blobs_that_no_record_names_and_records_that_are_none_are_told(site: Mirrored, tmp_path: Path) -> None:
    data = f"never published {site.title}".encode()
    (tmp_path / "lonely.csv").write_bytes(data)
    pid, _ = site.alice.process_and_upload_blob("lonely.csv", tmp_path, "x-v1.0.0", "x", site.workspace, 2**20)
    outcome = site.audit()
    assert outcome.code == 0, outcome.output
    assert f"No record names the blob {pid}, {len(data)} bytes" in outcome.output
    assert described(site.alice, [sha1(data)], site.workspace) == {sha1(data): 1}

    curator = site.alice.curator
    template, workspace = curator.template_id("Release"), curator.workspace_id(site.workspace)
    content = {"title": "y-v1.0.1", "title_versionless": "y", "version": "1.0.0", "project": {}}
    made = curator.create_data("damaged y", template, workspace, content)
    outcome = site.audit(date="2099-01-01")
    assert outcome.code == 30
    (sentence,) = [line for line in outcome.output.splitlines() if line.startswith("ERROR")]
    assert f"the record {made.id}, 'damaged y', is damaged: its title is not that of a release." in sentence
    curator.delete_data(made.id)


def test_a_blob_whose_description_is_gone_is_described_again_and_the_audit_says_so(site: Mirrored) -> None:
    curator, digest = site.alice.curator, sha1(site.content["3.csv"])
    (description,) = curator.own_data(digest, curator.template_id("BlobMetadata"))
    curator.delete_data(description.id)
    found = site.audit()
    assert found.code
    mended = site.audit(repair_from=site.mirror)
    assert (mended.code, "of '3.csv' was described again" in mended.output) == (0, True), mended.output
    again = site.audit()
    assert (again.code, "described" in again.output) == (0, False), again.output
