"""FetchRelease --with-requirements, in real runs: what a release requires comes too, and the same again next time."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from pipeline import FileSystemArchive
from pipeline.archives.filesystem import create_archive
from pipeline.errors import LockFileError, RecordError, RequirementsError
from pipeline.tasks.required import Shelf, choose, keep
from tests.support import Outcome, Workshop, sha1, tree

PUBLIC = "Global Public Workspace"
ALL = {"sample": "1.0.0", "cables": "0.2.0", "adapters": "2.0.0", "probes": "3.1.0"}


def data(title: str, version: str) -> bytes:
    return f"{title} {version}".encode()


def publish(workshop: Workshop, title: str, version: str, *requirements: object, workspace: str = PUBLIC) -> None:
    """Publish a release of three files that requires others."""
    create_archive(workshop.archive)
    archive = FileSystemArchive(workshop.archive)
    folder = workshop.project(
        f"project-{title}",
        {"own.bin": data(title, version), "deep/common.bin": b"in every release", "empty.txt": b""},
    )
    project = {
        "own.bin": {"/item/": "File"},
        "empty.txt": {"/item/": "File"},
        "deep": {"/item/": "Directory", "common.bin": {"/item/": "File"}},
    }
    archive.upload_blobs_and_update_mapping(
        release_title=f"{title}-v{version}",
        release_title_versionless=title,
        workspace=workspace,
        project_mapping=project,
        project_directory=folder,
        max_threads=2,
        chunk_size=2**20,
    )
    record = {"title": f"{title}-v{version}", "title_versionless": title, "version": version, "project": project}
    archive.upload_release_record({**record, "requirements": list(requirements)}, workspace)


@pytest.fixture
def shop(workshop: Workshop) -> Workshop:
    """A workshop with an archive where a sample requires cables and probes, and cables require probes."""
    publish(workshop, "sample", "1.0.0", "Cables>=0.2.0", "probes")
    publish(workshop, "cables", "0.1.0")
    publish(workshop, "cables", "0.2.0", "probes>=3.0.0, <4.0.0", "adapters!=1.0.0")
    publish(workshop, "adapters", "2.0.0")
    for version in ("2.0.0", "3.0.0", "3.1.0", "4.0.0"):
        publish(workshop, "probes", version)
    return workshop


def fetch(shop: Workshop, **options: object) -> Outcome:
    outcome = shop.fetch(with_requirements=True, **options)
    assert "Traceback" not in outcome.output, outcome.output
    return outcome


def succeeded(outcome: Outcome) -> str:
    assert outcome.code == 0, outcome.output
    assert "ERROR" not in outcome.output
    return outcome.output


def said(outcome: Outcome, *words: str) -> str:
    """Check that a run failed with one sentence that has all of `words`, and return it."""
    assert outcome.code == 30, outcome.output
    (sentence,) = (line for line in outcome.output.splitlines() if line.startswith("ERROR: "))
    for word in words:
        assert word in sentence
    return sentence


def fetched(shop: Workshop, folder: str = "fetched") -> dict[str, str]:
    """Return the releases that are whole in a destination, title to version, after a look at their files."""
    found = {}
    for release in sorted(shop.folder.glob(f"{folder}/*-v*")):
        title, _, version = release.name.partition("-v")
        files = {path: content for path, content in tree(release).items() if not path.startswith(".rme")}
        assert files == {
            "own.bin": data(title, version),
            "deep": None,
            "deep/common.bin": b"in every release",
            "empty.txt": b"",
        }
        assert (release / ".rme" / "record.yml").read_bytes() == shop.record_file(version, title).read_bytes()
        found[title] = version
    return found


def lock_file(shop: Workshop) -> Path:
    return shop.folder / "fetched" / "sample.lock"


def test_required_releases_are_fetched_each_once_and_again_the_same(shop: Workshop) -> None:
    succeeded(shop.fetch())
    assert sorted(path.name for path in (shop.folder / "fetched").iterdir()) == ["sample-v1.0.0"]
    output = succeeded(fetch(shop))
    assert fetched(shop) == ALL
    assert all(output.count(f"Fetched {title}-v{version}:") == 1 for title, version in ALL.items())
    assert sorted(path.name for path in (shop.folder / "fetched").iterdir()) == sorted(
        ["sample.lock", *(f"{title}-v{version}" for title, version in ALL.items())]
    )
    locked = yaml.safe_load(lock_file(shop).read_text(encoding="utf-8"))
    assert (locked["archive"], locked["workspace"]) == (str(shop.archive), PUBLIC)
    assert locked["releases"]["cables"] == {
        "version": "0.2.0",
        "record": f"sha1:{sha1(shop.record_file('0.2.0', 'cables').read_bytes())}",
        "requires": ["probes>=3.0.0,<4.0.0", "adapters!=1.0.0"],
        "required-by": ["sample-v1.0.0"],
    }
    assert locked["releases"]["probes"]["required-by"] == ["sample-v1.0.0", "cables-v0.2.0"]

    # Whatever is published later, the choice stays, here and wherever its lock file is taken.
    before = tree(shop.folder / "fetched")
    publish(shop, "probes", "3.2.0")
    publish(shop, "sample", "1.1.0")
    (shop.folder / "fetched" / "probes-v3.1.0" / "own.bin").write_bytes(b"edited")
    assert "Fetched probes-v3.1.0: 2 blobs, 28 B; 1 moved (12 B)" in succeeded(fetch(shop))
    assert "Nothing to do: sample-v1.0.0" in succeeded(fetch(shop))
    assert tree(shop.folder / "fetched") == before
    (shop.folder / "elsewhere").mkdir()
    shutil.copy(lock_file(shop), shop.folder / "elsewhere")
    succeeded(fetch(shop, destination="elsewhere", workers=2))
    assert tree(shop.folder / "elsewhere") == before

    succeeded(fetch(shop, update=True, versions="<1.1.0"))
    assert fetched(shop) == {**ALL, "probes": "3.2.0"}
    assert yaml.safe_load(lock_file(shop).read_text(encoding="utf-8"))["releases"]["probes"]["version"] == "3.2.0"


def test_a_dry_run_says_what_would_be_fetched_and_writes_nothing(shop: Workshop) -> None:
    output = succeeded(fetch(shop, dry_run=True))
    for title, version in ALL.items():
        assert f"{title}-v{version}, 2 of 2 blobs would move" in " ".join(output.split())
    assert not (shop.folder / "fetched").exists()


def test_a_dry_run_says_what_is_wrong_with_a_release_that_is_required(workshop: Workshop) -> None:
    publish(workshop, "sample", "1.0.0", "cables")
    publish(workshop, "cables", "0.2.0")
    record = workshop.record_file("0.2.0", "cables")
    record.write_bytes(record.read_bytes().replace(b"empty.txt", b".rme"))
    shutil.rmtree(record.parent / ".records")
    said(fetch(workshop, dry_run=True), "cables-v0.2.0: the record names '.rme', which is not accepted")
    assert not (workshop.folder / "fetched").exists()


def test_one_release_that_fails_leaves_the_others_done_and_a_rerun_keeps_the_choice(shop: Workshop) -> None:
    blob = shop.blob_file(data("probes", "3.1.0"), "probes")
    aside = blob.rename(shop.folder / "aside")
    outcome = fetch(shop)
    said(outcome, "own.bin", "missing from the archive")
    assert not (shop.folder / "fetched" / "sample-v1.0.0" / ".rme" / "record.yml").exists()
    assert "Fetched cables-v0.2.0" in outcome.output
    assert lock_file(shop).exists()
    aside.rename(blob)
    publish(shop, "probes", "3.2.0")
    succeeded(fetch(shop))
    assert fetched(shop) == ALL


def test_a_run_that_was_killed_goes_on_with_what_it_chose(shop: Workshop) -> None:
    with shop.start("FetchRelease", title="sample", with_requirements=True) as process:
        while not lock_file(shop).exists():
            assert process.poll() is None
            time.sleep(0.001)
        process.kill()
    publish(shop, "probes", "3.2.0")
    succeeded(fetch(shop))
    assert fetched(shop) == ALL


def test_releases_that_require_each_other_are_one_sentence_and_nothing_is_written(workshop: Workshop) -> None:
    publish(workshop, "sample", "1.0.0", "cables")
    publish(workshop, "cables", "0.2.0", "sample>=1.0.0")
    said(fetch(workshop), "in a circle: sample-v1.0.0 -> cables-v0.2.0 -> sample;")
    said(workshop.fetch(update=True), "give --with-requirements")
    assert not (workshop.folder / "fetched").exists()


def test_a_lock_file_that_does_not_fit_is_one_sentence_until_it_is_made_anew(shop: Workshop) -> None:
    lock_file(shop).parent.mkdir()
    lock_file(shop).write_text("title: 1", encoding="utf-8")
    said(fetch(shop), f"The lock file {lock_file(shop)} cannot be used: 'title' is missing or has the wrong type")
    assert lock_file(shop).read_text(encoding="utf-8") == "title: 1"
    succeeded(fetch(shop, update=True))
    publish(shop, "sample", "2.0.0")
    said(fetch(shop, versions=">=2.0.0"), str(lock_file(shop)), "sample-v1.0.0", "--versions >=2.0.0", "--update")
    assert fetched(shop) == ALL


def test_a_lock_file_that_cannot_be_written_is_one_sentence_and_nothing_is_fetched(shop: Workshop) -> None:
    lock_file(shop).mkdir(parents=True)
    said(fetch(shop, update=True), str(lock_file(shop)))
    assert fetched(shop) == {}
    lock_file(shop).rmdir()
    succeeded(fetch(shop))
    assert fetched(shop) == ALL


# --- without Luigi: what is chosen, and which lock files are refused --------------------------------------------------


def shelf(shop: Workshop, title: str = "sample", workspace: str = PUBLIC) -> Shelf:
    return Shelf(FileSystemArchive(shop.archive), str(shop.archive), workspace, title)


def lock(shop: Workshop, old: str = "", new: str = "") -> Path:
    """Choose, and write a lock file in which something is replaced."""
    file = shop.folder / "sample.lock"
    choose(shelf(shop), []).write(file)
    content = file.read_text(encoding="utf-8")
    assert old in content
    file.write_text(content.replace(old, new), encoding="utf-8")
    return file


def refusal(shelf: Shelf, file: Path, expressions: Sequence[str] = ()) -> str:
    with pytest.raises(LockFileError) as caught:
        keep(shelf, expressions, file)
    sentence = str(caught.value)
    assert sentence.startswith(f"The lock file {file} ")
    assert "--update" in sentence
    assert sentence.isprintable()
    return sentence


def test_requirements_that_contradict_each_other_are_named(shop: Workshop) -> None:
    publish(shop, "sample", "1.1.0", "probes>=4.0.0", "cables>=0.2.0")
    with pytest.raises(RequirementsError, match=r"requires probes>=4\.0\.0; sample-v1\.1\.0 -> cables-v0\.2\.0"):
        choose(shelf(shop), [])
    assert choose(shelf(shop), ["<1.1.0"]).version == "1.0.0"
    publish(shop, "sample", "1.2.0", "cables", "\x1b[31m../nowhere>=1.0.0")
    with pytest.raises(RequirementsError, match=r"\.\./nowhere>=1.0.0' in the 'requirements' of the record of sample"):
        choose(shelf(shop), [])


def test_a_version_that_is_spelled_out_is_chosen_among_those_that_differ_in_build_metadata(shop: Workshop) -> None:
    publish(shop, "sample", "1.0.0+build.2")
    assert shelf(shop).newest([]) == shelf(shop).newest(["==1.0.0+build.7"]) == "1.0.0+build.2"
    assert shelf(shop).newest(["==1.0.0"]) == "1.0.0"


def test_a_lock_file_for_something_else_is_refused(shop: Workshop) -> None:
    file = lock(shop)
    kept = keep(shelf(shop), [">=1.0.0"], file)
    assert kept is not None
    assert {title: one.version for title, one in kept.releases.items()} == ALL
    assert "does not satisfy --versions >1.0.0" in refusal(shelf(shop), file, [">1.0.0"])
    assert f"for the workspace '{PUBLIC}', not 'Lab'" in refusal(shelf(shop, workspace="Lab"), file)
    assert "for the title 'sample', not 'cables'" in refusal(shelf(shop, "cables"), file)
    elsewhere = Shelf(FileSystemArchive(shop.archive), "https://cdcs.example.org", PUBLIC, "sample")
    assert f"for the archive '{shop.archive}', not 'https://cdcs.example.org'" in refusal(elsewhere, file)


def test_another_record_under_a_locked_version_is_refused(shop: Workshop) -> None:
    file, record = lock(shop), shop.record_file("3.1.0", "probes")
    record.write_bytes(record.read_bytes().replace(b'"requirements": []', b'"requirements": null'))
    with pytest.raises(RecordError, match="does not have the bytes that were published"):
        refusal(shelf(shop), file)
    shutil.rmtree(record.parent / ".records")
    gone = f"names probes-v3.1.0, which is no longer in {shop.archive}"
    assert f"{gone} with the same record; restore it" in refusal(shelf(shop), file)
    record.unlink()
    assert f"{gone}; restore it" in refusal(shelf(shop), file)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("releases:", "rel", "cannot be used: "),
        ("  probes:\n", "  ../probes:\n", "cannot be used: The title '../probes' is not valid"),
        ("version: 3.1.0", "version: 2.0.0", "names probes-v2.0.0, which is no longer in"),
        ("  cables:\n", "  screws:\n", "names screws-v0.2.0, which is no longer in"),
    ],
)
def test_a_damaged_lock_file_is_refused(shop: Workshop, old: str, new: str, words: str) -> None:
    assert words in refusal(shelf(shop), lock(shop, old, new))


def test_a_lock_file_from_which_a_release_was_taken_or_to_which_one_was_added_is_refused(shop: Workshop) -> None:
    file = lock(shop)
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    adapters = content["releases"].pop("adapters")
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    assert "sample-v1.0.0 -> cables-v0.2.0 requires it (adapters!=1.0.0)" in refusal(shelf(shop), file)
    publish(shop, "screws", "2.0.0")
    record = sha1(shop.record_file("2.0.0", "screws").read_bytes())
    content["releases"] |= {"adapters": adapters, "screws": {**adapters, "record": f"sha1:{record}"}}
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    assert "names screws, which nothing requires" in refusal(shelf(shop), file)
