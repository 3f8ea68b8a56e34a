"""A process that has loaded what the tests need, and forks another one for each run of them.

So a run costs no start of Python, of pytest and of the libraries. What is under test is not loaded before the fork.
"""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_LIBRARIES = (
    "concurrent.futures.thread",
    "hypothesis.internal.conjecture.engine",
    "hypothesis.strategies",
    "keyring.backends.null",
    "luigi.cmdline",
    "platformdirs",
    "pytest",
    "requests",
    "semantic_version",
    "sqlite3",
    "tqdm",
    "yaml",
)
_MEMORY_BYTES, _FILE_BYTES = 2**32, 2**30


class Zygote:
    """Runs tests in a folder with the project; a context manager.

    Parameters
    ----------
    folder : Path
        Where the project is.
    """

    def __init__(self, folder: Path) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.attacks.zygote"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder)},
            stdin=pipe,
            stdout=pipe,
            text=True,
        )

    def run(self, arguments: Sequence[str], seconds: float) -> int | None:
        """Run pytest and return its exit code; None when it was stopped because the time was up."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([arguments, seconds]), file=self._process.stdin, flush=True)
        code: int | None = json.loads(self._process.stdout.readline())
        return code

    def __enter__(self) -> "Zygote":
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.communicate()


def _serve() -> None:
    for library in _LIBRARIES:
        importlib.import_module(library)
    for line in sys.stdin:
        arguments, seconds = json.loads(line)
        child = os.fork()
        if not child:
            _run(arguments)
        print(json.dumps(_wait(child, time.monotonic() + seconds)), flush=True)


def _run(arguments: list[str]) -> None:
    import resource

    code = 1
    try:
        os.setsid()
        # A fault may make a loop endless that takes memory or fills a file.
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES, _FILE_BYTES))
        nothing = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(nothing, fd)
        # Libraries with a plugin for pytest are loaded before it, which it would tell.
        code = int(importlib.import_module("pytest").main([*arguments, "-W", "ignore:Module already imported"]))
    finally:
        os._exit(code)


def _wait(child: int, end: float) -> int | None:
    code = None
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            break
        time.sleep(0.01)  # between two looks at the child
    # Also what the tests had started.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if code is None:
        os.waitpid(child, 0)
    return code


if __name__ == "__main__":
    _serve()
