"""What is found when the records of a release are asked for: sorted by version, or one error for all archives."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ReleaseRecordNotFoundError, printable
from ..versions import parse_expressions, precedence

if TYPE_CHECKING:
    from .interface import ArchiveInterface, Record


def found_and_sorted(method: Callable[..., "dict[str, Record]"]) -> Callable[..., "dict[str, Record]"]:
    """Make an implementation of get_release_records raise when it finds nothing, and sort by version."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def wrapped(*args: Any, **kwargs: Any) -> "dict[str, Record]":
        asked = signature.bind(*args, **kwargs)
        asked.apply_defaults()
        archive, title, expressions, workspace = list(asked.arguments.values())[:4]
        wanted = parse_expressions(expressions)
        records = method(*args, **kwargs)
        if not records:
            raise not_found(archive, title, wanted, workspace)
        return dict(sorted(records.items(), key=lambda item: (precedence(item[1]["version"]), item[0])))

    return wrapped


def not_found(
    archive: "ArchiveInterface", title: str, expressions: Sequence[str] | None, workspace: str
) -> ReleaseRecordNotFoundError:
    """Return the error for a release that is not in an archive."""
    wanted = f"with version {','.join(expressions)}" if expressions else "of any version"
    return ReleaseRecordNotFoundError(
        f"There is no release {printable(title)} {printable(wanted)} in {printable(archive.host)}, "
        f"workspace '{printable(workspace)}'."
    )
