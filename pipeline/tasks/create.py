"""Make a folder an archive."""

import os

import luigi

from ..archives import is_url
from ..archives.filesystem import MARKER, create_archive
from ..errors import ArchiveError, printable
from ..progress import log, speak_up
from ..settings import full_path, resolve_alias
from .base import ArchiveParameter, ExplainedTask


class CreateArchive(ExplainedTask):
    """Make a folder an archive. Nothing else ever does, so that a typing error does not."""

    archive = ArchiveParameter(default="", description="The folder, or an alias from [archives].")

    def complete(self) -> bool:
        """Tell whether the folder is an archive."""
        speak_up()
        location = os.path.expanduser(resolve_alias(self.archive))
        return bool(location) and not is_url(location) and os.path.isfile(os.path.join(location, MARKER))

    def perform(self) -> None:
        """Make it one."""
        location = resolve_alias(self.archive)
        if not location or is_url(location):
            raise ArchiveError(f"'{printable(location)}' is not a folder; name the archive's folder with --archive.")
        folder = full_path(location, "--archive")
        create_archive(folder)
        log.info("%s is an archive now.", printable(folder))


@CreateArchive.event_handler(luigi.Event.DEPENDENCY_PRESENT)
def _say_present(task: CreateArchive) -> None:
    log.info("Nothing to do: %s is an archive already.", printable(resolve_alias(task.archive)))
