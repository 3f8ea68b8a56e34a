"""luigid's page in a real browser, while real runs go on: what a person who opens it sees."""

import random
import signal
import urllib.parse
import urllib.request
from collections.abc import Iterator

import pytest
import requests

from tests.browser import Browser
from tests.cdcs import Site, make_archive
from tests.cdcs_server import USERS, CDCSServer
from tests.luigid import Scheduler, ends
from tests.slow import SlowDisk
from tests.support import Workshop

MIB = 2**20
# To the page this is a picture that cannot be loaded, and then a program, unless it is told as text.
HOSTILE = "<img src=x onerror=document.title='owned'>.h5"
MESSAGE = "document.querySelector('#statusMessageModal.in pre')?.innerText ?? ''"
BAR = "document.querySelector('#statusMessageModal.in .progress-bar')?.innerText ?? ''"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture
def scheduler(workshop: Workshop) -> Iterator[Scheduler]:
    scheduler = Scheduler(workshop)
    yield scheduler
    scheduler.close()


class Page:
    """The page of a luigid; it must load nothing from elsewhere, and its scripts must not stumble."""

    def __init__(self, browser: Browser, scheduler: Scheduler) -> None:
        self.browser = browser
        self.address = f"http://127.0.0.1:{scheduler.port}/"
        browser.open("about:blank")
        browser.asked.clear()
        browser.complaints.clear()

    def open(self, **place: object) -> None:
        """Open the page anew, at a tab and with a filter as its address tells them."""
        self.browser.open(f"{self.address}static/visualiser/index.html#{urllib.parse.urlencode(place)}")
        self.browser.wait_until("!document.querySelector('.status-info .fa-spinner')", "the page knows all tasks")

    def count(self, status: str) -> int:
        """Return how many tasks the page says are in a state."""
        return int(self.browser.text(f"#{status}_info .info-box-number"))

    def rows(self) -> list[str]:
        """Return the rows of the table of tasks."""
        return self.browser.text("#taskTable tbody").splitlines()

    def assert_well_behaved(self) -> None:
        """Check what it loaded, and that no name of a file became a part of it."""
        assert self.browser.asked
        foreign = {kind for kind, url in self.browser.asked if not url.startswith((self.address, "about:"))}
        # Luigi's style sheet asks for a font that it can do without, here in vain.
        assert foreign <= {"Stylesheet"}
        assert self.browser.complaints == []
        assert self.browser.see("document.title") == "Luigi Task Visualiser"
        assert self.browser.see("document.querySelectorAll('body img').length") == 0


@pytest.fixture
def page(browser: Browser, scheduler: Scheduler) -> Iterator[Page]:
    page = Page(browser, scheduler)
    yield page
    page.assert_well_behaved()


def files() -> dict[str, bytes]:
    """Return large files, which a run reads in four pieces, and small ones."""
    large = {f"sweep {n}.h5": random.Random(n).randbytes(4 * MIB) for n in range(3)}
    return {HOSTILE: bytes(4 * MIB), **large, **{f"measurements/thru {n:02}.s2p": b"%d" % n for n in range(40)}}


def speaks(scheduler: Scheduler) -> None:
    """Wait until a batch says how far it is."""
    scheduler.wait_until(
        lambda: any(task["progress_percentage"] for task in scheduler.tasks("UploadBlob", "RUNNING").values()),
        "a batch says how far it is",
    )


def test_a_run_is_watched_blob_by_blob(workshop: Workshop, scheduler: Scheduler, page: Page) -> None:
    workshop.project(files=files())
    disk = SlowDisk(workshop)
    disk.allow(1)
    run = scheduler.publish(report_directory="reports")
    speaks(scheduler)
    page.open(length=100)
    assert (page.count("BATCH_RUNNING"), page.count("RUNNING"), page.count("PENDING")) == (44, 1, 2)
    rows = page.rows()
    for path in files():
        assert f"release=sample-v0.1.0, path={path}" in rows
    assert f"release=sample-v0.1.0, path=44 blobs, {HOSTILE} ... sweep 2.h5, blobs=0-43" in "\n".join(rows)
    assert "release=sample-v0.1.0" in rows

    link = page.browser.see("document.querySelector('#taskTable a[title=\"Track Progress\"]').href")
    (report,) = (workshop.folder / "reports").glob("*.html")
    assert link == report.as_uri()

    page.browser.click("#taskTable .statusMessage")
    for pieces in (1, 2):
        disk.allow(pieces)
        page.browser.wait_until(f"({MESSAGE}).includes('{4.2 * pieces:.1f} MB of 16.8 MB, now ')", "the message moves")
        page.browser.wait_until(f"({BAR}) == '{25 * pieces}%'", "the bar moves")
    assert "now ‹img src=x onerror=" in page.browser.see(MESSAGE)
    page.assert_well_behaved()

    disk.recover()
    assert ends(run).code == 0
    page.open(length=100)
    assert (page.count("DONE"), page.count("FAILED"), page.count("PENDING")) == (47, 0, 0)


def test_a_failed_blob_says_why(workshop: Workshop, scheduler: Scheduler, page: Page) -> None:
    project = workshop.project(files=files())
    disk = SlowDisk(workshop)
    disk.allow(1)
    run = scheduler.publish()
    speaks(scheduler)
    (project / "sweep 1.h5").write_bytes(bytes(4 * MIB))
    (project / HOSTILE).write_bytes(b"x" * 4 * MIB)
    disk.recover()
    assert ends(run).code == 30
    page.open(length=100, statuses='["FAILED"]')
    assert "release=sample-v0.1.0, path=sweep 1.h5" in page.rows()
    page.browser.click("#taskTable .showError")
    told = page.browser.wait_until("document.querySelector('#errorModal.in pre')?.innerText", "the reason is shown")
    assert "sweep 1.h5: it changed while it was being published" in told
    assert HOSTILE in told
    assert "Traceback" not in told
    page.assert_well_behaved()


def test_one_of_very_many_blobs_is_found_by_its_path(workshop: Workshop, scheduler: Scheduler, page: Page) -> None:
    workshop.project(files={f"measurements/{n % 30}/thru {n:04}.s2p": b"%d" % n for n in range(500)})
    assert workshop.publish().code == 0
    page.open()
    assert page.count("DONE") == 500 + 2 + 3  # batches
    for path in ("measurements/7/thru 0157.s2p", "measurements/21/thru 0411.s2p"):
        page.browser.see(f"$('#taskTable_filter input').val({path!r}).trigger('keyup'), 0")
        page.browser.wait_until("document.querySelectorAll('#taskTable tbody tr').length == 1", "the table is filtered")
        assert f"release=sample-v0.1.0, path={path}" in page.rows()


def tabs(page: Page, scheduler: Scheduler) -> Iterator[str]:
    """Look at everything that the page can show, and return its sources."""
    top = next(iter(scheduler.tasks("PublishRelease", "DONE")))
    for place in ({"length": 100}, {"tab": "workers"}, {"tab": "resources"}, {"tab": "graph", "taskId": top}):
        page.open(**place)
        yield page.browser.see("document.documentElement.outerHTML")
    page.open(length=100)
    for number in range(page.browser.see("document.querySelectorAll('#taskTable .showError').length")):
        page.browser.see(f"$('#errorModal').empty(), $('#taskTable .showError')[{number}].click()")
        page.browser.wait_until("!!document.querySelector('#errorModal pre')", "the reason is shown")
        yield page.browser.see("document.documentElement.outerHTML")


def test_no_secret_is_on_the_page(
    workshop: Workshop, scheduler: Scheduler, page: Page, tmp_path_factory: pytest.TempPathFactory
) -> None:
    password = USERS["alice"].password
    workshop.project(files={"a.csv": b"1", "b.csv": b"2"})
    with CDCSServer(tmp_path_factory.mktemp("cdcs")) as server:
        make_archive(server)
        login = {"username": "alice", "password": password}
        token = requests.post(f"{server.base_url}/api-token-auth/", json=login, timeout=30).json()["token"]
        site = Site(workshop, server, "secretive")
        assert site.publish().code == 0
        workshop.environment["PIPELINE_TOKEN"] = token
        assert site.publish("0.2.0").code == 0
        del workshop.environment["PIPELINE_TOKEN"]
        site.log_in("alice", "no-such-password")
        assert site.publish("0.3.0").code == 30
        site.log_in("alice")
        in_url = server.base_url.replace("://", "://alice:in-the-url@")
        assert workshop.publish(version="0.4.0", archive=in_url, create_archive=None).code == 30
        sources = list(tabs(page, scheduler))
        said = "".join(sources)
        assert "does not accept the password of 'alice'" in said
        assert "PIPELINE_USER" in said
        for kind, url in page.browser.asked:
            if kind == "XHR":
                with urllib.request.urlopen(url, timeout=30) as answer:
                    said += answer.read().decode()
    scheduler.stop(signal.SIGTERM)
    for file in scheduler.folder.iterdir():
        said += file.read_bytes().decode(errors="replace")
    for secret in (password, token, "no-such-password", "in-the-url"):
        assert secret not in said
