"""What a record of CDCS may hold, and the seal by which it proves that it still says what was published.

The seal is one more key, :data:`SEAL`, with the SHA-1 of all the others. A site adds the PID of the record when it
stores it, so that the seal leaves that out. Records of the earlier tool have none.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ...checksums import is_digest
from ...documents import check_depth
from ...errors import RecordError, printable
from ...release import RECORD_PID

SEAL = "/sha1/"


def encode_content(content: Mapping[str, Any]) -> str:
    r"""Return the JSON text of a record, or raise RecordError for what some CDCS site would refuse.

    Examples
    --------
    >>> encode_content({"title": "Größe"})
    '{"title": "Größe"}'
    >>> encode_content({"attrs": {"$ref": 1}})
    Traceback (most recent call last):
    ...
    pipeline.errors.RecordError: The record cannot be stored in CDCS: the key '$ref' starts with '$'.
    """
    try:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False)
        text.encode("utf-8")
        value = json.loads(text, object_pairs_hook=_without_twins)
        check_depth(value)
    except UnicodeEncodeError:
        raise RecordError("The record cannot be stored in CDCS: a text in it is not valid Unicode.") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise RecordError(f"The record cannot be stored in CDCS: {printable(error)}.") from None
    _refuse_odd_texts(value)
    return text


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        (key, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise RecordError(f"The record cannot be stored in CDCS: it has the key '{printable(key)}' twice in one place.")
    return mapping


def _refuse_odd_texts(value: Any) -> None:
    if isinstance(value, str) and "\0" in value:
        raise RecordError(f"The record cannot be stored in CDCS: the text '{printable(value[:100])}' has a NUL.")
    for key, inner in value.items() if isinstance(value, dict) else ():
        if key.startswith("$"):
            raise RecordError(f"The record cannot be stored in CDCS: the key '{printable(key)}' starts with '$'.")
        _refuse_odd_texts(key)
        _refuse_odd_texts(inner)
    for inner in value if isinstance(value, list) else ():
        _refuse_odd_texts(inner)


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record as it is published: as JSON gives it back, without a PID, and with its seal.

    Raises
    ------
    RecordError
        When some CDCS site would refuse it.
    """
    plain = without(json.loads(encode_content(content)), RECORD_PID, SEAL)
    return {**plain, SEAL: seal_of(plain)}


def seal_of(content: Mapping[str, Any]) -> str:
    """Return the SHA-1 of what a record says, 40 hex digits: of its JSON with sorted keys, without PID and seal.

    Examples
    --------
    >>> seal_of({"version": "1.0.0", "title": "a"}) == seal_of({"title": "a", "version": "1.0.0", "/PID/": "x"})
    True
    """
    text = json.dumps(without(content, RECORD_PID, SEAL), sort_keys=True, separators=(",", ":"))
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def is_sealed(content: Mapping[str, Any]) -> bool:
    """Tell whether a record proves itself; one that has no seal does not.

    Raises
    ------
    RecordError
        When its seal is that of something else.
    """
    try:
        if SEAL in content:
            is_broken = content[SEAL] != seal_of(content)
        else:  # the damage may be in the name of the seal
            others = [key for key, value in content.items() if is_digest(value)]
            is_broken = any(content[key] == seal_of(without(content, key)) for key in others)
    except RecursionError:
        raise RecordError("it is nested too deeply") from None
    if is_broken:
        raise RecordError("it does not say what was published")
    return SEAL in content


def without(content: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """Return a record without some of its keys."""
    return {key: value for key, value in content.items() if key not in keys}
