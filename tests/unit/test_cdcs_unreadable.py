"""What a CDCS site cannot read is told from what it can; its index is a few lines in memory."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import pytest

from pipeline.archives.cdcs.client import Data
from pipeline.archives.cdcs.http import NotAllowedError, NotFoundError, SiteRefusedError
from pipeline.archives.cdcs.unreadable import read_all, unreadable_ids, value_of

TITLES = ["a-v1.0.0", "a-v1.0.10", "a-v1.0.1", "ab-v1.0.0", "Größe-v1.0.0", "Grund-v1.0.0", "b-v1.0.0"]


def index(titles: Collection[str], broken: Collection[str]) -> Callable[[Mapping[str, Any]], Iterator[Data]]:
    """Return what answers queries as a site does: it yields what it finds, and fails at what it cannot read."""

    def ask(query: Mapping[str, Any]) -> Iterator[Data]:
        wanted = query.get("title", {"$regex": ""})
        for number, title in enumerate(titles):
            if title == wanted if isinstance(wanted, str) else re.search(wanted["$regex"], title):
                if title in broken:
                    raise SiteRefusedError("The site cannot read this.", 500)
                yield Data(number, title, 1, 1, "", "{}")

    return ask


@pytest.mark.parametrize(
    "broken",
    [[], ["a-v1.0.10"], ["a-v1.0.1"], ["ab-v1.0.0", "b-v1.0.0"], ["Grund-v1.0.0"], ["Größe-v1.0.0"], TITLES[:4]],
    ids=repr,
)
def test_what_can_be_read_is_read_once_and_what_cannot_is_told(broken: list[str]) -> None:
    lost: list[str] = []
    found = [data.title for data in read_all(index(TITLES, broken), "title", lost.append)]
    assert sorted(lost) == [title.replace("öße-v1.0.0", "…") for title in sorted(broken)]
    assert sorted(found) == sorted(set(TITLES).difference(broken))


def test_the_beginning_of_a_digest_tells_it_from_all_others() -> None:
    titles = ["0123456789abcdef", "0123456789abffff", "ff23456789abcdef"]
    lost: list[str] = []
    found = [data.title for data in read_all(index(titles, titles[2:]), "title", lost.append, enough=12)]
    assert (found, lost) == (titles[:2], ["ff23456789ab"])


def refusing(query: Mapping[str, Any]) -> Iterator[Data]:
    """Find all of it unreadable, and refuse to look closer."""
    raise SiteRefusedError("This site knows no $regex.", 400 if "title" in query else 500)


def test_a_query_that_is_refused_is_not_taken_for_a_record_that_cannot_be_read() -> None:
    for ask in (refusing, lambda query: refusing({"title": "any"})):
        with pytest.raises(SiteRefusedError, match="knows no"):
            list(read_all(ask, "title", lambda lost: None))
    with pytest.raises(SiteRefusedError, match="knows no"):
        value_of(refusing, {}, "title")


def test_a_site_that_fails_at_every_search_is_not_asked_for_every_text_there_is() -> None:
    asked = []

    def fail(query: Mapping[str, Any]) -> Iterator[Data]:
        asked.append(query)
        raise SiteRefusedError("The site is broken.", 500)

    with pytest.raises(SiteRefusedError, match="is broken"):
        list(read_all(fail, "title", lambda lost: None))
    assert len(asked) < 12


@pytest.mark.parametrize(("title", "told"), [("a-v1.0.0", "a-v1.0.0"), ("ü", None), ("x" * 400, None)])
def test_what_the_index_has_of_a_record_that_cannot_be_read_is_told(title: str, told: str | None) -> None:
    assert value_of(index([title], [title]), {}, "title") == told


class Curator:
    """Asks for records by their ids."""

    def __init__(self, failures: dict[int, SiteRefusedError]) -> None:
        self._failures = failures

    def get_data(self, ident: int) -> None:
        raise self._failures.get(ident, NotFoundError("There is no such record.", 404))


def test_the_ids_of_what_cannot_be_read_are_those_at_which_the_site_fails() -> None:
    failures = {
        2: SiteRefusedError("The site cannot read this.", 500),
        3: SiteRefusedError("This is known already.", 500),
        4: NotAllowedError("This is not for you.", 403),
        103: SiteRefusedError("The site cannot read this.", 503),
        104: SiteRefusedError("This is too far away.", 500),
    }
    assert unreadable_ids(Curator(failures), [3, "5f0c"]) == [103, 2]  # type: ignore[arg-type]  # all of one that is asked here
    failures[2] = SiteRefusedError("There are too many requests.", 429)
    with pytest.raises(SiteRefusedError, match="too many"):
        unreadable_ids(Curator(failures), [3])  # type: ignore[arg-type]  # all of one that is asked here
