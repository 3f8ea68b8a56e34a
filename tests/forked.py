"""Luigi runs without the start of Python, and with trouble."""

import contextlib
import gc
import logging
import os
import signal
import sys
import traceback
import warnings

import keyring.core
import luigi.cmdline
from luigi.configuration.cfg_parser import LuigiConfigParser
from luigi.setup_logging import InterfaceLogging

import pipeline.archives
import pipeline.credentials
from tests.support import Outcome, Workshop


class ForkedWorkshop(Workshop):
    """A workshop whose luigi processes are forked from this one: the same command line, without the start of Python."""

    def run(self, task: str, **options: object) -> Outcome:
        """Run a task to its end."""
        return self.run_with("", task, **options)

    def run_with(self, trouble: str, task: str, **options: object) -> Outcome:
        """Run a task in a process in which `trouble`, some Python, is executed first."""
        arguments = self.command(task, **options)[3:]
        with (self.folder.parent / f"{self.folder.name}.output").open("w+b") as output:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads, which all wait
                child = os.fork()
            if not child:
                try:
                    code = self._become_luigi(arguments, trouble, output.fileno())
                except BaseException:
                    traceback.print_exc()
                    code = 120
                finally:
                    with contextlib.suppress(OSError):
                        sys.stderr.flush()
                    os._exit(code)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            output.seek(0)
            return Outcome(status, output.read().decode("utf-8"))

    def _become_luigi(self, arguments: list[str], trouble: str, output: int) -> int:
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
        if trouble:
            exec(trouble, {"pipeline": pipeline})
        try:
            luigi.cmdline.luigi_run(arguments)
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        return 0
