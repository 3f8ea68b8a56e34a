"""Which titles, workspaces and paths are allowed, for what is published and for what is read from outside."""

import os
import re

from .errors import InvalidNameError, printable

# Longest record title that every kind of archive accepts (the limit of CDCS).
_LONGEST_TITLE = 200
_LONGEST_NAME_BYTES = 255

_SEPARATOR = re.compile(r"[/\\\0]")
_WINDOWS_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)\s*(\..*)?", re.IGNORECASE)
_WINDOWS_FORBIDDEN = re.compile(r'[<>:"|?*\x00-\x1f]|[ .]$')


def normalize_title(title: str) -> str:
    """Return a release title in its one spelling: lower case, with ``-`` between words.

    The rule is that of the earlier tool (rmellipse 0.4.5): letters, digits, ``-``, ``_`` and ``.``, starting with a
    letter; runs of the three separators become one ``-``.

    Raises
    ------
    InvalidNameError
        When the title has other characters, or does not start with a letter and end with a letter or digit.

    Examples
    --------
    >>> normalize_title("Waveguide_Cal.2024")
    'waveguide-cal-2024'
    """
    normal = re.sub(r"[-_.]+", "-", title).lower()
    if not title.isascii() or not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", normal) or title == "SELF":
        raise InvalidNameError(
            f"The title '{printable(title)}' is not valid: use letters, digits, '-', '_' and '.', "
            "start with a letter and end with a letter or digit."
        )
    return normal


def record_title(title_versionless: str, version: str) -> str:
    """Return the title of a record, ``<title>-v<version>``.

    Examples
    --------
    >>> record_title("waveguide-cal", "0.1.0")
    'waveguide-cal-v0.1.0'
    """
    title = f"{title_versionless}-v{version}"
    if len(title) > _LONGEST_TITLE:
        raise InvalidNameError(f"The title '{title}' has more than {_LONGEST_TITLE} characters; choose a shorter one.")
    return title


def check_folder_name(name: str, what: str) -> str:
    """Return `name` if it can be one folder of an archive, else raise.

    Parameters
    ----------
    name : str
        A workspace or a title as it is used in an archive.
    what : str
        What it is, for the message: ``workspace`` or ``title``.

    Raises
    ------
    InvalidNameError
        When the name is empty, too long, starts with a dot, or has a separator or an unprintable character.

    Examples
    --------
    >>> check_folder_name("Global Public Workspace", "workspace")
    'Global Public Workspace'
    >>> check_folder_name("../elsewhere", "workspace")
    Traceback (most recent call last):
    ...
    pipeline.errors.InvalidNameError: The workspace '../elsewhere' is not valid: it must be one plain folder name.
    """
    plain = isinstance(name, str) and bool(name.strip()) and name.isprintable() and not re.search(r"[/\\]|^\.", name)
    if not plain or len(name.encode("utf-8", "replace")) > _LONGEST_NAME_BYTES or _unsafe_here(name):
        raise InvalidNameError(f"The {what} '{printable(name)}' is not valid: it must be one plain folder name.")
    return name


def check_component(name: object, where: str, windows: bool = os.name == "nt") -> str:
    r"""Return one file or folder name of a release if it is safe on this system, else raise.

    Parameters
    ----------
    name : object
        The name, from a folder or from a record.
    where : str
        The folder or record that it stands in, for the message.
    windows : bool, optional
        Also refuse the device names, characters and endings that Windows does not keep as they are.

    Raises
    ------
    InvalidNameError
        When the name is no text, is empty, ``.`` or ``..``, or has a ``/``, a backslash, a NUL or no UTF-8 form.

    Examples
    --------
    >>> check_component("Größe 1.csv", "data")
    'Größe 1.csv'
    >>> check_component("nul.txt", "data", windows=True)
    Traceback (most recent call last):
    ...
    pipeline.errors.InvalidNameError: The name 'nul.txt' in data cannot be used on this system.
    """
    if not isinstance(name, str) or name in ("", ".", "..") or _SEPARATOR.search(name):
        raise InvalidNameError(
            f"The name '{printable(name)}' in {printable(where)} is not allowed: "
            "a name cannot be empty, '.' or '..', nor hold '/', '\\' or NUL."
        )
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidNameError(
            f"The name '{printable(name)}' in {printable(where)} is not valid UTF-8; rename it or ignore it."
        ) from None
    if windows and _unsafe_here(name, windows):
        raise InvalidNameError(f"The name '{printable(name)}' in {printable(where)} cannot be used on this system.")
    return name


def _unsafe_here(name: str, windows: bool = os.name == "nt") -> bool:
    return windows and bool(_WINDOWS_DEVICE.fullmatch(name) or _WINDOWS_FORBIDDEN.search(name))
