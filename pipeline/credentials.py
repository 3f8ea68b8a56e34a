"""Who logs in where: user names, passwords and tokens.

They are given, or come from the environment, from credential files, from the system keyring or from a prompt, in this
order. They are never logged, and never part of an exception.
"""

import contextlib
import getpass
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from .checksums import open_regular
from .errors import CredentialsError, SettingsError, SourceChangedError, printable
from .settings import normalize_host, read_aliases

log = logging.getLogger("pipeline")
T = TypeVar("T")

USER, PASSWORD, TOKEN = "PIPELINE_USER", "PIPELINE_PASSWORD", "PIPELINE_TOKEN"
_NAMES = (USER, PASSWORD, TOKEN)
_FIELDS = {TOKEN: "token", PASSWORD: "password"}
_LARGEST_FILE = 2**16
_MOST_QUESTIONS = 3


class Source(NamedTuple):
    """Where a password or token came from.

    Attributes
    ----------
    where : str
        Completes a sentence after "the password of alice".
    remedy : str
        What to do about a wrong one.
    """

    where: str
    remedy: str


GIVEN = Source("", "give the right one")
PROMPT = Source("", "run again and type the right one")
KEYRING = Source(
    " that is stored in the system keyring",
    f"run once in a terminal to be asked for the right one, or set {PASSWORD} or {TOKEN}",
)


class LoginRefusedError(CredentialsError):
    """The site does not accept a password or token.

    Parameters
    ----------
    refusal : str
        Says what is not accepted, without a full stop.
    remedy : str
        Says what to do.
    """

    def __init__(self, refusal: str, remedy: str) -> None:
        super().__init__(f"{refusal}; {remedy}, or ask the site.")
        self.refusal = refusal


@dataclass(frozen=True)
class Login:
    """Who logs in, with a password or a token, which are not shown.

    Examples
    --------
    >>> Login("alice", GIVEN, password="secret").user
    'alice'
    """

    user: str | None
    source: Source
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)

    @property
    def is_doubtful(self) -> bool:
        """Tell whether it is to be tried at once: a wrong one can be replaced, and a right one stored."""
        return self.source in (KEYRING, PROMPT)


# --- one run, several hosts -------------------------------------------------------------------------------------------

_hosts: set[str] = set()
_only_host: list[str] = []


def announce_hosts(*hosts: str) -> None:
    """Tell which hosts this process talks to, all of them before the first one is asked for anything.

    Variables and credential files without an alias in their names are for a run that talks to one host: it cannot be
    known whose secret they hold when there are two.

    Parameters
    ----------
    *hosts : str
        URLs of sites.
    """
    _hosts.update(map(normalize_host, hosts))


def _may_have_plain(host: str) -> bool:
    if not _only_host and _hosts == {host}:
        _only_host.append(host)
    return _only_host == [host]


# --- environment and credential files ---------------------------------------------------------------------------------


class _Offer(NamedTuple):
    """What variables, or credential files, with one ending hold: name without the ending to value."""

    values: dict[str, str]
    ending: str
    kind: str

    def login(self, user: str | None, names: Iterable[str]) -> Login | None:
        """Return the login that this offers to a user; it is for nobody else than the user that it names."""
        if user is not None and self.values.get(USER, user) != user:
            return None
        for name in names:
            if name in self.values:
                source = Source(f" in the {self.kind} {name}{self.ending}", "correct it there")
                return Login(user or self.values.get(USER), source, **{_FIELDS[name]: self.values[name]})
        return None


class _Offers:
    """What the environment and credential files hold for a host; what counts first comes first."""

    def __init__(self, host: str) -> None:
        announce_hosts(host)
        self.host = host
        self.withheld: list[str] = []
        self._endings = _endings(host)
        self._offers = self._read("environment variable", _read_variable) + self._read("credential file", _read_file)
        self.user = next((offer.values[USER] for offer in self._offers if USER in offer.values), None)

    def _read(self, kind: str, read: Callable[[str], str | None]) -> list[_Offer]:
        offers = []
        for ending in (*self._endings, ""):
            values = {name: value for name in _NAMES if (value := read(name + ending))}
            if ending or not values or _may_have_plain(self.host):
                offers.append(_Offer(values, ending, kind))
            else:
                self.withheld += [f"the {kind} {name}" for name in values]
        return offers

    def login(self, user: str | None, names: Iterable[str]) -> Login | None:
        """Return the first login for a user, or for the user that it names itself."""
        return next((login for offer in self._offers if (login := offer.login(user, names))), None)

    def missing(self, what: str, user: str | None = None) -> CredentialsError:
        """Return the error that says how to provide what is missing."""
        ending = self._endings[0] if self._endings else "_<ALIAS>" if self.withheld else ""
        names = [name + ending for name in _NAMES]
        nobody = "nobody answered" if _can_ask() else "nobody to ask"
        sentence = (
            f"There is no {what} for {printable(self.host)}, and {nobody}; set {names[0]} and {names[1]}, or "
            f"{names[2]}, or run once in a terminal to store them"
        )
        if self.withheld:
            sentence += f" ({self.why_withheld()})"
        elif others := self._others(user):
            sentence += f" (what is set already is for '{printable(others[0])}')"
        return CredentialsError(f"{sentence}.")

    def _others(self, user: str | None) -> list[str]:
        named = [offer.values[USER] for offer in self._offers if {USER} < offer.values.keys()]
        return [other for other in named if user is not None and other != user]

    def why_withheld(self) -> str:
        """Return why a variable or credential file that is there is not used."""
        return (
            f"{' and '.join(self.withheld)} cannot be used, because this run talks to several hosts; names that end "
            "in _<ALIAS> are for one of them, where <ALIAS> is its name in the section [archives] of luigi.cfg"
        )


def _endings(host: str) -> list[str]:
    """Return the endings of variable names for a host: one for each of its aliases.

    Raises
    ------
    SettingsError
        When an ending belongs to another host as well.
    """
    owners: dict[str, dict[str, str]] = {}
    for alias, location in read_aliases().items():
        if "://" in location:
            ending = "_" + re.sub("[^A-Z0-9]", "_", alias.upper())
            owners.setdefault(ending, {})[normalize_host(location)] = alias
    endings = [ending for ending, hosts in owners.items() if host in hosts]
    for ending in endings:
        if len(owners[ending]) > 1:
            aliases = " and ".join(map(printable, owners[ending].values()))
            raise SettingsError(
                f"[archives] in luigi.cfg: {aliases} are different sites, and {PASSWORD}{ending} would be for each of "
                "them; rename one."
            )
    return endings


def _read_variable(name: str) -> str | None:
    value = os.environ.get(name)
    if value is not None and not _is_text(value):
        raise CredentialsError(f"The environment variable {name} is not valid UTF-8; set it again.")
    return value


def _read_file(name: str) -> str | None:
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        return None
    path = Path(folder, name)
    try:
        with open(open_regular(path), "rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    except FileNotFoundError:
        return None
    except SourceChangedError:
        problem = "it is not a regular file"
    except OSError as error:
        problem = (error.strerror or "it cannot be read").lower()
    else:
        text = data.decode("utf-8", "surrogateescape")
        if len(data) <= _LARGEST_FILE and _is_text(text):
            return text.removesuffix("\n").removesuffix("\r")
        problem = "it is not a short text in UTF-8"
    raise CredentialsError(f"The credential file {printable(path)} cannot be used: {problem}; correct it or remove it.")


def _is_text(value: str) -> bool:
    # An error that Python raises for such a text would show it.
    return value == value.encode("utf-8", "ignore").decode("utf-8")


# --- keyring ----------------------------------------------------------------------------------------------------------

_keyring_failed: list[str] = []


def _with_keyring(use: Callable[[Any], T]) -> T | None:
    """Return what `use` returns of the module ``keyring``, or None: there are machines where nothing of it works."""
    try:
        import keyring

        return use(keyring)
    except Exception as error:
        # What a backend says could repeat the password; its kind cannot.
        failure = type(error).__name__
    if not _keyring_failed:
        _keyring_failed.append(failure)
        log.warning("There is no usable system keyring here (%s): no password is read from it or stored.", failure)
    return None


def _stored(host: str, user: str | None) -> Login | None:
    """Return the login in the keyring, of anybody if nobody is named."""
    service = _service(host)
    if user is not None:
        password = _with_keyring(lambda keyring: keyring.get_password(service, user))
        return Login(user, KEYRING, password) if password and _is_text(password) else None
    found = _with_keyring(lambda keyring: keyring.get_credential(service, None))
    if found is None or not (found.username and found.password and _is_text(found.username + found.password)):
        return None
    return Login(found.username, KEYRING, found.password)


def _store(host: str, login: Login) -> None:
    def store(keyring: Any) -> None:
        if keyring.get_password(_service(host), login.user) != login.password:
            keyring.set_password(_service(host), login.user, login.password)

    _with_keyring(store)


def _service(host: str) -> str:
    return f"release-pipeline {host}"


# --- prompt -----------------------------------------------------------------------------------------------------------


def _can_ask() -> bool:
    try:
        return sys.stdin is not None and sys.stdin.isatty()
    except ValueError:
        return False  # it is closed


def _ask(prompt: str, read: Callable[[str], str]) -> str:
    """Return what somebody at the terminal answers; nothing where there is no terminal."""
    if not _can_ask():
        return ""
    # The standard output may be a file. Where a terminal cannot hide what is typed, a password is not asked for.
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("error", getpass.GetPassWarning)
        with contextlib.suppress(EOFError, OSError, UnicodeError, getpass.GetPassWarning):
            return read(prompt)
    return ""


def _ask_user(offers: _Offers) -> str:
    if user := _ask(f"User name for {printable(offers.host)}: ", input).strip():
        return user
    raise offers.missing("user name")


def _ask_password(offers: _Offers, user: str) -> str:
    if password := _ask(f"Password of {printable(user)} for {printable(offers.host)}: ", getpass.getpass):
        return password
    raise offers.missing(f"password of '{printable(user)}'", user)


# --- all together -----------------------------------------------------------------------------------------------------


def get_credentials(host: str, user: str | None = None, password: str | None = None) -> tuple[str, str]:
    """Return the user name and password for a host, asking for what is missing.

    What is not given is taken from the environment (``PIPELINE_USER``, ``PIPELINE_PASSWORD``), a credential file of
    systemd, the system keyring, or a prompt where there is a terminal. What was given or asked for is stored in the
    keyring, so that it is asked for once; where there is no keyring, that is said once and no error.

    Parameters
    ----------
    host : str
        The host, typically a URL.
    user, password : str, optional
        Used, and stored, when given.

    Raises
    ------
    CredentialsError
        When something is missing and there is no terminal to ask on.
    """
    login = find_login(host, user, password, with_token=False)
    if login.source in (GIVEN, PROMPT):
        _store(normalize_host(host), login)
    return str(login.user), str(login.password)


def find_login(
    host: str,
    user: str | None = None,
    password: str | None = None,
    *,
    with_token: bool = True,
    with_keyring: bool = True,
) -> Login:
    """Return who logs in at a host, asking for what is missing and storing nothing.

    Parameters
    ----------
    host : str
        URL of the site.
    user, password : str, optional
        Used when given.
    with_token, with_keyring : bool, optional
        Look for a token; look into the keyring.

    Raises
    ------
    CredentialsError
        When something is missing and there is no terminal to ask on.
    """
    offers = _Offers(normalize_host(host))
    named = user or offers.user
    names = (TOKEN, PASSWORD) if with_token else (PASSWORD,)
    login = Login(named, GIVEN, password) if password else offers.login(named, names)
    if login is None and with_keyring:
        login = _stored(offers.host, named)
    if login is None:
        login = _ask_login(offers, named, with_keyring)
    elif login.user is None and login.token is None:
        stored = _stored(offers.host, None)
        login = replace(login, user=stored.user if stored else _ask_user(offers))
    if not _is_text(f"{login.user}{login.password}"):
        raise CredentialsError(f"The user name or password for {printable(offers.host)} is not valid Unicode.")
    if offers.withheld:
        log.info("For %s, %s.", printable(offers.host), offers.why_withheld())
    return login


def _ask_login(offers: _Offers, named: str | None, with_keyring: bool) -> Login:
    user = named or _ask_user(offers)
    stored = _stored(offers.host, user) if with_keyring and not named else None
    return stored or Login(user, PROMPT, _ask_password(offers, user))


def log_in(host: str, user: str | None, password: str | None, connect: Callable[[Login], T]) -> T:
    """Return what `connect` makes of the login at a host; ask again for a stored or typed password that is wrong.

    A password is stored in the keyring when it was given, or when it was asked for and the site accepted it.

    Parameters
    ----------
    host : str
        URL of the site.
    user, password : str or None
        Used when given.
    connect : callable
        Takes the :class:`Login`; tries a doubtful one, and raises :class:`LoginRefusedError` when it is wrong.

    Raises
    ------
    CredentialsError
        When something is missing or wrong, and there is no terminal to ask on.
    """
    login, questions = find_login(host, user, password), 0
    while True:
        try:
            connected = connect(login)
            break
        except LoginRefusedError as error:
            questions += login.source is PROMPT
            if not (login.is_doubtful and _can_ask() and questions < _MOST_QUESTIONS):
                raise
            log.warning("%s; asking again.", error.refusal)
        # A name that was typed may be the wrong one, too.
        user = login.user if login.source is KEYRING else user
        login = find_login(host, user, with_keyring=False)
    if login.source in (GIVEN, PROMPT):
        _store(normalize_host(host), login)
    return connected
