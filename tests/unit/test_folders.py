"""Files below a folder that others may write into: with handles of folders, and where a system has none."""

import errno
import os
import stat
from pathlib import Path

import pytest

from pipeline import folders
from pipeline.folders import Folders
from tests.disk import linux_only


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


@pytest.mark.skipif(os.name != "posix", reason="on Windows, only administrators may make symbolic links")
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


@pytest.mark.skipif(os.name != "posix", reason="on Windows, only administrators may make symbolic links")
def test_a_link_that_takes_the_place_of_a_new_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = os.mkdir

    def be_late(name: str, **where: int) -> None:
        (tmp_path / "new").symlink_to(tmp_path)
        mkdir(name, **where)

    monkeypatch.setattr(os, "mkdir", be_late)
    with Folders(tmp_path) as below, pytest.raises(OSError, match="new") as caught:
        below.make(tmp_path / "new")
    assert caught.value.errno == errno.ELOOP


def test_a_junction_in_the_way_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "_HAS_HANDLES", False)  # as Windows, which has junctions
    monkeypatch.setattr(os.path, "isjunction", lambda path: os.path.basename(path) == "junction", raising=False)
    (tmp_path / "junction").mkdir()
    with Folders(tmp_path) as below, pytest.raises(OSError, match="junction") as caught:
        below.open_own(tmp_path / "junction" / "file")
    assert caught.value.errno == errno.ELOOP
    assert not list((tmp_path / "junction").iterdir())


@linux_only
def test_a_second_name_of_a_link_is_none_of_what_it_points_to(tmp_path: Path) -> None:
    anchor = tmp_path / "anchor"
    anchor.mkdir()
    (tmp_path / "elsewhere").write_bytes(b"mine")
    (anchor / "part").symlink_to(tmp_path / "elsewhere")
    with Folders(anchor) as below:
        below.link(anchor / "part", anchor / "file")
        assert stat.S_ISLNK(below.status(anchor / "file").st_mode)


def test_an_anchor_that_is_not_there_is_made(tmp_path: Path) -> None:
    with Folders(tmp_path / "anchor") as below:
        assert below.make(tmp_path / "anchor") == [str(tmp_path)]
    assert (tmp_path / "anchor").is_dir()


def test_folders_may_be_named_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Folders("anchor") as below:
        below.make(Path("anchor", "deep"))
        write(below, Path("anchor", "deep", "file"), b"data")
    assert (tmp_path / "anchor" / "deep" / "file").read_bytes() == b"data"


@pytest.mark.skipif(os.name != "posix", reason="Windows has no rights of owner, group and others")
def test_a_new_file_has_the_rights_that_every_program_gives_it(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    os.link(tmp_path / "usual", tmp_path / "with a second name")
    with Folders(tmp_path) as below:
        for open_, name in (
            (below.open_own, "own"),
            (below.open_own, "with a second name"),
            (below.open_shared, "shared"),
        ):
            os.close(open_(tmp_path / name))
            assert (tmp_path / name).stat().st_mode == (tmp_path / "usual").stat().st_mode


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


def test_a_file_that_may_not_be_written_into_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_ = os.open

    def refuse(name: str, flags: int, *mode: int, **where: int) -> int:
        if flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return open_(name, flags, *mode, **where)

    (tmp_path / "file").write_bytes(b"data")
    with Folders(tmp_path) as below, monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(PermissionError, match="file"):
            below.open_own(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"data"


def opened(folder: Path) -> int:
    """Return how many files and folders below `folder` this process has open."""
    with os.scandir("/proc/self/fd") as entries:
        return sum(os.readlink(entry.path).startswith(str(folder)) for entry in entries)


@linux_only
def test_a_file_that_has_a_second_name_does_not_stay_open(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.link(tmp_path / "file", tmp_path / "second")
    with Folders(tmp_path) as below:
        write(below, tmp_path / "second", b"")
    assert opened(tmp_path) == 0


@linux_only
def test_very_many_folders_do_not_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "most_open_files", lambda most, share: 3)
    with Folders(tmp_path) as below:
        for number in range(20):
            below.make(tmp_path / str(number))
            write(below, tmp_path / str(number) / "file", b"%d" % number)
        assert opened(tmp_path) <= 3
    assert opened(tmp_path) == 0
    assert all((tmp_path / str(number) / "file").read_bytes() == b"%d" % number for number in range(20))
