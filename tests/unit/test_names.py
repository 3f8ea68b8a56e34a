"""Names of titles, workspaces and files: what is accepted can never leave the folder that it is put into."""

import os
import re
from collections.abc import Callable
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InvalidNameError
from pipeline.names import check_component, check_folder_name, normalize_title, record_title

# Text in which the dangerous characters are common, so that hypothesis meets them often.
NASTY = st.sampled_from("ab.. /\\:*\0\n\t~$µü\ud800\udc80\u2028CONnul1¹")
NASTY_TEXT = st.text(NASTY, max_size=12) | st.text(max_size=12)


def is_one_sentence(error: BaseException) -> bool:
    return str(error).isprintable() and str(error).endswith(".")


def refusal(check: Callable[..., Any], *arguments: Any) -> Exception | None:
    """Return what `check` raises, or None; any other exception is a failure of the test."""
    try:
        check(*arguments)
    except InvalidNameError as error:
        return error
    return None


# Titles


@pytest.mark.parametrize(
    ("title", "normal"),
    [
        ("waveguide-calibration", "waveguide-calibration"),
        ("Waveguide_Cal.2024", "waveguide-cal-2024"),
        ("a", "a"),
        ("A-_.-b", "a-b"),
        ("wr90", "wr90"),
    ],
)
def test_a_title_has_one_normal_spelling(title: str, normal: str) -> None:
    assert normalize_title(title) == normal


@settings(deadline=None)
@given(st.from_regex(r"[A-Za-z]([A-Za-z0-9._-]{0,12}[A-Za-z0-9])?", fullmatch=True))
def test_normalizing_a_valid_title_is_possible_and_final(title: str) -> None:
    normal = normalize_title(title)
    assert normalize_title(normal) == normal
    assert re.sub("[-_.]", "", title).lower() == normal.replace("-", "")


@pytest.mark.parametrize(
    "title",
    ["", " ", "1st", "-a", "a-", ".a", "a.", "a b", "a/b", "../a", "a\n", "größe", "a\\b", "a\0", "a\x1b[31m", "SELF"],
)
def test_a_wrong_title_is_refused_with_one_sentence(title: str) -> None:
    with pytest.raises(InvalidNameError, match=r"The title .* is not valid") as caught:
        normalize_title(title)
    assert is_one_sentence(caught.value)


@settings(deadline=None)
@given(NASTY_TEXT)
def test_whatever_is_typed_a_normal_title_is_a_plain_ascii_word(text: str) -> None:
    if error := refusal(normalize_title, text):
        assert is_one_sentence(error)
    else:
        normal = normalize_title(text)
        assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", normal)
        assert check_folder_name(normal, "title") == check_component(normal, "the archive") == normal


def test_a_record_title_joins_title_and_version() -> None:
    assert record_title("waveguide-calibration", "0.1.0-rc.1") == "waveguide-calibration-v0.1.0-rc.1"


def test_a_record_title_may_have_200_characters_and_no_more() -> None:
    fits = "a" * (200 - len("-v0.1.0"))
    assert len(record_title(fits, "0.1.0")) == 200
    with pytest.raises(InvalidNameError, match="more than 200 characters") as caught:
        record_title(fits + "a", "0.1.0")
    assert is_one_sentence(caught.value)


# Workspaces and titles as folders of an archive


@pytest.mark.parametrize("name", ["Global Public Workspace", "größe", "a", "x" * 255, "Lab 2 (µm)", "a..b"])
def test_a_plain_folder_name_is_kept_as_it_is(name: str) -> None:
    assert check_folder_name(name, "workspace") == name


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", ".", "..", ".hidden", "a/b", "/", "/etc", "a\\b", "..\\a", "a\0b", "a\nb", "a\x1b[31m", "a\u2028b"),
        *("\ud800", "\udc80", "x" * 256, "µ" * 128, "a\u200bb", "a\u202eb"),
        *(None, 5, True, b"workspace", ["a"], {"a": 1}, 1.5),
    ],
)
def test_a_workspace_that_is_no_plain_folder_name_is_refused(name: Any) -> None:
    with pytest.raises(InvalidNameError, match=r"The workspace .* is not valid") as caught:
        check_folder_name(name, "workspace")
    assert is_one_sentence(caught.value)


@settings(deadline=None, max_examples=300)
@given(NASTY_TEXT)
def test_an_accepted_folder_name_stays_directly_below_the_archive(name: str) -> None:
    if error := refusal(check_folder_name, name, "workspace"):
        assert is_one_sentence(error)
    else:
        assert os.path.dirname(os.path.abspath(os.path.join("/archive", name))) == os.path.abspath("/archive")
        assert PureWindowsPath("C:/archive", name).name == name or ":" in name
        assert name.isprintable()
        assert name.encode("utf-8")


# Files and folders of a release


@pytest.mark.parametrize(
    "name",
    ["data.csv", "Größe µm – Übersicht.txt", ".gitignore", "...", " ", "two\nlines", "~", "nul.txt", "a:b", "-rf"],
)
def test_every_name_that_a_posix_file_can_have_in_utf8_is_accepted_there(name: str) -> None:
    assert check_component(name, "data", windows=False) == name


@pytest.mark.parametrize("windows", [True, False])
@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "/", "a/b", "/etc/passwd", "../a", "a\\b", "..\\a", "C:\\a", "\\\\server\\share", "a\0", "\0"),
        *("\ud800", "a\udcff", None, 0, 1.5, True, b"a", ("a",)),
    ],
)
def test_a_name_that_could_leave_its_folder_is_refused_everywhere(name: Any, windows: bool) -> None:
    with pytest.raises(InvalidNameError) as caught:
        check_component(name, "data", windows=windows)
    assert is_one_sentence(caught.value)
    assert "in data " in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        *("nul", "NUL", "con.txt", "Aux", "prn.a.b", "com1", "COM9.csv", "com¹", "LPT².txt", "lpt0", "nul .txt"),
        *("conin$", "CONOUT$.log", "a:stream", "a?", "a*", "a|b", "a<b", "a>b", 'a"b', "two\nlines", "a.", "a ", "..."),
    ],
)
def test_names_that_windows_does_not_keep_are_refused_there(name: str) -> None:
    with pytest.raises(InvalidNameError, match="cannot be used on this system") as caught:
        check_component(name, "data", windows=True)
    assert is_one_sentence(caught.value)


@pytest.mark.parametrize(
    "name", ["console.txt", "null", "com10", "communication.csv", "auxiliary", "Größe 1.csv", "a.b c"]
)
def test_names_that_only_resemble_device_names_are_accepted_on_windows(name: str) -> None:
    assert check_component(name, "data", windows=True) == name


@settings(deadline=None, max_examples=300)
@given(NASTY_TEXT, st.booleans())
def test_an_accepted_component_is_exactly_one_step_down(name: str, windows: bool) -> None:
    if error := refusal(check_component, name, "data", windows):
        assert is_one_sentence(error)
        return
    assert os.path.dirname(os.path.normpath(f"/release/{name}")) == "/release" or os.name == "nt"
    assert PurePosixPath("/release", name).parts == ("/", "release", name)
    assert name.encode("utf-8").decode() == name
    if windows:
        assert PureWindowsPath("C:/release", name).parts == ("C:\\", "release", name)
        assert not re.search('[<>:"|?*\0-\x1f]', name)
        assert name[-1] not in ". "


def test_the_message_cannot_forge_a_line_of_a_log() -> None:
    with pytest.raises(InvalidNameError) as caught:
        check_component("../a", "data\nERROR: all is lost \x1b[31m")
    assert is_one_sentence(caught.value)
