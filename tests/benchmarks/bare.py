"""What publishing and a verified fetch cost at the least: a plain program with a thread pool, and no promises.

``python bare.py publish PROJECT ARCHIVE``, ``fetch ARCHIVE FOLDER`` and ``audit ARCHIVE``. Every file is read once,
hashed by SHA-1 as it is written beside its place, made durable in groups and renamed. What a size and a time of
change say to be the same as before is not read again. There are no locks, no resume and no look at what others do.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

THREADS = 8
GROUP = 512
CHUNK = 2**20
Record = dict[str, list[Any]]


class Job(NamedTuple):
    """A file that is to be copied: its path in the project, where it is, and its digest where that is known."""

    path: str
    source: str
    digest: str = ""


class Copier:
    """Copies files in groups.

    Parameters
    ----------
    parts : str
        Folder of the parts, on the file system of the targets.
    target : callable
        Returns the final name from the path and the digest of a file.
    """

    def __init__(self, parts: str, target: Callable[[str, str], str]) -> None:
        self._parts = parts
        self._target = target
        self._pool = ThreadPoolExecutor(THREADS)
        self._folders: set[str] = set()

    def copy(self, jobs: list[Job]) -> dict[str, str]:
        """Copy files; returns path to digest."""
        os.makedirs(self._parts, exist_ok=True)
        digests: dict[str, str] = {}
        for start in range(0, len(jobs), GROUP):
            digests.update(self._copy_group(jobs[start : start + GROUP]))
        os.rmdir(self._parts)
        return digests

    def _copy_group(self, group: list[Job]) -> dict[str, str]:
        numbered = list(enumerate(group))
        digests = dict(self._each(self._write, numbered))
        self._all(lambda item: sync(self._part(item[0])), numbered)
        changed = set()
        for number, job in numbered:
            target = self._target(job.path, digests[number])
            folder = os.path.dirname(target)
            if folder not in self._folders:
                os.makedirs(folder, exist_ok=True)
                self._folders.add(folder)
                changed.add(os.path.dirname(folder))
            os.replace(self._part(number), target)
            changed.add(folder)
        self._all(sync, changed)
        return {job.path: digests[number] for number, job in numbered}

    def _write(self, item: tuple[int, Job]) -> tuple[int, str]:
        number, job = item
        with open(job.source, "rb", buffering=0) as source, open(self._part(number), "wb", buffering=0) as part:
            digest = sha1(source, part.write)
        if job.digest and digest != job.digest:
            sys.exit(f"{job.source} is damaged")
        return number, digest

    def _part(self, number: int) -> str:
        return os.path.join(self._parts, str(number))

    def _each(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        # A few items at once: to hand over each of them costs more than to copy a small file.
        todo = list(items)
        shares = [todo[start::THREADS] for start in range(THREADS)]
        for results in self._pool.map(lambda share: [function(item) for item in share], shares):
            yield from results

    def _all(self, function: Callable[[Any], Any], items: Iterable[Any]) -> None:
        for _ in self._each(function, items):
            pass


def sha1(source: Any, write: Callable[[bytes], Any] = lambda data: None) -> str:
    """Read a stream to its end and return its digest."""
    digest = hashlib.sha1()
    size = os.fstat(source.fileno()).st_size
    while data := source.read(min(CHUNK, size + 1)):
        digest.update(data)
        write(data)
    return digest.hexdigest()


def sync(path: str) -> None:
    """Make a file or a folder durable."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def scan(folder: str, prefix: str = "") -> Iterator[tuple[str, list[int]]]:
    """Yield path, size and time of change of all files."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from scan(entry.path, f"{prefix}{entry.name}/")
            else:
                status = entry.stat()
                yield prefix + entry.name, [status.st_size, status.st_mtime_ns]


def read(file: str) -> Record:
    """Return what :func:`save` wrote; nothing without it."""
    try:
        with open(file, encoding="utf-8") as stream:
            return dict(json.load(stream))
    except FileNotFoundError:
        return {}


def save(record: Record, file: str) -> None:
    """Write a small file durably."""
    with open(f"{file}.part", "w", encoding="utf-8") as stream:
        json.dump(record, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(f"{file}.part", file)
    sync(os.path.dirname(file))


def blob(archive: str, digest: str) -> str:
    """Return where a blob is."""
    return os.path.join(archive, "blobs", digest[:2], digest)


def publish(project: str, archive: str) -> None:
    """Copy to the archive what it does not have, and write the record."""
    os.makedirs(archive, exist_ok=True)
    file = os.path.join(archive, "record.json")
    known, found = read(file), dict(scan(project))
    record = {
        path: known[path]
        for path, stamp in found.items()
        if path in known and known[path][:2] == stamp and os.path.exists(blob(archive, known[path][2]))
    }
    jobs = [Job(path, os.path.join(project, path)) for path in found if path not in record]
    if jobs:
        copier = Copier(os.path.join(archive, "parts"), lambda path, digest: blob(archive, digest))
        digests = copier.copy(jobs)
        record.update((path, [*found[path], digest]) for path, digest in digests.items())
    if record != known:
        save(record, file)


def fetch(archive: str, folder: str) -> None:
    """Copy from the archive what the folder does not have."""
    os.makedirs(folder, exist_ok=True)
    file = os.path.join(folder, ".fetched.json")
    known, record, found = read(file), read(os.path.join(archive, "record.json")), dict(scan(folder))
    jobs = [
        Job(path, blob(archive, digest), digest)
        for path, (_, _, digest) in record.items()
        if path not in found or known.get(path) != [*found[path], digest]
    ]
    if jobs:
        Copier(os.path.join(folder, ".parts"), lambda path, digest: os.path.join(folder, path)).copy(jobs)
        stamps = {path: [*stamp, record[path][2]] for path, stamp in scan(folder) if path in record}
        save(stamps, file)


def audit(archive: str) -> None:
    """Read every blob of the archive."""

    def is_sound(path: str) -> bool:
        with open(os.path.join(archive, "blobs", path), "rb", buffering=0) as stream:
            return sha1(stream) == os.path.basename(path)

    paths = [path for path, _ in scan(os.path.join(archive, "blobs"))]
    with ThreadPoolExecutor(THREADS) as pool:
        if not all(pool.map(is_sound, paths, chunksize=64)):
            sys.exit("a blob is damaged")


if __name__ == "__main__":
    operations: dict[str, Callable[..., None]] = {"publish": publish, "fetch": fetch, "audit": audit}
    operations[sys.argv[1]](*sys.argv[2:])
