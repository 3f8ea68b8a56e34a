"""What goes over a connection to a CDCS site: uploads, downloads, answers, patience with them, and what fails."""

import contextlib
import email.utils
import functools
import io
import ipaddress
import json
import logging
import re
import secrets
import time
from contextvars import ContextVar
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from ...checksums import Stream
from ...documents import load_json
from ...errors import ArchiveError, SourceChangedError, printable

PORTS = {"https": 443, "http": 80}
ROOM_FOR_HEADERS = 2**20
LARGEST_ERROR = 2**18
# An answer must bring this much within each read timeout spent waiting; without it one byte a minute would never end.
_LEAST_PROGRESS = 2**14
_BLOCK = 2**17
_UPLOAD_BLOCK = 2**20


class TransferBrokenError(ArchiveError):
    """A download that ended early or stood still. What came so far is good; it may go on from there."""


class TemporaryError(Exception):
    """A failure that may pass.

    Parameters
    ----------
    sentence : str
        What the user reads if it does not.
    pause : float, optional
        Seconds to wait at least, as the site asks.
    sent : bool, optional
        False when the site cannot have seen the request.
    of_site : bool, optional
        False when it may be a matter of this request alone.
    """

    def __init__(self, sentence: str, pause: float = 0.0, sent: bool = True, of_site: bool = True) -> None:
        super().__init__(sentence)
        self.pause = pause
        self.sent = sent
        self.of_site = of_site


# --- bodies -----------------------------------------------------------------------------------------------------------


class Multipart:
    """A form with one file, read as it is sent. Its length is known, because CDCS takes no chunked uploads."""

    def __init__(self, filename: str, stream: Stream, size: int) -> None:
        boundary = secrets.token_hex(16)
        # The part name decides about the extension only; the field keeps the real name, whatever its letters.
        part = re.sub(r"[^A-Za-z0-9._-]", "_", filename)[-100:]
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="filename"\r\n\r\n{filename}\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="blob"; filename="{part}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self.failure: Exception | None = None
        self._name, self._stream, self._left = filename, stream, size
        self._head, self._tail = io.BytesIO(head.encode()), io.BytesIO(f"\r\n--{boundary}--\r\n".encode())
        self._length = len(self._head.getbuffer()) + size + len(self._tail.getbuffer())

    def __len__(self) -> int:
        """Return the length of the whole body."""
        return self._length

    def read(self, size: int = -1) -> bytes:
        """Return the next piece; an empty one is the end."""
        if data := self._head.read(size):
            return data
        try:
            if data := self._file(_UPLOAD_BLOCK if size < 0 else size):
                return data
        except Exception as error:
            # Kept because urllib3 takes an error of the disk for one of the network.
            self.failure = error
            raise
        return self._tail.read(size)

    def _file(self, size: int) -> bytes:
        data = self._stream.read(min(size, self._left) if self._left else 1) or b""
        if bool(data) != bool(self._left):
            raise SourceChangedError(f"{printable(self._name)} changed while it was being uploaded; run again.")
        self._left -= len(data)
        return data


def _is_delimited(response: requests.Response) -> bool:
    """Tell whether an answer says where it ends, so that a cut would be noticed (RFC 9112, section 6.3)."""
    return response.status_code == 204 or response.raw.chunked or _length(response) is not None


def _length(response: requests.Response) -> int | None:
    announced = response.headers.get("Content-Length", "")
    return int(announced) if re.fullmatch(r"\d{1,18}", announced) else None


class BlobStream(io.RawIOBase):
    """The bytes of a blob as they come.

    Attributes
    ----------
    start : int
        Where in the blob the first byte stands: the offset that was asked for if the site honours it, else 0.
    length : int or None
        How many bytes the site announces from there on.
    """

    def __init__(self, response: requests.Response, start: int) -> None:
        self._response, self.start, self.length = response, start, _length(response)

    def readable(self) -> bool:
        """Return True."""
        return True

    def check_end(self) -> None:
        """Raise TransferBrokenError when the answer does not tell where it ends: nobody would notice a cut."""
        if not _is_delimited(self._response):
            url = show_url(self._response.url)
            raise TransferBrokenError(f"{url} does not tell how long it is; run again, or ask the site.")

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, completely except at the end; raise TransferBrokenError when the end comes too early."""
        view = memoryview(buffer).cast("B")
        url = show_url(self._response.url)
        try:
            data = self._response.raw.read(len(view), decode_content=False)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            why = _reason(error)
        else:
            view[: len(data)] = data
            return len(data)
        raise TransferBrokenError(f"The download of {url} broke off: {why}; run again to go on.")


class Answer(NamedTuple):
    """A whole answer: its status, and its JSON if it is JSON."""

    status: int
    is_json: bool
    value: Any
    is_empty: bool

    @classmethod
    def read(cls, response: requests.Response, most: int) -> "Answer":
        """Read the body of a response and close it; an error is cut short, anything else must fit."""
        body, cut = bytearray(), False
        with contextlib.closing(response):
            for piece in response.iter_content(2**16):
                body += piece
                if cut := response.status_code >= 400 and len(body) > LARGEST_ERROR:
                    break
                if len(body) > most:
                    raise ArchiveError(f"{show_url(response.url)} sends more than {most} bytes; tell the site.")
        if cut and "json" in response.headers.get("Content-Type", ""):
            return cls(response.status_code, True, body.decode("utf-8", "replace"), False)
        with contextlib.suppress(ValueError, RecursionError):
            return cls(response.status_code, True, load_json(body), False)
        return cls(response.status_code, False, None, not body.strip() and _is_delimited(response))

    def said(self) -> str:
        """Return what the site says, wherever it says it."""
        value = self.value
        if isinstance(value, dict):
            value = value.get("message", value.get("detail", value.get("non_field_errors", value)))
        if isinstance(value, dict):
            value = "; ".join(f"{key}: {join_texts(texts)}" for key, texts in value.items())
        return join_texts(value) if self.is_json else ""


# --- what urllib3 says ------------------------------------------------------------------------------------------------


class _Discreet(logging.Filter):
    """Lets urllib3 log no secret that a site put into an address or a header, and no traceback of a broken header."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = printable(record.getMessage()), ()
        return not record.exc_info


for _name in ("connection", "connectionpool", "response", "util.retry"):
    logging.getLogger(f"urllib3.{_name}").addFilter(_Discreet())


# --- patience ---------------------------------------------------------------------------------------------------------
# How long to wait, and how many bytes an answer may have: set while a request is sent, read by its socket.
LIMITS: ContextVar[tuple[float, int]] = ContextVar("limits")


class _PacedReader(io.RawIOBase):
    """What a socket receives, as long as it comes at a sensible pace and ends: headers and trailers included."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw
        self._patience, self._allowance = LIMITS.get()
        self._waited, self._received = 0.0, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        began = time.monotonic()
        count = self._raw.readinto(buffer) or 0
        # Only time spent waiting counts: whoever reads may be slow to store what came.
        self._waited += time.monotonic() - began
        self._received += count
        self._allowance -= count
        if self._allowance < 0:
            raise ArchiveError("The site sends more bytes than its answer can have; tell the site.")
        if self._received >= _LEAST_PROGRESS:
            self._waited, self._received = 0.0, 0
        elif count and self._waited > 2 * self._patience:
            raise TimeoutError("the answer comes too slowly")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _PacedSocket:
    """A connected socket whose answers are read through `_PacedReader`."""

    def __init__(self, connected: Any) -> None:
        self._connected = connected

    def makefile(self, mode: str, *args: Any, **options: Any) -> io.BufferedReader:
        return io.BufferedReader(_PacedReader(self._connected.makefile("rb", buffering=0)), _BLOCK)

    def sendall(self, data: Any) -> None:
        # urllib3 would give each piece of an upload only as long as it gives a connection.
        self._connected.settimeout(LIMITS.get()[0])
        self._connected.sendall(data)

    def fileno(self) -> int:
        return int(self._connected.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connected, name)


class _Paced:
    """Mixed into a connection, whose answers are then read through `_PacedReader`."""

    sock: Any

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]  # there is one in every kind of connection
        self.sock = _PacedSocket(self.sock)


@functools.cache
def _paced(pool: Any) -> Any:
    connection = type("PacedConnection", (_Paced, pool.ConnectionCls), {})
    return type("PacedPool", (pool,), {"ConnectionCls": connection})


def _pace(manager: Any) -> None:
    pools = manager.pool_classes_by_scheme
    manager.pool_classes_by_scheme = {scheme: _paced(pool) for scheme, pool in pools.items()}


class PacedAdapter(HTTPAdapter):
    """Makes connections that do not wait for ever, through proxies of any kind, too."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Make the pools of direct connections."""
        super().init_poolmanager(*args, **options, blocksize=_UPLOAD_BLOCK)
        _pace(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """Make the pools of connections through a proxy."""
        if proxy not in self.proxy_manager:
            _pace(super().proxy_manager_for(proxy, **options))
        return self.proxy_manager[proxy]


class Authorization:
    """Sets the header of one request, or none. Never shows it."""

    def __init__(self, header: str | None) -> None:
        self._header = header

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Set it."""
        if self._header is not None:
            request.headers["Authorization"] = self._header
        return request


# --- addresses and sentences ------------------------------------------------------------------------------------------


def origin_of(url: str, of_site: bool = False) -> tuple[str, str, int]:
    """Return scheme, host and port of an address, or raise if it is none that can be asked.

    The address that somebody gives for a site has no @ at all: a password before it may have any other character.
    """
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        if (
            parts.scheme in PORTS
            and parts.hostname
            and "@" not in (url if of_site else parts.netloc)
            and not re.search(r"[\x00-\x20\x7f\\]", url)
        ):
            return parts.scheme, parts.hostname, parts.port or PORTS[parts.scheme]
    # In what is no address a password may stand anywhere.
    shown = show_url(re.sub("//.*@", "//", url, flags=re.DOTALL))
    raise ArchiveError(f"{shown} is not an http or https address without user name, spaces and backslashes.")


def join_url(base: str, url: str) -> str:
    """Return the address that `url` means on a page at `base`."""
    with contextlib.suppress(ValueError):
        return urljoin(base, url)
    raise ArchiveError(f"{show_url(url)} is not an address; tell the site.")


def show_url(url: str | None) -> str:
    """Return an address fit to be shown: without user, password and query."""
    return printable(re.sub(r"//[^/]*@", "//", re.split(r"[?#]", url or "", maxsplit=1)[0]))[:200]


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def join_texts(value: Any) -> str:
    """Return a JSON value as text, a list with commas."""
    if isinstance(value, list):
        return ", ".join(map(join_texts, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def pause_in(text: str) -> float:
    """Return how many seconds a Retry-After header asks to wait; none where it cannot be understood."""
    number = text.strip()
    if re.fullmatch(r"\d{1,9}", number):
        return float(number)
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    return 0.0


def _reason(error: BaseException) -> str:
    """Return in a few words what a library says about a connection."""
    timeouts = (requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError)
    if isinstance(error, timeouts) or "timed out" in str(error):
        return "the site stopped sending"
    return "the connection was lost"


def explain_failure(error: BaseException, url: str) -> Exception:
    """Return what an error of the libraries means: one that may pass, or a sentence."""
    if isinstance(error, requests.exceptions.SSLError):
        return ArchiveError(
            f"The certificate of {url} is not trusted; give the bundle of the site's authority as [pipeline] ca_bundle "
            "in luigi.cfg."
        )
    if isinstance(error, requests.exceptions.ProxyError):
        return TemporaryError(f"The proxy on the way to {url} does not answer; check HTTPS_PROXY and NO_PROXY.")
    inner = getattr(error.args[0], "reason", None) if error.args else None
    if isinstance(error, requests.ConnectTimeout) or isinstance(inner, urllib3.exceptions.NewConnectionError):
        return TemporaryError(f"{url} cannot be reached; check the address and the network.", sent=False)
    if isinstance(error, (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)):
        return TemporaryError(f"{url} did not answer: {_reason(error)}.")
    if isinstance(error, urllib3.exceptions.HTTPError):
        return TemporaryError(f"{url} did not answer: {_reason(error)}.")
    return ArchiveError(
        f"{url} cannot be asked; check the address, and HTTPS_PROXY and NO_PROXY where there is a proxy."
    )
