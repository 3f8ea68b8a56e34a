"""Archives of releases: what every archive can do, and one module per kind of archive."""

import os
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import ArchiveError, explain, printable
from ..settings import normalize_host
from .cdcs import CDCSArchive
from .filesystem import FileSystemArchive
from .interface import ArchiveInterface

__all__ = ["ArchiveInterface", "CDCSArchive", "FileSystemArchive", "get_interface", "get_site", "is_url"]


def is_url(input_string: object) -> bool:
    """Tell whether something is a URL: scheme and network location are both present. Never raises.

    Examples
    --------
    >>> is_url("https://data.example.org/"), is_url("/srv/archive"), is_url(None)
    (True, False, False)
    """
    try:
        parts = urlsplit(input_string) if isinstance(input_string, str) else None
    except ValueError:
        return False
    return parts is not None and bool(parts.scheme and parts.netloc)


def get_interface(
    host: str | Path,
    user: str | None = None,
    password: str | None = None,
    resolve_relative_paths_to: str | Path | None = None,
) -> ArchiveInterface:
    """Return the archive at `host`.

    Parameters
    ----------
    host : str or Path
        The folder of an archive, or the URL of a CDCS site.
    user, password : str, optional
        Who uses it, for archives that want to know; see :func:`pipeline.credentials.get_credentials`.
    resolve_relative_paths_to : str or Path, optional
        What a relative folder is relative to; by default the current directory at the time of the call.

    Raises
    ------
    ArchiveError
        When there is no archive.
    CredentialsError
        When the site of the archive needs a password or token, and there is nobody to ask for it.
    SettingsError
        When a setting for sites in luigi.cfg cannot be used.
    """
    if is_url(str(host)):
        return get_site(str(host), user, password)
    try:
        return FileSystemArchive(Path(resolve_relative_paths_to or Path.cwd()) / os.path.expanduser(host), user)
    except (OSError, ValueError) as error:
        raise ArchiveError(f"There is no archive {printable(host)}: {explain(error)}.") from None


_sites: dict[tuple[str, str | None], CDCSArchive] = {}


def get_site(host: str, user: str | None = None, password: str | None = None) -> CDCSArchive:
    """Return the archive on a site; the same one when it is asked for again: nobody is asked for a password twice.

    Raises
    ------
    ArchiveError
        When this is not the address of a site.
    """
    if urlsplit(host).scheme.lower() not in ("http", "https"):
        raise ArchiveError(f"{printable(host)} is neither a folder nor the address of a CDCS site; correct --archive.")
    key = normalize_host(host), user
    if password is not None or key not in _sites:
        _sites[key] = CDCSArchive(host, user, password)
    return _sites[key]
