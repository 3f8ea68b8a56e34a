"""A mirror holds what its source holds, verified, and says where it came from; nothing is copied twice."""

import json
import random
import shutil
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import luigi
import pytest
from luigi.tools.range import RangeDailyBase

import pipeline
from pipeline import FileSystemArchive
from pipeline.archives.filesystem import create_archive
from pipeline.archives.interface import ReleaseName
from pipeline.release import ReleaseRecord
from tests.support import Outcome, Workshop, assert_archive_is_sound, bytes_written, sha1, tree

PUBLIC = "Global Public Workspace"
PATIENCE = 60.0
MIB = 2**20
TODAY = datetime.now(timezone.utc).date()


@pytest.fixture
def mirror(workshop: Workshop) -> Path:
    """An archive that is to be a mirror, beside the one of the workshop."""
    create_archive(workshop.archive)
    create_archive(workshop.folder / "mirror")
    return workshop.folder / "mirror"


def publish(workshop: Workshop, title: str, version: str, files: dict[str, bytes], **options: Any) -> dict[str, Any]:
    """Publish files without a process of their own, and return the record."""
    folder = workshop.project(f"{title}-{version}", files)
    archive = FileSystemArchive(options.pop("archive", workshop.archive))
    workspace = options.pop("workspace", PUBLIC)
    project = {path: {"/path/": path, "/item/": "File"} for path in files}
    archive.upload_blobs_and_update_mapping(f"{title}-v{version}", title, workspace, project, folder, 2, 2**20)
    record = {"title": f"{title}-v{version}", "title_versionless": title, "version": version, "project": project}
    archive.upload_release_record({**record, "workflow": {"note": "Größe"}, **options}, workspace)
    return record


def mirror_all(workshop: Workshop, **options: object) -> Outcome:
    """Mirror the archive of a workshop."""
    return workshop.run("MirrorArchive", **{"source": "archive", "destination": "mirror", **options})


def record_in(archive: Path, title: str, version: str, workspace: str = PUBLIC) -> dict[str, Any]:
    """Return a record as it is on disk."""
    return dict(json.loads((archive / workspace / title / f"{title}-v{version}.yml").read_bytes()))


def test_a_mirror_has_every_release_and_says_where_each_came_from(workshop: Workshop, mirror: Path) -> None:
    publish(workshop, "cables", "0.1.0", {"a.csv": b"one", "twin.csv": b"one", "empty.csv": b""})
    publish(workshop, "cables", "0.2.0", {"a.csv": b"one", "b.csv": b"two"}, requirements=["probes>=1.0.0"])
    publish(workshop, "probes", "1.0.0", {"p.bin": bytes(100_000)})
    outcome = mirror_all(workshop)
    assert (outcome.code, "Mirrored archive to mirror: 3 releases" in outcome.output) == (0, True), outcome.output
    assert_archive_is_sound(mirror)
    for title, version in (("cables", "0.1.0"), ("cables", "0.2.0"), ("probes", "1.0.0")):
        source, copy = record_in(workshop.archive, title, version), record_in(mirror, title, version)
        origin = copy.pop("origin")
        assert copy == source
        file = workshop.archive / PUBLIC / title / f"{title}-v{version}.yml"
        assert origin.pop("date")[:4].isdecimal()
        assert origin == {
            "host": str(workshop.archive),
            "workspace": PUBLIC,
            "pid": str(file),
            "digest": sha1(file.read_bytes()),
        }
    fetched = workshop.run("FetchRelease", title="cables", archive="mirror", destination="here")
    assert fetched.code == 0
    assert (workshop.folder / "here" / "cables-v0.2.0" / "b.csv").read_bytes() == b"two"


def test_a_second_night_copies_only_what_is_new(workshop: Workshop, mirror: Path) -> None:
    publish(workshop, "cables", "0.1.0", {"a.csv": b"one"})
    assert mirror_all(workshop, date="2026-03-01").code == 0
    before = {path: path.stat() for path in mirror.rglob("*") if path.is_file()}
    outcome = mirror_all(workshop, date="2026-03-02")
    assert "Nothing to do: mirror has all 1 releases of archive." in outcome.output
    publish(workshop, "cables", "0.2.0", {"a.csv": b"one", "b.csv": b"two"})
    outcome = mirror_all(workshop, date="2026-03-02")
    assert "Mirrored cables-v0.2.0: 2 blobs, 6 B; 1 moved (3 B), 1 already there" in outcome.output
    assert {path: path.stat() for path in before} == before


def test_a_mirror_of_a_mirror_keeps_the_first_origin(workshop: Workshop, mirror: Path) -> None:
    publish(workshop, "cables", "0.1.0", {"a.csv": b"one"})
    assert mirror_all(workshop).code == 0
    create_archive(workshop.folder / "third")
    assert mirror_all(workshop, source="mirror", destination="third").code == 0
    assert record_in(workshop.folder / "third", "cables", "0.1.0") == record_in(mirror, "cables", "0.1.0")


@pytest.mark.parametrize("harm", ["blob damaged", "blob missing", "blob too long", "record damaged", "record flipped"])
def test_a_release_that_cannot_be_copied_does_not_stop_the_others(workshop: Workshop, mirror: Path, harm: str) -> None:
    for title in ("cables", "probes", "zones"):
        publish(workshop, title, "0.1.0", {"good.csv": b"good", "bad.csv": title.encode()})
    blob = workshop.blob_file(b"probes", "probes")
    record = workshop.record_file(title="probes")
    whole = (blob if "blob" in harm else record).read_bytes()
    if harm == "blob damaged":
        blob.write_bytes(b"Probes")
    elif harm == "blob missing":
        blob.unlink()
    elif harm == "blob too long":
        blob.write_bytes(b"probes!")
    elif harm == "record damaged":
        record.write_bytes(whole[: len(whole) // 2])
    else:
        record.write_bytes(whole.replace(b'"note"', b'"nota"'))
    outcome = mirror_all(workshop)
    assert outcome.code == 30
    assert "Traceback" not in outcome.output
    assert ("bad.csv" if "blob" in harm else "probes-v0.1.0.yml") in outcome.output
    there = {path.stem for path in mirror.glob("*/*/*.yml")}
    assert there == {"cables-v0.1.0", "zones-v0.1.0"}
    assert_archive_is_sound(mirror)
    (blob if "blob" in harm else record).write_bytes(whole)
    assert mirror_all(workshop).code == 0
    assert record_in(mirror, "probes", "0.1.0")["title"] == "probes-v0.1.0"


def test_a_record_that_is_proven_is_copied_although_its_second_copy_is_damaged(
    workshop: Workshop, mirror: Path
) -> None:
    publish(workshop, "cables", "0.1.0", {"a.csv": b"one"})
    (copy,) = (workshop.title_folder("cables") / ".records" / "0.1.0").iterdir()
    copy.write_bytes(b"damaged")
    outcome = mirror_all(workshop)
    assert outcome.code == 0, outcome.output
    assert record_in(mirror, "cables", "0.1.0")["title"] == "cables-v0.1.0"


def test_a_rehearsal_says_what_would_be_copied_and_changes_nothing(workshop: Workshop, mirror: Path) -> None:
    publish(workshop, "cables", "0.1.0", {"a.csv": b"one"})
    publish(workshop, "probes", "0.1.0", {"a.csv": b"two"})
    workshop.record_file(title="probes").write_text("nonsense")
    before = tree(mirror)
    for task, options in (("MirrorArchive", {}), ("MirrorRelease", {"title": "cables"})):
        outcome = workshop.run(task, source="archive", destination="mirror", dry_run=True, **options)
        assert outcome.code == 0
        assert "cables-v0.1.0: 1 of 1 blobs would move (3 B of 3 B)" in outcome.output
        assert ("probes-v0.1.0 cannot be copied: " in outcome.output) == (task == "MirrorArchive")
    assert tree(mirror) == before


def test_titles_versions_and_workspaces_choose_what_is_copied(workshop: Workshop, mirror: Path) -> None:
    for title, version in (("cables", "0.1.0"), ("cables", "0.2.0"), ("probes", "0.1.0"), ("zones", "0.1.0")):
        publish(workshop, title, version, {"a.csv": title.encode()}, workspace="lab")
    publish(workshop, "public", "0.1.0", {"a.csv": b"public"})
    outcome = mirror_all(
        workshop, workspace="lab", destination_workspace="copy", titles="Cables, probes", versions="<0.2.0"
    )
    assert outcome.code == 0, outcome.output
    assert {str(path.relative_to(mirror)) for path in mirror.glob("*/*/*.yml")} == {
        "copy/cables/cables-v0.1.0.yml",
        "copy/probes/probes-v0.1.0.yml",
    }
    options = {"source": "archive", "destination": "mirror", "workspace": "lab"}
    assert workshop.run("MirrorRelease", title="cables", versions=">0.1.0", **options).code == 0
    assert [path.stem for path in mirror.glob("lab/*/*.yml")] == ["cables-v0.2.0"]


def test_one_archive_can_hold_a_copy_in_another_workspace(workshop: Workshop, mirror: Path) -> None:
    publish(workshop, "cables", "0.1.0", {"a.csv": b"one"})
    outcome = mirror_all(workshop, destination="archive")
    assert (outcome.code, "--source and --destination are the same" in outcome.output) == (30, True)
    assert mirror_all(workshop, destination="archive", destination_workspace="copy").code == 0
    assert record_in(workshop.archive, "cables", "0.1.0", "copy")["origin"]["workspace"] == PUBLIC


def test_a_version_with_other_content_in_the_mirror_is_not_touched(workshop: Workshop, mirror: Path) -> None:
    publish(workshop, "cables", "0.1.0", {"a.csv": b"one"})
    publish(workshop, "cables", "0.1.0", {"a.csv": b"other"}, archive=mirror)
    before = tree(mirror)
    outcome = workshop.run("MirrorRelease", source="archive", destination="mirror", title="cables")
    assert outcome.code == 30
    assert "cables-v0.1.0 is in" in outcome.output
    assert "already, with other content" in outcome.output
    assert tree(mirror) == before


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"source": None}, "--source"),
        ({"destination": None}, "--destination"),
        ({"destination": "nowhere"}, "nowhere is not an archive"),
        ({"source": "nowhere"}, "nowhere is not an archive"),
        ({"source": "https://alice:geheim@localhost:1"}, "--source holds a user name or password"),
        ({"versions": "nonsense"}, "nonsense"),
        ({"titles": "no/title"}, "no/title"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else None,
)
def test_a_wrong_option_is_one_sentence(
    workshop: Workshop, mirror: Path, options: dict[str, object], named: str
) -> None:
    outcome = mirror_all(workshop, **options)
    assert outcome.code == 30
    assert named in outcome.output
    assert "geheim" not in outcome.output
    (line,) = [line for line in outcome.output.splitlines() if line]
    assert line.startswith("ERROR: ")


@pytest.mark.parametrize(
    ("task", "options", "named"),
    [
        ("MirrorRelease", {}, "--title"),
        ("MirrorRelease", {"title": "cables", "versions": ">=2.0.0"}, "no release cables with version >=2.0.0"),
        ("MirrorReleaseRecord", {"title": "cables", "version": "2.0.0"}, "no release cables with version ==2.0.0"),
    ],
)
def test_a_release_that_is_not_there_is_one_sentence(
    workshop: Workshop, mirror: Path, task: str, options: dict[str, object], named: str
) -> None:
    publish(workshop, "cables", "1.0.0", {"a.csv": b"one"})
    outcome = workshop.run(task, source="archive", destination="mirror", **options)
    assert outcome.code == 30
    (line,) = outcome.output.splitlines()
    assert line.startswith("ERROR: ")
    assert named in line
    assert tree(mirror) == {".rmearchive": b""}


def test_missed_nights_are_made_up_for_in_one_go(workshop: Workshop, mirror: Path) -> None:
    publish(workshop, "cables", "0.1.0", {"a.csv": b"one"})
    workshop.configure("MirrorArchive", source="archive", destination="mirror")
    start = TODAY - timedelta(days=4)
    outcome = workshop.run("RangeDailyBase", of="MirrorArchive", start=start)
    assert outcome.code == 0, outcome.output
    assert outcome.output.count("Mirrored cables-v0.1.0") == 1
    assert outcome.output.count("Mirrored archive to mirror: 1 releases") == 1


class Spy:
    """Counts what a mirror asks of its archives."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        for name in ("list_releases", "get_release", "get_release_records", "find_blobs", "open_blob"):
            method = getattr(FileSystemArchive, name)

            def spying(archive: Any, *args: Any, name: str = name, method: Any = method, **kwargs: Any) -> Any:
                self.asked.append(name)
                return method(archive, *args, **kwargs)

            monkeypatch.setattr(FileSystemArchive, name, spying)


def test_a_night_without_news_asks_each_archive_once(
    workshop: Workshop, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        publish(workshop, f"title-{number % 3}", f"0.{number}.0", {"a.csv": b"same"})
    shutil.copytree(workshop.archive / PUBLIC, mirror / PUBLIC)
    spy = Spy(monkeypatch)
    ends = {"source": str(workshop.archive), "destination": str(mirror)}
    nights = RangeDailyBase(
        of=pipeline.MirrorArchive, param_name="date", start=TODAY - timedelta(days=20), of_params=ends
    )
    for task in (pipeline.MirrorArchive(**ends), nights):
        monkeypatch.setattr("pipeline.tasks.mirror._listings", {})
        assert luigi.build([task], local_scheduler=True, no_lock=True, log_level="WARNING")
        assert spy.asked == ["list_releases", "list_releases"]
        spy.asked.clear()


def test_releases_are_listed_by_title_and_precedence(workshop: Workshop, mirror: Path) -> None:
    for title, version in (("b", "0.10.0"), ("b", "0.2.0"), ("a", "1.0.0"), ("b", "0.10.0-rc.1")):
        publish(workshop, title, version, {"a.csv": b"same"})
    (workshop.archive / PUBLIC / "c").mkdir()
    (workshop.archive / PUBLIC / "stray file").write_bytes(b"")
    (workshop.archive / PUBLIC / "b" / "b-vnonsense.yml").write_bytes(b"")
    archive = FileSystemArchive(workshop.archive)
    listed = [("a", "1.0.0"), ("b", "0.2.0"), ("b", "0.10.0-rc.1"), ("b", "0.10.0")]
    assert archive.list_releases() == [ReleaseName(*name) for name in listed]
    assert archive.list_releases(titles=["a", "c", "a"]) == [ReleaseName("a", "1.0.0")]
    assert archive.list_releases("no such workspace") == []


def test_a_mirror_that_is_killed_at_any_moment_is_completed_by_the_same_command(
    workshop: Workshop, mirror: Path
) -> None:
    dice = random.Random(1)
    for number in range(4):
        files = {f"{number} {n}.bin": dice.randbytes(dice.randrange(1, 200_000)) for n in range(60)}
        publish(workshop, "cables", f"0.{number}.0", files)
    deadline = time.monotonic() + PATIENCE
    kills = 0
    while True:
        wanted = len(list(mirror.glob("*/*/blobs/??/*"))) + dice.randrange(20, 100)
        run = workshop.start("MirrorArchive", source="archive", destination="mirror")
        while run.poll() is None and len(list(mirror.glob("*/*/blobs/??/*"))) < wanted:
            assert time.monotonic() < deadline
        run.kill()
        output, _ = run.communicate(timeout=PATIENCE)
        assert_archive_is_sound(mirror)
        for file in mirror.glob("*/*/*.yml"):
            assert all(
                (file.parent / "blobs" / blob.digest[:2] / blob.digest).stat().st_size == blob.size
                for blob in ReleaseRecord.parse(file.read_bytes(), "a record").blobs
            )
        if run.returncode == 0:
            break
        kills += 1
    assert kills >= 2
    assert len(list(mirror.glob("*/*/*.yml"))) == 4, output
    assert not list(mirror.glob("*/*/.partial"))


def test_each_record_of_the_source_is_read_once(
    workshop: Workshop, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        publish(workshop, "cables", f"0.{number}.0", {"a.csv": b"%d" % number})
    read: list[str] = []
    parse = ReleaseRecord.parse

    def counting(data: bytes, where: str) -> ReleaseRecord:
        read.append(where)
        return parse(data, where)

    monkeypatch.setattr(ReleaseRecord, "parse", counting)
    task = pipeline.MirrorArchive(source=str(workshop.archive), destination=str(mirror), date=TODAY)
    assert luigi.build([task], local_scheduler=True, no_lock=True, log_level="WARNING")
    assert len([where for where in read if str(workshop.archive) in where]) == 3


def test_two_mirrors_at_once_share_the_work(workshop: Workshop, mirror: Path) -> None:
    dice = random.Random(3)
    for number in range(3):
        publish(workshop, "cables", f"0.{number}.0", {f"{number}-{n}": dice.randbytes(50_000) for n in range(150)})
    runs = [workshop.start("MirrorArchive", source="archive", destination="mirror") for _ in range(2)]
    outputs = [run.communicate(timeout=PATIENCE)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    assert_archive_is_sound(mirror)
    assert len(list(mirror.glob("*/*/blobs/??/*"))) == 450
    assert len(list(mirror.glob("*/*/*.yml"))) == 3


@pytest.mark.skipif(
    not Path("/proc/self/io").exists(), reason="the system does not count the bytes that a process writes"
)
def test_a_large_blob_goes_on_from_its_part(workshop: Workshop, mirror: Path) -> None:
    data = random.Random(4).randbytes(24 * MIB)
    publish(workshop, "cables", "0.1.0", {"large.bin": data})
    partial = mirror / PUBLIC / "cables" / ".partial"
    partial.mkdir(parents=True)
    (partial / f"{sha1(data)}.part").write_bytes(data[: 20 * MIB])
    written = bytes_written(workshop.start("MirrorArchive", source="archive", destination="mirror"))
    assert 4 * MIB <= written < 6 * MIB
    assert_archive_is_sound(mirror)
