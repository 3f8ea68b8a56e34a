"""Read and write JSON and YAML documents that nobody vouches for.

Records are written as JSON that YAML reads as the same. What is read is JSON, or YAML by the safe loader, after a
look that keeps a hostile document from taking the memory, the time or the stack of the process.
"""

import json
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

import yaml

from .checksums import open_regular
from .errors import RecordError, printable

# No real document comes near these; what is larger is an attack or an accident.
MAX_DOCUMENT_BYTES = 2**30
_MAX_DEPTH = 200
# Folders of a release may be nested more deeply than any real YAML is.
_MAX_JSON_DEPTH = 400
# How many nodes any document may have; a larger one has two characters a node at least, unless aliases multiply it.
_FREE_NODES = 10_000
# YAML takes a hundred times the time and memory of JSON. This is a release of the earlier tool with 200,000 files.
_MOST_YAML_NODES = 3_000_000
_LONGEST_NUMBER = 1000
# A YAML reader looks for the colon behind a key within 1024 characters (YAML 1.1, section 7.4.2).
_LONGEST_KEY = 1000

_YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Allowed in JSON as they are, but not in YAML, or not kept by it (YAML 1.1, section 5.1; line breaks, section 5.4).
_NOT_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
# A number that Python writes without a point is text for YAML: 1e-07. Strings are matched to be skipped.
_STRING_OR_POINTLESS = re.compile(r'"(?:[^"\\]|\\.)*"|(?<![\d.])(-?\d+)(e[+-]\d+)')
_POINTLESS = re.compile(r"\de[+-]\d")


def dump_mapping(content: Mapping[str, Any]) -> bytes:
    r"""Return a mapping as JSON that is also YAML, UTF-8, one top-level key a line.

    A top-level value with NaN or a date in it, which records of the earlier tool may have, has no JSON form and is
    written as YAML.

    Raises
    ------
    RecordError
        When a value has neither form, such as text that is not valid Unicode, or a key is too long for YAML.

    Examples
    --------
    >>> dump_mapping({"title": "Größe", "files": [1, 2e-7]}).decode()
    '{\n"title": "Größe",\n"files": [1, 2.0e-07]\n}\n'
    """
    _check_keys(content)
    try:
        pieces = [piece for key, value in content.items() for piece in (b",\n", _dump(key), b": ", _dump(value))]
        check_depth(content)  # here, where it is known not to contain itself
        return b"".join([b"{\n", *pieces[1:], b"\n}\n"])
    except (TypeError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = printable(str(error).splitlines()[0])
        raise RecordError(f"The record cannot be written as JSON: {reason}.") from None


class _YamlDumper(yaml.SafeDumper):
    """Writes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write what is there twice twice."""
        return True


def _dump(value: Any) -> bytes:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        style: dict[str, Any] = {"default_flow_style": True, "width": sys.maxsize, "sort_keys": False}
        written: str = yaml.dump(value, Dumper=_YamlDumper, **style)
        yaml.load(written, Loader=_YAML_LOADER)  # noqa: S506  it is the safe loader, which refuses odd Unicode
        return written.removesuffix("...\n").rstrip().encode()
    text = _NOT_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    if _POINTLESS.search(text):
        text = _STRING_OR_POINTLESS.sub(lambda match: f"{match[1]}.0{match[2]}" if match[2] else match[0], text)
    return text.encode()


def _check_keys(content: Mapping[str, Any]) -> None:
    pending: list[Any] = [content]
    visited: set[int] = set()
    while pending:
        value = pending.pop()
        if isinstance(value, dict) and id(value) not in visited:
            visited.add(id(value))
            for key in value:
                # An escaped character takes up to six.
                if isinstance(key, str) and len(key) * 6 > _LONGEST_KEY and len(json.dumps(key)) > _LONGEST_KEY:
                    raise RecordError(f"The name '{printable(key[:40])}...' is too long for a record; shorten it.")
            pending.extend(value.values())
        elif isinstance(value, list) and id(value) not in visited:
            visited.add(id(value))
            pending.extend(value)


def read_document(file: str | os.PathLike[str]) -> bytes:
    """Return the bytes of a document, which must be a regular file of a size that one can have.

    Raises
    ------
    OSError
        When it cannot be read.
    SourceChangedError
        When it is not a regular file.
    RecordError
        When it is larger than :data:`MAX_DOCUMENT_BYTES`.
    """
    with open(open_regular(file), "rb") as stream:
        _check_size(os.fstat(stream.fileno()).st_size, os.fspath(file))
        return stream.read()


def _check_size(nbytes: int, where: str) -> None:
    if nbytes > MAX_DOCUMENT_BYTES:
        raise RecordError(f"{printable(where)}: larger than {MAX_DOCUMENT_BYTES} bytes; this is not a record.")


def load_mapping(data: bytes, where: str) -> Any:
    """Read JSON, or YAML by its safe loader where it is not JSON.

    Parameters
    ----------
    data : bytes
        The document, UTF-8.
    where : str
        What it was read from, for messages.

    Raises
    ------
    RecordError
        When it is neither, or is larger, deeper or more entangled than any real document.
    """
    _check_size(len(data), where)
    try:
        text = data.decode("utf-8-sig")
        try:
            return load_json(text)
        except ValueError:
            _look_at_yaml(text)
            return yaml.load(text, Loader=_YAML_LOADER)  # noqa: S506  it is the safe loader
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
        reason = printable(str(error).splitlines()[0]) if str(error) else type(error).__name__
        raise RecordError(f"{printable(where)}: neither JSON nor YAML ({reason}).") from None


def load_json(data: str | bytes | bytearray) -> Any:
    """Read JSON that is not nested more deeply than what reads it can go down.

    Raises
    ------
    ValueError, RecursionError
        When it is not JSON, or nested too deeply.
    """
    value = json.loads(data)
    check_depth(value)
    return value


def check_depth(value: Any) -> None:
    """Raise RecursionError for a value that :func:`load_json` would not give, because it is nested too deeply."""
    level = [value]
    for _ in range(_MAX_JSON_DEPTH):
        inner = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, (dict, list)))
        level = [one for several in inner for one in several if isinstance(one, (dict, list))]
        if not level:
            return
    raise RecursionError("nested too deeply")


def _look_at_yaml(text: str) -> None:
    """Refuse what the loader would not survive: deep nesting, aliases that multiply, numbers that take for ever."""
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []
    count = 0
    for event in yaml.parse(text, Loader=_YAML_LOADER):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError("an alias of what contains it")
            count += sizes[event.anchor]
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, count))
            count += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor:
                sizes[anchor] = count - before
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            if event.anchor:
                sizes[event.anchor] = 1
            if len(event.value) > _LONGEST_NUMBER and _may_be_number(event):
                raise ValueError("a number of too many digits")
        if len(open_nodes) > _MAX_DEPTH or count > min(_FREE_NODES + len(text), _MOST_YAML_NODES):
            raise ValueError("nested too deeply, or too large when its aliases are followed")


def _may_be_number(event: yaml.ScalarEvent) -> bool:
    tag = event.tag or ""
    return bool(event.implicit[0] and re.match(r"[-+.\d]", event.value)) or tag.endswith((":int", ":float"))
