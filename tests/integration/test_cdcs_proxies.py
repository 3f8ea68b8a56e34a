"""What stands before a CDCS site: nginx that limits uploads or honours ranges, a late index, a line that breaks."""

import contextlib
import json
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import ReleaseRecordNotFoundError
from tests.cdcs import Site, archive_of, described, make_archive, stored
from tests.cdcs_server import CDCSServer, Nginx
from tests.cdcs_server.fake import Seen, Visit
from tests.cdcs_server.proxy import Cut, Lag, Proxy, Reply
from tests.support import ROOT, Outcome, Workshop, sha1

MIB = 2**20


class Line:
    """A site, and the ways to it: every client comes through the proxy, which asks nginx or the server itself."""

    def __init__(self, proxy: Proxy, server: CDCSServer, nginx: Nginx) -> None:
        self.proxy, self.server, self.nginx = proxy, server, nginx


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    with (
        Proxy() as proxy,
        CDCSServer(tmp_path_factory.mktemp("cdcs"), public_url=proxy.url) as server,
        Nginx(server.local_url, "10m") as nginx,
    ):
        proxy.upstream = server.local_url
        make_archive(server)
        yield Line(proxy, server, nginx)


@pytest.fixture
def site(workshop: Workshop, line: Line, request: pytest.FixtureRequest) -> Iterator[Site]:
    # A hash, because long names with different parameters begin alike.
    yield Site(workshop, line.server, f"proxies-{sha1(request.node.name.encode())[:10]}")
    line.proxy.upstream = line.server.local_url
    line.proxy.meddle = lambda visit, seen, reply: reply


def content_of(site: Site, big: int = 0) -> dict[str, bytes]:
    """Return files that no other test has."""
    dice = random.Random(site.title)
    content = {f"data/{number}.csv": dice.randbytes(dice.randrange(1, 4000)) for number in range(12)}
    return {**content, "big.bin": dice.randbytes(big)} if big else content


def is_fine(outcome: Outcome) -> str:
    assert outcome.code == 0, outcome.output
    return outcome.output


# --- an nginx that limits uploads -------------------------------------------------------------------------------------


def test_a_proxy_that_limits_uploads_is_told_with_the_setting_to_ask_for_and_the_rest_is_not_lost(
    site: Site, line: Line
) -> None:
    content = content_of(site, big=11 * MIB)
    site.workshop.project(files=content)
    outcome = site.publish(archive=line.nginx.url)
    assert outcome.code == 30, outcome.output
    assert "big.bin" in outcome.output
    assert "ask the site to raise it (nginx: client_max_body_size)" in outcome.output
    assert "Traceback" not in outcome.output
    alice = archive_of(line.server)
    with pytest.raises(ReleaseRecordNotFoundError):
        alice.get_release_records(site.title)
    assert "12 already there" in is_fine(site.publish())
    assert stored(alice, map(sha1, content.values())) == dict.fromkeys(map(sha1, content.values()), 1)


def test_everything_works_through_nginx_that_takes_the_files(site: Site, line: Line) -> None:
    line.proxy.upstream = line.nginx.url
    content = content_of(site, big=3 * MIB)
    site.workshop.project(files=content)
    is_fine(site.publish())
    is_fine(site.fetch())
    assert site.fetched() == content
    assert "Nothing to do" in is_fine(site.publish())
    assert "Nothing to do" in is_fine(site.fetch())


# --- an index that is late --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queries", [1, 10**9])
def test_a_late_index_neither_stops_a_publisher_nor_makes_anything_twice(site: Site, line: Line, queries: int) -> None:
    content = content_of(site)
    site.workshop.project(files=content)
    lag = Lag(line.proxy, queries)
    output = is_fine(site.publish())
    assert lag.hid, "nothing was hidden, so that nothing was tested"
    assert "12 moved" in output
    lag.end()
    alice = archive_of(line.server)
    (record,) = alice.get_release_records(site.title).values()
    assert f"The record is {record['/PID/']}" in output
    assert "Nothing to do" in is_fine(site.publish())
    is_fine(site.fetch())
    assert site.fetched() == content
    digests = [sha1(data) for data in content.values()]
    assert described(alice, digests) == stored(alice, digests) == dict.fromkeys(digests, 1)
    assert len(records_of(site, line)) == 1


def records_of(site: Site, line: Line) -> list[str]:
    """Return the ids of all records of the release, also of repeated versions."""
    curator = archive_of(line.server).curator
    found = curator.query(curator.template_ids("Release"), {"title_versionless": site.title}, None)
    return [str(data.id) for data in found]


def test_a_publisher_who_is_interrupted_while_the_index_is_late_leaves_one_of_everything(
    site: Site, line: Line
) -> None:
    content = content_of(site)
    site.workshop.project(files=content)
    lag = Lag(line.proxy)
    process = site.start()
    with process:
        alice = archive_of(line.server)
        digests = [sha1(data) for data in content.values()]
        end = time.monotonic() + 60
        while process.poll() is None and sum(stored(alice, digests).values()) < 6:
            assert time.monotonic() < end
        process.kill()
    lag.end()
    is_fine(site.publish())
    assert described(alice, digests) == stored(alice, digests) == dict.fromkeys(digests, 1)
    assert len(records_of(site, line)) == 1


# --- a connection that breaks -----------------------------------------------------------------------------------------


def test_an_answer_that_is_lost_leaves_nothing_twice(site: Site, line: Line) -> None:
    content = content_of(site)
    site.workshop.project(files=content)
    lost = set()

    def lose_first_answers(visit: Visit, seen: Seen, reply: Reply) -> Reply | None:
        if seen.method != "POST" or reply.status != 201:
            return reply
        kind = (seen.path, json.loads(reply.body).get("template"))
        if kind in lost:
            return reply
        lost.add(kind)
        visit.drop()
        return None

    line.proxy.meddle = lose_first_answers
    assert "12 moved" in is_fine(site.publish())
    assert sorted(path for path, _ in lost) == ["/rest/blob/", "/rest/data/", "/rest/data/"]
    alice, digests = archive_of(line.server), [sha1(data) for data in content.values()]
    assert described(alice, digests) == stored(alice, digests) == dict.fromkeys(digests, 1)
    assert len(records_of(site, line)) == 1


@pytest.fixture
def published(site: Site, line: Line) -> dict[str, bytes]:
    content = content_of(site, big=6 * MIB)
    site.workshop.project(files=content)
    is_fine(site.publish())
    return content


def test_a_download_that_breaks_off_goes_on_in_the_same_run_with_only_the_rest_sent_again(
    site: Site, line: Line, published: dict[str, bytes]
) -> None:
    line.proxy.upstream = line.nginx.url
    cut = Cut(line.proxy, after=3 * MIB + 1000)
    is_fine(site.fetch())
    assert site.fetched() == published
    (first, second) = cut.downloads
    assert first == (0, 3 * MIB + 1000)
    assert second[0] > 2 * MIB
    assert sum(second) == 6 * MIB


def test_a_download_that_breaks_off_starts_over_in_the_same_run_where_the_site_ignores_ranges(
    site: Site, line: Line, published: dict[str, bytes]
) -> None:
    cut = Cut(line.proxy, after=3 * MIB + 1000)
    is_fine(site.fetch())
    assert site.fetched() == published
    (first, second) = cut.downloads
    assert first == (0, 3 * MIB + 1000)
    assert second[1] == 6 * MIB


@pytest.mark.parametrize("honours_ranges", [True, False])
def test_a_fetch_that_is_killed_in_the_middle_of_a_blob_goes_on_from_its_part(
    site: Site, line: Line, published: dict[str, bytes], honours_ranges: bool
) -> None:
    if honours_ranges:
        line.proxy.upstream = line.nginx.url
    is_over = threading.Event()
    cut = Cut(line.proxy, after=4 * MIB, wait=is_over)
    process = site.start_fetching()
    try:
        with process:
            wait_for_a_part(site.workshop.folder, at_least=2 * MIB)
            process.kill()
    finally:
        is_over.set()
    assert not list(site.workshop.folder.glob("fetched/*/big.bin"))
    is_fine(site.fetch())
    assert site.fetched() == published
    (first, second) = cut.downloads
    assert first == (0, 4 * MIB)
    assert second[0] >= 2 * MIB
    assert second[1] == (6 * MIB - second[0] if honours_ranges else 6 * MIB)


def wait_for_a_part(folder: Path, at_least: int) -> None:
    """Return when a part of this size was written."""
    end = time.monotonic() + 60
    while not any(part.stat().st_size >= at_least for part in folder.rglob("*.part")):
        assert time.monotonic() < end, "nothing is written"
        time.sleep(0.01)


@pytest.mark.parametrize("companion", ["Nginx('http://127.0.0.1:9')", "Postgres()"])
def test_what_stands_around_a_server_does_not_outlive_the_test_run(companion: str) -> None:
    script = f"""
from tests.cdcs_server import Nginx, Postgres
with {companion} as companion:
    print(companion.port, companion._folder, flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        port, folder = process.stdout.readline().split()
        process.kill()
    end = time.monotonic() + 60
    while listens(int(port)):
        assert time.monotonic() < end, "it still listens"
        time.sleep(0.02)
    shutil.rmtree(folder, ignore_errors=True)


def listens(port: int) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
