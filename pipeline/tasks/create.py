"""Make a folder an archive, or install on a CDCS site what archives need."""

import os
from typing import Any

import luigi

from ..archives import CDCSArchive, get_site, is_url
from ..archives.filesystem import MARKER, create_archive
from ..errors import ArchiveError, PipelineError, printable
from ..progress import log, speak_up
from ..settings import full_path, resolve_alias
from .base import ArchiveParameter, ExplainedTask, announce_archive


class CreateArchive(ExplainedTask):
    """Make a folder an archive, or install the templates on a CDCS site. Nothing else ever does."""

    archive = ArchiveParameter(default="", description="Folder or URL of the archive, or an alias from [archives].")
    user = luigi.OptionalStrParameter(default=None, significant=False, description="Administrator of the site.")

    _refusal: PipelineError | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        announce_archive(self.archive)

    def complete(self) -> bool:
        """Tell whether there is nothing to do; running says what is wrong."""
        speak_up()
        self._refusal = None
        try:
            location = resolve_alias(self.archive)
            if not is_url(location):
                return bool(location) and os.path.isfile(os.path.join(os.path.expanduser(location), MARKER))
            return not self._site(location).missing_templates()
        except PipelineError as error:
            self._refusal = error
            return False

    def perform(self) -> None:
        """Make it one."""
        if self._refusal is not None:
            raise self._refusal
        location = resolve_alias(self.archive)
        if not location:
            raise ArchiveError("No archive was named; give --archive, or set it for this task in luigi.cfg.")
        if is_url(location):
            installed = " and ".join(self._site(location).install_templates())
            log.info("%s keeps releases now: %s installed.", printable(location), installed or "nothing had to be")
            return
        folder = full_path(location, "--archive")
        create_archive(folder)
        log.info("%s is an archive now.", printable(folder))

    def _site(self, location: str) -> CDCSArchive:
        if "@" in location:
            raise ArchiveError("The URL of the archive holds a user name or password; leave it out and give --user.")
        return get_site(location, self.user)


@CreateArchive.event_handler(luigi.Event.DEPENDENCY_PRESENT)
def _say_present(task: CreateArchive) -> None:
    location = resolve_alias(task.archive)
    what = "has the templates already" if is_url(location) else "is an archive already"
    log.info("Nothing to do: %s %s.", printable(location), what)
