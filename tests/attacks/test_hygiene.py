"""What is installed, what is used and what is created harms nobody: dependencies, dangerous calls, modes of files."""

import ast
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.attacks.dependencies import declared, environment, lowest, story
from tests.environments import python_with
from tests.forked import ForkedWorkshop
from tests.support import ROOT, Workshop

IMPORTED_AS = {"pyyaml": "yaml", "semantic-version": "semantic_version"}

# --- dependencies -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("requirement", declared("build", "", "metrics", "test", "dev"), ids=str)
def test_every_dependency_has_a_lowest_version_and_one_that_is_too_new(requirement: Requirement) -> None:
    bounds = {specifier.operator: Version(specifier.version) for specifier in requirement.specifier}
    assert set(bounds) == {">=", "<"}
    assert bounds[">="] < bounds["<"]
    assert requirement.url is None


def test_everything_that_is_imported_is_declared_and_the_other_way_round() -> None:
    imported = {name.split(".")[0] for file in ROOT.glob("pipeline/**/*.py") for name in imports_of(file)}
    names = {IMPORTED_AS.get(requirement.name.lower(), requirement.name.lower()) for requirement in declared("")}
    assert imported - set(sys.stdlib_module_names) == names


def imports_of(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def test_a_release_is_published_fetched_mirrored_and_audited_with_the_lowest_versions(workshop: Workshop) -> None:
    story(environment(sys.executable, [*lowest(""), *lowest("metrics")]), workshop)


# --- what is used -----------------------------------------------------------------------------------------------------

# What must be found, and the rule of ruff that finds it.
DANGEROUS = {
    "import pickle": "TID251",
    "from marshal import loads": "TID251",
    "import shelve": "TID251",
    "import cloudpickle\nx = cloudpickle.loads(b'')\nimport dill\nx = dill.loads(b'')": "S301",
    "x = eval(input())": "S307",
    "exec(input())": "S102",
    "import os\nos.system(input())": "S605",
    "import subprocess\nsubprocess.run(input(), shell=True, check=True)": "S602",
    "import yaml\nx = yaml.load(input(), Loader=yaml.Loader)": "S506",
    "import tempfile\nx = tempfile.mktemp()": "S306",
    "x = open('/tmp/x')": "S108",
    "import os\nos.chmod('x', 0o777)": "S103",
    "import requests\nx = requests.get('https://x', timeout=1, verify=False)": "S501",
    "import requests\nx = requests.get('https://x')": "S113",
    "import ssl\nx = ssl._create_unverified_context()": "S323",
    "import hashlib\nx = hashlib.sha1(b'')": "S324",
    "import random\nx = random.random()": "S311",
    "from urllib.request import urlopen\nx = urlopen(input())": "S310",
    "assert input()": "S101",
}
# Where the code may do what a rule finds; the line says why.
EXCEPTIONS = {
    "pipeline/archives/cdcs/http.py": ["S311"],
    "pipeline/documents.py": ["S506", "S506"],
}


def ruff(*arguments: str) -> str:
    """Return what the lowest version of ruff that is allowed finds, with the settings of the project."""
    (requirement,) = lowest("dev", "ruff")
    command = [python_with(requirement), "-m", "ruff", "check", "--no-cache", "--output-format=concise", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def test_no_dangerous_call_gets_past_the_linter(tmp_path: Path) -> None:
    for number, code in enumerate(DANGEROUS):
        (tmp_path / f"{number}.py").write_text(code + "\n")
    found = ruff(f"--config={ROOT / 'pyproject.toml'}", str(tmp_path))
    for number, rule in enumerate(DANGEROUS.values()):
        assert re.search(rf"^\S*\b{number}\.py:\d+:\d+: {rule} ", found, re.MULTILINE), list(DANGEROUS)[number]


def test_the_linter_was_told_to_look_away_nowhere_else() -> None:
    found = re.findall(r"^(\S+?):\d+:\d+: (S\d+|TID251) ", ruff("--ignore-noqa", "--select=S,TID251", "pipeline"), re.M)
    excepted: dict[str, list[str]] = {}
    for file, rule in found:
        excepted.setdefault(file.replace(os.sep, "/"), []).append(rule)
    assert excepted == EXCEPTIONS


# --- what is created --------------------------------------------------------------------------------------------------

CACHE = "cache"
SHARED = ("archive", "mirror", "fetched", "damaged", "reports")


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002], ids="umask {:03o}".format)
def test_what_is_created_respects_the_umask_and_what_names_unpublished_data_is_private(
    tmp_path: Path, umask: int
) -> None:
    shop = ForkedWorkshop(tmp_path)
    project = shop.project(files={"a.csv": b"1,2\n", "data/b.csv": b"3,4\n", "empty": b"", "tool": b"#!/bin/sh\n"})
    (project / "tool").chmod(0o6755)

    def run(task: str, code: int = 0, **options: object) -> None:
        done = shop.run_with(f"import os; os.umask({umask})", task, report_directory="reports", **options)
        assert done.code == code, done.output

    release: dict[str, object] = {"title": "sample", "archive": "archive"}
    run("PublishRelease", project_directory="project", release_version="1.0.0", create_archive=True, **release)
    shop.run_with(f"import os; os.umask({umask})", "CreateArchive", archive="mirror")
    run("MirrorArchive", source="archive", destination="mirror")
    run("FetchRelease", destination="fetched", with_requirements=True, **release)
    for blob in tmp_path.glob("mirror/*/*/blobs/*/*"):
        blob.write_bytes(blob.read_bytes()[::-1])
    run("FetchRelease", 30, destination="damaged", title="sample", archive="mirror")
    assert list(tmp_path.glob("damaged/*/.rme/.partial/*"))
    assert list(tmp_path.glob("cache/manifests/*"))
    run("AuditArchive", 30, archive="mirror")
    run("AuditArchive", archive="mirror", repair_from="archive")
    for path in sorted(tmp_path.rglob("*")):
        top, mode = path.relative_to(tmp_path).parts[0], stat.S_IMODE(path.lstat().st_mode)
        if top in (CACHE, *SHARED):
            allowed = 0o700 if top == CACHE else 0o777
            allowed &= ~umask if path.is_dir() else ~umask & 0o666
            assert (path, oct(mode)) == (path, oct(allowed))


@pytest.mark.parametrize("mode", [0o6755, 0o777, 0o1666], ids=oct)
def test_a_part_that_lay_there_gives_a_fetched_file_no_rights(tmp_path: Path, mode: int) -> None:
    shop = ForkedWorkshop(tmp_path)
    shop.project(files={"tool": b"#!/bin/sh\n" * 10})
    assert shop.publish(archive="archive").code == 0
    blob = shop.blob_file(b"#!/bin/sh\n" * 10)
    part = tmp_path / "fetched" / "sample-v0.1.0" / ".rme" / ".partial" / f"{blob.name}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(blob.read_bytes()[:15])
    part.chmod(mode)
    assert shop.fetch(archive="archive", destination="fetched").code == 0
    fetched = part.parents[2] / "tool"
    assert fetched.read_bytes() == blob.read_bytes()
    assert stat.S_IMODE(fetched.stat().st_mode) & ~0o666 == 0


def test_a_cache_folder_that_is_there_keeps_its_mode_and_what_is_put_into_it_is_private(tmp_path: Path) -> None:
    shop = ForkedWorkshop(tmp_path)
    (tmp_path / CACHE).mkdir()
    (tmp_path / CACHE).chmod(0o755)
    shop.project(files={"a.csv": b"1,2\n"})
    os.utime(tmp_path / "project" / "a.csv", (10**9, 10**9))
    assert shop.run_with("import os; os.umask(0)", "PublishRelease", **_published()).code == 0
    assert stat.S_IMODE((tmp_path / CACHE).stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / CACHE / "digests-2.sqlite3").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / CACHE / "manifests").stat().st_mode) == 0o700


def _published() -> dict[str, object]:
    release = {"project_directory": "project", "title": "sample", "release_version": "1.0.0"}
    return {**release, "archive": "archive", "create_archive": True}
