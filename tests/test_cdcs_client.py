"""The REST client against a real CDCS server, and against sites that misbehave."""

import contextlib
import io
import itertools
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.archives.cdcs.bodies import TransferBrokenError, pause_in
from pipeline.archives.cdcs.client import Blob, CDCSClient, Data
from pipeline.archives.cdcs.http import NotAllowedError, NotFoundError, SiteRefusedError, SiteUnavailableError
from pipeline.errors import ArchiveError, CredentialsError, PipelineError, RecordError, SourceChangedError
from tests.cdcs_server import USERS, CDCSServer
from tests.cdcs_server.fake import CERTIFICATE, FakeSite, Seen, Visit, in_turn

PUBLIC = "Global Public Workspace"
SCHEMA = {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "required": ["name"]}
SECRET = "pa55-of-alice-ü"
TOKEN = "70ken0f41ic3"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CDCSServer]:
    with CDCSServer(tmp_path_factory.mktemp("cdcs")) as server:
        _client(server, "admin").create_template("Note", SCHEMA)
        yield server


@pytest.fixture
def alice(server: CDCSServer) -> CDCSClient:
    return _client(server, "alice")


@pytest.fixture
def template(server: CDCSServer, request: pytest.FixtureRequest) -> Any:
    """A template of its own for each test, so that no test sees another's records."""
    return _client(server, "admin").create_template(request.node.name, SCHEMA)


def _client(server: CDCSServer, name: str, **options: Any) -> CDCSClient:
    return CDCSClient(server.base_url, user=name, password=USERS[name].password, **options)


def _no_sleep(waits: list[float] | None = None) -> Callable[[float], None]:
    return lambda seconds: None if waits is None else waits.append(seconds)


def _at(site: FakeSite, **options: Any) -> CDCSClient:
    options = {"token": TOKEN, "sleep": _no_sleep(), "attempts": 3, "read_timeout": 30.0, **options}
    return CDCSClient(site.url, **options)


def _read(client: CDCSClient, url: str, **options: Any) -> bytes:
    with client.open_blob(url, **options) as stream:
        return stream.read()


# --- a real site ------------------------------------------------------------------------------------------------------


def test_health_is_open_and_settings_tell_the_version(server: CDCSServer, alice: CDCSClient) -> None:
    assert CDCSClient(server.base_url).health()
    assert alice.core_settings()["core_version"] == "2.23.0"


def test_template_and_workspace_are_found_by_title_and_missing_ones_are_named(alice: CDCSClient) -> None:
    assert alice.template_id("Note")
    assert alice.workspace_id(PUBLIC)
    with pytest.raises(NotFoundError, match=r"no template 'Release'.*ask its administrator"):
        alice.template_id("Release")
    with pytest.raises(NotFoundError, match="no workspace 'Nowhere' that 'alice' can read"):
        alice.workspace_id("Nowhere")


def test_only_an_administrator_installs_a_template_and_only_once(server: CDCSServer, alice: CDCSClient) -> None:
    with pytest.raises(NotAllowedError, match="Only administrators"):
        alice.create_template("Mine", SCHEMA)
    admin = _client(server, "admin")
    assert admin.create_template("Mine", SCHEMA) == alice.template_id("Mine")
    with pytest.raises(SiteRefusedError, match="already exists"):
        admin.create_template("Mine", SCHEMA)


def test_a_record_comes_back_as_it_was_stored_with_a_pid(alice: CDCSClient, template: Any) -> None:
    content = {"name": "Größe µ", "nested": {"a/b": [1, 2.5, None, True]}, "": "empty key"}
    made = alice.create_data("a title", template, alice.workspace_id(PUBLIC), content)
    assert made.title == "a title"
    assert made.content().pop("/PID/").startswith(alice.host)
    assert {**alice.get_data(made.id).content(), **content} == made.content()


def test_what_a_site_would_refuse_in_a_record_is_refused_before_anything_is_sent() -> None:
    with FakeSite(lambda visit, seen: visit.reply(201, {})) as site:
        for value in (float("nan"), "\ud800", "a\0b", {"$ref": 1}, [{"deep": {"$x": 1}}], {"a\0": 1}, {1, 2}):
            with pytest.raises(RecordError):
                _at(site).create_data("title", 1, 1, {"name": value})
        assert site.seen == []


def test_a_query_yields_every_record_of_many_pages_once_in_order(alice: CDCSClient, template: Any) -> None:
    public = alice.workspace_id(PUBLIC)
    for number in range(34):
        alice.create_data("same title", template, public, {"name": f"n{number}"})
    assert [data.content()["name"] for data in alice.query(template, {}, public)] == [f"n{n}" for n in range(34)]
    wanted = {"name": {"$in": [f"n{n}" for n in range(5, 20_000)]}}
    assert sum(1 for _ in alice.query(template, wanted, public)) == 29
    assert list(alice.query(template, {"name": "none"}, public)) == []


def test_all_records_of_the_user_with_one_title_are_listed_page_by_page(alice: CDCSClient, template: Any) -> None:
    made = [alice.create_data("same", template, None, {"name": f"n{number}"}).id for number in range(12)]
    alice.create_data("same again", template, None, {"name": "x"})
    assert sorted(data.id for data in alice.own_data("same", template)) == made


def test_a_query_of_a_workspace_leaves_out_private_records(alice: CDCSClient, template: Any) -> None:
    public = alice.workspace_id(PUBLIC)
    alice.create_data("private", template, None, {"name": "x"})
    alice.create_data("public", template, public, {"name": "x"})
    assert [data.title for data in alice.query(template, {"name": "x"}, public)] == ["public"]
    assert sorted(data.title for data in alice.query(template, {"name": "x"}, None)) == ["private", "public"]


def test_records_that_vanish_between_two_pages_hide_no_other_record(alice: CDCSClient, template: Any) -> None:
    public = alice.workspace_id(PUBLIC)
    made = [alice.create_data("t", template, public, {"name": f"n{n}"}) for n in range(25)]
    found = alice.query(template, {}, public)
    first = list(itertools.islice(found, 10))
    for data in made[:12]:
        alice.delete_data(data.id)
    rest = [data.id for data in found]
    assert [data.id for data in first] == [data.id for data in made[:10]]
    assert len(rest) == len(set(rest))
    assert {data.id for data in made[12:]} <= set(rest)


def test_a_query_ends_in_peace_when_the_next_page_is_gone(alice: CDCSClient, template: Any) -> None:
    public = alice.workspace_id(PUBLIC)
    made = [alice.create_data("t", template, public, {"name": f"n{n}"}) for n in range(12)]
    found = alice.query(template, {}, public)
    next(found)
    for data in made[5:]:
        alice.delete_data(data.id)
    assert {data.id for data in made[1:5]} <= {data.id for data in found}


@pytest.mark.parametrize("name", ["a.h5", "Größe µ 1.csv", 'quote".txt', "no extension", "x" * 200])
def test_a_blob_keeps_its_bytes_and_its_name(alice: CDCSClient, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(content := os.urandom(300_000))
    blob = alice.upload_blob(name, tmp_path / "file", len(content))
    assert blob.filename == name
    assert [found.id for found in alice.list_own_blobs(name)] == [blob.id]
    assert _read(alice, blob.handle) == _read(alice, blob.pid or "") == content


def test_a_stream_is_uploaded_from_where_it_stands(alice: CDCSClient) -> None:
    stream = io.BytesIO(b"before" + b"content")
    stream.seek(6)
    assert _read(alice, alice.upload_blob("part.bin", stream, 7).handle) == b"content"


def test_a_blob_is_read_line_by_line_as_any_file(alice: CDCSClient) -> None:
    blob = alice.upload_blob("lines.csv", io.BytesIO(b"1,2\n3,4\n"), 8)
    with alice.open_blob(blob.handle) as stream, io.TextIOWrapper(io.BufferedReader(stream)) as text:
        assert list(text) == ["1,2\n", "3,4\n"]


def test_neither_upload_nor_download_holds_a_file_in_memory(alice: CDCSClient, tmp_path: Path) -> None:
    size = 40 * 2**20
    with open(tmp_path / "big", "wb") as file:
        file.truncate(size)
    alice.health()
    tracemalloc.start()
    try:
        blob = alice.upload_blob("big.bin", tmp_path / "big", size)
        buffer, received = bytearray(2**20), 0
        with alice.open_blob(blob.handle) as stream:
            while count := stream.readinto(buffer):
                received += count
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert received == stream.length == size
    assert peak < 8 * 2**20


def test_a_source_that_changes_during_the_upload_leaves_no_blob(alice: CDCSClient) -> None:
    for size in (2_999_999, 3_000_001):
        with pytest.raises(SourceChangedError, match=r"changing.bin changed"):
            alice.upload_blob("changing.bin", io.BytesIO(bytes(3_000_000)), size)
    assert alice.list_own_blobs("changing.bin") == []


def test_an_error_of_the_source_at_its_very_end_leaves_no_blob_and_is_not_repeated(alice: CDCSClient) -> None:
    class Failing(io.BytesIO):
        reads = 0

        def read(self, size: int | None = -1) -> bytes:
            if data := super().read(size):
                return data
            Failing.reads += 1
            raise OSError("the disk is broken")

    with pytest.raises(OSError, match="the disk is broken"):
        alice.upload_blob("failing.bin", Failing(bytes(300_000)), 300_000)
    assert Failing.reads == 1
    assert alice.list_own_blobs("failing.bin") == []


def test_an_empty_blob_is_refused_in_the_words_of_the_site(alice: CDCSClient) -> None:
    with pytest.raises(SiteRefusedError, match="file is empty"):
        alice.upload_blob("empty.bin", io.BytesIO(), 0)


def test_deleting_twice_is_no_error(alice: CDCSClient, template: Any) -> None:
    blob = alice.upload_blob("twice.bin", io.BytesIO(b"x"), 1)
    data = alice.create_data("t", template, None, {"name": "x"})
    for _ in range(2):
        alice.delete_blob(blob.id)
        alice.delete_data(data.id)
    with pytest.raises(NotFoundError, match="not found"):
        alice.get_data(data.id)
    with pytest.raises(NotFoundError, match="not there"):
        _read(alice, blob.handle)


def test_a_blob_can_be_read_by_others_once_it_is_in_a_workspace(
    server: CDCSServer, alice: CDCSClient, template: Any
) -> None:
    public, carol = alice.workspace_id(PUBLIC), _client(server, "carol")
    blob = alice.upload_blob("shared.bin", io.BytesIO(b"shared"), 6)
    with pytest.raises(NotAllowedError, match="'carol'"):
        _read(carol, blob.handle)
    for _ in range(2):
        alice.assign_blob(blob.id, public)
        alice.attach_metadata(blob.id, alice.create_data("t", template, public, {"name": "x"}).id)
    assert _read(carol, blob.handle) == b"shared"
    assert [found.workspace for found in alice.list_own_blobs("shared.bin")] == [public]


def test_a_user_without_the_right_to_publish_is_told_to_ask_for_it(
    server: CDCSServer, alice: CDCSClient, template: Any
) -> None:
    carol, public = _client(server, "carol"), alice.workspace_id(PUBLIC)
    blob = carol.upload_blob("carol.bin", io.BytesIO(b"x"), 1)
    for refused in (
        lambda: carol.create_data("t", template, public, {"name": "x"}),
        lambda: carol.assign_blob(blob.id, public),
    ):
        with pytest.raises(NotAllowedError, match=r"enough rights to publish; ask the site for the right.*'carol'"):
            refused()


def test_unknown_ids_and_violated_schemas_are_explained_and_asked_only_once(alice: CDCSClient, template: Any) -> None:
    public = alice.workspace_id(PUBLIC)
    with pytest.raises(SiteRefusedError, match=r"template: Invalid pk.*removed"):
        alice.create_data("t", 99999, public, {"name": "x"})
    with pytest.raises(SiteRefusedError, match=r"workspace: Invalid pk.*removed"):
        alice.create_data("t", template, 99999, {"name": "x"})
    with pytest.raises(SiteRefusedError, match="'name' is a required property"):
        alice.create_data("t", template, public, {})
    with pytest.raises(SiteRefusedError, match="no more than 200 characters"):
        alice.create_data("t" * 201, template, public, {"name": "x"})


def test_eight_threads_share_one_client(alice: CDCSClient, template: Any) -> None:
    public = alice.workspace_id(PUBLIC)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: alice.create_data("t", template, public, {"name": n}), range(40)))
        names = [sorted(data.content()["name"] for data in alice.query(template, {}, public))]
    assert names == [list(range(40))]


def test_stock_cdcs_starts_over_where_a_range_is_asked_for(alice: CDCSClient) -> None:
    blob = alice.upload_blob("range.bin", io.BytesIO(b"0123456789"), 10)
    with alice.open_blob(blob.handle, offset=4) as stream:
        assert (stream.start, stream.length, stream.read()) == (0, 10, b"0123456789")


def test_a_lost_answer_to_a_post_that_took_effect_makes_no_second_record_or_blob(
    server: CDCSServer, alice: CDCSClient, template: Any
) -> None:
    public, lost = alice.workspace_id(PUBLIC), set()

    def lose_first_answers(visit: Visit, seen: Seen) -> None:
        status, headers, body = visit.forward(server.local_url, seen)
        if seen.method == "POST" and seen.path in ("/rest/data/", "/rest/blob/") and seen.path not in lost:
            lost.add(seen.path)
            return visit.drop()
        return visit.reply(status, body, content_type=headers.get("Content-Type", ""))

    def find_record() -> Data | None:
        return next(iter(client.query(template, {"name": "lost"}, public)), None)

    def find_blob() -> Blob | None:
        return next(iter(client.list_own_blobs("lost.bin")), None)

    with FakeSite(lose_first_answers) as proxy:
        client = CDCSClient(proxy.url, user="alice", password=USERS["alice"].password, sleep=_no_sleep())
        data = client.create_data("t", template, public, {"name": "lost"}, find_record)
        blob = client.upload_blob("lost.bin", io.BytesIO(b"lost"), 4, find_blob)
    assert lost == {"/rest/data/", "/rest/blob/"}
    assert [found.id for found in alice.query(template, {"name": "lost"}, public)] == [data.id]
    assert [found.id for found in alice.list_own_blobs("lost.bin")] == [blob.id]


def test_a_template_is_installed_once_although_the_answer_is_lost(server: CDCSServer) -> None:
    lost: list[str] = []

    def lose_request_then_answer(visit: Visit, seen: Seen) -> None:
        is_lost = (seen.method, seen.path) == ("POST", "/rest/template/global/") and len(lost) < 2
        if is_lost:
            lost.append(seen.path)
        if is_lost and len(lost) == 1:
            return visit.drop()
        status, headers, body = visit.forward(server.local_url, seen)
        return visit.drop() if is_lost else visit.reply(status, body, content_type=headers.get("Content-Type", ""))

    with FakeSite(lose_request_then_answer) as proxy:
        admin = CDCSClient(proxy.url, user="admin", password=USERS["admin"].password, sleep=_no_sleep())
        assert admin.create_template("Lost", SCHEMA) == _client(server, "alice").template_id("Lost")
    assert len(lost) == 2


# --- the server of the tests ------------------------------------------------------------------------------------------


def _playground(folder: Path, port: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.cdcs_server", "--folder", str(folder), "--port", str(port)]
    root = Path(__file__).resolve().parent.parent
    return subprocess.Popen(command, cwd=root, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)


def test_the_playground_tells_where_it_is_and_stops_with_ctrl_c_keeping_its_data(tmp_path: Path) -> None:
    port = CDCSServer(tmp_path / "unused").port
    client = CDCSClient(f"http://127.0.0.1:{port}", user="admin", password=USERS["admin"].password, attempts=1)
    for ask in (lambda: client.create_template("Kept", SCHEMA), lambda: client.template_id("Kept")):
        with _playground(tmp_path / "data", port) as process:
            assert process.stdout is not None
            text = "".join(iter(process.stdout.readline, "Press Ctrl-C to stop it.\n"))
            assert f"CDCS is running at {client.host}" in text
            assert all(user.name in text and user.password in text for user in USERS.values())
            assert ask()
            process.send_signal(signal.SIGINT)
            assert process.stdout.read() == "\nStopped.\n"
        assert process.returncode == 0
        with pytest.raises(SiteUnavailableError, match="cannot be reached"):
            client.health()


def test_a_server_does_not_outlive_the_process_that_started_it(tmp_path: Path) -> None:
    port = CDCSServer(tmp_path / "unused").port
    with _playground(tmp_path / "data", port) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Press Ctrl-C"):
                break
        process.kill()

    def answers() -> bool:
        with contextlib.closing(socket.socket()) as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    deadline = time.monotonic() + 60
    while answers() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not answers()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which files a process has open")
def test_no_worker_of_a_server_inherits_a_database_connection(tmp_path: Path) -> None:
    # Both would take the locks of that connection for their own: now and then a request then failed for no reason.
    with CDCSServer(tmp_path) as server:
        processes = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"CDCS_STATE={server.folder}".encode() in (process / "environ").read_bytes().split(b"\0"):
                    processes.append(process)
        opened = [os.readlink(file) for process in processes for file in (process / "fd").iterdir()]
    assert len(processes) == 3
    assert not [file for file in opened if "sqlite" in file]


# --- sites that are set up differently --------------------------------------------------------------------------------


def test_a_killed_server_is_asked_again_when_it_is_back(tmp_path: Path) -> None:
    with CDCSServer(tmp_path) as server:
        client = _client(server, "alice", sleep=lambda seconds: server.start())
        blob = client.upload_blob("kept.bin", io.BytesIO(b"kept"), 4)
        server.kill()
        assert not server.running
        assert _read(client, blob.handle) == b"kept"
        server.kill()
        assert client.upload_blob("new.bin", io.BytesIO(b"new"), 3).filename == "new.bin"


@pytest.mark.parametrize("basic_first", [False, True])
def test_a_site_without_tokens_is_used_with_basic(tmp_path: Path, basic_first: bool) -> None:
    with CDCSServer(tmp_path, token=False, basic_first=basic_first) as server:
        assert _client(server, "alice").workspace_id(PUBLIC)
        with pytest.raises(CredentialsError, match="does not accept the password of 'alice'"):
            CDCSClient(server.base_url, user="alice", password=SECRET).core_settings()


def test_a_site_without_basic_is_used_with_a_token(tmp_path: Path) -> None:
    with CDCSServer(tmp_path, basic=False) as server:
        assert _client(server, "alice").workspace_id(PUBLIC)
        with pytest.raises(CredentialsError, match="does not accept the password of 'alice'"):
            CDCSClient(server.base_url, user="alice", password=SECRET).core_settings()
        with pytest.raises(CredentialsError, match="does not accept the token"):
            CDCSClient(server.base_url, token=TOKEN).core_settings()


def test_a_site_without_basic_and_tokens_for_passwords_says_what_to_ask_for(tmp_path: Path) -> None:
    with (
        CDCSServer(tmp_path, basic=False, token=False) as server,
        pytest.raises(CredentialsError, match="ask the site for a token"),
    ):
        _client(server, "alice").core_settings()


def test_a_refused_extension_tells_the_setting_to_ask_for(tmp_path: Path) -> None:
    with CDCSServer(tmp_path, extensions="stock") as server:
        alice = _client(server, "alice")
        assert alice.upload_blob("ü.csv", io.BytesIO(b"x"), 1).filename == "ü.csv"
        with pytest.raises(SiteRefusedError, match=r"upload 'a.h5'.*h5.*not allowed.*BLOB_EXTENSIONS"):
            alice.upload_blob("a.h5", io.BytesIO(b"x"), 1)


def test_compatibility_mode_is_read_and_written(tmp_path: Path) -> None:
    with CDCSServer(tmp_path, xml_content=True) as server:
        template = _client(server, "admin").create_template("Note", SCHEMA)
        alice = _client(server, "alice")
        public = alice.workspace_id(PUBLIC)
        made = alice.create_data("t", template, public, {"name": "x"})
        assert made.content()["name"] == alice.get_data(made.id).content()["name"] == "x"
        assert [data.content()["name"] for data in alice.query(template, {}, public)] == ["x"]


def test_an_open_site_is_read_without_a_login_and_a_closed_one_asks_for_it(server: CDCSServer, tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match="asks for a login"):
        list(CDCSClient(server.base_url).query(1, {}, None))
    with CDCSServer(tmp_path, anonymous=True) as open_server:
        template = _client(open_server, "admin").create_template("Note", SCHEMA)
        alice, anybody = _client(open_server, "alice"), CDCSClient(open_server.base_url)
        public = alice.workspace_id(PUBLIC)
        blob = alice.upload_blob("open.bin", io.BytesIO(b"open"), 4)
        alice.assign_blob(blob.id, public)
        alice.create_data("t", template, public, {"name": "x"})
        (found,) = anybody.query(None, {"name": "x"}, None)
        assert (found.template, found.workspace) == (template, public)
        assert anybody.template_filename(template) == "Note.json"
        assert _read(anybody, blob.handle) == _read(anybody, blob.pid or "") == b"open"
        with pytest.raises(CredentialsError, match="asks for a login"):
            anybody.upload_blob("mine.bin", io.BytesIO(b"x"), 1)


# --- what is tried again, and what is not -----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_page_of_a_broken_proxy_is_asked_again(status: int) -> None:
    answers = in_turn(lambda v: v.reply(status, b"<html>oops", content_type="text/html"), lambda v: v.reply(200, []))
    with FakeSite(answers) as site:
        assert _at(site).list_own_blobs() == []
        assert len(site.seen) == 2


def test_a_500_with_a_message_is_reported_at_once() -> None:
    with FakeSite(lambda visit, seen: visit.reply(500, {"message": "No such thing."})) as site:
        with pytest.raises(SiteRefusedError, match=r"refuses to list blobs: No such thing\.$"):
            _at(site).list_own_blobs()
        assert len(site.seen) == 1


def test_a_long_message_is_cut_and_still_a_message() -> None:
    with FakeSite(lambda visit, seen: visit.reply(500, {"message": "x" * 2**20})) as site:
        with pytest.raises(SiteRefusedError) as caught:
            _at(site).list_own_blobs()
        assert len(str(caught.value)) < 1000
        assert len(site.seen) == 1


def test_retry_after_is_honoured_and_waits_grow() -> None:
    waits: list[float] = []
    answers = in_turn(
        lambda v: v.reply(503, retry_after="17"),
        lambda v: v.reply(503),
        lambda v: v.reply(503),
        lambda v: v.reply(503, retry_after="Wed, 21 Oct 2015 07:28:00 GMT"),
        lambda v: v.reply(200, []),
    )
    with FakeSite(answers) as site:
        assert _at(site, attempts=5, sleep=_no_sleep(waits)).list_own_blobs() == []
    assert 17 <= waits[0] <= 26
    assert 0 < waits[1] < waits[2] < waits[3]


def test_a_site_that_asks_to_wait_for_hours_is_given_up_at_once() -> None:
    with FakeSite(lambda visit, seen: visit.reply(503, retry_after="7200")) as site:
        with pytest.raises(SiteUnavailableError, match="run again later"):
            _at(site).list_own_blobs()
        assert len(site.seen) == 1


def test_an_unreachable_site_is_one_sentence_after_the_last_attempt() -> None:
    waits: list[float] = []
    with FakeSite(lambda visit, seen: visit.drop()) as site:
        pass
    with pytest.raises(SiteUnavailableError, match=r"cannot be reached.*Tried 3 times"):
        _at(site, sleep=_no_sleep(waits)).list_own_blobs()
    assert len(waits) == 2


def test_a_post_without_a_lookup_is_not_repeated_when_it_may_have_taken_effect() -> None:
    with FakeSite(lambda visit, seen: visit.drop()) as site:
        with pytest.raises(SiteUnavailableError, match="not known whether the request took effect"):
            _at(site).create_data("t", 1, 1, {"name": "x"})
        assert site.paths("POST") == ["/rest/data/"]


def test_a_post_is_repeated_when_the_lookup_finds_nothing_and_looked_up_after_the_last_attempt() -> None:
    lookups: list[int] = []

    def nothing() -> Data | None:
        lookups.append(len(site.seen))
        return None

    with FakeSite(lambda visit, seen: visit.drop()) as site:
        with pytest.raises(SiteUnavailableError, match="Tried 3 times"):
            _at(site).create_data("t", 1, 1, {"name": "x"}, nothing)
        assert lookups == [1, 2, 3]


def test_an_upload_is_rewound_before_it_is_repeated() -> None:
    answers = in_turn(lambda v: v.reply(503), lambda v: v.reply(201, {"id": 1, "filename": "a.bin"}))
    with FakeSite(answers) as site:
        _at(site).upload_blob("a.bin", io.BytesIO(b"content"), 7, lambda: None)
        assert [b"content" in seen.body for seen in site.seen] == [True, True]


def test_the_answer_to_another_question_is_not_taken_for_that_to_this_one() -> None:
    def mixed_up(another: object, mine: object) -> FakeSite:
        return FakeSite(in_turn(lambda v: v.reply(201, another), lambda v: v.reply(201, mine)))

    blobs = [{"id": number, "filename": f"{number}.bin", "handle": f"/{number}/"} for number in (1, 2)]
    with mixed_up(*blobs) as site:
        assert _at(site).upload_blob("2.bin", io.BytesIO(b"content"), 7, lambda: None).id == 2
        assert [b"content" in seen.body for seen in site.seen] == [True, True]
    with mixed_up(*blobs) as site, pytest.raises(SiteUnavailableError, match="gave the answer to another question"):
        _at(site).upload_blob("2.bin", io.BytesIO(b"content"), 7)
    records = [{"id": number, "title": f"t{number}", "template": 1, "content": "{}"} for number in (1, 2)]
    with mixed_up(*records) as site:
        assert _at(site).create_data("t2", 1, 1, {}, lambda: None).id == 2
    for answers, ask in ((blobs, CDCSClient.get_blob), (records, CDCSClient.get_data)):
        with FakeSite(in_turn(*(lambda v, a=a: v.reply(200, a) for a in answers))) as site:  # type: ignore[misc]  # no type fits a default
            assert ask(_at(site), 2).id == 2


@pytest.mark.parametrize("ask", [CDCSClient.assign_blob, CDCSClient.attach_metadata])
def test_what_a_broken_proxy_makes_up_does_not_make_a_blob_count_as_published(ask: Callable[..., None]) -> None:
    with FakeSite(in_turn(lambda v: v.reply(200, []), lambda v: v.reply(200, {}))) as site:
        ask(_at(site), 1, 2)
        assert len(site.seen) == 2


@pytest.mark.parametrize("ask", [CDCSClient.assign_blob, CDCSClient.attach_metadata])
def test_an_answer_that_was_cut_off_in_its_head_is_not_taken_for_an_empty_one(ask: Callable[..., None]) -> None:
    with FakeSite(cut_off_in_its_head) as site, pytest.raises(ArchiveError, match="something else than CDCS would"):
        ask(_at(site), 1, 2)


def test_a_blob_whose_answer_was_cut_off_in_its_head_is_not_taken_for_an_empty_one() -> None:
    with FakeSite(cut_off_in_its_head) as site, _at(site).open_blob("/rest/blob/download/1/") as stream:
        assert stream.read() == b""
        with pytest.raises(ArchiveError, match="does not tell how long it is; run again"):
            stream.check_end()
    empty = FakeSite(lambda visit, seen: visit.reply(200, b""))
    with empty as site, _at(site).open_blob("/rest/blob/download/1/") as stream:
        stream.check_end()


def cut_off_in_its_head(visit: Visit, seen: Seen) -> None:
    visit.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Le")
    visit.drop()


def test_an_expired_token_is_obtained_anew() -> None:
    tokens = iter(["first", "second"])

    def answer(visit: Visit, seen: Seen) -> None:
        if seen.path == "/api-token-auth/":
            visit.reply(200, {"token": next(tokens)})
        elif seen.headers.get("Authorization") == "Token second":
            visit.reply(200, [])
        else:
            visit.reply(403, {"detail": "Invalid token."})

    with FakeSite(answer) as site:
        assert _at(site, token=None, user="alice", password=SECRET).list_own_blobs() == []


# --- secrets ----------------------------------------------------------------------------------------------------------


def _everything_of(error: BaseException | None) -> str:
    """Return all that a careless handler could print of an error and of those behind it."""
    texts = []
    while error is not None:
        texts += [repr(error), str(error), repr(error.args), repr(vars(error))]
        request = getattr(error, "request", None)
        texts.append(repr(dict(request.headers)) if request is not None else "")
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


def test_no_secret_shows_in_errors_logs_or_reprs(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level(logging.DEBUG)

    def echo(visit: Visit, seen: Seen) -> None:
        if seen.path == "/api-token-auth/":
            visit.reply(404, {})
        else:
            known = SECRET if "Basic" in seen.headers["Authorization"] else TOKEN
            visit.reply(500, {"message": {"cannot log in": [{"with": f"{seen.headers} {known}"}]}})

    shown = []
    with FakeSite(echo) as site, FakeSite(lambda visit, seen: visit.drop()) as dropping:
        for where in (site, dropping):
            for options in ({"token": TOKEN}, {"token": None, "user": "alice", "password": SECRET}):
                client = _at(where, **options)
                shown.append(repr(client))
                for ask in (client.list_own_blobs, lambda c=client: _read(c, "/rest/blob/download/1/")):
                    with pytest.raises(PipelineError) as caught:
                        ask()
                    shown.append(_everything_of(caught.value))
        assert any(seen.headers.get("Authorization", "").startswith("Basic") for seen in site.seen)
    basic = next(s.headers["Authorization"] for s in site.seen if "Basic" in s.headers.get("Authorization", ""))
    text = "\n".join(shown) + caplog.text
    for secret in (SECRET, TOKEN, basic.split()[1]):
        assert secret not in text


@pytest.mark.parametrize("host", ["http://cdcs.example.org", "http://10.0.0.7:8000", "http://127.example.org"])
def test_credentials_are_not_sent_unencrypted_unless_that_is_allowed(host: str) -> None:
    with pytest.raises(CredentialsError, match="unencrypted; use https"):
        CDCSClient(host, token=TOKEN)
    CDCSClient(host, token=TOKEN, allow_http=True)
    CDCSClient(host)


_NO_SITES = [
    "https://alice:pa55@example.org",
    "https://a:/pa55@b",
    "https://a:#pa55@b",
    "ftp://example.org",
    "https://",
]


@pytest.mark.parametrize("host", [*_NO_SITES, "https://a b", "https://h:99999"])
def test_an_address_that_is_no_site_is_refused_without_repeating_a_password(host: str) -> None:
    with pytest.raises(ArchiveError, match="is not an http or https address") as caught:
        CDCSClient(host)
    assert "pa55" not in str(caught.value)


def test_a_password_needs_a_user_and_a_token_must_look_like_one() -> None:
    with pytest.raises(CredentialsError, match="give both"):
        CDCSClient("https://example.org", password=SECRET)
    with pytest.raises(CredentialsError, match="copy it again") as caught:
        CDCSClient("https://example.org", token="two\nlines")
    assert "two" not in str(caught.value)


def test_a_blob_on_another_host_gets_no_credentials_not_even_from_netrc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("default login alice password from-netrc\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with (
        FakeSite(lambda v, s: v.reply(200, b"there")) as elsewhere,
        FakeSite(lambda v, s: v.reply(200, b"here")) as site,
    ):
        client = _at(site)
        assert _read(client, elsewhere.url + "/x") == b"there"
        assert _read(client, site.url + "/x") == b"here"
        assert _read(CDCSClient(site.url), site.url + "/x") == b"here"
        assert [seen.headers.get("Authorization") for seen in site.seen] == [f"Token {TOKEN}", None]
        assert "Authorization" not in elsewhere.seen[0].headers


@pytest.mark.parametrize("url", ["ftp://example.org/x", "file:///etc/passwd", "https://u:p@example.org/", "http://[x/"])
def test_a_pid_that_is_no_web_address_is_refused(url: str) -> None:
    with pytest.raises(ArchiveError, match="is not an "):
        _read(CDCSClient("http://127.0.0.1:9"), url)


def test_a_proxy_of_the_environment_gets_nothing_that_is_meant_for_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with FakeSite(lambda v, s: v.reply(200, [])) as site, FakeSite(lambda v, s: v.reply(200, [])) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        assert _at(site).list_own_blobs() == []
        assert proxy.seen == []


def test_cookies_of_a_site_are_not_sent_back() -> None:
    with FakeSite(lambda v, s: v.reply(200, [], set_cookie="sessionid=1; Path=/")) as site:
        client = _at(site)
        client.list_own_blobs()
        client.list_own_blobs()
        assert "Cookie" not in site.seen[1].headers


def test_an_unknown_certificate_is_refused_and_a_given_bundle_trusts_it() -> None:
    with FakeSite(lambda v, s: v.reply(200, []), tls=True) as site:
        with pytest.raises(ArchiveError, match=r"certificate of .* is not trusted; give the bundle"):
            _at(site).list_own_blobs()
        assert site.seen == []
        assert _at(site, ca_bundle=CERTIFICATE).list_own_blobs() == []
    with pytest.raises(ArchiveError, match="does not exist"):
        CDCSClient("https://example.org", ca_bundle="/nowhere.pem")


# --- redirects --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_write_is_never_redirected(status: int) -> None:
    with FakeSite(lambda v, s: v.reply(status, location="/elsewhere/")) as site:
        with pytest.raises(ArchiveError, match=r"redirects to .*/elsewhere/; use the address"):
            _at(site).create_data("t", 1, 1, {"name": "x"})
        assert [(seen.method, seen.path) for seen in site.seen] == [("POST", "/rest/data/")]


def test_a_get_is_redirected_on_the_same_host_only_and_nobody_else_is_asked() -> None:
    with FakeSite(lambda v, s: v.reply(200, b"x")) as elsewhere:

        def answer(visit: Visit, seen: Seen) -> None:
            targets = {"/near": "/there", "/far": elsewhere.url + "/", "/loop": "/loop", "/private": "/accounts/login/"}
            if seen.path in targets:
                visit.reply(302, location=targets[seen.path])
            else:
                visit.reply(200, b"there")

        with FakeSite(answer) as site:
            client = _at(site)
            assert _read(client, "/near") == b"there"
            with pytest.raises(ArchiveError, match="redirects to another host"):
                _read(client, "/far")
            with pytest.raises(ArchiveError, match="in circles"):
                _read(client, "/loop")
            with pytest.raises(CredentialsError, match="asks for a login"):
                _read(client, "/private")
            assert len(site.seen) < 20
        assert elsewhere.seen == []


@pytest.mark.parametrize("location", ["http://[::1/x", "/\xe4\xff", "http://\xe4\xff:x/", "//%%%:80:80/", "http:/\\x"])
@pytest.mark.parametrize("status", [302, 308])
def test_a_redirect_to_what_is_no_address_is_one_sentence(location: str, status: int) -> None:
    with FakeSite(lambda v, s: v.reply(status, location=location)) as site:
        with pytest.raises(ArchiveError, match=r"address|circles"):
            _at(site).list_own_blobs()
        with pytest.raises(ArchiveError, match="address"):
            _at(site).create_data("t", 1, 1, {"name": "x"})


def test_a_password_is_not_sent_on_when_the_token_address_redirects_elsewhere() -> None:
    with (
        FakeSite(lambda v, s: v.reply(200, {"token": "x"})) as elsewhere,
        FakeSite(lambda v, s: v.reply(307, location=elsewhere.url + s.path)) as site,
    ):
        with pytest.raises(ArchiveError, match="redirects to"):
            _at(site, token=None, user="alice", password=SECRET).list_own_blobs()
        assert elsewhere.seen == []


def test_a_pid_of_a_resolver_leads_back_to_the_site_with_credentials_for_the_site_only() -> None:
    with (
        FakeSite(lambda v, s: v.reply(200, b"blob")) as site,
        FakeSite(lambda v, s: v.reply(302, location=site.url + "/rest/blob/download/1/")) as resolver,
    ):
        assert _read(_at(site), resolver.url + "/20.500/1") == b"blob"
        assert "Authorization" not in resolver.seen[0].headers
        assert site.seen[0].headers["Authorization"] == f"Token {TOKEN}"


# --- answers that are wrong, endless or slow --------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"<html>Welcome", b"[1, 2", b'"text"', b"[1]", b"{}", b"[" * 100_000, b"\xff\xfe"])
def test_something_else_than_cdcs_is_one_sentence(body: bytes) -> None:
    with FakeSite(lambda v, s: v.reply(200, body, content_type="text/html")) as site:
        with pytest.raises(ArchiveError, match="check the address"):
            _at(site).list_own_blobs()
        assert len(site.seen) == 1


def test_a_proxy_that_limits_uploads_is_named() -> None:
    with (
        FakeSite(lambda v, s: v.reply(413, b"<html>", content_type="text/html")) as site,
        pytest.raises(SiteRefusedError, match=r"\(7 bytes\).*ask the site to raise it.*client_max_body_size"),
    ):
        _at(site).upload_blob("a.bin", io.BytesIO(b"content"), 7, lambda: None)


def test_a_proxy_that_refuses_a_large_upload_before_it_is_sent_does_not_hang() -> None:
    def refuse(visit: Visit, seen: Seen) -> None:
        visit.reply(413, b"<html>", content_type="text/html", connection="close")
        visit.drop()

    # The connection may be reset before the answer can be read: then the sentence can only guess.
    refused = pytest.raises((SiteRefusedError, SiteUnavailableError), match=r"proxy (may limit|limits) the size")
    with FakeSite(refuse, answers_early=True) as site, refused:
        _at(site).upload_blob("a.bin", io.BytesIO(bytes(20_000_000)), 20_000_000, lambda: None)


def _endless(visit: Visit, head: bytes, piece: bytes) -> None:
    visit.close_connection = True
    visit.wfile.write(b"HTTP/1.1 200 OK\r\n" + head)
    while True:
        visit.wfile.write(piece)


ENDLESS = {
    "body": (b"Content-Type: application/json\r\n\r\n", b" " * 65536),
    "chunks": (b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b" " * 65536 + b"\r\n"),
    "trailers": (b"Transfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n", b"X: y\r\n" * 10_000),
    "interim answers": (b"\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
}


@pytest.mark.parametrize("kind", list(ENDLESS))
def test_an_endless_answer_is_cut_off(kind: str) -> None:
    head, piece = ENDLESS[kind]

    def answer(visit: Visit, seen: Seen) -> None:
        if kind == "interim answers":
            visit.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        _endless(visit, head, piece)

    with FakeSite(answer) as site, pytest.raises(ArchiveError, match="sends more"):
        _at(site, largest_answer=2**20).list_own_blobs()


def test_an_endless_blob_is_cut_off_where_its_reader_says() -> None:
    with (
        FakeSite(lambda v, s: _endless(v, b"\r\n", b"x" * 65536)) as site,
        pytest.raises(ArchiveError, match="sends more"),
    ):
        _read(_at(site), "/blob", most=10_000_000)


SLOW = {
    "headers": b"HTTP/1.1 200 OK\r\nX-Slow: ",
    "body": b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n",
}


@pytest.mark.parametrize("through_a_proxy", [False, True])
@pytest.mark.parametrize("kind", list(SLOW))
def test_a_trickle_is_given_up(kind: str, through_a_proxy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()

    def trickle(visit: Visit, seen: Seen) -> None:
        visit.close_connection = True
        visit.wfile.write(SLOW[kind])
        while not done.wait(0.02):
            visit.wfile.write(b"x")

    with FakeSite(trickle) as site, contextlib.ExitStack() as stack:
        stack.callback(done.set)
        monkeypatch.setenv("http_proxy", site.url)
        host = "http://cdcs.example.org" if through_a_proxy else site.url
        client = CDCSClient(host, read_timeout=0.3, attempts=1)
        with pytest.raises(SiteUnavailableError, match="stopped sending"):
            client.list_own_blobs()
        with pytest.raises((TransferBrokenError, SiteUnavailableError), match="stopped sending"):
            _read(client, "/blob")


def test_silence_is_given_up_and_asked_again() -> None:
    done = threading.Event()
    with FakeSite(in_turn(lambda v: done.wait() and None, lambda v: v.reply(200, []))) as site:
        try:
            assert _at(site, read_timeout=0.2).list_own_blobs() == []
        finally:
            done.set()


def test_a_json_answer_that_ends_early_is_asked_again() -> None:
    def short(visit: Visit) -> None:
        visit.reply(200, b"[]", content_length="10")
        visit.drop()

    with FakeSite(in_turn(short, lambda v: v.reply(200, []))) as site:
        assert _at(site).list_own_blobs() == []
        assert len(site.seen) == 2


def test_a_blob_that_ends_early_says_so_after_what_came() -> None:
    def short(visit: Visit, seen: Seen) -> None:
        visit.reply(200, b"x" * 1000, content_length="5000")
        visit.drop()

    with FakeSite(short) as site, _at(site).open_blob("/blob") as stream:
        assert stream.length == 5000
        assert stream.read(600) == b"x" * 600
        with pytest.raises(TransferBrokenError, match="broke off: the connection was lost"):
            stream.read()


def test_pages_without_end_and_missing_records_are_noticed() -> None:
    item = {"id": 1, "title": "t", "content": "{}"}
    with (
        FakeSite(lambda v, s: v.reply(200, {"count": 3, "next": "x", "results": [item]})) as site,
        pytest.raises(ArchiveError, match="without end"),
    ):
        list(_at(site).query(1, {}, 1))
    with (
        FakeSite(lambda v, s: v.reply(200, {"count": 3, "next": None, "results": [item]})) as site,
        pytest.raises(ArchiveError, match="more records than it sends"),
    ):
        list(_at(site).query(1, {}, 1))


def test_own_records_without_end_are_noticed() -> None:
    answer = {"count": 3, "next": "x", "results": [{"id": 1, "title": "t", "content": "{}"}]}
    with FakeSite(lambda v, s: v.reply(200, answer)) as site:
        with pytest.raises(ArchiveError, match="without end"):
            _at(site).own_data("t", 1)
        assert len(site.seen) == 4


def test_a_query_whose_records_never_come_to_rest_yields_all_that_came() -> None:
    items = [{"id": number, "title": "t", "content": "{}"} for number in range(4)]
    answers = [{"count": count, "next": None, "results": items[: count + 1]} for count in (1, 2, 3)]
    with FakeSite(in_turn(*(lambda v, a=a: v.reply(200, a) for a in answers))) as site:  # type: ignore[misc]  # no type fits a default
        assert [data.id for data in _at(site).query(1, {}, 1)] == [0, 1, 2, 3]
        assert len(site.seen) == 3


def test_of_two_workspaces_with_one_title_none_is_chosen() -> None:
    spaces = [{"id": number, "title": PUBLIC} for number in (1, 2)]
    with (
        FakeSite(lambda v, s: v.reply(200, spaces)) as site,
        pytest.raises(ArchiveError, match=r"several workspaces 'Global Public Workspace'; ask the site to rename one"),
    ):
        _at(site).workspace_id(PUBLIC)


def test_a_query_that_is_refused_is_not_asked_again_page_by_page() -> None:
    with FakeSite(lambda v, s: v.reply(400, {"message": "No such key."})) as site:
        with pytest.raises(SiteRefusedError, match="refuses to search records: No such key"):
            list(_at(site).query(1, {}, 1, few=True))
        assert len(site.seen) == 1


def test_a_record_that_holds_no_json_spoils_only_itself() -> None:
    items = [
        {"id": n, "title": "t", "content": text} for n, text in enumerate(["<xml/>", '{"name": "x"}', "[1]", None])
    ]
    with FakeSite(lambda v, s: v.reply(200, {"count": 4, "next": None, "results": items})) as site:
        found = list(_at(site).query(1, {}, 1))
    assert found[1].content() == {"name": "x"}
    for data in (found[0], found[2], found[3]):
        with pytest.raises(RecordError, match="does not hold a JSON object"):
            data.content()


# --- going on with a download -----------------------------------------------------------------------------------------


def test_a_download_goes_on_where_the_site_honours_a_range() -> None:
    def ranged(visit: Visit, seen: Seen) -> None:
        start = int(seen.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        visit.reply(206, b"0123456789"[start:], content_range=f"bytes {start}-9/10")

    with FakeSite(ranged) as site, _at(site).open_blob("/blob", offset=4) as stream:
        assert (stream.start, stream.length, stream.read()) == (4, 6, b"456789")
        assert site.seen[0].headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(
    "answer",
    [
        lambda v: v.reply(206, b"456789", content_range="bytes 5-9/10"),
        lambda v: v.reply(206, b"456789"),
        lambda v: v.reply(416, b"", content_range="bytes */10"),
        lambda v: v.reply(206, b"456789", content_range="bytes 4-9/10", content_encoding="gzip"),
    ],
)
def test_a_wrong_answer_to_a_range_starts_over(answer: Callable[[Visit], None]) -> None:
    with (
        FakeSite(lambda v, s: answer(v) if "Range" in s.headers else v.reply(200, b"0123456789")) as site,
        _at(site).open_blob("/blob", offset=4) as stream,
    ):
        assert (stream.start, stream.length, stream.read()) == (0, 10, b"0123456789")


@pytest.mark.parametrize(
    "answer",
    [lambda v: v.reply(200, b"x", content_encoding="gzip"), lambda v: v.reply(206, b"x"), lambda v: v.reply(204)],
)
def test_a_blob_that_does_not_come_as_it_is_is_refused(answer: Callable[[Visit], None]) -> None:
    with FakeSite(lambda v, s: answer(v)) as site, pytest.raises(ArchiveError, match="does not send the blob as it is"):
        _read(_at(site), "/blob")


# --- processes and threads --------------------------------------------------------------------------------------------


def test_threads_and_processes_do_not_share_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeSite(lambda v, s: v.reply(200, [])) as site:
        client = _at(site)
        client.list_own_blobs()
        client.list_own_blobs()
        thread = threading.Thread(target=client.list_own_blobs)
        thread.start()
        thread.join()
        monkeypatch.setattr(os, "getpid", lambda: -1)
        client.list_own_blobs()
        connections = [seen.connection for seen in site.seen]
        assert connections[0] == connections[1]
        assert len(set(connections)) == 3


def test_a_client_that_was_closed_connects_again() -> None:
    with FakeSite(lambda v, s: v.reply(200, [])) as site:
        client = _at(site)
        client.close()
        for _ in range(2):
            client.list_own_blobs()
            client.close()
        assert len({seen.connection for seen in site.seen}) == 2


def test_json_that_is_sent_is_what_cdcs_reads() -> None:
    with FakeSite(lambda v, s: v.reply(201, {"id": "5f0c", "title": "t", "xml_content": s.body.decode()})) as site:
        made = _at(site).create_data("t", 1, None, {"name": "Größe"})
    sent = json.loads(site.seen[0].body)
    assert made.id == "5f0c"
    assert json.loads(sent["content"]) == json.loads(sent["xml_content"]) == {"name": "Größe"}
    assert "workspace" not in sent


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("2", 2),
        (" 120 ", 120),
        ("2\x1d", 2),
        ("-1", 0),
        ("1e3", 0),
        ("9" * 10, 0),
        ("soon", 0),
        ("", 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Wed, 99 Foo 2015", 0),
    ],
)
def test_a_pause_that_cannot_be_understood_is_none(said: str, seconds: float) -> None:
    assert pause_in(said) == seconds
