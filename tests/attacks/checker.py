"""An independent checker of archives and fetched releases: the standard library, and nothing of the code under test.

It knows the layout of the README and no more. What it finds are sentences; none means that all promises hold.
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STATE = {".partial", ".damaged"}


def check_archive(archive: Path) -> Iterator[str]:
    """Yield what is wrong with the visible names of an archive."""
    for file in [*archive.glob("*/*/blobs/*/*"), *archive.glob("*/*/.records/*/*")]:
        if _digest(file) != file.name:
            yield f"{file.relative_to(archive)} has the bytes of {_digest(file)}"
    for file in archive.glob("*/*/*.yml"):
        yield from (f"{file.name}: {wrong}" for wrong in _check_record(file))


def check_fetched(folder: Path, record_file: Path) -> Iterator[str]:
    """Yield what is wrong with the visible files of a fetched release, whose record is in an archive."""
    promised = {path: sha1 for path, sha1, _ in files_of(json.loads(record_file.read_bytes())["project"])}
    found = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    visible = {path: file for path, file in found.items() if not path.startswith(".rme/")}
    for path, file in visible.items():
        if promised.get(path) != _digest(file):
            yield f"{path} has the bytes of {_digest(file)} instead of {promised.get(path)}"
    if ".rme/record.yml" in found:
        if found[".rme/record.yml"].read_bytes() != record_file.read_bytes():
            yield "the fetched record is not that of the archive"
        yield from (f"{path} is missing although the record is there" for path in promised.keys() - visible.keys())


def files_of(project: dict[str, Any]) -> Iterator[tuple[str, str, int]]:
    """Yield path, SHA-1 and size of each file of a record."""
    for name, node in project.items():
        if not name.startswith("/") and isinstance(node, dict) and "/item/" in node:
            if node["/item/"] == "Directory":
                yield from files_of(node)
            else:
                yield node["/path/"], node["/sha1/"], node["/bytes/"]


def _check_record(file: Path) -> Iterator[str]:
    try:
        record = json.loads(file.read_bytes())
        promised = list(files_of(record["project"]))
        if file.name != f"{record['title']}.yml":
            yield f"is the record of {record['title']}"
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        yield f"is no record: {error}"
        return
    for path, sha1, size in promised:
        blob = file.parent / "blobs" / sha1[:2] / sha1
        if size and not blob.is_file():
            yield f"the blob of {path} is missing"
        elif size and (blob.stat().st_size, _digest(blob)) != (size, sha1):
            yield f"the blob of {path} is damaged"


def _digest(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


if __name__ == "__main__":
    wrong = list(check_archive(Path(sys.argv[1])))
    print(*wrong, f"{len(wrong)} findings", sep="\n")
    sys.exit(bool(wrong))
