"""What every kind of archive promises: one suite, run against each of them.

A kind that is added to `KINDS` has to pass all of it. Nothing here knows where an archive keeps what it is given,
except the class of its kind, which can damage it behind its back.
"""

import copy
import inspect
import itertools
import json
import random
import sys
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from semantic_version import Version

from pipeline import ArchiveInterface, CDCSArchive, FileSystemArchive, ReleaseRecordNotFoundError
from pipeline.archives.filesystem import create_archive
from pipeline.errors import BlobsFailedError, InvalidVersionError, PipelineError, RecordError, ReleaseExistsError
from pipeline.release import ReleaseRecord
from tests.cdcs import OTHER, PUBLIC, archive_of, make_archive
from tests.cdcs_server import CDCSServer
from tests.support import sha1, tree

MIB = 2**20
Files = Mapping[str, bytes]
Record = dict[str, Any]


class Kind(ABC):
    """A kind of archive, and what a test can do to it behind its back."""

    refuses_dollar_names: ClassVar[bool] = False

    @abstractmethod
    def open(self) -> ArchiveInterface:
        """Return the archive, as another process would that knows nothing yet."""

    @abstractmethod
    def written(self) -> Sequence[object]:
        """Return something that is longer, or other, after anything was stored."""

    @abstractmethod
    def overwrite(self, digest: str, data: bytes) -> None:
        """Replace the bytes of a blob."""

    @abstractmethod
    def remove(self, digest: str) -> None:
        """Delete a blob."""

    @abstractmethod
    def count(self, digest: str) -> int:
        """Return how many times the bytes with this digest are stored."""


class Folder(Kind):
    """An archive in a folder."""

    def __init__(self, folder: Path) -> None:
        create_archive(folder)
        self.folder = folder

    def open(self) -> FileSystemArchive:
        return FileSystemArchive(self.folder)

    def written(self) -> Sequence[object]:
        return sorted(path for path, data in tree(self.folder).items() if data is not None and "/.partial/" not in path)

    def _files(self, digest: str) -> list[Path]:
        return list(self.folder.rglob(f"{digest}*"))

    def overwrite(self, digest: str, data: bytes) -> None:
        (file,) = self._files(digest)
        file.write_bytes(data)

    def remove(self, digest: str) -> None:
        (file,) = self._files(digest)
        file.unlink()

    def count(self, digest: str) -> int:
        return len(self._files(digest))


class OnSite(Kind):
    """An archive on a CDCS site."""

    refuses_dollar_names = True

    def __init__(self, server: CDCSServer) -> None:
        make_archive(server)
        self.server = server

    def open(self) -> CDCSArchive:
        return archive_of(self.server)

    def written(self) -> Sequence[object]:
        return [line for line in self.server.requests() if line.startswith("POST") and line.endswith(" 201")]

    def overwrite(self, digest: str, data: bytes) -> None:
        (file,) = (self.server.folder / "media" / "blob").rglob(f"{digest}*")
        file.write_bytes(data)

    def remove(self, digest: str) -> None:
        curator = self.open().curator
        (blob,) = (blob for blob in curator.list_own_blobs() if blob.filename.startswith(digest))
        curator.delete_blob(blob.id)

    def count(self, digest: str) -> int:
        return sum(blob.filename.startswith(digest) for blob in self.open().curator.list_own_blobs())


KINDS = ("folder", "site")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnSite]:
    with CDCSServer(tmp_path_factory.mktemp("cdcs")) as server:
        yield OnSite(server)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.getfixturevalue(request.param)


@pytest.fixture
def archive(kind: Kind) -> ArchiveInterface:
    return kind.open()


@pytest.fixture
def title(request: pytest.FixtureRequest) -> str:
    """A title that no other test has."""
    return f"t{sha1(request.node.nodeid.encode())[:12]}"


# --- releases ---------------------------------------------------------------------------------------------------------


def mapping_of(paths: Iterable[str]) -> Record:
    """Return the project mapping of files, as the earlier tool makes it before an upload."""
    made: Record = {}
    for path in paths:
        folder = made
        *folders, name = path.split("/")
        for number, part in enumerate(folders, 1):
            node = {"/path/": "/".join(folders[:number]), "/attrs/": {}, "/item/": "Directory"}
            folder = folder.setdefault(part, node)
        folder[name] = {"/path/": path, "/attrs/": {}, "/item/": "File", "/file-type/": "misc"}
    return made


def record_of(title: str, project: Record | None = None, version: str = "0.1.0", **more: object) -> Record:
    return {
        "title": f"{title}-v{version}",
        "title_versionless": title,
        "version": version,
        "workflow_config_path": None,
        "workflow": {},
        "requirements": [],
        "project": {} if project is None else project,
        "datasets": {},
        **more,
    }


def write(directory: Path, files: Files) -> Path:
    for path, data in files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(data)
    return directory


def upload(
    archive: ArchiveInterface, directory: Path, title: str, project: Record, workspace: str = PUBLIC, **more: Any
) -> Record:
    """Upload the files of a project mapping, and return it with what the archive wrote into it."""
    archive.upload_blobs_and_update_mapping(
        release_title=f"{title}-v0.1.0",
        release_title_versionless=title,
        workspace=workspace,
        project_mapping=project,
        project_directory=directory,
        max_threads=4,
        chunk_size=MIB,
        **more,
    )
    return project


def publish(
    archive: ArchiveInterface, directory: Path, title: str, files: Files, version: str = "0.1.0", **more: Any
) -> Record:
    """Publish files with the interface alone, and return the record that was given to it."""
    project = upload(archive, write(directory, files), title, mapping_of(files), **more)
    record = record_of(title, project, version)
    archive.upload_release_record(record, more.get("workspace", PUBLIC))
    return record


def found(archive: ArchiveInterface, title: str, expressions: Any = None, workspace: str = PUBLIC) -> list[str]:
    """Return the versions that are found; none when the archive says so as it should."""
    try:
        records = archive.get_release_records(title, expressions, workspace)
    except ReleaseRecordNotFoundError:
        return []
    assert records, "an archive that finds nothing must say so"
    assert list(records) == [f"{title}-v{record['version']}" for record in records.values()]
    return [record["version"] for record in records.values()]


def download(archive: ArchiveInterface, record: Record, target: Path, workspace: str = PUBLIC) -> dict[str, bytes]:
    """Fetch a release, and return its files."""
    archive.download_release(record, workspace, 4, target, MIB, progress_bar=False)
    assert json.loads((target / ".rme" / "record.yml").read_bytes()) == record
    return files_in(target)


def files_in(target: Path) -> dict[str, bytes]:
    return {p: data for p, data in tree(target).items() if data is not None and not p.startswith(".rme/")}


def without_pid(record: Record) -> Record:
    """Return a record without the PID that the archive gives to it as a whole."""
    return {key: value for key, value in record.items() if key != "/PID/"}


def is_one_sentence(error: BaseException) -> bool:
    return len(str(error).splitlines()) == 1


def bytes_of(title: str, size: int = 100) -> bytes:
    """Return bytes that no other test has: blobs of a workspace may be shared by all of its releases."""
    return random.Random(title).randbytes(size)


# --- versions ---------------------------------------------------------------------------------------------------------

# Semantic Versioning 2.0.0, clause 11, with numbers that text would sort otherwise.
ORDER = [
    *("0.9.0", "0.10.0", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2"),
    *("1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.0.0+build.7", "1.0.2", "1.0.10", "2.0.0-0", "10.0.0"),
]


@pytest.fixture(scope="module")
def full(kind: Kind) -> ArchiveInterface:
    """An archive where a release has many versions, published in another order."""
    archive = kind.open()
    for version in sorted(ORDER, key=lambda version: sha1(version.encode())):
        archive.upload_release_record(record_of("versions", version=version), PUBLIC)
    return kind.open()


@pytest.mark.parametrize("expressions", [None, [], (), "", " , "], ids=repr)
def test_without_expressions_all_versions_come_from_the_oldest_to_the_newest(
    full: ArchiveInterface, expressions: Any
) -> None:
    assert found(full, "versions", expressions) == ORDER
    assert full.get_release_versions("versions") == ORDER


def test_expressions_and_workspace_may_be_left_out(full: ArchiveInterface) -> None:
    assert list(full.get_release_records("versions")) == [f"versions-v{version}" for version in ORDER]
    assert full.get_release_records(title_versionless="versions") == full.get_release_records("versions", None, PUBLIC)


@pytest.mark.parametrize(
    ("expressions", "versions"),
    [
        (["==1.0.0"], ["1.0.0", "1.0.0+build.7"]),
        (["1.0.0"], ["1.0.0", "1.0.0+build.7"]),
        (["==1.0.0+other"], ["1.0.0", "1.0.0+build.7"]),
        (["!=1.0.0", ">=1.0.0-rc.1", "<=1.0.2"], ["1.0.0-rc.1", "1.0.2"]),
        (["==1.0.0-rc.1"], ["1.0.0-rc.1"]),
        (["==10.0.0"], ["10.0.0"]),
        (["==1.0.1"], []),
        ([" == 10.0.0 "], ["10.0.0"]),
        (("==10.0.0",), ["10.0.0"]),
        ([">=1.0.0", "<1.0.10"], ["1.0.0", "1.0.0+build.7", "1.0.2"]),
        ([">=1.0.0", "==1.0.2"], ["1.0.2"]),
        ([">=1.0.0", "<1.0.0"], []),
        ([">1.0.0"], ["1.0.2", "1.0.10", "2.0.0-0", "10.0.0"]),
        ([">1.0.2", "<2.0.0"], ["1.0.10", "2.0.0-0"]),
        (["<=0.10.0"], ["0.9.0", "0.10.0"]),
        (["<1.0.0-alpha.beta"], ["0.9.0", "0.10.0", "1.0.0-alpha", "1.0.0-alpha.1"]),
        ([">=1.0.0-beta.3", "<1.0.0"], ["1.0.0-beta.11", "1.0.0-rc.1"]),
        (">=1.0.0,<1.0.10", ["1.0.0", "1.0.0+build.7", "1.0.2"]),
        (" >=1.0.0 , <1.0.10 ,", ["1.0.0", "1.0.0+build.7", "1.0.2"]),
        ("==10.0.0", ["10.0.0"]),
        ("10.0.0", ["10.0.0"]),
    ],
    ids=repr,
)
def test_all_expressions_must_be_met(full: ArchiveInterface, expressions: Any, versions: list[str]) -> None:
    assert found(full, "versions", expressions) == versions


@pytest.mark.parametrize("expressions", [["=>1.0.0"], ["~1.0"], [">=1"], ["newest"], [">"], ">=1.0.0 <2.0.0", [1]])
@pytest.mark.parametrize("name", ["versions", "unknown"])
def test_a_bad_expression_is_said_to_be_one_whatever_there_is(
    full: ArchiveInterface, expressions: Any, name: str
) -> None:
    with pytest.raises(InvalidVersionError) as caught:
        full.get_release_records(name, expressions)
    assert is_one_sentence(caught.value)


@pytest.mark.parametrize(
    ("arguments", "keywords", "words"),
    [
        (("nothing",), {}, ["nothing", PUBLIC]),
        (("nothing", None), {}, ["nothing", PUBLIC]),
        (("nothing", ["==1.0.0"]), {}, ["nothing", "==1.0.0", PUBLIC]),
        (("versions", [">90.0.0", "<100.0.0"]), {}, ["versions", ">90.0.0", "<100.0.0", PUBLIC]),
        (("versions", ">90.0.0, <100.0.0"), {}, ["versions", ">90.0.0", "<100.0.0"]),
        (("versions", None, OTHER), {}, ["versions", OTHER]),
        (("versions",), {"workspace": OTHER}, ["versions", OTHER]),
        ((), {"title_versionless": "nothing"}, ["nothing", PUBLIC]),
        (
            (),
            {"workspace": OTHER, "version_expressions": ["==90.0.0"], "title_versionless": "versions"},
            ["versions", "==90.0.0", OTHER],
        ),
    ],
)
def test_a_release_that_is_not_there_is_an_error_that_names_what_was_asked_for(
    full: ArchiveInterface, arguments: Any, keywords: Any, words: list[str]
) -> None:
    with pytest.raises(ReleaseRecordNotFoundError) as caught:
        full.get_release_records(*arguments, **keywords)
    for word in [*words, str(full.host)]:
        assert word in str(caught.value)
    assert is_one_sentence(caught.value)


def test_a_release_that_is_not_there_has_no_versions(full: ArchiveInterface) -> None:
    assert full.get_release_versions("nothing") == []
    assert full.get_release_versions("versions", OTHER) == []


VERSION = st.builds(
    "{}.{}.{}{}{}".format,
    *[st.integers(0, 2)] * 3,
    st.sampled_from(["", "", "-0", "-1", "-10", "-alpha", "-alpha.1", "-alpha.beta", "-rc.2", "-rc.11", "-x-y", "--"]),
    st.sampled_from(["", "", "", "+1", "+build.7", "+-", "+001"]),
)
SIGNS: dict[str, Callable[[Version, Version], bool]] = {
    # The library takes versions for equal by their text, and for smaller or greater by their precedence.
    "==": lambda a, b: not (a < b or a > b),
    "": lambda a, b: not (a < b or a > b),
    "!=": lambda a, b: a < b or a > b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
EXPRESSION = st.tuples(st.sampled_from(sorted(SIGNS)), VERSION)
_numbers = itertools.count()


# Each example publishes on a real site: what fails is not made smaller.
@settings(max_examples=8, phases=[Phase.explicit, Phase.generate])
@given(
    st.lists(VERSION, min_size=1, max_size=5, unique=True),
    st.lists(st.lists(EXPRESSION, max_size=3), min_size=2, max_size=6),
)
def test_any_versions_and_any_expressions_give_the_same_in_all_archives_and_in_the_library(
    folder: Folder, site: OnSite, versions: list[str], expressions: list[list[tuple[str, str]]]
) -> None:
    title = f"any-{next(_numbers)}"
    archives = [folder.open(), site.open()]
    for archive in archives:
        for version in versions:
            archive.upload_release_record(record_of(title, version=version), PUBLIC)
    # Bounds that are one of the versions, but for the build or the pre-release, are those that tell mistakes.
    version = versions[0].partition("+")[0]
    bounds_near = (version, f"{version}+another", version.partition("-")[0], f"{version.partition('-')[0]}-rc.2")
    near = [[(sign, bound)] for sign in SIGNS for bound in bounds_near]
    for bounds in [[], *near, *expressions]:
        asked = [sign + bound for sign, bound in bounds]
        answers = [found(archive, title, asked) for archive in archives]
        assert answers[0] == answers[1]
        expected = {v for v in versions if all(SIGNS[sign](Version(v), Version(bound)) for sign, bound in bounds)}
        assert set(answers[0]) == expected
        assert len(answers[0]) == len(expected)
        assert not any(Version(later) < Version(earlier) for earlier, later in itertools.pairwise(answers[0]))
    assert all(archive.get_release_versions(title) == answers[0] for archive in archives if not bounds)


# --- titles and workspaces --------------------------------------------------------------------------------------------


def test_titles_that_begin_alike_are_not_mixed_up(archive: ArchiveInterface, title: str) -> None:
    titles = {
        f"{title}-a": ["1.0.0"],
        f"{title}-a-b": ["2.0.0"],
        f"{title}-a-b-c": ["3.0.0"],
        f"{title}-ab": ["4.0.0"],
        f"{title}-a-b-v5": ["5.0.0"],
        f"{title}.a": ["6.0.0"],
        f"{title}_a": ["7.0.0"],
        f"{title}%": ["8.0.0"],
        # Two releases that have one title with the version.
        f"{title}-x": ["1.0.0-v2.0.0"],
        f"{title}-x-v1.0.0": ["2.0.0"],
    }
    for name, (version,) in titles.items():
        archive.upload_release_record(record_of(name, version=version), PUBLIC)
    for name, versions in titles.items():
        assert found(archive, name) == archive.get_release_versions(name) == versions
    for name in (title, f"{title}-", f"{title}-a-", f"{title}-a-b-v", f"{title}-?", f"{title}.*", "%", "_", "*"):
        assert found(archive, name) == []


@pytest.mark.skipif(sys.platform != "linux", reason="file systems that take names for one that differ in case")
def test_titles_that_differ_in_case_are_not_mixed_up(archive: ArchiveInterface, title: str) -> None:
    archive.upload_release_record(record_of(title), PUBLIC)
    assert found(archive, title.upper()) == []
    archive.upload_release_record(record_of(title.upper(), version="0.2.0"), PUBLIC)
    assert found(archive, title) == ["0.1.0"]
    assert found(archive, title.upper()) == ["0.2.0"]


def test_workspaces_are_honoured_in_writing_and_reading(
    archive: ArchiveInterface, kind: Kind, title: str, tmp_path: Path
) -> None:
    here, there = bytes_of(title), bytes_of(title + "there")
    one = publish(archive, tmp_path / "here", title, {"a.csv": here})
    publish(archive, tmp_path / "there", title, {"a.csv": there}, workspace=OTHER)
    publish(archive, tmp_path / "there", title, {"a.csv": there}, "0.2.0", workspace=OTHER)
    reader = kind.open()
    assert found(reader, title) == reader.get_release_versions(title) == ["0.1.0"]
    assert found(reader, title, workspace=OTHER) == reader.get_release_versions(title, OTHER) == ["0.1.0", "0.2.0"]
    (record,) = reader.get_release_records(title).values()
    assert download(reader, record, tmp_path / "got here") == {"a.csv": here}
    newest = reader.get_release_records(title, ["==0.2.0"], OTHER)[f"{title}-v0.2.0"]
    assert download(reader, newest, tmp_path / "got there", OTHER) == {"a.csv": there}
    blobs = ReleaseRecord(one).blobs
    assert set(reader.find_blobs(blobs, title, PUBLIC)) == {sha1(here)}
    assert reader.find_blobs(blobs, title, OTHER) == {}


def test_a_record_cannot_name_blobs_of_another_workspace(archive: ArchiveInterface, title: str, tmp_path: Path) -> None:
    record = publish(archive, tmp_path, title, {"a.csv": bytes_of(title)})
    with pytest.raises(PipelineError, match=r"a\.csv"):
        archive.upload_release_record(record, OTHER)
    assert found(archive, title, workspace=OTHER) == []


@pytest.mark.parametrize("call", ["position", "keyword", "workspace_title"])
def test_the_workspace_of_a_record_goes_by_either_name(archive: ArchiveInterface, title: str, call: str) -> None:
    record = record_of(title)
    if call == "position":
        pid = archive.upload_release_record(record, OTHER)
    elif call == "keyword":
        pid = archive.upload_release_record(release_record=record, workspace=OTHER)
    else:
        pid = archive.upload_release_record(record, workspace_title=OTHER)  # type: ignore[call-arg]
    assert pid
    assert isinstance(pid, str)
    assert found(archive, title) == []
    assert found(archive, title, workspace=OTHER) == ["0.1.0"]


def test_a_workspace_that_is_not_there_is_named(archive: ArchiveInterface) -> None:
    with pytest.raises(PipelineError, match="No Such Workspace") as caught:
        archive.get_release_records("versions", None, "No Such Workspace")
    assert is_one_sentence(caught.value)


# --- files ------------------------------------------------------------------------------------------------------------

ODD_NAMES = [
    *(" ", "  two  spaces  ", " leading", "trailing ", "tab\there", "line\nbreak", "cr\rhere", "crlf\r\nhere"),
    *("-rf", "--title", "-", "~", "~root", ".hidden", "...", "x.", "x..csv", ".csv", "csv", "a.tar.gz"),
    *("Größe µm – Übersicht.txt", "日本語.csv", "עברית.txt", "🧪🔬.h5", "\u202etxt.exe", "zero\u200bwidth", "a\u2028b"),
    *(unicodedata.normalize(form, "é.csv") for form in ("NFC", "NFD")),
    *("quote'.csv", 'quotes".csv', "semi;colon", "comma,", "100%", "%2e%2e", "a&b=c", "#hash", "?query", "<b>", "a|b"),
    *("*", "[a]", "{a}", "a:b", "a=b", "!x", "@x", "+x", "`id`", "x$y", "x.$y", "\x01", "\x7f", "\x85", "\ufeff"),
    *(
        "null",
        "true",
        "1",
        "1.5",
        "1e5",
        "__proto__",
        "title",
        "project",
        "PID",
        "sha1",
        "NaN",
        "con.txt",
        "<<",
        "=",
        "y",
    ),
    *("n" * 255, "ü" * 127, "🧪" * 63, "a." + "e" * 250, "ö." + "ü" * 120, "a.b c", "a.é"),
]


# What a site calls an upload ends as the file does.
ODD_ENDINGS = [
    *("none", ".hidden", "x.", "x. ", "x.\n", "x.\r\ny", 'x."', "x.;", "x.a b", "x.é", "x.e\u0301", "x.🧪", "x.%41"),
    *("x.<b>", "x." + "e" * 250, "x." + "ü" * 120, "x.\x01", "x.\x7f", "x.CSV", "x.*"),
]


def test_odd_file_names_come_back_as_they_were(
    archive: ArchiveInterface, kind: Kind, title: str, tmp_path: Path
) -> None:
    files = {name: f"{title} {number}".encode() for number, name in enumerate(ODD_NAMES)}
    files |= {f"folder {name}"[:40] + f"/in/{name}": data for name, data in files.items()}
    try:
        write(tmp_path / "project", files)
    except OSError as error:
        pytest.skip(f"this file system does not take the names: {error}")
    record = publish(archive, tmp_path / "project", title, files)
    reader = kind.open()
    (got,) = reader.get_release_records(title).values()
    assert without_pid(got) == record
    assert download(reader, got, tmp_path / "got") == files
    assert tree(tmp_path / "project") == {
        path: data for path, data in tree(tmp_path / "got").items() if not path.startswith(".rme")
    }


def test_odd_endings_of_file_names_come_back_as_they_were(
    archive: ArchiveInterface, kind: Kind, title: str, tmp_path: Path
) -> None:
    files = {name: f"{title} {number}".encode() for number, name in enumerate(ODD_ENDINGS)}
    publish(archive, tmp_path / "project", title, files)
    (got,) = kind.open().get_release_records(title).values()
    assert download(archive, got, tmp_path / "got") == files


@pytest.mark.parametrize("where", ["file", "folder", "attribute"])
def test_names_that_begin_with_a_dollar_sign_are_kept_or_refused_before_anything_is_uploaded(
    archive: ArchiveInterface, kind: Kind, title: str, tmp_path: Path, where: str
) -> None:
    files = {{"file": "$ref", "folder": "$a/b.csv", "attribute": "a.csv"}[where]: bytes_of(title + where)}
    project = mapping_of(files)
    if where == "attribute":
        project["a.csv"]["/attrs/"] = {"deep": [{"$unit": "dB"}]}
    write(tmp_path / "project", files)
    if not kind.refuses_dollar_names:
        record = record_of(title, upload(archive, tmp_path / "project", title, project))
        archive.check_record(ReleaseRecord(record))
        archive.upload_release_record(record, PUBLIC)
        (got,) = archive.get_release_records(title).values()
        assert download(archive, got, tmp_path / "got") == files
        return
    before = kind.written()
    described = upload(archive, tmp_path / "project", title, copy.deepcopy(project), no_blobs=True)
    with pytest.raises(RecordError, match=r"'\$(ref|a|unit)'") as caught:
        archive.check_record(ReleaseRecord(record_of(title, described)))
    assert is_one_sentence(caught.value)
    with pytest.raises(PipelineError) as caught_uploading:
        archive.upload_release_record(record_of(title, upload(archive, tmp_path / "project", title, project)), PUBLIC)
    assert str(caught_uploading.value) == str(caught.value)
    assert kind.written() == before


@pytest.mark.parametrize("size", [1, 2, 2**16 - 1, 2**16, MIB - 1, MIB + 1, 5 * MIB])
def test_files_of_any_size_come_back_byte_for_byte(
    archive: ArchiveInterface, kind: Kind, title: str, tmp_path: Path, size: int
) -> None:
    files = {"trace.bin": bytes_of(title, size), "text.csv": b"\r\n\0\xff\xfe" + title.encode()}
    publish(archive, tmp_path / "project", title, files)
    reader = kind.open()
    (record,) = reader.get_release_records(title).values()
    assert download(reader, record, tmp_path / "got") == files


def test_empty_files_and_folders_are_kept_in_the_record_alone(
    archive: ArchiveInterface, kind: Kind, title: str, tmp_path: Path
) -> None:
    files = {"empty.csv": b"", "deep/empty": b""}
    project = mapping_of(files) | mapping_of(["no files/x"])
    del project["no files"]["x"]
    before = kind.written()
    upload(archive, write(tmp_path / "project", files), title, project)
    assert kind.written() == before
    archive.upload_release_record(record_of(title, project), PUBLIC)
    (record,) = kind.open().get_release_records(title).values()
    assert project["empty.csv"]["/bpid/"] is None
    assert project["empty.csv"]["/bytes/"] == 0
    assert download(archive, record, tmp_path / "got") == files
    assert (tmp_path / "got" / "no files").is_dir()


def test_a_project_with_nothing_in_it_is_a_release(
    archive: ArchiveInterface, kind: Kind, title: str, tmp_path: Path
) -> None:
    publish(archive, tmp_path, title, {})
    (record,) = kind.open().get_release_records(title).values()
    assert download(archive, record, tmp_path / "got") == {}


def test_identical_files_are_one_blob(archive: ArchiveInterface, kind: Kind, title: str, tmp_path: Path) -> None:
    data = bytes_of(title)
    files = {"a.csv": data, "b.bin": data, "deep/c": data, "d.csv": bytes_of(title + "d")}
    record = publish(archive, tmp_path / "project", title, files)
    assert kind.count(sha1(data)) == 1
    assert len({record["project"][name]["/bpid/"] for name in ("a.csv", "b.bin", "d.csv")}) == 2
    assert record["project"]["deep"]["c"]["/bpid/"] == record["project"]["a.csv"]["/bpid/"]
    assert download(kind.open(), archive.get_release_records(title)[f"{title}-v0.1.0"], tmp_path / "got") == files


def test_a_second_version_uploads_only_what_is_new(
    archive: ArchiveInterface, kind: Kind, title: str, tmp_path: Path
) -> None:
    files = {f"{number}.csv": bytes_of(f"{title} {number}") for number in range(4)}
    first = publish(archive, tmp_path / "project", title, files)
    changed = {**files, "0.csv": bytes_of(title + "new")}
    second = publish(kind.open(), tmp_path / "project", title, changed, "0.2.0")
    assert all(kind.count(sha1(data)) == 1 for data in [*files.values(), changed["0.csv"]])
    assert all(first["project"][f"{n}.csv"]["/bpid/"] == second["project"][f"{n}.csv"]["/bpid/"] for n in (1, 2, 3))
    for version, expected in (("0.1.0", files), ("0.2.0", changed)):
        record = archive.get_release_records(title, [f"=={version}"])[f"{title}-v{version}"]
        assert download(archive, record, tmp_path / version) == expected


def test_what_is_known_of_hdf5_files_is_kept(archive: ArchiveInterface, kind: Kind, title: str, tmp_path: Path) -> None:
    files = {"terms.h5": bytes_of(title)}
    project = mapping_of(files)
    project["terms.h5"] |= {
        "/item/": "H5_File",
        "/file-type/": "hdf5",
        "/attrs/": {"unit": "dB", "größe": [1, 2.5, None, True, {"deep": "x"}], "": "", "1e5": 1e-7, "big": 2**53 + 1},
        "group": {
            "/item/": "H5_Group",
            "/path/": "terms.h5/group",
            "/attrs/": {},
            "data set 1": {"/item/": "H5_Dataset", "/attrs/": {"shape": [3, 4]}},
            "..": {"/item/": "H5_Dataset"},
            "a/b": {"/item/": "H5_Dataset"},
        },
    }
    record = record_of(title, upload(archive, write(tmp_path / "project", files), title, project))
    archive.upload_release_record(record, PUBLIC)
    (got,) = kind.open().get_release_records(title).values()
    assert without_pid(got) == record
    assert download(archive, got, tmp_path / "got") == files


# --- one blob ---------------------------------------------------------------------------------------------------------


def test_one_file_is_uploaded_once_whatever_it_is_called(
    archive: ArchiveInterface, kind: Kind, title: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytes_of(title)
    write(tmp_path, {"a.csv": data, "deep/b.csv": data, "empty": b""})
    named = {"release_title": f"{title}-v0.1.0", "release_title_versionless": title, "workspace_title": PUBLIC}
    given = [
        archive.process_and_upload_blob(posix_rel_path=path, working_dir=where, chunk_size=1000, **named)
        for path, where in (("a.csv", tmp_path), (Path("a.csv"), str(tmp_path)), (Path("deep", "b.csv"), tmp_path))
    ]
    assert capsys.readouterr().out == ""
    assert len(set(given)) == 1
    assert given[0][1] == len(data)
    assert given[0][0]
    assert kind.count(sha1(data)) == 1
    assert archive.process_and_upload_blob("empty", tmp_path, chunk_size=1000, verbose=True, **named) == (None, 0)
    assert archive.process_and_upload_blob("a.csv", tmp_path, chunk_size=9, verbose=True, **named) == given[0]
    assert "a.csv" in capsys.readouterr().out


@pytest.mark.parametrize("path", ["nothing", "folder", "a\0b"])
def test_what_is_no_file_is_not_uploaded(
    archive: ArchiveInterface, kind: Kind, title: str, tmp_path: Path, path: str
) -> None:
    (tmp_path / "folder").mkdir()
    before = kind.written()
    with pytest.raises((PipelineError, OSError, ValueError)):
        archive.process_and_upload_blob(
            path,
            tmp_path,
            release_title=f"{title}-v0.1.0",
            release_title_versionless=title,
            workspace_title=PUBLIC,
            chunk_size=MIB,
        )
    assert kind.written() == before


class Watched(dict[str, Any]):
    """An update_dict that remembers every size that it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        if key == "size":
            self.sizes.append(value)


def test_a_blob_is_downloaded_and_says_how_far_it_is(
    archive: ArchiveInterface, kind: Kind, title: str, tmp_path: Path
) -> None:
    data = bytes_of(title, 2 * MIB)
    publish(archive, tmp_path / "project", title, {"a.bin": data})
    reader = kind.open()
    (record,) = reader.get_release_records(title).values()
    status = Watched()
    reader.download_blob(
        blob_pid=record["project"]["a.bin"]["/bpid/"],
        target_file=tmp_path / "target",
        update_dict=status,
        expected_size=len(data),
        release_record=record,
        workspace=PUBLIC,
        chunk_size=10_000,
    )
    assert (tmp_path / "target").read_bytes() == data
    assert status == {"size": len(data), "finished": True, "success": True, "error": None}
    assert status.sizes == sorted(status.sizes)
    assert len(set(status.sizes)) > 20, "it must move while bytes move"
    positional = [record["project"]["a.bin"]["/bpid/"], str(tmp_path / "again"), {}, len(data), record, PUBLIC, MIB]
    reader.download_blob(*positional)
    assert (tmp_path / "again").read_bytes() == data
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "project", "target"]


def a_broken_blob(kind: Kind, data: bytes, damage: str) -> None:
    changed = {"edited": bytes([data[0] ^ 1]) + data[1:], "cut": data[:-1], "grown": data + b"x", "emptied": b""}
    kind.remove(sha1(data)) if damage == "missing" else kind.overwrite(sha1(data), changed[damage])


DAMAGE = ["missing", "edited", "cut", "grown", "emptied"]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_blob_that_is_not_as_the_record_says_never_gets_its_name(
    archive: ArchiveInterface, kind: Kind, title: str, tmp_path: Path, damage: str
) -> None:
    data = bytes_of(title, 100_000)
    publish(archive, tmp_path / "project", title, {"a.bin": data})
    (record,) = archive.get_release_records(title).values()
    a_broken_blob(kind, data, damage)
    (tmp_path / "target").write_bytes(b"what was there before")
    pid, status = record["project"]["a.bin"]["/bpid/"], Watched()
    with pytest.raises(PipelineError) as caught:
        archive.download_blob(pid, tmp_path / "target", status, len(data), record, PUBLIC)
    assert (status["finished"], status["success"]) == (True, False)
    assert str(status["error"]) in str(caught.value) or str(caught.value) in str(status["error"])
    assert (tmp_path / "target").read_bytes() == b"what was there before"
    if damage != "missing":
        kind.overwrite(sha1(data), data)
        archive.download_blob(pid, tmp_path / "target", status, len(data), record, PUBLIC)
        assert (tmp_path / "target").read_bytes() == data
        assert status == {"size": len(data), "finished": True, "success": True, "error": None}


def test_a_size_that_the_blob_does_not_have_is_damage(archive: ArchiveInterface, title: str, tmp_path: Path) -> None:
    data = bytes_of(title)
    publish(archive, tmp_path / "project", title, {"a.bin": data})
    (record,) = archive.get_release_records(title).values()
    for size in (0, 1, len(data) - 1, len(data) + 1):
        with pytest.raises(PipelineError):
            archive.download_blob(record["project"]["a.bin"]["/bpid/"], tmp_path / "target", {}, size, record, PUBLIC)
        assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_file_of_a_broken_blob_is_named_and_all_others_are_fetched(
    archive: ArchiveInterface, kind: Kind, title: str, tmp_path: Path, damage: str
) -> None:
    data = bytes_of(title)
    files = {f"{number}.csv": bytes_of(f"{title} {number}") for number in range(8)} | {"bad/one.csv": data}
    publish(archive, tmp_path / "project", title, files)
    (record,) = archive.get_release_records(title).values()
    a_broken_blob(kind, data, damage)
    with pytest.raises(BlobsFailedError, match=r"bad/one\.csv") as caught:
        download(archive, record, tmp_path / "got")
    assert [path for path, _ in caught.value.failures] == ["bad/one.csv"]
    assert is_one_sentence(caught.value)
    assert files_in(tmp_path / "got") == {path: data for path, data in files.items() if path != "bad/one.csv"}
    assert not (tmp_path / "got" / ".rme" / "record.yml").exists()
    if damage != "missing":
        kind.overwrite(sha1(data), data)
        assert download(archive, record, tmp_path / "got") == files


def test_a_blob_that_was_lost_is_uploaded_again_by_whoever_publishes_it(
    archive: ArchiveInterface, kind: Kind, title: str, tmp_path: Path
) -> None:
    files = {"a.csv": bytes_of(title), "b.csv": bytes_of(title + "b")}
    publish(archive, tmp_path / "project", title, files)
    kind.remove(sha1(files["a.csv"]))
    publish(kind.open(), tmp_path / "project", title, files, "0.2.0")
    record = kind.open().get_release_records(title, ["==0.2.0"])[f"{title}-v0.2.0"]
    assert download(archive, record, tmp_path / "got") == files


# --- uploading and downloading a whole release ------------------------------------------------------------------------


def test_a_file_that_is_missing_is_named_and_does_not_stop_the_others(
    archive: ArchiveInterface, kind: Kind, title: str, tmp_path: Path
) -> None:
    files = {"a.csv": bytes_of(title), "data/b.csv": bytes_of(title + "b")}
    project = mapping_of([*files, "data/gone.csv"])
    with pytest.raises(BlobsFailedError, match=r"data/gone\.csv") as caught:
        upload(archive, write(tmp_path, files), title, project)
    assert [path for path, _ in caught.value.failures] == ["data/gone.csv"]
    assert all(kind.count(sha1(data)) == 1 for data in files.values())
    with pytest.raises(PipelineError):
        archive.upload_release_record(record_of(title, project), PUBLIC)
    assert found(archive, title) == []


def test_no_blobs_uploads_nothing_and_cannot_be_published(
    archive: ArchiveInterface, kind: Kind, title: str, tmp_path: Path
) -> None:
    data = bytes_of(title)
    before = kind.written()
    project = upload(archive, write(tmp_path, {"a.csv": data}), title, mapping_of(["a.csv"]), no_blobs=True)
    node = project["a.csv"]
    assert (node["/bytes/"], node["/sha1/"], node["/bpid/"]) == (len(data), sha1(data), None)
    with pytest.raises(PipelineError):
        archive.upload_release_record(record_of(title, project), PUBLIC)
    assert kind.written() == before


def test_uploading_goes_by_position_too(archive: ArchiveInterface, title: str, tmp_path: Path) -> None:
    files = {"a.csv": bytes_of(title)}
    project = mapping_of(files)
    archive.upload_blobs_and_update_mapping(
        f"{title}-v0.1.0", title, PUBLIC, project, str(write(tmp_path, files)), 1, 1000
    )
    archive.upload_release_record(record_of(title, project), PUBLIC)
    assert found(archive, title) == ["0.1.0"]


def test_a_release_is_fetched_again_without_moving_what_is_there(
    archive: ArchiveInterface, kind: Kind, title: str, tmp_path: Path
) -> None:
    files = {"a.csv": bytes_of(title), "b.csv": bytes_of(title + "b"), "empty": b""}
    publish(archive, tmp_path / "project", title, files)
    (record,) = archive.get_release_records(title).values()
    before = copy.deepcopy(record)
    download(archive, record, tmp_path / "got")
    assert record == before, "the record of the caller was changed"
    there = (tmp_path / "got" / "a.csv").stat().st_ino
    (tmp_path / "got" / "b.csv").write_bytes(b"edited")
    assert download(archive, record, tmp_path / "got") == files
    assert (tmp_path / "got" / "a.csv").stat().st_ino == there
    kind.remove(sha1(files["a.csv"]))
    assert download(archive, record, tmp_path / "got") == files


def test_a_release_is_fetched_into_a_relative_folder_by_position(
    archive: ArchiveInterface, title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"a.csv": bytes_of(title)}
    publish(archive, tmp_path / "project", title, files)
    (record,) = archive.get_release_records(title).values()
    monkeypatch.chdir(tmp_path)
    archive.download_release(record, PUBLIC, 1, "x/y", 1000, False, False)
    assert files_in(tmp_path / "x" / "y") == files


# --- the record -------------------------------------------------------------------------------------------------------


def test_a_record_comes_back_as_it_was_given(archive: ArchiveInterface, kind: Kind, title: str) -> None:
    more = {
        "workflow_config_path": "release.yml",
        "workflow": {"größe": "µ", "steps": [1, 2.5, -1e-7, 10**18, None, True, "", "null", "1.0"], "": {}},
        "requirements": ["rmellipse>=0.4", "a\nb", "\u2028", "🧪", " "],
        "datasets": {"a.b": {"c": []}, "x" * 200: "y" * 100_000, "1": {"/x/": {}}, "NaN": "Infinity"},
    }
    record = record_of(title, **more)
    before = copy.deepcopy(record)
    archive.upload_release_record(record, PUBLIC)
    assert record == before, "the record of the caller was changed"
    (got,) = kind.open().get_release_records(title).values()
    assert without_pid(got) == before


UNWRITABLE = {
    "not a number": float("nan"),
    "infinity": float("inf"),
    "lone surrogate": "\ud800",
    "lone surrogate in a key": {"\udfff": 1},
    "NUL": "a\0b",
    "NUL in a key": {"\0": 1},
    "bytes": b"bytes",
    "a set": {1},
    "an object": object(),
    "a key that is no text": {1: 2, "1": 3},
    "a number that is too long": 10**5000,
    "a long number": 2**80,
    "nested too deeply": json.loads("[" * 900 + "]" * 900),
    "a long key": {"k" * 5000: 1},
    "a dollar sign": {"$where": 1},
    "a dollar sign in a list": [{"deep": [{"$ne": 1}]}],
    "a folder that contains itself": None,
}


@pytest.mark.parametrize("what", UNWRITABLE)
def test_what_cannot_be_written_is_refused_before_anything_is_or_comes_back_as_it_was(
    archive: ArchiveInterface, kind: Kind, title: str, tmp_path: Path, what: str
) -> None:
    value = UNWRITABLE[what]
    if value is None:
        value = {}
        value["self"] = value
    project = upload(archive, write(tmp_path, {"a.csv": bytes_of(title)}), title, mapping_of(["a.csv"]))
    record = record_of(title, project)
    project["a.csv"]["/attrs/"] = {"value": value}
    before = kind.written()
    if (why := refusal(lambda: archive.check_record(ReleaseRecord(record)))) is not None:
        assert is_one_sentence(why)
        with pytest.raises(PipelineError) as caught:
            archive.upload_release_record(record, PUBLIC)
        assert is_one_sentence(caught.value)
        assert kind.written() == before
        assert found(archive, title) == []
    else:
        archive.upload_release_record(record, PUBLIC)
        (got,) = kind.open().get_release_records(title).values()
        assert repr(without_pid(got)) == repr(as_it_is_read(record))


def as_it_is_read(record: Record) -> Record:
    """Return a record as JSON has it, or as it is where JSON has no form for it."""
    try:
        return dict(json.loads(json.dumps(record)))
    except TypeError:
        return record


def refusal(check: Callable[[], object]) -> PipelineError | None:
    """Return what `check` raises, or None."""
    try:
        check()
    except PipelineError as error:
        return error
    return None


def lose_pid(project: Record) -> None:
    del project["a.csv"]["/bpid/"]


def other_pid(project: Record) -> None:
    pid = project["a.csv"]["/bpid/"]
    project["a.csv"]["/bpid/"] = pid[:-1] + ("1" if pid.endswith("0") else "0")


NOT_THERE: dict[str, Callable[[Record], object]] = {
    "no PID": lambda project: project["a.csv"].update({"/bpid/": None}),
    "PID left out": lose_pid,
    "PID of nothing": lambda project: project["a.csv"].update({"/bpid/": "0" * 40}),
    "PID that looks real": other_pid,
    "PID of the other file": lambda project: project["a.csv"].update({"/bpid/": project["b.csv"]["/bpid/"]}),
    "PID of the other file for a twin": lambda project: project["twin.csv"].update(
        {"/bpid/": project["b.csv"]["/bpid/"]}
    ),
    "no PID of a twin": lambda project: project["twin.csv"].update({"/bpid/": None}),
    "evil PID": lambda project: project["a.csv"].update({"/bpid/": "../../../x"}),
    "PID that is no text": lambda project: project["a.csv"].update({"/bpid/": 1}),
    "other size": lambda project: project["a.csv"].update({"/bytes/": 101}),
    "other digest": lambda project: project["a.csv"].update({"/sha1/": sha1(b"other")}),
    "not uploaded": lambda project: project.update({"new.csv": {"/item/": "File"}}),
    "not uploaded, with a digest": lambda project: project.update(
        {"new.csv": {"/item/": "File", "/bytes/": 3, "/sha1/": sha1(b"new"), "/bpid/": sha1(b"new")}}
    ),
    "evil name": lambda project: project.update({"..": project["a.csv"]}),
}


@pytest.mark.parametrize("what", NOT_THERE)
def test_a_record_is_refused_until_all_of_its_blobs_are_there(
    archive: ArchiveInterface, kind: Kind, title: str, tmp_path: Path, what: str
) -> None:
    files = {"a.csv": bytes_of(title), "twin.csv": bytes_of(title), "b.csv": bytes_of(title + "b")}
    project = upload(archive, write(tmp_path, files), title, mapping_of(files))
    right = copy.deepcopy(project)
    NOT_THERE[what](project)
    before = kind.written()
    with pytest.raises(PipelineError) as caught:
        archive.upload_release_record(record_of(title, project), PUBLIC)
    assert is_one_sentence(caught.value)
    assert kind.written() == before
    assert found(archive, title) == []
    archive.upload_release_record(record_of(title, right), PUBLIC)
    assert found(archive, title) == ["0.1.0"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"title": "other-v0.1.0"},
        {"version": "0.2.0"},
        {"version": "1"},
        {"version": None},
        {"title_versionless": "../x", "title": "../x-v0.1.0"},
        {"title_versionless": "", "title": "-v0.1.0"},
        {"project": None},
        {"project": []},
    ],
    ids=repr,
)
def test_a_record_that_contradicts_itself_is_refused(
    archive: ArchiveInterface, kind: Kind, title: str, wrong: Record
) -> None:
    before = kind.written()
    with pytest.raises(RecordError) as caught:
        archive.upload_release_record({**record_of(title), **wrong}, PUBLIC)
    assert is_one_sentence(caught.value)
    assert kind.written() == before


def test_a_version_is_published_again_only_where_the_archive_says_so(
    archive: ArchiveInterface, kind: Kind, title: str, tmp_path: Path
) -> None:
    old, new = {"a.csv": bytes_of(title)}, {"b.csv": bytes_of(title + "new")}
    first = publish(archive, tmp_path / "old", title, old)
    project = upload(archive, write(tmp_path / "new", new), title, mapping_of(new))
    again = record_of(title, project)
    if archive.supports_repeat_releases:
        archive.upload_release_record(again, PUBLIC)
    else:
        before = kind.written()
        with pytest.raises(ReleaseExistsError, match=rf"{title}-v0\.1\.0"):
            archive.upload_release_record(again, PUBLIC)
        assert kind.written() == before
    reader = kind.open()
    assert found(reader, title) == reader.get_release_versions(title) == ["0.1.0"]
    (record,) = reader.get_release_records(title).values()
    assert without_pid(record) == (again if archive.supports_repeat_releases else first)
    expected = new if archive.supports_repeat_releases else old
    assert download(reader, record, tmp_path / "got") == expected


def test_a_record_that_was_fetched_can_be_published_as_a_new_version(
    archive: ArchiveInterface, title: str, tmp_path: Path
) -> None:
    files = {"a.csv": bytes_of(title)}
    publish(archive, tmp_path / "project", title, files)
    (record,) = archive.get_release_records(title).values()
    next_one = {**copy.deepcopy(record), "version": "0.2.0", "title": f"{title}-v0.2.0"}
    pid = archive.upload_release_record(next_one, PUBLIC)
    records = archive.get_release_records(title)
    assert [records[f"{title}-v{version}"]["version"] for version in ("0.1.0", "0.2.0")] == ["0.1.0", "0.2.0"]
    assert pid != record.get("/PID/")
    assert download(archive, records[f"{title}-v0.2.0"], tmp_path / "got") == files


# --- the document -----------------------------------------------------------------------------------------------------

DOCUMENTED = {
    "get_release_records": {"title_versionless": None, "version_expressions": None, "workspace": PUBLIC},
    "download_release": {
        **dict.fromkeys(["record", "workspace", "max_threads", "release_cache_folder", "download_chunk_bytes"]),
        "progress_bar": True,
        "file_status": True,
    },
    "download_blob": {
        **dict.fromkeys(["blob_pid", "target_file", "update_dict", "expected_size", "release_record", "workspace"]),
        "chunk_size": 2**25,
    },
    "upload_blobs_and_update_mapping": {
        **dict.fromkeys(["release_title", "release_title_versionless", "workspace", "project_mapping"]),
        **dict.fromkeys(["project_directory", "max_threads", "chunk_size"]),
        "no_blobs": False,
    },
}
TITLES = {CDCSArchive: ["release_title", "release_title_versionless"]}


@pytest.mark.parametrize("method", DOCUMENTED)
def test_the_parameters_are_those_of_the_document(archive: ArchiveInterface, method: str) -> None:
    given = inspect.signature(getattr(archive, method)).parameters.values()
    assert all(parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in given)
    defaults = {p.name: None if p.default is p.empty else p.default for p in given}
    assert list(defaults.items()) == list(DOCUMENTED[method].items())


def test_the_titles_of_an_upload_have_the_order_that_the_document_gives_them_for_this_archive(
    archive: ArchiveInterface,
) -> None:
    given = list(inspect.signature(archive.process_and_upload_blob).parameters)
    titles = TITLES.get(type(archive), ["release_title_versionless", "release_title"])
    assert given == ["posix_rel_path", "working_dir", *titles, "workspace_title", "chunk_size", "verbose"]


def test_an_archive_has_the_documented_attributes(archive: ArchiveInterface, kind: Kind) -> None:
    assert isinstance(archive, ArchiveInterface)
    assert archive.host
    assert hasattr(archive, "user")
    assert isinstance(archive.supports_repeat_releases, bool)
    assert list(inspect.signature(archive.upload_release_record).parameters)[:2] == ["release_record", "workspace"]
