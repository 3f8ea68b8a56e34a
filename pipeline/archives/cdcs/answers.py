"""What a site answers is believed when it looks like what CDCS would answer to that question."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from ...errors import ArchiveError
from .http import Ident


def has(told: Mapping[str, Any]) -> Callable[[Any], bool]:
    """Return what tells whether an object of a site may be the one that has these values.

    Examples
    --------
    >>> fits = has({"id": 7, "filename": "a.csv"})
    >>> fits({"id": "7"}), fits({"id": 8, "filename": "a.csv"})
    (True, False)
    """
    return lambda value: (
        not isinstance(value, dict) or all(str(value.get(key, known)) == str(known) for key, known in told.items())
    )


def is_object(value: Any) -> bool:
    """Tell whether an answer may be that to a request which CDCS answers by ``{}``."""
    return isinstance(value, dict)


def mapping(value: Any, host: str) -> dict[str, Any]:
    """Return a JSON object; raise ArchiveError for anything else."""
    if isinstance(value, dict):
        return value
    raise ArchiveError(f"{host} answers with something else than CDCS would; check the address.")


def sequence(value: Any, host: str) -> list[dict[str, Any]]:
    """Return a list of JSON objects; raise ArchiveError for anything else."""
    if isinstance(value, list):
        return [mapping(item, host) for item in value]
    raise ArchiveError(f"{host} answers with something else than CDCS would; check the address.")


def ident(value: Any, host: str) -> Ident:
    """Return an id as it is sent back: a number on SQL databases, letters and digits on older sites."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9]{1,64}", value):
        return int(value) if value.isdecimal() else value
    raise ArchiveError(f"{host} gives an id that CDCS would not; check the address, or tell the site.")
