"""A CDCS site that lies at random: in statuses, headers, JSON, records and blobs.

Whatever it says, a run ends soon with a value or a sentence, and no file gets bytes that are not those of its record.
Long form: ``python -m tests.attacks.lying [--seconds N] [--seed S]``, which prints the seeds of what it finds.
"""

import argparse
import gzip
import hashlib
import json
import logging
import random
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keyring
from keyring.backends.null import Keyring

from pipeline.archives.cdcs.archive import CDCSArchive
from pipeline.archives.cdcs.client import CDCSClient
from pipeline.errors import PipelineError, explain
from pipeline.release import ReleaseRecord
from tests.attacks.fuzz import check_shown, watched
from tests.attacks.mutation import TEXTS, mutate, mutate_json
from tests.audits import PUBLIC, audit
from tests.cdcs_server.fake import Visit
from tests.cdcs_server.fake_cdcs import TOKEN, FakeCDCS
from tests.support import sha1

_FILES = {"a.txt": b"alpha", "b.txt": b"beta" * 1000}
_STATUSES = [200, 201, 202, 204, 206, 301, 302, 307, 400, 401, 403, 404, 409, 413, 416, 429, 500, 502, 503, 599]
_HEADERS = {
    "content_length": ["0", "5", "-1", "x", "99999999999", "1e3", ""],
    "content_encoding": ["gzip", "deflate", "br", "gzip, gzip", "identity", "\x1b[2J"],
    "content_range": ["bytes 3-4/5", "bytes 0-/x", "bytes 9-1/1"],
    "transfer_encoding": ["chunked", "gzip, chunked", "x"],
    "content_type": ["text/html", "application/json; charset=\x1b", ""],
    "location": ["/", "//x", *(text for text in TEXTS if text.isascii() and "\n" not in text)],
    "retry_after": ["-1", "0", "9" * 30, "Wed, 99 Oct 2026 99:99:99 GMT", "\x1b[2J", "Wed, 21 Oct 999999 07:28:00 GMT"],
    "set_cookie": ["a=b", "=" * 50],
}


class _Liar:
    """Changes what a fake site answers."""

    def __init__(self, source: random.Random, share: float) -> None:
        self._source, self._share = source, share

    def reply(self, visit: Visit, status: int, body: object = b"", **headers: str) -> None:
        """Answer, perhaps with something else."""
        if self._source.random() < self._share:
            status, body, headers = self._lie(status, body, headers)
        Visit.reply(visit, status, body, **headers)

    def _lie(self, status: int, body: object, headers: dict[str, str]) -> tuple[int, object, dict[str, str]]:
        source, way = self._source, self._source.randrange(10)
        if way == 0:
            status = source.choice(_STATUSES)
        if way == 1:
            name = source.choice(sorted(_HEADERS))
            headers |= {name: source.choice(_HEADERS[name])}
        if way == 2:
            packed = gzip.compress if source.random() < 0.5 else zlib.compress
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            return status, packed(content), headers | {"content_encoding": source.choice(["gzip", "deflate"])}
        if way == 3:
            status, body = source.choice(_STATUSES), {source.choice(["message", "detail", "x"]): source.choice(TEXTS)}
        if way in (4, 5):
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            return status, mutate(source, [content]), headers
        if way >= 6 and isinstance(body, (dict, list)):
            return status, self._change(body), headers
        return status, body, headers

    def _change(self, body: Any) -> object:
        results = body.get("results") if isinstance(body, dict) else None
        if results and self._source.random() < 0.6:
            changed = [dict(one) for one in results]
            one = self._source.choice(changed)
            one["content"] = json.dumps(mutate_json(self._source, json.loads(one["content"])))
            return {**body, "results": changed}
        try:
            return mutate_json(self._source, body)
        except RecursionError:
            return []


def _archive(fake: FakeCDCS) -> CDCSArchive:
    archive = CDCSArchive(fake.url, "alice", "a password")
    archive.curator = CDCSClient(
        fake.url,
        user="alice",
        token=TOKEN,
        read_timeout=0.3,
        attempts=2,
        largest_answer=2**22,
        sleep=lambda seconds: None,
    )
    return archive


def _fetch(archive: CDCSArchive, folder: Path) -> None:
    record = list(archive.get_release_records("sample").values())[-1]
    told = {path: blob.digest for blob in ReleaseRecord(record).blobs for path in blob.paths}
    try:
        archive.download_release(record, PUBLIC, 2, folder / "fetched", 1000, progress_bar=False)
    finally:
        for path, digest in told.items():
            file = folder / "fetched" / path
            if file.is_file():
                name = "sha1" if len(digest) == 40 else "sha256"
                assert hashlib.new(name, file.read_bytes()).hexdigest() == digest, f"{path} is not what its record says"


def _publish(archive: CDCSArchive, folder: Path) -> None:
    (folder / "new.txt").write_bytes(b"new")
    mapping: dict[str, Any] = {"new.txt": {"/item/": "File"}}
    archive.upload_blobs_and_update_mapping("sample-v0.2.0", "sample", PUBLIC, mapping, folder, 2, 1000)
    record = {"title": "sample-v0.2.0", "title_versionless": "sample", "version": "0.2.0", "project": mapping}
    archive.upload_release_record(record, PUBLIC)


def _look(archive: CDCSArchive, folder: Path) -> None:
    archive.list_releases()
    archive.get_release_versions("sample")
    archive.missing_templates()
    archive.curator.health()
    archive.curator.core_settings()


def _audit(archive: CDCSArchive, folder: Path) -> None:
    auditor = archive.auditor(PUBLIC)
    for title in auditor.titles():
        audit(archive, title=title)
    auditor.unnamed_blobs()
    auditor.unread_records()


_ACTIONS: list[Callable[[CDCSArchive, Path], None]] = [_fetch, _publish, _look, _audit]


def attempt(seed: str) -> bool:
    """Let a site lie to each action; return whether one of them was refused with a sentence."""
    source, refused = random.Random(seed), False
    with FakeCDCS() as fake, tempfile.TemporaryDirectory() as folder:
        pids = {path: fake.plant_blob(data, f"{sha1(data)}.txt") for path, data in _FILES.items()}
        project = {
            path: {"/item/": "File", "/bytes/": len(data), "/sha1/": sha1(data), "/bpid/": pids[path]}
            for path, data in _FILES.items()
        }
        record = {"title": "sample-v0.1.0", "title_versionless": "sample", "version": "0.1.0", "project": project}
        fake.plant("Release", record)
        for path, data in _FILES.items():
            fake.plant("BlobMetadata", {"sha1": sha1(data), "blob/PID/": pids[path], "/bytes/": len(data)})
        archive = _archive(fake)
        liar = _Liar(source, source.choice((0.05, 0.2, 0.6)))
        fake.answer_with(liar.reply)
        for action in source.sample(_ACTIONS, 2):
            try:
                with watched(30.0):
                    action(archive, Path(folder))
            except (PipelineError, OSError) as error:
                check_shown(explain(error))
                refused = True
        archive.curator.close()
    return refused


def run(seed: int, count: int | None = None, until: float = float("inf")) -> tuple[int, int, list[str]]:
    """Let sites lie, and return how many did, how often that was refused, and the seeds of findings."""
    keyring.set_keyring(Keyring())
    tried = refused = 0
    findings: list[str] = []
    while (count is None or tried < count) and time.monotonic() < until and len(findings) < 5:
        try:
            refused += attempt(f"{seed}/{tried}")
        except Exception as error:
            frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "pipeline" in frame.filename]
            where = " ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames[-3:])
            findings.append(f"{seed}/{tried}: {type(error).__name__}: {str(error)[:200]!r} at {where}")
        tried += 1
    return tried, refused, findings


def main() -> int:
    """Let sites lie for some time, print figures, and return 1 when something was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options = parser.parse_args()
    logging.disable()
    tried, refused, findings = run(options.seed, until=time.monotonic() + options.seconds)
    print(
        f"{tried:,} sites lied, {refused:,} were refused with a sentence, {len(findings)} findings, seed {options.seed}"
    )
    print(*findings, sep="\n")
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main())
