"""Install, start, stop, kill and restart a small CDCS server on loopback."""

import contextlib
import functools
import hashlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from tests.environments import cache_folder, locked

_HERE = Path(__file__).resolve().parent
_OLDEST_PYTHON = (3, 11)  # of this version of CDCS
_START_LIMIT = 120.0
_STOP_LIMIT = 20.0


class User(NamedTuple):
    """Somebody who may log in to the test server. The password is public on purpose."""

    name: str
    password: str
    superuser: bool = False
    publishes: bool = False


USERS = {
    user.name: user
    for user in (
        User("admin", "admin-test-only", superuser=True),
        User("alice", "alice-test-only", publishes=True),
        User("bob", "bob-test-only", publishes=True),
        User("carol", "carol-test-only"),
    )
}


def _digest(*files: Path) -> str:
    text = b"\0".join([_python_for_the_server().encode(), *(file.read_bytes() for file in files)])
    return hashlib.sha1(text, usedforsecurity=False).hexdigest()[:12]


@functools.cache
def _python_for_the_server() -> str:
    """Return a Python that CDCS runs on: this one, or a newer one of the system when the tests run on an older one."""
    if sys.version_info >= _OLDEST_PYTHON:
        return sys.executable
    for name in ("python3.11", "python3.12", "python3.13", "python3"):
        found = shutil.which(name)
        version = [found or "", "-c", f"import sys; sys.exit(sys.version_info < {_OLDEST_PYTHON})"]
        if found and subprocess.run(version, capture_output=True).returncode == 0:
            return found
    raise RuntimeError("The CDCS server of the tests needs Python 3.11 or newer; install one beside this Python.")


def install() -> Path:
    """Return the Python of the server's own virtual environment; makes the environment when it is not there yet."""
    requirements = _HERE / "requirements.txt"
    venv = cache_folder() / f"server-{_digest(requirements)}"
    python, complete = venv / "bin" / "python", venv / "complete"
    with locked("server"):
        if not complete.exists():
            # What an interrupted installation left is not to be trusted.
            shutil.rmtree(venv, ignore_errors=True)
            _run([_python_for_the_server(), "-m", "venv", str(venv)], _clean_environment())
            pip = [str(python), "-m", "pip", "install", "--quiet", "--no-input", "-r", str(requirements)]
            _run(pip, _clean_environment())
            complete.touch()
    return python


def _clean_environment() -> dict[str, str]:
    """Return the environment without what would lead another Python or Django astray; PIP_* stays as it is."""
    leading_astray = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "DJANGO_SETTINGS_MODULE")
    return {key: value for key, value in os.environ.items() if key not in leading_astray}


def _run(command: list[str], environment: dict[str, str], stdin: str = "") -> None:
    done = subprocess.run(command, env=environment, cwd=_HERE, input=stdin, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


class CDCSServer:
    """One CDCS server on a free port of 127.0.0.1, with its own database, blobs and users.

    Parameters
    ----------
    folder : Path
        Where database, blobs and log go. A server that is started again in the same folder knows what it knew.
    basic, basic_first, token : bool, optional
        Accept HTTP Basic; answer 401 instead of 403 to the unknown; give tokens.
    xml_content : bool, optional
        Compatibility mode: records have ``xml_content`` instead of ``content``.
    extensions : str, optional
        ``any``, ``stock`` or a list such as ``.csv,.h5``.
    anonymous : bool, optional
        Let everybody read public workspaces.
    checksum : str, optional
        Algorithm of the blob checksums that the server tells; none without it.
    database : str, optional
        ``postgresql://...`` of an empty database; SQLite without it.
    public_url : str, optional
        Address that clients use, when a proxy stands in front of the server.
    port : int, optional
        A fixed port instead of a free one.
    workers, threads : int, optional
        Processes of the web server, and threads in each.

    Notes
    -----
    A test writes ``with CDCSServer(tmp_path) as server:`` and asks ``server.base_url`` as one of ``server.users``.
    """

    users = USERS

    def __init__(
        self,
        folder: Path,
        *,
        basic: bool = True,
        basic_first: bool = False,
        token: bool = True,
        xml_content: bool = False,
        extensions: str = "any",
        anonymous: bool = False,
        checksum: str = "",
        database: str = "",
        public_url: str = "",
        port: int = 0,
        workers: int = 2,
        threads: int = 4,
    ) -> None:
        self.folder = Path(folder)
        self.port = port or free_port()
        self.local_url = f"http://127.0.0.1:{self.port}"
        self.base_url = public_url.rstrip("/") or self.local_url
        self._size = (workers, threads)
        self._process: subprocess.Popen[bytes] | None = None
        self._switches = {
            "CDCS_STATE": str(self.folder),
            "CDCS_URL": self.base_url,
            "CDCS_BASIC": "first" if basic_first else str(int(basic)),
            "CDCS_TOKEN": str(int(token)),
            "CDCS_XML_CONTENT": str(int(xml_content)),
            "CDCS_BLOB_EXTENSIONS": extensions,
            "CDCS_ANONYMOUS": str(int(anonymous)),
            "CDCS_CHECKSUM": checksum,
            "CDCS_DATABASE": database,
        }

    def __enter__(self) -> "CDCSServer":
        """Start the server."""
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """End the server; when a test is over, nothing is left to finish."""
        self.kill()

    def start(self) -> None:
        """Install and prepare what is missing, start, and return when the server answers."""
        if self._process is not None:
            return
        python = install()
        self._prepare(python)
        workers, threads = self._size
        command = [str(python), "-W", "ignore", "-m", "gunicorn", "--config", "gunicorn_conf.py"]
        command += ["--bind", f"127.0.0.1:{self.port}", "--workers", str(workers), "--threads", str(threads)]
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [*command, "cdcs_site.wsgi"],
                cwd=_HERE,
                env=self._environment(),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Stop the server as an administrator does: what is being served is finished first."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_LIMIT)
        self.kill()

    def kill(self) -> None:
        """End the server and all its workers as kill -9 or a power cut does."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            # The group is the server's own: it was started as the leader of a new session.
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._wait_until_nobody_listens()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None

    def restart(self) -> None:
        """Stop and start again: same address, same data."""
        self.stop()
        self.start()

    @property
    def running(self) -> bool:
        """Tell whether the server's main process is alive."""
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """Return what the server wrote to its log."""
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""

    def requests(self) -> list[str]:
        """Return what was asked and answered, such as ``POST /rest/blob/ 201``, in the order of the answers."""
        log = self.folder / "access.log"
        return log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []

    def manage(self, module: str, value: object) -> None:
        """Run a module of ``cdcs_site`` as an administrator does on the server itself; it reads a value as JSON."""
        _run([str(install()), "-W", "ignore", "-m", f"cdcs_site.{module}"], self._environment(), json.dumps(value))

    @property
    def _log(self) -> Path:
        return self.folder / "server.log"

    def _environment(self) -> dict[str, str]:
        return {**_clean_environment(), **self._switches, "DJANGO_SETTINGS_MODULE": "cdcs_site.settings"}

    def _prepare(self, python: Path) -> None:
        """Make database and users, unless the folder has them."""
        if (self.folder / "prepared").exists():
            return
        if self._switches["CDCS_DATABASE"]:
            _make_state(python, self.folder, self._environment())
            return
        # Migrations take seconds: they run once, and every later server starts from a copy.
        sources = [*sorted((_HERE / "cdcs_site").glob("*.py")), _HERE / "server.py", _HERE / "requirements.txt"]
        fresh = cache_folder() / f"state-{_digest(*sources)}"
        with locked("server"):
            if not (fresh / "prepared").exists():
                shutil.rmtree(fresh, ignore_errors=True)
                _make_state(python, fresh, {**self._environment(), "CDCS_STATE": str(fresh)})
        shutil.copytree(fresh, self.folder, dirs_exist_ok=True)

    def _wait_until_nobody_listens(self) -> None:
        """The workers are not our children: only their port tells when the last of them is gone."""
        deadline = time.monotonic() + _STOP_LIMIT
        while time.monotonic() < deadline:
            with contextlib.closing(socket.socket()) as probe:
                if probe.connect_ex(("127.0.0.1", self.port)):
                    return
            time.sleep(0.01)
        raise RuntimeError(f"Something still listens on port {self.port} after the server was killed.")

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + _START_LIMIT
        while time.monotonic() < deadline:
            if not self.running:
                raise RuntimeError(f"The CDCS server did not start:\n{self.log()[-4000:]}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
                with contextlib.closing(connection):
                    connection.request("GET", "/rest/health/", headers={"Connection": "close"})
                    if connection.getresponse().status == 200:
                        return
            time.sleep(0.05)
        raise RuntimeError(f"The CDCS server does not answer on port {self.port}:\n{self.log()[-4000:]}")


def _make_state(python: Path, folder: Path, environment: dict[str, str]) -> None:
    (folder / "uploads").mkdir(parents=True, exist_ok=True)
    _run([str(python), "-W", "ignore", "-m", "django", "migrate", "--verbosity", "0"], environment)
    users: list[dict[str, Any]] = [user._asdict() for user in USERS.values()]
    _run([str(python), "-W", "ignore", "-m", "cdcs_site.seed"], environment, json.dumps(users))
    (folder / "prepared").touch()


def free_port() -> int:
    """Return a port below those that the system gives to outgoing connections, so that a restart finds it free."""
    for port in random.SystemRandom().sample(range(20000, 32000), 200):
        with contextlib.closing(socket.socket()) as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("No free port was found on 127.0.0.1.")
