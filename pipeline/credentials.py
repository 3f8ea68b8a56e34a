"""User names and passwords, from the system keyring or a prompt; never logged, and never part of an exception."""

import getpass
import logging
from collections.abc import Callable

from .errors import CredentialsError, printable

log = logging.getLogger("pipeline")


def get_credentials(host: str, user: str | None = None, password: str | None = None) -> tuple[str, str]:
    """Return the user name and password for a host, asking for what is missing.

    What was given or asked for is stored in the system keyring, so that it is asked for once.

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
            f"There are no credentials for {printable(host)}, and nobody to ask; run once in a terminal to store them."
        )
    return answer
