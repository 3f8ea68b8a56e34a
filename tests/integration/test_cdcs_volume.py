"""A CDCS site with thousands of records: what is looked for is found whole, in the right order, and nothing else.

A site tells ten records at a time. The bulk of them is put into its database by itself, in seconds; what a client does
is done by the client.
"""

import itertools
import random
from collections.abc import Iterator
from functools import cmp_to_key
from typing import Any

import pytest
from semantic_version import Version

from pipeline import CDCSArchive, ReleaseRecordNotFoundError
from pipeline.release import Blob
from tests.cdcs import OTHER, PUBLIC, Site, archive_of, make_archive
from tests.cdcs_server import CDCSServer
from tests.support import Workshop, sha1

TITLE = "many"
PAGE = 10


def _versions() -> list[str]:
    """Return a thousand versions as they were published, which is in no order."""
    finals = [
        f"{major}.{minor}.{patch}" for major in (0, 1, 2, 10) for minor in (0, 2, 9, 10, 11) for patch in range(45)
    ]
    previews = [f"1.{minor}.{patch}-rc.{number}" for minor in (2, 10) for patch in range(5) for number in (1, 2, 10)]
    builds = [f"2.{minor}.{patch}+build.{patch}" for minor in (0, 9, 10) for patch in range(10)]
    newest = [f"11.0.0-{name}" for name in ("alpha", "alpha.1", "alpha.beta", "beta", "beta.2", "beta.11", "rc.1", "0")]
    versions = finals + previews + builds + newest
    versions += [f"3.0.{patch}" for patch in range(1000 - len(versions))]
    random.Random(1).shuffle(versions)
    return versions


def in_order(versions: list[str]) -> list[str]:
    """Sort versions as the library compares them; those that it takes for equal by their text."""

    def compare(one: str, other: str) -> int:
        a, b = Version(one), Version(other)
        return -1 if a < b else 1 if a > b else (one > other) - (one < other)

    return sorted(versions, key=cmp_to_key(compare))


VERSIONS = _versions()


def release(title: str, version: str) -> dict[str, Any]:
    """Return the record of a release that has one file, empty, whose name tells the version."""
    name = f"this is {version}.csv"
    node = {"/item/": "File", "/path/": name, "/bytes/": 0, "/bpid/": None}
    return {"title": f"{title}-v{version}", "title_versionless": title, "version": version, "project": {name: node}}


def metadata(number: int, size: int | None = None, note: str = "first") -> dict[str, Any]:
    """Return what describes one of very many blobs."""
    return {"sha1": sha1(b"blob %d" % number), "note": note, "/bytes/": number + 1 if size is None else size}


BLOBS = range(2000)
ELSEWHERE = range(2000, 2100)
OF_WRONG_SIZE = range(2100, 2200)
DESCRIBED_TWICE = range(300, 400)


def interleaved(*groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return groups of one record or more as if several people had published at the same time."""
    rounds = itertools.zip_longest(*groups)
    return [group for one_of_each in rounds for group in one_of_each if group is not None]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CDCSServer]:
    """A site with 5,000 records of releases, of which 1,000 count, and more than 2,000 descriptions of blobs."""
    with CDCSServer(tmp_path_factory.mktemp("cdcs")) as server:
        make_archive(server)
        admin, alice = archive_of(server, "admin").curator, archive_of(server).curator
        notes = admin.create_template("Notes", {"type": "object"})
        releases, blobs = admin.template_id("Release"), admin.template_id("BlobMetadata")
        public, other = alice.workspace_id(PUBLIC), alice.workspace_id(OTHER)

        def rows(template: Any, workspace: Any, contents: list[dict[str, Any]], step: int = 10) -> list[dict[str, Any]]:
            return [
                {
                    "owner": "alice",
                    "template": template,
                    "workspace": workspace,
                    "contents": contents[start : start + step],
                }
                for start in range(0, len(contents), step)
            ]

        strange = ["not one", "1", "1.0", "01.0.0", "99.0.0\n", "", "v99.0.0"]
        server.manage(
            "insert",
            interleaved(
                rows(releases, public, [release(TITLE, version) for version in VERSIONS], 3),
                rows(releases, public, [release(f"{TITLE}-more", f"{n}.0.0") for n in range(101)]),
                rows(releases, public, [release(f"title-{n}", "99.0.0") for n in range(2400)]),
                rows(releases, public, [release(TITLE, version) for version in strange]),
                rows(
                    releases,
                    public,
                    [{**release(TITLE, "99.0.0"), "title": name} for name in ("x", f"{TITLE}-v98.0.0")],
                ),
                rows(releases, public, [{"title": f"{TITLE}-v97.0.0", "title_versionless": TITLE}]),
                rows(releases, other, [release(TITLE, f"20.0.{n}") for n in range(41)]),
                rows(releases, None, [release(TITLE, f"30.0.{n}") for n in range(500)]),
                rows(notes, public, [release(TITLE, f"40.0.{n}") for n in range(1000)]),
                rows(blobs, public, [metadata(number) for number in BLOBS]),
                rows(blobs, other, [metadata(number, note="other") for number in [*ELSEWHERE, *range(0, 2000, 5)]]),
                rows(blobs, public, [metadata(number, size=number) for number in OF_WRONG_SIZE]),
                rows(blobs, None, [metadata(number, note="private") for number in range(0, 2000, 7)]),
            )
            # Some blobs were described once more, later: the first counts.
            + rows(blobs, public, [metadata(number, note="later") for number in DESCRIBED_TWICE]),
        )
        yield server


@pytest.fixture
def alice(server: CDCSServer) -> CDCSArchive:
    return archive_of(server)


@pytest.fixture
def site(workshop: Workshop, server: CDCSServer) -> Site:
    return Site(workshop, server, TITLE)


# --- records ----------------------------------------------------------------------------------------------------------


def test_every_page_of_a_query_is_read_and_every_record_comes_once(alice: CDCSArchive) -> None:
    curator = alice.curator
    template, public = curator.template_id("Release"), curator.workspace_id(PUBLIC)
    for count in (0, 1, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, 10 * PAGE + 1):
        names = [f"title-{n}" for n in range(count)]
        query = {"title_versionless": {"$in": [*names, "nobody"]}}
        found = [data.content()["title_versionless"] for data in curator.query(template, query, public)]
        assert sorted(found) == sorted(names)


def test_records_that_come_and_go_while_pages_are_read_hide_no_others(alice: CDCSArchive) -> None:
    curator = alice.curator
    template, public = curator.template_id("Release"), curator.workspace_id(PUBLIC)
    ours = [curator.create_data("moving", template, public, release("moving", f"0.0.{n}")).id for n in range(35)]
    coming: list[Any] = []
    seen: list[Any] = []
    for number, data in enumerate(curator.query(template, {"title_versionless": "moving"}, public)):
        seen.append(data.id)
        if number == PAGE + 2:
            # What was on pages that were read goes: all others move up, over the border of the page.
            for gone in ours[:4]:
                curator.delete_data(gone)
            coming.append(curator.create_data("moving", template, public, release("moving", "1.0.0")).id)
    assert len(seen) == len(set(seen))
    assert set(seen) >= set(ours)
    assert set(seen) <= {*ours, *coming}


def test_a_thousand_releases_of_one_title_come_in_order_and_no_others(alice: CDCSArchive) -> None:
    records = alice.get_release_records(TITLE)
    assert list(records) == [f"{TITLE}-v{version}" for version in in_order(VERSIONS)]
    assert all(f"this is {record['version']}.csv" in record["project"] for record in records.values())


def test_each_workspace_and_title_has_its_own(alice: CDCSArchive) -> None:
    assert alice.get_release_versions(TITLE, OTHER) == [f"20.0.{n}" for n in range(41)]
    assert alice.get_release_versions(f"{TITLE}-more") == [f"{n}.0.0" for n in range(101)]
    assert alice.get_release_versions("title-985") == ["99.0.0"]
    with pytest.raises(ReleaseRecordNotFoundError):
        alice.get_release_records("title-985", None, OTHER)


@pytest.mark.parametrize(("versions", "newest"), [(">=1.2.0-rc.1,<1.10.0", "1.10.0-rc.10")])
def test_a_fetch_picks_the_newest_of_a_thousand(site: Site, versions: str, newest: str) -> None:
    outcome = site.fetch(versions=versions)
    assert outcome.code == 0, outcome.output
    assert site.fetched(newest) == {f"this is {newest}.csv": b""}
    assert [path.name for path in (site.workshop.folder / "fetched").iterdir()] == [f"{TITLE}-v{newest}"]


def test_a_version_that_is_there_among_a_thousand_is_refused(site: Site) -> None:
    site.workshop.project(files={"a.csv": b"of an existing version"})
    outcome = site.publish(VERSIONS[500])
    assert outcome.code == 30, outcome.output
    assert f"{TITLE}-v{VERSIONS[500]}" in outcome.output
    assert "give another --release-version" in outcome.output


def test_a_new_version_among_a_thousand_is_published(site: Site, alice: CDCSArchive) -> None:
    site.workshop.project(files={"a.csv": b"new among many", "b.csv": b"another new one"})
    # Only another workspace has this version; it is not taken here.
    outcome = site.publish("20.0.7")
    assert outcome.code == 0, outcome.output
    assert "2 moved" in outcome.output
    assert list(alice.get_release_records(TITLE, [">=11.0.0"])) == [f"{TITLE}-v20.0.7"]


# --- blobs ------------------------------------------------------------------------------------------------------------


def blob(number: int) -> Blob:
    content = metadata(number)
    return Blob(content["sha1"], content["/bytes/"], (f"{number}.csv",))


@pytest.fixture(scope="module")
def pids(server: CDCSServer) -> dict[str, str]:
    """Return the PIDs of the blobs by their names, ``<digest>.<note>``."""
    return {stored.filename: stored.handle for stored in archive_of(server).curator.list_own_blobs()}


@pytest.mark.parametrize("numbers", [[1999], [*range(200, 701)]], ids=len)
def test_blobs_are_found_among_thousands(alice: CDCSArchive, pids: dict[str, str], numbers: list[int]) -> None:
    absent = [blob(number) for number in [*ELSEWHERE, *OF_WRONG_SIZE, 5000, 5001]]
    asked = [*(blob(number) for number in numbers), *absent]
    random.Random(2).shuffle(asked)
    expected = {blob(number).digest: pids[f"{blob(number).digest}.first"] for number in numbers}
    assert alice.find_blobs(asked, TITLE, PUBLIC) == expected


def test_blobs_of_another_workspace_are_found_there(alice: CDCSArchive, pids: dict[str, str]) -> None:
    found = alice.find_blobs([blob(number) for number in [*range(200), *ELSEWHERE]], TITLE, OTHER)
    assert set(found) == {blob(number).digest for number in [*ELSEWHERE, *range(0, 200, 5)]}
    assert found == {digest: pids[f"{digest}.other"] for digest in found}


def test_a_release_of_the_earlier_tool_gets_its_digests_from_among_thousands(
    alice: CDCSArchive, pids: dict[str, str]
) -> None:
    numbers = [*range(0, 2000, 20)]
    project = {
        f"{n}.csv": {
            "/item/": "File",
            "/path/": f"{n}.csv",
            "/bytes/": n + 1,
            "/bpid/": pids[f"{blob(n).digest}.first"],
        }
        for n in numbers
    }
    curator = alice.curator
    record = {**release("earlier", "1.0.0"), "project": project}
    curator.create_data("earlier-v1.0.0", curator.template_id("Release"), curator.workspace_id(PUBLIC), record)
    (got,) = alice.get_release_records("earlier").values()
    assert {name: node["/sha1/"] for name, node in got["project"].items()} == {
        f"{n}.csv": metadata(n)["sha1"] for n in numbers
    }


def test_a_publishing_that_finds_its_blobs_among_thousands_moves_none(site: Site, alice: CDCSArchive) -> None:
    site.title = "found"
    files = {f"{n}.csv": b"known %d" % n for n in range(300)}
    site.workshop.project(files=files)
    curator = alice.curator
    before = len(curator.list_own_blobs())
    contents = [{"sha1": sha1(data), "/bytes/": len(data)} for name, data in files.items() if name != "299.csv"]
    row = {"owner": "bob", "template": curator.template_id("BlobMetadata"), "workspace": curator.workspace_id(PUBLIC)}
    site.server.manage("insert", [{**row, "contents": contents}])
    outcome = site.publish()
    assert outcome.code == 0, outcome.output
    assert "300 blobs" in outcome.output
    assert "; 1 moved" in outcome.output
    assert "299 already there" in outcome.output
    assert len(curator.list_own_blobs()) == before + 1
    (record,) = alice.get_release_records("found").values()
    pids = {name: node["/bpid/"] for name, node in record["project"].items()}
    assert pids["7.csv"].startswith(f"{site.server.base_url}/rest/blob/download/")
    assert set(pids) == set(files)
