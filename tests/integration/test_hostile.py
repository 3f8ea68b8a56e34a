"""Records, names and folders made by somebody who means harm: nothing is written outside the place it belongs to."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.archive_interface import FileSystemArchive
from pipeline.errors import InvalidNameError, PipelineError, RecordError
from pipeline.release import ReleaseRecord
from tests.support import Outcome, Workshop, sha1, tree

WORKSPACE = "Global Public Workspace"
PAYLOAD = b"payload"

links = pytest.mark.skipif(os.name != "posix", reason="making symbolic links is a privilege on Windows")


def file_node(data: bytes = PAYLOAD, **properties: Any) -> dict[str, Any]:
    """Return what a record says of a file."""
    digest = sha1(data)
    node = {"/item/": "File", "/bytes/": len(data), "/sha1/": digest, "/bpid/": digest}
    return node | {f"/{name}/": value for name, value in properties.items()}


def folder_node(**children: Any) -> dict[str, Any]:
    """Return what a record says of a folder."""
    return {"/item/": "Directory", **children}


def record_of(project: dict[str, Any], version: str = "0.1.0", title: str = "sample") -> dict[str, Any]:
    """Return a record that is well-formed but for its project."""
    return {"title": f"{title}-v{version}", "title_versionless": title, "version": version, "project": project}


def plant(archive: Path, record: Any, *blobs: bytes, file: str = "sample-v0.1.0.yml") -> Path:
    """Put a record, as text or as a mapping, and blobs into an archive, past all of its checks."""
    folder = archive / WORKSPACE / "sample"
    for data in (PAYLOAD, *blobs):
        blob = folder / "blobs" / sha1(data)[:2] / sha1(data)
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
    (archive / ".rmearchive").touch()
    text = record if isinstance(record, str) else json.dumps(record)
    (folder / file).write_text(text, "utf-8")
    return folder / file


def refused(outcome: Outcome, *words: str) -> str:
    """Check that a run ended with an explanation and without a traceback."""
    assert outcome.code == 30, outcome.output
    assert "Traceback" not in outcome.output, outcome.output
    for word in words:
        assert word in outcome.output
    return outcome.output


class Jail:
    """A folder in which only the folder of the destination may change."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.destination = folder / "inner" / "destination"
        self.destination.mkdir(parents=True)
        self.archive = folder / "archive"
        self.archive.mkdir()
        (folder / "outside").mkdir()
        (folder / "outside" / "precious").write_bytes(b"precious")
        (folder / "precious").write_bytes(b"precious")
        (folder / "inner" / "precious").write_bytes(b"precious")

    def around(self) -> dict[str, bytes | None]:
        """Return everything but the destination."""
        found: dict[str, bytes | None] = {}
        for folder, folders, files in os.walk(self.folder):
            if folder.startswith(str(self.destination)):
                continue
            for path in (Path(folder, name) for name in (*folders, *files)):
                found[path.relative_to(self.folder).as_posix()] = path.read_bytes() if path.is_file() else None
        return found

    def fetch(self, record: dict[str, Any]) -> dict[str, bytes]:
        """Fetch a record and return the files that it brought, but not its own."""
        FileSystemArchive(self.archive).download_release(
            record=record,
            workspace=WORKSPACE,
            max_threads=2,
            release_cache_folder=self.destination,
            download_chunk_bytes=1000,
            progress_bar=False,
        )
        found = tree(self.destination)
        return {path: data for path, data in found.items() if data is not None and path != ".rme/record.yml"}


@contextmanager
def jail(*blobs: bytes) -> Iterator[Jail]:
    """Make a jail, and see that nothing around the destination changed."""
    with tempfile.TemporaryDirectory() as folder:
        made = Jail(Path(folder))
        plant(made.archive, record_of({}), *blobs)
        before = made.around()
        yield made
        assert made.around() == before


EVIL_NAMES = [
    "..",
    ".",
    "",
    "/",
    "/etc/passwd",
    "../precious",
    "../../precious",
    "x/../../precious",
    "./../precious",
    "..\\precious",
    "\\precious",
    "C:\\precious",
    "\\\\server\\share",
    "a\\b",
    "a/b",
    "a\0b",
    "\0",
    "precious\0.txt",
    "\ud800",
]

NAMES = st.one_of(
    st.sampled_from(
        [*EVIL_NAMES, ".rme", ".partial", ".RME", "record.yml", "lock", "~", "CON", "nul.txt", "a:b", "..."]
    ),
    st.text(st.sampled_from("./\\a\0~:"), max_size=6),
    st.text(max_size=5),
)
NODES = st.recursive(
    st.builds(file_node) | st.builds(file_node, path=NAMES) | st.builds(file_node, bytes=st.integers(-1, 9)),
    lambda children: st.dictionaries(NAMES, children, max_size=3).map(lambda nodes: {"/item/": "Directory", **nodes}),
    max_leaves=5,
)


class TestPathsOfARecord:
    """Whatever a record calls its files, they land in the destination or not at all."""

    @pytest.mark.parametrize("name", EVIL_NAMES, ids=ascii)
    @pytest.mark.parametrize("depth", [0, 2])
    @pytest.mark.parametrize("kind", ["file", "folder", "empty"])
    def test_a_name_that_is_none_is_refused(self, name: str, depth: int, kind: str) -> None:
        node = {"file": file_node(), "folder": folder_node(), "empty": {"/item/": "File", "/bytes/": 0}}[kind]
        project = {name: node, "good.txt": file_node()}
        for _ in range(depth):
            project = {"sub": folder_node(**project)}
        with jail() as place:
            with pytest.raises(RecordError):
                place.fetch(record_of(project))
            assert tree(place.destination) == {}

    @pytest.mark.parametrize(
        "path", ["/etc/passwd", "../precious", "other.txt", "sub/good.txt", "", None, 3, ["good.txt"]], ids=ascii
    )
    def test_a_path_that_contradicts_its_place_is_refused(self, path: Any) -> None:
        with jail() as place:
            with pytest.raises(RecordError, match=r"good\.txt"):
                place.fetch(record_of({"good.txt": file_node(path=path)}))
            assert tree(place.destination) == {}

    @settings(max_examples=150, deadline=None)
    @given(project=st.dictionaries(NAMES, NODES, max_size=4))
    def test_no_record_writes_outside_the_destination(self, project: dict[str, Any]) -> None:
        with jail() as place:
            try:
                files = place.fetch(record_of(project))
            except PipelineError:
                return
            expected = ReleaseRecord(record_of(project))
            wanted = dict.fromkeys(expected.empty_files, b"")
            wanted |= {path: PAYLOAD for blob in expected.blobs for path in blob.paths}
            assert files == wanted

    @pytest.mark.parametrize("names", [[".rme", "record.yml"], [".RME", "Record.YML"], [".rme", ".partial", "x"]])
    def test_the_state_of_the_destination_is_not_a_file_of_a_release(self, names: list[str]) -> None:
        project: dict[str, Any] = {names[-1]: file_node()}
        for name in reversed(names[:-1]):
            project = {name: folder_node(**project)}
        with jail() as place, pytest.raises(RecordError, match="not accepted"):
            place.fetch(record_of(project))

    @pytest.mark.parametrize("name", ["../../precious", "..\\precious", "/etc/x", "a\0b", ".."], ids=ascii)
    def test_the_command_line_says_so_in_one_sentence(self, workshop: Workshop, name: str) -> None:
        plant(workshop.archive, record_of({name: file_node()}))
        before = tree(workshop.folder)
        refused(workshop.fetch(), "sample-v0.1.0.yml", "not allowed")
        after = {path: data for path, data in tree(workshop.folder).items() if not path.startswith("cache")}
        assert after == {path: data for path, data in before.items() if not path.startswith("cache")}

    def test_a_name_does_not_speak_to_the_terminal(self, workshop: Workshop) -> None:
        evil = "\x1b[2J\r\nERROR: all is lost"
        plant(workshop.archive, record_of({evil: file_node(b"missing")}))
        output = refused(workshop.fetch(), "all is lost")
        assert "\x1b" not in output
        assert "\nERROR: all is lost" not in output

    def test_a_name_that_is_too_long_for_the_disk_is_named(self, workshop: Workshop) -> None:
        plant(workshop.archive, record_of({"n" * 300: file_node(), "good.txt": file_node(b"good")}), b"good")
        output = refused(workshop.fetch(), "nnnn", "too long")
        assert ".part" not in output, "the message must name the file, not its part"
        assert (workshop.folder / "fetched" / "sample-v0.1.0" / "good.txt").read_bytes() == b"good"


@links
class TestLinksInTheDestination:
    """A symbolic link in the destination is no way out of it."""

    PROJECT = record_of(
        {
            "a.txt": file_node(),
            "empty": {"/item/": "File", "/bytes/": 0},
            "data": folder_node(**{"b.txt": file_node(b"beta"), "none": {"/item/": "File", "/bytes/": 0}}),
        }
    )

    @pytest.mark.parametrize(
        ("link", "target"),
        [
            ("data", "outside"),
            ("data", "outside/nothing"),
            (".rme", "outside"),
            (".rme", "outside/nothing"),
            (".rme/.partial", "outside"),
            (".rme/.partial", "outside/nothing"),
            (".rme/record.yml", "outside/precious"),
            (".rme/record.yml", "outside/nothing"),
            (".rme/.partial/lock", "outside/precious"),
            (".rme/.partial/lock", "outside/nothing"),
            (f".rme/.partial/{sha1(PAYLOAD)}.part", "outside/precious"),
            (f".rme/.partial/{sha1(PAYLOAD)}.part", "outside/nothing"),
            ("a.txt", "outside/precious"),
            ("a.txt", "outside/nothing"),
            ("empty", "outside/precious"),
            ("empty", "outside/nothing"),
            ("data/none", "outside/precious"),
        ],
    )
    def test_is_never_written_through(self, link: str, target: str) -> None:
        with jail(b"beta") as place:
            before = place.around()
            (place.destination / link).parent.mkdir(parents=True, exist_ok=True)
            (place.destination / link).symlink_to(place.folder / target)
            with suppress(PipelineError, OSError):
                place.fetch(self.PROJECT)
            assert place.around() == before
            if (place.destination / link).is_symlink():
                (place.destination / link).unlink()
            assert place.fetch(self.PROJECT) == {
                "a.txt": PAYLOAD,
                "empty": b"",
                "data/b.txt": b"beta",
                "data/none": b"",
            }

    def test_is_named_on_the_command_line(self, workshop: Workshop) -> None:
        plant(workshop.archive, self.PROJECT, b"beta")
        outside = workshop.folder / "outside"
        outside.mkdir()
        folder = workshop.folder / "fetched" / "sample-v0.1.0"
        folder.mkdir(parents=True)
        (folder / "data").symlink_to(outside)
        refused(workshop.fetch(), "data", "symbolic link")
        assert tree(outside) == {}
        assert (folder / "a.txt").read_bytes() == PAYLOAD  # the others moved
        (folder / "data").unlink()
        assert workshop.fetch().code == 0
        assert tree(outside) == {}

    def test_a_blob_that_is_a_link_out_of_the_archive_is_not_believed(self) -> None:
        with jail() as place:
            blob = place.archive / WORKSPACE / "sample" / "blobs" / sha1(PAYLOAD)[:2] / sha1(PAYLOAD)
            blob.unlink()
            (place.folder / "outside" / "secrets").write_bytes(b"secrets")
            blob.symlink_to(place.folder / "outside" / "secrets")
            with pytest.raises(PipelineError, match="damaged"):
                place.fetch(record_of({"a.txt": file_node()}))
            assert not (place.destination / "a.txt").exists()
            blob.unlink()
            blob.write_bytes(PAYLOAD)
            (place.folder / "outside" / "secrets").unlink()


class TestWhatARecordClaims:
    """Sizes, digests and structure are checked, not believed."""

    @pytest.mark.parametrize("size", [1, 6, 8, 10_000, 2**40, 2**62, 2**63 - 1])
    def test_a_wrong_size_is_a_damaged_blob(self, size: int) -> None:
        with jail() as place:
            with pytest.raises(PipelineError, match="damaged"):
                place.fetch(record_of({"a.txt": file_node(bytes=size), "b.txt": file_node(b"missing")}))
            assert not (place.destination / "a.txt").exists()

    @pytest.mark.parametrize("size", [-1, 2**63, 1.0, 7.5, "7", None, True, [7], float("inf")], ids=repr)
    def test_a_size_that_is_none_is_refused(self, size: Any) -> None:
        with jail() as place, pytest.raises(RecordError, match=r"a\.txt"):
            place.fetch(record_of({"a.txt": file_node(bytes=size)}))

    def test_a_size_of_nothing_with_the_digest_of_something_is_refused(self) -> None:
        """Else the file would silently come out empty."""
        with jail() as place, pytest.raises(RecordError, match=r"a\.txt"):
            place.fetch(record_of({"a.txt": file_node(bytes=0)}))

    @pytest.mark.parametrize("digest", ["", "x", "../../precious", sha1(PAYLOAD).upper(), "0" * 39, "0" * 41, 3, []])
    def test_a_digest_that_is_none_is_refused(self, digest: Any) -> None:
        with jail() as place, pytest.raises(RecordError, match=r"a\.txt"):
            place.fetch(record_of({"a.txt": file_node(sha1=digest)}))

    def test_a_blob_of_another_file_is_not_taken_for_this_one(self) -> None:
        with jail() as place:
            with pytest.raises(PipelineError, match=r"a\.txt"):
                place.fetch(record_of({"a.txt": file_node(sha1=sha1(b"else"))}))
            assert not (place.destination / "a.txt").exists()

    @pytest.mark.parametrize("pid", ["../../../outside/precious", "/etc/passwd", "x", 3, None, "0" * 40], ids=repr)
    def test_a_pid_that_is_no_blob_of_the_archive_is_refused(self, pid: Any) -> None:
        with jail() as place:
            with pytest.raises(PipelineError):
                place.fetch(record_of({"a.txt": file_node(bpid=pid)}))
            assert not (place.destination / "a.txt").exists()

    @pytest.mark.parametrize("item", ["Symlink", "", None, 3, [], {}], ids=repr)
    def test_an_item_that_is_neither_file_nor_folder_is_refused(self, item: Any) -> None:
        with jail() as place, pytest.raises(RecordError, match=r"a\.txt"):
            place.fetch(record_of({"a.txt": file_node(item=item)}))

    def test_a_file_is_not_a_folder_too(self) -> None:
        with jail() as place:
            files = place.fetch(record_of({"a.h5": file_node(item="H5_File") | {"..": file_node(), "x": file_node()}}))
            assert files == {"a.h5": PAYLOAD}

    @pytest.mark.parametrize(
        "project",
        [
            "{a: &a {/item/: Directory, b: *a}}",
            "{a: &a {/item/: Directory}, b: *a}",
            "&p {a: {/item/: Directory, b: *p}}",
            "!!python/object/apply:os.system ['touch pwned']",
            "{a: !!python/object/new:os.system ['touch pwned']}",
            "{1: {/item/: Directory}}",
            "{~: {/item/: Directory}}",
            "{2026-03-02: {/item/: Directory}}",
            "{? [a] : {/item/: Directory}}",
            "{a: 3}",
            "{a: [1]}",
            "{a: {}}",
        ],
    )
    def test_yaml_that_is_no_plain_tree_is_refused(self, workshop: Workshop, project: str) -> None:
        head = "title: sample-v0.1.0\ntitle_versionless: sample\nversion: 0.1.0\n"
        plant(workshop.archive, f"{head}project: {project}\n")
        with pytest.raises(RecordError, match=r"sample-v0\.1\.0\.yml"):
            FileSystemArchive(workshop.archive).get_release_records("sample")
        assert not Path("pwned").exists()

    @pytest.mark.parametrize("lines", [6, 9])
    def test_a_small_record_does_not_fill_the_memory(self, workshop: Workshop, lines: int) -> None:
        """The "billion laughs" in a part of the record that nobody asks for."""
        text = "title: sample-v0.1.0\ntitle_versionless: sample\nversion: 0.1.0\nproject: {}\nworkflow:\n"
        text += "  x0: &x0 [l, l, l, l, l, l, l, l, l, l]\n"
        for line in range(1, lines):
            text += f"  x{line}: &x{line} [{', '.join([f'*x{line - 1}'] * 10)}]\n"
        plant(workshop.archive, text)
        with pytest.raises(RecordError, match=r"sample-v0\.1\.0\.yml"):
            FileSystemArchive(workshop.archive).get_release_records("sample")

    def test_a_record_of_the_earlier_tool_may_still_use_aliases(self, workshop: Workshop) -> None:
        text = "title: sample-v0.1.0\ntitle_versionless: sample\nversion: 0.1.0\nproject: {}\n"
        plant(workshop.archive, text + "requirements: &id001 [a>=1.0.0]\nworkflow: {requires: *id001}\n")
        (record,) = FileSystemArchive(workshop.archive).get_release_records("sample").values()
        assert record["workflow"] == {"requires": ["a>=1.0.0"]}


class TestRecordsInTheWrongPlace:
    """A record counts only in the file that has its name."""

    @pytest.mark.parametrize(
        "record",
        [
            record_of({}, "0.2.0"),
            record_of({}, title="other"),
            record_of({}) | {"version": "0.2.0"},
            record_of({}) | {"title": "sample-v0.2.0"},
            record_of({}) | {"title_versionless": "other"},
            record_of({}) | {"title_versionless": "../sample", "title": "../sample-v0.1.0"},
            record_of({}) | {"version": "../0.1.0", "title": "sample-v../0.1.0"},
            record_of({}) | {"version": ["0.1.0"]},
            record_of({}) | {"title": None},
        ],
        ids=lambda record: f"{record['title']}-{record['title_versionless']}-{record['version']}",
    )
    def test_another_one_is_refused(self, workshop: Workshop, record: dict[str, Any]) -> None:
        plant(workshop.archive, record)
        with pytest.raises(RecordError, match=r"sample-v0\.1\.0\.yml"):
            FileSystemArchive(workshop.archive).get_release_records("sample")

    @pytest.mark.parametrize(
        "name",
        [
            "sample-v0.2.0.yml~",
            "sample-v0.2.0.YML",
            "sample-v0.2.0\n.yml",
            "sample-v00.2.0.yml",
            "sample-vNEXT.yml",
            "sample-v1.yml",
            "sample-notes.txt",
            "sample.yml",
            "x-sample-v0.2.0.yml",
            ".sample-v9.0.0.yml",
        ],
        ids=ascii,
    )
    def test_a_file_that_is_none_is_passed_over(self, workshop: Workshop, name: str) -> None:
        plant(workshop.archive, record_of({}))
        plant(workshop.archive, "not a record", file=name)
        assert list(FileSystemArchive(workshop.archive).get_release_records("sample")) == ["sample-v0.1.0"]


EVIL_FOLDERS = st.one_of(
    st.sampled_from(["..", ".", "", " ", "/", "../outside", "/tmp/outside", "a/b", "a\\b", "a\0b", "..\\x", ".hidden"]),
    st.text(st.sampled_from("./\\a\0 \n"), max_size=5),
)


class TestNamesThatWantOutOfTheArchive:
    """Titles and workspaces are one plain folder name each."""

    @settings(max_examples=100, deadline=None)
    @given(title=EVIL_FOLDERS | st.just("sample"), workspace=EVIL_FOLDERS | st.just(WORKSPACE))
    def test_no_method_of_the_interface_leaves_the_archive(self, title: Any, workspace: Any) -> None:
        with jail() as place:
            archive = FileSystemArchive(place.archive)
            source = place.destination / "source"
            source.write_bytes(b"new")
            record = record_of({"source": file_node(b"new")}, title=str(title))
            evil = (title, workspace) != ("sample", WORKSPACE)
            calls = [
                lambda: archive.get_release_records(title, None, workspace),
                lambda: archive.process_and_upload_blob("source", source.parent, title, "t", workspace, 1000),
                lambda: archive.upload_release_record(record, workspace),
                lambda: archive.download_blob(
                    sha1(PAYLOAD),
                    place.destination / "target",
                    {},
                    len(PAYLOAD),
                    {"title_versionless": title},
                    workspace,
                ),
            ]
            if not evil:
                calls[1:3] = []  # these are meant to change the archive
            before = place.around()
            for call in calls:
                # A name that is none is an error that explains itself; a plain one is merely unknown.
                with suppress(PipelineError):
                    call()
            outside = {path: data for path, data in place.around().items() if not path.startswith("archive/")}
            assert outside == {path: data for path, data in before.items() if not path.startswith("archive/")}
            for path in place.around().keys() - before.keys():
                assert len(path.split("/")) >= 2
                assert not {"..", "."} & set(path.split("/"))
                (place.folder / path).unlink() if (place.folder / path).is_file() else None
            for path in sorted(place.around().keys() - before.keys(), reverse=True):
                (place.folder / path).rmdir()

    @pytest.mark.parametrize("workspace", ["..", "../x", "/tmp/x", "a/b", "a\\b", ".", "", " ", "a\0b", "a\nb"])
    def test_a_workspace_that_is_none_is_refused_everywhere(self, workspace: Any) -> None:
        with jail() as place:
            archive = FileSystemArchive(place.archive)
            source = place.destination / "source"
            source.write_bytes(b"new")
            with pytest.raises(InvalidNameError, match="workspace"):
                archive.get_release_records("sample", None, workspace)
            with pytest.raises(InvalidNameError, match="workspace"):
                archive.process_and_upload_blob("source", source.parent, "sample", "sample-v1.0.0", workspace, 1000)
            with pytest.raises(InvalidNameError, match="workspace"):
                archive.upload_release_record(record_of({}, "1.0.0"), workspace)
            with pytest.raises(InvalidNameError, match="workspace"):
                archive.upload_release_record(record_of({}, "1.0.0"), workspace_title=workspace)

    @pytest.mark.parametrize("pid", ["../../../outside/precious", "/etc/passwd", "", "x" * 40, None, 3], ids=repr)
    def test_a_pid_is_never_a_path(self, pid: Any) -> None:
        with jail() as place:
            status: dict[str, Any] = {}
            with pytest.raises(PipelineError):
                FileSystemArchive(place.archive).download_blob(
                    blob_pid=pid,
                    target_file=place.destination / "target",
                    update_dict=status,
                    expected_size=8,
                    release_record=record_of({}),
                    workspace=WORKSPACE,
                )
            assert tree(place.destination) == {}
            assert status["finished"]
            assert not status["success"]


class TestNamesThatDifferInCase:
    """One file must not replace another where the file system takes their names for one."""

    def test_are_fetched_where_they_are_two(self, workshop: Workshop) -> None:
        project = workshop.project(files={"Data.csv": b"one", "data.csv": b"two"})
        if len(list(project.iterdir())) == 1:
            pytest.skip("this file system takes them for one")
        assert workshop.publish().code == 0
        assert workshop.fetch().code == 0
        fetched = tree(workshop.folder / "fetched" / "sample-v0.1.0")
        assert (fetched["Data.csv"], fetched["data.csv"]) == (b"one", b"two")

    def test_are_refused_where_they_are_one(self, workshop: Workshop) -> None:
        workshop.project(files={"Data.csv": b"one", "data.csv": b"two"})
        assert workshop.publish().code == 0
        # On a file system without upper and lower case, the folder of parts is found under this name too.
        (workshop.folder / "fetched" / "sample-v0.1.0" / ".rme" / ".PARTIAL").mkdir(parents=True)
        outcome = workshop.fetch()
        assert outcome.code == 30
        assert "'Data.csv' and 'data.csv' are one name" in outcome.output
        assert "Traceback" not in outcome.output
        assert not list((workshop.folder / "fetched").glob("*/*.csv"))
