"""Whether the tests notice when the code is wrong: ``python -m tests.attacks.mutants``.

Each mutant is the code with one small fault: a comparison, ``and`` and ``or`` or an arithmetical sign is another one, a
condition is negated, a number is larger, a call, an assignment to an attribute, a ``raise`` or what is returned is
left out. The tests that :data:`NOTICED_BY` names run against it in a copy of the project and must fail. Those that
nobody can tell from the code itself are listed in ``equivalent.py``, with why.

Left alone is what has no influence on what is kept: messages, logs, annotations, code for other systems, powers of two,
how many threads there are.
mutmut and cosmic-ray leave out no statement, and a sync or a check that is left out is what has to be noticed here.
"""

import argparse
import ast
import itertools
import os
import random
import re
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.attacks.equivalent import EQUIVALENT
from tests.attacks.zygote import Zygote
from tests.support import ROOT

_FOLDER = ("tests/integration/test_every_archive.py", "-k", "folder")
_SITE = ("tests/integration/test_every_archive.py", "-k", "site")
# What runs against a mutant of a module, the quickest first: the first failure ends it.
NOTICED_BY: dict[str, tuple[tuple[str, ...], ...]] = {
    "versions.py": (("tests/unit/test_versions.py",),),
    "checksums.py": (("tests/unit/test_checksums.py",),),
    "manifest.py": (("tests/unit/test_manifest.py",),),
    "release.py": (("tests/unit/test_release.py",),),
    "locks.py": (("tests/unit/test_locks.py",),),
    "durable.py": (("tests/unit/test_durable.py",),),
    "folders.py": (
        ("tests/unit/test_folders.py", "tests/unit/test_durable.py", "tests/unit/test_transfer.py"),
        ("tests/attacks/test_hostile_archives.py",),
    ),
    "workers.py": (("tests/unit/test_workers.py",), ("tests/unit/test_transfer_groups.py",)),
    "transfer.py": (
        ("tests/unit/test_transfer.py", "tests/unit/test_transfer_groups.py"),
        ("tests/integration/test_resume.py", "-k", "test_of_a"),
    ),
    "destination.py": (("tests/unit/test_destination.py",),),
    "archives/filesystem.py": (
        ("tests/unit/test_filesystem.py", "tests/unit/test_filesystem_audit.py"),
        ("tests/integration/test_interface.py",),
        _FOLDER,
    ),
    "archives/filesystem_audit.py": (
        ("tests/unit/test_filesystem.py", "tests/unit/test_filesystem_audit.py"),
        ("tests/integration/test_audit.py",),
    ),
    "archives/cdcs/downloads.py": (("tests/unit/test_cdcs_uploads.py",), ("tests/test_cdcs_client.py",)),
    "archives/cdcs/uploads.py": (("tests/unit/test_cdcs_uploads.py",), _SITE),
    "archives/cdcs/archive.py": (("tests/unit/test_cdcs_archive.py",), _SITE),
}
_COPIED = ("pipeline", "tests", "configs", "pyproject.toml", "luigi.cfg", "README.md", "CHANGELOG.md", "LICENSE")
_COMPARISONS = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
_ARITHMETIC = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "//"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.BitOr: ("|", "&"),
    ast.BitAnd: ("&", "|"),
}


class Mutant(NamedTuple):
    """A module of the package with one small fault.

    Attributes
    ----------
    module : str
        Its file, relative to the package.
    line : int
        Where the fault is.
    before, after : str
        The first line of the code that is another one, without and with the fault.
    source : bytes
        The module with the fault.
    number : int
        Which of the faults of this module with the same `before` and `after` it is.
    """

    module: str
    line: int
    before: str
    after: str
    source: bytes
    number: int = 1

    def __str__(self) -> str:
        return f"{self.module}:{self.line}: {self.before}   ->   {self.after}"

    @property
    def is_equivalent(self) -> bool:
        """Whether it is known that nobody can tell it from the code itself."""
        return (self.module, self.before, self.after, self.number) in EQUIVALENT


class _Mutations(ast.NodeVisitor):
    """Collects the places of a module that can be faulty, and what stands there then."""

    def __init__(self, source: bytes) -> None:
        self.found: list[tuple[int, int, bytes]] = []
        self._source = source
        self._lines = [0, *itertools.accumulate(map(len, source.splitlines(keepends=True)))]
        self.visit(ast.parse(source))

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._lines[node.lineno - 1] + node.col_offset, self._lines[node.end_lineno - 1] + node.end_col_offset

    def _replace(self, node: ast.expr | ast.stmt, new: str) -> None:
        self.found.append((*self._span(node), new.encode()))

    def _swap_between(self, left: ast.expr, right: ast.expr, signs: tuple[str, str]) -> None:
        start, end = self._span(left)[1], self._span(right)[0]
        old, new = (sign.encode() for sign in signs)
        pattern = re.escape(old).replace(rb"\ ", rb"\s+")
        match = re.search(rb"\b" + pattern + rb"\b" if old.isalpha() else pattern, self._source[start:end])
        assert match is not None
        self.found.append((start + match.start(), start + match.end(), new))

    def _negate(self, condition: ast.expr) -> None:
        start, end = self._span(condition)
        if isinstance(condition, ast.UnaryOp) and isinstance(condition.op, ast.Not):
            self._replace(condition, self._source[slice(*self._span(condition.operand))].decode())
        elif not isinstance(condition, (ast.Constant, ast.BoolOp)):
            self.found.append((start, end, b"(not (" + self._source[start:end] + b"))"))

    # --- what stays as it is --------------------------------------------------------------------------------------

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Leave texts alone."""

    def visit_arg(self, node: ast.arg) -> None:
        """Leave annotations alone."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """Leave annotations alone."""
        if node.value is not None and ast.unparse(node.annotation) != "TypeAlias":
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Leave annotations and decorators alone."""
        given = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
        keyword_only = [default for argument, default in given if default is not None and argument.arg != "threads"]
        for part in (*node.args.defaults, *keyword_only, *node.body):
            self.visit(part)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """Leave decorators alone."""
        for part in node.body:
            self.visit(part)

    # --- expressions ----------------------------------------------------------------------------------------------

    def visit_Compare(self, node: ast.Compare) -> None:
        """Compare otherwise."""
        for left, operator, right in zip((node.left, *node.comparators), node.ops, node.comparators, strict=False):
            self._swap_between(left, right, _COMPARISONS[type(operator)])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """Swap ``and`` and ``or``."""
        for left, right in itertools.pairwise(node.values):
            self._swap_between(left, right, ("and", "or") if isinstance(node.op, ast.And) else ("or", "and"))
        for value in node.values:
            if not isinstance(value, ast.Compare):
                self._negate(value)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        """Calculate otherwise."""
        if isinstance(node.op, ast.Pow):
            return
        if type(node.op) in _ARITHMETIC and not (_is_text(node.left) or _is_text(node.right)):
            self._swap_between(node.left, node.right, _ARITHMETIC[type(node.op)])
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """Take another number."""
        if isinstance(node.value, bool):
            self._replace(node, str(not node.value))
        elif isinstance(node.value, (int, float)):
            self._replace(node, str(node.value + 1 if node.value < 100 else 2 * node.value))

    def visit_Call(self, node: ast.Call) -> None:
        """Leave alone what is only asked for on other systems."""
        if not (isinstance(node.func, ast.Name) and node.func.id == "getattr" and len(node.args) == 3):
            self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        """Leave alone how many threads there are, and how patient they are."""
        if node.arg not in ("threads", "timeout", "usedforsecurity"):
            self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        """Negate the condition."""
        self._negate_unless_compared(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        """Negate the conditions."""
        for condition in node.ifs:
            self._negate_unless_compared(condition)
        self.generic_visit(node)

    def _negate_unless_compared(self, condition: ast.expr) -> None:
        equality = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot, ast.In, ast.NotIn)
        if not (isinstance(condition, ast.Compare) and isinstance(condition.ops[0], equality)):
            self._negate(condition)

    # --- statements -----------------------------------------------------------------------------------------------

    def visit_If(self, node: ast.If) -> None:
        """Negate the condition."""
        text = ast.unparse(node.test)
        if "sys.platform" in text or "TYPE_CHECKING" in text:
            for statement in node.orelse:
                self.visit(statement)
            return
        self._negate_unless_compared(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        """Negate the condition."""
        self._negate_unless_compared(node.test)
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        """Leave out a call."""
        if isinstance(node.value, ast.Call):
            if re.match(r"log\.|print\(", ast.unparse(node.value)):
                return
            self._replace(node, "pass")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        """Leave out an assignment, unless it would only be a name that is not known."""
        if isinstance(node.targets[0], (ast.Attribute, ast.Subscript)):
            self._replace(node, "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """Leave it out."""
        self._replace(node, "pass")
        self.generic_visit(node)

    def visit_Delete(self, node: ast.Delete) -> None:
        """Leave it out."""
        self._replace(node, "pass")

    def visit_Continue(self, node: ast.Continue) -> None:
        """Leave it out."""
        self._replace(node, "pass")

    def visit_Break(self, node: ast.Break) -> None:
        """Leave it out."""
        self._replace(node, "pass")

    def visit_Raise(self, node: ast.Raise) -> None:
        """Leave it out; what it says stays."""
        self._replace(node, "pass")

    def visit_Return(self, node: ast.Return) -> None:
        """Return nothing."""
        if node.value is not None and not (isinstance(node.value, ast.Constant) and node.value.value in (None, False)):
            self._replace(node, "return None")
        self.generic_visit(node)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)))


def mutants_of(module: str) -> list[Mutant]:
    """Return all mutants of a module, in the order of their lines."""
    source = (ROOT / "pipeline" / module).read_bytes()
    found = []
    alike: Counter[tuple[str, str]] = Counter()
    for start, end, new in sorted(set(_Mutations(source).found)):
        faulty = source[:start] + new + source[end:]
        line = source.count(b"\n", 0, start)
        before, after = (text.splitlines()[line].strip().decode() for text in (source, faulty))
        alike[before, after] += 1
        found.append(Mutant(module, line + 1, before, after, faulty, alike[before, after]))
    return found


class Bench:
    """A copy of the project in which mutants are tried; a context manager.

    Parameters
    ----------
    folder : Path
        Gets the copy.
    patience : dict, optional
        For how many seconds tests may run; benches that share it find that out once.
    """

    def __init__(self, folder: Path, patience: dict[tuple[str, ...], float] | None = None) -> None:
        self._copy = folder / "copy"
        self._temporary = folder / "temporary"
        self._seconds = {} if patience is None else patience
        self._edits = itertools.count(1)
        self._copy.mkdir(parents=True)
        for name in _COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
            copy(ROOT / name, self._copy / name)
        self._zygote = Zygote(self._copy)

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *exc: object) -> None:
        self._zygote.__exit__()

    def notices(self, mutant: Mutant) -> str:
        """Return how the tests notice a mutant: ``killed``, ``stopped`` (by time) or ``survived``."""
        file = self._copy / "pipeline" / mutant.module
        original = file.read_bytes()
        for tests in NOTICED_BY[mutant.module]:
            seconds = self._patience(tests)
            try:
                self._write(file, mutant.source)
                code = self._run(tests, seconds)
            finally:
                self._write(file, original)
            if code != 0:
                return "stopped" if code is None else "killed"
        return "survived"

    def _write(self, file: Path, source: bytes) -> None:
        file.write_bytes(source)
        # Python takes a compiled file for the right one when time, in seconds, and size are.
        edited = time.time() - 10**6 + 10 * next(self._edits)
        os.utime(file, (edited, edited))

    def _patience(self, tests: tuple[str, ...]) -> float:
        """Return for how many seconds tests may run with a fault: some more than without, when they must pass."""
        if tests not in self._seconds:
            began = time.monotonic()
            assert self._run(tests, 1000) == 0, f"{' '.join(tests)} fails without a fault."
            self._seconds[tests] = 10 + 3 * (time.monotonic() - began)
        return self._seconds[tests]

    def _run(self, tests: tuple[str, ...], seconds: float) -> int | None:
        options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--hypothesis-profile", "hasty"]
        return self._zygote.run([*options, "--basetemp", str(self._temporary), *tests], seconds)


def try_all(mutants: Iterable[Mutant], benches: int, folder: Path, end: float) -> Iterator[tuple[Mutant, str]]:
    """Yield mutants and how they were noticed, several at the same time, until the time is up."""
    waiting = iter(mutants)
    guard = threading.Lock()
    results: list[tuple[Mutant, str]] = []
    changed = threading.Condition(guard)
    patience: dict[tuple[str, ...], float] = {}

    def work(number: int) -> None:
        with Bench(folder / str(number), patience) as bench:
            while time.monotonic() < end:
                with guard:
                    mutant = next(waiting, None)
                if mutant is None:
                    return
                result = "equivalent" if mutant.is_equivalent else bench.notices(mutant)
                with changed:
                    results.append((mutant, result))
                    changed.notify()

    with ThreadPoolExecutor(benches) as pool:
        futures = [pool.submit(work, number) for number in range(benches)]
        while results or not all(future.done() for future in futures):
            with changed:
                if not results:
                    changed.wait(0.2)
                found, results[:] = list(results), []
            yield from found
        for future in futures:
            future.result()


def sample(modules: Sequence[str], seed: int) -> list[Mutant]:
    """Return all mutants of modules in a random order, so that of each module the same share comes early."""
    chooser = random.Random(seed)
    placed = []
    for module in modules:
        found = mutants_of(module)
        chooser.shuffle(found)
        placed += [(place / len(found), mutant) for place, mutant in enumerate(found)]
    return [mutant for _, mutant in sorted(placed, key=lambda pair: pair[0])]


def main() -> None:
    """Print which mutants survive."""
    parser = argparse.ArgumentParser(prog="python -m tests.attacks.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("--modules", nargs="+", choices=NOTICED_BY, default=list(NOTICED_BY), help="which modules")
    parser.add_argument("--seconds", type=float, default=600, help="for how long (default: 600)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="repeats the order of the mutants")
    options = parser.parse_args()
    chosen = sample(options.modules, options.seed)
    results: dict[str, Counter[str]] = {module: Counter() for module in options.modules}
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        end = time.monotonic() + options.seconds
        for mutant, result in try_all(chosen, os.cpu_count() or 1, Path(folder), end):
            results[mutant.module][result] += 1
            if result == "survived":
                print(f"survived: {mutant}", flush=True)
    for module, counts in results.items():
        told = ", ".join(f"{counts[result]} {result}" for result in ("killed", "stopped", "equivalent", "survived"))
        print(f"{module}: {sum(counts.values())} of {sum(mutant.module == module for mutant in chosen)} tried: {told}")
    survived = sum(counts["survived"] for counts in results.values())
    tried = sum(counts.total() for counts in results.values())
    print(f"All: {tried} of {len(chosen)} tried, {survived} survived; --seed {options.seed} repeats the order.")
    sys.exit(bool(survived))


if __name__ == "__main__":
    main()
