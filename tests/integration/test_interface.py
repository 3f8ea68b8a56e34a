"""The archive interface, as scripts use it that were written from its document."""

import hashlib
import inspect
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import luigi
import pytest
from hypothesis import given
from hypothesis import strategies as st
from luigi.configuration.cfg_parser import LuigiConfigParser
from luigi.task_register import Register

import pipeline
import pipeline.archive_interface as documented
from pipeline.archive_interface import (
    ArchiveInterface,
    FileSystemArchive,
    ReleaseRecordNotFoundError,
    chunked_sha,
    get_credentials,
    get_interface,
    is_url,
)
from pipeline.archives.filesystem import create_archive
from pipeline.archives.sources import ArchiveSource, ProjectSource
from pipeline.errors import (
    ArchiveError,
    BlobsFailedError,
    PipelineError,
    ReleaseExistsError,
)
from pipeline.release import ReleaseRecord
from tests.support import Counting, Workshop, assert_archive_is_sound, sha1, tree

WORKSPACE = "Global Public Workspace"
FILES = {"a.txt": b"alpha", "data/b.bin": b"beta" * 100_000, "data/twin.txt": b"alpha", "empty": b""}
UNIQUE = {"a.txt", "data/b.bin"}


@pytest.fixture
def archive(workshop: Workshop) -> FileSystemArchive:
    """An empty archive, beside a project."""
    workshop.project(files=FILES)
    workshop.archive.mkdir()
    (workshop.archive / ".rmearchive").touch()
    return FileSystemArchive(workshop.archive)


def mapping() -> dict[str, Any]:
    """Return the project mapping of FILES, as the earlier tool makes it before an upload."""
    made: dict[str, Any] = {}
    for path in FILES:
        folder = made
        *folders, name = path.split("/")
        for number, part in enumerate(folders, 1):
            node = {"/path/": "/".join(folders[:number]), "/attrs/": {}, "/item/": "Directory"}
            folder = folder.setdefault(part, node)
        folder[name] = {"/path/": path, "/attrs/": {}, "/item/": "File", "/file-type/": "misc"}
    return made


def record_of(project: dict[str, Any], version: str = "0.1.0", title: str = "sample") -> dict[str, Any]:
    """Return a record."""
    return {
        "title": f"{title}-v{version}",
        "title_versionless": title,
        "version": version,
        "workflow_config_path": None,
        "workflow": {},
        "requirements": [],
        "project": project,
        "datasets": {},
    }


def publish(archive: ArchiveInterface, project: Path, version: str = "0.1.0") -> dict[str, Any]:
    """Publish FILES with the interface alone, and return the record."""
    project_mapping = mapping()
    archive.upload_blobs_and_update_mapping(
        release_title=f"sample-v{version}",
        release_title_versionless="sample",
        workspace=WORKSPACE,
        project_mapping=project_mapping,
        project_directory=project,
        max_threads=2,
        chunk_size=2**20,
    )
    record = record_of(project_mapping, version)
    archive.upload_release_record(record, WORKSPACE)
    return record


def files_in(folder: Path) -> dict[str, bytes]:
    """Return the fetched files."""
    return {p: data for p, data in tree(folder).items() if data is not None and p != ".rme/record.yml"}


def visible(files: dict[str, bytes]) -> set[str]:
    """Return the names without those of parts, which wait for the next run."""
    return {path for path in files if not path.startswith(".rme/.partial/")}


class TestItsNames:
    """Callers use parameters by name and by position, so both are fixed."""

    @pytest.mark.parametrize(
        ("function", "parameters"),
        [
            (is_url, "input_string"),
            (chunked_sha, "f, chunk=33554432"),
            (get_credentials, "host, user=None, password=None"),
            (get_interface, "host, user=None, password=None, resolve_relative_paths_to="),
            (ArchiveInterface.__init__, "self, host, user=None, password=None"),
            (FileSystemArchive.__init__, "self, host, user=None"),
            *(
                (method, parameters)
                for kind in (ArchiveInterface, FileSystemArchive)
                for method, parameters in (
                    (
                        kind.get_release_records,
                        "self, title_versionless, version_expressions=None, workspace='Global Public Workspace'",
                    ),
                    (
                        kind.download_blob,
                        "self, blob_pid, target_file, update_dict, expected_size, release_record, workspace, "
                        "chunk_size=33554432",
                    ),
                    (
                        kind.process_and_upload_blob,
                        "self, posix_rel_path, working_dir, release_title_versionless, release_title, "
                        "workspace_title, chunk_size, verbose=False",
                    ),
                    (
                        kind.download_release,
                        "self, record, workspace, max_threads, release_cache_folder, download_chunk_bytes, "
                        "progress_bar=True, file_status=True",
                    ),
                    (
                        kind.upload_blobs_and_update_mapping,
                        "self, release_title, release_title_versionless, workspace, project_mapping, "
                        "project_directory, max_threads, chunk_size, no_blobs=False",
                    ),
                )
            ),
            (ArchiveInterface.upload_release_record, "self, release_record, workspace"),
        ],
        ids=lambda value: getattr(value, "__qualname__", ""),
    )
    def test_parameters_and_defaults(self, function: Any, parameters: str) -> None:
        found = list(inspect.signature(function).parameters.values())
        shown = [
            parameter.name if parameter.default is parameter.empty else f"{parameter.name}={parameter.default!r}"
            for parameter in found
        ]
        assert all(parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in found)
        if parameters.endswith("="):  # a default that cannot be written down: the current directory of the call
            assert found[-1].default is not inspect.Parameter.empty  # type: ignore[index]
        assert ", ".join(shown).startswith(parameters)

    def test_all_of_them_are_exported(self) -> None:
        names = {"ReleaseRecordNotFoundError", "ArchiveInterface", "FileSystemArchive", "is_url", "chunked_sha"}
        names |= {"get_credentials", "get_interface"}
        assert names <= set(documented.__all__)
        assert all(hasattr(documented, name) for name in documented.__all__)
        assert issubclass(ReleaseRecordNotFoundError, Exception)
        assert pipeline.ReleaseRecordNotFoundError is ReleaseRecordNotFoundError

    def test_exactly_four_methods_are_left_to_an_archive_of_ones_own(self) -> None:
        assert ArchiveInterface.__abstractmethods__ == {
            "get_release_records",
            "download_blob",
            "process_and_upload_blob",
            "upload_release_record",
        }

    def test_attributes(self, archive: FileSystemArchive, workshop: Workshop) -> None:
        assert archive.host == workshop.archive.as_posix()
        assert archive.archive_path == workshop.archive.resolve()
        assert archive.user is None
        assert FileSystemArchive(host=str(workshop.archive), user="me").user == "me"
        assert archive.supports_repeat_releases is False
        assert ArchiveInterface.supports_repeat_releases is False


class TestIsUrl:
    """True when scheme and network location are both there; never an exception."""

    @pytest.mark.parametrize("text", ["http://h", "https://data.example.org/x?y#z", "ftp://u:p@h:21", "s3://bucket"])
    def test_urls(self, text: str) -> None:
        assert is_url(text) is True
        assert is_url(input_string=text) is True

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "/srv/archive",
            "archive",
            "C:\\archive",
            "C:/archive",
            "http://",
            "//host/x",
            "mailto:a@b",
            "http://[",
            "https://[::1",
            "://",
            None,
            3,
            b"http://h",
            Path("http://h"),
            ["http://h"],
            object(),
        ],
        ids=lambda value: type(value).__name__ if type(value) is object else repr(value),
    )
    def test_others(self, text: object) -> None:
        assert is_url(text) is False

    @given(st.one_of(st.text(), st.binary(), st.integers(), st.none(), st.lists(st.text()), st.floats()))
    def test_never_raises(self, anything: object) -> None:
        assert is_url(anything) in (True, False)

    @given(st.text(st.sampled_from("htp:/[]@%.\\ \n\u2100\uff0f"), max_size=12))
    def test_never_raises_for_what_is_nearly_a_url(self, text: str) -> None:
        assert is_url(text) in (True, False)
        assert is_url(f"http://{text}") in (True, False)


class TestChunkedSha:
    """The SHA-1 of a binary stream."""

    @given(data=st.binary(max_size=300), chunk=st.integers(1, 400), start=st.integers(0, 20))
    def test_does_not_depend_on_the_chunk(self, data: bytes, chunk: int, start: int) -> None:
        stream = io.BytesIO(data)
        stream.seek(start)
        assert chunked_sha(stream, chunk) == hashlib.sha1(data[start:]).hexdigest()

    def test_reads_a_chunk_at_a_time(self, tmp_path: Path) -> None:
        sizes = []

        class Stream(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                sizes.append(size)
                return super().read(size)

        assert chunked_sha(f=Stream(b"x" * 10), chunk=4) == sha1(b"x" * 10)
        assert set(sizes) == {4}


class TestGetInterface:
    """A folder is what it is at the time of the call."""

    def test_a_relative_folder_belongs_to_the_current_directory_of_the_call(
        self, workshop: Workshop, archive: FileSystemArchive, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (workshop.folder / "elsewhere").mkdir()
        monkeypatch.chdir(workshop.folder / "elsewhere")
        with pytest.raises(PipelineError):
            get_interface("archive")
        monkeypatch.chdir(workshop.folder)
        assert get_interface("archive").archive_path == archive.archive_path
        assert get_interface(Path("archive")).archive_path == archive.archive_path

    def test_or_to_the_folder_that_is_named(
        self, workshop: Workshop, archive: FileSystemArchive, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir("/")
        for base in (workshop.folder, str(workshop.folder)):
            found = get_interface(host="archive", user="me", password=None, resolve_relative_paths_to=base)
            assert isinstance(found, FileSystemArchive)
            assert found.archive_path == archive.archive_path
            assert found.user == "me"
        absolute = get_interface(workshop.archive, None, None, "/nowhere")
        assert absolute.archive_path == archive.archive_path

    def test_the_home_folder_is_understood(
        self, workshop: Workshop, archive: FileSystemArchive, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(workshop.folder))
        monkeypatch.setenv("USERPROFILE", str(workshop.folder))
        assert get_interface("~/archive").archive_path == archive.archive_path

    @pytest.mark.parametrize(
        "host",
        ["nowhere", "luigi.cfg", "luigi.cfg/x", "project", "loop", "a\0b", "x" * 300, "~nosuchuser/x", ""],
        ids=ascii,
    )
    def test_anything_else_is_a_clear_error(
        self, workshop: Workshop, archive: FileSystemArchive, host: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(workshop.folder)
        if host == "loop":
            Path("loop").symlink_to("loop")
        with pytest.raises(PipelineError) as caught:
            get_interface(host)
        assert len(str(caught.value).splitlines()) == 1
        assert host[:20].replace("\0", r"\x00") in str(caught.value)


class TestGetReleaseRecords:
    """Records come oldest first, by the precedence of semantic versions."""

    # Semantic Versioning 2.0.0, clause 11, with numbers that text would sort otherwise.
    ORDER: ClassVar = [
        "0.9.0",
        "0.10.0",
        "1.0.0-alpha",
        "1.0.0-alpha.1",
        "1.0.0-alpha.beta",
        "1.0.0-beta",
        "1.0.0-beta.2",
        "1.0.0-beta.11",
        "1.0.0-rc.1",
        "1.0.0",
        "1.0.0+build.7",
        "1.0.2",
        "1.0.10",
        "2.0.0-0",
        "10.0.0",
    ]

    @pytest.mark.parametrize("kind", ["file system", "own"])
    @pytest.mark.parametrize(
        ("arguments", "keywords", "words"),
        [
            (("nothing",), {}, ["nothing", WORKSPACE]),
            (("nothing", None), {}, ["nothing", WORKSPACE]),
            (("sample", [">9.0.0", "<10.0.0"]), {}, ["sample", ">9.0.0", "<10.0.0", WORKSPACE]),
            (("sample", None, "elsewhere"), {}, ["sample", "elsewhere"]),
            (("sample",), {"workspace": "elsewhere"}, ["sample", "elsewhere"]),
            ((), {"title_versionless": "nothing"}, ["nothing", WORKSPACE]),
            (
                (),
                {"workspace": "elsewhere", "version_expressions": ["==9.0.0"], "title_versionless": "sample"},
                ["sample", "==9.0.0", "elsewhere"],
            ),
        ],
    )
    def test_none_is_an_error_that_names_what_was_asked_for(
        self, archive: FileSystemArchive, kind: str, arguments: Any, keywords: Any, words: list[str]
    ) -> None:
        asked: ArchiveInterface = archive if kind == "file system" else MemoryArchive("memory://here")
        asked.upload_release_record(record_of({}), WORKSPACE)
        with pytest.raises(ReleaseRecordNotFoundError) as caught:
            asked.get_release_records(*arguments, **keywords)
        for word in [*words, str(asked.host)]:
            assert word in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1

    def test_an_archive_of_ones_own_is_sorted_too(self) -> None:
        archive = MemoryArchive("memory://here")
        for version in reversed(self.ORDER):
            archive.upload_release_record(record_of({}, version), WORKSPACE)
        assert list(archive.get_release_records("sample")) == [f"sample-v{version}" for version in self.ORDER]


def sha1_of_text(text: str) -> str:
    """Return a key that mixes texts up in the same way every time."""
    return sha1(text.encode())


class Watched(dict):  # type: ignore[type-arg]
    """An update_dict that remembers every size that it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        if key == "size":
            self.sizes.append(value)


class TestDownloadBlob:
    """One blob into one file, with an account of how it goes."""

    def call(self, archive: FileSystemArchive, target: Path, status: dict[str, Any], **other: Any) -> None:
        arguments = {
            "blob_pid": sha1(FILES["data/b.bin"]),
            "target_file": target,
            "update_dict": status,
            "expected_size": len(FILES["data/b.bin"]),
            "release_record": record_of({}),
            "workspace": WORKSPACE,
            "chunk_size": 1000,
        }
        archive.download_blob(**{**arguments, **other})

    def test_says_how_far_it_is(self, archive: FileSystemArchive, workshop: Workshop) -> None:
        publish(archive, workshop.folder / "project")
        status = Watched()
        self.call(archive, workshop.folder / "target", status)
        size = len(FILES["data/b.bin"])
        assert status == {"size": size, "finished": True, "success": True, "error": None}
        assert status.sizes == sorted(status.sizes)
        assert len(set(status.sizes)) > 100, "it must move while bytes move"
        assert (workshop.folder / "target").read_bytes() == FILES["data/b.bin"]

    def test_goes_by_position_too(self, archive: FileSystemArchive, workshop: Workshop) -> None:
        publish(archive, workshop.folder / "project")
        status: dict[str, Any] = {}
        target = str(workshop.folder / "target")
        archive.download_blob(sha1(b"alpha"), target, status, 5, record_of({}), WORKSPACE)
        assert status == {"size": 5, "finished": True, "success": True, "error": None}
        assert sorted(path.name for path in workshop.folder.glob("target*")) == ["target"]
        assert not list(workshop.folder.glob(".partial"))

    def test_into_the_current_directory(
        self, archive: FileSystemArchive, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish(archive, workshop.folder / "project")
        monkeypatch.chdir(workshop.folder / "project")
        self.call(archive, Path("target"), {})
        assert Path("target").read_bytes() == FILES["data/b.bin"]

    @pytest.mark.parametrize("damage", ["missing", "edited", "cut", "grown", "size"])
    def test_ends_right_when_it_fails(self, archive: FileSystemArchive, workshop: Workshop, damage: str) -> None:
        publish(archive, workshop.folder / "project")
        good = FILES["data/b.bin"]
        blob = workshop.blob_file(good)
        changed = {"missing": None, "edited": b"B" + good[1:], "cut": good[:-1], "grown": good + b"x", "size": good}
        data = changed[damage]
        blob.unlink() if data is None else blob.write_bytes(data)
        status = Watched()
        target = workshop.folder / "target"
        target.write_bytes(b"what was there before")
        with pytest.raises(PipelineError) as caught:
            self.call(archive, target, status, expected_size=len(good) + (damage == "size"))
        assert status["finished"] is True
        assert status["success"] is False
        assert str(status["error"]) in str(caught.value) or str(caught.value) in str(status["error"])
        assert target.read_bytes() == b"what was there before"
        assert not list(workshop.folder.glob(".partial"))
        blob.write_bytes(good)
        self.call(archive, target, status)
        assert status == {"size": len(good), "finished": True, "success": True, "error": None}
        assert target.read_bytes() == good

    def test_a_folder_in_place_of_the_file_is_an_error_of_the_status_too(
        self, archive: FileSystemArchive, workshop: Workshop
    ) -> None:
        publish(archive, workshop.folder / "project")
        (workshop.folder / "target").mkdir()
        status: dict[str, Any] = {}
        with pytest.raises(PipelineError):
            self.call(archive, workshop.folder / "target", status)
        assert (status["finished"], status["success"]) == (True, False)
        assert status["error"] is not None


class TestUploading:
    """Files one by one, and all of a project."""

    def test_one_file(self, archive: FileSystemArchive, workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
        project = workshop.folder / "project"
        named = {"release_title_versionless": "sample", "release_title": "sample-v0.1.0", "workspace_title": WORKSPACE}
        for path in ("a.txt", Path("a.txt"), "data/twin.txt"):
            found = archive.process_and_upload_blob(posix_rel_path=path, working_dir=project, chunk_size=1000, **named)
            assert found == (sha1(b"alpha"), 5)
        assert capsys.readouterr().out == ""
        found = archive.process_and_upload_blob(
            Path("empty"), project, "sample", "sample-v0.1.0", WORKSPACE, 1000, True
        )
        assert found == (None, 0)
        found = archive.process_and_upload_blob("a.txt", str(project), "sample", "sample-v0.1.0", WORKSPACE, 10, True)
        assert found == (sha1(b"alpha"), 5)
        assert "a.txt" in capsys.readouterr().out
        assert [path.name for path in workshop.title_folder().glob("blobs/*/*")] == [sha1(b"alpha")]
        assert not (workshop.title_folder() / ".partial").exists()

    def test_a_file_that_the_archive_cannot_keep_is_named(self, archive: FileSystemArchive, workshop: Workshop) -> None:
        in_the_way = workshop.title_folder() / "blobs"
        in_the_way.parent.mkdir(parents=True)
        in_the_way.write_bytes(b"")
        with pytest.raises(BlobsFailedError, match=r"a\.txt: .*blobs"):
            archive.process_and_upload_blob(
                "a.txt", workshop.folder / "project", "sample", "sample-v0.1.0", WORKSPACE, 1000
            )

    @pytest.mark.parametrize("path", ["nothing", "data", "a\0b"])
    def test_what_is_no_file_is_a_clear_error(self, archive: FileSystemArchive, workshop: Workshop, path: str) -> None:
        with pytest.raises((PipelineError, OSError)):
            archive.process_and_upload_blob(
                path, workshop.folder / "project", "sample", "sample-v0.1.0", WORKSPACE, 1000
            )
        assert not list(workshop.title_folder().glob("blobs/*/*"))

    def test_a_project(self, archive: FileSystemArchive, workshop: Workshop) -> None:
        record = publish(archive, workshop.folder / "project")
        found = record["project"]
        assert found["a.txt"]["/bpid/"] == found["data"]["twin.txt"]["/bpid/"] == sha1(b"alpha")
        assert found["data"]["b.bin"]["/bytes/"] == len(FILES["data/b.bin"])
        assert found["data"]["b.bin"]["/sha1/"] == sha1(FILES["data/b.bin"])
        assert found["empty"]["/bytes/"] == 0
        assert {path.name for path in workshop.title_folder().glob("blobs/*/*")} == {sha1(FILES[p]) for p in UNIQUE}
        assert_archive_is_sound(workshop.archive)

    def test_no_blobs_uploads_nothing(self, archive: FileSystemArchive, workshop: Workshop) -> None:
        project_mapping = mapping()
        before = tree(workshop.archive)
        archive.upload_blobs_and_update_mapping(
            "sample-v0.1.0", "sample", WORKSPACE, project_mapping, workshop.folder / "project", 2, 1000, no_blobs=True
        )
        assert tree(workshop.archive) == before
        assert project_mapping["a.txt"]["/bytes/"] == 5
        assert project_mapping["a.txt"]["/bpid/"] is None
        with pytest.raises(PipelineError):
            archive.upload_release_record(record_of(project_mapping), WORKSPACE)

    def test_a_file_that_is_missing_does_not_stop_the_others(
        self, archive: FileSystemArchive, workshop: Workshop
    ) -> None:
        (workshop.folder / "project" / "data" / "b.bin").unlink()
        with pytest.raises(PipelineError, match=r"data/b\.bin"):
            publish(archive, workshop.folder / "project")
        assert workshop.blob_file(b"alpha").exists()
        with pytest.raises(ReleaseRecordNotFoundError):
            archive.get_release_records("sample")

    def test_a_file_that_changes_meanwhile_is_noticed(
        self, archive: FileSystemArchive, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        upload = FileSystemArchive.upload_blobs

        def changing(self: FileSystemArchive, *arguments: Any, **keywords: Any) -> Any:
            (workshop.folder / "project" / "a.txt").write_bytes(b"ALPHA")
            return upload(self, *arguments, **keywords)

        monkeypatch.setattr(FileSystemArchive, "upload_blobs", changing)
        with pytest.raises(BlobsFailedError, match=r"a\.txt.*changed"):
            publish(archive, workshop.folder / "project")
        assert_archive_is_sound(workshop.archive)
        assert workshop.blob_file(FILES["data/b.bin"]).exists()


class TestTheRecord:
    """The last thing that is written, once, and only when all of its blobs are there."""

    @pytest.mark.parametrize("call", ["position", "workspace", "workspace_title"])
    def test_goes_to_its_workspace_by_either_name(
        self, archive: FileSystemArchive, workshop: Workshop, call: str
    ) -> None:
        record = record_of({})
        arguments = (record, "lab") if call == "position" else (record,)
        keywords = {} if call == "position" else {call: "lab"}
        pid = archive.upload_release_record(*arguments, **keywords)
        file = workshop.archive / "lab" / "sample" / "sample-v0.1.0.yml"
        assert Path(pid) == file.resolve()
        assert json.loads(file.read_bytes()) == record
        assert list(archive.get_release_records("sample", workspace="lab")) == ["sample-v0.1.0"]

    def test_an_existing_version_is_refused(self, archive: FileSystemArchive, workshop: Workshop) -> None:
        publish(archive, workshop.folder / "project")
        before = tree(workshop.archive)
        with pytest.raises(ReleaseExistsError, match=r"sample-v0\.1\.0"):
            archive.upload_release_record(record_of({}), WORKSPACE)
        with pytest.raises(ReleaseExistsError):
            publish(archive, workshop.folder / "project")
        assert tree(workshop.archive) == before

    @pytest.mark.parametrize(
        "damage",
        [
            lambda workshop, project: workshop.blob_file(b"alpha").unlink(),
            lambda workshop, project: workshop.blob_file(b"alpha").write_bytes(b"alph"),
            lambda workshop, project: project["a.txt"].update({"/bpid/": None}),
            lambda workshop, project: project["a.txt"].pop("/bpid/"),
            lambda workshop, project: project["a.txt"].update({"/bpid/": "0" * 40}),
            lambda workshop, project: project["a.txt"].update({"/bytes/": 6}),
            lambda workshop, project: project["data"]["twin.txt"].update({"/bpid/": None}),
            lambda workshop, project: project["data"]["twin.txt"].update({"/bpid/": sha1(FILES["data/b.bin"])}),
            lambda workshop, project: project["data"]["twin.txt"].update({"/bpid/": "../../../x"}),
            lambda workshop, project: project.update({"new": {"/item/": "File"}}),
            lambda workshop, project: project.update({"..": project["a.txt"]}),
        ],
        ids=[
            "blob-missing",
            "blob-cut",
            "no-pid",
            "pid-left-out",
            "other-pid",
            "other-size",
            "no-pid-of-twin",
            "other-pid-of-twin",
            "evil-pid-of-twin",
            "not-uploaded",
            "evil-name",
        ],
    )
    def test_is_refused_when_not_all_of_it_is_there(
        self, archive: FileSystemArchive, workshop: Workshop, damage: Any
    ) -> None:
        project = publish(archive, workshop.folder / "project", "0.0.1")["project"]
        damage(workshop, project)
        with pytest.raises(PipelineError):
            archive.upload_release_record(record_of(project), WORKSPACE)
        assert not workshop.record_file().exists()


class MemoryArchive(ArchiveInterface):
    """An archive that somebody else wrote: the four abstract methods and nothing more."""

    def __init__(self, host: str, user: str | None = None, password: str | None = None) -> None:
        super().__init__(host, user, password)
        self.blobs: dict[str, bytes] = {}
        self.records: dict[tuple[str, str], dict[str, Any]] = {}
        self.moved = 0

    def get_release_records(
        self,
        title_versionless: str,
        version_expressions: Any = None,
        workspace: str = WORKSPACE,
    ) -> dict[str, Any]:
        """Return records in no order."""
        from pipeline.versions import matches

        return {
            title: json.loads(json.dumps(record))
            for (where, title), record in self.records.items()
            if (where, record["title_versionless"]) == (workspace, title_versionless)
            and matches(record["version"], version_expressions or ())
        }

    def download_blob(
        self,
        blob_pid: str,
        target_file: Path,
        update_dict: dict[str, Any],
        expected_size: int,
        release_record: dict[str, Any],
        workspace: str,
        chunk_size: int = 2**25,
    ) -> None:
        """Tell errors in the dictionary, as the earlier tool's archives do."""
        self.moved += 1
        if blob_pid not in self.blobs:
            update_dict.update(finished=True, success=False, error=OSError(f"there is no {blob_pid}"))
            return
        Path(target_file).write_bytes(self.blobs[blob_pid])
        update_dict.update(size=expected_size, finished=True, success=True)

    def process_and_upload_blob(
        self,
        posix_rel_path: str | Path,
        working_dir: str | Path,
        release_title_versionless: str,
        release_title: str,
        workspace_title: str,
        chunk_size: int,
        verbose: bool = False,
    ) -> tuple[str | None, int]:
        """Keep the bytes under a PID that is no digest."""
        data = Path(working_dir, posix_rel_path).read_bytes()
        pid = f"memory://{len(data)}/{hashlib.md5(data).hexdigest()}"
        self.moved += 1
        self.blobs[pid] = data
        return pid, len(data)

    def upload_release_record(self, release_record: dict[str, Any], workspace: str) -> str:
        """Keep the record."""
        self.records[workspace, release_record["title"]] = json.loads(json.dumps(release_record))
        return f"memory://{release_record['title']}"


class TestAnArchiveOfOnesOwn:
    """A subclass with the four abstract methods does everything."""

    def test_names_what_it_could_not_upload_and_has_the_rest(
        self, archive: FileSystemArchive, workshop: Workshop
    ) -> None:
        project = workshop.folder / "project"
        record = ReleaseRecord(publish(archive, project))
        (project / "a.txt").write_bytes(b"ALPHA")
        workshop.blob_file(FILES["data/b.bin"]).write_bytes(b"x")
        copies = ArchiveSource(archive, record.content, WORKSPACE)
        for source, wrong, said in (
            (ProjectSource(project), "a.txt", "it changed while it was being published"),
            (copies, "data/b.bin", "in the archive is damaged"),
        ):
            own, meter = MemoryArchive("memory://here"), Counting()
            pids, failures = own.upload_blobs(record.blobs, source, record, WORKSPACE, threads=2, meter=meter)
            assert {digest: said in str(error) for digest, error in failures.items()} == {sha1(FILES[wrong]): True}
            (other,) = UNIQUE - {wrong}
            assert pids.keys() == {sha1(FILES[other])}
            assert list(own.blobs.values()) == [FILES[other]]
            assert sorted(meter.ended) == sorted([(wrong, 0, False, False), (other, len(FILES[other]), True, True)])

    def test_with_the_interface(self, workshop: Workshop) -> None:
        workshop.project(files=FILES)
        archive = MemoryArchive("memory://here", "me", "secret")
        record = publish(archive, workshop.folder / "project")
        assert len(archive.blobs) == len(UNIQUE)
        assert record["project"]["a.txt"]["/bpid/"] in archive.blobs
        (found,) = archive.get_release_records("sample", ["==0.1.0"]).values()
        assert found == record
        archive.download_release(
            record=found,
            workspace=WORKSPACE,
            max_threads=2,
            release_cache_folder=workshop.folder / "here",
            download_chunk_bytes=1000,
        )
        assert files_in(workshop.folder / "here") == FILES
        assert json.loads((workshop.folder / "here" / ".rme" / "record.yml").read_bytes()) == record

    @pytest.mark.parametrize("damage", ["missing", "edited"])
    def test_is_not_believed(self, workshop: Workshop, damage: str) -> None:
        workshop.project(files=FILES)
        archive = MemoryArchive("memory://here")
        record = publish(archive, workshop.folder / "project")
        pid = record["project"]["a.txt"]["/bpid/"]
        archive.blobs.pop(pid) if damage == "missing" else archive.blobs.update({pid: b"ALPHA"})
        with pytest.raises(BlobsFailedError, match=r"a\.txt"):
            archive.download_release(record, WORKSPACE, 2, workshop.folder / "here", 1000, False, False)
        assert visible(files_in(workshop.folder / "here")) == {"data/b.bin"}

    @pytest.fixture
    def at_work(self, workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryArchive]:
        """The archive that the tasks of this process get when they ask for one."""
        archive = MemoryArchive("memory://here")
        for module in (pipeline.tasks.base, pipeline.tasks.runs):
            monkeypatch.setattr(module, "get_interface", lambda *arguments, **keywords: archive)
        monkeypatch.chdir(workshop.folder)
        monkeypatch.setattr(LuigiConfigParser, "_instance", None)
        Register.clear_instance_cache()
        yield archive
        Register.clear_instance_cache()

    @staticmethod
    def build(task: luigi.Task) -> bool:
        """Run a task in this process, as if it were another one each time."""
        Register.clear_instance_cache()
        return luigi.build([task], local_scheduler=True, no_lock=True, log_level="WARNING")

    def test_with_the_tasks(self, workshop: Workshop, at_work: MemoryArchive) -> None:
        workshop.project(files=FILES)

        def publishing(version: str) -> luigi.Task:
            return pipeline.PublishRelease(
                archive="memory://here", project_directory="project", title="sample", release_version=version
            )

        def fetching() -> luigi.Task:
            return pipeline.FetchRelease(archive="memory://here", title="sample", destination="fetched")

        assert self.build(publishing("0.1.0"))
        assert [title for _, title in at_work.records] == ["sample-v0.1.0"]
        assert len(at_work.blobs) == len(UNIQUE)
        assert self.build(publishing("0.1.0"))
        assert self.build(fetching())
        assert files_in(workshop.folder / "fetched" / "sample-v0.1.0") == FILES
        moved = at_work.moved
        assert self.build(fetching())
        assert at_work.moved == moved, "what is here was fetched again"
        (workshop.folder / "project" / "a.txt").write_bytes(b"new")
        assert self.build(publishing("0.2.0"))
        assert self.build(fetching())
        assert (workshop.folder / "fetched" / "sample-v0.2.0" / "a.txt").read_bytes() == b"new"

    def test_with_the_tasks_when_a_blob_is_lost(self, workshop: Workshop, at_work: MemoryArchive) -> None:
        workshop.project(files=FILES)
        record = publish(at_work, workshop.folder / "project")
        lost = at_work.blobs.pop(record["project"]["a.txt"]["/bpid/"])
        task = pipeline.FetchRelease(archive="memory://here", title="sample", destination="fetched")
        assert not self.build(task)
        assert visible(files_in(workshop.folder / "fetched" / "sample-v0.1.0")) == {"data/b.bin"}
        at_work.blobs[record["project"]["a.txt"]["/bpid/"]] = lost
        assert self.build(pipeline.FetchRelease(archive="memory://here", title="sample", destination="fetched"))
        assert files_in(workshop.folder / "fetched" / "sample-v0.1.0") == FILES

    def test_with_a_mirror_in_both_directions(
        self, workshop: Workshop, at_work: MemoryArchive, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def open_archive(host: str, user: str | None = None) -> ArchiveInterface:
            return at_work if host.startswith("memory:") else FileSystemArchive(host)

        for module in (pipeline.tasks.mirror, pipeline.tasks.runs):
            monkeypatch.setattr(module, "get_interface", open_archive)
        create_archive(workshop.archive)
        workshop.project(files=FILES)
        publish(at_work, workshop.folder / "project")
        for source, workspace, destination, other in (
            ("memory://here", WORKSPACE, "archive", "copy"),
            ("archive", "copy", "memory://here", "back"),
        ):
            ends = {"source": source, "destination": destination, "titles": ("sample",)}
            assert self.build(pipeline.MirrorArchive(**ends, workspace=workspace, destination_workspace=other))
        assert_archive_is_sound(workshop.archive)
        back = at_work.records["back", "sample-v0.1.0"]
        assert back["origin"]["host"] == "memory://here"
        fetched = pipeline.FetchRelease(archive="archive", workspace="copy", title="sample", destination="fetched")
        monkeypatch.setattr(pipeline.tasks.base, "get_interface", open_archive)
        assert self.build(fetched)
        assert files_in(workshop.folder / "fetched" / "sample-v0.1.0") == FILES

    def test_its_titles_must_be_named_for_a_mirror(self, workshop: Workshop, at_work: MemoryArchive) -> None:
        with pytest.raises(ArchiveError, match="--titles"):
            at_work.list_releases()


class TestDownloadRelease:
    """All files of a release, and its record."""

    def test_by_position(self, archive: FileSystemArchive, workshop: Workshop) -> None:
        record = publish(archive, workshop.folder / "project")
        archive.download_release(record, WORKSPACE, 1, str(workshop.folder / "here"), 1000, False, False)
        assert files_in(workshop.folder / "here") == FILES
        assert json.loads((workshop.folder / "here" / ".rme" / "record.yml").read_bytes()) == record
        assert not (workshop.folder / "here" / ".rme" / ".partial").exists()

    def test_again_moves_only_what_is_missing_or_edited(self, archive: FileSystemArchive, workshop: Workshop) -> None:
        record = publish(archive, workshop.folder / "project")
        here = workshop.folder / "here"
        archive.download_release(record, WORKSPACE, 2, here, 1000, False)
        before = (here / "data" / "b.bin").stat().st_ino
        (here / "data" / "twin.txt").write_bytes(b"ALPHA")
        archive.download_release(record, WORKSPACE, 2, here, 1000, False)
        assert files_in(here) == FILES
        assert (here / "data" / "b.bin").stat().st_ino == before

    def test_prints_nothing_unless_asked_to(
        self, archive: FileSystemArchive, workshop: Workshop, capfd: pytest.CaptureFixture[str]
    ) -> None:
        record = publish(archive, workshop.folder / "project")
        capfd.readouterr()
        archive.download_release(record, WORKSPACE, 2, workshop.folder / "here", 1000, progress_bar=False)
        assert "".join(capfd.readouterr()) == ""

    @pytest.mark.skipif(os.name != "posix", reason="symbolic links")
    def test_an_archive_behind_a_link_is_the_archive(self, archive: FileSystemArchive, workshop: Workshop) -> None:
        record = publish(archive, workshop.folder / "project")
        (workshop.folder / "link").symlink_to(workshop.archive)
        linked = FileSystemArchive(workshop.folder / "link")
        assert linked.host == (workshop.folder / "link").as_posix()
        assert linked.get_release_records("sample") == {"sample-v0.1.0": record}
