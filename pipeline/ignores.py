"""Which paths of a project the ignore rules leave out, and which an include brings back.

A rule file has the patterns of gitignore(5), and the last pattern that fits decides; a deeper file decides before one
above. That a file in an ignored folder is ignored too is a matter of the walk, as in git. An include of a folder brings
back all that is in it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from .patterns import Patterns


class RuleFile:
    """The patterns of one rule file.

    Parameters
    ----------
    folder : str
        The folder that it stands in, relative to the project, empty or with a ``/`` at its end.
    lines : iterable of str
        Its lines.
    """

    def __init__(self, folder: str, lines: Iterable[str]) -> None:
        self._folder = folder
        self._patterns = Patterns(lines)

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
        if below:
            ends = (place for place, char in enumerate(inner[:-1]) if char == "/")
            if any(self._patterns.verdict(inner[:end], True) for end in ends):
                return True
        return self._patterns.verdict(inner.removesuffix("/"), inner.endswith("/"))


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
