"""Settings from ``luigi.cfg``: the section ``[pipeline]``, and archive aliases in ``[archives]``."""

import configparser
import ipaddress
import os
import re
import ssl
from urllib.parse import urlsplit

import luigi
import luigi.configuration
import platformdirs
from luigi.configuration.cfg_parser import InterpolationMissingEnvvarError

from .errors import SettingsError, printable

_MOST_THREADS = 256
_PORTS = {"https": 443, "http": 80}


class pipeline(luigi.Config):  # noqa: N801  Luigi names a section after its class
    """The section ``[pipeline]``."""

    threads = luigi.IntParameter(default=8, description="How many blobs move at the same time.")
    cache_directory = luigi.Parameter(
        default=platformdirs.user_cache_dir("release-pipeline", appauthor=False),
        description="Where digests of files that were read before are kept; may be deleted at any time.",
    )
    ca_bundle = luigi.Parameter(
        default="", description="File with the certificates of a private authority that sites of archives use."
    )
    plain_http_hosts = luigi.Parameter(
        default="", description="Host names, separated by commas, that get a password or token over plain http."
    )
    report_url = luigi.Parameter(
        default="", description="Address under which the folder of the reports is served, for links to them."
    )


def read_settings() -> pipeline:
    """Return the section ``[pipeline]``.

    Raises
    ------
    SettingsError
        When a value of it cannot be used.
    """
    try:
        settings = pipeline()
    except ValueError as error:
        raise SettingsError(f"[pipeline] in luigi.cfg: {printable(error)}; correct it.") from None
    if not 1 <= settings.threads <= _MOST_THREADS:
        raise SettingsError(
            f"[pipeline] threads = {settings.threads} in luigi.cfg makes no sense; choose 1 to {_MOST_THREADS}."
        )
    return settings


def transfer_limit(host: str) -> int | None:
    """Return how many transfers ``[resources]`` allows to run at the same time with a host; None without a limit.

    Parameters
    ----------
    host : str
        Name of the host without a port, which a name in a configuration file cannot have.

    Raises
    ------
    SettingsError
        When it is no positive number.
    """
    text = luigi.configuration.get_config().get("resources", host, "") if host else ""
    if not text:
        return None
    if not text.isdecimal() or not int(text):
        raise SettingsError(f"[resources] {host} = {printable(text)} in luigi.cfg is no number above 0; correct it.")
    return int(text)


def full_path(path: str, option: str) -> str:
    """Return an absolute path, with ``~`` and ``~user`` resolved.

    Raises
    ------
    SettingsError
        When there is no such user.
    """
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise SettingsError(f"{option} {printable(path)}: there is no such user; write ./~ for a folder of that name.")
    return os.path.abspath(expanded)


def trusted_bundle(settings: pipeline) -> str | None:
    """Return the file of certificates that sites are verified with; None for the usual authorities.

    Raises
    ------
    SettingsError
        When it cannot be used.
    """
    if not settings.ca_bundle:
        return None
    path = full_path(settings.ca_bundle, "[pipeline] ca_bundle")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
        return path
    except ssl.SSLError:
        problem = "there is no certificate in it, in PEM format"
    except (OSError, ValueError) as error:
        problem = (getattr(error, "strerror", None) or "it is no path").lower()
    raise SettingsError(f"[pipeline] ca_bundle = {printable(path)} in luigi.cfg cannot be used: {problem}; correct it.")


def may_use_plain_http(settings: pipeline, host: str) -> bool:
    """Tell whether the configuration lets a site have secrets over plain http.

    Parameters
    ----------
    settings : pipeline
        The section.
    host : str
        URL of the site.

    Raises
    ------
    SettingsError
        When the list of hosts cannot be used.
    """
    names = [name.strip().lower() for name in settings.plain_http_hosts.split(",") if name.strip()]
    for name in names:
        if not _is_host_name(name):
            raise SettingsError(
                f"[pipeline] plain_http_hosts in luigi.cfg: {printable(name)} is no host name; write names only, "
                "without http:// and port, separated by commas."
            )
    return (urlsplit(host).hostname or "") in names


def _is_host_name(name: str) -> bool:
    if re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?", name):
        return True
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def normalize_host(host: str) -> str:
    """Return the one spelling of the address of a site, so that addresses can be compared.

    Examples
    --------
    >>> normalize_host("HTTPS://Data.example.org:443/"), normalize_host("data.example.org")
    ('https://data.example.org', 'https://data.example.org')
    """
    try:
        parts = urlsplit(host if "://" in host else f"https://{host}")
        name, port = parts.hostname or "", parts.port
    except ValueError:
        return host
    name = f"[{name}]" if ":" in name else name
    shown_port = "" if port in (None, _PORTS.get(parts.scheme)) else f":{port}"
    return f"{parts.scheme}://{name}{shown_port}{parts.path.rstrip('/')}"


def resolve_alias(archive: str) -> str:
    """Return the location that ``[archives]`` gives for an alias, or `archive` itself.

    Raises
    ------
    SettingsError
        When the section cannot be read.
    """
    if not archive:
        return archive
    try:
        return str(luigi.configuration.get_config().get("archives", archive, archive))
    except configparser.InterpolationError as error:
        raise _unreadable(archive, error) from None


def read_aliases() -> dict[str, str]:
    """Return the section ``[archives]``: alias to location.

    Raises
    ------
    SettingsError
        When it cannot be read.
    """
    try:
        aliases = list(luigi.configuration.get_config()["archives"])
    except KeyError:
        return {}
    return {alias: resolve_alias(alias) for alias in aliases}


def _unreadable(alias: str, error: configparser.InterpolationError) -> SettingsError:
    # The rest of such an error repeats the value, which may hold a password.
    missing = printable(" ".join(str(error).split()).split(". Section ")[0])
    said = missing if isinstance(error, InterpolationMissingEnvvarError) else "a % must be doubled"
    return SettingsError(f"[archives] {printable(alias)} in luigi.cfg cannot be read: {said}; correct it.")
