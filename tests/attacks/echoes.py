"""A CDCS site that repeats what it was told in confidence, in every place where an answer has room for it."""

import json
import re
import urllib.parse
from collections.abc import Callable, Iterator

from tests.cdcs_server.fake import FakeSite, Seen, Visit
from tests.cdcs_server.fake_cdcs import TOKEN, FakeCDCS

Echo = Callable[[Visit, list[str]], None]

# Where a site can be asked something: while logging in, planning, publishing and fetching.
PLACES = (
    ("POST", "/api-token-auth/"),
    ("GET", "/rest/template-version-manager/"),
    ("GET", "/rest/workspace/"),
    ("POST", "/rest/data/query/"),
    ("POST", "/rest/blob/$"),
    ("POST", "/rest/data/$"),
    ("PATCH", "/rest/blob/"),
    ("GET", "/pid/"),
)


def echoing(site: FakeCDCS, echo: Echo, secrets: list[str]) -> Callable[[Visit, Seen], None]:
    """Return a lie that repeats secrets, and how they came over the line."""

    def lie(visit: Visit, seen: Seen) -> None:
        # A token that it has not given yet is none of its client's secrets.
        token = "" if seen.path == "/api-token-auth/" else TOKEN
        told = [*secrets, token, seen.headers.get("Authorization", ""), seen.body.decode("latin-1")[:300]]
        echo(visit, [text for text in told if text])

    return lie


def _json(status: int, make: Callable[[str], object]) -> Echo:
    return lambda visit, told: visit.reply(status, make(" ".join(told)))


def _raw(head: str) -> Echo:
    """Return an answer with each secret in a place of its head, which ``%s`` marks."""

    def echo(visit: Visit, told: list[str]) -> None:
        one_line = " ".join(told).replace("\r", " ").replace("\n", " ").encode()
        visit.wfile.write(b"HTTP/1.1 " + head.replace("\n", "\r\n").encode().replace(b"%s", one_line) + b"\r\n\r\n")
        visit.drop()

    return echo


def _redirect(to: str, status: int = 302) -> Echo:
    def echo(visit: Visit, told: list[str]) -> None:
        quoted = urllib.parse.quote(" ".join(told), safe="")
        plain = next((text for text in told if re.fullmatch(r"[\w-]+", text)), quoted)
        visit.reply(status, location=to.replace("%s", quoted).replace("%r", plain))

    return echo


def _cut(visit: Visit, told: list[str]) -> None:
    # Whatever the length that is shown, some secret stands across its end.
    body = json.dumps({"message": "x" * 300 + " ".join(told) * 40 + "y" * 2**19})
    visit.reply(500, body.encode())


def _cut_everywhere(visit: Visit, told: list[str]) -> None:
    body = json.dumps({"message": "x" * (360 - len(told[0])) + told[0] * 10 + "y" * 2**19})
    visit.reply(500, body.encode())


def _all() -> Iterator[tuple[str, Echo]]:
    for status in (400, 401, 403, 404, 407, 413, 429, 500):
        yield f"a message, {status}", _json(status, lambda text: {"message": text})
    yield "a detail", _json(403, lambda text: {"detail": f"Invalid token. {text}"})
    yield "a text", _json(400, lambda text: text)
    yield "lists and mappings", _json(400, lambda text: {"message": {"a": [text, {"b": [text]}], "c": {"d": text}}})
    yield "a key", _json(400, lambda text: {"message": {text: [text]}})
    yield "JSON in JSON", _json(400, lambda text: {"message": json.dumps({"a": json.dumps(text)})})
    yield "the way of Python", _json(400, lambda text: {"message": repr({"a": text, "b": text.encode()})})
    yield (
        "a link",
        _json(400, lambda text: {"message": f"see /x?y={urllib.parse.quote(text)}&{urllib.parse.quote_plus(text)}"}),
    )
    yield "spaces", _json(400, lambda text: {"message": text.replace(" ", "\n  ")})
    yield "a page", lambda visit, told: visit.reply(500, " ".join(told).encode(), content_type="text/html")
    yield "a long message", _cut
    yield "a message that is cut", _cut_everywhere
    yield "another answer", _json(200, lambda text: {text: text})
    yield "ids and titles", _json(200, lambda text: [{"id": text, "title": text, "current": text, "filename": text}])
    yield "an id", lambda visit, told: visit.reply(201, {"id": TOKEN, "handle": f"/{TOKEN}", "pid": f"/{told[0]}"})
    yield "records", _json(200, lambda text: {"count": 2, "next": None, "results": [_record(text), _record(TOKEN)]})
    yield "the reason", _raw("403 %s\nContent-Length: 0")
    yield "no status", _raw("%s")
    yield "lines that are no headers", _raw("200 OK\nno header %s\n%s\n: %s")
    yield "the pause", _raw("503 No\nRetry-After: %s\nContent-Length: 0")
    yield "the length", _raw("200 OK\nContent-Length: %s")
    yield "the compression", _raw("200 OK\nContent-Encoding: %s\nContent-Length: 2")
    yield "a chunk", _raw("200 OK\nTransfer-Encoding: chunked\n\n%s")
    yield "a cookie", _raw("200 OK\nSet-Cookie: a=%s; Path=/\nContent-Type: text/html; charset=%s\nContent-Length: 0")
    yield "a redirect", _redirect("/x/%s")
    yield "a redirect of a write", _redirect("/x/%r/%s", 307)
    yield "a redirect with a query", _redirect("/x?a=%s#%s")
    yield "a redirect elsewhere", _redirect("http://127.0.0.1:9/%r/%s")
    yield "a redirect with a login", _redirect("http://%s:%s@127.0.0.1:9/%s")
    yield "a redirect to a name", _redirect("http://%r.example.org/")
    yield "a redirect to a login page", _redirect("/accounts/login/%s?next=%s")


def _record(text: str) -> dict[str, object]:
    content = {"title": f"sample-v{text}", "title_versionless": "sample", "version": text, "project": {text: text}}
    return {
        "id": 1,
        "title": text,
        "template": 1,
        "workspace": 1,
        "creation_date": text,
        "content": json.dumps(content),
    }


ECHOES: dict[str, Echo] = dict(_all())


class EchoingProxy(FakeSite):
    """An HTTP proxy that wants to know who one is, and repeats it; see `answer_with`."""

    def __init__(self) -> None:
        super().__init__(lambda visit, seen: visit.reply(407, {"message": "Who are you?"}))

    def answer_with(self, echo: Echo, secrets: list[str]) -> None:
        """Repeat secrets, and how they came over the line."""

        def answer(visit: Visit, seen: Seen) -> None:
            told = [*secrets, seen.headers.get("Proxy-Authorization", ""), seen.headers.get("Authorization", "")]
            echo(visit, [text for text in told if text])

        self.answer = answer
