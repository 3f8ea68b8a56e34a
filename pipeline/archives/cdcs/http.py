"""HTTP as a CDCS site needs it: guards passwords, refuses endless answers, repeats what a repetition may help.

Status codes of CDCS lie, proxies answer in its place, and redirects would carry a password away. Each failure becomes
one sentence that says what to do or what to ask the site for.
"""

import base64
import contextlib
import http.cookiejar
import json
import os
import random
import re
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import requests
import urllib3

from ...credentials import GIVEN, LoginRefusedError, Source
from ...errors import ArchiveError, CredentialsError, PipelineError, printable
from ...hiding import hide, hide_login, hide_proxies, without_secrets
from .bodies import (
    LARGEST_ERROR,
    LIMITS,
    PORTS,
    ROOM_FOR_HEADERS,
    Answer,
    Authorization,
    Multipart,
    PacedAdapter,
    TemporaryError,
    explain_failure,
    is_loopback,
    join_url,
    origin_of,
    pause_in,
    show_url,
)

T = TypeVar("T")
Ident = int | str

_LONGEST_PAUSE = 300.0
_LONGEST_MESSAGE = 400
_MOST_REDIRECTS = 5


class SiteRefusedError(ArchiveError):
    """The site answered, and the answer is no. Asking again would not help.

    Parameters
    ----------
    sentence : str
        What the user reads.
    status : int
        The HTTP status, which is not to be trusted alone: CDCS answers 500 to many mistakes of its clients.
    message : str, optional
        What the site itself said.
    """

    def __init__(self, sentence: str, status: int, message: str = "") -> None:
        super().__init__(sentence)
        self.status = status
        self.message = message


class NotAllowedError(SiteRefusedError):
    """The user is known and has no right to this."""


class NotFoundError(SiteRefusedError):
    """There is no such template, workspace, record or blob, or the user cannot see it."""


class SiteUnavailableError(ArchiveError):
    """The site did not answer as a working site does, several times in a row. Running again later may help."""


class _Session(requests.Session):
    """Connections that leave redirects alone: `Site.send` looks at them, and trusts none."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        return None


class Site:
    """One CDCS site as one user: may be shared by threads and survives a fork. `CDCSClient` says what can be asked."""

    def __init__(
        self,
        host: str,
        *,
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
        source: Source = GIVEN,
        ca_bundle: str | os.PathLike[str] | None = None,
        allow_http: bool = False,
        connect_timeout: float = 20.0,
        read_timeout: float = 120.0,
        attempts: int = 6,
        largest_answer: int = 2**29,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.host = (host if "://" in host else f"https://{host}").rstrip("/")
        self.user = user
        self._origin = origin_of(self.host, of_site=True)
        self._password, self._token, self._token_is_given = password, token, token is not None
        self._source, self._takes_no_token = source, False
        self._verify: bool | str = True if ca_bundle is None else os.fspath(ca_bundle)
        self._timeout = (connect_timeout, read_timeout)
        self.attempts, self._largest_answer, self._sleep = max(1, attempts), largest_answer, sleep
        self._given_up = False
        self._local = threading.local()
        hide(token)
        hide_login(user, password)
        hide_proxies()
        if password is not None and not user:
            raise CredentialsError(f"A password for {self.host} needs a user name; give both.")
        if token is not None and not re.fullmatch(r"[\x21-\x7e]+", token):
            raise CredentialsError(f"The token for {self.host} has characters that no token has; copy it again.")
        if not (self.anonymous or allow_http):
            refuse_plain_http(self.host)
        if ca_bundle is not None and not os.path.exists(ca_bundle):
            raise ArchiveError(f"The certificate bundle {printable(os.fspath(ca_bundle))} does not exist.")

    def __repr__(self) -> str:
        """Return what may be shown: never a secret."""
        return f"{type(self).__name__}({self.host!r}, user={self.user!r})"

    @property
    def anonymous(self) -> bool:
        """Tell whether there are no credentials to send."""
        return self._password is None and not self._token_is_given

    def log_in(self) -> None:
        """Try the password or token now; raise LoginRefusedError when the site does not accept it."""
        with contextlib.suppress(SiteRefusedError):
            self.call("GET", "/rest/core-settings/", doing="to tell its settings", repeat=True)

    def is_here(self, url: str) -> bool:
        """Tell whether an address, which comes from outside, is on this site."""
        with contextlib.suppress(ArchiveError):
            return origin_of(join_url(self.host + "/", url)) == self._origin
        return False

    def close(self) -> None:
        """Close the connections of this thread. The client stays usable."""
        if (session := getattr(self._local, "session", None)) is not None:
            self._local.session = None
            session.close()

    # --- asking ---------------------------------------------------------------------------------------------------

    def call(
        self,
        method: str,
        path: str,
        payload: Any = None,
        *,
        doing: str,
        expect: int = 200,
        repeat: bool = False,
        already_done: Callable[[], T | None] | None = None,
        body: "Callable[[], Multipart] | None" = None,
        public: bool = False,
        fits: Callable[[Any], bool] | None = None,
    ) -> Any:
        """Ask the site for something and return its answer, or raise one sentence.

        Parameters
        ----------
        method, path : str
            What to ask; the path begins with ``/``.
        payload : object, optional
            Sent as JSON.
        doing : str
            Completes the sentence "the site refuses ...".
        expect : int, optional
            The one status that means success.
        repeat : bool, optional
            Whether asking twice is the same as asking once. Otherwise a request that may have been seen is sent again
            only after `already_done` found nothing of it; what that returns is the answer if it finds something.
        body : callable, optional
            Makes the upload, anew for each attempt.
        public : bool, optional
            Send no credentials.
        fits : callable, optional
            Tells whether the JSON of an answer may be that to this question: a broken proxy mixes them up.
        """
        headers = {"Accept": "application/json"}
        if payload is not None:
            headers["Content-Type"] = "application/json"

        def attempt() -> Answer:
            content: Any = body() if body else None if payload is None else json.dumps(payload).encode()
            if isinstance(content, Multipart):
                headers["Content-Type"] = content.content_type
            allowance = self._largest_answer + ROOM_FOR_HEADERS
            got = self.send(method, self.host + path, headers, content, public=public, allowance=allowance)
            answer = got if isinstance(got, Answer) else self._read(got)
            if fits is not None and answer.status == expect and answer.is_json and not fits(answer.value):
                raise TemporaryError(
                    f"{show_url(self.host + path)} gave the answer to another question.", of_site=False
                )
            return answer

        answer = self.persist(attempt, repeat, already_done)
        if not isinstance(answer, Answer) or (answer.status == expect and (answer.is_json or answer.is_empty)):
            return answer
        raise self.refusal(answer, doing, self.host + path)

    def persist(
        self,
        attempt: Callable[[], T],
        repeat: bool,
        already_done: Callable[[], Any] | None = None,
        attempts: int | None = None,
    ) -> T | Any:
        """Return what `attempt` returns, trying again after failures that may pass.

        A site that was given up gets no second chance until something else succeeds.
        """
        most = attempts or (1 if self._given_up else self.attempts)
        number = 0
        while True:
            number += 1
            try:
                result = attempt()
                self._given_up = False
                return result
            except TemporaryError as error:
                failed = error.with_traceback(None)
            if failed.sent and not repeat and already_done is None:
                raise SiteUnavailableError(f"{failed} It is not known whether the request took effect; run again.")
            again = number < most and failed.pause <= _LONGEST_PAUSE
            if again:
                self.pause(number, failed.pause)
            if failed.sent and already_done is not None and (done := already_done()) is not None:
                return done
            if not again:
                self._given_up = attempts is None
                given_up = SiteUnavailableError(f"{failed} Tried {_times(number)}; run again later, or ask the site.")
                given_up.is_hopeless = failed.of_site
                raise given_up

    def pause(self, number: int, least: float = 0.0) -> None:
        """Wait after the failure of an attempt, the longer the more failed, and at least `least` seconds."""
        # Clients that failed together must not come back together.
        self._sleep(max(least, min(30.0, 2.0**number / 4)) * random.uniform(1.0, 1.5))  # noqa: S311  it keeps no secret

    def send(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        content: Any = None,
        *,
        public: bool = False,
        allowance: int,
    ) -> requests.Response | Answer:
        """Send one request, following redirects of a GET; return an answer that is no error with its body unread."""
        for _ in range(_MOST_REDIRECTS + 1):
            response = self._exchange(method, url, headers, content, public, allowance)
            if response.status_code >= 400:
                return self._unless_temporary(response)
            if response.status_code not in (301, 302, 303, 307, 308):
                return response
            response.close()
            url = self._redirected(method, url, response.headers.get("Location", ""))
        raise ArchiveError(f"{show_url(url)} redirects in circles; check the address, or tell the site.")

    def _exchange(
        self, method: str, url: str, headers: dict[str, str], content: Any, public: bool, allowance: int
    ) -> requests.Response:
        origin = origin_of(url)
        mine = origin == self._origin and not public
        header = self._authorization() if mine else None
        limits = LIMITS.set((self._timeout[1], allowance))
        try:
            return self._session().request(
                method,
                url,
                data=content,
                headers=headers,
                # A callable, also for nobody: requests would look into ~/.netrc otherwise.
                auth=Authorization(header),
                timeout=self._timeout,
                verify=self._verify if origin == self._origin else True,
                allow_redirects=False,
                stream=True,
                # A proxy of the environment must not get what is meant for this machine only.
                proxies={"no_proxy": origin[1]} if is_loopback(origin[1]) else None,
            )
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            # Raised below, outside of this block: the error holds the request, and with it the password.
            failure = explain_failure(error, show_url(url))
        finally:
            LIMITS.reset(limits)
        if isinstance(content, Multipart) and content.failure is not None:
            raise content.failure
        if isinstance(content, Multipart) and isinstance(failure, TemporaryError) and failure.sent:
            raise TemporaryError(
                f"{failure} A proxy may limit the size of uploads to less than {len(content)} bytes.", of_site=False
            )
        raise failure

    def _unless_temporary(self, response: requests.Response) -> Answer:
        """Return an error that is final; raise one that may pass."""
        url, pause = show_url(response.url), pause_in(response.headers.get("Retry-After", ""))
        answer = self._read(response)
        if answer.status in (502, 503, 504):
            raise TemporaryError(f"{url} is not available now (status {answer.status}).", pause)
        if answer.status == 500 and not answer.is_json:
            maybe = "; it may need a login" if self.anonymous else ""
            raise TemporaryError(f"{url} failed (status 500, without a reason{maybe}).", of_site=False)
        obtained = self._token is not None and not self._token_is_given
        if obtained and answer.status in (401, 403) and _BAD_TOKEN.search(answer.said()):
            # The token that was obtained with the password is no longer valid: the next attempt gets another one.
            self._token = None
            raise TemporaryError(f"{url} does not accept the token that it gave.", sent=False)
        return answer

    def _read(self, response: requests.Response) -> Answer:
        try:
            return Answer.read(response, self._largest_answer)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            failure = explain_failure(error, show_url(response.url))
        raise failure

    def _redirected(self, method: str, url: str, location: str) -> str:
        """Return where a redirect leads, if one may go there."""
        target = join_url(url, location)
        origin, there = origin_of(url), origin_of(target)
        upgraded = origin[0] == "http" and there == ("https", origin[1], PORTS["https"])
        if method != "GET":
            # Following would turn a write into a read, or repeat the password elsewhere.
            raise ArchiveError(f"{show_url(url)} redirects to {show_url(target)}; use the address that the site uses.")
        if "login" in urlsplit(target).path.lower():
            error = CredentialsError(f"{show_url(url)} asks for a login; give a user who may read it, or ask the site.")
            error.is_hopeless = False  # it may be the only one that does
            raise error
        if there not in (origin, self._origin) and not upgraded:
            raise ArchiveError(f"{show_url(url)} redirects to another host, {show_url(target)}, which is not followed.")
        return target

    # --- who asks -------------------------------------------------------------------------------------------------

    def _session(self) -> requests.Session:
        """Return the connections of this process and thread: neither a fork nor a thread may share them."""
        if getattr(self._local, "session", None) is None or self._local.process != os.getpid():
            session = _Session()
            session.headers["User-Agent"] = "release-pipeline"
            # A session cookie would bring in a second identity, and with it cross-site checks on every write.
            session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
            for scheme in PORTS:
                session.mount(f"{scheme}://", PacedAdapter())
            self._local.session, self._local.process = session, os.getpid()
        return cast(requests.Session, self._local.session)

    def _authorization(self) -> str | None:
        if self.anonymous:
            return None
        if self._token is None and not self._takes_no_token:
            try:
                self._token = self._obtain_token()
            except TemporaryError as failure:
                # Whatever the site saw, it was not the request that the token is for.
                raise TemporaryError(str(failure), failure.pause, sent=False) from None
            self._takes_no_token = self._token is None
        if self._token is not None:
            return f"Token {self._token}"
        return "Basic " + base64.b64encode(f"{self.user}:{self._password}".encode()).decode()

    def _obtain_token(self) -> str | None:
        """Return a token, or None where the site gives none: then every request costs it a slow password check."""
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        content = json.dumps({"username": self.user, "password": self._password}).encode()
        url = f"{self.host}/api-token-auth/"
        allowance = LARGEST_ERROR + ROOM_FOR_HEADERS
        got = self._exchange("POST", url, headers, content, True, allowance)
        elsewhere = join_url(url, got.headers.get("Location", ""))
        if got.is_redirect and origin_of(elsewhere) != self._origin:
            got.close()
            self._redirected("POST", url, elsewhere)
        answer = self._read(got) if got.status_code < 400 else self._unless_temporary(got)
        token = answer.value.get("token") if isinstance(answer.value, dict) else None
        if answer.status == 200 and isinstance(token, str) and re.fullmatch(r"[\x21-\x7e]+", token):
            hide(token)
            return token
        if answer.status == 400 and answer.is_json:
            raise self._bad_credentials()
        return None

    def whom(self) -> str:
        """Return how to call whoever asks, in a sentence."""
        return f"'{printable(self.user)}'" if self.user else "nobody without a login" if self.anonymous else "the user"

    # --- what went wrong ------------------------------------------------------------------------------------------

    def _bad_credentials(self) -> LoginRefusedError:
        what = "token" if self._token_is_given else "password"
        refusal = f"{self.host} does not accept the {what} of {self.whom()}{self._source.where}"
        return LoginRefusedError(refusal, self._source.remedy)

    def refusal(self, answer: Answer, doing: str, url: str) -> PipelineError:
        """Return the error that says what the site refuses, why, and what to ask for."""
        status, said = answer.status, self._clean(answer.said())
        quoted = f": {said.rstrip('.')}" if said else f" (status {status})"
        if status < 400:
            return ArchiveError(f"{show_url(url)} answers with something else than CDCS would; check the address.")
        forbidden = status == 403 or (status == 500 and _NO_RIGHT.search(said))
        if status == 401 or (forbidden and (self.anonymous or _NO_LOGIN.search(said))):
            return self._no_login(said, doing)
        if forbidden:
            ask = f"ask the site for the right to it for {self.whom()}"
            return NotAllowedError(f"{self.host} refuses {doing}{quoted}; {ask}.", status, said)
        if status == 404:
            return NotFoundError(f"{self.host} refuses {doing}, because it is not there{quoted}.", status, said)
        for pattern, advice in _ADVICE:
            if pattern.search(f"{status} {said}"):
                return SiteRefusedError(f"{self.host} refuses {doing}{quoted}; {advice}.", status, said)
        return SiteRefusedError(f"{self.host} refuses {doing}{quoted}.", status, said)

    def _no_login(self, said: str, doing: str) -> CredentialsError:
        if self.anonymous:
            return CredentialsError(f"{self.host} asks for a login {doing}; give a user name and password, or a token.")
        if self._takes_no_token and "not provided" in said:
            return CredentialsError(f"{self.host} takes no password from programs; ask the site for a token.")
        return self._bad_credentials()

    @staticmethod
    def _clean(said: str) -> str:
        """Return what a site said, fit to be shown: on one line, short, and without a secret that it repeats."""
        return printable(" ".join(without_secrets(said).split()))[:_LONGEST_MESSAGE]


def refuse_plain_http(host: str) -> None:
    """Raise CredentialsError for a site that would get a secret unencrypted over a network."""
    scheme, name, _ = origin_of(host)
    if scheme != "https" and not is_loopback(name):
        raise CredentialsError(
            f"{host} would get the password or token unencrypted; use https, or name the host in "
            "[pipeline] plain_http_hosts in luigi.cfg."
        )


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


_BAD_TOKEN = re.compile("invalid token", re.IGNORECASE)
_NO_LOGIN = re.compile(r"invalid token|invalid username|credentials were not provided|inactive", re.IGNORECASE)
_NO_RIGHT = re.compile(r"enough rights?|permission|only administrators|not authenticated", re.IGNORECASE)
_ADVICE = [
    (re.compile("^413"), "a proxy limits the size of uploads: ask the site to raise it (nginx: client_max_body_size)"),
    (re.compile("extension.*allowed"), "ask the site to allow this kind of file (its setting BLOB_EXTENSIONS)"),
    (re.compile("^400 .*(workspace|template): .*exist"), "ask the site whether its workspace or template was removed"),
    (re.compile("^429"), "too many requests: run with fewer at the same time, or ask the site for a higher limit"),
    (re.compile("^(405|411|501)"), "a proxy in front of the site may forbid it: ask the site"),
]
