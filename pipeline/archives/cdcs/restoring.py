"""What a damaged record on a CDCS site said, worked out from what is left of it and from the record of a mirror."""

import contextlib
import copy
import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ...errors import RecordError, printable
from ...names import record_title
from ...release import ORIGIN, PID, RECORD_PID, Blob, ReleaseRecord
from ..auditing import Auditor, origin_digest
from ..sources import copied_record
from .client import Data
from .contents import SEAL, is_sealed, sealed, without
from .http import SiteRefusedError
from .unreadable import is_broken
from .uploads import Description

if TYPE_CHECKING:
    from .archive import CDCSArchive

_ADDRESS = re.compile(r'"([^"\\]*)":\s*"(https?://[^"\\]*)"')
_MOST_CANDIDATES = 10


class Restorer:
    """A damaged record, and what is known of it.

    Parameters
    ----------
    archive : CDCSArchive
        The archive.
    workspace : str
        The workspace.
    data : Data
        The record as the site keeps it.
    mirror : Auditor
        The archive to repair from.
    """

    def __init__(self, archive: "CDCSArchive", workspace: str, data: Data, mirror: Auditor) -> None:
        self._archive, self._data, self._mirror = archive, data, mirror
        self._workspace, self._shelf = workspace, archive.shelf(workspace)
        self._left: dict[str, Any] = {}
        with contextlib.suppress(RecordError):
            self._left = data.content()

    def restore(self, title: str, version: str) -> tuple[str, dict[str, Any]]:
        """Return where it was found what the record said, and that, with its PID.

        Raises
        ------
        PipelineError
            When nothing proves what was published.
        """
        name, there = record_title(title, version), printable(self._mirror.archive.host)
        theirs = self._mirror.read_record(title, version)
        if theirs is None:
            raise RecordError(f"it is not repaired, because {there} has no {name}")
        pid = self._pid(theirs)
        if self._is_whole(name):
            return "what the record itself says", {**without(self._left, RECORD_PID), **pid}
        for content in map(sealed, self._candidates(theirs)):
            if self._is_proven(content, theirs, pid):
                return there, {**content, **pid}
        if not self._mirror.is_proven(title, version):
            raise RecordError(f"it is not repaired, because nothing in {there} proves what it said; look at both")
        copied = copied_record(theirs, self._mirror.archive, self._mirror.workspace)
        return there, {**sealed(self._with_places(copied)), **pid}

    def _is_whole(self, name: str) -> bool:
        """Tell whether the record says what was published, and only the site does not find it."""
        try:
            return is_sealed(self._left) and self._left.get("title") == name
        except RecordError:
            return False

    # --- what it may have said ------------------------------------------------------------------------------------

    def _candidates(self, theirs: ReleaseRecord) -> Iterator[dict[str, Any]]:
        """Yield what a record here may have been, given a mirror's: with the origin of either, or without one."""
        content = self._with_places(without(theirs.content, RECORD_PID, ORIGIN))
        for origin in (self._left.get(ORIGIN), theirs.content.get(ORIGIN), None):
            yield content if origin is None else {**content, ORIGIN: origin}

    def _with_places(self, content: dict[str, Any]) -> dict[str, Any]:
        """Return the content with the PIDs that the blobs have here."""
        record = ReleaseRecord(copy.deepcopy(content))
        described = self._shelf.described({blob.digest: blob.size for blob in record.blobs})
        record.set_pids({blob.digest: self._pid_here(blob, described.get(blob.digest, [])) for blob in record.blobs})
        return record.content

    def _pid_here(self, blob: Blob, described: list[Description]) -> str:
        """Return which of the PIDs of a blob the record named."""
        if not described:
            raise RecordError(f"it is not repaired, because the blob of '{printable(blob.paths[0])}' is not described")
        pids = [said.pid for said in described]
        return next((pid for pid in pids if json.dumps(pid) in self._data.text), pids[0])

    # --- what proves it -------------------------------------------------------------------------------------------

    def _is_proven(self, content: dict[str, Any], theirs: ReleaseRecord, pid: dict[str, str]) -> bool:
        """Tell whether a sealed content is what was published: by its seal, by all else, or by the mirror's origin."""
        return (
            json.dumps(content[SEAL]) in self._data.text
            or content == {**without(self._left, RECORD_PID), SEAL: content[SEAL]}
            or ReleaseRecord({**without(content, SEAL), **pid}).digest == origin_digest(theirs)
        )

    # --- where it is found ----------------------------------------------------------------------------------------

    def _pid(self, theirs: ReleaseRecord) -> dict[str, str]:
        """Return the PID of the record as a part of it, which is empty where the site gives none.

        A record that is stored with another PID, or without its own, would lose it.
        """
        origin = theirs.content.get(ORIGIN)
        told = []
        if isinstance(origin, dict) and origin.get("host") == str(self._archive.host):
            told = [pid for pid in [origin.get("pid")] if isinstance(pid, str)]
        left = [pid for key, pid in _ADDRESS.findall(self._data.text) if key != PID]
        for pid in [*told, *left[:_MOST_CANDIDATES]]:
            try:
                leads_here = self._archive.is_found_by_pid(self._data.id, pid, self._workspace)
            except SiteRefusedError as error:  # what is found there cannot be read
                leads_here = is_broken(error)
            if leads_here:
                return {RECORD_PID: pid}
        if told:
            return {} if told[0] == self._archive.address(self._data) else {RECORD_PID: told[0]}
        if any(RECORD_PID in data.text for data in self._archive.release_data(self._workspace)):
            raise RecordError("it is not repaired, because nothing tells its PID, which would be lost; ask the site")
        return {}
