"""Archives are shared with the earlier tool, the real rmellipse 0.4.5 from PyPI, in both directions.

It is installed once, into an environment of its own in the user's cache folder, and driven by a small program, because
it needs other versions of libraries and writes into the home folder when it is imported.
"""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.archive_interface import FileSystemArchive
from pipeline.archives.filesystem import create_archive
from pipeline.errors import BlobsFailedError
from tests.environments import NotInstalledError, python_with
from tests.support import EXAMPLE, Workshop, assert_archive_is_sound, tree

REQUIREMENT = "rmellipse==0.4.5"
WORKSPACE = "Global Public Workspace"

# Runs in the environment of the earlier tool, with a list of steps as JSON on its standard input.
DRIVER = """
import json, sys
from pathlib import Path
import h5py, numpy
from rmellipse.workflows.archive_interface import FileSystemArchive
from rmellipse.workflows.extras import map_directory

def make_hdf5(file, attribute):
    with h5py.File(file, "w") as hdf5:
        hdf5.attrs["instrument"] = "VNA"
        group = hdf5.create_group("port 1/γ")
        group.attrs["loss"] = attribute
        group.create_dataset("magnitude", data=numpy.arange(1000.0))

def publish(archive, project, title, version, workspace):
    archive = FileSystemArchive(archive, None)
    record = {
        "title": f"{title}-v{version}", "title_versionless": title, "version": version,
        "workflow_config_path": "workflow.yml", "workflow": {"jobs": {}}, "requirements": [],
        "project": map_directory({}, Path(project)), "datasets": {"one": "data/one.csv"},
    }
    archive.upload_blobs_and_update_mapping(
        release_title=record["title"], release_title_versionless=title, workspace=workspace,
        project_mapping=record["project"], project_directory=Path(project), max_threads=2, chunk_size=2**20,
    )
    archive.upload_release_record(record, workspace)

def read(archive, title, expressions, workspace):
    records = FileSystemArchive(archive, None).get_release_records(
        title_versionless=title, version_expressions=expressions, workspace=workspace
    )
    return records

def download(archive, title, version, workspace, folder):
    record = read(archive, title, ["==" + version], workspace)[f"{title}-v{version}"]
    FileSystemArchive(archive, None).download_release(
        record=record, workspace=workspace, max_threads=2, release_cache_folder=Path(folder), download_chunk_bytes=2**20
    )

steps = json.load(open(0, encoding="utf-8"))
results = [globals()[name](**arguments) for name, arguments in steps]
Path(sys.argv[1]).write_text(json.dumps(results), "utf-8")
"""


@dataclass(frozen=True)
class EarlierTool:
    """The earlier tool in an environment of its own."""

    python: Path
    home: Path

    def do(self, *steps: tuple[str, dict[str, Any]]) -> list[Any]:
        """Take steps of the driver, in one process, and return their results."""
        program, results = self.home / "driver.py", self.home / "results.json"
        program.write_text(DRIVER, "utf-8")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment |= {"HOME": str(self.home), "USERPROFILE": str(self.home), "GIT_PYTHON_REFRESH": "quiet"}
        done = subprocess.run(
            [self.python, "-X", "utf8", program, results],
            input=json.dumps(steps),
            cwd=self.home,
            env=environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(results.read_text("utf-8"))


@pytest.fixture(scope="session")
def earlier_tool(tmp_path_factory: pytest.TempPathFactory) -> EarlierTool:
    """The earlier tool, installed once and kept."""
    try:
        python = python_with(REQUIREMENT)
    except NotInstalledError as error:
        pytest.skip(str(error))
    return EarlierTool(python, tmp_path_factory.mktemp("earlier-home"))


def files_in(folder: Path) -> dict[str, bytes]:
    """Return the files below a folder but the state of a fetch: relative path to content."""
    return {p: data for p, data in tree(folder).items() if data is not None and p != ".rme/record.yml"}


# ---- What they publish is fetched here


@pytest.fixture(scope="module")
def their_work(earlier_tool: EarlierTool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with projects and the archive that the earlier tool published them to."""
    work = tmp_path_factory.mktemp("theirs")
    contents = {
        "data/one.csv": b"1,2,3\n" * 1000,
        "data/deep/deeper/twin.csv": b"1,2,3\n" * 1000,
        "data/deep/Größe µm – Übersicht 1.txt": "Größe".encode(),
        "data/empty.txt": b"",
        "notes with spaces.txt": b"a note",
        "yes": b"a name that YAML takes for a truth",
        "2026-03-02": b"a name that YAML takes for a date",
        "1e3": b"a name that YAML takes for a number",
        "big.bin": bytes(range(256)) * 8000,
    }
    for path, data in contents.items():
        (work / "project" / path).parent.mkdir(parents=True, exist_ok=True)
        (work / "project" / path).write_bytes(data)
    (work / "project" / "empty folder").mkdir()
    (work / "infinite").mkdir()
    shutil.copytree(work / "project", work / "project2")
    (work / "project2" / "data" / "one.csv").write_bytes(b"4,5,6\n")
    (work / "archive").mkdir()
    (work / "archive" / ".rmearchive").touch()
    where = {"archive": str(work / "archive"), "workspace": WORKSPACE}
    earlier_tool.do(
        ("make_hdf5", {"file": str(work / "project" / "data" / "cal.h5"), "attribute": 0.25}),
        ("make_hdf5", {"file": str(work / "infinite" / "cal.h5"), "attribute": float("nan")}),
        ("publish", {**where, "project": str(work / "project"), "title": "sample", "version": "0.10.0"}),
        ("publish", {**where, "project": str(work / "project2"), "title": "sample", "version": "0.9.0-rc.1"}),
        ("publish", {**where, "project": str(work / "infinite"), "title": "infinite", "version": "1.0.0"}),
    )
    return work


@pytest.fixture
def theirs(their_work: Path, workshop: Workshop) -> Workshop:
    """A workshop with a copy of what the earlier tool published, and of the project."""
    shutil.copytree(their_work / "archive", workshop.archive)
    shutil.copytree(their_work / "project", workshop.folder / "project")
    return workshop


def their_blob(workshop: Workshop, data: bytes) -> Path:
    """Return the blob of some bytes in their archive."""
    (blob,) = (blob for blob in workshop.title_folder().glob("blobs/??/*") if blob.read_bytes() == data)
    assert len(blob.name) == 64, "the earlier tool names blobs by SHA-256"
    return blob


class TestWhatTheyPublished:
    """Blobs are named by SHA-256, and no record holds a SHA-1."""

    def test_is_fetched_byte_by_byte(self, theirs: Workshop) -> None:
        outcome = theirs.fetch()
        assert outcome.code == 0, outcome.output
        folder = theirs.folder / "fetched" / "sample-v0.10.0"
        assert files_in(folder) == files_in(theirs.folder / "project")
        assert (folder / "empty folder").is_dir()
        again = theirs.fetch()
        assert again.code == 0
        assert "Nothing to do" in again.output

    def test_is_fetched_with_its_record(self, theirs: Workshop) -> None:
        assert theirs.fetch().code == 0
        record = theirs.folder / "fetched" / "sample-v0.10.0" / ".rme" / "record.yml"
        assert yaml.safe_load(record.read_bytes()) == yaml.safe_load(theirs.record_file("0.10.0").read_bytes())

    def test_is_mirrored_and_read_by_them_from_the_mirror(self, theirs: Workshop, earlier_tool: EarlierTool) -> None:
        create_archive(theirs.folder / "mirror")
        outcome = theirs.run("MirrorArchive", source="archive", destination="mirror")
        assert outcome.code == 0, outcome.output
        assert "Mirrored archive to mirror: 3 releases" in outcome.output
        again = theirs.run("MirrorRelease", source="archive", destination="mirror", title="sample")
        assert "Nothing to do: mirror has all 2 releases" in again.output
        copy = yaml.safe_load((theirs.folder / "mirror" / WORKSPACE / "sample" / "sample-v0.10.0.yml").read_bytes())
        assert copy.pop("origin")["host"] == str(theirs.archive)
        record = yaml.safe_load(theirs.record_file("0.10.0").read_bytes())
        record["project"]["data"]["empty.txt"]["/bpid/"] = None  # here, empty files live in the record only
        assert copy == record
        where = {
            "archive": str(theirs.folder / "mirror"),
            "workspace": WORKSPACE,
            "folder": str(theirs.folder / "back"),
        }
        earlier_tool.do(("download", {**where, "title": "sample", "version": "0.10.0"}))
        assert files_in(theirs.folder / "back") == files_in(theirs.folder / "project")

    def test_is_found_by_version(self, theirs: Workshop) -> None:
        archive = FileSystemArchive(theirs.archive)
        assert list(archive.get_release_records("sample")) == ["sample-v0.9.0-rc.1", "sample-v0.10.0"]
        assert list(archive.get_release_records("sample", ["<0.10.0"])) == ["sample-v0.9.0-rc.1"]
        outcome = theirs.fetch(versions="<0.10.0")
        assert outcome.code == 0, outcome.output
        fetched = theirs.folder / "fetched" / "sample-v0.9.0-rc.1" / "data" / "one.csv"
        assert fetched.read_bytes() == b"4,5,6\n"

    def test_is_downloaded_by_the_interface(self, theirs: Workshop) -> None:
        archive = FileSystemArchive(theirs.archive)
        (record,) = archive.get_release_records("sample", ["==0.10.0"]).values()
        archive.download_release(
            record=record,
            workspace=WORKSPACE,
            max_threads=2,
            release_cache_folder=theirs.folder / "here",
            download_chunk_bytes=1000,
            progress_bar=False,
        )
        assert files_in(theirs.folder / "here") == files_in(theirs.folder / "project")

    @pytest.mark.parametrize("damage", ["edited", "cut", "grown", "missing"])
    def test_is_not_believed_when_a_blob_is_damaged(self, theirs: Workshop, damage: str) -> None:
        good = b"a note"
        blob = their_blob(theirs, good)
        blob.unlink()
        if damage != "missing":
            blob.write_bytes({"edited": b"A note", "cut": b"a", "grown": b"a note or two"}[damage])
        outcome = theirs.fetch()
        assert outcome.code == 30
        assert "Traceback" not in outcome.output
        assert "notes with spaces.txt" in outcome.output
        assert blob.name in outcome.output
        folder = theirs.folder / "fetched" / "sample-v0.10.0"
        assert not (folder / "notes with spaces.txt").exists()
        assert (folder / "data" / "one.csv").exists()
        archive = FileSystemArchive(theirs.archive)
        (record,) = archive.get_release_records("sample", ["==0.10.0"]).values()
        with pytest.raises(BlobsFailedError, match="notes with spaces"):
            archive.download_release(record, WORKSPACE, 2, theirs.folder / "here", 1000, False)

        blob.write_bytes(good)
        assert theirs.fetch().code == 0
        assert files_in(folder) == files_in(theirs.folder / "project")

    def test_stays_readable_beside_what_is_published_here(self, theirs: Workshop, earlier_tool: EarlierTool) -> None:
        outcome = theirs.publish(version="0.11.0")
        assert outcome.code == 0, outcome.output
        found = FileSystemArchive(theirs.archive).get_release_records("sample")
        assert list(found) == ["sample-v0.9.0-rc.1", "sample-v0.10.0", "sample-v0.11.0"]
        where = {"archive": str(theirs.archive), "title": "sample", "workspace": WORKSPACE}
        (records, *_) = earlier_tool.do(
            ("read", {**where, "expressions": None}),
            ("download", {**where, "version": "0.10.0", "folder": str(theirs.folder / "old")}),
            ("download", {**where, "version": "0.11.0", "folder": str(theirs.folder / "new")}),
        )
        # It takes None for ">=0.0.0"; that a pre-release of 0.9.0 is among them is its reading, and ours.
        assert set(records) == set(found)
        assert files_in(theirs.folder / "old") == files_in(theirs.folder / "project")
        assert files_in(theirs.folder / "new") == files_in(theirs.folder / "project")

    def test_is_fetched_although_a_property_in_it_is_not_a_number(self, theirs: Workshop) -> None:
        """An HDF5 group with a NaN as attribute puts a NaN into the record, which JSON does not have."""
        outcome = theirs.fetch(title="infinite")
        assert outcome.code == 0, outcome.output
        assert (theirs.folder / "fetched" / "infinite-v1.0.0" / "cal.h5").stat().st_size > 0
        again = theirs.fetch(title="infinite")
        assert "Nothing to do" in again.output


# ---- What is published here is read by them

ODD_NAMES = [
    "two\nlines.txt",
    "carriage\rreturn",
    "tab\tstop",
    "bell\x07 and escape\x1b[31m",
    "\x01\x02\x03",
    "delete\x7f",
    "next\x85line",
    "line\u2028separator",
    "paragraph\u2029separator",
    "\ufeffbyte order mark",
    "not a character \uffff",
    "emoji \U0001f642\u200d\U0001f4a5.csv",
    "e\u0301 is not \u00e9",
    "\u00e9 is not e\u0301",
    "right to left \u202e.txt",
    "n" * 255,
    "ü" * 127,
    "\x02" * 150,
    "quote\"s and 'apostrophe's",
    "colon: and # hash",
    "- dash",
    "? question",
    "{brace}",
    "[bracket]",
    "*star",
    "&and",
    "!bang",
    "%percent",
    "@at",
    "`backtick`",
    "|pipe",
    ">",
    "~",
    "null",
    "Null",
    "yes",
    "no",
    "true",
    "=",
    "<<",
    "1",
    "1.5",
    "1e3",
    "0x10",
    "12:30:00",
    "2026-03-02",
    ".inf",
    " leading space",
    "trailing space ",
    "nul",
    "con.txt",
    "not really.h5",
    "...",
    "~tilde",
    "$HOME",
]


@pytest.fixture(scope="module")
def our_work(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A workshop where the example project and one with odd names were published."""
    workshop = Workshop(tmp_path_factory.mktemp("ours"))
    shutil.copytree(EXAMPLE, workshop.folder / "example")
    odd = {f"{name}/{name}" if len(name) < 100 else name: name.encode() for name in ODD_NAMES}
    odd["release.yml"] = b"small: 1.0e-7\nlarge: 1.0e+300\nodd: \"\\x85 \\u2028 \\U0001F642 \\x7f\"\ntext: '1e-07'\n"
    workshop.project("odd", odd)
    for title, project, versions in (
        ("example", "example", ["0.2.0", "0.10.0-rc.1", "0.10.0"]),
        ("odd", "odd", ["1.0.0"]),
    ):
        for version in versions:
            outcome = workshop.publish(project, version, title=title)
            assert outcome.code == 0, outcome.output
    assert_archive_is_sound(workshop.archive)
    return workshop


@pytest.fixture(scope="module")
def their_reading(earlier_tool: EarlierTool, our_work: Workshop) -> dict[str, dict[str, Any]]:
    """What the earlier tool finds in our archive; it has downloaded releases beside it."""
    example = {"archive": str(our_work.archive), "title": "example", "workspace": WORKSPACE}
    odd = {**example, "title": "odd"}
    names = ["all", "range", "exact", "odd"]
    found = earlier_tool.do(
        ("read", {**example, "expressions": None}),
        ("read", {**example, "expressions": [">=0.2.0", "<0.10.0"]}),
        ("read", {**example, "expressions": ["==0.10.0"]}),
        ("read", {**odd, "expressions": ["==1.0.0"]}),
        ("download", {**example, "version": "0.10.0", "folder": str(our_work.folder / "their example")}),
        ("download", {**odd, "version": "1.0.0", "folder": str(our_work.folder / "their odd")}),
    )
    return dict(zip(names, found, strict=False))


class TestWhatIsPublishedHere:
    """The earlier tool reads records and blobs without knowing that they are not its own."""

    def test_is_found_by_their_expressions(self, their_reading: dict[str, dict[str, Any]]) -> None:
        assert set(their_reading["all"]) == {"example-v0.2.0", "example-v0.10.0-rc.1", "example-v0.10.0"}
        assert set(their_reading["range"]) == {"example-v0.2.0", "example-v0.10.0-rc.1"}
        assert set(their_reading["exact"]) == {"example-v0.10.0"}

    def test_is_read_by_them_as_it_is_read_here(
        self, their_reading: dict[str, dict[str, Any]], our_work: Workshop
    ) -> None:
        archive = FileSystemArchive(our_work.archive)
        assert their_reading["all"] == archive.get_release_records("example")
        assert their_reading["odd"] == archive.get_release_records("odd")
        workflow = their_reading["odd"]["odd-v1.0.0"]["workflow"]
        assert workflow["small"] == 1e-7
        assert workflow["text"] == "1e-07"
        assert workflow["odd"] == "\x85 \u2028 \U0001f642 \x7f"

    def test_is_downloaded_by_them_byte_by_byte(
        self, their_reading: dict[str, dict[str, Any]], our_work: Workshop
    ) -> None:
        assert their_reading
        assert files_in(our_work.folder / "their example") == files_in(EXAMPLE)

    def test_is_downloaded_by_them_under_every_odd_name(
        self, their_reading: dict[str, dict[str, Any]], our_work: Workshop
    ) -> None:
        assert their_reading
        here = files_in(our_work.folder / "odd")
        assert len(here) == len(ODD_NAMES) + 1
        assert files_in(our_work.folder / "their odd") == here

    def test_is_fetched_here_under_every_odd_name(self, our_work: Workshop) -> None:
        outcome = our_work.run("FetchRelease", title="odd", destination="fetched")
        assert outcome.code == 0, outcome.output
        assert files_in(our_work.folder / "fetched" / "odd-v1.0.0") == files_in(our_work.folder / "odd")

    def test_is_read_by_them_whatever_its_title(self, earlier_tool: EarlierTool, workshop: Workshop) -> None:
        """Their reader opens everything in the folder of a title whose name contains the title."""
        workshop.project(files={"a.txt": b"alpha"})
        for title in ("records", "damaged", "d"):
            assert workshop.publish(title=title).code == 0
            where = {"archive": str(workshop.archive), "workspace": WORKSPACE, "title": title}
            (found,) = earlier_tool.do(("read", {**where, "expressions": None}))
            assert list(found) == [f"{title}-v0.1.0"]

    def test_is_refused_under_a_name_that_they_could_not_read(self, workshop: Workshop) -> None:
        """A YAML reader looks for the end of a key within 1024 characters; each of these becomes six."""
        workshop.project(files={"\x02" * 200: b"data", "a.txt": b"alpha"})
        outcome = workshop.publish()
        assert outcome.code == 30
        assert "Traceback" not in outcome.output
        assert "too long" in outcome.output
        assert not workshop.record_file().exists()
