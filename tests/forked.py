"""Luigi runs without the start of Python, and with trouble."""

import contextlib
import gc
import logging
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from typing import IO

import keyring.core
import luigi.cmdline
from luigi.configuration.cfg_parser import LuigiConfigParser
from luigi.setup_logging import InterfaceLogging

import pipeline.archives
import pipeline.credentials
from tests.support import Outcome, Workshop


class ForkedRun:
    """A run that was forked, and what it writes.

    Attributes
    ----------
    pid : int
        Of the process, and of its group.
    """

    def __init__(self, pid: int, output: IO[bytes], life: int) -> None:
        self.pid = pid
        self._output = output
        self._life = life

    def signal(self, how: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, how)

    def said(self) -> str:
        """Return what it has written until now."""
        return os.pread(self._output.fileno(), 2**24, 0).decode("utf-8", "replace")

    def ends(self) -> Outcome:
        """Return how it ended, when it and all processes that it left have ended."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        with self._output, open(self._life, "rb") as life:
            life.read()
            return Outcome(code, self.said())

    def close(self) -> None:
        """End it, unless it has ended and that was told."""
        if not self._output.closed:
            self.signal(signal.SIGKILL)
            self.ends()


class ForkedWorkshop(Workshop):
    """A workshop whose luigi processes are forked from this one: the same command line, without the start of Python."""

    def run(self, task: str, **options: object) -> Outcome:
        """Run a task to its end."""
        return self.run_with("", task, **options)

    def run_with(self, trouble: "str | Callable[[], object]", task: str, **options: object) -> Outcome:
        """Run a task in a process in which `trouble`, some Python, is executed first."""
        return self.begin(trouble, task, **options).ends()

    def begin(self, trouble: "str | Callable[[], object]", task: str, **options: object) -> ForkedRun:
        """Start a task in a process of its own, which leads a group of processes."""
        arguments = self.command(task, **options)[3:]
        output = tempfile.TemporaryFile()  # noqa: SIM115
        life, death = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads, which all wait
            child = os.fork()
        if not child:
            try:
                os.setpgid(0, 0)
                os.set_inheritable(death, True)
                code = self._become_luigi(arguments, trouble, output.fileno())
            except BaseException:
                traceback.print_exc()
                code = 120
            finally:
                with contextlib.suppress(OSError):
                    sys.stderr.flush()
                os._exit(code)
        os.close(death)
        with contextlib.suppress(OSError):  # whoever of the two is first
            os.setpgid(child, child)
        return ForkedRun(child, output, life)

    def _become_luigi(self, arguments: list[str], trouble: "str | Callable[[], object]", output: int) -> int:
        signal.alarm(120)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        gc.disable()
        # Luigi sets up its logging once in a process, and another test may have run a task in this one.
        for name in (None, "luigi", "luigi-interface", "luigi.scheduler", "pipeline"):
            logging.getLogger(name).handlers.clear()
        InterfaceLogging._configured = False
        os.environ.clear()
        os.environ.update(self.environment)
        os.chdir(self.folder)
        LuigiConfigParser._instance = None
        if "LUIGI_CONFIG_PATH" in self.environment:
            LuigiConfigParser._config_paths = [*LuigiConfigParser._config_paths, self.environment["LUIGI_CONFIG_PATH"]]
        keyring.core._keyring_backend = None
        # It is a process of its own, which has not talked to the sites of other tests.
        pipeline.credentials._hosts.clear()
        pipeline.credentials._only_host.clear()
        pipeline.archives._sites.clear()
        if callable(trouble):
            trouble()
        elif trouble:
            exec(trouble, {"pipeline": pipeline})
        try:
            luigi.cmdline.luigi_run(arguments)
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        return 0
