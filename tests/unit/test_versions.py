"""Versions are Semantic Versioning 2.0.0, also where other tools are more generous."""

import operator
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InvalidVersionError
from pipeline.versions import is_version, matches, parse_expressions, parse_version, precedence

# The chain that clause 11 of the specification gives, and its neighbours.
CHAIN = [
    *("0.0.1-0", "0.0.1", "0.1.0", "0.2.0-rc.1", "0.2.0", "0.10.0"),
    *("1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1"),
    *("1.0.0", "2.0.0", "2.1.0", "2.1.1", "10.0.0"),
]

NUMBER = st.integers(0, 12).map(str)
IDENTIFIER = NUMBER | st.from_regex(r"[0-9]{0,2}[A-Za-z-][0-9A-Za-z-]{0,3}", fullmatch=True)
BUILD = st.lists(st.from_regex(r"[0-9A-Za-z-]{1,4}", fullmatch=True), min_size=1, max_size=3).map(".".join)
CORE = st.lists(NUMBER, min_size=3, max_size=3).map(".".join)
PRERELEASE = st.lists(IDENTIFIER, max_size=4)
VERSION = st.builds(lambda core, pre: f"{core}-{'.'.join(pre)}" if pre else core, CORE, PRERELEASE)

# The regular expression that the specification suggests (semver.org, FAQ), for ASCII digits.
SUGGESTED = re.compile(
    r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)"
    r"(?:-((?:0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)(?:\.(?:0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*))*))?"
    r"(?:\+([0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?"
)


def is_one_sentence(error: BaseException) -> bool:
    return str(error).isprintable() and str(error).endswith(".")


def refusal(check: Callable[..., Any], *arguments: Any) -> Exception | None:
    """Return what `check` raises, or None; any other exception is a failure of the test."""
    try:
        check(*arguments)
    except InvalidVersionError as error:
        return error
    return None


def clause_11(version: str) -> tuple[Any, ...]:
    """Order versions as clause 11 says, written down again without the library that the product uses."""
    core, _, prerelease = version.partition("+")[0].partition("-")
    identifiers = [(0, int(i), "") if i.isdigit() else (1, 0, i) for i in prerelease.split(".") if prerelease]
    return (*map(int, core.split(".")), not identifiers, identifiers)


# Precedence


def test_the_chain_of_clause_11_is_kept() -> None:
    shuffled = CHAIN[::2] + CHAIN[1::2]
    assert sorted(shuffled, key=precedence) == CHAIN
    assert all(precedence(lower) < precedence(higher) for lower, higher in pairwise(CHAIN))


@settings(deadline=None)
@given(VERSION, VERSION)
def test_any_two_versions_compare_as_clause_11_says(a: str, b: str) -> None:
    assert (precedence(a) < precedence(b)) == (clause_11(a) < clause_11(b))
    assert (precedence(a) == precedence(b)) == (clause_11(a) == clause_11(b))


@settings(deadline=None)
@given(VERSION, BUILD, BUILD)
def test_build_metadata_does_not_count(version: str, build: str, other: str) -> None:
    assert precedence(f"{version}+{build}") == precedence(f"{version}+{other}") == precedence(version)
    assert matches(f"{version}+{build}", [f"=={version}", f"<={version}+{other}", f">={version}+{other}"])
    assert not matches(f"{version}+{build}", [f"!={version}+{other}"])


# What a version is


@settings(deadline=None, max_examples=300)
@given(st.text("0123.-+aZ_ v", max_size=12) | st.builds("{}+{}".format, VERSION, BUILD) | VERSION)
def test_exactly_the_texts_of_the_specification_are_versions(text: str) -> None:
    assert is_version(text) is bool(SUGGESTED.fullmatch(text))
    if SUGGESTED.fullmatch(text):
        assert str(parse_version(text)) == text
    else:
        with pytest.raises(InvalidVersionError):
            parse_version(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "1", "1.0", "1.0.0.0", "v1.0.0", "01.0.0", "1.00.0", "1.0.0-", "1.0.0+", "1.0.0-01", "1.0.0-a..b"),
        *(
            "1.0.0+a..b",
            "1.0.0-ä",
            "-1.0.0",
            "1.0.0 ",
            " 1.0.0",
            "1.0.0\0",
            "1,0,0",
            "../1.0.0",
            "1.0.0/../..",
            "latest",
        ),
        *("9" * 5000 + ".0.0", "1.0.0-" + "9" * 5000, "\ud800", "1.0.0\x1b[31m", "x" * 100_000),
        *(None, 1, 1.0, True, b"1.0.0", ["1.0.0"], {"1.0.0": 1}, object),
    ],
)
def test_what_is_no_version_is_refused_with_one_sentence(text: Any) -> None:
    with pytest.raises(InvalidVersionError, match="is not a semantic version") as caught:
        parse_version(text)
    assert is_one_sentence(caught.value)
    with pytest.raises(InvalidVersionError):
        precedence(text)


@pytest.mark.parametrize("text", ["1.0.0\n", "1.0.0-rc.1\n", "1.0.0+build\n"])
def test_a_line_break_behind_a_version_is_not_part_of_it(text: str) -> None:
    with pytest.raises(InvalidVersionError):
        parse_version(text)


@pytest.mark.parametrize("text", ["١.0.0", "1.٢.0", "1.0.３", "0.1.᠐"])
def test_digits_of_other_scripts_are_not_digits_of_a_version(text: str) -> None:
    with pytest.raises(InvalidVersionError):
        parse_version(text)


# Expressions


@pytest.mark.parametrize(
    ("expressions", "expected"),
    [
        (None, []),
        ("", []),
        ([], []),
        (" , ", []),
        (">=0.1.0,<0.2.0", [">=0.1.0", "<0.2.0"]),
        (" >= 0.1.0 , < 0.2.0 ", [">= 0.1.0", "< 0.2.0"]),
        ([">=0.1.0", "<0.2.0"], [">=0.1.0", "<0.2.0"]),
        ("0.1.2", ["0.1.2"]),
        (["==0.1.2"], ["==0.1.2"]),
    ],
)
def test_expressions_come_as_a_list_or_as_one_text(expressions: Any, expected: list[str]) -> None:
    assert parse_expressions(expressions) == expected


@pytest.mark.parametrize(
    "expressions",
    [
        *(
            "=0.1.0",
            "=>0.1.0",
            "<>0.1.0",
            "===0.1.0",
            "!0.1.0",
            "~=0.1.0",
            "^0.1.0",
            ">=",
            ">=0.1",
            ">=0.1.x",
            "*",
            "0.1.*",
        ),
        *(">=0.1.0 <0.2.0", ">=0.1.0;<0.2.0", ">=0.1.0,nonsense", ["newest"], [">=0.1.0", ">"], "\x1b[31m", "\ud800"),
    ],
)
def test_a_wrong_expression_is_refused_with_one_sentence(expressions: Any) -> None:
    with pytest.raises(InvalidVersionError) as caught:
        parse_expressions(expressions)
    assert is_one_sentence(caught.value)


@pytest.mark.parametrize("expressions", [[1], [None], [0.1], [b">=0.1.0"], 5, 0.1, b">=0.1.0", True])
def test_expressions_of_another_type_are_refused_and_do_not_crash(expressions: Any) -> None:
    with pytest.raises(InvalidVersionError) as caught:
        parse_expressions(expressions)
    assert is_one_sentence(caught.value)


@settings(deadline=None, max_examples=300)
@given(st.text("=!<>~^ ,.0123-+ab*\n", max_size=14) | st.text(max_size=14))
def test_any_text_is_a_list_of_expressions_or_an_invalid_version(text: str) -> None:
    if error := refusal(parse_expressions, text):
        assert is_one_sentence(error)
    else:
        expressions = parse_expressions(text)
        assert parse_expressions(",".join(expressions)) == expressions
        assert isinstance(matches("1.0.0", expressions), bool)


OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@settings(deadline=None)
@given(VERSION, st.lists(st.tuples(st.sampled_from(sorted(OPERATORS)), VERSION), max_size=3))
def test_a_version_matches_when_it_satisfies_every_expression(version: str, bounds: list[tuple[str, str]]) -> None:
    expected = all(OPERATORS[sign](clause_11(version), clause_11(bound)) for sign, bound in bounds)
    assert matches(version, [sign + bound for sign, bound in bounds]) is expected
    assert matches(version, parse_expressions(", ".join(f"{sign} {bound}" for sign, bound in bounds))) is expected


@settings(deadline=None)
@given(VERSION)
def test_no_expression_means_every_version(version: str) -> None:
    assert matches(version, parse_expressions(None))
    assert matches(version, [version])


def test_a_pre_release_counts_by_its_precedence_alone() -> None:
    assert matches("0.2.0-rc.1", [">=0.1.0", "<0.2.0"])
    assert not matches("0.1.0-rc.1", [">=0.1.0"])


def test_matching_a_text_that_is_no_version_is_refused() -> None:
    with pytest.raises(InvalidVersionError):
        matches("newest", [">=0.1.0"])
    with pytest.raises(InvalidVersionError):
        matches("0.1.0", ["newest"])
