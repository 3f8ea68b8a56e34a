"""User names and passwords, from the environment, the system keyring or a prompt.

They are never logged, and never part of an exception.
"""

import getpass
import logging
import os
from collections.abc import Callable

from .errors import CredentialsError, printable

log = logging.getLogger("pipeline")

USER, PASSWORD, TOKEN = "PIPELINE_USER", "PIPELINE_PASSWORD", "PIPELINE_TOKEN"
_host_of_environment: list[str] = []


def get_token(host: str, user: str | None = None) -> str | None:
    """Return the token for a host that the environment holds, or None.

    Parameters
    ----------
    host : str
        The host. Only the first one that a process asks for gets what the environment holds.
    user : str, optional
        The token is not for anybody else, where the environment names its user.
    """
    return _environment(host, user).get(TOKEN)


def _environment(host: str, user: str | None) -> dict[str, str]:
    """Return those of the variables that are set and are for this host and user."""
    found = {name: value for name in (USER, PASSWORD, TOKEN) if (value := os.environ.get(name))}
    if not found or (user is not None and found.get(USER, user) != user):
        return {}
    if not _host_of_environment:
        _host_of_environment.append(host)
    return found if _host_of_environment[0] == host else {}


def get_credentials(host: str, user: str | None = None, password: str | None = None) -> tuple[str, str]:
    """Return the user name and password for a host, asking for what is missing.

    What was given or asked for is stored in the system keyring, so that it is asked for once. What was not given is
    taken from ``PIPELINE_USER`` and ``PIPELINE_PASSWORD`` in the environment first.

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
    import keyring
    from keyring.errors import KeyringError

    found = _environment(host, user) if password is None else {}
    user = user or found.get(USER)
    if user is not None and PASSWORD in found:
        return user, found[PASSWORD]
    service = f"release-pipeline {host}"
    if user is None:
        user = _ask(f"User name for {printable(host)}: ", host, input)
    stored = None
    try:
        stored = keyring.get_password(service, user) if password is None else None
    except KeyringError:
        log.debug("There is no keyring to read from.")
    if password is None:
        password = stored or _ask(f"Password of {printable(user)} for {printable(host)}: ", host, getpass.getpass)
    if password != stored:
        try:
            keyring.set_password(service, user, password)
        except KeyringError:
            log.warning("There is no system keyring here; the password for %s was not stored.", printable(host))
    return user, password


def _ask(prompt: str, host: str, read: Callable[[str], str]) -> str:
    try:
        answer = read(prompt)
    except EOFError:
        answer = ""
    if not answer:
        raise CredentialsError(
            f"There are no credentials for {printable(host)}, and nobody to ask; set {USER} and {PASSWORD}, "
            f"or {TOKEN}, or run once in a terminal to store them."
        )
    return answer
