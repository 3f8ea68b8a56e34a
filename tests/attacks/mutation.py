"""Make hostile inputs out of good ones: of bytes, and of JSON by its structure."""

import copy
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

CONTROLS = "\x1b[2J\x1b]0;pwned\x07\u202e\u2066\r\n\x9b31m"
MARKUP = "<img src=x onerror=alert(1)>\"'&</script><script>alert(1)</script>"
_SHA1 = "a9993e364706816aba3e25717850c26c9cd0d89d"

TEXTS: list[str] = [
    *("", "/", "..", ".", "../../x", "/etc/passwd", "a\0b", "C:\\x", "\ud800", "CON", ".rme", ".partial", "x" * 300),
    *(CONTROLS, MARKUP, "9" * 5000, "=1", ">=1.0.0,<", "==1.0.0", "1.0.0", "0.1.0-rc.1+b", "sample", "A_b.C", _SHA1),
    *("~", "null", "NaN", "2026-02-30", "!!python/object/apply:os.system [x]", "&a [*a]", "https://[x", "http://a@b/"),
    *("http://127.0.0.1:1/x", "file:///etc/passwd", "http://" + "a" * 70 + ".example/", "http://\u0130.example/x"),
]
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 7, 2**31, 2**63, 2**64, 10**400, 0.5, 1e308, float("inf"), float("nan")),
    *([], {}, [[]], [{}], {"": None}, [None] * 50, "x" * 20_000),
]
TOKENS: list[bytes] = [
    *(text.encode("utf-8", "surrogatepass") for text in TEXTS),
    *(b"{", b"}", b"[", b"]", b"[[", b'"', b"'", b":", b",", b"\n", b"\t", b"- ", b": ", b"? ", b"| ", b"> ", b"<<: "),
    *(b"&a ", b"*a", b"!!int ", b"!!float ", b"!!set ", b"!!binary ", b"%YAML 9.9\n", b"---\n", b"...\n", b"#", b"\\u"),
    *(b"1:" * 40 + b"1", b"0x" + b"f" * 900, b"." * 50, b"1e999", b"-" * 60, b"_" * 60, b"\xef\xbb\xbf", b"\xff\xfe"),
    *(b"\0", b"\xff", b"*", b"**/", b"/**", b"?", b"[!", b"[a-", b"[[:", b":]]", b"!", b"*a" * 30, b"**/a/" * 20),
]


def nested(depth: int) -> Any:
    """Return lists and mappings in each other."""
    value: Any = "x"
    for level in range(depth):
        value = [value] if level % 2 else {"x": value}
    return value


def mutate(source: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Return a seed after some changes to its bytes."""
    data = bytearray(source.choice(seeds))
    for _ in range(source.randint(1, 6)):
        source.choice(_CHANGES)(source, data, seeds)
        del data[100_000:]
    return bytes(data)


def _span(source: random.Random, data: bytearray) -> slice:
    start = source.randrange(len(data) + 1)
    return slice(start, min(len(data), start + int(source.expovariate(0.1))))


def _insert(source: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    data[_span(source, data).start : 0] = b""
    start = _span(source, data).start
    data[start:start] = source.choice(TOKENS)


def _replace(source: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    data[_span(source, data)] = source.choice(TOKENS)


def _remove(source: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    del data[_span(source, data)]


def _flip(source: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    if data:
        data[source.randrange(len(data))] ^= 1 << source.randrange(8)


def _repeat(source: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    span = _span(source, data)
    data[span] = bytes(data[span]) * source.choice((2, 3, 10, 500))


def _nest(source: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    data[_span(source, data)] = source.choice((b"[", b'{"a":', b"(", b"- ")) * source.choice((50, 300, 5000))


def _splice(source: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    other = bytearray(source.choice(seeds))
    data[_span(source, data)] = other[_span(source, other)]


_CHANGES: list[Callable[[random.Random, bytearray, Sequence[bytes]], None]] = [
    *(_insert, _replace, _replace, _remove, _flip, _repeat, _nest, _splice)
]


def mutate_json(source: random.Random, value: Any) -> Any:
    """Return a JSON value after some changes to its nodes."""
    changed = [copy.deepcopy(value)]
    for _ in range(source.randint(1, 4)):
        container, key = source.choice(_places(changed))
        _change(source, container, key)
    return changed[0]


def _places(value: Any) -> list[tuple[Any, Any]]:
    found, pending = [], [value]
    while pending:
        container = pending.pop()
        for key in container if isinstance(container, dict) else range(len(container)):
            found.append((container, key))
            if isinstance(container[key], (dict, list)) and container[key]:
                pending.append(container[key])
    return found


def _change(source: random.Random, container: Any, key: Any) -> None:
    way = source.randrange(8)
    if way <= 2:
        container[key] = source.choice(TEXTS)
    elif way <= 4:
        container[key] = copy.deepcopy(source.choice(VALUES))
    elif way == 5:
        container[key] = nested(source.choice((3, 150, 350, 390, 600)))
    elif way == 6 and isinstance(container, dict):
        container[source.choice(TEXTS)] = container.pop(key)
    elif isinstance(container, dict):
        container[source.choice(TEXTS)] = copy.deepcopy(container[key])
    else:
        container.append(copy.deepcopy(container[key]))


def written(value: Any) -> bytes:
    """Return a value as JSON, as lenient writers do it."""
    return json.dumps(value, ensure_ascii=True).encode()
