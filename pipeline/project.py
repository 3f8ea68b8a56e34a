"""A project directory: which of its files are published, and the mapping of them that goes into the record.

Ignore rules follow gitignore's matching (gitignore(5)): ``.gitignore`` in any folder and the release's ``ignores``
leave files out, ``.rmeinclude`` in any folder and the release's ``includes`` bring them back. An include wins over
every ignore.
"""

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .checksums import Stamp, hash_file
from .errors import InvalidNameError, ProjectError, SourceChangedError, explain, printable
from .ignores import Rules
from .names import check_component
from .release import ATTRS, BYTES, FILE, FILE_TYPE, FOLDER, HDF5_FILE, ITEM, PATH, SHA1

# Never published, whatever the rules say: version control, the state of this and the earlier tool, parts.
_NEVER = frozenset((".git", ".rme", ".partial"))
_ARCHIVE_MARKER = ".rmearchive"
_HDF5_SUFFIXES = (".h5", ".hdf5")
_MOST_PROBLEMS = 10
_LARGEST_RULES = 2**20
# Links to folders that hold links to folders multiply what is found.
_MOST_FOLDER_LINKS = 1000


@dataclass
class Project:
    """What was found in a project directory.

    Attributes
    ----------
    directory : Path
        The absolute path of the project.
    files : dict
        Relative posix path to the stamp of the file, sorted.
    folders : list of str
        Relative posix paths of the folders, sorted.
    """

    directory: Path
    files: dict[str, Stamp] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)

    def mapping(self, digests: dict[str, str]) -> dict[str, Any]:
        """Return the nested mapping for a record.

        Parameters
        ----------
        digests : dict
            The SHA-1 of each file by path. Files that are not in it are left out.
        """
        nodes: dict[str, dict[str, Any]] = {"": {}}
        for path in self.folders:
            nodes[path] = {PATH: path, ATTRS: {}, ITEM: FOLDER}
        for path, stamp in self.files.items():
            if path in digests:
                item = HDF5_FILE if path.endswith(_HDF5_SUFFIXES) else FILE
                nodes[path] = {
                    PATH: path,
                    ATTRS: {},
                    ITEM: item,
                    FILE_TYPE: "misc",
                    BYTES: stamp.size,
                    SHA1: digests[path],
                }
        for path in sorted(nodes.keys() - {""}):
            folder, _, name = path.rpartition("/")
            nodes[folder][name] = nodes[path]
        return nodes[""]


def scan_project(
    directory: str | os.PathLike[str], ignores: Sequence[str] = (), includes: Sequence[str] = ()
) -> Project:
    """Find the files and folders of a project that belong into a release.

    Symbolic links are followed when they stay inside the project. Nested archives are left out.

    Parameters
    ----------
    directory : str or PathLike
        The project directory.
    ignores, includes : sequence of str
        Globs with gitignore's matching, relative to the project directory.

    Raises
    ------
    ProjectError
        When there is no such directory, or it holds something that cannot be published; every such thing is named.
    """
    root = Path(os.path.abspath(directory))
    if not root.is_dir():
        raise ProjectError(f"{printable(root)} is not a folder; give the project with --project-directory.")
    if (root / _ARCHIVE_MARKER).exists():
        raise ProjectError(f"{printable(root)} is an archive, not a project; correct --project-directory.")
    scanner = _Scanner(root, ignores, includes)
    try:
        scanner.scan("", Rules(), ignored=False, ancestors=(os.path.realpath(root),))
    except RecursionError:
        raise ProjectError(f"{printable(root)} has folders nested too deeply to be published.") from None
    if scanner.problems:
        shown = "\n".join(scanner.problems[:_MOST_PROBLEMS])
        more = f"\nand {len(scanner.problems) - _MOST_PROBLEMS} more." if len(scanner.problems) > _MOST_PROBLEMS else ""
        raise ProjectError(shown + more)
    scanner.found.folders.sort()
    scanner.found.files = dict(sorted(scanner.found.files.items()))
    return scanner.found


class _Scanner:
    def __init__(self, root: Path, ignores: Sequence[str], includes: Sequence[str]) -> None:
        self.found = Project(root)
        self.problems: list[str] = []
        self._real_root = os.path.realpath(root)
        self._folder_links = 0
        self._release = Rules().deepened("", ignores or None, includes or None)

    def scan(self, folder: str, rules: Rules, ignored: bool, ancestors: tuple[str, ...]) -> bool:
        """Collect the content of one folder, named with a ``/`` at its end; return whether anything was found."""
        try:
            with os.scandir(self.found.directory / folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
            names = {entry.name for entry in entries}
            if folder and _ARCHIVE_MARKER in names:
                return False
            rules = rules.deepened(
                folder,
                self._lines(folder, ".gitignore") if ".gitignore" in names else None,
                self._lines(folder, ".rmeinclude") if ".rmeinclude" in names else None,
            )
        except ProjectError as error:
            self.problems.append(str(error))
            return False
        except OSError as error:
            where = os.path.relpath(error.filename, self.found.directory) if error.filename else folder
            if not ignored:
                self.problems.append(f"{explain(error, where)}.")
            return False
        found = [self._visit(folder + entry.name, entry, rules, ignored, ancestors) for entry in entries]
        return any(found)

    def _lines(self, folder: str, name: str) -> list[str]:
        path = self.found.directory / folder / name
        if not path.is_file():
            return []
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            text = file.read(_LARGEST_RULES + 1)
        if len(text) > _LARGEST_RULES:
            raise ProjectError(f"{printable(folder + name)} is larger than {_LARGEST_RULES} characters; shorten it.")
        return text.split("\n")

    def _visit(
        self, path: str, entry: os.DirEntry[str], rules: Rules, ignored: bool, ancestors: tuple[str, ...]
    ) -> bool:
        if entry.name in _NEVER:
            return False
        try:
            is_link = entry.is_symlink()
            is_folder = os.path.isdir(entry.path) if is_link else entry.is_dir()
            shown = f"{path}/" if is_folder and not is_link else path
            included = rules.include(shown) or self._release.include(shown)
            ignored = not included and (ignored or rules.ignore(shown) or self._release.ignore(shown))
            if ignored and (is_link or not is_folder):
                return False
            check_component(entry.name, path.rpartition("/")[0] or "the project directory")
            real = self._follow(path, entry, ancestors) if is_link else os.path.join(ancestors[-1], entry.name)
            if is_folder:
                self._folder_links += is_link
                return self._add_folder(path, rules, ignored, (*ancestors, real))
            status = entry.stat()
        except OSError as error:
            self.problems.append(f"{explain(error, path)}.")
        except (InvalidNameError, ProjectError) as error:
            self.problems.append(str(error))
        else:
            if stat.S_ISREG(status.st_mode):
                self.found.files[path] = Stamp.of(status)
                return True
            self.problems.append(f"{printable(path)} is not a regular file; remove or ignore it.")
        return False

    def _add_folder(self, path: str, rules: Rules, ignored: bool, ancestors: tuple[str, ...]) -> bool:
        position = len(self.found.folders)
        if not self.scan(f"{path}/", rules, ignored, ancestors) and (ignored or self._is_archive(path)):
            del self.found.folders[position:]
            return False
        self.found.folders.append(path)
        return True

    def _is_archive(self, path: str) -> bool:
        return (self.found.directory / path / _ARCHIVE_MARKER).exists()

    def _follow(self, path: str, entry: os.DirEntry[str], ancestors: tuple[str, ...]) -> str:
        """Return the real path of a link's target if it may be published."""
        target = os.path.realpath(entry.path)
        relative = os.path.relpath(target, self._real_root)
        if not os.path.lexists(target):
            raise ProjectError(f"{printable(path)} is a broken symbolic link; remove or ignore it.")
        if relative.split(os.sep)[0] == os.pardir or _NEVER.intersection(relative.split(os.sep)):
            raise ProjectError(f"{printable(path)} is a symbolic link that leaves the project; copy or ignore it.")
        if self._folder_links >= _MOST_FOLDER_LINKS:
            raise ProjectError(
                f"{printable(path)} is one of more than {_MOST_FOLDER_LINKS} symbolic links to folders; ignore some."
            )
        if target in ancestors:
            raise ProjectError(f"{printable(path)} is a symbolic link to a folder that it is in; remove or ignore it.")
        return target


def changed_files(project: Project, digests: Mapping[str, str]) -> dict[str, Exception]:
    """Return the files that are not any more what they were, with the error for each.

    Parameters
    ----------
    project : Project
        As it was scanned.
    digests : mapping
        Path to the SHA-1 that the file had; empty files are left out.
    """
    changed: dict[str, Exception] = {}
    for path, stamp in project.files.items():
        file = project.directory / path
        try:
            now = Stamp.of(os.stat(file))
            if now != stamp and (now.size != stamp.size or (now.size and hash_file(file)[0] != digests.get(path))):
                changed[path] = source_changed()
        except FileNotFoundError:
            changed[path] = source_vanished()
        except (OSError, SourceChangedError) as error:
            changed[path] = error
    return changed


def source_changed() -> SourceChangedError:
    """Return the error for a source file whose bytes are not those that were frozen at the start of the run."""
    return SourceChangedError(
        "it changed while it was being published; run the same command again to publish it as it is now"
    )


def source_vanished() -> SourceChangedError:
    """Return the error for a source file that was there at the start of the run."""
    return SourceChangedError(
        "it vanished while it was being published; put it back, or run the same command again without it"
    )
