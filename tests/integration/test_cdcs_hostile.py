"""CDCS sites that lie, by mistake or on purpose: no hang, no secret given away, no wrong file, one sentence."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cdcs import Site
from tests.cdcs_server import USERS
from tests.cdcs_server.fake import FakeSite, Seen, Visit
from tests.cdcs_server.fake_cdcs import TOKEN, FakeCDCS
from tests.support import Outcome, Workshop, sha1, tree

DATA = bytes(range(256)) * 400
GOOD = b"a good file"
SECRETS = (USERS["alice"].password, TOKEN)

# Waits between attempts cost no time, and the patience with a silent site is short. There is no setting for either.
IMPATIENT = """
import pipeline.archives.cdcs.http as http
http.Site.__init__.__kwdefaults__.update(sleep=lambda seconds: None, read_timeout=1.0, attempts=2)
"""


@pytest.fixture
def fake() -> Iterator[FakeCDCS]:
    with FakeCDCS() as fake:
        yield fake


@pytest.fixture
def elsewhere() -> Iterator[FakeSite]:
    """Another host, which has what is asked for, whatever that is."""
    with FakeSite(lambda visit, seen: visit.reply(200, DATA)) as elsewhere:
        yield elsewhere


@pytest.fixture
def site(workshop: Workshop, fake: FakeCDCS) -> Site:
    (workshop.folder / "custom").mkdir()
    (workshop.folder / "custom" / "sitecustomize.py").write_text(IMPATIENT)
    workshop.environment["PYTHONPATH"] += f":{workshop.folder / 'custom'}"
    return Site(workshop, fake, "sample")  # type: ignore[arg-type]


def node(data: bytes, pid: str, **properties: object) -> dict[str, Any]:
    """Return what a record says of a file."""
    known = {"/item/": "File", "/bytes/": len(data), "/sha1/": sha1(data), "/bpid/": pid}
    return known | {f"/{name}/": value for name, value in properties.items()}


def record_of(project: object, version: object = "0.1.0", title: object = "sample") -> dict[str, Any]:
    return {"title": f"{title}-v{version}", "title_versionless": title, "version": version, "project": project}


def plant(fake: FakeCDCS, pid: str | None = None) -> None:
    """Publish a release of two files, one of which a test lies about; its PID is another one when given."""
    project = {"data.bin": node(DATA, fake.plant_blob(DATA)), "good.txt": node(GOOD, fake.plant_blob(GOOD))}
    if pid is not None:
        project["data.bin"]["/bpid/"] = pid
    fake.plant("Release", record_of(project))


def is_refused(outcome: Outcome, *words: str) -> None:
    """Check that a run ended with a sentence that has these words, with no traceback and no secret."""
    assert outcome.code == 30, outcome.output
    assert "Traceback" not in outcome.output, outcome.output
    assert not any(secret in outcome.output for secret in SECRETS)
    assert any(all(word in line for word in words) for line in outcome.output.splitlines()), outcome.output


def got_no_secret(host: FakeSite) -> bool:
    """Tell whether a host was sent nothing that belongs to the site."""
    return not any(
        "Authorization" in seen.headers
        or "Cookie" in seen.headers
        or any(secret.encode() in seen.body or secret in seen.path for secret in SECRETS)
        for seen in host.seen
    )


def nothing_is_published(fake: FakeCDCS) -> bool:
    return not any(item["template"] == 1 for item in fake.records)


# --- blobs that are not what the record says --------------------------------------------------------------------------


def _endless(visit: Visit, seen: Seen) -> None:
    visit.close_connection = True
    visit.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n" + DATA)
    while True:
        visit.wfile.write(bytes(65536))


def _cut_always(visit: Visit, seen: Seen) -> None:
    visit.reply(200, DATA[:1000], content_length=str(len(DATA)))
    visit.drop()


def _trickle(visit: Visit, seen: Seen) -> None:
    visit.close_connection = True
    visit.wfile.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(DATA)}\r\n\r\n".encode())
    while not visit.site.closed.wait(0.02):
        visit.wfile.write(b"x")


BODIES: dict[str, tuple[Callable[[Visit, Seen], None], str]] = {
    "other bytes": (lambda v, s: v.reply(200, DATA[:-1] + b"?"), "damaged"),
    "fewer bytes": (lambda v, s: v.reply(200, DATA[:-1]), "damaged"),
    "no bytes": (lambda v, s: v.reply(200, b""), "damaged"),
    "more bytes": (lambda v, s: v.reply(200, DATA + b"?"), "damaged"),
    "much more bytes": (lambda v, s: v.reply(200, DATA + bytes(3_000_000)), ""),
    "bytes without end": (_endless, ""),
    "fewer bytes than announced, always": (_cut_always, "broke off"),
    "a byte now and then": (_trickle, "stopped sending"),
    "compressed": (lambda v, s: v.reply(200, DATA, content_encoding="gzip"), "does not send the blob as it is"),
    "a page": (lambda v, s: v.reply(200, b"<html>Welcome!</html>", content_type="text/html"), "damaged"),
    "another part than asked for": (lambda v, s: v.reply(206, DATA[5:], content_range="bytes 5-9/10"), "as it is"),
    "nothing": (lambda v, s: v.reply(404, {"message": "Not found."}), "missing"),
    "no right": (lambda v, s: v.reply(403, {"detail": "No enough rights."}), "ask the site for the right to it"),
}


@pytest.mark.parametrize("kind", list(BODIES))
def test_a_blob_that_is_not_what_the_record_says_gets_no_name(site: Site, fake: FakeCDCS, kind: str) -> None:
    answer, words = BODIES[kind]
    plant(fake)
    fake.lie("GET", "(/pid/1$|/rest/blob/download/1/)", answer)
    is_refused(site.fetch(), "data.bin", words)
    assert site.fetched() == {"good.txt": GOOD}
    # Nothing of what came is taken for the beginning of the real blob later.
    fake._lies.clear()
    outcome = site.fetch()
    assert outcome.code == 0, outcome.output
    assert site.fetched() == {"data.bin": DATA, "good.txt": GOOD}


# --- blobs that are somewhere else ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pid", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://alice@127.0.0.1/", "javascript:1", "//[", "a b\n", "\0"]
)
def test_a_pid_that_is_no_address_of_a_blob_is_not_followed(site: Site, fake: FakeCDCS, pid: str) -> None:
    plant(fake, pid)
    is_refused(site.fetch(), "data.bin")
    assert site.fetched() == {"good.txt": GOOD}


def test_a_blob_on_another_host_is_verified_and_that_host_gets_no_secret(
    site: Site, fake: FakeCDCS, elsewhere: FakeSite
) -> None:
    plant(fake, f"{elsewhere.url}/20.500/1")
    assert site.fetch().code == 0
    assert site.fetched()["data.bin"] == DATA
    assert len(elsewhere.seen) == 1
    assert got_no_secret(elsewhere)
    elsewhere.answer = lambda visit, seen: visit.reply(200, b"wrong" + DATA)
    is_refused(site.fetch(destination="again"), "data.bin", "damaged")
    assert not list((site.workshop.folder / "again").glob("*/data.bin"))
    assert got_no_secret(elsewhere)


def test_a_host_on_the_local_link_never_gets_a_name_for_what_it_says(
    site: Site, fake: FakeCDCS, elsewhere: FakeSite
) -> None:
    # Whatever is sent to that address arrives at a proxy on this machine: nothing leaves it.
    site.workshop.environment |= {"http_proxy": elsewhere.url, "no_proxy": "127.0.0.1"}
    elsewhere.answer = lambda visit, seen: visit.reply(200, b"credentials of the machine")
    plant(fake, "http://169.254.169.254/latest/meta-data/")
    is_refused(site.fetch(), "data.bin")
    assert site.fetched() == {"good.txt": GOOD}
    assert got_no_secret(elsewhere)


REDIRECTS = {
    "to another host": (lambda far: f"{far}/stolen", "redirects to another host"),
    "in circles": (lambda far: "/pid/1", "redirects in circles"),
    "to a login page": (lambda far: "/accounts/login/?next=/pid/1", "asks for a login"),
    "to a file": (lambda far: "file:///etc/passwd", "is not an http or https address"),
    "to nowhere": (lambda far: "", ""),
}


@pytest.mark.parametrize("where", list(REDIRECTS))
@pytest.mark.parametrize("path", ["/pid/1$", "/rest/workspace/read_access", "/rest/template-version-manager/"])
def test_a_redirect_leads_nobody_astray(site: Site, fake: FakeCDCS, elsewhere: FakeSite, where: str, path: str) -> None:
    target, words = REDIRECTS[where]
    plant(fake)
    location = target(elsewhere.url)
    # A circle has to come back to where it began, whatever that was.
    fake.lie("GET", path, lambda v, s: v.reply(302, location=s.path if where == "in circles" else location))
    is_refused(site.fetch(), words)
    assert "data.bin" not in site.fetched()
    assert elsewhere.seen == []


@pytest.mark.parametrize("path", ["/api-token-auth/", "/rest/data/query/", "/rest/blob/", "/rest/data/$"])
@pytest.mark.parametrize("status", [302, 307])
def test_a_write_that_is_redirected_is_not_repeated_elsewhere(
    site: Site, fake: FakeCDCS, elsewhere: FakeSite, path: str, status: int
) -> None:
    fake.lie("POST", path, lambda v, s: v.reply(status, location=elsewhere.url + s.path))
    site.workshop.project(files={"data.bin": DATA})
    is_refused(site.publish(), "redirects to", "use the address that the site uses")
    assert elsewhere.seen == []
    assert nothing_is_published(fake)


# --- answers that are not those of CDCS -------------------------------------------------------------------------------

ANSWERS: dict[str, object] = {
    "a page": b"<html>Welcome!</html>",
    "a text": b'"text"',
    "a number": b"7",
    "a list of lists": b"[[]]",
    "nothing": b"null",
    "broken off": b'{"count": 1, "results": [',
    "deep": b"[" * 200_000,
    "not a number": b'{"count": NaN, "next": null, "results": [{"id": NaN}]}',
    "an id that is a path": b'[{"id": "../../x", "title": "Global Public Workspace", "current": "../../x"}]',
}
READS = {
    "GET": ["/rest/template-version-manager/", "/rest/workspace/read_access"],
    "POST": ["/rest/data/query/"],
}


@pytest.mark.parametrize("path", [*READS["GET"], *READS["POST"]])
def test_answers_that_cdcs_would_not_give_are_one_sentence(site: Site, fake: FakeCDCS, path: str) -> None:
    plant(fake)
    method = "POST" if path in READS["POST"] else "GET"
    for body in ANSWERS.values():
        fake._lies.clear()
        fake.lie(method, path, lambda v, s, body=body: v.reply(200, body, content_type="text/html"))  # type: ignore[misc]
        is_refused(site.fetch(), fake.url)
        assert site.fetched() == {}


@pytest.mark.parametrize("path", ["/rest/blob/$", "/rest/data/$"])
def test_an_upload_that_is_answered_by_a_page_is_not_taken_for_done(site: Site, fake: FakeCDCS, path: str) -> None:
    site.workshop.project(files={"data.bin": DATA})
    for status in (200, 201):
        fake._lies.clear()
        fake.lie("POST", path, lambda v, s, status=status: v.reply(status, b"<html>Welcome!"))  # type: ignore[misc]
        is_refused(site.publish(), "answers with something else than CDCS would")
        assert nothing_is_published(fake)


def test_an_error_that_repeats_what_it_was_sent_is_shown_without_the_secrets(site: Site, fake: FakeCDCS) -> None:
    site.workshop.project(files={"data.bin": DATA})
    fake.lie("POST", "/rest/blob/", lambda v, s: v.reply(500, {"message": f"no: {s.headers} {TOKEN}"}))
    is_refused(site.publish(), "refuses to upload", "Token ***")
    assert nothing_is_published(fake)


def test_pages_of_a_query_without_end_are_noticed(site: Site, fake: FakeCDCS) -> None:
    plant(fake)
    page = {"count": 10**9, "next": "more", "results": fake.records[:1]}
    fake.lie("POST", r"/rest/data/query/", lambda v, s: v.reply(200, {**page, "count": 30}))
    is_refused(site.fetch(), "sends pages of a query without end; tell the site")
    assert site.fetched() == {}


def test_a_query_that_announces_records_and_never_sends_them_is_noticed(site: Site, fake: FakeCDCS) -> None:
    answer = {"count": 10**9, "next": None, "results": []}
    fake.lie("POST", "/rest/data/query/", lambda v, s: v.reply(200, answer))
    is_refused(site.fetch(), "announces more records than it sends")


def test_records_of_other_releases_are_not_taken_for_this_one(site: Site, fake: FakeCDCS) -> None:
    other = {"evil.txt": node(GOOD, fake.plant_blob(GOOD))}
    lies = [
        record_of(other, title="another"),
        {**record_of(other, "9.0.0"), "title": "sample-v1.0.0"},
        {**record_of(other, "9.0.0"), "title_versionless": ["sample"]},
        {**record_of(other), "version": 1},
        {**record_of(other), "version": "../../x", "title": "sample-v../../x"},
        {**record_of(other), "version": None},
    ]
    records = [fake.plant("Release", lie) for lie in lies]
    answer = {"count": len(records), "next": None, "results": records}
    fake.lie("POST", "/rest/data/query/", lambda v, s: v.reply(200, answer))
    is_refused(site.fetch(), "sample")
    assert site.fetched() == {}
    assert not list(site.workshop.folder.rglob("evil.txt"))
    plant(fake)
    fake._lies.clear()
    answer = {"count": len(fake.records), "next": None, "results": fake.records}
    fake.lie("POST", "/rest/data/query/", lambda v, s: v.reply(200, answer))
    assert site.fetch().code == 0
    assert set(site.fetched()) == {"data.bin", "good.txt"}


def test_records_with_the_same_id_do_not_become_two(site: Site, fake: FakeCDCS) -> None:
    plant(fake)
    twin = {**fake.records[0], "content": json.dumps(record_of({"evil.txt": node(GOOD, fake.plant_blob(GOOD))}))}
    answer = {"count": 2, "next": None, "results": [fake.records[0], twin]}
    fake.lie("POST", "/rest/data/query/", lambda v, s: v.reply(200, answer))
    is_refused(site.fetch(), "announces more records than it sends")
    assert site.fetched() == {}


# --- records that mean harm -------------------------------------------------------------------------------------------

PATHS = ["..", "../x", "/etc/x", "a/../../x", "..\\x", "C:\\x", "a\0b", ".", "", "\ud800", "x" * 5000, ".rme"]
VALUES: dict[str, object] = {
    "a size that is no number": {"bytes": float("nan")},
    "a size without end": {"bytes": float("inf")},
    "a size below nothing": {"bytes": -1},
    "a size as text": {"bytes": "102400"},
    "a size that is true": {"bytes": True},
    "a size like the universe": {"bytes": 10**400},
    "a digest that is a path": {"sha1": "../../../../etc/passwd"},
    "a digest that is too short": {"sha1": "00"},
    "a digest that is a list": {"sha1": ["0" * 40]},
    "a pid that is a number": {"bpid": 7},
    "a pid that is a mapping": {"bpid": {"x": "y"}},
    "an item that is unknown": {"item": "Device"},
    "an item that is a list": {"item": ["File"]},
    "a path that leads out": {"path": "../../x"},
}


def _texts(fake: FakeCDCS) -> dict[str, str]:
    """Return the texts of records that mean harm, by what is wrong with them."""
    pid = fake.plant_blob(GOOD)
    projects: dict[str, object] = {f"the name {name!r}"[:40]: {name: node(GOOD, pid)} for name in PATHS}
    projects |= {why: {"evil.txt": node(GOOD, pid, **wrong)} for why, wrong in VALUES.items()}  # type: ignore[arg-type]
    projects |= {
        "a folder that leads out": {"..": {"/item/": "Directory", "evil.txt": node(GOOD, pid)}},
        "a file in a file": {"a": {**node(GOOD, pid), "evil.txt": node(GOOD, pid)}},
        "a project that is a list": [node(GOOD, pid)],
        "no project": None,
        "a file that is a text": {"evil.txt": "text"},
    }
    texts = {why: json.dumps(record_of(project)) for why, project in projects.items()}
    nested = '{"/item/": "Directory", "a": ' * 3000 + "{}" + "}" * 3000
    return texts | {
        "folders without end": json.dumps(record_of("?")).replace('"?"', '{"a": ' + nested + "}"),
        "brackets without end": "[" * 100_000,
        "something that is no JSON": "<xml/>",
        "names twice": json.dumps(record_of({}))[:-1] + ', "version": "9.0.0"}',
    }


def test_records_that_mean_harm_write_nothing_and_are_one_sentence(site: Site, fake: FakeCDCS) -> None:
    texts = _texts(fake)
    before = _around(site)
    unexplained = []
    for why, text in texts.items():
        fake.records.clear()
        fake.plant("Release", text)
        outcome = site.fetch()
        if outcome.code != 30 or "Traceback" in outcome.output or not outcome.output.strip():
            unexplained.append((why, outcome))
        assert site.fetched() == {}, why
        assert _around(site) == before, why
    assert unexplained == []


def _around(site: Site) -> dict[str, bytes | None]:
    """Return everything but the cache and the folder of the destination."""
    found = tree(site.workshop.folder)
    return {path: data for path, data in found.items() if path.split("/")[0] not in ("cache", "fetched")}


def test_a_good_release_is_fetched_although_somebody_published_harm_beside_it(site: Site, fake: FakeCDCS) -> None:
    fake.plant("Release", "[" * 100_000)
    fake.plant("Release", '{"title_versionless": "sample", "title": "sample-v9.0.0", "version": NaN}')
    plant(fake)
    outcome = site.fetch()
    assert outcome.code == 0, outcome.output
    assert site.fetched() == {"data.bin": DATA, "good.txt": GOOD}


# --- what a publisher is told about blobs -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [len(DATA), -1, True, 1.5, 10**400, "102400"])
def test_what_others_say_of_a_blob_is_not_believed_when_nobody_can_read_it(
    site: Site, fake: FakeCDCS, size: object
) -> None:
    for pid in ("file:///etc/passwd", f"{fake.url}/pid/99", "x" * 10_000, "\0"):
        fake.plant("BlobMetadata", {"sha1": sha1(DATA), "blob/PID/": pid, "/bytes/": size})
    fake.lie("GET", "/pid/99", lambda v, s: v.reply(404, {"message": "gone"}))
    site.workshop.project(files={"data.bin": DATA})
    outcome = site.publish()
    assert outcome.code == 0, outcome.output
    (published,) = [json.loads(item["content"]) for item in fake.records if item["template"] == 1]
    assert published["project"]["data.bin"]["/bpid/"] == f"{fake.url}/pid/1"
    assert fake.blobs == [DATA]
