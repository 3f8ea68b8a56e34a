"""Give each reader what nobody would write, and see that it ends soon, with a value or with a sentence.

A reader may raise what it documents, never anything else. What it says has no character that steers a terminal, and is
not endless. Long form: ``python -m tests.attacks.fuzz [--seconds N] [--seed S] [--only TARGET]``; a finding is printed
with the seed that repeats it.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import re
import resource
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import date
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.archives.cdcs.bodies import join_url, origin_of, pause_in, show_url
from pipeline.checksums import HashCache, Stamp
from pipeline.credentials import _read_file
from pipeline.destination import Destination
from pipeline.documents import load_mapping
from pipeline.errors import PipelineError, explain
from pipeline.ignores import Rules
from pipeline.journal import AuditJournal
from pipeline.lock_file import LockedRelease, LockFile, read_lock_file
from pipeline.manifest import Manifest, parse_ranges
from pipeline.names import check_component, check_folder_name, normalize_title
from pipeline.patterns import Patterns
from pipeline.release import ReleaseRecord
from pipeline.release_file import read_release_file
from pipeline.report import ReleaseReport, Report
from pipeline.requirements import parse_requirements
from pipeline.versions import matches, parse_expressions, parse_version
from tests.attacks.mutation import TEXTS, mutate, mutate_json, written

_PATIENCE = 10.0
_MOST_MEMORY = 2 * 2**30
_LONGEST_MESSAGE = 60_000
_DIGEST = hashlib.sha1(b"abc").hexdigest()
_FILE = {"/item/": "File", "/bytes/": 3, "/sha1/": _DIGEST, "/bpid/": _DIGEST, "/attrs/": {}, "/file-type/": "misc"}
RECORD: dict[str, Any] = {
    "title": "sample-v0.1.0",
    "title_versionless": "sample",
    "version": "0.1.0",
    "workflow_config_path": "release.yml",
    "workflow": {"operator": "me", "steps": [1, 2.5, None]},
    "requirements": ["cables>=0.2.0,<0.3.0"],
    "project": {
        "a.txt": _FILE,
        "data": {"/item/": "Directory", "/path/": "data", "b.h5": _FILE | {"/item/": "H5_File"}},
    },
    "datasets": {"s": "data/b.h5"},
    "origin": {"host": "h", "workspace": "w", "pid": "p", "digest": _DIGEST, "date": "2026-11-23"},
}
_YAML = b"""title: sample-v0.1.0
title_versionless: sample
version: 0.1.0
requirements: &r [cables>=0.2.0]
workflow: {when: 2026-11-23, requires: *r, size: 0x1F, share: .5}
project:
  a.txt: {/item/: File, /bytes/: 3, /sha1/: a9993e364706816aba3e25717850c26c9cd0d89d}
  data: {/item/: Directory}
"""
_RELEASE_FILE = b"""release:
  title: sample
  version: 1.0.0
  ignores: ["*.tmp"]
  includes: ["scratch/keep.csv"]
datasets: {s: a.s2p}
requires-releases: ["cable-models>=0.2.0"]
operator: me
"""
_RULES = b"# rules\n*.tmp\n!keep.tmp\nbuild/\n/x/**/y\n**/z\na/*/b\n[a-c]?[!x]\n\\#a\nfoo\\ \n[[:alpha:]]*.c\n"
_PATHS = ["a", "a" * 200, "a/b/c", "x/q/y", "build/x", "aaaa.tmp", "a/" * 60 + "c", "[", "\\", "a b"]


class Target(NamedTuple):
    """A reader, what it reads when all is well, and whether that is JSON."""

    seeds: list[bytes]
    read: Callable[[bytes, Path], object]
    documented: tuple[type[Exception], ...] = (PipelineError,)


class FindingError(AssertionError):
    """A reader did what it must not."""


# --- readers ----------------------------------------------------------------------------------------------------------


def _record(data: bytes, folder: Path) -> None:
    record = ReleaseRecord.parse(data, "the record")
    again = ReleaseRecord.parse(record.dump(), "the record again")
    assert again.blobs == record.blobs
    assert again.folders == record.folders
    Destination(folder, record, HashCache(None))
    with contextlib.suppress(PipelineError):
        parse_requirements(record.content, "w")
    assert again.same_release(again)


def _release_file(data: bytes, folder: Path) -> None:
    (folder / "release.yml").write_bytes(data)
    json.dumps(read_release_file(folder).workflow, allow_nan=False)


def _lock_file(data: bytes, folder: Path) -> None:
    (folder / "x.lock").write_bytes(data)
    read = read_lock_file(folder / "x.lock")
    assert read is not None
    assert all(isinstance(one, LockedRelease) for one in read.releases.values())


def _manifest(data: bytes, folder: Path) -> None:
    name = hashlib.sha1(data).hexdigest()
    (folder / name).write_bytes(data)
    Manifest.load(folder, name)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _versions(data: bytes, folder: Path) -> None:
    expressions = parse_expressions(_text(data))
    matches("1.2.3-rc.1", expressions)
    parse_version(expressions[0] if expressions else "1.0.0")


def _names(data: bytes, folder: Path) -> None:
    text = _text(data)
    for check in (
        normalize_title,
        lambda name: check_folder_name(name, "title"),
        lambda name: check_component(name, "x"),
    ):
        with contextlib.suppress(PipelineError):
            name = check(text)
            assert Path("/top", name).parent == Path("/top")
            (folder / "x" / name).relative_to(folder / "x")
    parse_ranges(text, 1000)


def _rules(data: bytes, folder: Path) -> None:
    lines = _text(data).split("\n")
    rules = Rules().deepened("", lines, None).deepened("a/", None, lines)
    for path in (*_PATHS, *(line for line in lines[:5] if "\0" not in line)):
        Patterns(lines).verdict(path, True)
        rules.ignore(path)
        rules.include(f"a/{path}")


def _address(data: bytes, folder: Path) -> None:
    text = _text(data)
    pause_in(text)
    show_url(text)
    origin_of(join_url("http://127.0.0.1/x/", text))


def _credential(data: bytes, folder: Path) -> None:
    (folder / "PIPELINE_TOKEN").write_bytes(data)
    with _environment(CREDENTIALS_DIRECTORY=str(folder)):
        _read_file("PIPELINE_TOKEN")


def _journal(data: bytes, folder: Path) -> None:
    file = folder / "journal.sqlite3"
    file.write_bytes(data)
    night, journal = date(2026, 11, 23), AuditJournal(file)
    journal.load("here")
    journal.store("here", night, [("x", 1.0)])
    journal.turn("here", night)
    journal.result("here", night, "o")
    journal.note("here", night, "o", {"blobs": 1})
    journal.forget("here", night)


def _journal_rows(data: bytes, folder: Path) -> None:
    night, file = date(2026, 11, 23), folder / "rows.sqlite3"
    AuditJournal(file).note("here", night, "o", {"blobs": 1})
    values = [_value(data[start : start + 20]) for start in range(0, 80, 20)]
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("INSERT OR REPLACE INTO turns VALUES ('here', ?, ?)", values[:2])
        connection.execute("UPDATE finished SET counts = ?", [data])
        with contextlib.suppress(sqlite3.IntegrityError):
            connection.execute("INSERT OR REPLACE INTO blobs VALUES ('here', ?, ?, ?)", values[1:])
    _journal(file.read_bytes(), folder)


def _cache(data: bytes, folder: Path) -> None:
    file = folder / "digests.sqlite3"
    file.write_bytes(data)
    cache = HashCache(file)
    cache.load(folder)
    cache.store(folder, [("a", Stamp(1, 2, 3, 4), _DIGEST)])


def _value(data: bytes) -> object:
    """Return a value of one of the types that sqlite has."""
    kinds: tuple[Callable[[], object], ...] = (
        lambda: data,
        lambda: data.decode("latin-1"),
        lambda: None,
        lambda: 2**63 - 1 - len(data),
        lambda: float("inf"),
        lambda: -1.5,
        lambda: "9" * 400,
    )
    return kinds[sum(data) % len(kinds)]()


# --- reports ----------------------------------------------------------------------------------------------------------

_ASKED = {"source": "a", "destination": "b"}


class _Page(HTMLParser):
    """Notes what a page would do besides showing text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        self.tags.add(tag)
        self.scripts += tag == "script" or any(name.startswith("on") for name, _ in attrs)
        self.scripts += any(
            name in ("href", "src") and re.match(r"(?!data:,)\w+:|//", value or "") for name, value in attrs
        )


def _tags_of(page: str) -> tuple[set[str], int]:
    parser = _Page()
    parser.feed(page)
    return parser.tags, parser.scripts


def _report(night: str, folder: Path, texts: list[str]) -> Report:
    report = Report("MirrorArchive", _ASKED, folder, night=date.fromisoformat(night))
    for text in texts:
        release = ReleaseReport(text, text[:50] or None, record=text, origin=text)
        release.fail(text, text)
        report.releases.append(release)
    report.close()
    return report


def _earlier_report(data: bytes, folder: Path) -> None:
    earlier = _report("2026-11-21", folder, []).path
    assert earlier is not None
    Path(earlier).with_suffix(".json").write_bytes(data)
    _check_report(_report("2026-11-23", folder, ["sample"]))


def _hostile_names(data: bytes, folder: Path) -> None:
    report = _report("2026-11-23", folder, [_text(data), _text(data[::-1])])
    _check_report(report)


def _check_report(report: Report) -> None:
    assert report.path is not None
    check_page(Path(report.path))


def check_page(file: Path) -> None:
    """Raise an error when the page of a report, or its JSON, does anything but show texts."""
    page = file.read_text("utf-8")
    tags, scripts = _tags_of(page)
    assert tags <= _PAGE_TAGS, f"the page has {tags - _PAGE_TAGS}"
    assert not scripts, "the page would do something"
    check_shown(page)
    check_shown(json.dumps(json.loads(file.with_suffix(".json").read_bytes()), ensure_ascii=False))


_PAGE_TAGS = set(
    re.findall(
        r"\w+",
        "html head meta title style body main header footer section h1 h2 h3 p div span ul li i b a table thead tbody "
        "tr th td small bdi br details summary dl dt dd link svg path",
    )
)


# --- what must hold ---------------------------------------------------------------------------------------------------


def _seed(value: Any) -> bytes:
    return written(value)


_LOCK = LockFile("sample", "", "/srv/a", "w", {"sample": LockedRelease("0.1.0", _DIGEST, ("a>=1.0.0",))})
_MANIFEST = {
    "archive": "/srv/a",
    "user": None,
    "workspace": "w",
    "directory": "/d",
    "record": RECORD,
    "source": "",
    "source_workspace": "",
}
_NIGHT = {
    "task": "MirrorArchive",
    "asked": _ASKED,
    "night": "2026-11-21",
    "state": "done",
    "totals": {"moved_bytes": 5, "checked_bytes": 0, "releases": 2, "failed_releases": 0},
}
_WORDS = [text.encode("utf-8", "surrogateescape") if text != "\ud800" else b"\xff" for text in TEXTS]

TARGETS: dict[str, Target] = {
    "record": Target([_seed(RECORD), _YAML], _record),
    "document": Target([_YAML, _RELEASE_FILE, _LOCK.dump()], lambda data, folder: load_mapping(data, "it")),
    "release file": Target([_RELEASE_FILE, _seed({"release": {"title": "x"}, "w": {"x": [1]}})], _release_file),
    "lock file": Target([_LOCK.dump()], _lock_file),
    "manifest": Target([_seed(_MANIFEST)], _manifest),
    "versions": Target([b">=1.0.0,<2.0.0", b"==1.2.3-rc.1+b.7", b"!=0.0.1"], _versions),
    "names": Target([b"sample", b"0-199,300", *_WORDS], _names),
    "rules": Target([_RULES], _rules),
    "address": Target([b"http://127.0.0.1:80/x?y#z", b"120", b"Wed, 21 Oct 2026 07:28:00 GMT", *_WORDS], _address),
    "credential": Target([b"t0ken\r\n"], _credential),
    "journal": Target([b"SQLite format 3\0" + bytes(80)], _journal),
    "journal rows": Target([b'{"blobs": 1}' + bytes(range(80)), b"abc" * 30], _journal_rows),
    "hash cache": Target([b"SQLite format 3\0" + bytes(80)], _cache),
    "earlier report": Target([_seed(_NIGHT)], _earlier_report),
    "hostile names": Target([b"data/a.h5", *_WORDS], _hostile_names),
}


def check_shown(text: str) -> None:
    """Raise a finding when a text has characters that steer a terminal, or do not show what it is."""
    odd = sorted({char for char in text if not (char.isprintable() or char == "\n")})
    if odd:
        raise FindingError(f"it shows {odd}")


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def watched(patience: float = _PATIENCE) -> Iterator[None]:
    """Raise a finding when the body takes too long or too much memory."""

    def too_long(*_: object) -> None:
        raise FindingError(f"it takes more than {patience} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _MOST_MEMORY, hard))
    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, patience)
    try:
        yield
    except MemoryError:
        raise FindingError("it takes too much memory") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def attempt(name: str, seed: str) -> bool:
    """Give a target one input, made from a seed; return whether it was refused."""
    data = _make(random.Random(f"{name} {seed}"), TARGETS[name].seeds)
    with watched():
        return offer(name, data)


def offer(name: str, data: bytes) -> bool:
    """Give a target one input; return whether it was refused, as is documented."""
    target = TARGETS[name]
    with tempfile.TemporaryDirectory() as folder:
        try:
            target.read(data, Path(folder))
            return False
        except target.documented as error:
            message = explain(error)
            check_shown(message)
            if len(message) > _LONGEST_MESSAGE:
                raise FindingError(f"it says {len(message)} characters") from None
            return True


def _make(source: random.Random, seeds: list[bytes]) -> bytes:
    chosen = source.choice(seeds)
    if chosen.startswith(b"{") and source.random() < 0.7:
        with contextlib.suppress(ValueError, RecursionError):
            return written(mutate_json(source, json.loads(chosen)))
    return mutate(source, seeds)


def run(name: str, seed: int, count: int | None = None, until: float = float("inf")) -> tuple[int, int, list[str]]:
    """Try inputs and return how many there were, how many were refused, and the seeds of findings."""
    tried = refused = 0
    findings: list[str] = []
    while (count is None or tried < count) and time.monotonic() < until and len(findings) < 5:
        try:
            refused += attempt(name, f"{seed}/{tried}")
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            last = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames if "pipeline/" in frame.filename][
                -1:
            ]
            what = f"{type(error).__name__}: {str(error)[:200]!r} at {' '.join(last)}"
            findings.append(f"{name} {seed}/{tried}: {what}")
        tried += 1
    return tried, refused, findings


def main() -> int:
    """Try all targets in turns, print figures, and return 1 when something was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--only", choices=sorted(TARGETS), nargs="+", default=list(TARGETS))
    options = parser.parse_args()
    found = []
    for name in options.only:
        end = time.monotonic() + options.seconds / len(options.only)
        tried, refused, findings = run(name, options.seed, until=end)
        found += findings
        print(
            f"{name:16} {tried:8,} inputs, {refused:8,} refused with a sentence, {len(findings)} findings", flush=True
        )
    print(*found, f"seed {options.seed}", sep="\n")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
