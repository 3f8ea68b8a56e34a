"""Run reports: JSON with a fixed schema, and a page that shows what hostile names are without doing what they say."""

import datetime
import html.parser
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import BlobDamagedError
from pipeline.report import DONE, RUNNING, SCHEMA, UNCHANGED, Counts, ReleaseReport, Report
from tests.support import ROOT

ASKED = {"source": "https://cdcs.example.org", "destination": "/srv/mirror", "workspace": "Global Public Workspace"}
NIGHT = datetime.date(2026, 11, 23)

COUNT = int
TEXT_OR_NULL = (str, type(None))
COUNTS = dict.fromkeys(vars(Counts()), COUNT)
KEYS: dict[str, Any] = {
    "schema": str,
    "program": str,
    "task": str,
    "night": TEXT_OR_NULL,
    "state": str,
    "started": str,
    "updated": str,
    "seconds": float,
    "asked": dict,
    "failure": TEXT_OR_NULL,
    "totals": {
        **dict.fromkeys(("releases", "done_releases", "unchanged_releases", "failed_releases"), COUNT),
        **COUNTS,
    },
    "releases": [
        {
            "title": str,
            "version": TEXT_OR_NULL,
            "state": str,
            "seconds": float,
            "record": TEXT_OR_NULL,
            "origin": TEXT_OR_NULL,
            "counts": COUNTS,
            "failures": [{"path": str, "reason": str}],
            "more_failures": COUNT,
        }
    ],
}

HARMLESS_TAGS = {"html", "head", "meta", "link", "title", "style", "body", "main", "section", "footer", "details"}
HARMLESS_TAGS |= {"summary", "div", "span", "h1", "h2", "h3", "p", "ul", "li", "dl", "dt", "dd", "small", "bdi", "br"}
HARMLESS_TAGS |= {"table", "thead", "tbody", "tr", "th", "td", "i", "b", "a"}
HARMLESS_ATTRIBUTES = {"lang", "charset", "http-equiv", "content", "name", "rel", "href", "class", "style"}
HARMLESS_ATTRIBUTES |= {"aria-hidden"}
HOSTILE = st.text(max_size=40) | st.text(st.sampled_from("<>&\"'/-!\x1b[31m\u202e\u2066\ud800\0\n$a "), max_size=20)


def assert_has_schema(value: Any, schema: Any = KEYS) -> None:
    if isinstance(schema, dict):
        assert list(value) == list(schema)
        for key in schema:
            assert_has_schema(value[key], schema[key])
    elif isinstance(schema, list):
        for item in value:
            assert_has_schema(item, schema[0])
    else:
        assert isinstance(value, schema)
        assert not isinstance(value, bool)


class Page(html.parser.HTMLParser):
    """What a browser makes of a page: its elements, its links and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.text += data


def done(title: str = "sample", version: str = "0.1.0", nbytes: int = 5_000, **more: Any) -> ReleaseReport:
    counts = Counts(blobs=5, bytes=nbytes, moved_blobs=5, moved_bytes=nbytes)
    return ReleaseReport(title, version, DONE, 1.5, counts=counts, **more)


def written(directory: Path) -> dict[str, Any]:
    """Return the one report of a folder."""
    (file,) = directory.glob("*.json")
    content: dict[str, Any] = json.loads(file.read_bytes())
    assert_has_schema(content)
    return content


def page(directory: Path, name: str = "*") -> Page:
    (file,) = directory.glob(f"{name}.html")
    return Page(file.read_text(encoding="utf-8"))


# What a report says


def test_a_report_says_what_was_asked_what_was_done_and_what_failed(tmp_path: Path) -> None:
    report = Report("MirrorArchive", ASKED, tmp_path, night=NIGHT)
    failed = ReleaseReport("other", "2.0.0", counts=Counts(blobs=3, bytes=30, moved_blobs=2, failed_blobs=1))
    failed.fail("data/a.h5", BlobDamagedError("its bytes have another SHA-1 than the record says."))
    report.releases += [done(origin="https://first.example.org"), failed]
    report.unchanged = 7
    report.close()

    content = written(tmp_path)
    assert content["schema"] == SCHEMA
    assert (content["task"], content["night"], content["state"]) == ("MirrorArchive", "2026-11-23", "failed")
    assert content["asked"] == ASKED
    totals = content["totals"]
    assert [totals[f"{kind}releases"] for kind in ("", "done_", "unchanged_", "failed_")] == [9, 1, 7, 1]
    assert (totals["blobs"], totals["moved_blobs"], totals["moved_bytes"]) == (8, 7, 5_000)
    reason = "its bytes have another SHA-1 than the record says."
    assert content["releases"][1]["failures"] == [{"path": "data/a.h5", "reason": reason}]

    shown = page(tmp_path).text
    sentence = "Mirrored 1 release (5 blobs, 5.0 kB) from https://cdcs.example.org to /srv/mirror in "
    assert sentence in shown
    assert "1 release failed. 7 were there already." in shown
    assert shown.index("1 release failed") < shown.index(reason) < shown.index("sample-v0.1.0")


def test_the_page_is_one_file_that_runs_nothing_and_loads_nothing(tmp_path: Path) -> None:
    report = Report("PublishRelease", {"archive": "/srv/archive"}, tmp_path, about="sample-v0.1.0")
    report.releases.append(done())
    report.close()
    seen = page(tmp_path)
    assert not seen.tags & {"script", "img", "iframe", "object", "embed", "form", "svg"}
    assert seen.links == ["data:,", f"{next(tmp_path.glob('*.json')).name}"]
    assert "url(" not in seen.source
    assert "@import" not in seen.source
    assert "default-src 'none'" in seen.source


@pytest.mark.parametrize(
    ("task", "release", "sentence"),
    [
        ("PublishRelease", done(), "Published sample-v0.1.0 (5 blobs, 5.0 kB) to /srv/archive in"),
        ("FetchRelease", done(), "Fetched sample-v0.1.0 (5 blobs, 5.0 kB) from /srv/archive to ? in"),
        ("PublishRelease", ReleaseReport("sample", "0.1.0", UNCHANGED), "Nothing to do: sample-v0.1.0 was there"),
        (
            "AuditArchive",
            ReleaseReport("sample", None, DONE, counts=Counts(blobs=9, checked_blobs=9, checked_bytes=9_000)),
            "Checked sample (9 blobs, 9.0 kB) in /srv/archive in",
        ),
        (
            "AuditArchive",
            ReleaseReport("sample", None, DONE, counts=Counts(9, checked_blobs=8, missing_blobs=1, repaired_blobs=1)),
            "Found 1 missing blob. Repaired 1 blob.",
        ),
        (
            "AuditArchive",
            ReleaseReport("sample", None, DONE, counts=Counts(9, checked_blobs=9, unnamed_blobs=2, unnamed_bytes=3000)),
            "All of it is intact. No record names 2 blobs (3.0 kB).",
        ),
    ],
)
def test_the_first_sentence_tells_what_was_done(
    tmp_path: Path, task: str, release: ReleaseReport, sentence: str
) -> None:
    report = Report(task, {"archive": "/srv/archive"}, tmp_path)
    report.releases.append(release)
    report.close()
    assert sentence in page(tmp_path).text


def test_a_run_that_could_do_nothing_says_why(tmp_path: Path) -> None:
    report = Report("PublishRelease", {"archive": "/srv/archive"}, tmp_path)
    report.failure = "There is no folder /home/alice; correct --project-directory."
    report.close()
    assert (written(tmp_path)["state"], written(tmp_path)["failure"]) == ("failed", report.failure)
    assert "Nothing was published to /srv/archive." in page(tmp_path).text
    assert report.failure in page(tmp_path).text


def test_very_many_failures_and_releases_are_counted_and_the_first_are_shown(tmp_path: Path) -> None:
    report = Report("MirrorArchive", ASKED, tmp_path, night=NIGHT)
    for number in range(1_000):
        report.releases.append(done(f"title-{number}", nbytes=number))
    for number in range(150):
        report.releases[3].fail(f"data/{number}.csv", "the disk is full")
    report.close()
    release = written(tmp_path)["releases"][3]
    assert (len(release["failures"]), release["more_failures"]) == (100, 50)
    seen = page(tmp_path)
    assert "50 more failures" in seen.text
    assert all(f"title-{number}-v" in seen.text for number in range(1_000))
    assert len(seen.source) < 300_000


def test_a_page_leaves_to_the_json_what_nobody_would_read(tmp_path: Path) -> None:
    report = Report("MirrorArchive", ASKED, tmp_path, night=NIGHT)
    report.releases = [done(f"title-{number}", nbytes=number) for number in range(2_100)]
    for release in report.releases[:60]:
        release.fail("data.csv", f"the disk is {'very ' * 500}full")
    report.close()
    shown = page(tmp_path).text
    assert "And 10 more releases; the JSON names all." in shown
    assert "100 more releases are in the JSON." in shown
    assert "the disk is very very" in shown
    assert "very very full" in shown
    assert shown.count("very ") == 50 * 76
    content = written(tmp_path)
    assert (len(content["releases"]), content["totals"]["failed_releases"]) == (2_100, 60)
    assert content["releases"][0]["failures"][0]["reason"].count("very ") == 500


@pytest.mark.parametrize(
    ("seconds", "shown"), [(7.44, "7.4 s"), (42.4, "42 s"), (90.2, "1 min 30 s"), (2 * 3600 + 119, "2 h 1 min")]
)
def test_a_time_is_told_in_units_that_people_think_in(tmp_path: Path, seconds: float, shown: str) -> None:
    report = Report("MirrorRelease", ASKED, tmp_path)
    report.releases.append(ReleaseReport("sample", "0.1.0", DONE, seconds))
    report.close()
    assert page(tmp_path).text.count(shown) == 1


# Hostile texts


@settings(max_examples=50)
@given(title=HOSTILE, version=HOSTILE, path=HOSTILE, reason=HOSTILE, asked=HOSTILE)
def test_no_text_can_leave_its_place_in_the_page(
    tmp_path_factory: pytest.TempPathFactory, title: str, version: str, path: str, reason: str, asked: str
) -> None:
    directory = tmp_path_factory.mktemp("reports")
    report = Report("MirrorRelease", {"source": asked, "title": title}, directory, about=f"{title}-v{version}")
    release = ReleaseReport(title, version, DONE, record=path, origin=asked)
    release.fail(path, reason)
    report.releases.append(release)
    report.failure = reason or None
    report.close()
    content = written(directory)
    seen = page(directory)
    assert seen.tags <= HARMLESS_TAGS
    assert seen.attributes <= HARMLESS_ATTRIBUTES
    assert seen.source.replace("\n", "").isprintable()
    assert all(text.isprintable() for text in (content["releases"][0]["title"], content["asked"]["source"]))
    for file in directory.iterdir():
        assert re.fullmatch(r"MirrorRelease-[\w.+-]{1,160}\.(json|html)", file.name, re.ASCII)


# The files


def test_the_name_tells_task_release_and_time_and_no_two_runs_have_the_same(tmp_path: Path) -> None:
    for _ in range(3):
        report = Report("PublishRelease", {}, tmp_path, about="sample-v0.1.0+build")
        report.releases.append(done())
        report.close()
    names = sorted(file.name for file in tmp_path.iterdir())
    assert len(names) == 6
    assert all(re.fullmatch(r"PublishRelease-sample-v0\.1\.0\+build-\d{8}T\d{6}Z(-\d)?\.(json|html)", n) for n in names)
    assert report.url("https://reports.example.org/lab/").startswith("https://reports.example.org/lab/PublishRelease-")
    assert report.url().startswith(tmp_path.as_uri())
    assert Path(report.url().removeprefix("file://").replace("%2B", "+")).is_file()


RUN = """
import pathlib, sys
from pipeline.report import *
report = Report("MirrorRelease", {"source": "here"}, pathlib.Path(sys.argv[1]))
report.releases.append(ReleaseReport("sample", "0.1.0", counts=Counts(blobs=5, moved_blobs=2)))
report.save()
"""


@pytest.mark.parametrize(
    ("end", "state", "words"),
    [
        ("os._exit(9)", "running", "When that is long ago, the run was killed"),
        ("sys.exit(1)", "interrupted", "This ended before all was done"),
        ("report.releases[0].fail('a.csv', 'is gone'); sys.exit(30)", "failed", "is gone"),
        ("os.fork() or os._exit(0); os.wait(); os._exit(9)", "running", "the run was killed"),
        ("os.fork() or sys.exit(0); os.wait(); os._exit(9)", "running", "the run was killed"),
    ],
)
def test_a_run_leaves_a_report_however_it_ends(tmp_path: Path, end: str, state: str, words: str) -> None:
    script = f"import os{RUN}{end}"
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=False)
    assert written(tmp_path)["state"] == state
    assert words in page(tmp_path).text


@pytest.mark.parametrize("releases", [None, [1], [{"title": "sample"}], [{"title": [], "version": "", "failures": []}]])
def test_what_others_wrote_into_the_report_meanwhile_does_not_keep_it_from_its_end(
    tmp_path: Path, releases: Any
) -> None:
    report = Report("MirrorRelease", {}, tmp_path)
    report.releases.append(done())
    report.save()
    (file,) = tmp_path.glob("*.json")
    file.write_text(json.dumps(json.loads(file.read_bytes()) | {"releases": releases}))
    report.close_at_exit()
    assert written(tmp_path)["state"] == "interrupted"


def test_a_report_is_written_now_and_then_while_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("pipeline.report.time.monotonic", lambda: now)
    report = Report("MirrorRelease", {}, tmp_path)
    report.touch()
    assert (written(tmp_path)["state"], written(tmp_path)["totals"]["releases"]) == ("running", 0)
    assert "refresh" in page(tmp_path).source
    report.releases.append(ReleaseReport("sample", "0.1.0", RUNNING))
    report.touch()
    assert written(tmp_path)["totals"]["releases"] == 0
    now += 6
    report.touch()
    assert written(tmp_path)["totals"]["releases"] == 1
    report.releases[0].state = DONE
    report.close()
    assert written(tmp_path)["state"] == "done"
    assert "refresh" not in page(tmp_path).source
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("obstacle", ["file", "no permission"])
def test_a_report_that_cannot_be_written_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, obstacle: str
) -> None:
    directory = tmp_path / "reports"
    if obstacle == "file":
        directory.write_text("not a folder")
    else:
        monkeypatch.setattr("pipeline.folders.os.link", refuse)
        monkeypatch.setattr("pipeline.folders.os.replace", refuse)
    report = Report("PublishRelease", {}, directory)
    report.save()
    report.close()
    (warning,) = caplog.messages
    assert warning.startswith("The run goes on, but its report cannot be written: ")
    assert "reports" in warning


def refuse(*paths: Any, **folders: Any) -> None:
    raise PermissionError(13, "Permission denied", str(paths[-1]))


# The history of nights


def night_report(
    directory: Path, day: int, change: Callable[[Report], None] = lambda report: None, **asked: str
) -> str:
    report = Report("MirrorArchive", {**ASKED, **asked}, directory, night=NIGHT + datetime.timedelta(day))
    report.releases.append(done(nbytes=1_000 * (day + 50)))
    change(report)
    report.close()
    return report.url().rpartition("/")[2]


def nightly_links(directory: Path, name: str) -> list[str]:
    links = page(directory, name.removesuffix(".html")).links
    return list(dict.fromkeys(link for link in links if link.endswith(".html")))


def test_the_newest_night_links_to_the_earlier_ones_of_the_same_work(tmp_path: Path) -> None:
    first = night_report(tmp_path, 0)
    night_report(tmp_path, 1, source="https://elsewhere.example.org")
    second = night_report(tmp_path, 1, lambda report: report.releases[0].fail("a.csv", "is gone"))
    again = night_report(tmp_path, 1)
    third = night_report(tmp_path, 2)
    made_up_for = night_report(tmp_path, -1)
    assert nightly_links(tmp_path, third) == [first, second, again, third]
    assert nightly_links(tmp_path, first) == []
    assert nightly_links(tmp_path, made_up_for) == []
    newest = night_report(tmp_path, 3)
    assert nightly_links(tmp_path, newest) == [made_up_for, first, second, again, third, newest]
    assert "2026-11-24 51.0 kB, 1 release, failed, 1 failed" in page(tmp_path, newest.removesuffix(".html")).text


def test_a_long_history_is_cut(tmp_path: Path) -> None:
    for day in range(33):
        name = night_report(tmp_path, day)
    assert len(nightly_links(tmp_path, name)) == 31


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"task": "MirrorArchive", "asked": []}',
        b"\xff\xfe",
        b'{"totals": %s}' % (b"9" * 5_000),
        {"night": "<script>"},
        {"night": None},
        {"night": 5},
        {"state": "<b>"},
        {"state": []},
        {"totals": {}},
        {"totals": {"moved_bytes": 1e999, "checked_bytes": 0, "releases": 0, "failed_releases": 0}},
        {"totals": {"moved_bytes": -1, "checked_bytes": 0, "releases": 0, "failed_releases": 0}},
        {"totals": {"moved_bytes": 10**400, "checked_bytes": 0, "releases": 0, "failed_releases": 0}},
        {"asked": None},
        "directory",
        "pipe",
    ],
)
def test_a_damaged_or_hostile_report_of_an_earlier_night_is_ignored(tmp_path: Path, damage: Any) -> None:
    file = tmp_path / night_report(tmp_path, 0).replace(".html", ".json")
    if isinstance(damage, bytes):
        file.write_bytes(damage)
    elif isinstance(damage, dict):
        file.write_text(json.dumps({**json.loads(file.read_bytes()), **damage}))
    else:
        file.unlink()
        (os.mkfifo if damage == "pipe" else os.mkdir)(file)
    assert nightly_links(tmp_path, night_report(tmp_path, 1)) == []
