"""A network between a client and a real CDCS server that does something wrong with one request, or from there on."""

import contextlib
import itertools
import json
import os
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

from tests.cdcs_server.fake import FakeSite, Seen, Visit
from tests.cdcs_server.proxy import Reply

# The patience that `tests.cdcs.IMPATIENT` gives to a client, and somewhat more.
LONGER_THAN_PATIENCE = 1.3


class Fault(NamedTuple):
    """Something that goes wrong with a request.

    Attributes
    ----------
    kind : str
        What is alike.
    name : str
        What happens.
    happen : callable
        Does it, to a visit.
    may_last : bool
        Whether it may as well happen to every later request; what costs seconds each time does not.
    """

    kind: str
    name: str
    happen: "Callable[[BadNetwork, Visit, Seen], None]"
    may_last: bool = True


class BadNetwork(FakeSite):
    """Passes everything on to a server, except what a fault happens to.

    Attributes
    ----------
    upstream : str
        Address of the server.
    count : int
        How many requests came since the last :meth:`meet`.
    struck : str
        The first request that the fault happened to; empty while there was none.
    """

    def __init__(self) -> None:
        super().__init__(self._pass_on)
        self.upstream = ""
        self.count = 0
        self.struck = ""
        self._fault: Fault | None = None
        self._strikes: Callable[[int], bool] = lambda number: False
        self._answers: list[tuple[str, Reply]] = []
        self._shifted: dict[int, Reply] = {}
        self._waiting: list[tuple[str, threading.Event]] = []
        self._lock = threading.Lock()

    def meet(self, fault: Fault | None, number: int = 0, lasting: bool = False) -> None:
        """Count from now on; let a fault happen to the request of a number, or to that and all later ones."""
        with self._lock:
            self.count, self.struck, self._fault = 0, "", fault
            self._strikes = (lambda n: n >= number) if lasting else (lambda n: n == number)
            self._answers.clear()
            self._shifted.clear()

    def _pass_on(self, visit: Visit, seen: Seen) -> None:
        self.seen.clear()
        with self._lock:
            self.count += 1
            fault = self._fault if self._strikes(self.count) else None
            self.struck = self.struck or (f"{seen.method} {seen.path}" if fault else "")
        if fault is not None:
            fault.happen(self, visit, seen)
        elif seen.connection in self._shifted:
            # What was left over on this connection is taken for the answer, and so on for ever.
            earlier, self._shifted[seen.connection] = self._shifted[seen.connection], self.ask(visit, seen)
            earlier.send(visit)
        else:
            self.ask(visit, seen).send(visit)

    def ask(self, visit: Visit, seen: Seen) -> Reply:
        """Return what the server answers."""
        reply = Reply(*visit.forward(self.upstream, seen))
        with self._lock:
            self._answers.append((_kind(seen), reply))
            waiting, self._waiting = self._waiting, []
        for kind, is_over in waiting:
            if kind == _kind(seen):
                is_over.set()
            else:
                self._waiting.append((kind, is_over))
        return reply

    def shift(self, connection: int, reply: Reply) -> None:
        """Let every later request on a connection get the answer of the one before it."""
        self._shifted[connection] = reply

    def answer_of_another(self, seen: Seen, alike: bool) -> Reply:
        """Return an earlier answer, of the same kind of request or of another; an empty list where there is none."""
        with self._lock:
            found = [reply for kind, reply in self._answers if (kind == _kind(seen)) is alike]
        return found[-1] if found else Reply(200, {"Content-Type": "application/json"}, b"[]")

    def wait_for_repetition(self, seen: Seen) -> None:
        """Return when the same kind of request was answered once more, or a client would have tried again long ago."""
        is_over = threading.Event()
        with self._lock:
            self._waiting.append((_kind(seen), is_over))
        is_over.wait(2 * LONGER_THAN_PATIENCE)


def _kind(seen: Seen) -> str:
    """Return what a request asks for, without numbers."""
    path = urlsplit(seen.path).path
    return f"{seen.method} {'/'.join('#' if part.isdecimal() else part for part in path.split('/'))}"


# --- what goes wrong --------------------------------------------------------------------------------------------------


def _drop(network: BadNetwork, visit: Visit, seen: Seen) -> None:
    visit.drop()


def _reset(network: BadNetwork, visit: Visit, seen: Seen) -> None:
    visit.drop()
    visit.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # Closed as it is, without the polite end that the server would make of it.
    os.close(visit.connection.detach())


def _after_it_took_effect(happen: Callable[[BadNetwork, Visit, Seen], None]) -> Callable[..., None]:
    def do(network: BadNetwork, visit: Visit, seen: Seen) -> None:
        network.ask(visit, seen)
        happen(network, visit, seen)

    return do


def _delay(network: BadNetwork, visit: Visit, seen: Seen) -> None:
    reply = network.ask(visit, seen)
    network.closed.wait(LONGER_THAN_PATIENCE)
    reply.send(visit)


def _arrive_late(network: BadNetwork, visit: Visit, seen: Seen) -> None:
    network.wait_for_repetition(seen)
    network.ask(visit, seen)
    visit.drop()


def _cut_body(network: BadNetwork, visit: Visit, seen: Seen) -> None:
    reply = network.ask(visit, seen)
    visit.reply(reply.status, reply.body[: len(reply.body) // 2], content_length=str(max(1, len(reply.body))))
    visit.drop()


def _cut_body_without_length(network: BadNetwork, visit: Visit, seen: Seen) -> None:
    reply = network.ask(visit, seen)
    head = f"HTTP/1.1 {reply.status} OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
    visit.wfile.write(head.encode() + reply.body[: len(reply.body) // 2])
    visit.drop()


def _cut_head(network: BadNetwork, visit: Visit, seen: Seen) -> None:
    reply = network.ask(visit, seen)
    visit.wfile.write(f"HTTP/1.1 {reply.status} OK\r\nContent-Ty".encode())
    visit.drop()


def _answer_twice(network: BadNetwork, visit: Visit, seen: Seen) -> None:
    reply = network.ask(visit, seen)
    reply.send(visit)
    reply.send(visit)


def _shift_answers(network: BadNetwork, visit: Visit, seen: Seen) -> None:
    reply = network.ask(visit, seen)
    network.shift(seen.connection, reply)
    reply.send(visit)


def _answer_of_another(alike: bool) -> Callable[[BadNetwork, Visit, Seen], None]:
    def answer(network: BadNetwork, visit: Visit, seen: Seen) -> None:
        other = network.answer_of_another(seen, alike)
        network.ask(visit, seen)
        other.send(visit)

    return answer


def _trickle(network: BadNetwork, visit: Visit, seen: Seen) -> None:
    reply = network.ask(visit, seen)
    visit.close_connection = True
    visit.wfile.write(f"HTTP/1.1 {reply.status} OK\r\nContent-Length: {2**20}\r\n\r\n".encode())
    with contextlib.suppress(OSError):
        for byte in reply.body + b" " * 2**20:
            visit.wfile.write(bytes([byte]))
            if network.closed.wait(0.02):
                return


def _throttle(network: BadNetwork, visit: Visit, seen: Seen) -> None:
    reply = network.ask(visit, seen)
    visit.reply(reply.status, content_length=str(len(reply.body)))
    for piece in _pieces(reply.body, 2**14):
        network.closed.wait(0.02)
        visit.wfile.write(piece)


def _pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def _status(status: int, body: bytes, **headers: str) -> Callable[[BadNetwork, Visit, Seen], None]:
    kind = "application/json" if body.startswith(b"{") else "text/html"
    return lambda network, visit, seen: visit.reply(status, body, content_type=kind, **headers)


def _raw(data: bytes) -> Callable[[BadNetwork, Visit, Seen], None]:
    def answer(network: BadNetwork, visit: Visit, seen: Seen) -> None:
        visit.wfile.write(data)
        visit.drop()

    return answer


def _garbage_before_headers(network: BadNetwork, visit: Visit, seen: Seen) -> None:
    reply = network.ask(visit, seen)
    head = f"HTTP/1.1 {reply.status} OK\r\nno header at all\r\n\x01: \xff\r\nContent-Length: {len(reply.body)}\r\n\r\n"
    visit.wfile.write(head.encode("latin-1") + reply.body)


_HTML = b"<html><body>Something went wrong.</body></html>"
_NOISE = random.Random(7).randbytes(3000)
_GARBAGE = {
    "noise": _NOISE,
    "noise after a status line": b"HTTP/1.1 200 OK\r\n" + _NOISE + b"\r\n\r\n",
    "an endless header": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
    "a thousand headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 7\r\n\r\n[]     ",
    "a length that is none": b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n[]",
    "chunks that are none": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n[]\r\n",
    "another compression": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n[]",
    "a status that is none": b"HTTP/1.1 abc OK\r\n\r\n",
    "a redirect to nowhere": b"HTTP/1.1 302 Found\r\nLocation: http://[::1/%%%\r\nContent-Length: 0\r\n\r\n",
    "a redirect to a login": b"HTTP/1.1 302 Found\r\nLocation: /hotel/login\r\nContent-Length: 0\r\n\r\n",
    "a page for guests": b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
}
_BODIES = {"JSON": json.dumps({"detail": "Not now."}).encode(), "HTML": _HTML}


def _all() -> Iterator[Fault]:
    yield Fault("drop", "dropped", _drop)
    yield Fault("drop", "dropped after it took effect", _after_it_took_effect(_drop))
    yield Fault("reset", "reset", _reset)
    yield Fault("reset", "reset after it took effect", _after_it_took_effect(_reset))
    yield Fault("delay", "answered after the client gave up", _delay, may_last=False)
    yield Fault("late", LATE, _arrive_late, may_last=False)
    yield Fault("cut", "answered by half of a body", _cut_body)
    yield Fault("cut", "answered by half of a body of no length", _cut_body_without_length)
    yield Fault("cut", "answered by half of a head", _cut_head)
    yield Fault("twice", "answered twice", _answer_twice)
    yield Fault("twice", "answered twice, taken for later answers", _shift_answers, may_last=False)
    yield Fault("another", DENIED, _answer_of_another(True))
    yield Fault("another", "given the answer of another request", _answer_of_another(False))
    yield Fault("slow", "answered byte by byte", _trickle, may_last=False)
    yield Fault("slow", "answered slowly", _throttle)
    for status, (kind, body) in itertools.product((500, 502, 503, 504), _BODIES.items()):
        answer = _status(status, body, **({"retry_after": "1"} if status == 503 else {}))
        yield Fault(f"{status}", f"answered by {status} as {kind}", answer)
        yield Fault(f"{status}", f"answered by {status} as {kind} after it took effect", _after_it_took_effect(answer))
    for status, (kind, body) in itertools.product((401, 403, 429), _BODIES.items()):
        yield Fault(f"{status}", f"answered by {status} as {kind}", _status(status, body, retry_after="2"))
    yield Fault("headers", "answered with garbage among the headers", _garbage_before_headers)
    for name, data in _GARBAGE.items():
        yield Fault("garbage", f"answered by {name}", _raw(data))


# Nobody can know that it is still on its way: what it makes may be there twice.
LATE = "seen by the server when the client had tried again"
# Nobody can know that it has taken effect when each later answer is an old one, too: the same.
DENIED = "given the answer of a like request"
FAULTS = tuple(_all())
