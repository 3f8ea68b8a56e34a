"""Files below a folder that others may write into: with handles of folders, and where a system has none."""

import errno
import os
from pathlib import Path

import pytest

from pipeline import folders
from pipeline.folders import Folders


@pytest.fixture(params=["with handles", "without handles"], autouse=True)
def _system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without handles":
        monkeypatch.setattr(folders, "_HAS_HANDLES", False)


def write(below: Folders, file: Path, data: bytes) -> None:
    with open(below.open_own(file), "wb") as stream:
        stream.truncate()
        stream.write(data)


def test_everything_that_is_done_with_files_is_done_below_the_anchor(tmp_path: Path) -> None:
    anchor = tmp_path / "not" / "there"
    deep = anchor / "a" / "b"
    with Folders(anchor) as below:
        assert below.make(deep) == [str(tmp_path), str(tmp_path / "not"), str(anchor), str(anchor / "a")]
        assert below.make(deep) == []
        write(below, deep / "part", b"one")
        below.link(deep / "part", deep / "second")
        with pytest.raises(FileExistsError):
            below.link(deep / "part", deep / "second")
        # What has a second name is not written into.
        write(below, deep / "part", b"two")
        below.replace(deep / "part", anchor / "a" / "file")
        assert below.names(deep) == ["second"]
        assert below.status(anchor / "a" / "file").st_size == 3
        below.unlink(deep / "second")
        below.rmdir(deep)
        os.close(below.open_shared(anchor / "lock"))
    assert (anchor / "a" / "file").read_bytes() == b"two"
    assert sorted(path.name for path in anchor.rglob("*")) == ["a", "file", "lock"]


@pytest.mark.skipif(os.name != "posix", reason="symbolic links")
def test_a_link_in_the_way_is_refused_by_name_and_nothing_is_written_behind_it(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    anchor = tmp_path / "anchor"
    for folder in (elsewhere, anchor):
        folder.mkdir()
    (anchor / "link").symlink_to(elsewhere)
    with Folders(anchor) as below:
        for use in (below.open_own, below.open_shared, below.make, below.unlink):
            with pytest.raises(OSError, match="link") as caught:
                use(anchor / "link" / "file")
            assert caught.value.errno == errno.ELOOP
            assert str(caught.value.filename).startswith(str(anchor / "link"))
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("outside", ["../elsewhere/file", "/nowhere/file"])
def test_what_is_not_below_the_anchor_is_refused(tmp_path: Path, outside: str) -> None:
    with Folders(tmp_path / "anchor") as below:
        (tmp_path / "anchor").mkdir()
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            below.open_own(tmp_path / "anchor" / outside)


def test_a_file_where_a_folder_belongs_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with Folders(tmp_path) as below, pytest.raises(NotADirectoryError, match="file"):
        below.open_own(tmp_path / "file" / "below")


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="this system does not tell which files are open")
def test_very_many_folders_do_not_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened() -> int:
        with os.scandir("/proc/self/fd") as entries:
            return sum(os.readlink(entry.path).startswith(str(tmp_path)) for entry in entries)

    monkeypatch.setattr(folders, "most_open_files", lambda most, share: 3)
    with Folders(tmp_path) as below:
        for number in range(20):
            below.make(tmp_path / str(number))
            write(below, tmp_path / str(number) / "file", b"%d" % number)
        assert opened() <= 3
    assert opened() == 0
    assert all((tmp_path / str(number) / "file").read_bytes() == b"%d" % number for number in range(20))
