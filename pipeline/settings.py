"""Settings from ``luigi.cfg``: the section ``[pipeline]``, and archive aliases in ``[archives]``."""

import luigi
import luigi.configuration
import platformdirs


class pipeline(luigi.Config):  # noqa: N801  Luigi names a section after its class
    """The section ``[pipeline]``."""

    threads = luigi.IntParameter(default=8, description="How many blobs move at the same time.")
    cache_directory = luigi.Parameter(
        default=platformdirs.user_cache_dir("release-pipeline", appauthor=False),
        description="Where digests of files that were read before are kept; may be deleted at any time.",
    )


def resolve_alias(archive: str) -> str:
    """Return the location that ``[archives]`` gives for an alias, or `archive` itself."""
    return str(luigi.configuration.get_config().get("archives", archive, archive)) if archive else archive
