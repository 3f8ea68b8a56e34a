"""A CDCS site that is a few lines in memory, for tests that ask how an archive uses one."""

import contextlib
import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pipeline.archives.cdcs.client import Blob as StoredBlob
from pipeline.archives.cdcs.client import Data
from pipeline.archives.cdcs.contents import encode_content
from pipeline.archives.cdcs.http import NotAllowedError, NotFoundError, SiteRefusedError, SiteUnavailableError
from pipeline.errors import PipelineError
from pipeline.release import RECORD_PID
from tests.cdcs import OTHER, PUBLIC
from tests.support import sha1

HERE, ELSEWHERE, TEMPLATE, RELEASES = 1, 2, 9, 8


class Stream(io.BytesIO):
    """What a site sends."""

    start = 0

    def __init__(self, data: bytes, length: int | None) -> None:
        super().__init__(data)
        self.length = length

    def check_end(self) -> None:
        """Do nothing: it is never cut off."""


class Site:
    """What is stored, by whom, and what was done and searched for, in order."""

    def __init__(self) -> None:
        self.blobs: dict[str, tuple[StoredBlob, str, bytes]] = {}
        self.data: dict[int, tuple[Data, str]] = {}
        self.done: list[str] = []
        self.asked: list[Mapping[str, Any]] = []
        self.numbers = itertools.count(100)
        self.clock = itertools.count(1)
        self.gives_pids = True
        self.templates: dict[str, list[int]] = {"Release": [RELEASES], "BlobMetadata": [TEMPLATE]}
        self.workspaces = {PUBLIC: HERE, OTHER: ELSEWHERE}
        self.gone: set[str] = set()
        self.with_two_pids: set[str] = set()
        self.ignores_queries = self.tells_the_newest_first = False

    def put(self, data: bytes, owner: str, name: str = "", workspace: int | None = HERE) -> StoredBlob:
        number = str(next(self.numbers))
        handle = f"https://site/rest/blob/download/{number}/"
        pid = f"https://site/pid/{number}" if self.gives_pids else None
        stored = StoredBlob(number, name or sha1(data), handle, pid, workspace, None)
        self.blobs[number] = (stored, owner, data)
        return stored

    def describe(self, stored: StoredBlob, owner: str, workspace: int = HERE, **changes: Any) -> Data:
        _, _, data = self.blobs[str(stored.id)]
        content = {"sha1": sha1(data), "blob/PID/": stored.pid or stored.handle, "/bytes/": len(data)}
        return self.write(content | {"/handle/": stored.handle} | changes, owner, workspace)

    def write(self, content: Any, owner: str, workspace: int = HERE, template: int = TEMPLATE) -> Data:
        number, created = next(self.numbers), f"2026-11-23T00:00:{next(self.clock):02}"
        title = (
            str(content.get("sha1" if template == TEMPLATE else "title")) if isinstance(content, dict) else "nonsense"
        )
        if template == RELEASES and isinstance(content, dict) and self.gives_pids:
            content = {RECORD_PID: f"https://site/pid/{number}", **content}
        text = encode_content(content) if isinstance(content, dict) else str(content)
        self.data[number] = (Data(number, title, template, workspace, created, text), owner)
        return self.data[number][0]


class Curator:
    """What a user can do with a site."""

    attempts = 3
    host = "https://site"

    def __init__(self, site: Site, user: str) -> None:
        self.site, self.user = site, user
        self.unavailable = False
        self.may_assign = True
        self.before_describing: Callable[[], object] = lambda: None
        self.after_describing: Callable[[], object] = lambda: None
        self.paused: list[int] = []

    def find_own_blobs(self, prefixes: Iterable[str]) -> list[StoredBlob]:
        wanted = tuple(prefixes)
        own = (stored for stored, owner, _ in self.site.blobs.values() if owner == self.user)
        return [stored for stored in own if wanted and stored.filename.startswith(wanted)]

    def template_ids(self, title: str) -> list[int]:
        self.site.done.append(f"look for {title}")
        if title not in self.site.templates:
            raise NotFoundError(f"there is no template {title}", 404)
        return self.site.templates[title]

    def create_template(self, title: str, schema: Mapping[str, Any]) -> int:
        self.site.done.append(f"create {schema['title']}")
        self.site.templates[title] = [next(self.site.numbers)]
        return self.site.templates[title][0]

    def workspace_id(self, title: str) -> int:
        self.site.done.append(f"look for {title}")
        if title not in self.site.workspaces:
            raise NotFoundError(f"there is no workspace {title}", 404)
        return self.site.workspaces[title]

    def query(self, templates: list[int], query: dict[str, Any], workspace: int, few: bool = False) -> Iterator[Data]:
        self.site.done.append("query" if templates == [TEMPLATE] else "query releases")
        self.site.asked.append(query)
        found = [data for data, _ in self.site.data.values() if data.template in templates]
        for data in reversed(found) if self.site.tells_the_newest_first else found:
            with contextlib.suppress(PipelineError):
                if data.workspace == workspace and (self.site.ignores_queries or _fits(data.content(), query)):
                    yield data
        yield from (data for data in found if data.title == "nonsense")

    def get_blob(self, number: str) -> StoredBlob:
        if self.unavailable:
            raise SiteUnavailableError("the site is away")
        if str(number) not in self.site.blobs:
            raise NotFoundError("there is no such blob", 404)
        return self.site.blobs[str(number)][0]

    def is_here(self, url: str) -> bool:
        return url.startswith("https://site/")

    @contextlib.contextmanager
    def open_blob(self, url: str, offset: int = 0, most: int = 0, attempts: int | None = None) -> Iterator[Stream]:
        if self.unavailable:
            raise SiteUnavailableError("the site is away")
        for stored, _, data in self.site.blobs.values():
            if url in (stored.pid, stored.handle) and url not in self.site.gone:
                yield Stream(data[:most], len(data))
                return
        raise NotFoundError("there is no such blob", 404)

    def upload_blob(self, name: str, stream: Any, size: int, already_done: Any) -> StoredBlob:
        data = b"".join(iter(lambda: stream.read(1000), b""))
        assert len(data) == size
        self.site.done.append(f"upload {name}")
        return self.site.put(data, self.user, name, None)

    def assign_blob(self, number: str, workspace: int) -> None:
        if not self.may_assign:
            raise NotAllowedError("you may not publish there", 403)
        stored, owner, data = self.site.blobs[number]
        self.site.blobs[number] = (stored._replace(workspace=workspace), owner, data)
        self.site.done.append("assign")
        self._set_pid(number)

    def delete_blob(self, number: str) -> None:
        if (stored := self.site.blobs.pop(str(number), None)) is not None:
            self.site.done.append(f"delete blob of {stored[1]}")

    def own_data(self, title: str, template: int) -> list[Data]:
        return [data for data, owner in self.site.data.values() if owner == self.user and data.title == title]

    def create_data(self, title: str, template: int, workspace: int, content: dict[str, Any], done: Any) -> Data:
        self.before_describing()
        assert done() is None
        self.site.done.append("describe")
        made = self.site.write(content, self.user, workspace, template)
        assert done() == made
        self.after_describing()
        return made

    def attach_metadata(self, blob: str, data: int) -> None:
        self.get_blob(blob)
        self.site.done.append("attach")
        self._set_pid(blob)

    def _set_pid(self, number: str) -> None:
        """Do what CDCS does after each change of a blob: give it the PID that it lacks; with two it only complains."""
        if number in self.site.with_two_pids:
            raise SiteRefusedError("An error occurred while setting a PID", 500)
        stored, owner, data = self.site.blobs[number]
        if self.site.gives_pids and stored.pid is None:
            self.site.blobs[number] = (stored._replace(pid=f"https://site/pid/{number}"), owner, data)

    def delete_data(self, number: int) -> None:
        self.site.done.append(f"delete data of {self.site.data.pop(number)[1]}")

    def pause(self, failures: int) -> None:
        self.paused.append(failures)


def _fits(content: Mapping[str, Any], query: Mapping[str, Any]) -> bool:
    for key, wanted in query.items():
        values = wanted["$in"] if isinstance(wanted, dict) else [wanted]
        assert len(values) <= 100, "sites give at most a hundred"
        if content.get(key) not in values:
            return False
    return True
