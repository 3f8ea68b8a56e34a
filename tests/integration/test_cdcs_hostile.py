"""CDCS sites that lie, by mistake or on purpose: no hang, no secret given away, no wrong file, one sentence."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from tests.cdcs import Site, make_impatient
from tests.cdcs_server import USERS
from tests.cdcs_server.fake import FakeSite, Visit
from tests.cdcs_server.fake_cdcs import TOKEN, FakeCDCS
from tests.support import Outcome, Workshop, sha1, tree

DATA = bytes(range(256)) * 400
GOOD = b"a good file"
SECRETS = (USERS["alice"].password, TOKEN)


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
    make_impatient(workshop)
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


Answer = Callable[[Visit, bytes], None]


def _endless(visit: Visit, data: bytes) -> None:
    visit.close_connection = True
    visit.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n" + data)
    while True:
        visit.wfile.write(bytes(65536))


def _cut_always(visit: Visit, data: bytes) -> None:
    visit.reply(200, data[:1000], content_length=str(len(data)))
    visit.drop()


def _trickle(visit: Visit, data: bytes) -> None:
    visit.close_connection = True
    visit.wfile.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\n\r\n".encode())
    while not visit.site.closed.wait(0.02):
        visit.wfile.write(b"x")


BODIES: dict[str, tuple[Answer, str]] = {
    "other bytes": (lambda visit, data: visit.reply(200, data[:-1] + b"?"), "damaged"),
    "fewer bytes": (lambda visit, data: visit.reply(200, data[:-1]), "damaged"),
    "no bytes": (lambda visit, data: visit.reply(200, b""), "damaged"),
    "more bytes": (lambda visit, data: visit.reply(200, data + b"?"), "damaged"),
    "much more bytes": (lambda visit, data: visit.reply(200, data + bytes(3_000_000)), "damaged"),
    "bytes without end": (_endless, "damaged"),
    "a page": (lambda visit, data: visit.reply(200, b"<html>Welcome!", content_type="text/html"), "damaged"),
    "fewer bytes than announced": (_cut_always, "broke off: the connection was lost"),
    "a byte now and then": (_trickle, "broke off: the site stopped sending"),
    "compressed": (lambda visit, data: visit.reply(200, data, content_encoding="gzip"), "not send the blob as it is"),
    "another part": (lambda visit, data: visit.reply(206, data, content_range="bytes 5-9/10"), "the blob as it is"),
    "nothing": (lambda visit, data: visit.reply(404, {"message": "Not found."}), "is missing from the archive"),
    "no right": (lambda visit, data: visit.reply(403, {"detail": "No enough rights."}), "ask the site for the right"),
    "a lie about the status": (lambda visit, data: visit.reply(500, {"message": "Oops."}), "Oops."),
}


@pytest.mark.parametrize("reason", sorted({reason for _, reason in BODIES.values()}))
def test_a_blob_that_is_not_what_the_record_says_gets_no_name(site: Site, fake: FakeCDCS, reason: str) -> None:
    lies = {kind: answer for kind, (answer, why) in BODIES.items() if why == reason}
    project = {"good.txt": node(GOOD, fake.plant_blob(GOOD))}
    for kind, answer in lies.items():
        data = kind.encode() + DATA
        project[f"{kind}.bin"] = node(data, fake.plant_blob(data))
        path = rf"/(pid|rest/blob/download)/{len(fake.blobs)}/?$"
        fake.lie("GET", path, lambda visit, seen, answer=answer, data=data: answer(visit, data))  # type: ignore[misc]
    fake.plant("Release", record_of(project))
    outcome = site.fetch()
    is_refused(outcome, reason, next(iter(lies)))
    assert site.fetched() == {"good.txt": GOOD}
    # Nothing of what came is taken for the beginning of the real blob later.
    fake.lies.clear()
    outcome = site.fetch()
    assert outcome.code == 0, outcome.output
    assert site.fetched() == {"good.txt": GOOD} | {f"{kind}.bin": kind.encode() + DATA for kind in lies}


# --- blobs that are somewhere else ------------------------------------------------------------------------------------


PIDS = ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://alice@127.0.0.1/", "javascript:1", "//[", "a b\n", "\0"]


def test_a_pid_that_is_no_address_of_a_blob_is_not_followed(site: Site, fake: FakeCDCS) -> None:
    project = {f"{number}.bin": node(b"%d" % number, pid) for number, pid in enumerate(PIDS)}
    fake.plant("Release", record_of({**project, "good.txt": node(GOOD, fake.plant_blob(GOOD))}))
    is_refused(site.fetch(), "0.bin", "is not an http or https address")
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
    "to another host": ("FAR/stolen", "redirects to another host"),
    "in circles": ("/pid/1", "redirects in circles"),
    "to a login page": ("/accounts/login/?next=/pid/1", "asks for a login"),
    "to a file": ("file:///etc/passwd", "is not an http or https address"),
    "to nowhere": ("", "redirects in circles"),
}


@pytest.mark.parametrize("where", list(REDIRECTS))
def test_a_redirect_leads_nobody_astray(site: Site, fake: FakeCDCS, elsewhere: FakeSite, where: str) -> None:
    location, words = REDIRECTS[where]
    location = location.replace("FAR", elsewhere.url)
    plant(fake)
    fake.lie("GET", "/pid/1$", lambda v, s: v.reply(302, location=location))
    is_refused(site.fetch(), "data.bin", words)
    assert site.fetched() == {"good.txt": GOOD}
    fake.lie(
        "GET", "/rest/workspace/read_access", lambda v, s: v.reply(301, location=location.replace("/pid/1", s.path))
    )
    is_refused(site.fetch(destination="again"), words)
    assert not (site.workshop.folder / "again").exists()
    assert elsewhere.seen == []


@pytest.mark.parametrize("path", ["/api-token-auth/", "/rest/data/query/", "/rest/blob/", "/rest/data/$"])
def test_a_write_that_is_redirected_is_not_repeated_elsewhere(
    site: Site, fake: FakeCDCS, elsewhere: FakeSite, path: str
) -> None:
    site.workshop.project(files={"data.bin": DATA})
    fake.lie("POST", path, lambda v, s: v.reply(307, location=elsewhere.url + s.path))
    is_refused(site.publish(), "redirects to", "use the address that the site uses")
    assert elsewhere.seen == []
    assert nothing_is_published(fake)


# --- answers that are not those of CDCS -------------------------------------------------------------------------------

ANSWERS = {
    "a page": b"<html>Welcome!</html>",
    "a text": b'"text"',
    "a number": b"7",
    "a list of lists": b"[[]]",
    "nothing": b"null",
    "broken off": b'{"count": 1, "results": [',
    "deep": b"[" * 200_000,
    "an id that is a path": b'[{"id": "../../x", "title": "Global Public Workspace", "current": "../../x"}]',
    "not a number": b'{"count": NaN, "next": null, "results": [{"id": NaN}]}',
}
READS = [("GET", "/rest/template-version-manager/"), ("GET", "/rest/workspace/"), ("POST", "/rest/data/query/")]


@pytest.mark.parametrize("number", range(len(ANSWERS)), ids=list(ANSWERS))
def test_an_answer_that_cdcs_would_not_give_is_one_sentence(site: Site, fake: FakeCDCS, number: int) -> None:
    body = list(ANSWERS.values())[number]
    plant(fake)
    # Each answer in one place is enough: all are read by the same few lines.
    fake.lie(*READS[number % len(READS)], lambda v, s: v.reply(200, body, content_type="text/html"))
    is_refused(site.fetch(), fake.url, "tell the site" if b"id" in body else "check the address")
    assert site.fetched() == {}


@pytest.mark.parametrize("path", ["/rest/blob/$", "/rest/data/$"])
def test_an_upload_that_is_answered_by_a_page_is_not_taken_for_done(site: Site, fake: FakeCDCS, path: str) -> None:
    site.workshop.project(files={"data.bin": DATA})
    for status in (200, 201):
        fake.lies.clear()
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
    is_refused(site.fetch(), "sends pages of records without end; tell the site")
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
    fake.lies.clear()
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


# One process for all, because each would need a second to start.
FETCH_EACH = """
import sys, luigi, pipeline
for title in sys.argv[2:]:
    result = luigi.build([pipeline.FetchRelease(title=title, archive=sys.argv[1])], detailed_summary=True)
    print(f"{title} ends: {result.scheduling_succeeded}", flush=True)
"""


def test_records_that_mean_harm_write_nothing_and_are_one_sentence(site: Site, fake: FakeCDCS) -> None:
    texts = _texts(fake)
    texts["nothing wrong"] = json.dumps(record_of({"good.txt": node(GOOD, fake.plant_blob(GOOD))}))
    for number, text in enumerate(texts.values()):
        fake.plant("Release", text.replace('"sample', f'"sample-{number}'))
    before = _around(site)
    process = subprocess.run(
        [sys.executable, "-c", FETCH_EACH, fake.url, *(f"sample-{number}" for number in range(len(texts)))],
        cwd=site.workshop.folder,
        env=site.workshop.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stdout
    assert "Traceback" not in process.stdout
    told = process.stdout.split(" ends: ")
    *bad, good = [
        (why, "ERROR: " in said, end.split()[0]) for why, said, end in zip(texts, told, told[1:], strict=False)
    ]
    assert bad == [(why, True, "False") for why in list(texts)[:-1]]
    assert good == ("nothing wrong", False, "True")
    folder = site.workshop.folder / "fetched"
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and ".rme" not in path.parts]
    assert list(map(str, files)) == [f"sample-{len(texts) - 1}-v0.1.0/good.txt"]
    assert _around(site) == before


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


def publish_under(site: Site, fake: FakeCDCS, pids: Iterable[str], size: object = len(DATA)) -> None:
    """Publish a file of which others said that the site has it, and check that it was uploaded."""
    for pid in pids:
        fake.plant("BlobMetadata", {"sha1": sha1(DATA), "blob/PID/": pid, "/bytes/": size})
    site.workshop.project(files={"data.bin": DATA})
    outcome = site.publish()
    assert outcome.code == 0, outcome.output
    (published,) = [json.loads(item["content"]) for item in fake.records if item["template"] == 1]
    assert published["project"]["data.bin"]["/bpid/"] == f"{fake.url}/pid/1"
    assert fake.blobs == [DATA]


def test_a_size_that_is_none_says_nothing_of_a_blob(site: Site, fake: FakeCDCS) -> None:
    for size in (-1, 1.5, 10**400, "102400", None, [len(DATA)]):
        fake.plant("BlobMetadata", {"sha1": sha1(DATA), "blob/PID/": f"{fake.url}/pid/7", "/bytes/": size})
    publish_under(site, fake, [])


def test_what_others_say_of_a_blob_that_is_gone_is_not_believed(site: Site, fake: FakeCDCS) -> None:
    fake.lie("GET", "/pid/7", lambda v, s: v.reply(404, {"message": "gone"}))
    publish_under(site, fake, [f"{fake.url}/pid/7"])


@pytest.mark.parametrize(
    "pid",
    [
        "file:///etc/passwd",
        "http://127.0.0.1:9/nobody",
        "/circle",
        "/compressed",
        "/broken",
    ],
)
def test_what_others_say_of_a_blob_that_nobody_can_open_stops_nobody(site: Site, fake: FakeCDCS, pid: str) -> None:
    fake.lie("GET", "/circle", lambda v, s: v.reply(302, location="/circle"))
    fake.lie("GET", "/broken", lambda v, s: v.reply(500, b"<html>no right, but no reason either"))
    fake.lie("GET", "/compressed", lambda v, s: v.reply(200, DATA, content_encoding="gzip"))
    publish_under(site, fake, [pid])


def test_what_others_say_of_a_blob_elsewhere_is_not_believed(site: Site, fake: FakeCDCS, elsewhere: FakeSite) -> None:
    # It has as many bytes, but nobody has verified them.
    elsewhere.answer = lambda visit, seen: visit.reply(200, bytes(len(DATA)))
    publish_under(site, fake, [f"{elsewhere.url}/20.500/1"])
    assert elsewhere.seen == []
