"""Several hosts on one machine, each with a network and a name of its own, that share a scheduler and a folder.

They are namespaces of Linux. Whoever is not root makes them in a user namespace.
"""

import configparser
import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.environments import last_line
from tests.luigid import LUIGID, PATIENCE
from tests.support import ROOT, Outcome, Workshop

_SCHEDULER = "10.0.0.1"
_PORT = 8082
_AS_ROOT = os.geteuid() == 0 if sys.platform != "win32" else False


# A process that keeps a namespace alive for as long as the tests do.
_KEEP = """
import socket, subprocess, sys
socket.sethostname(sys.argv[1])
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
print("ready", flush=True)
sys.stdin.read()
"""


def _configure(file: Path, setting: str, **sooner: dict[str, str]) -> None:
    """Write the configuration of the README that has a setting, with shorter times."""
    blocks = re.findall(
        "^```ini\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    (block,) = (block for block in blocks if setting in block)
    configuration = configparser.ConfigParser()
    configuration.read_string(block)
    configuration.read_dict(sooner)
    with file.open("w") as stream:
        configuration.write(stream)


class Namespace:
    """A network namespace with a host name, which lasts as long as a process in it.

    Parameters
    ----------
    name : str
        The host name.
    parent : Namespace, optional
        The namespace that is on the other end of the cable.
    """

    def __init__(self, name: str, parent: "Namespace | None" = None) -> None:
        command = ["unshare", "--net", "--uts"]
        if parent is None and not _AS_ROOT:
            command += ["--user", "--map-root-user"]
        line = [*(parent.inside if parent else []), *command, sys.executable, "-c", _KEEP, name]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(line, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            reason = last_line(self._process.communicate()[1])
            raise AssertionError(f"No network namespace can be made here; run the tests as root: {reason}")

    @property
    def pid(self) -> int:
        """A process in the namespace."""
        return self._process.pid

    @property
    def inside(self) -> list[str]:
        """What to put before a command, so that it runs in the namespace."""
        user = [] if _AS_ROOT else ["--user", "--preserve-credentials"]
        return ["nsenter", f"--target={self.pid}", *user, "--net", "--uts", "--"]

    def ip(self, command: str) -> None:
        """Run a command of ``ip`` there."""
        subprocess.run([*self.inside, "ip", *command.split()], check=True)

    def close(self) -> None:
        """End the process; the namespace goes with it when nobody else is in it."""
        self._process.communicate()


class Host(Workshop):
    """A computer with a folder, a configuration and a cache of its own."""

    def __init__(self, folder: Path, namespace: Namespace) -> None:
        folder.mkdir()
        super().__init__(folder)
        self.namespace = namespace
        self._run: subprocess.Popen[str] | None = None
        _configure(
            folder / "central.cfg",
            "keep_alive",
            core={"rpc_retry_attempts": "60", "rpc_retry_wait": "1"},
            worker={"ping_interval": "0.5", "wait_interval": "1", "wait_jitter": "0"},
        )
        self.environment["LUIGI_CONFIG_PATH"] = str(folder / "central.cfg")

    def command(self, task: str, **options: object) -> list[str]:
        """Return the command line of a task on this host."""
        return [*self.namespace.inside, *super().command(task, **options)]

    def start(self, task: str, **options: object) -> "subprocess.Popen[str]":
        """Start a task in a process of its own, which writes into the file ``log``: a pipe would soon be full."""
        self._command = self.command(task, **options)
        return self.start_again()

    def start_again(self) -> "subprocess.Popen[str]":
        """Start the same command once more."""
        with (self.folder / "log").open("wb") as log:
            self._run = subprocess.Popen(
                self._command,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
            )
        return self._run

    def ends(self) -> Outcome:
        """Wait for the task, and return how it ended."""
        assert self._run is not None
        code = self._run.wait(PATIENCE)
        return Outcome(code, (self.folder / "log").read_text(encoding="utf-8"))

    @property
    def name(self) -> str:
        """The host name."""
        return self.folder.name

    def unplug(self) -> None:
        """Pull the network cable."""
        self.namespace.ip("link set eth0 down")

    def kill(self) -> None:
        """Let what runs on this host end at once."""
        if self._run is not None:
            self._run.kill()
            self._run.wait()


class Laboratory:
    """Two hosts, and a luigid that both can reach; a context manager.

    Parameters
    ----------
    folder : Path
        Gets the folders of the hosts, and the folder ``drive`` that they share.
    """

    def __init__(self, folder: Path) -> None:
        for program in ("unshare", "nsenter", "ip"):
            assert shutil.which(program), f"{program} is not there; install Debian's util-linux and iproute2."
        self.drive = folder / "drive"
        self.drive.mkdir()
        self._folder = folder

    def __enter__(self) -> "Laboratory":
        with contextlib.ExitStack() as stack:
            self._switch = Namespace("scheduler")
            stack.callback(self._switch.close)
            self.hosts = []
            for number, name in enumerate(("alpha", "beta"), 2):
                namespace = Namespace(name, self._switch)
                stack.callback(namespace.close)
                self._switch.ip(f"link add {name} type veth peer name eth0 netns {namespace.pid}")
                self._switch.ip(f"address add {_SCHEDULER} peer 10.0.0.{number} dev {name}")
                self._switch.ip(f"link set {name} up")
                namespace.ip(f"address add 10.0.0.{number} peer {_SCHEDULER} dev eth0")
                namespace.ip("link set eth0 up")
                self.hosts.append(Host(self._folder / name, namespace))
            stack.enter_context(self._luigid())
            self._stack = stack.pop_all()
        return self

    @contextlib.contextmanager
    def _luigid(self) -> Iterator[None]:
        _configure(
            self._folder / "luigi.cfg",
            "worker_disconnect_delay",
            scheduler={"worker_disconnect_delay": "3", "retry_delay": "1"},
        )
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LUIGI_")}
        with (self._folder / "luigid.log").open("wb") as output:
            command = [*self._switch.inside, *LUIGID, "--address", _SCHEDULER, "--port", str(_PORT)]
            process = subprocess.Popen(command, cwd=self._folder, env=environment, stdout=output, stderr=output)
        try:
            yield
        finally:
            process.kill()
            process.wait()

    def __exit__(self, *exc: object) -> None:
        for host in self.hosts:
            host.kill()
        self._stack.close()
