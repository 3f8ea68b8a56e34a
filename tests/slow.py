"""Runs that read only as far as a test lets them, so that it can look at them in the middle."""

from pathlib import Path

from tests.support import Workshop

# Each blob is read in pieces of 1 MiB; the file `allowed` says how many of them may be read.
_READ_SLOWLY = """
import itertools, os, pathlib, time
import pipeline.transfer

read_chunks = pipeline.transfer.read_chunks
allowed = pathlib.Path({allowed!r})

def read_slowly(stream, chunk):
    allowed.with_name(os.uname().nodename).touch()
    chunks = read_chunks(stream, chunk)
    for number in itertools.count():
        while number >= int(allowed.read_text()):
            time.sleep(0.01)
        data = next(chunks, None)
        if data is None:
            return
        yield data

pipeline.transfer.read_chunks = read_slowly
"""


class SlowDisk:
    """What the runs of a workshop read blobs from.

    Parameters
    ----------
    *workshops : Workshop
        Their runs that start from now on are slow.
    """

    def __init__(self, *workshops: Workshop) -> None:
        folder = workshops[0].folder / "slow"
        folder.mkdir()
        self._allowed: Path = folder / "allowed"
        self.allow(0)
        (folder / "sitecustomize.py").write_text(_READ_SLOWLY.format(allowed=str(self._allowed)))
        for workshop in workshops:
            workshop.environment["PYTHONPATH"] += f":{folder}"
            workshop.environment["PYTHONDONTWRITEBYTECODE"] = "1"

    def is_read_by(self, host: str) -> bool:
        """Tell whether a run on a host has begun to read."""
        return self._allowed.with_name(host).exists()

    def allow(self, pieces: int) -> None:
        """Let so many pieces of each blob be read."""
        new = self._allowed.with_suffix(".new")
        new.write_text(str(pieces))
        new.replace(self._allowed)

    def recover(self) -> None:
        """Be slow no more."""
        self.allow(10**9)
