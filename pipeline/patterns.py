"""Gitignore's patterns (gitignore(5)), matched as git does: on the bytes of one path, its folders asked before it."""

import itertools
import os
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_POSIX_CLASSES = {
    b"alnum": rb"0-9A-Za-z",
    b"alpha": rb"A-Za-z",
    b"blank": rb" \t",
    b"cntrl": rb"\x00-\x1f\x7f",
    b"digit": rb"0-9",
    b"graph": rb"!-~",
    b"lower": rb"a-z",
    b"print": rb" -~",
    b"punct": rb"!-/:-@\[-`{-~",
    b"space": rb"\t-\r ",
    b"upper": rb"A-Z",
    b"xdigit": rb"0-9A-Fa-f",
}
_NOTHING = rb"(?!)"
_STAR = rb"[^/]*"


class _Pattern(NamedTuple):
    negated: bool
    folders_only: bool
    of_name: bool
    regex: "re.Pattern[bytes]"


class Patterns:
    """The patterns of one file or list; the last one that matches a path decides.

    Parameters
    ----------
    lines : iterable of str
        The lines of a ``.gitignore`` file.

    Examples
    --------
    >>> patterns = Patterns(["*.tmp", "!keep.tmp", "build/"])
    >>> patterns.verdict("data/x.tmp", False), patterns.verdict("keep.tmp", False), patterns.verdict("build", False)
    (True, False, None)
    """

    def __init__(self, lines: Iterable[str]) -> None:
        parsed = (_parse(os.fsencode(line)) for line in lines)
        self._patterns = [pattern for pattern in parsed if pattern is not None][::-1]

    def verdict(self, path: str, is_folder: bool) -> bool | None:
        """Tell what the patterns say of a path itself: True or False (negated), None where they say nothing.

        What they say of a folder holds for all that is in it; the caller asks for folders first.
        """
        whole = os.fsencode(path)
        name = whole.rpartition(b"/")[2]
        for pattern in self._patterns:
            if (is_folder or not pattern.folders_only) and pattern.regex.fullmatch(name if pattern.of_name else whole):
                return not pattern.negated
        return None


def _parse(line: bytes) -> _Pattern | None:
    line = line.removesuffix(b"\r")
    if line.startswith(b"#"):
        return None
    line = _without_trailing_spaces(line)
    if not line:
        return None
    negated = line.startswith(b"!")
    line = line[negated:]
    folders_only = line.endswith(b"/")
    line = line.removesuffix(b"/")
    of_name = b"/" not in line
    return _Pattern(negated, folders_only, of_name, re.compile(_translate(line.removeprefix(b"/")), re.DOTALL))


def _without_trailing_spaces(line: bytes) -> bytes:
    """Return the line up to its last space that a backslash protects."""
    stripped = line.rstrip(b" ")
    backslashes = len(stripped) - len(stripped.rstrip(b"\\"))
    return line[: len(stripped) + backslashes % 2]


def _translate(glob: bytes) -> bytes:
    """Return the regular expression of a glob, as git's wildmatch() reads it.

    What stands between two stars is right where it is found first. So no pattern, however many stars it has, makes it
    try one way after the other.
    """
    rows: list[list[bytes]] = [[]]
    place = 0
    while place < len(glob):
        char = glob[place : place + 1]
        if char == b"*":
            stars = len(glob) - len(glob[place:].lstrip(b"*"))
            alone = glob[place - 1 : place] in (b"", b"/") and glob[stars : stars + 1] in (b"", b"/")
            if stars - place == 1 or not alone:
                rows[-1].append(_STAR)
            elif stars == len(glob):
                rows[-1].append(rb".*")
            else:
                stars += 1
                rows.append([])
            place = stars
        elif char == b"[":
            members, place = _translate_class(glob, place + 1)
            rows[-1].append(members)
        elif char == b"?":
            rows[-1].append(rb"[^/]")
            place += 1
        else:
            if char == b"\\":
                place += 1
            rows[-1].append(re.escape(glob[place : place + 1]) or _NOTHING)
            place += 1
    numbers = itertools.count()
    first, *others = (_join(row, numbers) for row in rows)
    if not others:
        return first
    between = [_once(rb"(?:.*?/)??" + row, numbers) for row in others[:-1]]
    return b"".join((first, *between, rb"(?:.*/)?", others[-1]))


def _join(row: list[bytes], numbers: Iterator[int]) -> bytes:
    """Return the regular expression of what stands between two ``**/``."""
    regex, piece = b"", b""
    for part in row:
        if part == _STAR:
            found = piece.startswith(_STAR)
            regex += _once(rb"[^/]*?" + piece.removeprefix(_STAR), numbers) if found else piece
            piece = part
        else:
            piece += part
    return regex + piece


def _once(regex: bytes, numbers: Iterator[int]) -> bytes:
    """Let a regular expression match where it does first and nowhere else; from Python 3.11 on, that is ``(?>...)``."""
    number = next(numbers)
    return rb"(?=(?P<part%d>" % number + regex + rb"))(?P=part%d)" % number


def _translate_class(glob: bytes, place: int) -> tuple[bytes, int]:
    negated = glob[place : place + 1] in (b"!", b"^")
    place += negated
    members: list[bytes] = []
    first, last = True, b""  # the character before, where it may begin a range
    while first or glob[place : place + 1] != b"]":
        first = False
        if name := re.compile(rb"\[:([a-z]*):\]").match(glob, place):
            if name[1] not in _POSIX_CLASSES:
                return _NOTHING, len(glob)
            members.append(_POSIX_CLASSES[name[1]])
            last, place = b"", name.end()
            continue
        if glob[place : place + 1] == b"-" and last and glob[place + 1 : place + 2] not in (b"", b"]"):
            place += 1
            end, place = _member(glob, place)
            if last <= end:
                members.append(re.escape(last) + b"-" + re.escape(end))
            last = b""
        else:
            last, place = _member(glob, place)
            members.append(re.escape(last))
        if place >= len(glob):
            return _NOTHING, len(glob)
    body = b"".join(members)
    return rb"(?!/)[" + (b"^" if negated else b"") + body + b"]", place + 1


def _member(glob: bytes, place: int) -> tuple[bytes, int]:
    place += glob[place : place + 1] == b"\\"
    return glob[place : place + 1], place + 1
