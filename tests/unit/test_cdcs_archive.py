"""What an archive on a CDCS site makes of the records and blobs that it finds there; the site is in memory."""

import copy
import io
from pathlib import Path
from typing import Any

import pytest

from pipeline import CDCSArchive
from pipeline.archives.cdcs import archive as module
from pipeline.archives.cdcs.archive import SCHEMAS
from pipeline.archives.cdcs.audit import CDCSAuditor
from pipeline.archives.cdcs.client import Blob as StoredBlob
from pipeline.archives.cdcs.contents import SEAL, sealed
from pipeline.archives.interface import ReleaseName
from pipeline.archives.sources import ProjectSource
from pipeline.credentials import GIVEN, KEYRING, Login
from pipeline.errors import (
    ArchiveError,
    BlobDamagedError,
    BlobsFailedError,
    CredentialsError,
    RecordError,
    ReleaseExistsError,
)
from pipeline.release import RECORD_PID, Blob, ReleaseRecord
from tests.cdcs import OTHER, PUBLIC
from tests.memory_site import ELSEWHERE, HERE, RELEASES, Curator, Site
from tests.support import Counting, sha1

Record = dict[str, Any]
ALPHA = sha1(b"alpha")


class Client(Curator):
    """What an archive talks to a site with."""

    def __init__(self, site: Site, host: str, **login: Any) -> None:
        super().__init__(site, str(login.get("user")))
        self.host, self.login, self.tried = host.rstrip("/"), login, 0

    def log_in(self) -> None:
        self.tried += 1


class Desk:
    """Users of a site, and a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.site = folder, Site()

    def archive(self, user: str = "alice", host: str = "https://site/") -> CDCSArchive:
        """Return the archive as a new run of a user sees it."""
        return CDCSArchive(host, user, "secret")

    def client(self, archive: CDCSArchive) -> Client:
        """Return what an archive talks to the site with."""
        client: Any = archive.curator
        assert isinstance(client, Client)
        return client

    def put(self, data: bytes = b"alpha", owner: str = "bob") -> StoredBlob:
        """Let somebody have published a blob."""
        stored = self.site.put(data, owner)
        self.site.describe(stored, owner)
        return stored

    def publish(self, record: Record, user: str = "alice", workspace: str = PUBLIC) -> str:
        """Publish a record."""
        return self.archive(user).upload_release_record(record, workspace)

    def releases(self) -> list[Record]:
        """Return the records of releases that the site has."""
        return [data.content() for data, _ in self.site.data.values() if data.template == RELEASES]

    def changes(self) -> list[str]:
        """Return what changed the site, in order."""
        return [step for step in self.site.done if not step.startswith(("query", "look"))]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    desk = Desk(tmp_path)
    monkeypatch.setattr(module, "CDCSClient", lambda host, **login: Client(desk.site, host, **login))
    return desk


def record_of(version: str = "1.0.0", title: str = "sample", **more: Any) -> Record:
    record = {"title": f"{title}-v{version}", "title_versionless": title, "version": version, "project": {}}
    return {**record, **more}


def project_of(pid: str | None, data: bytes = b"alpha", nbytes: int | None = None) -> Record:
    """Return the mapping of a folder with a file and an empty one."""
    file = {"/item/": "File", "/bytes/": nbytes or len(data), "/bpid/": pid, "/sha1/": sha1(data)}
    empty = {"/item/": "File", "/bytes/": 0, "/bpid/": None, "/sha1/": sha1(b"")}
    return {"folder": {"/item/": "Directory", "/bpid/": "no blob", "a.csv": file, "empty.csv": empty}}


def without_digest(record: Record) -> Record:
    """Return a record as the earlier tool writes it."""
    record = copy.deepcopy(record)
    for name in ("a.csv", "empty.csv"):
        del record["project"]["folder"][name]["/sha1/"]
    return record


# Who uses it


def test_an_archive_is_that_of_the_user_who_logs_in(desk: Desk) -> None:
    archive = desk.archive()
    assert (archive.host, archive.user) == ("https://site", "alice")
    login = desk.client(archive).login
    assert {key: login[key] for key in ("user", "password", "token", "source")} == {
        "user": "alice",
        "password": "secret",
        "token": None,
        "source": GIVEN,
    }
    assert archive.supports_repeat_releases is True


@pytest.mark.parametrize(("source", "tried"), [(GIVEN, 0), (KEYRING, 1)])
def test_a_login_that_was_stored_is_tried_at_once(
    desk: Desk, source: Any, tried: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = Login("alice", source, "secret")
    monkeypatch.setattr(module, "log_in", lambda host, user, password, connect: connect(login))
    assert desk.client(desk.archive()).tried == tried


def test_nobody_is_asked_for_a_secret_that_would_be_sent_in_plain_text(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "may_use_plain_http", lambda settings, host: host == "http://trusted")
    assert desk.client(desk.archive(host="http://trusted/")).login["allow_http"] is True
    assert desk.client(desk.archive(host="https://site/")).login["allow_http"] is False
    monkeypatch.setattr(module, "log_in", lambda *arguments: pytest.fail("somebody was asked"))
    with pytest.raises(CredentialsError, match="unencrypted"):
        desk.archive(host="http://site")


# Templates and workspaces


def test_a_site_becomes_an_archive_by_the_templates_that_it_lacks(desk: Desk) -> None:
    desk.site.templates = {}
    archive = desk.archive()
    assert archive.missing_templates() == ["Release", "BlobMetadata"]
    assert archive.install_templates() == ["Release", "BlobMetadata"]
    assert desk.changes() == ["create Release", "create BlobMetadata"]
    assert archive.missing_templates() == archive.install_templates() == []
    del desk.site.templates["BlobMetadata"]
    assert desk.archive("admin").install_templates() == ["BlobMetadata"]


def test_the_templates_take_what_is_published(desk: Desk) -> None:
    assert SCHEMAS["BlobMetadata"]["properties"]["/bytes/"] == {"type": "integer", "minimum": 0}
    assert SCHEMAS["Release"]["required"] == ["title", "title_versionless", "version", "project"]


def test_templates_and_workspaces_are_looked_for_once(desk: Desk) -> None:
    archive = desk.archive()
    for _ in range(2):
        archive.upload_release_record(record_of(), PUBLIC)
        archive.get_release("sample", "1.0.0", PUBLIC)
    looked = [step for step in desk.site.done if step.startswith("look")]
    assert sorted(looked) == ["look for BlobMetadata", f"look for {PUBLIC}", "look for Release"]
    assert archive.shelf(OTHER).workspace == ELSEWHERE
    assert archive.shelf(PUBLIC).workspace == HERE


def test_an_auditor_looks_at_one_workspace(desk: Desk) -> None:
    archive = desk.archive()
    auditor = archive.auditor(OTHER)
    assert isinstance(auditor, CDCSAuditor)
    assert (auditor.archive, auditor.workspace) == (archive, OTHER)


# Reading records


@pytest.mark.parametrize("newest_first", [False, True])
def test_of_a_version_that_was_published_twice_readers_get_the_newer_record(desk: Desk, newest_first: bool) -> None:
    desk.site.tells_the_newest_first = newest_first
    pids = [desk.publish(record_of(operator=name)) for name in ("first", "second", "third")]
    assert len(set(pids)) == 3
    archive = desk.archive()
    for record in (archive.get_release("sample", "1.0.0"), archive.get_release_records("sample")["sample-v1.0.0"]):
        assert record == {**record_of(operator="third"), RECORD_PID: pids[-1]}
    assert archive.locate_record(record_of(), PUBLIC) == pids[-1]
    data, content = archive.newest("sample", "1.0.0", PUBLIC) or pytest.fail("there is one")
    assert (content["operator"], content[RECORD_PID]) == ("third", pids[-1])
    assert archive.is_found_by_pid(data.id, pids[-1], PUBLIC)
    assert not archive.is_found_by_pid(data.id, pids[0], PUBLIC)


def test_of_a_version_only_its_own_records_are_asked_for(desk: Desk) -> None:
    desk.publish(record_of())
    desk.site.asked.clear()
    assert desk.archive().get_release("sample", "1.0.0") is not None
    assert desk.site.asked == [{"title_versionless": "sample", "title": "sample-v1.0.0"}]


def test_what_is_not_there_is_not_found(desk: Desk) -> None:
    desk.publish(record_of())
    archive = desk.archive()
    assert archive.get_release("sample", "2.0.0") is None
    assert archive.newest("other", "1.0.0", PUBLIC) is None
    assert archive.locate_record(record_of("2.0.0"), PUBLIC) == "https://site"
    assert archive.get_release_versions("other") == archive.get_release_versions("sample", OTHER) == []


def test_versions_are_chosen_and_sorted_as_versions(desk: Desk) -> None:
    for version in ("0.10.0", "1.0.0", "0.9.0", "1.0.0-rc.1"):
        desk.publish(record_of(version))
    archive = desk.archive()
    assert archive.get_release_versions("sample") == ["0.9.0", "0.10.0", "1.0.0-rc.1", "1.0.0"]
    assert list(archive.get_release_records("sample", [">=0.10.0", "<1.0.0"])) == [
        "sample-v0.10.0",
        "sample-v1.0.0-rc.1",
    ]


@pytest.mark.parametrize("ignores_queries", [False, True])
def test_releases_are_those_that_are_asked_for_whatever_the_site_sends(desk: Desk, ignores_queries: bool) -> None:
    desk.site.ignores_queries = ignores_queries
    for title, version in (("b", "0.10.0"), ("b", "0.9.0"), ("a", "1.0.0"), ("c", "1.0.0")):
        desk.publish(record_of(version, title))
    desk.publish(record_of(title="elsewhere"), workspace=OTHER)
    archive = desk.archive()
    everything = [ReleaseName(*name) for name in (("a", "1.0.0"), ("b", "0.9.0"), ("b", "0.10.0"), ("c", "1.0.0"))]
    assert archive.list_releases() == everything
    assert archive.list_releases(titles=["b", "c", "b"]) == everything[1:]
    assert archive.list_releases(titles=[]) == []
    assert archive.list_releases(OTHER) == [ReleaseName("elsewhere", "1.0.0")]
    assert archive.get_release_versions("b") == ["0.9.0", "0.10.0"]
    assert [content["version"] for _, content in archive.releases("b", PUBLIC, "0.9.0")] == ["0.9.0"]


@pytest.mark.parametrize(
    "nonsense",
    [
        "no mapping",
        {},
        record_of(title="../x"),
        record_of("1"),
        record_of() | {"title": "sample-v2.0.0"},
        record_of() | {"title": None},
        {"title": "sample-v1.0.0"},
    ],
    ids=repr,
)
def test_what_is_not_called_as_a_release_is_none(desk: Desk, nonsense: Any) -> None:
    desk.site.write(nonsense, "eve", template=RELEASES)
    archive = desk.archive()
    assert archive.list_releases() == []
    assert archive.get_release("sample", "1.0.0") is None
    assert len(list(archive.release_data(PUBLIC))) == 1


def test_a_record_that_does_not_say_what_was_published_is_refused(desk: Desk) -> None:
    desk.site.write({**sealed(record_of()), "operator": "eve"}, "eve", template=RELEASES)
    with pytest.raises(RecordError, match=r"^sample-v1\.0\.0 in https://site: it does not say what was published$"):
        desk.archive().get_release("sample", "1.0.0")


def test_a_record_of_a_site_without_pids_is_named_by_its_address(desk: Desk) -> None:
    desk.site.gives_pids = False
    address = desk.publish(record_of())
    (ident,) = desk.site.data
    assert address == f"https://site/rest/data/{ident}/"
    assert desk.archive().get_release("sample", "1.0.0") == {**record_of(), RECORD_PID: address}


def test_a_record_of_the_earlier_tool_gets_the_digests_of_its_blobs_from_their_descriptions(desk: Desk) -> None:
    stored = desk.put()
    whole = record_of(project=project_of(stored.pid))
    desk.site.write(without_digest(whole), "bob", template=RELEASES)
    found = desk.archive().get_release("sample", "1.0.0") or pytest.fail("there is one")
    assert found["project"]["folder"]["a.csv"] == whole["project"]["folder"]["a.csv"]
    assert "/sha1/" not in found["project"]["folder"]["empty.csv"]
    assert "/sha1/" not in found["project"]["folder"]
    assert SEAL not in found


def test_descriptions_are_asked_for_only_where_a_digest_is_missing(desk: Desk) -> None:
    desk.publish(record_of(project=project_of(desk.put().pid)))
    desk.site.done.clear()
    assert desk.archive().get_release("sample", "1.0.0") is not None
    assert "query" not in desk.site.done


def test_a_blob_that_nothing_describes_keeps_its_record_from_being_read(desk: Desk) -> None:
    stored = desk.site.put(b"alpha", "bob")
    desk.site.write(without_digest(record_of(project=project_of(stored.pid))), "bob", template=RELEASES)
    archive = desk.archive()
    with pytest.raises(RecordError):
        ReleaseRecord(archive.get_release("sample", "1.0.0") or {}).blobs  # noqa: B018  what it names is asked for


# Publishing


def test_a_record_is_published_sealed_where_it_was_asked_for(desk: Desk) -> None:
    archive = desk.archive()
    pid = archive.upload_release_record({**record_of(), RECORD_PID: "of another one"}, workspace_title=OTHER)
    assert desk.releases() == [{RECORD_PID: pid, **sealed(record_of())}]
    assert [data.workspace for data, _ in desk.site.data.values()] == [ELSEWHERE]
    archive.upload_release_record(record_of("2.0.0"))
    assert archive.list_releases(PUBLIC) == [ReleaseName("sample", "2.0.0")]


def test_a_record_is_published_by_the_current_version_of_the_template_and_found_by_all(desk: Desk) -> None:
    desk.site.templates["Release"] = [7, RELEASES]
    desk.site.write(sealed(record_of()), "bob", template=RELEASES)
    desk.publish(record_of("2.0.0"))
    assert [data.template for data, _ in desk.site.data.values()] == [RELEASES, 7]
    assert desk.archive().get_release_versions("sample") == ["1.0.0", "2.0.0"]


@pytest.mark.parametrize("name", ["alice", "bob"])
def test_of_two_who_publish_a_version_at_once_the_earlier_record_stays(desk: Desk, name: str) -> None:
    archive = desk.archive()
    theirs = record_of(operator=name)
    desk.client(archive).before_describing = lambda: desk.site.write(sealed(theirs), name, template=RELEASES)
    with pytest.raises(ReleaseExistsError, match=r"sample-v1\.0\.0 was published in https://site by another run"):
        archive.upload_release_record(record_of(operator="mine"), PUBLIC)
    assert [record["operator"] for record in desk.releases()] == [name]
    assert desk.changes() == ["describe", "delete data of alice"]


def test_who_publishes_a_version_later_takes_the_own_record_back(desk: Desk) -> None:
    archive = desk.archive()
    theirs = record_of(operator="theirs")
    desk.client(archive).after_describing = lambda: desk.site.write(sealed(theirs), "bob", template=RELEASES)
    assert archive.upload_release_record(record_of(operator="mine"), PUBLIC)
    assert [record["operator"] for record in desk.releases()] == ["mine", "theirs"]


def test_what_was_there_before_is_no_other_publisher(desk: Desk) -> None:
    """The same bytes again are another record, also where the own one of the same bytes is elsewhere."""
    desk.publish(record_of(), workspace=OTHER)
    pids = {desk.publish(record_of()) for _ in range(3)}
    assert len(pids) == 3
    assert len(desk.releases()) == 4


@pytest.mark.parametrize("pids", [True, False])
def test_a_version_is_repeated_only_after_the_record_that_the_caller_saw(desk: Desk, pids: bool) -> None:
    desk.site.gives_pids = pids
    archive = desk.archive()
    first = archive.publish_record(record_of(operator="first"), PUBLIC, None)
    second = archive.publish_record(record_of(operator="second"), PUBLIC, first)
    assert second not in (None, first)
    for after in (None, first, "another"):
        with pytest.raises(ReleaseExistsError, match="by another run just now"):
            archive.publish_record(record_of(operator="third"), PUBLIC, after)
    with pytest.raises(ReleaseExistsError, match="by another run just now"):
        archive.publish_record(record_of("2.0.0"), PUBLIC, first)
    assert [record["operator"] for record in desk.releases()] == ["first", "second"]


def test_a_record_is_published_when_its_blobs_are_there(desk: Desk) -> None:
    stored = desk.put()
    right = record_of(project=project_of(stored.pid))
    for wrong in (
        record_of(project=project_of("https://site/pid/1")),
        record_of(project=project_of(stored.pid, b"ALPHA")),
        record_of(project=project_of(stored.pid, nbytes=6)),
    ):
        with pytest.raises(
            ArchiveError, match=r"sample-v1\.0\.0 was not published: the blob of 'folder/a\.csv' is not"
        ):
            desk.publish(wrong)
    assert desk.releases() == []
    desk.publish(right)
    assert [record["project"] for record in desk.releases()] == [right["project"]]


@pytest.mark.parametrize(
    "wrong",
    [{"$ref": 1}, {"operator": "a\0b"}, {"operator": {1, 2}}, {"x" * 1001: "a name that no file of a mirror can have"}],
    ids=["name for a site", "NUL", "no JSON", "long name"],
)
def test_what_a_site_or_a_mirror_would_refuse_is_refused_before_anything_is_asked(desk: Desk, wrong: Record) -> None:
    archive = desk.archive()
    with pytest.raises(RecordError):
        archive.check_record(ReleaseRecord(record_of(**wrong)))
    with pytest.raises(RecordError):
        archive.upload_release_record(record_of(**wrong), PUBLIC)
    assert desk.site.done == []


# Blobs


def test_blobs_are_found_by_digest_and_size(desk: Desk) -> None:
    stored = desk.put()
    blobs = [Blob(ALPHA, 5, ("a.csv",)), Blob(sha1(b"beta"), 4, ("b.csv",))]
    assert desk.archive().find_blobs(blobs, "sample", PUBLIC) == {ALPHA: stored.pid}
    assert desk.archive().find_blobs([Blob(ALPHA, 6, ("a.csv",))], "sample", PUBLIC) == {}


@pytest.mark.parametrize("workspace", [PUBLIC, "nowhere"])
def test_blobs_are_uploaded_or_all_fail_with_the_same_error(desk: Desk, workspace: str) -> None:
    for name in ("a.csv", "b.csv"):
        (desk.folder / name).write_bytes(name.encode())
    blobs = [Blob(sha1(name.encode()), 5, (name,)) for name in ("a.csv", "b.csv")]
    meter, record = Counting(), ReleaseRecord(record_of())
    pids, failures = desk.archive().upload_blobs(
        blobs, ProjectSource(desk.folder), record, workspace, threads=1, meter=meter
    )
    is_there = workspace == PUBLIC
    assert set(pids) == ({blob.digest for blob in blobs} if is_there else set())
    assert {str(error) for error in failures.values()} == (set() if is_there else {"there is no workspace nowhere"})
    assert set(failures) == (set() if is_there else {blob.digest for blob in blobs})
    nbytes = 5 if is_there else 0
    assert meter.ended == [(name, nbytes, is_there, is_there) for name in ("a.csv", "b.csv")]


@pytest.mark.parametrize("data", [b"", b"a", b"alpha"], ids=repr)
def test_one_file_is_uploaded_and_told_where_it_is_asked_for(
    desk: Desk, data: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (desk.folder / "a.csv").write_bytes(data)
    archive = desk.archive()
    pid, nbytes = archive.process_and_upload_blob("a.csv", desk.folder, "sample-v1.0.0", "sample", PUBLIC, 1000)
    stored = [stored.pid for stored, _, _ in desk.site.blobs.values()]
    assert (stored, nbytes) == ([pid] if data else [], len(data))
    assert (pid is None) == (not data)
    assert capsys.readouterr().out == ""
    archive.process_and_upload_blob("a.csv", desk.folder, "sample-v1.0.0", "sample", PUBLIC, 1000, verbose=True)
    assert capsys.readouterr().out == (f"a.csv: {pid}, {len(data)} bytes\n" if data else "")


def test_one_file_that_cannot_be_uploaded_is_named(desk: Desk) -> None:
    (desk.folder / "a.csv").write_bytes(b"alpha")
    archive = desk.archive()
    desk.client(archive).may_assign = False
    with pytest.raises(BlobsFailedError) as caught:
        archive.process_and_upload_blob("a.csv", desk.folder, "sample-v1.0.0", "sample", PUBLIC, 1000)
    assert [(path, str(error)) for path, error in caught.value.failures] == [("a.csv", "you may not publish there")]


def read(desk: Desk, stored: StoredBlob, *offset: int) -> bytes:
    with desk.archive().open_blob(Blob(ALPHA, 5, ("a.csv",), stored.pid), record_of(), PUBLIC, *offset) as stream:
        assert isinstance(stream, io.RawIOBase)
        return stream.readall()


def test_a_blob_is_read_from_anywhere(desk: Desk) -> None:
    stored = desk.put()
    assert [read(desk, stored), read(desk, stored, 0), read(desk, stored, 2), read(desk, stored, 5)] == [
        *(b"alpha", b"alpha", b"pha", b"")
    ]
    assert "query" not in desk.site.done


@pytest.mark.parametrize("own", [False, True], ids=["pid", "pid and handle"])
@pytest.mark.parametrize("other", [False, True], ids=["whole", "without pid"])
def test_a_blob_whose_pid_has_vanished_is_read_by_its_handle_or_from_one_with_the_same_digest(
    desk: Desk, own: bool, other: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, same = desk.put(), desk.put()
    desk.site.gone = {str(mine.pid), *([mine.handle] if own else []), *([str(same.pid)] if other else [])}
    opened: list[str] = []
    archive = desk.archive()
    client = desk.client(archive)
    open_blob = client.open_blob

    def note(url: str, *arguments: Any, **options: Any) -> Any:
        opened.append(url)
        return open_blob(url, *arguments, **options)

    monkeypatch.setattr(client, "open_blob", note)
    with archive.open_blob(Blob(ALPHA, 5, ("a.csv",), mine.pid), record_of(), PUBLIC, 1) as stream:
        assert stream.read(9) == b"lpha"
    assert opened == [mine.pid, mine.handle, same.pid, same.handle][: 2 if not own else 4 if other else 3]


def test_a_blob_that_is_nowhere_is_missing_from_the_archive(desk: Desk) -> None:
    mine, same = desk.put(), desk.put(b"ALPHA")
    desk.site.gone = {str(mine.pid), mine.handle}
    with pytest.raises(BlobDamagedError, match=f"its blob {mine.pid} is missing from the archive"):
        read(desk, mine)
    assert desk.site.blobs[str(same.id)]


@pytest.mark.parametrize("is_of_earlier_tool", [False, True])
def test_a_blob_of_a_record_is_downloaded_by_its_pid(desk: Desk, is_of_earlier_tool: bool) -> None:
    stored, other = desk.put(), desk.put(b"beta")
    record = record_of(project={"z.csv": project_of(other.pid, b"beta")["folder"]["a.csv"], **project_of(stored.pid)})
    given = without_digest(record) if is_of_earlier_tool else record
    before, status = copy.deepcopy(given), dict[str, Any]()
    archive = desk.archive()
    archive.download_blob(str(stored.pid), desk.folder / "got.csv", status, 5, given, PUBLIC)
    assert (desk.folder / "got.csv").read_bytes() == b"alpha"
    assert (status["size"], status["success"], given) == (5, True, before)
    for pid in ("https://site/pid/1", "no blob"):
        with pytest.raises(RecordError, match=f"^The record has no blob {pid}; give one of its /bpid/"):
            archive.download_blob(pid, desk.folder / "none.csv", status, 5, given, PUBLIC)
    assert not (desk.folder / "none.csv").exists()


def test_a_blob_without_a_digest_is_not_downloaded(desk: Desk) -> None:
    stored = desk.site.put(b"alpha", "bob")
    record = without_digest(record_of(project=project_of(stored.pid)))
    with pytest.raises(RecordError, match="has no blob"):
        desk.archive().download_blob(str(stored.pid), desk.folder / "got.csv", {}, 5, record, PUBLIC)
