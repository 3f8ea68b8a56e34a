"""CDCS sites that are set up differently: each works, or one sentence tells the user what to ask the site for."""

import json
import random
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import RecordError
from tests.cdcs import OTHER, Site, archive_of, described, make_archive, stored
from tests.cdcs_server import USERS, CDCSServer, Postgres
from tests.support import Outcome, Workshop, sha1

READ_ONLY = "Group of Bob"
Start = Callable[..., CDCSServer]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Return what starts a site of some switches; one that runs already is used again."""
    with ExitStack() as stack:
        running: dict[str, CDCSServer] = {}

        def get(**switches: Any) -> CDCSServer:
            key = repr(sorted(switches.items()))
            if key not in running:
                server = stack.enter_context(CDCSServer(tmp_path_factory.mktemp("cdcs"), **switches))
                make_archive(server)
                running[key] = server
            return running[key]

        yield get


@pytest.fixture
def visit(workshop: Workshop, request: pytest.FixtureRequest) -> Callable[[CDCSServer], Site]:
    """Return what brings a user to a site, with a title that no other test has."""
    return lambda server: Site(workshop, server, f"sites-{sha1(request.node.name.encode())[:10]}")


def content_of(site: Site) -> dict[str, bytes]:
    dice = random.Random(site.title)
    content = {f"data/Größe {number}.csv": dice.randbytes(dice.randrange(1, 4000)) for number in range(11)}
    return {**content, "empty.txt": b"", "twins/a.csv": b"twins" + dice.randbytes(9)}


def is_fine(outcome: Outcome) -> str:
    assert outcome.code == 0, outcome.output
    return outcome.output


def is_refused(outcome: Outcome, *words: str) -> None:
    """Check that a run ended with a sentence that has these words, and with nothing that is no sentence."""
    assert outcome.code == 30, outcome.output
    assert "Traceback" not in outcome.output, outcome.output
    assert any(all(word in line for word in words) for line in outcome.output.splitlines()), outcome.output


def publish_fetch_and_publish_again(site: Site) -> None:
    """Check that a site works as every other does."""
    content = content_of(site)
    site.workshop.project(files=content)
    assert "12 moved" in is_fine(site.publish())
    is_fine(site.fetch())
    assert site.fetched() == content
    for again in (site.publish(), site.fetch()):
        assert "Nothing to do" in is_fine(again)
    alice = archive_of(site.server)
    digests = [sha1(data) for data in content.values() if data]
    assert described(alice, digests) == stored(alice, digests) == dict.fromkeys(digests, 1)
    assert records_of(site) == [f"{site.title}-v0.1.0"]


def records_of(site: Site) -> list[str]:
    """Return the titles of all records of the release, wherever they are."""
    curator = archive_of(site.server, "admin").curator
    return [data.title for data in curator.query(None, {"title_versionless": site.title}, None)]


# --- sites that work --------------------------------------------------------------------------------------------------


def test_a_site_in_compatibility_mode_that_knows_basic_only_works(
    start: Start, visit: Callable[[CDCSServer], Site]
) -> None:
    server = start(xml_content=True, token=False, checksum="SHA256")
    publish_fetch_and_publish_again(visit(server))
    # So that the test cannot pass on a site that is like all others.
    curator = archive_of(server).curator
    found = curator.call("GET", "/rest/data/", doing="to list records").value["results"][0]
    assert "xml_content" in found
    assert "content" not in found


def test_a_site_that_takes_a_password_only_for_a_token_works(start: Start, visit: Callable[[CDCSServer], Site]) -> None:
    publish_fetch_and_publish_again(visit(start(basic=False)))


def test_a_site_where_only_an_administrator_gives_tokens_works_with_one_and_says_so_without(
    tmp_path: Path, visit: Callable[[CDCSServer], Site]
) -> None:
    with CDCSServer(tmp_path / "cdcs") as server:
        make_archive(server)
        token = token_of(server, "alice")
    with CDCSServer(tmp_path / "cdcs", basic=False, token=False, port=server.port) as closed:
        site = visit(closed)
        content = content_of(site)
        site.workshop.project(files=content)
        is_refused(site.publish(), "takes no password from programs; ask the site for a token")
        is_refused(site.fetch(), "takes no password from programs; ask the site for a token")
        del site.workshop.environment["PIPELINE_PASSWORD"]
        site.workshop.environment["PIPELINE_TOKEN"] = token
        outputs = [is_fine(site.publish()), is_fine(site.fetch()), is_fine(site.publish())]
        assert site.fetched() == content
        assert "Nothing to do" in outputs[-1]
        assert token not in "".join(outputs)


def token_of(server: CDCSServer, name: str) -> str:
    login = json.dumps({"username": name, "password": USERS[name].password}).encode()
    request = urllib.request.Request(f"{server.base_url}/api-token-auth/", login, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return str(json.load(answer)["token"])


def test_a_site_on_postgresql_works(tmp_path: Path, visit: Callable[[CDCSServer], Site]) -> None:
    with Postgres() as database, CDCSServer(tmp_path / "cdcs", database=database.url) as server:
        make_archive(server)
        publish_fetch_and_publish_again(visit(server))
        assert not (server.folder / "db.sqlite3").exists()
        # PostgreSQL answers 500 to what it cannot store, which does not even reach it.
        site = visit(server)
        alice = archive_of(server)
        for odd in ("a\0b", "\ud800"):
            record = {"title": "odd-v1.0.0", "title_versionless": "odd", "version": "1.0.0", "project": {}, "x": odd}
            with pytest.raises(RecordError, match=r"cannot be (stored|written)"):
                alice.upload_release_record(record)
        assert records_of(Site(site.workshop, server, "odd")) == []


def test_a_site_that_lets_everybody_read_is_used_with_a_login_as_every_other_and_says_so_without(
    start: Start, visit: Callable[[CDCSServer], Site]
) -> None:
    site = visit(start(anonymous=True, extensions="stock"))
    publish_fetch_and_publish_again(site)
    del site.workshop.environment["PIPELINE_USER"], site.workshop.environment["PIPELINE_PASSWORD"]
    for outcome in (site.fetch(destination="elsewhere"), site.publish("0.2.0")):
        is_refused(outcome, "nobody to ask", "set PIPELINE_USER and PIPELINE_PASSWORD, or PIPELINE_TOKEN")
    assert records_of(site) == [f"{site.title}-v0.1.0"]


# --- sites that refuse ------------------------------------------------------------------------------------------------


def test_an_extension_that_the_site_refuses_is_told_with_the_setting_to_ask_for_and_nothing_is_published(
    start: Start, visit: Callable[[CDCSServer], Site]
) -> None:
    site = visit(start(anonymous=True, extensions="stock"))
    content = content_of(site)
    site.workshop.project(files={**content, "trace.h5": b"refused"})
    is_refused(site.publish(), "trace.h5", "not allowed", "ask the site to allow this kind of file", "BLOB_EXTENSIONS")
    assert records_of(site) == []
    assert not stored(archive_of(site.server), [sha1(b"refused")])
    (site.workshop.folder / "project" / "trace.h5").unlink()
    assert "12 already there" in is_fine(site.publish())


def test_a_user_without_the_right_to_publish_is_told_to_ask_for_it_and_may_read(
    start: Start, visit: Callable[[CDCSServer], Site]
) -> None:
    site = visit(start(anonymous=True, extensions="stock"))
    content = content_of(site)
    site.workshop.project(files=content)
    site.log_in("carol")
    is_refused(site.publish(), "ask the site for the right to it for 'carol'")
    assert records_of(site) == []
    assert not described(archive_of(site.server), map(sha1, content.values()))
    site.log_in("alice")
    is_fine(site.publish())
    site.log_in("carol")
    is_fine(site.fetch())
    assert site.fetched() == content


def make_read_only_workspace(server: CDCSServer) -> None:
    """Let alice read a workspace of bob's that she may not write to."""
    bob, alice = archive_of(server, "bob").curator, archive_of(server).curator
    made = bob.call("POST", "/rest/workspace/", {"title": READ_ONLY}, doing="to make it", expect=201).value["id"]
    own = alice.call("GET", "/rest/workspace/", doing="to list workspaces").value
    (user,) = {workspace["owner"] for workspace in own if workspace["title"] == OTHER}
    bob.call("PATCH", f"/rest/workspace/{made}/add_read_right_to_user/{user}/", doing="to open it to alice")


def test_a_workspace_that_the_user_may_only_read_is_told_with_the_right_to_ask_for(
    start: Start, visit: Callable[[CDCSServer], Site]
) -> None:
    site = visit(start(anonymous=True, extensions="stock"))
    content = content_of(site)
    site.workshop.project(files=content)
    make_read_only_workspace(site.server)
    is_refused(site.publish(workspace=READ_ONLY), "ask the site for the right to it for 'alice'")
    assert records_of(site) == []
    site.log_in("bob")
    is_fine(site.publish(workspace=READ_ONLY))
    site.log_in("alice")
    is_fine(site.fetch(workspace=READ_ONLY))
    assert site.fetched() == content


def test_an_unknown_workspace_is_told_before_anything_moves(start: Start, visit: Callable[[CDCSServer], Site]) -> None:
    site = visit(start(anonymous=True, extensions="stock"))
    content = content_of(site)
    site.workshop.project(files=content)
    words = ("no workspace 'Nowhere' that 'alice' can read", "ask the site for the right to it")
    is_refused(site.publish(workspace="Nowhere"), *words)
    is_refused(site.fetch(workspace="Nowhere"), *words)
    site.log_in("bob")
    is_refused(site.publish(workspace=OTHER), f"no workspace '{OTHER}' that 'bob' can read")
    for name in ("alice", "bob"):
        assert not stored(archive_of(site.server, name), map(sha1, content.values()))


@pytest.mark.parametrize("title", ["Release", "BlobMetadata"])
def test_a_template_that_the_site_took_away_is_told_before_anything_moves(
    start: Start, visit: Callable[[CDCSServer], Site], title: str
) -> None:
    site = visit(start(anonymous=True, extensions="stock"))
    content = content_of(site)
    site.workshop.project(files=content)
    with disabled(site.server, title):
        is_refused(site.publish(), f"no template '{title}'", "ask its administrator to install it")
        if title == "Release":
            is_refused(site.fetch(), f"no template '{title}'", "ask its administrator to install it")
    assert not stored(archive_of(site.server), map(sha1, content.values()))
    assert "12 moved" in is_fine(site.publish())


def disabled(server: CDCSServer, title: str) -> AbstractContextManager[Any]:
    """Disable a template for a while, as an administrator does."""
    curator = archive_of(server, "admin").curator
    managers = curator.call("GET", "/rest/template-version-manager/global/", doing="to list").value
    (ident,) = (manager["id"] for manager in managers if manager["title"] == title)

    @contextmanager
    def taken() -> Iterator[None]:
        curator.call("PATCH", f"/rest/template-version-manager/{ident}/disable/", doing="to disable")
        try:
            yield
        finally:
            curator.call("PATCH", f"/rest/template-version-manager/{ident}/restore/", doing="to restore")

    return taken()
