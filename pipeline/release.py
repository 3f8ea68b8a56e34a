"""The release record: what a release is called, and every file of it with its digest.

A record is a mapping with the keys of :data:`KEYS`. ``project`` nests folder and file names; keys that start and end
with ``/`` are properties of the folder or file that they stand in. Records are written as JSON, which is valid YAML,
under the ``.yml`` name that the earlier tool (rmellipse 0.4.5) reads; what is not JSON is read as YAML.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from .checksums import is_digest, new_hash
from .documents import dump_mapping, load_mapping
from .errors import InvalidNameError, InvalidVersionError, RecordError, printable
from .names import check_component, check_folder_name
from .versions import parse_version

KEYS = (
    "title",
    "title_versionless",
    "version",
    "workflow_config_path",
    "workflow",
    "requirements",
    "project",
    "datasets",
)
PATH, ITEM, FILE_TYPE, ATTRS = "/path/", "/item/", "/file-type/", "/attrs/"
PID, BYTES, SHA1 = "/bpid/", "/bytes/", "/sha1/"
# What a CDCS site writes into a record.
RECORD_PID = "/PID/"
# What a mirror writes into a record: where it was published first.
ORIGIN = "origin"
FOLDER, FILE, HDF5_FILE = "Directory", "File", "H5_File"

_MAX_PATH_BYTES = 4096
_MAX_BYTES = 2**63 - 1
_EMPTY = tuple(new_hash(name).hexdigest() for name in ("sha1", "sha256"))


class Node(NamedTuple):
    """A folder or file of a project mapping."""

    path: str
    item: str
    properties: dict[str, Any]


class Blob(NamedTuple):
    """The bytes that one or more files of a release hold.

    Attributes
    ----------
    digest : str
        SHA-1 (40 hex digits), or SHA-256 (64) in a release of the earlier tool.
    size : int
        Bytes; never 0, because empty files live in the record only.
    paths : tuple of str
        The files that hold these bytes, relative to the project, posix, sorted.
    pid : str or None
        The name of the blob in its archive; None before it is there.
    """

    digest: str
    size: int
    paths: tuple[str, ...]
    pid: str | None = None


def walk_mapping(project: Mapping[str, Any], where: str) -> Iterator[Node]:
    """Yield the folders and files of a project mapping, each checked to have a safe path.

    Parameters
    ----------
    project : mapping
        ``record["project"]``.
    where : str
        What it was read from, for messages.

    Raises
    ------
    RecordError
        When a name could leave the release folder, a node is no mapping, or a ``/path/`` contradicts the nesting.
    """
    visited: set[int] = set()
    pending: list[tuple[str, Mapping[str, Any]]] = [("", project)]
    while pending:
        folder, mapping = pending.pop()
        if id(mapping) in visited:
            raise RecordError(f"{printable(where)}: '{printable(folder)}' is an alias of another folder; not accepted.")
        visited.add(id(mapping))
        for name, properties in mapping.items():
            if isinstance(name, str) and name.startswith("/") and name.endswith("/") and len(name) > 1:
                continue
            node = _node(folder, name, properties, where)
            yield node
            if node.item == FOLDER:
                pending.append((f"{node.path}/", properties))


def _node(folder: str, name: object, properties: Any, where: str) -> Node:
    try:
        path = folder + check_component(name, folder or "the project")
    except InvalidNameError as error:
        raise RecordError(f"{printable(where)}: {error}") from None
    if not isinstance(properties, dict) or properties.get(ITEM) not in (FOLDER, FILE, HDF5_FILE):
        raise RecordError(f"{printable(where)}: '{printable(path)}' has no {ITEM} of {FOLDER}, {FILE} or {HDF5_FILE}.")
    if properties.get(PATH, path) != path or len(path.encode()) > _MAX_PATH_BYTES:
        raise RecordError(f"{printable(where)}: '{printable(path)}' has the wrong {PATH} or a path that is too long.")
    # The same text as in the record, so that it takes memory once.
    return Node(properties.get(PATH, path), properties[ITEM], properties)


class ReleaseRecord:
    """A validated release record.

    Parameters
    ----------
    content : mapping
        The record as it is stored.
    where : str, optional
        What it was read from, for messages.

    Attributes
    ----------
    content : dict
        The record as it was given.
    title, title_versionless, version : str
        ``<title_versionless>-v<version>``, and its two parts.
    folders : list of str
        Paths of all folders, sorted.
    empty_files : list of str
        Paths of the files without bytes, sorted.
    blobs : list of Blob
        The distinct blobs, sorted by their first path.

    Raises
    ------
    RecordError
        When a field is missing or has a value that cannot be trusted.
    """

    def __init__(self, content: Any, where: str = "the record") -> None:
        self.content: dict[str, Any] = self._check_fields(content, where)
        self.title: str = content["title"]
        self.title_versionless: str = content["title_versionless"]
        self.version: str = content["version"]
        self.folders: list[str] = []
        self.empty_files: list[str] = []
        by_digest: dict[str, tuple[int, str | None, list[str]]] = {}
        for node in walk_mapping(content["project"], where):
            if node.item == FOLDER:
                self.folders.append(node.path)
                continue
            digest, size = _digest_and_size(node, where)
            if size == 0:
                self.empty_files.append(node.path)
                continue
            known_size, _, paths = by_digest.setdefault(digest, (size, node.properties.get(PID), []))
            if known_size != size:
                raise RecordError(f"{printable(where)}: two files with digest {digest} have different {BYTES}.")
            paths.append(node.path)
        self.folders.sort()
        self.empty_files.sort()
        self.blobs = sorted(
            (Blob(digest, size, tuple(sorted(paths)), pid) for digest, (size, pid, paths) in by_digest.items()),
            key=lambda blob: blob.paths,
        )

    @staticmethod
    def _check_fields(content: Any, where: str) -> dict[str, Any]:
        if not isinstance(content, dict) or not isinstance(content.get("project"), dict):
            raise RecordError(f"{printable(where)}: this is not a release record; it has no 'project' mapping.")
        try:
            check_folder_name(content.get("title_versionless"), "title")  # type: ignore[arg-type]
            parse_version(content.get("version"))
            check_folder_name(content.get("title"), "title")  # type: ignore[arg-type]
        except (InvalidNameError, InvalidVersionError) as error:
            raise RecordError(f"{printable(where)}: {error}") from None
        if content["title"] != f"{content['title_versionless']}-v{content['version']}":
            raise RecordError(f"{printable(where)}: 'title' is not '<title_versionless>-v<version>'.")
        return content

    @property
    def nbytes(self) -> int:
        """The bytes of all distinct blobs."""
        return sum(blob.size for blob in self.blobs)

    @classmethod
    def parse(cls, data: bytes, where: str) -> "ReleaseRecord":
        """Read a record from JSON or YAML.

        Parameters
        ----------
        data : bytes
            The content of a record file.
        where : str
            The file or URL that it came from, for messages.

        Raises
        ------
        RecordError
            When it is neither, or is not a record.
        """
        return cls(load_mapping(data, where), where)

    def dump(self) -> bytes:
        """Return the record as the bytes that are stored: JSON that YAML reads as the same."""
        return dump_mapping(self.content)

    @property
    def digest(self) -> str:
        """The SHA-1 of the record as :meth:`dump` gives it, 40 hex digits."""
        return hashlib.sha1(self.dump(), usedforsecurity=False).hexdigest()

    def same_release(self, other: "ReleaseRecord") -> bool:
        """Tell whether two records describe the same release, wherever it is stored and was copied from.

        Raises
        ------
        RecordError
            When one of them is nested too deeply to be compared.
        """
        try:
            return bool(_without_places(self.content) == _without_places(other.content))
        except RecursionError:
            raise RecordError(f"{self.title}: the record is nested too deeply.") from None

    def set_pids(self, pids: Mapping[str, str]) -> None:
        """Write into the record where the archive keeps each blob: digest to PID."""
        for node in walk_mapping(self.content["project"], self.title):
            if node.item != FOLDER:
                digest = _digest_of(node.properties)
                pid = pids[digest] if node.properties[BYTES] else None
                if pid not in (None, digest):
                    # In a record of the earlier tool the PID may have been all that told the digest.
                    node.properties[SHA1] = digest
                node.properties[PID] = pid


def _digest_and_size(node: Node, where: str) -> tuple[str, int]:
    size, pid = node.properties.get(BYTES), node.properties.get(PID)
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _MAX_BYTES:
        raise RecordError(f"{printable(where)}: '{printable(node.path)}' has no valid {BYTES}.")
    if pid is not None and not isinstance(pid, str):
        raise RecordError(f"{printable(where)}: the {PID} of '{printable(node.path)}' is no text.")
    digest = _digest_of(node.properties)
    if size and not is_digest(digest):
        raise RecordError(f"{printable(where)}: '{printable(node.path)}' has no valid {SHA1} or {PID}.")
    if size == 0 and is_digest(digest) and digest not in _EMPTY:
        raise RecordError(f"{printable(where)}: '{printable(node.path)}' has {BYTES} 0 and the digest of something.")
    return str(digest), size


def _digest_of(properties: Mapping[str, Any]) -> Any:
    sha1 = properties.get(SHA1)
    return properties.get(PID) if sha1 is None else sha1


def _without_places(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _without_pids(child) for key, child in content.items() if key not in (RECORD_PID, ORIGIN)}


def _without_pids(value: Any) -> Any:
    if isinstance(value, dict):
        same = {key: _without_pids(child) for key, child in value.items() if key not in (PID, SHA1)}
        return {**same, SHA1: _digest_of(value)} if value.get(BYTES) else same
    return value
