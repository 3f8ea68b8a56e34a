"""Look for planted secrets in everything that a run leaves, however they are written."""

import base64
import html
import itertools
import json
import os
import threading
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path


def spellings(secret: str) -> dict[str, set[bytes]]:
    """Return how a secret may be written, by the name of the way.

    Examples
    --------
    >>> sorted(spellings("s3cret&")["base64"])
    [b'MzY3JldC', b'MzY3JldCY', b'czNjcmV0J', b'czNjcmV0Jg', b'zM2NyZXQm']
    """
    data = secret.encode()
    texts = {
        "as it is": {secret},
        "quoted for a URL": {
            urllib.parse.quote(secret),
            urllib.parse.quote(secret, ""),
            urllib.parse.quote_plus(secret),
        },
        "as JSON": {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]},
        "as Python writes it": {repr(secret)[1:-1], ascii(secret)[1:-1], repr(data)[2:-1]},
        "as HTML": {html.escape(secret), html.escape(secret, quote=False)},
        "backwards": {secret[::-1], repr(secret[::-1])[1:-1]},
        "hexadecimal": {data.hex(), data.hex().upper(), data.hex(" "), data.hex(":")},
    }
    found = {way: {text.encode() for text in some} for way, some in texts.items()}
    found["quoted for a URL"] |= {text.lower() for text in found["quoted for a URL"]}
    found["UTF-16"] = {secret.encode("utf-16-le"), secret.encode("utf-16-be")}
    found["UTF-32"] = {secret.encode("utf-32-le"), secret.encode("utf-32-be")}
    found["Latin-1"] = {secret.encode("latin-1", "replace")}
    found["base64"] = set(_in_base64(data))
    found["with other spaces"] = {" ".join(secret.split()).encode()}
    most = max(8, len(secret) * 2 // 3)
    found["for the most part"] = {secret[:most].encode(), secret[-most:].encode()}
    return found


def _in_base64(data: bytes) -> Iterator[bytes]:
    """Yield what of its base64 does not depend on what stands before and after it."""
    for before, encode in itertools.product(range(3), (base64.b64encode, base64.urlsafe_b64encode)):
        first = [0, 2, 3][before]
        text = encode(bytes(before) + data).rstrip(b"=")
        whole = (before + len(data)) * 8 // 6
        yield text[first:whole]
        yield text[first:]


class Search:
    """Looks for secrets.

    Parameters
    ----------
    secrets : mapping of str to str
        What each is, for people, and the secret itself.

    Attributes
    ----------
    files, nbytes : int
        How much was searched.
    """

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._needles = {
            f"{what}, {way}": needles for what, secret in secrets.items() for way, needles in spellings(secret).items()
        }
        self.files = self.nbytes = 0

    def found(self, data: bytes | str) -> list[str]:
        """Return which secrets are in some bytes, and how they are written there."""
        data = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
        self.nbytes += len(data)
        return [what for what, needles in self._needles.items() if any(needle in data for needle in needles)]

    def in_files(self, folder: Path, but: Iterable[Path] = ()) -> list[str]:
        """Return which secrets are in the files below a folder, and in their names, and in which of them.

        Parameters
        ----------
        folder : Path
            Where to look; hidden files too.
        but : iterable of Path
            Files and folders that were given the secrets.
        """
        leaks, spared = [], {os.path.realpath(path) for path in but}
        for root, folders, files in os.walk(folder):
            folders[:] = [name for name in folders if os.path.realpath(Path(root, name)) not in spared]
            for name in files + folders:
                path = Path(root, name)
                if os.path.realpath(path) in spared:
                    continue
                data = os.fsencode(name)
                if path.is_symlink():
                    data += b"\n" + os.fsencode(path.readlink())
                elif path.is_file():
                    data += b"\n" + path.read_bytes()
                    self.files += 1
                leaks += [f"{path.relative_to(folder)}: {what}" for what in self.found(data)]
        return leaks


class ProcessWatch:
    """Looks at the command lines and environments of all processes for as long as it is open.

    Parameters
    ----------
    search : Search
        What to look for.
    may_know : mapping of str to str
        Variables that a process may have in its environment, because it was given them; name to value.

    Attributes
    ----------
    leaks : set of str
        What was found.
    processes : set of int
        Which processes were looked at.
    """

    def __init__(self, search: Search, may_know: Mapping[str, str] | None = None) -> None:
        self._search = search
        self._given = {f"{name}={value}".encode() for name, value in (may_know or {}).items()}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.leaks: set[str] = set()
        self.processes: set[int] = set()

    def __enter__(self) -> "ProcessWatch":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(0.01):
            for folder in Path("/proc").glob("[0-9]*"):
                try:
                    command = (folder / "cmdline").read_bytes()
                    environment = (folder / "environ").read_bytes()
                except OSError:
                    continue  # it ended, or is somebody else's
                self.processes.add(int(folder.name))
                kept = [pair for pair in environment.split(b"\0") if pair not in self._given]
                for what in self._search.found(command + b"\0" + b"\0".join(kept)):
                    self.leaks.add(f"process {command[:200]!r}: {what}")
