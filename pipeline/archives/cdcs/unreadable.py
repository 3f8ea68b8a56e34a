"""Records that a CDCS site itself cannot read: a flipped bit may leave a file that is not UTF-8, or none at all.

The site then fails to answer every query that finds such a record, so that no other record on the same page can be
read either. But it searches an index of its own: queries that are divided further and further tell which of them fail.
"""

import contextlib
import json
import re
import string
import uuid
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from typing import Any

from ...errors import ArchiveError
from ...release import RECORD_PID
from .client import CDCSClient, Data
from .contents import SEAL
from .http import Ident, NotAllowedError, NotFoundError, SiteRefusedError

Ask = Callable[[Mapping[str, Any]], Iterator[Data]]

_CHARACTERS = string.ascii_letters + string.digits + "-_.+ :/%~"
_LONGEST = 300
_MOST_GAPS = 10_000


def read_all(ask: Ask, key: str, lose: Callable[[str], None], enough: int = _LONGEST) -> Iterator[Data]:
    """Yield all records that a site can read, each once.

    Parameters
    ----------
    ask : callable
        Yields the records that match a query.
    key : str
        A key of the records, whose values are texts.
    lose : callable
        Is told the value of the key in each record that the site cannot read, or how it begins.
    enough : int, optional
        So many characters of a value tell it from all others.

    Raises
    ------
    SiteRefusedError
        When the site fails at a search that finds nothing, too.
    """
    seen: set[Ident] = set()

    def readable(query: Mapping[str, Any]) -> Generator[Data, None, bool]:
        """Yield what was not read before, and return whether the site failed at something."""
        try:
            for data in ask(query):
                if data.id not in seen:
                    seen.add(data.id)
                    yield data
        except SiteRefusedError as error:
            if not is_broken(error):
                raise
            return True
        return False

    pending = [("", _CHARACTERS)] if (yield from readable({})) else []
    while pending:
        begin, characters = pending.pop()
        others = {key: {"$regex": f"^{re.escape(begin)}[^{re.escape(_CHARACTERS)}]"}}
        if characters is _CHARACTERS and (yield from readable(others)):
            lose(f"{begin}…")  # what goes on with any other one is not told apart
        if not (yield from readable({key: {"$regex": _pattern(begin, characters)}})):
            continue
        if len(characters) > 1:
            pending += _halves(begin, characters)
            continue
        # Or it would be asked for every text there is.
        next(ask({key: uuid.uuid4().hex}), None)
        begin += characters
        # It may be all, and others may go on after it, as 1.0.10 does after 1.0.1.
        if len(begin) == enough or (yield from readable({key: begin})):
            lose(begin)
        if len(begin) < enough:
            pending.append((begin, _CHARACTERS))


def value_of(ask: Ask, query: Mapping[str, Any], key: str) -> str | None:
    """Return what the index has under a key in the record that matches a query and cannot be read, or None."""
    begin = ""
    while len(begin) <= _LONGEST:
        if begin and _fails(ask, {**query, key: begin}):
            return begin
        characters = _CHARACTERS
        while len(characters) > 1:
            first, second = _halves(begin, characters)
            characters = (first if _fails(ask, {**query, key: {"$regex": _pattern(*first)}}) else second)[1]
        begin += characters
        if not _fails(ask, {**query, key: {"$regex": f"^{re.escape(begin)}"}}):
            break
    return None


def stub(ask: Ask, ident: Ident, title: str) -> Data:
    """Return what can be told of a record that the site cannot read: its seal and its PID, in what is no JSON."""
    left = {key: value_of(ask, {"title": title}, key) for key in (SEAL, RECORD_PID)}
    return Data(ident, title, None, None, "", json.dumps(left).rstrip("}"))


def unreadable_ids(curator: CDCSClient, known: Collection[Ident]) -> list[Ident]:
    """Return the ids of records that cannot be read, two at most, near those of records that can."""
    numbers = {ident for ident in known if isinstance(ident, int)}
    gaps = [ident for ident in range(max(numbers, default=0) + 100, 0, -1) if ident not in numbers]
    found: list[Ident] = []
    for ident in gaps[:_MOST_GAPS]:
        with contextlib.suppress(NotFoundError, NotAllowedError):
            try:
                curator.get_data(ident)
            except SiteRefusedError as error:
                if not is_broken(error):
                    raise
                found.append(ident)
                if len(found) > 1:
                    break
    return found


def _fails(ask: Ask, query: Mapping[str, Any]) -> bool:
    try:
        next(ask(query), None)
    except SiteRefusedError as error:
        if is_broken(error):
            return True
        raise
    return False


def is_broken(error: ArchiveError) -> bool:
    """Tell whether a site failed, as it does at what it cannot read."""
    return isinstance(error, SiteRefusedError) and error.status >= 500


def _halves(begin: str, characters: str) -> list[tuple[str, str]]:
    middle = len(characters) // 2
    return [(begin, characters[:middle]), (begin, characters[middle:])]


def _pattern(begin: str, characters: str) -> str:
    return f"^{re.escape(begin)}[{re.escape(characters)}]"
