"""Make a folder an archive."""

from pathlib import Path

import luigi

from ..archives import is_url
from ..archives.filesystem import MARKER, create_archive
from ..errors import ArchiveError, printable
from ..progress import log, speak_up
from ..settings import resolve_alias
from .base import ExplainedTask


class CreateArchive(ExplainedTask):
    """Make a folder an archive. Nothing else ever does, so that a typing error does not."""

    archive = luigi.Parameter(default="", description="The folder, or an alias from [archives].")

    def complete(self) -> bool:
        """Tell whether the folder is an archive."""
        speak_up()
        location = resolve_alias(self.archive)
        return bool(location) and not is_url(location) and Path(location, MARKER).is_file()

    def perform(self) -> None:
        """Make it one."""
        location = resolve_alias(self.archive)
        if not location or is_url(location):
            raise ArchiveError(f"'{printable(location)}' is not a folder; name the archive's folder with --archive.")
        create_archive(Path(location).expanduser())
        log.info("%s is an archive now.", printable(Path(location).expanduser().absolute()))


@CreateArchive.event_handler(luigi.Event.DEPENDENCY_PRESENT)
def _say_present(task: CreateArchive) -> None:
    log.info("Nothing to do: %s is an archive already.", printable(resolve_alias(task.archive)))
