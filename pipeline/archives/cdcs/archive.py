"""An archive on a CDCS site.

A release record is a record of the template Release, a blob is a blob of CDCS, and a record of the template
BlobMetadata says which bytes it holds. All are in a workspace, and none is looked for elsewhere.
"""

import contextlib
import copy
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ...checksums import CHUNK, Stream, hash_file
from ...credentials import Login, log_in
from ...destination import fetch_file
from ...errors import (
    BlobDamagedError,
    BlobNotThereError,
    BlobsFailedError,
    InvalidNameError,
    InvalidVersionError,
    PipelineError,
    RecordError,
    ReleaseExistsError,
    printable,
)
from ...names import check_folder_name, record_title
from ...release import BYTES, FOLDER, ITEM, PID, RECORD_PID, SHA1, Blob, ReleaseRecord, walk_mapping
from ...settings import may_use_plain_http, read_settings, trusted_bundle
from ...transfer import Meter, Silent
from ...versions import matches, parse_expressions, precedence
from ..interface import DEFAULT_WORKSPACE, ArchiveInterface, Record, ReleaseName
from ..sources import BlobSource, ProjectSource
from .audit import CDCSAuditor
from .client import CDCSClient, Data
from .contents import SEAL, encode_content, is_sealed, sealed, without
from .downloads import Download
from .http import Ident, NotFoundError, refuse_plain_http
from .uploads import HANDLE_KEY, PID_KEY, SHA1_KEY, BlobShelf, age

RELEASE, BLOB_METADATA = "Release", "BlobMetadata"
_DRAFT = "http://json-schema.org/draft-07/schema#"
SCHEMAS: dict[str, dict[str, Any]] = {
    RELEASE: {
        "$schema": _DRAFT,
        "title": RELEASE,
        "type": "object",
        "required": ["title", "title_versionless", "version", "project"],
        "properties": {
            **{name: {"type": "string"} for name in ("title", "title_versionless", "version")},
            "project": {"type": "object"},
        },
    },
    BLOB_METADATA: {
        "$schema": _DRAFT,
        "title": BLOB_METADATA,
        "type": "object",
        "required": [SHA1_KEY, PID_KEY, BYTES],
        "properties": {
            SHA1_KEY: {"type": "string"},
            PID_KEY: {"type": "string"},
            HANDLE_KEY: {"type": "string"},
            BYTES: {"type": "integer", "minimum": 0},
        },
    },
}


class CDCSArchive(ArchiveInterface):
    """An archive on a CDCS site.

    Parameters
    ----------
    host : str
        Address of the site, such as ``https://cdcs.example.org``.
    user : str, optional
        Who uses it; asked for where nobody says.
    password : str, optional
        By default from the environment, a credential file, the system keyring or a prompt.

    Attributes
    ----------
    curator : CDCSClient
        The REST client.

    Raises
    ------
    CredentialsError
        When there is no password or token and nobody to ask for it, or when a stored one is wrong.
    SettingsError
        When a setting in luigi.cfg cannot be used.
    """

    supports_repeat_releases = True

    def __init__(self, host: str, user: str | None = None, password: str | None = None) -> None:
        settings = read_settings()
        host = CDCSClient(str(host)).host
        bundle, allow_http = trusted_bundle(settings), may_use_plain_http(settings, host)
        if not allow_http:
            refuse_plain_http(host)

        def connect(login: Login) -> CDCSClient:
            client = CDCSClient(
                host,
                user=login.user,
                password=login.password,
                token=login.token,
                source=login.source,
                ca_bundle=bundle,
                allow_http=allow_http,
            )
            if login.is_doubtful:
                client.log_in()
            return client

        self.curator = log_in(host, user, password, connect)
        super().__init__(host, self.curator.user)
        self._templates: dict[str, list[Ident]] = {}
        self._shelves: dict[str, BlobShelf] = {}

    # --- what the site has ----------------------------------------------------------------------------------------

    def missing_templates(self) -> list[str]:
        """Return the titles of the templates that an administrator has to install before releases can be kept."""
        missing = []
        for title in SCHEMAS:
            try:
                self._template(title)
            except NotFoundError:
                missing.append(title)
        return missing

    def install_templates(self) -> list[str]:
        """Install the templates that are missing and return their titles; needs an administrator."""
        missing = self.missing_templates()
        for title in missing:
            self.curator.create_template(title, SCHEMAS[title])
        return missing

    def _template(self, title: str) -> list[Ident]:
        if title not in self._templates:
            self._templates[title] = self.curator.template_ids(title)
        return self._templates[title]

    def shelf(self, workspace: str) -> BlobShelf:
        """Return the blobs of a workspace."""
        if workspace not in self._shelves:
            templates, ident = self._template(BLOB_METADATA), self.curator.workspace_id(workspace)
            self._shelves[workspace] = BlobShelf(self.curator, templates, ident)
        return self._shelves[workspace]

    def auditor(self, workspace: str) -> CDCSAuditor:
        """Return what an audit sees of a workspace."""
        return CDCSAuditor(self, workspace)

    # --- records --------------------------------------------------------------------------------------------------

    def get_release_records(
        self,
        title_versionless: str,
        version_expressions: Sequence[str] | None = None,
        workspace: str = DEFAULT_WORKSPACE,
    ) -> dict[str, Record]:
        """Return the records of a release that satisfy all version expressions, oldest to newest.

        Of a version that was published more than once, the newest record is returned.

        Raises
        ------
        ReleaseRecordNotFoundError
            When there is none.
        RecordError
            When one of them is damaged.
        """
        wanted = parse_expressions(version_expressions)
        newest = {
            content["title"]: (data, content)
            for data, content in self._oldest_first(title_versionless, workspace)
            if matches(content["version"], wanted)
        }
        return {title: self.read(*found, workspace).content for title, found in newest.items()}

    def get_release(self, title_versionless: str, version: str, workspace: str = DEFAULT_WORKSPACE) -> Record | None:
        """Return the newest record of one version, or None.

        Raises
        ------
        RecordError
            When it is damaged.
        """
        found = self.newest(title_versionless, version, workspace)
        return None if found is None else self.read(*found, workspace).content

    def newest(self, title_versionless: str, version: str, workspace: str) -> tuple[Data, Record] | None:
        """Return the newest record of one version as the site keeps it, and its content, or None."""
        found = self._oldest_first(title_versionless, workspace, version)
        return found[-1] if found else None

    def read(self, data: Data, content: Record, workspace: str) -> ReleaseRecord:
        """Return what a record says, its content as the site keeps it being given.

        Raises
        ------
        RecordError
            When it is damaged.
        """
        title = content["title"]
        try:
            is_sealed(content)
        except RecordError as error:
            raise RecordError(f"{title} in {printable(self.host)}: {error}") from None
        # Sites that give no PIDs still have an address for the record.
        content = without(content, SEAL)
        content.setdefault(RECORD_PID, self.address(data))
        self._add_digests(content, workspace)
        return ReleaseRecord(content, f"{title} in {self.host}")

    def address(self, data: Data) -> str:
        """Return where a record is on the site, whether or not it has a PID."""
        return f"{self.curator.host}/rest/data/{data.id}/"

    def get_release_versions(self, title_versionless: str, workspace: str = DEFAULT_WORKSPACE) -> list[str]:
        """Return the versions of a release, oldest to newest."""
        versions = {content["version"] for _, content in self.releases(title_versionless, workspace)}
        return sorted(versions, key=lambda version: (precedence(version), version))

    def list_releases(
        self, workspace: str = DEFAULT_WORKSPACE, titles: Sequence[str] | None = None
    ) -> list[ReleaseName]:
        """Return the releases of a workspace, all or those with some titles, sorted."""
        query = {} if titles is None else {"title_versionless": {"$in": sorted(set(titles))}}
        found = self._query_releases(query, workspace)
        names = {ReleaseName(content["title_versionless"], content["version"]) for _, content in found}
        if titles is not None:
            names = {name for name in names if name.title_versionless in titles}
        return sorted(names, key=lambda name: (name.title_versionless, precedence(name.version), name.version))

    def releases(self, title: str, workspace: str, version: str | None = None) -> Iterator[tuple[Data, Record]]:
        """Yield the records of a release, or of one version of it, which the site finds by their titles."""
        query = {"title_versionless": title}
        if version is not None:
            query["title"] = record_title(title, version)
        for data, content in self._query_releases(query, workspace):
            if content["title_versionless"] == title and version in (None, content["version"]):
                yield data, content

    def _oldest_first(self, title: str, workspace: str, version: str | None = None) -> list[tuple[Data, Record]]:
        return sorted(self.releases(title, workspace, version), key=lambda release: age(release[0]))

    def release_data(self, workspace: str, query: Mapping[str, Any] = MappingProxyType({})) -> Iterator[Data]:
        """Yield the records of the template Release in a workspace, also those that are none."""
        return self.curator.query(self._template(RELEASE), dict(query), self.shelf(workspace).workspace)

    def is_found_by_pid(self, ident: Ident, pid: str, workspace: str) -> bool:
        """Tell whether a PID leads to a record."""
        return any(data.id == ident for data in self.release_data(workspace, {RECORD_PID: pid}))

    @staticmethod
    def named_content(data: Data) -> Record:
        """Return the content of a record that is called as a release is.

        Raises
        ------
        RecordError, InvalidNameError, InvalidVersionError
            When it is not.
        """
        content = data.content()
        title, version = (str(content.get(key)) for key in ("title_versionless", "version"))
        precedence(version)
        if content.get("title") != record_title(check_folder_name(title, "title"), version):
            raise RecordError("its title is not that of a release.")
        return content

    def _query_releases(self, query: dict[str, Any], workspace: str) -> Iterator[tuple[Data, Record]]:
        for data in self.release_data(workspace, query):
            with contextlib.suppress(RecordError, InvalidVersionError, InvalidNameError):
                yield data, self.named_content(data)

    def _add_digests(self, content: Record, workspace: str) -> None:
        """Write into a record of the earlier tool which digests its blobs have: it keeps them in BlobMetadata only."""
        nodes = list(_nodes_without_digest(content))
        if nodes:
            described = self.shelf(workspace).by_pid(node[PID] for node in nodes)
            for node in nodes:
                if node[PID] in described:
                    node[SHA1] = described[node[PID]].digest

    def check_record(self, record: ReleaseRecord) -> None:
        """Refuse a record that the site would not take.

        Raises
        ------
        RecordError
            When it has a key or a value that CDCS refuses.
        """
        super().check_record(record)
        encode_content(record.content)

    def upload_release_record(
        self, release_record: Record, workspace: str | None = None, *, workspace_title: str | None = None
    ) -> str:
        """Publish a record and return its PID. The workspace goes by either name.

        A version that is there already is published once more, and readers get the newer record.

        Raises
        ------
        BlobNotThereError
            When a blob of the record is not in the archive.
        RecordError
            When the record is not valid.
        """
        given = workspace if workspace is not None else workspace_title
        where = DEFAULT_WORKSPACE if given is None else given
        return self._publish(release_record, where, lambda newest: True)

    def publish_record(self, release_record: Record, workspace: str, after: str | None) -> str:
        """Publish a record, unless another one of its version was published since the caller looked."""
        return self._publish(release_record, workspace, lambda newest: newest == after)

    def _publish(self, release_record: Record, where: str, is_expected: Callable[[str | None], bool]) -> str:
        """Publish a record where the place of the newest one of its version, or None, is expected."""
        record = ReleaseRecord(release_record)
        self.check_record(record)
        self._refuse_without_blobs(record, where)
        there = self._oldest_first(record.title_versionless, where, record.version)
        if not is_expected(there[-1][1].get(RECORD_PID, self.address(there[-1][0])) if there else None):
            raise self._published_by_another(record)
        # The PID is the site's to give: that of a record that was fetched belongs to that one.
        content = sealed(record.content)
        template, shelf = self._template(RELEASE)[0], self.shelf(where)
        before = {data.id for data, _ in there}

        def already_done() -> Data | None:
            for data in self.curator.own_data(record.title, template):
                is_new = data.id not in before and data.workspace == shelf.workspace
                if is_new and without(data.content(), RECORD_PID) == content:
                    return data
            return None

        made = self.curator.create_data(record.title, template, shelf.workspace, content, already_done)
        self._yield_to_earlier(made, record, where, before)
        return str(made.content().get(RECORD_PID, self.address(made)))

    def _yield_to_earlier(self, made: Data, record: ReleaseRecord, workspace: str, before: Collection[Ident]) -> None:
        """Take a record back when another publisher was faster: CDCS itself lets both publish."""
        for data, _ in self.releases(record.title_versionless, workspace, record.version):
            if data.id not in before and age(data) < age(made):
                self.curator.delete_data(made.id)
                raise self._published_by_another(record)

    def _published_by_another(self, record: ReleaseRecord) -> ReleaseExistsError:
        return ReleaseExistsError(
            f"{record.title} was published in {printable(self.host)} by another run just now; choose another version."
        )

    def _refuse_without_blobs(self, record: ReleaseRecord, workspace: str) -> None:
        known = self.shelf(workspace).known({blob.digest: blob.size for blob in record.blobs})
        for node in walk_mapping(record.content["project"], record.title):
            properties = node.properties
            if node.item != FOLDER and properties[BYTES] and (properties.get(SHA1), properties.get(PID)) not in known:
                raise BlobNotThereError(record.title, node.path, self.host)

    def locate_record(self, record: Record, workspace: str) -> str:
        """Return the PID of a published record, the newest of its version; without one, the site."""
        found = self.get_release(record["title_versionless"], record["version"], workspace)
        return str(found[RECORD_PID] if found else self.host)

    # --- blobs ----------------------------------------------------------------------------------------------------

    def find_blobs(self, blobs: Iterable[Blob], title_versionless: str, workspace: str) -> dict[str, str]:
        """Return the PIDs of those blobs that are in the workspace with the right size, digest to PID."""
        found = self.shelf(workspace).find({blob.digest: blob.size for blob in blobs})
        return {digest: description.pid for digest, description in found.items()}

    def upload_blobs(
        self,
        blobs: Sequence[Blob],
        source: BlobSource,
        record: ReleaseRecord,
        workspace: str,
        *,
        threads: int,
        meter: Meter,
        chunk_size: int = CHUNK,
    ) -> tuple[dict[str, str], dict[str, Exception]]:
        """Upload those blobs that are not in the workspace."""
        try:
            return self.shelf(workspace).upload(blobs, source, threads=threads, meter=meter)
        except PipelineError as error:
            for blob in blobs:
                meter.finished(blob.paths[0], 0, error, False)
            return {}, {blob.digest: error for blob in blobs}

    def process_and_upload_blob(  # type: ignore[override]  # the documented order of the titles is another one here
        self,
        posix_rel_path: str | Path,
        working_dir: str | Path,
        release_title: str,
        release_title_versionless: str,
        workspace_title: str,
        chunk_size: int,
        verbose: bool = False,
    ) -> tuple[str | None, int]:
        """Upload one file, unless the workspace has its bytes already."""
        path = Path(posix_rel_path).as_posix()
        digest, stamp = hash_file(Path(working_dir) / path)
        if stamp.size == 0:
            return None, 0
        blob = Blob(digest, stamp.size, (path,))
        pids, failures = self.shelf(workspace_title).upload(
            [blob], ProjectSource(working_dir), threads=1, meter=Silent()
        )
        if failures:
            raise BlobsFailedError([(path, failures[digest])])
        if verbose:
            print(f"{printable(path)}: {printable(pids[digest])}, {stamp.size} bytes")
        return pids[digest], stamp.size

    @contextlib.contextmanager
    def open_blob(self, blob: Blob, release_record: Record, workspace: str, offset: int = 0) -> Iterator[Stream]:
        """Open a blob as a stream of its bytes from `offset` on. Where the site cannot, what comes before is skipped.

        Raises
        ------
        BlobDamagedError
            When the site does not have it.
        """
        try:
            download = self._download(blob, workspace, offset)
        except NotFoundError:
            raise BlobDamagedError(
                f"its blob {printable(blob.pid)} is missing from the archive; restore it and run the same command again"
            ) from None
        with contextlib.closing(download):
            yield download

    def _download(self, blob: Blob, workspace: str, offset: int) -> Download:
        """Begin to download a blob by its PID; where that has vanished, by its handle, or one with the same digest."""
        pid = str(blob.pid)
        try:
            return Download(self.curator, pid, offset, blob.size)
        except NotFoundError:
            same = self.shelf(workspace).described({blob.digest: blob.size}).get(blob.digest, [])
            places = [said.handle for said in same if said.pid == pid]
            places += itertools.chain(*((said.pid, said.handle) for said in same if said.pid != pid))
            for place in dict.fromkeys(places):
                if place not in (None, pid):
                    with contextlib.suppress(NotFoundError):
                        return Download(self.curator, str(place), offset, blob.size)
            raise

    def download_blob(
        self,
        blob_pid: str,
        target_file: str | Path,
        update_dict: dict[str, Any],
        expected_size: int,
        release_record: Record,
        workspace: str,
        chunk_size: int = 2**25,
    ) -> None:
        """Fetch one blob into a file, which gets its name only when the bytes are verified.

        Raises
        ------
        BlobsFailedError
            When the blob is missing or damaged; `update_dict` tells the same.
        """

        def find() -> Blob:
            content = copy.deepcopy(release_record)
            self._add_digests(content, workspace)
            for node in walk_mapping(content["project"], "the record"):
                if node.item != FOLDER and node.properties.get(PID) == blob_pid and node.properties.get(SHA1):
                    return Blob(node.properties[SHA1], expected_size, (node.path,), blob_pid)
            raise RecordError(f"The record has no blob {printable(blob_pid)}; give one of its {PID}.")

        fetch_file(
            find,
            lambda blob, offset: self.open_blob(blob, release_record, workspace, offset),
            Path(target_file),
            update_dict,
            chunk_size,
        )


def _nodes_without_digest(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    project, title = content.get("project"), printable(content.get("title", "the record"))
    for node in walk_mapping(project if isinstance(project, dict) else {}, title):
        properties = node.properties
        if properties[ITEM] != FOLDER and properties.get(SHA1) is None and isinstance(properties.get(PID), str):
            yield properties
