"""A proxy before a real server, for what happens on the way: an index that is late, a connection that is cut."""

import json
import threading
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from .fake import FakeSite, Seen, Visit

_OF_ONE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}
_PAGE = 10  # records, as CDCS has it


class Reply(NamedTuple):
    """What the server answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    def send(self, visit: Visit) -> None:
        """Pass it on."""
        kept = {name: value for name, value in self.headers.items() if name.lower() not in _OF_ONE_CONNECTION}
        visit.reply(self.status, self.body, **kept)


class Proxy(FakeSite):
    """Passes everything on to a server, except where somebody meddles.

    Attributes
    ----------
    upstream : str
        Address of the server, which may be started when the address of the proxy is known.
    meddle : callable
        Gets each visit with the request and the reply, and returns the reply to be sent, or None if it did that.
    """

    def __init__(self) -> None:
        super().__init__(self._pass_on)
        self.upstream = ""
        self.meddle: Callable[[Visit, Seen, Reply], Reply | None] = lambda visit, seen, reply: reply

    def _pass_on(self, visit: Visit, seen: Seen) -> None:
        reply = self.meddle(visit, seen, Reply(*visit.forward(self.upstream, seen)))
        if reply is not None:
            reply.send(visit)


class Lag:
    """Hides from queries what was stored since it was made, as a site does whose index is late.

    Parameters
    ----------
    proxy : Proxy
        Where it meddles.
    queries : int, optional
        How many queries do not find a record that they should; by default all, until :meth:`end`.
    """

    def __init__(self, proxy: Proxy, queries: int = 10**9) -> None:
        self._proxy, self._queries = proxy, queries
        self._hidden: dict[Any, int] = {}
        self._lock = threading.Lock()
        self.hid = 0
        proxy.meddle = self._meddle

    def end(self) -> None:
        """Let queries find everything again, and from now on at once."""
        self._queries = 0
        self._hidden.clear()

    def _meddle(self, visit: Visit, seen: Seen, reply: Reply) -> Reply:
        path = urlsplit(seen.path).path
        if (seen.method, path, reply.status) == ("POST", "/rest/data/", 201):
            self._hidden[json.loads(reply.body)["id"]] = self._queries
        if (seen.method, path, reply.status) == ("POST", "/rest/data/query/", 200):
            answer = json.loads(reply.body)
            if isinstance(answer, list):
                answer = self._visible(answer)
            else:
                page = int(parse_qs(urlsplit(seen.path).query).get("page", ["1"])[0])
                found = self._visible(self._all_pages(visit, seen))
                some = found[(page - 1) * _PAGE : page * _PAGE]
                answer |= {"count": len(found), "next": "more" if page * _PAGE < len(found) else None, "results": some}
            return reply._replace(body=json.dumps(answer).encode())
        return reply

    def _all_pages(self, visit: Visit, seen: Seen) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        answer: dict[str, Any] = {"next": True}
        page = 0
        while answer["next"]:
            page += 1
            answer = json.loads(
                visit.forward(self._proxy.upstream, seen._replace(path=f"/rest/data/query/?page={page}"))[2]
            )
            found += answer["results"]
        return found

    def _visible(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        with self._lock:
            visible = []
            for item in items:
                if self._hidden.get(item["id"], 0) > 0:
                    self._hidden[item["id"]] -= 1
                    self.hid += 1
                else:
                    visible.append(item)
            return visible


class Cut:
    """Cuts the connection in the middle of a download, once.

    Parameters
    ----------
    proxy : Proxy
        Where it meddles.
    after : int
        How many bytes it lets through of the first answer that is longer than that.
    wait : threading.Event, optional
        Wait for this before cutting: the client is left hanging in mid-download.

    Attributes
    ----------
    downloads : list of tuple
        Of each large download: the first byte that the client asked for, and how many bytes it was sent.
    """

    _LARGE = 2**16

    def __init__(self, proxy: Proxy, after: int, wait: threading.Event | None = None) -> None:
        self._after, self._wait = after, wait
        self.downloads: list[tuple[int, int]] = []
        self._is_cut = False
        proxy.meddle = self._meddle

    def _meddle(self, visit: Visit, seen: Seen, reply: Reply) -> Reply | None:
        if seen.method != "GET" or reply.status not in (200, 206) or len(reply.body) < self._LARGE:
            return reply
        start = int(seen.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        if self._is_cut or len(reply.body) <= self._after:
            self.downloads.append((start, len(reply.body)))
            return reply
        self._is_cut = True
        self.downloads.append((start, self._after))
        visit.reply(reply.status, reply.body[: self._after], content_length=str(len(reply.body)))
        if self._wait is not None:
            self._wait.wait()
        visit.drop()
        return None
