"""Which files of a project belong to its release, and what the record says of them.

Git itself is asked what it would ignore.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.archive_interface import FileSystemArchive
from pipeline.errors import ProjectError
from pipeline.project import Project, scan_project
from tests.support import EXAMPLE, Workshop, sha1, tree

links = pytest.mark.skipif(os.name != "posix", reason="making symbolic links is a privilege on Windows")
posix = pytest.mark.skipif(os.name != "posix", reason="special files of POSIX")


def write(folder: Path, files: Mapping[str, bytes | str]) -> Path:
    """Write files below a folder, and return it."""
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def found(folder: Path, **rules: Any) -> set[str]:
    """Return the files of a project, without those that only hold rules."""
    return {path for path in scan_project(folder, **rules).files if path.rpartition("/")[2] not in RULE_FILES}


RULE_FILES = {".gitignore", ".rmeinclude"}
TREE = {"keep.csv": "1", "drop.tmp": "2", "data/keep.csv": "3", "data/drop.tmp": "4", "data/deep/drop.tmp": "5"}
FILES = {path: data.encode() for path, data in TREE.items()}


class TestLinks:
    """Followed while they stay inside the project, refused by name when they do not."""

    @links
    def test_a_link_to_a_file_inside_is_published_as_the_file(self, tmp_path: Path) -> None:
        write(tmp_path, TREE)
        (tmp_path / "link.csv").symlink_to("data/keep.csv")
        (tmp_path / "absolute.csv").symlink_to(tmp_path / "keep.csv")
        (tmp_path / "data" / "up.csv").symlink_to("../keep.csv")
        project = scan_project(tmp_path)
        assert {"link.csv", "absolute.csv", "data/up.csv"} <= set(project.files)
        assert project.files["absolute.csv"] == project.files["keep.csv"]

    @links
    def test_a_link_to_a_folder_inside_is_published_as_the_folder(self, tmp_path: Path) -> None:
        write(tmp_path, TREE)
        (tmp_path / "linked").symlink_to("data", target_is_directory=True)
        project = scan_project(tmp_path)
        assert {"linked/keep.csv", "linked/deep/drop.tmp"} <= set(project.files)
        assert {"linked", "linked/deep"} <= set(project.folders)

    @links
    def test_a_project_behind_a_link_is_the_project(self, tmp_path: Path) -> None:
        write(tmp_path / "real", TREE)
        (tmp_path / "link").symlink_to("real", target_is_directory=True)
        (tmp_path / "real" / "absolute").symlink_to(tmp_path / "link" / "keep.csv")
        assert found(tmp_path / "link") == {*TREE, "absolute"}

    @links
    @pytest.mark.parametrize(
        ("target", "reason"),
        [
            ("../outside.csv", "leaves the project"),
            ("../outside", "leaves the project"),
            ("../project-2/x", "leaves the project"),
            ("data/../../outside.csv", "leaves the project"),
            ("/etc/hostname", "symbolic link"),
            ("nothing", "broken"),
            ("../nothing", "symbolic link"),
            ("link", "symbolic link"),
            (".", "folder that it is in"),
            ("data/..", "folder that it is in"),
            ("..", "leaves the project"),
            (".git", "symbolic link"),
            (".git/config", "symbolic link"),
            (".rme/record.yml", "symbolic link"),
        ],
    )
    def test_any_other_link_is_refused_by_name(self, tmp_path: Path, target: str, reason: str) -> None:
        write(tmp_path, {"outside.csv": "", "outside/x": "", "project-2/x": ""})
        project = write(tmp_path / "project", {**TREE, ".git/config": "secret", ".rme/record.yml": ""})
        (project / "link").symlink_to(target)
        with pytest.raises(ProjectError, match=rf"^link\b.*{reason}"):
            scan_project(project)
        assert found(project, ignores=["link"]) == set(TREE), "what is ignored is not refused"
        assert found(project, ignores=["link"], includes=["elsewhere"]) == set(TREE)

    @links
    def test_links_that_chase_each_other_are_refused(self, tmp_path: Path) -> None:
        write(tmp_path, {"a/x": "", "b/y": ""})
        (tmp_path / "a" / "to-b").symlink_to("../b", target_is_directory=True)
        (tmp_path / "b" / "to-a").symlink_to("../a", target_is_directory=True)
        with pytest.raises(ProjectError, match="folder that it is in"):
            scan_project(tmp_path)

    @links
    def test_links_that_multiply_are_no_endless_project(self, tmp_path: Path) -> None:
        """Every folder links to the next one twice, so that all paths together are two to the power of forty."""
        folders = 40
        for number in range(folders):
            write(tmp_path, {f"f{number}/x": ""})
            for twin in ("a", "b"):
                (tmp_path / f"f{number}" / twin).symlink_to(f"../f{number + 1}", target_is_directory=True)
        write(tmp_path, {f"f{folders}/x": ""})
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "import resource, sys\n"
                "resource.setrlimit(resource.RLIMIT_CPU, (5, 5))\n"
                "resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))\n"
                "from pipeline.errors import ProjectError\n"
                "from pipeline.project import scan_project\n"
                "try: scan_project(sys.argv[1])\n"
                "except ProjectError as error: print(error)\n",
                str(tmp_path),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-300:]
        assert done.stdout.strip()

    @links
    def test_every_one_of_them_is_named_on_the_command_line(self, workshop: Workshop) -> None:
        project = workshop.project(files={"a.txt": b"alpha"})
        (project / "out").symlink_to(workshop.folder)
        (project / "broken").symlink_to("nothing")
        os.mkfifo(project / "pipe")
        outcome = workshop.publish()
        assert outcome.code == 30
        assert "Traceback" not in outcome.output
        for name in ("out is a symbolic link", "broken is a broken", "pipe is not a regular file"):
            assert name in outcome.output
        assert not workshop.title_folder().exists()


class TestWhatIsNoFile:
    """Special files are refused by name, and not waited for."""

    @posix
    @pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
    def test_a_special_file_is_refused_by_name(self, kind: str) -> None:
        with tempfile.TemporaryDirectory() as folder:  # a socket's path must be short
            project = write(Path(folder), {"data/x": ""})
            special = project / "data" / "special"
            if kind == "pipe":
                os.mkfifo(special)
            elif kind == "socket":
                with socket.socket(socket.AF_UNIX) as listening:
                    listening.bind(str(special))
            else:
                try:
                    os.mknod(special, 0o600 | 0o020000, os.makedev(1, 3))
                except PermissionError:
                    pytest.skip("only root can make a device")
            with pytest.raises(ProjectError, match=r"^data/special is not a regular file"):
                scan_project(project)
            assert found(project, ignores=["special"]) == {"data/x"}

    @posix
    @pytest.mark.parametrize("name", [".gitignore", ".rmeinclude"])
    def test_a_rule_file_that_is_a_pipe_is_refused_and_not_waited_for(self, tmp_path: Path, name: str) -> None:
        write(tmp_path, TREE)
        os.mkfifo(tmp_path / "data" / name)
        with pytest.raises(ProjectError, match=name):
            scan_project(tmp_path)

    def test_a_folder_under_the_name_of_a_rule_file_is_a_folder(self, tmp_path: Path) -> None:
        write(tmp_path, {**TREE, ".gitignore/x": "", ".rmeinclude/y": ""})
        assert found(tmp_path) == {*TREE, ".gitignore/x", ".rmeinclude/y"}

    @posix
    @pytest.mark.parametrize("name", [b"not \xff utf-8", b"back\\slash"], ids=ascii)
    def test_a_name_that_no_record_can_hold_is_refused(self, tmp_path: Path, name: bytes) -> None:
        write(tmp_path, {"data/x": ""})
        os.close(os.open(os.path.join(os.fsencode(tmp_path / "data"), name), os.O_CREAT | os.O_WRONLY))
        with pytest.raises(ProjectError, match="in data") as caught:
            scan_project(tmp_path)
        str(caught.value).encode("utf-8")  # can be shown
        assert found(tmp_path, ignores=["/data/[nb]*"]) == {"data/x"}


class TestWhatIsNeverPublished:
    """Whatever the rules say: version control, states, parts, other archives."""

    @pytest.mark.parametrize("name", [".git", ".rme", ".partial"])
    @pytest.mark.parametrize("folder", ["", "data/", "data/deep/"])
    @pytest.mark.parametrize("kind", ["folder", "file"])
    def test_not_even_when_it_is_included(self, tmp_path: Path, name: str, folder: str, kind: str) -> None:
        path = f"{folder}{name}/config" if kind == "folder" else f"{folder}{name}"
        write(tmp_path, {**TREE, path: "secret", ".rmeinclude": f"{name}\n{name}/**\n*\n"})
        assert found(tmp_path, includes=[name, f"**/{name}/**", "**", path]) == set(TREE)
        assert not any(name in folder.split("/") for folder in scan_project(tmp_path).folders)

    @pytest.mark.parametrize("name", [".github/x", ".gitattributes", ".gitkeep", ".rmeproject", "git", "x.partial"])
    def test_but_what_only_looks_like_it_is(self, tmp_path: Path, name: str) -> None:
        write(tmp_path, {name: ""})
        assert found(tmp_path) == {name}

    def test_an_archive_in_the_project_is_left_out_with_all_that_is_in_it(self, tmp_path: Path) -> None:
        write(tmp_path, {**TREE, "data/archive/.rmearchive": "", "data/archive/Global/x/blobs/ab/abcd": "blob"})
        assert found(tmp_path, includes=["**", "data/archive/**"]) == set(TREE)
        assert scan_project(tmp_path).folders == ["data", "data/deep"]

    def test_an_archive_is_no_project(self, tmp_path: Path) -> None:
        write(tmp_path, {**TREE, ".rmearchive": ""})
        with pytest.raises(ProjectError, match="archive"):
            scan_project(tmp_path)

    def test_a_fetched_release_can_be_published_as_it_is(self, workshop: Workshop) -> None:
        workshop.project(files={path: data.encode() for path, data in TREE.items()})
        assert workshop.publish().code == 0
        assert workshop.fetch().code == 0
        assert found(workshop.folder / "fetched" / "sample-v0.1.0") == set(TREE)


@contextmanager
def tree_of(files: Mapping[str, str]) -> Iterator[Path]:
    """Make a folder with files for as long as the context lasts."""
    with tempfile.TemporaryDirectory() as folder:
        yield write(Path(folder), files)


@pytest.fixture(scope="session")
def git(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Ask git which files of a folder it does not ignore."""
    program = shutil.which("git")
    if program is None:
        pytest.skip("git is not installed")
    home = tmp_path_factory.mktemp("git")
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}
    repository = home / "repository"
    subprocess.run([program, "init", "-q", repository], check=True, env=environment, capture_output=True)

    def ask(folder: Path) -> set[str]:
        listed = subprocess.run(
            [
                program,
                f"--git-dir={repository / '.git'}",
                f"--work-tree={folder}",
                *("ls-files", "--others", "--exclude-standard", "-z"),
            ],
            check=True,
            cwd=folder,
            env=environment,
            capture_output=True,
        ).stdout
        return {os.fsdecode(name) for name in listed.split(b"\0") if name}

    return ask


NAMES = ["a", "b", "a.txt", "b.tmp", ".hidden", "A", "a b"]
PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map("/".join)
PATTERNS = st.one_of(
    st.sampled_from(
        [
            "*",
            "/*",
            "**",
            "a",
            "b",
            "/a",
            "a/",
            "/a/",
            "a/*",
            "a/**",
            "**/a",
            "**/a/",
            "a/**/b",
            "/a/b",
            "a/b/",
            "a/b",
            "*.txt",
            "*.tmp",
            "a*",
            "?",
            "??",
            "[ab]",
            "[!a]",
            "[^a]",
            "[a-b].t?p",
            "*/",
            "*/*",
            "**/*.txt",
            ".*",
            ".h*",
            "",
            "#a",
            "\\#a",
            "\\!a",
            "a ",
            "a\\ b",
            "a b",
            "\\a",
            "a\\",
            "[",
            "[]",
            "[a",
            "***",
            "a**",
            "**b",
            "/",
            "//",
            "A",
            "a//b",
            "./a",
            "a/./b",
            "../a",
            "/**/a",
            "[[:alpha:]]",
            "*.[tx]*",
            "\ta",
            "a\t",
            "a/**/",
            "[[:punct:][:space:]]*",
            "\ufeffa",
        ]
    ),
    st.text(st.sampled_from("ab*?/[]!.#\\ -"), max_size=6),
).flatmap(lambda pattern: st.sampled_from([pattern, pattern, f"!{pattern}"]))
RULES = st.lists(PATTERNS, max_size=4).map("\n".join)


def files_or_refusal(folder: Path, **rules: Any) -> set[str] | str:
    """Return the files of a project, or the sentence that refuses it."""
    try:
        return set(scan_project(folder, **rules).files)
    except ProjectError as error:
        return str(error)


class TestIgnoring:
    """The same as git's own: .gitignore in any folder, the deepest has the last word."""

    @staticmethod
    def check(git: Any, paths: list[str], rules: Mapping[str, str]) -> None:
        files: dict[str, str] = {}
        for path in paths:
            taken = any(other.startswith(f"{path}/") or path.startswith(f"{other}/") for other in files)
            if not taken:
                files[path] = ""
        folders = {""} | {path.rpartition("/")[0] for path in files}
        for folder, text in rules.items():
            if folder in folders:
                files[f"{folder}/.gitignore".lstrip("/")] = text
        with tree_of(files) as folder:
            assert files_or_refusal(folder) == git(folder)

    @pytest.mark.parametrize(
        "rules",
        [
            {"": "*\n!*/\n!*.txt"},
            {"": "/*\n!/a\n/a/*\n!/a/b"},
            {"": "a/\n!a/b"},
            {"": "*.tmp", "a": "!b.tmp"},
            {"": "a/*", "a": "!*"},
            {"": "*.tmp\r\na b\r\n"},
            {"": "\ufeff*.tmp\n"},
            {"": "a b \n"},
            {"": "a\\ b\n"},
            {"": "**/a/**\n!**/a/b.tmp"},
            {"": "[!b]*\n"},
            {"": "a/b\n!a/b/\n"},
            {"": "!a\na"},
            {"a": "/b\n/*.txt"},
            {"a": "*", "a/b": "!*"},
            {"": "A"},
            {"": "*/b.tmp"},
            {"": "b.tmp\\t\n"},
            {"": "b.tmp\t\n"},
            {"": "a/**/\n"},
            {"": "[[:alpha:]].t[[:alpha:]]p\n"},
            {"": "[[:nonsense:]]*\n"},
            {"": "[z-a]*\n[b-b]*\n"},
            {"": "/*\n!/\n"},
            {"": "//\n"},
            {"": "!\n"},
            {"": "x\\ \na.txt\\\\  \n"},
        ],
        ids=repr,
    )
    def test_known_corners(self, git: Any, rules: dict[str, str]) -> None:
        paths = [
            f"{folder}{name}" for folder in ("", "a/", "b/", "a/b/", "c/a/") for name in ("a.txt", "b.tmp", "a b", "x")
        ]
        self.check(git, [*paths, "A"], rules)

    @settings(max_examples=150, deadline=None)
    @given(paths=st.lists(PATHS, min_size=1, max_size=8), top=RULES, deeper=RULES)
    @example(paths=["a/b", "a/a.txt", "b/a.txt"], top="*\n!*/\n!*.txt", deeper="")
    def test_any_tree_with_any_patterns(self, git: Any, paths: list[str], top: str, deeper: str) -> None:
        self.check(git, paths, {"": top, "a": deeper, "a/b": deeper})

    @settings(max_examples=60, deadline=None)
    @given(paths=st.lists(PATHS, min_size=1, max_size=8), patterns=st.lists(PATTERNS.filter(bool), max_size=4))
    def test_the_ignores_of_a_release_match_as_a_gitignore_does(
        self, git: Any, paths: list[str], patterns: list[str]
    ) -> None:
        files = {path: "" for path in paths if not any(other.startswith(f"{path}/") for other in paths)}
        with tree_of({**files, ".gitignore": "\n".join(["", *patterns])}) as folder:
            expected = git(folder) - {".gitignore"}
            (folder / ".gitignore").unlink()
            ours = files_or_refusal(folder, ignores=patterns)
            assert ours == expected


class TestIncluding:
    """An include wins over every ignore, wherever either of them stands."""

    @pytest.mark.parametrize(
        ("files", "rules", "expected"),
        [
            ({".gitignore": "*.tmp"}, {}, {"keep.csv", "data/keep.csv"}),
            ({".gitignore": "*.tmp"}, {"includes": ["/drop.tmp"]}, {"keep.csv", "data/keep.csv", "drop.tmp"}),
            ({".gitignore": "*.tmp", ".rmeinclude": "*.tmp"}, {}, set(TREE)),
            (
                {".gitignore": "*.tmp", "data/.rmeinclude": "/drop.tmp"},
                {},
                set(TREE) - {"drop.tmp", "data/deep/drop.tmp"},
            ),
            ({"data/.gitignore": "*", ".rmeinclude": "data/deep/"}, {}, set(TREE) - {"data/keep.csv", "data/drop.tmp"}),
            ({}, {"ignores": ["*.tmp"]}, {"keep.csv", "data/keep.csv"}),
            ({}, {"ignores": ["data/"]}, {"keep.csv", "drop.tmp"}),
            (
                {},
                {"ignores": ["data/"], "includes": ["data/deep/drop.tmp"]},
                {"keep.csv", "drop.tmp", "data/deep/drop.tmp"},
            ),
            ({}, {"ignores": ["data"], "includes": ["data/keep.csv"]}, {"keep.csv", "drop.tmp", "data/keep.csv"}),
            ({}, {"ignores": ["*"], "includes": ["*.csv"]}, {"keep.csv", "data/keep.csv"}),
            ({}, {"ignores": ["*"], "includes": ["data/"]}, {path for path in TREE if path.startswith("data/")}),
            ({".rmeinclude": "*.tmp"}, {"ignores": ["*"]}, {path for path in TREE if path.endswith(".tmp")}),
            ({".rmeinclude": "*.tmp\n!/drop.tmp"}, {"ignores": ["*"]}, {"data/drop.tmp", "data/deep/drop.tmp"}),
            ({".gitignore": "*.tmp\n!/drop.tmp"}, {}, {"keep.csv", "data/keep.csv", "drop.tmp"}),
            ({".gitignore": "*.tmp\n!/drop.tmp"}, {"ignores": ["drop.tmp"]}, {"keep.csv", "data/keep.csv"}),
            ({".rmeinclude": "# a comment\n\n"}, {"ignores": ["*.tmp"]}, {"keep.csv", "data/keep.csv"}),
        ],
    )
    def test_examples(
        self, tmp_path: Path, files: dict[str, str], rules: dict[str, list[str]], expected: set[str]
    ) -> None:
        write(tmp_path, {**TREE, **files})
        assert found(tmp_path, **rules) == expected

    @pytest.mark.parametrize("elsewhere", ["", "nothing/of/this/kind\n"])
    def test_an_include_file_in_an_ignored_folder_counts(self, tmp_path: Path, elsewhere: str) -> None:
        """ ".rmeinclude in any folder", whether or not there is another one elsewhere."""
        write(tmp_path, {**TREE, ".gitignore": "data/\n", "data/.rmeinclude": "keep.csv\n"})
        if elsewhere:
            write(tmp_path, {".rmeinclude": elsewhere})
        assert found(tmp_path) == {"keep.csv", "drop.tmp", "data/keep.csv"}

    @settings(max_examples=60, deadline=None)
    @given(
        ignores=st.lists(PATTERNS.filter(bool), max_size=3),
        includes=st.lists(PATTERNS.filter(lambda p: p and not p.startswith("!")), max_size=2),
        paths=st.lists(PATHS, min_size=1, max_size=6),
    )
    def test_what_an_include_matches_is_published_whatever_is_ignored(
        self, git: Any, ignores: list[str], includes: list[str], paths: list[str]
    ) -> None:
        files = {path: "" for path in paths if not any(other.startswith(f"{path}/") for other in paths)}
        with tree_of(files) as folder:
            without = files_or_refusal(folder, ignores=ignores)
            published = files_or_refusal(folder, ignores=ignores, includes=includes)
            # What git would ignore by these patterns is what they match.
            write(folder, {".gitignore": "\n".join(["", *includes])})
            matched = set(files) - git(folder)
            assert "attern" in without or "attern" in published or published == without | matched


class TestTheCommandLine:
    """Rules from the release file and from options."""

    def published(self, workshop: Workshop, **options: Any) -> set[str]:
        outcome = workshop.publish(**options)
        assert outcome.code == 0, outcome.output
        (record,) = FileSystemArchive(workshop.archive).get_release_records("sample").values()
        names: set[str] = set()

        def visit(folder: dict[str, Any]) -> None:
            for name, node in folder.items():
                if not name.startswith("/"):
                    visit(node) if node["/item/"] == "Directory" else names.add(node["/path/"])

        visit(record["project"])
        return names - {"release.yml", *RULE_FILES}

    def test_rules_of_the_release_file(self, workshop: Workshop) -> None:
        rules = b'release: {ignores: ["*.tmp"], includes: ["data/drop.tmp"]}'
        workshop.project(files={**FILES, "release.yml": rules})
        assert self.published(workshop) == {"keep.csv", "data/keep.csv", "data/drop.tmp"}

    @pytest.mark.parametrize("ignores", ["*.csv,data/deep/", '["*.csv", "data/deep/"]'])
    def test_options_win(self, workshop: Workshop, ignores: str) -> None:
        rules = b'release: {ignores: ["*.tmp"]}'
        workshop.project(files={**FILES, "release.yml": rules})
        assert self.published(workshop, ignores=ignores) == {"drop.tmp", "data/drop.tmp"}

    def test_a_comma_in_a_name_is_possible(self, workshop: Workshop) -> None:
        workshop.project(files={**FILES, "a,b": b"", "a": b"", "b": b""})
        assert self.published(workshop, ignores='["a,b"]') == {*TREE, "a", "b"}


class TestTheMapping:
    """What the record says of a project."""

    def test_of_files_and_folders(self, tmp_path: Path) -> None:
        write(
            tmp_path, {"data/b.h5": "hdf", "data/c.HDF5": "x", "data/d.hdf5": "hdf5", "a.txt": "", "Größe µ/é 1": "ü"}
        )
        (tmp_path / "nothing" / "here").mkdir(parents=True)
        project = scan_project(tmp_path)
        digests = {path: sha1((tmp_path / path).read_bytes()) for path in project.files}
        mapping = project.mapping(digests)
        assert set(mapping) == {"data", "a.txt", "Größe µ", "nothing"}
        assert mapping["nothing"]["here"] == {"/path/": "nothing/here", "/attrs/": {}, "/item/": "Directory"}
        assert mapping["data"]["/path/"] == "data"
        assert mapping["data"]["/item/"] == "Directory"
        assert mapping["data"]["b.h5"] == {
            "/path/": "data/b.h5",
            "/attrs/": {},
            "/item/": "H5_File",
            "/file-type/": "misc",
            "/bytes/": 3,
            "/sha1/": sha1(b"hdf"),
        }
        assert mapping["data"]["d.hdf5"]["/item/"] == "H5_File"
        assert mapping["a.txt"]["/item/"] == "File"
        assert mapping["a.txt"]["/bytes/"] == 0
        assert mapping["Größe µ"]["é 1"]["/path/"] == "Größe µ/é 1"

    def test_of_an_empty_project(self, workshop: Workshop) -> None:
        workshop.project()
        assert scan_project(workshop.folder / "project").mapping({}) == {}
        assert workshop.publish().code == 0
        assert workshop.fetch().code == 0
        fetched = tree(workshop.folder / "fetched" / "sample-v0.1.0")
        assert set(fetched) == {".rme", ".rme/record.yml"}
        assert "Nothing to do" in workshop.publish().output
        assert "Nothing to do" in workshop.fetch().output

    def test_of_empty_folders_and_files_all_the_way(self, workshop: Workshop) -> None:
        project = workshop.project(files={"empty": b"", "data/also empty": b""})
        (project / "no" / "files").mkdir(parents=True)
        assert workshop.publish().code == 0
        assert not list(workshop.title_folder().glob("blobs/*/*"))
        assert workshop.fetch().code == 0
        fetched = workshop.folder / "fetched" / "sample-v0.1.0"
        assert {path: data for path, data in tree(fetched).items() if not path.startswith(".rme")} == tree(project)

    def test_a_folder_whose_files_are_all_ignored_is_still_a_folder(self, tmp_path: Path) -> None:
        write(tmp_path, TREE)
        assert scan_project(tmp_path, ignores=["*.tmp"]).folders == ["data", "data/deep"]
        assert scan_project(tmp_path, ignores=["data/"]).folders == []
        assert scan_project(tmp_path, ignores=["data/"], includes=["nothing"]).folders == []

    def test_identical_files_are_one_blob(self, workshop: Workshop) -> None:
        files = {f"{folder}/{name}": b"the same" for folder in ("a", "b", "c") for name in ("x", "y")}
        workshop.project(files={**files, "other": b"another"})
        output = workshop.publish().output
        assert "2 blobs" in output
        assert "2 moved" in output
        assert {path.name for path in workshop.title_folder().glob("blobs/*/*")} == {
            sha1(b"the same"),
            sha1(b"another"),
        }
        assert workshop.fetch().code == 0
        fetched = tree(workshop.folder / "fetched" / "sample-v0.1.0")
        assert {path: data for path, data in fetched.items() if data and not path.startswith(".rme")} == {
            **files,
            "other": b"another",
        }

    def test_does_not_depend_on_the_order_of_the_disk(self, tmp_path: Path) -> None:
        first = write(tmp_path / "1", TREE)
        second = write(tmp_path / "2", dict(reversed(TREE.items())))

        def names(project: Project) -> list[str]:
            return list(project.files)

        assert names(scan_project(first)) == names(scan_project(second)) == sorted(TREE)

    def test_of_the_example_project(self) -> None:
        project = scan_project(EXAMPLE)
        on_disk = {path.relative_to(EXAMPLE).as_posix() for path in EXAMPLE.rglob("*") if path.is_file()}
        assert set(project.files) == on_disk
        assert all(project.files[path].size == (EXAMPLE / path).stat().st_size for path in on_disk)

    @pytest.mark.parametrize("kind", ["nothing", "file"])
    def test_there_is_none_without_a_folder(self, tmp_path: Path, kind: str) -> None:
        write(tmp_path, {"file": ""})
        with pytest.raises(ProjectError, match=kind):
            scan_project(tmp_path / kind)

    def test_folders_that_are_nested_very_deeply_are_refused_in_a_sentence(self, tmp_path: Path) -> None:
        paths = [os.path.join(tmp_path, "d/" * depth) for depth in range(1, 1500)]
        try:
            for path in paths:
                os.mkdir(path)
            with pytest.raises(ProjectError, match="nested too deeply") as caught:
                scan_project(tmp_path)
            assert len(str(caught.value)) < 1000
        finally:
            for path in reversed(paths):  # shutil.rmtree would not get so deep either
                os.rmdir(path)
