"""What archives must hold: the model of :mod:`tests.attacks.model`, and the names and contents that it tries."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from hypothesis import strategies as st
from semantic_version import Version

from tests.attacks.places import Folder, Key, Place, Tree, digests, outline
from tests.support import sha1

TITLES = {"sample": "sample", "Wave_Guide..2024": "wave-guide-2024"}
VERSIONS = ("0.1.0", "0.2.0-rc.1", "0.2.0", "0.10.0", "1.0.0+build.7")
EXPRESSIONS = ("", ">=0.2.0", "<0.2.0", "==0.1.0", ">=0.2.0,<1.0.0", "!=1.0.0", "1.0.0")
ODD_NAMES = (
    "a.csv", "b.h5", "two words", " leading", "trailing ", "line\nbreak", "-n", "--help", "tab\there", "Größe µ.csv",
    "Gro\N{COMBINING DIAERESIS}ße", "данные.bin", "\N{SNOWMAN}\N{PILE OF POO}", "x" * 255, "ä" * 127, ".hidden", "...",
    "a.csv.part", "%2e%2e", "*", "[a]", "'\"`$(touch x)", "<b>", "\x1b[31mred", "sample-v0.1.0.yml", "blobs",
    ".records", "\N{RIGHT-TO-LEFT OVERRIDE}txt", "\u2028", "null", "1e3", "#", "!a", "~", "{}", "CON", "a:b", "\x7f",
    "@", "a/b/c",
)  # fmt: skip
_SPECIAL = re.compile(
    r"(^|/)(\.{1,2}|\.git|\.rme|\.partial|\.gitignore|\.rmeinclude|\.rmearchive|release\.yml|\$[^/]*)(/|$)"
)
_LETTERS = st.characters(exclude_categories=("Cs",), exclude_characters="/\\\0")
_NAMES = st.sampled_from(ODD_NAMES) | st.text(_LETTERS, min_size=1, max_size=12)
_PATHS = st.lists(_NAMES, min_size=1, max_size=3).map("/".join).filter(lambda path: not _SPECIAL.search(path))


class _Long(bytes):
    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


_CONTENTS = st.sampled_from(
    (b"", b"1", b"one,two\n" * 40, _Long(range(256)) * 9, _Long(b"long" * 400_000))
) | st.binary(min_size=1, max_size=30)
TREES = st.dictionaries(_PATHS, _CONTENTS, max_size=6)


def precedence(version: str) -> tuple[Version, str]:
    """Return what sorts versions: build metadata does not count, and then the text."""
    return Version(version.partition("+")[0]), version


def satisfies(version: str, expression: str) -> bool:
    """Tell whether a version satisfies all parts of an expression."""
    tests = {
        "==": lambda a, b: a == b, "!=": lambda a, b: a != b, ">=": lambda a, b: a >= b, "<=": lambda a, b: a <= b,
        ">": lambda a, b: a > b, "<": lambda a, b: a < b,
    }  # fmt: skip
    for part in filter(None, expression.split(",")):
        sign, bound = re.fullmatch("([=!<>]*)(.*)", part).groups()  # type: ignore[union-attr]  # it always matches
        if not tests[sign or "=="](precedence(version)[0], precedence(bound)[0]):
            return False
    return True


@dataclass
class Known:
    """What an archive must hold: the model.

    Attributes
    ----------
    place : Place
        The archive.
    releases : dict
        What was published: title and version to the files.
    stored : set
        Blobs that are there, also those that no record names because a run was killed or refused.
    damage : dict
        Blobs that were damaged: title, or nothing where titles share blobs, and digest, to how and to what they hold.
    records : dict
        Records that were damaged, to which of the two copies and to what it holds.
    """

    place: Place
    releases: dict[Key, Tree] = field(default_factory=dict)
    stored: set[tuple[str, str]] = field(default_factory=set)
    damage: dict[tuple[str, str], tuple[str, bytes | None]] = field(default_factory=dict)
    records: dict[Key, tuple[str, bytes]] = field(default_factory=dict)

    @property
    def is_intact(self) -> bool:
        """Whether nothing is damaged."""
        return not (self.damage or self.records)

    def blob(self, title: str, digest: str) -> tuple[str, str]:
        return (title if self.place.blobs_of_title else "", digest)

    def blobs(self) -> dict[tuple[str, str], bytes]:
        """Return all blobs that records name."""
        return {
            self.blob(title, digest): data
            for (title, _), files in self.releases.items()
            for digest, data in digests(files).items()
        }

    def lacks(self, title: str, files: Tree) -> set[str]:
        """Return the blobs of a project that a publisher sees to be missing."""
        keys = {digest: self.blob(title, digest) for digest in digests(files)}
        return {
            digest
            for digest, key in keys.items()
            if key not in self.stored or (key in self.damage and self.damage[key][0] in self.place.seen)
        }

    def damaged(self, title: str, files: Tree) -> set[str]:
        """Return the blobs of a project that cannot be read."""
        return {digest for digest in digests(files) if self.blob(title, digest) in self.damage}

    def told(self) -> dict[Key, dict[str, tuple[str, int] | None]]:
        """Return what the records that are not damaged tell of their files."""
        return self.place.records([key for key in self.records if self.is_unreadable(key)])

    def is_unreadable(self, key: Key) -> bool:
        return self.records.get(key, ("",))[0] == "record"

    def store(self, title: str, wanted: set[str]) -> None:
        """Note that blobs were uploaded."""
        for digest in wanted:
            self.damage.pop(self.blob(title, digest), None)
            self.stored.add(self.blob(title, digest))

    def reread(self, candidates: Iterable[tuple[str, str]]) -> None:
        """Find out what a killed run has stored, healed, or taken away to heal it."""
        for title, digest in candidates:
            now = self.place.blob(title, digest)
            if now is not None and sha1(now) == digest:
                self.stored.add(self.blob(title, digest))
        for title, digest in list(self.damage):
            now = self.place.blob(title, digest)
            if now is not None and sha1(now) == digest:
                del self.damage[title, digest]
            elif now is None:
                self.damage[title, digest] = "deleted", None
        for key in list(self.records):
            assert isinstance(self.place, Folder)
            record, copy = self.place.record_file(key).read_bytes(), self.place.record_copy(key)
            if sha1(record) == copy.name == sha1(copy.read_bytes()):
                del self.records[key]

    def check(self) -> None:
        """Compare what the archive holds with what it must hold."""
        expected = {key: outline(files) for key, files in self.releases.items() if not self.is_unreadable(key)}
        assert self.told() == expected
        for (title, digest), data in self.blobs().items():
            now = self.place.blob(title, digest)
            assert self.place.is_stored_once(digest)
            assert now == (self.damage[title, digest][1] if (title, digest) in self.damage else data), digest
        if isinstance(self.place, Folder):
            assert set(self.place.strange_blobs()) <= set(self.damage)
