"""What the tests of archives on a CDCS site share: who logs in, how a site is asked what it holds, and runs on it."""

import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline import CDCSArchive
from tests.cdcs_server import USERS, CDCSServer
from tests.support import Outcome, Workshop, tree

PUBLIC, OTHER = "Global Public Workspace", "Group of Alice"


def archive_of(server: CDCSServer, name: str = "alice") -> CDCSArchive:
    """Return the archive on a server as one of its users sees it."""
    return CDCSArchive(server.base_url, name, USERS[name].password)


def make_archive(server: CDCSServer) -> None:
    """Install the templates on a new server, and give alice a workspace of her own."""
    archive_of(server, "admin").install_templates()
    alice = archive_of(server).curator
    alice.call("POST", "/rest/workspace/", {"title": OTHER}, doing="to make a workspace", expect=201)


def serve(folder: Path) -> Iterator[CDCSServer]:
    """Yield a site that is an archive, and stop it; the body of a fixture."""
    with CDCSServer(folder) as server:
        make_archive(server)
        yield server


class Site:
    """A user's folder, and a site where the user publishes under one title."""

    def __init__(self, workshop: Workshop, server: CDCSServer, title: str) -> None:
        self.workshop, self.server, self.title = workshop, server, title
        self.runs: list[subprocess.Popen[str]] = []
        self.log_in("alice")
        workshop.environment["PYTHON_KEYRING_BACKEND"] = "keyring.backends.null.Keyring"

    def log_in(self, name: str, password: str | None = None) -> None:
        """Let the runs that start from now on be those of somebody else."""
        self.workshop.environment |= {"PIPELINE_USER": name, "PIPELINE_PASSWORD": password or USERS[name].password}

    def options(self, **options: object) -> dict[str, Any]:
        """Return the options of any task."""
        return {"title": self.title, "archive": self.server.base_url, **options}

    def publish(self, version: str = "0.1.0", **options: object) -> Outcome:
        """Publish the project."""
        options = self.options(create_archive=None, **options)
        return told_no_secret(self.workshop.publish(version=version, **options))

    def fetch(self, **options: object) -> Outcome:
        """Fetch the release."""
        return told_no_secret(self.workshop.fetch(**self.options(**options)))

    def start(self, version: str = "0.1.0", **options: object) -> "subprocess.Popen[str]":
        """Start to publish the project."""
        options = self.options(project_directory="project", release_version=version, **options)
        self.runs.append(self.workshop.start("PublishRelease", **options))
        return self.runs[-1]

    def start_fetching(self, **options: object) -> "subprocess.Popen[str]":
        """Start to fetch the release."""
        self.runs.append(self.workshop.start("FetchRelease", **self.options(**options)))
        return self.runs[-1]

    def close(self) -> None:
        """End the runs that a failed test leaves: they would go on on the server of the next test."""
        for process in self.runs:
            if process.poll() is None:
                process.kill()
            with process:
                pass

    def fetched(self, version: str = "0.1.0", title: str = "") -> dict[str, bytes | None]:
        """Return the files that were fetched, of its own release or of another one."""
        found = tree(self.workshop.folder / "fetched" / f"{title or self.title}-v{version}")
        return {path: data for path, data in found.items() if data is not None and not path.startswith(".rme/")}


# Waits between attempts cost no time, and the patience with a silent site is short. There is no setting for either.
IMPATIENT = """
import pipeline.archives.cdcs.http as http
http.Site.__init__.__kwdefaults__.update(sleep=lambda seconds: None, read_timeout=1.0, attempts=2)
"""


def make_impatient(workshop: Workshop) -> None:
    """Let the runs of a workshop give up a site soon that does not answer: two attempts, and no pause between them."""
    folder = workshop.folder / "custom"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(IMPATIENT)
    workshop.environment["PYTHONPATH"] += f":{folder}"
    workshop.environment["PYTHONDONTWRITEBYTECODE"] = "1"


def told_no_secret(outcome: Outcome) -> Outcome:
    """Return an outcome when nobody's password is in what the run wrote."""
    assert not any(user.password in outcome.output for user in USERS.values())
    return outcome


def described(archive: CDCSArchive, digests: Iterable[str], workspace: str = PUBLIC) -> Counter[str]:
    """Return how many BlobMetadata records each digest has."""
    curator = archive.curator
    found = curator.query(
        curator.template_ids("BlobMetadata"), {"sha1": {"$in": list(digests)}}, curator.workspace_id(workspace)
    )
    return Counter(data.content()["sha1"] for data in found)


def stored(archive: CDCSArchive, digests: Iterable[str]) -> Counter[str]:
    """Return how many blobs the site has whose name tells one of the digests."""
    wanted = set(digests)
    names = (blob.filename[:40] for blob in archive.curator.list_own_blobs())
    return Counter(name for name in names if name in wanted)
