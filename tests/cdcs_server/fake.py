"""Small hostile sites and proxies on loopback: whatever a test needs that a real CDCS server would never do."""

import contextlib
import http.client
import http.server
import json
import socketserver
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

CERTIFICATE = Path(__file__).resolve().parent / "loopback.pem"


class Seen(NamedTuple):
    """A request as it came in. `connection` tells connections apart."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int


class Visit(http.server.BaseHTTPRequestHandler):
    """One request that a `FakeSite` answers."""

    protocol_version = "HTTP/1.1"
    site: "FakeSite"

    def reply(self, status: int, body: object = b"", **headers: str) -> None:
        """Send a whole answer; a body that is not bytes is sent as JSON. Header names have ``_`` for ``-``."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-").title(): value for name, value in headers.items()}
        self.send_response(status)
        self.send_header("Content-Type", named.pop("Content-Type", "application/json"))
        self.send_header("Content-Length", named.pop("Content-Length", str(len(content))))
        for name, value in named.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def drop(self) -> None:
        """Close the connection without an answer."""
        self.close_connection = True

    def forward(self, url: str, seen: Seen) -> tuple[int, dict[str, str], bytes]:
        """Ask another server the same and return what it answers, without answering it."""
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
        with contextlib.closing(connection):
            connection.request(seen.method, seen.path, seen.body or None, {**seen.headers, "Connection": "close"})
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()

    def _handle(self) -> None:
        body = b"" if self.site.answers_early else self.rfile.read(int(self.headers.get("Content-Length", 0)))
        seen = Seen(self.command, self.path, dict(self.headers), body, self.client_address[1])
        self.site.seen.append(seen)
        self.site.answer(self, seen)

    do_GET = do_POST = do_PATCH = do_DELETE = _handle  # noqa: N815  (the names that http.server looks for)

    def log_message(self, *arguments: Any) -> None:
        """Stay quiet."""


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, *arguments: Any) -> None:
        """A client that hangs up on a hostile site does right."""


class FakeSite:
    """A server on loopback that answers as a function says.

    Parameters
    ----------
    answer : callable
        Gets the visit, to reply to it, and the request.
    tls : bool, optional
        Speak https, with the certificate in ``CERTIFICATE``.
    answers_early : bool, optional
        Do not read the body of a request before it is answered.

    Attributes
    ----------
    closed : threading.Event
        Is set when the site ends: what sends without end has to stop then.
    """

    def __init__(self, answer: Callable[[Visit, Seen], None], tls: bool = False, answers_early: bool = False) -> None:
        self.answer = answer
        self.answers_early = answers_early
        self.seen: list[Seen] = []
        self.closed = threading.Event()
        self._server = _Server(("127.0.0.1", 0), type("Visit", (Visit,), {"site": self}))
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_address[1]}"
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(CERTIFICATE)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> "FakeSite":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.closed.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer_with(self, reply: Callable[..., None]) -> None:
        """Let a function take the place of `Visit.reply`."""
        self._server.RequestHandlerClass.reply = lambda *args, **options: reply(*args, **options)  # type: ignore[attr-defined]

    def paths(self, method: str) -> list[str]:
        """Return the paths that were asked with a method, in order."""
        return [seen.path for seen in self.seen if seen.method == method]


def in_turn(*answers: Callable[[Visit], None]) -> Callable[[Visit, Seen], None]:
    """Return a function that gives one answer after the other, and the last one for ever."""
    left = list(answers)

    def answer(visit: Visit, seen: Seen) -> None:
        (left.pop(0) if len(left) > 1 else left[0])(visit)

    return answer
