"""Semantic versions and expressions over them (Semantic Versioning 2.0.0, semver.org)."""

import operator
import re
from collections.abc import Callable, Iterable, Sequence

from semantic_version import Version

from .errors import InvalidVersionError, printable

_COMPARE: dict[str, Callable[[Version, Version], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


def parse_version(text: object, what: str = "version") -> Version:
    """Return the version that `text` spells.

    Parameters
    ----------
    text : object
        From a user, a file or a server.
    what : str, optional
        The field or option that it comes from, for the message.

    Raises
    ------
    InvalidVersionError
        When it is not ``MAJOR.MINOR.PATCH`` with an optional pre-release and build part.

    Examples
    --------
    >>> parse_version("1.0.0-rc.1") < parse_version("1.0.0")
    True
    """
    try:
        # The library's own pattern lets a line break and digits of other scripts pass.
        if not isinstance(text, str) or not text.isascii() or not text.isprintable():
            raise ValueError
        return Version(text)
    except ValueError:
        raise InvalidVersionError(
            f"The {what} '{printable(text)}' is not a semantic version; write MAJOR.MINOR.PATCH, for example 0.1.0."
        ) from None


def is_version(text: str) -> bool:
    """Tell whether `text` is a semantic version.

    Examples
    --------
    >>> is_version("0.1.0"), is_version("0.1")
    (True, False)
    """
    try:
        parse_version(text)
    except InvalidVersionError:
        return False
    return True


def precedence(version: str) -> Version:
    """Return a key that sorts versions by precedence: build metadata does not count (clause 10)."""
    return parse_version(version).truncate("prerelease")


def parse_expressions(expressions: str | Sequence[str] | None) -> list[str]:
    """Return expressions as a list, from a list or a comma-separated text; None and an empty text mean all versions.

    Raises
    ------
    InvalidVersionError
        When one of them is not an operator (``== != >= <= > <``, or none for ``==``) and a semantic version.

    Examples
    --------
    >>> parse_expressions(">=0.1.0, <0.2.0")
    ['>=0.1.0', '<0.2.0']
    """
    if expressions is None or isinstance(expressions, str):
        expressions = (expressions or "").split(",")
    if not isinstance(expressions, (list, tuple)) or not all(isinstance(part, str) for part in expressions):
        raise InvalidVersionError(f"Version expressions must be a list of texts, not '{printable(expressions)}'.")
    parts = [part.strip() for part in expressions if part.strip()]
    for part in parts:
        _split(part)
    return parts


def matches(version: str, expressions: Iterable[str]) -> bool:
    """Tell whether `version` satisfies every expression, by the precedence of clause 11.

    A pre-release counts by its precedence alone, so ``<0.2.0`` admits ``0.2.0-rc.1``.

    Examples
    --------
    >>> matches("0.1.5", [">=0.1.0", "<0.2.0"])
    True
    >>> matches("1.0.0+build.7", ["==1.0.0"])
    True
    """
    key = precedence(version)
    return all(compare(key, bound) for compare, bound in map(_split, expressions))


def _split(expression: str) -> tuple[Callable[[Version, Version], bool], Version]:
    sign, text = re.fullmatch(r"\s*([=!<>]*)(.*)", expression, re.DOTALL).groups()  # type: ignore[union-attr]
    if (sign or "==") not in _COMPARE:
        raise InvalidVersionError(
            f"The version expression '{printable(expression)}' has no known operator; use one of {', '.join(_COMPARE)}."
        )
    try:
        return _COMPARE[sign or "=="], precedence(text.strip())
    except InvalidVersionError:
        raise InvalidVersionError(
            f"The version expression '{printable(expression)}' is not semantic; "
            "compare with MAJOR.MINOR.PATCH, for example >=0.1.0."
        ) from None
