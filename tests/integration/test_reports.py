"""Run reports of real runs: whatever becomes of a run, its report tells."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.archives.filesystem import create_archive
from tests.integration.test_progress import held, wait_until
from tests.luigid import Scheduler
from tests.support import Workshop, sha1
from tests.unit.test_report import Page, assert_has_schema

FILES = {"a.csv": b"alpha" * 100, "data/b.csv": b"beta" * 100, "data/c.csv": b"gamma" * 100}
BYTES = sum(map(len, FILES.values()))


@pytest.fixture
def workshop(workshop: Workshop) -> Workshop:
    """A folder where a user works, with a project, and reports for every task."""
    for task in ("PublishRelease", "FetchRelease"):
        extend(workshop, task, "report_directory = reports")
    workshop.project(files=FILES)
    return workshop


def extend(workshop: Workshop, section: str, setting: str) -> None:
    """Add a setting to a section that there is."""
    config = workshop.folder / "luigi.cfg"
    config.write_text(config.read_text().replace(f"[{section}]\n", f"[{section}]\n{setting}\n"))


def reports(workshop: Workshop) -> list[dict[str, Any]]:
    """Return what all reports say, in the order of their runs; each has its page and the documented schema."""
    found = []
    for file in sorted((workshop.folder / "reports").glob("*.json"), key=lambda file: file.stat().st_mtime_ns):
        found.append(json.loads(file.read_bytes()))
        assert_has_schema(found[-1])
        assert found[-1]["state"] in file.with_suffix(".html").read_text(encoding="utf-8")
    return found


def numbers(counted: dict[str, int]) -> dict[str, int]:
    """Return the counts that are not zero."""
    return {name: count for name, count in counted.items() if count}


ALL_MOVED = {"blobs": 3, "bytes": BYTES, "moved_blobs": 3, "moved_bytes": BYTES}
ALL_THERE = {"blobs": 3, "bytes": BYTES, "there_blobs": 3}


def test_publishing_and_fetching_are_told_and_so_is_that_there_is_nothing_to_do(workshop: Workshop) -> None:
    said = workshop.publish().output
    workshop.publish()
    workshop.fetch()
    published, nothing, fetched = reports(workshop)

    assert [report["state"] for report in (published, nothing, fetched)] == ["done", "unchanged", "done"]
    assert numbers(published["totals"]) == {"releases": 1, "done_releases": 1, **ALL_MOVED}
    assert numbers(nothing["totals"]) == {"releases": 1, "unchanged_releases": 1, **ALL_THERE}
    assert numbers(fetched["totals"]) == {"releases": 1, "done_releases": 1, **ALL_MOVED}

    for report in (published, nothing):
        assert [Path(release["record"]) for release in report["releases"]] == [workshop.record_file()]
    assert Path(fetched["releases"][0]["record"]).is_file()
    assert (published["asked"]["title"], published["asked"]["release_version"]) == ("sample", "0.1.0")
    assert published["asked"]["archive"] == str(workshop.archive)
    told = re.search(r"^The report is (.*)$", said, re.MULTILINE)
    assert told
    assert Path(told[1]).is_file()


def test_required_releases_are_told_in_the_report_of_the_one_that_requires_them(workshop: Workshop) -> None:
    assert workshop.publish(title="cables", report_directory="elsewhere").code == 0
    workshop.project(files={"release.yml": b"requires-releases: ['cables>=0.1.0']\n"})
    assert workshop.publish(report_directory="elsewhere").code == 0
    for _ in range(2):
        assert workshop.fetch(with_requirements=True).code == 0
    for report, state in zip(reports(workshop), ("done", "unchanged"), strict=True):
        told = [(release["title"], release["version"], release["state"]) for release in report["releases"]]
        assert told == [("sample", "0.1.0", state), ("cables", "0.1.0", state)]


def test_a_dry_run_writes_no_report(workshop: Workshop) -> None:
    assert workshop.publish(dry_run=True).code == 0
    assert not (workshop.folder / "reports").exists()


def test_what_failed_is_told_with_its_reason(workshop: Workshop) -> None:
    assert workshop.publish().code == 0
    workshop.blob_file(FILES["data/b.csv"]).write_bytes(b"damaged" * 57 + b"d")
    assert workshop.fetch(destination="elsewhere").code == 30
    assert workshop.publish(project="nowhere").code == 30
    _, fetched, unplanned = reports(workshop)

    assert fetched["state"] == fetched["releases"][0]["state"] == "failed"
    counts = fetched["releases"][0]["counts"]
    assert (counts["moved_blobs"], counts["failed_blobs"]) == (2, 1)
    (failure,) = fetched["releases"][0]["failures"]
    assert failure["path"] == "data/b.csv"
    assert sha1(FILES["data/b.csv"]) in failure["reason"]

    assert (unplanned["state"], unplanned["releases"]) == ("failed", [])
    assert "There is no folder" in unplanned["failure"]


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(("end", "state"), [(signal.SIGKILL, "running"), (signal.SIGINT, "interrupted")])
def test_a_run_that_did_not_end_by_itself_leaves_its_report(workshop: Workshop, end: int, state: str) -> None:
    with held(workshop.title_folder() / ".partial", FILES["a.csv"]):
        run = workshop.start(
            "PublishRelease", project_directory="project", title="sample", release_version="0.1.0", create_archive=True
        )
        try:
            wait_until(workshop.blob_file(FILES["data/c.csv"]).exists, "the other blobs are there")
        finally:
            run.send_signal(end)
            said, _ = run.communicate()
    assert (end == signal.SIGKILL) != ("Interrupted" in said), said
    (report,) = reports(workshop)
    assert report["state"] == state
    assert end == signal.SIGKILL or report["releases"][0]["state"] == state
    assert workshop.publish().code == 0
    assert reports(workshop)[-1]["state"] == "done"


def test_nights_of_mirroring_tell_of_each_other_and_name_what_could_not_be_copied(workshop: Workshop) -> None:
    for version in ("0.1.0", "0.2.0", "0.3.0"):
        workshop.project(files={"version": version.encode()})
        assert workshop.publish(version=version, report_directory="elsewhere").code == 0
    create_archive(workshop.folder / "mirror")
    workshop.configure("MirrorArchive", source="archive", destination="mirror", report_directory="reports")
    blob, record, kept = workshop.blob_file(b"0.2.0"), workshop.record_file("0.3.0"), workshop.folder / "kept"
    blob.rename(kept)
    content = record.read_bytes()
    record.write_bytes(b"{")

    def mirror(night: str) -> int:
        return workshop.run("MirrorArchive", date=night).code

    assert mirror("2026-11-21") == 30
    kept.rename(blob)
    record.write_bytes(content)
    assert mirror("2026-11-22") == 0
    assert mirror("2026-11-23") == 0
    first, second, third = reports(workshop)

    assert [report["state"] for report in (first, second, third)] == ["failed", "done", "unchanged"]
    told = {release["version"]: (release["state"], release["failures"]) for release in first["releases"]}
    assert told["0.1.0"] == ("done", [])
    assert told["0.2.0"][0] == told["0.3.0"][0] == "failed"
    assert told["0.2.0"][1][0]["path"] == "version"
    assert "is missing from the archive" in told["0.2.0"][1][0]["reason"]
    assert "does not have the bytes that were published" in told["0.3.0"][1][0]["reason"]
    assert (second["totals"]["unchanged_releases"], second["totals"]["done_releases"]) == (1, 2)
    assert numbers(third["totals"]) == {"releases": 3, "unchanged_releases": 3}

    pages = sorted(file.name for file in (workshop.folder / "reports").glob("*.html"))
    newest = Page((workshop.folder / "reports" / pages[-1]).read_text(encoding="utf-8"))
    assert [link for link in dict.fromkeys(newest.links) if link.endswith(".html")] == pages
    assert "Nothing to do: all 3 releases were there already." in newest.text


def test_a_copy_tells_what_was_there_and_where_what_is_fetched_from_it_was_published(workshop: Workshop) -> None:
    create_archive(workshop.folder / "mirror")
    for version, states in (("0.1.0", ["done"]), ("0.2.0", ["unchanged", "done"])):
        assert workshop.publish(version=version, report_directory="elsewhere").code == 0
        ends = {"source": "archive", "destination": "mirror"}
        assert workshop.run("MirrorRelease", title="sample", report_directory="reports", **ends).code == 0
        assert [release["state"] for release in reports(workshop)[-1]["releases"]] == states
    assert workshop.fetch(archive="mirror").code == 0
    assert reports(workshop)[-1]["releases"][0]["origin"].startswith(f"{workshop.archive}, 20")


def test_nights_that_are_made_up_for_together_tell_of_each_release_once(workshop: Workshop) -> None:
    assert workshop.publish(report_directory="elsewhere").code == 0
    create_archive(workshop.folder / "mirror")
    workshop.configure("MirrorArchive", source="archive", destination="mirror", report_directory="reports")
    outcome = workshop.run("RangeDailyBase", of="MirrorArchive", start="2026-11-20", stop="2026-11-23")
    assert outcome.code == 0, outcome.output
    nights = reports(workshop)
    assert {night["night"] for night in nights} == {"2026-11-20", "2026-11-21", "2026-11-22"}
    assert sorted(night["state"] for night in nights) == ["done", "unchanged", "unchanged"]
    assert sum(night["totals"]["moved_bytes"] for night in nights) == BYTES


def test_what_failed_in_another_process_of_the_run_is_told_too(workshop: Workshop) -> None:
    assert workshop.publish(report_directory="elsewhere").code == 0
    workshop.blob_file(FILES["a.csv"]).unlink()
    assert workshop.fetch(workers=2).code == 30
    (report,) = reports(workshop)
    assert report["state"] == "failed"
    assert [failure["path"] for failure in report["releases"][0]["failures"]] == ["a.csv"]


def test_the_page_of_the_scheduler_links_to_the_report_while_and_after_it_runs(workshop: Workshop) -> None:
    extend(workshop, "pipeline", "report_url = https://reports.example.org/lab")
    with contextlib.closing(Scheduler(workshop)) as scheduler:
        outcome = workshop.publish()
        assert outcome.code == 0, outcome.output
        links = {
            task["tracking_url"]
            for name in ("UploadBlob", "UploadReleaseRecord", "PublishRelease")
            for task in scheduler.tasks(name).values()
        }
    (page,) = (workshop.folder / "reports").glob("*.html")
    assert links == {f"https://reports.example.org/lab/{page.name}"}


def test_a_report_that_cannot_be_written_does_not_fail_the_run(workshop: Workshop) -> None:
    outcome = workshop.publish(report_directory="~nobody-of-that-name/reports")
    assert outcome.code == 0, outcome.output
    assert "The run goes on without a report: --report-directory ~nobody-of-that-name" in outcome.output
    for outcome, code in (
        (workshop.fetch(report_directory="luigi.cfg/reports"), 0),
        (workshop.fetch(report_directory="luigi.cfg/reports", versions=">=9.0.0"), 30),
    ):
        assert outcome.code == code, outcome.output
        assert outcome.output.count("The run goes on, but its report cannot be written: ") == 1
        assert "The report is" not in outcome.output
        assert "Traceback" not in outcome.output


WAITING = """
import subprocess, sys, pipeline
release = {"title": "sample", "release_version": "0.1.0", "create_archive": True}
task = pipeline.PublishRelease(project_directory="project", report_directory="reports", **release)
assert not task.complete()
task.requires().requires()
subprocess.run(sys.argv[1:], check=True)
"""


@pytest.mark.parametrize(
    ("other", "state"), [("project", "unchanged"), ("another", "interrupted"), (None, "interrupted")]
)
def test_what_another_run_did_meanwhile_is_no_interruption(workshop: Workshop, other: str | None, state: str) -> None:
    workshop.project("another", {"a.csv": b"other content"})
    task = "CreateArchive" if other is None else "PublishRelease"
    release = {"title": "sample", "release_version": "0.1.0", "report_directory": "elsewhere"}
    command = workshop.command(task, archive="archive", **({"project_directory": other, **release} if other else {}))
    done = subprocess.run(
        [sys.executable, "-c", WAITING, *command],
        cwd=workshop.folder,
        env=workshop.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (report,) = reports(workshop)
    assert report["state"] == report["releases"][0]["state"] == state


def test_no_secret_is_in_a_report(workshop: Workshop) -> None:
    workshop.environment |= {"PIPELINE_USER": "alice", "PIPELINE_PASSWORD": "planted-in-the-environment"}
    outcome = workshop.publish(archive="http://alice:planted-in-the-url@127.0.0.1:9", create_archive=None)
    assert outcome.code == 30
    (report,) = reports(workshop)
    assert (report["state"], report["asked"]["archive"]) == ("failed", "http://***@127.0.0.1:9")
    assert "holds a user name or password" in report["failure"]
    for file in (workshop.folder / "reports").iterdir():
        assert "planted" not in file.read_text(encoding="utf-8")
