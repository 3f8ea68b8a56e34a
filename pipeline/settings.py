"""Settings from ``luigi.cfg``: the section ``[pipeline]``, and archive aliases in ``[archives]``."""

import os

import luigi
import luigi.configuration
import platformdirs

from .errors import SettingsError, printable

_MOST_THREADS = 256


class pipeline(luigi.Config):  # noqa: N801  Luigi names a section after its class
    """The section ``[pipeline]``."""

    threads = luigi.IntParameter(default=8, description="How many blobs move at the same time.")
    cache_directory = luigi.Parameter(
        default=platformdirs.user_cache_dir("release-pipeline", appauthor=False),
        description="Where digests of files that were read before are kept; may be deleted at any time.",
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


def resolve_alias(archive: str) -> str:
    """Return the location that ``[archives]`` gives for an alias, or `archive` itself."""
    return str(luigi.configuration.get_config().get("archives", archive, archive)) if archive else archive
