"""Records on a CDCS site prove themselves: damage is found without another archive, and healed from a mirror."""

import json
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipeline import CDCSArchive, FileSystemArchive
from pipeline.archives.cdcs.client import Data
from pipeline.archives.filesystem import create_archive
from pipeline.archives.sources import ArchiveSource, copied_record
from pipeline.audit import TitleAudit
from pipeline.errors import RecordError
from pipeline.release import ReleaseRecord
from pipeline.transfer import Silent
from tests.audits import audit
from tests.cdcs import PUBLIC, archive_of, serve
from tests.cdcs_server import CDCSServer
from tests.cdcs_server.fake_cdcs import FakeCDCS
from tests.support import sha1


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CDCSServer]:
    yield from serve(tmp_path_factory.mktemp("cdcs"))


FILES = {"a.csv": b"1,2\n" * 9, "b c/Größe.csv": b"3,4\n" * 7, "b c/empty.csv": b""}


class Kept:
    """A release on a site, and a mirror of it in a folder."""

    def __init__(self, server: CDCSServer, folder: Path, title: str) -> None:
        self.server, self.folder, self.title = server, folder, title
        self.site = archive_of(server)
        self.record = publish(self.site, folder / "project", title, FILES)
        self.mirror = folder / "mirror"
        create_archive(self.mirror)
        mirror(self.site, FileSystemArchive(self.mirror), title)
        (self.data,) = self.site.curator.own_data(f"{title}-v1.0.0", self.site.curator.template_id("Release"))

    def text_file(self, data: Data | None = None) -> Path:
        """Return the file in which the server keeps what it gives to readers."""
        (name,) = self.ask("SELECT file FROM core_main_app_data WHERE id=?", (data or self.data).id)
        return next((self.server.folder / "media").rglob(Path(name).name))

    def ask(self, statement: str, *values: object) -> Any:
        """Do something to the server's database, which is what it searches."""
        with closing(sqlite3.connect(self.server.folder / "db.sqlite3", timeout=60)) as database, database:
            return database.execute(statement, values).fetchone()

    def break_seal(self) -> None:
        """Let the record say something else, and its seal something else again."""
        wrong = {"workflow": {"β": 0.2}, "/sha1/": sha1(b"another seal")}
        self.text_file().write_bytes(json.dumps({**json.loads(self.data.text), **wrong}).encode())

    def audit(self, mirror: Path | None = None) -> TitleAudit:
        """Audit the title."""
        return audit(archive_of(self.server), mirror, title=self.title)

    def are_found(self) -> list[str]:
        """Return what an audit of the workspace says of descriptions."""
        return [said for said in archive_of(self.server).auditor(PUBLIC).unread_records() if "descri" in said]

    def is_restored(self) -> bool:
        """Tell whether the site has the record as it was published, at its PID, and once."""
        template = self.site.curator.template_id("Release")
        (now,) = self.site.curator.own_data(f"{self.title}-v1.0.0", template)
        same = json.loads(now.text) == json.loads(self.data.text) and now.title == self.data.title
        return same and self.site.is_found_by_pid(self.data.id, self.record["/PID/"], PUBLIC)


def publish(
    archive: CDCSArchive | FileSystemArchive, folder: Path, title: str, files: dict[str, bytes]
) -> dict[str, Any]:
    """Publish files, and return the record as readers get it."""
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    project: dict[str, Any] = {}
    for path in files:
        *parents, name = path.split("/")
        node = project
        for depth, parent in enumerate(parents):
            node = node.setdefault(parent, {"/path/": "/".join(parents[: depth + 1]), "/item/": "Directory"})
        node[name] = {"/path/": path, "/item/": "File"}
    name = f"{title}-v1.0.0"
    archive.upload_blobs_and_update_mapping(name, title, PUBLIC, project, folder, 2, 2**20)
    archive.upload_release_record(
        {"title": name, "title_versionless": title, "version": "1.0.0", "project": project, "workflow": {"β": 0.1}},
        PUBLIC,
    )
    record = archive.get_release(title, "1.0.0", PUBLIC)
    assert record is not None
    return record


def mirror(source: CDCSArchive | FileSystemArchive, destination: CDCSArchive | FileSystemArchive, title: str) -> None:
    """Copy a release as MirrorRelease does."""
    found = source.get_release(title, "1.0.0", PUBLIC)
    assert found is not None
    record = ReleaseRecord(found)
    blobs = ArchiveSource(source, found, PUBLIC)
    pids, failures = destination.upload_blobs(record.blobs, blobs, record, PUBLIC, threads=2, meter=Silent())
    assert not failures
    content = copied_record(record, source, PUBLIC)
    ReleaseRecord(content).set_pids(pids)
    destination.upload_release_record(content, PUBLIC)


@pytest.fixture
def kept(server: CDCSServer, tmp_path: Path, request: pytest.FixtureRequest) -> Kept:
    return Kept(server, tmp_path, "t" + sha1(request.node.name.encode())[:10])


def flipped(data: bytes, bit: int) -> bytes:
    """Return bytes with one bit flipped."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def means_the_same(data: bytes, other: bytes) -> bool:
    """Tell whether two texts are the same JSON, as 1e5 and 1E5 are."""
    try:
        return bool(json.loads(data) == json.loads(other))
    except ValueError:
        return False


def test_any_flipped_bit_of_a_record_is_found_and_healed_from_a_mirror(kept: Kept) -> None:
    file = kept.text_file()
    whole = file.read_bytes()
    bits = [bit for bit in random.Random(5).sample(range(len(whole) * 8), 20) if bit % 8 != 7]
    places = [whole.index(word) * 8 + 9 for word in (b'"/PID/"', b'"/sha1/": "', b'"title"', b"1.0.0", b'"project"')]
    for bit in [*places, *bits, 7]:  # the last one makes a file that is not UTF-8, which the site cannot read itself
        if means_the_same(flipped(whole, bit), whole):
            continue
        kept.text_file().write_bytes(flipped(whole, bit))
        assert kept.audit().failures, bit
        found = kept.audit(kept.mirror)
        assert not found.failures, (bit, found.failures)
        assert found.counts["damaged_records"] == 1
        assert kept.is_restored(), bit
    aside = [
        blob for blob in kept.site.curator.list_own_blobs() if blob.filename.startswith(f"damaged-{kept.data.id}-")
    ]
    assert len(aside) > 20
    assert all(blob.workspace is None for blob in aside)
    assert not kept.audit().failures


def test_what_the_site_searches_is_compared_with_what_it_gives(kept: Kept) -> None:
    """A site keeps each record twice: readers get one, and the other one tells which they get."""
    for key in ("title", "title_versionless", "/PID/"):
        wrong = "x" + str(json.loads(kept.data.text)[key])[1:]
        kept.ask(
            "UPDATE core_main_app_data SET dict_content=json_set(dict_content, ?, ?) WHERE id=?",
            f'$."{key}"',
            wrong,
            kept.data.id,
        )
        assert kept.audit().failures, key
        assert not kept.audit(kept.mirror).failures, key
        assert kept.is_restored(), key
        assert not kept.audit().failures
    kept.ask("UPDATE core_main_app_data SET title='something else' WHERE id=?", kept.data.id)
    assert kept.audit().failures
    assert not kept.audit(kept.mirror).failures
    assert kept.is_restored()


def test_a_reader_refuses_a_record_that_does_not_say_what_was_published(kept: Kept) -> None:
    file = kept.text_file()
    file.write_bytes(file.read_bytes().replace(b"0.1", b"0.2"))
    with pytest.raises(RecordError, match=f"{kept.title}-v1.0.0 in .*: it does not say what was published"):
        kept.site.get_release(kept.title, "1.0.0")
    with pytest.raises(RecordError, match="does not say what was published"):
        kept.site.get_release_records(kept.title)
    assert kept.title in {name.title_versionless for name in kept.site.list_releases()}


def test_a_record_is_not_stored_with_a_pid_that_nothing_proves(kept: Kept, tmp_path: Path) -> None:
    """A mirror that the release did not come from does not know it, and CDCS forgets a PID that is replaced."""
    other = tmp_path / "original"
    create_archive(other)
    content = json.loads(kept.data.text)
    archive = FileSystemArchive(other)
    mirror(kept.site, archive, kept.title)
    for file in other.rglob("*"):
        if file.is_file() and kept.title in file.name:
            origin = {"host": "/somewhere/else", "pid": "/somewhere/else/record"}
            record = {**json.loads(file.read_bytes()), "origin": origin}
            file.write_bytes(ReleaseRecord(record).dump())
    for copied in (other / PUBLIC / kept.title / ".records").rglob("*"):
        if copied.is_file():
            copied.unlink()
    kept.text_file().write_bytes(kept.data.text.replace(content["/PID/"], content["/PID/"][:-1] + "_").encode())
    found = kept.audit(other)
    (failure,) = found.failures
    assert "nothing tells its PID, which would be lost" in failure.sentence
    kept.text_file().write_bytes(kept.data.text.encode())
    assert not kept.audit().failures


def test_a_record_without_a_seal_is_compared_with_that_of_the_mirror(kept: Kept) -> None:
    content = {key: value for key, value in json.loads(kept.data.text).items() if key != "/sha1/"}
    kept.text_file().write_bytes(json.dumps(content).encode())
    assert not kept.audit(kept.mirror).failures
    kept.text_file().write_bytes(json.dumps({**content, "workflow": {"β": 0.2}}).encode())
    assert not kept.audit().failures
    assert not kept.audit(kept.mirror).failures
    assert kept.is_restored()


def test_a_damaged_description_of_a_blob_is_found_and_replaced(kept: Kept) -> None:
    digest = next(node["/sha1/"] for node in kept.record["project"].values())
    template = kept.site.curator.template_id("BlobMetadata")
    (described,) = kept.site.curator.own_data(digest, template)
    whole = kept.text_file(described).read_bytes()
    said = whole.index(b'"/PID/"') * 8  # a description has a PID of its own, which nobody uses
    for bit in [*random.Random(6).sample(range(said), 6), 7]:
        if means_the_same(flipped(whole, bit), whole):
            continue
        (now,) = kept.site.curator.own_data(digest, template)
        file = kept.text_file(now)
        file.write_bytes(flipped(file.read_bytes(), bit))
        assert kept.are_found(), bit
        archive_of(kept.server).auditor(PUBLIC).mend()
        assert not kept.are_found(), bit
        (now,) = kept.site.curator.own_data(digest, template)
        assert kept.text_file(now).read_bytes()[: said // 8] == whole[: said // 8]
        assert not kept.audit().failures


def test_a_record_that_the_mirror_does_not_have_stays_as_it_is(kept: Kept, tmp_path: Path) -> None:
    create_archive(tmp_path / "another")
    kept.break_seal()
    (failure,) = kept.audit(tmp_path / "another").failures
    assert f"it is not repaired, because {tmp_path}/another has no {kept.title}-v1.0.0" in failure.sentence
    assert not kept.audit(kept.mirror).failures
    assert kept.is_restored()


@pytest.mark.parametrize("has_copies", [True, False])
def test_a_record_is_put_back_from_an_archive_that_knows_nothing_of_the_site_when_that_proves_its_own(
    kept: Kept, tmp_path: Path, has_copies: bool
) -> None:
    """What was published in both can only be told from what is damaged in one by what proves the other."""
    create_archive(tmp_path / "another")
    publish(FileSystemArchive(tmp_path / "another"), tmp_path / "project", kept.title, FILES)
    for copy in (tmp_path / "another" / PUBLIC / kept.title / ".records").rglob("*"):
        if copy.is_file() and not has_copies:
            copy.unlink()
    kept.break_seal()
    failures = kept.audit(tmp_path / "another").failures
    if has_copies:
        assert not failures
        now = kept.site.get_release(kept.title, "1.0.0")
        assert now is not None
        assert ReleaseRecord(now).same_release(ReleaseRecord(kept.record))
        assert now["/PID/"] == kept.record["/PID/"]
    else:
        (failure,) = failures
        assert f"nothing in {tmp_path}/another proves what it said; look at both" in failure.sentence
        assert not kept.audit(kept.mirror).failures


def test_a_record_is_not_put_back_before_its_blobs_are_described(kept: Kept, tmp_path: Path) -> None:
    publish(kept.site, tmp_path / "project", f"{kept.title}-too", FILES)
    digest, template = kept.record["project"]["a.csv"]["/sha1/"], kept.site.curator.template_id("BlobMetadata")
    for described in kept.site.curator.own_data(digest, template):
        kept.site.curator.delete_data(described.id)
    kept.break_seal()
    (failure,) = kept.audit(kept.mirror).failures
    assert "it is not repaired, because the blob of 'a.csv' is not described" in failure.sentence
    assert kept.are_found()
    archive_of(kept.server).auditor(PUBLIC).mend()
    assert not kept.audit(kept.mirror).failures
    assert kept.is_restored()


def test_several_records_that_the_site_cannot_read_are_told_by_their_titles(kept: Kept) -> None:
    template = kept.site.curator.template_id("BlobMetadata")
    described, *_ = kept.site.curator.own_data(kept.record["project"]["a.csv"]["/sha1/"], template)
    texts = {file: file.read_bytes() for file in (kept.text_file(), kept.text_file(described))}
    for file, text in texts.items():
        file.write_bytes(b"\xff" + text)
    said = archive_of(kept.server).auditor(PUBLIC).unread_records()
    for name in (f"{kept.title}-v1.0.0", described.title[:12]):
        assert f"the site cannot read its record '{name}'" in said
    for file, text in texts.items():
        file.write_bytes(text)
    assert not kept.audit().failures


def test_a_record_that_names_no_files_at_all_is_damaged(kept: Kept) -> None:
    content = {key: value for key, value in json.loads(kept.data.text).items() if key not in ("/sha1/", "project")}
    kept.text_file().write_bytes(json.dumps(content).encode())
    auditor = archive_of(kept.server).auditor(PUBLIC)
    assert auditor.versions(kept.title) == ["1.0.0"]
    assert auditor.unnamed_blobs() == []
    assert kept.audit().failures
    assert not kept.audit(kept.mirror).failures
    assert kept.is_restored()


@pytest.mark.parametrize("is_mirror", [True, False])
def test_a_record_on_a_site_that_gives_no_pids_is_put_back_without_one(tmp_path: Path, is_mirror: bool) -> None:
    create_archive(tmp_path / "another")
    another = FileSystemArchive(tmp_path / "another")
    with FakeCDCS() as fake:
        site = CDCSArchive(fake.base_url, "alice", "pa55-of-alice")
        publish(site, tmp_path / "project", "sample", FILES)
        if is_mirror:
            mirror(site, another, "sample")
        else:
            publish(another, tmp_path / "project", "sample", FILES)
        (record,) = [item for item in fake.records if item["title"] == "sample-v1.0.0"]
        whole = record["content"]
        record["content"] = whole.replace('"β": 0.1', '"β": 0.2')
        assert audit(site).failures
        assert not audit(site, another).failures
        assert json.loads(record["content"]) == json.loads(whole)
