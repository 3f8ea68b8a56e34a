"""REST client of a CDCS instance (a "curator"): what can be asked of it, and nothing of releases."""

import contextlib
import functools
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import requests

from ...checksums import Stream
from ...documents import load_json
from ...errors import ArchiveError, RecordError, printable
from .answers import has, is_object
from .answers import ident as _ident
from .answers import mapping as _mapping
from .answers import sequence as _sequence
from .bodies import ROOM_FOR_HEADERS, Answer, BlobStream, Multipart, join_url, show_url
from .contents import encode_content
from .http import Ident, NotFoundError, Site, SiteRefusedError

_MOST_PAGES = 100_000
# As many SHA-1 digests as fit into the first line of a request: web servers take no more than 4 to 8 kB.
_MOST_PREFIXES = 80


class Data(NamedTuple):
    """One record of CDCS. Its content comes from outside and is parsed only when it is asked for."""

    id: Ident
    title: str
    template: Ident | None
    workspace: Ident | None
    created: str
    text: str

    def content(self) -> dict[str, Any]:
        """Return the content as a dictionary, or raise RecordError when it is no JSON object."""
        with contextlib.suppress(ValueError, RecursionError):
            if isinstance(content := load_json(self.text), dict):
                return content
        raise RecordError(f"The record '{printable(self.title)}' ({printable(self.id)}) does not hold a JSON object.")


class Blob(NamedTuple):
    """One blob of CDCS. `pid` is None on sites that give none; `checksum` on sites that compute none."""

    id: Ident
    filename: str
    handle: str
    pid: str | None
    workspace: Ident | None
    checksum: str | None


class CDCSClient(Site):
    """Talk to one CDCS instance as one user; may be shared by threads and survives a fork.

    Parameters
    ----------
    host : str
        Address of the site, such as ``https://cdcs.example.org``.
    user, password : str, optional
        Login. A token is obtained with it where the site gives tokens; HTTP Basic is used otherwise.
    token : str, optional
        A token of the user, instead of a password. Without password and token everything is asked anonymously.
    ca_bundle : str or PathLike, optional
        Certificates of a private authority. Verification itself cannot be switched off.
    allow_http : bool, optional
        Send credentials over plain http to a host other than this machine.
    connect_timeout, read_timeout : float, optional
        Seconds to wait for a connection, and for the site to send anything.
    attempts : int, optional
        How often something is tried that a repetition may help.
    largest_answer : int, optional
        Most bytes of one JSON answer.
    sleep : callable, optional
        Waits between attempts.

    Examples
    --------
    >>> CDCSClient("https://cdcs.example.org", user="alice", password="secret")
    CDCSClient('https://cdcs.example.org', user='alice')
    """

    # --- what a site can do ---------------------------------------------------------------------------------------

    def health(self) -> bool:
        """Tell whether the site says that it is well. Sends no credentials."""
        status = self._get("/rest/health/", "to tell its health", public=True)
        return isinstance(status, dict) and status.get("status") == "ok"

    def core_settings(self) -> dict[str, Any]:
        """Return the version and the switches that the site tells; needs a login."""
        return _mapping(self._get("/rest/core-settings/", "to tell its settings"), self.host)

    def template_id(self, title: str) -> Ident:
        """Return the id of the current version of a global template; raise NotFoundError without one."""
        return self.template_ids(title)[0]

    def template_ids(self, title: str) -> list[Ident]:
        """Return the ids of all versions of a global template, the current one first; raise NotFoundError without."""
        managers = self._get("/rest/template-version-manager/global/", "to list its templates")
        for manager in _sequence(managers, self.host):
            if manager.get("title") == title and not manager.get("is_disabled"):
                versions = manager.get("versions")
                older = versions if isinstance(versions, list) else []
                return list(dict.fromkeys(_ident(ident, self.host) for ident in [manager.get("current"), *older]))
        raise NotFoundError(
            f"{self.host} has no template '{printable(title)}'; ask its administrator to install it.", 404
        )

    def template_filename(self, template: Ident) -> str:
        """Return the file name of a template, its title with ``.json``: all that a site tells to the anonymous."""
        found = self._get(f"/rest/template/{_segment(template)}/", f"to read the template {printable(template)}")
        name = _mapping(found, self.host).get("filename")
        return name if isinstance(name, str) else ""

    def create_template(self, title: str, schema: Mapping[str, Any]) -> Ident:
        """Install a JSON schema as a global template and return its id; needs an administrator."""
        payload = {"title": title, "filename": f"{title}.json", "content": json.dumps(schema)}
        doing = f"to install the template '{printable(title)}'"

        def already_done() -> Ident | None:
            with contextlib.suppress(NotFoundError):
                return self.template_id(title)
            return None

        path = "/rest/template/global/"
        made = self.call("POST", path, payload, doing=doing, expect=201, already_done=already_done)
        return _ident(_mapping(made.value, self.host).get("id") if isinstance(made, Answer) else made, self.host)

    def workspace_id(self, title: str) -> Ident:
        """Return the id of the workspace that the user can read under this title; raise NotFoundError without one."""
        found = self._get("/rest/workspace/read_access", "to list its workspaces")
        ids = [item.get("id") for item in _sequence(found, self.host) if item.get("title") == title]
        if len(ids) > 1:
            raise ArchiveError(f"{self.host} has several workspaces '{printable(title)}'; ask the site to rename one.")
        if not ids:
            raise NotFoundError(
                f"{self.host} has no workspace '{printable(title)}' that {self.whom()} can read; check the name, "
                "or ask the site for the right to it.",
                404,
            )
        return _ident(ids[0], self.host)

    # --- records --------------------------------------------------------------------------------------------------

    def query(
        self,
        template: Ident | Sequence[Ident] | None,
        query: Mapping[str, Any],
        workspace: Ident | None,
        order_by: str = "creation_date,pk",
        *,
        few: bool = False,
    ) -> Iterator[Data]:
        """Yield every record that matches, each once, page by page to the end.

        Parameters
        ----------
        template : int or str, sequence of them, or None
            Ids of the template's versions; None searches the records of all.
        query : mapping
            Top-level keys of the content with values or operators, in the notation of MongoDB.
        workspace : int or str or None
            Id of the workspace; None searches everything that the user can read.
        order_by : str, optional
            Fields of a record; a unique one last keeps records from changing pages.
        few : bool, optional
            Ask for all in one answer first, which sites give for up to a hundred records.
        """
        payload: dict[str, Any] = {"query": query, "order_by_field": order_by}
        if template is not None:
            idents = [template] if isinstance(template, (int, str)) else template
            payload["templates"] = [{"id": ident} for ident in idents]
        if workspace is not None:
            payload["workspaces"] = [{"id": workspace}]
        if few and (together := self._together(payload)) is not None:
            yield from map(self._data, together)
            return
        seen: set[Ident] = set()
        # Records that come or go meanwhile move others across the borders of pages: another pass finds those.
        for _ in range(3):
            counts, found = set(), set()
            for count, items in self._pages(functools.partial(self._search, payload)):
                counts.add(count)
                for data in map(self._data, items):
                    found.add(data.id)
                    if data.id not in seen:
                        seen.add(data.id)
                        yield data
            if counts == {len(found)}:
                return
        if len(seen) < max(counts):
            raise ArchiveError(f"{self.host} announces more records than it sends; run again, or tell the site.")

    def _together(self, payload: dict[str, Any]) -> list[dict[str, Any]] | None:
        """Return all records of a query from one answer, or None where the site finds them too many for that."""
        try:
            answer = self.call(
                "POST", "/rest/data/query/", {**payload, "all": "true"}, doing="to search records", repeat=True
            )
        except SiteRefusedError as error:
            if error.status == 400 and "over the limit" in error.message:
                return None
            raise
        return _sequence(answer.value, self.host)

    def own_data(self, title: str, template: Ident) -> list[Data]:
        """Return the user's own records of exactly one title, also those that a site has not put into its index yet."""
        path = f"/rest/data/?title={quote(title, safe='')}&template={_segment(template)}"
        pages = self._pages(lambda page: self._get(f"{path}&page={page}", "to list records"))
        found = [self._data(item) for _, items in pages for item in items]
        return [data for data in found if data.title == title]

    def _search(self, payload: dict[str, Any], page: int) -> Any:
        path = f"/rest/data/query/?page={page}"
        return self.call("POST", path, payload, doing="to search records", repeat=True).value

    def _pages(self, ask: Callable[[int], Any]) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """Yield what each page tells that `ask` gets: how many records there are in all, and some of them."""
        page, is_more = 0, True
        while is_more:
            page += 1
            try:
                answer = _mapping(ask(page), self.host)
            except SiteRefusedError as error:
                # Records vanished since the page before, and with them the page.
                if page > 1 and "invalid page" in error.message.lower():
                    return
                raise
            count, is_more = answer.get("count"), bool(answer.get("next"))
            if not isinstance(count, int) or page > min(max(count, 1), _MOST_PAGES):
                raise ArchiveError(f"{self.host} sends pages of records without end; tell the site.")
            yield count, _sequence(answer.get("results"), self.host)

    def create_data(
        self,
        title: str,
        template: Ident,
        workspace: Ident | None,
        content: Mapping[str, Any],
        already_done: Callable[[], Data | None] | None = None,
    ) -> Data:
        """Store a record and return it as the site keeps it, with its PID.

        Parameters
        ----------
        title : str
            At most 200 characters; need not be unique.
        template, workspace : int or str
            Ids. Without a workspace the record is private.
        content : mapping
            What `encode_content` accepts.
        already_done : callable, optional
            Looks whether an attempt whose answer was lost took effect, and returns the record if so. Without it such an
            attempt is not repeated.
        """
        text = encode_content(content)
        # Sites in compatibility mode know the field by its older name only.
        payload = {"title": title, "template": template, "content": text, "xml_content": text}
        if workspace is not None:
            payload["workspace"] = workspace
        doing = f"to publish the record '{printable(title)}'"
        mine = {"title": title.strip(), "template": template, "workspace": workspace}
        made = self.call(
            "POST", "/rest/data/", payload, doing=doing, expect=201, already_done=already_done, fits=has(mine)
        )
        return self._data(_mapping(made.value, self.host)) if isinstance(made, Answer) else made

    def get_data(self, data_id: Ident) -> Data:
        """Return one record by its id; raise NotFoundError without it."""
        doing = f"to read the record {printable(data_id)}"
        found = self._get(f"/rest/data/{_segment(data_id)}/", doing, fits=has({"id": data_id}))
        return self._data(_mapping(found, self.host))

    def replace_data(self, data_id: Ident, title: str, content: Mapping[str, Any]) -> None:
        """Replace title and content of a record, which keeps its PID when the content has it."""
        text = encode_content(content)
        payload = {"title": title, "content": text, "xml_content": text}
        doing = f"to repair the record {printable(data_id)}"
        self.call("PATCH", f"/rest/data/{_segment(data_id)}/", payload, doing=doing, repeat=True)

    def delete_data(self, data_id: Ident) -> None:
        """Delete a record. One that is gone already is no error."""
        self._delete(f"/rest/data/{_segment(data_id)}/", f"to delete the record {printable(data_id)}")

    def _data(self, item: dict[str, Any]) -> Data:
        text = item.get("content", item.get("xml_content"))
        title, created = item.get("title"), item.get("creation_date")
        template, workspace = item.get("template"), item.get("workspace")
        return Data(
            _ident(item.get("id"), self.host),
            title if isinstance(title, str) else "",
            None if template is None else _ident(template, self.host),
            None if workspace is None else _ident(workspace, self.host),
            created if isinstance(created, str) else "",
            text if isinstance(text, str) else json.dumps(text),
        )

    # --- blobs ----------------------------------------------------------------------------------------------------

    def upload_blob(
        self,
        filename: str,
        source: str | os.PathLike[str] | Stream,
        size: int,
        already_done: Callable[[], Blob | None] | None = None,
    ) -> Blob:
        """Upload one blob from a file or a stream, never holding it in memory.

        Parameters
        ----------
        filename : str
            Name of the blob; its extension decides whether the site takes it.
        source : str, PathLike or binary stream
            What to upload. A stream is read from where it stands, to its end, and rewound (``seek``) for a repetition.
            An exception that it raises, even at its end, ends the upload with nothing stored.
        size : int
            Bytes to upload. A source that has more or fewer raises SourceChangedError, with nothing stored.
        already_done : callable, optional
            As for `create_data`.
        """
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(open(source, "rb")) if isinstance(source, (str, os.PathLike)) else source
            start = stream.tell()

            def body() -> Multipart:
                stream.seek(start)
                return Multipart(filename, stream, size)

            doing = f"to upload '{printable(filename)}' ({size} bytes)"
            mine = has({"filename": filename.strip()})
            made = self.call(
                "POST", "/rest/blob/", doing=doing, expect=201, already_done=already_done, body=body, fits=mine
            )
        return self._blob(_mapping(made.value, self.host)) if isinstance(made, Answer) else made

    def assign_blob(self, blob_id: Ident, workspace: Ident) -> None:
        """Move a blob into a workspace, where others can read it."""
        path = f"/rest/blob/{_segment(blob_id)}/assign/{_segment(workspace)}"
        self.call("PATCH", path, doing=f"to publish the blob {printable(blob_id)}", repeat=True, fits=is_object)

    def attach_metadata(self, blob_id: Ident, data_id: Ident) -> None:
        """Link a record to a blob as its metadata."""
        path = f"/rest/blob/{_segment(blob_id)}/metadata/{_segment(data_id)}/"
        doing = f"to attach metadata to the blob {printable(blob_id)}"
        self.call("POST", path, doing=doing, repeat=True, fits=is_object)

    def list_own_blobs(self, filename: str | None = None) -> list[Blob]:
        """Return the user's own blobs, all or those of exactly one name."""
        path = "/rest/blob/" if filename is None else f"/rest/blob/?filename={quote(filename, safe='')}"
        blobs = [self._blob(item) for item in _sequence(self._get(path, "to list blobs"), self.host)]
        return [blob for blob in blobs if filename is None or blob.filename == filename]

    def find_own_blobs(self, prefixes: Iterable[str]) -> list[Blob]:
        """Return the user's own blobs whose names begin with one of some texts."""
        wanted = list(dict.fromkeys(prefixes))
        found: list[Blob] = []
        for start in range(0, len(wanted), _MOST_PREFIXES):
            some = tuple(wanted[start : start + _MOST_PREFIXES])
            pattern = quote(f"^({'|'.join(map(re.escape, some))})", safe="")
            answer = self._get(f"/rest/blob/?filename={pattern}&regex=true", "to list blobs")
            blobs = (self._blob(item) for item in _sequence(answer, self.host))
            found += (blob for blob in blobs if blob.filename.startswith(some))
        return found

    def get_blob(self, blob_id: Ident) -> Blob:
        """Return what the site knows of one blob; raise NotFoundError without it."""
        doing = f"to look up the blob {printable(blob_id)}"
        found = self._get(f"/rest/blob/{_segment(blob_id)}/", doing, fits=has({"id": blob_id}))
        return self._blob(_mapping(found, self.host))

    def delete_blob(self, blob_id: Ident) -> None:
        """Delete a blob. One that is gone already is no error."""
        self._delete(f"/rest/blob/{_segment(blob_id)}/", f"to delete the blob {printable(blob_id)}")

    @contextlib.contextmanager
    def open_blob(
        self, url: str, offset: int = 0, most: int | None = None, attempts: int | None = None
    ) -> "Iterator[BlobStream]":
        """Open a blob by its handle or PID for reading.

        Parameters
        ----------
        url : str
            Comes from a record and is not trusted: another host gets no credentials.
        offset : int, optional
            Where to go on. Many sites start over instead: `BlobStream.start` tells.
        most : int, optional
            Most bytes to read; a site that sends more is cut off.
        attempts : int, optional
            How often it is tried; by default as everything else.
        """
        response, start = self._open(join_url(self.host + "/", url), max(0, offset), most, attempts)
        with contextlib.closing(response):
            yield BlobStream(response, start)

    def _open(self, url: str, offset: int, most: int | None, attempts: int | None) -> tuple[requests.Response, int]:
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        allowance = sys.maxsize if most is None else most + ROOM_FOR_HEADERS
        ask = functools.partial(self.send, "GET", url, headers, allowance=allowance)
        got = self.persist(ask, repeat=True, attempts=attempts)
        if isinstance(got, Answer):
            if offset and got.status == 416:
                return self._open(url, 0, most, attempts)
            raise self.refusal(got, "to read a blob", url)
        there = re.match(rf"bytes {offset}-\d+/", got.headers.get("Content-Range", ""))
        compressed = got.headers.get("Content-Encoding", "identity").lower() != "identity"
        if not compressed and (got.status_code == 200 or (got.status_code == 206 and offset and there)):
            return got, 0 if got.status_code == 200 else offset
        got.close()
        if offset:
            return self._open(url, 0, most, attempts)
        raise ArchiveError(
            f"{show_url(url)} does not send the blob as it is (status {got.status_code}); tell the site."
        )

    def _blob(self, item: dict[str, Any]) -> Blob:
        texts = [item.get(key) for key in ("filename", "handle", "pid", "checksum")]
        filename, handle, pid, checksum = (text if isinstance(text, str) else None for text in texts)
        workspace = item.get("workspace")
        where = None if workspace is None else _ident(workspace, self.host)
        return Blob(_ident(item.get("id"), self.host), filename or "", handle or "", pid, where, checksum)

    def _get(self, path: str, doing: str, public: bool = False, fits: Callable[[Any], bool] | None = None) -> Any:
        return self.call("GET", path, doing=doing, repeat=True, public=public, fits=fits).value

    def _delete(self, path: str, doing: str) -> None:
        with contextlib.suppress(NotFoundError):
            self.call("DELETE", path, doing=doing, expect=204, repeat=True)


def _segment(ident: Ident) -> str:
    return quote(str(ident), safe="")
