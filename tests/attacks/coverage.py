"""Which branches of the code no test takes: ``python -m tests.attacks.coverage``.

It runs the tests one file after the other under coverage.py (``pip install '.[dev]'``), also in the processes that
they start and fork, and tells every branch that none of them took. What :data:`EXPLAINED` says why is left out; while
anything else is left, the exit code is 1. All of it takes a good deal longer than the tests alone. Files of tests may
be named instead, and with ``--add`` what was measured before counts too, so that it can be done in parts. What a
process had measured when it was killed with SIGKILL is lost.
"""

import argparse
import ast
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.environments import cache_folder
from tests.support import ROOT

_CONFIGURATION = """
[run]
branch = true
parallel = true
source = {source}
data_file = {folder}/data
patch = subprocess, _exit
disable_warnings = no-data-collected, module-not-measured, module-not-imported
[report]
exclude_also =
    if sys\\.platform == "(win32|darwin)"
    if TYPE_CHECKING
    raise NotImplementedError
"""


class Gap(NamedTuple):
    """A branch that no test takes, or a line that it would lead to."""

    file: str
    line: int
    target: int | None
    text: str

    def __str__(self) -> str:
        where = "" if self.target is None else f" -> {'the end' if self.target < 0 else self.target}"
        return f"{self.file}:{self.line}{where}: {self.text}"


class Explained(NamedTuple):
    """A statement that no test need reach, with all that is inside it, and why."""

    file: str
    function: str
    text: str
    why: str


EXPLAINED = (
    Explained(
        "folders.py",
        "most_open_files",
        "except ImportError:  # Windows",
        "Windows has no such limit.",
    ),
    Explained(
        "checksums.py",
        "HashCache._discard",
        "if self._file is not None:",
        "Only a cache that has a file finds something wrong with it, which a type checker does not see.",
    ),
)


def explained_lines(file: str) -> set[int]:
    """Return the lines of a file of the package that :data:`EXPLAINED` tells of.

    Raises
    ------
    ValueError
        When it tells of a statement that is not there any more.
    """
    text = (ROOT / "pipeline" / file).read_text(encoding="utf-8")
    lines = text.splitlines()
    statements = list(_statements(ast.parse(text), ""))
    found: set[int] = set()
    for explained in (entry for entry in EXPLAINED if entry.file == file):
        places = [
            range(node.lineno, (node.end_lineno or node.lineno) + 1)
            for function, node in statements
            if function == explained.function and lines[node.lineno - 1].strip() == explained.text
        ]
        if not places:
            raise ValueError(f"{file} has no '{explained.text}' in {explained.function} any more; see EXPLAINED.")
        found.update(itertools.chain.from_iterable(places))
    return found


def _statements(node: ast.AST, function: str) -> Iterator[tuple[str, ast.stmt | ast.ExceptHandler]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.stmt, ast.ExceptHandler)):
            yield function, child
        inside = isinstance(child, (ast.FunctionDef, ast.ClassDef))
        yield from _statements(child, f"{function}.{child.name}".lstrip(".") if inside else function)


def measure(tests: Iterable[Path], folder: Path) -> list[Path]:
    """Run files of tests under coverage, each for itself, and return those that failed."""
    folder.mkdir(parents=True, exist_ok=True)
    configuration = folder / "coveragerc"
    configuration.write_text(_CONFIGURATION.format(source=ROOT / "pipeline", folder=folder))
    failed = []
    for file in tests:
        command = [
            sys.executable,
            "-m",
            "coverage",
            "run",
            f"--rcfile={configuration}",
            "-m",
            "pytest",
            "-n",
            "0",
            "-q",
        ]
        done = subprocess.run([*command, file], cwd=ROOT, capture_output=True, text=True, check=False)
        print(f"{file.relative_to(ROOT)}: {(done.stdout.strip().splitlines() or [done.stderr])[-1]}", flush=True)
        if done.returncode:
            print("\n".join(line for line in done.stdout.splitlines() if line.startswith("FAILED")), flush=True)
            failed.append(file)
    return failed


def gaps(folder: Path) -> tuple[list[Gap], int]:
    """Return the branches and lines that nothing took of what was measured, and how many branches there are."""
    coverage = [sys.executable, "-m", "coverage"]
    configuration = f"--rcfile={folder / 'coveragerc'}"
    subprocess.run([*coverage, "combine", "--append", "--quiet", configuration], cwd=ROOT, check=False)
    report = folder / "report.json"
    subprocess.run([*coverage, "json", "--quiet", configuration, "-o", report], cwd=ROOT, check=True)
    found: list[Gap] = []
    measured = json.loads(report.read_bytes())
    for name, file in sorted(measured["files"].items()):
        path = Path(name).resolve().relative_to(ROOT / "pipeline").as_posix()
        lines = (ROOT / "pipeline" / path).read_text(encoding="utf-8").splitlines()
        missed = set(file["missing_lines"])
        branches = [(line, target) for line, target in file["missing_branches"] if line not in missed]
        told = {target for _, target in branches}
        found += (Gap(path, line, target, lines[line - 1].strip()) for line, target in branches)
        # What follows a line that was missed is missed with it.
        before = itertools.pairwise([0, *sorted(missed | set(file["executed_lines"]))])
        first = [line for last, line in before if line in missed and last not in missed and line not in told]
        found += (Gap(path, line, None, lines[line - 1].strip()) for line in first)
    return found, int(measured["totals"]["num_branches"])


def main() -> None:
    """Print what no test takes."""
    parser = argparse.ArgumentParser(prog="python -m tests.attacks.coverage", description=__doc__.splitlines()[0])
    parser.add_argument("tests", nargs="*", type=Path, help="files of tests; all by default")
    parser.add_argument("--add", action="store_true", help="count what was measured before, too")
    options = parser.parse_args()
    folder = cache_folder() / "coverage"
    if not options.add:
        shutil.rmtree(folder, ignore_errors=True)
    everything = [*sorted((ROOT / "tests").rglob("test_*.py")), ROOT / "pipeline"]
    failed = measure([test.resolve() for test in options.tests] or everything, folder)
    found, branches = gaps(folder)
    explained = {file: explained_lines(file) for file in {gap.file for gap in found}}
    left = [gap for gap in found if not {gap.line, gap.target} & explained[gap.file]]
    print(*left, sep="\n")
    print(
        f"{branches} branches; of {len(found)} branches and lines that no test took, {len(found) - len(left)} are "
        f"explained and {len(left)} are not. Files with tests that failed: {len(failed)}."
    )
    sys.exit(bool(left))


if __name__ == "__main__":
    main()
