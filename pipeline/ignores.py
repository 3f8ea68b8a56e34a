"""Which paths of a project the ignore rules leave out, and which an include brings back.

A rule file has the patterns of gitignore(5), and the last pattern that fits decides; a deeper file decides before one
above. That a file in an ignored folder is ignored too is a matter of the walk, as in git. An include of a folder brings
back all that is in it.
"""

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

from .errors import ProjectError, printable

# The name that pathspec gives to the slash behind what a pattern names; what follows it is below that.
_SLASH = "ps_d"


class RuleFile:
    """The patterns of one rule file.

    Parameters
    ----------
    folder : str
        The folder that it stands in, relative to the project, empty or with a ``/`` at its end.
    lines : iterable of str
        Its lines.

    Raises
    ------
    ProjectError
        When a line is no pattern.
    """

    def __init__(self, folder: str, lines: Iterable[str]) -> None:
        self._folder = folder
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of POSIX classes, which regular expressions lack
                self._patterns = [GitIgnoreSpecPattern(line) for line in lines]
        except ValueError as error:
            where = f"the rules of {printable(folder)}" if folder else "the ignores or includes of the project"
            raise ProjectError(f"{printable(error)} in {where}; correct or remove it.") from None

    def verdict(self, path: str, below: bool) -> bool | None:
        """Return whether the patterns name a path, False if negated, None if they are silent.

        Parameters
        ----------
        path : str
            Relative to the project; a folder ends with ``/``.
        below : bool
            Whether a pattern for a folder also names what is below it.
        """
        inner = path[len(self._folder) :]
        for pattern in reversed(self._patterns):
            regex = pattern.regex
            if regex is not None and (regex.search(inner) if below else _names(regex, inner)):
                return bool(pattern.include)
        return None


def _names(regex: re.Pattern[str], path: str) -> bool:
    """Tell whether a pattern names this very path, and not only a folder that it is in."""
    if _SLASH not in regex.groupindex:
        # A pattern such as a/** names what is in the folder, not the folder.
        return regex.search(path.removesuffix("/")) is not None
    return any(match.end(_SLASH) in (-1, len(path)) for match in regex.finditer(path))


@dataclass(frozen=True)
class Rules:
    """The rule files from the project directory down to one folder, the deepest last."""

    ignores: tuple[RuleFile, ...] = ()
    includes: tuple[RuleFile, ...] = ()

    def deepened(self, folder: str, ignores: Iterable[str] | None, includes: Iterable[str] | None) -> "Rules":
        """Return the rules for a folder with the lines of its own rule files, None where it has no such file."""
        return Rules(
            self.ignores if ignores is None else (*self.ignores, RuleFile(folder, ignores)),
            self.includes if includes is None else (*self.includes, RuleFile(folder, includes)),
        )

    def ignore(self, path: str) -> bool:
        """Tell whether the ignore files leave `path` out."""
        return _decide(self.ignores, path, below=False)

    def include(self, path: str) -> bool:
        """Tell whether the include files bring `path` back."""
        return _decide(self.includes, path, below=True)


def _decide(files: tuple[RuleFile, ...], path: str, below: bool) -> bool:
    verdicts = (file.verdict(path, below) for file in reversed(files))
    return next((verdict for verdict in verdicts if verdict is not None), False)
