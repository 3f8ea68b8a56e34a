"""Archives as an independent reader sees them, who knows the formats and none of the code, and damage done to them."""

import contextlib
import json
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from pipeline import ArchiveInterface, CDCSArchive, FileSystemArchive
from tests.cdcs import archive_of
from tests.cdcs_server import CDCSServer
from tests.support import sha1

# What a project holds: relative path to content, None for a folder.
Tree = dict[str, bytes | None]
Key = tuple[str, str]


def digests(tree: Tree) -> dict[str, bytes]:
    """Return the blobs of a project: digest to content."""
    return {sha1(data): data for data in tree.values() if data}


def outline(tree: Tree) -> dict[str, tuple[str, int] | None]:
    """Return what a record tells of a project: path to digest and size."""
    return {path: None if data is None else (sha1(data) if data else "", len(data)) for path, data in tree.items()}


def _outline_of(record: dict[str, Any]) -> dict[str, tuple[str, int] | None]:
    found: dict[str, tuple[str, int] | None] = {}

    def walk(prefix: str, node: dict[str, Any]) -> None:
        for name, child in node.items():
            if name.startswith("/") and name.endswith("/"):
                continue
            path = f"{prefix}{name}"
            assert child.get("/path/", path) == path
            if child["/item/"] == "Directory":
                found[path] = None
                walk(f"{path}/", child)
            else:
                size = child["/bytes/"]
                found[path] = (child["/sha1/"] if size else "", size)

    walk("", record["project"])
    return found


class Place(ABC):
    """An archive, and one workspace in it.

    Attributes
    ----------
    location, workspace : str
        As the options of tasks name them.
    blobs_of_title : bool
        Whether each title has blobs of its own.
    seen : set of str
        Which damage is seen without reading a blob.
    """

    location: str
    workspace: str
    blobs_of_title: bool
    seen: frozenset[str]

    @abstractmethod
    def open(self) -> ArchiveInterface:
        """Return the archive."""

    @abstractmethod
    def records(self, skip: Collection[Key] = ()) -> dict[Key, dict[str, tuple[str, int] | None]]:
        """Return what each record tells of its files, but for some that are damaged."""

    @abstractmethod
    def blob(self, title: str, digest: str) -> bytes | None:
        """Return the bytes that a reader gets for a digest; None when there are none."""

    def is_stored_once(self, digest: str) -> bool:
        """Tell whether nothing is stored twice, which nobody minds while several publish."""
        return True

    @abstractmethod
    def write_blob(self, title: str, digest: str, data: bytes) -> None:
        """Change the bytes of a blob behind the back of the archive."""

    @abstractmethod
    def delete_blob(self, title: str, digest: str) -> None:
        """Delete a blob behind the back of the archive."""

    @abstractmethod
    def aside(self) -> set[bytes]:
        """Return what was kept of damaged blobs and records."""


class Folder(Place):
    """An archive in a folder."""

    blobs_of_title = True
    seen = frozenset(("truncated", "deleted"))

    def __init__(self, folder: Path, workspace: str) -> None:
        folder.mkdir()
        (folder / ".rmearchive").touch()
        self.folder, self.workspace, self.location = folder, workspace, str(folder)

    def open(self) -> FileSystemArchive:
        return FileSystemArchive(self.folder)

    def record_file(self, key: Key) -> Path:
        title, version = key
        return self.folder / self.workspace / title / f"{title}-v{version}.yml"

    def record_copy(self, key: Key) -> Path:
        title, version = key
        (copy,) = (self.folder / self.workspace / title / ".records" / version).iterdir()
        return copy

    def records(self, skip: Collection[Key] = ()) -> dict[Key, dict[str, tuple[str, int] | None]]:
        found = {}
        damaged = set(map(self.record_file, skip))
        for file in self.folder.glob("*/*/*.yml"):
            if file not in damaged:
                record = json.loads(file.read_bytes())
                title, version = record["title_versionless"], record["version"]
                assert (file.parent.parent.name, file.parent.name) == (self.workspace, title)
                assert file.name == f"{title}-v{version}.yml"
                found[title, version] = _outline_of(record)
        return found

    def _file(self, title: str, digest: str) -> Path:
        return self.folder / self.workspace / title / "blobs" / digest[:2] / digest

    def blob(self, title: str, digest: str) -> bytes | None:
        file = self._file(title, digest)
        return file.read_bytes() if file.exists() else None

    def strange_blobs(self) -> Iterator[tuple[str, str]]:
        """Yield title and name of each blob that does not have the bytes that its name tells."""
        for file in self.folder.glob("*/*/blobs/*/*"):
            if sha1(file.read_bytes()) != file.name:
                yield file.parent.parent.parent.name, file.name

    def write_blob(self, title: str, digest: str, data: bytes) -> None:
        self._file(title, digest).write_bytes(data)

    def delete_blob(self, title: str, digest: str) -> None:
        self._file(title, digest).unlink()

    def aside(self) -> set[bytes]:
        return {file.read_bytes() for file in self.folder.glob("*/*/.damaged/*")}


class OnSite(Place):
    """A workspace of a CDCS site."""

    blobs_of_title = False
    seen = frozenset(("deleted",))

    def __init__(self, server: CDCSServer, workspace: str) -> None:
        self.server, self.workspace, self.location = server, workspace, server.base_url
        self.alice = archive_of(server)
        content = {"title": workspace}
        assert self.alice.curator.call("POST", "/rest/workspace/", content, doing="to make a workspace", expect=201)

    def open(self) -> CDCSArchive:
        return archive_of(self.server)

    def records(self, skip: Collection[Key] = ()) -> dict[Key, dict[str, tuple[str, int] | None]]:
        archive, found = self.open(), {}
        for name in archive.list_releases(self.workspace):
            record = archive.get_release(*name, self.workspace)
            assert record is not None
            found[name.title_versionless, name.version] = _outline_of(record)
        return found

    def _files(self, digest: str) -> list[Path]:
        """Return the files of the blobs that the server has for a digest, which no other workspace has."""
        database = f"file:{self.server.folder}/db.sqlite3?mode=ro"
        with contextlib.closing(sqlite3.connect(database, uri=True, timeout=60)) as connection:
            rows = connection.execute("SELECT blob FROM core_main_app_blob WHERE filename LIKE ?", (f"{digest}%",))
            return [self.server.folder / "media" / name for (name,) in rows]

    def blob(self, title: str, digest: str) -> bytes | None:
        found = [file.read_bytes() for file in self._files(digest)]
        return found[0] if found else None

    def is_stored_once(self, digest: str) -> bool:
        return len(self._files(digest)) <= 1

    def write_blob(self, title: str, digest: str, data: bytes) -> None:
        (file,) = self._files(digest)
        file.write_bytes(data)

    def delete_blob(self, title: str, digest: str) -> None:
        (blob,) = self.alice.curator.find_own_blobs([digest])
        self.alice.curator.delete_blob(blob.id)

    def aside(self) -> set[bytes]:
        found = set()
        for blob in self.alice.curator.list_own_blobs():
            if blob.filename.startswith("damaged-"):
                assert blob.workspace is None
                with self.alice.curator.open_blob(blob.handle) as stream:
                    found.add(stream.read())
        return found
