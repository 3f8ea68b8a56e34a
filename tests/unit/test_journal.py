"""Which blobs an audit reads in which night, and what its journal remembers."""

from collections import Counter
from datetime import date, timedelta
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.audit import Scope
from pipeline.journal import AuditJournal, Seen

NIGHT = date(2026, 11, 23)
TITLES = st.text("abcdefgh-", min_size=1, max_size=9)


def read(scope: Scope, title: str, keys: list[str], seen: dict[str, Seen], turn: int) -> list[str]:
    """Return what is due, and note it as read."""
    due = scope.due(title, keys, seen, turn)
    seen |= {key: Seen(scope.night.isoformat(), 1.0 + turn) for key in due}
    return due


@given(TITLES, st.integers(0, 200), st.integers(1, 40), st.integers(0, 99), st.integers(1, 30))
def test_a_part_each_time_reads_every_blob_once_in_as_many_audits(
    title: str, count: int, nights: int, first: int, days: int
) -> None:
    keys, seen = [f"blob {number}" for number in range(count)], dict[str, Seen]()
    parts = []
    for number in range(nights):
        scope = Scope(NIGHT + timedelta(days=number * days), Fraction(1, nights))
        parts.append(read(scope, title, keys, seen, first + number))
        assert scope.due(title, keys, seen, first + number) == []
    assert Counter(key for part in parts for key in part) == Counter(keys)
    assert {len(part) for part in parts} <= {count // nights, -(-count // nights)}


def test_titles_with_one_blob_are_spread_over_the_nights() -> None:
    titles = [f"title-{number}" for number in range(1000)]
    for night in range(10):
        scope = Scope(NIGHT, Fraction("0.1"))
        assert 60 < sum(len(scope.due(title, ["blob"], {}, night)) for title in titles) < 140


def test_those_that_were_not_read_for_the_longest_time_come_first() -> None:
    seen = {f"blob {number}": Seen("2026-11-01", 10.0 - number) for number in range(10)}
    seen["blob 4"] = Seen("", -1.0)
    due = Scope(NIGHT, Fraction("0.5")).due("title", [*seen, "new"], seen)
    assert due[:2] == ["blob 4", "new"]
    assert due[2:] == ["blob 9", "blob 8", "blob 7", "blob 6", "blob 5"][: len(due) - 2]


@pytest.mark.parametrize(
    ("nights_ago", "max_age_days", "is_due"),
    [(0, 0, False), (1, 0, True), (1, 1, True), (6, 7, False), (7, 7, True), (-1, 0, False), (-1, 7, False)],
)
def test_age_is_counted_in_nights(nights_ago: int, max_age_days: int, is_due: bool) -> None:
    seen = {"blob": Seen((NIGHT - timedelta(days=nights_ago)).isoformat(), 5.0)}
    assert Scope(NIGHT, max_age_days=max_age_days).due("title", ["blob"], seen) == ["blob"] * is_due
    assert Scope(NIGHT, max_age_days=max_age_days).due("title", ["other"], seen) == ["other"]


def test_a_journal_knows_what_was_read_also_in_another_run(tmp_path: Path) -> None:
    journal = AuditJournal(tmp_path / "folder" / "journal")
    journal.store("here", NIGHT, [("a", 5.0), ("b", -1.0)])
    journal.store("there", NIGHT, [("a", 7.0)])
    journal.store("here", NIGHT + timedelta(days=1), [("a", 6.0)])
    journal.note("here", NIGHT, "options", {"blobs": 3})
    again = AuditJournal(tmp_path / "folder" / "journal")
    assert again.load("here") == {"a": Seen("2026-11-24", 6.0), "b": Seen("", -1.0)}
    assert again.load("nowhere") == {}
    assert again.result("here", NIGHT, "options") == {"blobs": 3}
    for place, night, options in (("there", 0, "options"), ("here", 1, "options"), ("here", 0, "other")):
        assert again.result(place, NIGHT + timedelta(days=night), options) is None


def test_a_journal_forgets_the_titles_of_nights_that_are_over_and_everything_after_years(tmp_path: Path) -> None:
    journal = AuditJournal(tmp_path / "journal")
    nights = [NIGHT - timedelta(days=days) for days in (0, 1, 2, 31, 1101)]
    for night in nights:
        journal.store("here", night, [(f"blob of {night}", 5.0)])
        journal.note("here\none", night, "options", {})
    journal.store("here", nights[-1], [("damaged", -1.0)])
    journal.note("here", nights[2], "options", {})
    journal.note("hereafter\none", nights[2], "options", {})
    journal.forget("here", NIGHT)
    known = [journal.result("here\none", night, "options") is not None for night in nights]
    assert known == [True, True, False, False, False]
    assert journal.result("here", nights[2], "options") is not None
    assert journal.result("hereafter\none", nights[2], "options") is not None
    assert set(journal.load("here")) == {"damaged", *(f"blob of {night}" for night in nights[:-1])}
    journal.forget("here", date.min)


def test_the_audits_of_a_place_are_counted_one_for_each_night(tmp_path: Path) -> None:
    journal = AuditJournal(tmp_path / "journal")
    nights = [NIGHT + timedelta(days=days) for days in (0, 0, 7, 7, 14)]
    assert [journal.turn("here", night) for night in nights] == [0, 0, 1, 1, 2]
    assert AuditJournal(tmp_path / "journal").turn("here", nights[-1]) == 2
    assert journal.turn("there", nights[-1]) == 0


@pytest.mark.parametrize("content", [b"no database", b"SQLite format 3\0" + b"nonsense" * 500])
def test_a_damaged_journal_is_thrown_away(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "journal"
    file.write_bytes(content)
    journal = AuditJournal(file)
    assert journal.load("here") == {}
    journal.store("here", NIGHT, [("a", 5.0)])
    assert AuditJournal(file).load("here") == {"a": Seen("2026-11-23", 5.0)}


def test_nonsense_in_a_journal_is_not_believed(tmp_path: Path) -> None:
    import contextlib
    import sqlite3

    journal = AuditJournal(tmp_path / "journal")
    journal.note("here", NIGHT, "options", {"blobs": 3})
    with contextlib.closing(sqlite3.connect(tmp_path / "journal")) as connection, connection:
        connection.execute("UPDATE finished SET counts = '[1'")
    assert journal.result("here", NIGHT, "options") is None


@pytest.mark.parametrize("file", [None, "folder"])
def test_a_journal_that_cannot_be_kept_serves_one_run(tmp_path: Path, file: str | None) -> None:
    (tmp_path / "folder").mkdir()
    journal = AuditJournal(tmp_path / file if file else None)
    journal.store("here", NIGHT, [("a", 5.0)])
    journal.note("here", NIGHT, "options", {})
    assert journal.load("here") == {"a": Seen("2026-11-23", 5.0)}
    assert journal.result("here", NIGHT, "options") == {}
    assert AuditJournal.at(tmp_path / "x") is AuditJournal.at(tmp_path / "x")
