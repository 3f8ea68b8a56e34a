"""Real runs on a real CDCS server, with a real luigid and without: whoever dies in the middle, nothing is moved twice.

What moved is read in the access log of the server, which notes a request when it is answered.
"""

import random
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline import ReleaseRecordNotFoundError
from tests.cdcs import PUBLIC, Site, archive_of, described, make_impatient, serve, stored
from tests.cdcs_server import CDCSServer
from tests.luigid import Scheduler, ends, is_batch, wait_until
from tests.support import Outcome, Workshop, sha1

THREADS = 8
# Luigi counts what another worker did as not run; luigid believes for a while that a killed worker is still at it.
SHARED = {0, 10, 25}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CDCSServer]:
    yield from serve(tmp_path_factory.mktemp("cdcs"))


@pytest.fixture(params=["local", "luigid"])
def scheduler(request: pytest.FixtureRequest, workshop: Workshop) -> Iterator[Scheduler | None]:
    """Who schedules the tasks of the workshop; None is the run itself."""
    scheduler = Scheduler(workshop) if request.param == "luigid" else None
    yield scheduler
    if scheduler is not None:
        scheduler.close()


@pytest.fixture
def luigid(workshop: Workshop) -> Iterator[Scheduler]:
    scheduler = Scheduler(workshop)
    yield scheduler
    scheduler.close()


@pytest.fixture
def site(workshop: Workshop, server: CDCSServer, request: pytest.FixtureRequest) -> Iterator[Site]:
    """A site where the test has a title of its own; a server that it left dead is alive again for the next test."""
    site = Site(workshop, server, f"t{sha1(request.node.nodeid.encode())[:12]}")
    yield site
    site.close()
    server.start()


def files(seed: str, count: int = 60) -> dict[str, bytes]:
    """Return files that no other test has: blobs of a workspace are shared by all of its releases."""
    dice = random.Random(seed)
    content = {f"data/{n % 3}/Größe {n:03}.csv": dice.randbytes(dice.randrange(1, 9000)) for n in range(count)}
    endings = ["none", ".hidden", "x.", 'x."', "x.é", "x.e\u0301", "x.a b", "x.%41", "x." + "e" * 200, "x.🧪"]
    return {**content, **{name: dice.randbytes(100) for name in endings}}


class Traffic:
    """What a server was asked since this began."""

    def __init__(self, server: CDCSServer) -> None:
        self._server = server
        self._before = len(server.requests())

    def requests(self) -> list[str]:
        # A server that just started may write late that it was asked whether it is well.
        return [line for line in self._server.requests()[self._before :] if " /rest/health/ " not in line]

    def uploads(self) -> int:
        """Return how many blobs were stored."""
        return self.requests().count("POST /rest/blob/ 201")

    def downloads(self) -> Counter[str]:
        """Return how many times each blob was sent."""
        asked = (re.fullmatch(r"GET (/pid/\S+|/rest/blob/download/\S+) 200", line) for line in self.requests())
        return Counter(match[1] for match in asked if match)

    def writes(self) -> list[str]:
        """Return what changed something, without queries and logins."""
        reading = ("GET ", "HEAD ", "POST /rest/data/query/", "POST /api-token-auth/")
        return [line for line in self.requests() if not line.startswith(reading)]


@pytest.fixture
def traffic(server: CDCSServer) -> Traffic:
    return Traffic(server)


def publish_beforehand(site: Site, content: dict[str, bytes]) -> None:
    """Publish, in a folder of another user, what the test is going to fetch."""
    (site.workshop.folder / "colleague").mkdir()
    colleague = Site(Workshop(site.workshop.folder / "colleague"), site.server, site.title)
    colleague.workshop.project(files=content)
    outcome = colleague.publish()
    assert outcome.code == 0, outcome.output


def until(process: "subprocess.Popen[str]", condition: Callable[[], bool]) -> None:
    """Wait for a moment in the middle of a run."""

    def come() -> bool:
        assert process.poll() is None, process.communicate()[0]
        return condition()

    wait_until(come, "the run is in the middle")


def completes(run: Callable[[], Outcome], scheduler: Scheduler | None) -> Outcome:
    """Run a command until it succeeds, which without luigid is at once, and return how it ended."""
    outcomes: list[Outcome] = []

    def succeeded() -> bool:
        outcomes.append(run())
        assert outcomes[-1].code in (SHARED if scheduler else {0}), outcomes[-1].output
        return outcomes[-1].code == 0

    wait_until(succeeded, "the same command completes")
    return outcomes[-1]


def assert_published_once(site: Site, content: dict[str, bytes]) -> None:
    """Check that a release is whole, that each of its blobs is there once, and that no other blob is without a use."""
    alice = archive_of(site.server)
    digests = {sha1(data) for data in content.values()}
    assert described(alice, digests) == stored(alice, digests) == dict.fromkeys(digests, 1)
    public = alice.curator.workspace_id(PUBLIC)
    assert {blob.workspace for blob in alice.curator.list_own_blobs() if blob.filename[:40] in digests} == {public}
    assert alice.get_release_versions(site.title) == ["0.1.0"]
    curator = alice.curator
    records = list(curator.query(curator.template_ids("Release"), {"title_versionless": site.title}, public))
    assert len(records) == 1
    reader = archive_of(site.server, "bob")
    (record,) = reader.get_release_records(site.title).values()
    target = site.workshop.folder / "check"
    reader.download_release(record, PUBLIC, 4, target, 2**20, progress_bar=False)
    got = {path.relative_to(target).as_posix(): path for path in target.rglob("*") if path.is_file()}
    assert {name: path.read_bytes() for name, path in got.items() if not name.startswith(".rme/")} == content


def assert_whole_if_visible(site: Site, content: dict[str, bytes]) -> None:
    """Check that whoever sees the record finds every blob described."""
    alice = archive_of(site.server)
    try:
        alice.get_release_records(site.title)
    except ReleaseRecordNotFoundError:
        return
    digests = {sha1(data) for data in content.values()}
    assert described(alice, digests) == dict.fromkeys(digests, 1)


# --- nothing goes wrong -----------------------------------------------------------------------------------------------


def test_every_blob_is_a_task_that_is_listed_by_its_path(site: Site, luigid: Scheduler, traffic: Traffic) -> None:
    content = files(site.title, 60)
    site.workshop.project(files={**content, "twin.csv": content["none"], "empty.csv": b""})
    for task, run in (("UploadBlob", site.publish), ("DownloadBlob", site.fetch)):
        outcome = run()
        assert outcome.code == 0, outcome.output
        tasks = luigid.tasks(task).values()
        assert {entry["params"]["path"] for entry in tasks if not is_batch(entry)} == set(content)
        assert {entry["status"] for entry in tasks} == {"DONE"}
        assert 1 <= sum(map(is_batch, tasks)) <= 3
    for task in ("UploadReleaseRecord", "PublishRelease", "FetchRelease"):
        (entry,) = luigid.tasks(task).values()
        assert entry["status"] == "DONE"
    assert traffic.uploads() == len(content)
    assert set(traffic.downloads().values()) == {1}
    assert len(traffic.downloads()) == len(content)
    assert site.fetched() == {**content, "twin.csv": content["none"], "empty.csv": b""}


def test_the_record_is_the_last_thing_that_is_written(site: Site, traffic: Traffic) -> None:
    content = files(site.title, 20)
    site.workshop.project(files=content)
    assert site.publish().code == 0
    writes = traffic.writes()
    assert writes[-1] == "POST /rest/data/ 201"
    linked = [
        number for number, line in enumerate(writes) if re.fullmatch(r"POST /rest/blob/\d+/metadata/\d+/ 200", line)
    ]
    assert len(linked) == len(content)
    assert linked[-1] == len(writes) - 2
    assert writes.count("POST /rest/data/ 201") == len(content) + 1


def test_nothing_is_written_when_there_is_nothing_to_do(site: Site, scheduler: Scheduler | None) -> None:
    content = files(site.title, 5)
    site.workshop.project(files=content)
    assert site.publish().code == site.fetch().code == 0
    traffic = Traffic(site.server)
    for again in (site.publish(), site.fetch()):
        assert again.code == 0
        assert "Nothing to do" in again.output
    assert traffic.writes() == []
    assert not traffic.downloads()


def test_two_workers_move_everything_once(site: Site, luigid: Scheduler, traffic: Traffic) -> None:
    content = files(site.title, 210)
    site.workshop.project(files=content)
    for run in (site.publish, site.fetch):
        outcome = run(workers=2)
        assert outcome.code == 0, outcome.output
        assert "Traceback" not in outcome.output
    assert traffic.uploads() == len(content)
    assert traffic.downloads().total() == len(content)
    assert site.fetched() == content
    assert_published_once(site, content)


# --- the client dies --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", [3, 40])
def test_a_publishing_client_that_is_killed_is_followed_by_one_that_moves_the_rest(
    site: Site, scheduler: Scheduler | None, traffic: Traffic, moment: int
) -> None:
    content = files(site.title)
    site.workshop.project(files=content)
    with site.start() as process:
        until(process, lambda: traffic.uploads() >= moment)
        process.kill()
    assert_whole_if_visible(site, content)
    outcome = completes(site.publish, scheduler)
    assert "Traceback" not in outcome.output
    assert traffic.uploads() == len(content)
    assert_published_once(site, content)


def test_a_fetching_client_that_is_killed_is_followed_by_one_that_moves_the_rest(
    site: Site, scheduler: Scheduler | None
) -> None:
    content = files(site.title)
    publish_beforehand(site, content)
    traffic = Traffic(site.server)
    with site.start_fetching() as process:
        until(process, lambda: traffic.downloads().total() >= 20)
        process.kill()
    assert not (site.workshop.folder / "fetched" / f"{site.title}-v0.1.0" / ".rme" / "record.yml").exists()
    assert completes(site.fetch, scheduler)
    assert site.fetched() == content
    # What was on its way when the client died is asked for again.
    assert len(content) <= traffic.downloads().total() <= len(content) + THREADS
    assert traffic.writes() == []


# --- the server dies --------------------------------------------------------------------------------------------------


def test_a_server_that_dies_and_comes_back_is_waited_for_by_who_publishes(
    site: Site, scheduler: Scheduler | None, traffic: Traffic
) -> None:
    content = files(site.title)
    site.workshop.project(files=content)
    process = site.start()
    until(process, lambda: traffic.uploads() >= 20)
    site.server.kill()
    assert process.poll() is None
    site.server.start()
    outcome = ends(process)
    assert outcome.code == 0, outcome.output
    assert "Traceback" not in outcome.output
    # What was stored without anybody being told is found, not sent again.
    assert traffic.uploads() <= len(content)
    assert_published_once(site, content)


def test_a_server_that_dies_and_comes_back_is_waited_for_by_who_fetches(
    site: Site, scheduler: Scheduler | None
) -> None:
    content = files(site.title)
    publish_beforehand(site, content)
    traffic = Traffic(site.server)
    process = site.start_fetching()
    until(process, lambda: traffic.downloads().total() >= 10)
    site.server.kill()
    assert process.poll() is None
    site.server.start()
    outcome = ends(process)
    assert outcome.code == 0, outcome.output
    assert "Traceback" not in outcome.output
    assert site.fetched() == content
    assert traffic.downloads().total() <= len(content) + THREADS


def test_a_download_that_breaks_off_in_the_middle_goes_on_when_the_server_is_back(site: Site) -> None:
    content = {"long trace.bin": random.Random(site.title).randbytes(70 * 2**20), "a.csv": site.title.encode()}
    publish_beforehand(site, content)
    parts = site.workshop.folder / "fetched" / f"{site.title}-v0.1.0" / ".rme" / ".partial"
    process = site.start_fetching()
    until(process, lambda: any(2**20 < part.stat().st_size < 60 * 2**20 for part in parts.glob("*.part")))
    site.server.kill()
    assert process.poll() is None
    site.server.start()
    outcome = ends(process)
    assert outcome.code == 0, outcome.output
    assert site.fetched() == content


def told(outcome: Outcome, what: str) -> int:
    """Return how many times a run said something."""
    return outcome.output.count(what)


def ends_without_a_server(process: "subprocess.Popen[str]") -> Outcome:
    """Wait for a run whose server does not come back: it tries for a while, but not for each of its blobs."""
    output, _ = process.communicate(timeout=240)
    return Outcome(process.returncode, output)


def assert_ends_by_telling_why(site: Site, process: "subprocess.Popen[str]") -> None:
    """Kill the server of a run in its middle, and bring it back when the run has ended."""
    site.server.kill()
    outcome = ends_without_a_server(process)
    site.server.start()
    assert outcome.code == 30, outcome.output
    assert "Traceback" not in outcome.output
    assert "run the same command again" in outcome.output
    # The blobs that were on their way may each say why; those that were not begun have nothing to add.
    assert 1 <= told(outcome, "run again later") <= THREADS + 1, outcome.output


def test_a_server_that_dies_for_good_ends_a_publishing_and_the_same_command_moves_the_rest(
    site: Site, luigid: Scheduler, traffic: Traffic
) -> None:
    make_impatient(site.workshop)
    content = files(site.title)
    site.workshop.project(files=content)
    process = site.start()
    until(process, lambda: traffic.uploads() >= 3)
    assert_ends_by_telling_why(site, process)
    assert_whole_if_visible(site, content)
    completes(site.publish, luigid)
    assert traffic.uploads() <= len(content)
    assert_published_once(site, content)


def test_a_server_that_dies_for_good_ends_a_fetching_and_the_same_command_moves_the_rest(site: Site) -> None:
    make_impatient(site.workshop)
    content = files(site.title, 40)
    publish_beforehand(site, content)
    traffic = Traffic(site.server)
    process = site.start_fetching()
    until(process, lambda: traffic.downloads().total() >= 3)
    assert_ends_by_telling_why(site, process)
    completes(site.fetch, None)
    assert site.fetched() == content
    assert traffic.downloads().total() <= len(content) + THREADS


def test_a_server_that_is_dead_is_told_in_one_sentence(site: Site) -> None:
    make_impatient(site.workshop)
    site.workshop.project(files=files(site.title))
    site.server.kill()
    for process in [site.start(), site.start_fetching()]:
        outcome = ends_without_a_server(process)
        assert outcome.code == 30, outcome.output
        assert "Traceback" not in outcome.output
        assert told(outcome, "run again later") == 1, outcome.output
        assert site.server.base_url in outcome.output


# --- the wrong password -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["publish", "fetch"])
def test_a_wrong_password_is_told_once_and_tried_once(
    site: Site, scheduler: Scheduler | None, traffic: Traffic, task: str
) -> None:
    site.workshop.project(files=files(site.title))
    site.log_in("alice", "not the password")
    outcome = site.publish() if task == "publish" else site.fetch()
    assert outcome.code == 30, outcome.output
    assert told(outcome, "does not accept the password of 'alice'") == 1, outcome.output
    assert "Traceback" not in outcome.output
    assert "not the password" not in outcome.output
    # The plan is looked at before and after it failed; no blob is.
    assert 1 <= len(traffic.requests()) <= 2
    assert {line.split()[1] for line in traffic.requests()} == {"/api-token-auth/"}
    assert not list(Path(site.workshop.folder).rglob("*.part"))
