"""A blob on its way from a CDCS site, which is asked for the rest when it breaks off."""

import io
from contextlib import ExitStack
from typing import Any

from ...checksums import CHUNK
from .bodies import BlobStream, TransferBrokenError
from .client import CDCSClient

_PIECE = 2**18
# A site that sent this many bytes after a failure has earned as much patience as at the beginning.
_PROGRESS = 2**24


class Download(io.RawIOBase):
    """The bytes of a blob from an offset on.

    Where a site, or a proxy before it, honours ``Range``, only the rest is sent again. Stock CDCS sends everything
    again, and what came before is passed over.

    Parameters
    ----------
    curator : CDCSClient
        Talks to the site.
    url : str
        Handle or PID of the blob.
    offset : int
        The first byte.
    size : int
        How many bytes the whole blob has; at most one beyond it is read.

    Raises
    ------
    NotFoundError
        When the site does not have it.
    """

    def __init__(self, curator: CDCSClient, url: str, offset: int, size: int) -> None:
        self._curator, self._url, self._position, self._size = curator, url, offset, size
        self._failures, self._progress = 0, 0
        self._connection = ExitStack()
        self._connect()

    def _connect(self) -> None:
        self._connection.close()
        opened = self._curator.open_blob(self._url, self._position, most=self._size + 1)
        self._stream: BlobStream = self._connection.enter_context(opened)
        self._ahead = self._position - self._stream.start

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill some of a buffer.

        Raises
        ------
        TransferBrokenError
            When the site broke off too often.
        """
        view = memoryview(buffer).cast("B")[:_PIECE]
        while True:
            try:
                self._pass_over()
                count = self._stream.readinto(view)
            except TransferBrokenError as error:
                self._failures += 1
                if self._failures >= self._curator.attempts:
                    raise error from None
                self._curator.pause(self._failures)
                self._connect()
                continue
            self._position += count
            self._progress += count
            if self._progress >= _PROGRESS:
                self._failures, self._progress = 0, 0
            return count

    def _pass_over(self) -> None:
        while self._ahead and (data := self._stream.read(min(self._ahead, CHUNK))):
            self._ahead -= len(data)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
        super().close()
