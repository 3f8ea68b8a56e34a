"""What a workspace of a CDCS site holds, read once for an audit: records, descriptions, and what fits nothing."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ...checksums import is_digest
from ...errors import InvalidNameError, InvalidVersionError, RecordError, printable
from ...names import check_folder_name, record_title
from ...release import BYTES, FOLDER, PID, SHA1, Blob, walk_mapping
from ...versions import precedence
from ..interface import ReleaseName
from .client import Data
from .contents import is_sealed
from .http import Ident
from .unreadable import read_all, unreadable_ids
from .uploads import SHA1_KEY, Description, age, description_in

if TYPE_CHECKING:
    from .archive import CDCSArchive


# The age of a record that is not known: readers get the newest.
_NEWEST = ("~", "")


class Kept(NamedTuple):
    """A record on the site, and what is wrong with it; an empty text where nothing is."""

    age: tuple[str, str]
    id: Ident
    damage: str


class Survey:
    """A workspace of an archive on a CDCS site, as it is now.

    Parameters
    ----------
    archive : CDCSArchive
        The archive.
    workspace : str
        The workspace.

    Attributes
    ----------
    records : dict
        The newest record of each release, which is the one that readers get.
    unread : list of str
        A sentence for each damaged record that is none of these.
    unnamed : list of tuple
        PIDs and sizes of the blobs that are described and that no record names; none where a record is damaged.
    broken : list of Data
        The damaged descriptions of blobs.
    unreadable : set
        The ids of those of `records` that the site itself cannot read.
    undescribed : list of Blob
        The blobs that a record names and of which no description tells the same.
    """

    def __init__(self, archive: "CDCSArchive", workspace: str) -> None:
        self.records: dict[ReleaseName, Kept] = {}
        self.unread: list[str] = []
        self.broken: list[Data] = []
        self.unreadable: set[Ident] = set()
        self._archive, self._workspace = archive, workspace
        self._named: dict[str, Blob] = {}
        self._readable: set[Ident] = set()
        # Descriptions first: a record that is published meanwhile names blobs that are described already.
        described, lost = self._descriptions()
        self._read_records(lost)
        is_damaged = self.unread or any(kept.damage for kept in self.records.values())
        digests = {blob.digest for blob in self._named.values()}
        others = [said for said in described if said.pid not in self._named and said.digest not in digests]
        self.unnamed = [] if is_damaged else list({said.pid: said.size for said in others}.items())
        told = {(said.pid, said.digest, said.size) for said in described}
        self.undescribed = [
            blob for pid, blob in self._named.items() if blob.digest and (pid, blob.digest, blob.size) not in told
        ]

    def _descriptions(self) -> tuple[list[Description], list[str]]:
        """Return what is said of blobs, and the digests in descriptions that the site cannot read."""
        described, lost = [], list[str]()
        for data in read_all(self._archive.shelf(self._workspace).descriptions, SHA1_KEY, lost.append, enough=12):
            self._readable.add(data.id)
            said = description_in(data)
            described += [said] if said else []
            self.broken += [] if said else [data]
        return described, lost

    def _read_records(self, digests: list[str]) -> None:
        kept: dict[ReleaseName, list[Kept]] = {}
        titles: list[str] = []
        for data in read_all(self.ask, "title", titles.append):
            self._readable.add(data.id)
            name, damage = self._look_at(data)
            if name is None:
                self.unread.append(f"the record {printable(data.id)}, '{printable(data.title)}', is damaged: {damage}")
            else:
                kept.setdefault(name, []).append(Kept(age(data), data.id, damage))
        if titles or digests:
            self._look_for(titles, digests, kept)
        for name, records in kept.items():
            *older, self.records[name] = sorted(records)
            self.unread += [
                f"an older record of {record_title(*name)}, {printable(record.id)}, is damaged: {record.damage}"
                for record in older
                if record.damage
            ]

    def ask(self, query: Mapping[str, Any]) -> Iterator[Data]:
        """Yield the records that match a query, as the site keeps them."""
        return self._archive.release_data(self._workspace, query)

    def _look_for(self, titles: list[str], digests: list[str], kept: dict[ReleaseName, list[Kept]]) -> None:
        """Note what the site cannot read. What has an id, which can be told of only one, can be repaired."""
        ids = unreadable_ids(self._archive.curator, self._readable)
        if len(ids) == 1 and digests and not titles:
            self.broken.append(Data(ids[0], digests[0], None, None, "", ""))
        elif len(ids) == 1 and len(titles) == 1 and not digests and (name := _name_in(titles[0])) is not None:
            self.unreadable.add(ids[0])
            kept.setdefault(name, []).append(Kept(_NEWEST, ids[0], "the site cannot read it"))
        else:
            self.unread += [f"the site cannot read its record '{printable(name)}'" for name in titles + digests]

    def _look_at(self, data: Data) -> tuple[ReleaseName | None, str]:
        """Return which release a record is of, and what is wrong with it; note the blobs that it names."""
        name = None
        try:
            content = self._archive.named_content(data)
            name = ReleaseName(content["title_versionless"], content["version"])
            is_retitled = is_sealed(content) and content["title"] != data.title
            self._named.update(_named(content, data.title))
        except (RecordError, InvalidNameError, InvalidVersionError) as error:
            return _name_in(data.title) or name, str(error)
        return name, f"its title at the site is '{printable(data.title)}'" if is_retitled else ""


def _named(content: Mapping[str, Any], title: str) -> dict[str, Blob]:
    """Return the blobs that a record names, by their PIDs; a digest that it does not tell is an empty text."""
    project = content.get("project")
    if not isinstance(project, dict):
        raise RecordError("it has no 'project' mapping.")
    named = {}
    for node in walk_mapping(project, title):
        size, digest, pid = (node.properties.get(key) for key in (BYTES, SHA1, PID))
        if node.item != FOLDER and isinstance(size, int) and size and isinstance(pid, str):
            named[pid] = Blob(str(digest) if is_digest(digest) else "", size, (node.path,), pid)
    return named


def _name_in(title: str) -> ReleaseName | None:
    """Return the release whose record would have this title."""
    for match in re.finditer("-v", title):
        with contextlib.suppress(InvalidNameError, InvalidVersionError):
            precedence(title[match.end() :])
            return ReleaseName(check_folder_name(title[: match.start()], "title"), title[match.end() :])
    return None
