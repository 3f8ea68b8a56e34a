"""What publishing to CDCS costs at the least: the REST conversation alone, by a plain script on `requests`.

``python bare_cdcs.py URL USER PASSWORD FOLDER THREADS`` uploads every file of a folder, describes it, attaches the
description, assigns the blob to the public workspace, and publishes one record at the end. It looks up nothing,
repeats nothing and verifies nothing.
"""

import hashlib
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests


class Conversation:
    """A logged-in user and the ids that every request needs."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url = url
        self._local = threading.local()
        login = {"username": user, "password": password}
        self._token = self.ask("POST", "/api-token-auth/", json=login)["token"]
        templates = self.ask("GET", "/rest/template-version-manager/global/")
        self.templates = {template["title"]: template["current"] for template in templates}
        workspaces = self.ask("GET", "/rest/workspace/read_access")
        self.workspace = next(item["id"] for item in workspaces if item["title"] == "Global Public Workspace")

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """Send a request over this thread's connection."""
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
        token = getattr(self, "_token", None)
        headers = {"Authorization": f"Token {token}"} if token else {}
        headers |= options.pop("headers", {})
        answer = self._local.session.request(method, self.url + path, headers=headers, timeout=600, **options)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def publish_file(self, file: Path) -> dict[str, Any]:
        """Upload one file and describe it."""
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha1").hexdigest()
        name = f"{digest}{file.suffix}"
        with file.open("rb") as stream:
            blob = self.ask("POST", "/rest/blob/", data=_Form(name, stream, file.stat().st_size), headers=_FORM)
        about = {"sha1": digest, "blob/PID/": blob["pid"], "/bytes/": file.stat().st_size}
        data = self.record(digest, "BlobMetadata", about)
        self.ask("POST", f"/rest/blob/{blob['id']}/metadata/{data['id']}/")
        self.ask("PATCH", f"/rest/blob/{blob['id']}/assign/{self.workspace}")
        return about

    def record(self, title: str, template: str, content: dict[str, Any]) -> Any:
        """Store a record."""
        record = {"title": title, "template": self.templates[template], "workspace": self.workspace}
        return self.ask("POST", "/rest/data/", json={**record, "content": json.dumps(content)})


_FORM = {"Content-Type": "multipart/form-data; boundary=bare"}


class _Form:
    """A form with one file, read as it is sent: the ``files`` of `requests` would hold it in memory."""

    def __init__(self, name: str, stream: Any, size: int) -> None:
        head = f'--bare\r\nContent-Disposition: form-data; name="blob"; filename="{name}"\r\n\r\n'.encode()
        self._pieces = [head, stream, b"\r\n--bare--\r\n"]
        self._length = size + len(head) + len(b"\r\n--bare--\r\n")

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Any:
        head, stream, tail = self._pieces
        yield head
        while data := stream.read(2**20):
            yield data
        yield tail


def main(url: str, user: str, password: str, folder: str, threads: str) -> None:
    """Publish a folder."""
    conversation = Conversation(url, user, password)
    files = sorted(file for file in Path(folder).rglob("*") if file.is_file())
    with ThreadPoolExecutor(int(threads)) as pool:
        project = dict(zip(map(str, files), pool.map(conversation.publish_file, files), strict=True))
    title = Path(folder).name
    names = {"title": f"{title}-v1.0.0", "title_versionless": title, "version": "1.0.0"}
    conversation.record(names["title"], "Release", {**names, "project": project})


if __name__ == "__main__":
    main(*sys.argv[1:])
