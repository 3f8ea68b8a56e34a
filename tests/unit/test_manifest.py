"""A manifest is what its name says or nothing, and ranges name the same blobs to whoever reads them."""

import dataclasses
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import manifest as module
from pipeline.errors import ManifestError
from pipeline.manifest import Manifest, format_ranges, parse_ranges
from pipeline.release import BYTES, FILE, ITEM, PATH, SHA1, ReleaseRecord
from tests.support import sha1

DAY = 24 * 3600


def manifest(**changes: Any) -> Manifest:
    node = {PATH: "a.csv", ITEM: FILE, BYTES: 3, SHA1: sha1(b"abc")}
    record = ReleaseRecord(
        {"title": "sample-v0.1.0", "title_versionless": "sample", "version": "0.1.0", "project": {"a.csv": node}}
    )
    return dataclasses.replace(Manifest("archive", "alice", "workspace", "project", record), **changes)


def content(found: Manifest) -> dict[str, Any]:
    return {**{field.name: getattr(found, field.name) for field in dataclasses.fields(found)}, "record": None}


@pytest.fixture(autouse=True)
def no_memory() -> None:
    """Let each test be a process of its own, which has not looked for old manifests yet."""
    module._remove_forgotten.cache_clear()


def test_a_manifest_comes_back_by_its_name(tmp_path: Path) -> None:
    saved = manifest(source="mirror", source_workspace="theirs")
    folder = tmp_path / "cache" / "manifests"
    saved.save(folder)
    (file,) = folder.iterdir()
    assert file.name == saved.digest == sha1(file.read_bytes())
    loaded = Manifest.load(folder, saved.digest)
    assert content(loaded) == content(saved)
    assert loaded.record.content == saved.record.content
    assert loaded.record.blobs == saved.record.blobs
    assert loaded.digest == saved.digest


@pytest.mark.parametrize("field", ["archive", "user", "workspace", "directory", "source", "source_workspace"])
def test_another_task_is_another_manifest(field: str) -> None:
    assert manifest().digest == manifest().digest
    assert manifest(**{field: "another"}).digest != manifest().digest


def test_another_record_is_another_manifest() -> None:
    other = manifest().record.content | {"operator": "somebody"}
    assert manifest(record=ReleaseRecord(other)).digest != manifest().digest


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b"null", b"1", b"\xff", b'{"archive": 1, "record": {}}'])
def test_what_is_not_what_its_name_says_is_not_known(tmp_path: Path, damage: bytes) -> None:
    saved = manifest()
    saved.save(tmp_path)
    (tmp_path / saved.digest).write_bytes(damage)
    (tmp_path / sha1(damage)).write_bytes(damage)
    for name in (saved.digest, sha1(damage)):
        with pytest.raises(ManifestError, match="is not known here"):
            Manifest.load(tmp_path, name)


def test_a_manifest_with_a_valid_change_is_not_known(tmp_path: Path) -> None:
    saved, other = manifest(), manifest(directory="elsewhere")
    saved.save(tmp_path)
    other.save(tmp_path)
    shutil.copy(tmp_path / other.digest, tmp_path / saved.digest)
    with pytest.raises(ManifestError, match="is not known here"):
        Manifest.load(tmp_path, saved.digest)


@pytest.mark.parametrize("name", ["", ".", "..", "../secret", "/etc/passwd", "0" * 40, "a\0b", "x" * 5000])
def test_a_name_is_never_a_path(tmp_path: Path, name: str) -> None:
    (tmp_path / "manifests").mkdir()
    (tmp_path / "secret").write_text("secret")
    with pytest.raises(ManifestError, match="is not known here") as caught:
        Manifest.load(tmp_path / "manifests", name)
    assert len(str(caught.value)) < 250


def test_what_is_there_is_not_written_again(tmp_path: Path) -> None:
    manifest().save(tmp_path)
    (file,) = tmp_path.iterdir()
    before = file.stat().st_ino
    manifest().save(tmp_path)
    assert [path.stat().st_ino for path in tmp_path.iterdir()] == [before]


def test_a_manifest_that_was_saved_takes_no_more_memory(tmp_path: Path) -> None:
    saved = manifest()
    saved.save(tmp_path)
    assert "_data" not in vars(saved)


def test_a_manifest_is_removed_once_or_twice(tmp_path: Path) -> None:
    saved = manifest()
    saved.save(tmp_path)
    saved.remove(tmp_path)
    assert not list(tmp_path.iterdir())
    saved.remove(tmp_path)
    saved.remove(tmp_path / "nothing")


def test_a_folder_that_cannot_be_made_serves_nobody_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    manifest().save(tmp_path / "file" / "manifests")
    manifest().remove(tmp_path / "file" / "manifests")


def test_manifests_of_runs_that_were_given_up_a_month_ago_are_removed(tmp_path: Path) -> None:
    now = time.time()
    for name, age in (("older", 30 * DAY + 60), ("younger", 30 * DAY - 60)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (now - age, now - age))
    saved = manifest()
    saved.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"younger", saved.digest}


def test_old_manifests_are_looked_for_once_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noon = 20_000 * DAY + DAY // 2
    for hours, is_removed in ((0, True), (6, False), (13, True)):
        monkeypatch.setattr(time, "time", lambda now=noon + hours * 3600: now)
        (tmp_path / "older").touch()
        os.utime(tmp_path / "older", (0, 0))
        manifest(directory=f"project {hours}").save(tmp_path)
        assert (tmp_path / "older").exists() is not is_removed


@given(st.sets(st.integers(0, 60), min_size=1))
def test_ranges_come_back_as_the_numbers_in_order(numbers: set[int]) -> None:
    assert parse_ranges(format_ranges(numbers), max(numbers) + 1) == sorted(numbers)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([5], "5"), ([5, 5], "5"), ([2, 1], "1-2"), ([0, 2], "0,2"), ([0, 1, 3, 4, 5, 9], "0-1,3-5,9")],
)
def test_ranges_are_short(numbers: list[int], text: str) -> None:
    assert format_ranges(numbers) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "1,",
        "3-1",
        "8",
        "0-8",
        "1,1",
        "2,1",
        "0-3,3",
        "-1",
        "1-",
        "1 ",
        "1;2",
        "a",
        "1.0",
        "\u0661",
        "0000000001",
    ],
)
def test_what_names_no_blobs_is_refused(text: str) -> None:
    with pytest.raises(ManifestError, match="does not name blobs of a manifest of 8"):
        parse_ranges(text, 8)
