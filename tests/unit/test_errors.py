"""What a user reads when something goes wrong: one sentence that cannot break a terminal or a log."""

import errno
import inspect
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline.errors
from pipeline.errors import BlobDamagedError, BlobError, BlobsFailedError, PipelineError, explain, printable

KINDS = [
    kind for _, kind in inspect.getmembers(pipeline.errors, inspect.isclass) if kind.__module__ == "pipeline.errors"
]
ANY_TEXT = st.text(st.characters(), max_size=30)  # surrogates too, as in names of files


# printable


@pytest.mark.parametrize("text", ["", "plain", "Größe µ.csv", "two words", "漢字", "a\\b", "it's"])
def test_readable_text_is_shown_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\nlines", r"two\nlines"),
        ("\r", r"\r"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\0", r"\x00"),
        ("a\u202eb", r"a\u202eb"),
        ("a\u2028b", r"a\u2028b"),
        (os.fsdecode(b"\xff.csv"), r"\udcff.csv"),
    ],
)
def test_what_could_steer_a_terminal_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@settings(deadline=None)
@given(ANY_TEXT)
def test_any_text_becomes_one_line_that_every_log_can_hold(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert shown.encode("utf-8").decode("utf-8") == shown
    assert printable(shown) == shown


def test_what_is_not_text_is_shown_as_its_text() -> None:
    assert printable(None) == "None"
    assert printable(Path("a\nb")) == r"a\nb"


# The kinds of errors


@pytest.mark.parametrize("kind", KINDS)
def test_scripts_catch_every_error_by_one_base_class(kind: type[Exception]) -> None:
    assert issubclass(kind, PipelineError)
    assert kind.__doc__


def test_wrong_names_and_versions_are_value_errors_too() -> None:
    assert issubclass(pipeline.errors.InvalidNameError, ValueError)
    assert issubclass(pipeline.errors.InvalidVersionError, ValueError)


# explain


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission is denied"),
        (errno.EPERM, "not permitted"),
        (errno.ENOENT, "no such file"),
        (errno.ENAMETOOLONG, "name is too long"),
        (errno.EIO, "input/output error"),
        (errno.EISDIR, "a folder stands where a file belongs"),
        (errno.ENOTDIR, "a file stands where a folder belongs"),
        (errno.EMFILE, "too many files"),
        (errno.ESTALE, "network drive"),
        (errno.ELOOP, "symbolic link"),
    ],
)
def test_an_error_of_the_file_system_names_the_place_and_the_cause(number: int, words: str) -> None:
    sentence = explain(OSError(number, os.strerror(number), "/archive/blobs/a9"))
    assert sentence.startswith("/archive/blobs")
    assert words in sentence
    assert sentence.isprintable()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_or_read_only_disk_is_named_by_its_folder_not_by_a_temporary_file(number: int) -> None:
    assert explain(OSError(number, "", "/archive/blobs/.partial-1")).startswith("/archive/blobs: ")
    assert explain(OSError(number, "", "/file")).startswith("/: ")
    assert explain(OSError(number, "", "file")).startswith("file: ")


def test_the_path_that_the_caller_knows_is_the_one_shown() -> None:
    error = PermissionError(errno.EACCES, "Permission denied", "/tmp/part-7")
    assert explain(error, "data/a.csv").startswith("data/a.csv: ")
    assert explain(error, Path("data") / "b.csv").startswith(f"{Path('data') / 'b.csv'}: ")


def test_a_real_error_is_explained(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        (tmp_path / "absent\n.csv").read_bytes()
    assert explain(caught.value) == f"{tmp_path}{os.sep}absent\\n.csv: there is no such file or folder"


def test_an_error_of_this_project_explains_itself() -> None:
    assert explain(BlobError("data/a.csv is damaged."), "elsewhere") == "data/a.csv is damaged."


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("odd value"), "ValueError: odd value"),
        (ValueError(), "ValueError"),
        (RuntimeError("two\nlines \x1b[31m"), r"RuntimeError: two\nlines \x1b[31m"),
        (OSError("no number"), "OSError: no number"),
        (ConnectionError(), "ConnectionError"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (OSError(errno.EBADF, "Bad file descriptor", 7), "bad file descriptor"),
        (OSError(errno.EBADF, "Bad file descriptor"), "bad file descriptor"),
        (OSError(errno.EBADF, None), "the operation failed"),
    ],
)
def test_any_other_error_is_one_line_as_well(error: BaseException, sentence: str) -> None:
    assert explain(error) == sentence


@settings(deadline=None)
@given(st.sampled_from(sorted(errno.errorcode)), ANY_TEXT | st.binary() | st.integers(0, 99), st.none() | ANY_TEXT)
def test_explaining_never_fails_and_never_has_two_lines(number: int, filename: Any, path: str | None) -> None:
    for error in (OSError(number, os.strerror(number), filename), ValueError(filename), BlobError(printable(filename))):
        assert explain(error, path).isprintable()
        assert explain(error, path) or not str(error)


# BlobsFailedError


def test_failures_with_one_reason_are_one_line() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/archive/x")
    error = BlobsFailedError([(f"data/{name}.csv", full) for name in "abcde"])
    assert str(error) == f"data/a.csv, data/b.csv, data/c.csv and 2 more: {explain(full)}"


def test_each_reason_has_its_own_line_in_the_order_of_their_first_failure() -> None:
    lost, damaged = OSError(errno.EIO, "", "/drive"), BlobDamagedError("the blob has another digest.")
    error = BlobsFailedError([("a", lost), ("b", damaged), ("c", lost)])
    first, second = str(error).splitlines()
    assert first.startswith("a, c: /drive: ")
    assert second == "b: the blob has another digest."


@pytest.mark.parametrize(("count", "shown"), [(1, "f0: "), (3, "f0, f1, f2: "), (4, "f0, f1, f2 and 1 more: ")])
def test_the_first_three_paths_are_named(count: int, shown: str) -> None:
    assert str(BlobsFailedError([(f"f{i}", ValueError("x")) for i in range(count)])) == f"{shown}ValueError: x"


@settings(deadline=None)
@given(st.lists(st.tuples(ANY_TEXT, ANY_TEXT.map(ValueError)), min_size=1, max_size=12))
def test_there_is_one_line_per_reason_and_no_failure_is_lost(failures: list[tuple[str, Exception]]) -> None:
    error = BlobsFailedError(failures)
    lines = str(error).split("\n")
    assert len(lines) == len({explain(reason) for _, reason in failures})
    assert all(line.isprintable() for line in lines)
    assert error.failures == failures
    assert isinstance(error, PipelineError)
    assert explain(error) == str(error)
