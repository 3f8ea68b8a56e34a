"""A CDCS site in memory that tells the truth except where a test makes it lie."""

import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from .fake import FakeSite, Seen, Visit

TOKEN = "t0ken-0f-a11ce"
TEMPLATES = {"Release": 1, "BlobMetadata": 2}
PUBLIC = "Global Public Workspace"
Lie = Callable[[Visit, Seen], None]


class FakeCDCS(FakeSite):
    """Knows one user, one workspace and the two templates of releases; gives a token for any password.

    Attributes
    ----------
    base_url : str
        Its address.
    records : list of dict
        What was published, as the site tells it.
    blobs : list of bytes
        What was uploaded.
    lies : list of tuple
        What it does not tell the truth about, as :meth:`lie` was told.
    """

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.base_url = self.url
        self.records: list[dict[str, Any]] = []
        self.blobs: list[bytes] = []
        self._names: list[str] = []
        self.lies: list[tuple[str, re.Pattern[str], Lie]] = []

    def lie(self, method: str, path: str, answer: Lie) -> None:
        """Answer requests so from now on; the path is a regular expression that matches from its beginning."""
        self.lies.append((method, re.compile(path), answer))

    def plant(self, template: str, content: object) -> dict[str, Any]:
        """Keep a record of any content; a text is kept as it is, anything else as JSON."""
        text = content if isinstance(content, str) else json.dumps(content)
        title = content.get("title", "") if isinstance(content, dict) else ""
        number = len(self.records) + 1
        self.records.append(
            {
                "id": number,
                "title": title,
                "template": TEMPLATES[template],
                "workspace": 1,
                "creation_date": f"2026-01-01T00:00:{number:02}Z",
                "content": text,
            }
        )
        return self.records[-1]

    def plant_blob(self, data: bytes, name: str = "") -> str:
        """Keep a blob and return its PID."""
        self.blobs.append(data)
        self._names.append(name)
        return f"{self.url}/pid/{len(self.blobs)}"

    # --- what is true ---------------------------------------------------------------------------------------------

    def _answer(self, visit: Visit, seen: Seen) -> None:
        for method, path, lie in self.lies:
            if method == seen.method and path.match(seen.path):
                return lie(visit, seen)
        return self.tell_the_truth(visit, seen)

    def tell_the_truth(self, visit: Visit, seen: Seen) -> None:
        """Answer as CDCS does."""
        parts = urlsplit(seen.path)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        number = int(digits[0]) if (digits := re.findall(r"/(\d+)(?=/|$)", parts.path)) else 0
        route = f"{seen.method} {re.sub(r'/[0-9]+(?=/|$)', '/#', parts.path)}"
        if route == "POST /api-token-auth/":
            visit.reply(200, {"token": TOKEN})
        elif route == "GET /rest/template-version-manager/global/":
            visit.reply(200, [{"id": n, "title": t, "current": n, "versions": [n]} for t, n in TEMPLATES.items()])
        elif route == "GET /rest/workspace/read_access":
            visit.reply(200, [{"id": 1, "title": PUBLIC}])
        elif route == "POST /rest/data/query/":
            self._search(visit, json.loads(seen.body))
        elif route == "GET /rest/data/":
            found = [item for item in self.records if item["title"] == asked["title"]]
            visit.reply(200, {"count": len(found), "next": None, "results": found})
        elif route == "GET /rest/data/#/":
            visit.reply(200, self.records[number - 1])
        elif route == "PATCH /rest/data/#/":
            sent = json.loads(seen.body)
            self.records[number - 1] |= {"title": sent["title"], "content": sent["content"]}
            visit.reply(200, self.records[number - 1])
        elif route == "POST /rest/data/":
            sent = json.loads(seen.body)
            template = next(title for title, ident in TEMPLATES.items() if ident == sent["template"])
            made = self.plant(template, sent["content"])
            made["title"] = sent["title"]
            visit.reply(201, made)
        elif route == "GET /rest/blob/":
            names = [name for name in self._names if re.match(asked.get("filename", ""), name)]
            visit.reply(200, [self._blob(self._names.index(name) + 1) for name in names])
        elif route == "GET /rest/blob/#/":
            visit.reply(200, self._blob(number))
        elif route == "POST /rest/blob/":
            head, _, rest = seen.body.partition(b"application/octet-stream\r\n\r\n")
            name = re.search(rb'name="filename"\r\n\r\n(.*)\r\n', head)
            self.plant_blob(rest[: rest.rindex(b"\r\n--")], name[1].decode() if name else "")
            visit.reply(201, self._blob(len(self.blobs)))
        elif route in ("GET /pid/#", "GET /rest/blob/download/#/"):
            visit.reply(200, self.blobs[number - 1], content_type="application/octet-stream")
        elif route in ("PATCH /rest/blob/#/assign/#", "POST /rest/blob/#/metadata/#/"):
            visit.reply(200, {})
        elif seen.method == "DELETE":
            visit.reply(204)
        else:
            visit.reply(404, {"message": f"{route} is not there."})

    def _blob(self, number: int) -> dict[str, Any]:
        handle = f"{self.url}/rest/blob/download/{number}/"
        name = self._names[number - 1]
        return {"id": number, "filename": name, "handle": handle, "pid": f"{self.url}/pid/{number}", "workspace": None}

    def _search(self, visit: Visit, sent: dict[str, Any]) -> None:
        templates = [template["id"] for template in sent["templates"]]
        found = [item for item in self.records if item["template"] in templates and _matches(item, sent["query"])]
        visit.reply(200, found if sent.get("all") else {"count": len(found), "next": None, "results": found})


def _matches(item: dict[str, Any], query: dict[str, Any]) -> bool:
    """Tell whether a record has what is asked for; one that is no JSON object is found by everybody."""
    try:
        content = json.loads(item["content"])
    except (ValueError, RecursionError):
        return True
    if not isinstance(content, dict):
        return True
    return all(
        content.get(key) in wanted["$in"] if isinstance(wanted, dict) else content.get(key) == wanted
        for key, wanted in query.items()
    )
