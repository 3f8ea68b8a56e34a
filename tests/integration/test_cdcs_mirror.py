"""Releases are copied between folders and CDCS sites, and between two sites, with the same promises everywhere."""

import json
import random
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipeline import FileSystemArchive
from pipeline.archives.filesystem import create_archive
from tests.cdcs import OTHER, PUBLIC, archive_of, serve, stored, told_no_secret
from tests.cdcs_server import USERS, CDCSServer
from tests.support import Outcome, Workshop, assert_archive_is_sound, sha1

MIB = 2**20


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CDCSServer]:
    yield from serve(tmp_path_factory.mktemp("here"))


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CDCSServer]:
    yield from serve(tmp_path_factory.mktemp("there"))


@pytest.fixture
def title(request: pytest.FixtureRequest) -> str:
    """A title of the test's own: the sites serve all of them."""
    return "t" + sha1(request.node.name.encode())[:10]


@pytest.fixture
def mirroring(workshop: Workshop, here: CDCSServer, there: CDCSServer, title: str) -> Callable[..., Outcome]:
    """A workshop with an archive and a mirror, and two sites with an alias and a secret each."""
    create_archive(workshop.archive)
    create_archive(workshop.folder / "mirror")
    workshop.environment["PYTHON_KEYRING_BACKEND"] = "keyring.backends.null.Keyring"
    config = workshop.folder / "luigi.cfg"
    text = config.read_text().replace("[archives]\n", f"[archives]\nhere = {here.base_url}\nthere = {there.base_url}\n")
    config.write_text(text)
    for alias in ("HERE", "THERE"):
        workshop.environment |= {
            f"PIPELINE_USER_{alias}": "alice",
            f"PIPELINE_PASSWORD_{alias}": USERS["alice"].password,
        }

    def mirror(source: str, destination: str, **options: object) -> Outcome:
        options = {"titles": title, **options}
        return told_no_secret(workshop.run("MirrorArchive", source=source, destination=destination, **options))

    return mirror


def publish(workshop: Workshop, title: str, files: dict[str, bytes], version: str = "0.1.0") -> None:
    """Publish files in the folder archive, without a process of their own."""
    folder = workshop.project(f"{title}-{version}", files)
    archive = FileSystemArchive(workshop.archive)
    project = {path: {"/path/": path, "/item/": "File"} for path in files}
    archive.upload_blobs_and_update_mapping(f"{title}-v{version}", title, PUBLIC, project, folder, 2, MIB)
    record = {"title": f"{title}-v{version}", "title_versionless": title, "version": version, "project": project}
    archive.upload_release_record({**record, "workflow": {"note": "Größe"}}, PUBLIC)


def digests(files: dict[str, bytes]) -> list[str]:
    return sorted({sha1(data) for data in files.values() if data})


def without_places(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record without what an archive or a mirror writes into it."""
    content = json.loads(json.dumps(record))
    for node in content["project"].values():
        node.pop("/bpid/")
    return {key: value for key, value in content.items() if key not in ("/PID/", "origin")}


FILES = {
    "a.csv": b"one" * 1000,
    "twin.csv": b"one" * 1000,
    "empty.csv": b"",
    "large.bin": random.Random(1).randbytes(3 * MIB),
}


def test_a_release_goes_round_by_two_sites_and_comes_back_the_same(
    workshop: Workshop,
    here: CDCSServer,
    there: CDCSServer,
    title: str,
    mirroring: Callable[..., Outcome],
) -> None:
    publish(workshop, title, FILES)
    for source, destination in (("archive", "here"), ("here", "there"), ("there", "mirror")):
        outcome = mirroring(source, destination)
        assert outcome.code == 0, outcome.output
        assert f"Mirrored {title}-v0.1.0: 2 blobs, 3.1 MB; 2 moved (3.1 MB)" in outcome.output
        assert "Nothing to do" in mirroring(source, destination).output
    first = FileSystemArchive(workshop.archive).get_release(title, "0.1.0")
    assert first is not None
    for archive in (archive_of(here), archive_of(there), FileSystemArchive(workshop.folder / "mirror")):
        record = archive.get_release(title, "0.1.0")
        assert record is not None
        assert without_places(record) == without_places(first)
        assert record["origin"]["host"] == str(workshop.archive)
        assert record["origin"]["digest"] == sha1(workshop.record_file(title=title).read_bytes())
        pid = record["project"]["a.csv"]["/bpid/"]
        assert str(archive.host) in pid or pid == sha1(FILES["a.csv"])
    assert_archive_is_sound(workshop.folder / "mirror")
    assert stored(archive_of(there), digests(FILES)) == dict.fromkeys(digests(FILES), 1)


def test_what_was_published_on_a_site_says_so_in_its_mirror(
    workshop: Workshop, here: CDCSServer, title: str, mirroring: Callable[..., Outcome]
) -> None:
    workshop.project(files=FILES)
    published = workshop.publish(title=title, archive="here", create_archive=None)
    assert published.code == 0, published.output
    outcome = mirroring("here", "mirror")
    assert outcome.code == 0, outcome.output
    record = archive_of(here).get_release(title, "0.1.0")
    copy = FileSystemArchive(workshop.folder / "mirror").get_release(title, "0.1.0")
    assert record is not None
    assert copy is not None
    assert copy["origin"]["host"] == here.base_url
    assert copy["origin"]["pid"] == record["/PID/"]
    assert "/PID/" not in copy


def test_a_blob_damaged_on_a_site_is_not_copied(
    workshop: Workshop, here: CDCSServer, there: CDCSServer, title: str, mirroring: Callable[..., Outcome]
) -> None:
    files = {"good.csv": title.encode(), "bad.csv": title.encode() * 1000}
    publish(workshop, title, files)
    assert mirroring("archive", "here").code == 0
    (file,) = (here.folder / "media" / "blob").rglob(f"{sha1(files['bad.csv'])}*")
    for damaged in (b"x" + files["bad.csv"][1:], files["bad.csv"] + b"x", files["bad.csv"][:-1]):
        file.write_bytes(damaged)
        for destination in ("there", "mirror"):
            outcome = mirroring("here", destination)
            assert outcome.code == 30
            assert "bad.csv: its blob" in outcome.output, outcome.output
            assert "damaged" in outcome.output
    assert archive_of(there).get_release_versions(title) == []
    assert stored(archive_of(there), digests(files)) == {sha1(files["good.csv"]): 1}
    assert_archive_is_sound(workshop.folder / "mirror")
    file.write_bytes(files["bad.csv"])
    assert mirroring("here", "there").code == 0


def test_a_mirror_between_sites_survives_kills(
    workshop: Workshop, here: CDCSServer, there: CDCSServer, title: str, mirroring: Callable[..., Outcome]
) -> None:
    dice = random.Random(title)
    files = {f"{n}.csv": dice.randbytes(dice.randrange(1, 50_000)) for n in range(40)}
    publish(workshop, title, files)
    assert mirroring("archive", "here").code == 0
    site, kills = archive_of(there), 0
    while True:
        wanted = sum(stored(site, digests(files)).values()) + dice.randrange(8, 20)
        run = workshop.start("MirrorArchive", source="here", destination="there", titles=title)
        end = time.monotonic() + 60
        while run.poll() is None and sum(stored(site, digests(files)).values()) < wanted:
            assert time.monotonic() < end
        run.send_signal(signal.SIGKILL)
        output, _ = run.communicate(timeout=60)
        if run.returncode == 0:
            break
        kills += 1
    assert kills >= 1
    assert site.get_release_versions(title) == ["0.1.0"], output
    assert stored(site, digests(files)) == dict.fromkeys(digests(files), 1)


def test_releases_of_one_workspace_of_a_site_are_listed(here: CDCSServer, title: str) -> None:
    alice = archive_of(here)
    before = alice.list_releases(OTHER)
    for version in ("0.2.0", "0.10.0", "0.10.0", "0.10.0-rc.1"):
        record = {"title": f"{title}-v{version}", "title_versionless": title, "version": version, "project": {}}
        alice.upload_release_record(record, OTHER)
    listed = [(title, "0.2.0"), (title, "0.10.0-rc.1"), (title, "0.10.0")]
    assert [name for name in alice.list_releases(OTHER) if name not in before] == listed
    assert alice.list_releases(OTHER, [title]) == listed
    assert title not in {name.title_versionless for name in alice.list_releases(PUBLIC)}


def test_a_night_without_news_costs_one_listing_of_each_site(
    workshop: Workshop, here: CDCSServer, there: CDCSServer, title: str, mirroring: Callable[..., Outcome]
) -> None:
    publish(workshop, title, {"a.csv": title.encode()})
    publish(workshop, title, {"a.csv": title.encode(), "b.csv": b"b"}, "0.2.0")
    assert mirroring("archive", "here").code == mirroring("here", "there").code == 0
    before = {server: len(server.requests()) for server in (here, there)}
    assert "Nothing to do" in mirroring("here", "there").output
    for server in (here, there):
        asked = server.requests()[before[server] :]
        assert sum("/rest/data/query/" in line for line in asked) == 1, asked
        assert not [line for line in asked if "/rest/blob/" in line]
