"""A terminal with a program in it."""

import contextlib
import os
import pty
import select
import subprocess
import sys
from pathlib import Path

from tests.support import Outcome

PATIENCE = 60.0
# Makes the terminal that is its input the one that getpass finds, as a login shell does.
AT_THE_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """A terminal with a program in it, and the fingers and eyes of its user."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self._user, program = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", AT_THE_TERMINAL, *command],
            cwd=folder,
            env=environment,
            stdin=program,
            stdout=program,
            stderr=program,
        )
        os.close(program)
        self.screen = ""
        self._read = 0

    def wait_for(self, text: str) -> None:
        """Wait until a text appears after what was waited for before."""
        while text not in self.screen[self._read :]:
            assert self._see(), f"{text!r} does not appear:\n{self.screen}"
        self._read = self.screen.index(text, self._read) + len(text)

    def _see(self) -> bool:
        ready, _, _ = select.select([self._user], [], [], PATIENCE)
        assert ready, f"nothing happens any more:\n{self.screen}"
        with contextlib.suppress(OSError):  # what Linux says at the end
            data = os.read(self._user, 2**16)
            self.screen += data.decode("utf-8", "replace").replace("\r\n", "\n")
            return bool(data)
        return False

    def type(self, text: str) -> None:
        """Type a line."""
        os.write(self._user, f"{text}\n".encode())

    def end(self) -> Outcome:
        """Wait for the end of the program."""
        while self._see():
            pass
        os.close(self._user)
        return Outcome(self.process.wait(PATIENCE), self.screen)
